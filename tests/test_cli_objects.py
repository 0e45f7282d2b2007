"""A folder of one's own, in each format: `anchors`, `train faster-rcnn`, `detect`, `evaluate objects`; its faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run
from PIL import Image

import minidetect
from minidetect.api_objects import ObjectDetector, save_objects
from minidetect.data.coco import write_coco
from minidetect.data.folders import read_objects
from minidetect.data.objects import ObjectDataset, ObjectRecord
from minidetect.data.voc import write_voc
from minidetect.detection.structures import make_target
from minidetect.nn.checkpoint import load_arrays, save_arrays
from minidetect.recipes import run_recipe, settings_of
from minidetect.train.loop import Schedule
from minidetect.train.object_images import ObjectRecipe, anchor_sides, flipped, load_examples
from minidetect.train.objects import train_faster_rcnn

CLASSES = ("disc", "square")


def draw_objects(folder: Path, num: int, seed: int) -> ObjectDataset:
    """Grey pictures of (90, 120) with a red square or a blue disc on each half; `folder` receives the files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    records = []
    y, x = np.mgrid[:90, :120] + 0.5
    for i in range(num):
        image = rng.integers(90, 130, (90, 120, 3), dtype=np.uint8)
        boxes, labels = [], []
        for left in (0, 60):
            side, label = int(rng.integers(24, 40)), int(rng.integers(1, 3))
            x1, y1 = left + int(rng.integers(0, 60 - side)), int(rng.integers(0, 90 - side))
            inside = (x1 < x) & (x < x1 + side) & (y1 < y) & (y < y1 + side)
            if label == 1:
                inside &= (x - x1 - side / 2) ** 2 + (y - y1 - side / 2) ** 2 < (side / 2) ** 2
            image[inside] = (30, 40, 220) if label == 1 else (220, 40, 30)
            boxes.append([x1, y1, x1 + side, y1 + side])
            labels.append(label)
        path = folder / f"{i:03}.png"
        Image.fromarray(image).save(path)
        boxes, labels = np.array(boxes, np.float32), np.array(labels, np.int64)
        areas = ((boxes[:, 2] - boxes[:, 0]) ** 2).astype(np.float64)
        records.append(ObjectRecord(path, (90, 120), boxes, labels, np.zeros(2, bool), areas))
    return ObjectDataset(records, CLASSES)


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    train = draw_objects(folder / "JPEGImages", 12, seed=0)
    write_voc(ObjectDataset(train.records[:8], CLASSES), folder, "train")
    write_voc(ObjectDataset(train.records[8:], CLASSES), folder, "test")
    return folder


@pytest.fixture(scope="module")
def trained(voc, tmp_path_factory) -> Path:
    """The weights of three steps."""
    out = tmp_path_factory.mktemp("run") / "out"
    run_recipe("faster-rcnn", voc, out, steps=3, short_side=90)
    return out / "faster-rcnn.npz"


def same(a: ObjectDataset, b: ObjectDataset) -> bool:
    pairs = zip(a.records, b.records, strict=True)
    return a.classes == b.classes and all(np.allclose(p.boxes, q.boxes, atol=0.01) for p, q in pairs)


