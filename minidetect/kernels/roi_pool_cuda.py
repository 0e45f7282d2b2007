"""RoI max pooling on the GPU: the same functions as in roi_pool.py, for arrays that are there.

    N, C, H, W   images, channels and size of the feature map
    R            regions of interest (RoIs); rois (R, 5) = batch index, x1, y1, x2, y2 in image pixels
    PH, PW       bins, down and across

Forward, in two kernels. The first finds every bin's rows and columns, one thread a bin and axis, with the geometry of
roi_pool.py: in whole numbers of 64 bits and, for the corners alone, in float64, as on the processor; that is slow
arithmetic on a GPU, and done once for all channels. The second has a thread for each of the R*C*PH*PW outputs, which
reads its bin's cells. Threads side by side have bins side by side, so that together they read pieces of rows; the
processor's copy with the channels at the end is not needed.

Backward, every output returns its gradient to the cell that won it. Bins of one region may share a cell and regions
overlap, so several gradients meet in a cell, and a float sum depends on its order: (1e8 + 1) - 1e8 is 0, and
(1e8 - 1e8) + 1 is 1. There are two ways.

    roi_pool_backward          the same bits in every run, and the processor's, since each cell adds up in its order
    roi_pool_backward_atomic   one thread an output, which adds to the cell in one uninterrupted step (an atomic add).
                               Who comes first is left to chance: the last digits differ from run to run

The first lets a block of threads own a plane (a channel of an image) and go through the outputs BLOCK at a time. Which
of these name the same winner is found by comparing all pairs; the first of each adds for all, in order; then come the
next BLOCK. So a plane takes R*PH*PW/BLOCK rounds one after the other, however many threads the GPU has. By that count,
not by a stopwatch, the atomic way is faster for thousands of RoIs on few planes; the ordered way comes close with
hundreds of channels, which are planes enough to fill a GPU, and with RoIs that crowd around one object, where atomic
adds queue up at the cells that win them. A training that can be repeated to the last digit is worth more than either,
so it is the default.

Left out: a cell that asks all RoIs whether a bin of theirs contains it. It would be deterministic too, but H*W cells
would each test R regions, most for nothing, and it would need the geometry again, which argmax makes unnecessary.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int32

from minidetect.kernels.device import DeviceArray, empty, zeros
from minidetect.kernels.gpu import MOST_BLOCKS, SIMULATED, cuda, grid_for, rounded_product
from minidetect.kernels.planes_cuda import grid_of_planes, my_pixel
from minidetect.kernels.pool import fold
from minidetect.kernels.roi_pool import bin_cells, region

BLOCK = 4 if SIMULATED else 64  # outputs of a round: twice as many halve the rounds, and double the comparisons
_times = rounded_product["float64"]  # corners fall on the same cells as on the processor


@cuda.jit
def _find_bins(rois, scale, inclusive, height, width, batch, rows, columns):
    """rois (R, 5) -> batch (R,), rows (R, PH, 2) and columns (R, PW, 2): the cells [first, last) of each bin."""
    down, across = rows.shape[1], columns.shape[1]
    for n in range(cuda.grid(1), rois.shape[0] * (down + across), cuda.gridsize(1)):
        r, k = n // (down + across), n % (down + across)
        axis, bins, limit = (2, down, height) if k < down else (1, across, width)
        low, high = _times(np.float64(rois[r, axis]), scale), _times(np.float64(rois[r, axis + 2]), scale)
        start, length = region(low, high, inclusive)
        if k < down:
            rows[r, k, 0], rows[r, k, 1] = bin_cells(k, start, length, bins, limit)
            if k == 0:
                batch[r] = int(rois[r, 0])
        else:
            columns[r, k - down, 0], columns[r, k - down, 1] = bin_cells(k - down, start, length, bins, limit)


@cuda.jit
def _forward(x, batch, rows, columns, y, argmax):
    """x (N, C, H, W) -> y, argmax (R*C, PH, PW).

    argmax holds the winner's index i*W + j in its plane, the first of equals in row order; a NaN wins, to be seen.
    """
    plane, i, j = my_pixel()
    if plane >= y.shape[0] or i >= y.shape[1] or j >= y.shape[2]:
        return
    r = np.int32(np.uint32(plane) // np.uint32(x.shape[1]))
    n, c = batch[r], plane - r * x.shape[1]
    y1, y2 = rows[r, i, 0], rows[r, i, 1]
    x1, x2 = columns[r, j, 0], columns[r, j, 1]
    best, place = y.dtype.type(0), -1
    if y1 < y2 and x1 < x2:
        best, place = x[n, c, y1, x1], y1 * x.shape[3] + x1
    for yy in range(y1, y2):
        for xx in range(x1, x2):
            best, place = fold(x[n, c, yy, xx], yy * x.shape[3] + xx, best, place)
    y[plane, i, j], argmax[plane, i, j] = best, place


def _ordered_kernel(number):
    """`_backward` for one type of numbers: that of shared memory must be known when it is compiled."""

    @cuda.jit
    def _backward(gy, argmax, rois, gx):
        """gy, argmax (R, C, PH*PW), gx (N, C, H*W): a block owns a plane of gx, and adds in the order of gy."""
        winners = cuda.shared.array(BLOCK, int32)
        gradients = cuda.shared.array(BLOCK, number)
        t, channels, bins = cuda.threadIdx.x, gx.shape[1], gy.shape[2]
        for plane in range(cuda.blockIdx.x, gx.shape[0] * channels, cuda.gridDim.x):
            n, c = plane // channels, plane % channels
            for cell in range(t, gx.shape[2], BLOCK):
                gx[n, c, cell] = 0
            for start in range(0, gy.shape[0] * bins, BLOCK):
                winner, gradient = -1, number(0)
                if start + t < gy.shape[0] * bins:
                    r = np.int32(np.uint32(start + t) // np.uint32(bins))
                    k = start + t - r * bins
                    if int(rois[r, 0]) == n:
                        winner, gradient = argmax[r, c, k], gy[r, c, k]
                # All threads wait here, so that nobody still reads what is now written. RoIs stand by images mostly:
                # those of other images are passed by.
                if cuda.syncthreads_or(np.int32(winner >= 0)) == 0:
                    continue
                winners[t], gradients[t] = winner, gradient
                cuda.syncthreads()
                _add_in_order(winners, gradients, t, gx[n, c])

    return _backward


@cuda.jit(device=True)
def _add_in_order(winners, gradients, t, cells):
    """Thread t adds its gradient and all later ones for the same cell, unless an earlier thread does that."""
    winner = winners[t]
    if winner < 0:
        return
    for s in range(t):
        if winners[s] == winner:
            return
    total = cells[winner]
    for s in range(t, BLOCK):
        if winners[s] == winner:
            total += gradients[s]
    cells[winner] = total


_backward = {"float32": _ordered_kernel(float32), "float64": _ordered_kernel(float64)}


@cuda.jit
def _backward_atomic(gy, argmax, rois, channels, bins, cells, gx):
    """gy, argmax (R*C*PH*PW,), gx (N*C*H*W,) of zeros."""
    for at in range(cuda.grid(1), gy.size, cuda.gridsize(1)):
        winner = argmax[at]
        if winner >= 0:
            row = np.uint32(at) // np.uint32(bins)
            r = np.uint32(row) // np.uint32(channels)
            plane = int(rois[r, 0]) * channels + (row - r * channels)
            cuda.atomic.add(gx, plane * cells + winner, gy[at])


def roi_pool_forward(
    x: DeviceArray, rois: DeviceArray, size: tuple[int, int], spatial_scale: float, inclusive: bool
) -> tuple[DeviceArray, DeviceArray]:
    """x (N, C, H, W), rois (R, 5) -> y (R, C, PH, PW), and the winners' indices in their planes, int32."""
    count, channels = len(rois), x.shape[1]
    y = empty((count, channels, *size), x.dtype)
    argmax = empty(y.shape, np.int32)
    if y.size == 0:
        return y, argmax
    batch, rows, columns = (empty(shape, np.int32) for shape in (count, (count, size[0], 2), (count, size[1], 2)))
    geometry = batch.nd, rows.nd, columns.nd
    _find_bins[grid_for(count * sum(size))](rois.nd, float(spatial_scale), bool(inclusive), *x.shape[2:], *geometry)
    planes, winners = (a.reshape(count * channels, *size).nd for a in (y, argmax))
    _forward[grid_of_planes(*planes.shape)](x.nd, *geometry, planes, winners)
    return y, argmax


