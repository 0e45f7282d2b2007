"""Cases for the GPU: every kernel over the shapes that the models use.

    EXTD-32       maps of 640 x 640 photos, one and eight at a time
    FaceCraft     a joint training step, 128 patches at a time
    Faster R-CNN  128 regions of a map of 256 channels

`FULL` has those shapes, `TINY` the smallest that go the same ways, for the simulator.

A case is a function of arrays. Given NumPy's it runs the processor's kernel, and that is what the result on the GPU is
held against; given arrays on the GPU, the GPU's.

How bytes are counted: what must be moved through the GPU's memory if every input is read once and every output written
once, with float32 and int32 at 4 bytes. Batch norm has to know a sum before it can use it, so there x (backward: x and
gy) counts twice, as in layers.py. Vectors of a number a channel are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minidetect.benchmark.boxes import THRESHOLD, random_boxes, torch_iou
from minidetect.benchmark.conv import DEPTHWISE, EXTD, FACECRAFT, FPN, Shape
from minidetect.benchmark.layers import MAPS, POOLS, ROIS, SOFTMAX, Size, inside, random_rois, size_name
from minidetect.kernels.conv import conv2d_backward, conv2d_forward
from minidetect.kernels.iou import best_overlaps, iou_matrix
from minidetect.kernels.nms import nms
from minidetect.kernels.roi_pool import roi_pool_backward, roi_pool_forward
from minidetect.kernels.roi_pool_cuda import roi_pool_backward_atomic

Arrays = tuple[np.ndarray, ...]
MEMORY, ARITHMETIC, NEITHER = "memory", "arithmetic", "neither"  # what a kernel should be held up by
DRAWN = (1 << 22) + 1  # random numbers of a large array are repeated from here on: drawing takes longer than the GPU
BINS = (7, 7)


@dataclass(frozen=True)
class GpuCase:
    """One kernel on one shape.

    arrays: makes the inputs, always the same. call: takes these, NumPy's or on the GPU.
    torch: given PyTorch and the inputs as tensors, a call without arguments that computes the same.
    expected: the right result from NumPy's arrays where that is not `call` itself.
    flops: a multiply-add counts as 2. bytes: see the top of this file. 0 where they say nothing.
    tolerance: largest difference to the processor's result, as a share of its largest value; 0 for the same bits.
    peer_wrong_share: so many of PyTorch's values may be others; peer_agrees: given the right result and PyTorch's, for
    what can't be compared place by place.
    """

    family: str
    name: str
    bound: str
    arrays: Callable[[], Arrays]
    call: Callable[..., Any]
    torch: Callable[..., Callable[[], Any]] | None = None
    expected: Callable[..., Any] | None = None
    flops: float = 0
    bytes: float = 0
    tolerance: float = 1e-4
    peer_wrong_share: float = 0
    peer_agrees: Callable[[np.ndarray, np.ndarray], bool] | None = None


@dataclass(frozen=True)
class Shapes:
    """maps: (N, C, H, W); pools: map, kernel, ceil mode, stride 2; averages: map, kernel and stride; resizes: map,
    new size; rows: of a softmax; rois: map, number of RoIs; overlaps: N, M; suppressions: name, boxes, clusters."""

    maps: tuple[Size, ...]
    pools: tuple[tuple[Size, int, bool], ...]
    averages: tuple[tuple[Size, int], ...]
    resizes: tuple[tuple[Size, tuple[int, int]], ...]
    rows: tuple[Size, ...]
    depthwise: tuple[Shape, ...]
    convs: tuple[Shape, ...]
    rois: tuple[tuple[Size, int], ...]
    overlaps: tuple[tuple[int, int], ...]
    suppressions: tuple[tuple[str, int, int], ...]


def eight(size: Size) -> Size:
    return (8, *size[1:])


LARGE = 1_000_000  # rows of a softmax that no cache holds
FULL = Shapes(
    maps=(eight(MAPS[0]), MAPS[0], eight(MAPS[1]), MAPS[1], MAPS[3]),
    pools=((eight(POOLS[5][0]), *POOLS[5][1:]), POOLS[5], *POOLS[2:4]),
    averages=(((128, 3, 48, 48), 4), ((128, 3, 48, 48), 2), ((8, 64, 160, 160), 2)),
    resizes=(
        ((1, 32, 160, 160), (320, 320)), ((8, 32, 80, 80), (160, 160)), ((1, 32, 40, 40), (80, 80)),
        ((8, 32, 160, 160), (320, 320)),
    ),
    rows=((8 * SOFTMAX[0][0], 2), *SOFTMAX, (LARGE, 2), (LARGE, 21)),
    depthwise=(*(s for s in DEPTHWISE if s.h > 80), *(replace(s, n=8) for s in DEPTHWISE if s.h == 160)),
    convs=(
        *(s for s in FACECRAFT if s.n > 1),
        *(s for s in EXTD if s.h in (640, 320, 80) or s.o == 4),
        *(replace(s, n=8) for s in EXTD if s.h in (640, 80)),
        *(s for s in FPN if s.kernel == 3),
    ),
    rois=ROIS,
    overlaps=((10_000, 100), (10_000, 1_000), (34_125, 50)),
    suppressions=(
        ("10000 in clusters", 10_000, 300), ("10000 scattered", 10_000, 0), ("1000 in clusters", 1_000, 100),
    ),
)  # fmt: skip
TINY = Shapes(
    maps=((2, 2, 3, 4),),
    pools=(((1, 2, 6, 5), 3, True),),
    averages=(((1, 2, 4, 4), 2),),
    resizes=(((1, 1, 2, 3), (4, 6)),),
    rows=((3, 2), (1, 10)),
    depthwise=(Shape("tiny", 1, 2, 4, 3, 2, 3, 1, 1, groups=2),),
    convs=(Shape("tiny", 1, 2, 4, 4, 2, 3, 1, 1), Shape("tiny", 2, 2, 3, 2, 3, 1)),
    rois=(((1, 2, 5, 6), 2),),
    overlaps=((6, 3),),
    suppressions=(("tiny", 9, 3),),
)  # fmt: skip


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """float32; beyond DRAWN of them they come again."""
    size = math.prod(shape)
    drawn = np.random.default_rng(seed).standard_normal(min(size, DRAWN), np.float32)
    return np.resize(drawn, size).reshape(shape)


# ------------------------------------------------------------------------------------------- convolution


def conv_cases(shapes: Shapes) -> Iterator[GpuCase]:
    for s in shapes.convs:
        yield forward_case(s, "conv forward", ARITHMETIC)
    for s in shapes.convs:
        if s.gradients:
            yield gradient_case(s, 0, "conv input gradient", ARITHMETIC)
    for s in shapes.convs:
        yield gradient_case(s, 1, "conv weight gradient", ARITHMETIC)


def depthwise_cases(shapes: Shapes) -> Iterator[GpuCase]:
    for s in shapes.depthwise:
        yield forward_case(s, "depthwise forward", MEMORY)
        yield gradient_case(s, 0, "depthwise input gradient", MEMORY)
        yield gradient_case(s, 1, "depthwise weight gradient", MEMORY)


def forward_case(s: Shape, family: str, bound: str) -> GpuCase:
    settings = s.stride, s.padding, 1, s.groups
    return GpuCase(
        family, s.name, bound, lambda: s.arrays()[:3], lambda x, w, b: conv2d_forward(x, w, b, *settings),
        lambda torch, x, w, b: lambda: torch.conv2d(x, w, b, *settings), flops=s.flops, bytes=s.bytes,
    )  # fmt: skip


def gradient_case(s: Shape, which: int, family: str, bound: str) -> GpuCase:
    """which: 0 for the input's gradient, 1 for the weights'. A sum over up to a million positions, in some order."""
    needs, settings = (which == 0, which == 1), (s.stride, s.padding, 1, s.groups)

    def arrays() -> Arrays:
        x, w, _, gy = s.arrays()
        return gy, x, w

    def theirs(torch: Any, gy: Any, x: Any, w: Any) -> Callable[[], Any]:
        more = (None, [s.stride] * 2, [s.padding] * 2, [1, 1], False, [0, 0], s.groups, [*needs, False])
        return lambda: torch.ops.aten.convolution_backward(gy, x, w, *more)[which]

    return GpuCase(
        family, s.name, bound, arrays, lambda gy, x, w: conv2d_backward(gy, x, w, *settings, needs)[which], theirs,
        flops=s.flops, bytes=s.bytes, tolerance=1e-3 if which else 1e-4,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- regions, boxes


def roi_cases(shapes: Shapes) -> Iterator[GpuCase]:
    """Caffe's inclusive corners, as torchvision has them: its float32 edges read one cell more now and then."""
    for size, count in shapes.rois:
        yield from roi_pool_cases(size, count)


