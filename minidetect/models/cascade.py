"""What the cascades of 12, 24 and 48 pixels have in common: their nets, and how one hands features to the next.

            every window of a pyramid              survivors                  survivors
    image --> 12 x 12 --> [ x12 ] --score > t12--> 24 x 24 --> [ x24 ] --> 48 x 48 --> [ x48 ] --> NMS --> faces
                             |                                    |                       |
                             features ------------> concat ------ own + above --> concat --- own + above
                                        (a joint cascade only; separate nets do not share)

FaceCraft (facecraft.py) and the multi-output cascade (multi_output_cascade.py) are this with their tables, losses and
settings. The test pipeline is in cascade_pipeline.py, the same nets for speed alone are in cascade_fused.py.

Contents: ConvStack, ProposalNet (x12), PatchNet (x24, x48), Prediction, Cascade.

Letters: N patches, S patch side, F features, P landmark points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd import Tensor, no_grad
from minidetect.detection.pyramid import ImagePyramid
from minidetect.detection.structures import Detections
from minidetect.kernels.conv import output_size
from minidetect.kernels.device import to_numpy
from minidetect.kernels.pool import pooled_size
from minidetect.models.cascade_fused import FusedCascade
from minidetect.models.cascade_pipeline import SIZES, Look, Pipeline, face_probability
from minidetect.nn.layers import Conv2d, Linear, PReLU
from minidetect.nn.module import Module, require_on_host
from minidetect.ops.activation import relu
from minidetect.ops.dropout import dropout
from minidetect.ops.pool import avg_pool2d, max_pool2d
from minidetect.ops.shape import concat, flatten

Table = Sequence[tuple[int, int, int]]  # rows (output channels, kernel, pooling); pooling 0, 2 or 3
POINTS = 5  # landmarks of a face, in the order of data/landmarks.py


class Prediction(NamedTuple):
    """What a branch says of its patches: logits (N, 2) background and face, deltas (N, 4), points (N, 2 * P) or None.

    The outputs of a net that slides over an image are maps, (N, 2, PH, PW) and so on.
    """

    logits: Tensor
    deltas: Tensor
    points: Tensor | None = None

    def face_probs(self) -> np.ndarray:
        """P(face), (N,), in the machine's memory: what is decided by them is decided there."""
        return face_probability(*to_numpy(self.logits.data).T)


class ConvStack(Module):
    """Unpadded convolutions, each with its activation; after some, max pooling: 2x2, or 3x3 at stride 2 in ceil mode.

    prelu: PReLU with a slope a channel, ReLU otherwise.
    """

    def __init__(self, table: Table, rng: np.random.Generator, prelu: bool = False) -> None:
        inputs = (3, *(channels for channels, _, _ in table))
        self.convs = [Conv2d(inputs[i], row[0], row[1], rng) for i, row in enumerate(table)]
        self.prelus = [PReLU(channels) for channels, _, _ in table] if prelu else []
        self.pools = tuple(pool for _, _, pool in table)

    @property
    def channels(self) -> int:
        """Of the last convolution."""
        return self.convs[-1].weight.shape[0]

    def num_features(self, side: int) -> int:
        """How many numbers a patch of side x side pixels becomes."""
        for conv, pool in zip(self.convs, self.pools, strict=True):
            side = output_size(side, conv.weight.shape[2], 1, 0, 1)
            side = pooled_size(side, pool, 2, 0, pool == 3) if pool else side
        return self.channels * side**2

    def table(self) -> Table:
        """The rows that this was made from."""
        pairs = zip(self.convs, self.pools, strict=True)
        return [(conv.weight.shape[0], conv.weight.shape[2], pool) for conv, pool in pairs]

    def __call__(self, x: Tensor) -> Tensor:
        for i, (conv, pool) in enumerate(zip(self.convs, self.pools, strict=True)):
            x = conv(x)
            if self.prelus:  # before pooling: a slope may have become negative
                x = self.prelus[i](x)
            if pool:  # before the ReLU: the maximum of ReLUs is the ReLU of the maximum, of a quarter of the values
                x = max_pool2d(x, pool, 2, ceil_mode=pool == 3)
            if not self.prelus:
                x = relu(x)
        return x


