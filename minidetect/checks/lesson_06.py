"""Checks of lesson 06: box deltas there and back, standardised targets, ridge regression, two losses' slopes.

Letters: N pairs of a proposal and its ground truth; D features; K targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from statistics import fmean, pstdev

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check, difference
from minidetect.reference import boxes as slow
from minidetect.visualize import new_figure, plot_boxes

LIMIT = math.log(1000 / 16)


@check("6.1")
def encode() -> Iterator[Case]:
    """(N, 4) proposals and their ground truths -> (N, 4) tx, ty, tw, th."""
    for proposal, gt, why in (
        ([0, 0, 10, 20], [0, 0, 10, 20], "the proposal is right already: four zeros"),
        ([10, 20, 14, 28], [12, 20, 16, 28], "2 pixels to the right are half of a width of 4"),
        ([10, 20, 14, 28], [10, 22, 14, 30], "2 pixels down are a quarter of a height of 8"),
        ([10, 20, 14, 28], [8, 20, 16, 28], "the same centre, twice as wide: log 2"),
        ([10, 20, 14, 28], [10, 20, 18, 28], "the left edge stays, but the centre moves by 2 as the box grows"),
        ([10, 20, 18, 28], [10, 22, 14, 26], "half as wide and high: the logarithms are negative"),
        ([10, 20, 14, 28], [100, 20, 500, 28], "far away and 100 times as wide: encode limits nothing"),
    ):
        yield encode_case([proposal], [gt], why)
    yield Case((np.zeros((0, 4)), np.zeros((0, 4))), np.zeros((0, 4)), why="no pairs, still four columns")
    rng = np.random.default_rng(61)
    for num in (2, 3, 7):
        yield encode_case(random_boxes(rng, num), random_boxes(rng, num), "pairs drawn at random")


@check("6.2")
def decode() -> Iterator[Case]:
    """(N, 4) proposals and deltas -> (N, 4) boxes, the exponents limited to log(1000 / 16)."""
    box = [10.0, 20, 14, 28]
    for delta, why in (
        ([0, 0, 0, 0], "nothing is to change"),
        ([0.5, 0, 0, 0], "half a width to the right is 2 pixels"),
        ([0, -0.25, 0, 0], "a quarter of the height up is 2 pixels"),
        ([0, 0, math.log(2), 0], "twice as wide about the same centre"),
        ([0.5, 0, math.log(2), 0], "the shift is counted in widths of the proposal, not of the grown box"),
        ([0, 0, 0, 50], "a height of e to the 50 is not a box: growth stops at 1000 / 16"),
        ([0, 0, -9, -9], "only growth is limited; a box may become as small as it likes"),
        ([9, -7, 0, 0], "shifts are not limited"),
    ):
        yield decode_case([box], [delta], why)
    yield Case((np.zeros((0, 4)), np.zeros((0, 4))), np.zeros((0, 4)), why="no boxes, still four columns")
    rng = np.random.default_rng(62)
    for num in (2, 3, 7):
        yield decode_case(random_boxes(rng, num), rng.normal(0, 1.5, (num, 4)), "boxes and deltas drawn at random")


@check("6.3")
def standardise() -> Iterator[Case]:
    """(N, 4) deltas -> the standardised deltas (N, 4), the mean (4,), the standard deviation (4,)."""
    two = [[1.0, 4, 0, -2], [3, 10, 1, -6]]
    yield standardise_case(two, "two rows: their mean, and half of their distance")
    yield standardise_case([[1.0, 4, 2, 0], [3, 4, 1, 1]], "the second column never varies: its std is to be 1, not 0")
    yield standardise_case([[0.1, -0.2, 0.3, 0.4]], "a single row varies nowhere")
    rounding = [[0.1, 1.0, 2, 3], [0.1, 2, 2, 5], [0.1, 4, 3, 1]]
    yield standardise_case(rounding, "the first column never varies, but rounding leaves it a deviation of 1e-17")
    rng = np.random.default_rng(63)
    for num in (3, 5, 9):
        deltas = rng.normal((0.3, -1, 0, 2), (0.1, 0.3, 2, 1), (num, 4))
        yield standardise_case(deltas, "columns with means and deviations of their own")


@check("6.4")
def ridge() -> Iterator[Case]:
    """x (N, D), t (N, K), strength -> w (D, K) with the least |x w - t|^2 + strength |w|^2."""
    yield ridge_case([[2.0]], [[3.0]], 2.0, "(2 * 2 + 2) w = 2 * 3, so w = 1")
    yield ridge_case([[1.0], [2]], [[2.0, 1], [4, 0]], 0.0, "without a penalty the first target is met exactly")
    yield ridge_case([[1.0, 1], [2, 2], [3, 3]], [[1.0], [2], [3]], 1.0, "two equal features share the weight")
    yield ridge_case([[1.0, 2, 0]], [[5.0, 1]], 0.5, "fewer samples than features: only the penalty makes it solvable")
    ones = [[1.0, 1], [2, 1], [4, 1]]
    yield ridge_case(ones, [[7.0], [8], [9]], 3.0, "a last column of ones is penalised like any other")
    rng = np.random.default_rng(64)
    for num, features, targets in ((4, 2, 1), (5, 3, 2), (9, 5, 4)):
        x, t = rng.normal(0.5, 1, (num, features)), rng.normal(0, 1, (num, targets))
        yield ridge_case(x, t, float(rng.uniform(0.5, 20)), "samples drawn at random")


@check("6.5")
def smooth_l1() -> Iterator[Case]:
    """error (N, 4), beta -> the loss and its slope, element by element."""
    for error, beta, why in (
        (0.0, 1.0, "no error, no loss, no slope"),
        (0.5, 1.0, "inside it is the parabola: half of the square"),
        (-3.0, 1.0, "outside it is the straight line, and the slope has the sign of the error"),
        (1.0, 1.0, "at the joint both forms say 0.5"),
        (0.5, 0.25, "twice beta: outside, and the line is lowered by beta / 2"),
        (-0.1, 0.25, "inside, the parabola is steeper for a smaller beta"),
        (3.0, 2.0, "a beta above 1"),
    ):
        yield smooth_l1_case([[error]], beta, why)
    rng = np.random.default_rng(65)
    for num, beta in ((2, 1.0), (3, 1 / 9), (5, 0.5)):
        yield smooth_l1_case(rng.normal(0, 1.5, (num, 4)), beta, "errors drawn at random")


@check("6.6")
def iou_slope() -> Iterator[Case]:
    """Two boxes (4,) -> the derivative of their IoU by the four numbers of the first (4,)."""
    for pred, gt, why in (
        ([1, 1, 5, 4], [2, 2, 8, 9], "up and left of the truth: to grow right and down helps"),
        ([3, 3, 9, 9.5], [2, 2, 8, 9], "down and right of the truth"),
        ([3, 3, 6, 5], [2, 2, 8, 9], "inside of the truth: every edge should move outwards"),
        ([0, 1, 9, 10], [2, 2, 8, 9], "around the truth: every edge should move inwards"),
        ([3, 1, 6, 10], [2, 2, 8, 9], "too narrow and too high"),
        ([10, 3, 14, 8], [2, 2, 8, 9], "apart in x: no overlap, no slope"),
        ([10, 12, 14, 15], [2, 2, 8, 9], "apart in x and in y: two negative sides must not make an overlap"),
        ([8, 3, 12, 8], [2, 2, 8, 9], "touching: still no overlap"),
    ):
        yield slope_case(pred, gt, why)
    why = "here the IoU has a kink: the slope to the left is right, and that to the right, but nothing between them"
    yield kink_case([2, 2, 8, 9], [2, 2, 8, 9], f"equal boxes; {why}")
    yield kink_case([2, 3, 7, 9], [2, 2, 8, 9], f"two edges coincide, x1 and y2; {why}")
    rng = np.random.default_rng(66)
    for _ in range(20):
        pred, gt = random_boxes(rng, 2) + rng.uniform(0, 0.3, (2, 4))
        yield slope_case(pred, gt, "two boxes drawn at random")


def random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, 4) within 0 to 20, wider and higher than 2, no two sides alike."""
    corners = rng.uniform(0, 10, (num, 2))
    return np.concatenate([corners, corners + rng.uniform(2, 10, (num, 2))], axis=1)


