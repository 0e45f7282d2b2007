"""Training crops: which window, which pixels, what stays true of them; and colours by hand and against colorsys."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.data.colour_distortion import NO_DISTORTION, ColourDistortion, distort_colours, turn_hue
from minidetect.data.face_crops import (
    INTERPOLATIONS,
    CropSettings,
    Window,
    anchor_sampled_window,
    cut_window,
    jittered_window,
    random_square,
    target_in_window,
    training_crop,
    upside_down,
)
from minidetect.data.transforms import FILL
from minidetect.detection.structures import make_target

SIDES = (16, 32, 64, 128, 256, 512)
SETTINGS = settings(max_examples=40, deadline=None)
every_interpolation = pytest.mark.parametrize("interpolation", INTERPOLATIONS)
seeds = st.integers(0, 2**32 - 1)


class Draws:
    """In place of a generator: whole numbers as given, uniform ones at a share of their range, which it notes."""

    def __init__(self, integers=(), shares=(), randoms=()) -> None:
        self.left, self.shares, self.randoms = list(integers), list(shares), list(randoms)
        self.choices: list[int] = []  # among how many a whole number was drawn
        self.ranges: list[tuple[float, float]] = []

    def integers(self, high):
        self.choices.append(high)
        return self.left.pop(0)

    def uniform(self, low, high):
        self.ranges.append((low, high))
        return low + self.shares.pop(0) * (high - low)

    def random(self, size=None):
        drawn = self.randoms.pop(0)
        return np.array(drawn) if size else drawn


# ------------------------------------------------------------------ windows


@pytest.mark.parametrize(
    ("face", "size", "choices", "chosen", "wanted"),
    [
        (40, 640, 3, 0, (8, 32)),  # towards 16, 32 or 64, the first that is larger
        (40, 640, 3, 1, (16, 64)),
        (40, 640, 3, 2, (32, 80)),  # and not to more than twice its size
        (64, 640, 4, 3, (64, 128)),  # 64 is not larger than 64: 128 is
        (10, 640, 1, 0, (8, 20)),
        (2, 640, 1, 0, (4, 4)),  # an anchor's half is more than twice the face
        (1000, 640, 6, 5, (256, 1024)),  # none is larger
        (300, 256, 4, 3, (64, 256)),  # anchors of 256 and more do not fit the crop
        (300, 16, 1, 0, (8, 32)),  # none fits: the crop's side
    ],
)
def test_wanted_sizes_by_hand(face, size, choices, chosen, wanted):
    draws = Draws([0, chosen], [0.25, 0.5, 0.5])
    window = anchor_sampled_window(np.float32([[0, 0, face, face]]), (2000, 2000), size, draws, SIDES)
    assert draws.choices == [1, choices] and draws.ranges[0] == pytest.approx(wanted)
    in_crop = wanted[0] + 0.25 * (wanted[1] - wanted[0])
    assert window.side == round(size * face / in_crop)


def test_a_window_by_hand():
    """A face of 20 x 80, of size 40, to be 32 of 640: the window has 800 pixels, more than the image is high."""
    draws = Draws([1, 1], [1 / 3, 0.25, 0.75])
    boxes = np.float32([[0, 0, 9, 9], [300, 100, 320, 180]])
    assert anchor_sampled_window(boxes, (600, 1000), 640, draws, SIDES) == Window(-285, -50, 800)
    assert draws.choices == [2, 3]
    assert draws.ranges[1:] == [(300 + 20 - 800, 300), (600 - 800, 0)]  # holds the face; holds the image


def test_a_window_within_a_large_face():
    """A face of 400, to be twice 128 of 200: the window has 312 pixels, all of them on the face."""
    draws = Draws([0, 3], [1, 0.5, 0])
    window = anchor_sampled_window(np.float32([[50, 20, 450, 420]]), (480, 640), 200, draws, SIDES)
    assert window == Window(94, 20, 312) and draws.ranges[1:] == [(50, 450 - 312), (20, 420 - 312)]


def test_windows_cannot_be_drawn_around_nothing(rng):
    with pytest.raises(ValueError, match="needs a face"):
        anchor_sampled_window(np.zeros((0, 4)), (10, 10), 640, rng, SIDES)
    with pytest.raises(ValueError, match=r"width and height, got \[5.0, 5.0, 5.0, 9.0\]"):
        anchor_sampled_window(np.float32([[5, 5, 5, 9]]), (10, 10), 640, rng, SIDES)


@SETTINGS
@given(seeds, st.integers(1, 400), st.integers(1, 400), st.sampled_from([64, 128, 256, 640]))
def test_a_window_shows_its_face(seed, width, height, size):
    """All of it, or nothing else along an axis on which the face is longer; to whole pixels."""
    rng = np.random.default_rng(seed)
    image_size = (height + int(rng.integers(200)), width + int(rng.integers(200)))
    x, y = rng.integers(image_size[1] - width + 1), rng.integers(image_size[0] - height + 1)
    box = np.array([x, y, x + width, y + height], np.float32)
    left, top, side = anchor_sampled_window(box[None], image_size, size, rng, SIDES)
    for start, begin, length in ((left, x, width), (top, y, height)):
        outer, inner = sorted([(start, start + side), (begin, begin + length)], key=lambda ends: ends[0] - ends[1])
        assert outer[0] <= inner[0] + 1 and inner[1] <= outer[1] + 1
    in_crop = (width * height) ** 0.5 * size / side
    assert in_crop <= 1.5 * 2 * max(side for side in SIDES if side < size)  # 1.5: of a window of a pixel or two


@SETTINGS
@given(seeds, st.integers(1, 200), st.integers(1, 200))
def test_random_squares_lie_in_the_image(seed, height, width):
    left, top, side = random_square((height, width), np.random.default_rng(seed))
    assert left >= 0 and top >= 0 and left + side <= width and top + side <= height
    assert max(1, 0.3 * min(height, width) - 0.5) <= side <= min(height, width)


def test_random_squares_are_everywhere(rng):
    squares = np.array([random_square((40, 100), rng) for _ in range(600)])
    assert squares[:, 2].min() == 12 and squares[:, 2].max() == 40  # 0.3 to 1 of 40
    assert (squares[:, 0] == 0).any() and (squares[:, 0] + squares[:, 2] == 100).any()
    assert (squares[:, 1] == 0).any() and (squares[:, 1] + squares[:, 2] == 40).any()


# ------------------------------------------------------------------ pixels


def slow_axis(side: int, size: int, interpolation: str) -> list[dict[int, float]]:
    """For each pixel of the crop, which pixels of the window it is made of, and how much of each."""
    rows = []
    for i in range(size):
        at = (i + 0.5) * side / size
        if interpolation == "nearest":
            rows.append({int(at): 1.0})
        elif interpolation == "area" and side > size:
            low, high = i * side / size, (i + 1) * side / size
            shares = {p: min(p + 1, high) - max(p, low) for p in range(int(low), min(side, int(high) + 1))}
            rows.append({p: share * size / side for p, share in shares.items()})
        else:
            at = min(max(at - 0.5, 0), side - 1)
            p = min(int(at), max(side - 2, 0))
            rows.append({p: 1 - (at - p), min(p + 1, side - 1): at - p} if side > 1 else {0: 1.0})
    return rows


def slow_cut(image, window: Window, size: int, interpolation: str) -> np.ndarray:
    out = np.zeros((size, size, 3))
    parts = slow_axis(window.side, size, interpolation)
    for i, rows in enumerate(parts):
        for j, columns in enumerate(parts):
            for p, v in rows.items():
                for q, u in columns.items():
                    y, x = window.top + p, window.left + q
                    inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
                    out[i, j] += u * v * np.array(image[y, x] if inside else FILL, float)
    return out


@every_interpolation
@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(-15, 15), st.integers(-15, 15), st.integers(1, 25), st.integers(1, 9))
def test_pixels_against_loops(interpolation, seed, left, top, side, size):
    image = np.random.default_rng(seed).integers(0, 256, (11, 14, 3), dtype=np.uint8)
    window = Window(left, top, side)
    crop = cut_window(image, window, size, interpolation)
    assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
    assert np.abs(crop - slow_cut(image, window, size, interpolation)).max() <= 0.51


@every_interpolation
def test_a_window_of_the_crops_size_is_copied(interpolation, rng):
    image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    crop = cut_window(image, Window(25, -3, 8), 8, interpolation)
    np.testing.assert_array_equal(crop[3:, :5], image[:5, 25:])
    assert (crop[:3] == FILL).all() and (crop[:, 5:] == FILL).all()
    assert (cut_window(image, Window(40, 40, 8), 4, interpolation) == FILL).all()  # nothing of the image
    view = np.asfortranarray(image)[:, ::-1]
    np.testing.assert_array_equal(cut_window(view, Window(2, 3, 9), 5, interpolation),
                                  cut_window(view.copy(), Window(2, 3, 9), 5, interpolation))  # fmt: skip


def test_another_interpolation_is_refused():
    with pytest.raises(ValueError, match="one of area, bilinear, nearest, got 'cubic'"):
        cut_window(np.zeros((4, 4, 3), np.uint8), Window(0, 0, 4), 2, "cubic")


def test_interpolations_differ_as_they_say():
    """Stripes, four pixels to one: their mean is 50; bilinear takes the middle two, nearest the third."""
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, 2::4], stripes[:, 3::4] = 80, 120
    shrunk = {name: int(cut_window(stripes, Window(0, 0, 8), 2, name)[0, 0, 0]) for name in INTERPOLATIONS}
    assert shrunk == {"area": 50, "bilinear": 40, "nearest": 80}


# ------------------------------------------------------------------ what is true of a crop


def test_target_by_hand():
    """50 pixels from (10, 20) on, doubled."""
    boxes = np.float32([
        [20, 30, 30, 45],  # inside
        [0, 30, 19, 40],  # its centre at 9.5, left of the window
        [0, 30, 20, 40],  # its centre on the border
        [30, 30, 32.5, 50],  # five pixels wide in the crop
        [30, 50, 33, 60],  # six
        [70, 20, 90, 40],  # outside
        [55, 65, 64, 74],  # its centre at (59.5, 69.5), in the corner
    ])  # fmt: skip
    target = make_target(boxes, np.arange(1, 8), ignore=np.float32([[50, 60, 80, 90], [0, 0, 10, 10]]))
    found = target_in_window(target, Window(10, 20, 50), 100)
    kept = [[20, 20, 40, 50], [0, 20, 20, 40], [40, 60, 46, 80], [90, 90, 100, 100]]
    np.testing.assert_array_equal(found.boxes, kept)
    assert found.labels.tolist() == [1, 3, 5, 7] and found.landmarks is None
    np.testing.assert_array_equal(found.ignore, [[80, 80, 100, 100], [0, 20, 18, 40], [40, 20, 45, 60]])
    assert found.boxes.dtype == found.ignore.dtype == np.float32
    assert len(target_in_window(target, Window(10, 20, 50), 100, min_face=5).boxes) == 5
    empty = target_in_window(make_target([]), Window(0, 0, 3), 100)
    assert empty.boxes.shape == empty.ignore.shape == (0, 4) and empty.labels.shape == (0,)


def test_a_face_that_the_window_cuts_too_thin_is_ignored():
    """Its centre is inside, but 5 of its 8 columns are all that is left."""
    found = target_in_window(make_target(np.float32([[-3, 0, 5, 40]])), Window(0, 0, 50), 50)
    assert len(found.boxes) == 0 and found.ignore.tolist() == [[0, 0, 5, 40]]


def test_upside_down_by_hand():
    image = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    points = np.ones((1, 5, 2), np.float32)
    target = make_target(np.float32([[0, 1, 2, 3]]), [4], np.float32([[1, 0, 2, 5]]), points)
    turned, there = upside_down(image, target)
    np.testing.assert_array_equal(turned, image[::-1])
    assert turned.flags.c_contiguous and there.boxes.tolist() == [[0, 2, 2, 4]] and there.labels.tolist() == [4]
    assert there.ignore.tolist() == [[1, 0, 2, 5]] and there.landmarks is None  # they would be wrong
    np.testing.assert_array_equal(upside_down(turned, there)[1].boxes, target.boxes)


def painted(rng, low: int, high: int):
    """A grey photo with one red face of `low` to `high` pixels, and its box."""
    height, width = rng.integers(high, 130, 2)
    sides = rng.integers(low, high, 2)
    x, y = (int(rng.integers(n - side + 1)) for n, side in zip((width, height), sides, strict=True))
    image = np.full((height, width, 3), 90, np.uint8)
    image[y : y + sides[1], x : x + sides[0]] = 250, 10, 10
    return image, np.float32([[x, y, x + sides[0], y + sides[1]]])


def red_box(crop: np.ndarray) -> list[int]:
    red = crop[..., 0].astype(int) - crop[..., 1] > 120
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@every_interpolation
@SETTINGS
@given(seeds)
def test_boxes_follow_the_pixels(interpolation, seed):
    rng = np.random.default_rng(seed)
    image, boxes = painted(rng, 20, 60)
    window = Window(int(rng.integers(-30, 50)), int(rng.integers(-30, 50)), int(rng.integers(40, 150)))
    target = target_in_window(make_target(boxes), window, 64, min_face=4)
    if len(target.boxes):
        np.testing.assert_allclose(red_box(cut_window(image, window, 64, interpolation)), target.boxes[0], atol=1.01)


@pytest.mark.parametrize("flips", [(0, 0), (1, 0), (0, 1), (1, 1)])
@SETTINGS
@given(seeds)
def test_a_whole_crop_and_its_target(flips, seed):
    rng = np.random.default_rng(seed)
    image, boxes = painted(rng, 20, 60)
    before, kept = image.copy(), boxes.copy()
    crops = CropSettings(64, flip=flips[0], vertical_flip=flips[1], colours=NO_DISTORTION)
    state = rng.bit_generator.state
    crop, target = training_crop(image, make_target(boxes), rng, crops)
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8 and len(target.labels) == len(target.boxes)
    assert (target.boxes >= 0).all() and (target.boxes <= 64).all()
    for box in np.concatenate([target.boxes, target.ignore]):
        if (box[2:] - box[:2]).min() > 3:
            np.testing.assert_allclose(red_box(crop), box, atol=1.01)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(boxes, kept)
    rng.bit_generator.state = state
    again, same = training_crop(image, make_target(boxes), rng, crops)
    np.testing.assert_array_equal(again, crop)
    np.testing.assert_array_equal(same.boxes, target.boxes)


def test_flips_really_turn_the_crop(rng):
    """A face in the left upper corner of all of the image; without anchor sampling and at the full side."""
    image = np.full((100, 100, 3), 90, np.uint8)
    image[5:30, 10:40] = 250, 10, 10
    target, places = make_target(np.float32([[10, 5, 40, 30]])), set()
    for _ in range(40):
        crops = CropSettings(100, anchor_sampling=0, flip=0.5, vertical_flip=0.5, colours=NO_DISTORTION)
        _, found = training_crop(image, target, rng, crops)
        places |= {tuple((box[:2] + box[2:] > 100).tolist()) for box in found.boxes}
    assert len(places) == 4


def test_a_photo_without_a_face_gives_a_square_of_it(rng):
    image = np.full((30, 50, 3), 200, np.uint8)
    for _ in range(10):
        crop, target = training_crop(image, make_target([]), rng, CropSettings(16, colours=NO_DISTORTION))
        assert (crop == 200).all() and target.boxes.shape == (0, 4)  # no border: the window lies inside


def test_how_often_a_face_is_sampled_towards_an_anchor(rng):
    """A face as large as the photo becomes smaller than the crop: the border shows, which a square never has."""
    image, target = np.full((100, 100, 3), 200, np.uint8), make_target(np.float32([[0, 0, 100, 100]]))
    for share in (0.0, 1.0, 0.75):
        crops = CropSettings(64, anchor_sampling=share, colours=NO_DISTORTION)
        shown = [(training_crop(image, target, rng, crops)[0] != 200).any() for _ in range(200)]
        assert np.mean(shown) == pytest.approx(share, abs=0.12)


# ------------------------------------------------------------------ colours


def coloured(image, happens, shares, contrast_first: bool) -> np.ndarray:
    """happens: which of brightness, contrast, saturation and hue; shares: of the ranges from -reach to reach."""
    draws = Draws(shares=shares, randoms=[[0.4 if h else 0.6 for h in happens], 0.4 if contrast_first else 0.6])
    return distort_colours(np.array(image, np.uint8).reshape(1, -1, 3), draws)[0]


def test_brightness_by_hand():
    """Times 1.125 and 0.875; 112.5 is rounded up, 270 is 255."""
    only = [True, False, False, False]
    assert coloured([100, 200, 240], only, [1, 0.5, 0.5, 0.5], True).tolist() == [[113, 225, 255]]
    assert coloured([100, 200, 240], only, [0, 0.5, 0.5, 0.5], True).tolist() == [[88, 175, 210]]


def test_contrast_by_hand():
    """Two greys around 100, times 1.5 and 0.5."""
    only, image = [False, True, False, False], [[50] * 3, [150] * 3]
    for first in (True, False):
        assert coloured(image, only, [0.5, 1, 0.5, 0.5], first).tolist() == [[25] * 3, [175] * 3]
        assert coloured(image, only, [0.5, 0, 0.5, 0.5], first).tolist() == [[75] * 3, [125] * 3]


def test_saturation_by_hand():
    """0.299 * 200 + 0.701 * 100 = 129.9: half of the way to it, and half as far again from it."""
    only = [False, False, True, False]
    assert coloured([200, 100, 100], only, [0.5, 0.5, 0, 0.5], True).tolist() == [[165, 115, 115]]
    assert coloured([200, 100, 100], only, [0.5, 0.5, 1, 0.5], True).tolist() == [[235, 85, 85]]


def test_the_order_matters():
    """Red beside black, contrast times 1.5, saturation times 0.5; red's grey is 76.2, the mean 38.1.

    Contrast first is cut off at 255 and 0, and then 76.2 +- 0.5 * ... = 165.6 and 38.1; the other way round it is
    38.1 + 1.5 * (165.6 - 38.1) = 229.4 and 38.1.
    """
    both, shares, image = [False, True, True, False], [0.5, 1, 0, 0.5], [[255, 0, 0], [0, 0, 0]]
    assert coloured(image, both, shares, True).tolist()[0] == [166, 38, 38]
    assert coloured(image, both, shares, False).tolist()[0] == [229, 38, 38]


def turned(colour, share: float) -> list[float]:
    """By the standard library: colour of 0 to 255, turned by a share of the circle."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    return [255 * c for c in colorsys.hsv_to_rgb((hue + share) % 1, saturation, value)]


