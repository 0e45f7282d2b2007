"""Adam: by hand, against a loop and torch, restored and resumed; and training with the norms' statistics held fixed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.nn import SGD, BatchNorm2d, Linear, Module
from minidetect.nn.checkpoint import load_arrays
from minidetect.nn.optim import Adam
from minidetect.train.loop import Schedule, train_phase


class Few(Module):
    """A matrix, a vector and a single number."""

    def __init__(self, rng: np.random.Generator) -> None:
        shapes = {"matrix": (3, 4), "vector": (4,), "number": ()}
        for name, shape in shapes.items():
            setattr(self, name, Tensor(np.asarray(rng.standard_normal(shape), np.float32), requires_grad=True))


def draw_gradients(model: Module, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random gradients of very different sizes, left in the parameters."""
    for p in model.parameters():
        p.grad = np.asarray(rng.standard_normal(p.shape) * 10.0 ** rng.integers(-3, 3), np.float32)
    return {name: p.grad.copy() for name, p in model.named_parameters()}


# ------------------------------------------------------------------ one step


def test_the_first_two_steps_by_hand():
    """The first moves by lr whatever the gradient: m' = g, v' = g**2. Then g = 6 after 2: m' = 0.78 / 0.19 ..."""
    model = Few(np.random.default_rng(0))
    optimiser = Adam(model, lr=0.1, weight_decay=0)
    model.vector.data[...] = 1
    model.vector.grad = np.float32([2, -2, 2000, 0])
    optimiser.step()
    np.testing.assert_allclose(model.vector.data, [0.9, 1.1, 0.9, 1], rtol=1e-6)
    model.vector.grad = np.float32([6, 0, 0, 0])
    optimiser.step()
    m, v = 0.9 * 0.1 * 2 + 0.1 * 6, 0.999 * 0.001 * 4 + 0.001 * 36
    move = m / (1 - 0.9**2) / math.sqrt(v / (1 - 0.999**2))
    assert model.vector.data[0] == pytest.approx(0.9 - 0.1 * move, rel=1e-5)


def test_weight_decay_stands_beside_the_gradient_and_leaves_vectors_alone():
    """Decoupled: 0.1 * 0.5 of the weight itself, whatever the gradient is; of an L2 term Adam would make lr."""
    model = Few(np.random.default_rng(0))
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = np.zeros_like(p.data)
    Adam(model, lr=0.1, weight_decay=0.5).step()
    np.testing.assert_allclose(model.matrix.data, 0.95 * before["matrix"], rtol=1e-6)
    np.testing.assert_array_equal(model.vector.data, before["vector"])
    assert model.number.data == before["number"]


def test_a_parameter_without_a_gradient_stays(rng):
    model = Few(rng)
    before = model.matrix.data.copy()
    optimiser = Adam(model, lr=0.1)
    model.vector.grad = np.ones(4, np.float32)
    optimiser.step()
    np.testing.assert_array_equal(model.matrix.data, before)
    optimiser.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_moments_stay_float32(rng):
    model = Few(rng)
    optimiser = Adam(model, lr=0.1)
    draw_gradients(model, rng)
    optimiser.step()
    assert {p.data.dtype for p in model.parameters()} == {np.dtype(np.float32)}
    state = optimiser.state_dict()
    assert {a.dtype for name, a in state.items() if name != "steps"} == {np.dtype(np.float32)} and state["steps"] == 1


# ------------------------------------------------------------------ many steps


