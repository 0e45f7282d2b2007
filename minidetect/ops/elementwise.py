"""Arithmetic element by element, with broadcasting.

NumPy stretches axes of length 1 (and adds missing ones in front) so that shapes agree. Each element of a
stretched input is used several times, so its gradient is the sum over the copies: `unbroadcast`.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.device import is_on_gpu

Operand = Tensor | np.ndarray | float | int


def unbroadcast(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum `g` over the axes along which an input of `shape` was stretched."""
    if g.shape == shape:
        return g
    if g.ndim > len(shape):
        g = g.sum(axis=tuple(range(g.ndim - len(shape))))  # axes that broadcasting put in front
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True) if stretched else g


def pair(a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Both operands as tensors of one dtype: a plain number takes the dtype of its partner."""
    if not isinstance(a, Tensor):
        a = constant(a, b.dtype if isinstance(b, Tensor) else None)
    return a, b if isinstance(b, Tensor) else constant(b, a.dtype)


def constant(value: np.ndarray | float | int, dtype: np.dtype | None) -> Tensor:
    if is_on_gpu(value):
        return Tensor(value if dtype is None else value.astype(dtype, copy=False))
    return Tensor(np.asarray(value, dtype))


class Binary(Function):
    """An operation of two broadcastable inputs; subclasses say how it is computed, and its derivative by each."""

    def compute(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def by_first(self, gy: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """gy * dy/da, before un-broadcasting."""
        raise NotImplementedError

    def by_second(self, gy: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """gy * dy/db, before un-broadcasting."""
        raise NotImplementedError

    def forward(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        try:
            np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            raise ValueError(
                f"{self.name.lower()}: shapes {a.shape} and {b.shape} do not broadcast: "
                "counted from the right, each pair of lengths must be equal or hold a 1"
            ) from None
        self.a, self.b = a, b
        return self.compute(a, b)

    def backward(self, gy: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        a, b = self.a, self.b
        ga = unbroadcast(self.by_first(gy, a, b), a.shape) if self.needs[0] else None
        return ga, unbroadcast(self.by_second(gy, a, b), b.shape) if self.needs[1] else None


class Add(Binary):
    def compute(self, a, b):
        return a + b

    def by_first(self, gy, a, b):
        return gy

    def by_second(self, gy, a, b):
        return gy


class Sub(Binary):
    def compute(self, a, b):
        return a - b

    def by_first(self, gy, a, b):
        return gy

    def by_second(self, gy, a, b):
        return -gy


class Mul(Binary):
    def compute(self, a, b):
        return a * b

    def by_first(self, gy, a, b):
        return gy * b

    def by_second(self, gy, a, b):
        return gy * a


class Div(Binary):
    def compute(self, a, b):
        return a / b

    def by_first(self, gy, a, b):
        return gy / b

    def by_second(self, gy, a, b):
        return -gy * a / (b * b)


class Neg(Function):
    def forward(self, x):
        return -x

    def backward(self, gy):
        return (-gy,)


class Power(Function):
    """x ** exponent, for a constant exponent."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def forward(self, x):
        self.x = x
        return x**self.exponent

    def backward(self, gy):
        return (gy * self.exponent * self.x ** (self.exponent - 1),)


class Exp(Function):
    def forward(self, x):
        self.y = np.exp(x)
        return self.y

    def backward(self, gy):
        return (gy * self.y,)


class Log(Function):
    def forward(self, x):
        self.x = x
        return np.log(x)

    def backward(self, gy):
        return (gy / self.x,)


def add(a: Operand, b: Operand) -> Tensor:
    return Add()(*pair(a, b))


def sub(a: Operand, b: Operand) -> Tensor:
    return Sub()(*pair(a, b))


def mul(a: Operand, b: Operand) -> Tensor:
    return Mul()(*pair(a, b))


def div(a: Operand, b: Operand) -> Tensor:
    return Div()(*pair(a, b))


def neg(x: Tensor) -> Tensor:
    return Neg()(x)


def power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent; the exponent is a number, not a tensor."""
    return Power(exponent)(x)


def exp(x: Tensor) -> Tensor:
    return Exp()(x)


def log(x: Tensor) -> Tensor:
    return Log()(x)
