"""Solutions of lesson 08. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np


def grow(weights, first, second, num, k):
    """Each pixel names a parent in its region; whoever is its own parent is the region's root and speaks for it."""
    parent, size, limit = list(range(num)), [1] * num, [float(k)] * num

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]  # hang i higher, so that the next way up is shorter
            i = parent[i]
        return i

    for weight, i, j in zip(weights, first, second, strict=True):
        a, b = root(i), root(j)
        if a != b and weight <= min(limit[a], limit[b]):
            parent[b] = a
            size[a] += size[b]
            limit[a] = weight + k / size[a]
    return np.array([root(i) for i in range(num)])


def similarity(a, b, area):
    """Colour, texture, size and fill, each from 0 to 1."""
    (size_a, box_a, *histograms_a), (size_b, box_b, *histograms_b) = a, b
    left, top = np.minimum(box_a[:2], box_b[:2])
    right, bottom = np.maximum(box_a[2:], box_b[2:])
    alike = [np.minimum(p / p.sum(), q / q.sum()).sum() for p, q in zip(histograms_a, histograms_b, strict=True)]
    small = 1 - (size_a + size_b) / area
    fill = 1 - ((right - left) * (bottom - top) - size_a - size_b) / area
    return sum(alike) + small + fill


def source_boxes(boxes, side, padding):
    """The box fills side - 2 padding pixels of the input, so all of it shows side / (side - 2 padding) as much."""
    boxes = np.asarray(boxes, float)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = size * side / (side - 2 * padding) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def dual_step(w, alpha, x, s, price):
    """To the bottom of the parabola, but not beyond 0 or the price; w moves by what alpha really moved."""
    slope = s * (w @ x) - 1
    new = min(max(alpha - slope / (x @ x), 0.0), price)
    return w + (new - alpha) * s * x, new


def refresh(kept, shown, scores, add_above, evict_below):
    """The kept ones that are not yet easy, and the shown ones that are hard."""
    kept, shown = np.asarray(kept, int), np.asarray(shown, int)
    still = kept[scores[kept] >= evict_below]
    return np.union1d(still, shown[scores[shown] > add_above])
