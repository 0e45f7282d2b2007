"""R-CNN, Fast R-CNN and Faster R-CNN, trained on the same images: how good, how fast, how long to train.

    python benchmarks/three_generations.py --data DIR/bccd --out runs/bccd --vertical-flips
    python benchmarks/three_generations.py --data DIR/fruit --out runs/fruit --short-side 320
    python benchmarks/three_generations.py --data DIR/bccd --out runs/bccd --vertical-flips --models four_steps

All of them start from random weights. The first two take the proposals of selective search, which are kept in the
output folder; their time is told apart from the network's, as the papers do. Seconds and minutes are of processor time,
so that what else the machine does counts little. A training that was stopped goes on where it was (its minutes then
count from there; four_steps and two_steps share step 1, which the second finds done). `--json` adds to the rows of
other models in that file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.data.folders import read_objects
from minidetect.data.objects import ObjectDataset, ObjectRecord, load_record
from minidetect.data.proposals import load_proposals, save_proposals
from minidetect.detection.image_scale import ImageScale, box_factors, normalise
from minidetect.detection.selective_search import selective_search
from minidetect.detection.structures import Detections
from minidetect.evaluate.objects import summarise_objects
from minidetect.nn.fuse import fuse
from minidetect.recipes import RCNN_RECIPE
from minidetect.train.object_images import ObjectRecipe
from minidetect.train.objects import (
    TrainedObjects,
    train_fast_rcnn,
    train_faster_rcnn,
    train_in_four_steps,
    train_in_two_steps,
)
from minidetect.train.rcnn import train_rcnn

MOST_PROPOSALS = 2000
Detect = Callable[[np.ndarray, int], Detections]  # an image (3, H, W) as the network sees it, and which one it is


def searched(dataset: ObjectDataset, file: Path, folder: Path) -> tuple[list[np.ndarray], float]:
    """Selective search of every image (R, 4) at its own size, and its seconds an image; from the file if done before.

    folder: the data's, which the file names images in.
    """

    def key(record: ObjectRecord) -> str:
        return str(record.path.relative_to(folder))

    if not file.exists():
        selective_search(load_record(dataset.records[0]))  # compiles
        start, found = time.process_time(), {}
        for record in tqdm(dataset.records, desc=file.stem):
            found[key(record)] = selective_search(load_record(record), most=MOST_PROPOSALS)
        save_proposals(file, found, {"seconds": (time.process_time() - start) / len(dataset)})
    boxes, meta = load_proposals(file)
    return [boxes[key(record)] for record in dataset.records], meta["seconds"]


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
        detections.append(found._replace(boxes=found.boxes * box_factors(resized.shape, image.shape)))
    return summarise_objects(detections, dataset), seconds / len(dataset)


class Comparison:
    """The two splits, their proposals, and how each model is trained and asked."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.scale = args, ImageScale(args.short_side, args.short_side * 5 // 3)
        self.train, self.test = (
            read_objects(args.data, split, on_problem=lambda _: None) for split in ("train", args.split)
        )
        self.recipe = ObjectRecipe(self.scale, vertical_flips=args.vertical_flips)
        self.recipe = self.recipe.shortened(args.steps or self.recipe.schedule.steps)
        self.search_seconds = 0.0

    def searched_boxes(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Selective search of the training images in their pixels, and of the test images as the network sees them."""
        args = self.args
        train, _ = searched(self.train, args.out / "proposals-train.npz", args.data)
        test, self.search_seconds = searched(self.test, args.out / f"proposals-{args.split}.npz", args.data)
        factors = [np.float32(self.scale.factor(record.size)) for record in self.test.records]
        return train, [boxes * factor for boxes, factor in zip(test, factors, strict=True)]

    def rcnn(self) -> tuple[np.ndarray, Detect]:
        train_boxes, test_boxes = self.searched_boxes()
        schedule = replace(RCNN_RECIPE.schedule, steps=self.recipe.schedule.steps // 2)
        recipe = replace(self.recipe, schedule=schedule)
        model, mean_colour = train_rcnn(self.train, train_boxes, self.args.out / "rcnn", recipe, self.args.seed)
        fused = fuse(model)
        return mean_colour, lambda image, i: fused.detect([image], [test_boxes[i]])[0]

    def fast(self) -> tuple[np.ndarray, Detect]:
        train_boxes, test_boxes = self.searched_boxes()
        model, mean_colour = train_fast_rcnn(
            self.train, train_boxes, self.args.out / "fast", self.recipe, self.args.seed
        )
        fused = fuse(model)
        return mean_colour, lambda image, i: fused.detect([image], [test_boxes[i]])[0]

    def faster(self) -> tuple[np.ndarray, Detect]:
        return self.without_proposals(train_faster_rcnn, "faster")

    def four_steps(self) -> tuple[np.ndarray, Detect]:
        return self.without_proposals(train_in_four_steps, "steps")

    def two_steps(self) -> tuple[np.ndarray, Detect]:
        return self.without_proposals(train_in_two_steps, "steps")

    def without_proposals(self, train: Callable[..., TrainedObjects], folder: str) -> tuple[np.ndarray, Detect]:
        self.search_seconds = 0.0
        trained = train(self.train, self.args.out / folder, self.recipe, self.args.seed)
        fused = fuse(trained.model)
        return trained.mean_colour, lambda image, i: fused.detect([image])[0]

    def row(self, key: str) -> dict:
        begin = time.process_time()
        mean_colour, detect = getattr(self, key)()
        minutes = (time.process_time() - begin) / 60
        figures, seconds = measure(self.test, self.scale, mean_colour, detect)
        times = {"training_minutes": minutes, "proposal_seconds": self.search_seconds, "network_seconds": seconds}
        return {"model": MODELS[key]} | times | figures


MODELS = {
    "rcnn": "R-CNN",
    "fast": "Fast R-CNN",
    "faster": "Faster R-CNN, approximate joint training",
    "four_steps": "Faster R-CNN, 4 steps",
    "two_steps": "Faster R-CNN, 2 steps, one of them joint",
}


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
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["rcnn", "fast", "faster"], metavar="MODEL",
                        help=f"of {', '.join(MODELS)} (default: the three generations)")  # fmt: skip
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comparison = Comparison(args)
    for i, key in enumerate(args.models):
        row = comparison.row(key)
        print_rows([row], header=i == 0)
        if args.json:
            rows = json.loads(args.json.read_text()) if args.json.exists() else []
            rows = [other for other in rows if other["model"] != row["model"]] + [row]
            args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
