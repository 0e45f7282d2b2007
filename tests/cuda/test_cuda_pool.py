"""Pooling on the GPU: the slow twin's numbers, the processor's winners, and gradients that are its transpose."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.kernels.device import DeviceArray, to_device, to_numpy, use_device
from minidetect.kernels.gpu import THREADS
from minidetect.kernels.planes_cuda import grid_of_planes
from minidetect.kernels.pool import (
    avg_pool_backward,
    avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
    max_pool_values,
)
from minidetect.reference import nn_ops as slow

CASES = [  # (H, W), kernel, stride, padding, ceil mode
    ((4, 6), 2, 2, 0, False),
    ((5, 7), 2, 2, 0, False),  # a row and a column under no window
    ((5, 7), 2, 2, 0, True),
    ((5, 6), 3, 2, 1, False),
    ((6, 5), 3, 2, 0, True),
    ((4, 5), 3, 1, 1, False),
    ((7, 5), 2, 3, 0, False),  # gaps between the windows
    ((6, 7), 4, 2, 2, True),
    ((2, 70), 2, 2, 0, False),  # wider than a block
    ((3, 4), 1, 1, 0, False),
]
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def tied(rng: np.random.Generator, size: tuple[int, int], dtype: type) -> np.ndarray:
    """Few different values, some of them infinite, some NaN."""
    x = rng.integers(-2, 3, (2, 1, *size)).astype(dtype)
    x[rng.random(x.shape) < 0.1] = -np.inf
    x[rng.random(x.shape) < 0.03] = np.nan
    return x


@BOTH
@pytest.mark.parametrize("size, kernel, stride, padding, ceil_mode", CASES)
def test_max_pool_and_its_winners(size, kernel, stride, padding, ceil_mode, dtype, rng):
    x, settings = tied(rng, size, dtype), (kernel, stride, padding, ceil_mode)
    y, argmax = max_pool_forward(to_device(x), *settings)
    assert (y.dtype, argmax.dtype) == (dtype, np.int32)
    np.testing.assert_array_equal(to_numpy(y), slow.max_pool2d(x, *settings))
    np.testing.assert_array_equal(to_numpy(argmax), max_pool_forward(x, *settings)[1])
    np.testing.assert_array_equal(to_numpy(max_pool_values(to_device(x), *settings)), to_numpy(y))


@BOTH
@pytest.mark.parametrize("size, kernel, stride, padding, ceil_mode", CASES)
def test_max_pool_backward(size, kernel, stride, padding, ceil_mode, dtype, rng):
    x = tied(rng, size, dtype)
    argmax = max_pool_forward(x, kernel, stride, padding, ceil_mode)[1]
    gy = rng.standard_normal(argmax.shape).astype(dtype)
    expected = np.zeros((2, x[0].size), dtype)
    for plane, where, g in zip(expected, argmax.reshape(2, -1), gy.reshape(2, -1), strict=True):
        np.add.at(plane, where, g)
    window = kernel, stride, padding
    gx = to_numpy(max_pool_backward(to_device(gy), to_device(argmax), x.shape, *window))
    np.testing.assert_array_equal(gx, expected.reshape(x.shape))  # the same sums in the same order
    np.testing.assert_array_equal(gx, max_pool_backward(gy, argmax, x.shape, *window))


def test_of_equals_the_leftmost_wins_then_the_topmost():
    x = np.array([[0, 7, 7], [7, 7, 7], [7, 7, 7]], np.float32).reshape(1, 1, 3, 3)
    winner = max_pool_forward(to_device(x), 3, 2, 0, False)[1].item()
    assert winner == 3  # the 7 in the first column
    assert np.argmax(x) == 1  # row by row another would win: a kernel with its loops the other way round fails here


def test_a_window_of_minus_infinity_has_a_real_winner():
    x = np.full((1, 1, 5, 5), -np.inf, np.float32)
    y, argmax = max_pool_forward(to_device(x), 3, 2, 1, False)
    assert (to_numpy(y) == -np.inf).all()
    assert to_numpy(argmax)[0, 0].tolist() == [[0, 1, 3], [5, 6, 8], [15, 16, 18]]


def test_a_nan_wins_over_what_comes_before_and_after():
    x = np.ones((9, 1, 3, 3), np.float32)
    x.reshape(9, 9)[np.arange(9), np.arange(9)] = np.nan
    y, argmax = max_pool_forward(to_device(x), 3, 2, 0, False)
    assert np.isnan(to_numpy(y)).all() and to_numpy(argmax).ravel().tolist() == list(range(9))
    assert np.isnan(to_numpy(max_pool_values(to_device(x), 3, 2, 0, False))).all()


@BOTH
@pytest.mark.parametrize("size, kernel, stride, padding, ceil_mode", CASES)
def test_avg_pool_and_its_transpose(size, kernel, stride, padding, ceil_mode, dtype, rng):
    x, settings = rng.standard_normal((2, 1, *size)).astype(dtype), (kernel, stride, padding)
    close = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    y = to_numpy(avg_pool_forward(to_device(x), *settings, ceil_mode))
    np.testing.assert_allclose(y, slow.avg_pool2d(x, *settings, ceil_mode), **close)
    np.testing.assert_allclose(y, avg_pool_forward(x, *settings, ceil_mode), **close)
    gy = rng.standard_normal(y.shape).astype(dtype)
    gx = to_numpy(avg_pool_backward(to_device(gy), x.shape, *settings))
    np.testing.assert_allclose(gx, avg_pool_backward(gy, x.shape, *settings), **close)
    y64, x64 = slow.avg_pool2d(x.astype(np.float64), *settings, ceil_mode), x.astype(np.float64)
    assert (y64 * gy).sum() == pytest.approx((x64 * gx).sum(), rel=10 * close["rtol"], abs=10 * close["rtol"])


def test_padding_does_not_count_in_a_mean():
    x = np.ones((1, 1, 3, 3), np.float32)
    assert (to_numpy(avg_pool_forward(to_device(x), 3, 2, 1, False)) == 1).all()  # not 4/9, as 3*3 would make it
    gx = to_numpy(avg_pool_backward(to_device(np.ones((1, 1, 2, 2), np.float32)), x.shape, 3, 2, 1))
    np.testing.assert_allclose(gx, [[[[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]]])


def test_no_images():
    x = to_device(np.zeros((0, 3, 4, 4), np.float32))
    y, argmax = max_pool_forward(x, 2, 2, 0, False)
    assert y.shape == argmax.shape == max_pool_values(x, 2, 2, 0, False).shape == (0, 3, 2, 2)
    assert avg_pool_forward(x, 2, 2, 0, False).shape == (0, 3, 2, 2)
    assert max_pool_backward(y, argmax, x.shape, 2, 2, 0).shape == x.shape
    assert avg_pool_backward(y, x.shape, 2, 2, 0).shape == x.shape


def test_results_stay_where_the_arrays_are(rng):
    x = rng.standard_normal((1, 1, 4, 4)).astype(np.float32)
    with use_device("cuda"):
        y, argmax = max_pool_forward(x, 2, 2, 0, False)
    assert type(y) is type(argmax) is np.ndarray
    gx = max_pool_backward(to_device(y), argmax, x.shape, 2, 2, 0)  # argmax is copied over
    assert type(gx) is DeviceArray


@pytest.mark.parametrize(
    "planes, height, width", [(1, 1, 1), (3, 7, 7), (1000, 1, 1), (1, 640, 639), (200_000, 12, 12)]
)
def test_the_threads_cover_all_planes(planes, height, width):
    (plane_blocks, row_blocks, column_blocks), (x, y, z) = grid_of_planes(planes, height, width)
    assert plane_blocks * z >= planes and row_blocks * y >= height and column_blocks * x >= width
    assert x * y * z <= THREADS and z <= 64 and max(row_blocks, column_blocks) <= 65535  # CUDA's limits
