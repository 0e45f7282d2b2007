"""Selective search: colours by hand, what holds for every image, and objects that it must not miss."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.proposals import random_boxes, sliding_windows
from minidetect.detection.selective_search import (
    hierarchies,
    priorities,
    rgb_to_hsv,
    rgb_to_lab,
    selective_search,
    without_doubles,
)
from minidetect.kernels.iou import iou_matrix

BOXES = np.array([[20, 30, 60, 90], [80, 20, 140, 60], [90, 70, 150, 110]], np.float32)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Three plain rectangles and the noise of a camera: (120, 160, 3)."""
    image = np.full((120, 160, 3), 90, np.uint8)
    for (x1, y1, x2, y2), colour in zip(BOXES.astype(int), ((200, 40, 40), (60, 180, 70), (50, 70, 210)), strict=True):
        image[y1:y2, x1:x2] = colour
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------ colours


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_hsv_is_that_of_the_standard_library(colour):
    hsv = rgb_to_hsv(np.array([[colour]], np.uint8))[0, 0]
    expected = np.array(colorsys.rgb_to_hsv(*(c / 255 for c in colour))) * 255
    np.testing.assert_allclose(hsv, expected, atol=0.501)


def test_colours_by_hand():
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert rgb_to_hsv(colours)[0].tolist() == [[0, 0, 255], [0, 0, 0], [0, 255, 255], [85, 255, 255], [170, 255, 255]]
    # L*, a*, b*: 100, 0, 0; 0, 0, 0; 53.2, 80.1, 67.2; 87.7, -86.2, 83.2; 32.3, 79.2, -107.9
    expected = [[255, 128, 128], [0, 128, 128], [136, 208, 195], [224, 42, 211], [82, 207, 20]]
    np.testing.assert_array_equal(rgb_to_lab(colours)[0], expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 255))
def test_grey_has_no_colour(level):
    grey = np.full((1, 1, 3), level, np.uint8)
    assert rgb_to_hsv(grey)[0, 0].tolist() == [0, 0, level]
    assert rgb_to_lab(grey)[0, 0, 1:].tolist() == [128, 128]


# ------------------------------------------------------------------ order


def test_priorities_by_hand():
    class Fixed:
        def random(self, num):
            return np.array([0.5, 0.9, 0.1, 0.8])[:num]

    # ranks 4, 3, 2, 1: the whole image, last, has 1
    np.testing.assert_allclose(priorities(4, Fixed()), [2, 2.7, 0.2, 0.8])
    assert len(priorities(0, np.random.default_rng(0))) == 0


def test_large_regions_tend_to_come_first(rng):
    places = np.mean([np.argsort(np.argsort(priorities(100, rng))) for _ in range(200)], axis=0)
    assert places[-10:].mean() < 20 < 50 < places[:10].mean()


def test_doubles_stay_where_they_come_first():
    boxes = np.array([[5, 5, 9, 9], [0, 0, 2, 2], [5, 5, 9, 9], [0, 0, 2, 3], [0, 0, 2, 2]])
    assert without_doubles(boxes).tolist() == [[5, 5, 9, 9], [0, 0, 2, 2], [0, 0, 2, 3]]
    assert without_doubles(np.zeros((0, 4), np.int32)).shape == (0, 4)


# ------------------------------------------------------------------ the search


def test_no_object_is_missed(scene):
    boxes = selective_search(scene)
    assert iou_matrix(BOXES, boxes).max(axis=1).min() > 0.95
    assert [0, 0, 160, 120] in boxes.tolist()


def test_without_grouping_it_would_be(scene):
    """An object of four stripes is no region of any segmentation here, but one of a hierarchy."""
    image = scene.copy()
    image[45:60, 20:60], image[60:75, 20:60], image[75:90, 20:60] = (200, 200, 40), (160, 40, 160), (240, 140, 60)
    whole, settings = BOXES[:1], (("hsv", "lab"), (50, 100), (True, False), 0.0)  # smoothing would make it a frame
    segments = [boxes[: (len(boxes) + 1) // 2] for boxes in hierarchies(image, *settings)]
    assert iou_matrix(whole, np.concatenate(segments).astype(np.float32)).max() < 0.6
    assert iou_matrix(whole, selective_search(image, sigma=0)).max() > 0.95


def test_what_every_list_of_proposals_keeps_to(scene):
    boxes = selective_search(scene)
    assert boxes.dtype == np.float32 and boxes.shape[1:] == (4,) and len(boxes) > 3
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [160, 120]).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 20).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert len(selective_search(scene, min_side=0)) > len(boxes)


