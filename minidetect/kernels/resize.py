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

import numpy as np

from minidetect.kernels.dispatch import kernel, parallel_kernel, prange

MODES = ("bilinear", "nearest")


# ------------------------------------------------------------------ images: HWC


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one image to `size` = (height, width).

    image: (H, W, C) or (H, W), uint8 or float. uint8 gives uint8, rounded to nearest; floats give float32.
    Each axis by itself: an axis that shrinks averages the area that an output pixel covers, with fractions
    of pixels at both ends, so that no input pixel is skipped or counted twice; one that grows is bilinear.
    Raises ValueError for a wrong number of axes, an empty image or a size below 1.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"image must be (H, W, C) or (H, W) and not empty, got shape {image.shape}")
    height, width = (int(n) for n in size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width) of at least 1 pixel each, got {tuple(size)}")
    if image.shape[:2] == (height, width):
        return image.copy() if image.dtype == np.uint8 else image.astype(np.float32)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    rows = np.ascontiguousarray(image).reshape(image.shape[0], -1)  # (H, W*C)
    y = np.empty((height, width * channels), image.dtype)
    row = np.empty((rows.shape[1],), np.float32)
    first_y, weight_y = axis_weights(image.shape[0], height)
    first_x, weight_x = axis_weights(image.shape[1], width)
    half = np.float32(0.5 if image.dtype == np.uint8 else 0)
    resample(rows, channels, first_y, weight_y, first_x, weight_x, half, row, y)
    return y.reshape(height, width, *image.shape[2:])


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

    rows: (H, W*C); y: (h, w*C); half: 0.5 where y holds whole numbers, else 0; row: (W*C,) float32, room for
    one blended row.
    """
    for i in range(y.shape[0]):
        row[:] = weight_y[i, 0] * rows[first_y[i]]
        for s in range(1, weight_y.shape[1]):
            weight = weight_y[i, s]
            source = rows[first_y[i] + s]
            for k in range(row.size):
                row[k] += weight * np.float32(source[k])
        for j in range(first_x.size):
            for c in range(channels):
                total = half  # a whole number is written by cutting off the fraction: floor(value + 0.5)
                for t in range(weight_x.shape[1]):
                    total += weight_x[j, t] * row[(first_x[j] + t) * channels + c]
                y[i, j * channels + c] = total


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


def resize_maps(x: np.ndarray, size: tuple[int, int], mode: str = "bilinear") -> np.ndarray:
    """(N, C, H, W) -> (N, C, h, w) with size = (h, w), for float32 or float64.

    nearest: the pixel that holds the sample point (PyTorch's "nearest-exact"); bilinear reads two
    neighbours an axis and clamps at the border. Raises ValueError for a wrong shape, size or mode.
    """
    if x.ndim != 4 or 0 in x.shape[2:]:
        raise ValueError(f"x must be (N, C, H, W) with pixels in it, got shape {x.shape}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least 1 pixel each, got {tuple(size)}")
    y = np.empty((*x.shape[:2], *size), x.dtype)
    index_y, weight_y = map_points(x.shape[2], size[0], mode, x.dtype)
    index_x, weight_x = map_points(x.shape[3], size[1], mode, x.dtype)
    planes = np.ascontiguousarray(x).reshape(-1, *x.shape[2:])  # (N, C, H, W) -> (N*C, H, W)
    blend_planes(planes, index_y, weight_y, index_x, weight_x, y.reshape(-1, *size))
    return y


def resize_maps_grad(gy: np.ndarray, x_size: tuple[int, int], mode: str = "bilinear") -> np.ndarray:
    """The transpose of `resize_maps`: (N, C, h, w) -> (N, C, H, W), each gradient back to what was read."""
    gx = np.zeros((*gy.shape[:2], *x_size), gy.dtype)
    index_y, weight_y = map_points(x_size[0], gy.shape[2], mode, gy.dtype)
    index_x, weight_x = map_points(x_size[1], gy.shape[3], mode, gy.dtype)
    planes = np.ascontiguousarray(gy).reshape(-1, *gy.shape[2:])
    spread_planes(planes, index_y, weight_y, index_x, weight_x, gx.reshape(-1, *x_size))
    return gx


def map_points(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Along an axis: index (2, n) of the two pixels that an output reads, weight (n,) of the second."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    index, weight = np.empty((2, out_length), np.int64), np.empty((out_length,), dtype)
    sample_points(0.0, float(length), length, index, weight)
    if mode == "nearest":
        at = (np.arange(out_length) + 0.5) * length / out_length
        index[:] = np.minimum(at.astype(np.int64), length - 1)
        weight[:] = 0
    return index, weight


@parallel_kernel
def blend_planes(x, index_y, weight_y, index_x, weight_x, y):
    """x (P, H, W) -> y (P, h, w): the rows blended by weight_y, then the columns by weight_x."""
    for p in prange(y.shape[0]):
        for i in range(y.shape[1]):
            top, bottom, v = index_y[0, i], index_y[1, i], weight_y[i]
            for j in range(y.shape[2]):
                left, right, u = index_x[0, j], index_x[1, j], weight_x[j]
                a = x[p, top, left] + u * (x[p, top, right] - x[p, top, left])
                b = x[p, bottom, left] + u * (x[p, bottom, right] - x[p, bottom, left])
                y[p, i, j] = a + v * (b - a)


@parallel_kernel
def spread_planes(gy, index_y, weight_y, index_x, weight_x, gx):
    """The transpose of `blend_planes`. A plane of gx belongs to one iteration, so adding to it is safe."""
    for p in prange(gy.shape[0]):
        for i in range(gy.shape[1]):
            top, bottom, v = index_y[0, i], index_y[1, i], weight_y[i]
            for j in range(gy.shape[2]):
                left, right, u = index_x[0, j], index_x[1, j], weight_x[j]
                g = gy[p, i, j]
                gx[p, top, left] += g * (1 - v) * (1 - u)
                gx[p, top, right] += g * (1 - v) * u
                gx[p, bottom, left] += g * v * (1 - u)
                gx[p, bottom, right] += g * v * u
