"""How much boxes overlap, on the GPU: the same numbers as on the processor, bit for bit.

A box is x1, y1, x2, y2 in continuous coordinates. N: boxes of the first set, M: boxes of the second.

A thread computes one overlap after the other, down a column of the matrix: it keeps its second box, and the first ones
are the same for all its neighbours. Where there are few second boxes (`planes_cuda.block_shape`), a block is narrow and
high. `best_overlaps` needs no matrix, which for 200,000 anchors and 50 objects would be 40 MB to write and to read
again: a thread has one box of the first set, and the second set passes by in tiles that a block holds in shared memory.

Bit for bit: every product rounds at once (gpu.py), so that none becomes part of a fused multiply-add, and minimum and
maximum are comparisons, since the GPU's own treat a NaN differently. A kernel is made once for each type, because the
product that rounds has a name for each.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, to_device, zeros
from minidetect.kernels.gpu import SIMULATED, cuda, rounded_product
from minidetect.kernels.iou import as_boxes
from minidetect.kernels.planes_cuda import grid_2d

TILE = 4 if SIMULATED else 256  # boxes of the second set that a block holds at once, and its threads


def _make(product: object) -> SimpleNamespace:
    """The kernels for one type, with its product."""

    @cuda.jit(device=True)
    def area(x1, y1, x2, y2):
        return product(x2 - x1, y2 - y1)

    @cuda.jit(device=True)
    def shared_area(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, zero):
        w = (bx2 if bx2 < ax2 else ax2) - (bx1 if bx1 > ax1 else ax1)
        h = (by2 if by2 < ay2 else ay2) - (by1 if by1 > ay1 else ay1)
        return product(w, h) if w > zero and h > zero else zero  # of disjoint boxes both may be negative

    @cuda.jit
    def iou(a, b, out):
        """a (N, 4), b (M, 4) -> out (N, M)."""
        zero = out.dtype.type(0)
        j, start = cuda.grid(2)
        width, height = cuda.gridsize(2)
        while j < len(b):
            bx1, by1, bx2, by2 = b[j, 0], b[j, 1], b[j, 2], b[j, 3]
            area_b = area(bx1, by1, bx2, by2)
            i = start
            while i < len(a):
                x1, y1, x2, y2 = a[i, 0], a[i, 1], a[i, 2], a[i, 3]
                shared = shared_area(x1, y1, x2, y2, bx1, by1, bx2, by2, zero)
                out[i, j] = shared / (area(x1, y1, x2, y2) + area_b - shared) if shared > zero else zero
                i += height
            j += width

    @cuda.jit
    def over_first(a, b, out):
        zero = out.dtype.type(0)
        j, start = cuda.grid(2)
        width, height = cuda.gridsize(2)
        while j < len(b):
            bx1, by1, bx2, by2 = b[j, 0], b[j, 1], b[j, 2], b[j, 3]
            i = start
            while i < len(a):
                x1, y1, x2, y2 = a[i, 0], a[i, 1], a[i, 2], a[i, 3]
                shared = shared_area(x1, y1, x2, y2, bx1, by1, bx2, by2, zero)
                out[i, j] = shared / area(x1, y1, x2, y2) if shared > zero else zero
                i += height
            j += width

    @cuda.jit
    def best(a, b, best_idx, best_iou):
        """a (N, 4), b (M, 4) -> best_idx, best_iou (N,): one thread a box of a."""
        tile = cuda.shared.array((5, TILE), a.dtype)  # x1, y1, x2, y2 and area
        zero = a.dtype.type(0)
        t, i = cuda.threadIdx.x, cuda.grid(1)
        mine = min(i, len(a) - 1)  # a thread without a box helps to fill the tile all the same
        x1, y1, x2, y2 = a[mine, 0], a[mine, 1], a[mine, 2], a[mine, 3]
        area_a = area(x1, y1, x2, y2)
        most, place = zero, 0
        for start in range(0, len(b), TILE):
            cuda.syncthreads()  # until nobody reads the tile before
            if start + t < len(b):
                for side in range(4):
                    tile[side, t] = b[start + t, side]
                tile[4, t] = area(tile[0, t], tile[1, t], tile[2, t], tile[3, t])
            cuda.syncthreads()
            for k in range(min(TILE, len(b) - start)):
                shared = shared_area(x1, y1, x2, y2, tile[0, k], tile[1, k], tile[2, k], tile[3, k], zero)
                if not shared > zero:
                    continue
                value = shared / (area_a + tile[4, k] - shared)
                if value > most or (value != value and most == most):  # of NaNs too the first wins, as in argmax
                    most, place = value, start + k
        if i < len(a):
            best_idx[i], best_iou[i] = place, most

    return SimpleNamespace(iou=iou, over_first=over_first, best=best)


_kernels = {dtype: _make(product) for dtype, product in rounded_product.items()}


def iou_matrix(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    """Intersection over union of every box of `a` with every box of `b`: (N, 4), (M, 4) -> (N, M)."""
    return _fill("iou", a, b)


def intersection_over_first(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    """The share of each box of `a` that lies in each box of `b`: (N, 4), (M, 4) -> (N, M)."""
    return _fill("over_first", a, b)


def best_overlaps(a: DeviceArray, b: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """For each box of `a` the box of `b` that it overlaps most: its index int64 (N,), and their IoU (N,)."""
    a, b = _same_type(a, b)
    if len(a) == 0 or len(b) == 0:
        return zeros(len(a), np.int64), zeros(len(a), a.dtype)
    best_idx, best_iou = empty(len(a), np.int64), empty(len(a), a.dtype)
    blocks = -(-len(a) // TILE)
    _kernels[a.dtype.name].best[blocks, TILE](a.nd, b.nd, best_idx.nd, best_iou.nd)
    return best_idx, best_iou


def _fill(name: str, a: DeviceArray, b: DeviceArray) -> DeviceArray:
    a, b = _same_type(a, b)
    out = empty((len(a), len(b)), a.dtype)
    if out.size:
        getattr(_kernels[a.dtype.name], name)[grid_2d(len(a), len(b))](a.nd, b.nd, out.nd)
    return out


def _same_type(a: DeviceArray, b: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """Both sets on the GPU, in float64 if either is, else in float32."""
    a, b = to_device(as_boxes(a, "the first boxes")), to_device(as_boxes(b, "the second boxes"))
    dtype = np.result_type(a.dtype, b.dtype)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)
