"""Checks of lesson 10: bins of a RoI, RoI pooling forward and backward, the sampler, class-specific boxes, the loss.

Letters: C channels of a map, H W its size, R regions of interest (RoIs), PH PW bins down and across, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check, difference
from minidetect.kernels.roi_pool import roi_pool_forward
from minidetect.reference import nn_ops as slow
from minidetect.visualize import new_figure


@check("10.1")
def bin_edges() -> Iterator[Case]:
    """Ends of a RoI along one axis, in pixels -> (num, 2) first cell and end of each bin."""
    for low, high, scale, num, limit, why in (
        (16, 80, 1 / 8, 4, 16, "cells 2 to 10 in four bins of two"),
        (16, 80, 1 / 16, 2, 9, "the same pixels on a map of stride 16 are cells 1 to 5"),
        (0, 40, 1 / 8, 2, 16, "5 cells in two bins: floor of 2.5 and ceiling of 2.5, so both read the middle cell"),
        (8, 64, 1 / 8, 3, 16, "7 cells in three bins: each shares a cell with the next"),
        (24, 40, 1 / 8, 5, 16, "2 cells in five bins: fewer cells than bins, and every bin still reads one"),
        (20, 44, 1 / 8, 2, 16, "2.5 cells are rounded to 3 and 5.5 to 6: floor(v + 0.5), not to the even number"),
        (12, 20, 1 / 8, 1, 16, "the ends 1.5 and 2.5 go to 2 and 3"),
        (33, 34, 1 / 8, 3, 16, "both ends round to cell 4, but a region is at least one cell long"),
        (127, 128, 1 / 8, 2, 16, "a region that rounds to the map's far end has no cell on the map"),
        (-24, 24, 1 / 8, 3, 16, "the first bins are off the map: they begin and end at 0"),
        (-13, 11, 1 / 8, 2, 16, "an end of -1.6 goes to cell -2, not to -1: floor, not int"),
        (100, 164, 1 / 8, 4, 16, "the region ends beyond the map, at cell 21: the last bin begins and ends at 16"),
        (-90, -10, 1 / 8, 3, 10, "wholly to the left of the map"),
        (0, 29, 1.0, 7, 40, "29 / 7 * 7 is a little more than 29 in floating point: count in whole numbers"),
    ):
        yield Case((low, high, scale, num, limit), edges(low, high, scale, num, limit), why=why)
    given = (10, 71, 1 / 8, 3, 16)
    yield Case(given, accept=partial(right_and_whole, edges(*given)), why="cells are counted in whole numbers")
    rng = np.random.default_rng(101)
    for num in (2, 3, 5, 7, 7):
        low, length = rng.uniform((-30, 1), (90, 100)).round(1)
        given = (float(low), float(low + length), 1 / 8, num, 14)
        yield Case(given, edges(*given), why=f"{num} bins of a region drawn at random")


@check("10.2")
def roi_pool() -> Iterator[Case]:
    """x (C, H, W), rois (R, 4), size (PH, PW), scale -> y and argmax, both (R, C, PH, PW)."""
    x = np.array([[[1.0, 7, 2, 3], [5, 4, 9, 6], [8, 0, 3, 2]]])  # (1, 3, 4)
    for roi, size, scale, why in (
        ([0, 0, 4, 2], (1, 2), 1.0, "two bins of 2 x 2 cells: 7 and 9, cells 1 and 6 of the plane"),
        ([1, 1, 3, 3], (1, 1), 1.0, "cell (1, 2) has the number 1 * 4 + 2 in its plane, not in the region"),
        ([0, 0, 4, 3], (2, 1), 1.0, "3 rows in two bins: both read the middle row, and both find the 9"),
        ([0, 0, 8, 6], (1, 1), 0.5, "the region is in pixels, the map has half as many cells"),
        ([1, 0, 2, 1], (2, 3), 1.0, "one cell in six bins: all of them get it"),
        ([-2, 0, 2, 3], (1, 2), 1.0, "the left bin is off the map: 0, and no winner, -1"),
        ([6, 1, 9, 3], (2, 2), 1.0, "wholly off the map: only zeros and -1"),
    ):
        yield pool_case(x, [roi], size, scale, why)
    yield pool_case(-x, [[0, 0, 4, 2]], (1, 2), 1.0, "the largest of negative numbers is negative, not 0")
    yield pool_case(np.ones((1, 2, 3)), [[0, 0, 3, 2]], (1, 1), 1.0, "all are equal: the first in reading order wins")
    yield pool_case(-x, [[-2, 0, 2, 3]], (1, 2), 1.0, "an empty bin is 0 even if every number on the map is negative")
    two = np.stack([x[0], -x[0]])
    yield pool_case(two, [[0, 0, 4, 2]], (1, 2), 1.0, "each channel has winners of its own")
    yield pool_case(two, [[0, 0, 4, 2], [2, 1, 4, 3]], (1, 1), 1.0, "two regions, each by itself")
    yield pool_case(two, np.zeros((0, 4)), (2, 3), 1.0, "no regions: both of shape (0, 2, 2, 3)")
    whole = np.arange(12).reshape(1, 3, 4) % 7
    yield pool_case(whole, [[0, 0, 3, 3]], (2, 2), 1.0, "a map of whole numbers")
    rois = np.array([[0.0, 0, 4, 2]])
    want = pooled(x, rois, (1, 2), 1.0)
    why = "the winners' places are whole numbers, to be used as indices"
    yield Case((x, rois, (1, 2), 1.0), accept=partial(second_is_whole, want), why=why)
    rng = np.random.default_rng(102)
    for shape, size, scale in (((2, 5, 7), (2, 3), 0.5), ((3, 8, 6), (3, 2), 0.25), ((4, 6, 9), (5, 7), 0.125)):
        corners = rng.uniform(-0.2, 0.8, (4, 2)) * (shape[2] / scale, shape[1] / scale)
        rois = np.concatenate([corners, corners + rng.uniform(0, 0.7, (4, 2)) * corners.max()], axis=1).round(1)
        yield pool_case(rng.integers(-9, 10, shape) / 2.0, rois, size, scale, f"a map {shape} with many ties")


@check("10.3")
def roi_pool_backward() -> Iterator[Case]:
    """gy, argmax (R, C, PH, PW), shape (C, H, W) -> the gradient at the map (C, H, W)."""
    for gy, argmax, shape, why in (
        ([[[[2.0, 5]]]], [[[[1, 3]]]], (1, 2, 3), "two bins, two cells: cell 3 is (1, 0)"),
        ([[[[2.0, 5]]]], [[[[4, 4]]]], (1, 2, 3), "two bins of one region that share their winner: 2 + 5"),
        ([[[[2.0]]], [[[5.0]]]], [[[[1]]], [[[1]]]], (1, 2, 3), "two regions with the same winner: 2 + 5"),
        ([[[[2.0, 5]]]], [[[[-1, 0]]]], (1, 2, 3), "an empty bin (-1) gives its gradient to nobody; cell 0 did win"),
        ([[[[2.0]], [[5.0]]]], [[[[1]], [[1]]]], (2, 2, 3), "two channels: cell 1 of each"),
        ([[[[-2.0, 2], [3, -1]]]], [[[[1, 1], [2, 5]]]], (1, 2, 3), "a sum may be 0, and gradients may be negative"),
    ):
        yield back_case(np.array(gy), np.array(argmax), shape, why)
    yield back_case(np.zeros((0, 2, 3, 2)), np.zeros((0, 2, 3, 2), int), (2, 4, 5), "no regions: zeros, of all cells")
    rng = np.random.default_rng(103)
    for shape, size in (((2, 4, 5), (2, 3)), ((3, 6, 4), (3, 2))):
        x = rng.permutation(int(np.prod(shape))).reshape(shape) / 10.0  # no ties
        rois = np.array([[0, 0, 4, 4], [1, 0, 4, 3], [-1, 1, 3, 4], [2, 2, 3, 3], [0, 0, 2, 5]], float)
        argmax = pooled(x, rois, size, 1.0)[1]
        gy = rng.normal(size=argmax.shape)
        want, why = by_differences(x, rois, size, gy), "five regions that overlap; right is by finite differences"
        yield Case((gy, argmax, shape), want, why=why, atol=1e-4)


@check("10.4")
def sample() -> Iterator[Case]:
    """best_iou (N,), num, rng -> the rows of objects and of background."""
    for best_iou, num, why in (
        ([0.9, 0.3], 4, "one of each, and fewer than there are places: take both"),
        ([0.6, 0.7, 0.3, 0.2, 0.2], 4, "one place of four is an object's, three are background"),
        ([0.3, 0.2, 0.4, 0.3], 4, "no objects: their place goes to background"),
        ([0.8, 0.9, 0.7, 0.6, 0.3], 8, "little background: the batch is smaller, objects keep to their quarter"),
        ([0.5, 0.2], 4, "an IoU of exactly 0.5 is an object"),
        ([0.6, 0.1], 4, "an IoU of exactly 0.1 is background"),
        ([0.6, 0.0, 0.09, 0.4], 4, "below 0.1 a window is neither"),
        ([0.6, 0.7], 4, "nothing in [0.1, 0.5): an empty array of rows for the background"),
        ([], 8, "no windows: two empty arrays"),
    ):
        yield sample_case(np.array(best_iou, float), num, 0, why)
    rng = np.random.default_rng(104)
    for size, num in ((60, 16), (400, 64), (400, 128)):
        best_iou = rng.uniform(0, 1, size).round(2)
        yield sample_case(best_iou, num, size, f"{size} windows, {num} places: counts, and a choice at random")
    few = np.where(np.arange(300) < 5, 0.8, rng.uniform(0, 0.6, 300).round(2).clip(0, 0.49))
    yield sample_case(rng.permutation(few), 64, 1, "5 objects where 16 could be: background fills the 64")


@check("10.5")
def class_boxes() -> Iterator[Case]:
    """rois (R, 4), deltas (R, 4 K), labels (R,), std (4,) -> each RoI's box for its class (R, 4)."""
    roi, std = [10.0, 20, 14, 28], (0.1, 0.1, 0.2, 0.2)
    for deltas, label, stds, why in (
        ([0, 0, 0, 0, 9, 9, 9, 9], 1, std, "class 1 owns the first four columns, and they say: stay"),
        ([9, 9, 9, 9, 0, 0, 0, 0], 2, std, "class 2 owns the columns 4 to 7"),
        ([5, 0, 0, 0, 0, 5, 0, 0], 1, std, "5 standard deviations of 0.1 are half a width to the right"),
        ([5, 0, 0, 0, 0, 5, 0, 0], 2, std, "for class 2 it is half a height down"),
        ([0, 0, 5 * math.log(2), 0, 1, 1, 1, 1], 1, std, "the sides have a deviation of 0.2: twice as wide"),
        ([1, 2, 3, 4, -2, -1, 2, -3], 2, (0.3, 0.2, 0.1, 0.4), "other deviations"),
    ):
        yield boxes_case([roi], [deltas], [label], stds, why)
    yield boxes_case(np.zeros((0, 4)), np.zeros((0, 12)), [], std, "no RoIs: shape (0, 4)")
    rng = np.random.default_rng(105)
    for num, classes in ((3, 2), (5, 3), (7, 6)):
        corners = rng.uniform(0, 60, (num, 2))
        rois = np.concatenate([corners, corners + rng.uniform(5, 40, (num, 2))], axis=1)
        labels = rng.integers(1, classes + 1, num)
        yield boxes_case(rois, rng.normal(size=(num, 4 * classes)), labels, std, f"{num} RoIs, {classes} classes")


