"""Batch normalisation as a layer: the operation of ops/normalize.py with its running averages."""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.kernels.updates import move_averages
from minidetect.nn.layers import parameter
from minidetect.nn.module import Module
from minidetect.ops.normalize import batch_norm, batch_norm_fixed


class BatchNorm2d(Module):
    """x (N, C, H, W) -> the same shape, each channel normalised, then scaled and shifted.

    While `training` is set: by the statistics of the batch, which also move the running averages,
        running = (1 - momentum) * running + momentum * of this batch
    (the variance with the unbiased divisor M - 1; an empty batch moves nothing). Otherwise by the running
    averages, so that a result does not depend on what else is in its batch.
    """

    moving_buffers = ("running_mean", "running_var")

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        self.weight = parameter(np.ones(channels, np.float32))
        self.bias = parameter(np.zeros(channels, np.float32))
        self.running_mean = np.zeros(channels, np.float32)
        self.running_var = np.ones(channels, np.float32)
        self.eps, self.momentum = eps, momentum

    def __call__(self, x: Tensor) -> Tensor:
        if not self.training:
            return batch_norm_fixed(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        y, mean, var = batch_norm(x, self.weight, self.bias, self.eps)
        if x.size:
            move_averages(self.running_mean, self.running_var, mean, var, self.momentum, x.size // x.shape[1])
        return y
