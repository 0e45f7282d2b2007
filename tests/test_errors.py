"""What kind of mistake each false positive is, on one picture laid out by hand; and the learned NMS threshold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.per_class import detections_by_class
from minidetect.detection.structures import make_detections, make_target
from minidetect.evaluate.errors import (
    BACKGROUND,
    CORRECT,
    KINDS,
    LEFT_OUT,
    LOCALISATION,
    OTHER,
    SIMILAR,
    error_kinds,
    rank_errors,
)
from minidetect.evaluate.nms_threshold import learn_nms_threshold
from minidetect.reference import boxes as slow

CAT, DOG, CAR = 1, 2, 3
# a cat, a dog and a car of 10 x 10, far from each other, and a crowd
TARGET = make_target([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [CAT, DOG, CAR], ignore=[[0, 50, 50, 100]])
# detections of cats; a box moved by d has IoU (10 - d) / (10 + d): 2 -> 2/3, 4 -> 3/7, 9 -> 1/19
CASES = [
    ([0, 0, 10, 10], CORRECT),
    ([2, 0, 12, 10], LOCALISATION),  # IoU 2/3, but the cat was found already
    ([0, 4, 10, 14], LOCALISATION),  # IoU 3/7
    ([0, 9, 10, 19], BACKGROUND),  # IoU 1/19
    ([20, 4, 30, 14], SIMILAR),  # on the dog
    ([20, 0, 30, 10], SIMILAR),
    ([40, 4, 50, 14], OTHER),  # on the car
    ([40, 9, 50, 19], BACKGROUND),
    ([10, 60, 20, 70], LEFT_OUT),  # in the crowd
    ([70, 0, 80, 10], BACKGROUND),
]
BOXES = np.array([box for box, _ in CASES], np.float32)
EXPECTED = [kind for _, kind in CASES]
SCORES = np.linspace(1, 0.1, len(CASES)).astype(np.float32)


def test_every_kind_by_hand():
    assert error_kinds(BOXES, SCORES, TARGET, CAT, similar=[DOG]).tolist() == EXPECTED
    without = [OTHER if kind == SIMILAR else kind for kind in EXPECTED]
    assert error_kinds(BOXES, SCORES, TARGET, CAT).tolist() == without


def test_its_own_class_comes_before_the_others():
    """A box that touches a cat and lies on a dog is badly placed, not confused."""
    target = make_target([[0, 0, 10, 10], [4, 0, 14, 10]], [CAT, DOG])
    assert error_kinds(BOXES[:0], SCORES[:0], target, CAT).shape == (0,)
    assert error_kinds(np.array([[4, 0, 14, 10.0]]), np.ones(1), target, CAT, [DOG]).tolist() == [LOCALISATION]


def test_ranking_over_images():
    found = make_detections(BOXES, SCORES, np.full(len(BOXES), CAT))
    nothing = make_target([])
    second = make_detections([[0, 0, 5, 5], [1, 1, 3, 3]], [0.95, 0.5], [CAT, DOG])
    ranked = rank_errors([found, second], [TARGET, nothing], CAT, similar=[DOG])
    assert len(ranked.kinds) == len(CASES) - 1 + 1  # the one in the crowd is left out, the other image's cat joins
    assert ranked.kinds[:3].tolist() == [CORRECT, BACKGROUND, LOCALISATION]
    assert ranked.image[:3].tolist() == [0, 1, 0]
    assert ranked.num_gt == 1
    assert ranked.counts() == {"correct": 1, "localisation": 0, "similar": 0, "other": 0, "background": 0}
    assert ranked.counts(3) == {"correct": 1, "localisation": 1, "similar": 0, "other": 0, "background": 1}
    assert sum(ranked.counts(1000).values()) == len(ranked.kinds)
    shares = ranked.false_positive_shares(4)  # background, two localisation, background
    assert shares == {"localisation": 0.5, "similar": 0.0, "other": 0.0, "background": 0.5}


def test_nothing_found():
    ranked = rank_errors([make_detections([], [])], [TARGET], CAT)
    assert ranked.num_gt == 1 and set(ranked.counts().values()) == {0}
    assert all(math.isnan(share) for share in ranked.false_positive_shares(10).values())
    assert rank_errors([], [], CAT).num_gt == 0
    with pytest.raises(ValueError, match="one an image"):
        rank_errors([], [TARGET], CAT)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_agrees_with_the_definition_read_aloud(seed):
    """One detection after the other, by falling score, in plain Python."""
    rng = np.random.default_rng(seed)
    corner, gt_corner = rng.integers(0, 20, (12, 2)), rng.integers(0, 20, (4, 2))
    boxes = np.concatenate([corner, corner + 8], axis=1).astype(np.float32)
    gt_boxes, labels = np.concatenate([gt_corner, gt_corner + 8], axis=1), rng.integers(1, 4, 4)
    scores = rng.permutation(12).astype(np.float32)
    kinds = error_kinds(boxes, scores, make_target(gt_boxes, labels), CAT, [DOG])
    taken = set()
    for n in np.argsort(-scores):
        overlap = {g: slow.iou(boxes[n].tolist(), gt_boxes[g].tolist()) for g in range(4)}
        cats = [g for g in range(4) if labels[g] == CAT]
        best = max(cats, key=lambda g: overlap[g], default=None)
        if best is not None and overlap[best] >= 0.5 and best not in taken:
            taken.add(best)
            expected = CORRECT
        else:
            touched = {int(labels[g]) for g in range(4) if overlap[g] >= 0.1}
            order = ((CAT, LOCALISATION), (DOG, SIMILAR), (CAR, OTHER))
            expected = next((kind for label, kind in order if label in touched), BACKGROUND)
        assert KINDS[kinds[n]] == KINDS[expected]


# ------------------------------------------------------------------ suppression class by class


def test_suppression_class_by_class():
    """Two boxes of IoU 2/3: of one class the better one stays, of two classes both do."""
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10]], np.float32)
    scores = np.array([[0.9, 0.1], [0.8, 0.7]], np.float32)
    found = detections_by_class(boxes, scores, 0.5, 0.3, 10)
    assert found.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(found.boxes, boxes)
    assert detections_by_class(boxes, scores, 0.5, 0.7, 10).labels.tolist() == [1, 1, 2]
    assert detections_by_class(boxes, scores, 0.5, 0.7, 1).scores.tolist() == [np.float32(0.9)]
    moved = np.stack([boxes, boxes + 100], axis=1)  # class 2 has boxes of its own
    np.testing.assert_array_equal(detections_by_class(moved, scores, 0.5, 0.3, 10).boxes[1], boxes[1] + 100)


def test_suppression_without_boxes():
    found = detections_by_class(np.zeros((0, 4)), np.zeros((0, 3)), 0.5, 0.3, 10)
    assert found.boxes.shape == (0, 4) and found.labels.dtype == np.int64
    assert detections_by_class(np.zeros((0, 3, 4)), np.zeros((0, 3)), 0.5, 0.3, 10).boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="\\(2, 4\\) and \\(3, 1\\)"):
        detections_by_class(np.zeros((2, 4)), np.zeros((3, 1)), 0.5, 0.3, 10)


def test_the_learned_threshold():
    """Two objects of IoU 3/7 side by side, and a false box of IoU 9/11 with each: 0.5 keeps both and drops these."""
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [-1, 0, 9, 10], [5, 0, 15, 10]], np.float32)
    scored = [(np.repeat(boxes[:, None], 2, axis=1), np.array([[0.9, 0], [0.8, 0], [0.7, 0], [0.6, 0]], np.float32))]
    threshold, means = learn_nms_threshold(scored, [make_target(boxes[:2])], 0.1, thresholds=(0.3, 0.5, 0.9))
    assert threshold == 0.5
    assert means == [0.5, 1.0, 1.0]  # at 0.9 the two false boxes come last, after full recall
    with pytest.raises(ValueError, match="no object"):
        learn_nms_threshold(scored, [make_target([])], 0.1)
    with pytest.raises(ValueError, match="0 images"):
        learn_nms_threshold([], [], 0.1)
