"""Batches of four types: what is drawn, what is mirrored with it, and how landmark faces are cut (section 2.3)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minidetect.data.landmarks import LandmarkRecord
from minidetect.detection.boxes import to_square
from minidetect.models.cascade_pipeline import Survivors
from minidetect.models.multi_output_cascade import LANDMARK, NEGATIVE, PART, POSITIVE
from minidetect.reference import boxes as slow
from minidetect.train.patches import Pool, empty_pool, face_box
from minidetect.train.typed_batches import (
    TypedBatch,
    TypedSource,
    landmark_faces,
    landmark_proposals,
    points_in_squares,
    transformed,
    turn,
    typed,
)

SETTINGS = settings(max_examples=40, deadline=None)
KINDS = (POSITIVE, NEGATIVE, PART, LANDMARK)


def marked_pool(value: float, count: int = 5, points: bool = False) -> Pool:
    """Patches that can be told by their middle pixel's place in 0 to 255, deltas and points alike."""
    pool = Pool(np.full((count, 12, 12, 3), value, np.uint8), np.full((count, 4), value, np.float32), np.zeros(count))
    return pool._replace(points=np.full((count, 10), value, np.float32) if points else None)


def four_pools() -> dict[int, list]:
    return {
        POSITIVE: [(marked_pool(1), 1.0)], NEGATIVE: [(marked_pool(2), 0.3), (marked_pool(3), 0.7)],
        PART: [(marked_pool(4), 1.0)], LANDMARK: [(marked_pool(5, points=True), 1.0)],
    }  # fmt: skip


# ------------------------------------------------------------------ types


@pytest.mark.parametrize(
    "kind, has_deltas, has_points",
    [(POSITIVE, True, False), (NEGATIVE, False, False), (PART, True, False), (LANDMARK, False, True)],
)
def test_targets_that_a_type_has_not_are_nan(kind, has_deltas, has_points):
    pool = marked_pool(7, points=True)
    batch = typed(pool, kind)
    assert batch.types.tolist() == [kind] * 5 and batch.types.dtype == np.int64
    assert batch.deltas.shape == (5, 4) and batch.points.shape == (5, 10)
    assert (batch.deltas == 7).all() if has_deltas else np.isnan(batch.deltas).all()
    assert (batch.points == 7).all() if has_points else np.isnan(batch.points).all()


def test_types_without_patches():
    for kind in KINDS:
        batch = typed(marked_pool(0, count=0, points=True), kind)
        assert [len(array) for array in batch] == [0, 0, 0, 0] and batch.points.shape == (0, 10)


# ------------------------------------------------------------------ batches


@SETTINGS
@given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(any), st.integers(0, 10**6))
def test_a_batch_holds_the_counts_asked_for(numbers, seed):
    counts = dict(zip(KINDS, numbers, strict=True))
    batch = TypedSource(four_pools(), counts).draw(np.random.default_rng(seed))
    assert {kind: int((batch.types == kind).sum()) for kind in KINDS} == counts
    assert len(batch.patches) == sum(numbers) and batch.patches.dtype == np.float32
    assert np.isnan(batch.deltas[(batch.types == NEGATIVE) | (batch.types == LANDMARK)]).all()
    assert (np.abs(batch.deltas[batch.types == POSITIVE]) == 1).all()
    assert (np.abs(batch.deltas[batch.types == PART]) == 4).all()
    assert np.isfinite(batch.points[batch.types == LANDMARK]).all()
    assert np.isnan(batch.points[batch.types != LANDMARK]).all()


@SETTINGS
@given(st.integers(0, 60), st.lists(st.floats(0.01, 5), min_size=1, max_size=5))
def test_pools_have_their_shares_of_a_type(count, shares):
    """To within one sample, and all together exactly; shares need not add up to 1."""
    pools = {PART: [(marked_pool(i + 1), share) for i, share in enumerate(shares)]}
    source = TypedSource(pools, {PART: max(count, 1)})
    drawn = source.of_type(PART, count, np.random.default_rng(0)).deltas[:, 1]
    assert len(drawn) == count
    for i, share in enumerate(shares):
        assert abs((drawn == i + 1).sum() - share / sum(shares) * count) <= 1


def test_shares_are_rounded_to_the_nearest_sample():
    """Of five at 0.3 and 0.7: the first pool ends at 1.5, which rounds up. Of three at 1 and 1: at 1.5, too."""
    rng = np.random.default_rng(0)
    for shares, count, first in (((0.3, 0.7), 5, 2), ((1, 1), 3, 2), ((0.3, 0.7), 4, 1)):
        pools = {PART: [(marked_pool(k + 1), share) for k, share in enumerate(shares)]}
        drawn = TypedSource(pools, {PART: count}).of_type(PART, count, rng).deltas[:, 1]
        assert [(drawn == 1).sum(), (drawn == 2).sum()] == [first, count - first]


