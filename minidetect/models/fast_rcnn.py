"""Fast R-CNN: one pass of the convolutions over an image, then a small network for each region.

Girshick, "Fast R-CNN", ICCV 2015.

    image -> backbone -> map --+
                               +-> RoI pooling -> fc -> fc -+-> logits (K + 1)
    proposals -----------------+                            +-> deltas (4 K), four for each class

    section 2.1   RoI pooling: ops/roi_pool.py           section 2.3   sampling: sample_rois; loss: BoxHead.losses
    section 3     per-class suppression: BoxHead.detections; section 3.1: truncated SVD, nn/svd.py

In files of their own: the changes to a pre-trained network (section 2.2), surgery.py; several scales at test time
(section 2.4), multi_scale.py; SVMs in place of the softmax (section 5.4), fast_rcnn_svm.py.

Left out: VGG-16 and its ImageNet weights (backbones.py says what stands for them); dropout between the fully connected
layers. There, but not the default: twice the learning rate for biases, and their decay (`Schedule.bias_lr`,
`decay_vectors`); training at scales drawn at random (`ObjectRecipe.scale_jitter`).

Letters: R regions of interest (RoIs), K classes without background, C channels of the map, FH FW its size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import clip_to_image
from minidetect.detection.losses import cross_entropy, smooth_l1
from minidetect.detection.matcher import match, overlaps_ignore
from minidetect.detection.per_class import detections_by_class
from minidetect.detection.sampler import sample_balanced
from minidetect.detection.structures import Detections, Target
from minidetect.kernels.device import to_numpy
from minidetect.models.backbones import Backbone, trunk_maps
from minidetect.nn.layers import Linear
from minidetect.nn.module import Module
from minidetect.nn.svd import truncate
from minidetect.ops.activation import relu, softmax
from minidetect.ops.roi_pool import roi_pool
from minidetect.ops.shape import flatten, getitem

# What raw deltas are divided by, so that targets vary by about 1; the published code's, for proposals of IoU above 0.5.
DELTAS_STD = (0.1, 0.1, 0.2, 0.2)


NO_ROWS = np.zeros(0, np.int64)


class SampledRois(NamedTuple):
    """rois (R, 4) float32; labels (R,) int64, 0 for background; gt_boxes (R, 4), for background the RoI itself.

    rows: (R,) int64, which of the proposals, followed by the objects, each RoI is; empty if they were not drawn so.
    """

    rois: np.ndarray
    labels: np.ndarray
    gt_boxes: np.ndarray
    rows: np.ndarray = NO_ROWS


def sample_rois(
    proposals: np.ndarray,
    target: Target,
    rng: np.random.Generator,
    num: int = 64,
    positive_fraction: float = 0.25,
    positive_iou: float = 0.5,
    negative_range: tuple[float, float] = (0.1, 0.5),
) -> SampledRois:
    """The RoIs of one image to learn from. Fast R-CNN, section 2.3: 64 of each of two images, a quarter objects.

    An object has an IoU of at least `positive_iou` with a ground truth; background has its largest IoU in
    [low, high). The low end, 0.1, makes a cheap heuristic for hard examples; Faster R-CNN (section 4.2) sets it to 0 on
    COCO. Ground truths themselves join the proposals, so that there is always something to learn from. Background that
    lies in an ignore region is not sampled.
    """
    proposals = np.concatenate([proposals.astype(np.float32), target.boxes])
    matched_idx, best_iou = match(proposals, target.boxes, positive_iou, negative_range[1])
    is_positive = matched_idx >= 0
    is_negative = ~is_positive & (best_iou < negative_range[1]) & (best_iou >= negative_range[0])
    if not is_negative.any():  # an image with no object near: any background will do
        is_negative = ~is_positive & (best_iou < negative_range[1])
    is_negative &= ~overlaps_ignore(proposals, target.ignore)
    pos_idx, neg_idx = sample_balanced(is_positive, is_negative, num, positive_fraction, rng)
    chosen = np.concatenate([pos_idx, neg_idx])
    labels = np.zeros(len(chosen), np.int64)
    labels[: len(pos_idx)] = target.labels[matched_idx[pos_idx]]
    gt_boxes = proposals[chosen].copy()
    gt_boxes[: len(pos_idx)] = target.boxes[matched_idx[pos_idx]]
    return SampledRois(proposals[chosen], labels, gt_boxes, chosen)


class BoxHead(Module):
    """What happens to each region: pooling to a fixed size, two fully connected layers, two sibling outputs.

    channels, stride: of the map. num_classes: K. pool: bins a side. features: of the fully connected layers.
    """

    def __init__(
        self, channels: int, stride: int, num_classes: int, rng: np.random.Generator, pool: int = 7, features: int = 256
    ) -> None:
        self.stride, self.num_classes, self.pool = stride, num_classes, pool
        self.fc6 = Linear(channels * pool * pool, features, rng)
        self.fc7 = Linear(features, features, rng)
        self.logits = Linear(features, num_classes + 1, rng, std=0.01)
        self.deltas = Linear(features, 4 * num_classes, rng, std=0.001)
        self.coder = BoxCoder(std=DELTAS_STD)

    def __call__(self, maps: Tensor, rois: np.ndarray) -> tuple[Tensor, Tensor]:
        """maps (1, C, FH, FW), rois (R, 4) in pixels -> logits (R, K + 1), deltas (R, 4 K)."""
        hidden = self.hidden(maps, rois)
        return self.logits(hidden), self.deltas(hidden)

    def hidden(self, maps: Tensor, rois: np.ndarray) -> Tensor:
        """What both outputs are made from: fc7 of each region, (R, features)."""
        return relu(self.fc7(relu(self.fc6(flatten(self.pooled(maps, rois))))))

    def pooled(self, maps: Tensor, rois: np.ndarray) -> Tensor:
        """Each region at a fixed size: (R, C, P, P)."""
        indexed = np.concatenate([np.zeros((len(rois), 1), np.float32), rois], axis=1)  # (R, 5): all of image 0
        return roi_pool(maps, indexed, (self.pool, self.pool), 1 / self.stride)

    def truncated(self, fc6: int, fc7: int) -> BoxHead:
        """A copy for inference whose fully connected layers have these ranks; section 3.1 (see nn/svd.py)."""
        twin = copy.copy(self)
        twin.fc6, twin.fc7 = truncate(self.fc6, fc6), truncate(self.fc7, fc7)
        return twin

    def losses(self, maps: Tensor, sampled: SampledRois, weight: float = 1.0) -> dict[str, Tensor]:
        """Fast R-CNN, Eq. (1): L_cls + weight * [label >= 1] L_loc, both divided by the number of RoIs.

        Only the four deltas of a RoI's own class are held to a target; the other classes' get no gradient.
        """
        return self.output_losses(self(maps, sampled.rois), sampled, weight)

    def output_losses(
        self, outputs: tuple[Tensor, Tensor], sampled: SampledRois, weight: float = 1.0
    ) -> dict[str, Tensor]:
        """The same from the logits and deltas of the sampled RoIs."""
        logits, deltas = outputs
        num = max(len(sampled.rois), 1)
        is_object = np.flatnonzero(sampled.labels >= 1)
        columns = 4 * (sampled.labels[is_object, None] - 1) + np.arange(4)  # (objects, 4)
        own = getitem(deltas, (is_object[:, None], columns))
        wanted = self.coder.encode(sampled.rois[is_object], sampled.gt_boxes[is_object])
        return {
            "head_class": cross_entropy(logits, sampled.labels, num),
            "head_box": smooth_l1(own, wanted, num) * weight,
        }

    def detections(
        self, maps: Tensor, rois: np.ndarray, image_size: tuple[int, int], min_score: float, nms_threshold: float,
        most: int,
    ) -> Detections:
        """Fast R-CNN, section 3: scores, per-class boxes, per-class suppression; the best `most` of all classes."""
        logits, deltas = self(maps, rois)
        boxes = self.class_boxes(rois, to_numpy(deltas.data), image_size)
        return detections_by_class(boxes, to_numpy(softmax(logits).data)[:, 1:], min_score, nms_threshold, most)

    def class_boxes(self, rois: np.ndarray, deltas: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """Every RoI moved by every class's deltas, clipped to the image: (R, 4) and (R, 4 K) -> (R, K, 4) float32."""
        of_class = deltas.reshape(-1, 4)  # (R, 4 K) -> (R*K, 4), a region's classes one after the other
        moved = self.coder.decode(np.repeat(rois, self.num_classes, axis=0), of_class)
        return clip_to_image(moved, image_size).reshape(len(rois), self.num_classes, 4)


