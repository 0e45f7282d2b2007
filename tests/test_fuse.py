"""Fused networks: the numbers of the unfused, whatever stands in what order; and the memory that they use again."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from minidetect.autograd import Tensor, no_grad
from minidetect.autograd.gradcheck import gradcheck
from minidetect.kernels import inverted_residual
from minidetect.kernels.conv import conv2d_forward
from minidetect.kernels.inverted_residual import block_forward, pack_block, suits
from minidetect.nn import BatchNorm2d, Conv2d, InvertedResidual, LeakyReLU, Linear, Module, PReLU, ReLU, Sequential
from minidetect.nn.fuse import Fused, FusedBlock, FusedConv, Unfused, Workspace, fuse
from minidetect.ops.shape import flatten


def one_slope() -> Module:
    return PReLU(1)


def shaken(model: Module, rng: np.random.Generator) -> Module:
    """Random statistics, scales, biases and slopes instead of the ones and zeros of the start."""
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data[...] = rng.uniform(-0.5, 1.5, p.shape)
            if name.endswith("weight"):  # of a batch norm: away from 0, of either sign
                p.data[...] = rng.uniform(0.5, 1.5, p.shape) * rng.choice([-1, 1], p.shape)
    for name, buffer in model.named_buffers():
        buffer[...] = rng.uniform(0.3, 2, buffer.shape) if name.endswith("var") else rng.standard_normal(buffer.shape)
    return model


def run(model: Module, x: np.ndarray) -> np.ndarray:
    model.train(False)
    with no_grad():
        return model(Tensor(x)).data


def assert_same(ours: np.ndarray, truth: np.ndarray) -> None:
    assert ours.shape == truth.shape and ours.dtype == np.float32
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=2e-5 * np.abs(truth).max(initial=0))


def conv(rng, channels=4, out=4, kernel=3, **settings) -> Conv2d:
    return Conv2d(channels, out, kernel, rng, padding=kernel // 2, **settings)


def swapped(block: InvertedResidual, *layers: Module) -> InvertedResidual:
    block.body = Sequential(*layers)
    return block


# What it is made of, from 4 channels to any number; and the steps that it should become.
C, U, B = FusedConv, Unfused, FusedBlock
CHAINS = {
    "conv": (lambda r: [conv(r)], [C]),
    "conv, norm": (lambda r: [conv(r, bias=False), BatchNorm2d(4)], [C]),
    "conv, norm, act": (lambda r: [conv(r), BatchNorm2d(4), PReLU(4)], [C]),
    "depthwise, norm, relu": (lambda r: [conv(r, groups=4), BatchNorm2d(4), ReLU()], [C]),
    "groups, stride, leaky": (lambda r: [conv(r, groups=2, stride=2), LeakyReLU(0.3), BatchNorm2d(4)], [C, U]),
    "one slope": (lambda r: [conv(r, 4, 6), PReLU(1)], [C]),
    "one channel": (lambda r: [conv(r, 4, 1), PReLU(1), conv(r, 1, 2)], [C, C]),
    "two norms": (lambda r: [conv(r), BatchNorm2d(4), BatchNorm2d(4)], [C]),
    "two activations": (lambda r: [conv(r), PReLU(4), PReLU(1)], [C, U]),
    "norm first": (lambda r: [BatchNorm2d(4), conv(r), ReLU()], [U, C]),
    "nested": (lambda r: [Sequential(conv(r), Sequential()), Sequential(BatchNorm2d(4), Sequential(ReLU()))], [C]),
    "nothing": (lambda r: [], []),
    "block": (lambda r: [InvertedResidual(4, 4, 2, r)], [B]),
    "block with an end": (lambda r: [InvertedResidual(4, 4, 3, r, last=one_slope)], [B]),
    "block, stride 2": (lambda r: [InvertedResidual(4, 6, 2, r, 2, act=ReLU)], [B]),
    "block, not widened": (lambda r: [InvertedResidual(4, 5, 1, r), InvertedResidual(5, 5, 1, r)], [B, B]),
    "many blocks": (lambda r: [conv(r), *[InvertedResidual(4, 4, t, r) for t in (1, 2, 3)], conv(r)], [C, B, B, B, C]),
    "act after a block": (lambda r: [InvertedResidual(4, 4, 2, r), PReLU(4)], [C, C, C]),
    "norm after a block": (lambda r: [InvertedResidual(4, 4, 2, r), BatchNorm2d(4)], [B, U]),
    # the convolution before the block is read at its end too: the norm must not be merged into it
    "norm opens a block": (
        lambda r: [conv(r), swapped(InvertedResidual(4, 4, 1, r), BatchNorm2d(4), ReLU(), conv(r))], [C, U, U, C],
    ),
    "act ends a block": (lambda r: [swapped(InvertedResidual(4, 4, 1, r), BatchNorm2d(4), ReLU())], [U, U, U]),
    "empty block": (lambda r: [conv(r), swapped(InvertedResidual(4, 4, 1, r))], [C, U]),
    "block in a block": (
        lambda r: [swapped(InvertedResidual(4, 4, 1, r), InvertedResidual(4, 4, 2, r), conv(r)), ReLU()], [B, C],
    ),
    "blocks that end together": (
        lambda r: [swapped(InvertedResidual(4, 4, 1, r), InvertedResidual(4, 4, 2, r))], [B, U],
    ),
}  # fmt: skip
every_chain = pytest.mark.parametrize("name", CHAINS)


@every_chain
@pytest.mark.parametrize("shape", [(1, 4, 21, 37), (2, 4, 5, 6)], ids=["large", "small"])
def test_the_fused_chain_computes_the_same(name, shape, rng):
    layers, kinds = CHAINS[name]
    model = shaken(Sequential(*layers(rng)), rng)
    x = rng.standard_normal(shape).astype(np.float32)
    before = {key: a.copy() for key, a in model.state_dict().items()}
    fused = fuse(model)
    assert [type(step) for step in fused.steps] == kinds
    for _ in range(2):  # the second call finds the buffers of the first
        assert_same(fused(Tensor(x)).data, run(model, x))
    for key, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[key])


@pytest.mark.parametrize("wrong", ["eps", "sign", "order", "slope"])
def test_a_wrong_fold_is_noticed(wrong, monkeypatch, rng):
    def take_norm(self, norm):
        scale = norm.weight.data / np.sqrt(norm.running_var + (0.1 if wrong == "eps" else norm.eps))
        mean = -norm.running_mean if wrong == "sign" else norm.running_mean
        if wrong == "order":  # the bias of the convolution is scaled too
            self.bias = self.bias - scale * mean + norm.bias.data
        else:
            self.bias = scale * (self.bias - mean) + norm.bias.data
        self.weight = scale[:, None, None, None] * self.weight

    monkeypatch.setattr(FusedConv, "take_norm", take_norm)
    if wrong == "slope":
        monkeypatch.setattr(FusedConv, "take_activation", lambda self, slope: None)
    model = shaken(Sequential(conv(rng), BatchNorm2d(4), PReLU(4)), rng)
    x = rng.standard_normal((1, 4, 20, 20)).astype(np.float32)
    with pytest.raises(AssertionError):
        assert_same(fuse(model)(x).data, run(model, x))


# ------------------------------------------------------------------ models that hold chains


class Flatten(Module):
    def __call__(self, x: Tensor) -> Tensor:
        return flatten(x)  # a view: of a buffer that is used again


class Twice(Module):
    """A stage applied twice, EXTD's way, with heads in a tuple and a part that is nothing to fuse."""

    def __init__(self, rng) -> None:
        self.stage = Sequential(conv(rng), BatchNorm2d(4), ReLU(), InvertedResidual(4, 4, 2, rng, 2))
        self.same = self.stage
        self.heads = (Sequential(conv(rng), Flatten(), Linear(4 * 10 * 18, 3, rng)), conv(rng))
        self.norm = BatchNorm2d(4)

    def __call__(self, x: Tensor):
        first = self.stage(x)
        second = self.norm(self.same(first))
        return first, self.heads[0](first), self.heads[1](second), second


