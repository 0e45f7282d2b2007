"""Ridge regression against NumPy's least squares, and the box regression of R-CNN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.ridge import (
    SMALLEST_VARIANCE,
    BoxRidge,
    fit_box_ridge,
    predict_ridge,
    regress_boxes,
    regression_pairs,
    ridge,
    whiten,
)
from minidetect.detection.structures import make_target
from minidetect.nn.checkpoint import load_arrays, save_arrays


def by_least_squares(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """The penalty as D + 1 more rows: sqrt(penalty) on the diagonal, with target 0."""
    a = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    rows = np.concatenate([a, np.sqrt(penalty) * np.eye(a.shape[1])])
    padded = np.concatenate([targets, np.zeros((a.shape[1], targets.shape[1]))])
    return np.linalg.lstsq(rows, padded, rcond=None)[0]


def test_one_feature_by_hand():
    """x = 1, -1 with y = 3, -3 and penalty 1: w = (1*3 + 1*3) / (1 + 1 + 1) = 2; the bias has nothing to do."""
    weight = ridge(np.array([[1.0], [-1.0]]), np.array([[3.0], [-3.0]]), 1.0)
    np.testing.assert_allclose(weight, [[2], [0]], atol=1e-12)


def test_the_bias_is_shrunk_too():
    """One pair, no feature worth anything, y = 4: b = 4 / (1 + 3)."""
    np.testing.assert_allclose(ridge(np.zeros((1, 2)), np.array([[4.0]]), 3.0), [[0], [0], [1]], atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12), st.sampled_from([1e-2, 1.0, 1000.0]))
def test_agrees_with_least_squares(seed, num, size, penalty):
    rng = np.random.default_rng(seed)
    features, targets = rng.standard_normal((num, size)), rng.standard_normal((num, 4))
    found = ridge(features, targets, penalty)
    np.testing.assert_allclose(found, by_least_squares(features, targets, penalty), atol=1e-8)
    np.testing.assert_allclose(predict_ridge(features, found), features @ found[:-1] + found[-1])


def test_leaving_the_bias_unpenalised_would_be_seen():
    """The usual other convention (centre, then shrink) is not what the published code does."""
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((10, 2)), rng.standard_normal((10, 1)) + 5
    centred = features - features.mean(axis=0)
    slope = np.linalg.solve(centred.T @ centred + 10 * np.eye(2), centred.T @ (targets - targets.mean()))
    assert np.abs(ridge(features, targets, 10.0)[:-1] - slope).max() > 0.05


def test_no_pairs_and_bad_arguments():
    np.testing.assert_array_equal(ridge(np.zeros((0, 3)), np.zeros((0, 2)), 1.0), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="penalty above 0"):
        ridge(np.zeros((1, 1)), np.zeros((1, 1)), 0.0)
    with pytest.raises(ValueError, match="3 rows of features for 2"):
        ridge(np.zeros((3, 1)), np.zeros((2, 1)), 1.0)


def test_whitened_targets():
    rng = np.random.default_rng(0)
    targets = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 4)) + [5, -1, 0, 2]
    white, mean, back = whiten(targets)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(white.T @ white / 500, np.eye(4), atol=0.02)  # but for SMALLEST_VARIANCE
    np.testing.assert_allclose(white @ back + mean, targets, atol=1e-9)
    np.testing.assert_allclose(back, back.T, atol=1e-12)


def test_targets_that_never_vary():
    white, mean, back = whiten(np.full((3, 4), 0.5))
    np.testing.assert_array_equal(white, 0)
    np.testing.assert_allclose(mean, 0.5)
    np.testing.assert_allclose(back, np.sqrt(SMALLEST_VARIANCE) * np.eye(4), atol=1e-12)


def test_pairs_are_proposals_near_an_object():
    """(0, 0, 10, 7) has IoU 0.7 with the first object, (0, 0, 10, 6) exactly 0.6, which is not above it."""
    target = make_target([[0, 0, 10, 10], [20, 0, 30, 10]], [2, 1])
    proposals = np.array([[0, 0, 10, 7], [0, 0, 10, 6], [20, 0, 30, 10], [50, 50, 60, 60]], np.float32)
    rows, gt_boxes, labels = regression_pairs(proposals, target)
    assert rows.tolist() == [0, 2] and labels.tolist() == [2, 1]
    np.testing.assert_array_equal(gt_boxes, target.boxes)
    rows, gt_boxes, labels = regression_pairs(proposals, make_target([]))
    assert rows.shape == (0,) and gt_boxes.shape == (0, 4) and labels.shape == (0,)
    assert len(regression_pairs(np.zeros((0, 4)), target)[0]) == 0


def shifted_boxes(seed: int, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that say, through a random linear map, by how much each proposal is off."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 50, (num, 2)), rng.uniform(10, 30, (num, 2))
    proposals = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    deltas = rng.normal(0, 0.1, (num, 4)) + [0.05, 0, -0.1, 0]
    gt_boxes = BoxCoder().decode(proposals, deltas.astype(np.float32))
    features = deltas @ rng.standard_normal((4, 12)) * 100
    return features.astype(np.float32), proposals, gt_boxes


def test_it_learns_to_move_boxes():
    features, proposals, gt_boxes = shifted_boxes(0, 300)
    labels = np.where(np.arange(300) < 150, 1, 3)
    model = fit_box_ridge(features[:280], proposals[:280], gt_boxes[:280], labels[:280], 3, penalty=1.0)
    moved = regress_boxes(model, features[280:], proposals[280:])
    assert moved.shape == (20, 3, 4) and moved.dtype == np.float32
    before = np.abs(proposals[280:] - gt_boxes[280:]).mean()
    assert np.abs(moved[:, 2] - gt_boxes[280:]).mean() < 0.05 * before
    np.testing.assert_allclose(moved[:, 1], proposals[280:], atol=1e-4)  # a class without pairs leaves boxes alone


def test_save_and_restore(tmp_path):
    features, proposals, gt_boxes = shifted_boxes(1, 40)
    model = fit_box_ridge(features, proposals, gt_boxes, np.ones(40, np.int64), 1)
    save_arrays(tmp_path / "ridge.npz", model._asdict())
    restored = BoxRidge(**load_arrays(tmp_path / "ridge.npz")[0])
    np.testing.assert_array_equal(
        regress_boxes(restored, features, proposals), regress_boxes(model, features, proposals)
    )


def test_no_boxes_at_all():
    empty = np.zeros((0, 4), np.float32)
    model = fit_box_ridge(np.zeros((0, 5)), empty, empty, np.zeros(0, np.int64), 2)
    assert regress_boxes(model, np.zeros((0, 5)), empty).shape == (0, 2, 4)
    box = np.array([[1, 2, 5, 9]], np.float32)
    np.testing.assert_array_equal(regress_boxes(model, np.ones((1, 5)), box), np.stack([box, box], axis=1))
