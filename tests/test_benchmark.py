"""The benchmarks: they refuse wrong results, their arithmetic is right, and README shows what was measured."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command import run

from minidetect.autograd import Tensor
from minidetect.benchmark import conv, report, suite
from minidetect.benchmark.conv import Shape, backward_contest, forward_contest
from minidetect.benchmark.machine import cpu_model, describe, memory_gbytes, peak_gflops, usable_cores
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import (
    OURS,
    Case,
    Contest,
    WrongResultError,
    compare,
    run_case,
    time_in_turns,
    verify,
)

ROOT = Path(__file__).resolve().parents[1]
ALONE = Peers(1, ())  # no peer, even where some are installed
CASES = suite.all_cases()
SHORT = suite.all_cases(short=True)


@pytest.fixture
def script(monkeypatch):
    """A function that imports a file of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(ROOT / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def case(ours, peers=None, check=None, **more) -> Case:
    return Case("family", "name", 100.0, 10.0, lambda _: Contest(ours, peers or {}, check, **more))


# ---------------------------------------------------------------------------------- verify, then time


@pytest.mark.parametrize(
    "wrong", [np.array([1.0, 2.1]), np.array([1.0, np.nan]), np.array([1.0, 2.0, 3.0]), np.array([[1.0, 2.0]])]
)
def test_a_wrong_result_is_refused(wrong):
    right = np.array([1.0, 2.0])
    for contest in ((lambda: wrong, lambda: right), (lambda: right, lambda: wrong)):
        with pytest.raises(WrongResultError, match="family, name: output 0 .* peer"):
            run_case(case(contest[0], {"peer": contest[1]}), ALONE, 0)


def test_how_much_may_differ():
    a = np.array([1.0, 2.0, 4.0, 4.0])
    compare(a, a + 4e-4, "x", 1e-4 + 1e-9)  # of the largest value, 4
    with pytest.raises(WrongResultError, match="4 of 4"):
        compare(a, a + 5e-4, "x", 1e-4)
    compare(a, a + [1, 0, 0, 0], "x", 1e-4, wrong_share=0.25)
    with pytest.raises(WrongResultError):
        compare(a, a + [1, 1, 0, 0], "x", 1e-4, wrong_share=0.25)
    compare((a, None), (a, a + 1), "x", 0)
    compare(np.zeros((0, 4)), np.zeros((0, 4)), "x", 0)


def test_without_a_peer_the_slow_twin_is_believed():
    def check(y):
        compare(y, np.ones(3), "the twin", 1e-6)

    verify(Contest(lambda: None, {}, check), np.ones(3))
    with pytest.raises(WrongResultError, match="the twin"):
        verify(Contest(lambda: None, {}, check), np.zeros(3))


def test_the_ratio_is_the_peers_time_over_ours():
    y = np.ones(2)

    def sleeps(seconds):
        return lambda: (time.sleep(seconds), y)[1]

    result = run_case(case(sleeps(0.002), {"slow": sleeps(0.02)}), ALONE, 0)
    assert result.rounds == 5 and 4 < result.ratio["slow"] < 12
    assert result.seconds[OURS] < result.seconds["slow"] and result.first_call >= 0.002
    assert result.spread[OURS][0] <= result.seconds[OURS] <= result.spread[OURS][1]
    assert result.gflops == pytest.approx(100 / result.seconds[OURS] / 1e9)
    json.dumps(result.as_json(), allow_nan=False)


def test_contestants_take_turns():
    seen = []
    time_in_turns({"a": lambda: (time.sleep(0.005), seen.append("a")), "b": lambda: seen.append("b")}, 0, least=3)
    turns = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    assert turns[-6:] == ["a", "b"] * 3


def test_one_thread_is_one_thread_in_torch_too():
    """Numba's pool, as it started, used to set PyTorch's number of threads to the machine's."""
    pytest.importorskip("torch")
    code = """
import numpy as np
from minidetect.benchmark.peers import Peers
from minidetect.kernels.dispatch import set_num_threads
from minidetect.kernels.prelu import prelu_forward
peers = Peers(1)
set_num_threads(1)
prelu_forward(np.ones((4, 2, 8, 8), np.float32), np.ones(2, np.float32))
peers.check_threads()
peers.torch.set_num_threads(2)
try:
    peers.check_threads()
except RuntimeError as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "PyTorch uses 2 threads, not 1\n", done.stderr


# -------------------------------------------------------------------------------------------- cases


def test_every_case_has_a_name_of_its_own_and_every_bar_a_case():
    names = [(c.family, c.name) for c in CASES]
    assert len(set(names)) == len(names) > 150
    families = list(dict.fromkeys(c.family for c in CASES))
    assert set(report.BARS) <= set(families) == {c.family for c in SHORT} | {"nms of 1000"}
    assert [f for f, g in zip(families, families[1:], strict=False) if f == g] == []  # no family twice
    assert {c.family for c in suite.all_cases(families=("conv", "nms"))} == {
        "conv forward", "conv input gradient", "conv weight gradient", "nms", "nms of 1000",
    }  # fmt: skip
    assert len(SHORT) < 50


def test_flops_and_bytes_by_hand():
    s = Shape("", 2, 3, 5, 5, 4, 3)  # 2 images, 3 x 3 positions, 4 filters of 27 weights
    assert s.out == (3, 3) and s.flops == 2 * 2 * 9 * 4 * 27
    assert s.bytes == 4 * (2 * 3 * 25 + 2 * 4 * 9 + 4 * 27)
    d = Shape("", 1, 8, 4, 4, 8, 3, stride=2, padding=1, groups=8)
    assert d.out == (2, 2) and d.flops == 2 * 8 * 4 * 9 and d.bytes == 4 * (8 * 16 + 8 * 4 + 8 * 9)


SMALLEST = {c.family: c for c in sorted(CASES, key=lambda c: -c.bytes) if not c.name.startswith("10000")}


@pytest.mark.parametrize("family", SMALLEST)
def test_the_smallest_case_of_each_family_agrees_with_the_slow_twin(family):
    contest = SMALLEST[family].build(ALONE)
    verify(contest, contest.ours())


@pytest.mark.parametrize("family", SMALLEST)
def test_the_smallest_case_of_each_family_agrees_with_the_peers(family):
    peers = Peers(1)
    contest = SMALLEST[family].build(peers)
    if not contest.peers:
        pytest.skip("no peer with this operation is installed: pip install -e .[peers]")
    verify(contest, contest.ours())


SMALL = Shape("small", 2, 3, 9, 11, 5, 3, 2, 1)


@pytest.mark.parametrize("shape", [SMALL, replace(SMALL, o=3, groups=3), replace(SMALL, c=4, o=6, groups=2)])
def test_the_checks_of_convolution_find_what_is_wrong(shape, monkeypatch):
    """Right as it is; wrong when a column at the border, one filter or one gradient is."""
    contests = [forward_contest(shape)(ALONE), backward_contest(shape, (True, True))(ALONE)]
    for contest in contests:
        verify(contest, contest.ours())
    y = contests[0].ours()
    for place in (np.s_[-1, -1, -1, -1], np.s_[:, 0], np.s_[..., -1]):
        bad = y.copy()
        bad[place] += 0.1
        with pytest.raises(WrongResultError, match="by the definition"):
            contests[0].check(bad)
    gx, gw = contests[1].ours()
    for bad in ((gx * 1.01, gw), (gx, gw * 1.01), (np.roll(gx, 1, 3), gw), (gx, gw[:, :, ::-1])):
        with pytest.raises(WrongResultError, match="along a direction"):
            contests[1].check(bad)


def test_a_wrong_kernel_is_reported_and_not_timed(monkeypatch):
    right = conv.conv2d_forward
    monkeypatch.setattr(conv, "conv2d_forward", lambda *a, **k: 1.01 * right(*a, **k))
    cases = [Case("conv forward", "small", SMALL.flops, SMALL.bytes, forward_contest(SMALL))]
    said = []
    found = suite.run_suite(cases, ALONE, 0, said.append)
    assert found["results"] == [] and len(found["wrong"]) == 1 and "conv forward, small" in found["wrong"][0]
    assert any("WRONG" in line for line in said)


# --------------------------------------------------------------------------------- machine and report


def test_the_machine_is_described_and_has_roofs():
    machine = describe(ALONE)
    assert machine["cpu"] == cpu_model() != "" and machine["cores"] == usable_cores() >= 1
    assert "torch" not in machine and machine["numpy"] == np.__version__
    json.dumps(machine)
    assert all(1 < value < 10_000 for value in peak_gflops(1).values())
    assert 0.5 < memory_gbytes() < 10_000


def result(family: str, name: str, **ratio: float) -> dict:
    return {"family": family, "name": name, "ratio": ratio, "flops": 8e9, "bytes": 1e9, "seconds": {OURS: 2.0}}


def test_geometric_mean_by_hand():
    assert report.geometric_mean([2, 0.5]) == pytest.approx(1)
    assert report.geometric_mean([1, 2, 4]) == pytest.approx(2)
    assert math.isnan(report.geometric_mean([]))


@pytest.mark.parametrize(("slower", "met"), [(0.9, True), (0.89, False)])  # none below 0.9
def test_a_family_against_its_bar(slower, met):
    cases = [result("conv forward", "a", torch=1.7, onnxruntime=0.5), result("conv forward", "b", torch=slower)]
    (row,) = report.summarise(cases)
    assert row["ratios"]["torch"] == pytest.approx(math.sqrt(1.7 * slower))
    assert row["ratios"]["fastest"] == pytest.approx(math.sqrt(0.5 * slower))
    assert (row["worst"], row["worst_case"], row["met"]) == (slower, "b", met)
    assert ("met" if met else "MISSED (b is the worst)") in report.bar_text(row)


def test_a_bar_against_the_fastest_peer_and_none_without_one():
    (row,) = report.summarise([result("nms", "a", onnxruntime=3.0, opencv=1.9)])
    assert row["against"] == "fastest" and row["worst"] == 1.9 and row["met"] is False
    alone, other = report.summarise([result("nms", "a"), result("softmax", "b", torch=3.0)])
    assert alone["met"] is None and alone["worst"] is None and report.bar_text(alone) == ""
    assert other["met"] is None and other["worst"] == 3.0
    assert "nothing to compare with" in report.summary_lines([alone])[0]


def test_the_roof_is_the_lower_of_memory_and_arithmetic():
    roofs = {"gflops": {"fma": 100.0, "sgemm": 90.0}, "gbytes": 10.0}
    assert report.roof_gflops(2, roofs) == 20 and report.roof_gflops(50, roofs) == 100
    assert report.speed(result("", ""), roofs).split() == ["4.0", "GFLOP/s", "5%", "of", "the", "roof"]  # of 80
    assert report.speed(result("", "") | {"flops": 0}, roofs).split() == ["0.5", "GB/s", "5%", "of", "memory"]


def test_the_roofline_is_drawn(tmp_path):
    roofs = {"gflops": {"fma": 100.0}, "gbytes": 10.0}
    cases = [result("a", "1"), result("b", "2"), result("c", "3") | {"flops": 0}]
    cases[1]["seconds"]["torch"] = 4.0
    runs = [{"threads": n, "roofs": roofs, "results": cases} for n in (1, 2)]
    figure = report.plot_roofline(runs, tmp_path / "roof.png")
    assert (tmp_path / "roof.png").stat().st_size > 10_000 and len(figure.axes) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]


# ------------------------------------------------------------------------------ the command, the table


def test_the_command(capsys, monkeypatch, tmp_path):
    small = [Case("conv forward", "small", SMALL.flops, SMALL.bytes, forward_contest(SMALL))]
    monkeypatch.setattr(suite, "all_cases", lambda short: small)
    outcome = run(capsys, "bench", "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    assert outcome.code == 0 and "conv forward" in outcome.out and "GB/s" in outcome.out
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["runs"][0]["results"][0]["name"] == "small" and document["machine"]["cores"] >= 1
    assert (tmp_path / "a.png").exists()
    wrong = Case("conv forward", "wrong", 0, 0, lambda _: Contest(lambda: np.ones(2), {"peer": lambda: np.zeros(2)}))
    monkeypatch.setattr(suite, "all_cases", lambda short: [wrong])
    assert run(capsys, "bench").code == 2


def document(met: bool) -> dict:
    def summary(mean: float, worst: float, met: bool) -> dict:
        ratios = {"torch": mean, "fastest": mean}
        return {"family": "conv forward", "cases": 9, "ratios": ratios, "against": "torch", "worst": worst,
                "bar": [1.2, 0.9], "met": met}  # fmt: skip

    machine = {"date": "2026-01-02", "cpu": "A chip", "cores": 2, "float32_lanes": 16, "python": "3.12.1",
               "numpy": "2.4.6", "numba": "0.68.1", "torch": "2.13.0"}  # fmt: skip
    whole = [{"what": "a photo", "threads": 1, "seconds": {OURS: 0.0301, "torch": 1.25}, "bar": "33 ms", "met": True}]
    runs = [{"threads": n, "summary": [summary(1.25, 0.95, ok)]} for n, ok in ((1, True), (2, met))]
    return {"machine": machine, "runs": runs, "whole": whole}


def test_the_table_by_hand(script):
    table = script("table")
    lines = table.tables([document(True)]).splitlines()
    assert lines[0].startswith("Measured on 2026-01-02: A chip, 2 cores, vectors of 16 float32; Python 3.12.1")
    assert "| conv forward | 9 | PyTorch | 1.25 (0.95) | 1.25 (0.95) | 1.2 (0.9) | met |" in lines
    assert "| a photo | 1 | 30.1 ms | PyTorch 1.25 s | 33 ms | met |" in lines
    assert "| 1.2 (0.9) | missed |" in table.tables([document(False)])


def test_only_what_stands_between_the_markers_is_replaced(script):
    table = script("table")
    readme = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.with_tables(readme, "new\n") == f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
    for text in ("no markers", f"only {table.BEGIN}"):
        with pytest.raises(ValueError, match=r"README.md needs the lines"):
            table.with_tables(text, "new\n")


def test_readme_shows_what_the_committed_figures_say(script):
    table = script("table")
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    readme = (ROOT / "README.md").read_text()
    if not files and table.BEGIN not in readme:
        pytest.skip("no figures are committed yet")
    text = table.tables([json.loads(file.read_text()) for file in files])
    assert table.with_tables(readme, text) == readme, "python benchmarks/table.py benchmarks/results/*.json --readme"


# ------------------------------------------------------------------------------------- whole tasks


def test_the_peers_compute_extd_as_well(script):
    extd, peers = script("extd_peers"), Peers(1)
    model = extd.calibrated(np.random.default_rng(0))
    assert len(extd.units_of(model.start)) == 3 and len(extd.units_of(model.backbones[0])) == 18
    x = np.random.default_rng(1).standard_normal((1, 3, 96, 64), np.float32)
    assert all(0.1 < np.abs(f.data).mean() < 10 for f in model.iterate(Tensor(x)))
    ours = [output.data for output in model.predict(Tensor(x))[:2]]
    assert [output.shape[1] for output in ours] == [24 * 16 + 12 * 8 + 6 * 4 + 3 * 2 + 2 + 1] * 2
    calls = []
    if peers.torch:
        calls += [extd.in_torch(model, x, peers, fold) for fold in (False, True)]
    if peers.ort:
        calls.append(extd.in_onnxruntime(model, x, peers))
    if not calls:
        pytest.skip("neither torch nor onnxruntime is installed: pip install -e .[peers]")
    for call in calls:
        compare(ours, call(), "the peer", 1e-4)


def test_torch_trains_the_joint_net_alike(script, monkeypatch):
    pytest.importorskip("torch")
    joint, peers = script("joint_step"), Peers(1)
    monkeypatch.setattr(joint, "RATE", 0.01)
    model = joint.JointCascade(np.random.default_rng(0))
    batch = joint.Batch(np.random.default_rng(1))
    net = joint.TorchJointNet(model, peers)
    ours, theirs = joint.our_step(model, batch), joint.torch_step(net, batch, peers)
    before, ulp = {name: p.data.copy() for name, p in model.named_parameters()}, 1.2e-7  # of parameters up to 1
    for _ in range(2):
        assert ours() == pytest.approx(theirs(), rel=1e-4)
    for name, p in model.named_parameters():
        step, their_step = p.data - before[name], net.parameters[name].detach().numpy() - before[name]
        assert np.abs(step).max() > 0, name
        np.testing.assert_allclose(step, their_step, rtol=0, atol=1e-3 * np.abs(their_step).max() + ulp, err_msg=name)
