"""Checks of lesson 15: the gate between two branches and its gradient, the joint loss, what reaches x12, recall.

Letters: N rows of a batch, R those that pass the first gate, Q those that pass the second, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidetect.autograd import Tensor
from minidetect.checks.case import Case, check, difference
from minidetect.ops.threshold import take_rows, threshold_control, top_k_control
from minidetect.visualize import COLOURS, new_figure


@check("15.1")
def gate() -> Iterator[Case]:
    """x (N, ...), scores (N,) -> the rows that pass and their numbers."""
    two = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    yield gate_case(two, [0.2, 0.9], 0.5, "the second row passes, the first is not there any more")
    yield gate_case(two, [0.5, 0.9], 0.5, "a score of exactly the threshold does not pass")
    yield gate_case(two, [0.9, 0.6], 0.5, "both pass and keep their order in the batch, whatever their scores are")
    yield gate_case(two, [0.1, 0.2], 0.5, "nobody passes: arrays of 0 rows, and the features' side stays 3")
    yield gate_case(np.zeros((0, 2)), [], 0.5, "an empty batch: x and what passes have the shape (0, 2)")
    yield gate_case(np.array([7.0, 8.0, 9.0]), [0.9, 0.2, 0.7], 0.5, "x of shape (3,): a row may be a single number")
    given = (two, np.array([0.9, 0.6]), 0.5)
    yield Case(given, accept=partial(right_and_indices, (two, np.arange(2))), why="rows 0 and 1, to be used as indices")
    rng = np.random.default_rng(151)
    for shape in ((5, 2), (6, 3), (7, 2, 3, 4)):
        scores = rng.integers(0, 5, shape[0]) / 4
        yield gate_case(rng.normal(size=shape), scores, 0.25, f"x of shape {shape}, with scores at the threshold")


@check("15.2")
def gate_backward() -> Iterator[Case]:
    """gy (R, ...), rows (R,), N -> the gradient of all N rows."""
    yield back_case(np.array([[7.0, 8.0]]), [2], 4, "one of four rows had passed")
    yield back_case(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), [0, 3], 5, "rows 0 and 3 of 5 had passed")
    yield back_case(np.zeros((0, 3)), [], 2, "nobody had passed: the gradient is zero, but it has all rows")
    yield back_case(np.array([[1.0, -2.0], [3.0, 5.0]]), [0, 1], 2, "everybody had passed: nothing is changed")
    rng = np.random.default_rng(152)
    for num, shape in ((6, (4, 3)), (7, (3, 2, 2, 5))):
        rows = np.sort(rng.permutation(num)[: shape[0]])
        yield back_case(rng.normal(size=shape), rows, num, f"gy of shape {shape} goes back to {num} rows")
    yield back_case(np.array([5.0, 6.0]), [0, 2], 3, "gy of shape (2,): a row may be a single number")
    yield back_case(np.array([[[1.0, 2.0], [3.0, 4.0]]]), [1], 2, "gy of shape (1, 2, 2): a row may be a picture")


@check("15.3")
def joint_loss() -> Iterator[Case]:
    """Three arrays of losses, a number a row of its branch, and three weights -> FaceCraft's joint loss."""
    for losses, weights, want, why in (
        (([1.0, 3.0], [5.0], [7.0]), (1, 1, 1), 2 + 5 + 7, "means 2, 5 and 7"),
        (([1.0, 3.0], [5.0], [7.0]), (1, 0.5, 2), 2 + 2.5 + 14, "means 2, 5 and 7, with weights 1, 0.5 and 2"),
        (([1.0, 3.0, 2.0, 2.0], [4.0, 8.0], [3.0]), (1, 1, 1), 2 + 6 + 3, "every branch is a mean over its own rows"),
        (([2.0, 4.0], [6.0], []), (1, 1, 1), 3 + 6, "nobody reaches the third branch, which then says nothing"),
        (([2.0, 4.0], [], []), (0.5, 1, 1), 1.5, "x12 lets nobody through"),
        (([2.0, 4.0], [np.nan], []), (1, 1, 1), np.nan, "a loss that is NaN must show, not become 0"),
        (([0.5, 1.5, 4.0], [3.0, 1.0], [2.0]), (0, 2, 0), 4.0, "only the second branch has a weight"),
    ):
        yield Case((tuple(np.array(loss) for loss in losses), weights), want, why=why)
    rng = np.random.default_rng(153)
    for counts in ((9, 4, 2), (12, 5, 3)):
        losses = tuple(rng.exponential(size=count) for count in counts)
        weights = tuple(rng.uniform(0.2, 2, 3).round(2))
        want = float(sum(w * sum(loss) / len(loss) for w, loss in zip(weights, losses, strict=True)))
        yield Case((losses, weights), want, why=f"{counts[0]} rows, of which {counts[1]} and then {counts[2]} pass")