def mean_losses(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over a few images."""
    names = losses[0]
    return {name: sum((one[name] for one in losses[1:]), losses[0][name]) * (1 / len(losses)) for name in names}


class FastRCNN(Module):
    """Backbone and head; the proposals come from elsewhere (selective search, a proposal network, a grid).

    num_classes: K. backbone: the trunk; frozen: so many of its first convolutions are not trained (section 4.5).
    min_score, nms_threshold, most: see `BoxHead.detections`.
    Images are (3, H, W) float32, already normalised; each may have a size of its own.
    """

    def __init__(
        self, num_classes: int, rng: np.random.Generator, backbone: Backbone | None = None, features: int = 256,
        frozen: int = 0, min_score: float = 0.05, nms_threshold: float = 0.3, most: int = 100,
    ) -> None:
        self.backbone, self.frozen = backbone or Backbone(rng), frozen
        self.head = BoxHead(self.backbone.channels, self.backbone.stride, num_classes, rng, features=features)
        self.min_score, self.nms_threshold, self.most = min_score, nms_threshold, most

    def forward(self, image: np.ndarray, proposals: np.ndarray) -> tuple[Tensor, Tensor]:
        """image (3, H, W), proposals (R, 4) -> logits (R, K + 1), deltas (R, 4 K)."""
        return self.head(self.backbone(Tensor(image[None])), proposals)

    def losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """The loss of a few images (the paper: 2 with 64 RoIs each), their mean."""
        losses = []
        for image, target, boxes in zip(images, targets, proposals, strict=True):
            maps = trunk_maps(self.backbone, Tensor(image[None]), self.frozen)
            losses.append(self.head.losses(maps, sample_rois(boxes, target, rng)))
        return mean_losses(losses)

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[np.ndarray]) -> list[Detections]:
        """What is in each image, in its own pixels."""
        found = []
        for image, boxes in zip(images, proposals, strict=True):
            with no_grad():
                maps = self.backbone(Tensor(image[None]))
                size = image.shape[1:]
                found.append(self.head.detections(maps, boxes, size, self.min_score, self.nms_threshold, self.most))
        return found
