"""MC-M1, MC-M2 and MC-6: what a batch should hold, by 48nets (and 12nets, 24nets) trained alike but for one thing.

    minidetect train multi-output --data DIR --out RUN
    python benchmarks/what_a_batch_holds.py --data DIR --run RUN --out OUT [--seeds 0 1 2] [--fddb]

The patches and proposals of RUN, its 12net and its 24net serve all trainings; a seed gives the initial weights, the
batches and the dropout, the same for every condition but `top n`, which draws twice as many candidates.

    points, hard    the reference: landmark faces in the batch, the 70 % of largest loss count
    no points       no landmark output, otherwise the same batches (MC-M1)
    all             every sample counts (MC-M2)
    top n           the N largest losses of 2 N candidates, N the size of the batch (MC-M2, the text's reading)

Prints for each the loss over whole batches (all samples count) as training goes on, the step at which it first is as
low as the condition `all` ever gets, AP on WIDER val and, with --fddb, recall on FDDB of the cascade with that 48net.
Then for each net batches of 256 mixed samples against 4 times as many of 64 of one type: processor time for 1000 steps
of 256 samples, and accuracy on patches of WIDER val. Finished trainings in OUT are kept, for the same settings only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from same_settings import check_same_settings

from minidetect.autograd import Tensor, no_grad
from minidetect.evaluate.runs import run_fddb, run_wider, summarise_fddb
from minidetect.models.cascade_pipeline import SIZES
from minidetect.models.multi_output_cascade import (
    MultiOutputCascade,
    sample_losses,
)
from minidetect.nn.checkpoint import load_arrays
from minidetect.train.hard_examples import NEGATIVE_BELOW, POSITIVE_FROM, top_n
from minidetect.train.loop import Schedule, train_phase
from minidetect.train.multi_output import (
    KINDS,
    MultiOutputRecipe,
    MultiOutputRun,
    counts,
    normalised,
    part_of,
    points_of,
    shrunk,
)
from minidetect.train.patches import Pool, collect, wider_photos
from minidetect.train.typed_batches import TypedBatch, TypedSource

CONDITIONS = {  # landmarks, keep, top n
    "points, hard": (True, 0.7, False),
    "no points": (False, 0.7, False),
    "all": (True, 1.0, False),
    "top n": (True, 1.0, True),
}
BATCH = counts(28, 68, 24, 32)
MIXED = counts(48, 112, 40, 56)  # 256
PARTS_OF_RUN = ("patches", "x24.0.proposed", "x48.0.proposed")
PARTS = 10  # of a training; the loss is measured after each


class Bench:
    """The run's pools and nets, and trainings in a folder."""

    def __init__(self, data: Path, run: Path, out: Path) -> None:
        self.data, self.run, self.out = data, run, out
        files = ["patches.landmarks", *(f"{part}.{kind}" for part in PARTS_OF_RUN for kind in KINDS), "x12.0", "x24.0"]
        if missing := [name for name in files if not (run / f"{name}.npz").is_file()]:
            raise FileNotFoundError(f"{run}: no run of `minidetect train multi-output`: there is no {missing[0]}.npz")
        self.base = MultiOutputRun(data, run, MultiOutputRecipe(), 0)
        self.cut = self.base.patches()
        self.statistics = self.base_cascade().state_dict()
        self.found = [self.base.loaded(name) for name in ("x24.0", "x48.0")]

    def base_cascade(self) -> MultiOutputCascade:
        """The run's 12net and 24net, with means and deviations of the targets; 48net with random weights."""
        cascade = MultiOutputCascade(np.random.default_rng(0))
        self.base.set_all_statistics(cascade)
        for net, size in ((cascade.x12, 12), (cascade.x24, 24)):
            last = sorted(self.run.glob(f"x{size}.[0-9].npz"))[-1]
            net.load_state_dict(load_arrays(last)[0], str(last))
        return cascade

    def fresh(self, seed: int, landmarks: bool = True) -> MultiOutputCascade:
        """All nets with random weights, which are the same with and without landmarks in 48net."""
        cascade = MultiOutputCascade(np.random.default_rng(seed), landmarks=(True, True, landmarks))
        own = cascade.state_dict()
        buffers = {name: array for name, array in self.statistics.items() if "." not in name and name in own}
        cascade.load_state_dict(own | buffers)
        return cascade

    def source(self, stage: int, batch, single: int = 0) -> TypedSource:
        run = MultiOutputRun(self.data, self.run, replace(MultiOutputRecipe(), single=single), 0)
        found = [shrunk(pools, SIZES[stage]) for pools in self.found[:stage]]
        return run.source(shrunk(self.cut, SIZES[stage]), found, batch)

    def train(self, folder: Path, cascade, stage: int, source, schedule: Schedule, seed: int, keep=1.0, n=False):
        """Yields the number of the part of the training that is done."""

        def losses(rng: np.random.Generator) -> dict[str, Tensor]:
            batch = source.draw(rng)
            if n:
                more = TypedBatch.join([batch, source.draw(rng)])
                batch = top_n(more, losses_of(cascade, stage, more), source.counts, rng)
            x, deltas = cascade.normalise(batch.patches), normalised(cascade, stage, batch.deltas)
            return cascade.stage_losses(stage, x, batch.types, deltas, points_of_or_none(cascade, batch), rng, keep)

        for k in range(PARTS):
            rng = np.random.default_rng([seed, stage, k])
            train_phase(f"part{k}", cascade.branches[stage], losses, part_of(schedule, k, PARTS), folder, rng)
            yield k


