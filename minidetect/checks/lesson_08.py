"""Checks of lesson 08: growing regions, their similarity, source boxes of a warp, a step of the SVM, hard negatives.

Letters: N pixels, boxes or windows; E edges; H, W height and width; D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check
from minidetect.kernels.segmentation import PixelGraph, segment_graph
from minidetect.reference import segmentation as slow
from minidetect.visualize import new_figure, plot_boxes


@check("8.1")
def grow() -> Iterator[Case]:
    """Edges by rising weight (E,), their ends (E,) and (E,), N, k -> the region of every pixel (N,)."""
    yield grow_case([], 1, 10, "a single pixel and no edge: one region")
    yield grow_case([], 3, 10, "no edges: every pixel is a region")
    yield grow_case([(4, 0, 1)], 2, 4, "an edge of exactly k joins two pixels: at most the limit, not below it")
    yield grow_case([(4.5, 0, 1)], 2, 4, "an edge heavier than k joins no two pixels")
    yield grow_case([(2, 0, 1), (5, 1, 2)], 3, 6, "the pair's limit is 2 + 6 / 2 = 5, and that is enough")
    yield grow_case([(2, 0, 1), (5.5, 1, 2)], 3, 6, "the pair's limit is 2 + 6 / 2 = 5, the lone pixel's 6: both count")
    yield grow_case([(2, 1, 2), (5.5, 0, 1)], 3, 6, "the lone pixel's limit of 6 is not enough where the pair's is 5")
    why = "four pixels are joined by an edge of 3: the limit is now 3 + 8 / 4 = 5, whatever the halves were"
    yield grow_case([(1, 0, 1), (1, 2, 3), (3, 1, 2), (5, 3, 4)], 5, 8, why)
    yield grow_case([(1, 0, 1), (1, 2, 3), (3, 1, 2), (5.1, 3, 4)], 5, 8, "one tenth above the same limit of 5")
    ring = [(1, 0, 1), (1, 1, 2), (3, 0, 2), (4.5, 2, 3)]
    why = "the edge of 3 runs inside a region: it joins nothing and is not its heaviest (limit 1 + 9 / 3 = 4)"
    yield grow_case(ring, 4, 9, why)
    chain = [(1, 4, 3), (1, 3, 2), (1, 2, 1), (1, 1, 0)]
    yield grow_case(chain, 5, 12, "a chain, backwards: pixels must follow their region through several mergers")
    yield grow_case([(0, 0, 1), (0, 1, 2), (0.5, 2, 3)], 4, 0, "k = 0: only edges of weight 0 join")
    why = "the pair (limit 4) refuses the edge of 5, and yet the heavier one after it joins two lone pixels"
    yield grow_case([(1, 0, 1), (5, 1, 2), (5.5, 2, 3)], 4, 6, why)
    rng = np.random.default_rng(81)
    for height, width, k in ((2, 3, 20.0), (4, 3, 60.0), (5, 7, 150.0), (9, 8, 400.0)):
        yield grow_case(grid_edges(rng, height, width), height * width, k, "a grid of pixels with random grey values")


@check("8.2")
def similarity() -> Iterator[Case]:
    """Two regions (size, box, colour histogram, texture histogram) and the image's area -> a number from 0 to 4."""
    labels = np.array([[0, 1]])
    yield similarity_case(labels, [[3, 3]], [[1, 1]], 0, 1, "two equal pixels, the whole image: 1 + 1 + 0 + 1")
    yield similarity_case(labels, [[3, 4]], [[1, 2]], 0, 1, "nothing in common but that they fill their box")
    small = np.array([[0, 1, 2, 2], [2, 2, 2, 2]])
    yield similarity_case(small, np.ones((2, 4), int), np.ones((2, 4), int), 0, 1, "small, equal, side by side: 3.75")
    apart = np.array([[0, 2, 2, 1]])
    yield similarity_case(apart, [[3, 3, 3, 3]], [[1, 1, 1, 1]], 0, 1, "a gap of two pixels between them costs fill")
    gap = np.array([[0, 2, 1, 2], [2, 2, 2, 2]])
    why = "one foreign pixel between them: an eighth of the picture, though a third of the box around both"
    yield similarity_case(gap, np.ones((2, 4), int), np.ones((2, 4), int), 0, 1, why)
    uneven = np.array([[0, 1, 1, 1], [2, 2, 2, 2]])
    colour, texture = [[3, 3, 3, 4], [0, 0, 0, 0]], [[1, 1, 2, 2], [0, 0, 0, 0]]
    why = "regions of 1 and 3 pixels: the histograms are compared as shares, not as counts"
    yield similarity_case(uneven, colour, texture, 0, 1, why)
    yield similarity_case(uneven, colour, texture, 1, 0, "the same pair the other way round: the same number")
    diagonal = np.array([[0, 2, 2], [2, 1, 1], [2, 1, 1]])
    flat = np.ones((3, 3), int)
    yield similarity_case(diagonal, flat, flat, 0, 1, "corner to corner: the box around both has 4 pixels of others")
    rng = np.random.default_rng(82)
    for height, width in ((3, 4), (5, 6), (4, 9)):
        labels = rng.integers(0, 3, (height, width))
        labels[0, :3] = 0, 1, 2
        colour, texture = rng.integers(0, 6, (height, width)), rng.integers(0, 4, (height, width))
        yield similarity_case(labels, colour, texture, 0, 2, "regions drawn at random, with three channels")


