"""Hierarchical grouping: the two most similar neighbouring regions become one, again and again, down to one region.

Uijlings, van de Sande, Gevers and Smeulders, "Selective Search for Object Recognition", IJCV 2013, section 3. What
every region remembers, and what a merged one gets from its parts a and b:

    size       pixels                                                        a + b
    box        the tightest                                                  the box around both
    colour     a histogram of 25 bins a channel                              a + b, bin by bin
    texture    8 orientations a channel, 10 bins of a Gaussian derivative    a + b, bin by bin

The paper divides histograms by their sum and merges them weighted by size. Here they stay counts, which is the same
but exact: whole numbers, divided by the sizes only where two regions are compared.

    similarity = texture + size + fill (+ colour), each from 0 to 1
    colour, texture    the histograms' intersection, the sum of min(p, q)
    size               1 - (a + b) / image: small regions merge early
    fill               1 - (box around both - a - b) / image: regions that fit into one another merge early

Where the paper leaves it open: regions are neighbours if pixels of theirs touch, by corners included; a derivative is
counted where it is positive, in bins up to what a step from black to white gives; of equal similarities the pair of
regions that came first wins.

Letters: H, W, C height, width, channels; N regions, P pairs of neighbours, D = 8 C texture channels.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np

from minidetect.kernels.dispatch import exact_kernel, kernel
from minidetect.kernels.segmentation import derivative_taps, filter_image, gaussian_taps

COLOUR_BINS, TEXTURE_BINS = 25, 10
ORIENTATIONS = 8
STEEPEST = 0.4 * 255  # of a Gaussian of sigma 1 across a step from 0 to 255: 255 / sqrt(2 pi) = 102


class Regions(NamedTuple):
    """N regions. sizes (N,) int64; boxes (N, 4) int32 x1, y1, x2, y2; counts of pixels in each bin:
    colour (N, C * 25) and texture (N, D * 10) int32; pairs (P, 2) int64: neighbours, the lower number first."""

    sizes: np.ndarray
    boxes: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    pairs: np.ndarray


class Hierarchy(NamedTuple):
    """boxes (2 N - 1, 4) int32: the N regions, then the merged ones, the whole image last.
    parts (N - 1, 2) int64: the two regions that region N + i was merged from."""

    boxes: np.ndarray
    parts: np.ndarray


# ------------------------------------------------------------------ regions


def colour_bins(image: np.ndarray) -> np.ndarray:
    """The bin of every value: (H, W, C) uint8 -> (H, W, C) uint8 below 25."""
    return (np.arange(256) * COLOUR_BINS // 256).astype(np.uint8)[image]


def texture_bins(image: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """The bin of every Gaussian derivative: (H, W, C) uint8 -> (H, W, D) uint8 below 10; D by channel, orientation.

    Orientation o of 8 looks along the angle o * 45 degrees; a negative derivative, which the opposite orientation
    sees as a positive one, counts as 0.
    """
    smooth, slope = gaussian_taps(sigma), derivative_taps(sigma)
    out = np.empty((*image.shape[:2], image.shape[2] * ORIENTATIONS), np.uint8)
    angles = np.arange(ORIENTATIONS) * (2 * np.pi / ORIENTATIONS)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    along_x, along_y = filter_image(image, smooth, slope), filter_image(image, slope, smooth)
    _orient(along_x, along_y, directions, np.float32(TEXTURE_BINS / STEEPEST), TEXTURE_BINS - 1, out)
    return out


@exact_kernel
def _orient(along_x, along_y, directions, scale, last, out):
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for c in range(along_x.shape[2]):
                gx, gy = along_x[y, x, c] * scale, along_y[y, x, c] * scale
                for o in range(directions.shape[0]):
                    steep = directions[o, 0] * gx + directions[o, 1] * gy
                    out[y, x, c * directions.shape[0] + o] = min(int(max(steep, np.float32(0))), last)


def describe_regions(labels: np.ndarray, colour: np.ndarray, texture: np.ndarray) -> Regions:
    """What grouping needs to know of each region.

    labels (H, W), from 0 without gaps; colour (H, W, C), texture (H, W, D): bins of `colour_bins`, `texture_bins`.
    Raises ValueError where shapes differ or a number has no pixel.
    """
    if labels.ndim != 2 or labels.size == 0 or not labels.shape == colour.shape[:2] == texture.shape[:2]:
        raise ValueError(
            f"labels (H, W), colour (H, W, C) and texture (H, W, D) must be of one size, got {labels.shape}, "
            f"{colour.shape} and {texture.shape}"
        )
    if labels.min() < 0 or not (sizes := np.bincount(labels.ravel())).all():
        raise ValueError(f"labels must be 0 to N - 1, each of them used, got some of {labels.min()} to {labels.max()}")
    num, (height, width) = len(sizes), labels.shape
    boxes = np.tile(np.array([width, height, 0, 0], np.int32), (num, 1))
    counts = [
        np.zeros((num, bins.shape[2] * each), np.int32)
        for bins, each in ((colour, COLOUR_BINS), (texture, TEXTURE_BINS))
    ]
    touching = np.empty(4 * labels.size, np.int64)  # four of the eight neighbours of each pixel
    _count(labels, colour, COLOUR_BINS, counts[0])
    _count(labels, texture, TEXTURE_BINS, counts[1])
    found = _enclose(labels, num, boxes, touching)
    pairs = np.unique(touching[:found])
    return Regions(sizes, boxes, *counts, np.stack([pairs // num, pairs % num], axis=1))


@exact_kernel
def _count(labels, bins, each, counts):
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            row = counts[labels[y, x]]
            for channel in range(bins.shape[2]):
                row[channel * each + bins[y, x, channel]] += 1


@exact_kernel
def _enclose(labels, num, boxes, touching):
    """Boxes of the regions; into touching, lower label * num + higher label of neighbouring pixels; their number."""
    height, width = labels.shape
    found = 0
    for y in range(height):
        for x in range(width):
            here = labels[y, x]
            boxes[here, 0], boxes[here, 1] = min(boxes[here, 0], x), min(boxes[here, 1], y)
            boxes[here, 2], boxes[here, 3] = max(boxes[here, 2], x + 1), max(boxes[here, 3], y + 1)
            for y2, x2 in ((y, x + 1), (y + 1, x), (y + 1, x + 1), (y + 1, x - 1)):
                if y2 < height and 0 <= x2 < width and labels[y2, x2] != here:
                    there = labels[y2, x2]
                    touching[found] = np.int64(min(here, there)) * num + max(here, there)
                    found += 1
    return found


# ------------------------------------------------------------------ grouping


def group_regions(regions: Regions, with_colour: bool = True) -> Hierarchy:
    """Merge the most similar neighbours until one region is left; with_colour: whether colour is looked at as well."""
    num, area = len(regions.sizes), int(regions.sizes.sum())
    total = 2 * num - 1
    sizes, boxes, colour, texture = (
        np.concatenate([part, np.zeros((num - 1, *part.shape[1:]), part.dtype)]) for part in regions[:4]
    )
    parts = np.empty((num - 1, 2), np.int64)
    # Each region has a list of neighbours: `head` is its first entry, `following` the next one of each entry. Entry
    # 2 i stands for pair i in the list of its first region, 2 i + 1 in that of its second.
    head, following = np.full(total, -1), np.empty(2 * len(regions.pairs), np.int64)
    other = np.ascontiguousarray(regions.pairs[:, ::-1]).ravel()
    _link(regions.pairs.ravel(), head, following)
    into, seen = np.arange(total), np.full(total, -1)
    _merge_all(sizes, boxes, colour, texture, float(area), with_colour, head, following, other, into, seen, parts)
    return Hierarchy(boxes, parts)


@exact_kernel
def _link(owner, head, following):
    for entry in range(owner.size):
        following[entry] = head[owner[entry]]
        head[owner[entry]] = entry


@exact_kernel
def _merge_all(sizes, boxes, colour, texture, area, with_colour, head, following, other, into, seen, parts):
    """into (2 N - 1,): the region that a region has become part of, itself at first."""
    queue = [(0.0, 0, 0)]  # for the compiler: what such a list holds
    queue.pop()
    num = parts.shape[0] + 1
    for a in range(num):
        entry = head[a]
        while entry >= 0:
            b = other[entry]
            if a < b:
                queue.append((-_similarity(sizes, boxes, colour, texture, area, with_colour, a, b), a, b))
            entry = following[entry]
    heapq.heapify(queue)
    new = num
    while new < sizes.size:
        _, a, b = heapq.heappop(queue)
        if into[a] != a or into[b] != b:
            continue  # one of them is part of another region by now
        parts[new - num, 0], parts[new - num, 1] = a, b
        into[a], into[b] = new, new
        _add_up(sizes, boxes, colour, texture, a, b, new)
        _take_over(head, following, other, into, seen, a, b, new)
        entry = head[new]
        while entry >= 0:
            c = other[entry]
            heapq.heappush(queue, (-_similarity(sizes, boxes, colour, texture, area, with_colour, c, new), c, new))
            entry = following[entry]
        new += 1


@exact_kernel
def _add_up(sizes, boxes, colour, texture, a, b, new):
    sizes[new] = sizes[a] + sizes[b]
    for i in range(2):
        boxes[new, i] = min(boxes[a, i], boxes[b, i])
        boxes[new, i + 2] = max(boxes[a, i + 2], boxes[b, i + 2])
    for k in range(colour.shape[1]):
        colour[new, k] = colour[a, k] + colour[b, k]
    for k in range(texture.shape[1]):
        texture[new, k] = texture[a, k] + texture[b, k]


@exact_kernel
def _take_over(head, following, other, into, seen, a, b, new):
    """The new region's neighbours: those of both parts, each once. Their own lists still name a or b; whoever reads
    them asks `into` what has become of it."""
    for part in (a, b):
        entry = head[part]
        while entry >= 0:
            after, c = following[entry], other[entry]
            while into[c] != c:
                into[c] = into[into[c]]
                c = into[c]
            if c != new and seen[c] != new:
                seen[c] = new
                other[entry], following[entry] = c, head[new]
                head[new] = entry
            entry = after


@exact_kernel
def _similarity(sizes, boxes, colour, texture, area, with_colour, a, b):
    width = max(boxes[a, 2], boxes[b, 2]) - min(boxes[a, 0], boxes[b, 0])
    height = max(boxes[a, 3], boxes[b, 3]) - min(boxes[a, 1], boxes[b, 1])
    size_a, size_b = float(sizes[a]), float(sizes[b])
    total = _intersection(texture[a], texture[b], size_a, size_b, TEXTURE_BINS)
    total += 1 - (size_a + size_b) / area
    total += 1 - (float(width) * float(height) - size_a - size_b) / area
    return total + _intersection(colour[a], colour[b], size_a, size_b, COLOUR_BINS) if with_colour else total


@kernel
def _intersection(a, b, size_a, size_b, each):
    """sum of min(a / size_a, b / size_b) over the bins, divided by the number of histograms; each: bins of one.

    Every term of the sum is a whole number, exact in float64 for images of up to 39 million pixels, so that the
    compiler may add them in any order (it adds several at a time) and the result is the same.
    """
    shared = 0.0
    for k in range(a.size):
        shared += min(a[k] * size_b, b[k] * size_a)
    return shared / (a.size // each * size_a * size_b)
