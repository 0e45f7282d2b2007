"""Solutions of lesson 05. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np


def iou(a, b):
    """What two boxes share, over what they cover together."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area_a + area_b - shared)


def nms(boxes, scores, threshold):
    """Take the best box left, strike out what overlaps it by more than the threshold, repeat."""
    left = list(np.argsort(-scores, kind="stable"))  # stable: of equal scores the first stays first
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if iou(boxes[best], boxes[i]) <= threshold]
    return kept


def suppression_mask(boxes, threshold):
    """mask[i, j]: box i comes before box j and overlaps it by more than the threshold."""
    mask = np.zeros((len(boxes), len(boxes)), bool)
    for i in range(len(boxes)):
        for j in range(i + 1, len(boxes)):
            mask[i, j] = iou(boxes[i], boxes[j]) > threshold
    return mask


def block_maxima(scores, k):
    """A slice that reaches over the border is cut off there, so the last blocks need no case of their own."""
    out = np.zeros_like(scores)
    for y in range(0, scores.shape[0], k):
        for x in range(0, scores.shape[1], k):
            block = scores[y : y + k, x : x + k]
            row, column = np.unravel_index(block.argmax(), block.shape)
            out[y + row, x + column] = block[row, column]
    return out


def ellipse_iou(ellipse, box):
    """Count the points of a fine grid, 8 x 8 a pixel, that lie in both, and in either."""
    cx, cy, half_width, half_height = ellipse
    x, y = np.meshgrid((np.arange(80) + 0.5) / 8, (np.arange(80) + 0.5) / 8)
    in_ellipse = ((x - cx) / half_width) ** 2 + ((y - cy) / half_height) ** 2 <= 1
    in_box = (box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])
    return (in_ellipse & in_box).sum() / (in_ellipse | in_box).sum()
