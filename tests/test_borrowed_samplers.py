"""Samplers of Group Sampling in detectors that are not its own: EXTD's family, and the proposals of Faster R-CNN."""

from __future__ import annotations

import numpy as np
import pytest
from test_faster_rcnn import GRID, TABLE, squares

from minidetect.autograd import Tensor
from minidetect.data.synthetic import draw_scene
from minidetect.detection.anchors import AnchorGrid, inside_image
from minidetect.detection.group_sampler import IGNORED, at_random, everything, hardest, in_groups, weighted
from minidetect.detection.matcher import match_anchors
from minidetect.detection.sampler import sample_balanced
from minidetect.detection.scale_compensation import match_compensated
from minidetect.detection.structures import make_target
from minidetect.models.backbones import Backbone
from minidetect.models.extd import EXTD
from minidetect.models.faster_rcnn import FasterRCNN, ProposalNet
from minidetect.models.layout_loss import single_shot_group_losses
from minidetect.ops.elementwise import add
from minidetect.reference import nn_ops as slow


class Spy:
    """A sampler that remembers what it was asked."""

    def __init__(self, sampler) -> None:
        self.sampler, self.calls = sampler, []

    def __call__(self, labels, groups, losses, rng):
        self.calls.append((labels, groups, losses))
        return self.sampler(labels, groups, losses, rng)


def smooth_l1(x: np.ndarray) -> float:
    return float(np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5).sum())


def class_values(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -slow.log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]


# ------------------------------------------------------------------ EXTD


def extd(structure: str = "ssd") -> EXTD:
    model = EXTD(np.random.default_rng(0), structure, width=4, stem=8, blocks=((1, 1), (2, 2)), sides=(16, 32, 64))
    model.train()
    return model


@pytest.fixture(scope="module")
def scenes():
    drawn = [draw_scene("faces_easy", seed=5, index=i, size=(64, 64), num_faces=(1, 2), side=(14, 34)) for i in (0, 1)]
    targets = [make_target(s.boxes) for s in drawn]
    targets[1] = targets[1]._replace(ignore=np.array([[0, 40, 64, 64]], np.float32))
    return Tensor(np.stack([extd().planes(s.image) for s in drawn])), targets


