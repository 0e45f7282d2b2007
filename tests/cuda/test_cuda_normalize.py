"""Batch normalisation and sums of channels on the GPU, against the slow twin and the processor."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.kernels.device import to_device, to_numpy
from minidetect.kernels.normalize import batch_norm_backward, batch_norm_fixed, batch_norm_forward, channel_sums
from minidetect.kernels.planes_cuda import VALUES
from minidetect.reference import nn_ops as slow

EPS = 1e-3
LONG = 2 * VALUES + 5
# One share a channel, short and long planes, several shares of samples.
SHAPES = [(2, 3, 4), (2, 3, 5, 3), (9, 3), (2, 2, LONG), (VALUES + 3, 1, 2)]
types = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def tolerance(dtype):
    return {"rtol": 3e-5, "atol": 3e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-11}


def on_gpu(function, *args, **kwargs):
    """Its results in the machine's memory, for arrays that are copied to the GPU first."""
    results = function(*(to_device(a) if isinstance(a, np.ndarray) else a for a in args), **kwargs)
    return tuple(to_numpy(r) for r in results) if isinstance(results, tuple) else to_numpy(results)


def arrays(rng, shape, dtype):
    """x, gy like x, gamma and beta (C,)."""
    x, gy = (rng.normal(1, 2, shape).astype(dtype) for _ in range(2))
    return x, gy, *(rng.normal(size=shape[1]).astype(dtype) for _ in range(2))


@types
@pytest.mark.parametrize("shape", SHAPES)
def test_the_batchs_own_statistics(shape, dtype, rng):
    x, gy, gamma, beta = arrays(rng, shape, dtype)
    y, mean, var = on_gpu(batch_norm_forward, x, gamma, beta, EPS)
    assert y.dtype == dtype and mean.dtype == var.dtype == np.float64
    np.testing.assert_allclose(y, slow.batch_norm(x, gamma, beta, eps=EPS), **tolerance(dtype))
    others = tuple(a for a in range(x.ndim) if a != 1)
    np.testing.assert_allclose(mean, x.mean(axis=others, dtype=np.float64), **tolerance(dtype))
    np.testing.assert_allclose(var, x.var(axis=others, dtype=np.float64), **tolerance(dtype))
    for ours, theirs in zip((y, mean, var), batch_norm_forward(x, gamma, beta, EPS), strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance(dtype))


@types
def test_statistics_that_are_given(dtype, rng):
    x, _, gamma, beta = arrays(rng, (2, 3, 5, 3), dtype)
    mean, var = rng.normal(size=3), rng.uniform(0.5, 2, 3)
    y = on_gpu(batch_norm_fixed, x, gamma, beta, mean, var, EPS)
    np.testing.assert_allclose(y, slow.batch_norm(x, gamma, beta, mean, var, EPS), **tolerance(dtype))
    np.testing.assert_allclose(y, batch_norm_fixed(x, gamma, beta, mean, var, EPS), **tolerance(dtype))
    # running averages are float32
    y = on_gpu(batch_norm_fixed, x, gamma, beta, mean.astype(np.float32), var.astype(np.float32), EPS)
    np.testing.assert_allclose(y, slow.batch_norm(x, gamma, beta, mean, var, EPS), rtol=1e-5, atol=1e-5)