def test_a_model_that_holds_chains(rng):
    model = shaken(Twice(rng), rng)
    model.train()
    fused = fuse(model)
    assert type(fused) is Twice and isinstance(fused.stage, Fused) and fused.stage is fused.same
    assert isinstance(fused.heads, tuple) and isinstance(fused.heads[1], Conv2d) and not fused.norm.training
    assert model.training and isinstance(model.stage, Sequential)
    x = rng.standard_normal((2, 4, 20, 36)).astype(np.float32)
    model.train(False)
    with no_grad():
        expected = [y.data for y in model(Tensor(x))]
        found = [fused(Tensor(a)) for a in (x, x[::-1])][0]  # the second call must not touch the first's results
    for ours, truth in zip(found, expected, strict=True):
        assert_same(ours.data, truth)


def test_a_subclass_with_a_call_of_its_own_is_left_alone(rng):
    class Doubled(Sequential):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) * 2

    class Negated(ReLU):
        def __call__(self, x: Tensor) -> Tensor:
            return -super().__call__(x)

    model = Sequential(conv(rng), Negated(), Doubled(conv(rng), ReLU()))
    x = rng.standard_normal((1, 4, 9, 9)).astype(np.float32)
    assert_same(fuse(model)(x).data, run(model, x))


def test_the_copy_keeps_its_numbers_when_the_model_is_trained_on(rng):
    model = shaken(Sequential(conv(rng), BatchNorm2d(4), PReLU(1)), rng)
    x = rng.standard_normal((1, 4, 9, 9)).astype(np.float32)
    fused, before = fuse(model), run(model, x)
    shaken(model, rng)
    assert_same(fused(x).data, before)
    assert fused.num_parameters() == 0 and not fused(Tensor(x)).requires_grad