def roi_pool_cases(size: Size, count: int) -> Iterator[GpuCase]:
    name, moved = f"{count} rois {size_name(size)}", 4.0 * (math.prod(size) + 2 * count * size[1] * math.prod(BINS))

    def forward() -> Arrays:
        return normal(*size), inside(random_rois(size, count), size)

    def backward() -> Arrays:
        x, rois = forward()
        y, winners = roi_pool_forward(x, rois, BINS, 1.0, True)
        return normal(*y.shape, seed=1), winners, rois

    def ordered(gy: Any, winners: Any, rois: Any) -> Any:
        return roi_pool_backward(gy, winners, rois, size)

    def atomic(gy: Any, winners: Any, rois: Any) -> Any:
        return roi_pool_backward_atomic(gy, winners, rois, size)

    def theirs(torch: Any, gy: Any, winners: Any, rois: Any) -> Callable[[], Any]:
        """Atomic, too."""
        walk_back = torch.ops.torchvision._roi_pool_backward
        return lambda: walk_back(gy, rois, winners, 1.0, *BINS, *size)

    yield GpuCase(
        "roi pool forward", name, NEITHER, forward, lambda x, rois: roi_pool_forward(x, rois, BINS, 1.0, True),
        lambda torch, x, rois: lambda: torch.ops.torchvision.roi_pool(x, rois, 1.0, *BINS)[0],
        bytes=moved, tolerance=0, peer_wrong_share=0.02,
    )  # fmt: skip
    yield GpuCase("roi pool backward, ordered", name, NEITHER, backward, ordered, theirs, bytes=moved, tolerance=0)
    yield GpuCase("roi pool backward, atomic", name, NEITHER, backward, atomic, theirs, ordered, bytes=moved)