@check("10.6")
def head_loss() -> Iterator[Case]:
    """logits (R, K + 1), deltas (R, 4 K), labels (R,), targets (R, 4) -> the two parts of the loss."""
    nothing, wild = [0.0] * 4, [50.0] * 4
    for logits, deltas, labels, targets, why in (
        ([[0, 0, 0]], [nothing * 2], [0], [nothing], "three classes, no idea: log 3; background has no box to be off"),
        ([[0, 0, 0]], [wild * 2], [0], [nothing], "background: what it says about boxes costs nothing"),
        ([[0, 0, 0]], [[0.5, 0, 0, 0, *wild]], [1], [nothing], "class 1 is 0.5 off in x: 0.125; class 2 is not asked"),
        ([[0, 0, 0]], [[*wild, 0, 3, 0, 0]], [2], [nothing], "class 2 is 3 off in y: 2.5"),
        ([[0, 0, 0]], [[1, -1, 2, 0, *nothing]], [1], [[0, 0, 3, 0]], "an error of exactly 1 costs 0.5"),
        ([[2, -1, 0.5]], [nothing * 2], [1], [[0.1, 0.2, -0.3, 0.4]], "four small errors add up: no mean over them"),
        ([[1, 2], [3, 0]], [nothing, nothing], [0, 1], [nothing, wild], "two RoIs, one object: both parts are over 2"),
        ([[1000, 0, -1000]], [nothing * 2], [1], [nothing], "logits of 1000: the loss is 1000, not infinite"),
        (
            [[1000, 0, 0], [0, 1, 2]],
            [nothing * 2] * 2,
            [0, 1],
            [nothing] * 2,
            "logits of 1000 beside small ones: subtract each row's largest, not the largest of all",
        ),
        ([[0, 1, 2], [2, 1, 1]], [nothing * 2] * 2, [0, 2], [[math.nan] * 4, nothing], "background has no target: NaN"),
    ):
        yield loss_case(logits, deltas, labels, targets, why)
    empty = [np.zeros((0, n)) for n in (3, 8, 4)]
    given = (empty[0], empty[1], np.zeros(0, int), empty[2])
    yield Case(given, (0.0, 0.0), why="no RoIs: 0 and 0, not 0 divided by 0")
    rng = np.random.default_rng(106)
    for num, classes in ((4, 2), (6, 3), (9, 5)):
        labels = rng.integers(0, classes + 1, num)
        arrays = [rng.normal(0, 1.5, (num, n)) for n in (classes + 1, 4 * classes, 4)]
        yield loss_case(arrays[0], arrays[1], labels, arrays[2], f"{num} RoIs, {classes} classes")


