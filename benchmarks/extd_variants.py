"""EX-M1 to EX-M5: what matters in EXTD? Miniatures on drawn faces, 16 of them, three paired seeds.

    python benchmarks/extd_variants.py --out FOLDER [--seeds 0 1 2] [--steps 600] [--json FILE]

EXTD's Table 2 and section 4.3, with a quarter of its widths, four passes instead of six and some hundred steps of
Adam: 8 channels (and six blocks in F) stand for the paper's 32, 12 and 16 (and four blocks) for its 48 and 64.
Trainings of one seed begin with the same weights, as far as their shapes agree, and see the same scenes in the same
order. Every result is average precision in percent on scenes with other heads, at an IoU of 0.5 over all faces and by
size, and at an IoU of 0.7.

    EX-M1  activation, narrow, blocks that end with one       EX-M4  wide and shallow against narrow and deep
    EX-M2  the same in wider models                           EX-M5  one F for all passes, or one for each
    EX-M3  FPN against SSD, blocks with linear ends           factorial: width, ends, activation

Before that the probe, which needs no training: what share of every f is exactly zero.

What is finished in FOLDER is not run again. With other settings it is refused: choose another.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from same_settings import check_same_settings, kept_or_run

from minidetect.autograd import no_grad
from minidetect.models.extd import BLOCKS, EXTD
from minidetect.train.drawn_faces import SPANS, DrawnFaces, drawn_faces, measure_mini, train_mini

COLUMNS = (*SPANS, "all at 0.7")
SIDES, STEM, IMAGES = (16, 32, 64, 128), 16, 4  # of the anchors; channels of E; scenes a step
PAPER_WIDTH = {8: 32, 12: 48, 16: 64}
# structure, width, activation, blocks that end with it, one F for all passes
CONDITIONS = {
    "fpn 8 relu": ("fpn", 8, "relu", True, True),
    "fpn 8 prelu": ("fpn", 8, "prelu", True, True),
    "fpn 8 lrelu": ("fpn", 8, "lrelu", True, True),
    "fpn 8 prelu linear": ("fpn", 8, "prelu", False, True),
    "ssd 8 prelu linear": ("ssd", 8, "prelu", False, True),
    "fpn 8 prelu unshared": ("fpn", 8, "prelu", True, False),
    "fpn 16 relu": ("fpn", 16, "relu", True, True),
    "fpn 16 prelu": ("fpn", 16, "prelu", True, True),
    "fpn 8 relu linear": ("fpn", 8, "relu", False, True),
    "ssd 8 relu": ("ssd", 8, "relu", True, True),
    "ssd 8 lrelu": ("ssd", 8, "lrelu", True, True),
    "ssd 8 prelu": ("ssd", 8, "prelu", True, True),
    "fpn 16 relu linear": ("fpn", 16, "relu", False, True),
    "fpn 16 prelu linear": ("fpn", 16, "prelu", False, True),
    "fpn 12 relu": ("fpn", 12, "relu", True, True),
    "fpn 12 prelu": ("fpn", 12, "prelu", True, True),
}
COMPARISONS = {  # of the first with the second: the difference of their AP
    "EX-M1 FPN, PReLU - ReLU": ("fpn 8 prelu", "fpn 8 relu"),
    "EX-M1 FPN, LReLU - ReLU": ("fpn 8 lrelu", "fpn 8 relu"),
    "EX-M1 FPN, PReLU - LReLU": ("fpn 8 prelu", "fpn 8 lrelu"),
    "EX-M1 SSD, PReLU - ReLU": ("ssd 8 prelu", "ssd 8 relu"),
    "EX-M1 SSD, LReLU - ReLU": ("ssd 8 lrelu", "ssd 8 relu"),
    "EX-M1 SSD, PReLU - LReLU": ("ssd 8 prelu", "ssd 8 lrelu"),
    "EX-M2 PReLU - ReLU, width 12": ("fpn 12 prelu", "fpn 12 relu"),
    "EX-M2 PReLU - ReLU, width 16": ("fpn 16 prelu", "fpn 16 relu"),
    "EX-M3 FPN - SSD, linear ends": ("fpn 8 prelu linear", "ssd 8 prelu linear"),
    "EX-M3 FPN - SSD, activated ends": ("fpn 8 prelu", "ssd 8 prelu"),
    "EX-M4 wide - deep, PReLU": ("fpn 16 prelu", "fpn 8 prelu"),
    "EX-M4 wide - deep, linear ends": ("fpn 16 prelu linear", "fpn 8 prelu linear"),
    "EX-M5 own F - shared F": ("fpn 8 prelu unshared", "fpn 8 prelu"),
    "ends: linear - activated, ReLU, 8": ("fpn 8 relu linear", "fpn 8 relu"),
    "ends: linear - activated, PReLU, 8": ("fpn 8 prelu linear", "fpn 8 prelu"),
    "ends: linear - activated, ReLU, 16": ("fpn 16 relu linear", "fpn 16 relu"),
    "ends: linear - activated, PReLU, 16": ("fpn 16 prelu linear", "fpn 16 prelu"),
    "linear ends, PReLU - ReLU, width 8": ("fpn 8 prelu linear", "fpn 8 relu linear"),
    "linear ends, PReLU - ReLU, width 16": ("fpn 16 prelu linear", "fpn 16 relu linear"),
}


def make(seed: int, structure: str, width: int, act: str, ends: bool, shared: bool) -> EXTD:
    """A miniature: the blocks of the width in the paper that it stands for."""
    blocks = BLOCKS[PAPER_WIDTH[width]]
    rng = np.random.default_rng(seed)
    return EXTD(rng, structure, width, act, STEM, blocks, ends, shared, sides=SIDES)


def zero_shares(model: EXTD, faces: DrawnFaces, training: bool) -> list[float]:
    """Of each f_i, the share of values that are exactly 0, in percent. training: batch norms as in training."""
    model.train(training)
    images, _ = faces.batch(model, np.random.default_rng(0), 16)
    with no_grad():
        features = model.iterate(images)
    model.train(False)
    return [round(100 * float((f.data == 0).mean()), 1) for f in features]


def probe(seeds: Sequence[int], faces: DrawnFaces) -> dict[str, list[list[float]]]:
    """Zeros in every f_i of FPN models with random weights, by condition, one list a seed."""
    chosen = {name: parts for name, parts in CONDITIONS.items() if parts[0] == "fpn" and parts[4]}
    return {name: [zero_shares(make(s, *parts), faces, True) for s in seeds] for name, parts in chosen.items()}


def run(seed: int, name: str, steps: int, train: DrawnFaces, test: DrawnFaces) -> dict:
    """One training and what came of it."""
    start, model = time.process_time(), make(seed, *CONDITIONS[name])
    log = train_mini(model, train, steps, np.random.default_rng([seed, 1]), IMAGES)
    seconds = time.process_time() - start
    last = log[-len(log) // 10 :]
    return {
        "seed": seed, "condition": name, "parameters": sum(p.size for p in model.parameters()),
        "ap": {size: round(ap, 2) for size, ap in measure_mini(model, test).items()},
        "loss": {key: round(float(np.mean([row[key] for row in last])), 3) for key in ("class", "box")},
        "zeros": zero_shares(model, test, False), "seconds": round(seconds, 1),
    }  # fmt: skip


def differences(rows: Sequence[dict]) -> dict[str, dict[str, list[float]]]:
    """For each comparison and size the differences of AP, one a seed."""
    ap = {(row["seed"], row["condition"]): row["ap"] for row in rows}
    seeds = sorted({seed for seed, _ in ap})
    return {
        title: {size: [round(ap[s, a][size] - ap[s, b][size], 2) for s in seeds] for size in COLUMNS}
        for title, (a, b) in COMPARISONS.items()
        if all((s, name) in ap for s in seeds for name in (a, b))
    }


def report(results: dict) -> str:
    lines = ["zeros in f1, f2, ... with random weights, %, the first seed"]
    for name, shares in results["zeros"].items():
        lines.append(f"{name:24} " + " ".join(f"{share:5.1f}" for share in shares[0]))
    lines += ["", f"{'AP at IoU 0.5, %':24} {'parameters':>10}  " + "".join(f"{size:>23}" for size in COLUMNS)]
    for name in dict.fromkeys(row["condition"] for row in results["runs"]):
        rows = [row for row in results["runs"] if row["condition"] == name]
        cells = (" ".join(f"{row['ap'][size]:5.1f}" for row in rows) for size in COLUMNS)
        lines.append(f"{name:24} {rows[0]['parameters']:10,}  " + "".join(f"{cell:>23}" for cell in cells))
    lines += ["", f"{'differences':37}" + "".join(f"{size:>23}" for size in COLUMNS)]
    for title, by_size in results["differences"].items():
        cells = (" ".join(f"{value:+.1f}" for value in by_size[size]) for size in COLUMNS)
        lines.append(f"{title:37}" + "".join(f"{cell:>23}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of each training (default: 600)")
    parser.add_argument("--scenes", type=int, default=600, help="to train on, others for each seed (default: 600)")
    parser.add_argument("--test-scenes", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=tuple(CONDITIONS), default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    check_same_settings(
        arguments.out,
        {"steps": arguments.steps, "scenes": arguments.scenes, "test_scenes": arguments.test_scenes},
    )
    test = drawn_faces(arguments.test_scenes, seed=10_000, testing=True)
    results = {"zeros": probe(arguments.seeds, test), "steps": arguments.steps, "runs": []}
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
