"""Wrong answers to lesson 10 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import math

import numpy as np
from solutions.lesson_10 import bin_edges, class_boxes, head_loss, roi_pool, roi_pool_backward, sample

from minidetect.detection.box_coder import BoxCoder


def cut(start, end, num, limit):
    """The right bins of a region of cells."""
    return bin_edges(start, end, 1.0, num, limit)


def bin_edges__even_rounding(low, high, scale, num, limit):
    start = int(np.round(low * scale))
    return cut(start, max(int(np.round(high * scale)), start + 1), num, limit)


def bin_edges__rounds_towards_zero(low, high, scale, num, limit):
    start = int(low * scale + 0.5)
    return cut(start, max(int(high * scale + 0.5), start + 1), num, limit)


def bin_edges__no_rounding_to_the_nearest(low, high, scale, num, limit):
    start = math.floor(low * scale)
    return cut(start, max(math.floor(high * scale), start + 1), num, limit)


def bin_edges__outward_rounding(low, high, scale, num, limit):
    start = math.floor(low * scale)
    return cut(start, max(math.ceil(high * scale), start + 1), num, limit)


def bin_edges__last_pixel_counts(low, high, scale, num, limit):
    return cut(math.floor(low * scale + 0.5), math.floor(high * scale + 0.5) + 1, num, limit)


def bin_edges__bins_do_not_overlap(low, high, scale, num, limit):
    start = math.floor(low * scale + 0.5)
    length = max(math.floor(high * scale + 0.5) - start, 1)
    edges = np.array([start + k * length // num for k in range(num + 1)])
    return np.clip(np.stack([edges[:-1], edges[1:]], axis=1), 0, limit)


def bin_edges__equal_steps(low, high, scale, num, limit):
    start = math.floor(low * scale + 0.5)
    length = max(math.floor(high * scale + 0.5) - start, 1)
    step = max(length // num, 1)
    first = start + step * np.arange(num)
    return np.clip(np.stack([first, first + step], axis=1), 0, limit)


def bin_edges__not_clipped(low, high, scale, num, limit):
    return bin_edges(low + 8000, high + 8000, scale, num, 10**6) - int(8000 * scale)


def bin_edges__region_clipped_before_it_is_cut(low, high, scale, num, limit):
    start = min(max(math.floor(low * scale + 0.5), 0), limit)
    return cut(start, min(max(math.floor(high * scale + 0.5), 0), limit), num, limit)


def bin_edges__no_least_length(low, high, scale, num, limit):
    start = math.floor(low * scale + 0.5)
    length = math.floor(high * scale + 0.5) - start
    first = [start + k * length // num for k in range(num)]
    last = [start - (-(k + 1) * length) // num for k in range(num)]
    return np.clip(np.stack([first, last], axis=1), 0, limit)


def bin_edges__in_floating_point(low, high, scale, num, limit):
    start = math.floor(low * scale + 0.5)
    size = max(math.floor(high * scale + 0.5) - start, 1) / num
    found = [(start + math.floor(k * size), start + math.ceil((k + 1) * size)) for k in range(num)]
    return np.clip(np.array(found), 0, limit)


def bin_edges__no_whole_numbers(low, high, scale, num, limit):
    return bin_edges(low, high, scale, num, limit).astype(float)


def roi_pool__empty_bins_are_minus_infinity(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    return np.where(argmax < 0, -np.inf, y), argmax


def roi_pool__never_below_zero(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    return np.maximum(y, 0), argmax


def roi_pool__empty_bins_point_at_cell_zero(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    return y, np.maximum(argmax, 0)


def roi_pool__columns_times_height(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    row, column = argmax // x.shape[2], argmax % x.shape[2]
    return y, np.where(argmax < 0, -1, column * x.shape[1] + row)


def roi_pool__last_of_equals(x, rois, size, scale):
    flipped = np.stack([-rois[:, 2], -rois[:, 3], -rois[:, 0], -rois[:, 1]], axis=1) + np.tile(
        [x.shape[2] / scale, x.shape[1] / scale], 2
    )
    y, argmax = roi_pool(x[:, ::-1, ::-1], flipped, size, scale)
    argmax = np.where(argmax < 0, -1, x.shape[1] * x.shape[2] - 1 - argmax)
    return y[:, :, ::-1, ::-1], argmax[:, :, ::-1, ::-1]


def roi_pool__place_within_the_bin(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    argmax = argmax.copy()
    for r, (x1, y1, x2, y2) in enumerate(rois):
        rows = bin_edges(y1, y2, scale, size[0], x.shape[1])
        columns = bin_edges(x1, x2, scale, size[1], x.shape[2])
        for c, i, j in np.argwhere(argmax[r] >= 0):
            row, column = divmod(argmax[r, c, i, j], x.shape[2])
            width = columns[j][1] - columns[j][0]
            argmax[r, c, i, j] = (row - rows[i][0]) * width + column - columns[j][0]
    return y, argmax


def roi_pool__place_counts_through_the_channels(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    plane = x.shape[1] * x.shape[2] * np.arange(len(x))[:, None, None]
    return y, np.where(argmax < 0, -1, argmax + plane)


def roi_pool__one_winner_for_all_channels(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    argmax = np.repeat(argmax[:, :1], len(x), axis=1)
    places = np.maximum(argmax, 0).swapaxes(0, 1).reshape(len(x), -1)
    values = np.take_along_axis(x.reshape(len(x), -1), places, axis=1)
    values = values.reshape(len(x), len(rois), *size).swapaxes(0, 1)
    return np.where(argmax < 0, 0, values), argmax


def roi_pool__rows_and_columns_swapped(x, rois, size, scale):
    return roi_pool(x, rois[:, [1, 0, 3, 2]], size, scale)


def roi_pool__bins_across_and_down(x, rois, size, scale):
    return roi_pool(x, rois, size[::-1], scale)


def roi_pool__the_mean(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    y = np.zeros(y.shape)
    for r, (x1, y1, x2, y2) in enumerate(rois):
        for i, (top, bottom) in enumerate(bin_edges(y1, y2, scale, size[0], x.shape[1])):
            for j, (left, right) in enumerate(bin_edges(x1, x2, scale, size[1], x.shape[2])):
                if top < bottom and left < right:
                    y[r, :, i, j] = x[:, top:bottom, left:right].mean(axis=(1, 2))
    return y, argmax


def roi_pool__forgets_the_scale(x, rois, size, scale):
    return roi_pool(x, rois, size, 1.0)


def roi_pool__places_that_are_no_whole_numbers(x, rois, size, scale):
    y, argmax = roi_pool(x, rois, size, scale)
    return y, argmax.astype(float)


def roi_pool__refuses_an_empty_list(x, rois, size, scale):
    found = [roi_pool(x, roi[None], size, scale) for roi in rois]
    return np.concatenate([y for y, _ in found]), np.concatenate([argmax for _, argmax in found])


def roi_pool_backward__assigns(gy, argmax, shape):
    gx = np.zeros((shape[0], shape[1] * shape[2]))
    for r, c, i, j in np.argwhere(argmax >= 0):
        gx[c, argmax[r, c, i, j]] = gy[r, c, i, j]
    return gx.reshape(shape)


def roi_pool_backward__adds_with_a_list_of_indices(gy, argmax, shape):
    gx = np.zeros((shape[0], shape[1] * shape[2]))
    for r in range(len(gy)):  # += counts an index that occurs twice once
        for c in range(shape[0]):
            found = argmax[r, c] >= 0
            gx[c, argmax[r, c][found]] += gy[r, c][found]
    return gx.reshape(shape)


def roi_pool_backward__one_region_after_the_other(gy, argmax, shape):
    gx = np.zeros(shape)
    for r in range(len(gy)):
        own = roi_pool_backward(gy[r : r + 1], argmax[r : r + 1], shape)
        gx = np.where(own != 0, own, gx)
    return gx


def roi_pool_backward__empty_bins_feed_the_last_cell(gy, argmax, shape):
    gx = np.zeros((shape[0], shape[1] * shape[2]))
    for place in np.ndindex(argmax.shape):
        gx[place[1], argmax[place]] += gy[place]
    return gx.reshape(shape)


def roi_pool_backward__empty_bins_feed_the_first_cell(gy, argmax, shape):
    return roi_pool_backward(gy, np.maximum(argmax, 0), shape)


def roi_pool_backward__mean_of_what_meets(gy, argmax, shape):
    count = roi_pool_backward(np.ones(gy.shape), argmax, shape)
    return roi_pool_backward(gy, argmax, shape) / np.maximum(count, 1)


def roi_pool_backward__mean_over_the_regions(gy, argmax, shape):
    return roi_pool_backward(gy, argmax, shape) / max(len(gy), 1)


def roi_pool_backward__columns_times_height(gy, argmax, shape):
    gx = roi_pool_backward(gy, argmax, shape)
    return gx.reshape(shape[0], shape[2], shape[1]).swapaxes(1, 2)


def roi_pool_backward__all_channels_into_the_first(gy, argmax, shape):
    gx = np.zeros(shape)
    gx[0] = roi_pool_backward(gy, argmax, shape).sum(axis=0)
    return gx


def roi_pool_backward__flat(gy, argmax, shape):
    return roi_pool_backward(gy, argmax, shape).reshape(shape[0], -1)


def sample__object_above_one_half(best_iou, num, rng):
    return sample(np.where(best_iou == 0.5, 0.499, best_iou), num, rng)


def sample__background_above_one_tenth(best_iou, num, rng):
    return sample(np.where(best_iou == 0.1, 0, best_iou), num, rng)


def sample__background_from_zero(best_iou, num, rng):
    objects, _ = sample(best_iou, num, rng)
    return objects, rng.permutation(np.flatnonzero(best_iou < 0.5))[: num - len(objects)]


def sample__half_and_half(best_iou, num, rng):
    objects = rng.permutation(np.flatnonzero(best_iou >= 0.5))[: num // 2]
    return objects, sample(best_iou, num, rng)[1][: num - len(objects)]


def sample__always_three_quarters_of_background(best_iou, num, rng):
    objects, background = sample(best_iou, num, rng)
    return objects, background[: num - num // 4]


def sample__objects_fill_the_batch(best_iou, num, rng):
    _, background = sample(best_iou, num, rng)
    objects = rng.permutation(np.flatnonzero(best_iou >= 0.5))
    return objects[: max(num - len(background), num // 4)], background


def sample__with_replacement(best_iou, num, rng):
    objects, background = sample(best_iou, num, rng)
    if len(background):
        background = rng.choice(np.flatnonzero((best_iou >= 0.1) & (best_iou < 0.5)), num - len(objects))
    return objects, background


def sample__the_first_ones(best_iou, num, rng):
    objects = np.flatnonzero(best_iou >= 0.5)[: num // 4]
    background = np.flatnonzero((best_iou >= 0.1) & (best_iou < 0.5))
    return objects, background[: num - len(objects)]


def sample__the_best_ones(best_iou, num, rng):
    order = rng.permutation(len(best_iou))
    order = order[np.argsort(-best_iou[order], kind="stable")]
    objects = order[best_iou[order] >= 0.5][: num // 4]
    background = order[(best_iou[order] >= 0.1) & (best_iou[order] < 0.5)]
    return objects, background[: num - len(objects)]


def sample__the_hardest_background(best_iou, num, rng):
    objects, background = sample(best_iou, num, rng)
    order = np.argsort(-best_iou, kind="stable")
    return objects, order[(best_iou[order] >= 0.1) & (best_iou[order] < 0.5)][: len(background)]


def sample__a_generator_of_its_own(best_iou, num, rng):
    return sample(best_iou, num, np.random.default_rng(7))


def sample__background_at_equal_distances(best_iou, num, rng):
    objects, background = sample(best_iou, num, rng)
    candidates = np.flatnonzero((best_iou >= 0.1) & (best_iou < 0.5))
    if len(background):
        background = candidates[np.linspace(0, len(candidates) - 1, len(background)).astype(int)]
    return objects, background


def sample__a_slice_that_begins_anywhere(best_iou, num, rng):
    objects, background = sample(best_iou, num, rng)
    candidates = np.flatnonzero((best_iou >= 0.1) & (best_iou < 0.5))
    begin = rng.integers(len(candidates) - len(background) + 1)
    return objects, candidates[begin : begin + len(background)]


def sample__masks(best_iou, num, rng):
    objects, background = sample(best_iou, num, rng)
    rows = np.arange(len(best_iou))
    return np.isin(rows, objects), np.isin(rows, background)


def sample__empty_lists_of_floats(best_iou, num, rng):
    return [np.array([row for row in rows]) for rows in sample(best_iou, num, rng)]


def sample__all_in_one_array(best_iou, num, rng):
    return np.concatenate(sample(best_iou, num, rng))


def class_boxes__labels_of_the_first_row(rois, deltas, labels, std):
    if not len(rois):
        return rois
    return BoxCoder().decode(rois, deltas[:, 4 * labels[0] - 4 : 4 * labels[0]] * std)


def class_boxes__label_without_the_one(rois, deltas, labels, std):
    columns = 4 * (labels[:, None] % (deltas.shape[1] // 4)) + np.arange(4)
    return BoxCoder().decode(rois, np.take_along_axis(deltas, columns, axis=1) * std)


def class_boxes__always_the_first_class(rois, deltas, labels, std):
    return class_boxes(rois, deltas, np.ones_like(labels), std)


def class_boxes__coordinates_before_classes(rois, deltas, labels, std):
    num, classes = len(rois), deltas.shape[1] // 4
    shuffled = deltas.reshape(num, 4, classes).swapaxes(1, 2).reshape(num, -1)
    return class_boxes(rois, shuffled, labels, std)


def class_boxes__mean_over_the_classes(rois, deltas, labels, std):
    return BoxCoder().decode(rois, deltas.reshape(len(rois), -1, 4).mean(axis=1) * std) if len(rois) else rois


def class_boxes__columns_of_all_labels(rois, deltas, labels, std):
    own = deltas.reshape(len(rois), deltas.shape[1] // 4, 4)[:, labels - 1]  # (R, R, 4)
    return BoxCoder().decode(rois, own[:, :1].reshape(-1, 4) * std)


def class_boxes__forgets_the_deviations(rois, deltas, labels, std):
    return class_boxes(rois, deltas, labels, np.ones(4))


def class_boxes__divides_by_the_deviations(rois, deltas, labels, std):
    return class_boxes(rois, deltas, labels, 0.1 / std)


def class_boxes__one_deviation_for_all(rois, deltas, labels, std):
    return class_boxes(rois, deltas, labels, std[0])


def class_boxes__the_offsets_themselves(rois, deltas, labels, std):
    return np.take_along_axis(deltas, 4 * (labels[:, None] - 1) + np.arange(4), axis=1) * std


def class_boxes__adds_pixels(rois, deltas, labels, std):
    return rois + class_boxes__the_offsets_themselves(rois, deltas, labels, std)


def head_loss__boxes_of_background_too(logits, deltas, labels, targets):
    classification, _ = head_loss(logits, deltas, labels, targets)
    _, boxes = head_loss(logits, deltas, np.maximum(labels, 1), targets)
    return classification, boxes


def head_loss__background_times_zero(logits, deltas, labels, targets):
    classification, _ = head_loss(logits, deltas, labels, targets)
    columns = 4 * (np.maximum(labels, 1)[:, None] - 1) + np.arange(4)
    error = np.abs(np.take_along_axis(deltas, columns, axis=1) - targets)
    each = np.where(error < 1, error**2 / 2, error - 0.5).sum(axis=1)
    return classification, (each * (labels >= 1)).sum() / max(len(labels), 1)


def head_loss__boxes_over_the_objects(logits, deltas, labels, targets):
    classification, boxes = head_loss(logits, deltas, labels, targets)
    return classification, boxes * len(labels) / max((labels >= 1).sum(), 1)


def head_loss__mean_over_the_coordinates(logits, deltas, labels, targets):
    classification, boxes = head_loss(logits, deltas, labels, targets)
    return classification, boxes / 4


def head_loss__sums(logits, deltas, labels, targets):
    return tuple(part * len(labels) for part in head_loss(logits, deltas, labels, targets))


def head_loss__label_without_the_one(logits, deltas, labels, targets):
    classification, _ = head_loss(logits, deltas, labels, targets)
    _, boxes = head_loss(logits, np.roll(deltas, -4, axis=1), labels, targets)
    return classification, boxes


def head_loss__all_classes_are_held_to_the_target(logits, deltas, labels, targets):
    num = max(len(labels), 1)
    rows = np.flatnonzero(labels >= 1)
    error = np.abs(deltas[rows] - np.tile(targets[rows], deltas.shape[1] // 4))
    return head_loss(logits, deltas, labels, targets)[0], np.where(error < 1, error**2 / 2, error - 0.5).sum() / num


def head_loss__squared_error(logits, deltas, labels, targets):
    rows = np.flatnonzero(labels >= 1)
    columns = 4 * (labels[rows, None] - 1) + np.arange(4)
    error = deltas[rows[:, None], columns] - targets[rows]
    return head_loss(logits, deltas, labels, targets)[0], (error**2).sum() / 2 / max(len(labels), 1)


def head_loss__no_half_off_the_line(logits, deltas, labels, targets):
    rows = np.flatnonzero(labels >= 1)
    columns = 4 * (labels[rows, None] - 1) + np.arange(4)
    error = np.abs(deltas[rows[:, None], columns] - targets[rows])
    loss = np.where(error < 1, error**2 / 2, error).sum() / max(len(labels), 1)
    return head_loss(logits, deltas, labels, targets)[0], loss


def head_loss__exponentials_overflow(logits, deltas, labels, targets):
    num = max(len(labels), 1)
    with np.errstate(all="ignore"):
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        classification = -np.log(probs[np.arange(len(labels)), labels]).sum() / num
    return classification, head_loss(logits, deltas, labels, targets)[1]


def head_loss__largest_of_all_logits(logits, deltas, labels, targets):
    if not len(labels):
        return 0.0, 0.0
    shifted = logits - logits.max()
    with np.errstate(all="ignore"):
        log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_probs[np.arange(len(labels)), labels].mean(), head_loss(logits, deltas, labels, targets)[1]


def head_loss__zero_over_zero(logits, deltas, labels, targets):
    classification, boxes = head_loss(logits, deltas, labels, targets)
    with np.errstate(all="ignore"):
        return np.array([classification, boxes]) * len(labels) / np.float64(len(labels))


def head_loss__objects_only(logits, deltas, labels, targets):
    rows = labels >= 1
    share = rows.sum() / max(len(labels), 1)
    return tuple(part * share for part in head_loss(logits[rows], deltas[rows], labels[rows], targets[rows]))


def head_loss__one_number(logits, deltas, labels, targets):
    return sum(head_loss(logits, deltas, labels, targets))
