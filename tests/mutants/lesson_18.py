"""Wrong answers to lesson 18 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_18 import fill_up, first_stage, hard_negatives, max_out_gradient, vote, whole_loss

from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms


def max_out_gradient__to_all_three(scores, gradient):
    return np.concatenate([np.repeat(gradient[:, :1], 3, axis=1), gradient[:, 1:]], axis=1)


def max_out_gradient__split_evenly(scores, gradient):
    return max_out_gradient__to_all_three(scores, gradient) / np.array([3, 3, 3, 1])[:, None, None]


def max_out_gradient__each_winner_all_of_it(scores, gradient):
    wins = scores[:, :3] == scores[:, :3].max(axis=1, keepdims=True)
    return np.concatenate([wins * gradient[:, :1], gradient[:, 1:]], axis=1)


def max_out_gradient__face_competes(scores, gradient):
    wins = scores[:, :3] == scores.max(axis=1, keepdims=True)
    return np.concatenate([wins * gradient[:, :1], gradient[:, 1:]], axis=1)


def max_out_gradient__first_winner_only(scores, gradient):
    wins = np.arange(3)[:, None, None] == scores[:, :3].argmax(axis=1)[:, None]
    return np.concatenate([wins * gradient[:, :1], gradient[:, 1:]], axis=1)


def max_out_gradient__times_the_score(scores, gradient):
    out = max_out_gradient(scores, gradient)
    return out * scores


def max_out_gradient__one_winner_a_map(scores, gradient):
    wins = scores[:, :3] == scores[:, :3].max(axis=(1, 2, 3), keepdims=True)
    background = wins / np.maximum(wins.sum(axis=1, keepdims=True), 1) * gradient[:, :1]
    return np.concatenate([background, gradient[:, 1:]], axis=1)


def first_stage__at_05(iou):
    low = np.where((iou >= 0.35) & (iou < 0.5), iou - 0.3, iou)
    return first_stage(low)


def first_stage__without_the_best(iou):
    if iou.size == 0:
        return np.full(len(iou), -1)
    return np.where(iou.max(axis=1) >= 0.35, iou.argmax(axis=1), -1)


def first_stage__over_035(iou):
    return first_stage(np.where(iou == 0.35, 0.34, iou))


def first_stage__best_of_nothing(iou):
    matched = first_stage(iou)
    for face in range(iou.shape[1] if len(iou) else 0):
        matched[iou[:, face].argmax()] = face
    return matched


def first_stage__first_come(iou):
    matched = first_stage__without_the_best(iou)
    for face in np.flatnonzero(iou.max(axis=0, initial=0) > 0):
        if matched[iou[:, face].argmax()] < 0:
            matched[iou[:, face].argmax()] = face
    return matched


def first_stage__all_equally_good(iou):
    matched = first_stage(iou)
    for face in np.flatnonzero(iou.max(axis=0, initial=0) > 0):
        matched[iou[:, face] == iou[:, face].max()] = face
    return matched


def first_stage__stops_without_faces(iou):
    return np.where(iou.max(axis=1) >= 0.35, iou.argmax(axis=1), first_stage(iou))


def first_stage__yes_or_no(iou):
    return np.minimum(first_stage(iou), 0)


def fill_up__takes_from_others(iou, matched):
    counts = (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)
    out = matched.copy()
    for face in np.flatnonzero(counts < (int(counts.mean()) if len(counts) else 0)):
        rows = np.flatnonzero((iou[:, face] > 0.1) & (matched != face))
        rows = rows[np.argsort(-iou[rows, face], kind="stable")[: int(counts.mean()) - counts[face]]]
        out[rows] = face
    return out


def fill_up__rounds_up(iou, matched):
    counts = (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)
    return _filled(iou, matched, int(np.ceil(counts.mean())) if len(counts) else 0)


def fill_up__to_six(iou, matched):
    return _filled(iou, matched, 6)


def fill_up__the_average_each(iou, matched):
    counts = (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)
    return _filled(iou, matched, int(counts.mean()) if len(counts) else 0, more=True)


def fill_up__any_overlap(iou, matched):
    counts = (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)
    return _filled(iou, matched, int(counts.mean()) if len(counts) else 0, low=0.0)


def fill_up__from_01(iou, matched):
    return fill_up(np.where(iou == 0.1, 0.1001, iou), matched)


def fill_up__first_come(iou, matched):
    out, counts = matched.copy(), (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)
    for face in range(iou.shape[1]):
        rows = np.flatnonzero((out < 0) & (iou[:, face] > 0.1))
        more = max(0, int(counts.mean()) - counts[face])
        out[rows[np.argsort(-iou[rows, face], kind="stable")[:more]]] = face
    return out


def fill_up__does_nothing(iou, matched):
    return matched.copy()


def _filled(iou, matched, wanted, more=False, low=0.1):
    """The solution with another number wanted."""
    chosen, counts = np.zeros_like(iou), (matched[:, None] == np.arange(iou.shape[1])).sum(axis=0)
    for face in np.flatnonzero(counts < wanted):
        rows = np.flatnonzero((matched < 0) & (iou[:, face] > low))
        lacking = wanted if more else wanted - counts[face]
        rows = rows[np.argsort(-iou[rows, face], kind="stable")[:lacking]]
        chosen[rows, face] = iou[rows, face]
    if iou.size == 0:
        return matched.copy()
    return np.where(chosen.max(axis=1) > 0, chosen.argmax(axis=1), matched)


def hard_negatives__with_positives(losses, matched, ignored, ratio):
    background = np.flatnonzero(~ignored)
    most = int(ratio * (matched >= 0).sum())
    return np.sort(background[np.argsort(-losses[background], kind="stable")[:most]])


def hard_negatives__from_ignore_regions(losses, matched, ignored, ratio):
    return hard_negatives(losses, matched, np.zeros_like(ignored), ratio)


def hard_negatives__the_easiest(losses, matched, ignored, ratio):
    return hard_negatives(-losses, matched, ignored, ratio)


def hard_negatives__hardest_first(losses, matched, ignored, ratio):
    rows = hard_negatives(losses, matched, ignored, ratio)
    return rows[np.argsort(-losses[rows], kind="stable")]


def hard_negatives__one_at_least(losses, matched, ignored, ratio):
    rows = hard_negatives(losses, matched, ignored, ratio)
    return rows if len(rows) else np.array([int(np.argmax(losses))])


def hard_negatives__rows_of_the_background(losses, matched, ignored, ratio):
    background = np.flatnonzero((matched < 0) & ~ignored)
    return np.searchsorted(background, hard_negatives(losses, matched, ignored, ratio))


def hard_negatives__later_of_equals(losses, matched, ignored, ratio):
    flipped = hard_negatives(losses[::-1], matched[::-1], ignored[::-1], ratio)
    return len(losses) - 1 - flipped[::-1]


def hard_negatives__faces_not_anchors(losses, matched, ignored, ratio):
    one = matched.copy()
    one[matched >= 0] = -1
    for face in np.unique(matched[matched >= 0]):
        one[np.flatnonzero(matched == face)[0]] = face
    return hard_negatives(np.where(matched >= 0, -np.inf, losses), one, ignored, ratio)


def whole_loss__one_divisor(class_losses, box_losses, lam):
    return (lam * class_losses.sum() + box_losses.sum()) / max(len(class_losses), 1)


def whole_loss__weight_on_the_boxes(class_losses, box_losses, lam):
    return whole_loss(class_losses, lam * box_losses, 1)


def whole_loss__sums(class_losses, box_losses, lam):
    return lam * class_losses.sum() + box_losses.sum()


def whole_loss__mean_of_nothing(class_losses, box_losses, lam):
    with np.errstate(invalid="ignore"):  # 0 / 0 is the mistake
        return lam * class_losses.sum() / len(class_losses) + box_losses.sum() / len(box_losses)


def whole_loss__weights_all(class_losses, box_losses, lam):
    return lam * whole_loss(class_losses, box_losses, 1)


def whole_loss__always_four(class_losses, box_losses, lam):
    return whole_loss(class_losses, box_losses, 4)


def vote__suppression(boxes, scores, threshold):
    keep = nms(boxes.astype(np.float32), scores.astype(np.float32), threshold)
    return boxes[keep], scores[keep]


def vote__plain_mean(boxes, scores, threshold):
    return vote_with(boxes, scores, threshold, lambda s: np.full(len(s), 1 / len(s)))


def vote__mean_score(boxes, scores, threshold):
    return vote_with(boxes, scores, threshold, lambda s: s / s.sum(), np.mean)


def vote__sum_of_scores(boxes, scores, threshold):
    return vote_with(boxes, scores, threshold, lambda s: s / s.sum(), np.sum)


def vote__not_divided(boxes, scores, threshold):
    return vote_with(boxes, scores, threshold, lambda s: s)


def vote__over_the_threshold(boxes, scores, threshold):
    return vote(boxes, scores, threshold + 1e-6)


def vote__worst_first(boxes, scores, threshold):
    merged, best = vote(boxes, scores, threshold)
    return merged[::-1], best[::-1]


def vote__whole_chains(boxes, scores, threshold):
    if len(boxes) == 0:
        return boxes, scores
    linked = iou_matrix(boxes, boxes) >= threshold
    for _ in range(len(boxes)):
        linked = linked @ linked
    groups = {tuple(row) for row in linked}
    found = sorted((-scores[list(row)].max(), row) for row in groups)
    rows = [np.array(row) for _, row in found]
    return np.array([scores[r] @ boxes[r] / scores[r].sum() for r in rows]), np.array([scores[r].max() for r in rows])


def vote__everyone_votes_again(boxes, scores, threshold):
    keep = nms(boxes.astype(np.float32), scores.astype(np.float32), threshold)
    weights = (iou_matrix(boxes[keep], boxes) >= threshold) * scores
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)) @ boxes, scores[keep]


def vote__nothing_for_nothing(boxes, scores, threshold):
    return vote(boxes, scores, threshold) if len(boxes) else (np.array([]), np.array([]))


def vote_with(boxes, scores, threshold, weigh, judge=np.max):
    """Voting with other weights or another score."""
    left, merged, best = np.argsort(-scores, kind="stable"), np.zeros((0, 4)), []
    while len(left):
        together = iou_matrix(boxes[left[:1]], boxes[left])[0] >= threshold
        group, left = left[together], left[~together]
        merged = np.concatenate([merged, weigh(scores[group])[None] @ boxes[group]])
        best.append(judge(scores[group]))
    return merged, np.array(best)


def fill_up__average_of_those_that_have_one(iou, matched):
    counts = np.bincount(matched[matched >= 0], minlength=iou.shape[1])
    if len(counts) == 0 or (counts > 0).all() or not counts.any():
        return fill_up(iou, matched)
    average, out = int(counts[counts > 0].mean()), matched.copy()
    for face in np.flatnonzero(counts < average):
        free = np.flatnonzero((matched < 0) & (iou[:, face] > 0.1))
        out[free[np.argsort(-iou[free, face], kind="stable")[: average - counts[face]]]] = face
    return out


def hard_negatives__half_a_negative_more(losses, matched, ignored, ratio):
    positives = max(1, int((np.asarray(matched) >= 0).sum()))
    up = np.ceil(ratio * positives) / positives if (np.asarray(matched) >= 0).any() else ratio
    return hard_negatives(losses, matched, ignored, up)
