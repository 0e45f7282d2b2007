"""Box voting: detections of one face in several looks, merged into one box that they all have a say in.

The tests of EXTD's and S3FD's published codes end with it; neither paper mentions it. Suppression keeps the best box
and drops its neighbours; voting moves it to their mean, weighted by score.

N: boxes.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.iou import as_boxes, iou_matrix


def vote(
    boxes: np.ndarray, scores: np.ndarray, threshold: float = 0.3, min_votes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Merge boxes (N, 4) with scores (N,), by falling score: each takes those left that overlap it by `threshold`.

    The merged box is the mean of the group weighted by score, its score the group's best. min_votes: of smaller groups
    nothing remains; the published codes want 2, so that what a single look has seen is lost.
    Returns boxes (M, 4) float32 and scores (M,), falling. Raises ValueError for lengths that differ, a score that is
    negative or not finite (a weight must not be), or a threshold outside of 0 to 1.
    """
    boxes, scores = as_boxes(boxes), np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise ValueError(f"{len(boxes)} boxes need scores of shape ({len(boxes)},), got {scores.shape}")
    usable = np.isfinite(scores) & (scores >= 0)
    if not usable.all():
        first = int(np.argmin(usable))
        raise ValueError(f"score {first} is {scores[first]}: scores are weights here, finite and 0 or more")
    if not 0 <= threshold <= 1 or min_votes < 1:
        raise ValueError(f"needs a threshold from 0 to 1 and min_votes of at least 1, got {threshold} and {min_votes}")
    left = np.argsort(-scores, kind="stable")
    merged, best = [np.zeros((0, 4), np.float32)], []
    while len(left):
        with_it = iou_matrix(boxes[left[:1]], boxes[left])[0] >= threshold
        with_it[0] = True  # a box without area overlaps nothing, not even itself
        group = left[with_it]
        left = left[~with_it]
        if len(group) >= min_votes:
            weights = np.maximum(scores[group], np.finfo(np.float32).tiny).astype(np.float64)
            merged.append((weights @ boxes[group] / weights.sum())[None])
            best.append(scores[group[0]])
    return np.concatenate(merged).astype(np.float32), np.array(best, np.float32)
