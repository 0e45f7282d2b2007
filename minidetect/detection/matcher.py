"""Which ground truth each proposal stands for, if any.

Matching, sampling and encoding are three separate steps, all on plain arrays outside the graph: `match` says
what each proposal is, `sampler.sample_balanced` which of them are learned from, `BoxCoder.encode` what the
regression should answer. N: proposals, G: ground truths, M: ignore regions.

Left out: the rule that each ground truth takes its best anchor however low the overlap (Faster R-CNN,
section 3.1.2). It belongs to the region proposal network.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.iou import as_boxes, intersection_over_first, iou_matrix

NEGATIVE = -1  # background
IGNORE = -2  # neither: learned from as nothing


def match(
    proposals: np.ndarray, gt_boxes: np.ndarray, positive_iou: float, negative_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Match each proposal with the ground truth that it overlaps most.

    proposals: (N, 4), gt_boxes: (G, 4). A proposal whose best IoU is at least `positive_iou` is positive,
    below `negative_iou` negative, in between ignored (FaceCraft, section 4.2: 0.8 and 0.5). One ground truth
    may have many proposals, or none.

    Returns `matched_idx` int64 (N,), the row of `gt_boxes` or NEGATIVE or IGNORE, and `best_iou` (N,), 0
    where there is no ground truth. Of equal overlaps the first ground truth wins.
    Raises ValueError unless 0 <= negative_iou <= positive_iou <= 1 and positive_iou > 0.
    """
    if not (0 <= negative_iou <= positive_iou <= 1 and positive_iou > 0):
        raise ValueError(
            "match needs 0 <= negative_iou <= positive_iou <= 1 and positive_iou above 0, got "
            f"negative_iou={negative_iou}, positive_iou={positive_iou}"
        )
    proposals, gt_boxes = as_boxes(proposals, "proposals"), as_boxes(gt_boxes, "gt_boxes")
    iou = iou_matrix(proposals, gt_boxes)  # (N, G)
    if len(gt_boxes) == 0:
        best_idx, best_iou = np.zeros(len(proposals), np.int64), np.zeros(len(proposals), iou.dtype)
    else:
        best_idx = iou.argmax(axis=1).astype(np.int64, copy=False)
        best_iou = iou[np.arange(len(iou)), best_idx]
    background = np.where(best_iou < negative_iou, NEGATIVE, IGNORE)
    return np.where(best_iou >= positive_iou, best_idx, background), best_iou


def overlaps_ignore(boxes: np.ndarray, ignore: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Which boxes lie in an ignore region with more than `threshold` of their area: bool (N,).

    boxes: (N, 4), ignore: (M, 4). No negative is sampled among them (FaceCraft, section 6.1), since nobody
    has said whether there is a face. With threshold 0 touching a region is still allowed, sharing area with
    one is not. Regions count one by one: two that cover half a box each do not add up.
    """
    return (intersection_over_first(boxes, ignore) > threshold).any(axis=1)
