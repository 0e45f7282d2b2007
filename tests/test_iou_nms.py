"""Overlap and non-maximum suppression: hand-computed numbers, the slow twins, and what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.kernels.iou import intersection_over_first, iou_matrix
from minidetect.kernels.nms import nms
from minidetect.reference import boxes as slow

FEW = settings(max_examples=50, deadline=None)
corner = st.integers(0, 20)
side = st.integers(1, 12)
# Whole numbers on a small grid: overlaps, equal boxes and exact ties with the threshold are all frequent.
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
box_lists = st.lists(box, max_size=20).map(lambda rows: np.array(rows, np.float32).reshape(-1, 4))
thresholds = st.sampled_from([0.0, 0.25, 0.3, 1 / 3, 0.5, 0.7, 1.0])


def random_boxes(rng, n, dtype=np.float32):
    corners = rng.uniform(0, 80, (n, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 40, (n, 2))], axis=1).astype(dtype)


def test_iou_by_hand():
    a = np.array([[0, 0, 8, 8]], np.float32)
    b = np.array([[3, 5, 10, 12], [0, 0, 8, 8], [8, 0, 16, 8], [20, 20, 30, 30], [2, 2, 4, 6]], np.float32)
    by_hand = [(5 * 3) / (8 * 8 + 7 * 7 - 5 * 3), 1, 0, 0, 8 / 64]
    np.testing.assert_allclose(iou_matrix(a, b)[0], by_hand, rtol=1e-6)
    np.testing.assert_allclose(intersection_over_first(b, a)[:, 0], [15 / 49, 1, 0, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(intersection_over_first(a, b)[0], [15 / 64, 1, 0, 0, 8 / 64], rtol=1e-6)


@pytest.mark.parametrize(
    "fast, one", [(iou_matrix, slow.iou), (intersection_over_first, slow.intersection_over_first)]
)
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-5), (np.float64, 1e-13)])
def test_overlaps_equal_the_slow_twin(fast, one, dtype, rtol, rng):
    a, b = random_boxes(rng, 17, dtype), random_boxes(rng, 23, dtype)
    expected = [[one([float(v) for v in p], [float(v) for v in q]) for q in b] for p in a]
    out = fast(a, b)
    assert out.dtype == dtype
    np.testing.assert_allclose(out, expected, rtol=rtol, atol=1e-7)
    apart = np.repeat(a, 2, axis=0)[::2]  # strided views of the same numbers
    np.testing.assert_array_equal(fast(apart, np.asfortranarray(b)), out)


def test_overlaps_of_no_boxes_and_of_boxes_without_area():
    none, some = np.zeros((0, 4), np.float32), np.array([[0, 0, 4, 4]], np.float32)
    for fast in (iou_matrix, intersection_over_first):
        assert fast(none, some).shape == (0, 1)
        assert fast(some, none).shape == (1, 0)
        assert fast([], []).shape == (0, 0)
    flat = np.array([[1, 1, 1, 3], [3, 3, 1, 1]], np.float32)  # no width; inside out
    np.testing.assert_array_equal(iou_matrix(flat, np.concatenate([flat, some])), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"second boxes must have shape \(N, 4\).*\(4,\)"):
        iou_matrix(some, np.zeros(4))


def test_iou_of_mixed_types_is_the_wider_one():
    a = np.array([[0, 0, 3, 1]])
    assert iou_matrix(a, a).dtype == np.float32
    assert iou_matrix(a, a.astype(np.float64)).dtype == np.float64


@FEW
@given(box_lists, box_lists)
def test_iou_is_symmetric_bounded_and_one_only_for_equal_boxes(a, b):
    iou = iou_matrix(a, b)
    np.testing.assert_array_equal(iou, iou_matrix(b, a).T)
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou == 1, (a[:, None] == b).all(axis=2))


@FEW
@given(box_lists, box_lists, st.integers(-50, 50), st.sampled_from([0.5, 2.0, 8.0]))
def test_iou_does_not_change_with_place_and_size(a, b, shift, scale):
    np.testing.assert_array_equal(iou_matrix(a * scale + shift, b * scale + shift), iou_matrix(a, b))


def test_iou_of_a_box_with_itself_is_exactly_one(rng):
    boxes = random_boxes(rng, 500)
    np.testing.assert_array_equal(np.diag(iou_matrix(boxes, boxes)), 1)


def test_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [20, 0, 30, 10], [1, 0, 11, 10]], np.float32)
    scores = np.array([0.6, 0.9, 0.1, 0.8], np.float32)
    # 1 and 0 overlap by exactly 50 / 100, which survives 0.5; 0 and 3 by 90 / 110.
    np.testing.assert_array_equal(nms(boxes, scores, 0.5), [1, 3, 2])
    np.testing.assert_array_equal(nms(boxes, scores, 0.49), [1, 3, 2])
    np.testing.assert_array_equal(nms(boxes[:2], scores[:2], 0.5), [1, 0])
    np.testing.assert_array_equal(nms(boxes[:2], scores[:2], 0.49), [1])
    np.testing.assert_array_equal(nms(boxes[:2], scores[:2], 0.99, mode="min"), [1])  # 1 lies inside 0


def test_nms_ties_go_to_the_earlier_box():
    boxes = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [0, 0, 10, 10], [50, 0, 60, 10]], np.float32)
    np.testing.assert_array_equal(nms(boxes, np.ones(4), 0.5), [0, 1])
    np.testing.assert_array_equal(nms(boxes, np.ones(4, np.uint8), 1.0), [0, 1, 2, 3])


def test_nms_of_nothing_is_nothing():
    kept = nms(np.zeros((0, 4)), np.zeros(0), 0.5)
    assert kept.shape == (0,) and kept.dtype == np.int64
    assert nms([], [], 0.5).shape == (0,)


def test_nms_refuses_what_it_cannot_sort():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 2, 2]], np.float32)
    with pytest.raises(ValueError, match="scores hold a NaN at index 1"):
        nms(boxes, [0.5, np.nan], 0.5)
    with pytest.raises(ValueError, match="boxes hold a NaN at index 0"):
        nms(boxes * [[np.nan], [1]], [0.5, 0.4], 0.5)
    with pytest.raises(ValueError, match=r"2 boxes need scores of shape \(2,\), got \(3,\)"):
        nms(boxes, np.ones(3), 0.5)
    with pytest.raises(ValueError, match="threshold must be in"):
        nms(boxes, np.ones(2), 50)
    with pytest.raises(ValueError, match="mode must be one of"):
        nms(boxes, np.ones(2), 0.5, mode="soft")


@FEW
@given(box_lists, st.integers(0, 2**32 - 1), thresholds, st.sampled_from(["union", "min"]))
def test_nms_equals_the_slow_twin_ties_included(boxes, seed, threshold, mode):
    scores = np.random.default_rng(seed).integers(0, 4, len(boxes)) / 4  # four values: many ties
    expected = slow.nms(boxes, scores, threshold, mode)
    np.testing.assert_array_equal(nms(boxes, scores, threshold, mode), expected)


@FEW
@given(box_lists, st.integers(0, 2**32 - 1), thresholds)
def test_nms_keeps_the_best_apart_from_each_other_and_has_nothing_left_to_do(boxes, seed, threshold):
    scores = np.random.default_rng(seed).random(len(boxes))
    kept = nms(boxes, scores, threshold)
    if len(boxes):
        assert kept[0] == scores.argmax()
    assert (np.diff(scores[kept]) <= 0).all()
    overlap = iou_matrix(boxes[kept].astype(np.float64), boxes[kept].astype(np.float64))
    assert (overlap[~np.eye(len(kept), dtype=bool)] <= threshold).all()
    np.testing.assert_array_equal(nms(boxes[kept], scores[kept], threshold), np.arange(len(kept)))


def crowd(rng, n):
    """Boxes in clusters, of sides 2 to 400, a few of them without area or inside out."""
    centres, sides = rng.uniform(0, 600, (n, 2)), np.exp(rng.uniform(np.log(2), np.log(400), (n, 2)))
    copies = rng.integers(0, max(1, n // 4), n)
    centres, sides = centres[copies] + rng.normal(0, 0.1, (n, 2)) * sides[copies], sides[copies]
    sides[rng.random(n) < 0.05, 0] = 0
    sides[rng.random(n) < 0.05, 1] *= -1
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


@pytest.mark.parametrize("n", [63, 64, 65, 300, 700])  # around one word of kept boxes; both ways of sorting
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode, threshold", [("union", 0.0), ("union", 0.5), ("min", 0.7), ("min", 1.0)])
def test_nms_of_a_crowd_equals_the_slow_twin(n, dtype, mode, threshold, rng):
    boxes = crowd(rng, n).astype(dtype)
    scores = (rng.integers(-8, 8, n) / 8).astype(dtype)
    scores[rng.random(n) < 0.1] = -0.0  # equals 0
    np.testing.assert_array_equal(nms(boxes, scores, threshold, mode), slow.nms(boxes, scores, threshold, mode))


def test_nms_of_boxes_all_apart_all_equal_and_of_one_point():
    n = 1000
    x, y = np.arange(n) % 40 * 10.0, np.arange(n) // 40 * 10.0
    apart, scores = np.stack([x, y, x + 10, y + 10], axis=1), np.arange(n) % 7
    np.testing.assert_array_equal(nms(apart, scores, 0.0), np.argsort(-scores, kind="stable"))
    np.testing.assert_array_equal(nms(np.tile(apart[5], (n, 1)), scores, 0.99), [6])
    np.testing.assert_array_equal(nms(np.tile([3.0, 4, 3, 4], (n, 1)), np.ones(n), 0.5), np.arange(n))


def test_nms_of_endless_boxes():
    """Infinite sides have no IoU, but the smaller of two areas lies inside the larger one."""
    boxes = np.array([[-np.inf, -np.inf, np.inf, np.inf], [0, 0, 10, 10], [50, 50, 60, 60]])
    np.testing.assert_array_equal(nms(boxes, [3.0, 2, 1], 0.5), [0, 1, 2])
    np.testing.assert_array_equal(nms(boxes, [3.0, 2, 1], 0.5, mode="min"), [0])
    np.testing.assert_array_equal(nms(boxes, [1.0, 3, 2], 0.5, mode="min"), [1, 2])


def test_a_wrong_nms_would_be_caught(rng):
    """The slow twin must tell `>=` from `>`, and suppression by suppressed boxes from the greedy rule."""
    chain = np.array([[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]], np.float32)
    scores = np.array([3.0, 2.0, 1.0])
    overlaps_an_earlier_box = np.triu(iou_matrix(chain, chain) > 0.5, 1).any(axis=0)
    assert slow.nms(chain, scores, 0.5) == [0, 2]  # 2 overlaps only 1, and 1 is gone
    assert np.flatnonzero(~overlaps_an_earlier_box).tolist() == [0]
    np.testing.assert_array_equal(nms(chain, scores, 0.5), [0, 2])
