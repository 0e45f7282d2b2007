"""Checks of lesson 11: an interval for a difference, two layers for one, which parameters learn, recall, scales.

Letters: N images, B draws, O I outputs and inputs of a layer, t a rank, G objects, R proposals, S scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from minidetect.checks.case import Case, check, difference
from minidetect.visualize import COLOURS, new_figure


@check("11.1")
def paired_interval() -> Iterator[Case]:
    """Two lists of N results, a measure of a list, draws (B, N) of images -> an interval for the difference."""
    first, second = [1.0, 2.0, 3.0], [2.0, 2.0, 7.0]
    yield interval_case(first, second, mean, [[0, 1, 2]], "one draw of every image: both ends are its difference")
    yield interval_case(first, second, mean, [[2, 2, 0]], "image 2 was drawn twice, image 1 not at all")
    yield interval_case(second, first, mean, [[0, 1, 2]], "the second is worse here, so the difference is negative")
    yield interval_case(first, second, mean, [[0, 1, 2], [2, 2, 2]], "two draws: 2.5 % of the way, and 97.5 %")
    first, second = [(1, 2), (0, 9), (3, 4)], [(2, 2), (1, 9), (3, 4)]
    draws = [[0, 1, 2], [0, 0, 2], [1, 1, 0], [1, 1, 2]]
    why = "an image is (found, objects), the measure all found / all objects: not a mean over images"
    yield interval_case(first, second, share, draws, why)
    yield interval_case(first, first, share, draws, "a detector against itself: no draw shows a difference")
    rng = np.random.default_rng(111)
    for num, count, measure in ((5, 40, mean), (8, 100, share), (7, 60, median)):
        hits, total = rng.integers(0, 4, (2, num)), rng.integers(3, 9, num)
        parts = [
            [(int(h), int(t)) for h, t in zip(row, total, strict=True)] if measure is share else [float(h) for h in row]
            for row in hits
        ]
        draws = rng.integers(num, size=(count, num)).tolist()
        yield interval_case(*parts, measure, draws, f"{num} images, {count} draws, {measure.__name__}")


@check("11.2")
def svd_pair() -> Iterator[Case]:
    """weight (O, I), bias (O,), rank t -> ((weight, bias), (weight, bias)) of the two layers, None for no bias."""
    stripe = np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    yield layers_case(stripe, np.array([5.0, 7.0]), 1, "of the singular values 3 and 2 the larger one stays")
    yield layers_case(stripe, np.array([5.0, 7.0]), 2, "full rank: nothing is lost")
    yield layers_case(stripe.T.copy(), np.array([5.0, 7.0, -1.0]), 1, "more outputs than inputs")
    rng = np.random.default_rng(112)
    for shape, rank, dtype in (((4, 6), 2, np.float64), ((7, 3), 2, np.float32), ((5, 5), 3, np.float64)):
        weight, bias = rng.normal(size=shape).astype(dtype), rng.normal(size=shape[0]).astype(dtype)
        yield layers_case(weight, bias, rank, f"weights {shape}, rank {rank}, {dtype.__name__}")


@check("11.3")
def largest_rank() -> Iterator[Case]:
    """outputs, inputs, factor -> the largest rank at which factor times fewer weights are left."""
    for outputs, inputs, factor, want, why in (
        (4096, 25088, 3, 1173, "fc6 of VGG-16 with a third of its weights"),
        (4, 12, 1, 3, "rank 3 has 3 (4 + 12) = 48 weights, exactly as many as before: that is allowed"),
        (4, 12, 3, 1, "rank 1 has 16 weights, exactly a third"),
        (4, 12, 3.5, 0, "16 weights are more than 48 / 3.5: no rank will do"),
        (5, 3, 1, 1, "rank 2 has 16 weights, the layer has 15"),
        (5, 5, 2.5, 1, "rank 1 has 10 weights, exactly 25 / 2.5; round down once, at the end"),
        (3, 5, 1, 1, "outputs and inputs may change places"),
        (4096, 4096, 8, 256, "fc7 of VGG-16"),
        (100, 60, 2, 18, "6000 / 320 is 18.75, and rank 19 has 3040 weights, more than half"),
    ):
        yield Case((outputs, inputs, factor), want, accept=partial(right_rank, want), why=why)


@check("11.4")
def learning() -> Iterator[Case]:
    """Names of parameters, number of frozen convolutions -> the names of those that learn."""
    small = parameter_names(2)
    yield names_case(small, 0, "nothing is frozen, so all learn")
    yield names_case(small, 1, "conv1 is layers 0 to 2 with its batch norm; both stay as they are")
    yield names_case(small, 2, "the head is never frozen, however many convolutions are")
    yield names_case(parameter_names(5), 1, "layer 12 begins with a 1 but comes after layer 2")
    yield names_case(parameter_names(5), 4, "layers 0 to 11 are frozen")
    yield names_case(["head.fc6.weight", "head.fc6.bias"], 3, "a list without any convolution")
    yield names_case(["head.layers.0.weight", "backbone.layers.3.weight"], 1, "layer 0 of the head is no convolution")
    yield names_case(["backbone.layers.3.weight"], 1, "layer 3 is the second convolution; only the first is frozen")
    yield names_case([], 2, "no names: an empty list")


@check("11.5")
def average_recall() -> Iterator[Case]:
    """overlaps (G, R), most -> twice the area under the recall from IoU 0.5 to 1."""
    for overlaps, most, want, why in (
        ([[0.7]], 1, 0.4, "found at all thresholds from 0.5 to 0.7: 2 * 0.2"),
        ([[1.0]], 1, 1.0, "an exact proposal counts 1"),
        ([[0.3]], 1, 0.0, "an overlap below 0.5 counts 0, not less"),
        ([[0.5]], 1, 0.0, "found at the threshold 0.5 only, which has no area"),
        ([[0.9], [0.2]], 1, 0.4, "two objects, of which one is missed: the mean of 0.8 and 0"),
        ([[0.2, 0.6, 0.8]], 3, 0.6, "the best of three proposals counts"),
        ([[0.2, 0.6, 0.8]], 2, 0.2, "only the first two may be used"),
        ([[0.2, 0.6, 0.8]], 9, 0.6, "fewer proposals than allowed"),
        ([[0.9, 0.1], [0.6, 0.7]], 2, 0.6, "each object has its own best: 0.9 and 0.7"),
        ([[0.9, 0.8, 0.9], [0.6, 0.1, 0.3]], 3, 0.5, "each object has its own best: 0.9 and 0.6"),
        ([[0.9, 0.8]], 0, 0.0, "no proposal is allowed: nothing is found"),
    ):
        yield recall_case(np.array(overlaps), most, want, why)
    yield recall_case(np.zeros((2, 0)), 5, 0.0, "an image without proposals: nothing is found")
    rng = np.random.default_rng(115)
    for shape, most in (((3, 5), 4), ((6, 4), 3)):
        overlaps = rng.random(shape).round(3)
        thresholds = (np.arange(5000) + 0.5) / 10000 + 0.5  # the middles of 5000 slices
        best = overlaps[:, :most].max(axis=1)
        want = float((best[:, None] >= thresholds).mean())  # the recall's mean from 0.5 to 1
        yield recall_case(overlaps, most, want, f"{shape[0]} objects, {most} of {shape[1]} proposals")


@check("11.6")
def nearest_scale() -> Iterator[Case]:
    """boxes (R, 4), factors (S,), canonical area -> (R,), at which scale each box's area is nearest to it."""
    for boxes, factors, area, why in (
        ([[0, 0, 32, 32]], [1.0, 2.0], 4096, "32 x 32 becomes 64 x 64 at the second scale"),
        ([[0, 0, 64, 64]], [1.0, 2.0], 4096, "64 x 64 is right as it is"),
        ([[5, 10, 37, 42]], [1.0, 2.0], 4096, "32 x 32 again, elsewhere in the image"),
        ([[0, 0, 16, 64]], [1.0, 2.0], 4096, "a narrow box: its area counts, not its longer side"),
        ([[0, 0, 40, 40]], [1.2, 1.95], 4096, "48 x 48 is 1792 away in area, 78 x 78 is 1988; in sides 16 and 14"),
        ([[0, 0, 10, 10]], [1.0, 2.0], 250, "areas 100 and 400 are equally near: the first"),
        ([[0, 0, 10, 10]], [2.0, 1.0], 250, "equally near again, with the larger scale first"),
        ([[0, 0, 20, 20]], [1.0, 2.0, 3.0], 100, "larger than wanted at all scales: the smallest"),
        ([[0, 0, 20, 20], [0, 0, 90, 90]], [0.5, 1.0, 2.0], 1600, "each box goes its own way"),
        ([[0, 0, 20.9, 20.9]], [1.0, 2.0], 1050, "areas 436.8 and 1747.2; with 20 x 20 it would be the second"),
        ([[-10, -4, 10, 16]], [1.0, 2.0], 1600, "a box may begin outside of the image"),
        ([[7, 7, 7, 9]], [1.0, 2.0], 1600, "a box without area is equally far at all scales: the first"),
    ):
        yield scale_case(np.array(boxes), np.array(factors), area, why)
    yield scale_case(np.zeros((0, 4)), np.array([1.0, 2.0]), 4096, "no boxes: an array of shape (0,)")
    rng = np.random.default_rng(116)
    for num, scales in ((7, 5), (6, 3)):
        corner, sides = rng.uniform(-5, 90, (num, 2)), rng.uniform(8, 90, (num, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1)
        yield scale_case(boxes, rng.uniform(0.5, 2.5, scales), 3000.0, f"{num} boxes, {scales} scales")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def median(values: list[float]) -> float:
    return float(np.median(values))


def share(counts: list[tuple[int, int]]) -> float:
    """(found, objects) an image -> the share of all objects."""
    return sum(found for found, _ in counts) / sum(objects for _, objects in counts)


def interval_case(first: list, second: list, measure: Callable, draws: list[list[int]], why: str) -> Case:
    """The right answer one draw at a time, its percentiles by the sorted differences."""
    gained = []
    for draw in draws:
        gained.append(measure([second[i] for i in draw]) - measure([first[i] for i in draw]))
    gained.sort()
    ends = []
    for fraction in (0.025, 0.975):
        place = fraction * (len(gained) - 1)
        low = min(int(place), len(gained) - 2) if len(gained) > 1 else 0
        high = min(low + 1, len(gained) - 1)
        ends.append(gained[low] + (place - low) * (gained[high] - gained[low]))
    return Case((first, second, measure, np.array(draws)), np.array(ends), why=why)


def layers_case(weight: np.ndarray, bias: np.ndarray, rank: int, why: str) -> Case:
    return Case((weight, bias, rank), accept=partial(right_layers, weight, bias, rank), why=why)


def right_layers(weight: np.ndarray, bias: np.ndarray, rank: int, got: Any) -> str:
    """Any signs will do. The best approximation by the eigenvectors of W'W, which need no SVD."""
    (first, first_bias), (second, second_bias) = got
    outputs, inputs = weight.shape
    if np.shape(first) != (rank, inputs) or np.shape(second) != (outputs, rank):
        right = f"{(rank, inputs)} and {(outputs, rank)}"
        return f"The weights are {np.shape(first)} and {np.shape(second)}; right is {right}."
    if first_bias is not None:
        return "The first layer has no bias: give None."
    if second_bias is None or difference(second_bias, bias):
        return "The second layer has the old bias."
    exact = weight.astype(np.float64)
    _, vectors = np.linalg.eigh(exact.T @ exact)  # ascending
    largest = vectors[:, ::-1][:, :rank]
    best = exact @ largest @ largest.T
    if complaint := difference(np.asarray(second, np.float64) @ first, best, rtol=1e-3, atol=1e-4):
        return "The two weights, multiplied, are not the best approximation of this rank: " + complaint
    second = np.asarray(second, np.float64)
    if difference(second.T @ second, np.eye(rank), rtol=1e-3, atol=1e-4):
        return "The columns of the second weights should have length 1: the singular values belong into the first."
    return ""


def right_rank(want: int, got: Any) -> str:
    if not isinstance(got, (int, np.integer)):
        return f"A rank is a whole number, not {type(got).__name__}."
    return "" if got == want else f"{got} is not {want}."


def parameter_names(convolutions: int) -> list[str]:
    """As a Fast R-CNN has them: a convolution, its batch norm and a ReLU without parameters are three layers."""
    names = []
    for i in range(0, 3 * convolutions, 3):
        names += [f"backbone.layers.{i}.weight", f"backbone.layers.{i + 1}.weight", f"backbone.layers.{i + 1}.bias"]
    return [*names, "head.fc6.weight", "head.fc6.bias", "head.logits.weight", "head.logits.bias"]


def names_case(names: list[str], frozen: int, why: str) -> Case:
    stays = [f"backbone.layers.{i}." for i in range(3 * frozen)]
    want = [name for name in names if not any(name.startswith(layer) for layer in stays)]
    return Case((names, frozen), accept=partial(right_names, want), why=why)


def right_names(want: list[str], got: Any) -> str:
    if got is None:
        return "It returned None: is the `return` missing?"
    got = list(got)
    if missing := [name for name in want if name not in got]:
        return f"{missing[0]} learns, and is not in your list."
    if extra := [name for name in got if name not in want]:
        return f"{extra[0]} does not learn, but is in your list."
    return "" if got == want else "The names should keep their order, each once."


def recall_case(overlaps: np.ndarray, most: int, want: float, why: str) -> Case:
    picture = partial(draw_recall, overlaps, most)
    return Case((overlaps, most), want, why=why, picture=picture, atol=2e-4)  # the slices of the random cases


def draw_recall(overlaps: np.ndarray, most: int, got: float) -> Figure:
    thresholds = np.linspace(0, 1, 201)
    best = overlaps[:, :most].max(axis=1, initial=0)
    recall = (best[:, None] >= thresholds).mean(axis=0)
    figure = new_figure(5, 2.6)
    axes = figure.add_subplot()
    axes.step(thresholds, recall, where="pre", color=COLOURS[6])
    axes.fill_between(thresholds, recall, where=thresholds >= 0.5, step="pre", color=COLOURS[1], alpha=0.5)
    axes.set(xlabel="IoU asked for", ylabel="recall", ylim=(0, 1.05), title=f"your average recall: {float(got):.3f}")
    return figure


def scale_case(boxes: np.ndarray, factors: np.ndarray, area: float, why: str) -> Case:
    """The right answer box by box: the first scale that none is nearer than."""
    want = []
    for x1, y1, x2, y2 in boxes:
        away = [abs((x2 - x1) * f * (y2 - y1) * f - area) for f in factors]
        want.append(min(range(len(factors)), key=lambda k: away[k]))
    right = np.array(want, np.int64)
    return Case((boxes, factors, area), right, accept=partial(right_scales, right), why=why)


def right_scales(want: np.ndarray, got: Any) -> str:
    if complaint := difference(got, want):
        return complaint if len(want) < 2 else f"{complaint} All of the right ones: {want.tolist()}."
    kind = np.asarray(got).dtype
    if len(want) and not np.issubdtype(kind, np.integer):
        return f"The number of a scale is a whole number (it will be an index), not {kind}."
    return ""
