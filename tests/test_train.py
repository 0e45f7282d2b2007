"""The training loop: same seed, same bits; killed and resumed, the same bits; and errors that say where."""

from __future__ import annotations

import errno
import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from minidetect.autograd import Tensor
from minidetect.nn import Linear, Module
from minidetect.nn.checkpoint import load_arrays, save_arrays
from minidetect.ops.activation import relu
from minidetect.ops.dropout import dropout
from minidetect.train.loop import Schedule, read_log, train_phase


class Tiny(Module):
    """Two layers and a buffer that the training moves as well."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.first, self.second = Linear(5, 8, rng), Linear(8, 1, rng)
        self.seen = np.zeros(1)


class Task:
    """Regression on random data, with a random batch and dropout: everything that a resume must restore.

    stop_at: raise Stopped when that many batches have been asked for.
    """

    def __init__(self, model: Tiny, stop_at: int | None = None) -> None:
        self.model, self.stop_at, self.asked = model, stop_at, 0
        rng = np.random.default_rng(100)
        self.x = rng.standard_normal((40, 5)).astype(np.float32)
        self.y = self.x[:, :1] * self.x[:, 1:2]

    def __call__(self, rng: np.random.Generator) -> dict[str, Tensor]:
        if self.asked == self.stop_at:
            raise Stopped
        self.asked += 1
        self.model.seen += 1
        rows = rng.integers(0, 40, 8)
        hidden = dropout(relu(self.model.first(Tensor(self.x[rows]))), 0.3, rng)
        error = self.model.second(hidden) - self.y[rows]
        return {"square": (error * error).mean(), "small": (self.model.second.weight**2).sum() * 1e-3}


class Stopped(Exception):
    pass


def any_rng() -> np.random.Generator:
    """For a task without randomness."""
    return np.random.default_rng(0)


SCHEDULE = Schedule(23, lr=0.1, warm_up=4)


def train(folder, stop_at=None, seed=7, model_seed=0, schedule=SCHEDULE, every=(5, 5), name="tiny", **options):
    """One run of the loop; returns the model. every: steps between log lines, and between checkpoints."""
    model, rng = Tiny(model_seed), np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    train_phase(name, model, Task(model, stop_at), schedule, folder, rng, *every, progress=False, **options)
    return model


def weights(folder, name="tiny"):
    return (folder / f"{name}.npz").read_bytes()


def rows_of(folder, phase="tiny"):
    """The log without what the clock says."""
    rows = [row for row in read_log(folder / "log.jsonl") if row["phase"] == phase]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ------------------------------------------------------------------ one run


def test_the_loss_falls_and_the_result_is_on_disk(tmp_path):
    model = train(tmp_path, schedule=Schedule(200, lr=0.1, warm_up=4))
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(5, 201, 5))
    assert np.mean([row["square"] for row in rows[-5:]]) < 0.6 * np.mean([row["square"] for row in rows[:5]])
    assert all(row["loss"] == pytest.approx(row["square"] + row["small"], abs=2e-6) for row in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "tiny.npz"]
    for name, array in load_arrays(tmp_path / "tiny.npz")[0].items():
        np.testing.assert_array_equal(array, model.state_dict()[name])
    assert model.seen == 200 and not model.training


def test_same_seed_same_bits(tmp_path):
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        train(tmp_path / folder, seed=seed)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_the_first_step_by_hand(tmp_path):
    """w = 3, loss w**2: a gradient of 6, clipped to 2, at a rate of 0.5 / 10 in the first step of a warm-up."""

    class One(Module):
        def __init__(self) -> None:
            self.w = Tensor(np.array([3.0], np.float32), requires_grad=True)

    model = One()
    schedule = Schedule(1, lr=0.5, warm_up=10, drops=(), max_norm=2.0)

    def losses(rng):
        return {"x": (model.w**2).sum()}

    train_phase("one", model, losses, schedule, tmp_path, any_rng(), 1, 1, progress=False)
    assert model.w.data[0] == pytest.approx(3 - 0.05 * 2)
    (row,) = rows_of(tmp_path, "one")
    assert row == {"phase": "one", "step": 1, "lr": 0.05, "x": 9.0, "loss": 9.0, "norm": 6.0}


def test_the_model_trains_while_it_is_trained(tmp_path):
    model = Tiny()
    seen = []

    def losses(rng):
        seen.append((model.training, model.first.training))
        return {"x": (model.first.weight**2).sum()}

    train_phase("mode", model, losses, Schedule(2), tmp_path, any_rng(), progress=False)
    assert seen == [(True, True)] * 2 and not model.first.training


def test_a_folder_that_is_not_there_is_made(tmp_path):
    model = Tiny()
    train_phase("tiny", model, Task(model), SCHEDULE, tmp_path / "new", any_rng(), 5, 10, progress=False)
    assert weights(tmp_path / "new")


# ------------------------------------------------------------------ resume


@pytest.mark.parametrize("stop_at", [3, 5, 6, 14, 22])
def test_resumed_after_an_exception_the_bits_are_those_of_an_uninterrupted_run(tmp_path, stop_at):
    """Also where the new process has started with other weights and another generator."""
    train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", stop_at)
    assert (tmp_path / "cut" / "tiny.ckpt.npz").exists() == (stop_at >= 5)
    other = {"seed": 99, "model_seed": 99} if stop_at >= 5 else {}
    model = train(tmp_path / "cut", **other)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert model.seen == 23 and not (tmp_path / "cut" / "tiny.ckpt.npz").exists()


def test_stopped_again_and_again(tmp_path):
    """Seven batches at a time: each run ends two steps after a checkpoint, and those two are done again."""
    train(tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(Stopped):
            train(tmp_path / "cut", stop_at=7)
    train(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("part", ["momentum", "rng", "seen"])
def test_a_checkpoint_without_one_of_its_parts_would_not_resume(tmp_path, part):
    """The comparison above notices each of them: momentum, generator, and what is not trained."""
    train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", stop_at=12)
    checkpoint = tmp_path / "cut" / "tiny.ckpt.npz"
    arrays, meta = load_arrays(checkpoint)
    if part == "rng":
        meta["rng"] = np.random.default_rng(5).bit_generator.state
    else:
        for name in arrays:
            arrays[name] *= part not in name
    save_arrays(checkpoint, arrays, meta)
    train(tmp_path / "cut")
    assert weights(tmp_path / "cut") != weights(tmp_path / "whole")


def test_a_failed_checkpoint_does_not_cost_the_one_before(tmp_path, monkeypatch):
    train(tmp_path / "whole")
    replace, calls = os.replace, iter(range(100))

    def fails_the_second_time(source, target):
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_the_second_time)
    with pytest.raises(OSError, match=r"tiny\.ckpt\.npz: could not be written \(No space left"):
        train(tmp_path / "cut")
    monkeypatch.undo()
    assert load_arrays(tmp_path / "cut" / "tiny.ckpt.npz")[1]["step"] == 5
    train(tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


KILLED = textwrap.dedent("""
    '''Trains x12 on random patches, slowly, so that it can be killed between two steps.'''
    import sys, time
    from pathlib import Path
    import numpy as np
    from minidetect.autograd import Tensor
    from minidetect.detection.losses import multi_task_loss
    from minidetect.models.cascade import ProposalNet
    from minidetect.models.facecraft import TABLES
    from minidetect.train.loop import Schedule, train_phase

    def train(folder, seconds_a_step):
        data = np.random.default_rng(0)
        patches = data.standard_normal((30, 3, 12, 12)).astype(np.float32)
        deltas, labels = data.standard_normal((30, 4)), np.arange(30) % 2
        net = ProposalNet(TABLES[0], np.random.default_rng(1), 0.2)

        def losses(rng):
            time.sleep(seconds_a_step)
            rows = rng.integers(0, 30, 6)
            prediction = net.predict(net.features(Tensor(patches[rows])), rng)
            return {"x12": multi_task_loss(prediction.logits, prediction.deltas, labels[rows], deltas[rows])}

        rng = np.random.default_rng(2)
        train_phase("x12", net, losses, Schedule(40, warm_up=5), Path(folder), rng, 3, 3, progress=False)

    if __name__ == "__main__":
        train(sys.argv[1], 0.1)
