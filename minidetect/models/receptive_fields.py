"""Which pixels a detector's answer depends on, and how that compares with the anchor that it judges.

S3FD, section 3.1 and Table 1: what counts most is the middle of the field, so that anchors should be much smaller than
it. S3FD's own fields are 3, 3.4, 3.6, 2.7, 1.8 and 1.4 times their anchors.

Each row of a map sees rows low to high of the image. Layer by layer, from those of the layer's input:

    convolution, pooling    from the low of the window's first row to the high of its last
    norm, activation        the same
    sum                     the smaller low, the larger high
    bilinear resizing       of the two rows that are blended

For a chain of layers that is the recursion of `unit_view.receptive_field`: size += (kernel - 1) * stride. A pass of F
with n convolutions of 3x3 on a map of stride S adds 2 * n * S, and the next pass adds twice that:

    EXTD-32     f_i: 31, 79, 175, 367, 751, 1519 pixels      n = 6
    EXTD-48     f_i: 23, 55, 119, 247, 503, 1015             n = 4, as in EXTD-64

The maps of the upsampling path see all that f_6 sees, and more: an anchor of 16 pixels is judged by 2,031 x 2,031 of
them (1,527 x 1,527 at widths 48 and 64).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.autograd.tensor import Tensor, topological_order
from minidetect.kernels.resize import map_taps
from minidetect.models.s3fd import MaxPool2d
from minidetect.models.shape_trace import Use, trace
from minidetect.models.single_shot import CELLS, SingleShot
from minidetect.nn.layers import Conv2d
from minidetect.ops.elementwise import Add
from minidetect.ops.resize import Resize


class Field(NamedTuple):
    """Of one map, in pixels: its stride, the side of its anchors, and the side of the square that a cell sees.

    size: what a cell of the map sees. of_head: what the 3x3 convolution of a head sees there (S3FD's Table 1).
    ratio: of_head by anchor.
    """

    stride: int
    anchor: int
    size: int
    of_head: int
    ratio: float


class Rows(NamedTuple):
    """The rows of the image that each row of a map sees, low to high, both included: (PH,) int64 each."""

    low: np.ndarray
    high: np.ndarray


def receptive_fields(model: SingleShot) -> list[Field]:
    """Of each map, finest first, where no border cuts it. Raises as `trace` does, and for operations not known here.

    After resizing, fields of neighbours differ by a row or two of the coarser map; the largest counts. The image is
    made so tall that twice the height changes nothing.
    """
    height, before = 512, None
    while True:
        height *= 2
        maps = rows_of_maps(model, height)
        sizes = [(uncut_size(rows, height), uncut_size(seen_by_head(rows), height)) for rows in maps]
        if sizes == before and all(min(pair) > 0 for pair in sizes):
            break
        before = sizes
    return [
        Field(side // CELLS, side, size, of_head, of_head / side)
        for side, (size, of_head) in zip(model.sides, sizes, strict=True)
    ]


def uncut_size(rows: Rows, height: int) -> int:
    """The largest field that does not reach the image's border; 0 if all do."""
    inside = (rows.low > 0) & (rows.high < height - 1)
    return int((rows.high - rows.low + 1)[inside].max(initial=0))


def rows_of_maps(model: SingleShot, height: int) -> list[Rows]:
    """Of each map of an image that is `height` rows tall."""
    maps = trace(model, (height, 1)).maps
    seen: dict[int, Rows] = {}
    for x in (x for y in maps for x in topological_order(y)):
        if id(x) not in seen:
            sources = x.creator.inputs if x.creator else ()
            seen[id(x)] = rows_of(x, [seen[id(source)] for source in sources if source.requires_grad])
    return [seen[id(y)] for y in maps]


def rows_of(x: Tensor, sources: list[Rows]) -> Rows:
    """Of one tensor by those that it was computed from."""
    function = x.creator
    if function is None:  # the image
        rows = np.arange(x.shape[2])
        return Rows(rows, rows)
    if isinstance(function, Use):
        layer = function.layer
        if isinstance(layer, Conv2d):
            return through_window(sources[0], x.shape[2], layer.weight.shape[2], *layer.settings[:3])
        if isinstance(layer, MaxPool2d):
            return through_window(sources[0], x.shape[2], layer.kernel, layer.stride)
        return sources[0]
    if isinstance(function, Add):
        return Rows(np.minimum(*(s.low for s in sources)), np.maximum(*(s.high for s in sources)))
    if isinstance(function, Resize):
        first, weights = map_taps(len(sources[0].low), x.shape[2], function.mode, x.dtype)
        return Rows(sources[0].low[first], sources[0].high[first + weights.shape[1] - 1])
    raise ValueError(f"{function.name}: rows through such an operation are not known to receptive_fields.py")


def through_window(
    rows: Rows, outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Rows:
    """Of a convolution's or a pooling's `outputs`, by those of its input. Padding sees nothing."""
    first = np.arange(outputs) * stride - padding
    last = first + (kernel - 1) * dilation
    end = len(rows.low) - 1
    return Rows(rows.low[np.clip(first, 0, end)], rows.high[np.clip(last, 0, end)])


def seen_by_head(rows: Rows) -> Rows:
    """By the 3x3 convolution of a head on a map, see `single_shot.head`."""
    return through_window(rows, len(rows.low), kernel=3, padding=1)
