"""The index of the papers: one number computed by hand for every equation that a docstring names.

`grep -rn "Eq\\. (" minidetect` is the index. A new entry in it needs a test here, marked with its paper and
numbers; the last test of this file fails until there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import log
from pathlib import Path

import numpy as np
import pytest

import minidetect
from minidetect.autograd import Tensor
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.group_sampler import AnchorSample, weighted
from minidetect.detection.losses import (
    iou_gradient,
    least_squares_iou_loss,
    multi_task_loss,
    neg_log_iou_loss,
    smooth_l1,
)
from minidetect.detection.matcher import IGNORE, NEGATIVE, match_two_pass
from minidetect.detection.structures import make_target
from minidetect.kernels.roi_pool import roi_pool_backward
from minidetect.models.anchor_detector import Prediction
from minidetect.models.extd import EXTD
from minidetect.models.facecraft import JointCascade
from minidetect.models.fast_rcnn import BoxHead, SampledRois
from minidetect.models.faster_rcnn import ProposalNet
from minidetect.models.grouped_fast_rcnn import reference_scale
from minidetect.models.layout_loss import sample_losses
from minidetect.models.single_shot_loss import Sample, sampled_losses
from minidetect.nn.init import he_normal
from minidetect.nn.layers import Linear
from minidetect.nn.svd import truncate
from minidetect.ops.activation import prelu
from minidetect.ops.roi_pool import roi_pool
from minidetect.reference import boxes as slow

PAPERS = ("Faster R-CNN", "Fast R-CNN", "R-CNN", "FaceCraft", "Group Sampling", "EXTD", "He et al.")
BY_HAND: set[tuple[str, int]] = set()  # (paper, equation), filled by the marks below


def equations(paper: str, *numbers: int) -> Callable[[Callable], Callable]:
    """Marks a test as the number by hand of these equations."""
    BY_HAND.update((paper, number) for number in numbers)
    return lambda test: test


# ------------------------------------------------------------------ FaceCraft


@equations("FaceCraft", 1)
def test_facecraft_multi_task_loss():
    """A face seen with p = 3/4 and tx off by 0.5, a background with p = 1/2 whose offsets do not count."""
    logits = Tensor(np.array([[0, log(3)], [0, 0]]))
    deltas, targets = Tensor(np.array([[0.5, 0, 0, 0], [9, 9, 9, 9]])), np.zeros((2, 4))
    loss = multi_task_loss(logits, deltas, np.array([1, 0]), targets)
    assert loss.item() == pytest.approx((-log(3 / 4) + 0.125 - log(1 / 2)) / 2)


@equations("FaceCraft", 2, 3, 4, 5)
def test_facecraft_offsets():
    """From a box of 10 x 20 around (5, 10) to one of 20 x 10 around (10, 5)."""
    expected = [5 / 10, -5 / 20, log(20 / 10), log(10 / 20)]
    proposal, gt = [0, 0, 10, 20], [0, 0, 20, 10]
    np.testing.assert_allclose(BoxCoder().encode(np.array([proposal]), np.array([gt])), [expected], rtol=1e-6)
    assert slow.encode(proposal, gt) == pytest.approx(expected)


@equations("FaceCraft", 6)
def test_facecraft_joint_loss():
    """Branches that know nothing say 1/2 each: ln 2 for every sample without a face, times lambda 1, 2, 4."""
    cascade = JointCascade(np.random.default_rng(0), loss_weights=(1.0, 2.0, 4.0))
    for net in (cascade.x12, cascade.x24, cascade.x48):
        net.logits.weight.data[...] = 0
    x = Tensor(np.zeros((3, 3, 48, 48), np.float32))
    losses = cascade.losses(x, np.zeros(3, np.int64), [np.zeros((3, 4), np.float32)] * 3, None)
    assert [loss.item() for loss in losses.values()] == pytest.approx([log(2), 2 * log(2), 4 * log(2)])
    assert sum(loss.item() for loss in losses.values()) == pytest.approx(7 * log(2))


# ------------------------------------------------------------------ Fast R-CNN


@equations("Fast R-CNN", 3)
def test_fast_rcnn_smooth_l1():
    """0.5 * 0.5**2 where the error is below 1, 3 - 0.5 where it is above."""
    loss = smooth_l1(Tensor(np.array([[0.5, -3.0]])), np.zeros((1, 2)))
    assert loss.item() == pytest.approx(0.125 + 2.5)


@equations("Fast R-CNN", 4)
def test_fast_rcnn_roi_pooling_backward():
    """Two regions in one bin each share their largest cell, the 9: it gets 10 + 100, all others nothing."""
    x = Tensor(np.array([[[[1.0, 2, 3], [4, 9, 5], [6, 7, 8]]]]), requires_grad=True)
    rois = np.array([[0, 0, 0, 2, 2], [0, 1, 1, 3, 2]], np.float32)  # the 9 is in row 1, column 1
    y = roi_pool(x, rois, (1, 1))
    np.testing.assert_array_equal(y.data.ravel(), [9, 9])
    y.backward(np.array([10.0, 100.0]).reshape(2, 1, 1, 1))
    expected = [[0, 0, 0], [0, 110, 0], [0, 0, 0]]
    np.testing.assert_array_equal(x.grad[0, 0], expected)
    winners = np.full((2, 1, 1, 1), 4, np.int32)  # cell 4 of the plane, counted by rows
    gx = roi_pool_backward(np.array([10.0, 100.0]).reshape(2, 1, 1, 1), winners, rois, (1, 1, 3, 3))
    np.testing.assert_array_equal(gx[0, 0], expected)


# ------------------------------------------------------------------ Group Sampling
# Two squares of side 2, one moved by 1: the intersection is 1 x 2 = 2, the union 4 + 4 - 2 = 6.

LEFT, RIGHT = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2]])


def slope_of_x1(loss, pred, gt) -> float:
    pred = Tensor(pred, requires_grad=True)
    loss(pred, gt).backward()
    return pred.grad[0, 0]


@equations("Group Sampling", 1)
def test_group_sampling_first_pass():
    """IoU 0.6 is an object, 0.5 is ignored, 0.3 is background, with thresholds of 0.6 and 0.4."""
    anchors = np.array([[0.0, 0, 10, 6], [0, 0, 10, 5], [0, 0, 10, 3]])
    matched_idx, _ = match_two_pass(anchors, np.array([[0.0, 0, 10, 10]]))
    assert matched_idx.tolist() == [0, IGNORE, NEGATIVE]


@equations("Group Sampling", 2)
def test_group_sampling_loss():
    """One scale has a face with p = 3/4 and IoU 1/3 and a background with 1/2, the other three backgrounds with 3/4."""
    logits = Tensor(np.array([[0, log(3)], [0, 0], *[[log(3), 0]] * 3]))
    anchors = np.concatenate([LEFT, *[LEFT + 10] * 4])
    truth = np.concatenate([RIGHT, anchors[1:]])
    samples = [AnchorSample(np.array([0]), np.array([1])), AnchorSample(np.zeros(0, np.int64), np.array([2, 3, 4]))]
    losses = sample_losses(logits, Tensor(np.zeros((5, 4))), anchors, truth, samples, BoxCoder())
    assert losses["class"].item() == pytest.approx((log(4 / 3) + log(2)) / 2 + log(4 / 3))
    assert losses["box"].item() == pytest.approx((1 - 2 / 6) ** 2)  # / 1, and nothing for the scale without a face


class Uniform:
    """In place of a generator: 1 - r for the numbers r of the equation."""

    def __init__(self, *r: float) -> None:
        self.r = r

    def random(self, size: int) -> np.ndarray:
        assert size == len(self.r)
        return 1 - np.array(self.r)


@equations("Group Sampling", 3)
def test_group_sampling_weights():
    """w = r**(1/loss): 0.5**1, 0.64**2 = 0.41 and 0.36**(1/2) = 0.6, of which the first and the last are larger."""
    labels, losses = np.zeros(3, np.int64), np.array([1, 0.5, 2])
    ((_, neg_idx),) = weighted(2)(labels, labels, losses, Uniform(0.5, 0.64, 0.36))
    assert neg_idx.tolist() == [0, 2]  # not 0 and 1, whose r are the largest
    ((_, neg_idx),) = weighted(1)(labels, labels, losses, Uniform(0.5, 0.64, 0.36))
    assert neg_idx.tolist() == [2]


@equations("Group Sampling", 4)
def test_group_sampling_reference_scale():
    """Between 16 and 32 the border is sqrt(16 * 32) = 22.6; 8 x 32 is of size 16, and beyond 128 all is 128."""
    boxes = np.array([[0.0, 0, 22, 22], [0, 0, 23, 23], [0, 0, 8, 32], [0, 0, 3, 3], [0, 0, 64, 66], [5, 5, 999, 999]])
    assert reference_scale(boxes).tolist() == [0, 1, 0, 0, 2, 3]


@equations("Group Sampling", 5)
def test_group_sampling_least_squares_iou():
    assert least_squares_iou_loss(Tensor(LEFT), RIGHT).item() == pytest.approx((1 - 2 / 6) ** 2)


@equations("Group Sampling", 6)
def test_group_sampling_its_gradient():
    """dIoU/dx1 is 1/9 (Eq. 12), so that the slope is -2 * 2/3 * 1/9."""
    assert slope_of_x1(least_squares_iou_loss, LEFT, RIGHT) == pytest.approx(-4 / 27)


@equations("Group Sampling", 7)
def test_group_sampling_gradient_of_the_logarithm():
    """-1 / (1/3) * 1/9"""
    assert slope_of_x1(neg_log_iou_loss, LEFT, RIGHT) == pytest.approx(-1 / 3)


@equations("Group Sampling", 8, 9, 10, 11)
def test_group_sampling_intersection_over_union():
    """x* from 1 to 2, y* from 0 to 2; as printed, the disjoint pair would have (10 - 2) * (10 - 2) = 64."""
    assert iou_gradient(LEFT, RIGHT)[0] == pytest.approx(2 / 6)
    assert iou_gradient(LEFT, LEFT + 10)[0] == 0


@equations("Group Sampling", 12)
def test_group_sampling_gradient_of_the_iou():
    """x1 left of the truth's: I * h / U**2 = 2 * 2 / 36; right of it: (-(6 + 2) * 2 + 2 * 2) / 36."""
    assert iou_gradient(LEFT, RIGHT)[1][0, 0] == pytest.approx(4 / 36)
    assert iou_gradient(RIGHT, LEFT)[1][0, 0] == pytest.approx(-12 / 36)


