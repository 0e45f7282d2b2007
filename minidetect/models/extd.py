"""EXTD: a face detector of 63,000 parameters, since one tiny backbone makes all six of its maps.

Yoo, Han, Yun: "EXTD: Extremely Tiny Face Detector via Iterative Filter Reuse", 2019.

    x -> E -> block 1 -> F -> f1 -> F -> f2 -> F -> f3 -> F -> f4 -> F -> f5 -> F -> f6      Eq. (1): one F, six times
                         |          |          |          |          |          |
                SSD:   heads      heads      heads      heads      heads      heads
                FPN:    g6 <- U -  g5 <- U -  g4 <- U -  g3 <- U -  g2 <- U -   g1           Eq. (2): five different U

    E        3x3 convolution of stride 2, 3 -> 64, batch norm, activation: "feature extraction", Fig. 3 (d)
    block 1  depthwise 3x3, pointwise 64 -> width: inverted residual (a), used once
    F        inverted residuals (b), the last of stride 2: it halves the map, and has as many channels in as out
    U        bilinear x 2, depthwise 3x3, pointwise, batch norm, ReLU: Fig. 3 (c)

What sharing means for batch norm: each of the six passes is normalised by the statistics of its own maps, but F has one
set of running averages, which a step of training moves six times: the last pass, on the smallest maps, comes last and
weighs most. Tests use that mixture for all passes. The published file says so itself: its counter stands at 805 for the
layers outside F and at 6 * 805 within.

Where the published code, and this one, leave the paper:
- F halves the map in its last block's depthwise convolution; the paper's text has a 3x3 convolution of stride 2.
- Blocks of width 32 end with an activation, those of 48 and 64 without (`activated_ends`). The paper draws one block.
  At width 32 alone the state that goes from pass to pass has been through the activation that section 4.3 studies.
- Depthwise convolutions in block 1 and in F have a bias, though batch norm follows. A PReLU has one slope.
- Weights begin as He's rule says, as in the paper's appendix (the published training: Xavier's), but for the heads,
  which begin near 0 (`single_shot.head`).
- E is activated like F (the paper: ReLU in all but the inverted residuals).

`load_extd` (extd_weights.py) reads the published weights of the three FPN-PReLU models. Left out: the paper's 240,000
or 480,000 steps; see train/single_shot.py for what is trained here.

Letters: N images, H W size of an image, f and g maps as in the equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.models.single_shot import CELLS, SIDES, Heads, SingleShot
from minidetect.nn.blocks import InvertedResidual, one_slope
from minidetect.nn.layers import Conv2d, LeakyReLU, ReLU, Sequential
from minidetect.nn.module import Module
from minidetect.nn.normalize import BatchNorm2d
from minidetect.ops.elementwise import add
from minidetect.ops.resize import resize

STRUCTURES = ("fpn", "ssd")
FIRST_STRIDE = 4  # of f1: E and F halve once each
# (t, stride) of F's blocks, by width: the paper's Fig. 7. "Depth 8 or 6" counts E and block 1.
BLOCKS = {32: ((2, 1), (2, 1), (4, 1), (4, 1), (2, 1), (2, 2)), 48: ((2, 1), (2, 1), (4, 1), (4, 2))}
BLOCKS[64] = BLOCKS[48]
ACTIVATIONS: dict[str, Callable[[], Module]] = {
    "relu": ReLU,
    "lrelu": lambda: LeakyReLU(0.25),  # the slope that PReLU begins with
    "prelu": one_slope,
}


class EXTD(SingleShot):
    """The eighteen models of Table 2, EXTD-{FPN,SSD}-{32,48,64}-{ReLU,LReLU,PReLU}, and smaller ones.

    structure: "fpn" or "ssd"; width: channels of every map; act: "relu", "lrelu" or "prelu".

    What the paper fixes, for experiments: stem, the channels of E. blocks: (t, stride) of F's inverted residuals,
    None for those of Fig. 7 (by width, so that another width needs them). activated_ends: whether blocks end with an
    activation; None for the published code's, only at width 32. shared: False gives each pass an F of its own.
    settings: of `SingleShot`, such as threshold; the number of its `sides` is that of the passes.
    Raises ValueError for any other choice.
    """

    def __init__(
        self, rng: np.random.Generator, structure: str = "fpn", width: int = 32, act: str = "prelu",
        stem: int = 64, blocks: Sequence[tuple[int, int]] | None = None, activated_ends: bool | None = None,
        shared: bool = True, sides: Sequence[int] = SIDES, **settings: float,
    ) -> None:
        super().__init__(sides=sides, **settings)
        if any(side != CELLS * FIRST_STRIDE * 2**i for i, side in enumerate(self.sides)):
            raise ValueError(f"sides must be 16, 32, 64 and so on, one a pass, since each halves the map: got {sides}")
        if not isinstance(stem, int) or stem < 1:
            raise ValueError(f"stem must be a whole number of at least 1, got {stem!r}")
        if activated_ends not in (None, True, False) or shared not in (True, False):
            raise ValueError(f"activated_ends and shared are true or false, got {activated_ends!r} and {shared!r}")
        blocks = chosen_blocks(structure, width, act, blocks)
        ends = width == 32 if activated_ends is None else activated_ends
        self.structure, self.width, self.act, self.stem = structure, width, act, stem
        self.blocks, self.activated_ends, self.shared = blocks, bool(ends), bool(shared)
        activation = ACTIVATIONS[act]
        last = activation if ends else None
        self.start = Sequential(  # E and block 1
            Conv2d(3, stem, 3, rng, stride=2, padding=1, bias=False), BatchNorm2d(stem), activation(),
            InvertedResidual(stem, width, 1, rng, act=activation, last=last),
        )  # fmt: skip
        self.backbones = [
            Sequential(*(InvertedResidual(width, width, t, rng, stride, activation, last) for t, stride in blocks))
            for _ in range(1 if shared else len(self.sides))
        ]
        self.up = [up_block(width, rng) for _ in self.sides[1:]] if structure == "fpn" else []
        self.heads = Heads([width] * len(self.sides), rng)

    @property
    def name(self) -> str:
        """As the paper writes it: EXTD-FPN-32-PReLU."""
        act = {"relu": "ReLU", "lrelu": "LReLU", "prelu": "PReLU"}[self.act]
        return f"EXTD-{self.structure.upper()}-{self.width}-{act}"

    def arguments(self) -> dict[str, object]:
        """What the constructor must be given for a detector like this one, JSON-able."""
        names = ("structure", "width", "act", "stem", "blocks", "activated_ends", "shared")
        return {name: getattr(self, name) for name in names} | self.settings()

    def maps(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W) -> six maps (N, width, H/4, W/4) to (N, width, H/128, W/128), rounded up."""
        features = self.iterate(x)
        return self.combine(features) if self.structure == "fpn" else features

    def iterate(self, x: Tensor) -> list[Tensor]:
        """EXTD, Eq. (1): f_i = F(f_{i-1}), f_0 = E(x), with block 1 as the end of E. Returns f_1 to f_N."""
        f, features = self.start(x), []
        for i in range(len(self.sides)):
            f = self.backbones[i % len(self.backbones)](f)
            features.append(f)
        return features

    def combine(self, features: Sequence[Tensor]) -> list[Tensor]:
        """EXTD, Eq. (2): g_{i+1} = U_i(g_i) + f_{N-i}, g_1 = f_N. Returns g_N to g_1, finest first."""
        g = [features[-1]]
        for up, f in zip(self.up, features[-2::-1], strict=True):
            g.append(add(up(resize(g[-1], f.shape[2:])), f))
        return g[::-1]


