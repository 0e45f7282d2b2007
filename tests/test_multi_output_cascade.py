"""The multi-output cascade: who learns from which sample, its loss, the bridges, and its pipeline with landmarks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidetect
from minidetect.api import save
from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import gradcheck
from minidetect.data.synthetic import draw_scene
from minidetect.detection.boxes import to_square
from minidetect.detection.pyramid import ImagePyramid
from minidetect.kernels.iou import iou_matrix
from minidetect.models.cascade import ConvStack, Prediction
from minidetect.models.cascade_pipeline import SIZES, Look, Pipeline
from minidetect.models.multi_output_cascade import (
    LANDMARK,
    LOSS_WEIGHTS,
    NEGATIVE,
    PART,
    POSITIVE,
    TABLES,
    EndToEndCascade,
    MultiOutputCascade,
    multi_output_losses,
    task_rows,
)
from minidetect.nn import Module
from minidetect.reference import boxes as slow

KINDS = (MultiOutputCascade, EndToEndCascade)
both = pytest.mark.parametrize("kind", KINDS, ids=["separate", "end to end"])
TYPES = {"positive": POSITIVE, "negative": NEGATIVE, "part": PART, "landmark": LANDMARK}
# Section 2.3: who learns from which type.
LEARNERS = {POSITIVE: {"logits", "deltas"}, NEGATIVE: {"logits"}, PART: {"deltas"}, LANDMARK: {"points"}}
HEADS = ("logits", "deltas", "points")
# The same kinds of layers as TABLES, but few channels: what is tested here does not depend on their number.
NARROW = (((4, 3, 2), (5, 3, 0), (6, 3, 0)), ((6, 3, 3), (8, 3, 2)), ((4, 3, 3), (6, 3, 3), (8, 3, 2)))
OPEN = (0.4, 0.4, 0.4)


def make(kind: type[MultiOutputCascade] = EndToEndCascade, seed: int = 0, **arguments) -> MultiOutputCascade:
    return kind(np.random.default_rng(seed), **({"tables": NARROW, "widths": (12, 10)} | arguments))


def loud(cascade: MultiOutputCascade) -> MultiOutputCascade:
    """Untrained outputs are almost zero and all slopes alike: make them large, and of both signs."""
    rng = np.random.default_rng(9)
    for net in cascade.branches:
        for head in (net.logits, net.deltas, net.points):
            head.weight.data[...] = rng.standard_normal(head.weight.shape) * 0.3
            head.bias.data[...] = rng.standard_normal(head.bias.shape) * 0.1
    for name, p in cascade.named_parameters():
        if name.endswith("slope"):
            p.data[...] = rng.uniform(-0.8, 0.8, p.shape)
    return cascade


def batch(rng, types, dtype=np.float32):
    """Input (N, 3, 48, 48), types (N,), three stages' deltas and points, NaN where a type has none."""
    types = np.array(types)
    x = rng.standard_normal((len(types), 3, 48, 48)).astype(dtype)
    deltas = [rng.standard_normal((len(types), 4)).astype(dtype) for _ in range(3)]
    points = rng.standard_normal((len(types), 10)).astype(dtype)
    for d in deltas:
        d[(types == NEGATIVE) | (types == LANDMARK)] = np.nan
    points[types != LANDMARK] = np.nan
    return x, types, deltas, points


def block_mean(x: np.ndarray, k: int) -> np.ndarray:
    """(N, 3, k*h, k*w) -> (N, 3, h, w) by adding up shifted slices."""
    return sum(x[:, :, i::k, j::k] for i in range(k) for j in range(k)) / (k * k)


def total(losses) -> Tensor:
    losses = list(losses.values())
    return sum(losses[1:], start=losses[0])


def gradients(cascade: Module, loss: Tensor) -> dict[str, np.ndarray]:
    """By parameter; zero where none arrived."""
    for p in cascade.parameters():
        p.grad = None
    loss.backward()
    return {n: np.zeros_like(p.data) if p.grad is None else p.grad for n, p in cascade.named_parameters()}


def some(grads: dict[str, np.ndarray], prefix: str) -> bool:
    return any(g.any() for name, g in grads.items() if name.startswith(prefix))


# ------------------------------------------------------------------ size (MC-12)


def test_number_of_parameters():
    """Row by row: a convolution's weights and biases, its slopes; the fully connected layer and its slopes; the heads.

    2 + 4 + 10 outputs a net; the last maps are 32 x 1 x 1, 64 x 3 x 3 = 576 and 128 x 3 x 3 = 1152.
    """
    cascade = MultiOutputCascade(np.random.default_rng(0))
    x12 = [3 * 10 * 9 + 10 + 10, 10 * 16 * 9 + 16 + 16, 16 * 32 * 9 + 32 + 32, 16 * (32 + 1)]
    x24 = [3 * 28 * 9 + 28 + 28, 28 * 48 * 9 + 48 + 48, 48 * 64 * 4 + 64 + 64]
    x24 += [576 * 128 + 128 + 128, 16 * (128 + 1)]
    x48 = [3 * 32 * 9 + 32 + 32, 32 * 64 * 9 + 64 + 64, 64 * 64 * 9 + 64 + 64, 64 * 128 * 4 + 128 + 128]
    x48 += [1152 * 256 + 256 + 256, 16 * (256 + 1)]
    assert [net.num_parameters() for net in cascade.branches] == [sum(x12), sum(x24), sum(x48)]
    assert (sum(x12), sum(x24), sum(x48)) == (6_962, 101_468, 389_040)
    assert cascade.num_parameters() == 497_470


