"""The image pyramid: its sizes, and patches that are copied from the level that suits them (FC-30)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidetect.detection.pyramid import ImagePyramid

sides = st.integers(1, 400)
SETTINGS = settings(max_examples=40, deadline=None)


def noise(height, width, seed=0):
    """The hardest image for a resampler: a pixel says nothing about its neighbours."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def halved(image):
    """(2h, 2w, 3) -> (h, w, 3) uint8: the rounded mean of every 2 x 2 block, by slices."""
    x = image.astype(int)
    return ((x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2] + 2) // 4).astype(np.uint8)


def blank(height, width, value=0):
    return np.full((height, width, 3), value, np.uint8)


# ------------------------------------------------------------------ levels


def test_sizes_by_hand():
    """100 * 2**-0.2 = 87.06, 60 * 2**-0.2 = 52.2; five levels further is half, five before double."""
    pyramid = ImagePyramid(blank(100, 60), levels_per_octave=5)
    assert pyramid.size == (100, 60)
    expected = {-5: (200, 120), 0: (100, 60), 1: (87, 52), 2: (76, 45), 5: (50, 30), 10: (25, 15), 40: (1, 1)}
    assert {k: pyramid.level_size(k) for k in expected} == expected
    for k, size in expected.items():
        assert pyramid.level(k).shape == (*size, 3) and pyramid.level(k).dtype == np.uint8


def test_level_zero_is_the_image_and_levels_are_made_once():
    image = noise(40, 30)
    pyramid = ImagePyramid(image)
    assert pyramid.level(0) is image
    assert pyramid.level(3) is pyramid.level(3)


def test_levels_per_octave():
    assert [ImagePyramid(blank(64, 64), 1).level_size(k)[0] for k in range(5)] == [64, 32, 16, 8, 4]
    assert [ImagePyramid(blank(64, 64), 2).level_size(k)[0] for k in range(5)] == [64, 45, 32, 23, 16]


@SETTINGS
@given(sides, sides, st.integers(0, 20))
def test_every_level_keeps_a_plain_colour(height, width, k):
    pyramid = ImagePyramid(blank(height, width, 200))
    assert (pyramid.level(k) == 200).all()


@pytest.mark.parametrize(
    ("object_size", "pixels", "level"), [(12, 12, 0), (24, 12, 5), (25, 12, 5), (23, 12, 4), (6, 12, -5), (96, 12, 15)]
)
def test_level_for_by_hand(object_size, pixels, level):
    assert ImagePyramid(blank(10, 10)).level_for(object_size, pixels) == level


@SETTINGS
@given(st.floats(1, 2000), st.sampled_from([12, 24, 48]), st.integers(1, 8))
def test_level_for_is_the_last_on_which_the_object_is_large_enough(object_size, pixels, per_octave):
    k = ImagePyramid(blank(1, 1), per_octave).level_for(object_size, pixels)
    assert object_size * 2 ** (-k / per_octave) >= pixels * (1 - 1e-6)
    assert object_size * 2 ** (-(k + 1) / per_octave) < pixels


@SETTINGS
@given(sides, sides, st.sampled_from([12, 24, 48]))
def test_last_level_is_the_last_that_holds_a_window(height, width, pixels):
    pyramid = ImagePyramid(blank(height, width))
    k = pyramid.last_level(pixels)
    assert min(pyramid.level_size(k)) >= pixels > min(pyramid.level_size(k + 1))


def test_last_level_by_hand():
    assert ImagePyramid(blank(48, 100)).last_level(12) == 10  # a quarter: 12 x 25
    assert ImagePyramid(blank(6, 100)).last_level(12) == -5  # twice: 12 x 200


# ------------------------------------------------------------------ FC-30: the window twice the size


@SETTINGS
@given(st.integers(24, 160), st.integers(24, 160), st.integers(5, 10))
def test_a_window_of_twice_the_size_from_the_level_twice_as_large_is_the_same_window(height, width, k):
    pyramid = ImagePyramid(noise(height, width, seed=height))
    large, small = pyramid.level(k - 5), pyramid.level(k)
    assume(large.shape[0] % 2 == large.shape[1] % 2 == 0)
    np.testing.assert_array_equal(halved(large), small)
    i, j = (small.shape[0] - 12) // 2, (small.shape[1] - 12) // 2
    if i >= 0 and j >= 0:
        window = large[2 * i : 2 * i + 24, 2 * j : 2 * j + 24]
        np.testing.assert_array_equal(halved(window), small[i : i + 12, j : j + 12])


