"""FaceCraft: a cascade of three small networks, trained separately or as one.

Qin, Yan, Li, Hu: "Joint Training of Cascaded CNN for Face Detection", CVPR 2016.

The nets and the picture of how they hang together are in cascade.py, the test pipeline of section 4.3 is in
cascade_pipeline.py. Here: the paper's tables and settings, and the training loss of the joint network, Eq. (6).

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

import numpy as np

from minidetect.autograd import Tensor
from minidetect.detection.losses import multi_task_loss
from minidetect.models.cascade import Cascade, Table
from minidetect.models.cascade_pipeline import SIZES
from minidetect.ops.pool import avg_pool2d
from minidetect.ops.shape import flatten
from minidetect.ops.threshold import take_rows, threshold_control

FEATURES = (16, 128, 256)  # fc widths of section 4.1

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


class FaceCraftCascade(Cascade):
    """What the separate and the joint cascade share: the paper's tables, the pipeline's settings, the losses.

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
        super().__init__(rng, tables, FEATURES[1:], dropout)
        self.thresholds = tuple(thresholds)
        self.nms_threshold, self.second_look = nms_threshold, second_look
        self.stage_nms = None if stage_nms is None else tuple(stage_nms)
        self.levels_per_octave, self.response_pool = levels_per_octave, response_pool
        self.max_proposals = max_proposals
        self.gates, self.loss_weights = tuple(gates), tuple(loss_weights)
        self.check_settings()

    def arguments(self) -> dict[str, object]:
        """What the constructor must be given for a detector with the same pipeline, JSON-able."""
        settings = (
            "thresholds", "nms_threshold", "stage_nms", "second_look", "levels_per_octave", "response_pool",
            "max_proposals",
        )  # fmt: skip
        tables = [net.stack.table() for net in self.branches]
        return {"tables": tables, **{name: getattr(self, name) for name in settings}}

    def stage_losses(
        self, stage: int, x: Tensor, labels: np.ndarray, deltas: np.ndarray, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """FaceCraft, Eq. (1), of one separate stage: x (N, 3, S, S), labels (N,), encoded targets (N, 4)."""
        net = self.branches[stage]
        prediction = net.predict(net.features(x), rng)
        return {f"x{SIZES[stage]}": multi_task_loss(prediction.logits, prediction.deltas, labels, deltas)}

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
            loss = multi_task_loss(prediction.logits, prediction.deltas, labels[rows], deltas[stage][rows])
            losses[f"x{SIZES[stage]}"] = loss * self.loss_weights[stage]
        return losses


class SeparateCascade(FaceCraftCascade):
    """Three networks that know nothing of each other: the paper's baseline, and what joint training starts from."""

    joint = False


class JointCascade(FaceCraftCascade):
    """One network, section 4.1: each branch's features enter the branches below it, and gradients flow back.

    It begins with separately trained nets (section 4.2), see `start_from`.
    """

    joint = True
