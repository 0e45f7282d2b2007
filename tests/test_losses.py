"""Losses: values by hand, gradients against central differences, and what the papers say about them."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.autograd.tensor import Tensor
from minidetect.detection import losses
from minidetect.detection.losses import (
    cross_entropy,
    iou_gradient,
    least_squares_iou_loss,
    multi_task_loss,
    neg_log_iou_loss,
    smooth_l1,
)
from minidetect.kernels.iou import iou_matrix

IOU_LOSSES = [neg_log_iou_loss, least_squares_iou_loss]


def gradient(loss, x, *args, **kwargs):
    x = Tensor(np.array(x), requires_grad=True)
    loss(x, *args, **kwargs).backward()
    return x.grad


def overlapping_pairs(rng, n):
    """Boxes that overlap and share no edge coordinate: every arrangement of the four edges occurs."""
    gt = rng.uniform(0, 20, (n, 2))
    gt = np.concatenate([gt, gt + rng.uniform(10, 20, (n, 2))], axis=1)
    return gt + rng.uniform(-4.5, 4.5, (n, 4)), gt


def test_cross_entropy_by_hand():
    logits = Tensor(np.log(np.array([[1.0, 3.0], [2.0, 2.0]])))  # probabilities 1/4, 3/4 and 1/2, 1/2
    expected = -np.log(3 / 4) - np.log(1 / 2)
    assert cross_entropy(logits, [1, 0]).item() == pytest.approx(expected / 2)
    assert cross_entropy(logits, [1, 0], normaliser=8).item() == pytest.approx(expected / 8)
    slope = gradient(cross_entropy, logits.data, [1, 0])
    np.testing.assert_allclose(slope, [[1 / 8, -1 / 8], [-1 / 4, 1 / 4]])  # (p - onehot) / 2


def test_cross_entropy_of_huge_logits_is_exact():
    logits = Tensor(np.array([[0, 1000], [-2000, 0]], np.float32))
    assert cross_entropy(logits, [0, 1]).item() == 500
    np.testing.assert_array_equal(gradient(cross_entropy, logits.data, [0, 1]), [[-0.5, 0.5], [0, 0]])


def test_smooth_l1_by_hand():
    """Fast R-CNN, Eq. (3): 0.5 * 0.5**2, 2 - 0.5, and 0.5 at the seam of the two pieces."""
    pred, target = np.array([[0.5, 2.0], [-1.0, 0.0]]), np.zeros((2, 2))
    assert smooth_l1(Tensor(pred), target).item() == pytest.approx((0.125 + 1.5 + 0.5) / 2)
    assert smooth_l1(Tensor(pred), target, normaliser=1).item() == pytest.approx(2.125)
    assert smooth_l1(Tensor(pred), target, normaliser=1, beta=0.5).item() == pytest.approx(0.25 + 1.75 + 0.75)
    np.testing.assert_allclose(gradient(smooth_l1, pred, target), [[0.25, 0.5], [-0.5, 0]])


def test_multi_task_loss_counts_regression_of_objects_only_over_all_samples():
    """FaceCraft, Eq. (1)."""
    logits, deltas = np.zeros((4, 2)), np.full((4, 4), 2.0)
    labels = np.array([0, 1, 0, 0])
    targets = np.full((4, 4), np.nan)  # background rows have no targets, and must not need any
    targets[1] = 0
    loss = multi_task_loss(Tensor(logits), Tensor(deltas), labels, targets, weight=3.0)
    assert loss.item() == pytest.approx(np.log(2) + 3 * (4 * 1.5) / 4)
    x = Tensor(deltas, requires_grad=True)
    multi_task_loss(Tensor(logits), x, labels, targets).backward()
    np.testing.assert_allclose(x.grad, np.array([0, 1, 0, 0])[:, None] * np.full((4, 4), 0.25))


def test_multi_task_loss_agrees_with_its_two_parts(rng):
    logits, deltas, targets = rng.normal(size=(9, 3)), rng.normal(size=(9, 4)), rng.normal(size=(9, 4))
    labels = rng.integers(0, 3, 9)
    whole = multi_task_loss(Tensor(logits), Tensor(deltas), labels, targets, 0.7, normaliser=5)
    objects = labels >= 1
    parts = cross_entropy(Tensor(logits), labels, 5).item()
    parts += 0.7 * smooth_l1(Tensor(deltas[objects]), targets[objects], 5).item()
    assert whole.item() == pytest.approx(parts)


def test_gradients_equal_central_differences(rng):
    labels, targets = rng.integers(0, 5, 7), rng.normal(size=(7, 4))
    logits, deltas = rng.normal(size=(7, 5)), rng.normal(0, 2, (7, 4))
    gradcheck(lambda x: cross_entropy(x, labels, 3.0), logits, rng=rng)
    gradcheck(lambda x: smooth_l1(x, targets, 3.0, beta=0.6), deltas, rng=rng)
    gradcheck(lambda x, y: multi_task_loss(x, y, labels, targets, 2.0), logits, deltas, rng=rng)


@pytest.mark.parametrize("loss", IOU_LOSSES)
def test_iou_loss_gradients_equal_central_differences(loss, rng):
    for _ in range(20):
        pred, gt = overlapping_pairs(rng, 6)
        gradcheck(lambda x, gt=gt: loss(x, gt), pred, rng=rng)


def test_iou_gradient_by_hand():
    """Group Sampling, Eq. (12), both branches, in each of the four directions."""
    gt = np.array([[0.0, 0, 10, 10]])
    pred = np.array([[2.0, -2, 8, 10]])  # inside in x, reaching out at the top
    iou, slope = iou_gradient(pred, gt)
    shared, union = 6 * 10, 6 * 12 + 100 - 60
    assert iou[0] == pytest.approx(shared / union)
    outer = shared * 6 / union**2  # moving the top edge down removes area outside the ground truth
    inner_x = (-(union + shared) * 10 + shared * 12) / union**2
    inner_y = (-(union + shared) * 6 + shared * 6) / union**2  # y2 = 10 coincides: the inner branch
    np.testing.assert_allclose(slope, [[inner_x, outer, -inner_x, -inner_y]])


def test_iou_gradient_takes_the_iou_of_the_kernel(rng):
    pred, gt = overlapping_pairs(rng, 50)
    pred[::5] += 100  # disjoint
    np.testing.assert_allclose(iou_gradient(pred, gt)[0], np.diag(iou_matrix(pred, gt)), rtol=1e-12)


@pytest.mark.parametrize("loss, value", [(neg_log_iou_loss, -np.log(1e-6)), (least_squares_iou_loss, 1)])
@pytest.mark.parametrize(
    "pred",
    [
        [40, 40, 60, 60],  # disjoint in x and y: Eq. (10) as printed gives an intersection of +400
        [40, 0, 60, 20],  # disjoint in x only
        [20, 0, 40, 20],  # touching
        [15, 5, 5, 15],  # inside out
        [5, 5, 5, 15],  # no width
    ],
)
def test_boxes_without_overlap_have_zero_gradient(loss, value, pred):
    pred, gt = np.array([pred], float), np.array([[0.0, 0, 20, 20]])
    assert loss(Tensor(pred), gt).item() == pytest.approx(value)
    np.testing.assert_array_equal(gradient(loss, pred, gt), np.zeros((1, 4)))


def test_a_sliver_of_overlap_does_not_outweigh_the_batch():
    """IoU = 20e-6 / 800: the slope of -ln(IoU) would be about 1 / 1e-6 pixels. It is held at 0."""
    pred, gt = np.array([[20 - 1e-6, 0, 40, 20]]), np.array([[0.0, 0, 20, 20]])
    assert neg_log_iou_loss(Tensor(pred), gt).item() == pytest.approx(-np.log(1e-6))
    np.testing.assert_array_equal(gradient(neg_log_iou_loss, pred, gt), np.zeros((1, 4)))


def test_at_the_goal_least_squares_rests_and_the_logarithm_does_not():
    """Group Sampling, section 5, at IoU = 1 for a box of 20 x 20: slopes of IoU are 1/20 on either side."""
    gt = np.array([[0.0, 0, 20, 20]])
    np.testing.assert_array_equal(gradient(least_squares_iou_loss, gt, gt), np.zeros((1, 4)))
    np.testing.assert_allclose(gradient(neg_log_iou_loss, gt, gt), [[0.05, 0.05, -0.05, -0.05]])
    hair = np.array([[1e-9, 0, 0, 0]])
    right, left = iou_gradient(gt + hair, gt)[1], iou_gradient(gt - hair, gt)[1]
    np.testing.assert_allclose([right[0, 0], left[0, 0]], [-0.05, 0.05], rtol=1e-6)


def test_steps_down_the_gradient_find_the_ground_truth():
    """GS-M5: with small steps of a fixed rate the least-squares loss ends closer than -ln(IoU)."""
    gt = np.array([[10.0, 10, 30, 30]])
    ends = []
    for loss in (least_squares_iou_loss, neg_log_iou_loss):
        pred = np.array([[14.0, 7, 33, 26]])
        for _ in range(3000):
            pred = pred - 1.0 * gradient(loss, pred, gt)
        ends.append(1 - iou_gradient(pred, gt)[0][0])
    assert ends[0] < 0.01
    assert ends[0] < ends[1] / 2


def test_a_wrong_gradient_is_rejected(rng, monkeypatch):
    """Eq. (12) without its union term, (I' U) / U**2 instead of (I' U - I U') / U**2."""
    right = losses.iou_gradient

    def without_union_term(pred, gt):
        iou, slope = right(pred, gt)
        sides = np.minimum(pred[:, 2:], gt[:, 2:]) - np.maximum(pred[:, :2], gt[:, :2])
        union = sides.prod(axis=1) / iou
        inner = np.concatenate([pred[:, :2] >= gt[:, :2], pred[:, 2:] <= gt[:, 2:]], axis=1)
        return iou, inner * sides[:, [1, 0, 1, 0]] * [-1, -1, 1, 1] / union[:, None]

    pred, gt = overlapping_pairs(rng, 6)
    gradcheck(lambda x: least_squares_iou_loss(x, gt), pred, rng=rng)
    monkeypatch.setattr(losses, "iou_gradient", without_union_term)
    with pytest.raises(GradientError):
        gradcheck(lambda x: least_squares_iou_loss(x, gt), pred, rng=rng)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_views_and_upstream_gradients(dtype, rng):
    pred, gt = (a.astype(dtype) for a in overlapping_pairs(rng, 8))
    calls = [
        (lambda x: smooth_l1(x, gt), pred),
        (lambda x: neg_log_iou_loss(x, gt), pred),
        (lambda x: least_squares_iou_loss(x, gt), pred),
        (lambda x: cross_entropy(x, np.arange(8) % 4), pred),
    ]
    for loss, x in calls:
        whole = Tensor(x, requires_grad=True)
        view = Tensor(np.repeat(x, 2, axis=1)[:, ::2], requires_grad=True)
        out = loss(whole)
        assert out.shape == () and out.dtype == dtype
        out.backward(np.array(3.0))
        loss(view).backward()
        assert whole.grad.dtype == dtype
        np.testing.assert_allclose(whole.grad, 3 * view.grad, rtol=1e-5)


def test_no_samples_are_a_loss_of_zero():
    none, no_labels = np.zeros((0, 4)), np.zeros(0, np.int64)
    for call in (
        lambda x: cross_entropy(x, no_labels),
        lambda x: cross_entropy(x, no_labels, normaliser=0),
        lambda x: smooth_l1(x, none),
        lambda x: neg_log_iou_loss(x, none),
        lambda x: least_squares_iou_loss(x, none, normaliser=0),
        lambda x: multi_task_loss(x, Tensor(none), no_labels, none),
    ):
        x = Tensor(none, requires_grad=True)
        loss = call(x)
        assert loss.item() == 0
        loss.backward()
        assert x.grad.shape == (0, 4)


def test_a_diverged_network_shows_in_the_loss():
    gt = np.array([[0.0, 0, 20, 20]])
    for loss in IOU_LOSSES:
        assert np.isnan(loss(Tensor(np.full((1, 4), np.nan)), gt).item())


def test_bad_input():
    logits, boxes = Tensor(np.zeros((2, 3))), Tensor(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="label 3 needs more than 3 classes"):
        cross_entropy(logits, [0, 3])
    with pytest.raises(ValueError, match="got -1; drop ignored samples"):
        cross_entropy(logits, [0, -1])
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        cross_entropy(logits, [0, 1, 1])
    with pytest.raises(ValueError, match="labels must be integers"):
        cross_entropy(logits, [0.0, 1.0])
    with pytest.raises(ValueError, match="normaliser must be positive, got 0.0 for 2 samples"):
        cross_entropy(logits, [0, 1], normaliser=0)
    with pytest.raises(ValueError, match=r"\(2, 4\), \(4,\)"):
        smooth_l1(boxes, np.zeros(4))
    with pytest.raises(ValueError, match="beta must be positive"):
        smooth_l1(boxes, np.zeros((2, 4)), beta=0)
    with pytest.raises(ValueError, match=r"gt\[0\] .* has no width"):
        least_squares_iou_loss(boxes, np.zeros((2, 4)))
    with pytest.raises(ValueError, match="2 rows of logits, 3 rows of deltas"):
        multi_task_loss(logits, Tensor(np.zeros((3, 4))), [0, 1], np.zeros((3, 4)))
