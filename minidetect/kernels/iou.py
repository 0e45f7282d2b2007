"""How much boxes overlap: intersection over union, and over the first box alone.

A box is x1, y1, x2, y2 in continuous coordinates: its width is x2 - x1, without the "+ 1" of Caffe-era
code. N: boxes of the first set, M: boxes of the second.

These kernels are compiled without `FASTMATH`: a fused or re-associated sum would give the overlap of a box
with itself as 0.99999994 or 1.0000001, and an overlap that equals a threshold could fall on either side.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import is_on_gpu, on_either_device
from minidetect.kernels.dispatch import exact_kernel


def as_boxes(boxes: np.ndarray, name: str = "boxes") -> np.ndarray:
    """`boxes` as a contiguous float array (N, 4); a float64 array stays so, all else becomes float32.

    An empty list stands for no boxes; boxes on the GPU stay there. Raises ValueError with `name` in it for any other
    shape.
    """
    dtype = np.float64 if getattr(boxes, "dtype", None) == np.float64 else np.float32
    boxes = boxes if is_on_gpu(boxes) else np.asarray(boxes)
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have shape (N, 4) as x1, y1, x2, y2, got {boxes.shape}")
    return boxes.astype(dtype, copy=False) if is_on_gpu(boxes) else np.ascontiguousarray(boxes, dtype)


@on_either_device
def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b`.

    a: (N, 4), b: (M, 4). Returns (N, M) in [0, 1], float64 if either input is, else float32. It is 1 only
    for equal boxes; a box without area (or turned inside out) overlaps nothing, itself included.
    """
    return _fill(_iou, a, b)


@on_either_device
def intersection_over_first(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The share of each box of `a` that lies in each box of `b`: intersection / area of the first box.

    a: (N, 4), b: (M, 4). Returns (N, M) in [0, 1]. Unlike IoU it is not symmetric: a small window inside a
    large ignore region has 1, however large the region is.
    """
    return _fill(_intersection_over_first, a, b)


@on_either_device
def best_overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each box of `a` the box of `b` that it overlaps most.

    a: (N, 4), b: (M, 4). Returns its index int64 (N,), of equals the first, and their IoU (N,), typed as in
    `iou_matrix`. Where `b` has no boxes both are 0.
    """
    iou = iou_matrix(a, b)  # (N, M)
    if iou.shape[1] == 0:
        return np.zeros(len(iou), np.int64), np.zeros(len(iou), iou.dtype)
    best_idx = iou.argmax(axis=1).astype(np.int64, copy=False)
    return best_idx, iou[np.arange(len(iou)), best_idx]


def _fill(fill: object, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = as_boxes(a, "the first boxes"), as_boxes(b, "the second boxes")
    dtype = np.result_type(a, b)
    columns = np.ascontiguousarray(b.T, dtype)  # (M, 4) -> (4, M)
    out = np.empty((len(a), len(b)), dtype)
    fill(a.astype(dtype, copy=False), columns, (columns[2] - columns[0]) * (columns[3] - columns[1]), out)
    return out


# The second boxes come as columns, all x1, then all y1 ..., and each loop ends in an "either this or that" without
# a way out: so LLVM computes 8 or 16 overlaps at once, which is seven times as fast. `np.divide` for the same
# reason: compiled, `/` tests for a divisor of 0 first and would leave the loop there.


@exact_kernel
def _iou(a, b, area_b, out):
    """a (N, 4), b (4, M), area_b (M,) -> out (N, M)."""
    zero = out.dtype.type(0)  # a literal 0.0 would turn float32 arithmetic into float64
    for i in range(a.shape[0]):
        x1, y1, x2, y2 = a[i, 0], a[i, 1], a[i, 2], a[i, 3]
        area_a = (x2 - x1) * (y2 - y1)
        for j in range(b.shape[1]):
            w = min(x2, b[2, j]) - max(x1, b[0, j])
            h = min(y2, b[3, j]) - max(y1, b[1, j])
            shared = w * h if w > zero and h > zero else zero  # of disjoint boxes both may be negative
            out[i, j] = np.divide(shared, area_a + area_b[j] - shared) if shared > zero else zero


@exact_kernel
def _intersection_over_first(a, b, area_b, out):
    """a (N, 4), b (4, M) -> out (N, M); area_b is not needed."""
    zero = out.dtype.type(0)
    for i in range(a.shape[0]):
        x1, y1, x2, y2 = a[i, 0], a[i, 1], a[i, 2], a[i, 3]
        area_a = (x2 - x1) * (y2 - y1)
        for j in range(b.shape[1]):
            w = min(x2, b[2, j]) - max(x1, b[0, j])
            h = min(y2, b[3, j]) - max(y1, b[1, j])
            shared = w * h if w > zero and h > zero else zero
            out[i, j] = np.divide(shared, area_a) if shared > zero else zero
