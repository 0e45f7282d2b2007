"""Trainings of Group Sampling: every sampler on photos, equal batches, resuming, miniatures, the recipe's command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from command import run
from test_cli_runs import write_wider
from test_layout_detector import TINY
from test_layout_pyramid import Finder, picture

import minidetect
from minidetect import cli_arguments
from minidetect.data.face_crops import CropSettings
from minidetect.data.synthetic import draw_scene
from minidetect.detection.anchor_layout import FPN_FINEST, LAYOUTS
from minidetect.detection.group_sampler import IGNORED
from minidetect.detection.structures import make_target
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_heads import HEADS
from minidetect.models.layout_loss import BOX_LOSSES
from minidetect.models.layout_pyramid import PyramidLooks
from minidetect.train import loop
from minidetect.train.drawn_faces import DrawnFaces, drawn_faces, measure_mini, measure_sub_detectors, train_mini
from minidetect.train.layouts import JITTER, SAMPLERS, LayoutRecipe, losses_of, train_layout
from minidetect.train.loop import Schedule
from minidetect.train.single_shot import FacePhotos

CROPS = CropSettings(size=64, jitter=JITTER)
SMALL = LayoutRecipe(num=8, images=2, crops=CROPS, schedule=Schedule(steps=6, lr=0.002, warm_up=2, adam=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four drawn photos as WIDER FACE has them, one without a face."""
    photos = {}
    for i in range(4):
        scene = draw_scene("faces_easy", seed=11, index=i, size=(96, 112), num_faces=(1, 2), side=(26, 50))
        photos[f"{i}.png"] = (scene.image, scene.boxes if i else scene.boxes[:0])
    return write_wider(tmp_path_factory.mktemp("data"), "train", photos)


@pytest.fixture(scope="module")
def photos(data) -> FacePhotos:
    return FacePhotos(data, CROPS, SMALL.smallest)


def mini(seed: int = 0) -> LayoutDetector:
    return LayoutDetector(np.random.default_rng(seed), FPN_FINEST, **TINY)


def of_steps(steps: int, **changes) -> LayoutRecipe:
    return replace(SMALL.shortened(steps), **changes)


# ------------------------------------------------------------------ samplers


def test_how_many_anchors_every_sampler_takes(rng):
    """N = 8 a group and four groups: samplers without groups take as many together, OHEM half; focal losses all."""
    labels = rng.choice([0, 0, 0, 0, 1, IGNORED], 4000)
    groups, losses = rng.integers(0, 4, 4000), rng.uniform(0, 1, 4000).astype(np.float32)
    counts = {}
    for name, (make, _) in SAMPLERS.items():
        samples = make(8)(labels, groups, losses, rng)
        counts[name] = [len(pos) + len(neg) for pos, neg in samples]
        assert all((labels[pos] > 0).all() and (labels[neg] == 0).all() for pos, neg in samples)
    known = int((labels != IGNORED).sum())
    assert counts == {
        "random": [32], "ohem": [16], "wrs": [32], "focal": [known], "focal*": [known],
        "gs": [8] * 4, "gs+ohem": [8] * 4, "gs+wrs": [8] * 4, "gs+focal*": [8] * 4,
    }  # fmt: skip
    assert {name: kind for name, (_, kind) in SAMPLERS.items() if kind != "softmax"} == {
        "focal": "focal", "focal*": "focal*", "gs+focal*": "focal*"
    }  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_trains(sampler, photos, tmp_path):
    model = mini()
    train_layout(model, photos=photos, data=None, out=tmp_path, recipe=of_steps(2, sampler=sampler), progress=False)
    (row,) = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert row["phase"] == "layout" and row["step"] == 2
    assert np.isfinite(row["class"]) and np.isfinite(row["box"]) and row["class"] > 0
    for (name, start), (_, end) in zip(mini().named_parameters(), model.named_parameters(), strict=True):
        assert np.isfinite(end.data).all() and ("deltas" in name or not np.array_equal(start.data, end.data)), name


