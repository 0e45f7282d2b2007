"""FC-M1: does training the cascade jointly beat training its nets further, separately, for as long?

    for seed in 0 1 2; do minidetect train facecraft --data DIR --out runs/seed$seed --seed $seed --control; done
    python benchmarks/joint_against_separate.py --data DIR runs/seed0 runs/seed1 runs/seed2 [--benchmark fddb]

Each run holds three cascades: `separate` (three nets, one after the other), and from there, by the same
batches, gates and number of iterations, `control` (still separate) and `joint`. Every seed is printed, then
the paired differences joint - control. FaceCraft, section 6.3, reports 88.2 against 87.2 on FDDB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import minidetect
from minidetect.evaluate.runs import run_fddb, run_wider, summarise_fddb

KINDS = ("separate", "control", "joint")


def measure(model, benchmark: str, data: Path) -> dict[str, float]:
    if benchmark == "fddb":
        return {k: v for k, v in summarise_fddb(run_fddb(model, data).curves).items() if k != "images"}
    curve, _ = run_wider(model, data)
    return {"ap": curve.ap} | {f"recall_at_{n}_fp": curve.recall_at(n) for n in (10, 50, 100, 200)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--benchmark", choices=("wider", "fddb"), default="wider")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        for kind in KINDS:
            model = minidetect.load(run / f"facecraft-{kind}.npz", thorough=True).pipeline
            rows.append({"run": run.name, "kind": kind} | measure(model, arguments.benchmark, arguments.data))
            print(json.dumps(rows[-1]), flush=True)
    scores = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    print("joint - control, each run, then the mean:")
    for key in rows[0]:
        if key not in ("run", "kind"):
            differences = [j[key] - c[key] for j, c in zip(scores["joint"], scores["control"], strict=True)]
            print(f"    {key:20} " + " ".join(f"{d:+.4f}" for d in differences) + f"   {np.mean(differences):+.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
