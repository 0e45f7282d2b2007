"""FaceCraft: what section 4 of the paper promises of the joint network, and the test pipeline."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.data.synthetic import draw_patches, draw_scene
from minidetect.detection.boxes import to_square
from minidetect.detection.losses import multi_task_loss
from minidetect.detection.pyramid import ImagePyramid
from minidetect.models.cascade import Cascade, Prediction, ProposalNet
from minidetect.models.cascade_pipeline import SIZES
from minidetect.models.facecraft import CVPR15_TABLES, TABLES, JointCascade, SeparateCascade
from minidetect.nn import SGD, Module

CASCADES = (SeparateCascade, JointCascade)
both = pytest.mark.parametrize("kind", CASCADES, ids=["separate", "joint"])
OPEN, SHUT = (-1.0, -1.0), (2.0, 2.0)  # gates that every score passes, and none
# The same kinds of layers as TABLES, but few channels: what is tested here does not depend on their number.
NARROW = (TABLES[0], ((6, 3, 3), (8, 3, 2)), ((4, 3, 3), (6, 3, 3), (8, 3, 2)))


def make(kind: type[Cascade] = JointCascade, seed: int = 0, tables=NARROW, **settings) -> Cascade:
    return kind(np.random.default_rng(seed), tables, **settings)


def loud(cascade: Cascade) -> Cascade:
    """Untrained outputs are almost zero: make them large enough for a wrong sum to show."""
    rng = np.random.default_rng(9)
    for net in (cascade.x24, cascade.x48):
        for p in (net.logits.weight, net.deltas.weight):
            p.data[...] = rng.standard_normal(p.shape) * 0.3
    return cascade


def undecided(image: np.ndarray, kind: type[Cascade] = JointCascade, **settings) -> Cascade:
    """A cascade that takes about half of the windows of an image for faces, in each stage."""
    cascade, pyramid = loud(make(kind, **settings)), ImagePyramid(image)
    corners = np.random.default_rng(0).uniform(0, 30, (40, 2))
    for stage, net in enumerate((cascade.x12, cascade.x24, cascade.x48)):
        x = cascade.normalise(pyramid.crop(np.concatenate([corners, corners + 30], axis=1), SIZES[stage]))
        logits = (net.predict(net.features(x)) if stage == 0 else cascade.classify(stage, x)).logits.data
        net.logits.bias.data[1] -= np.median(logits[:, 1] - logits[:, 0])
    cascade.deltas_std[:] = 0.03  # boxes move a little
    return cascade


def in_float64(module: Module) -> None:
    for p in module.parameters():
        p.data = p.data.astype(np.float64)


def batch(rng, count=6, dtype=np.float32, side=48):
    """Input (N, 3, S, S), labels of both kinds, and raw targets for three branches."""
    x = rng.standard_normal((count, 3, side, side)).astype(dtype)
    labels = np.arange(count) % 2
    return x, labels, [rng.standard_normal((count, 4)).astype(dtype) for _ in range(3)]


def block_mean(x: np.ndarray, k: int) -> np.ndarray:
    """(N, 3, k*h, k*w) -> (N, 3, h, w) by adding up shifted slices."""
    return sum(x[:, :, i::k, j::k] for i in range(k) for j in range(k)) / (k * k)


# ------------------------------------------------------------------ size (FC-7, FC-14)


def test_number_of_parameters():
    """x12: 3*16*9 + 16, 16*16*25 + 16, 16*6 + 6. The others end in fc 576 * 128 and 1152 * 256."""
    separate = make(SeparateCascade, tables=TABLES)
    assert separate.x12.num_parameters() == 6_966
    assert separate.x24.num_parameters() == 896 + 13_872 + 12_352 + 73_856 + 774
    assert separate.x48.num_parameters() == 896 + 18_496 + 36_928 + 32_896 + 295_168 + 1_542
    assert separate.num_parameters() == 494_642
    larger = make(SeparateCascade, tables=CVPR15_TABLES)
    nets = (larger.x12, larger.x24, larger.x48)
    assert [net.num_parameters() for net in nets] == [6_966, 824_966, 1_436_230]


def test_the_joint_network_is_hardly_larger_than_the_three():
    """Only the outputs grow: 6 numbers more for each of the 16, and of the 128 + 16, shared features."""
    assert make(JointCascade, tables=TABLES).num_parameters() == 494_642 + 6 * 16 + 6 * 144
    assert make(JointCascade, tables=CVPR15_TABLES).num_parameters() == 2_268_162 + 960


def test_fc_widths_are_the_papers():
    joint = make(JointCascade, tables=TABLES)
    x = np.zeros((1, 3, 48, 48), np.float32)
    deep12 = joint.x12.features(Tensor(block_mean(x, 4)))
    assert deep12.shape == (1, 16, 1, 1)
    assert joint.x24.fc.weight.shape[0] == 128 and joint.x24.logits.weight.shape == (2, 144)
    assert joint.x48.fc.weight.shape[0] == 256 and joint.x48.deltas.weight.shape == (4, 400)


# ------------------------------------------------------------------ one network in three branches (FC-2)


@both
def test_losses_are_those_of_each_net_on_the_pooled_patch(kind, rng):
    """With open gates, the branches of `losses` see what `classify` sees when it detects."""
    cascade = loud(make(kind, tables=TABLES, gates=OPEN))
    x, labels, deltas = batch(rng)
    losses = cascade.losses(Tensor(x), labels, deltas, None)
    x12, x24 = Tensor(block_mean(x, 4)), Tensor(block_mean(x, 2))
    predictions = [cascade.x12.predict(cascade.x12.features(x12)), cascade.classify(1, x24)]
    predictions.append(cascade.classify(2, Tensor(x)))
    for stage, prediction in enumerate(predictions):
        alone = multi_task_loss(prediction.logits, prediction.deltas, labels, deltas[stage])
        assert losses[f"x{SIZES[stage]}"].item() == pytest.approx(alone.item(), rel=1e-5)


def test_a_separate_branch_is_its_net_alone(rng):
    cascade = loud(make(SeparateCascade, gates=OPEN))
    x, labels, deltas = batch(rng)
    together = cascade.losses(Tensor(x), labels, deltas, None)
    for stage, k in enumerate((4, 2, 1)):
        alone = cascade.stage_losses(stage, Tensor(block_mean(x, k)), labels, deltas[stage], None)
        name = f"x{SIZES[stage]}"
        assert alone.keys() == {name}
        assert together[name].item() == pytest.approx(alone[name].item(), rel=1e-5)


def test_face_probs_are_a_softmax(rng):
    logits = np.array([[0, 0], [0, np.log(3)], [1000, -1000], [-1000, 1000]])
    prediction = Prediction(Tensor(logits), Tensor(np.zeros((4, 4))))
    np.testing.assert_allclose(prediction.face_probs(), [0.5, 0.75, 0, 1], atol=1e-15)


def test_pixels_are_centred_and_divided_by_128():
    cascade = make()
    cascade.mean_colour[:] = [100, 110, 120]
    pixels = np.zeros((1, 2, 5, 3), np.uint8)
    pixels[0, 1, 4] = [228, 46, 120]
    x = cascade.normalise(pixels)
    assert x.shape == (1, 3, 2, 5) and x.dtype == np.float32
    np.testing.assert_array_equal(x.data[0, :, 1, 4], [1, -0.5, 0])
    assert cascade.normalise(np.zeros((0, 24, 24, 3), np.float32)).shape == (0, 3, 24, 24)


# ------------------------------------------------------------------ the sliding net (FC-3)


def every_window(net: ProposalNet, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The patch net on each 12 x 12 window at stride 2: logits (PH, PW, 2), deltas (PH, PW, 4)."""
    rows, columns = range(0, x.shape[2] - 11, 2), range(0, x.shape[3] - 11, 2)
    windows = np.concatenate([x[:, :, i : i + 12, j : j + 12] for i in rows for j in columns])
    prediction = net.predict(net.features(Tensor(windows)))
    shape = (len(rows), len(columns), -1)
    return prediction.logits.data.reshape(shape), prediction.deltas.data.reshape(shape)


