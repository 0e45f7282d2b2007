"""The images of a training on a folder of one's own: read, resized, flipped, with anchors that fit their objects.

Two images a step, as in Fast R-CNN, section 2.3 (Faster R-CNN has one). They are drawn anew at each step, with
replacement, so that the generator's state is all that a checkpoint must know; the papers go through permutations.

Letters: H W size of an image, R proposals of an image.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.data.objects import ObjectDataset, load_record
from minidetect.detection.boxes import area, flip_horizontal
from minidetect.detection.image_scale import ImageScale, box_factors, normalise
from minidetect.detection.structures import Target
from minidetect.kernels.resize import resize_image
from minidetect.models.backbones import SMALL
from minidetect.nn.checkpoint import write_atomically
from minidetect.train.loop import Schedule


@dataclass(frozen=True)
class ObjectRecipe:
    """How a detector of the R-CNN family is trained.

    scale: how large the network sees an image. table: of the trunk, see `Backbone`.
    num_sides: sizes of anchors, spread over the sizes of the objects; ratios: their heights by their widths.
    images_per_step: 2 in Fast R-CNN, 1 in Faster R-CNN. vertical_flips: also turn images upside down, where that makes
    sense (cells do not know up from down; dogs do). scale_jitter: by one of these factors each image is made larger or
    smaller, at random (Fast R-CNN, section 2.4, trains so for several scales: multi_scale.py).
    schedule: see `train.loop.Schedule`.
    """

    scale: ImageScale = ImageScale(480, 800)
    table: tuple[tuple[int, int], ...] = SMALL
    num_sides: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    images_per_step: int = 2
    vertical_flips: bool = False
    scale_jitter: tuple[float, ...] = (1.0,)
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=3000, lr=0.01, warm_up=100, drops=(0.7, 0.9), max_norm=10.0)
    )

    def shortened(self, steps: int) -> ObjectRecipe:
        """The same with at most so many steps, for trying out."""
        return replace(self, schedule=replace(self.schedule, steps=min(steps, self.schedule.steps)))


class Example(NamedTuple):
    """One training image as the network sees it: (H, W, 3) uint8, and its target in the same pixels."""

    image: np.ndarray
    target: Target


def load_examples(dataset: ObjectDataset, scale: ImageScale) -> list[Example]:
    """Every image, resized, in memory: 1.8 MB each at 600 x 1000.

    Raises ValueError naming an image whose size is not the one that its annotation states.
    """
    examples = []
    for record in dataset.records:
        image = load_record(record)
        resized = scale.resize(image)
        factors, target = box_factors(image.shape, resized.shape), record.target()
        examples.append(
            Example(resized, target._replace(boxes=target.boxes * factors, ignore=target.ignore * factors))
        )
    return examples


def resized_targets(dataset: ObjectDataset, scale: ImageScale) -> tuple[list[Target], list[tuple[int, int]]]:
    """Each image's target and size (height, width) as the network sees them; no image is read."""
    targets, sizes = [], []
    for record in dataset.records:
        factor, target = scale.factor(record.size), record.target()
        targets.append(target._replace(boxes=target.boxes * np.float32(factor)))
        sizes.append((round(record.size[0] * factor), round(record.size[1] * factor)))
    return targets, sizes


def resized_proposals(
    proposals: Sequence[np.ndarray], dataset: ObjectDataset, scale: ImageScale
) -> list[np.ndarray]:
    """Each image's proposals (R, 4) as the network sees them, from those in the image's own pixels."""
    pairs = zip(proposals, dataset.records, strict=True)
    return [boxes * np.float32(scale.factor(record.size)) for boxes, record in pairs]


def anchor_sides(targets: Sequence[Target], num: int, rounds: int = 50) -> tuple[float, ...]:
    """`num` sizes of anchors that fit the objects: k-means of log(sqrt(area)), in which each class counts the same.

    Otherwise a class of thousands of objects would have all anchors for itself.
    targets: as the network sees them. Raises ValueError where there is no object.
    """
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(target.boxes for target in targets)])
    labels = np.concatenate([np.zeros(0, np.int64), *(target.labels for target in targets)])
    if len(boxes) == 0:
        raise ValueError("there is no object in the training images")
    sizes = np.log(area(boxes)) / 2
    weights = 1 / np.bincount(labels)[labels]
    order = np.argsort(sizes)
    rank = np.cumsum(weights[order]) / weights.sum()
    centres = sizes[order][np.searchsorted(rank, (np.arange(num) + 0.5) / num)]  # the middles of equal shares
    for _ in range(rounds):
        nearest = np.abs(sizes[:, None] - centres).argmin(axis=1)
        mass = np.bincount(nearest, weights, num)
        means = np.bincount(nearest, weights * sizes, num) / np.maximum(mass, 1e-12)
        centres = np.where(mass > 0, means, centres)
    return tuple(float(f"{side:.3g}") for side in np.sort(np.exp(centres)))


