"""Overlaps, anchor matching and non-maximum suppression on the GPU: the processor's numbers, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.detection.matcher import match
from minidetect.kernels import nms_cuda
from minidetect.kernels.device import to_device, to_numpy, use_device
from minidetect.kernels.iou import as_boxes, best_overlaps, intersection_over_first, iou_matrix
from minidetect.kernels.iou_cuda import TILE
from minidetect.kernels.nms import nms
from minidetect.reference import boxes as slow

types = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ODD = [[0, 0, 8, 8], [3, 3, 3, 9], [9, 9, 1, 1], [0, 0, np.inf, 8], [1, np.nan, 4, 4], [np.nan, 0, 8, 8],
       [0, 0, np.nan, 8], [0, 0, 8, np.nan], [-np.inf, -np.inf, np.inf, np.inf], [2, 2, 4, 6]]  # fmt: skip


def random_boxes(rng, n, dtype=np.float32, room=40):
    corners = rng.uniform(0, room, (n, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 20, (n, 2))], axis=1).astype(dtype)


def whole_boxes(rng, n):
    """On a small grid: equal boxes, equal overlaps, and overlaps that equal a threshold are frequent."""
    corners = rng.integers(0, 30, (n, 2))
    return np.concatenate([corners, corners + rng.integers(1, 9, (n, 2))], axis=1).astype(np.float32)


@types
@pytest.mark.parametrize(
    "function, one", [(iou_matrix, slow.iou), (intersection_over_first, slow.intersection_over_first)]
)
def test_overlaps(function, one, dtype, rng):
    a, b = random_boxes(rng, 13, dtype), random_boxes(rng, 6, dtype)
    out = to_numpy(function(to_device(a), to_device(b)))
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, function(a, b))
    expected = [[one([float(v) for v in p], [float(v) for v in q]) for q in b] for p in a]
    np.testing.assert_allclose(out, expected, rtol=2e-5 if dtype == np.float32 else 1e-13, atol=1e-7)


@types
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_overlaps_of_odd_boxes_are_the_processors_too(dtype):
    odd = np.array(ODD, dtype)
    for function in (iou_matrix, intersection_over_first):
        np.testing.assert_array_equal(to_numpy(function(to_device(odd), to_device(odd))), function(odd, odd))


def test_overlaps_of_nothing_of_lists_and_of_mixed_types():
    some = np.array([[0, 0, 4, 4]])  # whole numbers: float32
    for function in (iou_matrix, intersection_over_first):
        assert function(to_device(np.zeros((0, 4), np.float32)), some).shape == (0, 1)
        assert function(to_device(some), to_device(np.zeros((0, 4)))).shape == (1, 0)
        assert function(to_device(some), some).dtype == np.float32
        assert function(to_device(some), some.astype(np.float64)).dtype == np.float64
        with use_device("cuda"):
            np.testing.assert_array_equal(function(some.tolist(), some), [[1]])
            assert function([], some).shape == (0, 1)
        with pytest.raises(ValueError, match=r"second boxes must have shape \(N, 4\).*\(4,\)"):
            function(to_device(some), to_device(np.zeros(4)))
    assert as_boxes(to_device(np.zeros(0))).shape == (0, 4)


@types
@pytest.mark.parametrize("n, m", [(2 * TILE + 3, 3 * TILE + 1), (3, 1), (TILE, TILE)])
def test_best_overlaps_is_the_matrixs_argmax(n, m, dtype, rng):
    a, b = whole_boxes(rng, n).astype(dtype), whole_boxes(rng, m).astype(dtype)
    a[0] = b[m // 2] = b[0]  # of equals the first
    best_idx, best_iou = (to_numpy(best) for best in best_overlaps(to_device(a), to_device(b)))
    assert best_idx.dtype == np.int64 and best_iou.dtype == dtype
    matrix = iou_matrix(a, b)
    np.testing.assert_array_equal(best_idx, matrix.argmax(axis=1))
    np.testing.assert_array_equal(best_iou, matrix.max(axis=1))
    for ours, expected in zip((best_idx, best_iou), best_overlaps(a, b), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_best_overlaps_of_odd_boxes_and_of_nothing():
    odd = np.array(ODD, np.float32)
    for ours, expected in zip(best_overlaps(to_device(odd), to_device(odd)), best_overlaps(odd, odd), strict=True):
        np.testing.assert_array_equal(to_numpy(ours), expected)
    none = np.zeros((0, 4), np.float32)
    for a, b in ((odd, none), (none, odd), (none, none)):
        for ours, expected in zip(best_overlaps(to_device(a), to_device(b)), best_overlaps(a, b), strict=True):
            assert ours.dtype == expected.dtype
            np.testing.assert_array_equal(to_numpy(ours), expected)


def test_anchors_are_matched_as_on_the_processor(rng):
    anchors, gt_boxes = whole_boxes(rng, 2 * TILE + 1), whole_boxes(rng, 3)
    expected = match(anchors, gt_boxes, 0.5, 0.3)
    for ours, theirs in zip(match(to_device(anchors), gt_boxes, 0.5, 0.3), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with use_device("cuda"):
        for ours, theirs in zip(match(anchors, gt_boxes, 0.5, 0.3), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@types
@pytest.mark.parametrize("mode", ["union", "min"])
@pytest.mark.parametrize("threshold", [0.0, 1 / 3, 0.5])
def test_nms_of_several_words(threshold, mode, dtype, rng):
    boxes = whole_boxes(rng, 150).astype(dtype)
    scores = rng.integers(0, 40, 150) / 40  # many ties
    kept = nms(to_device(boxes), to_device(scores), threshold, mode)
    assert isinstance(kept, np.ndarray) and kept.dtype == np.int64
    assert 3 < len(kept) < 150
    np.testing.assert_array_equal(kept, nms(boxes, scores, threshold, mode))
    np.testing.assert_array_equal(kept, slow.nms(boxes, scores, threshold, mode))


@pytest.mark.parametrize("n", [1, 64, 65, 128])
def test_nms_where_all_survive_and_where_one_does(n):
    apart = np.arange(n)[:, None] * [10.0, 0, 10, 0] + [0, 0, 10, 10]  # they touch
    np.testing.assert_array_equal(nms(to_device(apart), np.arange(n), 0.0), np.arange(n)[::-1])
    np.testing.assert_array_equal(nms(to_device(0 * apart + [0, 0, 9, 9]), np.ones(n), 0.99), [0])


def test_nms_at_the_threshold():
    boxes = to_device(np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 3], [20, 0, 30, 10]], np.float32))
    scores = np.array([0.6, 0.9, 0.1, 0.8], np.float32)
    np.testing.assert_array_equal(nms(boxes, scores, 0.5), [1, 3, 0, 2])  # 50 / 100 is not more than 0.5
    np.testing.assert_array_equal(nms(boxes, scores, np.nextafter(0.5, 0)), [1, 3, 2])  # but than the number before
    np.testing.assert_array_equal(nms(boxes, scores, 0.3), [1, 3, 2])  # nor is 30 / 100 more than 0.3
    np.testing.assert_array_equal(nms(boxes, scores, 0.99, mode="min"), [1, 3])


def test_nms_refuses_nan_and_knows_nothing(rng):
    boxes = random_boxes(rng, 70)
    boxes[66, 3] = np.nan
    with pytest.raises(ValueError, match="boxes hold a NaN at index 66"):
        nms(to_device(boxes), np.arange(70), 0.5)
    with pytest.raises(ValueError, match="scores hold a NaN at index 1"):
        nms(to_device(boxes), to_device(boxes[:, 0] * np.where(np.arange(70) == 1, np.nan, 1)), 0.5)
    kept = nms(to_device(np.zeros((0, 4), np.float32)), np.zeros(0), 0.5)
    assert kept.shape == (0,) and kept.dtype == np.int64
    with use_device("cuda"):
        assert nms([], [], 0.5).shape == (0,)


def test_more_boxes_than_a_mask_is_made_for_are_done_by_the_processor(rng, monkeypatch):
    monkeypatch.setattr(nms_cuda, "MOST_BOXES", 5)
    boxes, scores = whole_boxes(rng, 9), rng.random(9)
    np.testing.assert_array_equal(nms(to_device(boxes), scores, 0.3), nms(boxes, scores, 0.3))
