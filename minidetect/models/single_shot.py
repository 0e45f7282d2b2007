"""Single-shot face detectors: one pass over an image, one anchor in every cell of every map.

Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", ICCV 2017, whose anchors, heads and tests EXTD takes
over unchanged (section 3.1). A model of this family says how its maps are made (`maps`); the rest is here.

    x -> maps, finest first -> 3x3 convolutions -> logits, deltas of every anchor -> boxes -> suppression
                               (`Heads`)            (`predict`)                       (`detect`)

    map       1    2    3    4    5    6
    stride    4    8   16   32   64  128   pixels a cell
    anchor   16   32   64  128  256  512   its side, in pixels: always four cells, so that maps differ only in scale

Pixels are RGB minus a mean colour and not scaled, as the published weights expect them.

Their losses are in single_shot_loss.py, tests at several scales in single_shot_scales.py.

Letters: N images, C channels, H W size of an image, PH PW of a map, A anchors of all maps together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.box_coder import SSD_STD, BoxCoder
from minidetect.detection.boxes import clip_to_image, valid_boxes
from minidetect.detection.structures import Detections, make_detections
from minidetect.kernels.nms import nms
from minidetect.kernels.patches import image_planes
from minidetect.kernels.resize import resize_image
from minidetect.models.cascade_pipeline import StageReport, face_probability
from minidetect.nn.fuse import fuse
from minidetect.nn.init import normal
from minidetect.nn.layers import Conv2d
from minidetect.nn.module import Module
from minidetect.ops.reduce import max as maximum
from minidetect.ops.shape import concat, getitem, reshape, transpose

SIDES = (16, 32, 64, 128, 256, 512)  # of the anchors, S3FD's
CELLS = 4  # cells a side of an anchor: the stride is a quarter of its side
MEAN_COLOUR = (123.0, 117.0, 104.0)
MOST_PIXELS = 1700 * 1200  # larger images are shrunk to so many, as the published tests do
BACKGROUNDS = 3  # what the finest map's classifier says of the background, to take the largest of


class Prediction(NamedTuple):
    """What a model says of every anchor: logits (N, A, 2), background and face; deltas (N, A, 4); anchors (A, 4)."""

    logits: Tensor
    deltas: Tensor
    anchors: np.ndarray


def max_out_background(scores: Tensor) -> Tensor:
    """(N, 4, PH, PW), three scores of the background and one of the face -> (N, 2, PH, PW): the best of the three.

    EXTD, section 3.3, after S3FD. Nearly all small anchors are background, of many kinds; a false face must beat the
    three of them. Only the winner of each place gets a gradient (winners that tie share it).
    """
    background = maximum(getitem(scores, np.s_[:, :BACKGROUNDS]), axis=1, keepdims=True)
    return concat([background, getitem(scores, np.s_[:, BACKGROUNDS:])])


class Heads(Module):
    """A classifier and a regressor for each map: one 3x3 convolution each. EXTD, section 3.3 and Fig. 3 (e), (f).

    channels: of each map, finest first.
    """

    def __init__(self, channels: Sequence[int], rng: np.random.Generator) -> None:
        outputs = [BACKGROUNDS + 1] + [2] * (len(channels) - 1)
        self.logits = [head(c, out, rng) for c, out in zip(channels, outputs, strict=True)]
        self.deltas = [head(c, 4, rng) for c in channels]

    def __call__(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: (N, C, PH, PW) each -> logits (N, A, 2), deltas (N, A, 4); anchors by maps, rows, columns."""
        logits = [conv(x) for conv, x in zip(self.logits, maps, strict=True)]
        logits[0] = max_out_background(logits[0])
        deltas = [conv(x) for conv, x in zip(self.deltas, maps, strict=True)]
        return tuple(concat([by_anchor(x) for x in outputs]) for outputs in (logits, deltas))


def head(channels: int, outputs: int, rng: np.random.Generator) -> Conv2d:
    """A 3x3 convolution whose outputs begin near 0, so that nothing is certain before anything is learned."""
    conv = Conv2d(channels, outputs, 3, rng, padding=1)
    conv.weight.data[...] = normal(conv.weight.shape, rng, 0.01)
    return conv


def by_anchor(x: Tensor) -> Tensor:
    """(N, K, PH, PW) -> (N, PH, PW, K) -> (N, PH*PW, K)"""
    return reshape(transpose(x, (0, 2, 3, 1)), (x.shape[0], x.shape[2] * x.shape[3], x.shape[1]))


