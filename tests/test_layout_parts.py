"""Parts of a detector with an AnchorLayout: backbone, pyramid and heads; shapes, gradients, and what a cell sees."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.detection.anchor_layout import AnchorLayout, AnchorRow
from minidetect.models.feature_pyramid import FeaturePyramid, ResidualBackbone, ResidualBlock
from minidetect.models.layout_heads import HEADS, LayoutHeads, hidden_layer
from minidetect.nn.module import Module
from minidetect.ops.activation import relu
from minidetect.ops.conv import conv2d
from minidetect.ops.elementwise import add
from minidetect.ops.resize import resize
from minidetect.ops.shape import concat, flatten

# ------------------------------------------------------------------ shapes


@pytest.mark.parametrize("unit", [2, 4])
@pytest.mark.parametrize("size", [(64, 96), (37, 50), (1, 1)])
def test_maps_of_the_backbone(unit, size, rng):
    backbone = ResidualBackbone(rng, (4, 6, 8, 10), (1, 2, 1, 1), stem=5, unit=unit)
    x = Tensor(rng.normal(0, 60, (2, 3, *size)).astype(np.float32))
    expected = [(2, c, *(ceil(n / (unit * 2**k)) for n in size)) for k, c in enumerate((4, 6, 8, 10))]
    assert [c.shape for c in backbone(x)] == expected
    assert [len(stage.layers) for stage in backbone.stages] == [1, 2, 1, 1]


def test_shortcuts_only_where_the_shape_changes(rng):
    x = Tensor(rng.standard_normal((1, 4, 7, 5)).astype(np.float32))
    for inputs, outputs, stride, has in ((4, 4, 1, False), (4, 6, 1, True), (4, 4, 2, True)):
        block = ResidualBlock(inputs, outputs, rng, stride)
        assert (block.shortcut is not None) == has
        y = block(x)
        assert y.shape == (1, outputs, ceil(7 / stride), ceil(5 / stride)) and (y.data >= 0).all()
    block = ResidualBlock(4, 4, rng)
    for p in block.body.parameters():
        p.data[...] = 0
    np.testing.assert_array_equal(block(x).data, np.maximum(x.data, 0))  # relu(0 + x)


@pytest.mark.parametrize("needed", [None, {2}, {3, 5}, {5}, {6}, {2, 3, 4, 5, 6}])
def test_maps_of_the_pyramid(needed, rng):
    channels, sides = (3, 4, 5, 6), (16, 8, 4, 2)
    pyramid = FeaturePyramid(channels, 7, rng, needed)
    maps = [Tensor(rng.standard_normal((2, c, s, s)).astype(np.float32)) for c, s in zip(channels, sides, strict=True)]
    named = pyramid(maps)
    for k in needed or {2, 3, 4, 5}:
        assert named[f"P{k}"].shape == (2, 7, 64 // 2**k, 64 // 2**k)
    wanted = needed or {2, 3, 4, 5}
    assert len(pyramid.smooth) == len((wanted | {5} if 6 in wanted else wanted) - {6})  # P6 is made from P5
    assert len(pyramid.laterals) == 6 - min(wanted - {6} or {5})  # below the finest map nothing is computed


def test_the_pyramid_by_hand(rng):
    """One channel, laterals times 1, 3x3 that copy: C4 = 5 is spread over P3 = 3 + 5 and P2 = 2 + 8."""
    pyramid = FeaturePyramid((1, 1, 1), 1, rng)
    for conv in pyramid.laterals:
        conv.weight.data[...] = 1
    for conv in pyramid.smooth:
        conv.weight.data[...] = 0
        conv.weight.data[0, 0, 1, 1] = 1
    maps = [Tensor(np.full((1, 1, side, side), value, np.float32)) for side, value in ((4, 2), (2, 3), (1, 5))]
    assert {name: p.data.mean() for name, p in pyramid(maps).items()} == {"P2": 10, "P3": 8, "P4": 5}
    maps[1].data[0, 0] = [[0, 4], [0, 4]]  # twice as large by bilinear interpolation: 0, 1, 3, 4
    np.testing.assert_allclose(pyramid(maps)["P2"].data[0, 0, 0], np.array([0, 1, 3, 4]) + 5 + 2, rtol=1e-6)


# ------------------------------------------------------------------ gradients


def put(module: Module, name: str, tensor: Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    setattr(module, last, tensor)


def check_gradients(module: Module, forward, xs, rng) -> None:
    """In float64, for the inputs and every parameter by itself, against central differences; in training mode."""
    module.train()
    names = [name for name, _ in module.named_parameters()]
    arrays = [p.data for p in module.parameters()]

    def function(*tensors):
        for name, tensor in zip(names, tensors[len(xs) :], strict=True):
            put(module, name, tensor)
        return forward(*tensors[: len(xs)])

    gradcheck(function, *xs, *arrays, rng=rng, name=type(module).__name__)


@pytest.mark.parametrize("shape", [(3, 3, 1), (3, 4, 1), (2, 4, 2)])
def test_gradients_of_a_block(shape, rng):
    block = ResidualBlock(shape[0], shape[1], rng, shape[2])
    check_gradients(block, block, [rng.standard_normal((2, shape[0], 5, 6))], rng)


def test_gradients_of_a_pyramid(rng):
    pyramid = FeaturePyramid((2, 3, 2, 3), 2, rng, {2, 4, 5, 6})

    def forward(*maps):
        return concat([flatten(p) for p in pyramid(maps).values()])

    sizes = [(2, 2, 8, 8), (2, 3, 4, 4), (2, 2, 2, 2), (2, 3, 1, 1)]
    check_gradients(pyramid, forward, [rng.standard_normal(size) for size in sizes], rng)


class Forgetful(ResidualBlock):
    """Deliberately wrong: no gradient through the shortcut."""

    def __call__(self, x: Tensor) -> Tensor:
        return relu(add(self.body(x), x.detach() if self.shortcut is None else self.shortcut(x.detach())))


@pytest.mark.parametrize("outputs", [3, 4])
def test_a_lost_gradient_is_noticed(outputs, rng):
    block = Forgetful(3, outputs, rng)
    with pytest.raises(GradientError):
        check_gradients(block, block, [rng.standard_normal((2, 3, 5, 6))], rng)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_of_heads(kind, rng):
    """On P2 with every second cell, and on P3."""
    layout = AnchorLayout((AnchorRow("P2", 8, (16,)), AnchorRow("P3", 8, (32,))), ratios=(1.0, 2.0))
    heads = LayoutHeads(layout, {"P2": 2, "P3": 2}, 4, rng, kind)
    for conv in [*heads.logits, *heads.deltas]:
        conv.weight.data *= 50

    def forward(*maps):
        return concat(heads(maps), axis=2)

    check_gradients(heads, forward, [rng.standard_normal((2, 2, 4, 6)), rng.standard_normal((2, 2, 2, 3))], rng)


# ------------------------------------------------------------------ what a cell sees


def test_cells_between_the_places_are_not_looked_at(rng):
    """Of 8 x 8 cells of P2 each second and fourth: 16 + 4, the ones just below and right of a place's middle."""
    layout = AnchorLayout((AnchorRow("P2", 8, (32,)), AnchorRow("P2", 16, (64,))))
    heads = LayoutHeads(layout, {"P2": 1}, 1, rng)
    for p in heads.parameters():
        p.data[...] = 0
    heads.hidden[0].layers[0].weight.data[0, 0, 1, 1] = heads.logits[0].weight.data[1] = 1
    heads.logits[1].weight.data[1] = 1
    x = np.arange(1, 65, dtype=np.float32).reshape(1, 1, 8, 8)
    logits, _ = heads([Tensor(x)])
    expected = [*x[0, 0, 1::2, 1::2].ravel(), *x[0, 0, 2::4, 2::4].ravel()]
    np.testing.assert_array_equal(logits.data[0, :, 1], expected)


