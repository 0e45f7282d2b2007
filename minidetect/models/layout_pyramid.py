"""A detector at several sizes of an image, and what each of its sub-detectors finds alone.

Group Sampling, section 5: at test time an image is looked at in all sizes that the scale jitter of training has, 0.25
to 2 in steps of 0.25, but for those with a side of more than 3,000 pixels; what all looks have found is merged by
suppression at an IoU of 0.5. Here an image also has MOST_PIXELS at most, as everywhere in this library: sizes beyond
that become the largest that it allows.

So a face of 64 pixels can be found by the anchors of 16 pixels in an image a fourth as large. That is why the paper
also says what the anchors of one scale find by themselves, "@16" and so on (section 6.1).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.structures import Detections
from minidetect.kernels.nms import nms
from minidetect.models.anchor_detector import (
    MOST_PIXELS,
    AnchorDetector,
    FaceFinder,
    Prediction,
    finished,
    scaled_back,
    seen_image,
)
from minidetect.models.cascade_pipeline import StageReport
from minidetect.models.layout_detector import LayoutDetector

FACTORS = tuple(0.25 * n for n in range(1, 9))
LONGEST_SIDE = 3000  # pixels of an image as it is looked at


class PyramidLooks(FaceFinder):
    """`model` (fused or not) at all `factors`; finds faces as that does."""

    def __init__(self, model: AnchorDetector, factors: Sequence[float] = FACTORS) -> None:
        check_factors(factors)
        self.model, self.threshold, self.factors = model, model.threshold, tuple(factors)

    def detect_with_report(
        self, image: np.ndarray, min_face: float = FaceFinder.smallest_face, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """As `AnchorDetector.detect_with_report`, with a stage for each size."""
        boxes, scores, reports = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], []
        for factor in usable_factors(self.factors, image.shape[:2]):
            start = time.perf_counter()
            found, probs, num_anchors = self.model.look(image, min_score, factor)
            boxes.append(found)
            scores.append(probs)
            reports.append(StageReport(f"x{factor:.3g}", num_anchors, len(found), time.perf_counter() - start))
        start = time.perf_counter()
        result = merged(self.model, image, np.concatenate(boxes), np.concatenate(scores), min_face)
        seconds = time.perf_counter() - start
        return result, [*reports, StageReport("nms", sum(map(len, boxes)), len(result.boxes), seconds)]


def usable_factors(factors: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Those at which no side of an image of (height, width) is longer than LONGEST_SIDE, or else the smallest.

    Those at which it has too many pixels all become the same one, which is then there once.
    """
    check_factors(factors)
    usable = [factor for factor in factors if factor * max(size) <= LONGEST_SIDE] or [min(factors)]
    largest = (MOST_PIXELS / (size[0] * size[1])) ** 0.5
    return list(dict.fromkeys(min(factor, largest) for factor in usable))


def check_factors(factors: Sequence[float]) -> None:
    if not factors or not min(factors) > 0:
        raise ValueError(f"a pyramid needs factors above 0, got {tuple(factors)}")


def merged(
    model: AnchorDetector, image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, min_face: float
) -> Detections:
    """Boxes (N, 4) of one image from several looks, suppressed together."""
    best = np.argsort(-scores, kind="stable")[: model.most_candidates]
    keep = best[nms(boxes[best], scores[best], model.nms_threshold)[: model.most]]
    return finished(boxes[keep], scores[keep], image.shape[:2], min_face)


def by_scale(
    model: LayoutDetector, image: np.ndarray, factors: Sequence[float] = (1.0,), min_score: float | None = None,
    min_face: float = 0.0,
) -> dict[int | str, Detections]:
    """What the anchors of each scale find by themselves, and "all" of them together. Group Sampling, section 6.1.

    image: (H, W, 3) uint8 RGB. factors: the sizes that it is looked at in. The network runs once for each of them.
    """
    found: dict[int | str, list[tuple[np.ndarray, np.ndarray]]] = {}
    least = model.least_score(min_score)
    for factor in usable_factors(factors, image.shape[:2]):
        seen = seen_image(image, factor)
        with no_grad():
            prediction = model.predict(Tensor(model.planes(seen)[None]))
        groups = model.groups(seen.shape[:2])
        parts: dict[int | str, Prediction] = {"all": prediction}
        parts |= {scale: of_rows(prediction, groups == k) for k, scale in enumerate(model.layout.scales)}
        for name, part in parts.items():
            boxes, scores = model.candidates(part, least)
            boxes = scaled_back(boxes, image.shape[:2], seen.shape[:2])
            found.setdefault(name, []).append((boxes, scores))
    return {
        name: merged(model, image, *(np.concatenate(columns) for columns in zip(*looks, strict=True)), min_face)
        for name, looks in found.items()
    }


def of_rows(prediction: Prediction, rows: np.ndarray) -> Prediction:
    """What is said of some anchors; rows: bool (A,)."""
    logits, deltas = (Tensor(x.data[:, rows]) for x in (prediction.logits, prediction.deltas))
    return Prediction(logits, deltas, prediction.anchors[rows])
