"""Grouped Fast R-CNN: reference scales, the second stage, proposals and what they are, and the mean of two scores."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_layout_detector import TINY, shaken

from minidetect.autograd import Tensor
from minidetect.detection.anchor_layout import FPN, FPN_FINEST, SSD
from minidetect.detection.group_sampler import IGNORED
from minidetect.detection.structures import make_target
from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.resize import resize_image
from minidetect.models import anchor_detector
from minidetect.models.grouped_fast_rcnn import (
    REFERENCE_SCALES,
    GroupedFastRCNN,
    Proposals,
    RoiHead,
    reference_scale,
)
from minidetect.models.layout_detector import LayoutDetector

NOTHING = Proposals(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def two_stages(layout=FPN_FINEST, head="shared", seed: int = 0, **settings) -> GroupedFastRCNN:
    """A tiny model whose stages say all kinds of things."""
    rng = np.random.default_rng(seed)
    first = shaken(LayoutDetector(rng, layout, head, **TINY))
    model = GroupedFastRCNN(first, rng, **{"features": 8, "bins": 3} | settings)
    model.second.logits.weight.data *= 60
    model.second.deltas.weight.data *= 60
    return model


def noise(rng, *size: int) -> np.ndarray:
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def planes(model: GroupedFastRCNN, *images: np.ndarray) -> Tensor:
    return Tensor(np.stack([model.first.planes(image) for image in images]))


def boxes_of(*sizes: tuple[float, float]) -> np.ndarray:
    return np.array([[7, 5, 7 + w, 5 + h] for w, h in sizes], np.float32).reshape(-1, 4)


# ------------------------------------------------------------------ Eq. (4)


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 400), st.floats(1, 400), st.sampled_from([REFERENCE_SCALES, (8, 24, 100), (5,), (32, 33)]))
def test_the_nearest_scale_by_the_formula(w, h, scales):
    """argmin over s of |log2(sqrt(w h) / s)|, but for sizes so near to a tie that rounding decides."""
    box = boxes_of((w, h))
    side = np.sqrt((box[0, 2] - box[0, 0]).astype(np.float64) * (box[0, 3] - box[0, 1]))
    distances = np.abs(np.log2(side / np.array(scales)))
    assume(len(scales) == 1 or np.diff(np.sort(distances))[0] > 1e-9)
    assert reference_scale(box, scales).tolist() == [int(distances.argmin())]


def test_ties_and_sizes_by_hand():
    """A square of area 16 x 32 is as far from 16 as from 32: the smaller; only the area counts, not the shape."""
    ties = boxes_of((16, 32), (32, 64), (64, 128), (128, 64), (512, 1))
    assert reference_scale(ties).tolist() == [0, 1, 2, 2, 0]
    above, below = ties + [0, 0, 0.01, 0], ties - [0, 0, 0.01, 0]
    assert reference_scale(above).tolist() == [1, 2, 3, 3, 1] and reference_scale(below).tolist() == [0, 1, 2, 2, 0]
    assert reference_scale(boxes_of((1, 1), (16, 16), (32, 32), (64, 64), (128, 128), (999, 999))).tolist() == [
        0, 0, 1, 2, 3, 3
    ]  # fmt: skip
    found = reference_scale(np.zeros((0, 4), np.float32))
    assert found.shape == (0,) and found.dtype == np.int64
    # In pixels, which is not the formula, 23 is nearer to 16 than to 32; in octaves it is not.
    assert abs(23 - 16) < abs(23 - 32) and reference_scale(boxes_of((23, 23))).tolist() == [1]


# ------------------------------------------------------------------ parts


def test_the_head_looks_at_the_region_of_its_image(rng):
    head = RoiHead(3, 4, rng, bins=5, features=8)
    x = rng.standard_normal((2, 3, 8, 10)).astype(np.float32)
    boxes = np.array([[0, 0, 20, 20], [8, 4, 36, 30], [0, 0, 20, 20]], np.float32)
    logits, deltas = head(Tensor(x), boxes, np.array([0, 1, 1]))
    assert logits.shape == (3, 2) and deltas.shape == (3, 4) and logits.dtype == deltas.dtype == np.float32
    assert head.fc6.weight.shape == (8, 3 * 5 * 5)
    assert not np.allclose(logits.data[0], logits.data[2])  # the same box in another image
    turned, _ = head(Tensor(x[::-1].copy()), boxes[::-1], np.array([0, 0, 1]))
    np.testing.assert_allclose(turned.data[::-1], logits.data, rtol=1e-4, atol=1e-7)
    x[:, :, 6:, :] += 1  # below the first box, which ends in line 5 of the map
    again, _ = head(Tensor(x), boxes, np.array([0, 1, 1]))
    np.testing.assert_array_equal(again.data[0], logits.data[0])
    assert not np.allclose(again.data[1], logits.data[1])
    none = head(Tensor(x), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert [y.shape for y in none] == [(0, 2), (0, 4)]


@pytest.mark.parametrize(
    ("layout", "head", "fits"),
    [(FPN_FINEST, "shared", (4, 4)), (SSD, "own", (6, 4)), (FPN.shrunk(2), "dilated", (4, 2))],
)
def test_the_second_stage_fits_the_finest_map(layout, head, fits, rng):
    """Channels and stride are those of P2, or of C2, which is as wide as the backbone says."""
    first = LayoutDetector(rng, layout, head, **TINY | {"widths": (6, 4, 4, 8)})
    model = GroupedFastRCNN(first, rng, features=8, bins=3)
    assert model.second.fc6.weight.shape == (8, fits[0] * 9) and model.second.stride == fits[1]
    _, finest = model.forward(planes(model, noise(rng, 40, 70)))
    side = [-(-n // layout.period) * layout.period // fits[1] for n in (40, 70)]
    assert finest.shape == (1, fits[0], *side)


def test_proposals_of_two_images(rng):
    model = two_stages(most_proposals=25)
    images = planes(model, noise(rng, 50, 70), noise(rng, 50, 70))  # filled up to 64 x 96
    prediction, _ = model.forward(images)
    boxes, scores, image = proposals = model.propose(prediction, (50, 70))
    assert image.tolist() == [0] * 25 + [1] * 25 and image.dtype == np.int64 and boxes.dtype == np.float32
    assert (boxes >= 0).all() and (boxes <= [70, 50, 70, 50]).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    for n in (0, 1):
        own, iou = scores[image == n], iou_matrix(boxes[image == n], boxes[image == n])
        assert (np.diff(own) <= 0).all() and np.triu(iou, 1).max() <= 0.7
        single, _ = model.forward(Tensor(images.data[n : n + 1]))
        alone = model.propose(single, (50, 70))
        np.testing.assert_allclose(alone.boxes, boxes[image == n], rtol=1e-4, atol=1e-2)
        assert not alone.image.any()
    model.most_proposals = 10_000
    every = model.propose(prediction, (50, 70))
    np.testing.assert_array_equal(every.boxes[every.image == 0][:25], boxes[:25])  # the best of them
    above = model.propose(prediction, (50, 70), 0.5)
    assert len(above.boxes) == (every.scores > 0.5).sum() and 0 < len(above.boxes) < len(every.boxes)
    model.proposal_nms = 0.3
    assert len(model.propose(prediction, (50, 70)).boxes) < len(every.boxes)
    none = model.propose(prediction, (50, 70), 1.0)
    assert [part.shape for part in none] == [(0, 4), (0,), (0,)] and len(proposals.boxes) == 50


def test_labels_by_hand(rng):
    """Overlaps of 1, 0.7, 0.55 and 0.45; faces join, so that each has a proposal; thresholds are 0.6 and 0.5."""
    boxes = np.array(
        [[0, 0, 10, 7], [0, 0, 10, 5.5], [0, 0, 10, 4.5], [50, 0, 60, 10], [40, 0, 45, 5], [0, 0, 10, 10]], np.float32
    )
    proposals = Proposals(boxes, np.linspace(0.9, 0.4, 6, dtype=np.float32), np.array([0, 0, 0, 0, 1, 1]))
    targets = [make_target([[0, 0, 10, 10]], ignore=[[48, 0, 70, 20]]), make_target([])]
    joined, labelled = two_stages().label(proposals, targets)
    np.testing.assert_array_equal(joined.boxes, np.concatenate([boxes[:4], targets[0].boxes, boxes[4:]]))
    assert joined.image.tolist() == [0] * 5 + [1] * 2
    assert joined.scores == pytest.approx([0.9, 0.8, 0.7, 0.6, 1, 0.5, 0.4])
    assert labelled.labels.tolist() == [1, IGNORED, 0, IGNORED, 1, 0, 0]
    np.testing.assert_array_equal(labelled.boxes[[0, 4]], targets[0].boxes[[0, 0]])
    assert labelled.boxes.shape == (7, 4)
    empty, of_empty = two_stages().label(NOTHING, [make_target([]), make_target([[1, 1, 9, 9]])])
    assert empty.image.tolist() == [1] and of_empty.labels.tolist() == [1]


# ------------------------------------------------------------------ detection


def certain(model: GroupedFastRCNN, logit: float) -> GroupedFastRCNN:
    """The second stage says the same of every proposal, and leaves it where it is."""
    for layer in (model.second.logits, model.second.deltas):
        layer.weight.data[...] = layer.bias.data[...] = 0
    model.second.logits.bias.data[1] = logit
    return model


@pytest.mark.parametrize("logit", [-2.0, 0.0, 3.0])
def test_a_score_is_the_mean_of_both_stages(logit, rng):
    model, image = certain(two_stages(most_proposals=40), logit), noise(rng, 50, 70)
    model.first.nms_threshold = 1.0  # nothing is lost at the end
    prediction, _ = model.forward(planes(model, image))
    proposals = model.propose(prediction, (50, 70))
    found, (first, second) = model.detect_with_report(image, min_face=0, min_score=0)
    np.testing.assert_allclose(found.scores, (proposals.scores + 1 / (1 + exp(-logit))) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.boxes, proposals.boxes, atol=1e-4)
    assert (first.stage, first.boxes_in, first.boxes_out) == ("first stage", len(prediction.anchors), 40)
    assert (second.stage, second.boxes_in, second.boxes_out) == ("second stage", 40, 40)
    large = model.detect([image], min_face=40, min_score=0)[0].boxes
    assert 0 < len(large) < 40 and ((large[:, 2:] - large[:, :2]).max(axis=1) >= 40).all()
    model.first.nms_threshold = 0.2
    fewer = model.detect([image], min_face=0, min_score=0)[0]
    assert 0 < len(fewer.boxes) < 40 and np.triu(iou_matrix(fewer.boxes, fewer.boxes), 1).max() <= 0.2


def test_the_second_stage_moves_boxes(rng):
    """A delta of a quarter of the width to the right, and twice the height."""
    model, image = certain(two_stages(most_proposals=40), 0.0), noise(rng, 64, 96)
    model.first.nms_threshold = 1.0
    model.second.deltas.bias.data[...] = [0.25, 0, 0, np.log(2)]
    x1, y1, x2, y2 = model.propose(model.forward(planes(model, image))[0], (64, 96)).boxes.T
    w, h = x2 - x1, y2 - y1
    wanted = np.stack([x1 + w / 4, y1 - h / 2, x2 + w / 4, y2 + h / 2], axis=1).clip(0, [96, 64] * 2)
    found = model.detect([image], min_face=0, min_score=0)[0]
    np.testing.assert_allclose(found.boxes, wanted, atol=1e-3)


def test_boxes_are_in_the_pixels_of_the_image(rng, monkeypatch):
    """An image that is too large is looked at in a smaller size."""
    monkeypatch.setattr(anchor_detector, "MOST_PIXELS", 48 * 64)
    model, image = certain(two_stages(most_proposals=40), 1.0), noise(rng, 96, 128)
    found = model.detect([image], min_face=0, min_score=0)[0]
    small = model.detect([resize_image(image, (48, 64))], min_face=0, min_score=0)[0]
    np.testing.assert_allclose(found.boxes, 2 * small.boxes, atol=1e-3)
    assert found.boxes.max() > 64 and len(found.boxes) > 5


@pytest.mark.parametrize("least", [0.3, 0.6, 0.8])
def test_proposals_that_cannot_be_found_are_left_out_and_no_others(least, rng, monkeypatch):
    """A mean above t needs a first score above 2 t - 1; to ask for more, such as t itself, would lose some."""
    model, image, real = two_stages(most_proposals=5000), noise(rng, 64, 96), GroupedFastRCNN.propose
    found, reports = model.detect_with_report(image, min_face=0, min_score=least)
    results = {}
    for name, rule in {"all": lambda bound: 0.0, "strict": lambda bound: least}.items():
        asked = lambda self, said, size, bound, rule=rule: real(self, said, size, rule(bound))  # noqa: E731
        monkeypatch.setattr(GroupedFastRCNN, "propose", asked)
        results[name] = model.detect_with_report(image, min_face=0, min_score=least)
    expected, of_all = results["all"]
    assert len(found.boxes) > 0 and (found.scores > least).all()
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert (reports[1].boxes_in < of_all[1].boxes_in) == (least > 0.5)
    assert results["strict"][1][0].boxes_out < reports[0].boxes_out
    assert len(results["strict"][0].boxes) < len(found.boxes)


def test_images_in_which_nothing_is_found(rng):
    model = two_stages()
    for found in model.detect([noise(rng, 50, 70), noise(rng, 1, 1)], min_score=1.0):
        assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)
    model.most_proposals = 0
    assert model.detect([noise(rng, 50, 70)], min_score=0)[0].boxes.shape == (0, 4)
    assert model.detect([]) == [] and model.threshold == model.first.threshold
    with pytest.raises(ValueError, match=r"an image must be \(H, W, 3\) uint8"):
        model.detect([np.zeros((50, 70), np.uint8)])