def points_of_or_none(cascade: MultiOutputCascade, batch: TypedBatch) -> np.ndarray:
    return batch.points if cascade.points_mean is None else points_of(cascade, batch)


def losses_of(cascade: MultiOutputCascade, stage: int, batch: TypedBatch) -> np.ndarray:
    """What each sample would add to the loss, (N,)."""
    net = cascade.branches[stage]
    with no_grad():
        said = net.predict(net.features(cascade.normalise(batch.patches)))
    deltas = normalised(cascade, stage, batch.deltas)
    return sample_losses(stage, said, batch.types, deltas, points_of_or_none(cascade, batch))


def whole_loss(cascade: MultiOutputCascade, batches: list[TypedBatch]) -> float:
    """Section 2.2's loss of 48net over whole batches: every sample counts."""
    total = 0.0
    for batch in batches:
        x, deltas = cascade.normalise(batch.patches), normalised(cascade, 2, batch.deltas)
        with no_grad():
            terms = cascade.stage_losses(2, x, batch.types, deltas, points_of_or_none(cascade, batch), None)
        total += sum(term.item() for term in terms.values())
    return total / len(batches)


# -------------------------------------------------------------------------------- MC-M1 and MC-M2: 48net


def compare_48nets(bench: Bench, seed: int, steps: int, fddb: bool) -> list[dict]:
    schedule, rows = Schedule(steps, lr=0.01, warm_up=100, drops=()), []
    source = bench.source(2, BATCH)
    judged = [source.draw(np.random.default_rng([seed, 9, k])) for k in range(16)]
    for name, (landmarks, keep, n) in CONDITIONS.items():
        file = bench.out / f"seed{seed}" / name.replace(", ", "-").replace(" ", "-") / "result.json"
        if not file.exists():
            shutil.rmtree(file.parent, ignore_errors=True)  # what was cut short begins anew
            cascade, curve = bench.fresh(seed, landmarks), []
            for _ in bench.train(file.parent, cascade, 2, source, schedule, seed, keep, n):
                curve.append(round(whole_loss(cascade, judged), 4))
            finish_slowly(bench, file.parent, cascade, source, schedule, seed, keep)
            row = {"seed": seed, "condition": name, "steps": steps, "loss": curve} | measure(bench, cascade, fddb)
            file.write_text(json.dumps(row) + "\n")
        rows.append(json.loads(file.read_text()))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def finish_slowly(bench: Bench, folder: Path, cascade, source, schedule: Schedule, seed: int, keep: float) -> None:
    """A fifth as many steps at a tenth of the rate, the same for all conditions, before detection is measured."""
    last = replace(schedule, steps=max(1, schedule.steps // 5), lr=schedule.lr / 10, warm_up=0)
    for _ in bench.train(folder / "slow", cascade, 2, source, last, seed + 100, keep):
        pass


def measure(bench: Bench, cascade: MultiOutputCascade, fddb: bool) -> dict[str, float]:
    """The run's 12net and 24net with this 48net: AP on WIDER val, recall on FDDB."""
    whole = bench.base_cascade()
    cascade.x12, cascade.x24 = whole.x12, whole.x24
    cascade.thresholds = (0.1, 0.1, 0.1)
    pipeline = cascade.fuse()
    result = {"ap": round(run_wider(pipeline, bench.data).curve.ap, 4)}
    return result | (summarise_fddb(run_fddb(pipeline, bench.data).curves) if fddb else {})


# ----------------------------------------------------------------------------------- MC-6: mixed or single


def compare_batches(bench: Bench, seed: int, stage: int, steps: int) -> dict:
    file = bench.out / f"seed{seed}" / f"batches-{SIZES[stage]}.json"
    if file.exists():
        return json.loads(file.read_text())
    row = {"seed": seed, "net": f"{SIZES[stage]}net"}
    pools = val_patches(bench, SIZES[stage])
    for name, single in (("mixed 256", 0), ("single 64", 64)):
        cascade, source = bench.fresh(seed), bench.source(stage, MIXED, single)
        total = steps * 4 if single else steps
        schedule = Schedule(total, lr=0.01, warm_up=total // 10, drops=(0.8,))
        folder = file.parent / f"{SIZES[stage]}-{single}"
        shutil.rmtree(folder, ignore_errors=True)  # a training that was cut short cannot be timed
        start = time.process_time()
        for _ in bench.train(folder, cascade, stage, source, schedule, seed):
            pass
        row[f"{name}: s per 1000 x 256"] = round((time.process_time() - start) / steps * 1000, 1)
        row[f"{name}: accuracy"] = round(accuracy(cascade, stage, *pools), 4)
    file.write_text(json.dumps(row) + "\n")
    return row


def val_patches(bench: Bench, size: int) -> tuple[Pool, Pool]:
    """Positives and as many negatives of WIDER val, a third of which touch a face."""
    photos, settings = wider_photos(bench.data, "val"), {"negative_iou": NEGATIVE_BELOW}
    found = collect(photos, np.random.default_rng(0), 6, 10, 5, 0, POSITIVE_FROM, **settings)
    count = min(len(found.positives.patches), len(found.negatives.patches))
    return found.positives.rows(np.arange(count)).shrunk(size), found.negatives.rows(np.arange(count)).shrunk(size)


def accuracy(cascade: MultiOutputCascade, stage: int, positives: Pool, negatives: Pool) -> float:
    """The share of patches on the right side of one half."""
    net, right, total = cascade.branches[stage], 0, 0
    for pool, is_face in ((positives, True), (negatives, False)):
        for first in range(0, len(pool.patches), 256):
            with no_grad():
                said = net.predict(net.features(cascade.normalise(pool.patches[first : first + 256])))
            right, total = right + int(((said.face_probs() > 0.5) == is_face).sum()), total + len(said.logits.data)
    return right / total


def print_summary(rows: list[dict]) -> None:
    by = {(row["seed"], row["condition"]): row for row in rows}
    for seed in sorted({row["seed"] for row in rows}):
        reference, everything = by[seed, "points, hard"], by[seed, "all"]
        print(f"seed {seed}: MC-M1, AP with points - without: {reference['ap'] - by[seed, 'no points']['ap']:+.4f}")
        lowest, part = min(everything["loss"]), everything["steps"] // PARTS
        for name in ("points, hard", "top n"):
            there = [k for k, loss in enumerate(by[seed, name]["loss"]) if loss <= lowest]
            when = f"after {(there[0] + 1) * part} of {everything['steps']} steps" if there else "never"
            print(f"seed {seed}: MC-M2, {name}: as low as `all` gets ({lowest}) {when}; at the end "
                  f"{by[seed, name]['loss'][-1]} against {everything['loss'][-1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000, help="of 48net (default: 1000)")
    parser.add_argument("--fddb", action="store_true")
    arguments = parser.parse_args()
    bench, rows = Bench(arguments.data, arguments.run, arguments.out), []
    check_same_settings(arguments.out, {"run": str(arguments.run), "steps": arguments.steps, "fddb": arguments.fddb})
    for seed in arguments.seeds:
        rows += compare_48nets(bench, seed, arguments.steps, arguments.fddb)
    print_summary(rows)
    for stage, steps in ((0, 2 * arguments.steps), (1, arguments.steps), (2, 3 * arguments.steps // 10)):
        for seed in arguments.seeds:
            print(json.dumps(compare_batches(bench, seed, stage, steps)), flush=True)


if __name__ == "__main__":
    main()
