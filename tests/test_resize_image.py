"""Image resizing and cropping: by hand, against the slow twins, and at the edges of an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.kernels.resize import crop_resize, resize_image
from minidetect.reference import nn_ops as slow

SETTINGS = settings(max_examples=60, deadline=None)
seeds, sides = st.integers(0, 2**32 - 1), st.integers(1, 17)


def picture(rng, height, width, dtype=np.uint8):
    return rng.integers(0, 256, (height, width, 3)).astype(dtype)


# ------------------------------------------------------------------ resize_image


def test_area_average_by_hand():
    row = np.array([[10, 20, 30]], np.float32)[:, :, None]
    assert resize_image(row, (1, 1)).ravel().tolist() == [20]
    # 3 -> 2: the middle pixel is shared, (10 + 20/2) / 1.5 and (20/2 + 30) / 1.5
    np.testing.assert_allclose(resize_image(row, (1, 2)).ravel(), [40 / 3, 80 / 3], rtol=1e-6)


def test_uint8_is_rounded_half_up():
    assert resize_image(np.array([[1, 2]], np.uint8), (1, 1)).tolist() == [[2]]
    assert resize_image(np.array([[255, 255, 255]], np.uint8), (1, 2)).tolist() == [[255, 255]]


def test_bilinear_growing_by_hand():
    assert resize_image(np.array([[0, 4]], np.float32), (1, 4)).tolist() == [[0, 1, 3, 4]]


@given(seeds, sides, sides, sides, sides)
@SETTINGS
def test_any_resize_agrees_with_its_slow_twin(seed, height, width, new_height, new_width):
    image = picture(np.random.default_rng(seed), height, width)
    expected = slow.resize_image(image, (new_height, new_width))
    np.testing.assert_allclose(
        resize_image(image.astype(np.float32), (new_height, new_width)), expected, rtol=1e-5, atol=1e-4
    )
    rounded = resize_image(image, (new_height, new_width))
    assert rounded.dtype == np.uint8 and np.abs(rounded - expected).max() < 0.501


@given(seeds, sides, sides)
@SETTINGS
def test_shrinking_keeps_the_mean(seed, height, width):
    """Every input pixel counts exactly once: nothing is skipped or counted twice."""
    rng = np.random.default_rng(seed)
    image = picture(rng, height, width, np.float32)
    small = resize_image(image, (rng.integers(1, height + 1), rng.integers(1, width + 1)))
    np.testing.assert_allclose(small.mean((0, 1)), image.mean((0, 1)), rtol=1e-4)


def test_a_wrong_filter_would_be_noticed(rng):
    """Bilinear shrinking by 3 reads one pixel in three: it misses the line that the average sees."""
    image = np.zeros((9, 9, 1), np.float32)
    image[3] = 90
    assert resize_image(image, (3, 3))[1].ravel().tolist() == [30, 30, 30]
    assert slow.resize(image.transpose(2, 0, 1)[None], (3, 3)).max() == 0


def test_same_size_is_a_copy_and_layout_does_not_matter(rng):
    image = picture(rng, 6, 5)
    same = resize_image(image, (6, 5))
    assert same is not image and (same == image).all()
    flipped = image[::-1, ::-1]
    np.testing.assert_array_equal(
        resize_image(flipped, (4, 3)), resize_image(np.ascontiguousarray(flipped), (4, 3))
    )


@pytest.mark.parametrize("shape, size, says", [
    ((0, 4, 3), (2, 2), "not empty"),
    ((4,), (2, 2), r"\(H, W, C\)"),
    ((4, 4, 3), (0, 2), "at least 1"),
])  # fmt: skip
def test_resize_image_refuses(shape, size, says):
    with pytest.raises(ValueError, match=says):
        resize_image(np.zeros(shape, np.uint8), size)


def test_resize_image_writes_where_it_is_told(rng):
    image = rng.integers(0, 256, (9, 7, 3), np.uint8)
    for size in ((4, 5), (9, 7)):
        room = np.zeros((*size, 3), np.uint8)
        assert resize_image(image, size, out=room) is room
        np.testing.assert_array_equal(room, resize_image(image, size))
    across = np.zeros((5, 4, 3), np.uint8).swapaxes(0, 1)
    for room in (np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5, 3), np.float32), across):
        with pytest.raises(ValueError, match=r"out must be a contiguous \(4, 5, 3\) of uint8"):
            resize_image(image, (4, 5), out=room)


# ------------------------------------------------------------------ crop_resize


def test_a_crop_of_whole_pixels_is_a_slice(rng):
    image = picture(rng, 12, 10)
    np.testing.assert_array_equal(crop_resize(image, np.array([[2, 3, 7, 8]]), 5)[0], image[3:8, 2:7])


def test_outside_of_the_image_is_fill(rng):
    image = picture(rng, 4, 4)
    crop = crop_resize(image, np.array([[-2, -2, 2, 2], [9, 9, 12, 12]]), 4, fill=7)
    np.testing.assert_array_equal(crop[0, 2:, 2:], image[:2, :2])
    assert (crop[0, :2] == 7).all() and (crop[0, :, :2] == 7).all() and (crop[1] == 7).all()
    assert (crop_resize(image, np.array([[9, 9, 12, 12]]), 4) == 0).all()  # black unless told


def test_a_box_inside_never_sees_the_fill(rng):
    image = np.full((5, 5, 3), 200, np.uint8)
    assert (crop_resize(image, np.array([[0, 0, 5, 5], [4.5, 4.5, 5, 5]]), 16) == 200).all()


def test_cropping_the_whole_image_is_resizing_it(rng):
    image = picture(rng, 6, 6, np.float32)
    crop = crop_resize(image, np.array([[0, 0, 6, 6]]), 11)[0]
    np.testing.assert_allclose(crop, resize_image(image, (11, 11)), rtol=1e-5, atol=1e-4)


@given(seeds, sides, sides, st.integers(1, 9), st.sampled_from([np.uint8, np.float32]))
@SETTINGS
def test_any_crop_agrees_with_its_slow_twin(seed, height, width, size, dtype):
    rng = np.random.default_rng(seed)
    image = picture(rng, height, width, dtype)
    boxes = rng.uniform(-10, 25, (5, 4)).astype(np.float32)  # some of them upside down: a mirrored crop
    expected = slow.crop_resize(image, boxes, size, fill=3)
    np.testing.assert_allclose(crop_resize(image, boxes, size, fill=3), expected, rtol=1e-4, atol=5e-3)


def test_no_boxes_and_bad_ones():
    image = np.zeros((4, 4, 3), np.uint8)
    assert crop_resize(image, np.zeros((0, 4)), 12).shape == (0, 12, 12, 3)
    with pytest.raises(ValueError, match=r"boxes\[1\].*not finite"):
        crop_resize(image, np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]]), 12)
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        crop_resize(image, np.zeros(4), 12)
    with pytest.raises(ValueError, match=r"\(H, W, C\)"):
        crop_resize(np.zeros((4, 4)), np.zeros((1, 4)), 12)
