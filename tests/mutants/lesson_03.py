"""Wrong answers to lesson 03 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from solutions.lesson_03 import depthwise, intensity, multiply_adds, pixel_gradient


def multiply_adds__channels_of_x_for_those_of_a_filter(x_shape, w_shape, stride, padding):
    return multiply_adds(x_shape, (w_shape[0], x_shape[1], *w_shape[2:]), stride, padding)


def multiply_adds__forgets_the_filters(x_shape, w_shape, stride, padding):
    return multiply_adds(x_shape, (1, *w_shape[1:]), stride, padding)


def multiply_adds__forgets_the_images(x_shape, w_shape, stride, padding):
    return multiply_adds((1, *x_shape[1:]), w_shape, stride, padding)


def multiply_adds__places_of_the_input(x_shape, w_shape, stride, padding):
    return x_shape[0] * x_shape[2] * x_shape[3] * math.prod(w_shape)


def multiply_adds__stride_in_one_direction(x_shape, w_shape, stride, padding):
    rows = (x_shape[2] + 2 * padding - w_shape[2]) // stride + 1
    return x_shape[0] * rows * (x_shape[3] + 2 * padding - w_shape[3] + 1) * math.prod(w_shape)


def multiply_adds__forgets_the_padding(x_shape, w_shape, stride, padding):
    return multiply_adds(x_shape, w_shape, stride, 0)


def multiply_adds__fractions_of_a_place(x_shape, w_shape, stride, padding):
    places = [(size + 2 * padding - k) / stride + 1 for size, k in zip(x_shape[2:], w_shape[2:], strict=True)]
    return x_shape[0] * places[0] * places[1] * math.prod(w_shape)


def multiply_adds__rounds_the_places_up(x_shape, w_shape, stride, padding):
    places = [math.ceil((n + 2 * padding - k) / stride) + 1 for n, k in zip(x_shape[2:], w_shape[2:], strict=True)]
    return x_shape[0] * places[0] * places[1] * math.prod(w_shape)


def multiply_adds__counts_both_operations(x_shape, w_shape, stride, padding):
    return 2 * multiply_adds(x_shape, w_shape, stride, padding)


def intensity__numbers_for_bytes(x_shape, w_shape, stride, padding):
    return 4 * intensity(x_shape, w_shape, stride, padding)


def intensity__forgets_the_output(x_shape, w_shape, stride, padding):
    return multiply_adds(x_shape, w_shape, stride, padding) / (4 * (math.prod(x_shape) + math.prod(w_shape)))


def intensity__forgets_the_weights(x_shape, w_shape, stride, padding):
    work = multiply_adds(x_shape, w_shape, stride, padding)
    return work / (4 * (math.prod(x_shape) + work // math.prod(w_shape[1:])))


def intensity__upside_down(x_shape, w_shape, stride, padding):
    return 1 / intensity(x_shape, w_shape, stride, padding)


def intensity__output_as_large_as_the_input(x_shape, w_shape, stride, padding):
    work = multiply_adds(x_shape, w_shape, stride, padding)
    return work / (4 * (2 * math.prod(x_shape) + math.prod(w_shape)))


def intensity__loads_every_patch_anew(x_shape, w_shape, stride, padding):
    work = multiply_adds(x_shape, w_shape, stride, padding)
    return work / (4 * (work + math.prod(w_shape) + work // math.prod(w_shape[1:])))


def depthwise__sums_over_the_channels(x, w):
    return depthwise(x, w).sum(axis=0)


def depthwise__the_sum_in_every_channel(x, w):
    y = depthwise(x, w)
    return np.broadcast_to(y.sum(axis=0), y.shape)


def depthwise__the_first_kernel_for_all(x, w):
    return depthwise(x, np.broadcast_to(w[:1], w.shape))


def depthwise__turns_the_kernel(x, w):
    return depthwise(x, w[:, ::-1, ::-1])


def depthwise__one_place_too_few(x, w):
    return depthwise(x[:, :-1], w) if x.shape[1] > w.shape[1] else depthwise(x, w)[:, :-1]


def depthwise__padded_to_the_same_size(x, w):
    rows, columns = w.shape[1] - 1, w.shape[2] - 1
    return depthwise(np.pad(x, ((0, 0), (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2))), w)


def shared_cells__counts_writes_for_writers(writes):
    return sorted(cell for cell, count in Counter(cell for cells in writes for cell in cells).items() if count > 1)


def shared_cells__looks_at_neighbours_only(writes):
    return sorted({c for a, b in zip(writes, writes[1:], strict=False) for c in a if c in b})


def shared_cells__names_a_cell_for_each_pair(writes):
    return sorted(c for i, a in enumerate(writes) for b in writes[:i] for c in set(a) & set(b))


def shared_cells__cells_of_everybody(writes):
    return sorted(set.intersection(*map(set, writes))) if writes else []


def shared_cells__not_sorted(writes):
    seen = list(dict.fromkeys(c for cells in writes for c in cells))
    return [c for c in seen if sum(c in cells for cells in writes) > 1]


def shared_cells__in_the_order_of_the_later_writer(writes):
    return list(dict.fromkeys(c for i, a in enumerate(writes) for b in writes[:i] for c in a if c in b))


def shared_cells__sorted_as_words(writes):
    return [
        int(c)
        for c in sorted(str(c) for c in {c for i, a in enumerate(writes) for b in writes[:i] for c in a if c in b})
    ]


def shared_cells__all_cells(writes):
    return sorted({c for cells in writes for c in cells})


def pixel_gradient__adds_where_it_should_subtract(gy, w, row, column, stride):
    return pixel_gradient(gy, w[::-1, ::-1], row, column, stride)


def pixel_gradient__negative_indices_come_in_again(gy, w, row, column, stride):
    total = 0.0
    for u, v in np.ndindex(w.shape):
        i, j = (row - u) // stride, (column - v) // stride
        if (row - u) % stride == (column - v) % stride == 0 and i < gy.shape[0] and j < gy.shape[1]:
            total += w[u, v] * gy[i, j]
    return total


def pixel_gradient__rounds_the_stride_down(gy, w, row, column, stride):
    total = 0.0
    for u, v in np.ndindex(w.shape):
        i, j = (row - u) // stride, (column - v) // stride
        if 0 <= i < gy.shape[0] and 0 <= j < gy.shape[1]:
            total += w[u, v] * gy[i, j]
    return total


def pixel_gradient__forgets_the_stride(gy, w, row, column, stride):
    return pixel_gradient(gy, w, row, column, 1)


def pixel_gradient__scatters_and_picks(gy, w, row, column, stride):
    gx = np.zeros([(n - 1) * stride + k for n, k in zip(gy.shape, w.shape, strict=True)])
    for i, j in np.ndindex(gy.shape):
        gx[i * stride : i * stride + w.shape[0], j * stride : j * stride + w.shape[1]] += gy[i, j] * w
    return gx[min(row, len(gx) - 1), min(column, gx.shape[1] - 1)]


def pixel_gradient__the_last_reader_only(gy, w, row, column, stride):
    total = 0.0
    for u, v in np.ndindex(w.shape):
        part = pixel_gradient(gy, w * (np.arange(w.size).reshape(w.shape) == u * w.shape[1] + v), row, column, stride)
        total = part if part else total
    return total


def pixel_gradient__forward_instead(gy, w, row, column, stride):
    patch = gy[row // stride :, column // stride :][: w.shape[0], : w.shape[1]]
    return (patch * w[: patch.shape[0], : patch.shape[1]]).sum()
