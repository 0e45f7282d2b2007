"""Every kernel over the shapes that the models use, beside PyTorch, ONNX Runtime and OpenCV: the long form.

    pip install -e ".[peers]"
    python benchmarks/kernels.py --json benchmarks/results/kernels.json --plot benchmarks/results/roofline.png
    python benchmarks/kernels.py --threads 1 --only conv prelu

Each case is verified against the peers, compiled, then timed, all in turn (see minidetect/benchmark/timing.py).
Prints every case, then the families' geometric means, the worst ratio, and whether the bars of
minidetect/benchmark/report.py are met. The exit code is 1 when a result was wrong, and 0 when one was slow.
About four minutes a number of threads.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from minidetect.benchmark.machine import describe, usable_cores
from minidetect.benchmark.peers import NAMES, Peers
from minidetect.benchmark.report import plot_roofline, summary_lines
from minidetect.benchmark.suite import all_cases, run_suite


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, min(2, usable_cores())}))
    parser.add_argument("--only", nargs="+", default=(), metavar="FAMILY", help="beginnings of families' names")
    parser.add_argument("--peers", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--short", action="store_true", help="the cases of `minidetect bench`")
    parser.add_argument("--budget", type=float, default=0.25, help="seconds of timing a case (default: 0.25)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    cases = all_cases(arguments.short, arguments.only)
    runs = [run_suite(cases, Peers(n, tuple(arguments.peers)), arguments.budget) for n in arguments.threads]
    machine = describe(Peers(1, tuple(arguments.peers)))
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    for run in runs:
        print(f"\n{run['threads']} thread{'s' if run['threads'] > 1 else ''}")
        print(*summary_lines(run["summary"]), *(f"WRONG {text}" for text in run["wrong"]), sep="\n")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")
    if arguments.plot:
        plot_roofline(runs, arguments.plot)
    return 1 if any(run["wrong"] for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
