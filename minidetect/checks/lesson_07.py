"""Checks of lesson 07: which detections are right, average precision, recall at false positives, FDDB, landmarks.

Letters: N detections, G ground truths, M ignore regions, P landmark points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check
from minidetect.evaluate.assignment import best_assignments
from minidetect.evaluate.average_precision import match_detections
from minidetect.reference import evaluation as slow
from minidetect.visualize import new_figure, plot_boxes

NOTHING = np.zeros((0, 4))
VERDICTS = {1: "right", 0: "wrong", -1: "left out"}
COLOURS = {1: "#009E73", 0: "#D55E00", -1: "#CC79A7"}


@check("7.1")
def judge() -> Iterator[Case]:
    """One image: 1 right, 0 wrong, -1 left out, for each detection in the order given."""
    truth = [[0, 0, 4, 4]]
    near, nearer = [0, 0, 4, 3], [0, 0, 4, 4]  # IoU 0.75 and 1
    yield judge_case([near], [0.9], truth, NOTHING, "one detection on one truth")
    yield judge_case([near], [0.9], truth, NOTHING, "an overlap of exactly the threshold is enough", 0.75)
    yield judge_case([near], [0.9], truth, NOTHING, "an IoU of 0.75 is not enough for a threshold of 0.8", 0.8)
    yield judge_case([[6, 6, 9, 9]], [0.9], truth, NOTHING, "a detection where there is nothing")
    yield judge_case([near, nearer], [0.9, 0.8], truth, NOTHING, "the better score takes the truth, not the better box")
    yield judge_case([near, nearer], [0.8, 0.9], truth, NOTHING, "the best score comes last in the list")
    yield judge_case([near, nearer], [0.7, 0.7], truth, NOTHING, "of equal scores the first in the list chooses first")
    yield judge_case([], [], truth, NOTHING, "nothing was found: an empty list")
    yield judge_case([near], [0.9], [], NOTHING, "an image without a face: whatever is found is wrong")
    region = [[5, 0, 12, 9]]
    yield judge_case([[6, 1, 9, 4]], [0.9], truth, region, "in an ignore region: neither right nor wrong")
    yield judge_case([[6, 1, 9, 4]] * 2, [0.9, 0.8], truth, region, "an ignore region excuses any number of detections")
    yield judge_case([[4, 1, 6, 3]], [0.9], truth, region, "half of the detection is in the region: 0.5 is enough")
    yield judge_case([[3, 1, 6, 3]], [0.9], truth, region, "a third of the detection is in the region: not enough")
    yield judge_case([[3, 1, 6, 3]], [0.9], truth, region, "a third in the region is enough at a threshold of 0.3", 0.3)
    yield judge_case([near], [0.9], truth, [[0, 0, 9, 9]], "right is right, even inside of an ignore region")
    why = "the second detection of the face is not right, but it lies in an ignore region: left out"
    yield judge_case([near, near], [0.9, 0.8], truth, [[0, 0, 9, 9]], why)
    why = "a third in one region and a third in another: no single region has enough of it"
    yield judge_case([[6, 0, 9, 3]], [0.9], truth, [[5, 0, 7, 9], [8, 0, 12, 9]], why)
    why = "the first overlaps the truth by too little and leaves it free"
    yield judge_case([[0, 0, 4, 1], near], [0.9, 0.8], truth, NOTHING, why)
    both = [[0, 0, 4, 4], [2, 0, 6, 4]]
    boxes = [[0, 0, 4, 4], [0.8, 0, 4.8, 4]]  # the second: IoU 2 / 3 with the first truth, 0.54 with the other
    yield judge_case(boxes, [0.9, 0.8], both, NOTHING, "its own truth is taken: it does not move on to the neighbour's")
    sides = [[0, 0, 4, 4], [4, 0, 8, 4]]
    boxes = [[2, 0, 6, 4], [4, 0, 8, 4]]  # the first: IoU 1 / 3 with both truths
    why = "of equal overlaps the first truth counts, so the second one is free"
    yield judge_case(boxes, [0.9, 0.8], sides, NOTHING, why, 0.3)
    rng = np.random.default_rng(71)
    for num, num_gt, num_ignore in ((3, 2, 0), (5, 3, 1), (8, 3, 2), (12, 4, 1)):
        gt = random_boxes(rng, num_gt)
        moved = gt[rng.integers(num_gt, size=num)] + rng.integers(-2, 3, (num, 4)) / 2
        boxes = np.where(rng.random((num, 1)) < 0.7, moved, random_boxes(rng, num))
        scores = rng.integers(-4, 4, num) / 8
        why = "boxes drawn at random, with equal scores, some below 0"
        yield judge_case(boxes, scores, gt, random_boxes(rng, num_ignore), why, float(rng.choice([0.4, 0.5, 0.6])))


@check("7.2")
def average_precision() -> Iterator[Case]:
    """scores (N,), is_right (N,), num_gt -> the every-point average precision."""
    for scores, right, num_gt, why in (
        ([0.9], [1], 1, "found, and nothing else"),
        ([0.9], [1], 2, "one of two is found: recall ends at a half"),
        ([0.9], [0], 1, "only a wrong one"),
        ([], [], 3, "nothing was found"),
        ([0.9, 0.8], [0, 1], 1, "the wrong one comes first: precision 0 / 1, then 1 / 2"),
        ([0.8, 0.9], [1, 0], 1, "the same two, the other way round in the list"),
        ([0.5, 0.5], [1, 0], 1, "equal scores come in together: there is no threshold between them"),
        ([0.5, 0.5], [0, 1], 1, "equal scores, the wrong one first in the list"),
        ([0.9, 0.8, 0.7], [0, 1, 1], 2, "precision rises from 1 / 2 to 2 / 3: the better one counts at both"),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 1], 2, "precision 1, 1 / 2, 1 / 3, 1 / 2"),
        ([-2, -1.5], [0, 1], 1, "a score may be negative: only the order matters"),
        ([0.90001, 0.9], [1, 0], 1, "scores that differ in the fifth place are not equal"),
    ):
        yield ap_case(scores, right, num_gt, why)
    rng = np.random.default_rng(72)
    for num in (4, 6, 9, 20):
        right = rng.random(num) < 0.6
        scores = rng.integers(1, 2 * num, num) / (2 * num)
        yield ap_case(scores, right, int(right.sum()) + 2, "judged detections drawn at random, some with equal scores")


@check("7.3")
def recall_at() -> Iterator[Case]:
    """scores (N,), is_right (N,), num_gt, num_wrong -> the highest recall with at most that many wrong ones."""
    for scores, right, num_gt, num_wrong, why in (
        ([0.9], [1], 2, 0, "one of two, without a wrong one"),
        ([], [], 2, 5, "nothing was found"),
        ([0.9, 0.8], [0, 1], 1, 0, "the first is wrong already: no threshold has 0 wrong ones and finds anything"),
        ([0.9, 0.8], [0, 1], 1, 1, "one wrong one is allowed"),
        ([0.8, 0.9], [1, 0], 1, 0, "the same two in another order"),
        ([0.9, 0.8, 0.7], [1, 0, 1], 2, 1, "exactly as many as allowed: the next right one still counts"),
        ([0.9, 0.8, 0.8], [1, 1, 0], 2, 0, "equal scores come in together, the wrong one too"),
        ([0.9, 0.8, 0.8], [1, 0, 1], 2, 0, "equal scores, the wrong one first in the list"),
        ([0.9, 0.8], [1, 1], 3, 10, "it never makes that many: the final recall"),
        ([-2, -1.5], [0, 1], 1, 0, "a score may be negative: only the order matters"),
    ):
        yield recall_case(scores, right, num_gt, num_wrong, why)
    rng = np.random.default_rng(73)
    for num in (5, 8, 12, 20):
        right = rng.random(num) < 0.5
        scores = rng.integers(1, num, num) / num
        why = "judged detections drawn at random, many with equal scores"
        yield recall_case(scores, right, int(right.sum()) + 1, int(rng.integers(1, 4)), why)


@check("7.4")
def fddb_scores() -> Iterator[Case]:
    """IoU of detections with ellipses (N, G) -> pairs above 0.5, sum of the pairs' IoU."""
    for overlaps, why in (
        ([[0.7]], "one pair"),
        ([[0.5]], "0.5 is not above 0.5; the continuous score takes it all the same"),
        ([[0.3, 0.8]], "one detection, two ellipses: it may have only one"),
        ([[0.8], [0.6]], "two detections, one ellipse: only one may have it"),
        ([[0.6, 0.55], [0.58, 0.1]], "the first must step back, so that the sum is 0.55 + 0.58"),
        ([[0.9, 0.51], [0.52, 0.0]], "the sum decides (1.03 against 0.9), whatever the first would like"),
        ([[0.95, 0.52], [0.51, 0.1]], "0.95 + 0.1 is the larger sum, though the other pairing has two above 0.5"),
        ([[0.8, 0.2, 0.1], [0.7, 0.6, 0.0]], "more ellipses than detections"),
        ([[0.8, 0.7], [0.9, 0.2], [0.3, 0.6]], "more detections than ellipses"),
    ):
        yield fddb_case(np.array(overlaps), why)
    rng = np.random.default_rng(74)
    for shape in ((2, 3), (3, 2), (3, 4), (5, 4)):
        yield fddb_case(rng.uniform(0, 1, shape).round(3), "overlaps drawn at random")


