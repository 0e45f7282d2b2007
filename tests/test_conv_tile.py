"""The register tiles against the plain loops of kernels/conv.py, for every layout, width and setting."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.kernels import conv_fast, conv_points, conv_tile, conv_tile_weights
from minidetect.kernels.conv import conv2d_backward, conv2d_forward, output_size
from minidetect.kernels.simd import LANES
from minidetect.reference import nn_ops as slow

if LANES == 1:
    pytest.skip("no vector unit known on this machine: only the plain loops run", allow_module_level=True)

LAYOUTS = ("rows", "lanes", "points")


def use_layout(monkeypatch, layout: str) -> None:
    for module in (conv_fast, conv_tile_weights):
        monkeypatch.setattr(module, "use_lanes", lambda images, g: layout == "lanes")
    monkeypatch.setattr(conv_fast, "POINTS_PAY", 1)
    usual = conv_points.suits_points
    monkeypatch.setattr(conv_fast, "suits_points", lambda *a: layout == "points" and usual(*a))


def problem(rng, images, channels, filters, height, width, kernel, stride, padding, dilation):
    x = rng.standard_normal((images, channels, height, width)).astype(np.float32)
    w = rng.standard_normal((filters, channels, *kernel)).astype(np.float32)
    out = [output_size(n, k, stride, padding, dilation) for n, k in zip((height, width), kernel, strict=True)]
    gy = rng.standard_normal((images, filters, *out)).astype(np.float32)
    return x, w, gy, (stride, padding, dilation, 1)


def check(x, w, gy, where) -> None:
    """float32 through the tiles, float64 through the plain loops: equal but for rounding."""
    wide = [a.astype(np.float64) for a in (x, w, gy)]
    bias = np.linspace(-1, 1, len(w))
    y, exact = conv2d_forward(x, w, bias.astype(np.float32), *where), conv2d_forward(*wide[:2], bias, *where)
    assert y.dtype == np.float32 and exact.dtype == np.float64
    gradients, exact_gradients = conv2d_backward(gy, x, w, *where), conv2d_backward(wide[2], *wide[:2], *where)
    for name, ours, truth in zip(("y", "gx", "gw"), (y, *gradients), (exact, *exact_gradients), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=2e-4, atol=2e-5 * np.abs(truth).max() + 1e-6, err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 16, 40, 53, (3, 3), 1, 0, 1),  # a stem over a picture
        (1, 16, 16, 21, 67, (5, 5), 1, 0, 1),
        (1, 64, 32, 33, 31, (1, 1), 1, 0, 1),
        (2, 3, 28, 47, 45, (3, 3), 2, 1, 1),  # 28 = 8 + 8 + 8 + 2 + 2
        (1, 10, 1, 9, 50, (3, 3), 1, 1, 1),
        (2, 32, 21, 18, 33, (3, 3), 1, 1, 1),  # by points, with a group of rows that is not full
        (1, 33, 16, 9, 17, (5, 3), 1, 2, 1),
        (1, 5, 6, 23, 24, (7, 7), 2, 3, 1),
        (2, 4, 9, 30, 17, (3, 3), 1, 4, 4),
        (1, 8, 8, 20, 20, (1, 1), 2, 0, 1),  # a stride that steps over pixels
        (130, 3, 32, 24, 24, (3, 3), 1, 0, 1),  # patches; 130 leaves two over
        (128, 48, 64, 4, 4, (2, 2), 1, 0, 1),
        (256, 1, 10, 3, 3, (3, 3), 1, 1, 1),
        (40, 6, 5, 1, 1, (1, 1), 1, 0, 1),
        (17, 3, 4, 9, 8, (3, 2), 3, 2, 2),
    ],
)
def test_shapes_of_the_models(monkeypatch, layout, shape):
    use_layout(monkeypatch, layout)
    check(*problem(np.random.default_rng(0), *shape))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 5), st.integers(1, 11), st.integers(1, 14),
    st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4), st.integers(1, 3),
    st.sampled_from(LAYOUTS),
)
def test_any_setting(
    seed, images, channels, filters, height, width, kernel_h, kernel_w, stride, padding, dilation, layout
):
    height = max(height, (kernel_h - 1) * dilation + 1 - 2 * padding)
    width = max(width, (kernel_w - 1) * dilation + 1 - 2 * padding)
    shape = (images, channels, filters, height, width, (kernel_h, kernel_w), stride, padding, dilation)
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_layout(monkeypatch, layout)
        check(*problem(np.random.default_rng(seed), *shape))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_bands_and_chunks(monkeypatch, layout):
    """Tasks of a row or of one block of lanes each meet at their borders."""
    use_layout(monkeypatch, layout)
    monkeypatch.setattr(conv_tile, "BAND_FLOATS", 1)
    monkeypatch.setattr(conv_tile_weights, "PACKED_FLOATS", 1)
    check(*problem(np.random.default_rng(1), 67, 3, 5, 13, 12, (3, 3), 1, 1, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_tap_is_seen(monkeypatch, layout):
    use_layout(monkeypatch, layout)
    right = conv_fast.forward_taps

    def one_column_off(*settings):
        taps = right(*settings)
        return taps._replace(geometry=taps.geometry._replace(first_x=taps.geometry.first_x + 1))

    monkeypatch.setattr(conv_fast, "forward_taps", one_column_off)
    with pytest.raises(AssertionError, match="y"):
        check(*problem(np.random.default_rng(2), 16, 3, 4, 9, 9, (3, 3), 1, 1, 1))


@pytest.mark.parametrize("shape", [(1, 32, 32, 40, 60, (3, 3), 1, 1, 1), (1, 16, 16, 40, 60, (5, 5), 1, 2, 1)])
def test_points_round_little_more_than_the_plain_sum(shape):
    x, w, _, where = problem(np.random.default_rng(4), *shape)
    exact, errors = conv2d_forward(x.astype(np.float64), w.astype(np.float64), None, *where), {}
    for layout in ("rows", "points"):
        with pytest.MonkeyPatch.context() as monkeypatch:
            use_layout(monkeypatch, layout)
            errors[layout] = np.sqrt(((conv2d_forward(x, w, None, *where) - exact) ** 2).mean())
    assert errors["points"] != errors["rows"] and errors["points"] < 4 * errors["rows"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_what_follows_a_convolution(monkeypatch, layout, dtype, activate_last, groups):
    use_layout(monkeypatch, layout)
    rng = np.random.default_rng(3)
    x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((17, 4, 7, 9), (6, 4 // groups, 3, 3), (6,)))
    slope, residual = rng.uniform(0, 1, 6).astype(dtype), rng.standard_normal((17, 6, 7, 9)).astype(dtype)
    plain = conv2d_forward(x, w, b, 1, 1, 1, groups)

    def act(v):
        return np.where(v > 0, v, slope[:, None, None] * v)

    out = np.empty_like(plain)
    got = conv2d_forward(x, w, b, 1, 1, 1, groups, slope=slope, out=out)
    assert got is out
    np.testing.assert_allclose(out, act(plain), 1e-5, 1e-6)
    got = conv2d_forward(x, w, b, 1, 1, 1, groups, slope=slope, residual=residual, activate_last=activate_last)
    expected = act(plain + residual) if activate_last else act(plain) + residual
    np.testing.assert_allclose(got, expected, 1e-5, 2e-6)


def test_nan_stays_visible():
    x = np.ones((1, 2, 6, 40), np.float32)
    x[0, 1, 3, 20] = np.nan
    w = np.ones((8, 2, 3, 3), np.float32)
    y = conv2d_forward(x, w, None, 1, 1, 1, 1, slope=np.zeros(8, np.float32))
    assert np.isnan(y[0, :, 2:5, 19:22]).all() and np.isnan(y).sum() == 8 * 9


@pytest.mark.parametrize("lanes", [width for width in (1, 4, 8, 16) if width < LANES])
def test_narrower_vectors(lanes):
    """The same tests where the machine has less: a process of its own, since the width is fixed at import."""
    if lanes == 1:
        test = f"{__file__.replace('test_conv_tile', 'test_ops')}::test_any_convolution"
    else:
        test = f"{__file__}::test_shapes_of_the_models"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-x", "-p", "no:cacheprovider", test],
        env=os.environ | {"MINIDETECT_LANES": str(lanes)}, capture_output=True, text=True,
    )
    assert done.returncode == 0 and "PASSED" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("images", [1, LANES - 1, LANES, LANES + 1, 2 * LANES])
@pytest.mark.parametrize("size", [(31, 33), (32, 32), (25, 47), (64, 16)])
def test_one_pixel_of_many_images_with_large_maps(images, size, rng, monkeypatch):
    """Products for each image where there are few images or 1024 positions; the same numbers in any case."""
    calls = []
    usual = conv_fast.matrix_forward
    monkeypatch.setattr(conv_fast, "matrix_forward", lambda *a: calls.append(1) or usual(*a))
    x, w, gy, where = problem(rng, images, 6, 5, *size, (1, 1), 1, 0, 1)
    assert conv_fast.is_matrix(x, w, 1, 0) == (images < LANES or size[0] * size[1] >= 1024)
    check(x, w, gy, where)
    assert bool(calls) == conv_fast.is_matrix(x, w, 1, 0)
    assert not conv_fast.is_matrix(x, w, 2, 0) and not conv_fast.is_matrix(x, w, 1, 1)
    assert not conv_fast.is_matrix(x, np.zeros((5, 6, 1, 2), np.float32), 1, 0)


def test_one_pixel_of_many_images_by_loops(rng):
    """Non-contiguous, both dtypes, against the slow oracle; the gradients as sums over images and places."""
    x = rng.standard_normal((LANES + 1, 33, 4, 32)).transpose(0, 2, 1, 3)[..., ::-1]  # (N, C, H, W)
    w = rng.standard_normal((3, 8, 1, 1))[:, ::2]
    gy, b = rng.standard_normal((LANES + 1, 33, 32, 3)).transpose(0, 3, 1, 2), rng.standard_normal(3)
    y = slow.conv2d(x, w, b)
    for dtype, tolerance in ((np.float32, 1e-4), (np.float64, 1e-10)):
        x_d, w_d, gy_d, b_d = (a.astype(dtype, order="K") for a in (x, w, gy, b))
        assert not x_d[..., ::-1].flags.c_contiguous
        ours = conv2d_forward(x_d, w_d, b_d, 1, 0, 1, 1)
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, y, rtol=tolerance, atol=tolerance)
        gx, gw = conv2d_backward(gy_d, x_d, w_d, 1, 0, 1, 1)
        np.testing.assert_allclose(gx, np.einsum("nohw,oc->nchw", gy, w[:, :, 0, 0]), rtol=tolerance, atol=tolerance)
        expected = np.einsum("nohw,nchw->oc", gy, x)[:, :, None, None]
        np.testing.assert_allclose(gw, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_many_images_without_pixels():
    w = np.ones((3, 2, 1, 1), np.float32)
    for shape in ((2 * LANES, 2, 0, 40), (0, 2, 40, 40)):
        x = np.zeros(shape, np.float32)
        y = conv2d_forward(x, w, None, 1, 0, 1, 1)
        assert y.shape == (shape[0], 3, *shape[2:])
        gx, gw = conv2d_backward(y, x, w, 1, 0, 1, 1)
        assert gx.shape == x.shape and not gw.any()
