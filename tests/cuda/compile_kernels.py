"""Every CUDA kernel compiled for a GPU that isn't there: the simulator knows no types, the compiler knows nothing else.

    python tests/cuda/compile_kernels.py

The arithmetic is done by nobody: arrays "on the GPU" are NumPy's, and starting a kernel compiles it for the types of
its arguments. So the operations and models of the library are gone through once, and each kernel that they ask for must
have the right types, for float32 and float64. Needs the compiler (NVVM), which comes with "numba-cuda[cu12]". Where
ptxas is found, it tells what each kernel takes: registers, and bytes of memory for registers that did not suffice.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numba import cuda, from_dtype, types

sys.path.insert(0, str(Path(__file__).parents[1]))

COMPUTE = (8, 0)  # A100 and newer


class Pretended(np.ndarray):
    """An array "on the GPU"."""

    def copy_to_device(self, array: np.ndarray) -> None:
        self[...] = array

    def copy_to_host(self, array: np.ndarray) -> None:
        array[...] = self


def type_of(argument: object) -> types.Type:
    """Numba's type of a kernel's argument."""
    if isinstance(argument, np.ndarray):
        return types.Array(from_dtype(argument.dtype), argument.ndim, "C")
    if isinstance(argument, tuple):
        return types.BaseTuple.from_types([type_of(part) for part in argument])
    if isinstance(argument, (bool, np.bool_)):
        return types.boolean
    if isinstance(argument, np.generic):
        return from_dtype(argument.dtype)
    return {int: types.int64, float: types.float64}[type(argument)]


compiled: dict[tuple, str] = {}


def start(kernel: object, grid: tuple) -> object:
    """What kernel[grid] gives: instead of running, compile for these arguments, and keep the PTX."""

    def launch(*arguments: object) -> None:
        signature = tuple(type_of(a) for a in arguments)
        key = kernel, signature
        if key not in compiled:
            compiled[key] = cuda.compile_ptx(kernel.py_func, signature, cc=COMPUTE)[0]

    assert len(grid) == 2 and all(np.all(np.asarray(part) > 0) for part in grid), f"{kernel}[{grid}]"
    return launch


def pretend_a_gpu() -> None:
    import numba.cuda.dispatcher as dispatcher

    from minidetect.kernels import gpu

    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=COMPUTE)
    dispatcher.CUDADispatcher.__getitem__ = start
    cuda.device_array = lambda size, dtype: np.zeros(size, dtype).view(Pretended)
    gpu.require_gpu = lambda: None


def go_through_everything() -> None:
    """Operations, kernels that no operation has, reductions long and short, two models and their optimisers."""
    import test_cuda_ops as ops

    from minidetect.benchmark import cuda_timing
    from minidetect.detection.structures import make_target
    from minidetect.kernels import iou, nms, resize, roi_pool_cuda
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


def resources(ptx: str, ptxas: str) -> tuple[int, int] | None:
    """Registers of a thread, and bytes of registers that did not fit; None if ptxas is too old for this PTX."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [ptxas, "-v", f"-arch=sm_{COMPUTE[0]}{COMPUTE[1]}", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None
    registers = done.stderr.partition("Used ")[2].partition(" registers")[0]
    return int(registers), int(done.stderr.partition(" bytes spill stores")[0].split()[-1])


def report() -> int:
    """A line for each kernel; how many have registers that spill."""
    ours = next((str(path) for path in Path(sys.prefix).rglob("nvidia/cuda_nvcc/bin/ptxas")), None)
    ptxas, known, spilling = ours or shutil.which("ptxas"), 0, 0
    by_name = sorted(compiled.items(), key=lambda item: (item[0][0].__module__, item[0][0].__name__))
    for (kernel, signature), ptx in by_name:
        taken = resources(ptx, ptxas) if ptxas else None
        facts = "" if taken is None else f"{taken[0]:>4} registers, {taken[1]:>3} bytes spilled, "
        known += taken is not None
        spilling += taken is not None and taken[1] > 0
        precision = "float64" if "float64" in str(signature[:1]) else "float32" if "float32" in str(signature) else ""
        name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}"
        print(f"{name:<42} {precision:<8} {facts}{ptx.count('.f64')} instructions in float64")
    print(f"{len(compiled)} kernels compiled, {cuda.implementation} target; registers spill in {spilling} of {known}")
    return spilling


if __name__ == "__main__":
    pretend_a_gpu()
    go_through_everything()
    sys.exit(1 if report() else 0)
