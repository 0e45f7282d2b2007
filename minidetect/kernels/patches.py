"""A picture as a network wants it: colour planes of a whole image, and many patches cut out of its pyramid.

    image_planes    (H, W, 3) uint8 -> (3, H, W) float32
    cut_patches     N boxes of several levels -> (N / L, 3, S, S, L) float32, L patches side by side

    N, S    boxes, side of a patch in pixels
    L       patches side by side: LANES, as many as a vector of this machine holds (16 with AVX-512)

Both subtract the mean colour and multiply by a scale on the way, so that no value is touched twice. The layout
is for lanes.py, where one vector instruction does the same to L patches. `crop_resize` in resize.py gives the
same numbers, for one level and with the channels last.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import kernel
from minidetect.kernels.simd import LANES

CHUNK = 32  # values of a row that are blended in one go; 16 takes half as long again, 48 is no faster
PADDING = 64  # bytes after the last row that `cut_patches` may read (and multiplies by 0, or never uses)


def image_planes(image: np.ndarray, mean: np.ndarray, scale: float) -> np.ndarray:
    """(image - mean) * scale, channels first: (H, W, 3) uint8 -> (3, H, W) float32. mean: (3,)."""
    planes = np.empty((3, *image.shape[:2]), np.float32)
    _planes(np.ascontiguousarray(image), np.asarray(mean, np.float32), np.float32(scale), planes)
    return planes


@kernel
def _planes(image, mean, scale, planes):
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            for c in range(3):
                planes[c, i, j] = (np.float32(image[i, j, c]) - mean[c]) * scale


def cut_patches(
    pixels: np.ndarray, starts: np.ndarray, sizes: np.ndarray, boxes: np.ndarray, side: int, mean: np.ndarray,
    scale: float, lanes: int = LANES,
) -> np.ndarray:
    """Cut each box out of its level, resize it to side x side bilinearly, and normalise.

    pixels: (n,) uint8, the levels (H, W, 3) one after the other, then a row and PADDING bytes more.
    starts, sizes: (N,) int64, where each box's level starts, and (N, 2) int64, its (height, width).
    boxes: (N, 4) float32 in pixels of that level, finite; they may reach outside, where the image is black.
    Returns (ceil(N / L), 3, side, side, L) float32 with L = `lanes`: patch n is in lane n % L of block n // L;
    lanes without a patch are 0. Sample points as in resize.py: the centres of the patch's pixels.
    """
    n = len(boxes)
    out = np.empty((-(-n // lanes), 3, side, side, lanes), np.float32)
    if n % lanes:
        out[-1] = 0
    shape = (lanes, 2, side)
    room = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty((lanes, 2, 2), np.int64)
    row = np.empty(3 * int(sizes[:, 1].max(initial=0)) + 3 + CHUNK, np.float32)
    black = np.multiply(mean, -scale, dtype=np.float32)
    _cut(pixels, starts, sizes, boxes, black, np.float32(scale), *room, row, out)
    return out


@kernel
def _cut(pixels, starts, sizes, boxes, black, scale, first, weight, inside, row, out):
    """The loops of `cut_patches`: for each block, one row after the other of all its L patches.

    first, weight (L, 2, S): see `_sample`, of rows and of columns. inside (L, 2, 2): the range of outputs
    inside the image. row: room for the stretch of image columns under one row of a patch.
    """
    for block in range(out.shape[0]):
        begin = block * out.shape[4]
        end = min(begin + out.shape[4], boxes.shape[0])
        for n in range(begin, end):
            for axis in range(2):  # 0: rows, y1 to y2; 1: columns, x1 to x2
                low, high, length = boxes[n, 1 - axis], boxes[n, 3 - axis], sizes[n, axis]
                lane = n - begin
                _sample(low, high, length, first[lane, axis], weight[lane, axis], inside[lane, axis])
        for i in range(out.shape[2]):
            _cut_rows(
                pixels, starts[begin:end], sizes[begin:end, 1], i, first, weight, inside, black, scale, row,
                out[block, 0, i], out[block, 1, i], out[block, 2, i],
            )  # fmt: skip


@kernel
def _cut_rows(pixels, starts, widths, i, first, weight, inside, black, scale, row, red, green, blue):
    """Row i of the patches of a block, red, green, blue (S, L).

    Two rows of the level are blended first, then neighbours within the blend. The loops make a patch's row 24
    or 48 pixels at a time, so what is small here counts: a function call for each row would double the time.
    """
    r, g, b = black[0], black[1], black[2]
    for lane in range(starts.size):
        begin, end = inside[lane, 1, 0], inside[lane, 1, 1]
        if not inside[lane, 0, 0] <= i < inside[lane, 0, 1]:
            end = begin
        for j in range(begin):
            red[j, lane], green[j, lane], blue[j, lane] = r, g, b
        for j in range(end, red.shape[0]):
            red[j, lane], green[j, lane], blue[j, lane] = r, g, b
        if begin == end:
            continue
        x, across = first[lane, 1], weight[lane, 1]
        left, right = min(x[begin], x[end - 1]), max(x[begin], x[end - 1])  # a box may be mirrored
        # Numba asks of each signed index whether it is negative. Unsigned ones, and a loop whose length is known,
        # let LLVM make vectors of this: three times as fast.
        upper = np.uint64(starts[lane] + 3 * (widths[lane] * first[lane, 0, i] + left))
        lower = upper + np.uint64(3 * widths[lane])
        v = weight[lane, 0, i] * scale
        w = scale - v
        for chunk in range(0, 3 * (right + 2 - left), CHUNK):
            for k in range(CHUNK):
                at = np.uint64(chunk + k)
                row[at] = w * np.float32(pixels[upper + at]) + v * np.float32(pixels[lower + at])
        for j in range(begin, end):
            at, u = 3 * (x[j] - left), across[j]
            r0, g0, b0, r1, g1, b1 = row[at], row[at + 1], row[at + 2], row[at + 3], row[at + 4], row[at + 5]
            to = np.uint64(j), np.uint64(lane)
            red[to] = r0 + u * (r1 - r0) + r
            green[to] = g0 + u * (g1 - g0) + g
            blue[to] = b0 + u * (b1 - b0) + b


@kernel
def _sample(low, high, length, first, weight, inside):
    """Output j reads pixels first[j] and first[j] + 1, the second with weight[j], for j in inside[0] to inside[1].

    At the last pixel the weight is 0 and the pixel after it may be anything.
    """
    n = first.size
    step = (high - low) / np.float64(n)
    inside[0], inside[1] = n, 0
    for j in range(n):
        at = low + (j + 0.5) * step
        if 0.0 <= at <= length:
            at = min(max(at - 0.5, 0.0), length - 1.0)
            first[j] = int(at)
            weight[j] = at - first[j]
            inside[0] = min(inside[0], j)
            inside[1] = j + 1
    inside[0] = min(inside[0], inside[1])
