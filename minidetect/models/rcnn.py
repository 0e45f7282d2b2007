"""R-CNN: every proposal is cut out, warped to one size, and put through a network of its own.

Girshick, Donahue, Darrell, Malik, "Rich feature hierarchies for accurate object detection and semantic segmentation",
CVPR 2014.

    proposals -> warp to S x S -> five convolutions -> pool5 -> fc6 -> fc7 -+-> logits (K + 1), to train the network
                 (appendix A)                            |                  +-> K linear SVMs, the scores
                                                         +-> K ridge regressions, the boxes

    section 2.1   warping: detection/warps.py        section 2.3   fine-tuning: sample_windows, RCNN.losses;
    section 2.2   RCNN.detect                                      SVMs: detection/svm.py, rcnn_fit.py
    section 3.2   features of a layer: RCNN.taps     section 3.5   box regression: detection/ridge.py, rcnn_fit.py
    section 3.1   what a unit looks for: unit_view.py              section 5     regions with a mask: regions.py

Left out: AlexNet at 227 x 227 and VGG-16, pre-trained on ImageNet (`CropNet` at 64 x 64 stands for them, pre-trained on
whatever crops one has, or with the convolutions of mobilenet.py, which have seen ImageNet); dropout in the fully
connected layers; the cache of all features on disk.

Letters: N boxes, K classes without background, S side of a crop, D features.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.boxes import clip_to_image, valid_boxes
from minidetect.detection.losses import cross_entropy
from minidetect.detection.matcher import IGNORE, match, overlaps_ignore
from minidetect.detection.per_class import detections_by_class
from minidetect.detection.ridge import BoxRidge, regress_boxes
from minidetect.detection.sampler import sample_balanced
from minidetect.detection.structures import Detections, Target
from minidetect.detection.warps import CONTEXT, warp
from minidetect.models.backbones import Backbone
from minidetect.nn.layers import Linear
from minidetect.nn.module import Module
from minidetect.ops.activation import relu, softmax
from minidetect.ops.pool import max_pool2d
from minidetect.ops.shape import flatten

CONVS = ((16, 2), (32, 2), (32, 1), (64, 2), (64, 1))  # channels and stride of CropNet's convolutions
TAPS = ("pool5", "fc6", "fc7")
SCORERS = ("svm", "softmax")
BATCH = 128  # crops that go through the network at once
NEVER = -1e9  # the bias of a class's SVM that was not trained


class CropNet(Module):
    """A classifier of crops: five convolutions, max pooling, two fully connected layers, K + 1 logits.

    side: S, of a crop; table: see `Backbone`; features: of the fully connected layers. pool: of pool5.
    backbone: the convolutions, in place of new ones by the table: those of another task, or of mobilenet.py.
    """

    def __init__(
        self, num_classes: int, rng: np.random.Generator, side: int = 64,
        table: Sequence[tuple[int, int]] = CONVS, features: int = 256, pool: int = 2, backbone: Backbone | None = None,
    ) -> None:
        self.side, self.pool, self.num_classes = side, pool, num_classes
        self.backbone = backbone or Backbone(rng, table)
        cells = -(-side // self.backbone.stride) // pool  # along each axis of pool5
        if cells < 1:
            raise ValueError(f"CropNet: a crop of {side} pixels is too small for stride {self.backbone.stride}")
        self.pool5_shape = (self.backbone.channels, cells, cells)
        self.sizes = {"pool5": int(np.prod(self.pool5_shape)), "fc6": features, "fc7": features}
        self.fc6 = Linear(self.sizes["pool5"], features, rng)
        self.fc7 = Linear(features, features, rng)
        self.logits = Linear(features, num_classes + 1, rng, std=0.01)

    def taps(self, crops: Tensor) -> dict[str, Tensor]:
        """crops (N, 3, S, S) -> pool5, fc6, fc7, each (N, D), after their ReLU."""
        pool5 = flatten(max_pool2d(self.backbone(crops), self.pool, self.pool))
        fc6 = relu(self.fc6(pool5))
        return {"pool5": pool5, "fc6": fc6, "fc7": relu(self.fc7(fc6))}

    def __call__(self, crops: Tensor) -> Tensor:
        """crops (N, 3, S, S) -> logits (N, K + 1), 0 for background."""
        return self.logits(self.taps(crops)["fc7"])

    def losses(self, crops: np.ndarray, labels: np.ndarray) -> dict[str, Tensor]:
        """The loss of a softmax over K + 1 classes, their mean: for pre-training and fine-tuning alike."""
        return {"class": cross_entropy(self(Tensor(crops)), labels)}

    def replace_classifier(self, num_classes: int, rng: np.random.Generator) -> None:
        """R-CNN, section 2.3: for a new task the last layer is new and random, all others stay as they are.

        Make a new optimiser afterwards: the old one holds the old layer.
        """
        self.num_classes = num_classes
        self.logits = Linear(self.sizes["fc7"], num_classes + 1, rng, std=0.01)


class Windows(NamedTuple):
    """Proposals of several images to learn from: image (M,) int64, boxes (M, 4), labels (M,), 0 for background."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def label_windows(proposals: Sequence[np.ndarray], targets: Sequence[Target], positive_iou: float = 0.5) -> Windows:
    """R-CNN, section 2.3: an IoU of at least 0.5 makes a proposal an example of that object's class, else background.

    proposals, targets: one an image. The objects themselves count as proposals. Proposals without area are left out,
    and so is background in an ignore region.
    """
    image, boxes, labels = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.float32)], [np.zeros(0, np.int64)]
    for i, (found, target) in enumerate(zip(proposals, targets, strict=True)):
        windows = np.concatenate([found[valid_boxes(found)].astype(np.float32), target.boxes])
        matched_idx, _ = match(windows, target.boxes, positive_iou, positive_iou)
        matched_idx[(matched_idx < 0) & overlaps_ignore(windows, target.ignore)] = IGNORE
        rows = np.flatnonzero(matched_idx != IGNORE)
        image.append(np.full(len(rows), i))
        boxes.append(windows[rows])
        labels.append(np.append(target.labels, 0)[np.maximum(matched_idx[rows], -1)])  # -1: the 0 at the end
    return Windows(np.concatenate(image), np.concatenate(boxes), np.concatenate(labels))