@equations("Group Sampling", 13)
def test_group_sampling_offsets():
    """From an anchor of 8 x 8 around (4, 4) to a box of 16 x 4 around (10, 2)."""
    deltas = BoxCoder().encode(np.array([[0.0, 0, 8, 8]]), np.array([[2.0, 0, 18, 4]]))
    np.testing.assert_allclose(deltas, [[6 / 8, -2 / 8, log(2), log(1 / 2)]], rtol=1e-6)


@equations("Fast R-CNN", 1)
def test_fast_rcnn_multi_task_loss(rng):
    """Two regions, weights 0: -log(1/3) each; the object's box is off by dx = 0.1, over its std of 0.1 exactly 1."""
    head = BoxHead(2, 16, 2, rng, pool=2, features=3)
    for p in head.parameters():
        p.data[...] = 0
    rois = np.array([[0, 0, 10, 10], [40, 40, 50, 50]], np.float32)
    gt_boxes = np.array([[1, 0, 11, 10], [40, 40, 50, 50]], np.float32)
    losses = head.losses(Tensor(np.zeros((1, 2, 4, 4), np.float32)), SampledRois(rois, np.array([2, 0]), gt_boxes))
    assert losses["head_class"].item() == pytest.approx(log(3))
    assert losses["head_box"].item() == pytest.approx(0.5 / 2)  # smooth L1 of 1 is 0.5, over two regions


