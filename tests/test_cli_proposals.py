"""R-CNN and Fast R-CNN from a folder to detections: proposals once, one kind of detector, options that fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command import run
from test_cli_objects import CLASSES, draw_objects

import minidetect
from minidetect.api_objects import ObjectDetector, save_objects
from minidetect.data.folders import read_objects
from minidetect.data.objects import ObjectDataset, load_record
from minidetect.data.proposals import load_proposals, save_proposals, searched_proposals
from minidetect.data.voc import write_voc
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.image_scale import ImageScale
from minidetect.detection.selective_search import search_at_scale, selective_search
from minidetect.detection.structures import Detections
from minidetect.kernels.iou import iou_matrix
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.mobilenet import MEAN_COLOUR, MobileNet
from minidetect.models.rcnn import RCNN, CropNet
from minidetect.models.roi_warped import WarpedFasterRCNN
from minidetect.models.surgery import fast_rcnn_from
from minidetect.recipes import run_recipe

SCALE = ImageScale(90, 150)
KINDS = ("fast-rcnn", "rcnn", "faster-rcnn")


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    dataset = draw_objects(folder / "JPEGImages", 10, seed=0)
    write_voc(ObjectDataset(dataset.records[:7], CLASSES), folder, "train")
    write_voc(ObjectDataset(dataset.records[7:], CLASSES), folder, "test")
    return folder


@pytest.fixture(scope="module")
def runs(voc, tmp_path_factory) -> dict[str, Path]:
    """Each recipe's folder after four steps."""
    root = tmp_path_factory.mktemp("runs")
    for name in KINDS:
        assert run_recipe(name, voc, root / name, steps=4, short_side=90) == [root / name / f"{name}.npz"]
    return {name: root / name for name in KINDS}


# ------------------------------------------------------------------ proposals


def test_a_search_at_another_size_finds_boxes_in_the_images_own_pixels(voc):
    """A square of 24 to 40 pixels, searched at twice the size, whose proposals are halved again."""
    record = read_objects(voc, "train").records[0]
    image = load_record(record)
    boxes = search_at_scale(image, ImageScale(180, 300), most=100)
    assert boxes.dtype == np.float32 and 0 < len(boxes) <= 100
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 120).all() and (boxes[:, [1, 3]] <= 90).all()
    assert (iou_matrix(record.boxes, boxes).max(axis=1) > 0.6).all()
    np.testing.assert_array_equal(search_at_scale(image, SCALE), selective_search(image))  # at its own size: itself