@types
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_the_equations_and_the_processors(shape, fixed, dtype, rng):
    x, gy, gamma, _ = arrays(rng, shape, dtype)
    others = tuple(a for a in range(x.ndim) if a != 1)
    mean, var = x.mean(axis=others, dtype=np.float64), x.var(axis=others, dtype=np.float64)
    gx, ggamma, gbeta = on_gpu(batch_norm_backward, gy, x, gamma, mean, var, EPS, fixed)
    assert gx.dtype == ggamma.dtype == gbeta.dtype == dtype
    g, column = gy.astype(np.float64), (1, -1) + (1,) * (x.ndim - 2)
    std = np.sqrt(var + EPS).reshape(column)
    xhat = (x - mean.reshape(column)) / std
    np.testing.assert_allclose(gbeta, g.sum(axis=others), **tolerance(dtype))
    np.testing.assert_allclose(ggamma, (g * xhat).sum(axis=others), **tolerance(dtype))
    through = 0 if fixed else g.mean(axis=others, keepdims=True) + xhat * (g * xhat).mean(axis=others, keepdims=True)
    np.testing.assert_allclose(gx, gamma.reshape(column) / std * (g - through), **tolerance(dtype))
    theirs = batch_norm_backward(gy, x, gamma, mean, var, EPS, fixed)
    for ours, expected in zip((gx, ggamma, gbeta), theirs, strict=True):
        np.testing.assert_allclose(ours, expected, **tolerance(dtype))


@types
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_channels(shape, dtype, rng):
    x = rng.normal(size=shape).astype(dtype)
    sums = on_gpu(channel_sums, x)
    assert sums.dtype == dtype
    others = tuple(a for a in range(x.ndim) if a != 1)
    np.testing.assert_allclose(sums, x.sum(axis=others, dtype=np.float64), **tolerance(dtype))
    np.testing.assert_allclose(sums, channel_sums(x), **tolerance(dtype))


@pytest.mark.parametrize("far", [1e4, 1e6])
def test_a_mean_far_from_0_costs_no_digits(far, rng):
    """Of float32 around 10,000 the square has one digit left for a variance of 1; a share's own mean is rounded too."""
    x = rng.normal(far, 1, (2, 1, LONG)).astype(np.float32)
    one = np.ones(1, np.float32)
    y, mean, var = on_gpu(batch_norm_forward, x, one, 0 * one, EPS)
    np.testing.assert_allclose(mean, x.mean(dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(var, x.var(dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(y, slow.batch_norm(x, one, 0 * one, eps=EPS), atol=1e-7 * far)  # y's mean is a float32
    naive = (x * x).mean(dtype=np.float32) - x.mean(dtype=np.float32) ** 2
    assert abs(naive / x.var(dtype=np.float64) - 1) > 1e-3


def test_nan_stays_in_its_channel(rng):
    x, gy, gamma, beta = arrays(rng, (2, 3, 4), np.float32)
    x[1, 1, 2] = np.nan
    y, mean, var = on_gpu(batch_norm_forward, x, gamma, beta, EPS)
    np.testing.assert_array_equal(np.isnan(mean), [False, True, False])
    np.testing.assert_array_equal(np.isnan(var), [False, True, False])
    np.testing.assert_array_equal(np.isnan(y).all(axis=(0, 2)), [False, True, False])
    np.testing.assert_array_equal(np.isnan(y).any(axis=(0, 2)), [False, True, False])
    np.testing.assert_array_equal(np.isnan(on_gpu(channel_sums, x)), [False, True, False])
    for result in on_gpu(batch_norm_backward, gy, x, gamma, mean, var, EPS, False)[:2]:
        bad = np.isnan(result).any(axis=(0, 2)) if result.ndim == 3 else np.isnan(result)
        np.testing.assert_array_equal(bad, [False, True, False])


def test_no_samples():
    x, three = np.zeros((0, 3, 4), np.float32), np.ones(3, np.float32)
    np.testing.assert_array_equal(on_gpu(channel_sums, x), np.zeros(3))
    assert on_gpu(batch_norm_fixed, x, three, three, three, three, EPS).shape == x.shape
    gx, ggamma, gbeta = on_gpu(batch_norm_backward, x, x, three, three, three, EPS, False)
    assert gx.shape == x.shape
    np.testing.assert_array_equal([ggamma, gbeta], np.zeros((2, 3)))


def test_sums_are_the_same_in_every_run(rng):
    x = rng.normal(size=(3, 2, LONG)).astype(np.float32)
    np.testing.assert_array_equal(on_gpu(channel_sums, x), on_gpu(channel_sums, x))
