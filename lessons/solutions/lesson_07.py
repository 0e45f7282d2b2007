"""Solutions of lesson 07. Try first: the checks tell you more than this file does."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from minidetect.kernels.iou import intersection_over_first, iou_matrix


def judge(boxes, scores, gt, ignore, threshold):
    """1 right, 0 wrong, -1 not counted: the best score chooses first, and a truth can be found once."""
    verdicts, taken = [0] * len(boxes), set()
    excused = intersection_over_first(boxes, ignore)  # (N, M)
    overlaps = iou_matrix(boxes, gt)  # (N, G)
    for i in np.argsort(-scores, kind="stable"):
        best = overlaps[i].argmax() if len(gt) else None
        if best is not None and overlaps[i, best] >= threshold and best not in taken:
            taken.add(best)
            verdicts[i] = 1
        elif (excused[i] >= threshold).any():
            verdicts[i] = -1
    return verdicts


def average_precision(scores, is_right, num_gt):
    """Precision at each threshold, the best at this recall or beyond, times the width of the step in recall."""
    thresholds = np.unique(scores)[::-1]  # falling; equal scores once
    right = np.array([is_right[scores >= t].sum() for t in thresholds])
    counted = np.array([(scores >= t).sum() for t in thresholds])
    best_beyond = np.maximum.accumulate((right / counted)[::-1])[::-1]
    return float((np.diff(right, prepend=0) / num_gt * best_beyond).sum())


def recall_at(scores, is_right, num_gt, num_wrong):
    """The best recall of a threshold that lets in at most `num_wrong` wrong detections."""
    best = 0.0
    for threshold in scores:
        above = scores >= threshold
        if (above & ~is_right).sum() <= num_wrong:
            best = max(best, (above & is_right).sum() / num_gt)
    return best


def fddb_scores(overlaps):
    """Try every one-to-one pairing; keep the one with the largest sum of overlaps."""
    if overlaps.shape[0] > overlaps.shape[1]:
        overlaps = overlaps.T
    rows = range(len(overlaps))
    pairings = permutations(range(overlaps.shape[1]), len(overlaps))
    best = max((overlaps[rows, chosen] for chosen in map(list, pairings)), key=np.sum)
    return (best > 0.5).sum(), best.sum()


def landmark_error(predicted, truth, size):
    """Mean distance over the points that are there, in sizes of the face."""
    distance = np.sqrt(((predicted - truth) ** 2).sum(axis=2))  # (N, P), NaN where a point is missing
    return np.nanmean(distance, axis=1) / size
