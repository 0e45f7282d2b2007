"""WIDER's official lists and its text of detections: what is read, what is refused, and your copy of the photos."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from command import run, untrained
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minidetect.data.wider_detections import read_wider_detections, write_wider_detections
from minidetect.data.wider_face import WiderRecord, read_wider
from minidetect.data.wider_ground_truth import SETTINGS, WiderTruth, image_key, read_wider_truth, with_settings
from minidetect.detection.structures import Detections, make_detections

ONE, TWO, THREE = "0--Parade/one", "0--Parade/two", "1--Group/three"
FACES = {ONE: [[10, 20, 30, 40], [50, 60, 7, 8]], TWO: [[0, 0, 0, 0]], THREE: [[5, 5, 9, 9]]}
COUNTED = {"easy": {ONE: [1]}, "medium": {ONE: [2, 1]}, "hard": {ONE: [1, 2], THREE: [1]}}


# ------------------------------------------------------------------ the official lists


def column(items) -> np.ndarray:
    """A cell array (n, 1)."""
    cells = np.empty((len(items), 1), object)
    for i, item in enumerate(items):
        cells[i, 0] = item
    return cells


def lists(variable: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a file holds: events, their photos, and `variable` of each photo."""
    events = list(dict.fromkeys(name.split("/")[0] for name in values))
    of_event = {event: [name for name in values if name.startswith(event)] for event in events}
    return {
        "event_list": column(events),
        "file_list": column([column([name.split("/")[1] for name in of_event[event]]) for event in events]),
        variable: column([column([values[name] for name in of_event[event]]) for event in events]),
    }


def official(folder: Path, faces=FACES, counted=COUNTED, shape=(-1, 1)) -> Path:
    """The four files; indices as columns, as the real ones, or as rows."""
    savemat = pytest.importorskip("scipy.io", reason="MATLAB's files need scipy").savemat
    boxes = {name: np.array(rows, np.int32) for name, rows in faces.items()}
    savemat(folder / "wider_face_val.mat", lists("face_bbx_list", boxes))
    for setting, chosen in counted.items():
        indices = {name: np.array(chosen.get(name, []), np.uint8).reshape(shape) for name in faces}
        savemat(folder / f"wider_{setting}_val.mat", lists("gt_list", indices))
    return folder


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1)], ids=["columns", "rows"])
def test_boxes_and_the_faces_that_count(tmp_path, shape):
    one, two, three = read_wider_truth(official(tmp_path, shape=shape))
    assert [image.name for image in (one, two, three)] == [ONE, TWO, THREE]
    assert one.boxes.tolist() == [[10, 20, 40, 60], [50, 60, 57, 68]] and one.boxes.dtype == np.float32
    assert {s: one.counted[s].tolist() for s in SETTINGS} == {
        "easy": [True, False], "medium": [True, True], "hard": [True, True],
    }  # fmt: skip
    assert two.boxes.tolist() == [[0, 0, 0, 0]]  # kept: the indices count rows
    assert [two.counted[s].tolist() for s in SETTINGS] == [[False]] * 3
    assert [three.counted[s].tolist() for s in SETTINGS] == [[False], [False], [True]]
    assert one.counted["easy"].dtype == bool and one.pixel == 1


@pytest.mark.parametrize("shape", [(0, 4), (0, 0), (1, 0), (0,)])
def test_a_photo_without_a_row(tmp_path, shape):
    (image,) = read_wider_truth(official(tmp_path, {ONE: np.zeros(shape)}, dict.fromkeys(SETTINGS, {})))
    assert image.boxes.shape == (0, 4) and all(image.counted[s].shape == (0,) for s in SETTINGS)


