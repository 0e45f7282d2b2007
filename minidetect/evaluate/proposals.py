"""How good proposals are before any detector has seen them: the share of the objects that they reach.

    overlap          of an object: the IoU of the proposal that fits it best
    recall           the share of objects whose overlap is at least a threshold; against the threshold, a curve
    average recall   AR, twice the area under that curve from 0.5 to 1 (Hosang et al., "What makes for effective
                     detection proposals?", 2015): 1 if every object is met exactly, 0 if none is by more than 0.5
    average best overlap    ABO, the mean of the overlaps (selective search, section 5); its mean over the classes
                     is MABO

A proposal may serve two objects, which in practice are too far apart for that. What AR does not tell: Fast R-CNN,
section 5.5, shows that a detector gets worse from more proposals while AR goes on rising.

Letters: G objects of all images, N proposals of an image, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidetect.data.objects import ObjectDataset
from minidetect.detection.anchors import AREAS
from minidetect.kernels.iou import as_boxes, iou_matrix

MOST = (300, 1000, 2000)  # proposals an image: Faster R-CNN, section 4.1, "recall-to-IoU"
THRESHOLDS = np.linspace(0.5, 1, 51)
COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class ProposalRecall:
    """overlaps: (G,) float64, of each object with its best proposal; num_boxes: proposals an image, on average."""

    overlaps: np.ndarray
    num_boxes: float

    def recall(self, threshold: float) -> float:
        """The share of objects with an overlap of at least `threshold`; NaN without objects."""
        return float(self.curve(np.array([threshold]))[0])

    def curve(self, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
        """(T,): the recall at each threshold."""
        if len(self.overlaps) == 0:
            return np.full(len(thresholds), np.nan)
        return (self.overlaps[:, None] >= thresholds).mean(axis=0)

    @property
    def average_recall(self) -> float:
        """2 * the integral of recall from IoU 0.5 to 1; NaN without objects.

        An object of overlap v above 0.5 counts at all thresholds up to v, so that the area is the mean of v - 0.5.
        """
        return 2 * mean(np.maximum(self.overlaps - 0.5, 0))

    @property
    def mean_recall(self) -> float:
        """The mean recall at ten IoUs, 0.5, 0.55, ... 0.95: COCO's reading of AR; NaN without objects."""
        return float(self.curve(COCO_THRESHOLDS).mean())

    @property
    def average_best_overlap(self) -> float:
        return mean(self.overlaps)


def proposal_recall(
    proposals: Sequence[np.ndarray], gt_boxes: Sequence[np.ndarray], most: int | None = None
) -> ProposalRecall:
    """Judge the first `most` proposals of each image (None: all).

    proposals: one (N, 4) an image, the likeliest first; gt_boxes: one (G, 4) an image, in the same order.
    Raises ValueError for lists of unequal length or boxes of another shape.
    """
    if len(proposals) != len(gt_boxes):
        raise ValueError(f"{len(proposals)} lists of proposals for {len(gt_boxes)} images' objects: one an image")
    chosen = [as_boxes(boxes, "proposals")[:most] for boxes in proposals]
    overlaps = [
        iou_matrix(as_boxes(gt, "gt_boxes").astype(np.float64), boxes).max(axis=1, initial=0.0)
        for boxes, gt in zip(chosen, gt_boxes, strict=True)
    ]
    return ProposalRecall(np.concatenate([np.zeros(0), *overlaps]), mean(np.array([len(boxes) for boxes in chosen])))


def recall_by_size(
    proposals: Sequence[np.ndarray], gt_boxes: Sequence[np.ndarray], most: int | None = 100
) -> dict[str, ProposalRecall]:
    """As `proposal_recall`, for "all" objects and for small, medium and large ones: below 32 x 32, 96 x 96 pixels.

    Group Sampling, Table 2: `.mean_recall` with 100 and with 1,000 proposals is its AR^100 and AR^1k. COCO's own tool
    gives each object a proposal of its own, so that it finds a little less where objects lie on each other.
    """
    areas = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in map(as_boxes, gt_boxes)]
    kinds = [np.searchsorted(AREAS, of_image, side="right") for of_image in areas]
    rows = {"all": proposal_recall(proposals, gt_boxes, most)}
    for i, name in enumerate(("small", "medium", "large")):
        chosen = [as_boxes(boxes)[kind == i] for boxes, kind in zip(gt_boxes, kinds, strict=True)]
        rows[name] = proposal_recall(proposals, chosen, most)
    return rows


def recall_by_class(
    proposals: Sequence[np.ndarray], dataset: ObjectDataset, most: int | None = None
) -> dict[str, ProposalRecall]:
    """For each class of a dataset, and under "all" for all objects together; ignored objects do not count.

    proposals: one (N, 4) an image of the dataset, in its order.
    """
    counted = [(record.boxes[~record.ignored], record.labels[~record.ignored]) for record in dataset.records]
    rows = {
        name: proposal_recall(proposals, [boxes[labels == k] for boxes, labels in counted], most)
        for k, name in enumerate(dataset.classes, start=1)
    }
    return rows | {"all": proposal_recall(proposals, [boxes for boxes, _ in counted], most)}


def mean_average_best_overlap(rows: dict[str, ProposalRecall]) -> float:
    """MABO of `recall_by_class`: the mean over the classes that have objects; NaN if none has."""
    values = np.array([row.average_best_overlap for name, row in rows.items() if name != "all"])
    return mean(values[~np.isnan(values)])


def mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
