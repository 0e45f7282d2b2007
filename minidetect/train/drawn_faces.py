"""Miniatures of single-shot face detectors: half a minute of training on drawn faces of all sizes, and AP by size.

What train/single_shot.py does for photos, without files, in the manner of train/drawn.py: lessons 18 to 20,
benchmarks/extd_variants.py and benchmarks/group_sampling_variants.py compare settings with it. Trainings with equal
generators see the same scenes in the same order, whatever the model and the sampler.

Where it leaves EXTD: Adam instead of SGD, some hundred steps instead of 240,000 or 480,000, no crops and no colour
distortion, and batch norms that stop following the batches before the end (see `train_mini`).

Letters: N scenes, S side of a scene in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minidetect.autograd import Tensor
from minidetect.data.synthetic import DrawnScenes
from minidetect.data.transforms import flip_example
from minidetect.detection.structures import Detections, Target
from minidetect.evaluate.average_precision import evaluate_detections
from minidetect.models.anchor_detector import AnchorDetector
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_pyramid import by_scale
from minidetect.models.single_shot_loss import single_shot_losses
from minidetect.nn.optim import Adam
from minidetect.train.drawn import TEST_BANK, train_steps
from minidetect.train.loop import two_generators

SPANS = {"all": (0.0, np.inf), "<12": (0.0, 12.0), "12-24": (12.0, 24.0), ">=24": (24.0, np.inf)}  # pixels
SampledLosses = Callable[[AnchorDetector, Tensor, Sequence[Target], np.random.Generator], dict[str, Tensor]]
LEAST_NEGATIVES = 8  # of a scene without a face


@dataclass(frozen=True)
class DrawnFaces:
    """images: N arrays (S, S, 3) uint8 RGB. targets: N."""

    images: list[np.ndarray]
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.images)

    def batch(
        self, model: AnchorDetector, rng: np.random.Generator, num: int = 4
    ) -> tuple[Tensor, list[Target]]:
        """`num` scenes as the model wants them, (num, 3, S, S), each mirrored or not, and their targets."""
        planes, targets = [], []
        for i in rng.integers(len(self), size=num):
            image, target = self.images[i], self.targets[i]
            if rng.random() < 0.5:
                image, target = flip_example(image, target)
            planes.append(model.planes(image))
            targets.append(target)
        return Tensor(np.stack(planes)), targets


def drawn_faces(num: int, seed: int = 0, size: int = 96, testing: bool = False, **changes: object) -> DrawnFaces:
    """`num` scenes of size x size with faces from 7 pixels to five sixths of the side, small ones more often.

    testing: with the sprites of another bank. changes: of the settings FACES_SCALES.
    """
    settings = {"size": (size, size), "side": (7.0, size * 5 / 6), "bank": TEST_BANK if testing else 0} | changes
    scenes = list(DrawnScenes("faces_scales", num, seed, **settings))
    return DrawnFaces([scene.image for scene in scenes], [scene.target() for scene in scenes])


def train_mini(
    model: AnchorDetector, faces: DrawnFaces, steps: int, rng: np.random.Generator, num: int = 4, lr: float = 0.01,
    warm_up: int = 20, drops: Sequence[float] = (0.7, 0.9), fixed_from: float = 0.8, max_norm: float = 10.0,
    losses: SampledLosses | None = None,
) -> list[dict[str, float]]:
    """`steps` steps of Adam on `num` scenes each. Returns each step's losses and the norm of its gradient.

    fixed_from: see `train_steps`. EXTD's F has one set of averages for all its passes, which fits none of them
    well: in the last steps the weights learn to live with it. (The published code does so from its second epoch on.)
    losses: of model, images, targets and a generator of its own, such as `layouts.losses_of` makes; None for EXTD's.
    The model is left ready for inference.
    """

    def batch_losses(rng: np.random.Generator) -> dict[str, Tensor]:
        if losses is None:
            images, targets = faces.batch(model, rng, num)
            return single_shot_losses(model, images, targets, least=LEAST_NEGATIVES)
        of_batch, of_samples = two_generators(rng)
        images, targets = faces.batch(model, of_batch, num)
        return losses(model, images, targets, of_samples)

    return train_steps(model, batch_losses, steps, rng, lr, warm_up, drops, max_norm, Adam(model, lr), fixed_from)


def ap_by_size(detections: Sequence[Detections], targets: Sequence[Target], iou: float = 0.5) -> dict[str, float]:
    """Average precision in percent, for the faces of each of `SPANS` (roots of their areas).

    Faces of other sizes are ignore regions then: to find them is neither right nor wrong. NaN where there is no face.
    """
    found = {}
    for name, span in SPANS.items():
        curve = evaluate_detections(detections, [of_size(target, span) for target in targets], iou)
        found[name] = 100 * curve.ap if curve.num_gt else float("nan")
    return found


def of_size(target: Target, span: tuple[float, float]) -> Target:
    """The target in which faces outside of the span (its start included, its end not) are ignore regions."""
    sides = np.sqrt((target.boxes[:, 2:] - target.boxes[:, :2]).prod(axis=1))
    inside = (sides >= span[0]) & (sides < span[1])
    ignore = np.concatenate([target.ignore, target.boxes[~inside]])
    return Target(target.boxes[inside], target.labels[inside], ignore)


def measure_mini(model: AnchorDetector, faces: DrawnFaces, min_score: float = 0.01) -> dict[str, float]:
    """`ap_by_size` of what the model finds in the scenes, and of all faces at an IoU of 0.7 ("all at 0.7")."""
    found = model.fuse().detect(faces.images, min_face=0, min_score=min_score)
    return ap_by_size(found, faces.targets) | {"all at 0.7": ap_by_size(found, faces.targets, 0.7)["all"]}


def measure_sub_detectors(model: LayoutDetector, faces: DrawnFaces, min_score: float = 0.01) -> dict[str, float]:
    """As `measure_mini`, and "@S": average precision over all faces of what the anchors of scale S find alone.

    Group Sampling, section 6.1.
    """
    fused = model.fuse()
    found = [by_scale(fused, image, min_score=min_score) for image in faces.images]
    together = [of_image["all"] for of_image in found]
    ap = ap_by_size(together, faces.targets) | {"all at 0.7": ap_by_size(together, faces.targets, 0.7)["all"]}
    for scale in model.layout.scales:
        curve = evaluate_detections([of_image[scale] for of_image in found], faces.targets)
        ap[f"@{scale}"] = 100 * curve.ap if curve.num_gt else float("nan")
    return ap
