"""A single-shot detector that looks at several scales and at the mirror image: slower, and better with small faces.

The tests of EXTD's published code (its paper does not describe them), after S3FD's:

    the image as it is       everything
    its mirror image         everything
    at half size             boxes of more than 30 pixels
    at twice the size, ...   boxes of less than 100 pixels; doubled again while MOST_PIXELS allows it, and once at the
                             largest size that it allows (no more than MOST_LOOKS in all, which is not in their code)
    between half and whole   boxes of more than 30 pixels, of an image that is too large to be enlarged

What all looks have found is merged by box voting (detection/voting.py).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from minidetect.detection.boxes import flip_horizontal
from minidetect.detection.structures import Detections
from minidetect.detection.voting import vote
from minidetect.kernels.nms import nms
from minidetect.models.anchor_detector import MOST_PIXELS, AnchorDetector, FaceFinder, finished
from minidetect.models.cascade_pipeline import StageReport

SMALLEST_OF_HALF, LARGEST_OF_DOUBLE = 30.0, 100.0  # pixels of the image
MOST_LOOKS = 6  # of a tiny image: each doubling costs four times as much


class Look(NamedTuple):
    """One look at an image: how much larger, mirrored or not, and the sizes of boxes that are kept."""

    factor: float
    mirrored: bool = False
    smallest: float = 0.0
    largest: float = np.inf


def looks(size: tuple[int, int]) -> list[Look]:
    """How an image of (height, width) is looked at."""
    limit = (MOST_PIXELS / (size[0] * size[1])) ** 0.5  # the largest factor that is allowed
    whole, half = min(1.0, limit), 0.5 if limit >= 0.75 else 0.5 * limit
    chosen = [Look(whole), Look(whole, mirrored=True), Look(half, smallest=SMALLEST_OF_HALF)]
    if limit <= 1:
        return [*chosen, Look((half + limit) / 2, smallest=SMALLEST_OF_HALF)]
    factor = min(2.0, limit)
    while factor < limit and len(chosen) < MOST_LOOKS - 1:
        chosen.append(Look(factor, largest=LARGEST_OF_DOUBLE))
        factor *= 2
    return [*chosen, Look(min(factor, limit), largest=LARGEST_OF_DOUBLE)]


class ManyLooks(FaceFinder):
    """`model` (fused or not) at all scales; finds faces as that does."""

    def __init__(self, model: AnchorDetector) -> None:
        self.model, self.threshold = model, model.threshold

    def detect_with_report(
        self, image: np.ndarray, min_face: float = FaceFinder.smallest_face, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """As `AnchorDetector.detect_with_report`, with a stage for each look."""
        boxes, scores, reports = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], []
        for look in looks(image.shape[:2]):
            start = time.perf_counter()
            found, probs, num_anchors = self.found_in(image, look, min_score)
            boxes.append(found)
            scores.append(probs)
            name = f"x{look.factor:.2g}{' mirrored' if look.mirrored else ''}"
            reports.append(StageReport(name, num_anchors, len(found), time.perf_counter() - start))
        start = time.perf_counter()
        merged, best = vote(np.concatenate(boxes), np.concatenate(scores), self.model.nms_threshold)
        result = finished(merged[: self.model.most], best[: self.model.most], image.shape[:2], min_face)
        seconds = time.perf_counter() - start
        return result, [*reports, StageReport("voting", sum(map(len, boxes)), len(result.boxes), seconds)]

    def found_in(self, image: np.ndarray, look: Look, min_score: float | None) -> tuple[np.ndarray, np.ndarray, int]:
        """What one look finds, suppressed: boxes (N, 4) in the image's pixels, scores (N,), the number of anchors."""
        seen = np.ascontiguousarray(image[:, ::-1]) if look.mirrored else image
        boxes, scores, num_anchors = self.model.look(seen, min_score, look.factor)
        keep = nms(boxes, scores, self.model.nms_threshold)[: self.model.most]
        boxes, scores = boxes[keep], scores[keep]
        if look.mirrored:
            boxes = flip_horizontal(boxes, image.shape[1])
        sides = boxes[:, 2:] - boxes[:, :2]
        fits = (sides.max(axis=1, initial=0) > look.smallest) & (sides.min(axis=1, initial=np.inf) < look.largest)
        return boxes[fits], scores[fits], num_anchors
