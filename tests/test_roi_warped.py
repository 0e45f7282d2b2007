"""Joint training without approximation: the head's losses reach the proposals' deltas, and only through the boxes."""

from __future__ import annotations

import numpy as np
import pytest
from test_faster_rcnn import GRID, TABLE, squares

from minidetect.autograd import Tensor
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.decode_boxes import decode_boxes
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import SampledRois
from minidetect.models.roi_warped import WarpedFasterRCNN, WarpedHead
from minidetect.train.drawn import train_steps


def new_model(**settings) -> WarpedFasterRCNN:
    rng = np.random.default_rng(5)
    return WarpedFasterRCNN(2, rng, GRID, Backbone(rng, TABLE), features=32, **settings)


def head_gradient(model) -> np.ndarray:
    """What the head's losses alone send into the weights that make the proposals' deltas."""
    images, targets = squares(0, 1)
    model.train()
    losses = model.losses(images, targets, np.random.default_rng(1))
    (losses["head_class"] + losses["head_box"]).backward()
    gradient = model.rpn.deltas.weight.grad
    return np.zeros(1) if gradient is None else gradient


def test_the_heads_losses_reach_the_proposals():
    through, cut = head_gradient(new_model()), head_gradient(new_model(through_boxes=False))
    assert np.abs(through).max() > 0 and np.abs(cut).max() == 0


def test_the_boxes_that_are_warped_are_those_that_were_sampled(monkeypatch):
    images, targets = squares(0, 2)
    seen, real_pooled, real_losses = [], WarpedHead.pooled, WarpedHead.output_losses

    def pooled(self, maps, rois):
        seen.append(rois.data)
        return real_pooled(self, maps, rois)

    def losses(self, outputs, sampled, weight=1.0):
        seen.append(sampled.rois)
        return real_losses(self, outputs, sampled, weight)

    monkeypatch.setattr(WarpedHead, "pooled", pooled)
    monkeypatch.setattr(WarpedHead, "output_losses", losses)
    new_model().losses(images, targets, np.random.default_rng(1))
    assert len(seen) == 4
    for warped, sampled in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_allclose(warped, sampled, atol=1e-4)


def test_both_compute_the_same_losses():
    """What is left out is a gradient; the values are those of the same forward pass."""
    images, targets = squares(0, 2)
    models = [new_model(through_boxes=through) for through in (True, False)]
    a, b = (model.losses(images, targets, np.random.default_rng(1)) for model in models)
    assert {name: term.item() for name, term in a.items()} == {name: term.item() for name, term in b.items()}


@pytest.mark.parametrize("column", range(4))
def test_the_gradient_of_a_loss_with_respect_to_a_delta(column):
    """From deltas through box, warp and head to the losses, against a central difference in float64."""
    rng = np.random.default_rng(3)
    head = WarpedHead(3, 4, 2, rng, pool=3, features=8)
    for layer in (head.fc6, head.fc7, head.logits, head.deltas):
        layer.weight.data, layer.bias.data = (rng.normal(0, 0.3, p.shape) for p in (layer.weight, layer.bias))
    maps = Tensor(rng.normal(0, 1, (1, 3, 9, 11)))
    anchors = np.array([[4.0, 6, 20, 18], [10, 3, 30, 29], [21, 8, 37, 30]])
    sampled = SampledRois(anchors, np.array([1, 2, 0]), anchors + [[1, -1, 2, 2], [0, 2, 3, 1], [0, 0, 0, 0]])
    start = rng.normal(0, 0.3, (3, 4))

    def loss(values: np.ndarray) -> tuple[Tensor, Tensor]:
        deltas = Tensor(values, requires_grad=True)
        boxes = decode_boxes(deltas, anchors, (36, 44), BoxCoder(std=(0.1, 0.1, 0.2, 0.2)))
        terms = head.output_losses(head(maps, boxes), sampled)
        return terms["head_class"] + terms["head_box"], deltas

    total, deltas = loss(start)
    total.backward()
    for row in range(3):
        up, down = start.copy(), start.copy()
        up[row, column] += 1e-6
        down[row, column] -= 1e-6
        slope = (loss(up)[0].item() - loss(down)[0].item()) / 2e-6
        assert deltas.grad[row, column] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_it_learns_two_squares():
    images, targets = squares(0, 8)
    model = new_model(train_proposals=(200, 60), test_proposals=(200, 30))

    def losses(rng: np.random.Generator):
        chosen = rng.integers(len(images), size=2)
        return model.losses([images[i] for i in chosen], [targets[i] for i in chosen], rng)

    log = train_steps(model, losses, 60, np.random.default_rng(0), lr=0.02)
    total = [sum(row[name] for name in row if name != "norm") for row in log]
    assert np.mean(total[-10:]) < 0.6 * np.mean(total[:10])
    found = model.detect(images[:1])[0]
    assert (found.labels >= 1).all() and (found.boxes >= 0).all()
