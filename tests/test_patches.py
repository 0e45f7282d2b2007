"""Training patches: where they are cut, what is never a negative (FC-22), and the batches drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minidetect.autograd import Tensor
from minidetect.data.landmarks import LandmarkRecord
from minidetect.data.synthetic import draw_scene
from minidetect.detection.box_coder import BoxCoder
from minidetect.detection.boxes import to_square
from minidetect.detection.pyramid import ImagePyramid
from minidetect.detection.sampler import sliding_windows
from minidetect.detection.structures import make_target
from minidetect.models.facecraft import TABLES, SeparateCascade
from minidetect.ops.pool import avg_pool2d
from minidetect.reference import boxes as slow
from minidetect.train import patches
from minidetect.train.patches import (
    BatchSource,
    Found,
    Photo,
    Pool,
    augment,
    collect,
    cut,
    empty_pool,
    face_box,
    jittered_squares,
    landmark_photos,
    mine,
    negatives_among,
    scene_photos,
    wider_photos,
)

SETTINGS = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def random_boxes(rng, count, extent=150, side=(15, 60)):
    corners = rng.uniform(0, extent, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(*side, (count, 2))], axis=1).astype(np.float32)


def square_around(box):
    """The square of a box, in plain numbers."""
    x, y, half = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, max(box[2] - box[0], box[3] - box[1]) / 2
    return x - half, y - half, x + half, y + half


def make_pool(rng, count, size=48):
    return Pool(
        rng.integers(0, 256, (count, size, size, 3), np.uint8),
        rng.standard_normal((count, 4)).astype(np.float32),
        rng.uniform(0.7, 1, count).astype(np.float32),
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three drawn photos on disk with faces, rows of small ones to ignore, and one photo without faces."""
    folder, found = tmp_path_factory.mktemp("photos"), []
    for i, preset in enumerate(["faces_scales", "faces_hard", "faces_scales"]):
        scene = draw_scene(preset, seed=5, index=i, size=(120, 130), crowd=1.0, num_faces=(0, 0) if i == 2 else (2, 4))
        target = scene.target() if i < 2 else make_target(np.zeros((0, 4)), ignore=scene.boxes)
        Image.fromarray(scene.image).save(folder / f"{i}.png")
        found.append(Photo(folder / f"{i}.png", lambda size, target=target: target))
    assert any(len(photo.target((120, 130)).ignore) for photo in found)
    return found


# ------------------------------------------------------------------ positives


@SETTINGS
@given(seeds, st.integers(1, 5), st.integers(1, 10), st.sampled_from([0.5, 0.7, 0.85]))
def test_jittered_squares_are_near_their_own_face(seed, faces, each, min_iou):
    rng = np.random.default_rng(seed)
    gt = random_boxes(rng, faces)
    squares, owner = jittered_squares(gt, each, min_iou, rng)
    assert len(squares) == len(owner) <= each * faces and squares.dtype == np.float32
    for square, face in zip(squares, owner, strict=True):
        overlaps = [slow.iou(square.astype(float), square_around(g.astype(float))) for g in gt]
        assert overlaps[face] > min_iou - 1e-5
        assert overlaps[face] == pytest.approx(max(overlaps), abs=1e-6)
        assert square[2] - square[0] == pytest.approx(square[3] - square[1], abs=1e-3)


def test_every_face_gets_about_as_many_squares(rng):
    gt = np.array([[0, 0, 20, 30], [100, 100, 180, 180], [300, 10, 360, 40]], np.float32)
    squares, owner = jittered_squares(gt, 20, 0.7, rng)
    counts = np.bincount(owner, minlength=3)
    assert counts.sum() == len(squares) == 60 and (counts >= 10).all() and (counts <= 30).all()
    assert len(np.unique(squares, axis=0)) == 60


def test_no_faces_no_squares(rng):
    squares, owner = jittered_squares(np.zeros((0, 4), np.float32), 6, 0.7, rng)
    assert squares.shape == (0, 4) and owner.shape == (0,)