@check("7.5")
def landmark_error() -> Iterator[Case]:
    """predicted, truth (N, P, 2), size (N,) -> the mean distance of each face's points, in sizes (N,)."""
    truth = np.array([[[1.0, 2], [5, 2]]])
    yield landmark_case(truth, truth, [4.0], "all points are right")
    yield landmark_case(truth + [3.0, 4], truth, [10.0], "both points are 5 pixels off: 3 to the right, 4 down")
    yield landmark_case(truth + [[[3.0, 4], [0, 0]]], truth, [10.0], "one point is 5 off, the other right: 2.5 each")
    missing = np.array([[[1.0, 2], [np.nan, np.nan], [5, 2]]])
    yield landmark_case(missing[:, [0, 0, 2]] + [0.0, 2], missing, [8.0], "a missing point is not counted at all")
    two = np.array([[[1.0, 2], [5, 2]], [[10, 20], [50, 20]]])
    yield landmark_case(two + [0.0, 2], two, [4.0, 40.0], "the same 2 pixels are less of a larger face")
    rng = np.random.default_rng(75)
    for num, points in ((2, 5), (4, 3), (3, 5)):
        truth = rng.uniform(0, 50, (num, points, 2))
        truth[rng.random((num, points)) < 0.2] = np.nan
        truth[:, 0] = 7.0  # so that no face is without a point
        predicted = np.nan_to_num(truth) + rng.normal(0, 2, truth.shape)
        yield landmark_case(predicted, truth, rng.uniform(10, 60, num), "faces drawn at random")