def sample_windows(
    windows: Windows, rng: np.random.Generator, num_positive: int = 32, num_background: int = 96
) -> Windows:
    """A mini-batch: R-CNN, section 2.3, draws 32 positives over all classes and 96 of background from all images."""
    num = num_positive + num_background
    is_positive = windows.labels > 0
    pos_idx, neg_idx = sample_balanced(is_positive, ~is_positive, num, num_positive / max(num, 1), rng)
    chosen = np.concatenate([pos_idx, neg_idx])
    return Windows(*(part[chosen] for part in windows))


class Scored(NamedTuple):
    """boxes (N, K, 4) float32, one for each class; scores (N, K) float32."""

    boxes: np.ndarray
    scores: np.ndarray


class RCNN(Module):
    """The network, the SVMs and the box regressions of all classes; proposals come from elsewhere.

    num_classes: K. net: the network, with K + 1 logits; by default a new one with crops of `side`.
    mode, padding: see `detection.warps`; None: the paper's 16 of 227 pixels.
    tap: the features that SVMs see. scorer: "svm", or "softmax" for the network's own probabilities. regress: move the
    boxes. min_score: None for -1.5 (svm; background has -1 or less) or 0.05. nms_threshold, most: see `detect`.

    Images are (3, H, W) float32, already normalised (`detection.image_scale.normalise`), as for Fast R-CNN: what is
    outside of one is 0, the mean colour.
    """

    def __init__(
        self, num_classes: int, rng: np.random.Generator, net: CropNet | None = None, side: int = 64,
        # what the network sees, and which of its features are used
        mode: str = "warp", padding: float | None = None, tap: str = "fc7",
        # detection
        scorer: str = "svm", regress: bool = True, min_score: float | None = None, nms_threshold: float = 0.3,
        most: int = 100,
    ) -> None:
        self.net = net or CropNet(num_classes, rng, side)
        if self.net.num_classes != num_classes:
            raise ValueError(f"RCNN: {num_classes} classes, the network has {self.net.num_classes}")
        if tap not in TAPS or scorer not in SCORERS:
            raise ValueError(f"RCNN: tap must be one of {TAPS}, scorer of {SCORERS}, got {tap!r} and {scorer!r}")
        self.num_classes, self.tap, self.scorer, self.regress = num_classes, tap, scorer, regress
        self.mode, self.padding = mode, CONTEXT * self.net.side if padding is None else padding
        self.min_score = min_score if min_score is not None else (-1.5 if scorer == "svm" else 0.05)
        self.nms_threshold, self.most = nms_threshold, most
        inputs, pool5 = self.net.sizes[tap], self.net.sizes["pool5"]
        # Fitted by rcnn_fit.py, saved with the network. scales: of the SVMs' features, and of the regressions'.
        self.scales = np.ones(2, np.float32)
        self.svm_weight = np.zeros((num_classes, inputs), np.float32)
        self.svm_bias = np.full(num_classes, NEVER, np.float32)
        self.ridge_weight = np.zeros((num_classes, pool5 + 1, 4), np.float32)
        self.ridge_mean = np.zeros((num_classes, 4), np.float32)
        self.ridge_unwhiten = np.zeros((num_classes, 4, 4), np.float32)

    def crops(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """image (3, H, W), boxes (N, 4) -> what the network sees of them, (N, 3, S, S) float32."""
        return warp(image.transpose(1, 2, 0), boxes, self.net.side, self.mode, self.padding)

    def forward(self, image: np.ndarray, proposals: np.ndarray) -> Tensor:
        """image (3, H, W), proposals (N, 4) -> logits (N, K + 1)."""
        return self.net(Tensor(self.crops(image, proposals)))

    def losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """Fine-tuning, section 2.3: the loss of a mini-batch drawn from all windows of these images.

        The labels cost time where there are many images: then `label_windows` once, and `window_losses` in each step.
        """
        return self.window_losses(images, sample_windows(label_windows(proposals, targets), rng))

    def window_losses(self, images: Sequence[np.ndarray], windows: Windows) -> dict[str, Tensor]:
        """The loss of a mini-batch. images: whatever `windows.image` is an index of."""
        return self.net.losses(self.window_crops(images, windows), windows.labels)

    def window_crops(self, images: Sequence[np.ndarray], windows: Windows) -> np.ndarray:
        """What the network sees of a mini-batch: (M, 3, S, S) float32."""
        crops = np.empty((len(windows.boxes), 3, self.net.side, self.net.side), np.float32)
        for i in np.unique(windows.image):
            rows = windows.image == i
            crops[rows] = self.crops(images[i], windows.boxes[rows])
        return crops

    def taps(self, image: np.ndarray, boxes: np.ndarray, names: Collection[str] = TAPS) -> dict[str, np.ndarray]:
        """Features of several layers in one pass: image (3, H, W), boxes (N, 4) -> by name (N, D) float32.

        names: of TAPS and "logits". Boxes need an area.
        """
        starts = range(0, max(len(boxes), 1), BATCH)  # of no boxes, one empty batch
        batches = [self.crop_taps(self.crops(image, boxes[start : start + BATCH]), names) for start in starts]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in names}

    def crop_taps(self, crops: np.ndarray, names: Collection[str] = TAPS) -> dict[str, np.ndarray]:
        """The same for crops (N, 3, S, S) that are cut out already. Batch norm keeps to its running averages."""
        was_training = self.net.training
        self.net.train(False)
        with no_grad():
            found = self.net.taps(Tensor(crops))
            found["logits"] = self.net.logits(found["fc7"])
        self.net.train(was_training)
        return {name: found[name].data for name in names}

    def features(self, image: np.ndarray, boxes: np.ndarray, tap: str | None = None) -> np.ndarray:
        """Features of one layer: (N, D) float32. tap: pool5, fc6 or fc7; None: the one that the SVMs see."""
        name = tap or self.tap
        return self.taps(image, boxes, (name,))[name]

    def score(self, image: np.ndarray, proposals: np.ndarray) -> Scored:
        """Every proposal's score and box for every class. image (3, H, W); proposals (N, 4), each with an area.

        All SVMs are one matrix product, section 2.2.
        """
        scored_by = self.tap if self.scorer == "svm" else "logits"
        found = self.taps(image, proposals, {scored_by, "pool5"} if self.regress else {scored_by})
        if self.scorer == "svm":
            if (self.svm_bias == NEVER).all():
                raise ValueError("RCNN: no SVM has been trained: call fit_svms first, or choose scorer='softmax'")
            scores = found[self.tap] * self.scales[0] @ self.svm_weight.T + self.svm_bias
        else:
            scores = softmax(Tensor(found["logits"])).data[:, 1:]
        boxes = np.repeat(proposals[:, None].astype(np.float32), self.num_classes, axis=1)
        if self.regress:
            ridge = BoxRidge(self.ridge_weight, self.ridge_mean, self.ridge_unwhiten)
            boxes = regress_boxes(ridge, found["pool5"] * self.scales[1], proposals)
        flat = clip_to_image(boxes.reshape(-1, 4), image.shape[1:])
        return Scored(flat.reshape(boxes.shape), scores)

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[np.ndarray]) -> list[Detections]:
        """What is in each image, in its own pixels: section 2.2. Proposals without area are left out."""
        detections = []
        for image, boxes in zip(images, proposals, strict=True):
            scored = self.score(image, boxes[valid_boxes(boxes)])
            detections.append(detections_by_class(*scored, self.min_score, self.nms_threshold, self.most))
        return detections