@pytest.mark.parametrize("structure", ["ssd", "fpn"])
@pytest.mark.parametrize("sampler", [None, in_groups(at_random(16)), in_groups(hardest(8)), weighted(64), everything()])
def test_extd_learns_from_any_sample(structure, sampler, scenes, rng):
    model = extd(structure)
    terms = single_shot_group_losses(model, *scenes, rng, sampler)
    assert list(terms) == ["class", "box"] and all(np.isfinite(t.item()) and t.item() > 0 for t in terms.values())
    add(*terms.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(name.startswith("heads.deltas") for name in silent) and len(silent) < 2 * 3  # maps without a face


def test_a_group_of_extd_is_a_map(scenes, rng):
    """Both images' anchors one after the other; labels are its own matching's, background in regions left out."""
    model, spy = extd(), Spy(in_groups(everything()))
    terms = single_shot_group_losses(model, *scenes, rng, spy)
    ((labels, groups, losses),) = spy.calls
    sizes = [16 * 16, 8 * 8, 4 * 4]  # cells of the maps of 64 x 64 pixels
    np.testing.assert_array_equal(groups, np.tile(np.repeat([0, 1, 2], sizes), 2))
    said = model.predict(scenes[0])
    anchors, expected, wanted = said.anchors, [], []
    for target in scenes[1]:
        matched, _ = match_compensated(anchors, target.boxes)
        of_image = np.where(matched >= 0, 1, 0)
        for k, (x1, y1, x2, y2) in enumerate(anchors.tolist()):
            for low in target.ignore[:, 1].tolist():  # the region is the part below it
                inside = (min(x2, 64) - max(x1, 0)) * max(0, min(y2, 64) - max(y1, low))
                if matched[k] < 0 and inside > 0.5 * (x2 - x1) * (y2 - y1):
                    of_image[k] = IGNORED
        expected.append(of_image)
        wanted.append(model.coder.encode(anchors, target.boxes[np.maximum(matched, 0)]))
    expected, wanted = np.concatenate(expected), np.concatenate(wanted)
    np.testing.assert_array_equal(labels, expected)
    assert {1, 0, IGNORED} == set(expected.tolist())
    logits, deltas = said.logits.data.reshape(-1, 2), said.deltas.data.reshape(-1, 4)
    np.testing.assert_allclose(losses, class_values(logits, np.maximum(expected, 0)), rtol=1e-4)
    classes, found = 0.0, 0.0
    for group in range(3):
        rows, faces = (groups == group) & (expected >= 0), (groups == group) & (expected == 1)
        classes += losses[rows].mean()
        found += smooth_l1(deltas[faces] - wanted[faces]) / max(1, faces.sum())
    assert terms["class"].item() == pytest.approx(classes, rel=1e-4)
    assert terms["box"].item() == pytest.approx(found, rel=1e-4)


def test_extd_without_faces_and_with_another_matching(scenes, rng):
    model, nobody = extd(), [make_target([])] * 2
    terms = single_shot_group_losses(model, scenes[0], nobody, rng)
    assert terms["box"].item() == 0 < terms["class"].item()
    spies = [Spy(everything()) for _ in range(2)]
    for spy, reading in zip(spies, ("text", "six"), strict=True):
        single_shot_group_losses(model, *scenes, rng, spy, reading)
    counts = [int((spy.calls[0][0] == 1).sum()) for spy in spies]
    own = [sum((match_compensated(model.predict(scenes[0]).anchors, t.boxes, reading)[0] >= 0).sum() for t in scenes[1])
           for reading in ("text", "six")]  # fmt: skip
    assert counts == own and min(counts) > 0


# ------------------------------------------------------------------ Faster R-CNN


def proposals(sampler=None, grid: AnchorGrid = GRID) -> ProposalNet:
    net = ProposalNet(6, grid, np.random.default_rng(0), features=8, sampler=sampler)
    for layer in (net.logits, net.deltas):
        layer.weight.data *= 30
    return net


def asked(net: ProposalNet, target, seed: int = 1):
    """Its outputs for a map of 6 x 7 cells, its anchors, and its losses."""
    maps = Tensor(np.random.default_rng(4).standard_normal((1, 6, 6, 7)).astype(np.float32))
    outputs, anchors = net(maps), net.grid.boxes(6, 7)
    return outputs, anchors, net.losses(outputs, anchors, (96, 112), target, np.random.default_rng(seed))


TARGET = make_target([[10, 12, 40, 44], [60, 30, 84, 52]], np.array([1, 2]), ignore=[[56, 56, 112, 96]])


def test_without_a_sampler_all_is_as_it_was():
    """Faster R-CNN, Eq. (1): 256 anchors, half of them objects at most; over the sample, and over the positions."""
    outputs, anchors, terms = asked(proposals(), TARGET)
    inside = np.flatnonzero(inside_image(anchors, (96, 112)))
    matched = np.full(len(anchors), -2)
    matched[inside] = match_anchors(anchors[inside], TARGET.boxes)[0]
    x1, y1, x2, y2 = anchors.T
    covered = np.maximum(x2 - np.maximum(x1, 56), 0) * np.maximum(y2 - np.maximum(y1, 56), 0)
    negative = (matched == -1) & (covered <= 0.5 * (x2 - x1) * (y2 - y1))
    pos, neg = sample_balanced(matched >= 0, negative, 256, 0.5, np.random.default_rng(1))
    rows, labels = np.concatenate([pos, neg]), np.repeat([1, 0], [len(pos), len(neg)])
    logits, deltas = (y.data for y in outputs)
    wanted = proposals().coder.encode(anchors[pos], TARGET.boxes[matched[pos]])
    assert terms["rpn_class"].item() == pytest.approx(class_values(logits[rows], labels).mean(), rel=1e-4)
    assert terms["rpn_box"].item() == pytest.approx(10 * smooth_l1(deltas[pos] - wanted) / 42, rel=1e-4)
    _, _, grouped = asked(proposals(in_groups(everything())), TARGET)
    assert list(grouped) == list(terms) and grouped["rpn_class"].item() != pytest.approx(terms["rpn_class"].item())


@pytest.mark.parametrize(
    "grid", [GRID, AnchorGrid(16, (20.0, 28.0, 40.0), (0.8, 1.25)), AnchorGrid(16, (24.0,), (1.0,))]
)
def test_a_group_is_a_side(grid):
    """Of all ratios; anchors over the border are ignored; the losses are sums of means over the groups."""
    spy = Spy(in_groups(everything()))
    outputs, anchors, terms = asked(proposals(spy, grid), TARGET)
    ((labels, groups, losses),) = spy.calls
    sides = np.sqrt((anchors[:, 2:] - anchors[:, :2]).prod(axis=1))
    np.testing.assert_allclose(np.array(grid.sides)[groups], sides, rtol=1e-5)
    assert (labels[~inside_image(anchors, (96, 112))] == IGNORED).all()
    assert set(labels.tolist()) == {1, 0, IGNORED}
    logits, deltas = (y.data for y in outputs)
    np.testing.assert_allclose(losses, class_values(logits, np.maximum(labels, 0)), rtol=1e-4)
    matched = match_anchors(anchors[inside_image(anchors, (96, 112))], TARGET.boxes)[0]
    boxes = np.zeros_like(anchors)
    boxes[inside_image(anchors, (96, 112))] = TARGET.boxes[np.maximum(matched, 0)]
    classes, found = 0.0, 0.0
    for k in range(len(grid.sides)):
        rows, objects = (groups == k) & (labels >= 0), (groups == k) & (labels == 1)
        classes += losses[rows].mean() if rows.any() else 0
        if objects.any():
            wanted = proposals().coder.encode(anchors[objects], boxes[objects])
            found += smooth_l1(deltas[objects] - wanted) / objects.sum()
    assert terms["rpn_class"].item() == pytest.approx(classes, rel=1e-4)
    assert terms["rpn_box"].item() == pytest.approx(found, rel=1e-4)


def faster(sampler=None) -> FasterRCNN:
    rng = np.random.default_rng(5)
    return FasterRCNN(2, rng, GRID, Backbone(rng, TABLE), features=16, train_proposals=(200, 60), sampler=sampler)


@pytest.mark.parametrize("sampler", [in_groups(at_random(8)), in_groups(weighted(8)), hardest(32)])
def test_faster_rcnn_with_a_sampler(sampler):
    images, targets = squares(0, 2)
    model, plain = faster(sampler), faster()
    for each in (model, plain):
        each.train()
    terms, expected = (each.losses(images, targets, np.random.default_rng(1)) for each in (model, plain))
    assert list(terms) == list(expected) and all(np.isfinite(term.item()) for term in terms.values())
    assert terms["rpn_class"].item() != pytest.approx(expected["rpn_class"].item(), rel=1e-6)
    first, *others = terms.values()
    for term in others:
        first = add(first, term)
    first.backward()
    assert [name for name, p in model.rpn.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert faster().rpn.sampler is None and model.rpn.sampler is sampler


def test_an_image_without_objects():
    for sampler in (in_groups(at_random(8)), everything()):
        _, _, terms = asked(proposals(sampler), make_target([]))
        assert terms["rpn_box"].item() == 0 < terms["rpn_class"].item()
