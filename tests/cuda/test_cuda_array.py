"""Arrays on the GPU: NumPy's arithmetic by NumPy's names, and copies only where they are asked for, all counted."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidetect.kernels import gpu
from minidetect.kernels.device import (
    TYPES,
    DeviceArray,
    count_copies,
    empty,
    full,
    is_on_gpu,
    to_device,
    to_numpy,
    use_device,
    zeros,
)
from minidetect.kernels.relu import relu_forward

RNG = np.random.default_rng(4)
A = RNG.standard_normal((3, 4, 5)).astype(np.float32)
COLUMN = RNG.standard_normal((4, 1)).astype(np.float32)
LONG = RNG.standard_normal((3, 700))
POSITIVE = np.abs(A) + 0.5
MASK = np.array([True, False, True])
PLACES = A[:, :, 0] > 0
WITH_NAN = np.where(A > 1.2, np.nan, A).astype(np.float32)

# What is computed of arrays, once of NumPy's and once of the same on the GPU.
EXPRESSIONS = {
    "a + column": lambda a, c: a + c,
    "2 * a": lambda a, c: 2 * a,
    "1 - a": lambda a, c: 1 - a,
    "a / column": lambda a, c: a / c,
    "a**2": lambda a, c: a**2,
    "-a": lambda a, c: -a,
    "abs": lambda a, c: abs(a),
    "times a float64": lambda a, c: a * np.float64(2),
    "times a float32": lambda a, c: a * np.float32(2),
    "times a number of its own": lambda a, c: a * a.sum(),
    "exp": lambda a, c: np.exp(a),
    "log of sqrt": lambda a, c: np.log(np.sqrt(np.square(a) + 1)),
    "maximum": lambda a, c: np.maximum(a, c),
    "minimum": lambda a, c: np.minimum(a, 0.5),
    "clip": lambda a, c: np.clip(a, -1, 1),
    "compared": lambda a, c: (a > 0) & (a <= c) | (a == c),
    "not": lambda a, c: ~(a > 0),
    "isfinite": lambda a, c: np.isfinite(np.where(a > 1, np.nan, a)),
    "where, numbers": lambda a, c: np.where(a > 0, 1, a),
    "where, stretched": lambda a, c: np.where(c > 0, a, c),
    "sum": lambda a, c: a.sum(),
    "sum, axes": lambda a, c: a.sum(axis=(0, 2)),
    "sum, other axes": lambda a, c: a.sum(axis=(0, -2), keepdims=True),
    "sum, none": lambda a, c: a.sum(axis=()),
    "count": lambda a, c: (a > 0).sum(axis=1),
    "prod": lambda a, c: a.prod(axis=2),
    "mean": lambda a, c: a.mean(axis=0),
    "max": lambda a, c: a.max(axis=1, keepdims=True),
    "min": lambda a, c: a.min(axis=-1),
    "any": lambda a, c: (a > 1.5).any(axis=1),
    "all": lambda a, c: (a > -2).all(axis=(0, 1)),
    "row": lambda a, c: a[1],
    "last rows": lambda a, c: a[-2:],
    "slices": lambda a, c: a[:, 1:3, ::-2],
    "a new axis": lambda a, c: a[:, None, 1],
    "an ellipsis": lambda a, c: a[..., 2],
    "one number": lambda a, c: a[1, 2, 3],
    "rows": lambda a, c: a[[2, 0, -1]],
    "no rows": lambda a, c: a[[]],
    "rows by a mask": lambda a, c: a[MASK],
    "places": lambda a, c: a[np.arange(3), [1, 0, 2]],
    "columns": lambda a, c: a[:, [3, 3, 0]],
    "places by a mask": lambda a, c: a[PLACES],
    "places by a mask, and a number": lambda a, c: a[PLACES, 1],
    "a new axis and rows": lambda a, c: a[None, [0, 2]],
    "rows, a slice and columns": lambda a, c: a[[0, 2], :, [1, 4]],
    "rows in a table": lambda a, c: a[[[0, 1], [2, 0]]],
    "a place of a number": lambda a, c: a.sum()[...] + a.sum()[()] + a.sum()[None],
    "axes of a number": lambda a, c: a.sum().T.max(keepdims=True),
    "backwards": lambda a, c: a[::-1, ::-2],
    "where, three shapes": lambda a, c: np.where(c[0] > 0, a[:, :1], c),
    "transpose": lambda a, c: a.transpose(2, 0, 1),
    "T": lambda a, c: a.T,
    "reshape": lambda a, c: a.reshape(-1, 5),
    "concatenate": lambda a, c: np.concatenate([a, a[:1]], axis=0),
    "split": lambda a, c: np.split(a, [1, 3], axis=1)[1],
    "broadcast": lambda a, c: np.broadcast_to(c, (2, 4, 3)),
    "zeros like": lambda a, c: np.zeros_like(a, shape=(2, 0)),
    "full like": lambda a, c: np.full_like(a, 3, shape=2),
    "as float64": lambda a, c: a.astype(np.float64),
    "as bool": lambda a, c: a.astype(bool),
    "asarray like": lambda a, c: np.asarray(2.5, a.dtype, like=a),
    "vdot": lambda a, c: np.vdot(a, a),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_as_numpy(name):
    expected = np.asarray(EXPRESSIONS[name](A, COLUMN))
    result = EXPRESSIONS[name](to_device(A), to_device(COLUMN))
    assert is_on_gpu(result)
    assert result.dtype == expected.dtype and result.shape == expected.shape
    np.testing.assert_allclose(to_numpy(result), expected, 1e-5, 1e-6)


def test_an_array_of_numpys_on_either_side():
    for result in (A - to_device(COLUMN), to_device(A) - COLUMN):
        assert is_on_gpu(result)
        np.testing.assert_array_equal(to_numpy(result), A - COLUMN)


@pytest.mark.parametrize("shape, axis", [((3, 700), 1), ((3, 700), None), ((700, 3), 0), ((2, 300, 2), 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_sums(shape, axis, dtype):
    """Longer than one thread's, and than one block's."""
    x = LONG[: shape[0]].reshape(-1)[: np.prod(shape)] if len(shape) == 2 else RNG.standard_normal(shape)
    x = np.resize(x, shape).astype(dtype)
    for kind in ("sum", "max", "min"):
        expected = getattr(x.astype(np.float64), kind)(axis=axis)
        np.testing.assert_allclose(to_numpy(getattr(to_device(x), kind)(axis=axis)), expected, 1e-5, 1e-4)


@pytest.mark.parametrize("count", [5, 300])
def test_a_nan_is_the_maximum_and_the_minimum(count):
    for place in (0, count // 2, count - 1):
        x = np.arange(count, dtype=np.float32)
        x[place] = np.nan
        assert np.isnan(float(to_device(x).max())) and np.isnan(float(to_device(x).min()))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("count", [3, 40, 300])
def test_a_nan_spoils_its_own_result_alone(count, axis):
    """A sum by a thread, by a block and in two launches, along neighbours and across them."""
    x = RNG.standard_normal((count, 3) if axis == 0 else (3, count)).astype(np.float32)
    x[(count // 2, 1) if axis == 0 else (1, count // 2)] = np.nan
    for kind in ("sum", "max", "min"):
        expected = getattr(x, kind)(axis=axis)
        np.testing.assert_allclose(to_numpy(getattr(to_device(x), kind)(axis=axis)), expected, 1e-4, 1e-4)


def test_of_two_a_nan_wins_on_either_side():
    a, b = np.array([1, np.nan, 2, np.nan]), np.array([np.nan, 1, 3, np.nan])
    for function in (np.maximum, np.minimum):
        np.testing.assert_array_equal(to_numpy(function(to_device(a), to_device(b))), function(a, b))
        np.testing.assert_array_equal(to_numpy(function(to_device(a), 2.5)), function(a, 2.5))


def numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)


def same(ours: DeviceArray, expected: np.ndarray) -> None:
    assert ours.shape == np.shape(expected)
    np.testing.assert_array_equal(to_numpy(ours), expected)


@given(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=3, min_side=0))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_shapes_that_broadcast(shapes):
    """However the axes of three operands can be merged; the numbers are whole, so that nothing rounds."""
    a, b, c = (numbers(shape, seed) for seed, shape in enumerate(shapes.input_shapes))
    x, y, z = (to_device(array) for array in (a, b, c))
    same(x * y, a * b)
    same(np.where(x > 0, y, z), np.where(a > 0, b, c))
    same(np.broadcast_to(z, shapes.result_shape), np.broadcast_to(c, shapes.result_shape))
    if np.broadcast_shapes(a.shape, b.shape) == a.shape:
        x -= y
        same(x, a - b)


@given(st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_axes_and_indices(data):
    a = numbers(data.draw(hnp.array_shapes(max_dims=4, max_side=4)), 3)
    x = to_device(a)
    axes, keepdims = data.draw(hnp.valid_tuple_axes(a.ndim)), data.draw(st.booleans())
    for kind in ("sum", "max", "min", "prod"):
        same(getattr(x, kind)(axis=axes, keepdims=keepdims), getattr(a, kind)(axis=axes, keepdims=keepdims))
    for kinds in (hnp.basic_indices(a.shape, allow_newaxis=True), hnp.integer_array_indices(a.shape)):
        index = data.draw(kinds)
        same(x[index], a[index])
        x[index], a[index] = 7, 7
        np.add.at(x, index, 2.0)
        np.add.at(a, index, 2.0)
        same(x, a)
    order, axis = data.draw(st.permutations(range(a.ndim))), data.draw(st.integers(-a.ndim, a.ndim - 1))
    same(x.transpose(order), a.transpose(order))
    places = sorted(data.draw(st.lists(st.integers(0, a.shape[axis]), max_size=3)))
    parts = np.split(x, places, axis=axis)
    for ours, expected in zip(parts, np.split(a, places, axis=axis), strict=True):
        same(ours, expected)
    same(np.concatenate(parts, axis=axis), a)


def test_sums_of_nothing():
    x = to_device(np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(to_numpy(x.sum(axis=0)), np.zeros(3, np.float32))
    assert (x + 1).shape == (0, 3) and x.max(axis=1).shape == (0,)
    with pytest.raises(ValueError, match=r"max of no numbers: shape \(0, 3\), axis 0"):
        x.max(axis=0)


def assignments(a, c):
    a *= 2
    a[1] = 7
    a[:, 1:2] = c[:1]
    a[MASK] = 3.0
    a[[0, 1], [2, 3]] -= 1
    a[2, ::-2, 0] = c[:2, 0]
    np.add.at(a, [1, 1, 0], a + 1)
    np.add.at(a, (slice(None), 2), 1)
    a += c
    return a


def test_in_place():
    np.testing.assert_allclose(to_numpy(assignments(to_device(A), to_device(COLUMN))), assignments(A.copy(), COLUMN))


def test_a_slice_is_a_copy_and_a_reshaped_array_is_not():
    x = to_device(A)
    x[1][...] = 5
    np.testing.assert_array_equal(to_numpy(x), A)
    x.reshape(-1)[...] = 5
    assert (to_numpy(x) == 5).all()


def test_memory_is_used_again_once_nobody_has_it():
    x = zeros((7, 11), np.float64)
    view, memory = x.reshape(77), x.memory.array
    del x
    assert empty((77,), np.float64).memory.array is not memory  # the view still has it
    del view
    gc.collect()
    assert empty((11, 7), np.float64).memory.array is memory
    gpu.release_memory()


def test_copies_are_counted():
    with count_copies() as outer:
        x = to_device(A)
        with count_copies() as inner:
            (x + 1)[1:].sum()
            full((3,), 2.0, np.float32)
        assert (inner.to_gpu, inner.to_host) == (0, 0)
        float(x.sum())
    assert (outer.to_gpu, outer.to_gpu_bytes, outer.to_host, outer.to_host_bytes) == (1, A.nbytes, 1, 4)
    assert "1 copies to the GPU (240 bytes), 1 back (4 bytes)" in repr(outer)


def test_numpys_arrays_are_offloaded_for_a_kernel_and_come_back():
    with use_device("cuda"), count_copies() as copies:
        y = relu_forward(A)
        with use_device("cpu"):
            relu_forward(A)
    assert isinstance(y, np.ndarray)
    np.testing.assert_array_equal(y, np.maximum(A, 0))
    assert (copies.to_gpu, copies.to_host) == (1, 1)
    relu_forward(A)
    assert (copies.to_gpu, copies.to_host) == (1, 1)


@pytest.mark.parametrize(
    "misuse, message",
    [
        (lambda x: np.asarray(x), "not copied unasked: use to_numpy"),
        (lambda x: np.linalg.norm(x), "np.norm is not there for arrays on the GPU"),
        (lambda x: np.tanh(x), "np.tanh is not there for arrays on the GPU"),
        (lambda x: np.add.reduce(x), "np.add.reduce is not there"),
        (lambda x: np.add(A.copy(), x, out=A.copy()), "can't be written to one of NumPy's"),
        (lambda x: to_device(np.array(["a"])), "holds float32, float64"),
        (lambda x: len(x.sum()), "without axes"),
    ],
)
def test_what_is_not_there_is_refused_by_name(misuse, message):
    with pytest.raises(TypeError, match=message):
        misuse(to_device(A))


@pytest.mark.parametrize(
    "misuse, message",
    [
        (lambda x: x + to_device(np.ones(3)), "could not be broadcast|shape mismatch"),
        (lambda x: x.reshape(7, -1), r"shape \(3, 4, 5\) has no shape"),
        (lambda x: x.sum(axis=3), r"axis 3 of an array of shape \(3, 4, 5\)"),
        (lambda x: x.item(), "one element"),
        (lambda x: x.__setitem__(0, np.ones((2, 5))), r"\(2, 5\) do not fit|shape mismatch"),
        (lambda x: use_device("gpu").__enter__(), "device must be one of cpu, cuda, got 'gpu'"),
    ],
)
def test_what_does_not_fit_is_refused(misuse, message):
    with pytest.raises(ValueError, match=message):
        misuse(to_device(A))


def test_rows_that_are_not_there():
    with pytest.raises(IndexError, match=r"rows 0 to 3 of an array of shape \(3, 4, 5\)"):
        to_device(A)[[0, 3]]
    with pytest.raises(IndexError, match="2 booleans for the 3 rows"):
        to_device(A)[[True, False]]
    with pytest.raises(IndexError):
        to_device(A)[5]


def test_numbers_of_every_type():
    for dtype in TYPES:
        x = np.array([[0, 1], [3, 0]]).astype(dtype)
        assert isinstance(to_device(x), DeviceArray)
        np.testing.assert_array_equal(to_numpy(to_device(x)), x)
        assert to_numpy(to_device(x)).dtype == x.dtype
