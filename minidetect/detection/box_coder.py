"""A ground truth seen from a proposal, as four numbers a network can predict, and back.

N: pairs of a proposal and its ground truth. A delta is a row tx, ty, tw, th: how far the centre moves, in
sizes of the proposal, and the logarithm of how much the sides grow. All three R-CNN papers, FaceCraft,
EXTD and Group Sampling (Eq. (13)) use this code; they differ in how the deltas are scaled:

- R-CNN, Faster R-CNN's text: unscaled, `BoxCoder()`.
- FaceCraft and Fast R-CNN: zero mean and unit variance over the training positives, `BoxCoder.fit`.
- the SSD family, EXTD's published code among it: divided by 0.1, 0.1, 0.2, 0.2, `BoxCoder(std=SSD_STD)`.
  That code calls the four numbers "variances" but divides by them, so they are standard deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from minidetect.kernels.iou import as_boxes

SSD_STD = (0.1, 0.1, 0.2, 0.2)
# A side grows at most by 1000 / 16 at once: an untrained network's large tw must not overflow exp.
LOG_SCALE_LIMIT = math.log(1000 / 16)


@dataclass(frozen=True)
class BoxCoder:
    """Turns boxes into deltas and back, `delta = (raw delta - mean) / std`.

    mean, std: four numbers each, for tx, ty, tw, th. They belong to the trained model: keep them with its
    weights, since its outputs mean nothing without them.
    """

    mean: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    std: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(v) for v in np.ravel(getattr(self, name)))
            if len(values) != 4 or not np.isfinite(values).all():
                raise ValueError(f"BoxCoder: {name} must be four finite numbers, got {values}")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"BoxCoder: std must be positive, got {self.std}")

    @classmethod
    def fit(cls, proposals: np.ndarray, gt: np.ndarray) -> BoxCoder:
        """The coder that gives these pairs deltas of mean 0 and standard deviation 1.

        FaceCraft, section 4.1, and Fast R-CNN, section 2.3, normalise their targets so. proposals, gt:
        (N, 4), the training positives and the ground truth of each. A coordinate that never varies keeps
        std 1. Raises ValueError for N = 0.
        """
        raw = cls().encode(proposals, gt).astype(np.float64)
        if len(raw) == 0:
            raise ValueError("BoxCoder.fit: no positives to take a mean of, proposals have shape (0, 4)")
        std = raw.std(axis=0)
        return cls(mean=tuple(raw.mean(axis=0)), std=tuple(np.where(std > 1e-6, std, 1.0)))

    def encode(self, proposals: np.ndarray, gt: np.ndarray) -> np.ndarray:
        """FaceCraft, Eq. (2)-(5): the deltas that lead from each proposal to its ground truth.

            tx = (x* - xp) / wp    ty = (y* - yp) / hp    tw = log(w* / wp)    th = log(h* / hp)

        with x, y the centre and w, h the sides of a box. proposals, gt: (N, 4), row by row a pair.
        Returns (N, 4). Raises ValueError for unequal lengths or a box without width or height.
        """
        (centre, size), (gt_centre, gt_size) = _pairs(proposals, gt)
        raw = np.concatenate([(gt_centre - centre) / size, np.log(gt_size / size)], axis=1)
        return (raw - np.array(self.mean, raw.dtype)) / np.array(self.std, raw.dtype)

    def decode(self, proposals: np.ndarray, deltas: np.ndarray) -> np.ndarray:
        """The boxes that the deltas point to: the inverse of `encode`.

        proposals, deltas: (N, 4). Returns (N, 4), not clipped to any image. The sides' exponents are
        limited to log(1000 / 16), as in the published R-CNN codes.
        """
        proposals, deltas = as_boxes(proposals, "proposals"), as_boxes(deltas, "deltas")
        if len(proposals) != len(deltas):
            raise ValueError(f"decode works row by row: {len(proposals)} proposals, {len(deltas)} deltas")
        centre, size = _centre_and_size(proposals)
        raw = deltas * np.array(self.std, deltas.dtype) + np.array(self.mean, deltas.dtype)
        new_centre = centre + raw[:, :2] * size
        half = size * np.exp(np.minimum(raw[:, 2:], LOG_SCALE_LIMIT)) / 2
        return np.concatenate([new_centre - half, new_centre + half], axis=1)


@dataclass(frozen=True)
class CornerCoder(BoxCoder):
    """How far each corner moves, in sides of the proposal: the code of MTCNN's published weights.

        tx1 = (x1* - x1p) / wp    ty1 = (y1* - y1p) / hp    tx2 = (x2* - x2p) / wp    ty2 = (y2* - y2p) / hp
    """

    def encode(self, proposals: np.ndarray, gt: np.ndarray) -> np.ndarray:
        """The deltas (N, 4) that lead from each proposal (N, 4) to its ground truth (N, 4); errors as BoxCoder's."""
        (_, size), _ = _pairs(proposals, gt)
        raw = (as_boxes(gt) - as_boxes(proposals)) / np.tile(size, 2)
        return (raw - np.array(self.mean, raw.dtype)) / np.array(self.std, raw.dtype)

    def decode(self, proposals: np.ndarray, deltas: np.ndarray) -> np.ndarray:
        """The boxes (N, 4) that the deltas (N, 4) point to; nothing keeps a box from being turned inside out."""
        proposals, deltas = as_boxes(proposals, "proposals"), as_boxes(deltas, "deltas")
        if len(proposals) != len(deltas):
            raise ValueError(f"decode works row by row: {len(proposals)} proposals, {len(deltas)} deltas")
        raw = deltas * np.array(self.std, deltas.dtype) + np.array(self.mean, deltas.dtype)
        return proposals + raw * np.tile(_centre_and_size(proposals)[1], 2)


def _pairs(proposals: np.ndarray, gt: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Centres and sides of both; ValueError for unequal numbers, or a box without width or height."""
    both = {"proposals": as_boxes(proposals, "proposals"), "gt": as_boxes(gt, "gt")}
    if len(both["proposals"]) != len(both["gt"]):
        raise ValueError(f"encode pairs boxes row by row: {len(both['proposals'])} proposals, {len(both['gt'])} gt")
    for name, boxes in both.items():
        bad = ~(_centre_and_size(boxes)[1] > 0).all(axis=1)
        if bad.any():
            raise ValueError(f"encode: {name}[{int(np.argmax(bad))}] has no width or no height, or a NaN")
    return [_centre_and_size(boxes) for boxes in both.values()]


def _centre_and_size(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) -> centres (N, 2) and widths, heights (N, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
