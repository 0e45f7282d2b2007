"""Solutions of lesson 19. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np


def worst_overlap(side, scale, stride):
    """Half a stride away along both axes; one square inside the other shares no more than the smaller side."""
    along = min(side, scale, max((side + scale - stride) / 2, 0))
    return along**2 / (side**2 + scale**2 - along**2)


def second_pass(iou, matched, least):
    """Faces without an anchor take their best one of those that nobody has and that suit nobody better."""
    out = matched.copy()
    if iou.size == 0:
        return out
    suits = iou.argmax(axis=1)  # (A,), the face that each anchor overlaps most
    for face in np.setdiff1d(np.arange(iou.shape[1]), matched):
        rows = np.flatnonzero((out < 0) & (iou[:, face] >= least) & (suits == face))
        if len(rows):
            out[rows[iou[rows, face].argmax()]] = face
    return out


def sample_groups(labels, groups, num, rng):
    """A quarter objects if there are so many; background takes the rest."""
    chosen = []
    for group in np.unique(groups):
        positives = np.flatnonzero((groups == group) & (labels == 1))
        negatives = np.flatnonzero((groups == group) & (labels == 0))
        positives = rng.choice(positives, min(len(positives), num // 4), replace=False)
        negatives = rng.choice(negatives, min(len(negatives), num - len(positives)), replace=False)
        chosen.append((positives, negatives))
    return chosen


def weighted_rows(losses, r, num):
    """The logarithm of r ** (1 / (loss + 1e-6)), the largest first."""
    return np.argsort(-np.log(r) / (losses + 1e-6), kind="stable")[:num]


def group_loss(class_losses, box_losses, samples):
    """Two means for each group; a mean of nothing is 0."""
    total = 0.0
    for positives, negatives in samples:
        classes = class_losses[positives].sum() + class_losses[negatives].sum()
        total += classes / max(len(positives) + len(negatives), 1)
        total += box_losses[positives].sum() / max(len(positives), 1)
    return total