@pytest.mark.parametrize(
    ("faces", "counted", "reason"),
    [
        ({ONE: [[1, 2, 3]]}, {}, r"face_val.mat: 0--Parade/one: faces must be \(G, 4\).*\(1, 3\)"),
        (FACES, {"hard": {ONE: [3]}}, r"hard_val.mat: 0--Parade/one: index 3 of a face, but it has faces 1 to 2"),
        (FACES, {"easy": {ONE: [0]}}, r"easy_val.mat: 0--Parade/one: index 0"),
        (FACES, {"medium": {ONE: [1, 1]}}, r"medium_val.mat: 0--Parade/one: 2 indices name only 1"),
        ({"0--Parade/..": [[1, 2, 3, 4]]}, {}, r"face_val.mat: image '0--Parade/..': its name must be EVENT/IMAGE"),
    ],
)
def test_wrong_lists_name_file_and_photo(tmp_path, faces, counted, reason):
    with pytest.raises(ValueError, match=reason):
        read_wider_truth(official(tmp_path, faces, dict.fromkeys(SETTINGS, {}) | counted))


def test_indices_must_be_whole_numbers(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    official(tmp_path)
    savemat(tmp_path / "wider_easy_val.mat", lists("gt_list", {name: np.array([[1.5]]) for name in FACES}))
    with pytest.raises(ValueError, match=r"easy_val.mat: 0--Parade/one: indices must be whole numbers, got float64"):
        read_wider_truth(tmp_path)


def test_files_that_are_not_the_official_ones(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    file = official(tmp_path) / "wider_easy_val.mat"
    whole = file.read_bytes()
    other = {THREE: np.zeros((0, 1)), ONE: np.zeros((0, 1)), TWO: np.zeros((0, 1))}
    savemat(file, lists("gt_list", other))
    with pytest.raises(ValueError, match="easy_val.mat: its photos, or their order, are not those of wider_face_val"):
        read_wider_truth(tmp_path)
    savemat(file, {**lists("gt_list", other), "file_list": column([column(["three"])])})
    with pytest.raises(ValueError, match="easy_val.mat: 2 events, photos of 1, gt_list of 2"):
        read_wider_truth(tmp_path)
    savemat(file, {"event_list": column(["0--Parade"])})
    with pytest.raises(ValueError, match="easy_val.mat: lacks file_list, gt_list"):
        read_wider_truth(tmp_path)
    savemat(file, {**lists("gt_list", other), "gt_list": np.ones((2, 1))})
    with pytest.raises(ValueError, match="easy_val.mat: gt_list: must be a cell array, got float64"):
        read_wider_truth(tmp_path)
    for damaged in (b"", b"not MATLAB's" * 50, whole[:200], whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="easy_val.mat: "):
            read_wider_truth(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="easy_val.mat"):
        read_wider_truth(tmp_path)


def test_a_photo_listed_twice(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    content = lists("face_bbx_list", {ONE: np.ones((1, 4)), THREE: np.ones((1, 4))})
    savemat(tmp_path / "wider_face_val.mat", content | {"event_list": column(["0--Parade", "0--Parade"]),
            "file_list": column([column(["one"]), column(["one"])])})  # fmt: skip
    with pytest.raises(ValueError, match="wider_face_val.mat: the photo '0--Parade/one' is listed twice"):
        read_wider_truth(tmp_path)


def test_without_scipy_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"needs scipy.*\[wider\]"):
        read_wider_truth(tmp_path)


@pytest.mark.parametrize("name", ["a/b", "a/b.jpg", "a/b.WEBP", "a/b.png"])
def test_names_lose_the_ending_of_an_image(name):
    assert image_key(name) == "a/b"
    assert image_key("0--Parade/0_x 1.5") == "0--Parade/0_x 1.5"


@pytest.mark.parametrize("name", ["b.jpg", "a/b/c", "/b", "a/", "../b", "a/..", "a/.jpg", "a\\c/b", "a/b\nc", ""])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="must be EVENT/IMAGE"):
        image_key(name)


# ------------------------------------------------------------------ your copy of the photos


def record(name: str, boxes) -> WiderRecord:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return WiderRecord(Path(name), name, boxes, *np.zeros((6, len(boxes)), np.int64))


def truth(name: str, boxes, hard=()) -> WiderTruth:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    mask = np.isin(np.arange(len(boxes)), hard)
    return WiderTruth(name, boxes, {s: mask for s in SETTINGS})


def test_official_faces_at_the_size_of_the_copy():
    whole = truth("a/b", [[16, 32, 64, 96], [8, 8, 8, 9], [100, 100, 132, 148]], hard=[1, 2])  # one has no width
    (copy,) = with_settings([record("a/b.webp", [[10, 20, 40, 60], [62.5, 62.5, 82.5, 92.5]])], [whole])
    np.testing.assert_allclose(copy.boxes, whole.boxes / 1.6, rtol=1e-6)
    assert copy.pixel == pytest.approx(1 / 1.6) and copy.name == "a/b"
    assert copy.counted["hard"].tolist() == [False, True, True]


def test_annotations_of_a_copy_are_rounded(rng):
    corners = rng.integers(0, 500, (30, 2))
    whole = truth("a/b", np.concatenate([corners, corners + rng.integers(2, 300, (30, 2))], axis=1))
    (copy,) = with_settings([record("a/b", np.rint(whole.boxes / 2.4))], [whole])
    assert copy.pixel == pytest.approx(1 / 2.4, rel=1e-3)


def test_a_photo_without_faces_keeps_its_size():
    (copy,) = with_settings([record("a/b.jpg", [])], [truth("a/b", [[0, 0, 0, 0]])])
    assert copy.pixel == 1 and copy.boxes.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "boxes", "reason"),
    [
        ("a/c.jpg", [], "record 'a/c.jpg': not among the 1 photos"),
        ("a/b.jpg", [[0, 0, 10, 10]], "record 'a/b.jpg': 1 faces, the official lists have 2"),
        ("a/b.jpg", [[100, 50, 120, 80], [0, 0, 10, 20]], "up to .* pixels apart"),  # the other way round
        ("a/b.jpg", [[0, 0, 10, 20], [100, 55, 120, 80]], "up to .* pixels apart"),
        ("b.jpg", [], "must be EVENT/IMAGE"),
    ],
)
def test_a_copy_that_is_not_of_these_photos(name, boxes, reason):
    with pytest.raises(ValueError, match=reason):
        with_settings([record(name, boxes)], [truth("a/b", [[0, 0, 10, 20], [100, 50, 120, 80]])])


