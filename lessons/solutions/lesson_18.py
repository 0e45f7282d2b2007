"""Solutions of lesson 18. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np

from minidetect.kernels.iou import iou_matrix


def max_out_gradient(scores, gradient):
    """A one for each winner of its place, over the number of winners there; the face's gradient passes unchanged."""
    wins = scores[:, :3] == scores[:, :3].max(axis=1, keepdims=True)  # (N, 3, PH, PW)
    background = wins / wins.sum(axis=1, keepdims=True) * gradient[:, :1]
    return np.concatenate([background, gradient[:, 1:]], axis=1)


def first_stage(iou):
    """An overlap of 0.35 is enough; then nobody goes without its best."""
    matched = np.full(len(iou), -1)
    if iou.size == 0:
        return matched
    enough = iou.max(axis=1) >= 0.35
    matched[enough] = iou[enough].argmax(axis=1)
    for face in np.flatnonzero(iou.max(axis=0) > 0):
        matched[iou[:, face].argmax()] = face
    return matched


def fill_up(iou, matched):
    """Everybody chooses among the free ones; whoever overlaps an anchor most gets it."""
    if iou.size == 0:
        return matched.copy()
    counts = (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)  # (G,)
    average = int(counts.sum() / len(counts))
    free = np.flatnonzero(matched < 0)
    wanted = np.zeros_like(iou)  # the overlap where a face has chosen an anchor, 0 elsewhere
    for face in np.flatnonzero(counts < average):
        rows = free[iou[free, face] > 0.1]
        rows = rows[np.argsort(-iou[rows, face], kind="stable")[: average - counts[face]]]
        wanted[rows, face] = iou[rows, face]
    return np.where(wanted.max(axis=1) > 0, wanted.argmax(axis=1), matched)


def hard_negatives(losses, matched, ignored, ratio):
    """The largest losses of what is background beyond doubt."""
    background = np.flatnonzero((matched < 0) & ~ignored)
    most = int(ratio * (matched >= 0).sum())
    return np.sort(background[np.argsort(-losses[background], kind="stable")[:most]])


def whole_loss(class_losses, box_losses, lam):
    """Two means; a mean of nothing is 0."""
    classes = class_losses.sum() / max(len(class_losses), 1)
    return lam * classes + box_losses.sum() / max(len(box_losses), 1)


def vote(boxes, scores, threshold):
    """Like suppression, but the winner is moved to the mean of its group."""
    left, merged, best = np.argsort(-scores, kind="stable"), np.zeros((0, 4)), []
    while len(left):
        together = iou_matrix(boxes[left[:1]], boxes[left])[0] >= threshold
        group, left = left[together], left[~together]
        weights = scores[group] / scores[group].sum()
        merged = np.concatenate([merged, weights[None] @ boxes[group]])
        best.append(scores[group[0]])
    return merged, np.array(best)
