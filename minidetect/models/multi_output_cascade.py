"""The multi-output cascade: 12net, 24net and 48net, each of which says whether, where, and which five points.

"An End-to-End Multi-Output Cascade CNN for face detection and alignment" (2017). The nets and the picture of how they
hang together are in cascade.py (x12, x24, x48 are the paper's 12net, 24net, 48net), the pipeline of section 2.1 is in
cascade_pipeline.py. Here: the tables, the settings, the loss of section 2.2, and who learns from which sample
(section 2.3). The Hard Example Proposal Network is in train/hard_examples.py.

Letters: N patches, S patch side, R rows of a task, P = 5 landmark points.

Where this leaves the paper, or fills what it leaves open:
- It has no layer tables; its figure and its "2 MB" fit those of MTCNN (Zhang et al. 2016), which are used here.
- The bridges of section 2.5 concatenate the features before the outputs, as FaceCraft does. The paper speaks of
  concatenated weights; a weight matrix with more columns is just that.
- Which offsets of a box are regressed is not said: here centre and logarithm of the sides, as in Fast R-CNN, to the
  face's rectangle. `coder="corners"` is MTCNN's, for its published weights.
- Targets of both regressions have mean 0 and variance 1 over the training samples. With plain offsets, which are
  tenths, a smooth L1 distance would be a hundredth of the classification loss, and the weights of section 2.2 mean
  little.
- It decides for mini-batches of one type; the recipe here mixes the types (README has both, side by side). Its
  landmarks are CelebA's, ours CNN_FacePoint's, a fortieth as many. The recipe's last phase, the polish, is ours.
- A loss is the mean over the samples of its task, so that a batch may hold the four types in any proportion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd import Tensor
from minidetect.detection.hard_examples import cross_entropy_values, hardest_rows, smooth_l1_values
from minidetect.detection.losses import cross_entropy, smooth_l1
from minidetect.models.cascade import POINTS, Cascade, Prediction, Table
from minidetect.models.cascade_pipeline import SIZES
from minidetect.ops.pool import avg_pool2d
from minidetect.ops.shape import flatten
from minidetect.ops.threshold import take_rows

TABLES: tuple[Table, ...] = (
    ((10, 3, 2), (16, 3, 0), (32, 3, 0)),  # 12 -> 10 -> 5 -> 3 -> 1
    ((28, 3, 3), (48, 3, 3), (64, 2, 0)),  # 24 -> 22 -> 11 -> 9 -> 4 -> 3
    ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)),  # 48 -> 46 -> 23 -> 21 -> 10 -> 8 -> 4 -> 3
)
WIDTHS = (128, 256)  # fully connected layers of x24 and x48

# The four types of samples, section 2.3, as they are written in `types` (N,).
POSITIVE, NEGATIVE, PART, LANDMARK = 1, 0, -1, -2
TYPES = {POSITIVE: "positive", NEGATIVE: "negative", PART: "part", LANDMARK: "landmark"}
LOSS_WEIGHTS = ((1.0, 0.5, 0.5), (1.0, 0.5, 0.5), (1.0, 0.5, 1.0))  # alpha, beta, gamma of each stage, section 2.2


def task_rows(types: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Section 2.3: which samples teach which task. types (N,) -> rows of classification, of boxes, of landmarks.

    Raises ValueError for a type that there is not.
    """
    if not np.isin(types, (POSITIVE, NEGATIVE, PART, LANDMARK)).all():
        raise ValueError(f"types: 1 positive, 0 negative, -1 part, -2 landmark; there are others in {np.unique(types)}")
    classified = np.flatnonzero((types == POSITIVE) | (types == NEGATIVE))
    located = np.flatnonzero((types == POSITIVE) | (types == PART))
    return classified, located, np.flatnonzero(types == LANDMARK)


