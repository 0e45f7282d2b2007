"""Detectors that differ only in where their anchors stand: what Group Sampling compares.

Ming et al., "Group Sampling for Scale Invariant Face Detection", 2020.

    image -> C2 ... C5 -> P2 ... P5 -> heads -> logits, deltas of every anchor -> detection (anchor_detector.py)
             (feature_pyramid.py)      (layout_heads.py)

    section 3     layouts: detection/anchor_layout.py     section 4.1   matching: `match_two_pass`
    section 4.2   samplers: detection/group_sampler.py    section 5     losses: layout_loss.py, detection/losses.py
    section 5     tests at several scales: `PyramidLooks`, layout_pyramid.py
    section 6.1   one sub-detector alone: `by_scale`, there    section 6.3   second stage: grouped_fast_rcnn.py

Left out: ResNet-50 and its ImageNet weights, for which a network stands that two cores can train; RetinaFace's
deformable convolutions and self-supervision, which the paper leaves out too, and its landmarks; YOLOv3 and R-FCN of
its Table 6.

Letters: N images, H W size of an image, A anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from minidetect.autograd.tensor import Tensor
from minidetect.detection.anchor_layout import FPN_FINEST, AnchorLayout, AnchorRow
from minidetect.models.anchor_detector import AnchorDetector, Prediction
from minidetect.models.feature_pyramid import BLOCKS, WIDTHS, FeaturePyramid, ResidualBackbone
from minidetect.models.layout_heads import LayoutHeads, check_shared


class LayoutDetector(AnchorDetector):
    """Anchors of any layout on the maps of one backbone.

    layout: an AnchorLayout, or what `arguments` makes of one. head, features: see layout_heads.py. width: channels of
    the pyramid's maps. widths, blocks, stem: see `ResidualBackbone`. threshold, nms_threshold,
    most_candidates, most: see `AnchorDetector`.
    """

    def __init__(
        self, rng: np.random.Generator, layout: AnchorLayout | dict = FPN_FINEST, head: str = "shared",
        width: int = 32, features: int = 64, widths: Sequence[int] = WIDTHS, blocks: Sequence[int] = BLOCKS,
        stem: int = 16, threshold: float = 0.5, nms_threshold: float = 0.5, most_candidates: int = 50_000,
        most: int = 750,
    ) -> None:
        super().__init__(threshold, nms_threshold, most_candidates, most)
        self.layout = layout if isinstance(layout, AnchorLayout) else layout_from(layout)
        self.head, self.width, self.features = head, width, features
        self.widths, self.blocks, self.stem_width = tuple(widths), tuple(blocks), stem
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"as many widths as blocks, got {self.widths} and {self.blocks}")
        if head in ("shared", "dilated"):
            check_shared(self.layout)
        names = sorted(self.layout.features)
        of_pyramid = [int(name[1:]) for name in names if name[0] == "P"]
        used = len(widths) if of_pyramid else int(names[-1][1:]) - 1  # stages: all for a pyramid, or up to the last map
        self.backbone = ResidualBackbone(rng, widths[:used], blocks[:used], stem, self.layout.unit)
        self.pyramid = [FeaturePyramid(widths, width, rng, of_pyramid)] if of_pyramid else []
        channels = {f"C{k}": c for k, c in enumerate(widths, start=2)} | {f"P{k}": width for k in of_pyramid}
        if unknown := [name for name in names if name not in channels]:
            raise ValueError(f"this backbone has no {', '.join(unknown)}, only {', '.join(sorted(channels))}")
        self.heads = LayoutHeads(self.layout, {name: channels[name] for name in names}, features, rng, head)

    def arguments(self) -> dict[str, object]:
        """What the constructor must be given for a detector like this one, JSON-able."""
        names = ("head", "width", "features", "widths", "blocks")
        own = {name: getattr(self, name) for name in names} | {"stem": self.stem_width}
        return {"layout": asdict(self.layout)} | own | self.settings()

    def maps(self, x: Tensor) -> list[Tensor]:
        """x (N, 3, H, W) -> the maps of `layout.features`; H and W must be multiples of `layout.period`."""
        from_bottom = self.backbone(x)
        named = {f"C{k}": c for k, c in enumerate(from_bottom, start=2)}
        if self.pyramid:
            named |= self.pyramid[0](from_bottom)
        return [named[name] for name in self.layout.features]

    def predict(self, x: Tensor) -> Prediction:
        """x (N, 3, H, W) -> what the model says of every anchor.

        An image is filled up with the mean colour, right and below, to whole cells of every map.
        """
        x = filled_up(x, self.layout.period)
        return Prediction(*self.heads(self.maps(x)), self.layout.anchors(x.shape[2:]))

    def groups(self, image_size: tuple[int, int]) -> np.ndarray:
        """(A,) int64: the group of each anchor that `predict` has for images of (height, width)."""
        return self.layout.groups(tuple(-(-n // self.layout.period) * self.layout.period for n in image_size))


def filled_up(x: Tensor, multiple: int) -> Tensor:
    """x (N, C, H, W) with zeros right and below, so that both sides are multiples; pixels have no gradient."""
    rest = [-n % multiple for n in x.shape[2:]]
    return x if not any(rest) else Tensor(np.pad(x.data, ((0, 0), (0, 0), (0, rest[0]), (0, rest[1]))))


def layout_from(saved: dict) -> AnchorLayout:
    """The AnchorLayout that `dataclasses.asdict` made into JSON."""
    rows = tuple(AnchorRow(row["feature"], row["stride"], tuple(row["scales"])) for row in saved["rows"])
    return AnchorLayout(rows, tuple(saved["ratios"]), saved["unit"])
