"""Group Sampling's matching: each of the three conditions of its second pass alone, and all against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.matcher import IGNORE, NEGATIVE, match, match_anchors, match_two_pass
from minidetect.reference import boxes as slow

CONDITIONS = ("free", "bound", "nearest")


def boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def by_loops(anchors, gt_boxes, high: float = 0.6, low: float = 0.4, without: str = "") -> list[int]:
    """Both passes word by word as section 4.1 has them; `without` leaves a condition of the second out.

    free: 1, the anchor is matched to no other; bound: 2, IoU >= lambda 2; nearest: 3, no other overlaps it more.
    """
    iou = [[slow.iou(anchor, gt) for gt in gt_boxes] for anchor in anchors]
    matched = []
    for row in iou:
        best = max(row, default=0.0)
        matched.append(row.index(best) if best >= high and row else NEGATIVE if best < low else IGNORE)
    for j in [j for j in range(len(gt_boxes)) if j not in matched]:
        chosen = None
        for i, row in enumerate(iou):
            if without != "free" and matched[i] >= 0:
                continue
            if without != "bound" and row[j] < low:
                continue
            if without != "nearest" and any(other > row[j] for other in row):
                continue
            if row[j] > 0 and (chosen is None or row[j] > iou[chosen][j]):  # of equal ones the first
                chosen = i
        if chosen is not None:
            matched[chosen] = j
    return matched


def assert_only_this_condition_matters(condition: str, anchors: np.ndarray, gt_boxes: np.ndarray, expected, wrong):
    """The scene has the expected answer, another one (`wrong`) without the condition, and no other condition in it."""
    matched_idx, _ = match_two_pass(anchors, gt_boxes)
    np.testing.assert_array_equal(matched_idx, expected)
    assert by_loops(anchors.tolist(), gt_boxes.tolist()) == expected
    for other in CONDITIONS:
        answer = by_loops(anchors.tolist(), gt_boxes.tolist(), without=other)
        assert answer == (wrong if other == condition else expected), other


# ------------------------------------------------------------------ the first pass


def test_eq_1_by_hand():
    """IoU 1, 0.6, 0.5, 0.4 and 0.3 with the first of two objects, 0.8 with the second."""
    gt_boxes = boxes([0, 0, 10, 10], [50, 0, 60, 10])
    anchors = boxes(*([0, 0, 10, height] for height in (10, 6, 5, 4, 3)), [50, 0, 60, 8], [80, 80, 90, 90])
    matched_idx, best_iou = match_two_pass(anchors, gt_boxes)
    np.testing.assert_array_equal(matched_idx, [0, 0, IGNORE, IGNORE, NEGATIVE, 1, NEGATIVE])
    np.testing.assert_allclose(best_iou, [1, 0.6, 0.5, 0.4, 0.3, 0.8, 0], rtol=1e-6)
    assert matched_idx.dtype == np.int64


def test_objects_with_an_anchor_get_no_second_one():
    """Where the first pass is enough, both say the same: what it ignores stays ignored."""
    gt_boxes, anchors = boxes([0, 0, 10, 10]), boxes([0, 0, 10, 7], [0, 0, 10, 5], [0, 0, 9, 6])
    for found, first in zip(match_two_pass(anchors, gt_boxes), match(anchors, gt_boxes, 0.6, 0.4), strict=True):
        np.testing.assert_array_equal(found, first)


# ------------------------------------------------------------------ the second pass


def test_an_object_without_an_anchor_gets_its_best_one():
    """IoU 0.45, 0.55, 0.5: the second anchor; the others stay ignored, and the IoU is what it was."""
    gt_boxes = boxes([0, 0, 10, 20])
    anchors = boxes([0, 0, 10, 9], [0, 0, 10, 11], [0, 0, 10, 10])
    matched_idx, best_iou = match_two_pass(anchors, gt_boxes)
    np.testing.assert_array_equal(matched_idx, [IGNORE, 0, IGNORE])
    np.testing.assert_allclose(best_iou, [0.45, 0.55, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(match(anchors, gt_boxes, 0.6, 0.4)[0], [IGNORE] * 3)  # the first pass alone


def test_condition_1_no_anchor_is_taken_from_another_object():
    """The anchor 10 x 10 has IoU 0.8 with both objects, and the first pass gives it to the first of them."""
    gt_boxes = boxes([0, 0, 10, 8], [0, 2, 10, 10])
    assert_only_this_condition_matters("free", boxes([0, 0, 10, 10]), gt_boxes, [0], [1])


def test_condition_1_holds_within_the_second_pass():
    """IoU 0.5 with both: the second object does not take what the first one was just given."""
    gt_boxes = boxes([0, 0, 10, 5], [0, 5, 10, 10])
    assert_only_this_condition_matters("free", boxes([0, 0, 10, 10]), gt_boxes, [0], [1])


def test_condition_2_a_best_anchor_below_lambda_2_is_none():
    """IoU 0.3. Faster R-CNN's rule, which has no lower bound, gives the object this anchor."""
    anchors, gt_boxes = boxes([0, 0, 10, 3], [40, 40, 50, 50]), boxes([0, 0, 10, 10])
    assert_only_this_condition_matters("bound", anchors, gt_boxes, [NEGATIVE, NEGATIVE], [0, NEGATIVE])
    np.testing.assert_array_equal(match_anchors(anchors, gt_boxes, 0.6, 0.4)[0], [0, NEGATIVE])


