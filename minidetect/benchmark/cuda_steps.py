"""Whole training steps, on the GPU and on this machine's processor: the same network, the same batch.

    EXTD-32      photos of 640 x 640, random boxes, Adam: minidetect/train/single_shot.py without its photos
    FaceCraft    the joint net on 128 patches, SGD: as benchmarks/joint_step.py

A step is everything from a batch in the machine's memory to new weights: it is copied over, and what the network says
of each anchor comes back for the processor to choose hard examples. These copies are counted. The clock is Python's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from minidetect.autograd import Tensor
from minidetect.benchmark.timing import WrongResultError, quartiles
from minidetect.detection.structures import make_target
from minidetect.kernels.device import count_copies
from minidetect.kernels.gpu import SIMULATED, cuda
from minidetect.models.extd import EXTD
from minidetect.models.facecraft import JointCascade
from minidetect.models.single_shot_loss import single_shot_losses
from minidetect.nn.optim import SGD, Adam, clip_gradients

Step = Callable[[], dict[str, float]]  # the losses, and the gradients' norm

RATE, MAX_NORM = 1e-5, 1000.0
# Losses of the first step and of the second, which sees new weights: it moves EXTD's by a hundredth. EXTD's gradients
# pass six batch norms on the way back, and magnify: weights that differ by a millionth have norms that differ by 1 %.
TOLERANCES, NORM, NORM_TOLERANCE = (0.001, 0.003), "norm of the gradients", 0.1


@dataclass(frozen=True)
class StepCase:
    """build: given "cpu" or "cuda", a step there, from the same weights. wanted: of the ratio, at least."""

    name: str
    build: Callable[[str], Step]
    wanted: float | None = None


def step_cases() -> list[StepCase]:
    if SIMULATED:
        small = {"width": 2, "stem": 2, "blocks": ((1, 2),), "sides": (16,), "structure": "ssd"}
        return [StepCase("EXTD, tiny", partial(extd_step, 2, 16, small), 20)]
    return [
        StepCase("EXTD-32 640x640, batch 1", partial(extd_step, 1, 640, {"width": 32}), 20),
        StepCase("EXTD-32 640x640, batch 4", partial(extd_step, 4, 640, {"width": 32}), 20),
        StepCase("FaceCraft joint, batch 128", partial(facecraft_step, 128, ())),
    ]


def extd_step(images: int, side: int, settings: Mapping, device: str) -> Step:
    rng = np.random.default_rng(0)
    model = EXTD(rng, **settings)
    model.train(True)
    model.to(device)
    x = rng.uniform(-100, 100, (images, 3, side, side)).astype(np.float32)
    targets = []
    for _ in range(images):
        sides = rng.uniform(0.05, 0.5, (8, 1)) * side
        corners = rng.uniform(0, 1, (8, 2)) * (side - sides)
        targets.append(make_target(np.concatenate([corners, corners + sides], axis=1)))
    optimiser = Adam(model, RATE)

    def losses() -> dict[str, Tensor]:
        return single_shot_losses(model, Tensor(x), targets, least=8)

    return partial(one_step, losses, optimiser, model.parameters())


def facecraft_step(patches: int, arguments: Sequence, device: str) -> Step:
    """Dropout is off. Weights are random, so every patch passes every gate: the step with the most work."""
    rng = np.random.default_rng(0)
    model = JointCascade(rng, *arguments)
    model.to(device)
    pixels = rng.integers(0, 256, (patches, 48, 48, 3), np.uint8)
    labels = (np.arange(patches) % 5 == 0).astype(np.int64)
    deltas = [rng.standard_normal((patches, 4), np.float32) for _ in range(3)]
    optimiser = SGD(model, RATE)

    def losses() -> dict[str, Tensor]:
        return model.losses(model.normalise(pixels), labels, deltas, None)

    return partial(one_step, losses, optimiser, model.parameters())


def one_step(
    losses: Callable[[], dict[str, Tensor]], optimiser: SGD | Adam, parameters: list[Tensor]
) -> dict[str, float]:
    optimiser.zero_grad()
    terms = losses()
    sum(terms.values(), start=Tensor(np.float32(0))).backward()
    norm = clip_gradients(parameters, MAX_NORM)
    optimiser.step()
    return {name: float(term.item()) for name, term in terms.items()} | {NORM: norm}


def run_step(case: StepCase, budget: float = 1.0) -> dict:
    """Verify the first two steps, then time. Raises WrongResultError that names the step.

    budget: seconds for each of the two; the processor makes at least two steps, the GPU three.
    """
    on_processor, on_gpu = case.build("cpu"), case.build("cuda")
    start = time.perf_counter()
    first = on_gpu()
    first_call = time.perf_counter() - start
    check_figures(case.name, on_processor(), first, TOLERANCES[0])
    with count_copies() as copies:
        second = on_gpu()
    check_figures(case.name, on_processor(), second, TOLERANCES[1])
    theirs, ours = seconds_of(on_processor, budget, 2), seconds_of(on_gpu, budget, 3)
    return {
        "name": case.name, "cpu": float(np.median(theirs)), "cpu_spread": quartiles(theirs),
        "seconds": float(np.median(ours)), "spread": quartiles(ours), "steps": [len(theirs), len(ours)],
        "ratio": float(np.median(theirs) / np.median(ours)), "wanted": case.wanted, "first_call": first_call,
        "copies": vars(copies), "figures": first,
    }  # fmt: skip


def check_figures(name: str, right: Mapping[str, float], ours: Mapping[str, float], tolerance: float) -> None:
    for what, value in right.items():
        if not abs(ours[what] - value) <= (NORM_TOLERANCE if what == NORM else tolerance) * abs(value):
            raise WrongResultError(f"{name}: {what} is {ours[what]:.6g} on the GPU, {value:.6g} on the processor")


def seconds_of(step: Step, budget: float, least: int) -> np.ndarray:
    """Of each step. In the simulator, where a step takes half a minute and says nothing, a second without a look."""
    seconds = [1.0] if SIMULATED else []
    while not SIMULATED and (len(seconds) < least or sum(seconds) < budget and len(seconds) < 50):
        cuda.synchronize()
        start = time.perf_counter()
        step()
        cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)
