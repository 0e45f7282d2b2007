"""Checks of lesson 14: windows, the map's points, pyramid levels, the cost of a cascade, the larger view, thresholds.

Letters: H, W height and width; N windows or scores; S stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np

from minidetect.checks.case import Case, check, difference
from minidetect.detection.pyramid import ImagePyramid
from minidetect.models.cascade_pipeline import SIZES, STRIDE
from minidetect.reference.nn_ops import resize_image


@check("14.1")
def cut_windows() -> Iterator[Case]:
    """(H, W, C) -> (PH, PW, side, side, C), a window every `stride` pixels."""
    ramp = np.arange(4 * 5, dtype=float).reshape(4, 5, 1)
    yield windows_case(ramp, 4, 1, "a picture as high as the window, two windows side by side")
    yield windows_case(ramp, 2, 2, "the fifth column is left over: no window reaches over the border")
    yield windows_case(ramp, 2, 1, "windows that overlap")
    yield windows_case(ramp, 3, 3, "the last row is left over")
    yield windows_case(ramp, 1, 3, "steps longer than the window")
    yield windows_case(np.arange(9.0).reshape(3, 3, 1), 3, 2, "exactly one window")
    rng = np.random.default_rng(141)
    for height, width, side, stride in ((7, 10, 3, 2), (8, 6, 4, 2), (9, 13, 5, 3)):
        picture = rng.integers(0, 256, (height, width, 3)).astype(float)
        yield windows_case(picture, side, stride, "three colours at random")


@check("14.2")
def map_box() -> Iterator[Case]:
    """Row and column of a map point, the level's size, the image's size -> x1, y1, x2, y2 in the image."""
    for row, column, level, why in (
        (0, 0, 0, "the first point of the map of the image itself: the window in the upper left corner"),
        (0, 3, 0, "a column of the map is x: two pixels a step"),
        (5, 0, 0, "a row of the map is y"),
        (2, 7, 1, "half as large: a pixel of the level is two of the image"),
        (4, 1, 2, "a quarter as large"),
        (3, 2, -1, "an enlarged level: a pixel of it is half a pixel of the image"),
    ):
        yield box_case(row, column, (64, 96), 1, level, why)
    rng = np.random.default_rng(142)
    for k in (1, 2, 4, 5, 7):
        row, column = (int(i) for i in rng.integers(1, 12, 2))
        why = "sizes are whole pixels, so x and y may be shrunk by slightly different factors"
        yield box_case(row, column, (101, 155), 3, k, why)


@check("14.3")
def pyramid_levels() -> Iterator[Case]:
    """Height, width, the smallest face, levels an octave -> the first and the last level to look at."""
    for height, width, face, octave, why in (
        (96, 128, 12, 1, "faces of 12 pixels are seen on the image itself, level 0"),
        (96, 128, 24, 1, "faces of 24 pixels are seen at half the size"),
        (96, 128, 24, 3, "half the size is the level with the number of levels an octave"),
        (128, 96, 24, 3, "the shorter side may be the width"),
        (96, 128, 10, 3, "3 log2(10 / 12) is -0.8, and the whole number below that is -1"),
        (30, 40, 60, 3, "no face of 60 pixels fits into 30: the last level comes before the first"),
        (96, 128, 6, 3, "faces smaller than the window need an enlarged picture, a negative level"),
        (96, 128, 40, 3, "between two levels, the one on which the face is not smaller than the window"),
        (96, 128, 20, 5, "five levels an octave"),
        (46, 61, 12, 1, "46 / 4 = 11.5 is rounded to 12, and a window fits"),
        (45, 61, 12, 1, "45 / 4 = 11.25 is rounded to 11, and none fits"),
        (480, 640, 24, 3, "VGA"),
        (333, 517, 31, 4, "numbers as they come"),
    ):
        pyramid = ImagePyramid(np.zeros((height, width, 3), np.uint8), octave)
        yield Case(
            (height, width, face, octave), [pyramid.level_for(face, SIZES[0]), pyramid.last_level(SIZES[0])], why=why
        )


@check("14.4")
def expected_cost() -> Iterator[Case]:
    """Costs (S,) of one look and the shares (S,) that pass -> the mean cost of a window."""
    for costs, passes, want, why in (
        ([3.0], [0.2], 3.0, "one stage: every window pays for it, whatever it says"),
        ([1.0, 10.0], [0.5, 0.3], 6.0, "1 + 0.5 x 10; what passes the last stage costs nothing more"),
        ([2.0, 5.0, 100.0], [0.1, 0.2, 0.5], 4.5, "2 + 0.1 x 5 + 0.1 x 0.2 x 100"),
        ([2.0, 5.0, 100.0], [0.0, 0.2, 0.5], 2.0, "the first stage lets nothing through"),
        ([2.0, 5.0, 100.0], [1.0, 1.0, 0.5], 107.0, "nobody is turned away: all stages for all windows"),
    ):
        yield Case((np.array(costs), np.array(passes)), want, why=why)
    rng = np.random.default_rng(144)
    for num in (3, 4, 6):
        costs, passes = rng.uniform(1, 50, num), rng.uniform(0.1, 0.9, num)
        yield Case((costs, passes), followed(costs, passes, range(num)), why="numbers at random")


@check("14.5")
def cheapest_order() -> Iterator[Case]:
    """Costs and pass shares (S,) of independent tests -> the order of the tests that costs least."""
    for costs, passes, why in (
        ([5.0, 1.0], [0.5, 0.5], "equally strict: the cheap one first"),
        ([2.0, 2.0], [0.9, 0.3], "equally dear: the strict one first"),
        ([1.0, 1.5], [0.95, 0.1], "the cheapest turns hardly anything away: it goes second"),
        ([10.0, 1.0], [0.1, 0.5], "the strictest is ten times as dear: it goes second"),
        ([4.0, 6.0, 1.0], [0.5, 0.1, 0.99], "neither by cost nor by strictness alone"),
    ):
        yield order_case(np.array(costs), np.array(passes), why)
    rng = np.random.default_rng(145)
    for num in (3, 4, 5, 5):
        yield order_case(rng.uniform(1, 20, num), rng.uniform(0.02, 0.98, num), "numbers at random")


@check("14.6")
def look_closer() -> Iterator[Case]:
    """The level twice as large (H, W, 3), row and column of the map -> the 24-pixel view (24, 24, 3)."""
    rng = np.random.default_rng(146)
    larger = np.repeat(np.arange(40.0)[:, None, None] * 100 + np.arange(56.0)[None, :, None], 3, axis=2)
    for row, column, why in (
        (0, 0, "the corner"),
        (0, 5, "5 points of the map are 10 pixels of the small level and 20 of the large one"),
        (3, 0, "rows alike"),
        (4, 8, "the lower right corner"),
    ):
        yield view_case(larger, row, column, why)
    for row, column in ((1, 6), (4, 2)):
        yield view_case(rng.integers(0, 256, (40, 56, 3)).astype(float), row, column, "pixels at random")


@check("14.7")
def keeping_threshold() -> Iterator[Case]:
    """Scores of faces (N,), a share -> the highest threshold that at least this share of them exceeds."""
    for scores, share, why in (
        ([0.9, 0.7, 0.4, 0.2], 0.75, "three of four must pass: anything from 0.2 to just below 0.4 does that"),
        ([0.2, 0.9, 0.4, 0.7], 0.5, "the scores come in no order"),
        ([0.9, 0.5, 0.5, 0.5], 0.5, "of equal scores all pass or none: the threshold must be below 0.5"),
        ([0.9, 0.6, 0.3], 1.0, "all must pass, and a score passes only when it is above the threshold"),
        ([0.8, 0.6, 0.5, 0.1], 0.6, "60 % of four faces is 2.4 faces: three must pass"),
        ([0.7], 0.99, "one face"),
    ):
        yield threshold_case(np.array(scores), share, why)
    rng = np.random.default_rng(147)
    for num, share in ((10, 0.7), (20, 0.95), (50, 0.9), (100, 0.99)):
        yield threshold_case(rng.integers(1, 100, num) / 100, share, "scores at random, with ties")


def windows_case(picture: np.ndarray, side: int, stride: int, why: str) -> Case:
    shape = (side, side, picture.shape[2])
    want = np.lib.stride_tricks.sliding_window_view(picture, shape)[::stride, ::stride, 0]
    return Case((picture, side, stride), want, why=why)


def box_case(row: int, column: int, size: tuple[int, int], octave: int, k: int, why: str) -> Case:
    pyramid = ImagePyramid(np.zeros((*size, 3), np.uint8), octave)
    corner = np.array([column, row, column, row]) * STRIDE
    want = pyramid.to_image((corner + np.array([0, 0, SIZES[0], SIZES[0]]))[None], k)[0]
    return Case((row, column, pyramid.level_size(k), size), want, why=why)


def followed(costs: np.ndarray, passes: np.ndarray, order: range | tuple[int, ...]) -> float:
    """What 1 window costs on average, followed from stage to stage."""
    left, paid = 1.0, 0.0
    for stage in order:
        paid += left * costs[stage]
        left *= passes[stage]
    return paid


def order_case(costs: np.ndarray, passes: np.ndarray, why: str) -> Case:
    """Every order is tried; any that costs no more than the best is right."""
    every = {order: followed(costs, passes, order) for order in permutations(range(len(costs)))}
    best = min(every, key=every.get)

    def accept(got: object) -> str:
        try:
            order = tuple(int(i) for i in got)
        except (TypeError, ValueError):
            return f"It should be a list of the {len(costs)} stages' numbers, not {got!r}."
        if order not in every:
            return f"It should name each of the stages 0 to {len(costs) - 1} once."
        if every[order] <= every[best] * (1 + 1e-9):
            return ""
        return f"That costs {every[order]:.4g} a window; the order {list(best)} costs {every[best]:.4g}."

    return Case((costs, passes), accept=accept, why=why)


def view_case(larger: np.ndarray, row: int, column: int, why: str) -> Case:
    """What is wanted, found by search: the place whose 2 x 2 means are the small window."""
    small = resize_image(larger, (larger.shape[0] // 2, larger.shape[1] // 2))
    y, x = STRIDE * row, STRIDE * column
    window = small[y : y + SIZES[0], x : x + SIZES[0]]
    views = np.lib.stride_tricks.sliding_window_view(larger, (SIZES[1], SIZES[1], 3))[::2, ::2, 0]
    means = views.reshape(*views.shape[:2], SIZES[0], 2, SIZES[0], 2, 3).mean(axis=(3, 5))
    i, j = (int(k) for k in np.argwhere(np.abs(means - window).max(axis=(2, 3, 4)) < 1e-3)[0])
    want = views[i, j]

    def accept(got: object) -> str:
        complaint = difference(got, want)
        if not complaint or np.shape(got) != want.shape:
            return complaint
        every = np.lib.stride_tricks.sliding_window_view(larger, want.shape)[:, :, 0]
        places = np.argwhere((every == np.asarray(got)).all(axis=(2, 3, 4)))
        found = f"Yours is the view from row {places[0][0]}, column {places[0][1]}. " if len(places) else ""
        return f"{found}It should begin at row {2 * i}, column {2 * j} of the larger level."

    return Case((larger, row, column), want, accept=accept, why=why)


def threshold_case(scores: np.ndarray, share: float, why: str) -> Case:
    return Case((scores, share), accept=threshold_judge(scores, share), why=why)


def threshold_judge(scores: np.ndarray, share: float) -> Callable[[object], str]:
    def accept(got: object) -> str:
        if not isinstance(got, (int, float, np.number)) or isinstance(got, bool) or not np.isfinite(got):
            return f"It should be one number, not {got!r}."
        passing, lower = int((scores > got).sum()), scores[scores <= got]
        if passing < share * len(scores) - 1e-9:
            return f"Only {passing} of {len(scores)} scores are above {got:.6g}; {share:.0%} must be."
        # The next useful threshold is the lowest score that passes: could it be turned away, too?
        next_up = scores[scores > got].min()
        if (scores > next_up).sum() >= share * len(scores) - 1e-9:
            enough = int((scores > next_up).sum())
            return f"{passing} of {len(scores)} scores are above {float(got)!r}; {enough} are enough: try {next_up:g}."
        return "" if len(lower) or got >= 0 else "A threshold below 0 lets through what no probability can be."

    return accept
