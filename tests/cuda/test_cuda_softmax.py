"""Softmax and its logarithm on the GPU, along every axis: rows for a thread, rows for a block."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.kernels.device import to_device, to_numpy
from minidetect.kernels.softmax import log_softmax_backward, log_softmax_forward, softmax_backward, softmax_forward
from minidetect.kernels.softmax_cuda import SHORT
from minidetect.reference import nn_ops as slow

LONG = 4 * SHORT + 5  # classes, for a block: more than it has threads
CASES = [((5, 2), -1), ((7, 3), 1), ((2, 3, 4, 3), 1), ((3, 4, 2), 0), ((2, LONG), 1), ((LONG, 2), 0), ((5,), 0)]
types = pytest.mark.parametrize("dtype", [np.float32, np.float64])
cases = pytest.mark.parametrize("shape, axis", CASES)


def tolerance(dtype):
    return {"rtol": 2e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-13}


@types
@cases
def test_forward(shape, axis, dtype, rng):
    x = rng.normal(0, 3, shape).astype(dtype)
    for function, twin in ((softmax_forward, slow.softmax), (log_softmax_forward, slow.log_softmax)):
        y = function(to_device(x), axis)
        assert y.dtype == dtype and y.shape == shape
        np.testing.assert_allclose(to_numpy(y), twin(x, axis), **tolerance(dtype))
        np.testing.assert_allclose(to_numpy(y), function(x, axis), **tolerance(dtype))


@types
@cases
def test_backward(shape, axis, dtype, rng):
    x, gy = (rng.normal(size=shape) for _ in range(2))
    probs = slow.softmax(x, axis)
    by_equation = probs * (gy - (gy * probs).sum(axis=axis, keepdims=True))
    log_by_equation = gy - probs * gy.sum(axis=axis, keepdims=True)
    gy, probs, logs = gy.astype(dtype), probs.astype(dtype), np.log(probs).astype(dtype)
    loose = {name: 10 * value for name, value in tolerance(dtype).items()}  # sums of numbers of either sign
    for function, y, expected in (
        (softmax_backward, probs, by_equation), (log_softmax_backward, logs, log_by_equation)
    ):  # fmt: skip
        gx = function(to_device(gy), to_device(y), axis)
        assert gx.dtype == dtype and gx.shape == shape
        np.testing.assert_allclose(to_numpy(gx), expected, **loose)
        np.testing.assert_allclose(to_numpy(gx), function(gy, y, axis), **loose)


def test_by_hand_and_for_large_numbers():
    x = np.array([[0, np.log(3)], [10_000, 10_000], [-10_000, 0]], np.float32)
    probs = to_numpy(softmax_forward(to_device(x), 1))
    np.testing.assert_allclose(probs, [[0.25, 0.75], [0.5, 0.5], [0, 1]], rtol=1e-6)
    logs = to_numpy(log_softmax_forward(to_device(x), 1))
    np.testing.assert_allclose(logs[1:], [[np.log(0.5)] * 2, [-10_000, 0]], rtol=1e-6)


@pytest.mark.parametrize("classes", [3, LONG])
def test_a_row_with_a_nan_is_nan_and_no_other(classes, rng):
    x = rng.normal(size=(3, classes)).astype(np.float32)
    x[1, classes // 2] = np.nan
    for function in (softmax_forward, log_softmax_forward):
        with np.errstate(invalid="ignore"):
            y = to_numpy(function(to_device(x), 1))
        np.testing.assert_array_equal(np.isnan(y).all(axis=1), [False, True, False])
        np.testing.assert_array_equal(np.isnan(y).any(axis=1), [False, True, False])


def test_minus_infinity_is_a_class_that_cannot_be():
    x = np.array([[-np.inf, 0, 0]], np.float32)
    np.testing.assert_array_equal(to_numpy(softmax_forward(to_device(x), 1)), [[0, 0.5, 0.5]])


def test_no_rows_and_no_classes():
    x = to_device(np.zeros((0, 3), np.float32))
    for function in (softmax_forward, log_softmax_forward):
        assert function(x, 1).shape == (0, 3)
        with pytest.raises(ValueError, match=r"axis 0 of \(0, 3\)"):
            function(x, 0)
        with pytest.raises(IndexError):
            function(x, 2)
    for function in (softmax_backward, log_softmax_backward):
        assert function(x, x, -1).shape == (0, 3)
