"""How many instructions and sectors of memory kernels take, counted without a GPU.

    python tests/cuda/count_work.py [FAMILY ...]

The benchmark's cases at full size (minidetect/benchmark/cuda_cases.py), of each launch some blocks, compiled and
interpreted. For each byte that must be moved (`bytes` of the case), or for each multiply-add of the convolutions:

    instructions    of threads, a warp's counted 32 times, as PTX has them. An H100 executes about 9 of its own (SASS;
                    one of 64-bit integers is two or more) in the time in which it moves a byte: 132 multiprocessors of
                    128 lanes at 1.8 GHz, 3.35 TB/s. With many more, memory waits for the threads.
    asked           bytes that threads read and write; more than 1 is the cache's work
    sectors         bytes of the sectors that warps touch, for each byte asked for: 1 where threads read side by side

A convolution that takes 1.5 instructions for a multiply-add can at best do two thirds of the GPU's arithmetic. And
`waves` of shared memory for each that it would take without two words in one bank; `active`: the share of a warp's
threads that took part.
"""

from __future__ import annotations

import sys

from pretended import counting, has_compiler, pretend_a_gpu
from ptx_counts import Counts

from minidetect.benchmark.cuda_cases import GpuCase
from minidetect.benchmark.cuda_suite import gpu_cases
from minidetect.kernels import gpu
from minidetect.kernels.device import to_device

UNITS = {"memory": "byte", "arithmetic": "multiply-add"}  # what a kernel should be held up by -> what is counted for


def main(families: list[str]) -> None:
    for case in gpu_cases():
        if case.bound in UNITS and case.family.startswith(tuple(families) or ""):
            print(line(case), flush=True)


def count(case: GpuCase) -> tuple[Counts, float]:
    """What the launches of a case take, and how much of its unit the case is."""
    arrays = [to_device(array) for array in case.arrays()]
    with counting() as counts:
        case.call(*arrays)
    gpu.release_memory()
    return counts, case.bytes if UNITS[case.bound] == "byte" else case.flops / 2


def line(case: GpuCase) -> str:
    counts, work = count(case)
    threads = 32 * counts.instructions
    return (
        f"{case.family:<25} {case.name:<28} {counts.launches} launches; a {UNITS[case.bound]}: {threads / work:5.2f} "
        f"instructions, {counts.asked / work:5.2f} asked, {counts.sectors * 32 / counts.asked:4.2f} sectors; "
        f"waves {counts.waves / max(counts.fewest_waves, 1):4.2f}, active {counts.active / threads:4.2f}"
    )


if __name__ == "__main__":
    if not has_compiler():
        sys.exit('this takes the compiler, without a GPU: pip install "numba-cuda[cu12]"')
    pretend_a_gpu(run=True)
    main(sys.argv[1:])