def box_cases(shapes: Shapes) -> Iterator[GpuCase]:
    """torchvision has its suppression, like its RoI pooling, among PyTorch's operators as soon as it is loaded. Ours
    brings the indices to the processor, which wants them; theirs stay on the GPU."""
    for n, m in shapes.overlaps:

        def boxes(n: int = n, m: int = m) -> Arrays:
            both = random_boxes(n + m, min(300, n))[0]
            return both[:n], both[n:]

        yield GpuCase(
            "iou", f"{n} x {m}", NEITHER, boxes, iou_matrix,
            lambda torch, a, b: lambda: torch_iou(torch, a, b), bytes=4.0 * (4 * (n + m) + n * m), tolerance=0,
        )  # fmt: skip
        yield GpuCase(
            "best overlaps", f"{n} x {m}", NEITHER, boxes, best_overlaps,
            lambda torch, a, b: lambda: (None, torch_iou(torch, a, b).max(1).values), tolerance=0,
        )  # fmt: skip
    for name, count, clusters in shapes.suppressions:
        yield GpuCase(
            "nms", name, NEITHER, lambda count=count, clusters=clusters: random_boxes(count, clusters),
            lambda boxes, scores: nms(boxes, scores, THRESHOLD),
            lambda torch, boxes, scores: lambda: torch.ops.torchvision.nms(boxes, scores, THRESHOLD),
            tolerance=0, peer_agrees=nearly_all,
        )  # fmt: skip


def nearly_all(right: np.ndarray, other: np.ndarray) -> bool:
    """Of boxes that are kept: torchvision computes in float32, and an overlap close to the threshold may fall the other
    way, with all that hangs on it."""
    return len(np.intersect1d(right, other)) >= 0.99 * max(len(right), len(other))
