"""Whole tasks: a photo through FaceCraft, a training step of its joint network, EXTD-32.

    pip install -e ".[peers]"
    python benchmarks/end_to_end.py [--data DIR] [--threads 1 2] [--json benchmarks/results/end_to_end.json]

DIR has WIDER FACE's layout (see README): photos of its validation part are scaled and cropped to 640 x 480.
Without it a drawn crowd of that size stands for them. What has a peer is verified first, and timed in turn.
Printed are medians, and in brackets the fastest of all turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from extd_peers import calibrated, in_onnxruntime, in_torch
from joint_step import Batch, TorchJointNet, our_step, torch_step

import minidetect
from minidetect.autograd import Tensor, no_grad
from minidetect.benchmark.machine import describe, usable_cores
from minidetect.benchmark.peers import Peers
from minidetect.benchmark.timing import OURS, WrongResultError, compare, quartiles, time_in_turns
from minidetect.data.images import load_image
from minidetect.data.synthetic import draw_crowd
from minidetect.data.wider_face import read_wider
from minidetect.kernels.dispatch import set_num_threads
from minidetect.kernels.resize import resize_image
from minidetect.models.facecraft import JointCascade
from minidetect.nn.fuse import fuse

SIZE = (480, 640)
TASKS = ("facecraft", "step", "extd")


def row(what: str, threads: int, times: dict[str, np.ndarray], bar: str = "", met: bool | None = None) -> dict:
    """One entry of the JSON: see table.py."""
    return {
        "what": what, "threads": threads, "seconds": {name: float(np.median(t)) for name, t in times.items()},
        "spread": {name: quartiles(t) for name, t in times.items()},
        "fastest": {name: float(t.min()) for name, t in times.items()}, "bar": bar, "met": met,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------ FaceCraft


def vga(image: np.ndarray) -> np.ndarray:
    """Scaled until it covers 640 x 480, and cut out of the middle."""
    scale = max(SIZE[0] / image.shape[0], SIZE[1] / image.shape[1])
    large = resize_image(image, tuple(max(s, round(n * scale)) for s, n in zip(SIZE, image.shape, strict=False)))
    top, left = ((n - s) // 2 for n, s in zip(large.shape, SIZE, strict=False))
    return np.ascontiguousarray(large[top : top + SIZE[0], left : left + SIZE[1]])


def photos(data: Path | None, count: int) -> list[np.ndarray]:
    """The drawn crowd, or as many photos spread over WIDER FACE's validation part."""
    if data is None:
        return [draw_crowd(size=SIZE).image]
    records = read_wider(data / "wider" / "wider_val_bbx_gt.txt", data / "wider" / "val")
    return [vga(load_image(record.path)) for record in records[:: max(1, len(records) // count)][:count]]


def facecraft(images: list[np.ndarray], peers: Peers) -> dict:
    """Seconds a photo; the median over all photos and repetitions."""
    detector = minidetect.load("facecraft")
    rounds = max(5, 60 // len(images))
    detector.detect([images[0]], min_face=24)
    turns = [time_in_turns({OURS: lambda i=i: detector.detect([i], min_face=24)}, 0, rounds)[OURS] for i in images]
    times = {OURS: np.concatenate(turns)}
    what = f"FaceCraft, 640 x 480 ({'drawn crowd' if len(images) == 1 else f'{len(images)} photos'}), faces from 24 px"
    median = float(np.median(times[OURS]))
    return row(what, peers.threads, times, *(("33 ms", median <= 0.033) if peers.threads == 1 else ()))


# -------------------------------------------------------------------------------------- training step


def training_step(peers: Peers, budget: float) -> dict:
    model, batch = JointCascade(np.random.default_rng(0)), Batch(np.random.default_rng(1))
    calls = {OURS: our_step(model, batch)}
    if peers.torch:
        net = TorchJointNet(model, peers)
        calls["torch"] = torch_step(net, batch, peers)
        for step in range(2):  # the second sees the first one's update
            ours, theirs = calls[OURS](), calls["torch"]()
            for name in ours:
                if not abs(ours[name] - theirs[name]) <= 1e-4 * abs(theirs[name]):
                    raise WrongResultError(f"step {step}, loss of {name}: {ours[name]} here, {theirs[name]} in torch")
        for name, p in model.named_parameters():
            compare(p.data, net.parameters[name].detach(), f"torch's {name}", 1e-4)
    peers.check_threads()
    times = time_in_turns(calls, budget)
    met = float(np.median(times["torch"] / times[OURS])) >= 1.3 if peers.torch else None
    return row("training step of the joint net, batch 128", peers.threads, times, "1.3 x PyTorch", met)


# ----------------------------------------------------------------------------------------------- EXTD


def extd(peers: Peers, budget: float) -> dict:
    model = calibrated(np.random.default_rng(0))
    fused = fuse(model)
    x = np.random.default_rng(1).standard_normal((1, 3, 640, 640), np.float32)

    def run(net) -> list[np.ndarray]:
        with no_grad():
            return [output.data for output in net.predict(Tensor(x))[:2]]

    calls = {OURS: lambda: run(fused), "minidetect, not fused": lambda: run(model)}
    if peers.torch:
        calls["torch"] = in_torch(model, x, peers, fold=False)
        calls["torch, norms folded"] = in_torch(model, x, peers, fold=True)
    if peers.ort:
        calls["onnxruntime"] = in_onnxruntime(model, x, peers)
    ours = calls[OURS]()
    for name, call in calls.items():
        compare(ours, call(), name, 1e-3)  # 42 blocks deep, rounded differently
    peers.check_threads()
    times = time_in_turns(calls, budget)
    median = float(np.median(times[OURS]))
    bar = ("0.30 s", median <= 0.30) if peers.threads == 1 else ()
    return row("EXTD-32, 640 x 640", peers.threads, times, *bar)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with wider/ in it")
    parser.add_argument("--photos", type=int, default=198, help="how many of them (default: 198)")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, usable_cores())}))
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--budget", type=float, default=15, help="seconds of timing a task (default: 15)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    images, rows = photos(arguments.data, arguments.photos), []
    for threads in arguments.threads:
        set_num_threads(threads)
        peers = Peers(threads)
        tasks = {
            "facecraft": lambda peers=peers: facecraft(images, peers),
            "step": lambda peers=peers: training_step(peers, arguments.budget),
            "extd": lambda peers=peers: extd(peers, arguments.budget),
        }
        for name in arguments.only:
            rows.append(tasks[name]())
            medians, fastest = rows[-1]["seconds"], rows[-1]["fastest"]
            times = ", ".join(f"{who} {medians[who] * 1000:.1f} ({fastest[who] * 1000:.1f}) ms" for who in medians)
            verdict = {True: ": met", False: ": MISSED", None: ""}[rows[-1]["met"]]
            print(f"{rows[-1]['what']}, {threads} thread(s): {times}   {rows[-1]['bar']}{verdict}", flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": describe(Peers(1)), "whole": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