def slow_adam(start, gradients, lr, beta1, beta2, eps, decay) -> list[float]:
    """Algorithm 1, number by number, in Python's arithmetic; its own decay for each number."""
    values, m, v = [float(x) for x in start], [0.0] * len(start), [0.0] * len(start)
    for t, gradient in enumerate(gradients, start=1):
        for i, g in enumerate(float(g) for g in gradient):
            m[i] = beta1 * m[i] + (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g**2
            step = m[i] / (1 - beta1**t) / (math.sqrt(v[i] / (1 - beta2**t)) + eps)
            values[i] -= lr * (step + decay * values[i])
    return values


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.8)])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_it_agrees_with_a_loop(betas, eps, rng):
    model = Few(rng)
    start = {name: p.data.copy() for name, p in model.named_parameters()}
    optimiser, drawn = Adam(model, 0.05, betas, eps, weight_decay=0.02), []
    for _ in range(30):
        drawn.append(draw_gradients(model, rng))
        optimiser.step()
    for name, p in model.named_parameters():
        decay = 0.02 if name == "matrix" else 0
        expected = slow_adam(start[name].ravel(), [g[name].ravel() for g in drawn], 0.05, *betas, eps, decay)
        np.testing.assert_allclose(p.data.ravel(), expected, rtol=2e-4, atol=2e-5)


def test_it_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    model = Few(rng)
    theirs = {name: torch.tensor(p.data.copy(), requires_grad=True) for name, p in model.named_parameters()}
    groups = [{"params": [theirs["matrix"]], "weight_decay": 0.03},
              {"params": [theirs["vector"], theirs["number"]], "weight_decay": 0.0}]  # fmt: skip
    ours, torchs = Adam(model, lr=0.02, weight_decay=0.03), torch.optim.AdamW(groups, lr=0.02)
    for step in range(20):
        ours.lr = torchs.param_groups[0]["lr"] = torchs.param_groups[1]["lr"] = 0.02 / (step + 1)
        for name, g in draw_gradients(model, rng).items():
            theirs[name].grad = torch.tensor(g)
        ours.step()
        torchs.step()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.data, theirs[name].detach().numpy(), rtol=1e-4, atol=1e-5)


def test_it_finds_the_bottom_of_a_narrow_valley():
    """1000 * x**2 + 0.001 * y**2 from (1, 1): SGD at any rate that does not diverge hardly moves y."""
    model = Few(np.random.default_rng(0))
    optimiser = Adam(model, lr=0.02, weight_decay=0)
    model.vector.data[...] = 1
    for _ in range(300):
        model.vector.grad = np.float32([2000, 0.002, 0, 0]) * model.vector.data
        optimiser.step()
    assert np.abs(model.vector.data[:2]).max() < 0.05


# ------------------------------------------------------------------ saved and restored


def test_a_restored_optimiser_goes_on_with_the_same_bits(rng):
    models = [Few(np.random.default_rng(3)) for _ in range(2)]
    first, second = (Adam(model, lr=0.1) for model in models)
    for _ in range(5):
        draw_gradients(models[0], rng)
        first.step()
    state = first.state_dict()
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(state)
    draw_gradients(models[0], np.random.default_rng(5))
    draw_gradients(models[1], np.random.default_rng(5))
    first.step()
    second.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    assert state["steps"] == 5 and second.steps == 6  # a state is a copy


def test_states_of_another_model_or_optimiser_are_refused(rng):
    model, other = Few(rng), Linear(4, 3, rng)
    adam = Adam(model, lr=0.1)
    for state in (
        Adam(other, 0.1).state_dict(),
        SGD(model, 0.1).state_dict(),
        adam.state_dict() | {"extra": np.zeros(1)},
        adam.state_dict() | {"first/vector": np.zeros(5, np.float32)},
        adam.state_dict() | {"steps": np.zeros(1, np.int64)},
    ):
        with pytest.raises(ValueError, match=r"old\.npz: the optimiser's state belongs to another model, or"):
            adam.load_state_dict(state, "old.npz")
    with pytest.raises(ValueError, match="belongs to another model"):
        SGD(model, 0.1).load_state_dict(adam.state_dict())
    assert adam.steps == 0 and not any(a.any() for a in adam.state_dict().values())  # nothing was half restored


