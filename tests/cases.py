"""One row per differentiable operation: how to apply it, what it should give, and inputs of awkward sizes.

Used by test_ops.py, which puts every row through the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidetect import ops  # noqa: F401 (gives Tensor its operators)
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.decode_boxes import decode_boxes
from minidetect.ops import elementwise, linear, normalize, reduce, shape
from minidetect.ops.activation import leaky_relu, log_softmax, prelu, relu, sigmoid, softmax
from minidetect.ops.conv import conv2d
from minidetect.ops.dropout import dropout
from minidetect.ops.pool import avg_pool2d, max_pool2d
from minidetect.ops.resize import resize
from minidetect.ops.roi_pool import roi_pool
from minidetect.ops.roi_warp import roi_warp
from minidetect.ops.threshold import take_rows
from minidetect.reference import nn_ops as slow


class Case(NamedTuple):
    """op: Tensors -> Tensor. oracle: the same on arrays, written in another way. shapes: of the inputs.

    positive: draw inputs in 0.5..2.5 (for a divisor or a logarithm).
    batch: an empty first axis of input 0 must give an empty first axis of the output.
    linear: linear in input 0 when the others stand still, so that the adjoint identity holds.
    """

    name: str
    op: Callable
    oracle: Callable
    shapes: tuple[tuple[int, ...], ...]
    positive: bool = False
    batch: bool = True
    linear: bool = False

    def draw(self, rng: np.random.Generator, dtype: type = np.float64) -> tuple[np.ndarray, ...]:
        arrays = (rng.uniform(0.5, 2.5, s) if self.positive else rng.standard_normal(s) for s in self.shapes)
        return tuple(a.astype(dtype) for a in arrays)


ROIS = np.array([
    [0, 0, 0, 9, 7],          # the whole map
    [1, 2.2, 1.4, 6.1, 5.6],  # corners that round
    [0, 3, 3, 3, 3],          # no area: one cell in every bin
    [1, 2, 2, 6, 6],          # overlaps the second
    [0, -3, -2, 4, 3],        # partly off the map
    [1, 20, 20, 30, 30],      # off the map: empty bins
], np.float32)  # fmt: skip
# Two in the middle of a 40 x 60 image, one over its left and upper border, one that its deltas make very wide.
ANCHORS = np.array([[10, 8, 30, 20], [22, 10.5, 40, 33], [-6, -4, 9, 8], [30, 15, 34, 25]])
DECODER = BoxCoder((0.1, 0, -0.1, 0.2), (0.1, 0.1, 0.2, 0.2))
WARPED = np.array([[1, 1, 6, 5], [2.3, 0.4, 8.1, 6.2], [4, 3, 4, 3], [-3, -2, 4, 30]])  # inside, a point, beyond
WARPED_IMAGE = np.array([0, 1, 1, 0])
ROWS = np.array([3, 0, 3])
MEAN, VAR = np.array([0.3, -0.2, 1.0]), np.array([0.5, 2.0, 1.5])
KEEP = (np.random.default_rng(5).random((4, 7), dtype=np.float32) >= 0.3) / 0.7  # what dropout draws below


def logistic(a: np.ndarray) -> np.ndarray:
    """Sigmoid by its textbook formula, element by element."""
    return np.array([1 / (1 + math.exp(-v)) for v in a.reshape(-1)], a.dtype).reshape(a.shape)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[math.fsum(row * column) for column in b.T] for row in a], a.dtype)


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray | float = 0.0) -> np.ndarray:
    return product(x, w.T).reshape(len(x), len(w)) + b


def conv_case(name, x, w, bias=False, **settings) -> Case:
    shapes = (x, w, (w[0],)) if bias else (x, w)
    return Case(
        f"conv2d {name}",
        lambda *t: conv2d(*t, **settings),
        lambda *a: slow.conv2d(*a, **settings),
        shapes,
        linear=not bias,
    )


def pool_case(name, op, x, *settings) -> Case:
    """settings: kernel, stride, padding, ceil_mode"""
    oracle = slow.max_pool2d if op is max_pool2d else slow.avg_pool2d
    return Case(
        f"{op.__name__} {name}",
        lambda t: op(t, *settings),
        lambda a: oracle(a, *settings),
        (x,),
        linear=op is avg_pool2d,
    )


def resize_case(mode, x, size) -> Case:
    name = f"resize {mode} {x[2:]} to {size}"
    oracle = slow.resize
    return Case(name, lambda t: resize(t, size, mode), lambda a: oracle(a, size, mode), (x,), linear=True)


def train_norm(*t):
    return normalize.batch_norm(*t)[0]


CASES = [
    # arithmetic, with axes that broadcast
    Case("add", lambda a, b: a + b, np.add, ((2, 3, 4), (3, 1))),
    Case("add number", lambda a: 2 + a, lambda a: 2 + a, ((3, 5),)),
    Case("sub", lambda a, b: a - b, np.subtract, ((5, 1), (1, 7)), batch=False),
    Case("sub from number", lambda a: 1 - a, lambda a: 1 - a, ((3, 5),)),
    Case("mul", lambda a, b: a * b, np.multiply, ((2, 3, 4), (4,)), linear=True),
    Case("mul by scalar", lambda a, b: a * b, np.multiply, ((2, 3), ()), linear=True),
    Case("div", lambda a, b: a / b, lambda a, b: a * b**-1.0, ((3, 1, 4), (1, 5, 1)), positive=True),
    Case("number by", lambda a: 2 / a, lambda a: 2 * a**-1.0, ((3, 4),), positive=True),
    Case("neg", lambda a: -a, lambda a: 0 - a, ((3, 4),), linear=True),
    Case("power", lambda a: a**3, lambda a: a * a * a, ((3, 4),)),
    Case("power root", lambda a: a**0.5, np.sqrt, ((3, 4),), positive=True),
    Case("exp", elementwise.exp, lambda a: np.power(np.e, a), ((3, 4),)),
    Case("log", elementwise.log, lambda a: np.log2(a) * math.log(2), ((3, 4),), positive=True),
    Case("matmul", lambda a, b: a @ b, product, ((5, 3), (3, 7)), linear=True),
    Case("linear", linear.linear, dense, ((5, 3), (7, 3), (7,))),
    Case("linear without bias", linear.linear, dense, ((5, 3), (7, 3)), linear=True),
    # reductions
    Case("sum", reduce.sum, lambda a: np.einsum("ij->", a), ((3, 4),), batch=False, linear=True),
    Case("sum axes", lambda a: a.sum((0, -1)), lambda a: np.einsum("ijk->j", a), ((4, 3, 4),), batch=False),
    Case("sum keep", lambda a: a.sum(1, keepdims=True), lambda a: np.einsum("ij->i", a)[:, None], ((4, 4),)),
    Case("mean", lambda a: a.mean(axis=1), lambda a: np.einsum("ij->i", a) / 4, ((4, 4),), linear=True),
    Case("mean of all", reduce.mean, lambda a: np.einsum("ij->", a) / 15, ((3, 5),), batch=False),
    Case("max", lambda a: a.max(axis=1), lambda a: np.sort(a, axis=1)[:, -1], ((5, 7),)),
    Case("max of all", reduce.max, lambda a: np.sort(a, axis=None)[-1], ((5, 7),), batch=False),
    # moving elements
    Case("reshape", shape.flatten, lambda a: np.stack([r.ravel() for r in a]), ((3, 3, 4),), linear=True),
    Case(
        "transpose",
        lambda a: a.transpose((0, 2, 1)),
        lambda a: np.einsum("ijk->ikj", a),
        ((2, 3, 4),),
        linear=True,
    ),
    Case(
        "slice",
        lambda a: a[:, 1:3, ::2],
        lambda a: np.take(np.take(a, [1, 2], 1), [0, 2, 4], 2),
        ((2, 4, 5),),
        linear=True,
    ),
    Case("pick twice", lambda a: a[:, [2, 0, 2]], lambda a: np.take(a, [2, 0, 2], 1), ((3, 4),), linear=True),
    Case("concat", lambda *t: shape.concat(t), lambda *a: np.hstack(a), ((2, 3, 4), (2, 5, 4)), batch=False),
    Case("concat 0", lambda *t: shape.concat(t, 0), lambda *a: np.vstack(a), ((0, 3), (2, 3)), batch=False),
    Case(
        "take_rows",
        lambda a: take_rows(a, ROWS),
        lambda a: np.stack([a[3], a[0], a[3]]),
        ((5, 2, 3),),
        batch=False,
        linear=True,
    ),
    # nonlinearities
    Case("relu", relu, lambda a: (a + abs(a)) / 2, ((3, 5),)),
    Case("leaky_relu", lambda a: leaky_relu(a, 0.1), lambda a: slow.leaky_relu(a, 0.1), ((3, 5),)),
    Case("prelu", prelu, slow.prelu, ((2, 3, 5, 4), (3,))),
    Case("prelu of long planes", prelu, slow.prelu, ((2, 3, 8, 9), (3,))),
    Case("prelu of vectors", prelu, slow.prelu, ((5, 3), (3,))),
    Case("sigmoid", sigmoid, logistic, ((3, 5),)),
    Case("softmax", softmax, slow.softmax, ((5, 3),)),
    Case("softmax axis 1", lambda a: softmax(a, 1), lambda a: slow.softmax(a, 1), ((2, 3, 5),)),
    Case("log_softmax", log_softmax, slow.log_softmax, ((5, 3),)),
    Case("log_softmax axis 1", lambda a: log_softmax(a, 1), lambda a: slow.log_softmax(a, 1), ((2, 3, 5),)),
    # convolution
    conv_case("3x3", (2, 3, 7, 6), (4, 3, 3, 3), bias=True),
    conv_case("stride 2", (2, 3, 9, 8), (5, 3, 3, 3), stride=2, padding=1),
    conv_case("stride 3, 2x4", (2, 3, 11, 9), (3, 3, 2, 4), stride=3, padding=2),
    conv_case("dilation", (2, 2, 9, 11), (3, 2, 3, 2), dilation=2, padding=2),
    conv_case("1x1", (3, 4, 5, 3), (2, 4, 1, 1), bias=True),
    conv_case("1x1 stride 2", (2, 4, 5, 4), (3, 4, 1, 1), stride=2),
    conv_case("groups", (2, 6, 5, 7), (4, 3, 3, 3), bias=True, groups=2, padding=1),
    conv_case("depthwise", (2, 5, 7, 6), (5, 1, 3, 3), bias=True, groups=5, padding=1),
    conv_case("depthwise stride 2", (2, 3, 8, 7), (3, 1, 3, 3), groups=3, padding=1, stride=2, dilation=2),
    conv_case("depthwise, 2 a channel", (2, 3, 6, 5), (6, 1, 3, 3), groups=3),
    conv_case("whole map", (3, 4, 5, 5), (6, 4, 5, 5), bias=True),
    conv_case("padding over the kernel", (2, 2, 3, 2), (3, 2, 2, 3), padding=3),
    # pooling
    pool_case("2", max_pool2d, (2, 3, 7, 9), 2),
    pool_case("overlapping", max_pool2d, (2, 3, 8, 7), 3, 2, 1),
    pool_case("ceil", max_pool2d, (2, 3, 8, 7), 3, 2, 0, True),
    pool_case("ceil, padding", max_pool2d, (2, 2, 5, 6), 2, 2, 1, True),
    pool_case("gaps", max_pool2d, (2, 2, 9, 10), 2, 3),
    pool_case("2", avg_pool2d, (2, 3, 8, 9), 2),
    pool_case("4", avg_pool2d, (2, 3, 9, 13), 4),
    pool_case("padding", avg_pool2d, (2, 3, 7, 8), 3, 2, 1),
    pool_case("ceil", avg_pool2d, (2, 3, 8, 6), 3, 2, 0, True),
    Case(
        "roi_pool",
        lambda t: roi_pool(t, ROIS, (3, 2)),
        lambda a: slow.roi_pool(a, ROIS, (3, 2)),
        ((2, 3, 7, 9),),
        batch=False,
    ),
    Case(
        "roi_pool scale",
        lambda t: roi_pool(t, ROIS * [1, 8, 8, 8, 8], (7, 7), 0.125, inclusive=True),
        lambda a: slow.roi_pool(a, ROIS, (7, 7), inclusive=True),
        ((2, 2, 7, 9),),
        batch=False,
    ),
    Case(
        "roi_warp",
        lambda x, moves: roi_warp(x, elementwise.add(moves, WARPED.astype(moves.dtype)), WARPED_IMAGE, (3, 2)),
        lambda x, moves: slow.roi_warp(x, moves + WARPED, WARPED_IMAGE, (3, 2)),
        ((2, 3, 7, 9), (4, 4)),
        batch=False,
        linear=True,
    ),
    Case(
        "roi_warp scale",
        lambda x, moves: roi_warp(
            x, elementwise.add(moves, 8 * WARPED.astype(moves.dtype)), WARPED_IMAGE, (4, 5), 0.125
        ),
        lambda x, moves: slow.roi_warp(x, moves + 8 * WARPED, WARPED_IMAGE, (4, 5), 0.125),
        ((2, 2, 6, 1), (4, 4)),
        batch=False,
    ),
    Case(
        "decode_boxes",
        lambda t: decode_boxes(t, ANCHORS[: len(t.data)], (40, 60), DECODER),
        lambda a: slow.decode_boxes(a, ANCHORS, (40, 60), DECODER.mean, DECODER.std),
        ((4, 4),),
    ),
    Case(
        "decode_boxes that grow too much",
        lambda t: decode_boxes(t, ANCHORS[: len(t.data)], (4000, 6000), BoxCoder((0, 0, 4.2, 0), (1, 1, 0.5, 1))),
        lambda a: slow.decode_boxes(a, ANCHORS, (4000, 6000), (0, 0, 4.2, 0), (1, 1, 0.5, 1)),
        ((4, 4),),
    ),
    # the rest
    Case("batch_norm", train_norm, slow.batch_norm, ((3, 2, 4, 5), (2,), (2,))),
    Case("batch_norm of long planes", train_norm, slow.batch_norm, ((2, 3, 9, 8), (3,), (3,))),
    Case("batch_norm of vectors", train_norm, slow.batch_norm, ((7, 3), (3,), (3,))),
    Case(
        "batch_norm_fixed",
        lambda *t: normalize.batch_norm_fixed(*t, MEAN, VAR),
        lambda *a: slow.batch_norm(*a, MEAN, VAR),
        ((2, 3, 4, 5), (3,), (3,)),
    ),
    Case(
        "batch_norm_fixed of long planes",
        lambda *t: normalize.batch_norm_fixed(*t, MEAN, VAR),
        lambda *a: slow.batch_norm(*a, MEAN, VAR),
        ((2, 3, 9, 8), (3,), (3,)),
    ),
    Case(
        "dropout",
        lambda t: dropout(t, 0.3, np.random.default_rng(5)),
        lambda a: (a * KEEP[: len(a)]).astype(a.dtype),
        ((4, 7),),
        linear=True,
    ),
    resize_case("bilinear", (2, 3, 4, 5), (7, 11)),
    resize_case("bilinear", (2, 2, 9, 7), (4, 3)),
    resize_case("bilinear", (1, 2, 1, 3), (5, 2)),
    resize_case("nearest", (2, 3, 4, 5), (8, 10)),
    resize_case("nearest", (2, 2, 9, 7), (4, 16)),
]