def difference_of_sliding(net: ProposalNet, x: np.ndarray) -> float:
    maps = net.maps(net.features(Tensor(x)))
    assert maps.points is None  # FaceCraft has no landmarks
    return max(
        np.abs(fully.data[0].transpose(1, 2, 0) - patches).max()
        for fully, patches in zip((maps.logits, maps.deltas), every_window(net, x), strict=True)
    )


@pytest.mark.parametrize("size", [(12, 12), (40, 31), (13, 27)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-10)])
def test_the_sliding_net_is_the_patch_net_on_every_window(size, dtype, tolerance, rng):
    net = ProposalNet(TABLES[0], rng, 0.0)
    if dtype == np.float64:
        in_float64(net)
    assert difference_of_sliding(net, rng.standard_normal((1, 3, *size)).astype(dtype)) < tolerance


def test_pooling_in_ceil_mode_would_not_slide(rng):
    """Why x12 leaves the paper's predecessor: 3 x 3 pooling sees one pixel beyond the patch."""
    net = ProposalNet(((16, 3, 3), (16, 5, 0)), rng, 0.0)
    assert difference_of_sliding(net, rng.standard_normal((1, 3, 30, 30)).astype(np.float32)) > 0.1


# ------------------------------------------------------------------ gradients across branches (FC-4, FC-5)


