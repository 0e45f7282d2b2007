"""WIDER FACE's official ground truth: which faces of a photo count as easy, medium and hard.

The official evaluation comes with four MATLAB files. Of each, three cell arrays are read, one cell an event:
    event_list       "0--Parade"
    file_list        the photos of the event, without ending: "0_Parade_marchingband_1_849"
    wider_face_val.mat: face_bbx_list      x y w h of all faces of a photo, in pixels of the photo as published
    wider_{easy,medium,hard}_val.mat: gt_list    the faces that count in this setting, as rows of it counted from 1

Every row of `face_bbx_list` is kept, since the indices count them. Eleven have no area: four are the zeros that stand
for "no face here"; of the other seven one, of width -2, counts as hard although nothing can find it.

`read_wider_truth` needs scipy, an optional extra; nothing else here does.

Letters: G rows (annotated faces) of a photo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from minidetect.data.wider_face import WiderRecord
from minidetect.data.yolo import ENDINGS

T = TypeVar("T")
SETTINGS = ("easy", "medium", "hard")
TOLERANCE = 1.5  # pixels between a face of your copy and the official one: annotations of a copy are rounded


class WiderTruth(NamedTuple):
    """The official annotation of one photo.

    name: "EVENT/IMAGE" without ending.
    boxes: (G, 4) float32, x1 y1 x2 y2 = x, y, x + w, y + h.
    counted: setting -> (G,) bool, the faces to be found in it. A detection of another face is left out of the count.
    pixel: what a pixel of the published photo measures in the units of `boxes`: 1, or 1 / 1.6 for a photo of 1024
        pixels at 640. The evaluation has a "+ 1" that means such a pixel.
    """

    name: str
    boxes: np.ndarray
    counted: dict[str, np.ndarray]
    pixel: float = 1.0


def image_key(name: str) -> str:
    """The name of a photo as WIDER's lists and texts have it: "EVENT/IMAGE", without the ending of an image file.

    Raises ValueError for a name of any other form.
    """
    path, dot, ending = name.rpartition(".")
    key = path if f"{dot}{ending}".lower() in ENDINGS else name
    parts = key.split("/")
    if len(parts) != 2 or any(part.strip() in ("", ".", "..") for part in parts) or set(key) & set("\\\n\r\0"):
        raise ValueError(f"image {name!r}: its name must be EVENT/IMAGE, such as '0--Parade/0_Parade_Parade_0_472'")
    return key


def by_image_key(of_photos: Mapping[str, T]) -> dict[str, T]:
    """The same with `image_key` of the names. Raises ValueError where two names mean one photo."""
    found: dict[str, T] = {}
    for name, value in of_photos.items():
        key = image_key(name)
        if key in found:
            raise ValueError(f"image {name!r}: the photo {key!r} is there twice, under names that differ in the ending")
        found[key] = value
    return found


# ------------------------------------------------------------------------------------------ reading


def read_wider_truth(folder: str | Path) -> list[WiderTruth]:
    """Every photo of the official lists, in their order, at the resolution of the published photos.

    folder: holds wider_face_val.mat, wider_easy_val.mat, wider_medium_val.mat and wider_hard_val.mat.

    Raises ImportError that says how to install scipy where it is missing; FileNotFoundError; ValueError that names the
    file, and the photo, for a file that is not MATLAB's, a variable that is missing or of another form, lists of
    different photos, an index without a face, a face or photo listed twice.
    """
    file = Path(folder) / "wider_face_val.mat"
    names, rows = _read_lists(file, "face_bbx_list")
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{file}: the photo {twice!r} is listed twice")
    boxes = [_boxes(value, f"{file}: {name}") for name, value in zip(names, rows, strict=True)]
    masks = {}
    for setting in SETTINGS:
        setting_file = Path(folder) / f"wider_{setting}_val.mat"
        listed, lists = _read_lists(setting_file, "gt_list")
        if listed != names:
            raise ValueError(f"{setting_file}: its photos, or their order, are not those of {file.name}")
        masks[setting] = [
            _mask(value, len(faces), f"{setting_file}: {name}")
            for name, value, faces in zip(names, lists, boxes, strict=True)
        ]
    return [WiderTruth(name, boxes[i], {s: masks[s][i] for s in SETTINGS}) for i, name in enumerate(names)]


def _read_lists(file: Path, variable: str) -> tuple[list[str], list[np.ndarray]]:
    """The photos of a file, "EVENT/IMAGE", and what `variable` holds for each of them."""
    content = _load(file, ("event_list", "file_list", variable))
    events, photos, values = (_cells(content[key], f"{file}: {key}") for key in content)
    if not len(events) == len(photos) == len(values):
        raise ValueError(f"{file}: {len(events)} events, photos of {len(photos)}, {variable} of {len(values)}")
    names: list[str] = []
    collected: list[np.ndarray] = []
    for event, of_event, values_of_event in zip(events, photos, values, strict=True):
        event = _text(event, f"{file}: event_list")
        images = _cells(of_event, f"{file}: file_list of {event}")
        items = _cells(values_of_event, f"{file}: {variable} of {event}")
        if len(images) != len(items):
            raise ValueError(f"{file}: {event} has {len(images)} photos, but {variable} of {len(items)}")
        try:
            names += [image_key(f"{event}/{_text(image, f'file_list of {event}')}") for image in images]
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        collected += items
    return names, collected


def _load(file: Path, variables: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(
            f"{file}: reading MATLAB's files needs scipy, which is not installed: "
            'pip install scipy, or pip install -e ".[wider]"'
        ) from None
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        content = loadmat(file, variable_names=variables)
    except Exception as error:  # scipy says nowhere what it raises for a damaged file; zlib.error is among it
        raise ValueError(f"{file}: not a readable MATLAB file ({error or type(error).__name__})") from None
    if missing := [name for name in variables if name not in content]:
        raise ValueError(f"{file}: lacks {', '.join(missing)}, which the official file has")
    return {name: content[name] for name in variables}


def _cells(value: np.ndarray, where: str) -> list[np.ndarray]:
    if value.dtype != object and value.size:
        raise ValueError(f"{where}: must be a cell array, got {value.dtype} of shape {value.shape}")
    return list(value.ravel())


def _text(value: np.ndarray, where: str) -> str:
    if value.dtype.kind != "U" or value.size != 1:
        raise ValueError(f"{where}: every cell must be one text, got {value.dtype} of shape {value.shape}")
    return str(value.item())


def _boxes(value: np.ndarray, where: str) -> np.ndarray:
    """Rows x y w h as (G, 4) float32 x1 y1 x2 y2; an empty array of any shape is no rows."""
    if value.size == 0:
        return np.zeros((0, 4), np.float32)
    if value.dtype.kind not in "iuf" or value.ndim != 2 or value.shape[1] != 4 or not np.isfinite(value).all():
        raise ValueError(f"{where}: faces must be (G, 4) finite x y w h, got {value.dtype} of shape {value.shape}")
    rows = value.astype(np.float64)
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1).astype(np.float32)


def _mask(value: np.ndarray, count: int, where: str) -> np.ndarray:
    """Indices from 1, a row or a column of them, as (count,) bool."""
    mask = np.zeros(count, bool)
    if value.size == 0:
        return mask
    if value.dtype.kind not in "iuf" or not np.array_equal(value, np.floor(value)):
        raise ValueError(f"{where}: indices must be whole numbers, got {value.dtype} of shape {value.shape}")
    indices = value.ravel().astype(np.int64)  # they come as uint8
    if indices.min() < 1 or indices.max() > count:
        wrong = indices[(indices < 1) | (indices > count)][0]
        raise ValueError(f"{where}: index {wrong} of a face, but it has faces 1 to {count}")
    mask[indices - 1] = True
    if mask.sum() != len(indices):
        raise ValueError(f"{where}: {len(indices)} indices name only {mask.sum()} faces")
    return mask


# ------------------------------------------------------------------------------------------ your copy of the photos


def with_settings(records: Sequence[WiderRecord], truth: Sequence[WiderTruth]) -> list[WiderTruth]:
    """The official annotation of your copy of some photos, which may have been resized: boxes in its pixels.

    records: of `read_wider`, on the copy; names as in the lists, whatever their ending.
    truth: of `read_wider_truth`.

    The faces of a record tell how much smaller its photo is: one factor a photo, fitted to all coordinates. With it
    all official faces are scaled, those too that `read_wider` leaves out because they have no area, so that the
    numbers of faces stay the official ones. A photo without faces has no factor; it keeps 1.

    Returns one WiderTruth a record, in their order. Raises ValueError naming the record: not in the lists, another
    number of faces, faces that are further than `TOLERANCE` from where that factor puts them.
    """
    by_name = {image.name: image for image in truth}
    result = []
    for record in records:
        official = by_name.get(image_key(record.name))
        if official is None:
            raise ValueError(f"record {record.name!r}: not among the {len(by_name)} photos of the official lists")
        factor = _factor(record, official.boxes.astype(np.float64))
        boxes = (official.boxes / factor).astype(np.float32)
        result.append(official._replace(boxes=boxes, pixel=official.pixel / factor))
    return result


def _factor(record: WiderRecord, official: np.ndarray) -> float:
    """How many pixels of the official boxes (G, 4) are one of the record's."""
    official = official[(official[:, 2:] > official[:, :2]).all(axis=1)]
    boxes = record.boxes.astype(np.float64)
    if len(boxes) != len(official):
        raise ValueError(f"record {record.name!r}: {len(boxes)} faces, the official lists have {len(official)}")
    if len(boxes) == 0:
        return 1.0
    factor = float((official * boxes).sum() / (boxes**2).sum())  # least squares
    apart = np.abs(official - factor * boxes).max() / abs(factor)
    if factor <= 0 or apart > TOLERANCE:
        raise ValueError(
            f"record {record.name!r}: its faces are not the official ones, in the same order: "
            f"divided by {factor:.4g} they are up to {apart:.1f} pixels apart"
        )
    return factor
