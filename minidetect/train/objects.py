"""Training of Fast and Faster R-CNN on a folder of one's own: jointly, in four steps, in two.

    train_faster_rcnn     approximate joint training, one phase          Faster R-CNN, section 3.2 (ii)
    train_in_four_steps   a network each, then shared, by turns          Faster R-CNN, section 3.2, "4-step"
    train_in_two_steps    a proposal network, then both branches         FaceCraft, section 5
    train_fast_rcnn       on proposals from elsewhere                    Fast R-CNN, section 2.3

Each takes the images from `object_images.TrainingImages` and goes through `loop.train_phase`, so a run that was killed
goes on where it was.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.data.objects import ObjectDataset
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.image_scale import ImageScale
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.faster_rcnn import FasterRCNN
from minidetect.nn.fuse import fuse
from minidetect.train.loop import Losses, train_phase
from minidetect.train.object_images import (
    ObjectRecipe,
    TrainingImages,
    anchor_sides,
    check_same_run,
    resized_proposals,
)


class TrainedObjects(NamedTuple):
    """A trained model and what belongs to it: names of the classes, the mean colour (3,), the scale of images."""

    model: FasterRCNN
    classes: tuple[str, ...]
    mean_colour: np.ndarray
    scale: ImageScale


class ObjectRun:
    """A training of Faster R-CNN in a folder: its images, its phases, and the note of what data it is of.

    Arguments: see `train_faster_rcnn`. Raises ValueError where the folder holds a run of other data, settings or seed.
    """

    def __init__(
        self, dataset: ObjectDataset, out: Path, recipe: ObjectRecipe, seed: int = 0, check_nan: bool = False,
        progress: bool = True,
    ) -> None:
        self.dataset, self.out, self.recipe, self.seed = dataset, out, recipe, seed
        self.check_nan, self.progress = check_nan, progress
        self.source = TrainingImages(dataset, recipe)
        check_same_run(out, dataset, recipe, seed, self.source.mean_colour)
        self.rng = np.random.default_rng(seed)

    def new_model(self) -> FasterRCNN:
        return new_faster_rcnn(self.source, len(self.dataset.classes), self.rng)

    def phase(self, name: str, model: FasterRCNN, losses: Losses, rng: np.random.Generator | None = None) -> None:
        """One run of the loop. rng: None for a generator of the phase's own, so that skipping it changes none after."""
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())]) if rng is None else rng
        train_phase(name, model, losses, self.recipe.schedule, self.out, rng, check_nan=self.check_nan,
                    progress=self.progress)  # fmt: skip

    def result(self, model: FasterRCNN) -> TrainedObjects:
        return TrainedObjects(model, self.dataset.classes, self.source.mean_colour, self.recipe.scale)


def train_faster_rcnn(
    dataset: ObjectDataset, out: Path, recipe: ObjectRecipe, seed: int = 0, check_nan: bool = False,
    progress: bool = True,
) -> TrainedObjects:
    """Approximate joint training, Faster R-CNN, section 3.2, into a folder that a killed run continues in."""
    run = ObjectRun(dataset, out, recipe, seed, check_nan, progress)
    model, source = run.new_model(), run.source
    run.phase("network", model, lambda rng: model.losses(*source.batch(rng), rng), run.rng)
    return run.result(model)


def train_in_four_steps(
    dataset: ObjectDataset, out: Path, recipe: ObjectRecipe, seed: int = 0, progress: bool = True
) -> TrainedObjects:
    """4-step alternating training, Faster R-CNN, section 3.2; each step is one phase of the recipe's schedule.

    1 a proposal network; 2 a detector on its proposals, which starts from the same weights as step 1 did and shares
    nothing with it; 3 a new proposal network on the detector's convolutions, which stay as they are; 4 the detector's
    head on the proposals of 3. So in steps 3 and 4 no gradient reaches the convolutions.
    """
    run = ObjectRun(dataset, out, recipe, seed, progress=progress)
    detector = run.new_model()
    proposals, source = step_one(run, copy.deepcopy(detector)), run.source
    convolutions = len(detector.backbone.table)
    run.phase("step2", detector, lambda rng: detector.head_losses(*source.batch_with(proposals, rng), rng))
    run.phase("step3", detector, lambda rng: detector.rpn_losses(*source.batch(rng), rng, frozen=convolutions))
    again = all_proposals(detector, source)
    run.phase(
        "step4", detector,
        lambda rng: detector.head_losses(*source.batch_with(again, rng), rng, frozen=convolutions),
    )  # fmt: skip
    return run.result(detector)


def train_in_two_steps(
    dataset: ObjectDataset, out: Path, recipe: ObjectRecipe, seed: int = 0, progress: bool = True
) -> TrainedObjects:
    """The joint training of FaceCraft, section 5, in half as many steps as Faster R-CNN's four.

    1 a proposal network, the same as in four steps (in one folder it is trained once); 2 the whole network, which
    starts from those weights, by the losses of both branches, on the proposals of 1.
    """
    run = ObjectRun(dataset, out, recipe, seed, progress=progress)
    model = run.new_model()
    proposals, source = step_one(run, model), run.source
    run.phase("joint", model, lambda rng: model.joint_losses(*source.batch_with(proposals, rng), rng))
    return run.result(model)


def step_one(run: ObjectRun, proposer: FasterRCNN) -> list[np.ndarray]:
    """Train the proposal network, convolutions included; its proposals for every training image."""
    run.phase("step1", proposer, lambda rng: proposer.rpn_losses(*run.source.batch(rng), rng))
    return all_proposals(proposer, run.source)


def new_faster_rcnn(source: TrainingImages, num_classes: int, rng: np.random.Generator) -> FasterRCNN:
    """An untrained model with anchors that fit the training images' objects."""
    recipe, backbone = source.recipe, Backbone(rng, source.recipe.table)
    sides = anchor_sides([example.target for example in source.examples], recipe.num_sides)
    return FasterRCNN(num_classes, rng, AnchorGrid(backbone.stride, sides, recipe.ratios), backbone)


def all_proposals(model: FasterRCNN, source: TrainingImages) -> list[np.ndarray]:
    """The proposals (R, 4) of every training image."""
    fused = fuse(model)
    return [fused.propose(source.normalised(example.image)) for example in source.examples]


def train_fast_rcnn(
    dataset: ObjectDataset, proposals: Sequence[np.ndarray], out: Path, recipe: ObjectRecipe, seed: int = 0,
    check_nan: bool = False, progress: bool = True,
) -> tuple[FastRCNN, np.ndarray]:
    """Fast R-CNN on proposals from elsewhere, (R, 4) an image in its own pixels. Returns the model and mean colour."""
    source, rng = TrainingImages(dataset, recipe), np.random.default_rng(seed)
    check_same_run(out, dataset, recipe, seed, source.mean_colour)
    scaled = resized_proposals(proposals, dataset, recipe.scale)
    model = FastRCNN(len(dataset.classes), rng, Backbone(rng, recipe.table))
    train_phase(
        "network", model, lambda rng: model.losses(*source.batch_with(scaled, rng), rng), recipe.schedule, out, rng,
        check_nan=check_nan, progress=progress,
    )
    return model, source.mean_colour
