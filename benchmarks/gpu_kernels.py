"""Every CUDA kernel over the shapes that the models use, beside PyTorch where it is installed, and training steps.

    pip install "numba-cuda[cu13]"                      # or [cu12]: what the driver can do, nvidia-smi says
    python benchmarks/gpu_kernels.py --json benchmarks/results/gpu/h100.json
    python benchmarks/gpu_kernels.py --only conv nms steps
    python benchmarks/gpu_kernels.py --table benchmarks/results/gpu/h100.json      # Markdown, from a file

The ceilings are measured first; then every kernel is verified against the processor's and timed (how:
minidetect/benchmark/cuda_timing.py); then whole training steps, against this machine's processor. Meant to take six
minutes, of which a minute or two go to compilers. The file is written after every case. The exit code is 1 when a
result was wrong or a case failed, and 0 when one was slow.

Without a GPU, NUMBA_ENABLE_CUDASIM=1 goes through tiny shapes in Numba's simulator; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from minidetect.benchmark.cuda_report import tables, target_lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", default=(), metavar="FAMILY", help="beginnings of families' names; steps")
    parser.add_argument("--budget", type=float, default=0.15, help="seconds of timing a case (default: 0.15)")
    parser.add_argument("--seconds", type=float, default=480, help="begin nothing later than that (default: 480)")
    parser.add_argument("--no-torch", action="store_true", help="without PyTorch, even where it is installed")
    parser.add_argument("--table", type=Path, help="print a file's figures as Markdown, and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(tables(json.loads(arguments.table.read_text())), end="")
        return 0
    return measure(arguments)


def measure(arguments: argparse.Namespace) -> int:
    from minidetect.benchmark.cuda_suite import run_gpu_suite
    from minidetect.benchmark.peers import Peers
    from minidetect.kernels.dispatch import get_num_threads

    def say(line: str) -> None:
        print(line, flush=True)

    def save(document: dict) -> None:
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")

    peers = Peers(get_num_threads(), () if arguments.no_torch else ("torch",))
    document = run_gpu_suite(arguments.only, arguments.budget, arguments.seconds, peers, say, save)
    say(f"took {document['took']:.0f} s, of which first calls (compiling) {document['first_calls']:.0f} s")
    for what in ("wrong", "failed", "skipped"):
        say(f"{len(document[what])} {what}" + "".join(f"\n  {text}" for text in document[what]))
    say("\n".join(target_lines(document["targets"])))
    return 1 if document["wrong"] or document["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
