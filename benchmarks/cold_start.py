"""How long a user waits for the first detection: the import, a warm cache, an empty one.

    python benchmarks/cold_start.py [--repeat N] [--threads N] [--photo FILE] [--json FILE]

Prints, each in processes of their own and as a median,
    import        `import minidetect, minidetect.api` in Python, beyond what Python itself takes to start
    warm          `minidetect detect PHOTO` from start to end, all kernels on disk already
    empty         the same where every kernel must first be compiled (NUMBA_CACHE_DIR names a new folder)
    warmup        `minidetect warmup`, and with --training, into an empty folder
and beside each the processor seconds it used, which a busy machine changes less. One untimed process comes
first, so that the files of Python, NumPy and Numba are in memory. The JSON is what table.py reads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from minidetect.benchmark.machine import describe
from minidetect.benchmark.peers import Peers

BARS = {"import": 0.6, "warm": 2.0, "empty": 25.0}  # seconds
NAMES = {
    "import": "import minidetect and its API",
    "warm": "process start to first detection, warm cache",
    "empty": "process start to first detection, empty cache",
    "warmup": "minidetect warmup",
    "training": "minidetect warmup --training",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--repeat", type=int, default=5, help="processes a median is taken of; for empty, a third")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--photo", type=Path, help="default: Matplotlib's portrait of Grace Hopper")
    arguments.add_argument("--json", type=Path, metavar="FILE")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(str(given.photo or portrait()), given.repeat, given.threads, Path(folder))
    print(f"{platform.machine()}, Python {platform.python_version()}, {given.threads} thread(s)")
    for row in rows:
        wall, busy = row["seconds"]["minidetect"], row["processor_seconds"]
        verdict = {True: "met", False: "missed", None: ""}[row["met"]]
        print(f"{row['what']:46} {wall:7.2f} s   processor {busy:7.2f} s   {row['bar']:8} {verdict}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": describe(Peers(given.threads, ())), "whole": rows}
        given.json.write_text(json.dumps(document, indent=1) + "\n")


def portrait() -> str:
    from matplotlib import cbook

    return str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


def measure(photo: str, repeat: int, threads: int, folder: Path) -> list[dict]:
    detect = ("-m", "minidetect", "detect", photo)
    seldom = max(1, repeat // 3)
    new_folders = (folder / str(k) for k in range(1000))
    start(threads, folder / "warm", *detect)
    times = {
        "import": beyond_python(threads, folder / "warm", repeat),
        "warm": [start(threads, folder / "warm", *detect) for _ in range(repeat)],
        "empty": [start(threads, next(new_folders), *detect) for _ in range(seldom)],
        "warmup": [start(threads, next(new_folders), "-m", "minidetect", "warmup")],
        "training": [start(threads, next(new_folders), "-m", "minidetect", "warmup", "--training")],
    }
    return [row(name, threads, *map(statistics.median, zip(*pairs, strict=True))) for name, pairs in times.items()]


def row(name: str, threads: int, wall: float, busy: float) -> dict:
    bar = BARS.get(name)
    return {
        "what": NAMES[name], "threads": threads, "seconds": {"minidetect": round(wall, 3)},
        "processor_seconds": round(busy, 3), "bar": f"{bar:g} s" if bar else "", "met": wall <= bar if bar else None,
    }  # fmt: skip


def beyond_python(threads: int, cache: Path, repeat: int) -> list[tuple[float, float]]:
    """The import, less what a process takes that imports nothing; in turn."""
    times = []
    for _ in range(repeat):
        empty, full = (
            start(threads, cache, "-c", code) for code in ("pass", "import minidetect, minidetect.api")
        )
        times.append((full[0] - empty[0], full[1] - empty[1]))
    return times


def start(threads: int, cache: Path, *command: str) -> tuple[float, float]:
    """Seconds and processor seconds of a Python process with its kernels in the folder `cache`."""
    counts = dict.fromkeys(("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
    before, begun = processor_seconds(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | counts | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return seconds, processor_seconds() - before


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
