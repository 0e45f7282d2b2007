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
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import kernel, parallel_kernel, prange


@kernel
def _region(low, high, scale, inclusive):
    """First cell and number of cells of a region along one axis."""
    start = int(np.floor(low * scale + 0.5))
    end = int(np.floor(high * scale + 0.5)) + (1 if inclusive else 0)
    return start, max(end - start, 1)


@kernel
def _bin(k, start, length, bins, limit):
    """The cells [first, last) of bin k, clipped to the map's `limit` cells; empty where first >= last."""
    first = start + k * length // bins
    last = start - (-(k + 1) * length) // bins  # minus the floor of the negative: the ceiling
    return min(max(first, 0), limit), min(max(last, 0), limit)


@parallel_kernel
def _forward(x, rois, scale, inclusive, y, argmax):
    """argmax holds the winner's index i*W + j in its plane, the first of equals; a NaN wins, to be seen."""
    channels, height, width = x.shape[1:]
    bins_h, bins_w = y.shape[2:]
    for r in prange(rois.shape[0]):
        n = int(rois[r, 0])
        left, across = _region(rois[r, 1], rois[r, 3], scale, inclusive)
        top, down = _region(rois[r, 2], rois[r, 4], scale, inclusive)
        for c in range(channels):
            plane = x[n, c]
            for i in range(bins_h):
                y1, y2 = _bin(i, top, down, bins_h, height)
                for j in range(bins_w):
                    x1, x2 = _bin(j, left, across, bins_w, width)
                    where = -1
                    best = x.dtype.type(0)
                    for yy in range(y1, y2):
                        for xx in range(x1, x2):
                            value = plane[yy, xx]
                            if where < 0 or value > best or value != value:
                                best = value
                                where = yy * width + xx
                    y[r, c, i, j] = best
                    argmax[r, c, i, j] = where


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


def roi_pool_forward(
    x: np.ndarray, rois: np.ndarray, size: tuple[int, int], spatial_scale: float, inclusive: bool
) -> tuple[np.ndarray, np.ndarray]:
    """x (N, C, H, W), rois (R, 5) -> y (R, C, PH, PW), and the winners' indices in their planes, int32."""
    y = np.empty((len(rois), x.shape[1], *size), x.dtype)
    argmax = np.empty(y.shape, np.int32)
    rois = np.ascontiguousarray(rois, np.float64)
    _forward(np.ascontiguousarray(x), rois, float(spatial_scale), bool(inclusive), y, argmax)
    return y, argmax


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