def gradients_of(cascade: Cascade, x, labels, deltas, name: str) -> dict[str, np.ndarray]:
    """Gradients of one branch's loss by parameter; zero where none arrived."""
    for p in cascade.parameters():
        p.grad = None
    cascade.losses(Tensor(x), labels, deltas, None)[name].backward()
    return {n: np.zeros_like(p.data) if p.grad is None else p.grad for n, p in cascade.named_parameters()}


def moved(gradients: dict[str, np.ndarray], prefix: str) -> bool:
    return any(g.any() for name, g in gradients.items() if name.startswith(prefix))


def test_later_losses_reach_the_earlier_branches_of_the_joint_network(rng):
    cascade, data = loud(make(JointCascade, gates=OPEN)), batch(rng)
    for name, reached, spared in (
        ("x12", ("x12.stack.convs.0", "x12.logits"), ("x24", "x48")),
        ("x24", ("x12.stack.convs.0", "x24.stack", "x24.logits"), ("x12.logits", "x12.deltas", "x48")),
        ("x48", ("x12.stack.convs.0", "x24.stack.convs.0", "x48.fc"), ("x12.logits", "x24.logits")),
    ):
        gradients = gradients_of(cascade, *data, name)
        assert all(moved(gradients, prefix) for prefix in reached), name
        assert not any(moved(gradients, prefix) for prefix in spared), name


def test_no_gradient_crosses_between_separate_nets(rng):
    cascade, data = loud(make(SeparateCascade, gates=OPEN)), batch(rng)
    for name in ("x12", "x24", "x48"):
        gradients = gradients_of(cascade, *data, name)
        assert [part for part in ("x12", "x24", "x48") if moved(gradients, part)] == [name]


def test_the_joint_gradient_equals_a_finite_difference(rng):
    """Along a random direction in all parameters at once, through pooling, gates and both concats."""
    cascade = loud(make(JointCascade, gates=(0.5, 0.5)))
    in_float64(cascade)
    x, labels, deltas = batch(rng, 8, np.float64)

    def total() -> Tensor:
        return sum(cascade.losses(Tensor(x), labels, deltas, None).values(), start=Tensor(np.float64(0)))

    total().backward()
    directions = [rng.standard_normal(p.shape) for p in cascade.parameters()]
    slope = sum(np.vdot(p.grad, d) for p, d in zip(cascade.parameters(), directions, strict=True))
    values = []
    for step in (1e-7, -1e-7):
        for p, d in zip(cascade.parameters(), directions, strict=True):
            p.data += step * d
        values.append(total().item())
        for p, d in zip(cascade.parameters(), directions, strict=True):
            p.data -= step * d
    assert slope == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-5)


# ------------------------------------------------------------------ threshold control (FC-11)


