"""From feature maps to logits and deltas of a layout's anchors.

    map -> hidden -> 1x1 -> 2 logits and 4 deltas of each anchor of a cell
    "shared"    one 3x3 convolution and ReLU for all maps: the head of a proposal network  (Group Sampling, section 6.2)
    "dilated"   four 3x3 convolutions side by side, with dilations 1, 2, 4 and 8           (Group Sampling, Fig. 5)
    "context"   a 3x3 beside two and three of them in a row                                (RetinaFace, after SSH)
    "own"       as "shared", but each map has its own                                      (SSD)

Which 1x1 convolutions are shared follows from the layout: rows of anchors on different maps share theirs, as FPN does
(but for "context" and "own"); rows on the same map, such as all of FPN-finest-stride, each have their own, because from
the same features the same weights would say the same of two scales.

The dilations: Fig. 5 is a picture of which the text only explains the notation; one of each power of two is our choice.
A cell then sees 17 x 17 cells of its map instead of 3 x 3.

Letters: N images, C channels, PH PW of a map, A anchors of a cell, D numbers an anchor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.detection.anchor_layout import AnchorLayout, AnchorRow
from minidetect.nn.init import normal
from minidetect.nn.layers import Conv2d, ReLU, Sequential
from minidetect.nn.module import Module
from minidetect.ops.activation import relu
from minidetect.ops.shape import concat, getitem, reshape, transpose

HEADS = ("shared", "dilated", "context", "own")
DILATIONS = (1, 2, 4, 8)


class DilatedHead(Module):
    """x (N, C, PH, PW) -> (N, features, PH, PW): a fourth of the features from each dilation."""

    def __init__(self, channels: int, features: int, rng: np.random.Generator) -> None:
        if features % len(DILATIONS):
            raise ValueError(f"a dilated head shares its features among {len(DILATIONS)} branches, got {features}")
        part = features // len(DILATIONS)
        self.branches = [Conv2d(channels, part, 3, rng, padding=d, dilation=d) for d in DILATIONS]

    def __call__(self, x: Tensor) -> Tensor:
        return relu(concat([branch(x) for branch in self.branches]))


class ContextHead(Module):
    """x (N, C, PH, PW) -> (N, features, PH, PW): half of it sees 3 x 3 cells, a quarter 5 x 5, a quarter 7 x 7."""

    def __init__(self, channels: int, features: int, rng: np.random.Generator) -> None:
        if features % 4:
            raise ValueError(f"a context head needs a multiple of 4 features, got {features}")
        part = features // 4
        self.near = Conv2d(channels, 2 * part, 3, rng, padding=1)
        self.start = Sequential(Conv2d(channels, part, 3, rng, padding=1), ReLU())
        self.middle = Conv2d(part, part, 3, rng, padding=1)
        self.far = Sequential(Conv2d(part, part, 3, rng, padding=1), ReLU(), Conv2d(part, part, 3, rng, padding=1))

    def __call__(self, x: Tensor) -> Tensor:
        wider = self.start(x)
        return relu(concat([self.near(x), self.middle(wider), self.far(wider)]))


class LayoutHeads(Module):
    """Maps of a layout -> logits (N, anchors, 2), deltas (N, anchors, 4), in the order of `AnchorLayout.anchors`.

    kind: see above; features: of the hidden maps. channels: of each map, by name.
    """

    def __init__(
        self, layout: AnchorLayout, channels: dict[str, int], features: int, rng: np.random.Generator,
        kind: str = "shared",
    ) -> None:
        if kind not in HEADS:
            raise ValueError(f"a head must be one of {', '.join(HEADS)}, got {kind!r}")
        self.layout = layout
        own = kind in ("context", "own")
        names = layout.features
        if not own and len({channels[name] for name in names}) > 1:
            raise ValueError(f'maps of {channels} channels cannot share a head: take "own" or "context", not {kind!r}')
        self.hidden_of = {name: k if own else 0 for k, name in enumerate(names)}
        self.hidden = [hidden_layer(kind, channels[name], features, rng) for name in (names if own else names[:1])]
        self.outputs_of = output_numbers(layout, own)
        sizes = {k: layout.per_cell(row) for k, row in zip(self.outputs_of, layout.rows, strict=True)}
        self.logits = [small(features, 2 * sizes[k], rng) for k in sorted(sizes)]
        self.deltas = [small(features, 4 * sizes[k], rng) for k in sorted(sizes)]

    def __call__(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: those of `layout.features`."""
        named = zip(self.layout.features, maps, strict=True)
        hidden = {name: self.hidden[self.hidden_of[name]](x) for name, x in named}
        logits, deltas = [], []
        for row, k in zip(self.layout.rows, self.outputs_of, strict=True):
            x = every(hidden[row.feature], row.stride // self.layout.map_stride(row.feature))
            logits.append(by_anchor(self.logits[k](x), 2))
            deltas.append(by_anchor(self.deltas[k](x), 4))
        return concat(logits), concat(deltas)


def hidden_layer(kind: str, channels: int, features: int, rng: np.random.Generator) -> Module:
    if kind == "dilated":
        return DilatedHead(channels, features, rng)
    if kind == "context":
        return ContextHead(channels, features, rng)
    return Sequential(Conv2d(channels, features, 3, rng, padding=1), ReLU())


def output_numbers(layout: AnchorLayout, own: bool) -> list[int]:
    """For each row of the layout which of the 1x1 convolutions it uses."""
    if own:
        return list(range(len(layout.rows)))
    features = [row.feature for row in layout.rows]
    return [features[:i].count(feature) for i, feature in enumerate(features)]


def check_shared(layout: AnchorLayout) -> None:
    """Raise ValueError where rows that share a 1x1 convolution have different numbers of anchors a cell."""
    sizes: dict[int, AnchorRow] = {}
    for row, k in zip(layout.rows, output_numbers(layout, False), strict=True):
        first = sizes.setdefault(k, row)
        if layout.per_cell(row) != layout.per_cell(first):
            raise ValueError(f"{first} and {row} share a classifier, but have different numbers of scales")


def small(features: int, outputs: int, rng: np.random.Generator) -> Conv2d:
    """A 1x1 convolution whose outputs begin near 0, so that nothing is certain before anything is learned."""
    conv = Conv2d(features, outputs, 1, rng)
    conv.weight.data[...] = normal(conv.weight.shape, rng, 0.01)
    return conv


def every(x: Tensor, step: int) -> Tensor:
    """Of each step x step cells of a map one, the first below and right of their middle: (N, C, PH, PW).

    Its centre is half a cell from that of the anchor. PH and PW must be multiples of `step`.
    """
    return x if step == 1 else getitem(x, np.s_[:, :, step // 2 :: step, step // 2 :: step])


def by_anchor(x: Tensor, numbers: int) -> Tensor:
    """(N, A*D, PH, PW) -> (N, A, D, PH, PW) -> (N, PH, PW, A, D) -> (N, PH*PW*A, D)"""
    num, channels, height, width = x.shape
    per_cell = channels // numbers
    x = transpose(reshape(x, (num, per_cell, numbers, height, width)), (0, 3, 4, 1, 2))
    return reshape(x, (num, height * width * per_cell, numbers))
