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

Feature maps: where an output reads, and with what weights, is the same in all planes. So a thread makes an output of up
to MOST_PLANES planes, and finds that out once. There is a kernel for each number of taps up to FEW_TAPS: its loops over
taps are written out, and the weights stay in registers. Instructions of the compiler (PTX) a byte that must be moved,
for bilinear to twice the size (tests/cuda/count_work.py); an H100 has time for about 9:

                                             forward            backward
    a plane a thread, weights read by step   56                 44
    as it is here, 8 planes a thread         6.4 (32 an output) 3.2 (65 a pixel)
    as it is here, 1 plane a thread          23                 6.6 to 10

A thread gets one plane only where there are few pixels, as of 1x32x40x40.

The gradient is no scatter: `transposed_taps` says which outputs read a pixel, so that each pixel gathers, in the same
order in every run.

Left out: `crop_resize`, since crops are made of images that are not on the GPU.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.device import DeviceArray, empty, to_device
from minidetect.kernels.gpu import cuda
from minidetect.kernels.planes_cuda import grid_of_planes, my_pixel, planes_apart
from minidetect.kernels.resize import axis_weights, check_maps, check_resize, map_taps, transposed_taps

FEW_TAPS = 6  # along an axis: their weights stay in registers
MOST_PLANES = 8  # that a thread takes, one after the other

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
    tables = *_image_taps(image.shape[0], shape[0]), *_image_taps(image.shape[1], shape[1])
    sizes = image.shape[1] * channels, shape[0], shape[1] * channels, tables[1].shape[1], tables[3].shape[1]
    half = np.float32(0.5 if dtype == np.uint8 else 0)
    grid = grid_of_planes(1, shape[0], shape[1] * channels)
    resample[grid](image.flat, channels, *(a.flat for a in tables), sizes, half, out.flat)
    return out


@functools.lru_cache(maxsize=256)
def _image_taps(length: int, out_length: int) -> tuple[DeviceArray, DeviceArray]:
    """`axis_weights` on the GPU. An axis of the same length has one tap of weight 1."""
    first, weights = axis_weights(length, out_length)
    return to_device(first.astype(np.int32)), to_device(weights)


