"""Faster R-CNN trained jointly without approximation: the head's loss also moves the proposals.

Faster R-CNN, section 3.2 (iii): what approximate joint training leaves out is the gradient with respect to the
proposals' coordinates, for which a pooling layer is needed that is differentiable in them. "RoI warping", as the paper
calls it, reads the map at a grid of points of the box by bilinear interpolation (ops/roi_warp.py).

    deltas -> decode, clip (detection/decode_boxes.py) -> roi_warp -> fc6 ...         max pooling of a bin: left out
       ^                                               |
       +------ gradient of the head's losses ----------+

Which proposals there are (the sorting, the suppression, the sample) is decided on values, as before: a choice has no
useful derivative. The targets of the head's deltas depend on the proposals too, but are taken as constants.

Letters: R sampled RoIs, G objects of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.decode_boxes import decode_boxes
from minidetect.detection.structures import Target
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import BoxHead, mean_losses
from minidetect.models.faster_rcnn import FasterRCNN
from minidetect.ops.roi_warp import roi_warp
from minidetect.ops.shape import concat
from minidetect.ops.threshold import take_rows


class WarpedHead(BoxHead):
    """A head whose regions may be Tensors: a loss on its outputs has a gradient for their corners."""

    def pooled(self, maps: Tensor, rois: np.ndarray | Tensor) -> Tensor:
        boxes = rois if isinstance(rois, Tensor) else Tensor(rois)
        image = np.zeros(len(boxes.data), np.int64)  # all of image 0
        return roi_warp(maps, boxes, image, (self.pool, self.pool), 1 / self.stride)  # (R, C, P, P)


class WarpedFasterRCNN(FasterRCNN):
    """Faster R-CNN with RoI warping; detects as its base does. Arguments: see `FasterRCNN`.

    through_boxes: False cuts the gradient at the proposals, so that the two can be compared with all else equal.
    """

    def __init__(
        self, num_classes: int, rng: np.random.Generator, grid: AnchorGrid | None = None,
        backbone: Backbone | None = None, features: int = 256, through_boxes: bool = True, **settings: object,
    ) -> None:
        super().__init__(num_classes, rng, grid, backbone, features, **settings)
        trunk = self.backbone
        self.head = WarpedHead(trunk.channels, trunk.stride, num_classes, rng, features=features)
        self.through_boxes = through_boxes

    def losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Joint training, section 3.2: the four losses, their mean over the images."""
        losses = []
        for image, target in zip(images, targets, strict=True):
            size = image.shape[1:]
            maps, outputs, anchors = self.forward(image)
            terms = self.rpn.losses(outputs, anchors, size, target, rng)
            rows, proposals, _ = self.rpn.best_anchors(outputs, anchors, size, *self.train_proposals)
            sampled = self.sample(proposals, target, rng)
            deltas = outputs[1] if self.through_boxes else outputs[1].detach()
            decoded = decode_boxes(take_rows(deltas, rows), anchors[rows], size, self.rpn.coder)
            rois = take_rows(concat([decoded, Tensor(target.boxes)], axis=0), sampled.rows)  # (N + G, 4) -> (R, 4)
            losses.append(terms | self.head.output_losses(self.head(maps, rois), sampled))
        return mean_losses(losses)
