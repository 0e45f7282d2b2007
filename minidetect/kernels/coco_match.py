"""COCO's matching of one image's detections of one class, at many IoU thresholds at once.

D: detections by falling score, G: ground truths with the ignored ones last, T: thresholds.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import kernel

UNMATCHED = -1


def coco_match(overlaps: np.ndarray, thresholds: np.ndarray, ignored: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Which ground truth each detection is given, (T, D) int64, UNMATCHED for none.

    overlaps: (D, G) float64, for a crowd the share of the detection that lies in it, else IoU. thresholds: (T,).
    ignored, crowd: (G,) bool; the columns of ignored ones must come last.

    A detection takes the best ground truth that is free and reaches the threshold; one that is not ignored before any
    that is; of equal overlaps the last in the list, as in pycocotools. A crowd may be taken any number of times.
    """
    matched = np.full((len(thresholds), len(overlaps)), UNMATCHED, np.int64)
    _match(overlaps, np.minimum(thresholds, 1 - 1e-10), ignored, crowd, np.zeros(len(ignored), np.bool_), matched)
    return matched


@kernel
def _match(overlaps, thresholds, ignored, crowd, taken, matched):
    for t in range(thresholds.size):
        taken[:] = False
        for d in range(overlaps.shape[0]):
            best, overlap = -1, thresholds[t]
            for g in range(overlaps.shape[1]):
                if taken[g] and not crowd[g]:
                    continue
                if best >= 0 and not ignored[best] and ignored[g]:
                    break  # a ground truth that counts was found, and only ignored ones follow
                if overlaps[d, g] >= overlap:
                    best, overlap = g, overlaps[d, g]
            if best >= 0:
                matched[t, d] = best
                taken[best] = True
