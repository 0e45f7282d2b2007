"""Cases for the GPU: the layers between the convolutions, forward and backward. What a case is: cuda_cases.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidetect.benchmark.cuda_cases import MEMORY, Arrays, GpuCase, Shapes, normal
from minidetect.benchmark.layers import Size, size_name
from minidetect.kernels.normalize import batch_norm_backward, batch_norm_fixed, batch_norm_forward, channel_sums
from minidetect.kernels.pool import (
    avg_pool_backward,
    avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
    max_pool_values,
    pooled_size,
)
from minidetect.kernels.prelu import prelu_backward, prelu_forward
from minidetect.kernels.relu import relu_backward, relu_forward
from minidetect.kernels.resize import resize_maps, resize_maps_grad
from minidetect.kernels.softmax import softmax_backward, softmax_forward

EPS = 1e-5


def gradient(torch: Any, function: Callable[..., Any], gy: Any, *inputs: Any) -> Callable[[], Any]:
    """For what PyTorch has no plain backward operator: its graph, built once and walked back at every call."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    return lambda: torch.autograd.grad(y, leaves, gy, retain_graph=True)


# ----------------------------------------------------------------------------- maps: add, ReLU, PReLU, norms, sums


def map_cases(shapes: Shapes) -> Iterator[GpuCase]:
    for size in shapes.maps:
        yield from element_cases(size)
        yield from norm_cases(size)
        yield from sum_cases(size)


def element_cases(size: Size) -> Iterator[GpuCase]:
    name, one = size_name(size), 4.0 * math.prod(size)

    def two() -> Arrays:
        return normal(*size), normal(*size, seed=1)

    def three() -> Arrays:
        return *two(), normal(size[1], seed=2)

    def case(family: str, moved: int, *more: Any, **settings: Any) -> GpuCase:
        return GpuCase(family, name, MEMORY, *more, bytes=moved * one, **settings)

    yield case("add", 3, two, lambda a, b: a + b, lambda torch, a, b: lambda: torch.add(a, b))
    yield case("relu forward", 2, lambda: two()[:1], relu_forward, lambda torch, x: lambda: torch.relu(x))
    yield case(
        "relu backward", 3, two, relu_backward,
        lambda torch, gy, y: lambda: torch.ops.aten.threshold_backward(gy, y, 0),
    )  # fmt: skip
    yield case(
        "prelu forward", 2, lambda: (normal(*size), normal(size[1], seed=2)), prelu_forward,
        lambda torch, x, slope: lambda: torch.prelu(x, slope),
    )  # fmt: skip
    yield case(
        "prelu backward", 3, three, prelu_backward,
        lambda torch, gy, x, slope: gradient(torch, torch.prelu, gy, x, slope), tolerance=1e-3,
    )  # fmt: skip


def norm_cases(size: Size) -> Iterator[GpuCase]:
    """train: statistics of the batch; inference: constants; backward: of the first."""
    name, one, axes = size_name(size), 4.0 * math.prod(size), (0, 2, 3)

    def train() -> Arrays:
        return tuple(normal(*s, seed=k) for k, s in enumerate((size, size[1:2], size[1:2])))

    def inference() -> Arrays:
        return *train(), normal(size[1], seed=3), np.abs(normal(size[1], seed=4)) + np.float32(0.5)

    def backward() -> Arrays:
        x, gamma, _ = train()
        return normal(*size, seed=5), x, gamma, x.mean(axes, np.float64), x.var(axes, np.float64)

    def batch_norm(torch: Any, x: Any, gamma: Any, beta: Any, *fixed: Any) -> Any:
        mean, var = fixed or (None, None)
        return torch.nn.functional.batch_norm(x, mean, var, gamma, beta, not fixed, 0.0, EPS)

    def their_gradient(torch: Any, gy: Any, x: Any, gamma: Any, *_: Any) -> Callable[[], Any]:
        return gradient(torch, lambda *a: batch_norm(torch, *a), gy, x, gamma, torch.zeros_like(gamma))

    yield GpuCase(
        "batch norm train", name, MEMORY, train, lambda *a: batch_norm_forward(*a, EPS)[0],
        lambda torch, *a: lambda: batch_norm(torch, *a), bytes=3 * one,
    )  # fmt: skip
    yield GpuCase(
        "batch norm inference", name, MEMORY, inference, lambda *a: batch_norm_fixed(*a, EPS),
        lambda torch, *a: lambda: batch_norm(torch, *a), bytes=2 * one,
    )  # fmt: skip
    yield GpuCase(
        "batch norm backward", name, MEMORY, backward, lambda *a: batch_norm_backward(*a, EPS, False),
        their_gradient, bytes=5 * one, tolerance=1e-3,
    )  # fmt: skip


def sum_cases(size: Size) -> Iterator[GpuCase]:
    """Of numbers from 0 to 1, so that a sum is as large as what it adds up."""
    name, one = size_name(size), 4.0 * math.prod(size)

    def arrays() -> Arrays:
        return (np.abs(normal(*size)),)

    yield GpuCase(
        "sums of channels", name, MEMORY, arrays, channel_sums, lambda torch, x: lambda: x.sum((0, 2, 3)), bytes=one
    )
    yield GpuCase("sum of all", name, MEMORY, arrays, lambda x: x.sum(), lambda torch, x: lambda: x.sum(), bytes=one)


# ----------------------------------------------------------------------------------------- pooling, resizing


