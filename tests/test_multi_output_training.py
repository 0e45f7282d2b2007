"""All phases of a multi-output training, three steps each, on drawn photos and made-up crops; interrupted and not."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from states import assert_equal_states

import minidetect
from minidetect.api import save
from minidetect.data.landmarks import COLUMNS
from minidetect.data.synthetic import draw_scene
from minidetect.detection.structures import make_target
from minidetect.models import multi_output_cascade
from minidetect.models.multi_output_cascade import (
    LANDMARK,
    NEGATIVE,
    PART,
    POSITIVE,
    EndToEndCascade,
    MultiOutputCascade,
)
from minidetect.nn.optim import scheduled_lr
from minidetect.train import cascade_run, multi_output
from minidetect.train.loop import Schedule, read_log
from minidetect.train.multi_output import KINDS, MultiOutputRecipe, MultiOutputRun, counts, part_of, points_of
from minidetect.train.patches import Photo, Pool, empty_pool
from minidetect.train.typed_batches import TypedBatch, TypedSource

NARROW = (((4, 3, 2), (5, 3, 0), (6, 3, 0)), ((6, 3, 3), (8, 3, 2)), ((4, 3, 3), (6, 3, 3), (8, 3, 2)))
FULL = MultiOutputRecipe()
FEW = counts(4, 8, 3, 3)
SMALL = replace(FULL.shortened(4), batches=(FEW, FEW, FEW), end_to_end_batch=FEW, per_photo=10, min_face=24)
# What a run leaves in its folder, in the order in which it does.
ORDER = ("patches", "x12.0", "x24.0.proposed", "x24.0", "x24.1.proposed", "x24.1", "x48.0.proposed", "x48.0",
         "x48.1.proposed", "x48.1", "end_to_end.0.proposed", "end_to_end.0", "end_to_end.1.proposed", "end_to_end.1",
         "control.0.proposed", "control.0", "control.1.proposed", "control.1",
         "polish.landmarks", "polish")  # fmt: skip
TRAINED = [name for name in ORDER if name[-1].isdigit() or name == "polish"]


def files_of(name: str) -> list[str]:
    """The files of one entry of ORDER."""
    if name in (*TRAINED, "polish.landmarks"):
        return [f"{name}.npz"]
    return [f"{name}.{kind}.npz" for kind in (*KINDS, *(["landmarks"] if name == "patches" else []))]


def photos_in(folder, count: int = 4) -> list[Photo]:
    found = []
    for i in range(count):
        scene = draw_scene("faces_easy", seed=11, index=i, size=(72, 84), num_faces=(1, 2), side=(26, 50))
        Image.fromarray(scene.image).save(folder / f"{i}.png")
        found.append(Photo(folder / f"{i}.png", lambda size, scene=scene: scene.target()))
    return found


def write_crops(folder, count: int = 3) -> None:
    """facepoint/train.csv and its crops: noise, with a face of five points somewhere near the middle."""
    (folder / "train").mkdir(parents=True)
    rng, lines = np.random.default_rng(4), [",".join(COLUMNS)]
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (112, 112, 3), np.uint8)).save(folder / "train" / f"{i}.png")
        points = np.array([[44, 44], [68, 44], [56, 58], [47, 70], [65, 70]]) + rng.uniform(-3, 3, (5, 2))
        numbers = [28, 28, 84, 84, *points.ravel().round(2)]
        lines.append(",".join([f"train/{i}.png", *map(str, numbers)]))
    (folder / "train.csv").write_text("\n".join(lines) + "\n")


class NarrowSeparate(MultiOutputCascade):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng, NARROW, (12, 10), max_proposals=100)


class NarrowEndToEnd(EndToEndCascade):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng, NARROW, (12, 10), max_proposals=100)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Few channels and proposals, so that a whole training takes seconds."""
    patch.setattr(multi_output, "MultiOutputCascade", NarrowSeparate)
    patch.setattr(multi_output, "EndToEndCascade", NarrowEndToEnd)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with facepoint/, and the photos."""
    folder = tmp_path_factory.mktemp("data")
    write_crops(folder / "facepoint")
    return folder, photos_in(folder)


def run(data, folder, seed=0, recipe=SMALL) -> MultiOutputRun:
    return MultiOutputRun(data[0], folder, recipe, seed, progress=False, photos=data[1])


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole run: its folder and its cascades."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        return folder, run(data, folder).run(with_control=True)


# ------------------------------------------------------------------ end to end


def test_every_phase_leaves_its_result(finished):
    folder, cascades = finished
    assert set(cascades) == {"separate", "end_to_end", "control", "polished"}
    expected = {file for name in ORDER for file in files_of(name)}
    assert {p.name for p in folder.iterdir()} == expected | {"log.jsonl"}
    rows = read_log(folder / "log.jsonl")
    assert [row["phase"] for row in rows] == TRAINED
    steps = {row["phase"]: row["step"] for row in rows}
    assert steps["x12.0"] == 4 and steps["x24.0"] == steps["x24.1"] == steps["end_to_end.1"] == 2  # rounds share them
    assert {"x24_class", "x24_box", "x24_points", "loss", "norm"} <= rows[1].keys()
    tasks = {f"x{size}_{task}" for size in (12, 24, 48) for task in ("class", "box", "points")}
    assert tasks <= rows[TRAINED.index("end_to_end.0")].keys() and tasks <= rows[TRAINED.index("control.0")].keys()
    assert all(np.isfinite(row["loss"]) for row in rows)


def test_the_cascades_have_learned_their_statistics(finished):
    folder, cascades = finished
    separate = cascades["separate"]
    assert type(separate) is type(cascades["control"]) is NarrowSeparate
    assert type(cascades["end_to_end"]) is type(cascades["polished"]) is NarrowEndToEnd
    pools = {kind: Pool.load(folder / f"patches.{kind}.npz") for kind in (*KINDS, "landmarks")}
    located = np.concatenate([pools["positives"].deltas, pools["parts"].deltas])
    for stage in range(3):
        np.testing.assert_allclose(separate.deltas_mean[stage], located.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(separate.deltas_std[stage], located.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(separate.points_mean, pools["landmarks"].points.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(separate.points_std, pools["landmarks"].points.std(axis=0), rtol=1e-4)
    assert (separate.mean_colour != 128).all()
    for cascade in cascades.values():
        for name in ("mean_colour", "deltas_mean", "deltas_std", "points_mean", "points_std"):
            np.testing.assert_array_equal(getattr(cascade, name), getattr(separate, name))
    for name in ("end_to_end", "control"):
        assert (cascades[name].x48.fc.weight.data != separate.x48.fc.weight.data).any()
    assert cascades["end_to_end"].x48.points.weight.data[:, 10:].any()  # the bridges have left zero
    assert (cascades["polished"].x48.fc.weight.data != cascades["end_to_end"].x48.fc.weight.data).any()


def test_patches_are_what_section_2_4_calls_them(finished):
    folder, _ = finished
    for name in ("patches", "x24.0.proposed", "x48.1.proposed", "end_to_end.0.proposed"):
        positives, negatives, parts = (Pool.load(folder / f"{name}.{kind}.npz") for kind in KINDS)
        assert (positives.iou >= 0.7 - 1e-6).all()
        assert (parts.iou >= 0.3 - 1e-6).all() and (parts.iou <= 0.7 + 1e-6).all()
        assert len(negatives.patches) > 0 and not negatives.deltas.any()
    assert Pool.load(folder / "patches.landmarks.npz").points.shape[1] == 10


def test_the_finished_models_detect_and_are_saved(finished, data, tmp_path):
    image = np.asarray(Image.open(data[1][0].path))
    for name, cascade in finished[1].items():
        cascade.thresholds = (0.3, 0.3, 0.3)
        (found,) = cascade.detect([image], min_face=20)
        assert found.landmarks.shape == (len(found.scores), 5, 2) and np.isfinite(found.landmarks).all()
        kind = EndToEndCascade if name in ("end_to_end", "polished") else MultiOutputCascade
        model = kind(np.random.default_rng(0), **cascade.arguments())
        model.load_state_dict(cascade.state_dict())
        save(model, tmp_path / f"{name}.npz", {"phase": name})
        (again,) = minidetect.load(tmp_path / f"{name}.npz").detect([image], min_face=20)
        for a, b in zip(found, again, strict=True):
            np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------ resuming


def test_a_finished_run_is_only_loaded(finished, data, monkeypatch):
    folder, cascades = finished

    def never(*_, **__):
        raise AssertionError("trained, cut or proposed again")

    for name in ("collect", "propose", "landmark_faces", "landmark_proposals"):
        monkeypatch.setattr(multi_output, name, never)
    monkeypatch.setattr(TypedSource, "draw", never)
    assert_equal_states(run((data[0], []), folder).run(with_control=True), cascades)


@pytest.mark.parametrize("name", ["patches", "x24.0", "x24.1.proposed", "x48.1", "end_to_end.0.proposed", "polish"])
def test_a_run_taken_up_at_any_phase_ends_with_the_same_bits(finished, data, tmp_path, name):
    """What was written before it is all that a resumed run needs: no state lives in the process alone."""
    folder, cascades = finished
    for before in ORDER[: ORDER.index(name)]:
        for file in files_of(before):
            shutil.copy(folder / file, tmp_path / file)
    assert_equal_states(run(data, tmp_path).run(with_control=True), cascades)
    for file in (file for after in ORDER[ORDER.index(name) :] for file in files_of(after)):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes(), file


@pytest.mark.parametrize("draws, checkpoints", [(3, 1), (12, 1), (15, 0), (23, 1)])
def test_a_run_killed_between_two_steps_ends_with_the_same_bits(
    finished, data, tmp_path, draws, checkpoints, monkeypatch
):
    """With a checkpoint after every step: in x12, in x48's last round, before end to end's last round, in the polish.

    Steps: 4 of x12, two rounds of 2 each of x24, x48, end to end and control, 4 of the polish.
    """
    train_phase, draw, drawn = cascade_run.train_phase, TypedSource.draw, []

    def often(*arguments, **settings):
        train_phase(*arguments, **settings, checkpoint_every=1)

    def killed(self, rng):
        drawn.append(0)
        if len(drawn) == draws:
            raise KeyboardInterrupt
        return draw(self, rng)

    monkeypatch.setattr(cascade_run, "train_phase", often)
    monkeypatch.setattr(TypedSource, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path).run(with_control=True)
    assert len(list(tmp_path.glob("*.ckpt.npz"))) == checkpoints
    assert_equal_states(run(data, tmp_path).run(with_control=True), finished[1])


def test_a_proposal_of_which_a_part_was_written_is_made_again(finished, data, tmp_path):
    folder, _ = finished
    for file in folder.glob("*.npz"):
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "x24.0.proposed.parts.npz").unlink()
    run(data, tmp_path).run(with_control=True)
    for kind in KINDS:
        name = f"x24.0.proposed.{kind}.npz"
        assert Pool.load(tmp_path / name).patches.shape == Pool.load(folder / name).patches.shape


def test_another_seed_is_another_run(data, finished, tmp_path):
    other = run(data, tmp_path, seed=1).patches()
    first = Pool.load(finished[0] / "patches.negatives.npz").patches
    assert other[NEGATIVE].patches.shape != first.shape or (other[NEGATIVE].patches != first).any()


# ------------------------------------------------------------------ what the trainings see


def test_end_to_end_and_control_train_on_alike_batches(finished, data, tmp_path, monkeypatch):
    """The comparison is paired: the same photos, the same draws from pools cut once, mirrored and coloured alike."""
    drawn, photos, draw, propose = [], [], TypedSource.draw, multi_output.propose

    def recording(self, rng):
        drawn.append((rng.bit_generator.state["state"]["state"], draw(self, rng).types.tolist()))
        return draw(self, rng)

    def proposing(pipeline, chosen, *arguments):
        photos.append([photo.path.name for photo in chosen])
        return propose(pipeline, chosen, *arguments)

    folder, _ = finished
    for name in ORDER[: ORDER.index("end_to_end.0.proposed")]:
        for file in files_of(name):
            shutil.copy(folder / file, tmp_path / file)
    monkeypatch.setattr(TypedSource, "draw", recording)
    monkeypatch.setattr(multi_output, "propose", proposing)
    run(data, tmp_path, recipe=replace(SMALL, mining_photos=(4, 2))).run(with_control=True)
    assert len(drawn) == 8 + 4 and len(photos) == 4 and len(photos[0]) == 2  # and 4 steps of the polish
    assert drawn[0] == drawn[4] and drawn[2] == drawn[6] and drawn[0] != drawn[2]  # each round's first step
    assert photos[:2] == photos[2:]


def test_a_net_in_training_is_shown_its_own_mistakes(data, tmp_path, monkeypatch):
    """Which stages propose: the ones above a net in its first round, the net itself in the next (section 2.4)."""
    asked, propose = [], multi_output.propose

    def recording(pipeline, photos, stages, thresholds, *arguments):
        asked.append((stages, thresholds, len(photos)))
        return propose(pipeline, photos, stages, thresholds, *arguments)

    monkeypatch.setattr(multi_output, "propose", recording)
    recipe = replace(SMALL, rounds=(2, 2, 2), mining_photos=(3, 1))
    run(data, tmp_path, recipe=recipe).separate()
    thresholds = recipe.mining_thresholds
    assert asked == [(1, thresholds[0], 1), (1, thresholds[0], 3), (2, thresholds[1], 1),
                     (2, thresholds[1], 3), (3, thresholds[2], 1)]  # fmt: skip


def test_only_the_hard_share_of_each_batch_counts(data, tmp_path, monkeypatch):
    """Section 2.4: the recipe's share reaches the loss of every net, alone and end to end."""
    told, losses = [], multi_output_cascade.multi_output_losses

    def recording(stage, said, types, deltas, points, keep=1.0):
        told.append((stage, keep))
        return losses(stage, said, types, deltas, points, keep)

    monkeypatch.setattr(multi_output_cascade, "multi_output_losses", recording)
    run(data, tmp_path, recipe=replace(SMALL.shortened(1), keep=0.6, rounds=(1, 1, 1), end_to_end_rounds=1)).run()
    assert told == [(stage, 0.6) for stage in (0, 1, 2, 0, 1, 2, 0, 1, 2)]  # alone, end to end, polished


