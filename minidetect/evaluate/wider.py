"""WIDER FACE's easy, medium and hard, as its official MATLAB tool computes them.

Yang, Luo, Loy, Tang: WIDER FACE: A Face Detection Benchmark, 2016, and the evaluation code that came with it.

    faces       a setting counts some of a photo's faces; the others are there, but need not be found
    matching    a detection belongs to the face, counted or not, that it overlaps most (of equal overlaps the first),
                if that IoU reaches 0.5. Of a face that does not count: it is left out, and so are all others of it.
                Of a face that counts: the first by falling score finds it, the others are false positives.
    overlap     in whole pixels, both ends included: a box from x to x + w is w + 1 wide
    thresholds  the scores of the whole set are mapped to 0 ... 1 by their least and greatest, then cut at 0.999,
                0.998, ... 0: detections in the last bits below 1 cannot be told apart, and an outlier squeezes the
                others together. `thresholds=None` uses every score as a threshold instead; that curve depends on the
                order of the scores alone.
    AP          the area under the staircase of best precision at this recall or beyond (VOC from 2010). Above a
                threshold with left-out detections alone precision is 0 / 0; the tool's maximum skips it, here it is 0.

Where this module differs:
    equal scores   of all detections: the tool divides 0 by 0 and finds nothing; here all are mapped to 1
    below zero     where every score is negative, the tool takes 1e-38 for the greatest; here it is the greatest
    no row         the tool passes over a photo without rows of faces, and its false positives. Its own lists have no
                such photo, since those without a face have a row of zeros; so false positives count on all photos.
The order in which detections are given makes no difference (MATLAB's tool sorts; some of its translations do not).

Letters: N detections of a photo, G faces of it; T thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minidetect.data.wider_ground_truth import SETTINGS, WiderTruth, by_image_key
from minidetect.detection.structures import Detections
from minidetect.evaluate.average_precision import Curve, curve_from_counts
from minidetect.kernels.iou import as_boxes, iou_matrix


def evaluate_wider(
    detections: Mapping[str, Detections],
    truth: Sequence[WiderTruth],
    iou_threshold: float = 0.5,
    thresholds: int | None = 1000,
    plus_one: bool = True,
) -> dict[str, Curve]:
    """The Curve of each setting, "easy", "medium" and "hard", over the photos that `truth` names; `.ap` is the figure.

    detections: "EVENT/IMAGE" with or without ending -> what was found, in any order; a photo may be missing (nothing
        found, its faces are missed). Boxes in the pixels of `truth`.
    truth: of `read_wider_truth`, or `with_settings` for a resized copy; a part of it for a part of the photos.
    iou_threshold: in (0, 1]; an overlap equal to it is enough.
    thresholds: T of the curve; None: every score. A Curve's `scores` are in the detector's own scale. Without any
        detection it has no point, and AP is 0.
    plus_one: the tool's overlap in whole pixels, those of the published photo (`WiderTruth.pixel`); False: widths are
        x2 - x1, as everywhere else in this library.

    Raises ValueError that names the photo: detections without annotation or given twice, shapes that do not fit, a
    number that is not finite; and for an option out of range.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
    if thresholds is not None and thresholds < 1:
        raise ValueError(f"thresholds must be at least 1, or None for every score, got {thresholds}")
    _check_truth(truth)
    found = by_image_key(detections)
    unknown = found.keys() - {image.name for image in truth}
    if unknown:
        raise ValueError(f"{len(unknown)} images have detections but no annotation, one is {min(unknown)!r}")
    judged: dict[str, list[np.ndarray]] = {setting: [np.zeros((0, 3))] for setting in SETTINGS}
    for image in truth:
        if image.name in found:
            boxes, scores = _by_falling_score(image.name, found[image.name])
            face, overlap = most_overlapped(boxes, image.boxes, image.pixel if plus_one else 0.0)
            for setting in SETTINGS:
                hit, wrong = judge(face, overlap >= iou_threshold, image.counted[setting])
                judged[setting].append(np.column_stack([scores, hit, wrong]))
    curves = {}
    for setting in SETTINGS:
        num_faces = sum(int(image.counted[setting].sum()) for image in truth)
        curve = curve_from_counts(*np.concatenate(judged[setting]).T, num_faces)
        curves[setting] = curve if thresholds is None else cut_evenly(curve, thresholds)
    return curves


