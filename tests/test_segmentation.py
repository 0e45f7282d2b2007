"""Graph segmentation and grouping: by hand, against the slow twins, and what must hold for every image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.kernels.grouping import colour_bins, describe_regions, group_regions, texture_bins
from minidetect.kernels.segmentation import (
    derivative_taps,
    filter_image,
    gaussian_taps,
    pixel_graph,
    segment,
    segment_graph,
)
from minidetect.reference import segmentation as slow

SMALL = settings(max_examples=30, deadline=None)


def blocks(seed: int, height: int, width: int, levels: int = 4) -> np.ndarray:
    """A small picture of few colours, so that neighbours are often equal and edges often tie."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 200, (levels, 3))
    return palette[rng.integers(0, levels, (height, width))].astype(np.uint8)


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1)


# ------------------------------------------------------------------ filters


def test_taps_by_hand():
    assert gaussian_taps(0).tolist() == [1]
    taps = gaussian_taps(0.8)
    assert len(taps) == 9 and taps.sum() == pytest.approx(1)
    assert taps[5] / taps[4] == pytest.approx(np.exp(-0.5 / 0.64))
    ramp = np.arange(20.0).reshape(1, -1, 1) * 3
    rise = filter_image(ramp, gaussian_taps(1), derivative_taps(1))
    np.testing.assert_allclose(rise[0, 5:-5], 3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7, 9, 3), (1, 1, 1), (2, 30, 2), (30, 1, 3)])
def test_filter_against_the_slow_twin(shape, dtype, rng):
    image = rng.integers(0, 256, shape).astype(dtype)
    down, across = gaussian_taps(0.8), derivative_taps(1.3)
    expected = slow.filter_image(image, down, across)
    np.testing.assert_allclose(filter_image(image, down, across), expected, atol=1e-3)
    turned = np.asfortranarray(image)
    np.testing.assert_array_equal(filter_image(turned, down, across), filter_image(image, down, across))


# ------------------------------------------------------------------ segmentation


@pytest.mark.parametrize(("k", "regions"), [(0, 2), (39, 2), (40, 1)])
def test_the_threshold_falls_with_the_size(k, regions):
    """Two regions of 4 pixels, without any edge inside, accept an edge of 10 if k / 4 >= 10."""
    labels = segment(row(0, 0, 0, 0, 10, 10, 10, 10), k, 0, 0)
    assert labels.max() + 1 == regions


def test_edges_inside_count():
    """The steps of 4 are inside the left region by then, so that it accepts up to 4 + 15 / 3 = 9, the step of 8 too."""
    image = row(0, 4, 8, 16)
    assert segment(image, 15, 0, 0).tolist() == [[0, 0, 0, 0]]
    assert segment(image, 11, 0, 0).tolist() == [[0, 0, 0, 1]]  # 4 + 11 / 3 = 7.67


def test_both_regions_must_accept():
    """One pixel accepts an edge of up to k; ten equal ones only up to k / 10."""
    assert segment(row(*[0] * 10, 7), 60, 0, 0).max() == 1
    assert segment(row(*[0] * 10, 6), 60, 0, 0).max() == 0


def test_corners_connect():
    image = np.array([[0, 255], [255, 0]], np.uint8)[:, :, None]
    assert segment(image, 1, 0, 0).tolist() == [[0, 1], [1, 0]]


def test_small_regions_join_the_neighbour_that_is_most_alike():
    image = row(0, 0, 0, 10, 100, 100, 100)
    assert segment(image, 1, 0, 0).tolist() == [[0, 0, 0, 1, 2, 2, 2]]
    assert segment(image, 1, 2, 0).tolist() == [[0, 0, 0, 0, 1, 1, 1]]


@SMALL
@given(st.integers(0, 10_000), *[st.integers(1, 7)] * 2, st.sampled_from([0, 1, 30, 200, 1000]), st.integers(0, 9))
def test_against_the_slow_twin(seed, height, width, k, min_size):
    image = blocks(seed, height, width)
    np.testing.assert_array_equal(segment(image, k, min_size, 0), slow.segment(image, k, min_size))


def test_against_the_slow_twin_without_ties(rng):
    image = rng.uniform(0, 255, (12, 15, 3)).astype(np.float32)
    for k in (50, 150, 300):
        labels = segment(image, k, 3, 0)
        np.testing.assert_array_equal(labels, slow.segment(image, k, 3))
        smooth = filter_image(image, gaussian_taps(0.8), gaussian_taps(0.8))
        np.testing.assert_array_equal(segment(image, k, 3, 0.8), slow.segment(smooth, k, 3))
    assert 1 < labels.max() < 100


def pieces(labels: np.ndarray, region: int) -> int:
    """In how many pieces, by the eight neighbours, a region falls."""
    left, count = {tuple(p) for p in np.argwhere(labels == region).tolist()}, 0
    while left:
        count += 1
        todo = [left.pop()]
        while todo:
            y, x = todo.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
    return count