def test_batches_of_one_type_train_too(data, tmp_path):
    cascade = run(data, tmp_path, recipe=replace(SMALL, single=5, rounds=(1, 1, 1))).separate()
    assert all(np.isfinite(p.data).all() for p in cascade.parameters())


def test_the_polish_starts_from_the_end_to_end_network(finished, data, tmp_path):
    """Without a step it is that network."""
    folder, cascades = finished
    for name in ORDER[: ORDER.index("control.0.proposed")]:
        for file in files_of(name):
            shutil.copy(folder / file, tmp_path / file)
    again = run(data, tmp_path, recipe=replace(SMALL, polish=Schedule(0))).run()
    assert_equal_states({"": again["polished"]}, {"": cascades["end_to_end"]})


@pytest.mark.parametrize("found, shares", [(3, [0.3, 0.7]), (0, [1.0])])
def test_the_polish_draws_landmark_faces_from_what_the_nets_propose(
    finished, data, tmp_path, found, shares, monkeypatch
):
    """Seven of ten, or none of them where nothing was proposed; every other type as in the rounds before."""
    sources, folder = [], finished[0]
    for name in ORDER[: ORDER.index("control.0.proposed")]:
        for file in files_of(name):
            shutil.copy(folder / file, tmp_path / file)
    proposed = Pool.load(folder / "patches.landmarks.npz").rows(np.arange(found))
    monkeypatch.setattr(multi_output, "landmark_proposals", lambda *_, **__: proposed)
    monkeypatch.setattr(MultiOutputRun, "train_all", lambda self, name, cascade, source, *_: sources.append(source))
    trainer = run(data, tmp_path)
    cascade = NarrowEndToEnd(np.random.default_rng(0))
    trainer.polish(cascade)
    (source,) = sources
    assert shares_of(source, LANDMARK) == pytest.approx(shares) and source.counts == SMALL.polish_batch
    assert len(source.pools[LANDMARK][-1][0].patches) == (found or len(source.pools[LANDMARK][0][0].patches))
    assert shares_of(source, NEGATIVE) == pytest.approx([0.3, 0.14, 0.14, 0.14, 0.28])
    assert (source.draw(np.random.default_rng(0)).types == LANDMARK).sum() == SMALL.polish_batch[LANDMARK]


