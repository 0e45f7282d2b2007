"""How good a detector of several classes is on a split of a folder: VOC's two APs and COCO's twelve numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.data.objects import ObjectDataset
from minidetect.detection.structures import Detections, Target
from minidetect.evaluate.average_precision import Curve, average_precision, evaluate_detections
from minidetect.evaluate.coco import coco_metrics


class ClassScore(NamedTuple):
    """One class: objects that count, VOC's AP from 2010 on (every point) and of 2007 (11 points), the curve."""

    name: str
    objects: int
    ap: float
    ap_11_point: float
    curve: Curve


def score_classes(
    detections: Sequence[Detections], dataset: ObjectDataset, iou_threshold: float = 0.5
) -> list[ClassScore]:
    """VOC's average precision of every class; detections: one an image of the dataset.

    An ignored object (VOC: difficult) excuses the detections of its class that overlap it by the threshold.
    """
    scores = []
    for label, name in enumerate(dataset.classes, start=1):
        targets = []
        for record in dataset.records:
            of_class = record.labels == label
            counted, ignored = of_class & ~record.ignored, of_class & record.ignored
            targets.append(Target(record.boxes[counted], record.labels[counted], record.boxes[ignored]))
        curve = evaluate_detections(detections, targets, label=label, iou_threshold=iou_threshold, ignore_by="iou")
        eleven = average_precision(curve.recall, curve.precision, points=11) if curve.num_gt else float("nan")
        scores.append(ClassScore(name, curve.num_gt, curve.ap, eleven, curve))
    return scores


def summarise_objects(detections: Sequence[Detections], dataset: ObjectDataset) -> dict[str, float]:
    """Everything in one table: mAP by VOC's rules, the AP of each class at IoU 0.5, COCO's twelve numbers.

    Classes without an object do not count in a mean.
    """
    scores = score_classes(detections, dataset)
    summary = {
        "images": len(dataset),
        "objects": sum(score.objects for score in scores),
        "mAP@0.5": mean_of([score.ap for score in scores]),
        "mAP@0.5 (11 points)": mean_of([score.ap_11_point for score in scores]),
    }
    summary |= {f"AP@0.5 {score.name}": score.ap for score in scores}
    return summary | {f"COCO {name}": value for name, value in coco_metrics(detections, dataset).items()}


def mean_of(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
