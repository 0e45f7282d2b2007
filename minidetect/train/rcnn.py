"""Training of R-CNN on a folder of one's own, in its three stages: the network, the SVMs, the box regressions.

R-CNN, sections 2.3 and 3.5. The network is trained from nothing on the windows that it is later to judge; `warm` takes
weights that another task has prepared, such as ImageNet's in a `CropNet` with the trunk of models/mobilenet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidetect.autograd import Tensor
from minidetect.data.objects import ObjectDataset
from minidetect.models.rcnn import RCNN, CropNet, Windows, label_windows, sample_windows
from minidetect.models.rcnn_fit import fit_boxes, fit_svms
from minidetect.train.loop import train_phase
from minidetect.train.object_images import ObjectRecipe, TrainingImages, check_same_run, resized_proposals


def train_rcnn(
    dataset: ObjectDataset, proposals: Sequence[np.ndarray], out: Path, recipe: ObjectRecipe, seed: int = 0,
    warm: CropNet | None = None, progress: bool = True, check_nan: bool = False,
) -> tuple[RCNN, np.ndarray]:
    """R-CNN on proposals from elsewhere, (R, 4) an image in its own pixels. Returns the model and the mean colour.

    warm: a network to start from, with any number of classes; its last layer is replaced.
    recipe: `scale` and `schedule` count, and `vertical_flips`; a step is 128 windows of all images.
    """
    source, rng = TrainingImages(dataset, recipe), np.random.default_rng(seed)
    check_same_run(out, dataset, recipe, seed, source.mean_colour)
    num_classes = len(dataset.classes)
    if warm is not None:
        warm.replace_classifier(num_classes, rng)
    model = RCNN(num_classes, rng, warm)
    images = [source.normalised(example.image) for example in source.examples]
    targets = [example.target for example in source.examples]
    scaled = resized_proposals(proposals, dataset, recipe.scale)
    windows = label_windows(scaled, targets)

    def losses(rng: np.random.Generator) -> dict[str, Tensor]:
        return flipped_losses(model, images, sample_windows(windows, rng), recipe.vertical_flips, rng)

    train_phase(
        "rcnn_network", model.net, losses, recipe.schedule, out, rng, check_nan=check_nan, progress=progress
    )
    rng = np.random.default_rng([seed, 1])  # its own, so that a run that goes on from here ends with the same bits
    fit_svms(model, images, targets, scaled, rng)
    fit_boxes(model, images, targets, scaled, rng)
    return model, source.mean_colour


def flipped_losses(
    model: RCNN, images: Sequence[np.ndarray], windows: Windows, vertical_flips: bool, rng: np.random.Generator
) -> dict[str, Tensor]:
    """The loss of a mini-batch of windows, half of the crops mirrored (with vertical_flips, half upside down)."""
    crops = model.window_crops(images, windows)
    turned = rng.random(len(crops)) < 0.5
    crops[turned] = crops[turned, :, :, ::-1]
    if vertical_flips:
        turned = rng.random(len(crops)) < 0.5
        crops[turned] = crops[turned, :, ::-1]
    return model.net.losses(crops, windows.labels)
