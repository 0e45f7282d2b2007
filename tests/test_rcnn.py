"""R-CNN: windows, features, SVMs and box regression, and that each part learns on drawn scenes."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.data.synthetic import draw_patches
from minidetect.data.synthetic.camera import draw_background, sensor
from minidetect.data.synthetic.placing import head_box, head_matrix, paste_sprite
from minidetect.data.synthetic.sprites import CLASSES, sprite_bank
from minidetect.detection.image_scale import normalise
from minidetect.detection.structures import Target, make_target
from minidetect.detection.svm import LinearSVM
from minidetect.detection.warps import warp
from minidetect.evaluate.average_precision import evaluate_detections
from minidetect.kernels.iou import iou_matrix
from minidetect.models.rcnn import RCNN, TAPS, CropNet, Windows, label_windows, sample_windows
from minidetect.models.rcnn_fit import fit_boxes, fit_svms, is_negative
from minidetect.models.regions import (
    STRATEGIES,
    fit_qualities,
    mask_boxes,
    mask_iou,
    predict_qualities,
    region_features,
    region_qualities,
)
from minidetect.models.unit_view import receptive_field, unit_field, unit_of, view_units
from minidetect.nn.optim import SGD, clip_gradients

MEAN = np.full(3, 117, np.float32)
SIZE = 96


def rng_of(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def small_net(rng: np.random.Generator, num_classes: int = 4) -> CropNet:
    return CropNet(num_classes, rng, side=32, table=((8, 2), (16, 2), (16, 1)), features=32)


def drawn_scene(index: int, bank: int = 0) -> tuple[np.ndarray, Target]:
    """A picture (3, SIZE, SIZE), normalised, with one object of each of two classes side by side."""
    rng = rng_of(7, index)
    picture, boxes, labels = draw_background((SIZE, SIZE), rng, 4.0), [], rng.permutation(4)[:2] + 1
    for k, label in enumerate(labels):
        sprites = sprite_bank(CLASSES[label - 1], bank)
        sprite, height, tilt = sprites[rng.integers(len(sprites))], rng.uniform(32, 42), rng.normal(0, 0.1)
        centre = np.array([24 + 48 * k, rng.uniform(22, SIZE - 22)])
        paste_sprite(picture, sprite, sprite.level_for(height), head_matrix(centre, height, tilt), gain=1.0)
        boxes.append(np.clip(head_box(sprite.half, centre, height, tilt), 0, SIZE))
    return normalise(sensor(picture, rng, (1.0, 4.0)), MEAN), make_target(np.array(boxes), labels)


def proposals_of(target: Target, rng: np.random.Generator) -> np.ndarray:
    """Eight boxes around each object, and sixty anywhere."""
    around = np.repeat(target.boxes, 8, axis=0)
    size = around[:, 2:] - around[:, :2]
    centre = (around[:, 2:] + around[:, :2]) / 2 + rng.uniform(-0.2, 0.2, size.shape) * size
    size = np.concatenate([size * np.exp(rng.uniform(-0.3, 0.3, size.shape)), rng.uniform(14, 60, (60, 2))])
    centre = np.concatenate([centre, rng.uniform(8, SIZE - 8, (60, 2))])
    return np.clip(np.concatenate([centre - size / 2, centre + size / 2], axis=1), 0, SIZE).astype(np.float32)


# ------------------------------------------------------------------ windows


def test_windows_by_hand():
    """One object of class 3. IoU 1/2 is an example of it, 0.4 is background, and the object itself joins."""
    target = make_target([[0, 0, 10, 10]], [3], ignore=[[50, 50, 70, 70]])
    proposals = np.array([[0, 0, 10, 5], [0, 0, 10, 4], [52, 52, 60, 60], [30, 30, 30, 40], [80, 80, 90, 90]])
    windows = label_windows([proposals, np.zeros((0, 4))], [target, make_target([])])
    assert windows.labels.tolist() == [3, 0, 0, 3]  # what lies in the ignore region or has no area is left out
    assert windows.image.tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(windows.boxes[-1], [0, 0, 10, 10])
    assert windows.boxes.dtype == np.float32
    assert len(label_windows([], []).labels) == 0


def test_a_mini_batch_has_32_positives_and_96_of_background():
    windows = Windows(np.arange(1000), np.zeros((1000, 4), np.float32), np.where(np.arange(1000) < 200, 2, 0))
    batch = sample_windows(windows, rng_of(0))
    assert (batch.labels == 2).sum() == 32 and (batch.labels == 0).sum() == 96
    assert len(np.unique(batch.image)) == 128
    few = Windows(*(part[195:] for part in windows))
    assert (sample_windows(few, rng_of(0)).labels == 2).sum() == 5


def test_what_is_negative_for_an_svm():
    boxes = np.array([[0, 0, 10, 3], [0, 0, 10, 2], [20, 20, 30, 30]], np.float32)  # IoU 0.3, 0.2, 0
    objects = np.array([[0, 0, 10, 10]], np.float32)
    assert is_negative(boxes, objects, 0.3).tolist() == [False, True, True]
    assert is_negative(boxes, objects, 0.0).tolist() == [False, False, True]
    assert is_negative(boxes, objects[:0], 0.3).all() and is_negative(boxes[:0], objects, 0.3).shape == (0,)


# ------------------------------------------------------------------ features


def test_taps_are_the_layers_of_the_network():
    rng = rng_of(0)
    model = RCNN(4, rng, small_net(rng))
    image, target = drawn_scene(0)
    boxes = proposals_of(target, rng)
    taps = model.taps(image, boxes, (*TAPS, "logits"))
    assert {name: taps[name].shape for name in taps} == {
        "pool5": (76, 256), "fc6": (76, 32), "fc7": (76, 32), "logits": (76, 5),
    }  # fmt: skip
    fc6 = np.maximum(taps["pool5"] @ model.net.fc6.weight.data.T + model.net.fc6.bias.data, 0)
    np.testing.assert_allclose(taps["fc6"], fc6, atol=1e-5)
    np.testing.assert_allclose(model.forward(image, boxes).data, taps["logits"], atol=1e-5)
    np.testing.assert_array_equal(model.features(image, boxes, "fc6"), taps["fc6"])
    assert model.features(image, boxes[:0]).shape == (0, 32)


def test_batches_and_training_mode_change_no_feature():
    """More boxes than one batch; batch norm must keep to its running averages, whatever the model was doing."""
    rng = rng_of(0)
    model = RCNN(4, rng, small_net(rng))
    image, target = drawn_scene(0)
    boxes = np.concatenate([proposals_of(target, rng)] * 3)
    expected = model.features(image, boxes[:5])
    before = model.state_dict()
    model.train()
    np.testing.assert_allclose(model.features(image, boxes)[:5], expected, atol=1e-6)
    assert model.net.training and model.net.backbone.training
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_paper_s_padding_and_the_mean_colour():
    rng = rng_of(0)
    model = RCNN(4, rng, small_net(rng))
    assert model.padding == pytest.approx(32 * 16 / 227)
    crop = model.crops(np.ones((3, 20, 20), np.float32), np.array([[-20, 0, 20, 20]], np.float32))[0]
    assert (crop[:, 12:20, :12] == 0).all() and (crop[:, 12:20, 20:28] == 1).all()


def test_a_new_classifier_keeps_the_rest():
    net = small_net(rng_of(0))
    fc7, old = net.fc7.weight, net.logits.weight
    net.replace_classifier(2, rng_of(1))
    assert net.logits.weight.shape == (3, 32) and net.logits.weight is not old and net.fc7.weight is fc7
    assert RCNN(2, rng_of(0), net).num_classes == 2


def test_bad_settings():
    with pytest.raises(ValueError, match="3 classes, the network has 4"):
        RCNN(3, rng_of(0), small_net(rng_of(0)))
    with pytest.raises(ValueError, match="conv4"):
        RCNN(4, rng_of(0), small_net(rng_of(0)), tap="conv4")
    with pytest.raises(ValueError, match="too small"):
        CropNet(4, rng_of(0), side=8)
    image, target = drawn_scene(0)
    with pytest.raises(ValueError, match="fit_svms first"):
        RCNN(4, rng_of(0), small_net(rng_of(0))).detect([image], [target.boxes])


# ------------------------------------------------------------------ it learns


def train(net: CropNet, draw, steps: int, lr: float) -> list[float]:
    optimiser, curve = SGD(net, lr), []
    net.train()
    for step in range(steps):
        optimiser.lr = lr if step < 0.7 * steps else lr / 10
        optimiser.zero_grad()
        loss = draw()["class"]
        loss.backward()
        clip_gradients(net.parameters(), 5.0)
        optimiser.step()
        curve.append(loss.item())
    net.train(False)
    return curve


class Trained:
    """A small R-CNN through all its stages, and what was seen on the way."""

    def __init__(self) -> None:
        rng = rng_of(0)
        scenes, held_out = [drawn_scene(i) for i in range(24)], [drawn_scene(1000 + i, bank=777) for i in range(16)]
        self.images, self.targets = zip(*scenes, strict=True)
        self.test_images, self.test_targets = zip(*held_out, strict=True)
        self.proposals = [proposals_of(target, rng) for target in self.targets]
        self.test_proposals = [proposals_of(target, rng) for target in self.test_targets]
        net = small_net(rng)
        patches, labels = draw_patches(400, net.side)
        patches = ((patches.transpose(0, 3, 1, 2) - MEAN[:, None, None]) / 64).astype(np.float32)

        def pre_training():
            rows = rng.integers(len(labels), size=64)
            return net.losses(patches[rows], labels[rows])

        self.pre_training = train(net, pre_training, 50, 0.03)
        net.replace_classifier(4, rng)
        self.model = RCNN(4, rng, net)
        windows = label_windows(self.proposals, self.targets)
        self.fine_tuning = train(
            net, lambda: self.model.window_losses(self.images, sample_windows(windows, rng)), 40, 0.02
        )
        data = (self.images, self.targets, self.proposals, rng)
        self.miners = fit_svms(self.model, *data, svm=LinearSVM(c=0.01), retrain_after=300)
        self.num_pairs = fit_boxes(self.model, *data)

    def mean_ap(self, model: RCNN, iou: float = 0.5) -> float:
        found = model.detect(self.test_images, self.test_proposals)
        return float(np.mean([evaluate_detections(found, self.test_targets, iou, label=k).ap for k in range(1, 5)]))


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


def test_both_losses_fall(trained):
    """From ln 5 = 1.61, what a network says that knows nothing."""
    for curve in (trained.pre_training, trained.fine_tuning):
        assert curve[0] > 1.2
        assert np.mean(curve[-5:]) < 0.5 * curve[0]


def test_svms_find_objects_on_pictures_not_seen(trained):
    """Of 76 proposals 16 lie near one of two objects; scores by chance would give an AP of about 0.05."""
    model = trained.model
    ap = trained.mean_ap(model)
    weight = model.svm_weight.copy()
    try:
        model.svm_weight[...] = rng_of(1).normal(0, weight.std(), weight.shape)
        chance = trained.mean_ap(model)
    finally:
        model.svm_weight[...] = weight
    assert ap > 0.4
    assert chance < ap / 2


def test_mining_keeps_a_part(trained):
    for miner in trained.miners:
        assert 2 <= miner.num_trainings
        assert 0 < len(miner.negatives) < sum(len(found) for found in trained.proposals) / 2
        assert miner.svm.score(miner.positives).mean() > miner.svm.score(miner.negatives).mean()


def test_box_regression_moves_boxes_towards_objects(trained):
    """On proposals near the objects of pictures not seen, each with its own class's regression."""
    before, after = [], []
    for image, target, found in zip(
        trained.test_images, trained.test_targets, trained.test_proposals, strict=True
    ):
        near = found[iou_matrix(found, target.boxes).max(axis=1) > 0.5]
        best = iou_matrix(near, target.boxes).argmax(axis=1)
        moved = trained.model.score(image, near).boxes[np.arange(len(near)), target.labels[best] - 1]
        for box, better, gt in zip(near, moved, target.boxes[best], strict=True):
            before.append(iou_matrix(box[None], gt[None])[0, 0])
            after.append(iou_matrix(better[None], gt[None])[0, 0])
    assert trained.num_pairs > 100
    assert np.mean(after) > np.mean(before) + 0.02


