"""Wrong answers to lesson 19 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_19 import group_loss, sample_groups, second_pass, weighted_rows, worst_overlap


def worst_overlap__a_whole_stride_away(side, scale, stride):
    return worst_overlap(side, scale, 2 * stride)


def worst_overlap__along_one_axis(side, scale, stride):
    along = min(side, scale, max((side + scale - stride) / 2, 0))
    shared = along * min(side, scale)
    return shared / (side**2 + scale**2 - shared)


def worst_overlap__shared_counted_twice(side, scale, stride):
    along = min(side, scale, max((side + scale - stride) / 2, 0))
    return along**2 / (side**2 + scale**2)


def worst_overlap__share_of_the_anchor(side, scale, stride):
    return min(side, scale, max((side + scale - stride) / 2, 0)) ** 2 / scale**2


def worst_overlap__two_negatives(side, scale, stride):
    along = min(side, scale, (side + scale - stride) / 2)
    return along**2 / (side**2 + scale**2 - along**2)


def worst_overlap__more_than_the_smaller(side, scale, stride):
    along = max((side + scale - stride) / 2, 0)
    return along**2 / (side**2 + scale**2 - along**2)


def worst_overlap__side_less_half_a_stride(side, scale, stride):
    along = max(min(side, scale) - stride / 2, 0)
    return along**2 / (side**2 + scale**2 - along**2)


def worst_overlap__face_of_the_scale(side, scale, stride):
    return worst_overlap(scale, scale, stride)


def second_pass__without_condition_1(iou, matched, least):
    return _passed(iou, matched, least, free=False)


def second_pass__without_condition_2(iou, matched, least):
    return _passed(iou, matched, 1e-9)


def second_pass__without_condition_3(iou, matched, least):
    return _passed(iou, matched, least, suits=False)


def second_pass__over_the_least(iou, matched, least):
    return second_pass(iou, matched, least + 1e-9)


def second_pass__always_at_04(iou, matched, least):
    return second_pass(iou, matched, 0.4)


def second_pass__all_that_will_do(iou, matched, least):
    out = matched.copy()
    for face in np.setdiff1d(np.arange(iou.shape[1]), matched):
        out[(matched < 0) & (iou[:, face] >= least) & (iou.argmax(axis=1) == face)] = face
    return out


def second_pass__also_for_those_that_have_one(iou, matched, least):
    return _passed(iou, matched, least, everybody=True)


def second_pass__the_first_that_will_do(iou, matched, least):
    out = matched.copy()
    for face in np.setdiff1d(np.arange(iou.shape[1]), matched):
        rows = np.flatnonzero((out < 0) & (iou[:, face] >= least) & (iou.argmax(axis=1) == face))
        out[rows[:1]] = face
    return out


def second_pass__into_the_argument(iou, matched, least):
    matched[:] = second_pass(iou, matched, least)
    return matched


def second_pass__yes_or_no(iou, matched, least):
    return np.minimum(second_pass(iou, matched, least), 0)


def _passed(iou, matched, least, free=True, suits=True, everybody=False):
    """The solution with parts left out."""
    out = matched.copy()
    for face in range(iou.shape[1] if len(iou) else 0):
        if not everybody and (matched == face).any():
            continue
        allowed = iou[:, face] >= least
        allowed &= (out < 0) | (not free)
        allowed &= (iou.argmax(axis=1) == face) | (not suits)
        rows = np.flatnonzero(allowed)
        if len(rows):
            out[rows[iou[rows, face].argmax()]] = face
    return out


def sample_groups__objects_fill_up(labels, groups, num, rng):
    chosen = []
    for positives, negatives in _candidates(labels, groups):
        negatives = rng.choice(negatives, min(len(negatives), num - num // 4), replace=False)
        chosen.append((rng.choice(positives, min(len(positives), num - len(negatives)), replace=False), negatives))
    return chosen


def sample_groups__shortage_stays(labels, groups, num, rng):
    return [(p, n[: num - num // 4]) for p, n in sample_groups(labels, groups, num, rng)]


def sample_groups__three_for_each_object(labels, groups, num, rng):
    return [(p, n[: 3 * len(p)]) for p, n in sample_groups(labels, groups, num, rng)]


def sample_groups__all_groups_as_one(labels, groups, num, rng):
    return sample_groups(labels, np.zeros_like(groups), num, rng)


def sample_groups__half_and_half(labels, groups, num, rng):
    chosen = []
    for positives, negatives in _candidates(labels, groups):
        positives = rng.choice(positives, min(len(positives), num // 2), replace=False)
        rest = min(len(negatives), num - len(positives))
        chosen.append((positives, rng.choice(negatives, rest, replace=False)))
    return chosen


def sample_groups__all_that_is_no_object(labels, groups, num, rng):
    return sample_groups(np.maximum(labels, 0), groups, num, rng)


def sample_groups__rows_of_the_group(labels, groups, num, rng):
    chosen = sample_groups(labels, groups, num, rng)
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    return [(np.searchsorted(of, p), np.searchsorted(of, n)) for of, (p, n) in zip(rows, chosen, strict=True)]


def sample_groups__the_first(labels, groups, num, rng):
    chosen = []
    for positives, negatives in _candidates(labels, groups):
        positives = positives[: num // 4]
        chosen.append((positives, negatives[: num - len(positives)]))
    return chosen


def sample_groups__with_replacement(labels, groups, num, rng):
    def draw(rows, most):
        return rows[rng.integers(len(rows), size=most)] if len(rows) else rows

    return [(draw(p, num // 4), draw(n, num - num // 4)) for p, n in _candidates(labels, groups)]


def sample_groups__groups_without_objects_left_out(labels, groups, num, rng):
    return [(p, n) for p, n in sample_groups(labels, groups, num, rng) if len(p)]


def _candidates(labels, groups):
    """All objects and all background of each group."""
    return [
        (np.flatnonzero((groups == group) & (labels == 1)), np.flatnonzero((groups == group) & (labels == 0)))
        for group in np.unique(groups)
    ]


def weighted_rows__the_power_itself(losses, r, num):
    with np.errstate(under="ignore"):  # that it underflows is the mistake
        return np.argsort(-(r ** (1 / (losses + 1e-6))), kind="stable")[:num]


def weighted_rows__the_power_in_float32(losses, r, num):
    with np.errstate(under="ignore"):
        weights = r.astype(np.float32) ** (1 / (losses + 1e-6)).astype(np.float32)
    return np.argsort(-weights, kind="stable")[:num]


def weighted_rows__the_hardest(losses, r, num):
    return np.argsort(-losses, kind="stable")[:num]


def weighted_rows__all_equally_likely(losses, r, num):
    return np.argsort(-r, kind="stable")[:num]


def weighted_rows__luck_times_loss(losses, r, num):
    return np.argsort(-r * losses, kind="stable")[:num]


def weighted_rows__logarithm_times_loss(losses, r, num):
    return np.argsort(-np.log(r) * (losses + 1e-6), kind="stable")[:num]


def weighted_rows__without_the_constant(losses, r, num):
    with np.errstate(divide="ignore"):  # the mistake
        return np.argsort(-np.log(r) / losses, kind="stable")[:num]


def weighted_rows__a_larger_constant(losses, r, num):
    return np.argsort(-np.log(r) / (losses + 0.01), kind="stable")[:num]


def weighted_rows__smallest_first(losses, r, num):
    return np.argsort(np.log(r) / (losses + 1e-6), kind="stable")[:num]


def weighted_rows__in_the_order_of_the_list(losses, r, num):
    return np.sort(weighted_rows(losses, r, num))


def group_loss__all_in_one(class_losses, box_losses, samples):
    return group_loss(class_losses, box_losses, [_together(samples)])


def group_loss__mean_over_groups(class_losses, box_losses, samples):
    return group_loss(class_losses, box_losses, samples) / max(len(samples), 1)


def group_loss__boxes_by_all_samples(class_losses, box_losses, samples):
    total = 0.0
    for positives, negatives in samples:
        count = max(len(positives) + len(negatives), 1)
        total += (class_losses[positives].sum() + class_losses[negatives].sum() + box_losses[positives].sum()) / count
    return total


def group_loss__sums(class_losses, box_losses, samples):
    positives, negatives = _together(samples)
    return class_losses[positives].sum() + class_losses[negatives].sum() + box_losses[positives].sum()


def group_loss__mean_of_nothing(class_losses, box_losses, samples):
    total = 0.0
    with np.errstate(invalid="ignore"):  # 0 / 0 is the mistake
        for positives, negatives in samples:
            total += class_losses[np.concatenate([positives, negatives])].sum() / np.int64(
                len(positives) + len(negatives)
            )
            total += box_losses[positives].sum() / np.int64(len(positives))
    return total


def group_loss__boxes_of_everything(class_losses, box_losses, samples):
    total = 0.0
    for positives, negatives in samples:
        chosen = np.concatenate([positives, negatives])
        total += (class_losses[chosen].sum() + box_losses[chosen].sum()) / max(len(chosen), 1)
    return total


def group_loss__objects_and_background_apart(class_losses, box_losses, samples):
    total = 0.0
    for positives, negatives in samples:
        for rows in (positives, negatives):
            total += class_losses[rows].sum() / max(len(rows), 1)
        total += box_losses[positives].sum() / max(len(positives), 1)
    return total


def _together(samples):
    """All groups' samples as those of a single group."""
    nothing = np.zeros(0, np.int64)
    return (
        np.concatenate([nothing, *(p for p, _ in samples)]),
        np.concatenate([nothing, *(n for _, n in samples)]),
    )
