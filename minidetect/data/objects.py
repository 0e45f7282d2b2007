"""What the readers of everybody's formats (VOC, COCO, YOLO) have in common: a record, and the look at its boxes.

Boxes leave every reader in one convention: x1, y1, x2, y2 in pixels, continuous, clipped to the image, with area.
A box that sticks out is clipped; one that then has no area, or is written with its corners swapped, is left out
and told about with file and record, since it would become a NaN in a loss.

Letters: G objects of an image, M ignored ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidetect.data.images import load_image
from minidetect.detection.structures import Target

SMALLEST_SIDE = 0.01  # of a box, in pixels: less is a slip, and does not survive being made smaller


@dataclass(frozen=True)
class ObjectRecord:
    """One image and its objects.

    path: the image's file; size: (height, width), as the annotation says or as the image is.
    boxes: (G, 4) float32; labels: (G,) int64 from 1, `classes[label - 1]` is the name.
    ignored: (G,) bool, VOC's difficult and COCO's crowds: neither learned nor counted.
    areas: (G,) float64, what COCO sorts objects into small, medium and large by: of the outline where there is one,
        else of the box.
    """

    path: Path
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def target(self) -> Target:
        """What a detector should learn from it; what is ignored becomes ignore regions."""
        counted = ~self.ignored
        return Target(self.boxes[counted], self.labels[counted], self.boxes[self.ignored])


@dataclass(frozen=True)
class ObjectDataset:
    """Images with objects of several classes: records in the annotation's order, names of the classes by label - 1."""

    records: list[ObjectRecord]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)


class Collector:
    """Puts one image's objects together, and notes what is wrong with those that it leaves out.

    where: how a message begins, such as the annotation's file. problems: the list that messages are added to.
    """

    def __init__(self, path: Path, size: tuple[int, int], where: str, problems: list[str]) -> None:
        self.path, self.size, self.where, self.problems = path, size, where, problems
        self.rows: list[tuple[np.ndarray, int, bool, float]] = []

    def add(
        self, box: Sequence[float], label: int, ignored: bool = False, area: float | None = None, name: str = "object"
    ) -> None:
        """One object; box: x1, y1, x2, y2 before clipping; name: what to call it in a message."""
        height, width = self.size
        corners = np.array(box, np.float64)
        clipped = np.clip(corners, 0, [width, height, width, height]).astype(np.float32)
        reason = why_unusable(corners, clipped)
        if reason:
            numbers = ", ".join(f"{v:g}" for v in corners)
            self.problems.append(f"{self.where}: {name}: box {numbers} has {reason}")
            return
        x1, y1, x2, y2 = clipped.astype(np.float64)
        self.rows.append((clipped, label, ignored, (x2 - x1) * (y2 - y1) if area is None else area))

    def record(self) -> ObjectRecord:
        boxes = np.array([row[0] for row in self.rows], np.float32).reshape(-1, 4)
        labels, ignored, areas = (
            np.array([row[i] for row in self.rows], dtype)
            for i, dtype in ((1, np.int64), (2, bool), (3, np.float64))
        )
        return ObjectRecord(self.path, self.size, boxes, labels, ignored, areas)


def why_unusable(box: np.ndarray, clipped: np.ndarray) -> str:
    """Why a box cannot be learned from, or ""; clipped: the same box within its image."""
    if not np.isfinite(box).all():
        return "a number that is not finite"
    if box[2] <= box[0] or box[3] <= box[1]:
        return "no area: x2 must be above x1, and y2 above y1"
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < SMALLEST_SIDE:
        return f"no part inside the image that is {SMALLEST_SIDE} pixels wide and high"
    return ""


def whole_size(height: object, width: object, where: str) -> tuple[int, int]:
    """(height, width) of an image as an annotation states it; where: how the message begins.

    Raises ValueError unless both are whole numbers of at least 1.
    """
    size = []
    for name, value in (("height", height), ("width", width)):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (1 <= number < 1e9 and number == int(number)):
            raise ValueError(f"{where}: the image's {name} must be a whole number of pixels, found {value!r}")
        size.append(int(number))
    return size[0], size[1]


def load_record(record: ObjectRecord) -> np.ndarray:
    """The image (H, W, 3) uint8 of a record. Raises ValueError where its size is not what the annotation states."""
    image = load_image(record.path)
    if image.shape[:2] != record.size:
        raise ValueError(f"{record.path}: (height, width) is {image.shape[:2]}, but its annotation says {record.size}")
    return image


def label_of(name: str, classes: Sequence[str], where: str) -> int:
    """The label of a class. Raises ValueError that lists the classes there are."""
    if name not in classes:
        raise ValueError(f"{where}: class {name!r} is none of {', '.join(classes)}")
    return classes.index(name) + 1