def test_real_lists(data_dir):
    pytest.importorskip("scipy.io", reason="MATLAB's files need scipy")
    whole = read_wider_truth(data_dir / "wider" / "ground_truth")
    assert len(whole) == 3226 and sum(len(image.boxes) for image in whole) == 39708
    numbers = {s: sum(int(image.counted[s].sum()) for image in whole) for s in SETTINGS}
    assert numbers == {"easy": 7211, "medium": 13319, "hard": 31958}  # as published
    for image in whole:
        assert not (image.counted["easy"] & ~image.counted["medium"]).any()
        assert not (image.counted["medium"] & ~image.counted["hard"]).any()
    no_area = [(image.boxes[:, 2:] <= image.boxes[:, :2]).any(axis=1) for image in whole]
    assert sum(map(np.sum, no_area)) == 11
    assert [int((bad & i.counted["hard"]).sum()) for bad, i in zip(no_area, whole, strict=True)].count(1) == 1


@pytest.mark.parametrize(
    ("part", "numbers"), [("val", (1616, 430, 739, 1432)), ("train", (24467, 5866, 10610, 21512))]
)
def test_real_copies_have_the_official_faces_in_the_official_order(data_dir, part, numbers):
    pytest.importorskip("scipy.io", reason="MATLAB's files need scipy")
    folder = data_dir / "wider"
    records = read_wider(folder / f"wider_{part}_bbx_gt.txt", folder / part, on_problem=lambda problem: None)
    copies = with_settings(records, read_wider_truth(folder / "ground_truth"))
    assert (sum(len(c.boxes) for c in copies), *(sum(c.counted[s].sum() for c in copies) for s in SETTINGS)) == numbers
    for of_copy, copy in zip(records, copies, strict=True):
        usable = (copy.boxes[:, 2:] > copy.boxes[:, :2]).all(axis=1)
        np.testing.assert_allclose(copy.boxes[usable], of_copy.boxes, atol=0.0151)  # x and w rounded to 0.01 each


