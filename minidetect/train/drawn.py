"""Experiments on drawn scenes, in memory: a training of seconds, and one number for how good it came out.

What `train/objects.py` does for a folder of photos, without files: lessons 08 to 13 compare settings with it. Two
trainings with equal generators begin with the same weights and the same scenes; they go on with the same ones as long
as both draw equally often from the generator. Where a setting changes what the losses draw (how many RoIs are sampled,
say), the scenes differ from then on.

Letters: N scenes or patches, S side of a patch, G objects of a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minidetect.autograd import Tensor
from minidetect.data.synthetic import OBJECTS4, DrawnObjects, ObjectScene, ObjectSettings, draw_patches
from minidetect.detection.image_scale import normalise
from minidetect.detection.structures import Detections, Target
from minidetect.evaluate.average_precision import evaluate_detections
from minidetect.models.rcnn import CropNet
from minidetect.nn.module import Module
from minidetect.nn.optim import SGD, Adam, scheduled_lr
from minidetect.train.loop import Losses, train_step
from minidetect.train.object_images import mirrored

MEAN_COLOUR = np.full(3, 110.0, np.float32)  # about what drawn scenes have
TEST_BANK = 777  # sprites that no training has seen


@dataclass(frozen=True)
class DrawnImages:
    """scenes: as drawn. images: N arrays (3, H, W) float32, normalised. targets: N."""

    scenes: list[ObjectScene]
    images: list[np.ndarray]
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, rng: np.random.Generator, num: int = 2) -> tuple[list[np.ndarray], list[Target]]:
        """`num` images and their targets, each mirrored or not."""
        images, targets, _ = self.batch_with([np.zeros((0, 4), np.float32)] * len(self), rng, num)
        return images, targets

    def batch_with(
        self, proposals: Sequence[np.ndarray], rng: np.random.Generator, num: int = 2
    ) -> tuple[list[np.ndarray], list[Target], list[np.ndarray]]:
        """The same, and the images' proposals, mirrored like them. proposals: (R, 4) a scene."""
        images, targets, boxes = [], [], []
        for i in rng.integers(len(self), size=num):
            axes, image, target = (1,) if rng.random() < 0.5 else (), self.images[i], self.targets[i]
            size = image.shape[1:]
            images.append(np.ascontiguousarray(image[:, :, ::-1]) if axes else image)
            targets.append(target._replace(boxes=mirrored(target.boxes, size, axes)))
            boxes.append(mirrored(proposals[i], size, axes))
        return images, targets, boxes


def drawn_images(
    num: int, seed: int = 0, settings: ObjectSettings = OBJECTS4, **changes: object
) -> DrawnImages:
    """`num` scenes, ready for a network. changes: of the settings; `bank=TEST_BANK` for scenes to measure on."""
    scenes = list(DrawnObjects(settings, num, seed, **changes))
    images = [normalise(scene.image, MEAN_COLOUR) for scene in scenes]
    return DrawnImages(scenes, images, [scene.target() for scene in scenes])


def train_steps(
    model: Module, losses: Losses, steps: int, rng: np.random.Generator, lr: float = 0.02, warm_up: int = 20,
    drops: Sequence[float] = (0.7, 0.9), max_norm: float = 10.0, optimiser: SGD | Adam | None = None,
    fixed_from: float = 1.0,
) -> list[dict[str, float]]:
    """`steps` steps of an optimiser; losses(rng) draws a batch. Returns each step's losses and gradient norm.

    The loop of `train/loop.py` without folder, checkpoints and progress. The model is left ready for inference.
    optimiser: None for SGD with momentum 0.9. fixed_from: from this share of the steps on, batch norms use their
    running averages, as in detection, and leave them as they are; 1 for never.
    """
    optimiser, log = optimiser or SGD(model, lr, momentum=0.9, weight_decay=5e-4), []
    for step in range(steps):
        model.train(step < fixed_from * steps)
        optimiser.lr = scheduled_lr(step, steps, lr, warm_up, drops)
        optimiser.zero_grad()
        values = train_step(model, losses, rng, max_norm, step, check_nan=False)
        optimiser.step()
        del values["loss"]  # the sum of the others
        log.append(values)
    model.train(False)
    return log


def pretrain(
    net: CropNet, steps: int, rng: np.random.Generator, patches: int = 2000, seed: int = 0, lr: float = 0.05,
    num: int = 32,
) -> list[dict[str, float]]:
    """Teach a network which object fills a drawn patch, or none: what ImageNet is to the papers. Returns the log.

    net: for four classes. `net.backbone` then is a trunk for any of the detectors (R-CNN, section 2.3; Fast R-CNN,
    section 2.2). patches: so many, drawn by `seed` with the sprites of the training bank; num: of a mini-batch.
    """
    pictures, labels = draw_patches(patches, net.side, seed)
    crops = np.stack([normalise(picture, MEAN_COLOUR) for picture in pictures])  # (N, 3, S, S)

    def losses(rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = rng.integers(patches, size=num)
        batch, turned = crops[chosen], rng.random(num) < 0.5
        batch[turned] = batch[turned, :, :, ::-1]
        return net.losses(batch, labels[chosen])

    return train_steps(net, losses, steps, rng, lr)


def mean_ap(
    detections: Sequence[Detections], targets: Sequence[Target], num_classes: int = 4, iou_threshold: float = 0.5
) -> float:
    """VOC's mean average precision, in percent: every class counts the same; one without objects does not count."""
    counted = sorted({int(label) for target in targets for label in target.labels if label <= num_classes})
    found = [
        evaluate_detections(detections, targets, label=label, iou_threshold=iou_threshold).ap for label in counted
    ]
    return 100 * float(np.mean(found)) if found else float("nan")
