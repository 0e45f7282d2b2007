"""FaceCraft: a cascade of three small networks, trained separately or as one.

Qin, Yan, Li, Hu: "Joint Training of Cascaded CNN for Face Detection", CVPR 2016.

            every window of a pyramid              survivors                  survivors
    image --> 12 x 12 --> [ x12 ] --score > t12--> 24 x 24 --> [ x24 ] --> 48 x 48 --> [ x48 ] --> NMS --> faces
                             |                                    |                       |
                             16 features ---------> concat ------ 128 + 16 --> concat --- 256 + 144
                                        (the joint cascade only; the separate nets do not share)

Contents: ProposalNet (x12), PatchNet (x24, x48), SeparateCascade, JointCascade. The training loss of the
joint network, Eq. (6), is `Cascade.losses`; the test pipeline of section 4.3 is in facecraft_pipeline.py, and the same
nets for speed alone are in facecraft_fused.py.

Letters: N patches, S patch side, F features, R rows that pass a threshold.

Where this leaves the paper, or fills what it leaves open:
- The convolution tables are only in a picture there. `TABLES` holds ours, 3x3 stacks that fit the stated
  facts (fc widths 16, 128, 256, first stage of stride 2) in 2 MB; `CVPR15_TABLES` is the reconstruction
  from the cascade that the paper builds on (Li et al., CVPR 2015), with 5x5 filters and 2.2 M parameters.
- x12 pools 2x2 without ceil mode. A ceil-mode window at the patch's border would see one pixel more when
  the net slides over an image, and the sliding net would no longer equal the patch net.
- Pixels are centred on the training set's mean colour and divided by 128; the paper subtracts ImageNet's
  mean image. A mean *image* cannot slide, and the division only rescales the first filters.
- Ground truth boxes may be any rectangle, the paper's are squares: windows are matched with the square
  around a box (`to_square`), and regression leads to the box itself.
- Left out: sharing convolutions between stages (the paper's figure shows separate stacks, too).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minidetect.autograd import Tensor, no_grad
from minidetect.detection.losses import multi_task_loss
from minidetect.detection.pyramid import ImagePyramid
from minidetect.detection.structures import Detections
from minidetect.kernels.conv import output_size
from minidetect.kernels.pool import pooled_size
from minidetect.models.facecraft_fused import FusedCascade
from minidetect.models.facecraft_pipeline import SIZES, Pipeline, face_probability
from minidetect.nn.layers import Conv2d, Linear
from minidetect.nn.module import Module
from minidetect.ops.activation import relu
from minidetect.ops.dropout import dropout
from minidetect.ops.pool import avg_pool2d, max_pool2d
from minidetect.ops.shape import concat, flatten
from minidetect.ops.threshold import take_rows, threshold_control

FEATURES = (16, 128, 256)  # fc widths of section 4.1
Table = Sequence[tuple[int, int, int]]  # rows (output channels, kernel, pooling); pooling 0, 2 or 3

TABLES: tuple[Table, ...] = (
    ((16, 3, 2), (16, 5, 0)),  # 12 -> 10 -> 5 -> 1
    ((32, 3, 3), (48, 3, 3), (64, 2, 0)),  # 24 -> 22 -> 11 -> 9 -> 4 -> 3
    ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)),  # 48 -> 46 -> 23 -> 21 -> 10 -> 8 -> 4 -> 3
)
CVPR15_TABLES: tuple[Table, ...] = (
    ((16, 3, 2), (16, 5, 0)),
    ((64, 5, 3),),  # 24 -> 20 -> 10
    ((64, 5, 3), (64, 5, 3)),  # 48 -> 44 -> 22 -> 18 -> 9
)


class Prediction(NamedTuple):
    """What a branch says of its patches: logits (N, 2) background and face, deltas (N, 4)."""

    logits: Tensor
    deltas: Tensor

    def face_probs(self) -> np.ndarray:
        """P(face), (N,)."""
        return face_probability(self.logits.data[:, 0], self.logits.data[:, 1])


class ConvStack(Module):
    """Unpadded convolutions with ReLU; after some, max pooling: 2x2, or 3x3 at stride 2 in ceil mode."""

    def __init__(self, table: Table, rng: np.random.Generator) -> None:
        inputs = (3, *(channels for channels, _, _ in table))
        self.convs = [Conv2d(inputs[i], row[0], row[1], rng) for i, row in enumerate(table)]
        self.pools = tuple(pool for _, _, pool in table)

    def num_features(self, side: int) -> int:
        """How many numbers a patch of side x side pixels becomes."""
        for conv, pool in zip(self.convs, self.pools, strict=True):
            side = output_size(side, conv.weight.shape[2], 1, 0, 1)
            side = pooled_size(side, pool, 2, 0, pool == 3) if pool else side
        return conv.weight.shape[0] * side**2

    def __call__(self, x: Tensor) -> Tensor:
        for conv, pool in zip(self.convs, self.pools, strict=True):
            x = conv(x)
            if pool:  # before the ReLU: the maximum of ReLUs is the ReLU of the maximum, of a quarter of the values
                x = max_pool2d(x, pool, 2, ceil_mode=pool == 3)
            x = relu(x)
        return x


class ProposalNet(Module):
    """Branch x12, section 4.1: fully convolutional, so that it can slide over an image as well."""

    def __init__(self, table: Table, rng: np.random.Generator, dropout: float) -> None:
        self.stack = ConvStack(table, rng)
        self.logits = Conv2d(FEATURES[0], 2, 1, rng)
        self.deltas = Conv2d(FEATURES[0], 4, 1, rng)
        self.dropout = dropout

    def features(self, x: Tensor) -> Tensor:
        """x (N, 3, H, W) -> (N, 16, PH, PW), one column of features a window; PH = PW = 1 for a patch."""
        return self.stack(x)

    def maps(self, features: Tensor, rng: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        """features (N, 16, PH, PW) -> logits (N, 2, PH, PW), deltas (N, 4, PH, PW)."""
        features = dropout(features, self.dropout, rng)
        return self.logits(features), self.deltas(features)

    def predict(self, features: Tensor, rng: np.random.Generator | None = None) -> Prediction:
        return Prediction(*(flatten(m) for m in self.maps(features, rng)))  # (N, 2, 1, 1) -> (N, 2)


class PatchNet(Module):
    """Branches x24 and x48, section 4.1: a convolution stack, a fully connected layer, two sibling outputs.

    shared: features that come in from the branches above and join the fully connected layer's output.
    """

    def __init__(
        self, table: Table, size: int, features: int, shared: int, rng: np.random.Generator, dropout: float
    ) -> None:
        self.stack = ConvStack(table, rng)
        self.size = size
        self.fc = Linear(self.stack.num_features(size), features, rng)
        self.logits = Linear(features + shared, 2, rng, std=0.01)
        self.deltas = Linear(features + shared, 4, rng, std=0.001)
        self.dropout = dropout

    def features(self, x: Tensor, shared: Tensor | None = None) -> Tensor:
        """x (N, 3, S, S), shared (N, F') or None -> (N, F + F')."""
        own = relu(self.fc(flatten(self.stack(x))))
        return own if shared is None else concat([own, shared], axis=1)

    def predict(self, features: Tensor, rng: np.random.Generator | None = None) -> Prediction:
        features = dropout(features, self.dropout, rng)
        return Prediction(self.logits(features), self.deltas(features))


class Cascade(Module, Pipeline):
    """What both cascades share: the input's scaling, the box coders and the test pipeline.

    dropout: probability before each branch's outputs; the paper names no rate. None in x12: of 16 features,
        half would be too few.
    thresholds: of the face probability after each stage; a box goes on when it exceeds them. Chosen on WIDER
        FACE val: the last one so that about 95 % of what is shown is a face.
    nms_threshold: IoU above which the lower-scored of two final boxes is dropped.
    stage_nms: the same before x24 and before x48, over all levels, which spares them many near copies; the
        paper has none there (section 4.3). None switches it off.
    second_look: what x12 must have said of the window that its regression has moved a box to, read from its maps
        (`score_where_moved`), at least thresholds[0]. Not in the paper: it costs nothing, spares x24 more than
        half of the boxes, and loses more false faces than true ones (README). None switches it off.
    levels_per_octave: of the pyramid; with the paper's 5 stage one took twice as long and found no more
        faces (on a part of WIDER val). response_pool: k of the response map pooling, 0 for none.
    max_proposals: the best-scored so many go on after stage one.
    gates: thresholds of the threshold control layers in training, x12 -> x24 and x24 -> x48 (section 4.1).
    loss_weights: lambda 1 to 3 of Eq. (6), which the paper does not give.
    """

    joint: bool

    def __init__(
        self,
        rng: np.random.Generator,
        tables: Sequence[Table] = TABLES,
        dropout: tuple[float, float, float] = (0.0, 0.25, 0.5),
        thresholds: tuple[float, float, float] = (0.1, 0.15, 0.6),
        nms_threshold: float = 0.35,
        stage_nms: tuple[float, float] | None = (0.7, 0.8),
        second_look: float | None = 0.2,
        levels_per_octave: int = 3,
        response_pool: int = 2,
        max_proposals: int = 3000,
        gates: tuple[float, float] = (0.1, 0.003),
        loss_weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        self.x12 = ProposalNet(tables[0], rng, dropout[0])
        shared = (FEATURES[0], FEATURES[0] + FEATURES[1]) if self.joint else (0, 0)
        self.x24 = PatchNet(tables[1], SIZES[1], FEATURES[1], shared[0], rng, dropout[1])
        self.x48 = PatchNet(tables[2], SIZES[2], FEATURES[2], shared[1], rng, dropout[2])
        self.mean_colour = np.full(3, 128, np.float32)
        self.deltas_mean = np.zeros((3, 4), np.float32)  # one row a stage, FaceCraft section 4.1
        self.deltas_std = np.ones((3, 4), np.float32)
        self.thresholds = tuple(thresholds)
        self.nms_threshold, self.second_look = nms_threshold, second_look
        self.stage_nms = None if stage_nms is None else tuple(stage_nms)
        self.levels_per_octave, self.response_pool = levels_per_octave, response_pool
        self.max_proposals = max_proposals
        self.gates, self.loss_weights = tuple(gates), tuple(loss_weights)

    def normalise(self, pixels: np.ndarray) -> Tensor:
        """(N, H, W, 3), 0 to 255 -> (N, 3, H, W) around 0."""
        x = np.subtract(pixels, self.mean_colour, dtype=np.float32)
        x *= np.float32(1 / 128)
        return Tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    def shared(self, features: Tensor) -> Tensor | None:
        """What a branch hands down to the next: its features in the joint cascade, nothing otherwise."""
        return features if self.joint else None

    def classify(self, stage: int, x: Tensor) -> Prediction:
        """The prediction of stage 1 (x24) or 2 (x48) alone, for patches x (N, 3, S, S) of that stage's size."""
        shared = None
        if self.joint:  # (N, 16, 1, 1) -> (N, 16)
            shared = flatten(self.x12.features(avg_pool2d(x, SIZES[stage] // SIZES[0])))
            if stage == 2:
                shared = self.x24.features(avg_pool2d(x, 2), shared)
        net = (self.x24, self.x48)[stage - 1]
        return net.predict(net.features(x, shared))

    # -------------------------------------------------------------------------------------- training

    def stage_losses(
        self, stage: int, x: Tensor, labels: np.ndarray, deltas: np.ndarray, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """FaceCraft, Eq. (1), of one separate stage: x (N, 3, S, S), labels (N,), encoded targets (N, 4)."""
        net = (self.x12, self.x24, self.x48)[stage]
        prediction = net.predict(net.features(x), rng)
        return {f"x{SIZES[stage]}": multi_task_loss(*prediction, labels, deltas)}

    def losses(
        self, x: Tensor, labels: np.ndarray, deltas: Sequence[np.ndarray], rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """The terms of FaceCraft, Eq. (6), weighted: x (N, 3, 48, 48), labels (N,), targets (N, 4) a branch.

        The threshold control layers pick the rows that go on, and a branch is computed for those alone: the
        others get exactly no gradient from it. A branch's loss is divided by the number of its rows, so
        that the few hard samples of a late branch weigh as much as the many of an early one.

        In the separate cascade no feature is handed down, so no gradient crosses from branch to branch:
        the same samples through the same gates, which makes it the control of the joint training.
        """
        deep12 = self.x12.features(avg_pool2d(x, 4))  # (N, 16, 1, 1)
        first = self.x12.predict(deep12, rng)
        rows24 = threshold_control(first.face_probs(), self.gates[0])
        deep24 = self.x24.features(
            avg_pool2d(take_rows(x, rows24), 2), self.shared(take_rows(flatten(deep12), rows24))
        )
        second = self.x24.predict(deep24, rng)
        passed = threshold_control(second.face_probs(), self.gates[1])
        rows48 = rows24[passed]
        deep48 = self.x48.features(take_rows(x, rows48), self.shared(take_rows(deep24, passed)))
        third = self.x48.predict(deep48, rng)
        losses = {}
        for stage, (prediction, rows) in enumerate(((first, slice(None)), (second, rows24), (third, rows48))):
            loss = multi_task_loss(*prediction, labels[rows], deltas[stage][rows])
            losses[f"x{SIZES[stage]}"] = loss * self.loss_weights[stage]
        return losses

    # ------------------------------------------------------------------------------------- detection

    def fuse(self) -> FusedCascade:
        """The same detector for speed alone: it computes the same, several times as fast, from today's weights."""
        return FusedCascade(self)

    def detect(
        self, images: Sequence[np.ndarray], min_face: float = 24.0, min_score: float | None = None
    ) -> list[Detections]:
        """As Pipeline.detect, by the fused nets."""
        return self.fuse().detect(images, min_face, min_score)

    def look_everywhere(self, pyramid: ImagePyramid, k: int) -> tuple[np.ndarray, np.ndarray]:
        with no_grad():
            logits, deltas = self.x12.maps(self.x12.features(self.normalise(pyramid.level(k)[None])))
        return face_probability(logits.data[0, 0], logits.data[0, 1]), deltas.data[0]

    def look_again(self, pyramid: ImagePyramid, squares: np.ndarray, stage: int) -> tuple[np.ndarray, np.ndarray]:
        with no_grad():
            prediction = self.classify(stage, self.normalise(pyramid.crop(squares, SIZES[stage])))
        return prediction.face_probs(), prediction.deltas.data


class SeparateCascade(Cascade):
    """Three networks that know nothing of each other: the paper's baseline, and what joint training starts from."""

    joint = False


class JointCascade(Cascade):
    """One network, section 4.1: each branch's features enter the branches below it, and gradients flow back."""

    joint = True

    def start_from(self, separate: SeparateCascade) -> None:
        """Take over separately trained weights (section 4.2), so that every score is at first unchanged.

        The outputs' weights for the features that come in from above start at 0.
        """
        own, theirs = dict(self.named_parameters()), dict(separate.named_parameters())
        for name, p in own.items():
            source = theirs[name].data
            p.data[...] = 0
            p.data[tuple(slice(n) for n in source.shape)] = source
        for name in ("mean_colour", "deltas_mean", "deltas_std"):
            getattr(self, name)[...] = getattr(separate, name)
        self.thresholds = separate.thresholds
