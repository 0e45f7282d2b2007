"""WIDER FACE: the reader of its annotation text, and the rule that makes a training target of a record.

    0--Parade/0_Parade_marchingband_1_849.jpg     image, relative to the image folder
    1                                             number of faces
    449 330 122 149 0 0 0 0 0 0                   x y w h  blur expression illumination invalid occlusion pose

Boxes become x1, y1, x2, y2 = x, y, x + w, y + h in continuous coordinates, floats allowed. A file of your
own may stop after h; its attributes are then 0. The known quirk, a row of zeros after "0 faces", is read
as no faces.

Letters: G faces of a record, M ignore regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minidetect.data.records import CountedRecord, OnProblem, read_counted, tell
from minidetect.detection.structures import Target

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")


@dataclass(frozen=True)
class WiderRecord:
    """One photo and its faces.

    path: where the image should be; name: as the annotation writes it.
    boxes: (G, 4) float32, x1 y1 x2 y2 as annotated, not clipped to the image.
    blur (0 clear, 1 normal, 2 heavy), expression (0 typical, 1 exaggerated), illumination (0 normal,
    1 extreme), invalid (0, 1), occlusion (0 none, 1 partial, 2 heavy), pose (0 typical, 1 atypical):
    (G,) int64 each.
    """

    path: Path
    name: str
    boxes: np.ndarray
    blur: np.ndarray
    expression: np.ndarray
    illumination: np.ndarray
    invalid: np.ndarray
    occlusion: np.ndarray
    pose: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def read_wider(
    annotation_file: str | Path,
    image_root: str | Path,
    on_problem: OnProblem = "warn",
    check_images: bool = False,
) -> list[WiderRecord]:
    """Every record of a WIDER FACE annotation text, in its order; photos without faces included.

    on_problem: what happens with a box that cannot be used (NaN or infinite, zero or negative size,
        wholly left of or above the image). It is always left out; "warn" gives one warning for the file,
        "raise" makes the first one a ValueError, a function is called with a message for each, which
        begins with file:line.
    check_images: also look whether each image exists; a record without its image is such a problem too,
        and is left out.

    Raises FileNotFoundError without the annotation file; ValueError with file, line and record where its
    structure is broken (a wrong count, something that is not a number, a record twice).
    """
    image_root = Path(image_root)
    records: list[WiderRecord] = []
    problems: list[str] = []
    for record in read_counted(annotation_file, columns=(4, 10), zero_row=True):
        path = image_root / record.name
        if check_images and not path.is_file():
            problems.append(f"{annotation_file}:{record.line}: record {record.name!r}: no image at {path}")
            continue
        records.append(_wider_record(record, path, annotation_file, problems))
    tell(on_problem, problems, "left out of the WIDER annotation")
    return records


def _wider_record(record: CountedRecord, path: Path, file: str | Path, problems: list[str]) -> WiderRecord:
    usable = np.ones(len(record.rows), bool)
    for i, row in enumerate(record.rows):
        reason = _why_unusable(row)
        if reason:
            usable[i] = False
            x, y, w, h = row[:4]
            where = f"{file}:{record.row_lines[i]}: record {record.name!r}"
            problems.append(f"{where}: box x={x:g} y={y:g} w={w:g} h={h:g} has {reason}")
    rows = record.rows[usable]
    xy, wh = rows[:, :2], rows[:, 2:4]
    boxes = np.concatenate([xy, xy + wh], axis=1).astype(np.float32)
    attributes = rows[:, 4:10] if rows.shape[1] == 10 else np.zeros((len(rows), 6))
    return WiderRecord(path, record.name, boxes, *attributes.T.astype(np.int64))


def _why_unusable(row: np.ndarray) -> str | None:
    x, y, w, h = row[:4]
    if not np.isfinite(row).all():
        return "a number that is not finite"
    if w <= 0 or h <= 0:
        return "no area"
    if x + w <= 0 or y + h <= 0:
        return "no part inside the image"
    return None


def to_target(
    record: WiderRecord,
    image_size: tuple[int, int],
    min_size: float = 20.0,
    min_blurred_size: float = 40.0,
    max_occlusion: int = 1,
) -> Target:
    """What a detector should learn from a record: faces as ground truth, the unclear ones as ignore regions.

    The boxes are clipped to the image; those with nothing inside are dropped. Of the rest, a face becomes
    an ignore region, where neither a positive nor a negative is sampled (FaceCraft, section 6.1), if
        its shorter side, after clipping, is below `min_size` pixels, or
        it is marked invalid, or
        it is heavily blurred (blur 2) and its shorter side is below `min_blurred_size`, or
        its occlusion is above `max_occlusion` (1: heavily occluded faces are ignored; 2: none are).

    image_size: (height, width) of the image as loaded.
    Returns Target with boxes (G, 4) float32, labels (G,) int64 all 1, ignore (M, 4) float32, no landmarks.
    """
    height, width = image_size
    limit = np.array([width, height, width, height], np.float32)
    boxes = np.clip(record.boxes, 0, limit).astype(np.float32)
    side = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    unclear = (
        (side < min_size)
        | (record.invalid == 1)
        | ((record.blur == 2) & (side < min_blurred_size))
        | (record.occlusion > max_occlusion)
    )
    inside = side > 0
    faces = boxes[inside & ~unclear]
    return Target(
        boxes=faces, labels=np.ones(len(faces), np.int64), ignore=boxes[inside & unclear], landmarks=None
    )
