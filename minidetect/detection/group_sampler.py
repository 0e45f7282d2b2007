"""Which anchors are learned from: every sampler that Group Sampling compares, as functions that can be exchanged.

    sampler(labels, groups, losses, rng) -> list of AnchorSample, each of which gets a loss of its own

    at_random         so many, one of four an object                       as Faster R-CNN draws, but for the share
    hardest           those with the largest losses, one of four an object
    hardest_of_all    those with the largest losses, whatever they are     OHEM, section 6.2
    weighted          at random, but the larger the loss the more likely   Group Sampling, Eq. (3)
    everything        all                                                  for the focal loss, focal_loss.py
    in_groups(any)    any of these, for each group by itself               section 4.2; its own: in_groups(at_random())

A group is a scale of anchors. Where the paper samples "in each group", wrap the sampler; so group sampling with hard
examples is `in_groups(weighted())`, and what a detector without groups does is `weighted()`.

The paper has two rules for OHEM: the largest losses of objects and background together (its section 6.2; in a group,
as section 4.2 says it, `in_groups(hardest_of_all(K))`), and objects and background of a group each by their losses (its
section 4.3), `in_groups(hardest(N))`.

Letters: A anchors, P and M of them sampled as objects and as background.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidetect.detection.hard_examples import hardest as largest_losses
from minidetect.detection.sampler import sample_balanced

IGNORED = -1  # label of an anchor that is neither object (1 and above) nor background (0)


class AnchorSample(NamedTuple):
    """Rows of anchors that share a loss: pos_idx (P,) and neg_idx (M,), int64, ascending."""

    pos_idx: np.ndarray
    neg_idx: np.ndarray


# labels (A,): 0 background, above an object, IGNORED; groups (A,): from 0; losses (A,): of the classification
Sampler = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], list[AnchorSample]]


def at_random(num: int = 2048, ratio: float = 3.0) -> Sampler:
    """`num` anchors, background `ratio` times as often as objects; more of it where objects are too few."""
    check_sizes(num, ratio)

    def sample(labels, groups, losses, rng):
        return [AnchorSample(*sample_balanced(labels > 0, labels == 0, num, 1 / (1 + ratio), rng))]

    return sample


def hardest(num: int = 1024, ratio: float = 3.0) -> Sampler:
    """As `at_random`, but of objects and of background those with the largest losses."""
    check_sizes(num, ratio)

    def sample(labels, groups, losses, rng):
        return [by_key(labels, losses, num, ratio)]

    return sample


def hardest_of_all(num: int = 1024) -> Sampler:
    """The `num` largest losses of all: OHEM, with the B of section 6.2, where a relatively small one makes it work."""
    check_sizes(num)

    def sample(labels, groups, losses, rng):
        known = np.flatnonzero(labels != IGNORED)
        chosen = known[largest_losses(losses[known], num)]
        return [AnchorSample(chosen[labels[chosen] > 0], chosen[labels[chosen] == 0])]

    return sample


def weighted(num: int = 2048, ratio: float = 3.0, eps: float = 1e-6) -> Sampler:
    """Weighted random sampling: as `at_random`, but likelier the larger the loss. Group Sampling, Eq. (3).

        w = r ** (1 / (loss + eps)),   r uniform in (0, 1);   the anchors with the largest w

    Taken as log(w) = log(r) / (loss + eps), which has the same order: at a loss of 0.001 nine of ten w are 0 in
    float32, and equal. The first draw falls on an anchor in proportion to its loss + eps.
    """
    check_sizes(num, ratio)

    def sample(labels, groups, losses, rng):
        r = 1 - rng.random(len(labels))  # in (0, 1]: log(0) would be -inf
        return [by_key(labels, np.log(r) / (losses.astype(np.float64) + eps), num, ratio)]

    return sample


def everything() -> Sampler:
    """All anchors that are not ignored."""

    def sample(labels, groups, losses, rng):
        return [AnchorSample(np.flatnonzero(labels > 0), np.flatnonzero(labels == 0))]

    return sample


def in_groups(sampler: Sampler) -> Sampler:
    """A sampler for each group by itself, so that all get equally many samples. Group Sampling, section 4.2.

    With `at_random(N)` in it: |P_s| + |N_s| = N and 3 |P_s| = |N_s| for every scale s, where there are enough objects;
    background fills up where they are too few. Groups come in ascending order, without those that have no anchor.
    """

    def sample(labels, groups, losses, rng):
        chosen = []
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            for part in sampler(labels[rows], groups[rows], losses[rows], rng):
                chosen.append(AnchorSample(rows[part.pos_idx], rows[part.neg_idx]))
        return chosen

    return sample


def check_sizes(num: int, ratio: float = 0.0) -> None:
    if num < 0 or not ratio >= 0:
        raise ValueError(f"a sampler needs num and ratio of at least 0, got {num} and {ratio}")


def by_key(labels: np.ndarray, keys: np.ndarray, num: int, ratio: float) -> AnchorSample:
    """`num` anchors with the largest keys, of objects and of background separately, 1 : ratio as `at_random` has it."""
    positives, negatives = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)
    most = min(len(positives), int(np.floor(num / (1 + ratio) + 0.5)))
    pos_idx = positives[largest_losses(keys[positives], most)]
    return AnchorSample(pos_idx, negatives[largest_losses(keys[negatives], num - most)])