def test_a_cut_positive_knows_its_face_and_its_overlap(rng):
    image = rng.integers(0, 256, (80, 90, 3), np.uint8)
    squares = np.array([[10, 10, 58, 58], [20, 10, 60, 50]], np.float32)
    faces = np.array([[10, 10, 58, 58], [20, 10, 50, 50]], np.float32)
    pool = cut(ImagePyramid(image), squares, faces)
    np.testing.assert_array_equal(pool.patches[0], image[10:58, 10:58])  # 48 pixels are a copy
    np.testing.assert_allclose(pool.deltas[0], 0, atol=1e-6)
    np.testing.assert_allclose(pool.deltas[1], [-5 / 40, 0, np.log(30 / 40), 0], atol=1e-6)
    # the second face's square is 40 wide around x = 35: it reaches from 15 to 55, and shares 35 of 45 columns
    np.testing.assert_allclose(pool.iou, [1, 35 / 45], rtol=1e-6)
    np.testing.assert_allclose(BoxCoder().decode(squares, pool.deltas), faces, atol=1e-4)


def test_cut_of_nothing(rng):
    pyramid = ImagePyramid(rng.integers(0, 256, (30, 30, 3), np.uint8))
    nothing = np.zeros((0, 4), np.float32)
    for pool in (cut(pyramid, nothing), cut(pyramid, nothing, nothing)):
        for array, empty in zip(pool[:3], empty_pool()[:3], strict=True):
            assert array.shape == empty.shape and array.dtype == empty.dtype
        assert pool.points is None


# ------------------------------------------------------------------ negatives (FC-22)


def is_negative(window, target, max_iou=0.5) -> bool:
    """Holds no face's square by half, and lies by no more than half in an ignore region: in plain numbers."""
    window = [float(v) for v in window]
    free = all(slow.iou(window, square_around([float(v) for v in gt])) < max_iou for gt in target.boxes)
    return free and all(slow.intersection_over_first(window, region) <= 0.5 for region in target.ignore.tolist())


@SETTINGS
@given(seeds, st.integers(0, 4), st.integers(0, 3), st.sampled_from([5, 10_000]), st.sampled_from([0.3, 0.5]))
def test_no_negative_holds_a_face_or_lies_in_an_ignore_region(seed, faces, regions, most, max_iou):
    rng = np.random.default_rng(seed)
    target = make_target(random_boxes(rng, faces), ignore=random_boxes(rng, regions, side=(20, 90)))
    windows = np.concatenate([sliding_windows((200, 200), 12, 8, 2, 4, rng=rng), to_square(target.boxes)])
    windows = rng.permutation(windows)[:300]
    chosen = negatives_among(windows, target, most, rng, max_iou)
    allowed = np.array([is_negative(w, target, max_iou) for w in windows], bool)
    if most == 10_000:
        np.testing.assert_array_equal(chosen, windows[allowed])
    else:
        assert len(chosen) == min(most, allowed.sum())
        assert all(is_negative(w, target, max_iou) for w in chosen)
        assert len(np.unique(chosen, axis=0)) == len(chosen)


def recorded(monkeypatch):
    """What `cut` is asked for: a list of (pyramid, squares, faces or None)."""
    calls, original = [], patches.cut

    def recording(pyramid, squares, faces=None):
        calls.append((pyramid, squares, faces))
        return original(pyramid, squares, faces)

    monkeypatch.setattr(patches, "cut", recording)
    return calls


def assert_windows_are_right(calls, photos, min_iou, negative_iou=0.5):
    """What is cut with a face overlaps it as a positive or, only where those are asked for, as a part does.

    Returns how many squares of each kind were cut: positives, parts, negatives.
    """
    pyramids = list(dict.fromkeys(pyramid for pyramid, _, _ in calls))  # one a photo, in order
    counts = [0, 0, 0]
    for photo, pyramid in zip(photos, pyramids, strict=True):
        target = photo.target(pyramid.size)
        (windows,) = [squares for of, squares, faces in calls if of is pyramid and faces is None]
        assert all(is_negative(w, target, negative_iou) for w in windows)
        counts[2] += len(windows)
        for _, squares, faces in (call for call in calls if call[0] is pyramid and call[2] is not None):
            assert len(squares) == len(faces)
            overlaps = []
            for square, face in zip(squares.tolist(), faces.tolist(), strict=True):
                overlaps.append(slow.iou(square, square_around(face)))
                assert face in target.boxes.tolist()
                others = [slow.iou(square, square_around(gt)) for gt in target.boxes.tolist()]
                assert overlaps[-1] == pytest.approx(max(others), abs=1e-6)  # the face that it overlaps most
            if min(overlaps, default=1) >= min_iou - 1e-5:
                counts[0] += len(squares)
            else:
                assert all(negative_iou - 1e-5 <= iou <= min_iou + 1e-5 for iou in overlaps)
                counts[1] += len(squares)
    assert counts[2] > 20
    return counts