def test_the_softmax_scores_too_and_options_hold(trained):
    model = RCNN(4, rng_of(0), trained.model.net, scorer="softmax", regress=False)
    assert trained.mean_ap(model) > 0.4
    image, boxes = trained.test_images[0], trained.test_proposals[0]
    scored = model.score(image, boxes)
    assert scored.boxes.shape == (76, 4, 4) and scored.scores.shape == (76, 4)
    np.testing.assert_array_equal(scored.boxes[:, 2], boxes)
    assert (scored.scores.sum(axis=1) <= 1 + 1e-6).all()


def test_state_dict_carries_svms_and_regressions(trained):
    again = RCNN(4, rng_of(5), small_net(rng_of(5)))
    again.load_state_dict(trained.model.state_dict())
    images, proposals = trained.test_images[:2], trained.test_proposals[:2]
    expected, found = trained.model.detect(images, proposals), again.detect(images, proposals)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_images_without_proposals_and_boxes_without_area(trained):
    flat = np.array([[5, 5, 5, 20], [np.nan, 0, 1, 1]], np.float32)
    for found in trained.model.detect(trained.test_images[:2], [np.zeros((0, 4), np.float32), flat]):
        assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)
    boxes = np.concatenate([flat, trained.test_proposals[0]])
    with_flat, without = (trained.model.detect(trained.test_images[:1], [b])[0] for b in (boxes, boxes[2:]))
    np.testing.assert_array_equal(with_flat.boxes, without.boxes)


