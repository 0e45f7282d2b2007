"""FDDB's texts: ellipse annotations, folds, and the format its evaluator takes detections in.

    ellipses                                             detections
    2002/08/11/big/img_591          image, no extension  2002/08/11/big/img_591
    1                               how many             1
    123.58 85.54 1.2658 269.69 161.78  1                 192 75 151 195 0.999680
    major minor angle cx cy 1                            x y width height score

An ellipse has its half axes (major, minor) and its centre (cx, cy) in pixels; `angle` is that of the
major axis to the x axis in radians (y points down).

FDDB is a test set here: nothing in the library trains on it or chooses a setting with it.

Letters: G ellipses, N detections of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.data.records import CountedRecord, OnProblem, read_counted, tell


class FddbRecord(NamedTuple):
    """name: as FDDB writes it; path: the image file; ellipses: (G, 5) float64, major minor angle cx cy."""

    name: str
    path: Path
    ellipses: np.ndarray


class FddbDetections(NamedTuple):
    """boxes: (N, 4) float64, x1 y1 x2 y2; scores: (N,) float64, as written (not sorted)."""

    boxes: np.ndarray
    scores: np.ndarray


def read_ellipses(file: str | Path) -> dict[str, np.ndarray]:
    """The annotation of each image, (G, 5) float64: major, minor, angle, cx, cy; images in file order.

    Raises FileNotFoundError, or ValueError with file, line and record: a wrong count, a number that is
    not finite, a half axis that is not positive.
    """
    ellipses = {}
    for record in read_counted(file, columns=(5, 6)):
        rows = record.rows[:, :5]
        _check_rows(file, record, (rows[:, :2] > 0).all(axis=1), "an ellipse needs two positive half axes")
        ellipses[record.name] = rows
    return ellipses


def read_folds(
    folder: str | Path,
    folds: Sequence[int] | None = None,
    image_root: str | Path | None = None,
    on_problem: OnProblem = "warn",
    check_images: bool = True,
) -> list[FddbRecord]:
    """The images of FDDB's folds with their ellipses, in the order of the lists.

    folder: has `FDDB-folds/FDDB-fold-01-ellipseList.txt` and so on.
    folds: numbers from 1 to 10; None: every fold whose list is there.
    image_root: folder that the names are relative to; None: `images` or `originalPics` inside `folder`.
    check_images: leave out a record without its image, and tell `on_problem` ("warn": one warning,
        "raise", or a function that is given each message).

    Raises FileNotFoundError where a fold's list is missing; ValueError as `read_ellipses` does.
    """
    folder = Path(folder)
    lists = _fold_lists(folder, folds)
    if image_root is None:
        image_root = folder / ("images" if (folder / "images").is_dir() else "originalPics")
    records: list[FddbRecord] = []
    problems: list[str] = []
    for file in lists:
        for name, ellipses in read_ellipses(file).items():
            path = Path(image_root) / f"{name}.jpg"
            if check_images and not path.is_file():
                problems.append(f"{file}: record {name!r}: no image at {path}")
            else:
                records.append(FddbRecord(name, path, ellipses))
    tell(on_problem, problems, "left out of FDDB")
    return records


def _fold_lists(folder: Path, folds: Sequence[int] | None) -> list[Path]:
    if folds is None:
        lists = sorted((folder / "FDDB-folds").glob("FDDB-fold-[0-9][0-9]-ellipseList.txt"))
        if not lists:
            raise FileNotFoundError(f"{folder}: no FDDB-folds/FDDB-fold-NN-ellipseList.txt in it")
        return lists
    lists = [folder / "FDDB-folds" / f"FDDB-fold-{fold:02d}-ellipseList.txt" for fold in folds]
    for file in lists:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such fold list")
    return lists


def read_detections(file: str | Path) -> dict[str, FddbDetections]:
    """A text of detections, as FDDB's evaluator takes it; images in file order, those without boxes too.

    Raises FileNotFoundError, or ValueError with file, line and record: a wrong count, a number that is
    not finite, a box without area.
    """
    detections = {}
    for record in read_counted(file, columns=(5,)):
        xy, wh, scores = record.rows[:, :2], record.rows[:, 2:4], record.rows[:, 4]
        _check_rows(file, record, (wh > 0).all(axis=1), "a detection needs a positive width and height")
        detections[record.name] = FddbDetections(np.concatenate([xy, xy + wh], axis=1), scores)
    return detections


def write_detections(
    file: str | Path,
    detections: Mapping[str, tuple[np.ndarray, np.ndarray]],
    names: Sequence[str] | None = None,
) -> None:
    """Write boxes and scores as FDDB's evaluator takes them; `read_detections` gives them back.

    detections: image name -> (boxes (N, 4) x1 y1 x2 y2, scores (N,)).
    names: the images to write and their order, which the official evaluator wants to be that of its fold
        lists; one without an entry in `detections` is written with 0 boxes. None: as `detections` has it.

    Raises ValueError for shapes that do not fit, numbers that are not finite, boxes without area, or an
    image that `names` lacks; nothing is written then.
    """
    names = list(detections) if names is None else list(names)
    unknown = set(detections) - set(names)
    if unknown:
        raise ValueError(f"detections of {len(unknown)} images that `names` lacks, one is {min(unknown)!r}")
    lines: list[str] = []
    for name in names:
        boxes, scores = detections.get(name, (np.zeros((0, 4)), np.zeros(0)))
        rows = _detection_rows(name, np.asarray(boxes, np.float64), np.asarray(scores, np.float64))
        lines += [name, str(len(rows)), *rows]
    Path(file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _detection_rows(name: str, boxes: np.ndarray, scores: np.ndarray) -> list[str]:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise ValueError(
            f"detections of {name!r}: boxes must be (N, 4) and scores (N,), "
            f"got {boxes.shape} and {scores.shape}"
        )
    x1, y1, x2, y2 = boxes.T
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and (x2 > x1).all() and (y2 > y1).all()):
        raise ValueError(f"detections of {name!r}: a box without area, or a number that is not finite")
    columns = zip(x1, y1, x2 - x1, y2 - y1, scores, strict=True)
    # 12 digits give back every float32 corner; a score keeps all its digits, since ties change the curve
    return [f"{x:.12g} {y:.12g} {w:.12g} {h:.12g} {float(score)!r}" for x, y, w, h, score in columns]


def _check_rows(file: str | Path, record: CountedRecord, good: np.ndarray, rule: str) -> None:
    """Raise for the first row that breaks `rule` (`good` is False), or has a number that is not finite."""
    good = good & np.isfinite(record.rows).all(axis=1)
    if not good.all():
        i = int(np.argmin(good))
        numbers = " ".join(f"{value:g}" for value in record.rows[i])
        raise ValueError(f"{file}:{record.row_lines[i]}: record {record.name!r}: {rule}, got {numbers}")