def test_condition_3_an_anchor_that_another_object_overlaps_more_is_not_taken():
    """The free anchor 10 x 10 has IoU 0.5 with an object that has another one, and 0.45 with the one that has none."""
    anchors, gt_boxes = boxes([0, 0, 10, 10], [0, 0, 10, 5]), boxes([0, 0, 10, 5], [0, 5.5, 10, 10])
    assert_only_this_condition_matters("nearest", anchors, gt_boxes, [IGNORE, 0], [1, 0])


def test_several_objects_at_once():
    """Two that share the first pass' anchors, one for the second pass, one that is too far from all."""
    gt_boxes = boxes([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10])
    anchors = boxes([40, 0, 50, 5], [0, 0, 10, 9], [20, 0, 30, 7], [40, 0, 50, 4.5], [60, 0, 70, 2], [20, 0, 30, 5])
    np.testing.assert_array_equal(match_two_pass(anchors, gt_boxes)[0], [2, 0, 1, IGNORE, NEGATIVE, IGNORE])


# ------------------------------------------------------------------ thresholds, ties, nothing


@pytest.mark.parametrize(("height", "expected"), [(6.001, 0), (6, 0), (5.999, 0), (4, 0), (3.999, NEGATIVE)])
def test_both_limits_belong_to_the_upper_side(height, expected):
    """0.6 is matched by the first pass, 0.4 by the second."""
    anchors, gt_boxes = boxes([0, 0, 10, height]), boxes([0, 0, 10, 10])
    assert match_two_pass(anchors, gt_boxes)[0][0] == expected
    is_first = match(anchors, gt_boxes, 0.6, 0.4)[0][0] == 0
    assert is_first == (height >= 6)


def test_other_limits():
    """Fast R-CNN's of section 5, 0.6 and 0.5; and equal ones, which leave the second pass nothing."""
    anchors, gt_boxes = boxes([0, 0, 10, 4.5], [0, 0, 10, 3]), boxes([0, 0, 10, 10])
    assert match_two_pass(anchors, gt_boxes, 0.6, 0.5)[0].tolist() == [NEGATIVE, NEGATIVE]
    assert match_two_pass(anchors, gt_boxes, 0.6, 0.4)[0].tolist() == [0, NEGATIVE]
    assert match_two_pass(anchors, gt_boxes, 0.6, 0.2)[0].tolist() == [0, IGNORE]
    assert match_two_pass(anchors, gt_boxes, 0.5, 0.5)[0].tolist() == [NEGATIVE, NEGATIVE]
    with pytest.raises(ValueError, match="negative_iou=0.7, positive_iou=0.6"):
        match_two_pass(anchors, gt_boxes, 0.6, 0.7)