class ProposalNet(Module):
    """Branch x12: fully convolutional, so that it can slide over an image as well."""

    def __init__(
        self, table: Table, rng: np.random.Generator, dropout: float = 0.0, prelu: bool = False, landmarks: bool = False
    ) -> None:
        self.stack = ConvStack(table, rng, prelu)
        self.logits = Conv2d(self.stack.channels, 2, 1, rng)
        self.deltas = Conv2d(self.stack.channels, 4, 1, rng)
        self.points = Conv2d(self.stack.channels, 2 * POINTS, 1, rng) if landmarks else None
        self.dropout = dropout

    @property
    def width(self) -> int:
        """Features of a window, F."""
        return self.stack.channels

    def features(self, x: Tensor) -> Tensor:
        """x (N, 3, H, W) -> (N, F, PH, PW), one column of features a window; PH = PW = 1 for a patch."""
        return self.stack(x)

    def maps(self, features: Tensor, rng: np.random.Generator | None = None) -> Prediction:
        """features (N, F, PH, PW) -> logits (N, 2, PH, PW), deltas (N, 4, PH, PW), points (N, 2 * P, PH, PW)."""
        features = dropout(features, self.dropout, rng)
        points = None if self.points is None else self.points(features)
        return Prediction(self.logits(features), self.deltas(features), points)

    def predict(self, features: Tensor, rng: np.random.Generator | None = None) -> Prediction:
        """features (N, F, 1, 1) -> logits (N, 2), deltas (N, 4), points (N, 2 * P)."""
        return Prediction(*(None if m is None else flatten(m) for m in self.maps(features, rng)))


