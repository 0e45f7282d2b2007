"""How many objects proposals reach, how many boxes that takes, and how long: selective search, windows, random boxes.

    python benchmarks/proposals.py --data DIR/bccd [--split val] [--images N] [--width 500] [--json FILE]

DIR/bccd is a folder of PASCAL VOC's kind. Windows are in random order (a grid has no better one). Seconds are the
processor's, of one thread, an image; reading its file is not counted. AR: average recall; MABO: mean average best
overlap; see minidetect/evaluate/proposals.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.benchmark.machine import describe
from minidetect.benchmark.peers import Peers
from minidetect.data.images import load_image
from minidetect.data.objects import ObjectDataset
from minidetect.data.voc import read_voc
from minidetect.detection.proposals import random_boxes, sliding_windows
from minidetect.detection.selective_search import selective_search
from minidetect.evaluate.proposals import MOST, mean_average_best_overlap, recall_by_class
from minidetect.kernels.threads import set_num_threads

Method = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def methods(width: int | None, num: int) -> dict[str, Method]:
    """num: of random boxes, and of windows at most."""
    return {
        "selective search": lambda image, rng: selective_search(image, rng, width=width),
        "sliding windows": lambda image, rng: rng.permutation(sliding_windows(image.shape[:2]))[:num],
        "random boxes": lambda image, rng: random_boxes(image.shape[:2], num, rng),
    }


def measure(name: str, propose: Method, images: Sequence[np.ndarray], dataset: ObjectDataset, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    propose(images[0], rng)  # compiles
    start = time.process_time()
    proposals = [propose(image, rng) for image in tqdm(images, desc=name)]
    seconds = (time.process_time() - start) / len(images)
    rows = []
    for most in (*MOST, None):
        by_class = recall_by_class(proposals, dataset, most)
        every = by_class["all"]
        rows.append({
            "method": name, "most": most, "boxes": every.num_boxes, "seconds": seconds,
            "recall 0.5": every.recall(0.5), "recall 0.7": every.recall(0.7), "AR": every.average_recall,
            "MABO": mean_average_best_overlap(by_class),
            "recall 0.5 by class": {k: row.recall(0.5) for k, row in by_class.items() if k != "all"},
        })  # fmt: skip
    return rows


def line(row: dict) -> str:
    numbers = "  ".join(f"{row[name]:10.3f}" for name in ("recall 0.5", "recall 0.7", "AR", "MABO", "seconds"))
    by_class = ", ".join(f"{name} {value:.2f}" for name, value in row["recall 0.5 by class"].items())
    return f"{row['method']:16}  {row['most'] or 'all':>5}  {row['boxes']:6.0f}  {numbers}  {by_class}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a VOC folder")
    parser.add_argument("--split", default="val", help="a list in ImageSets/Main (default: val)")
    parser.add_argument("--images", type=int, help="only the first so many")
    parser.add_argument("--width", type=int, help="of the image that selective search looks at (default: as it is)")
    parser.add_argument("--num", type=int, default=2000, help="random boxes and windows an image (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    set_num_threads(1)
    dataset = read_voc(arguments.data, arguments.split)
    dataset = ObjectDataset(dataset.records[: arguments.images], dataset.classes)
    if not dataset.records:
        parser.error(f"no images in the list {arguments.split} of {arguments.data}")
    images = [load_image(record.path) for record in dataset.records]
    rows = []
    for name, propose in methods(arguments.width, arguments.num).items():
        rows += measure(name, propose, images, dataset, arguments.seed)
    heads = "  ".join(f"{name:>10}" for name in ("recall 0.5", "recall 0.7", "AR", "MABO", "seconds"))
    print(f"{len(images)} images, {sum(len(r) for r in dataset.records)} objects")
    print(f"{'':16}  {'first':>5}  {'boxes':>6}  {heads}  recall 0.5 by class")
    for row in rows:
        print(line(row))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        document = {"machine": describe(Peers(1, ())), "width": arguments.width, "proposals": rows}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