@check("15.4")
def shared_gradient() -> Iterator[Case]:
    """Gradients at x12's features, as the branches see them, and where their rows came from -> (N, F)."""
    g12, g24, g48 = np.array([[1.0], [2.0], [3.0]]), np.array([[10.0], [20.0]]), np.array([[100.0]])
    for rows24, rows48, weights, want, why in (
        ([0, 2], [0], (1, 1, 1), [[111.0], [2.0], [23.0]], "row 0 passes both gates, row 2 the first"),
        ([0, 2], [1], (1, 1, 1), [[11.0], [2.0], [123.0]], "survivor 1 of the first gate is row 2 of the batch"),
        ([1, 2], [0], (1, 1, 1), [[1.0], [112.0], [23.0]], "survivor 0 of the first gate is row 1 of the batch"),
        ([0, 2], [1], (2, 0.5, 0.1), [[7.0], [4.0], [26.0]], "the weights 2, 0.5 and 0.1 scale the three parts"),
    ):
        given = (g12, g24, g48, np.array(rows24), np.array(rows48), weights)
        yield Case(given, np.array(want), why=why)
    none = (np.zeros((0, 1)), np.zeros(0, np.int64))
    yield Case((g12, none[0], none[0], none[1], none[1], (1, 1, 1)), g12, why="nobody passes: only x12's own part")
    given, want = (g12, g24, none[0], np.array([0, 2]), none[1], (1, 1, 1)), np.array([[11.0], [2.0], [23.0]])
    yield Case(given, want, why="two rows pass the first gate, nobody the second")
    rng = np.random.default_rng(154)
    for num, passed, last, width in ((5, 3, 2, 4), (8, 5, 3, 2)):
        rows24, rows48 = np.sort(rng.permutation(num)[:passed]), np.sort(rng.permutation(passed)[:last])
        parts = [rng.normal(size=(count, width)) for count in (num, passed, last)]
        weights = (1.0, 0.7, 1.6)
        want = by_autograd(parts, rows24, rows48, weights)
        yield Case((*parts, rows24, rows48, weights), want, why=f"{num} rows, {passed} and then {last} pass")


@check("15.5")
def top_k() -> Iterator[Case]:
    """scores (N,), k -> the rows of the k highest, ascending."""
    for scores, k, why in (
        ([0.1, 0.9, 0.5], 2, "rows 1 and 2"),
        ([0.9, 0.1, 0.5], 2, "rows 0 and 2: in the order of the batch, not of the scores"),
        ([0.5, 0.7, 0.3], 2, "row 0 is second, but it comes first in the batch"),
        ([0.5, 0.5, 0.5], 2, "of equal scores the earlier rows go first, and no more than k of them"),
        ([0.2, 0.8], 5, "fewer rows than k: all of them"),
        ([0.2, 0.8], 0, "k = 0: nobody, an array of shape (0,)"),
        ([0.3, 0.6, 0.3, 0.6, 0.3], 3, "the last place is drawn between three equal scores"),
    ):
        scores = np.array(scores)
        yield Case((scores, k), top_k_control(scores, k), why=why)
    rng = np.random.default_rng(155)
    for num, k in ((6, 4), (9, 3), (14, 6)):
        scores = rng.integers(0, 5, num) / 4
        yield Case((scores, k), top_k_control(scores, k), why=f"{k} of {num} rows, with ties")


