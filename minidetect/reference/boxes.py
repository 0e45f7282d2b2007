"""Slow twins of everything the library does with boxes: plain Python numbers, one box at a time.

They are what the tests and lessons believe, so they share no code with the kernels and use no trick. A box
is any sequence x1, y1, x2, y2, and width is x2 - x1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Box = Sequence[float]


def shared_area(a: Box, b: Box) -> float:
    """Area of the rectangle that two boxes have in common."""
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[2], b[2]), min(a[3], b[3])
    if right <= left or bottom <= top:
        return 0.0
    return (right - left) * (bottom - top)


def box_area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    shared = shared_area(a, b)
    return shared / (box_area(a) + box_area(b) - shared) if shared > 0 else 0.0


def intersection_over_first(a: Box, b: Box) -> float:
    """The share of box `a` that lies in box `b`."""
    shared = shared_area(a, b)
    return shared / box_area(a) if shared > 0 else 0.0


def intersection_over_smaller(a: Box, b: Box) -> float:
    shared = shared_area(a, b)
    return shared / min(box_area(a), box_area(b)) if shared > 0 else 0.0


def nms(boxes: Sequence[Box], scores: Sequence[float], threshold: float, mode: str = "union") -> list[int]:
    """Greedy non-maximum suppression: take the best box left, strike out what it overlaps, repeat."""
    overlap = {"union": iou, "min": intersection_over_smaller}[mode]
    boxes = [[float(v) for v in box] for box in boxes]
    left = list(range(len(boxes)))
    kept = []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        kept.append(best)
        left = [i for i in left if i != best and not overlap(boxes[best], boxes[i]) > threshold]
    return kept


def response_map_pool(scores: np.ndarray, k: int, mode: str = "block") -> np.ndarray:
    """Keep each block's maximum ("block"), or each point that is the maximum of its own window ("slide")."""
    out = np.zeros_like(scores)
    height, width = scores.shape
    if mode == "block":
        for y in range(0, height, k):
            for x in range(0, width, k):
                block = scores[y : y + k, x : x + k]
                dy, dx = np.unravel_index(np.argmax(block), block.shape)  # argmax: the first in row order
                out[y + dy, x + dx] = block.max()
        return out
    for y in range(height):
        for x in range(width):
            top, left = max(0, y - k + 1), max(0, x - k + 1)
            window = scores[top : y + k, left : x + k]
            dy, dx = np.unravel_index(np.argmax(window), window.shape)
            if (top + dy, left + dx) == (y, x):
                out[y, x] = scores[y, x]
    return out


def encode(proposal: Box, gt: Box) -> tuple[float, float, float, float]:
    """FaceCraft, Eq. (2)-(5), of one pair."""
    wp, hp = proposal[2] - proposal[0], proposal[3] - proposal[1]
    w, h = gt[2] - gt[0], gt[3] - gt[1]
    tx = ((gt[0] + w / 2) - (proposal[0] + wp / 2)) / wp
    ty = ((gt[1] + h / 2) - (proposal[1] + hp / 2)) / hp
    return tx, ty, math.log(w / wp), math.log(h / hp)


def decode(proposal: Box, delta: Sequence[float]) -> tuple[float, float, float, float]:
    """The box that a delta of `encode` points to."""
    wp, hp = proposal[2] - proposal[0], proposal[3] - proposal[1]
    x, y = proposal[0] + wp / 2 + delta[0] * wp, proposal[1] + hp / 2 + delta[1] * hp
    w, h = wp * math.exp(delta[2]), hp * math.exp(delta[3])
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2
