"""Precision, recall and average precision (AP): the score of a detector at every threshold at once.

Three steps, each a function of its own:
    match_detections      one image: which detections are right, which are left out of the count
    precision_recall      all images: the detections by falling score -> a Curve
    average_precision     the Curve as one number, every-point or 11-point
`evaluate_detections` runs them over a list of images.

What evaluators disagree about, and what this one does:
    order       nothing needs to be sorted. Detections are taken by falling score, of equal scores the
                earlier first. A Curve has one point for each score that occurs, never one in the middle
                of a tie, so the order of the images cannot change it.
    matching    as in the PASCAL VOC development kit (and WIDER FACE): a detection belongs to the ground
                truth that it overlaps most (of equal overlaps the first one), and is right if that IoU
                reaches the threshold and no earlier detection took that ground truth. A second detection
                of the same object is a false positive, even if another object is near.
    ignored     a detection that is not right is left out (neither right nor wrong) when it lies in an
                ignore region; ground truths to be ignored belong in there and are not counted as objects.
    no objects  without a ground truth there is no recall: recall and AP are NaN, and stay visible as such.

Left out: COCO's AP averaged over IoU thresholds (call `evaluate_detections` with each) and its size classes.

Letters: N detections, G ground truths, M ignore regions, T points of a curve (distinct scores).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidetect.detection.structures import Detections, Target
from minidetect.kernels.iou import as_boxes, intersection_over_first, iou_matrix


@dataclass(frozen=True)
class Curve:
    """What a detector finds and invents as its threshold falls; all arrays are float64 (T,).

    scores: the thresholds, falling; the detections counted are those with a score >= it.
    recall: true positives / ground truths, rising (NaN without ground truths).
    precision: true positives / detections counted.
    false_positives: their number over the whole set, rising or level.
    num_gt: ground truths in the whole set.
    """

    recall: np.ndarray
    precision: np.ndarray
    false_positives: np.ndarray
    scores: np.ndarray
    num_gt: int

    @property
    def ap(self) -> float:
        """Every-point average precision; NaN without ground truths."""
        return average_precision(self.recall, self.precision) if self.num_gt else float("nan")

    def recall_at(self, false_positives: float) -> float:
        """The highest recall with at most this many false positives over the whole set; see the function."""
        return recall_at_false_positives(self, false_positives)

    def threshold_at(self, false_positives: float) -> float:
        """The lowest score with at most this many false positives; infinity where there is none."""
        allowed = self.scores[self.false_positives <= false_positives]
        return float(allowed.min()) if len(allowed) else float("inf")


def evaluate_detections(
    detections: Sequence[Detections],
    targets: Sequence[Target],
    iou_threshold: float = 0.5,
    label: int | None = None,
    ignore_by: str = "area",
) -> Curve:
    """The Curve of a list of images.

    detections, targets: one an image, in the same order (`detections[i]` was found in `targets[i]`).
    label: count this class only, ground truths and detections (VOC's AP of a class; the mean over classes
        is mAP); None: all, whatever their labels. Ignore regions have no label and hold for every class.
    iou_threshold, ignore_by: as in `match_detections`.

    Raises ValueError when the lists differ in length, and as `match_detections` does, naming the image.
    """
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} lists of detections for {len(targets)} targets: one an image")
    scores, is_tp, is_ignored, num_gt = [], [], [], 0
    for i, (found, target) in enumerate(zip(detections, targets, strict=True)):
        chosen = slice(None) if label is None else found.labels == label
        gt_boxes = target.boxes if label is None else target.boxes[target.labels == label]
        try:
            tp, ignored = match_detections(
                found.boxes[chosen], found.scores[chosen], gt_boxes, target.ignore, iou_threshold, ignore_by
            )
        except ValueError as error:
            raise ValueError(f"image {i}: {error}") from None
        scores.append(found.scores[chosen])
        is_tp.append(tp)
        is_ignored.append(ignored)
        num_gt += len(gt_boxes)
    if not scores:
        return precision_recall(np.zeros(0), np.zeros(0, bool), 0)
    return precision_recall(
        np.concatenate(scores), np.concatenate(is_tp), num_gt, np.concatenate(is_ignored)
    )


def match_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    gt_boxes: np.ndarray,
    gt_ignore: np.ndarray | None = None,
    iou_threshold: float = 0.5,
    ignore_by: str = "area",
) -> tuple[np.ndarray, np.ndarray]:
    """Judge the detections of one image; the module's docstring has the rules.

    boxes: (N, 4), scores: (N,), in any order. gt_boxes: (G, 4). gt_ignore: (M, 4), regions or difficult
        objects; each excuses any number of detections.
    iou_threshold: in (0, 1]; an overlap equal to it is enough.
    ignore_by: what must reach `iou_threshold` for a detection to be excused: "area", the share of the
        detection that lies in the ignore region (a crowd, a margin), or "iou", as VOC and WIDER FACE do it
        for difficult objects (they also let a difficult object claim a detection of an easy one beside
        it, which is left out here).

    Returns is_tp (N,) bool and is_ignored (N,) bool in the order of `boxes`; never both, and a detection
    that is neither is a false positive. Raises ValueError for shapes that do not fit, a NaN score, a
    threshold out of range.
    """
    boxes, gt_boxes = as_boxes(boxes), as_boxes(gt_boxes, "gt_boxes")
    gt_ignore = as_boxes(np.zeros((0, 4), np.float32) if gt_ignore is None else gt_ignore, "gt_ignore")
    scores = _checked_scores(scores, len(boxes))
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
    if ignore_by not in ("area", "iou"):
        raise ValueError(f"ignore_by must be 'area' or 'iou', got {ignore_by!r}")
    is_tp = np.zeros(len(boxes), bool)
    if len(gt_boxes):
        overlaps = iou_matrix(boxes, gt_boxes)  # (N, G)
        best_gt = overlaps.argmax(axis=1)
        reaches = overlaps.max(axis=1) >= iou_threshold
        is_taken = np.zeros(len(gt_boxes), bool)
        for i in np.argsort(-scores, kind="stable"):
            if reaches[i] and not is_taken[best_gt[i]]:
                is_tp[i] = is_taken[best_gt[i]] = True
    overlap = intersection_over_first if ignore_by == "area" else iou_matrix
    excused = (overlap(boxes, gt_ignore) >= iou_threshold).any(axis=1)
    return is_tp, excused & ~is_tp


def precision_recall(
    scores: np.ndarray, is_tp: np.ndarray, num_gt: int, is_ignored: np.ndarray | None = None
) -> Curve:
    """The Curve of judged detections, of all images together, in any order.

    scores: (N,); is_tp: (N,) bool; is_ignored: (N,) bool, these take no part at all; num_gt: objects in
    all images, found or not. Raises ValueError for lengths that differ, a NaN score, or more true
    positives than objects.
    """
    is_tp = np.asarray(is_tp, bool)
    scores = _checked_scores(scores, len(is_tp))
    counted = np.ones(len(scores), bool) if is_ignored is None else ~np.asarray(is_ignored, bool)
    if is_tp[counted].sum() > num_gt:
        raise ValueError(f"{int(is_tp[counted].sum())} true positives cannot come from {num_gt} objects")
    hits = is_tp[counted].astype(np.float64)
    return curve_from_counts(scores[counted], hits, 1 - hits, num_gt)


def curve_from_counts(
    scores: np.ndarray, hits: np.ndarray, false_positives: np.ndarray, num_gt: int
) -> Curve:
    """Add up what each detection (or event at a score) contributes, into one point for each score.

    scores, hits, false_positives: (N,); `hits` need not be 0 or 1 (FDDB's continuous score adds overlaps,
    and an entry may take back what an earlier one gave).
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order].astype(np.float64)
    hits, wrong = np.cumsum(hits[order]), np.cumsum(false_positives[order])
    is_last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # of its score: the tie is complete
    scores, hits, wrong = scores[is_last], hits[is_last], wrong[is_last]
    recall = hits / num_gt if num_gt else np.full(len(hits), np.nan)
    precision = hits / np.maximum(hits + wrong, np.finfo(np.float64).tiny)
    return Curve(recall, precision, wrong, scores, num_gt)


