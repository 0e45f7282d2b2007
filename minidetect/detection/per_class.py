"""From scores of every box for every class to the detections of an image: the last step of all R-CNNs.

R-CNN, section 2.2: greedy suppression, each class by itself. Letters: N boxes, K classes.
"""

from __future__ import annotations

import numpy as np

from minidetect.detection.structures import Detections, make_detections
from minidetect.kernels.iou import as_boxes
from minidetect.kernels.nms import nms


def detections_by_class(
    boxes: np.ndarray, scores: np.ndarray, min_score: float, nms_threshold: float, most: int
) -> Detections:
    """Scores above a threshold, suppression class by class, the best `most` of all classes together.

    boxes: (N, 4), or (N, K, 4) with a box of its own for each class. scores: (N, K), column k for label k + 1.
    Raises ValueError for shapes that do not fit together.
    """
    boxes, scores = np.asarray(boxes), np.asarray(scores)
    if scores.ndim != 2 or boxes.shape not in ((len(scores), 4), (*scores.shape, 4)):
        raise ValueError(f"boxes must be (N, 4) or (N, K, 4) for scores (N, K), got {boxes.shape} and {scores.shape}")
    found, found_scores, labels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for k in range(scores.shape[1]):
        likely = np.flatnonzero(scores[:, k] > min_score)
        of_class = as_boxes(boxes[likely] if boxes.ndim == 2 else boxes[likely, k])
        kept = nms(of_class, scores[likely, k], nms_threshold)
        found.append(of_class[kept])
        found_scores.append(scores[likely, k][kept])
        labels.append(np.full(len(kept), k + 1))
    best = make_detections(np.concatenate(found), np.concatenate(found_scores), np.concatenate(labels))
    return Detections(*(None if part is None else part[:most] for part in best))
