"""Fast R-CNN at several scales: each region is looked at where it is about as large as what the network knows best.

Girshick, "Fast R-CNN", ICCV 2015, sections 2.4 and 5.2.

    image -> pyramid -> backbone at each scale -> map k --+
                                                          +-> head -> boxes in the image's own pixels -> suppression
    proposals -> each to the scale k where its area is ---+           of all scales together
                 nearest to 224 x 224 (`assign_scales`)

A network need not learn to know objects of all sizes, if the pyramid brings them to one. The paper gains 1.3 and 1.5
points of mAP so with its smaller networks, for four times the time: convolutions learn much of it on their own.

The canonical area is that of the pictures which the backbone was pre-trained on. For a trunk trained from nothing it
is an argument: about the area of the objects that it saw most.

Training with a scale drawn at random for each image: `ObjectRecipe.scale_jitter`.

Letters: R proposals, K classes, S scales.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.boxes import clip_to_image
from minidetect.detection.image_scale import CANONICAL_AREA, ImageScale, assign_scales, box_factors, normalise
from minidetect.detection.per_class import detections_by_class
from minidetect.detection.structures import Detections
from minidetect.kernels.iou import as_boxes
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.ops.activation import softmax

SCALES = tuple(ImageScale(side, 2000) for side in (480, 576, 688, 864, 1200))  # section 5.2


def detect_at_scales(
    model: FastRCNN, image: np.ndarray, proposals: np.ndarray, mean_colour: np.ndarray,
    scales: Sequence[ImageScale] = SCALES, canonical_area: float = CANONICAL_AREA,
) -> Detections:
    """What is in an image, in its own pixels. Fast R-CNN, section 2.4.

    model: trained; a fused copy is quicker. image: (H, W, 3) uint8 RGB; proposals: (R, 4) in its pixels.
    mean_colour: (3,), as in training (`normalise`). scales: see `ImageScale`; a scale that no proposal is nearest to
    costs nothing. canonical_area: see `assign_scales`.
    Raises ValueError for no scale, or proposals of another shape.
    """
    boxes, scores = score_at_scales(model, image, proposals, mean_colour, scales, canonical_area)
    return detections_by_class(boxes, scores, model.min_score, model.nms_threshold, model.most)


def score_at_scales(
    model: FastRCNN, image: np.ndarray, proposals: np.ndarray, mean_colour: np.ndarray,
    scales: Sequence[ImageScale] = SCALES, canonical_area: float = CANONICAL_AREA,
) -> tuple[np.ndarray, np.ndarray]:
    """The same before suppression: a box (R, K, 4) and a score (R, K) of every proposal for every class, float32."""
    if len(scales) == 0:
        raise ValueError("detect_at_scales needs at least one scale")
    proposals, size = as_boxes(proposals, "proposals").astype(np.float32), image.shape[:2]
    nearest = assign_scales(proposals, [scale.factor(size) for scale in scales], canonical_area)
    boxes = np.empty((len(proposals), model.head.num_classes, 4), np.float32)
    scores = np.empty((len(proposals), model.head.num_classes), np.float32)
    for k in np.unique(nearest):
        rows = np.flatnonzero(nearest == k)
        resized = scales[k].resize(image)
        rois = proposals[rows] * box_factors(size, resized.shape)
        with no_grad():
            maps = model.backbone(Tensor(normalise(resized, mean_colour)[None]))
            logits, deltas = model.head(maps, rois)
        found = model.head.class_boxes(rois, deltas.data, resized.shape[:2]) * box_factors(resized.shape, size)
        boxes[rows] = clip_to_image(found.reshape(-1, 4), size).reshape(found.shape)  # rounding may lead over the edge
        scores[rows] = softmax(logits).data[:, 1:]
    return boxes, scores