def test_a_class_without_objects_is_never_found():
    rng = rng_of(0)
    model = RCNN(4, rng, small_net(rng))
    scenes = [drawn_scene(i) for i in range(3)]
    targets = [make_target(target.boxes, np.array([1, 2])) for _, target in scenes]
    images, proposals = [image for image, _ in scenes], [proposals_of(target, rng) for target in targets]
    miners = fit_svms(model, images, targets, proposals, rng)
    assert len(miners[2].positives) == 0 and model.svm_bias[2] == np.float32(-1e9)
    assert all((found.labels <= 2).all() for found in model.detect(images, proposals))
    losses = model.losses(images, targets, proposals, rng)
    assert np.isfinite(losses["class"].item())


# ------------------------------------------------------------------ what a unit sees


def test_receptive_field_of_the_paper_s_network():
    """R-CNN, section 3.1: a unit of AlexNet's pool5 sees 195 x 195 pixels; neighbours are 32 apart."""
    alex_net = [(11, 4, 0), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0)]
    field = receptive_field(alex_net)
    assert (field.size, field.stride) == (195, 32)
    assert receptive_field([]) == (1, 1, 0)
    assert receptive_field([(3, 2, 1), (3, 1, 1)]) == (7, 2, -3)  # 3 + 2 * 2; -1 and another -1 of stride 2


