"""Precision, recall and AP: numbers to follow by hand, the slow twin, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.structures import Detections, Target
from minidetect.evaluate.average_precision import (
    average_precision,
    evaluate_detections,
    match_detections,
    precision_recall,
    recall_at_false_positives,
)
from minidetect.evaluate.runs import at_threshold
from minidetect.reference import evaluation as slow

SETTINGS = settings(max_examples=60, deadline=None)
# few different scores, so that ties are common
judged = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.6, 0.9]), st.booleans()), max_size=12)


def boxes_of(*rows):
    return np.array(rows, np.float32).reshape(-1, 4)


def found(rows, labels=None):
    """Detections from rows x1 y1 x2 y2 score, in the order given (the evaluator sorts by itself)."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    labels = np.ones(len(rows), np.int64) if labels is None else np.array(labels)
    return Detections(rows[:, :4], rows[:, 4], labels)


def target(*rows, ignore=(), labels=None):
    boxes = boxes_of(*rows)
    labels = np.ones(len(boxes), np.int64) if labels is None else np.array(labels)
    return Target(boxes, labels, boxes_of(*ignore))


# ---------------------------------------------------------------- matching


def test_a_detection_is_right_from_exactly_the_threshold_on():
    gt = boxes_of([0, 0, 10, 10])
    half = boxes_of([0, 0, 10, 5])  # IoU 50 / 100
    assert match_detections(half, np.array([0.9]), gt, iou_threshold=0.5)[0].tolist() == [True]
    assert match_detections(half, np.array([0.9]), gt, iou_threshold=0.51)[0].tolist() == [False]


def test_the_higher_score_takes_the_object_wherever_it_stands_in_the_list():
    gt = boxes_of([0, 0, 10, 10])
    twice = boxes_of([0, 0, 10, 10], [0, 0, 10, 9])
    assert match_detections(twice, np.array([0.8, 0.9]), gt)[0].tolist() == [False, True]
    assert match_detections(twice, np.array([0.9, 0.8]), gt)[0].tolist() == [True, False]


def test_of_equal_scores_the_earlier_takes_the_object():
    gt = boxes_of([0, 0, 10, 10])
    twice = boxes_of([0, 0, 10, 9], [0, 0, 10, 10])
    assert match_detections(twice, np.array([0.7, 0.7]), gt)[0].tolist() == [True, False]


def test_a_second_detection_does_not_move_on_to_the_neighbour():
    # Both overlap object 0 most; the second also has IoU 5/9 with object 1, which stays unfound (VOC's rule).
    gt = boxes_of([0, 0, 10, 10], [0, 3, 10, 13])
    both = boxes_of([0, 0, 10, 10], [0, 1, 10, 11])
    is_tp, _ = match_detections(both, np.array([0.9, 0.8]), gt)
    assert is_tp.tolist() == [True, False]


def test_a_detection_in_an_ignore_region_is_neither_right_nor_wrong():
    crowd = boxes_of([0, 0, 100, 100])
    small = boxes_of([10, 10, 20, 20], [200, 200, 210, 210])
    is_tp, is_ignored = match_detections(small, np.array([0.9, 0.8]), boxes_of(), crowd)
    assert is_tp.tolist() == [False, False]
    assert is_ignored.tolist() == [True, False]


def test_ignoring_by_iou_needs_a_box_of_like_size():
    crowd = boxes_of([0, 0, 100, 100])
    small_and_large = boxes_of([10, 10, 20, 20], [0, 0, 100, 80])
    _, is_ignored = match_detections(
        small_and_large, np.array([0.9, 0.8]), boxes_of(), crowd, ignore_by="iou"
    )
    assert is_ignored.tolist() == [False, True]


def test_a_right_detection_inside_an_ignore_region_still_counts():
    is_tp, is_ignored = match_detections(
        boxes_of([10, 10, 20, 20]), np.array([0.5]), boxes_of([10, 10, 20, 20]), boxes_of([0, 0, 100, 100])
    )
    assert (is_tp.tolist(), is_ignored.tolist()) == ([True], [False])


@pytest.mark.parametrize("num_boxes", [0, 2])
@pytest.mark.parametrize("num_gt", [0, 2])
def test_empty_inputs_have_empty_answers(num_boxes, num_gt):
    boxes = np.tile(np.float32([0, 0, 4, 4]), (num_boxes, 1))
    gt = np.tile(np.float32([50, 50, 60, 60]), (num_gt, 1))
    is_tp, is_ignored = match_detections(boxes, np.zeros(num_boxes), gt)
    assert is_tp.shape == is_ignored.shape == (num_boxes,)
    assert not is_tp.any() and not is_ignored.any()


