"""Grouped Fast R-CNN: a second look at what a detector found, sampled for each size of face by itself.

Group Sampling, sections 4.2 and 6.3.

    image -> LayoutDetector -> proposals -> RoI align on the finest map -> fc -> fc -> logits, deltas
                    |                                                                   |
                    +---- score of the first stage ----------- mean of the two <--------+

In training the proposals of an image are matched with its faces (two passes, 0.6 and 0.5: section 5), each gets the
reference scale that is nearest to its size (`reference_scale`), and for every one of these equally many are sampled,
where there are enough. Small proposals score lower than large ones, so that few of them are among the best that are
kept; therefore training keeps the best of each reference scale by itself.

Both stages learn at once from the sum of their losses; the proposals' corners are constants, as in approximate joint
training of Faster R-CNN. (The paper does not say how its two stages are trained together. It says that the scores are
"simply" ensembled; here that is their mean.)

Letters: N images, R proposals of all images, C channels of the map.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import clip_to_image, valid_boxes
from minidetect.detection.group_sampler import Sampler, at_random, in_groups
from minidetect.detection.hard_examples import cross_entropy_values
from minidetect.detection.losses import cross_entropy
from minidetect.detection.structures import Detections, Target
from minidetect.kernels.nms import nms
from minidetect.models.anchor_detector import FaceFinder, Prediction, scaled_back, seen_image
from minidetect.models.cascade_pipeline import StageReport, face_probability
from minidetect.models.layout_detector import LayoutDetector, filled_up
from minidetect.models.layout_loss import (
    BoxLoss,
    ClassLoss,
    Labelled,
    label_anchors,
    labelled_losses,
    least_squares_of_deltas,
    sample_losses,
)
from minidetect.models.layout_pyramid import merged
from minidetect.nn.fuse import fuse
from minidetect.nn.layers import Linear
from minidetect.nn.module import Module
from minidetect.ops.activation import relu
from minidetect.ops.roi_align import roi_align
from minidetect.ops.shape import flatten

REFERENCE_SCALES = (16, 32, 64, 128)


def reference_scale(boxes: np.ndarray, scales: Sequence[int] = REFERENCE_SCALES) -> np.ndarray:
    """Group Sampling, Eq. (4): for each box the row of the scale that is nearest to its size in octaves.

    boxes: (R, 4); scales: ascending -> (R,) int64; a box just between two scales gets the smaller.
    """
    if len(scales) == 0 or min(scales) <= 0 or any(a >= b for a, b in itertools.pairwise(scales)):
        raise ValueError(f"reference scales must be above 0 and ascend, got {tuple(scales)}")
    areas = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)  # (R,)
    scales = np.asarray(scales, np.float64)
    # |log2(side / s)| < |log2(side / t)| for s < t says that side**2 < s t; so written it is exact.
    return (areas[:, None] > scales[:-1] * scales[1:]).sum(axis=1)


class Proposals(NamedTuple):
    """boxes (R, 4) float32, scores (R,) of the first stage, image (R,) int64 which of the N each lies in."""

    boxes: np.ndarray
    scores: np.ndarray
    image: np.ndarray


class RoiHead(Module):
    """RoI align, two fully connected layers, two outputs: maps (N, C, PH, PW), R boxes -> logits (R, 2), deltas (R, 4).

    stride: of the map in pixels; bins: a side.
    """

    def __init__(
        self, channels: int, stride: int, rng: np.random.Generator, bins: int = 7, features: int = 128
    ) -> None:
        self.stride, self.bins = stride, bins
        self.fc6 = Linear(channels * bins * bins, features, rng)
        self.fc7 = Linear(features, features, rng)
        self.logits = Linear(features, 2, rng, std=0.01)
        self.deltas = Linear(features, 4, rng, std=0.001)

    def __call__(self, maps: Tensor, boxes: np.ndarray, image: np.ndarray) -> tuple[Tensor, Tensor]:
        regions = roi_align(maps, boxes, image, (self.bins, self.bins), 1 / self.stride)  # (R, C, bins, bins)
        hidden = relu(self.fc7(relu(self.fc6(flatten(regions)))))
        return self.logits(hidden), self.deltas(hidden)


class GroupedFastRCNN(FaceFinder, Module):
    """A LayoutDetector and a second stage on its finest map.

    first: the first map of its layout is the finest, which the second stage looks at. scales: the reference scales.
    before_nms, most_proposals: boxes of an image before and after suppression at `proposal_nms`. features, bins: of
    the second stage. It finds faces as `AnchorDetector` does, with the first stage's settings. For experiments:
    `minidetect.load` does not know it.
    """

    coder = BoxCoder()

    def __init__(
        self, first: LayoutDetector, rng: np.random.Generator, scales: Sequence[int] = REFERENCE_SCALES,
        before_nms: int = 2000, most_proposals: int = 300, proposal_nms: float = 0.7, features: int = 128,
        bins: int = 7,
    ) -> None:
        strides = [first.layout.map_stride(name) for name in first.layout.features]
        if strides[0] != min(strides):
            raise ValueError(f"the first map of the layout must be the finest, got {first.layout.features}")
        self.first, self.scales, self.before_nms = first, tuple(scales), before_nms
        self.most_proposals, self.proposal_nms = most_proposals, proposal_nms
        finest = first.layout.features[0]
        channels = first.width if finest[0] == "P" else first.widths[int(finest[1:]) - 2]
        self.second = RoiHead(channels, first.layout.map_stride(finest), rng, bins, features)

    @property
    def threshold(self) -> float:
        return self.first.threshold

    def propose(
        self, prediction: Prediction, image_size: tuple[int, int], least: float = 0.0, by_group: bool = False
    ) -> Proposals:
        """The first stage's best boxes in each image, above a score of `least`.

        by_group: with four reference scales, a fourth of the numbers allowed for each of them, instead of the best of
        all.
        """
        parts = []
        for n in range(len(prediction.logits.data)):
            of_image = Prediction(*(Tensor(x.data[n : n + 1]) for x in prediction[:2]), prediction.anchors)
            boxes, scores = self.first.candidates(of_image, least)
            boxes = clip_to_image(boxes, image_size)
            keep = self.best(np.flatnonzero(valid_boxes(boxes)), boxes, self.before_nms, by_group)
            keep = keep[nms(boxes[keep], scores[keep], self.proposal_nms)]
            keep = self.best(keep, boxes, self.most_proposals, by_group)
            parts.append((boxes[keep], scores[keep], np.full(len(keep), n)))
        return Proposals(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def best(self, rows: np.ndarray, boxes: np.ndarray, most: int, by_group: bool) -> np.ndarray:
        """The first `most` of `rows` of boxes (R, 4), or as many of each reference scale as make `most` together."""
        if not by_group:
            return rows[:most]
        group, share = reference_scale(boxes[rows], self.scales), most // len(self.scales)
        return np.sort(np.concatenate([rows[group == k][:share] for k in range(len(self.scales))]))

    def forward(self, images: Tensor) -> tuple[Prediction, Tensor]:
        """images (N, 3, H, W) -> the first stage's word, and its finest map (N, C, PH, PW)."""
        x = filled_up(images, self.first.layout.period)
        maps = self.first.maps(x)
        return Prediction(*self.first.heads(maps), self.first.layout.anchors(x.shape[2:])), maps[0]

    def losses(
        self, images: Tensor, targets: Sequence[Target], rng: np.random.Generator, sampler: Sampler | None = None,
        second_sampler: Sampler | None = None, class_loss: ClassLoss = cross_entropy,
        box_loss: BoxLoss = least_squares_of_deltas,
    ) -> dict[str, Tensor]:
        """Both stages' parts of Group Sampling, Eq. (2), for images (N, 3, H, W) and N targets.

        sampler: of anchors, None for `layout_losses`'s. second_sampler: of proposals, None for
        `in_groups(at_random(64))`; without groups that would be `at_random(256)`. class_loss, box_loss: of the second
        stage.
        """
        prediction, finest = self.forward(images)
        groups = np.tile(self.first.groups(images.shape[2:]), len(targets))
        labelled = label_anchors(prediction.anchors, targets)
        terms = labelled_losses(prediction, labelled, groups, rng, self.first.coder, sampler)
        proposals = self.propose(prediction, images.shape[2:], by_group=True)
        with_faces, labelled = self.label(proposals, targets)
        logits, deltas = self.second(finest, with_faces.boxes, with_faces.image)
        losses = cross_entropy_values(logits.data, np.maximum(labelled.labels, 0))
        samples = (second_sampler or in_groups(at_random(64)))(
            labelled.labels, reference_scale(with_faces.boxes, self.scales), losses, rng
        )
        second = sample_losses(
            logits, deltas, with_faces.boxes, labelled.boxes, samples, self.coder, class_loss, box_loss
        )
        return {f"first {key}": term for key, term in terms.items()} | {f"second {key}": t for key, t in second.items()}

    def label(self, proposals: Proposals, targets: Sequence[Target]) -> tuple[Proposals, Labelled]:
        """The proposals, joined by the faces themselves, and what each of them is. Thresholds: section 5."""
        parts, labels, boxes = [], [], []
        for n, target in enumerate(targets):
            rows = proposals.image == n
            joined = np.concatenate([proposals.boxes[rows], target.boxes])
            scores = np.concatenate([proposals.scores[rows], np.ones(len(target.boxes), np.float32)])
            parts.append((joined, scores, np.full(len(joined), n)))
            labelled = label_anchors(joined, [target], 0.6, 0.5)
            labels.append(labelled.labels)
            boxes.append(labelled.boxes)
        with_faces = Proposals(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        return with_faces, Labelled(np.concatenate(labels), np.concatenate(boxes))

    def fuse(self) -> GroupedFastRCNN:
        """As `AnchorDetector.fuse`."""
        return fuse(self)

    def detect_with_report(
        self, image: np.ndarray, min_face: float = FaceFinder.smallest_face, min_score: float | None = None
    ) -> tuple[Detections, list[StageReport]]:
        """As `AnchorDetector.detect_with_report`; a score is the mean of both stages'. Group Sampling, section 6.3."""
        start = time.perf_counter()
        least, seen = self.first.least_score(min_score), seen_image(image)
        with no_grad():
            prediction, finest = self.forward(Tensor(self.first.planes(seen)[None]))
            # Even with a second score of 1 the mean exceeds `least` only where the first exceeds 2 * least - 1.
            proposals = self.propose(prediction, seen.shape[:2], max(0.0, 2 * least - 1))
            proposed = time.perf_counter()
            logits, deltas = self.second(finest, proposals.boxes, proposals.image)
        scores = (proposals.scores + face_probability(logits.data[:, 0], logits.data[:, 1])) / 2
        boxes = scaled_back(self.coder.decode(proposals.boxes, deltas.data), image.shape[:2], seen.shape[:2])
        rows = np.flatnonzero(scores > least)
        result = merged(self.first, image, boxes[rows], scores[rows], min_face)
        reports = [
            StageReport("first stage", len(prediction.anchors), len(proposals.boxes), proposed - start),
            StageReport("second stage", len(proposals.boxes), len(result.boxes), time.perf_counter() - proposed),
        ]
        return result, reports
