"""Modules find their parameters; the optimiser, its schedule, clipping and initial weights by hand."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.nn import SGD, Conv2d, Linear, Module, PReLU
from minidetect.nn.init import he_normal, normal
from minidetect.nn.layers import parameter
from minidetect.nn.normalize import BatchNorm2d
from minidetect.nn.optim import clip_gradients, scheduled_lr


class Block(Module):
    def __init__(self, rng: np.random.Generator) -> None:
        self.conv = Conv2d(2, 4, 3, rng, groups=2, bias=False)
        self.act = PReLU(4)


class Net(Module):
    def __init__(self, rng: np.random.Generator) -> None:
        self.scale = parameter(np.float32(2.0))
        self.blocks = [Block(rng), Block(rng)]
        self.heads = (Linear(3, 2, rng), Linear(3, 4, rng))
        self.constant = Tensor(np.ones(7))  # asks for no gradient: not a parameter
        self.mean = np.zeros(3, np.float32)
        self.norm = BatchNorm2d(4)
        self.settings = (1, "same", None)
        self.nothing = []


@pytest.fixture
def net(rng):
    return Net(rng)


# ------------------------------------------------------------------ finding parameters


def test_parameters_are_found_by_name_in_the_order_they_were_set(net):
    assert [(name, p.shape) for name, p in net.named_parameters()] == [
        ("scale", ()),
        ("blocks.0.conv.weight", (4, 1, 3, 3)),
        ("blocks.0.act.slope", (4,)),
        ("blocks.1.conv.weight", (4, 1, 3, 3)),
        ("blocks.1.act.slope", (4,)),
        ("heads.0.weight", (2, 3)),
        ("heads.0.bias", (2,)),
        ("heads.1.weight", (4, 3)),
        ("heads.1.bias", (4,)),
        ("norm.weight", (4,)),
        ("norm.bias", (4,)),
    ]
    assert [name for name, _ in net.named_buffers()] == ["mean", "norm.running_mean", "norm.running_var"]


def test_num_parameters_by_hand(net):
    assert net.num_parameters() == 1 + 2 * (36 + 4) + (6 + 2) + (12 + 4) + 8
    assert Module().num_parameters() == 0 and Module().state_dict() == {}


def test_a_state_holds_parameters_and_buffers(net):
    names = {name for name, _ in net.named_parameters()} | {"mean", "norm.running_mean", "norm.running_var"}
    assert net.state_dict().keys() == names


def test_loading_keeps_the_arrays_so_that_an_optimiser_still_moves_them(net):
    optimiser = SGD(net, lr=1.0, weight_decay=0)
    net.load_state_dict({name: np.ones_like(array) for name, array in net.state_dict().items()})
    for p in net.parameters():
        p.grad = np.ones_like(p.data)
    optimiser.step()
    assert all((p.data == 0).all() for p in net.parameters())


def test_train_reaches_every_part_and_is_off_at_first(net):
    parts = [net, *net.blocks, net.blocks[1].conv, *net.heads, net.norm]
    assert not any(part.training for part in parts)
    net.train()
    assert all(part.training for part in parts)
    net.train(False)
    assert not any(part.training for part in parts)


def test_train_decides_whose_statistics_a_batch_norm_takes(net, rng):
    x = Tensor(rng.normal(5, 2, (3, 4, 2, 2)).astype(np.float32))
    np.testing.assert_allclose(net.norm(x).data, x.data, rtol=1e-4)  # stored: mean 0, variance 1
    net.train()
    np.testing.assert_allclose(net.norm(x).data.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    assert (net.norm.running_mean != 0).all()


def test_layers_start_from_their_generator_alone():
    a, b, c = (Net(np.random.default_rng(seed)).state_dict() for seed in (3, 3, 4))
    assert all((a[name] == b[name]).all() for name in a)
    assert (a["heads.0.weight"] != c["heads.0.weight"]).all()


# ------------------------------------------------------------------ layers


def test_layers_by_hand(rng):
    linear, conv, act = Linear(2, 1, rng), Conv2d(1, 1, 2, rng, stride=2, padding=1), PReLU(1)
    linear.weight.data[:] = [[2, 3]]
    linear.bias.data[:] = 1
    np.testing.assert_array_equal(linear(Tensor([[1.0, 10.0]])).data, [[33]])
    conv.weight.data[:] = 1
    conv.bias.data[:] = 0.5
    # padded with zeros to 4 x 4, the four 2 x 2 windows hold one pixel each
    np.testing.assert_array_equal(conv(Tensor([[[[1, 2], [3, 4]]]])).data, [[[[1.5, 2.5], [3.5, 4.5]]]])
    np.testing.assert_array_equal(act(Tensor([[-4.0], [4.0]])).data, [[-1], [4]])


def test_biases_start_at_zero_and_weights_where_they_are_told(rng):
    small, he = Linear(500, 400, rng, std=0.01), Linear(500, 400, rng)
    assert small.weight.data.std() == pytest.approx(0.01, rel=0.02)
    assert he.weight.data.std() == pytest.approx(np.sqrt(2 / 500), rel=0.02)
    assert not small.bias.data.any()
    assert small.weight.dtype == he.bias.dtype == np.float32


# ------------------------------------------------------------------ initial weights


@pytest.mark.parametrize(("shape", "fan_in"), [((256, 8, 3, 3), 72), ((300, 90), 90), ((2000, 16, 1, 1), 16)])
def test_he_normal_has_variance_2_over_fan_in(shape, fan_in, rng):
    w = he_normal(shape, rng)
    assert w.shape == shape and w.dtype == np.float32
    assert w.var() == pytest.approx(2 / fan_in, rel=0.04)
    assert w.mean() == pytest.approx(0, abs=4 * np.sqrt(2 / fan_in / w.size))


def test_he_normal_keeps_the_size_of_a_signal_through_twenty_layers(rng):
    """And a tenth less does not: 0.9**20 of the deviation is an eighth of it."""
    sizes = {}
    for factor in (1.0, 0.9):
        x = rng.standard_normal((100, 256))
        for _ in range(20):
            x = np.maximum(x @ (factor * he_normal((256, 256), rng)).T, 0)
        sizes[factor] = np.sqrt((x**2).mean())
    assert 0.6 < sizes[1.0] < 1.6
    assert sizes[0.9] < 0.2


def test_normal_has_its_deviation(rng):
    assert normal((100, 200), rng, 0.001).std() == pytest.approx(0.001, rel=0.02)


# ------------------------------------------------------------------ SGD


class Two(Module):
    """A matrix, which decays, and a vector, which does not."""

    def __init__(self) -> None:
        self.weight = parameter(np.array([[1.0]], np.float32))
        self.bias = parameter(np.array([1.0], np.float32))


def give_gradients(model, value):
    for p in model.parameters():
        p.grad = np.full_like(p.data, value)


def test_two_steps_of_sgd_by_hand():
    """lr 0.1, momentum 0.5, decay 0.1.

    weight: v = 2 + 0.1 * 1 = 2.1,                   w = 1 - 0.21 = 0.79
            v = 0.5 * 2.1 + 1 + 0.1 * 0.79 = 2.129,  w = 0.79 - 0.2129 = 0.5771
    bias:   v = 2, b = 0.8;   v = 0.5 * 2 + 1 = 2, b = 0.6
    """
    model = Two()
    optimiser = SGD(model, lr=0.1, momentum=0.5, weight_decay=0.1)
    give_gradients(model, 2)
    optimiser.step()
    np.testing.assert_allclose([model.weight.data[0, 0], model.bias.data[0]], [0.79, 0.8], rtol=1e-6)
    give_gradients(model, 1)
    optimiser.step()
    np.testing.assert_allclose([model.weight.data[0, 0], model.bias.data[0]], [0.5771, 0.6], rtol=1e-6)
    assert model.weight.dtype == np.float32


def test_only_parameters_with_a_gradient_move():
    model = Two()
    optimiser = SGD(model, lr=0.1)
    model.bias.grad = np.ones(1, np.float32)
    optimiser.step()
    assert model.weight.data == 1 and model.bias.data != 1


def test_a_step_leaves_the_gradients_and_zero_grad_removes_them():
    model = Two()
    optimiser = SGD(model, lr=0.1, weight_decay=0.1)
    give_gradients(model, 2)
    optimiser.step()
    assert model.weight.grad == 2 and model.bias.grad == 2
    optimiser.zero_grad()
    assert model.weight.grad is None and model.bias.grad is None


def test_biases_may_learn_faster_and_shrink_too():
    """Fast R-CNN, section 2.3: twice the rate for biases, decay for all. One step from 1 with a gradient of 1."""
    layer = Linear(1, 1, np.random.default_rng(0))
    for p in (layer.weight, layer.bias):
        p.data[...], p.grad = 1, np.ones_like(p.data)
    SGD(layer, lr=0.1, weight_decay=0.5, bias_lr=2, decay_vectors=True).step()
    assert layer.weight.data.item() == pytest.approx(1 - 0.1 * 1.5)
    assert layer.bias.data.item() == pytest.approx(1 - 0.2 * 1.5)
    layer.bias.data[...] = 1
    SGD(layer, lr=0.1, weight_decay=0.5).step()
    assert layer.bias.data.item() == pytest.approx(0.9)


def test_sgd_goes_down_a_valley():
    """f(w) = (w - 3)**2 from w = 1; a constant rate of 0.1 with momentum 0.9 needs about 100 steps."""
    model = Two()
    optimiser = SGD(model, lr=0.1, weight_decay=0)
    for _ in range(150):
        optimiser.zero_grad()
        ((model.weight - 3) ** 2).sum().backward()
        optimiser.step()
    assert model.weight.data[0, 0] == pytest.approx(3, abs=0.01)


def test_momentum_is_saved_and_restored():
    """The third step of a restored optimiser is the third step of the first one."""
    models = [Two(), Two()]
    optimisers = [SGD(model, lr=0.1) for model in models]
    for _ in range(2):
        give_gradients(models[0], 1)
        optimisers[0].step()
    models[1].load_state_dict(models[0].state_dict())
    optimisers[1].load_state_dict(optimisers[0].state_dict())
    for model, optimiser in zip(models, optimisers, strict=True):
        give_gradients(model, -2)
        optimiser.step()
    assert models[0].weight.data == models[1].weight.data and models[0].bias.data == models[1].bias.data


def test_the_momentum_of_another_model_is_refused():
    optimiser = SGD(Two(), lr=0.1)
    other = SGD(Linear(2, 1, np.random.default_rng(0)), lr=0.1)
    with pytest.raises(ValueError, match=r"run\.ckpt\.npz: momentum of weight has shape \(1, 2\), not \(1, 1\)"):
        optimiser.load_state_dict(other.state_dict(), "run.ckpt.npz")
    with pytest.raises(ValueError, match=r"run\.ckpt\.npz: the optimiser's state belongs to another model"):
        optimiser.load_state_dict({"weight": np.zeros((1, 1))}, "run.ckpt.npz")


# ------------------------------------------------------------------ clipping and schedule


def with_gradients(*gradients):
    tensors = []
    for g in gradients:
        tensors.append(Tensor(np.zeros(np.shape(g), np.float32), requires_grad=True))
        tensors[-1].grad = None if g is None else np.array(g, np.float32)
    return tensors


def test_gradients_are_scaled_together_to_the_largest_norm():
    tensors = with_gradients([[3.0, 0.0]], [4.0], None)
    assert clip_gradients(tensors, 1.0) == pytest.approx(5)
    np.testing.assert_allclose(tensors[0].grad, [[0.6, 0]], rtol=1e-6)
    np.testing.assert_allclose(tensors[1].grad, [0.8], rtol=1e-6)
    assert tensors[2].grad is None and tensors[0].grad.dtype == np.float32


@pytest.mark.parametrize("max_norm", [5.0, 100.0])
def test_small_gradients_are_left_alone(max_norm):
    tensors = with_gradients([3.0], [4.0])
    assert clip_gradients(tensors, max_norm) == 5
    assert tensors[0].grad == 3 and tensors[1].grad == 4


def test_no_gradients_have_norm_zero():
    assert clip_gradients([], 1.0) == 0
    assert clip_gradients(with_gradients(None, [0.0, 0.0], np.zeros((0, 3))), 1.0) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_an_error(bad):
    with pytest.raises(FloatingPointError, match="norm is (nan|inf)"):
        clip_gradients(with_gradients([1.0], [bad, 2.0]), 1.0)


def test_the_learning_rate_rises_and_drops():
    """100 steps at 0.02: up to it in 10, a tenth of it from step 60 on, a hundredth from step 85 on."""
    rates = [scheduled_lr(step, 100, 0.02, warm_up=10, drops=(0.6, 0.85)) for step in range(100)]
    np.testing.assert_allclose(rates[:10], 0.002 * np.arange(1, 11))
    np.testing.assert_allclose(rates[10:60], 0.02)
    np.testing.assert_allclose(rates[60:85], 0.002)
    np.testing.assert_allclose(rates[85:], 0.0002)


def test_a_schedule_may_have_no_warm_up_and_no_drop():
    assert {scheduled_lr(step, 7, 0.5, drops=()) for step in range(7)} == {0.5}
    assert scheduled_lr(0, 2, 1.0, warm_up=200, drops=()) == pytest.approx(1 / 200)  # shorter than its warm-up
