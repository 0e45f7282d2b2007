"""FaceCraft for speed: the same nets as facecraft.py, each in one kernel, without autograd.

    x12 over a level     convolution, ReLU and maximum pooling in one pass (kernels/conv_fast.py)
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
from minidetect.models.facecraft_pipeline import SIZES, Pipeline, face_probability

if TYPE_CHECKING:
    from minidetect.models.facecraft import Cascade, ConvStack, PatchNet, ProposalNet

SETTINGS = (
    "thresholds", "nms_threshold", "stage_nms", "second_look", "levels_per_octave", "response_pool", "max_proposals",
    "deltas_mean", "deltas_std", "mean_colour", "joint",
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
        self.heads = [make_stack([patch_head(net)], 1) for net in patch_nets]
        self.widths = [stack.features for stack in self.stacks]  # features of a branch's own
        if self.joint:  # ... and of those above it
            self.widths = np.cumsum(self.widths).tolist()

    def look_everywhere(self, pyramid: ImagePyramid, k: int) -> tuple[np.ndarray, np.ndarray]:
        maps = pyramid.level_planes(k, self.mean_colour, 1 / 128)[None]
        for layer in self.map_layers:
            maps = layer(maps)
        return face_probability(*maps[0, :2]), maps[0, 2:]

    def look_again(self, pyramid: ImagePyramid, squares: np.ndarray, stage: int) -> tuple[np.ndarray, np.ndarray]:
        patches = pyramid.crop_lanes(squares, SIZES[stage], self.mean_colour, 1 / 128)
        features = self.features(patches.reshape(len(patches), -1), stage)  # (B, 3, S, S, LANES) -> (B, ...)
        heads = np.empty((len(features), 6, LANES), np.float32)
        run_stack(self.heads[stage - 1], features, 1, heads.reshape(len(heads), -1))
        outputs = heads.transpose(1, 0, 2).reshape(6, -1)[:, : len(squares)]  # (B, 6, LANES) -> (6, N)
        return face_probability(*outputs[:2]), outputs[2:].T

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
    """Convolution, ReLU, pooling: pooling before or after the ReLU is the same, and the tile has the ReLU for free."""
    return [
        Layer(conv.weight.data, conv.bias.data, 0.0, pool) for conv, pool in zip(stack.convs, stack.pools, strict=True)
    ]


def proposal_head(net: ProposalNet) -> Layer:
    """x12's two 1x1 convolutions as one: background, face, four deltas."""
    parts = (net.logits, net.deltas)
    return Layer(np.concatenate([p.weight.data for p in parts]), np.concatenate([p.bias.data for p in parts]), 1.0)


def fc_layer(net: PatchNet) -> Layer:
    """The fully connected layer as a convolution over the whole last map."""
    channels = net.stack.convs[-1].weight.shape[0]
    side = int(np.sqrt(net.fc.weight.shape[1] // channels))
    w = net.fc.weight.data.reshape(-1, channels, side, side)  # (F, C*S*S) -> (F, C, S, S)
    return Layer(w, net.fc.bias.data, 0.0)


def patch_head(net: PatchNet) -> Layer:
    """The two sibling outputs as one 1x1 convolution: background, face, four deltas."""
    parts = (net.logits, net.deltas)
    w = np.concatenate([p.weight.data for p in parts])[:, :, None, None]  # (6, F) -> (6, F, 1, 1)
    return Layer(w, np.concatenate([p.bias.data for p in parts]), 1.0)
