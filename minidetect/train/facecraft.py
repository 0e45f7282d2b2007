"""Training FaceCraft: three nets one after the other, then all as one (section 4.2).

    patches     positives and random negatives cut from the photos
    x12         on those, 5 % positives
    mined24     what x12 lets through on the training photos
    x24         on random and mined negatives
    mined48     what x12 and x24 let through
    x48         on random and mined negatives
    mined       what the whole separate cascade still takes for a face
    joint       the joint network, starting from the three nets; Eq. (6)
    control     the separate nets, trained further by the same batches and gates: what joint training is
                measured against at an equal number of iterations (on demand)

The phases leave their results in the folder as cascade_run.py says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from minidetect.autograd import Tensor
from minidetect.models.cascade import Cascade
from minidetect.models.cascade_pipeline import SIZES
from minidetect.models.facecraft import JointCascade, SeparateCascade
from minidetect.train.cascade_run import CascadeRun, above, normalised, without_empty
from minidetect.train.loop import Schedule
from minidetect.train.patches import BatchSource, Found, Pool, collect, landmark_photos, mine

PHASES = ("patches", "x12", "mined24", "x24", "mined48", "x48", "mined", "joint", "control")


@dataclass(frozen=True)
class FaceCraftRecipe:
    """The settings of a run; the values are ours where the paper gives none (see models/facecraft.py).

    Where they leave section 4.2: the rate starts at 0.02 and drops twice (the paper: 0.001, once), since these
    nets start from random weights and take few steps; later stages see 20 to 25 % positives (the paper: about
    5 % in all), since their negatives are hard ones; batches are drawn with replacement, not in epochs.

    positive_iou: a stage's positives overlap their face by more (FC: 0.8 in stage one, then decreasing).
    positive_fractions: of a batch; 5 % in stage one keeps its false positives few (section 4.2).
    mining_thresholds: the scores that must be exceeded after each stage, while negatives are mined for x24,
        for x48 and for the joint training.
    mining_photos: how many photos are mined for each stage, chosen at random, and mined_per_photo: how many
        negatives are kept of each.
    """

    schedules: tuple[Schedule, Schedule, Schedule] = (
        Schedule(12000, lr=0.02),
        Schedule(6000, lr=0.02),
        Schedule(4000, lr=0.02),
    )
    batches: tuple[int, int, int] = (384, 160, 96)
    positive_iou: tuple[float, float, float] = (0.8, 0.75, 0.7)
    positive_fractions: tuple[float, float, float] = (0.05, 0.2, 0.25)
    mining_thresholds: tuple[tuple[float, float, float], ...] = ((0.05, 0.5, 0.5), (0.1, 0.1, 0.5), (0.1, 0.1, 0.1))
    mined_per_photo: tuple[int, int, int] = (70, 50, 50)
    mining_photos: tuple[int, int, int] = (1500, 1500, 800)
    joint: Schedule = Schedule(2500, lr=0.01)
    joint_batch: int = 128
    joint_positives: float = 0.2
    min_face: float = 20.0

    def shortened(self, steps: int) -> FaceCraftRecipe:
        """The same recipe with at most `steps` steps a phase, for trying things out."""
        shorter = tuple(replace(s, steps=min(steps, s.steps)) for s in self.schedules)
        return replace(self, schedules=shorter, joint=replace(self.joint, steps=min(steps, self.joint.steps)))


class FaceCraftRun(CascadeRun):
    """One training run in one folder."""

    phases = PHASES
    recipe: FaceCraftRecipe

    def run(self, with_control: bool = False) -> dict[str, Cascade]:
        """All phases; the cascades by name: separate, joint, and control if asked for."""
        separate = self.separate()
        joint = JointCascade(self.rng("joint"))
        joint.start_from(separate)
        self.train_together(joint, separate, "joint")
        cascades = {"separate": separate, "joint": joint}
        if with_control:
            cascades["control"] = SeparateCascade(self.rng("control"))
            cascades["control"].load_state_dict(separate.state_dict())
            self.train_together(cascades["control"], separate, "control")
        return cascades

    def separate(self) -> SeparateCascade:
        """Phases patches to x48: each net on what the ones before it let through."""
        cascade = SeparateCascade(self.rng("patches"))
        positives, negatives = self.patches()
        cascade.mean_colour[:] = negatives.patches[::20].mean(axis=(0, 1, 2))
        pools = [(negatives, 1.0)]
        for stage in range(3):
            found = positives
            if stage:
                found, hard = self.mined(cascade, stage)
                found = Pool.join([positives, found])
                pools = without_empty([(negatives, 0.3), (hard, 0.7)])
            self.train_stage(cascade, stage, found, pools)
        return cascade

    def patches(self) -> tuple[Pool, Pool]:
        def both() -> Found:
            rng = self.rng("patches")
            photos = collect(self.photos(), rng, 6, 40, 10, min_face=self.recipe.min_face)
            crops = collect(landmark_photos(self.data), rng, 4, 3, 3, min_face=self.recipe.min_face)
            return self.checked(Found.join([photos, crops]))

        return self.cached("patches", both, ("positives", "negatives"))

    def mined(self, cascade: Cascade, stages: int) -> tuple[Pool, Pool]:
        """What passes the first `stages` stages of a cascade at the mining thresholds."""
        name = ("mined24", "mined48", "mined")[stages - 1]

        def run() -> Found:
            pipeline = cascade.fuse().thorough()  # whatever spares time would hide negatives
            pipeline.thresholds = self.recipe.mining_thresholds[stages - 1]
            most, rng = self.recipe.mined_per_photo[stages - 1], self.rng(name)
            photos = self.some_photos(self.recipe.mining_photos[stages - 1], rng)
            return mine(pipeline, photos, stages, rng, most, min_face=self.recipe.min_face)

        positives, negatives = self.cached(name, run, ("positives", "negatives"))
        return positives, self.warned(negatives, name)

    def train_stage(self, cascade: Cascade, stage: int, positives: Pool, negatives: list) -> None:
        """Train x12, x24 or x48 alone with Eq. (1)."""
        recipe, size = self.recipe, SIZES[stage]
        name = f"x{size}"
        net = cascade.branches[stage]
        positives = above(positives, recipe.positive_iou[stage])
        if size < SIZES[2]:  # once, rather than in every batch
            positives, negatives = positives.shrunk(size), [(pool.shrunk(size), k) for pool, k in negatives]
        source = BatchSource(positives, negatives, recipe.batches[stage], recipe.positive_fractions[stage])
        self.set_statistics(cascade, stage, positives)

        def losses(rng: np.random.Generator) -> dict[str, Tensor]:
            patches, labels, deltas = source.draw(rng)
            x = cascade.normalise(patches)
            return cascade.stage_losses(stage, x, labels, normalised(cascade, stage, deltas), rng)

        self.train(name, net, losses, recipe.schedules[stage])

    def train_together(self, cascade: Cascade, separate: SeparateCascade, name: str) -> None:
        """Train all branches on the same patches with Eq. (6): the joint network, or its separate control.

        separate: the nets that `cascade` started from; their mistakes are the hard negatives.
        """
        recipe = self.recipe
        positives, random_negatives = self.patches()
        pools = [self.mined(separate, stages) for stages in (1, 2, 3)]
        positives = above(Pool.join([positives, *(found for found, _ in pools)]), recipe.positive_iou[2])
        shares = zip((random_negatives, *(hard for _, hard in pools)), (0.3, 0.3, 0.25, 0.15), strict=True)
        source = BatchSource(positives, without_empty(list(shares)), recipe.joint_batch, recipe.joint_positives)

        def losses(rng: np.random.Generator) -> dict[str, Tensor]:
            patches, labels, deltas = source.draw(rng)
            targets = [normalised(cascade, stage, deltas) for stage in range(3)]
            return cascade.losses(cascade.normalise(patches), labels, targets, rng)

        # Both start from the same generator: the same batches, augmentation and first dropout.
        self.train(name, cascade, losses, recipe.joint, self.rng("joint"))
