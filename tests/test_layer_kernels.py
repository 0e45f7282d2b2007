"""What the fast loops of the layers promise beyond being right on average: ties, NaN, infinities, digits, threads.

That each agrees with its slow twin and with finite differences is in test_ops.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.kernels.dispatch import get_num_threads, set_num_threads
from minidetect.kernels.normalize import batch_norm_backward, batch_norm_fixed, batch_norm_forward, channel_sums
from minidetect.kernels.pool import avg_pool_forward, max_pool_backward, max_pool_forward, max_pool_values
from minidetect.kernels.prelu import prelu_backward, prelu_forward
from minidetect.kernels.relu import relu_backward, relu_forward
from minidetect.kernels.roi_pool import roi_pool_forward
from minidetect.kernels.softmax import log_softmax_forward, softmax_forward
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.normalize import BatchNorm
from minidetect.reference import nn_ops as slow

SETTINGS = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
SHAPES = [(3, 4, 2, 3), (2, 3, 8, 9), (1, 2, 70, 71), (5, 4)]  # planes short, long, longer than a stretch; vectors

# ------------------------------------------------------------------------------------------ max pooling


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.booleans())
@SETTINGS
def test_the_winner_holds_the_maximum_and_gets_the_gradient(seed, kernel, stride, padding, ceil_mode):
    rng = np.random.default_rng(seed)
    padding = min(padding, kernel // 2)
    x = rng.integers(-2, 3, (2, 3, *rng.integers(kernel, kernel + 20, 2))).astype(np.float32)  # full of ties
    x[rng.random(x.shape) < 0.1] = -np.inf
    y, argmax = max_pool_forward(x, kernel, stride, padding, ceil_mode)
    np.testing.assert_array_equal(y, slow.max_pool2d(x, kernel, stride, padding, ceil_mode))
    np.testing.assert_array_equal(y, max_pool_values(x, kernel, stride, padding, ceil_mode))
    planes, winners = x.reshape(6, -1), argmax.reshape(6, -1)
    np.testing.assert_array_equal(np.take_along_axis(planes, winners, 1), y.reshape(6, -1))
    gy = rng.standard_normal(y.shape)
    expected = np.zeros(planes.shape)
    for plane, where, g in zip(expected, winners, gy.reshape(6, -1), strict=True):
        np.add.at(plane, where, g)
    gx = max_pool_backward(gy, argmax, x.shape, kernel, stride, padding)
    np.testing.assert_allclose(gx.reshape(6, -1), expected, atol=1e-12)


def test_of_equals_the_leftmost_wins_then_the_topmost():
    x = np.array([[0, 7, 7], [7, 7, 7], [7, 7, 7]], np.float32).reshape(1, 1, 3, 3)
    assert max_pool_forward(x, 3, 2, 0, False)[1].item() == 3  # the 7 in the first column
    assert max_pool_forward(x[..., 1:], 2, 2, 0, False)[1].item() == 0


def test_a_window_of_minus_infinity_has_a_real_winner():
    x = np.full((1, 1, 5, 5), -np.inf, np.float32)
    y, argmax = max_pool_forward(x, 3, 2, 1, False)
    assert (y == -np.inf).all()
    assert argmax[0, 0].tolist() == [[0, 1, 3], [5, 6, 8], [15, 16, 18]]


@pytest.mark.parametrize("kernel, stride", [(2, 2), (3, 2), (3, 3)])
def test_a_nan_wins_over_what_comes_before_and_after(kernel, stride):
    for position in range(kernel * kernel):
        x = np.ones((1, 1, kernel, kernel), np.float32)
        x.flat[position] = np.nan
        y, argmax = max_pool_forward(x, kernel, stride, 0, False)
        assert np.isnan(y.item()) and argmax.item() == position
        assert np.isnan(max_pool_values(x, kernel, stride, 0, False).item())


# ------------------------------------------------------------------------------- PReLU, ReLU, softmax


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prelu_and_its_gradients(shape, dtype, rng):
    x, gy = rng.standard_normal((2, *shape)).astype(dtype)
    slope = rng.uniform(-1, 1, shape[1]).astype(dtype)
    a = slope.reshape(1, -1, *(1,) * (len(shape) - 2))
    np.testing.assert_array_equal(prelu_forward(x, slope), np.where(x > 0, x, a * x))
    gx, gslope = prelu_backward(gy, x, slope)
    assert gx.dtype == gslope.dtype == dtype
    np.testing.assert_array_equal(gx, np.where(x > 0, gy, a * gy))
    expected = np.where(x > 0, 0, gy.astype(np.float64) * x).sum(axis=(0, *range(2, len(shape))))
    np.testing.assert_allclose(gslope, expected, 1e-5 if dtype == np.float32 else 1e-12, 1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 9, 9)])
def test_activations_do_not_hide_a_nan(shape):
    x = np.full(shape, np.nan, np.float32)
    assert np.isnan(relu_forward(x)).all()
    assert np.isnan(prelu_forward(x, np.zeros(shape[1], np.float32))).all()
    assert np.isnan(softmax_forward(np.array([[np.nan, 1], [1, np.nan]], np.float32), 1)).all()
    assert np.isnan(log_softmax_forward(np.array([[np.nan, 1], [1, np.nan]], np.float32), 1)).all()


def test_relu_at_its_edges():
    x = np.array([-np.inf, -1, -0.0, 0, 1, np.inf], np.float32)
    y = relu_forward(x)
    assert y.tolist() == [0, 0, 0, 0, 1, np.inf]
    assert relu_backward(np.ones_like(x), y).tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("shape, axis", [
    ((7, 2), 1), ((7, 2), 0), ((2, 3, 5), -1), ((2, 3, 5), 1), ((0, 3), 1), ((4,), 0),
])  # fmt: skip
def test_softmax_along_any_axis(shape, axis, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    np.testing.assert_allclose(softmax_forward(x, axis), slow.softmax(x, axis) if x.size else x, 1e-5)
    np.testing.assert_allclose(np.exp(log_softmax_forward(x, axis)), softmax_forward(x, axis), 1e-5)


# ------------------------------------------------------------------------------------------- batch norm


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_keeps_its_digits_far_from_zero(shape, rng):
    """A variance from the sum of squares would lose all of them: 1000**2 against 0.01**2."""
    x = (1000 + 0.01 * rng.standard_normal(shape)).astype(np.float32)
    gamma, beta = np.ones(shape[1], np.float32), np.zeros(shape[1], np.float32)
    axes = (0, *range(2, len(shape)))
    _, mean, var = batch_norm_forward(x, gamma, beta, 0.0)
    np.testing.assert_allclose(mean, x.mean(axes, dtype=np.float64), 1e-6)
    np.testing.assert_allclose(var, x.var(axes, dtype=np.float64), 0.01)
    np.testing.assert_allclose(channel_sums(x), x.sum(axes, dtype=np.float64), 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_gradient_by_its_formula(shape, rng):
    x, gy = rng.standard_normal((2, *shape))
    gamma, beta, eps = rng.standard_normal(shape[1]), rng.standard_normal(shape[1]), 1e-3
    y, mean, var = batch_norm_forward(x, gamma, beta, eps)
    np.testing.assert_allclose(y, slow.batch_norm(x, gamma, beta, eps=eps), 1e-10, 1e-12)
    np.testing.assert_allclose(batch_norm_fixed(x, gamma, beta, mean, var, eps), y, 1e-10, 1e-12)
    axes, like = (0, *range(2, len(shape))), (1, -1, *(1,) * (len(shape) - 2))
    std = np.sqrt(var + eps).reshape(like)
    xhat, scale = (x - mean.reshape(like)) / std, gamma.reshape(like) / std
    for fixed in (False, True):
        gx, ggamma, gbeta = batch_norm_backward(gy, x, gamma, mean, var, eps, fixed)
        np.testing.assert_allclose(ggamma, (gy * xhat).sum(axes), 1e-10, 1e-12)
        np.testing.assert_allclose(gbeta, gy.sum(axes), 1e-10, 1e-12)
        moved = 0 if fixed else gy.mean(axes, keepdims=True) + xhat * (gy * xhat).mean(axes, keepdims=True)
        np.testing.assert_allclose(gx, scale * (gy - moved), 1e-9, 1e-11)


class MeanForgotten(BatchNorm):
    """A batch norm that overlooks that the mean depends on x."""

    def backward(self, gy):
        gx, ggamma, gbeta = super().backward(gy)
        share = gy.mean(axis=(0, 2, 3)) * self.gamma / np.sqrt(self.var + self.eps)
        return gx + share.reshape(1, -1, 1, 1), ggamma, gbeta


@pytest.mark.parametrize("size", [(3, 2), (9, 8)])
def test_a_wrong_batch_norm_is_rejected_on_short_and_long_planes(size, rng):
    arrays = [rng.standard_normal(s) for s in ((3, 2, *size), (2,), (2,))]
    assert gradcheck(lambda *t: BatchNorm(1e-5)(*t), *arrays, rng=rng) < 1e-6
    with pytest.raises(GradientError, match="MeanForgotten"):
        gradcheck(lambda *t: MeanForgotten(1e-5)(*t), *arrays, rng=rng)


def test_a_gradient_uses_the_statistics_of_its_forward(rng):
    layer = BatchNorm2d(1)
    layer.train(False)
    x = Tensor(rng.standard_normal((2, 1, 3, 3)).astype(np.float32), requires_grad=True)
    y = layer(x)
    layer.running_var += 100  # a training batch comes in between
    y.backward(np.ones_like(y.data))
    np.testing.assert_allclose(x.grad, 1, 1e-4)


# -------------------------------------------------------------------------------------------- RoI pooling


def test_roi_pool_takes_the_first_of_equals_and_the_first_nan():
    x = np.array([[[1, 5], [5, 5]], [[1, np.nan], [np.nan, 9]]], np.float32).reshape(1, 2, 2, 2)
    y, argmax = roi_pool_forward(x, np.array([[0, 0, 0, 2, 2]]), (1, 1), 1.0, False)
    assert y[0, 0].item() == 5 and np.isnan(y[0, 1]).all() and argmax.reshape(-1).tolist() == [1, 1]


def test_roi_pool_of_minus_infinity_still_has_a_winner():
    x = np.full((1, 1, 2, 2), -np.inf, np.float32)
    y, argmax = roi_pool_forward(x, np.array([[0, 0, 0, 2, 2]]), (1, 1), 1.0, False)
    assert y.item() == -np.inf and argmax.item() == 0


# ------------------------------------------------------------------------------------------------ threads


def results(rng):
    x = rng.standard_normal((3, 20, 31, 17)).astype(np.float32)
    slope, rois = rng.uniform(size=20).astype(np.float32), np.array([[r % 3, 1, 2, 9 + r, 20] for r in range(40)])
    y, argmax = max_pool_forward(x, 3, 2, 1, False)
    normalized, mean, var = batch_norm_forward(x, slope, slope, 1e-5)
    return [
        y, argmax, max_pool_values(x, 2, 2, 0, True), max_pool_backward(y, argmax, x.shape, 3, 2, 1),
        avg_pool_forward(x, 4, 4, 0, False), normalized, mean, var,
        *batch_norm_backward(x, normalized, slope, mean, var, 1e-5, False), channel_sums(x),
        prelu_forward(x, slope), *prelu_backward(x, x, slope), relu_forward(x),
        *roi_pool_forward(x, rois, (3, 3), 0.7, False),
    ]  # fmt: skip


def test_results_are_the_same_for_any_number_of_threads():
    most = get_num_threads()
    if most < 2:
        pytest.skip("this process has one thread")
    several = results(np.random.default_rng(1))
    try:
        set_num_threads(1)
        single = results(np.random.default_rng(1))
    finally:
        set_num_threads(most)
    for a, b in zip(several, single, strict=True):
        np.testing.assert_array_equal(a, b)