def test_proposals_are_searched_once(voc, tmp_path, monkeypatch):
    dataset, file = read_objects(voc, "train"), tmp_path / "proposals.npz"
    found = searched_proposals(dataset, voc, file, SCALE, progress=False)
    kept, meta = load_proposals(file)
    assert list(kept)[0] == "JPEGImages/000.png" and meta == {"short_side": 90, "longest": 150, "most": 2000}
    monkeypatch.setattr("minidetect.data.proposals.search_at_scale", lambda *_: pytest.fail("searched again"))
    again = searched_proposals(dataset, voc, file, SCALE, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    moved = tmp_path / "elsewhere"  # the folder may be moved: names are relative to it
    shutil.copytree(voc, moved)
    assert len(searched_proposals(read_objects(moved, "train"), moved, file, SCALE, progress=False)) == 7


def test_a_search_that_was_stopped_goes_on(voc, tmp_path, monkeypatch):
    dataset, file, searched = read_objects(voc, "train"), tmp_path / "proposals.npz", []
    half = {f"JPEGImages/{i:03}.png": np.float32([[i, 0, 40, 40]]) for i in range(4)}
    save_proposals(file, half, {"short_side": 90, "longest": 150, "most": 2000})

    def search(image, scale, most):
        searched.append(most)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return np.float32([[9, 9, 40, 40]])

    monkeypatch.setattr("minidetect.data.proposals.search_at_scale", search)
    monkeypatch.setattr("minidetect.data.proposals.SAVE_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        searched_proposals(dataset, voc, file, SCALE, progress=False)
    assert len(load_proposals(file)[0]) == 6
    found = searched_proposals(dataset, voc, file, SCALE, progress=False)
    assert [boxes[0, 0] for boxes in found] == [0, 1, 2, 3, 9, 9, 9] and len(searched) == 4


def test_proposals_of_something_else_are_refused(voc, tmp_path):
    dataset, file = read_objects(voc, "train"), tmp_path / "proposals.npz"
    save_proposals(file, {"x.png": np.zeros((0, 4))}, {"short_side": 90, "longest": 150, "most": 2000})
    with pytest.raises(ValueError, match="proposals.npz: holds 1 other images, such as x.png"):
        searched_proposals(dataset, voc, file, SCALE, progress=False)
    with pytest.raises(ValueError, match="proposals.npz: proposals of another search"):
        searched_proposals(dataset, voc, file, ImageScale(60, 100), progress=False)


# ------------------------------------------------------------------ from a folder to detections


@pytest.mark.parametrize("name", KINDS)
def test_from_a_folder_to_detections(name, voc, runs, tmp_path, capsys):
    weights, photo = runs[name] / f"{name}.npz", voc / "JPEGImages" / "008.png"
    detector = minidetect.load(weights)
    assert isinstance(detector, ObjectDetector) and detector.classes == CLASSES and detector.scale == SCALE
    assert detector.training == {"recipe": name, "seed": 0, "steps": 4}
    (found,) = detector.detect([photo])
    assert found.boxes.shape == (len(found.scores), 4) and set(found.labels.tolist()) <= {1, 2}
    proposals = detector.proposals(np.asarray(load_record(read_objects(voc, "test").records[0])))
    assert proposals.ndim == 2 and len(proposals) and proposals.dtype == np.float32
    done = run(capsys, "detect", photo, "--model", weights, "--json", tmp_path / "a.json", "--draw", tmp_path)
    assert done.code == 0 and "object" in done.out and (tmp_path / "008.png").exists()
    done = run(capsys, "evaluate", "objects", "--data", voc, "--model", weights, "--json", tmp_path / "b.json")
    figures = json.loads((tmp_path / "b.json").read_text())
    assert done.code == 0 and figures["images"] == 3 and 0 <= figures["mAP@0.5"] <= 1


@pytest.mark.parametrize("name", ["fast-rcnn", "rcnn"])
def test_a_finished_run_goes_on_and_another_one_is_refused(name, voc, runs, tmp_path, capsys):
    """The same bits, SVMs and regressions included; nothing with other classes or another size."""
    copy = tmp_path / "copy"
    shutil.copytree(runs[name], copy)
    command = ("train", name, "--data", voc, "--out", copy, "--steps", 4, "--resume", "--short-side")
    (copy / f"{name}.npz").unlink()
    done = run(capsys, *command, 90)
    assert done.code == 0 and done.err == [] and f"wrote {copy / name}.npz" in done.out
    before, after = (np.load(folder / f"{name}.npz") for folder in (runs[name], copy))
    assert before.files == after.files and all(np.array_equal(before[key], after[key]) for key in before.files)
    assert "which this is not" in run(capsys, *command, 80).err[0]
    facts = json.loads((copy / "data.json").read_text())
    assert facts["classes"] == list(CLASSES) and facts["objects"] == 14 and "mean_colour" in facts
    (copy / "data.json").write_text(json.dumps(facts | {"objects": 15}))
    assert "was begun on other data" in run(capsys, *command, 90).err[0]
    assert "no --control" in run(capsys, *command, 90, "--control").err[0]


@pytest.mark.parametrize("name", ["fast-rcnn", "rcnn"])
def test_check_nan_is_heard(name, voc, tmp_path, capsys, monkeypatch):
    """A network whose weights are not finite: the operation is named."""
    monkeypatch.setattr("minidetect.nn.layers.he_normal", lambda shape, rng: np.full(shape, np.nan, np.float32))
    done = run(capsys, "train", name, "--data", voc, "--out", tmp_path / "out", "--steps", 2, "--short-side", 90,
               "--check-nan")  # fmt: skip
    assert done.code == 2 and "the output of Conv2d is nan" in done.err[-1]


def test_the_bare_weights_of_a_phase_are_told_from_a_detector(runs):
    phases = [file for folder in runs.values() for file in folder.glob("*.npz")]
    phases = [file for file in phases if file.stem not in (*KINDS, "proposals")]
    assert len(phases) == 3
    for file in phases:
        with pytest.raises(ValueError, match="the bare weights of one phase of a training"):
            minidetect.load(file)
    with pytest.raises(ValueError, match="not the weights of a model of this library"):
        minidetect.load(runs["rcnn"] / "proposals.npz")


# ------------------------------------------------------------------ one kind of detector


def test_what_a_detector_sees_does_not_depend_on_the_photos_size(runs, voc):
    """Its proposals and detections are in the photo's pixels: four times as large in four times the photo."""
    detector = minidetect.load(runs["fast-rcnn"] / "fast-rcnn.npz")
    image = load_record(read_objects(voc, "test").records[0])
    large = np.repeat(np.repeat(image, 4, axis=0), 4, axis=1)
    small_boxes, large_boxes = detector.proposals(image), detector.proposals(large)
    assert abs(len(small_boxes) - len(large_boxes)) < len(small_boxes) / 2
    assert large_boxes.max() > 3 * small_boxes.max() and (large_boxes[:, 2] <= 480).all()
    (a,), (b,) = detector.detect([image]), detector.detect([large])
    assert len(a.boxes) and len(b.boxes) and b.boxes.max() <= 480


def test_no_proposal_no_object(runs):
    blank = np.full((90, 120, 3), 128, np.uint8)
    for name in ("fast-rcnn", "rcnn"):
        detector = minidetect.load(runs[name] / f"{name}.npz")
        detector.most_proposals = 0
        (found,) = detector.detect([blank])
        assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)


def test_scores_of_svms_and_of_a_softmax_have_their_own_middle(runs):
    likely = {name: minidetect.load(folder / f"{name}.npz").likely for name, folder in runs.items()}
    assert likely == {"fast-rcnn": 0.5, "rcnn": 0.0, "faster-rcnn": 0.5}
    softmax = minidetect.load(runs["rcnn"] / "rcnn.npz")
    softmax.model.scorer = "softmax"
    assert softmax.likely == 0.5


@pytest.mark.parametrize("kind", ["RCNN", "FastRCNN"])
def test_settings_and_another_trunk_are_saved_with_the_weights(kind, tmp_path, rng):
    """A MobileNet in place of the usual trunk, a pooling of 2, thresholds of one's own."""
    net = CropNet(2, rng, 48, features=16, pool=1, backbone=MobileNet(rng, blocks=4))
    if kind == "RCNN":
        model = RCNN(2, rng, net, mode="square", tap="fc6", nms_threshold=0.4)
        model.svm_bias[...] = 0
    else:
        model = fast_rcnn_from(net, 2, rng, nms_threshold=0.4)
    detector = ObjectDetector(model, ("a", "b"), MEAN_COLOUR, SCALE, most_proposals=33)
    save_objects(detector, tmp_path / "a.npz", {})
    again = minidetect.load(tmp_path / "a.npz")
    assert type(again.model).__name__ == kind and again.model.nms_threshold == 0.4 and again.most_proposals == 33
    if kind == "RCNN":
        assert (again.model.mode, again.model.tap, again.model.padding) == ("square", "fc6", model.padding)
    image = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for a, b in zip(detector.detect([image])[0][:3], again.detect([image])[0][:3], strict=True):
        assert np.array_equal(a, b)


# ------------------------------------------------------------------ options


def test_options_that_would_do_nothing_are_refused(voc, runs, tmp_path, capsys):
    photo, weights = voc / "JPEGImages" / "008.png", runs["faster-rcnn"] / "faster-rcnn.npz"
    objects = ("evaluate", "objects", "--data", voc, "--model", weights)
    for command, words in (
        (("detect", photo, "--model", weights, "--min-face", 24), "--min-face: for models of faces; "),
        (("detect", photo, "--model", weights, "--stages"), "--stages: for models of faces; "),
        (("detect", photo, "--model", weights, "--min-face", 30, "--stages"), "--min-face, --stages: for"),
        (("detect", photo, "--model", weights, "--thorough"), "thorough (--thorough) is for models of faces"),
        ((*objects, "--min-face", 20), "--min-face: not for `evaluate objects`"),
        ((*objects, "--thorough"), "--thorough: not for `evaluate objects`"),
        ((*objects, "--plot", tmp_path / "a.png"), "--plot: not for `evaluate objects`"),
        (("evaluate", "fddb", "--data", voc, "--split", "val"), "--split: only for `evaluate objects`"),
        (("evaluate", "fddb", "--data", voc, "--detections", photo, "--thorough"), "--thorough: not with --detections"),
    ):
        done = run(capsys, *command)
        assert done.code == 2 and done.out == "" and len(done.err) == 1 and words in done.err[0], done.err
    with pytest.raises(ValueError, match="knows disc, square"):
        minidetect.load(weights, thorough=True)


def test_what_a_file_cannot_describe_is_not_saved(rng, tmp_path):
    grid, trunk = AnchorGrid(4, (20.0,)), ((8, 2), (8, 2))
    warped = WarpedFasterRCNN(2, rng, grid, Backbone(rng, trunk), features=16)
    thin = FastRCNN(2, rng, Backbone(rng, trunk), features=16)
    thin.head = thin.head.truncated(4, 4)
    for model, word in ((warped, "a WarpedFasterRCNN cannot"), (thin, "truncated layers cannot")):
        detector = ObjectDetector(model, ("disc", "square"), np.zeros(3, np.float32), ImageScale(60, 100))
        with pytest.raises(ValueError, match=word):
            save_objects(detector, tmp_path / "model.npz", {})
    assert not list(tmp_path.iterdir())


def test_proposals_are_scaled_to_what_the_network_sees(rng):
    """A photo of twice the network's size: its proposals are halved on the way in, the detections doubled back."""
    detector = ObjectDetector(
        FastRCNN(2, rng, Backbone(rng, ((8, 2), (8, 2))), features=16), ("disc", "square"), np.full(3, 110, np.float32),
        ImageScale(60, 100),
    )  # fmt: skip
    seen = []

    class Told:
        def detect(self, images, proposals):
            seen.append((images[0].shape, proposals[0]))
            return [Detections(proposals[0][:1], np.ones(1, np.float32), np.ones(1, np.int64))]

    detector.fused = Told()
    image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    image[20:90, 30:100] = 250
    own = detector.proposals(image)
    found = detector.detect_one(image)
    ((shape, boxes),) = seen
    assert shape == (3, 60, 80) and len(boxes) > 1
    np.testing.assert_allclose(boxes, own / 2, atol=1e-4)
    np.testing.assert_allclose(found.boxes, own[:1], atol=1e-4)
