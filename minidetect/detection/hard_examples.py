"""Which samples of a batch are hard: the loss of each on its own, and the choice of the largest.

Multi-output cascade, section 2.4 (Hard Example Proposal Network). The choice is made on values, outside of the graph;
what is not chosen is left out of the loss, and gets exactly no gradient.

Letters: N samples, K classes, D outputs of a regression.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.device import to_numpy


def cross_entropy_values(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log p of each sample's label: logits (N, K), labels (N,) -> (N,). `losses.cross_entropy` is their mean."""
    logits = to_numpy(logits)
    shifted = logits - logits.max(axis=1, keepdims=True)  # exp of at most 0: cannot overflow
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_probs[np.arange(len(logits)), labels]


def smooth_l1_values(pred: np.ndarray, target: np.ndarray, beta: float = 1.0) -> np.ndarray:
    """The smooth L1 distance of each sample: pred, target (N, D) -> (N,). `losses.smooth_l1` is their mean."""
    size = np.abs(to_numpy(pred) - target)
    return np.where(size < beta, size * size / (2 * beta), size - beta / 2).sum(axis=1)


def hardest_rows(losses: np.ndarray, keep: float) -> np.ndarray:
    """The rows of the largest losses, a share `keep` of them: (N,) -> int64, ascending.

    keep: over 0 to 1. At least one row remains of one or more; of equal losses the earlier goes first. Rounded to the
    nearest number, a half up. Raises ValueError for a share outside of that.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be over 0 and at most 1, got {keep}")
    return hardest(losses, max(1, int(np.floor(keep * len(losses) + 0.5))))


def hardest(losses: np.ndarray, most: int) -> np.ndarray:
    """The rows of the `most` largest losses (all where there are fewer): (N,) -> int64, ascending.

    NaN counts as the largest: a diverged network must show in its loss.
    """
    losses = np.asarray(losses)
    if losses.ndim != 1 or most < 0:
        raise ValueError(f"losses must be (N,) and their number at least 0, got {losses.shape} and {most}")
    falling = np.where(np.isnan(losses), -np.inf, -losses)
    return np.sort(np.argsort(falling, kind="stable")[:most])