@check("8.3")
def source_boxes() -> Iterator[Case]:
    """Boxes (N, 4), side, padding -> the rectangles (N, 4) that are spread over the input."""
    for box, side, padding, want, why in (
        ([10, 20, 30, 50], 32, 0, [10, 20, 30, 50], "no padding: the box fills the input"),
        ([10, 20, 30, 50], 40, 10, [0, 5, 40, 65], "the box fills the middle half, so twice as much is seen"),
        ([10, 20, 26, 52], 20, 2, [8, 16, 28, 56], "2 pixels of the input are 2 image pixels across, but 4 down"),
        ([0, 0, 195, 195], 227, 16, [-16, -16, 211, 211], "the paper's sizes: the box keeps its scale"),
        ([1, 2, 4, 10], 12, 3, [-0.5, -2, 5.5, 14], "it may reach outside of the image: nothing is cut off here"),
        ([-4, 2, 4, 10], 16, 4, [-8, -2, 8, 14], "a box that reaches outside itself"),
    ):
        yield source_case([box], side, padding, [want], why)
    yield Case((np.zeros((0, 4)), 32, 2.0), np.zeros((0, 4)), why="no boxes, still four columns")
    whole = np.array([[10, 20, 31, 25], [3, 4, 8, 6]])  # integers, odd sizes: halves must not be rounded
    yield source_case(whole, 32, 3, by_corners(whole, 32, 3), "boxes of whole numbers: halves must not be lost")
    rng = np.random.default_rng(83)
    for num, side, padding in ((2, 32, 2.25), (3, 227, 16), (5, 24, 11.5)):
        corners = rng.uniform(-10, 60, (num, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(2, 50, (num, 2))], axis=1)
        yield source_case(boxes, side, padding, by_corners(boxes, side, padding), "boxes drawn at random")


@check("8.4")
def dual_step() -> Iterator[Case]:
    """w (D,), alpha, x (D,), s, price -> the new w (D,) and the new alpha."""
    for w, alpha, x, s, price, why in (
        ([0.0], 0.0, [2.0], 1, 9.0, "from 0 a quarter is enough: then w.x = 1, on the margin"),
        ([0.0], 0.0, [2.0], -1, 9.0, "a negative example pushes w to the other side"),
        ([0.0], 0.0, [2.0], 1, 0.1, "alpha may not exceed the price, and w moves by what alpha really moved"),
        ([3.0], 0.0, [2.0], 1, 9.0, "beyond its margin with alpha 0: nothing happens"),
        ([3.0], 0.5, [2.0], 1, 9.0, "beyond its margin with alpha 0.5: alpha falls to 0, not below"),
        ([3.0], 2.0, [2.0], 1, 9.0, "beyond its margin with a large alpha: alpha falls, but not as far as 0"),
        ([0.5], 0.25, [2.0], 1, 9.0, "exactly on its margin: this is where it wants to be"),
        ([0.0], 0.5, [2.0], 1, 0.5, "at its price already, and still inside its margin: nothing more can be paid"),
        ([1.0, -2.0], 0.0, [0.5, 1.0], -1, 9.0, "a negative example beyond its margin (-w.x = 1.5)"),
        ([1.0, 2.0], 0.3, [0.5, 1.0], -1, 9.0, "a negative example on the wrong side"),
    ):
        yield step_case(np.array(w), alpha, np.array(x), s, price, why)
    rng = np.random.default_rng(84)
    for features in (2, 3, 5, 8):
        for s in (1, -1):
            w, x = rng.normal(0, 1, features), rng.normal(0, 1.5, features)
            price = float(rng.uniform(0.1, 0.8))
            yield step_case(w, float(rng.uniform(0, price)), x, s, price, "an example drawn at random")


