"""From boxes to FDDB's ellipses by regression: axes and angles by hand, and fits that find what made the data."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minidetect.data.fddb import FddbDetections
from minidetect.evaluate.fddb import evaluate_fddb
from minidetect.evaluate.fddb_ellipse import EllipseRegression, fit_ellipses, targets_of
from minidetect.evaluate.fddb_mapping import BoxMapping, fit_box_mapping

UPRIGHT = math.pi / 2
SAME = EllipseRegression(np.zeros((2, 5)))  # the ellipse that touches the box
# Rows: of log(h / w), and of one; columns: dx, dy, log of both axes in units of the box, angle.
TILTED = EllipseRegression(np.array([[0.05, -0.1, 0.2, -0.3, 0.4], [0.02, -0.08, 0.12, 0.22, 0.15]]))


def photos(rng, regression: EllipseRegression, num: int = 25) -> tuple[dict, dict]:
    """Four faces in each photo of 400 x 400, and boxes of which the regression makes exactly these faces."""
    detections, ellipses = {}, {}
    for i in range(num):
        centre = np.array([[100, 100], [300, 100], [100, 300], [300, 300]]) + rng.uniform(-20, 20, (4, 2))
        w, h = rng.uniform(50, 80, 4), rng.uniform(70, 110, 4)
        half = np.stack([w, h], axis=1) / 2
        boxes, scores = np.concatenate([centre - half, centre + half], axis=1), rng.uniform(0.991, 1, 4)
        ellipses[f"photo {i}"] = regression.apply(boxes, scores)[:, :5]
        detections[f"photo {i}"] = FddbDetections(boxes, scores)
    return detections, ellipses


# ------------------------------------------------------------------ by hand


def test_the_ellipse_in_a_box():
    """Half axes are halves of the sides; of a box that is wider than high, the longer one lies flat."""
    boxes = np.array([[10, 20, 40, 70], [10, 20, 60, 50], [0, 0, 30, 30]], np.float32)
    found = SAME.apply(boxes, np.array([0.9, 0.8, 0.7]))
    assert found.shape == (3, 6) and found.dtype == np.float64
    np.testing.assert_allclose(found[0], [25, 15, UPRIGHT, 25, 45, 0.9])
    np.testing.assert_allclose(found[1], [25, 15, 0, 35, 35, 0.8])
    np.testing.assert_allclose(found[2], [15, 15, UPRIGHT, 15, 15, 0.7])
    np.testing.assert_allclose(found[:, :5], BoxMapping(0, 0, 1, 1).apply(boxes, np.ones(3))[:, :5])
    assert (found[:, 0] >= found[:, 1]).all()
    assert SAME.apply(np.zeros((0, 4)), np.zeros(0)).shape == (0, 6)


def test_every_number_of_a_regression_by_hand():
    """A box of 20 x 40, so that the feature is log 2."""
    weight = np.zeros((2, 5))
    weight[1] = [0.1, -0.2, math.log(1.5), math.log(1.25), 0.3]
    box = np.array([[10, 10, 30, 50]])
    expected = [25, 15, UPRIGHT + 0.3, 20 + 0.1 * 20, 30 - 0.2 * 40, 0.5]
    np.testing.assert_allclose(EllipseRegression(weight).apply(box, np.array([0.5]))[0], expected)
    weight[0] = np.array([0.1, 0.2, -1, 1, 0.1]) / math.log(2)
    expected = [25 * math.e, 15 / math.e, UPRIGHT + 0.4, 20 + 0.2 * 20, 30, 0.5]
    np.testing.assert_allclose(EllipseRegression(weight).apply(box, np.array([0.5]))[0], expected)


def test_a_flat_axis_is_tilted_with_the_head():
    """Axes that change places turn by a right angle, and mean the same ellipse."""
    weight = np.zeros((2, 5))
    weight[1, 4] = 0.3
    (flat,) = EllipseRegression(weight).apply(np.array([[0, 0, 60, 40]]), np.ones(1))
    np.testing.assert_allclose(flat[:3], [30, 20, 0.3])
    for t in np.linspace(0, 2 * np.pi, 20):  # its points as the regression says them: 20 along the tilted upright
        upright = 20 * math.cos(t) * np.array([math.cos(UPRIGHT + 0.3), math.sin(UPRIGHT + 0.3)])
        x, y = upright + 30 * math.sin(t) * np.array([-math.sin(UPRIGHT + 0.3), math.cos(UPRIGHT + 0.3)])
        along, across = x * math.cos(0.3) + y * math.sin(0.3), y * math.cos(0.3) - x * math.sin(0.3)
        assert (along / flat[0]) ** 2 + (across / flat[1]) ** 2 == pytest.approx(1)


@pytest.mark.parametrize(
    ("angle", "tilt"),
    [(UPRIGHT, 0), (-UPRIGHT, 0), (3 * UPRIGHT, 0), (UPRIGHT + 0.3, 0.3), (UPRIGHT - 0.3, -0.3), (-UPRIGHT + 0.3, 0.3),
     (1.0, 1 - UPRIGHT), (-1.0, UPRIGHT - 1)],
)  # fmt: skip
def test_the_angle_counts_from_the_upright(angle, tilt):
    box, ellipse = np.array([[0.0, 0, 20, 40]]), np.array([[25, 15, angle, 12, 14]])
    expected = [0.1, -0.15, math.log(1.5), math.log(1.25), tilt]
    np.testing.assert_allclose(targets_of(box, ellipse)[0], expected, atol=1e-12)


def test_targets_are_what_apply_undoes(rng):
    detections, ellipses = photos(rng, TILTED, 3)
    for name, found in detections.items():
        w, h = (found.boxes[:, 2:] - found.boxes[:, :2]).T
        expected = np.log(h / w)[:, None] * TILTED.weight[0] + TILTED.weight[1]
        np.testing.assert_allclose(targets_of(found.boxes, ellipses[name]), expected, atol=1e-9)


# ------------------------------------------------------------------ fits


def test_the_fit_finds_the_regression_that_made_the_data(rng):
    detections, ellipses = photos(rng, TILTED)
    fitted = fit_ellipses(detections, ellipses)
    np.testing.assert_allclose(fitted.weight, TILTED.weight, atol=0.005)
    for name, found in detections.items():
        again = fitted.apply(found.boxes, found.scores)[:, :5]
        np.testing.assert_allclose(again, ellipses[name], rtol=0.01, atol=0.2)
    curves = evaluate_fddb({name: fitted.apply(*found) for name, found in detections.items()}, ellipses)
    medians = fit_box_mapping(detections, ellipses).mapping  # upright, and blind to proportions
    other = evaluate_fddb({name: medians.apply(*found) for name, found in detections.items()}, ellipses)
    assert curves.continuous.recall.max() > 0.97 > other.continuous.recall.max() + 0.03


def test_only_good_pairs_count(rng):
    """Detections that no face answers, that lie wrong or that are unsure change nothing."""
    detections, ellipses = photos(rng, TILTED, 10)
    fitted = fit_ellipses(detections, ellipses)
    for name, found in detections.items():
        astray = np.concatenate([found.boxes, [[170, 170, 230, 230]], found.boxes[:2] * 0.5])
        detections[name] = FddbDetections(astray, np.append(found.scores, [1.0, 0.995, 0.995]))
    np.testing.assert_allclose(fit_ellipses(detections, ellipses).weight, fitted.weight, atol=1e-9)
    unsure = {name: FddbDetections(found.boxes, 0 * found.scores + 0.98) for name, found in detections.items()}
    with pytest.raises(ValueError, match="no detection with score >= 0.99 has IoU above 0.5 with an ellipse"):
        fit_ellipses(unsure, ellipses)
    np.testing.assert_allclose(fit_ellipses(unsure, ellipses, min_score=0.9).weight, fitted.weight, atol=1e-9)
    with pytest.raises(ValueError, match="IoU above 0.99 with"):
        fit_ellipses(detections, ellipses, min_iou=0.99)


@pytest.mark.parametrize("detections", [{}, {"a": FddbDetections(np.zeros((0, 4)), np.zeros(0))}])
def test_no_pair_is_an_error(detections):
    with pytest.raises(ValueError, match="no detection with score"):
        fit_ellipses(detections, {"a": np.array([[40, 30, UPRIGHT, 100, 100]])})


def test_targets_undo_apply_for_wide_boxes_too():
    """A box of 60 x 40 gives an ellipse that lies on its side; its targets are those of the regression, all 0."""
    boxes, scores = np.array([[0, 0, 60, 40], [0, 0, 40, 60]], np.float64), np.ones(2)
    ellipses = EllipseRegression(np.zeros((2, 5))).apply(boxes, scores)[:, :5]
    np.testing.assert_allclose(targets_of(boxes, ellipses), 0, atol=1e-12)
