"""Deltas between proposals and ground truths: by hand, against the slow twin, and there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.box_coder import SSD_STD, BoxCoder, CornerCoder
from minidetect.reference import boxes as slow


def random_boxes(rng, n):
    corners = rng.uniform(-100, 100, (n, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 60, (n, 2))], axis=1)


def test_encode_by_hand():
    """FaceCraft, Eq. (2)-(5): the centre moves from (5, 10) to (10, 5), the sides from 10, 20 to 20, 10."""
    proposals, gt = np.array([[0, 0, 10, 20]], np.float32), np.array([[0, 0, 20, 10]], np.float32)
    raw = [0.5, -0.25, np.log(2), -np.log(2)]
    np.testing.assert_allclose(BoxCoder().encode(proposals, gt), [raw], rtol=1e-6)
    scaled = np.divide(raw, SSD_STD)
    np.testing.assert_allclose(BoxCoder(std=SSD_STD).encode(proposals, gt), [scaled], rtol=1e-6)
    shifted = BoxCoder(mean=(0.5, 0, 0, 0)).encode(proposals, gt)
    np.testing.assert_allclose(shifted, [[0, *raw[1:]]], rtol=1e-6)
    np.testing.assert_allclose(BoxCoder().decode(proposals, np.array([raw], np.float32)), gt, atol=1e-5)


def test_equals_the_slow_twin(rng):
    proposals, gt = random_boxes(rng, 20), random_boxes(rng, 20)
    expected = [slow.encode(p, g) for p, g in zip(proposals, gt, strict=True)]
    np.testing.assert_allclose(BoxCoder().encode(proposals, gt), expected, rtol=1e-12)
    deltas = rng.normal(0, 1, (20, 4))
    expected = [slow.decode(p, d) for p, d in zip(proposals, deltas, strict=True)]
    np.testing.assert_allclose(BoxCoder().decode(proposals, deltas), expected, rtol=1e-11, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(np.float32, 2e-3), (np.float64, 1e-10)]))
def test_decode_undoes_encode(seed, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    rng = np.random.default_rng(seed)
    proposals, gt = random_boxes(rng, 8).astype(dtype), random_boxes(rng, 8).astype(dtype)
    coder = BoxCoder(mean=tuple(rng.normal(0, 1, 4)), std=tuple(rng.uniform(0.05, 3, 4)))
    deltas = coder.encode(proposals, gt)
    back = coder.decode(proposals, deltas)
    assert deltas.dtype == back.dtype == dtype
    np.testing.assert_allclose(back, gt, atol=tolerance)


def test_deltas_do_not_change_with_place_and_size(rng):
    proposals, gt = random_boxes(rng, 9), random_boxes(rng, 9)
    deltas = BoxCoder().encode(proposals, gt)
    np.testing.assert_allclose(BoxCoder().encode(3 * proposals + 7, 3 * gt + 7), deltas, atol=1e-11)


def test_fit_leaves_mean_zero_and_deviation_one(rng):
    proposals, gt = random_boxes(rng, 200), random_boxes(rng, 200)
    deltas = BoxCoder.fit(proposals, gt).encode(proposals, gt)
    np.testing.assert_allclose(deltas.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(deltas.std(axis=0), 1, atol=1e-12)


def test_fit_copes_with_what_never_varies():
    boxes = np.array([[0, 0, 10, 10], [5, 5, 9, 9]], np.float32)
    coder = BoxCoder.fit(boxes, boxes)
    assert coder == BoxCoder()
    with pytest.raises(ValueError, match="no positives"):
        BoxCoder.fit(boxes[:0], boxes[:0])


def test_a_wild_delta_does_not_overflow():
    box = BoxCoder().decode([[0, 0, 16, 16]], np.array([[0, 0, 1e4, 1e4]], np.float32))
    np.testing.assert_allclose(box, [[8 - 500, 8 - 500, 8 + 500, 8 + 500]], rtol=1e-5)


def test_no_boxes_and_bad_boxes():
    none = np.zeros((0, 4), np.float32)
    assert BoxCoder().encode(none, none).shape == (0, 4)
    assert BoxCoder().decode(none, none).shape == (0, 4)
    with pytest.raises(ValueError, match=r"gt\[1\] has no width"):
        BoxCoder().encode([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 1, 1], [2, 0, 2, 1]])
    with pytest.raises(ValueError, match="1 proposals, 0 gt"):
        BoxCoder().encode([[0, 0, 1, 1]], none)
    with pytest.raises(ValueError, match="1 proposals, 0 deltas"):
        BoxCoder().decode([[0, 0, 1, 1]], none)
    with pytest.raises(ValueError, match="std must be positive"):
        BoxCoder(std=(1, 1, 0, 1))
    with pytest.raises(ValueError, match="four finite numbers"):
        BoxCoder(mean=(0, 0))


def test_arrays_from_a_checkpoint_are_welcome():
    assert BoxCoder(np.zeros(4), np.ones(4, np.float32)) == BoxCoder()


# ------------------------------------------------------------------ corners (MTCNN)


def test_corners_by_hand():
    """From (10, 20)-(20, 40) to (12, 25)-(19, 50): the corners move by 2 / 10, 5 / 20, -1 / 10 and 10 / 20."""
    proposals, gt = np.array([[10, 20, 20, 40]], np.float32), np.array([[12, 25, 19, 50]], np.float32)
    raw = [[0.2, 0.25, -0.1, 0.5]]
    np.testing.assert_allclose(CornerCoder().encode(proposals, gt), raw, rtol=1e-6)
    np.testing.assert_allclose(CornerCoder().decode(proposals, np.array(raw, np.float32)), gt, rtol=1e-6)
    scaled = CornerCoder(mean=(0.1, 0, 0, 0), std=(0.1, 0.5, 0.2, 2.0))
    np.testing.assert_allclose(scaled.encode(proposals, gt), [[1, 0.5, -0.5, 0.25]], rtol=1e-5)
    np.testing.assert_allclose(scaled.decode(proposals, [[1, 0.5, -0.5, 0.25]]), gt, rtol=1e-6)


def test_corners_are_calibrated_as_mtcnn_does(rng):
    """Its published formula, "bounding box regression" of the test code: x1 + dx1 * w, y1 + dy1 * h, and so on."""
    proposals, deltas = random_boxes(rng, 12), rng.normal(0, 0.2, (12, 4))
    x1, y1, x2, y2 = proposals.T
    w, h = x2 - x1, y2 - y1
    dx1, dy1, dx2, dy2 = deltas.T
    expected = np.stack([x1 + dx1 * w, y1 + dy1 * h, x2 + dx2 * w, y2 + dy2 * h], axis=1)
    np.testing.assert_allclose(CornerCoder().decode(proposals, deltas), expected, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.sampled_from([(np.float32, 2e-3), (np.float64, 1e-10)]))
def test_decoding_corners_undoes_encoding_them(seed, count, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    rng = np.random.default_rng(seed)
    proposals, gt = random_boxes(rng, count).astype(dtype), random_boxes(rng, count).astype(dtype)
    coder = CornerCoder(mean=tuple(rng.normal(0, 1, 4)), std=tuple(rng.uniform(0.05, 3, 4)))
    deltas = coder.encode(proposals, gt)
    back = coder.decode(proposals, deltas)
    assert deltas.dtype == back.dtype == dtype and back.shape == (count, 4)
    np.testing.assert_allclose(back, gt, atol=tolerance)


def test_a_corner_may_pass_the_other():
    """Nothing is limited: a box turned inside out comes back, and encoding wants its sides positive again."""
    box = CornerCoder().decode([[0, 0, 10, 10]], [[2.0, 0, 0, 0]])
    np.testing.assert_array_equal(box, [[20, 0, 10, 10]])
    with pytest.raises(ValueError, match=r"proposals\[0\] has no width"):
        CornerCoder().encode(box, [[0, 0, 10, 10]])


def test_corners_of_no_boxes_and_bad_boxes():
    none = np.zeros((0, 4), np.float32)
    assert CornerCoder().encode(none, none).shape == CornerCoder().decode(none, none).shape == (0, 4)
    with pytest.raises(ValueError, match=r"gt\[1\] has no width"):
        CornerCoder().encode([[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 1, 1], [2, 0, 2, 1]])
    with pytest.raises(ValueError, match="1 proposals, 0 gt"):
        CornerCoder().encode([[0, 0, 1, 1]], none)
    with pytest.raises(ValueError, match="1 proposals, 0 deltas"):
        CornerCoder().decode([[0, 0, 1, 1]], none)
    with pytest.raises(ValueError, match="std must be positive"):
        CornerCoder(std=(1, 1, -1, 1))


def test_the_two_codes_are_not_mistaken_for_each_other(rng):
    proposals, gt = random_boxes(rng, 5), random_boxes(rng, 5)
    assert CornerCoder() != BoxCoder()
    assert isinstance(CornerCoder.fit(proposals, gt), CornerCoder)
    np.testing.assert_allclose(CornerCoder.fit(proposals, gt).encode(proposals, gt).mean(axis=0), 0, atol=1e-12)