def test_collected_windows(photos, monkeypatch, rng):
    calls = recorded(monkeypatch)
    positives, negatives, parts = collect(photos, rng, 6, 40, 10)
    assert assert_windows_are_right(calls, photos, 0.7) == [len(positives.patches), 0, len(negatives.patches)]
    assert len(parts.patches) == 0
    faces = sum(len(photo.target((120, 130)).boxes) for photo in photos)
    assert faces > 2 and 3 * faces <= len(positives.patches) <= 6 * faces
    assert 3 * 40 <= len(negatives.patches) <= 3 * 50
    assert (positives.iou > 0.7).all() and not negatives.deltas.any() and not negatives.iou.any()
    assert positives.patches.shape[1:] == negatives.patches.shape[1:] == (48, 48, 3)


def test_mined_windows(photos, monkeypatch, rng):
    """A cascade that takes everything for a face hands over everything it looked at."""
    tables = (TABLES[0], ((4, 3, 3),), ((4, 3, 3),))
    cascade = SeparateCascade(rng, tables, max_proposals=300, stage_nms=None)
    for net in (cascade.x12, cascade.x24):
        net.logits.bias.data[:] = [-50, 50]
        net.deltas.weight.data[...] = 0  # boxes stay where the windows are
    calls = recorded(monkeypatch)
    positives, negatives, parts = mine(cascade, photos, 2, rng, negatives_per_photo=30)
    assert assert_windows_are_right(calls, photos, 0.7) == [len(positives.patches), 0, 3 * 30]
    assert len(positives.patches) > 0 and len(negatives.patches) == 3 * 30 and len(parts.patches) == 0
    nothing = mine(cascade, [], 2, rng, 30)
    assert [len(pool.patches) for pool in nothing] == [0, 0, 0]


def test_part_faces_lie_between_negatives_and_positives(photos, monkeypatch, rng):
    """Multi-output cascade, section 2.4: below 0.3, from 0.7 on, and what lies between; cut at random and mined."""
    cascade = SeparateCascade(rng, (TABLES[0], ((4, 3, 3),), ((4, 3, 3),)), max_proposals=3000, stage_nms=None)
    cascade.x12.logits.bias.data[:] = [-50, 50]
    cascade.x12.deltas.weight.data[...] = 0
    settings = {"min_iou": 0.7, "negative_iou": 0.3}
    faces = sum(len(photo.target((120, 130)).boxes) for photo in photos)
    for make, most in (
        (lambda: collect(photos, rng, 6, 40, 10, 4, **settings), 4 * faces),
        (lambda: mine(cascade, photos, 1, rng, 30, 20, 15, **settings), 15 * 2),  # two photos have faces
    ):
        calls = recorded(monkeypatch)
        found = make()
        counts = assert_windows_are_right(calls, photos, **settings)
        assert counts == [len(found.positives.patches), len(found.parts.patches), len(found.negatives.patches)]
        assert min(counts) > 0 and most / 2 < counts[1] <= most
        assert (found.positives.iou >= 0.7 - 1e-6).all()
        assert (found.parts.iou >= 0.3 - 1e-6).all() and (found.parts.iou <= 0.7 + 1e-6).all()
        assert found.parts.deltas.any() and found.parts.points is None
        monkeypatch.undo()


def test_what_was_found_is_joined_kind_by_kind(rng):
    first, second = (Found(*(make_pool(rng, count) for count in counts)) for counts in ((1, 2, 3), (4, 0, 1)))
    joined = Found.join([first, second])
    assert [len(pool.patches) for pool in joined] == [5, 2, 4]
    np.testing.assert_array_equal(joined.parts.deltas[3:], second.parts.deltas)


