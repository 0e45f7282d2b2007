"""Checks of lesson 16: sample types, landmarks in patches and mirrored, masked gradients, the hardest, nested boxes.

Letters: N samples or boxes, G faces of a picture, D outputs of a task.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.autograd import Tensor
from minidetect.checks.case import Case, check
from minidetect.data.transforms import flip_landmarks
from minidetect.detection.hard_examples import hardest_rows
from minidetect.detection.losses import smooth_l1
from minidetect.ops.threshold import take_rows
from minidetect.reference import boxes as reference
from minidetect.visualize import COLOURS, new_figure, plot_boxes

UNUSED = 9


@check("16.1")
def sample_types() -> Iterator[Case]:
    """iou (N, G) with the faces, ignored (N,) -> 1 positive, 0 negative, -1 part, 9 not used."""
    for iou, ignored, want, why in (
        ([[0.8], [0.5], [0.1]], [0, 0, 0], [1, -1, 0], "one face: a positive, a part, a negative"),
        ([[0.1, 0.8], [0.8, 0.1]], [0, 0], [1, 1], "of two faces the one that overlaps more counts, whichever it is"),
        ([[0.7], [0.3]], [0, 0], [-1, -1], "exactly 0.7 is not above 0.7, and exactly 0.3 not below 0.3: both parts"),
        ([[0.4, 0.4], [0.2, 0.2]], [0, 0], [-1, 0], "overlaps with two faces do not add up"),
        ([[0.1], [0.1]], [0, 1], [0, UNUSED], "a negative in an ignore region is not used: nobody knows what it shows"),
        ([[0.8], [0.5]], [1, 1], [1, -1], "an ignore region takes negatives only: these overlap a face that is known"),
        ([[0.0]], [0], [0], "no overlap at all"),
    ):
        yield Case((np.array(iou), np.array(ignored, bool)), np.array(want), why=why)
    none = np.zeros((3, 0))
    want = np.array([0, UNUSED, 0])
    yield Case((none, np.array([0, 1, 0], bool)), want, why="a picture without a face, iou of shape (3, 0)")
    yield Case((np.zeros((0, 2)), np.zeros(0, bool)), np.zeros(0), why="no square, iou of shape (0, 2)")
    rng = np.random.default_rng(161)
    for shape in ((9, 2), (14, 3), (40, 5)):
        iou, ignored = rng.integers(0, 11, shape) / 10, rng.random(shape[0]) < 0.4
        want = np.array([type_of(list(row), hidden) for row, hidden in zip(iou, ignored, strict=True)])
        yield Case((iou, ignored), want, why=f"{shape[0]} squares and {shape[1]} faces, with values at the boundaries")


@check("16.2")
def patch_points() -> Iterator[Case]:
    """points (N, 5, 2) in pixels of the picture, squares (N, 4) -> (N, 10), in sides of the square."""
    face = np.array([[[12.0, 25.0], [18.0, 24.0], [15.0, 28.0], [13.0, 30.0], [17.0, 29.0]]])
    want = np.array([[0.2, 0.5, 0.8, 0.4, 0.5, 0.8, 0.3, 1.0, 0.7, 0.9]])
    yield Case((face, np.array([[10.0, 20.0, 20.0, 30.0]])), want, why="a square of 10 pixels whose corner is (10, 20)")
    want = np.array([[0.6, 0.75, 0.9, 0.7, 0.75, 0.9, 0.65, 1.0, 0.85, 0.95]])
    yield Case((face, np.array([[0.0, 10.0, 20.0, 30.0]])), want, why="the same face in a square of 20 pixels")
    want = np.array([[0.4, 0, 1.6, -0.2, 1.0, 0.6, 0.6, 1.0, 1.4, 0.8]])
    yield Case((face, np.array([[10.0, 25.0, 15.0, 30.0]])), want, why="points outside of the square: they are not cut")
    yield Case((np.zeros((0, 5, 2)), np.zeros((0, 4))), np.zeros((0, 10)), why="no face: shape (0, 10)")
    rng = np.random.default_rng(162)
    for count in (2, 7):
        corner, side = rng.uniform(-20, 90, (count, 2)).round(1), rng.uniform(12, 60, count).round(1)
        squares = np.concatenate([corner, corner + side[:, None]], axis=1)
        points = rng.uniform(0, 100, (count, 5, 2)).round(1)
        want = [[(points[n, k, a] - corner[n, a]) / side[n] for k in range(5) for a in (0, 1)] for n in range(count)]
        yield Case((points, squares), np.array(want), why=f"{count} faces, each with its own square")


@check("16.3")
def mirror_points() -> Iterator[Case]:
    """points (N, 10) in sides of the patch, mirrored (N,) -> (N, 10), of the patches as they are now."""
    one = np.array([[0.2, 0.4, 0.7, 0.3, 0.4, 0.6, 0.3, 0.9, 0.6, 0.8]])
    swapped = np.array([[0.3, 0.3, 0.8, 0.4, 0.6, 0.6, 0.4, 0.8, 0.7, 0.9]])
    yield mirror_case(one, [1], swapped, "the left eye at x = 0.2 becomes the right eye at 0.8; no y changes its value")
    yield mirror_case(one, [0], one, "not mirrored")
    yield mirror_case(np.concatenate([one, one]), [0, 1], np.concatenate([one, swapped]), "only the second is mirrored")
    nothing = np.full((1, 10), np.nan)
    given = np.concatenate([nothing, one])
    yield mirror_case(given, [1, 1], np.concatenate([nothing, swapped]), "a sample without points: NaN, and stays NaN")
    lying = np.array([[0.6, 0.3, 0.5, 0.7, 0.3, 0.5, 0.3, 0.2, 0.1, 0.8]])
    want = np.array([[0.5, 0.7, 0.4, 0.3, 0.7, 0.5, 0.9, 0.8, 0.7, 0.2]])
    why = "a head on its side, its left eye at the larger x: names change hands in the mirror, whatever x says"
    yield mirror_case(lying, [1], want, why)
    yield mirror_case(np.zeros((0, 10)), [], np.zeros((0, 10)), "no sample")
    rng = np.random.default_rng(163)
    for count in (5, 8):
        points, mirrored = rng.uniform(-0.1, 1.1, (count, 10)).round(2), rng.random(count) < 0.5
        both = flip_landmarks(points.reshape(-1, 5, 2), 1.0).reshape(-1, 10)
        want = np.where(mirrored[:, None], both, points)
        yield mirror_case(points, mirrored, want, f"{count} samples, some mirrored")


@check("16.4")
def masked_gradient() -> Iterator[Case]:
    """gradients (N, D) of each sample's own loss, types (N,), the types that teach -> of the mean over those."""
    nan = np.nan
    for gradients, types, teaches, want, why in (
        ([[2.0], [4.0], [8.0]], [1, 0, -1], (1, 0), [[1.0], [2.0], [0.0]], "two of three teach: each counts a half"),
        ([[2.0], [4.0], [6.0]], [1, -1, -2], (1, -1), [[1.0], [2.0], [0.0]], "positives and parts teach the box"),
        ([[2.0], [nan], [6.0]], [-2, 1, -2], (-2,), [[1.0], [0.0], [3.0]], "a sample without a target: exactly 0"),
        ([[5.0, 3.0], [nan, nan]], [0, 0], (-2,), [[0.0, 0.0], [0.0, 0.0]], "nobody teaches: zeros, not 0 / 0"),
        ([[np.inf], [4.0]], [-1, 0], (1, 0), [[0.0], [4.0]], "whatever stood there, an infinity too: exactly 0"),
        ([[5.0, 3.0]], [1], (1, 0), [[5.0, 3.0]], "one sample"),
        ([[5.0], [nan]], [1, 1], (1, 0), [[5.0 / 2], [nan]], "a NaN of a sample that teaches must show"),
    ):
        yield Case((np.array(gradients), np.array(types), teaches), np.array(want), why=why)
    empty = np.zeros((0, 4))
    yield Case((empty, np.zeros(0, np.int64), (1, -1)), empty, why="an empty batch: shape (0, 4)")
    rng = np.random.default_rng(164)
    for count, outputs, teaches in ((7, 4, (1, -1)), (9, 10, (-2,)), (12, 3, (1, 0))):
        yield gradient_case(rng.normal(size=(count, outputs)), rng.choice([1, 0, -1, -2], count), teaches)


