"""Checks of lesson 13: who learns in which step, what a cut gradient leaves out, boxes in the graph, recall.

Letters: N anchors, F features of each; H, W: of a map, PH, PW: points of a box; G objects, T thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidetect.autograd import Tensor
from minidetect.checks.case import Case, check, difference
from minidetect.reference import boxes as slow
from minidetect.reference.nn_ops import roi_warp
from minidetect.visualize import new_figure


@check("13.1")
def learns() -> Iterator[Case]:
    """step 1 to 4 -> the step that the trunk comes from (0: pre-training), and whether trunk, RPN, head learn."""
    for step, want, why in (
        (1, (0, True, True, False), "step 1: a proposal network and the convolutions under it, nothing else"),
        (2, (0, True, False, True), "step 2: a detector that knows nothing of step 1 but the boxes it proposed"),
        (3, (2, False, True, False), "step 3: a proposal network on the detector's convolutions, which stay"),
        (4, (2, False, False, True), "step 4: the head alone; the trunk has not changed since step 2"),
    ):
        yield Case((step,), want, why=why)


@check("13.2")
def two_gradients() -> Iterator[Case]:
    """features (N, F), propose, head -> the gradient with the boxes as constants, and what it leaves out."""
    one = np.array([[2.0]])
    row, none = np.ones((1, 4)), np.zeros((1, 4))
    yield gradients_case(one, (row, one), (row, none, 0 * one), "the head sees the boxes only: all is left out")
    yield gradients_case(one, (0 * row, one), (row, none, one), "boxes that do not depend on x: nothing is left out")
    yield gradients_case(one, (row, one), (none, none, one), "the head does not look at its boxes: nothing is left out")
    yield gradients_case(one, (row, 0 * one), (none, row, one), "the head multiplies map and boxes: x has two paths")
    yield gradients_case(one, (row, 3 * one), (row, row, one), "the proposals' own loss goes to x in both trainings")
    rng = np.random.default_rng(132)
    for num, width in ((1, 2), (3, 2), (2, 5)):
        x, weights = rng.normal(size=(num, width)), rng.normal(size=(width, 4))
        own, direct = rng.normal(size=(2, num, width))
        of_boxes = rng.normal(size=(num, 4))
        mixed = rng.normal(size=(width, 4))
        yield gradients_case(x, (weights, own), (of_boxes, mixed, direct), f"{num} rows of {width} features")


@check("13.3")
def decode_in_graph() -> Iterator[Case]:
    """anchors (N, 4), deltas a Tensor (N, 4) -> boxes, a Tensor (N, 4) with a gradient for the deltas."""
    anchor = [10.0, 20, 14, 28]
    gradients = {"x1": [1, 0, 0, 0], "y1": [0, 1, 0, 0], "x2": [0, 0, 1, 0], "y2": [0, 0, 0, 1]}
    for name, gy in gradients.items():
        why = f"a loss that looks at {name} alone"
        yield graph_case([anchor], [[0.25, -0.5, 0.3, -0.2]], [gy], why)
    yield graph_case([anchor], [[0.0, 0, 0, 0]], [[1, 1, 1, 1]], "a shift moves both edges, by a side of the anchor")
    yield graph_case([anchor], [[0.0, 0, 1, 0]], [[-1, 0, 1, 0]], "the wider the box, the more a tw changes it")
    yield graph_case([[0, 0, 8, 4]], [[0.5, 0.25, 0, 0]], [[1, 2, 3, 4]], "anchors of whole numbers", dtype=np.int64)
    rng = np.random.default_rng(133)
    for num in (2, 3, 7):
        corners = rng.uniform(0, 10, (num, 2))
        anchors = np.concatenate([corners, corners + rng.uniform(2, 10, (num, 2))], axis=1)
        yield graph_case(anchors, rng.normal(0, 0.7, (num, 4)), rng.normal(size=(num, 4)), "boxes drawn at random")


@check("13.4")
def bilinear() -> Iterator[Case]:
    """plane (H, W), a place x, y in cells -> value, slope along x, slope along y."""
    ramp = np.array([[0.0, 10, 20], [0, 10, 20]])
    tall = np.array([[1.0], [5], [2]])
    for plane, x, y, why in (
        (ramp, 1.75, 1.2, "a quarter of the way from the centre of column 1, at 1.5, to that of column 2"),
        (ramp.T.copy(), 1.2, 1.75, "the same, lying on its side"),
        (tall, 0.7, 1.25, "one column: no slope along x, and the column after the last must not be asked for"),
        (tall.T.copy(), 1.9, 0.4, "one row"),
        (ramp, 0.2, 0.9, "left of the first centre the map goes on as it ends: no slope along x"),
        (ramp, 2.9, 0.9, "right of the last centre"),
        (tall @ np.array([[1.0, 3]]), 1.1, 0.3, "above the first centre: no slope along y, but along x there is one"),
        (tall @ np.array([[1.0, 3]]), 1.1, 2.9, "below the last centre"),
        (ramp, -4.0, 7.5, "far outside, in both directions"),
        (np.array([[7.0]]), 0.3, 0.6, "one cell: the same everywhere"),
        (np.array([[1, 4], [2, 9]]), 0.8, 1.1, "a map of whole numbers"),
    ):
        yield bilinear_case(plane, x, y, why)
    rng = np.random.default_rng(134)
    for height, width in ((2, 3), (4, 2), (3, 5), (5, 4)):
        x, y = (off_centres(rng.uniform(-0.5, side + 0.5, 1))[0] for side in (width, height))
        yield bilinear_case(rng.normal(size=(height, width)), x, y, f"a map of {height} rows and {width} columns")


@check("13.5")
def corner_gradient() -> Iterator[Case]:
    """plane (H, W), box (4,) in cells, gy (PH, PW) -> the gradient for x1, y1, x2, y2 (4,)."""
    across = np.tile([0.0, 2, 4, 6, 8], (4, 1))  # rises by 2 a column
    box, one = [1.2, 1.1, 3.4, 2.9], [[1.0]]
    yield corner_case(across, box, one, "one point, in the middle: it follows either edge by half")
    yield corner_case(across.T.copy(), [1.1, 1.2, 2.9, 3.4], one, "a map that rises downwards")
    yield corner_case(across, box, [[1.0, 0]], "of two points the left one follows x1 by 3/4 and x2 by 1/4")
    yield corner_case(across, box, [[0.0, 1]], "and the right one the other way round")
    yield corner_case(across.T.copy(), [1.1, 1.2, 2.9, 3.4], [[1.0], [0]], "of two points below each other the upper")
    yield corner_case(across, box, [[3.0, -1, 2]], "three points with gradients of their own")
    yield corner_case(across, [-3.0, 1.1, 9.3, 2.9], [[1.0, 1, 1]], "points beyond the map do not feel an edge move")
    steeper = across**2  # the further right, the steeper
    yield corner_case(steeper, [3.4, 2.9, 1.2, 1.1], [[1.0, 0], [2, 0]], "corners in the wrong order: nothing special")
    yield corner_case(across, box, np.zeros((2, 3)), "no gradient comes, none goes")
    rng = np.random.default_rng(135)
    for (height, width), points in (((4, 6), (1, 2)), ((5, 6), (3, 2)), ((4, 7), (2, 5))):
        plane, gy = rng.normal(size=(height, width)), rng.normal(size=points)
        corners = smooth_box(rng, plane.shape, points)
        yield corner_case(plane, corners, gy, f"{points[0]} x {points[1]} points on a map of {height} x {width}")


@check("13.6")
def recall_curve() -> Iterator[Case]:
    """proposals and objects, one array an image; most; thresholds (T,) -> recall (T,)."""
    gt = np.array([[0.0, 0, 10, 10]])
    half, good = [0.0, 0, 10, 5], [0.0, 0, 10, 8]  # IoU 0.5 and 0.8
    rest, far = [0.0, 5, 10, 10], [50.0, 50, 60, 60]
    for proposals, gt_boxes, most, thresholds, why in (
        ([[half]], [gt], 5, [0.4, 0.5, 0.6], "an overlap of exactly the threshold counts"),
        ([[half, good]], [gt], 5, [0.7], "the best proposal counts, wherever it stands in the list"),
        ([[half, good]], [gt], 1, [0.7], "only the first proposal may be looked at"),
        ([[far, far, good]], [gt], 3, [0.7], "one good proposal is enough: this is not about precision"),
        ([[half], [good]], [gt, gt], 1, [0.7], "`most` is for every image, and so are the proposals"),
        ([[half, rest]], [gt], 5, [0.7], "two halves are no whole: overlaps are not added up"),
        ([[good]], [np.tile(gt, (2, 1))], 5, [0.7], "one proposal may find two objects: nothing is assigned"),
        ([[good], []], [gt, gt], 9, [0.7], "an image without proposals: its object is missed, and counts"),
        ([[good, far], [far]], [gt, np.zeros((0, 4))], 9, [0.7], "an image without objects does not count"),
        ([[far], [good]], [gt, gt], 9, [0.7], "a proposal does not find objects of another image"),
        ([[good], [far]], [gt, np.tile(gt, (3, 1)) + 2], 9, [0.7, 0.3], "objects count the same, not images"),
        ([[good]], [gt], 9, [0.0, 0.9], "at a threshold of 0 everything is found"),
    ):
        yield recall_case(proposals, gt_boxes, most, thresholds, why)
    rng = np.random.default_rng(136)
    for num_images, most in ((2, 2), (3, 4), (4, 8)):
        gt_boxes = [small_boxes(rng, rng.integers(1, 4)) for _ in range(num_images)]
        proposals = [small_boxes(rng, rng.integers(3, 12)) for _ in range(num_images)]
        yield recall_case(proposals, gt_boxes, most, [0.1, 0.25, 0.4, 0.6], f"{num_images} images drawn at random")


class Propose:
    """x (N, F) -> the proposals' own loss, sum(own x²), and boxes (N, 4) = x @ weights."""

    def __init__(self, weights: np.ndarray, own: np.ndarray) -> None:
        self.weights, self.own = weights, own

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x * x * self.own).sum(), x @ self.weights

    def __repr__(self) -> str:
        return f"x -> sum(u x x), x @ W; W = {self.weights.tolist()}, u = {self.own.tolist()}"