@check("15.6")
def recall_at() -> Iterator[Case]:
    """scores (N,), 0 for whoever an early stage turned away; labels (N,) -> recall at a rate of false positives."""
    for scores, labels, rate, why in (
        ([0.9, 0.6, 0.8, 0.3], [1, 1, 0, 0], 0.5, "1 of 2 negatives may pass: any threshold from 0.3 to 0.8"),
        ([0.9, 0.6, 0.8, 0.3], [1, 1, 0, 0], 0.0, "no negative may pass, so a face needs more than 0.8"),
        ([0.9, 0.5, 0.5, 0.3], [1, 1, 0, 0], 0.0, "the face at 0.5 ties with a negative: both pass, or neither"),
        ([0.9, 0.0, 0.8, 0.0], [1, 1, 0, 0], 0.5, "0 means turned away: no threshold brings such a face back"),
        ([0.9, 0.2, 0.7, 0.4], [1, 1, 0, 0], 1.0, "all negatives may pass, so every face that has a score does"),
        ([0.9, 0.0, 0.7, 0.4], [1, 1, 0, 0], 1.0, "all negatives may pass, but a face that was turned away is lost"),
        ([0.7, 0.8, 0.1, 0.0, 0.0, 0.0], [1, 1, 1, 0, 0, 0], 0.0, "the early stages turned all negatives away"),
        ([0.6, 0.3, 0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0, 0, 0], 0.5, "two of four may pass, but the second ties"),
        ([0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 1, 0, 0], 0.4, "0.4 of 2 negatives is less than one: none may pass"),
    ):
        yield recall_case(np.array(scores), np.array(labels), rate, why)
    rng = np.random.default_rng(156)
    for num, rate in ((12, 0.25), (24, 0.125), (40, 0.3)):
        labels = (rng.random(num) < 0.4).astype(np.int64)
        scores = np.clip(rng.normal(0.3 + 0.3 * labels, 0.25), 0, 1).round(1)
        yield recall_case(scores, labels, rate, f"{num} samples with ties, some turned away")


def gate_case(x: np.ndarray, scores: list | np.ndarray, threshold: float, why: str) -> Case:
    scores = np.asarray(scores, float)
    rows = threshold_control(scores, threshold)
    return Case((x, scores, threshold), (x[rows], rows), why=why)


def right_and_indices(want: tuple[np.ndarray, np.ndarray], got: Any) -> str:
    """Where the rows stood must be whole numbers by their type as well: 1.0 is no index."""
    if complaint := difference(got, want):
        return complaint
    kind = np.asarray(got[1]).dtype
    return "" if kind.kind in "iu" else f"The second value holds {kind}: it cannot be used as an index."


def back_case(gy: np.ndarray, rows: list | np.ndarray, num: int, why: str) -> Case:
    """The right answer from the library's gather, by automatic differentiation."""
    rows = np.asarray(rows, np.int64)
    x = Tensor(np.ones((num, *gy.shape[1:])), requires_grad=True)
    take_rows(x, rows).backward(gy)
    return Case((gy, rows, num), x.grad, why=why)


def by_autograd(
    parts: list[np.ndarray], rows24: np.ndarray, rows48: np.ndarray, weights: tuple[float, float, float]
) -> np.ndarray:
    """A loss whose gradients at the three branches are `parts`, differentiated by the features that they share."""
    features = Tensor(np.ones_like(parts[0]), requires_grad=True)
    second = take_rows(features, rows24)
    third = take_rows(second, rows48)
    terms = [(x * Tensor(part)).sum() * w for x, part, w in zip((features, second, third), parts, weights, strict=True)]
    sum(terms[1:], start=terms[0]).backward()
    return features.grad


def recall_case(scores: np.ndarray, labels: np.ndarray, rate: float, why: str) -> Case:
    """Every threshold that could matter is tried."""
    faces, negatives = scores[labels == 1], scores[labels == 0]
    allowed = [t for t in (0.0, *scores) if (negatives > t).sum() <= rate * len(negatives)]
    want = max((faces > t).mean() for t in allowed)
    return Case((scores, labels, rate), float(want), why=why, picture=partial(draw_scores, scores, labels))


def draw_scores(scores: np.ndarray, labels: np.ndarray, got: float) -> Figure:
    figure = new_figure(6, 1.8)
    axes = figure.add_subplot()
    for label, name, colour in ((1, "faces", COLOURS[6]), (0, "negatives", COLOURS[5])):
        axes.plot(scores[labels == label], np.full((labels == label).sum(), label), "o", color=colour, label=name)
    axes.set(xlabel="score", yticks=(0, 1), yticklabels=("negatives", "faces"), ylim=(-0.6, 1.6), xlim=(-0.05, 1.05))
    axes.set_title(f"your recall: {float(got):.3f}")
    return figure
