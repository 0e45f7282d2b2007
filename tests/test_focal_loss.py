"""The focal loss: by hand, against a slow formula, its gradient, its normalisers, and logits of any size."""

from __future__ import annotations

from math import exp, log, log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor
from minidetect.autograd.gradcheck import GradientError, gradcheck
from minidetect.detection.focal_loss import ALPHA, GAMMA, FocalLoss, focal_loss, focal_weights
from minidetect.detection.losses import cross_entropy

SETTINGS = settings(max_examples=50, deadline=None)
# A face seen with p = 3/4, a background with 1/2 and one with 3/4.
LOGITS, LABELS = np.array([[0, log(3)], [5, 5], [log(3), 0]]), np.array([1, 0, 0])


def by_loops(logits, labels, alpha: float, gamma: float) -> tuple[float, float]:
    """The sum of the losses and that of their weights, sample by sample, with p and 1 - p of the same precision."""
    loss = weights = 0.0
    for (background, face), label in zip(logits, labels, strict=True):
        margin = (face - background) * (1 if label == 1 else -1)
        minus_log_p = log1p(exp(-margin)) if margin > 0 else log1p(exp(margin)) - margin
        other = exp(-margin) / (1 + exp(-margin)) if margin > 0 else 1 / (1 + exp(margin))
        weight = (alpha if label == 1 else 1 - alpha) * other**gamma
        loss, weights = loss + weight * minus_log_p, weights + weight
    return loss, weights


def gradient(logits, *arguments, **named) -> np.ndarray:
    x = Tensor(np.asarray(logits), requires_grad=True)
    focal_loss(x, *arguments, **named).backward()
    return x.grad


# ------------------------------------------------------------------ values


def test_by_hand():
    """1/4 and 3/4, times (1 - p)**2, times -log p."""
    weights = [1 / 4 / 16, 3 / 4 / 4, 3 / 4 / 16]
    expected = weights[0] * log(4 / 3) + weights[1] * log(2) + weights[2] * log(4 / 3)
    np.testing.assert_allclose(focal_weights(LOGITS, LABELS), weights, rtol=1e-12)
    assert focal_loss(Tensor(LOGITS), LABELS, normaliser=1).item() == pytest.approx(expected)
    assert focal_loss(Tensor(LOGITS), LABELS, normaliser=4).item() == pytest.approx(expected / 4)
    assert focal_loss(Tensor(LOGITS), LABELS).item() == pytest.approx(expected / sum(weights))  # Focal*
    assert (ALPHA, GAMMA) == (0.25, 2.0)


def test_other_settings_by_hand():
    """alpha = 0.9, gamma = 1: 0.9 / 4, 0.1 / 2, 0.1 / 4."""
    expected = 0.9 / 4 * log(4 / 3) + 0.1 / 2 * log(2) + 0.1 / 4 * log(4 / 3)
    assert focal_loss(Tensor(LOGITS), LABELS, 0.9, 1.0, 1).item() == pytest.approx(expected)


@SETTINGS
@given(
    st.lists(st.tuples(st.floats(-7, 7), st.floats(-7, 7), st.integers(0, 1)), min_size=1, max_size=12),
    st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
)
def test_against_loops(rows, alpha, gamma):
    logits, labels = np.array([row[:2] for row in rows]), np.array([row[2] for row in rows])
    loss, weights = by_loops(logits.tolist(), labels.tolist(), alpha, gamma)
    assert focal_loss(Tensor(logits), labels, alpha, gamma, 2.0).item() == pytest.approx(loss / 2, rel=1e-8, abs=1e-15)
    assert focal_weights(logits, labels, alpha, gamma).sum() == pytest.approx(weights, rel=1e-8, abs=1e-15)
    if weights > 1e-8:
        assert focal_loss(Tensor(logits), labels, alpha, gamma).item() == pytest.approx(loss / weights, rel=1e-6)


def test_without_focus_it_is_half_the_cross_entropy(rng):
    """gamma 0, alpha 1/2; with gamma 2 it is less, and most of all for the easy half."""
    logits, labels = rng.normal(0, 2, (9, 2)), rng.integers(0, 2, 9)
    plain = focal_loss(Tensor(logits), labels, 0.5, 0.0, normaliser=9).item()
    assert plain == pytest.approx(cross_entropy(Tensor(logits), labels).item() / 2)
    np.testing.assert_allclose(gradient(logits, labels, 0.5, 0.0, 9.0), half_cross_entropy_gradient(logits, labels))
    assert focal_loss(Tensor(logits), labels, 0.5, 2.0, normaliser=9).item() < plain


