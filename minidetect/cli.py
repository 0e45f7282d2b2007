"""The command line: minidetect demo | detect | train | evaluate | anchors | models | warmup | bench.

Exit codes: 0 all went well; 2 something given was unusable, with one line a problem on standard error; what
could be used was worked on all the same.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minidetect import __version__
from minidetect.console import (
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
    from minidetect.detection.structures import Detections
    from minidetect.evaluate.average_precision import Curve
    from minidetect.models.facecraft_pipeline import Pipeline, StageReport

# About so many kernels are compiled before a first detection, and further ones for a training; a test counts.
DETECTION_KERNELS, TRAINING_KERNELS = 39, 24
THOROUGH = "takes half as long again, for a few more faces among the least certain"
SHORT_SIDE = "of images as the network sees them (default: 480)"
MODEL_HELP = "one that ships (see `minidetect models`), or a weights file (default: facecraft)"

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
            return arguments.run(arguments)
        except BrokenPipeError:  # `minidetect ... | head`: nobody reads on, and Python's last flush must not fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (ValueError, OSError, FloatingPointError, MemoryError) as error:
            return complain(error)
        except KeyboardInterrupt:
            say("interrupted")
            return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="minidetect", description="Object and face detection from scratch.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser("demo", help="find faces in a real photo and in a drawn crowd")
    p.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="for the pictures (default: out)")
    add_threads(p)
    p.set_defaults(run=demo)

    p = commands.add_parser("detect", help="find faces, or what a model of yours knows, in your images")
    p.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    p.add_argument("--model", default="facecraft", metavar="NAME_OR_PATH", help=MODEL_HELP)
    p.add_argument("--min-face", type=face_size, default=24.0, metavar="PX", help="smallest face (default: 24)")
    p.add_argument("--thorough", action="store_true", help=THOROUGH)
    p.add_argument("--threshold", type=probability, metavar="T", help="score a detection must exceed, 0 to 1")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the detections there")
    p.add_argument(
        "--draw", type=Path, metavar="DIR",
        help="write annotated pictures there: photo.jpg as photo.png, and a second one of that name as photo-2.png",
    )
    add_threads(p)
    p.add_argument("--stages", action="store_true", help="also print what each stage kept, and its time")
    p.set_defaults(run=detect)

    p = commands.add_parser("train", help="train a model")
    p.add_argument("recipe", metavar="RECIPE", help="facecraft, or faster-rcnn for objects of your own")
    p.add_argument("--data", type=Path, required=True, metavar="DIR")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--seed", type=natural, default=0, metavar="N", help="of everything random (default: 0)")
    p.add_argument("--steps", type=positive_int, metavar="N", help="at most N steps a phase, for trying out")
    p.add_argument("--resume", action="store_true", help="continue the run in --out")
    p.add_argument("--check-nan", action="store_true", help="name the operation in which a NaN first appears")
    nothing = argparse.SUPPRESS  # a recipe is told only of options that were given, and refuses those it has not
    p.add_argument(
        "--control", action="store_true", default=nothing, help="facecraft: also train the separate nets on"
    )
    p.add_argument("--short-side", type=positive_int, default=nothing, metavar="PX", help=SHORT_SIDE)
    p.add_argument(
        "--vertical-flips", action="store_true", default=nothing, help="faster-rcnn: images may stand on their heads"
    )
    add_threads(p)
    p.set_defaults(run=train)

    p = commands.add_parser("evaluate", help="measure a model on a benchmark")
    p.add_argument("benchmark", choices=("fddb", "wider", "objects"), help="objects: a folder of yours")
    p.add_argument("--data", type=Path, required=True, metavar="DIR")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--model", default="facecraft", metavar="NAME_OR_PATH", help=MODEL_HELP)
    what.add_argument("--detections", type=Path, metavar="FILE", help="in FDDB's text format")
    p.add_argument("--split", default="test", metavar="NAME", help="of a folder of yours (default: test)")
    p.add_argument("--min-face", type=face_size, default=20.0, metavar="PX", help="smallest face (default: 20)")
    p.add_argument("--thorough", action="store_true", help=THOROUGH)
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw recall against false positives there, a PNG")
    add_threads(p)
    p.set_defaults(run=evaluate)

    p = commands.add_parser("anchors", help="how well anchors would cover the boxes of a folder of yours")
    p.add_argument("--data", type=Path, required=True, metavar="DIR")
    p.add_argument("--split", default="train", metavar="NAME", help="(default: train)")
    p.add_argument("--short-side", type=positive_int, default=480, metavar="PX", help=SHORT_SIDE)
    p.add_argument("--sides", type=positive_float, nargs="+", metavar="PX", help="of the anchors (default: fitted)")
    p.set_defaults(run=anchors)

    commands.add_parser("models", help="what ships with the package").set_defaults(run=models)

    p = commands.add_parser("warmup", help="compile now what a first detection would have to wait for")
    p.add_argument("--training", action="store_true", help="also what a training needs")
    add_threads(p)
    p.set_defaults(run=warmup)

    p = commands.add_parser("bench", help="how fast the kernels are here, beside what peers are installed")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw GFLOP/s under the machine's roofs there, a PNG")
    add_threads(p)
    p.set_defaults(run=bench)
    return top


def add_threads(p: argparse.ArgumentParser) -> None:
    p.add_argument("--threads", type=positive_int, metavar="N", help="at most, and by default, one a processor")


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
        found, _, seconds = timed_detection(detector, image, 24.0, None, note)
        file = arguments.out / f"{name}.png"
        draw(image, found, file)
        height, width = image.shape[:2]
        print(f"{name} ({width} x {height}): {counted(found)} in {seconds * 1000:.0f} ms -> {file}")
        print_table(found)
    print("Now your own: minidetect detect PHOTO --draw out")
    return 0


def detect(arguments: argparse.Namespace) -> int:
    from minidetect.api import load
    from minidetect.data.images import ImageError, load_image

    check_can_write(arguments.json)
    pictures = drawing_files(arguments.images, arguments.draw)
    note = CompileNote(DETECTION_KERNELS)
    with note:
        detector = load(arguments.model, arguments.thorough)
    names = detector.classes
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
    options = {key: given[key] for key in ("control", "short_side", "vertical_flips") if key in given}
    with CompileNote(DETECTION_KERNELS + TRAINING_KERNELS, live=False):  # the last line belongs to the progress bar
        files = run_recipe(
            arguments.recipe, arguments.data, arguments.out, arguments.seed, arguments.steps, arguments.resume,
            check_nan=arguments.check_nan, **options,
        )
    for file in files:
        print(f"wrote {file}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from minidetect.visualize import plot_roc

    check_can_write(arguments.json)
    check_can_write(arguments.plot)
    if arguments.benchmark == "objects":
        from minidetect.cli_objects import evaluate_objects

        return evaluate_objects(arguments)
    if arguments.benchmark == "wider" and arguments.detections:
        raise ValueError("--detections are in FDDB's format: only for `evaluate fddb`")
    with CompileNote(DETECTION_KERNELS, live=False):  # the last line belongs to the progress bar
        curve, summary, stages = (measure_wider if arguments.benchmark == "wider" else measure_fddb)(arguments)
    for key, value in summary.items():
        print(f"{key:22} {value}")
    print_stages(stages)
    if arguments.json:
        write_json(arguments.json, {**summary, "stages": [stage._asdict() for stage in stages]})
    if arguments.plot:
        plot_roc(curve, arguments.plot)
    return 0


def anchors(arguments: argparse.Namespace) -> int:
    from minidetect.cli_objects import report_anchors

    return report_anchors(arguments)


def face_pipeline(arguments: argparse.Namespace) -> Pipeline:
    """The cascade to measure. Raises ValueError for a model of objects."""
    from minidetect.api import load
    from minidetect.api_objects import ObjectDetector

    detector = load(arguments.model, arguments.thorough)
    if isinstance(detector, ObjectDetector):
        raise ValueError(f"{arguments.model}: knows {', '.join(detector.classes)}; measure it by `evaluate objects`")
    return detector.pipeline


def measure_wider(arguments: argparse.Namespace) -> tuple[Curve, dict, list[StageReport]]:
    from minidetect.evaluate.runs import at_threshold, run_wider

    model = face_pipeline(arguments)
    curve, stages = run_wider(model, arguments.data, min_face=arguments.min_face)
    summary = {"faces": curve.num_gt, "ap": round(curve.ap, 4)}
    summary |= {f"recall_at_{n}_fp": round(curve.recall_at(n), 4) for n in (10, 50, 100, 200)}
    return curve, summary | at_threshold(curve, model.thresholds[2]), stages


def measure_fddb(arguments: argparse.Namespace) -> tuple[Curve, dict, list[StageReport]]:
    from minidetect.evaluate.runs import evaluate_detection_file, run_fddb, summarise_fddb

    if arguments.detections:
        curves, stages = evaluate_detection_file(arguments.detections, arguments.data), []
    else:
        result = run_fddb(face_pipeline(arguments), arguments.data, arguments.min_face)
        curves, stages = result.curves, result.stages
    return curves.discrete, summarise_fddb(curves), stages


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
    detector: Detector, image: np.ndarray, min_face: float, threshold: float | None, note: CompileNote
) -> tuple[Detections, list[StageReport], float]:
    """Detections, what each stage did, and the seconds it took, compiling included."""
    from minidetect.api_objects import ObjectDetector

    with note:
        start = time.perf_counter()
        if isinstance(detector, ObjectDetector):
            found, stages = detector.detect_one(image, 0.5 if threshold is None else threshold), []
        else:
            found, stages = detector.pipeline.detect_with_report(image, min_face, threshold)
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


def natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    value = number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def face_size(text: str) -> float:
    value = number(text)
    if not 4 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels, at least 4")
    return value


def probability(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def number(text: str) -> float:
    """What the text says, NaN where it says no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan
