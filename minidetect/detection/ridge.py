"""Ridge regression on features, and R-CNN's box regression made of it.

R-CNN, section 3.5: "we train a linear regression model to predict a new detection window given the pool5 features".
The appendix with the details is missing from the text we have; they are those of the authors' published code:

    pairs       proposals with an IoU above 0.6 with a ground truth, one regression a class
    targets     the four deltas of box_coder.py, centred and whitened class by class
    features    of mean norm 20 (see svm.py), and a column of ones
    solution    of (A'A + lambda I) w = A'y, lambda = 1000, by Cholesky factors

Whitening makes the four targets equally long and independent, so that the one lambda shrinks all of them alike.
Left out: the published code's second fit without the worst pairs, which it does not use by default.

Letters: N pairs, D features, T targets, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.structures import Target
from minidetect.kernels.iou import as_boxes, iou_matrix

LAMBDA = 1000.0
SMALLEST_VARIANCE = 1e-3  # added to each variance before whitening: a target that never varies must not blow up


class BoxRidge(NamedTuple):
    """A box regression for each of K classes; keep the three arrays to keep it: `BoxRidge(**arrays)`.

    weight: (K, D + 1, 4) float32, the bias last; mean: (K, 4); unwhiten: (K, 4, 4), from whitened deltas to deltas.
    """

    weight: np.ndarray
    mean: np.ndarray
    unwhiten: np.ndarray


def ridge(features: np.ndarray, targets: np.ndarray, penalty: float) -> np.ndarray:
    """The weights w (D + 1, T) that minimise |A w - targets|^2 + penalty |w|^2, A the features and a column of ones.

    features: (N, D), targets: (N, T), penalty above 0; the bias, last of w, is shrunk too. N may be 0: all weights 0.
    """
    if penalty <= 0:
        raise ValueError(f"ridge needs a penalty above 0, got {penalty}")
    if len(features) != len(targets):
        raise ValueError(f"ridge: {len(features)} rows of features for {len(targets)} of targets")
    a = np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype=np.float64)  # (N, D + 1)
    gram = a.T @ a
    gram[np.diag_indices_from(gram)] += penalty
    # NumPy has no triangular solve to use Cholesky factors with; with a penalty, any factors give the same numbers.
    return np.linalg.solve(gram, a.T @ targets.astype(np.float64))


def predict_ridge(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(N, D), (D + 1, T) -> (N, T)"""
    return features @ weight[:-1] + weight[-1]


def whiten(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets (N, T) of mean 0 and, but for `SMALLEST_VARIANCE`, covariance 1; the mean (T,); the way back (T, T).

    targets = white @ back + mean. The whitening matrix is the symmetric one, the inverse root of the covariance.
    """
    targets = targets.astype(np.float64)
    mean = targets.mean(axis=0)
    variances, axes = np.linalg.eigh((targets - mean).T @ (targets - mean) / len(targets))
    spread = np.sqrt(np.maximum(variances, 0) + SMALLEST_VARIANCE)
    return (targets - mean) @ (axes / spread @ axes.T), mean, axes * spread @ axes.T


def regression_pairs(
    proposals: np.ndarray, target: Target, min_iou: float = 0.6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which proposals a box regression learns from: those with an IoU above `min_iou` with an object.

    proposals: (N, 4). Returns rows (n,) int64, the ground truth of each (n, 4), and its label (n,), all of the object
    that the proposal overlaps most.
    """
    proposals = as_boxes(proposals, "proposals")
    if len(target.boxes) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    iou = iou_matrix(proposals, target.boxes)
    rows = np.flatnonzero(iou.max(axis=1) > min_iou)
    best = iou[rows].argmax(axis=1)
    return rows, target.boxes[best], target.labels[best]


def fit_box_ridge(
    features: np.ndarray, proposals: np.ndarray, gt_boxes: np.ndarray, labels: np.ndarray, num_classes: int,
    penalty: float = LAMBDA,
) -> BoxRidge:
    """Learn from N pairs: features (N, D), proposals (N, 4) and the ground truth (N, 4) and label (N,) of each.

    A class without pairs gets a regression that leaves every box where it is.
    """
    weight = np.zeros((num_classes, features.shape[1] + 1, 4), np.float32)
    mean, unwhiten = np.zeros((num_classes, 4), np.float32), np.zeros((num_classes, 4, 4), np.float32)
    deltas = BoxCoder().encode(proposals, gt_boxes)
    for k in range(num_classes):
        rows = np.flatnonzero(labels == k + 1)
        if len(rows):
            white, mean[k], unwhiten[k] = whiten(deltas[rows])
            weight[k] = ridge(features[rows], white, penalty)
    return BoxRidge(weight, mean, unwhiten)


def regress_boxes(model: BoxRidge, features: np.ndarray, proposals: np.ndarray) -> np.ndarray:
    """Every proposal moved by every class's regression: features (N, D), proposals (N, 4) -> (N, K, 4) float32."""
    proposals = as_boxes(proposals, "proposals")
    moved = np.empty((len(proposals), len(model.weight), 4), np.float32)
    for k, (weight, mean, unwhiten) in enumerate(zip(*model, strict=True)):
        moved[:, k] = BoxCoder().decode(proposals, predict_ridge(features, weight) @ unwhiten + mean)
    return moved
