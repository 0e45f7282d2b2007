"""The stages of R-CNN's training after fine-tuning: SVMs and box regressions on the network's features.

R-CNN, section 2.3 (SVMs) and 3.5 (boxes). Each goes once over the images and leaves its result in the model's arrays,
where `state_dict` finds it. The network must have its final weights, and `train(False)`.

Letters: N proposals of an image, G its objects, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.detection.boxes import valid_boxes
from minidetect.detection.matcher import overlaps_ignore
from minidetect.detection.ridge import LAMBDA, fit_box_ridge, regression_pairs
from minidetect.detection.structures import Target
from minidetect.detection.svm import HardNegativeMiner, LinearSVM, feature_scale
from minidetect.kernels.iou import iou_matrix
from minidetect.models.rcnn import NEVER, RCNN

STATS_IMAGES, STATS_BOXES = 200, 10  # images, and proposals of each, that the features' mean norm is taken from


def fit_svms(
    model: RCNN, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
    rng: np.random.Generator, negative_iou: float = 0.3, svm: LinearSVM | None = None, **mining: float,
) -> list[HardNegativeMiner]:
    """One SVM a class. R-CNN, section 2.3: positives are the objects themselves, negatives whatever overlaps all
    objects of the class by less than 0.3; in between nothing is learned.

    images, targets, proposals: one an image, see `RCNN`. negative_iou: 0 takes only what touches no object of the
    class; the paper lost 4 points with 0 and 5 with 0.5. svm: settings; mining: see `HardNegativeMiner`.
    A class without an object is never found. Returns each class's miner, which knows its hard negatives.
    """
    settings = (svm or LinearSVM()).settings()
    boxes = [found[valid_boxes(found)] for found in proposals]
    scale = measured_scale(model, images, boxes, model.tap, rng)
    positives = [np.zeros((0, model.net.sizes[model.tap]), np.float32)]
    labels = np.concatenate([np.zeros(0, np.int64), *(target.labels for target in targets)])
    positives += [model.features(image, target.boxes) for image, target in zip(images, targets, strict=True)]
    positives = np.concatenate(positives) * scale
    miners = [
        HardNegativeMiner(positives[labels == k], LinearSVM(**settings), rng, **mining)
        for k in range(1, model.num_classes + 1)
    ]
    for i, (image, target, found) in enumerate(zip(images, targets, boxes, strict=True)):
        found = found[~overlaps_ignore(found, target.ignore)]
        features = model.features(image, found) * scale
        for k, miner in enumerate(miners):
            if len(miner.positives):
                of_class = target.boxes[target.labels == k + 1]
                miner.add(i, features[is_negative(found, of_class, negative_iou)])
    model.scales[0] = scale
    for k, miner in enumerate(miners):
        if len(miner.positives):
            trained = miner.train()
            model.svm_weight[k], model.svm_bias[k] = trained.weight, trained.bias
        else:
            model.svm_weight[k], model.svm_bias[k] = 0, NEVER
    return miners


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
    boxes = [found[valid_boxes(found)] for found in proposals]
    scale = measured_scale(model, images, boxes, "pool5", rng)
    features, pairs = [np.zeros((0, model.net.sizes["pool5"]), np.float32)], []
    for image, target, found in zip(images, targets, boxes, strict=True):
        found = np.concatenate([found.astype(np.float32), target.boxes])
        rows, gt_boxes, labels = regression_pairs(found, target, min_iou)
        features.append(model.features(image, found[rows], "pool5"))
        pairs.append((found[rows], gt_boxes, labels))
    if not pairs:
        raise ValueError("fit_boxes needs at least one image")
    columns = (np.concatenate(column) for column in zip(*pairs, strict=True))
    fitted = fit_box_ridge(np.concatenate(features) * scale, *columns, model.num_classes, penalty)
    model.scales[1] = scale
    model.ridge_weight[...], model.ridge_mean[...], model.ridge_unwhiten[...] = fitted
    return sum(len(part) for part in features)


def measured_scale(
    model: RCNN, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], tap: str, rng: np.random.Generator
) -> float:
    """What brings the features to a mean norm of 20, from ten proposals of each of up to 200 images."""
    sample = [np.zeros((0, model.net.sizes[tap]), np.float32)]
    for i in rng.permutation(len(images))[:STATS_IMAGES]:
        chosen = rng.permutation(len(boxes[i]))[:STATS_BOXES]
        sample.append(model.features(images[i], boxes[i][chosen], tap))
    return feature_scale(np.concatenate(sample))
