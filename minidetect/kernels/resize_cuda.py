"""Resampling on the GPU: the same functions as in resize.py, for arrays that are there.

    H, W, h, w   height and width of what is read, and of what is written
    N, C         images, channels

What an output is made of along each axis, the first pixel and the weights of it and those after it, comes from the
tables of resize.py; they stay on the GPU once they were needed, or each call would wait for four small copies.

How the work is dealt out. The processor blends whole rows into a strip first, and then the columns of the strip: taps_y
+ taps_x steps for each output, taps being the pixels read along an axis. Here a thread makes one output, and blends the
columns that it needs itself: taps_y * taps_x steps, 4 for bilinear as on the processor, and no strip to write and to
read again. Where an image shrinks a lot that is more arithmetic, 49 steps for taps of 7 instead of 14; the pixels,
which the neighbours read too, come from the cache.

The gradient is no scatter: `transposed_taps` says which outputs read a pixel, so that each pixel gathers, in the same
order in every run.

Left out: `crop_resize`, since crops are made of images that are not on the GPU.
"""

from __future__ import annotations

import functools

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, to_device
from minidetect.kernels.gpu import cuda
from minidetect.kernels.pool_cuda import grid_of_planes, my_pixel
from minidetect.kernels.resize import axis_weights, check_maps, check_resize, map_taps, transposed_taps

# ------------------------------------------------------------------ images: HWC


def resize_image(image: DeviceArray, size: tuple[int, int], out: DeviceArray | None = None) -> DeviceArray:
    """Resize one image to `size` = (height, width).

    image: (H, W, C) or (H, W), uint8 or float. uint8 gives uint8, rounded to nearest; floats give float32.
    out: an array on the GPU of the result's shape and type to write to, else a new one is made.
    Raises ValueError for a wrong number of axes, an empty image or a size below 1.
    """
    shape, dtype = check_resize(image, size, out)
    out = empty(shape, dtype) if out is None else out
    channels = image.shape[2] if image.ndim == 3 else 1
    rows, y = (a.reshape(a.shape[0], a.shape[1] * channels).nd for a in (image, out))
    taps = *_image_taps(image.shape[0], shape[0]), *_image_taps(image.shape[1], shape[1])
    half = np.float32(0.5 if dtype == np.uint8 else 0)
    resample[grid_of_planes(1, *y.shape)](rows, channels, *(a.nd for a in taps), half, y)
    return out


@functools.lru_cache(maxsize=256)
def _image_taps(length: int, out_length: int) -> tuple[DeviceArray, DeviceArray]:
    """`axis_weights` on the GPU. An axis of the same length has one tap of weight 1."""
    first, weights = axis_weights(length, out_length)
    return to_device(first.astype(np.int32)), to_device(weights)


@cuda.jit
def resample(rows, channels, first_y, weight_y, first_x, weight_x, half, y):
    """y[i, j] = sum over s, t of weight_y[i, s] * weight_x[j, t] * rows[first_y[i] + s, first_x[j] + t].

    rows: (H, W*C); y: (h, w*C); half: 0.5 where y holds whole numbers, which are written by cutting off the
    fraction, else 0.
    """
    plane, i, k = my_pixel()
    if plane > 0 or i >= y.shape[0] or k >= y.shape[1]:
        return
    j = np.int32(np.uint32(k) // np.uint32(channels))
    top, left, total = first_y[i], (first_x[j] - j) * channels + k, half
    for t in range(weight_x.shape[1]):
        column = np.float32(0)
        for s in range(weight_y.shape[1]):
            column += weight_y[i, s] * np.float32(rows[top + s, left + t * channels])
        total += weight_x[j, t] * column
    y[i, k] = total


# ------------------------------------------------------------------ feature maps: NCHW


def resize_maps(x: DeviceArray, size: tuple[int, int], mode: str = "bilinear") -> DeviceArray:
    """(N, C, H, W) -> (N, C, h, w) with size = (h, w), for float32 or float64.

    nearest: the pixel that holds the sample point; bilinear reads two neighbours an axis and clamps at the border.
    Raises ValueError for a wrong shape, size or mode.
    """
    check_maps(x.shape, size)
    taps_y = _map_taps(x.shape[2], size[0], mode, x.dtype)
    taps_x = _map_taps(x.shape[3], size[1], mode, x.dtype)
    return _blend_maps(x, taps_y, taps_x)


def resize_maps_grad(gy: DeviceArray, x_size: tuple[int, int], mode: str = "bilinear") -> DeviceArray:
    """The transpose of `resize_maps`: (N, C, h, w) -> (N, C, H, W), each gradient back to what was read."""
    taps_y = _transposed_taps(x_size[0], gy.shape[2], mode, gy.dtype)
    taps_x = _transposed_taps(x_size[1], gy.shape[3], mode, gy.dtype)
    return _blend_maps(gy, taps_y, taps_x)


def _blend_maps(x: DeviceArray, taps_y: tuple, taps_x: tuple) -> DeviceArray:
    y = empty((*x.shape[:2], len(taps_y[0]), len(taps_x[0])), x.dtype)
    if y.size:
        planes, out = (a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]).nd for a in (x, y))
        blend_planes[grid_of_planes(*out.shape)](planes, *(a.nd for a in (*taps_y, *taps_x)), out)
    return y


@functools.lru_cache(maxsize=64)
def _map_taps(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[DeviceArray, DeviceArray]:
    """`map_taps` on the GPU."""
    first, weights = map_taps(length, out_length, mode, dtype)
    return to_device(first.astype(np.int32)), to_device(weights)


@functools.lru_cache(maxsize=64)
def _transposed_taps(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[DeviceArray, DeviceArray]:
    """`transposed_taps` on the GPU."""
    first, weights = transposed_taps(length, out_length, mode, dtype)
    return to_device(first.astype(np.int32)), to_device(weights)


@cuda.jit
def blend_planes(x, first_y, weight_y, first_x, weight_x, y):
    """x (P, H, W) -> y (P, h, w): columns are blended by weight_y, and they by weight_x."""
    p, i, j = my_pixel()
    if p >= y.shape[0] or i >= y.shape[1] or j >= y.shape[2]:
        return
    top, left, total = first_y[i], first_x[j], y.dtype.type(0)
    for t in range(weight_x.shape[1]):
        column = y.dtype.type(0)
        for s in range(weight_y.shape[1]):
            column += weight_y[i, s] * x[p, top + s, left + t]
        total += weight_x[j, t] * column
    y[p, i, j] = total
