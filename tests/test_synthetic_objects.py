"""Drawn scenes of several classes: what their boxes and masks promise, and the trainings in memory that use them."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.data.synthetic import OBJECTS4, SEGMENT, DrawnObjects, draw_objects
from minidetect.data.synthetic.placing import shared_area
from minidetect.detection.structures import Detections
from minidetect.kernels.iou import iou_matrix
from minidetect.models.rcnn import CropNet
from minidetect.train.drawn import TEST_BANK, drawn_images, mean_ap, pretrain, train_steps


@pytest.mark.parametrize("settings", [OBJECTS4, SEGMENT], ids=["objects4", "segment"])
def test_boxes_and_masks_agree(settings):
    for scene in DrawnObjects(settings, 25, seed=3):
        height, width = scene.image.shape[:2]
        assert scene.image.dtype == np.uint8 and scene.image.shape[:2] == settings.size
        assert scene.boxes.dtype == np.float32 and scene.labels.dtype == np.int64 and scene.masks.dtype == bool
        assert len(scene.boxes) == len(scene.labels) == len(scene.masks) <= settings.num_objects[1]
        assert (scene.boxes >= 0).all() and (scene.boxes <= [width, height, width, height]).all()
        assert set(scene.labels) <= {1, 2, 3, 4}
        assert scene.masks.sum(axis=0).max(initial=0) <= 1  # a pixel shows one object
        for i, mask in enumerate(scene.masks):
            y, x = np.nonzero(mask)
            seen = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
            covered = max((shared_area(scene.boxes[i], box) for box in scene.boxes[i + 1 :]), default=0.0)
            if covered == 0:  # nothing painted over it; long hair stands out of the box by a good part
                assert iou_matrix(seen, scene.boxes[i : i + 1])[0, 0] > 0.5


def test_objects_do_not_hide_each_other():
    for scene in DrawnObjects(OBJECTS4, 40, seed=1):
        for i in range(len(scene.boxes)):
            for other in scene.boxes[i + 1 :]:
                assert shared_area(scene.boxes[i], other) <= OBJECTS4.overlap + 0.06  # before they were clipped


def test_a_scene_depends_on_seed_and_index_alone():
    scenes = DrawnObjects(OBJECTS4, 5, seed=9)
    again = draw_objects(OBJECTS4, 9, 3)
    assert np.array_equal(scenes[3].image, again.image) and np.array_equal(scenes[-2].masks, again.masks)
    assert not np.array_equal(scenes[2].image, again.image)
    other = draw_objects(OBJECTS4, 9, 3, bank=TEST_BANK)
    assert np.array_equal(other.labels, again.labels) and not np.array_equal(other.image, again.image)
    with pytest.raises(IndexError, match="scene 5 of 5"):
        scenes[5]


def test_settings_are_obeyed():
    wide = DrawnObjects(OBJECTS4, 20, seed=2, stretch=(2.0, 2.0), side=(30.0, 40.0), classes=("clock",), size=(90, 150))
    boxes = np.concatenate([scene.boxes for scene in wide])
    inside = boxes[(boxes[:, 0] > 0) & (boxes[:, 2] < 150)]
    assert np.median((inside[:, 2] - inside[:, 0]) / (inside[:, 3] - inside[:, 1])) == pytest.approx(1.8, abs=0.3)
    assert {int(label) for scene in wide for label in scene.labels} == {1}
    assert len(draw_objects(OBJECTS4, num_objects=(0, 0)).boxes) == 0


def test_batches_are_mirrored_with_their_boxes():
    drawn = drawn_images(3, seed=4)
    own = [target.boxes for target in drawn.targets]
    images, targets, boxes = drawn.batch_with(own, np.random.default_rng(0), num=30)
    originals = {image.tobytes() for image in drawn.images}
    assert {image.tobytes() in originals for image in images} == {True, False}
    for image, target, found in zip(images, targets, boxes, strict=True):
        assert np.array_equal(found, target.boxes)
        turned = [np.array_equal(image[:, :, ::-1], one) for one in drawn.images]
        if any(turned):
            i = turned.index(True)
            assert np.allclose(found[:, [2, 0]], 128 - own[i][:, [0, 2]], atol=1e-4)


def test_mean_ap_by_hand():
    """Class 1: one of two objects found, AP 1/2; class 2: found after a false alarm, AP 1/2; class 3 has no object."""
    drawn = drawn_images(1)
    target = drawn.targets[0]._replace(
        boxes=np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 20, 10, 30]], np.float32), labels=np.array([1, 1, 2])
    )
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 20, 10, 30], [70, 70, 80, 80]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([1, 2, 2, 3]))
    assert mean_ap([found], [target]) == pytest.approx(50)
    assert np.isnan(mean_ap([found], [target._replace(boxes=target.boxes[:0], labels=target.labels[:0])]))


def test_pre_training_teaches_to_tell_patches_apart():
    net = CropNet(4, np.random.default_rng(0), 32, ((8, 2), (16, 2)), features=16, pool=4)
    log = pretrain(net, 60, np.random.default_rng(0), patches=300)
    first, last = (np.mean([row["class"] for row in part]) for part in (log[:10], log[-10:]))
    assert last < 0.8 * first and not net.training


def test_equal_generators_give_equal_trainings():
    drawn, states = drawn_images(4), []
    for _ in range(2):
        rng = np.random.default_rng(1)
        net = CropNet(4, rng, 32, ((8, 2), (8, 2)), features=8, pool=4)

        def losses(rng, net=net):
            images, _ = drawn.batch(rng)
            return {"size": (net(Tensor(np.stack(images)[:, :, :32, :32])) ** 2).sum()}

        train_steps(net, losses, 3, rng, lr=0.001)
        states.append(net.state_dict())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
