"""Checks of lesson 00: the size of a box, planes of colour, a square around the nose, the mirror image.

Letters: N boxes or faces; H, W: a picture's height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check
from minidetect.data.transforms import flip_boxes, flip_landmarks
from minidetect.detection.boxes import landmarks_to_square
from minidetect.visualize import COLOURS, new_figure, plot_boxes

# left eye, right eye, nose, left mouth corner, right mouth corner of a face that looks at you
FRONTAL = np.array([[3.0, 4.0], [7.0, 4.0], [5.0, 6.5], [3.5, 9.0], [6.5, 9.0]])


@check("0.1")
def box_size() -> Iterator[Case]:
    """(width, height) of one box."""
    for box, want, why in (
        ([0, 0, 3, 1], (3.0, 1.0), "columns 0, 1 and 2 of row 0: three pixels wide, one high"),
        ([2, 5, 4, 9], (2.0, 4.0), "a box that does not begin at the corner of the picture"),
        ([1.5, 2.0, 4.0, 2.25], (2.5, 0.25), "edges may lie inside a pixel"),
        ([-2, 1, 6, 4], (8.0, 3.0), "a box may stick out of the picture"),
    ):
        yield Case((np.array(box, float),), want, why=why)


@check("0.2")
def to_planes() -> Iterator[Case]:
    """(H, W, 3) uint8 -> (3, H, W) floats, less the mean colour, over 128."""
    one = np.array([[[10, 100, 250]]], np.uint8)
    yield planes_case(one, [20, 80, 200], "one pixel; darker than the mean must come out below zero")
    yield planes_case(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), [0, 0, 0], "two pixels: plane 0 holds both reds")
    rng = np.random.default_rng(2)
    for height, width, why in (
        (2, 4, "more columns than rows"),
        (5, 2, "more rows than columns"),
        (2, 3, "three columns: the mean belongs to the colours, not to the columns"),
        (3, 5, "three rows, five columns"),
        (7, 6, "colours drawn at random"),
    ):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield planes_case(image, rng.uniform(60, 190, 3).round(), why)
    yield planes_case(one, [20.25, 80.5, 200.75], "a mean colour is no whole number")


@check("0.3")
def face_square() -> Iterator[Case]:
    """Five landmarks (5, 2), some missing -> a square box with the nose in its middle."""
    yield square_case(FRONTAL, "a face that looks at you")
    yield square_case(FRONTAL + [20, -3], "the same face elsewhere: the square moves with it")
    yield square_case(2.5 * FRONTAL, "the same face two and a half times as large: so is its square")
    turned = FRONTAL + np.array([[1.0, 0], [0.5, 0], [2.5, 0], [1, 0], [0.5, 0]])
    yield square_case(turned, "a face that looks to the right: the nose, not the mean of the points, is the centre")
    for missing in ([1], [0, 3], [0, 1, 4]):
        yield square_case(without(FRONTAL, missing), "missing points are NaN, and are left out of the mean")
    rng = np.random.default_rng(3)
    for _ in range(5):
        points = FRONTAL * rng.uniform(1, 5) + rng.normal(0, 0.5, (5, 2)) + rng.uniform(0, 50, 2)
        yield square_case(points, "a face drawn at random")


@check("0.4")
def flip() -> Iterator[Case]:
    """Image (H, W, 3), boxes (N, 4), landmarks (N, 5, 2) -> the same of the mirror image."""
    rng = np.random.default_rng(4)
    box, small = np.array([[0.5, 0.5, 2, 3]]), FRONTAL / 4
    one = "one face: what was its right edge is now its left one, what was its right eye its left one"
    yield flip_case(rng, (3, 4), box, small[None], one)
    lone = without(small, [0])[None]
    yield flip_case(rng, (4, 3), box, lone, "the left eye is missing; in the mirror it is the right one that is")
    yield flip_case(rng, (2, 3), np.zeros((0, 4)), np.zeros((0, 5, 2)), "a picture without a face")
    for height, width, num in ((6, 11, 2), (12, 8, 3)):
        corners = rng.uniform(0, 4, (num, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(1, 4, (num, 2))], axis=1)
        points = FRONTAL + rng.normal(0, 1, (num, 5, 2))
        yield flip_case(rng, (height, width), boxes, points, "several faces, drawn at random")


def planes_case(image: np.ndarray, mean: list | np.ndarray, why: str) -> Case:
    mean = np.asarray(mean, float)
    want = np.stack([(image[:, :, c] / 1.0 - mean[c]) / 128 for c in range(3)])  # one plane after the other
    return Case((image, mean), want, why=why)


def without(points: np.ndarray, missing: list[int]) -> np.ndarray:
    points = points.copy()
    points[missing] = np.nan
    return points


def square_case(points: np.ndarray, why: str) -> Case:
    want = landmarks_to_square(points[None])[0]
    return Case((points.copy(),), want, why=why, picture=partial(draw_square, points, want))


def flip_case(
    rng: np.random.Generator, size: tuple[int, int], boxes: np.ndarray, landmarks: np.ndarray, why: str
) -> Case:
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    want = (image[:, ::-1].copy(), flip_boxes(boxes, size[1]), flip_landmarks(landmarks, size[1]))
    return Case((image, boxes.copy(), landmarks.copy()), want, why=why, picture=partial(draw_flip, want))


def draw_flip(right: tuple, got: tuple) -> Figure:
    figure = new_figure(6, 3.5)
    for axes, part, title in zip(figure.subplots(1, 2), (got, right), ("yours", "right"), strict=True):
        image, boxes, landmarks = map(np.asarray, part)
        plot_boxes(image, boxes, colours=COLOURS[6], ax=axes, title=title)
        for k, name in enumerate(("left eye", "right eye", "nose", "left corner", "right corner")):
            axes.plot(*landmarks[:, k].T, "o", color=COLOURS[k + 1], markeredgecolor="black", label=name)
    axes.legend(fontsize=6, bbox_to_anchor=(1, 1))
    return figure


def draw_square(points: np.ndarray, right: np.ndarray, got: np.ndarray) -> Figure:
    figure = new_figure(3.5, 3.5)
    low = np.minimum(right[:2], np.nanmin(points, axis=0)) - 3
    side = np.ceil((right[2:] - low).max()) + 3
    paper = np.full((int(side), int(side), 3), 255, np.uint8)
    both = [right - np.tile(low, 2), np.asarray(got, float) - np.tile(low, 2)]
    colours = ["#009E73", "#D55E00"]
    axes = plot_boxes(paper, both, colours=colours, ax=figure.add_subplot(), title="green: right, red: yours")
    axes.plot(*(points - low).T, "k.")
    return figure
