"""Checks of lesson 03: counting work and traffic, depthwise loops, races, and a gradient that is gathered.

Letters: N images, C input channels, O filters, G groups, H W input size, KH KW kernel, PH PW output size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minidetect.checks.case import Case, check
from minidetect.reference import nn_ops as slow

LAYERS = (
    ((1, 1, 3, 4), (1, 1, 1, 1), 1, 0, "a kernel of 1 x 1: one multiply-add a pixel"),
    ((1, 1, 3, 5), (1, 1, 2, 3), 1, 0, "2 x 3 places of 2 x 3 taps"),
    ((1, 3, 4, 5), (2, 3, 2, 2), 1, 0, "every filter reads every channel"),
    ((3, 2, 4, 5), (1, 2, 3, 2), 1, 0, "three images"),
    ((1, 2, 7, 6), (3, 2, 3, 2), 2, 0, "stride 2 in both directions"),
    ((1, 2, 6, 7), (3, 2, 3, 2), 2, 0, "stride 2, and the last row and column are left over: no filter fits there"),
    ((1, 2, 4, 5), (3, 2, 3, 3), 1, 1, "padding keeps the size; its zeros are multiplied like pixels"),
    ((1, 6, 5, 4), (6, 1, 3, 2), 1, 0, "depthwise: w is (C, 1, KH, KW), a filter reads one channel"),
    ((1, 6, 5, 4), (9, 2, 2, 3), 1, 0, "three groups: a filter reads two of the six channels"),
    ((2, 3, 240, 320), (16, 3, 3, 3), 1, 0, "the first layer of FaceCraft's x12, on two pictures"),
)


@check("3.1")
def multiply_adds() -> Iterator[Case]:
    """x_shape (N, C, H, W), w_shape (O, C/G, KH, KW), stride, padding -> a whole number."""
    for x, w, stride, padding, why in LAYERS:
        outputs, taps = sizes(x, w, stride, padding)
        yield Case((x, w, stride, padding), outputs * taps, why=why, rtol=0, atol=0.5)


@check("3.2")
def intensity() -> Iterator[Case]:
    """The same arguments -> multiply-adds a byte, if x, w and y are moved once, as float32."""
    for x, w, stride, padding, why in LAYERS:
        outputs, taps = sizes(x, w, stride, padding)
        traffic = 4 * (math.prod(x) + math.prod(w) + outputs)
        yield Case((x, w, stride, padding), outputs * taps / traffic, why=f"{why}; {traffic} bytes")


@check("3.3")
def depthwise() -> Iterator[Case]:
    """x (C, H, W), w (C, KH, KW) -> y (C, PH, PW), stride 1 and no padding."""
    x, w = np.array([[[1.0, 2, 3]], [[4, 5, 6]]]), np.array([[[1.0, 10]], [[100, 1000]]])
    yield Case((x, w), np.array([[[21.0, 32]], [[5400, 6500]]]), why="two channels: none hears of the other")
    rng = np.random.default_rng(33)
    for x, w, why in (
        ((1, 3, 4), (1, 2, 1), "one channel is a sliding template"),
        ((2, 3, 3), (2, 3, 3), "a kernel as large as the picture has one place"),
        ((3, 5, 4), (3, 2, 3), "three channels, neither picture nor kernel is square"),
    ):
        x, w = draw(rng, x), draw(rng, w)
        yield Case((x, w), slow.conv2d(x[None], w[:, None], groups=len(x))[0], why=why)


@check("3.4")
def shared_cells() -> Iterator[Case]:
    """A list of lists: the cells that each iteration writes -> sorted list of those that several iterations write."""
    for writes, want, why in (
        ([], [], "no iterations, no race"),
        ([[0], [1], [2]], [], "each writes its own cell"),
        ([[3], [3]], [3], "both write cell 3"),
        ([[1, 1], [2]], [], "an iteration may write its own cell twice: it cannot race with itself"),
        ([[0, 1], [1, 2], [2, 3]], [1, 2], "neighbours overlap"),
        ([[5, 0], [7], [0, 5]], [0, 5], "not neighbours, and the answer is sorted"),
        ([[4], [4], [4], []], [4], "three iterations, one cell, named once; one writes nothing"),
        ([[1, 64, 10, 9], [64, 9, 1], [10]], [1, 9, 10, 64], "sorted as numbers, not as they come"),
        ([list(range(9)) for _ in range(4)], list(range(9)), "a weight gradient shared out by images: all cells"),
    ):
        yield Case((writes,), want, why=why)


@check("3.5")
def pixel_gradient() -> Iterator[Case]:
    """gy (PH, PW), w (KH, KW), row, column, stride -> the gradient of one pixel, a number."""
    gy, w = np.array([[1.0, 10]]), np.array([[2.0, 3]])
    for column, want, why in (
        (0, 2, "only the first output reads the first pixel, through w[0, 0]"),
        (1, 23, "the middle pixel: w[0, 1] of the first output, w[0, 0] of the second"),
        (2, 30, "the last pixel; no index may run out of gy, nor below zero and in again from the end"),
    ):
        yield Case((gy, w, 0, column, 1), want, why=why)
    rng = np.random.default_rng(35)
    for out, kernel, stride, where, why in (
        ((2, 3), (2, 2), 2, [(0, 0), (1, 4), (3, 5)], "stride 2, kernel 2: each pixel is read once"),
        ((2, 2), (1, 1), 2, [(0, 2), (1, 1)], "stride 2, kernel 1: pixel 1, 1 is stepped over"),
        ((3, 2), (3, 2), 1, [(0, 1), (2, 2), (4, 0)], "the border has fewer readers"),
        ((3, 4), (3, 3), 2, [(2, 4), (5, 7), (6, 2)], "overlap and stride"),
        ((1, 2), (2, 1), 2, [(2, 1), (0, 3)], "where the filter fits no more, nobody has read the pixel"),
    ):
        gy, w = draw(rng, out), draw(rng, kernel)
        gx = np.pad(scattered(gy, w, stride), (0, 1))  # one more row and column, which no output reads
        for row, column in where:
            yield Case((gy, w, row, column, stride), gx[row, column], why=f"{why}; pixel {row}, {column}")


def sizes(x: tuple[int, ...], w: tuple[int, ...], stride: int, padding: int) -> tuple[int, int]:
    """How many numbers y has, by trying each place, and how many multiply-adds each of them takes."""
    places = [
        len(range(-padding, size + padding - kernel + 1, stride)) for size, kernel in zip(x[2:], w[2:], strict=True)
    ]
    return x[0] * w[0] * places[0] * places[1], w[1] * w[2] * w[3]


def scattered(gy: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    """The whole input gradient, from the side of the outputs: each adds its part to all the pixels it has read."""
    shape = [(n - 1) * stride + k for n, k in zip(gy.shape, w.shape, strict=True)]
    gx = np.zeros(shape)
    for (i, j), value in np.ndenumerate(gy):
        gx[i * stride : i * stride + w.shape[0], j * stride : j * stride + w.shape[1]] += value * w
    return gx


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of one decimal, both signs, none of them zero: (shape)."""
    return rng.integers(1, 30, shape) / 10 * rng.choice([-1.0, 1.0], shape)
