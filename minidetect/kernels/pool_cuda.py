"""Maximum and average pooling on the GPU: the same functions as in pool.py, for arrays that are there.

Letters: N images, C channels, H W input size, PH PW output size. The kernels see N*C planes.

How the work is dealt out. The processor goes along rows, so that its vector registers are filled with columns, and
keeps a strip of scratch memory for each of a few threads. Here a thread makes one number, a window's or, in the
gradients, a pixel's, and reads the few numbers that it is made of. That reads pixels several times over where windows
overlap, but from the cache: the neighbour in the same row, which is another thread of the same warp, has just asked for
them. No thread writes what another writes, so every result is the same in every run.

A gradient is turned round for that. pool.py walks over the windows and adds to their pixels (it scatters), which many
threads at once could not do without getting in each other's way. Here each pixel asks the windows that contain it
whether it was their winner (it gathers): ceil(kernel / stride) ** 2 reads at most, one for windows side by side.

Threads stand in blocks of columns x rows x planes (`grid_of_planes`), and there are as many as there are numbers to
make: no thread divides its number by H and W to learn which pixel is its own, nor loops over several, for which it
would divide too. A GPU has no instruction for dividing whole numbers and makes it of many others, where a window of
2x2 is 4 reads and 4 comparisons. The same geometry (`pixels_under`), order of ties (`fold`) and table (`shares`) as in
pool.py.

Left out: loops of their own for 2x2 and 3x3 windows, several outputs a thread, vector loads.
"""

from __future__ import annotations

import functools

import numpy as np

from minidetect.kernels.device import DeviceArray, empty, to_device, zeros
from minidetect.kernels.gpu import SIMULATED, THREADS, cuda
from minidetect.kernels.pool import fold, larger, pixels_under, pooled_size, shares

WARP = 2 if SIMULATED else 32  # threads that run in step, and read side by side