def average_precision(recall: np.ndarray, precision: np.ndarray, points: int | None = None) -> float:
    """One number in [0, 1] for a curve of rising recall: precision averaged over recall.

    Precision at a recall is read as the best one at that recall or beyond, which removes the saw teeth.
    points: None averages over every recall (the area under that staircase: PASCAL VOC from 2010, COCO in
        the limit); 11 at recall 0, 0.1, ... 1 (VOC 2007, hence the R-CNN papers' tables on it).

    Returns NaN where recall is NaN (no ground truth), 0 without detections. Raises ValueError for
    lengths that differ or a recall that falls.
    """
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    if recall.shape != precision.shape or recall.ndim != 1:
        raise ValueError(f"recall {recall.shape} and precision {precision.shape} must both be (T,)")
    if points not in (None, 11):
        raise ValueError(f"points must be None (every point) or 11, got {points}")
    if np.isnan(recall).any():
        return float("nan")
    if (np.diff(recall) < 0).any():
        raise ValueError("recall falls: order the curve by falling score first (precision_recall does)")
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    if points is None:
        return float(np.sum(np.diff(recall, prepend=0.0) * best_beyond))
    # 3 objects of 10 are a recall of 0.3, but np.linspace(0, 1, 11)[3] is 0.30000000000000004
    first = np.searchsorted(recall, np.linspace(0, 1, 11) - 1e-9)
    return float(np.append(best_beyond, 0.0)[first].mean())


def recall_at_false_positives(curve: Curve, num_fp: float) -> float:
    """The highest recall that `curve` reaches with at most `num_fp` false positives (no interpolation).

    FDDB's tables read "recall at 1000 false positives" so; 0 where even the first point has more. A
    detector that never makes that many has its final recall. NaN without ground truths.
    """
    if curve.num_gt == 0:
        return float("nan")
    allowed = curve.recall[curve.false_positives <= num_fp]
    return float(allowed.max()) if len(allowed) else 0.0


def _checked_scores(scores: np.ndarray, count: int) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.shape != (count,):
        raise ValueError(f"{count} detections need scores of shape ({count},), got {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"score {int(np.isnan(scores).argmax())} of {count} is NaN")
    return scores
