"""Linear support vector machines: two points by hand, the optimum's conditions, the slow twin, hard negative mining."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.svm import HardNegativeMiner, LinearSVM, feature_scale, mine_hard_negatives
from minidetect.kernels.svm import solve_dual
from minidetect.reference import svm as slow


def draw(seed: int, num: int, size: int, dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Examples of two overlapping clouds, which of them are positive, and a price for each."""
    rng = np.random.default_rng(seed)
    is_positive = rng.random(num) < 0.4
    x = rng.standard_normal((num, size)) + 0.8 * is_positive[:, None]
    return x.astype(dtype), is_positive, np.where(is_positive, 0.2, 0.1)


def with_bias(x: np.ndarray, bias: float) -> np.ndarray:
    return np.concatenate([x, np.full((len(x), 1), bias)], axis=1)


def test_two_points_by_hand():
    """At +2 and -2 a margin of 1 needs w = 1/2 and no bias: each alpha is 1/8, w = 1/8 * 2 + 1/8 * 2."""
    x, is_positive = np.array([[2.0], [-2.0]], np.float32), np.array([True, False])
    svm = LinearSVM(c=1.0, positive_weight=1.0, tolerance=1e-6).fit(x, is_positive, np.random.default_rng(0))
    np.testing.assert_allclose(svm.weight, [0.5], atol=1e-5)
    np.testing.assert_allclose(svm.alpha, [1 / 8, 1 / 8], atol=1e-5)
    np.testing.assert_allclose(svm.score(x), [1, -1], atol=1e-5)
    assert svm.bias == pytest.approx(0, abs=1e-5)


def test_a_price_too_low_for_the_margin():
    """With C = 0.01 both alphas stop there: w = 0.01 * 2 + 0.01 * 2; twice the price for the positive: 3 / 2 of it."""
    x, is_positive = np.array([[2.0], [-2.0]], np.float32), np.array([True, False])
    svm = LinearSVM(c=0.01, positive_weight=1.0).fit(x, is_positive, np.random.default_rng(0))
    np.testing.assert_allclose(svm.weight, [0.04], rtol=1e-6)
    svm = LinearSVM(c=0.01, positive_weight=2.0, bias_multiplier=1e-3).fit(x, is_positive, np.random.default_rng(0))
    np.testing.assert_allclose(svm.weight, [0.06], rtol=1e-5)


def test_the_published_constants_are_the_default():
    svm = LinearSVM()
    assert (svm.c, svm.positive_weight, svm.bias_multiplier) == (1e-3, 2.0, 10.0)
    miner = HardNegativeMiner(np.zeros((0, 1)), svm, np.random.default_rng(0))
    assert (miner.add_above, miner.evict_below, miner.retrain_after) == (-1.0001, -1.2, 2000)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_the_slow_twin(dtype):
    x, is_positive, price = draw(3, 12, 3, dtype)
    fast = solve_dual(x, is_positive, price, 1.0, np.random.default_rng(0), tolerance=1e-8)
    expected = slow.linear_svm(with_bias(x, 1.0), np.where(is_positive, 1, -1), price)
    np.testing.assert_allclose(fast.weight, expected, atol=2e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6), st.sampled_from([0.5, 1.0, 10.0]))
def test_conditions_of_the_optimum(seed, num, size, bias):
    """The gap between primal and dual closes, and each alpha says on which side of its margin an example is."""
    x, is_positive, price = draw(seed, num, size)
    found = solve_dual(x, is_positive, price, bias, np.random.default_rng(seed), tolerance=1e-3, most_passes=20_000)
    assert found.violation <= 1e-3
    sides, rows = np.where(is_positive, 1, -1), with_bias(x, bias)
    upper, lower = slow.primal(found.weight, rows, sides, price), slow.dual(found.alpha, rows, sides)
    assert lower - 1e-7 <= upper <= lower + 1e-3 * price.sum() + 1e-7
    margins = sides * (rows @ found.weight)
    assert (found.alpha >= 0).all() and (found.alpha <= price).all()
    assert (margins[found.alpha == 0] >= 1 - 2e-3).all()
    assert (margins[found.alpha == price] <= 1 + 2e-3).all()
    np.testing.assert_allclose(found.weight, (found.alpha * sides) @ rows, atol=1e-6)


def test_a_wrong_solution_is_seen_by_the_gap():
    """Forgetting the price, alphas run away: the conditions above would fail."""
    x, is_positive, price = draw(5, 30, 2)
    unbounded = solve_dual(x, is_positive, np.full(30, 50.0), 1.0, np.random.default_rng(0), most_passes=200)
    sides, rows = np.where(is_positive, 1, -1), with_bias(x, 1.0)
    assert (unbounded.alpha > price).any()
    best = solve_dual(x, is_positive, price, 1.0, np.random.default_rng(0), tolerance=1e-6)
    optimum = slow.primal(best.weight, rows, sides, price)
    assert slow.primal(unbounded.weight, rows, sides, price) > 1.02 * optimum


