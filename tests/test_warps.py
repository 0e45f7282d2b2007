"""R-CNN's four transformations: where they read, by hand, and what they read, against the slow twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.warps import CONTEXT, MODES, warp, warp_sources
from minidetect.kernels.resize import crop_resize, resize_image
from minidetect.reference.warp import warp_box

MEAN = (124.0, 117.0, 104.0)


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_warp_leaves_exactly_the_padding_around_the_box():
    """R-CNN, section 2.1: 227 pixels with 16 around: 195 for the box, so the source is 227 / 195 as large."""
    sources, _ = warp_sources(np.array([[100, 200, 295, 590]], np.float32), 227, "warp", 16)
    np.testing.assert_allclose(sources, [[100 - 16, 200 - 32, 295 + 16, 590 + 32]])
    assert CONTEXT * 227 == 16


def test_the_four_modes_by_hand():
    """A box of 20 x 10 around (30, 15), for an input of 10 pixels with 1 of padding: 8 for the box."""
    box = np.array([[20, 10, 40, 20]], np.float32)
    sources, visible = warp_sources(box, 10, "original", 1)
    np.testing.assert_allclose(sources, [[25, 10, 35, 20]])
    np.testing.assert_allclose(visible, [[19, 9, 41, 21]])
    sources, visible = warp_sources(box, 10, "square_context", 1)  # a square of 20 in 8 pixels: 25 in 10
    np.testing.assert_allclose(sources, [[17.5, 2.5, 42.5, 27.5]])
    np.testing.assert_allclose(visible, sources)
    sources, visible = warp_sources(box, 10, "square", 1)  # 1 pixel of the input is 2.5 of the image
    np.testing.assert_allclose(sources, [[17.5, 2.5, 42.5, 27.5]])
    np.testing.assert_allclose(visible, [[17.5, 7.5, 42.5, 22.5]])
    sources, visible = warp_sources(box, 10, "warp", 1)
    np.testing.assert_allclose(sources, [[17.5, 8.75, 42.5, 21.25]])
    np.testing.assert_allclose(visible, sources)


def test_what_the_square_without_context_hides():
    """A white image: the box of 4 x 2 fills the middle rows of 4, the rest is the mean colour, 0."""
    white = np.full((10, 10, 3), 255, np.uint8)
    box = np.array([[3, 4, 7, 6]], np.float32)
    seen = warp(white, box, 4, "square", mean=155.0)[0]
    np.testing.assert_allclose(seen[0], [[0] * 4, [100] * 4, [100] * 4, [0] * 4])
    np.testing.assert_allclose(warp(white, box, 4, "square_context", mean=155.0), 100)
    np.testing.assert_allclose(warp(white, box, 4, "warp", mean=155.0), 100)


def test_outside_of_the_image_is_the_mean_colour():
    white = np.full((4, 4, 3), 255, np.uint8)
    seen = warp(white, np.array([[-4, 0, 4, 4]], np.float32), 4, mean=(55, 155, 205), scale=0.01)
    for plane, value in zip(seen[0], (2, 1, 0.5), strict=True):
        np.testing.assert_allclose(plane, [[0, 0, value, value]] * 4, rtol=1e-6)


def test_a_whole_box_is_that_part_resized(image):
    """Shrinking averages as resize_image does, growing reads as crop_resize does."""
    part = resize_image(image[4:36, 4:44].astype(np.float32), (16, 16))
    seen = warp(image, np.array([[4, 4, 44, 36]], np.float32), 16)
    np.testing.assert_allclose(seen[0].transpose(1, 2, 0), part, atol=1e-4)
    small = np.array([[5.5, 7, 11, 12.25], [-2, -3, 4, 5]], np.float32)
    expected = crop_resize(image.astype(np.float32), small, 24)
    np.testing.assert_allclose(warp(image, small, 24).transpose(0, 2, 3, 1), expected, atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(*[st.floats(-20, 60)] * 2, *[st.floats(0.25, 70)] * 2), min_size=1, max_size=3),
    st.sampled_from(MODES), st.sampled_from([0.0, 1.0, 2.6]), st.sampled_from([np.uint8, np.float32, np.float64]),
)  # fmt: skip
def test_agrees_with_the_slow_twin(boxes, mode, padding, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(dtype)
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes])
    seen = warp(pixels, boxes, 9, mode, padding, MEAN)
    sources, visible = warp_sources(boxes, 9, mode, padding)
    # an output whose middle falls on a border may be decided either way by a last bit
    nudged = [visible + step for step in (-1e-6, 0, 1e-6)]
    expected = [[warp_box(pixels, s, v, 9, MEAN) for s, v in zip(sources, view, strict=True)] for view in nudged]
    error = np.min([np.abs(seen - np.array(one)) for one in expected], axis=0)
    assert error.max() < 2e-3


def test_skipping_pixels_would_be_seen():
    """Stripes one pixel wide: averaged they are grey, but bilinear reading of every fourth pixel sees only white."""
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, 0::4] = 255
    box = np.array([[0.5, 0, 32.5, 32]], np.float32)
    assert np.ptp(warp(stripes, box - [0.5, 0, 0.5, 0], 8)) == 0
    assert abs(crop_resize(stripes, box, 8).mean() - 63.75) > 20


def test_layouts_and_no_boxes(image):
    box = np.array([[3, 5, 30, 20]], np.float32)
    expected = warp(image, box, 8)
    np.testing.assert_array_equal(warp(image.transpose(1, 0, 2).copy().transpose(1, 0, 2), box, 8), expected)
    np.testing.assert_array_equal(warp(image[::-1][::-1], box.astype(np.float64), 8), expected)
    assert expected.dtype == np.float32 and expected.shape == (1, 3, 8, 8)
    for mode in MODES:
        assert warp(image, np.zeros((0, 4), np.float32), 8, mode, 1).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.array([[3, 3, 3, 8.0]])}, "box 0 .* needs x1 < x2"),
        ({"boxes": np.array([[0, 0, 9, 9], [3, 3, np.nan, 8.0]])}, "box 1 .* not finite"),
        ({"mode": "squeeze"}, "squeeze"),
        ({"padding": 4}, "padding in \\[0, side / 2\\)"),
        ({"image": np.zeros((8, 8))}, "\\(8, 8\\)"),
        ({"image": np.zeros((0, 8, 3))}, "not empty"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"image": np.zeros((8, 8, 3)), "boxes": np.array([[0, 0, 4, 4.0]]), "side": 8}
    with pytest.raises(ValueError, match=message):
        warp(**arguments | change)
