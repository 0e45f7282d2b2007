"""What a detector with an AnchorLayout learns from: labels, Eq. (2) of Group Sampling, and every loss at work."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.data.synthetic import draw_scene
from minidetect.detection.anchor_layout import AnchorLayout, AnchorRow, single
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.group_sampler import (
    IGNORED,
    AnchorSample,
    at_random,
    everything,
    hardest,
    in_groups,
    weighted,
)
from minidetect.detection.losses import cross_entropy
from minidetect.detection.structures import make_target
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_loss import BOX_LOSSES, CLASS_LOSSES, label_anchors, layout_losses, sample_losses
from minidetect.nn.optim import Adam
from minidetect.ops.elementwise import add
from minidetect.reference import boxes as slow

EVEN, SURE, WRONG = [0.0, 0.0], [0.0, log(3)], [log(3), 0.0]  # a face with p = 1/2, 3/4 and 1/4
NONE = np.zeros(0, np.int64)


def rows(*indices: int) -> np.ndarray:
    return np.array(indices, np.int64)


def float_boxes(*boxes) -> np.ndarray:
    return np.array(boxes, np.float64).reshape(-1, 4)


# Two groups: anchors 0 and 1 of side 2; 2 to 5 of side 4. Faces are 0, 2 and 5, with an IoU of 1/3, 1/2 and 1.
ANCHORS = float_boxes([0, 0, 2, 2], [10, 0, 12, 2], [0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4], [30, 0, 34, 4])
TRUTH = float_boxes([1, 0, 3, 2], ANCHORS[1], [0, 0, 4, 2], *ANCHORS[3:])
LOGITS = np.array([SURE, EVEN, EVEN, WRONG, WRONG, SURE])
SAMPLES = [AnchorSample(rows(0), rows(1)), AnchorSample(rows(2, 5), rows(3, 4))]


def eq_2(samples=SAMPLES, logits=LOGITS, truth=TRUTH, **settings) -> tuple[float, float]:
    deltas = Tensor(np.zeros((len(logits), 4)))
    terms = sample_losses(Tensor(np.array(logits)), deltas, ANCHORS, truth, samples, BoxCoder(), **settings)
    assert list(terms) == ["class", "box"]
    return terms["class"].item(), terms["box"].item()


# ------------------------------------------------------------------ Eq. (2) by hand

CLASS = [(log(4 / 3) + log(2)) / 2, (log(2) + 3 * log(4 / 3)) / 4]  # of both groups: a mean over samples
BOX = [(1 - 1 / 3) ** 2, ((1 - 1 / 2) ** 2 + 0) / 2]  # a mean over objects


def test_the_loss_is_the_sum_over_groups():
    """Not their mean, and not the mean over all samples: both are other numbers here."""
    assert eq_2() == pytest.approx((sum(CLASS), sum(BOX)))
    joined = AnchorSample(rows(0, 2, 5), rows(1, 3, 4))
    over_all = (2 * log(2) + 4 * log(4 / 3)) / 6, ((2 / 3) ** 2 + 1 / 4) / 3
    assert eq_2([joined]) == pytest.approx(over_all)
    assert sum(CLASS) != pytest.approx(over_all[0]) != pytest.approx(sum(CLASS) / 2)
    assert eq_2(SAMPLES[::-1]) == pytest.approx(eq_2())


def test_a_group_without_objects_adds_no_loss_of_boxes():
    without = AnchorSample(NONE, rows(3, 4))
    assert eq_2([SAMPLES[0], without]) == pytest.approx((CLASS[0] + log(4 / 3), BOX[0]))
    assert eq_2([without]) == pytest.approx((log(4 / 3), 0))
    assert eq_2([AnchorSample(rows(0), NONE)]) == pytest.approx((log(4 / 3), BOX[0]))
    assert eq_2([SAMPLES[0], AnchorSample(NONE, NONE)]) == pytest.approx((CLASS[0], BOX[0]))
    for samples in ([], [AnchorSample(NONE, NONE)]):
        assert eq_2(samples) == (0, 0)


def test_rows_of_the_second_image_have_the_same_anchors():
    """Row 6 is anchor 0 of the second image, whose face lies right on it; rows of the first are as above."""
    samples = [AnchorSample(rows(0, 6), rows(1, 7))]
    truth = np.concatenate([TRUTH, ANCHORS])
    found = eq_2(samples, np.concatenate([LOGITS, [WRONG, SURE, *LOGITS[2:]]]), truth)
    assert found == pytest.approx(((log(4 / 3) + log(2) + 2 * log(4)) / 4, BOX[0] / 2))


def test_other_losses_by_hand():
    """The same samples with each of the others: -ln of the IoU, deltas, and the focal loss over the objects."""
    assert eq_2(box_loss=BOX_LOSSES["neg-log"])[1] == pytest.approx(log(3) + log(2) / 2)
    # Box 0 is off by dx = 1/2; box 2 by dy = -1/4 and dh = ln 1/2.
    smooth = 1 / 8 + (1 / 32 + log(2) ** 2 / 2) / 2
    assert eq_2(box_loss=BOX_LOSSES["smooth-l1"])[1] == pytest.approx(smooth)
    weights = [[1 / 64, 3 / 16], [1 / 16, 1 / 64, 3 / 64, 3 / 64]]  # alpha (1 - p)**2 of objects, then background
    values = [[log(4 / 3), log(2)], [log(2), log(4 / 3), log(4 / 3), log(4 / 3)]]
    sums = [np.dot(w, v) for w, v in zip(weights, values, strict=True)]
    assert eq_2(class_loss=CLASS_LOSSES["focal"])[0] == pytest.approx(sums[0] / 1 + sums[1] / 2)
    starred = sums[0] / sum(weights[0]) + sums[1] / sum(weights[1])
    assert eq_2(class_loss=CLASS_LOSSES["focal*"])[0] == pytest.approx(starred)
    background = AnchorSample(NONE, rows(1, 3))  # no object to divide by: 1
    assert eq_2([background], class_loss=CLASS_LOSSES["focal"])[0] == pytest.approx(
        3 / 16 * log(2) + 3 / 64 * log(4 / 3)
    )


def test_only_what_is_sampled_has_a_gradient():
    logits, deltas = (Tensor(np.zeros((6, n)), requires_grad=True) for n in (2, 4))
    samples = [AnchorSample(rows(0), rows(1)), AnchorSample(NONE, rows(4))]
    terms = sample_losses(logits, deltas, ANCHORS, TRUTH, samples, BoxCoder())
    add(*terms.values()).backward()
    assert np.flatnonzero(logits.grad.any(axis=1)).tolist() == [0, 1, 4]
    assert np.flatnonzero(deltas.grad.any(axis=1)).tolist() == [0]
    np.testing.assert_allclose(logits.grad[[0, 1, 4]], [[0.25, -0.25], [-0.25, 0.25], [-0.5, 0.5]])


def test_deltas_that_are_right_cost_nothing():
    deltas = Tensor(BoxCoder().encode(ANCHORS, TRUTH))
    for box_loss in BOX_LOSSES.values():
        terms = sample_losses(Tensor(LOGITS), deltas, ANCHORS, TRUTH, SAMPLES, BoxCoder(), box_loss=box_loss)
        assert terms["box"].item() == pytest.approx(0, abs=1e-5)


# ------------------------------------------------------------------ labels


def test_labels_by_hand():
    """IoU 1, 0.5, 0.3 with a face; two in an ignore region, of which one is a face; and a second image of nothing."""
    anchors = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 3], [40, 0, 50, 10], [60, 0, 70, 10], [90, 0, 99, 9]], np.float32
    )
    first = make_target([[0, 0, 10, 10], [60, 0, 70, 9]], ignore=[[40, 0, 80, 20]])
    labels, boxes = label_anchors(anchors, [first, make_target([])])
    assert labels.tolist() == [1, IGNORED, 0, IGNORED, 1, 0] + [0] * 6 and labels.dtype == np.int64
    np.testing.assert_array_equal(boxes[[0, 4]], first.boxes)
    assert boxes.shape == (12, 4) and boxes.dtype == np.float32
    # The second pass of the matching is in use, with 0.4; a smaller share of an ignore region is background still.
    labels, _ = label_anchors(anchors, [make_target([[0, 0, 10, 4], [0, 6, 10, 10]], ignore=[[90, 0, 93, 9]])])
    assert labels.tolist() == [IGNORED, 1, 1, 0, 0, 0]
    labels, _ = label_anchors(anchors[[0]], [make_target([[0, 0, 10, 5]])])
    assert labels.tolist() == [1] and label_anchors(anchors[[0]], [make_target([[0, 0, 10, 3.9]])])[0].tolist() == [0]
    assert label_anchors(anchors[[0]], [make_target([[0, 0, 10, 5]])], 0.6, 0.55)[0].tolist() == [0]


def test_background_in_an_ignore_region_is_not_sampled(rng):
    layout = single("P2", scales=(16,))
    anchors = layout.anchors((64, 64))
    target = make_target([[4, 4, 20, 20]], ignore=[[32, 0, 64, 64]])
    labels, _ = label_anchors(anchors, [target])
    ((pos_idx, neg_idx),) = everything()(labels, layout.groups((64, 64)), np.zeros(len(labels)), rng)
    shares = [slow.intersection_over_first(anchor, target.ignore[0].tolist()) for anchor in anchors.tolist()]
    assert len(pos_idx) and len(neg_idx) and max(np.array(shares)[neg_idx]) <= 0.5
    unmarked, _ = label_anchors(anchors, [make_target(target.boxes)])
    assert (unmarked[np.array(shares) > 0.5] == 0).any()  # the region had something to do


# ------------------------------------------------------------------ the whole

LAYOUT = AnchorLayout((AnchorRow("P2", 4, (16, 32)), AnchorRow("P2", 16, (64, 128))))


def small_model(layout=LAYOUT, seed: int = 0) -> LayoutDetector:
    model = LayoutDetector(np.random.default_rng(seed), layout, width=8, features=8, widths=(8, 8, 8, 8), stem=8)
    model.train()  # norms by the batch: what pixels give with a new network's would be huge
    return model


@pytest.fixture(scope="module")
def scenes():
    """Two pictures of 64 x 64 with one face of 27 pixels and two of 22."""
    drawn = [draw_scene("faces_easy", seed=5, index=i, size=(64, 64), num_faces=(1, 2), side=(14, 34)) for i in (0, 1)]
    model = small_model()
    return Tensor(np.stack([model.planes(s.image) for s in drawn])), [make_target(s.boxes) for s in drawn]


def by_loops(model: LayoutDetector, images: Tensor, targets) -> tuple[float, float]:
    """Eq. (2) of all anchors, one by one, with groups told by the sides of their anchors."""
    said, labelled = model.predict(images), label_anchors(model.predict(images).anchors, targets)
    num, terms = len(said.anchors), {}
    for row, label in enumerate(labelled.labels):
        if label == IGNORED:
            continue
        anchor = said.anchors[row % num]
        logits, delta = said.logits.data[row // num, row % num], said.deltas.data[row // num, row % num]
        classes, found = terms.setdefault(float(anchor[2] - anchor[0]), ([], []))
        background, face = (float(v) for v in logits)
        classes.append(np.logaddexp(background, face) - (face if label else background))
        if label:
            iou = slow.iou(slow.decode(anchor.tolist(), delta.tolist()), labelled.boxes[row].tolist())
            found.append((1 - iou) ** 2)
    means = [(np.mean(classes), np.mean(found) if found else 0.0) for classes, found in terms.values()]
    assert len(means) == 4 and sum(bool(found) for _, found in terms.values()) in (1, 2, 3)  # some have no face
    return tuple(np.sum(means, axis=0))


def test_eq_2_of_a_detector_against_loops(scenes, rng):
    model = small_model()
    for size in ((64, 64), (50, 41)):  # and one that is filled up
        images = Tensor(np.ascontiguousarray(scenes[0].data[:, :, : size[0], : size[1]]))
        terms = layout_losses(model, images, scenes[1], rng, in_groups(everything()))
        found = tuple(term.item() for term in terms.values())
        assert found == pytest.approx(by_loops(model, images, scenes[1]), rel=1e-4)
        all_in_one = layout_losses(model, images, scenes[1], rng, everything())
        assert all_in_one["class"].item() < 0.5 * found[0]  # one mean instead of four


def test_samples_depend_on_the_generator_alone(scenes):
    model = small_model()

    def drawn(seed: int, **settings) -> list[float]:
        terms = layout_losses(model, *scenes, np.random.default_rng(seed), **settings)
        return [term.item() for term in terms.values()]

    for settings in ({"sampler": in_groups(at_random(16))}, {"sampler": weighted(40)}):
        assert drawn(1, **settings) == drawn(1, **settings) != drawn(2, **settings)
    assert drawn(1, sampler=in_groups(hardest(16))) == drawn(2, sampler=in_groups(hardest(16)))
    assert drawn(3) == drawn(3, sampler=in_groups(at_random(512)))  # what the default is


def test_pictures_without_a_face(scenes, rng):
    nobody = [make_target([]), make_target([])]
    for class_loss in CLASS_LOSSES.values():
        terms = layout_losses(small_model(), scenes[0], nobody, rng, in_groups(at_random(32)), class_loss)
        assert terms["box"].item() == 0 and np.isfinite(terms["class"].item()) and terms["class"].item() > 0
        add(*terms.values()).backward()
    whole = make_target([], ignore=[[-200, -200, 300, 300]])  # nobody knows anything
    terms = layout_losses(small_model(), scenes[0], [whole, whole], rng)
    assert [term.item() for term in terms.values()] == [0, 0]


def trained(scenes, sampler, class_name: str, box_name: str, steps: int = 40) -> tuple[list[float], dict]:
    """Cross entropy and squared 1 - IoU of all anchors, before and after, by the same measure for every loss."""
    model = small_model(single("P2", scales=(16, 32)))
    optimiser, rng, measured = Adam(model, 0.01), np.random.default_rng(1), []
    for step in range(steps + 1):
        if step in (0, steps):
            terms = layout_losses(model, *scenes, rng, everything(), cross_entropy)
            measured.append([term.item() for term in terms.values()])
        optimiser.zero_grad()
        losses = layout_losses(model, *scenes, rng, sampler, CLASS_LOSSES[class_name], BOX_LOSSES[box_name])
        add(*losses.values()).backward()
        optimiser.step()
    return measured, model.state_dict()


@pytest.mark.parametrize(
    ("class_name", "box_name"), [("softmax", name) for name in BOX_LOSSES] + [("focal", "least-squares"),
                                                                              ("focal*", "least-squares")]
)  # fmt: skip
def test_two_pictures_are_learned_by_heart(scenes, class_name, box_name):
    """Forty steps: the loss of the classes falls below a tenth, that of the boxes below three quarters."""
    sampler = in_groups(at_random(64)) if class_name == "softmax" else everything()
    (before, after), state = trained(scenes, sampler, class_name, box_name)
    assert after[0] < before[0] / 10 and after[1] < 0.75 * before[1]
    assert all(np.isfinite(array).all() for array in state.values())


def test_trainings_of_one_seed_end_alike(scenes):
    first, again = (trained(scenes, in_groups(weighted(32)), "softmax", "least-squares", steps=4) for _ in range(2))
    assert first[0] == again[0]
    for name in first[1]:
        np.testing.assert_array_equal(first[1][name], again[1][name])
