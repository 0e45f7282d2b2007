"""Augmentation: geometry that a reader can compute, and colours that stay colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.data.transforms import (
    NO_JITTER,
    ColourJitter,
    augment_patches,
    crop_example,
    flip_boxes,
    flip_deltas,
    flip_example,
    flip_landmarks,
    jitter_boxes,
    jitter_colours,
    random_crop,
)
from minidetect.detection.structures import Target

NOTHING = np.zeros((0, 4), np.float32)


def target_of(boxes, ignore=NOTHING, landmarks=None) -> Target:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Target(boxes, np.ones(len(boxes), np.int64), np.asarray(ignore, np.float32), landmarks)


# ------------------------------------------------------------------------------------------ mirror


def test_flip_boxes_and_landmarks_by_hand():
    np.testing.assert_array_equal(flip_boxes(np.float32([[1, 2, 4, 6]]), 10), [[6, 2, 9, 6]])
    points = np.float32([[[2, 1], [6, 1], [4, 3], [3, 5], [5, np.nan]]])
    np.testing.assert_array_equal(
        flip_landmarks(points, 10), [[[4, 1], [8, 1], [6, 3], [5, np.nan], [7, 5]]]
    )  # the left eye of the mirror image was the right one
    only_mirrored = points * np.float32([-1, 1]) + np.float32([10, 0])  # the classic mistake: no swap
    assert not np.array_equal(flip_landmarks(points, 10), only_mirrored, equal_nan=True)
    assert flip_boxes(NOTHING, 10).shape == (0, 4)
    assert flip_landmarks(np.zeros((0, 5, 2), np.float32), 10).shape == (0, 5, 2)
    with pytest.raises(ValueError, match=r"\(1, 4, 2\)"):
        flip_landmarks(np.zeros((1, 4, 2)), 10)


def test_a_box_marks_the_same_pixels_after_the_flip(rng):
    image = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    mirrored, target = flip_example(image, target_of([[3, 2, 9, 7]], ignore=[[0, 0, 4, 4]]))
    x1, y1, x2, y2 = target.boxes[0].astype(int)
    np.testing.assert_array_equal(mirrored[y1:y2, x1:x2], image[2:7, 3:9][:, ::-1])
    np.testing.assert_array_equal(target.ignore, [[16, 0, 20, 4]])
    assert mirrored.flags.c_contiguous


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 4))
def test_two_flips_are_none(seed, count):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    landmarks = rng.integers(0, 8, (count, 5, 2)).astype(np.float32)
    target = target_of(np.sort(rng.integers(0, 9, (count, 4)), axis=1), landmarks=landmarks)
    again, back = flip_example(*flip_example(image, target))
    np.testing.assert_array_equal(again, image)
    np.testing.assert_array_equal(back.boxes, target.boxes)
    np.testing.assert_array_equal(back.landmarks, landmarks)


def test_flip_deltas():
    deltas = np.float32([[0.5, 1, 2, 3], [0.25, 1, 2, 3]])
    flipped = flip_deltas(deltas, np.array([True, False]))
    np.testing.assert_array_equal(flipped, [[-0.5, 1, 2, 3], [0.25, 1, 2, 3]])
    assert deltas[0, 0] == 0.5  # the argument stays as it was


# ----------------------------------------------------------------------------------------- colours


def test_no_jitter_changes_nothing(rng):
    patches = rng.integers(0, 256, (5, 7, 9, 3), dtype=np.uint8)
    out, flipped = augment_patches(patches, rng, flip=0.0, jitter=NO_JITTER)
    np.testing.assert_array_equal(out, patches)
    assert not flipped.any()
    out, flipped = augment_patches(patches, rng, flip=1.0, jitter=NO_JITTER)
    np.testing.assert_array_equal(out, patches[:, :, ::-1])
    assert flipped.all()


def test_each_knob_does_its_own_thing(rng):
    image = rng.integers(60, 200, (16, 16, 3), dtype=np.uint8)
    grey = jitter_colours(image, rng, ColourJitter(0, 0, 0, 0, gray=1.0))
    assert (np.ptp(grey.astype(int), axis=2) <= 1).all()
    np.testing.assert_allclose(grey[..., 0], image @ [0.299, 0.587, 0.114], atol=1)
    brighter = jitter_colours(image, rng, ColourJitter(0.2, 0, 0, 0, 0))
    difference = brighter.astype(int) - image
    assert np.ptp(difference) <= 1 and abs(difference.mean()) <= 51.5
    flatter = jitter_colours(np.full((2, 2, 3), 128, np.uint8), rng, ColourJitter(0, 0.9, 0, 0, 0))
    np.testing.assert_allclose(flatter, 128, atol=1)  # mid grey is contrast's fixed point
    extremes = np.zeros((1, 2, 3), np.uint8)
    extremes[:, 1] = 255
    np.testing.assert_array_equal(jitter_colours(extremes, rng, ColourJitter(0, 0, 0.9, 0.9, 0)), extremes)


def test_colours_saturate_and_do_not_wrap_around():
    dark_and_bright = np.zeros((64, 2, 2, 3), np.uint8)
    dark_and_bright[:, 1] = 255
    jitter = ColourJitter(brightness=0.5, contrast=0.0, saturation=0.9, gamma=0.0, gray=0.0)
    out, _ = augment_patches(dark_and_bright, np.random.default_rng(1), jitter=jitter)
    assert (out[:, 0] <= 128).all() and (out[:, 1] >= 127).all()


def test_patches_differ_from_each_other_and_repeat_with_the_seed(rng):
    patches = np.repeat(rng.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8), 40, axis=0)
    first, flipped = augment_patches(patches, np.random.default_rng(3))
    second, _ = augment_patches(patches, np.random.default_rng(3))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first.reshape(40, -1), axis=0)) == 40
    assert 5 < flipped.sum() < 35


def test_empty_batch_strided_input_and_bad_input(rng):
    out, flipped = augment_patches(np.zeros((0, 48, 48, 3), np.uint8), rng)
    assert out.shape == (0, 48, 48, 3) and flipped.shape == (0,)
    patches = rng.integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    out, _ = augment_patches(patches[::2, :, ::-1], rng, flip=0, jitter=NO_JITTER)
    np.testing.assert_array_equal(out, patches[::2, :, ::-1])
    with pytest.raises(ValueError, match="float32"):
        augment_patches(patches.astype(np.float32), rng)
    with pytest.raises(ValueError, match="uint8"):
        jitter_colours(patches[0, :, :, :2], rng)


# -------------------------------------------------------------------------------------------- crop


def test_crop_by_hand(rng):
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    boxes = [[12, 6, 16, 10], [8, 6, 12, 10], [9, 6, 19, 7], [0, 0, 4, 4]]
    points = np.zeros((4, 5, 2), np.float32) + [12, 6]
    out, target = crop_example(
        image, target_of(boxes, [[0, 0, 30, 20], [0, 0, 5, 5]], points), (5, 10), (8, 10), min_visible=0.8
    )
    np.testing.assert_array_equal(out, image[5:13, 10:20])
    # the first is whole, the second half inside, nine tenths of the third are inside, the last is outside
    np.testing.assert_array_equal(target.boxes, [[2, 1, 6, 5], [0, 1, 9, 2]])
    np.testing.assert_array_equal(target.ignore, [[0, 0, 10, 8], [0, 1, 2, 5]])
    np.testing.assert_array_equal(target.landmarks[0], np.full((5, 2), [2, 1]))
    assert target.labels.tolist() == [1, 1] and target.boxes.dtype == np.float32


def test_crop_larger_than_the_image_is_filled():
    out, target = crop_example(np.full((4, 5, 3), 9, np.uint8), target_of([[1, 1, 3, 3]]), (0, 0), (6, 8))
    assert out.shape == (6, 8, 3) and (out[:4, :5] == 9).all() and (out[4:] == [124, 117, 104]).all()
    np.testing.assert_array_equal(target.boxes, [[1, 1, 3, 3]])
    with pytest.raises(ValueError, match="corner"):
        crop_example(out, target, (-1, 0), (2, 2))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_random_crop_shows_a_whole_box_when_it_fits(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 60, 2)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    side = rng.uniform(2, 12, (3, 2))
    corner = rng.uniform(0, 1, (3, 2)) * (np.array([width, height]) - side)
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
    out, target = random_crop(image, target_of(boxes), (16, 18), rng, min_visible=0.999)
    assert out.shape == (16, 18, 3)
    assert 1 <= len(target.boxes) <= 3
    assert (target.boxes >= 0).all() and (target.boxes <= [18, 16, 18, 16]).all()


def test_random_crop_without_boxes_and_with_a_box_that_is_too_big(rng):
    image = np.zeros((40, 40, 3), np.uint8)
    out, target = random_crop(image, target_of([]), (10, 10), rng)
    assert out.shape == (10, 10, 3) and target.boxes.shape == (0, 4)
    for _ in range(20):
        _, target = random_crop(image, target_of([[2, 2, 38, 38]]), (10, 10), rng, min_visible=0.05)
        np.testing.assert_array_equal(target.boxes, [[0, 0, 10, 10]])


# ------------------------------------------------------------------------------------------- boxes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.5), st.floats(0, 1))
def test_jittered_boxes_stay_within_their_bounds(seed, shift, scale):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 100, (20, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (20, 2))], axis=1)
    moved = jitter_boxes(boxes, rng, shift, scale)
    size, new = boxes[:, 2:] - boxes[:, :2], moved[:, 2:] - moved[:, :2]
    ratio = new / size
    np.testing.assert_allclose(ratio[:, 0], ratio[:, 1])
    assert (ratio <= 1 + scale + 1e-9).all() and (ratio >= 1 / (1 + scale) - 1e-9).all()
    centre_shift = np.abs((moved[:, :2] + moved[:, 2:]) - (boxes[:, :2] + boxes[:, 2:])) / 2
    assert (centre_shift <= shift * size + 1e-9).all()


def test_jitter_boxes_edge_cases(rng):
    boxes = np.float32([[1, 2, 5, 9]])
    np.testing.assert_array_equal(jitter_boxes(boxes, rng, 0, 0), boxes)
    assert jitter_boxes(NOTHING, rng).shape == (0, 4) and jitter_boxes(boxes, rng).dtype == np.float32
    with pytest.raises(ValueError, match="shift"):
        jitter_boxes(boxes, rng, shift=-1)