def test_the_furthest_hue():
    """18 of 255 either way, of colours on all six sides of the circle."""
    colours = [[200, 10, 10], [200, 190, 10], [10, 200, 10], [10, 180, 200], [10, 10, 200], [200, 10, 190], [7, 7, 7]]
    for share, turn in ((1, 18 / 255), (0, -18 / 255)):
        found = coloured(colours, [False, False, False, True], [0.5, 0.5, 0.5, share], True)
        np.testing.assert_allclose(found, [turned(c, turn) for c in colours], atol=0.51)


@SETTINGS
@given(seeds, st.floats(-1, 1))
def test_hue_agrees_with_colorsys(seed, share):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.float32)
    expected = [turned(colour, share) for colour in pixels.reshape(-1, 3).tolist()]
    turn_hue(pixels, np.float32(6 * share))
    np.testing.assert_allclose(pixels.reshape(-1, 3), expected, atol=2e-3)


@SETTINGS
@given(seeds)
def test_colours_of_any_image(seed):
    rng = np.random.default_rng(seed)
    image, grey = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8), rng.integers(0, 256, (6, 7, 1), dtype=np.uint8)
    before, state = image.copy(), rng.bit_generator.state
    changed = distort_colours(image, rng)
    assert changed.shape == image.shape and changed.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    rng.bit_generator.state = state
    np.testing.assert_array_equal(distort_colours(image[:, ::-1], rng)[:, ::-1], changed)  # no pixel knows its place
    np.testing.assert_array_equal(distort_colours(image, rng, NO_DISTORTION), image)
    still = distort_colours(np.repeat(grey, 3, axis=2), rng, ColourDistortion(probability=1))
    np.testing.assert_array_equal(still, np.repeat(still[:, :, :1], 3, axis=2))
    assert not distort_colours(np.zeros_like(image), rng, ColourDistortion(probability=1)).any()