class Head:
    """x (N, F), boxes b (N, 4) -> sum(of_boxes b² + (x @ mixed) b) + sum(direct x)."""

    def __init__(self, of_boxes: np.ndarray, mixed: np.ndarray, direct: np.ndarray) -> None:
        self.of_boxes, self.mixed, self.direct = of_boxes, mixed, direct

    def __call__(self, x: Tensor, boxes: Tensor) -> Tensor:
        return (boxes * boxes * self.of_boxes + (x @ self.mixed) * boxes).sum() + (x * self.direct).sum()

    def __repr__(self) -> str:
        q, m, v = (part.tolist() for part in (self.of_boxes, self.mixed, self.direct))
        return f"x, b -> sum(q b b + (x @ M) b) + sum(v x); q = {q}, M = {m}, v = {v}"


def gradients_case(
    x: np.ndarray, proposal: tuple[np.ndarray, ...], detection: tuple[np.ndarray, ...], why: str
) -> Case:
    """The right answer written out: what the loss says of x itself, and what it says of the boxes times weights."""
    propose, head = Propose(*proposal), Head(*detection)
    boxes = x @ propose.weights
    approximate = 2 * propose.own * x + boxes @ head.mixed.T + head.direct
    left_out = (2 * head.of_boxes * boxes + x @ head.mixed) @ propose.weights.T
    return Case((x, propose, head), (approximate, left_out), why=why)


