"""Training of detectors with an AnchorLayout on photos of WIDER FACE: Group Sampling's comparisons.

Group Sampling, section 5: SGD with momentum 0.9, a rate of 0.01 that is divided by 10 after 60 and 80 of 100 epochs,
one image of up to 1200 x 1200 pixels on each of eight GPUs, resized by 0.25 n; ResNet-50 with ImageNet's weights.

Here: a small network from random weights, Adam, crops of 256 x 256 and a few thousand steps. The factors of the scale
jitter are the paper's; three of four crops are cut around a face, colours are changed and pictures resized in three
ways as for EXTD, and faces under 6 pixels are ignored, of all of which the paper has nothing.

`SAMPLERS` are the rows of the paper's Table 9. N is the number of samples of a group; samplers without groups take four
times as many, so that with four scales, as most layouts have them, all learn from equally many anchors; OHEM, of which
the paper says that a relatively small number makes it work, takes half of that, 2 N. (The paper does not say how its
numbers with and without groups compare.)

Letters: N samples of a group, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.data.face_crops import CropSettings
from minidetect.detection.group_sampler import (
    Sampler,
    at_random,
    everything,
    hardest,
    hardest_of_all,
    in_groups,
    weighted,
)
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_loss import BOX_LOSSES, CLASS_LOSSES, layout_losses
from minidetect.train.loop import Schedule, train_phase, two_generators
from minidetect.train.single_shot import FacePhotos

JITTER = tuple(0.25 * n for n in range(1, 9))
SCALES = 4  # of the paper's layouts: so many groups
# The sampler of N anchors a group, and the loss of the classes.
SAMPLERS: dict[str, tuple[Callable[[int], Sampler], str]] = {
    "random": (lambda n: at_random(SCALES * n), "softmax"),
    "ohem": (lambda n: hardest_of_all(SCALES * n // 2), "softmax"),
    "wrs": (lambda n: weighted(SCALES * n), "softmax"),
    "focal": (lambda n: everything(), "focal"),
    "focal*": (lambda n: everything(), "focal*"),
    "gs": (lambda n: in_groups(at_random(n)), "softmax"),
    "gs+ohem": (lambda n: in_groups(hardest(n)), "softmax"),
    "gs+wrs": (lambda n: in_groups(weighted(n)), "softmax"),
    "gs+focal*": (lambda n: in_groups(at_random(n)), "focal*"),
}


@dataclass(frozen=True)
class LayoutRecipe:
    """sampler: one of SAMPLERS; num: N. box_loss: one of layout_loss.BOX_LOSSES. images: of a step.

    crops: how they are cut; schedule: how long and how fast. smallest: a face with a shorter side below, in pixels of
    the photo, is an ignore region.
    """

    sampler: str = "gs"
    num: int = 512
    box_loss: str = "least-squares"
    images: int = 8
    crops: CropSettings = field(default_factory=lambda: CropSettings(size=256, jitter=JITTER))
    schedule: Schedule = Schedule(steps=7500, lr=0.002, warm_up=100, max_norm=1000.0, adam=True)
    smallest: float = 4.0

    def shortened(self, steps: int) -> LayoutRecipe:
        """The same with at most so many steps, for trying out."""
        return replace(self, schedule=replace(self.schedule, steps=min(steps, self.schedule.steps)))


def losses_of(sampler: str, num: int = 512, box_loss: str = "least-squares") -> Callable[..., dict[str, Tensor]]:
    """`layout_losses` with a row of SAMPLERS: a function of model, images, targets and rng.

    Raises ValueError for a name that there is not.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"a sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
    if box_loss not in BOX_LOSSES:
        raise ValueError(f"a loss of the boxes must be one of {', '.join(BOX_LOSSES)}, got {box_loss!r}")
    make, class_loss = SAMPLERS[sampler]
    return partial(
        layout_losses, sampler=make(num), class_loss=CLASS_LOSSES[class_loss], box_loss=BOX_LOSSES[box_loss]
    )


def train_layout(
    model: LayoutDetector, data: Path, out: Path, recipe: LayoutRecipe, seed: int = 0, check_nan: bool = False,
    progress: bool = True, photos: FacePhotos | None = None,
) -> None:
    """Train `model` in place on the photos of DATA/wider, in the folder `out`; a run that was stopped there goes on.

    photos: those of an earlier training with the same recipe's `crops` and `smallest`, so that they are read once.
    Raises as `train_phase` and the readers do; ValueError for photos without a face.
    """
    photos = photos or FacePhotos(data, recipe.crops, recipe.smallest)
    losses = losses_of(recipe.sampler, recipe.num, recipe.box_loss)

    def batch_losses(rng: np.random.Generator) -> dict[str, Tensor]:
        of_batch, of_samples = two_generators(rng)
        images, targets = photos.batch(model, recipe.images, recipe.crops.size, of_batch)
        return losses(model, images, targets, of_samples)

    train_phase(
        "layout", model, batch_losses, recipe.schedule, out, np.random.default_rng([seed, 1]),
        log_every=min(50, recipe.schedule.steps), checkpoint_every=200, check_nan=check_nan, progress=progress,
    )  # fmt: skip
