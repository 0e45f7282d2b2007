"""A cascade for speed: the same nets as cascade.py, each in one kernel, without autograd.

    x12 over a level     convolution, activation and maximum pooling in one pass (kernels/conv_fast.py)
    x24, x48             16 patches side by side through all layers (kernels/lanes.py), cut out of the pyramid
                         in that layout, and handed from branch to branch in it

A copy of the weights is made once, in the order in which the kernels read them; later training doesn't reach
it. tests/test_lanes.py holds it to the cascade it was made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minidetect.detection.pyramid import ImagePyramid
from minidetect.kernels.conv_fast import PackedConvolution
from minidetect.kernels.lanes import Layer, halve, make_stack, run_stack
from minidetect.kernels.simd import LANES
from minidetect.models.cascade_pipeline import SIZES, Look, Pipeline, face_probability

if TYPE_CHECKING:
    from minidetect.models.cascade import Cascade, ConvStack, PatchNet, ProposalNet

SETTINGS = (
    "thresholds", "nms_threshold", "stage_nms", "second_look", "levels_per_octave", "response_pool", "max_proposals",
    "deltas_mean", "deltas_std", "points_mean", "points_std", "mean_colour", "joint", "level_nms", "coder",
)  # fmt: skip


class FusedCascade(Pipeline):
    """What `Cascade.fuse()` returns: `detect` and `detect_with_report` as the cascade has them, and faster."""

    batch = 1024  # 28 MB of 48-pixel patches

    def __init__(self, cascade: Cascade) -> None:
        for name in SETTINGS:
            setattr(self, name, getattr(cascade, name))
        proposal_layers = [*conv_layers(cascade.x12.stack), proposal_head(cascade.x12)]
        self.map_layers = [PackedConvolution(a.w, a.b, a.slopes(), a.pool) for a in proposal_layers]
        patch_nets = (cascade.x24, cascade.x48)
        self.stacks = [make_stack(proposal_layers[:-1], SIZES[0])]
        self.stacks += [make_stack([*conv_layers(net.stack), fc_layer(net)], net.size) for net in patch_nets]
        self.heads = [make_stack([patch_head(net, net is cascade.x48)], 1) for net in patch_nets]
        self.widths = [stack.features for stack in self.stacks]  # features of a branch's own
        if self.joint:  # ... and of those above it
            self.widths = np.cumsum(self.widths).tolist()

    def look_everywhere(self, pyramid: ImagePyramid, k: int) -> tuple[np.ndarray, np.ndarray]:
        maps = pyramid.level_planes(k, self.mean_colour, 1 / 128)[None]
        for layer in self.map_layers:
            maps = layer(maps)
        return face_probability(*maps[0, :2]), maps[0, 2:]

    def look_again(self, pyramid: ImagePyramid, squares: np.ndarray, stage: int) -> Look:
        patches = pyramid.crop_lanes(squares, SIZES[stage], self.mean_colour, 1 / 128)
        # (B, 3, S, S, LANES) -> (B, 3*S*S*LANES); sizes are written out because B is 0 where no square is left
        features = self.features(patches.reshape(len(patches), 3 * SIZES[stage] ** 2 * LANES), stage)
        head = self.heads[stage - 1]
        said = np.empty((len(features), head.features, LANES), np.float32)
        run_stack(head, features, 1, said.reshape(len(said), head.features * LANES))
        outputs = said.transpose(1, 0, 2).reshape(head.features, len(said) * LANES)  # (B, O, LANES) -> (O, B*LANES)
        outputs = outputs[:, : len(squares)]
        return Look(face_probability(*outputs[:2]), outputs[2:6].T, outputs[6:].T if len(outputs) > 6 else None)

    def features(self, patches: np.ndarray, stage: int) -> np.ndarray:
        """patches (B, 3*S*S*LANES) -> (B, F'*LANES): the branch's own, then those of the branches above it."""
        own = self.widths[stage] - (self.widths[stage - 1] if self.joint and stage else 0)
        features = np.empty((len(patches), self.widths[stage] * LANES), np.float32)
        run_stack(self.stacks[stage], patches, SIZES[stage], features)
        if self.joint and stage:
            smaller = np.empty((len(patches), patches.shape[1] // 4), np.float32)
            halve(patches, SIZES[stage], smaller)
            features[:, own * LANES :] = self.features(smaller, stage - 1)
        return features


def conv_layers(stack: ConvStack) -> list[Layer]:
    """Convolution, activation, pooling: for a ReLU the other order is the same, and the tile has it for free."""
    slopes = [prelu.slope.data for prelu in stack.prelus] or [0.0] * len(stack.convs)
    return [
        Layer(conv.weight.data, conv.bias.data, slope, pool)
        for conv, slope, pool in zip(stack.convs, slopes, stack.pools, strict=True)
    ]


def proposal_head(net: ProposalNet) -> Layer:
    """x12's 1x1 convolutions as one: background, face, four deltas. Nobody asks x12 for landmarks."""
    parts = (net.logits, net.deltas)
    return Layer(np.concatenate([p.weight.data for p in parts]), np.concatenate([p.bias.data for p in parts]), 1.0)


def fc_layer(net: PatchNet) -> Layer:
    """The fully connected layer as a convolution over the whole last map."""
    channels = net.stack.channels
    side = int(np.sqrt(net.fc.weight.shape[1] // channels))
    w = net.fc.weight.data.reshape(-1, channels, side, side)  # (F, C*S*S) -> (F, C, S, S)
    return Layer(w, net.fc.bias.data, 0.0 if net.prelu is None else net.prelu.slope.data)


def patch_head(net: PatchNet, is_last: bool) -> Layer:
    """The sibling outputs as one 1x1 convolution: background, face, four deltas, then x48's landmarks if it has any."""
    parts = [net.logits, net.deltas] + [net.points] * (is_last and net.points is not None)
    w = np.concatenate([p.weight.data for p in parts])[:, :, None, None]  # (O, F) -> (O, F, 1, 1)
    return Layer(w, np.concatenate([p.bias.data for p in parts]), 1.0)
