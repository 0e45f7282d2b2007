"""Slow twins of the operations of a network: NumPy slices and plain loops, one output at a time.

They say what an operation means and are what the tests, benchmarks and lessons believe; so they share no
code with the kernels, and where a kernel computes indices, these cut slices.

    N images, C channels, O output channels, G groups, H W input size, KH KW kernel size, PH PW output size

Sums are taken in float64 and cast to the input's dtype at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def conv2d(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None,
    stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
) -> np.ndarray:
    """x (N, C, H, W), w (O, C/G, KH, KW), b (O,) or None -> (N, O, PH, PW)."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    num_out, group_channels, kernel_h, kernel_w = w.shape
    reach_h, reach_w = dilation * (kernel_h - 1) + 1, dilation * (kernel_w - 1) + 1
    rows = range(0, x.shape[2] - reach_h + 1, stride)
    columns = range(0, x.shape[3] - reach_w + 1, stride)
    y = np.zeros((len(x), num_out, len(rows), len(columns)))
    for o in range(num_out):
        first = o // (num_out // groups) * group_channels  # the first channel that this output's group reads
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                patch = x[:, first : first + group_channels,
                          top : top + reach_h : dilation, left : left + reach_w : dilation]
                y[:, o, i, j] = (patch * w[o]).sum(axis=(1, 2, 3)) + (0 if b is None else b[o])
    return y.astype(w.dtype)


def windows(
    length: int, kernel: int, stride: int, padding: int, ceil_mode: bool = False
) -> list[slice]:
    """The real pixels that the windows along an axis cover.

    Windows start at -padding, -padding + stride, ... and end inside the padded input. In ceil mode one
    more follows if pixels were left over, provided that it starts before the input ends.
    """
    end = length + padding
    starts = [start for start in range(-padding, end, stride) if start + kernel <= end]
    if ceil_mode and starts:
        following = starts[-1] + stride
        if starts[-1] + kernel < end and following < length:
            starts.append(following)
    return [slice(max(start, 0), min(start + kernel, length)) for start in starts]


def each_window(
    x: np.ndarray, kernel: int, stride: int | None, padding: int, ceil_mode: bool
) -> tuple[np.ndarray, Iterator[tuple[int, int, np.ndarray]]]:
    """An output to fill, and (i, j, the real pixels under window i, j) for every place in it."""
    stride = stride or kernel
    rows = windows(x.shape[2], kernel, stride, padding, ceil_mode)
    columns = windows(x.shape[3], kernel, stride, padding, ceil_mode)
    patches = (
        (i, j, x[:, :, down, across]) for i, down in enumerate(rows) for j, across in enumerate(columns)
    )
    return np.zeros((*x.shape[:2], len(rows), len(columns)), x.dtype), patches


def max_pool2d(
    x: np.ndarray, kernel: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False
) -> np.ndarray:
    """x (N, C, H, W) -> (N, C, PH, PW): the largest real pixel under each window."""
    y, patches = each_window(x, kernel, stride, padding, ceil_mode)
    for i, j, patch in patches:
        y[:, :, i, j] = patch.max(axis=(2, 3))
    return y


def avg_pool2d(
    x: np.ndarray, kernel: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False
) -> np.ndarray:
    """x (N, C, H, W) -> (N, C, PH, PW): the mean of the real pixels (not the padding) under each."""
    y, patches = each_window(x, kernel, stride, padding, ceil_mode)
    for i, j, patch in patches:
        y[:, :, i, j] = patch.mean(axis=(2, 3), dtype=np.float64)
    return y


def roi_pool(
    x: np.ndarray, rois: np.ndarray, size: tuple[int, int], spatial_scale: float = 1.0,
    inclusive: bool = False,
) -> np.ndarray:
    """Fast R-CNN, section 2.1: x (N, C, H, W), rois (R, 5) = image, x1, y1, x2, y2 -> (R, C, PH, PW)."""
    y = np.zeros((len(rois), x.shape[1], *size), x.dtype)
    for r, (image, *box) in enumerate(rois):
        left, top, right, bottom = (math.floor(float(v) * spatial_scale + 0.5) for v in box)
        height = max(bottom - top + inclusive, 1)
        width = max(right - left + inclusive, 1)
        for i in range(size[0]):
            rows = slice(max(top + math.floor(i * height / size[0]), 0),
                         max(top + math.ceil((i + 1) * height / size[0]), 0))
            for j in range(size[1]):
                columns = slice(max(left + math.floor(j * width / size[1]), 0),
                                max(left + math.ceil((j + 1) * width / size[1]), 0))
                cells = x[int(image), :, rows, columns]
                y[r, :, i, j] = cells.max(axis=(1, 2)) if cells.size else 0
    return y