def test_a_level_that_skips_pixels_would_be_caught():
    image = noise(48, 48)
    assert (halved(image) != image[::2, ::2]).mean() > 0.9


@pytest.mark.parametrize("k", [0, 1, 3, 5, 7, 10, 12])
@pytest.mark.parametrize("shape", [(120, 160), (101, 87)])
def test_a_window_of_a_level_is_cut_from_that_level(k, shape, rng):
    """Whole pixels of a level, led through the image's coordinates and back, are copied, not blended."""
    pyramid = ImagePyramid(noise(*shape))
    level = pyramid.level(k)
    i, j = rng.integers(0, level.shape[0] - 11, 30), rng.integers(0, level.shape[1] - 11, 30)
    patches = pyramid.crop(pyramid.to_image(np.stack([j, i, j + 12, i + 12], axis=1), k), 12)
    expected = np.stack([level[y : y + 12, x : x + 12] for y, x in zip(i, j, strict=True)])
    np.testing.assert_array_equal(np.floor(patches + 0.5), expected)
    np.testing.assert_allclose(patches, expected, atol=0.01)  # float32 corners are off by 1e-5 of a pixel


@pytest.mark.parametrize("k", [5, 10])
def test_the_second_look_at_a_window_is_a_copy_too(k, rng):
    """A 12-pixel window of level k, asked for at 24 and 48 pixels, on sides that halve exactly."""
    pyramid = ImagePyramid(noise(128, 192))
    i, j = rng.integers(0, 128 // 2 ** (k // 5) - 11, 20), rng.integers(0, 192 // 2 ** (k // 5) - 11, 20)
    boxes = pyramid.to_image(np.stack([j, i, j + 12, i + 12], axis=1), k)
    for octaves in range(1, k // 5 + 1):
        n = 2**octaves
        level = pyramid.level(k - 5 * octaves)
        expected = [level[n * y : n * y + 12 * n, n * x : n * x + 12 * n] for y, x in zip(i, j, strict=True)]
        np.testing.assert_array_equal(pyramid.crop(boxes, 12 * n), expected)


# ------------------------------------------------------------------ boxes


def test_to_image_by_hand():
    pyramid = ImagePyramid(blank(100, 60))
    boxes = pyramid.to_image(np.array([[0, 0, 30, 50], [3, 4, 15, 16]]), 5)
    np.testing.assert_array_equal(boxes, [[0, 0, 60, 100], [6, 8, 30, 32]])
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(pyramid.to_image(np.array([[1, 2, 3, 4]]), 0), [[1, 2, 3, 4]])


@SETTINGS
@given(sides, sides, st.integers(-5, 12))
def test_a_whole_level_is_the_whole_image(height, width, k):
    """Also where rounding has squeezed one side of the level more than the other."""
    pyramid = ImagePyramid(blank(height, width))
    h, w = pyramid.level_size(k)
    np.testing.assert_allclose(pyramid.to_image(np.array([[0, 0, w, h]]), k), [[0, 0, width, height]], rtol=1e-6)


@pytest.mark.parametrize("side", [12, 48, 300])
def test_outside_of_the_image_is_black(side):
    pyramid = ImagePyramid(blank(64, 64, 255))
    boxes = np.array([[-side, 0, 0, side], [64, 64, 64 + side, 64 + side], [-1e6, -1e6, -1e6 + side, -1e6 + side]])
    assert not pyramid.crop(boxes, 24).any()


def test_a_box_across_the_border_is_black_beyond_it():
    """A box centred on the upper left corner shows the image in its lower right quarter alone."""
    patch = ImagePyramid(blank(64, 64, 200)).crop(np.array([[-12.0, -12, 12, 12]]), 24)[0]
    expected = np.zeros((24, 24, 3))
    expected[12:, 12:] = 200
    np.testing.assert_array_equal(patch, expected)


def test_a_box_larger_than_the_image_shows_all_of_it_small():
    patch = ImagePyramid(blank(60, 60, 255)).crop(np.array([[-90.0, -90, 150, 150]]), 48)[0]
    assert (patch[18:30, 18:30] == 255).all()  # 60 / 240 of 48 pixels
    assert patch.sum() == 255 * 3 * 12 * 12


def test_boxes_far_smaller_and_far_larger_than_the_patch():
    """No enlarged level is made for a tiny box, nor an endless row of levels for a huge one."""
    pyramid = ImagePyramid(noise(30, 40))
    boxes = np.array([[10, 10, 10.001, 10.001], [5, 5, 5, 5], [-1e7, -1e7, 1e7, 1e7]])
    patches = pyramid.crop(boxes, 24)
    np.testing.assert_allclose(patches[0], patches[0, :1, :1].repeat(24, 0).repeat(24, 1), atol=0.5)
    assert not patches[2].any() and np.isfinite(patches).all()
    assert min(pyramid._levels) == 0


def test_no_boxes():
    pyramid = ImagePyramid(noise(20, 20))
    for boxes in (np.zeros((0, 4), np.float32), []):
        patches = pyramid.crop(boxes, 24)
        assert patches.shape == (0, 24, 24, 3) and patches.dtype == np.float32
    assert pyramid.to_image(np.zeros((0, 4)), 3).shape == (0, 4)


def test_the_order_of_boxes_is_kept(rng):
    """Boxes of many sizes are read level by level, but returned as they came."""
    pyramid = ImagePyramid(noise(100, 100))
    corners, side = rng.uniform(0, 50, (20, 2)), rng.uniform(5, 90, (20, 1))
    boxes = np.concatenate([corners, corners + side], axis=1)
    alone = np.concatenate([pyramid.crop(box[None], 12) for box in boxes])
    np.testing.assert_array_equal(pyramid.crop(boxes, 12), alone)


# ------------------------------------------------------------------ awkward images


def test_a_single_pixel():
    pyramid = ImagePyramid(blank(1, 1, 77))
    assert pyramid.level(-10).shape == (4, 4, 3) and (pyramid.level(-10) == 77).all()
    assert pyramid.level(50).shape == (1, 1, 3)
    assert min(pyramid.level_size(pyramid.last_level(12))) >= 12
    assert (pyramid.crop(np.array([[0.0, 0, 1, 1]]), 48) == 77).all()


def test_a_thread_of_pixels():
    pyramid = ImagePyramid(blank(1, 500, 90))
    assert pyramid.level_size(10) == (1, 125) and (pyramid.level(10) == 90).all()
    patch = pyramid.crop(np.array([[100.0, -11.25, 124, 12.75]]), 24)[0]
    assert (patch.max(axis=(1, 2)) > 0).sum() == 1  # one row of the patch, at y = 0.25, shows the image


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((10, 10), np.uint8), "shape (10, 10) of uint8"),
        (np.zeros((10, 10, 4), np.uint8), "shape (10, 10, 4)"),
        (np.zeros((3, 10, 10), np.uint8), "shape (3, 10, 10)"),
        (np.zeros((10, 10, 3), np.float32), "of float32"),
        (np.zeros((0, 10, 3), np.uint8), "shape (0, 10, 3)"),
    ],
)
def test_what_is_no_image_is_refused(image, says):
    with pytest.raises(ValueError, match="a pyramid needs an image") as error:
        ImagePyramid(image)
    assert says in str(error.value)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_boxes_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        ImagePyramid(noise(20, 20)).crop(np.array([[0, 0, 5, 5], [0, 0, bad, 5]]), 12)


