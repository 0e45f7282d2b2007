"""What the command line takes: its commands, their options, and the types of the options.

An option that only some models know has no default here, so that it can be refused where it was given and would do
nothing (`refuse`).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from minidetect import __version__

THOROUGH = "of faces: looks at more boxes, or at several scales (by anchors); takes longer and finds more"
BENCHMARKS = "landmarks: face crops with five points; objects: a folder of yours"
ACT = "extd: activation (default: prelu)"
SMALLEST = "of faces: the smallest (default: 20; by anchors, on wider: 8)"
WRITE = "wider: write there what was found, in its text format"
DETECTIONS = "a text in FDDB's format; for wider a folder of texts EVENT/IMAGE.txt in its own"
GROUPS = "group-sampling:"
RECIPES = "facecraft, multi-output, extd, group-sampling; for objects faster-rcnn, fast-rcnn, rcnn"
SOURCES = "mtcnn:DIR with pnet.pt, rnet.pt and onet.pt, or extd:EXTD_32.pth, _48 or _64; needs no torch"
SHORT_SIDE = "of images as the network sees them (default: 480)"
# As the modules of the same names have them, which take too long to import for the sake of an error message.
LAYOUTS = ("rpn", "fpn", "fpn-finest-stride", "fpn-finest", "ssd", "retinaface")
SAMPLERS = ("random", "ohem", "wrs", "focal", "focal*", "gs", "gs+ohem", "gs+wrs", "gs+focal*")
HEADS = ("shared", "dilated", "context", "own")
BOX_LOSSES = ("least-squares", "neg-log", "smooth-l1")
DEVICE = "where the network of an EXTD or a layout detector is computed: cuda is a GPU (default: cpu)"
MODEL_HELP = "one that ships (see `minidetect models`), a weights file, mtcnn:DIR or extd:FILE (default: facecraft)"


def parser() -> argparse.ArgumentParser:
    """All commands and their options; `command` is the name of the one that was given."""
    top = argparse.ArgumentParser(prog="minidetect", description="Object and face detection from scratch.")
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("demo", help="find faces in a real photo and in a drawn crowd")
    p.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="for the pictures (default: out)")
    add_threads(p)

    p = commands.add_parser("detect", help="find faces, or what a model of yours knows, in your images")
    p.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    p.add_argument("--model", default="facecraft", metavar="NAME_OR_PATH", help=MODEL_HELP)
    p.add_argument("--min-face", type=face_size, metavar="PX", help="of faces: the smallest (default: 24, or 8)")
    p.add_argument("--thorough", action="store_true", help=THOROUGH)
    p.add_argument("--threshold", type=probability, metavar="T", help="score a detection must exceed, 0 to 1")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=DEVICE)
    p.add_argument("--json", type=Path, metavar="FILE", help="write the detections there")
    p.add_argument(
        "--draw", type=Path, metavar="DIR",
        help="write annotated pictures there: photo.jpg as photo.png, and a second one of that name as photo-2.png",
    )
    add_threads(p)
    p.add_argument("--stages", action="store_true", help="of faces: also what each stage kept, and its time")

    p = commands.add_parser("train", help="train a model")
    p.add_argument("recipe", metavar="RECIPE", help=RECIPES)
    p.add_argument("--data", type=Path, required=True, metavar="DIR")
    p.add_argument("--out", type=Path, required=True, metavar="DIR")
    p.add_argument("--seed", type=natural, default=0, metavar="N", help="of everything random (default: 0)")
    p.add_argument("--steps", type=positive_int, metavar="N", help="at most N steps a phase, for trying out")
    p.add_argument("--resume", action="store_true", help="continue the run in --out")
    p.add_argument("--check-nan", action="store_true", help="name the operation in which a NaN first appears")
    add_recipe_options(p)
    add_threads(p)

    p = commands.add_parser("evaluate", help="measure a model on a benchmark")
    p.add_argument("benchmark", choices=("fddb", "wider", "landmarks", "objects"), help=BENCHMARKS)
    p.add_argument("--data", type=Path, required=True, metavar="DIR")
    what = p.add_mutually_exclusive_group()
    what.add_argument("--model", default="facecraft", metavar="NAME_OR_PATH", help=MODEL_HELP)
    what.add_argument("--detections", type=Path, metavar="PATH", help=DETECTIONS)
    p.add_argument("--write-detections", type=Path, metavar="DIR", help=WRITE)
    p.add_argument("--split", metavar="NAME", help="of a folder of yours (default: test)")
    p.add_argument("--min-face", type=face_size, metavar="PX", help=SMALLEST)
    p.add_argument("--thorough", action="store_true", help=THOROUGH)
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the curve of recall, or of errors, there, a PNG")
    add_threads(p)

    p = commands.add_parser("anchors", help="how well anchors would cover the boxes of a folder of yours")
    p.add_argument("--data", type=Path, required=True, metavar="DIR")
    p.add_argument("--split", default="train", metavar="NAME", help="(default: train)")
    p.add_argument("--short-side", type=image_side, default=480, metavar="PX", help=SHORT_SIDE)
    p.add_argument("--sides", type=positive_float, nargs="+", metavar="PX", help="of the anchors (default: fitted)")

    commands.add_parser("models", help="what ships with the package")

    p = commands.add_parser("convert", help="make a weights file of weights that others have published")
    p.add_argument("source", metavar="SOURCE", help=SOURCES)
    p.add_argument("out", type=Path, metavar="FILE.npz")

    p = commands.add_parser("warmup", help="compile now what a first detection would have to wait for")
    p.add_argument("--training", action="store_true", help="also what a training needs")
    add_threads(p)

    p = commands.add_parser("bench", help="how fast the kernels are here, beside what peers are installed")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw GFLOP/s under the machine's roofs there, a PNG")
    add_threads(p)
    return top


def add_recipe_options(p: argparse.ArgumentParser) -> None:
    """Options of single recipes."""
    nothing = argparse.SUPPRESS  # a recipe is told only of options that were given, and refuses those it has not
    p.add_argument(
        "--control", action="store_true", default=nothing, help="faces: also train the separate nets on"
    )
    p.add_argument("--device", choices=("cpu", "cuda"), default=nothing, help="extd, group-sampling: (default: cpu)")
    p.add_argument("--structure", choices=("fpn", "ssd"), default=nothing, help="extd: (default: fpn)")
    p.add_argument("--width", type=int, choices=(32, 48, 64), default=nothing, help="extd: channels (default: 32)")
    p.add_argument("--act", choices=("relu", "lrelu", "prelu"), default=nothing, help=ACT)
    p.add_argument("--layout", choices=LAYOUTS, default=nothing, help=f"{GROUPS} (default: fpn-finest)")
    p.add_argument("--sampler", choices=SAMPLERS, default=nothing, help=f"{GROUPS} (default: gs+wrs)")
    p.add_argument("--head", choices=HEADS, default=nothing, help=f"{GROUPS} (default: dilated; own for ssd)")
    p.add_argument("--box-loss", choices=BOX_LOSSES, default=nothing, help=f"{GROUPS} (default: least-squares)")
    p.add_argument("--short-side", type=image_side, default=nothing, metavar="PX", help=SHORT_SIDE)
    p.add_argument(
        "--vertical-flips", action="store_true", default=nothing, help="objects: images may stand on their heads"
    )


def add_threads(p: argparse.ArgumentParser) -> None:
    p.add_argument("--threads", type=positive_int, metavar="N", help="at most, and by default, one a processor")


def refuse(arguments: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Raise ValueError that names the options among `names` which were given: here they would do nothing."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name, None) not in (None, False)]
    if given:
        raise ValueError(f"{', '.join(given)}: {why}")


# ---------------------------------------------------------------------------------------------- types


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


def image_side(text: str) -> int:
    """Two cells of a map of stride 16: batch norm needs more than one to train."""
    if not (text.isascii() and text.isdigit()) or int(text) < 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of pixels, at least 32")
    return int(text)


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
