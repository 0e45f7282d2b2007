"""Solutions of lesson 14. Try first: the checks tell you more than this file does."""

from __future__ import annotations

import numpy as np


def cut_windows(image, side, stride):
    """Every start from which a whole window still fits."""
    rows = range(0, image.shape[0] - side + 1, stride)
    columns = range(0, image.shape[1] - side + 1, stride)
    return np.array([[image[y : y + side, x : x + side] for x in columns] for y in rows])


def map_box(row, column, level_size, image_size):
    """First to pixels of the level (stride 2, window 12), then to pixels of the image; x comes from the column."""
    box = np.array([2 * column, 2 * row, 2 * column + 12, 2 * row + 12])
    scale_y, scale_x = image_size[0] / level_size[0], image_size[1] / level_size[1]
    return box * np.array([scale_x, scale_y, scale_x, scale_y])


def pyramid_levels(height, width, smallest, per_octave):
    """A face of s pixels has s * 2 ** (-k / L) on level k, which is at least 12 up to k = L log2(s / 12)."""
    first = int(np.floor(per_octave * np.log2(smallest / 12) + 1e-9))
    last = 0  # the image itself
    while int(min(height, width) * 2 ** (-(last + 1) / per_octave) + 0.5) >= 12:
        last += 1
    return first, last


def expected_cost(costs, passes):
    """A stage is paid for by the share of windows that has passed all before it."""
    arriving = np.concatenate([[1.0], np.cumprod(passes)[:-1]])
    return float((arriving * costs).sum())


def cheapest_order(costs, passes):
    """By what it costs to turn one window away."""
    return np.argsort(costs / (1 - passes))


def look_closer(larger, row, column):
    """Two pixels of the small level a step of the map, two pixels of the large one for each of those."""
    y, x = 4 * row, 4 * column
    return larger[y : y + 24, x : x + 24]


def keeping_threshold(scores, share):
    """The score of the last face that must pass; a threshold just below it lets that one through as well."""
    falling = np.sort(scores)[::-1]
    must_pass = int(np.ceil(share * len(scores) - 1e-9))
    return float(np.nextafter(falling[must_pass - 1], -1))
