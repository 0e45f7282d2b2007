"""How many instructions kernels take, counted where they are interpreted: no GPU's memory should wait for its threads.

A shape of the benchmark for each kernel that memory should hold up, and some convolutions. What a count means, and why
9 instructions a byte are too many: count_work.py. Who makes a kernel slower by this measure should have a reason.
"""

from __future__ import annotations

import pretended
import pytest
from count_work import count

from minidetect.benchmark.cuda_suite import gpu_cases

if pretended.room is None:
    pytest.skip("counted only where kernels are interpreted", allow_module_level=True)

CASES = {(case.family, case.name): case for case in gpu_cases()}
MAP = "8x128x80x80"
OVER_MAPS = ["add", "relu forward", "relu backward", "prelu forward", "prelu backward", "batch norm train",
             "batch norm inference", "batch norm backward", "sums of channels", "sum of all"]  # fmt: skip
DEPTHWISE = ["EXTD 64>64 3x3 1x160x160", "EXTD 64>64 3x3 s2 1x160x160"]
BY_MEMORY = [
    *((family, MAP) for family in OVER_MAPS),
    *((f"depthwise {what}", name) for what in ("forward", "input gradient", "weight gradient") for name in DEPTHWISE),
    *((f"max pool {what}", "3x3 1x64x160x160") for what in ("values", "winners", "backward")),
    *((f"avg pool {way}", "2x2 8x64x160x160") for way in ("forward", "backward")),
    *((f"resize {way}", "8x32x80x80 > 160x160") for way in ("forward", "backward")),
    *((f"softmax {way}", rows) for way in ("forward", "backward") for rows in ("34125x2", "2000x21")),
]
CONVOLUTIONS = {  # instructions for a multiply-add, a little more than were counted
    ("conv forward", "EXTD 32>64 1x1 1x80x80"): 2.5,
    ("conv forward", "FPN 64>64 3x3 1x80x80"): 2,
    ("conv input gradient", "EXTD 32>64 1x1 1x80x80"): 2.7,
    ("conv input gradient", "FaceCraft x12 16>16 5x5 128x5x5"): 4,
    ("conv weight gradient", "EXTD 32>64 1x1 1x80x80"): 3.5,
    ("conv weight gradient", "FPN 64>64 3x3 1x80x80"): 2.5,
}


@pytest.mark.parametrize("kernel", BY_MEMORY, ids=" ".join)
def test_instructions_for_a_byte(kernel):
    counts, work = count(CASES[kernel])
    assert 1 < 32 * counts.instructions / work < 8
    assert counts.waves < 1.1 * max(counts.fewest_waves, 1)  # no two words of a bank


@pytest.mark.parametrize("kernel", CONVOLUTIONS, ids=" ".join)
def test_instructions_for_a_multiply_add(kernel):
    counts, work = count(CASES[kernel])
    assert 1 < 32 * counts.instructions / work < CONVOLUTIONS[kernel]
    assert counts.waves < 1.1 * counts.fewest_waves
