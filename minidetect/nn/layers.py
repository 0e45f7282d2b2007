"""Layers: an operation together with its parameters."""

from __future__ import annotations

import math

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.kernels.device import is_on_gpu
from minidetect.nn.init import he_normal, normal
from minidetect.nn.module import Module
from minidetect.ops.activation import leaky_relu, prelu, relu
from minidetect.ops.conv import conv2d
from minidetect.ops.elementwise import mul
from minidetect.ops.linear import linear
from minidetect.ops.shape import reshape


def parameter(data: np.ndarray) -> Tensor:
    return Tensor(data, requires_grad=True)


class Conv2d(Module):
    """x (N, in_channels, H, W) -> (N, out_channels, PH, PW); see ops/conv.py."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, rng: np.random.Generator,
        stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1, bias: bool = True,
    ) -> None:
        self.weight = parameter(he_normal((out_channels, in_channels // groups, kernel, kernel), rng))
        self.bias = parameter(np.zeros(out_channels, np.float32)) if bias else None
        self.settings = (stride, padding, dilation, groups)

    def __call__(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, *self.settings)


class Linear(Module):
    """x (N, inputs) -> (N, outputs).

    std: standard deviation of the initial weights; None for He's rule, which suits a layer before a ReLU.
    """

    def __init__(
        self, inputs: int, outputs: int, rng: np.random.Generator, std: float | None = None, bias: bool = True
    ) -> None:
        shape = (outputs, inputs)
        self.weight = parameter(he_normal(shape, rng) if std is None else normal(shape, rng, std))
        self.bias = parameter(np.zeros(outputs, np.float32)) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class ReLU(Module):
    """max(x, 0)"""

    def __call__(self, x: Tensor) -> Tensor:
        return relu(x)


class LeakyReLU(Module):
    """x where positive, slope * x elsewhere; the slope is fixed."""

    def __init__(self, slope: float = 0.01) -> None:
        self.slope = slope

    def __call__(self, x: Tensor) -> Tensor:
        return leaky_relu(x, self.slope)


class PReLU(Module):
    """A learned slope for negative inputs, 0.25 at the start (He et al. 2015).

    channels: one slope a channel; 1 for a single slope that all channels share.
    """

    def __init__(self, channels: int) -> None:
        self.slope = parameter(np.full(channels, 0.25, np.float32))

    def __call__(self, x: Tensor) -> Tensor:
        slope = self.slope
        if slope.size == 1 and is_on_gpu(x.data):  # all as one channel: no launch more
            return reshape(prelu(reshape(x, (len(x), 1, math.prod(x.shape[1:]))), slope), x.shape)
        if slope.size == 1 and x.shape[1] != 1:  # as a product, so that its gradient is the sum over channels
            slope = mul(slope, np.ones_like(x.data, shape=x.shape[1]))
        return prelu(x, slope)


class Sequential(Module):
    """Layers one after the other."""

    def __init__(self, *layers: Module) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x
