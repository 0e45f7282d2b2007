"""Wrong answers to lesson 11 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_11 import average_recall, largest_rank, learning, nearest_scale, paired_interval, svd_pair


def paired_interval__each_with_its_own_draw(first, second, measure, draws):
    other = draws[np.random.default_rng(0).permutation(len(draws))]
    pairs = zip(draws, other, strict=True)
    gained = [measure([second[i] for i in b]) - measure([first[i] for i in a]) for a, b in pairs]
    return np.percentile(gained, [2.5, 97.5])


def paired_interval__two_intervals(first, second, measure, draws):
    low, high = (
        np.array([np.percentile([measure([part[i] for i in draw]) for draw in draws], q) for q in (2.5, 97.5)])
        for part in (first, second)
    )
    return high - low


def paired_interval__mean_of_differences_of_images(first, second, measure, draws):
    each = np.array([measure([b]) - measure([a]) for a, b in zip(first, second, strict=True)])
    return np.percentile(each[draws].mean(axis=1), [2.5, 97.5])


def paired_interval__the_other_sign(first, second, measure, draws):
    return paired_interval(second, first, measure, draws)


def paired_interval__five_percent_on_each_side(first, second, measure, draws):
    gained = [measure([second[i] for i in draw]) - measure([first[i] for i in draw]) for draw in draws]
    return np.percentile(gained, [5, 95])


def paired_interval__percentiles_as_shares(first, second, measure, draws):
    gained = [measure([second[i] for i in draw]) - measure([first[i] for i in draw]) for draw in draws]
    return np.percentile(gained, [0.025, 0.975])


def paired_interval__every_image_once(first, second, measure, draws):
    gained = [measure([second[i] for i in set(draw)]) - measure([first[i] for i in set(draw)]) for draw in draws]
    return np.percentile(gained, [2.5, 97.5])


def paired_interval__two_standard_deviations(first, second, measure, draws):
    gained = np.array([measure([second[i] for i in draw]) - measure([first[i] for i in draw]) for draw in draws])
    return gained.mean() + np.array([-1.96, 1.96]) * gained.std()


def paired_interval__smallest_and_largest(first, second, measure, draws):
    gained = [measure([second[i] for i in draw]) - measure([first[i] for i in draw]) for draw in draws]
    return np.array([min(gained), max(gained)])


def svd_pair__forgets_the_singular_values(weight, bias, rank):
    u, _, vt = np.linalg.svd(weight, full_matrices=False)
    return (vt[:rank], None), (u[:, :rank], bias)


def svd_pair__singular_values_in_the_second(weight, bias, rank):
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    return (vt[:rank], None), (u[:, :rank] * s[:rank], bias)


def svd_pair__half_of_them_in_each(weight, bias, rank):
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    root = np.sqrt(s[:rank])
    return (root[:, None] * vt[:rank], None), (u[:, :rank] * root, bias)


def svd_pair__bias_in_the_first(weight, bias, rank):
    (first, _), (second, _) = svd_pair(weight, bias, rank)
    return (first, bias), (second, None)


def svd_pair__bias_in_both(weight, bias, rank):
    (first, _), (second, _) = svd_pair(weight, bias, rank)
    return (first, second.T @ bias), (second, bias)


def svd_pair__no_bias(weight, bias, rank):
    (first, _), (second, _) = svd_pair(weight, bias, rank)
    return (first, None), (second, None)


def svd_pair__columns_of_vt(weight, bias, rank):
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    return ((s[:rank] * vt[:, :rank]).T, None), (u[:, :rank], bias)


def svd_pair__the_smallest(weight, bias, rank):
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    return (s[-rank:, None] * vt[-rank:], None), (u[:, -rank:], bias)


def svd_pair__in_the_other_order(weight, bias, rank):
    return svd_pair(weight, bias, rank)[::-1]


def svd_pair__zeroes_instead_of_cutting(weight, bias, rank):
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    return ((s * (np.arange(len(s)) < rank))[:, None] * vt, None), (u, bias)


def svd_pair__rows_of_u(weight, bias, rank):
    (first, _), _ = svd_pair(weight, bias, rank)
    return (first, None), (np.linalg.svd(weight)[0][:rank].T, bias)


def largest_rank__rounds(outputs, inputs, factor):
    return round(outputs * inputs / (factor * (outputs + inputs)))


def largest_rank__strictly_fewer(outputs, inputs, factor):
    return int(np.ceil(outputs * inputs / (factor * (outputs + inputs)))) - 1


def largest_rank__only_the_first_layer(outputs, inputs, factor):
    return int(outputs / factor)


def largest_rank__share_of_the_smaller_side(outputs, inputs, factor):
    return int(min(outputs, inputs) / factor)


def largest_rank__no_factor(outputs, inputs, factor):
    return largest_rank(outputs, inputs, 1)


def largest_rank__at_least_one(outputs, inputs, factor):
    return max(1, largest_rank(outputs, inputs, factor))


def largest_rank__not_whole(outputs, inputs, factor):
    return outputs * inputs / (factor * (outputs + inputs))


def largest_rank__square_layers_only(outputs, inputs, factor):
    return int(max(outputs, inputs) / (2 * factor))


def largest_rank__rounds_down_too_early(outputs, inputs, factor):
    return int(outputs * inputs // (outputs + inputs) / factor)


def learning__convolutions_are_one_layer(names, frozen):
    return [n for n in names if not n.startswith(tuple(f"backbone.layers.{i}." for i in range(frozen)))]


def learning__batch_norm_goes_on(names, frozen):
    return [n for n in names if not n.startswith(tuple(f"backbone.layers.{3 * i}." for i in range(frozen)))]


def learning__without_the_dot(names, frozen):
    return [n for n in names if not n.startswith(tuple(f"backbone.layers.{i}" for i in range(3 * frozen)))]


def learning__one_layer_too_many(names, frozen):
    return learning(names, frozen + 1) if frozen else list(names)


def learning__the_others(names, frozen):
    return [n for n in names if n not in learning(names, frozen)]


def learning__all_of_the_backbone_or_nothing(names, frozen):
    return [n for n in names if not frozen or n.startswith("head.")]


def learning__first_names_of_the_list(names, frozen):
    return names[3 * frozen :]


def learning__compares_text(names, frozen):
    return [n for n in names if n.startswith("head.") or n.split(".")[2] >= str(3 * frozen)]


def learning__whatever_is_called_layers(names, frozen):
    return [n for n in names if not any(f".layers.{i}." in n for i in range(3 * frozen))]


def learning__sorted(names, frozen):
    return sorted(learning(names, frozen))


def average_recall__not_doubled(overlaps, most):
    return average_recall(overlaps, most) / 2


def average_recall__negative_parts(overlaps, most):
    return 2 * (overlaps[:, :most].max(axis=1, initial=0) - 0.5).mean()


def average_recall__recall_at_one_half(overlaps, most):
    return (overlaps[:, :most].max(axis=1, initial=0) >= 0.5).mean()


def average_recall__mean_best_overlap(overlaps, most):
    return overlaps[:, :most].max(axis=1, initial=0).mean()


def average_recall__best_of_every_proposal(overlaps, most):
    best = overlaps[:, :most].max(axis=0, initial=0)
    return 2 * np.maximum(best - 0.5, 0).sum() / max(len(best), 1)


def average_recall__uses_all(overlaps, most):
    return average_recall(overlaps, overlaps.shape[1])


def average_recall__only_found_objects(overlaps, most):
    best = overlaps[:, :most].max(axis=1, initial=0)
    return 2 * (best[best > 0.5] - 0.5).mean() if (best > 0.5).any() else 0.0


def average_recall__ten_thresholds(overlaps, most):
    best = overlaps[:, :most].max(axis=1, initial=0)
    return (best[:, None] >= np.linspace(0.5, 0.95, 10)).mean()


def average_recall__needs_a_proposal(overlaps, most):
    return 2 * np.maximum(overlaps[:, :most].max(axis=1) - 0.5, 0).mean()


def average_recall__the_last_ones(overlaps, most):
    return average_recall(overlaps[:, ::-1], most)


def nearest_scale__sides_instead_of_areas(boxes, factors, canonical_area):
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.abs(np.sqrt(areas)[:, None] * factors - np.sqrt(canonical_area)).argmin(axis=1)


def nearest_scale__factor_not_squared(boxes, factors, canonical_area):
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.abs(areas[:, None] * factors - canonical_area).argmin(axis=1)


def nearest_scale__ratio_of_areas(boxes, factors, canonical_area):
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    with np.errstate(divide="ignore"):
        return np.abs(np.log(areas[:, None] * factors**2 / canonical_area)).argmin(axis=1)


def nearest_scale__from_below_only(boxes, factors, canonical_area):
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return (canonical_area - areas[:, None] * factors**2).argmin(axis=1)


def nearest_scale__longer_side(boxes, factors, canonical_area):
    longer = np.max(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.abs(longer[:, None] ** 2 * factors**2 - canonical_area).argmin(axis=1)


def nearest_scale__last_of_equals(boxes, factors, canonical_area):
    return len(factors) - 1 - nearest_scale(boxes, factors[::-1], canonical_area)


def nearest_scale__the_other_axis(boxes, factors, canonical_area):
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return np.abs(areas[:, None] * factors**2 - canonical_area).argmin(axis=0)


def nearest_scale__corner_instead_of_sides(boxes, factors, canonical_area):
    return np.abs((boxes[:, 2] * boxes[:, 3])[:, None] * factors**2 - canonical_area).argmin(axis=1)


def nearest_scale__plus_one(boxes, factors, canonical_area):
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    return np.abs(areas[:, None] * factors**2 - canonical_area).argmin(axis=1)


def nearest_scale__canonical_is_a_side(boxes, factors, canonical_area):
    return nearest_scale(boxes, factors, canonical_area**2)


def nearest_scale__divides_by_the_factor(boxes, factors, canonical_area):
    return nearest_scale(boxes, 1 / factors, canonical_area)


def nearest_scale__whole_pixels(boxes, factors, canonical_area):
    return nearest_scale(boxes.astype(int), factors, canonical_area)


def nearest_scale__floats(boxes, factors, canonical_area):
    return nearest_scale(boxes, factors, canonical_area).astype(float)
