"""RoI max pooling: every region of interest, whatever its size, becomes PH x PW numbers a channel.

    N, C, H, W   images, channels and size of the feature map
    R            regions of interest (RoIs); rois (R, 5) = batch index, x1, y1, x2, y2 in image pixels
    PH, PW       bins, down and across

Geometry, after Caffe's layer: the corners are multiplied by `spatial_scale` and rounded to cells with
floor(v + 0.5), a region is at least one cell wide and high, bin k of PH reads the cells from
floor(k * h / PH) to ceil((k + 1) * h / PH), and bins are clipped to the map. So neighbouring bins may share
a cell, a region may be smaller than its grid of bins, and a bin off the map is empty: 0 with argmax -1.

Where this leaves Caffe: its boxes name their last pixel, and so the cell that x2 rounds to belongs to the
region; the boxes of this library are continuous (width = x2 - x1), so the region ends where x2 rounds to.
`inclusive=True` is Caffe's way. The bin edges are computed in whole numbers: Caffe's float32 product
(k + 1) * (h / PH) can land just above a whole number, and its bin then reads one cell too many.

How it is made fast: the channels are moved to the end first, so that the loop over the channels of a cell,
which all belong to the same bins, runs through memory and fills vector registers. A loop over the cells of
each bin of each channel took 10 times as long (128 RoIs on 256 channels).
"""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import on_either_device
from minidetect.kernels.dispatch import kernel, parallel_kernel, prange

PARTS = 16  # the RoIs are dealt out in so many parts, each with scratch memory of its own


@kernel
def region(low, high, inclusive):
    """First cell and number of cells of a region along one axis; low, high: its corners, scaled to cells."""
    start = int(math.floor(low + 0.5))
    end = int(math.floor(high + 0.5)) + (1 if inclusive else 0)
    return start, max(end - start, 1)


@kernel
def bin_cells(k, start, length, bins, limit):
    """The cells [first, last) of bin k, clipped to the map's `limit` cells; empty where first >= last."""
    first = start + k * length // bins
    last = start - (-(k + 1) * length) // bins  # minus the floor of the negative: the ceiling
    return min(max(first, 0), limit), min(max(last, 0), limit)


@parallel_kernel
def _forward(x, rois, inclusive, best, where, y, argmax):
    """x (N, H, W, C), rois scaled to cells -> y, argmax (R, C, PH, PW); best, where (PARTS, PH*PW, C): scratch.

    argmax holds the winner's index i*W + j in its plane, the first of equals; a NaN wins, to be seen.
    """
    parts = len(best)
    for part in prange(parts):
        for r in range(part * len(rois) // parts, (part + 1) * len(rois) // parts):
            _pool_roi(x[int(rois[r, 0])], rois[r], inclusive, y.shape[2:], best[part], where[part])
            for c in range(x.shape[3]):
                for i in range(y.shape[2]):
                    for j in range(y.shape[3]):
                        y[r, c, i, j] = best[part, i * y.shape[3] + j, c]
                        argmax[r, c, i, j] = where[part, i * y.shape[3] + j, c]


@kernel
def _pool_roi(x, roi, inclusive, bins, best, where):
    """x (H, W, C) -> best, where (PH*PW, C): a bin's bounds are found once, for all channels."""
    left, across = region(roi[1], roi[3], inclusive)
    top, down = region(roi[2], roi[4], inclusive)
    best[:] = 0
    where[:] = -1
    for i in range(bins[0]):
        y1, y2 = bin_cells(i, top, down, bins[0], x.shape[0])
        for j in range(bins[1]):
            x1, x2 = bin_cells(j, left, across, bins[1], x.shape[1])
            of_bin, place = best[i * bins[1] + j], where[i * bins[1] + j]
            for yy in range(y1, y2):
                for xx in range(x1, x2):
                    _fold_cell(x[yy, xx], np.int32(yy * x.shape[1] + xx), of_bin, place)


@kernel
def _fold_cell(cell, here, best, place):
    """The larger of two in each channel, and its place."""
    for c in range(len(cell)):
        value, old = cell[c], best[c]
        wins = (place[c] < 0) | (value > old) | ((value != value) & (old == old))
        best[c] = value if wins else old
        place[c] = here if wins else place[c]


@parallel_kernel
def _backward(gy, argmax, batch, gx):
    """gy, argmax (R, C, PH*PW), batch (R,), gx (N, C, H*W) of zeros.

    RoIs overlap, so the loop over them adds; one iteration owns a channel in all images.
    """
    for c in prange(gx.shape[1]):
        for r in range(gy.shape[0]):
            for k in range(gy.shape[2]):
                if argmax[r, c, k] >= 0:
                    gx[batch[r], c, argmax[r, c, k]] += gy[r, c, k]


@on_either_device
def roi_pool_forward(
    x: np.ndarray, rois: np.ndarray, size: tuple[int, int], spatial_scale: float, inclusive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """x (N, C, H, W), rois (R, 5) -> y (R, C, PH, PW), and the winners' indices in their planes, int32."""
    y = np.empty((len(rois), x.shape[1], *size), x.dtype)
    argmax = np.empty(y.shape, np.int32)
    rois = np.array(rois, np.float64)
    rois[:, 1:] *= spatial_scale
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))  # (N, C, H, W) -> (N, H, W, C)
    best = np.empty((PARTS, size[0] * size[1], x.shape[3]), x.dtype)
    _forward(x, rois, bool(inclusive), best, np.empty(best.shape, np.int32), y, argmax)
    return y, argmax


@on_either_device
def roi_pool_backward(
    gy: np.ndarray, argmax: np.ndarray, rois: np.ndarray, x_shape: tuple[int, ...]
) -> np.ndarray:
    """Fast R-CNN, Eq. (4): gx[i] = sum over r and j of [i is the argmax of bin j of region r] * gy[r, j]."""
    gx = np.zeros(x_shape, gy.dtype)
    bins = gy.shape[2] * gy.shape[3]
    _backward(
        np.ascontiguousarray(gy).reshape(*gy.shape[:2], bins),
        argmax.reshape(*gy.shape[:2], bins),
        rois[:, 0].astype(np.int64),
        gx.reshape(*x_shape[:2], x_shape[2] * x_shape[3]),
    )
    return gx
