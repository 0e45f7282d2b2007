"""The arithmetic of arrays on the GPU, element by element. Sums and maxima along axes are in device_reduce.py.

A few kernels, each made for a scalar function when it is first asked for: `a + b` and `np.exp(x)` differ in one line.

    elementwise     one or two arrays of one shape, or an array and a number: y[i] = f(a[i], b[i])
    stretched       shapes that broadcast: place i of the result is taken apart into axes, few once those that lie
                    behind each other in all operands are seen as one; a stretched axis has stride 0
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, full, to_device
from minidetect.kernels.gpu import SIMULATED, cuda, grid_for

Strides = tuple[int, ...]


# ---------------------------------------------------------------------------------------------- scalar functions

library = np if SIMULATED else math  # what the compiler knows; Python's own would raise where NumPy says infinity

UNARY = {
    np.negative: lambda x: -x,
    np.absolute: lambda x: abs(x),
    np.exp: lambda x: library.exp(x),
    np.log: lambda x: library.log(x),
    np.sqrt: lambda x: library.sqrt(x),
    np.square: lambda x: x * x,
    np.isfinite: lambda x: x - x == 0,
    np.isnan: lambda x: x != x,
    np.logical_not: lambda x: not x,
}
BINARY = {
    np.add: lambda a, b: a + b,
    np.subtract: lambda a, b: a - b,
    np.multiply: lambda a, b: a * b,
    np.divide: lambda a, b: a / b,
    np.power: lambda a, b: a**b,
    np.maximum: lambda a, b: a if a > b or a != a else b,
    np.minimum: lambda a, b: a if a < b or a != a else b,
    np.less: lambda a, b: a < b,
    np.less_equal: lambda a, b: a <= b,
    np.greater: lambda a, b: a > b,
    np.greater_equal: lambda a, b: a >= b,
    np.equal: lambda a, b: a == b,
    np.not_equal: lambda a, b: a != b,
    np.logical_and: lambda a, b: bool(a) and bool(b),
    np.logical_or: lambda a, b: bool(a) or bool(b),
}
OF_TRUTH = {np.invert: np.logical_not, np.bitwise_and: np.logical_and, np.bitwise_or: np.logical_or}  # ~, &, | of bool


# ------------------------------------------------------------------------------------------------ element by element


@functools.cache
def unary_kernel(ufunc: Callable) -> Any:
    f = cuda.jit(device=True)(UNARY[ufunc])

    @cuda.jit
    def unary(x, y):
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            y[i] = f(x[i])

    return unary


@functools.cache
def binary_kernels(ufunc: Callable) -> dict[str, Any]:
    f = cuda.jit(device=True)(BINARY[ufunc])

    @cuda.jit
    def arrays(a, b, y):
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            y[i] = f(a[i], b[i])

    @cuda.jit
    def number_right(a, b, y):
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            y[i] = f(a[i], b)

    @cuda.jit
    def number_left(a, b, y):
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            y[i] = f(a, b[i])

    @cuda.jit
    def stretched(a, a_strides, b, b_strides, lengths, y):
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            y[i] = f(a[place(i, lengths, a_strides)], b[place(i, lengths, b_strides)])

    return {"arrays": arrays, "number_right": number_right, "number_left": number_left, "stretched": stretched}


@cuda.jit(device=True)
def place(i, lengths, strides):
    """Where element i of an array stands in an operand of these strides; compiled for each number of axes."""
    rest = np.uint32(i)  # a division of 64 bits takes several times as long
    at = np.int64(0)
    for axis in range(len(lengths) - 1, 0, -1):
        length = np.uint32(lengths[axis])
        at += np.int64(rest % length) * strides[axis]
        rest //= length
    return at + np.int64(rest) * strides[0]


@cuda.jit
def choose_kernel(condition, c_strides, a, a_strides, b, b_strides, lengths, y):
    """np.where"""
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        if condition[place(i, lengths, c_strides)]:
            y[i] = a[place(i, lengths, a_strides)]
        else:
            y[i] = b[place(i, lengths, b_strides)]


@cuda.jit
def fill_kernel(value, y):
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] = value


@cuda.jit
def convert_kernel(x, y):
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] = x[i]


def fill(y: DeviceArray, value: float) -> None:
    if y.size:
        fill_kernel[grid_for(y.size)](y.dtype.type(value), y.flat)


def converted(x: DeviceArray, dtype: np.dtype) -> DeviceArray:
    """A copy as another type."""
    y = empty(x.shape, dtype)
    if x.size and dtype == np.bool_ != x.dtype:
        return compute(np.not_equal, x, 0)
    if x.size:
        convert_kernel[grid_for(x.size)](x.flat, y.flat)
    return y


def apply_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, kwargs: dict) -> Any:
    """What NumPy calls for a ufunc with an array on the GPU among its inputs."""
    out = kwargs.pop("out", (None,))[0]
    if method == "at" and ufunc is np.add and not kwargs:
        from minidetect.kernels.device_index import add_at

        return add_at(*inputs)
    if all(getattr(x, "dtype", None) == np.bool_ for x in inputs):
        ufunc = OF_TRUTH.get(ufunc, ufunc)
    if method != "__call__" or kwargs or ufunc not in UNARY and ufunc not in BINARY:
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise TypeError(f"np.{name} is not there for arrays on the GPU{', with ' + str(kwargs) if kwargs else ''}")
    return compute(ufunc, *inputs, out=out)


def compute(ufunc: np.ufunc, *inputs: Any, out: DeviceArray | None = None) -> DeviceArray:
    """A ufunc of one or two inputs: arrays on the GPU, NumPy's (copied over), or numbers (passed with the launch)."""
    for x in inputs:
        if not isinstance(x, (DeviceArray, np.ndarray, np.generic, int, float)):
            raise TypeError(f"np.{ufunc.__name__} of an array on the GPU and {x!r}: take an array or a number")
    operands = [to_device(x) if isinstance(x, np.ndarray) and x.ndim else x for x in inputs]
    kinds = [x.dtype if hasattr(x, "dtype") else type(x) for x in operands]  # a Python number takes what it meets
    dtypes = ufunc.resolve_dtypes((*kinds, None))
    shape = np.broadcast_shapes(*(getattr(x, "shape", ()) for x in operands))
    y = empty(shape, dtypes[-1]) if out is None else out
    if not isinstance(y, DeviceArray):
        raise TypeError(f"np.{ufunc.__name__}: the result of an array on the GPU can't be written to one of NumPy's")
    if not np.can_cast(dtypes[-1], y.dtype, "same_kind"):
        raise TypeError(f"np.{ufunc.__name__}: a result of {dtypes[-1]} can't be written to an array of {y.dtype}")
    if y.shape != shape:
        raise ValueError(f"np.{ufunc.__name__}: a result of shape {shape} does not fit into {y.shape}")
    if y.size == 0:
        return y
    if len(operands) == 1:
        unary_kernel(ufunc)[grid_for(y.size)](operands[0].flat, y.flat)
        return y
    kernels = binary_kernels(ufunc)
    a, b = (separate(x, y) for x in operands)
    if not isinstance(b, DeviceArray):
        kernels["number_right"][grid_for(y.size)](a.flat, dtypes[1].type(b), y.flat)
    elif not isinstance(a, DeviceArray):
        kernels["number_left"][grid_for(y.size)](dtypes[0].type(a), b.flat, y.flat)
    elif a.shape == b.shape:
        kernels["arrays"][grid_for(y.size)](a.flat, b.flat, y.flat)
    else:
        lengths, (a_strides, b_strides) = merged(shape, (stretched_strides(x.shape, shape) for x in (a, b)))
        kernels["stretched"][grid_for(y.size)](a.flat, a_strides, b.flat, b_strides, lengths, y.flat)
    return y


