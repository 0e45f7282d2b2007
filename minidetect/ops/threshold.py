"""Which samples of a batch go on to the next branch of a cascade, and the gather that takes them along.

N: samples of a batch, R: rows (samples) that go on.

FaceCraft, section 4.1: between two branches of the joint cascade stands a threshold control layer that lets
only the samples pass whose score in the earlier branch is high enough. Its alternative fixes their number.
Both are choices of rows, made on values: a step has no useful derivative, so no gradient reaches the scores.
Gradients of the later branch go back through `take_rows` to the features of the rows that passed, and the
others get exactly zero. The later branch's loss sees R samples, and is divided by R and not by N.
"""

from __future__ import annotations

import numpy as np

from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.device import to_numpy


class TakeRows(Function):
    """y = x[rows]; rows that were not taken get exactly zero gradient, repeated ones the sum."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def forward(self, x):
        check_rows(self.rows, x.shape)
        self.shape = x.shape
        return x[self.rows]

    def backward(self, gy):
        gx = np.zeros_like(gy, shape=self.shape)
        if np.all(np.diff(self.rows) > 0):
            gx[self.rows] = gy
        else:
            np.add.at(gx, self.rows, gy)  # gx[rows] += gy would keep only the last of repeated rows
        return (gx,)


def check_rows(rows: np.ndarray, x_shape: tuple[int, ...]) -> None:
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"rows must be whole numbers (R,), got {rows.dtype} of shape {rows.shape}")
    if not x_shape or (rows.size and not (rows.min() >= 0 and rows.max() < x_shape[0])):
        raise ValueError(f"rows must lie in 0..N-1 of x {x_shape}, got {rows.min()} to {rows.max()}")


def take_rows(x: Tensor, rows: np.ndarray) -> Tensor:
    """x (N, ...), rows int64 (R,) -> (R, ...).

    Raises ValueError for a mask of booleans and for a row that x does not have.
    """
    rows = np.asarray(rows)
    return TakeRows(rows.astype(np.int64) if rows.size == 0 else rows)(x)


def threshold_control(scores: np.ndarray | Tensor, threshold: float) -> np.ndarray:
    """FaceCraft, section 4.1 (threshold control): the rows whose score exceeds the threshold.

    scores: (N,) probabilities of being a face. Returns int64 (R,), ascending; R may be 0.
    """
    return np.flatnonzero(score_values(scores) > threshold)


def top_k_control(scores: np.ndarray | Tensor, k: int) -> np.ndarray:
    """FaceCraft, section 4.1 (a fixed number of proposals): the rows of the k highest scores.

    scores: (N,); of equal ones the earlier row goes first; all rows where N <= k.
    Returns int64 (min(k, N),), ascending, so that samples keep their order in the batch.
    """
    if k < 0:
        raise ValueError(f"k must be at least 0, got {k}")
    return np.sort(np.argsort(-score_values(scores), kind="stable")[:k])


def score_values(scores: np.ndarray | Tensor) -> np.ndarray:
    values = to_numpy(scores.data if isinstance(scores, Tensor) else scores)  # a choice is the processor's
    if values.ndim != 1:
        raise ValueError(f"scores must be (N,), one a sample, got shape {values.shape}")
    return values
