"""Wrong answers to lesson 05 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_05 import iou, nms, suppression_mask


def iou__pixels_counted_with_plus_one(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + 1, 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + 1, 0)
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (area_a + area_b - width * height)


def iou__no_clamp(a, b):
    shared = (min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def iou__clamps_the_product_only(a, b):
    shared = max((min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1])), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def iou__union_counts_the_shared_part_twice(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]))


def iou__over_the_smaller_box(a, b):
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def nms__does_not_sort(boxes, scores, threshold):
    return nms(boxes, -np.arange(len(boxes)), threshold)


def nms__sorts_the_wrong_way(boxes, scores, threshold):
    return nms(boxes, -scores, threshold)


def nms__strikes_out_at_the_threshold(boxes, scores, threshold):
    return nms(boxes, scores, threshold - 1e-9)


def nms__struck_out_boxes_still_strike(boxes, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    return [j for n, j in enumerate(order) if all(iou(boxes[i], boxes[j]) <= threshold for i in order[:n])]


def nms__returns_positions_in_the_sorted_list(boxes, scores, threshold):
    order = list(np.argsort(-scores, kind="stable"))
    return [order.index(i) for i in nms(boxes, scores, threshold)]


def nms__reversed_sort_turns_ties(boxes, scores, threshold):
    order = np.argsort(scores, kind="stable")[::-1]
    return [order[i] for i in nms(boxes[order], -np.arange(len(boxes)), threshold)]


def nms__no_guard_for_no_boxes(boxes, scores, threshold):
    return [int(scores.argmax())] + nms(boxes, scores, threshold)[1:]


def nms__only_the_best_of_all_strikes(boxes, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    return [i for i in order if i == order[0] or iou(boxes[order[0]], boxes[i]) <= threshold]


def nms__only_the_last_one_kept_strikes(boxes, scores, threshold):
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if not kept or iou(boxes[kept[-1]], boxes[i]) <= threshold:
            kept.append(i)
    return kept


def nms__marks_the_struck_by_the_score_zero(boxes, scores, threshold):
    left, kept = scores.copy(), []
    while len(left) and left.max() > 0:
        best = left.argmax()
        kept.append(best)
        left[[iou(boxes[best], box) > threshold for box in boxes]] = 0
    return kept


def suppression_mask__strikes_both_ways(boxes, threshold):
    mask = suppression_mask(boxes, threshold)
    return mask | mask.T


def suppression_mask__strikes_itself(boxes, threshold):
    return suppression_mask(boxes, threshold) | np.eye(len(boxes), dtype=bool)


def suppression_mask__upside_down(boxes, threshold):
    return suppression_mask(boxes, threshold).T


def suppression_mask__at_the_threshold(boxes, threshold):
    return suppression_mask(boxes, threshold - 1e-9)


def suppression_mask__empties_the_rows_of_the_struck(boxes, threshold):
    mask = suppression_mask(boxes, threshold)
    struck = np.zeros(len(boxes), bool)
    for i in range(len(boxes)):
        if struck[i]:
            mask[i] = False
        struck |= mask[i]
    return mask


def suppression_mask__looks_at_neighbours_only(boxes, threshold):
    return np.tril(suppression_mask(boxes, threshold), 1)


def block_maxima__keeps_every_tie(scores, k):
    out = np.zeros_like(scores)
    for y in range(0, scores.shape[0], k):
        for x in range(0, scores.shape[1], k):
            block = scores[y : y + k, x : x + k]
            out[y : y + k, x : x + k] = np.where(block == block.max(), block, 0)
    return out


def block_maxima__whole_blocks_only(scores, k):
    out = np.zeros_like(scores)
    for y in range(0, scores.shape[0] - k + 1, k):
        for x in range(0, scores.shape[1] - k + 1, k):
            block = scores[y : y + k, x : x + k]
            row, column = np.unravel_index(block.argmax(), block.shape)
            out[y + row, x + column] = block.max()
    return out


def block_maxima__lowers_the_resolution(scores, k):
    height, width = scores.shape
    return np.array([[scores[y : y + k, x : x + k].max() for x in range(0, width, k)] for y in range(0, height, k)])


def block_maxima__spreads_the_maximum(scores, k):
    out = scores.copy()
    for y in range(0, scores.shape[0], k):
        for x in range(0, scores.shape[1], k):
            out[y : y + k, x : x + k] = scores[y : y + k, x : x + k].max()
    return out


def block_maxima__works_in_place(scores, k):
    for y in range(0, scores.shape[0], k):
        for x in range(0, scores.shape[1], k):
            block = scores[y : y + k, x : x + k]
            best = np.arange(block.size).reshape(block.shape) == block.argmax()
            block[~best] = 0
    return scores


def on_grid(ellipse, box):
    cx, cy, half_width, half_height = ellipse
    x, y = np.meshgrid((np.arange(80) + 0.5) / 8, (np.arange(80) + 0.5) / 8)
    radius = ((x - cx) / half_width) ** 2 + ((y - cy) / half_height) ** 2
    return radius, (box[0] <= x) & (x < box[2]) & (box[1] <= y) & (y < box[3])


def ellipse_iou__points_on_the_edges(ellipse, box):
    cx, cy, half_width, half_height = ellipse
    x, y = np.meshgrid(np.arange(81) / 8, np.arange(81) / 8)
    inside = ((x - cx) / half_width) ** 2 + ((y - cy) / half_height) ** 2 <= 1
    in_box = (box[0] <= x) & (x <= box[2]) & (box[1] <= y) & (y <= box[3])
    return (inside & in_box).sum() / (inside | in_box).sum()


def ellipse_iou__uses_the_box_around_it(ellipse, box):
    cx, cy, half_width, half_height = ellipse
    return iou((cx - half_width, cy - half_height, cx + half_width, cy + half_height), box)


def ellipse_iou__forgets_the_square(ellipse, box):
    cx, cy, half_width, half_height = ellipse
    x, y = np.meshgrid((np.arange(80) + 0.5) / 8, (np.arange(80) + 0.5) / 8)
    inside = abs(x - cx) / half_width + abs(y - cy) / half_height <= 1
    in_box = on_grid(ellipse, box)[1]
    return (inside & in_box).sum() / (inside | in_box).sum()


def ellipse_iou__over_the_box(ellipse, box):
    radius, in_box = on_grid(ellipse, box)
    return ((radius <= 1) & in_box).sum() / in_box.sum()


def ellipse_iou__whole_axes_for_half_axes(ellipse, box):
    radius, in_box = on_grid(ellipse, box)
    return ((radius <= 4) & in_box).sum() / ((radius <= 4) | in_box).sum()