def encode_case(proposals: list | np.ndarray, gt: list | np.ndarray, why: str) -> Case:
    proposals, gt = np.array(proposals, float), np.array(gt, float)
    want = [slow.encode(*pair) for pair in zip(proposals, gt, strict=True)]
    return Case((proposals, gt), np.array(want), why=why)


def decode_case(proposals: list | np.ndarray, deltas: list | np.ndarray, why: str) -> Case:
    proposals, deltas = np.array(proposals, float), np.array(deltas, float)
    limited = [[tx, ty, min(tw, LIMIT), min(th, LIMIT)] for tx, ty, tw, th in deltas.tolist()]
    want = np.array([slow.decode(*pair) for pair in zip(proposals, limited, strict=True)])
    return Case((proposals, deltas), want, why=why, picture=partial(draw_decoded, proposals, want))


def standardise_case(deltas: list | np.ndarray, why: str) -> Case:
    deltas = np.array(deltas, float)
    mean = np.array([fmean(column) for column in deltas.T])
    std = np.array([pstdev(column) or 1.0 for column in deltas.T.tolist()])
    return Case((deltas,), ((deltas - mean) / std, mean, std), why=why)


def ridge_case(x: list | np.ndarray, t: list | np.ndarray, strength: float, why: str) -> Case:
    """The penalty as D more samples: sqrt(strength) times the unit vectors, each with target 0."""
    x, t = np.array(x, float), np.array(t, float)
    more = np.concatenate([x, math.sqrt(strength) * np.eye(x.shape[1])])
    want = np.linalg.lstsq(more, np.concatenate([t, np.zeros((x.shape[1], t.shape[1]))]), rcond=None)[0]
    return Case((x, t, strength), want, why=why)


