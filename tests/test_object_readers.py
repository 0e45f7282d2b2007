"""VOC's XML, COCO's JSON, YOLO's text: what they say in one form, and clear words where they are broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetect.data.coco import read_coco, write_coco
from minidetect.data.objects import ObjectDataset, load_record
from minidetect.data.voc import read_voc, write_voc
from minidetect.data.yolo import read_yolo

XML = """<annotation><filename>a.jpg</filename><size><width>60</width><height>40</height></size>
<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult><bndbox><xmin>31</xmin><ymin>11</ymin><xmax>70</xmax><ymax>30</ymax></bndbox></object>
</annotation>"""


def voc_folder(folder: Path, xml: str = XML, names: str = "a\n") -> Path:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    (folder / "Annotations" / "a.xml").write_text(xml)
    (folder / "ImageSets" / "Main" / "train.txt").write_text(names)
    Image.new("RGB", (60, 40)).save(folder / "JPEGImages" / "a.jpg")
    return folder


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path):
    dataset = read_voc(voc_folder(tmp_path), "train")
    (record,) = dataset.records
    assert dataset.classes == ("cat", "dog") and record.size == (40, 60)
    assert record.boxes.tolist() == [[0, 0, 10, 20], [30, 10, 60, 30]]  # the cat's box is cut off at the border
    assert record.boxes.dtype == np.float32 and record.labels.tolist() == [2, 1]
    assert record.ignored.tolist() == [False, True] and record.areas.tolist() == [200, 600]
    assert record.path == tmp_path / "JPEGImages" / "a.jpg"
    target = record.target()
    assert target.labels.tolist() == [2] and target.ignore.tolist() == [[30, 10, 60, 30]]


def test_voc_from_zero(tmp_path):
    record = read_voc(voc_folder(tmp_path), "train", first_pixel=0).records[0]
    assert record.boxes[0].tolist() == [1, 1, 11, 21]


def test_voc_takes_the_classes_in_the_order_given(tmp_path):
    folder = voc_folder(tmp_path)
    assert read_voc(folder, classes=("dog", "bird", "cat")).records[0].labels.tolist() == [1, 3]
    with pytest.raises(ValueError, match="a.xml: object 2: class 'cat' is none of dog, bird"):
        read_voc(folder, classes=("dog", "bird"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<xmin>1</xmin>", "<xmin>one</xmin>", "<bndbox/xmin> must be a number, found 'one'"),
        ("<xmin>1</xmin>", "", "<object> has no <bndbox/xmin>"),
        ("<name>dog</name>", "", "<object> has no <name>"),
        ("<width>60</width>", "", "<annotation> has no <size/width>"),
        ("</annotation>", "", "not XML that can be read"),
    ],
)
def test_broken_voc_is_refused_with_the_file(tmp_path, old, new, words):
    with pytest.raises(ValueError, match="a.xml: ") as error:
        read_voc(voc_folder(tmp_path, XML.replace(old, new)))
    assert words in str(error.value)


def test_voc_boxes_without_area_are_left_out_and_told(tmp_path):
    folder = voc_folder(tmp_path, XML.replace("<xmax>10<", "<xmax>1<"))
    with pytest.warns(UserWarning, match=r"a.xml: object 1 \(dog\): box 1, 1, 1, 20 has no area"):
        assert len(read_voc(folder).records[0]) == 1
    with pytest.raises(ValueError, match="object 1"):
        read_voc(folder, on_problem="raise")


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_voc(voc_folder(tmp_path), "test")


COCO = {
    "images": [
        {"id": 7, "file_name": "b/x.jpg", "width": 100, "height": 80},
        {"id": 3, "file_name": "y.jpg", "width": 50, "height": 50},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 40], "area": 900.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [90, 0, 30, 10], "iscrowd": 1},
    ],
}


def coco_file(folder: Path, **changes: object) -> Path:
    file = folder / "instances.json"
    file.write_text(json.dumps(COCO | changes))
    return file


def test_coco(tmp_path):
    dataset = read_coco(coco_file(tmp_path), tmp_path / "images")
    first, second = dataset.records
    assert dataset.classes == ("cat", "dog")  # by id, 2 before 18
    assert first.boxes.tolist() == [[10, 20, 40, 60], [90, 0, 100, 10]] and first.labels.tolist() == [2, 1]
    assert first.areas.tolist() == [900.5, 100] and first.ignored.tolist() == [False, True]
    assert first.path == tmp_path / "images" / "b" / "x.jpg"
    assert len(second) == 0 and second.boxes.shape == (0, 4) and second.size == (50, 50)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "'images' must be a list"),
        ({"images": [{"id": 7}]}, "image 7: has no 'height'"),
        ({"categories": [{"id": 2, "name": "cat"}]}, "annotation 1: there is nothing with the category_id 18"),
        ({"annotations": [COCO["annotations"][0]] * 2}, "two annotations have the id 1"),
        ({"annotations": [COCO["annotations"][0] | {"bbox": [1, 2, 3]}]}, "annotation 1: bbox must be four numbers"),
        ({"annotations": [COCO["annotations"][0] | {"image_id": 8}]}, "nothing with the image_id 8"),
    ],
)
def test_broken_coco_is_refused_with_the_entry(tmp_path, changes, words):
    file = coco_file(tmp_path, **changes)
    with pytest.raises(ValueError, match="instances.json: ") as error:
        read_coco(file, tmp_path)
    assert words in str(error.value)


def test_text_that_is_not_json(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="a.json: not JSON"):
        read_coco(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="an object with images"):
        read_coco(tmp_path / "a.json", tmp_path)


def yolo_folder(folder: Path, lines: str) -> Path:
    for part in ("images/train", "labels/train"):
        (folder / part).mkdir(parents=True)
    for name in ("a.jpg", "b.png"):
        Image.new("RGB", (200, 100)).save(folder / "images" / "train" / name)
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    (folder / "classes.txt").write_text("dog\ncat\n")
    return folder


def test_yolo(tmp_path):
    dataset = read_yolo(yolo_folder(tmp_path, "1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6\n"), "train")
    first, second = dataset.records
    assert dataset.classes == ("dog", "cat") and first.size == (100, 200)
    np.testing.assert_allclose(first.boxes, [[80, 30, 120, 70], [20, 20, 60, 60]], atol=1e-4)
    assert first.labels.tolist() == [2, 1] and len(second) == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 0.5 0.5 0.2", "in pairs; here are 3"),
        ("1 0.1 0.2 0.3 0.4 0.5", "in pairs; here are 5"),
        ("2 0.5 0.5 0.2 0.4", "class 2 has no name; there are 2"),
        ("-1 0.5 0.5 0.2 0.4", "class -1 has no name"),
        ("dog 0.5 0.5 0.2 0.4", "expected a class and numbers"),
    ],
)
def test_broken_yolo_is_refused_with_the_line(tmp_path, line, words):
    with pytest.raises(ValueError, match="a.txt:2: ") as error:
        read_yolo(yolo_folder(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n"), "train")
    assert words in str(error.value)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0 0.1", "0 nan 0.5 0.1 0.1", "0 1.5 0.5 0.1 0.1"])
def test_yolo_boxes_that_cannot_be_used(tmp_path, line):
    with pytest.warns(UserWarning, match=r"line 1 \(dog\)"):
        assert len(read_yolo(yolo_folder(tmp_path, line), "train").records[0]) == 0


def equal(a: ObjectDataset, b: ObjectDataset) -> None:
    assert a.classes == b.classes and len(a) == len(b)
    for left, right in zip(a.records, b.records, strict=True):
        assert left.path.name == right.path.name and left.size == right.size
        np.testing.assert_allclose(left.boxes, right.boxes, atol=1e-4)
        assert left.labels.tolist() == right.labels.tolist() and left.ignored.tolist() == right.ignored.tolist()


def test_what_is_written_is_read_again(tmp_path):
    dataset = read_coco(coco_file(tmp_path), tmp_path / "images")
    write_coco(dataset, tmp_path / "again.json", tmp_path / "images")
    again = read_coco(tmp_path / "again.json", tmp_path / "images")
    equal(dataset, again)
    assert again.records[0].path == dataset.records[0].path and again.records[0].areas[0] == 900.5
    write_voc(dataset, tmp_path / "voc")
    equal(dataset, read_voc(tmp_path / "voc", "train", classes=dataset.classes))


def test_voc_refuses_two_images_of_one_name(tmp_path):
    changed = [COCO["images"][0] | {"id": 1, "file_name": "a/x.jpg"}, COCO["images"][0]]
    dataset = read_coco(coco_file(tmp_path, images=changed), tmp_path)
    with pytest.raises(ValueError, match="several images are called x"):
        write_voc(dataset, tmp_path / "voc")
    assert not (tmp_path / "voc").exists()


def test_blood_cells(data_dir):
    """The set's two boxes of no size are told; the counts are those of its XML files."""
    problems: list[str] = []
    splits = [read_voc(data_dir / "bccd", split, on_problem=problems.append) for split in ("train", "val", "test")]
    assert [len(split) for split in splits] == [205, 87, 72]
    assert all(split.classes == ("Platelets", "RBC", "WBC") for split in splits)
    assert sum(len(record) for split in splits for record in split.records) == 4886
    assert [problem.split("/")[-1][:21] for problem in problems] == ["BloodImage_00343.xml:", "BloodImage_00338.xml:"]
    assert all(record.path.exists() for split in splits for record in split.records)


