"""Convolution, depthwise convolution and the matrix product on the GPU: against sums written down, and as transposes.

Sizes are told by the tiles' own (products_cuda.py, conv_cuda.py), so that they take several tiles in the simulator and
on a GPU. The last part puts mistakes into the kernels, each of which the checks must notice.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import textwrap
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interpreter import KernelError

from minidetect.kernels import conv_cuda, depthwise_cuda, products_cuda
from minidetect.kernels.conv import conv2d_backward, conv2d_forward, output_size
from minidetect.kernels.depthwise import depthwise_backward, depthwise_forward
from minidetect.kernels.depthwise_cuda import STRIP
from minidetect.kernels.device import count_copies, empty, is_on_gpu, to_device, to_numpy
from minidetect.kernels.gpu import SIMULATED
from minidetect.kernels.products import product
from minidetect.kernels.products_cuda import COLUMNS, DEPTH, DOWN
from minidetect.reference import nn_ops as slow

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ROWS = 8 * DOWN  # of the largest tile
PART = conv_cuda.PART  # positions of a part of the weight gradient, at least
MANY = COLUMNS // 9 + 1  # channels whose 3x3 taps take more than one tile of columns

# N, C, O, (H, W), (KH, KW), stride, padding, dilation, groups
CASES = {
    "one number": (1, 1, 1, (1, 1), (1, 1), 1, 0, 1, 1),
    "1x1, several tiles each way": (1, DEPTH + 1, ROWS + 1, (2, COLUMNS // 2 + 1), (1, 1), 1, 0, 1, 1),
    "1x1, depth for three steps": (1, 2 * DEPTH + 1, 2, (1, 3), (1, 1), 1, 0, 1, 1),
    "a filter as large as its map": (3, 2, 5, (5, 4), (5, 4), 2, 0, 1, 1),
    "3x3, tiles over two images": (2, 2, 3, (3, COLUMNS // 3 + 1), (3, 3), 1, 1, 1, 1),
    "parts and tiles of gw": (1, MANY, 2, (3, PART), (3, 3), 1, 1, 1, 1),
    "the second size of tile": (1, 1, 2 * DOWN + 1, (2, 3), (2, 2), 1, 0, 1, 1),
    "the third size of tile": (1, 1, 4 * DOWN + 1, (2, 3), (2, 2), 1, 0, 1, 1),
    "stride 2": (2, 2, 3, (5, 6), (3, 3), 2, 1, 1, 1),
    "stride 3, more than the kernel": (1, 2, 2, (7, 5), (2, 2), 3, 0, 1, 1),
    "stride 3, more than the image": (1, 2, 2, (2, 1), (1, 1), 3, 0, 1, 1),
    "dilation": (1, 2, 2, (6, 5), (3, 2), 1, 2, 2, 1),
    "dilation and stride 2": (1, 2, 2, (7, 6), (3, 3), 2, 2, 2, 1),
    "dilation 3, stride 2": (1, 1, 2, (6, 7), (2, 3), 2, 3, 3, 1),
    "padding above the kernel": (1, 2, 2, (2, 3), (3, 1), 1, 4, 1, 1),
    "a row of taps": (1, 2, 2, (3, 5), (1, 4), 1, 1, 1, 1),
    "groups": (2, 4, 6, (3, 4), (3, 3), 2, 1, 1, 2),
    "a filter more a channel": (1, 2, 4, (3, 3), (2, 2), 1, 1, 1, 2),
    "depthwise": (2, 3, 3, (4, 5), (3, 3), 1, 1, 1, 3),
    "depthwise, parts of gw": (1, 2, 2, (depthwise_cuda.PART + 1, 4), (3, 2), 1, 1, 1, 2),
    "depthwise, several strips": (2, 1, 1, (4 * STRIP + 3, 5), (3, 3), 2, 2, 2, 1),
    "depthwise, 7x7": (1, 2, 2, (9, 11), (7, 7), 1, 3, 1, 2),
    "depthwise, stride and dilation": (1, 2, 2, (7, 6), (2, 3), 2, 3, 2, 2),
    "depthwise, stride 3": (1, 2, 2, (8, 7), (3, 3), 3, 1, 1, 2),
}
by_name = pytest.mark.parametrize("name", CASES)


def draw(case: tuple, dtype: type, seed: int = 0) -> tuple[tuple[np.ndarray, ...], tuple[int, ...]]:
    """x, w, b, gy of a case, and its settings."""
    images, channels, filters, size, kernel, stride, padding, dilation, groups = case
    out = [output_size(n, k, stride, padding, dilation) for n, k in zip(size, kernel, strict=True)]
    shapes = (images, channels, *size), (filters, channels // groups, *kernel), (filters,), (images, filters, *out)
    rng = np.random.default_rng(seed)
    return tuple(rng.standard_normal(s).astype(dtype) for s in shapes), (stride, padding, dilation, groups)


def close(ours: Any, truth: np.ndarray, dtype: type, what: str = "") -> None:
    """Equal but for the rounding of a sum of a few hundred."""
    assert is_on_gpu(ours) and ours.dtype == dtype and ours.shape == truth.shape
    relative = 3e-5 if dtype == np.float32 else 1e-11
    absolute = relative * (1 + np.abs(truth).max(initial=0))
    np.testing.assert_allclose(to_numpy(ours), truth, relative, absolute, err_msg=what)


def check(case: tuple, dtype: type) -> None:
    """Forward against the slow twin; gradients against the processor's plain loops, which run in float64."""
    (x, w, b, gy), where = draw(case, dtype)
    wide = [a.astype(np.float64) for a in (x, w, b, gy)]
    close(conv2d_forward(to_device(x), to_device(w), to_device(b), *where), slow.conv2d(*wide[:3], *where), dtype, "y")
    gradients = conv2d_backward(to_device(gy), to_device(x), to_device(w), *where)
    for what, ours, truth in zip(("gx", "gw"), gradients, conv2d_backward(wide[3], *wide[:2], *where), strict=True):
        close(ours, truth, dtype, what)