def roi_pool_backward(
    gy: DeviceArray, argmax: DeviceArray, rois: DeviceArray, x_shape: tuple[int, ...]
) -> DeviceArray:
    """Fast R-CNN, Eq. (4): gx[i] = sum over r and j of [i is the argmax of bin j of region r] * gy[r, j].

    Each cell adds up in the order of r and j: the same digits in every run, and on the processor.
    """
    if gy.size == 0:
        return zeros(x_shape, gy.dtype)
    gx = empty(x_shape, gy.dtype)
    bins = (*gy.shape[:2], gy.shape[2] * gy.shape[3])
    planes = gx.reshape(*x_shape[:2], x_shape[2] * x_shape[3]).nd
    grid = min(x_shape[0] * x_shape[1], MOST_BLOCKS), BLOCK
    _backward[gy.dtype.name][grid](gy.reshape(bins).nd, argmax.reshape(bins).nd, rois.nd, planes)
    return gx


def roi_pool_backward_atomic(
    gy: DeviceArray, argmax: DeviceArray, rois: DeviceArray, x_shape: tuple[int, ...]
) -> DeviceArray:
    """`roi_pool_backward` where the last digits may differ from run to run: each cell adds up in any order."""
    gx = zeros(x_shape, gy.dtype)
    if gy.size:
        channels, bins, cells = gy.shape[1], gy.shape[2] * gy.shape[3], x_shape[2] * x_shape[3]
        _backward_atomic[grid_for(gy.size)](gy.flat, argmax.flat, rois.nd, channels, bins, cells, gx.flat)
    return gx
