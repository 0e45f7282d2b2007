"""`minidetect.load(...).detect(...)`: every form of image, every unusable weights file, nothing lost in between."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minidetect
from minidetect import api
from minidetect.data.images import ImageError
from minidetect.models.facecraft import CVPR15_TABLES, JointCascade, SeparateCascade
from minidetect.nn.checkpoint import META, load_arrays, save_arrays

MIN_FACE = 40.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Untrained: it takes about half of all windows for faces."""
    path = tmp_path_factory.mktemp("weights") / "untrained.npz"
    untrained = SeparateCascade(np.random.default_rng(0), thresholds=(0.1, 0.1, 0.5))  # its scores are around 0.5
    api.save(untrained, path, {"recipe": "none", "seed": 0})
    return path


@pytest.fixture
def photo(rng) -> np.ndarray:
    return rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)


def edited(weights: Path, path: Path, change) -> Path:
    """A copy of a weights file, after `change(arrays, meta)`."""
    arrays, meta = load_arrays(weights)
    change(arrays, meta)
    save_arrays(path, arrays, meta)
    return path


# ------------------------------------------------------------------------------------------- detect


def test_every_form_of_image_gives_the_same(weights, photo, tmp_path):
    file = tmp_path / "photo.png"
    Image.fromarray(photo).save(file)
    detector = minidetect.load(str(weights))
    results = detector.detect([file, str(file), Image.fromarray(photo), photo], min_face=MIN_FACE)
    assert len(results) == 4 and len(results[0].boxes) > 0
    for found in results:
        np.testing.assert_array_equal(found.boxes, results[0].boxes)
        np.testing.assert_array_equal(found.scores, results[0].scores)
        assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64


def test_images_may_come_from_a_generator_or_a_stack(weights, photo):
    detector = api.load(weights)
    stack = np.stack([photo, photo[::-1]])
    one = detector.detect([photo], min_face=MIN_FACE)[0]
    assert detector.detect([], min_face=MIN_FACE) == []
    for images in (stack, (image for image in stack)):
        found = detector.detect(images, min_face=MIN_FACE)
        assert len(found) == 2
        np.testing.assert_array_equal(found[0].boxes, one.boxes)


@pytest.mark.parametrize("form", [str, Path, Image.fromarray, np.asarray, lambda photo: photo[..., 0]])
def test_a_single_image_without_a_list_is_a_type_error(weights, photo, form):
    """An array (H, W, 3) would otherwise be taken for H grey images of W x 3 pixels."""
    image = form("photo.jpg") if form in (str, Path) else form(photo)
    with pytest.raises(TypeError, match="list of images"):
        api.load(weights).detect(image)


def test_an_image_that_cannot_be_read_is_named(weights, tmp_path):
    (tmp_path / "note.jpg").write_text("not a picture")
    with pytest.raises(ImageError, match="note.jpg: not an image"):
        api.load(weights).detect([tmp_path / "note.jpg"])


def test_threshold_and_min_face(weights, photo):
    detector = api.load(weights)
    (every,), (few,) = (detector.detect([photo], min_face=MIN_FACE, threshold=t) for t in (0.0, 0.55))
    assert len(every.boxes) >= len(few.boxes) and (few.scores > 0.55).all()
    (none,) = detector.detect([photo], min_face=1000.0)
    assert none.boxes.shape == (0, 4) and none.scores.shape == (0,) and none.labels.shape == (0,)
    with pytest.raises(ValueError, match="min_face"):
        detector.detect([photo], min_face=float("nan"))


# ------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("kind", [SeparateCascade, JointCascade])
@pytest.mark.parametrize("tables", [None, CVPR15_TABLES], ids=["own tables", "CVPR15 tables"])
def test_a_model_comes_back_with_its_weights_settings_and_story(kind, tables, photo, tmp_path):
    settings = dict(
        thresholds=(0.2, 0.3, 0.51), nms_threshold=0.4, stage_nms=None, levels_per_octave=2, response_pool=0,
        max_proposals=50,
    )
    if tables is not None:
        settings["tables"] = tables
    model = kind(np.random.default_rng(7), **settings)
    model.deltas_std[:] = 0.1
    api.save(model, tmp_path / "model.npz", {"recipe": "facecraft", "score": "recall 0.5"})
    detector = api.load(tmp_path / "model.npz")
    assert type(detector.model) is kind
    assert detector.training == {"recipe": "facecraft", "score": "recall 0.5"}
    for name, value in settings.items():
        if name != "tables":
            assert getattr(detector.model, name) == value, name
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(detector.model.state_dict()[name], array)
    (expected,), (found,) = model.detect([photo], MIN_FACE, 0.0), detector.detect([photo], MIN_FACE, 0.0)
    assert len(expected.boxes) > 0
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_thorough_looks_at_more(weights, photo):
    fast, thorough = minidetect.load(weights), minidetect.load(weights, thorough=True)
    assert thorough.pipeline.second_look is None and fast.pipeline.second_look == fast.model.second_look
    looked = [d.pipeline.detect_with_report(photo, MIN_FACE, 0.0)[1] for d in (fast, thorough)]
    assert looked[0][0].boxes_out == looked[1][0].boxes_out  # x12 does the same
    assert looked[0][1].boxes_out <= looked[1][1].boxes_out


