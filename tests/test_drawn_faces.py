"""train/drawn_faces.py: drawn faces for miniatures, their training, and AP by size."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.detection.structures import Target, make_detections
from minidetect.models.extd import EXTD
from minidetect.train.drawn_faces import ap_by_size, drawn_faces, measure_mini, of_size, train_mini

BOXES = np.array([[0, 0, 8, 8], [20, 0, 32, 12], [0, 40, 40, 60], [60, 40, 84, 64]], np.float32)  # sides 8 12 28.3 24


def target(boxes: np.ndarray = BOXES, ignore: np.ndarray | None = None) -> Target:
    return Target(boxes, np.ones(len(boxes), np.int64), np.zeros((0, 4), np.float32) if ignore is None else ignore)


def mini(seed: int = 0) -> EXTD:
    rng = np.random.default_rng(seed)
    return EXTD(rng, "fpn", 4, stem=4, blocks=((2, 1), (2, 2)), activated_ends=False, sides=(16, 32))


@pytest.fixture(scope="module")
def faces():
    return drawn_faces(4, seed=3, size=64)


def test_sizes_are_roots_of_areas_and_the_others_become_ignore_regions():
    region = np.array([[90, 90, 95, 95]], np.float32)
    middle = of_size(target(ignore=region), (12.0, 24.0))
    assert middle.boxes.tolist() == BOXES[1:2].tolist() and len(middle.labels) == 1
    assert middle.ignore.tolist() == [*region.tolist(), *BOXES[[0, 2, 3]].tolist()]
    assert len(of_size(target(BOXES[:0]), (0.0, 12.0)).boxes) == 0


def test_ap_by_size_excuses_faces_of_other_sizes():
    found = make_detections(BOXES[[0, 2, 3]], np.array([0.9, 0.8, 0.7], np.float32))
    assert ap_by_size([found], [target()]) == pytest.approx({"all": 75.0, "<12": 100.0, "12-24": 0.0, ">=24": 100.0})
    nothing = ap_by_size([found], [target(BOXES[:1])])
    assert np.isnan(nothing["12-24"]) and nothing["<12"] == 100.0 and nothing["all"] == 100.0


def test_a_false_box_counts_in_every_span():
    found = make_detections(np.concatenate([BOXES, [[100, 100, 120, 120]]]), np.array([0.5, 0.5, 0.5, 0.5, 0.9]))
    assert ap_by_size([found], [target()])["<12"] == pytest.approx(50.0)


def test_scenes_are_of_one_size_and_testing_has_other_heads(faces):
    assert len(faces) == 4 and all(image.shape == (64, 64, 3) for image in faces.images)
    other = drawn_faces(4, seed=3, size=64, testing=True)
    assert any(not np.array_equal(a, b) for a, b in zip(faces.images, other.images, strict=True))


def test_a_batch_mirrors_boxes_with_the_pixels(faces):
    model, seen = mini(), 0
    planes = [model.planes(image) for image in faces.images]
    images, targets = faces.batch(model, np.random.default_rng(0), 12)
    assert images.shape == (12, 3, 64, 64)
    for x, found in zip(images.data, targets, strict=True):
        straight = [i for i, plane in enumerate(planes) if np.array_equal(x, plane)]
        turned = [i for i, plane in enumerate(planes) if np.array_equal(x, plane[:, :, ::-1])]
        (i,) = straight or turned
        boxes = faces.targets[i].boxes
        want = boxes if straight else np.stack([64 - boxes[:, 2], boxes[:, 1], 64 - boxes[:, 0], boxes[:, 3]], axis=1)
        assert np.allclose(found.boxes, want)
        seen |= 1 if straight else 2
    assert seen == 3, "one of the two never came"


def test_training_falls_and_two_with_equal_generators_are_equal(faces):
    first, second = mini(), mini()
    logs = [train_mini(model, faces, 30, np.random.default_rng(1)) for model in (first, second)]
    assert logs[0] == logs[1] and len(logs[0]) == 30
    total = [row["class"] + row["box"] for row in logs[0]]
    assert np.mean(total[-5:]) < 0.9 * np.mean(total[:5])
    assert not first.training
    assert measure_mini(first, faces) == pytest.approx(measure_mini(second, faces), nan_ok=True)


def test_norms_stand_still_from_the_share_on(faces):
    never, always = mini(), mini()
    train_mini(never, faces, 4, np.random.default_rng(1), fixed_from=0)
    train_mini(always, faces, 4, np.random.default_rng(1), fixed_from=1)
    fresh = mini().state_dict()
    running = [name for name in fresh if "running" in name]
    assert running and all(np.array_equal(never.state_dict()[name], fresh[name]) for name in running)
    assert any(not np.array_equal(always.state_dict()[name], fresh[name]) for name in running)
