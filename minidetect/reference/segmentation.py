"""Slow twins of graph segmentation and of hierarchical grouping: sets of pixels and plain numbers.

A region is a list of its pixels here. What the kernels keep up to date as regions merge (sizes, boxes, histograms,
neighbours) is computed anew from the pixels each time.

Letters: H, W, C height, width, channels; N regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

Pixels = Sequence[tuple[int, int]]
COLOUR_BINS, TEXTURE_BINS = 25, 10  # of a histogram: "Selective Search for Object Recognition", section 3.2


def filter_image(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """The two-dimensional filter in one piece, in float64; the image's border is repeated outwards."""
    high, wide = len(down) // 2, len(across) // 2
    padded = np.pad(image.astype(np.float64), ((high, high), (wide, wide), (0, 0)), mode="edge")
    out = np.zeros(image.shape)
    for s, a in enumerate(down):
        for t, b in enumerate(across):
            out += float(a) * float(b) * padded[s : s + image.shape[0], t : t + image.shape[1]]
    return out


def segment(image: np.ndarray, k: float, min_size: int) -> np.ndarray:
    """(H, W, C) -> (H, W): Felzenszwalb and Huttenlocher's algorithm without smoothing; all of a region is renamed."""
    height, width = image.shape[:2]
    edges = []
    for y in range(height):
        for x in range(width):
            for y2, x2 in ((y, x + 1), (y + 1, x), (y + 1, x + 1), (y + 1, x - 1)):
                if y2 < height and 0 <= x2 < width:
                    edges.append((colour_distance(image[y, x], image[y2, x2]), (y, x), (y2, x2)))
    edges.sort(key=lambda edge: edge[0])  # stable
    members = {(y, x): [(y, x)] for y in range(height) for x in range(width)}  # pixel -> all pixels of its region
    heaviest = {id(region): 0.0 for region in members.values()}
    for weight, p, q in edges:
        a, b = members[p], members[q]
        if a is not b and all(weight <= heaviest[id(r)] + k / len(r) for r in (a, b)):
            heaviest[id(merge(a, b, members))] = weight
    for _, p, q in edges:
        a, b = members[p], members[q]
        if a is not b and min(len(a), len(b)) < min_size:
            merge(a, b, members)
    names: dict[int, int] = {}
    return np.array([[names.setdefault(id(members[y, x]), len(names)) for x in range(width)] for y in range(height)])


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    total = np.float32(0)
    for p, q in zip(a, b, strict=True):
        total += (np.float32(p) - np.float32(q)) * (np.float32(p) - np.float32(q))
    return float(np.sqrt(total))


def merge(a: list, b: list, members: dict) -> list:
    """All pixels of b move to a, and each learns that it lives there now."""
    a += b
    for pixel in b:
        members[pixel] = a
    return a


# ------------------------------------------------------------------ hierarchical grouping


def similarity(a: Pixels, b: Pixels, colour: np.ndarray, texture: np.ndarray, area: int, with_colour: bool) -> float:
    """How alike two regions are; colour (H, W, C) and texture (H, W, D) hold the bin of every pixel.

    "Selective Search for Object Recognition", section 3.2: texture + size + fill, or colour as well.
    """
    total = histogram_intersection(a, b, texture, TEXTURE_BINS)
    total += 1 - (len(a) + len(b)) / area
    left, top, right, bottom = bounding_box([*a, *b])
    total += 1 - ((right - left) * (bottom - top) - len(a) - len(b)) / area
    return total + histogram_intersection(a, b, colour, COLOUR_BINS) if with_colour else total


def histogram_intersection(a: Pixels, b: Pixels, bins: np.ndarray, num: int) -> float:
    """The sum of min(p, q) over the bins of two histograms that each have the sum 1."""
    shared = 0
    for channel in range(bins.shape[2]):
        for k in range(num):
            in_a = sum(int(bins[y, x, channel] == k) for y, x in a)
            in_b = sum(int(bins[y, x, channel] == k) for y, x in b)
            shared += min(in_a * len(b), in_b * len(a))  # whole numbers, divided once: the least rounding
    return shared / (bins.shape[2] * len(a) * len(b))


def bounding_box(pixels: Pixels) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2; a pixel is a square of side 1."""
    rows, columns = [y for y, _ in pixels], [x for _, x in pixels]
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def touch(a: Pixels, b: Pixels) -> bool:
    """Whether a pixel of one is among the eight neighbours of a pixel of the other."""
    return any(max(abs(y - v), abs(x - u)) == 1 for y, x in a for v, u in b)


def group_regions(
    labels: np.ndarray, colour: np.ndarray, texture: np.ndarray, with_colour: bool
) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int]]]:
    """The boxes of all 2 N - 1 regions and the two parts of each merged one: always the most similar neighbours."""
    regions = {n: [tuple(p) for p in np.argwhere(labels == n).tolist()] for n in range(int(labels.max()) + 1)}
    boxes, parts = [bounding_box(pixels) for pixels in regions.values()], []
    while len(regions) > 1:
        scores = {
            (m, n): similarity(regions[m], regions[n], colour, texture, labels.size, with_colour)
            for m, n in combinations(sorted(regions), 2)
            if touch(regions[m], regions[n])
        }
        m, n = min(scores, key=lambda pair: (-scores[pair], pair))
        regions[len(boxes)] = regions.pop(m) + regions.pop(n)
        parts.append((m, n))
        boxes.append(bounding_box(regions[len(boxes)]))
    return boxes, parts
