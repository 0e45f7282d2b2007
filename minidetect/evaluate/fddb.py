"""FDDB's two ROC curves, as its official evaluator computes them.

Jain, Learned-Miller: FDDB: A Benchmark for Face Detection in Unconstrained Settings, 2010.

For every threshold and image, detections and annotated ellipses are paired one to one so that the sum of
overlaps (IoU in painted pixels, see `scanlines`) is the largest possible (see `assignment`). Then
    discontinuous score   a pair with IoU > 0.5 counts 1, any other 0
    continuous score      a pair counts its IoU
each divided by the number of ellipses; a detection without a pair of IoU > 0.5 is a false positive in both.
A pairing may change when a detection is added, so a score can also fall as the threshold falls.

`../shared/data/fddb_reference` holds one detector's boxes on all 2,845 images and what the official program
printed for them. Over all of its 2,831 thresholds this module differs by one face of 5,171 at most in the
discontinuous curve and by 0.0006 in the continuous one (0.0009 without image sizes). What is left comes
mostly from the sizes of the 2,005 images that are not there.

Boxes of a detector trained on WIDER FACE should pass through `fddb_mapping.WIDER_TO_FDDB` first: FDDB's
ellipses are drawn around the whole head.

Letters: N detections, G ellipses of an image; D detections that touch an ellipse; T thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from minidetect.evaluate.assignment import best_assignments
from minidetect.evaluate.average_precision import Curve, curve_from_counts
from minidetect.evaluate.scanlines import Spans, ellipse_spans, overlaps, rectangle_spans

MATCH_IOU = 0.5  # a pair must overlap by more than this
LARGEST_IMAGE = (450, 450)  # no image of FDDB is higher or wider


class FddbCurves(NamedTuple):
    """discrete, continuous: `recall` of each is its score, the true positive rate of FDDB's ROC curves
    (`precision` of the continuous one: mean overlap of the detections). num_images: how many were judged."""

    discrete: Curve
    continuous: Curve
    num_images: int


def evaluate_fddb(
    detections: Mapping[str, object],
    ellipses: Mapping[str, np.ndarray],
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> FddbCurves:
    """Both curves over the images that `ellipses` names.

    detections: image name -> what was found, in any order; an image may be missing (nothing found).
        Either something with `boxes` (N, 4) x1 y1 x2 y2 and `scores` (N,), such as `Detections`; or an
        array (N, 5) of rectangles, x y width height score; or an array (N, 6) of ellipses, major minor
        angle cx cy score. Rectangles are painted as the evaluator does it, x to x + width included.
    ellipses: image name -> (G, 5) major minor angle cx cy, as `minidetect.data.fddb.read_ellipses` gives.
    sizes: image name -> (height, width), to clip regions at the border. Where it is not known, regions are
        clipped at row and column 0 and at 450, FDDB's largest image: on the reference this costs 0.0003 of
        the continuous score and one face in the discontinuous one.

    Raises ValueError that names the image: one without annotation, an array of another shape, a number
    that is not finite.
    """
    unknown = set(detections) - set(ellipses)
    if unknown:
        raise ValueError(f"{len(unknown)} images have detections but no annotation, one is {min(unknown)!r}")
    parts = [
        _events(name, detections[name], ellipses[name], (sizes or {}).get(name, LARGEST_IMAGE))
        for name in ellipses
        if name in detections
    ]
    events = np.concatenate([np.zeros((0, 3)), *parts])
    scores, matched, overlap = events.T
    num_gt = sum(len(rows) for rows in ellipses.values())
    # The official program counts false positives once, by the discontinuous rule, for both curves.
    discrete = curve_from_counts(scores, matched, 1 - matched, num_gt)
    continuous = curve_from_counts(scores, overlap, 1 - matched, num_gt)
    return FddbCurves(discrete, continuous, len(ellipses))


def pair_image(
    detections: object, ellipses: np.ndarray, size: tuple[int, int] = LARGEST_IMAGE
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of one image when all its detections compete: owner (G,) int64, iou (G,) float64.

    owner: for each ellipse the row of its detection as given, -1 without one; iou: their overlap, 0
    without one. For looking at an image's hits and misses, and for fitting a box mapping.
    """
    regions, scores = as_regions("this image", detections)
    order = np.argsort(-scores, kind="stable")
    overlap = _overlap_with(regions[order], ellipses, size)
    if len(overlap) == 0:
        return np.full(len(ellipses), -1), np.zeros(len(ellipses))
    owner = best_assignments(overlap)[-1]
    iou = np.where(owner >= 0, overlap[owner, np.arange(len(owner))], 0.0)
    return np.where(iou > 0, order[owner], -1), iou


def as_regions(name: str, detections: object) -> tuple[np.ndarray, np.ndarray]:
    """Detections of an image in any form `evaluate_fddb` takes, as (regions, scores): regions (N, 4)
    x y width height or (N, 5) major minor angle cx cy, float64; scores (N,) float64."""
    if hasattr(detections, "boxes"):
        boxes = np.asarray(detections.boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(detections.scores, np.float64)
        if scores.shape != (len(boxes),):
            raise ValueError(f"{name}: {len(boxes)} boxes with scores of shape {scores.shape}")
        rows = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores])
    else:
        rows = np.asarray(detections, np.float64)
        rows = rows.reshape(0, 5) if rows.size == 0 else rows
    if rows.ndim != 2 or rows.shape[1] not in (5, 6):
        raise ValueError(
            f"{name}: detections must be (N, 5) x y width height score or (N, 6) major minor angle cx cy "
            f"score, got shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: detection {int(np.argwhere(~np.isfinite(rows))[0, 0])} is not finite")
    return rows[:, :-1], rows[:, -1]


def region_spans(regions: np.ndarray, size: tuple[int, int]) -> Spans:
    """What the evaluator paints for regions (N, 4) x y width height or (N, 5) major minor angle cx cy."""
    return rectangle_spans(regions, size) if regions.shape[1] == 4 else ellipse_spans(regions, size)


def _overlap_with(regions: np.ndarray, ellipses: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return overlaps(region_spans(regions, size), ellipse_spans(ellipses, size))  # (N, G)


def _events(name: str, detections: object, ellipses: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What each detection of an image changes when it joins those above it: (N, 3) score, change in the
    number of pairs above 0.5, change in the sum of overlaps."""
    regions, scores = as_regions(name, detections)
    ellipses = np.asarray(ellipses, np.float64)
    if ellipses.ndim != 2 or ellipses.shape[1] != 5 or not np.isfinite(ellipses).all():
        raise ValueError(f"{name}: ellipses must be (G, 5) finite numbers, got shape {ellipses.shape}")
    order = np.argsort(-scores, kind="stable")
    overlap = _overlap_with(regions[order], ellipses, size)  # (N, G)
    owner = best_assignments(overlap)
    paired = np.where(owner >= 0, overlap[owner, np.arange(overlap.shape[1])], 0.0)
    totals = np.column_stack([(paired > MATCH_IOU).sum(axis=1), paired.sum(axis=1)])
    return np.column_stack([scores[order], np.diff(totals, axis=0, prepend=np.zeros((1, 2)))])
