"""Wrong answers to lesson 17 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_17 import activate, fields, inverted_residual, multiply_adds, normalise, parameters

from minidetect.kernels.conv import conv2d_forward as library_conv


def changed(layers, change):
    """Each convolution's row (inputs, outputs, kernel, stride, padding, groups, bias) as `change` makes it."""
    return [("conv", *change(*row[1:])) if row[0] == "conv" else row for row in layers]


def parameters__forgets_groups(layers):
    return parameters(changed(layers, lambda i, o, k, s, p, g, b: (i, o, k, s, p, 1, b)))


def parameters__divides_by_groups_twice(layers):
    return parameters(changed(layers, lambda i, o, k, s, p, g, b: (i // g, o // g, k, s, p, 1, b)))


def parameters__bias_divided_by_groups(layers):
    conv = [row for row in layers if row[0] == "conv"]
    return parameters(layers) - sum(row[7] * (row[2] - row[2] // row[6]) for row in conv)


def parameters__every_depthwise(layers):
    return parameters(changed(layers, lambda i, o, k, s, p, g, b: (i, o, k, s, p, i if g > 1 else 1, b)))


def parameters__kernel_not_squared(layers):
    conv = [row for row in layers if row[0] == "conv"]
    return parameters(layers) - sum(row[2] * (row[1] // row[6]) * (row[3] ** 2 - row[3]) for row in conv)


def parameters__always_a_bias(layers):
    return parameters(changed(layers, lambda *row: (*row[:-1], True)))


def parameters__no_bias(layers):
    return parameters(changed(layers, lambda *row: (*row[:-1], False)))


def parameters__bias_for_each_input(layers):
    conv = [row for row in layers if row[0] == "conv"]
    return parameters(layers) + sum(row[7] * (row[1] - row[2]) for row in conv)


def parameters__norm_with_running_averages(layers):
    return parameters(layers) + sum(2 * row[1] for row in layers if row[0] == "norm")


def parameters__norm_without_shift(layers):
    return parameters(layers) - sum(row[1] for row in layers if row[0] == "norm")


def parameters__one_slope_always(layers):
    return parameters([("prelu", 1) if row[0] == "prelu" else row for row in layers])


def parameters__only_the_last(layers):
    return parameters(layers[-1:])


def parameters__strides_count(layers):
    return parameters(changed(layers, lambda i, o, k, s, p, g, b: (i, o, k // s, s, p, g, b)))


def parameters__depthwise_by_its_inputs(layers):
    """A filter for each channel, even where there are more filters than channels."""
    deep = [row for row in layers if row[0] == "conv" and row[1] == row[6]]
    return parameters(layers) + sum((row[1] - row[2]) * row[3] ** 2 for row in deep)


def block(x, widen, filters, narrow, stride, ends, skip, act_after=False, padding=1, inner_act=True):
    """The solution with a rule of one's own for the sum: skip(x, y)."""
    act = activate if inner_act else lambda v: v
    y = x if widen is None else act(normalise(library_conv(x, widen, None, 1, 0, 1, 1)))
    y = act(normalise(library_conv(y, filters, None, stride, padding, 1, len(filters))))
    y = normalise(library_conv(y, narrow, None, 1, 0, 1, 1))
    if act_after:
        y = x + y if skip(x, y) else y
        return activate(y) if ends else y
    y = activate(y) if ends else y
    return x + y if skip(x, y) else y


def same_channels(x, y):
    return x.shape[1] == y.shape[1]


def inverted_residual__adds_where_shapes_agree(x, widen, filters, narrow, stride, ends):
    return block(x, widen, filters, narrow, stride, ends, lambda x, y: x.shape == y.shape)


def inverted_residual__adds_where_maps_agree(x, widen, filters, narrow, stride, ends):
    def fits(x, y):
        return stride == 1 and (same_channels(x, y) or 1 in (x.shape[1], y.shape[1]))

    return block(x, widen, filters, narrow, stride, ends, fits)


def inverted_residual__never_adds(x, widen, filters, narrow, stride, ends):
    return block(x, widen, filters, narrow, stride, ends, lambda x, y: False)


def inverted_residual__adds_by_channels_alone(x, widen, filters, narrow, stride, ends):
    return block(x, widen, filters, narrow, stride, ends, same_channels)


def inverted_residual__adds_by_stride_alone(x, widen, filters, narrow, stride, ends):
    return block(x, widen, filters, narrow, stride, ends, lambda x, y: stride == 1)


def inverted_residual__activates_the_sum(x, widen, filters, narrow, stride, ends):
    return block(
        x, widen, filters, narrow, stride, ends, lambda x, y: stride == 1 and same_channels(x, y), act_after=True
    )


def inverted_residual__always_ends_activated(x, widen, filters, narrow, stride, ends):
    return inverted_residual(x, widen, filters, narrow, stride, True)


def inverted_residual__never_ends_activated(x, widen, filters, narrow, stride, ends):
    return inverted_residual(x, widen, filters, narrow, stride, False)


def inverted_residual__without_padding(x, widen, filters, narrow, stride, ends):
    frame = ((0, 0), (0, 0), (1, 1), (1, 1)) if min(x.shape[2:]) < 3 else ((0, 0),) * 4
    y = np.pad(x, frame)
    return block(y, widen, filters, narrow, stride, ends, lambda x, y: x.shape == y.shape, padding=0)


def inverted_residual__activates_x_where_nothing_widens(x, widen, filters, narrow, stride, ends):
    if widen is not None:
        return inverted_residual(x, widen, filters, narrow, stride, ends)
    y = inverted_residual(activate(normalise(x)), None, filters, narrow, stride, ends)
    return y + x - activate(normalise(x)) if stride == 1 and len(narrow) == x.shape[1] else y


def inverted_residual__no_activation_inside(x, widen, filters, narrow, stride, ends):
    def fits(x, y):
        return stride == 1 and same_channels(x, y)

    return block(x, widen, filters, narrow, stride, ends, fits, inner_act=False)


def inverted_residual__norms_of_each_image(x, widen, filters, narrow, stride, ends):
    """Alone in its batch, an image is normalised by itself."""
    return np.concatenate([inverted_residual(one[None], widen, filters, narrow, stride, ends) for one in x])


def inverted_residual__adds_where_numpy_can(x, widen, filters, narrow, stride, ends):
    def fits(x, y):
        return all(a == b or 1 in (a, b) for a, b in zip(x.shape, y.shape, strict=True))

    return block(x, widen, filters, narrow, stride, ends, fits)


def inverted_residual__adds_into_x(x, widen, filters, narrow, stride, ends):
    y = block(x, widen, filters, narrow, stride, ends, lambda x, y: False)
    if stride == 1 and same_channels(x, y):
        x += y
        return x
    return y


def inverted_residual__adds_only_what_was_widened(x, widen, filters, narrow, stride, ends):
    def fits(x, y):
        return stride == 1 and same_channels(x, y) and widen is not None

    return block(x, widen, filters, narrow, stride, ends, fits)


def inverted_residual__stride_in_the_narrow_layer(x, widen, filters, narrow, stride, ends):
    if stride == 1:
        return inverted_residual(x, widen, filters, narrow, stride, ends)
    y = x if widen is None else activate(normalise(library_conv(x, widen, None, 1, 0, 1, 1)))
    y = activate(normalise(library_conv(y, filters, None, 1, 1, 1, len(filters))))
    y = normalise(library_conv(y, narrow, None, stride, 0, 1, 1))
    return activate(y) if ends else y


def inverted_residual__activates_before_the_norm(x, widen, filters, narrow, stride, ends):
    y = x if widen is None else normalise(activate(library_conv(x, widen, None, 1, 0, 1, 1)))
    y = normalise(activate(library_conv(y, filters, None, stride, 1, 1, len(filters))))
    y = library_conv(y, narrow, None, 1, 0, 1, 1)
    y = normalise(activate(y)) if ends else normalise(y)
    return x + y if stride == 1 and x.shape[1] == len(narrow) else y


def states(w, f0, gs):
    f = [f0]
    for _ in gs:
        f.append(activate(w @ f[-1]))
    return f


def backward(w, f0, gs, through=1.0, slope=0.25, take=lambda f, i: f[i], transpose=True):
    """The solution with a part of it changed: what passes on, the slope, which f, the transpose."""
    f = states(w, f0, gs)
    gw, gf = np.zeros(w.shape), np.zeros(f0.shape)
    for i in reversed(range(len(gs))):
        gz = (through * gf + gs[i]) * np.where(w @ f[i] > 0, 1, slope)
        gw += np.outer(gz, take(f, i))
        gf = (w.T if transpose else w) @ gz
    return gw


def shared_gradient__each_pass_by_itself(w, f0, gs):
    return backward(w, f0, gs, through=0.0)


def shared_gradient__only_the_last_use(w, f0, gs):
    return backward(w, states(w, f0, gs)[max(len(gs) - 1, 0)], gs[-1:])


def shared_gradient__only_the_first_use(w, f0, gs):
    return backward(w, f0, gs) - backward(w, activate(w @ f0), gs[1:]) if len(gs) else np.zeros(w.shape)


def shared_gradient__mean_over_passes(w, f0, gs):
    return backward(w, f0, gs) / max(len(gs), 1)


def shared_gradient__only_the_last_loss(w, f0, gs):
    alone = np.zeros_like(gs)
    alone[-1:] = gs[-1:]
    return backward(w, f0, alone)


def shared_gradient__forgets_the_activation(w, f0, gs):
    return backward(w, f0, gs, slope=1.0)


def shared_gradient__relu(w, f0, gs):
    return backward(w, f0, gs, slope=0.0)


def shared_gradient__by_what_comes_out(w, f0, gs):
    return backward(w, f0, gs, take=lambda f, i: f[i + 1])


def shared_gradient__adds_into_gs(w, f0, gs):
    f, gw = states(w, f0, gs), np.zeros(w.shape)
    for i in reversed(range(len(gs))):
        gz = gs[i] * np.where(w @ f[i] > 0, 1, 0.25)
        gw += np.outer(gz, f[i])
        if i:
            gs[i - 1] += w.T @ gz
    return gw


def shared_gradient__hears_from_the_next_pass_only(w, f0, gs):
    f, gw, gf = states(w, f0, gs), np.zeros(w.shape), np.zeros(f0.shape)
    for i in reversed(range(len(gs))):
        slope = np.where(w @ f[i] > 0, 1, 0.25)
        gw += np.outer((gf + gs[i]) * slope, f[i])
        gf = w.T @ (gs[i] * slope)
    return gw


def shared_gradient__without_transpose(w, f0, gs):
    return backward(w, f0, gs, transpose=False)


def shared_gradient__outer_product_turned(w, f0, gs):
    return backward(w, f0, gs).T


def shared_gradient__f0_for_all(w, f0, gs):
    return backward(w, f0, gs, take=lambda f, i: f[0])


def multiply_adds__at_the_inputs_places(layers, height, width):
    count = 0
    for row in layers:
        own, *after = multiply_adds([row], height, width)
        count += own * height * width // (after[0] * after[1])
        height, width = after
    return count, height, width


def multiply_adds__forgets_groups(layers, height, width):
    return multiply_adds(changed(layers, lambda i, o, k, s, p, g, b: (i, o, k, s, p, 1, b)), height, width)


def multiply_adds__depthwise_by_its_inputs(layers, height, width):
    def fewer(i, o, k, s, p, g, b):
        return i, (i if i == g else o), k, s, p, g, b

    return multiply_adds(changed(layers, fewer), height, width)


def multiply_adds__forgets_padding(layers, height, width):
    count = 0
    for row in layers:
        if row[0] == "conv":
            _, i, o, k, s, _, g, _ = row
            height, width = max((height - k) // s + 1, 1), max((width - k) // s + 1, 1)
            count += height * width * o * (i // g) * k * k
    return count, height, width


def multiply_adds__padding_on_one_side(layers, height, width):
    count = 0
    for row in layers:
        if row[0] == "conv":
            _, i, o, k, s, p, g, _ = row
            height, width = max((height + p - k) // s + 1, 1), max((width + p - k) // s + 1, 1)
            count += height * width * o * (i // g) * k * k
    return count, height, width


def multiply_adds__size_by_stride_alone(layers, height, width):
    return multiply_adds(changed(layers, lambda i, o, k, s, p, g, b: (i, o, k, s, (k - 1) // 2, g, b)), height, width)


def multiply_adds__rounds_down(layers, height, width):
    count = 0
    for row in layers:
        if row[0] == "conv":
            _, i, o, k, s, _, g, _ = row
            height, width = height // s, width // s
            count += height * width * o * (i // g) * k * k
    return count, height, width


def multiply_adds__size_stays(layers, height, width):
    count = sum(multiply_adds([row], height, width)[0] for row in layers)
    return count, height, width


def multiply_adds__with_bias(layers, height, width):
    count, total_height, total_width = multiply_adds(layers, height, width)
    for row in layers:
        _, height, width = multiply_adds([row], height, width)
        count += row[0] == "conv" and height * width * row[2] * row[7]
    return count, total_height, total_width


def multiply_adds__counts_twice(layers, height, width):
    count, height, width = multiply_adds(layers, height, width)
    return 2 * count, height, width


def multiply_adds__turns_the_map(layers, height, width):
    count, height, width = multiply_adds(layers, width, height)
    return count, height, width


def multiply_adds__norms_too(layers, height, width):
    count, after_height, after_width = multiply_adds(layers, height, width)
    for row in layers:
        _, height, width = multiply_adds([row], height, width)
        count += row[0] == "norm" and height * width * row[1]
    return count, after_height, after_width


def multiply_adds__only_the_count(layers, height, width):
    return multiply_adds(layers, height, width)[0]


def walked(layers, size, jump, stride_first=False):
    for row in layers:
        if row[0] == "conv":
            jump = jump * row[4] if stride_first else jump
            size += (row[3] - 1) * jump
            jump = jump if stride_first else jump * row[4]
    return size, jump


def fields__own_stride_first(start, body, passes):
    found, state = [], walked(start, 1, 1, stride_first=True)
    for _ in range(passes):
        state = walked(body, *state, stride_first=True)
        found.append(state)
    return found


def fields__each_pass_afresh(start, body, passes):
    size, jump = walked(start, 1, 1)
    found = []
    for _ in range(passes):
        size, _ = walked(body, size, jump)
        found.append((size, walked(body, size, jump)[1]))
    return found


def fields__start_in_every_pass(start, body, passes):
    return fields([], start + body, passes)


def fields__forgets_start(start, body, passes):
    return fields([], body, passes)


def fields__adds_kernels(start, body, passes):
    found = fields(start, body, passes)
    sizes = [1 + sum(row[3] - 1 for row in start + body * (i + 1) if row[0] == "conv") for i in range(passes)]
    return [(size, jump) for size, (_, jump) in zip(sizes, found, strict=True)]


def fields__whole_kernels(start, body, passes):
    found, size, jump = [], 1, 1
    for i in range(passes):
        for row in start + body if i == 0 else body:
            if row[0] == "conv":
                size, jump = size + row[3] * jump, jump * row[4]
        found.append((size, jump))
    return found


def fields__kernels_are_odd(start, body, passes):
    """Half of the kernel to each side of its middle, which an even one does not have."""
    odd = [[(*row[:3], row[3] // 2 * 2 + 1, *row[4:]) if row[0] == "conv" else row for row in rows]
           for rows in (start, body)]  # fmt: skip
    return fields(*odd, passes)


def fields__only_the_last(start, body, passes):
    return fields(start, body, passes)[-1:]


def fields__sizes_only(start, body, passes):
    return [size for size, _ in fields(start, body, passes)]


def fields__padding_narrows(start, body, passes):
    lost = [sum(2 * row[5] for row in start + body * (i + 1) if row[0] == "conv") for i in range(passes)]
    return [(size - less, jump) for (size, jump), less in zip(fields(start, body, passes), lost, strict=True)]


def fields__cells_not_pixels(start, body, passes):
    return [(-(-size // jump), jump) for size, jump in fields(start, body, passes)]