def test_the_order_is_the_generators_the_boxes_are_not(scene):
    first, again, other = (selective_search(scene, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert {tuple(box) for box in first.tolist()} == {tuple(box) for box in other.tolist()}
    np.testing.assert_array_equal(selective_search(scene), selective_search(scene))
    np.testing.assert_array_equal(selective_search(scene, np.random.default_rng(1), most=3), first[:3])
    assert selective_search(scene, most=0).shape == (0, 4)


def test_a_width_is_that_of_the_search_not_of_the_boxes(scene):
    twice = scene.repeat(2, axis=0).repeat(2, axis=1)
    boxes = selective_search(twice, width=160)
    np.testing.assert_allclose(boxes, 2 * selective_search(scene))
    assert [0, 0, 320, 240] in boxes.tolist()
    odd = selective_search(scene, width=97)  # 73 rows: the scales of the axes differ
    assert [0, 0, 160, 120] in odd.tolist() and iou_matrix(BOXES, odd).max(axis=1).min() > 0.85


def test_an_image_of_one_colour_is_one_region():
    assert selective_search(np.full((40, 50, 3), 7, np.uint8)).tolist() == [[0, 0, 50, 40]]
    assert selective_search(np.zeros((5, 5, 3), np.uint8)).shape == (0, 4)  # nothing has 20 pixels
    assert selective_search(np.zeros((1, 1, 3), np.uint8), min_side=1).tolist() == [[0, 0, 1, 1]]


def test_more_hierarchies_bring_more_boxes(scene):
    def found(**settings):
        return {tuple(box) for box in selective_search(scene, min_side=5, **settings).tolist()}

    assert found(spaces=("hsv",)) < found() < found(spaces=("hsv", "lab", "rgb"))
    assert found(ks=(50,)) <= found() and found(with_colour=(True,)) <= found()
    assert found(spaces=()) == set()


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (np.zeros((9, 9), np.uint8), {}, "image must be"),
        (np.zeros((9, 9, 3), np.float32), {}, "image must be"),
        (np.zeros((0, 9, 3), np.uint8), {}, "image must be"),
        (np.zeros((9, 9, 3), np.uint8), {"spaces": ("hvs",)}, "'hvs' is none of hsv, lab, rgb"),
        (np.zeros((9, 9, 3), np.uint8), {"width": 0}, "width must be at least 1"),
        (np.zeros((9, 9, 3), np.uint8), {"most": -1}, "most at least 0"),
        (np.zeros((9, 9, 3), np.uint8), {"ks": (-5,)}, "k and min_size"),
    ],
)
def test_what_cannot_be_searched(image, settings, message):
    with pytest.raises(ValueError, match=message):
        selective_search(image, **settings)


# ------------------------------------------------------------------ windows and random boxes


def test_windows_by_hand():
    """In 10 x 20 a window of 8 x 8 with steps of at most 4: rows 0 and 2, columns 0, 4, 8, 12."""
    boxes = sliding_windows((10, 20), sides=(8,), ratios=(1,), step=0.5)
    assert boxes[:, :2].tolist() == [[x, y] for y in (0, 2) for x in (0, 4, 8, 12)]
    assert (boxes[:, 2:] - boxes[:, :2] == 8).all() and boxes.dtype == np.float32
    assert sliding_windows((10, 20), sides=(10,), ratios=(1,), step=1)[:, 0].tolist() == [0, 10]
    tall = sliding_windows((10, 20), sides=(5,), ratios=(4,), step=9)  # 10 high, 2.5 wide
    np.testing.assert_allclose(tall, [[0, 0, 2.5, 10], [17.5, 0, 20, 10]])
    assert sliding_windows((10, 20), sides=(11,), ratios=(1,)).shape == (0, 4)
    assert sliding_windows((10, 20), sides=()).shape == (0, 4)
    with pytest.raises(ValueError, match="must be positive"):
        sliding_windows((10, 20), step=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.2, 2))
def test_windows_reach_the_borders_and_no_further(height, width, step):
    boxes = sliding_windows((height, width), sides=(24, 60.5), ratios=(0.5, 1), step=step)
    if len(boxes):
        assert boxes[:, :2].min() == 0
        assert boxes[:, 2].max() == pytest.approx(width) and boxes[:, 3].max() == pytest.approx(height)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 300), st.integers(20, 300), st.integers(0, 50))
def test_random_boxes_lie_inside(seed, height, width, num):
    boxes = random_boxes((height, width), num, np.random.default_rng(seed))
    assert boxes.shape == (num, 4) and boxes.dtype == np.float32
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes >= 0).all() and (boxes[:, 2:] <= np.array([width, height]) * (1 + 1e-6)).all()
    assert (sides > 20 / 3**0.5 - 0.01).all()
    ratios = sides[:, 1] / sides[:, 0]
    uncut = (sides < [width - 0.01, height - 0.01]).all(axis=1)
    assert (abs(np.log(ratios[uncut])) <= np.log(3) + 1e-3).all()


@pytest.mark.parametrize("settings", [{"num": -1}, {"min_side": 0}, {"min_side": 31}, {"most_ratio": 0.5}])
def test_random_boxes_that_cannot_be_drawn(settings, rng):
    with pytest.raises(ValueError, match="random_boxes"):
        random_boxes((30, 40), **{"num": 3, "rng": rng} | settings)
