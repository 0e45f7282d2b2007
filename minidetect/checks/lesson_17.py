"""Checks of lesson 17: parameters, the inverted residual, a shared weight, multiply-adds, receptive fields.

A layer is a row of a table: ("conv", inputs, outputs, kernel, stride, padding, groups, bias), ("norm", channels),
("prelu", slopes) or ("relu",).

Letters: N images, C channels, T of them inside a block, O channels out, H W size of a map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from minidetect.autograd import Tensor
from minidetect.checks.case import Case, check
from minidetect.nn.layers import Conv2d
from minidetect.nn.normalize import BatchNorm2d
from minidetect.reference import nn_ops as slow

Row = tuple


@check("17.1")
def parameters() -> Iterator[Case]:
    """Rows of a table -> how many numbers are learned."""
    for layers, want, why in (
        ([("conv", 3, 5, 1, 1, 0, 1, False)], 15, "five filters with a weight for each of three channels"),
        ([("conv", 2, 5, 3, 1, 1, 1, False)], 90, "a kernel of 3 has 9 weights for each pair of channels"),
        ([("conv", 3, 5, 1, 1, 0, 1, True)], 20, "a bias for each filter, not for each channel that it reads"),
        ([("conv", 6, 6, 3, 1, 1, 6, False)], 54, "depthwise: each filter reads one channel"),
        ([("conv", 6, 6, 3, 1, 1, 6, True)], 60, "depthwise, with a bias for each filter all the same"),
        ([("conv", 4, 6, 3, 1, 1, 2, False)], 108, "two groups: a filter reads half of the channels"),
        ([("conv", 2, 4, 3, 1, 1, 2, False)], 36, "two groups of one channel, two filters for each: four kernels"),
        ([("conv", 2, 3, 3, 2, 0, 1, False)], 54, "stride and padding change no weight"),
        ([("norm", 7)], 14, "a scale and a shift for each channel; running averages are not learned"),
        ([("prelu", 1)], 1, "one slope for all channels"),
        ([("prelu", 6)], 6, "a slope for each channel"),
        ([("relu",)], 0, "nothing to learn"),
        ([], 0, "no layer"),
        ([("conv", 3, 4, 1, 1, 0, 1, True), ("norm", 4), ("prelu", 1), ("relu",)], 25, "four layers: 16 + 8 + 1 + 0"),
    ):
        yield Case((layers,), want, why=why)
    rng = np.random.default_rng(171)
    for num in (2, 5):
        layers = random_layers(rng, num)
        yield Case((layers,), sum(map(numbers_in, layers)), why=f"{len(layers)} layers drawn at random")


@check("17.2")
def inverted_residual() -> Iterator[Case]:
    """x (N, C, H, W), widen (T, C, 1, 1) or None, filters (T, 1, 3, 3), narrow (O, T, 1, 1), stride, ends -> y."""
    plain = "depthwise, norm, activation, pointwise, norm; two channels out of one, so that nothing is added"
    for shape, t, out, stride, ends, why in (  # the smallest are plain: they are what most mistakes are told by
        ((1, 1, 3, 1), 1, 2, 1, False, plain),
        ((2, 1, 2, 1), 1, 2, 1, False, "two images: a norm takes the mean and the variance of a channel over both"),
        ((1, 1, 3, 2), 1, 1, 1, False, "no widening, one channel, stride 1: x is added"),
        ((1, 1, 3, 2), 1, 1, 1, True, "an activation after the last norm; x is added to what comes out of it"),
        ((1, 1, 2, 2), 2, 2, 1, False, "widening, norm and activation before the rest; nothing is added"),
        ((2, 2, 1, 1), 2, 2, 1, False, "as many channels out as in, and stride 1: x is added"),
        ((2, 2, 1, 1), 2, 2, 2, False, "stride 2 adds nothing, even where a map of one pixel stays one pixel"),
        ((2, 2, 1, 1), 2, 3, 1, False, "other channels out than in: nothing is added"),
        ((2, 2, 1, 1), 2, 1, 1, False, "one channel out of two: NumPy would add it to both, the block does not"),
        ((2, 1, 1, 1), 2, 3, 1, False, "one channel in, three out: NumPy would add it to each"),
        ((2, 2, 1, 1), 2, 2, 1, True, "with an activation at the end: it comes before x is added"),
        ((2, 2, 2, 1), 1, 2, 1, False, "without a widening layer, nothing is put in its place; and x is added"),
        ((2, 2, 2, 1), 1, 3, 2, True, "no widening, stride 2, other channels"),
        ((2, 3, 4, 5), 2, 3, 1, True, "padding keeps the size of the map"),
        ((1, 3, 5, 6), 4, 3, 2, False, "stride 2 rounds up: 5 x 6 cells become 3 x 3"),
        ((2, 2, 5, 4), 3, 5, 1, True, "everything differs"),
    ):
        rng = np.random.default_rng([172, *shape, t, out])
        x, inner = rng.normal(size=shape), t * shape[1]
        widen = rng.normal(size=(inner, shape[1], 1, 1)) if t > 1 else None
        given = (x, widen, rng.normal(size=(inner, 1, 3, 3)), rng.normal(size=(out, inner, 1, 1)), stride, ends)
        yield Case(given, slow_block(*given), why=why)


@check("17.3")
def shared_gradient() -> Iterator[Case]:
    """w (C, C), f0 (C,), gs (passes, C) -> the gradient of sum of gs[i] * f_(i+1), (C, C)."""
    two, three = np.array([[2.0]]), np.array([3.0])
    for w, gs, want, why in (
        (two, [[1]], 3, "one pass, f1 = w * 3"),
        (two, [[0], [1]], 12, "two passes, f2 = w * w * 3: each use of w gives 6"),
        (two, [[1], [0]], 3, "only f1 counts, and the second pass comes too late to change it"),
        (two, [[1], [1]], 15, "f1 is asked for itself and by f2"),
        (two, [[0], [0], [1]], 36, "three passes, 3 w w 3"),
        (-two, [[1]], 0.75, "w * 3 is negative: the activation lets a quarter through"),
        (-two, [[0], [1]], -3, "negative, then positive: f2 = w * w * 3 / 4"),
    ):
        yield Case((w, three, np.array(gs, float)), np.array([[want]], float), why=why)
    yield Case((np.eye(2), np.ones(2), np.zeros((0, 2))), np.zeros((2, 2)), why="no pass, no gradient: shape (2, 2)")
    rng = np.random.default_rng(173)
    for passes, size in ((1, 2), (2, 2), (3, 2), (6, 3)):
        w, f0, gs = rng.normal(size=(size, size)), rng.normal(size=size), rng.normal(size=(passes, size))
        why = f"{passes} passes of {size} numbers, with gradients at each f"
        yield Case((w, f0, gs), by_moving(w, f0, gs), why=why, rtol=1e-4, atol=1e-5)


@check("17.4")
def multiply_adds() -> Iterator[Case]:
    """Rows of a chain, height, width -> multiply-adds, and the height and width of what comes out."""
    for layers, height, width, why in (
        ([("conv", 2, 3, 1, 1, 0, 1, False)], 1, 1, "three filters of two weights, at one place"),
        ([("conv", 2, 3, 1, 1, 0, 1, True)], 1, 1, "a bias is added and multiplies nothing"),
        ([("conv", 1, 1, 1, 1, 0, 1, False)], 2, 3, "six places"),
        ([("conv", 1, 1, 3, 1, 1, 1, False)], 2, 3, "padding keeps the size; its zeros are multiplied like any number"),
        ([("conv", 1, 1, 3, 1, 0, 1, False)], 4, 5, "without padding the map shrinks by 2"),
        ([("conv", 1, 1, 3, 2, 1, 1, False)], 4, 6, "work is done at the places of the output: 2 x 3"),
        ([("conv", 1, 1, 3, 2, 1, 1, False)], 5, 7, "an odd size, stride 2, padding 1: rounded up to 3 x 4"),
        ([("conv", 1, 1, 3, 2, 0, 1, False)], 6, 8, "an even size, stride 2, no padding: 2 x 3, less than half"),
        ([("conv", 4, 4, 3, 1, 1, 4, False)], 2, 1, "depthwise: each filter reads one channel"),
        ([("conv", 2, 4, 1, 1, 0, 2, False)], 2, 1, "two groups of one channel, two filters for each: four weights"),
        ([("conv", 4, 6, 1, 1, 0, 2, True)], 2, 1, "two groups"),
        ([("norm", 4), ("prelu", 4), ("relu",)], 3, 2, "norms and activations are not counted, as in the paper"),
        ([], 3, 2, "no layer: nothing to do, and the size stays"),
        ([("conv", 1, 2, 3, 2, 1, 1, False), ("norm", 2), ("conv", 2, 2, 3, 1, 1, 2, True)], 5, 4, "the second layer "
         "stands on the smaller map"),
    ):  # fmt: skip
        yield Case((layers, height, width), by_running(layers, height, width), why=why)
    rng = np.random.default_rng(174)
    for num in (2, 4):
        layers = random_layers(rng, num)
        yield Case((layers, 37, 26), by_running(layers, 37, 26), why=f"{len(layers)} layers drawn at random")


@check("17.5")
def fields() -> Iterator[Case]:
    """start and body, rows; passes -> [(pixels that a cell of f_i sees, pixels between cells of f_i), ...]."""
    three, down = ("conv", 1, 1, 3, 1, 1, 1, True), ("conv", 1, 1, 3, 2, 1, 1, False)
    one, norm = ("conv", 1, 4, 1, 1, 0, 1, False), ("norm", 4)
    for start, body, passes, why in (
        ([], [three], 1, "one convolution of 3"),
        ([], [three], 2, "the same one twice: 3, then 5"),
        ([], [down], 1, "its own stride does not widen what a layer sees, but moves neighbours apart"),
        ([], [down], 3, "strides go on multiplying from pass to pass: 3, 7, 15"),
        ([down], [three], 2, "start is walked through once, before the first pass"),
        ([], [one, norm], 2, "a kernel of 1 and a norm see no further"),
        ([], [("conv", 2, 2, 4, 2, 1, 1, True)], 2, "an even kernel: 4, and then 3 more steps of 2"),
        ([three], [down], 0, "no pass: an empty list"),
        ([down, norm], [one, three, down], 3, "all together"),
        ([("conv", 3, 2, 5, 3, 0, 1, True)], [("conv", 2, 2, 7, 2, 3, 2, True), three], 2, "other kernels and strides"),
    ):
        yield Case((start, body, passes), by_walking_down(start, body, passes), why=why)


def random_layers(rng: np.random.Generator, num: int) -> list[Row]:
    """A chain of `num` convolutions with norms and activations between; every channel number is a multiple of 4."""
    layers, channels = [], 4
    for _ in range(num):
        outputs, kernel = int(rng.choice([4, 8, 12])), int(rng.choice([1, 3, 5]))
        stride, padding, groups = int(rng.choice([1, 2])), int(rng.integers(3)), int(rng.choice([1, 2, 4]))
        layers += [("conv", channels, outputs, kernel, stride, padding, groups, bool(rng.random() < 0.5))]
        layers += [("norm", outputs), ("prelu", int(rng.choice([1, outputs]))), ("relu",)]
        channels = outputs
    return layers


def library_conv(row: Row) -> Conv2d:
    inputs, outputs, kernel, stride, padding, groups, bias = row[1:]
    return Conv2d(inputs, outputs, kernel, np.random.default_rng(0), stride, padding, 1, groups, bias)


def numbers_in(row: Row) -> int:
    """By making the layer and counting what it holds."""
    if row[0] == "conv":
        return library_conv(row).num_parameters()
    return BatchNorm2d(row[1]).num_parameters() if row[0] == "norm" else row[1] if row[0] == "prelu" else 0


def by_running(layers: Sequence[Row], height: int, width: int) -> tuple[int, int, int]:
    """By running each convolution on zeros: every number of its output is a sum over one filter's weights."""
    count = 0
    for row in layers:
        if row[0] == "conv":
            layer = library_conv(row)
            y = layer(Tensor(np.zeros((1, row[1], height, width), np.float32))).data
            count += y.size * layer.weight.data[0].size
            height, width = y.shape[2:]
    return count, height, width


