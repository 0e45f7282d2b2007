"""The check that checks the others: right gradients pass, and each way of getting one wrong is caught."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.autograd import Function, Tensor
from minidetect.autograd.gradcheck import GradientError, check_adjoint, gradcheck
from minidetect.ops.activation import Softmax, relu
from minidetect.ops.conv import Conv2d, conv2d
from minidetect.ops.elementwise import Exp
from minidetect.ops.linear import Linear
from minidetect.ops.normalize import BatchNorm, BatchNormFixed
from minidetect.ops.pool import max_pool2d
from minidetect.ops.reduce import Mean, Sum
from minidetect.ops.shape import GetItem
from minidetect.ops.threshold import TakeRows

# ------------------------------------------------------------------ wrong backwards, one of each kind


class FactorMissing(Mean):
    def backward(self, gy):  # forgets to divide by the count
        return Sum.backward(self, gy)


class ChainMissing(Exp):
    def backward(self, gy):
        return (self.y,)  # forgets gy


class SignWrong(Exp):
    def backward(self, gy):
        return (-gy * self.y,)


class AccumulationMissing(TakeRows):
    def backward(self, gy):
        gx = np.zeros(self.shape)
        gx[self.rows] += gy  # keeps only the last of repeated rows
        return (gx,)


class ItemAccumulationMissing(GetItem):
    def backward(self, gy):
        gx = np.zeros(self.shape)
        gx[self.index] = gy
        return (gx,)


class AxisWrong(Sum):
    def backward(self, gy):  # repeats the gradient along the other axis
        return (np.broadcast_to(gy[None, :], self.shape),)


class SoftmaxAxisWrong(Softmax):
    def backward(self, gy):
        return (self.y * (gy - (gy * self.y).sum(axis=0, keepdims=True)),)


class ZeroGradient(Softmax):
    def backward(self, gy):
        return (np.zeros_like(gy),)


class InputForgotten(Linear):
    def backward(self, gy):  # claims that the bias has no influence
        return (*super().backward(gy)[:2], None)


class WeightTransposed(Linear):
    def backward(self, gy):
        gx, gw, gb = super().backward(gy)
        return gx, gw.T, gb


class StatisticsConstant(BatchNorm):
    def backward(self, gy):  # forgets that mean and variance depend on x
        return BatchNormFixed.backward(self, gy)


class OneElementWrong(Exp):
    def backward(self, gy):
        gx = gy * self.y
        gx[0, 0] *= 1.01
        return (gx,)


class WritesIntoItsArgument(Exp):
    def backward(self, gy):
        gy *= self.y
        return (gy,)


class LowPrecision(Exp):
    def backward(self, gy):
        return ((gy * self.y).astype(np.float16).astype(np.float64),)


SQUARE, ROWS = (4, 4), np.array([1, 3, 1])
WRONG = {
    FactorMissing: (lambda: FactorMissing(1, False), [(3, 4)]),
    ChainMissing: (ChainMissing, [(3, 4)]),
    SignWrong: (SignWrong, [(3, 4)]),
    AccumulationMissing: (lambda: AccumulationMissing(ROWS), [(4, 2)]),
    ItemAccumulationMissing: (lambda: ItemAccumulationMissing((slice(None), [2, 0, 2])), [(2, 3)]),
    AxisWrong: (lambda: AxisWrong(1, False), [SQUARE]),
    SoftmaxAxisWrong: (lambda: SoftmaxAxisWrong(1), [SQUARE]),
    ZeroGradient: (lambda: ZeroGradient(1), [(3, 4)]),
    InputForgotten: (InputForgotten, [(5, 3), (2, 3), (2,)]),
    WeightTransposed: (WeightTransposed, [(5, 3), (3, 3), (3,)]),
    StatisticsConstant: (lambda: StatisticsConstant(1e-5), [(6, 2), (2,), (2,)]),
    OneElementWrong: (OneElementWrong, [(30, 30)]),
    WritesIntoItsArgument: (WritesIntoItsArgument, [(3, 4)]),
    LowPrecision: (LowPrecision, [(3, 4)]),
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda c: c.__name__)
@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_backward_is_rejected(wrong, seed):
    rng = np.random.default_rng(seed)
    make, shapes = WRONG[wrong]
    arrays = [rng.standard_normal(s) for s in shapes]
    with pytest.raises(GradientError, match=wrong.__name__):
        gradcheck(lambda *t: make()(*t), *arrays, rng=rng)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda c: c.__name__)
def test_its_right_parent_passes(wrong):
    """So it is the broken line that is rejected above, and not the way it was called."""
    rng = np.random.default_rng(0)
    make, shapes = WRONG[wrong]

    def repaired(*tensors):
        function = make()
        function.__class__ = wrong.__base__
        return function(*tensors)

    assert gradcheck(repaired, *(rng.standard_normal(s) for s in shapes), rng=rng) < 1e-6


def test_a_gradient_of_ones_would_accept_a_softmax_without_gradient(rng):
    """Why the upstream gradient is random: the outputs sum to 1, so <ones, softmax(x)> never changes."""
    x = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    y = Softmax(1)(x)
    y.backward(np.ones(y.shape))
    assert np.abs(x.grad).max() < 1e-15


def test_a_detached_step_is_rejected(rng):
    x = rng.standard_normal((3, 4))
    with pytest.raises(GradientError, match="detached"):
        gradcheck(lambda t: (t * t).detach(), x, rng=rng)
    with pytest.raises(GradientError, match="relative error 0.5"):
        gradcheck(lambda t: t * t.detach(), x, rng=rng)  # half of d(t*t)/dt is lost
    gradcheck(lambda t: t * t, x, rng=rng)


def test_the_error_says_which_input_and_how_far(rng):
    arrays = [rng.standard_normal(s) for s in WRONG[InputForgotten][1]]
    with pytest.raises(GradientError) as caught:
        gradcheck(lambda *t: InputForgotten()(*t), *arrays, rng=rng)
    e = caught.value
    assert (e.op, e.input_index, e.analytic, e.relative_error) == ("InputForgotten", 2, 0.0, 1.0)
    assert e.numeric != 0 and isinstance(e, AssertionError)


# ------------------------------------------------------------------ kinks


class WrongOnTheNegativeSide(Function):
    def forward(self, x):
        self.x = x
        return np.where(x > 0, x, 0.1 * x)

    def backward(self, gy):
        return (np.where(self.x > 0, gy, 0.2 * gy),)


@pytest.mark.parametrize("x", [
    np.zeros((3, 4)),  # every element on the kink
    np.full((3, 4), 3e-7),  # between eps/2 and eps beside it
    np.linspace(-2e-6, 2e-6, 12).reshape(3, 4),
], ids=["on", "beside", "all around"])  # fmt: skip
def test_a_kink_is_avoided_but_excuses_nothing(x, rng):
    assert gradcheck(relu, x, rng=rng) < 1e-6
    with pytest.raises(GradientError, match="WrongOnTheNegativeSide"):
        gradcheck(lambda t: WrongOnTheNegativeSide()(t), x, rng=rng)


def test_ties_of_a_maximum_are_avoided(rng):
    assert gradcheck(lambda t: max_pool2d(t, 2), np.ones((1, 2, 4, 4)), rng=rng) < 1e-6


def test_a_point_that_cannot_be_left_is_an_error(rng):
    with pytest.raises(GradientError, match="a kink in each of 20 draws"):
        gradcheck(relu, np.zeros((3, 4)), rng=rng, redraw=lambda rng: (np.zeros((3, 4)),))


def test_a_function_that_is_not_deterministic_is_an_error(rng):
    noise = np.random.default_rng(1)
    with pytest.raises(GradientError, match="a kink in each"):
        gradcheck(lambda t: t * noise.standard_normal(t.shape), np.ones((3, 4)), rng=rng)


def test_curvature_is_no_kink(rng):
    """Steep and strongly bent, yet smooth: the first draw must do."""
    gradcheck(lambda t: 1 / (t * t * t), rng.uniform(0.3, 0.5, (3, 4)), rng=rng, attempts=1)
    gradcheck(lambda t: Exp()(t * 10), rng.uniform(0, 1, (3, 4)), rng=rng, attempts=1)


# ------------------------------------------------------------------ adjoints


class BorderForgotten(Conv2d):
    def backward(self, gy):
        gx, gw = super().backward(gy)
        gx[:, :, 0] = 0
        return gx, gw


def test_adjoint_identity(rng):
    w = Tensor(rng.standard_normal((2, 3, 3, 3)))
    check_adjoint(lambda x: conv2d(x, w, padding=1), (2, 3, 5, 6), rng)
    check_adjoint(lambda x: conv2d(x, w, padding=1), (0, 3, 5, 6), rng)
    with pytest.raises(GradientError, match="adjoint"):
        check_adjoint(lambda x: BorderForgotten(1, 1, 1, 1)(x, w), (2, 3, 5, 6), rng)
    with pytest.raises(ValueError, match="not 0|needs a linear function"):
        check_adjoint(lambda x: x + 1, (2, 3), rng)