def test_the_bridges_widen_only_the_outputs():
    """Section 2.5: 16 outputs read 32 features more in 24net, 128 + 32 more in 48net."""
    cascade = EndToEndCascade(np.random.default_rng(0))
    assert cascade.num_parameters() == 497_470 + 16 * 32 + 16 * (128 + 32) == 500_542


def test_mtcnns_nets_have_landmarks_in_the_last_only():
    """The published P-Net, R-Net and O-Net: ten outputs fewer of 32 + 1, and of 128 + 1, numbers."""
    cascade = MultiOutputCascade(np.random.default_rng(0), landmarks=(False, False, True))
    expected = [6_962 - 10 * 33, 101_468 - 10 * 129, 389_040]
    assert [net.num_parameters() for net in cascade.branches] == expected == [6_632, 100_178, 389_040]
    assert cascade.x24.points is None and cascade.points_mean.shape == (10,)


@pytest.mark.parametrize("stage, sides", [(0, [5, 3, 1]), (1, [11, 4, 3]), (2, [23, 10, 4, 3])])
def test_sides_of_the_maps(stage, sides, rng):
    x = np.zeros((1, 3, SIZES[stage], SIZES[stage]), np.float32)
    for rows, side in enumerate(sides, start=1):
        table = TABLES[stage][:rows]
        stack = ConvStack(table, rng, prelu=True)
        assert stack(Tensor(x)).shape == (1, table[-1][0], side, side)
        assert stack.num_features(SIZES[stage]) == table[-1][0] * side**2


def test_widths_and_slopes():
    cascade = EndToEndCascade(np.random.default_rng(0))
    assert (cascade.x12.width, cascade.x24.width, cascade.x48.width) == (32, 128, 256)
    assert cascade.x24.points.weight.shape == (10, 160) and cascade.x48.points.weight.shape == (10, 416)
    for net in cascade.branches:
        assert [len(p.slope.data) for p in net.stack.prelus] == [len(c.weight.data) for c in net.stack.convs]
    assert cascade.x48.prelu.slope.shape == (256,)


# ------------------------------------------------------------------ who learns from which sample (MC-5)


def test_task_rows():
    classified, located, with_points = task_rows(np.array([LANDMARK, NEGATIVE, PART, POSITIVE, NEGATIVE]))
    assert classified.tolist() == [1, 3, 4] and located.tolist() == [2, 3] and with_points.tolist() == [0]
    assert [len(rows) for rows in task_rows(np.zeros(0, np.int64))] == [0, 0, 0]
    with pytest.raises(ValueError, match="there are others in"):
        task_rows(np.array([1, 2]))


@both
@pytest.mark.parametrize("name", TYPES)
def test_a_head_learns_only_from_its_types(kind, name, rng):
    """A batch of one type: exactly no gradient in the heads that it does not teach, in each of the three nets."""
    cascade, kind_of = loud(make(kind)), TYPES[name]
    x, types, deltas, points = batch(rng, [kind_of] * 3)
    together = gradients(cascade, total(cascade.losses(Tensor(x), types, deltas, points, None)))
    for stage, branch in enumerate(("x12", "x24", "x48")):
        small = Tensor(block_mean(x, 4 // 2**stage))
        for head in HEADS:
            assert some(together, f"{branch}.{head}") == (head in LEARNERS[kind_of]), (branch, head)
        if kind is MultiOutputCascade:
            alone = cascade.stage_losses(stage, small, types, deltas[stage], points, None)
            grads = gradients(cascade, total(alone))
            assert [b for b in ("x12", "x24", "x48") if some(grads, b)] == [branch]
            for head in HEADS:
                assert some(grads, f"{branch}.{head}") == (head in LEARNERS[kind_of]), (branch, head)
    assert all(np.isfinite(g).all() for g in together.values())


@both
@pytest.mark.parametrize("head", HEADS)
def test_in_a_mixed_batch_each_head_learns_from_its_own_rows_alone(kind, head, rng):
    cascade = loud(make(kind))
    x, types, deltas, points = batch(rng, [POSITIVE, LANDMARK, PART, NEGATIVE, NEGATIVE, PART, LANDMARK, POSITIVE])
    mixed = gradients(cascade, total(cascade.losses(Tensor(x), types, deltas, points, None)))
    rows = np.flatnonzero([head in LEARNERS[t] for t in types])
    own = [d[rows] for d in deltas]
    alone = gradients(cascade, total(cascade.losses(Tensor(x[rows]), types[rows], own, points[rows], None)))
    for branch in ("x12", "x24", "x48"):
        for part in ("weight", "bias"):
            name = f"{branch}.{head}.{part}"
            assert alone[name].any()
            np.testing.assert_allclose(mixed[name], alone[name], rtol=1e-4, atol=1e-6, err_msg=name)


@both
def test_targets_of_the_wrong_rows_have_no_effect(kind, rng):
    cascade = loud(make(kind))
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK, NEGATIVE])
    with_nan = cascade.losses(Tensor(x), types, deltas, points, None)
    filled = [np.nan_to_num(d, nan=7.0) for d in deltas]
    without = cascade.losses(Tensor(x), types, filled, np.nan_to_num(points, nan=-5.0), None)
    assert with_nan.keys() == without.keys()
    assert {k: v.item() for k, v in with_nan.items()} == {k: v.item() for k, v in without.items()}
    assert np.isfinite(total(with_nan).item())


