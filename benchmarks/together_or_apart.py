"""FC-M1 and MC-M3: does training a cascade as one network beat training its nets further, apart, for as long?

    for seed in 0 1 2; do minidetect train facecraft --data DIR --out runs/seed$seed --seed $seed --control; done
    python benchmarks/together_or_apart.py --data DIR runs/seed0 runs/seed1 runs/seed2 [--benchmark fddb]

and the same with `minidetect train multi-output` and `--recipe multi-output`. Each run holds three cascades: `separate`
(three nets, one after the other), and from there, by the same number of iterations, `control` (still separate) and
`joint` or `end-to-end`. Every run is printed, then the paired differences to the control. FaceCraft, section 6.3,
reports 88.2 against 87.2 on FDDB; the multi-output cascade's section 3.3 has a plot. `--benchmark landmarks` is for
multi-output only: the mean error by inter-ocular distance, of faces found, on facepoint/test.csv.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import minidetect
from minidetect.evaluate.landmarks import run_facepoint
from minidetect.evaluate.runs import run_fddb, run_wider, summarise_fddb

TOGETHER = {"facecraft": "joint", "multi-output": "end-to-end"}


def measure(model, benchmark: str, data: Path) -> dict[str, float]:
    if benchmark == "fddb":
        return {k: v for k, v in summarise_fddb(run_fddb(model, data).curves).items() if k != "images"}
    if benchmark == "landmarks":
        errors = run_facepoint(model, data).errors
        return {"mean_error": round(float(errors.mean), 5), "missed": errors.num_missed}
    curve = run_wider(model, data).curve
    return {"ap": curve.ap} | {f"recall_at_{n}_fp": curve.recall_at(n) for n in (10, 50, 100, 200)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recipe", choices=tuple(TOGETHER), default="facecraft")
    parser.add_argument("--benchmark", choices=("wider", "fddb", "landmarks"), default="wider")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    together, rows = TOGETHER[arguments.recipe], []
    for run in arguments.runs:
        for kind in ("separate", "control", together):
            model = minidetect.load(run / f"{arguments.recipe}-{kind}.npz", thorough=True).pipeline
            rows.append({"run": run.name, "kind": kind} | measure(model, arguments.benchmark, arguments.data))
            print(json.dumps(rows[-1]), flush=True)
    scores = {kind: [row for row in rows if row["kind"] == kind] for kind in ("control", together)}
    print(f"{together} - control, each run, then the mean:")
    for key in rows[0]:
        if key not in ("run", "kind"):
            differences = [j[key] - c[key] for j, c in zip(scores[together], scores["control"], strict=True)]
            print(f"    {key:20} " + " ".join(f"{d:+.4f}" for d in differences) + f"   {np.mean(differences):+.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
