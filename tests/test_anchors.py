"""Anchors: the grid by hand, its translation invariance, who is positive, and the report on coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.anchors import AnchorGrid, best_overlaps, coverage, inside_image
from minidetect.detection.matcher import IGNORE, NEGATIVE, match, match_anchors


def test_the_papers_nine():
    cell = AnchorGrid().cell()
    assert cell.shape == (9, 4)
    sides = cell[:, 2:] - cell[:, :2]
    np.testing.assert_allclose(sides.prod(axis=1), np.repeat([128.0**2, 256.0**2, 512.0**2], 3), rtol=1e-5)
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5, 1, 2] * 3, rtol=1e-5)
    np.testing.assert_allclose(cell[:, :2], -cell[:, 2:])
    assert len(AnchorGrid().boxes(40, 60)) == 21_600  # section 3.3: "roughly 20,000"


def test_a_grid_by_hand():
    boxes = AnchorGrid(stride=10, sides=(4.0,), ratios=(1.0,)).boxes(2, 3)
    assert boxes[:2].tolist() == [[3, 3, 7, 7], [13, 3, 17, 7]]
    assert boxes[3].tolist() == [3, 13, 7, 17]
    assert boxes.dtype == np.float32 and AnchorGrid().boxes(0, 5).shape == (0, 4)


def test_anchors_of_a_cell_stand_together():
    grid = AnchorGrid(stride=8, sides=(16.0, 32.0), ratios=(1.0, 4.0))
    np.testing.assert_allclose(grid.boxes(1, 2)[4:8], grid.cell() + np.float32([12, 4, 12, 4]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_translation_by_whole_cells(height, width, down, right):
    """Faster R-CNN, section 3.1.1: move the image by a cell and the anchors are the same, moved."""
    grid = AnchorGrid(stride=16, sides=(20.0, 50.0))
    larger = grid.boxes(height + down, width + right).reshape(height + down, width + right, -1, 4)
    moved = grid.boxes(height, width).reshape(height, width, -1, 4) + np.float32([right, down, right, down]) * 16
    np.testing.assert_allclose(larger[down:, right:], moved, atol=1e-3)


@pytest.mark.parametrize("settings", [{"stride": 0}, {"sides": ()}, {"sides": (-4.0,)}, {"ratios": (0.0,)}])
def test_settings_that_make_no_anchors(settings):
    with pytest.raises(ValueError, match="must be positive"):
        AnchorGrid(**settings)


def test_inside():
    boxes = np.array([[0, 0, 10, 10], [-1, 0, 5, 5], [5, 5, 10.5, 9], [2, 2, 4, 11]], np.float32)
    assert inside_image(boxes, (10, 10)).tolist() == [True, False, False, False]
    assert inside_image(boxes, (10, 10), margin=1).tolist() == [True, True, True, True]
    assert inside_image(np.zeros((0, 4)), (10, 10)).shape == (0,)


ANCHORS = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [100, 100, 110, 110]], np.float32)


def test_the_best_anchor_is_positive_however_low():
    gt = np.array([[0, 0, 20, 6]], np.float32)  # IoU 60 / 160 = 0.375 with the first two
    assert match(ANCHORS, gt, 0.7, 0.3)[0].tolist() == [IGNORE, IGNORE, NEGATIVE, NEGATIVE]
    assert match_anchors(ANCHORS, gt)[0].tolist() == [0, 0, NEGATIVE, NEGATIVE]  # both are equally good
    tiny = np.array([[2, 2, 4, 4]], np.float32)  # IoU 0.04: positive over negative
    assert match_anchors(ANCHORS, tiny)[0].tolist() == [0, NEGATIVE, NEGATIVE, NEGATIVE]


def test_an_object_that_no_anchor_touches_makes_no_anchor_positive():
    """Its best overlap is 0, which is also that of every anchor: trap of the published code."""
    far = np.array([[500, 500, 520, 520]], np.float32)
    assert match_anchors(ANCHORS, far)[0].tolist() == [NEGATIVE] * 4
    both = np.concatenate([far, ANCHORS[:1]])
    assert match_anchors(ANCHORS, both)[0].tolist() == [1, NEGATIVE, NEGATIVE, NEGATIVE]


def test_an_anchor_that_is_best_for_two_objects():
    gt = np.array([[0, 0, 5, 5], [0, 0, 10, 5]], np.float32)  # 0.25 and 0.5, both best at anchor 0
    assert match_anchors(ANCHORS, gt)[0][0] == 1


@pytest.mark.parametrize("num", [0, 3])
def test_no_anchors_or_no_objects(num):
    matched, iou = match_anchors(np.zeros((0, 4)), np.ones((num, 4)))
    assert matched.shape == iou.shape == (0,)
    assert match_anchors(ANCHORS, np.zeros((0, 4)))[0].tolist() == [NEGATIVE] * 4


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_every_object_that_is_touched_has_an_anchor(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 150, (6, 2))
    gt = np.concatenate([corners, corners + rng.uniform(4, 90, (6, 2))], axis=1).astype(np.float32)
    anchors = AnchorGrid(stride=16, sides=(24.0, 64.0)).boxes(8, 8)
    matched, iou = match_anchors(anchors, gt)
    plain, plain_iou = match(anchors, gt, 0.7, 0.3)
    assert np.array_equal(iou, plain_iou)
    assert np.array_equal(matched[plain >= 0], plain[plain >= 0])  # only what was not positive is overruled
    best = best_overlaps(gt, (128, 128), AnchorGrid(stride=16, sides=(24.0, 64.0)), inside=False)
    # an anchor stands for one object only, so an object may lose its best anchor to another that it fits better
    for g in set(range(len(gt))) - set(matched.tolist()):
        assert best[g] < 0.7


def test_coverage_by_hand():
    grid = AnchorGrid(stride=10, sides=(10.0,), ratios=(1.0,))
    boxes = [np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32), np.zeros((0, 4), np.float32)]
    report = coverage(boxes, [(20, 20), (20, 20)], grid)
    assert report["small"] == report["all"] == {"objects": 2, "mean_iou": 0.75, "above_0.5": 1, "above_0.7": 0.5}
    assert report["large"]["objects"] == 0 and np.isnan(report["large"]["mean_iou"])
    with pytest.raises(ValueError, match="1 images' boxes, 2 image sizes"):
        coverage(boxes[:1], [(20, 20)] * 2, grid)


def test_coverage_inside_the_image_only():
    grid = AnchorGrid(stride=10, sides=(12.0,), ratios=(1.0,))
    box = [np.array([[0, 0, 10, 10]], np.float32)]
    assert coverage(box, [(10, 10)], grid, inside=True)["all"]["mean_iou"] == 0  # the only anchor sticks out
    assert coverage(box, [(10, 10)], grid, inside=False)["all"]["mean_iou"] == pytest.approx(100 / 144)
