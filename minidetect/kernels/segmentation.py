"""Graph segmentation: neighbouring pixels grow together as long as the edge between them is no worse than those inside.

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004; selective search starts from it.

    filter_image    Gaussian smoothing (and, for grouping.py, Gaussian derivatives): one separable filter
    pixel_graph     every pixel with its eight neighbours; an edge weighs the distance of their colours
    segment_graph   edges by rising weight; two regions become one where the edge weighs at most, for each of the two,
                    its heaviest edge so far + k / pixels in it; then regions below min_size join a neighbour

A large k prefers large regions. The threshold falls as a region grows: a single pixel may cross an edge of weight k,
ten thousand pixels hardly any edge heavier than those they have crossed.

All kernels here round exactly as written, and edges of equal weight keep the order of the pixels, so that an image
has the same regions on every machine.

Letters: H, W, C height, width, channels; E edges, at most four a pixel; T reach of a filter, 2 T + 1 taps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.kernels.dispatch import exact_kernel

# The half of the eight neighbours that come later in the image: right, below, below right, below left.
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
REACH = 4.0  # a Gaussian is cut off at this many sigmas


class PixelGraph(NamedTuple):
    """Edges by rising weight. weights (E,) float32; first, second (E,) int32: pixels, counted by rows."""

    weights: np.ndarray
    first: np.ndarray
    second: np.ndarray
    size: tuple[int, int]  # (height, width)


# ------------------------------------------------------------------ filters


def gaussian_taps(sigma: float) -> np.ndarray:
    """(2 T + 1,) float32, sum 1; a single 1 for sigma 0, which changes nothing."""
    if not 0 <= sigma < np.inf:
        raise ValueError(f"sigma must be 0 (no smoothing) or more pixels, got {sigma}")
    if sigma == 0:
        return np.ones(1, np.float32)
    at = np.arange(-np.ceil(REACH * sigma), np.ceil(REACH * sigma) + 1)
    taps = np.exp(-0.5 * (at / sigma) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def derivative_taps(sigma: float) -> np.ndarray:
    """(2 T + 1,) float32, the slope of a Gaussian, scaled so that a ramp that rises by 1 a pixel gives 1."""
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma of a derivative must be above 0, got {sigma}")
    taps = gaussian_taps(sigma).astype(np.float64)
    at = np.arange(len(taps)) - len(taps) // 2
    return (taps * at / (taps * at * at).sum()).astype(np.float32)


def filter_image(image: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """One filter along the columns, then one along the rows; beyond its border the image goes on as it ends.

    image (H, W, C) of any type; down, across: odd numbers of taps, float32. Returns (H, W, C) float32:
    y[i, j] = sum over s, t of down[T + s] * across[T + t] * image[i + s, j + t].
    """
    image = np.ascontiguousarray(image, np.float32)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image must be (H, W, C) with at least one pixel, got shape {image.shape}")
    out = np.empty_like(image)
    row = np.empty((image.shape[1] + len(across) - 1, image.shape[2]), np.float32)  # a row with its margins
    _filter(image.reshape(len(image), -1), down, across, row.ravel(), image.shape[2], out.reshape(len(image), -1))
    return out


@exact_kernel
def _filter(image, down, across, row, channels, out):
    """image, out (H, W*C); row ((W + 2 T) * C,): room for one filtered row with T pixels of margin at each end."""
    height, length = image.shape
    reach, margin = down.size // 2, across.size // 2 * channels
    for i in range(height):
        row[:] = 0
        for s in range(down.size):
            weight, source = down[s], image[min(max(i + s - reach, 0), height - 1)]
            for k in range(length):
                row[margin + k] += weight * source[k]
        for k in range(margin):
            row[k] = row[margin + k % channels]
            row[margin + length + k] = row[margin + length - channels + k % channels]
        out[i] = 0
        for t in range(across.size):
            weight, source = across[t], row[t * channels : t * channels + length]
            for k in range(length):
                out[i, k] += weight * source[k]


# ------------------------------------------------------------------ the graph


def segment(image: np.ndarray, k: float = 100.0, min_size: int = 50, sigma: float = 0.8) -> np.ndarray:
    """The region of every pixel: (H, W, C) -> (H, W) int32, numbered from 0 in the order in which they begin.

    image: values from 0 to 255, uint8 or float. k: the larger, the larger the regions. min_size: of a region, in
    pixels. sigma: of the smoothing before, in pixels; 0 for none. Every region is connected, at least by corners.
    Raises ValueError for an image without pixels, and for settings out of range.
    """
    return segment_graph(pixel_graph(image, sigma), k, min_size)


def pixel_graph(image: np.ndarray, sigma: float = 0.8) -> PixelGraph:
    """The sorted edges of a smoothed image; several values of k can share them. Arguments: as `segment`."""
    taps = gaussian_taps(sigma)
    image = filter_image(image, taps, taps)
    height, width = image.shape[:2]
    if image.size and not np.isfinite(image).all():
        raise ValueError("image holds numbers that are not finite")
    num = sum((height - dy) * (width - abs(dx)) for dy, dx in STEPS)
    weights, edges = np.empty(num, np.float32), np.empty(num, np.uint64)
    _weigh(image, np.array(STEPS), weights, edges)
    # Positive floats are ordered as their bits are. With the edge's number behind them, one sort of whole numbers,
    # which NumPy does with vector instructions, is the stable sort, in half the time of a stable argsort.
    keys = (weights.view(np.uint32).astype(np.uint64) << np.uint64(32)) | edges
    keys.sort()
    edges = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    first = edges // len(STEPS)
    second = first + np.array([dy * width + dx for dy, dx in STEPS])[edges % len(STEPS)]
    weights = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return PixelGraph(weights, first.astype(np.int32), second.astype(np.int32), (height, width))


@exact_kernel
def _weigh(image, steps, weights, edges):
    """Edge number: 4 * pixel + step. Pixels by rows, so that the numbers rise."""
    height, width, channels = image.shape
    at = 0
    for y in range(height):
        for x in range(width):
            for s in range(steps.shape[0]):
                y2, x2 = y + steps[s, 0], x + steps[s, 1]
                if y2 < height and 0 <= x2 < width:
                    total = weights.dtype.type(0)
                    for c in range(channels):
                        change = image[y, x, c] - image[y2, x2, c]
                        total += change * change
                    weights[at] = np.sqrt(total)
                    edges[at] = (y * width + x) * steps.shape[0] + s
                    at += 1


def segment_graph(graph: PixelGraph, k: float, min_size: int) -> np.ndarray:
    """The regions of a graph; see `segment`."""
    if not 0 <= k < np.inf or min_size < 0:
        raise ValueError(f"segment: k and min_size must be 0 or more, got {k} and {min_size}")
    num = graph.size[0] * graph.size[1]
    parent, sizes = np.arange(num, dtype=np.int32), np.ones(num, np.int32)
    labels = np.full(num, -1, np.int32)
    _grow(graph.weights, graph.first, graph.second, float(k), parent, sizes, np.full(num, float(k)))
    _join_small(graph.first, graph.second, int(min_size), parent, sizes)
    _number(parent, labels, np.empty(num, np.int32))
    return labels.reshape(graph.size)


@exact_kernel
def _find(parent, i):
    """The root of i's tree. On the way every second pixel is hung higher, so that trees stay flat."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@exact_kernel
