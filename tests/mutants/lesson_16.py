"""Wrong answers to lesson 16 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_16 import hardest, masked_gradient, mirror_points, nms_by_smaller, patch_points, sample_types


def sample_types__first_face_only(iou, ignored):
    return sample_types(iou[:, :1], ignored)


def sample_types__positive_from_exactly_07(iou, ignored):
    best = iou.max(axis=1, initial=0)
    types = np.where(best >= 0.7, 1, np.where(best < 0.3, 0, -1))
    return np.where((types == 0) & ignored, 9, types)


def sample_types__negative_up_to_03(iou, ignored):
    best = iou.max(axis=1, initial=0)
    types = np.where(best > 0.7, 1, np.where(best <= 0.3, 0, -1))
    return np.where((types == 0) & ignored, 9, types)


def sample_types__forgets_ignore_regions(iou, ignored):
    return sample_types(iou, np.zeros_like(ignored))


def sample_types__ignores_faces_too(iou, ignored):
    return np.where(ignored, 9, sample_types(iou, ignored))


def sample_types__ignores_parts_too(iou, ignored):
    types = sample_types(iou, ignored)
    return np.where(ignored & (types != 1), 9, types)


def sample_types__stops_without_faces(iou, ignored):
    return sample_types(iou.max(axis=1)[:, None], ignored)


def sample_types__adds_overlaps(iou, ignored):
    return sample_types(iou.sum(axis=1, keepdims=True), ignored)


def sample_types__parts_and_negatives_change_places(iou, ignored):
    types = sample_types(iou, ignored)
    return np.select([types == 0, types == -1], [-1, 0], types)


def patch_points__in_pixels(points, squares):
    return (points - squares[:, None, :2]).reshape(-1, 10)


def patch_points__over_48(points, squares):
    return (points - squares[:, None, :2]).reshape(-1, 10) / 48


def patch_points__from_the_centre(points, squares):
    return patch_points(points, squares) - 0.5


def patch_points__of_the_picture(points, squares):
    sides = squares[:, 2:] - squares[:, :2]
    return (points / sides[:, None]).reshape(-1, 10)


def patch_points__y_first(points, squares):
    return patch_points(points, squares).reshape(-1, 5, 2)[:, :, ::-1].reshape(-1, 10)


def patch_points__all_x_then_all_y(points, squares):
    return patch_points(points, squares).reshape(-1, 5, 2).swapaxes(1, 2).reshape(-1, 10)


def patch_points__cut_at_the_border(points, squares):
    return patch_points(points, squares).clip(0, 1)


def patch_points__the_first_square_for_all(points, squares):
    return patch_points(points, np.repeat(squares[:1], len(points), axis=0))


def patch_points__keeps_pairs(points, squares):
    return patch_points(points, squares).reshape(-1, 5, 2)


def mirror_points__left_stays_left(points, mirrored):
    x = np.arange(10) % 2 == 0
    return np.where(mirrored[:, None] & x, 1 - points, points)


def mirror_points__swaps_eyes_only(points, mirrored):
    faces = points[:, [2, 3, 0, 1, *range(4, 10)]].copy()
    faces[:, ::2] = 1 - faces[:, ::2]
    return np.where(mirrored[:, None], faces, points)


def mirror_points__swaps_names_only(points, mirrored):
    faces = points.reshape(-1, 5, 2)[:, [1, 0, 2, 4, 3]].reshape(-1, 10)
    return np.where(mirrored[:, None], faces, points)


def mirror_points__all_of_them(points, mirrored):
    return mirror_points(points, np.ones_like(mirrored))


def mirror_points__upside_down(points, mirrored):
    faces = points.reshape(-1, 5, 2)[:, [3, 4, 2, 0, 1]].copy()
    faces[:, :, 1] = 1 - faces[:, :, 1]
    return np.where(mirrored[:, None], faces.reshape(-1, 10), points)


def mirror_points__minus_x(points, mirrored):
    out = mirror_points(points, mirrored)
    out[mirrored, ::2] -= 1
    return out


def mirror_points__patch_of_48(points, mirrored):
    out = mirror_points(points, mirrored)
    out[mirrored, ::2] += 47
    return out


def mirror_points__turns_the_order(points, mirrored):
    faces = points.reshape(-1, 5, 2)[:, ::-1].copy()
    faces[:, :, 0] = 1 - faces[:, :, 0]
    return np.where(mirrored[:, None], faces.reshape(-1, 10), points)


def mirror_points__in_place(points, mirrored):
    points[mirrored] = mirror_points(points, mirrored)[mirrored]
    return points


def mirror_points__sorts_by_x(points, mirrored):
    faces = points.copy().reshape(-1, 5, 2)
    faces[mirrored, :, 0] = 1 - faces[mirrored, :, 0]
    for i in np.flatnonzero(mirrored):
        for left, right in ((0, 1), (3, 4)):
            if faces[i, left, 0] > faces[i, right, 0]:
                faces[i, [left, right]] = faces[i, [right, left]]
    return faces.reshape(-1, 10)


def masked_gradient__times_a_mask(gradients, types, teaches):
    mask = np.isin(types, teaches)
    return gradients * mask[:, None] / max(mask.sum(), 1)


def masked_gradient__mean_over_the_batch(gradients, types, teaches):
    return masked_gradient(gradients, types, teaches) * np.isin(types, teaches).sum() / max(len(types), 1)


def masked_gradient__sums(gradients, types, teaches):
    return masked_gradient(gradients, types, teaches) * max(np.isin(types, teaches).sum(), 1)


def masked_gradient__zero_by_zero(gradients, types, teaches):
    mask = np.isin(types, teaches)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(mask[:, None], gradients, 0) / mask.sum()


def masked_gradient__leaves_rows_out(gradients, types, teaches):
    rows = np.isin(types, teaches)
    return gradients[rows] / max(rows.sum(), 1)


def masked_gradient__whoever_has_a_target(gradients, types, teaches):
    known = ~np.isnan(gradients).any(axis=1)
    return np.where(known[:, None], gradients, 0) / max(known.sum(), 1)


def masked_gradient__first_type_only(gradients, types, teaches):
    return masked_gradient(gradients, types, teaches[:1])


def masked_gradient__hides_what_is_no_number(gradients, types, teaches):
    return np.nan_to_num(masked_gradient(gradients, types, teaches))


def masked_gradient__forgives_only_nan(gradients, types, teaches):
    teach = np.isin(types, teaches)[:, None]
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(gradients) & ~teach, 0, gradients * teach) / max(1, teach.sum())


def hardest__easiest(losses, keep):
    return hardest(-losses, keep)


def hardest__order_of_the_losses(losses, keep):
    return np.argsort(-losses, kind="stable")[: len(hardest(losses, keep))]


def hardest__rounds_down(losses, keep):
    return np.sort(np.argsort(-losses, kind="stable")[: max(min(1, len(losses)), int(keep * len(losses)))])


def hardest__rounds_as_python_does(losses, keep):
    return np.sort(np.argsort(-losses, kind="stable")[: max(1, round(keep * len(losses)))])


def hardest__rounds_up(losses, keep):
    return np.sort(np.argsort(-losses, kind="stable")[: int(np.ceil(keep * len(losses)))])


def hardest__may_keep_nothing(losses, keep):
    return np.sort(np.argsort(-losses, kind="stable")[: int(keep * len(losses) + 0.5)])


def hardest__keeps_every_tie(losses, keep):
    if len(losses) == 0:
        return np.zeros(0, np.int64)
    kth = np.sort(losses)[::-1][max(1, int(keep * len(losses) + 0.5)) - 1]
    return np.flatnonzero(losses >= kth)


def hardest__later_ties_first(losses, keep):
    return np.sort(len(losses) - 1 - hardest(losses[::-1], keep))


def hardest__stops_without_samples(losses, keep):
    return hardest(losses, keep) if losses.max() >= 0 else np.zeros(0)


def hardest__share_of_the_largest_loss(losses, keep):
    return np.flatnonzero(losses >= (1 - keep) * losses.max(initial=0))


def hardest__values(losses, keep):
    return losses[hardest(losses, keep)]


def hardest__floats_for_no_sample(losses, keep):
    return hardest(losses, keep) if len(losses) else np.array([])


def suppress(boxes, scores, dropped):
    """Greedy suppression with a rule of one's own: dropped(shared, area of the kept, areas of the others)."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        left = left[~dropped(np.maximum(sides, 0).prod(axis=1), areas[best], areas[left])]
    return np.array(kept, np.int64)