@both
def test_a_landmark_face_is_no_background_to_the_classifier(kind, rng):
    """Its pixels change the loss of the landmarks alone; a part's that of the boxes alone."""
    cascade = loud(make(kind))
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK])
    before = cascade.losses(Tensor(x), types, deltas, points, None)
    for row, task in ((2, "box"), (3, "points")):
        other = x.copy()
        other[row] = rng.standard_normal(other[row].shape)
        after = cascade.losses(Tensor(other), types, deltas, points, None)
        changed = {name for name in before if before[name].item() != after[name].item()}
        assert changed == {f"x{size}_{task}" for size in SIZES}


# ------------------------------------------------------------------ the loss (MC-4)


def four_samples(dtype=np.float64):
    """One of each type, logits without an opinion, deltas and points of 0; targets for a sum to be done by hand."""
    types = np.array([POSITIVE, NEGATIVE, PART, LANDMARK])
    said = Prediction(*(Tensor(np.zeros((4, n), dtype), requires_grad=True) for n in (2, 4, 10)))
    deltas, points = np.full((4, 4), np.nan), np.full((4, 10), np.nan)
    deltas[0], deltas[2] = [0.5, 0, 0, 0], [2, 0, 0, 0]
    points[3] = [1.5, 0, 0, 0, 0, 0, 0, 0, 0, -0.5]
    return said, types, deltas, points


@pytest.mark.parametrize("stage, gamma", [(0, 0.5), (1, 0.5), (2, 1.0)])
def test_the_loss_by_hand(stage, gamma):
    """Class: log 2 of two. Boxes: 0.5**2 / 2 = 0.125 and 2 - 0.5 = 1.5, their mean 0.8125. Points: 1 + 0.125."""
    losses = multi_output_losses(stage, *four_samples())
    name = f"x{SIZES[stage]}"
    assert list(losses) == [f"{name}_class", f"{name}_box", f"{name}_points"]
    values = [loss.item() for loss in losses.values()]
    assert values == pytest.approx([np.log(2), 0.5 * 0.8125, gamma * 1.125])


def test_the_papers_weights():
    """Section 2.2: alpha = 1, beta = 0.5, gamma = 0.5 in 12net and 24net, 1 in 48net."""
    assert LOSS_WEIGHTS == ((1, 0.5, 0.5), (1, 0.5, 0.5), (1, 0.5, 1))


def test_a_branch_without_landmarks_has_no_such_loss():
    said, *targets = four_samples()
    losses = multi_output_losses(0, said._replace(points=None), *targets)
    assert list(losses) == ["x12_class", "x12_box"]
    assert multi_output_losses(0, said._replace(points=None), *targets, keep=0.5).keys() == losses.keys()


@pytest.mark.parametrize("keep", [1.0, 0.7])
def test_no_samples_are_a_loss_of_zero(keep):
    said = Prediction(*(Tensor(np.zeros((0, n), np.float32), requires_grad=True) for n in (2, 4, 10)))
    nothing = np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros((0, 10), np.float32)
    losses = multi_output_losses(2, said, *nothing, keep)
    total(losses).backward()
    assert [loss.item() for loss in losses.values()] == [0, 0, 0]


def said_and_targets(rng, count=20):
    types = rng.choice(list(TYPES.values()), count)
    said = Prediction(*(Tensor(rng.standard_normal((count, n)), requires_grad=True) for n in (2, 4, 10)))
    return said, types, rng.standard_normal((count, 4)) * 2, rng.standard_normal((count, 10)) * 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.sampled_from([0.05, 0.3, 0.5, 0.7, 0.99]))
def test_the_samples_left_out_get_exactly_no_gradient(seed, count, keep):
    """Section 2.4: of each task's rows the share of largest loss; each divided by how many those are."""
    rng = np.random.default_rng(seed)
    said, types, deltas, points = said_and_targets(rng, count)
    losses = multi_output_losses(2, said, types, deltas, points, keep)
    total(losses).backward()
    p = np.exp(said.logits.data) / np.exp(said.logits.data).sum(axis=1, keepdims=True)
    values = {
        "logits": -np.log(p[np.arange(count), np.clip(types, 0, 1)]),
        "deltas": smooth(said.deltas.data - deltas),
        "points": smooth(said.points.data - points),
    }
    for (head, value), loss, weight in zip(values.items(), losses.values(), LOSS_WEIGHTS[2], strict=True):
        rows = np.flatnonzero([head in LEARNERS[t] for t in types])
        size = max(1, int(keep * len(rows) + 0.5)) if len(rows) else 0
        chosen = rows[np.argsort(-value[rows])[:size]]
        tensor = getattr(said, head)
        grad = np.zeros_like(tensor.data) if tensor.grad is None else tensor.grad
        np.testing.assert_array_equal(np.flatnonzero(grad.any(axis=1)), np.sort(chosen))
        assert loss.item() == pytest.approx(weight * value[chosen].mean() if size else 0)


