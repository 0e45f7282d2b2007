"""The commands on landmarks: `detect` writes and draws them, `evaluate landmarks` measures them, `train multi-output`
wants faces that have them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from command import run, untrained
from PIL import Image

from minidetect.api import save
from minidetect.data.landmarks import COLUMNS
from minidetect.data.synthetic import draw_scene
from minidetect.models.multi_output_cascade import MultiOutputCascade

NARROW = (((4, 3, 2), (4, 3, 0), (6, 3, 0)), ((4, 3, 3), (6, 3, 2)), ((4, 3, 3), (6, 3, 3), (8, 3, 2)))
OPEN = (0.01, 0.01, 0.01)  # whatever an untrained net says is a face


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "points.npz"
    cascade = MultiOutputCascade(np.random.default_rng(0), NARROW, (8, 8), thresholds=OPEN, stage_nms=(0.3, 0.3))
    save(cascade, path, {"score": "none"})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """facepoint/test.csv with three drawn faces, as the project's data folder has it."""
    folder = tmp_path_factory.mktemp("data") / "facepoint"
    (folder / "test").mkdir(parents=True)
    rows, index = [], 0
    while len(rows) < 3:
        scene, index = draw_scene("faces_easy", seed=3, index=index, size=(96, 120)), index + 1
        for box, points in zip(scene.boxes, scene.landmarks, strict=True):
            if box[2] - box[0] > 24 and np.isfinite(points).all() and len(rows) < 3:
                name = f"test/{len(rows)}.png"
                Image.fromarray(scene.image).save(folder / name)
                rows.append(dict(zip(COLUMNS, (name, *box.tolist(), *points.ravel().tolist()), strict=True)))
    with (folder / "test.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder.parent


def test_detect_writes_and_draws_landmarks(weights, data, tmp_path, capsys):
    photo, file = data / "facepoint" / "test" / "0.png", tmp_path / "faces.json"
    outcome = run(capsys, "detect", photo, "--model", weights, "--json", file, "--draw", tmp_path / "drawn")
    assert outcome.code == 0 and outcome.err == []
    (entry,) = json.loads(file.read_text())
    assert entry["detections"]
    for detection in entry["detections"]:
        points = np.array(detection["landmarks"])
        assert points.shape == (5, 2) and np.isfinite(points).all()
    assert Image.open(tmp_path / "drawn" / "0.png").size == (3 * 120, 3 * 96)  # what is on it: test_visualize.py


def test_evaluate_landmarks_prints_writes_and_plots(weights, data, tmp_path, capsys):
    file, plot = tmp_path / "errors.json", tmp_path / "errors.png"
    outcome = run(
        capsys, "evaluate", "landmarks", "--data", data, "--model", weights, "--json", file, "--plot", plot
    )
    assert outcome.code == 0, outcome.err
    for word in ("leye", "rmouth", "inter_ocular", "3 faces"):
        assert word in outcome.out
    summary = json.loads(file.read_text())
    assert summary["faces"] == 3 and [stage["stage"] for stage in summary["stages"]] == ["x12", "x24", "x48", "nms"]
    assert summary["missed"] == 3 or math.isfinite(summary["mean_error"])
    assert Image.open(plot).size[0] > 100


def test_a_model_without_landmarks_is_refused(data, tmp_path, capsys):
    weights = untrained(tmp_path / "plain.npz")
    outcome = run(capsys, "evaluate", "landmarks", "--data", data, "--model", weights)
    assert (outcome.code, len(outcome.err)) == (2, 1)
    assert "plain.npz" in outcome.err[0] and "no landmarks" in outcome.err[0]


def test_detections_in_fddbs_format_have_none(data, tmp_path, capsys):
    outcome = run(capsys, "evaluate", "landmarks", "--data", data, "--detections", tmp_path / "boxes.txt")
    assert outcome.code == 2 and "fddb" in outcome.err[0]


def test_no_crops(weights, tmp_path, capsys):
    outcome = run(capsys, "evaluate", "landmarks", "--data", tmp_path, "--model", weights)
    assert outcome.code == 2 and "test.csv" in outcome.err[0]


# ------------------------------------------------------------------------------------------ training


def wider(folder: Path) -> Path:
    """One drawn photo with a face, in WIDER FACE's layout."""
    (folder / "wider" / "train").mkdir(parents=True)
    Image.fromarray(draw_scene("faces_easy", size=(72, 90)).image).save(folder / "wider" / "train" / "a.png")
    (folder / "wider" / "wider_train_bbx_gt.txt").write_text("a.png\n1\n10 10 30 40 0 0 0 0 0 0\n")
    return folder


def crops(folder: Path, row: str | None) -> None:
    (folder / "facepoint").mkdir()
    lines = [",".join(COLUMNS)] + ([row] if row else [])
    (folder / "facepoint" / "train.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("no file", "train.csv: no such file"),
        (None, "train.csv: no face in it"),
        ("b.png" + ",1,1,40,40" + ",5,5" * 5, "1 of 1 crops are missing, such as"),
    ],
    ids=["no list", "an empty list", "no picture"],
)
def test_training_without_landmarks_is_refused_before_anything_is_written(row, complaint, tmp_path, capsys):
    data = wider(tmp_path / "data")
    if row != "no file":
        crops(data, row)
    outcome = run(capsys, "train", "multi-output", "--data", data, "--out", tmp_path / "run")
    assert (outcome.code, len(outcome.err)) == (2, 1)
    assert complaint in outcome.err[0]
    assert not (tmp_path / "run").exists()