def most_overlapped(boxes: np.ndarray, faces: np.ndarray, pixel: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """For each of `boxes` (N, 4) the row of `faces` (G, 4) that it overlaps most, and that IoU: (N,) int64, float64.

    pixel: added to every width and height. Without faces the row is 0 and the IoU too.
    """
    if len(faces) == 0:
        return np.zeros(len(boxes), np.int64), np.zeros(len(boxes))
    wider = np.array([0, 0, pixel, pixel])
    overlaps = iou_matrix(boxes + wider, faces + wider)  # (N, G) float64
    return overlaps.argmax(axis=1), overlaps.max(axis=1)


def judge(face: np.ndarray, reaches: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the detections of a photo are in a setting: hit (N,) bool and wrong (N,) bool. Neither: left out.

    face: (N,), for each detection, by falling score, the row of its face, which it belongs to where `reaches`, (N,)
        bool, says so. counted: (G,) bool, the faces to be found.
    """
    claims = np.flatnonzero(reaches)
    is_counted = counted[face[claims]]
    left_out, claims = claims[~is_counted], claims[is_counted]
    _, first = np.unique(face[claims], return_index=True)  # the highest score on each face
    hit, wrong = np.zeros(len(face), bool), np.ones(len(face), bool)
    hit[claims[first]] = True
    wrong[claims[first]] = wrong[left_out] = False
    return hit, wrong


def cut_evenly(curve: Curve, count: int) -> Curve:
    """A curve at `count` thresholds only: 1 - 1 / count, 1 - 2 / count, ... 0, where its scores reach from 0 to 1.

    Without scores the curve is returned as it is; equal scores are all taken as 1.
    """
    if len(curve.scores) == 0:
        return curve
    low, span = curve.scores[-1], curve.scores[0] - curve.scores[-1]
    mapped = (curve.scores - low) / span if span > 0 else np.ones(len(curve.scores))
    cuts = 1 - np.arange(1, count + 1) / count
    last = np.searchsorted(-mapped, -cuts, side="right") - 1  # of those at or above the cut; the first always is
    return Curve(
        curve.recall[last], curve.precision[last], curve.false_positives[last], low + cuts * span, curve.num_gt
    )


def wider_truth_folder(data: str | Path) -> Path:
    """The folder of the official .mat files: `data` itself, `data/ground_truth` or `data/wider/ground_truth`."""
    data = Path(data)
    for folder in (data, data / "ground_truth", data / "wider" / "ground_truth"):
        if (folder / "wider_face_val.mat").is_file():
            return folder
    raise FileNotFoundError(f"{data}: no wider_face_val.mat in it, in ground_truth or in wider/ground_truth")


def summarise_wider(curves: Mapping[str, Curve]) -> dict[str, float]:
    """AP and number of faces of each setting, for printing: {"ap_easy": 0.9512, "faces_easy": 7211, ...}."""
    summary: dict[str, float] = {}
    for setting, curve in curves.items():
        summary |= {f"ap_{setting}": round(curve.ap, 4), f"faces_{setting}": curve.num_gt}
    return summary


# ------------------------------------------------------------------------------------------ checks


def _check_truth(truth: Sequence[WiderTruth]) -> None:
    names = [image.name for image in truth]
    if len(set(names)) < len(names):
        raise ValueError(f"truth has {len(names)} photos, but only {len(set(names))} names")
    for image in truth:
        count = len(as_boxes(image.boxes, f"{image.name}: boxes"))
        for setting in SETTINGS:
            shape = np.shape(image.counted.get(setting))
            if shape != (count,):
                raise ValueError(f"{image.name}: counted[{setting!r}] must be ({count},), one a face, got {shape}")


def _by_falling_score(name: str, found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """boxes (N, 4) and scores (N,), both float64."""
    boxes, scores = as_boxes(found.boxes, f"{name}: boxes").astype(np.float64), np.asarray(found.scores, np.float64)
    if scores.shape != (len(boxes),):
        raise ValueError(f"{name}: {len(boxes)} boxes with scores of shape {scores.shape}")
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"{name}: a number of its detections is not finite")
    order = np.argsort(-scores, kind="stable")
    return boxes[order], scores[order]
