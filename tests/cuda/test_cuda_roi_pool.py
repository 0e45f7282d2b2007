"""RoI pooling on the GPU: the slow twin's numbers, the processor's winners, and gradients added up in its order."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.kernels.device import DeviceArray, to_device, to_numpy, use_device
from minidetect.kernels.roi_pool import roi_pool_backward, roi_pool_forward
from minidetect.kernels.roi_pool_cuda import BLOCK, roi_pool_backward_atomic
from minidetect.reference import nn_ops as slow

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def feature_map(rng: np.random.Generator, dtype: type) -> np.ndarray:
    """(3, 2, 5, 7) with many ties, and some NaN."""
    x = rng.integers(-2, 3, (3, 2, 5, 7)).astype(dtype)
    x[rng.random(x.shape) < 0.03] = np.nan
    return x


def random_rois(rng: np.random.Generator, count: int, images: tuple[int, ...] = (0, 2)) -> np.ndarray:
    """(count, 5) on a map of 10 x 14 pixels: in halves, so that corners fall between cells; some lie beside the map."""
    first = rng.integers(-8, 30, (count, 2)) / 2
    return np.column_stack([rng.choice(images, count), first, first + rng.integers(-2, 20, (count, 2)) / 2])


@BOTH
@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("size, scale", [((2, 3), 0.5), ((1, 1), 1 / 3), ((4, 3), 0.5)])
def test_roi_pool_and_its_winners(size, scale, inclusive, dtype, rng):
    x = feature_map(rng, dtype)
    rois = np.concatenate([random_rois(rng, 8), [[0, 40, 2, 44, 4]]]).astype(np.float32)  # the last is off the map
    y, argmax = roi_pool_forward(to_device(x), to_device(rois), size, scale, inclusive)
    assert (y.dtype, argmax.dtype) == (dtype, np.int32)
    np.testing.assert_array_equal(to_numpy(y), slow.roi_pool(x, rois, size, scale, inclusive))
    expected, winners = roi_pool_forward(x, rois, size, scale, inclusive)
    np.testing.assert_array_equal(to_numpy(y), expected)
    np.testing.assert_array_equal(to_numpy(argmax), winners)
    assert (winners[-1] == -1).all()


def test_of_equals_the_first_in_row_order_wins_and_a_nan_before_all():
    x = np.array([[0, 7, 7], [7, 7, 7]], np.float32).reshape(1, 1, 2, 3)
    rois = np.array([[0, 0, 0, 3, 2]], np.float32)
    assert roi_pool_forward(to_device(x), to_device(rois), (1, 1), 1.0, False)[1].item() == 1  # by columns: 3
    x[0, 0, 1] = [8, np.nan, np.nan]
    y, argmax = roi_pool_forward(to_device(x), to_device(rois), (1, 1), 1.0, False)
    assert np.isnan(y.item()) and argmax.item() == 4


def test_a_bin_off_the_map_is_empty():
    x, rois = np.full((1, 1, 2, 2), -3, np.float32), np.array([[0, 1, 1, 4, 4]], np.float32)
    y, argmax = roi_pool_forward(to_device(x), to_device(rois), (3, 3), 1.0, False)
    assert to_numpy(y)[0, 0].tolist() == [[-3, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert to_numpy(argmax)[0, 0].tolist() == [[3, -1, -1], [-1, -1, -1], [-1, -1, -1]]


def test_a_corner_that_falls_between_two_cells_goes_up():
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    for corner, first in ((25, 3), (24.9, 2), (15, 2), (35, 4)):
        rois = np.array([[0, corner, 0, 0, 0]])
        place = roi_pool_forward(to_device(x), to_device(rois), (1, 1), 0.1, False)[1].item()
        assert place == first == roi_pool_forward(x, rois, (1, 1), 0.1, False)[1].item()


@BOTH
def test_backward_to_the_last_digit(dtype, rng):
    """More outputs than a block compares at once, several RoIs on a cell, and an image without any."""
    x, rois = feature_map(rng, dtype), random_rois(rng, 12)
    assert 12 * 6 > BLOCK
    y, argmax = roi_pool_forward(x, rois, (2, 3), 0.5, False)
    gy = rng.standard_normal(y.shape).astype(dtype)
    arrays = [to_device(a) for a in (gy, argmax, rois.astype(np.float32))]
    gx = to_numpy(roi_pool_backward(*arrays, x.shape))
    np.testing.assert_array_equal(gx, roi_pool_backward(gy, argmax, rois, x.shape))
    assert (gx[1] == 0).all() and (gx[[0, 2]] != 0).any(axis=(1, 2, 3)).all()
    in_any_order = to_numpy(roi_pool_backward_atomic(*arrays, x.shape))
    np.testing.assert_allclose(in_any_order, gx, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


def test_backward_is_the_transpose(rng):
    """<y, g> = <x, gx>: y takes the winners out of x."""
    x, rois = rng.standard_normal((2, 2, 5, 7)), random_rois(rng, 6, (0, 1))
    y, argmax = roi_pool_forward(to_device(x), to_device(rois), (2, 2), 0.5, False)
    gy = rng.standard_normal(y.shape)
    for backward in (roi_pool_backward, roi_pool_backward_atomic):
        gx = to_numpy(backward(to_device(gy), argmax, to_device(rois), x.shape))
        assert (x * gx).sum() == pytest.approx((to_numpy(y) * gy).sum(), rel=1e-12)


def test_a_cell_adds_up_in_the_order_of_the_rois():
    """(1e8 + 1) - 1e8 is 0 in float32, (1e8 - 1e8) + 1 is 1. Who adds in any order cannot promise either."""
    rois, argmax = np.zeros((3, 5), np.float32), np.zeros((3, 1, 1, 1), np.int32)
    for order in ([1e8, 1, -1e8], [1e8, -1e8, 1], [1, -1e8, 1e8]):
        gy = np.array(order, np.float32)
        gx = roi_pool_backward(to_device(gy.reshape(3, 1, 1, 1)), to_device(argmax), to_device(rois), (1, 1, 1, 1))
        assert gx.item() == (gy[0] + gy[1]) + gy[2]
    assert np.float32(1e8) + np.float32(1) - np.float32(1e8) == 0


def test_no_rois_and_no_bins_on_the_map():
    x, none = to_device(np.ones((2, 3, 4, 4), np.float32)), to_device(np.zeros((0, 5), np.float32))
    y, argmax = roi_pool_forward(x, none, (2, 2), 1.0, False)
    assert y.shape == argmax.shape == (0, 3, 2, 2)
    outside = to_device(np.array([[1, 9, 9, 12, 12]], np.float32))
    y1, argmax1 = roi_pool_forward(x, outside, (2, 2), 1.0, False)
    assert (to_numpy(y1) == 0).all() and (to_numpy(argmax1) == -1).all()
    for backward in (roi_pool_backward, roi_pool_backward_atomic):
        assert (to_numpy(backward(y, argmax, none, x.shape)) == np.zeros(x.shape)).all()
        assert (to_numpy(backward(y1 + 1, argmax1, outside, x.shape)) == np.zeros(x.shape)).all()


def test_results_stay_where_the_arrays_are(rng):
    x, rois = feature_map(rng, np.float32), random_rois(rng, 2).astype(np.float32)
    with use_device("cuda"):
        y, argmax = roi_pool_forward(x, rois, (2, 2), 0.5, False)
    assert type(y) is type(argmax) is np.ndarray
    assert type(roi_pool_backward(to_device(y), argmax, rois, x.shape)) is DeviceArray  # the others are copied over
