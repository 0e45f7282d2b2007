"""Wrong answers to lesson 08 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_08 import dual_step, refresh, similarity, source_boxes


def grown(weights, first, second, num, k, joins, limit_of, inner=False, find=True):
    """The solution's loop with its decisions handed in. inner: edges inside a region count as well."""
    parent, size, limit = list(range(num)), [1] * num, [float(k)] * num

    def root(i):
        if not find:
            return parent[i]
        while parent[i] != i:
            i = parent[i]
        return i

    for weight, i, j in zip(weights, first, second, strict=True):
        a, b = root(i), root(j)
        if a != b and joins(weight, limit[a], limit[b]):
            parent[b] = a
            old = size[a]
            size[a] += size[b]
            limit[a] = limit_of(weight, k, size[a], old, limit[a], limit[b])
        elif a == b and inner:
            limit[a] = weight + k / size[a]
    return np.array([root(i) for i in range(num)])


def both(weight, a, b):
    return weight <= min(a, b)


def right_limit(weight, k, size, old, a, b):
    return weight + k / size


def grow__below_the_limit(weights, first, second, num, k):
    return grown(weights, first, second, num, k, lambda w, a, b: w < min(a, b), right_limit)


def grow__either_limit(weights, first, second, num, k):
    return grown(weights, first, second, num, k, lambda w, a, b: w <= max(a, b), right_limit)


def grow__only_the_first_limit(weights, first, second, num, k):
    return grown(weights, first, second, num, k, lambda w, a, b: w <= a, right_limit)


def grow__k_is_a_threshold(weights, first, second, num, k):
    return grown(weights, first, second, num, k, lambda w, a, b: w <= k, right_limit)


def grow__limit_never_falls(weights, first, second, num, k):
    return grown(weights, first, second, num, k, both, lambda w, k, size, old, a, b: max(a, b))


def grow__size_before_the_merger(weights, first, second, num, k):
    return grown(weights, first, second, num, k, both, lambda w, k, size, old, a, b: w + k / old)


def grow__no_heaviest_edge(weights, first, second, num, k):
    return grown(weights, first, second, num, k, both, lambda w, k, size, old, a, b: k / size)


def grow__k_not_divided(weights, first, second, num, k):
    return grown(weights, first, second, num, k, both, lambda w, k, size, old, a, b: w + k)


def grow__edges_inside_count(weights, first, second, num, k):
    return grown(weights, first, second, num, k, both, right_limit, inner=True)


def grow__parent_for_root(weights, first, second, num, k):
    return grown(weights, first, second, num, k, both, right_limit, find=False)


def grow__stops_at_the_first_refusal(weights, first, second, num, k):
    """As if no heavier edge could join anything either."""
    refused = []

    def joins(weight, a, b):
        if weight > min(a, b):
            refused.append(weight)
        return not refused

    return grown(weights, first, second, num, k, joins, right_limit)


def grow__returns_parents(weights, first, second, num, k):
    parent, size, limit = list(range(num)), [1] * num, [float(k)] * num
    for weight, a, b in zip(weights, first, second, strict=True):
        while parent[a] != a:
            a = parent[a]
        while parent[b] != b:
            b = parent[b]
        if a != b and weight <= min(limit[a], limit[b]):
            parent[b] = a
            size[a] += size[b]
            limit[a] = weight + k / size[a]
    return np.array(parent)


def parts_of(a, b, area):
    """colour, texture, size, fill."""
    (size_a, box_a, *_), (size_b, box_b, *_) = a, b
    sides = np.maximum(box_a[2:], box_b[2:]) - np.minimum(box_a[:2], box_b[:2])
    small = 1 - (size_a + size_b) / area
    fill = 1 - (sides.prod() - size_a - size_b) / area
    return similarity(a, b, area) - small - fill, small, fill


def similarity__counts_for_shares(a, b, area):
    _, small, fill = parts_of(a, b, area)
    return sum(np.minimum(p, q).sum() / max(p.sum(), q.sum()) for p, q in zip(a[2:], b[2:], strict=True)) + small + fill


