"""YOLO's text files: one beside each image's folder, a line an object, in shares of the image's size.

    DIR/images/train/a.jpg
    DIR/labels/train/a.txt      0 0.5 0.5 0.2 0.4       class (from 0), centre x, centre y, width, height
    DIR/classes.txt             one name a line (or data.yaml's `names`, given as an argument)

An image without a text file has no objects. An outline (a line of more than five numbers) is read as the box around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minidetect.data.images import image_size
from minidetect.data.objects import Collector, ObjectDataset
from minidetect.data.records import OnProblem, tell

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def read_yolo(
    folder: str | Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    on_problem: OnProblem = "warn",
) -> ObjectDataset:
    """Every image of DIR/images/SPLIT (or DIR/images) with the objects of DIR/labels/SPLIT.

    classes: names in the order of the numbers, which must be those of DIR/classes.txt if that exists; None: its lines.
    on_problem: what happens with a box that cannot be used, see `minidetect.data.records.tell`.

    Raises FileNotFoundError without the folder of images or the names; ValueError naming file and line for a line that
    is not a class and its box, or a class that has no name.
    """
    folder = Path(folder)
    images, labels = folder / "images" / (split or ""), folder / "labels" / (split or "")
    if not images.is_dir():
        raise FileNotFoundError(f"{images}: no such folder of images")
    own = read_names(folder / "classes.txt") if classes is None or (folder / "classes.txt").exists() else classes
    if classes is not None and list(own) != list(classes):
        raise ValueError(f"{folder / 'classes.txt'}: its classes are {', '.join(own)}, asked for {', '.join(classes)}")
    classes = own
    problems: list[str] = []
    records = []
    for path in sorted(file for file in images.rglob("*") if file.suffix.lower() in ENDINGS):
        file = (labels / path.relative_to(images)).with_suffix(".txt")
        size = image_size(path)
        found = Collector(path, size, str(file), problems)
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.exists() else []
        for i, line in enumerate(lines, start=1):
            if line.strip():
                kind, box = read_line(line, size, len(classes), f"{file}:{i}")
                found.add(box, kind + 1, name=f"line {i} ({classes[kind]})")
        records.append(found.record())
    tell(on_problem, problems, "left out of the YOLO labels")
    return ObjectDataset(records, tuple(classes))


def read_names(file: Path) -> list[str]:
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def read_line(
    line: str, size: tuple[int, int], num_classes: int, where: str
) -> tuple[int, tuple[float, float, float, float]]:
    """The class, from 0, and the box in pixels."""
    try:
        kind, values = int(line.split()[0]), [float(word) for word in line.split()[1:]]
    except ValueError:
        raise ValueError(f"{where}: expected a class and numbers, found {line.strip()[:40]!r}") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"{where}: a box has four numbers, an outline six or more, in pairs; here are {len(values)}")
    if not 0 <= kind < num_classes:
        raise ValueError(f"{where}: class {kind} has no name; there are {num_classes}, counted from 0")
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        return kind, ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
    xs, ys = values[0::2], values[1::2]
    return kind, (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
