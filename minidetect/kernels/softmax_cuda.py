"""Softmax and its logarithm on the GPU, along any axis: x is read as (O, K, I), K classes along the axis.

O: all axes before it, flattened, I: all after it; a row is the K numbers of one o and one i.

Where a row is short (2 classes, 21), a thread does a whole row, as the processor does, but 10,000 rows at once; its
second and third pass over the row find it in the cache. Where a row is longer than SHORT and than I, a whole block
takes it: each thread every 256th number, and maxima and sums are those of the block, by a tree in shared memory.

Every exponential is computed twice, once for the sum and once for y: to keep it would be one number more to write and
to read again. Sums are in the type of x, by a tree where a row is long. Left out: more than 2**32 rows.
"""

from __future__ import annotations

import math

import numpy as np

from minidetect.kernels.device import DeviceArray, empty
from minidetect.kernels.gpu import MOST_BLOCKS, SIMULATED, THREADS, cuda, grid_for

SHORT = 8 if SIMULATED else 64  # rows of more classes are for a whole block, each


@cuda.jit
def _softmax(x, y):
    """x, y (O, K, I). A block is 1 thread wide and 256 rows high, or 256 threads wide and 1 row high."""
    room = cuda.shared.array(THREADS, x.dtype)
    t, width, classes = cuda.threadIdx.x, cuda.blockDim.x, x.shape[1]
    r = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    while r < len(x) * x.shape[2]:
        o, i = _place(r, x.shape[2])
        largest = _largest_of_row(x, o, i, room)
        share = x.dtype.type(1) / _sum_of_exponentials(x, o, i, largest, room)
        k = t
        while k < classes:
            y[o, k, i] = math.exp(x[o, k, i] - largest) * share
            k += width
        r += cuda.gridDim.x * cuda.blockDim.y


@cuda.jit
def _log_softmax(x, y):
    room = cuda.shared.array(THREADS, x.dtype)
    t, width, classes = cuda.threadIdx.x, cuda.blockDim.x, x.shape[1]
    r = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    while r < len(x) * x.shape[2]:
        o, i = _place(r, x.shape[2])
        largest = _largest_of_row(x, o, i, room)
        amount = x.dtype.type(math.log(_sum_of_exponentials(x, o, i, largest, room)))
        k = t
        while k < classes:
            y[o, k, i] = (x[o, k, i] - largest) - amount
            k += width
        r += cuda.gridDim.x * cuda.blockDim.y


@cuda.jit
def _softmax_backward(gy, y, gx):
    room = cuda.shared.array(THREADS, y.dtype)
    t, width, classes = cuda.threadIdx.x, cuda.blockDim.x, y.shape[1]
    r = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    while r < len(y) * y.shape[2]:
        o, i = _place(r, y.shape[2])
        dot = y.dtype.type(0)
        k = t
        while k < classes:
            dot += gy[o, k, i] * y[o, k, i]
            k += width
        dot = _sum_of_row(dot, room)
        k = t
        while k < classes:
            gx[o, k, i] = y[o, k, i] * (gy[o, k, i] - dot)
            k += width
        r += cuda.gridDim.x * cuda.blockDim.y


@cuda.jit
def _log_softmax_backward(gy, y, gx):
    """y: the logarithms."""
    room = cuda.shared.array(THREADS, y.dtype)
    t, width, classes = cuda.threadIdx.x, cuda.blockDim.x, y.shape[1]
    r = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    while r < len(y) * y.shape[2]:
        o, i = _place(r, y.shape[2])
        total = y.dtype.type(0)
        k = t
        while k < classes:
            total += gy[o, k, i]
            k += width
        total = _sum_of_row(total, room)
        k = t
        while k < classes:
            gx[o, k, i] = gy[o, k, i] - math.exp(y[o, k, i]) * total
            k += width
        r += cuda.gridDim.x * cuda.blockDim.y


# ------------------------------------------------------------------------------ what a row's threads find together


@cuda.jit(device=True)
def _place(r, inner):
    """The o and the i of row r. Numbers of 32 bits are divided by fewer instructions than those of 64."""
    return np.uint32(r) // np.uint32(inner), np.uint32(r) % np.uint32(inner)


@cuda.jit(device=True)
def _largest_of_row(x, o, i, room):
    """Where a row has a NaN, its largest may be another number: exp and the sum carry the NaN on."""
    largest = x.dtype.type(-np.inf)
    k = cuda.threadIdx.x
    while k < x.shape[1]:
        largest = max(largest, x[o, k, i])
        k += cuda.blockDim.x
    if cuda.blockDim.x == 1:
        return largest
    t = cuda.threadIdx.x
    cuda.syncthreads()
    room[t] = largest
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            room[t] = max(room[t], room[t + half])
        cuda.syncthreads()
        half //= 2
    return room[0]


@cuda.jit(device=True)
def _sum_of_exponentials(x, o, i, largest, room):
    total = x.dtype.type(0)
    k = cuda.threadIdx.x
    while k < x.shape[1]:
        total += math.exp(x[o, k, i] - largest)
        k += cuda.blockDim.x
    return _sum_of_row(total, room)


@cuda.jit(device=True)
def _sum_of_row(value, room):
    """The sum of the values of all threads of a row, for all of them. room: shared, a number for each."""
    if cuda.blockDim.x == 1:
        return value
    t = cuda.threadIdx.x
    cuda.syncthreads()  # until nobody reads what was there before
    room[t] = value
    cuda.syncthreads()
    half = THREADS // 2
    while half > 0:
        if t < half:
            room[t] += room[t + half]
        cuda.syncthreads()
        half //= 2
    return room[0]


# ------------------------------------------------------------------------------------ arrays in, arrays out


def softmax_forward(x: DeviceArray, axis: int) -> DeviceArray:
    """exp(x_i) / sum_j exp(x_j) along `axis`."""
    return _run(_softmax, axis, x)


def log_softmax_forward(x: DeviceArray, axis: int) -> DeviceArray:
    """x_i - log sum_j exp(x_j) along `axis`, without ever forming a probability that rounds to 0."""
    return _run(_log_softmax, axis, x)


def softmax_backward(gy: DeviceArray, y: DeviceArray, axis: int) -> DeviceArray:
    """gx_j = y_j * (gy_j - sum_i gy_i * y_i), with y the softmax."""
    return _run(_softmax_backward, axis, gy, y)


def log_softmax_backward(gy: DeviceArray, y: DeviceArray, axis: int) -> DeviceArray:
    """gx_j = gy_j - exp(y_j) * sum_i gy_i, with y the logarithm of the softmax."""
    return _run(_log_softmax_backward, axis, gy, y)


def _run(kernel: object, axis: int, *inputs: DeviceArray) -> DeviceArray:
    """A result like the last of the inputs, all of them read as (O, K, I)."""
    shape = inputs[-1].shape
    axis = range(len(shape))[axis]  # -1 is the last; one that isn't there is an IndexError
    if shape[axis] == 0:
        raise ValueError(f"softmax along axis {axis} of {shape}: there is nothing to share 1 out among")
    out = empty(shape, inputs[-1].dtype)
    if out.size == 0:
        return out
    outer, classes, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if classes > SHORT and classes > inner:
        launch = min(outer * inner, MOST_BLOCKS), (THREADS, 1)
    else:
        launch = grid_for(outer * inner)[0], (1, THREADS)
    kernel[launch](*(a.reshape(outer, classes, inner).nd for a in (*inputs, out)))
    return out