@by_name
@BOTH
def test_forward_and_gradients(name, dtype):
    check(CASES[name], dtype)


@st.composite
def cases(draw: st.DrawFn) -> tuple:
    few = st.integers(1, 3)
    groups, channels, filters = draw(few), draw(st.integers(1, 2)), draw(few)
    size, kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(st.tuples(few, few))
    stride, padding, dilation = draw(few), draw(st.integers(0, 4)), draw(st.integers(1, 2))
    out = [output_size(n, k, stride, padding, dilation) for n, k in zip(size, kernel, strict=True)]
    assume(min(out) > 0 and max(out) < 8)
    return draw(st.integers(1, 2)), channels * groups, filters * groups, size, kernel, stride, padding, dilation, groups


@given(cases(), st.integers(0, 9))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_the_gradients_are_the_transpose(case, seed):
    """Sums are linear in x and in w: <gy, conv(dx, w)> = <gx, dx> and <gy, conv(x, dw)> = <gw, dw>."""
    (x, w, b, gy), where = draw(case, np.float64, seed)
    (dx, dw, _, _), _ = draw(case, np.float64, seed + 100)
    close(conv2d_forward(to_device(x), to_device(w), to_device(b), *where), slow.conv2d(x, w, b, *where), np.float64)
    gx, gw = (to_numpy(g) for g in conv2d_backward(to_device(gy), to_device(x), to_device(w), *where))
    assert (gy * slow.conv2d(dx, w, None, *where)).sum() == pytest.approx((gx * dx).sum(), rel=1e-9, abs=1e-9)
    assert (gy * slow.conv2d(x, dw, None, *where)).sum() == pytest.approx((gw * dw).sum(), rel=1e-9, abs=1e-9)