""")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_and_resumed_the_bits_are_those_of_an_uninterrupted_run(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    process = subprocess.Popen([sys.executable, str(script), str(cut)])
    try:
        deadline = time.monotonic() + 60
        while not (cut / "x12.ckpt.npz").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.15)  # into the steps after the checkpoint
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert (cut / "x12.ckpt.npz").exists() and not (cut / "x12.npz").exists()
    with (cut / "log.jsonl").open("a") as file:
        file.write('{"phase": "x12", "st')  # a kill may also fall into the writing of a line
    train_x12 = runpy.run_path(str(script))["train"]
    train_x12(whole, 0)
    train_x12(cut, 0)
    assert weights(cut, "x12") == weights(whole, "x12")
    assert rows_of(cut, "x12") == rows_of(whole, "x12")
    assert sorted(p.name for p in cut.iterdir()) == ["log.jsonl", "x12.npz"]


# ------------------------------------------------------------------ the log


def test_other_phases_keep_their_lines_and_a_cut_line_is_dropped(tmp_path):
    train(tmp_path, name="first")
    before = rows_of(tmp_path, "first")
    with pytest.raises(Stopped):
        train(tmp_path, stop_at=13, name="second")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"phase": "second", "step": 13, "lr": 0.0')
    train(tmp_path, name="second")
    assert rows_of(tmp_path, "first") == before
    assert [row["step"] for row in rows_of(tmp_path, "second")] == [5, 10, 15, 20]
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_lost_log_does_not_stop_a_resume(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, stop_at=13)
    (tmp_path / "log.jsonl").unlink()
    train(tmp_path)
    assert [row["step"] for row in rows_of(tmp_path)] == [15, 20]


def test_the_first_line_after_a_resume_is_a_mean_of_the_steps_it_saw(tmp_path):
    """A loss that is always 1 is 1 in every line, also where a checkpoint falls between two lines."""
    model = Tiny()

    def run(stop_at):
        asked = iter(range(100))

        def losses(rng):
            if next(asked) == stop_at:
                raise Stopped
            return {"one": (model.first.weight * 0).sum() + 1}

        train_phase("one", model, losses, Schedule(12), tmp_path, any_rng(), 4, 3, progress=False)

    with pytest.raises(Stopped):
        run(stop_at=3)
    run(stop_at=None)
    assert [row["one"] for row in rows_of(tmp_path, "one")] == [1, 1, 1]


# ------------------------------------------------------------------ what goes wrong


def bad_at(step, model, bad):
    """Losses that are 1 until `step`, and then what `bad` makes of the model's weights."""
    asked = iter(range(100))
    return lambda rng: {"x": (bad if next(asked) == step else lambda w: (w * 0).sum() + 1)(model.first.weight)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path, value):
    model = Tiny()
    losses = bad_at(7, model, lambda w: (w * 0).sum() + value)
    with pytest.raises(FloatingPointError, match=r"step 7: the loss is (nan|inf).*check_nan"):
        train_phase("bad", model, losses, SCHEDULE, tmp_path, any_rng(), 5, 5, progress=False)
    assert load_arrays(tmp_path / "bad.ckpt.npz")[1]["step"] == 5
    for p in model.parameters():
        assert np.isfinite(p.data).all()