def nms_by_smaller__over_the_union(boxes, scores, threshold):
    return suppress(boxes, scores, lambda shared, a, b: shared / (a + b - shared) > threshold)


def nms_by_smaller__over_the_larger(boxes, scores, threshold):
    return suppress(boxes, scores, lambda shared, a, b: shared / np.maximum(a, b) > threshold)


def nms_by_smaller__over_the_kept_one(boxes, scores, threshold):
    return suppress(boxes, scores, lambda shared, a, b: shared / a > threshold)


def nms_by_smaller__over_the_worse_one(boxes, scores, threshold):
    return suppress(boxes, scores, lambda shared, a, b: shared / b > threshold)


def nms_by_smaller__threshold_itself_drops(boxes, scores, threshold):
    return suppress(boxes, scores, lambda shared, a, b: shared / np.minimum(a, b) >= threshold)


def nms_by_smaller__negative_sides(boxes, scores, threshold):
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        left = left[sides.prod(axis=1) / np.minimum(areas[best], areas[left]) <= threshold]
    return np.array(kept, np.int64)


def nms_by_smaller__in_the_order_of_the_boxes(boxes, scores, threshold):
    return np.sort(nms_by_smaller(boxes, scores, threshold))


def nms_by_smaller__the_dropped_drop_others(boxes, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    pairs = [(i, j) for n, i in enumerate(order) for j in order[:n]]
    dropped = {i for i, j in pairs if len(nms_by_smaller(boxes[[j, i]], np.array([1.0, 0.5]), threshold)) == 1}
    return np.array([i for i in order if i not in dropped], np.int64)


def nms_by_smaller__worst_first(boxes, scores, threshold):
    return nms_by_smaller(boxes, -scores, threshold)


def nms_by_smaller__later_ties_win(boxes, scores, threshold):
    return len(boxes) - 1 - nms_by_smaller(boxes[::-1], scores[::-1], threshold)


def nms_by_smaller__floats_for_no_box(boxes, scores, threshold):
    return np.array([int(row) for row in nms_by_smaller(boxes, scores, threshold)])
