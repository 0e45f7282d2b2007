"""Checks of lesson 19: overlap at the worst place, the second pass of matching, samples by group, weighted draws, loss.

Group Sampling, sections 4.1 and 4.2. Letters: A anchors, G faces, K anchors drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minidetect.checks.case import Case, check
from minidetect.reference.boxes import iou as iou_of_two

EPS = 1e-6  # of the weights


@check("19.1")
def worst_overlap() -> Iterator[Case]:
    """side of a square face, scale and stride of square anchors -> the IoU with the best anchor at the worst place."""
    for side, scale, stride, want, why in (
        (16, 16, 16, 1 / 7, "half a side away along both axes: a quarter of the face is shared"),
        (16, 16, 8, 9 / 23, "4 pixels away: 12 x 12 are shared"),
        (16, 16, 4, 196 / 316, "2 pixels away along both axes"),
        (10, 10, 30, 0.0, "the next anchor is farther away than the face is long: nothing is shared"),
        (10, 10, 20, 0.0, "they touch at a corner"),
        (8, 16, 4, 0.25, "a small face anywhere inside the anchor: it cannot share more than itself"),
        (24, 16, 4, 256 / 576, "a large face around the anchor: what is shared is the anchor"),
        (12, 16, 8, 100 / 300, "the face sticks out by 2 pixels: 10 x 10 are shared"),
        (20, 16, 8, 196 / 460, "a face larger than the anchor"),
    ):
        yield Case((side, scale, stride), want, why=why)
    rng = np.random.default_rng(191)
    for _ in range(5):
        side, scale, stride = (int(n) for n in rng.integers((6, 8, 3), (40, 40, 24)))
        why = "tried at many places of the face, by counting"
        yield Case((side, scale, stride), worst_of_places(side, scale, stride), why=why)


@check("19.2")
def second_pass() -> Iterator[Case]:
    """iou (A, G), matched (A,) after the first pass, least -> matched (A,) after the second."""
    for iou, matched, least, want, why in (
        ([[0.5], [0.3]], [-2, -1], 0.4, [0, -1], "0.5 was not enough in the first pass, now it is"),
        ([[0.4], [0.3]], [-2, -1], 0.4, [0, -1], "exactly the least overlap is enough"),
        ([[0.39], [0.3]], [-1, -1], 0.4, [-1, -1], "condition 2: nothing reaches 0.4, the face goes without"),
        ([[0.5], [0.3]], [-2, -1], 0.55, [-2, -1], "condition 2 with another threshold"),
        ([[0.7], [0.5]], [0, -2], 0.4, [0, -2], "the face has an anchor already"),
        ([[0.45], [0.55], [0.5]], [-2, -2, -2], 0.4, [-2, 0, -2], "three would do: the face gets one, its best"),
        ([[0.5], [0.5]], [-2, -2], 0.4, [0, -2], "two equally good ones: the first"),
        ([[0.55, 0.5], [0.7, 0.1]], [-2, 0], 0.4, [-2, 0],
         "condition 3: the only anchor for face 1 overlaps face 0 more, though face 0 has another"),
        ([[0.7, 0.7], [0.1, 0.3]], [1, -1], 0.4, [1, -1],
         "condition 1: anchor 0 suits both equally well and stands for face 1: face 0 may not take it away"),
        ([[0.5, 0.5], [0.1, 0.3]], [-2, -1], 0.4, [0, -1], "equal overlaps: the anchor suits the first face"),
        ([[0.1, 0.5], [0.45, 0.2], [0.0, 0.0]], [-2, -2, -1], 0.4, [1, 0, -1], "two faces without: each gets its own"),
        ([[0.5, 0.1, 0.7], [0.8, 0.2, 0.1], [0.2, 0.45, 0.3]], [2, 0, -2], 0.4, [2, 0, 1], "only face 1 is without"),
    ):
        yield Case((np.array(iou), np.array(matched), least), np.array(want), why=why)
    yield Case((np.zeros((3, 0)), np.full(3, -1), 0.4), np.full(3, -1), why="no face")
    yield Case((np.zeros((0, 2)), np.zeros(0, np.int64), 0.4), np.zeros(0, np.int64), why="no anchor")
    rng = np.random.default_rng(192)
    for num, faces in ((8, 3), (20, 6), (40, 9)):
        iou = np.round(rng.random((num, faces)) ** 2 * 0.75, 1)
        best = iou.max(axis=1)
        matched = np.where(best >= 0.6, iou.argmax(axis=1), np.where(best < 0.4, -1, -2))
        why = f"{num} anchors and {faces} faces, with ties"
        yield Case((iou, matched, 0.4), np.array(second_pass_in_words(iou, matched, 0.4)), why=why)


@check("19.3")
def sample_groups() -> Iterator[Case]:
    """labels (A,) 1, 0, -1; groups (A,); num; rng -> a list of (positives, negatives), rows, one pair a group."""
    for parts, num, why in (
        ([(4, 9, 0)], 8, "enough of everything: 2 objects and 6 of background"),
        ([(9, 20, 0)], 8, "four times as many objects as wanted: still 2 and 6"),
        ([(1, 20, 0)], 8, "one object instead of two: background fills up to 8"),
        ([(0, 20, 0)], 8, "no object: 8 of background"),
        ([(9, 4, 0)], 8, "too little background: objects do not fill up"),
        ([(3, 9, 9)], 8, "anchors with the label -1 are never drawn"),
        ([(5, 9, 1), (1, 30, 2), (0, 9, 0)], 8, "three groups, two of them short of objects"),
        ([(2, 3, 0), (0, 0, 4)], 8, "a group of nothing but -1: a pair without rows"),
    ):
        yield sample_case(parts, num, why)
    rng = np.random.default_rng(193)
    labels, groups = rng.choice([1, 0, -1], 90, p=(0.2, 0.6, 0.2)), rng.choice([0, 2, 5], 90)
    given = (labels, groups, 12, np.random.default_rng(1))
    yield Case(given, accept=judge_of_samples(*given[:3]), why="the groups are 0, 2 and 5, in any order")
    labels = np.repeat([1, 0], 4000)
    given = (labels, np.zeros(8000, np.int64), 400, np.random.default_rng(2))
    yield Case(given, accept=judge_of_luck(labels), why="100 of 4000 objects, each as likely as any other")


@check("19.4")
def weighted_rows() -> Iterator[Case]:
    """losses (A,), r (A,) in (0, 1), num -> the rows of the largest weights (K,), the first drawn first."""
    for losses, r, num, want, why in (
        ([1.0, 1.0, 1.0], [0.2, 0.8, 0.5], 3, [1, 2, 0], "equal losses: luck decides"),
        ([0.1, 2.0, 0.5], [0.5, 0.5, 0.5], 3, [1, 2, 0], "equal luck: the larger loss"),
        ([4.0, 0.5], [0.2, 0.9], 1, [1], "0.2 ** 0.25 is 0.67, 0.9 ** 2 is 0.81: the easy one is lucky"),
        ([4.0, 0.5], [0.2, 0.5], 1, [0], "0.67 against 0.25"),
        ([1.0, 2.0], [0.3, 0.3], 5, [1, 0], "five are wanted, two are there"),
        ([0.0, 0.3], [0.9, 0.1], 2, [1, 0], "a loss of 0 comes last"),
        ([0.0, 0.0, 0.0], [0.2, 0.8, 0.5], 2, [1, 2], "losses of 0: 1e-6 is left of each, and luck decides"),
        ([1e-3, 1e-3, 1e-3], [0.1, 0.3, 0.2], 2, [1, 2], "0.1 ** 1000 is 0 for the computer, and so is 0.3 ** 1000"),
        ([1e-3, 3e-3, 2e-3], [0.3, 0.3, 0.3], 3, [1, 2, 0], "powers that are all 0 for the computer"),
        ([2e-6, 1e-6], [0.5, 0.4], 1, [0], "losses as small as 1e-6"),
    ):
        yield Case((np.array(losses), np.array(r), num), np.array(want), why=why)
    yield Case((np.zeros(0), np.zeros(0), 4), np.zeros(0, np.int64), why="no anchor")
    rng = np.random.default_rng(194)
    for count, num in ((12, 5), (60, 60)):
        losses, r = np.exp(rng.normal(-5, 3, count)), 1 - rng.random(count)
        keys = [math.log(chance) / (loss + EPS) for chance, loss in zip(r.tolist(), losses.tolist(), strict=True)]
        want = sorted(range(count), key=lambda i, keys=keys: -keys[i])[:num]
        yield Case((losses, r, num), np.array(want), why=f"{num} of {count}, losses from 1e-8 to 1")
    classes = np.array([0.2, 0.8, 2.0, 5.0])
    for factor in (1.0, 1e-3):
        losses, r = np.tile(factor * classes, 10_000), 1 - rng.random(40_000)
        why = f"the law: losses of {', '.join(f'{loss:g}' for loss in factor * classes)}, 10,000 of each"
        yield Case((losses, r, 1000), accept=judge_of_law(classes), why=why)


@check("19.5")
def group_loss() -> Iterator[Case]:
    """class_losses (A,), box_losses (A,), samples: pairs of rows (positives, negatives) -> section 4.2's loss."""
    nan = np.nan
    for classes, boxes, samples, want, why in (
        ([1.0, 2.0, 3.0, 2.0], [5.0, nan, nan, nan], [([0], [1, 2, 3])], 7.0, "one group: a mean of 2, and 5"),
        ([1.0, 2.0, 3.0, 2.0], [5.0, nan, nan, nan], [([0], [1])], 6.5, "only what is sampled counts"),
        ([1.0, 3.0, 2.0, 4.0], [2.0, nan, 6.0, nan], [([0], [1]), ([2], [3])], 13.0, "the sum of two groups, no mean"),
        ([1.0, 3.0, 5.0, 2.0, 4.0], [2.0, 4.0, nan, 6.0, nan], [([0, 1], [2]), ([3], [4])], 15.0,
         "groups of different size: each has divisors of its own"),
        ([1.0, 3.0, 8.0], [nan, nan, nan], [([], [0, 1])], 2.0, "no object: nothing to say of boxes, and no 0 / 0"),
        ([1.0, 3.0, 8.0], [nan, nan, 2.0], [([], []), ([2], [0])], 6.5, "a group without samples adds nothing"),
        ([1.0, 3.0], [nan, 2.0], [], 0.0, "no group at all"),
    ):
        pairs = [(np.array(p, np.int64), np.array(n, np.int64)) for p, n in samples]
        yield Case((np.array(classes), np.array(boxes), pairs), want, why=why)
    rng = np.random.default_rng(195)
    classes, boxes = rng.uniform(0, 3, 50), np.where(np.arange(50) < 20, rng.uniform(0, 1, 50), nan)
    rows = rng.permutation(20), 20 + rng.permutation(30)
    pairs = [(rows[0][:2], rows[1][:14]), (rows[0][2:9], rows[1][14:20]), (rows[0][9:], rows[1][20:23])]
    want = sum(mean_of(classes, [*p, *n]) + mean_of(boxes, p) for p, n in pairs)
    yield Case((classes, boxes, pairs), want, why="three groups of 2 + 14, 7 + 6 and 11 + 3")


