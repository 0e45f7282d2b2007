"""Operations that move elements without changing them: reshape, transpose, slice, concat, take_rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidetect.autograd.tensor import Function, Tensor


class Reshape(Function):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x):
        self.old = x.shape
        return x.reshape(self.shape)

    def backward(self, gy):
        return (gy.reshape(self.old),)


class Transpose(Function):
    def __init__(self, axes: tuple[int, ...] | None) -> None:
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, gy):
        # The inverse of a permutation is its argsort.
        return (gy.transpose(None if self.axes is None else tuple(np.argsort(self.axes))),)


class GetItem(Function):
    """x[index] for any NumPy index; an element picked twice gets both gradients."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x):
        self.shape = x.shape
        return np.asarray(x[self.index], like=x)

    def backward(self, gy):
        gx = np.zeros_like(gy, shape=self.shape)
        np.add.at(gx, self.index, gy)
        return (gx,)


class Concat(Function):
    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *xs):
        self.splits = np.cumsum([x.shape[self.axis] for x in xs])[:-1]
        return np.concatenate(xs, axis=self.axis)

    def backward(self, gy):
        return tuple(np.split(gy, self.splits, axis=self.axis))


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return Reshape(shape)(x)


def flatten(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C*H*W)"""
    return Reshape((x.shape[0], int(np.prod(x.shape[1:]))))(x)


def transpose(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    return Transpose(axes)(x)


def getitem(x: Tensor, index: Any) -> Tensor:
    return GetItem(index)(x)


def concat(xs: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Join along `axis`; all other lengths must agree. Raises ValueError that shows the shapes."""
    shapes = [x.shape for x in xs]
    if not shapes:
        raise ValueError("concat needs at least one tensor")
    others = {s[: axis % len(s)] + s[axis % len(s) + 1 :] for s in shapes}
    if len(others) != 1:
        raise ValueError(f"concat along axis {axis}: shapes {shapes} differ on another axis")
    return Concat(axis)(*xs)