def _union(parent, sizes, a, b):
    """Hang the smaller of two roots under the larger, which is returned."""
    if sizes[a] < sizes[b]:
        a, b = b, a
    parent[b] = a
    sizes[a] += sizes[b]
    return a


@exact_kernel
def _grow(weights, first, second, k, parent, sizes, limit):
    """limit (H*W,): of a root, the heaviest edge in its region + k / its pixels; at first k."""
    for e in range(weights.size):
        a, b, weight = _find(parent, first[e]), _find(parent, second[e]), float(weights[e])
        if a != b and weight <= limit[a] and weight <= limit[b]:
            root = _union(parent, sizes, a, b)
            limit[root] = weight + k / sizes[root]  # edges come by rising weight: this one is the heaviest


@exact_kernel
def _join_small(first, second, min_size, parent, sizes):
    for e in range(first.size):
        a, b = _find(parent, first[e]), _find(parent, second[e])
        if a != b and min(sizes[a], sizes[b]) < min_size:
            _union(parent, sizes, a, b)


@exact_kernel
def _number(parent, labels, of_root):
    of_root[:] = -1
    count = 0
    for i in range(parent.size):
        root = _find(parent, i)
        if of_root[root] < 0:
            of_root[root] = count
            count += 1
        labels[i] = of_root[root]