# ------------------------------------------------------------------ the text of detections

NOTHING = make_detections([], [])
coordinates = st.floats(-2000, 8000, width=32)
rows = st.tuples(coordinates, coordinates, st.floats(0, 900, width=32), st.floats(0, 900, width=32))
scored = st.lists(st.tuples(rows, st.floats(-50, 50, width=32)), max_size=6)


def as_detections(items) -> Detections:
    xywh = np.array([row for row, _ in items], np.float64).reshape(-1, 4)
    return make_detections(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1), [s for _, s in items])


@given(scored, scored)
@settings(max_examples=40, deadline=None)
def test_what_is_written_comes_back(tmp_path_factory, one, two):
    folder = tmp_path_factory.mktemp("texts")
    written = {"a/b": as_detections(one), "c/d e": as_detections(two)}
    write_wider_detections(folder, written)
    back = read_wider_detections(folder)
    assert list(back) == ["a/b", "c/d e"]
    for name, found in written.items():
        assert back[name].scores.tolist() == found.scores.tolist()
        np.testing.assert_allclose(back[name].boxes, found.boxes, rtol=2e-7, atol=1e-6)


def test_the_text_is_the_official_one(tmp_path):
    found = Detections(np.float32([[10, 20, 40, 60.5]]), np.float32([0.9]), np.ones(1, np.int64))
    write_wider_detections(tmp_path / "new", {"0--Parade/one.webp": found, "0--Parade/two": NOTHING})
    assert (tmp_path / "new" / "0--Parade" / "one.txt").read_text() == "0--Parade/one\n1\n10 20 30 40.5 0.9\n"
    assert (tmp_path / "new" / "0--Parade" / "two.txt").read_text() == "0--Parade/two\n0\n"
    assert [file.name for file in sorted((tmp_path / "new" / "0--Parade").iterdir())] == ["one.txt", "two.txt"]


@pytest.mark.parametrize("first", ["one", "one.jpg", "0--Parade/one", "C:\\photos\\one.png", "/data/x/one.webp"])
def test_any_first_line_that_names_the_photo(tmp_path, first):
    folder = texts(tmp_path, one=f"{first}\n2\n1 2 3 4 0.25\n\n5 6 0 8 0.5\n")
    found = read_wider_detections(folder)["0--Parade/one"]
    assert found.scores.tolist() == [0.5, 0.25]  # sorted
    assert found.boxes.tolist() == [[5, 6, 5, 14], [1, 2, 4, 6]] and found.boxes.dtype == np.float32


def texts(folder: Path, **content: str) -> Path:
    (folder / "0--Parade").mkdir()
    for stem, text in content.items():
        (folder / "0--Parade" / f"{stem}.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"one.txt:1: empty"),
        ("one\n", r"one.txt:1: .*a count must follow"),
        ("one\nmany\n", r"one.txt:1: .*a count must follow"),
        ("one\n2\n1 2 3 4 0.5\n", r"one.txt: .*says 2 rows"),
        ("one\n1\n1 2 3 4 0.5\n1 2 3 4 0.5\n", r"one.txt:4: .*more rows than its count"),
        ("one\n1\n1 2 3 4\n", r"one.txt:3: .*5 numbers, this one 4"),
        ("one\n1\n1 2 three 4 0.5\n", r"one.txt:3: .*a row of numbers"),
        ("one\n2\n1 2 3 4 0.5\n1 2 3 4 nan\n", r"one.txt:4: expected finite .*1 2 3 4 nan"),
        ("one\n1\ninf 2 3 4 0.5\n", r"one.txt:3: expected finite"),
        ("one\n1\n1 2 3 -4 0.5\n", r"one.txt:3: .*no negative size, got 1 2 3 -4 0.5"),
        ("one\n0\ntwo\n0\n", r"one.txt:3: a second photo 'two'"),
        ("two\n0\n", r"one.txt:1: is of 'two', but its file is named for 'one'"),
        ("one\n0\none\n0\n", r"one.txt:3: .*already on line 1"),
    ],
)
def test_wrong_texts_name_file_and_line(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        read_wider_detections(texts(tmp_path, one=text))


def test_one_photo_in_two_files(tmp_path):
    folder = texts(tmp_path, one="one\n0\n")
    (folder / "0--Parade" / "one.jpg.txt").write_text("one\n0\n")
    with pytest.raises(ValueError, match=r"one.txt: the detections of '0--Parade/one' are also in one.jpg.txt"):
        read_wider_detections(folder)


def test_a_folder_without_texts(tmp_path):
    (tmp_path / "one.txt").write_text("one\n0\n")  # not in the folder of an event
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="no EVENT/IMAGE.txt in it"):
            read_wider_detections(folder)


