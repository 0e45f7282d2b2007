"""All phases of a FaceCraft training, three steps each, on four drawn photos; interrupted and not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from states import assert_equal_states

from minidetect.data.synthetic import draw_scene
from minidetect.detection.structures import make_target
from minidetect.models.facecraft import TABLES, JointCascade, SeparateCascade
from minidetect.nn.checkpoint import load_arrays
from minidetect.train import cascade_run, facecraft
from minidetect.train.cascade_run import above, normalised, without_empty
from minidetect.train.facecraft import PHASES, FaceCraftRecipe, FaceCraftRun
from minidetect.train.loop import Schedule, read_log
from minidetect.train.patches import Photo, Pool, empty_pool

NARROW = (TABLES[0], ((6, 3, 3), (8, 3, 2)), ((4, 3, 3), (6, 3, 3), (8, 3, 2)))
FULL = FaceCraftRecipe()
SMALL = replace(FULL.shortened(3), batches=(16, 8, 6), joint_batch=8, mined_per_photo=(10, 10, 10), min_face=24)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("photos"), []
    for i in range(4):
        scene = draw_scene("faces_easy", seed=11, index=i, size=(72, 84), num_faces=(1, 2), side=(26, 50))
        Image.fromarray(scene.image).save(folder / f"{i}.png")
        found.append(Photo(folder / f"{i}.png", lambda size, scene=scene: scene.target()))
    return found


class NarrowSeparate(SeparateCascade):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng, NARROW, max_proposals=100)


class NarrowJoint(JointCascade):
    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__(rng, NARROW, max_proposals=100)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Few channels and proposals, so that a whole training takes seconds; and no crops with landmarks."""
    patch.setattr(facecraft, "SeparateCascade", NarrowSeparate)
    patch.setattr(facecraft, "JointCascade", NarrowJoint)
    patch.setattr(facecraft, "landmark_photos", lambda data: [])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


def run(folder, photos, seed=0, recipe=SMALL) -> FaceCraftRun:
    return FaceCraftRun(folder, folder, recipe, seed, progress=False, photos=photos)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A whole run: its folder and its cascades."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        return folder, run(folder, photos).run(with_control=True)


# ------------------------------------------------------------------ end to end


def test_every_phase_leaves_its_result(finished):
    folder, cascades = finished
    assert list(cascades) == ["separate", "joint", "control"]
    names = {f"{phase}.npz" for phase in ("x12", "x24", "x48", "joint", "control")}
    pools = {f"{phase}.{kind}.npz" for phase in PHASES if "mined" in phase or phase == "patches"
             for kind in ("positives", "negatives")}  # fmt: skip
    assert {p.name for p in folder.iterdir()} == names | pools | {"log.jsonl"}
    rows = read_log(folder / "log.jsonl")
    assert [row["phase"] for row in rows] == ["x12", "x24", "x48", "joint", "control"]
    assert {"x12", "x24", "x48", "loss"} <= rows[3].keys()


def test_the_cascades_have_learned_their_statistics(finished):
    """Mean colour and target statistics are set, and handed on from the separate nets to the joint one."""
    _, cascades = finished
    separate = cascades["separate"]
    assert isinstance(separate, SeparateCascade) and isinstance(cascades["joint"], JointCascade)
    assert (separate.mean_colour != 128).all() and np.isfinite(separate.mean_colour).all()
    assert (separate.deltas_std > 0).all() and (separate.deltas_std < 0.5).all()
    for cascade in cascades.values():
        for name in ("mean_colour", "deltas_mean", "deltas_std"):
            np.testing.assert_array_equal(getattr(cascade, name), getattr(separate, name))
    changed = {c: cascades[c].x48.fc.weight.data - separate.x48.fc.weight.data for c in ("joint", "control")}
    assert changed["joint"].any() and changed["control"].any()