def slow_block(
    x: np.ndarray, widen: np.ndarray | None, filters: np.ndarray, narrow: np.ndarray, stride: int, ends: bool
) -> np.ndarray:
    """Of the slow twins: convolution, norm and activation, one after the other."""

    def norm_of(y: np.ndarray, activated: bool) -> np.ndarray:
        y = slow.batch_norm(y, np.ones(y.shape[1]), np.zeros(y.shape[1]))
        return slow.leaky_relu(y, 0.25) if activated else y

    y = x if widen is None else norm_of(slow.conv2d(x, widen, None), True)
    y = norm_of(slow.conv2d(y, filters, None, stride, 1, groups=len(filters)), True)
    y = norm_of(slow.conv2d(y, narrow, None), ends)
    same = narrow.shape[0] == x.shape[1] and stride == 1
    return y + x if same else y


def by_moving(w: np.ndarray, f0: np.ndarray, gs: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """By central differences of the loss, one entry of w at a time."""

    def loss(w: np.ndarray) -> float:
        f, total = f0, 0.0
        for g in gs:
            f = slow.leaky_relu(w @ f, 0.25)
            total += (g * f).sum()
        return total

    moves = step * np.eye(w.size).reshape(-1, *w.shape)
    return np.array([loss(w + move) - loss(w - move) for move in moves]).reshape(w.shape) / (2 * step)


def by_walking_down(start: Sequence[Row], body: Sequence[Row], passes: int) -> list[tuple[int, int]]:
    """From cells 0 and 1 of each f_i down to the pixels at the ends of what they see."""
    found = []
    for i in range(1, passes + 1):
        ends = []
        for cell in (0, 1):
            low = high = cell
            for row in reversed([*start, *list(body) * i]):
                if row[0] == "conv":
                    low, high = low * row[4], high * row[4] + row[3] - 1
            ends.append((low, high))
        found.append((ends[0][1] - ends[0][0] + 1, ends[1][0] - ends[0][0]))
    return found