@cuda.jit
def resample(rows, channels, first_y, weight_y, first_x, weight_x, sizes, half, y):
    """y[i, j] = sum over s, t of weight_y[i, s] * weight_x[j, t] * rows[first_y[i] + s, first_x[j] + t].

    rows: (H*W*C,); y: (h*w*C,); sizes: W*C, h, w*C, and the taps along each axis; half: 0.5 where y holds whole
    numbers, which are written by cutting off the fraction, else 0.
    """
    width, out_h, out_w, taps_y, taps_x = sizes
    plane, i, k = my_pixel()
    if plane > 0 or i >= out_h or k >= out_w:
        return
    j = np.int32(np.uint32(k) // np.uint32(channels))
    corner = first_y[np.uint64(i)] * width + (first_x[np.uint64(j)] - j) * channels + k
    total, t = half, 0
    while t < taps_x:
        column, s, at = np.float32(0), 0, corner + t * channels
        while s < taps_y:
            column += weight_y[np.uint64(i * taps_y + s)] * np.float32(rows[np.uint64(at)])
            at += width
            s += 1
        total += weight_x[np.uint64(j * taps_x + t)] * column
        t += 1
    y[np.uint64(i * out_w + k)] = total


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
        planes, taps = x.shape[0] * x.shape[1], (taps_y[1].shape[1], taps_x[1].shape[1])
        if max(taps) <= FEW_TAPS:
            blend, most = blend_kernel(*taps, x.dtype), MOST_PLANES
        else:
            blend, most = blend_planes, 1
        sizes = planes, *x.shape[2:], *y.shape[2:], *taps
        tables = (a.flat for a in (*taps_y, *taps_x))
        blend[grid_of_planes(planes, *y.shape[2:], most)](x.flat, *tables, sizes, y.flat)
    return y


@functools.lru_cache(maxsize=64)
def _map_taps(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[DeviceArray, DeviceArray]:
    """`map_taps` on the GPU."""
    first, weights = map_taps(length, out_length, mode, dtype)
    return to_device(first.astype(np.int32)), to_device(weights)


@functools.lru_cache(maxsize=64)
def _transposed_taps(length: int, out_length: int, mode: str, dtype: np.dtype) -> tuple[DeviceArray, DeviceArray]:
    """`transposed_taps` on the GPU."""
    first, weights = _trimmed(*transposed_taps(length, out_length, mode, dtype))
    return to_device(first.astype(np.int32)), to_device(weights)


def _trimmed(first: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same taps without those at the ends of each row that weigh nothing: of 5 at twice the size, 4 are left."""
    taps, there = weights.shape[1], weights != 0
    begin = there.argmax(axis=1)
    most = int((taps - there[:, ::-1].argmax(axis=1) - begin)[there.any(axis=1)].max())
    begin = np.minimum(begin, taps - most)
    return first + begin, np.take_along_axis(weights, begin[:, None] + np.arange(most), axis=1)


@cuda.jit(device=True)
def place(plane, i, j, height, width):
    """Where pixel (i, j) of a plane stands: below 2**32, as the size of any array, so 32 bits are enough."""
    row = np.uint32(np.uint32(np.uint32(plane) * np.uint32(height)) + np.uint32(i))
    return np.uint32(np.uint32(row * np.uint32(width)) + np.uint32(j))


@functools.cache
def blend_kernel(taps_y: int, taps_x: int, dtype: np.dtype) -> Any:
    """`blend_planes` for so many taps along each axis."""
    kind, zero = from_dtype(dtype), dtype.type(0)

    @cuda.jit
    def blend_few(x, first_y, weight_y, first_x, weight_x, sizes, y):
        planes, height, width, out_h, out_w, _, _ = sizes
        plane, i, j = my_pixel()
        if plane >= planes or i >= out_h or j >= out_w:
            return
        down, across = cuda.local.array(taps_y, kind), cuda.local.array(taps_x, kind)
        for s in range(taps_y):
            down[s] = weight_y[np.uint64(i * taps_y + s)]
        for t in range(taps_x):
            across[t] = weight_x[np.uint64(j * taps_x + t)]
        at = place(plane, first_y[np.uint64(i)], first_x[np.uint64(j)], height, width)
        out = place(plane, i, j, out_h, out_w)
        p, row, apart = np.uint32(plane), np.uint32(width), np.uint32(planes_apart())
        step, out_step = place(apart, 0, 0, height, width), place(apart, 0, 0, out_h, out_w)
        while p < np.uint32(planes):  # in 64 bits LLVM would divide, to know how often, and write it out four times
            total = zero
            for t in range(taps_x):
                column = zero
                for s in range(taps_y):
                    column += down[s] * x[np.uint64(np.uint32(at + s * row)) + np.uint64(t)]
                total += across[t] * column
            y[out] = total
            p, at, out = np.uint32(p + apart), np.uint32(at + step), np.uint32(out + out_step)

    return blend_few


@cuda.jit
def blend_planes(x, first_y, weight_y, first_x, weight_x, sizes, y):
    """x (P*H*W,) -> y (P*h*w,): columns are blended by weight_y, and they by weight_x.

    sizes: P, H, W, h, w, and the taps along each axis, of which there may be any number.
    """
    planes, height, width, out_h, out_w, taps_y, taps_x = sizes
    plane, i, j = my_pixel()
    if plane >= planes or i >= out_h or j >= out_w:
        return
    corner = place(plane, first_y[np.uint64(i)], first_x[np.uint64(j)], height, width)
    total, t = y.dtype.type(0), 0
    while t < taps_x:
        column, s, at = y.dtype.type(0), 0, np.int64(corner) + t
        while s < taps_y:
            column += weight_y[np.uint64(i * taps_y + s)] * x[np.uint64(at)]
            at += width
            s += 1
        total += weight_x[np.uint64(j * taps_x + t)] * column
        t += 1
    y[place(plane, i, j, out_h, out_w)] = total