def test_bad_input_is_named():
    box = boxes_of([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"scores of shape \(1,\)"):
        match_detections(box, np.zeros(2), box)
    with pytest.raises(ValueError, match="score 0 of 1 is NaN"):
        match_detections(box, np.array([np.nan]), box)
    with pytest.raises(ValueError, match="iou_threshold"):
        match_detections(box, np.zeros(1), box, iou_threshold=50)
    with pytest.raises(ValueError, match="ignore_by"):
        match_detections(box, np.zeros(1), box, ignore_by="centre")
    with pytest.raises(ValueError, match="image 0: .*NaN"):
        evaluate_detections([found([[0, 0, 1, 1, np.nan]])], [target()])
    with pytest.raises(ValueError, match="1 lists of detections for 2 targets"):
        evaluate_detections([found([])], [target(), target()])
    with pytest.raises(ValueError, match="2 true positives cannot come from 1 objects"):
        precision_recall(np.array([0.1, 0.2]), np.array([True, True]), 1)


# ---------------------------------------------------------------- the curve and its area


def test_a_curve_by_hand():
    # right, wrong, right, wrong; three objects, one of them never found
    curve = precision_recall(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0], bool), 3)
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 1 / 2])
    assert curve.false_positives.tolist() == [0, 1, 1, 2]
    assert curve.scores.tolist() == [0.9, 0.8, 0.7, 0.6]
    # every point: 1/3 at precision 1, 1/3 at 2/3. 11 points: recall 0 .. 0.3 at 1, 0.4 .. 0.6 at 2/3, then 0
    assert curve.ap == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert average_precision(curve.recall, curve.precision, 11) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert [curve.recall_at(fp) for fp in (0, 1, 2, 1000)] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 2 / 3])
    assert [curve.threshold_at(fp) for fp in (0, 1, 2)] == [0.9, 0.7, 0.6]


def test_three_of_ten_objects_reach_the_point_at_recall_0_3():
    # np.linspace(0, 1, 11)[3] is a little more than 3 / 10: a plain >= loses the point
    curve = precision_recall(np.array([0.9, 0.8, 0.7]), np.ones(3, bool), 10)
    assert average_precision(curve.recall, curve.precision, 11) == pytest.approx(4 / 11)


def test_a_tie_is_one_point_of_the_curve():
    scores, is_tp = np.array([0.9, 0.5, 0.5, 0.5]), np.array([1, 0, 1, 0], bool)
    curve = precision_recall(scores, is_tp, 2)
    assert curve.scores.tolist() == [0.9, 0.5]
    assert curve.false_positives.tolist() == [0, 2]
    assert curve.recall_at(1) == 0.5


def test_no_false_positive_allowed_and_none_possible():
    curve = precision_recall(np.array([0.9, 0.8]), np.array([0, 1], bool), 1)
    assert curve.recall_at(0) == 0
    assert curve.threshold_at(0) == float("inf")


def test_nothing_detected_and_nothing_to_detect():
    nothing_found = evaluate_detections([found([])], [target([0, 0, 5, 5])])
    assert nothing_found.ap == 0 and nothing_found.recall_at(10) == 0 and nothing_found.num_gt == 1
    nothing_there = evaluate_detections([found([[0, 0, 5, 5, 0.9]])], [target()])
    assert np.isnan(nothing_there.ap) and np.isnan(nothing_there.recall_at(10))
    assert nothing_there.false_positives.tolist() == [1]
    no_images = evaluate_detections([], [])
    assert no_images.num_gt == 0 and len(no_images.scores) == 0


def test_average_precision_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="recall falls"):
        average_precision(np.array([0.5, 0.2]), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="points must be"):
        average_precision(np.array([0.5]), np.array([1.0]), points=101)
    with pytest.raises(ValueError, match="must both be"):
        average_precision(np.array([0.5]), np.array([1.0, 0.5]))


@SETTINGS
@given(judged, st.integers(0, 4))
def test_the_slow_twin_agrees(detections, missed):
    scores = np.array([score for score, _ in detections])
    is_tp = np.array([right for _, right in detections], bool)
    num_gt = int(is_tp.sum()) + missed
    curve = precision_recall(scores, is_tp, num_gt)
    if num_gt == 0:
        assert np.isnan(curve.ap)
        return
    assert curve.ap == pytest.approx(slow.average_precision_every_point(scores, is_tp, num_gt))
    eleven = average_precision(curve.recall, curve.precision, points=11)
    assert eleven == pytest.approx(slow.average_precision_11_point(scores, is_tp, num_gt))
    for num_fp in (0, 1, 3):
        expected = slow.recall_at(num_fp, scores, is_tp, num_gt)
        assert recall_at_false_positives(curve, num_fp) == pytest.approx(expected)


