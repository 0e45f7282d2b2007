"""A training run of a cascade in one folder: what FaceCraft's and the multi-output cascade's have in common.

Every phase leaves its result in the folder and is skipped when it is there, which is all that resuming needs beyond
the checkpoints of `train_phase`. Each phase has a generator seeded by the run's seed and the phase's number, so that a
skipped phase does not change what the next one draws.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from minidetect.models.cascade import Cascade
from minidetect.nn.module import Module
from minidetect.train.loop import Losses, Schedule, train_phase
from minidetect.train.patches import Found, Photo, Pool, scene_photos, wider_photos


class CascadeRun:
    """data: the folder with photos; folder: of the run; recipe: its settings, of which `min_face` is read here.

    phases: the names of all phases, in the order that numbers them.
    """

    phases: tuple[str, ...]

    def __init__(
        self, data: Path, folder: Path, recipe: object, seed: int,
        check_nan: bool = False, progress: bool = True, photos: list[Photo] | None = None,
    ) -> None:
        self.data, self.folder, self.recipe, self.seed = Path(data), Path(folder), recipe, seed
        self.check_nan, self.progress = check_nan, progress
        self._photos = photos

    def rng(self, phase: str, *more: int) -> np.random.Generator:
        """The generator of a phase, or of a numbered part of it."""
        return np.random.default_rng([self.seed, self.phases.index(phase), *more])

    def photos(self) -> list[Photo]:
        """The photos that negatives are mined on: WIDER FACE's training part and scenes without faces."""
        if self._photos is None:
            self._photos = wider_photos(self.data, "train", self.recipe.min_face) + scene_photos(self.data)
        return self._photos

    def some_photos(self, most: int, rng: np.random.Generator) -> list[Photo]:
        """At most so many of them, chosen at random."""
        photos = self.photos()
        return [photos[i] for i in rng.permutation(len(photos))[:most]]

    def train(
        self, name: str, net: Module, losses: Losses, schedule: Schedule, rng: np.random.Generator | None = None
    ) -> None:
        train_phase(
            name, net, losses, schedule, self.folder, self.rng(name) if rng is None else rng,
            log_every=min(50, schedule.steps),  # a trial of a few steps has its curve, too
            check_nan=self.check_nan, progress=self.progress,
        )

    def cached(self, name: str, make: Callable[[], object], kinds: Sequence[str]) -> list[Pool]:
        """The pools `kinds` of what `make()` returns, from the folder if they are there, and otherwise put there."""
        files = [self.folder / f"{name}.{kind}.npz" for kind in kinds]
        if not all(file.exists() for file in files):
            found = make()
            for kind, file in zip(kinds, files, strict=True):
                getattr(found, kind).save(file)
        return [Pool.load(file) for file in files]

    def checked(self, found: Found) -> Found:
        """What was cut, once it is sure that there are both: nothing else may be left in the folder to resume from."""
        positives, negatives, _ = found
        if not (len(positives.patches) and len(negatives.patches)):
            raise ValueError(
                f"{self.data}: {len(positives.patches)} patches of faces of at least {self.recipe.min_face:g} pixels "
                f"and {len(negatives.patches)} without a face were cut from the photos; a training needs both"
            )
        return found

    def warned(self, negatives: Pool, name: str) -> Pool:
        """The negatives that were mined, with a warning if there are none."""
        if len(negatives.patches) == 0:
            warnings.warn(f"{name}: no false alarm on these photos; other negatives take their share", stacklevel=3)
        return negatives

    def set_statistics(self, cascade: Cascade, stage: int, positives: Pool) -> None:
        """Mean and deviation of a stage's regression targets (FaceCraft, section 4.1), from its training samples."""
        cascade.deltas_mean[stage] = positives.deltas.mean(axis=0)
        cascade.deltas_std[stage] = np.maximum(positives.deltas.std(axis=0), 1e-3)  # 0 for a single patch


def above(pool: Pool, min_iou: float) -> Pool:
    """The positives of a pool whose overlap with their face exceeds `min_iou`."""
    return pool.rows(pool.iou > min_iou)


def without_empty(pools: list[tuple[Pool, float]]) -> list[tuple[Pool, float]]:
    """Pools with their shares; the share of an empty one (mining found nothing) goes to the others."""
    kept = [(pool, share) for pool, share in pools if len(pool.patches)]
    more = sum(share for _, share in pools) / sum(share for _, share in kept)
    return [(pool, share * more) for pool, share in kept]


def normalised(cascade: Cascade, stage: int, deltas: np.ndarray) -> np.ndarray:
    return (deltas - cascade.deltas_mean[stage]) / cascade.deltas_std[stage]