def test_a_warm_start_needs_fewer_passes_and_ends_at_the_same_place():
    x, is_positive, price = draw(1, 400, 20)
    cold = solve_dual(x, is_positive, price, 1.0, np.random.default_rng(0), tolerance=1e-4)
    start = np.append(cold.alpha[:390], np.zeros(10))  # ten examples that it has not seen
    warm = solve_dual(x, is_positive, price, 1.0, np.random.default_rng(1), start, tolerance=1e-4)
    assert warm.passes < cold.passes
    np.testing.assert_allclose(warm.weight, cold.weight, atol=1e-3)


def test_features_of_mean_norm_20():
    features = np.array([[3, 4], [0, 15]], np.float32)  # norms 5 and 15
    assert feature_scale(features) == pytest.approx(2.0)
    assert feature_scale(features[:0]) == feature_scale(np.zeros((3, 2))) == 1.0


@pytest.mark.parametrize(
    ("features", "is_positive", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, bool), "N above 0"),
        (np.zeros((3, 2)), np.zeros(2, bool), "got \\(3, 2\\) and \\(2,\\)"),
        (np.zeros(3), np.zeros(3, bool), "\\(N, D\\)"),
        (np.array([[0.0], [np.nan]]), np.zeros(2, bool), "features\\[1\\]"),
    ],
)
def test_bad_examples_are_refused(features, is_positive, message):
    with pytest.raises(ValueError, match=message):
        LinearSVM().fit(features, is_positive, np.random.default_rng(0))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        LinearSVM(c=0)
    with pytest.raises(ValueError, match="alpha"):
        LinearSVM().fit(np.ones((2, 1)), np.array([True, False]), np.random.default_rng(0), np.zeros(3))


# ------------------------------------------------------------------ hard negatives


def images_of_negatives(seed: int, num: int = 20, each: int = 60, size: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((each, size)).astype(np.float32) - 1.0 for _ in range(num)]


def positives(seed: int, num: int = 40, size: int = 8) -> np.ndarray:
    return (np.random.default_rng([seed, 1]).standard_normal((num, size)) + 1.0).astype(np.float32)


@pytest.mark.parametrize("retrain_after", [0, 100, 10_000])
def test_two_passes_of_mining_find_the_classifier_of_all_negatives(retrain_after):
    """Those left out lie beyond their margin, so that the optimum is that of all, from a fraction of the rows."""
    negatives, found = images_of_negatives(0), positives(0)
    everything = np.concatenate([found, *negatives])
    is_positive = np.arange(len(everything)) < len(found)
    precise = dict(c=0.05, tolerance=1e-5)
    full = LinearSVM(**precise).fit(everything, is_positive, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    mined = mine_hard_negatives(
        found, negatives, rng, LinearSVM(**precise), passes=3, retrain_after=retrain_after
    )
    assert len(mined.alpha) < len(everything) / 2
    np.testing.assert_allclose(mined.weight, full.weight, atol=2e-3)
    assert mined.bias == pytest.approx(full.bias, abs=2e-3)


def test_what_is_added_and_what_is_forgotten():
    """On a line, positives at 1: the first image trains; afterwards only what scores above -1.0001 is added."""
    svm = LinearSVM(c=1.0, tolerance=1e-6, bias_multiplier=1e-3)  # the bias is too dear: score = w x
    miner = HardNegativeMiner(np.ones((1, 1)), svm, np.random.default_rng(0), retrain_after=2)
    miner.add(0, np.array([[-1.0], [-1.5]]))  # w = 1: -1.5 scores below -1.2 and is forgotten
    np.testing.assert_allclose(svm.weight, [1], atol=1e-4)
    np.testing.assert_allclose(miner.negatives, [[-1]])
    miner.add(1, np.array([[-1.1], [-0.5], [-3.0]]))
    assert miner.num_trainings == 1 and miner.num_waiting == 1  # -0.5 alone is hard
    miner.add(1, np.array([[-1.1], [-0.5], [-3.0]]))
    assert miner.num_waiting == 1  # a second visit adds no copies
    miner.add(2, np.array([[-0.9], [-0.8]]))
    assert miner.num_trainings == 2 and miner.num_waiting == 0  # 3 are more than 2
    # w = 1.25, where -0.8 meets its margin: -0.5 pulls with 0.5, and beyond 1.25 -0.8 with nothing. -1 scores -1.25.
    np.testing.assert_allclose(svm.weight, [1.25], atol=1e-4)
    assert miner.keys.tolist() == [[1, 1], [2, 0], [2, 1]]
    assert miner.alpha.shape == (4,)


def test_images_without_negatives():
    miner = HardNegativeMiner(positives(0), LinearSVM(), np.random.default_rng(0))
    miner.add(0, np.zeros((0, 8)))
    assert miner.num_trainings == 0
    miner.add(1, images_of_negatives(0)[0])
    assert miner.num_trainings == 1
    assert (miner.train().score(positives(0)) > miner.svm.score(images_of_negatives(1)[0]).mean()).all()
