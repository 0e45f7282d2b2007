"""Greedy non-maximum suppression: of boxes that overlap, keep the one with the highest score.

N: boxes, K: boxes kept. All overlaps are computed in float64 and without `FASTMATH`, so that an overlap
equal to the threshold (3 / 10 against 0.3) is the same number here, in the slow oracle and on paper.
"""

from __future__ import annotations

import numba
import numpy as np

from minidetect.kernels.iou import as_boxes

MODES = ("union", "min")


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, mode: str = "union") -> np.ndarray:
    """Indices of the boxes that survive greedy non-maximum suppression.

    The box with the highest score is kept and every later box that overlaps it by more than `threshold` is
    dropped; then the next one left, and so on. An overlap equal to the threshold survives.

    boxes: (N, 4) x1, y1, x2, y2; scores: (N,); threshold: in [0, 1].
    mode: what the intersection is divided by. "union" is IoU; "min" is the smaller of the two areas, which
        also drops a small box inside a large one (MTCNN's last suppression uses it).

    Returns int64 (K,), by falling score; of equal scores the earlier box comes first, and wins. Boxes of
    several classes: call it once a class. Raises ValueError for NaN, mismatched lengths or a threshold
    outside [0, 1].
    """
    boxes = as_boxes(boxes).astype(np.float64, copy=False)
    scores = np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise ValueError(f"nms: {len(boxes)} boxes need scores of shape ({len(boxes)},), got {scores.shape}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"nms: threshold must be in [0, 1], got {threshold}")
    if mode not in MODES:
        raise ValueError(f"nms: mode must be one of {MODES}, got {mode!r}")
    for name, values in (("boxes", boxes), ("scores", scores)):
        if np.isnan(values).any():
            where = int(np.argwhere(np.isnan(values))[0, 0])
            raise ValueError(f"nms: {name} hold a NaN at index {where}; has the network diverged?")
    # Falling and stable: a stable sort of the reversed scores, read backwards, needs no negation (which
    # would overflow for unsigned integers).
    order = len(scores) - 1 - np.argsort(scores[::-1], kind="stable")[::-1]
    kept = np.ones(len(boxes), np.bool_)
    _suppress(boxes[order], float(threshold), mode == "min", kept)
    return order[kept].astype(np.int64, copy=False)


@numba.njit(cache=True, nogil=True)
def _suppress(boxes, threshold, by_smaller, kept):
    """Clear kept[j] for each of the sorted boxes that an earlier kept one overlaps too much."""
    n = boxes.shape[0]
    for i in range(n):
        if not kept[i]:
            continue
        x1, y1, x2, y2 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
        area_i = (x2 - x1) * (y2 - y1)
        for j in range(i + 1, n):
            w = min(x2, boxes[j, 2]) - max(x1, boxes[j, 0])
            h = min(y2, boxes[j, 3]) - max(y1, boxes[j, 1])
            if w <= 0.0 or h <= 0.0:
                continue
            area_j = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            shared = w * h
            whole = min(area_i, area_j) if by_smaller else area_i + area_j - shared
            if shared / whole > threshold:
                kept[j] = False
