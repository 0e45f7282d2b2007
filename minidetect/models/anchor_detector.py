"""What all detectors by anchors share: from a network's word about every anchor to boxes in an image.

    image -> planes -> predict -> logits, deltas of every anchor -> boxes by falling score -> suppression
                       (a model)                                    (`look`)                  (`detect`)

single_shot.py has the family of S3FD and EXTD, layout_detector.py the detectors that Group Sampling compares.

Pixels are RGB minus a mean colour and not scaled, as the published weights of EXTD expect them.

Letters: N images, H W size of an image, A anchors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import clip_to_image, valid_boxes
from minidetect.detection.structures import Detections, make_detections
from minidetect.kernels.device import to_numpy
from minidetect.kernels.nms import nms
from minidetect.kernels.patches import image_planes
from minidetect.kernels.resize import resize_image
from minidetect.models.cascade_pipeline import StageReport, face_probability
from minidetect.nn.fuse import fuse
from minidetect.nn.module import Module

MEAN_COLOUR = (123.0, 117.0, 104.0)
MOST_PIXELS = 1700 * 1200  # larger images are shrunk to so many, as the published tests of EXTD do


class Prediction(NamedTuple):
    """What a model says of every anchor: logits (N, A, 2), background and face; deltas (N, A, 4); anchors (A, 4)."""

    logits: Tensor
    deltas: Tensor
    anchors: np.ndarray


class FaceFinder:
    """What finds faces in one image with `detect_with_report` finds them in a list of images.

    points_mean: None, since there are no landmarks, which a cascade may have. smallest_face: pixels, where nobody says
    otherwise: half of an anchor of 16.
    """

    points_mean = None
    smallest_face = 8.0

    def detect_with_report(
        self, image: np.ndarray, min_face: float = smallest_face, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """Faces in an image, with what each stage kept and how long it took; as `detect`."""
        raise NotImplementedError

    def detect(
        self, images: Sequence[np.ndarray], min_face: float = smallest_face, min_score: float | None = None
    ) -> list[Detections]:
        """Find faces in images, each (H, W, 3) uint8 RGB.

        min_face: faces whose boxes have a smaller longer side, in pixels, are left out. The network looks at the whole
        image in any case. min_score: what a face must score; None for the model's own threshold.
        """
        return [self.detect_with_report(image, min_face, min_score)[0] for image in images]


class AnchorDetector(FaceFinder, Module):
    """A detector of faces by anchors. Subclasses define `maps`, `heads`, `predict`, and the coder of their deltas.

    threshold: the score that a face must exceed to be shown. nms_threshold: IoU above which the lower-scored of two
    boxes is dropped. most_candidates, most: boxes before and after that.
    """

    heads: Module  # maps -> logits (N, A, 2), deltas (N, A, 4)
    coder = BoxCoder()

    def __init__(self, threshold: float, nms_threshold: float, most_candidates: int, most: int) -> None:
        self.threshold, self.nms_threshold = threshold, nms_threshold
        self.most_candidates, self.most = most_candidates, most
        self.mean_colour = np.array(MEAN_COLOUR, np.float32)
        self.check_settings()

    def check_settings(self) -> None:
        """Raise ValueError that names a setting which cannot be used: a weights file may hold any."""
        for name in ("threshold", "nms_threshold"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
        for name in ("most_candidates", "most"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")

    def settings(self) -> dict[str, object]:
        """Those of the constructor above, JSON-able."""
        return {name: getattr(self, name) for name in ("threshold", "nms_threshold", "most_candidates", "most")}

    def maps(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W), see `planes` -> the maps that the heads look at."""
        raise NotImplementedError

    def predict(self, x: Tensor) -> Prediction:
        """x (N, 3, H, W) -> what the model says of every anchor."""
        raise NotImplementedError

    def planes(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (3, H, W) float32, as the network wants it."""
        return image_planes(image, self.mean_colour, 1.0)

    def fuse(self) -> AnchorDetector:
        """A copy for detection alone, faster: batch norms and activations inside the convolutions."""
        return fuse(self)

    def detect_with_report(
        self, image: np.ndarray, min_face: float = FaceFinder.smallest_face, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """As `FaceFinder.detect_with_report`; the stages are the network and the suppression."""
        start = time.perf_counter()
        boxes, scores, num_anchors = self.look(image, min_score)
        found = time.perf_counter()
        keep = nms(boxes, scores, self.nms_threshold)[: self.most]
        result = finished(boxes[keep], scores[keep], image.shape[:2], min_face)
        reports = [
            StageReport("network", num_anchors, len(boxes), found - start),
            StageReport("nms", len(boxes), len(result.boxes), time.perf_counter() - found),
        ]
        return result, reports

    def look(
        self, image: np.ndarray, min_score: float | None = None, factor: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Boxes (N, 4) in the image's pixels by falling score, scores (N,), before suppression; the number of anchors.

        factor: the network sees the image so much larger; it gets about MOST_PIXELS at most.
        """
        least, seen = self.least_score(min_score), seen_image(image, factor)
        with no_grad():
            prediction = self.predict(Tensor(self.planes(seen)[None]))
        boxes, scores = self.candidates(prediction, least)
        return scaled_back(boxes, image.shape[:2], seen.shape[:2]), scores, len(prediction.anchors)

    def least_score(self, min_score: float | None) -> float:
        """What a face must score: `min_score`, or the model's own threshold where that is None."""
        if min_score is None:
            return self.threshold
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be a number from 0 to 1, got {min_score}")
        return min_score

    def candidates(self, prediction: Prediction, min_score: float) -> tuple[np.ndarray, np.ndarray]:
        """The best of one image's anchors, as boxes (N, 4) in the pixels that the network saw, and scores (N,)."""
        logits, deltas = (to_numpy(x.data[0]) for x in (prediction.logits, prediction.deltas))
        scores = face_probability(logits[:, 0], logits[:, 1])
        rows = np.flatnonzero(scores > min_score)
        rows = rows[np.argsort(-scores[rows], kind="stable")][: self.most_candidates]
        return self.coder.decode(prediction.anchors[rows], deltas[rows]), scores[rows]


def seen_image(image: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """The image (H, W, 3) uint8 as a network sees it: `factor` times as large, with about MOST_PIXELS at most."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an image must be (H, W, 3) uint8 with pixels, got {image.shape} {image.dtype}")
    size = image.shape[:2]
    factor = min(factor, (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
    return image if factor == 1 else resize_image(image, tuple(max(1, round(n * factor)) for n in size))


def scaled_back(boxes: np.ndarray, size: tuple[int, int], seen: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) of an image that was seen at another (height, width), in its own pixels."""
    return boxes * np.tile(np.divide(size, seen)[::-1], 2).astype(np.float32)


def finished(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int], min_face: float) -> Detections:
    """Boxes within an image of (height, width), without those that are too small, as Detections."""
    if not 0 <= min_face < np.inf:
        raise ValueError(f"min_face must be a number of pixels, 0 or more, got {min_face}")
    boxes = clip_to_image(boxes, size)
    keep = valid_boxes(boxes) & ((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) >= min_face)
    return make_detections(boxes[keep], scores[keep])