def similarity__without_colour(a, b, area):
    return similarity((*a[:2], a[3]), (*b[:2], b[3]), area)


def similarity__mean_of_the_four(a, b, area):
    return similarity(a, b, area) / 4


def similarity__at_most_three(a, b, area):
    return min(similarity(a, b, area), 3.0)


def similarity__divided_by_the_size(a, b, area):
    """Each pixel is counted once a channel: three times too much."""
    _, small, fill = parts_of(a, b, area)
    alike = sum(np.minimum(p / a[0], q / b[0]).sum() for p, q in zip(a[2:], b[2:], strict=True))
    return alike + small + fill


def similarity__product_of_histograms(a, b, area):
    _, small, fill = parts_of(a, b, area)
    return sum((p / p.sum()) @ (q / q.sum()) for p, q in zip(a[2:], b[2:], strict=True)) + small + fill


def similarity__large_regions_first(a, b, area):
    alike, small, fill = parts_of(a, b, area)
    return alike + 1 - small + fill


def similarity__fill_without_the_sizes(a, b, area):
    alike, small, fill = parts_of(a, b, area)
    return alike + small + fill - (a[0] + b[0]) / area


def similarity__fill_as_a_share_of_the_box(a, b, area):
    alike, small, _ = parts_of(a, b, area)
    sides = np.maximum(a[1][2:], b[1][2:]) - np.minimum(a[1][:2], b[1][:2])
    return alike + small + (a[0] + b[0]) / sides.prod()


def similarity__fill_by_the_overlap_of_the_boxes(a, b, area):
    alike, small, _ = parts_of(a, b, area)
    sides = np.minimum(a[1][2:], b[1][2:]) - np.maximum(a[1][:2], b[1][:2])
    return alike + small + np.maximum(sides, 0).prod() / area


def similarity__fill_by_the_sum_of_the_boxes(a, b, area):
    alike, small, _ = parts_of(a, b, area)
    both = sum((box[2:] - box[:2]).prod() for box in (a[1], b[1]))
    return alike + small + 1 - (both - a[0] - b[0]) / area


def source_boxes__padding_in_image_pixels(boxes, side, padding):
    return boxes + padding * np.array([-1.0, -1, 1, 1])


def source_boxes__padding_on_one_side_only(boxes, side, padding):
    return source_boxes(boxes, side, padding / 2)


def source_boxes__share_of_the_whole_input(boxes, side, padding):
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return boxes + padding / side * size * np.array([-1.0, -1, 1, 1])


def source_boxes__shrinks(boxes, side, padding):
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = size * (side - 2 * padding) / side / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def source_boxes__cut_at_the_image(boxes, side, padding):
    return np.maximum(source_boxes(boxes, side, padding), 0)


def source_boxes__one_factor_from_the_width(boxes, side, padding):
    by = padding * (boxes[:, 2:3] - boxes[:, :1]) / (side - 2 * padding)
    return boxes + by * np.array([-1.0, -1, 1, 1])


def source_boxes__grows_to_the_right_and_down(boxes, side, padding):
    size = (boxes[:, 2:] - boxes[:, :2]) * side / (side - 2 * padding)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + size], axis=1)


def source_boxes__whole_pixels(boxes, side, padding):
    centre, size = (boxes[:, :2] + boxes[:, 2:]) // 2, boxes[:, 2:] - boxes[:, :2]
    half = size * side / (side - 2 * padding) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def source_boxes__tightest_square(boxes, side, padding):
    sources = source_boxes(boxes, side, padding)
    centre, size = (sources[:, :2] + sources[:, 2:]) / 2, sources[:, 2:] - sources[:, :2]
    half = size.max(axis=1, keepdims=True, initial=0) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def dual_step__not_cut(w, alpha, x, s, price):
    new = alpha - (s * (w @ x) - 1) / (x @ x)
    return w + (new - alpha) * s * x, new


