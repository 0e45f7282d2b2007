"""Checks of lesson 09: receptive fields, a unit's best regions, kinds of mistakes, masked regions, accuracy of pixels.

Letters: N regions of an image, G objects of an image, H W size of an image, K classes without background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minidetect.checks.case import Case, check, difference
from minidetect.reference import boxes as slow

ALEX_NET = [(11, 4, 0), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0)]


@check("9.1")
def receptive_field() -> Iterator[Case]:
    """Layers (kernel, stride, padding), the first one first -> size, stride, start."""
    for layers, why in (
        ([], "no layer: a pixel sees itself"),
        ([(3, 1, 0)], "one convolution of 3 without padding: output 0 sees pixels 0, 1, 2"),
        ([(3, 1, 1)], "padding 1: output 0 begins one pixel outside"),
        ([(3, 2, 0)], "one layer of stride 2 sees 3 pixels; its stride is felt by the layers behind it"),
        ([(3, 1, 1), (3, 1, 1)], "two convolutions of 3 see 5, not 6"),
        ([(3, 2, 1), (3, 1, 1)], "the second layer's neighbours are 2 pixels apart, and so is its padding"),
        ([(3, 1, 1), (3, 2, 1)], "the same layers the other way round"),
        ([(5, 2, 2), (3, 3, 0), (2, 2, 0)], "three layers with strides of their own"),
        ([(1, 2, 0), (1, 3, 0)], "kernels of 1: strides multiply, the size stays 1"),
        ([(3, 1, 1), (3, 2, 1), (2, 2, 0), (3, 1, 1)], "convolutions with a pooling between them"),
        (ALEX_NET, "the paper's network up to pool5: 195 pixels, 32 apart"),
    ):
        want = field_by_walking(layers)
        yield Case((layers,), accept=partial(right_integers, want), want=want, why=why)


@check("9.2")
def top_regions() -> Iterator[Case]:
    """A unit's activations and the boxes, image by image; how many; threshold -> [(image, row)], the best first."""
    a, b, far = [0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 70, 60]  # IoU of a and b: 90 / 110
    for activations, boxes, top, threshold, why in (
        ([[2.0, 5.0]], [[a, far]], 2, 0.3, "two regions apart: both, the stronger first"),
        ([[2.0, 5.0, 3.0]], [[a, b, far]], 3, 0.3, "row 0 lies under the stronger row 1 and is left out"),
        ([[3.0, 2.0, 1.0]], [[a, [0, 4, 10, 14], [0, 8, 10, 18]]], 3, 0.3, "row 1 is out and cannot strike row 2"),
        ([[2.0], [5.0]], [[a], [a]], 2, 0.3, "the same place in two images is not the same region: both stay"),
        ([[1.0, 4.0], [3.0, 2.0]], [[a, far], [a, far]], 3, 0.3, "one ranking of all images, cut after 3"),
        ([[4.0, 3.0, 1.0], [2.0]], [[a, b, far], [a]], 2, 0.3, "first suppress, then cut: (1, 0) takes the free place"),
        ([[0.0, 1.0]], [[a, far]], 2, 0.3, "a region that does not excite the unit at all is not shown"),
        ([[0.0], [0.0]], [[a], [far]], 4, 0.3, "nobody excites it: an empty list"),
        ([[3.0, 3.0], [3.0]], [[far, a], [a]], 3, 0.3, "equal ones: the earlier image first, then the earlier row"),
        ([[2.0, 1.0]], [[[0, 0, 10, 10], [0, 0, 10, 5]]], 2, 0.5, "an overlap of exactly the threshold may stay"),
        ([[2.0, 1.0]], [[[0, 0, 10, 10], [0, 0, 10, 6]]], 2, 0.5, "an overlap of 0.6 does not"),
        ([[], [2.0]], [np.zeros((0, 4)), [a]], 2, 0.3, "an image without proposals still counts as image 0"),
        ([[2.0]], [[a]], 0, 0.3, "none are wanted"),
        ([[7, 3], [5]], [[a, far], [a]], 5, 0.3, "fewer regions than places: all of them"),
    ):
        yield top_case(activations, boxes, top, threshold, why)
    rng = np.random.default_rng(92)
    for numbers, top in (((4, 3), 3), ((6, 0, 5), 5), ((9, 7, 8), 9)):
        activations = [np.maximum(rng.integers(-2, 9, n), 0) / 2 for n in numbers]
        corners = [rng.integers(0, 30, (n, 2)).astype(float) for n in numbers]
        boxes = [np.concatenate([c, c + rng.integers(8, 30, c.shape)], axis=1) for c in corners]
        yield top_case(activations, boxes, top, 0.3, f"{len(numbers)} images of {numbers} regions, drawn at random")