@SMALL
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 20), st.floats(0, 500), st.integers(0, 30))
def test_a_partition_into_connected_regions(seed, height, width, k, min_size):
    labels = segment(blocks(seed, height, width), k, min_size)
    sizes = np.bincount(labels.ravel())
    assert labels.shape == (height, width) and labels.dtype == np.int32
    assert sizes.min() >= min(min_size, labels.size) and sizes.min() > 0
    assert all(pieces(labels, n) == 1 for n in range(len(sizes)))
    first = [int(np.argmax(labels.ravel() == n)) for n in range(len(sizes))]
    assert first == sorted(first)  # numbered as they begin


@SMALL
@given(st.integers(0, 10_000), st.integers(0, 55), st.integers(0, 55), st.integers(0, 55))
def test_a_constant_colour_added_changes_nothing(seed, r, g, b):
    image = blocks(seed, 12, 12)  # values below 200
    moved = (image + np.array([r, g, b], np.uint8)).astype(np.uint8)
    np.testing.assert_array_equal(segment(moved, 100, 2, 0), segment(image, 100, 2, 0))


def test_that_would_not_hold_of_any_change():
    image = blocks(3, 12, 12)
    assert not np.array_equal(segment(image // 4, 100, 2, 0), segment(image, 100, 2, 0))


def test_one_graph_serves_many_ks(rng):
    image = rng.integers(0, 256, (20, 20, 3), np.uint8)
    graph = pixel_graph(image, 0.8)
    assert (np.diff(graph.weights) >= 0).all() and len(graph.weights) == 2 * 20 * 19 + 2 * 19 * 19
    for k in (30, 300):
        np.testing.assert_array_equal(segment_graph(graph, k, 5), segment(image, k, 5, 0.8))


@pytest.mark.parametrize(
    ("image", "setting", "message"),
    [
        (np.zeros((0, 4, 3)), {}, "at least one pixel"),
        (np.zeros((4, 4)), {}, "at least one pixel"),
        (np.full((4, 4, 3), np.nan), {}, "not finite"),
        (np.zeros((4, 4, 3)), {"sigma": -1}, "sigma must be"),
        (np.zeros((4, 4, 3)), {"k": -1}, "k and min_size"),
        (np.zeros((4, 4, 3)), {"min_size": -1}, "k and min_size"),
    ],
)
def test_what_cannot_be_segmented(image, setting, message):
    with pytest.raises(ValueError, match=message):
        segment(image, **setting)


# ------------------------------------------------------------------ grouping


def test_bins_by_hand():
    values = np.array([0, 10, 11, 127, 128, 255], np.uint8).reshape(1, -1, 1)
    assert colour_bins(values).ravel().tolist() == [0, 0, 1, 12, 12, 24]  # 256 / 25 = 10.24 values a bin
    ramp = (np.arange(30) * 8).astype(np.uint8).reshape(1, -1, 1)  # rises by 8 a pixel to the right
    steeper = np.repeat((np.arange(12) * 20).astype(np.uint8)[None, :, None], 12, axis=0)
    assert texture_bins(ramp).max() == 0  # below 10.2
    # 20 to the right; 20 / sqrt(2) = 14.1 in the two diagonal directions; nothing in the other five
    assert texture_bins(steeper)[6, 6].tolist() == [1, 1, 0, 0, 0, 0, 0, 1]
    step = np.repeat(np.array([0] * 6 + [255] * 6, np.uint8)[None, :, None], 12, axis=0)
    assert texture_bins(step)[6, 6, 0] in (8, 9) and texture_bins(step[:, ::-1])[6, 6, 4] in (8, 9)


def test_two_regions_by_hand():
    """8 pixels, 2 + 6: texture is 1, size 1 - 8 / 8, fill 1 - (8 - 8) / 8; colour is min(1/2, 1/3)."""
    labels = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    colour = np.array([[0, 5, 5, 5], [7, 7, 7, 7]], np.uint8)[:, :, None]  # 1/2 of 0, 1/2 of 5; 1/3 of 5, 2/3 of 7
    texture = np.zeros((2, 4, 8), np.uint8)
    regions = describe_regions(labels, colour, texture)
    assert regions.sizes.tolist() == [2, 6] and regions.pairs.tolist() == [[0, 1]]
    assert regions.boxes.tolist() == [[0, 0, 2, 1], [0, 0, 4, 2]]
    assert regions.colour[0, [0, 5]].tolist() == [1, 1] and regions.colour.sum(axis=1).tolist() == [2, 6]
    pixels = [[tuple(p) for p in np.argwhere(labels == n).tolist()] for n in (0, 1)]
    assert slow.similarity(*pixels, colour, texture, 8, False) == pytest.approx(1 + 0 + 1)
    assert slow.similarity(*pixels, colour, texture, 8, True) == pytest.approx(1 + 0 + 1 + 1 / 3)


def test_neighbours_by_hand():
    """Both diagonals count; in the second picture 0 and 3 lie apart."""
    labels = np.array([[0, 1], [2, 3]]).repeat(2, axis=0)
    bins = np.zeros((4, 2, 1), np.uint8)
    assert describe_regions(labels, bins, bins).pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    apart = np.array([[0, 1, 1, 3], [2, 2, 2, 2]])
    bins = np.zeros((2, 4, 1), np.uint8)
    assert describe_regions(apart, bins, bins).pairs.tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]


def test_the_pair_that_is_most_alike_merges_first():
    """Stripes of one size: 0 and 1 differ in colour, 1 and 2 do not; without colour the first pair wins the tie."""
    labels = np.repeat(np.arange(3), 2)[None].repeat(4, axis=0)
    colour = np.array([0, 9, 9], np.uint8)[labels][:, :, None]
    regions = describe_regions(labels, colour, np.zeros((4, 6, 8), np.uint8))
    hierarchy = group_regions(regions, with_colour=True)
    assert hierarchy.parts.tolist() == [[1, 2], [0, 3]]
    assert hierarchy.boxes.tolist() == [[0, 0, 2, 4], [2, 0, 4, 4], [4, 0, 6, 4], [2, 0, 6, 4], [0, 0, 6, 4]]
    assert group_regions(regions, with_colour=False).parts.tolist() == [[0, 1], [2, 3]]


def described(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """labels of a small picture and the bins of its colours and of drawn texture."""
    image = blocks(seed, height, width, levels=5)
    texture = np.random.default_rng(seed).integers(0, 3, (height, width, 8)).astype(np.uint8)
    return segment(image, 30, 2, 0), colour_bins(image), texture


@SMALL
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_grouping_against_the_slow_twin(seed, height, width, with_colour):
    """The twin counts every histogram anew from the pixels, so this also holds the sums of merged regions to them."""
    labels, colour, texture = described(seed, height, width)
    boxes, parts = group_regions(describe_regions(labels, colour, texture), with_colour)
    slow_boxes, slow_parts = slow.group_regions(labels, colour, texture, with_colour)
    assert boxes.tolist() == [list(box) for box in slow_boxes]
    assert parts.tolist() == [list(pair) for pair in slow_parts]


def test_a_twin_that_sees_no_corners_or_weighs_nothing_would_be_found(monkeypatch):
    found = {"corners": 0, "size": 0}
    cases = [described(seed, 5, 6) for seed in range(12)]
    ours = [group_regions(describe_regions(*case), True).parts.tolist() for case in cases]
    twin = slow.histogram_intersection

    def unweighted(a, b, bins, num):
        return twin(a[:1], b[:1], bins, num)  # one pixel speaks for all

    def sides_only(a, b):
        return any(abs(y - v) + abs(x - u) == 1 for y, x in a for v, u in b)

    for name, wrong, kind in (("touch", sides_only, "corners"), ("histogram_intersection", unweighted, "size")):
        with monkeypatch.context() as patch:
            patch.setattr(slow, name, wrong)
            for case, right in zip(cases, ours, strict=True):
                found[kind] += [list(pair) for pair in slow.group_regions(*case, True)[1]] != right
    assert found["corners"] > 0 and found["size"] > 0


@SMALL
@given(st.integers(0, 10_000), st.integers(1, 25), st.integers(1, 25), st.booleans())
def test_a_hierarchy_of_any_picture(seed, height, width, with_colour):
    image = blocks(seed, height, width, levels=8)
    labels = segment(image, 10, 1, 0)
    regions = describe_regions(labels, colour_bins(image), texture_bins(image))
    boxes, parts = group_regions(regions, with_colour)
    num = int(labels.max()) + 1
    assert len(boxes) == 2 * num - 1 and parts.shape == (num - 1, 2)
    assert boxes[-1].tolist() == [0, 0, width, height]
    assert sorted(parts.ravel().tolist()) == list(range(2 * num - 2))  # each region but the last is merged once
    merged = boxes[num:]
    for part in (boxes[parts[:, 0]], boxes[parts[:, 1]]):
        assert (merged[:, :2] <= part[:, :2]).all() and (merged[:, 2:] >= part[:, 2:]).all()
    assert (regions.colour.sum(axis=1) == 3 * regions.sizes).all()
    assert (regions.texture.sum(axis=1) == 24 * regions.sizes).all()


def test_labels_that_describe_no_regions():
    bins = np.zeros((2, 2, 1), np.uint8)
    for labels in (np.array([[0, 0], [2, 2]]), np.array([[0, -1], [0, 0]])):
        with pytest.raises(ValueError, match="each of them used"):
            describe_regions(labels, bins, bins)
    with pytest.raises(ValueError, match="must be of one size"):
        describe_regions(np.zeros((2, 3), int), bins, bins)
    with pytest.raises(ValueError, match="must be of one size"):
        describe_regions(np.zeros((0, 2), int), np.zeros((0, 2, 1), np.uint8), np.zeros((0, 2, 1), np.uint8))