def test_a_pool_without_a_share_may_be_empty():
    pools = {NEGATIVE: [(marked_pool(2), 1.0), (empty_pool(), 0.0)]}
    assert len(TypedSource(pools, {NEGATIVE: 7}).draw(np.random.default_rng(0)).types) == 7


@pytest.mark.parametrize("parts", [[], [(empty_pool(), 1.0)], [(marked_pool(2), 0.5), (empty_pool(), 0.5)],
                                   [(marked_pool(2), 0.0)]])  # fmt: skip
def test_nothing_to_draw_from_is_an_error(parts):
    pools = four_pools() | {PART: parts}
    with pytest.raises(ValueError, match="no patches of type -1 .part. to draw a batch from"):
        TypedSource(pools, {POSITIVE: 1, PART: 1})
    assert len(TypedSource(pools, {POSITIVE: 1, PART: 0}).draw(np.random.default_rng(0)).types) == 1  # none are asked


def test_batches_of_one_type():
    """Each of 64 samples of one type; the types come as often as the counts say."""
    counts = {POSITIVE: 10, NEGATIVE: 60, PART: 20, LANDMARK: 10}
    source, rng = TypedSource(four_pools(), counts, single=16), np.random.default_rng(3)
    drawn = [source.draw(rng) for _ in range(300)]
    assert all(len(batch.types) == 16 and len(np.unique(batch.types)) == 1 for batch in drawn)
    kinds = np.array([batch.types[0] for batch in drawn])
    for kind, count in counts.items():
        assert abs((kinds == kind).mean() - count / 100) < 0.1


def test_a_type_of_which_none_are_asked_is_never_drawn_alone():
    source = TypedSource(four_pools(), {POSITIVE: 1, NEGATIVE: 0, PART: 1, LANDMARK: 0}, single=3)
    rng = np.random.default_rng(0)
    assert {int(source.draw(rng).types[0]) for _ in range(40)} == {POSITIVE, PART}


@pytest.mark.parametrize("single", [0, 6])
def test_batches_differ_and_repeat_with_the_generator(single):
    pools = four_pools()
    pools[POSITIVE] = [(Pool(np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8),
                             np.arange(120, dtype=np.float32).reshape(30, 4), np.zeros(30)), 1.0)]  # fmt: skip
    source = TypedSource(pools, {POSITIVE: 8}, single)
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    first, same, other = source.draw(a), source.draw(b), source.draw(a)
    for one, two in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, two)
    assert (first.deltas != other.deltas).any() and (first.patches != other.patches).any()


# ------------------------------------------------------------------ mirrors

MARKS = np.array([[3, 4], [14, 5], [9, 10], [5, 16], [13, 15]])  # x, y of the pixel that each point is in


def marked_face(count: int) -> TypedBatch:
    """20 x 20 patches on which each landmark is a pixel of its own grey, 240 down to 160, on black."""
    patches = np.zeros((count, 20, 20, 3), np.float32)
    for k, (x, y) in enumerate(MARKS):
        patches[:, y, x] = 240 - 20 * k
    points = np.tile((MARKS + 0.5).ravel() / 20, (count, 1)).astype(np.float32)
    types = np.full(count, LANDMARK)
    return TypedBatch(patches, types, np.full((count, 4), np.nan, np.float32), points)


def test_mirrored_points_stay_on_their_feature_and_change_their_names():
    """The two eyes are told apart by their grey: mirrored, the brighter one (the left) stands at the right's place."""
    batch = marked_face(60)
    before = [array.copy() for array in batch]
    after = transformed(batch, np.random.default_rng(1))
    for array, kept in zip(batch, before, strict=True):
        np.testing.assert_array_equal(array, kept)
    greys, mirrored = [240, 220, 200, 180, 160], 0
    for patch, points in zip(after.patches, after.points.reshape(-1, 5, 2), strict=True):
        flip = points[0, 0] == np.float32(1) - np.float32(14.5 / 20)
        pixels = patch.mean(axis=2)
        background = pixels[0, 0]
        columns, rows = np.floor(points * 20).astype(int).T
        found = pixels[rows, columns]
        assert (found > background).all()  # each point is on a mark, wherever that is now
        order = [1, 0, 2, 4, 3] if flip else [0, 1, 2, 3, 4]
        expected = np.array(greys)[order]
        assert (np.diff(found[np.argsort(-expected)]) <= 1e-3).all()  # and on the right one
        assert points[0, 0] < points[1, 0] and points[3, 0] < points[4, 0]  # "left" is the viewer's left, again
        mirrored += flip
    assert 15 < mirrored < 45
    assert np.isnan(after.deltas).all() and (after.types == LANDMARK).all()


