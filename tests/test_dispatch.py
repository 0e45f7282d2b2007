"""Threads: one switch for kernels and matrix products, and the same numbers for every number of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from minidetect.kernels import conv, dispatch, iou, nms, pool, prelu, resize, roi_pool, threads
from minidetect.kernels.dispatch import get_num_threads, num_threads, parallel_kernel, prange, set_num_threads
from minidetect.kernels.products import product

needs_two = pytest.mark.skipif(threads.max_threads() < 2, reason="this process was started for one thread only")
RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def boxes(n: int) -> np.ndarray:
    corners = RNG.uniform(0, 80, (n, 2))
    return np.concatenate([corners, corners + RNG.uniform(1, 40, (n, 2))], axis=1).astype(np.float32)


X = floats(3, 8, 23, 29)
ROIS = np.concatenate([RNG.integers(0, 3, (40, 1)), boxes(40)], axis=1)
GY_POOL, WINNERS = floats(3, 8, 12, 15), RNG.integers(0, 23 * 29, (3, 8, 12, 15)).astype(np.int32)
GY_ROIS, ROI_WINNERS = floats(40, 8, 5, 4), RNG.integers(-1, 23 * 29, (40, 8, 5, 4)).astype(np.int32)
W, GY = floats(12, 8, 3, 3), floats(3, 12, 23, 29)
W_GROUPS = floats(12, 4, 3, 3)
W_DEPTH, GY_DEPTH = floats(8, 1, 3, 3), floats(3, 8, 23, 29)
SLOPE, BIAS = floats(8), floats(12)
BOXES, SCORES = boxes(700), RNG.random(700).astype(np.float32)
IMAGE = RNG.integers(0, 256, (61, 75, 3), dtype=np.uint8)

# A new kernel is one more line: what is called, again and again on the same arrays.
CASES: dict[str, Callable] = {
    "conv": lambda: conv.conv2d_forward(X, W, BIAS, 1, 1, 1, 1),
    "conv, stride 2": lambda: conv.conv2d_forward(X, W, BIAS, 2, 1, 1, 1),
    "conv, groups": lambda: conv.conv2d_forward(X, W_GROUPS, BIAS, 1, 1, 1, 2),
    "conv 1x1": lambda: conv.conv2d_forward(X, W[:, :, :1, :1], BIAS, 1, 0, 1, 1),
    "conv backward": lambda: conv.conv2d_backward(GY, X, W, 1, 1, 1, 1),
    "depthwise": lambda: conv.conv2d_forward(X, W_DEPTH, None, 1, 1, 1, 8),
    "depthwise backward": lambda: conv.conv2d_backward(GY_DEPTH, X, W_DEPTH, 1, 1, 1, 8),
    "max pool": lambda: pool.max_pool_forward(X, 3, 2, 1, False),
    "max pool, values": lambda: pool.max_pool_values(X, 2, 2, 0, False),
    "max pool backward": lambda: pool.max_pool_backward(GY_POOL, WINNERS, X.shape, 3, 2, 1),
    "avg pool": lambda: pool.avg_pool_forward(X, 2, 2, 0, False),
    "avg pool backward": lambda: pool.avg_pool_backward(GY_POOL, X.shape, 3, 2, 1),
    "prelu": lambda: prelu.prelu_forward(X, SLOPE),
    "prelu backward": lambda: prelu.prelu_backward(X, X[:, :, ::-1], SLOPE),
    "roi pool": lambda: roi_pool.roi_pool_forward(X, ROIS, (5, 4), 0.25, False),
    "roi pool backward": lambda: roi_pool.roi_pool_backward(GY_ROIS, ROI_WINNERS, ROIS, X.shape),
    "resize image": lambda: resize.resize_image(IMAGE, (40, 33)),
    "crop and resize": lambda: resize.crop_resize(IMAGE, BOXES, 12),
    "resize maps": lambda: resize.resize_maps(X, (40, 50)),
    "resize maps backward": lambda: resize.resize_maps_grad(X, (40, 50)),
    "nms": lambda: nms.nms(BOXES, SCORES, 0.4),
    "iou": lambda: iou.iou_matrix(BOXES, BOXES[:50]),
}


def run_with(n: int, run: Callable) -> list[bytes]:
    with num_threads(n):
        results = run()
    results = results if isinstance(results, tuple) else (results,)
    return [array.tobytes() for array in results if array is not None]


def same_for_every_number_of_threads(run: Callable) -> bool:
    alone = run_with(1, run)
    return all(run_with(n, run) == alone for n in range(1, threads.max_threads() + 1) for _ in range(3))


@needs_two
@pytest.mark.parametrize("name", CASES)
def test_every_number_of_threads_gives_the_same_bits(name):
    """Each output is written by one iteration of a `prange`, so it's the same sum whoever runs it.

    NumPy's matrix products are BLAS' own affair: it may cut a sum differently for two threads.
    """
    assert same_for_every_number_of_threads(CASES[name])


@parallel_kernel
def _total(x, total):
    partial = np.float32(0)
    for i in prange(x.size):  # each thread has a sum of its own, and these are added up
        partial += x[i]
    total[0] = partial


@needs_two
def test_a_sum_over_threads_would_be_found():
    x, total = RNG.normal(size=100_003).astype(np.float32), np.zeros(1, np.float32)

    def run():
        _total(x, total)
        return total

    assert not same_for_every_number_of_threads(run)


# ---------------------------------------------------------------------------------------------- the switch


@needs_two
def test_one_switch_for_kernels_and_matrix_products():
    before = get_num_threads(), threads.blas_threads()
    with num_threads(2):
        assert get_num_threads() == 2 and threads.blas_threads() in (2, None)
        with num_threads(1):
            assert get_num_threads() == 1 and threads.blas_threads() in (1, None)
        assert get_num_threads() == 2 and threads.blas_threads() in (2, None)
    assert (get_num_threads(), threads.blas_threads()) == before


def test_the_switch_is_put_back_after_an_error():
    before = get_num_threads(), threads.blas_threads()
    with pytest.raises(KeyError), num_threads(1):
        raise KeyError
    assert (get_num_threads(), threads.blas_threads()) == before


@pytest.mark.parametrize("n", [0, -1, 100_000])
def test_impossible_numbers_of_threads(n):
    with pytest.raises(ValueError, match="between 1 and"):
        set_num_threads(n)


def test_numpys_blas_is_found_where_numpy_brings_one():
    if "openblas" not in str(np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]):
        pytest.skip("NumPy was built with another BLAS")
    assert threads.blas_threads() >= 1
    code = "from minidetect.kernels import threads as t; print(t.blas_threads()); t.set_num_threads(1); " \
        "print(t.blas_threads())"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() in (["2", "1"], ["1", "1"])  # never more than processors


def test_without_a_known_blas_the_switch_still_sets_the_kernels(monkeypatch):
    monkeypatch.setattr(threads, "blas_functions", lambda: ())
    with num_threads(1):
        assert get_num_threads() == 1 and threads.blas_threads() is None


def test_nan_and_infinity_are_kept_by_every_kind_of_kernel():
    """With `fastmath=True` this would be False: NaN is then assumed never to be."""
    def see(x):
        return np.isnan(x), np.isinf(x)

    for make in (dispatch.kernel, dispatch.parallel_kernel, dispatch.exact_kernel):
        with np.errstate(all="ignore"):
            assert make(see)(np.float32(np.nan)) == (True, False)
            assert make(see)(np.float32(np.inf)) == (False, True)


def test_products_use_one_thread_and_leave_the_others_as_they_were(rng, monkeypatch):
    """OpenBLAS' waiting threads would keep a processor from the next kernel."""
    if threads.blas_threads() is None:
        pytest.skip("this NumPy's BLAS cannot be asked for its threads")
    before, seen, matmul = threads.blas_threads(), [], np.matmul

    def watched(*arguments, **settings):
        seen.append(threads.blas_threads())
        return matmul(*arguments, **settings)

    monkeypatch.setattr(np, "matmul", watched)
    a, b, out = rng.standard_normal((5, 3)), rng.standard_normal((3, 4)), np.empty((5, 4))
    assert product(a, b, out=out) is out and np.allclose(out, a @ b)
    with pytest.raises(ValueError, match="matmul"):
        product(a, a)
    assert seen == [1, 1] and threads.blas_threads() == before