def test_repr_says_what_it_is(weights):
    text = repr(api.load(weights))
    assert "untrained.npz" in text and "SeparateCascade" in text and "parameters" in text


def test_a_name_is_looked_for_among_those_that_ship_first(weights, tmp_path, monkeypatch):
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    edited(weights, shipped / "facecraft.npz", lambda arrays, meta: meta.update(training={"score": "shipped"}))
    edited(weights, own / "facecraft", lambda arrays, meta: meta.update(training={"score": "own"}))
    monkeypatch.setattr(api, "WEIGHTS", shipped)
    monkeypatch.chdir(own)
    assert minidetect.load().training["score"] == "shipped"
    assert minidetect.load("./facecraft").training["score"] == "own"


def test_shipped_models_are_listed_by_name_with_their_card(weights, tmp_path, monkeypatch):
    for name in ("b", "a"):
        edited(weights, tmp_path / f"{name}.npz", lambda arrays, meta: meta["training"].update(score="0.9"))
    monkeypatch.setattr(api, "WEIGHTS", tmp_path)
    models = api.shipped_models()
    assert [(m.name, m.card.name, m.training["score"]) for m in models] == [("a", "a.md", "0.9"), ("b", "b.md", "0.9")]
    with pytest.raises(FileNotFoundError, match=r"no model 'c'.*\(a, b\)"):
        api.load("c")


def test_without_weights_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(api, "WEIGHTS", tmp_path)
    assert api.shipped_models() == []
    with pytest.raises(FileNotFoundError, match="none in this copy"):
        api.load("facecraft")


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda arrays, meta: meta.clear(), "not the weights of a model"),
        (lambda arrays, meta: meta.update(model="YOLO"), "'YOLO'"),
        (lambda arrays, meta: meta.update(model=["JointCascade"]), "not the weights"),
        (lambda arrays, meta: meta.pop("arguments"), "arguments"),
        (lambda arrays, meta: meta.update(arguments=[1, 2]), "SeparateCascade"),
        (lambda arrays, meta: meta["arguments"].update(colour="red"), "colour"),
        (lambda arrays, meta: meta["arguments"].update(tables=[]), "SeparateCascade"),
        (lambda arrays, meta: meta["arguments"].update(thresholds=None), "SeparateCascade"),
        (lambda arrays, meta: arrays.pop("x24.fc.bias"), r"missing x24\.fc\.bias"),
        (lambda arrays, meta: arrays.update(extra=np.zeros(3)), "unknown extra"),
        (lambda arrays, meta: arrays.update({"x24.fc.bias": np.zeros(3)}), r"x24\.fc\.bias has shape \(3,\)"),
        (lambda arrays, meta: arrays["x48.fc.weight"].fill(np.nan), r"x48\.fc\.weight holds values that are not fin"),
        (lambda arrays, meta: meta.update(model="JointCascade"), r"has shape .*JointCascade needs"),
    ],
)
def test_unusable_weights_are_refused_with_the_file_and_the_reason(weights, tmp_path, change, reason):
    path = edited(weights, tmp_path / "bad.npz", change)
    with pytest.raises(ValueError, match=reason) as error:
        api.load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_meta_data_that_are_no_object_are_refused(weights, tmp_path):
    arrays, _ = load_arrays(weights)
    np.savez(tmp_path / "list.npz", **arrays, **{META: np.array(json.dumps(["JointCascade"]))})
    with pytest.raises(ValueError, match="list.npz: not the weights"):
        api.load(tmp_path / "list.npz")


def test_nothing_in_a_weights_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "trap.npz").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "object.npz", **{META: np.array([Trap()], dtype=object)})
    for name in ("trap.npz", "object.npz"):
        with pytest.raises(ValueError, match=name):
            api.load(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_import_is_quick():
    """`import minidetect` and the command line's parser load no NumPy: `--threads` must come before it."""
    code = "import sys, minidetect.cli; minidetect.cli.parser().format_help(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"coder": "foo"}, "coder must be one of centre, corners, got 'foo'"),
        ({"thresholds": [0.1, 0.1]}, "thresholds must be three"),
        ({"thresholds": [0.1, "x", 0.1]}, r"thresholds\[1\] must be a number from 0 to 1"),
        ({"level_nms": 7}, "level_nms must be a number from 0 to 1, got 7"),
        ({"stage_nms": [0.5]}, "stage_nms two"),
        ({"levels_per_octave": 0}, "levels_per_octave must be a whole number of at least 1, got 0"),
        ({"max_proposals": 2.5}, "max_proposals must be a whole number"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_with_the_file(change, complaint, tmp_path):
    from minidetect.models.multi_output_cascade import MultiOutputCascade

    cascade, file = MultiOutputCascade(np.random.default_rng(0)), tmp_path / "odd.npz"
    for name, value in change.items():
        setattr(cascade, name, value)
    api.save(cascade, file, {})
    with pytest.raises(ValueError, match=complaint) as error:
        minidetect.load(file)
    assert str(file) in str(error.value)