@pytest.mark.parametrize(
    ("detections", "reason"),
    [
        ({"a/b": NOTHING, "b": NOTHING}, "image 'b': its name must be EVENT/IMAGE"),
        ({"a/b.jpg": NOTHING, "a/b": NOTHING}, "'a/b' is there twice"),
        ({"a/b": Detections(np.ones((2, 4)), np.ones(3), np.ones(3))}, r"'a/b': .*got \(2, 4\) and \(3,\)"),
        ({"a/b": Detections(np.ones((1, 4)), np.array([np.nan]), np.ones(1))}, "'a/b': .*not finite"),
        ({"a/b": Detections(np.array([[4, 0, 3, 1]]), np.ones(1), np.ones(1))}, "'a/b': a box turned inside out"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(tmp_path, detections, reason):
    with pytest.raises(ValueError, match=reason):
        write_wider_detections(tmp_path / "new", {"a/good": NOTHING, **detections})
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------- the command


def test_the_command_writes_detections_and_measures_them(tmp_path, capsys):
    """A copy at half the published size: both ways to the official figures, from the model and from its texts."""
    model = untrained(tmp_path / "model.npz")
    boxes = np.array([[10, 10, 50, 60], [100, 20, 160, 100]], np.float32)
    folder = tmp_path / "data" / "wider" / "val" / "0--Parade"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), np.uint8)
    Image.fromarray(noise).save(folder / "one.png")
    rows = [" ".join(f"{v:g}" for v in (x1, y1, x2 - x1, y2 - y1)) for x1, y1, x2, y2 in boxes]
    text = "\n".join(["0--Parade/one.png", "2", *rows]) + "\n"
    (tmp_path / "data" / "wider" / "wider_val_bbx_gt.txt").write_text(text)
    name, sides = "0--Parade/one", np.concatenate([2 * boxes[:, :2], 2 * (boxes[:, 2:] - boxes[:, :2])], axis=1)
    counted = {setting: {name: np.array([1, 2])} for setting in ("easy", "medium", "hard")}
    (tmp_path / "data" / "wider" / "ground_truth").mkdir()
    official(tmp_path / "data" / "wider" / "ground_truth", {name: sides}, counted)
    texts, data = tmp_path / "texts", ("--data", tmp_path / "data")
    done = run(capsys, "evaluate", "wider", *data, "--model", model, "--min-face", 40, "--write-detections", texts)
    assert done.code == 0 and "faces_hard             2" in done.out and "ap_easy" in done.out
    (found,) = read_wider_detections(texts).values()
    assert len(found.boxes) > 0
    write_wider_detections(tmp_path / "larger", {name: found._replace(boxes=2 * found.boxes)})
    measured = run(capsys, "evaluate", "wider", *data, "--detections", tmp_path / "larger")
    assert measured.code == 0
    assert "photos                 1" in measured.out and "without_text           0" in measured.out
    line = next(line for line in done.out.splitlines() if line.startswith("ap_hard"))
    assert line in measured.out.splitlines()
