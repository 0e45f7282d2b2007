"""Single-shot face detectors: one pass over an image, one anchor in every cell of every map.

Zhang et al., "S3FD: Single Shot Scale-invariant Face Detector", ICCV 2017, whose anchors, heads and tests EXTD takes
over unchanged (section 3.1). A model of this family says how its maps are made (`maps`); the rest is here.

    x -> maps, finest first -> 3x3 convolutions -> logits, deltas of every anchor -> detection as in anchor_detector.py
                               (`Heads`)            (`predict`)

    map       1    2    3    4    5    6
    stride    4    8   16   32   64  128   pixels a cell
    anchor   16   32   64  128  256  512   its side, in pixels: always four cells, so that maps differ only in scale

Their losses are in single_shot_loss.py, tests at several scales in single_shot_scales.py.

Letters: N images, C channels, H W size of an image, PH PW of a map, A anchors of all maps together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.detection.anchors import AnchorGrid
from minidetect.detection.box_coder import SSD_STD, BoxCoder
from minidetect.models.anchor_detector import AnchorDetector, Prediction
from minidetect.nn.init import normal
from minidetect.nn.layers import Conv2d
from minidetect.nn.module import Module
from minidetect.ops.reduce import max as maximum
from minidetect.ops.shape import concat, getitem, reshape, transpose

SIDES = (16, 32, 64, 128, 256, 512)  # of the anchors, S3FD's
CELLS = 4  # cells a side of an anchor: the stride is a quarter of its side
BACKGROUNDS = 3  # what the finest map's classifier says of the background, to take the largest of


def max_out_background(scores: Tensor) -> Tensor:
    """(N, 4, PH, PW), three scores of the background and one of the face -> (N, 2, PH, PW): the best of the three.

    EXTD, section 3.3, after S3FD. Nearly all small anchors are background, of many kinds; a false face must beat the
    three of them. Only the winner of each place gets a gradient (winners that tie share it).
    """
    background = maximum(getitem(scores, np.s_[:, :BACKGROUNDS]), axis=1, keepdims=True)
    return concat([background, getitem(scores, np.s_[:, BACKGROUNDS:])])


class Heads(Module):
    """A classifier and a regressor for each map: one 3x3 convolution each. EXTD, section 3.3 and Fig. 3 (e), (f).

    channels: of each map, finest first.
    """

    def __init__(self, channels: Sequence[int], rng: np.random.Generator) -> None:
        outputs = [BACKGROUNDS + 1] + [2] * (len(channels) - 1)
        self.logits = [head(c, out, rng) for c, out in zip(channels, outputs, strict=True)]
        self.deltas = [head(c, 4, rng) for c in channels]

    def __call__(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: (N, C, PH, PW) each -> logits (N, A, 2), deltas (N, A, 4); anchors by maps, rows, columns."""
        logits = [conv(x) for conv, x in zip(self.logits, maps, strict=True)]
        logits[0] = max_out_background(logits[0])
        deltas = [conv(x) for conv, x in zip(self.deltas, maps, strict=True)]
        return tuple(concat([by_anchor(x) for x in outputs]) for outputs in (logits, deltas))


def head(channels: int, outputs: int, rng: np.random.Generator) -> Conv2d:
    """A 3x3 convolution whose outputs begin near 0, so that nothing is certain before anything is learned."""
    conv = Conv2d(channels, outputs, 3, rng, padding=1)
    conv.weight.data[...] = normal(conv.weight.shape, rng, 0.01)
    return conv


def by_anchor(x: Tensor) -> Tensor:
    """(N, K, PH, PW) -> (N, PH, PW, K) -> (N, PH*PW, K)"""
    return reshape(transpose(x, (0, 2, 3, 1)), (x.shape[0], x.shape[2] * x.shape[3], x.shape[1]))


class SingleShot(AnchorDetector):
    """One anchor in every cell of every map. Subclasses set `heads` and define `maps`.

    threshold, nms_threshold, most_candidates, most: see `AnchorDetector`; the last three are the published tests'.
    sides: of the anchors, finest map first.
    """

    heads: Heads
    coder = BoxCoder(std=SSD_STD)

    def __init__(
        self, threshold: float = 0.5, nms_threshold: float = 0.3, most_candidates: int = 5000, most: int = 750,
        sides: Sequence[int] = SIDES,
    ) -> None:
        self.sides = tuple(sides)
        super().__init__(threshold, nms_threshold, most_candidates, most)

    def check_settings(self) -> None:
        super().check_settings()
        if not self.sides or not all(isinstance(s, int) and s >= CELLS and s % CELLS == 0 for s in self.sides):
            raise ValueError(f"sides must be multiples of {CELLS}, one for each map, got {self.sides!r}")

    def settings(self) -> dict[str, object]:
        """Those of the constructor above, JSON-able."""
        return super().settings() | {"sides": self.sides}

    def predict(self, x: Tensor) -> Prediction:
        """x (N, 3, H, W) -> what the model says of every anchor."""
        maps = self.maps(x)
        return Prediction(*self.heads(maps), self.anchors([y.shape[2:] for y in maps]))

    def anchors(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """All anchors of maps of sizes (PH, PW), (A, 4) float32. EXTD, section 3.1; S3FD, Table 1.

        A square around the centre of each cell, ((j + 0.5) * stride, (i + 0.5) * stride): 34,125 for 640 x 640.
        """
        grids = [AnchorGrid(side // CELLS, (float(side),), (1.0,)) for side in self.sides]
        return np.concatenate([grid.boxes(*size) for grid, size in zip(grids, sizes, strict=True)])