@pytest.mark.parametrize("width", ["inf", "nan", "0", "-5", "10.5", "64px", ""])
def test_sizes_that_are_none(tmp_path, width):
    with pytest.raises(ValueError, match="a.xml"):
        read_voc(voc_folder(tmp_path, XML.replace("<width>60<", f"<width>{width}<")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [COCO["images"][0] | {"width": None}]}, "image 7: the image's width must be a whole number"),
        ({"images": [COCO["images"][0] | {"width": "64px"}]}, "found '64px'"),
        ({"images": [COCO["images"][0] | {"file_name": 5}]}, "image 7: file_name must be a text, found 5"),
        ({"images": [COCO["images"][0] | {"id": [1]}]}, "entry 0 of images: its id must be a number or a text"),
        ({"annotations": [COCO["annotations"][0] | {"image_id": [1]}]}, "nothing with the image_id [1]"),
        ({"annotations": [COCO["annotations"][0] | {"bbox": [1, 2, 10**400, 3]}]}, "bbox must be four numbers"),
        ({"annotations": [COCO["annotations"][0] | {"area": "big"}]}, "annotation 1: area must be a number"),
    ],
)
def test_coco_of_the_wrong_types(tmp_path, changes, words):
    with pytest.raises(ValueError, match="instances.json: ") as error:
        read_coco(coco_file(tmp_path, **changes), tmp_path)
    assert words in str(error.value)