def test_of_equal_anchors_the_first_is_taken():
    gt_boxes = boxes([0, 0, 10, 10])
    anchors = boxes([0, 0, 10, 4.5], [0, 0, 10, 5], [0, 5, 10, 10], [0, 0, 5, 10])  # 0.45 and three times 0.5
    assert match_two_pass(anchors, gt_boxes)[0].tolist() == [IGNORE, 0, IGNORE, IGNORE]
    assert match_two_pass(anchors[::-1], gt_boxes)[0].tolist() == [0, IGNORE, IGNORE, IGNORE]


@pytest.mark.parametrize("counts", [(0, 0), (0, 2), (3, 0)])
def test_no_anchors_no_objects(counts):
    anchors, gt_boxes = boxes([0, 0, 10, 10], [5, 5, 9, 9], [2, 2, 3, 3])[: counts[0]], boxes([0, 0, 10, 5])
    matched_idx, best_iou = match_two_pass(anchors, np.repeat(gt_boxes, counts[1], axis=0))
    assert matched_idx.tolist() == [NEGATIVE] * counts[0] and matched_idx.dtype == np.int64
    assert best_iou.tolist() == [0] * counts[0]


# ------------------------------------------------------------------ against the loops


def scene(seed: int, num_anchors: int, num_gt: int) -> tuple[np.ndarray, np.ndarray]:
    """Objects in a small world, and anchors that are objects moved a bit, some twice; float64, so that loops agree."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 12, (num_gt, 2))
    gt_boxes = np.concatenate([corners, corners + rng.uniform(3, 12, (num_gt, 2))], axis=1)
    near = gt_boxes[rng.integers(num_gt, size=num_anchors)] if num_gt else np.zeros((num_anchors, 4))
    anchors = near + rng.normal(0, 1.5, (num_anchors, 4))
    anchors[:, 2:] = np.maximum(anchors[:, 2:], anchors[:, :2] + 0.5)
    again = rng.integers(num_anchors, size=num_anchors // 4) if num_anchors else np.zeros(0, int)
    return np.concatenate([anchors, anchors[again]]), gt_boxes


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 14),
    st.integers(0, 6),
    st.sampled_from([(0.6, 0.4), (0.6, 0.5), (0.8, 0.3), (0.7, 0.1), (0.5, 0.5)]),
)
def test_equals_the_loops(seed, num_anchors, num_gt, limits):
    anchors, gt_boxes = scene(seed, num_anchors, num_gt)
    kept = anchors.copy(), gt_boxes.copy()
    matched_idx, best_iou = match_two_pass(anchors, gt_boxes, *limits)
    assert matched_idx.tolist() == by_loops(anchors.tolist(), gt_boxes.tolist(), *limits)
    first, first_iou = match(anchors, gt_boxes, *limits)
    np.testing.assert_array_equal(best_iou, first_iou)
    added = np.flatnonzero(matched_idx != first)
    assert (first[added] == IGNORE).all()
    assert len(set(matched_idx[added])) == len(added) and not set(matched_idx[added]) & set(first)  # one each
    np.testing.assert_array_equal(anchors, kept[0])
    np.testing.assert_array_equal(gt_boxes, kept[1])


def test_the_loops_have_teeth():
    """Among random scenes those without the second and third condition are often wrong, and the second pass is busy.

    The first condition needs equal overlaps, which have their scenes above.
    """
    busy, wrong = 0, dict.fromkeys(CONDITIONS[1:], 0)
    for seed in range(100):
        anchors, gt_boxes = (x.tolist() for x in scene(seed, 12, 5))
        right = by_loops(anchors, gt_boxes)
        busy += right != match(np.array(anchors), np.array(gt_boxes), 0.6, 0.4)[0].tolist()
        for condition in wrong:
            wrong[condition] += right != by_loops(anchors, gt_boxes, without=condition)
    assert busy > 20 and min(wrong.values()) > 5
