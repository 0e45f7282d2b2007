"""What both stages of Grouped Fast R-CNN learn from: four losses, their gradients, and samples by reference scale."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from test_grouped_fast_rcnn import NOTHING, noise, planes, two_stages

from minidetect.autograd import Tensor
from minidetect.data.synthetic import draw_scene
from minidetect.detection.anchor_layout import FPN_FINEST
from minidetect.detection.group_sampler import IGNORED, at_random, everything, in_groups
from minidetect.detection.structures import make_target
from minidetect.models.grouped_fast_rcnn import GroupedFastRCNN, reference_scale
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_loss import CLASS_LOSSES, smooth_l1_of_deltas
from minidetect.nn.optim import Adam
from minidetect.ops.elementwise import add


@pytest.fixture(scope="module")
def scenes():
    """Two pictures of 64 x 64 with a face or two."""
    return [draw_scene("faces_easy", seed=5, index=i, size=(64, 64), num_faces=(1, 2), side=(14, 34)) for i in (0, 1)]


def learnable(seed: int = 0, **settings) -> GroupedFastRCNN:
    """Norms by the batch: what pixels give with a new network's would be huge."""
    rng = np.random.default_rng(seed)
    first = LayoutDetector(rng, FPN_FINEST, width=8, features=8, widths=(8, 8, 8, 8), stem=8)
    model = GroupedFastRCNN(first, rng, **{"features": 16, "bins": 3, "most_proposals": 60} | settings)
    model.train()
    return model


def total(terms: dict[str, Tensor]) -> Tensor:
    return reduce(add, terms.values())


KEYS = ["first class", "first box", "second class", "second box"]


def test_every_parameter_learns(scenes, rng):
    model = learnable()
    images, targets = planes(model, *(s.image for s in scenes)), [make_target(s.boxes) for s in scenes]
    terms = model.losses(images, targets, rng)
    assert list(terms) == KEYS and all(np.isfinite(term.item()) and term.item() > 0 for term in terms.values())
    total(terms).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"first", "second"}


def test_each_stage_learns_from_its_own_terms(scenes, rng):
    """The second stage's reach the backbone through the map, but no head of the first: corners are constants."""
    model = learnable()
    images, targets = planes(model, *(s.image for s in scenes)), [make_target(s.boxes) for s in scenes]
    terms = model.losses(images, targets, rng)
    total({key: terms[key] for key in KEYS[2:]}).backward()
    assert all(p.grad is None for p in model.first.heads.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.first.backbone.parameters())
    for p in model.parameters():
        p.grad = None
    terms = model.losses(images, targets, rng)
    total({key: terms[key] for key in KEYS[:2]}).backward()
    assert all(p.grad is None for p in model.second.parameters())


