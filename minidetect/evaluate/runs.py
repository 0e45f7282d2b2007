"""Run a detector over a benchmark's photos: FDDB for reporting, WIDER FACE for choosing settings.

A model is an `AnyFinder`, which has `detect_with_report(image, min_face, min_score)`.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minidetect.data.fddb import read_detections, read_ellipses, read_folds
from minidetect.data.images import load_image
from minidetect.data.wider_face import WiderRecord, read_wider, to_target
from minidetect.data.wider_ground_truth import WiderTruth, read_wider_truth, with_settings
from minidetect.detection.structures import Detections
from minidetect.evaluate.average_precision import Curve, evaluate_detections
from minidetect.evaluate.fddb import FddbCurves, evaluate_fddb
from minidetect.evaluate.fddb_mapping import WIDER_TO_FDDB
from minidetect.evaluate.wider import evaluate_wider, wider_truth_folder
from minidetect.models.anchor_detector import FaceFinder
from minidetect.models.cascade_pipeline import Pipeline, StageReport

AnyFinder = Pipeline | FaceFinder
ALL_IMAGES = 2845  # of FDDB; "recall at 1000 false positives" is a rate of 1000 on these
LOW_SCORE = 0.02  # detections below are not needed to reach the false positives that are reported


class FddbResult(NamedTuple):
    """curves: both ROC curves; detections: by image name; stages: what each stage did, summed over images."""

    curves: FddbCurves
    detections: dict[str, Detections]
    stages: list[StageReport]


class WiderResult(NamedTuple):
    """curve: over the faces that count here; settings: the official "easy", "medium" and "hard", or nothing;
    detections: by image name; stages: what each stage did, summed over images."""

    curve: Curve
    settings: dict[str, Curve]
    detections: dict[str, Detections]
    stages: list[StageReport]


def sum_reports(reports: Sequence[Sequence[StageReport]]) -> list[StageReport]:
    """Boxes and seconds of each stage, added up over images."""
    return [
        StageReport(rows[0].stage, *(sum(row[i] for row in rows) for i in (1, 2, 3)))
        for rows in zip(*reports, strict=True)
    ]


def check_has_faces(curve: Curve, source: Path) -> None:
    """Raise ValueError where there was nothing to find: every score would be 0 / 0."""
    if curve.num_gt == 0:
        raise ValueError(f"{source}: no face to find in it, so nothing can be measured")


def fddb_folder(data: Path) -> Path:
    """The folder that holds FDDB-folds/: `data` itself or `data/fddb`."""
    for folder in (data, data / "fddb"):
        if (folder / "FDDB-folds").is_dir():
            return folder
    raise FileNotFoundError(f"{data}: neither it nor its folder fddb holds FDDB-folds")


def run_fddb(model: AnyFinder, data: Path, min_face: float = 20.0) -> FddbResult:
    """Detect on every photo of the folds and compare with the ellipses, through WIDER_TO_FDDB."""
    detections, regions, ellipses, sizes, reports = {}, {}, {}, {}, []
    for record in tqdm(read_folds(fddb_folder(data)), desc="FDDB", mininterval=2):
        image = load_image(record.path)
        found, report = model.detect_with_report(image, min_face, LOW_SCORE)
        detections[record.name] = found
        regions[record.name] = WIDER_TO_FDDB.apply(found.boxes, found.scores)
        ellipses[record.name], sizes[record.name] = record.ellipses, image.shape[:2]
        reports.append(report)
    curves = evaluate_fddb(regions, ellipses, sizes)
    check_has_faces(curves.discrete, data)
    return FddbResult(curves, detections, sum_reports(reports))


def evaluate_detection_file(file: Path, data: Path) -> FddbCurves:
    """Both curves of detections in FDDB's text format, taken as they are.

    data: a folder with FDDB-folds/, or an ellipse list itself. Every image of it counts; of the detections,
        those on other images (a file for all ten folds has them) do not.
    Raises ValueError where no image is in both.
    """
    detections = read_detections(file)
    if data.is_file():
        ellipses, sizes = read_ellipses(data), None
    else:
        records = read_folds(fddb_folder(data))
        ellipses = {record.name: record.ellipses for record in records}
        sizes = {record.name: load_image(record.path).shape[:2] for record in records}
    known = {name: found for name, found in detections.items() if name in ellipses}
    if not known:
        raise ValueError(f"{file}: none of its {len(detections)} images is among the {len(ellipses)} of {data}")
    curves = evaluate_fddb(known, ellipses, sizes)
    check_has_faces(curves.discrete, data)
    return curves


def summarise_fddb(curves: FddbCurves) -> dict[str, float]:
    """Recall at 10, 100 and 1000 false positives and at the rate of 1000 on all of FDDB; highest continuous score."""
    rate = int(np.floor(1000 * curves.num_images / ALL_IMAGES + 0.5))
    counts = sorted({10, 100, rate, 1000})
    summary = {f"recall_at_{n}_fp": round(curves.discrete.recall_at(n), 4) for n in counts}
    best = curves.continuous.recall
    return {"images": curves.num_images, **summary, "continuous_max": round(float(best.max()) if len(best) else 0.0, 4)}


def at_threshold(curve: Curve, threshold: float) -> dict[str, float]:
    """Precision and recall of what scores at least `threshold`: what a user of the defaults sees."""
    shown = int((curve.scores >= threshold).sum())
    precision, recall = (curve.precision[shown - 1], curve.recall[shown - 1]) if shown else (1.0, 0.0)
    return {"threshold": threshold, "precision": round(float(precision), 4), "recall": round(float(recall), 4)}


def run_wider(
    model: AnyFinder, data: Path, split: str = "val", min_face: float = 20.0, iou: float = 0.5
) -> WiderResult:
    """Detect on WIDER FACE photos; faces under `min_face` pixels and unclear ones neither help nor hurt.

    Where DATA has the official lists, which are of the published validation set, the photos' faces also count as easy,
    medium and hard, of every size. A cascade does not look for faces under `min_face`, and misses those; a single-shot
    detector is asked for all, and its smaller boxes are left out of `curve` alone.
    """
    file = data / "wider" / f"wider_{split}_bbx_gt.txt"
    records = read_wider(file, data / "wider" / split, check_images=True)
    truth = official_truth(records, data)  # before the long part: a list that does not fit is found at once
    detections, targets, reports = [], [], []
    asked = min_face if isinstance(model, Pipeline) else 0.0
    for record in tqdm(records, desc=split, mininterval=2):
        image = load_image(record.path)
        found, report = model.detect_with_report(image, asked, LOW_SCORE)
        detections.append(found)
        targets.append(to_target(record, image.shape[:2], min_face))
        reports.append(report)
    curve = evaluate_detections([from_size(found, min_face) for found in detections], targets, iou)
    check_has_faces(curve, file)
    by_name = {record.name: found for record, found in zip(records, detections, strict=True)}
    settings = {} if truth is None else evaluate_wider(by_name, truth)
    return WiderResult(curve, settings, by_name, sum_reports(reports))


def official_truth(records: Sequence[WiderRecord], data: Path) -> list[WiderTruth] | None:
    """WIDER FACE's own lists for these photos; None without them, or (with a warning) without SciPy to read them."""
    try:
        folder = wider_truth_folder(data)
    except FileNotFoundError:
        return None
    if importlib.util.find_spec("scipy") is None:
        warnings.warn(f'{folder}: easy, medium and hard need SciPy: pip install -e ".[wider]"', stacklevel=2)
        return None
    return with_settings(records, read_wider_truth(folder))


def from_size(found: Detections, min_face: float) -> Detections:
    """Those whose longer side has at least `min_face` pixels."""
    keep = (found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=0) >= min_face
    return Detections(*(None if part is None else part[keep] for part in found))
