"""The trainings of the R-CNN family on drawn images: which weights each step moves, and that nothing else moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_cli_objects import draw_objects

from minidetect.autograd import Tensor
from minidetect.data.objects import ObjectDataset
from minidetect.detection.image_scale import ImageScale
from minidetect.models.rcnn import RCNN, CropNet, Windows
from minidetect.train import objects, rcnn
from minidetect.train.loop import Schedule
from minidetect.train.object_images import ObjectRecipe, TrainingImages, mirrored
from minidetect.train.objects import (
    all_proposals,
    new_faster_rcnn,
    train_fast_rcnn,
    train_faster_rcnn,
    train_in_four_steps,
    train_in_two_steps,
)
from minidetect.train.rcnn import train_rcnn

SHORT = ObjectRecipe(ImageScale(90, 150), schedule=Schedule(steps=3, lr=0.01, warm_up=1))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> ObjectDataset:
    return draw_objects(tmp_path_factory.mktemp("images") / "train", 6, seed=3)


def gradients(losses: dict[str, Tensor], model) -> set[str]:
    """The parts of a model that these losses send a gradient into."""
    for p in model.parameters():
        p.grad = None
    sum(losses.values(), start=Tensor(np.float32(0))).backward()
    return {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and np.any(p.grad)}


def test_what_each_of_the_four_steps_teaches(dataset, rng):
    """Faster R-CNN, section 3.2: in steps 3 and 4 nothing reaches the shared convolutions; joint training does all."""
    source = TrainingImages(dataset, SHORT)
    model = new_faster_rcnn(source, 2, rng)
    model.train()
    proposals = all_proposals(model, source)
    convolutions = len(model.backbone.table)
    batch = source.batch(rng)
    assert gradients(model.losses(*batch, rng), model) == {"backbone", "rpn", "head"}
    assert gradients(model.rpn_losses(*batch, rng), model) == {"backbone", "rpn"}
    assert gradients(model.rpn_losses(*batch, rng, frozen=convolutions), model) == {"rpn"}
    with_boxes = source.batch_with(proposals, rng)
    assert gradients(model.head_losses(*with_boxes, rng), model) == {"backbone", "head"}
    assert gradients(model.head_losses(*with_boxes, rng, frozen=convolutions), model) == {"head"}
    assert gradients(model.joint_losses(*with_boxes, rng), model) == {"backbone", "rpn", "head"}


def test_the_four_steps_end_with_the_detectors_convolutions(dataset, tmp_path):
    trained = train_in_four_steps(dataset, tmp_path, SHORT, seed=1, progress=False)
    step2, step3, step4 = (np.load(tmp_path / f"step{k}.npz") for k in (2, 3, 4))
    shared = [name for name in step2.files if name.startswith("backbone")]
    assert shared and all(np.array_equal(step2[name], step4[name]) for name in shared)
    head = [name for name in step2.files if name.startswith("head") and "weight" in name]
    assert all(np.array_equal(step2[name], step3[name]) for name in head)  # step 3 is about the proposals only
    assert not all(np.array_equal(step3[name], step4[name]) for name in head)
    state = trained.model.state_dict()
    assert all(np.array_equal(state[name], step4[name]) for name in shared + head)


def test_two_steps_share_the_first_with_four(dataset, tmp_path):
    """FaceCraft, section 5: the joint network goes on from the proposal network; all its parts move."""
    train_in_four_steps(dataset, tmp_path, SHORT, seed=1, progress=False)
    written = (tmp_path / "step1.npz").stat().st_mtime_ns
    trained = train_in_two_steps(dataset, tmp_path, SHORT, seed=1, progress=False)
    assert (tmp_path / "step1.npz").stat().st_mtime_ns == written
    first, state = np.load(tmp_path / "step1.npz"), trained.model.state_dict()
    alone = train_in_two_steps(dataset, tmp_path / "alone", SHORT, seed=1, progress=False).model.state_dict()
    for name in state:
        assert np.array_equal(state[name], alone[name])
        if name.endswith("weight"):
            assert not np.array_equal(state[name], first[name]), name


def test_what_each_phase_begins_with(dataset, tmp_path, monkeypatch):
    """Weights: step 2 as step 1 did, step 3 as 2 ended, the joint one as 1 ended. Proposals: of the network before."""
    begun, made, used = {}, [], {}
    real_phase, real_proposals = objects.train_phase, objects.all_proposals
    real_batch = TrainingImages.batch_with

    def phase(name, model, *args, **settings):
        begun[name] = {key: array.copy() for key, array in model.state_dict().items()}
        used[None] = name
        real_phase(name, model, *args, **settings)

    def proposals(model, source):
        made.append(real_proposals(model, source))
        return made[-1]

    def batch(self, boxes, rng):
        used[used[None]] = boxes
        return real_batch(self, boxes, rng)

    monkeypatch.setattr(objects, "train_phase", phase)
    monkeypatch.setattr(objects, "all_proposals", proposals)
    monkeypatch.setattr(TrainingImages, "batch_with", batch)
    train_in_four_steps(dataset, tmp_path, SHORT, progress=False)
    assert used["step2"] is made[0] and used["step4"] is made[1]
    train_in_two_steps(dataset, tmp_path, SHORT, progress=False)
    assert used["joint"] is made[2]
    ended = {name: np.load(tmp_path / f"{name}.npz") for name in ("step1", "step2", "step3")}
    for key in begun["step1"]:
        assert np.array_equal(begun["step2"][key], begun["step1"][key])
        assert np.array_equal(begun["step3"][key], ended["step2"][key])
        assert np.array_equal(begun["step4"][key], ended["step3"][key])
        assert np.array_equal(begun["joint"][key], ended["step1"][key])


@pytest.mark.parametrize("train", [train_faster_rcnn, train_in_four_steps, train_in_two_steps])
def test_a_run_goes_on_with_its_own_data_only(dataset, train, tmp_path):
    train(dataset, tmp_path, SHORT, progress=False)
    other = ObjectDataset(dataset.records[:4], dataset.classes)
    with pytest.raises(ValueError, match="was begun on other data"):
        train(other, tmp_path, SHORT, progress=False)
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        train(dataset, tmp_path, SHORT, seed=1, progress=False)
    with pytest.raises(ValueError, match="recipe was"):
        train(dataset, tmp_path, SHORT.shortened(2), progress=False)


@pytest.mark.parametrize("train", [train_fast_rcnn, train_rcnn])
def test_so_does_a_run_on_given_proposals(dataset, train, tmp_path):
    boxes = [np.array([[0, 0, 30, 30], [20, 10, 60, 50]], np.float32)] * len(dataset)
    train(dataset, boxes, tmp_path, SHORT, progress=False)
    renamed = ObjectDataset(dataset.records, ("cat", "dog"))
    with pytest.raises(ValueError, match="classes was"):
        train(renamed, boxes, tmp_path, SHORT, progress=False)
    moved = [replace(record, boxes=record.boxes + 1) for record in dataset.records]
    with pytest.raises(ValueError, match="annotations was"):
        train(ObjectDataset(moved, dataset.classes), boxes, tmp_path, SHORT, progress=False)


def test_proposals_are_flipped_with_their_image(dataset):
    recipe = ObjectRecipe(SHORT.scale, images_per_step=40, vertical_flips=True)
    source = TrainingImages(dataset, recipe)
    own = [example.target.boxes for example in source.examples]  # proposals that are the objects themselves
    images, targets, boxes = source.batch_with(own, np.random.default_rng(0))
    assert len(images) == 40
    for target, found in zip(targets, boxes, strict=True):
        np.testing.assert_allclose(found, target.boxes, atol=1e-4)
    assert len({image.tobytes() for image in images}) > 6  # more than there are files: some are flipped


def test_jittered_images_keep_their_objects_and_proposals(dataset):
    """Fast R-CNN, section 2.4: an image may be larger or smaller; its boxes and proposals go with it."""
    recipe = ObjectRecipe(SHORT.scale, images_per_step=30, scale_jitter=(0.5, 1.0, 1.4))
    source = TrainingImages(dataset, recipe)
    own = [example.target.boxes for example in source.examples]
    images, targets, boxes = source.batch_with(own, np.random.default_rng(0))
    assert len({image.shape for image in images}) == 3
    height = source.examples[0].image.shape[0]
    assert {image.shape[1] for image in images} == {round(height * factor) for factor in (0.5, 1.0, 1.4)}
    for image, target, found in zip(images, targets, boxes, strict=True):
        np.testing.assert_allclose(found, target.boxes, atol=1e-3)
        assert (found >= 0).all() and (found[:, 2] <= image.shape[2]).all() and (found[:, 3] <= image.shape[1]).all()
    as_they_are = TrainingImages(dataset, replace(recipe, scale_jitter=(1.0,)))
    assert {image.shape[1] for image in as_they_are.batch(np.random.default_rng(0))[0]} == {height}


class Seen(Exception):
    """Raised by a test's stand-in, with what it was given: the rest of the training does not matter."""


