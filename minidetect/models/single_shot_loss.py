"""What a single-shot detector learns from: matched anchors, three times as many hard negatives, two losses.

EXTD, section 3.4, after S3FD and SSD.

    anchors --match--> faces, background --losses of the background--> the 3 : 1 hardest --> Eq. (3)

Faces that nobody could see (Target.ignore) are neither: an anchor that lies in one is no negative.

Letters: N images, A anchors of each, P positives and M negatives of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.detection.box_coder import SSD_STD, BoxCoder
from minidetect.detection.hard_examples import cross_entropy_values, hardest
from minidetect.detection.losses import cross_entropy, smooth_l1
from minidetect.detection.matcher import overlaps_ignore
from minidetect.detection.scale_compensation import match_compensated
from minidetect.detection.structures import Target
from minidetect.kernels.device import to_numpy
from minidetect.models.anchor_detector import Prediction
from minidetect.models.single_shot import SingleShot
from minidetect.ops.elementwise import mul
from minidetect.ops.shape import reshape
from minidetect.ops.threshold import take_rows

LAMBDA = 4.0  # EXTD, section 3.4


class Sample(NamedTuple):
    """Which anchors of an image are learned from.

    positives (P,), negatives (M,): rows of anchors, int64; boxes (P, 4): the ground truth of each positive.
    """

    positives: np.ndarray
    negatives: np.ndarray
    boxes: np.ndarray


def sample_image(
    logits: np.ndarray, anchors: np.ndarray, target: Target, reading: str = "text", ratio: float = 3.0, least: int = 0
) -> Sample:
    """The positives of an image and its hardest negatives, `ratio` times as many. EXTD, section 3.4.

    logits: (A, 2), what the network says; anchors: (A, 4). Hard is what has a large loss as background.
    reading: of the matching, see scale_compensation.py. least: so many negatives at least, for an image without a face
    (the paper's rule gives it none).
    """
    matched_idx, _ = match_compensated(anchors, target.boxes, reading)
    positives = np.flatnonzero(matched_idx >= 0)
    background = np.flatnonzero((matched_idx < 0) & ~overlaps_ignore(anchors, target.ignore))
    loss = cross_entropy_values(logits[background], np.zeros(len(background), np.int64))
    chosen = hardest(loss, max(least, int(ratio * len(positives))))
    return Sample(positives, background[chosen], target.boxes[matched_idx[positives]])


def single_shot_losses(
    model: SingleShot, images: Tensor, targets: Sequence[Target], reading: str = "text", ratio: float = 3.0,
    least: int = 0,
) -> dict[str, Tensor]:
    """The two terms of EXTD, Eq. (3), for images (N, 3, S, S), see `SingleShot.planes`, and N targets."""
    prediction = model.predict(images)
    samples = [
        sample_image(logits, prediction.anchors, target, reading, ratio, least)
        for logits, target in zip(to_numpy(prediction.logits.data), targets, strict=True)
    ]
    return sampled_losses(prediction, samples)


def sampled_losses(prediction: Prediction, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """EXTD, Eq. (3): lambda / N_cls * sum of cross entropies + 1 / N_reg * sum of smooth L1 of the positives.

    N_cls = P + M counts all samples of the batch, N_reg = P. With M = 3 P and lambda = 4 both are divided by P: lambda
    does not weigh the classification higher, it undoes the different divisor. Without any positive the regression is 0.
    """
    num_anchors = len(prediction.anchors)
    positives = np.concatenate([n * num_anchors + sample.positives for n, sample in enumerate(samples)])
    negatives = np.concatenate([n * num_anchors + sample.negatives for n, sample in enumerate(samples)])
    labels = np.repeat([1, 0], [len(positives), len(negatives)])
    logits, deltas = (flat_anchors(x) for x in (prediction.logits, prediction.deltas))
    classification = cross_entropy(take_rows(logits, np.concatenate([positives, negatives])), labels)
    boxes = np.concatenate([sample.boxes for sample in samples])
    wanted = BoxCoder(std=SSD_STD).encode(prediction.anchors[positives % num_anchors], boxes)
    return {"class": mul(classification, LAMBDA), "box": smooth_l1(take_rows(deltas, positives), wanted)}


def flat_anchors(x: Tensor) -> Tensor:
    """(N, A, K) -> (N*A, K)"""
    return reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))
