"""What does it help that a trunk has seen ImageNet? R-CNN's and Fast R-CNN's beginning, with MobileNet 0.25.

    python benchmarks/pretrained_trunk.py --data DIR/fruit --weights DIR/mobilenet_2_5_224_tf_no_top.h5 --out runs/trunk
    python benchmarks/pretrained_trunk.py ... --layers                            # also R-CNN's layers, section 3.2

Fast R-CNN is trained twice in the same steps on the same trunk, once from Keras' weights and once from random ones.
With --layers, R-CNN: SVMs on the features of pool5, fc6 and fc7 after fine-tuning, on pool5 before it (the weights have
no fully connected layers), and after a training of the same length from random weights. Reading the weights needs h5py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.data.folders import read_objects
from minidetect.data.objects import load_record
from minidetect.data.proposals import searched_proposals
from minidetect.detection.image_scale import ImageScale, box_factors, normalise
from minidetect.detection.svm import LinearSVM
from minidetect.evaluate.objects import summarise_objects
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.mobilenet import MEAN_COLOUR, MobileNet, load_mobilenet
from minidetect.models.rcnn import RCNN, CropNet, label_windows, sample_windows
from minidetect.models.rcnn_fit import fit_svms
from minidetect.nn.fuse import fuse
from minidetect.train.loop import Schedule, train_phase
from minidetect.train.object_images import ObjectRecipe, TrainingImages, resized_proposals
from minidetect.train.rcnn import flipped_losses


class Comparison:
    """The data, what is searched in it once, and a row for each model."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, scale = args, ImageScale(args.short_side, args.short_side * 5 // 3)
        self.train, self.test = (read_objects(args.data, s, on_problem=lambda _: None) for s in ("train", args.split))
        self.recipe = ObjectRecipe(scale, schedule=Schedule(args.steps, 0.01, 50, (0.7, 0.9), max_norm=10.0))
        searched = [
            searched_proposals(dataset, args.data, args.out / f"proposals-{name}.npz", scale, args.proposals)
            for name, dataset in (("train", self.train), (args.split, self.test))
        ]
        self.proposals = resized_proposals(searched[0], self.train, scale)
        self.test_proposals = searched[1]
        self.source = TrainingImages(self.train, self.recipe)
        self.source.mean_colour = MEAN_COLOUR  # of every row, so that only the weights differ
        self.rows: list[dict] = []

    def trunk(self, pretrained: bool) -> MobileNet:
        if pretrained:
            return load_mobilenet(self.args.weights)
        return MobileNet(np.random.default_rng(self.args.seed))

    def fast_rcnn(self, pretrained: bool) -> None:
        rng, name = np.random.default_rng(self.args.seed), f"fast_{'pretrained' if pretrained else 'random'}"
        model = FastRCNN(len(self.train.classes), rng, self.trunk(pretrained))
        train_phase(
            name, model, lambda rng: model.losses(*self.source.batch_with(self.proposals, rng), rng),
            self.recipe.schedule, self.args.out, rng,
        )  # fmt: skip
        self.add(f"Fast R-CNN, {'ImageNet' if pretrained else 'random'}", model)

    def rcnn(self, pretrained: bool, tuned: bool, taps: Sequence[str]) -> None:
        rng = np.random.default_rng(self.args.seed)
        num_classes, side = len(self.train.classes), self.args.side
        net = CropNet(num_classes, rng, side, features=128, backbone=self.trunk(pretrained))
        model = RCNN(num_classes, rng, net, regress=False)
        images = [self.source.normalised(example.image) for example in self.source.examples]
        targets = [example.target for example in self.source.examples]
        if tuned:
            windows = label_windows(self.proposals, targets)
            train_phase(
                f"rcnn_{'pretrained' if pretrained else 'random'}", net,
                lambda rng: flipped_losses(model, images, sample_windows(windows, rng), False, rng),
                replace(self.recipe.schedule, steps=self.args.steps // 2), self.args.out, rng,
            )  # fmt: skip
        for tap in taps:
            model = fuse(RCNN(num_classes, rng, net, tap=tap, regress=False))
            fit_svms(model, images, targets, self.proposals, rng, svm=LinearSVM(c=0.01))
            start = "ImageNet" if pretrained else "random"
            self.add(f"R-CNN, {start}, {'fine-tuned' if tuned else 'as it is'}, {tap}", model)

    def add(self, name: str, model: FastRCNN | RCNN) -> None:
        detect: Callable = fuse(model).detect
        scale, found = self.recipe.scale, []
        for record, boxes in zip(tqdm(self.test.records, desc=name), self.test_proposals, strict=True):
            image = load_record(record)
            resized = scale.resize(image)
            planes, rois = normalise(resized, MEAN_COLOUR), boxes * box_factors(image.shape, resized.shape)
            (one,) = detect([planes], [rois])
            found.append(one._replace(boxes=one.boxes * box_factors(resized.shape, image.shape)))
        row = {"model": name, **summarise_objects(found, self.test)}
        self.rows.append(row)
        classes = ", ".join(f"{key[7:]} {row[key]:.3f}" for key in row if key.startswith("AP@0.5 "))
        print(f"| {name} | {row['mAP@0.5']:.3f} | {row['COCO AP']:.3f} | {classes} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder as `minidetect train faster-rcnn` reads it")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNet 0.25 of Keras, without its top, HDF5")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--short-side", type=int, default=240)
    parser.add_argument("--side", type=int, default=64, help="of R-CNN's crops")
    parser.add_argument("--proposals", type=int, default=300, help="an image, at most")
    parser.add_argument("--steps", type=int, default=400, help="of Fast R-CNN; R-CNN has half as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comparison = Comparison(args)
    print("| | mAP@0.5 | COCO AP | each class |\n| --- | --- | --- | --- |", flush=True)
    for pretrained in (True, False):
        comparison.fast_rcnn(pretrained)
    if args.layers:
        comparison.rcnn(True, False, ["pool5"])
        comparison.rcnn(True, True, ["pool5", "fc6", "fc7"])
        comparison.rcnn(False, True, ["fc7"])
    if args.json:
        args.json.write_text(json.dumps(comparison.rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
