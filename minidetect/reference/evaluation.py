"""Slow twins of the evaluators: every threshold counted anew, every assignment tried, every pixel split.

Plain loops over plain numbers, sharing no code with `minidetect.evaluate`. Good for a few dozen detections.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def counts_at(threshold: float, scores: Sequence[float], is_tp: Sequence[bool]) -> tuple[int, int]:
    """True and false positives among the detections with a score of at least `threshold`."""
    kept = [bool(right) for score, right in zip(scores, is_tp, strict=True) if score >= threshold]
    return sum(kept), len(kept) - sum(kept)


def best_precision(found: float, scores: Sequence[float], is_tp: Sequence[bool]) -> float:
    """The best precision of any threshold that finds at least `found` objects, 0 if none does."""
    best = 0.0
    for threshold in set(scores):
        right, wrong = counts_at(threshold, scores, is_tp)
        if right + wrong > 0 and right >= found:
            best = max(best, right / (right + wrong))
    return best


def average_precision_every_point(scores: Sequence[float], is_tp: Sequence[bool], num_gt: int) -> float:
    """The mean, over the objects, of the best precision at which that many are found."""
    return sum(best_precision(k, scores, is_tp) for k in range(1, num_gt + 1)) / num_gt


def average_precision_11_point(scores: Sequence[float], is_tp: Sequence[bool], num_gt: int) -> float:
    """The mean of the best precision at recall 0, 0.1, ... 1, with recall kept as a fraction of integers."""
    needed = [-(-i * num_gt // 10) for i in range(11)]  # the least number of objects with 10 k >= i num_gt
    return sum(best_precision(k, scores, is_tp) for k in needed) / 11


def recall_at(num_fp: float, scores: Sequence[float], is_tp: Sequence[bool], num_gt: int) -> float:
    """The highest recall of a threshold with at most `num_fp` false positives."""
    counts = [counts_at(threshold, scores, is_tp) for threshold in set(scores)]
    return max((right / num_gt for right, wrong in counts if wrong <= num_fp), default=0.0)


def best_assignment_total(overlap: Sequence[Sequence[float]]) -> float:
    """The largest sum of overlaps of a one-to-one pairing of rows with columns, by trying them all."""
    rows, columns = len(overlap), len(overlap[0]) if len(overlap) else 0
    if rows > columns:
        overlap = [[overlap[i][j] for i in range(rows)] for j in range(columns)]
        rows, columns = columns, rows
    return max(
        (
            sum(overlap[i][j] for i, j in enumerate(chosen))
            for chosen in itertools.permutations(range(columns), rows)
        ),
        default=0.0,
    )


def in_ellipse(x: float, y: float, ellipse: Sequence[float]) -> bool:
    """Whether a point lies in the ellipse major, minor, angle, cx, cy."""
    major, minor, angle, cx, cy = ellipse
    along = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
    across = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
    return (along / major) ** 2 + (across / minor) ** 2 <= 1


def ellipse_box_iou(
    ellipse: Sequence[float], box: Sequence[float], size: tuple[int, int], samples: int = 4
) -> float:
    """IoU of an ellipse with a box x1, y1, x2, y2 inside an image of (height, width), by counting points.

    Exact geometry, unlike FDDB's painted pixels: `samples` x `samples` points in each pixel, pixel c
    reaching from c to c + 1.
    """
    both = either = 0
    for i in range(size[0] * samples):
        for j in range(size[1] * samples):
            y, x = (i + 0.5) / samples, (j + 0.5) / samples
            in_box = box[0] <= x <= box[2] and box[1] <= y <= box[3]
            in_both = in_ellipse(x, y, ellipse)
            both += in_box and in_both
            either += in_box or in_both
    return both / either if either else 0.0
