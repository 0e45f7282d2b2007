"""Faces by RPN + Fast R-CNN: trained in four steps by turns, or in two of which one is joint. FaceCraft, section 6.6.

    python benchmarks/two_or_four_steps.py --data DIR --out runs/faces            # measured on wider/val
    python benchmarks/two_or_four_steps.py --data DIR --out runs/faces --fddb     # and on FDDB folds 1 to 3, to report

DIR holds wider/ and fddb/ as `minidetect train facecraft` and `evaluate fddb` read them. Step 1, the proposal network,
is the same in both and is trained once. All phases have equally many steps, so that the joint training takes half as
many as the other, as in the paper. Minutes are of processor time, and of what was still to do: the second
training finds step 1 done by the first.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.api_objects import ObjectDetector
from minidetect.data.images import image_size, load_image
from minidetect.data.objects import ObjectDataset, ObjectRecord
from minidetect.data.wider_face import read_wider, to_target
from minidetect.detection.boxes import area
from minidetect.detection.image_scale import ImageScale
from minidetect.evaluate.average_precision import evaluate_detections
from minidetect.evaluate.runs import run_fddb, summarise_fddb
from minidetect.train.loop import Schedule
from minidetect.train.object_images import ObjectRecipe
from minidetect.train.objects import TrainedObjects, train_in_four_steps, train_in_two_steps

MIN_FACE = 20  # pixels; smaller ones are ignored in training and in measuring, as for the cascades
# Stride 8, since most faces are smaller than two cells of 16.
FACE_TRUNK = ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1))
TRAININGS = {"4 steps": train_in_four_steps, "2 steps, joint": train_in_two_steps}


def wider_faces(data: Path, split: str) -> ObjectDataset:
    """WIDER FACE as objects of one class; unclear faces are ignored, photos without a clear one left out."""
    records = []
    for record in read_wider(data / "wider" / f"wider_{split}_bbx_gt.txt", data / "wider" / split):
        size = image_size(record.path)
        target = to_target(record, size, MIN_FACE)
        if len(target.boxes):
            boxes = np.concatenate([target.boxes, target.ignore])
            ignored = np.arange(len(boxes)) >= len(target.boxes)
            labels = np.ones(len(boxes), np.int64)
            records.append(ObjectRecord(record.path, size, boxes, labels, ignored, area(boxes).astype(np.float64)))
    return ObjectDataset(records, ("face",))


class FaceFinder:
    """A trained Faster R-CNN as the face benchmarks call it; `min_face` is the cascades', and changes nothing here."""

    def __init__(self, trained: TrainedObjects) -> None:
        trained.model.min_score, trained.model.most = 0.01, 300  # a whole curve, and crowds
        self.detector = ObjectDetector(trained.model, trained.classes, trained.mean_colour, trained.scale)

    def detect_with_report(self, image: np.ndarray, min_face: float, threshold: float) -> tuple:
        return self.detector.detect_one(image, threshold), []


def measure(finder: FaceFinder, data: Path, fddb: bool) -> dict[str, float]:
    detections, targets, seconds = [], [], []
    for record in tqdm(read_wider(data / "wider" / "wider_val_bbx_gt.txt", data / "wider" / "val"), desc="val"):
        image = load_image(record.path)
        start = time.process_time()
        detections.append(finder.detector.detect_one(image))
        seconds.append(time.process_time() - start)
        targets.append(to_target(record, image.shape[:2], MIN_FACE))
    curve = evaluate_detections(detections, targets)
    row = {"val_ap": curve.ap, "val_recall_at_100_fp": curve.recall_at(100), "seconds": float(np.median(seconds))}
    if fddb:
        curves = run_fddb(finder, data, MIN_FACE).curves
        row |= {f"fddb_{name}": value for name, value in summarise_fddb(curves).items()}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500, help="of each phase (default: 1500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fddb", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    recipe = ObjectRecipe(
        ImageScale(448, 640), FACE_TRUNK, num_sides=4, ratios=(1.25,),
        schedule=Schedule(args.steps, lr=0.01, warm_up=100, drops=(0.7, 0.9), max_norm=10.0),
    )  # fmt: skip
    dataset, rows = wider_faces(args.data, "train"), []
    print(f"{len(dataset)} photos, {sum((~record.ignored).sum() for record in dataset.records)} faces")
    for name, train in TRAININGS.items():
        start = time.process_time()
        trained = train(dataset, args.out, recipe, args.seed)
        minutes = (time.process_time() - start) / 60
        rows.append({"training": name, "minutes": minutes} | measure(FaceFinder(trained), args.data, args.fddb))
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
