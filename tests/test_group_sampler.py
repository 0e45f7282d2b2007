"""Every sampler of anchors: how many, which, from which group, and by which law they are drawn."""

from __future__ import annotations

from math import erfc, exp, floor, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.group_sampler import (
    IGNORED,
    AnchorSample,
    at_random,
    everything,
    hardest,
    hardest_of_all,
    in_groups,
    weighted,
)

SETTINGS = settings(max_examples=50, deadline=None)
SHARED_OUT = {"at random": at_random, "hardest": hardest, "weighted": weighted}  # N, one of four an object
every_kind = pytest.mark.parametrize("kind", SHARED_OUT.values(), ids=SHARED_OUT.keys())
# An anchor's label, group and loss; 2 is an object of another class.
anchors = st.lists(
    st.tuples(st.sampled_from([IGNORED, 0, 0, 0, 1, 2]), st.sampled_from([0, 1, 3]), st.floats(0, 9, width=32)),
    max_size=60,
)
# Where chi-squared with 3 and 5 degrees of freedom exceeds these numbers, one time in 1000: see the test below.
CHI2_3, CHI2_5 = 16.27, 20.52


def columns(rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, groups, losses = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(labels, np.int64), np.array(groups, np.int64), np.array(losses, np.float32)


def assert_rows(sample: AnchorSample, labels: np.ndarray) -> None:
    """Objects are objects and background is background, ascending, none twice."""
    assert (labels[sample.pos_idx] > 0).all() and (labels[sample.neg_idx] == 0).all()
    for rows in sample:
        assert rows.dtype == np.int64 and (np.diff(rows) > 0).all()


def assert_shared_out(samples: list[AnchorSample], labels: np.ndarray, groups: np.ndarray, num: int) -> None:
    """Group Sampling, section 4.2, for every group that has anchors, in ascending order; with N = `num`."""
    present = sorted(set(groups.tolist()))
    assert len(samples) == len(present)
    for group, sample in zip(present, samples, strict=True):
        own = groups == group
        assert own[sample.pos_idx].all() and own[sample.neg_idx].all()
        assert_rows(sample, labels)
        objects, background = int((own & (labels > 0)).sum()), int((own & (labels == 0)).sum())
        assert len(sample.pos_idx) == min(floor(num / 4 + 0.5), objects)
        assert len(sample.neg_idx) == min(num - len(sample.pos_idx), background)


# ------------------------------------------------------------------ how many


@every_kind
@SETTINGS
@given(anchors, st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_each_group_gets_its_share(kind, rows, num, seed):
    labels, groups, losses = columns(rows)
    rng = np.random.default_rng(seed)
    assert_shared_out(in_groups(kind(num))(labels, groups, losses, rng), labels, groups, num)
    one = np.zeros_like(groups)  # without groups: as if all were one
    samples = kind(num)(labels, groups, losses, rng)
    assert len(samples) == 1
    assert_shared_out(samples if len(labels) else [], labels, one, num)


@every_kind
def test_shortages_by_hand(kind, rng):
    """N = 10: 3 objects (2.5 rounded up) and 7 background; 2 and 8; 3 and the 5 that there are; none and 10."""
    counts = [(6, 20), (2, 20), (6, 5), (0, 20)]  # objects and background of each group
    labels = np.concatenate([[1] * objects + [0] * background + [IGNORED] * 9 for objects, background in counts])
    groups = np.repeat(range(4), [sum(n) + 9 for n in counts])
    samples = in_groups(kind(10))(labels, groups, rng.random(len(labels)), rng)
    assert [(len(p), len(n)) for p, n in samples] == [(3, 7), (2, 8), (3, 5), (0, 10)]
    (sample,) = kind(10, ratio=1.0)(labels, groups, rng.random(len(labels)), rng)
    assert [len(part) for part in sample] == [5, 5]


def test_wrong_shares_are_noticed(rng):
    """Samplers with a mistake each do not pass `assert_shared_out`; the right one, in the same scene, does."""
    labels, groups = np.array(([1] * 8 + [0] * 5) + ([1] + [0] * 30)), np.repeat([0, 1], [13, 31])
    losses = rng.random(44)

    def rounded_down(labels, groups, losses, rng):
        return at_random(8)(labels, groups, losses, rng)  # 2 of 8 as 2 of 10

    def filled_with_objects(labels, groups, losses, rng):
        positives, negatives = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)[:7]
        return [AnchorSample(positives[: 10 - len(negatives)], negatives)]

    def with_ignored(labels, groups, losses, rng):
        return at_random(10)(np.maximum(labels, 0), groups, losses, rng)

    assert_shared_out(in_groups(at_random(10))(labels, groups, losses, rng), labels, groups, 10)
    for wrong in (at_random(20), in_groups(rounded_down), in_groups(filled_with_objects)):
        with pytest.raises(AssertionError):
            assert_shared_out(wrong(labels, groups, losses, rng), labels, groups, 10)
    some = np.where(np.arange(44) % 3 == 0, IGNORED, labels)
    with pytest.raises(AssertionError):
        assert_shared_out(in_groups(with_ignored)(some, groups, losses, rng), some, groups, 10)


def test_without_groups_small_objects_hardly_count(rng):
    """Of 4 objects of one scale and 396 of another: 2 a group each, or about none of 4 together."""
    labels, groups = np.ones(400, int), np.repeat([0, 1], [4, 396])
    with_groups = in_groups(at_random(8))(labels, groups, np.zeros(400), rng)
    assert [len(sample.pos_idx) for sample in with_groups] == [2, 2]
    found = sum((at_random(16)(labels, groups, np.zeros(400), rng)[0].pos_idx < 4).sum() for _ in range(200))
    assert 0 < found < 30  # 200 times 4 draws of which one of a hundred is small: 8


# ------------------------------------------------------------------ which


def test_everything_by_hand(rng):
    labels = np.array([0, 1, IGNORED, 2, 0, IGNORED])
    ((pos_idx, neg_idx),) = everything()(labels, np.zeros(6, int), np.zeros(6), rng)
    assert pos_idx.tolist() == [1, 3] and neg_idx.tolist() == [0, 4]
    samples = in_groups(everything())(labels, np.array([5, 5, 5, 0, 0, 2]), np.zeros(6), rng)
    assert [(p.tolist(), n.tolist()) for p, n in samples] == [([3], [4]), ([], []), ([1], [0])]  # groups 0, 2 and 5


def test_hardest_by_hand(rng):
    """N = 4: the hardest object and the three hardest of the background, NaN first, of equal ones the earlier."""
    labels = np.array([0, 1, 0, 0, 1, 0, IGNORED, 0])
    losses = np.array([0.2, 0.7, np.nan, 0.3, 0.9, 0.3, 99, 0.3])
    ((pos_idx, neg_idx),) = hardest(4)(labels, np.zeros(8, int), losses, rng)
    assert pos_idx.tolist() == [4] and neg_idx.tolist() == [2, 3, 5]
    losses[1] = np.nan
    assert hardest(4)(labels, np.zeros(8, int), losses, rng)[0].pos_idx.tolist() == [1]
    in_each = in_groups(hardest(4))(labels, np.array([0, 0, 0, 0, 1, 1, 1, 1]), losses, rng)
    assert [(p.tolist(), n.tolist()) for p, n in in_each] == [([1], [0, 2, 3]), ([4], [5, 7])]


def test_hardest_of_all_by_hand(rng):
    """The largest losses, objects or not: here two objects and one of the background; what is ignored is no loss."""
    labels = np.array([0, 1, 0, 1, IGNORED, 0])
    losses = np.array([0.5, 0.6, 0.2, 0.9, 99, np.nan])
    ((pos_idx, neg_idx),) = hardest_of_all(3)(labels, np.zeros(6, int), losses, rng)
    assert pos_idx.tolist() == [1, 3] and neg_idx.tolist() == [5]
    ((pos_idx, neg_idx),) = hardest_of_all(99)(labels, np.zeros(6, int), losses, rng)
    assert pos_idx.tolist() == [1, 3] and neg_idx.tolist() == [0, 2, 5]
    in_each = in_groups(hardest_of_all(1))(labels, np.array([0, 0, 0, 1, 1, 1]), losses, rng)
    assert [(p.tolist(), n.tolist()) for p, n in in_each] == [([1], []), ([], [5])]


@SETTINGS
@given(anchors, st.integers(0, 40))
def test_the_hardest_against_sorting(rows, num):
    labels, groups, losses = columns(rows)
    rng = np.random.default_rng(0)

    def largest(chosen: list[int], most: int) -> list[int]:
        return sorted(sorted(chosen, key=lambda i: (-losses[i], i))[:most])

    objects = [i for i, label in enumerate(labels) if label > 0]
    background = [i for i, label in enumerate(labels) if label == 0]
    ((pos_idx, neg_idx),) = hardest(num)(labels, groups, losses, rng)
    assert pos_idx.tolist() == largest(objects, floor(num / 4 + 0.5))
    assert neg_idx.tolist() == largest(background, num - len(pos_idx))
    ((pos_idx, neg_idx),) = hardest_of_all(num)(labels, groups, losses, rng)
    assert sorted([*pos_idx, *neg_idx]) == largest(objects + background, num)
    assert_rows(AnchorSample(pos_idx, neg_idx), labels)


@pytest.mark.parametrize(
    ("kind", "is_drawn"), [(at_random, True), (weighted, True), (hardest, False), (hardest_of_all, False)]
)
def test_the_generator_decides_and_nothing_else(kind, is_drawn):
    labels, groups = np.tile([0, 0, 0, 1], 50), np.repeat([0, 1], 100)
    losses = np.linspace(0.1, 1, 200)

    def drawn(seed: int) -> list[list[int]]:
        samples = in_groups(kind(20))(labels, groups, losses, np.random.default_rng(seed))
        return [part.tolist() for sample in samples for part in sample]

    np.random.seed(1)  # noqa: NPY002 - the global generator must have no say
    first = drawn(7)
    np.random.seed(2)  # noqa: NPY002
    assert drawn(7) == first
    assert (drawn(8) != first) == is_drawn


# ------------------------------------------------------------------ the law of weighted sampling

LAW = np.array([0.025, 0.1, 0.25, 0.625])
DRAWS = 6000


def first_draws(losses, seed: int, sampler=None) -> np.ndarray:
    """(A,): how often each anchor is the first, of the background and of objects drawn half of the times each."""
    rng, counts = np.random.default_rng(seed), np.zeros(len(losses))
    for draw in range(DRAWS):
        labels, num = np.full(len(losses), draw % 2), 1 + draw % 2  # 1/4 of 1 is rounded to 0 objects, of 2 to 1
        ((pos_idx, neg_idx),) = (sampler or weighted(num))(labels, np.zeros(len(losses), int), losses, rng)
        counts[np.concatenate([pos_idx, neg_idx])] += 1
    assert counts.sum() == DRAWS
    return counts


def chi2(counts: np.ndarray, law: np.ndarray) -> float:
    expected = counts.sum() * law
    return float(((counts - expected) ** 2 / expected).sum())


def in_float32(labels, groups, losses, rng):
    """Eq. (3) as it is printed: what underflows is 0, and of equal weights the first wins."""
    r = rng.random(len(labels)).astype(np.float32)
    w = r ** (1 / (losses.astype(np.float32) + np.float32(1e-6)))
    row = np.array([w.argmax()])
    return [AnchorSample(row, row[:0])]


def test_the_quantiles_of_chi_squared():
    """For odd degrees of freedom the tail is elementary: erfc(sqrt(x/2)) + sqrt(2x/pi) exp(-x/2) (1 + x/3 + ...)."""

    def tail(x: float, terms: float) -> float:
        return erfc(sqrt(x / 2)) + sqrt(2 * x / pi) * exp(-x / 2) * terms

    assert tail(CHI2_3, 1) == pytest.approx(0.001, rel=0.01)
    assert tail(CHI2_5, 1 + CHI2_5 / 3) == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_the_first_draw_is_in_proportion_to_the_loss(size):
    """At losses of 1e-3 and less, too: w = r ** (1/l) is 0 for most r there, but its logarithm is not."""
    law = (LAW * size + 1e-6) / (LAW * size + 1e-6).sum()
    counts = first_draws(LAW * size, seed=1)
    assert chi2(counts, law) < CHI2_3
    assert chi2(counts, np.full(4, 0.25)) > 100 * CHI2_3  # nor is it any other law: of equal chances,
    assert chi2(counts, LAW**2 / (LAW**2).sum()) > 10 * CHI2_3  # of squares,
    assert counts.min() > 0  # and not simply the largest


def test_the_printed_form_fails_where_losses_are_small():
    assert chi2(first_draws(LAW, 1, in_float32), LAW) < CHI2_3
    counts = first_draws(LAW * 1e-3, 1, in_float32)
    assert chi2(counts, LAW) > 100 * CHI2_3 and counts.argmax() == 0  # most weights are 0: the first of them wins


def test_two_draws_are_without_replacement():
    """Pairs: p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j), as drawing one after the other gives."""
    rng, losses = np.random.default_rng(3), np.array([0.1, 0.2, 0.3, 0.4])
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    counts = dict.fromkeys(pairs, 0)
    for _ in range(DRAWS):
        ((_, neg_idx),) = weighted(2, eps=0.0)(np.zeros(4, int), np.zeros(4, int), losses, rng)
        counts[tuple(neg_idx.tolist())] += 1
    p = losses
    law = np.array([p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in pairs])
    assert law.sum() == pytest.approx(1)
    assert chi2(np.array([counts[pair] for pair in pairs]), law) < CHI2_5


def test_losses_of_zero_are_drawn_evenly_and_last():
    assert chi2(first_draws(np.zeros(4), seed=4), np.full(4, 0.25)) < CHI2_3
    counts = first_draws(np.array([0, 0.5, 0, 0.5]), seed=5)
    assert counts[[0, 2]].sum() <= 1  # a chance of 2e-6
    ((_, neg_idx),) = weighted(3)(np.zeros(4, int), np.zeros(4, int), np.array([0, 0.5, 0, 0.5]),
                                  np.random.default_rng(0))  # fmt: skip
    assert len(neg_idx) == 3 and {1, 3} < set(neg_idx.tolist())


def test_easy_ones_are_drawn_too(rng):
    """40 of background, 8 drawn: not the 8 hardest, but harder ones than at random; every one at some time."""
    losses, labels, groups = np.linspace(0.01, 1, 40), np.zeros(40, int), np.zeros(40, int)
    worst = set(hardest(8)(labels, groups, losses, rng)[0].neg_idx.tolist())
    assert worst == set(range(32, 40))
    samples = [weighted(8)(labels, groups, losses, rng)[0].neg_idx for _ in range(400)]
    even = [at_random(8)(labels, groups, losses, rng)[0].neg_idx for _ in range(400)]
    assert all(set(rows.tolist()) != worst for rows in samples)
    assert set(np.concatenate(samples).tolist()) == set(range(40))
    assert losses[np.concatenate(samples)].mean() > losses[np.concatenate(even)].mean() + 0.1


def test_nan_is_the_largest_loss(rng):
    """A network that diverged learns from what shows it."""
    losses = np.array([0.5, np.nan, 0.9, np.nan], np.float32)
    for sampler in (weighted(2), hardest(2), hardest_of_all(2)):
        for _ in range(20):
            ((_, neg_idx),) = sampler(np.zeros(4, int), np.zeros(4, int), losses, rng)
            assert neg_idx.tolist() == [1, 3]