def half_cross_entropy_gradient(logits, labels) -> np.ndarray:
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return (p - np.eye(2)[labels]) / 2 / len(labels)


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_gradient_equals_central_differences(alpha, gamma, rng):
    labels = rng.integers(0, 2, 8)
    gradcheck(lambda x: focal_loss(x, labels, alpha, gamma, 3.0), rng.normal(0, 2, (8, 2)), rng=rng)


class WithoutTheWeight(FocalLoss):
    """Deliberately wrong: the weight as a constant, as if (1 - p) ** gamma had no derivative."""

    def backward(self, gy):
        slope = -self.balance * self.miss**self.gamma * self.miss * (gy / self.normaliser)
        gx = np.stack([-slope, -slope], axis=1)
        gx[np.arange(len(slope)), self.labels] = slope
        return (gx,)


def test_a_wrong_gradient_is_noticed(rng):
    labels, logits = rng.integers(0, 2, 8), rng.normal(0, 2, (8, 2))
    with pytest.raises(GradientError):
        gradcheck(lambda x: WithoutTheWeight(labels, 0.25, 2.0, 3.0)(x), logits, rng=rng)
    gradcheck(lambda x: WithoutTheWeight(labels, 0.25, 0.0, 3.0)(x), logits, rng=rng)  # right for gamma 0


def test_the_normaliser_of_focal_star_is_a_constant(rng):
    """Its gradient is that of the sum over a number; the true derivative of the quotient is another one."""
    labels, logits = rng.integers(0, 2, 8), rng.normal(0, 2, (8, 2))
    weights = focal_weights(logits, labels).sum()
    np.testing.assert_allclose(gradient(logits, labels), gradient(logits, labels, normaliser=1.0) / weights, rtol=1e-12)
    with pytest.raises(GradientError):
        gradcheck(lambda x: focal_loss(x, labels), logits, rng=rng)


def test_gradient_by_hand():
    """p = 3/4: z's slope is -1/4 (1/4)**2 (1/4 + 2 * 3/4 * log(4/3)); the other logit gets the opposite."""
    slope = -1 / 4 / 16 * (1 / 4 + 2 * 3 / 4 * log(4 / 3))
    np.testing.assert_allclose(gradient(LOGITS[:1], [1], normaliser=1.0), [[-slope, slope]], rtol=1e-12)


def test_what_is_easy_hardly_counts(rng):
    """10,000 easy backgrounds (p = 0.99) against 10 faces with p = 0.1: a share of the gradient, then nearly none."""
    logits = np.concatenate([np.tile([0, -log(99)], (10_000, 1)), np.tile([log(9), 0], (10, 1))])
    labels = np.repeat([0, 1], [10_000, 10])
    sums = []
    for gamma in (0.0, 2.0):
        size = np.abs(gradient(logits, labels, 0.25, gamma, 1.0)[:, 0])
        sums.append(size[:10_000].sum() / size.sum())
    assert sums[0] > 0.9 and sums[1] < 0.02


# ------------------------------------------------------------------ types, sizes, layouts of memory


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_types(dtype, tolerance, rng):
    logits, labels = rng.normal(0, 2, (20, 2)), rng.integers(0, 2, 20)
    for normaliser in (None, 7.0):
        loss = focal_loss(Tensor(logits.astype(dtype)), labels, normaliser=normaliser)
        assert loss.dtype == dtype and loss.shape == ()
        found = gradient(logits.astype(dtype), labels, normaliser=normaliser)
        assert found.dtype == dtype
        exact = focal_loss(Tensor(logits), labels, normaliser=normaliser).item()
        assert loss.item() == pytest.approx(exact, rel=tolerance)
        exact = gradient(logits, labels, normaliser=normaliser)
        np.testing.assert_allclose(found, exact, rtol=10 * tolerance, atol=tolerance)
    assert focal_weights(logits.astype(dtype), labels).dtype == dtype
    for kind in (np.int32, np.uint8):
        assert focal_loss(Tensor(logits), labels.astype(kind)).item() == focal_loss(Tensor(logits), labels).item()


