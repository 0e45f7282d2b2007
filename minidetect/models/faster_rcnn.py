"""Faster R-CNN: the proposals come from a network too, which shares its convolutions with the detector.

Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015.

    image -> backbone -> map -+-> 3x3 conv -+-> 1x1: 2 A logits   --> propose: decode, clip, NMS 0.7, the best 300
                              |             +-> 1x1: 4 A deltas            |
                              +-----------------> BoxHead (Fast R-CNN) <---+

    section 3.1.1   anchors: detection/anchors.py      section 3.1.2   labels: match_anchors; its loss: losses
    section 3.1.3   256 anchors an image               section 3.3     anchors over the border; proposals

Approximate joint training (section 3.2): one loss, the sum of the proposal network's and the head's; the proposals
are taken as constants, so the gradient with respect to their corners is left out (roi_warped.py has it). The other ways
of training the two, in four steps and in two, are in train/objects.py.

Left out besides: pre-training (backbones.py), and the weights of N(0, 0.01) for the 3 x 3 convolution, which begins by
He's rule as the trunk does. Proposals below 8 pixels are dropped; the paper's text has no such limit.

Letters: A anchors a cell, C channels, FH FW size of the map, K classes, R proposals.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.anchors import AnchorGrid, inside_image
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import clip_to_image
from minidetect.detection.group_sampler import IGNORED, Sampler
from minidetect.detection.hard_examples import cross_entropy_values
from minidetect.detection.losses import cross_entropy, smooth_l1
from minidetect.detection.matcher import IGNORE, NEGATIVE, match_anchors, overlaps_ignore
from minidetect.detection.sampler import sample_balanced
from minidetect.detection.structures import Detections, Target
from minidetect.kernels.device import to_numpy
from minidetect.kernels.nms import nms
from minidetect.models.backbones import Backbone, trunk_maps
from minidetect.models.fast_rcnn import BoxHead, SampledRois, mean_losses, sample_rois
from minidetect.models.layout_loss import sample_losses, smooth_l1_of_deltas
from minidetect.nn.layers import Conv2d
from minidetect.nn.module import Module
from minidetect.ops.activation import relu, softmax
from minidetect.ops.shape import reshape, transpose
from minidetect.ops.threshold import take_rows


class ProposalNet(Module):
    """The region proposal network (RPN): for every anchor, is there an object, and how must the anchor move?

    channels: of the map. grid: the anchors. features: of the 3 x 3 convolution (the paper: 256 for ZF, 512 for VGG).
    num_anchors: sampled an image; weight: the paper's lambda. sampler: another choice of anchors to learn from, of
    detection/group_sampler.py, with anchors of one side as a group; then the losses are those of Group Sampling, and
    num_anchors and weight mean nothing.
    """

    def __init__(
        self, channels: int, grid: AnchorGrid, rng: np.random.Generator, features: int = 128, num_anchors: int = 256,
        weight: float = 10.0, sampler: Sampler | None = None,
    ) -> None:
        self.grid, self.num_anchors, self.weight, self.sampler = grid, num_anchors, weight, sampler
        self.conv = Conv2d(channels, features, 3, rng, padding=1)
        self.logits = Conv2d(features, 2 * grid.num, 1, rng)
        self.deltas = Conv2d(features, 4 * grid.num, 1, rng)
        for layer in (self.logits, self.deltas):
            layer.weight.data[...] = 0.01 * rng.standard_normal(layer.weight.shape)  # section 3.1.3
        self.coder = BoxCoder()

    def __call__(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """maps (1, C, FH, FW) -> logits (FH*FW*A, 2), background and object; deltas (FH*FW*A, 4)."""
        hidden = relu(self.conv(maps))
        return self.by_anchor(self.logits(hidden), 2), self.by_anchor(self.deltas(hidden), 4)

    def by_anchor(self, x: Tensor, numbers: int) -> Tensor:
        """A row an anchor, in the order of AnchorGrid.boxes."""
        _, _, height, width = x.shape
        x = reshape(x, (self.grid.num, numbers, height, width))  # (1, A*D, FH, FW) -> (A, D, FH, FW)
        return reshape(transpose(x, (2, 3, 0, 1)), (-1, numbers))  # -> (FH, FW, A, D) -> (FH*FW*A, D)

    def losses(
        self, outputs: tuple[Tensor, Tensor], anchors: np.ndarray, image_size: tuple[int, int], target: Target,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """Faster R-CNN, Eq. (1): the class loss over the sampled anchors, the box loss over those that are objects.

        outputs: logits and deltas of all anchors (N, 4). The first sum is divided by the size of the sample (256),
        the second by the number of positions of the map (about 2,400), times lambda = 10.
        Anchors over the image's border are left out before matching (section 3.3), so that an object there still has a
        best anchor; background in an ignore region is not learned from.
        """
        logits, deltas = outputs
        inside = np.flatnonzero(inside_image(anchors, image_size))
        matched_idx = np.full(len(anchors), IGNORE)
        matched_idx[inside], _ = match_anchors(anchors[inside], target.boxes)  # the best of those that may be learned
        is_negative = (matched_idx == NEGATIVE) & ~overlaps_ignore(anchors, target.ignore)
        if self.sampler is not None:
            return self.group_losses(outputs, anchors, target, matched_idx, is_negative, rng)
        pos_idx, neg_idx = sample_balanced(matched_idx >= 0, is_negative, self.num_anchors, 0.5, rng)
        chosen = np.concatenate([pos_idx, neg_idx])
        labels = (np.arange(len(chosen)) < len(pos_idx)).astype(np.int64)
        wanted = self.coder.encode(anchors[pos_idx], target.boxes[matched_idx[pos_idx]])
        positions = len(anchors) // self.grid.num
        return {
            "rpn_class": cross_entropy(take_rows(logits, chosen), labels, max(len(chosen), 1)),
            "rpn_box": smooth_l1(take_rows(deltas, pos_idx), wanted, positions) * self.weight,
        }

    def group_losses(
        self, outputs: tuple[Tensor, Tensor], anchors: np.ndarray, target: Target, matched_idx: np.ndarray,
        is_negative: np.ndarray, rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """Group Sampling, Eq. (2), of what `sampler` chooses, with the smooth L1 distance."""
        logits, deltas = outputs
        labels = np.where(matched_idx >= 0, 1, np.where(is_negative, 0, IGNORED))
        side = np.repeat(np.arange(len(self.grid.sides)), len(self.grid.ratios))  # (A,), as AnchorGrid orders them
        groups = np.tile(side, len(anchors) // self.grid.num)
        samples = self.sampler(labels, groups, cross_entropy_values(logits.data, np.maximum(labels, 0)), rng)
        boxes = anchors.copy()
        boxes[matched_idx >= 0] = target.boxes[matched_idx[matched_idx >= 0]]
        terms = sample_losses(logits, deltas, anchors, boxes, samples, self.coder, box_loss=smooth_l1_of_deltas)
        return {"rpn_class": terms["class"], "rpn_box": terms["box"]}

    def propose(
        self, outputs: tuple[Tensor, Tensor], anchors: np.ndarray, image_size: tuple[int, int], before_nms: int,
        after_nms: int, nms_threshold: float = 0.7, min_side: float = 8.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The boxes that most probably hold an object (R, 4), clipped to the image, and their scores (R,).

        Faster R-CNN, section 3.3. before_nms, after_nms: how many at most. min_side: shorter boxes are dropped.
        """
        best = self.best_anchors(outputs, anchors, image_size, before_nms, after_nms, nms_threshold, min_side)
        return best[1:]

    def best_anchors(
        self, outputs: tuple[Tensor, Tensor], anchors: np.ndarray, image_size: tuple[int, int], before_nms: int,
        after_nms: int, nms_threshold: float = 0.7, min_side: float = 8.0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, and before them which anchor each proposal comes from: rows (R,), boxes (R, 4), scores (R,)."""
        logits, deltas = outputs
        scores = to_numpy(softmax(logits).data)[:, 1]
        best = np.argsort(-scores, kind="stable")[:before_nms]
        boxes = clip_to_image(self.coder.decode(anchors[best], to_numpy(deltas.data)[best]), image_size)
        large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= min_side).all(axis=1))
        kept = large[nms(boxes[large], scores[best][large], nms_threshold)[:after_nms]]
        return best[kept], boxes[kept], scores[best][kept]


class FasterRCNN(Module):
    """Backbone, proposal network and head.

    num_classes: K. grid: the anchors, which should fit the objects (detection/anchors.py, `coverage`); its stride must
        be the backbone's. train_proposals, test_proposals: (before, after) NMS at 0.7; the paper leaves about 2,000
        after it in training and takes the best 300 at test time.
    min_score, nms_threshold, most: of the detections, see `BoxHead.detections`. sampler: see `ProposalNet`.
    Images are (3, H, W) float32, already normalised; each may have a size of its own.
    """

    def __init__(
        self, num_classes: int, rng: np.random.Generator, grid: AnchorGrid | None = None,
        backbone: Backbone | None = None, features: int = 256, train_proposals: tuple[int, int] = (6000, 2000),
        test_proposals: tuple[int, int] = (3000, 300), min_score: float = 0.05, nms_threshold: float = 0.3,
        most: int = 100, sampler: Sampler | None = None,
    ) -> None:
        self.backbone = backbone or Backbone(rng)
        grid = grid or AnchorGrid(stride=self.backbone.stride)
        if grid.stride != self.backbone.stride:
            raise ValueError(f"anchors every {grid.stride} pixels do not fit a map of stride {self.backbone.stride}")
        self.rpn = ProposalNet(self.backbone.channels, grid, rng, sampler=sampler)
        self.head = BoxHead(self.backbone.channels, self.backbone.stride, num_classes, rng, features=features)
        self.train_proposals, self.test_proposals = train_proposals, test_proposals
        self.min_score, self.nms_threshold, self.most = min_score, nms_threshold, most

    def forward(self, image: np.ndarray) -> tuple[Tensor, tuple[Tensor, Tensor], np.ndarray]:
        """image (3, H, W) -> the map (1, C, FH, FW), the proposal network's outputs, the anchors (FH*FW*A, 4)."""
        maps = self.backbone(Tensor(image[None]))
        return maps, self.rpn(maps), self.rpn.grid.boxes(*maps.shape[2:])

    def losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Approximate joint training, section 3.2: the four losses, their mean over the images."""
        losses = []
        for image, target in zip(images, targets, strict=True):
            maps, outputs, anchors = self.forward(image)
            terms = self.rpn.losses(outputs, anchors, image.shape[1:], target, rng)
            proposals, _ = self.rpn.propose(outputs, anchors, image.shape[1:], *self.train_proposals)
            losses.append(terms | self.head.losses(maps, self.sample(proposals, target, rng)))
        return mean_losses(losses)

    def joint_losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """The same four losses of one network, but on proposals (R, 4) an image that another network made before.

        FaceCraft, section 5: the second of two steps, in place of Faster R-CNN's four.
        """
        losses = []
        for image, target, boxes in zip(images, targets, proposals, strict=True):
            maps, outputs, anchors = self.forward(image)
            terms = self.rpn.losses(outputs, anchors, image.shape[1:], target, rng)
            losses.append(terms | self.head.losses(maps, self.sample(boxes, target, rng)))
        return mean_losses(losses)

    def rpn_losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], rng: np.random.Generator, frozen: int = 0
    ) -> dict[str, Tensor]:
        """The proposal network alone, steps 1 and 3 of the 4-step training. frozen: see `trunk_maps`."""
        losses = []
        for image, target in zip(images, targets, strict=True):
            maps = trunk_maps(self.backbone, Tensor(image[None]), frozen)
            anchors = self.rpn.grid.boxes(*maps.shape[2:])
            losses.append(self.rpn.losses(self.rpn(maps), anchors, image.shape[1:], target, rng))
        return mean_losses(losses)

    def head_losses(
        self, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
        rng: np.random.Generator, frozen: int = 0,
    ) -> dict[str, Tensor]:
        """The head alone on given proposals, steps 2 and 4 of the 4-step training."""
        losses = []
        for image, target, boxes in zip(images, targets, proposals, strict=True):
            maps = trunk_maps(self.backbone, Tensor(image[None]), frozen)
            losses.append(self.head.losses(maps, self.sample(boxes, target, rng)))
        return mean_losses(losses)

    def sample(self, proposals: np.ndarray, target: Target, rng: np.random.Generator) -> SampledRois:
        """As Fast R-CNN samples, but background may be far from every object: there are few easy proposals here."""
        return sample_rois(proposals, target, rng, negative_range=(0.0, 0.5))

    def propose(self, image: np.ndarray) -> np.ndarray:
        """The proposals (R, 4) that training draws from; image: (3, H, W)."""
        with no_grad():
            _, outputs, anchors = self.forward(image)
            return self.rpn.propose(outputs, anchors, image.shape[1:], *self.train_proposals)[0]

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """What is in each image, in its own pixels."""
        found = []
        for image in images:
            size = image.shape[1:]
            with no_grad():
                maps, outputs, anchors = self.forward(image)
                rois, _ = self.rpn.propose(outputs, anchors, size, *self.test_proposals)
                found.append(self.head.detections(maps, rois, size, self.min_score, self.nms_threshold, self.most))
        return found
