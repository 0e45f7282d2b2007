"""Two questions of Fast R-CNN's section 5 to a detector of one's own: several scales or one? SVMs or the softmax?

    minidetect train fast-rcnn --data DIR/bccd --out runs/fast --vertical-flips
    python benchmarks/fast_rcnn_variants.py --data DIR/bccd --run runs/fast

Several scales (section 5.2): each proposal is looked at where its area is nearest to that of a middling object of the
training images. SVMs (section 5.4): trained on fc7 with hard negatives, on the proposals that the run was trained on.
Seconds are of processor time and without the search for proposals.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.api import load
from minidetect.api_objects import ObjectDetector
from minidetect.data.folders import read_objects
from minidetect.data.objects import ObjectDataset, load_record
from minidetect.data.proposals import searched_proposals
from minidetect.detection.boxes import area
from minidetect.detection.image_scale import ImageScale, box_factors, normalise
from minidetect.detection.structures import Detections
from minidetect.detection.svm import LinearSVM
from minidetect.evaluate.objects import summarise_objects
from minidetect.models.fast_rcnn_svm import FastRCNNSVM, fit_fast_svms
from minidetect.models.multi_scale import detect_at_scales
from minidetect.nn.fuse import fuse
from minidetect.train.object_images import ObjectRecipe, TrainingImages, resized_proposals

Detect = Callable[[np.ndarray, np.ndarray], Detections]  # an image (H, W, 3) uint8, proposals (R, 4) in its pixels


def middling_area(source: TrainingImages) -> float:
    """The median area of the training's objects as the network sees them, in square pixels."""
    return float(np.median(area(np.concatenate([example.target.boxes for example in source.examples]))))


def svm_detector(detector: ObjectDetector, dataset: ObjectDataset, source: TrainingImages, proposals: list, c: float,
                 rng: np.random.Generator) -> Detect:  # fmt: skip
    """The same network, scored by SVMs that are trained here."""
    images = [source.normalised(example.image) for example in source.examples]
    model = FastRCNNSVM(detector.fused)
    scaled = resized_proposals(proposals, dataset, detector.scale)
    fit_fast_svms(model, images, [example.target for example in source.examples], scaled, rng, svm=LinearSVM(c=c))

    def detect(image: np.ndarray, boxes: np.ndarray) -> Detections:
        resized = detector.scale.resize(image)
        planes, rois = normalise(resized, detector.mean_colour), boxes * box_factors(image.shape, resized.shape)
        (found,) = model.detect([planes], [rois])
        return found._replace(boxes=found.boxes * box_factors(resized.shape, image.shape))

    return detect


def variants(
    detector: ObjectDetector, train: ObjectDataset, proposals: list, factors: list[float], c: float, seed: int
) -> dict[str, Detect]:
    source, model = TrainingImages(train, ObjectRecipe(detector.scale)), fuse(detector.model)
    middling, scale = middling_area(source), detector.scale
    pyramid = [ImageScale(round(scale.short_side * f), round(scale.longest * f)) for f in factors]
    mean, rng = detector.mean_colour, np.random.default_rng(seed)
    print(f"objects of about {middling**0.5:.0f} pixels; short sides {[level.short_side for level in pyramid]}")
    return {
        "one scale, softmax": lambda image, boxes: detect_at_scales(model, image, boxes, mean, [scale], middling),
        "several scales, softmax": lambda image, boxes: detect_at_scales(model, image, boxes, mean, pyramid, middling),
        "one scale, SVMs": svm_detector(detector, train, source, proposals, c, rng),
    }


def measure(name: str, dataset: ObjectDataset, proposals: list[np.ndarray], detect: Detect) -> dict:
    detections, seconds = [], 0.0
    detect(load_record(dataset.records[0]), proposals[0])  # compiles
    for record, boxes in zip(tqdm(dataset.records, desc=name), proposals, strict=True):
        image, start = load_record(record), time.process_time()
        detections.append(detect(image, boxes))
        seconds += time.process_time() - start
    return {"model": name, **summarise_objects(detections, dataset), "seconds": seconds / len(dataset)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that the run was trained on")
    parser.add_argument("--run", type=Path, required=True, help="OUT of `minidetect train fast-rcnn`")
    parser.add_argument("--split", default="test", help="to measure on (default: test)")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.7, 1.0, 1.4], help="of the pyramid's scales")
    parser.add_argument("--c", type=float, default=0.001, help="of the SVMs (default: the paper's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    detector = load(args.run / "fast-rcnn.npz")
    train, test = (read_objects(args.data, s, detector.classes, lambda _: None) for s in ("train", args.split))
    searched = [
        searched_proposals(dataset, args.data, args.run / file, detector.scale)
        for dataset, file in ((train, "proposals.npz"), (test, f"proposals-{args.split}.npz"))
    ]
    rows = []
    print("| | mAP@0.5 | COCO AP | seconds an image |\n| --- | --- | --- | --- |")
    for name, detect in variants(detector, train, searched[0], args.factors, args.c, args.seed).items():
        rows.append(measure(name, test, searched[1], detect))
        row = rows[-1]
        print(f"| {name} | {row['mAP@0.5']:.3f} | {row['COCO AP']:.3f} | {row['seconds']:.3f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
