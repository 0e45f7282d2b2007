"""What kind of mistake each false positive is. R-CNN, section 3.4.

The paper uses the analysis of Hoiem, Chodpathumwan and Dai, "Diagnosing Error in Object Detectors" (2012), but its
captions, where it is discussed, are missing from the text we have. The definitions, in this order:

    localisation   its own class is there, but the box is off (IoU from 0.1 up to 0.5), or it was found before
    similar        an IoU of at least 0.1 with an object of a class that is easily taken for it
    other          an IoU of at least 0.1 with an object of any other class
    background     nothing of the kind

Left out: that work's normalised AP, and its look at objects that were missed.

Letters: N detections, G ground truths, R ranked detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.detection.structures import Detections, Target
from minidetect.evaluate.average_precision import match_detections
from minidetect.kernels.iou import iou_matrix

CORRECT, LOCALISATION, SIMILAR, OTHER, BACKGROUND = range(5)
KINDS = ("correct", "localisation", "similar", "other", "background")
LEFT_OUT = -1  # in an ignore region


class RankedErrors(NamedTuple):
    """One class's detections of all images by falling score, those in ignore regions left out.

    scores: (R,); kinds: (R,) int64, an index of KINDS; image: (R,) int64; num_gt: objects of the class.
    """

    scores: np.ndarray
    kinds: np.ndarray
    image: np.ndarray
    num_gt: int

    def counts(self, top: int | None = None) -> dict[str, int]:
        """How many of each kind are among the `top` detections; None: as many as there are objects."""
        kinds = self.kinds[: self.num_gt if top is None else top]
        return {name: int((kinds == kind).sum()) for kind, name in enumerate(KINDS)}

    def false_positive_shares(self, num: int) -> dict[str, float]:
        """What share each kind has in the first `num` false positives; NaN where there is none."""
        kinds = self.kinds[self.kinds != CORRECT][:num]
        return {
            name: float((kinds == kind).mean()) if len(kinds) else float("nan")
            for kind, name in enumerate(KINDS)
            if kind != CORRECT
        }


def rank_errors(
    detections: Sequence[Detections], targets: Sequence[Target], label: int, similar: Sequence[int] = (),
    iou_threshold: float = 0.5, touching_iou: float = 0.1,
) -> RankedErrors:
    """Judge one class's detections in a list of images.

    detections, targets: one an image. similar: labels of the classes that are easily taken for `label`.
    Raises ValueError when the lists differ in length.
    """
    if len(detections) != len(targets):
        raise ValueError(f"{len(detections)} lists of detections for {len(targets)} targets: one an image")
    scores, kinds, image = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for i, (found, target) in enumerate(zip(detections, targets, strict=True)):
        chosen = found.labels == label
        of_image = error_kinds(
            found.boxes[chosen], found.scores[chosen], target, label, similar, iou_threshold, touching_iou
        )
        counted = of_image != LEFT_OUT
        scores.append(found.scores[chosen][counted])
        kinds.append(of_image[counted])
        image.append(np.full(int(counted.sum()), i))
    scores = np.concatenate(scores)
    order = np.argsort(-scores, kind="stable")
    num_gt = sum(int((target.labels == label).sum()) for target in targets)
    return RankedErrors(scores[order], np.concatenate(kinds)[order], np.concatenate(image)[order], num_gt)


def error_kinds(
    boxes: np.ndarray, scores: np.ndarray, target: Target, label: int, similar: Sequence[int] = (),
    iou_threshold: float = 0.5, touching_iou: float = 0.1,
) -> np.ndarray:
    """The kind of each of one image's detections of one class: (N,) int64, an index of KINDS or LEFT_OUT.

    boxes: (N, 4), scores: (N,) of the detections of class `label`.
    """
    own = target.labels == label
    alike = np.isin(target.labels, list(similar)) & ~own
    is_tp, is_ignored = match_detections(boxes, scores, target.boxes[own], target.ignore, iou_threshold)
    kinds = np.full(len(boxes), BACKGROUND, np.int64)
    for kind, which in ((OTHER, ~own & ~alike), (SIMILAR, alike), (LOCALISATION, own)):  # the last one wins
        touches = iou_matrix(boxes, target.boxes[which]) >= touching_iou
        kinds[touches.any(axis=1)] = kind
    kinds[is_tp] = CORRECT
    kinds[is_ignored] = LEFT_OUT
    return kinds