def roi_warp(
    x: np.ndarray, boxes: np.ndarray, image: np.ndarray, size: tuple[int, int], spatial_scale: float = 1.0
) -> np.ndarray:
    """x (N, C, H, W), boxes (R, 4), image (R,) -> (R, C, PH, PW): interpolated at the middles of PH x PW parts."""
    y = np.zeros((len(boxes), x.shape[1], *size), x.dtype)
    for r, (x1, y1, x2, y2) in enumerate(boxes):
        across = (x1 + (np.arange(size[1]) + 0.5) / size[1] * (x2 - x1)) * spatial_scale
        down = (y1 + (np.arange(size[0]) + 0.5) / size[0] * (y2 - y1)) * spatial_scale
        for c, plane in enumerate(x[int(image[r])]):
            columns = np.array([np.interp(across, np.arange(x.shape[3]) + 0.5, row) for row in plane])  # (H, PW)
            y[r, c] = np.array([np.interp(down, np.arange(x.shape[2]) + 0.5, column) for column in columns.T]).T
    return y


def roi_align(
    x: np.ndarray, boxes: np.ndarray, image: np.ndarray, size: tuple[int, int], spatial_scale: float = 1.0,
    samples: int = 2,
) -> np.ndarray:
    """x (N, C, H, W), boxes (R, 4), image (R,) -> (R, C, PH, PW): each bin the mean of `samples` x `samples` points."""
    y = np.zeros((len(boxes), x.shape[1], *size), x.dtype)
    for r, box in enumerate(boxes):
        x1, y1, x2, y2 = (float(v) * spatial_scale for v in box)
        bin_h, bin_w = (y2 - y1) / size[0], (x2 - x1) / size[1]
        for i, j in np.ndindex(*size):
            total = np.zeros(x.shape[1])
            for m, n in np.ndindex(samples, samples):
                down = tent(y1 + (i + (m + 0.5) / samples) * bin_h, x.shape[2])
                across = tent(x1 + (j + (n + 0.5) / samples) * bin_w, x.shape[3])
                total += (x[int(image[r])] * down[:, None] * across).sum(axis=(1, 2))
            y[r, :, i, j] = total / samples**2
    return y


def leaky_relu(x: np.ndarray, slope: float = 0.01) -> np.ndarray:
    y = x.copy()
    y[x < 0] *= slope
    return y


def prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """x (N, C, ...), slope (C,): below zero, channel c is multiplied by slope[c]."""
    y = x.copy()
    for c in range(x.shape[1]):
        y[:, c] = np.maximum(x[:, c], 0) + slope[c] * np.minimum(x[:, c], 0)
    return y


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """exp(x_i) / sum_j exp(x_j) along `axis`, one line of values at a time."""
    return np.apply_along_axis(_softmax_of_line, axis, x.astype(np.float64)).astype(x.dtype)


def _softmax_of_line(line: np.ndarray) -> list[float]:
    total = math.fsum(math.exp(v) for v in line)
    return [math.exp(v) / total for v in line]


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.log(softmax(x.astype(np.float64), axis)).astype(x.dtype)


def batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray,
    mean: np.ndarray | None = None, var: np.ndarray | None = None, eps: float = 1e-5,
) -> np.ndarray:
    """x (N, C, ...): every channel by itself; without `mean` and `var` (C,) by its own mean and variance."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c].astype(np.float64)
        m = values.mean() if mean is None else mean[c]
        v = ((values - m) ** 2).mean() if var is None else var[c]
        y[:, c] = gamma[c] * (values - m) / math.sqrt(v + eps) + beta[c]
    return y


def tent(at: float, length: int) -> np.ndarray:
    """Bilinear weights (length,) of a sample point: 1 on a pixel's centre, falling to 0 at the next ones'."""
    at = min(max(at, 0.5), length - 0.5)
    return np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - at))


def holding(at: float, length: int) -> np.ndarray:
    """Nearest: weight 1 for the pixel [i, i + 1) that holds the sample point."""
    pixel = np.arange(length)
    return ((pixel <= at) & (at < pixel + 1)).astype(np.float64)


def covered(low: float, high: float, length: int) -> np.ndarray:
    """Area average: the share of the stretch [low, high) that each pixel [i, i + 1) makes up."""
    shared = [max(0.0, min(high, i + 1) - max(low, i)) for i in range(length)]
    return np.array(shared) / (high - low)


def resize(x: np.ndarray, size: tuple[int, int], mode: str = "bilinear") -> np.ndarray:
    """x (N, C, H, W) -> (N, C, h, w), pixel centres at i + 0.5; mode "bilinear" or "nearest"."""
    weights = tent if mode == "bilinear" else holding
    height, width = x.shape[2:]
    y = np.zeros((*x.shape[:2], *size))
    for i in range(size[0]):
        down = weights((i + 0.5) * height / size[0], height)
        for j in range(size[1]):
            across = weights((j + 0.5) * width / size[1], width)
            y[:, :, i, j] = (x * down[:, None] * across).sum(axis=(2, 3))
    return y.astype(x.dtype)


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One (H, W, C) image -> (h, w, C) float64; an axis that shrinks is averaged, one that grows bilinear."""

    def weights(k: int, old: int, new: int) -> np.ndarray:
        step = old / new
        return covered(k * step, (k + 1) * step, old) if new < old else tent((k + 0.5) * step, old)

    down = np.array([weights(i, image.shape[0], size[0]) for i in range(size[0])])  # (h, H)
    across = np.array([weights(j, image.shape[1], size[1]) for j in range(size[1])])  # (w, W)
    return np.stack([down @ image[:, :, c].astype(np.float64) @ across.T for c in range(image.shape[2])], 2)


def crop_resize(image: np.ndarray, boxes: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
    """image (H, W, C), boxes (N, 4) -> (N, size, size, C): bilinear, and `fill` outside of the image."""
    height, width, channels = image.shape
    crops = np.full((len(boxes), size, size, channels), fill, np.float64)
    for crop, (x1, y1, x2, y2) in zip(crops, np.asarray(boxes, np.float64), strict=True):
        for i in range(size):
            y = y1 + (i + 0.5) * (y2 - y1) / size
            for j in range(size):
                x = x1 + (j + 0.5) * (x2 - x1) / size
                if 0 <= y <= height and 0 <= x <= width:
                    weights = tent(y, height)[:, None] * tent(x, width)
                    crop[i, j] = (image * weights[:, :, None]).sum(axis=(0, 1))
    return crops


def decode_boxes(
    deltas: np.ndarray, anchors: np.ndarray, image_size: tuple[int, int], mean: tuple, std: tuple
) -> np.ndarray:
    """deltas (N, 4), anchors (N, 4) -> boxes (N, 4), one number after the other, clipped to (height, width)."""
    boxes = np.zeros_like(deltas)
    height, width = image_size
    for n, (x1, y1, x2, y2) in enumerate(anchors[: len(deltas)]):
        tx, ty, tw, th = (float(d) * s + m for d, s, m in zip(deltas[n], std, mean, strict=True))
        centre_x, centre_y = (x1 + x2) / 2 + tx * (x2 - x1), (y1 + y2) / 2 + ty * (y2 - y1)
        half_w, half_h = ((b - a) * min(np.exp(t), 1000 / 16) / 2 for a, b, t in ((x1, x2, tw), (y1, y2, th)))
        boxes[n] = [
            min(max(value, 0), most)
            for value, most in (
                (centre_x - half_w, width), (centre_y - half_h, height), (centre_x + half_w, width),
                (centre_y + half_h, height),
            )
        ]  # fmt: skip
    return boxes
