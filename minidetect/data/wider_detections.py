"""Detections in WIDER FACE's text format: a folder an event, a text a photo.

    FOLDER/0--Parade/0_Parade_marchingband_1_849.txt
        0--Parade/0_Parade_marchingband_1_849       the photo
        1                                           how many
        449 330 122 149 0.9876                      x y w h score, in pixels of the photo

The official tool goes by the file's path and never reads the first line, so programs write different things there:
with or without the event, with or without ".jpg". Here it must name the same photo, in any of these ways.

Names are "EVENT/IMAGE" without ending (`minidetect.data.wider_ground_truth.image_key`).

Letters: N detections of a photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minidetect.data.records import read_counted
from minidetect.data.wider_ground_truth import by_image_key, image_key
from minidetect.detection.structures import Detections, make_detections
from minidetect.nn.checkpoint import write_atomically


def write_wider_detections(folder: str | Path, detections: Mapping[str, Detections]) -> None:
    """Write a text for each photo, one without detections too; `read_wider_detections` gives them back.

    folder: is made where it is missing; texts of other photos in it are left alone.
    detections: "EVENT/IMAGE" with or without ending -> what was found, x1 y1 x2 y2 in pixels of the photo. Labels and
        landmarks have no place in the format.

    Scores come back bit for bit, corners to the millionth of a pixel. Every file is written whole or not at all.
    Raises ValueError that names the photo, before anything is written: a name of another form or twice, shapes that
    do not fit, numbers that are not finite, a box turned inside out. OSError where a file cannot be written.
    """
    texts: dict[str, str] = {}
    for key, found in by_image_key(detections).items():
        texts[key] = "".join(f"{line}\n" for line in [key, len(found.boxes), *_rows(key, found)])
    for key, text in texts.items():
        write_atomically(Path(folder) / f"{key}.txt", lambda file, text=text: file.write(text.encode("utf-8")))


def _rows(name: str, found: Detections) -> list[str]:
    boxes, scores = np.asarray(found.boxes, np.float64), np.asarray(found.scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise ValueError(
            f"image {name!r}: boxes must be (N, 4) and scores (N,), got {boxes.shape} and {scores.shape}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise ValueError(f"image {name!r}: a box turned inside out, or a number that is not finite")
    x1, y1, x2, y2 = boxes.T
    columns = zip(x1, y1, x2 - x1, y2 - y1, scores, strict=True)
    # str of a NumPy number: the fewest digits that give it back; so different scores stay different
    return [f"{x:.12g} {y:.12g} {w:.12g} {h:.12g} {score!s}" for x, y, w, h, score in columns]


def read_wider_detections(folder: str | Path) -> dict[str, Detections]:
    """Every text EVENT/IMAGE.txt in a folder: "EVENT/IMAGE" -> detections, by falling score whatever order they had.

    Numbers become float32: scores that differ only beyond the seventh digit become equal.
    Raises FileNotFoundError where the folder has no such text; ValueError with file and line: a wrong count, a row
    that is not five numbers, one that is not finite, a negative size, no photo or several, another photo than the
    file's name says, a photo with two files (a.txt and a.jpg.txt).
    """
    files: dict[str, Path] = {}
    for file in sorted(Path(folder).glob("*/*.txt")):
        key = image_key(f"{file.parent.name}/{file.stem}")
        if key in files:
            raise ValueError(f"{file}: the detections of {key!r} are also in {files[key].name}")
        files[key] = file
    if not files:
        raise FileNotFoundError(f"{folder}: no EVENT/IMAGE.txt in it")
    return {key: _read_text(file, key) for key, file in files.items()}


def _read_text(file: Path, key: str) -> Detections:
    records = read_counted(file, columns=(5,))
    if not records:
        raise ValueError(f"{file}:1: empty; a photo without detections has its name and the count 0")
    if len(records) > 1:
        raise ValueError(f"{file}:{records[1].line}: a second photo {records[1].name!r}; a text is of one photo")
    record = records[0]
    event, _, image = key.partition("/")
    stated = record.name.replace("\\", "/").rpartition("/")[2]
    if image_key(f"{event}/{stated}") != key:
        raise ValueError(f"{file}:{record.line}: is of {record.name!r}, but its file is named for {image!r}")
    good = np.isfinite(record.rows).all(axis=1) & (record.rows[:, 2:4] >= 0).all(axis=1)
    if not good.all():
        i = int(np.argmin(good))
        numbers = " ".join(f"{value:g}" for value in record.rows[i])
        raise ValueError(
            f"{file}:{record.row_lines[i]}: expected finite x y w h score with no negative size, got {numbers}"
        )
    xy, wh, scores = record.rows[:, :2], record.rows[:, 2:4], record.rows[:, 4]
    return make_detections(np.concatenate([xy, xy + wh], axis=1), scores)