@pytest.mark.parametrize("x", [
    np.zeros((0, 4, 20, 20), np.float32), np.asfortranarray(np.ones((2, 4, 20, 20))),
], ids=["no images", "float64, other strides"])  # fmt: skip
def test_unusual_inputs(x, rng):
    model = shaken(Sequential(InvertedResidual(4, 4, 2, rng), conv(rng)), rng)
    assert_same(fuse(model)(x).data, run(model, x.astype(np.float32)))


# ------------------------------------------------------------------ memory


def test_buffers_are_used_again_and_a_larger_one_replaces_one():
    space = Workspace()
    a, b = space.take(10), space.take(20)
    space.give_back(a)
    space.give_back(b)
    assert space.take(5) is b  # the last one back, warm
    assert space.take(11).size == 11  # a is too small, and goes
    assert space.take(1).size == 1


def test_no_more_buffers_than_a_chain_needs_at_one_time(rng):
    model = Sequential(*[conv(rng) for _ in range(8)], InvertedResidual(4, 4, 2, rng), InvertedResidual(4, 4, 2, rng))
    fused = fuse(model)
    for side in (20, 40, 30, 40):
        fused(np.ones((1, 4, side, side), np.float32))
        assert len(fused.workspace._free) <= 3
    sizes = [buffer.size for buffer in fused.workspace._free]
    taken = [id(buffer) for buffer in fused.workspace._free]
    fused(np.ones((1, 4, 40, 40), np.float32))
    assert sorted(sizes) == sorted(buffer.size for buffer in fused.workspace._free)
    assert sorted(taken) == sorted(id(buffer) for buffer in fused.workspace._free)


