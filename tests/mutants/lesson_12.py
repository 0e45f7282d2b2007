"""Wrong answers to lesson 12 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_12 import anchor_grid, cell_anchors, label_anchors, moved_rows, propose, sample_anchors

from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import clip_to_image
from minidetect.kernels.nms import nms


def cell_anchors__side_is_the_width(sides, ratios):
    boxes = [(-s / 2, -s * r / 2, s / 2, s * r / 2) for s in sides for r in ratios]
    return np.array(boxes, float).reshape(-1, 4)


def cell_anchors__width_over_height(sides, ratios):
    return cell_anchors(sides, [1 / ratio for ratio in ratios])


def cell_anchors__ratios_outside(sides, ratios):
    boxes = [cell_anchors([side], [ratio])[0] for ratio in ratios for side in sides]
    return np.array(boxes, float).reshape(-1, 4)


def cell_anchors__no_root(sides, ratios):
    return cell_anchors(sides, [ratio**2 for ratio in ratios])


def cell_anchors__corner_at_the_origin(sides, ratios):
    boxes = cell_anchors(sides, ratios)
    return boxes - np.tile(boxes[:, :2], 2)


def cell_anchors__whole_side_to_each_side(sides, ratios):
    return 2 * cell_anchors(sides, ratios)


def cell_anchors__sorts_the_sides(sides, ratios):
    return cell_anchors(sorted(sides), sorted(ratios))


def cell_anchors__rounds(sides, ratios):
    return np.round(cell_anchors(sides, ratios))


def cell_anchors__flat_when_empty(sides, ratios):
    boxes = cell_anchors(sides, ratios)
    return boxes if len(boxes) else np.array([])


def cell_anchors__at_least_one_side(sides, ratios):
    return cell_anchors(sides or [1], ratios)


def anchor_grid__corners_for_centres(cell, height, width, stride):
    return anchor_grid(cell, height, width, stride) - stride / 2


def anchor_grid__columns_first(cell, height, width, stride):
    boxes = anchor_grid(cell, height, width, stride).reshape(height, width, len(cell), 4)
    return boxes.transpose(1, 0, 2, 3).reshape(-1, 4)


def anchor_grid__x_and_y_swapped(cell, height, width, stride):
    x, y = np.mgrid[:height, :width]
    centres = (np.stack([x, y, x, y], axis=2) + 0.5) * stride
    return (centres[:, :, None] + cell).reshape(-1, 4)


def anchor_grid__anchors_outside(cell, height, width, stride):
    boxes = anchor_grid(cell, height, width, stride).reshape(height, width, len(cell), 4)
    return boxes.transpose(2, 0, 1, 3).reshape(-1, 4)


def anchor_grid__half_a_pixel(cell, height, width, stride):
    return anchor_grid(cell, height, width, stride) - stride / 2 + 0.5


def anchor_grid__whole_numbers(cell, height, width, stride):
    boxes = anchor_grid(cell, height, width, stride)
    return boxes.astype(int)


def anchor_grid__keeps_four_axes(cell, height, width, stride):
    return anchor_grid(cell, height, width, stride).reshape(height, width, len(cell), 4)


def anchor_grid__at_least_one_column(cell, height, width, stride):
    return anchor_grid(cell, height, max(width, 1), stride)


def moved_rows__forgets_the_anchors_of_a_cell(rows, down, right, height, width, num):
    return moved_rows(rows, down, right, height, width * num, 1)


def moved_rows__wraps_around(rows, down, right, height, width, num):
    moved = rows + (down * width + right) * num
    return np.where((moved >= 0) & (moved < height * width * num), moved, -1)


def moved_rows__never_leaves(rows, down, right, height, width, num):
    return rows + (down * width + right) * num


def moved_rows__height_for_width(rows, down, right, height, width, num):
    return moved_rows(rows, down, right, width, height, num)


def moved_rows__down_and_right_swapped(rows, down, right, height, width, num):
    return moved_rows(rows, right, down, height, width, num)


def moved_rows__only_looks_right_and_below(rows, down, right, height, width, num):
    y, x, anchor = rows // (width * num) + down, rows // num % width + right, rows % num
    return np.where((y < height) & (x < width), (y * width + x) * num + anchor, -1)


def moved_rows__leaves_out_who_left(rows, down, right, height, width, num):
    moved = moved_rows(rows, down, right, height, width, num)
    return moved[moved >= 0]


def thresholds_only(iou):
    if 0 in iou.shape:
        return np.full(len(iou), -1)
    best = iou.max(axis=1)
    return np.where(best >= 0.7, iou.argmax(axis=1), np.where(best < 0.3, -1, -2))


def label_anchors__no_best_rule(iou):
    return thresholds_only(iou)


def label_anchors__best_of_nothing(iou):
    """The published Python code: an object that no anchor meets makes all of them positive."""
    labels = thresholds_only(iou)
    if iou.size:
        best = (iou == iou.max(axis=0)).any(axis=1) & (labels < 0)
        labels[best] = iou[best].argmax(axis=1)
    return labels


def label_anchors__background_overrules(iou):
    labels = label_anchors(iou)
    if iou.size:
        labels[iou.max(axis=1) < 0.3] = -1
    return labels


def label_anchors__one_best_only(iou):
    labels = thresholds_only(iou)
    for g in range(iou.shape[1] if len(iou) else 0):
        n = iou[:, g].argmax()
        if iou[n, g] > 0 and labels[n] < 0:
            labels[n] = g
    return labels


def label_anchors__last_object_wins(iou):
    """Object by object, each takes its best anchors from whoever had them."""
    labels = thresholds_only(iou)
    for g in range(iou.shape[1] if len(iou) else 0):
        if iou[:, g].max() > 0:
            labels[(iou[:, g] == iou[:, g].max()) & (iou.max(axis=1) < 0.7)] = g
    return labels


def label_anchors__last_of_equal_objects(iou):
    labels = label_anchors(iou)
    if iou.size:
        best = (iou == iou.max(axis=0)) & (iou > 0)
        forced = best.any(axis=1) & (iou.max(axis=1) < 0.7)
        labels[forced] = iou.shape[1] - 1 - np.where(best, iou, -1)[forced][:, ::-1].argmax(axis=1)
    return labels


def label_anchors__nearly_best_is_best(iou):
    labels = thresholds_only(iou)
    if iou.size:
        best = (iou >= iou.max(axis=0) - 0.02) & (iou > 0)
        forced = best.any(axis=1) & (labels < 0)
        labels[forced] = np.where(best, iou, -1)[forced].argmax(axis=1)
    return labels


def label_anchors__best_takes_what_it_overlaps_most(iou):
    labels = label_anchors(iou)
    if iou.size:
        labels = np.where(labels >= 0, iou.argmax(axis=1), labels)
    return labels


def label_anchors__best_overrules_a_clear_match(iou):
    labels = label_anchors(iou)
    if iou.size:
        best = (iou == iou.max(axis=0)) & (iou > 0)
        forced = best.any(axis=1)
        labels[forced] = np.where(best, iou, -1)[forced].argmax(axis=1)
    return labels


def label_anchors__above_not_at_least(iou):
    if 0 in iou.shape:
        return np.full(len(iou), -1)
    return label_anchors(np.where(iou == 0.7, 0.69, iou))


def label_anchors__at_most_is_background(iou):
    labels = label_anchors(iou)
    if iou.size:
        labels[(labels == -2) & (iou.max(axis=1) <= 0.3)] = -1
    return labels


def label_anchors__background_for_one_is_enough(iou):
    labels = label_anchors(iou)
    if iou.size:
        labels[(labels == -2) & (iou.min(axis=1) < 0.3)] = -1
    return labels


def label_anchors__nothing_in_between(iou):
    labels = label_anchors(iou)
    return np.where(labels == -2, -1, labels)


def label_anchors__no_objects_no_background(iou):
    return label_anchors(iou) if iou.shape[1] else np.full(len(iou), -2)


def label_anchors__only_yes_and_no(iou):
    labels = label_anchors(iou)
    return np.where(labels >= 0, 1, labels)


def label_anchors__best_object_of_the_anchor(iou):
    """The maximum along the wrong axis: every anchor is the best for somebody."""
    labels = thresholds_only(iou)
    if iou.size:
        best = iou.max(axis=1) > 0
        labels[best] = iou[best].argmax(axis=1)
    return labels


def sample_anchors__takes_the_first(labels, num, rng):
    pos = np.flatnonzero(labels >= 0)[: num // 2]
    return pos, np.flatnonzero(labels == -1)[: num - len(pos)]


def sample_anchors__evenly_spaced(labels, num, rng):
    pos, neg = np.flatnonzero(labels >= 0), np.flatnonzero(labels == -1)
    pos = pos[np.linspace(0, len(pos) - 1, min(len(pos), num // 2)).astype(int)]
    return pos, neg[np.linspace(0, len(neg) - 1, min(len(neg), num - len(pos))).astype(int)]


def sample_anchors__positives_evenly_spaced(labels, num, rng):
    pos = np.flatnonzero(labels >= 0)
    pos = pos[np.linspace(0, len(pos) - 1, min(len(pos), num // 2)).astype(int)]
    return pos, rng.permutation(np.flatnonzero(labels == -1))[: num - len(pos)]


def sample_anchors__a_chance_of_its_own(labels, num, rng):
    return sample_anchors(labels, num, np.random.default_rng())


def sample_anchors__always_the_same_chance(labels, num, rng):
    return sample_anchors(labels, num, np.random.default_rng(0))


def sample_anchors__half_negatives_always(labels, num, rng):
    pos, neg = sample_anchors(labels, num, rng)
    return pos, neg[: num // 2]


def sample_anchors__as_they_come(labels, num, rng):
    rows = rng.permutation(np.flatnonzero(labels != -2))[:num]
    return rows[labels[rows] >= 0], rows[labels[rows] == -1]


def sample_anchors__ignored_are_negatives(labels, num, rng):
    return sample_anchors(np.where(labels == -2, -1, labels), num, rng)


def sample_anchors__object_zero_is_forgotten(labels, num, rng):
    return sample_anchors(np.where(labels == 0, -2, labels), num, rng)


def sample_anchors__with_replacement(labels, num, rng):
    pos, neg = np.flatnonzero(labels >= 0), np.flatnonzero(labels == -1)
    pos = rng.choice(pos, min(len(pos), num // 2)) if len(pos) else pos
    return pos, rng.choice(neg, num - len(pos)) if len(neg) else neg


def sample_anchors__positives_fill(labels, num, rng):
    neg = np.flatnonzero(labels == -1)
    neg = rng.choice(neg, min(len(neg), num - num // 2), replace=False)
    pos = np.flatnonzero(labels >= 0)
    pos = rng.choice(pos, min(len(pos), num - len(neg)), replace=False)
    return pos, rng.permutation(np.flatnonzero(labels == -1))[: num - len(pos)]


def sample_anchors__as_many_negatives_as_positives(labels, num, rng):
    pos, neg = sample_anchors(labels, num, rng)
    return pos, neg[: len(pos)]


def sample_anchors__rounds_half_up(labels, num, rng):
    pos, neg = np.flatnonzero(labels >= 0)[: (num + 1) // 2], np.flatnonzero(labels == -1)
    return pos, neg[: num - len(pos)]


def sample_anchors__returns_labels(labels, num, rng):
    pos, neg = sample_anchors(labels, num, rng)
    return labels[pos], labels[neg]


def rpn_loss__both_by_the_sample(class_losses, box_losses, positions, weight):
    num = max(len(class_losses), 1)
    return class_losses.sum() / num, weight * box_losses.sum() / num


def rpn_loss__mean_over_positives(class_losses, box_losses, positions, weight):
    return class_losses.sum() / max(len(class_losses), 1), weight * box_losses.sum() / max(len(box_losses), 1)


def rpn_loss__weighs_both(class_losses, box_losses, positions, weight):
    return weight * class_losses.sum() / max(len(class_losses), 1), weight * box_losses.sum() / positions


def rpn_loss__forgets_lambda(class_losses, box_losses, positions, weight):
    return class_losses.sum() / max(len(class_losses), 1), box_losses.sum() / positions


def rpn_loss__mean_of_nothing(class_losses, box_losses, positions, weight):
    with np.errstate(all="ignore"):
        return np.divide(class_losses.sum(), len(class_losses)), weight * box_losses.sum() / positions


def rpn_loss__always_256(class_losses, box_losses, positions, weight):
    return class_losses.sum() / 256, weight * box_losses.sum() / positions


def rpn_loss__always_2400(class_losses, box_losses, positions, weight):
    return class_losses.sum() / max(len(class_losses), 1), weight * box_losses.sum() / 2400


def rpn_loss__adds_them(class_losses, box_losses, positions, weight):
    return class_losses.sum() / max(len(class_losses), 1) + weight * box_losses.sum() / positions


def proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, order):
    """The steps in another order; `order` names them."""
    boxes = BoxCoder().decode(anchors, deltas)
    for step in order:
        if step == "clip":
            boxes = clip_to_image(boxes, image_size)
        if step == "small":
            rows = (boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1)
            boxes, scores = boxes[rows], scores[rows]
        if step == "nms":
            rows = nms(boxes, scores, threshold)
            boxes, scores = boxes[rows], scores[rows]
        if step == "best":
            rows = np.argsort(-scores, kind="stable")[:most]
            boxes, scores = boxes[rows], scores[rows]
    return boxes


def propose__small_before_the_cut(anchors, deltas, scores, image_size, min_side, threshold, most):
    steps = ("small", "clip", "nms", "best")
    return proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, steps)


def propose__nms_before_the_cut(anchors, deltas, scores, image_size, min_side, threshold, most):
    steps = ("nms", "clip", "small", "best")
    return proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, steps)


def propose__small_ones_strike_out(anchors, deltas, scores, image_size, min_side, threshold, most):
    steps = ("clip", "nms", "small", "best")
    return proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, steps)


def propose__the_best_before_nms(anchors, deltas, scores, image_size, min_side, threshold, most):
    steps = ("clip", "small", "best", "nms")
    return proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, steps)


def propose__twice_as_many_before_nms(anchors, deltas, scores, image_size, min_side, threshold, most):
    best = np.argsort(-scores, kind="stable")[: 2 * most]
    return propose(anchors[best], deltas[best], scores[best], image_size, min_side, threshold, most)


def propose__sides_of_8(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, deltas, scores, image_size, 8, threshold, most)


def propose__border_at_the_last_pixel(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, deltas, scores, (image_size[0] - 1, image_size[1] - 1), min_side, threshold, most)


def propose__no_nms(anchors, deltas, scores, image_size, min_side, threshold, most):
    steps = ("clip", "small", "best")
    return proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, steps)


def propose__no_cut(anchors, deltas, scores, image_size, min_side, threshold, most):
    steps = ("small", "nms", "best")
    return proposals_in_steps(anchors, deltas, scores, image_size, min_side, threshold, most, steps)


def propose__keeps_small_ones(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, deltas, scores, image_size, 0, threshold, most)


def propose__longer_not_at_least(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, deltas, scores, image_size, min_side + 1e-6, threshold, most)


def propose__one_long_side_is_enough(anchors, deltas, scores, image_size, min_side, threshold, most):
    boxes = clip_to_image(BoxCoder().decode(anchors, deltas), image_size)
    rows = (boxes[:, 2:] - boxes[:, :2] >= min_side).any(axis=1)
    return boxes[rows][nms(boxes[rows], scores[rows], threshold)[:most]]


def propose__width_first(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, deltas, scores, image_size[::-1], min_side, threshold, most)


def propose__anchors_do_not_move(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, np.zeros_like(deltas), scores, image_size, min_side, threshold, most)


def propose__all_of_them(anchors, deltas, scores, image_size, min_side, threshold, most):
    return propose(anchors, deltas, scores, image_size, min_side, threshold, len(anchors))


def propose__in_the_order_of_the_anchors(anchors, deltas, scores, image_size, min_side, threshold, most):
    boxes = clip_to_image(BoxCoder().decode(anchors, deltas), image_size)
    rows = (boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1)
    return boxes[rows][sorted(nms(boxes[rows], scores[rows], threshold)[:most])]


def propose__scores_of_other_boxes(anchors, deltas, scores, image_size, min_side, threshold, most):
    boxes = clip_to_image(BoxCoder().decode(anchors, deltas), image_size)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1)]
    return boxes[nms(boxes, scores[: len(boxes)], threshold)[:most]]
