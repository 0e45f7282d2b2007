"""FDDB's texts: ellipses, folds, and detections there and back."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.data.fddb import read_detections, read_ellipses, read_folds, write_detections

ELLIPSES = "a/img_1\n2\n50.5 30.25 1.5 100 80  1\n20 10 -0.5 30 40  1\nb/img_2\n0\n"


def text_file(tmp_path, text: str, name: str = "list.txt"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_ellipses(tmp_path):
    ellipses = read_ellipses(text_file(tmp_path, ELLIPSES))
    assert list(ellipses) == ["a/img_1", "b/img_2"]
    np.testing.assert_array_equal(ellipses["a/img_1"], [[50.5, 30.25, 1.5, 100, 80], [20, 10, -0.5, 30, 40]])
    assert ellipses["a/img_1"].dtype == np.float64 and ellipses["b/img_2"].shape == (0, 5)


@pytest.mark.parametrize(
    "text, where, reason",
    [
        ("a\n1\n0 10 0 5 5 1\n", "list.txt:3", "positive half axes"),
        ("a\n2\n10 10 0 5 5 1\n10 nan 0 5 5 1\n", "list.txt:4", "got 10 nan"),
        ("a\n1\n10 10 0 5\n", "list.txt:3", "5 or 6 numbers"),
        ("a\n2\n10 10 0 5 5 1\nb\n0\n", "list.txt:4", "row 2 of 2"),
        ("a\nmany\n", "list.txt:1", "count"),
    ],
)
def test_bad_ellipses_name_file_line_and_record(tmp_path, text, where, reason):
    with pytest.raises(ValueError) as caught:
        read_ellipses(text_file(tmp_path, text))
    assert where in str(caught.value) and reason in str(caught.value) and "'a'" in str(caught.value)


def test_folds(tmp_path):
    for fold, name in ((1, "a/img_1"), (2, "b/img_2"), (10, "c/img_3")):
        text_file(tmp_path, f"{name}\n1\n9 8 0 5 5 1\n", f"FDDB-folds/FDDB-fold-{fold:02d}-ellipseList.txt")
        text_file(tmp_path, "", f"originalPics/{name}.jpg")
    assert [r.name for r in read_folds(tmp_path)] == ["a/img_1", "b/img_2", "c/img_3"]
    (record,) = read_folds(tmp_path, folds=[2])
    assert record.path == tmp_path / "originalPics" / "b" / "img_2.jpg"
    np.testing.assert_array_equal(record.ellipses, [[9, 8, 0, 5, 5]])
    (tmp_path / "originalPics" / "c" / "img_3.jpg").unlink()
    with pytest.warns(UserWarning, match="img_3"):
        assert len(read_folds(tmp_path)) == 2
    assert len(read_folds(tmp_path, check_images=False)) == 3
    with pytest.raises(FileNotFoundError, match="fold-07"):
        read_folds(tmp_path, folds=[7])
    with pytest.raises(FileNotFoundError, match="FDDB-folds"):
        read_folds(tmp_path / "a")


def test_detections_there_and_back(tmp_path, rng):
    corner = rng.uniform(-20, 400, (7, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + rng.uniform(1, 90, (7, 2)).astype(np.float32)], axis=1)
    scores = rng.random(7).astype(np.float32)
    scores[1] = np.nextafter(scores[0], np.float32(1))  # an order that six digits would lose
    path = tmp_path / "out.txt"
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    write_detections(path, {"a": (boxes, scores), "b": nothing})
    back = read_detections(path)
    assert list(back) == ["a", "b"]
    np.testing.assert_array_equal(back["a"].boxes.astype(np.float32), boxes)
    np.testing.assert_array_equal(back["a"].scores.astype(np.float32), scores)
    assert back["b"].boxes.shape == (0, 4) and back["b"].scores.shape == (0,)


def test_the_written_text_is_the_evaluators(tmp_path):
    path = tmp_path / "out.txt"
    write_detections(path, {"b/two": ([[1, 2, 11, 22.5]], [0.75])}, names=["a/one", "b/two"])
    assert path.read_text() == "a/one\n0\nb/two\n1\n1 2 10 20.5 0.75\n"


@pytest.mark.parametrize(
    "boxes, scores, reason",
    [
        ([[0, 0, 1, 1]], [0.5, 0.5], "got"),
        ([[0, 0, 1]], [0.5], "got"),
        ([[0, 0, 0, 1]], [0.5], "without area"),
        ([[0, 0, np.nan, 1]], [0.5], "without area"),
        ([[0, 0, 1, 1]], [np.inf], "not finite"),
    ],
)
def test_bad_detections_are_not_written(tmp_path, boxes, scores, reason):
    with pytest.raises(ValueError, match=reason):
        write_detections(tmp_path / "out.txt", {"fine": ([[0, 0, 1, 1]], [1.0]), "bad": (boxes, scores)})
    assert not (tmp_path / "out.txt").exists()


def test_detections_of_an_unknown_image_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'b'"):
        write_detections(tmp_path / "out.txt", {"b": ([[0, 0, 1, 1]], [1.0])}, names=["a"])


@pytest.mark.parametrize("bad", ["1 1 0 5 0.5", "1 1 5 -5 0.5", "1 1 5 5 nan", "1 1 5 5"])
def test_bad_detection_rows_name_the_line(tmp_path, bad):
    with pytest.raises(ValueError, match=r"list.txt:4: record 'a'"):
        read_detections(text_file(tmp_path, f"a\n2\n1 1 5 5 0.5\n{bad}\n"))


def test_real_texts(data_dir):
    ellipses = read_ellipses(data_dir / "fddb_reference" / "ellipseList.txt")
    assert (len(ellipses), sum(map(len, ellipses.values()))) == (2845, 5171)
    detections = read_detections(data_dir / "fddb_reference" / "detections.txt")
    assert set(detections) == set(ellipses)
    np.testing.assert_array_equal(detections["2002/08/11/big/img_591"].boxes, [[192, 75, 343, 270]])
    records = read_folds(data_dir / "fddb", on_problem="raise")
    assert (len(records), sum(len(r.ellipses) for r in records)) == (840, 1536)
    assert all(np.array_equal(r.ellipses, ellipses[r.name]) for r in records)