def seen(module: Module, side: int, rng, channels: int = 2) -> np.ndarray:
    """(side, side) bool: which cells of a map have a gradient from the middle cell of the module's output."""
    for name, p in module.named_parameters():
        if name.endswith("bias"):
            p.data[...] = 1000  # no ReLU is shut
    x = Tensor(rng.standard_normal((1, channels, side, side)).astype(np.float32), requires_grad=True)
    y = module(x)
    gy = np.zeros(y.shape, np.float32)
    gy[0, :, side // 2, side // 2] = rng.standard_normal(y.shape[1])
    y.backward(gy)
    return x.grad[0].any(axis=0)


@pytest.mark.parametrize(
    ("kind", "offsets"),
    [("shared", {-1, 0, 1}), ("own", {-1, 0, 1}), ("context", {-3, -2, -1, 0, 1, 2, 3}),
     ("dilated", {-8, -4, -2, -1, 0, 1, 2, 4, 8})],
)  # fmt: skip
def test_fields_of_the_heads(kind, offsets, rng):
    """3 cells, 7 of the context's longest branch, 17 of the largest dilation, which skips some in between."""
    cells = seen(hidden_layer(kind, 2, 8, rng), 25, rng)
    for axis in (0, 1):
        assert set(np.flatnonzero(cells.any(axis=axis)) - 12) == offsets
    assert max(offsets) - min(offsets) + 1 == {"context": 7, "dilated": 17}.get(kind, 3)
    assert cells.sum() == {"context": 49, "dilated": 1 + 4 * 8}.get(kind, 9)


@pytest.mark.parametrize("row", [8, 9])
@pytest.mark.parametrize("column", [8, 9])
def test_three_by_three_after_upsampling_sees_two_by_two(row, column, rng):
    """Group Sampling, Fig. 4: which two of each axis depends on the half of the cell; and without it, nine cells."""
    x = Tensor(rng.standard_normal((1, 1, 8, 8)), requires_grad=True)
    w = rng.standard_normal((1, 1, 3, 3))
    y = conv2d(resize(x, (16, 16), "nearest"), Tensor(w), None, 1, 1)
    gy = np.zeros(y.shape)
    gy[0, 0, row, column] = 1
    y.backward(gy)
    starts = [(n - 1) // 2 for n in (row, column)]
    expected = np.zeros((8, 8), bool)
    expected[starts[0] : starts[0] + 2, starts[1] : starts[1] + 2] = True
    np.testing.assert_array_equal(x.grad[0, 0] != 0, expected)
    # It is such a convolution: 2x2 weights that are sums of the nine, rows and columns alike.
    sums = {0: [[1, 0], [0, 1], [0, 1]], 1: [[1, 0], [1, 0], [0, 1]]}  # of an even and an odd cell
    small = np.array(sums[row % 2]).T @ w[0, 0] @ np.array(sums[column % 2])
    part = x.data[0, 0, starts[0] : starts[0] + 2, starts[1] : starts[1] + 2]
    assert y.data[0, 0, row, column] == pytest.approx((small * part).sum())
    plain = Tensor(x.data, requires_grad=True)
    out = conv2d(plain, Tensor(w), None, 1, 1)
    gy = np.zeros(out.shape)
    gy[0, 0, 4, 4] = 1
    out.backward(gy)
    assert (plain.grad != 0).sum() == 9