def graph_case(
    anchors: list | np.ndarray, deltas: list | np.ndarray, gy: list | np.ndarray, why: str, dtype: type = np.float64
) -> Case:
    anchors, deltas, gy = np.array(anchors, dtype), np.array(deltas, float), np.array(gy, float)
    leaf = Tensor(deltas.copy(), requires_grad=True)
    return Case((anchors, leaf), accept=right_in_graph(anchors, deltas, gy, leaf), why=why)


def right_in_graph(
    anchors: np.ndarray, deltas: np.ndarray, gy: np.ndarray, leaf: Tensor
) -> Callable[[Any], str]:
    """The boxes by the slow decode; the gradient by finite differences of it."""

    def decoded(values: np.ndarray) -> np.ndarray:
        return np.array([slow.decode(*pair) for pair in zip(anchors.tolist(), values, strict=True)]).reshape(-1, 4)

    def accept(got: Any) -> str:
        if not isinstance(got, Tensor):
            return f"It should return a Tensor, not {type(got).__name__}."
        if text := difference(got.data, decoded(deltas)):
            return f"The boxes: {text}"
        if not np.array_equal(leaf.data, deltas):
            return "It changed `deltas`."
        if not got.requires_grad:
            return "No gradient can get from these boxes to the deltas: they were computed outside the graph."
        leaf.grad = None
        got.backward(gy)
        want = slopes(lambda values: (decoded(values) * gy).sum(), deltas)
        if leaf.grad is None:
            return "No gradient arrives at the deltas."
        text = difference(leaf.grad, want, rtol=1e-4, atol=1e-5)
        return text and f"The gradient of sum(gy * boxes) for gy = {gy.tolist()}: {text}"

    return accept


