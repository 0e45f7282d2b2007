"""Face crops with five landmarks: the reader of the CSV in `facepoint/` of the project's data folder.

    crop,source,size,xmin,ymin,xmax,ymax,leye_x,leye_y,reye_x,reye_y,nose_x,nose_y,lmouth_x,lmouth_y,...
    train/00000.jpg,...,112,27.85,28.15,83.85,84.15,43.69,40.75,71.25,45.45,55.41,60.10,39.87,68.02,...

All coordinates are pixels of the crop, counted from 0. The five points, in this order everywhere in the
library: left eye, right eye, nose, left mouth corner, right mouth corner, with "left" as the viewer sees
it (on an upright face the left eye has the smaller x).

A CSV of your own needs the columns named in `COLUMNS`; others are passed over.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidetect.data.records import OnProblem, tell

POINT_NAMES = ("leye", "reye", "nose", "lmouth", "rmouth")
BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
COLUMNS = ("crop", *BOX_COLUMNS, *(f"{point}_{axis}" for point in POINT_NAMES for axis in "xy"))


class LandmarkRecord(NamedTuple):
    """path: the crop's file; box: (4,) float32, x1 y1 x2 y2; points: (5, 2) float32, x and y."""

    path: Path
    box: np.ndarray
    points: np.ndarray


def read_landmarks_csv(
    csv_file: str | Path, root: str | Path, on_problem: OnProblem = "warn"
) -> list[LandmarkRecord]:
    """Every face of the CSV, in its order.

    root: the folder that the `crop` column is relative to.
    on_problem: a face whose box has no area, or whose numbers are not finite, is left out; "warn" gives
        one warning for the file, "raise" makes the first a ValueError, a function is called with a
        message for each, which begins with file:line.

    Raises FileNotFoundError without the file; ValueError naming file and line where a column is missing
    or a value is not a number.
    """
    root = Path(root)
    records: list[LandmarkRecord] = []
    problems: list[str] = []
    with Path(csv_file).open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{csv_file}:1: the header lacks the columns {', '.join(missing)}")
        for row in reader:
            where = f"{csv_file}:{reader.line_num}"
            numbers = _row_numbers(row, where)
            box, points = numbers[:4], numbers[4:].reshape(5, 2)
            if not np.isfinite(numbers).all():
                problems.append(f"{where}: {row['crop']}: a coordinate is not finite")
            elif not (box[2] > box[0] and box[3] > box[1]):
                problems.append(f"{where}: {row['crop']}: box {box.tolist()} has no area")
            else:
                records.append(LandmarkRecord(root / row["crop"], box, points))
    tell(on_problem, problems, "left out of the landmark list")
    return records


def _row_numbers(row: dict[str, str | None], where: str) -> np.ndarray:
    """(14,) float32: the box, then the five points."""
    values = []
    for column in COLUMNS[1:]:
        try:
            values.append(float(row[column] or ""))
        except ValueError:
            raise ValueError(f"{where}: column {column} must be a number, found {row[column]!r}") from None
    return np.array(values, np.float32)
