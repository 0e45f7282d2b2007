"""Regions that are not rectangles: R-CNN's features for semantic segmentation. R-CNN, section 5.

A region is a mask. Three ways to see it with a network made for rectangles:

    "full"      the warped rectangle around it, whatever its shape
    "fg"        the same with everything outside of the mask in the mean colour
    "full+fg"   both, one after the other: the paper's best

What a region is worth to a class is how well it covers an object of that class; the paper predicts it by support vector
regression, one a class. Ridge regression (`detection.ridge.ridge`) stands for it here: `fit_qualities`.

Left out: CPMC, where the paper's masks come from; the pasting of regions into one labelling.

Letters: N regions, G objects, K classes, D features, H W size of the image.
"""

from __future__ import annotations

import numpy as np

from minidetect.detection.ridge import predict_ridge, ridge
from minidetect.models.rcnn import RCNN

STRATEGIES = ("full", "fg", "full+fg")


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The tight box of each mask (N, H, W) bool: (N, 4) float32. Raises ValueError naming a mask without pixels."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for n, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows) == 0:
            raise ValueError(f"masks[{n}] holds no pixel")
        boxes[n] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def region_features(
    model: RCNN, image: np.ndarray, masks: np.ndarray, tap: str = "fc6", strategy: str = "full+fg"
) -> np.ndarray:
    """Features of regions of one image: (N, D) float32, (N, 2 D) for "full+fg".

    image: (3, H, W) float32, normalised, so that the mean colour is 0. masks: (N, H, W) bool.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    masks = np.asarray(masks, bool)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[1:]:
        raise ValueError(f"masks must be (N, {image.shape[1]}, {image.shape[2]}), got shape {masks.shape}")
    boxes, parts = mask_boxes(masks), []
    if "full" in strategy:
        parts.append(model.features(image, boxes, tap))
    if "fg" in strategy:
        side = model.net.side
        crops = [model.crops(image * mask, box[None]) for mask, box in zip(masks, boxes, strict=True)]
        crops = np.concatenate([np.zeros((0, 3, side, side), np.float32), *crops])
        parts.append(model.crop_taps(crops, (tap,))[tap])
    return np.concatenate(parts, axis=1)


def mask_iou(masks: np.ndarray, gt_masks: np.ndarray) -> np.ndarray:
    """Intersection over union of masks (N, H, W) and (G, H, W), bool: (N, G) float32, 0 for two empty ones."""
    a = np.asarray(masks, np.float32).reshape(len(masks), int(np.prod(masks.shape[1:])))  # (N, H*W)
    b = np.asarray(gt_masks, np.float32).reshape(len(gt_masks), int(np.prod(gt_masks.shape[1:])))
    shared = a @ b.T
    return shared / np.maximum(a.sum(axis=1)[:, None] + b.sum(axis=1) - shared, 1)


def region_qualities(masks: np.ndarray, gt_masks: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How well each region covers an object of each class: its best IoU with one, (N, K) float32."""
    overlaps = mask_iou(masks, gt_masks)
    by_class = [overlaps[:, labels == k].max(axis=1, initial=0) for k in range(1, num_classes + 1)]
    return np.stack(by_class, axis=1)


def fit_qualities(features: np.ndarray, qualities: np.ndarray, penalty: float = 1000.0) -> np.ndarray:
    """Weights (D + 1, K) that predict the qualities (N, K) from features (N, D) of mean norm 20."""
    return ridge(features, qualities, penalty)


def predict_qualities(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(N, D), (D + 1, K) -> (N, K); the largest says which class a region is taken for."""
    return predict_ridge(features, weight)
