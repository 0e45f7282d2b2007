"""COCO's twelve numbers against pycocotools, and by hand on a few boxes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.data.coco import write_coco, write_coco_results
from minidetect.data.objects import ObjectDataset, ObjectRecord
from minidetect.detection.structures import make_detections
from minidetect.evaluate.coco import coco_metrics

NAMES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
NAMES += ("AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large")


def record(boxes, labels, ignored=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    ignored = np.zeros(len(boxes), bool) if ignored is None else np.array(ignored, bool)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return ObjectRecord(Path("a.jpg"), (400, 400), boxes, np.array(labels, np.int64), ignored, sides.prod(axis=1))


def random_set(seed, num_images=6, num_classes=3):
    """Objects of all sizes, some of them crowds; detections near them, doubled, of the wrong class, of nothing."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for _ in range(num_images):
        num = int(rng.integers(0, 9))
        corners = rng.integers(0, 200, (num, 2)).astype(float)
        boxes = np.concatenate([corners, corners + np.round(np.exp(rng.uniform(2, 5.2, (num, 2))))], axis=1)
        labels = rng.integers(1, num_classes + 1, num)
        records.append(record(boxes, labels, rng.random(num) < 0.15))
        near = np.repeat(boxes, 2, axis=0)
        near = near + rng.normal(0, 0.07, near.shape) * np.repeat(near[:, 2:] - near[:, :2], 2, axis=1)
        away = rng.uniform(0, 200, (4, 2))
        near = np.concatenate([near, np.concatenate([away, away + rng.uniform(5, 120, (4, 2))], axis=1)])
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = np.concatenate([np.repeat(labels, 2), rng.integers(1, num_classes + 1, 4)])
        kinds = np.where(rng.random(len(kinds)) < 0.1, rng.integers(1, num_classes + 1, len(kinds)), kinds)
        scores = np.round(rng.random(len(kinds)), 1)  # with ties
        detections.append(make_detections(near.astype(np.float32), scores, kinds))
    return ObjectDataset(records, tuple(f"class {k}" for k in range(num_classes))), detections


def by_pycocotools(dataset, detections, folder):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install -e .[peers]")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    write_coco(dataset, folder / "truth.json", folder)
    write_coco_results(detections, folder / "found.json", range(1, len(dataset) + 1))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats == -1, np.nan, evaluation.stats)


@pytest.mark.parametrize("seed", range(8))
def test_the_twelve_numbers_are_those_of_pycocotools(seed, tmp_path):
    dataset, detections = random_set(seed)
    ours = coco_metrics(detections, dataset)
    assert tuple(ours) == NAMES
    np.testing.assert_allclose(list(ours.values()), by_pycocotools(dataset, detections, tmp_path), rtol=0, atol=1e-12)


def test_more_than_a_hundred_detections_of_an_image(tmp_path):
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 300, (150, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1).astype(np.float32)
    dataset = ObjectDataset([record(boxes[::10], np.ones(15))], ("one",))
    detections = [make_detections(boxes, rng.random(150))]
    ours = coco_metrics(detections, dataset)
    np.testing.assert_allclose(list(ours.values()), by_pycocotools(dataset, detections, tmp_path), rtol=0, atol=1e-12)


def test_by_hand():
    """Two objects of 40 x 40; one is found with IoU 40 * 32 / (40 * 40) = 0.8, one not, and one box is of nothing."""
    dataset = ObjectDataset([record([[0, 0, 40, 40], [100, 100, 140, 140]], [1, 1])], ("one",))
    found = make_detections(np.array([[0, 0, 40, 32], [200, 200, 240, 240]], np.float32), np.array([0.9, 0.8]))
    numbers = coco_metrics([found], dataset)
    # precision 1 up to recall 0.5: 51 of 101 points, at the thresholds 0.5 to 0.8, seven of ten
    assert numbers["AP50"] == pytest.approx(51 / 101)
    assert numbers["AP"] == pytest.approx(0.7 * 51 / 101)
    assert numbers["AR 100"] == pytest.approx(0.7 * 0.5)
    assert numbers["AP medium"] == numbers["AP"] and np.isnan(numbers["AP small"]) and np.isnan(numbers["AP large"])


def test_a_second_best_object_may_be_taken():
    """VOC would count the second detection as false: the object that it overlaps most is taken."""
    dataset = ObjectDataset([record([[0, 0, 100, 100], [10, 0, 110, 100]], [1, 1])], ("one",))
    found = make_detections(np.array([[0, 0, 100, 100], [2, 0, 102, 100]], np.float32), np.array([0.9, 0.8]))
    assert coco_metrics([found], dataset)["AP50"] == pytest.approx(1)


def test_nothing_found_and_nothing_to_find():
    objects = ObjectDataset([record([[0, 0, 40, 40]], [1])], ("one",))
    nothing = make_detections(np.zeros((0, 4)), np.zeros(0))
    assert coco_metrics([nothing], objects)["AP"] == 0
    empty = ObjectDataset([record([], [])], ("one",))
    assert np.isnan(coco_metrics([nothing], empty)["AP"])
    assert np.isnan(coco_metrics([], ObjectDataset([], ("one",)))["AP"])
    with pytest.raises(ValueError, match="2 lists of detections for 1 images"):
        coco_metrics([nothing, nothing], objects)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 3))
def test_a_rising_function_of_the_scores_and_the_order_of_images_change_nothing(seed, power):
    dataset, detections = random_set(seed, num_images=3)
    before = list(coco_metrics(detections, dataset).values())
    raised = [make_detections(d.boxes, d.scores**power, d.labels) for d in detections]
    np.testing.assert_allclose(list(coco_metrics(raised, dataset).values()), before, atol=1e-12)
    # ties between images are broken by their order, as in pycocotools: so make the scores differ
    apart = [make_detections(d.boxes, d.scores / 2 + 0.01 * k, d.labels) for k, d in enumerate(detections, start=1)]
    before = list(coco_metrics(apart, dataset).values())
    turned = ObjectDataset(dataset.records[::-1], dataset.classes)
    np.testing.assert_allclose(list(coco_metrics(apart[::-1], turned).values()), before, atol=1e-12)


def test_a_perfect_detector_scores_one():
    dataset, _ = random_set(3)
    targets = [record.target() for record in dataset.records]
    found = [make_detections(target.boxes, np.ones(len(target.boxes)), target.labels) for target in targets]
    numbers = coco_metrics(found, dataset)
    assert numbers["AP"] == pytest.approx(1) and numbers["AR 100"] == 1