def pool_cases(shapes: Shapes) -> Iterator[GpuCase]:
    for size, kernel, ceil in shapes.pools:
        yield from max_pool_cases(size, kernel, ceil)
    for size, kernel in shapes.averages:
        yield from avg_pool_cases(size, kernel)


def max_pool_cases(size: Size, kernel: int, ceil: bool) -> Iterator[GpuCase]:
    """values: for inference; winners: with their indices, for training; backward: from those."""
    settings, name = (kernel, 2, 0, ceil), f"{kernel}x{kernel} {size_name(size)}"
    out = (*size[:2], *(pooled_size(n, *settings) for n in size[2:]))
    read, written = 4.0 * math.prod(size), 4.0 * math.prod(out)
    theirs = [kernel] * 2, [2, 2], [0, 0], [1, 1], ceil

    def backward() -> Arrays:
        x = normal(*size)
        return normal(*out, seed=1), max_pool_forward(x, *settings)[1]

    def their_gradient(torch: Any, gy: Any, winners: Any) -> Callable[[], Any]:
        x, winners = torch.empty(size, device=gy.device), winners.long()
        return lambda: torch.ops.aten.max_pool2d_with_indices_backward(gy, x, *theirs, winners)

    yield GpuCase(
        "max pool values", name, MEMORY, lambda: (normal(*size),), lambda x: max_pool_values(x, *settings),
        lambda torch, x: lambda: torch.max_pool2d(x, kernel, 2, 0, 1, ceil), bytes=read + written, tolerance=0,
    )  # fmt: skip
    yield GpuCase(
        "max pool winners", name, MEMORY, lambda: (normal(*size),), lambda x: max_pool_forward(x, *settings),
        lambda torch, x: lambda: torch.ops.aten.max_pool2d_with_indices(x, *theirs), bytes=read + 2 * written,
        tolerance=0,
    )  # fmt: skip
    yield GpuCase(
        "max pool backward", name, MEMORY, backward,
        lambda gy, winners: max_pool_backward(gy, winners, size, *settings[:3]), their_gradient,
        bytes=read + 2 * written,
    )  # fmt: skip


def avg_pool_cases(size: Size, kernel: int) -> Iterator[GpuCase]:
    """Windows side by side."""
    name, out = f"{kernel}x{kernel} {size_name(size)}", (*size[:2], size[2] // kernel, size[3] // kernel)
    moved, settings = 4.0 * (math.prod(size) + math.prod(out)), (kernel, kernel, 0)

    def their_gradient(torch: Any, gy: Any) -> Callable[[], Any]:
        x, theirs = torch.empty(size, device=gy.device), ([kernel] * 2, [kernel] * 2, [0, 0], False, True, None)
        return lambda: torch.ops.aten.avg_pool2d_backward(gy, x, *theirs)

    yield GpuCase(
        "avg pool forward", name, MEMORY, lambda: (normal(*size),), lambda x: avg_pool_forward(x, *settings, False),
        lambda torch, x: lambda: torch.nn.functional.avg_pool2d(x, kernel), bytes=moved,
    )  # fmt: skip
    yield GpuCase(
        "avg pool backward", name, MEMORY, lambda: (normal(*out),), lambda gy: avg_pool_backward(gy, size, *settings),
        their_gradient, bytes=moved,
    )  # fmt: skip


def resize_cases(shapes: Shapes) -> Iterator[GpuCase]:
    """Bilinear."""
    for size, out in shapes.resizes:
        name, moved = f"{size_name(size)} > {size_name(out)}", 4.0 * (math.prod(size) + math.prod((*size[:2], *out)))

        def their_gradient(torch: Any, gy: Any, size: Size = size, out: Any = out) -> Callable[[], Any]:
            return lambda: torch.ops.aten.upsample_bilinear2d_backward(gy, list(out), list(size), False, None, None)

        yield GpuCase(
            "resize forward", name, MEMORY, lambda size=size: (normal(*size),), lambda x, out=out: resize_maps(x, out),
            lambda torch, x, out=out: lambda: torch.nn.functional.interpolate(x, out, mode="bilinear"), bytes=moved,
        )  # fmt: skip
        yield GpuCase(
            "resize backward", name, MEMORY, lambda size=size, out=out: (normal(*size[:2], *out),),
            lambda gy, size=size: resize_maps_grad(gy, size[2:]), their_gradient, bytes=moved,
        )  # fmt: skip


def softmax_cases(shapes: Shapes) -> Iterator[GpuCase]:
    for size in shapes.rows:
        name, one = size_name(size), 4.0 * math.prod(size)

        def backward(size: Size = size) -> Arrays:
            x = normal(*size)
            e = np.exp(x - x.max(axis=1, keepdims=True))
            return normal(*size, seed=1), e / e.sum(axis=1, keepdims=True)

        yield GpuCase(
            "softmax forward", name, MEMORY, lambda size=size: (normal(*size),), lambda x: softmax_forward(x, 1),
            lambda torch, x: lambda: torch.softmax(x, 1), bytes=2 * one,
        )  # fmt: skip
        yield GpuCase(
            "softmax backward", name, MEMORY, backward, lambda gy, y: softmax_backward(gy, y, 1),
            lambda torch, gy, y: lambda: torch.ops.aten._softmax_backward_data(gy, y, 1, torch.float32),
            bytes=3 * one,
        )  # fmt: skip
