"""The focal loss: a cross entropy in which what is easy hardly counts.

Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, which Group Sampling, section 6.2, compares itself with.
With p the probability of the right class, a = alpha for an object and 1 - alpha for background,

    weight = a (1 - p) ** gamma,   loss = weight * -log p

Left out: the paper's prior, by which the bias of a classifier begins so that every anchor is background with p = 0.99.
Detectors here begin at one half.

Letters: N samples, two classes: 0 background, 1 object.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.detection.hard_examples import cross_entropy_values

ALPHA, GAMMA = 0.25, 2.0


class FocalLoss(Function):
    """Sum over samples of the focal loss of two logits, over the normaliser."""

    def __init__(self, labels: np.ndarray, alpha: float, gamma: float, normaliser: float) -> None:
        self.labels, self.alpha, self.gamma, self.normaliser = labels, alpha, gamma, normaliser

    def forward(self, logits):
        self.loss = cross_entropy_values(logits, self.labels)  # (N,) -log p
        self.balance = np.where(self.labels == 1, self.alpha, 1 - self.alpha).astype(logits.dtype)
        self.miss = -np.expm1(-self.loss)  # 1 - p
        total = (self.balance * self.miss**self.gamma * self.loss).sum() / self.normaliser
        self.like = logits[:0]  # where the gradient belongs
        return np.asarray(total, logits.dtype, like=logits)

    def backward(self, gy):
        """With z the right class's logit minus the other's, dp/dz = p (1 - p), and

        d(loss)/dz = -a (1 - p) ** gamma * ((1 - p) + gamma p (-log p))

        The other logit gets the opposite.
        """
        right = 1 - self.miss
        slope = -self.balance * self.miss**self.gamma * (self.miss + self.gamma * right * self.loss)
        gx = np.stack([-slope, -slope], axis=1)
        gx[np.arange(len(slope)), self.labels] = slope
        return (np.asarray(gx, like=self.like) * (gy / self.normaliser).astype(gx.dtype),)


def focal_weights(
    logits: np.ndarray, labels: np.ndarray, alpha: float = ALPHA, gamma: float = GAMMA
) -> np.ndarray:
    """By how much each sample counts: logits (N, 2), labels (N,) of 0 and 1 -> a (1 - p) ** gamma, (N,)."""
    labels = np.asarray(labels).astype(np.int64)
    miss = -np.expm1(-cross_entropy_values(logits, labels))
    return np.where(labels == 1, alpha, 1 - alpha).astype(logits.dtype) * miss**gamma


def focal_loss(
    logits: Tensor, labels: np.ndarray, alpha: float = ALPHA, gamma: float = GAMMA, normaliser: float | None = None
) -> Tensor:
    """The focal loss of logits (N, 2) with labels (N,) of 0 and 1, summed over samples. Returns a scalar.

    normaliser: what the sum is divided by. Focal loss as published takes the number of objects. None is Group
    Sampling's "Focal*": the sum of the weights, as a constant (section 6.2: with the number of objects its detectors
    do not converge). No samples are a loss of 0.
    Raises ValueError for other shapes, labels or a normaliser that is not positive.
    """
    labels = np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] != 2 or labels.shape != (len(logits),):
        raise ValueError(f"focal_loss needs logits (N, 2) and labels (N,), got {logits.shape} and {labels.shape}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("focal_loss: labels must be 0 for background and 1 for objects")
    labels = labels.astype(np.int64)
    if normaliser is None:  # NaN stays NaN, so that a diverged network shows in its loss
        normaliser = np.maximum(focal_weights(logits.data, labels, alpha, gamma).sum(), np.finfo(np.float32).tiny)
    elif not normaliser > 0:
        raise ValueError(f"focal_loss: normaliser must be positive, got {normaliser}")
    return FocalLoss(labels, alpha, gamma, float(normaliser))(logits)