def test_mirrored_deltas_point_to_the_other_side():
    batch = marked_face(60)._replace(types=np.full(60, PART), deltas=np.tile(np.float32([0.1, 0.2, 0.3, 0.4]), (60, 1)))
    after = transformed(batch, np.random.default_rng(1))
    flip = after.patches[:, 4, 3].mean(axis=1) <= after.patches[:, 0, 0].mean(axis=1) + 1e-3
    assert 15 < flip.sum() < 45
    np.testing.assert_array_equal(after.deltas[:, 0], np.where(flip, np.float32(-0.1), np.float32(0.1)))
    np.testing.assert_array_equal(after.deltas[:, 1:], batch.deltas[:, 1:])


# ------------------------------------------------------------------ turned faces


def record(points: np.ndarray) -> LandmarkRecord:
    points = np.asarray(points, np.float32)
    low, high = points.min(axis=0), points.max(axis=0)
    return LandmarkRecord("face.png", np.array([*low, *high], np.float32), points)


def brightest(image: np.ndarray) -> np.ndarray:
    """The centre of mass of what is bright, x and y, where a pixel's middle is half past its number."""
    weight = image.astype(float).mean(axis=2)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


@SETTINGS
@given(st.floats(-180, 180), st.integers(0, 4), st.integers(0, 10**6))
def test_points_follow_the_picture(degrees, which, seed):
    """A bright spot of 3 x 3 pixels on each landmark in turn: it is found again where the turned record says."""
    rng = np.random.default_rng(seed)
    pixels = 50 + rng.integers(-18, 19, (5, 2))
    face = record(pixels + 0.5)
    image = np.zeros((100, 101, 3), np.uint8)
    x, y = pixels[which]
    image[y - 1 : y + 2, x - 1 : x + 2] = 255
    turned, moved = turn(image, face, degrees)
    assert turned.shape == image.shape and turned.dtype == np.uint8 and moved.points.dtype == np.float32
    np.testing.assert_allclose(brightest(turned), moved.points[which], atol=0.12)
    np.testing.assert_allclose(moved.points.mean(axis=0), face.points.mean(axis=0), atol=1e-3)
    np.testing.assert_array_equal(moved.box, face.box)


def test_a_quarter_turn_clockwise():
    """What was to the right of the centre is below it then: y grows downwards."""
    face = record([[60, 50], [40, 50], [50, 50], [50, 40], [50, 60]])
    _, moved = turn(np.zeros((100, 100, 3), np.uint8), face, 90)
    np.testing.assert_allclose(moved.points, [[50, 60], [50, 40], [50, 50], [60, 50], [40, 50]], atol=1e-4)


def test_no_turn_is_the_same_picture(rng):
    image = rng.integers(0, 256, (40, 40, 3), np.uint8)
    face = record(rng.uniform(10, 30, (5, 2)))
    turned, moved = turn(image, face, 0.0)
    np.testing.assert_array_equal(turned, image)
    np.testing.assert_allclose(moved.points, face.points, atol=1e-5)


# ------------------------------------------------------------------ patches with landmarks

FACE = np.array([[40, 42], [72, 42], [56, 60], [44, 76], [68, 76]], np.float32)