def test_by_hand():
    """Differences of neighbours; going back, each pixel hears from the two differences that it is in."""
    x = to_device(np.array([1, 4, 9, 16], np.float32).reshape(1, 1, 1, 4))
    w = to_device(np.array([-1, 1], np.float32).reshape(1, 1, 1, 2))
    y = conv2d_forward(x, w, to_device(np.array([10], np.float32)), 1, 0, 1, 1)
    assert to_numpy(y).ravel().tolist() == [13, 15, 17]
    gx, gw = conv2d_backward(to_device(np.array([1, 0, 2], np.float32).reshape(1, 1, 1, 3)), x, w, 1, 0, 1, 1)
    assert to_numpy(gx).ravel().tolist() == [-1, 1, -2, 2] and to_numpy(gw).ravel().tolist() == [19, 36]


def test_pixels_that_the_stride_steps_over_have_no_gradient():
    gy, x, w = (to_device(np.full((1, 1, *size), 2, np.float32)) for size in ((2, 2), (4, 5), (1, 1)))
    gx, _ = conv2d_backward(gy, x, w, 3, 0, 1, 1)
    assert to_numpy(gx)[0, 0].tolist() == [[4, 0, 0, 4, 0], [0] * 5, [0] * 5, [4, 0, 0, 4, 0]]


def test_the_sizes_take_several_tiles(monkeypatch):
    """What the cases above are there for: a grid of several blocks each way, and parts of the weight gradient."""
    grids: dict[str, list] = {"outputs": [], "weights": []}

    class Spy:
        def __init__(self, kernel: Any, name: str) -> None:
            self.kernel, self.name = kernel, name

        def __getitem__(self, launch: tuple) -> Any:
            grids[self.name].append(launch[0])
            return self.kernel[launch]

    makers = products_cuda.convolution_kernel, conv_cuda.weight_kernel
    monkeypatch.setattr(products_cuda, "convolution_kernel", lambda *a: Spy(makers[0](*a), "outputs"))
    monkeypatch.setattr(conv_cuda, "weight_kernel", lambda *a: Spy(makers[1](*a), "weights"))
    for name in ("1x1, several tiles each way", "parts and tiles of gw"):
        check(CASES[name], np.float32)
    assert any(across > 1 and down > 1 for across, down in grids["outputs"])
    assert any(down > 1 for _, down, _ in grids["weights"])
    assert any(across > 1 and parts > 1 for across, _, parts in grids["weights"])


@pytest.mark.parametrize("name", ["3x3, tiles over two images", "parts and tiles of gw", "depthwise, parts of gw"])
def test_the_same_in_every_run(name):
    arrays, where = draw(CASES[name], np.float32)
    x, w, b, gy = (to_device(a) for a in arrays)
    runs = [(conv2d_forward(x, w, b, *where), *conv2d_backward(gy, x, w, *where)) for _ in range(2)]
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(to_numpy(first), to_numpy(second))


# ------------------------------------------------------------------ what follows the sum

FOLLOWED = {
    "tile": (2, 2, 3, (2, 3), (2, 2), 1, 1, 1, 1),
    "groups": (1, 4, 4, (2, 3), (1, 2), 1, 0, 1, 2),
    "depthwise": (2, 3, 3, (2, 3), (2, 2), 1, 1, 1, 3),
}


def finished(y: np.ndarray, b, slope, residual, activate_last: bool) -> np.ndarray:
    """The sentence of conv2d_forward's docstring, in NumPy."""
    y = y if b is None else y + b[:, None, None]
    y = y + residual if residual is not None and activate_last else y
    y = y if slope is None else np.where(y > 0, y, slope[:, None, None] * y)
    return y + residual if residual is not None and not activate_last else y


