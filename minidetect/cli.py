"""The command line: minidetect demo | detect | train | evaluate | anchors | models | convert | warmup | bench.

Exit codes: 0 all went well; 2 something given was unusable, with one line a problem on standard error; what
could be used was worked on all the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidetect.cli_arguments import parser, refuse
from minidetect.console import (
    DETECTION_KERNELS,
    TRAINING_KERNELS,
    CompileNote,
    as_json,
    check_can_write,
    complain,
    counted,
    draw,
    drawing_files,
    make_folder,
    print_stages,
    print_table,
    say,
    write_json,
)

if TYPE_CHECKING:
    import numpy as np

    from minidetect.api import Detector
    from minidetect.api_objects import ObjectDetector
    from minidetect.detection.structures import Detections
    from minidetect.models.cascade_pipeline import StageReport

# The library is imported inside the functions: `--threads` must be set before NumPy loads its BLAS, and
# `minidetect --help` should not wait for any of it.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; a usage error leaves through argparse with code 2."""
    arguments = parser().parse_args(argv)
    if getattr(arguments, "threads", None):
        limit_threads(arguments.threads)
    if hasattr(sys.stdout, "reconfigure"):  # a file's name may hold what this terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():  # which puts `showwarning` back
        warnings.showwarning = lambda message, *where, **more: say(f"warning: {message}")
        try:
            return COMMANDS[arguments.command](arguments)
        except BrokenPipeError:  # `minidetect ... | head`: nobody reads on, and Python's last flush must not fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (ValueError, OSError, FloatingPointError, MemoryError) as error:
            return complain(error)
        except KeyboardInterrupt:
            say("interrupted")
            return 130


# ------------------------------------------------------------------------------------------- commands


def demo(arguments: argparse.Namespace) -> int:
    from matplotlib import cbook

    from minidetect.api import load
    from minidetect.data.images import load_image
    from minidetect.data.synthetic import draw_crowd

    make_folder(arguments.out)
    note = CompileNote(DETECTION_KERNELS)
    with note:
        detector, crowd = load("facecraft"), draw_crowd()
    pictures = {
        "grace_hopper": load_image(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))),
        "drawn_crowd": crowd.image,
    }
    for name, image in pictures.items():
        found, _, seconds = timed_detection(detector, image, None, None, note)
        file = arguments.out / f"{name}.png"
        draw(image, found, file)
        height, width = image.shape[:2]
        print(f"{name} ({width} x {height}): {counted(found)} in {seconds * 1000:.0f} ms -> {file}")
        print_table(found)
    print("Now your own: minidetect detect PHOTO --draw out")
    return 0


def detect(arguments: argparse.Namespace) -> int:
    from minidetect.api import load
    from minidetect.api_objects import ObjectDetector
    from minidetect.data.images import ImageError, load_image

    check_can_write(arguments.json)
    pictures = drawing_files(arguments.images, arguments.draw)
    note = CompileNote(DETECTION_KERNELS)
    with note:
        detector = load(arguments.model, arguments.thorough, arguments.device)
    names = detector.classes
    if isinstance(detector, ObjectDetector):
        refuse(arguments, ["min_face", "stages"], f"for models of faces; {arguments.model} knows {', '.join(names)}")
    results, exit_code = [], 0
    for path, picture in zip(arguments.images, pictures, strict=True):
        try:
            image = load_image(path)
            found, stages, seconds = timed_detection(detector, image, arguments.min_face, arguments.threshold, note)
            results.append(as_json(path, image, found, seconds, names))
            if picture:
                draw(image, found, picture, names)
        except (ValueError, OSError, MemoryError) as error:
            exit_code = complain(error, None if isinstance(error, ImageError) else path)  # which names it itself
            continue
        print(f"{path}: {counted(found, names)} in {seconds * 1000:.0f} ms")
        print_table(found, names)
        if arguments.stages:
            print_stages(stages)
    if arguments.json:
        write_json(arguments.json, results)
    return exit_code


