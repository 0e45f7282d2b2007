"""Which ground truth each proposal stands for, if any.

Matching, sampling and encoding are three separate steps, all on plain arrays outside the graph: `match` says
what each proposal is, `sampler.sample_balanced` which of them are learned from, `BoxCoder.encode` what the
regression should answer. N: proposals, G: ground truths, M: ignore regions.

`match_anchors` adds the region proposal network's rule that every ground truth has at least one anchor,
`match_two_pass` that of Group Sampling, that one without an anchor gets one if a good one is left.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import to_numpy
from minidetect.kernels.iou import as_boxes, best_overlaps, intersection_over_first, iou_matrix

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
    best_idx, best_iou = (to_numpy(best) for best in best_overlaps(proposals, gt_boxes))  # decided on the processor
    background = np.where(best_iou < negative_iou, NEGATIVE, IGNORE)
    return np.where(best_iou >= positive_iou, best_idx, background), best_iou


def match_anchors(
    anchors: np.ndarray, gt_boxes: np.ndarray, positive_iou: float = 0.7, negative_iou: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Match anchors for a region proposal network. Faster R-CNN, section 3.1.2.

    As `match`, and besides each ground truth's best anchor (several, if they are equally good) is positive, however low
    the overlap, so that no object is without an anchor. This second rule overrules the label background: a best
    anchor with an IoU below `negative_iou` is positive, not negative.

    A ground truth that overlaps no anchor at all has no best one. Without that condition its best IoU is 0, which is
    also that of nearly every anchor, and all of them would become positive.

    anchors: (N, 4), gt_boxes: (G, 4). Returns `matched_idx` int64 (N,) and `best_iou` (N,) as `match` does. An anchor
    that is the best of several ground truths stands for the one that it overlaps most.
    """
    matched_idx, best_iou = match(anchors, gt_boxes, positive_iou, negative_iou)
    if len(anchors) == 0 or len(gt_boxes) == 0:
        return matched_idx, best_iou
    iou = iou_matrix(anchors, gt_boxes)  # (N, G)
    best_of_gt = iou.max(axis=0)
    is_best = ((iou == best_of_gt) & (best_of_gt > 0)).any(axis=1)
    forced = is_best & (matched_idx < 0)
    candidates = np.where((iou == best_of_gt) & (best_of_gt > 0), iou, -1)  # only those whose best anchor this is
    matched_idx[forced] = candidates[forced].argmax(axis=1)
    return matched_idx, best_iou


def overlaps_ignore(boxes: np.ndarray, ignore: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Which boxes lie in an ignore region with more than `threshold` of their area: bool (N,).

    boxes: (N, 4), ignore: (M, 4). No negative is sampled among them (FaceCraft, section 6.1), since nobody
    has said whether there is a face. With threshold 0 touching a region is still allowed, sharing area with
    one is not. Regions count one by one: two that cover half a box each do not add up.
    """
    return (intersection_over_first(boxes, ignore) > threshold).any(axis=1)


def match_two_pass(
    anchors: np.ndarray, gt_boxes: np.ndarray, positive_iou: float = 0.6, negative_iou: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Match anchors as Group Sampling does. Group Sampling, section 4.1; positive_iou, negative_iou: lambda 1 and 2.

    First pass, Eq. (1): as `match`. Second pass: a ground truth that no anchor stands for gets one after all, the one
    with the largest IoU (of equal ones the first) among those

        1  that stand for no other ground truth,
        2  whose IoU with it is at least `negative_iou`,
        3  that overlap no other ground truth more (of equal ones the first counts).

    Only anchors that the first pass ignores can meet 2 and 3 and still be free, so no two ground truths want the same.
    An IoU of 0 is never enough.
    One that has no such anchor stays without: unlike Faster R-CNN's rule (`match_anchors`) this one has a lower bound.

    anchors: (N, 4), gt_boxes: (G, 4). Returns `matched_idx` int64 (N,) and `best_iou` (N,) as `match` does.
    """
    matched_idx, best_iou = match(anchors, gt_boxes, positive_iou, negative_iou)
    free = np.flatnonzero((matched_idx == IGNORE) & (best_iou > 0))  # 1 and 2, for the ground truth of 3
    if len(free) == 0:
        return matched_idx, best_iou
    best_gt = iou_matrix(as_boxes(anchors)[free], as_boxes(gt_boxes)).argmax(axis=1)
    for j in np.setdiff1d(best_gt, matched_idx):
        candidates = free[best_gt == j]
        matched_idx[candidates[best_iou[candidates].argmax()]] = j
    return matched_idx, best_iou
