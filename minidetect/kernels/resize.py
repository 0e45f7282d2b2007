"""Resampling: whole images, many boxes of one image, and feature maps with their gradients.

    H, W, h, w   height and width of what is read, and of what is written
    N, C         images (or boxes), channels

One convention everywhere. A pixel is a square of side 1, pixel i covers [i, i + 1) and its value stands at
its centre i + 0.5 ("half-pixel centres", `align_corners=False` elsewhere). Output pixel j of n, read from
the stretch [a, b) of the input, therefore looks at a + (j + 0.5) * (b - a) / n. Boxes use the same
continuous coordinates, so cropping the box (0, 0, W, H) is the same as resizing the image.

    resize_image       HWC image -> HWC image; area average when shrinking, bilinear when growing
    crop_resize        N boxes of one HWC image -> (N, size, size, C), bilinear
    resize_maps        NCHW -> NCHW, bilinear or nearest; resize_maps_grad is its transpose

Bilinear shrinking by more than 2 skips pixels (aliasing): `crop_resize` is meant to be given the pyramid
level in which a box is about as large as its crop. A wider filter is left out there for the sake of speed.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from minidetect.kernels.device import find_twin, is_on_gpu, on_either_device
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange

MODES = ("bilinear", "nearest")


# ------------------------------------------------------------------ images: HWC


def resize_image(image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """Resize one image to `size` = (height, width).

    image: (H, W, C) or (H, W), uint8 or float. uint8 gives uint8, rounded to nearest; floats give float32.
    out: a contiguous array of the result's shape and type to write to, else a new one is made.
    Each axis by itself: an axis that shrinks averages the area that an output pixel covers, with fractions
    of pixels at both ends, so that no input pixel is skipped or counted twice; one that grows is bilinear.
    Raises ValueError for a wrong number of axes, an empty image or a size below 1.

    It runs where the image is: on the GPU for an image there, and then `out` is there too. `use_device` does not take
    it there, since that would fill a copy of `out`.
    """
    if is_on_gpu(image):
        return find_twin(resize_image)(image, size, out)
    image = np.asarray(image)
    shape, dtype = check_resize(image, size, out)
    out = np.empty(shape, dtype) if out is None else out
    if not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous {shape} of {dtype.__name__}, got one with gaps")
    height, width = shape[:2]
    if image.shape[:2] == (height, width):
        out[...] = image
        return out
    rows = np.ascontiguousarray(image, dtype).reshape(image.shape[0], -1)  # (H, W*C)
    channels = image.shape[2] if image.ndim == 3 else 1
    row = np.empty((rows.shape[1],), np.float32)
    first_y, weight_y = axis_weights(image.shape[0], height)
    first_x, weight_x = axis_weights(image.shape[1], width)
    half = np.float32(0.5 if dtype == np.uint8 else 0)
    resample(rows, channels, first_y, weight_y, first_x, weight_x, half, row, out.reshape(height, -1))
    return out


def check_resize(image: Any, size: tuple[int, int], out: Any) -> tuple[tuple[int, ...], type]:
    """The shape and the type of what `resize_image` will write; the ValueError that it raises."""
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"image must be (H, W, C) or (H, W) and not empty, got shape {image.shape}")
    height, width = (int(n) for n in size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width) of at least 1 pixel each, got {tuple(size)}")
    dtype = np.uint8 if image.dtype == np.uint8 else np.float32
    shape = (height, width, *image.shape[2:])
    if out is not None and (out.shape != shape or out.dtype != dtype):
        raise ValueError(f"out must be a contiguous {shape} of {dtype.__name__}, got {out.shape} of {out.dtype}")
    if out is not None and is_on_gpu(out) != is_on_gpu(image):
        raise ValueError("out must be where the image is: both in the machine's memory, or both on the GPU")
    return shape, dtype


@functools.lru_cache(maxsize=256)  # the levels of a pyramid ask for the same few again with every picture
def axis_weights(length: int, out_length: int) -> tuple[np.ndarray, np.ndarray]:
    """How to make `out_length` pixels from `length`: `first` (n,) int64 and `weights` (n, taps) float32.

    Output j is the sum over t of weights[j, t] * input[first[j] + t]; every row of weights sums to 1 and
    first[j] + taps never passes the end.
    """
    scale = length / out_length
    if out_length < length:
        low = np.arange(out_length) * scale
        high = low + scale
    else:  # a box of width 1 around the sample point covers its two neighbours by the bilinear weights
        centre = np.clip((np.arange(out_length) + 0.5) * scale, 0.5, length - 0.5)
        low, high = centre - 0.5, centre + 0.5
    rounding = 1e-6  # j * scale is not exact: an edge this close to a whole number stands on it
    first = np.floor(low + rounding).astype(np.int64)
    taps = int((np.ceil(high - rounding) - first).max())
    first = np.minimum(first, length - taps)
    pixel = first[:, None] + np.arange(taps)  # (n, taps), and how much of each lies in [low, high):
    weights = np.minimum(high[:, None], pixel + 1) - np.maximum(low[:, None], pixel)
    weights[weights < rounding] = 0
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@kernel
def resample(rows, channels, first_y, weight_y, first_x, weight_x, half, row, y):
    """y[i, j] = sum over s, t of weight_y[i, s] * weight_x[j, t] * rows[first_y[i] + s, first_x[j] + t].

    rows: (H, W*C); y: (h, w*C); half: 0.5 where y holds whole numbers, which are written by cutting off the
    fraction, else 0; row: (W*C,) float32, room for one blended row.
    """
    for i in range(y.shape[0]):
        weight, source = weight_y[i, 0], rows[first_y[i]]
        for k in range(row.size):
            row[k] = weight * np.float32(source[k])
        for s in range(1, weight_y.shape[1]):
            weight, source = weight_y[i, s], rows[first_y[i] + s]
            for k in range(row.size):
                row[k] += weight * np.float32(source[k])
        blend_columns(row, channels, first_x, weight_x, half, y[i])


@kernel
def blend_columns(row, channels, first, weight, half, y):
    """y[j] = half + sum over t of weight[j, t] * row[first[j] + t], by pixels of `channels` numbers.

    Colour pixels made of two or three others, as in a pyramid, have loops of their own: with both inner
    lengths known they take a quarter of the time.
    """
    taps = weight.shape[1]
    if channels == 3 and taps == 2:
        for j in range(first.size):
            at, u, v = 3 * first[j], weight[j, 0], weight[j, 1]
            for c in range(3):
                y[3 * j + c] = half + u * row[at + c] + v * row[at + 3 + c]
    elif channels == 3 and taps == 3:
        for j in range(first.size):
            at, u, v, w = 3 * first[j], weight[j, 0], weight[j, 1], weight[j, 2]
            for c in range(3):
                y[3 * j + c] = half + u * row[at + c] + v * row[at + 3 + c] + w * row[at + 6 + c]
    else:
        for j in range(first.size):
            for c in range(channels):
                total = half
                for t in range(taps):
                    total += weight[j, t] * row[(first[j] + t) * channels + c]
                y[j * channels + c] = total


def crop_resize(image: np.ndarray, boxes: np.ndarray, size: int, fill: float = 0) -> np.ndarray:
    """Cut boxes out of one image and resize each to size x size pixels, bilinearly.

    image: (H, W, C), uint8 or float; boxes: (N, 4) x1, y1, x2, y2 in pixels, may reach outside the image.
    A sample point outside the image reads `fill` (0: black); a box inside never sees it.
    Returns (N, size, size, C) float32 in the image's own range; N may be 0.
    Raises ValueError for misshapen arguments and for boxes with NaN or infinity.
    """
    image, boxes = np.asarray(image), np.asarray(boxes, np.float32)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image must be (H, W, C) and not empty, got shape {image.shape}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be (N, 4), got shape {boxes.shape}")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    if not np.isfinite(boxes).all():
        k = int(np.flatnonzero(~np.isfinite(boxes).all(1))[0])
        raise ValueError(f"boxes[{k}] = {boxes[k].tolist()} is not finite")
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    crops = np.empty((len(boxes), size, size, image.shape[2]), np.float32)
    index, weight = np.empty((2, 2, size), np.int64), np.empty((2, size), np.float32)
    crop_boxes(np.ascontiguousarray(image), boxes, np.float32(fill), index, weight, crops)
    return crops


@kernel
def sample_points(low, high, length, index, weight):
    """Where an axis is read: index (2, n) the two pixels (-1: outside), weight (n,) of the second one."""
    n = weight.size
    for j in range(n):
        at = low + (j + 0.5) * (high - low) / n
        if not 0.0 <= at <= length:
            index[0, j] = -1
            continue
        at = min(max(at - 0.5, 0.0), length - 1.0)
        left = int(at)
        index[0, j] = left
        index[1, j] = min(left + 1, length - 1)
        weight[j] = at - left


@kernel
def crop_boxes(image, boxes, fill, index, weight, crops):
    """The loops of `crop_resize`. index (2, 2, size) and weight (2, size): room for the two axes."""
    height, width, channels = image.shape
    for n in range(boxes.shape[0]):
        sample_points(boxes[n, 1], boxes[n, 3], height, index[0], weight[0])
        sample_points(boxes[n, 0], boxes[n, 2], width, index[1], weight[1])
        for i in range(crops.shape[1]):
            top, bottom, v = index[0, 0, i], index[0, 1, i], weight[0, i]
            for j in range(crops.shape[2]):
                left, right, u = index[1, 0, j], index[1, 1, j], weight[1, j]
                if top < 0 or left < 0:
                    crops[n, i, j] = fill
                    continue
                for c in range(channels):
                    a = np.float32(image[top, left, c])
                    b = np.float32(image[bottom, left, c])
                    a += u * (np.float32(image[top, right, c]) - a)
                    b += u * (np.float32(image[bottom, right, c]) - b)
                    crops[n, i, j, c] = a + v * (b - a)


# ------------------------------------------------------------------ feature maps: NCHW


@on_either_device
def resize_maps(x: np.ndarray, size: tuple[int, int], mode: str = "bilinear") -> np.ndarray:
    """(N, C, H, W) -> (N, C, h, w) with size = (h, w), for float32 or float64.

    nearest: the pixel that holds the sample point (PyTorch's "nearest-exact"); bilinear reads two
    neighbours an axis and clamps at the border. Raises ValueError for a wrong shape, size or mode.
    """
    check_maps(x.shape, size)
    taps_y = map_taps(x.shape[2], size[0], mode, x.dtype)
    taps_x = map_taps(x.shape[3], size[1], mode, x.dtype)
    return _blend_maps(x, taps_y, taps_x)


@on_either_device
def resize_maps_grad(gy: np.ndarray, x_size: tuple[int, int], mode: str = "bilinear") -> np.ndarray:
    """The transpose of `resize_maps`: (N, C, h, w) -> (N, C, H, W), each gradient back to what was read."""
    taps_y = transposed_taps(x_size[0], gy.shape[2], mode, gy.dtype)
    taps_x = transposed_taps(x_size[1], gy.shape[3], mode, gy.dtype)
    return _blend_maps(gy, taps_y, taps_x)


def check_maps(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if len(shape) != 4 or 0 in shape[2:]:
        raise ValueError(f"x must be (N, C, H, W) with pixels in it, got shape {shape}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least 1 pixel each, got {tuple(size)}")


def _blend_maps(x: np.ndarray, taps_y: tuple, taps_x: tuple) -> np.ndarray:
    planes = np.ascontiguousarray(x).reshape(-1, *x.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    y = np.empty((len(planes), len(taps_y[0]), len(taps_x[0])), x.dtype)
    blend_planes(planes, *taps_y, *taps_x, np.empty((len(planes), x.shape[3]), x.dtype), y)
    return y.reshape(*x.shape[:2], *y.shape[1:])


@functools.lru_cache(maxsize=64)
def map_taps(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """What each output along an axis is made of: `first` (n,) int64 and `weights` (n, taps).

    Output j is the sum over t of weights[j, t] * input[first[j] + t]; one tap for nearest, two for bilinear.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    at = (np.arange(out_length) + 0.5) * length / out_length
    if mode == "nearest" or length == 1:
        return np.minimum(at.astype(np.int64), length - 1), np.ones((out_length, 1), dtype)
    at = np.clip(at - 0.5, 0, length - 1)
    first = np.minimum(at.astype(np.int64), length - 2)
    return first, np.stack([1 - (at - first), at - first], axis=1).astype(dtype)


@functools.lru_cache(maxsize=64)
def transposed_taps(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The same numbers seen from an input: which outputs read it, and with what weights."""
    first, weights = map_taps(length, out_length, mode, dtype)
    taps = weights.shape[1]
    pixel = np.arange(length)
    start = np.searchsorted(first, pixel - taps + 1)
    most = max(1, int((np.searchsorted(first, pixel, side="right") - start).max()))
    start = np.minimum(start, out_length - most)
    reader = start[:, None] + np.arange(most)  # (length, most)
    t = pixel[:, None] - first[reader]
    return start, np.where((t >= 0) & (t < taps), weights[reader, np.clip(t, 0, taps - 1)], 0).astype(dtype)


@parallel_kernel
def blend_planes(x, first_y, weight_y, first_x, weight_x, rows, y):
    """x (P, H, W) -> y (P, h, w): rows are blended by weight_y, then columns by weight_x. rows (P, W): room."""
    for p in prange(y.shape[0]):
        row = rows[p]
        for i in range(y.shape[1]):
            top, weight = first_y[i], weight_y[i, 0]
            if i > 0 and weight_y.shape[1] == 1 and top == first_y[i - 1] and weight == weight_y[i - 1, 0]:
                for j in range(y.shape[2]):  # nearest, growing: the same row once more
                    y[p, i, j] = y[p, i - 1, j]
                continue
            for k in range(row.size):
                row[k] = weight * x[p, top, k]
            for s in range(1, weight_y.shape[1]):
                weight = weight_y[i, s]
                for k in range(row.size):
                    row[k] += weight * x[p, top + s, k]
            blend_row(row, first_x, weight_x, y[p, i])


@kernel
def blend_row(row, first, weight, y):
    """y[j] = sum over t of weight[j, t] * row[first[j] + t]; one and two taps have a loop without a loop inside."""
    taps = weight.shape[1]
    if taps == 1:
        for j in range(y.size):
            y[j] = weight[j, 0] * row[first[j]]
    elif taps == 2:
        for j in range(y.size):
            y[j] = weight[j, 0] * row[first[j]] + weight[j, 1] * row[first[j] + 1]
    else:
        for j in range(y.size):
            total = weight[j, 0] * row[first[j]]
            for t in range(1, taps):
                total += weight[j, t] * row[first[j] + t]
            y[j] = total