def test_ids_may_be_texts_and_numbers(tmp_path):
    categories = [{"id": "a", "name": "dog"}, {"id": 2, "name": "cat"}]
    annotations = [COCO["annotations"][0] | {"category_id": "a"}]
    dataset = read_coco(coco_file(tmp_path, categories=categories, annotations=annotations), tmp_path)
    assert dataset.classes == ("cat", "dog") and dataset.records[0].labels.tolist() == [2]


def test_a_box_too_small_to_survive_a_float_is_left_out(tmp_path):
    with pytest.warns(UserWarning, match="0.01 pixels wide and high"):
        assert len(read_yolo(yolo_folder(tmp_path, "0 0.5 0.5 0.000000001 0.1"), "train").records[0]) == 0


def test_an_image_that_lies_on_its_side(tmp_path):
    """EXIF's orientation 6 turns a file of 200 x 100 pixels into an image of 100 x 200."""
    folder = yolo_folder(tmp_path, "0 0.5 0.5 0.2 0.1")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 100)).save(folder / "images" / "train" / "a.jpg", exif=exif)
    record = read_yolo(folder, "train").records[0]
    assert record.size == (200, 100) and load_record(record).shape == (200, 100, 3)
    np.testing.assert_allclose(record.boxes, [[40, 90, 60, 110]], atol=1e-4)


def test_yolo_names_in_another_order_are_refused(tmp_path):
    folder = yolo_folder(tmp_path, "0 0.5 0.5 0.2 0.1")
    with pytest.raises(ValueError, match="its classes are dog, cat, asked for cat, dog"):
        read_yolo(folder, "train", ("cat", "dog"))
    (folder / "classes.txt").write_text("dog\ncat\n", encoding="utf-8-sig")
    assert read_yolo(folder, "train").classes == ("dog", "cat")


def test_voc_trusts_the_annotations_own_name_first(tmp_path):
    folder = voc_folder(tmp_path, XML.replace("a.jpg", "old.jpg"))
    Image.new("RGB", (60, 40)).save(folder / "JPEGImages" / "old.jpg")
    assert read_voc(folder).records[0].path.name == "a.jpg"
    (folder / "JPEGImages" / "a.jpg").unlink()
    assert read_voc(folder).records[0].path.name == "old.jpg"


def test_xml_in_an_encoding_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="a.xml: not XML that can be read"):
        read_voc(voc_folder(tmp_path, '<?xml version="1.0" encoding="foo-bar"?>' + XML))
