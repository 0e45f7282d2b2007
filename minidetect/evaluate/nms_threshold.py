"""The threshold of non-maximum suppression, learned on images held out. R-CNN, section 2.2 ("a learned threshold").

Letters: N boxes of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.detection.per_class import detections_by_class
from minidetect.detection.structures import Target
from minidetect.evaluate.average_precision import evaluate_detections

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def learn_nms_threshold(
    scored: Sequence[tuple[np.ndarray, np.ndarray]], targets: Sequence[Target], min_score: float, most: int = 100,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[float, list[float]]:
    """The threshold of the highest mAP (of several the smallest), and the mAP of each.

    scored: boxes (N, K, 4) and scores (N, K) of each image, before suppression (`RCNN.score`). Classes without an
    object in `targets` are left out of the mean.
    """
    if not scored or not thresholds:
        raise ValueError(f"learn_nms_threshold: {len(scored)} images and {len(thresholds)} thresholds to choose from")
    present = np.unique(np.concatenate([target.labels for target in targets]))
    if len(present) == 0:
        raise ValueError("learn_nms_threshold: there is no object in these images")
    means = []
    for threshold in thresholds:
        found = [detections_by_class(boxes, scores, min_score, threshold, most) for boxes, scores in scored]
        means.append(float(np.mean([evaluate_detections(found, targets, label=int(k)).ap for k in present])))
    return thresholds[int(np.argmax(means))], means
