"""What a training step does to parameters and running averages, in place.

The formulas of nn/optim.py and nn/normalize.py, where the letters are explained. On the processor they are NumPy's
arithmetic as it stands. On the GPU (updates_cuda.py) each is one launch instead of one for each operator: a step of
EXTD has 135 parameters and 116 batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.kernels.device import where_it_lives


@where_it_lives
def sgd_update(
    p: np.ndarray, g: np.ndarray, velocity: np.ndarray, rate: float, momentum: float, weight_decay: float
) -> None:
    """v <- momentum * v + (g + weight_decay * p), p <- p - rate * v; all of one shape."""
    velocity *= momentum
    velocity += g + weight_decay * p if weight_decay else g
    p -= rate * velocity


@where_it_lives
def adam_update(
    p: np.ndarray, g: np.ndarray, first: np.ndarray, second: np.ndarray, rate: float, betas: tuple[float, float],
    fades: tuple[float, float], eps: float, weight_decay: float,
) -> None:
    """Adam's two moments and the step; fades: 1 - beta**t of both."""
    first += (1 - betas[0]) * (g - first)
    second += (1 - betas[1]) * (g * g - second)
    move = first / fades[0] / (np.sqrt(second / fades[1]) + eps)
    if weight_decay:
        move += weight_decay * p
    p -= rate * move


@where_it_lives
def move_averages(
    running_mean: np.ndarray, running_var: np.ndarray, mean: np.ndarray, var: np.ndarray, momentum: float, count: int
) -> None:
    """running <- (1 - momentum) * running + momentum * of this batch, (C,) each.

    count: values a channel of the batch, of which `var` is the biased variance; the running one is unbiased.
    """
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (var * (count / (count - 1)) - running_var)


def sum_of_squares(arrays: Sequence[np.ndarray]) -> float:
    """Of all numbers of all arrays, added up in float64 array by array; they live in one place."""
    return float(add_squares(*arrays)) if len(arrays) else 0.0


@where_it_lives
def add_squares(*arrays: np.ndarray) -> float:
    return sum(float(np.vdot(a, a)) for a in arrays)