@check("9.3")
def error_kind() -> Iterator[Case]:
    """overlaps, labels, taken (G,), the detection's label, similar classes -> one of five words."""
    for overlaps, labels, taken, similar, want, why in (
        ([0.8], [2], [0], [3], "correct", "an object of its class, found for the first time"),
        ([0.5], [2], [0], [3], "correct", "an overlap of exactly 0.5 is enough"),
        ([0.49], [2], [0], [3], "localisation", "its class is there, but the box is off"),
        ([0.1], [2], [0], [3], "localisation", "an overlap of exactly 0.1 is enough to count as off"),
        ([0.09], [2], [0], [3], "background", "0.09 is as good as nothing"),
        ([0.8], [2], [1], [3], "localisation", "a second box on an object that a better one has taken"),
        ([0.8], [3], [0], [3], "similar", "it sits on an object of a similar class"),
        ([0.8], [4], [0], [3], "other", "it sits on an object of a class that is not similar"),
        ([], [], [], [3], "background", "an image without objects"),
        ([0.2, 0.9], [2, 3], [0, 0], [3], "localisation", "its own class goes first, however little it overlaps"),
        ([0.9, 0.2], [4, 3], [0, 0], [3], "similar", "similar goes before other, however little it overlaps"),
        ([0.6, 0.7], [2, 2], [0, 1], [3], "localisation", "only the one overlapped most counts; it is taken"),
        ([0.6, 0.7], [2, 2], [1, 0], [3], "correct", "the one overlapped most is free"),
        ([0.7, 0.6], [4, 2], [1, 0], [3], "correct", "an object of another class may overlap more, and be taken"),
        ([0.7, 0.05], [1, 2], [0, 0], [1, 3], "similar", "two classes are similar; its own is there but not touched"),
        ([0.05, 0.3], [3, 4], [0, 0], [3], "other", "the similar one is not touched"),
        ([0.3], [4], [0], [], "other", "no class is similar"),
    ):
        given = (np.array(overlaps, float), np.array(labels, np.int64), np.array(taken, bool), 2, similar)
        yield Case(given, want, why=why)
    rng = np.random.default_rng(93)
    for num, label, similar in ((2, 1, [3]), (3, 3, [1, 4]), (4, 4, []), (5, 2, [1]), (5, 1, [2, 4]), (6, 3, [])):
        overlaps, labels = rng.integers(0, 13, num) / 20, rng.integers(1, 5, num)
        given = (overlaps, labels, rng.random(num) < 0.5, label, similar)
        yield Case(given, kind_by_rules(*given), why=f"{num} objects drawn at random, the detection claims {label}")