def pool(count: int) -> Pool:
    return Pool(np.zeros((count, 48, 48, 3), np.uint8), np.zeros((count, 4), np.float32), np.zeros(count, np.float32))


def shares_of(source: TypedSource, kind: int) -> list[float]:
    return [share for _, share in source.pools[kind]]


def test_the_last_round_counts_double():
    """Random patches keep 0.3; of the rest the last of three rounds has a half, the others a quarter each."""
    cut = {POSITIVE: pool(2), NEGATIVE: pool(2), PART: pool(2), LANDMARK: pool(2)}
    found = [{POSITIVE: pool(1), NEGATIVE: pool(1), PART: pool(int(k != 1))} for k in range(3)]
    trainer = MultiOutputRun(".", ".", SMALL, 0, photos=[])
    source = trainer.source(cut, found, FEW)
    assert shares_of(source, NEGATIVE) == pytest.approx([0.3, 0.175, 0.175, 0.35])
    assert shares_of(source, PART) == pytest.approx([0.3, 0.7 / 3, 0.7 * 2 / 3])  # one round found none
    assert shares_of(source, LANDMARK) == [1.0]
    assert shares_of(trainer.source(cut, found[:1], FEW), POSITIVE) == pytest.approx([0.3, 0.7])
    assert shares_of(trainer.source(cut, [], FEW), POSITIVE) == [1.0]
    nothing = [{POSITIVE: empty_pool(), NEGATIVE: empty_pool(), PART: empty_pool()}]
    assert shares_of(trainer.source(cut, nothing, FEW), NEGATIVE) == [1.0]