def test_a_unit_sees_its_field_and_nothing_else():
    """Changing the crop outside of the field leaves the unit as it is; inside, some change reaches it."""
    rng = rng_of(0)
    model = RCNN(4, rng, CropNet(4, rng, side=64, table=((8, 2), (8, 2)), features=8))
    unit = unit_of(model, 3, 2, 5)
    x1, y1, x2, y2 = unit_field(model, unit).astype(int)
    assert (x1, y1, x2, y2) == (37, 13, 48, 24)  # 11 pixels, every 8, from -3
    crop = rng.standard_normal((1, 3, 64, 64)).astype(np.float32)
    value = model.crop_taps(crop)["pool5"][0, unit]
    outside = rng.standard_normal(crop.shape).astype(np.float32)
    outside[:, :, y1:y2, x1:x2] = crop[:, :, y1:y2, x1:x2]
    assert model.crop_taps(outside)["pool5"][0, unit] == pytest.approx(value, abs=1e-6)
    inside = np.where(outside == crop, 10 * crop, crop)
    assert abs(model.crop_taps(inside)["pool5"][0, unit] - value) > 1e-3


def test_the_regions_that_excite_a_unit(trained):
    model, images, proposals = trained.model, trained.images[:6], trained.proposals[:6]
    pool5 = np.concatenate([model.features(i, p, "pool5") for i, p in zip(images, proposals, strict=True)])
    units = [int(pool5.sum(axis=0).argmax()), int(np.flatnonzero((pool5 > 0).any(axis=0))[0])]
    views = view_units(model, images, proposals, units, top=5)
    for unit, view in zip(units, views, strict=True):
        assert view.activations[0] == pytest.approx(pool5[:, unit].max(), rel=1e-5)
        assert (np.diff(view.activations) <= 0).all() and len(view.boxes) <= 5
        for i in np.unique(view.image):
            own = view.boxes[view.image == i]
            assert (iou_matrix(own, own) - np.eye(len(own))).max() <= 0.3
        for i, box, value, crop in zip(view.image, view.boxes, view.activations, view.crops, strict=True):
            assert model.features(images[i], box[None], "pool5")[0, unit] == pytest.approx(value, rel=1e-4)
            np.testing.assert_array_equal(crop, model.crops(images[i], box[None])[0])


