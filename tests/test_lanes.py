"""Small nets over patches side by side (kernels/lanes.py, winograd.py) against the layers one by one, and the fused
cascades against those that they were made from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor, no_grad
from minidetect.data.synthetic import draw_crowd
from minidetect.detection.pyramid import ImagePyramid
from minidetect.kernels import lanes
from minidetect.kernels.lanes import Layer, halve, make_stack, run_stack
from minidetect.kernels.simd import LANES
from minidetect.kernels.winograd import FILTER_AT_POINTS
from minidetect.models.facecraft import CVPR15_TABLES, TABLES, JointCascade, SeparateCascade
from minidetect.reference import nn_ops as slow


def to_lanes(x: np.ndarray) -> np.ndarray:
    """(N, C, S, S) -> (B, C, S, S, LANES), lanes without a patch 0."""
    blocks = -(-len(x) // LANES)
    padded = np.zeros((blocks * LANES, *x.shape[1:]), np.float32)
    padded[: len(x)] = x
    return np.ascontiguousarray(padded.reshape(blocks, LANES, *x.shape[1:]).transpose(0, 2, 3, 4, 1))


def by_layers(x: np.ndarray, layers: list[Layer]) -> np.ndarray:
    """The slow oracle, float64: (N, C, S, S) -> (N, F)."""
    x = x.astype(np.float64)
    for layer in layers:
        x = slow.conv2d(x, layer.w.astype(np.float64), layer.b.astype(np.float64))
        slopes = np.ravel(layer.slope).astype(np.float64)[:, None, None]  # one, or one a filter: (1 or F, 1, 1)
        x = np.where(x > 0, x, slopes * x)
        if layer.pool:
            x = slow.max_pool2d(x, layer.pool, 2, 0, layer.pool == 3)
    return x.reshape(len(x), -1)


def layer(rng, channels, filters, kernel, pool=0, slope=0.0) -> Layer:
    w = rng.standard_normal((filters, channels, kernel, kernel)) / np.sqrt(channels * kernel**2)
    return Layer(w.astype(np.float32), rng.standard_normal(filters).astype(np.float32), slope, pool)


def in_lanes(x: np.ndarray, layers: list[Layer]) -> np.ndarray:
    filters = len(layers[-1].w)
    y = np.full((-(-len(x) // LANES), filters * LANES), np.nan, np.float32)
    run_stack(make_stack(layers, x.shape[2]), to_lanes(x), x.shape[2], y)
    # (B, F*LANES) -> (B, F, LANES) -> (B, LANES, F) -> (N, F)
    return y.reshape(len(y), filters, LANES).transpose(0, 2, 1).reshape(len(y) * LANES, filters)[: len(x)]


def random_stack(rng, side: int, widths: list[int], slope: float | None) -> list[Layer]:
    """Layers with any kernel and pooling that fit, the last as large as its map. slope None: any, for each filter."""
    layers, channels = [], 3
    for filters in widths:
        kernel = int(rng.integers(1, min(side, 5) + 1))
        pool = int(rng.choice([0, 2, 3]))
        if side - kernel + 1 < max(pool, 1):
            pool = 0
        own = rng.uniform(-1.2, 1.2, filters).astype(np.float32) if slope is None else slope
        layers.append(layer(rng, channels, filters, kernel, pool, own))
        channels, side = filters, lanes.pooled_side(side - kernel + 1, pool)
    return [*layers, layer(rng, channels, 6, side, slope=1.0)]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6), st.integers(1, 3 * LANES + 2), st.integers(1, 17), st.lists(st.integers(1, 40), max_size=3),
    st.sampled_from([0.0, 0.25, 1.0, -0.5, None]),
)
def test_any_stack(seed, patches, side, widths, slope):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((patches, 3, side, side)).astype(np.float32)
    layers = random_stack(rng, side, widths, slope)
    np.testing.assert_allclose(in_lanes(x, layers), by_layers(x, layers), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", range(4, 14))
@pytest.mark.parametrize("pool", [0, 2, 3])
def test_winograd_on_every_side(rng, side, pool):
    """Tiles of three that fit, or hang over the border by one or two; 16 channels are enough to use them."""
    if side - 2 < pool:
        pytest.skip("the window is larger than the map")
    x = rng.standard_normal((5, 16, side, side)).astype(np.float32)
    first = layer(rng, 16, 11, 3, pool)
    stack = make_stack([first], side)
    assert stack.table[0, 6] == 1
    last = lanes.pooled_side(side - 2, pool)
    layers = [first, layer(rng, 11, 4, last, slope=1.0)]
    np.testing.assert_allclose(in_lanes(x, layers), by_layers(x, layers), rtol=1e-3, atol=5e-5)


def test_winograds_points_by_hand():
    """One line: pixels 1 2 3 4 5, filter 1 0 2 -> 1*1 + 2*3, 1*2 + 2*4, 1*3 + 2*5 = 7, 10, 13."""
    at_points = FILTER_AT_POINTS @ [1, 0, 2]
    np.testing.assert_allclose(at_points, [0.5, -1.5, -0.5, 1.5, 2])
    a, b, c, d, e = 1, 2, 3, 4, 5
    pixels = np.array([2 * a - b - 2 * c + d, d - 2 * b - c, 2 * b - 3 * c + d, d - b, 2 * b - c - 2 * d + e])
    p = at_points * pixels
    outputs = [p[0] + p[1] + p[2] + p[3], p[1] - p[2] + 2 * p[3], p[1] + p[2] + 4 * p[3] + p[4]]
    np.testing.assert_allclose(outputs, [7, 10, 13])


def test_winograd_rounds_little_more_than_the_plain_sum(rng, monkeypatch):
    x = rng.standard_normal((LANES, 32, 11, 11)).astype(np.float32)
    first = layer(rng, 32, 48, 3, slope=1.0)
    layers = [first, layer(rng, 48, 6, 9, slope=1.0)]
    exact, errors = by_layers(x, layers), []
    for channels in (1, 1000):  # always, never
        monkeypatch.setattr(lanes, "WINOGRAD_CHANNELS", channels)
        errors.append(np.sqrt(((in_lanes(x, layers) - exact) ** 2).mean()))
    assert 0 < errors[0] < 5 * errors[1]


def test_a_nan_stays_with_its_patch(rng):
    x = rng.standard_normal((LANES + 3, 3, 12, 12)).astype(np.float32)
    x[LANES + 1, 1, 5, 5] = np.nan
    layers = [layer(rng, 3, 16, 3, 2), layer(rng, 16, 16, 5), layer(rng, 16, 6, 1, slope=1.0)]
    y = in_lanes(x, layers)
    assert np.isnan(y[LANES + 1]).all() and not np.isnan(np.delete(y, LANES + 1, axis=0)).any()


def test_no_patches(rng):
    assert in_lanes(np.zeros((0, 3, 8, 8), np.float32), [layer(rng, 3, 4, 3), layer(rng, 4, 2, 6)]).shape == (0, 2)


def test_halve(rng):
    x = rng.standard_normal((5, 3, 8, 8)).astype(np.float32)
    packed = to_lanes(x).reshape(-1, 3 * 8 * 8 * LANES)
    y = np.empty((len(packed), packed.shape[1] // 4), np.float32)
    halve(packed, 8, y)
    expected = to_lanes(x.reshape(5, 3, 4, 2, 4, 2).mean(axis=(3, 5)))
    np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=1e-6)


@pytest.mark.parametrize("by_points", [False, True])
def test_a_slope_belongs_to_its_filter(rng, by_points):
    """One pixel of value -1 through filters of weight 1: out come minus the slopes, one by one."""
    slopes = np.array([0, 0.25, -0.5, 1, 3, -2, 0.1], np.float32)
    channels = lanes.WINOGRAD_CHANNELS if by_points else 3
    w = np.zeros((7, channels, 3, 3), np.float32)
    w[:, 0, 1, 1] = 1
    corner = np.zeros((7, 7, 2, 2), np.float32)  # of each map of 2 x 2, one pixel
    corner[:, :, 0, 0] = np.eye(7)
    layers = [Layer(w, np.zeros(7, np.float32), slopes), Layer(corner, np.zeros(7, np.float32), 1.0)]
    x = np.full((2, channels, 4, 4), -1, np.float32)
    assert make_stack(layers, 4).table[0, 6] == by_points
    np.testing.assert_allclose(in_lanes(x, layers), [-slopes] * 2, atol=1e-5)


def test_a_negative_slope_is_applied_before_pooling(rng):
    """With slope -1 an activation is the absolute value: of -3 and 1 the larger is 3, not |max(-3, 1)| = 1."""
    w = np.ones((1, 1, 1, 1), np.float32)
    layers = [Layer(w, np.zeros(1, np.float32), -1.0, 2), Layer(w, np.zeros(1, np.float32), 1.0)]
    x = np.array([-3, 1, 0.5, -2], np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_array_equal(in_lanes(x, layers), [[3]])


# ---------------------------------------------------------------------------------------- FaceCraft, fused


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return draw_crowd(size=(120, 160)).image


@pytest.mark.parametrize("kind", [SeparateCascade, JointCascade])
@pytest.mark.parametrize("tables", [TABLES, CVPR15_TABLES], ids=["own tables", "CVPR15 tables"])
def test_fused_nets_say_the_same(kind, tables, photo, rng):
    cascade = kind(rng, tables)
    for p in cascade.parameters():  # biases that do something
        p.data += rng.standard_normal(p.shape).astype(np.float32) * 0.02
    fused, pyramid = cascade.fuse(), ImagePyramid(photo, 3)
    for k in (0, 3, 4):
        for ours, theirs in zip(fused.look_everywhere(pyramid, k), cascade.look_everywhere(pyramid, k), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)
    corners = rng.uniform(-10, 100, (37, 2))
    squares = np.concatenate([corners, corners + rng.uniform(8, 60, (37, 1))], axis=1).astype(np.float32)
    for stage in (1, 2):
        ours, theirs = fused.look_again(pyramid, squares, stage), cascade.look_again(pyramid, squares, stage)
        assert ours.points is None and theirs.points is None
        for a, b in ((ours.probs, theirs.probs), (ours.deltas, theirs.deltas)):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=5e-5)


def test_fused_weights_are_a_copy(photo, rng):
    cascade = JointCascade(rng)
    fused, pyramid = cascade.fuse(), ImagePyramid(photo, 3)
    before = fused.look_everywhere(pyramid, 3)[0]
    for p in cascade.parameters():
        p.data += 1
    np.testing.assert_array_equal(fused.look_everywhere(pyramid, 3)[0], before)
    assert np.abs(cascade.fuse().look_everywhere(pyramid, 3)[0] - before).max() > 1e-3


def test_the_second_look_reads_the_map_where_a_box_has_moved(photo, rng):
    """A box on top of a window has that window's score, or the better one of a neighbour; far away it has none."""
    cascade = JointCascade(rng, thresholds=(0.0, 0.1, 0.5))
    pyramid = ImagePyramid(photo, 3)
    maps = cascade.propose(pyramid, 24).maps
    for k, (i, j) in ((3, (5, 9)), (4, (2, 3)), (6, (0, 0))):
        corner = np.array([j, i, j, i]) * 2.0 + [0, 0, 12, 12]
        box = pyramid.to_image(corner[None], k) + 0.01  # just past the window's corner
        expected = maps[k][i : i + 2, j : j + 2].max()
        assert cascade.score_where_moved(pyramid, maps, box)[0] == pytest.approx(expected)
    assert cascade.score_where_moved(pyramid, maps, np.zeros((0, 4), np.float32)).shape == (0,)


def test_a_second_look_spares_the_later_branches_boxes(photo, rng):
    counts = []
    for second_look in (None, 0.55):
        cascade = JointCascade(np.random.default_rng(0), thresholds=(0.3, 0.0, 0.0), second_look=second_look)
        reports = cascade.detect_with_report(photo, 24)[1]
        counts.append(reports[1].boxes_out)
    assert 0 <= counts[1] < counts[0]


def test_tensors_and_lanes_agree_on_a_patch(rng):
    """The whole third branch on one patch, without the pyramid."""
    cascade = JointCascade(rng)
    x = rng.standard_normal((1, 3, 48, 48)).astype(np.float32)
    fused = cascade.fuse()
    features = fused.features(to_lanes(x).reshape(1, -1), 2).reshape(-1, LANES)[:, 0]
    with no_grad():
        deep12 = cascade.x12.features(Tensor(x.reshape(1, 3, 12, 4, 12, 4).mean(axis=(3, 5))))
    np.testing.assert_allclose(features[-16:], deep12.data.ravel(), atol=1e-5)
