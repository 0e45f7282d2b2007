"""Wrong answers to lesson 20 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_20 import blended, cells_seen, focal_gradient, hardest, reference_scale, roi_align


def reference_scale__nearest_in_pixels(boxes, scales):
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return np.abs(sides[:, None] - scales).argmin(axis=1)


def reference_scale__the_longer_side(boxes, scales):
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    return np.abs(np.log2(sides[:, None] / scales)).argmin(axis=1)


def reference_scale__mean_of_the_sides(boxes, scales):
    sides = (boxes[:, 2:] - boxes[:, :2]).mean(axis=1)
    return np.abs(np.log2(sides[:, None] / scales)).argmin(axis=1)


def reference_scale__area_without_root(boxes, scales):
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.abs(np.log2(areas[:, None] / scales)).argmin(axis=1)


def reference_scale__the_scale_itself(boxes, scales):
    return np.asarray(scales)[reference_scale(boxes, scales)]


def reference_scale__larger_of_equals(boxes, scales):
    octaves = np.log2((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) / 2
    distance = np.abs(octaves[:, None] - np.log2(scales))[:, ::-1]
    return len(scales) - 1 - distance.argmin(axis=1)


def reference_scale__not_absolute(boxes, scales):
    octaves = np.log2((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) / 2
    return (octaves[:, None] - np.log2(scales)).argmin(axis=1)


def reference_scale__rounded_down(boxes, scales):
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    return np.maximum(np.searchsorted(scales, sides, side="right") - 1, 0)


def align_with(plane, box, bins, stride, points=(0.25, 0.75), shift=0.5, read=blended, combine=np.mean):
    """RoI align with other points, another origin or another way to read the map."""
    out = np.zeros(bins)
    for i in range(bins[0]):
        for j in range(bins[1]):
            ys = [box[1] + (i + p) / bins[0] * (box[3] - box[1]) for p in points]
            xs = [box[0] + (j + p) / bins[1] * (box[2] - box[0]) for p in points]
            out[i, j] = combine([read(plane, y / stride - shift, x / stride - shift) for y in ys for x in xs])
    return out


def nearest(plane, y, x):
    height, width = plane.shape
    return plane[int(np.clip(np.floor(y + 0.5), 0, height - 1)), int(np.clip(np.floor(x + 0.5), 0, width - 1))]


def zero_outside(plane, y, x):
    inside = 0 <= y <= plane.shape[0] - 1 and 0 <= x <= plane.shape[1] - 1
    return blended(plane, y, x) if inside else 0.0


def roi_align__without_half_a_cell(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, shift=0)


def roi_align__half_a_pixel(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, shift=0.5 / stride)


def roi_align__one_point(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, points=(0.5,))


def roi_align__corners_of_the_bin(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, points=(0, 1))


def roi_align__points_at_thirds(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, points=(1 / 3, 2 / 3))


def roi_align__nearest_cell(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, read=nearest)


def roi_align__largest_point(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, combine=np.max)


def roi_align__sum_of_points(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, combine=np.sum)


def roi_align__zero_outside(plane, box, bins, stride):
    return align_with(plane, box, bins, stride, read=zero_outside)


def roi_align__rounded_box(plane, box, bins, stride):
    return roi_align(plane, np.floor(box / stride + 0.5) * stride, bins, stride)


def roi_align__x_for_y(plane, box, bins, stride):
    return roi_align(plane, box[[1, 0, 3, 2]], bins, stride)


def roi_align__box_in_cells(plane, box, bins, stride):
    return roi_align(plane, box, bins, 1)


def hardest__with_the_ignored(losses, labels, num):
    chosen = np.sort(np.argsort(-losses, kind="stable")[:num])
    return chosen[labels[chosen] == 1], chosen[labels[chosen] == 0]


def hardest__one_to_three(losses, labels, num):
    parts = []
    for label, most in ((1, num // 4), (0, num - num // 4)):
        rows = np.flatnonzero(labels == label)
        parts.append(np.sort(rows[np.argsort(-losses[rows], kind="stable")[:most]]))
    return tuple(parts)


def hardest__num_of_each(losses, labels, num):
    rows = [np.flatnonzero(labels == label) for label in (1, 0)]
    return tuple(np.sort(r[np.argsort(-losses[r], kind="stable")[:num]]) for r in rows)


def hardest__all_objects(losses, labels, num):
    objects = np.flatnonzero(labels == 1)
    background = np.flatnonzero(labels == 0)
    rest = max(0, num - len(objects))
    return objects, np.sort(background[np.argsort(-losses[background], kind="stable")[:rest]])


def hardest__easiest(losses, labels, num):
    return hardest(-losses, labels, num)


def hardest__by_falling_loss(losses, labels, num):
    return tuple(rows[np.argsort(-losses[rows], kind="stable")] for rows in hardest(losses, labels, num))


def hardest__rows_among_the_known(losses, labels, num):
    known = np.flatnonzero(labels >= 0)
    return hardest(losses[known], labels[known], num)


def hardest__later_of_equals(losses, labels, num):
    parts = hardest(losses[::-1], labels[::-1], num)
    return tuple(len(losses) - 1 - rows[::-1] for rows in parts)


def focal_with(logits, labels, normaliser, balance=(0.75, 0.25), slope=None, both=True):
    """The solution with other weights or another slope; slope: of weights, p, 1 - p and -log p."""
    rows = np.arange(len(labels))
    z = logits[rows, labels] - logits[rows, 1 - labels]
    right, miss, loss = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)), np.log1p(np.exp(-z))
    weights = np.asarray(balance)[labels] * miss**2
    total = max(weights.sum(), 1e-30) if normaliser is None else normaliser
    steep = weights * (miss + 2 * right * loss) if slope is None else slope(weights, right, miss, loss)
    gradient = np.zeros_like(logits)
    gradient[rows, labels] = -steep / total
    if both:
        gradient[rows, 1 - labels] = steep / total
    return gradient


def focal_gradient__weight_as_constant(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, slope=lambda w, p, q, loss: w * q)


def focal_gradient__by_the_probability(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, slope=lambda w, p, q, loss: w * (1 / p + 2 * loss / q))


def focal_gradient__second_term_subtracted(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, slope=lambda w, p, q, loss: w * (q - 2 * p * loss))


def focal_gradient__without_two(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, slope=lambda w, p, q, loss: w * (q + p * loss))


def focal_gradient__alpha_for_background(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, balance=(0.25, 0.75))


def focal_gradient__without_alpha(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, balance=(1.0, 1.0))


def focal_gradient__upwards(logits, labels, normaliser):
    return -focal_gradient(logits, labels, normaliser)


def focal_gradient__one_logit(logits, labels, normaliser):
    return focal_with(logits, labels, normaliser, both=False)


def focal_gradient__mean_over_samples(logits, labels, normaliser):
    return focal_gradient(logits, labels, max(len(labels), 1) if normaliser is None else normaliser)


def focal_gradient__over_the_objects(logits, labels, normaliser):
    return focal_gradient(logits, labels, max((labels == 1).sum(), 1) if normaliser is None else normaliser)


def focal_gradient__normaliser_varies_too(logits, labels, normaliser):
    gradient = focal_gradient(logits, labels, normaliser)
    if normaliser is not None or not len(labels):
        return gradient
    step, numeric = 1e-5, np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        moved = np.zeros_like(logits)
        moved[index] = step
        numeric[index] = (focal_star(logits + moved, labels) - focal_star(logits - moved, labels)) / (2 * step)
    return numeric


def focal_star(logits, labels):
    rows = np.arange(len(labels))
    loss = np.log1p(np.exp(logits[rows, 1 - labels] - logits[rows, labels]))
    weights = np.where(labels == 1, 0.25, 0.75) * (1 - np.exp(-loss)) ** 2
    return (weights * loss).sum() / weights.sum()


def focal_gradient__over_a_number_too(logits, labels, normaliser):
    return focal_gradient(logits, labels, None)


def cells_with(branches, add, join=max):
    """The solution with another step."""
    sizes = []
    for layers in branches:
        size, apart = 1, 1
        for kernel, stride, dilation in layers:
            size, apart = add(size, apart, kernel, stride, dilation)
        sizes.append(size)
    return join(sizes)


def cells_seen__without_dilation(branches):
    return cells_seen([[(kernel, stride, 1) for kernel, stride, _ in layers] for layers in branches])


def cells_seen__without_stride(branches):
    return cells_seen([[(kernel, 1, dilation) for kernel, _, dilation in layers] for layers in branches])


def cells_seen__own_stride_first(branches):
    return cells_with(branches, lambda size, apart, k, s, d: (size + (k - 1) * d * apart * s, apart * s))


def cells_seen__kernel_times_dilation(branches):
    return cells_with(branches, lambda size, apart, k, s, d: (size + (k * d - 1) * apart, apart * s))


def cells_seen__branches_add_up(branches):
    return cells_with(branches, lambda size, apart, k, s, d: (size + (k - 1) * d * apart, apart * s), sum)


def cells_seen__first_branch(branches):
    return cells_seen(branches[:1])


def cells_seen__dilation_stays(branches):
    return cells_with(branches, lambda size, apart, k, s, d: (size + (k - 1) * d * apart, apart * s * d))


def cells_seen__from_nothing(branches):
    return cells_with(branches, lambda size, apart, k, s, d: (size + (k - 1) * d * apart, apart * s)) - 1


def cells_seen__whole_numbers(branches):
    return cells_with(branches, lambda size, apart, k, s, d: (size + int((k - 1) * d * apart), max(1, int(apart * s))))
