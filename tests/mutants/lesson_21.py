"""Wrong answers to lesson 21 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

from math import ceil

from solutions.lesson_21 import conv_work, head_work, held, rois_for


def conv_work__forgets_groups(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    return conv_work(inputs, outputs, kernel, size, stride, padding, dilation, 1)


def conv_work__divides_by_groups_twice(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    return conv_work(inputs // groups, outputs // groups, kernel, size, stride, padding, dilation, 1)


def conv_work__forgets_dilation(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    return conv_work(inputs, outputs, kernel, size, stride, padding, 1, groups)


def conv_work__dilation_makes_weights(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    stretched = tuple(dilation * (k - 1) + 1 for k in kernel)
    return conv_work(inputs, outputs, stretched, size, stride, padding, 1, groups)


def conv_work__reach_without_the_first(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    """dilation * k cells instead of dilation * (k - 1) + 1."""
    count, _, _ = conv_work(inputs, outputs, kernel, (1, 1), 1, 99, 1, groups)
    height, width = ((n + 2 * padding - dilation * k) // stride + 1 for n, k in zip(size, kernel, strict=True))
    _, places_h, places_w = conv_work(inputs, outputs, kernel, (1, 1), 1, 99, 1, groups)
    return count // (places_h * places_w) * height * width, height, width


def conv_work__padding_on_one_side(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    reach = [dilation * (k - 1) + 1 for k in kernel]
    height, width = (max((n + padding - r) // stride + 1, 1) for n, r in zip(size, reach, strict=True))
    return outputs * height * width * (inputs // groups) * kernel[0] * kernel[1], height, width


def conv_work__counts_places_of_the_input(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    _, height, width = conv_work(inputs, outputs, kernel, size, stride, padding, dilation, groups)
    return outputs * size[0] * size[1] * (inputs // groups) * kernel[0] * kernel[1], height, width


def conv_work__size_by_stride_alone(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    height, width = (-(-n // stride) for n in size)
    return outputs * height * width * (inputs // groups) * kernel[0] * kernel[1], height, width


def conv_work__square_kernel(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    _, height, width = conv_work(inputs, outputs, kernel, size, stride, padding, dilation, groups)
    return outputs * height * width * (inputs // groups) * kernel[0] ** 2, height, width


def conv_work__two_for_each(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    count, height, width = conv_work(inputs, outputs, kernel, size, stride, padding, dilation, groups)
    return 2 * count, height, width


def conv_work__turns_the_kernel(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    kernel = kernel[::-1]
    reach = [dilation * (k - 1) + 1 for k in kernel]
    height, width = (max((n + 2 * padding - r) // stride + 1, 1) for n, r in zip(size, reach, strict=True))
    return outputs * height * width * (inputs // groups) * kernel[0] * kernel[1], height, width


def conv_work__without_the_size(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    return conv_work(inputs, outputs, kernel, size, stride, padding, dilation, groups)[0]


def head_work__hidden_for_each_row(rows, size, channels, features):
    return sum(head_work([row], size, channels, features) for row in rows)


def head_work__hidden_at_the_anchors(rows, size, channels, features):
    """Only where anchors stand."""
    return head_work([(stride, stride, num) for _, stride, num in rows], size, channels, features)


def head_work__anchors_in_every_cell(rows, size, channels, features):
    return head_work([(stride, stride, num) for stride, _, num in rows], size, channels, features)


def head_work__hidden_for_each_anchor(rows, size, channels, features):
    extra = sum((num - 1) * head_work([(s, t, 0)], size, channels, features) for s, t, num in rows)
    return head_work(rows, size, channels, features) + extra


def head_work__one_map_only(rows, size, channels, features):
    finest = min(row[0] for row in rows)
    return head_work([(finest, stride, num) for _, stride, num in rows], size, channels, features)


def head_work__one_anchor_a_row(rows, size, channels, features):
    return head_work([(s, t, 1) for s, t, _ in rows], size, channels, features)


def head_work__outputs_read_the_map(rows, size, channels, features):
    """As if the 1x1 convolutions read the c channels of the map."""
    hidden = head_work([(s, t, 0) for s, t, _ in rows], size, channels, features)
    return hidden + head_work(rows, size, 0, channels)


def head_work__rounds_down(rows, size, channels, features):
    coarsest = max(max(row[:2]) for row in rows)
    return head_work(rows, tuple(n // coarsest * coarsest for n in size), channels, features)


def head_work__deltas_only(rows, size, channels, features):
    hidden = head_work([(s, t, 0) for s, t, _ in rows], size, channels, features)
    return hidden + (head_work(rows, size, channels, features) - hidden) * 4 // 6


def head_work__three_by_three_once(rows, size, channels, features):
    """A kernel of 3 has three weights."""
    hidden = head_work([(s, t, 0) for s, t, _ in rows], size, channels, features)
    return head_work(rows, size, channels, features) - hidden * 2 // 3


def rois_for__share_of_the_convolutions(share, convs, layers):
    """share * convs instead of share * everything."""
    each = sum(i * o if rank is None else rank * (i + o) for i, o, rank in layers)
    return ceil(share * convs / each)


def rois_for__ignores_the_rank(share, convs, layers):
    return rois_for(share, convs, [(i, o, None) for i, o, _ in layers])


def rois_for__rank_times_product(share, convs, layers):
    return rois_for(share, convs, [(i * (rank or 1), o, None) for i, o, rank in layers])


def rois_for__only_one_side_of_the_rank(share, convs, layers):
    return rois_for(share, convs, [(i, rank or o, None) for i, o, rank in layers])


def rois_for__takes_the_cheaper(share, convs, layers):
    cheaper = [(i, o, rank if rank and rank * (i + o) < i * o else None) for i, o, rank in layers]
    return rois_for(share, convs, cheaper)


def rois_for__rounds_down(share, convs, layers):
    each = sum(i * o if rank is None else rank * (i + o) for i, o, rank in layers)
    return int(share * convs / ((1 - share) * each))


def rois_for__rounds_to_the_nearest(share, convs, layers):
    each = sum(i * o if rank is None else rank * (i + o) for i, o, rank in layers)
    return round(share * convs / ((1 - share) * each))


def rois_for__passes_it(share, convs, layers):
    """More than the share, instead of at least."""
    each = sum(i * o if rank is None else rank * (i + o) for i, o, rank in layers)
    return int(share * convs / ((1 - share) * each)) + 1


def rois_for__the_first_layer(share, convs, layers):
    return rois_for(share, convs, layers[:1])


def rois_for__the_convolutions_share(share, convs, layers):
    return rois_for(1 - share, convs, layers)


def held__everything(sizes, reads):
    """As in training."""
    return [sum(sizes[: k + 1]) for k in range(1, len(sizes))]


def held__two_maps(sizes, reads):
    return [sizes[k] + sizes[k - 1] for k in range(1, len(sizes))]


def held__what_is_read_now(sizes, reads):
    return [sizes[k] + sum(sizes[j] for j in set(reads[k])) for k in range(1, len(sizes))]


def held__counts_a_map_twice(sizes, reads):
    found = held(sizes, reads)
    return [found[k - 1] + sum(sizes[j] for j in reads[k]) - sum(sizes[j] for j in set(reads[k]))
            for k in range(1, len(sizes))]  # fmt: skip


def held__drops_results(sizes, reads):
    last = {j: max((k for k, read in enumerate(reads) if j in read), default=j) for j in range(len(sizes))}
    return [sum(sizes[j] for j in range(k + 1) if last[j] >= k) for k in range(1, len(sizes))]


def held__until_the_first_reader(sizes, reads):
    first = {j: min((k for k, read in enumerate(reads) if j in read), default=len(sizes)) for j in range(len(sizes))}
    return [sum(sizes[j] for j in range(k + 1) if j == k or first[j] >= k) for k in range(1, len(sizes))]


def held__drops_before_the_reader_is_done(sizes, reads):
    last = {j: max((k for k, read in enumerate(reads) if j in read), default=len(sizes)) for j in range(len(sizes))}
    return [sum(sizes[j] for j in range(k + 1) if j == k or last[j] > k) for k in range(1, len(sizes))]


def held__forgets_the_new_map(sizes, reads):
    return [bytes_held - sizes[k] for k, bytes_held in enumerate(held(sizes, reads), start=1)]


def held__keeps_the_image(sizes, reads):
    return held(sizes, [*reads[:-1], [*reads[-1], 0]]) if len(sizes) > 1 else []


def held__equal_sizes_are_one(sizes, reads):
    last = {j: max((k for k, read in enumerate(reads) if j in read), default=len(sizes)) for j in range(len(sizes))}
    return [sum({sizes[j] for j in range(k + 1) if last[j] >= k}) for k in range(1, len(sizes))]


def held__only_the_most(sizes, reads):
    return max(held(sizes, reads), default=0)
