"""Every CUDA kernel compiled for a GPU that isn't there: the simulator knows no types, the compiler knows nothing else.

    python tests/cuda/compile_kernels.py

The arithmetic is done by nobody (pretended.py): the operations and models of the library are gone through once, and
each kernel that they ask for must have the right types, for float32 and float64; a kernel that nobody asks for is an
error. Without the compiler, which comes with "numba-cuda[cu12]", the exit code is 77. Where ptxas is found, it tells
what each kernel takes: registers, bytes of memory for those that did not suffice (spilled), and for arrays of a
thread's own (stack).
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numba import cuda
from pretended import COMPUTE, compiled, has_compiler, kernel_name, pretend_a_gpu

sys.path.insert(0, str(Path(__file__).parents[1]))

NO_COMPILER = 77
ROOT = Path(__file__).parents[2] / "minidetect"


def go_through_everything() -> None:
    """Operations, kernels that no operation has, reductions long and short, two models and their optimisers."""
    import test_cuda_ops as ops

    from minidetect.benchmark import cuda_timing
    from minidetect.detection.structures import make_target
    from minidetect.kernels import iou, nms, normalize, pool, resize, roi_pool_cuda, softmax
    from minidetect.kernels.conv import conv2d_forward
    from minidetect.kernels.device import to_device
    from minidetect.models.extd import EXTD
    from minidetect.models.facecraft import JointCascade
    from minidetect.models.single_shot_loss import single_shot_losses
    from minidetect.nn.optim import SGD, Adam, clip_gradients

    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        for case in ops.ON_GPU:
            ops.forward_and_gradients(case, case.draw(rng, dtype), None, to_device)
        boxes = to_device(rng.random((70, 4)).astype(dtype))
        for overlap in (iou.iou_matrix, iou.intersection_over_first, iou.best_overlaps):
            overlap(boxes, boxes)
        for mode in nms.MODES:
            nms.nms(boxes, rng.random(70), 0.5, mode)
        x, w, slope = (to_device(rng.random(shape).astype(dtype)) for shape in ((1, 40, 9, 8), (40, 40, 3, 3), (40,)))
        pool.max_pool_values(x, 2, 2, 0, False)
        softmax.softmax_forward(to_device(rng.random((2, 200)).astype(dtype)), 1)  # a block a row
        resize.resize_maps_grad(to_device(rng.random((1, 1, 30, 30)).astype(dtype)), (3, 3))  # many taps
        many, two = to_device(np.zeros((1, 2, 5000), dtype)), to_device(np.ones(2, dtype))  # several blocks a channel
        normalize.channel_sums(many)
        _, mean, var = normalize.batch_norm_forward(many, two, two, 1e-5)
        normalize.batch_norm_backward(many, many, two, mean, var, 1e-5, False)
        for filters in (5, 20, 40):
            conv2d_forward(x, w[:filters], None, 1, 1, 1, 1, slope=slope[:filters])
        gy, rois = to_device(rng.random((3, 40, 2, 2)).astype(dtype)), to_device(np.zeros((3, 5)))
        roi_pool_cuda.roi_pool_backward_atomic(gy, gy.astype(np.int32), rois, x.shape)
        long = to_device(rng.random((2, 20_000)).astype(dtype))
        for kind in ("sum", "max", "min", "prod"):
            getattr(long, kind)(axis=1)
    for image in (rng.random((9, 8, 3), np.float32), rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)):
        resize.resize_image(to_device(image), (5, 20))
    room, other = (cuda_timing.full(64, 1, np.float32) for _ in range(2))
    cuda_timing.idle[1, 1](1000, room.flat)
    cuda_timing.copy_numbers[1, 64](room.flat, other.flat)
    cuda_timing.multiply_add[4, 16](2, np.float32(0.999), np.float32(0.001), room.flat)
    joint, extd = JointCascade(rng, gates=(0.0, 0.0)).to("cuda"), EXTD(rng, width=32).to("cuda")
    extd.train(True)
    labels, deltas = np.array([1, 0]), [np.ones((2, 4), np.float32)] * 3
    patches, images = (rng.random((2, 3, side, side), np.float32) for side in (48, 64))
    targets = [make_target([[8, 8, 40, 40]])] * 2
    steps = [
        (joint, joint.losses(ops.Tensor(to_device(patches)), labels, deltas, rng), SGD(joint, 0.1)),
        (extd, single_shot_losses(extd, ops.Tensor(to_device(images)), targets), Adam(extd, 0.1)),
    ]
    for model, losses, optimiser in steps:
        sum(losses.values(), start=ops.Tensor(np.float32(0))).backward()
        clip_gradients(model.parameters(), 1.0)
        optimiser.step()


def kernels_in(folder: Path) -> set[tuple[str, str]]:
    """(module, name) of every kernel that is written down below a folder; device functions are no kernels."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and "cuda.jit" in map(ast.unparse, node.decorator_list):
                found.add((path.stem, node.name))
    return found


def resources(ptx: str, ptxas: str) -> tuple[int, int, int] | None:
    """Registers of a thread, bytes spilled, bytes of stack; None if ptxas is too old for this PTX."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", f"-arch=sm_{COMPUTE[0]}{COMPUTE[1]}", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None
    before = (done.stderr.partition(text)[0].split()[-1] for text in (" registers", " bytes spill st", " bytes stack"))
    return tuple(map(int, before))


def report() -> bool:
    """A line for each kernel; whether every kernel was compiled, and none spills."""
    ours = next((str(path) for path in Path(sys.prefix).rglob("nvidia/cuda_nvcc/bin/ptxas")), None)
    ptxas, all_taken = ours or shutil.which("ptxas"), []
    by_name = sorted(compiled.items(), key=lambda item: kernel_name(item[0][0]))
    for (kernel, signature), ptx in by_name:
        taken = resources(ptx, ptxas) if ptxas else None
        all_taken += [] if taken is None else [taken]
        facts = "" if taken is None else "{:>4} registers, {:>3} bytes spilled, {:>4} of stack, ".format(*taken)
        precision = "float64" if "float64" in str(signature[:1]) else "float32" if "float32" in str(signature) else ""
        print(f"{'.'.join(kernel_name(kernel)):<42} {precision:<8} {facts}{ptx.count('.f64')} instructions in float64")
    missing = kernels_in(ROOT) - {kernel_name(kernel) for kernel, _ in compiled}
    spilling, stacked = sum(taken[1] > 0 for taken in all_taken), sum(taken[2] > 0 for taken in all_taken)
    print(
        f"{len(compiled)} kernels compiled, {cuda.implementation} target; of {len(all_taken)} that ptxas looked at, "
        f"registers spill in {spilling}, and {stacked} have a stack"
    )
    print("".join(f"never compiled: {'.'.join(name)}\n" for name in sorted(missing)), end="")
    return not missing and not spilling


if __name__ == "__main__":
    if not has_compiler():
        sys.exit(NO_COMPILER)
    pretend_a_gpu(run=False)
    go_through_everything()
    sys.exit(0 if report() else 1)