# ------------------------------------------------------------------ right answers


def edges(low: float, high: float, scale: float, num: int, limit: int) -> np.ndarray:
    """By definition: a bin reads the cells that it shares some length with. All in num-ths of a cell."""
    start, end = (math.floor(v * scale + 0.5) for v in (low, high))
    length, found = max(end - start, 1), []
    for k in range(num):
        cells = [c for c in range(length) if c * num < (k + 1) * length and (c + 1) * num > k * length]
        found.append((start + cells[0], start + cells[-1] + 1))
    return np.array([[min(max(v, 0), limit) for v in pair] for pair in found])


def right_and_whole(want: np.ndarray, got: Any) -> str:
    """Edges of bins are used to cut arrays: 3.0 cannot."""
    if complaint := difference(got, want):
        return complaint
    kind = np.asarray(got).dtype
    return "" if kind.kind in "iu" else f"It holds {kind}: an array cannot be cut there."


def second_is_whole(want: tuple[np.ndarray, np.ndarray], got: Any) -> str:
    if complaint := difference(got, want):
        return complaint
    kind = np.asarray(got[1]).dtype
    return "" if kind.kind in "iu" else f"The second value holds {kind}: it cannot be used as an index."


def pooled(x: np.ndarray, rois: np.ndarray, size: tuple[int, int], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The values by the slow loops of the reference, the places by the kernel."""
    indexed = np.concatenate([np.zeros((len(rois), 1)), rois], axis=1)  # (R, 5): all of image 0
    y = slow.roi_pool(x[None].astype(np.float64), indexed, size, scale)
    return y, roi_pool_forward(x[None].astype(np.float64), indexed, size, scale, False)[1]


def pool_case(x: np.ndarray, rois: list | np.ndarray, size: tuple[int, int], scale: float, why: str) -> Case:
    rois = np.asarray(rois, np.float64)
    want = pooled(x, rois, size, scale)
    picture = partial(draw_pooled, x, want[0]) if len(rois) else None
    return Case((x, rois, size, scale), want, why=why, picture=picture)


def draw_pooled(x: np.ndarray, want: np.ndarray, got: Any) -> Figure:
    """The map's first channel, and the first region's bins: yours and right."""
    figure = new_figure(7, 2.6)
    panels = (x[0], np.asarray(got[0], float)[0, 0], want[0, 0])
    for axes, values, title in zip(figure.subplots(1, 3), panels, ("the map", "yours", "right"), strict=True):
        axes.imshow(values, cmap="Blues", vmin=x.min(), vmax=2 * abs(x).max())
        for (i, j), value in np.ndenumerate(values):
            axes.text(j, i, f"{value:g}", ha="center", va="center", fontsize=8)
        axes.set(title=title, xticks=[], yticks=[])
    return figure


def back_case(gy: np.ndarray, argmax: np.ndarray, shape: tuple[int, int, int], why: str) -> Case:
    """Equation (4) as it stands: for every cell, a sum over all regions and bins that chose it."""
    want = np.zeros((shape[0], shape[1] * shape[2]))
    for c, i in np.ndindex(want.shape):
        want[c, i] = gy[:, c][argmax[:, c] == i].sum()
    return Case((gy, argmax, shape), want.reshape(shape), why=why)


def by_differences(x: np.ndarray, rois: np.ndarray, size: tuple[int, int], gy: np.ndarray) -> np.ndarray:
    """The derivative of sum(gy * y) by each cell; a step of 0.01 changes no winner."""
    want = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = 0.01
        up, down = (pooled(x + sign * step, rois, size, 1.0)[0] for sign in (1, -1))
        want[place] = (gy * (up - down)).sum() / 0.02
    return want


def sample_case(best_iou: np.ndarray, num: int, seed: int, why: str) -> Case:
    """Many answers are right. A choice at random has to come from the generator that was passed in."""
    rng = np.random.default_rng(seed)
    before = rng.bit_generator.state["state"]["state"]

    def accept(got: Any) -> str:
        moved = rng.bit_generator.state["state"]["state"] != before
        return what_is_wrong(best_iou, num, got, moved)

    return Case((best_iou, num, rng), accept=accept, why=why)


def what_is_wrong(best_iou: np.ndarray, num: int, got: Any, moved: bool) -> str:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        return "It should return two arrays: rows of objects, rows of background."
    is_object, is_background = best_iou >= 0.5, (best_iou >= 0.1) & (best_iou < 0.5)
    most_objects = min(int(is_object.sum()), num // 4)
    most_background = min(int(is_background.sum()), num - most_objects)
    parts = (("objects", is_object, most_objects), ("background", is_background, most_background))
    for (name, allowed, most), rows in zip(parts, map(np.asarray, got), strict=True):
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            return f"The {name} should be an array (n,) of row numbers, also when it is empty."
        if len(rows) != most:
            return f"Rows of {name}: {len(rows)}; right is {most}."
        if len(np.unique(rows)) != len(rows):
            return f"A row of {name} is there twice."
        if not np.isin(rows, np.flatnonzero(allowed)).all():
            wrong = rows[~np.isin(rows, np.flatnonzero(allowed))][0]
            return f"Row {wrong} cannot be {name}: {best_iou[wrong] if wrong < len(best_iou) else 'there is none'}."
        if most < allowed.sum() and (complaint := looks_chosen(rows, allowed, best_iou, name, moved)):
            return complaint
    return ""


def looks_chosen(rows: np.ndarray, allowed: np.ndarray, best_iou: np.ndarray, name: str, moved: bool) -> str:
    """Whether rows that were to be drawn at random are all at one end, or stand in line.

    In line: their distances in the list differ by 1 at most, as in a slice or with every third. By chance 16 rows and
    more of the cases here do that less than once in a million draws.
    """
    if not moved:
        return "There are more candidates than places, and `rng` was not asked: draw at random."
    candidates = np.flatnonzero(allowed)
    by_iou = candidates[np.argsort(best_iou[allowed])]
    for what, order in (("their place in the list", candidates), ("their IoU", by_iou)):
        for end in (order[: len(rows)], order[-len(rows) :]):
            if len(rows) >= 4 and set(end) == set(rows):
                return f"Rows of {name} were chosen by {what}: draw at random."
        steps = np.diff(np.flatnonzero(np.isin(order, rows)))
        if len(rows) >= 16 and np.ptp(steps) <= 1:
            return f"Rows of {name} were chosen by {what}, at equal distances: draw at random."
    return ""


def boxes_case(
    rois: list | np.ndarray, deltas: list | np.ndarray, labels: list | np.ndarray, std: tuple, why: str
) -> Case:
    rois, deltas, labels = np.asarray(rois, float), np.asarray(deltas, float), np.asarray(labels, np.int64)
    want = np.zeros((len(rois), 4))
    for r, (x1, y1, x2, y2) in enumerate(rois):
        dx, dy, dw, dh = (deltas[r, 4 * (int(labels[r]) - 1) + k] * std[k] for k in range(4))
        x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        width, height = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
        want[r] = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return Case((rois, deltas, labels, np.array(std)), want, why=why)


def loss_case(logits: Any, deltas: Any, labels: Any, targets: Any, why: str) -> Case:
    """Number by number, with the exponentials taken relative to the largest logit."""
    logits, deltas, targets = (np.asarray(a, float) for a in (logits, deltas, targets))
    classification = boxes = 0.0
    for r, label in enumerate(map(int, labels)):
        row = [float(v) for v in logits[r]]
        classification += max(row) + math.log(sum(math.exp(v - max(row)) for v in row)) - row[label]
        if label >= 1:
            own = deltas[r, 4 * label - 4 : 4 * label]
            boxes += sum(curve(abs(float(d - t))) for d, t in zip(own, targets[r], strict=True))
    want = (classification / len(labels), boxes / len(labels))
    return Case((logits, deltas, np.asarray(labels, np.int64), targets), want, why=why)


def curve(size: float) -> float:
    return size * size / 2 if size < 1 else size - 0.5
