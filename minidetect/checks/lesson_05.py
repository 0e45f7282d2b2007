"""Checks of lesson 05: overlap, suppression, the score map's maxima, an ellipse against a box.

Letters: N boxes; H, W: a score map's height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from minidetect.checks.case import Case, check
from minidetect.reference import boxes as slow
from minidetect.reference.evaluation import ellipse_box_iou
from minidetect.visualize import new_figure, plot_boxes


@check("5.1")
def iou() -> Iterator[Case]:
    """One number from two boxes."""
    square = np.array([0.0, 0.0, 2.0, 2.0])
    for other, why in (
        ([1, 1, 3, 3], "a corner of area 1 is shared, 7 are covered"),
        ([0, 0, 2, 2], "the same box twice"),
        ([0, 0, 4, 1], "neither box is square"),
        ([0.5, 0.5, 1.5, 1.5], "one box lies in the other"),
        ([2, 0, 4, 2], "the boxes touch along a line, which has no area"),
        ([5, 5, 6, 6], "far apart: two negative lengths must not make a positive area"),
        ([5, 0, 6, 2], "apart in x only"),
        ([0, 3, 2, 9], "apart in y only"),
    ):
        yield overlap_case(square, np.array(other, float), why)
    rng = np.random.default_rng(5)
    for a, b in random_boxes(rng, 40).reshape(20, 2, 4):
        yield overlap_case(a, b, "two boxes drawn at random")


@check("5.2")
def nms() -> Iterator[Case]:
    """The indices that greedy suppression keeps, the best first."""
    pair = np.array([[0.0, 0, 4, 4], [0, 0, 4, 3]])  # IoU 0.75
    yield nms_case(pair, [0.9, 0.8], 0.5, "the second box overlaps the first by 0.75")
    yield nms_case(pair, [0.8, 0.9], 0.5, "the best box comes last in the list")
    yield nms_case(pair, [0.8, 0.9], 0.75, "an overlap of exactly the threshold is allowed")
    yield nms_case(pair, [0.5, 0.5], 0.3, "of equal scores the first box in the list wins")
    yield nms_case(np.zeros((0, 4)), [], 0.5, "an image without any box")
    chain = np.array([[0.0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4]])  # neighbours 0.6, ends 0.33
    yield nms_case(chain, [0.9, 0.8, 0.7], 0.5, "the middle box is struck out, and what is struck out strikes nobody")
    yield nms_case(pair, [-3.0, -1.0], 0.5, "scores may be negative, as they are before a network's sigmoid")
    heaps = np.concatenate([pair, pair + [5, 5, 5, 5]])
    yield nms_case(heaps, [0.9, 0.8, 0.7, 0.6], 0.5, "two heaps: the second one's best box strikes out, too")
    rng = np.random.default_rng(52)
    for num, threshold in ((3, 0.1), (4, 0.4), (6, 0.3), (10, 0.15), (20, 0.25), (30, 0.5)):
        scores = rng.integers(1, 6, num) / 5  # with ties
        yield nms_case(random_boxes(rng, num), scores, threshold, "boxes drawn at random")


@check("5.3")
def suppression_mask() -> Iterator[Case]:
    """Who may strike out whom: boxes sorted by score, (N, 4) -> (N, N) bools."""
    pair = np.array([[0.0, 0, 4, 4], [0, 0, 4, 3]])
    yield mask_case(pair, 0.5, "only the better box may strike out the other, and nobody itself")
    yield mask_case(pair, 0.75, "an overlap of exactly the threshold is allowed")
    yield mask_case(np.zeros((0, 4)), 0.5, "no boxes: a mask of shape (0, 0)")
    chain = np.array([[0.0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4]])  # neighbours 0.6, ends 0.33
    yield mask_case(chain, 0.5, "box 0 strikes out box 1, but that is for the walk to find out: row 1 is filled in")
    rng = np.random.default_rng(53)
    for num in (3, 5, 12):
        yield mask_case(random_boxes(rng, num), 0.2, "boxes drawn at random")


@check("5.4")
def block_maxima() -> Iterator[Case]:
    """A score map with everything but each k x k block's highest point set to zero."""
    yield map_case([[0.2, 0.7], [0.1, 0.3]], 2, "one block")
    yield map_case([[0.4, 0.4], [0.4, 0.1]], 2, "of equal scores the first in reading order stays, alone")
    yield map_case([[0.1, 0.9, 0.5]], 2, "the last block is cut off by the border; its maximum counts all the same")
    yield map_case([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6]], 1, "blocks of one point change nothing")
    rng = np.random.default_rng(54)
    for height, width, k in ((4, 4, 2), (5, 7, 2), (7, 8, 3)):
        yield map_case(rng.integers(1, 10, (height, width)) / 10, k, "scores drawn at random")


@check("5.5")
def ellipse_iou() -> Iterator[Case]:
    """An upright ellipse (cx, cy, half width, half height) against a box, both within (0, 0, 10, 10)."""
    drawn, against = (5, 4, 3, 1.5), (1, 3, 4.5, 6.25)  # no short formula: counted
    cx, cy, half_width, half_height = drawn
    counted = ellipse_box_iou((half_width, half_height, 0.0, cx, cy), against, size=(10, 10), samples=8)
    for ellipse, box, want, why in (
        ((4, 4, 2, 2), (2, 2, 6, 6), np.pi / 4, "a circle in its own box: pi / 4 of it"),
        ((4, 5, 2, 3), (2, 2, 6, 8), np.pi / 4, "an upright ellipse in its own box: again pi / 4"),
        ((4, 4, 2, 2), (4, 2, 6, 6), 2 * np.pi / (2 * np.pi + 8), "the box has half of the circle in it"),
        ((4, 4, 3, 3), (3, 3, 5, 5), 4 / (9 * np.pi), "the box lies inside of the circle"),
        ((2, 2, 1, 1), (6, 6, 8, 8), 0.0, "far apart"),
        (drawn, against, counted, "an overlap as they come"),
    ):
        given = (np.array(ellipse, float), np.array(box, float))
        yield Case(given, want, why=why, atol=0.02, rtol=0, picture=partial(draw_ellipse, *given))


def random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, 4): corners on halves within 0 to 8, at least a half wide and high, so that many overlap."""
    corners = rng.integers(0, 12, (num, 2)) / 2
    return np.concatenate([corners, corners + rng.integers(1, 9, (num, 2)) / 2], axis=1)


def overlap_case(a: np.ndarray, b: np.ndarray, why: str) -> Case:
    return Case((a, b), slow.iou(a, b), why=why, picture=partial(draw_overlap, a, b))


def nms_case(boxes: np.ndarray, scores: list | np.ndarray, threshold: float, why: str) -> Case:
    scores = np.asarray(scores, float)
    kept = slow.nms(boxes, scores, threshold)
    return Case((boxes, scores, threshold), kept, why=why, picture=partial(draw_kept, boxes, scores, kept))


def mask_case(boxes: np.ndarray, threshold: float, why: str) -> Case:
    num = len(boxes)
    want = [[j > i and slow.iou(boxes[i], boxes[j]) > threshold for j in range(num)] for i in range(num)]
    return Case((boxes, threshold), np.array(want, bool).reshape(num, num), why=why)


def map_case(scores: list | np.ndarray, k: int, why: str) -> Case:
    scores = np.array(scores, float)
    return Case((scores, k), slow.response_map_pool(scores, k), why=why)


def draw_overlap(a: np.ndarray, b: np.ndarray, got: float) -> Figure:
    figure = new_figure(3.5, 3.5)
    canvas = np.full((10, 10, 3), 255, np.uint8)
    plot_boxes(canvas, [a, b], colours=["#0072B2", "#D55E00"], ax=figure.add_subplot(), title=f"your IoU: {got:.3f}")
    return figure


def draw_kept(boxes: np.ndarray, scores: np.ndarray, right: list[int], got: list[int]) -> Figure:
    figure = new_figure(7, 3.5)
    canvas = np.full((10, 10, 3), 255, np.uint8)
    for i, (title, kept) in enumerate((("yours", got), ("right", right))):
        kept = [int(k) for k in kept]
        texts = [f"{scores[k]:.1f}" for k in kept]
        plot_boxes(canvas, boxes[kept], texts, ax=figure.add_subplot(1, 2, i + 1), title=f"{title}: {kept}")
    return figure


def draw_ellipse(ellipse: np.ndarray, box: np.ndarray, got: float) -> Figure:
    figure = new_figure(3.5, 3.5)
    axes = plot_boxes(np.full((10, 10, 3), 255, np.uint8), [box], ax=figure.add_subplot(), title=f"yours: {got:.3f}")
    cx, cy, half_width, half_height = ellipse
    axes.add_patch(Ellipse((cx, cy), 2 * half_width, 2 * half_height, fill=False))
    return figure