def smooth(error: np.ndarray) -> np.ndarray:
    """The smooth L1 distance of each row: (N, D) -> (N,)."""
    return np.array([sum(e * e / 2 if abs(e) < 1 else abs(e) - 0.5 for e in row) for row in error])


def test_keeping_all_is_no_choice(rng):
    said, *targets = said_and_targets(rng)
    chosen = multi_output_losses(0, said, *targets, keep=1.0)
    none = multi_output_losses(0, said, *targets)
    assert {k: v.item() for k, v in chosen.items()} == {k: v.item() for k, v in none.items()}
    fewer = multi_output_losses(0, said, *targets, keep=0.5)
    assert all(fewer[name].item() > none[name].item() for name in none)  # the mean of the larger half


@pytest.mark.parametrize("keep", [1.0, 0.6])
@pytest.mark.parametrize("stage", [0, 2])
def test_gradient_of_the_loss_through_the_heads(stage, keep, rng):
    """In float64, from features to the sum of the three terms, for features and every head's weight and bias."""
    net = make().branches[stage]
    types = np.array([POSITIVE, NEGATIVE, PART, LANDMARK, NEGATIVE, PART, POSITIVE, LANDMARK, NEGATIVE])
    features = 6 if stage == 0 else 10 + 12 + 6
    deltas, points = rng.standard_normal((9, 4)) * 2, rng.standard_normal((9, 10)) * 2
    outputs = (2, 4, 10)

    def loss(x, *parameters):
        for head, w, b in zip((net.logits, net.deltas, net.points), parameters[::2], parameters[1::2], strict=True):
            head.weight, head.bias = w, b
        return total(multi_output_losses(stage, net.predict(x), types, deltas, points, keep))

    sides = (1, 1) if stage == 0 else ()
    arrays = [rng.standard_normal((9, features, *sides))]
    for n in outputs:
        arrays += [rng.standard_normal((n, features, *sides)) * 0.3, rng.standard_normal(n)]
    gradcheck(loss, *arrays, rng=rng)


@both
def test_the_gradient_of_everything_equals_a_finite_difference(kind, rng):
    """Along a random direction in all parameters at once, through pooling, slopes, bridges and the choice."""
    cascade = loud(make(kind))
    for p in cascade.parameters():
        p.data = p.data.astype(np.float64)
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK] * 2, np.float64)

    def value() -> Tensor:
        return total(cascade.losses(Tensor(x), types, deltas, points, None, keep=0.7))

    value().backward()
    parameters = cascade.parameters()
    directions = [rng.standard_normal(p.shape) for p in parameters]
    slope = sum(np.vdot(p.grad, d) for p, d in zip(parameters, directions, strict=True))
    values = []
    for step in (1e-7, -1e-7):
        for p, d in zip(parameters, directions, strict=True):
            p.data += step * d
        values.append(value().item())
        for p, d in zip(parameters, directions, strict=True):
            p.data -= step * d
    assert slope == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-5)


# ------------------------------------------------------------------ one network, and its bridges (MC-8)


@both
def test_losses_are_those_of_each_net_on_the_pooled_patch(kind, rng):
    """What `losses` trains is what `classify` says when it detects."""
    cascade = loud(make(kind))
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK])
    losses = cascade.losses(Tensor(x), types, deltas, points, None)
    predictions = [cascade.x12.predict(cascade.x12.features(Tensor(block_mean(x, 4))))]
    predictions += [cascade.classify(1, Tensor(block_mean(x, 2))), cascade.classify(2, Tensor(x))]
    for stage, said in enumerate(predictions):
        for name, loss in multi_output_losses(stage, said, types, deltas[stage], points).items():
            assert losses[name].item() == pytest.approx(loss.item(), rel=1e-4), name
    assert len(losses) == 9


def test_a_separate_branch_is_its_net_alone(rng):
    cascade = loud(make(MultiOutputCascade))
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK] * 3)
    together = cascade.losses(Tensor(x), types, deltas, points, None, keep=0.7)
    for stage, k in enumerate((4, 2, 1)):
        small = Tensor(block_mean(x, k))
        alone = cascade.stage_losses(stage, small, types, deltas[stage], points, None, keep=0.7)
        for name, loss in alone.items():
            assert together[name].item() == pytest.approx(loss.item(), rel=1e-4), name


def test_later_losses_reach_the_earlier_nets_only_over_the_bridges(rng):
    data = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK])
    for kind, crosses in ((EndToEndCascade, True), (MultiOutputCascade, False)):
        cascade = loud(make(kind))
        for stage, task in itertools.product(range(3), ("class", "box", "points")):
            losses = cascade.losses(Tensor(data[0]), *data[1:], None)
            grads = gradients(cascade, losses[f"x{SIZES[stage]}_{task}"])
            for other, branch in enumerate(("x12", "x24", "x48")):
                reached = other == stage or (crosses and other < stage)
                assert some(grads, f"{branch}.stack.convs.0") == reached, (kind, stage, task, branch)
                assert other == stage or not any(some(grads, f"{branch}.{head}") for head in HEADS)