@BOTH
@pytest.mark.parametrize("kind", FOLLOWED)
def test_bias_activation_and_residual(kind, dtype):
    (x, w, b, residual), where = draw(FOLLOWED[kind], dtype)
    slope = np.resize([0, 0.25, -0.5], len(w)).astype(dtype)
    x, w, b, residual, slope = (to_device(a) for a in (x, w, b, residual, slope))
    plain = slow.conv2d(*(to_numpy(a).astype(np.float64) for a in (x, w)), None, *where)
    for chosen in itertools.product((False, True), repeat=3):
        parts = [part if there else None for part, there in zip((b, slope, residual), chosen, strict=True)]
        for last in (False, True):
            truth = finished(plain, *(None if p is None else to_numpy(p).astype(np.float64) for p in parts), last)
            after = {"slope": parts[1], "residual": parts[2], "activate_last": last}
            close(conv2d_forward(x, w, parts[0], *where, **after), truth, dtype, f"{chosen}, {last}")
            if kind == "depthwise":
                close(depthwise_forward(x, w, parts[0], *where[:3], **after), truth, dtype, f"{chosen}, {last}")


@pytest.mark.parametrize("kind", FOLLOWED)
def test_the_output_is_written_where_it_is_told(kind):
    (x, w, b, residual), where = draw(FOLLOWED[kind], np.float32)
    room = empty(residual.shape, np.float32)
    assert conv2d_forward(*map(to_device, (x, w, b)), *where, residual=to_device(residual), out=room) is room
    close(room, slow.conv2d(x, w, b, *where) + residual, np.float32)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_a_nan_is_seen_where_it_is_looked_at(kind):
    (x, w, b, _), where = draw(FOLLOWED[kind], np.float32)
    x[0, 0, 0, 0] = np.nan
    slope = np.zeros(len(w), np.float32)
    y = to_numpy(conv2d_forward(to_device(x), to_device(w), None, *where, slope=to_device(slope)))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(slow.conv2d(x, w, None, *where)))


# ------------------------------------------------------------------ what is asked for, and nothing


@pytest.mark.parametrize("name", ["stride 2", "groups", "depthwise"])
def test_only_what_is_needed_is_computed(name):
    (x, w, _, gy), where = draw(CASES[name], np.float32)
    arrays = [to_device(a) for a in (gy, x, w)]
    gx, gw = conv2d_backward(*arrays, *where)
    only_gx, none = conv2d_backward(*arrays, *where, needs=(True, False))
    assert none is None
    np.testing.assert_array_equal(to_numpy(only_gx), to_numpy(gx))
    none, only_gw = conv2d_backward(*arrays, *where, needs=(False, True))
    assert none is None
    np.testing.assert_array_equal(to_numpy(only_gw), to_numpy(gw))
    if name == "depthwise":
        assert depthwise_backward(*arrays, *where[:3], needs=(False, False)) == (None, None)