def gated(kind: type[Cascade], x: np.ndarray) -> tuple[Cascade, np.ndarray, np.ndarray]:
    """A cascade whose gates let about half through, and then half of those: with the rows that pass each."""
    cascade = loud(make(kind, gates=OPEN))
    first = cascade.x12.predict(cascade.x12.features(Tensor(block_mean(x, 4)))).face_probs()
    rows24 = np.flatnonzero(first > np.median(first))
    second = cascade.classify(1, Tensor(block_mean(x[rows24], 2))).face_probs()
    rows48 = rows24[second > np.median(second)]
    cascade.gates = (float(np.median(first)), float(np.median(second)))
    return cascade, rows24, rows48


@both
def test_masked_samples_get_exactly_no_gradient(kind, rng):
    x, labels, deltas = batch(rng, 12)
    cascade, rows24, rows48 = gated(kind, x)
    assert 0 < len(rows48) < len(rows24) < 12
    for name, passed in (("x12", np.arange(12)), ("x24", rows24), ("x48", rows48)):
        pixels = Tensor(x, requires_grad=True)
        cascade.losses(pixels, labels, deltas, None)[name].backward()
        got_some = np.flatnonzero(np.abs(pixels.grad).max(axis=(1, 2, 3)) > 0)
        np.testing.assert_array_equal(got_some, passed)


@both
def test_a_masked_sample_changes_no_later_loss(kind, rng):
    """Neither its pixels, nor its label, nor its targets, which may even be NaN."""
    x, labels, deltas = batch(rng, 12)
    cascade, rows24, _ = gated(kind, x)
    masked = np.setdiff1d(np.arange(12), rows24)
    before = cascade.losses(Tensor(x), labels, deltas, None)
    shaded, relabelled = x.copy(), labels.copy()
    shaded[masked] += rng.standard_normal(shaded[masked].shape).astype(np.float32) * 0.01
    relabelled[masked] = 1 - labels[masked]
    new_deltas = [deltas[0], *(d.copy() for d in deltas[1:])]
    for d in new_deltas[1:]:
        d[masked] = np.nan
    after = cascade.losses(Tensor(shaded), relabelled, new_deltas, None)
    assert after["x24"].item() == before["x24"].item() and after["x48"].item() == before["x48"].item()
    assert after["x12"].item() != before["x12"].item()


@both
def test_a_branch_divides_by_the_samples_that_passed(kind, rng):
    """Its loss is that of a batch of those alone; divided by all twelve it would be about half of that."""
    x, labels, deltas = batch(rng, 12)
    cascade, rows24, rows48 = gated(kind, x)
    losses = cascade.losses(Tensor(x), labels, deltas, None)
    cascade.gates = OPEN
    for name, rows in (("x24", rows24), ("x48", rows48)):
        alone = cascade.losses(Tensor(x[rows]), labels[rows], [d[rows] for d in deltas], None)[name].item()
        assert losses[name].item() == pytest.approx(alone, rel=1e-5)
        assert losses[name].item() != pytest.approx(alone * len(rows) / 12, rel=0.1)


@both
@pytest.mark.parametrize("gates", [SHUT, (-1.0, 2.0)])
def test_nothing_that_passes_is_a_loss_of_zero(kind, gates, rng):
    cascade, (x, labels, deltas) = make(kind, gates=gates), batch(rng)
    losses = cascade.losses(Tensor(x), labels, deltas, np.random.default_rng(0))
    assert losses["x48"].item() == 0 and (losses["x24"].item() == 0) == (gates == SHUT)
    sum(losses.values(), start=Tensor(np.float32(0))).backward()
    assert cascade.x12.stack.convs[0].weight.grad.any()
    for p in cascade.x48.parameters():
        assert p.grad is None or not p.grad.any()


@both
def test_an_empty_batch_is_a_loss_of_zero(kind):
    nothing = np.zeros((0, 4), np.float32)
    x = Tensor(np.zeros((0, 3, 48, 48), np.float32))
    losses = make(kind).losses(x, np.zeros(0, np.int64), [nothing] * 3, None)
    assert [loss.item() for loss in losses.values()] == [0, 0, 0]


# ------------------------------------------------------------------ weights and statistics (FC-10, FC-13)


