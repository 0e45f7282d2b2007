"""Every operation against its slow twin and against finite differences; then what is special about some."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, Case
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor, no_grad
from minidetect.autograd.gradcheck import check_adjoint, gradcheck
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.activation import log_softmax, sigmoid, softmax
from minidetect.ops.conv import conv2d
from minidetect.ops.dropout import dropout
from minidetect.ops.linear import linear
from minidetect.ops.normalize import batch_norm
from minidetect.ops.pool import avg_pool2d, max_pool2d
from minidetect.ops.resize import resize
from minidetect.ops.roi_pool import roi_pool
from minidetect.ops.shape import concat
from minidetect.ops.threshold import take_rows, threshold_control, top_k_control
from minidetect.reference import nn_ops as slow

every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
SETTINGS = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def gradients(case: Case, arrays, gy):
    inputs = [Tensor(a, requires_grad=True) for a in arrays]
    y = case.op(*inputs)
    y.backward(gy)
    return y.data, [x.grad for x in inputs]


# ------------------------------------------------------------------ every operation


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_its_oracle(case, dtype, rng):
    arrays = case.draw(rng, dtype)
    y = case.op(*(Tensor(a) for a in arrays))
    expected = case.oracle(*arrays)
    assert y.dtype == dtype and y.shape == np.shape(expected)
    np.testing.assert_allclose(y.data, expected, *((1e-4, 2e-5) if dtype == np.float32 else (1e-11, 1e-12)))


@every_case
def test_gradient_agrees_with_finite_differences(case, rng):
    assert gradcheck(case.op, *case.draw(rng), rng=rng, rtol=1e-6, name=case.name) < 1e-6


@pytest.mark.parametrize("case", [c for c in CASES if c.linear], ids=lambda c: c.name)
def test_backward_of_a_linear_map_is_its_adjoint(case, rng):
    _, *constants = case.draw(rng)
    check_adjoint(lambda x: case.op(x, *(Tensor(c) for c in constants)), case.shapes[0], rng, name=case.name)


LAYOUTS = {
    "axes permuted": lambda a: np.asfortranarray(a).reshape(a.shape, order="A"),
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "backwards": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1] if a.ndim else a,
    "read only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@every_case
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_makes_no_difference(case, layout, rng):
    arrays = case.draw(rng)
    y, gradient = gradients(case, arrays, gy := rng.standard_normal(case.oracle(*arrays).shape))
    strange = tuple(LAYOUTS[layout](a) for a in arrays)
    for a, b in zip(arrays, strange, strict=True):
        np.testing.assert_array_equal(a, b)
    y2, gradient2 = gradients(case, strange, LAYOUTS[layout](gy))
    np.testing.assert_allclose(y2, y, 1e-12, 1e-13)
    for g, g2 in zip(gradient, gradient2, strict=True):
        np.testing.assert_allclose(g2, g, 1e-11, 1e-12)


@pytest.mark.parametrize("case", [c for c in CASES if c.batch], ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_empty_batch_gives_an_empty_result_and_zero_gradients(case, dtype, rng):
    first, *others = case.draw(rng, dtype)
    others = [b[:0] if b.shape == first.shape else b for b in others]
    x = Tensor(first[:0], requires_grad=True)
    rest = [Tensor(b, requires_grad=True) for b in others]
    y = case.op(x, *rest)
    assert len(y) == 0 and y.ndim == case.oracle(first, *others).ndim and y.dtype == dtype
    y.backward(np.zeros(y.shape, dtype))
    for t in (x, *rest):
        assert t.grad.shape == t.shape and t.grad.dtype == dtype and not t.grad.any()


@every_case
def test_float32_stays_float32_in_the_gradient(case, rng):
    arrays = case.draw(rng, np.float32)
    _, found = gradients(case, arrays, np.ones(case.oracle(*arrays).shape, np.float32))
    assert [g.dtype for g in found] == [np.float32] * len(arrays)


# ------------------------------------------------------------------ convolution and pooling, any setting


@given(seeds, st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3),
       st.integers(1, 3), st.integers(1, 3))  # fmt: skip
@SETTINGS
def test_any_convolution(seed, stride, padding, dilation, groups, kernel_h, kernel_w, outputs):
    rng = np.random.default_rng(seed)
    reach = dilation * (max(kernel_h, kernel_w) - 1) + 1
    x = rng.standard_normal((2, 2 * groups, *rng.integers(reach, reach + 6, 2)))
    w = rng.standard_normal((outputs * groups, 2, kernel_h, kernel_w))
    given_ = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = conv2d(Tensor(x), Tensor(w), **given_)
    np.testing.assert_allclose(y.data, slow.conv2d(x, w, **given_), 1e-11, 1e-12)
    check_adjoint(lambda t: conv2d(t, Tensor(w), **given_), x.shape, rng)
    check_adjoint(lambda t: conv2d(Tensor(x), t, **given_), w.shape, rng)


@given(seeds, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2), st.booleans())
@SETTINGS
def test_any_pooling(seed, kernel, stride, padding, ceil_mode):
    rng = np.random.default_rng(seed)
    padding = min(padding, kernel // 2)
    x = rng.standard_normal((2, 2, *rng.integers(kernel, kernel + 7, 2)))
    for op, oracle in ((max_pool2d, slow.max_pool2d), (avg_pool2d, slow.avg_pool2d)):
        y = op(Tensor(x), kernel, stride, padding, ceil_mode)
        np.testing.assert_allclose(y.data, oracle(x, kernel, stride, padding, ceil_mode), 1e-12)
    check_adjoint(lambda t: avg_pool2d(t, kernel, stride, padding, ceil_mode), x.shape, rng)


def test_conv2d_by_hand():
    x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    w = np.array([[[[1, 0], [0, -1]]]], np.float32)  # a pixel minus the one below and right of it
    assert conv2d(Tensor(x), Tensor(w), Tensor([10.0])).data.tolist() == [[[[6, 6], [6, 6]]]]


def test_pooling_by_hand():
    x = Tensor(np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3), requires_grad=True)
    assert max_pool2d(x, 2, 1).data.tolist() == [[[[4, 5], [7, 8]]]]
    assert max_pool2d(x, 2, 2).data.tolist() == [[[[4]]]]
    assert max_pool2d(x, 2, 2, ceil_mode=True).data.tolist() == [[[[4, 5], [7, 8]]]]
    assert avg_pool2d(x, 2, 2, ceil_mode=True).data.tolist() == [[[[2, 3.5], [6.5, 8]]]]  # real pixels only
    max_pool2d(x, 2, 1).sum().backward()
    assert x.grad.tolist() == [[[[0, 0, 0], [0, 1, 1], [0, 1, 1]]]]


WHOLE = np.array([[0, 0, 0, 3, 3]])


@pytest.mark.parametrize("op", [
    lambda x: max_pool2d(x, 3), lambda x: avg_pool2d(x, 3), lambda x: roi_pool(x, WHOLE, (1, 1)),
], ids=["max", "average", "RoI"])  # fmt: skip
@pytest.mark.parametrize("position", range(9))
def test_pooling_does_not_hide_a_nan(op, position):
    x = np.zeros((1, 1, 3, 3), np.float32)
    x.flat[position] = np.nan
    assert np.isnan(op(Tensor(x)).item())


# ------------------------------------------------------------------ RoI pooling (Fast R-CNN, 2.1 and Eq. (4))


def pooled(rois, size, inclusive=False, scale=1.0):
    x = Tensor(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4), requires_grad=True)
    return x, roi_pool(x, np.array(rois, np.float32), size, scale, inclusive)


def test_roi_pool_by_hand():
    _, y = pooled([[0, 0, 0, 4, 4]], (2, 2))
    assert y.data.tolist() == [[[[5, 7], [13, 15]]]]
    _, y = pooled([[0, 0, 0, 3, 3]], (2, 2))  # 3 cells in 2 bins: cells 0..1 and 1..2, one of them shared
    assert y.data.tolist() == [[[[5, 6], [9, 10]]]]
    _, y = pooled([[0, 1, 1, 2, 2]], (2, 2))  # one cell, four bins
    assert y.data.tolist() == [[[[5, 5], [5, 5]]]]
    _, y = pooled([[0, 24, 24, 56, 56]], (1, 1), scale=1 / 16)  # 1.5 and 3.5 round up to 2 and 4
    assert y.data.tolist() == [[[[15]]]]
    _, y = pooled([[0, 1, 1, 2, 2]], (1, 1), inclusive=True)  # Caffe: pixels 1 to 2
    assert y.data.tolist() == [[[[10]]]]


def test_roi_pool_off_the_map_is_zero_without_a_gradient():
    x, y = pooled([[0, 8, 8, 12, 12], [0, 3, 3, 7, 7]], (2, 2))
    assert y.data.tolist() == [[[[0, 0], [0, 0]]], [[[15, 0], [0, 0]]]]
    y.backward(np.full(y.shape, 1, np.float32))
    assert x.grad.sum() == 1 and x.grad[0, 0, 3, 3] == 1


def test_roi_pool_adds_the_gradients_of_overlapping_rois():
    x, y = pooled([[0, 0, 0, 4, 4], [0, 2, 2, 4, 4], [0, 2, 2, 4, 4]], (1, 1))
    y.backward(np.array([1, 10, 100], np.float32).reshape(3, 1, 1, 1))
    assert x.grad[0, 0, 3, 3] == 111 and x.grad.sum() == 111


def test_roi_pool_of_no_rois():
    x, y = pooled(np.zeros((0, 5)), (7, 7))
    assert y.shape == (0, 1, 7, 7)
    y.backward(np.zeros(y.shape, np.float32))
    assert not x.grad.any()


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.booleans())
@SETTINGS
def test_any_roi(seed, bins_h, bins_w, inclusive):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 2, *rng.integers(1, 9, 2)))
    corners = rng.uniform(-40, 160, (6, 4)).round(1)
    rois = np.concatenate([rng.integers(0, 2, (6, 1)), corners], 1)  # upside down ones still have size 1
    t = Tensor(x, requires_grad=True)
    y = roi_pool(t, rois, (bins_h, bins_w), 1 / 16, inclusive)
    np.testing.assert_array_equal(y.data, slow.roi_pool(x, rois, (bins_h, bins_w), 1 / 16, inclusive))
    y.backward(gy := rng.standard_normal(y.shape))
    filled = y.data != 0  # an empty bin gives its gradient to nobody, every other to exactly one cell
    np.testing.assert_allclose(t.grad.sum(), gy[filled].sum(), atol=1e-9)


@pytest.mark.parametrize("rois, says", [
    ([[0, 1, 2, 3]], r"\(R, 5\)"),
    ([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]], r"rois\[1\].*0\.\.0"),
    ([[-1, 0, 0, 1, 1]], r"rois\[0\]"),
    ([[0, 0, np.nan, 1, 1]], r"rois\[0\].*finite"),
    ([[0.5, 0, 0, 1, 1]], r"batch index"),
])  # fmt: skip
def test_roi_pool_names_the_bad_roi(rois, says):
    with pytest.raises(ValueError, match=says):
        pooled(rois, (2, 2))


# ------------------------------------------------------------------ threshold (FC-11), top-k control (FC-12)


def test_threshold_control_takes_what_exceeds_the_threshold():
    assert threshold_control(np.array([0.1, 0.11, 0.9, np.nan, 0.0]), 0.1).tolist() == [1, 2]
    assert threshold_control(Tensor([0.2, 0.3], requires_grad=True), 0.5).tolist() == []
    assert threshold_control(np.zeros(0), 0.5).dtype == np.int64


def test_top_k_control_takes_the_best_in_their_old_order():
    scores = np.array([0.1, 0.9, 0.5, 0.9, 0.5])
    assert top_k_control(scores, 2).tolist() == [1, 3]
    assert top_k_control(scores, 3).tolist() == [1, 2, 3]  # of the two 0.5 the earlier
    assert top_k_control(Tensor(scores), 9).tolist() == [0, 1, 2, 3, 4]
    assert top_k_control(scores, 0).tolist() == top_k_control(np.zeros(0), 3).tolist() == []


@given(seeds, st.integers(1, 9))
@SETTINGS
def test_samples_that_did_not_pass_get_exactly_zero_gradient(seed, count):
    """FaceCraft, section 4.1: only the passed ones contribute to the loss of the later branch."""
    rng = np.random.default_rng(seed)
    x = Tensor(rng.standard_normal((count, 3)), requires_grad=True)
    w = Tensor(rng.standard_normal((2, 3)), requires_grad=True)
    scores = rng.random(count)
    rows = threshold_control(scores, 0.5)
    (softmax(linear(take_rows(x, rows), w)) ** 2).sum().backward()
    assert not x.grad[scores <= 0.5].any()
    assert (x.grad[rows] != 0).all()
    if rows.size == 0:
        assert not w.grad.any()


def test_no_gradient_flows_through_the_step(rng):
    logits = Tensor(rng.standard_normal(6), requires_grad=True)
    x = Tensor(rng.standard_normal((6, 2)), requires_grad=True)
    take_rows(x, threshold_control(sigmoid(logits), 0.5)).sum().backward()
    assert logits.grad is None and x.grad is not None


def test_rows_taken_twice_accumulate():
    x = Tensor(np.zeros((3, 1)), requires_grad=True)
    take_rows(x, np.array([2, 0, 2])).backward(np.array([[1.0], [10.0], [100.0]]))
    assert x.grad.tolist() == [[10], [0], [101]]


@pytest.mark.parametrize("rows", [np.array([True, False]), np.array([2]), np.array([-1]), np.array([0.5])])
def test_take_rows_refuses(rows):
    with pytest.raises(ValueError, match="rows must"):
        take_rows(Tensor(np.zeros((2, 3))), rows)


# ------------------------------------------------------------------ batch norm


def test_batch_norm_gives_zero_mean_and_unit_variance(rng):
    x = Tensor(5 + 3 * rng.standard_normal((8, 2, 5, 5)))
    y, mean, var = batch_norm(x, Tensor(np.ones(2)), Tensor(np.zeros(2)), eps=0)
    np.testing.assert_allclose(y.data.mean((0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(y.data.var((0, 2, 3)), 1)
    np.testing.assert_allclose(mean, x.data.mean((0, 2, 3)))
    np.testing.assert_allclose(var, x.data.var((0, 2, 3)))


def test_batch_norm_layer_keeps_running_averages():
    layer = BatchNorm2d(1, momentum=0.5)
    layer.train()
    layer(Tensor(np.array([2, 4], np.float32).reshape(2, 1, 1, 1)))  # mean 3, unbiased variance 2
    assert layer.running_mean.tolist() == [1.5] and layer.running_var.tolist() == [1.5]
    layer(Tensor(np.zeros((0, 1, 1, 1), np.float32)))  # nobody came: nothing moves
    assert layer.running_mean.tolist() == [1.5] and layer.running_var.tolist() == [1.5]
    assert {"weight", "bias", "running_mean", "running_var"} == layer.state_dict().keys()
    layer.train(False)
    y = layer(Tensor(np.array([1.5 + np.sqrt(1.5)], np.float32).reshape(1, 1, 1, 1)))
    assert y.item() == pytest.approx(1, abs=1e-4)


def test_batch_norm_of_one_value_is_an_error():
    with pytest.raises(ValueError, match="more than one value"):
        batch_norm(Tensor(np.zeros((1, 2, 1, 1))), Tensor(np.ones(2)), Tensor(np.zeros(2)))


# ------------------------------------------------------------------ dropout


def test_dropout_keeps_the_expected_value_and_its_gradient_mask():
    x = Tensor(np.ones(100_000, np.float32), requires_grad=True)
    y = dropout(x, 0.25, np.random.default_rng(0))
    assert set(np.unique(y.data).tolist()) == {0.0, float(np.float32(4 / 3))}
    assert y.data.mean() == pytest.approx(1, abs=0.01)
    y.backward(np.ones_like(y.data))
    np.testing.assert_array_equal(x.grad, y.data)


def test_dropout_is_the_identity_at_inference_and_repeats_with_its_seed():
    x = Tensor(np.ones((5, 5)))
    assert dropout(x, 0.5, None) is x and dropout(x, 0.0, np.random.default_rng(0)) is x
    first, second = (dropout(x, 0.5, np.random.default_rng(7)).data for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="p < 1"):
        dropout(x, 1.0, np.random.default_rng(0))


# ------------------------------------------------------------------ resize


def test_resize_by_hand():
    x = Tensor(np.array([[[[0.0, 4.0]]]]))
    # the two pixels have their centres at 0.5 and 1.5; the four new ones at 0.25, 0.75, 1.25 and 1.75
    assert resize(x, (1, 4)).data.tolist() == [[[[0, 1, 3, 4]]]]
    assert resize(x, (1, 4), "nearest").data.tolist() == [[[[0, 0, 4, 4]]]]
    assert resize(x, (2, 1)).data.tolist() == [[[[2], [2]]]]


@given(seeds, st.sampled_from(["bilinear", "nearest"]))
@SETTINGS
def test_any_resize(seed, mode):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 2, *rng.integers(1, 9, 2)))
    size = tuple(int(n) for n in rng.integers(1, 14, 2))
    np.testing.assert_allclose(resize(Tensor(x), size, mode).data, slow.resize(x, size, mode), 1e-11, 1e-12)
    check_adjoint(lambda t: resize(t, size, mode), x.shape, rng)


@pytest.mark.parametrize("call, says", [
    (lambda x: resize(x, (0, 3)), "at least 1"),
    (lambda x: resize(x, (3, 3), "cubic"), "bilinear, nearest"),
    (lambda x: resize(x[0], (3, 3)), r"\(N, C, H, W\)"),
])  # fmt: skip
def test_resize_refuses(call, says):
    with pytest.raises(ValueError, match=says):
        call(Tensor(np.zeros((1, 2, 4, 4))))


# ------------------------------------------------------------------ numbers at the edge


def test_softmax_and_sigmoid_survive_large_logits():
    x = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert softmax(Tensor(x)).data.tolist() == [[1, 0, 0]]
    assert log_softmax(Tensor(x)).data.tolist() == [[0, -2e4, -1e4]]
    with np.errstate(all="raise"):
        assert sigmoid(Tensor(x)).data.tolist() == [[1, 0, 0.5]]


@pytest.mark.parametrize("call, says", [
    (lambda a: a + Tensor(np.zeros((2, 3))), r"\(2, 4\) and \(2, 3\)"),
    (lambda a: a @ a, r"\(2, 4\) @ \(2, 4\)"),
    (lambda a: linear(a, Tensor(np.zeros((3, 5)))), "equal I"),
    (lambda a: conv2d(a, a), r"\(N, C, H, W\)"),
    (lambda a: conv2d(a.reshape((1, 2, 2, 2)), Tensor(np.zeros((1, 3, 1, 1)))), "2 channels"),
    (lambda a: conv2d(a.reshape((1, 2, 2, 2)), Tensor(np.zeros((1, 2, 3, 3)))), "does not fit"),
    (lambda a: max_pool2d(a, 2), r"\(N, C, H, W\)"),
    (lambda a: concat([a, Tensor(np.zeros((3, 4)))]), r"\(3, 4\)"),
    (lambda a: softmax(a)[5], "5"),
])  # fmt: skip
def test_shapes_that_do_not_fit_are_named(call, says):
    with pytest.raises((ValueError, IndexError), match=says), no_grad():
        call(Tensor(np.zeros((2, 4))))


@pytest.mark.parametrize("kernel, stride, padding, ceil_mode", [(2, 2, 0, False), (3, 2, 0, True), (3, 1, 1, True)])
def test_max_pool_is_the_same_with_and_without_a_gradient_to_come(rng, kernel, stride, padding, ceil_mode):
    x = rng.standard_normal((2, 3, 7, 9)).astype(np.float32)
    x[0, 0, 3, 4] = np.nan
    trained, used = (max_pool2d(Tensor(x, wanted), kernel, stride, padding, ceil_mode).data for wanted in (True, False))
    np.testing.assert_array_equal(trained, used)
    assert np.isnan(used[0, 0]).any()
