"""How far predicted landmarks lie from the annotated ones, as a share of the size of the face.

The multi-output cascade, section 3.5, gives a mean error on AFLW but not what it divides by. So the normaliser is an
argument, `by`, and figures for different ones cannot be compared: on an upright face the sides of the box are about
twice the distance of the eyes, which halves the error.

    inter_ocular    the distance of the two eyes; small on a face in profile, where errors look large
    box             the square root of the box's area
    diagonal        the diagonal of the box

Three kinds of number for a point, or for a face (the mean over its annotated points):

    finite      its error
    infinite    the face was missed. A missed face has no error, so that it cannot enter a mean, a median or a
                percentile: these are about the faces found, and a detector that gives up hard faces improves them.
                It is a failure at every limit and lowers the cumulative curve, so that those show it. Read both.
    NaN         not annotated: counts nowhere

Five points, in the order of `POINT_NAMES`; "left" as the viewer sees it. Everything is computed in float64.
Left out: AFLW itself, which has to be asked for. `run_facepoint` measures on the crops of `data/landmarks.py`.

Letters: N faces, T thresholds; in one image G annotated faces, D detections.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from minidetect.data.images import load_image
from minidetect.data.landmarks import POINT_NAMES, LandmarkRecord, read_landmarks_csv
from minidetect.detection.boxes import area
from minidetect.detection.structures import Detections, Target, make_target
from minidetect.evaluate.runs import sum_reports
from minidetect.kernels.iou import as_boxes, iou_matrix
from minidetect.models.cascade_pipeline import Pipeline, StageReport

NORMALISERS = ("inter_ocular", "box", "diagonal")
FAILURE_LIMITS = (0.08, 0.10)


# ------------------------------------------------------------------ errors


def face_sizes(gt: np.ndarray, by: str = "inter_ocular", boxes: np.ndarray | None = None) -> np.ndarray:
    """What the errors of each face are divided by, in pixels: (N,) float64.

    gt: (N, 5, 2) annotated points; boxes: (N, 4), needed by "box" and "diagonal". A face without any annotated point
    needs no size.
    Raises ValueError for another `by`, for boxes that are missing or too few, and naming the face whose eye is not
    annotated, whose eyes are in one place, or whose box has no area (NaN stands for a missing box).
    """
    gt = as_points(gt, "gt")
    if by not in NORMALISERS:
        raise ValueError(f"by must be one of {', '.join(NORMALISERS)}, got {by!r}")
    if by == "inter_ocular":
        sizes = distance(gt[:, 0], gt[:, 1])
    else:
        if boxes is None:
            raise ValueError(f"by={by!r} needs boxes of shape ({len(gt)}, 4), one a face")
        boxes = as_boxes(np.asarray(boxes, np.float64))
        if len(boxes) != len(gt):
            raise ValueError(f"{len(gt)} faces need as many boxes, got {len(boxes)}")
        sizes = np.sqrt(area(boxes))
    bad = np.flatnonzero(~(sizes > 0) & is_annotated(gt).any(axis=1))
    if len(bad) and by == "inter_ocular":
        reason = "an eye is not annotated" if np.isnan(sizes[bad[0]]) else "both eyes are in the same place"
        raise ValueError(f"face {bad[0]} of {len(gt)} has no inter-ocular distance: {reason}")
    if len(bad):
        raise ValueError(f"face {bad[0]} of {len(gt)}: box {boxes[bad[0]].tolist()} has no area")
    return distance(boxes[:, :2], boxes[:, 2:]) if by == "diagonal" else sizes


def landmark_errors(
    pred: np.ndarray, gt: np.ndarray, by: str = "inter_ocular", boxes: np.ndarray | None = None
) -> np.ndarray:
    """The distance of each predicted point from its annotated one, divided by the face's size: (N, 5) float64.

    pred: (N, 5, 2); a face that is all NaN was missed, and its errors are infinite.
    gt: (N, 5, 2); a point with a NaN is not annotated, and its error is NaN, also on a missed face.
    by, boxes: as in `face_sizes`.
    Raises ValueError as `face_sizes` does, for other shapes, infinite coordinates, and a face of `pred` of which only
    some numbers are NaN: a face is found with all its points or not at all.
    """
    pred, gt = as_points(pred, "pred"), as_points(gt, "gt")
    if len(pred) != len(gt):
        raise ValueError(f"pred has {len(pred)} faces and gt {len(gt)}: one row a face in both")
    is_missed = np.isnan(pred).all(axis=(1, 2))
    partly = np.flatnonzero(np.isnan(pred).any(axis=(1, 2)) & ~is_missed)
    if len(partly):
        raise ValueError(f"face {partly[0]} of pred is NaN in part; a missed face is NaN in all five points")
    errors = distance(pred, gt) / face_sizes(gt, by, boxes)[:, None]
    errors[is_missed] = np.inf
    errors[~is_annotated(gt)] = np.nan
    return errors


def face_errors(errors: np.ndarray) -> np.ndarray:
    """The mean over the annotated points of each face: (N, 5) -> (N,); infinite: missed, NaN: none annotated."""
    counted = ~np.isnan(errors)
    total, count = np.where(counted, errors, 0.0).sum(axis=1), counted.sum(axis=1)
    return np.divide(total, count, out=np.full(len(errors), np.nan), where=count > 0)


def cumulative_curve(per_face: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of faces with an error of at most each threshold: (N,), (T,) -> (T,); NaN without faces.

    per_face: as `face_errors` gives them. A missed face (infinite) is never reached, whatever the threshold, so that
    the curve ends at 1 - the share of faces missed; a NaN is no face.
    """
    per_face, thresholds = np.asarray(per_face, np.float64), np.asarray(thresholds, np.float64)
    num_faces = np.count_nonzero(~np.isnan(per_face))
    reached = np.searchsorted(np.sort(per_face[np.isfinite(per_face)]), thresholds, side="right")
    return reached / num_faces if num_faces else np.full(thresholds.shape, np.nan)