def worst_of_places(side: float, scale: float, stride: float) -> float:
    """Lay the face at many places of a cell, half a stride along each axis among them; the best of 16 anchors each."""
    worst, corners = 1.0, [(k * stride, m * stride) for k in (-1, 0, 1, 2) for m in (-1, 0, 1, 2)]
    for dx in np.linspace(0, stride, 7):
        for dy in np.linspace(0, stride, 7):
            face = (dx - side / 2, dy - side / 2, dx + side / 2, dy + side / 2)
            around = [(x - scale / 2, y - scale / 2, x + scale / 2, y + scale / 2) for x, y in corners]
            worst = min(worst, max(iou_of_two(face, anchor) for anchor in around))
    return worst


def second_pass_in_words(iou: np.ndarray, matched: np.ndarray, least: float) -> list[int]:
    """The three conditions as they are written, one face after the other."""
    out = matched.tolist()
    for face in range(iou.shape[1]):
        if face in matched.tolist():
            continue
        candidates = [
            (-iou[i, face], i) for i, row in enumerate(iou.tolist())
            if out[i] < 0 and row[face] >= least and row.index(max(row)) == face
        ]  # fmt: skip
        if candidates:
            out[min(candidates)[1]] = face
    return out


def sample_case(parts: Sequence[tuple[int, int, int]], num: int, why: str) -> Case:
    """parts: of each group so many objects, so much background, so many with the label -1; mixed up."""
    labels = np.concatenate([np.repeat([1, 0, -1], counts) for counts in parts])
    groups = np.repeat(np.arange(len(parts)), [sum(counts) for counts in parts])
    mixed = np.random.default_rng(len(labels)).permutation(len(labels))
    labels, groups = labels[mixed], groups[mixed]
    given = (labels, groups, num, np.random.default_rng(0))
    return Case(given, accept=judge_of_samples(labels, groups, num), why=why)


