"""The updates of a training step on the GPU: see updates.py. Each number is read, moved and written by one thread."""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import DeviceArray, empty
from minidetect.kernels.gpu import SIMULATED, cuda, grid_for

BLOCK = 4 if SIMULATED else 256  # threads that add up squares together; a power of 2
PART = 16 if SIMULATED else 4096  # numbers of an array that a block adds up


@cuda.jit
def _sgd(p, g, velocity, rate, momentum, weight_decay):
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        v = momentum * velocity[i] + (g[i] + weight_decay * p[i])
        velocity[i] = v
        p[i] -= rate * v


@cuda.jit
def _adam(p, g, first, second, rate, keep1, keep2, fade1, fade2, eps, weight_decay):
    """keep: 1 - beta."""
    for i in range(cuda.grid(1), p.size, cuda.gridsize(1)):
        m = first[i] + keep1 * (g[i] - first[i])
        v = second[i] + keep2 * (g[i] * g[i] - second[i])
        first[i], second[i] = m, v
        p[i] -= rate * (m / fade1 / (math.sqrt(v / fade2) + eps) + weight_decay * p[i])


@cuda.jit
def _averages(running_mean, running_var, mean, var, momentum, unbiased):
    for c in range(cuda.grid(1), running_mean.size, cuda.gridsize(1)):
        running_mean[c] += momentum * (mean[c] - running_mean[c])
        running_var[c] += momentum * (var[c] * unbiased - running_var[c])


@cuda.jit
def _squares(x, slot, partial):
    """partial[slot + block] = the sum of the squares of the block's part of x, in float64."""
    room = cuda.shared.array(BLOCK, np.float64)
    t, first = cuda.threadIdx.x, cuda.blockIdx.x * PART
    total = 0.0
    for i in range(first + t, min(first + PART, x.size), BLOCK):
        total += np.float64(x[i]) * np.float64(x[i])
    room[t] = total
    cuda.syncthreads()
    half = BLOCK // 2
    while half > 0:
        if t < half:
            room[t] += room[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        partial[slot + cuda.blockIdx.x] = room[0]


def sgd_update(
    p: DeviceArray, g: DeviceArray, velocity: DeviceArray, rate: float, momentum: float, weight_decay: float
) -> None:
    if p.size:
        numbers = (p.dtype.type(value) for value in (rate, momentum, weight_decay))
        _sgd[grid_for(p.size)](p.flat, g.flat, velocity.flat, *numbers)


def adam_update(
    p: DeviceArray, g: DeviceArray, first: DeviceArray, second: DeviceArray, rate: float, betas: tuple[float, float],
    fades: tuple[float, float], eps: float, weight_decay: float,
) -> None:
    if p.size:
        numbers = rate, *(1 - beta for beta in betas), *fades, eps, weight_decay
        numbers = (p.dtype.type(value) for value in numbers)
        _adam[grid_for(p.size)](p.flat, g.flat, first.flat, second.flat, *numbers)


def move_averages(
    running_mean: DeviceArray, running_var: DeviceArray, mean: DeviceArray, var: DeviceArray, momentum: float,
    count: int,
) -> None:
    if running_mean.size == 0:
        return
    arrays = (a.flat for a in (running_mean, running_var, mean, var))
    _averages[grid_for(running_mean.size)](*arrays, float(momentum), count / (count - 1))


def add_squares(*arrays: DeviceArray) -> DeviceArray:
    """A launch for each array, one for the sum of all, and nothing copied."""
    blocks = [-(-a.size // PART) for a in arrays]
    partial, slot = empty(sum(blocks), np.float64), 0
    for a, num in zip(arrays, blocks, strict=True):
        if num:
            _squares[num, BLOCK](a.flat, slot, partial.flat)
        slot += num
    return partial.sum()