def test_the_format_is_known_by_what_lies_in_the_folder(voc, tmp_path):
    train = read_objects(voc, "train")
    assert train.classes == CLASSES and len(train) == 8
    (tmp_path / "coco").mkdir()
    write_coco(train, tmp_path / "coco" / "train.json", voc / "JPEGImages")
    assert same(read_objects(tmp_path / "coco", "train"), train)
    yolo = tmp_path / "yolo"
    for part in ("images/train", "labels/train"):
        (yolo / part).mkdir(parents=True)
    (yolo / "classes.txt").write_text("disc\nsquare\n")
    rows = ["image,w,h,class,xmin,ymin,xmax,ymax"]
    for record in train.records:
        (yolo / "images/train" / record.path.name).write_bytes(record.path.read_bytes())
        lines = []
        for (x1, y1, x2, y2), label in zip(record.boxes, record.labels, strict=True):
            lines.append(f"{label - 1} {(x1 + x2) / 240} {(y1 + y2) / 180} {(x2 - x1) / 120} {(y2 - y1) / 90}")
            rows.append(f"train/{record.path.name},120,90,{CLASSES[label - 1]},{x1},{y1},{x2},{y2}")
        (yolo / "labels/train" / record.path.with_suffix(".txt").name).write_text("\n".join(lines))
    assert same(read_objects(yolo, "train"), train)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "boxes.csv").write_text("\n".join(rows))
    assert same(read_objects(tmp_path / "table", "train"), train)
    with pytest.raises(FileNotFoundError, match="neither VOC's Annotations/, nor YOLO's"):
        read_objects(tmp_path, "train")
    with pytest.raises(ValueError, match="its classes are"):
        read_objects(tmp_path / "coco", "train", ("cat", "dog"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("class,", "kind,", "1: the header lacks the columns class"),
        (",disc,", ",cat,", "class 'cat' is none of disc, square"),
        ("120,90", "120,many", "column h must be a number, found 'many'"),
        ("120,90", "120,inf", "the image's height must be a whole number of pixels"),
        ("train/a.png", "", "nothing in the columns image"),
        (",30,40", ",30", "nothing in the columns ymax"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(tmp_path, old, new, words):
    text = "image,w,h,class,xmin,ymin,xmax,ymax\ntrain/a.png,120,90,disc,1,2,30,40\n"
    (tmp_path / "boxes.csv").write_text(text.replace(old, new))
    with pytest.raises(ValueError, match="boxes.csv:") as error:
        read_objects(tmp_path, "train", CLASSES)
    assert words in str(error.value)


def test_anchors(voc, capsys):
    done = run(capsys, "anchors", "--data", voc, "--short-side", 90, "--sides", 30)
    assert done.code == 0 and "anchors of sides 30" in done.out
    assert "medium" in done.out and " 16 " in done.out.splitlines()[-1]  # 8 images of two objects


def test_from_a_folder_to_detections(voc, trained, tmp_path, capsys):
    detector = minidetect.load(trained)
    assert isinstance(detector, ObjectDetector) and detector.classes == CLASSES
    assert detector.scale == (90, 150) and detector.training["steps"] == 3
    photo = voc / "JPEGImages" / "008.png"
    write = ("--json", tmp_path / "a.json", "--draw", tmp_path)
    done = run(capsys, "detect", photo, "--model", trained, "--threshold", 0, *write)
    assert done.code == 0 and "object" in done.out and (tmp_path / "008.png").exists()
    entries = json.loads((tmp_path / "a.json").read_text())[0]["detections"]
    assert entries and {entry["label"] for entry in entries} <= set(CLASSES)
    done = run(capsys, "evaluate", "objects", "--data", voc, "--model", trained, "--json", tmp_path / "b.json")
    figures = json.loads((tmp_path / "b.json").read_text())
    assert done.code == 0 and figures["images"] == 4 and figures["objects"] == 8
    assert 0 <= figures["mAP@0.5"] <= 1 and {"AP@0.5 disc", "COCO AP", "COCO AR 100"} < set(figures)


def test_a_finished_run_is_continued_and_another_one_refused(voc, trained, capsys):
    again = ("train", "faster-rcnn", "--data", voc, "--out", trained.parent, "--steps", 3)
    before = trained.read_bytes()
    assert run(capsys, *again, "--short-side", 90, "--resume").code == 0
    assert trained.read_bytes() == before
    assert "not empty" in run(capsys, *again, "--short-side", 90).err[0]
    assert "which this is not" in run(capsys, *again, "--short-side", 80, "--resume").err[0]
    assert "no --control" in run(capsys, *again, "--control", "--resume").err[0]
    assert "at least 32" in run(capsys, *again, "--short-side", 5, "--resume").err[-1]


def test_a_default_may_be_written_out_when_a_run_goes_on():
    told = settings_of("faster-rcnn", 0, None, {"short_side": 480, "check_nan": True})
    assert told == settings_of("faster-rcnn", 0, None, {"vertical_flips": False})
    assert told != settings_of("faster-rcnn", 0, None, {"vertical_flips": True})


def test_what_is_asked_wrongly(voc, trained, tmp_path, capsys):
    train = ("train", "faster-rcnn", "--data", tmp_path, "--out", tmp_path / "out")
    for command, words in (
        (train, "no annotations of the split 'train'"),
        (("evaluate", "objects", "--data", voc), "finds faces"),
        (("evaluate", "objects", "--data", voc, "--model", trained, "--split", "val"), "val.txt"),
    ):
        done = run(capsys, *command)
        assert done.code == 2 and words in done.err[0], done.err
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_not_what_its_annotation_says(voc, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "x.png")
    record = replace(read_objects(voc, "train").records[0], path=tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"x.png: \(height, width\) is \(40, 60\), .* says \(90, 120\)"):
        load_examples(ObjectDataset([record], CLASSES), ObjectRecipe().scale)


def test_flips_move_the_boxes_along(voc):
    example = load_examples(read_objects(voc, "train"), ObjectRecipe().scale._replace(short_side=90))[0]
    for axis in (0, 1):
        turned = flipped(example, axis)
        assert np.array_equal(flipped(turned, axis).image, example.image)
        np.testing.assert_allclose(flipped(turned, axis).target.boxes, example.target.boxes, atol=1e-4)
        for before, after in zip(example.target.boxes.astype(int), turned.target.boxes.astype(int), strict=True):
            cut = [image[y1:y2, x1:x2] for image, (x1, y1, x2, y2) in ((example.image, before), (turned.image, after))]
            assert np.array_equal(np.flip(cut[0], axis), cut[1])


def test_anchor_sides_fit_a_rare_class_too(voc):
    """Two sizes: 200 of one class, 4 of the other."""
    many = make_target(np.tile(np.float32([[0, 0, 20, 20]]), (200, 1)), np.ones(200, int))
    few = make_target(np.tile(np.float32([[0, 0, 90, 90]]), (4, 1)), np.full(4, 2))
    assert anchor_sides([many, few], 2) == (20, 90)
    with pytest.raises(ValueError, match="no object"):
        anchor_sides([make_target(np.zeros((0, 4), np.float32))], 2)


def test_the_same_seed_gives_the_same_weights(voc, tmp_path):
    dataset = read_objects(voc, "train")
    recipe = ObjectRecipe(ObjectRecipe().scale._replace(short_side=90), schedule=Schedule(steps=4, lr=0.01, warm_up=2))
    first, second = (train_faster_rcnn(dataset, tmp_path / name, recipe, seed=1, progress=False) for name in "ab")
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert np.array_equal(a.data, b.data)


def test_a_model_of_one_class_called_face_is_no_cascade(voc, trained, tmp_path, capsys):
    detector = minidetect.load(trained)
    assert detector.classes == CLASSES
    arrays, meta = load_arrays(trained)
    meta["arguments"]["classes"] = ["face", "other"]
    save_arrays(tmp_path / "faces.npz", arrays, meta)
    done = run(capsys, "detect", voc / "JPEGImages" / "008.png", "--model", tmp_path / "faces.npz")
    assert done.code == 0 and "object" in done.out
    for benchmark in ("fddb", "wider"):
        done = run(capsys, "evaluate", benchmark, "--data", voc, "--model", trained)
        assert done.code == 2 and "measure it by `evaluate objects`" in done.err[0]


def test_one_image_is_not_a_list_of_images(trained):
    detector = minidetect.load(trained)
    for image in ("a.jpg", np.zeros((6, 5, 3), np.uint8)):
        with pytest.raises(TypeError, match="a list of images"):
            detector.detect(image)


def test_settings_are_saved_with_the_weights(trained, tmp_path):
    detector = minidetect.load(trained)
    detector.model.nms_threshold, detector.model.test_proposals = 0.7, (50, 20)
    save_objects(detector, tmp_path / "a.npz", {})
    again = minidetect.load(tmp_path / "a.npz").model
    assert again.nms_threshold == 0.7 and again.test_proposals == (50, 20) and again.min_score == 0.05


def test_a_run_does_not_go_on_with_other_data(voc, tmp_path):
    recipe = ObjectRecipe(ObjectRecipe().scale._replace(short_side=90), schedule=Schedule(steps=1, lr=0.01))
    dataset = read_objects(voc, "train")
    train_faster_rcnn(dataset, tmp_path, recipe, progress=False)
    other = ObjectDataset(dataset.records, ("cat", "dog"))
    with pytest.raises(ValueError, match="data.json: the run in this folder was begun on other data"):
        train_faster_rcnn(other, tmp_path, recipe, progress=False)


def test_a_size_that_is_wrong_is_found_before_anything_is_written(voc, tmp_path, capsys):
    copy = tmp_path / "voc"
    shutil.copytree(voc, copy)
    Image.new("RGB", (50, 40)).save(copy / "JPEGImages" / "000.png")
    done = run(capsys, "train", "faster-rcnn", "--data", copy, "--out", tmp_path / "out", "--steps", 1)
    assert done.code == 2 and "000.png: (height, width) is (40, 50)" in done.err[0]
    assert not (tmp_path / "out").exists()