def mean_error(errors: np.ndarray) -> float:
    """The mean of the errors that are there, neither missed nor unknown; NaN if none is."""
    known = errors[np.isfinite(errors)]
    return float(known.mean()) if len(known) else float("nan")


def percentile(errors: np.ndarray, share: float) -> float:
    """The error that this percentage of the faces found does not exceed (50: the median); NaN if none was."""
    known = errors[np.isfinite(errors)]
    return float(np.percentile(known, share)) if len(known) else float("nan")


class LandmarkErrors(NamedTuple):
    """Errors of a set of faces, and what is usually told of them; every figure is NaN where nothing defines it.

    errors: (N, 5) float64 of `landmark_errors`; by: what they were divided by.
    """

    errors: np.ndarray
    by: str

    @property
    def per_face(self) -> np.ndarray:
        """(N,): each face's mean over its points."""
        return face_errors(self.errors)

    @property
    def num_faces(self) -> int:
        """Faces with at least one annotated point, found or missed."""
        return int(np.count_nonzero(~np.isnan(self.per_face)))

    @property
    def num_missed(self) -> int:
        return int(np.count_nonzero(np.isinf(self.per_face)))

    @property
    def mean(self) -> float:
        """The normalised mean error (NME): over the points of a face, then over the faces found."""
        return mean_error(self.per_face)

    @property
    def per_point(self) -> np.ndarray:
        """(5,): the mean of each point over the faces found."""
        return np.array([mean_error(column) for column in self.errors.T])

    @property
    def median(self) -> float:
        """Of the errors of the faces found."""
        return percentile(self.per_face, 50)

    def failure_rate(self, limit: float = 0.08) -> float:
        """The share of all faces with an error above `limit`; a missed face is one of them."""
        known = self.per_face[~np.isnan(self.per_face)]
        return float((known > limit).mean()) if len(known) else float("nan")

    def area(self, limit: float = 0.08) -> float:
        """The area under the cumulative curve from 0 to `limit`, divided by `limit`: 1 if all errors are 0.

        A face of error e counts at all thresholds from e on, so that it adds limit - e; a missed one adds nothing.
        """
        known = self.per_face[~np.isnan(self.per_face)]
        return float(np.maximum(1 - known / limit, 0).mean()) if len(known) else float("nan")


def evaluate_landmarks(
    pred: np.ndarray, gt: np.ndarray, by: str = "inter_ocular", boxes: np.ndarray | None = None
) -> LandmarkErrors:
    """`landmark_errors` with its figures."""
    return LandmarkErrors(landmark_errors(pred, gt, by, boxes), by)


# ------------------------------------------------------------------ figures as text


def summarise_landmarks(result: LandmarkErrors) -> dict[str, int | float | str | None]:
    """The figures for a JSON file: shares, to five places; None where a figure is not defined."""
    figures = {"mean_error": result.mean, "median_error": result.median}
    figures |= {f"mean_error_{name}": float(e) for name, e in zip(POINT_NAMES, result.per_point, strict=True)}
    figures |= {f"failure_rate_{limit:.2f}": result.failure_rate(limit) for limit in FAILURE_LIMITS}
    figures["area_to_0.08"] = result.area()
    known = {name: None if np.isnan(value) else round(value, 5) for name, value in figures.items()}
    return {"faces": result.num_faces, "missed": result.num_missed, "normaliser": result.by, **known}


def landmark_table(result: LandmarkErrors) -> str:
    """A line a point, and "all" for the means over the points of a face; the last lines tell of missed faces too."""
    lines = [f"{'point':8} {'mean':>8} {'median':>8} {'90 %':>8}"]
    for name, errors in zip((*POINT_NAMES, "all"), (*result.errors.T, result.per_face), strict=True):
        cells = (mean_error(errors), percentile(errors, 50), percentile(errors, 90))
        lines.append(f"{name:8} " + " ".join(f"{as_percent(cell):>8}" for cell in cells))
    failures = ", ".join(f"above {t:.0%}: {as_percent(result.failure_rate(t))}" for t in FAILURE_LIMITS)
    lines.append(f"errors of the faces found, divided by {result.by}")
    lines.append(f"{result.num_faces} faces, {result.num_missed} of them missed; missed or {failures}")
    return "\n".join(lines)


