"""Which anchors stand on which feature map, how far apart: the layouts that Group Sampling compares.

Group Sampling, section 3 and Fig. 1. A backbone has maps C2 to C5 with strides of 4, 8, 16, 32 pixels, its feature
pyramid P2 to P5 with the same. Anchors are squares with sides ("scales") of 16, 32, 64 and 128 pixels:

                          16        32        64        128      the scale; map / stride of its anchors
    RPN                 C4 / 16   C4 / 16   C4 / 16   C4 / 16
    FPN                 P2 / 4    P3 / 8    P4 / 16   P5 / 32
    FPN_FINEST_STRIDE   P2 / 4    P2 / 8    P2 / 16   P2 / 32    P2, of which each 2nd, 4th, 8th cell is used
    FPN_FINEST          P2 / 4    P2 / 4    P2 / 4    P2 / 4     `single("P2")`
    SSD                 C2 / 4    C3 / 8    C4 / 16   C5 / 32    maps without lateral connections

and RETINAFACE, with three scales on each of P2 to P6.

Stride decides how many anchors a scale has, and scale / stride how well they cover: the best of them has at worst an
IoU of 0.39 with a square of its own size at a ratio of 2, of 0.62 at 4 and 0.78 at 8. With a threshold of 0.6 only a
ratio of 4 and more is sure to match.

Letters: H W size of an image, S scales, R ratios, A anchors of all maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidetect.detection.anchors import AnchorGrid

SCALES = (16, 32, 64, 128)
COCO_SCALES = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class AnchorRow:
    """Anchors of some scales on one map. feature: its name; stride: pixels between anchors, 1, 2, 4, ... cells."""

    feature: str
    stride: int
    scales: tuple[int, ...]


@dataclass(frozen=True)
class AnchorLayout:
    """rows: of anchors, in the order in which a detector has them. ratios: height over width.

    unit: the stride of C2 and P2 in pixels; each further map has twice the stride of the one before.
    """

    rows: tuple[AnchorRow, ...]
    ratios: tuple[float, ...] = (1.0,)
    unit: int = 4

    def __post_init__(self) -> None:
        if not self.rows or self.unit < 1 or not self.ratios or min(self.ratios) <= 0:
            raise ValueError(f"AnchorLayout needs rows, ratios above 0 and a unit of at least 1 pixel: {self}")
        for row in self.rows:
            if row.feature[:1] not in ("C", "P") or not row.feature[1:].isdigit() or int(row.feature[1:]) < 2:
                raise ValueError(f"AnchorLayout: maps are C2, C3, ... and P2, P3, ..., got {row.feature!r}")
            if not row.scales or min(row.scales) <= 0:
                raise ValueError(f"AnchorLayout: {row.feature} needs scales above 0, got {row.scales}")
            cells, rest = divmod(row.stride, self.map_stride(row.feature))
            if rest or cells < 1 or cells & (cells - 1):
                raise ValueError(
                    f"AnchorLayout: anchors on {row.feature} stand in each 1st, 2nd, 4th, ... of its cells, which are "
                    f"{self.map_stride(row.feature)} pixels wide; that does not go with a stride of {row.stride}"
                )

    @property
    def scales(self) -> tuple[int, ...]:
        """All scales, ascending: anchors of one scale are one group."""
        return tuple(sorted({scale for row in self.rows for scale in row.scales}))

    @property
    def features(self) -> tuple[str, ...]:
        """The maps, each once, in the order of the rows."""
        return tuple(dict.fromkeys(row.feature for row in self.rows))

    @property
    def period(self) -> int:
        """The largest stride of a map or of anchors: an image whose sides are multiples of it is covered evenly."""
        return max(max(self.map_stride(row.feature), row.stride) for row in self.rows)

    def map_stride(self, feature: str) -> int:
        """Pixels a cell of a map."""
        return self.unit * 2 ** (int(feature[1:]) - 2)

    def per_cell(self, row: AnchorRow) -> int:
        """Anchors in each of a row's places: scales times ratios."""
        return len(row.scales) * len(self.ratios)

    def places(self, row: AnchorRow, image_size: tuple[int, int]) -> tuple[int, int]:
        """How many rows and columns of anchors an image of (height, width) gets, a last part counting as one."""
        return tuple(-(-n // row.stride) for n in image_size)

    def anchors(self, image_size: tuple[int, int]) -> np.ndarray:
        """(A, 4) float32 for an image of (height, width): by rows of the layout, lines, columns, scales, then ratios.

        An anchor's centre is that of the square of stride x stride pixels that it stands for, whichever map it is on.
        """
        grids = [AnchorGrid(row.stride, tuple(map(float, row.scales)), self.ratios) for row in self.rows]
        return np.concatenate(
            [grid.boxes(*self.places(row, image_size)) for grid, row in zip(grids, self.rows, strict=True)]
        )

    def groups(self, image_size: tuple[int, int]) -> np.ndarray:
        """(A,) int64: the group of each anchor, as a row of `scales`."""
        parts = []
        for row in self.rows:
            height, width = self.places(row, image_size)
            of_cell = np.repeat([self.scales.index(scale) for scale in row.scales], len(self.ratios))
            parts.append(np.tile(of_cell, height * width))  # (S*R,) -> (H*W*S*R,)
        return np.concatenate(parts).astype(np.int64)

    def only(self, scales: Sequence[int]) -> AnchorLayout:
        """The same with anchors of these scales alone. Group Sampling, Table 7, column 'S'."""
        if unknown := set(scales) - set(self.scales):
            raise ValueError(f"there are anchors of {self.scales}, not of {sorted(unknown)}")
        kept = [(row, tuple(scale for scale in row.scales if scale in scales)) for row in self.rows]
        return replace(self, rows=tuple(replace(row, scales=left) for row, left in kept if left))

    def shrunk(self, factor: int) -> AnchorLayout:
        """Scales, strides and maps a `factor` smaller: the same layout for a smaller world."""
        sizes = [self.unit, *(n for row in self.rows for n in (row.stride, *row.scales))]
        if factor < 1 or any(n % factor for n in sizes):
            raise ValueError(f"{factor} must divide every stride and scale of {self}")
        rows = [
            AnchorRow(row.feature, row.stride // factor, tuple(scale // factor for scale in row.scales))
            for row in self.rows
        ]
        return replace(self, rows=tuple(rows), unit=self.unit // factor)


def one_each(features: str, scales: Sequence[int] = SCALES) -> AnchorLayout:
    """One scale on each of the maps C2, C3, ... ("C") or P2, P3, ... ("P"), with that map's own stride."""
    rows = [AnchorRow(f"{features}{k}", 4 * 2 ** (k - 2), (scale,)) for k, scale in enumerate(scales, start=2)]
    return AnchorLayout(tuple(rows))


def single(feature: str, stride: int | None = None, scales: Sequence[int] = SCALES) -> AnchorLayout:
    """All scales on one map; stride: of the anchors, None for the map's own. Group Sampling, section 3, FPN-single."""
    if feature[1:].isdigit() and stride is None:
        stride = 4 * 2 ** (int(feature[1:]) - 2)
    return AnchorLayout((AnchorRow(feature, stride or 0, tuple(scales)),))


def finest_stride(scales: Sequence[int] = SCALES) -> AnchorLayout:
    """All scales on P2, each with the stride that it has in FPN."""
    return AnchorLayout(tuple(AnchorRow("P2", 4 * 2**k, (scale,)) for k, scale in enumerate(scales)))


RPN = single("C4")
FPN = one_each("P")
FPN_FINEST_STRIDE = finest_stride()
FPN_FINEST = single("P2")
SSD = one_each("C")
COCO_RATIOS = (0.5, 1.0, 2.0)
COCO_FPN = replace(one_each("P", COCO_SCALES), ratios=COCO_RATIOS)  # with P6
# Deng et al., "RetinaFace" (2020): three scales on each map, a third of an octave apart.
RETINAFACE = AnchorLayout(
    tuple(AnchorRow(f"P{k}", 2**k, tuple(round(2 ** (k + 2 + third / 3)) for third in range(3))) for k in range(2, 7))
)
LAYOUTS = {
    "rpn": RPN, "fpn": FPN, "fpn-finest-stride": FPN_FINEST_STRIDE, "fpn-finest": FPN_FINEST, "ssd": SSD,
    "retinaface": RETINAFACE,
}  # fmt: skip
