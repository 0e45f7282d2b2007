"""Training the multi-output cascade: three nets one after the other, then all as one (section 2.5).

    patches      positives, part faces and random negatives cut from the photos, and faces with landmarks
    x12          on those
    x24, x48     in rounds: the Hard Example Proposal Network proposes with the nets as they are by then (in the first
                 round those above, later the net in training, too), and the net learns from all rounds so far
    end_to_end   the nets' weights in one network with bridges, fine-tuned, again in rounds
    control      the separate nets, trained further by the same number of steps and rounds: what the end-to-end
                 training is measured against (on demand)
    polish       the end-to-end network once more, with more than twice as many landmark faces in a batch, most of them
                 in the squares that x12 and x24 propose: that is what x48 will see

The phases leave their results in the folder as cascade_run.py says; a round is named after its phase, x24.0, x24.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from minidetect.autograd import Tensor
from minidetect.data.landmarks import LandmarkRecord, read_landmarks_csv
from minidetect.models.cascade_pipeline import SIZES
from minidetect.models.multi_output_cascade import (
    LANDMARK,
    NEGATIVE,
    PART,
    POSITIVE,
    EndToEndCascade,
    MultiOutputCascade,
)
from minidetect.train.cascade_run import CascadeRun, normalised, without_empty
from minidetect.train.hard_examples import NEGATIVE_BELOW, POSITIVE_FROM, propose
from minidetect.train.loop import Schedule
from minidetect.train.patches import Found, Pool, collect, landmark_photos
from minidetect.train.typed_batches import Shares, TypedBatch, TypedSource, landmark_faces, landmark_proposals

PHASES = ("patches", "x12", "x24", "x48", "end_to_end", "control", "polish")
KINDS = ("positives", "negatives", "parts")
Counts = Mapping[int, int]


def counts(positives: int, negatives: int, parts: int, landmarks: int) -> Counts:
    return {POSITIVE: positives, NEGATIVE: negatives, PART: parts, LANDMARK: landmarks}


@dataclass(frozen=True)
class MultiOutputRecipe:
    """The settings of a run; the values are ours where the paper gives none.

    batches: samples of each type in a batch of x12, x24, x48. Few positives in x12 keep its false positives few.
    rounds: of proposals and training, for each net. keep: the share of hard examples that count (section 2.4).
    mining_thresholds: scores that must be exceeded while the first 1, 2, 3 stages propose.
    mining_photos: how many photos are looked at in a first and in a later round. per_photo: negatives kept of each.
    single: batches of one type, `single` samples each; 0 mixes them (section 2.3).
    """

    schedules: tuple[Schedule, Schedule, Schedule] = (
        Schedule(10000, lr=0.02),
        Schedule(6000, lr=0.02),
        Schedule(5000, lr=0.02),
    )
    batches: tuple[Counts, Counts, Counts] = (
        counts(32, 352, 48, 48),
        counts(32, 112, 32, 32),
        counts(28, 68, 24, 32),
    )
    rounds: tuple[int, int, int] = (1, 2, 2)
    keep: float = 0.7
    single: int = 0
    mining_thresholds: tuple[tuple[float, float, float], ...] = ((0.05, 0.5, 0.5), (0.1, 0.1, 0.5), (0.1, 0.1, 0.1))
    mining_photos: tuple[int, int] = (1500, 600)
    per_photo: int = 60
    random_share: float = 0.3
    end_to_end: Schedule = Schedule(2500, lr=0.01)
    end_to_end_batch: Counts = field(default_factory=lambda: counts(24, 64, 20, 24))
    end_to_end_rounds: int = 2
    polish: Schedule = Schedule(2000, lr=0.01)
    polish_batch: Counts = field(default_factory=lambda: counts(24, 64, 20, 56))
    min_face: float = 20.0

    def shortened(self, steps: int) -> MultiOutputRecipe:
        """The same recipe with at most `steps` steps a phase, for trying things out."""
        shorter = tuple(replace(s, steps=min(steps, s.steps)) for s in self.schedules)
        end_to_end, polish = (replace(s, steps=min(steps, s.steps)) for s in (self.end_to_end, self.polish))
        return replace(self, schedules=shorter, end_to_end=end_to_end, polish=polish)


class MultiOutputRun(CascadeRun):
    """One training run in one folder."""

    phases = PHASES
    recipe: MultiOutputRecipe

    def run(self, with_control: bool = False) -> dict[str, MultiOutputCascade]:
        """All phases; the cascades by name: separate, end_to_end, polished, and control if asked for."""
        separate = self.separate()
        cascades = {"separate": separate, "end_to_end": EndToEndCascade(self.rng("end_to_end"))}
        if with_control:
            cascades["control"] = MultiOutputCascade(self.rng("end_to_end"))
        for name in ("end_to_end", "control"):
            if name in cascades:
                cascades[name].start_from(separate)
                self.train_together(cascades[name], name)
        polished = cascades["polished"] = EndToEndCascade(self.rng("polish"))
        polished.load_state_dict(cascades["end_to_end"].state_dict())
        self.polish(polished)
        return cascades

    def separate(self) -> MultiOutputCascade:
        """Phases patches to x48: each net on what the ones before it let through, and on its own mistakes."""
        cascade = MultiOutputCascade(self.rng("patches"))
        self.set_all_statistics(cascade)
        for stage in range(3):
            self.train_stage(cascade, stage)
        return cascade

    def set_all_statistics(self, cascade: MultiOutputCascade) -> None:
        """The mean colour, and mean and deviation of all targets, from the patches that were cut."""
        cut = self.patches()
        cascade.mean_colour[:] = cut[NEGATIVE].patches[::20].mean(axis=(0, 1, 2))
        cascade.points_mean[:] = cut[LANDMARK].points.mean(axis=0)
        cascade.points_std[:] = np.maximum(cut[LANDMARK].points.std(axis=0), 1e-3)
        for stage in range(3):
            self.set_statistics(cascade, stage, Pool.join([cut[POSITIVE], cut[PART]]))

    def patches(self) -> dict[int, Pool]:
        """What is cut from the photos once, by type."""
        recipe = self.recipe

        def collected() -> Found:
            rng, settings = self.rng("patches"), {"min_face": recipe.min_face, "negative_iou": NEGATIVE_BELOW}
            photos = collect(self.photos(), rng, 6, 40, 10, 4, POSITIVE_FROM, **settings)
            crops = collect(landmark_photos(self.data), rng, 2, 2, 2, 2, POSITIVE_FROM, **settings)
            found = self.checked(Found.join([photos, crops]))
            if len(found.parts.patches) == 0:
                raise ValueError(f"{self.data}: no part of a face could be cut from the photos; a training needs some")
            return found

        positives, negatives, parts = self.cached("patches", collected, KINDS)
        file = self.folder / "patches.landmarks.npz"
        if not file.exists():
            faces = landmark_faces(self.landmark_records(), self.rng("patches", 1))
            if len(faces.patches) == 0:
                raise ValueError(f"{self.data / 'facepoint' / 'train.csv'}: no face with landmarks to learn from")
            faces.save(file)
        return {POSITIVE: positives, NEGATIVE: negatives, PART: parts, LANDMARK: Pool.load(file)}

    def proposed(
        self, name: str, cascade: MultiOutputCascade, stages: int, rng: np.random.Generator
    ) -> dict[int, Pool]:
        """What the Hard Example Proposal Network finds with the first `stages` stages for a round, by type."""
        recipe = self.recipe

        def run() -> Found:
            is_first = name in ("x24.0", "x48.0")
            photos = self.some_photos(recipe.mining_photos[0 if is_first else 1], rng)
            thresholds = recipe.mining_thresholds[stages - 1]
            return propose(cascade.fuse(), photos, stages, thresholds, rng, recipe.per_photo, recipe.min_face)

        return self.types(*self.cached(f"{name}.proposed", run, KINDS), name)

    def types(self, positives: Pool, negatives: Pool, parts: Pool, name: str) -> dict[int, Pool]:
        return {POSITIVE: positives, NEGATIVE: self.warned(negatives, name), PART: parts}

    def train_stage(self, cascade: MultiOutputCascade, stage: int) -> None:
        """Train x12, x24 or x48 alone with section 2.2's loss, in rounds."""
        recipe, name = self.recipe, f"x{SIZES[stage]}"
        cut, found = shrunk(self.patches(), SIZES[stage]), []
        for k in range(recipe.rounds[stage]):
            if stage + k:  # there is a net that can propose
                more = self.proposed(f"{name}.{k}", cascade, stage + (k > 0), self.rng(name, k, 0))
                found.append(shrunk(more, SIZES[stage]))
            source = self.source(cut, found, recipe.batches[stage])

            def losses(rng: np.random.Generator, source: TypedSource = source) -> dict[str, Tensor]:
                batch = source.draw(rng)
                x, points = cascade.normalise(batch.patches), points_of(cascade, batch)
                deltas = normalised(cascade, stage, batch.deltas)
                return cascade.stage_losses(stage, x, batch.types, deltas, points, rng, recipe.keep)

            schedule = part_of(recipe.schedules[stage], k, recipe.rounds[stage])
            self.train(f"{name}.{k}", cascade.branches[stage], losses, schedule, self.rng(name, k, 1))

    def train_together(self, cascade: MultiOutputCascade, name: str) -> None:
        """Train all branches on the same patches, in rounds: the end-to-end network, or its separate control."""
        recipe, found = self.recipe, [self.loaded(before) for before in ("x24.0", "x48.0")]
        for k in range(recipe.end_to_end_rounds):
            # Both start from the same generators: the same photos, batches, augmentation and first dropout.
            found.append(self.proposed(f"{name}.{k}", cascade, 3, self.rng("end_to_end", k, 0)))
            source = self.source(self.patches(), found, recipe.end_to_end_batch)
            schedule = part_of(recipe.end_to_end, k, recipe.end_to_end_rounds)
            self.train_all(f"{name}.{k}", cascade, source, schedule, self.rng("end_to_end", k, 1))

    def polish(self, cascade: EndToEndCascade) -> None:
        """Train the end-to-end network on, on what was proposed so far."""
        rounds = [f"end_to_end.{k}" for k in range(self.recipe.end_to_end_rounds)]
        found = [self.loaded(name) for name in ("x24.0", "x48.0", *rounds)]
        faces = without_empty([(self.patches()[LANDMARK], 0.3), (self.proposed_landmarks(cascade), 0.7)])
        source = self.source(self.patches(), found, self.recipe.polish_batch, faces)
        self.train_all("polish", cascade, source, self.recipe.polish, self.rng("polish", 1))

    def proposed_landmarks(self, cascade: EndToEndCascade) -> Pool:
        """Faces with landmarks in the squares that the cascade's first two stages propose."""
        file = self.folder / "polish.landmarks.npz"
        if not file.exists():
            pipeline = cascade.fuse().thorough()
            landmark_proposals(self.landmark_records(), pipeline, self.rng("polish", 0)).save(file)
        return Pool.load(file)

    def landmark_records(self) -> list[LandmarkRecord]:
        folder = self.data / "facepoint"
        return read_landmarks_csv(folder / "train.csv", folder)

    def loaded(self, name: str) -> dict[int, Pool]:
        """What was proposed for a round before."""
        return self.types(*(Pool.load(self.folder / f"{name}.proposed.{kind}.npz") for kind in KINDS), name)

    def train_all(
        self, name: str, cascade: MultiOutputCascade, source: TypedSource, schedule: Schedule, rng: np.random.Generator
    ) -> None:
        def losses(rng: np.random.Generator) -> dict[str, Tensor]:
            batch = source.draw(rng)
            deltas = [normalised(cascade, stage, batch.deltas) for stage in range(3)]
            x, points = cascade.normalise(batch.patches), points_of(cascade, batch)
            return cascade.losses(x, batch.types, deltas, points, rng, self.recipe.keep)

        self.train(name, cascade, losses, schedule, rng)

    def source(
        self, cut: dict[int, Pool], found: list[dict[int, Pool]], batch: Counts, faces: Shares | None = None
    ) -> TypedSource:
        """Batches in which the proposals of all rounds share what `random_share` leaves, the last round double.

        faces: those with landmarks, if not only the ones that were cut.
        """
        pools: dict[int, Shares] = {LANDMARK: faces or [(cut[LANDMARK], 1.0)]}
        for kind in (POSITIVE, NEGATIVE, PART):
            rounds = [more[kind] for more in found if len(more[kind].patches)]
            weights = np.array([1.0] * (len(rounds) - 1) + [2.0] if rounds else [])
            own = self.recipe.random_share if rounds else 1.0
            shares = (1 - own) * weights / max(weights.sum(), 1)
            pools[kind] = [(cut[kind], own), *zip(rounds, shares.tolist(), strict=True)]
        return TypedSource(pools, batch, self.recipe.single)


def shrunk(pools: dict[int, Pool], size: int) -> dict[int, Pool]:
    """The patches as a smaller net sees them, once rather than in every batch."""
    return pools if size == SIZES[2] else {kind: pool.shrunk(size) for kind, pool in pools.items()}


def points_of(cascade: MultiOutputCascade, batch: TypedBatch) -> np.ndarray:
    """Targets of the landmarks (N, 10), NaN for samples without."""
    return (batch.points - cascade.points_mean) / cascade.points_std


def part_of(schedule: Schedule, k: int, parts: int) -> Schedule:
    """Part k of a schedule cut into equal parts: its rate begins where the part before ended, its momentum at rest.

    The warm-up is that of the first part, and no longer than it.
    """
    first, end = (schedule.steps * i // parts for i in (k, k + 1))
    steps = max(1, end - first)
    past = sum(drop * schedule.steps <= first for drop in schedule.drops)
    drops = tuple((drop * schedule.steps - first) / steps for drop in schedule.drops[past:])
    return replace(
        schedule, steps=steps, lr=schedule.lr * 0.1**past, warm_up=min(schedule.warm_up, steps) if k == 0 else 0,
        drops=drops,
    )
