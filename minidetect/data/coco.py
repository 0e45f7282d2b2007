"""COCO's JSON: one file for all images, boxes as x, y, width, height from the corner of the first pixel (0, 0).

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, w, h], "area", "iscrowd"}]}

Categories may have any ids; labels here count from 1 in the order of the ids. A crowd (iscrowd 1) is ignored.

Left out: outlines and their run-length codes, keypoints, captions.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minidetect.data.objects import Collector, ObjectDataset, whole_size
from minidetect.data.records import OnProblem, tell
from minidetect.detection.structures import Detections
from minidetect.nn.checkpoint import write_atomically


def read_coco(file: str | Path, image_root: str | Path, on_problem: OnProblem = "warn") -> ObjectDataset:
    """Every image of a COCO file, in its order; images without objects included.

    image_root: the folder that `file_name` is relative to. on_problem: what happens with a box that cannot be used,
    see `minidetect.data.records.tell`.

    Raises FileNotFoundError without the file; ValueError naming file and entry for text that is not JSON, a missing
    field, an id that comes twice or that nothing has.
    """
    content = read_json(Path(file))
    images = by_id(content, "images", file)
    categories = by_id(content, "categories", file)
    labels = {id: label for label, id in enumerate(sorted(categories, key=lambda id: (str(type(id)), id)), start=1)}
    annotations = defaultdict(list)
    for item in by_id(content, "annotations", file).values():
        where = f"{file}: annotation {item['id']}"
        for key, known in (("image_id", images), ("category_id", categories)):
            if not is_id(field(item, key, where)) or item[key] not in known:
                raise ValueError(f"{where}: there is nothing with the {key} {item[key]!r}")
        annotations[item["image_id"]].append(item)

    problems: list[str] = []
    records = []
    for id, image in images.items():
        where = f"{file}: image {id}"
        size = whole_size(field(image, "height", where), field(image, "width", where), where)
        found = Collector(Path(image_root) / word(image, "file_name", where), size, where, problems)
        for item in annotations[id]:
            x, y, w, h = box_of(item, f"{file}: annotation {item['id']}")
            area, is_crowd = item.get("area"), bool(item.get("iscrowd", 0))
            if area is not None and not is_number(area):
                raise ValueError(f"{file}: annotation {item['id']}: area must be a number, found {area!r}")
            found.add((x, y, x + w, y + h), labels[item["category_id"]], is_crowd, area, f"annotation {item['id']}")
        records.append(found.record())
    tell(on_problem, problems, "left out of the COCO annotations")
    names = tuple(word(categories[id], "name", f"{file}: category {id}") for id in labels)
    return ObjectDataset(records, names)


def read_json(file: Path) -> Mapping:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # UnicodeDecodeError is one too
        raise ValueError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: COCO's annotations are an object with images, categories and annotations")
    return content


def by_id(content: Mapping, key: str, file: str | Path) -> dict:
    """A list of entries as id -> entry, in the list's order."""
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{file}: {key!r} must be a list of objects")
    found = {}
    for i, entry in enumerate(entries):
        id = field(entry, "id", f"{file}: entry {i} of {key}")
        if not is_id(id):
            raise ValueError(f"{file}: entry {i} of {key}: its id must be a number or a text, found {id!r}")
        if id in found:
            raise ValueError(f"{file}: two {key} have the id {id!r}")
        found[id] = entry
    return found


def field(entry: Mapping, key: str, where: str) -> object:
    if key not in entry:
        raise ValueError(f"{where}: has no {key!r}")
    return entry[key]


def word(entry: Mapping, key: str, where: str) -> str:
    value = field(entry, key, where)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {key} must be a text, found {value!r}")
    return value


def is_id(value: object) -> bool:
    return isinstance(value, (int, str))


def is_number(value: object) -> bool:
    """A number that a float can hold."""
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def box_of(item: Mapping, where: str) -> list[float]:
    box = field(item, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError(f"{where}: bbox must be four numbers x, y, width, height, found {box!r}")
    return box


def write_coco(dataset: ObjectDataset, file: str | Path, image_root: str | Path) -> None:
    """Write a dataset as COCO's JSON; ids count from 1, file names are relative to `image_root` where they can be."""
    images, annotations = [], []
    for id, record in enumerate(dataset.records, start=1):
        root = Path(image_root)
        path = record.path.relative_to(root) if record.path.is_relative_to(root) else record.path
        images.append({"id": id, "file_name": path.as_posix(), "height": record.size[0], "width": record.size[1]})
        for k in range(len(record)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": id,
                    "category_id": int(record.labels[k]),
                    "bbox": as_xywh(record.boxes[k]),
                    "area": float(record.areas[k]),
                    "iscrowd": int(record.ignored[k]),
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(dataset.classes, start=1)]
    write_json({"images": images, "annotations": annotations, "categories": categories}, file)


def write_coco_results(detections: Sequence[Detections], file: str | Path, image_ids: Sequence[int]) -> None:
    """Write detections, one list an image, as COCO's server and pycocotools read them; labels are categories."""
    rows = []
    for id, found in zip(image_ids, detections, strict=True):
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
            rows.append({"image_id": id, "category_id": int(label), "bbox": as_xywh(box), "score": float(score)})
    write_json(rows, file)


def as_xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def write_json(content: object, file: str | Path) -> None:
    text = json.dumps(content) + "\n"
    write_atomically(file, lambda stream: stream.write(text.encode()))