def test_points_are_told_in_sides_of_the_square(rng):
    """Of a square of 80 from (16, 10) the left eye at (40, 42) lies at 0.3, 0.4."""
    image = rng.integers(0, 256, (112, 112, 3), np.uint8)
    squares = np.array([[16, 10, 96, 90], [-20, -10, 100, 110]], np.float32)
    pool = points_in_squares(image, squares, record(FACE))
    np.testing.assert_allclose(pool.points[0, :2], [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(pool.points[1].reshape(5, 2), (FACE + [20, 10]) / 120, rtol=1e-6)
    assert pool.patches.shape == (2, 48, 48, 3) and pool.points.dtype == np.float32
    none = points_in_squares(image, squares[:0], record(FACE))
    assert none.points.shape == (0, 10) and none.patches.shape == (0, 48, 48, 3)


def crops(folder, count: int) -> list[LandmarkRecord]:
    """Grey crops with a bright spot of 9 x 9 pixels on the right eye, each face a little elsewhere."""
    records = []
    for i in range(count):
        points = FACE + [3 * i, 2 * i]
        image = np.full((112, 112, 3), 60, np.uint8)
        x, y = points[1].astype(int)
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
        Image.fromarray(image).save(folder / f"{i}.png")
        middle, half = points.mean(axis=0), 28
        box = np.array([*(middle - half), *(middle + half)], np.float32)
        records.append(LandmarkRecord(folder / f"{i}.png", box, points.astype(np.float32)))
    return records


def test_landmark_faces_show_their_points(tmp_path):
    """The spot on an eye is found where that eye is said to be, in every patch, however the face was turned."""
    records = crops(tmp_path, 3)
    pool = landmark_faces(records, np.random.default_rng(0), turns=4, each=2)
    count = len(pool.patches)
    assert 3 * 4 < count <= 3 * 4 * 2
    assert pool.patches.shape == (count, 48, 48, 3) and pool.points.shape == (count, 10)
    assert (pool.iou > 0.65).all() and np.isfinite(pool.points).all()
    right_eyes = pool.points.reshape(-1, 5, 2)[:, 1]
    for patch, eye in zip(pool.patches, right_eyes, strict=True):
        spot = patch.astype(float).mean(axis=2) > 160
        rows, columns = np.nonzero(spot)
        found = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / 48
        np.testing.assert_allclose(found, eye + 0.5 / 80, atol=0.02)  # the spot's middle is half a pixel on
    eyes = pool.points.reshape(-1, 5, 2)[:, 1] - pool.points.reshape(-1, 5, 2)[:, 0]
    tilt = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert np.abs(tilt).max() <= 20.01 and tilt.min() < -3 and tilt.max() > 3


def test_landmark_patches_overlap_the_faces_square(tmp_path):
    """Read back from the points: the square that was cut, and its overlap with the square of the face."""
    (face,) = crops(tmp_path, 1)
    pool = landmark_faces([face], np.random.default_rng(0), turns=3, each=3, max_turn=0.0)
    around = to_square(face_box(face)[None])[0].tolist()
    for points, iou in zip(pool.points.reshape(-1, 5, 2), pool.iou, strict=True):
        side = (FACE[1, 0] - FACE[0, 0]) / (points[1, 0] - points[0, 0])
        corner = FACE[0] - points[0] * side
        overlap = slow.iou((*corner, *(corner + side)), around)
        assert overlap == pytest.approx(iou, abs=1e-3) and overlap > 0.65


def test_no_records_are_an_empty_pool():
    for pool in (
        landmark_faces([], np.random.default_rng(0)), landmark_proposals([], Proposing([]), np.random.default_rng(0))
    ):  # fmt: skip
        assert pool.patches.shape == (0, 48, 48, 3) and pool.points.shape == (0, 10)


class Proposing:
    """In place of a pipeline: its first two stages leave these boxes, wherever a face is."""

    levels_per_octave = 3

    def __init__(self, boxes) -> None:
        self.boxes, self.asked = np.array(boxes, np.float32).reshape(-1, 4), []

    def survivors(self, pyramid, min_face, stages=3, min_score=None):
        self.asked.append((min_face, stages))
        return Survivors(self.boxes, np.ones(len(self.boxes), np.float32), [], None)


def test_landmark_faces_in_the_squares_that_are_proposed(tmp_path):
    """Boxes near the face, as squares, at most two of them a turn; one that overlaps it too little is never cut."""
    records = crops(tmp_path, 2)
    (x1, y1, x2, y2), shift = face_box(records[0]), np.array([0, 6, 12])
    near = [[x1 + d, y1 + d / 2, x2 + d, y2 + d / 2] for d in shift]
    proposing = Proposing([*near, [0, 0, 20, 20]])
    pool = landmark_proposals(records, proposing, np.random.default_rng(0), turns=5, each=2)
    assert len(pool.patches) == 2 * 5 * 2 and (pool.iou > 0.4).all()
    assert proposing.asked == [(28, 2)] * 10  # half of the face's box of 56 pixels
    side, sides, corners = max(x2 - x1, y2 - y1), set(), set()
    for k, (patch, points) in enumerate(zip(pool.patches, pool.points.reshape(-1, 5, 2), strict=True)):
        rows, columns = np.nonzero(patch.astype(float).mean(axis=2) > 160)
        found = np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / 48
        np.testing.assert_allclose(found, points[1] + 0.5 / side, atol=0.02)
        centre = records[k // 10].points.mean(axis=0)  # no turn moves it
        corners.add(tuple((centre - points.mean(axis=0) * side).round(1).tolist()))
        sides.add(round(float(np.linalg.norm(FACE[1] - FACE[0]) / np.linalg.norm(points[1] - points[0])), 1))
    assert sides == {round(float(side), 1)}  # squares of the boxes' size, whatever the turn
    squares = to_square(np.array(near, np.float32))
    assert corners == {tuple(corner) for corner in squares[:, :2].round(1).tolist()}  # at random, not the first two
    none = landmark_proposals(records, Proposing([[0, 0, 20, 20]]), np.random.default_rng(0))
    assert none.patches.shape == (0, 48, 48, 3) and none.points.shape == (0, 10)


def test_a_square_of_which_no_jitter_overlaps_enough_is_left_out(tmp_path):
    pool = landmark_faces(crops(tmp_path, 1), np.random.default_rng(0), turns=1, each=1, min_iou=0.999)
    assert len(pool.patches) == 0 and pool.points.shape == (0, 10)
