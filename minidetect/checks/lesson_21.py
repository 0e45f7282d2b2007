"""Checks of lesson 21: the work of a convolution and of a proposal head, numbers of RoIs, memory while a net runs.

Letters: C O channels in and out, KH KW kernel, H W size of a map, PH PW of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from minidetect.checks.case import Case, check
from minidetect.reference import nn_ops as slow

Size = tuple[int, int]
HeadRow = tuple[int, int, int]
FullRow = tuple[int, int, int | None]


@check("21.1")
def conv_work() -> Iterator[Case]:
    """Channels in and out, kernel, size, stride, padding, dilation, groups -> multiply-adds, PH, PW."""
    for inputs, outputs, kernel, size, stride, padding, dilation, groups, why in (
        (2, 3, (1, 1), (1, 1), 1, 0, 1, 1, "three outputs, each a sum of two products"),
        (1, 1, (1, 1), (2, 3), 1, 0, 1, 1, "six places, a product each"),
        (1, 1, (2, 3), (2, 3), 1, 0, 1, 1, "a kernel of 2 x 3 fits once and has six weights"),
        (1, 1, (1, 3), (4, 5), 1, 0, 1, 1, "a flat kernel: as many rows as before, two columns fewer"),
        (1, 1, (3, 3), (2, 5), 1, 1, 1, 1, "padding keeps the size; its zeros are multiplied like any number"),
        (1, 1, (3, 3), (4, 6), 2, 1, 1, 1, "stride 2: a quarter of the places"),
        (1, 1, (3, 3), (5, 7), 2, 1, 1, 1, "an odd size, stride 2, padding 1: rounded up to 3 x 4"),
        (1, 1, (3, 3), (6, 8), 2, 0, 1, 1, "an even size without padding: 2 x 3, the last row and column unused"),
        (1, 1, (3, 3), (6, 8), 1, 0, 2, 1, "dilation 2: the kernel reaches over 5 cells, with nine weights as before"),
        (1, 1, (3, 3), (5, 4), 1, 3, 3, 1, "padding 3 keeps the size under dilation 3"),
        (1, 1, (3, 1), (6, 5), 1, 0, 2, 1, "dilation stretches the side of 3 and has nothing to stretch in that of 1"),
        (4, 4, (3, 3), (3, 2), 1, 1, 1, 4, "depthwise: each output reads one channel"),
        (2, 4, (1, 1), (2, 1), 1, 0, 1, 2, "two groups of one channel, two outputs for each: four weights"),
        (4, 6, (1, 1), (2, 1), 1, 0, 1, 2, "two groups: an output reads half of the channels"),
        (6, 4, (3, 2), (9, 8), 2, 1, 2, 2, "everything differs"),
    ):
        given = (inputs, outputs, kernel, size, stride, padding, dilation, groups)
        yield Case(given, by_running(*given), why=why)
    rng = np.random.default_rng(211)
    for _ in range(4):
        groups, kernel = int(rng.integers(1, 4)), tuple(int(n) for n in rng.integers(1, 5, 2))
        channels = [groups * int(n) for n in rng.integers(1, 4, 2)]
        size, rest = tuple(int(n) for n in rng.integers(10, 17, 2)), [int(rng.integers(*ends)) for ends in
                                                                     ((1, 4), (0, 3), (1, 3))]  # fmt: skip
        given = (*channels, kernel, size, *rest, groups)
        yield Case(given, by_running(*given), why="drawn at random")


@check("21.2")
def head_work() -> Iterator[Case]:
    """Rows (stride of the map, stride of the anchors, anchors), image size, c, c' -> multiply-adds."""
    for rows, size, channels, features, why in (
        ([(4, 4, 1)], (4, 4), 1, 1, "one cell with one anchor: 9 for the hidden number, 6 for the anchor's"),
        ([(4, 4, 2)], (4, 4), 1, 1, "two anchors in a cell share its hidden numbers"),
        ([(4, 4, 1), (4, 4, 1)], (4, 4), 1, 1, "two rows on one map: its hidden numbers are made once"),
        ([(4, 4, 1), (8, 8, 1)], (8, 8), 1, 1, "two maps: 4 cells and 1, each with hidden numbers of its own"),
        ([(4, 8, 1)], (8, 8), 1, 1, "anchors in one cell of four; hidden numbers in all of them"),
        ([(4, 4, 1), (4, 8, 1)], (8, 8), 1, 1, "4 anchors of one row, 1 of the other, on one map of 4 cells"),
        ([(4, 4, 1)], (8, 12), 3, 1, "three channels in: 27 products a hidden number, and still 6 an anchor"),
        ([(4, 4, 1)], (8, 12), 1, 3, "three hidden channels: each is made, and each is read by the outputs"),
        ([(8, 8, 1)], (9, 17), 1, 1, "a last part of a cell counts as one: 2 x 3"),
        ([(4, 16, 3)], (33, 50), 2, 3, "rounded up for the cells (9 x 13) and for the anchors (3 x 4)"),
        ([(16, 16, 9)], (600, 1000), 512, 512, "nine anchors on a map of stride 16, as in Faster R-CNN"),
        ([(4, 4, 1), (8, 8, 1), (16, 16, 1)], (48, 80), 5, 7, "a map for each row"),
        ([(8, 8, 2), (4, 4, 1), (8, 16, 1)], (50, 70), 6, 4, "the first and the third row are on the same map"),
    ):
        given = (rows, size, channels, features)
        yield Case(given, cell_by_cell(*given), why=why)
    rng = np.random.default_rng(212)
    for num in (3, 5):
        strides = 4 * 2 ** rng.integers(0, 3, (num, 2))
        rows = [(int(s), int(s * t) // 4, int(n)) for (s, t), n in zip(strides, rng.integers(1, 4, num), strict=True)]
        given = (rows, tuple(int(n) for n in rng.integers(40, 90, 2)), *(int(n) for n in rng.integers(2, 9, 2)))
        yield Case(given, cell_by_cell(*given), why=f"{num} rows drawn at random")


@check("21.3")
def rois_for() -> Iterator[Case]:
    """Share, multiply-adds of the convolutions, layers (inputs, outputs, rank or None) -> RoIs."""
    one, two = [(2, 5, None)], [(4, 5, None), (5, 3, None)]
    for share, convs, layers, why in (
        (0.5, 10, one, "one RoI costs 10, as much as the convolutions"),
        (0.5, 11, one, "two RoIs: one would fall short, and there is no part of a RoI"),
        (0.5, 100, one, "exactly ten: a share of one half is reached, not passed"),
        (0.75, 100, one, "thirty times 10 is three quarters of 400; 75 % of the convolutions alone would be too few"),
        (0.25, 90, one, "three times 10 is a quarter of 120"),
        (0.0, 100, one, "a share of nothing needs no RoI"),
        (0.5, 0, one, "no convolutions: without a RoI there is nothing to have a share of, with one it is all of it"),
        (0.5, 350, two, "two layers: 20 and 15"),
        (0.5, 700, [(20, 50, 3)], "rank 3: two layers of 3 x 20 and 50 x 3 numbers, 210 together"),
        (0.5, 1400, [(20, 50, 20)], "a rank of 20 is too large to save anything and costs 1400 instead of 1000"),
        (0.5, 1400, [(20, 50, 1), (50, 7, None)], "one layer of rank 1, one as it was: 70 + 350"),
        (0.5, 999, [(20, 50, 3), (50, 20, 4)], "210 + 280: three RoIs"),
        (0.9, 12345, [(31, 17, None), (17, 6, 2)], "much more than half"),
    ):
        yield Case((share, convs, layers), by_trying(share, convs, layers), why=why)
    rng = np.random.default_rng(213)
    for _ in range(3):
        share, convs, layers = float(rng.uniform(0.1, 0.9)), int(rng.integers(1e5, 9e5)), random_layers(rng)
        yield Case((share, convs, layers), by_trying(share, convs, layers), why="drawn at random")


@check("21.4")
def held() -> Iterator[Case]:
    """sizes, reads; map 0 is the image -> bytes in memory while maps 1, 2, ... are made."""
    for sizes, reads, why in (
        ([3, 5], [[], [0]], "the image and what is made from it"),
        ([3, 5, 2], [[], [0], [1]], "a chain: the image is dropped once map 1 is there"),
        ([3, 5, 2, 7], [[], [0], [1], [2]], "a chain: never more than two maps"),
        ([3, 5, 2, 7], [[], [0], [1], [1]], "map 2 is a result: nobody reads it, so it stays to the end"),
        ([3, 5, 2, 7], [[], [0], [1], [1, 2]], "map 1 waits until map 3 has read it"),
        ([3, 5, 2, 7], [[], [0], [1], [2, 0]], "the image is read again, late"),
        ([3, 5, 2, 7, 1], [[], [0], [1], [2], [1, 3]], "map 1 is held while maps 2, 3 and 4 are made, map 2 is not"),
        ([3, 5, 5, 7], [[], [0], [0], [1, 2]], "two maps of the image; equal sizes are not the same map"),
        ([3, 5, 4], [[], [0], [1, 1]], "map 2 reads map 1 twice; it is in memory once"),
        ([3], [[]], "only the image: nothing is made"),
        ([4, 9, 6, 3, 2, 8], [[], [0], [1], [2], [3], [4, 2]], "up, down, and a sum with a map of long ago"),
    ):
        yield Case((sizes, reads), by_counting_readers(sizes, reads), why=why)
    rng = np.random.default_rng(214)
    for num in (6, 12):
        reads = [[], *(sorted({int(j) for j in rng.integers(0, k, 2)}) for k in range(1, num))]
        sizes = [int(n) for n in rng.integers(1, 99, num)]
        yield Case((sizes, reads), by_counting_readers(sizes, reads), why=f"{num} maps drawn at random")


def by_running(
    inputs: int, outputs: int, kernel: Size, size: Size, stride: int, padding: int, dilation: int, groups: int
) -> tuple[int, int, int]:
    """By the slow convolution of zeros: every number of the output is a sum over one filter's weights."""
    weights = np.zeros((outputs, inputs // groups, *kernel))
    y = slow.conv2d(np.zeros((1, inputs, *size)), weights, None, stride, padding, dilation, groups)
    return y.size * weights[0].size, y.shape[2], y.shape[3]


def cell_by_cell(rows: Sequence[HeadRow], size: Size, channels: int, features: int) -> int:
    """By going through the cells of every map and the places of every row."""

    def places(stride: int) -> int:
        return sum(1 for _ in range(0, size[0], stride) for _ in range(0, size[1], stride))

    hidden = sum(places(stride) for stride in {row[0] for row in rows})
    anchors = sum(places(stride) * num for _, stride, num in rows)
    return hidden * features * 9 * channels + anchors * 6 * features


def random_layers(rng: np.random.Generator) -> list[FullRow]:
    inputs, middle, outputs = (int(n) for n in rng.integers(9, 60, 3))
    return [(inputs, middle, int(rng.integers(1, 9))), (middle, outputs, None)]


def by_trying(share: float, convs: int, layers: Sequence[FullRow]) -> int:
    """One RoI more at a time, each layer's cost by the matrices that it consists of."""
    shapes = [[(o, i)] if rank is None else [(rank, i), (o, rank)] for i, o, rank in layers]
    each = sum(np.zeros(shape).size for layer in shapes for shape in layer)
    num = 0
    while num * each < share * (convs + num * each) or (share > 0 and num * each + convs == 0):
        num += 1
    return num


def by_counting_readers(sizes: Sequence[int], reads: Sequence[Sequence[int]]) -> list[int]:
    """By running it: a map goes when its last reader is done, and one without a reader never."""
    waiting = [sum(j in read for read in reads) for j in range(len(sizes))]
    memory, found = {0}, []
    for k in range(1, len(sizes)):
        memory.add(k)
        found.append(sum(sizes[j] for j in memory))
        for j in set(reads[k]):
            waiting[j] -= 1
            if waiting[j] == 0:
                memory.remove(j)
    return found