# ------------------------------------------------------------------ what the networks are given

COLOUR = np.array([100.0, 120, 140], np.float32)


def in_lanes(patches, lanes, mean=COLOUR, scale=1 / 128):
    """(N, S, S, 3) -> (ceil(N / L), 3, S, S, L), patch by patch."""
    n, size = patches.shape[:2]
    blocks = np.zeros(((n + lanes - 1) // lanes, 3, size, size, lanes), np.float32)
    for i, patch in enumerate(patches):
        blocks[i // lanes, ..., i % lanes] = ((patch - mean) * scale).transpose(2, 0, 1)
    return blocks


def boxes_around(rng, n, height, width):
    """Of all sizes, many across the border, some outside."""
    sides = np.exp(rng.uniform(np.log(2), np.log(3 * max(height, width)), n))
    corners = rng.uniform(-0.3, 1, (n, 2)) * [width, height]
    return np.concatenate([corners, corners + sides[:, None]], axis=1)


@SETTINGS
@given(
    sides, sides, st.integers(0, 50), st.sampled_from([12, 24, 48]), st.sampled_from([1, 4, 8, 16]),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_lanes_hold_the_patches_of_crop(height, width, n, pixels, lanes, seed):
    pyramid = ImagePyramid(noise(height, width, seed), 3)
    boxes = boxes_around(np.random.default_rng(seed), n, height, width)
    blocks = pyramid.crop_lanes(boxes, pixels, COLOUR, 1 / 128, lanes)
    assert blocks.dtype == np.float32
    np.testing.assert_allclose(blocks, in_lanes(pyramid.crop(boxes, pixels), lanes), atol=2e-6)


def test_lanes_by_hand():
    image = blank(64, 64)
    image[:, :32] = [10, 20, 30]
    pyramid = ImagePyramid(image)
    lanes = pyramid.crop_lanes(np.array([[20.0, 20, 44, 44], [-24, 0, 0, 24]]), 24, np.array([1, 2, 3]), 0.5, 16)
    assert lanes.shape == (1, 3, 24, 24, 16)
    assert (lanes[0, :, :, :12, 0] == np.array([4.5, 9, 13.5])[:, None, None]).all()
    assert (lanes[0, :, :, 12:, 0] == np.array([-0.5, -1, -1.5])[:, None, None]).all()
    assert (lanes[0, :, :, :, 1] == np.array([-0.5, -1, -1.5])[:, None, None]).all()  # outside: black
    assert not lanes[..., 2:].any()


def test_lanes_of_the_image_itself_of_mirrored_boxes_and_of_none():
    pyramid = ImagePyramid(noise(30, 41))
    upright = np.array([[0.0, 0, 12, 12], [29, 18, 41, 30], [3.3, 4.7, 14, 15.2]])
    turned = upright[:, [2, 1, 0, 3]]
    mirrored = pyramid.crop_lanes(turned, 12, COLOUR, 1)[:, :, :, ::-1]
    np.testing.assert_allclose(pyramid.crop_lanes(upright, 12, COLOUR, 1), mirrored, atol=2e-4)
    corner = pyramid.level(0)[18:30, 29:41].astype(np.float32)
    copied = pyramid.crop_lanes(upright, 12, np.zeros(3), 1, 4)[0, ..., 1]
    np.testing.assert_array_equal(copied, corner.transpose(2, 0, 1))
    assert pyramid.crop_lanes(np.zeros((0, 4)), 24, COLOUR, 1, 16).shape == (0, 3, 24, 24, 16)
    with pytest.raises(ValueError, match=r"boxes\[1\].*not finite"):
        pyramid.crop_lanes(np.array([[0, 0, 1, 1], [0, np.nan, 1, 1]]), 24, COLOUR, 1)


def test_lanes_in_another_order_would_be_caught(rng):
    pyramid = ImagePyramid(noise(60, 80))
    patches = pyramid.crop(boxes_around(rng, 20, 60, 80), 12)
    assert abs(in_lanes(patches, 16) - in_lanes(patches[::-1], 16)).max() > 0.5


@pytest.mark.parametrize("k", [-1, 0, 2, 5])
def test_level_planes_are_the_level_with_channels_first(k):
    pyramid = ImagePyramid(noise(40, 30))
    planes = pyramid.level_planes(k, COLOUR, 1 / 128)
    expected = (pyramid.level(k).astype(np.float32) - COLOUR) * np.float32(1 / 128)
    assert planes.flags.c_contiguous and planes.dtype == np.float32
    np.testing.assert_array_equal(planes, expected.transpose(2, 0, 1))
