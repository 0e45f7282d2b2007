"""Somebody's folder of pictures and boxes, in whichever of the usual formats it is.

    VOC     DIR/Annotations/*.xml, DIR/JPEGImages, DIR/ImageSets/Main/SPLIT.txt
    YOLO    DIR/images/SPLIT, DIR/labels/SPLIT, DIR/classes.txt
    COCO    DIR/annotations/instances_SPLIT.json (or DIR/SPLIT.json), pictures in DIR/SPLIT, DIR/images or DIR
    table   DIR/boxes.csv with pictures in DIR/SPLIT
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minidetect.data.boxes_csv import read_boxes_csv
from minidetect.data.coco import read_coco
from minidetect.data.objects import ObjectDataset
from minidetect.data.records import OnProblem
from minidetect.data.voc import read_voc
from minidetect.data.yolo import read_yolo


def read_objects(
    folder: str | Path, split: str, classes: Sequence[str] | None = None, on_problem: OnProblem = "warn"
) -> ObjectDataset:
    """One split of a folder, its format known by what lies in it.

    classes: names in the order of their labels, of a model that was trained before; None: the folder's own.

    Raises FileNotFoundError that lists the formats where none is recognised; ValueError as the format's reader does, or
    where the classes of a COCO file are others than those asked for.
    """
    folder = Path(folder)
    if (folder / "Annotations").is_dir():
        if classes is None:  # of all splits: a class may be missing from one of them
            classes = read_voc(folder, on_problem=lambda problem: None).classes
        return read_voc(folder, split, classes, on_problem=on_problem)
    if (folder / "labels").is_dir():
        return read_yolo(folder, split, classes, on_problem=on_problem)
    if (folder / "boxes.csv").is_file():
        return read_boxes_csv(folder / "boxes.csv", split, classes, on_problem=on_problem)
    for file in (folder / "annotations" / f"instances_{split}.json", folder / f"{split}.json"):
        if file.is_file():
            root = next((root for root in (folder / split, folder / "images") if root.is_dir()), folder)
            dataset = read_coco(file, root, on_problem=on_problem)
            if classes is not None and tuple(classes) != dataset.classes:
                raise ValueError(f"{file}: its classes are {dataset.classes}, the model's {tuple(classes)}")
            return dataset
    raise FileNotFoundError(
        f"{folder}: no annotations of the split {split!r} found: neither VOC's Annotations/, nor YOLO's labels/, nor "
        f"COCO's annotations/instances_{split}.json, nor boxes.csv"
    )
