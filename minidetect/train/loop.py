"""The training loop: one for every model, with nothing hidden in callbacks.

A phase is one run of the loop: so many steps of one optimiser on one loss. It writes into its folder
    NAME.ckpt.npz   parameters, momenta, step and the state of the random generator, every so often
    NAME.npz        the final parameters
    log.jsonl       one JSON object a line: phase, step, learning rate, losses, gradient norm, seconds
Everything random in a step (samples, augmentation, dropout) is drawn from the one generator whose state is
in the checkpoint. A run that is killed and resumed therefore ends with the same bits as one that was not
(on the same machine, with the same number of threads).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minidetect.autograd import Tensor, nan_check
from minidetect.nn.checkpoint import load_arrays, save_arrays
from minidetect.nn.module import Module
from minidetect.nn.optim import SGD, Adam, clip_gradients, scheduled_lr

Losses = Callable[[np.random.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: see `scheduled_lr` for lr, warm_up and drops, `SGD` for bias_lr and decay_vectors.

    adam: use `Adam` instead of SGD; momentum, bias_lr and decay_vectors then mean nothing.
    """

    steps: int
    lr: float = 0.02
    warm_up: int = 200
    drops: tuple[float, ...] = (0.6, 0.85)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_norm: float = 5.0
    bias_lr: float = 1.0
    decay_vectors: bool = False
    adam: bool = False

    def optimiser(self, model: Module) -> SGD | Adam:
        if self.adam:
            return Adam(model, self.lr, weight_decay=self.weight_decay)
        return SGD(model, self.lr, self.momentum, self.weight_decay, self.bias_lr, self.decay_vectors)


def train_phase(
    name: str,
    model: Module,
    losses: Losses,
    schedule: Schedule,
    folder: Path,
    rng: np.random.Generator,
    log_every: int = 50,
    checkpoint_every: int = 500,
    check_nan: bool = False,
    progress: bool = True,
    fixed_norms: bool = False,
) -> None:
    """Train `model` in place for `schedule.steps` steps, or load it where this phase is already finished.

    losses(rng) draws a batch and returns named scalar Tensors; their sum is minimised.
    fixed_norms: batch norms keep their running statistics and use them, as they do afterwards.
    A checkpoint of the same phase in `folder` is continued. Raises FloatingPointError that names step and
    operation when a value stops being finite; the last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, checkpoint = folder / f"{name}.npz", folder / f"{name}.ckpt.npz"
    if final.exists():
        model.load_state_dict(load_arrays(final)[0], str(final))
        return
    optimiser = schedule.optimiser(model)
    first = resume_from(checkpoint, model, optimiser, rng) if checkpoint.exists() else 0
    log = Log(folder / "log.jsonl", name, first)
    model.train(not fixed_norms)
    bar = tqdm(range(first, schedule.steps), initial=first, total=schedule.steps, desc=name, disable=not progress)
    sums: dict[str, float] = {}
    summed = 0
    start = time.perf_counter()
    for step in bar:
        optimiser.lr = scheduled_lr(step, schedule.steps, schedule.lr, schedule.warm_up, schedule.drops)
        optimiser.zero_grad()
        values = train_step(model, losses, rng, schedule.max_norm, step, check_nan)
        optimiser.step()
        for key, value in values.items():
            sums[key] = sums.get(key, 0.0) + value
        summed += 1
        if (step + 1) % log_every == 0:
            means = {key: round(value / summed, 6) for key, value in sums.items()}
            log.write({"step": step + 1, "lr": optimiser.lr, **means, "seconds": time.perf_counter() - start})
            bar.set_postfix(loss=f"{means['loss']:.4f}", refresh=False)
            sums, summed, start = {}, 0, time.perf_counter()
        if (step + 1) % checkpoint_every == 0 and step + 1 < schedule.steps:
            save_checkpoint(checkpoint, model, optimiser, rng, step + 1)
    model.train(False)
    save_arrays(final, model.state_dict(), {"rng": rng.bit_generator.state})
    checkpoint.unlink(missing_ok=True)


def two_generators(rng: np.random.Generator) -> tuple[np.random.Generator, np.random.Generator]:
    """Two generators of numbers drawn from one, such as for a batch and for the samples taken from it.

    The next batch then does not depend on how often a sampler draws, so that samplers can be compared on equal batches.
    (`Generator.spawn` would not do: its counter is no part of the state that a checkpoint holds.)
    """
    first, second = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=2))
    return first, second


def train_step(
    model: Module, losses: Losses, rng: np.random.Generator, max_norm: float, step: int, check_nan: bool
) -> dict[str, float]:
    """One forward and backward pass; leaves clipped gradients in the parameters. Returns the losses' values."""

    def forward_backward() -> dict[str, Tensor]:
        terms = losses(rng)
        total = sum(terms.values(), start=Tensor(np.float32(0)))
        total.backward()
        return terms | {"loss": total}

    if check_nan:
        with nan_check(step):
            terms = forward_backward()
    else:
        terms = forward_backward()
    values = {key: term.item() for key, term in terms.items()}
    if not np.isfinite(values["loss"]):
        raise FloatingPointError(
            f"step {step}: the loss is {values['loss']} ({values}); train again from the last checkpoint with "
            "check_nan=True (--check-nan) to see which operation it first appears in"
        )
    try:
        return values | {"norm": clip_gradients(model.parameters(), max_norm)}
    except FloatingPointError as error:
        raise FloatingPointError(f"step {step}: {error} (check_nan=True, --check-nan)") from None


def save_checkpoint(path: Path, model: Module, optimiser: SGD | Adam, rng: np.random.Generator, step: int) -> None:
    arrays = {f"model/{name}": array for name, array in model.state_dict().items()}
    arrays |= {f"momentum/{name}": array for name, array in optimiser.state_dict().items()}
    save_arrays(path, arrays, {"step": step, "rng": rng.bit_generator.state})


def resume_from(path: Path, model: Module, optimiser: SGD | Adam, rng: np.random.Generator) -> int:
    """Restore what `save_checkpoint` wrote; returns the number of steps already done."""
    arrays, meta = load_arrays(path)
    parts: dict[str, dict[str, np.ndarray]] = {"model": {}, "momentum": {}}
    for name, array in arrays.items():
        kind, _, rest = name.partition("/")
        if kind not in parts or "step" not in meta:
            raise ValueError(f"{path}: not a training checkpoint (it holds {name!r})")
        parts[kind][rest] = array
    model.load_state_dict(parts["model"], str(path))
    optimiser.load_state_dict(parts["momentum"], str(path))
    rng.bit_generator.state = meta["rng"]
    return int(meta["step"])


class Log:
    """Appends JSON lines; on resuming it first drops the lines that the continued steps will write again."""

    def __init__(self, path: Path, phase: str, first_step: int) -> None:
        self.path, self.phase = path, phase
        if path.exists():
            kept = [row for row in read_log(path) if row["phase"] != phase or row["step"] <= first_step]
            path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"phase": self.phase, **row}) + "\n")


def read_log(path: str | Path) -> list[dict]:
    """The rows of a log; a last line that a kill cut short is left out."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