@pytest.mark.parametrize("second", [None, at_random(16), everything()], ids=["groups", "random", "everything"])
def test_pictures_without_a_face_or_proposals(scenes, rng, second, monkeypatch):
    model = learnable()
    images, face, nobody = planes(model, *(s.image for s in scenes)), make_target(scenes[0].boxes), make_target([])
    terms = model.losses(images, [face, nobody], rng, None, second)
    assert all(np.isfinite(term.item()) for term in terms.values())
    for focal in (CLASS_LOSSES["softmax"], CLASS_LOSSES["focal"]):
        terms = model.losses(images, [nobody, nobody], rng, None, second, focal, smooth_l1_of_deltas)
        assert terms["first box"].item() == terms["second box"].item() == 0 < terms["second class"].item()
        total(terms).backward()
    monkeypatch.setattr(GroupedFastRCNN, "propose", lambda *arguments, **named: NOTHING)
    terms = model.losses(images, [face, nobody], rng, None, second)  # the faces are left
    assert terms["second class"].item() > 0 and terms["second box"].item() >= 0
    terms = model.losses(images, [nobody, nobody], rng, None, second)
    assert terms["second class"].item() == terms["second box"].item() == 0
    total(terms).backward()
    assert all(np.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


class Spy:
    """A sampler that remembers what it was asked and what it chose."""

    def __init__(self, sampler) -> None:
        self.sampler, self.calls = sampler, []

    def __call__(self, labels, groups, losses, rng):
        samples = self.sampler(labels, groups, losses, rng)
        self.calls.append((labels, groups, losses, samples))
        return samples

    def chosen(self) -> list[int]:
        """How many of each group in the last call."""
        _, groups, _, samples = self.calls[-1]
        rows = np.concatenate([np.concatenate(sample) for sample in samples])
        return np.bincount(groups[rows], minlength=4).tolist()


def test_groups_are_reference_scales(rng):
    """Equally many of each, though three of four proposals are of one scale; without groups, as there are."""
    model = two_stages(most_proposals=120)
    images = planes(model, noise(rng, 128, 128), noise(rng, 128, 128))
    targets = [make_target([[3, 3, 20, 21]]), make_target([])]
    grouped, plain = Spy(in_groups(at_random(8))), Spy(at_random(32))
    for spy in (grouped, plain):
        model.losses(images, targets, np.random.default_rng(0), None, spy)
    labels, groups, losses, samples = grouped.calls[0]
    prediction, _ = model.forward(images)
    joined, labelled = model.label(model.propose(prediction, (128, 128), by_group=True), targets)
    np.testing.assert_array_equal(labels, labelled.labels)
    np.testing.assert_array_equal(groups, reference_scale(joined.boxes))
    assert losses.shape == labels.shape and (losses > 0).all()
    there = np.bincount(groups[labels != IGNORED], minlength=4)
    assert there.min() >= 8 and there.max() > 2 * there.min()
    assert grouped.chosen() == [8] * 4 and len(samples) == 4
    assert sum(plain.chosen()) == 32 and plain.chosen() != [8] * 4
    other = two_stages(most_proposals=120, scales=(30, 60))
    other.losses(images, targets, np.random.default_rng(0), None, grouped)
    assert grouped.chosen() == [8, 8, 0, 0]


def test_a_scene_is_learned_by_heart(scenes):
    """Twenty-five steps: all anchors and proposals by the same measure, before and after.

    The second stage has only the faces themselves at first, whose boxes are right; later proposals that come near.
    """
    model, rng = learnable(most_proposals=30), np.random.default_rng(1)
    images, targets = planes(model, scenes[1].image), [make_target(scenes[1].boxes)]
    optimiser, measured = Adam(model, 0.01), []
    for step in range(26):
        if step in (0, 25):
            terms = model.losses(images, targets, np.random.default_rng(0), everything(), everything())
            measured.append({key: term.item() for key, term in terms.items()})
        optimiser.zero_grad()
        terms = model.losses(images, targets, rng, in_groups(at_random(64)), in_groups(at_random(16)))
        total(terms).backward()
        optimiser.step()
    before, after = measured
    assert after["first class"] < before["first class"] / 5 and after["second class"] < before["second class"] / 2
    assert after["first box"] < before["first box"] / 2 and after["second box"] < 0.2


def test_training_keeps_the_best_of_each_size():
    """A first stage that likes large boxes better leaves no small one among the best of all; by groups it does."""
    model = learnable()
    sides = np.repeat([16.0, 128.0], [40, 400])  # 128 first, as it scores higher
    boxes = np.zeros((440, 4), np.float32)
    boxes[:, 2:] = sides[::-1, None]
    rows = np.arange(440)
    assert (reference_scale(boxes[model.best(rows, boxes, 100, by_group=False)]) == 3).all()
    chosen = model.best(rows, boxes, 100, by_group=True)
    assert np.bincount(reference_scale(boxes[chosen]), minlength=4).tolist() == [25, 0, 0, 25]
    assert (np.diff(chosen) > 0).all() and chosen[0] == 0 and chosen[25] == 400
