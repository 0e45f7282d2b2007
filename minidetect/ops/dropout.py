"""Dropout: in training each value is zeroed with probability p, the rest is scaled up by 1 / (1 - p).

Scaled in training ("inverted" dropout), the expected value is the input itself, so that inference has
nothing to do. Srivastava et al., "Dropout" (2014), scale the weights at test time instead.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor


class Dropout(Function):
    def __init__(self, p: float, rng: np.random.Generator) -> None:
        self.p, self.rng = p, rng

    def forward(self, x):
        keep = self.rng.random(x.shape, dtype=np.float32) >= self.p
        self.scale = np.asarray(keep.astype(x.dtype) / np.asarray(1 - self.p, x.dtype), like=x)
        return x * self.scale

    def backward(self, gy):
        return (gy * self.scale,)  # the values that were zeroed had no influence


def dropout(x: Tensor, p: float, rng: np.random.Generator | None) -> Tensor:
    """x of any shape -> the same shape. rng None means inference: the identity.

    p: the probability of being zeroed, 0 <= p < 1. Raises ValueError outside of that.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout needs a probability p with 0 <= p < 1, got {p}")
    return x if rng is None or p == 0 else Dropout(p, rng)(x)