def test_the_losses_of_a_row(photos):
    """Equal generators: what differs is the sampler's or the loss's doing."""
    model = mini()
    model.train()
    images, targets = photos.batch(model, 3, 64, np.random.default_rng(1))
    assert any(len(target.boxes) for target in targets)

    def values(*arguments) -> dict[str, float]:
        terms = losses_of(*arguments)(model, images, targets, np.random.default_rng(2))
        return {name: term.item() for name, term in terms.items()}

    classes = {name: values(name, 8)["class"] for name in SAMPLERS}
    assert len(set(classes.values())) == len(classes) and all(np.isfinite(value) for value in classes.values())
    assert classes["gs"] > 2 * classes["random"]  # a sum of four means
    boxes = {name: values("gs", 8, name) for name in BOX_LOSSES}
    assert len({terms["box"] for terms in boxes.values()}) == 3 and len({t["class"] for t in boxes.values()}) == 1
    assert values("gs") == values("gs", 512, "least-squares") != values("gs", 8)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(("groups",), "a sampler must be one of random, ohem, .*, got 'groups'"),
     (("gs", 8, "l2"), "a loss of the boxes must be one of least-squares, neg-log, smooth-l1, got 'l2'")],
)  # fmt: skip
def test_names_that_there_are_not(arguments, complaint, photos, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        losses_of(*arguments)
    recipe = of_steps(1, **dict(zip(("sampler", "num", "box_loss"), arguments, strict=False)))
    with pytest.raises(ValueError, match=complaint):
        train_layout(mini(), None, tmp_path / "out", recipe, photos=photos)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ batches, resuming


def batches(photos, out, sampler: str, seed: int = 0) -> list[np.ndarray]:
    """The pixels of every step of a training."""
    seen, real = [], photos.batch

    class Watched:
        def batch(self, *arguments):
            found = real(*arguments)
            seen.append(found[0].data)
            return found

    recipe = of_steps(3, sampler=sampler)
    train_layout(mini(), None, out, recipe, seed, progress=False, photos=Watched())
    return seen


def test_samplers_see_the_same_batches(photos, tmp_path, monkeypatch):
    """However often they draw; with one generator for both, batches part after the first."""
    plain, hard, other = (
        batches(photos, tmp_path / f"{i}", *which) for i, which in enumerate([("gs",), ("wrs",), ("gs", 1)])
    )
    assert len(plain) == len(hard) == 3
    assert all(np.array_equal(a, b) for a, b in zip(plain, hard, strict=True))
    assert not np.array_equal(plain[0], other[0]) and not np.array_equal(plain[0], plain[1])
    monkeypatch.setattr("minidetect.train.layouts.two_generators", lambda rng: (rng, rng))
    shared = [batches(photos, tmp_path / f"shared {name}", name) for name in ("gs", "wrs")]
    same = [np.array_equal(a, b) for a, b in zip(*shared, strict=True)]
    assert same == [True, False, False]


def test_a_killed_run_goes_on_to_the_same_bits(data, photos, tmp_path, monkeypatch):
    whole, model = mini(), mini(3)  # the second gets its weights from the checkpoint
    train_layout(whole, data, tmp_path / "whole", replace(SMALL, sampler="gs+wrs"), 5, progress=False)
    train, step, calls = loop.train_phase, loop.train_step, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(
        "minidetect.train.layouts.train_phase",
        lambda *a, checkpoint_every, **settings: train(*a, checkpoint_every=2, **settings),
    )
    again = partial(
        train_layout, data=data, out=tmp_path / "cut", recipe=replace(SMALL, sampler="gs+wrs"), seed=5, progress=False,
        photos=photos,
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", dies)
        with pytest.raises(KeyboardInterrupt):
            again(mini())
    assert (tmp_path / "cut" / "layout.ckpt.npz").exists()
    again(model)
    assert len(calls) == 5
    for name, array in whole.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], array, err_msg=name)
    assert not np.array_equal(model.backbone.stem.layers[0].weight.data, mini().backbone.stem.layers[0].weight.data)


def test_a_shortened_recipe():
    recipe = LayoutRecipe(sampler="focal*")
    assert recipe.shortened(7).schedule.steps == 7 and recipe.shortened(10**6).schedule.steps == recipe.schedule.steps
    assert replace(recipe.shortened(7), schedule=recipe.schedule) == recipe
    assert recipe.crops.jitter == (0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)


# ------------------------------------------------------------------ miniatures


def test_miniatures_take_any_losses(monkeypatch):
    """Equal generators, equal scenes whatever the sampler; the log has its losses, and they fall."""
    faces, seen, real = drawn_faces(4, seed=3, size=64), [], DrawnFaces.batch

    def watched(self, *arguments):
        found = real(self, *arguments)
        seen[-1].append(found[0].data)
        return found

    monkeypatch.setattr(DrawnFaces, "batch", watched)
    logs, models = {}, []
    for name, sampler in {"gs": "gs", "again": "gs", "wrs": "wrs"}.items():
        seen.append([])
        models.append(mini())
        logs[name] = train_mini(models[-1], faces, 12, np.random.default_rng(1), 2, losses=losses_of(sampler, 16))
    assert logs["gs"] == logs["again"] != logs["wrs"] and len(logs["gs"]) == 12
    assert set(logs["gs"][0]) == {"class", "box", "norm"} and not models[0].training
    for first, *others in zip(*seen, strict=True):
        assert all(np.array_equal(first, other) for other in others)
    assert logs["gs"][-1]["class"] < logs["gs"][0]["class"]
    ap = measure_sub_detectors(models[0], faces)
    assert list(ap) == ["all", "<12", "12-24", ">=24", "all at 0.7", "@16", "@32", "@64", "@128"]
    measured = measure_mini(models[0], faces)
    assert {name: ap[name] for name in measured} == pytest.approx(measured, nan_ok=True)