def grid_of_planes(planes: int, height: int, width: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Blocks and threads for a kernel in which each thread asks `my_pixel` which one is its own.

    A block is as wide as the map, up to a warp, and as high, and takes several planes where these are small: 32x8
    pixels of a large map, four planes of 7x7.
    """
    x = min(_next_power_of_two(width), WARP)
    y = min(_next_power_of_two(height), THREADS // x)
    z = min(THREADS // (x * y), 64)  # the most that CUDA allows
    return (-(-planes // z), -(-height // y), -(-width // x)), (x, y, z)  # of blocks, the first may be 2**31


@cuda.jit(device=True)
def my_pixel():
    """This thread's plane, row and column; it may lie outside at the last blocks."""
    return (
        np.int32(cuda.blockIdx.x * cuda.blockDim.z + cuda.threadIdx.z),
        np.int32(cuda.blockIdx.y * cuda.blockDim.y + cuda.threadIdx.y),
        np.int32(cuda.blockIdx.z * cuda.blockDim.x + cuda.threadIdx.x),
    )


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@cuda.jit(device=True)
def windows_over(pixel, kernel, stride, padding, count):
    """The windows [first, last) of an axis that contain a pixel: the inverse of `pixels_under`."""
    at = pixel + padding
    last = np.int32(np.uint32(at) // np.uint32(stride)) + 1  # in 32 bits, for fewer instructions
    first = last
    while first > 0 and (first - 1) * stride + kernel > at:
        first -= 1
    return first, min(last, count)


# --------------------------------------------------------------------------------------- maximum, with winners


@cuda.jit
def _max_pool(x, kernel, stride, padding, y, argmax):
    """x (planes, H, W) -> y, argmax (planes, PH, PW). Columns before rows: the leftmost wins, then the topmost."""
    plane, i, j = my_pixel()
    if plane >= y.shape[0] or i >= y.shape[1] or j >= y.shape[2]:
        return
    top, bottom = pixels_under(i, kernel, stride, padding, x.shape[1])
    left, right = pixels_under(j, kernel, stride, padding, x.shape[2])
    best, place = x[plane, top, left], top * x.shape[2] + left
    for xx in range(left, right):
        for yy in range(top, bottom):
            best, place = fold(x[plane, yy, xx], yy * x.shape[2] + xx, best, place)
    y[plane, i, j], argmax[plane, i, j] = best, place


@cuda.jit
def _max_pool_backward(gy, argmax, kernel, stride, padding, gx):
    """gy, argmax (planes, PH, PW), gx (planes, H, W). Sums are in the order of the windows, as on the processor."""
    plane, i, j = my_pixel()
    if plane >= gx.shape[0] or i >= gx.shape[1] or j >= gx.shape[2]:
        return
    top, bottom = windows_over(i, kernel, stride, padding, gy.shape[1])
    left, right = windows_over(j, kernel, stride, padding, gy.shape[2])
    here, total = i * gx.shape[2] + j, gx.dtype.type(0)
    for a in range(top, bottom):
        for b in range(left, right):
            if argmax[plane, a, b] == here:
                total += gy[plane, a, b]
    gx[plane, i, j] = total


# ------------------------------------------------------------------------------------ maximum, values alone


@cuda.jit
def _max_pool_values(x, kernel, stride, padding, y):
    """`_max_pool` for inference, where no winners are written."""
    plane, i, j = my_pixel()
    if plane >= y.shape[0] or i >= y.shape[1] or j >= y.shape[2]:
        return
    top, bottom = pixels_under(i, kernel, stride, padding, x.shape[1])
    left, right = pixels_under(j, kernel, stride, padding, x.shape[2])
    best = x[plane, top, left]
    for yy in range(top, bottom):
        for xx in range(left, right):
            best = larger(x[plane, yy, xx], best)
    y[plane, i, j] = best


# ------------------------------------------------------------------------------------------------- average


@cuda.jit
def _avg_pool(x, kernel, stride, padding, down, across, y):
    """down (PH,), across (PW,): 1 / the number of real pixels under a window, so that nobody divides."""
    plane, i, j = my_pixel()
    if plane >= y.shape[0] or i >= y.shape[1] or j >= y.shape[2]:
        return
    top, bottom = pixels_under(i, kernel, stride, padding, x.shape[1])
    left, right = pixels_under(j, kernel, stride, padding, x.shape[2])
    total = y.dtype.type(0)
    for yy in range(top, bottom):
        for xx in range(left, right):
            total += x[plane, yy, xx]
    y[plane, i, j] = total * (down[i] * across[j])


@cuda.jit
def _avg_pool_backward(gy, kernel, stride, padding, down, across, gx):
    """The transpose of `_avg_pool`: each pixel adds up its share of the windows that contain it."""
    plane, i, j = my_pixel()
    if plane >= gx.shape[0] or i >= gx.shape[1] or j >= gx.shape[2]:
        return
    top, bottom = windows_over(i, kernel, stride, padding, gy.shape[1])
    left, right = windows_over(j, kernel, stride, padding, gy.shape[2])
    total = gx.dtype.type(0)
    for a in range(top, bottom):
        for b in range(left, right):
            total += gy[plane, a, b] * (down[a] * across[b])
    gx[plane, i, j] = total


# ------------------------------------------------------------------------------------ arrays in, arrays out


def max_pool_forward(
    x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> tuple[DeviceArray, DeviceArray]:
    """x (N, C, H, W) -> y (N, C, PH, PW) and the winners' indices within their planes, int32."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    argmax = empty(y.shape, np.int32)
    if y.size:
        planes = _planes(y)
        _max_pool[grid_of_planes(*planes.shape)](_planes(x), kernel, stride, padding, planes, _planes(argmax))
    return y, argmax


def max_pool_values(x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> DeviceArray:
    """`max_pool_forward` where no backward will follow: x (N, C, H, W) -> y (N, C, PH, PW)."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    if y.size:
        planes = _planes(y)
        _max_pool_values[grid_of_planes(*planes.shape)](_planes(x), kernel, stride, padding, planes)
    return y


def max_pool_backward(
    gy: DeviceArray, argmax: DeviceArray, x_shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> DeviceArray:
    """gy, argmax (N, C, PH, PW) -> gx (N, C, H, W): each output's gradient goes to the pixel that won."""
    if gy.size == 0:
        return zeros(x_shape, gy.dtype)
    gx = empty(x_shape, gy.dtype)
    planes = _planes(gx)
    _max_pool_backward[grid_of_planes(*planes.shape)](_planes(gy), _planes(argmax), kernel, stride, padding, planes)
    return gx


def avg_pool_forward(x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> DeviceArray:
    """x (N, C, H, W) -> y (N, C, PH, PW), each the mean of its window's real pixels."""
    y = _empty_output(x, kernel, stride, padding, ceil_mode)
    if y.size:
        planes, settings = _planes(y), (kernel, stride, padding)
        down, across = (_shares(y.shape[k], x.shape[k], *settings, y.dtype) for k in (2, 3))
        _avg_pool[grid_of_planes(*planes.shape)](_planes(x), *settings, down.nd, across.nd, planes)
    return y


def avg_pool_backward(
    gy: DeviceArray, x_shape: tuple[int, ...], kernel: int, stride: int, padding: int
) -> DeviceArray:
    """gy (N, C, PH, PW) -> gx (N, C, H, W): each mean's gradient is shared by its real pixels."""
    if gy.size == 0:
        return zeros(x_shape, gy.dtype)
    gx = empty(x_shape, gy.dtype)
    planes, settings = _planes(gx), (kernel, stride, padding)
    down, across = (_shares(gy.shape[k], x_shape[k], *settings, gy.dtype) for k in (2, 3))
    _avg_pool_backward[grid_of_planes(*planes.shape)](_planes(gy), *settings, down.nd, across.nd, planes)
    return gx


def _empty_output(x: DeviceArray, kernel: int, stride: int, padding: int, ceil_mode: bool) -> DeviceArray:
    sizes = [pooled_size(n, kernel, stride, padding, ceil_mode) for n in x.shape[2:]]
    return empty((*x.shape[:2], *sizes), x.dtype)


def _planes(x: DeviceArray):
    """(N, C, H, W) -> what kernels get, (N*C, H, W)."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]).nd


@functools.lru_cache(maxsize=64)  # or each call would wait for two small copies
def _shares(count: int, size: int, kernel: int, stride: int, padding: int, dtype: np.dtype) -> DeviceArray:
    """`shares` on the GPU."""
    return to_device(shares(count, size, kernel, stride, padding, dtype))
