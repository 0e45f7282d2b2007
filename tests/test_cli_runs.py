"""`minidetect train` and `minidetect evaluate`: tiny runs from beginning to end, and data with faults."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run, untrained
from PIL import Image

import minidetect
from minidetect.data.fddb import write_detections
from minidetect.data.landmarks import COLUMNS
from minidetect.data.synthetic import draw_crowd
from minidetect.nn.checkpoint import load_arrays
from minidetect.train.facecraft import FaceCraftRecipe, FaceCraftRun, Schedule, above, without_empty
from minidetect.train.patches import Pool, empty_pool

LIST = "wider/wider_train_bbx_gt.txt"


def write_wider(data: Path, split: str, photos: dict[str, tuple[np.ndarray, np.ndarray]], extra: str = "") -> Path:
    """Photos, name -> (image, boxes (G, 4) x1 y1 x2 y2), as a folder of WIDER FACE; `extra` lines at the end."""
    folder = data / "wider" / split
    folder.mkdir(parents=True)
    lines = []
    for name, (image, boxes) in photos.items():
        Image.fromarray(image).save(folder / name, quality=95)
        lines += [name, str(len(boxes))]
        lines += [f"{x1:.1f} {y1:.1f} {x2 - x1:.1f} {y2 - y1:.1f} 0 0 0 0 0 0" for x1, y1, x2, y2 in boxes]
    (data / "wider" / f"wider_{split}_bbx_gt.txt").write_text("\n".join(lines) + "\n" + extra)
    return data


def crowds(count: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    scenes = [draw_crowd(seed, (240, 320)) for seed in range(count)]
    return {f"crowd{i}.jpg": (scene.image, scene.boxes) for i, scene in enumerate(scenes)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two drawn crowds, a photo without people, and three boxes that cannot be used."""
    folder = tmp_path_factory.mktemp("data")
    empty = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    photos = crowds(2) | {"empty.jpg": (empty, np.zeros((0, 4))), "bad.jpg": (empty, np.zeros((0, 4)))}
    write_wider(folder, "train", photos)
    text = (folder / LIST).read_text().replace("bad.jpg\n0\n", "bad.jpg\n3\n1 1 0 5\n1 1 nan 5\n9 9 -8 30\n")
    (folder / LIST).write_text(text)
    return folder


# ---------------------------------------------------------------------------------------------- train


def test_a_tiny_run_from_photos_to_detections(data, tmp_path, capsys):
    out = tmp_path / "runs" / "first"
    train = ("train", "facecraft", "--data", data, "--out", out, "--steps", 2)
    done = run(capsys, *train)
    joint, separate = out / "facecraft-joint.npz", out / "facecraft-separate.npz"
    assert done.code == 0 and done.out.splitlines() == [f"wrote {separate}", f"wrote {joint}"]
    (warning,) = done.err
    assert warning.startswith("minidetect: warning: left out of the WIDER annotation: 3: ")
    assert f"{data / LIST}:" in warning and "'bad.jpg'" in warning and ".py" not in warning

    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(row["phase"], row["step"]) for row in rows] == [("x12", 2), ("x24", 2), ("x48", 2), ("joint", 2)]
    assert {"x12", "x24", "x48", "loss", "norm", "lr", "seconds"} < set(rows[-1])
    assert Image.open(out / "curves.png").format == "PNG"
    detector = minidetect.load(joint)
    assert detector.training == {"recipe": "facecraft", "seed": 0, "steps": 2, "phase": "joint"}
    done = run(capsys, "detect", data / "wider/train/crowd0.jpg", "--model", joint, "--min-face", 60)
    assert done.code == 0 and done.err == []

    before = {file: file.read_bytes() for file in out.iterdir() if file.suffix != ".png"}
    assert run(capsys, *train).err[0].endswith("with --resume, or choose another folder")
    other = run(capsys, *train, "--seed", 1, "--resume")
    assert other.code == 2 and "seed=0" in other.err[0] and "seed=1" in other.err[0]
    assert run(capsys, *train, "--resume", "--check-nan").code == 0  # finished: only the plot is drawn again
    assert {file: file.read_bytes() for file in out.iterdir() if file.suffix != ".png"} == before

    done = run(capsys, *train, "--resume", "--control")  # what a finished run has not done yet is added
    control = out / "facecraft-control.npz"
    assert done.code == 0 and str(control) in done.out and joint.read_bytes() == before[joint]
    assert load_arrays(control)[1]["model"] == "SeparateCascade"


