"""The WIDER reader against each quirk of such files, the target rule, and the landmark list."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.data.landmarks import COLUMNS, read_landmarks_csv
from minidetect.data.wider_face import read_wider, to_target

GOOD = """a/one.jpg
2
10 20 30 40 1 0 0 0 2 1
1.5 2.5 3.25 4.75 2 1 1 1 0 0
b/two.jpg
0
0 0 0 0 0 0 0 0 0 0
three.jpg
1
5 5 10 10 0 0 0 0 0 0
"""


def write(tmp_path, text: str):
    path = tmp_path / "list.txt"
    path.write_text(text)
    return path


def row(x=0.0, y=0.0, w=30.0, h=40.0, blur=0, invalid=0, occlusion=0) -> str:
    return f"{x} {y} {w} {h} {blur} 0 0 {invalid} {occlusion} 0"


def one_record(tmp_path, *rows: str, **options):
    return read_wider(write(tmp_path, "\n".join(["a.jpg", str(len(rows)), *rows])), tmp_path, **options)[0]


# ------------------------------------------------------------------------------------------ reader


def test_boxes_attributes_and_paths(tmp_path):
    one, two, three = read_wider(write(tmp_path, GOOD), tmp_path)
    np.testing.assert_array_equal(one.boxes, [[10, 20, 40, 60], [1.5, 2.5, 4.75, 7.25]])
    assert one.boxes.dtype == np.float32
    assert one.name == "a/one.jpg" and one.path == tmp_path / "a" / "one.jpg" and len(one) == 2
    for name, values in dict(
        blur=[1, 2], expression=[0, 1], illumination=[0, 1], invalid=[0, 1], occlusion=[2, 0], pose=[1, 0]
    ).items():
        assert getattr(one, name).tolist() == values and getattr(one, name).dtype == np.int64
    assert two.boxes.shape == (0, 4) and two.blur.shape == (0,)
    np.testing.assert_array_equal(three.boxes, [[5, 5, 15, 15]])


@pytest.mark.parametrize(
    "change", [lambda t: t.replace("\n", "\r\n"), lambda t: "\ufeff" + t, lambda t: t + "\n\n"]
)
def test_line_ends_byte_order_mark_and_blank_lines(tmp_path, change):
    path = tmp_path / "list.txt"
    path.write_bytes(change(GOOD).encode())
    assert [len(r) for r in read_wider(path, tmp_path)] == [2, 0, 1]


def test_no_faces_with_and_without_the_row_of_zeros(tmp_path):
    for zeros in ("", "0 0 0 0 0 0 0 0 0 0\n", "0.00 0.00 0 0 0 0 0 0 0 0\n"):
        records = read_wider(write(tmp_path, f"a.jpg\n0\n{zeros}b.jpg\n1\n1 1 2 2 0 0 0 0 0 0\n"), tmp_path)
        assert [(r.name, len(r)) for r in records] == [("a.jpg", 0), ("b.jpg", 1)]


def test_a_users_own_file_may_stop_after_the_box(tmp_path):
    record = one_record(tmp_path, "1 2 3 4", "5 6 7 8")
    np.testing.assert_array_equal(record.boxes, [[1, 2, 4, 6], [5, 6, 12, 14]])
    assert record.occlusion.tolist() == [0, 0]


def test_empty_file_has_no_records(tmp_path):
    assert read_wider(write(tmp_path, ""), tmp_path) == []


@pytest.mark.parametrize(
    "bad, reason",
    [
        ("5 5 0 10", "no area"),
        ("5 5 10 -3", "no area"),
        ("nan 5 10 10", "not finite"),
        ("5 5 inf 10", "not finite"),
        ("-20 5 10 10", "no part inside"),
        ("5 -10 10 10", "no part inside"),
    ],
)
def test_bad_boxes_are_left_out_and_said(tmp_path, bad, reason):
    text = f"a.jpg\n2\n{bad} 0 0 0 0 0 0\n{row()}\n"
    where = f"{tmp_path / 'list.txt'}:3"
    with pytest.warns(UserWarning) as caught:
        (record,) = read_wider(write(tmp_path, text), tmp_path)
    assert len(record) == 1 and np.isfinite(record.boxes).all()
    assert len(caught) == 1 and where in str(caught[0].message) and reason in str(caught[0].message)
    said: list[str] = []
    read_wider(tmp_path / "list.txt", tmp_path, on_problem=said.append)
    assert len(said) == 1 and said[0].startswith(where) and reason in said[0]
    with pytest.raises(ValueError, match=reason):
        read_wider(tmp_path / "list.txt", tmp_path, on_problem="raise")


def test_a_box_across_the_border_is_kept_as_annotated(tmp_path):
    np.testing.assert_array_equal(one_record(tmp_path, row(-5, -6, 10, 10)).boxes, [[-5, -6, 5, 4]])


@pytest.mark.parametrize(
    "text, line, reason",
    [
        ("a.jpg\n2\n1 1 2 2 0 0 0 0 0 0\nb.jpg\n0\n", 4, "row 2 of 2"),
        ("a.jpg\n2\n1 1 2 2 0 0 0 0 0 0\n", None, "says 2 rows"),
        ("a.jpg\n1\n1 1 2 2 0 0 0 0 0 0\n1 1 2 2 0 0 0 0 0 0\n", 4, "more rows"),
        ("a.jpg\n0\n1 1 2 2 0 0 0 0 0 0\n", 3, "more rows"),
        ("a.jpg\n1\n1 1 two 2 0 0 0 0 0 0\n", 3, "row 1 of 1"),
        ("a.jpg\n1\n1 1 2 2 0 0\n", 3, "4 or 10 numbers"),
        ("a.jpg\n2\n1 1 2 2\n1 1 2 2 0 0 0 0 0 0\n", 4, "numbers"),
        ("a.jpg\n1.5\n1 1 2 2\n", 1, "count"),
        ("a.jpg\n-1\n", 1, "count"),
        ("a.jpg\n", 1, "count"),
        ("a.jpg\nb.jpg\n", 1, "count"),
        ("1 1 2 2\n", 1, "name"),
        ("a.jpg\n0\na.jpg\n0\n", 3, "already on line 1"),
    ],
)
def test_broken_structure_names_file_line_and_record(tmp_path, text, line, reason):
    with pytest.raises(ValueError) as caught:
        read_wider(write(tmp_path, text), tmp_path)
    message = str(caught.value)
    assert reason in message and "\n" not in message
    assert (f"list.txt:{line}:" if line else "list.txt") in message
    assert "a.jpg" in message or line == 1


def test_not_text_and_not_there(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="UTF-8"):
        read_wider(tmp_path / "list.txt", tmp_path)
    with pytest.raises(FileNotFoundError):
        read_wider(tmp_path / "none.txt", tmp_path)
    with pytest.raises(ValueError, match="on_problem"):
        read_wider(write(tmp_path, GOOD), tmp_path, on_problem="shout")


def test_missing_images_are_only_looked_for_when_asked(tmp_path):
    (tmp_path / "three.jpg").touch()
    path = write(tmp_path, GOOD)
    assert len(read_wider(path, tmp_path)) == 3
    said: list[str] = []
    records = read_wider(path, tmp_path, on_problem=said.append, check_images=True)
    assert [r.name for r in records] == ["three.jpg"]
    assert len(said) == 2 and "list.txt:1:" in said[0] and "a/one.jpg" in said[0] and "list.txt:5:" in said[1]


# ------------------------------------------------------------------------------------------ target


def test_unclear_faces_become_ignore_regions(tmp_path):
    record = one_record(
        tmp_path,
        row(0, 0, 30, 40),  # fine
        row(40, 0, 19, 40),  # too narrow
        row(60, 0, 30, 40, invalid=1),
        row(0, 50, 30, 40, blur=2),  # blurred and below 40
        row(40, 50, 45, 50, blur=2),  # blurred but large
        row(0, 100, 30, 40, occlusion=2),
        row(40, 100, 30, 40, occlusion=1),
    )
    target = to_target(record, (200, 200))
    assert target.boxes[:, :2].tolist() == [[0, 0], [40, 50], [40, 100]]
    assert target.ignore[:, :2].tolist() == [[40, 0], [60, 0], [0, 50], [0, 100]]
    assert target.labels.tolist() == [1, 1, 1] and target.labels.dtype == np.int64
    assert target.boxes.dtype == target.ignore.dtype == np.float32
    everything = to_target(record, (200, 200), min_size=1, min_blurred_size=1, max_occlusion=2)
    assert len(everything.boxes) == 6 and len(everything.ignore) == 1  # the invalid one stays out


def test_target_boxes_are_clipped_and_those_outside_dropped(tmp_path):
    rows = row(-10, -10, 40, 50), row(90, 10, 40, 40), row(100, 0, 30, 30), row(0, 300)
    record = one_record(tmp_path, *rows)
    target = to_target(record, (80, 100))
    np.testing.assert_array_equal(target.boxes, [[0, 0, 30, 40]])
    np.testing.assert_array_equal(target.ignore, [[90, 10, 100, 50]])  # only 10 pixels of it are inside


def test_target_without_faces(tmp_path):
    target = to_target(one_record(tmp_path), (10, 10))
    assert target.boxes.shape == target.ignore.shape == (0, 4) and target.labels.shape == (0,)


def test_real_lists(data_dir):
    folder, said = data_dir / "wider", []
    records = read_wider(folder / "wider_train_bbx_gt.txt", folder / "train", said.append, check_images=True)
    assert (len(records), sum(map(len, records)) + len(said)) == (2602, 24467)
    assert 0 < len(said) < 20
    records = read_wider(folder / "wider_val_bbx_gt.txt", folder / "val", "raise", check_images=True)
    assert (len(records), sum(map(len, records))) == (198, 1616)


# --------------------------------------------------------------------------------------- landmarks

FACE = "x.jpg,1,2,11,22,3,4,7,4,5,6,3,8,7,8"


def landmark_file(tmp_path, *rows: str, header: str = ",".join(COLUMNS)):
    path = tmp_path / "faces.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_landmark_list(tmp_path):
    (record,) = read_landmarks_csv(landmark_file(tmp_path, FACE), tmp_path)
    assert record.path == tmp_path / "x.jpg"
    np.testing.assert_array_equal(record.box, [1, 2, 11, 22])
    np.testing.assert_array_equal(record.points, [[3, 4], [7, 4], [5, 6], [3, 8], [7, 8]])
    assert record.box.dtype == record.points.dtype == np.float32


def test_landmark_list_problems(tmp_path):
    said: list[str] = []
    flat, nan = FACE.replace(",11,", ",1,"), FACE.replace(",5,6,", ",nan,6,")
    records = read_landmarks_csv(landmark_file(tmp_path, FACE, flat, nan), tmp_path, said.append)
    assert len(records) == 1
    assert "faces.csv:3" in said[0] and "no area" in said[0] and "faces.csv:4" in said[1]
    with pytest.raises(ValueError, match="faces.csv:2: column nose_x"):
        read_landmarks_csv(landmark_file(tmp_path, FACE.replace(",5,6,", ",five,6,")), tmp_path)
    with pytest.raises(ValueError, match="faces.csv:2: column rmouth_y"):
        read_landmarks_csv(landmark_file(tmp_path, FACE.rsplit(",", 1)[0]), tmp_path)
    with pytest.raises(ValueError, match="lacks the columns crop"):
        read_landmarks_csv(landmark_file(tmp_path, header="a,b"), tmp_path)


def test_real_landmarks(data_dir):
    folder = data_dir / "facepoint"
    records = read_landmarks_csv(folder / "test.csv", folder, "raise")
    points = np.stack([r.points for r in records])
    assert len(records) == 1000 and all(r.path.is_file() for r in records[::50])
    assert (points[:, 0, 0] < points[:, 1, 0]).all()  # the left eye is on the viewer's left
    assert (points[:, :2, 1].mean(axis=1) < points[:, 3:, 1].mean(axis=1)).mean() > 0.99
