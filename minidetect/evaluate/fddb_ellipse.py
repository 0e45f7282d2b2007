"""From a face box to FDDB's ellipse by regression, fitted on pairs of boxes and ellipses.

Group Sampling, section 7, takes "the regressor provided by S3FD", of which nothing else is published; so what it looks
at is our choice: a box's proportions and where it lies, all that a box can say of the head in it.

    features    log(h / w)
    targets     (x - x_box) / w, (y - y_box) / h, log(2 minor / w), log(2 major / h), angle from the upright

`WIDER_TO_FDDB` (fddb_mapping.py) is the same with medians and no feature. Both are fitted on folds 4 to 10 alone.

    python -m minidetect.evaluate.fddb_ellipse --data ../shared/data

fits on every second photo of these folds and compares the two on the others.

Letters: N boxes or pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.data.fddb import FddbDetections
from minidetect.detection.boxes import xyxy_to_cxcywh
from minidetect.detection.ridge import predict_ridge, ridge
from minidetect.evaluate.fddb import MATCH_IOU, evaluate_fddb
from minidetect.evaluate.fddb_mapping import fit_box_mapping, matched_pairs, reference_outside_test_folds

PENALTY = 1e-3  # of the ridge: next to none, there are two numbers for each of five targets


class EllipseRegression(NamedTuple):
    """weight: (2, 5), of the feature and of one, for the five targets."""

    weight: np.ndarray

    def apply(self, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) x1 y1 x2 y2 and scores (N,) -> (N, 6) float64 major minor angle cx cy score, for FDDB."""
        cx, cy, w, h = xyxy_to_cxcywh(np.asarray(boxes, np.float64).reshape(-1, 4)).T
        if not ((w > 0) & (h > 0)).all():
            raise ValueError(f"box {int(np.argmin((w > 0) & (h > 0)))} has no width or no height")
        dx, dy, minor, major, tilt = predict_ridge(features_of(w, h), self.weight).T
        major, minor = np.exp(major) * h / 2, np.exp(minor) * w / 2
        angle = np.pi / 2 + tilt
        turned = major < minor  # a wide box: its longer axis lies flat
        angle = np.where(turned, angle - np.pi / 2, angle)
        axes = np.maximum(major, minor), np.minimum(major, minor)
        return np.column_stack([*axes, angle, cx + dx * w, cy + dy * h, np.asarray(scores, np.float64)])


def features_of(w: np.ndarray, h: np.ndarray) -> np.ndarray:
    return np.log(h / w)[:, None]  # (N, 1)


def targets_of(boxes: np.ndarray, ellipses: np.ndarray) -> np.ndarray:
    """(N, 4), (N, 5) major minor angle x y -> (N, 5). The angle counts from the upright, between -45 and 45 degrees:

    of an ellipse that lies on its side, "major" and "minor" change places. `EllipseRegression.apply` undoes it.
    """
    cx, cy, w, h = xyxy_to_cxcywh(boxes).T
    major, minor, angle, x, y = ellipses.T
    tilt = angle % np.pi - np.pi / 2  # -90 to 90 degrees
    lies = np.abs(tilt) > np.pi / 4
    tilt = np.where(lies, tilt - np.sign(tilt) * np.pi / 2, tilt)
    upright, across = np.where(lies, minor, major), np.where(lies, major, minor)
    return np.column_stack([(x - cx) / w, (y - cy) / h, np.log(2 * across / w), np.log(2 * upright / h), tilt])


def fit_ellipses(
    detections: Mapping[str, FddbDetections], ellipses: Mapping[str, np.ndarray], min_score: float = 0.99,
    min_iou: float = MATCH_IOU,
) -> EllipseRegression:
    """Least squares over the pairs that FDDB's assignment makes, with an IoU above `min_iou` and such a score.

    Raises ValueError without a pair. Never call it on the folds a detector is tested on.
    """
    pairs = matched_pairs(detections, ellipses, min_score, min_iou)
    _, _, w, h = xyxy_to_cxcywh(pairs[0]).T
    return EllipseRegression(ridge(features_of(w, h), targets_of(*pairs), PENALTY))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m minidetect.evaluate.fddb_ellipse",
        description="fit ellipses to boxes on half of FDDB's folds 4 to 10 and compare on the other half",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with fddb_reference/ and fddb/")
    options = parser.parse_args(arguments)
    detections, ellipses = reference_outside_test_folds(options.data)
    names = sorted(ellipses)
    fit_on, test_on = (
        ({n: detections[n] for n in part if n in detections}, {n: ellipses[n] for n in part})
        for part in (names[::2], names[1::2])
    )
    regression, mapping = fit_ellipses(*fit_on), fit_box_mapping(*fit_on).mapping
    print(f"fitted on {len(fit_on[1])} photos, compared on {len(test_on[1])}")
    print(f"{'':24}recall at 100 false positives   highest continuous score")
    for title, method in {"medians": mapping, "regression": regression}.items():
        found = {name: method.apply(*of_image) for name, of_image in test_on[0].items()}
        curves = evaluate_fddb(found, test_on[1])
        print(f"{title:24}{curves.discrete.recall_at(100):29.4f}   {curves.continuous.recall.max():.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
