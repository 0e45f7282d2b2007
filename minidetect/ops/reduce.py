"""Sum, mean and maximum over axes."""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor

Axis = int | tuple[int, ...] | None


def restore_axes(g: np.ndarray, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> np.ndarray:
    """Put the reduced axes back with length 1, so that `g` broadcasts against the input's shape."""
    if keepdims:
        return g
    axes = range(len(shape)) if axis is None else np.atleast_1d(axis)
    reduced = {int(a) % len(shape) for a in axes}
    return g.reshape([1 if i in reduced else n for i, n in enumerate(shape)])


class Reduction(Function):
    """Settings shared by the reductions: the axes (None: all) and whether they stay with length 1."""

    def __init__(self, axis: Axis, keepdims: bool) -> None:
        self.axis = axis
        self.keepdims = keepdims


class Sum(Reduction):
    def forward(self, x):
        self.shape = x.shape
        return np.asarray(x.sum(axis=self.axis, keepdims=self.keepdims), like=x)

    def backward(self, gy):
        return (np.broadcast_to(restore_axes(gy, self.shape, self.axis, self.keepdims), self.shape),)


class Mean(Sum):
    def forward(self, x):
        y = super().forward(x)
        if x.size == 0 and y.size > 0:
            raise ValueError(f"mean over no elements: shape {x.shape}, axis {self.axis}")
        self.count = x.size // (y.size or 1)
        return y / np.asarray(self.count, x.dtype)

    def backward(self, gy):
        return super().backward(gy / np.asarray(self.count, gy.dtype))


class Max(Reduction):
    """The largest value; where several tie, they share the gradient evenly."""

    def forward(self, x):
        y = x.max(axis=self.axis, keepdims=True)
        winners = x == y
        self.share = winners / winners.sum(axis=self.axis, keepdims=True).astype(x.dtype)
        return np.asarray(y if self.keepdims else x.max(axis=self.axis), like=x)

    def backward(self, gy):
        return (restore_axes(gy, self.share.shape, self.axis, self.keepdims) * self.share,)


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Sum(axis, keepdims)(x)


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Mean(axis, keepdims)(x)


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return Max(axis, keepdims)(x)