def test_the_slow_twin_rejects_an_area_under_the_raw_saw_teeth():
    scores, is_tp = np.array([0.9, 0.8, 0.7]), np.array([0, 1, 1], bool)
    curve = precision_recall(scores, is_tp, 2)
    raw_area = float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))
    expected = slow.average_precision_every_point(scores, is_tp, 2)
    assert curve.ap == pytest.approx(expected) == pytest.approx(2 / 3)
    assert raw_area != pytest.approx(expected)


# ---------------------------------------------------------------- what must not change the answer


def random_set(rng, num_images=5):
    """Images with objects, detections near them and elsewhere, and coarse scores that often tie."""
    detections, targets = [], []
    for _ in range(num_images):
        corners = rng.uniform(0, 80, (rng.integers(0, 4), 2))
        gt = np.concatenate([corners, corners + rng.uniform(10, 30, corners.shape)], axis=1)
        near = np.repeat(gt, 2, axis=0) + rng.normal(0, 2, (2 * len(gt), 4))
        far = rng.uniform(0, 60, (3, 4))
        far[:, 2:] = far[:, :2] + rng.uniform(5, 30, (3, 2))
        boxes = np.concatenate([near, far])
        scores = rng.integers(1, 12, len(boxes)) / 16
        detections.append(found(np.column_stack([boxes, scores])))
        targets.append(target(*gt))
    return detections, targets


def assert_same_curve(a, b, scores_too=True):
    np.testing.assert_allclose(a.recall, b.recall)
    np.testing.assert_allclose(a.precision, b.precision)
    np.testing.assert_array_equal(a.false_positives, b.false_positives)
    if scores_too:
        np.testing.assert_array_equal(a.scores, b.scores)


@pytest.mark.parametrize("seed", range(6))
def test_order_of_images_and_of_detections_and_the_scale_of_scores_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    detections, targets = random_set(rng)
    curve = evaluate_detections(detections, targets)

    order = rng.permutation(len(targets))
    assert_same_curve(curve, evaluate_detections([detections[i] for i in order], [targets[i] for i in order]))

    shuffled = []
    for d in detections:
        p = rng.permutation(len(d.boxes))
        shuffled.append(Detections(d.boxes[p], d.scores[p], d.labels[p]))
    assert_same_curve(curve, evaluate_detections(shuffled, targets))

    squashed = [d._replace(scores=np.tanh(3 * d.scores) - 7) for d in detections]
    assert_same_curve(curve, evaluate_detections(squashed, targets), scores_too=False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ignore_by", ["area", "iou"])
def test_detections_in_an_ignore_region_change_nothing(seed, ignore_by):
    rng = np.random.default_rng(seed)
    detections, targets = random_set(rng)
    region = [200.0, 200.0, 230.0, 230.0]  # far from every object
    ignoring = [t._replace(ignore=boxes_of(region)) for t in targets]
    crowded = []
    for d in detections:
        extra = np.float32(region) + rng.uniform(-1, 1, (4, 4)).astype(np.float32)
        crowded.append(
            Detections(
                np.concatenate([d.boxes, extra]),
                np.concatenate([d.scores, rng.uniform(0, 1, 4).astype(np.float32)]),
                np.concatenate([d.labels, np.ones(4, np.int64)]),
            )
        )
    plain = evaluate_detections(detections, targets)
    assert_same_curve(plain, evaluate_detections(crowded, ignoring, ignore_by=ignore_by))
    # and without the region the same detections are false positives
    assert evaluate_detections(crowded, targets).false_positives[-1] == plain.false_positives[-1] + 20


def test_a_class_is_evaluated_alone():
    detections = [found([[0, 0, 10, 10, 0.9], [0, 0, 10, 10, 0.8], [50, 50, 60, 60, 0.7]], labels=[1, 2, 2])]
    targets = [target([0, 0, 10, 10], [50, 50, 60, 60], labels=[1, 2])]
    first, second = (evaluate_detections(detections, targets, label=k) for k in (1, 2))
    assert (first.num_gt, first.ap) == (1, 1.0)
    assert (second.num_gt, second.ap) == (1, 0.5)
    assert evaluate_detections(detections, targets).num_gt == 2


def test_what_the_default_threshold_shows():
    """Scores 0.9 hit, 0.8 miss, 0.6 hit, of 4 faces: at 0.7 one of two shown is a face, one of four is shown."""
    curve = precision_recall(np.array([0.9, 0.8, 0.6]), np.array([True, False, True]), 4)
    assert at_threshold(curve, 0.7) == {"threshold": 0.7, "precision": 0.5, "recall": 0.25}
    assert at_threshold(curve, 0.6) == {"threshold": 0.6, "precision": 0.6667, "recall": 0.5}
    assert at_threshold(curve, 0.95) == {"threshold": 0.95, "precision": 1.0, "recall": 0.0}