class SingleShot(Module):
    """A detector of faces by anchors, without proposals. Subclasses set `heads` and define `maps`.

    threshold: the score that a face must exceed to be shown. nms_threshold: IoU above which the lower-scored of two
    boxes is dropped. most_candidates, most: boxes before and after that. The last three are the published tests'.
    sides: of the anchors, finest map first.
    """

    heads: Heads
    points_mean = None  # no landmarks, which a cascade may have
    smallest_face = 8.0  # pixels, where nobody says otherwise: half of the smallest anchor

    def __init__(
        self, threshold: float = 0.5, nms_threshold: float = 0.3, most_candidates: int = 5000, most: int = 750,
        sides: Sequence[int] = SIDES,
    ) -> None:
        self.threshold, self.nms_threshold = threshold, nms_threshold
        self.most_candidates, self.most = most_candidates, most
        self.sides = tuple(sides)
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
        if not self.sides or not all(isinstance(s, int) and s >= CELLS and s % CELLS == 0 for s in self.sides):
            raise ValueError(f"sides must be multiples of {CELLS}, one for each map, got {self.sides!r}")

    def settings(self) -> dict[str, object]:
        """Those of the constructor above, JSON-able."""
        names = ("threshold", "nms_threshold", "most_candidates", "most", "sides")
        return {name: getattr(self, name) for name in names}

    def maps(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W), see `planes` -> the maps that the heads look at, finest first."""
        raise NotImplementedError

    def predict(self, x: Tensor) -> Prediction:
        """x (N, 3, H, W) -> what the model says of every anchor."""
        maps = self.maps(x)
        return Prediction(*self.heads(maps), self.anchors([y.shape[2:] for y in maps]))

    def anchors(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """All anchors of maps of sizes (PH, PW), (A, 4) float32. EXTD, section 3.1; S3FD, Table 1.

        A square around the centre of each cell, ((j + 0.5) * stride, (i + 0.5) * stride): 34,125 for 640 x 640.
        """
        grids = [AnchorGrid(side // CELLS, (float(side),), (1.0,)) for side in self.sides]
        return np.concatenate([grid.boxes(*size) for grid, size in zip(grids, sizes, strict=True)])

    def planes(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (3, H, W) float32, as the network wants it."""
        return image_planes(image, self.mean_colour, 1.0)

    def fuse(self) -> SingleShot:
        """A copy for detection alone, faster: batch norms and activations inside the convolutions."""
        return fuse(self)

    # -------------------------------------------------------------------------------------------- detection

    def detect(
        self, images: Sequence[np.ndarray], min_face: float = smallest_face, min_score: float | None = None
    ) -> list[Detections]:
        """Find faces in images, each (H, W, 3) uint8 RGB.

        min_face: faces whose boxes have a smaller longer side, in pixels, are left out. The network looks at the whole
        image in any case. min_score: what a face must score; None for the model's own threshold.
        """
        return [self.detect_with_report(image, min_face, min_score)[0] for image in images]

    def detect_with_report(
        self, image: np.ndarray, min_face: float = smallest_face, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """The same for one image, with what the network and the suppression kept and how long they took."""
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
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"an image must be (H, W, 3) uint8 with pixels, got {image.shape} {image.dtype}")
        if min_score is not None and not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be a number from 0 to 1, got {min_score}")
        size = image.shape[:2]
        factor = min(factor, (MOST_PIXELS / (size[0] * size[1])) ** 0.5)
        seen = image if factor == 1 else resize_image(image, tuple(max(1, round(n * factor)) for n in size))
        with no_grad():
            logits, deltas, anchors = self.predict(Tensor(self.planes(seen)[None]))
        scores = face_probability(logits.data[0, :, 0], logits.data[0, :, 1])
        rows = np.flatnonzero(scores > (self.threshold if min_score is None else min_score))
        rows = rows[np.argsort(-scores[rows], kind="stable")][: self.most_candidates]
        boxes = BoxCoder(std=SSD_STD).decode(anchors[rows], deltas.data[0, rows])
        boxes *= np.tile(np.divide(size, seen.shape[:2])[::-1], 2).astype(np.float32)
        return boxes, scores[rows], len(anchors)


def finished(boxes: np.ndarray, scores: np.ndarray, size: tuple[int, int], min_face: float) -> Detections:
    """Boxes within an image of (height, width), without those that are too small, as Detections."""
    if not 0 <= min_face < np.inf:
        raise ValueError(f"min_face must be a number of pixels, 0 or more, got {min_face}")
    boxes = clip_to_image(boxes, size)
    keep = valid_boxes(boxes) & ((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) >= min_face)
    return make_detections(boxes[keep], scores[keep])
