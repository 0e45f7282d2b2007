"""The commands about folders of one's own: `evaluate objects` and `anchors`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minidetect.cli_arguments import refuse
from minidetect.console import CompileNote, rounded, say, write_json

if TYPE_CHECKING:
    from minidetect.data.objects import ObjectDataset

KERNELS = 30  # about so many are compiled before a first evaluation


def evaluate_objects(arguments: argparse.Namespace) -> int:
    """VOC's and COCO's figures of a model on a split."""
    from minidetect.api import load
    from minidetect.api_objects import ObjectDetector
    from minidetect.data.objects import load_record
    from minidetect.evaluate.objects import summarise_objects

    refuse(arguments, ["detections", "plot", "min_face", "thorough"], "not for `evaluate objects`")
    detector = load(arguments.model)
    if not isinstance(detector, ObjectDetector):
        raise ValueError(
            f"{arguments.model}: finds faces; `evaluate objects` needs a model of `train faster-rcnn`, `fast-rcnn` or "
            "`rcnn`"
        )
    dataset = read(arguments.data, arguments.split or "test", detector.classes)
    with CompileNote(KERNELS, live=False):
        for record in dataset.records[:1]:
            detector.detect_one(load_record(record))  # compiles, where that was not done before
        start = time.perf_counter()
        detections = [detector.detect_one(load_record(record)) for record in dataset.records]
        seconds = time.perf_counter() - start
    summary = rounded(summarise_objects(detections, dataset) | {"seconds an image": seconds / max(len(dataset), 1)})
    for key, value in summary.items():
        print(f"{key:22} {value}")
    if arguments.json:
        write_json(arguments.json, summary)
    return 0


def report_anchors(arguments: argparse.Namespace) -> int:
    """How well anchors would cover a folder's boxes."""
    from minidetect.detection.anchors import AnchorGrid, coverage
    from minidetect.detection.image_scale import ImageScale
    from minidetect.train.object_images import ObjectRecipe, anchor_sides, resized_targets

    dataset = read(arguments.data, arguments.split)
    targets, sizes = resized_targets(dataset, ImageScale(arguments.short_side, arguments.short_side * 5 // 3))
    grid = AnchorGrid(16, tuple(arguments.sides or anchor_sides(targets, 3)), ObjectRecipe.ratios)
    sides = ", ".join(f"{side:g}" for side in grid.sides)
    print(f"anchors of sides {sides}, ratios {ObjectRecipe.ratios}, every {grid.stride} pixels")
    print(f"{'objects':10} {'number':>7} {'mean best IoU':>14} {'above 0.5':>10} {'above 0.7':>10}")
    for name, row in coverage([target.boxes for target in targets], sizes, grid).items():
        shares = f"{row['mean_iou']:14.2f} {row['above_0.5']:10.0%} {row['above_0.7']:10.0%}"
        print(f"{name:10} {row['objects']:7} {shares if row['objects'] else ''}")
    return 0


def read(folder: Path, split: str, classes: Sequence[str] | None = None) -> ObjectDataset:
    """A split, with a line on standard error for each box that cannot be used."""
    from minidetect.data.folders import read_objects

    return read_objects(folder, split, classes, on_problem=lambda problem: say(f"left out: {problem}"))