def slopes(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences by every element of `at`."""
    found = np.zeros(at.shape)
    for index in np.ndindex(at.shape):
        moved = np.zeros(at.shape)
        moved[index] = step
        found[index] = (function(at + moved) - function(at - moved)) / (2 * step)
    return found


def bilinear_case(plane: np.ndarray, x: float, y: float, why: str) -> Case:
    """A box of one point, of no size: what the slow RoI warping reads there."""

    def value(place: np.ndarray) -> float:
        box = np.concatenate([place, place])[None]
        return roi_warp(plane[None, None].astype(float), box, np.zeros(1, int), (1, 1))[0, 0, 0, 0]

    place = np.array([x, y])
    along_x, along_y = slopes(value, place)
    picture = partial(draw_place, plane, x, y)
    return Case((plane, x, y), (value(place), along_x, along_y), why=why, picture=picture, rtol=1e-4, atol=1e-6)


def corner_case(plane: np.ndarray, box: list | np.ndarray, gy: list | np.ndarray, why: str) -> Case:
    box, gy = np.array(box, float), np.array(gy, float)

    def loss(corners: np.ndarray) -> float:
        return (roi_warp(plane[None, None], corners[None], np.zeros(1, int), gy.shape)[0, 0] * gy).sum()

    picture = partial(draw_corners, plane, box)
    return Case((plane, box, gy), slopes(loss, box), why=why, picture=picture, rtol=1e-4, atol=1e-6)


def recall_case(
    proposals: list, gt_boxes: list[np.ndarray], most: int, thresholds: list[float], why: str
) -> Case:
    """Object by object, proposal by proposal."""
    proposals = [np.array(boxes, float).reshape(-1, 4) for boxes in proposals]
    best = [
        max((slow.iou(box, gt) for box in boxes[:most]), default=0.0)
        for boxes, objects in zip(proposals, gt_boxes, strict=True)
        for gt in objects
    ]
    want = np.array([sum(overlap >= t for overlap in best) / len(best) for t in thresholds])
    return Case((proposals, gt_boxes, most, np.array(thresholds)), want, why=why)


def off_centres(places: np.ndarray) -> np.ndarray:
    """Moved away from the centres of cells, where the slope jumps."""
    return np.where(np.abs((places - 0.5) - np.round(places - 0.5)) < 0.02, places + 0.05, places)


def smooth_box(rng: np.random.Generator, shape: tuple[int, int], points: tuple[int, int]) -> np.ndarray:
    """A box (4,) none of whose points lies at the centre of a cell."""
    while True:
        corners = rng.uniform(-0.5, 0.4, 2) * shape[::-1] + 0.5
        box = np.concatenate([corners, corners + rng.uniform(0.4, 1.0, 2) * shape[::-1]])
        across = box[0] + (np.arange(points[1]) + 0.5) / points[1] * (box[2] - box[0])
        down = box[1] + (np.arange(points[0]) + 0.5) / points[0] * (box[3] - box[1])
        if all(np.array_equal(off_centres(places), places) for places in (across, down)):
            return box


def small_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, 4): corners on halves within 0 to 12, at least 1 wide and high, so that many overlap."""
    corners = rng.integers(0, 12, (num, 2)) / 2
    return np.concatenate([corners, corners + rng.integers(2, 12, (num, 2)) / 2], axis=1)


def draw_map(plane: np.ndarray, title: str) -> tuple[Figure, Any]:
    figure = new_figure(4, 3.5)
    axes = figure.add_subplot()
    height, width = plane.shape
    axes.imshow(plane, cmap="gray", extent=(0, width, height, 0))
    axes.set_title(title, fontsize=9)
    return figure, axes


def draw_place(plane: np.ndarray, x: float, y: float, got: Any) -> Figure:
    value, along_x, along_y = (float(v) for v in got)
    figure, axes = draw_map(plane, f"yours: {value:.3g}, slopes {along_x:.3g} and {along_y:.3g}")
    axes.plot([x], [y], "o", color="#D55E00")
    return figure


def draw_corners(plane: np.ndarray, box: np.ndarray, got: Any) -> Figure:
    figure, axes = draw_map(plane, f"yours: {np.round(np.asarray(got, float), 3).tolist()}")
    x1, y1, x2, y2 = box
    axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="#D55E00")
    return figure
