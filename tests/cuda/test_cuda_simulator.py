"""The simulator's own checks: a barrier that some threads miss is an error, and names the lines."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from minidetect.kernels.gpu import SIMULATED, cuda

if not SIMULATED:
    pytest.skip("about the simulator", allow_module_level=True)

from simulator import BarrierError  # not where there is a GPU


@cuda.jit
def some_miss_it(x):
    t = cuda.threadIdx.x
    if t < 3:
        cuda.syncthreads()  # some
    x[t] = 1


@cuda.jit
def two_barriers(x):
    t = cuda.threadIdx.x
    if t < 3:
        cuda.syncthreads()  # three
    else:
        cuda.syncthreads()  # one
    x[t] = 1


@cuda.jit
def a_round_more(x):
    for _ in range(2 + (cuda.threadIdx.x == 1)):
        cuda.syncthreads()  # each round
    x[cuda.threadIdx.x] = 1


@cuda.jit(device=True)
def meet():
    cuda.syncthreads()  # inside


@cuda.jit
def meet_at_two_lines(x):
    if cuda.threadIdx.x == 2:
        meet()  # alone
    else:
        meet()  # together
    x[cuda.threadIdx.x] = 1


@cuda.jit
def meet_twice(x):
    meet()
    x[cuda.threadIdx.x] = 1
    meet()


@cuda.jit
def out_of_range(x):
    x[cuda.threadIdx.x + 1] = 1
    cuda.syncthreads()


def line_of(comment: str) -> str:
    """ "file:line" of the line above that ends with this comment."""
    lines = inspect.getsource(inspect.getmodule(line_of)).splitlines()
    return f"test_cuda_simulator.py:{1 + next(n for n, line in enumerate(lines) if line.endswith(f'  # {comment}'))}"


@pytest.mark.parametrize(
    "kernel, waiting, ended",
    [
        (some_miss_it, {3: ["some"]}, 1),
        (two_barriers, {3: ["three"], 1: ["one"]}, 0),
        (a_round_more, {1: ["each round"]}, 3),
        (meet_at_two_lines, {1: ["inside", "alone"], 3: ["inside", "together"]}, 0),
    ],
    ids=lambda part: getattr(getattr(part, "fn", None), "__name__", ""),
)
def test_a_barrier_that_not_all_reach(kernel, waiting, ended):
    with pytest.raises(BarrierError) as raised:
        kernel[1, 4](np.zeros(4))
    for count, comments in waiting.items():
        assert f"{count} at {', called at '.join(map(line_of, comments))}" in str(raised.value)
    assert f"{ended} have ended" in str(raised.value)


def test_a_barrier_that_all_reach():
    x = np.zeros(4)
    meet_twice[1, 4](x)
    assert x.tolist() == [1] * 4


def test_a_threads_own_error_is_told_first():
    with pytest.raises(IndexError):
        out_of_range[1, 4](np.zeros(4))
