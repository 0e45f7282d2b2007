"""Nonlinearities: ReLU and its leaky relatives, sigmoid, softmax.

N: samples, C: channels. PReLU: He et al., "Delving Deep into Rectifiers" (2015), Eq. (1).
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.prelu import prelu_backward, prelu_forward


class ReLU(Function):
    """max(x, 0); at the kink x = 0 the gradient is 0."""

    def forward(self, x):
        self.y = np.maximum(x, 0)
        return self.y

    def backward(self, gy):
        return (gy * (self.y > 0),)


class LeakyReLU(Function):
    """x where positive, slope * x elsewhere, for a fixed slope."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, x):
        self.factor = np.where(x > 0, 1, self.slope).astype(x.dtype)
        return x * self.factor

    def backward(self, gy):
        return (gy * self.factor,)


class PReLU(Function):
    """LeakyReLU with a learned slope per channel: x (N, C, ...), slope (C,)."""

    def forward(self, x, slope):
        if x.ndim < 2 or slope.shape != (x.shape[1],):
            raise ValueError(f"prelu needs x (N, C, ...) and slope (C,), got {x.shape} and {slope.shape}")
        self.x, self.slope = x, slope
        return prelu_forward(x, slope)

    def backward(self, gy):
        return prelu_backward(gy, self.x, self.slope)


class Sigmoid(Function):
    def forward(self, x):
        with np.errstate(under="ignore"):  # to 0, which is right; exp of a large number would overflow
            e = np.exp(-np.abs(x))
        self.y = np.where(x >= 0, 1, e) / (1 + e)
        return self.y

    def backward(self, gy):
        return (gy * self.y * (1 - self.y),)


class Softmax(Function):
    """exp(x_i) / sum_j exp(x_j) along `axis`.

    dy_i/dx_j = y_i (delta_ij - y_j), so gx_j = y_j (gy_j - sum_i gy_i y_i).
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x):
        e = np.exp(x - x.max(axis=self.axis, keepdims=True))  # shifted so that exp cannot overflow
        self.y = e / e.sum(axis=self.axis, keepdims=True)
        return self.y

    def backward(self, gy):
        return (self.y * (gy - (gy * self.y).sum(axis=self.axis, keepdims=True)),)


class LogSoftmax(Function):
    """log softmax along `axis`, computed without ever forming a probability that rounds to 0.

    y_i = x_i - log sum_j exp(x_j), so gx_j = gy_j - softmax_j * sum_i gy_i.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x):
        shifted = x - x.max(axis=self.axis, keepdims=True)
        self.y = shifted - np.log(np.exp(shifted).sum(axis=self.axis, keepdims=True))
        return self.y

    def backward(self, gy):
        return (gy - np.exp(self.y) * gy.sum(axis=self.axis, keepdims=True),)


def relu(x: Tensor) -> Tensor:
    return ReLU()(x)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    return LeakyReLU(slope)(x)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x (N, C, ...), slope (C,) -> the shape of x."""
    return PReLU()(x, slope)


def sigmoid(x: Tensor) -> Tensor:
    return Sigmoid()(x)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return Softmax(axis)(x)


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    return LogSoftmax(axis)(x)