def separate(x: Any, y: DeviceArray) -> Any:
    """An operand that no thread writes while another reads it: a copy if it is a view of y in another shape."""
    is_view = isinstance(x, DeviceArray) and x.memory is y.memory and x.shape != y.shape
    return x.copy() if is_view else x


def where(condition: Any, a: Any, b: Any) -> DeviceArray:
    """np.where of three arguments."""
    kinds = (x if isinstance(x, (int, float)) else x.dtype for x in (a, b))  # a Python number takes the other's type
    dtype = np.result_type(*kinds)
    operands = [as_device(condition, bool), as_device(a, dtype), as_device(b, dtype)]
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    y = empty(shape, dtype)
    if y.size:
        lengths, strides = merged(shape, (stretched_strides(x.shape, shape) for x in operands))
        pairs = [part for x, s in zip(operands, strides, strict=True) for part in (x.flat, s)]
        choose_kernel[grid_for(y.size)](*pairs, lengths, y.flat)
    return y


def as_device(x: Any, dtype: Any = None) -> DeviceArray:
    """np.asarray(x, dtype): a single number goes with a launch, an array is copied over if it must be."""
    if isinstance(x, DeviceArray):
        return x if dtype is None else x.astype(dtype, copy=False)
    array = np.asarray(x, dtype)
    return to_device(array) if array.ndim else full((), array.item(), array.dtype)


# ---------------------------------------------------------------------------------------------------- strides


def c_strides(shape: Sequence[int]) -> Strides:
    """How far, in elements, the next one along each axis is."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def stretched_strides(shape: Sequence[int], result: Sequence[int]) -> Strides:
    """The strides of an operand along the axes of a result that it is broadcast to: 0 where it is stretched."""
    shape = (1,) * (len(result) - len(shape)) + tuple(shape)
    return tuple(0 if n == 1 else s for n, s in zip(shape, c_strides(shape), strict=True))


def merged(shape: Sequence[int], strides: Any) -> tuple[Strides, list[Strides]]:
    """The same places with as few axes as can be, at least one.

    Two axes are one where, in every operand, a step along the first is as far as all steps along the second.
    """
    strides = list(strides)
    kept = [axis for axis, n in enumerate(shape) if n != 1]
    lengths, steps = [], [[] for _ in strides]
    for axis in kept:
        n = shape[axis]
        if lengths and all(mine[-1] == s[axis] * n for mine, s in zip(steps, strides, strict=True)):
            lengths[-1] *= n
            for mine, s in zip(steps, strides, strict=True):
                mine[-1] = s[axis]
        else:
            lengths.append(n)
            for mine, s in zip(steps, strides, strict=True):
                mine.append(s[axis])
    if not lengths:
        return (1,), [(0,) for _ in strides]
    return tuple(lengths), [tuple(mine) for mine in steps]
