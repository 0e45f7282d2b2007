"""Checks of lesson 12: anchors, which row is whose, labels, the sample, the loss's two terms, proposals.

Letters: A anchors a cell; H W cells of a map; N anchors, G objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check
from minidetect.reference import boxes as slow
from minidetect.visualize import new_figure, plot_boxes

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
EASY = [[8.0, 8, 40, 40], [20, 4, 44, 28], [30, 30, 70, 60], [-10, 20, 30, 44], [50, 10, 90, 42]]  # (5, 4)


@check("12.1")
def cell_anchors() -> Iterator[Case]:
    """The anchors around the origin, (A, 4), by sides, then by ratios."""
    yield cell_case([32], [1], "a square")
    yield cell_case([32], [4], "four times as high as wide: 16 x 64, and the area is still 32 x 32")
    yield cell_case([30], [0.25], "a ratio below 1 is height over width, too: a wide box")
    yield cell_case([8, 20], [1], "two sides, one ratio")
    yield cell_case([8, 20], [0.25, 1, 4], "all ratios of the first side come before the second side")
    yield cell_case((128.0, 256.0, 512.0), (0.5, 1.0, 2.0), "the paper's nine")
    yield cell_case([5, 3, 7, 9], [2, 0.3], "sides and ratios in no order: keep the one given")
    yield cell_case([16], [], "no ratio: no anchor, an array of shape (0, 4)")
    yield cell_case([], [1, 2], "no side: no anchor, an array of shape (0, 4)")


@check("12.2")
def anchor_grid() -> Iterator[Case]:
    """All anchors of a map, (H*W*A, 4), by rows, columns, anchors."""
    one = np.array([[-2.0, -1, 2, 1]])
    two = np.array([[-2.0, -1, 2, 1], [-3, -5, 3, 5]])
    yield grid_case(one, 1, 1, 8, "one cell: its centre is at (4, 4), not at its corner")
    yield grid_case(one, 1, 2, 8, "two cells side by side: x grows, y stays")
    yield grid_case(one, 2, 1, 8, "two cells one below the other: y grows, x stays")
    yield grid_case(two, 1, 2, 16, "the anchors of a cell stand together")
    yield grid_case(two, 2, 3, 10, "a row of the map is finished before the next one begins")
    yield grid_case(two, 2, 1, 7, "an odd stride: centres on halves")
    yield grid_case(np.array([[-2, -1, 2, 1]]), 1, 2, 5, "whole numbers in, halves out")
    yield grid_case(two, 0, 3, 8, "a map without rows: shape (0, 4)")
    yield grid_case(two, 3, 0, 8, "a map without columns: shape (0, 4)")
    rng = np.random.default_rng(122)
    yield grid_case(rng.uniform(-9, 9, (3, 4)), 4, 5, 6, "three anchors drawn at random")


@check("12.3")
def moved_rows() -> Iterator[Case]:
    """Rows (N,) of a grid -> rows of the same anchors so many cells further, -1 where the map ends."""
    yield moved_case([0], 0, 1, 2, 3, 1, "one anchor a cell, one cell to the right: the next row of the grid")
    yield moved_case([0], 0, 1, 2, 3, 4, "four anchors a cell: a step to the right passes all of them")
    yield moved_case([0], 1, 0, 2, 3, 4, "a step down passes a whole row of three cells with four anchors each")
    why = "the last column: there is no cell to the right, and the next row of the grid is elsewhere"
    yield moved_case([9], 0, 1, 2, 3, 4, why)
    yield moved_case([13], 0, -1, 2, 3, 4, "the first column: one to the left there is no cell")
    yield moved_case([13], 1, 0, 2, 3, 4, "the last row of the map")
    yield moved_case([2], -1, 0, 2, 3, 4, "the first row of the map, one up")
    yield moved_case([7], 0, 0, 2, 3, 4, "nothing moves")
    yield moved_case([], 1, 1, 2, 3, 4, "no rows: none come back, shape (0,)")
    for height, width, num, down, right in ((3, 5, 2, 1, -2), (5, 3, 4, -2, 1), (4, 6, 3, 2, 3)):
        rows = list(range(height * width * num))
        yield moved_case(rows, down, right, height, width, num, "every row of a grid")


@check("12.4")
def label_anchors() -> Iterator[Case]:
    """IoUs (N, G) -> the object that each anchor stands for, -1 background, -2 ignored."""
    for table, why in (
        ([[0.8], [0.5], [0.1]], "above 0.7, between, below 0.3"),
        ([[0.8], [0.75], [0.1]], "two anchors above 0.7: both are positive"),
        ([[0.9], [0.7], [0.1]], "exactly 0.7 is enough"),
        ([[0.9], [0.3], [0.1]], "exactly 0.3 is no longer background"),
        ([[0.5], [0.4], [0.1]], "nobody reaches 0.7: the best one is positive"),
        ([[0.2], [0.1], [0.0]], "the best one is positive even below 0.3: this rule overrules background"),
        ([[0.5], [0.5], [0.1]], "two equally good best anchors: both"),
        ([[0.5], [0.49], [0.1]], "nearly as good as the best is not the best"),
        ([[0.0], [0.0]], "an object that no anchor meets: its best IoU is 0, as everybody's, and nobody is positive"),
        ([[0.0, 0.8], [0.0, 0.1]], "the same beside an object that is met"),
        ([[0.6, 0.1], [0.2, 0.9]], "each object has its own best anchor"),
        ([[0.1, 0.4], [0.2, 0.5]], "one anchor is the best of both objects: it stands for the one it overlaps more"),
        ([[0.4, 0.1], [0.5, 0.2]], "the best of both objects, and it overlaps the first more: the last has no say"),
        ([[0.5, 0.5], [0.1, 0.1]], "the best of both objects, equally: it stands for the first"),
        ([[0.4, 0.5], [0.1, 0.6]], "anchor 0 is the best of object 0 only, though it overlaps object 1 more"),
        ([[0.2, 0.75], [0.1, 0.1]], "the best of object 0, but 0.75 of object 1: at least 0.7 comes first"),
        ([[0.75, 0.8], [0.1, 0.9]], "at least 0.7 with two objects: the one it overlaps most"),
        ([[0.71, 0.71], [0.0, 0.0]], "a tie: the first object"),
        ([[0.2, 0.29], [0.5, 0.6], [0.25, 0.35]], "background must be below 0.3 for all objects"),
        (np.zeros((3, 0)), "an image without objects: all background"),
        (np.zeros((0, 2)), "no anchors"),
        (np.zeros((0, 0)), "neither"),
    ):
        yield label_case(np.array(table, float), why)
    rng = np.random.default_rng(124)
    for num, objects in ((4, 2), (7, 3), (30, 4)):
        table = rng.integers(0, 10, (num, objects)) / 10 * rng.integers(0, 2, (num, 1))
        yield label_case(table, "overlaps drawn at random")


@check("12.5")
def sample_anchors() -> Iterator[Case]:
    """Labels (N,) -> the rows of the positives and of the negatives that are learned from."""
    for labels, num, why in (
        ([0, 1, 0, -1, -1, -1, -1], 4, "enough of both: half and half"),
        ([-1, 0, -2, -1, -1, -2, -1, 3], 6, "two positives only: negatives fill the sample"),
        ([0, 1, 1, 0, -1, -2, -2], 6, "one negative only: the sample is smaller, positives do not fill it"),
        ([-1, -1, -1, -1, -2], 4, "no positives: all negatives"),
        ([0, 0, 2, -2], 4, "no negatives"),
        ([-1, -1, 1, -1], 8, "fewer anchors than asked for"),
        ([0, 0, 0, -1, -1, -1, -1], 5, "an odd number: at most half of 5 are 2 positives"),
        ([], 6, "no anchors at all"),
    ):
        yield sample_case(np.array(labels, int), num, why)
    rng = np.random.default_rng(125)
    labels, seen = rng.choice([-2, -1, 0, 1, 2], 2000), []
    yield sample_case(labels, 256, "many of both: which ones is left to chance", seen)
    yield sample_case(labels, 256, "the same labels again: chance chooses others", seen)
    yield sample_case(rng.choice([-2, -1, 1], 3000, p=[0.1, 0.88, 0.02]), 256, "few positives, all of them are taken")


@check("12.6")
def rpn_loss() -> Iterator[Case]:
    """Losses of the sampled anchors (M,) and of the positives (P,) -> the two terms of the loss, section 3.1.2."""
    yield loss_case([1, 3], [2], 4, 1.0, "2 sampled anchors, 4 positions: a mean, and a sum over 4")
    yield loss_case([1, 3], [2], 4, 10.0, "lambda multiplies the second term only")
    yield loss_case([1, 3, 5, 7], [2, 4], 10, 10.0, "two positives: their sum, divided by positions")
    yield loss_case([1, 3], [], 4, 10.0, "no positives: the second term is 0")
    yield loss_case([], [], 4, 10.0, "nothing sampled: 0 and 0, not 0 / 0")
    rng = np.random.default_rng(126)
    yield loss_case(rng.random(256), rng.random(20), 2400, 10.0, "the paper's numbers")
    yield loss_case(rng.random(13), rng.random(5), 7, 0.1, "drawn at random")


@check("12.7")
def propose() -> Iterator[Case]:
    """Anchors (N, 4), deltas (N, 4), scores (N,) -> proposals (R, 4), the best first."""
    still = np.zeros((5, 4))
    scores = [0.2, 0.9, 0.4, 0.6, 0.8]
    yield propose_case(EASY[:1], still[:1], scores[:1], (64, 80), 8, 0.7, 5, "one anchor that stays where it is")
    yield propose_case(EASY[:2], still[:2], scores[:2], (64, 80), 8, 0.7, 5, "the best comes first")
    why = "a delta: the centre 0.25 of the width to the right, half as high"
    yield propose_case(EASY[:1], [[0.25, 0, 0, math.log(0.5)]], [0.5], (64, 80), 8, 0.7, 5, why)
    why = "cut at the border; the image's size is (height, width)"
    yield propose_case([[30, 30, 70, 60]], [[0.5, 0.5, 0, 0]], [0.5], (60, 80), 8, 0.7, 5, why)
    why = "20 x 20, of which the image shows 20 x 5: its sides are measured after the cut"
    yield propose_case([[10, 45, 30, 65], [30, 10, 50, 30]], still[:2], [0.9, 0.3], (50, 80), 8, 0.7, 5, why)
    yield propose_case([[4, 4, 12, 30]], still[:1], [0.9], (64, 80), 8, 0.7, 5, "a side of exactly 8 is long enough")
    yield propose_case([[4, 4, 11, 40]], still[:1], [0.9], (64, 80), 8, 0.7, 5, "both sides must be long enough")
    yield propose_case([[4, 4, 9, 40]], still[:1], [0.9], (64, 80), 5, 0.7, 5, "`min_side` is not always 8")
    pair = [[0, 0, 20, 20], [0, 0, 20, 15]]
    why = "an IoU of 0.75: the better one strikes out the other"
    yield propose_case(pair, still[:2], [0.5, 0.6], (64, 80), 8, 0.7, 5, why)
    yield propose_case(pair, still[:2], [0.5, 0.6], (64, 80), 8, 0.75, 5, "exactly the threshold may stay")
    why = "equal inside the image: cut them first, then compare"
    yield propose_case([[-30, 10, 20, 30], [0, 10, 20, 30]], still[:2], [0.6, 0.7], (64, 80), 8, 0.7, 5, why)
    why = "the best box is too small to stay; what is too small must not strike out others"
    yield propose_case([[10, 10, 20, 17], [10, 10, 20, 18]], still[:2], [0.9, 0.4], (64, 80), 8, 0.7, 5, why)
    yield propose_case(EASY, still, scores, (64, 80), 8, 0.7, 2, "five left, two wanted: the best two")
    why = "the second of three falls to the first: two are wanted, and two there are"
    yield propose_case([*pair, EASY[2]], still[:3], [0.5, 0.6, 0.1], (64, 80), 8, 0.7, 2, why)
    why = "four doubles of the best box: NMS must see all boxes, before the best two are counted"
    doubles = [[8 + k, 8, 48 + k, 48] for k in range(5)] + [[50, 10, 70, 30]]
    yield propose_case(doubles, np.zeros((6, 4)), [0.9, 0.8, 0.7, 0.6, 0.5, 0.1], (64, 80), 8, 0.7, 2, why)
    yield propose_case(EASY, still, np.array(scores) - 5, (64, 80), 8, 0.7, 9, "scores below 0")
    yield propose_case(np.zeros((0, 4)), np.zeros((0, 4)), [], (64, 80), 8, 0.7, 9, "no anchors: shape (0, 4)")
    why = "wholly outside: nothing is left of it"
    yield propose_case([[-40, 5, -10, 30]], still[:1], [0.9], (64, 80), 8, 0.7, 9, why)
    rng = np.random.default_rng(127)
    for num, most in ((4, 3), (12, 4), (40, 10)):
        corners = rng.uniform(-20, 60, (num, 2))
        anchors = np.concatenate([corners, corners + rng.uniform(10, 40, (num, 2))], axis=1)
        deltas = rng.normal(0, 0.4, (num, 4))
        why = "anchors and deltas drawn at random"
        yield propose_case(anchors, deltas, rng.permutation(num) / num, (64, 80), 8, 0.3, most, why)


def cell_case(sides: Sequence[float], ratios: Sequence[float], why: str) -> Case:
    """The sides by bisection: the width w at which w * (ratio * w) is the area."""
    want = []
    for side in sides:
        for ratio in ratios:
            low, high = 0.0, 100.0 * side
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if middle * middle * ratio < side * side else (low, middle)
            want.append([-low / 2, -ratio * low / 2, low / 2, ratio * low / 2])
    want = np.array(want, float).reshape(-1, 4)
    return Case((sides, ratios), want, why=why, picture=partial(draw_cell, want))


def grid_case(cell: np.ndarray, height: int, width: int, stride: int, why: str) -> Case:
    want = []
    for row in range(height):
        for column in range(width):
            x, y = column * stride + stride / 2, row * stride + stride / 2
            want += [[x + x1, y + y1, x + x2, y + y2] for x1, y1, x2, y2 in cell.tolist()]
    return Case((cell, height, width, stride), np.array(want, float).reshape(-1, 4), why=why)


def moved_case(rows: list, down: int, right: int, height: int, width: int, num: int, why: str) -> Case:
    """By writing all the places down and looking them up."""
    places = [(y, x, anchor) for y in range(height) for x in range(width) for anchor in range(num)]
    row_of = {place: row for row, place in enumerate(places)}
    want = []
    for row in rows:
        y, x, anchor = places[row]
        want.append(row_of.get((y + down, x + right, anchor), -1))
    return Case((np.array(rows, int), down, right, height, width, num), np.array(want, int), why=why)


def label_case(iou: np.ndarray, why: str) -> Case:
    num, objects = iou.shape
    table = iou.tolist()
    want = [label_of(n, table, objects) for n in range(num)]
    return Case((iou,), np.array(want, int), why=why)


def label_of(n: int, table: list[list[float]], objects: int) -> int:
    row = table[n]
    if objects and max(row) >= 0.7:
        return row.index(max(row))
    columns = [[other[g] for other in table] for g in range(objects)]
    best = [g for g in range(objects) if row[g] > 0 and row[g] == max(columns[g])]
    if best:
        return max(best, key=lambda g: (row[g], -g))
    return -1 if all(value < 0.3 for value in row) else -2


def sample_case(labels: np.ndarray, num: int, why: str, seen: list | None = None) -> Case:
    """seen: the rows that earlier cases of the same labels got; the new ones must differ."""
    rng = np.random.default_rng(12 if seen is None else [12, len(seen)])
    return Case((labels, num, rng), accept=fair_sample(labels, num, rng, seen), why=why)


def fair_sample(labels: np.ndarray, num: int, rng: np.random.Generator, seen: list | None) -> Callable[[object], str]:
    before = rng.bit_generator.state
    positives, negatives = np.flatnonzero(labels >= 0), np.flatnonzero(labels == -1)
    want_pos = min(len(positives), num // 2)
    want_neg = min(len(negatives), num - want_pos)

    def accept(got: object) -> str:
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            return "It should return two arrays: rows of positives, rows of negatives."
        for name, rows, pool, want in (
            ("positives", got[0], positives, want_pos), ("negatives", got[1], negatives, want_neg)
        ):
            rows = np.asarray(rows)
            if rows.shape != (want,):
                return f"The {name} have shape {rows.shape}; right is {(want,)}."
            if want and rows.dtype.kind not in "iu":
                return f"The {name} should be whole numbers, rows of `labels`; they are {rows.dtype}."
            if len(set(rows.tolist())) < want:
                return f"Some of the {name} are taken twice."
            if strangers := sorted(set(rows.tolist()) - set(pool.tolist())):
                return f"Row {strangers[0]} is not among the {name}; its label is {labels[strangers[0]]}."
            if len(pool) > 200 > want and spread(rows, pool) < 0.5:
                return f"The {name} all come from one part of the image; each should have the same chance."
        if (want_pos < len(positives) or want_neg < len(negatives)) and rng.bit_generator.state == before:
            return "There was a choice, and nothing was drawn with `rng`: whoever gives it wants the draw repeatable."
        rows_now = [sorted(np.asarray(rows).tolist()) for rows in got]
        for earlier in seen or []:
            for name, rows, others in zip(("positives", "negatives"), rows_now, earlier, strict=True):
                if rows == others:
                    return f"The {name} are the same as in an earlier sample of these labels: draw them with `rng`."
        if seen is not None:
            seen.append(rows_now)
        return ""

    return accept


def spread(rows: np.ndarray, pool: np.ndarray) -> float:
    """How far the chosen reach over what could be chosen, from 0 to 1."""
    places = np.searchsorted(pool, np.sort(rows))
    return float(places[-1] - places[0]) / len(pool)


def loss_case(
    class_losses: list | np.ndarray, box_losses: list | np.ndarray, positions: int, weight: float, why: str
) -> Case:
    class_losses, box_losses = np.array(class_losses, float), np.array(box_losses, float)
    class_term = math.fsum(value / len(class_losses) for value in class_losses.tolist())
    box_term = math.fsum(value * weight / positions for value in box_losses.tolist())
    return Case((class_losses, box_losses, positions, weight), np.array([class_term, box_term]), why=why)


def propose_case(
    anchors: list | np.ndarray, deltas: list | np.ndarray, scores: list | np.ndarray, image_size: tuple[int, int],
    min_side: float, threshold: float, most: int, why: str,
) -> Case:
    anchors, deltas = np.array(anchors, float), np.array(deltas, float)
    scores = np.array(scores, float)
    height, width = image_size
    boxes = []
    for anchor, delta, score in zip(anchors.tolist(), deltas.tolist(), scores.tolist(), strict=True):
        x1, y1, x2, y2 = slow.decode(anchor, delta)
        x1, x2 = min(max(x1, 0), width), min(max(x2, 0), width)
        y1, y2 = min(max(y1, 0), height), min(max(y2, 0), height)
        if x2 - x1 >= min_side and y2 - y1 >= min_side:
            boxes.append(([x1, y1, x2, y2], score))
    kept = slow.nms([box for box, _ in boxes], [score for _, score in boxes], threshold)[:most]
    want = np.array([boxes[k][0] for k in kept], float).reshape(-1, 4)
    given = (anchors, deltas, scores, image_size, min_side, threshold, most)
    return Case(given, want, why=why, atol=1e-4, picture=partial(draw_proposals, image_size, anchors, want))


def draw_cell(right: np.ndarray, got: np.ndarray) -> Figure:
    figure = new_figure(6.5, 3.3)
    yours = np.nan_to_num(np.asarray(got, float)).reshape(-1, 4)
    reach = max(np.abs(right).max(initial=1), np.abs(yours).max(initial=1)) * 1.1
    for i, (title, boxes) in enumerate((("yours", yours), ("right", right))):
        axes = figure.add_subplot(1, 2, i + 1)
        plot_boxes(np.full((2, 2, 3), 255, np.uint8), boxes, colours=[ORANGE, BLUE][i], ax=axes, title=title)
        axes.set(xlim=(-reach, reach), ylim=(reach, -reach))
    return figure


def draw_proposals(image_size: tuple[int, int], anchors: np.ndarray, right: np.ndarray, got: np.ndarray) -> Figure:
    figure = new_figure(8, 2.8)
    canvas = np.full((*image_size, 3), 255, np.uint8)
    yours = np.nan_to_num(np.asarray(got, float)).reshape(-1, 4)
    panels = (("anchors", anchors, GREEN), ("yours", yours, ORANGE), ("right", right, BLUE))
    for i, (title, boxes, colour) in enumerate(panels):
        axes, texts = figure.add_subplot(1, 3, i + 1), [str(k) for k in range(len(boxes))]
        plot_boxes(canvas, boxes, texts, colour, axes, title)
        axes.set(xlim=(-20, image_size[1] + 20), ylim=(image_size[0] + 20, -20))
    return figure
