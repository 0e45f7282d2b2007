"""Solutions of lesson 12. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np

from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import clip_to_image
from minidetect.kernels.nms import nms


def cell_anchors(sides, ratios):
    """width * height = side * side and height / width = ratio, solved for the two."""
    anchors = []
    for side in sides:
        for ratio in ratios:
            width, height = side / ratio**0.5, side * ratio**0.5
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return np.array(anchors, float).reshape(-1, 4)


def anchor_grid(cell, height, width, stride):
    """The last two axes are written down last, so they vary fastest: rows, columns, anchors, corners."""
    y, x = np.mgrid[:height, :width]
    centres = (np.stack([x, y, x, y], axis=2) + 0.5) * stride  # (H, W, 4)
    return (centres[:, :, None] + cell).reshape(-1, 4)  # (H, W, A, 4) -> (H*W*A, 4)


def moved_rows(rows, down, right, height, width, num):
    """A row is a number of three digits: the map's row, its column, the anchor."""
    rows = np.asarray(rows, int)
    y, x, anchor = rows // (width * num) + down, rows // num % width + right, rows % num
    on_map = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(on_map, (y * width + x) * num + anchor, -1)


def label_anchors(iou):
    """The weakest rule first, so that a stronger one overwrites it."""
    num, objects = iou.shape
    labels = np.full(num, -2)
    if num == 0 or objects == 0:
        return np.full(num, -1)
    labels[iou.max(axis=1) < 0.3] = -1
    best = (iou == iou.max(axis=0)) & (iou > 0)  # (N, G): anchor n is the best of object g
    forced = best.any(axis=1)
    labels[forced] = np.where(best, iou, -1)[forced].argmax(axis=1)
    clear = iou.max(axis=1) >= 0.7
    labels[clear] = iou[clear].argmax(axis=1)
    return labels


def sample_anchors(labels, num, rng):
    """At most half positive; negatives fill what is left."""
    pos, neg = np.flatnonzero(labels >= 0), np.flatnonzero(labels == -1)
    pos = rng.choice(pos, min(len(pos), num // 2), replace=False)
    neg = rng.choice(neg, min(len(neg), num - len(pos)), replace=False)
    return pos, neg


def rpn_loss(class_losses, box_losses, positions, weight):
    """Eq. (1): two sums, each with a divisor of its own."""
    class_term = class_losses.sum() / max(len(class_losses), 1)
    return class_term, weight * box_losses.sum() / positions


def propose(anchors, deltas, scores, image_size, min_side, threshold, most):
    """Decode, clip, drop what is too small, suppress; nms returns the best first."""
    boxes = clip_to_image(BoxCoder().decode(anchors, deltas), image_size)
    large = (boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1)
    boxes, scores = boxes[large], scores[large]
    return boxes[nms(boxes, scores, threshold)[:most]]