def test_half_of_the_pictures_are_brighter_or_darker(rng):
    image = np.full((1, 1, 3), 128, np.uint8)  # grey: only brightness shows
    changed = [(distort_colours(image, rng) != 128).any() for _ in range(1000)]
    assert np.mean(changed) == pytest.approx(0.5 * 32 / 33, abs=5 * 0.016)  # of +-16 the 1/2 next to 0 cannot be seen


def test_what_is_no_image(rng):
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
            distort_colours(image, rng)


# ------------------------------------------------------------------ scale jitter


def test_a_jittered_window_by_hand():
    """A crop of 100 by a factor of 1/2: 200 pixels, that hold the face, 20 x 80 at (300, 100)."""
    boxes = np.float32([[0, 0, 9, 9], [300, 100, 320, 180]])
    draws = Draws([1, 1], [0.5, 0.25], [0.74])
    assert jittered_window(boxes, (600, 1000), 100, draws, (2.0, 0.5)) == Window(210, 10, 200)
    assert draws.choices == [2, 2] and draws.ranges == [(320 - 200, 300), (180 - 200, 100)]
    draws = Draws([1], [0.5, 0.25], [0.76])  # or lie anywhere in the image
    assert jittered_window(boxes, (600, 1000), 100, draws, (2.0, 0.5)) == Window(400, 100, 200)
    assert draws.ranges == [(0, 1000 - 200), (0, 600 - 200)]
    draws = Draws([0, 1], [1, 0.5], [0])  # 50 pixels, higher than the face is wide and lower than it is high
    assert jittered_window(boxes, (600, 1000), 100, draws, (2.0, 0.5)) == Window(300, 115, 50)
    assert draws.ranges == [(320 - 50, 300), (100, 180 - 50)]