def as_percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{share:.2%}"


# ------------------------------------------------------------------ a detector's points


def match_landmarks(detections: Detections, target: Target, min_iou: float = 0.3) -> np.ndarray:
    """The points that a detector gave to each annotated face of one image: (G, 5, 2) float64, NaN where missed.

    A detection belongs to the one face that it overlaps most, if their IoU is at least `min_iou`, and speaks for no
    other: beside a face that was missed, a neighbour's points are not taken for its own. Of several detections of a
    face the one with the highest score counts, as it would for a user, even if another has the better box. Faces
    that are not annotated, as a crop may have them, fall away with their low IoU. 0.3 is less than the usual 0.5:
    data sets differ in what they call the box of a face, and here the points are to be judged, not the boxes.

    detections: of faces, in any order (labels are not looked at); target: only its boxes are needed.
    Raises ValueError for detections without landmarks, or an IoU out of (0, 1].
    """
    if not 0 < min_iou <= 1:
        raise ValueError(f"min_iou must be in (0, 1], got {min_iou}")
    points = np.full((len(target.boxes), len(POINT_NAMES), 2), np.nan)
    if len(detections.boxes) == 0 or len(target.boxes) == 0:
        return points
    if detections.landmarks is None:
        raise ValueError("the detections have no landmarks: this model finds faces, but no points in them")
    landmarks = as_points(detections.landmarks, "landmarks")
    overlaps = iou_matrix(detections.boxes, target.boxes)  # (D, G)
    owner, belongs = overlaps.argmax(axis=1), overlaps.max(axis=1) >= min_iou
    for i in np.argsort(-detections.scores, kind="stable")[::-1]:  # the best one is written last
        if belongs[i]:
            points[owner[i]] = landmarks[i]
    return points


class FacepointResult(NamedTuple):
    """errors: of the N annotated faces; points: (N, 5, 2), what was found; stages: summed over the crops."""

    errors: LandmarkErrors
    points: np.ndarray
    stages: list[StageReport]


def read_facepoint(data: Path, split: str = "test") -> list[LandmarkRecord]:
    """The faces of `facepoint/SPLIT.csv` in `data`, or of `SPLIT.csv` in `data` itself.

    Raises FileNotFoundError without the file, ValueError where no face is in it.
    """
    folder = data if (data / f"{split}.csv").is_file() else data / "facepoint"
    file = folder / f"{split}.csv"
    if not file.is_file():
        raise FileNotFoundError(f"{data}: neither it nor its folder facepoint holds {split}.csv")
    records = read_landmarks_csv(file, folder)
    if not records:
        raise ValueError(f"{file}: no face in it, so nothing can be measured")
    return records


def run_facepoint(
    model: Pipeline, data: Path, split: str = "test", min_face: float = 24.0, min_score: float | None = None,
    by: str = "inter_ocular", min_iou: float = 0.3,
) -> FacepointResult:
    """Detect in every crop and measure the points of the annotated face: detector and landmarks together.

    model: anything with `detect_with_report(image, min_face, min_score)` whose detections have landmarks. min_face:
        in pixels; the faces of the project's test crops are 46 to 56 wide.
    min_score: what counts as found; None for the model's own threshold, as a user has it. by: see `face_sizes`.
    Raises as `read_facepoint` and `match_landmarks` do.
    """
    records = read_facepoint(data, split)
    points, reports = [], []
    for record in tqdm(records, desc=f"facepoint {split}", mininterval=2):
        found, report = model.detect_with_report(load_image(record.path), min_face, min_score)
        points.append(match_landmarks(found, make_target(record.box[None]), min_iou)[0])
        reports.append(report)
    pred, gt, boxes = np.stack(points), np.stack([r.points for r in records]), np.stack([r.box for r in records])
    return FacepointResult(evaluate_landmarks(pred, gt, by, boxes), pred, sum_reports(reports))


# ------------------------------------------------------------------ points


def as_points(points: np.ndarray, name: str) -> np.ndarray:
    """`points` as float64 (N, 5, 2); an empty list stands for no faces. ValueError for another shape, or infinity."""
    points = np.asarray(points, np.float64)
    if points.shape == (0,):
        points = points.reshape(0, len(POINT_NAMES), 2)
    if points.ndim != 3 or points.shape[1:] != (len(POINT_NAMES), 2):
        raise ValueError(f"{name} must have shape (N, {len(POINT_NAMES)}, 2) as x, y, got {points.shape}")
    infinite = np.flatnonzero(np.isinf(points).any(axis=(1, 2)))
    if len(infinite):
        raise ValueError(f"face {infinite[0]} of {name} has an infinite coordinate")
    return points


def is_annotated(points: np.ndarray) -> np.ndarray:
    """(N, 5, 2) -> (N, 5) bool: both coordinates are known."""
    return np.isfinite(points).all(axis=2)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., 2), (..., 2) -> (...): Euclidean."""
    return np.hypot(a[..., 0] - b[..., 0], a[..., 1] - b[..., 1])