def test_no_samples():
    for normaliser in (None, 1.0):
        x = Tensor(np.zeros((0, 2), np.float32), requires_grad=True)
        loss = focal_loss(x, np.zeros(0, np.int64), normaliser=normaliser)
        loss.backward()
        assert loss.item() == 0 and loss.dtype == np.float32 and x.grad.shape == (0, 2)


def test_arrays_that_are_not_contiguous(rng):
    wide, labels = rng.normal(0, 2, (12, 6)), rng.integers(0, 2, 12)
    views = [(wide[::2, 1::3], labels[::2]), (wide[:2].T, labels[3:9]), (wide[::-1, 3:1:-1], labels[::-1])]
    for view, of_view in views:
        copied = np.ascontiguousarray(view)
        assert not view.flags.c_contiguous
        assert focal_loss(Tensor(view), of_view).item() == focal_loss(Tensor(copied), of_view.copy()).item()
        np.testing.assert_array_equal(gradient(view, of_view), gradient(copied, of_view.copy()))


def test_the_input_stays_as_it_was():
    x, labels = Tensor(LOGITS.copy(), requires_grad=True), LABELS.copy()
    focal_loss(x, labels).backward()
    np.testing.assert_array_equal(x.data, LOGITS)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [50.0, 1e4, 1e30])
def test_huge_logits_stay_finite(dtype, size):
    """Two that are certain and wrong: (1/4 + 3/4) * size, slope -a; two that are right: nothing."""
    logits = np.array([[size, 0], [0, size], [0, size], [size, 0]], dtype)
    labels = np.array([1, 0, 1, 0])
    assert focal_loss(Tensor(logits), labels, normaliser=1).item() == pytest.approx(size, rel=1e-6)
    expected = [[0.25, -0.25], [-0.75, 0.75], [0, 0], [0, 0]]
    np.testing.assert_allclose(gradient(logits, labels, normaliser=1.0), expected, atol=1e-6)
    right = focal_loss(Tensor(logits[2:]), labels[2:])  # Focal* of weights that are all 0
    assert np.isfinite(right.item()) and np.isfinite(gradient(logits[2:], labels[2:])).all()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("logits", "labels", "normaliser", "complaint"),
    [
        (np.zeros((3, 3)), [0, 1, 0], None, r"logits \(N, 2\) and labels \(N,\), got \(3, 3\) and \(3,\)"),
        (np.zeros((3, 2)), [0, 1], None, r"got \(3, 2\) and \(2,\)"),
        (np.zeros(2), [0, 1], None, r"got \(2,\) and \(2,\)"),
        (np.zeros((3, 2)), [[0], [1], [0]], None, r"got \(3, 2\) and \(3, 1\)"),
        (np.zeros((3, 2)), [0, 2, 1], None, "labels must be 0 for background and 1 for objects"),
        (np.zeros((3, 2)), [0, -1, 1], None, "labels must be 0"),
        (np.zeros((3, 2)), [0, 1, 1], 0, "normaliser must be positive, got 0"),
        (np.zeros((3, 2)), [0, 1, 1], -1.5, "normaliser must be positive, got -1.5"),
        (np.zeros((3, 2)), [0, 1, 1], float("nan"), "normaliser must be positive, got nan"),
    ],
)
def test_what_is_refused(logits, labels, normaliser, complaint):
    with pytest.raises(ValueError, match=complaint):
        focal_loss(Tensor(logits), labels, normaliser=normaliser)


# ------------------------------------------------------------------ another implementation


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_against_torch(gamma, rng):
    """The formula in torch's operations, with its automatic gradient."""
    torch = pytest.importorskip("torch")
    logits, labels = rng.normal(0, 3, (30, 2)), rng.integers(0, 2, 30)
    theirs = torch.tensor(logits, requires_grad=True)
    minus_log_p = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels), reduction="none")
    balance = torch.where(torch.tensor(labels) == 1, 0.25, 0.75)
    loss = (balance * (1 - torch.exp(-minus_log_p)) ** gamma * minus_log_p).sum() / 7
    loss.backward()
    assert focal_loss(Tensor(logits), labels, gamma=gamma, normaliser=7).item() == pytest.approx(loss.item())
    np.testing.assert_allclose(gradient(logits, labels, gamma=gamma, normaliser=7), theirs.grad.numpy(), rtol=1e-9)