@equations("Fast R-CNN", 5)
def test_fast_rcnn_truncated_svd(rng):
    """diag(3, 1) keeps its larger singular value."""
    layer = Linear(2, 2, rng)
    layer.weight.data[...] = np.diag([3.0, 1.0])
    y = truncate(layer, 1)(Tensor(np.array([[1.0, 1.0]], np.float32)))
    np.testing.assert_allclose(y.data, [[3, 0]], atol=1e-6)


@equations("Faster R-CNN", 1)
def test_faster_rcnn_proposal_loss(rng):
    """Four anchors tile 32 x 32, outputs 0: -log(1/2) each; one is off by tx = 0.1, over four positions, times 10."""
    rpn = ProposalNet(2, AnchorGrid(16, (16.0,), (1.0,)), rng, features=2)
    outputs = (Tensor(np.zeros((4, 2), np.float32)), Tensor(np.zeros((4, 4), np.float32)))
    target = make_target(np.array([[1.6, 0, 17.6, 16]], np.float32))  # IoU 14.4 / 17.6 with the first anchor
    losses = rpn.losses(outputs, rpn.grid.boxes(2, 2), (32, 32), target, rng)
    assert losses["rpn_class"].item() == pytest.approx(log(2))
    assert losses["rpn_box"].item() == pytest.approx(10 * (0.1**2 / 2) / 4, rel=1e-4)


# ------------------------------------------------------------------ EXTD


def extd_of_three() -> EXTD:
    """Three passes, with no layer in it that the tests below use."""
    return EXTD(np.random.default_rng(0), width=1, stem=1, blocks=((1, 2),), sides=(16, 32, 64))


@equations("EXTD", 1)
def test_extd_iteration():
    """E(x) = x + 4 = 5 and F(f) = 2 f + 1: 11, 23, 47. One F serves all passes."""
    model = extd_of_three()
    model.start, model.backbones = lambda x: x + 4, [lambda f: f * 2 + 1]
    assert [f.item() for f in model.iterate(Tensor(np.array([1.0])))] == [11, 23, 47]


