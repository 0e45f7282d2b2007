"""The two records of the library: what is true of an image, and what was found in it.

Everything else is a bare array. G: ground truths, M: ignore regions, N: detections, P: landmark points.
Boxes are float32 (N, 4) as x1, y1, x2, y2 in pixels of the image, continuous (width = x2 - x1).

Both are NamedTuples, so `len(target)` counts the fields: count boxes with `len(target.boxes)`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.kernels.iou import as_boxes

NO_BOXES = np.zeros((0, 4), np.float32)
NO_BOXES.flags.writeable = False


class Target(NamedTuple):
    """The annotation of one image.

    boxes: (G, 4) float32; labels: (G,) int64 from 1 (0 is background).
    ignore: (M, 4) float32, regions where nothing is learned or counted, neither face nor background.
    landmarks: (G, P, 2) float32 x, y with NaN for a missing point, or None.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray = NO_BOXES
    landmarks: np.ndarray | None = None


class Detections(NamedTuple):
    """What a detector found in one image, by falling score.

    boxes: (N, 4) float32; scores: (N,) float32; labels: (N,) int64 from 1.
    landmarks: (N, P, 2) float32 x, y, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    landmarks: np.ndarray | None = None


def make_target(
    boxes: np.ndarray,
    labels: np.ndarray | None = None,
    ignore: np.ndarray = NO_BOXES,
    landmarks: np.ndarray | None = None,
) -> Target:
    """A Target of the right types. labels: one an object, by default 1 for all (one class of objects).

    Raises ValueError when boxes, labels and landmarks differ in number, or a label is below 1.
    """
    boxes = as_boxes(boxes).astype(np.float32, copy=False)
    count = len(boxes)
    labels = np.ones(count, np.int64) if labels is None else np.asarray(labels).astype(np.int64)
    _check_length(labels, 1, count, "labels")
    if (labels < 1).any():
        raise ValueError(f"labels of objects count from 1 (0 is background), got {labels.min()}")
    ignore = as_boxes(ignore, "ignore").astype(np.float32, copy=False)
    return Target(boxes, labels, ignore, _as_landmarks(landmarks, count))


def make_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    landmarks: np.ndarray | None = None,
) -> Detections:
    """Detections of the right types, sorted by falling score (of equal scores the earlier comes first).

    labels: by default 1 for all. `make_detections([], [])` is an image in which nothing was found.
    Raises ValueError when boxes, scores, labels and landmarks differ in number.
    """
    boxes = as_boxes(boxes).astype(np.float32, copy=False)
    count = len(boxes)
    scores = np.asarray(scores, np.float32)
    _check_length(scores, 1, count, "scores")
    labels = np.ones(count, np.int64) if labels is None else np.asarray(labels).astype(np.int64)
    _check_length(labels, 1, count, "labels")
    landmarks = _as_landmarks(landmarks, count)
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes[order], scores[order], labels[order], None if landmarks is None else landmarks[order]
    )


def _as_landmarks(landmarks: np.ndarray | None, count: int) -> np.ndarray | None:
    if landmarks is None:
        return None
    landmarks = np.asarray(landmarks, np.float32)
    _check_length(landmarks, 3, count, "landmarks")
    if landmarks.shape[2] != 2:
        raise ValueError(f"landmarks must have shape (N, P, 2) as x, y, got {landmarks.shape}")
    return landmarks


def _check_length(array: np.ndarray, ndim: int, count: int, name: str) -> None:
    if array.ndim != ndim or len(array) != count:
        raise ValueError(f"{count} boxes need {count} {name} in {ndim} dimension(s), got shape {array.shape}")