def given_to(monkeypatch, owner, name) -> None:
    def tell(*args, **settings):
        raise Seen(args)

    monkeypatch.setattr(owner, name, tell)


def test_given_proposals_are_seen_at_the_networks_size(dataset, tmp_path, monkeypatch):
    """The images are halved here, and so must the boxes be."""
    half = replace(SHORT, scale=ImageScale(45, 75))
    assert {half.scale.factor(record.size) for record in dataset.records} == {0.5}
    boxes = [np.array([[4, 8, 40 + i, 60]], np.float32) for i in range(len(dataset))]
    given_to(monkeypatch, TrainingImages, "batch_with")
    with pytest.raises(Seen) as seen:
        train_fast_rcnn(dataset, boxes, tmp_path / "fast", half, progress=False)
    for got, own in zip(seen.value.args[0][1], boxes, strict=True):
        np.testing.assert_allclose(got, own / 2)
    given_to(monkeypatch, rcnn, "label_windows")
    with pytest.raises(Seen) as seen:
        train_rcnn(dataset, boxes, tmp_path / "rcnn", half, progress=False)
    for got, own in zip(seen.value.args[0][0], boxes, strict=True):
        np.testing.assert_allclose(got, own / 2)


def test_fine_tuning_begins_with_the_weights_of_another_task(dataset, rng, tmp_path, monkeypatch):
    """R-CNN, section 2.3: only the classifier is new, one row for each of this task's classes and the background."""
    warm = CropNet(5, rng, side=32)
    before = {key: array.copy() for key, array in warm.state_dict().items()}
    given_to(monkeypatch, rcnn, "train_phase")
    boxes = [np.array([[0, 0, 30, 30]], np.float32)] * len(dataset)
    with pytest.raises(Seen) as seen:
        train_rcnn(dataset, boxes, tmp_path, SHORT, warm=warm, progress=False)
    begun = seen.value.args[0][1].state_dict()
    assert begun["logits.weight"].shape[0] == len(dataset.classes) + 1
    kept = [key for key in before if not key.startswith("logits")]
    assert len(kept) > 10 and all(np.array_equal(begun[key], before[key]) for key in kept)


