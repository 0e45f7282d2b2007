"""What a kernel asks of a GPU, counted while it is interpreted: instructions, sectors of memory, shared memory.

A warp is 32 threads that execute together: an instruction is counted once a warp, however many of its threads need it.
Global memory is moved in sectors of 32 bytes: how many a warp's threads touch at once tells whether they read side by
side. Shared memory has 32 banks of 4 bytes: two words of one bank take two waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from interpreter import Launch

WARP, SECTOR, BANKS = 32, 32, 32


@dataclass
class Counts:
    """Of some launches. Where only some blocks were run, each counts for several (`scale`)."""

    launches: int = 0
    instructions: float = 0  # of warps
    active: float = 0  # the same of threads: 32 times as many where none was idle
    asked: float = 0  # bytes of global memory that threads have read and written
    sectors: float = 0
    waves: float = 0  # of shared memory
    fewest_waves: float = 0  # without two words in one bank
    scale: float = 1

    def instruction(self, launch: Launch) -> None:
        self.instructions += self.scale * np.count_nonzero(np.bincount(launch.warps[launch.active]))
        self.active += self.scale * len(launch.active)

    def access(self, launch: Launch, space: str, at: np.ndarray, size: int) -> None:
        """at: addresses of the active threads, `size` bytes each."""
        warps = launch.warps[launch.active].astype(np.uint64)
        if space == "global":
            self.asked += self.scale * len(at) * size
            self.sectors += self.scale * len(np.unique(warps << np.uint64(44) | at // np.uint64(SECTOR) % (1 << 44)))
            return
        if space == "local":  # in the cache, mostly
            return
        half = launch.active % launch.per_block // 16 % 2 if size == 8 else 0 * launch.active
        turns = warps * np.uint64(2) + half.astype(np.uint64)  # 8 bytes each are fetched by half a warp at a time
        words = np.unique(turns << np.uint64(32) | at // np.uint64(4))
        banks, in_bank = np.unique((words >> np.uint64(32)) * BANKS + words % BANKS, return_counts=True)
        most = np.zeros(int(banks.max()) // BANKS + 1, np.int64)
        np.maximum.at(most, (banks // BANKS).astype(np.int64), in_bank)
        self.waves += self.scale * int(most.sum())
        self.fewest_waves += self.scale * len(np.unique(turns))