def judge_of_samples(labels: np.ndarray, groups: np.ndarray, num: int) -> Callable[[Sequence], str]:
    """What is wrong with samples of these anchors, in words."""

    def judge(got: Sequence) -> str:
        names = sorted({int(group) for group in groups})
        if len(got) != len(names):
            return f"There are {len(names)} groups and {len(got)} pairs."
        for group, (positives, negatives) in zip(names, got, strict=True):
            held = [int(((groups == group) & (labels == label)).sum()) for label in (1, 0)]
            most = min(held[0], num // 4)
            for rows, label, want in ((positives, 1, most), (negatives, 0, min(held[1], num - most))):
                rows = [int(i) for i in rows]
                said = f"Group {group}: of {held[0]} objects and {held[1]} of background, {num} wanted"
                if any(groups[i] != group or labels[i] != label for i in rows):
                    return f"{said}: a row of another group or label is among those for the label {label}."
                if len(set(rows)) != len(rows):
                    return f"{said}: a row is drawn twice."
                if len(rows) != want:
                    return f"{said}: {len(rows)} rows with the label {label}; right is {want}."
        return ""

    return judge


def judge_of_luck(labels: np.ndarray) -> Callable[[Sequence], str]:
    """Whether objects from all over the list are drawn: each quarter of it has a fair share."""
    rows = np.flatnonzero(labels == 1)

    def judge(got: Sequence) -> str:
        shares = np.histogram(np.asarray(got[0][0]), bins=4, range=(rows[0], rows[-1] + 1))[0] / len(got[0][0])
        fair = (abs(shares - 0.25) < 0.15).all()  # 100 draws: more than three standard deviations
        return "" if fair else f"Of the objects drawn, {shares} come from each quarter of the list."

    return judge


def judge_of_law(classes: np.ndarray) -> Callable[[np.ndarray], str]:
    """Whether the draws fall on each class of losses as often as its share of the sum."""
    law = classes / classes.sum()

    def judge(got: np.ndarray) -> str:
        rows = np.asarray(got)
        if rows.shape != (1000,):
            return f"Its shape is {rows.shape}; right is (1000,)."
        shares = np.bincount(rows % len(classes), minlength=len(classes)) / len(rows)
        fair = abs(shares - law).max() < 0.06  # almost four standard deviations
        return "" if fair else f"Shares of the draws {shares.round(3)}; by their losses {law.round(3)}."

    return judge


def mean_of(values: np.ndarray, rows: Sequence[int]) -> float:
    return sum(float(values[i]) for i in rows) / len(rows)