class MultiOutputCascade(Cascade):
    """Three nets with three outputs each, which know nothing of each other.

    dropout: probability before each branch's outputs. thresholds: of the face probability after each stage; a
        box goes on when it exceeds them. Chosen on WIDER FACE val, as was second_look; the paper's first figure has
        0.6, 0.6, 0.7.
    level_nms: IoU above which the lower-scored of two boxes of one pyramid level is dropped ("local NMS"), None for no
        such step. stage_nms: the same over all levels, before x24 and before x48.
    nms_threshold: the same at the end ("global NMS"); of boxes one in the other the better one is then kept, by an
        intersection of 0.7 of the smaller area, as in MTCNN.
    second_look, levels_per_octave, response_pool, max_proposals: as in facecraft.FaceCraftCascade.
    landmarks: which branches have that output. coder: "centre", or "corners" for MTCNN's published weights.
    """

    joint = False

    def __init__(
        self,
        rng: np.random.Generator,
        tables: Sequence[Table] = TABLES,
        widths: tuple[int, int] = WIDTHS,
        dropout: tuple[float, float, float] = (0.0, 0.0, 0.25),
        landmarks: tuple[bool, bool, bool] = (True, True, True),
        thresholds: tuple[float, float, float] = (0.1, 0.1, 0.6),
        level_nms: float | None = 0.5,
        stage_nms: tuple[float, float] | None = (0.7, 0.7),
        nms_threshold: float = 0.35,
        second_look: float | None = 0.1,
        levels_per_octave: int = 3,
        response_pool: int = 0,
        max_proposals: int = 3000,
        coder: str = "centre",
    ) -> None:
        super().__init__(rng, tables, widths, dropout, prelu=True, landmarks=landmarks)
        if any(landmarks):
            self.points_mean = np.full(2 * POINTS, 0.5, np.float32)  # in sides of the patch, from its upper left corner
            self.points_std = np.ones(2 * POINTS, np.float32)
        self.thresholds = tuple(thresholds)
        self.level_nms, self.nms_threshold = level_nms, nms_threshold
        self.stage_nms = None if stage_nms is None else tuple(stage_nms)
        self.second_look, self.levels_per_octave = second_look, levels_per_octave
        self.response_pool, self.max_proposals = response_pool, max_proposals
        self.coder = coder
        self.check_settings()

    def arguments(self) -> dict[str, object]:
        """What the constructor must be given for a detector with the same pipeline, JSON-able."""
        settings = (
            "thresholds", "level_nms", "stage_nms", "nms_threshold", "second_look", "levels_per_octave",
            "response_pool", "max_proposals", "coder",
        )  # fmt: skip
        return {
            "tables": [net.stack.table() for net in self.branches],
            "widths": (self.x24.width, self.x48.width),
            "landmarks": [net.points is not None for net in self.branches],
            **{name: getattr(self, name) for name in settings},
        }

    def stage_losses(
        self, stage: int, x: Tensor, types: np.ndarray, deltas: np.ndarray, points: np.ndarray,
        rng: np.random.Generator | None, keep: float = 1.0,
    ) -> dict[str, Tensor]:
        """Section 2.2's loss of one separate stage, its three terms: see `multi_output_losses`. x (N, 3, S, S)."""
        net = self.branches[stage]
        return multi_output_losses(stage, net.predict(net.features(x), rng), types, deltas, points, keep)

    def losses(
        self, x: Tensor, types: np.ndarray, deltas: Sequence[np.ndarray], points: np.ndarray,
        rng: np.random.Generator | None, keep: float = 1.0,
    ) -> dict[str, Tensor]:
        """The losses of all stages on the same samples: x (N, 3, 48, 48), types (N,), targets (N, 4) a stage, (N, 10).

        End to end (section 2.5) a gradient of 48net reaches 12net through the bridges. In the separate cascade nothing
        is handed down: the same samples without the bridges, which makes it the control.
        """
        deep12 = self.x12.features(avg_pool2d(x, 4))  # (N, F, 1, 1)
        deep24 = self.x24.features(avg_pool2d(x, 2), self.shared(flatten(deep12)))
        deep48 = self.x48.features(x, self.shared(deep24))
        losses = {}
        for stage, (net, features) in enumerate(zip(self.branches, (deep12, deep24, deep48), strict=True)):
            said = net.predict(features, rng)
            losses |= multi_output_losses(stage, said, types, deltas[stage], points, keep)
        return losses


class EndToEndCascade(MultiOutputCascade):
    """One network, section 2.5: each branch's features enter the branches below it, and gradients flow back.

    Section 2.5's alternating training begins with separately trained nets, see `start_from`.
    """

    joint = True


def multi_output_losses(
    stage: int, said: Prediction, types: np.ndarray, deltas: np.ndarray, points: np.ndarray, keep: float = 1.0
) -> dict[str, Tensor]:
    """The three terms of section 2.2's loss, weighted, each the mean over the samples that it is about.

    said: what the branch of `stage` (0 to 2) says of N samples; types (N,); deltas (N, 4), points (N, 2 * P): encoded
    targets, of which only the rows of their task are read.
    keep: the share of a task's samples, those of largest loss, that count; the others get exactly no gradient
        (section 2.4 and its figure: 0.7).
    """
    rows = dict(zip(("class", "box", "points"), task_rows(types), strict=True))
    if keep < 1:
        rows = hard_rows(said, rows, types, deltas, points, keep)
    name, (alpha, beta, gamma) = f"x{SIZES[stage]}", LOSS_WEIGHTS[stage]
    chosen = rows["class"]
    losses = {f"{name}_class": cross_entropy(take_rows(said.logits, chosen), types[chosen]) * alpha}
    losses[f"{name}_box"] = smooth_l1(take_rows(said.deltas, rows["box"]), deltas[rows["box"]]) * beta
    if said.points is not None:
        losses[f"{name}_points"] = smooth_l1(take_rows(said.points, rows["points"]), points[rows["points"]]) * gamma
    return losses


def hard_rows(
    said: Prediction, rows: dict[str, np.ndarray], types: np.ndarray, deltas: np.ndarray, points: np.ndarray,
    keep: float,
) -> dict[str, np.ndarray]:
    """Of each task's rows the hardest, by the loss that the branch has on them now."""
    values = {
        "class": cross_entropy_values(said.logits.data[rows["class"]], types[rows["class"]]),
        "box": smooth_l1_values(said.deltas.data[rows["box"]], deltas[rows["box"]]),
    }
    if said.points is not None:
        values["points"] = smooth_l1_values(said.points.data[rows["points"]], points[rows["points"]])
    return rows | {task: rows[task][hardest_rows(value, keep)] for task, value in values.items()}


def sample_losses(
    stage: int, said: Prediction, types: np.ndarray, deltas: np.ndarray, points: np.ndarray
) -> np.ndarray:
    """What each sample on its own would have as loss, with section 2.2's weights, (N,); arguments as above."""
    values, (classified, located, marked) = np.zeros(len(types)), task_rows(types)
    alpha, beta, gamma = LOSS_WEIGHTS[stage]
    values[classified] += alpha * cross_entropy_values(said.logits.data[classified], types[classified])
    values[located] += beta * smooth_l1_values(said.deltas.data[located], deltas[located])
    if said.points is not None:
        values[marked] += gamma * smooth_l1_values(said.points.data[marked], points[marked])
    return values
