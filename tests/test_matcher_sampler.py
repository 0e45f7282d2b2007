"""Matching, ignore regions, balanced sampling and sliding windows, with a handful of boxes each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.boxes import area
from minidetect.detection.matcher import IGNORE, NEGATIVE, match, overlaps_ignore
from minidetect.detection.sampler import pyramid_scales, sample_balanced, sliding_windows

GT = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)


def test_match_by_hand():
    proposals = np.array(
        [[0, 0, 10, 10], [20, 0, 30, 8], [0, 0, 10, 5], [0, 0, 10, 4], [50, 50, 60, 60]], np.float32
    )
    matched_idx, best_iou = match(proposals, GT, positive_iou=0.8, negative_iou=0.5)
    np.testing.assert_allclose(best_iou, [1, 0.8, 0.5, 0.4, 0], rtol=1e-6)
    # Both limits belong to the upper side: 0.8 is positive, 0.5 is ignored.
    np.testing.assert_array_equal(matched_idx, [0, 1, IGNORE, NEGATIVE, NEGATIVE])
    assert matched_idx.dtype == np.int64


def test_match_with_equal_thresholds_ignores_nothing(rng):
    corners = rng.uniform(0, 25, (200, 2))
    proposals = np.concatenate([corners, corners + 8], axis=1)
    matched_idx, best_iou = match(proposals, GT, 0.3, 0.3)
    assert (matched_idx != IGNORE).all()
    np.testing.assert_array_equal(matched_idx >= 0, best_iou >= 0.3)


def test_match_without_ground_truths_or_proposals():
    none = np.zeros((0, 4), np.float32)
    matched_idx, best_iou = match(GT, none, 0.5, 0.5)
    np.testing.assert_array_equal(matched_idx, [NEGATIVE, NEGATIVE])
    np.testing.assert_array_equal(best_iou, [0, 0])
    matched_idx, best_iou = match(none, GT, 0.5, 0.5)
    assert matched_idx.shape == best_iou.shape == (0,)
    assert match([], [], 0.5, 0.5)[0].dtype == np.int64


def test_a_tie_goes_to_the_first_ground_truth():
    assert match([[5, 0, 25, 10]], GT, 0.1, 0.1)[0][0] == 0


def test_match_refuses_crossed_thresholds():
    with pytest.raises(ValueError, match="negative_iou=0.5, positive_iou=0.3"):
        match(GT, GT, 0.3, 0.5)
    with pytest.raises(ValueError, match="positive_iou above 0"):
        match(GT, GT, 0, 0)  # everything would be positive, disjoint boxes too


def test_overlaps_ignore_measures_the_window_not_the_region():
    crowd = np.array([[0, 0, 100, 100]], np.float32)
    windows = np.array([[10, 10, 20, 20], [95, 0, 105, 10], [94, 0, 104, 10], [200, 0, 210, 10]], np.float32)
    np.testing.assert_array_equal(overlaps_ignore(windows, crowd), [True, False, True, False])
    np.testing.assert_array_equal(overlaps_ignore(windows, np.zeros((0, 4))), [False] * 4)
    assert overlaps_ignore([], crowd).shape == (0,)


def test_no_sampled_negative_lies_in_an_ignore_region(rng):
    """FC-22, as a caller does it: matched, masked, then sampled."""
    ignore = np.array([[40, 40, 90, 90]], np.float32)
    windows = sliding_windows((100, 100), window=12, stride=4)
    matched_idx, _ = match(windows, GT, 0.5, 0.4)
    is_negative = (matched_idx == NEGATIVE) & ~overlaps_ignore(windows, ignore)
    _, neg_idx = sample_balanced(matched_idx >= 0, is_negative, 200, 0.25, rng)
    assert len(neg_idx) > 100
    assert not overlaps_ignore(windows[neg_idx], ignore).any()
    assert overlaps_ignore(windows[matched_idx == NEGATIVE], ignore).any()  # the mask had something to do


def test_shortages_by_hand(rng):
    is_positive = np.array([1, 0, 0, 1, 0, 0, 0], bool)
    is_negative = np.array([0, 1, 1, 0, 1, 1, 0], bool)
    pos_idx, neg_idx = sample_balanced(is_positive, is_negative, 6, 0.5, rng)  # 3 positives asked, 2 there
    np.testing.assert_array_equal(pos_idx, [0, 3])
    np.testing.assert_array_equal(neg_idx, [1, 2, 4, 5])  # one more fills the batch
    pos_idx, neg_idx = sample_balanced(is_positive, is_negative, 4, 0.25, rng)
    assert (len(pos_idx), len(neg_idx)) == (1, 3)
    pos_idx, neg_idx = sample_balanced(is_positive, is_negative & False, 4, 0.25, rng)
    assert (len(pos_idx), len(neg_idx)) == (1, 0)  # positives do not fill it


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([1, 0, -1]), max_size=40),
    st.integers(0, 30),
    st.sampled_from([0, 0.05, 0.25, 0.5, 1]),
    st.integers(0, 2**32 - 1),
)
def test_sample_counts(kind, num, fraction, seed):
    kind = np.array(kind, int)
    pos_idx, neg_idx = sample_balanced(kind == 1, kind == 0, num, fraction, np.random.default_rng(seed))
    assert len(pos_idx) == min((kind == 1).sum(), int(num * fraction + 0.5))
    assert len(neg_idx) == min((kind == 0).sum(), num - len(pos_idx))
    assert (kind[pos_idx] == 1).all() and (kind[neg_idx] == 0).all()
    for idx in (pos_idx, neg_idx):
        assert idx.dtype == np.int64 and (np.diff(idx) > 0).all()  # ascending, none twice


def test_sampling_is_fair_and_depends_on_nothing_but_the_generator():
    is_positive = np.arange(20) < 10
    hits = np.zeros(20)
    rng = np.random.default_rng(3)
    for _ in range(2000):
        pos_idx, neg_idx = sample_balanced(is_positive, ~is_positive, 8, 0.5, rng)
        hits[pos_idx] += 1
        hits[neg_idx] += 1
    # Each is drawn with probability 0.4: 800 of 2000 times, standard deviation 22.
    assert np.abs(hits - 800).max() < 5 * 22
    np.random.seed(1)  # noqa: NPY002 - the global generator must have no say
    first = sample_balanced(is_positive, ~is_positive, 8, 0.5, np.random.default_rng(9))
    np.random.seed(2)  # noqa: NPY002
    again = sample_balanced(is_positive, ~is_positive, 8, 0.5, np.random.default_rng(9))
    np.testing.assert_array_equal(first, again)


def test_sample_balanced_refuses_nonsense(rng):
    yes = np.ones(3, bool)
    with pytest.raises(ValueError, match="proposal 0 is marked positive and negative"):
        sample_balanced(yes, yes, 2, 0.5, rng)
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        sample_balanced(yes, yes[:2], 2, 0.5, rng)
    with pytest.raises(ValueError, match="positive_fraction in"):
        sample_balanced(yes, ~yes, 2, 1.5, rng)


def test_pyramid_scales_in_both_readings():
    scales = pyramid_scales()
    assert len(scales) == 26 and scales[0] == 1 and scales[-1] == 1 / 32
    np.testing.assert_allclose(np.divide(scales[1:], scales[:-1]), 2 ** (-1 / 5))
    assert pyramid_scales(levels_per_octave=1) == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert pyramid_scales(levels_per_octave=2, octaves=1, max_upscale=2) == [2, 2**0.5, 1, 2**-0.5, 0.5]
    assert pyramid_scales(levels_per_octave=1, octaves=1, max_upscale=3) == [2, 1, 0.5]
    with pytest.raises(ValueError, match="levels_per_octave >= 1"):
        pyramid_scales(0)


def test_sliding_windows_by_hand():
    windows = sliding_windows((12, 28), window=12, stride=8, levels_per_octave=1, octaves=2)
    np.testing.assert_array_equal(windows, [[0, 0, 12, 12], [8, 0, 20, 12], [16, 0, 28, 12]])
    windows = sliding_windows((24, 32), window=12, stride=8, levels_per_octave=1, octaves=1)
    full = [[x, y, x + 12, y + 12] for y in (0, 8) for x in (0, 8, 16)]
    np.testing.assert_array_equal(windows, [*full, [0, 0, 24, 24]])  # half size: 12 x 16, one window
    doubled = sliding_windows((6, 6), window=12, stride=8, octaves=0, max_upscale=2, levels_per_octave=1)
    np.testing.assert_array_equal(doubled, [[0, 0, 6, 6]])
    assert sliding_windows((11, 300), 12, 8).shape == (0, 4)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        sliding_windows((20, 20), 12, 0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 30), st.integers(1, 9), st.integers(0, 99))
def test_windows_are_squares_inside_the_image_shifted_or_not(height, width, window, stride, seed):
    plain = sliding_windows((height, width), window, stride, 2, 3, max_upscale=2)
    shifted = sliding_windows((height, width), window, stride, 2, 3, 2, rng=np.random.default_rng(seed))
    for windows in (plain, shifted):
        assert windows.dtype == np.float32 and windows.shape[1] == 4
        assert (windows >= 0).all() and (windows <= np.array([width, height] * 2) + 1e-3).all()
        sides = windows[:, 2:] - windows[:, :2]
        np.testing.assert_allclose(sides[:, 0], sides[:, 1], rtol=1e-3)
    # The shift may cost a column or a row of windows, but never a whole level.
    levels, shifted_levels = (np.unique(np.log2(area(w) / window**2).round()) for w in (plain, shifted))
    np.testing.assert_array_equal(levels, shifted_levels)  # at two levels an octave areas halve
