"""Checks of lesson 18: max-out's gradient, matching in two stages, hard negatives, the loss (EXTD, Eq. (3)), votes.

Letters: N images or anchors or boxes, G faces, P positives, PH PW of a map.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.autograd import Tensor
from minidetect.checks.case import Case, check
from minidetect.detection.voting import vote as library_vote
from minidetect.models.single_shot import max_out_background
from minidetect.ops.elementwise import mul
from minidetect.ops.reduce import sum as total
from minidetect.visualize import COLOURS, new_figure, plot_boxes


@check("18.1")
def max_out_gradient() -> Iterator[Case]:
    """scores (N, 4, PH, PW), gradient (N, 2, PH, PW) of the two that remain -> (N, 4, PH, PW)."""
    for scores, gradient, want, why in (
        ([1.0, 3.0, 2.0, 9.0], [5.0, 7.0], [0.0, 5.0, 0.0, 7.0], "the second background wins and is given everything"),
        ([-1.0, -3.0, -2.0, -9.0], [5.0, 7.0], [5.0, 0.0, 0.0, 7.0], "all scores below 0: the largest is -1"),
        ([1.0, 2.0, 3.0, 0.0], [-2.0, 4.0], [0.0, 0.0, -2.0, 4.0], "a gradient below 0 goes the same way"),
        ([3.0, 1.0, 3.0, 0.0], [6.0, 1.0], [3.0, 0.0, 3.0, 1.0], "two winners: each has a half"),
        ([2.0, 2.0, 2.0, 2.0], [6.0, 1.0], [2.0, 2.0, 2.0, 1.0], "three equal ones; the face never takes part"),
    ):
        given = (np.reshape(scores, (1, 4, 1, 1)), np.reshape(gradient, (1, 2, 1, 1)))
        yield Case(given, np.reshape(want, (1, 4, 1, 1)), why=why)
    rng = np.random.default_rng(181)
    for shape in ((2, 4, 3, 5), (3, 4, 2, 6)):
        scores = rng.integers(-3, 4, shape).astype(float)
        gradient = rng.normal(size=(shape[0], 2, *shape[2:]))
        leaf = Tensor(scores, requires_grad=True)
        total(mul(max_out_background(leaf), Tensor(gradient))).backward()
        why = f"{shape[0]} images and maps of {shape[2]} x {shape[3]}, with ties"
        yield Case((scores, gradient), leaf.grad, why=why)


@check("18.2")
def first_stage() -> Iterator[Case]:
    """iou (N, G) -> the face of each anchor (N,), -1 for background."""
    for iou, want, why in (
        ([[0.6], [0.4], [0.2]], [0, 0, -1], "one face, two anchors over 0.35"),
        ([[0.35], [0.34], [0.6]], [0, -1, 0], "exactly 0.35 is enough"),
        ([[0.4, 0.5], [0.7, 0.36]], [1, 0], "an anchor belongs to the face that it overlaps most"),
        ([[0.1], [0.2], [0.15]], [-1, 0, -1], "nothing reaches 0.35: the face has its best anchor all the same"),
        ([[0.0], [0.0]], [-1, -1], "a face that no anchor meets: the best of nothing is nothing"),
        ([[0.2], [0.2]], [0, -1], "two equally good anchors: the first"),
        ([[0.6, 0.6], [0.1, 0.5]], [1, 1], "both faces have anchor 0 as their best: the later one takes it"),
        ([[0.9, 0.3], [0.5, 0.2]], [1, 0], "the best anchor of a poor face is taken even from a better one"),
        ([[0.5, 0.5], [0.7, 0.1], [0.1, 0.8]], [0, 0, 1], "equal overlaps: the first face"),
    ):
        yield Case((np.array(iou),), np.array(want), why=why)
    yield Case((np.zeros((3, 0)),), np.full(3, -1), why="no face: all background")
    yield Case((np.zeros((0, 2)),), np.zeros(0, np.int64), why="no anchor")
    for iou in random_overlaps(182):
        why = f"{len(iou)} anchors and {iou.shape[1]} faces, with ties"
        yield Case((iou,), np.array(stage_one_in_words(iou)), why=why)


@check("18.3")
def fill_up() -> Iterator[Case]:
    """iou (N, G), matched (N,) after stage one -> (N,) after stage two."""
    poor = [[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.0, 0.2], [0.0, 0.15], [0.0, 0.05]]
    for iou, matched, want, why in (
        (poor, [0, 0, 0, 1, -1, -1], [0, 0, 0, 1, 1, -1], "3 and 1 anchors, 2 on average: one more"),
        ([*poor, [0.0, 0.19]], [0, 0, 0, 1, -1, -1, -1], [0, 0, 0, 1, -1, -1, 1], "the best of those that are free"),
        ([[0.6, 0.0], [0.5, 0.0], [0.0, 0.4], [0.0, 0.3]], [0, 0, 1, -1], [0, 0, 1, -1],
         "2 and 1 are 1.5 on average, rounded down: nobody has fewer than 1"),
        ([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.0, 0.4], [0.0, 0.1]], [0, 0, 0, 1, -1], [0, 0, 0, 1, -1],
         "an overlap of exactly 0.1 is not over 0.1"),
        ([[0.9, 0.3], [0.8, 0.3], [0.7, 0.3], [0.0, 0.4]], [0, 0, 0, 1], [0, 0, 0, 1],
         "whatever has a face already is not free, although it overlaps the poor one by 0.3"),
        ([[0.3], [0.2], [0.15]], [0, -1, -1], [0, -1, -1], "one face: it has the average by itself"),
        ([[0.9, 0.0], [0.8, 0.0], [0.7, 0.0], [0.0, 0.3], [0.0, 0.2], [0.0, 0.15]], [0, 0, 0, -1, -1, -1],
         [0, 0, 0, 1, -1, -1], "3 and 0 anchors: the face without any counts for the average, which is 1"),
    ):
        yield Case((np.array(iou), np.array(matched)), np.array(want), why=why)
    rich = [[0.9, 0.0, 0.0]] * 7
    both = np.array([*rich, [0.0, 0.3, 0.0], [0.0, 0.0, 0.3], [0.0, 0.2, 0.25], [0.0, 0.15, 0.12]])
    matched = np.array([0] * 7 + [1, 2, -1, -1])
    why = "two poor faces choose the same anchor: the larger overlap decides"
    yield Case((both, matched), np.array([0] * 7 + [1, 2, 2, 1]), why=why)
    both[9] = [0.0, 0.2, 0.2]
    why = "the same overlap: the first of the two faces"
    yield Case((both, matched), np.array([0] * 7 + [1, 2, 1, 1]), why=why)
    yield Case((np.zeros((3, 0)), np.full(3, -1)), np.full(3, -1), why="no face: nothing to fill up")
    yield Case((np.zeros((0, 2)), np.zeros(0, np.int64)), np.zeros(0, np.int64), why="no anchor")
    for iou in random_overlaps(183):
        matched = np.array(stage_one_in_words(iou))
        why = f"{len(iou)} anchors and {iou.shape[1]} faces"
        yield Case((iou, matched), np.array(stage_two_in_words(iou, matched)), why=why)


@check("18.4")
def hard_negatives() -> Iterator[Case]:
    """losses (N,) as background, matched (N,), ignored (N,), ratio -> rows of the hardest negatives, ascending."""
    for losses, matched, ignored, ratio, want, why in (
        ([0.1, 0.9, 0.5, 0.7], [0, -1, -1, -1], [0, 0, 0, 0], 2, [1, 3], "one positive, so two negatives: the hardest"),
        ([9.0, 0.9, 0.5, 0.7], [0, -1, -1, -1], [0, 0, 0, 0], 1, [1], "the positive is hard, too, but no negative"),
        ([9.0, 0.9, 0.5, 0.7], [3, -1, -1, -1], [0, 1, 0, 0], 2, [2, 3], "no negative in an ignore region"),
        ([0.1, 0.9, 0.5], [0, 1, -1], [0, 0, 0], 3, [2], "six are wanted and one is there"),
        ([0.1, 0.9, 0.5], [-1, -1, -1], [0, 0, 0], 3, [], "no positive: three times nothing"),
        ([0.1, 0.2, 0.3, 0.9, 0.5], [0, 1, 2, -1, -1], [0] * 5, 0.5, [3], "half of three is 1.5, rounded down"),
        ([0.4, 0.4, 0.4, 0.1], [-1, -1, -1, 2], [0, 0, 0, 0], 2, [0, 1], "equal losses: the earlier first"),
        ([0.2, 0.6, 0.3, 0.1], [-1, -1, -1, 0], [0, 0, 0, 1], 1, [1], "a positive in an ignore region counts"),
        ([0.2, 0.6, 0.3, 0.1, 0.4], [-1, -1, 0, 0, -1], [0] * 5, 0.5, [1], "half as many as positives"),
    ):
        given = (np.array(losses), np.array(matched), np.array(ignored, bool), ratio)
        yield Case(given, np.array(want, np.int64), why=why)
    rng = np.random.default_rng(184)
    for count, ratio in ((20, 3), (40, 2)):
        losses, matched = rng.integers(0, 20, count) / 20, rng.choice([-1, -1, -1, -1, -1, -1, 0, 1], count)
        ignored = rng.random(count) < 0.3
        rows = sorted((-losses[i], i) for i in range(count) if matched[i] < 0 and not ignored[i])
        want = sorted(i for _, i in rows[: ratio * int((matched >= 0).sum())])
        yield Case((losses, matched, ignored, ratio), np.array(want, np.int64), why=f"{count} anchors, with ties")


@check("18.5")
def whole_loss() -> Iterator[Case]:
    """class_losses (P + M,) of what was chosen, box_losses (P,), lam -> Eq. (3)."""
    for classes, boxes, lam, want, why in (
        ([1.0, 2.0, 3.0, 2.0], [5.0], 4, 13.0, "4 times a mean of 2, plus 5"),
        ([1.0, 2.0, 3.0, 2.0], [5.0], 1, 7.0, "the same with a weight of 1"),
        ([1.0, 3.0], [2.0, 6.0], 2, 8.0, "the boxes' mean is over the positives: 4"),
        ([1.0, 3.0, 2.0], [], 4, 8.0, "no positive: no box term"),
        ([], [], 4, 0.0, "nothing was chosen: 0, not 0 / 0"),
        ([0.5] * 8, [3.0, 1.0], 0.5, 2.25, "eight and two have divisors of their own"),
    ):
        yield Case((np.array(classes), np.array(boxes), lam), want, why=why)
    rng = np.random.default_rng(185)
    classes, boxes = rng.uniform(0, 3, 28), rng.uniform(0, 9, 7)
    want = sum(classes) / 7 + sum(boxes) / 7
    yield Case((classes, boxes, 4), want, why="7 positives, 21 negatives, a weight of 4: everything is divided by 7")


@check("18.6")
def vote() -> Iterator[Case]:
    """boxes (N, 4), scores (N,), threshold -> the merged boxes (M, 4) and their scores (M,), best first."""
    box, moved, away = [0.0, 0, 10, 10], [2.0, 0, 12, 10], [50.0, 50, 60, 60]
    for boxes, scores, threshold, why in (
        ([box], [0.5], 0.3, "one box: it alone votes"),
        ([box, moved], [0.9, 0.1], 0.3, "nine to one: the merged box is moved by a tenth of 2 pixels, to 0.2"),
        ([moved, box], [0.1, 0.9], 0.3, "the same in another order"),
        ([box, away], [0.4, 0.9], 0.3, "two faces: nothing to merge, and the better one comes first"),
        ([box, moved, away], [0.4, 0.6, 0.5], 0.3, "the score of a group is that of its best, not a sum"),
        ([box, [0.0, 0, 10, 5]], [0.6, 0.4], 0.5, "an IoU of exactly 0.5 belongs to the group"),
        ([box, moved], [0.6, 0.4], 0.7, "an IoU of 2 / 3 does not: both stay as they are"),
        ([box, [6.0, 0, 16, 10], [12.0, 0, 22, 10]], [0.9, 0.8, 0.7], 0.2,
         "the second votes with the first; the third overlaps the second alone, and is left"),
        ([box, [4.0, 0, 14, 10], [6.0, 0, 16, 10]], [0.5, 0.5, 0.4], 0.3,
         "the third overlaps the mean of the first two by 0.43, but the best box by 0.25 only: it is left"),
    ):
        yield vote_case(np.array(boxes), np.array(scores), threshold, why)
    yield vote_case(np.zeros((0, 4)), np.zeros(0), 0.3, "no box: shapes (0, 4) and (0,)")
    rng = np.random.default_rng(186)
    for count in (5, 12, 24):
        corner, sides = rng.integers(0, 40, (count, 2)), rng.integers(10, 24, (count, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1).astype(float)
        yield vote_case(boxes, rng.permutation(count).astype(float) / count + 0.02, 0.3, f"{count} boxes")


def random_overlaps(seed: int) -> Iterator[np.ndarray]:
    """Tables of overlaps, (N, G), some equal, the second face poor."""
    rng = np.random.default_rng(seed)
    for shape in ((12, 2), (30, 3), (60, 5)):
        iou = np.round(rng.random(shape) ** 3, 2)
        iou[:, 1] = np.round(iou[:, 1] * 0.36, 2)
        yield iou


def stage_one_in_words(iou: np.ndarray) -> list[int]:
    """One anchor after the other, then one face after the other."""
    matched = [max(range(len(row)), key=lambda g, row=row: row[g]) if max(row) >= 0.35 else -1 for row in iou.tolist()]
    for face, column in enumerate(iou.T.tolist()):
        if max(column) > 0:
            matched[column.index(max(column))] = face
    return matched


def stage_two_in_words(iou: np.ndarray, matched: np.ndarray) -> list[int]:
    """Wishes first, one face after the other; then each anchor picks among those who wish for it."""
    wishes: dict[int, list[tuple[float, int]]] = {}
    counts = [int((matched == face).sum()) for face in range(iou.shape[1])]
    average = sum(counts) // len(counts)
    for face, count in enumerate(counts):
        free = [i for i in range(len(iou)) if matched[i] < 0 and iou[i, face] > 0.1]
        for i in sorted(free, key=lambda i, face=face: (-iou[i, face], i))[: max(0, average - count)]:
            wishes.setdefault(i, []).append((-iou[i, face], face))
    return [min(wishes[i])[1] if i in wishes else int(face) for i, face in enumerate(matched)]


def vote_case(boxes: np.ndarray, scores: np.ndarray, threshold: float, why: str) -> Case:
    want = library_vote(boxes, scores, threshold)
    return Case((boxes, scores, threshold), want, why=why, picture=partial(draw_votes, boxes, scores), rtol=1e-4)


def draw_votes(boxes: np.ndarray, scores: np.ndarray, got: tuple) -> Figure:
    """What was given in grey, what came back in orange."""
    size = np.ceil(boxes.max(axis=0, initial=1)).astype(int)
    merged, best = (np.asarray(part, float) for part in got)
    figure = new_figure(5, 2.6)
    blank = np.full((size[3] + 1, size[2] + 1, 3), 255, np.uint8)
    panels = ((boxes, scores, "grey", "given"), (merged, best, COLOURS[5], "yours"))
    for axes, (shown, values, colour, title) in zip(figure.subplots(1, 2), panels, strict=True):
        plot_boxes(blank, shown, [f"{value:.2f}" for value in values], colour, axes, title)
    return figure