def test_end_to_end_starts_with_what_the_separate_nets_say(rng):
    separate, joint = loud(make(MultiOutputCascade, seed=1)), loud(make(EndToEndCascade, seed=2))
    separate.mean_colour[:], separate.deltas_std[1], separate.thresholds = 99, 0.3, (0.2, 0.3, 0.4)
    separate.points_mean[:], separate.points_std[:] = np.linspace(0.2, 0.8, 10), 0.07
    joint.start_from(separate)
    for stage in range(3):
        x = Tensor(rng.standard_normal((5, 3, SIZES[stage], SIZES[stage])).astype(np.float32))
        if stage == 0:
            ours, theirs = (net.predict(net.features(x)) for net in (joint.x12, separate.x12))
        else:
            ours, theirs = joint.classify(stage, x), separate.classify(stage, x)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.data, b.data, rtol=1e-6, atol=1e-6)
    for name in ("mean_colour", "deltas_mean", "deltas_std", "points_mean", "points_std"):
        np.testing.assert_array_equal(getattr(joint, name), getattr(separate, name))
    assert joint.thresholds == separate.thresholds
    joint.points_mean[:] = 0
    assert separate.points_mean.all()  # copied, not shared


def test_the_bridges_start_at_zero_and_can_leave_it(rng):
    joint = make(EndToEndCascade)
    joint.start_from(loud(make(MultiOutputCascade)))
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK])
    grads = gradients(joint, total(joint.losses(Tensor(x), types, deltas, points, None)))
    for net, branch, own in ((joint.x24, "x24", 12), (joint.x48, "x48", 10)):
        for head in HEADS:
            assert not getattr(net, head).weight.data[:, own:].any()
            assert grads[f"{branch}.{head}.weight"][:, own:].any()


def test_the_control_starts_as_a_copy():
    separate, control = loud(make(MultiOutputCascade, seed=1)), make(MultiOutputCascade, seed=2)
    control.start_from(separate)
    state = separate.state_dict()
    for name, array in control.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_dropout_is_drawn_from_the_generator_alone(rng):
    cascade = make(dropout=(0.5, 0.5, 0.5))
    x, types, deltas, points = batch(rng, [POSITIVE, NEGATIVE, PART, LANDMARK] * 2)
    seeds = (0, 0, 1, None)
    generators = [None if seed is None else np.random.default_rng(seed) for seed in seeds]
    runs = [cascade.losses(Tensor(x), types, deltas, points, generator) for generator in generators]
    for name in runs[0]:
        values = [run[name].item() for run in runs]
        assert values[0] == values[1] and len(set(values)) == 3, name


# ------------------------------------------------------------------ fused nets


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return draw_scene("faces_easy", seed=3, size=(72, 90)).image


def undecided(image: np.ndarray, kind=EndToEndCascade, **arguments) -> MultiOutputCascade:
    """A cascade that takes about half of the windows of an image for faces, in each stage."""
    cascade, pyramid = loud(make(kind, **({"thresholds": OPEN} | arguments))), ImagePyramid(image)
    corners = np.random.default_rng(0).uniform(0, 30, (40, 2))
    for stage, net in enumerate(cascade.branches):
        x = cascade.normalise(pyramid.crop(np.concatenate([corners, corners + 30], axis=1), SIZES[stage]))
        logits = (net.predict(net.features(x)) if stage == 0 else cascade.classify(stage, x)).logits.data
        net.logits.bias.data[1] -= np.median(logits[:, 1] - logits[:, 0])
    cascade.deltas_std[:] = 0.03  # boxes move a little
    cascade.points_mean[:], cascade.points_std[:] = np.linspace(0.2, 0.8, 10), 0.1
    return cascade


@both
@pytest.mark.parametrize("full", [False, True], ids=["narrow", "full tables"])
def test_fused_nets_say_the_same(kind, full, photo, rng):
    """With slopes of both signs, squares over every border, and landmarks."""
    cascade = loud(make(kind, **({"tables": TABLES, "widths": (128, 256)} if full else {})))
    fused, pyramid = cascade.fuse(), ImagePyramid(photo, 3)
    for k in (-1, 0, 4):
        for ours, theirs in zip(fused.look_everywhere(pyramid, k), cascade.look_everywhere(pyramid, k), strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    corners = rng.uniform(-20, 80, (37, 2))
    squares = np.concatenate([corners, corners + rng.uniform(8, 60, (37, 1))], axis=1).astype(np.float32)
    for stage in (1, 2):
        ours, theirs = fused.look_again(pyramid, squares, stage), cascade.look_again(pyramid, squares, stage)
        outputs = ("probs", "deltas", "points")[: stage + 1]
        for name in outputs:
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=2e-4, err_msg=name)
        assert stage == 2 or ours.points is theirs.points is None  # x24's only served to train it


@both
def test_fused_detection_is_the_same_with_landmarks(kind, photo):
    cascade = undecided(photo, kind, max_proposals=120)
    slow_found = Pipeline.detect(cascade, [photo], 20)[0]
    found = cascade.detect([photo], 20)[0]
    assert len(found.boxes) > 3 and found.landmarks.shape == (len(found.boxes), 5, 2)
    for a, b in zip(found, slow_found, strict=True):
        np.testing.assert_allclose(a, b, atol=0.02)