def test_the_finished_models_detect(finished, photos):
    for cascade in finished[1].values():
        (found,) = cascade.detect([np.asarray(Image.open(photos[0].path))])
        assert found.boxes.shape == (len(found.scores), 4) and np.isfinite(found.boxes).all()


def test_a_finished_run_is_only_loaded(finished, monkeypatch):
    """No photo is opened and no batch is drawn: every phase finds its result."""
    folder, cascades = finished

    def never(*_, **__):
        raise AssertionError("trained or mined again")

    for name in ("collect", "mine"):
        monkeypatch.setattr(facecraft, name, never)
    monkeypatch.setattr(facecraft.BatchSource, "draw", never)
    assert_equal_states(run(folder, []).run(with_control=True), cascades)


@pytest.mark.parametrize("phase", ["mined24", "joint"])
def test_a_run_taken_up_at_any_phase_ends_with_the_same_bits(finished, photos, tmp_path, phase):
    """What the phases before it left is all that a resumed run needs: no state lives in the process alone."""
    folder, cascades = finished
    for name in PHASES[: PHASES.index(phase)]:
        for file in folder.glob(f"{name}.*npz"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    resumed = run(tmp_path, photos)
    if phase == "joint":
        assert_equal_states(resumed.run(with_control=True), cascades)
    else:
        assert_equal_states({"separate": resumed.separate()}, {"separate": cascades["separate"]})


def test_a_pool_of_which_half_was_written_is_made_again(finished, photos, tmp_path):
    """Killed between the two files of a mining: both are there again, with the same patches."""
    folder, cascades = finished
    for file in folder.glob("*.npz"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mined24.negatives.npz").unlink()
    cascade = NarrowSeparate(np.random.default_rng(0))
    cascade.load_state_dict(cascades["separate"].state_dict())
    run(tmp_path, photos).mined(cascade, 1)
    for kind in ("positives", "negatives"):
        name = f"mined24.{kind}.npz"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


# ------------------------------------------------------------------ what the trainings see


def test_joint_and_control_train_on_the_same_batches(finished, photos, monkeypatch):
    """The comparison is paired: both draw the same patches, mirrored and coloured alike."""
    drawn, draw = [], facecraft.BatchSource.draw

    def recording(self, rng):
        drawn.append(draw(self, rng))
        return drawn[-1]

    def one_batch_of_the_last_two(name, net, losses, schedule, folder, rng, *_, **__):
        if name in ("joint", "control"):
            losses(rng)

    monkeypatch.setattr(facecraft.BatchSource, "draw", recording)
    monkeypatch.setattr(cascade_run, "train_phase", one_batch_of_the_last_two)
    run(finished[0], photos).run(with_control=True)
    assert len(drawn) == 2
    for joint, control in zip(*drawn, strict=True):
        np.testing.assert_array_equal(joint, control)


def test_targets_have_zero_mean_and_unit_variance_over_the_positives(rng):
    """FC-10: of the patches that are trained on, and each stage by its own."""
    deltas = rng.normal([0.01, -0.02, 0.1, 0.2], [0.05, 0.06, 0.1, 0.12], (500, 4)).astype(np.float32)
    pool = Pool(np.zeros((500, 48, 48, 3), np.uint8), deltas, np.ones(500, np.float32))
    cascade = SeparateCascade(rng)
    run(".", []).set_statistics(cascade, 1, pool)
    scaled = normalised(cascade, 1, deltas)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-4)
    assert (cascade.deltas_std[[0, 2]] == 1).all()
    squares = np.array([[0, 0, 24, 24]], np.float32)
    face = cascade.box_coder(1).decode(squares, scaled[:1])
    np.testing.assert_allclose(cascade.box_coder(0).decode(squares, deltas[:1]), face, atol=1e-4)


def test_a_single_positive_has_no_deviation_to_divide_by(rng):
    pool = Pool(np.zeros((1, 48, 48, 3), np.uint8), np.ones((1, 4), np.float32), np.ones(1, np.float32))
    cascade = SeparateCascade(rng)
    run(".", []).set_statistics(cascade, 0, pool)
    assert np.isfinite(normalised(cascade, 0, pool.deltas)).all()


def test_positives_of_a_stage_exceed_its_overlap(rng):
    iou = np.array([0.7, 0.75, 0.81, 0.8], np.float32)
    pool = Pool(np.zeros((4, 48, 48, 3), np.uint8), np.arange(16, dtype=np.float32).reshape(4, 4), iou)
    chosen = above(pool, 0.8)
    assert chosen.iou.tolist() == iou[[2, 3]][iou[[2, 3]] > 0.8].tolist()
    assert len(above(pool, 0.9).patches) == 0 and len(above(empty_pool(), 0.5).patches) == 0


def test_the_share_of_an_empty_pool_goes_to_the_others(rng):
    full = Pool(np.zeros((2, 48, 48, 3), np.uint8), np.zeros((2, 4), np.float32), np.zeros(2, np.float32))
    assert [share for _, share in without_empty([(full, 0.3), (full, 0.7)])] == [0.3, 0.7]
    shares = [share for _, share in without_empty([(full, 0.3), (full, 0.3), (empty_pool(), 0.4)])]
    assert shares == pytest.approx([0.5, 0.5])


# ------------------------------------------------------------------ recipes and bad data


def test_a_shortened_recipe_only_changes_the_steps():
    short = FULL.shortened(5)
    assert [s.steps for s in (*short.schedules, short.joint)] == [5, 5, 5, 5]
    assert short.schedules[0] == replace(FULL.schedules[0], steps=5)
    assert replace(short, schedules=FULL.schedules, joint=FULL.joint) == FULL
    assert FULL.shortened(10**9) == FULL


def test_the_papers_settings():
    """Section 4.2: 5 % positives in stage one; the overlap of positives starts at 0.8 and decreases."""
    assert FULL.positive_fractions[0] == 0.05
    assert FULL.positive_iou[0] == 0.8
    assert FULL.positive_iou[0] > FULL.positive_iou[1] > FULL.positive_iou[2] >= 0.5
    assert (FULL.joint.momentum, FULL.joint.weight_decay) == (0.9, 5e-4)
    assert isinstance(FULL.joint, Schedule)


def test_every_phase_has_a_generator_of_its_own():
    first = {phase: run(".", []).rng(phase).random() for phase in PHASES}
    assert len(set(first.values())) == len(PHASES)
    assert first["x24"] == run(".", []).rng("x24").random() != run(".", [], seed=1).rng("x24").random()


def test_photos_without_faces_are_an_error_that_names_the_data(photos, tmp_path):
    nothing = make_target(np.zeros((0, 4)))
    faceless = [Photo(photo.path, lambda size: nothing) for photo in photos]
    with pytest.raises(ValueError, match=r"0 (patches of )?faces of at least 24 pixels") as error:
        run(tmp_path, faceless).run()
    assert str(tmp_path) in str(error.value)
    assert not list(tmp_path.iterdir())  # pools without a face would be resumed from, whatever the photos are by then


def test_a_pool_of_another_kind_is_refused(finished, photos, tmp_path):
    folder, _ = finished
    for kind in ("positives", "negatives"):
        (tmp_path / f"patches.{kind}.npz").write_bytes((folder / "x12.npz").read_bytes())
    with pytest.raises(ValueError, match=r"patches\.positives\.npz"):
        run(tmp_path, photos).run()


def test_weights_of_the_wrong_net_are_refused(finished, photos, tmp_path):
    folder, _ = finished
    for kind in ("positives", "negatives"):
        name = f"patches.{kind}.npz"
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "x12.npz").write_bytes((folder / "x24.npz").read_bytes())
    with pytest.raises(ValueError, match=r"x12\.npz: not weights of ProposalNet"):
        run(tmp_path, photos).run()
    assert load_arrays(tmp_path / "x12.npz")[0].keys() == load_arrays(folder / "x24.npz")[0].keys()