@SETTINGS
@given(seeds, st.integers(1, 4), st.integers(1, 8))
def test_squares_beside_a_face_overlap_it_within_bounds(seed, faces, each):
    """Wider jitter, and an upper bound of the overlap: part faces."""
    rng = np.random.default_rng(seed)
    gt = random_boxes(rng, faces)
    squares, owner = jittered_squares(gt, each, 0.3, rng, max_iou=0.7, shift=0.4, octaves=0.6)
    assert len(squares) == len(owner) <= each * faces
    for square, face in zip(squares, owner, strict=True):
        assert 0.3 - 1e-5 < slow.iou(square.astype(float), square_around(gt[face].astype(float))) < 0.7 + 1e-5
        moved = (square[:2] + square[2:]) / 2 - (gt[face, :2] + gt[face, 2:]) / 2
        side = (gt[face, 2:] - gt[face, :2]).max()
        assert (np.abs(moved) <= 0.4 * side + 1e-3).all()
        assert 2**-0.6 - 1e-4 <= (square[2] - square[0]) / side <= 2**0.6 + 1e-4


def test_a_cascade_that_finds_nothing_mines_nothing(photos, rng):
    cascade = SeparateCascade(rng, (TABLES[0], ((4, 3, 3),), ((4, 3, 3),)))
    cascade.x12.logits.bias.data[:] = [50, -50]
    for pool in mine(cascade, photos, 1, rng, 30, parts_per_photo=5):
        assert pool.patches.shape == (0, 48, 48, 3) and pool.deltas.shape == (0, 4)


# ------------------------------------------------------------------ pools


def test_a_pool_comes_back_from_disk(tmp_path, rng):
    for count in (3, 0):
        pool = make_pool(rng, count)
        pool.save(tmp_path / "pool.npz")
        again = Pool.load(tmp_path / "pool.npz")
        for before, after in zip(pool[:3], again[:3], strict=True):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        assert again.points is None
        points = rng.standard_normal((count, 10)).astype(np.float32)
        pool._replace(points=points).save(tmp_path / "points.npz")
        np.testing.assert_array_equal(Pool.load(tmp_path / "points.npz").points, points)


def test_rows_of_a_pool_keep_together(rng):
    pool = make_pool(rng, 4)._replace(points=np.arange(40, dtype=np.float32).reshape(4, 10))
    for rows in (np.array([2, 0]), np.array([False, True, True, False])):
        chosen = pool.rows(rows)
        for all_of_them, some in zip(pool, chosen, strict=True):
            np.testing.assert_array_equal(some, all_of_them[rows])
    assert pool._replace(points=None).rows(np.array([1])).points is None
    joined = Pool.join([pool, pool.rows(np.array([3]))])
    np.testing.assert_array_equal(joined.points[4], pool.points[3])


