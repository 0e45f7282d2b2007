"""Depthwise 3x3 convolution of float32 at the speed of the memory: the sums of depthwise.py in vectors.

9 multiply-adds a number are so few that a pass over memory takes as long. LLVM's own vectors of the plain loops
reach half of this: they read each pixel nine times. Here
    - a band of rows is copied into a buffer with its padding around it, small enough for the first-level cache:
      then no tap needs a check, and every output is the same straight line of 9 multiply-adds;
    - a row of pixels is loaded once, as three vectors, and serves the three rows of outputs that see it;
    - bias and activation follow while a sum is in its register.

Letters: N images, C channels, H W input size, PH PW output size. A plane is one channel of one image.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from minidetect.kernels.dispatch import get_num_threads, kernel, parallel_kernel, prange
from minidetect.kernels.simd import LANES, fma, load, splat, store, where_positive

BAND_BYTES = 24 << 10  # a band of padded rows stays in a first-level cache of 32 KiB


def _pick(picks):
    """A function of two vectors that makes one of their lanes, counted through both: `picks` of them."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(picks))

    @intrinsic
    def pick(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return builder.shuffle_vector(*args, lanes)
        return a(a, b), codegen

    return pick


_even = _pick(range(0, 2 * LANES, 2))  # of 2 * LANES numbers, those at 0, 2, 4, ...
_odd = _pick(range(1, 2 * LANES, 2))
_zip_low = _pick(k // 2 + k % 2 * LANES for k in range(LANES))  # a0 b0 a1 b1 ...
_zip_high = _pick(LANES // 2 + k // 2 + k % 2 * LANES for k in range(LANES))


@kernel
def fill_band(x, start, height, width, first, rows, padding, spread, pitch, band):
    """Copy `rows` rows of a padded plane, from padded row `first` on, into `band`. x[start] is its first pixel.

    spread: 2 puts a zero after each pixel and a row of zeros after each row, for the input gradient.
    The padding beside the columns is never written: `band` must come zeroed.
    """
    zeros = splat(np.float32(0))
    for r in range(rows):
        at = r * pitch
        yy = first + r - padding
        source = start + yy // spread * width
        if yy < 0 or yy >= height * spread or yy % spread:
            for j in range(0, pitch, LANES):
                store(band, at + j, zeros)
        elif width < LANES:
            for k in range(width):
                band[at + padding + k * spread] = x[source + k]
        else:
            for block in range(0, width, LANES):
                k = min(block, width - LANES)  # the last vector overlaps the one before
                pixels = load(x, source + k)
                if spread == 1:
                    store(band, at + padding + k, pixels)
                else:
                    store(band, at + padding + 2 * k, _zip_low(pixels, zeros))
                    store(band, at + padding + 2 * k + LANES, _zip_high(pixels, zeros))


@kernel
def _three_taps(band, p, stride):
    """What the three taps of a filter's row see, for the LANES outputs whose first tap is at band[p]."""
    if stride == 1:
        return load(band, p), load(band, p + 1), load(band, p + 2)
    low, high = load(band, p), load(band, p + LANES)
    return _even(low, high), _odd(low, high), _even(load(band, p + 2), load(band, p + 2 + LANES))


@kernel
def _row_sum(a, b, c, w0, w1, w2, total):
    return fma(w2, c, fma(w1, b, fma(w0, a, total)))


@kernel
def filter_band(band, pitch, stride, w, c, bias, slope, rows, span, out, at):
    """The rows of a plane that a band covers: `rows` rows of `span` outputs into the flat `out` from `at` on.

    span is at least LANES; the last vector of a row overlaps the one before. With stride 1 a row of pixels
    serves three rows of outputs at once: y2 gets its last filter row, y1 its second, y0 its first.
    """
    w00, w01, w02 = splat(w[c, 0, 0]), splat(w[c, 0, 1]), splat(w[c, 0, 2])
    w10, w11, w12 = splat(w[c, 1, 0]), splat(w[c, 1, 1]), splat(w[c, 1, 2])
    w20, w21, w22 = splat(w[c, 2, 0]), splat(w[c, 2, 1]), splat(w[c, 2, 2])
    b, a = splat(bias[c]), splat(slope[c])
    for block in range(0, span, LANES):
        j = min(block, span - LANES)
        q = at + j
        if stride == 1:
            t0, t1, t2 = _three_taps(band, j, 1)
            y1 = _row_sum(t0, t1, t2, w00, w01, w02, b)
            t0, t1, t2 = _three_taps(band, j + pitch, 1)
            y2 = _row_sum(t0, t1, t2, w10, w11, w12, y1)
            y1 = _row_sum(t0, t1, t2, w00, w01, w02, b)
            for i in range(rows):
                t0, t1, t2 = _three_taps(band, j + (i + 2) * pitch, 1)
                y = _row_sum(t0, t1, t2, w20, w21, w22, y2)
                y2 = _row_sum(t0, t1, t2, w10, w11, w12, y1)
                y1 = _row_sum(t0, t1, t2, w00, w01, w02, b)
                store(out, q + i * span, where_positive(y, y, a * y))
        else:
            t0, t1, t2 = _three_taps(band, 2 * j, 2)
            for i in range(rows):
                y = _row_sum(t0, t1, t2, w00, w01, w02, b)
                t0, t1, t2 = _three_taps(band, 2 * j + (2 * i + 1) * pitch, 2)
                y = _row_sum(t0, t1, t2, w10, w11, w12, y)
                t0, t1, t2 = _three_taps(band, 2 * j + (2 * i + 2) * pitch, 2)
                y = _row_sum(t0, t1, t2, w20, w21, w22, y)
                store(out, q + i * span, where_positive(y, y, a * y))


@parallel_kernel
def _filter_planes(x, w, bias, slope, stride, padding, spread, pitch, rows, bands, narrow, y):
    """x (planes, H, W), w (C, 3, 3) -> y (planes, PH, PW). bands, narrow: buffers, a row for each share."""
    planes, height, width = x.shape
    out_h, out_w = y.shape[1:]
    pixels, flat = x.reshape(-1), y.reshape(-1)
    span = max(out_w, LANES)
    for share in prange(len(bands)):
        band = bands[share]
        for plane in range(share * planes // len(bands), (share + 1) * planes // len(bands)):
            for top in range(0, out_h, rows):
                count = min(rows, out_h - top)
                fill_band(
                    pixels, plane * height * width, height, width,
                    top * stride, (count - 1) * stride + 3, padding, spread, pitch, band,
                )  # fmt: skip
                out, at = (flat, (plane * out_h + top) * out_w) if out_w >= LANES else (narrow[share], 0)
                filter_band(band, pitch, stride, w, plane % len(w), bias, slope, count, span, out, at)
                if out_w < LANES:  # a whole vector would run into the next plane, which another thread may own
                    for i in range(count):
                        for j in range(out_w):
                            y[plane, top + i, j] = out[i * span + j]


@kernel
def _correlate_band(band, pitch, stride, gradient, g_pitch, rows, sums):
    """sums[t*LANES ...] += the gradients of a band times what tap t of each output saw, lane by lane."""
    s00, s01, s02 = load(sums, 0), load(sums, LANES), load(sums, 2 * LANES)
    s10, s11, s12 = load(sums, 3 * LANES), load(sums, 4 * LANES), load(sums, 5 * LANES)
    s20, s21, s22 = load(sums, 6 * LANES), load(sums, 7 * LANES), load(sums, 8 * LANES)
    zeros = splat(np.float32(0))
    for j in range(0, g_pitch, LANES):
        if stride == 1:  # pixel row i is seen by the filter's first row in output row i, its second in i - 1, ...
            g1 = g2 = zeros
            for i in range(rows + 2):
                g = load(gradient, i * g_pitch + j)
                a, b, c = _three_taps(band, j + i * pitch, 1)
                s00, s01, s02 = fma(g, a, s00), fma(g, b, s01), fma(g, c, s02)
                s10, s11, s12 = fma(g1, a, s10), fma(g1, b, s11), fma(g1, c, s12)
                s20, s21, s22 = fma(g2, a, s20), fma(g2, b, s21), fma(g2, c, s22)
                g1, g2 = g, g1
        else:
            for i in range(rows):
                g = load(gradient, i * g_pitch + j)
                a, b, c = _three_taps(band, 2 * j + 2 * i * pitch, 2)
                s00, s01, s02 = fma(g, a, s00), fma(g, b, s01), fma(g, c, s02)
                a, b, c = _three_taps(band, 2 * j + (2 * i + 1) * pitch, 2)
                s10, s11, s12 = fma(g, a, s10), fma(g, b, s11), fma(g, c, s12)
                a, b, c = _three_taps(band, 2 * j + (2 * i + 2) * pitch, 2)
                s20, s21, s22 = fma(g, a, s20), fma(g, b, s21), fma(g, c, s22)
    store(sums, 0, s00)
    store(sums, LANES, s01)
    store(sums, 2 * LANES, s02)
    store(sums, 3 * LANES, s10)
    store(sums, 4 * LANES, s11)
    store(sums, 5 * LANES, s12)
    store(sums, 6 * LANES, s20)
    store(sums, 7 * LANES, s21)
    store(sums, 8 * LANES, s22)


@parallel_kernel
def _correlate_planes(gy, x, stride, padding, pitch, rows, bands, g_pitch, gradients, sums, gw):
    """gy (N, C, PH, PW), x (N, C, H, W) -> gw (C, 9).

    bands, gradients: zeroed buffers, a row for each share; sums (C, 9*LANES): zeros.
    """
    images, channels, out_h, out_w = gy.shape
    height, width = x.shape[2:]
    pixels, flat = x.reshape(-1), gy.reshape(-1)
    for share in prange(len(bands)):
        band, gradient = bands[share], gradients[share]
        first, last = share * channels // len(bands), (share + 1) * channels // len(bands)
        for n in range(images):  # images outside, channels inside: the order in memory, 1.5 times as fast
            for c in range(first, last):
                plane = n * channels + c
                for top in range(0, out_h, rows):
                    count = min(rows, out_h - top)
                    fill_band(
                        pixels, plane * height * width, height, width,
                        top * stride, (count - 1) * stride + 3, padding, 1, pitch, band,
                    )  # fmt: skip
                    fill_band(flat, plane * out_h * out_w, out_h, out_w, top, count, 0, 1, g_pitch, gradient)
                    gradient[count * g_pitch : (count + 2) * g_pitch] = 0
                    _correlate_band(band, pitch, stride, gradient, g_pitch, count, sums[c])
        for c in range(first, last):
            for t in range(9):
                gw[c, t] = sums[c, t * LANES : (t + 1) * LANES].sum()


def band_pitch(out_w: int, width: int, stride: int) -> int:
    """Floats of a band's row: a padded row of `width`, and all that the taps of the last vector reach."""
    reach = stride * -(-out_w // LANES) * LANES + 2
    return -(-max(reach, width) // LANES) * LANES


def _band_shape(out: tuple[int, int], width: int, stride: int) -> tuple[int, int, int]:
    """(floats a row, output rows, floats) of a band for outputs `out` from padded rows of `width`."""
    pitch = band_pitch(out[1], width, stride)
    rows = max(4, min((BAND_BYTES // (4 * pitch) - 2) // stride, out[0]))
    return pitch, rows, ((rows - 1) * stride + 3) * pitch


def _shares(tasks: int) -> int:
    """How many parts the planes are cut into: each has buffers of its own. More than threads, to even them out."""
    threads = get_num_threads()
    return min(tasks, 1 if threads == 1 else 4 * threads)


def forward(
    x: np.ndarray, w: np.ndarray, bias: np.ndarray, slope: np.ndarray, stride: int, padding: int, spread: int,
    y: np.ndarray,
) -> None:
    """x (N, C, H, W), w (C, 3, 3) -> y (N, C, PH, PW). stride 1 or 2; spread: see `fill_band`."""
    planes, out = x.shape[0] * x.shape[1], y.shape[2:]
    pitch, rows, floats = _band_shape(out, max(x.shape[3], LANES) * spread + 2 * padding, stride)
    shares = _shares(planes)
    bands = np.zeros((shares, floats), np.float32)
    narrow = np.empty((shares, rows * LANES), np.float32)
    _filter_planes(
        x.reshape(planes, *x.shape[2:]), w, bias, slope, stride, padding, spread, pitch, rows, bands, narrow,
        y.reshape(planes, *out),
    )


def weight_gradient(gy: np.ndarray, x: np.ndarray, stride: int, padding: int, gw: np.ndarray) -> None:
    """gy (N, C, PH, PW), x (N, C, H, W) -> gw (C, 1, 3, 3)."""
    channels, out = x.shape[1], gy.shape[2:]
    pitch, rows, floats = _band_shape(out, x.shape[3] + 2 * padding, stride)
    g_pitch = -(-out[1] // LANES) * LANES
    shares = _shares(channels)
    bands = np.zeros((shares, floats), np.float32)
    gradients = np.zeros((shares, (rows + 2) * g_pitch), np.float32)
    sums = np.zeros((channels, 9 * LANES), np.float32)
    _correlate_planes(gy, x, stride, padding, pitch, rows, bands, g_pitch, gradients, sums, gw.reshape(channels, 9))