@check("16.5")
def hardest() -> Iterator[Case]:
    """losses (N,), keep -> the rows of the largest losses, ascending."""
    for losses, keep, want, why in (
        ([0.1, 0.9, 0.5, 0.7], 0.5, [1, 3], "two of four"),
        ([0.7, 0.1, 0.9], 0.67, [0, 2], "in the order of the batch, not of the losses"),
        ([0.2, 0.4, 0.1, 0.5, 0.3], 0.7, [0, 1, 3, 4], "0.7 of 5 is 3.5: a half is rounded up, four remain"),
        ([0.2, 0.4, 0.1, 0.5, 0.3], 0.5, [1, 3, 4], "0.5 of 5 is 2.5: three remain (Python's round says 2)"),
        ([0.2, 0.4, 0.1, 0.5, 0.3, 0.6, 0.8], 0.75, [1, 3, 4, 5, 6], "0.75 of 7 is 5.25: five remain"),
        ([0.5, 0.5, 0.5, 0.5], 0.5, [0, 1], "of equal losses the earlier go first, and no more than two of them"),
        ([0.3, 0.8, 0.3, 0.3], 0.5, [0, 1], "one place is left for three equal losses"),
        ([0.4, 0.2, 0.3], 0.1, [0], "0.1 of 3 rounds to 0, but a task with samples keeps one"),
        ([0.4], 0.7, [0], "one sample"),
        ([0.0, 0.0], 0.7, [0], "losses of 0; 1.4 rounds to 1"),
        ([0.1, 0.3, 0.2], 1.0, [0, 1, 2], "keep everything"),
    ):
        yield Case((np.array(losses, float), keep), np.array(want), why=why)
    yield Case((np.zeros(0), 0.7), accept=no_rows, why="no sample: no row")
    rng = np.random.default_rng(165)
    for count, keep in ((10, 0.7), (13, 0.4), (24, 0.25)):
        losses = rng.integers(0, 8, count) / 8
        yield Case((losses, keep), hardest_rows(losses, keep), why=f"{keep:g} of {count} losses, with ties")


