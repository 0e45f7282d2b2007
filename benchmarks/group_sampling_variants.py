"""GS-M1 to GS-M7: what does balance between scales do? Miniatures on drawn faces, three paired seeds.

    python benchmarks/group_sampling_variants.py --out FOLDER [--seeds 0 1 2] [--steps 400] [--json FILE]

Group Sampling's Tables 3, 7, 8 and 9 and its Figure 6, with half of its scales and strides (8, 16, 32, 64 pixels), a
small network and some hundred steps of Adam on scenes of 96 pixels. Trainings of one seed begin with the same weights,
as far as their shapes agree, and see the same scenes in the same order. Every result is average precision in percent
on scenes with other heads: at an IoU of 0.5 over all faces and by size, at an IoU of 0.7, and "@S", over all faces but
with the anchors of scale S alone.

    GS-M1  random or grouped samples        GS-M4  losses of the boxes (see the column "all at 0.7")
    GS-M2  hard examples in groups          GS-M6  more samples
    GS-M3  FPN, FPN-finest-stride           GS-M7  one scale alone, all, all in groups
    GS-M5  needs no training: lesson 06     heads  dilated; SSD; RetinaFace's on FPN's anchors (Table 6)

A detector without groups takes 4 N samples of a step, one with groups N of each scale. With the anchors of one scale
alone (GS-M7) it takes 4 N of that scale, four times as many as groups give it. The focal loss begins without its
authors' prior (focal_loss.py).

What is finished in FOLDER is not run again. With other settings it is refused: choose another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from same_settings import check_same_settings, kept_or_run

from minidetect.detection.anchor_layout import LAYOUTS
from minidetect.models.layout_detector import LayoutDetector
from minidetect.train.drawn_faces import SPANS, DrawnFaces, drawn_faces, measure_sub_detectors, train_mini
from minidetect.train.layouts import losses_of

SCALES = (8, 16, 32, 64)
COLUMNS = (*SPANS, "all at 0.7", *(f"@{scale}" for scale in SCALES))
RATE, IMAGES = 0.002, 4  # of Adam; scenes a step


class Condition(NamedTuple):
    """num: N of train/layouts.py; only: a single scale to train, or 0 for all."""

    layout: str = "fpn-finest"
    sampler: str = "random"
    num: int = 64
    box_loss: str = "least-squares"
    head: str = "shared"
    only: int = 0


CONDITIONS = {
    "finest random": Condition(),
    "finest gs": Condition(sampler="gs"),
    "finest gs+wrs": Condition(sampler="gs+wrs"),
    "fpn random": Condition("fpn"),
    "finest-stride random": Condition("fpn-finest-stride"),
    "finest gs smooth-l1": Condition(sampler="gs", box_loss="smooth-l1"),
    "finest gs neg-log": Condition(sampler="gs", box_loss="neg-log"),
    "finest random N=16": Condition(num=16),
    "finest random N=256": Condition(num=256),
    "finest gs N=16": Condition(sampler="gs", num=16),
    "finest gs N=256": Condition(sampler="gs", num=256),
    "fpn random N=16": Condition("fpn", num=16),
    "fpn random N=256": Condition("fpn", num=256),
    **{f"finest only {scale}": Condition(only=scale) for scale in SCALES},
    "finest wrs": Condition(sampler="wrs"),
    "finest ohem": Condition(sampler="ohem"),
    "finest focal*": Condition(sampler="focal*"),
    "finest focal": Condition(sampler="focal"),
    "finest gs+ohem": Condition(sampler="gs+ohem"),
    "finest gs+focal*": Condition(sampler="gs+focal*"),
    "fpn gs": Condition("fpn", "gs"),
    "fpn gs+wrs": Condition("fpn", "gs+wrs"),
    "rpn random": Condition("rpn"),
    "rpn gs": Condition("rpn", "gs"),
    "finest dilated random": Condition(head="dilated"),
    "finest dilated gs": Condition(sampler="gs", head="dilated"),
    "ssd random": Condition("ssd", head="own"),
    "ssd gs": Condition("ssd", "gs", head="own"),
    "fpn context random": Condition("fpn", head="context"),
    "fpn context gs": Condition("fpn", "gs", head="context"),
}
COMPARISONS = {  # of the first with the second: the difference of their AP
    "GS-M1 finest, gs - random": ("finest gs", "finest random"),
    "GS-M2 finest, gs+wrs - gs": ("finest gs+wrs", "finest gs"),
    "GS-M2 fpn, gs+wrs - gs": ("fpn gs+wrs", "fpn gs"),
    "GS-M3 fpn - finest-stride": ("fpn random", "finest-stride random"),
    "GS-M3 fpn - finest": ("fpn random", "finest random"),
    "GS-M4 least squares - smooth-l1": ("finest gs", "finest gs smooth-l1"),
    "GS-M4 neg-log - smooth-l1": ("finest gs neg-log", "finest gs smooth-l1"),
    "GS-M4 least squares - neg-log": ("finest gs", "finest gs neg-log"),
    "GS-M6 finest random, N 256 - 16": ("finest random N=256", "finest random N=16"),
    "GS-M6 fpn random, N 256 - 16": ("fpn random N=256", "fpn random N=16"),
    "GS-M6 finest gs, N 256 - 16": ("finest gs N=256", "finest gs N=16"),
    **{f"GS-M7 only {scale} - all": (f"finest only {scale}", "finest random") for scale in SCALES},
    **{f"GS-M7 gs - only {scale}": ("finest gs", f"finest only {scale}") for scale in SCALES},
    "finest, wrs - random": ("finest wrs", "finest random"),
    "finest, ohem - random": ("finest ohem", "finest random"),
    "finest, focal* - random": ("finest focal*", "finest random"),
    "finest, focal - focal*": ("finest focal", "finest focal*"),
    "finest, gs+ohem - gs": ("finest gs+ohem", "finest gs"),
    "finest, gs+focal* - gs": ("finest gs+focal*", "finest gs"),
    "fpn, gs - random": ("fpn gs", "fpn random"),
    "rpn, gs - random": ("rpn gs", "rpn random"),
    "dilated - shared, random": ("finest dilated random", "finest random"),
    "dilated - shared, gs": ("finest dilated gs", "finest gs"),
    "ssd, gs - random": ("ssd gs", "ssd random"),
    "fpn context, gs - random": ("fpn context gs", "fpn context random"),
}


def make(seed: int, condition: Condition) -> LayoutDetector:
    layout = LAYOUTS[condition.layout].shrunk(2)
    if condition.only:
        layout = layout.only((condition.only,))
    rng = np.random.default_rng(seed)
    return LayoutDetector(rng, layout, condition.head, width=16, features=32, widths=(16, 24, 32, 48), stem=8)


def run(seed: int, name: str, steps: int, train: DrawnFaces, test: DrawnFaces) -> dict:
    """One training and what came of it."""
    condition, start = CONDITIONS[name], time.process_time()
    model = make(seed, condition)
    losses = losses_of(condition.sampler, condition.num, condition.box_loss)
    log = train_mini(model, train, steps, np.random.default_rng([seed, 1]), IMAGES, lr=RATE, losses=losses)
    seconds = time.process_time() - start
    last = log[-len(log) // 10 :]
    return {
        "seed": seed, "condition": name, "parameters": model.num_parameters(),
        "ap": {size: round(ap, 2) for size, ap in measure_sub_detectors(model, test).items()},
        "loss": {key: round(float(np.mean([row[key] for row in last])), 3) for key in ("class", "box")},
        "seconds": round(seconds, 1),
    }  # fmt: skip


def differences(rows: Sequence[dict]) -> dict[str, dict[str, list[float]]]:
    """For each comparison and column that both have the differences of AP, one a seed."""
    ap = {(row["seed"], row["condition"]): row["ap"] for row in rows}
    seeds = sorted({seed for seed, _ in ap})
    return {
        title: {
            column: [round(ap[s, a][column] - ap[s, b][column], 2) for s in seeds]
            for column in COLUMNS
            if all(column in ap[s, name] for s in seeds for name in (a, b))
        }
        for title, (a, b) in COMPARISONS.items()
        if all((s, name) in ap for s in seeds for name in (a, b))
    }


def report(results: dict) -> str:
    lines = [f"{'AP at IoU 0.5, %':24}" + "".join(f"{column:>21}" for column in COLUMNS)]
    for name in dict.fromkeys(row["condition"] for row in results["runs"]):
        rows = [row for row in results["runs"] if row["condition"] == name]
        cells = (" ".join(f"{row['ap'].get(c, float('nan')):.1f}" for row in rows) for c in COLUMNS)
        lines.append(f"{name:24}" + "".join(f"{cell:>21}" for cell in cells))
    lines += ["", f"{'differences':34}" + "".join(f"{column:>21}" for column in COLUMNS)]
    for title, by_column in results["differences"].items():
        cells = (" ".join(f"{value:+.1f}" for value in by_column.get(c, [])) for c in COLUMNS)
        lines.append(f"{title:34}" + "".join(f"{cell:>21}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="of each training (default: 400)")
    parser.add_argument("--scenes", type=int, default=600, help="to train on, others for each seed (default: 600)")
    parser.add_argument("--test-scenes", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=tuple(CONDITIONS), default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    settings = {"steps": arguments.steps, "scenes": arguments.scenes, "test_scenes": arguments.test_scenes}
    check_same_settings(arguments.out, settings)
    test = drawn_faces(arguments.test_scenes, seed=10_000, testing=True)
    results: dict = {**settings, "runs": []}
    trains = {seed: drawn_faces(arguments.scenes, seed) for seed in arguments.seeds}
    for name in arguments.only:
        for seed, train in trains.items():
            file = arguments.out / f"seed{seed}" / f"{name.replace(' ', '-')}.json"
            results["runs"].append(kept_or_run(file, run, seed, name, arguments.steps, train, test))
            print(json.dumps(results["runs"][-1]), flush=True)
    results["differences"] = differences(results["runs"])
    print(report(results))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