def up_block(width: int, rng: np.random.Generator) -> Sequential:
    """U without its resizing: a depthwise 3x3 and a pointwise convolution, batch norm, ReLU."""
    return Sequential(
        Conv2d(width, width, 3, rng, padding=1, groups=width, bias=False),
        Conv2d(width, width, 1, rng, bias=False), BatchNorm2d(width), ReLU(),
    )  # fmt: skip


def chosen_blocks(
    structure: str, width: int, act: str, blocks: Sequence[tuple[int, int]] | None
) -> tuple[tuple[int, int], ...]:
    """The blocks of F. Raises ValueError that says what there is to choose from."""
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    if act not in ACTIVATIONS:
        raise ValueError(f"act must be one of {', '.join(ACTIVATIONS)}, got {act!r}")
    if blocks is None and width not in BLOCKS:
        raise ValueError(f"width must be one of {', '.join(map(str, BLOCKS))}, got {width!r}; another needs `blocks`")
    if not isinstance(width, int) or width < 1:
        raise ValueError(f"width must be a whole number of at least 1, got {width!r}")
    blocks = tuple((int(t), int(stride)) for t, stride in (BLOCKS[width] if blocks is None else blocks))
    strides = [stride for _, stride in blocks]
    if strides[:-1] != [1] * (len(blocks) - 1) or strides[-1:] != [2] or min(t for t, _ in blocks) < 1:
        raise ValueError(f"blocks must be (t, stride) with t of at least 1 and only the last of stride 2, got {blocks}")
    return blocks
