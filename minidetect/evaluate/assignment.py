"""One-to-one assignment of detections to ground truths that makes the sum of overlaps as large as possible.

FDDB's evaluator solves this anew for every threshold with Kuhn's Hungarian method. Here the detections
enter one at a time, by falling score, and the best assignment is mended instead of rebuilt: adding one
detection can change it only along one alternating chain, in which the newcomer takes a ground truth, its
former owner takes another, and so on, until a free ground truth is reached or somebody goes without. The
best chain is a longest path over the G ground truths (Bellman and Ford). All thresholds together cost what
the lowest one alone would.

Letters: D detections by falling score, G ground truths.
"""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-12  # a chain must gain more than this, so that rounding cannot send it in a circle


def best_assignments(overlap: np.ndarray) -> np.ndarray:
    """The best assignment of the first detection, of the first two, and so on to all D.

    overlap: (D, G), not negative; what a pair would add to the sum.

    Returns owner (D, G) int64: `owner[i, g]` is the detection that has ground truth g when detections 0
    to i compete, or -1. No detection owns two, and the sum of `overlap[owner[i, g], g]` is the largest
    possible (an owned pair may overlap by 0). Of several best assignments the one found stays.
    """
    overlap = np.asarray(overlap, np.float64)
    owner = np.full(overlap.shape, -1, np.int64)
    if overlap.shape[1] == 0:
        return owner
    now = np.full(overlap.shape[1], -1, np.int64)
    for i in range(len(overlap)):
        if overlap[i].any():
            _admit(i, overlap, now)
        owner[i] = now
    return owner


def _admit(i: int, overlap: np.ndarray, owner: np.ndarray) -> None:
    """Let detection `i` in: change `owner` (G,) along the chain that gains most, if any gains."""
    held = np.where(owner >= 0, overlap[owner, np.arange(len(owner))], 0.0)  # (G,)
    # move[g, h]: what is gained when the owner of g leaves g for h
    move = np.where((owner >= 0)[:, None], overlap[owner] - held[:, None], -np.inf)  # (G, G)
    gain = overlap[i].copy()  # of the best chain so far that ends with g changing hands
    previous = np.full(len(owner), -1)
    for _ in range(len(owner)):
        longer = gain[:, None] + move
        better = longer.max(axis=0) > gain + ROUNDING
        if not better.any():
            break
        previous[better] = longer.argmax(axis=0)[better]
        gain[better] = longer.max(axis=0)[better]
    last = int(np.argmax(gain - held))  # whoever held the chain's last ground truth goes without
    if gain[last] - held[last] <= ROUNDING:
        return
    while previous[last] >= 0:
        owner[last] = owner[previous[last]]
        last = previous[last]
    owner[last] = i