def test_what_each_scale_finds_alone_by_hand():
    """Squares of 64 and 16 pixels: the anchors of either scale find one of the two, all together both."""
    boxes = [[48, 80, 112, 144], [10, 10, 26, 26]]
    faces = DrawnFaces([picture((48, 80, 64), (10, 10, 16))], [make_target(boxes)])
    ap = measure_sub_detectors(Finder(), faces)
    assert (ap["all"], ap["all at 0.7"], ap["12-24"], ap[">=24"]) == (100, 100, 100, 100)
    assert (ap["@16"], ap["@32"], ap["@64"], ap["@128"]) == (50, 0, 50, 0) and np.isnan(ap["<12"])
    nobody = measure_sub_detectors(Finder(), DrawnFaces([picture()], [make_target([])]))
    assert all(np.isnan(value) for value in nobody.values())


# ------------------------------------------------------------------ the recipe and the command


def test_the_command_line_knows_the_names():
    """Its lists are literals, so that a wrong option is refused without importing all of these."""
    for names, truth in {
        cli_arguments.LAYOUTS: LAYOUTS, cli_arguments.SAMPLERS: SAMPLERS, cli_arguments.HEADS: HEADS,
        cli_arguments.BOX_LOSSES: BOX_LOSSES,
    }.items():  # fmt: skip
        assert names == tuple(truth)


def test_the_command_trains_and_the_file_detects(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("minidetect.recipes.LayoutRecipe", partial(LayoutRecipe, num=8, images=2, crops=CROPS))
    out, photo = tmp_path / "run", data / "wider/train/1.png"
    command = ("train", "group-sampling", "--data", data, "--out", out, "--steps", 2)
    choices = ("--layout", "fpn", "--head", "shared", "--sampler", "gs")
    done = run(capsys, *command, *choices)
    file = out / "fpn-gs.npz"
    assert done.code == 0 and done.out.splitlines() == [f"wrote {file}"] and done.err == []
    assert (out / "curves.png").exists()
    detector = minidetect.load(file)
    how = {"recipe": "group-sampling", "seed": 0, "steps": 2, "sampler": "gs", "box_loss": "least-squares"}
    assert detector.training == how
    assert (detector.model.layout, detector.model.head) == (LAYOUTS["fpn"], "shared")
    (found,) = detector.detect([photo], threshold=0.0)
    assert len(found.boxes) > 0 and (found.boxes[:, 2] <= 112).all() and (found.boxes[:, 3] <= 96).all()
    thorough = minidetect.load(file, thorough=True)
    (more,) = thorough.detect([photo], threshold=0.0)
    fused = detector.model.fuse()
    expected = PyramidLooks(fused).detect([np.asarray(minidetect.data.images.load_image(photo))], min_score=0.0)[0]
    np.testing.assert_allclose(more.boxes, expected.boxes, atol=1e-2)
    assert len(more.boxes) != len(found.boxes)

    done = run(capsys, "detect", photo, "--model", file, "--threshold", 0, "--stages", "--thorough")
    assert done.code == 0 and done.err == [] and "x0.25" in done.out and "x2" in done.out
    assert "--resume" in run(capsys, *command, *choices).err[-1]
    other = run(capsys, *command, *choices[:-1], "gs+wrs", "--resume")
    assert other.code == 2 and "sampler=gs'" in other.err[-1] and "sampler=gs+wrs'" in other.err[-1]
    assert run(capsys, *command, *choices, "--resume").code == 0  # finished already


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("extd", "--sampler", "gs"), "the recipe extd has no --sampler"),
        (("facecraft", "--box-loss", "neg-log", "--layout", "fpn"), "has no --box-loss, --layout"),
        (("group-sampling", "--width", 48), "the recipe group-sampling has no --width"),
        (("group-sampling", "--sampler", "gss"), "invalid choice: 'gss'"),
        (("group-sampling", "--head", "deep"), "invalid choice: 'deep'"),
    ],
)
def test_options_that_do_not_fit(options, complaint, data, tmp_path, capsys):
    done = run(capsys, "train", *options, "--data", data, "--out", tmp_path / "out")
    assert done.code == 2 and complaint in done.err[-1] and not (tmp_path / "out").exists()