class Normed(Module):
    """A linear layer and a norm over (N, 3), for numbers that are far from 0."""

    def __init__(self, seed: int = 0) -> None:
        self.linear, self.norm = Linear(4, 3, np.random.default_rng(seed)), BatchNorm2d(3)
        self.norm.running_mean[...] = [5, 6, 7]
        self.norm.running_var[...] = [4, 5, 6]

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


class Stopped(Exception):
    pass


def train(folder, schedule: Schedule, stop_at: int | None = None, **options) -> Normed:
    """Predict the sum of a random row; stop_at: raise Stopped in that step."""
    model, asked = Normed(), []

    def losses(rng: np.random.Generator) -> dict[str, Tensor]:
        if len(asked) == stop_at:
            raise Stopped
        asked.append(model.norm.training)
        x = rng.standard_normal((8, 4)).astype(np.float32)
        error = model(Tensor(x)) - x.sum(axis=1, keepdims=True)
        return {"square": (error * error).mean()}

    rng = np.random.default_rng(1)
    train_phase("net", model, losses, schedule, folder, rng, 2, checkpoint_every=4, progress=False, **options)
    assert set(asked) <= {not options.get("fixed_norms", False)}
    return model


ADAM = Schedule(15, lr=0.05, warm_up=3, weight_decay=0.01, adam=True)


@pytest.mark.parametrize("fixed_norms", [False, True])
def test_a_resumed_training_has_the_bits_of_one_that_was_not_stopped(tmp_path, fixed_norms):
    train(tmp_path / "whole", ADAM, fixed_norms=fixed_norms)
    for stop_at in (6, 7):  # the second run goes on from step 4, the third from step 8
        with pytest.raises(Stopped):
            train(tmp_path / "parts", ADAM, stop_at, fixed_norms=fixed_norms)
    train(tmp_path / "parts", ADAM, fixed_norms=fixed_norms)
    assert (tmp_path / "parts" / "net.npz").read_bytes() == (tmp_path / "whole" / "net.npz").read_bytes()


def test_a_schedule_chooses_the_optimiser(tmp_path):
    """The first step of a training by hand: Adam moves each weight by the rate, of which warm-up leaves a third."""
    chosen = ADAM.optimiser(Normed())
    assert isinstance(chosen, Adam) and (chosen.lr, chosen.weight_decay) == (0.05, 0.01)
    assert isinstance(Schedule(15).optimiser(Normed()), SGD)
    one = Schedule(1, lr=0.06, warm_up=3, weight_decay=0, adam=True)
    moved = np.abs(train(tmp_path, one).linear.weight.data - Normed().linear.weight.data)
    np.testing.assert_allclose(moved, 0.02, rtol=1e-3)


def test_a_checkpoint_of_the_other_optimiser_is_named(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, ADAM, 6)
    with pytest.raises(ValueError, match=r"net\.ckpt\.npz: the optimiser's state belongs to another model"):
        train(tmp_path, Schedule(15, lr=0.05))


@pytest.mark.parametrize("adam", [False, True])
def test_fixed_norms_keep_their_statistics_and_learn_the_rest(tmp_path, adam):
    schedule = Schedule(15, lr=0.05, warm_up=3, adam=adam)
    fixed, usual = train(tmp_path / "fixed", schedule, fixed_norms=True), train(tmp_path / "usual", schedule)
    start = Normed()
    np.testing.assert_array_equal(fixed.norm.running_mean, start.norm.running_mean)
    np.testing.assert_array_equal(fixed.norm.running_var, start.norm.running_var)
    assert (usual.norm.running_mean != start.norm.running_mean).all()
    for model in (fixed, usual):
        for name, p in model.named_parameters():
            assert (p.data != dict(start.named_parameters())[name].data).any(), name
        assert not model.training and not model.norm.training
    saved = load_arrays(tmp_path / "fixed" / "net.npz")[0]
    np.testing.assert_array_equal(saved["norm.running_mean"], [5, 6, 7])
