"""R-CNN, Fast R-CNN and Faster R-CNN, trained on the same images: how good, how fast, how long to train.

    python benchmarks/three_generations.py --data DIR/bccd --out runs/bccd --vertical-flips
    python benchmarks/three_generations.py --data DIR/fruit --out runs/fruit --short-side 320
    python benchmarks/three_generations.py --data DIR/bccd --out runs/bccd --four-steps     # also the 4-step training

All of them start from random weights. The first two take the proposals of selective search, which are kept in the
output folder; their time is told apart from the network's, as the papers do. Seconds and minutes are of processor time,
so that what else the machine does counts little. A training that was stopped goes on where it was (its minutes then
count from there).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.data.folders import read_objects
from minidetect.data.objects import ObjectDataset, load_record
from minidetect.data.proposals import load_proposals, save_proposals
from minidetect.detection.image_scale import ImageScale, normalise
from minidetect.detection.selective_search import selective_search
from minidetect.detection.structures import Detections
from minidetect.evaluate.objects import summarise_objects
from minidetect.nn.fuse import fuse
from minidetect.train.loop import Schedule
from minidetect.train.objects import (
    ObjectRecipe,
    train_fast_rcnn,
    train_faster_rcnn,
    train_in_four_steps,
)
from minidetect.train.rcnn import train_rcnn

MOST_PROPOSALS = 2000
Detect = Callable[[np.ndarray, int], Detections]  # an image (3, H, W) as the network sees it, and which one it is


def searched(dataset: ObjectDataset, file: Path) -> tuple[list[np.ndarray], float]:
    """Selective search of every image (R, 4) and its seconds an image, from the file if it was done before."""
    if not file.exists():
        selective_search(load_record(dataset.records[0]))  # compiles
        start, found = time.process_time(), {}
        for record in tqdm(dataset.records, desc=file.stem):
            found[str(record.path)] = selective_search(load_record(record), most=MOST_PROPOSALS)
        save_proposals(file, found, {"seconds": (time.process_time() - start) / len(dataset)})
    boxes, meta = load_proposals(file)
    return [boxes[str(record.path)] for record in dataset.records], meta["seconds"]


def measure(
    dataset: ObjectDataset, scale: ImageScale, mean_colour: np.ndarray, detect: Detect
) -> tuple[dict[str, float], float]:
    """Every figure on a split, and the network's seconds an image."""
    detections, seconds = [], 0.0
    detect(normalise(scale.resize(load_record(dataset.records[0])), mean_colour), 0)  # compiles
    for i, record in enumerate(tqdm(dataset.records, desc="test")):
        image = load_record(record)
        resized = scale.resize(image)
        start = time.process_time()
        found = detect(normalise(resized, mean_colour), i)
        seconds += time.process_time() - start
        factors = np.tile(np.array(image.shape[1::-1]) / resized.shape[1::-1], 2).astype(np.float32)  # x, y, x, y
        detections.append(found._replace(boxes=found.boxes * factors))
    return summarise_objects(detections, dataset), seconds / len(dataset)


def compare(args: argparse.Namespace) -> list[dict]:
    train, test = (read_objects(args.data, split, on_problem=lambda _: None) for split in ("train", args.split))
    scale = ImageScale(args.short_side, args.short_side * 5 // 3)
    recipe = ObjectRecipe(scale, vertical_flips=args.vertical_flips)
    steps = args.steps or recipe.schedule.steps
    recipe = recipe.shortened(steps)
    rcnn = ObjectRecipe(
        scale, vertical_flips=args.vertical_flips,
        schedule=Schedule(steps=steps // 2, lr=0.02, warm_up=100, drops=(0.6, 0.85), max_norm=10.0),
    )  # fmt: skip
    train_boxes, _ = searched(train, args.out / "proposals-train.npz")
    test_boxes, search_seconds = searched(test, args.out / f"proposals-{args.split}.npz")
    factors = [np.float32(scale.factor(record.size)) for record in test.records]
    scaled = [boxes * factor for boxes, factor in zip(test_boxes, factors, strict=True)]
    rows = []

    def add(name: str, search: float, begin: float, mean_colour: np.ndarray, detect: Detect) -> None:
        minutes = (time.process_time() - begin) / 60
        figures, seconds = measure(test, scale, mean_colour, detect)
        row = {"model": name, "training_minutes": minutes, "proposal_seconds": search, "network_seconds": seconds}
        rows.append(row | figures)
        print_rows(rows[-1:], header=len(rows) == 1)

    begin = time.process_time()
    model, mean_colour = train_rcnn(train, train_boxes, args.out / "rcnn", rcnn, args.seed)
    rcnn_fused = fuse(model)
    add("R-CNN", search_seconds, begin, mean_colour, lambda image, i: rcnn_fused.detect([image], [scaled[i]])[0])

    begin = time.process_time()
    fast, mean_colour = train_fast_rcnn(train, train_boxes, args.out / "fast", recipe, args.seed)
    fast_fused = fuse(fast)
    add("Fast R-CNN", search_seconds, begin, mean_colour,
        lambda image, i: fast_fused.detect([image], [scaled[i]])[0])  # fmt: skip

    begin = time.process_time()
    trained = train_faster_rcnn(train, args.out / "faster", recipe, args.seed)
    faster = fuse(trained.model)
    add("Faster R-CNN", 0.0, begin, trained.mean_colour, lambda image, i: faster.detect([image])[0])

    if args.four_steps:
        begin = time.process_time()
        trained = train_in_four_steps(train, args.out / "four_steps", recipe, args.seed)
        in_steps = fuse(trained.model)
        add("Faster R-CNN, 4 steps", 0.0, begin, trained.mean_colour,
            lambda image, i: in_steps.detect([image])[0])  # fmt: skip
    return rows


def print_rows(rows: Sequence[dict], header: bool) -> None:
    if header:
        print("| | mAP@0.5 | COCO AP | each class | training, min | proposals, s | network, s |")
        print("| --- " * 7 + "|")
    for row in rows:
        classes = ", ".join(f"{key[7:]} {row[key]:.3f}" for key in row if key.startswith("AP@0.5 "))
        seconds = f"{row['proposal_seconds']:.2f} | {row['network_seconds']:.3f}"
        quality = f"{row['mAP@0.5']:.3f} | {row['COCO AP']:.3f} | {classes}"
        print(f"| {row['model']} | {quality} | {row['training_minutes']:.1f} | {seconds} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder as `minidetect train faster-rcnn` reads it")
    parser.add_argument("--out", type=Path, required=True, help="weights and proposals")
    parser.add_argument("--split", default="test", help="to measure on (default: test)")
    parser.add_argument("--short-side", type=int, default=480)
    parser.add_argument("--steps", type=int, help="of Fast and Faster R-CNN; R-CNN has half as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vertical-flips", action="store_true")
    parser.add_argument("--four-steps", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = compare(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
