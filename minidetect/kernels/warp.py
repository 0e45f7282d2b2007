"""Boxes of one image cut out and brought to one size, width and height each by its own factor.

Pixels as in resize.py: pixel i covers [i, i + 1). An output pixel covers a stretch of the box's width and one of its
height. An axis that shrinks averages the stretch, one that grows reads two neighbours (a stretch of length 1 around
the middle, which comes to the same). So a box may shrink by any factor without skipping pixels, which `crop_resize`
leaves to an image pyramid: that has one factor a level, and a warped box two.

Letters: N boxes, H W size of the image, S side of the output.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.kernels.dispatch import kernel


class Stretches(NamedTuple):
    """What each of S outputs of N boxes reads along one axis, as a weighted mean of neighbouring pixels.

    first: (N, S) int64, the first pixel; count: (N, S) int64, how many, 0 for an output that is not visible.
    weights: (N, S, 3) float32, of the first pixel, of the last, and of each in between.
    """

    first: np.ndarray
    count: np.ndarray
    weights: np.ndarray


def warp_boxes(
    planes: np.ndarray, sources: np.ndarray, visible: np.ndarray, side: int, mean: np.ndarray, scale: float
) -> np.ndarray:
    """(pixel - mean) * scale of each source rectangle, side x side pixels: (N, 3, S, S) float32.

    planes: (3, H, W) uint8 or float32. sources: (N, 4) float64, what is spread over the output, may leave the image.
    visible: (N, 4), outside of it, as outside of the image, the output is 0, the mean colour. mean: (3,) float32.
    """
    height, width = planes.shape[1:]
    down = axis_stretches(sources[:, 1::2], visible[:, 1::2], side, height)
    across = axis_stretches(sources[:, 0::2], visible[:, 0::2], side, width)
    out, blended = np.empty((len(sources), 3, side, side), np.float32), np.empty(width, np.float32)
    mean = np.asarray(mean, np.float32)
    _warp(np.ascontiguousarray(planes), *down, *across, mean, np.float32(scale), blended, out)
    return out


def axis_stretches(source: np.ndarray, visible: np.ndarray, side: int, length: int) -> Stretches:
    """How to read an axis of `length` pixels. source, visible: (N, 2), beginning and end.

    An output is visible if its middle is, and then its stretch is cut at the image's border.
    """
    step = (source[:, 1:] - source[:, :1]) / side  # (N, 1)
    middle = source[:, :1] + (np.arange(side) + 0.5) * step  # (N, S)
    grows = np.broadcast_to(step < 1, middle.shape)
    centre = np.where(grows, np.clip(middle, 0.5, length - 0.5), middle)  # of two neighbours, both in the image
    half = np.where(grows, 0.5, step / 2)
    low, high = np.clip(centre - half, 0, length), np.clip(centre + half, 0, length)
    is_hidden = (middle < np.maximum(visible[:, :1], 0)) | (middle > np.minimum(visible[:, 1:], length))
    is_hidden |= high <= low
    low, high = np.where(is_hidden, 0, low), np.where(is_hidden, 1, high)
    first, end = np.floor(low).astype(np.int64), np.ceil(high).astype(np.int64)
    inner = 1 / (high - low)
    weights = np.stack([(first + 1 - low) * inner, (high - end + 1) * inner, inner], axis=2).astype(np.float32)
    weights[end - first == 1, 0] = 1
    return Stretches(first, np.where(is_hidden, 0, end - first), weights)


@kernel
def _warp(planes, y_first, y_count, y_weights, x_first, x_count, x_weights, mean, scale, blended, out):
    """The loops of `warp_boxes`; blended (W,): room for blended rows.

    One thread: a training step cuts a few boxes out of each of many images, and starting threads costs more than that.
    """
    for n in range(out.shape[0]):
        left, right = _columns_seen(x_first[n], x_count[n])
        row = blended[left:right]
        for i in range(out.shape[2]):
            count = y_count[n, i] if left < right else 0
            for c in range(3):
                if count == 0:
                    out[n, c, i] = 0.0
                    continue
                stretch = planes[c, y_first[n, i] : y_first[n, i] + count, left:right]
                _blend_rows(stretch, y_weights[n, i], row)
                _blend_columns(row, left, x_first[n], x_count[n], x_weights[n], mean[c], scale, out[n, c, i])


@kernel
def _columns_seen(first, count):
    """The first pixel that any of the outputs reads, and the one after the last."""
    left, right = np.int64(1 << 60), np.int64(0)
    for j in range(first.size):
        if count[j] > 0:
            left, right = min(left, first[j]), max(right, first[j] + count[j])
    return min(left, right), right


@kernel
def _blend_rows(stretch, weights, row):
    """row = the weighted mean of a stretch of rows (n, w)."""
    last = stretch.shape[0] - 1
    weight, source = weights[0], stretch[0]
    for x in range(row.size):
        row[x] = weight * np.float32(source[x])
    for y in range(1, last + 1):
        weight, source = weights[1] if y == last else weights[2], stretch[y]
        for x in range(row.size):
            row[x] += weight * np.float32(source[x])


@kernel
def _blend_columns(row, left, first, count, weights, mean, scale, out):
    """out[j] = (weighted mean of what output j reads of the row - mean) * scale, 0 where it reads nothing.

    row: pixels from `left` on.
    """
    for j in range(out.size):
        num = count[j]
        if num == 0:
            out[j] = 0.0
            continue
        at = first[j] - left
        total = weights[j, 0] * row[at]
        if num > 1:
            total += weights[j, 1] * row[at + num - 1]
        between = np.float32(0.0)
        for x in range(at + 1, at + num - 1):
            between += row[x]
        out[j] = (total + weights[j, 2] * between - mean) * scale
