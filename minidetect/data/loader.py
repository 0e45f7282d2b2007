"""Which examples make the next batch, and how to carry on exactly there after a stop.

A `BatchSampler` deals out the indices 0..num-1 in a shuffled order, shuffles again when they are used up,
and never ends. Its state is a small dict that JSON can hold: what was shuffled is not stored but shuffled
again from the generator's earlier state, so the state of a million examples is as small as that of ten.

Left out: worker processes. Reading and augmenting a batch takes less time than training on it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


class BatchSampler:
    """An endless iterator over index arrays (batch_size,) int64.

    num: how many examples there are; every one comes once an epoch. A batch at the end of an epoch is
    filled up from the next one, so all batches are equally long (an index may then stand in it twice).
    rng: used for shuffling. Sharing it with others (augmentation, say) is fine: the state holds it too.

    Raises ValueError unless num and batch_size are at least 1.
    """

    def __init__(self, num: int, batch_size: int, rng: np.random.Generator) -> None:
        if num < 1 or batch_size < 1:
            raise ValueError(f"num and batch_size must be at least 1, got {num} and {batch_size}")
        self.num, self.batch_size, self.rng = num, batch_size, rng
        self.epoch = -1
        self._start_epoch()

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        batch = np.empty(self.batch_size, np.int64)
        filled = 0
        while filled < self.batch_size:
            if self.position == self.num:
                self._start_epoch()
            take = min(self.batch_size - filled, self.num - self.position)
            batch[filled : filled + take] = self.order[self.position : self.position + take]
            self.position += take
            filled += take
        return batch

    def _start_epoch(self) -> None:
        self.before_shuffle = rng_state(self.rng)
        self.order = self.rng.permutation(self.num)
        self.position = 0
        self.epoch += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the batches to come, as numbers, strings and dicts of them."""
        return {
            "num": self.num,
            "epoch": self.epoch,
            "position": self.position,
            "before_shuffle": self.before_shuffle,
            "rng": rng_state(self.rng),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Carry on exactly where `state_dict` was taken; the batch size may be another one.

        Raises ValueError when the state is of a sampler over another number of examples, or of another
        kind of generator.
        """
        if state["num"] != self.num:
            raise ValueError(f"the saved sampler dealt out {state['num']} examples, this one has {self.num}")
        set_rng_state(self.rng, state["before_shuffle"])
        self._start_epoch()
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        set_rng_state(self.rng, state["rng"])


def batches(num: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of indices, where nobody will want to resume: see `BatchSampler`."""
    return iter(BatchSampler(num, batch_size, rng))


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """The generator's state as a dict that JSON can hold."""
    return _plain(rng.bit_generator.state)


def set_rng_state(rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Put a generator into a state from `rng_state`; ValueError if that was another kind of generator."""
    kind = rng.bit_generator.state["bit_generator"]
    if state.get("bit_generator") != kind:
        raise ValueError(f"the saved state is of a {state.get('bit_generator')}, this generator is a {kind}")
    rng.bit_generator.state = state


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value