def random_boxes(rng: np.random.Generator, num: int) -> np.ndarray:
    """(num, 4): corners on halves within 0 to 12, 3 to 6 wide and high."""
    corners = rng.integers(0, 12, (num, 2)) / 2
    return np.concatenate([corners, corners + rng.integers(6, 13, (num, 2)) / 2], axis=1)


def judge_case(
    boxes: Sequence, scores: Sequence, gt: Sequence, ignore: Sequence, why: str, threshold: float = 0.5
) -> Case:
    boxes, gt, ignore = (np.array(rows, float).reshape(-1, 4) for rows in (boxes, gt, ignore))
    scores = np.array(scores, float)
    is_tp, is_ignored = match_detections(boxes, scores, gt, ignore, threshold)
    want = is_tp.astype(int) - is_ignored
    picture = partial(draw_judged, boxes, scores, gt, ignore, want)
    return Case((boxes, scores, gt, ignore, threshold), want, why=why, picture=picture)


def ap_case(scores: Sequence, right: Sequence, num_gt: int, why: str) -> Case:
    want = slow.average_precision_every_point(list(scores), [bool(r) for r in right], num_gt)
    return Case((np.array(scores, float), np.array(right, bool), num_gt), want, why=why)


def recall_case(scores: Sequence, right: Sequence, num_gt: int, num_wrong: int, why: str) -> Case:
    want = slow.recall_at(num_wrong, list(scores), [bool(r) for r in right], num_gt)
    return Case((np.array(scores, float), np.array(right, bool), num_gt, num_wrong), want, why=why)


def fddb_case(overlaps: np.ndarray, why: str) -> Case:
    owner = best_assignments(overlaps)[-1]  # (G,)
    paired = [overlaps[i, g] for g, i in enumerate(owner) if i >= 0]
    total = slow.best_assignment_total(overlaps.tolist())
    return Case((overlaps,), (sum(p > 0.5 for p in paired), total), why=why)


def landmark_case(predicted: np.ndarray, truth: np.ndarray, size: Sequence[float], why: str) -> Case:
    want = []
    for points, right, side in zip(predicted.tolist(), truth.tolist(), size, strict=True):
        there = [(p, r) for p, r in zip(points, right, strict=True) if not math.isnan(r[0])]
        want.append(sum(math.dist(p, r) for p, r in there) / len(there) / side)
    return Case((predicted, truth, np.array(size, float)), np.array(want), why=why)


def draw_judged(
    boxes: np.ndarray, scores: np.ndarray, gt: np.ndarray, ignore: np.ndarray, right: np.ndarray, got: Sequence
) -> Figure:
    """Truths black, ignore regions grey; detections by verdict, as answered and as they should be."""
    figure = new_figure(8, 4)
    canvas = np.full((13, 13, 3), 255, np.uint8)
    for i, (title, verdicts) in enumerate((("yours", got), ("right", right))):
        axes = plot_boxes(canvas, gt, colours="black", ax=figure.add_subplot(1, 2, i + 1))
        plot_boxes(canvas, ignore, colours="grey", ax=axes)
        texts = [f"{s:.2f} {VERDICTS[int(v)]}" for s, v in zip(scores, verdicts, strict=True)]
        plot_boxes(canvas, boxes, texts, [COLOURS[int(v)] for v in verdicts], ax=axes, title=title)
    return figure