@pytest.mark.parametrize("groups", [1, 2])
def test_no_images(groups):
    x, w = to_device(np.zeros((0, 2, 4, 4), np.float32)), to_device(np.ones((2, 2 // groups, 3, 3), np.float32))
    y = conv2d_forward(x, w, None, 1, 0, 1, groups)
    assert y.shape == (0, 2, 2, 2)
    gx, gw = conv2d_backward(y, x, w, 1, 0, 1, groups)
    assert gx.shape == x.shape and to_numpy(gw).tolist() == np.zeros(w.shape).tolist()


@pytest.mark.parametrize("name", ["stride 2", "dilation and stride 2", "groups", "depthwise, stride 3"])
def test_a_second_call_copies_nothing(name):
    (x, w, b, gy), where = draw(CASES[name], np.float32)
    x, w, b, gy = (to_device(a) for a in (x, w, b, gy))
    for call in (lambda: conv2d_forward(x, w, b, *where), lambda: conv2d_backward(gy, x, w, *where)):
        call()
        with count_copies() as copies:
            call()
        assert (copies.to_gpu, copies.to_host) == (0, 0), copies


# ------------------------------------------------------------------ matrices

MATRICES = [(1, 1, 1), (ROWS + 1, DEPTH + 1, COLUMNS + 1), (2 * DOWN + 1, 2 * DEPTH - 1, 3), (2, 1, COLUMNS), (3, 0, 2)]


@BOTH
@pytest.mark.parametrize("shape", [*MATRICES, (0, 2, 3), (3, 2, 0)])
def test_product(shape, dtype, rng):
    m, depth, n = shape
    a, b = rng.standard_normal((m, depth)).astype(dtype), rng.standard_normal((depth, n)).astype(dtype)
    truth = a.astype(np.float64) @ b.astype(np.float64)
    close(product(to_device(a), to_device(b)), truth, dtype)
    room = empty((m, n), dtype)
    assert product(to_device(a.T).T, to_device(b), out=room) is room
    close(room, truth, dtype)
    close(product(to_device(b).T, to_device(a).T), truth.T, dtype)


# ------------------------------------------------------------------ mistakes that must be noticed

MISTAKES = {
    "the first row is padding": (products_cuda, "pixel_at", "y >= 0", "y > 0", "stride 2"),
    "the last row is padding": (products_cuda, "pixel_at", "y < height", "y < height - 1", "stride 2"),
    "taps out of order": (products_cuda, "convolution_kernel", "v == dxs.size", "v == dys.size", "a row of taps"),
    "what lies outside stays": (products_cuda, "convolution_kernel", "right[k, t] = zero", "pass", "stride 2"),
    "outputs next to each other": (products_cuda, "convolution_kernel", "* target[2]", "* 1", "stride 2"),
    "the step forgotten": (conv_cuda, "weight_kernel", "i * step", "i", "stride 2"),
    "a position left out": (conv_cuda, "weight_kernel", "q += DEPTH", "q += DEPTH + 1", "stride 2"),
    "the next row forgotten": (conv_cuda, "moved_on", "i += 1", "i += 0", "stride 2"),
    "dilation forgotten": (depthwise_cuda, "forward_kernel", "u * dilation", "u", "depthwise, stride and dilation"),
    "outputs in between": (
        depthwise_cuda, "input_kernel", "down % stride == 0", "stride > 0", "depthwise, stride and dilation"
    ),
    "half of the threads": (
        depthwise_cuda, "weight_kernel", "BLOCK, WARP", "BLOCK // 2, WARP", "depthwise, parts of gw"
    ),
    "written over too early": (
        products_cuda, "convolution_kernel", "cuda.syncthreads()  # before the next step writes over them", "pass",
        "1x1, depth for three steps",
    ),
    "read too early": (
        products_cuda, "convolution_kernel", "cuda.syncthreads()\n            add_products", "add_products",
        "1x1, depth for three steps",
    ),
}  # fmt: skip
RACES = ("written over too early", "read too early")  # a GPU may be lucky
NO_LUCK = SIMULATED or os.environ.get("MINIDETECT_INTERPRETED") == "1"  # the order is drawn; races are looked for
NOTICED = "Not equal to tolerance|no barrier between|nobody has written"


@pytest.mark.parametrize("mistake", [name for name in MISTAKES if NO_LUCK or name not in RACES])
def test_a_wrong_kernel_is_noticed(mistake, monkeypatch):
    module, maker, right, wrong, name = MISTAKES[mistake]
    source = textwrap.dedent(inspect.getsource(getattr(module, maker)))
    assert right in source
    names = vars(module).copy()
    exec(compile(source.replace(right, wrong), f"{maker} with a mistake", "exec"), names)
    check(CASES[name], np.float64)
    is_maker = hasattr(getattr(module, maker), "cache_clear")  # of kernels; else a function that they call
    monkeypatch.setattr(module, maker, functools.cache(names[maker]) if is_maker else names[maker])
    forget_kernels()
    with pytest.raises((AssertionError, KernelError), match=NOTICED):
        check(CASES[name], np.float64)
    monkeypatch.undo()
    forget_kernels()


def forget_kernels() -> None:
    """Those made before hold the functions that they were compiled with."""
    for kernels in (products_cuda.convolution_kernel, conv_cuda.weight_kernel):
        kernels.cache_clear()