@check("8.5")
def refresh() -> Iterator[Case]:
    """kept, shown: numbers of windows; scores (N,) of all; add_above, evict_below -> the numbers kept then, rising."""
    for kept, shown, scores, want, why in (
        ([], [0], [-0.5], [0], "a hard negative that was not known: added"),
        ([], [0], [-1.5], [], "an easy one: not added"),
        ([0], [], [-1.5], [], "an easy one that was kept: evicted"),
        ([0], [], [0.3], [0], "a hard one that was kept stays, although it is not shown in this round"),
        ([0], [], [-1.125], [0], "between the two thresholds: who is in stays in"),
        ([], [0], [-1.125], [], "between the two thresholds: who is out stays out"),
        ([0], [], [-1.25], [0], "exactly at evict_below: only what is below goes"),
        ([], [0], [-1.0], [], "exactly at add_above: only what is above comes in"),
        ([0], [0], [0.7], [0], "kept and shown again: it must not be there twice"),
        ([0], [0], [-1.125], [0], "kept and shown, between the thresholds: it stays"),
        ([0], [0], [-3.0], [], "kept and shown, and easy: gone"),
        ([], [], [0.5], [], "nothing kept, nothing shown"),
        ([2, 0], [3, 1], [0.1, 0.2, -1.1, 0.4], [0, 1, 2, 3], "rising numbers come back, whatever came in"),
        ([1], [2], [5.0, 0.5, 0.6], [1, 2], "window 0 is hard, but neither kept nor shown: nobody has seen it"),
        ([1], [0, 2], [0.5, -9.0, -9.0], [0], "the hard one comes and the easy one goes, in one round"),
    ):
        yield refresh_case(kept, shown, scores, want, why)
    rng = np.random.default_rng(85)
    for num in (6, 9, 20):
        scores = rng.normal(-1.1, 0.4, num)
        kept, shown = (rng.permutation(num)[: num // 2] for _ in range(2))
        want = [
            n for n in range(num) if (n in kept and not scores[n] < -1.25) or (n in shown and scores[n] > -1.0)
        ]
        yield refresh_case(kept, shown, scores, want, "windows with random scores")


# ------------------------------------------------------------------ cases


def grow_case(edges: list[tuple[float, int, int]], num: int, k: float, why: str) -> Case:
    """The right regions are the library's, of the same edges."""
    weights = np.array([edge[0] for edge in edges], float)
    first, second = (np.array([edge[i] for edge in edges], np.int64) for i in (1, 2))
    graph = PixelGraph(weights.astype(np.float32), first.astype(np.int32), second.astype(np.int32), (1, num))
    want = segment_graph(graph, k, 0)[0]
    return Case((weights, first, second, num, k), accept=same_regions(want), why=why)


def same_regions(want: np.ndarray) -> Callable[[object], str]:
    """The regions may have any numbers, but pixels must be together or apart as in `want` (N,)."""

    def accept(got: object) -> str:
        if got is None:
            return "It returned None: is the `return` missing?"
        got = np.asarray(got)
        if got.shape != want.shape:
            return f"Its shape is {got.shape}; right is {want.shape}: the region of every pixel."
        together, should = got[:, None] == got, want[:, None] == want
        if (together == should).all():
            return ""
        i, j = (int(n) for n in np.argwhere(together != should)[0])
        names = ", ".join(map(str, want.tolist()))
        said = "apart, and belong together" if should[i, j] else "together, and belong apart"
        return f"Pixels {i} and {j} are {said}. Right (the names do not matter): {names}."

    return accept


def grid_edges(rng: np.random.Generator, height: int, width: int) -> list[tuple[float, int, int]]:
    """Neighbours to the right and below, by rising weight; weights are whole numbers, so that some are equal."""
    grey = rng.integers(0, 60, (height, width))
    at = np.arange(height * width).reshape(height, width)
    edges = [
        (float(abs(grey[y, x] - grey[y + dy, x + dx])), int(at[y, x]), int(at[y + dy, x + dx]))
        for y in range(height)
        for x in range(width)
        for dy, dx in ((0, 1), (1, 0))
        if y + dy < height and x + dx < width
    ]
    return sorted(edges, key=lambda edge: edge[0])


def similarity_case(labels: np.ndarray, colour: object, texture: object, m: int, n: int, why: str) -> Case:
    """Right by the slow twin, from pixels; colour, texture: the bin of every pixel (H, W), seen by three channels."""
    colour, texture = (np.stack([(np.array(bins) + c) % 9 for c in range(3)], axis=-1) for bins in (colour, texture))
    pixels = [[tuple(p) for p in np.argwhere(labels == region).tolist()] for region in (m, n)]
    want = slow.similarity(*pixels, colour, texture, labels.size, with_colour=True)
    regions = [described(part, colour, texture) for part in pixels]
    return Case((*regions, labels.size), want, why=why)


def described(pixels: list[tuple[int, int]], colour: np.ndarray, texture: np.ndarray) -> tuple:
    """(size, box, colour, texture) of a region as the lesson has it: histograms are counts, channel by channel."""
    counts = [
        np.concatenate([np.bincount([bins[y, x, c] for y, x in pixels], minlength=num) for c in range(3)])
        for bins, num in ((colour, slow.COLOUR_BINS), (texture, slow.TEXTURE_BINS))
    ]
    return (len(pixels), np.array(slow.bounding_box(pixels)), *counts)


def by_corners(boxes: np.ndarray, side: float, padding: float) -> np.ndarray:
    """One edge after the other: p pixels of the input are p * size / (side - 2 p) pixels of the image."""
    rows = []
    for x1, y1, x2, y2 in np.asarray(boxes, float).tolist():
        dx, dy = (padding * length / (side - 2 * padding) for length in (x2 - x1, y2 - y1))
        rows.append([x1 - dx, y1 - dy, x2 + dx, y2 + dy])
    return np.array(rows)


def source_case(boxes: object, side: float, padding: float, want: object, why: str) -> Case:
    boxes, want = np.array(boxes), np.array(want, float)
    return Case((boxes, side, padding), want, why=why, picture=partial(draw_source, boxes, want))


def draw_source(boxes: np.ndarray, right: np.ndarray, got: np.ndarray) -> Figure:
    figure = new_figure(4.5, 4.5)
    yours = np.nan_to_num(np.asarray(got, float)[0]).clip(-999, 999)
    shown = [boxes[0], right[0], yours]
    canvas = np.full((60, 60, 3), 255, np.uint8)
    colours = ["#56B4E9", "#009E73", "#D55E00"]
    texts = ["box", "right", "yours"]
    axes = plot_boxes(canvas, shown, texts, colours, ax=figure.add_subplot(), title="what the network would see")
    (left, top), (right_end, bottom) = np.min(shown, axis=0)[:2] - 2, np.max(shown, axis=0)[2:] + 2
    axes.set(xlim=(left, right_end), ylim=(bottom, top))
    return figure


def step_case(w: np.ndarray, alpha: float, x: np.ndarray, s: int, price: float, why: str) -> Case:
    """The best alpha without the formula: the dual along alpha is a parabola, and three points say which."""
    tries = np.array([-1.0, 0.0, 1.0])
    dual = [a - sum((w + (a - alpha) * s * x) ** 2) / 2 for a in tries]
    bend, slope, _ = np.polyfit(tries, dual, 2)
    new = float(np.clip(-slope / (2 * bend), 0, price))
    return Case((w, alpha, x, s, price), (w + (new - alpha) * s * x, new), why=why)


def refresh_case(kept: object, shown: object, scores: object, want: list[int], why: str) -> Case:
    kept, shown = np.array(kept, np.int64), np.array(shown, np.int64)
    return Case((kept, shown, np.array(scores, float), -1.0, -1.25), np.array(want, np.int64), why=why)
