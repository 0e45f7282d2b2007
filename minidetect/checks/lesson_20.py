"""Checks of lesson 20: a proposal's scale (Group Sampling, Eq. (4)), RoI align, hard examples, focal loss, fields.

Letters: R proposals, S scales, H W of a map, PH PW bins, A anchors, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.autograd import Tensor
from minidetect.checks.case import Case, check
from minidetect.detection.focal_loss import focal_loss
from minidetect.ops.roi_align import roi_align as library_roi_align
from minidetect.visualize import new_figure


@check("20.1")
def reference_scale() -> Iterator[Case]:
    """boxes (R, 4), scales (S,) ascending -> for each box the row of the scale nearest in octaves (R,)."""
    for box, scales, want, why in (
        ([0, 0, 16, 16], [16, 32, 64, 128], 0, "16 by 16 has the scale 16"),
        ([3, 5, 67, 69], [16, 32, 64, 128], 2, "64 by 64, wherever it lies"),
        ([0, 0, 8, 32], [16, 64], 0, "8 by 32 has the area of 16 by 16"),
        ([0, 0, 64, 16], [16, 32, 64], 1, "64 by 16: the root of the area is 32; half of the sum would be 40"),
        ([0, 0, 23, 23], [16, 32], 1, "23 is 7 from 16 and 9 from 32, but 0.52 octaves from 16 and 0.48 from 32"),
        ([0, 0, 22, 22], [16, 32], 0, "22 lies below the 22.6 between them"),
        ([0, 0, 45, 45], [16, 32, 64], 1, "45 lies below the 45.3 between 32 and 64"),
        ([0, 0, 32, 32], [16, 64], 0, "32 is one octave from both: the smaller"),
        ([0, 0, 64, 4], [4, 64], 0, "64 by 4: the root is 16, two octaves from both: the smaller"),
        ([0, 0, 3, 3], [16, 32, 64], 0, "smaller than all"),
        ([0, 0, 900, 700], [16, 32, 64], 2, "larger than all"),
    ):
        yield Case((np.array([box], np.float64), np.array(scales)), np.array([want]), why=why)
    yield Case((np.zeros((0, 4)), np.array([16, 32])), np.zeros(0, np.int64), why="no box")
    rng = np.random.default_rng(201)
    for count, scales in ((6, (8, 16, 32, 64)), (15, (10, 30, 50, 100, 300))):
        corners, sides = rng.uniform(0, 90, (count, 2)), np.exp(rng.uniform(1.2, 5.5, (count, 2)))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        want = [nearest_in_words(width, height, scales) for width, height in sides]
        yield Case((boxes, np.array(scales)), np.array(want), why=f"{count} boxes, {len(scales)} scales")


def nearest_in_words(width: float, height: float, scales: tuple[int, ...]) -> int:
    """By ratios instead of logarithms: the scale by which the larger of side / scale and scale / side is smallest."""
    side = (width * height) ** 0.5
    return min(range(len(scales)), key=lambda k: max(side / scales[k], scales[k] / side))


@check("20.2")
def roi_align() -> Iterator[Case]:
    """plane (H, W), box (4,), bins (PH, PW), stride -> (PH, PW), each the mean of 2 x 2 points."""
    ramp = np.tile(np.arange(6.0), (5, 1))  # the value is the column
    for plane, box, bins, stride, want, why in (
        (ramp, [4, 4, 16, 12], (1, 1), 4, [[2.0]], "columns 1 to 3 of a map that counts columns: 2 on average"),
        (ramp.T, [4, 4, 12, 16], (1, 1), 4, [[2.0]], "the same turned: rows are counted"),
        (ramp, [4, 4, 12, 12], (1, 2), 4, [[1.0, 2.0]], "two bins across, each as wide as a cell"),
        (ramp, [6, 4, 14, 12], (1, 2), 4, [[1.5, 2.5]], "2 pixels further, half a cell: nothing is rounded"),
        (ramp, [9, 4, 13, 8], (1, 1), 4, [[2.25]], "4 x 4 pixels around 11, which is 2.25 cells from the first centre"),
        (ramp, [-8, 0, 0, 8], (1, 1), 4, [[0.0]], "left of the map: it goes on as it ends"),
        (ramp, [20, 4, 40, 8], (1, 1), 4, [[5.0]], "beyond the right border"),
    ):
        yield align_case(np.array(plane), np.array(box, np.float64), bins, stride, np.array(want), why)
    rng = np.random.default_rng(202)
    for shape, box, bins, stride in (
        ((3, 4), [1.3, 2.1, 6.2, 5.9], (1, 1), 2), ((5, 7), [3.0, 6.5, 23.0, 17.0], (2, 3), 4),
        ((6, 5), [2.0, 1.0, 9.5, 11.7], (3, 2), 2), ((9, 8), [-5.0, 10.0, 40.0, 80.0], (4, 5), 8),
    ):  # fmt: skip
        plane = rng.integers(0, 20, shape) / 4
        want = library_roi_align(
            Tensor(plane[None, None]), np.array([box]), np.zeros(1, np.int64), bins, 1 / stride
        ).data[0, 0]
        why = f"{bins[0]} x {bins[1]} bins on a map of {shape[0]} x {shape[1]} cells of {stride} pixels"
        yield align_case(plane, np.array(box), bins, stride, want, why)


def align_case(
    plane: np.ndarray, box: np.ndarray, bins: tuple[int, int], stride: int, want: np.ndarray, why: str
) -> Case:
    picture = partial(draw_bins, want) if want.size > 1 else None
    return Case((plane, box, bins, stride), want, why=why, picture=picture, rtol=1e-4)


def draw_bins(want: np.ndarray, got: np.ndarray) -> Figure:
    """What is right beside what came back."""
    figure = new_figure(5, 2.4)
    pair = (want, np.asarray(got, float))
    for axes, values, title in zip(figure.subplots(1, 2), pair, ("right", "yours"), strict=True):
        axes.imshow(values, cmap="viridis", vmin=want.min(), vmax=max(want.max(), want.min() + 1))
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    return figure


@check("20.3")
def hardest() -> Iterator[Case]:
    """losses (A,), labels (A,) of 1, 0, -1, num -> rows of the objects and of the background among the largest."""
    for losses, labels, num, objects, background, why in (
        ([0.1, 0.9, 0.5, 0.7], [1, 0, 0, 0], 2, [], [1, 3], "the two largest are background, so there is no object"),
        ([0.8, 0.9, 0.5, 0.7], [1, 0, 0, 0], 2, [0], [1], "one of each"),
        ([0.8, 0.9, 0.5, 0.7], [1, 1, 0, 1], 3, [0, 1, 3], [], "nobody asks for background"),
        ([0.8, 0.9, 0.5, 0.7], [1, -1, 0, 0], 2, [0], [3], "the hardest of all is ignored"),
        ([0.2, 0.4, 0.4, 0.4], [0, 1, 0, 0], 2, [1], [2], "equal losses: the earlier"),
        ([0.3, 0.1], [0, 1], 5, [1], [0], "fewer than were asked for: all"),
        ([0.3, 0.1, 0.7], [0, 1, -1], 3, [1], [0], "fewer than were asked for, and what is ignored stays out"),
        ([0.3, 0.1], [-1, -1], 2, [], [], "all ignored"),
    ):
        want = (np.array(objects, np.int64), np.array(background, np.int64))
        yield Case((np.array(losses), np.array(labels), num), want, why=why)
    rng = np.random.default_rng(203)
    for count, num in ((15, 4), (40, 12)):
        losses, labels = rng.integers(0, 25, count) / 25, rng.choice([-1, 0, 0, 0, 1], count)
        order = sorted((-losses[i], i) for i in range(count) if labels[i] >= 0)[:num]
        rows = sorted(i for _, i in order)
        want = (np.array([i for i in rows if labels[i] == 1]), np.array([i for i in rows if labels[i] == 0]))
        yield Case((losses, labels, num), want, why=f"{num} of {count}, with ties")


@check("20.4")
def focal_gradient() -> Iterator[Case]:
    """logits (N, 2), labels (N,), normaliser or None -> the focal loss's gradient (N, 2); alpha 0.25, gamma 2."""
    half = 0.5**2 * (0.5 + 2 * 0.5 * np.log(2))  # (1 - p)^2 ((1 - p) + 2 p (-log p)) at p = 1/2
    for logits, labels, normaliser, want, why in (
        ([[0.0, 0.0]], [1], 1.0, [[0.25 * half, -0.25 * half]], "an object at p = 1/2: its own logit should rise"),
        ([[0.0, 0.0]], [0], 1.0, [[-0.75 * half, 0.75 * half]], "background at p = 1/2: three times the weight"),
        ([[1.0, 1.0]], [0], 3.0, [[-0.25 * half, 0.25 * half]], "only the difference of logits counts; over 3"),
        ([[0.0, 0.0]], [0], None, [[-4 * half, 4 * half]], "Focal*: over the weight of the only sample, 0.75 / 4"),
        ([[0.0, 0.0]], [1], None, [[4 * half, -4 * half]], "Focal*: alone, an object counts as much as background"),
    ):
        yield Case((np.array(logits), np.array(labels), normaliser), np.array(want), why=why)
    yield Case((np.zeros((0, 2)), np.zeros(0, np.int64), None), np.zeros((0, 2)), why="no samples: no gradient")
    easy = np.array([[20.0, -5.0], [-4.0, 15.0]])
    given = (easy, np.array([0, 1]), 1.0)
    yield Case(given, np.zeros((2, 2)), why="p is 1 but for 1e-8: nearly nothing is left")
    rng = np.random.default_rng(204)
    for count, normaliser in ((2, 1.0), (5, 2.0), (4, None), (9, None)):
        logits, labels = rng.normal(0, 2, (count, 2)), rng.integers(0, 2, count)
        leaf = Tensor(logits, requires_grad=True)
        focal_loss(leaf, labels, normaliser=normaliser).backward()
        why = f"{count} samples, " + ("the sum of the weights as a constant" if normaliser is None else "over a number")
        yield Case((logits, labels, normaliser), leaf.grad, why=why)


