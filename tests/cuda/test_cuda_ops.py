"""Every differentiable operation on the GPU: values against the slow twin, gradients against the processor's."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, Case

from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.autograd.tensor import Function, Tensor
from minidetect.kernels.device import count_copies, is_on_gpu, to_device, to_numpy
from minidetect.kernels.prelu_cuda import prelu_backward
from minidetect.ops.activation import PReLU, prelu
from minidetect.ops.conv import conv2d

# Bilinear warping by boxes (Faster R-CNN, section 3.2) has no kernel for the GPU.
ON_GPU = [case for case in CASES if not case.name.startswith("roi_warp")]
by_name = pytest.mark.parametrize("case", ON_GPU, ids=lambda case: case.name)


def forward_and_gradients(case: Case, arrays: tuple, gy: np.ndarray | None, bring) -> tuple:
    """The output, and the inputs' gradients for the gradient gy of the output (None: drawn)."""
    tensors = [Tensor(bring(a), requires_grad=True) for a in arrays]
    y = case.op(*tensors)
    gy = np.random.default_rng(3).standard_normal(y.shape).astype(y.dtype) if gy is None else gy
    y.backward(bring(gy))
    return y.data, [t.grad for t in tensors]


@by_name
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_values_and_gradients(case, dtype, rng):
    arrays = case.draw(rng, dtype)
    expected, expected_gradients = forward_and_gradients(case, arrays, None, lambda a: a)
    y, gradients = forward_and_gradients(case, arrays, None, to_device)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-10}
    assert is_on_gpu(y) and all(is_on_gpu(g) for g in gradients)
    assert y.dtype == dtype and y.shape == expected.shape
    np.testing.assert_allclose(to_numpy(y), case.oracle(*arrays), **tolerance)
    for g, expected_g in zip(gradients, expected_gradients, strict=True):
        assert g.dtype == dtype
        np.testing.assert_allclose(to_numpy(g), expected_g, **tolerance)


@by_name
def test_empty_batch(case):
    if not case.batch:
        pytest.skip("its first axis is no batch")
    arrays = case.draw(np.random.default_rng(0))
    arrays = (arrays[0][:0], *arrays[1:])
    y, gradients = forward_and_gradients(case, arrays, None, to_device)
    expected, _ = forward_and_gradients(case, arrays, None, lambda a: a)
    assert y.shape == expected.shape
    assert [g.shape for g in gradients] == [a.shape for a in arrays]


@by_name
def test_a_view_with_gaps_is_brought_over_whole(case, rng):
    """What NumPy sees through strides: reversed and every second element."""
    arrays = case.draw(rng)
    gappy = [np.repeat(a[..., ::-1], 2, axis=-1)[..., ::2][..., ::-1] if a.ndim else a for a in arrays]
    y, _ = forward_and_gradients(case, tuple(gappy), None, to_device)
    np.testing.assert_allclose(to_numpy(y), case.oracle(*arrays), 1e-9, 1e-10)


def test_gradcheck_on_the_gpu(rng):
    """Finite differences on the processor, of values and gradients that the GPU computes."""

    def on_gpu(op):
        def run(*tensors):
            brought = [BroughtOver()(t) for t in tensors]
            return FetchedBack()(op(*brought))

        return run

    x, slope = rng.standard_normal((2, 3, 2, 2)), rng.standard_normal(3)
    assert gradcheck(on_gpu(prelu), x, slope, rng=rng) < 1e-6
    with pytest.raises(GradientError, match="input 1: backward says 0"):
        gradcheck(on_gpu(lambda *t: SlopeForgotten()(*t)), x, slope, rng=rng)


class SlopeForgotten(PReLU):
    def backward(self, gy):
        gx, gslope = prelu_backward(gy, self.x, self.slope)
        return gx, gslope * 0


class BroughtOver(Function):
    def forward(self, x):
        return to_device(x)

    def backward(self, gy):
        return (to_numpy(gy),)


class FetchedBack(Function):
    def forward(self, x):
        return to_numpy(x)

    def backward(self, gy):
        return (to_device(gy),)


def test_nothing_is_copied_on_the_way(rng):
    """Arrays and their gradients stay: a convolution, its activation and both backwards."""
    x, w, b = (to_device(rng.standard_normal(s)) for s in ((1, 2, 4, 4), (3, 2, 3, 3), (3,)))
    slope, gy = to_device(rng.standard_normal(3)), to_device(rng.standard_normal((1, 3, 4, 4)))
    conv2d(Tensor(x), Tensor(w), padding=1)  # the taps are copied over once
    with count_copies() as copies:
        tensors = [Tensor(a, requires_grad=True) for a in (x, w, b, slope)]
        prelu(conv2d(*tensors[:3], padding=1), tensors[3]).backward(gy)
    assert (copies.to_gpu, copies.to_host) == (0, 0), copies
