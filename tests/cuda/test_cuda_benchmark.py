"""The benchmark of the GPU's kernels: all cases run and are verified, a wrong kernel is refused, the sums are right.

In the simulator its times mean nothing, and are not looked at.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minidetect.benchmark import cuda_report, cuda_suite, cuda_timing
from minidetect.benchmark.conv import Shape
from minidetect.benchmark.cuda_cases import ARITHMETIC, FULL, MEMORY, NEITHER, TINY, GpuCase, forward_case, nearly_all
from minidetect.benchmark.cuda_steps import StepCase, check_figures, extd_step, facecraft_step, run_step, step_cases
from minidetect.benchmark.cuda_suite import gpu_cases, of_ceilings, run_case, run_gpu_suite, their_contestant
from minidetect.benchmark.cuda_timing import Contestant, Plan, Stopwatch, Timing, sets_for
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import OURS, WrongResultError
from minidetect.kernels.device import empty, to_device, to_numpy
from minidetect.kernels.gpu import SIMULATED
from minidetect.kernels.relu import relu_forward

ROOT = Path(__file__).resolve().parents[2]
ALONE = Peers(1, ())
CASES = gpu_cases(TINY)


@pytest.fixture(scope="module")
def watch() -> Stopwatch:
    return Stopwatch()


def name_of(case: GpuCase) -> str:
    return f"{case.family}, {case.name}"


# ------------------------------------------------------------------------------------------------ the cases


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_case_runs_and_is_verified(case, watch):
    row = run_case(case, watch, None, 0.0)
    assert row["seconds"] > 0 and row["call"] > 0 and row["copied"] > 0 and row["sets"] >= 2
    assert math.isfinite(row["first_call"]) and "ratio" not in row
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_pytorch_computes_the_same(case):
    """Here on the processor, which has all of these operators, too."""
    torch = pytest.importorskip("torch")
    if case.name == "tiny" or "roi" in case.family:
        pytest.importorskip("torchvision")
    arrays = case.arrays()
    right = (case.expected or case.call)(*arrays)
    contestant = their_contestant(case, torch, arrays, 2, right)
    assert len(contestant.calls) == 2
    if case.peer_agrees is None:
        with pytest.raises(WrongResultError):
            their_contestant(case, torch, arrays, 2, tuple(a + 1 for a in parts(right)))


def parts(result) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def test_the_full_shapes_are_there_and_have_names_of_their_own():
    cases = gpu_cases(FULL)
    names = [(case.family, case.name) for case in cases]
    assert len(set(names)) == len(names) > 150
    assert {case.family for case in cases} == {case.family for case in CASES}
    judged = {c.family for c in cases if c.bound == MEMORY and c.bytes >= cuda_report.JUDGED_BYTES}
    assert {c.family for c in cases if c.bound == MEMORY} - judged == {"avg pool backward", "avg pool forward"} - judged
    assert {c.family for c in cases if c.bound == ARITHMETIC} == set(cuda_report.CONVOLUTIONS)
    suppressions = [c for c in cases if c.family == "nms" and cuda_report.NMS_BOXES in c.name]
    assert suppressions and all(len(case.arrays()[0]) == 10_000 for case in suppressions)


def test_bytes_by_hand():
    bytes_of = {c.family: c.bytes for c in CASES if c.name == "2x2x3x4"}  # 48 numbers
    assert bytes_of["add"] == bytes_of["relu backward"] == bytes_of["batch norm train"] == 3 * 48 * 4
    assert bytes_of["relu forward"] == bytes_of["batch norm inference"] == 2 * 48 * 4
    assert bytes_of["batch norm backward"] == 5 * 48 * 4 and bytes_of["sum of all"] == 48 * 4
    pools = {c.family: c.bytes for c in CASES if c.name == "3x3 1x2x6x5"}  # 60 numbers, and 3 x 2 windows a channel
    assert pools == {"max pool values": 4 * 72, "max pool winners": 4 * 84, "max pool backward": 4 * 84}


# ----------------------------------------------------------------------------------------- what is wrong is refused


def small_case(call, bound: str = MEMORY) -> GpuCase:
    x = np.arange(-4, 8, dtype=np.float32)
    return GpuCase("relu", "small", bound, lambda: (x,), call, expected=relu_forward, bytes=96.0)


def shifted(x):
    return relu_forward(x) * np.float32(1.01)


def unfinished(x):
    """Right but for the last number, which is not written."""
    y = empty(x.shape, x.dtype)
    y[: len(x) - 1] = relu_forward(x)[: len(x) - 1]
    return y


@pytest.mark.parametrize("wrong", [shifted, unfinished, lambda x: relu_forward(x)[:5]])
def test_a_wrong_kernel_is_refused(wrong, watch):
    run_case(small_case(relu_forward), watch, None, 0.0)
    with pytest.raises(WrongResultError, match="the processor"):
        run_case(small_case(wrong), watch, None, 0.0)


def test_a_wrong_convolution_is_refused(watch):
    case = forward_case(Shape("small", 1, 2, 4, 4, 3, 3, 1, 1), "conv forward", ARITHMETIC)
    one_filter = replace(case, expected=case.call, call=lambda x, w, b: case.call(x, w, b * np.float32(1.2)))
    with pytest.raises(WrongResultError, match="the processor"):
        run_case(one_filter, watch, None, 0.0)


def fails(x):
    raise ZeroDivisionError("on purpose")


def test_one_failure_is_reported_and_the_rest_goes_on(monkeypatch):
    cases = [small_case(fails), small_case(shifted), small_case(relu_forward)]
    monkeypatch.setattr(cuda_suite, "gpu_cases", lambda shapes: cases)
    broken = StepCase("broken step", lambda device: fails)
    monkeypatch.setattr(cuda_suite, "step_cases", lambda: [broken])
    said, saved = [], []
    document = run_gpu_suite((), 0.0, 1e3, ALONE, said.append, lambda d: saved.append(json.dumps(d)))
    assert [row["family"] for row in document["rows"]] == ["relu"] and document["steps"] == []
    assert len(document["failed"]) == 2 and "ZeroDivisionError: on purpose" in document["failed"][0]
    assert document["failed"][1].startswith("broken step: TypeError")
    assert len(document["wrong"]) == 1 and document["wrong"][0].startswith("relu, small: output 0 differs")
    assert sum("FAILED" in line or "WRONG" in line for line in said) == 3
    assert len(saved) == 5 and json.loads(saved[-1])["machine"]["gpu"]
    assert document["machine"]["simulated"] == SIMULATED


def test_what_is_not_reached_in_time_is_named(monkeypatch):
    monkeypatch.setattr(cuda_suite, "gpu_cases", lambda shapes: [small_case(relu_forward)])
    document = run_gpu_suite(["relu"], 0.0, 0.0, ALONE, lambda line: None)
    assert document["skipped"] == ["relu, small"] and document["rows"] == []


# ------------------------------------------------------------------------------------------------- the stopwatch


def test_sets_take_turns_and_so_do_their_results():
    seen = []
    contestant = Contestant([lambda k=k: (seen.append(k), k)[1] for k in range(3)])
    contestant.run(4)
    assert seen == [0, 1, 2, 0] and contestant.results == {0: 0, 1: 1, 2: 2}


def test_there_are_enough_sets_for_no_cache_to_hold_them(monkeypatch):
    monkeypatch.setattr(cuda_timing, "cache_bytes", lambda: 50e6)
    monkeypatch.setattr(cuda_timing, "MOST_SETS", 16)
    assert sets_for(26e6) == 4 and 4 * 26e6 > 2 * 50e6  # 3 would be 78 MB
    assert sets_for(500e6) == 2 and sets_for(1.0) == 16


class Scripted:
    """A stopwatch whose GPU is idle too early unless the pause is long enough."""

    def __init__(self, needed: float) -> None:
        self.needed, self.pauses = needed, []

    def between_events(self, call, new_event, pause):
        call()
        self.pauses.append(pause)
        return pause >= self.needed, 0.6


def test_a_pause_that_was_too_short_is_made_longer():
    watch, plan = Scripted(0.005), Plan(Contestant([lambda: None]), 3, 0.001)
    assert plan.batch(watch) == pytest.approx(0.2)  # 0.6 s for 3 calls
    assert watch.pauses == pytest.approx([0.001, 0.003, 0.009]) and not plan.gaps
    plan.batch(watch)
    assert watch.pauses[3:] == pytest.approx([0.009])  # it is kept


def test_a_call_that_waits_for_the_gpu_has_gaps():
    watch, plan = Scripted(math.inf), Plan(Contestant([lambda: None]), 1, 0.01)
    assert plan.batch(watch) == pytest.approx(0.6) and plan.gaps
    assert max(watch.pauses) <= cuda_timing.LONGEST_PAUSE
    before = len(watch.pauses)
    plan.batch(watch)
    assert watch.pauses[before:] == [0]


def test_the_kernels_that_measure(watch):
    """What idles and what multiplies comes to 1, from anywhere; a copy is a copy."""
    room = to_device(np.full(1, 3, np.float32))
    cuda_timing.idle[1, 1](100, room.flat)
    assert to_numpy(room)[0] == pytest.approx(1 + 2 * 0.999**100, rel=1e-4)
    out = empty(8, np.float32)
    cuda_timing.multiply_add[2, 4](2, np.float32(0.5), np.float32(0.5), out.flat)  # 16 halvings of the way to 1
    np.testing.assert_allclose(to_numpy(out), 8, rtol=1e-3)
    x, y = to_device(np.arange(9, dtype=np.float32)), empty(9, np.float32)
    cuda_timing.copy_numbers[2, 4](x.flat, y.flat)
    np.testing.assert_array_equal(to_numpy(y), np.arange(9))
    most = cuda_timing.ceilings(watch, 0.0)
    assert all(value > 0 for value in most.values())
    assert most["copy_gbytes"] == max(most["driver_copy_gbytes"], most["kernel_copy_gbytes"])


def test_ratios_and_shares_by_hand():
    timings = {OURS: Timing(np.array([1.0, 2.0, 4.0]), 3.0, False), "torch": Timing(np.full(3, 2.0), 3.0, False)}
    assert cuda_suite.ratio(timings) == 1  # the median of 2, 1 and 0.5
    assert timings[OURS].as_json()["seconds"] == 2 and timings[OURS].as_json()["spread"] == (1.5, 3.0)
    most, row = {"copy_gbytes": 2000.0, "fma_gflops": 50_000.0}, {"bytes": 3e9, "flops": 8e12, "seconds": 2.0}
    assert of_ceilings(row | {"bound": MEMORY}, most) == {"gbytes": 1.5, "gflops": 4000, "share": 1.5 / 2000}
    assert of_ceilings(row | {"bound": ARITHMETIC}, most)["share"] == 0.08
    assert of_ceilings(row | {"bound": NEITHER}, most)["share"] is None


def test_boxes_that_are_kept_may_differ_by_one_of_a_hundred():
    kept = np.arange(200)
    assert nearly_all(kept, kept[::-1]) and nearly_all(kept, kept[2:])
    assert not nearly_all(kept, kept[3:]) and not nearly_all(kept, np.arange(300))


# --------------------------------------------------------------------------------------------- training steps


@pytest.mark.parametrize("case", step_cases() if SIMULATED else [], ids=lambda case: case.name)
def test_every_training_step_runs_and_is_verified(case):
    row = run_step(case, 0.0)
    assert row["ratio"] == pytest.approx(row["cpu"] / row["seconds"]) and row["copies"]["to_gpu"] > 0
    assert row["copies"]["to_host"] > 0 and row["copies"]["to_host_bytes"] > 0
    assert set(row["figures"]) > {"norm of the gradients"}
    json.dumps(row, allow_nan=False)


def test_a_step_learns():
    for step in (extd_step(1, 32, {"width": 4, "blocks": ((1, 2),), "sides": (16,), "structure": "ssd"}, "cpu"),
                 facecraft_step(8, (), "cpu")):  # fmt: skip
        figures = [step() for _ in range(5)]
        losses = [sum(value for name, value in f.items() if "norm" not in name) for f in figures]
        assert losses == sorted(losses, reverse=True) and all(f["norm of the gradients"] > 0 for f in figures)


def test_a_wrong_step_is_refused():
    right = {"class": 2.0, "norm of the gradients": 5.0}
    check_figures("step", right, {"class": 2.0019, "norm of the gradients": 5.4}, 1e-3)
    for wrong in ({"class": 2.003}, {"class": math.nan}, {"norm of the gradients": 6.0}):
        with pytest.raises(WrongResultError, match="step: .* on the GPU"):
            check_figures("step", right, right | wrong, 1e-3)


# ------------------------------------------------------------------------------------------- targets, the tables


def row(family: str, bound: str, moved: float = 1e8, share: float | None = None, **more) -> dict:
    return {
        "family": family, "name": "10000 things", "bound": bound, "bytes": moved, "seconds": 2e-4, "call": 3e-4,
        "copied": 0.5, "gbytes": 900.0, "gflops": 8e3, "share": share, "gaps": False, "in_cache": False, **more,
    }  # fmt: skip


def document(ratio: float = 0.5) -> dict:
    rows = [
        row("relu forward", MEMORY, share=0.9), row("relu forward", MEMORY, share=0.75),
        row("relu forward", MEMORY, moved=1e6, share=0.1),  # too small to be judged
        row("add", MEMORY, share=0.69), row("conv forward", ARITHMETIC, share=0.4, ratio=ratio),
        row("conv forward", ARITHMETIC, share=0.6, ratio=2.0), row("nms", NEITHER, ratio=1.5, gaps=True),
    ]  # fmt: skip
    copies = {"to_gpu": 3, "to_gpu_bytes": 5_000_000, "to_host": 1, "to_host_bytes": 270_000}
    steps = [{"name": "EXTD-32", "seconds": 0.02, "cpu": 0.5, "ratio": 25.0, "wanted": 20, "copies": copies}]
    ceilings = dict.fromkeys(("copy_gbytes", "driver_copy_gbytes", "kernel_copy_gbytes"), 3000.0)
    ceilings |= {"fma_gflops": 60_000.0, "launch_seconds": 2e-6, "call_seconds": 2e-5}
    machine = {"gpu": "A GPU", "simulated": False, "cpu": "A chip", "cores": 16}
    made = {"machine": machine, "ceilings": ceilings, "rows": rows, "steps": steps}
    made |= {"wrong": [], "failed": [], "skipped": []}
    return made | {"targets": cuda_report.targets(made)}


def test_targets_by_hand():
    found = {t["name"].partition(":")[0] + (" mean" if "mean" in t["name"] else ""): t for t in document()["targets"]}
    measured = {name: (t["wanted"], t["measured"], t["met"]) for name, t in found.items()}
    assert measured == {
        "relu forward": (0.7, 0.75, True), "add": (0.7, 0.69, False),
        "conv forward": (0.3, 0.5, True), "conv forward mean": (0.6, pytest.approx(1.0), True),
        "conv input gradient": (0.3, None, None), "conv input gradient mean": (0.6, None, None),
        "conv weight gradient": (0.3, None, None), "conv weight gradient mean": (0.6, None, None),
        "nms of 10,000 boxes": (1.0, 1.5, True), "training step, EXTD-32": (20, 25.0, True),
    }  # fmt: skip
    assert [t["met"] for t in document(0.29)["targets"] if "conv forward: least" in t["name"]] == [False]


def test_the_tables_by_hand():
    text = cuda_report.tables(json.loads(json.dumps(document() | {"failed": ["iou, x: no"]})))
    lines = text.splitlines()
    assert lines[0] == "A GPU; cpu A chip, cores 16."
    assert "| relu forward | 10000 things | 200 us | 900 GB/s, 75% |  | 300 us | 500 ms |" in lines
    assert "| conv forward | 10000 things | 200 us | 8000 GFLOP/s, 40% | 0.50 | 300 us | 500 ms |" in lines
    assert "| nms | 10000 things | 200 us* | 900 GB/s | 1.50 | 300 us | 500 ms |" in lines
    assert "| EXTD-32 | 20 ms | 500 ms | 25.0 | 3 copies to the GPU (5 MB), 1 back (0.27 MB) |" in lines
    assert "| add: least share of the copy's bandwidth, large maps | 0.7 | 0.69 | missed |" in lines
    assert "Failed: iou, x: no" in lines and "simulator" not in text
    assert cuda_report.duration(2.5) == "2.5 s" and cuda_report.duration(0.0123) == "12.3 ms"


def test_the_script(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("gpu_kernels")
    file = tmp_path / "a folder" / "gpu.json"
    arguments = ["--only", "add", "--no-torch", "--budget", "0", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", *arguments])
    assert script.main() == 0
    assert [row["family"] for row in json.loads(file.read_text())["rows"]] == ["add"]
    assert "0 failed" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["gpu_kernels.py", "--table", str(file)])
    assert script.main() == 0
    out = capsys.readouterr().out
    assert "| add |" in out and ("**Numba's simulator" in out) == SIMULATED