@check("9.4")
def foreground() -> Iterator[Case]:
    """image (3, H, W), mask (H, W), mean (3,) -> the image with the mean around the mask (3, H, W), the box (4,)."""
    mean = np.array([10.5, 20.25, 30.0])
    rng = np.random.default_rng(94)
    small, pixel = np.arange(1.0, 19).reshape(3, 2, 3), np.array([[False, True, False], [False, False, False]])
    yield foreground_case(small, pixel, mean, "one pixel, in column 1 of row 0: the box is one pixel wide, x first")
    for height, width, box, why in (
        (3, 5, (1, 0, 4, 2), "three columns, two rows"),
        (4, 3, (0, 0, 3, 4), "everything belongs to it"),
        (6, 8, (2, 1, 7, 4), "a region inside"),
    ):
        mask = np.zeros((height, width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        yield foreground_case(rng.normal(0, 50, (3, height, width)), mask, mean, why)
    image, hole = rng.integers(0, 256, (3, 5, 7)).astype(np.uint8), np.zeros((5, 7), bool)
    hole[1:5, 2:6] = True
    hole[2:4, 3:5] = False
    yield foreground_case(image, hole, mean, "a ring in bytes: its hole is background, and a mean of 10.5 is no byte")
    two = np.zeros((6, 5), bool)
    two[0, 1], two[4, 3] = True, True
    yield foreground_case(rng.normal(size=(3, 6, 5)), two, mean / 8, "two pieces, one box around both")
    yield foreground_case(rng.normal(size=(3, 6, 5)), two, np.zeros(3), "normalised already: the mean is 0")
    yield foreground_case(np.zeros((3, 6, 5)), two, mean, "a black object stays black")
    grey = np.where(np.arange(5) < 2, mean[:, None, None], rng.normal(0, 50, (3, 4, 5)))  # columns 0 and 1
    mask = np.tile(np.arange(5) > 0, (4, 1))
    yield foreground_case(grey, mask, mean, "column 1 has the mean's colour, and belongs to the region all the same")


@check("9.5")
def segmentation_accuracy() -> Iterator[Case]:
    """Lists of label pictures (H, W), predicted and true, and K -> the mean of the classes' IoU."""
    for predicted, truth, classes, why in (
        ([[[0, 1]]], [[[0, 1]]], 1, "all right: 1"),
        ([[[0, 0, 1, 1]]], [[[0, 1, 1, 1]]], 1, "background 1/2, class 1 2/3"),
        ([[[0, 0, 0, 1]]], [[[0, 0, 0, 1]]], 3, "classes 2 and 3 are nowhere, so they do not count"),
        ([[[0, 2, 0, 1]]], [[[0, 0, 0, 1]]], 3, "class 2 is predicted where it is not: it counts, with 0"),
        ([[[0, 0, 0, 1]]], [[[2, 0, 0, 1]]], 2, "class 2 is missed: it counts, with 0"),
        ([[[0, 1, 1]]], [[[0, 1, 2]]], 2, "a pixel of class 2 taken for 1 costs both classes"),
        ([[[1, 0, 0]], [[1, 1, 1]]], [[[1, 1, 0]], [[1, 1, 1]]], 1, "pixels of all images are counted together"),
        ([[[0, 0], [0, 0]], [[1, 1, 1]]], [[[0, 0], [0, 1]], [[0, 1, 1]]], 1, "images of two sizes"),
    ):
        yield accuracy_case([np.array(p) for p in predicted], [np.array(t) for t in truth], classes, why)
    rng = np.random.default_rng(95)
    for sizes, classes in ((((3, 4),), 2), (((4, 5), (3, 7)), 3), (((6, 4), (5, 3), (2, 9)), 4)):
        truth = [rng.integers(0, classes + 1, size) for size in sizes]
        predicted = [np.where(rng.random(t.shape) < 0.6, t, rng.integers(0, classes + 1, t.shape)) for t in truth]
        yield accuracy_case(predicted, truth, classes, f"{len(sizes)} pictures with labels drawn at random")


# ------------------------------------------------------------------ the cases


def right_integers(want: tuple[int, ...], got: Any) -> str:
    values = tuple(got)
    if any(float(v) != int(v) for v in values):
        return "They should be whole numbers."
    return difference(values, want)


def field_by_walking(layers: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    """Which pixels outputs 0 and 1 see, by following every connection back: no formula."""
    seen = []
    for output in (0, 1):
        places = {output}
        for kernel, step, padding in reversed(layers):
            places = {place * step - padding + j for place in places for j in range(kernel)}
        seen.append(places)
    first, second = seen
    return max(first) - min(first) + 1, min(second) - min(first), min(first)


def top_case(activations: Sequence, boxes: Sequence, top: int, threshold: float, why: str) -> Case:
    activations = [np.array(values, float) for values in activations]
    boxes = [np.array(of_image, float).reshape(-1, 4) for of_image in boxes]
    left = []
    for image, (values, of_image) in enumerate(zip(activations, boxes, strict=True)):
        rows = [row for row in range(len(values)) if values[row] > 0]
        kept = slow.nms([of_image[row] for row in rows], [values[row] for row in rows], threshold)
        left += [(-values[rows[k]], image, rows[k]) for k in kept]
    want = [(image, row) for _, image, row in sorted(left)[:top]]
    return Case((activations, boxes, top, threshold), want, accept=partial(same_regions, want), why=why)


def same_regions(want: list[tuple[int, int]], got: Any) -> str:
    pairs = [tuple(int(v) for v in pair) for pair in got]
    if any(len(pair) != 2 for pair in pairs):
        return "Each region should be a pair: image, row."
    return "" if pairs == want else f"It should be {want}."


def kind_by_rules(overlaps: np.ndarray, labels: np.ndarray, taken: np.ndarray, label: int, similar: list) -> str:
    objects = list(zip(overlaps, labels, taken, strict=True))
    own = [(overlap, -i, is_taken) for i, (overlap, of, is_taken) in enumerate(objects) if of == label]
    if own and max(own)[0] >= 0.5 and not max(own)[2]:
        return "correct"
    touched = {int(of) for overlap, of, _ in objects if overlap >= 0.1}
    for kind, classes in (("localisation", {label}), ("similar", set(similar)), ("other", {1, 2, 3, 4})):
        if touched & classes:
            return kind
    return "background"


def foreground_case(image: np.ndarray, mask: np.ndarray, mean: np.ndarray, why: str) -> Case:
    want = np.empty(image.shape)
    for c, y, x in np.ndindex(image.shape):
        want[c, y, x] = image[c, y, x] if mask[y, x] else mean[c]
    points = np.argwhere(mask)  # (P, 2) row, column
    (top, left), (bottom, right) = points.min(axis=0), points.max(axis=0)
    box = np.array([left, top, right + 1, bottom + 1])
    return Case((image, mask, mean), (want, box), why=why)


def accuracy_case(predicted: list[np.ndarray], truth: list[np.ndarray], num_classes: int, why: str) -> Case:
    counts = np.zeros((num_classes + 1, num_classes + 1))  # true label, predicted label
    for p, t in zip(predicted, truth, strict=True):
        for guess, right in zip(p.ravel(), t.ravel(), strict=True):
            counts[right, guess] += 1
    hits = [counts[k, k] for k in range(num_classes + 1)]
    covered = [counts[k].sum() + counts[:, k].sum() - counts[k, k] for k in range(num_classes + 1)]
    shares = [hit / total for hit, total in zip(hits, covered, strict=True) if total]
    return Case((predicted, truth, num_classes), float(sum(shares) / len(shares)), why=why)