def test_units_without_regions():
    rng = rng_of(0)
    model = RCNN(4, rng, small_net(rng))
    (view,) = view_units(model, [drawn_scene(0)[0]], [np.zeros((0, 4), np.float32)], [3])
    assert view.boxes.shape == (0, 4) and view.crops.shape == (0, 3, 32, 32)
    with pytest.raises(ValueError, match="0 to 255"):
        view_units(model, [], [], [256])


# ------------------------------------------------------------------ regions with a mask


def ring_and_disc(size: int = 40) -> np.ndarray:
    """Two masks with the same box: what lies farther than 12 pixels from the middle, and what doesn't, of a disc."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y)
    return np.stack([(radius <= 18) & (radius > 12), radius <= 18])


def test_boxes_and_overlaps_of_masks():
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:7], masks[1, 2:4, 2:7] = True, True
    np.testing.assert_array_equal(mask_boxes(masks), [[2, 1, 7, 3], [2, 2, 7, 4]])
    np.testing.assert_allclose(mask_iou(masks, masks), [[1, 1 / 3], [1 / 3, 1]])
    np.testing.assert_allclose(region_qualities(masks, masks, np.array([2, 1]), 3), [[1 / 3, 1, 0], [1, 1 / 3, 0]])
    assert mask_iou(masks[:0], masks).shape == (0, 2) and mask_boxes(masks[:0]).shape == (0, 4)
    assert region_qualities(masks, masks[:0], np.zeros(0, np.int64), 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="masks\\[1\\]"):
        mask_boxes(np.stack([masks[0], np.zeros((6, 8), bool)]))


def test_features_of_regions(trained):
    """Two masks with one box: "full" cannot tell them apart, "fg" can, and "full+fg" is both."""
    model, image, masks = trained.model, trained.images[0][:, :40, :40], ring_and_disc()
    found = {strategy: region_features(model, image, masks, "fc6", strategy) for strategy in STRATEGIES}
    np.testing.assert_array_equal(found["full"][0], found["full"][1])
    assert np.abs(found["fg"][0] - found["fg"][1]).max() > 0.01
    np.testing.assert_array_equal(found["full+fg"], np.concatenate([found["full"], found["fg"]], axis=1))
    box = mask_boxes(masks)
    np.testing.assert_array_equal(found["full"], model.features(image, box, "fc6"))
    masked = warp((image * masks[0]).transpose(1, 2, 0), box[:1], 32, padding=model.padding)
    np.testing.assert_allclose(found["fg"][0], model.crop_taps(masked)["fc6"][0], atol=1e-5)
    assert region_features(model, image, masks[:0]).shape == (0, 64)
    with pytest.raises(ValueError, match="bg"):
        region_features(model, image, masks, strategy="bg")
    with pytest.raises(ValueError, match="\\(N, 40, 40\\)"):
        region_features(model, image, masks[:, 1:])


def test_the_foreground_tells_shapes_apart_where_the_rectangle_cannot(trained):
    """The quality of rings and discs for "disc", learned from features: R-CNN, Table 5 in miniature."""
    model, masks = trained.model, ring_and_disc()
    qualities = region_qualities(masks, masks[1:], np.array([1]), 1)
    errors = {}
    for strategy in STRATEGIES:
        rows = [region_features(model, image[:, :40, :40], masks, "fc6", strategy) for image in trained.images]
        features = np.concatenate(rows)
        features *= 20 / np.linalg.norm(features, axis=1).mean()
        wanted = np.tile(qualities, (len(trained.images), 1))
        weight = fit_qualities(features[:32], wanted[:32], 10.0)
        errors[strategy] = np.abs(predict_qualities(features[32:], weight) - wanted[32:]).mean()
    assert errors["fg"] < 0.8 * errors["full"]
    assert errors["full+fg"] < 0.8 * errors["full"]