def dual_step__w_moves_before_the_cut(w, alpha, x, s, price):
    step = -(s * (w @ x) - 1) / (x @ x)
    return w + step * s * x, min(max(alpha + step, 0.0), price)


def dual_step__no_price(w, alpha, x, s, price):
    return dual_step(w, alpha, x, s, np.inf)


def dual_step__may_fall_below_zero(w, alpha, x, s, price):
    new = min(alpha - (s * (w @ x) - 1) / (x @ x), price)
    return w + (new - alpha) * s * x, new


def dual_step__side_forgotten_in_w(w, alpha, x, s, price):
    _, new = dual_step(w, alpha, x, s, price)
    return w + (new - alpha) * x, new


def dual_step__side_forgotten_in_the_margin(w, alpha, x, s, price):
    new = min(max(alpha - (w @ x - 1) / (x @ x), 0.0), price)
    return w + (new - alpha) * s * x, new


def dual_step__adds_the_whole_alpha(w, alpha, x, s, price):
    _, new = dual_step(w, alpha, x, s, price)
    return w + new * s * x, new


def dual_step__over_the_norm_not_its_square(w, alpha, x, s, price):
    new = min(max(alpha - (s * (w @ x) - 1) / np.sqrt(x @ x), 0.0), price)
    return w + (new - alpha) * s * x, new


def dual_step__only_errors(w, alpha, x, s, price):
    """As if it were a perceptron: who is beyond its margin is left alone, whatever its alpha."""
    return dual_step(w, alpha, x, s, price) if s * (w @ x) < 1 else (w, alpha)


def dual_step__margin_of_zero(w, alpha, x, s, price):
    new = min(max(alpha - s * (w @ x) / (x @ x), 0.0), price)
    return w + (new - alpha) * s * x, new


def dual_step__writes_into_w(w, alpha, x, s, price):
    moved, new = dual_step(w, alpha, x, s, price)
    w[:] = moved
    return w, new


def refresh__one_threshold(kept, shown, scores, add_above, evict_below):
    return refresh(kept, shown, scores, add_above, add_above)


def refresh__the_other_threshold(kept, shown, scores, add_above, evict_below):
    return refresh(kept, shown, scores, evict_below, evict_below)


def refresh__forgets_what_is_not_shown(kept, shown, scores, add_above, evict_below):
    return refresh(np.intersect1d(kept, shown), shown, scores, add_above, evict_below)


def refresh__never_evicts(kept, shown, scores, add_above, evict_below):
    return refresh(kept, shown, scores, add_above, -np.inf)


def refresh__adds_everything(kept, shown, scores, add_above, evict_below):
    return refresh(kept, shown, scores, -np.inf, evict_below)


def refresh__twice(kept, shown, scores, add_above, evict_below):
    still, hard = kept[scores[kept] >= evict_below], shown[scores[shown] > add_above]
    return np.sort(np.concatenate([still, hard]))


def refresh__not_sorted(kept, shown, scores, add_above, evict_below):
    still, hard = kept[scores[kept] >= evict_below], shown[scores[shown] > add_above]
    return np.concatenate([still, np.setdiff1d(hard, still)])


def refresh__at_the_thresholds(kept, shown, scores, add_above, evict_below):
    still, hard = kept[scores[kept] > evict_below], shown[scores[shown] >= add_above]
    return np.union1d(still, hard)


def refresh__all_windows(kept, shown, scores, add_above, evict_below):
    return refresh(kept, np.arange(len(scores)), scores, add_above, evict_below)


def refresh__the_scores_in_order(kept, shown, scores, add_above, evict_below):
    """Score i for the i-th window of the list, not for the window with number i."""
    still = kept[scores[: len(kept)] >= evict_below]
    return np.union1d(still, shown[scores[: len(shown)] > add_above])


def refresh__easy_ones(kept, shown, scores, add_above, evict_below):
    return refresh(kept, shown, -scores, add_above, evict_below)
