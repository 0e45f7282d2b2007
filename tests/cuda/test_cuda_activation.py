"""ReLU and PReLU on the GPU: by hand, against the slow twin and the processor, with NaN, with nothing.

LONG positions are more than two blocks' share, in the simulator (21) and on a GPU (8197).
"""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.kernels.device import to_device, to_numpy, use_device
from minidetect.kernels.planes_cuda import VALUES, grid_2d, shares
from minidetect.kernels.prelu import prelu_backward, prelu_forward
from minidetect.kernels.relu import relu_backward, relu_forward
from minidetect.reference import nn_ops as slow

LONG = 2 * VALUES + 5
SHAPES = [(2, 3, 5, 3), (5, 3), (2, 2, LONG), (1, 1, 7), (11, 2, 3)]
types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def tolerance(dtype):
    return {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


@types
def test_relu_by_hand_with_nan(dtype):
    x = np.array([[-2, 0, 3], [np.nan, -np.inf, np.inf]], dtype)
    y = relu_forward(to_device(x))
    assert y.dtype == dtype
    np.testing.assert_array_equal(to_numpy(y), [[0, 0, 3], [np.nan, 0, np.inf]])
    gx = relu_backward(to_device(np.arange(1, 7).reshape(2, 3).astype(dtype)), y)
    np.testing.assert_array_equal(to_numpy(gx), [[0, 0, 3], [0, 0, 6]])  # as on the processor, a NaN lets nothing pass


@types
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7), (2, 0, 3)])
def test_relu_is_the_processors(shape, dtype, rng):
    x, gy = (np.asarray(rng.normal(size=shape), dtype) for _ in range(2))
    y = relu_forward(x)
    np.testing.assert_array_equal(to_numpy(relu_forward(to_device(x))), y)
    np.testing.assert_array_equal(to_numpy(relu_backward(to_device(gy), to_device(y))), relu_backward(gy, y))
    np.testing.assert_array_equal(y, np.maximum(x, 0))


@types
@pytest.mark.parametrize("shape", SHAPES)
def test_prelu_equals_the_slow_twin_and_the_processor(shape, dtype, rng):
    x, gy = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    slope = rng.uniform(-1, 1, shape[1]).astype(dtype)
    y = to_numpy(prelu_forward(to_device(x), to_device(slope)))
    np.testing.assert_array_equal(y, slow.prelu(x, slope))
    np.testing.assert_array_equal(y, prelu_forward(x, slope))
    gx, gslope = (to_numpy(g) for g in prelu_backward(to_device(gy), to_device(x), to_device(slope)))
    assert gx.dtype == gslope.dtype == dtype
    column = (1, -1) + (1,) * (len(shape) - 2)
    np.testing.assert_array_equal(gx, gy * np.where(x > 0, dtype(1), slope.reshape(column)))
    others = tuple(a for a in range(len(shape)) if a != 1)
    np.testing.assert_allclose(gslope, (gy * np.minimum(x, 0).astype(np.float64)).sum(axis=others), **tolerance(dtype))
    np.testing.assert_allclose(gslope, prelu_backward(gy, x, slope)[1], **tolerance(dtype))


def test_prelu_keeps_nan_in_its_channel():
    x = np.array([[[1, -1], [np.nan, 2]]], np.float32)  # (1, 2, 2)
    slope = np.array([0.5, 0.25], np.float32)
    np.testing.assert_array_equal(
        to_numpy(prelu_forward(to_device(x), to_device(slope))), [[[1, -0.5], [np.nan, 2]]]
    )
    _, gslope = prelu_backward(to_device(np.ones_like(x)), to_device(x), to_device(slope))
    np.testing.assert_array_equal(to_numpy(gslope), [-1, np.nan])


def test_prelu_of_nothing():
    x, slope = to_device(np.zeros((0, 3, 4), np.float32)), to_device(np.ones(3, np.float32))
    assert prelu_forward(x, slope).shape == (0, 3, 4)
    gx, gslope = prelu_backward(x, x, slope)
    assert gx.shape == (0, 3, 4)
    np.testing.assert_array_equal(to_numpy(gslope), np.zeros(3))


def test_prelus_sum_is_the_same_in_every_run(rng):
    x = to_device(rng.normal(size=(3, 1, LONG)).astype(np.float32))
    slope = to_device(np.ones(1, np.float32))
    runs = [to_numpy(prelu_backward(x, x, slope)[1]) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


def test_numpys_arrays_are_copied_there_and_back(rng):
    x, slope = rng.normal(size=(2, 3, 4)).astype(np.float32), np.full(3, 0.1, np.float32)
    with use_device("cuda"):
        y = prelu_forward(x, slope)
    np.testing.assert_array_equal(y, prelu_forward(x, slope))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (16, 64, 102400), (2000, 512, 49), (2, 1, 10**8), (10**6, 3, 1), (3, 7, 4097)]
)
def test_shares_cover_a_channel_once_and_fit_into_a_grid(shape):
    ((channels, across, down), block), deep, wide = shares(shape)
    assert channels == shape[1] and max(across, down) <= 65535
    assert (across - 1) * wide < shape[2] <= across * wide
    assert (down - 1) * deep < shape[0] <= down * deep
    assert block[0] * block[1] == np.prod(shares((1, 1, 1))[0][1])
    grid, _ = grid_2d(shape[0] * shape[1], shape[2])
    assert grid[0] >= 1 and 1 <= grid[1] <= 65535