def test_targets_of_the_landmarks_have_mean_0_and_variance_1(rng):
    points = rng.normal(0.5, [0.1, 0.2] * 5, (400, 10)).astype(np.float32)
    cascade = NarrowSeparate(rng)
    cascade.points_mean[:], cascade.points_std[:] = points.mean(axis=0), points.std(axis=0)
    batch = TypedBatch(np.zeros((400, 1, 1, 3), np.float32), np.full(400, LANDMARK), np.zeros((400, 4)), points)
    targets = points_of(cascade, batch)
    np.testing.assert_allclose(targets.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(targets.std(axis=0), 1, rtol=1e-4)
    squares = np.tile(np.array([0, 0, 48, 48], np.float32), (400, 1))
    back = cascade.points_in(squares, targets)  # what is trained is undone when it detects
    np.testing.assert_allclose(back.reshape(400, 10), points * 48, atol=1e-3)


# ------------------------------------------------------------------ schedules and recipes


@settings(max_examples=200, deadline=None)
@given(st.integers(5, 400), st.integers(1, 5), st.lists(st.integers(0, 400), max_size=3), st.floats(0, 1))
def test_a_schedule_in_parts_is_the_schedule(steps, parts, drops, warm):
    """Step by step the same rate, where the warm-up fits in the first part.

    Drops lie in the middle between two steps, so that no rounding decides to which of them they belong.
    """
    drops = tuple(sorted((min(drop, steps) - 0.5) / steps for drop in drops))
    warm_up = int(warm * (steps // parts))
    whole = Schedule(steps, lr=0.02, warm_up=warm_up, drops=drops)
    rates, expected = [], [scheduled_lr(i, steps, 0.02, warm_up, drops) for i in range(steps)]
    for k in range(parts):
        part = part_of(whole, k, parts)
        rates += [scheduled_lr(i, part.steps, part.lr, part.warm_up, part.drops) for i in range(part.steps)]
        kept = replace(part, steps=steps, lr=whole.lr, warm_up=warm_up, drops=drops)
        assert kept == whole  # momentum and the rest are as they were
    assert rates == pytest.approx(expected, rel=1e-9)


def test_a_drop_where_two_parts_meet_happens_once():
    """Half of 100 steps, in two parts, one drop at a half: the second part begins with a tenth, and keeps it."""
    whole = Schedule(100, lr=0.02, warm_up=0, drops=(0.5,))
    first, second = (part_of(whole, k, 2) for k in (0, 1))
    assert {scheduled_lr(i, 50, first.lr, 0, first.drops) for i in range(50)} == {0.02}
    assert {scheduled_lr(i, 50, second.lr, 0, second.drops) for i in range(50)} == {0.1 * 0.02}


def test_a_part_has_a_step_at_least():
    parts = [part_of(Schedule(1, warm_up=0), k, 3) for k in range(3)]
    assert [part.steps for part in parts] == [1, 1, 1]
    assert part_of(FULL.end_to_end, 0, 1) == FULL.end_to_end


def test_a_shortened_recipe_only_changes_the_steps():
    short = FULL.shortened(5)
    assert [s.steps for s in (*short.schedules, short.end_to_end, short.polish)] == [5, 5, 5, 5, 5]
    assert replace(short, schedules=FULL.schedules, end_to_end=FULL.end_to_end, polish=FULL.polish) == FULL
    assert FULL.shortened(10**9) == FULL


def test_the_papers_settings():
    """Section 2.4's figure: the top 70 % count. Section 2.3: mixed batches, all four types in each."""
    assert FULL.keep == 0.7 and FULL.single == 0
    for batch in (*FULL.batches, FULL.end_to_end_batch, FULL.polish_batch):
        assert set(batch) == {POSITIVE, NEGATIVE, PART, LANDMARK} and min(batch.values()) > 0
    assert counts(1, 2, 3, 4) == {POSITIVE: 1, NEGATIVE: 2, PART: 3, LANDMARK: 4}


def test_every_phase_and_round_has_a_generator_of_its_own(data):
    trainer = run(data, ".")
    numbers = [trainer.rng(phase, k, part).random() for phase in multi_output.PHASES for k in (0, 1) for part in (0, 1)]
    assert len(set(numbers)) == len(numbers)
    assert trainer.rng("x24", 1, 0).random() == run(data, ".").rng("x24", 1, 0).random()
    assert trainer.rng("x24", 1, 0).random() != run(data, ".", seed=1).rng("x24", 1, 0).random()


# ------------------------------------------------------------------ bad data


def test_without_landmarks_there_is_a_clear_error(data, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(FileNotFoundError) as error:
        run((folder, data[1]), tmp_path / "out").run()
    assert str(folder / "facepoint" / "train.csv") in str(error.value)


def test_photos_without_faces_are_an_error_that_leaves_nothing(data, tmp_path):
    nothing = make_target(np.zeros((0, 4)))
    faceless = [Photo(photo.path, lambda size: nothing) for photo in data[1]]
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="0 patches of faces of at least 24 pixels") as error:
        run((tmp_path / "data", faceless), tmp_path / "out").run()
    assert str(tmp_path / "data") in str(error.value)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_list_without_faces_is_an_error_that_leaves_no_pool_of_them(data, tmp_path):
    """There is nothing to learn landmarks from, and nothing to resume from once the list is a better one."""
    folder = tmp_path / "data"
    write_crops(folder / "facepoint", count=0)
    with pytest.raises(ValueError, match=r"facepoint.train\.csv: no face with landmarks"):
        run((folder, data[1]), tmp_path / "out").run()
    assert not (tmp_path / "out" / "patches.landmarks.npz").exists()


def test_weights_of_the_wrong_net_are_refused(finished, data, tmp_path):
    folder, _ = finished
    for file in files_of("patches"):
        shutil.copy(folder / file, tmp_path / file)
    shutil.copy(folder / "x24.0.npz", tmp_path / "x12.0.npz")
    with pytest.raises(ValueError, match=r"x12\.0\.npz: not weights of ProposalNet"):
        run(data, tmp_path).run()
