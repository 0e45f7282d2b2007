"""Parts of arrays on the GPU: slices, rows, single places; joining, splitting and turning of axes.

    slices      x[:, 1:3, ::-1]: a place to start and a stride for each axis, as in NumPy, but the part is copied
    rows        x[rows], whole numbers or booleans for the first axis alone: they go to the GPU, 8 bytes each
    places      any other index of NumPy's: the processor works out which numbers are meant, all their places go over

The last is slow for large arrays, and meant for the few numbers of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, to_device
from minidetect.kernels.device_math import (
    Strides,
    as_device,
    c_strides,
    compute,
    fill,
    merged,
    place,
    stretched_strides,
    where,
)
from minidetect.kernels.gpu import cuda, grid_for


@cuda.jit
def take_kernel(x, start, lengths, strides, y):
    """y = the part of x that begins at `start`."""
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] = x[start + place(i, lengths, strides)]


@cuda.jit
def put_kernel(value, value_strides, lengths, start, strides, count, y):
    """That part of y = value, which is stretched to its shape."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        y[start + place(i, lengths, strides)] = value[place(i, lengths, value_strides)]


@cuda.jit
def take_rows_kernel(x, rows, width, y):
    """Rows of `width` numbers."""
    for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
        y[i] = x[rows[i // width] * width + i % width]


@cuda.jit
def put_rows_kernel(value, value_strides, lengths, rows, width, count, y):
    """No row may be named twice: which value stays would depend on which thread is last."""
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        y[rows[i // width] * width + i % width] = value[place(i, lengths, value_strides)]


@cuda.jit
def add_rows_kernel(value, rows, width, y):
    """A row may be named twice: each sum is made at once, by one thread after the other, in any order."""
    for i in range(cuda.grid(1), value.size, cuda.gridsize(1)):
        cuda.atomic.add(y, rows[i // width] * width + i % width, value[i])


class Slice(NamedTuple):
    """A part of an array: where it begins, its own axes, and the shape that it is seen in."""

    start: int
    lengths: tuple[int, ...]
    strides: Strides
    shape: tuple[int, ...]


def as_slice(shape: tuple[int, ...], index: Any) -> Slice | None:
    """The part that an index of slices, whole numbers, None and `...` names; None for any other index."""
    index = index if isinstance(index, tuple) else (index,)
    kinds = (slice, int, np.integer, type(None), type(...))
    if not all(isinstance(i, kinds) and not isinstance(i, bool) for i in index):
        return None
    # NumPy itself says what the index means, by way of an array that has the strides but no numbers of its own.
    picture = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), shape, c_strides(shape))
    part = picture[(*index, ...)] if ... not in index else picture[index]
    start = part.__array_interface__["data"][0] - picture.__array_interface__["data"][0]
    return Slice(start, part.shape, part.strides, part.shape)


def as_rows(shape: tuple[int, ...], index: Any) -> tuple[np.ndarray, int, tuple[int, ...]]:
    """Any other index as rows of `width` numbers: (rows, width, shape of the part)."""
    if isinstance(index, DeviceArray):
        raise TypeError("an index is looked at by the processor: to_numpy(index)")
    if not isinstance(index, tuple):
        index = np.asarray(index)
        if index.size and index.dtype.kind not in "iub":
            raise IndexError(f"an index is of whole numbers or booleans, not of {index.dtype}")
        if index.ndim == 1 and shape:
            if index.dtype == bool and len(index) != shape[0]:
                raise IndexError(f"{len(index)} booleans for the {shape[0]} rows of an array of shape {shape}")
            rows = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
            if rows.size and not (rows.min() >= -shape[0] and rows.max() < shape[0]):
                raise IndexError(f"rows {rows.min()} to {rows.max()} of an array of shape {shape}")
            rows = np.where(rows < 0, rows + shape[0], rows)
            return rows, math.prod(shape[1:]), (len(rows), *shape[1:])
    places = np.arange(math.prod(shape)).reshape(shape)[index]
    return places.reshape(-1), 1, places.shape


def get(x: DeviceArray, index: Any) -> DeviceArray:
    """x[index], a copy."""
    part = as_slice(x.shape, index)
    if part is not None:
        y = empty(part.shape, x.dtype)
        if y.size:
            lengths, (strides,) = merged(part.lengths, [part.strides])
            take_kernel[grid_for(y.size)](x.flat, part.start, lengths, strides, y.flat)
        return y
    rows, width, shape = as_rows(x.shape, index)
    y = empty(shape, x.dtype)
    if y.size:
        take_rows_kernel[grid_for(y.size)](x.flat, to_device(rows).flat, width, y.flat)
    return y


def put(y: DeviceArray, index: Any, value: Any) -> None:
    """y[index] = value. Of places that the index names twice, any of their values stays."""
    value = as_device(value, y.dtype)
    value = value.copy() if value.memory is y.memory else value  # no thread shall read what another has written
    part = as_slice(y.shape, index)
    if part is not None:
        count = math.prod(part.shape)
        if count:
            value_strides = fitting_strides(value.shape, part.shape)
            lengths, (of_value, strides) = merged(part.lengths, [value_strides, part.strides])
            put_kernel[grid_for(count)](value.flat, of_value, lengths, part.start, strides, count, y.flat)
        return
    rows, width, shape = as_rows(y.shape, index)
    count = math.prod(shape)
    if count:
        lengths, (of_value,) = merged(shape, [fitting_strides(value.shape, shape)])
        put_rows_kernel[grid_for(count)](value.flat, of_value, lengths, to_device(rows).flat, width, count, y.flat)


def fitting_strides(shape: tuple[int, ...], part: tuple[int, ...]) -> Strides:
    """Raises ValueError where values of a shape cannot be stretched to that of the part."""
    if np.broadcast_shapes(shape, part) != part:
        raise ValueError(f"values of shape {shape} do not fit into a part of shape {part}")
    return stretched_strides(shape, part)


def add_at(y: DeviceArray, index: Any, value: DeviceArray) -> None:
    """np.add.at: y[index] += value, where a place that is named twice gets both."""
    part = as_slice(y.shape, index)
    if part is not None:  # no place twice
        return put(y, index, compute(np.add, get(y, index), value))
    if y.dtype not in (np.float32, np.float64, np.int32, np.int64):
        raise TypeError(f"np.add.at is not there for arrays of {y.dtype} on the GPU")
    rows, width, shape = as_rows(y.shape, index)
    value = broadcast_to(as_device(value, y.dtype), shape)
    if value.size:
        add_rows_kernel[grid_for(value.size)](value.flat, to_device(rows).flat, width, y.flat)
    return None


def transpose(x: DeviceArray, axes: Sequence[int]) -> DeviceArray:
    strides = c_strides(x.shape)
    return part_of(x, tuple(x.shape[a] for a in axes), tuple(strides[a] for a in axes))


def broadcast_to(x: DeviceArray, shape: Sequence[int]) -> DeviceArray:
    """np.broadcast_to, but a copy."""
    shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(shape)
    return x if x.shape == shape else part_of(x, shape, fitting_strides(x.shape, shape))


def part_of(x: DeviceArray, shape: tuple[int, ...], strides: Strides) -> DeviceArray:
    y = empty(shape, x.dtype)
    if y.size:
        lengths, (steps,) = merged(shape, [strides])
        take_kernel[grid_for(y.size)](x.flat, 0, lengths, steps, y.flat)
    return y


def concatenate(arrays: Sequence[DeviceArray | np.ndarray], axis: int = 0) -> DeviceArray:
    arrays, shapes = [as_device(x) for x in arrays], [x.shape for x in arrays]
    ndim = arrays[0].ndim
    fits = -ndim <= axis < ndim and all(len(s) == ndim for s in shapes)
    axis %= max(ndim, 1)
    if not fits or len({s[:axis] + s[axis + 1 :] for s in shapes}) != 1:
        raise ValueError(f"concatenate along axis {axis}: shapes {shapes} do not fit")
    shape = list(arrays[0].shape)
    shape[axis] = sum(x.shape[axis] for x in arrays)
    y = empty(tuple(shape), np.result_type(*(x.dtype for x in arrays)))
    first = 0
    for x in arrays:
        index = (slice(None),) * axis + (slice(first, first + x.shape[axis]),)
        if x.size:
            put(y, index, x)
        first += x.shape[axis]
    return y


def split(x: DeviceArray, indices: Sequence[int], axis: int = 0) -> list[DeviceArray]:
    """np.split at given places."""
    if isinstance(indices, int):
        raise TypeError("np.split of an array on the GPU takes the places to split at, not a number of parts")
    ends = [*(int(i) for i in indices), x.shape[axis]]
    before = (slice(None),) * (axis % x.ndim)
    return [get(x, (*before, slice(first, last))) for first, last in zip([0, *ends[:-1]], ends, strict=True)]


# ------------------------------------------------------------------------------------------- NumPy's functions


def like(value: float) -> Callable:
    def make(x: DeviceArray, dtype: Any = None, shape: tuple[int, ...] | None = None) -> DeviceArray:
        y = empty(x.shape if shape is None else shape, x.dtype if dtype is None else dtype)
        fill(y, value)
        return y

    return make


def empty_like(x: DeviceArray, dtype: Any = None, shape: tuple[int, ...] | None = None) -> DeviceArray:
    return empty(x.shape if shape is None else shape, x.dtype if dtype is None else dtype)


def clip(x: DeviceArray, low: Any, high: Any) -> DeviceArray:
    if low is None or high is None:
        raise TypeError("np.clip of an array on the GPU needs both bounds: take np.maximum or np.minimum")
    return compute(np.minimum, compute(np.maximum, x, low), high)


def vdot(a: DeviceArray, b: DeviceArray) -> DeviceArray:
    if a.size != b.size:
        raise ValueError(f"np.vdot needs arrays of one size, got shapes {a.shape} and {b.shape}")
    return (a.reshape(a.size) * b.reshape(b.size)).sum()


FUNCTIONS: dict[Callable, Callable] = {
    np.asarray: as_device,
    np.broadcast_to: broadcast_to,
    np.copy: lambda x: x.copy(),
    np.clip: clip,
    np.concatenate: concatenate,
    np.empty_like: empty_like,
    np.full_like: lambda x, value, dtype=None, shape=None: like(value)(x, dtype, shape),
    np.ones_like: like(1),
    np.split: split,
    np.vdot: vdot,
    np.where: where,
    np.zeros_like: like(0),
}


def apply_function(function: Callable, args: tuple, kwargs: dict) -> Any:
    """What NumPy calls for one of its functions with an array on the GPU among its arguments."""
    if function not in FUNCTIONS:
        raise TypeError(f"np.{function.__name__} is not there for arrays on the GPU: copy them with to_numpy")
    return FUNCTIONS[function](*args, **kwargs)
