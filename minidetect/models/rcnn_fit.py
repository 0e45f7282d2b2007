"""The stages of R-CNN's training after fine-tuning: SVMs and box regressions on the network's features.

R-CNN, section 2.3 (SVMs) and 3.5 (boxes). Each goes once over the images and leaves its result in the model's arrays,
where `state_dict` finds it. The network must have its final weights, and `train(False)`. `mine_svms` takes the features
of any network: Fast R-CNN's too (fast_rcnn_svm.py).

Letters: N proposals of an image, G its objects, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minidetect.detection.boxes import valid_boxes
from minidetect.detection.matcher import overlaps_ignore
from minidetect.detection.ridge import LAMBDA, fit_box_ridge, regression_pairs
from minidetect.detection.structures import Target
from minidetect.detection.svm import HardNegativeMiner, LinearSVM, feature_scale
from minidetect.kernels.iou import iou_matrix
from minidetect.models.rcnn import NEVER, RCNN

STATS_IMAGES, STATS_BOXES = 200, 10  # images, and proposals of each, that the features' mean norm is taken from
Features = Callable[[int, np.ndarray], np.ndarray]  # number of an image, boxes (N, 4) in it -> (N, D) float32


def fit_svms(
    model: RCNN, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
    rng: np.random.Generator, negative_iou: float = 0.3, svm: LinearSVM | None = None, **mining: float,
) -> list[HardNegativeMiner]:
    """One SVM a class, see `mine_svms`; images: (3, H, W), see `RCNN`. Returns each class's miner."""
    fitted = mine_svms(
        lambda i, boxes: model.features(images[i], boxes), targets, proposals, model.num_classes, rng, negative_iou,
        svm, **mining,
    )  # fmt: skip
    model.scales[0], model.svm_weight[...], model.svm_bias[...] = fitted.scale, fitted.weight, fitted.bias
    return fitted.miners


class FittedSVMs(NamedTuple):
    """scale: of the features, for a mean norm of 20; weight (K, D), bias (K,) float32; miners: K, with what is hard."""

    scale: float
    weight: np.ndarray
    bias: np.ndarray
    miners: list[HardNegativeMiner]


def mine_svms(
    features: Features, targets: Sequence[Target], proposals: Sequence[np.ndarray], num_classes: int,
    rng: np.random.Generator, negative_iou: float = 0.3, svm: LinearSVM | None = None, **mining: float,
) -> FittedSVMs:
    """One SVM a class on any network's features. R-CNN, section 2.3: positives are the objects themselves, negatives
    whatever overlaps all objects of the class by less than 0.3; in between nothing is learned.

    features(i, boxes): of boxes (N, 4) of image i, (N, D). targets, proposals: one an image. negative_iou: 0 takes only
    what touches no object of the class; the paper lost 4 points with 0 and 5 with 0.5. svm: settings; mining: see
    `HardNegativeMiner`. A class without an object is never found. Raises ValueError where there is no image.
    """
    if len(targets) == 0:
        raise ValueError("SVMs need at least one image to learn from")
    settings = (svm or LinearSVM()).settings()
    boxes = [found[valid_boxes(found)] for found in proposals]
    scale = measured_scale(features, boxes, rng)
    labels = np.concatenate([target.labels for target in targets])
    positives = np.concatenate([features(i, target.boxes) for i, target in enumerate(targets)]) * scale
    miners = [
        HardNegativeMiner(positives[labels == k], LinearSVM(**settings), rng, **mining)
        for k in range(1, num_classes + 1)
    ]
    for i, (target, found) in enumerate(zip(targets, boxes, strict=True)):
        found = found[~overlaps_ignore(found, target.ignore)]
        rows = features(i, found) * scale
        for k, miner in enumerate(miners):
            if len(miner.positives):
                of_class = target.boxes[target.labels == k + 1]
                miner.add(i, rows[is_negative(found, of_class, negative_iou)])
    weight = np.zeros((num_classes, positives.shape[1]), np.float32)
    bias = np.full(num_classes, NEVER, np.float32)
    for k, miner in enumerate(miners):
        if len(miner.positives):
            trained = miner.train()
            weight[k], bias[k] = trained.weight, trained.bias
    return FittedSVMs(scale, weight, bias, miners)


def is_negative(boxes: np.ndarray, gt_boxes: np.ndarray, negative_iou: float) -> np.ndarray:
    """Which boxes (N, 4) overlap every one of gt_boxes (G, 4) by less than `negative_iou`, or not at all: (N,) bool."""
    best_iou = iou_matrix(boxes, gt_boxes).max(axis=1, initial=0)
    return (best_iou < negative_iou) | (best_iou == 0)


def fit_boxes(
    model: RCNN, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
    rng: np.random.Generator, min_iou: float = 0.6, penalty: float = LAMBDA,
) -> int:
    """One box regression a class, on pool5. R-CNN, section 3.5; see detection/ridge.py.

    The objects themselves are pairs too (deltas 0), as in the published code. Returns the number of pairs.
    """
    if len(images) == 0:
        raise ValueError("fit_boxes needs at least one image")
    boxes = [found[valid_boxes(found)] for found in proposals]
    scale = measured_scale(lambda i, found: model.features(images[i], found, "pool5"), boxes, rng)
    features, pairs = [np.zeros((0, model.net.sizes["pool5"]), np.float32)], []
    for image, target, found in zip(images, targets, boxes, strict=True):
        found = np.concatenate([found.astype(np.float32), target.boxes])
        rows, gt_boxes, labels = regression_pairs(found, target, min_iou)
        features.append(model.features(image, found[rows], "pool5"))
        pairs.append((found[rows], gt_boxes, labels))
    columns = (np.concatenate(column) for column in zip(*pairs, strict=True))
    fitted = fit_box_ridge(np.concatenate(features) * scale, *columns, model.num_classes, penalty)
    model.scales[1] = scale
    model.ridge_weight[...], model.ridge_mean[...], model.ridge_unwhiten[...] = fitted
    return sum(len(part) for part in features)


def measured_scale(features: Features, boxes: Sequence[np.ndarray], rng: np.random.Generator) -> float:
    """What brings the features to a mean norm of 20, from ten proposals of each of up to 200 images."""
    sample = []
    for i in rng.permutation(len(boxes))[:STATS_IMAGES]:
        chosen = rng.permutation(len(boxes[i]))[:STATS_BOXES]
        sample.append(features(i, boxes[i][chosen]))
    return feature_scale(np.concatenate(sample))
