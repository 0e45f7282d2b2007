"""EXTD trained on four drawn photos, a few steps a phase: whole, interrupted, and by the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from command import run
from PIL import Image

import minidetect
from minidetect.data.synthetic import draw_scene
from minidetect.models.extd import EXTD
from minidetect.nn.checkpoint import load_arrays
from minidetect.train import loop
from minidetect.train.single_shot import PHASES, FacePhotos, SingleShotRecipe, train_single_shot

SMALL = replace(
    SingleShotRecipe().shortened(4),
    phases=tuple(replace(p, size=64, images=2) for p in SingleShotRecipe().shortened(4).phases),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in WIDER FACE's layout with a training part of four photos, one of them without a face."""
    folder, lines = tmp_path_factory.mktemp("data"), []
    (folder / "wider" / "train" / "0--Drawn").mkdir(parents=True)
    for i in range(4):
        scene = draw_scene("faces_easy", seed=11, index=i, size=(96, 112), num_faces=(1, 2), side=(26, 50))
        name = f"0--Drawn/{i}.png"
        Image.fromarray(scene.image).save(folder / "wider" / "train" / name)
        boxes = scene.boxes if i else scene.boxes[:0]
        lines += [name, str(len(boxes))] + [f"{x1} {y1} {x2 - x1} {y2 - y1}" for x1, y1, x2, y2 in boxes]
    (folder / "wider" / "wider_train_bbx_gt.txt").write_text("\n".join(lines) + "\n")
    return folder


def mini(seed: int = 0) -> EXTD:
    return EXTD(np.random.default_rng(seed), width=4, stem=8, blocks=((1, 1), (2, 2)))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A finished run: its folder and its model."""
    model, out = mini(), tmp_path_factory.mktemp("whole")
    train_single_shot(model, data, out, SMALL, progress=False)
    return out, model


def test_every_weight_moves_and_every_phase_leaves_a_line(whole):
    out, model = whole
    for (name, start), (_, end) in zip(mini().named_parameters(), model.named_parameters(), strict=True):
        if not name.startswith("heads") or name.split(".")[2] in "01":  # crops of 64 have no faces for the others
            assert not np.array_equal(start.data, end.data), name
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["phase"] for row in rows] == [phase.name for phase in PHASES]
    assert all(np.isfinite(row["class"]) and np.isfinite(row["box"]) for row in rows)


def test_norms_move_in_the_first_phase_alone(whole):
    out, _ = whole
    after = [load_arrays(out / f"{phase.name}.npz")[0] for phase in PHASES]
    running = [name for name in after[0] if "running" in name]
    assert running and any(after[0][name].any() for name in running)
    for name in running:
        for later in after[1:]:
            np.testing.assert_array_equal(after[0][name], later[name])
    assert any(not np.array_equal(after[0][name], after[1][name]) for name in after[0])


def test_a_killed_run_goes_on_to_the_same_bits(data, whole, tmp_path, monkeypatch):
    step, calls = loop.train_step, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 7:  # in the second phase, after its checkpoint
            raise KeyboardInterrupt
        return step(*arguments)

    train = loop.train_phase
    monkeypatch.setattr(
        "minidetect.train.single_shot.train_phase",
        lambda *a, checkpoint_every, **settings: train(*a, checkpoint_every=2, **settings),
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train_single_shot(mini(), data, tmp_path, SMALL, progress=False)
    assert (tmp_path / "norms.npz").exists() and (tmp_path / "small.ckpt.npz").exists()
    model = mini()
    train_single_shot(model, data, tmp_path, SMALL, progress=False)
    for name, array in whole[1].state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)


def test_a_batch_is_what_the_model_wants(data):
    photos, model = FacePhotos(data, SMALL.crops, SMALL.smallest), mini()
    images, targets = photos.batch(model, 3, 64, np.random.default_rng(0))
    assert images.shape == (3, 3, 64, 64) and images.dtype == np.float32 and len(targets) == 3
    assert -123 <= images.data.min() < 0 < images.data.max() <= 151  # minus the mean colour, not scaled
    again, _ = photos.batch(model, 3, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(images.data, again.data)
    for target in targets:
        assert (target.boxes >= 0).all() and (target.boxes <= 64).all()


def test_the_recipe_makes_as_many_crops_as_it_says():
    assert sum(phase.images * phase.schedule.steps for phase in PHASES) == 64_800


def test_photos_that_do_not_fit_are_read_again(data, monkeypatch):
    monkeypatch.setattr("minidetect.train.single_shot.KEPT", 2 * 96 * 112 * 3)
    photos = FacePhotos(data, SMALL.crops, SMALL.smallest)
    twice = [[photos.photo(i) for i in range(4)] for _ in range(2)]
    assert sorted(photos.kept) == [0, 1]
    for i in range(4):
        np.testing.assert_array_equal(twice[0][i], twice[1][i])
    assert twice[0][0] is twice[1][0] and twice[0][3] is not twice[1][3]


def test_photos_without_a_face_are_refused(tmp_path):
    (tmp_path / "wider" / "train").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "wider" / "train" / "a.png")
    (tmp_path / "wider" / "wider_train_bbx_gt.txt").write_text("a.png\n0\n")
    with pytest.raises(ValueError, match=r"wider_train_bbx_gt.txt: no face of at least 4 pixels"):
        train_single_shot(mini(), tmp_path, tmp_path / "out", SMALL, progress=False)


def test_the_command_trains_and_the_file_detects(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minidetect.recipes.SingleShotRecipe", lambda: replace(SMALL))
    out = tmp_path / "run"
    command = ("train", "extd", "--data", data, "--out", out, "--width", 48, "--act", "lrelu", "--structure", "ssd")
    done = run(capsys, *command)
    assert done.code == 0 and "extd-ssd-48-lrelu.npz" in done.out
    detector = minidetect.load(out / "extd-ssd-48-lrelu.npz")
    assert detector.model.name == "EXTD-SSD-48-LReLU" and (out / "curves.png").exists()
    (found,) = detector.detect([np.zeros((40, 50, 3), np.uint8)], threshold=0.0)
    assert found.boxes.shape[1] == 4
    assert "--resume" in run(capsys, *command).err[-1]
    other = run(capsys, *command[:-1], "fpn", "--resume")
    assert other.code == 2 and "structure=ssd" in other.err[-1]
    wrong = run(capsys, "train", "facecraft", "--data", data, "--out", tmp_path / "b", "--width", 48)
    assert wrong.code == 2 and "has no --width" in wrong.err[-1]