@check("16.6")
def nms_by_smaller() -> Iterator[Case]:
    """boxes (N, 4), scores (N,), threshold of the intersection over the smaller area -> rows kept, best first."""
    large, inside, beside = [0.0, 0.0, 10.0, 10.0], [2.0, 3.0, 6.0, 7.0], [12.0, 0.0, 20.0, 8.0]
    wide, leaning, away = [5.0, 0.0, 17.0, 10.0], [7.0, 0.0, 17.0, 10.0], [16.0, 12.0, 22.0, 17.0]
    for boxes, scores, threshold, why in (
        ([large, inside], [0.9, 0.8], 0.7, "a small box inside a large, better one: 16 of its 16 pixels are shared"),
        ([large, inside], [0.8, 0.9], 0.7, "the small one is the better: now the large one is dropped"),
        ([large, beside], [0.8, 0.9], 0.7, "nothing in common: both stay, the better one first"),
        ([large, leaning], [0.9, 0.8], 0.3, "they share 30 of 100 pixels: exactly the threshold, which survives"),
        ([large, wide], [0.8, 0.9], 0.45, "50 shared pixels of 120 and 100: 50 of the smaller"),
        ([large, wide], [0.9, 0.8], 0.45, "50 of 100, although the worse box has 120"),
        ([large, large], [0.5, 0.5], 0.7, "the same box twice with one score: the earlier stays"),
        ([inside, large, beside], [0.7, 0.8, 0.9], 0.7, "the order of the answer is that of the scores"),
        ([inside, away], [0.9, 0.8], 0.5, "apart in x and in y: two negative sides do not make an area"),
    ):
        yield nms_case(np.array(boxes), np.array(scores), threshold, why)
    chain = np.array([[0.0, 0, 10, 10], [4.0, 0, 14, 10], [8.0, 0, 18, 10]])
    why = "the middle one is dropped by the best, so it drops nobody: the last survives"
    yield nms_case(chain, np.array([0.9, 0.8, 0.7]), 0.5, why)
    yield Case((np.zeros((0, 4)), np.zeros(0), 0.5), accept=no_rows, why="no box: no row")
    rng = np.random.default_rng(166)
    for count in (6, 12, 25):
        corner, sides = rng.integers(0, 20, (count, 2)), rng.integers(4, 16, (count, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(float)
        yield nms_case(boxes, rng.integers(1, 10, count) / 10, 0.5, f"{count} boxes with ties")


def no_rows(got: object) -> str:
    """An empty index: np.array([]) holds floats, and an array indexed with it raises."""
    if isinstance(got, (list, tuple)) and len(got) == 0:
        return ""
    rows = np.asarray(got)
    if rows.shape != (0,):
        return f"Its shape is {rows.shape}; right is (0,)."
    if rows.dtype.kind not in "iu":
        return f"It is empty, as it should be, but of dtype {rows.dtype}: no index. np.zeros(0, int) would be one."
    return ""


def type_of(overlaps: list[float], ignored: bool) -> int:
    """One square's type, in words."""
    best = max(overlaps, default=0.0)
    if best > 0.7:
        return 1
    if best >= 0.3:
        return -1
    return UNUSED if ignored else 0


def mirror_case(points: np.ndarray, mirrored: list | np.ndarray, want: np.ndarray, why: str) -> Case:
    return Case((points, np.asarray(mirrored, bool)), want, why=why, picture=partial(draw_points, points))


def draw_points(points: np.ndarray, got: np.ndarray) -> Figure:
    """The last sample before and after, each point by its number in the row."""
    figure = new_figure(4.4, 2.4)
    titles = ("before", "your answer")
    for axes, rows, title in zip(figure.subplots(1, 2), (points, np.asarray(got)), titles, strict=True):
        for k, (x, y) in enumerate(rows.reshape(-1, 5, 2)[-1] if len(rows) else ()):
            axes.text(x, y, str(k), color=COLOURS[5 + k % 2], ha="center", va="center")
        axes.set(xlim=(-0.1, 1.1), ylim=(1.1, -0.1), title=title, aspect="equal")
    return figure


def gradient_case(gradients: np.ndarray, types: np.ndarray, teaches: tuple[int, ...]) -> Case:
    """The right answer by automatic differentiation: gradients of a smooth L1 loss at 0 are minus small targets."""
    gradients = np.clip(gradients, -0.9, 0.9)
    rows = np.flatnonzero(np.isin(types, teaches))
    leaf = Tensor(np.zeros_like(gradients), requires_grad=True)
    smooth_l1(take_rows(leaf, rows), -gradients[rows]).backward()
    given = gradients.copy()
    without = np.setdiff1d(np.arange(len(types)), rows)[::2]
    given[without] = np.nan  # some of those that do not teach have no target
    why = f"{len(types)} samples, of which {len(rows)} teach; some of the others have no target"
    return Case((given, types, teaches), leaf.grad, why=why)


def nms_case(boxes: np.ndarray, scores: np.ndarray, threshold: float, why: str) -> Case:
    want = np.array(reference.nms(boxes, scores, threshold, mode="min"), np.int64)
    return Case((boxes, scores, threshold), want, why=why, picture=partial(draw_kept, boxes, scores))


def draw_kept(boxes: np.ndarray, scores: np.ndarray, got: np.ndarray) -> Figure:
    size = np.ceil(boxes.max(axis=0, initial=1)).astype(int)
    kept = np.isin(np.arange(len(boxes)), got)
    colours = [COLOURS[6] if k else COLOURS[5] for k in kept]
    blank = np.full((size[3] + 1, size[2] + 1, 3), 255, np.uint8)
    return plot_boxes(blank, boxes, [f"{s:g}" for s in scores], colours, title="yours: blue is kept").figure
