"""RoI warping: a region cropped and resized bilinearly, which is differentiable in the corners of its box as well.

    N, C, H, W   images, channels and size of the feature map
    R            regions; boxes (R, 4) in image pixels, image (R,) which of the N each belongs to
    PH, PW       points down and across

Point (i, j) of a region lies at x = x1 + (j + 0.5) / PW * (x2 - x1), and likewise y, times `scale`, in a map whose
cell k has its centre at k + 0.5; the value is blended from the four cells around the point. Beyond the outermost
centres the map goes on as it ends, and a corner that moves there changes nothing.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import kernel, parallel_kernel, prange


@kernel
def _blend(low, high, k, points, scale, limit):
    """Where point k of an axis lies: the cell before it, the share of the next one, and whether it is inside.

    low, high: the box's edges in the image. limit: cells of the map.
    """
    at = (low + (k + 0.5) / points * (high - low)) * scale - 0.5
    is_inside = 0 <= at <= limit - 1
    at = min(max(at, 0.0), limit - 1.0)
    first = min(int(at), max(limit - 2, 0))
    return first, at - first, is_inside


@parallel_kernel
def _forward(x, boxes, image, scale, y):
    """x (N, C, H, W), boxes (R, 4), image (R,) -> y (R, C, PH, PW)."""
    for r in prange(y.shape[0]):
        plane = x[image[r]]
        for i in range(y.shape[2]):
            top, down, _ = _blend(boxes[r, 1], boxes[r, 3], i, y.shape[2], scale, x.shape[2])
            below = min(top + 1, x.shape[2] - 1)
            for j in range(y.shape[3]):
                left, right, _ = _blend(boxes[r, 0], boxes[r, 2], j, y.shape[3], scale, x.shape[3])
                beside = min(left + 1, x.shape[3] - 1)
                for c in range(x.shape[1]):
                    upper = (1 - right) * plane[c, top, left] + right * plane[c, top, beside]
                    lower = (1 - right) * plane[c, below, left] + right * plane[c, below, beside]
                    y[r, c, i, j] = (1 - down) * upper + down * lower


@parallel_kernel
def _backward_x(gy, boxes, image, scale, gx):
    """Each point returns its gradient to its four cells; regions overlap, so one iteration owns a channel."""
    for c in prange(gx.shape[1]):
        for r in range(gy.shape[0]):
            for i in range(gy.shape[2]):
                top, down, _ = _blend(boxes[r, 1], boxes[r, 3], i, gy.shape[2], scale, gx.shape[2])
                below = min(top + 1, gx.shape[2] - 1)
                for j in range(gy.shape[3]):
                    left, right, _ = _blend(boxes[r, 0], boxes[r, 2], j, gy.shape[3], scale, gx.shape[3])
                    beside = min(left + 1, gx.shape[3] - 1)
                    g = gy[r, c, i, j]
                    gx[image[r], c, top, left] += g * (1 - down) * (1 - right)
                    gx[image[r], c, top, beside] += g * (1 - down) * right
                    gx[image[r], c, below, left] += g * down * (1 - right)
                    gx[image[r], c, below, beside] += g * down * right


@parallel_kernel
def _backward_boxes(gy, x, boxes, image, scale, gboxes):
    """The slope of the map at each point, times how far the point follows an edge: 1 - t the first, t the second."""
    for r in prange(gy.shape[0]):
        plane = x[image[r]]
        for i in range(gy.shape[2]):
            top, down, y_inside = _blend(boxes[r, 1], boxes[r, 3], i, gy.shape[2], scale, x.shape[2])
            below, t_y = min(top + 1, x.shape[2] - 1), (i + 0.5) / gy.shape[2]
            for j in range(gy.shape[3]):
                left, right, x_inside = _blend(boxes[r, 0], boxes[r, 2], j, gy.shape[3], scale, x.shape[3])
                beside, t_x = min(left + 1, x.shape[3] - 1), (j + 0.5) / gy.shape[3]
                along_x, along_y = 0.0, 0.0
                for c in range(x.shape[1]):
                    a, b = plane[c, top, left], plane[c, top, beside]
                    d, e = plane[c, below, left], plane[c, below, beside]
                    along_x += gy[r, c, i, j] * ((1 - down) * (b - a) + down * (e - d))
                    along_y += gy[r, c, i, j] * ((1 - right) * (d - a) + right * (e - b))
                if x_inside:
                    gboxes[r, 0] += scale * along_x * (1 - t_x)
                    gboxes[r, 2] += scale * along_x * t_x
                if y_inside:
                    gboxes[r, 1] += scale * along_y * (1 - t_y)
                    gboxes[r, 3] += scale * along_y * t_y


def roi_warp_forward(
    x: np.ndarray, boxes: np.ndarray, image: np.ndarray, size: tuple[int, int], scale: float
) -> np.ndarray:
    """x (N, C, H, W), boxes (R, 4), image (R,) int64 -> (R, C, PH, PW)."""
    y = np.empty((len(boxes), x.shape[1], *size), x.dtype)
    _forward(np.ascontiguousarray(x), boxes.astype(np.float64), image, float(scale), y)
    return y


def roi_warp_backward_map(
    gy: np.ndarray, x: np.ndarray, boxes: np.ndarray, image: np.ndarray, scale: float
) -> np.ndarray:
    """The gradient of the map, (N, C, H, W)."""
    gx = np.zeros(x.shape, gy.dtype)
    _backward_x(np.ascontiguousarray(gy), boxes.astype(np.float64), image, float(scale), gx)
    return gx


def roi_warp_backward_boxes(
    gy: np.ndarray, x: np.ndarray, boxes: np.ndarray, image: np.ndarray, scale: float
) -> np.ndarray:
    """The gradient of the boxes, (R, 4)."""
    gboxes = np.zeros(boxes.shape, np.float64)
    contiguous = np.ascontiguousarray(gy), np.ascontiguousarray(x)
    _backward_boxes(*contiguous, boxes.astype(np.float64), image, float(scale), gboxes)
    return gboxes.astype(boxes.dtype)