def smooth_l1_case(error: list | np.ndarray, beta: float, why: str) -> Case:
    error = np.array(error, float)
    pairs = [one_smooth_l1(e, beta) for e in error.ravel().tolist()]
    loss, slope = np.array(pairs).T.reshape(2, *error.shape)
    return Case((error, beta), (loss, slope), why=why)


def one_smooth_l1(error: float, beta: float) -> tuple[float, float]:
    """The loss is the area below the slope's size, from 0 to the error."""
    size = abs(error)
    steep = min(size / beta, 1.0)
    area = steep * min(size, beta) / 2 + max(size - beta, 0.0)
    return area, math.copysign(steep, error) if error else 0.0


def slope_case(pred: list | np.ndarray, gt: list | np.ndarray, why: str) -> Case:
    pred, gt = np.array(pred, float), np.array(gt, float)
    want = np.zeros(4) if slow.iou(pred, gt) == 0 else (one_sided(pred, gt, 1e-5) + one_sided(pred, gt, -1e-5)) / 2
    picture = partial(draw_slope, pred, gt)
    return Case((pred, gt), want, why=why, rtol=1e-4, atol=1e-6, picture=picture)


def kink_case(pred: list, gt: list, why: str) -> Case:
    pred, gt = np.array(pred, float), np.array(gt, float)
    left, right = one_sided(pred, gt, -1e-6), one_sided(pred, gt, 1e-6)
    return Case((pred, gt), accept=either_slope(left, right), why=why)


def either_slope(left: np.ndarray, right: np.ndarray) -> Callable[[object], str]:
    def accept(got: object) -> str:
        nearest = left
        if np.shape(got) == (4,):
            got = np.asarray(got, float)
            nearest = np.where(np.abs(got - left) < np.abs(got - right), left, right)
        text = difference(got, nearest, atol=1e-4)
        return text and f"{text} The slopes are {left.round(4)} to the left, {right.round(4)} to the right."

    return accept


def one_sided(pred: np.ndarray, gt: np.ndarray, step: float) -> np.ndarray:
    """The slopes of the IoU towards larger (step > 0) or smaller coordinates (4,)."""
    moved = pred + step * np.eye(4)  # (4, 4): row i has coordinate i moved
    return np.array([(slow.iou(row, gt) - slow.iou(pred, gt)) / step for row in moved])


def draw_decoded(proposals: np.ndarray, right: np.ndarray, got: np.ndarray) -> Figure:
    figure = new_figure(4.5, 4.5)
    yours = np.nan_to_num(np.asarray(got, float)[0]).clip(-999, 999)  # a box of 1e22 pixels cannot be drawn
    boxes = [proposals[0], right[0], yours]
    canvas = np.full((40, 40, 3), 255, np.uint8)
    colours = ["#56B4E9", "#009E73", "#D55E00"]
    texts = ["proposal", "right", "yours"]
    axes = plot_boxes(canvas, boxes, texts, colours, ax=figure.add_subplot(), title="the first box")
    (left, top), (right_end, bottom) = np.min(boxes, axis=0)[:2] - 2, np.max(boxes, axis=0)[2:] + 2
    axes.set(xlim=(left, right_end), ylim=(bottom, top))
    return figure


def draw_slope(pred: np.ndarray, gt: np.ndarray, got: np.ndarray) -> Figure:
    """The two boxes; an arrow on each edge shows which way it should move to raise the IoU, as answered."""
    figure = new_figure(4, 4)
    canvas = np.full((22, 22, 3), 255, np.uint8)
    colours = ["#0072B2", "#009E73"]
    title = "which way your slopes move the edges"
    axes = plot_boxes(canvas, [pred, gt], ["box", "truth"], colours, ax=figure.add_subplot(), title=title)
    (x1, y1, x2, y2), slope = pred, np.nan_to_num(np.asarray(got, float)).clip(-99, 99)
    along = slope * 3 / max(np.abs(slope).max(), 1e-9)
    starts = ((x1, (y1 + y2) / 2), ((x1 + x2) / 2, y1), (x2, (y1 + y2) / 2), ((x1 + x2) / 2, y2))
    for i, (x, y) in enumerate(starts):
        step = (along[i], 0) if i % 2 == 0 else (0, along[i])
        axes.annotate("", (x + step[0], y + step[1]), (x, y), arrowprops={"arrowstyle": "->", "color": colours[0]})
    return figure