def test_loss_weights(rng):
    x, labels, deltas = batch(rng)
    plain = make(gates=OPEN).losses(Tensor(x), labels, deltas, None)
    weighted = make(gates=OPEN, loss_weights=(2.0, 0.5, 0.0)).losses(Tensor(x), labels, deltas, None)
    assert list(plain) == ["x12", "x24", "x48"]
    for name, factor in (("x12", 2), ("x24", 0.5), ("x48", 0)):
        assert weighted[name].item() == pytest.approx(factor * plain[name].item())


def test_each_stage_undoes_its_own_statistics():
    """A delta of 1 in stage two moves the centre by mean + std = 0.1 + 0.2 of the proposal's side."""
    cascade = make()
    cascade.deltas_mean[1], cascade.deltas_std[1] = [0.1, 0, 0, 0], [0.2, 1, 1, 1]
    square, delta = np.array([[0, 0, 10, 10]], np.float32), np.array([[1, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(cascade.box_coder(1).decode(square, delta), [[3, 0, 13, 10]], rtol=1e-6)
    np.testing.assert_allclose(cascade.box_coder(2).decode(square, delta), [[10, 0, 20, 10]], rtol=1e-6)


def test_statistics_and_mean_colour_are_saved_with_the_weights():
    cascade, other = make(seed=0), make(seed=1)
    cascade.deltas_mean[2], cascade.deltas_std[2], cascade.mean_colour[:] = 0.5, 3, [90, 100, 110]
    other.load_state_dict(cascade.state_dict())
    assert other.box_coder(2) == cascade.box_coder(2)
    np.testing.assert_array_equal(other.mean_colour, [90, 100, 110])


def test_dropout_is_drawn_from_the_generator_alone(rng):
    cascade, (x, labels, deltas) = make(gates=OPEN, dropout=(0.5, 0.5, 0.5)), batch(rng)
    seeds = (0, 0, 1, None)
    generators = [None if seed is None else np.random.default_rng(seed) for seed in seeds]
    runs = [cascade.losses(Tensor(x), labels, deltas, generator) for generator in generators]
    for name in ("x12", "x24", "x48"):
        values = [run[name].item() for run in runs]
        assert values[0] == values[1] and len(set(values)) == 3


# ------------------------------------------------------------------ from separate to joint


def test_the_joint_network_starts_with_the_scores_of_the_separate_nets(rng):
    separate, joint = loud(make(SeparateCascade, seed=1)), make(JointCascade, seed=2)
    separate.mean_colour[:], separate.deltas_std[1], separate.thresholds = 99, 0.3, (0.2, 0.3, 0.4)
    joint.start_from(separate)
    for stage in (1, 2):
        x = Tensor(rng.standard_normal((5, 3, SIZES[stage], SIZES[stage])).astype(np.float32))
        ours, theirs = joint.classify(stage, x), separate.classify(stage, x)
        np.testing.assert_allclose(ours.logits.data, theirs.logits.data, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ours.deltas.data, theirs.deltas.data, rtol=1e-5, atol=1e-5)
        assert ours.points is None and theirs.points is None
    assert joint.thresholds == separate.thresholds and joint.box_coder(1) == separate.box_coder(1)
    image = rng.integers(0, 256, (60, 70, 3), np.uint8)
    for ours, theirs in zip(joint.detect([image])[0][:3], separate.detect([image])[0][:3], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_the_weights_of_what_comes_from_above_start_at_zero_and_can_leave_it(rng):
    separate, joint = loud(make(SeparateCascade)), make(JointCascade, gates=OPEN)
    joint.start_from(separate)
    assert not joint.x24.logits.weight.data[:, 128:].any() and not joint.x48.deltas.weight.data[:, 256:].any()
    gradients = gradients_of(joint, *batch(rng), "x48")
    assert gradients["x48.logits.weight"][:, 256:].any() and gradients["x48.deltas.weight"][:, 256:].any()
    joint.x48.fc.weight.data[...] = 0
    assert separate.x48.fc.weight.data.any()  # copied, not shared


# ------------------------------------------------------------------ learning


@both
def test_every_loss_falls_on_one_small_batch(kind):
    """Eight drawn patches, half of them faces, forty steps: each branch learns them by heart."""
    patches, labels = draw_patches(8, 48, seed=1, classes=("human",), background=0.5)
    rng = np.random.default_rng(0)
    deltas = [rng.standard_normal((8, 4)).astype(np.float32) for _ in range(3)]
    cascade = make(kind, gates=OPEN)
    optimiser = SGD(cascade, lr=0.02)
    x, history = cascade.normalise(patches), []
    for _ in range(40):
        optimiser.zero_grad()
        losses = cascade.losses(x, labels, deltas, None)
        sum(losses.values(), start=Tensor(np.float32(0))).backward()
        optimiser.step()
        history.append([loss.item() for loss in losses.values()])
    start, end = np.array(history[0]), np.mean(history[-3:], axis=0)
    assert labels.sum() == 4 and (start > 1.5).all()
    assert (end < 0.05 * start).all(), (start, end)
    assert ((cascade.classify(2, x).face_probs() > 0.5) == labels).all()


# ------------------------------------------------------------------ detection


def says(cascade: Cascade, stage: int, logit: float) -> None:
    """Give one stage the same opinion of everything: P(face) = sigmoid(2 * logit)."""
    net = (cascade.x12, cascade.x24, cascade.x48)[stage]
    net.logits.weight.data[...] = 0
    net.logits.bias.data[:] = [-logit, logit]


def assert_nothing(found) -> None:
    assert found.boxes.shape == (0, 4) and found.boxes.dtype == np.float32
    assert found.scores.shape == (0,) and found.labels.shape == (0,) and found.labels.dtype == np.int64
    assert found.landmarks is None


@pytest.fixture(scope="module")
def photo():
    return draw_scene("faces_easy", seed=3, size=(72, 90)).image


@both
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_picture_without_faces(kind, stage, photo):
    """Whichever stage says no to everything, the answer is an empty array."""
    cascade = make(kind)
    for k in range(3):
        says(cascade, k, -5 if k == stage else 5)
    found, reports = cascade.detect_with_report(photo)
    assert_nothing(found)
    assert [report.stage for report in reports] == ["x12", "x24", "x48", "nms"]
    assert [report.boxes_out > 0 for report in reports[:3]] == [k < stage for k in range(3)]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (11, 11), (8, 40), (12, 12)])
@pytest.mark.parametrize("min_face", [4, 24, 1000])
def test_tiny_images_and_large_faces(size, min_face):
    cascade = make(thresholds=(0.0, 0.0, 0.0), max_proposals=20)
    found = cascade.detect([np.full((*size, 3), 90, np.uint8)], min_face=min_face)[0]
    if min(size) < min_face:
        assert_nothing(found)
    assert (found.boxes >= 0).all() and (found.boxes <= [size[1], size[0]] * 2).all()


def test_no_images_and_several_images(photo):
    cascade = undecided(photo, thresholds=(0.4, 0.4, 0.4), max_proposals=100)
    assert cascade.detect([]) == []
    one, two, three = cascade.detect([photo, photo[:20, :20], photo])
    assert len(one.boxes) > 0
    assert_nothing(two)
    np.testing.assert_array_equal(one.boxes, three.boxes)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((30, 30, 3), np.float32), "of float32"),
        (np.zeros((30, 30), np.uint8), r"shape \(30, 30\)"),
        (np.zeros((30, 30, 4), np.uint8), r"shape \(30, 30, 4\)"),
        (np.zeros((0, 30, 3), np.uint8), r"shape \(0, 30, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        make().detect([image])


@pytest.mark.parametrize("min_face", [0, -3, 3.9, np.nan, np.inf])
def test_a_senseless_smallest_face_is_refused(photo, min_face):
    with pytest.raises(ValueError, match="min_face must be a number of pixels, at least 4"):
        make().detect([photo], min_face=min_face)


@both
def test_detections_are_sorted_inside_the_image_and_apart(kind, photo):
    cascade = undecided(photo, kind, thresholds=(0.4, 0.4, 0.4), max_proposals=200)
    found, reports = cascade.detect_with_report(photo, min_face=16)
    assert len(found.boxes) > 2
    assert (np.diff(found.scores) <= 0).all() and (found.scores > 0.4).all() and (found.scores <= 1).all()
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] <= [90, 72]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all() and (found.labels == 1).all()
    assert reports[1].boxes_in == reports[0].boxes_out and reports[-1].boxes_out >= len(found.boxes)
    assert all(report.boxes_out <= report.boxes_in and report.seconds >= 0 for report in reports)


def test_min_score_is_the_threshold_of_the_last_stage(photo):
    cascade = undecided(photo, thresholds=(0.4, 0.4, 0.4), max_proposals=200)
    scores = cascade.detect([photo], min_face=16)[0].scores
    cut = float(np.median(scores))
    strict = cascade.detect([photo], min_face=16, min_score=cut)[0].scores
    assert 0 < len(strict) < len(scores) and strict.min() > cut
    assert cascade.thresholds == (0.4, 0.4, 0.4)


def test_proposals_are_the_windows_that_pass_one_by_one(photo):
    """Stage one again, level by level and window by window, with the patch net."""
    cascade = undecided(photo, response_pool=0, thresholds=(0.5, 0.1, 0.5), max_proposals=10_000)
    cascade.deltas_mean[0], cascade.deltas_std[0] = [0.01, 0.02, 0, 0.1], [0.1, 0.1, 0.2, 0.2]
    pyramid = ImagePyramid(photo)
    boxes, scores, windows, _ = cascade.propose(pyramid, min_face=30)
    expected, count = [], 0
    for k in range(pyramid.level_for(30, 12), pyramid.last_level(12) + 1):
        logits, deltas = every_window(cascade.x12, cascade.normalise(pyramid.level(k)[None]).data)
        scale = np.divide(pyramid.size[::-1], pyramid.level_size(k)[::-1])
        for i, j in np.ndindex(logits.shape[:2]):
            count += 1
            score = 1 / (1 + np.exp(logits[i, j, 0] - logits[i, j, 1]))
            if score > 0.5:
                corner = np.array([2 * j, 2 * i])
                window = np.concatenate([corner * scale, (corner + 12) * scale])[None]
                expected.append([score, *cascade.box_coder(0).decode(window, deltas[i, j][None])[0]])
    expected = np.array(expected)
    expected = expected[np.argsort(-expected[:, 0])]
    assert windows == count and 10 < len(expected) < count
    np.testing.assert_allclose(scores, expected[:, 0], atol=1e-4)
    order, expected_order = np.lexsort(boxes.round(1).T), np.lexsort(expected[:, 1:].round(1).T)
    np.testing.assert_allclose(boxes[order], expected[expected_order, 1:], atol=0.02)


def test_only_the_best_proposals_go_on(photo):
    many, few = make(max_proposals=1000), make(max_proposals=5)
    for cascade in (many, few):
        cascade.thresholds = (0.0, 0.1, 0.5)
    pyramid = ImagePyramid(photo)
    boxes, scores, *_ = many.propose(pyramid, 24)
    assert len(boxes) > 5
    np.testing.assert_array_equal(few.propose(pyramid, 24)[0], boxes[:5])
    assert (np.diff(scores) <= 0).all()


def test_refinement_looks_at_each_box_alone(photo, rng):
    """In batches of three or of all, in any order: a box keeps its score and its new place."""
    cascade, pyramid = loud(make()), ImagePyramid(photo)
    corners = rng.uniform(0, 40, (8, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(12, 40, (8, 2))], axis=1).astype(np.float32)
    for stage in (1, 2):
        cascade.batch = 128
        all_boxes, all_scores, landmarks = cascade.refine(pyramid, boxes, stage, threshold=0.0)
        cascade.batch = 3
        small_boxes, small_scores, _ = cascade.refine(pyramid, boxes[::-1], stage, threshold=0.0)
        assert landmarks is None
        np.testing.assert_allclose(small_boxes[::-1], all_boxes, atol=1e-3)
        np.testing.assert_allclose(small_scores[::-1], all_scores, atol=1e-5)
        patch = cascade.normalise(pyramid.crop(to_square(boxes[:1]), SIZES[stage]))
        assert cascade.classify(stage, patch).face_probs()[0] == pytest.approx(all_scores[0], abs=1e-5)