@pytest.mark.parametrize(("size", "k"), [(24, 2), (12, 4), (48, 1)])
def test_a_shrunk_pool_holds_the_rounded_means_of_blocks(size, k, rng):
    pool = make_pool(rng, 3)
    small = pool.shrunk(size)
    total = sum(pool.patches[:, i::k, j::k].astype(int) for i in range(k) for j in range(k))
    np.testing.assert_array_equal(small.patches, (2 * total + k * k) // (2 * k * k))
    assert small.patches.dtype == np.uint8 and small.deltas is pool.deltas and small.iou is pool.iou


def test_a_shrunk_pool_is_what_the_joint_network_pools(rng):
    pool = make_pool(rng, 2)
    pooled = avg_pool2d(Tensor(pool.patches.transpose(0, 3, 1, 2).astype(np.float32)), 4).data
    assert np.abs(pool.shrunk(12).patches.transpose(0, 3, 1, 2) - pooled).max() <= 0.501


def test_a_large_pool_is_shrunk_piece_by_piece(rng):
    pool = make_pool(rng, 5000, size=4)
    expected = pool.patches.reshape(5000, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    assert np.abs(pool.shrunk(2).patches - expected).max() <= 0.5


def test_pools_are_joined_in_order(rng):
    a, b = make_pool(rng, 2), make_pool(rng, 3)
    joined = Pool.join([a, empty_pool(), b])
    np.testing.assert_array_equal(joined.patches[2:], b.patches)
    assert joined.deltas.shape == (5, 4) and joined.iou.shape == (5,) and joined.patches.dtype == np.uint8


# ------------------------------------------------------------------ batches


def test_a_mirrored_patch_has_its_face_on_the_other_side(rng):
    """Each patch is dark on its left; where the augmented one is dark on its right, tx has changed its sign."""
    x = np.zeros((200, 24, 24, 3), np.uint8)
    x[:] = np.linspace(60, 190, 24, dtype=np.uint8)[:, None]
    deltas = np.tile(np.array([0.1, 0.2, 0.3, 0.4], np.float32), (200, 1))
    before = x.copy()
    y, said = augment(x, np.random.default_rng(1))
    np.testing.assert_array_equal(x, before)
    mirrored = y[:, :, 0].mean(axis=(1, 2)) > y[:, :, -1].mean(axis=(1, 2))
    assert 70 < mirrored.sum() < 130
    assert said.dtype == bool
    np.testing.assert_array_equal(said, mirrored)
    pool = Pool(x, deltas, np.ones(200, np.float32))
    y, _, moved = BatchSource(pool, [(pool, 1.0)], 200, 0.5).draw(rng)
    mirrored = y[:, :, 0].mean(axis=(1, 2)) > y[:, :, -1].mean(axis=(1, 2))
    assert 70 < mirrored.sum() < 130
    np.testing.assert_array_equal(moved[:, 0], np.where(mirrored, np.float32(-0.1), np.float32(0.1)))
    np.testing.assert_array_equal(moved[:, 1:], deltas[:, 1:])
    assert (deltas[:, 0] > 0).all()


def test_a_batch_draws_what_it_always_drew(rng):
    """A run of a seed must give the same weights tomorrow: rows pool by pool, then mirror, grey, contrast, offsets."""
    positives, negatives = make_pool(rng, 30, size=4), make_pool(rng, 20, size=4)
    x, labels, deltas = BatchSource(positives, [(negatives, 1.0)], 10, 0.3).draw(np.random.default_rng(7))
    twin = np.random.default_rng(7)
    first, second = twin.integers(0, 30, 3), twin.integers(0, 20, 7)
    expected = np.concatenate([positives.patches[first], negatives.patches[second]]).astype(np.float64)
    moves = np.concatenate([positives.deltas[first], negatives.deltas[second]])
    mirrored, grey = twin.random(10) < 0.5, twin.random(10) < 0.2
    contrast, brightness = twin.uniform(0.7, 1.3, 10), twin.uniform(-25, 25, 10)
    colour = twin.uniform(-8, 8, (10, 3))
    for i in range(10):
        if mirrored[i]:
            expected[i], moves[i, 0] = expected[i][:, ::-1].copy(), -moves[i, 0]
        if grey[i]:
            expected[i] = (expected[i] * [0.299, 0.587, 0.114]).sum(axis=2, keepdims=True)
        expected[i] = (expected[i] - 128) * contrast[i] + 128 + brightness[i] + colour[i]
    assert mirrored.any() and grey.any()
    np.testing.assert_allclose(x, np.clip(expected, 0, 255), atol=1e-3)
    np.testing.assert_array_equal(deltas, moves)
    assert labels.tolist() == [1] * 3 + [0] * 7


def test_augmented_patches_differ_stay_in_range_and_repeat(rng):
    x = make_pool(rng, 50, size=12).patches
    y, _ = augment(x, np.random.default_rng(1))
    again, _ = augment(x, np.random.default_rng(1))
    np.testing.assert_array_equal(y, again)
    assert y.dtype == np.float32 and y.min() >= 0 and y.max() <= 255
    same = np.concatenate([x[:1]] * 30)
    brightness = augment(same, rng)[0].mean(axis=(1, 2, 3))
    assert brightness.std() > 5


def test_no_patches_to_augment(rng):
    y, mirrored = augment(empty_pool().patches, rng)
    assert y.shape == (0, 48, 48, 3) and mirrored.shape == (0,) and mirrored.dtype == bool


def marked_pool(value, count=5):
    """Patches that can be told by their deltas."""
    zeros = np.zeros((count, 12, 12, 3), np.uint8)
    return Pool(zeros, np.full((count, 4), value, np.float32), np.zeros(count, np.float32))


def test_a_batch_holds_the_fractions_asked_for(rng):
    source = BatchSource(marked_pool(1), [(marked_pool(2), 0.3), (marked_pool(3), 0.7)], 100, 0.2)
    x, labels, deltas = source.draw(rng)
    assert x.shape == (100, 12, 12, 3) and x.dtype == np.float32
    assert labels.dtype == np.int64 and labels.sum() == 20
    which = deltas[:, 1]
    assert (which[labels == 1] == 1).all()
    assert (which == 2).sum() == 24 and (which == 3).sum() == 56


@SETTINGS
@given(st.integers(4, 200), st.floats(0.05, 0.5), st.floats(0, 1))
def test_a_batch_is_always_full_and_its_fraction_near(batch, fraction, share):
    pools = [(marked_pool(2), share), (marked_pool(3), 1 - share)]
    x, labels, deltas = BatchSource(marked_pool(1), pools, batch, fraction).draw(np.random.default_rng(0))
    assert len(x) == len(labels) == len(deltas) == batch
    assert abs(labels.sum() - fraction * batch) <= 1.01


def test_batches_differ_and_repeat_with_the_generator(rng):
    source = BatchSource(make_pool(rng, 30), [(make_pool(rng, 30), 1.0)], 8, 0.5)
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    first = source.draw(a)[0]
    np.testing.assert_array_equal(first, source.draw(b)[0])
    assert (first != source.draw(a)[0]).any()


def test_a_pool_without_patches_is_an_error_only_where_some_are_needed(rng):
    full, empty = make_pool(rng, 3), empty_pool()
    for positives, negatives in ((empty, [(full, 1.0)]), (full, [(empty, 1.0)]), (full, [(full, 0.5), (empty, 0.5)])):
        with pytest.raises(ValueError, match="no patches to draw a batch from"):
            BatchSource(positives, negatives, 10, 0.2)
    assert len(BatchSource(full, [(full, 1.0), (empty, 0.0)], 10, 0.2).draw(rng)[0]) == 10


# ------------------------------------------------------------------ photos on disk


def save_photo(path, size=(60, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)


def test_wider_photos_know_their_faces(tmp_path):
    """A face of 30 x 40 pixels is one; one of 10 x 40 is an ignore region where 20 are asked for."""
    save_photo(tmp_path / "wider" / "train" / "party" / "a.jpg")
    rows = "5 6 30 40 0 0 0 0 0 0\n50 6 10 40 0 0 0 0 0 0\n"
    (tmp_path / "wider" / "wider_train_bbx_gt.txt").write_text(f"party/a.jpg\n2\n{rows}")
    (photo,) = wider_photos(tmp_path, "train", min_face=20)
    assert photo.path == tmp_path / "wider" / "train" / "party" / "a.jpg"
    target = photo.target((60, 80))
    np.testing.assert_array_equal(target.boxes, [[5, 6, 35, 46]])
    np.testing.assert_array_equal(target.ignore, [[50, 6, 60, 46]])
    assert len(wider_photos(tmp_path, "train", min_face=5)[0].target((60, 80)).boxes) == 2


def test_scene_photos_have_no_faces(tmp_path):
    assert scene_photos(tmp_path) == []
    for name in ("b.jpg", "a.jpg", "notes.txt"):
        save_photo(tmp_path / "scenes" / name) if name.endswith("jpg") else (tmp_path / "scenes" / name).write_text("")
    found = scene_photos(tmp_path)
    assert [photo.path.name for photo in found] == ["a.jpg", "b.jpg"]
    assert found[0].target((60, 80)).boxes.shape == (0, 4)


def test_a_face_box_by_hand():
    """Eyes at y = 40, mouth at 78: a height of 38 / 0.38 = 100. The square's side of 100 / 1.27 agrees."""
    points = np.array([[40, 40], [60, 40], [50, 60], [42, 78], [58, 78]], np.float32)
    square = np.array([0, 0, 100 / 1.27, 100 / 1.27], np.float32)
    x1, y1, x2, y2 = face_box(LandmarkRecord("a.jpg", square, points))
    assert (y2 - y1, x2 - x1, (x1 + x2) / 2) == pytest.approx((100, 78, 50), abs=1e-3)
    assert (40 - y1) / (y2 - y1) == pytest.approx(0.385, abs=1e-4)
    assert (78 - y1) / (y2 - y1) == pytest.approx(0.765, abs=1e-4)


def test_landmark_photos_have_one_face_each(tmp_path):
    header = "crop,xmin,ymin,xmax,ymax," + ",".join(
        f"{point}_{axis}" for point in ("leye", "reye", "nose", "lmouth", "rmouth") for axis in "xy"
    )
    row = "train/0.jpg,20,20,90,90,40,40,60,40,50,60,42,78,58,78"
    (tmp_path / "facepoint").mkdir()
    (tmp_path / "facepoint" / "train.csv").write_text(f"{header}\n{row}\n")
    (photo,) = landmark_photos(tmp_path)
    assert photo.path == tmp_path / "facepoint" / "train" / "0.jpg"
    assert photo.target((112, 112)).boxes.shape == (1, 4)