def test_a_jittered_window_larger_than_the_image():
    """400 pixels of an image of 300 x 500: above and below it there is room; and the same without a face."""
    boxes = np.float32([[10, 20, 30, 40]])
    for draws, given_boxes in ((Draws([0, 0], [0.5, 0.5], [0]), boxes), (Draws([0], [0.5, 0.5]), boxes[:0])):
        window = jittered_window(given_boxes, (300, 500), 100, draws, (0.25,))
        assert window.side == 400 and window.top == (300 - 400) / 2
        assert draws.ranges[0] == ((30 - 400, 10) if len(given_boxes) else (0, 500 - 400))


@SETTINGS
@given(seeds, st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.25, 2.0]), st.integers(1, 60), st.integers(1, 60))
def test_jitter_multiplies_every_face_by_its_factor(seed, factor, width, height):
    """All of the face is in the window, or only face along an axis; in the crop it is `factor` times as large."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 100, 2)
    box = np.array([[x, y, x + width, y + height]], np.float32)
    window = jittered_window(box, (160, 160), 64, rng, (factor,), around_face=1.0)
    assert window.side == round(64 / factor)
    for start, begin, length, limit in ((window.left, x, width, 160), (window.top, y, height, 160)):
        if window.side >= limit:  # all of the image
            assert start <= 0 and start + window.side >= limit
        else:
            outer, inner = sorted([(start, start + window.side), (begin, begin + length)], key=lambda e: e[0] - e[1])
            assert outer[0] <= inner[0] + 1 and inner[1] <= outer[1] + 1
    found = target_in_window(make_target(box), window, 64, min_face=0)
    for in_crop in found.boxes:
        sides = in_crop[2:] - in_crop[:2]
        whole = np.array([width, height]) * 64 / window.side
        uncut = (in_crop > 0)[:2] & (in_crop < 64)[2:]
        np.testing.assert_allclose(sides[uncut], whole[uncut], rtol=1e-4)
        assert (sides <= whole + 1e-3).all() and whole == pytest.approx([width * factor, height * factor], rel=0.02)


def test_how_often_a_jittered_window_holds_a_face(rng):
    """One of 4 x 4 in 1000 x 1000, seen in windows of 20: without a reason hardly ever."""
    box = np.float32([[500, 500, 504, 504]])
    for share in (0.0, 0.75, 1.0):
        windows = [jittered_window(box, (1000, 1000), 20, rng, (1.0,), share) for _ in range(300)]
        held = [w.left <= 500 and w.top <= 500 and w.left + 20 >= 504 and w.top + 20 >= 504 for w in windows]
        assert np.mean(held) == pytest.approx(share, abs=0.1)


def test_every_factor_of_the_jitter_is_drawn(rng):
    factors = tuple(0.25 * n for n in range(1, 9))  # Group Sampling, section 5
    sides = [jittered_window(np.zeros((0, 4)), (300, 300), 80, rng, factors).side for _ in range(800)]
    counts = {side: sides.count(side) for side in set(sides)}
    assert sorted(counts) == sorted(round(80 / factor) for factor in factors)
    assert all(abs(count - 100) < 5 * 9.4 for count in counts.values())  # the standard deviation of each


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_jitter_takes_the_place_of_the_other_windows(factor, rng):
    """A face of 40: anchor sampling, which is on, too, would give it any size, a random square mostly larger ones."""
    image = np.full((300, 300, 3), 90, np.uint8)
    image[100:140, 150:190] = 250, 10, 10
    target = make_target(np.float32([[150, 100, 190, 140]]))
    crops = CropSettings(128, jitter=(factor,), around_face=1.0, anchor_sampling=1.0, colours=NO_DISTORTION)
    for _ in range(10):
        crop, found = training_crop(image, target, rng, crops)
        np.testing.assert_allclose(found.boxes[0, 2:] - found.boxes[0, :2], 40 * factor, atol=1e-3)
        np.testing.assert_allclose(red_box(crop), found.boxes[0], atol=1.01)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_factors_that_there_are_not(factor, rng):
    with pytest.raises(ValueError, match="factors of scale jitter must be above 0, got"):
        jittered_window(np.zeros((0, 4)), (10, 10), 640, rng, (factor,))
