"""Response-map pooling: brute force, the two readings of the paper, and its claim to stand in for NMS."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms
from minidetect.kernels.response_map import response_map_pool
from minidetect.reference import boxes as slow

STRIDE, WINDOW = 2, 12  # FaceCraft's first stage


def boxes_of(scores):
    """The windows behind the non-zero points of a map, and their scores."""
    y, x = np.nonzero(scores)
    corner = np.stack([x, y], axis=1) * STRIDE
    return np.concatenate([corner, corner + WINDOW], axis=1).astype(np.float32), scores[y, x]


def test_the_two_readings_by_hand():
    scores = np.array([[1, 2, 3, 4], [0, 0, 0, 5], [7, 0, 0, 6]], np.float32)
    blocks = [[0, 2, 0, 0], [0, 0, 0, 5], [7, 0, 0, 6]]  # the last row is a row of 1 x 2 blocks
    slides = [[0, 0, 0, 0], [0, 0, 0, 0], [7, 0, 0, 6]]  # 1 < 2 < 3 < 4 < 5 < 6: the chain keeps its top
    np.testing.assert_array_equal(response_map_pool(scores), blocks)
    np.testing.assert_array_equal(response_map_pool(scores, mode="slide"), slides)
    assert scores[0, 0] == 1  # the argument is left alone


def test_ties_go_to_the_first_in_row_order():
    flat = np.ones((3, 5))
    np.testing.assert_array_equal(
        response_map_pool(flat, 2, "block"), [[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1]]
    )
    np.testing.assert_array_equal(np.argwhere(response_map_pool(flat, 2, "slide")), [[0, 0]])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.integers(1, 5),
    st.sampled_from(["block", "slide"]),
    st.sampled_from([np.float32, np.float64]),
)
def test_equals_brute_force(seed, shape, k, mode, dtype):
    scores = (np.random.default_rng(seed).integers(0, 6, shape) / 5).astype(dtype)  # many ties and zeros
    out = response_map_pool(scores, k, mode)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, slow.response_map_pool(scores, k, mode))
    turned = slow.response_map_pool(scores.T, k, mode)
    np.testing.assert_array_equal(response_map_pool(scores.T, k, mode), turned)
    np.testing.assert_array_equal(response_map_pool(out, k, mode), out)  # nothing left to do
    if k == 1:
        np.testing.assert_array_equal(out, scores)


@pytest.mark.parametrize("k, worst_iou", [(2, 100 / 188), (3, 64 / 224), (4, 36 / 252)])
def test_blocks_lose_no_box_without_a_better_one_close_by(k, worst_iou, rng):
    """FC-28: every candidate is covered by a kept one; at k = 2 by more than NMS at 0.5 asks."""
    scores = rng.random((40, 52))
    candidates, candidate_scores = boxes_of(np.where(scores > 0.5, scores, 0))
    kept, kept_scores = boxes_of(response_map_pool(np.where(scores > 0.5, scores, 0), k))
    iou = iou_matrix(candidates, kept)
    better = kept_scores[None, :] >= candidate_scores[:, None]
    assert np.where(better, iou, 0).max(axis=1).min() >= worst_iou - 1e-6
    assert len(kept) < len(candidates) / 2


def test_blocks_cover_what_nms_keeps_and_sliding_does_not(rng):
    """FC-28 on smooth hills, as a face leaves them: the paper's claim fits only the blocks."""
    y, x = np.mgrid[:60, :80]
    scores = np.zeros((60, 80))
    for _ in range(40):
        cy, cx, width = rng.uniform(0, 60), rng.uniform(0, 80), rng.uniform(3, 7)
        scores = np.maximum(scores, rng.random() * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / width**2))
    scores = np.where(scores > 0.1, scores, 0)
    boxes, box_scores = boxes_of(scores)
    survivors = boxes[nms(boxes, box_scores, 0.5)]

    def covered(mode):
        kept, _ = boxes_of(response_map_pool(scores, 2, mode))
        return (iou_matrix(survivors, kept).max(axis=1) >= 0.5).mean(), len(kept)

    share_by_blocks, kept_by_blocks = covered("block")
    share_by_sliding, kept_by_sliding = covered("slide")
    assert share_by_blocks == 1
    assert share_by_sliding < 0.7
    assert len(survivors) / 2 < kept_by_blocks < 2 * len(survivors)
    assert kept_by_sliding < kept_by_blocks / 4


def test_bad_input():
    with pytest.raises(ValueError, match=r"shape \(H, W\), got \(1, 4, 4\)"):
        response_map_pool(np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="pass probs, not logits"):
        response_map_pool(np.array([[-1.0]]))
    with pytest.raises(ValueError, match="NaN"):
        response_map_pool(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="k must be at least 1"):
        response_map_pool(np.zeros((2, 2)), 0)
    with pytest.raises(ValueError, match="mode must be one of"):
        response_map_pool(np.zeros((2, 2)), 2, "max")