@pytest.mark.parametrize("landmarks", [(True, True, False), (False, False, True), (False, False, False)])
def test_branches_with_and_without_landmarks(landmarks, photo):
    """A branch before the last may have them or not; what is found has those of the last."""
    cascade = make(landmarks=landmarks, thresholds=(0.0, 0.0, 0.0), max_proposals=10)
    for found in (cascade.detect([photo])[0], Pipeline.detect(cascade, [photo])[0]):
        assert len(found.boxes) > 0
        assert (found.landmarks is not None) == landmarks[2]


# ------------------------------------------------------------------ the pipeline (section 2.1)


class Scripted(Pipeline):
    """A pipeline whose nets answer by rule: windows score at random, squares by where they lie.

    In 24 and 48 pixels a square's score is a function of its centre, and the five points lie at fixed places of it.
    Only the last net moves a box, always in the same way.
    """

    move = np.array([0.1, -0.05, -0.1, 0.05], np.float32)  # centre to the right and up; narrower, higher
    places = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)

    def __init__(self, **settings) -> None:
        self.thresholds, self.nms_threshold, self.stage_nms, self.level_nms = (0.5, 0.2, 0.2), 0.35, (0.7, 0.7), 0.5
        self.second_look, self.levels_per_octave, self.response_pool, self.max_proposals = None, 3, 0, 3000
        self.deltas_mean, self.deltas_std = np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)
        self.points_mean, self.points_std = np.full(10, 0.5, np.float32), np.full(10, 0.25, np.float32)
        self.asked = {1: [], 2: []}
        for name, value in settings.items():
            setattr(self, name, value)

    def look_everywhere(self, pyramid, k):
        h, w = pyramid.level_size(k)
        shape = ((h - 12) // 2 + 1, (w - 12) // 2 + 1)
        probs = np.random.default_rng(1000 + k).random(shape, dtype=np.float32)
        return probs, np.zeros((4, *shape), np.float32)

    def score(self, squares, stage):
        centre = (squares[:, :2] + squares[:, 2:]) / 2
        return (0.5 + 0.49 * np.sin(centre @ [0.7, 1.3] + stage)).astype(np.float32)

    def look_again(self, pyramid, squares, stage):
        self.asked[stage].append(squares)
        points = np.tile((self.places.ravel() - 0.5) / 0.25, (len(squares), 1))
        deltas = np.tile(self.move * (stage == 2), (len(squares), 1))
        return Look(self.score(squares, stage), deltas, points.astype(np.float32))


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """IoU of all pairs (N, N), of a box with itself 0."""
    return iou_matrix(boxes, boxes) - np.eye(len(boxes))


BLANK = np.zeros((60, 70, 3), np.uint8)


def test_local_nms_thins_out_each_level_on_its_own():
    """No two windows of one level overlap by more than the threshold; windows of two levels may, by nearly all."""
    pyramid = ImagePyramid(BLANK, 3)
    loose = Scripted(level_nms=None).propose(pyramid, 12)
    tight = Scripted().propose(pyramid, 12)
    assert len(tight.boxes) < len(loose.boxes) and tight.windows == loose.windows
    sides = (tight.boxes[:, 2] - tight.boxes[:, 0]).round(1)
    iou = overlaps(tight.boxes)
    same = sides[:, None] == sides[None]
    assert len(np.unique(sides)) > 3 and iou[same].max() <= 0.5 < iou[~same].max()
    expected = []
    for side in np.unique((loose.boxes[:, 2] - loose.boxes[:, 0]).round(1)):
        rows = np.flatnonzero((loose.boxes[:, 2] - loose.boxes[:, 0]).round(1) == side)
        expected += rows[slow.nms(loose.boxes[rows].tolist(), loose.scores[rows].tolist(), 0.5)].tolist()
    expected = np.sort(expected)  # loose is sorted by score
    np.testing.assert_array_equal(tight.boxes, loose.boxes[expected])
    np.testing.assert_array_equal(tight.scores, loose.scores[expected])


def test_the_best_proposals_go_on_after_local_nms():
    pyramid = ImagePyramid(BLANK, 3)
    every, few = Scripted().propose(pyramid, 12), Scripted(max_proposals=7).propose(pyramid, 12)
    np.testing.assert_array_equal(few.boxes, every.boxes[:7])
    assert (np.diff(every.scores) <= 0).all()


@pytest.mark.parametrize("stage_nms", [(0.5, 0.3), None])
def test_suppression_over_all_levels_before_each_look(stage_nms):
    pipeline = Scripted(stage_nms=stage_nms, level_nms=None)
    pipeline.survivors(ImagePyramid(BLANK[:, :60], 3), 12)  # as high as wide: windows of all levels are squares
    for stage in (1, 2):
        squares = np.concatenate(pipeline.asked[stage])
        limit = 1.0 if stage_nms is None else stage_nms[stage - 1]
        assert len(squares) > 10 and overlaps(squares).max() <= limit + 1e-6
        assert stage_nms is not None or overlaps(squares).max() > 0.7


def by_the_book(pipeline: Scripted, image: np.ndarray, min_face: float):
    """The pipeline again with lists and loops: rows of (score, box, landmarks), best first."""
    pyramid = ImagePyramid(image, 3)
    boxes, scores, *_ = pipeline.propose(pyramid, min_face)
    for stage in (1, 2):
        keep = slow.nms(boxes.tolist(), scores.tolist(), pipeline.stage_nms[stage - 1])
        boxes = to_square(boxes[keep])
        scores = pipeline.score(boxes, stage)
        boxes, scores = boxes[scores > 0.2], scores[scores > 0.2]
    squares = boxes
    boxes = np.array([slow.decode(square, pipeline.move) for square in squares.tolist()])
    first = slow.nms(boxes.tolist(), scores.tolist(), pipeline.nms_threshold)
    keep = [first[i] for i in slow.nms(boxes[first].tolist(), scores[first].tolist(), 0.7, mode="min")]
    h, w = image.shape[:2]
    rows = []
    for box, square, score in zip(boxes[keep].tolist(), squares[keep].tolist(), scores[keep].tolist(), strict=True):
        clipped = [max(box[0], 0), max(box[1], 0), min(box[2], w), min(box[3], h)]
        corner, side = np.array(square[:2]), square[2] - square[0]
        rows.append((score, clipped, corner + side * pipeline.places))
    return sorted(rows, key=lambda row: -row[0])


@pytest.mark.parametrize("batch", [3, 128])
def test_detections_by_the_book(batch):
    """Boxes, scores and landmarks against loops, whatever the patches are looked at together."""
    pipeline = Scripted(batch=batch)
    found, reports = pipeline.detect_with_report(BLANK, 12)
    expected = by_the_book(Scripted(), BLANK, 12)
    assert len(expected) > 10 and len(found.boxes) == len(expected) == reports[-1].boxes_out
    np.testing.assert_allclose(found.scores, [row[0] for row in expected], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [row[1] for row in expected], atol=1e-4)
    np.testing.assert_allclose(found.landmarks, [row[2] for row in expected], atol=1e-3)
    assert overlaps(found.boxes).max() <= 0.35 + 1e-6
    assert found.landmarks.dtype == np.float32


def test_landmarks_belong_to_their_box():
    """The third point lies below the middle of the square that was looked at, by a tenth of its side.

    The square is known from the box, which was moved from it, wherever the box was not clipped.
    """
    found = Scripted().detect([BLANK], 12)[0]
    inside = (found.boxes[:, :2] > 0).all(axis=1) & (found.boxes[:, 2:] < [70, 60]).all(axis=1)
    assert inside.sum() > 5
    boxes = found.boxes[inside]
    side = (boxes[:, 2:3] - boxes[:, :1]) / np.exp(-0.1)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - side * [0.1, -0.05]
    np.testing.assert_allclose(found.landmarks[inside, 2], middle + side * [0, 0.1], atol=0.5)
    assert (np.diff(found.scores) <= 0).all()


class TwoBoxes(Scripted):
    """The last look sees two faces, with these scores."""

    def survivors(self, pyramid, min_face, stages=3, min_score=None):
        found = super().survivors(pyramid, min_face, stages, min_score)
        landmarks = np.stack([self.boxes[:, :2]] * 5, axis=1)
        return found._replace(boxes=self.boxes, scores=self.scores, landmarks=landmarks)


@pytest.mark.parametrize(
    "second, scores, kept",
    [
        ([10, 10, 26, 26], [0.9, 0.8], [0]),  # a part of a better face: 256 of 1600 are an IoU of 0.16
        ([10, 10, 26, 26], [0.8, 0.9], [1]),  # a face around a better one goes as well
        ([30, 10, 50, 30], [0.8, 0.9], [1, 0]),  # half of the smaller lies in the larger: both stay, the better first
        ([2, 0, 42, 40], [0.9, 0.8], [0]),  # IoU 38 / 42
        ([80, 0, 90, 10], [0.9, 0.8], [0]),  # wholly outside the image: nothing is left of it
        ([60, 0, 90, 40], [0.7, 0.8], [1, 0]),  # clipped at the border
    ],
)
def test_the_last_suppression_and_clipping(second, scores, kept):
    pipeline = TwoBoxes(boxes=np.array([[0, 0, 40, 40], second], np.float32), scores=np.array(scores, np.float32))
    found = pipeline.detect([BLANK], 12)[0]
    expected = pipeline.boxes[kept]
    np.testing.assert_array_equal(found.boxes, np.minimum(expected, [70, 60, 70, 60]))
    np.testing.assert_array_equal(found.landmarks[:, 0], expected[:, :2])  # where they are, also beyond the border
    np.testing.assert_array_equal(found.scores, pipeline.scores[kept])


def test_a_face_cut_by_the_border_is_looked_at_with_black_around_it():
    """Left half of a square outside: black there, the image's pixels in the rest, for both kinds of pipeline."""
    image = np.full((48, 48, 3), 200, np.uint8)
    squares = np.array([[-24, 0, 24, 48]], np.float32)
    pyramid = ImagePyramid(image)
    patch = pyramid.crop(squares, 48)[0]
    assert (patch[:, :24] == 0).all() and (patch[:, 24:] == 200).all()
    cascade = loud(make(landmarks=(True, True, True)))
    said = cascade.classify(2, cascade.normalise(patch[None]))
    for pipeline in (cascade, cascade.fuse()):
        look = pipeline.look_again(pyramid, squares, 2)
        np.testing.assert_allclose(look.points, said.points.data, atol=1e-4)
        assert look.probs[0] == pytest.approx(said.face_probs()[0], abs=1e-5)


def test_points_are_measured_from_the_square_that_was_cut():
    """0.5 + 0.25 * 2 = 1 side from the upper left corner, over the border or not: 40 pixels from (-10, 20)."""
    pipeline = Scripted()
    points = pipeline.points_in(np.array([[-10, 20, 30, 60]], np.float32), np.full((1, 10), 2, np.float32))
    np.testing.assert_array_equal(points, np.tile([30, 60], (1, 5, 1)))
    pipeline.points_mean = np.array([0, 1] * 5, np.float32)
    points = pipeline.points_in(np.array([[0, 0, 10, 10]], np.float32), np.zeros((1, 10), np.float32))
    np.testing.assert_array_equal(points, np.tile([0, 10], (1, 5, 1)))
    assert pipeline.points_in(np.zeros((0, 4), np.float32), np.zeros((0, 10), np.float32)).shape == (0, 5, 2)


@both
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (11, 11), (12, 12), (20, 20)])
def test_small_images_and_no_face_give_landmarks_of_no_face(kind, size):
    cascade = make(kind, thresholds=(0.5, 1.0, 1.0))
    image = np.full((*size, 3), 90, np.uint8)
    for found in (cascade.detect([image], 12)[0], Pipeline.detect(cascade, [image], 12)[0]):
        assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)
        assert found.landmarks.shape == (0, 5, 2) and found.landmarks.dtype == np.float32


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_whichever_stage_says_no_the_landmarks_are_empty(stage, photo):
    cascade = make(thresholds=OPEN)
    for k, net in enumerate(cascade.branches):
        net.logits.weight.data[...] = 0
        net.logits.bias.data[:] = [5, -5] if k == stage else [-5, 5]
    for pipeline in (cascade, cascade.fuse()):
        found, reports = pipeline.detect_with_report(photo)
        assert found.landmarks.shape == (0, 5, 2)
        assert [report.boxes_out > 0 for report in reports[:3]] == [k < stage for k in range(3)]


