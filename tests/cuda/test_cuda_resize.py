"""Resizing on the GPU: the slow twin's numbers, gradients that are the transpose, and tables that are copied once."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.kernels.device import DeviceArray, count_copies, empty, to_device, to_numpy, use_device
from minidetect.kernels.resize import resize_image, resize_maps, resize_maps_grad
from minidetect.reference import nn_ops as slow

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
MODES = pytest.mark.parametrize("mode", ["bilinear", "nearest"])
SIZES = [((3, 4), (6, 8)), ((5, 7), (9, 4)), ((7, 9), (2, 3)), ((1, 5), (4, 1)), ((3, 3), (3, 3)), ((2, 3), (3, 70))]


def closeness(dtype: type) -> dict[str, float]:
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


# ------------------------------------------------------------------ feature maps: NCHW


@BOTH
@MODES
@pytest.mark.parametrize("old, new", SIZES)
def test_resize_maps_and_its_transpose(old, new, mode, dtype, rng):
    x = rng.standard_normal((2, 1, *old)).astype(dtype)
    y = to_numpy(resize_maps(to_device(x), new, mode))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, slow.resize(x, new, mode), **closeness(dtype))
    np.testing.assert_allclose(y, resize_maps(x, new, mode), **closeness(dtype))
    gy = rng.standard_normal(y.shape).astype(dtype)
    gx = to_numpy(resize_maps_grad(to_device(gy), old, mode))
    np.testing.assert_allclose(gx, resize_maps_grad(gy, old, mode), **closeness(dtype))
    forth = (slow.resize(x.astype(np.float64), new, mode) * gy).sum()
    assert forth == pytest.approx((x.astype(np.float64) * gx).sum(), rel=closeness(dtype)["rtol"], abs=1e-4)


def test_twice_as_wide_by_hand():
    x = np.array([0, 4], np.float32).reshape(1, 1, 1, 2)
    assert to_numpy(resize_maps(to_device(x), (1, 4))).ravel().tolist() == [0, 1, 3, 4]  # 0, 4/3, 8/3, 4 by corners
    assert to_numpy(resize_maps(to_device(x), (1, 4), "nearest")).ravel().tolist() == [0, 0, 4, 4]
    gy = np.array([0, 4, 0, 0], np.float32).reshape(1, 1, 1, 4)
    assert to_numpy(resize_maps_grad(to_device(gy), (1, 2))).ravel().tolist() == [3, 1]
    assert to_numpy(resize_maps_grad(to_device(gy), (1, 2), "nearest")).ravel().tolist() == [4, 0]


def test_maps_that_are_not_there_and_maps_that_are_wrong():
    none = to_device(np.zeros((0, 2, 3, 4), np.float32))
    assert resize_maps(none, (6, 8)).shape == (0, 2, 6, 8)
    assert resize_maps_grad(none, (6, 8)).shape == (0, 2, 6, 8)
    x = to_device(np.zeros((1, 1, 2, 2), np.float32))
    for arguments in ((x[0], (2, 2)), (x, (0, 2)), (x, (4, 4), "cubic")):
        with pytest.raises(ValueError):
            resize_maps(*arguments)


def test_the_tables_are_copied_once(rng):
    x = to_device(rng.standard_normal((1, 1, 3, 5)).astype(np.float32))
    image = to_device(rng.standard_normal((3, 5)).astype(np.float32))
    calls = (
        lambda: resize_maps(x, (7, 2)), lambda: resize_maps_grad(x, (2, 7)), lambda: resize_image(image, (2, 9)),
    )  # fmt: skip
    for call in calls:
        call()
        with count_copies() as copies:
            call()
        assert copies.to_gpu == copies.to_host == 0


def test_results_stay_where_the_arrays_are(rng):
    x = rng.standard_normal((1, 1, 2, 2)).astype(np.float32)
    with use_device("cuda"):
        assert type(resize_maps(x, (3, 3))) is np.ndarray
    assert type(resize_maps(to_device(x), (3, 3))) is DeviceArray


# ------------------------------------------------------------------ images: HWC


@BOTH
@pytest.mark.parametrize("old, new", [((6, 7), (9, 4)), ((9, 8), (2, 3)), ((3, 5), (7, 5)), ((4, 3), (4, 3))])
def test_images_of_floats(old, new, dtype, rng):
    image = rng.standard_normal((*old, 3)).astype(dtype)
    y = resize_image(to_device(image), new)
    assert type(y) is DeviceArray and y.dtype == np.float32
    np.testing.assert_allclose(to_numpy(y), slow.resize_image(image, new), **closeness(np.float32))
    np.testing.assert_allclose(to_numpy(y), resize_image(image, new), **closeness(np.float32))
    grey = np.ascontiguousarray(image[:, :, 1])
    np.testing.assert_array_equal(to_numpy(resize_image(to_device(grey), new)), to_numpy(y)[:, :, 1])


@pytest.mark.parametrize("old, new", [((6, 7), (9, 4)), ((9, 8), (2, 3)), ((4, 3), (4, 3))])
def test_images_of_bytes(old, new, rng):
    image = rng.integers(0, 256, (*old, 3), np.uint8)
    y = resize_image(to_device(image), new)
    assert y.dtype == np.uint8
    difference = np.abs(to_numpy(y) - slow.resize_image(image, new))
    assert difference.max() <= 0.501  # rounded to nearest; cut off, it would be nearly 1
    assert np.abs(to_numpy(y).astype(int) - resize_image(image, new)).max() <= 1


def test_white_stays_white():
    image = to_device(np.full((7, 5, 3), 255, np.uint8))
    assert (to_numpy(resize_image(image, (3, 11))) == 255).all()


def test_an_image_is_written_where_it_is_told(rng):
    image = rng.standard_normal((4, 5, 3)).astype(np.float32)
    room = empty((2, 3, 3), np.float32)
    assert resize_image(to_device(image), (2, 3), out=room) is room
    own = np.zeros((2, 3, 3), np.float32)
    with use_device("cuda"):  # does not take it to the GPU, where a copy of `own` would be filled
        assert resize_image(image, (2, 3), out=own) is own
    np.testing.assert_allclose(to_numpy(room), own, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="where the image is"):
        resize_image(to_device(image), (2, 3), out=own)
    with pytest.raises(ValueError, match="where the image is"):
        resize_image(image, (2, 3), out=room)
    with pytest.raises(ValueError, match="out must be a contiguous"):
        resize_image(to_device(image), (3, 3), out=room)
    with pytest.raises(ValueError, match="size must be"):
        resize_image(to_device(image), (0, 3))