def test_with_check_nan_the_operation_is_named(tmp_path):
    model = Tiny()
    losses = bad_at(7, model, lambda w: (w * np.float32(np.inf)).sum())
    with pytest.raises(FloatingPointError, match=r"step 7: .*Mul"):
        train_phase("bad", model, losses, SCHEDULE, tmp_path, any_rng(), 5, 5, check_nan=True, progress=False)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_gradient_that_is_not_finite_is_named_with_check_nan(tmp_path):
    """The root of zero is zero, its slope is not a number."""
    model = Tiny()
    losses = bad_at(7, model, lambda w: ((w * 0) ** 0.5).sum())
    with pytest.raises(FloatingPointError, match=r"step 7: gradient 0 of Power"):
        train_phase("bad", model, losses, SCHEDULE, tmp_path, any_rng(), 5, 5, check_nan=True, progress=False)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_gradient_that_is_not_finite_names_the_step(tmp_path):
    model = Tiny()
    losses = bad_at(7, model, lambda w: ((w * 0) ** 0.5).sum())
    with pytest.raises(FloatingPointError, match="step 7"):
        train_phase("bad", model, losses, SCHEDULE, tmp_path, any_rng(), 5, 5, progress=False)


def test_a_finished_phase_is_loaded_and_not_trained_again(tmp_path):
    first = train(tmp_path)
    before = (tmp_path / "log.jsonl").read_bytes()
    again = train(tmp_path, stop_at=0, model_seed=99)  # a single batch would raise Stopped
    for name, array in first.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)
    assert (tmp_path / "log.jsonl").read_bytes() == before


class Other(Module):
    def __init__(self) -> None:
        self.weight = Linear(2, 3, np.random.default_rng(0)).weight


def untouched(model, path, folder, says):
    before = model.state_dict()
    with pytest.raises(ValueError, match=says) as error:
        train_phase("tiny", model, lambda rng: {}, SCHEDULE, folder, any_rng(), progress=False)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, stop_at=7)
    untouched(Other(), tmp_path / "tiny.ckpt.npz", tmp_path, "not weights of Other")


def test_finished_weights_of_another_model_are_refused(tmp_path):
    train(tmp_path)
    untouched(Other(), tmp_path / "tiny.npz", tmp_path, "not weights of Other")


def test_weights_in_the_place_of_a_checkpoint_are_refused(tmp_path):
    train(tmp_path)
    (tmp_path / "tiny.npz").rename(tmp_path / "tiny.ckpt.npz")
    untouched(Tiny(5), tmp_path / "tiny.ckpt.npz", tmp_path, "not a training checkpoint")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with pytest.raises(Stopped):
        train(tmp_path, stop_at=7)
    path = tmp_path / "tiny.ckpt.npz"
    path.write_bytes(path.read_bytes()[:-100])
    untouched(Tiny(5), path, tmp_path, "not a readable .npz")