class PatchNet(Module):
    """Branches x24 and x48: a convolution stack, a fully connected layer, sibling outputs.

    features: F, of the fully connected layer. shared: features from the branches above, which join its output.
    """

    def __init__(
        self, table: Table, size: int, features: int, shared: int, rng: np.random.Generator, dropout: float = 0.0,
        prelu: bool = False, landmarks: bool = False,
    ) -> None:
        self.stack = ConvStack(table, rng, prelu)
        self.size = size
        self.fc = Linear(self.stack.num_features(size), features, rng)
        self.prelu = PReLU(features) if prelu else None
        self.logits = Linear(features + shared, 2, rng, std=0.01)
        self.deltas = Linear(features + shared, 4, rng, std=0.001)
        self.points = Linear(features + shared, 2 * POINTS, rng, std=0.001) if landmarks else None
        self.dropout = dropout

    @property
    def width(self) -> int:
        """Features of its own, F."""
        return self.fc.weight.shape[0]

    def features(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """x (N, 3, S, S), shared (N, F') or None -> (N, F + F')."""
        own = self.fc(flatten(self.stack(x)))
        own = relu(own) if self.prelu is None else self.prelu(own)
        return own if shared is None else concat([own, shared], axis=1)

    def predict(self, features: Tensor, rng: np.random.Generator | None = None) -> Prediction:
        """features (N, F + F') -> logits (N, 2), deltas (N, 4), points (N, 2 * P)."""
        features = dropout(features, self.dropout, rng)
        points = None if self.points is None else self.points(features)
        return Prediction(self.logits(features), self.deltas(features), points)


class Cascade(Module, Pipeline):
    """Three branches, the scaling of their input and of their outputs, and the test pipeline.

    tables: the convolutions of each branch. widths: of the fully connected layers of x24 and x48. dropout: probability
    before each branch's outputs. prelu: PReLU in place of ReLU. landmarks: which branches have that output.
    The settings of the test pipeline are each model's own, see cascade_pipeline.py.
    """

    joint: bool

    def __init__(
        self,
        rng: np.random.Generator,
        tables: Sequence[Table],
        widths: tuple[int, int],
        dropout: tuple[float, float, float],
        prelu: bool = False,
        landmarks: tuple[bool, bool, bool] = (False, False, False),
    ) -> None:
        self.x12 = ProposalNet(tables[0], rng, dropout[0], prelu, landmarks[0])
        above = (self.x12.width, self.x12.width + widths[0]) if self.joint else (0, 0)
        nets = [
            PatchNet(tables[k], SIZES[k], widths[k - 1], above[k - 1], rng, dropout[k], prelu, landmarks[k])
            for k in (1, 2)
        ]
        self.x24, self.x48 = nets
        self.mean_colour = np.full(3, 128, np.float32)
        self.deltas_mean = np.zeros((3, 4), np.float32)  # one row a stage, FaceCraft section 4.1
        self.deltas_std = np.ones((3, 4), np.float32)

    @property
    def branches(self) -> tuple[ProposalNet, PatchNet, PatchNet]:
        return self.x12, self.x24, self.x48

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """(N, H, W, 3), 0 to 255 -> (N, 3, H, W) around 0."""
        x = np.subtract(pixels, self.mean_colour, dtype=np.float32)
        x *= np.float32(1 / 128)
        return Tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    def shared(self, features: Tensor) -> Tensor | None:
        """What a branch hands down to the next: its features in a joint cascade, nothing otherwise."""
        return features if self.joint else None

    def classify(self, stage: int, x: Tensor) -> Prediction:
        """The prediction of stage 1 (x24) or 2 (x48) alone, for patches x (N, 3, S, S) of that stage's size."""
        shared = None
        if self.joint:  # (N, F, 1, 1) -> (N, F)
            shared = flatten(self.x12.features(avg_pool2d(x, SIZES[stage] // SIZES[0])))
            if stage == 2:
                shared = self.x24.features(avg_pool2d(x, 2), shared)
        net = self.branches[stage]
        return net.predict(net.features(x, shared))

    def start_from(self, separate: Cascade) -> None:
        """Take over separately trained weights, so that every score is at first unchanged.

        The outputs' weights for the features that come in from above start at 0.
        """
        own, theirs = dict(self.named_parameters()), dict(separate.named_parameters())
        for name, p in own.items():
            source = theirs[name].data
            p.data[...] = 0
            p.data[tuple(slice(n) for n in source.shape)] = source
        for name, buffer in separate.named_buffers():
            getattr(self, name)[...] = buffer
        self.thresholds = separate.thresholds

    # ------------------------------------------------------------------------------------- detection

    def fuse(self) -> FusedCascade:
        """The same detector for speed alone: it computes the same, several times as fast, from today's weights."""
        require_on_host(self)
        return FusedCascade(self)

    def detect(
        self, images: Sequence[np.ndarray], min_face: float = 24.0, min_score: float | None = None
    ) -> list[Detections]:
        """As Pipeline.detect, by the fused nets."""
        return self.fuse().detect(images, min_face, min_score)

    def look_everywhere(self, pyramid: ImagePyramid, k: int) -> tuple[np.ndarray, np.ndarray]:
        with no_grad():
            maps = self.x12.maps(self.x12.features(self.normalise(pyramid.level(k)[None])))
        return face_probability(*to_numpy(maps.logits.data[0])), to_numpy(maps.deltas.data[0])

    def look_again(self, pyramid: ImagePyramid, squares: np.ndarray, stage: int) -> Look:
        with no_grad():
            said = self.classify(stage, self.normalise(pyramid.crop(squares, SIZES[stage])))
        # x24's points only served to train it
        points = to_numpy(said.points.data) if stage == 2 and said.points is not None else None
        return Look(said.face_probs(), to_numpy(said.deltas.data), points)
