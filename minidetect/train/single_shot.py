"""Training of a single-shot face detector, EXTD first of all, on photos of WIDER FACE.

EXTD, section 3.4 and appendix A: SGD with momentum 0.9 and weight decay 5e-4, from random weights, crops of 640 x 640,
16 a step, 240,000 or 480,000 steps at a rate of 1e-3.

Two cores have no time for that: 480,000 steps are 7.7 million crops. `SingleShotRecipe` makes the most of 64,800:

- Adam instead of SGD.
- Three of four crops by anchor sampling (face_crops.py), where the published code has one of two.
- Small crops first, of 128 x 128, then larger ones.
- Batch norms are fixed after the first phase, and the loss is from then on that of the network as it detects. The six
  passes share one set of running averages (extd.py); with those instead of its own batch's statistics a pass computes
  something else (benchmarks/extd_norms.py). The published code fixes them, too, by way of an `eval()` after its first
  epoch that nothing takes back.

Letters: N images of a step, S side of a crop.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.data.face_crops import CropSettings, training_crop
from minidetect.data.images import image_size, load_image
from minidetect.data.wider_face import read_wider, to_target
from minidetect.detection.structures import Target
from minidetect.models.anchor_detector import AnchorDetector
from minidetect.models.single_shot import SingleShot
from minidetect.models.single_shot_loss import single_shot_losses
from minidetect.train.loop import Schedule, train_phase

KEPT = 4 << 30  # bytes of photos
ADAM = Schedule(steps=0, lr=0.003, warm_up=100, drops=(), max_norm=1000.0, adam=True)


@dataclass(frozen=True)
class Phase:
    """One part of a training. size: S; images: N; fixed_norms: see `train.loop.train_phase`."""

    name: str
    size: int
    images: int
    schedule: Schedule
    fixed_norms: bool = False


PHASES = (
    Phase("norms", 128, 24, replace(ADAM, steps=1000)),
    Phase("small", 128, 24, replace(ADAM, steps=1200), fixed_norms=True),
    Phase("large", 256, 6, replace(ADAM, steps=2000, lr=0.001, drops=(0.6, 0.85)), fixed_norms=True),
)


@dataclass(frozen=True)
class SingleShotRecipe:
    """phases: one after the other. crops: how they are cut, but for their size, which the phase says.

    reading: of the matching, see detection/scale_compensation.py. least_negatives: of an image without a face, or with
    few. smallest: a face with a shorter side below, in pixels of the photo, is an ignore region.
    """

    phases: tuple[Phase, ...] = PHASES
    crops: CropSettings = field(default_factory=lambda: CropSettings(anchor_sampling=0.75))
    reading: str = "text"
    least_negatives: int = 8
    smallest: float = 4.0

    def shortened(self, steps: int) -> SingleShotRecipe:
        """The same with at most so many steps a phase, for trying out."""
        schedules = [replace(phase.schedule, steps=min(steps, phase.schedule.steps)) for phase in self.phases]
        pairs = zip(self.phases, schedules, strict=True)
        return replace(self, phases=tuple(replace(phase, schedule=schedule) for phase, schedule in pairs))


class FacePhotos:
    """The photos of WIDER FACE's training part with their faces. Those read first stay in memory, up to KEPT bytes."""

    def __init__(self, data: Path, crops: CropSettings, smallest: float) -> None:
        """crops: how they are cut; smallest: see `SingleShotRecipe`."""
        file = data / "wider" / "wider_train_bbx_gt.txt"
        records = read_wider(file, data / "wider" / "train")
        self.crops, self.kept, self.kept_bytes = crops, {}, 0
        self.paths = [record.path for record in records]
        self.targets = [
            to_target(record, image_size(record.path), smallest, min_blurred_size=0, max_occlusion=2)
            for record in records
        ]
        if not any(len(target.boxes) for target in self.targets):
            raise ValueError(f"{file}: no face of at least {smallest:g} pixels in it")

    def photo(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8"""
        if i in self.kept:
            return self.kept[i]
        photo = load_image(self.paths[i])
        if self.kept_bytes + photo.nbytes <= KEPT:
            self.kept[i] = photo
            self.kept_bytes += photo.nbytes
        return photo

    def batch(
        self, model: AnchorDetector, num: int, size: int, rng: np.random.Generator
    ) -> tuple[Tensor, list[Target]]:
        """`num` crops of size x size as the model wants them, (N, 3, S, S), and their targets."""
        planes, targets, crops = [], [], replace(self.crops, size=size)
        for i in rng.integers(len(self.paths), size=num):
            crop, target = training_crop(self.photo(i), self.targets[i], rng, crops)
            planes.append(model.planes(crop))
            targets.append(target)
        return Tensor(np.stack(planes)), targets


def train_single_shot(
    model: SingleShot, data: Path, out: Path, recipe: SingleShotRecipe, seed: int = 0, check_nan: bool = False,
    progress: bool = True,
) -> None:
    """Train `model` in place on the photos of DATA/wider, in the folder `out`; a run that was stopped there goes on.

    Each phase has a generator of its own, of the seed and the phase's number from 1 on.
    Raises as `train_phase` and the readers do; ValueError for photos without a face.
    """
    photos = FacePhotos(data, recipe.crops, recipe.smallest)
    for k, phase in enumerate(recipe.phases):

        def losses(rng: np.random.Generator, phase: Phase = phase) -> dict[str, Tensor]:
            images, targets = photos.batch(model, phase.images, phase.size, rng)
            return single_shot_losses(model, images, targets, recipe.reading, least=recipe.least_negatives)

        train_phase(
            phase.name, model, losses, phase.schedule, out, np.random.default_rng([seed, k + 1]),
            log_every=min(50, phase.schedule.steps), checkpoint_every=200, check_nan=check_nan, progress=progress,
            fixed_norms=phase.fixed_norms,
        )  # fmt: skip