def flipped(example: Example, axis: int) -> Example:
    """Mirrored left to right (axis 1) or upside down (axis 0)."""
    image, target = example
    boxes, ignore = (mirrored(part, image.shape[:2], (axis,)) for part in (target.boxes, target.ignore))
    return Example(np.ascontiguousarray(np.flip(image, axis)), target._replace(boxes=boxes, ignore=ignore))


def rescaled(example: Example, factor: float) -> Example:
    """Larger or smaller, by about `factor`: each side has a whole number of pixels."""
    size = tuple(max(1, round(side * factor)) for side in example.image.shape[:2])
    image, target = resize_image(example.image, size), example.target
    factors = box_factors(example.image.shape, image.shape)
    return Example(image, target._replace(boxes=target.boxes * factors, ignore=target.ignore * factors))


class TrainingImages:
    """Draws the images of a step: a few of the training's, each mirrored or not, larger or smaller or not.

    dataset, recipe: see above.
    """

    def __init__(self, dataset: ObjectDataset, recipe: ObjectRecipe) -> None:
        self.examples = load_examples(dataset, recipe.scale)
        colours = [example.image.mean(axis=(0, 1)) for example in self.examples]
        self.mean_colour = np.mean(colours, axis=0).astype(np.float32)
        self.recipe = recipe

    def draw(self, rng: np.random.Generator) -> Iterator[tuple[int, tuple[int, ...], Example]]:
        """For each image of a step: which one, the axes along which it was flipped, and what became of it."""
        for i in rng.integers(len(self.examples), size=self.recipe.images_per_step):
            axes = (1,) if rng.random() < 0.5 else ()
            if self.recipe.vertical_flips and rng.random() < 0.5:
                axes += (0,)
            example, jitter = self.examples[i], self.recipe.scale_jitter
            factor = jitter[rng.integers(len(jitter))] if len(jitter) > 1 else jitter[0]
            if factor != 1:
                example = rescaled(example, factor)
            for axis in axes:
                example = flipped(example, axis)
            yield int(i), axes, example

    def batch(self, rng: np.random.Generator) -> tuple[list[np.ndarray], list[Target]]:
        """Normalised images (3, H, W) and their targets."""
        drawn = [example for _, _, example in self.draw(rng)]
        return [self.normalised(example.image) for example in drawn], [example.target for example in drawn]

    def batch_with(
        self, proposals: Sequence[np.ndarray], rng: np.random.Generator
    ) -> tuple[list[np.ndarray], list[Target], list[np.ndarray]]:
        """A batch and its images' proposals, resized and flipped like them.

        proposals: one (R, 4) an image of the training.
        """
        images, targets, boxes = [], [], []
        for i, axes, example in self.draw(rng):
            images.append(self.normalised(example.image))
            targets.append(example.target)
            resized = proposals[i] * box_factors(self.examples[i].image.shape, example.image.shape)
            boxes.append(mirrored(resized, example.image.shape[:2], axes))
        return images, targets, boxes

    def normalised(self, image: np.ndarray) -> np.ndarray:
        return normalise(image, self.mean_colour)


def mirrored(boxes: np.ndarray, size: tuple[int, int], axes: tuple[int, ...]) -> np.ndarray:
    """Boxes (N, 4) of an image of (height, width) that is flipped along some axes: 1 left to right, 0 upside down."""
    for axis in axes:
        swap = [0, 1, 2, 3] if axis == 1 else [1, 0, 3, 2]  # upside down is left to right with x and y exchanged
        boxes = flip_horizontal(boxes[:, swap], size[axis])[:, swap]
    return boxes


def check_same_run(
    folder: Path, dataset: ObjectDataset, recipe: ObjectRecipe, seed: int, mean_colour: np.ndarray | None = None
) -> None:
    """Note in folder/data.json what a run is made of; raise ValueError where the run in it was made of something else.

    A run that goes on with other classes, boxes, colours, settings or another seed would mix weights with what they
    were not made for, or pass off another run's weights as its own. mean_colour: (3,), once the images are read.
    """
    parts = [np.array([record.size for record in dataset.records], np.int64)]
    parts += [part for record in dataset.records for part in (record.boxes, record.labels, record.ignored)]
    facts = {
        "classes": list(dataset.classes),
        "objects": sum(map(len, dataset.records)),
        "annotations": zlib.crc32(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)),
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "seed": seed,
    }
    if mean_colour is not None:
        facts["mean_colour"] = [round(float(v), 3) for v in mean_colour]
    file, earlier = folder / "data.json", {}
    if file.exists():
        try:
            earlier = json.loads(file.read_text())
        except ValueError:
            raise ValueError(f"{file}: not the note of a run; delete it, or choose another folder") from None
    changed = [name for name, value in facts.items() if name in earlier and earlier[name] != value]
    if changed:
        told = "; ".join(f"{name} was {earlier[name]}, now {facts[name]}" for name in changed)
        raise ValueError(f"{file}: the run in this folder was begun on other data or settings: {told}")
    write_atomically(file, lambda stream: stream.write((json.dumps(earlier | facts, indent=1) + "\n").encode()))
