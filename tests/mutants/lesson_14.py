"""Wrong answers to lesson 14 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_14 import cut_windows, keeping_threshold, look_closer, map_box, pyramid_levels


def cut_windows__forgets_the_last(image, side, stride):
    rows, columns = range(0, image.shape[0] - side, stride), range(0, image.shape[1] - side, stride)
    windows = [[image[y : y + side, x : x + side] for x in columns] for y in rows]
    return np.array(windows).reshape(len(rows), len(columns), side, side, image.shape[2])


def cut_windows__columns_first(image, side, stride):
    return cut_windows(image, side, stride).swapaxes(0, 1)


def cut_windows__reads_x_as_rows(image, side, stride):
    return cut_windows(image.swapaxes(0, 1), side, stride)


def cut_windows__step_of_one(image, side, stride):
    return cut_windows(image, side, 1)


def cut_windows__side_by_side(image, side, stride):
    return cut_windows(image, side, side)


def cut_windows__pads_the_border(image, side, stride):
    pad = [(0, -(n - side) % stride) for n in image.shape[:2]]
    return cut_windows(np.pad(image, [*pad, (0, 0)]), side, stride)


def map_box__row_is_x(row, column, level_size, image_size):
    return map_box(column, row, level_size, image_size)


def map_box__forgets_the_stride(row, column, level_size, image_size):
    return map_box(row / 2, column / 2, level_size, image_size)


def map_box__point_is_the_centre(row, column, level_size, image_size):
    return map_box(row - 3, column - 3, level_size, image_size)


def map_box__shrinks_again(row, column, level_size, image_size):
    return map_box(row, column, image_size, level_size)


def map_box__one_scale_for_both(row, column, level_size, image_size):
    box = np.array([2 * column, 2 * row, 2 * column + 12, 2 * row + 12])
    return box * image_size[0] / level_size[0]


def map_box__window_not_scaled(row, column, level_size, image_size):
    x, y = map_box(row, column, level_size, image_size)[:2]
    return np.array([x, y, x + 12, y + 12])


def pyramid_levels__rounds_to_the_nearest(height, width, smallest, per_octave):
    first = int(np.floor(per_octave * np.log2(smallest / 12) + 0.5))
    return first, pyramid_levels(height, width, smallest, per_octave)[1]


def pyramid_levels__rounds_up(height, width, smallest, per_octave):
    first = int(np.ceil(per_octave * np.log2(smallest / 12)))
    return first, pyramid_levels(height, width, smallest, per_octave)[1]


def pyramid_levels__forgets_the_octave(height, width, smallest, per_octave):
    return pyramid_levels(height, width, smallest, 1)


def pyramid_levels__height_for_shorter_side(height, width, smallest, per_octave):
    return pyramid_levels(height, height, smallest, per_octave)


def pyramid_levels__never_enlarges(height, width, smallest, per_octave):
    first, last = pyramid_levels(height, width, smallest, per_octave)
    return max(first, 0), last


def pyramid_levels__last_is_one_too_many(height, width, smallest, per_octave):
    first, last = pyramid_levels(height, width, smallest, per_octave)
    return first, last + 1


def pyramid_levels__cuts_off_towards_zero(height, width, smallest, per_octave):
    first, last = pyramid_levels(height, width, smallest, per_octave)
    return int(per_octave * np.log2(smallest / 12) + 1e-9), last


def pyramid_levels__last_never_before_the_first(height, width, smallest, per_octave):
    first, last = pyramid_levels(height, width, smallest, per_octave)
    return first, max(first, last)


def pyramid_levels__cuts_sizes_off(height, width, smallest, per_octave):
    last = int(np.floor(per_octave * np.log2(min(height, width) / 12) + 1e-9))
    return pyramid_levels(height, width, smallest, per_octave)[0], last


def expected_cost__all_pay_all(costs, passes):
    return float(np.sum(costs))


def expected_cost__own_share(costs, passes):
    return float((np.cumprod(passes) * costs).sum())


def expected_cost__only_the_stage_before(costs, passes):
    return float(costs[0] + (passes[:-1] * costs[1:]).sum())


def expected_cost__those_turned_away(costs, passes):
    arriving = np.concatenate([[1.0], np.cumprod(1 - passes)[:-1]])
    return float((arriving * costs).sum())


def expected_cost__mean_of_the_costs(costs, passes):
    arriving = np.concatenate([[1.0], np.cumprod(passes)[:-1]])
    return float((arriving * costs).sum() / arriving.sum())


def cheapest_order__by_cost(costs, passes):
    return np.argsort(costs)


def cheapest_order__by_strictness(costs, passes):
    return np.argsort(passes)


def cheapest_order__by_cost_over_pass(costs, passes):
    return np.argsort(costs / passes)


def cheapest_order__by_cost_times_pass(costs, passes):
    return np.argsort(costs * passes)


def cheapest_order__the_wrong_way_round(costs, passes):
    return np.argsort(-costs / (1 - passes))


def cheapest_order__ranks_for_indices(costs, passes):
    return np.argsort(np.argsort(costs / (1 - passes)))


def look_closer__only_the_octave(larger, row, column):
    return larger[2 * row : 2 * row + 24, 2 * column : 2 * column + 24]


def look_closer__row_is_x(larger, row, column):
    padded = np.pad(larger, [(0, 16), (0, 0), (0, 0)])
    return padded[4 * column : 4 * column + 24, 4 * row : 4 * row + 24]


def look_closer__around_the_same_corner(larger, row, column):
    y, x = max(4 * row - 6, 0), max(4 * column - 6, 0)
    return larger[y : y + 24, x : x + 24]


def look_closer__colours_backwards(larger, row, column):
    return look_closer(larger, row, column)[:, :, ::-1]


def look_closer__twelve_pixels(larger, row, column):
    return larger[4 * row : 4 * row + 12, 4 * column : 4 * column + 12]


def keeping_threshold__the_score_itself(scores, share):
    return float(np.sort(scores)[::-1][int(np.ceil(share * len(scores) - 1e-9)) - 1])


def keeping_threshold__quantile(scores, share):
    return float(np.quantile(scores, 1 - share))


def keeping_threshold__rounds_down(scores, share):
    return float(np.nextafter(np.sort(scores)[::-1][max(int(share * len(scores)) - 1, 0)], -1))


def keeping_threshold__quantile_of_the_good(scores, share):
    return float(np.nextafter(np.quantile(scores, share), -1))


def keeping_threshold__unsorted(scores, share):
    return float(np.nextafter(scores[int(np.ceil(share * len(scores))) - 1], -1))


def keeping_threshold__far_below(scores, share):
    return keeping_threshold(scores, share) - 0.25


def keeping_threshold__lets_all_pass(scores, share):
    return 0.0