def test_threads_share_a_fused_model(rng):
    model = shaken(Sequential(*[conv(rng) for _ in range(3)], InvertedResidual(4, 4, 2, rng)), rng)
    fused = fuse(model)
    xs = [rng.standard_normal((1, 4, 30, 30)).astype(np.float32) for _ in range(4)]
    expected = [fused(x).data for x in xs]
    wrong = []

    def work(k: int) -> None:
        wrong.extend(k for _ in range(20) if not np.array_equal(fused(xs[k]).data, expected[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# ------------------------------------------------------------------ the block in bands


@pytest.mark.skipif(not suits((1, 1, 64, 64), 1), reason="no vector unit known on this machine")
@pytest.mark.parametrize("band_floats", [1, 3000, 1 << 20], ids=["two rows", "some rows", "all rows"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "sizes", [(3, 5, 2, 37, 33), (4, 8, 4, 6, 90), (4, None, 5, 11, 64), (1, 2, 1, 1, 40)], ids=str
)
def test_a_block_in_bands(sizes, stride, parts, band_floats, monkeypatch, rng):
    """Against the three convolutions; every cut into bands and parts gives the same bits."""
    channels, inside, out, height, width = sizes

    def layer(*shape):
        return tuple(rng.standard_normal(s).astype(np.float32) for s in (shape, shape[0], shape[0]))

    widen = None if inside is None else layer(inside, channels, 1, 1)
    inside = inside or channels
    filters, narrow = layer(inside, 1, 3, 3), layer(out, inside, 1, 1)
    x = rng.standard_normal((2, channels, height, width)).astype(np.float32)
    wide = x if widen is None else conv2d_forward(x, *widen[:2], 1, 0, 1, 1, slope=widen[2])
    inner = conv2d_forward(wide, *filters[:2], stride, 1, 1, inside, slope=filters[2])
    residual = rng.standard_normal((2, out, *inner.shape[2:])).astype(np.float32)
    expected = conv2d_forward(inner, *narrow[:2], 1, 0, 1, 1, slope=narrow[2], residual=residual)

    block = pack_block(widen, filters, narrow, stride)
    whole = block_forward(x, block, residual, np.full_like(expected, np.nan))
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(inverted_residual, "BAND_FLOATS", band_floats)
    monkeypatch.setattr(inverted_residual, "image_parts", lambda out_h, rows: min(parts, out_h))
    np.testing.assert_array_equal(block_forward(x, block, residual, np.full_like(expected, np.nan)), whole)


# ------------------------------------------------------------------ the layers


@pytest.mark.parametrize("t, first, stride, expected", [(1, 64, 1, 2882), (2, 32, 1, 5059), (4, 32, 1, 10051)])
def test_an_inverted_residual_has_extds_number_of_parameters(t, first, stride, expected, rng):
    block = InvertedResidual(first, 32, t, rng, stride, last=one_slope)
    assert block.num_parameters() == expected
    assert block.skip == (first == 32)


def test_the_skip_adds_the_input_where_it_fits(rng):
    x = Tensor(rng.standard_normal((1, 4, 6, 6)).astype(np.float32))
    block = InvertedResidual(4, 4, 2, rng)
    block.train(False)
    np.testing.assert_array_equal(block(x).data, x.data + block.body(x).data)
    assert not InvertedResidual(4, 4, 2, rng, stride=2).skip and not InvertedResidual(4, 5, 2, rng).skip


def test_one_slope_for_all_channels(rng):
    layer = PReLU(1)
    assert layer(Tensor(np.array([[[4.0], [-4.0]]]))).data.tolist() == [[[4], [-1]]]

    def op(x, slope):
        layer.slope = slope
        return layer(x)

    assert gradcheck(op, rng.standard_normal((2, 3, 4, 5)), np.array([0.3]), rng=rng) < 1e-6


def test_sequential_and_activations():
    x = Tensor(np.array([[-2.0, 3.0]]))
    assert Sequential(LeakyReLU(0.5), LeakyReLU(0.5))(x).data.tolist() == [[-0.5, 3]]
    assert Sequential()(x) is x and ReLU()(x).data.tolist() == [[0, 3]]
    assert [name for name, _ in Sequential(PReLU(2), Sequential(PReLU(1))).named_parameters()] == [
        "layers.0.slope", "layers.1.layers.0.slope",
    ]  # fmt: skip
