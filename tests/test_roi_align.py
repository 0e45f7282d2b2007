"""RoI align against a loop over its points, its gradient, and RoI warping underneath, which has one for boxes too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import GradientError, check_adjoint, gradcheck
from minidetect.ops import roi_warp as module
from minidetect.ops.pool import max_pool2d
from minidetect.ops.roi_align import roi_align
from minidetect.ops.roi_warp import RoIWarp, roi_warp
from minidetect.reference import nn_ops as slow

# In pixels of an image of 28 x 36: inside, no whole cells, a point, over the border, beyond it; of two maps.
BOXES = np.array([[4, 4, 24, 20], [9.2, 1.6, 32.4, 24.8], [16, 12, 16, 12], [-12, -8, 16, 40], [50, 60, 70, 80]])
IMAGE = np.array([0, 1, 1, 0, 1])
SIZES = [((3, 2), 2), ((7, 7), 2), ((1, 1), 3), ((2, 3), 1)]


def maps(rng, dtype=np.float64) -> np.ndarray:
    return rng.standard_normal((2, 3, 7, 9)).astype(dtype)


# ------------------------------------------------------------------ what it gives


@pytest.mark.parametrize(("size", "samples"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_its_oracle(size, samples, dtype, rng):
    x = maps(rng, dtype)
    y = roi_align(Tensor(x), BOXES, IMAGE, size, 0.25, samples)
    assert y.shape == (5, 3, *size) and y.dtype == dtype
    expected = slow.roi_align(x, BOXES, IMAGE, size, 0.25, samples)
    np.testing.assert_allclose(y.data, expected, *((1e-4, 2e-6) if dtype == np.float32 else (1e-11, 1e-12)))
    np.testing.assert_allclose(y.data[2], np.broadcast_to(y.data[2, :, :1, :1], y.shape[1:]))  # a point everywhere
    np.testing.assert_allclose(y.data[4], np.broadcast_to(x[1, :, -1:, -1:], y.shape[1:]))  # the map goes on as it ends


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_any_region_of_any_map(seed, height, width, samples, bins):
    rng = np.random.default_rng(seed)
    x, image = rng.standard_normal((2, 2, height, width)), rng.integers(0, 2, 3)
    boxes = np.sort(rng.uniform(-10, 8 * max(height, width) + 10, (3, 2, 2)), axis=1).reshape(3, 4)
    y = roi_align(Tensor(x), boxes, image, (bins, bins + 1), 1 / 8, samples)
    expected = slow.roi_align(x, boxes, image, (bins, bins + 1), 1 / 8, samples)
    np.testing.assert_allclose(y.data, expected, 1e-10, 1e-12)


def test_by_hand():
    """On a ramp of slope 1 a cell has its value at its centre, and a bin the value at its own: no half cell is lost."""
    ramp = np.broadcast_to(np.arange(8) + 0.5, (1, 1, 8, 8)).copy()
    box = np.array([[8.0, 8, 40, 40]])  # columns 1 to 5 of the map
    y = roi_align(Tensor(ramp), box, [0], (2, 2), 1 / 8)
    np.testing.assert_allclose(y.data[0, 0], [[2, 4], [2, 4]])
    moved = roi_align(Tensor(ramp), box + [3.2, 0, 3.2, 0], [0], (2, 2), 1 / 8)  # nothing is rounded
    np.testing.assert_allclose(moved.data[0, 0], [[2.4, 4.4], [2.4, 4.4]])
    ramp[0, 0, 2] += 16  # a line of the map, between the points at 1.5 and 2.5: half of them see it
    np.testing.assert_allclose(roi_align(Tensor(ramp), box, [0], (2, 2), 1 / 8).data[0, 0], [[10, 12], [2, 4]])


def unaligned(x, boxes, image, size, scale, samples):
    """RoI align as it was first published: cell k has its centre at k, so that all is half a cell off."""
    return roi_align(x, boxes + 0.5 / scale, image, size, scale, samples)


def strongest(x, boxes, image, size, scale, samples):
    points = roi_warp(x, Tensor(boxes), image, (samples * size[0], samples * size[1]), scale)
    return max_pool2d(points, samples)


def one_point(x, boxes, image, size, scale, samples):
    return roi_align(x, boxes, image, size, scale, samples=1)


def first_image(x, boxes, image, size, scale, samples):
    return roi_align(x, boxes, 0 * image, size, scale, samples)


@pytest.mark.parametrize("wrong", [unaligned, strongest, one_point, first_image], ids=lambda f: f.__name__)
def test_others_are_told_apart(wrong, rng):
    x = maps(rng)
    expected = slow.roi_align(x, BOXES, IMAGE, (3, 2), 0.25)
    assert np.abs(wrong(Tensor(x), BOXES, IMAGE, (3, 2), 0.25, 2).data - expected).max() > 0.1


def test_one_sample_is_roi_warping(rng):
    x = maps(rng)
    for size in ((3, 2), (7, 7)):
        aligned = roi_align(Tensor(x), BOXES, IMAGE, size, 0.25, samples=1)
        warped = roi_warp(Tensor(x), Tensor(BOXES), IMAGE, size, 0.25)
        np.testing.assert_array_equal(aligned.data, warped.data)


def test_no_regions(rng):
    x = Tensor(maps(rng, np.float32), requires_grad=True)
    y = roi_align(x, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    assert y.shape == (0, 3, 7, 7) and y.dtype == np.float32
    y.backward(np.zeros(y.shape, np.float32))
    assert x.grad.shape == x.shape and not x.grad.any()


def test_torchvision_gives_the_same(rng):
    """For regions inside the map: beyond it torchvision has zeros, which is another choice."""
    torch = pytest.importorskip("torch", reason="torchvision is a peer, not a dependency")
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is a peer, not a dependency")
    x, corner = maps(rng), rng.uniform(2, 14, (12, 2))
    boxes, image = np.concatenate([corner, corner + rng.uniform(1, 12, (12, 2))], axis=1), rng.integers(0, 2, 12)
    rois = torch.from_numpy(np.column_stack([image, boxes]))
    truth = ops.roi_align(torch.from_numpy(x), rois, (3, 2), 0.25, sampling_ratio=2, aligned=True).numpy()
    np.testing.assert_allclose(roi_align(Tensor(x), boxes, image, (3, 2), 0.25).data, truth, 1e-10, 1e-12)


# ------------------------------------------------------------------ what goes back


@pytest.mark.parametrize(("size", "samples"), SIZES)
def test_the_gradient_of_the_map(size, samples, rng):
    """Linear in the map, which so has no kinks: held against differences, and against its adjoint."""

    def op(x: Tensor) -> Tensor:
        return roi_align(x, BOXES, IMAGE, size, 0.25, samples)

    assert gradcheck(op, maps(rng), rng=rng, name="roi_align") < 1e-6
    check_adjoint(op, (2, 3, 7, 9), rng, name="roi_align")


def test_a_gradient_of_the_wrong_image_is_noticed(rng, monkeypatch):
    real = module.roi_warp_backward_map
    monkeypatch.setattr(module, "roi_warp_backward_map", lambda gy, x, b, image, s: real(gy, x, b, 1 - image, s))
    with pytest.raises(GradientError):
        gradcheck(lambda x: roi_align(x, BOXES, IMAGE, (3, 2), 0.25), maps(rng), rng=rng)


def test_float32_stays_float32_in_the_gradient(rng):
    x, exact = (Tensor(maps(np.random.default_rng(1), dtype), requires_grad=True) for dtype in (np.float32, np.float64))
    gy = rng.standard_normal((5, 3, 3, 2))
    for t in (x, exact):
        roi_align(t, BOXES, IMAGE, (3, 2), 0.25).backward(gy.astype(t.dtype))
    assert x.grad.dtype == np.float32
    np.testing.assert_allclose(x.grad, exact.grad, 1e-4, 1e-5)


@pytest.mark.parametrize("strange", [lambda a: a[..., ::-1].copy()[..., ::-1], lambda a: np.repeat(a, 2, -1)[..., ::2],
                                     np.asfortranarray])  # fmt: skip
def test_memory_layout_makes_no_difference(strange, rng):
    x, gy = maps(rng), rng.standard_normal((5, 3, 3, 2))
    plain, other = (Tensor(a, requires_grad=True) for a in (x, strange(x)))
    assert not strange(x).flags.c_contiguous
    y, same = roi_align(plain, BOXES, IMAGE, (3, 2), 0.25), roi_align(other, strange(BOXES), IMAGE, (3, 2), 0.25)
    np.testing.assert_array_equal(same.data, y.data)
    y.backward(gy)
    same.backward(strange(gy))
    np.testing.assert_allclose(other.grad, plain.grad, 1e-12, 1e-13)


def warped_gradients(x: np.ndarray, boxes: np.ndarray, needs: tuple[bool, bool]) -> list[np.ndarray | None]:
    inputs = [Tensor(a, requires_grad=need) for a, need in zip((x, boxes), needs, strict=True)]
    y = roi_warp(*inputs, IMAGE[:2], (3, 2), 0.25)
    y.backward(np.random.default_rng(2).standard_normal(y.shape))
    return [t.grad for t in inputs]


def test_warping_still_has_a_gradient_of_the_boxes(rng):
    """Both, or only the one that is needed; alone each is what it is beside the other."""
    x, boxes = maps(rng), BOXES[:2] + 0.3
    both = warped_gradients(x, boxes, (True, True))
    assert all(np.abs(gradient).max() > 0.01 for gradient in both)
    for needs in ((True, False), (False, True)):
        for need, found, truth in zip(needs, warped_gradients(x, boxes, needs), both, strict=True):
            assert found is None if not need else np.array_equal(found, truth)
    error = gradcheck(lambda x, boxes: roi_warp(x, boxes, IMAGE[:2], (3, 2), 0.25), x, boxes, rng=rng)
    assert error < 1e-6
    single = gradcheck(lambda boxes: roi_warp(Tensor(x), boxes, IMAGE[:2], (3, 2), 0.25), boxes, rng=rng)
    assert single < 1e-6


def test_what_nobody_needs_is_not_computed(rng, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("this gradient was not asked for")

    x, boxes = maps(rng), BOXES[:2] + 0.3
    for name, needs in (("roi_warp_backward_boxes", (True, False)), ("roi_warp_backward_map", (False, True))):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            assert any(gradient is not None for gradient in warped_gradients(x, boxes, needs))
            with pytest.raises(AssertionError, match="not asked for"):
                warped_gradients(x, boxes, (True, True))


def test_a_wrong_gradient_of_the_boxes_is_noticed(rng, monkeypatch):
    real = RoIWarp.backward
    monkeypatch.setattr(RoIWarp, "backward", lambda self, gy: (real(self, gy)[0], -real(self, gy)[1]))
    with pytest.raises(GradientError, match="input 1"):
        gradcheck(lambda x, b: roi_warp(x, b, IMAGE[:2], (3, 2), 0.25), maps(rng), BOXES[:2] + 0.3, rng=rng)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"samples": 0}, "roi_align: samples must be at least 1, got 0"),
        ({"x": np.zeros((3, 7, 9))}, "needs x (N, C, H, W)"),
        ({"x": np.zeros((2, 3, 0, 9))}, "needs x (N, C, H, W) with some cells"),
        ({"boxes": np.zeros((5, 5))}, "needs boxes (R, 4) and image (R,)"),
        ({"image": np.zeros(4, np.int64)}, "needs boxes (R, 4) and image (R,), got (5, 4) and (4,)"),
        ({"image": np.array([0, 1, 2, 0, 0])}, "image must be in 0..1, got 0 to 2"),
        ({"image": np.array([0, 1, -1, 0, 0])}, "image must be in 0..1, got -1 to 1"),
        ({"boxes": np.where(np.arange(20).reshape(5, 4) == 9, np.nan, BOXES)}, "boxes[2] = [16.0, nan, 16.0, 12.0]"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_bad_input(changes, complaint):
    arguments = {"x": np.zeros((2, 3, 7, 9)), "boxes": BOXES, "image": IMAGE} | changes
    arguments["x"] = Tensor(arguments["x"])
    with pytest.raises(ValueError) as error:
        roi_align(**arguments)
    assert complaint in str(error.value)
