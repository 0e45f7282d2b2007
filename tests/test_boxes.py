"""Box geometry, landmarks to squares, checks of annotations, and the two records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection import boxes as bx
from minidetect.detection.structures import NO_BOXES, Target, make_detections, make_target

BOXES = np.array([[10, 20, 40, 60], [0, 0, 5, 4]], np.float32)
FACE = np.array([[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]], np.float32)
MISSING = np.full(2, np.nan, np.float32)


def test_notations_by_hand():
    np.testing.assert_array_equal(bx.xyxy_to_cxcywh(BOXES), [[25, 40, 30, 40], [2.5, 2, 5, 4]])
    np.testing.assert_array_equal(bx.xyxy_to_xywh(BOXES), [[10, 20, 30, 40], [0, 0, 5, 4]])
    np.testing.assert_array_equal(bx.area(BOXES), [1200, 20])
    np.testing.assert_array_equal(bx.area([[5, 0, 1, 9]]), [0])  # inside out


def test_notations_lead_back(rng):
    corners = rng.uniform(-50, 50, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 50, (30, 2))], axis=1)
    np.testing.assert_allclose(bx.cxcywh_to_xyxy(bx.xyxy_to_cxcywh(boxes)), boxes, atol=1e-12)
    np.testing.assert_allclose(bx.xywh_to_xyxy(bx.xyxy_to_xywh(boxes)), boxes, atol=1e-12)


def test_clip_flip_and_square_by_hand():
    np.testing.assert_array_equal(bx.clip_to_image([[-3, -2, 50, 60]], (40, 30)), [[0, 0, 30, 40]])
    np.testing.assert_array_equal(bx.clip_to_image([[35, 5, 50, 9]], (40, 30)), [[30, 5, 30, 9]])
    np.testing.assert_array_equal(bx.flip_horizontal(BOXES, 100), [[60, 20, 90, 60], [95, 0, 100, 4]])
    np.testing.assert_array_equal(bx.flip_horizontal(bx.flip_horizontal(BOXES, 100), 100), BOXES)
    np.testing.assert_array_equal(bx.to_square(BOXES), [[5, 20, 45, 60], [0, -0.5, 5, 4.5]])
    np.testing.assert_array_equal(BOXES[0], [10, 20, 40, 60])  # none of them wrote into its argument


@pytest.mark.parametrize(
    "function",
    [
        bx.xyxy_to_cxcywh,
        bx.cxcywh_to_xyxy,
        bx.xyxy_to_xywh,
        bx.xywh_to_xyxy,
        bx.to_square,
        lambda b: bx.clip_to_image(b, (10, 10)),
        lambda b: bx.flip_horizontal(b, 10),
    ],
)
def test_no_boxes_stay_no_boxes_and_types_stay(function):
    assert function(NO_BOXES).shape == (0, 4)
    assert function([]).dtype == np.float32
    assert function(BOXES).dtype == np.float32
    assert function(BOXES.astype(np.float64)).dtype == np.float64
    np.testing.assert_array_equal(function(BOXES[:, ::-1][:, ::-1]), function(BOXES))
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        function(np.zeros((3, 5)))


def test_landmarks_to_square_by_hand():
    # Eyes are 20 * sqrt(2) from the nose and mouth corners 25, so the mean square is (2 * 800 + 2 * 625) / 4.
    half = 2 * np.sqrt((2 * 800 + 2 * 625) / 4)
    square = bx.landmarks_to_square(FACE[None])
    np.testing.assert_allclose(square, [[60 - half, 70 - half, 60 + half, 70 + half]], rtol=1e-6)
    assert square.dtype == np.float32
    assert bx.landmarks_to_square(np.zeros((0, 5, 2))).shape == (0, 4)


@pytest.mark.parametrize("gone", [(0,), (1, 3), (3, 4), (0, 1, 3), (2,)])
def test_a_square_survives_missing_points(gone):
    whole = bx.landmarks_to_square(FACE[None])[0]
    part = FACE.copy()
    part[list(gone)] = MISSING
    square = bx.landmarks_to_square(part[None])[0]
    side = whole[2] - whole[0]
    np.testing.assert_allclose(square, whole, atol=0.08 * side)
    if 2 not in gone:
        np.testing.assert_allclose((square[:2] + square[2:]) / 2, FACE[2], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-500, 500), st.floats(0.1, 20), st.integers(0, 3))
def test_a_square_moves_and_grows_with_its_points(seed, shift, scale, missing):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 100, (3, 21, 2))
    points[:, rng.choice(21, missing, replace=False)] = np.nan
    square = bx.landmarks_to_square(points, nose=14)
    moved = bx.landmarks_to_square(points * scale + shift, nose=14)
    np.testing.assert_allclose(moved, square * scale + shift, rtol=1e-9, atol=1e-9)
    sides = square[:, 2:] - square[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])


@pytest.mark.parametrize("left_over", [0, 1])
def test_too_few_landmarks_are_an_error_that_names_the_face(left_over):
    lost = np.full((2, 5, 2), np.nan, np.float32)
    lost[0] = FACE
    lost[1, 2 : 2 + left_over] = 7
    with pytest.raises(ValueError, match=rf"landmarks\[1\]: {left_over} of 5 points"):
        bx.landmarks_to_square(lost)


def test_check_boxes_names_the_record():
    bx.check_boxes(BOXES, "a.txt:3", (60, 40))
    assert bx.check_boxes([], "a.txt:3").shape == (0, 4)
    with pytest.raises(ValueError, match=r"a.txt:3: box 1 .* needs x1 < x2 .*1 bad of 2"):
        bx.check_boxes([[0, 0, 1, 1], [5, 5, 5, 9]], "a.txt:3")
    with pytest.raises(ValueError, match="a.txt:3: box 0 .* is not finite"):
        bx.check_boxes([[np.nan, 0, 1, 1]], "a.txt:3")
    with pytest.raises(ValueError, match="a.txt:3: box 0 .* lies outside the image"):
        bx.check_boxes([[40, 0, 50, 10]], "a.txt:3", (60, 40))
    np.testing.assert_array_equal(bx.valid_boxes([[0, 0, 1, 1], [1, 0, 1, 1], [0, 0, np.inf, 1]]), [1, 0, 0])


def test_detections_are_sorted_with_everything_that_belongs_to_them():
    landmarks = np.arange(20, dtype=np.float32).reshape(2, 5, 2)
    found = make_detections(BOXES, [0.1, 0.9], [1, 2], landmarks)
    np.testing.assert_array_equal(found.boxes, BOXES[::-1])
    np.testing.assert_array_equal(found.labels, [2, 1])
    np.testing.assert_array_equal(found.landmarks, landmarks[::-1])
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    nothing = make_detections([], [])
    assert nothing.boxes.shape == (0, 4) and nothing.scores.shape == (0,) and nothing.labels.shape == (0,)
    with pytest.raises(ValueError, match="2 boxes need 2 scores"):
        make_detections(BOXES, [0.1])


def test_targets_default_to_one_class_without_ignore_regions():
    target = make_target(BOXES)
    np.testing.assert_array_equal(target.labels, [1, 1])
    assert target.ignore.shape == (0, 4) and target.landmarks is None
    assert make_target([]).boxes.shape == (0, 4)
    assert Target(BOXES, np.ones(2, np.int64)).ignore.dtype == np.float32
    with pytest.raises(ValueError, match="labels of objects count from 1"):
        make_target(BOXES, [0, 1])
    with pytest.raises(ValueError, match="2 boxes need 2 landmarks"):
        make_target(BOXES, landmarks=FACE[None])
