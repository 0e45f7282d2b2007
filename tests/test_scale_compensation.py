"""Scale-compensated matching: three readings with overlaps in hundredths, against loops, and what is always true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.scale_compensation import READINGS, match_compensated
from minidetect.models.single_shot import SIDES, SingleShot
from minidetect.reference import boxes as slow

every_reading = pytest.mark.parametrize("reading", READINGS)


def face(row: int) -> list[float]:
    """100 x 10 pixels, far from those of other rows."""
    return [0, 100 * row, 100, 100 * row + 10]


def anchors_of(row: int, *hundredths: float) -> list[list[float]]:
    """The left w hundredths of `face(row)`, whose IoU with it is w / 100."""
    return [[0, 100 * row, w, 100 * row + 10] for w in hundredths]


def matched(anchors, faces, reading: str, **settings) -> list[int]:
    matched_idx, _ = match_compensated(np.array(anchors, np.float64), np.array(faces, np.float64), reading, **settings)
    return matched_idx.tolist()


# ------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("text", [0, 0, 0, -1, -1, -1, -1, -1]),  # the average face has 3, and so has this one
        ("six", [0, 0, 0, 0, 0, 0, -1, -1]),  # 3 more; 0.10 is not over 0.1
        ("image", [0, 0, 0, 0, -1, -1, -1, -1]),  # N = (1 + 1) / 2 = 1 more
    ],
)
def test_one_face(reading, expected):
    anchors = np.array(anchors_of(0, 90, 40, 35, 34, 20, 11, 10, 5), np.float32)
    matched_idx, best_iou = match_compensated(anchors, np.array([face(0)], np.float32), reading)
    np.testing.assert_array_equal(matched_idx, expected)
    np.testing.assert_allclose(best_iou, [0.9, 0.4, 0.35, 0.34, 0.2, 0.11, 0.1, 0.05], rtol=1e-6)
    assert matched_idx.dtype == np.int64 and best_iou.dtype == np.float32


@pytest.mark.parametrize(
    ("reading", "first", "second"),
    [
        ("text", [0, 0, 0, 0, -1], [1, 1, -1, -1, -1]),  # (4 + 1) / 2 faces = 2 whole anchors: one more for the second
        ("six", [0, 0, 0, 0, 0], [1, 1, 1, 1, -1]),  # 2 and 5 more are wanted, 1 and 3 there
        ("image", [0, 0, 0, 0, 0], [1, -1, -1, -1, -1]),  # (2 + 1) / 2 = 1 more in all: 0.33 beats 0.30
    ],
)
def test_two_faces(reading, first, second):
    anchors = anchors_of(0, 90, 80, 70, 60, 33) + anchors_of(1, 36, 30, 20, 15, 10)
    assert matched(anchors, [face(0), face(1)], reading) == first + second


def test_how_many_more_an_image_gets():
    """N is half of: faces with an anchor of 0.35 or more, plus faces with one of 0.5 or more. Both limits count."""
    free = anchors_of(9, 34, 33, 32, 31, 30)  # of a tenth face, whose best anchor is one of stage one
    for best, more in (((35,), 0), ((50,), 1), ((49, 50), 1), ((50, 50), 2), ((50, 50, 35, 35), 3)):
        anchors = [a for row, w in enumerate(best) for a in anchors_of(row, w)] + anchors_of(9, 34.5) + free
        faces = [face(row) for row in range(len(best))] + [face(9)]
        assert sum(i >= 0 for i in matched(anchors, faces, "image")) == len(best) + 1 + more, best


@every_reading
def test_a_face_that_overlaps_little_has_its_best_anchor(reading):
    anchors = anchors_of(0, 90, 80) + anchors_of(1, 4, 5, 3)
    assert matched(anchors, [face(0), face(1), face(2)], reading) == [0, 0, -1, 1, -1]  # the third overlaps nothing


@every_reading
def test_two_faces_with_the_same_best_anchor(reading):
    """IoU 0.8 with the first, 60 / 80 with the second; the later face gets it. The overlap is still the best one."""
    anchors, faces = np.array(anchors_of(0, 80)), np.array([face(0), *anchors_of(0, 60)])
    matched_idx, best_iou = match_compensated(anchors, faces, reading)
    assert matched_idx.tolist() == [1] and best_iou == pytest.approx([0.8])
    assert match_compensated(anchors, faces[::-1], reading)[0].tolist() == [1]


def test_an_anchor_that_two_faces_want_goes_to_the_one_it_overlaps_most():
    """Faces at 0 to 100 and 100 to 200. [60, 130]: 40 / 130 of the first, 30 / 140 of the second."""
    faces = np.array([face(0), [100, 0, 200, 10]], np.float64)
    first, second, nearer_first, nearer_second = [0, 0, 90, 10], [110, 0, 200, 10], [60, 0, 130, 10], [75, 0, 145, 10]
    for nearer, owner in ((nearer_first, 0), (nearer_second, 1)):
        assert matched([first, second, nearer], faces, "six") == [0, 1, owner]
        assert matched([first, second, nearer], faces[::-1], "six") == [1, 0, 1 - owner]


def test_a_face_that_has_enough_leaves_the_anchor_to_another():
    """Text: (5 + 1) / 2 = 3. The first face has 5; the anchor that overlaps it more goes to the second, which has 1."""
    faces = [face(0), [100, 0, 200, 10]]
    anchors = anchors_of(0, 90, 89, 88, 87, 86) + [[110, 0, 200, 10], [60, 0, 130, 10]]
    assert matched(anchors, faces, "text") == [0, 0, 0, 0, 0, 1, 1]
    assert matched(anchors, faces, "image") == [0, 0, 0, 0, 0, 1, 0]  # there it goes to its nearest face in any case


def test_stage_two_takes_no_anchor_from_another_face():
    """[50, 150] is the best of the second face, and 50 / 150 of the first, which wants more."""
    faces = [face(0), [60, 0, 150, 10]]
    anchors = anchors_of(0, 90) + [[50, 0, 150, 10]]
    assert matched(anchors, faces, "six") == [0, 1]


def test_limits_can_be_moved():
    anchors = anchors_of(0, 90, 60, 40, 20, 5)
    assert matched(anchors, [face(0)], "six", positive_iou=0.6, low_iou=0.3) == [0, 0, 0, -1, -1]
    assert matched(anchors, [face(0)], "six", low_iou=0) == [0] * 5
    assert matched(anchors, [face(0)], "text", positive_iou=1, low_iou=1) == [0, -1, -1, -1, -1]


@every_reading
def test_without_faces_or_anchors(reading):
    anchors, none = np.array(anchors_of(0, 90, 20), np.float32), np.zeros((0, 4), np.float32)
    matched_idx, best_iou = match_compensated(anchors, none, reading)
    assert matched_idx.tolist() == [-1, -1] and best_iou.tolist() == [0, 0]
    for faces in (none, anchors):
        matched_idx, best_iou = match_compensated(none, faces, reading)
        assert matched_idx.shape == best_iou.shape == (0,) and matched_idx.dtype == np.int64
    assert match_compensated([], [], reading)[0].shape == (0,)


@every_reading
def test_a_face_without_area_is_nobodys(reading):
    assert matched(anchors_of(0, 90), [face(0), [5, 2, 5, 8]], reading) == [0]


def test_what_is_refused():
    anchors = np.array(anchors_of(0, 50))
    with pytest.raises(ValueError, match="reading must be one of text, six, image, got 'paper'"):
        match_compensated(anchors, anchors, "paper")
    for low, high in ((0.4, 0.3), (-0.1, 0.3), (0, 0), (0.5, 1.1), (np.nan, 0.3)):
        with pytest.raises(ValueError, match="0 <= low_iou <= positive_iou <= 1"):
            match_compensated(anchors, anchors, positive_iou=high, low_iou=low)
    with pytest.raises(ValueError, match=r"gt_boxes must have shape \(N, 4\)"):
        match_compensated(anchors, np.zeros((3, 5)))


def test_it_repairs_what_it_was_made_for():
    """A face of 8 pixels: at best an IoU of (8 / 16)**2 with an anchor, so that the plain rule leaves it one."""
    anchors = SingleShot(sides=SIDES[:4]).anchors([(64 // 2**k, 64 // 2**k) for k in range(4)])
    faces = np.float32([[50, 50, 58, 58], [10, 10, 42, 42]])

    def anchors_of_the_first(reading: str, low_iou: float) -> int:
        return int((match_compensated(anchors, faces, reading, low_iou=low_iou)[0] == 0).sum())

    assert anchors_of_the_first("text", 0.35) == 1
    assert anchors_of_the_first("six", 0.1) == 6
    assert anchors_of_the_first("text", 0.1) > 1


# ------------------------------------------------------------------ against loops


def slow_matching(anchors, faces, reading: str, high: float = 0.35, low: float = 0.1) -> list[int]:
    """The same with lists: who has what after stage one, what each face wishes for, who gets it."""
    overlap = [[slow.iou(a, f) for f in faces] for a in anchors]
    owner: dict[int, int] = {}
    for a, row in enumerate(overlap):
        if max(row) >= high:
            owner[a] = row.index(max(row))
    for f in range(len(faces)):
        column = [row[f] for row in overlap]
        if max(column) > 0:
            owner[column.index(max(column))] = f
    free = [a for a in range(len(anchors)) if a not in owner]
    if reading == "image":
        best = [max(column) for column in zip(*overlap, strict=True)]
        more = (sum(b >= high for b in best) + sum(b >= 0.5 for b in best)) // 2
        wishes = sorted((-max(overlap[a]), a) for a in free if max(overlap[a]) > low)
        owner |= {a: overlap[a].index(max(overlap[a])) for _, a in wishes[:more]}
    else:
        has = [list(owner.values()).count(f) for f in range(len(faces))]
        wanted = 6 if reading == "six" else sum(has) // len(faces)
        claims = []
        for f in range(len(faces)):
            wishes = sorted((-overlap[a][f], a) for a in free if overlap[a][f] > low)
            claims += [(a, minus, f) for minus, a in wishes[: max(0, wanted - has[f])]]
        for a in {a for a, _, _ in claims}:
            owner[a] = min((minus, f) for b, minus, f in claims if b == a)[1]
    return [owner.get(a, -1) for a in range(len(anchors))]


corner, side = st.integers(0, 24), st.integers(1, 16)
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
anchor_lists, face_lists = st.lists(boxes, min_size=1, max_size=40), st.lists(boxes, min_size=1, max_size=6)


@every_reading
@settings(max_examples=50, deadline=None)
@given(anchor_lists, face_lists)
def test_it_agrees_with_loops(reading, anchors, faces):
    """Whole numbers: many ties, and overlaps that equal a limit."""
    assert matched(anchors, faces, reading) == slow_matching(anchors, faces, reading)


@settings(max_examples=50, deadline=None)
@given(anchor_lists, face_lists, st.data())
def test_what_is_always_true(anchors, faces, data):
    iou = np.array([[slow.iou(a, f) for f in faces] for a in anchors])
    best_of_face, best_anchor = iou.max(axis=0), iou.argmax(axis=0)
    stage_one = np.array(matched(anchors, faces, "text", low_iou=0.35))  # nothing is free between 0.35 and 0.35
    results = {reading: np.array(matched(anchors, faces, reading)) for reading in READINGS}
    for result in results.values():
        np.testing.assert_array_equal(result[stage_one >= 0], stage_one[stage_one >= 0])
        for f in np.flatnonzero(best_of_face > 0):  # each has an anchor, or a face with the same best one took it
            assert (result == f).any() or best_anchor[result[best_anchor[f]]] == best_anchor[f]
        for a in np.flatnonzero(result >= 0):
            f = result[a]
            assert iou[a, f] > 0.1 or best_anchor[f] == a
            assert stage_one[a] >= 0 or iou[a, f] < 0.35
    for reading in ("text", "six"):
        wanted = 6 if reading == "six" else int((stage_one >= 0).sum() / len(faces))
        for f in range(len(faces)):
            before = (stage_one == f).sum()
            assert before <= (results[reading] == f).sum() <= max(before, wanted)
    if (stage_one >= 0).sum() / len(faces) < 7:  # then "six" wishes for no fewer than "text" does
        assert set(np.flatnonzero(results["text"] >= 0)) <= set(np.flatnonzero(results["six"] >= 0))
    added = ((results["image"] >= 0) & (stage_one < 0)).sum()
    assert added <= ((best_of_face >= 0.35).sum() + (best_of_face >= 0.5).sum()) // 2
