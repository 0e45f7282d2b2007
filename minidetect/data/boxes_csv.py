"""A table of boxes, one row an object: the simplest format there is.

    image,w,h,class,xmin,ymin,xmax,ymax
    train/apple_1.jpg,349,349,apple,8.0,15.0,331.0,349.0

Coordinates are edges in pixels, counted from 0. Other columns are passed over. An image without objects has no row, and
so is not in the dataset.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from minidetect.data.objects import Collector, ObjectDataset, label_of, whole_size
from minidetect.data.records import OnProblem, tell

COLUMNS = ("image", "w", "h", "class", "xmin", "ymin", "xmax", "ymax")


def read_boxes_csv(
    file: str | Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    on_problem: OnProblem = "warn",
) -> ObjectDataset:
    """The images of a table, in the order in which they first occur; paths are relative to the table's folder.

    split: only images below the folder of this name; None: all. classes: names in the order of their labels; None:
    those of the whole table, sorted, so that every split has the same. on_problem: see `minidetect.data.records.tell`.

    Raises FileNotFoundError without the file; ValueError naming file and line for a missing column, something that is
    not a number, an image whose size changes, a class that is not in `classes`.
    """
    file = Path(file)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise ValueError(f"{file}:1: the header lacks the columns {', '.join(missing)}")
        rows = [(f"{file}:{reader.line_num}", row) for row in reader]
    for where, row in rows:
        if empty := [column for column in COLUMNS if not (row[column] or "").strip()]:
            raise ValueError(f"{where}: nothing in the columns {', '.join(empty)}")
    if classes is None:
        classes = sorted({row["class"] for _, row in rows})
    problems: list[str] = []
    found: dict[str, Collector] = {}
    for where, row in rows:
        name = row["image"]
        if split is not None and Path(name).parts[0] != split:
            continue
        size = whole_size(number(row, "h", where), number(row, "w", where), where)
        image = found.setdefault(name, Collector(file.parent / name, size, str(file), problems))
        if image.size != size:
            raise ValueError(f"{where}: {name} has (height, width) {size} here, and {image.size} in an earlier row")
        box = [number(row, column, where) for column in COLUMNS[4:]]
        image.add(box, label_of(row["class"], classes, where), name=f"{where.rpartition(':')[2]}: {name}")
    tell(on_problem, problems, "left out of the table of boxes")
    return ObjectDataset([image.record() for image in found.values()], tuple(classes))


def number(row: dict[str, str | None], column: str, where: str) -> float:
    try:
        return float(row[column] or "")
    except ValueError:
        raise ValueError(f"{where}: column {column} must be a number, found {row[column]!r}") from None
