"""Response-map pooling: FaceCraft's cheap stand-in for non-maximum suppression after its first stage.

FaceCraft, section 4.3, keeps in each k x k area of the first stage's score map only the highest point, sets
the others to zero and leaves the resolution as it is; with k = 2 on its map of stride 2 that should compare
to NMS at 0.5. The sentence has two readings, and both are here:

- "block": the map is cut into k x k blocks that do not overlap, as in max pooling with stride k. Any two
  points of a block are at most k - 1 cells apart, so each point that is zeroed has a winner close by: for
  k = 2, stride 2 and windows of 12 pixels, one with an IoU of at least (10 * 10) / (2 * 144 - 100) = 0.53.
  That is the paper's claim, and the default.
- "slide": a point stays when it is the maximum of the (2k - 1) x (2k - 1) window centred on it, that is when
  no point less than k cells away along both axes beats it. It keeps far fewer points, since a chain of
  rising scores leaves only its top, which may overlap the foot of the chain not at all.

H, W: the map's height and width. Of equal scores the first in row-major order wins.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.dispatch import kernel

MODES = ("block", "slide")


def response_map_pool(scores: np.ndarray, k: int = 2, mode: str = "block") -> np.ndarray:
    """The score map with everything but the local maxima set to 0. FaceCraft, section 4.3.

    scores: (H, W), probabilities (a negative score would lose to the zeros, so logits are refused).
    k: side of the area in cells; 1 changes nothing. Blocks at the right and lower edge may be smaller.
    mode: "block" or "slide", see the top of this file.

    Returns a new (H, W) array of the same dtype (float32 or float64; other types become float32).
    Raises ValueError for another shape, k < 1, NaN or negative scores.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2:
        raise ValueError(f"response_map_pool: scores must have shape (H, W), got {scores.shape}")
    if k < 1:
        raise ValueError(f"response_map_pool: k must be at least 1 cell, got {k}")
    if mode not in MODES:
        raise ValueError(f"response_map_pool: mode must be one of {MODES}, got {mode!r}")
    if not (scores >= 0).all():
        raise ValueError("response_map_pool: scores hold a NaN or a negative number; pass probs, not logits")
    scores = np.ascontiguousarray(scores, np.float64 if scores.dtype == np.float64 else np.float32)
    out = np.zeros_like(scores)
    (_pool_blocks if mode == "block" else _pool_sliding)(scores, int(k), out)
    return out


@kernel
def _pool_blocks(scores, k, out):
    """out, zero at the start, receives the first maximum of each k x k block."""
    height, width = scores.shape
    for top in range(0, height, k):
        for left in range(0, width, k):
            best_y, best_x = top, left
            for y in range(top, min(top + k, height)):
                for x in range(left, min(left + k, width)):
                    if scores[y, x] > scores[best_y, best_x]:
                        best_y, best_x = y, x
            out[best_y, best_x] = scores[best_y, best_x]


@kernel
def _pool_sliding(scores, k, out):
    """out, zero at the start, receives each point that wins the window centred on it."""
    height, width = scores.shape
    for y in range(height):
        for x in range(width):
            if scores[y, x] > 0 and _wins(scores, y, x, k):
                out[y, x] = scores[y, x]


@kernel
def _wins(scores, y, x, k):
    """Whether no point less than k cells away is higher, nor equal and earlier in row-major order."""
    height, width = scores.shape
    score = scores[y, x]
    for v in range(max(0, y - k + 1), min(height, y + k)):
        for u in range(max(0, x - k + 1), min(width, x + k)):
            earlier = v < y or (v == y and u < x)
            if scores[v, u] > score or (earlier and scores[v, u] == score):
                return False
    return True
