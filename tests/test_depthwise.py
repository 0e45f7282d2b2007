"""Depthwise convolution: the plain loops against the slow twin, the vectors against the plain loops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import gradcheck
from minidetect.kernels import depthwise_tile
from minidetect.kernels.depthwise import depthwise_backward, depthwise_forward
from minidetect.ops.conv import conv2d
from minidetect.reference import nn_ops as slow

SETTINGS = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)
# images, channels, height, width: both sides of one vector (16), of a band of rows, of a single row
SHAPES = [(1, 3, 1, 1), (2, 3, 5, 5), (1, 2, 3, 17), (2, 2, 10, 16), (1, 3, 20, 20), (1, 2, 161, 34), (1, 1, 7, 640)]
WHERE = [(stride, padding, 1) for stride in (1, 2) for padding in (0, 1, 2)]


def problem(rng, shape, kernel=(3, 3), dtype=np.float32):
    x = rng.standard_normal(shape).astype(dtype)
    w = rng.standard_normal((shape[1], 1, *kernel)).astype(dtype)
    return x, w, rng.standard_normal(shape[1]).astype(dtype)


def fits(shape, kernel, padding, dilation) -> bool:
    return all(n + 2 * padding > dilation * (k - 1) for n, k in zip(shape[2:], kernel, strict=True))


def assert_close(ours, truth):
    rounding = 40 * np.finfo(ours.dtype).eps  # sums of up to a few thousand terms, which may cancel
    np.testing.assert_allclose(ours, truth, rtol=rounding, atol=rounding * max(1, np.abs(truth).max(initial=0)))


def exact(x, w, b, where, gy):
    """y, gx, gw by the slow twin alone: the gradients follow from y, which is linear in x and in w."""
    x, w, gy = (a.astype(np.float64) for a in (x, w, gy))
    stride, padding, dilation = where
    y = slow.conv2d(x, w, b.astype(np.float64), *where, groups=len(w))
    gw, gx = np.zeros_like(w), np.zeros((*x.shape[:2], x.shape[2] + 2 * padding, x.shape[3] + 2 * padding))
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    for u in range(w.shape[2]):
        for v in range(w.shape[3]):
            rows = slice(u * dilation, u * dilation + stride * (gy.shape[2] - 1) + 1, stride)
            columns = slice(v * dilation, v * dilation + stride * (gy.shape[3] - 1) + 1, stride)
            gw[:, 0, u, v] = (padded[:, :, rows, columns] * gy).sum(axis=(0, 2, 3))
            gx[:, :, rows, columns] += w[:, 0, u, v].reshape(1, -1, 1, 1) * gy
    return y, gx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]], gw


def check(rng, shape, kernel, where, dtype=np.float32):
    x, w, b = problem(rng, shape, kernel, dtype)
    y = depthwise_forward(x, w, b, *where)
    gy = rng.standard_normal(y.shape).astype(dtype)
    results = y, *depthwise_backward(gy, x, w, *where)
    for ours, truth in zip(results, exact(x, w, b, where, gy), strict=True):
        assert ours.dtype == dtype and ours.shape == truth.shape
        assert_close(ours, truth)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_3x3(shape, where, dtype, rng):
    if fits(shape, (3, 3), *where[1:]):
        check(rng, shape, (3, 3), where, dtype)


@given(seeds, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3))
@SETTINGS
def test_any_setting(seed, kernel_h, kernel_w, stride, padding, dilation):
    rng = np.random.default_rng(seed)
    shape = (2, 3, *(int(n) for n in rng.integers(1, 24, 2)))
    if fits(shape, (kernel_h, kernel_w), padding, dilation):
        for dtype in (np.float32, np.float64):
            check(rng, shape, (kernel_h, kernel_w), (stride, padding, dilation), dtype)


def test_by_hand():
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 1, 3, 3)
    w = np.zeros((1, 1, 3, 3), np.float32)
    w[0, 0, 0, 1], w[0, 0, 1, 2] = 10, 1  # ten times the pixel above plus the pixel to the right
    above_and_right = [[2, 3, 0], [10 + 5, 20 + 6, 30], [40 + 8, 50 + 9, 60]]
    y = depthwise_forward(x, w, None, 1, 1, 1)
    assert y.tolist() == [[above_and_right]]
    gx, gw = depthwise_backward(np.ones_like(y), x, w, 1, 1, 1)
    assert gx.tolist() == [[[[10, 11, 11], [10, 11, 11], [0, 1, 1]]]]
    assert gw.tolist() == [[[[12, 21, 16], [27, 45, 33], [24, 39, 28]]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [9, 40])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("slopes", [None, [0.25, 0, -0.5], [0.1]])
def test_what_follows_the_sum(dtype, width, activate_last, with_residual, slopes, rng):
    x, w, b = problem(rng, (2, 3, 11, width), dtype=dtype)
    slope = None if slopes is None else np.array(slopes, dtype)
    residual = rng.standard_normal(x.shape).astype(dtype) if with_residual else None
    out = np.full(x.shape, np.nan, dtype)
    y = depthwise_forward(x, w, b, 1, 1, 1, slope=slope, residual=residual, activate_last=activate_last, out=out)
    added = 0 if residual is None else residual
    expected = slow.conv2d(x, w, b, padding=1, groups=3) + (added if activate_last else 0)
    if slope is not None:
        expected = slow.prelu(expected, np.broadcast_to(slope, 3))
    assert y is out
    assert_close(y, expected + (0 if activate_last else added))


def test_without_a_bias(rng):
    x, w, b = problem(rng, (1, 3, 20, 20))
    np.testing.assert_array_equal(depthwise_forward(x, w, None, 1, 1, 1), depthwise_forward(x, w, 0 * b, 1, 1, 1))


@pytest.mark.parametrize("out", [
    np.zeros((1, 3, 20, 19), np.float32), np.zeros((1, 3, 20, 20)), np.zeros((1, 3, 20, 40), np.float32)[..., ::2],
], ids=["shape", "type", "gaps"])  # fmt: skip
def test_an_output_that_does_not_fit_is_refused(out, rng):
    with pytest.raises(ValueError, match=r"contiguous float32 \(1, 3, 20, 20\)"):
        depthwise_forward(*problem(rng, (1, 3, 20, 20)), 1, 1, 1, out=out)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0), (0, 39), (10, 15), (10, 16), (29, 39)])
def test_a_bad_pixel_spoils_what_sees_it_and_nothing_else(stride, bad, place, rng):
    x, w, b = problem(rng, (2, 3, 30, 40))
    clean = depthwise_forward(x, w, b, stride, 1, 1)
    x[0, 1, *place] = bad
    y = depthwise_forward(x, w, b, stride, 1, 1, slope=np.zeros(3, np.float32))
    i, j = np.indices(y.shape[2:])
    sees = np.zeros(y.shape, bool)
    sees[0, 1] = (abs(i * stride - place[0]) <= 1) & (abs(j * stride - place[1]) <= 1)
    assert sees.any()
    assert not np.isfinite(y[sees]).all() and (np.isnan(y[sees]).all() or bad == np.inf)
    np.testing.assert_array_equal(y[~sees], np.maximum(clean, 0)[~sees])


@pytest.mark.parametrize("shape", [(0, 3, 20, 20), (2, 0, 20, 20)])
def test_no_images_or_no_channels(shape, rng):
    x, w, b = problem(rng, shape)
    y = depthwise_forward(x, w, b, 1, 1, 1)
    gx, gw = depthwise_backward(y, x, w, 1, 1, 1)
    assert y.shape == x.shape == gx.shape and gw.shape == w.shape and not gw.any()


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_only_what_is_needed(needs, rng):
    x, w, _ = problem(rng, (2, 3, 20, 20))
    full = depthwise_backward(x, x, w, 1, 1, 1)
    for needed, gradient, whole in zip(needs, depthwise_backward(x, x, w, 1, 1, 1, needs), full, strict=True):
        assert (gradient is None) is not needed
        if needed:
            np.testing.assert_array_equal(gradient, whole)


@pytest.mark.parametrize("shares", [1, 2, 5])
def test_every_number_of_threads_gives_the_same_bits(monkeypatch, shares, rng):
    x, w, b = problem(rng, (2, 5, 40, 24))
    expected = depthwise_forward(x, w, b, 1, 1, 1), *depthwise_backward(x, x, w, 1, 1, 1)
    monkeypatch.setattr(depthwise_tile, "_shares", lambda tasks: min(tasks, shares))
    found = depthwise_forward(x, w, b, 1, 1, 1), *depthwise_backward(x, x, w, 1, 1, 1)
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_gradcheck_and_a_wrong_backward(rng):
    x, w, b = problem(rng, (2, 3, 6, 5), dtype=np.float64)

    def op(*tensors):
        return conv2d(*tensors, padding=1, groups=3)

    assert gradcheck(op, x, w, b, rng=rng) < 1e-6
    x, w, b = (a.astype(np.float32) for a in (x, w, b))
    truth = exact(x, w, b, (1, 1, 1), x)[1]
    turned = np.ascontiguousarray(w[:, :, ::-1, ::-1])
    assert_close(depthwise_backward(x, x, w, 1, 1, 1)[0], truth)
    with pytest.raises(AssertionError):  # the filter must be turned, or it spreads gradients the wrong way
        assert_close(depthwise_backward(x, x, turned, 1, 1, 1)[0], truth)


def test_the_operation_comes_here(rng):
    x, w, b = problem(rng, (2, 3, 20, 20))
    np.testing.assert_array_equal(
        conv2d(Tensor(x), Tensor(w), Tensor(b), padding=1, groups=3).data, depthwise_forward(x, w, b, 1, 1, 1)
    )


@pytest.mark.parametrize("lanes", ["1", "4", "8"])
def test_narrower_vectors_and_none(lanes):
    """The machines that have them run this file too; here, in a process of its own, with checked indices."""
    from minidetect.kernels.simd import LANES

    if os.environ.get("MINIDETECT_LANES") or int(lanes) > LANES:
        pytest.skip(f"{lanes} lanes: not on this machine, or this is the process that forces a width")
    test = f"{Path(__file__)}::test_3x3"
    environment = os.environ | {"MINIDETECT_LANES": lanes, "NUMBA_BOUNDSCHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", "float32", test], env=environment,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
