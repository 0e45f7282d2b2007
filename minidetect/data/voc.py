"""PASCAL VOC's folders of XML: one file an image, lists of names a split.

    DIR/JPEGImages/000012.jpg    DIR/Annotations/000012.xml    DIR/ImageSets/Main/train.txt

VOC counts pixels from 1 and both ends belong to the box, so the box of the first pixel is written 1, 1, 1, 1; here
it is 0, 0, 1, 1: x1 = xmin - 1, x2 = xmax. Tools that write this format from 0 are off by one pixel; for them there
is `first_pixel=0`, which takes xmin as it is.

Left out: parts (heads, hands), poses, actions, and the outlines of VOC's segmentation.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from minidetect.data.objects import Collector, ObjectDataset, ObjectRecord, label_of, whole_size
from minidetect.data.records import OnProblem, tell
from minidetect.nn.checkpoint import write_atomically

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    folder: str | Path,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    first_pixel: int = 1,
    on_problem: OnProblem = "warn",
) -> ObjectDataset:
    """Every image of a split of a VOC folder.

    split: the name of a list in ImageSets/Main, such as "train"; None: every file in Annotations.
    classes: names in the order of their labels; None: those that occur in this split, sorted.
    first_pixel: what the file's first pixel is called, 1 as in VOC or 0.
    on_problem: what happens with a box that cannot be used, see `minidetect.data.records.tell`.

    Raises FileNotFoundError without the list or an annotation; ValueError naming the file for XML that cannot be read,
    a missing or wrong number, a class that is not in `classes`.
    """
    folder = Path(folder)
    names = read_split(folder, split)
    trees = [(name, parse(folder / "Annotations" / f"{name}.xml")) for name in names]
    if classes is None:
        classes = sorted({text(item, "name", file) for _, (file, root) in trees for item in root.iter("object")})
    problems: list[str] = []
    records = [read_image(folder, name, file, root, classes, first_pixel, problems) for name, (file, root) in trees]
    tell(on_problem, problems, "left out of the VOC annotations")
    return ObjectDataset(records, tuple(classes))


def read_split(folder: Path, split: str | None) -> list[str]:
    """Names of images, without their endings. A list of a class ("000012 -1") counts by its first word."""
    if split is None:
        return sorted(file.stem for file in (folder / "Annotations").glob("*.xml"))
    lines = (folder / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8-sig").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def parse(file: Path) -> tuple[Path, ElementTree.Element]:
    try:
        return file, ElementTree.fromstring(file.read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: an encoding it cannot read
        raise ValueError(f"{file}: not XML that can be read: {error}") from None


def read_image(
    folder: Path,
    name: str,
    file: Path,
    root: ElementTree.Element,
    classes: Sequence[str],
    first_pixel: int,
    problems: list[str],
) -> ObjectRecord:
    size = whole_size(number(root, "size/height", file), number(root, "size/width", file), str(file))
    # By the annotation's own name first: <filename> may be what the image was called before it was copied.
    stated = folder / "JPEGImages" / Path(text(root, "filename", file)).name
    image = stated.with_name(name + (stated.suffix or ".jpg"))
    if not image.exists() and stated.exists():
        image = stated
    found = Collector(image, size, str(file), problems)
    for i, item in enumerate(root.iter("object"), start=1):
        kind = text(item, "name", file)
        x1, y1, x2, y2 = (number(item, f"bndbox/{corner}", file) for corner in CORNERS)
        is_difficult = (item.findtext("difficult") or "0").strip() == "1"
        label = label_of(kind, classes, f"{file}: object {i}")
        box = (x1 - first_pixel, y1 - first_pixel, x2 - first_pixel + 1, y2 - first_pixel + 1)
        if x2 > x1 and y2 > y1:  # xmax = xmin is one pixel by VOC's rule, but in practice a slip of the mouse
            found.add(box, label, is_difficult, name=f"object {i} ({kind})")
        else:
            problems.append(f"{file}: object {i} ({kind}): box {x1:g}, {y1:g}, {x2:g}, {y2:g} has no area")
    return found.record()


def text(item: ElementTree.Element, path: str, file: Path) -> str:
    found = (item.findtext(path) or "").strip()
    if not found:
        raise ValueError(f"{file}: <{item.tag}> has no <{path}>")
    return found


def number(item: ElementTree.Element, path: str, file: Path) -> float:
    found = text(item, path, file)
    try:
        return float(found)
    except ValueError:
        raise ValueError(f"{file}: <{path}> must be a number, found {found!r}") from None


def write_voc(dataset: ObjectDataset, folder: str | Path, split: str = "train") -> None:
    """Write annotations and the list of a split as VOC has them (pixels from 1); images are not copied.

    Each XML names its image's file; the names of two images must differ by more than their folders.
    Raises ValueError where they do not; nothing is written then.
    """
    folder = Path(folder)
    names = [record.path.stem for record in dataset.records]
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"VOC names an annotation after its image; several images are called {', '.join(doubles[:3])}")
    for name, record in zip(names, dataset.records, strict=True):
        content = as_xml(record, dataset.classes)
        write_text(folder / "Annotations" / f"{name}.xml", content)
    write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def as_xml(record: ObjectRecord, classes: Sequence[str]) -> str:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = record.path.name
    size = ElementTree.SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (record.size[1], record.size[0], 3), strict=True):
        ElementTree.SubElement(size, tag).text = str(value)
    for box, label, ignored in zip(record.boxes, record.labels, record.ignored, strict=True):
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = classes[label - 1]
        ElementTree.SubElement(item, "difficult").text = str(int(ignored))
        corners = ElementTree.SubElement(item, "bndbox")
        for tag, value in zip(CORNERS, (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True):
            ElementTree.SubElement(corners, tag).text = f"{value:.9g}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def write_text(file: Path, content: str) -> None:
    write_atomically(file, lambda stream: stream.write(content.encode()))