@check("20.5")
def cells_seen() -> Iterator[Case]:
    """branches: lists of (kernel, stride, dilation) -> how many cells of the input (a side) their outputs see."""
    for branches, want, why in (
        ([[(3, 1, 1)]], 3, "one 3 x 3"),
        ([[(1, 1, 1)]], 1, "a 1 x 1 sees its own cell"),
        ([[]], 1, "no layer at all: a cell sees itself"),
        ([[(3, 1, 1), (3, 1, 1)]], 5, "two in a row"),
        ([[(3, 1, 4)]], 9, "three cells, 4 apart"),
        ([[(3, 1, 2), (3, 1, 1)]], 7, "a dilation leaves no trace: the next layer's cells are neighbours"),
        ([[(3, 2, 1), (3, 1, 1)]], 7, "after a stride of 2 neighbours are 2 cells apart"),
        ([[(3, 1, 1), (3, 2, 1)]], 5, "a layer's own stride counts for the layers after it alone"),
        ([[(2, 2, 1), (3, 1, 2)]], 10, "2, and then 2 steps of 2 times 2 cells"),
        ([[(3, 1, 1)], [(3, 1, 2)]], 5, "side by side the wider one decides"),
        ([[(5, 1, 1)], [(3, 1, 1)]], 5, "whichever of them comes first"),
        ([[(3, 1, d)] for d in (1, 2, 4, 8)], 17, "dilations of 1, 2, 4 and 8 side by side"),
        ([[(3, 1, 1), (3, 1, 1), (3, 1, 1)], [(3, 1, 1)], [(5, 1, 1)]], 7, "RetinaFace's context: 7, 3 and 5"),
        ([[(3, 0.5, 1)]], 3, "a stride of 1/2 enlarges what comes after it"),
        ([[(1, 0.5, 1), (3, 1, 1)]], 2, "twice as many cells, then 3 of them: as 2 before"),
        ([[(7, 2, 1), (3, 2, 1), (3, 1, 3)], [(3, 4, 2), (1, 1, 1)]], 35, "7, 11, and 2 steps of 3 times 4 cells"),
    ):
        yield Case((branches,), want, why=why)