def train(arguments: argparse.Namespace) -> int:
    from minidetect.recipes import run_recipe

    given = vars(arguments)
    names = (
        "control", "structure", "width", "act", "layout", "sampler", "head", "box_loss", "short_side", "vertical_flips",
        "device",
    )  # fmt: skip
    options = {key: given[key] for key in names if key in given}
    with CompileNote(DETECTION_KERNELS + TRAINING_KERNELS, live=False):  # the last line belongs to the progress bar
        files = run_recipe(
            arguments.recipe, arguments.data, arguments.out, arguments.seed, arguments.steps, arguments.resume,
            check_nan=arguments.check_nan, **options,
        )
    for file in files:
        print(f"wrote {file}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from minidetect.cli_evaluate import run_evaluation

    return run_evaluation(arguments)


def anchors(arguments: argparse.Namespace) -> int:
    from minidetect.cli_objects import report_anchors

    return report_anchors(arguments)


def models(arguments: argparse.Namespace) -> int:
    from minidetect.api import shipped_models

    shipped = shipped_models()
    if not shipped:
        print("no trained model ships with this copy; `minidetect train` makes one")
    for model in shipped:
        kilobytes = model.path.stat().st_size / 1000
        print(f"{model.name:20} {kilobytes:6.0f} kB  {model.training.get('score', 'not measured')}")
        print(f"{'':20} card: {model.card}")
    return 0


def convert(arguments: argparse.Namespace) -> int:
    from minidetect.api import convert

    if arguments.out.suffix != ".npz":
        raise ValueError(f"{arguments.out}: the name of a weights file ends in .npz")
    check_can_write(arguments.out)
    convert(arguments.source, arguments.out)
    print(f"wrote {arguments.out}")
    return 0


def warmup(arguments: argparse.Namespace) -> int:
    start = time.perf_counter()
    from minidetect.warmup import warm_up

    with CompileNote(DETECTION_KERNELS + TRAINING_KERNELS * arguments.training) as note:
        warm_up(arguments.training)
    number, seconds = note.watch.number, time.perf_counter() - start
    print(f"{number} kernels compiled" if number else "nothing to compile: all kernels are on disk", end="")
    print(f", in {seconds:.1f} s")
    return 0


def bench(arguments: argparse.Namespace) -> int:
    """The short form of benchmarks/kernels.py."""
    from minidetect.benchmark.machine import describe
    from minidetect.benchmark.peers import Peers
    from minidetect.benchmark.report import plot_roofline, summary_lines
    from minidetect.benchmark.suite import all_cases, run_suite
    from minidetect.kernels.dispatch import get_num_threads

    check_can_write(arguments.json)
    check_can_write(arguments.plot)
    peers = Peers(get_num_threads())
    machine = describe(peers)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    run = run_suite(all_cases(short=True), peers, budget=0.2)
    print(*summary_lines(run["summary"]), sep="\n")
    if arguments.json:
        write_json(arguments.json, {"machine": machine, "runs": [run]})
    if arguments.plot:
        plot_roofline([run], arguments.plot)
    return 2 if run["wrong"] else 0


# -------------------------------------------------------------------------------------------- helpers


def timed_detection(
    detector: Detector | ObjectDetector, image: np.ndarray, min_face: float | None, threshold: float | None,
    note: CompileNote,
) -> tuple[Detections, list[StageReport], float]:
    """Detections, what each stage of a cascade did, and the seconds it took, compiling included."""
    from minidetect.api_objects import ObjectDetector

    with note:
        start = time.perf_counter()
        if isinstance(detector, ObjectDetector):
            found, stages = detector.detect_one(image, detector.likely if threshold is None else threshold), []
        else:
            smallest = min_face or detector.pipeline.smallest_face
            found, stages = detector.pipeline.detect_with_report(image, smallest, threshold)
    return found, stages, time.perf_counter() - start


def limit_threads(n: int) -> None:
    """Before NumPy and Numba are loaded: both read these when they start."""
    n = min(n, os.cpu_count() or 1)
    if "numba" in sys.modules:  # called from Python, too late for that: no more than were started then
        from minidetect.kernels.threads import max_threads, set_num_threads

        set_num_threads(min(n, max_threads()))
        return
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(n)


COMMANDS = {
    "demo": demo, "detect": detect, "train": train, "evaluate": evaluate, "anchors": anchors, "models": models,
    "convert": convert, "warmup": warmup, "bench": bench,
}  # fmt: skip
