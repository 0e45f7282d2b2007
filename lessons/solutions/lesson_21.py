"""Solutions of lesson 21. Try first: the checks tell you more than this file does."""

from __future__ import annotations

from math import ceil


def conv_work(inputs, outputs, kernel, size, stride, padding, dilation, groups):
    """As many products for each number of the output as a filter has weights."""
    reach = [dilation * (k - 1) + 1 for k in kernel]
    height, width = ((n + 2 * padding - r) // stride + 1 for n, r in zip(size, reach, strict=True))
    weights = inputs // groups * kernel[0] * kernel[1]
    return outputs * height * width * weights, height, width


def head_work(rows, size, channels, features):
    """Hidden numbers once for each map, outputs for each row."""

    def places(stride):
        return -(-size[0] // stride) * -(-size[1] // stride)

    hidden = sum(9 * channels * features * places(stride) for stride in {row[0] for row in rows})
    return hidden + sum(6 * features * num * places(stride) for _, stride, num in rows)


def rois_for(share, convs, layers):
    """n * each >= share * (convs + n * each), solved for n. Any share above 0 needs a RoI."""
    each = sum(i * o if rank is None else rank * (i + o) for i, o, rank in layers)
    return max(ceil(share * convs / ((1 - share) * each)), 1 if share > 0 else 0)


def held(sizes, reads):
    """A map that nobody reads is a result: as if it were read after the end."""
    last = {j: max((k for k, read in enumerate(reads) if j in read), default=len(sizes)) for j in range(len(sizes))}
    return [sum(sizes[j] for j in range(k + 1) if last[j] >= k) for k in range(1, len(sizes))]