def test_about_half_of_the_crops_are_mirrored(rng, monkeypatch):
    model = RCNN(2, rng, side=32)
    image = rng.normal(0, 1, (3, 60, 80)).astype(np.float32)
    boxes = np.array([[x, 5, x + 20, 40] for x in range(40)], np.float32)
    windows = Windows(np.zeros(40, np.int64), boxes, np.ones(40, np.int64))
    plain = model.window_crops([image], windows)
    given_to(monkeypatch, CropNet, "losses")
    for vertical in (False, True):
        with pytest.raises(Seen) as seen:
            rcnn.flipped_losses(model, [image], windows, vertical, np.random.default_rng(0))
        crops = seen.value.args[0][1]
        ways = {"as it was": plain, "mirrored": plain[..., ::-1]}
        if vertical:
            ways |= {"upside down": plain[:, :, ::-1], "both": plain[:, :, ::-1, ::-1]}
        counts = {name: sum(map(np.array_equal, crops, way)) for name, way in ways.items()}
        assert sum(counts.values()) == 40 and min(counts.values()) >= 3, counts


def test_mirrored_by_hand():
    box = np.array([[1, 2, 4, 8]], np.float32)
    assert mirrored(box, (10, 20), (1,)).tolist() == [[16, 2, 19, 8]]
    assert mirrored(box, (10, 20), (0,)).tolist() == [[1, 2, 4, 8]]  # 10 - 8 = 2
    assert mirrored(box, (10, 20), ()).tolist() == box.tolist()
    assert mirrored(mirrored(box, (11, 20), (0, 1)), (11, 20), (1, 0)).tolist() == box.tolist()


@pytest.mark.parametrize("train", [train_fast_rcnn, train_rcnn])
def test_detectors_on_given_proposals(dataset, train, tmp_path, rng):
    """They train, find something in their own images, and are the same twice."""
    proposals = []
    for record in dataset.records:
        near = np.repeat(record.boxes, 8, axis=0) + rng.normal(0, 3, (16, 4)).astype(np.float32)
        away = rng.uniform(0, 60, (20, 2))
        proposals.append(np.concatenate([near, np.concatenate([away, away + 25], axis=1)]).astype(np.float32))
    models = [train(dataset, proposals, tmp_path / name, SHORT, seed=2, progress=False) for name in "ab"]
    (first, colour), (second, _) = models
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert np.array_equal(a, b)
    source = TrainingImages(dataset, SHORT)
    assert np.array_equal(colour, source.mean_colour)
    found = first.detect([source.normalised(source.examples[0].image)], proposals[:1])[0]
    assert len(found.boxes) and (found.labels >= 1).all() and (found.labels <= 2).all()
