"""Batch normalisation: Ioffe and Szegedy, "Batch Normalization" (2015), Algorithms 1 and 2.

    N samples, C channels; M = N*H*W values share the statistics of a channel (x may be (N, C) too)

Two operations instead of one with a switch: `batch_norm` normalises by the batch at hand and also gives its
statistics, `batch_norm_fixed` by statistics that are constants. nn/normalize.py keeps the running averages.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor


class BatchNormFixed(Function):
    """y = gamma * xhat + beta with xhat = (x - mean) / sqrt(var + eps), both statistics constant."""

    def __init__(self, mean: np.ndarray, var: np.ndarray, eps: float) -> None:
        self.mean, self.var, self.eps = mean, var, eps

    def forward(self, x, gamma, beta):
        check_batch_norm(x, gamma, beta, self.mean, self.var)
        self.axes = (0, *range(2, x.ndim))  # all but the channel
        self.inv_std = per_channel(1 / np.sqrt(self.var + self.eps), x)
        self.xhat = (x - per_channel(self.mean, x)) * self.inv_std
        self.gamma = per_channel(gamma, x)
        return self.gamma * self.xhat + per_channel(beta, x)

    def backward(self, gy):
        return self.gamma * self.inv_std * gy, (gy * self.xhat).sum(axis=self.axes), gy.sum(axis=self.axes)


class BatchNorm(BatchNormFixed):
    """The same, by the mean and variance of this batch, which are left in `mean` and `var`."""

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x, gamma, beta):
        self.mean, self.var = batch_statistics(x)
        return super().forward(x, gamma, beta)

    def backward(self, gy):
        """Every x of a channel moves its mean and variance, and through them every y of the channel:

        gx = gamma / std * (gy - mean(gy) - xhat * mean(gy * xhat)).
        """
        gx, ggamma, gbeta = super().backward(gy)
        count = max(gy.size // max(gy.shape[1], 1), 1)
        shared = (per_channel(gbeta, gy) + self.xhat * per_channel(ggamma, gy)) / np.asarray(count, gy.dtype)
        return gx - self.gamma * self.inv_std * shared, ggamma, gbeta


def check_batch_norm(x: np.ndarray, *vectors: np.ndarray) -> None:
    """vectors: gamma, beta, mean, var, each one number a channel."""
    if x.ndim < 2 or any(v.shape != (x.shape[1],) for v in vectors):
        shapes = ", ".join(str(v.shape) for v in vectors)
        raise ValueError(
            f"batch norm needs x (N, C, ...) and gamma, beta, mean and var (C,) each, got {x.shape}; {shapes}"
        )


def per_channel(v: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(C,) -> (1, C, 1, ...), which broadcasts against x, in x's dtype."""
    return v.astype(x.dtype, copy=False).reshape(1, -1, *(1,) * (x.ndim - 2))


def batch_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (biased) variance of each channel, summed in float64; 0 and 1 for an empty batch."""
    if x.ndim < 2:
        raise ValueError(f"batch norm needs x (N, C, ...), got shape {x.shape}")
    count = x.size // max(x.shape[1], 1)
    if count == 0:  # no sample passed an earlier stage, say: there is nothing to normalise
        return np.zeros(x.shape[1]), np.ones(x.shape[1])
    if count == 1:
        raise ValueError(f"batch norm in training needs more than one value a channel, got x {x.shape}")
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, dtype=np.float64)
    centred = x - mean.reshape(1, -1, *(1,) * (x.ndim - 2))
    return mean, (centred * centred).mean(axis=axes)


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
    return BatchNormFixed(np.asarray(mean), np.asarray(var), eps)(x, gamma, beta)
