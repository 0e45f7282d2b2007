"""What a detector with an AnchorLayout learns from: matched anchors, sampled by group, two losses.

    anchors --`match_two_pass`--> labels --sampler--> samples --> a loss of the classes, a loss of the boxes

Group Sampling, sections 4 and 5. Sampler, loss of the classes and loss of the boxes can be chosen independently of each
other; the defaults are what the paper calls FPN-finest-sampling, with least squares of the IoU for the boxes. (Its text
gives that loss for all its trainings; but the row of Table 8 with the smooth L1 distance, 82.8, is to the digit what
Tables 3, 5 and 9 have, and that with least squares, 83.7, is in none of them.)

Samples are drawn over all images of a step together: with small crops one alone has often no object of a scale. The
paper has one large image on each of eight GPUs, and draws in each. Background in an ignore region is not sampled.

Letters: N images, A anchors of each; P objects and M background of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.decode_boxes import decode_boxes
from minidetect.detection.focal_loss import focal_loss
from minidetect.detection.group_sampler import IGNORED, AnchorSample, Sampler, at_random, in_groups
from minidetect.detection.hard_examples import cross_entropy_values
from minidetect.detection.losses import cross_entropy, least_squares_iou_loss, neg_log_iou_loss, smooth_l1
from minidetect.detection.matcher import NEGATIVE, match_two_pass, overlaps_ignore
from minidetect.detection.scale_compensation import match_compensated
from minidetect.detection.structures import Target
from minidetect.models.anchor_detector import Prediction
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.single_shot import SingleShot
from minidetect.models.single_shot_loss import flat_anchors
from minidetect.ops.elementwise import add
from minidetect.ops.threshold import take_rows

# deltas (P, 4), anchors (P, 4), boxes (P, 4), coder -> a scalar
BoxLoss = Callable[[Tensor, np.ndarray, np.ndarray, BoxCoder], Tensor]
# logits (P + M, 2), labels (P + M,) -> a scalar
ClassLoss = Callable[[Tensor, np.ndarray], Tensor]


class Labelled(NamedTuple):
    """labels (N*A,) int64: 1 face, 0 background, IGNORED; boxes (N*A, 4): the ground truth of those that are a face."""

    labels: np.ndarray
    boxes: np.ndarray


def least_squares_of_deltas(deltas: Tensor, anchors: np.ndarray, boxes: np.ndarray, coder: BoxCoder) -> Tensor:
    """Group Sampling, Eq. (5), of predicted boxes."""
    return least_squares_iou_loss(decode_boxes(deltas, anchors, None, coder), boxes)


def neg_log_of_deltas(deltas: Tensor, anchors: np.ndarray, boxes: np.ndarray, coder: BoxCoder) -> Tensor:
    """-ln(IoU) of predicted boxes."""
    return neg_log_iou_loss(decode_boxes(deltas, anchors, None, coder), boxes)


def smooth_l1_of_deltas(deltas: Tensor, anchors: np.ndarray, boxes: np.ndarray, coder: BoxCoder) -> Tensor:
    """The smooth L1 distance of deltas."""
    return smooth_l1(deltas, coder.encode(anchors, boxes))


def focal(logits: Tensor, labels: np.ndarray) -> Tensor:
    """The focal loss over the number of objects, or over 1 without any."""
    return focal_loss(logits, labels, normaliser=max(1, int((labels == 1).sum())))


BOX_LOSSES = {
    "least-squares": least_squares_of_deltas, "neg-log": neg_log_of_deltas, "smooth-l1": smooth_l1_of_deltas,
}  # fmt: skip
GROUP_SAMPLING = in_groups(at_random(512))
CLASS_LOSSES = {"softmax": cross_entropy, "focal": focal, "focal*": focal_loss}


def layout_losses(
    model: LayoutDetector, images: Tensor, targets: Sequence[Target], rng: np.random.Generator,
    sampler: Sampler | None = None, class_loss: ClassLoss = cross_entropy,
    box_loss: BoxLoss = least_squares_of_deltas,
) -> dict[str, Tensor]:
    """Both parts of Group Sampling, Eq. (2), for images (N, 3, H, W), see `planes`, and N targets.

    sampler: None for GROUP_SAMPLING.
    """
    prediction = model.predict(images)
    labelled = label_anchors(prediction.anchors, targets)
    groups = np.tile(model.groups(images.shape[2:]), len(targets))  # (A,) -> (N*A,)
    return labelled_losses(prediction, labelled, groups, rng, model.coder, sampler, class_loss, box_loss)


def labelled_losses(
    prediction: Prediction, labelled: Labelled, groups: np.ndarray, rng: np.random.Generator, coder: BoxCoder,
    sampler: Sampler | None = None, class_loss: ClassLoss = cross_entropy,
    box_loss: BoxLoss = least_squares_of_deltas,
) -> dict[str, Tensor]:
    """The same, from what a model said and what is true of its anchors; groups: (N*A,)."""
    logits, deltas = flat_anchors(prediction.logits), flat_anchors(prediction.deltas)
    losses = cross_entropy_values(logits.data, np.maximum(labelled.labels, 0))
    samples = (sampler or GROUP_SAMPLING)(labelled.labels, groups, losses, rng)
    return sample_losses(logits, deltas, prediction.anchors, labelled.boxes, samples, coder, class_loss, box_loss)


def single_shot_group_losses(
    model: SingleShot, images: Tensor, targets: Sequence[Target], rng: np.random.Generator,
    sampler: Sampler | None = None, reading: str = "text",
) -> dict[str, Tensor]:
    """Group Sampling for EXTD and its family: their anchors, matching and deltas; samples and losses from here.

    A group is a map, since each has one size of anchors. reading: of the matching, see scale_compensation.py.
    """
    prediction = model.predict(images)
    matches = [match_compensated(prediction.anchors, target.boxes, reading)[0] for target in targets]
    labelled = stack_labels(prediction.anchors, targets, matches)
    sides = prediction.anchors[:, 2] - prediction.anchors[:, 0]
    groups = np.tile(np.unique(sides, return_inverse=True)[1], len(targets))  # (A,) -> (N*A,)
    return labelled_losses(prediction, labelled, groups, rng, model.coder, sampler, box_loss=smooth_l1_of_deltas)


def label_anchors(
    anchors: np.ndarray, targets: Sequence[Target], positive_iou: float = 0.6, negative_iou: float = 0.4
) -> Labelled:
    """What every anchor of every image is; anchors (A, 4), N targets. Group Sampling, section 4.1."""
    matches = [match_two_pass(anchors, target.boxes, positive_iou, negative_iou)[0] for target in targets]
    return stack_labels(anchors, targets, matches)


def stack_labels(anchors: np.ndarray, targets: Sequence[Target], matches: Sequence[np.ndarray]) -> Labelled:
    """From what a matcher said of each image's anchors, (A,) a row of its boxes, NEGATIVE or IGNORE.

    Background in an ignore region becomes ignored.
    """
    labels, boxes = [], []
    for target, matched_idx in zip(targets, matches, strict=True):
        is_face = matched_idx >= 0
        is_background = (matched_idx == NEGATIVE) & ~overlaps_ignore(anchors, target.ignore)
        labels.append(np.where(is_face, 1, np.where(is_background, 0, IGNORED)))
        of_image = anchors.copy()
        of_image[is_face] = target.boxes[matched_idx[is_face]]
        boxes.append(of_image)
    return Labelled(np.concatenate(labels), np.concatenate(boxes))


def sample_losses(
    logits: Tensor, deltas: Tensor, anchors: np.ndarray, boxes: np.ndarray, samples: Sequence[AnchorSample],
    coder: BoxCoder, class_loss: ClassLoss = cross_entropy, box_loss: BoxLoss = least_squares_of_deltas,
) -> dict[str, Tensor]:
    """Group Sampling, Eq. (2): for each group the mean loss of its samples, and of its objects' boxes; their sum.

    logits (N*A, 2), deltas (N*A, 4), anchors (A, 4), boxes (N*A, 4). The paper's eta, 1, is left out. A group without
    samples adds nothing, one without objects nothing to the loss of the boxes.
    """
    terms = {"class": Tensor(np.zeros((), logits.dtype)), "box": Tensor(np.zeros((), logits.dtype))}
    for positives, negatives in samples:
        chosen = np.concatenate([positives, negatives])
        labels = np.repeat([1, 0], [len(positives), len(negatives)])
        terms["class"] = add(terms["class"], class_loss(take_rows(logits, chosen), labels))
        found = take_rows(deltas, positives)
        of_group = box_loss(found, anchors[positives % len(anchors)], boxes[positives], coder)
        terms["box"] = add(terms["box"], of_group)
    return terms
