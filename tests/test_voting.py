"""Box voting: groups of a few boxes by hand, and what holds for any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.voting import vote
from minidetect.reference import boxes as slow


def squares(*lefts: float, side: float = 10) -> np.ndarray:
    """In one row, so that those d apart have an IoU of (10 - d) / (10 + d)."""
    return np.array([[x, 0, x + side, side] for x in lefts], np.float32)


def test_a_group_by_hand():
    """2 apart: IoU 8 / 12. Weights 0.9 and 0.6 of 1.5: the second moves the box by 2 * 0.4. Its score is the better."""
    boxes, scores = vote(squares(0, 2), np.array([0.9, 0.6]))
    np.testing.assert_allclose(boxes, [[0.8, 0, 10.8, 10]], rtol=1e-6)
    assert scores == pytest.approx([0.9]) and boxes.dtype == scores.dtype == np.float32


def test_two_faces_by_hand():
    """The first takes what overlaps itself by 0.3, not what overlaps its group: 6 apart is 4 / 16, another face."""
    boxes, scores = vote(squares(6, 0, 3, 50), np.array([0.5, 0.8, 0.4, 0.9]))
    np.testing.assert_allclose(boxes, [[50, 0, 60, 10], [1, 0, 11, 10], [6, 0, 16, 10]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.9, 0.8, 0.5])


def test_an_overlap_equal_to_the_threshold_votes():
    """5 apart is 5 / 15; the published code has "at least", suppression "more than"."""
    third = float(np.float32(5) / np.float32(15))
    assert len(vote(squares(0, 5), np.array([0.9, 0.9]), third)[0]) == 1
    assert len(vote(squares(0, 5), np.array([0.9, 0.9]), third + 1e-6)[0]) == 2
    assert len(vote(squares(0, 50), np.array([0.9, 0.9]), 0)[0]) == 1  # at 0 all are one


def test_what_a_single_look_has_seen():
    boxes, scores = np.array([[0.5, 1.25, 8, 9], [30, 30, 41, 40]], np.float32), np.array([0.25, 0.75], np.float32)
    merged, best = vote(boxes, scores)
    np.testing.assert_array_equal(merged, boxes[::-1])
    np.testing.assert_array_equal(best, scores[::-1])
    assert len(vote(boxes, scores, min_votes=2)[0]) == 0
    three = vote(np.concatenate([squares(0, 1, 50), squares(0) + 1]), np.array([0.9, 0.8, 0.7, 0.1]), min_votes=3)
    assert len(three[0]) == 1 and three[1] == pytest.approx([0.9])


def test_boxes_without_area_stay_and_end():
    boxes = np.array([[5, 5, 5, 9], [5, 5, 5, 9], [0, 0, 10, 10]], np.float32)
    merged, scores = vote(boxes, np.array([0.9, 0.8, 0.7]))
    np.testing.assert_array_equal(merged, boxes)
    assert len(scores) == 3


def test_scores_of_zero_are_weights_too():
    merged, scores = vote(squares(0, 2), np.zeros(2))
    np.testing.assert_allclose(merged, [[1, 0, 11, 10]])
    assert scores.tolist() == [0]


def test_no_boxes():
    for empty in (np.zeros((0, 4), np.float32), []):
        boxes, scores = vote(empty, np.zeros(0, np.float32))
        assert boxes.shape == (0, 4) and scores.shape == (0,) and boxes.dtype == scores.dtype == np.float32


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"2 boxes need scores of shape \(2,\), got \(3,\)"):
        vote(squares(0, 1), np.zeros(3))
    with pytest.raises(ValueError, match="score 1 is -0.5"):
        vote(squares(0, 1), np.array([0.5, -0.5]))
    with pytest.raises(ValueError, match="score 0 is nan"):
        vote(squares(0, 1), np.array([np.nan, 0.5]))
    for threshold, votes in ((-0.1, 1), (1.1, 1), (np.nan, 1), (0.3, 0)):
        with pytest.raises(ValueError, match="a threshold from 0 to 1 and min_votes of at least 1"):
            vote(squares(0, 1), np.ones(2), threshold, votes)


def slow_vote(boxes, scores, threshold: float) -> tuple[list, list]:
    """With lists; the scores differ, so that their order is clear."""
    left = sorted(zip(scores, boxes, strict=True), key=lambda pair: -pair[0])
    merged, best = [], []
    while left:
        leader = left[0]
        group = [pair for pair in left if pair is leader or slow.iou(leader[1], pair[1]) >= threshold]
        left = [pair for pair in left if not any(pair is member for member in group)]
        total = sum(score for score, _ in group)
        merged.append([sum(score * box[k] for score, box in group) / total for k in range(4)])
        best.append(leader[0])
    return merged, best


corner, side = st.integers(0, 12), st.integers(0, 10)
box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@settings(max_examples=50, deadline=None)
@given(st.lists(box, min_size=1, max_size=15), st.sampled_from([0.1, 0.3, 0.5, 1.0]), st.integers(0, 99))
def test_it_agrees_with_loops_in_any_order(boxes, threshold, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(0.05, 0.95, len(boxes)))
    expected, best = slow_vote(boxes, scores.tolist(), threshold)
    merged, found = vote(np.array(boxes, np.float64), scores, threshold)
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, best, rtol=1e-6)
    assert (np.diff(found) < 0).all()
    order = rng.permutation(len(boxes))
    again, found_again = vote(np.array(boxes, np.float64)[order], scores[order], threshold)
    np.testing.assert_array_equal(found_again, found)
    np.testing.assert_allclose(again, merged, rtol=1e-5, atol=1e-5)
    for row, leader in zip(merged, best, strict=True):  # no vote moves a box out of its group
        near = [b for b in boxes if slow.iou(boxes[scores.tolist().index(leader)], b) >= threshold]
        near = np.array([*near, boxes[scores.tolist().index(leader)]])
        assert (row >= near.min(axis=0) - 1e-4).all() and (row <= near.max(axis=0) + 1e-4).all()
