"""Nonlinearities: ReLU and its leaky relatives, sigmoid, softmax.

N: samples, C: channels. PReLU: He et al., "Delving Deep into Rectifiers" (2015), Eq. (1).
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.prelu import prelu_backward, prelu_forward
from minidetect.kernels.relu import relu_backward, relu_forward
from minidetect.kernels.softmax import (
    log_softmax_backward,
    log_softmax_forward,
    softmax_backward,
    softmax_forward,
)


class ReLU(Function):
    """max(x, 0); at the kink x = 0 the gradient is 0."""

    def forward(self, x):
        self.y = relu_forward(x)
        return self.y

    def backward(self, gy):
        return (relu_backward(gy, self.y),)


class LeakyReLU(Function):
    """x where positive, slope * x elsewhere, for a fixed slope: the PReLU of a single channel."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, x):
        self.x = x.reshape(1, 1, x.size)
        return prelu_forward(self.x, np.full_like(x, self.slope, shape=1)).reshape(x.shape)

    def backward(self, gy):
        gx, _ = prelu_backward(gy.reshape(self.x.shape), self.x, np.full_like(gy, self.slope, shape=1))
        return (gx.reshape(gy.shape),)


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
        self.y = softmax_forward(x, self.axis)
        return self.y

    def backward(self, gy):
        return (softmax_backward(gy, self.y, self.axis),)


class LogSoftmax(Function):
    """log softmax along `axis`, computed without ever forming a probability that rounds to 0.

    y_i = x_i - log sum_j exp(x_j), so gx_j = gy_j - softmax_j * sum_i gy_i.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x):
        self.y = log_softmax_forward(x, self.axis)
        return self.y

    def backward(self, gy):
        return (log_softmax_backward(gy, self.y, self.axis),)


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
