"""Scale-compensated matching: more anchors for the faces that the ordinary rule leaves with too few.

Zhang et al., "S3FD", ICCV 2017, section 3.2; EXTD, section 3.4. Anchors come in sizes 16, 32, 64, ..., and a face whose
size is between two of them, or far below the smallest, overlaps few anchors by much. Stage one matches at an IoU of
0.35 instead of 0.5. Stage two gives more anchors, down to an IoU of 0.1, where there are too few. What "too few" and
"more" mean was never published as code; there are three readings:

    "text"    of S3FD's section 3.2: a face with fewer than the average number N of a face in stage one gets its best
              anchors until it has N (rounded down)
    "six"     its author's answer to a question about it: the same with N = 6
    "image"   of S3FD.pytorch, the code that EXTD's is derived from: for the image as a whole, the N best of all anchors
              between 0.1 and 0.35, where N is the mean of how many faces have an anchor of at least 0.35 and of 0.5

In all of them each face has its best anchor, however small the overlap; of faces with the same one the last has it.

N: anchors, G: ground truths.
"""

from __future__ import annotations

import numpy as np

from minidetect.detection.matcher import NEGATIVE
from minidetect.kernels.iou import as_boxes, iou_matrix

READINGS = ("text", "six", "image")


def match_compensated(
    anchors: np.ndarray, gt_boxes: np.ndarray, reading: str = "text", positive_iou: float = 0.35, low_iou: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Match anchors in two stages. EXTD, section 3.4: first an IoU over 0.35, then the best over 0.1.

    anchors: (N, 4), gt_boxes: (G, 4); reading: see the module. No anchor is taken from the face that it belongs to
    after stage one. In stage two an anchor wanted by several faces goes to the one that it overlaps most.
    Returns `matched_idx` int64 (N,), the row of `gt_boxes` or NEGATIVE, and `best_iou` (N,), as `match` does.
    Raises ValueError for another reading, or unless 0 <= low_iou <= positive_iou <= 1 and positive_iou > 0.
    """
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, got {reading!r}")
    if not (0 <= low_iou <= positive_iou <= 1 and positive_iou > 0):
        raise ValueError(f"needs 0 <= low_iou <= positive_iou <= 1, positive_iou > 0, got {low_iou}, {positive_iou}")
    anchors, gt_boxes = as_boxes(anchors, "anchors"), as_boxes(gt_boxes, "gt_boxes")
    iou = iou_matrix(anchors, gt_boxes)  # (N, G)
    matched_idx = np.full(len(anchors), NEGATIVE, np.int64)
    if iou.size == 0:
        return matched_idx, np.zeros(len(anchors), iou.dtype)
    best_gt, best_iou = iou.argmax(axis=1), iou.max(axis=1)
    matched_idx[best_iou >= positive_iou] = best_gt[best_iou >= positive_iou]
    for g in np.flatnonzero(iou.max(axis=0) > 0):  # of two faces with the same best anchor the later one gets it
        matched_idx[iou[:, g].argmax()] = g
    if reading == "image":
        num = (int((iou.max(axis=0) >= positive_iou).sum()) + int((iou.max(axis=0) >= 0.5).sum())) // 2
        free = np.flatnonzero((matched_idx < 0) & (best_iou > low_iou))
        more = free[np.argsort(-best_iou[free], kind="stable")[:num]]
        matched_idx[more] = best_gt[more]
        return matched_idx, best_iou
    counts = np.bincount(matched_idx[matched_idx >= 0], minlength=len(gt_boxes))
    wanted = 6 if reading == "six" else int(counts.sum() / len(gt_boxes))
    return fill_up(matched_idx, iou, counts, wanted, low_iou), best_iou


def fill_up(matched_idx: np.ndarray, iou: np.ndarray, counts: np.ndarray, wanted: int, low_iou: float) -> np.ndarray:
    """`matched_idx` (N,) with up to `wanted` anchors of an IoU over `low_iou` for each face, its best.

    A face that loses one of them to another face gets no further one instead.

    iou: (N, G); counts: (G,), of the anchors that it has already.
    """
    is_free, claim, claimed_by = matched_idx < 0, np.zeros(len(iou)), np.full(len(iou), NEGATIVE)
    for g in np.flatnonzero(counts < wanted):
        candidates = np.flatnonzero(is_free & (iou[:, g] > low_iou))
        best = candidates[np.argsort(-iou[candidates, g], kind="stable")[: wanted - counts[g]]]
        better = best[iou[best, g] > claim[best]]
        claim[better], claimed_by[better] = iou[better, g], g
    return np.where(claimed_by >= 0, claimed_by, matched_idx)
