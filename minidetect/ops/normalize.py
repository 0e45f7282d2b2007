"""Batch normalisation: Ioffe and Szegedy, "Batch Normalization" (2015), Algorithms 1 and 2.

    N samples, C channels; M = N*H*W values share the statistics of a channel (x may be (N, C) too)

Two operations instead of one with a switch: `batch_norm` normalises by the batch at hand and also gives its
statistics, `batch_norm_fixed` by statistics that are constants. nn/normalize.py keeps the running averages;
the loops are in kernels/normalize.py.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels import normalize as kernels


class BatchNormFixed(Function):
    """y = gamma * xhat + beta with xhat = (x - mean) / sqrt(var + eps), both statistics constant."""

    def __init__(self, mean: np.ndarray, var: np.ndarray, eps: float) -> None:
        self.mean, self.var, self.eps = mean, var, eps

    def forward(self, x, gamma, beta):
        check_batch_norm(x, gamma, beta, self.mean, self.var)
        self.x, self.gamma = x, gamma
        return kernels.batch_norm_fixed(x, gamma, beta, self.mean, self.var, self.eps)

    def backward(self, gy):
        """gx = gamma / std * gy; beta's gradient is the sum of gy, gamma's that of gy * xhat."""
        return kernels.batch_norm_backward(gy, self.x, self.gamma, self.mean, self.var, self.eps, fixed=True)


class BatchNorm(BatchNormFixed):
    """The same, by the mean and variance of this batch, which are left in `mean` and `var`."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x, gamma, beta):
        check_batch_norm(x, gamma, beta)
        check_count(x)
        self.x, self.gamma = x, gamma
        if x.size == 0:  # no sample passed an earlier stage, say: there is nothing to normalise
            self.mean, self.var = np.zeros(x.shape[1]), np.ones(x.shape[1])
            return np.empty_like(x)
        y, self.mean, self.var = kernels.batch_norm_forward(x, gamma, beta, self.eps)
        return y

    def backward(self, gy):
        """Every x of a channel moves its mean and variance, and through them every y of the channel:

        gx = gamma / std * (gy - mean(gy) - xhat * mean(gy * xhat)).
        """
        return kernels.batch_norm_backward(gy, self.x, self.gamma, self.mean, self.var, self.eps, fixed=False)


def check_batch_norm(x: np.ndarray, *vectors: np.ndarray) -> None:
    """vectors: gamma, beta and, where they are given, mean and var, each one number a channel."""
    if x.ndim < 2 or any(v.shape != (x.shape[1],) for v in vectors):
        shapes = ", ".join(str(v.shape) for v in vectors)
        raise ValueError(
            f"batch norm needs x (N, C, ...) and gamma, beta (mean, var) of (C,) each, got {x.shape}; {shapes}"
        )


def check_count(x: np.ndarray) -> None:
    if x.size and x.size == x.shape[1]:
        raise ValueError(f"batch norm in training needs more than one value a channel, got x {x.shape}")


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """x (N, C, ...), gamma (C,), beta (C,) -> y like x, and the batch's mean and biased variance (C,).

    The gradient takes into account that the statistics depend on x. An empty batch gives an empty y.
    Raises ValueError for shapes that do not fit and for a single value a channel (its variance is 0).
    """
    function = BatchNorm(eps)
    y = function(x, gamma, beta)
    return y, function.mean, function.var


def batch_norm_fixed(
    x: Tensor, gamma: Tensor, beta: Tensor, mean: np.ndarray, var: np.ndarray, eps: float = 1e-5
) -> Tensor:
    """x (N, C, ...), gamma, beta, mean, var (C,) -> y like x, with mean and var as constants."""
    mean, var = np.copy(mean), np.copy(var)  # copies: running averages may have moved on before the backward
    return BatchNormFixed(mean, var, eps)(x, gamma, beta)
