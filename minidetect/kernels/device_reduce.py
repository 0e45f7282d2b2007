"""Sums, products, maxima and minima of arrays on the GPU, along any axes.

    few numbers a result    a thread for each result
    many                    a block for each result: its threads add up every so many, then pairs of threads, of pairs
    many, and few results   several blocks a result, each a part, and a second launch for the parts

The order in which numbers are added up depends on the shape alone, not on which thread is first: each run gives the
same.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import from_dtype

from minidetect.kernels.device import DeviceArray, empty, full
from minidetect.kernels.device_math import c_strides, merged, place
from minidetect.kernels.gpu import SIMULATED, cuda, grid_for

BLOCK = 4 if SIMULATED else 256  # threads that add up one sum together; a power of 2
FEW = 64  # numbers of a sum that one thread adds up alone
PART = 16 if SIMULATED else 8192  # numbers of a long sum for each block

COMBINE = {
    "sum": lambda a, b: a + b,
    "prod": lambda a, b: a * b,
    "any": lambda a, b: a or b,
    "all": lambda a, b: a and b,
    "max": lambda a, b: a if a > b or a != a else b,  # a NaN wins, to be seen
    "min": lambda a, b: a if a < b or a != a else b,
}

NOTHING = {"sum": 0, "prod": 1, "any": False, "all": True}  # of no numbers
WIDER = {np.dtype(t): np.int64 for t in (bool, np.int32)} | {np.dtype(np.uint8): np.uint64}


@functools.cache
def reduce_kernels(kind: str) -> tuple[Any, Any]:
    """A thread for each result, and a block for each part of each result; x is read at two places added up."""
    combine = cuda.jit(device=True)(COMBINE[kind])

    @cuda.jit
    def by_thread(x, lengths, strides, inner_lengths, inner_strides, count, y):
        for i in range(cuda.grid(1), y.size, cuda.gridsize(1)):
            start = place(i, lengths, strides)
            total = x[start]
            for k in range(1, count):
                total = combine(total, x[start + place(k, inner_lengths, inner_strides)])
            y[i] = total

    return by_thread, functools.cache(lambda dtype: block_kernel(combine, dtype))


def block_kernel(combine: Any, dtype: np.dtype) -> Any:
    kind = from_dtype(dtype)

    @cuda.jit
    def by_block(x, lengths, strides, inner_lengths, inner_strides, count, parts, y):
        """Each thread adds up every BLOCK-th number of its part, then pairs of threads, of pairs, and so on."""
        totals = cuda.shared.array(BLOCK, kind)
        t, block = cuda.threadIdx.x, cuda.blockIdx.x
        part = block % parts
        first, last = part * count // parts, (part + 1) * count // parts
        start = place(block // parts, lengths, strides)
        if first + t < last:
            total = x[start + place(first + t, inner_lengths, inner_strides)]
            for k in range(first + t + BLOCK, last, BLOCK):
                total = combine(total, x[start + place(k, inner_lengths, inner_strides)])
            totals[t] = total
        cuda.syncthreads()
        filled = min(BLOCK, last - first)
        half = BLOCK // 2
        while half > 0:
            if t < half and t + half < filled:
                totals[t] = combine(totals[t], totals[t + half])
            cuda.syncthreads()
            half //= 2
        if t == 0:
            y[block] = totals[0]

    return by_block


def reduced(kind: str, x: DeviceArray, axis: Any, keepdims: bool) -> DeviceArray:
    """The sum, maximum or minimum along axes (None: all)."""
    axes = range(x.ndim) if axis is None else [int(a) for a in np.atleast_1d(axis)]
    named = [a % x.ndim if -x.ndim <= a < x.ndim else refuse_axis(a, x) for a in axes]
    axes = set(named)
    if len(axes) < len(named):
        raise ValueError(f"axis {axis} of an array of shape {x.shape}: one is named twice")
    shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    count = math.prod(n for a, n in enumerate(x.shape) if a in axes)
    final = shape if keepdims else tuple(n for a, n in enumerate(x.shape) if a not in axes)
    if kind in ("sum", "prod") and x.dtype in WIDER:  # a sum of small whole numbers outgrows their type
        x = x.astype(WIDER[x.dtype])
    if x.size == 0:
        if math.prod(shape) and kind not in NOTHING:
            raise ValueError(f"the {kind} of no numbers: shape {x.shape}, axis {axis}")
        return full(final, NOTHING.get(kind, 0), x.dtype)
    if not axes:
        return x.copy()
    strides = c_strides(x.shape)
    lengths, (outer,) = merged(shape, [[0 if a in axes else s for a, s in enumerate(strides)]])
    inner_shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
    inner_lengths, (inner,) = merged(inner_shape, [strides])
    results = math.prod(shape)
    by_thread, by_block = reduce_kernels(kind)
    if count <= FEW:
        y = empty(final, x.dtype)
        by_thread[grid_for(results)](x.flat, lengths, outer, inner_lengths, inner, count, y.flat)
        return y
    parts = 1 if results >= 1024 else -(-count // PART)
    y = empty((results, parts), x.dtype)
    grid = (results * parts, BLOCK)
    by_block(x.dtype)[grid](x.flat, lengths, outer, inner_lengths, inner, count, parts, y.flat)
    return y.reshape(final) if parts == 1 else reduced(kind, y, 1, False).reshape(final)


def refuse_axis(axis: int, x: DeviceArray) -> int:
    raise ValueError(f"axis {axis} of an array of shape {x.shape}")