@equations("EXTD", 2)
def test_extd_upsampling():
    """f = 1, 2, 3 from fine to coarse, U_1(g) = 10 g, U_2(g) = 100 g: g = 3, 10 * 3 + 2, 100 * 32 + 1."""
    model = extd_of_three()
    model.up = [lambda g: g * 10, lambda g: g * 100]
    features = [Tensor(np.full((1, 1, side, side), value)) for side, value in ((5, 1.0), (3, 2.0), (2, 3.0))]
    maps = model.combine(features)
    assert [g.shape for g in maps] == [f.shape for f in features]
    for g, value in zip(maps, (3201, 32, 3), strict=True):
        np.testing.assert_allclose(g.data, value)


@equations("EXTD", 3)
def test_extd_loss():
    """A face with p = 3/4 and two backgrounds with 1/2, N_cls = 3; its box is off by tx = 2, N_reg = 1."""
    logits, deltas = np.zeros((1, 4, 2)), np.zeros((1, 4, 4))
    logits[0, 0], deltas[0, 0, 0] = [0, log(3)], 2
    anchors = np.array([[10.0 * k, 0, 10 * k + 10, 10] for k in range(4)])
    sample = Sample(np.array([0]), np.array([1, 3]), anchors[:1])
    losses = sampled_losses(Prediction(Tensor(logits), Tensor(deltas), anchors), [sample])
    assert losses["class"].item() == pytest.approx(4 / 3 * (log(4 / 3) + 2 * log(2)))
    assert losses["box"].item() == pytest.approx(1 / 1 * (2 - 0.5))


# ------------------------------------------------------------------ He et al. 2015


@equations("He et al.", 1)
def test_he_prelu():
    y = prelu(Tensor(np.array([[-4.0, -4.0], [4.0, 4.0]])), Tensor(np.array([0.25, 0.5])))
    np.testing.assert_array_equal(y.data, [[-1, -2], [4, 4]])


@equations("He et al.", 10)
def test_he_variance_of_initial_weights():
    """Half of 8 inputs times the variance is 1: the variance is 1/4."""
    assert he_normal((20_000, 2, 2, 2), np.random.default_rng(0)).var() == pytest.approx(1 / 4, rel=0.02)


# ------------------------------------------------------------------ the index itself

ENTRY = re.compile(r"Eq\. \((\d+)\)(?:(?:-| to )\((\d+)\))?((?:, \(\d+\))*)")


def entries(text: str) -> list[tuple[str, int]]:
    """(paper, equation) of every entry: the paper is the one that was named last before it."""
    found = []
    for match in ENTRY.finditer(text):
        before = text[: match.start()]
        paper = max(PAPERS, key=lambda name: (before.rfind(name) + len(name)) * (name in before))
        assert paper in before, f"no paper is named before {match.group()!r}; known are {', '.join(PAPERS)}"
        first, last = int(match[1]), int(match[2] or match[1])
        also = [int(number) for number in re.findall(r"\d+", match[3])]
        found += [(paper, number) for number in (*range(first, last + 1), *also)]
    return found


def index() -> dict[tuple[str, int], list[str]]:
    """Every entry of the package with the files it stands in."""
    root, found = Path(minidetect.__file__).parent, {}
    for file in sorted(root.rglob("*.py")):
        for entry in entries(file.read_text()):
            found.setdefault(entry, []).append(str(file.relative_to(root)))
    return found


def test_entries_are_read_as_they_are_written():
    text = "FaceCraft, Eq. (2)-(5). As Fast R-CNN, Eq. (3)... Eq. (8), (9): w*\nFaster R-CNN (Eq. (1)), Eq. (6) to (7)"
    assert entries(text) == [
        *(("FaceCraft", n) for n in (2, 3, 4, 5)),
        *(("Fast R-CNN", n) for n in (3, 8, 9)),
        *(("Faster R-CNN", n) for n in (1, 6, 7)),
    ]
    with pytest.raises(AssertionError, match="no paper is named"):
        entries("as in Eq. (4)")


def test_every_entry_of_the_index_is_read():
    """The pattern finds as many entries as the grep that the README tells people to run."""
    root = Path(minidetect.__file__).parent
    texts = [file.read_text() for file in root.rglob("*.py")]
    assert sum(text.count("Eq. (") for text in texts) == sum(len(ENTRY.findall(text)) for text in texts) > 20


def test_every_equation_of_the_package_has_its_number_here():
    missing = {entry: files for entry, files in index().items() if entry not in BY_HAND}
    assert not missing, "write a test with a number by hand, marked @equations(paper, number)"


def test_every_number_here_belongs_to_an_equation_of_the_package():
    assert BY_HAND - index().keys() == set()
