"""Wrong answers to lesson 02 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_02 import (
    conv2d,
    conv2d_backward,
    grouped_conv2d,
    max_pool_backward,
    output_size,
    prelu_backward,
    receptive_field,
)


def output_size__forgets_the_one(size, kernel, stride, padding, dilation):
    return output_size(size, kernel, stride, padding, dilation) - 1


def output_size__pads_one_side(size, kernel, stride, padding, dilation):
    return (size + padding - dilation * (kernel - 1) - 1) // stride + 1


def output_size__dilates_every_tap(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * kernel) // stride + 1


def output_size__rounds_up(size, kernel, stride, padding, dilation):
    return -(-(size + 2 * padding - dilation * (kernel - 1) - 1) // stride) + 1


def output_size__rounds_to_the_nearest(size, kernel, stride, padding, dilation):
    return round((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1


def output_size__a_float_of_the_right_value(size, kernel, stride, padding, dilation):
    return float(output_size(size, kernel, stride, padding, dilation))


def output_size__adds_before_it_divides(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1)) // stride


def output_size__keeps_the_fraction(size, kernel, stride, padding, dilation):
    return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1


def conv2d__turns_the_kernel(x, w, b, stride, padding):
    return conv2d(x, w[:, :, ::-1, ::-1], b, stride, padding)


def conv2d__forgets_the_bias(x, w, b, stride, padding):
    return conv2d(x, w, 0 * b, stride, padding)


def conv2d__adds_the_bias_once_a_channel(x, w, b, stride, padding):
    return conv2d(x, w, b * x.shape[1], stride, padding)


def conv2d__keeps_the_last_channel(x, w, b, stride, padding):
    return conv2d(x[:, -1:], w[:, -1:], b, stride, padding)


def conv2d__forgets_the_padding(x, w, b, stride, padding):
    return conv2d(x, w, b, stride, 0)


def conv2d__frame_always_one_thick(x, w, b, stride, padding):
    return conv2d(x, w, b, stride, min(padding, 1))


def conv2d__pads_with_the_border(x, w, b, stride, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode="edge")
    return conv2d(x, w, b, stride, 0)


def conv2d__steps_in_rows_only(x, w, b, stride, padding):
    return conv2d(x, w, b, 1, padding)[:, :, ::stride]


def conv2d__does_not_step_in_the_input(x, w, b, stride, padding):
    out = conv2d(x, w, b, stride, padding)
    return conv2d(x, w, b, 1, padding)[:, :, : out.shape[2], : out.shape[3]]


def conv2d__sums_over_the_images(x, w, b, stride, padding):
    y = conv2d(x, w, b, stride, padding)
    return np.broadcast_to(y.sum(axis=0), y.shape)


def conv2d_backward__assigns_for_accumulates(gy, x, w, stride, padding):
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    gx = np.zeros_like(padded)
    for n, o, i, j in np.ndindex(gy.shape):
        rows, columns = slice(i * stride, i * stride + w.shape[2]), slice(j * stride, j * stride + w.shape[3])
        gx[n, :, rows, columns] = gy[n, o, i, j] * w[o]
    gx = gx[:, :, padding : padding + x.shape[2], padding : padding + x.shape[3]]
    return gx, *conv2d_backward(gy, x, w, stride, padding)[1:]


def conv2d_backward__leaves_the_frame_on(gy, x, w, stride, padding):
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    return conv2d_backward(gy, padded, w, stride, 0)


def conv2d_backward__cuts_the_frame_at_the_wrong_corner(gy, x, w, stride, padding):
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    gx, gw, gb = conv2d_backward(gy, padded, w, stride, 0)
    return gx[:, :, : x.shape[2], : x.shape[3]], gw, gb


def conv2d_backward__cuts_off_an_empty_slice(gy, x, w, stride, padding):
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    gx, gw, gb = conv2d_backward(gy, padded, w, stride, 0)
    return gx[:, :, padding:-padding, padding:-padding], gw, gb


def conv2d_backward__cuts_off_a_frame_of_one(gy, x, w, stride, padding):
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    gx, gw, gb = conv2d_backward(gy, padded, w, stride, 0)
    corner = min(padding, 1)
    return gx[:, :, corner : corner + x.shape[2], corner : corner + x.shape[3]], gw, gb


def conv2d_backward__turns_the_kernel(gy, x, w, stride, padding):
    gx = conv2d_backward(gy, x, w[:, :, ::-1, ::-1], stride, padding)[0]
    return gx, *conv2d_backward(gy, x, w, stride, padding)[1:]


def conv2d_backward__last_image_only(gy, x, w, stride, padding):
    gx, _, gb = conv2d_backward(gy, x, w, stride, padding)
    return gx, conv2d_backward(gy[-1:], x[-1:], w, stride, padding)[1], gb


def conv2d_backward__mean_over_the_images(gy, x, w, stride, padding):
    gx, gw, gb = conv2d_backward(gy, x, w, stride, padding)
    return gx, gw / len(x), gb / len(x)


def conv2d_backward__bias_of_one_image(gy, x, w, stride, padding):
    return *conv2d_backward(gy, x, w, stride, padding)[:2], gy[0].sum(axis=(1, 2))


def conv2d_backward__weights_from_the_unpadded_image(gy, x, w, stride, padding):
    gx, gw, gb = conv2d_backward(gy, x, w, stride, padding)
    gw = np.zeros_like(w)
    for n, o, i, j in np.ndindex(gy.shape):
        rows, columns = slice(i * stride, i * stride + w.shape[2]), slice(j * stride, j * stride + w.shape[3])
        patch = x[n, :, rows, columns]
        gw[o, :, : patch.shape[1], : patch.shape[2]] += gy[n, o, i, j] * patch
    return gx, gw, gb


def grouped_conv2d__every_group_reads_the_first_channels(x, w, b, groups):
    return conv2d(x[:, : w.shape[1]], w, b, 1, 0)


def grouped_conv2d__deals_out_the_channels_in_turn(x, w, b, groups):
    order = [c for g in range(groups) for c in range(g, x.shape[1], groups)]
    return grouped_conv2d(x[:, order], w, b, groups)


def grouped_conv2d__deals_out_the_filters_in_turn(x, w, b, groups):
    y = np.stack([conv2d(x[:, g * w.shape[1] : (g + 1) * w.shape[1]], w[g::groups], b[g::groups], 1, 0)
                  for g in range(groups)], axis=2)
    return y.reshape(len(x), len(w), *y.shape[3:])


def grouped_conv2d__adds_the_groups_up(x, w, b, groups):
    y = grouped_conv2d(x, w, b, groups)
    return sum(np.split(y, groups, axis=1))


def grouped_conv2d__stacks_the_groups_as_images(x, w, b, groups):
    y = grouped_conv2d(x, w, b, groups)
    return np.concatenate(np.split(y, groups, axis=1))


def grouped_conv2d__the_first_bias_for_all(x, w, b, groups):
    return grouped_conv2d(x, w, np.resize(b[: len(b) // groups], b.shape), groups)


def receptive_field__adds_the_kernels(layers):
    return sum(d * (k - 1) + 1 for k, _, d in layers) if layers else 1, receptive_field(layers)[1]


def receptive_field__multiplies_the_kernels(layers):
    return int(np.prod([d * (k - 1) + 1 for k, _, d in layers])), receptive_field(layers)[1]


def receptive_field__own_stride_before_its_kernel(layers):
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        jump *= stride
        size += dilation * (kernel - 1) * jump
    return size, jump


def receptive_field__forgets_the_strides(layers):
    return 1 + sum(d * (k - 1) for k, _, d in layers), receptive_field(layers)[1]


def receptive_field__forgets_the_dilation(layers):
    return receptive_field([(k, s, 1) for k, s, _ in layers])


def receptive_field__from_the_top_down(layers):
    return receptive_field(layers[::-1])


def receptive_field__adds_the_strides(layers):
    size, jump = 1, 1
    for kernel, stride, dilation in layers:
        size += dilation * (kernel - 1) * jump
        jump += stride - 1
    return size, jump


def max_pool_backward__the_last_winner_takes_it(gy, switches, height, width):
    gx = np.zeros((*gy.shape[:2], height * width))
    for n, c in np.ndindex(gy.shape[:2]):
        gx[n, c, switches[n, c]] = gy[n, c]
    return gx.reshape(*gy.shape[:2], height, width)


def max_pool_backward__adds_at_an_array_of_places(gy, switches, height, width):
    gx = np.zeros((*gy.shape[:2], height * width))
    for n, c in np.ndindex(gy.shape[:2]):
        gx[n, c, switches[n, c]] += gy[n, c]  # NumPy adds once a place, however often it is named
    return gx.reshape(*gy.shape[:2], height, width)


def max_pool_backward__all_into_the_first_channel(gy, switches, height, width):
    gx = np.zeros((*gy.shape[:2], height, width))
    np.add.at(gx.reshape(-1), switches.ravel(), gy.ravel())
    return gx


def max_pool_backward__divides_by_the_height(gy, switches, height, width):
    gx = np.zeros((*gy.shape[:2], height, width))
    for n, c, i, j in np.ndindex(gy.shape):
        row, column = divmod(switches[n, c, i, j], height)
        gx[n, c, row % height, column % width] += gy[n, c, i, j]
    return gx


def max_pool_backward__forgets_the_shape(gy, switches, height, width):
    return max_pool_backward(gy, switches, height, width).reshape(*gy.shape[:2], height * width)


def prelu_backward__slope_also_where_positive(gy, x, slope):
    return prelu_backward(gy, x, slope)[0], (x * gy).sum(axis=(0, 2, 3))


def prelu_backward__forgets_the_chain_rule(gy, x, slope):
    return prelu_backward(gy, x, slope)[0], np.minimum(x, 0).sum(axis=(0, 2, 3))


def prelu_backward__counts_the_negatives(gy, x, slope):
    return prelu_backward(gy, x, slope)[0], np.where(x > 0, 0, gy).sum(axis=(0, 2, 3))


def prelu_backward__mean_for_sum(gy, x, slope):
    return prelu_backward(gy, x, slope)[0], np.where(x > 0, 0, x * gy).mean(axis=(0, 2, 3))


def prelu_backward__one_slope_for_all(gy, x, slope):
    gx, gslope = prelu_backward(gy, x, slope)
    return gx, np.full_like(slope, gslope.sum())


def prelu_backward__slope_in_place_of_the_factor(gy, x, slope):
    _, gslope = prelu_backward(gy, x, slope)
    return np.where(x > 0, gy, slope[:, None, None] * x), gslope


def prelu_backward__relu(gy, x, slope):
    return np.where(x > 0, gy, 0), prelu_backward(gy, x, slope)[1]