def test_the_coder_is_a_setting():
    """Corners: a delta of 0.5 moves an edge by half a side; from the centre it moves the box."""
    square, deltas = np.array([[0, 0, 10, 10]], np.float32), np.array([[0.5, 0, 0.5, 0]], np.float32)
    corners = make(coder="corners").box_coder(2).decode(square, deltas)
    np.testing.assert_allclose(corners, [[5, 0, 15, 10]])
    centre = make().box_coder(2).decode(square, deltas)
    np.testing.assert_allclose(centre, [[10 - 5 * np.exp(0.5), 0, 10 + 5 * np.exp(0.5), 10]], rtol=1e-6)
    assert make(coder="corners").fuse().box_coder(1) == make(coder="corners").box_coder(1)


def test_a_training_gives_the_settings_that_ship():
    """No response map pooling, local NMS instead; `train multi-output` writes what the shipped file has."""
    cascade, shipped = MultiOutputCascade(np.random.default_rng(0)), minidetect.load("multi-output").model
    assert cascade.arguments() == shipped.arguments()
    assert cascade.level_nms == 0.5 and cascade.response_pool == 0 and cascade.coder == "centre"


# ------------------------------------------------------------------ saved and loaded


@both
def test_a_model_comes_back_from_its_file(kind, photo, tmp_path):
    """Weights, statistics, and every setting of the pipeline that is not the constructor's own default."""
    chosen = {
        "thresholds": (0.41, 0.42, 0.43), "level_nms": None, "stage_nms": (0.6, 0.5), "nms_threshold": 0.3,
        "second_look": 0.4, "levels_per_octave": 2, "response_pool": 2, "max_proposals": 150, "coder": "corners",
    }  # fmt: skip
    cascade = undecided(photo, kind, **chosen)
    save(cascade, tmp_path / "model.npz", {"recipe": "none"})
    detector = minidetect.load(tmp_path / "model.npz")
    assert type(detector.model) is kind and detector.training == {"recipe": "none"}
    for name, value in chosen.items():
        again = getattr(detector.model, name)
        assert (tuple(again) if isinstance(again, list) else again) == value, name
        assert getattr(detector.pipeline, name) == again
    state = detector.model.state_dict()
    for name, array in cascade.state_dict().items():
        np.testing.assert_array_equal(state[name], array)
    (before,), (after,) = cascade.detect([photo], 20), detector.detect([photo], 20)
    assert len(after.boxes) > 0 and after.landmarks.shape == (len(after.boxes), 5, 2)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_which_branches_have_landmarks_is_saved(tmp_path):
    cascade = make(MultiOutputCascade, landmarks=(False, False, True), widths=(7, 9), stage_nms=None)
    save(cascade, tmp_path / "model.npz", {})
    model = minidetect.load(tmp_path / "model.npz").model
    assert [net.points is not None for net in model.branches] == [False, False, True]
    assert (model.x24.width, model.x48.width) == (7, 9) and model.stage_nms is None
    assert [net.stack.table() for net in model.branches] == [list(map(tuple, table)) for table in NARROW]