def write_facepoint(data: Path, count: int = 2) -> None:
    """facepoint/train.csv and its crops: noise, with a face of five points near the middle."""
    (data / "facepoint" / "train").mkdir(parents=True)
    rng, lines = np.random.default_rng(4), [",".join(COLUMNS)]
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (112, 112, 3), np.uint8)).save(data / f"facepoint/train/{i}.png")
        points = np.array([[44, 44], [68, 44], [56, 58], [47, 70], [65, 70]]) + rng.uniform(-3, 3, (5, 2))
        lines.append(",".join(map(str, [f"train/{i}.png", 28, 28, 84, 84, *points.ravel().round(2)])))
    (data / "facepoint" / "train.csv").write_text("\n".join(lines) + "\n")


def test_a_tiny_run_of_the_multi_output_cascade(tmp_path, capsys):
    """From photos and crops to detections with landmarks, by the command line."""
    folder, out = write_wider(tmp_path / "data", "train", crowds(1)), tmp_path / "out"
    write_facepoint(folder)
    done = run(capsys, "train", "multi-output", "--data", folder, "--out", out, "--steps", 2)
    separate, joint = out / "multi-output-separate.npz", out / "multi-output-end-to-end.npz"
    files = [separate, joint, out / "multi-output-polished.npz"]
    assert done.code == 0 and done.out.splitlines() == [f"wrote {file}" for file in files]
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == [
        "x12.0", "x24.0", "x24.1", "x48.0", "x48.1", "end_to_end.0", "end_to_end.1", "polish"
    ]  # fmt: skip
    detector = minidetect.load(joint)
    assert detector.training == {"recipe": "multi-output", "seed": 0, "steps": 2, "phase": "end_to_end"}
    assert (type(detector.model).__name__, type(minidetect.load(separate).model).__name__) == (
        "EndToEndCascade", "MultiOutputCascade"
    )  # fmt: skip
    (found,) = detector.detect([folder / "wider/train/crowd0.jpg"], min_face=60, threshold=0.0)
    assert found.landmarks.shape == (len(found.boxes), 5, 2)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda folder: shutil.rmtree(folder), "no such file"),
        (lambda folder: (folder / "train/1.png").unlink(), "1 of 2 crops are missing"),
        (lambda folder: (folder / "train.csv").write_text(",".join(COLUMNS)), "no face in it"),
        (lambda folder: (folder / "train.csv").write_text("crop,xmin"), "the header lacks the columns"),
    ],
)
def test_faults_of_the_landmarks_are_named_before_anything_is_written(change, reason, tmp_path, capsys):
    folder = write_wider(tmp_path / "data", "train", crowds(1))
    write_facepoint(folder)
    change(folder / "facepoint")
    done = run(capsys, "train", "multi-output", "--data", folder, "--out", tmp_path / "out")
    (line,) = done.err
    assert done.code == 2 and str(folder / "facepoint/train.csv") in line and reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda folder: shutil.rmtree(folder / "wider"), "no such file"),
        (lambda folder: (folder / "wider/train/crowd0.jpg").unlink(), "'crowd0.jpg' there is no"),
        (lambda folder: shutil.rmtree(folder / "wider/train"), "1 of 1 photos are missing"),
        (lambda folder: (folder / LIST).write_text(""), "no face in it"),
        (lambda folder: (folder / LIST).write_text("crowd0.jpg\n1\n"), "'crowd0.jpg' says 1 rows"),
        (lambda folder: (folder / LIST).write_text("crowd0.jpg\n1\n1 1 x 9\n"), ":3: record 'crowd0.jpg'"),
        (lambda folder: (folder / LIST).write_text("crowd0.jpg\n1\n1 1 0 9\n"), "no face in it"),
        (lambda folder: (folder / LIST).write_text("crowd0.jpg\n1\n1 1 9 9\n1 1 9 9\n"), "more rows"),
        (lambda folder: (folder / LIST).write_bytes(b"\xff\xfe\x00"), "not a text file"),
    ],
)
def test_faults_of_the_data_are_named_before_anything_is_written(change, reason, tmp_path, capsys):
    folder = write_wider(tmp_path / "data", "train", crowds(1))
    change(folder)
    done = run(capsys, "train", "facecraft", "--data", folder, "--out", tmp_path / "out")
    assert done.code == 2 and done.out == ""
    (line,) = done.err
    assert str(folder / LIST) in line and reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "boxes, photo, reason",
    [
        ("1\n30 30 12 15\n", "crowd0.jpg", "0 patches of faces of at least 20 pixels"),
        ("1\n30 30 40 50\n", "cut.jpg", "cut.jpg: "),
    ],
)
def test_faults_that_show_when_photos_are_opened(boxes, photo, reason, tmp_path, capsys):
    folder = write_wider(tmp_path / "data", "train", crowds(1))
    whole = (folder / "wider/train/crowd0.jpg").read_bytes()
    (folder / "wider/train/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / LIST).write_text(f"{photo}\n{boxes}")
    done = run(capsys, "train", "facecraft", "--data", folder, "--out", tmp_path / "out", "--steps", 1)
    (line,) = done.err
    assert done.code == 2 and reason in line and str(folder) in line
    assert not (tmp_path / "out").exists()  # there is nothing to resume from


def test_what_is_asked_wrongly(data, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    train = ("train", "facecraft", "--data", data, "--out")
    for arguments, reason in {
        ("train", "gan", "--data", data, "--out", tmp_path / "new"): "there are: facecraft",
        (*train, tmp_path / "full"): "is not empty",
        (*train, tmp_path / "full", "--resume"): "holds files, but no run",
        (*train, tmp_path / "full" / "thesis.txt"): "thesis.txt: ",
        (*train, tmp_path / "new", "--steps", 0): "at least 1",
        (*train, tmp_path / "new", "--seed", -1): "at least 0",
    }.items():
        done = run(capsys, *arguments)
        assert done.code == 2 and reason in done.err[-1], arguments
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"


def test_mining_that_finds_nothing_is_said_and_does_not_stop_the_training(data, tmp_path):
    short = Schedule(1)
    recipe = FaceCraftRecipe(
        schedules=(short, short, short), joint=short, batches=(16, 8, 8), joint_batch=8,
        mining_thresholds=((1.0, 1.0, 1.0),) * 3,
    )
    training = FaceCraftRun(data, tmp_path, recipe, seed=0, progress=False)
    with pytest.warns(UserWarning) as told:
        training.run()
    texts = [str(warning.message) for warning in told]
    for name in ("mined24", "mined48", "mined"):
        assert f"{name}: no false alarm on these photos; other negatives take their share" in texts
    assert (tmp_path / "joint.npz").is_file()


def test_the_share_of_an_empty_pool_goes_to_the_others():
    full = Pool(np.zeros((2, 48, 48, 3), np.uint8), np.zeros((2, 4), np.float32), np.array([0.5, 0.9], np.float32))
    assert len(above(full, 0.8).patches) == 1
    kept = without_empty([(full, 0.3), (empty_pool(), 0.4), (full, 0.3)])
    assert [share for _, share in kept] == pytest.approx([0.5, 0.5])
    shares = [0.3, 0.3, 0.25, 0.15]  # with all of them there, the very same numbers, so that runs repeat
    assert [share for _, share in without_empty([(full, share) for share in shares])] == shares


def test_a_face_with_a_single_patch_has_no_spread_to_divide_by(data, tmp_path):
    training = FaceCraftRun(data, tmp_path, replace(FaceCraftRecipe(), joint=Schedule(1)), seed=0)
    cascade = minidetect.load(untrained(tmp_path / "untrained.npz")).model
    one = Pool(np.zeros((1, 48, 48, 3), np.uint8), np.full((1, 4), 0.1, np.float32), np.ones(1, np.float32))
    training.set_statistics(cascade, 0, one)
    assert (cascade.deltas_std[0] > 0).all() and cascade.deltas_mean[0] == pytest.approx([0.1] * 4)


# ------------------------------------------------------------------------------------------- evaluate


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return untrained(tmp_path_factory.mktemp("weights") / "untrained.npz")


@pytest.fixture
def fddb(tmp_path) -> Path:
    """Two grey photos of 80 x 100 pixels with a face each, and a third that is on the list only."""
    folder = tmp_path / "data" / "fddb"
    (folder / "FDDB-folds").mkdir(parents=True)
    lines = []
    for name in ("a/one", "a/two", "a/three"):
        lines += [name, "1", "24 16 1.5707963 40 50 1"]
        if name != "a/three":
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (80, 100), "grey").save(folder / "images" / f"{name}.jpg")
    (folder / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def test_fddb_with_a_model(weights, fddb, tmp_path, capsys):
    results = ("--json", tmp_path / "new" / "fddb.json", "--plot", tmp_path / "new" / "fddb.png")
    done = run(capsys, "evaluate", "fddb", "--data", fddb, "--model", weights, "--min-face", 40, *results)
    assert done.code == 0
    (warning,) = done.err
    assert warning.startswith("minidetect: warning: left out of FDDB: 1: ") and "'a/three'" in warning
    printed = dict(line.split() for line in done.out.splitlines()[:-4])
    summary = json.loads((tmp_path / "new" / "fddb.json").read_text())
    stages = summary.pop("stages")
    assert {key: float(value) for key, value in printed.items()} == summary
    assert list(summary) == [
        "images", "recall_at_1_fp", "recall_at_10_fp", "recall_at_100_fp", "recall_at_1000_fp", "continuous_max",
    ]
    assert summary["images"] == 2  # 1000 false positives on 2,845 images are as many as 1 on these
    assert [stage["stage"] for stage in stages] == ["x12", "x24", "x48", "nms"]
    assert all(stage["boxes_in"] >= stage["boxes_out"] for stage in stages)
    assert Image.open(tmp_path / "new" / "fddb.png").format == "PNG"


def test_fddb_with_detections(fddb, tmp_path, capsys):
    """A box that has the ellipse's area and proportions overlaps it by about 0.83; a second one is false."""
    box, file = [25.8, 28.7, 54.2, 71.3], tmp_path / "found.txt"
    false = [0, 0, 20, 20]
    write_detections(file, {"a/one": ([box, false], [0.9, 0.8]), "elsewhere": ([false], [0.7])})
    data = fddb / "fddb" / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt"
    for place, recall in ((fddb, 1 / 2), (fddb / "fddb", 1 / 2), (data, 1 / 3)):  # the list alone has 3 images
        done = run(capsys, "evaluate", "fddb", "--data", place, "--detections", file, "--json", tmp_path / "j")
        assert done.code == 0
        summary = json.loads((tmp_path / "j").read_text())
        assert summary["recall_at_10_fp"] == pytest.approx(recall, abs=1e-4) and summary["stages"] == []
        assert summary["continuous_max"] == pytest.approx(0.83 * recall, abs=0.01)


def test_the_official_figures(data_dir, capsys):
    reference = data_dir / "fddb_reference"
    files = ("--data", reference / "ellipseList.txt", "--detections", reference / "detections.txt")
    done = run(capsys, "evaluate", "fddb", *files)
    printed = dict(line.split() for line in done.out.splitlines())
    assert done.code == 0 and printed["images"] == "2845"
    official = {"recall_at_10_fp": 0.7188, "recall_at_100_fp": 0.9018, "recall_at_1000_fp": 0.9217,
                "continuous_max": 0.6895}
    for name, value in official.items():
        assert float(printed[name]) == pytest.approx(value, abs=0.002), name


def test_wider_with_a_model(weights, tmp_path, capsys):
    data = write_wider(tmp_path / "data", "val", crowds(1), extra="gone.jpg\n1\n1 1 30 40 0 0 0 0 0 0\n")
    results = ("--json", tmp_path / "wider.json", "--plot", tmp_path / "wider.png")
    done = run(capsys, "evaluate", "wider", "--data", data, "--model", weights, "--min-face", 25, *results)
    (warning,) = done.err
    assert done.code == 0 and "'gone.jpg': no image at" in warning
    summary = json.loads((tmp_path / "wider.json").read_text())
    assert 1 <= summary["faces"] <= 12 and 0 <= summary["ap"] <= summary["recall_at_200_fp"] <= 1
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[:2] == [["from_pixels", "25.0"], ["faces", str(summary["faces"])]]
    assert Image.open(tmp_path / "wider.png").format == "PNG"


def test_what_cannot_be_evaluated(weights, fddb, tmp_path, capsys):
    found, model = tmp_path / "found.txt", ("--model", weights, "--min-face", 60)
    write_detections(found, {"elsewhere": ([[1, 1, 9, 9]], [0.5])})
    faceless = write_wider(tmp_path / "faceless", "val", {"a.jpg": (np.zeros((70, 70, 3), np.uint8), [])})
    folds = tmp_path / "nothing" / "FDDB-folds"
    folds.mkdir(parents=True)
    (folds / "FDDB-fold-01-ellipseList.txt").write_text("")
    for arguments, reason in {
        ("fddb", "--data", tmp_path, *model): "holds FDDB-folds",
        ("fddb", "--data", tmp_path / "missing", *model): "holds FDDB-folds",
        ("fddb", "--data", tmp_path / "nothing", *model): "no face to find",
        ("fddb", "--data", fddb, "--detections", tmp_path / "missing.txt"): "missing.txt: No such file",
        ("fddb", "--data", fddb, "--detections", weights): "not a text file",
        ("fddb", "--data", fddb, "--detections", found): "none of its 1 images is among the 2",
        ("wider", "--data", tmp_path, *model): "wider_val_bbx_gt.txt: No such file",
        ("wider", "--data", faceless, *model): "no face to find",
        ("wider", "--data", faceless, "--detections", found): "no wider_face_val.mat",
        ("fddb", "--data", fddb, *model, "--write-detections", tmp_path / "texts"): "only for `evaluate wider`",
        ("fddb", "--data", fddb, *model, "--json", tmp_path): "is a folder",
        ("fddb", "--data", fddb, *model, "--plot", found / "plot.png"): "a file is in its place",
        ("fddb", "--data", fddb, "--detections", found, *model): "not allowed with",
        ("coco", "--data", fddb): "invalid choice",
        ("fddb",): "--data",
    }.items():
        done = run(capsys, "evaluate", *arguments)
        assert done.code == 2 and done.out == "" and reason in done.err[-1], arguments
