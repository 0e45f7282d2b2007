"""COCO's twelve numbers, digit for digit what pycocotools prints (a test holds them together).

    AP              mean over 10 IoU thresholds, 0.50 to 0.95, and over the classes
    AP50, AP75      at one threshold
    AP small, medium, large     of objects below 32 x 32, up to 96 x 96, above
    AR 1, 10, 100   recall, mean over thresholds and classes, with so many detections a class and image
    AR small, medium, large

COCO reads a precision-recall curve at 101 points, recall 0, 0.01, ..., 1, and takes at each the best precision at
that recall or beyond. What differs from PASCAL VOC's rules (`average_precision.py`): a detection may take its
second-best object where the best is taken; an object outside of the size range is ignored, and so is a detection that
matches nothing and is itself outside; a crowd excuses any number of detections.

Letters: D detections, G ground truths of an image and class; T thresholds, R points of recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.data.objects import ObjectDataset, ObjectRecord
from minidetect.detection.structures import Detections
from minidetect.kernels.coco_match import UNMATCHED, coco_match
from minidetect.kernels.iou import intersection_over_first, iou_matrix

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MOST_DETECTIONS = 100  # a class and image


class Judged(NamedTuple):
    """One image and class: scores (D,) falling; matched, ignored (T, D) bool; num_gt: objects that count."""

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_gt: int


def coco_metrics(detections: Sequence[Detections], dataset: ObjectDataset) -> dict[str, float]:
    """The twelve numbers, in COCO's order, in 0 to 1; NaN where there is no object to be found.

    detections: one an image of the dataset, in its order. Raises ValueError where the lists differ in length.
    """
    if len(detections) != len(dataset):
        raise ValueError(f"{len(detections)} lists of detections for {len(dataset)} images: one an image")
    labels = range(1, len(dataset.classes) + 1)
    judged = {
        area: [[judge(found, record, label, span) for found, record in zip(detections, dataset.records, strict=True)]
               for label in labels]
        for area, span in AREAS.items()
    }  # fmt: skip
    precision = {area: np.array([precision_at_recalls(j) for j in classes]) for area, classes in judged.items()}
    recall = {(area, most): np.array([final_recall(j, most) for j in judged[area]])
              for area, most in (("all", 1), ("all", 10), *((area, MOST_DETECTIONS) for area in AREAS))}  # fmt: skip
    at_75 = int(np.argmin(abs(THRESHOLDS - 0.75)))
    return {
        "AP": mean(precision["all"]),
        "AP50": mean(precision["all"][:, 0]),
        "AP75": mean(precision["all"][:, at_75]),
        **{f"AP {area}": mean(precision[area]) for area in ("small", "medium", "large")},
        **{f"AR {most}": mean(recall["all", most]) for most in (1, 10, 100)},
        **{f"AR {area}": mean(recall[area, MOST_DETECTIONS]) for area in ("small", "medium", "large")},
    }


def judge(found: Detections, record: ObjectRecord, label: int, span: tuple[float, float]) -> Judged:
    """Match one image's detections of one class with the objects whose area lies in `span` (both ends included)."""
    low, high = span
    of_class = record.labels == label
    areas, crowd = record.areas[of_class], record.ignored[of_class]
    gt_ignored = crowd | (areas < low) | (areas > high)
    order = np.argsort(gt_ignored, kind="stable")  # those that count come first
    gt_boxes, gt_ignored, crowd = record.boxes[of_class][order].astype(np.float64), gt_ignored[order], crowd[order]

    chosen = np.flatnonzero(found.labels == label)
    chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")][:MOST_DETECTIONS]
    boxes, scores = found.boxes[chosen].astype(np.float64), found.scores[chosen]
    overlaps = np.where(crowd, intersection_over_first(boxes, gt_boxes), iou_matrix(boxes, gt_boxes))  # (D, G)
    matches = coco_match(overlaps, THRESHOLDS, gt_ignored, crowd)  # (T, D)

    is_matched = matches != UNMATCHED
    det_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    outside = (det_areas < low) | (det_areas > high)
    ignored = np.append(gt_ignored, False)[matches]  # UNMATCHED, -1, reads the appended False
    return Judged(scores, is_matched, np.where(is_matched, ignored, outside), int((~gt_ignored).sum()))


def precision_at_recalls(images: Sequence[Judged]) -> np.ndarray:
    """(T, R): the best precision at each recall or beyond, of one class over all images; NaN without objects."""
    num_gt = sum(image.num_gt for image in images)
    if num_gt == 0:
        return np.full((len(THRESHOLDS), len(RECALLS)), np.nan)
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    matched = np.concatenate([image.matched for image in images], axis=1)[:, order]
    counted = ~np.concatenate([image.ignored for image in images], axis=1)[:, order]
    right, wrong = np.cumsum(matched & counted, axis=1), np.cumsum(~matched & counted, axis=1)  # (T, D)
    precision = right / (right + wrong + np.spacing(1))
    best_beyond = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    out = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for t in range(len(THRESHOLDS)):
        at = np.searchsorted(right[t] / num_gt, RECALLS, side="left")
        reached = at < right.shape[1]
        out[t, reached] = best_beyond[t, at[reached]]
    return out


def final_recall(images: Sequence[Judged], most: int) -> np.ndarray:
    """(T,): the share of objects found with `most` detections an image; NaN without objects."""
    num_gt = sum(image.num_gt for image in images)
    found = sum((image.matched & ~image.ignored)[:, :most].sum(axis=1) for image in images)
    return np.full(len(THRESHOLDS), np.nan) if num_gt == 0 else found / num_gt


def mean(values: np.ndarray) -> float:
    """The mean of what is not NaN (classes without objects do not count), NaN if nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
