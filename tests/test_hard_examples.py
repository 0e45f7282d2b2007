"""Which samples are hard: the loss of each, the choice of the largest, and the proposal of new ones (section 2.4)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from minidetect.autograd import Tensor
from minidetect.data.synthetic import draw_scene
from minidetect.detection.hard_examples import cross_entropy_values, hardest, hardest_rows, smooth_l1_values
from minidetect.detection.losses import cross_entropy, smooth_l1
from minidetect.models.multi_output_cascade import LANDMARK, NEGATIVE, PART, POSITIVE, MultiOutputCascade
from minidetect.reference import boxes as slow
from minidetect.train import hard_examples
from minidetect.train.hard_examples import propose, top_n
from minidetect.train.patches import Photo
from minidetect.train.typed_batches import TypedBatch

SETTINGS = settings(max_examples=60, deadline=None)
dtypes = st.sampled_from([np.float32, np.float64])
# Few different values: ties are frequent.
losses_of = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, st.integers(0, 25), elements=st.sampled_from([0.0, 0.25, 1.0, 2.0, 7.5, 100.0]))
)
shares = st.floats(0.001, 1.0)


# ------------------------------------------------------------------ the choice


def test_hardest_rows_by_hand():
    """70 % of five is 3.5, which rounds to 4; of the two losses of 1 the earlier is taken."""
    losses = np.array([1.0, 5.0, 1.0, 0.5, 3.0])
    assert hardest_rows(losses, 0.7).tolist() == [0, 1, 2, 4]
    assert hardest_rows(losses, 0.6).tolist() == [0, 1, 4]
    assert hardest_rows(losses, 0.01).tolist() == [1]
    assert hardest_rows(losses, 1.0).tolist() == [0, 1, 2, 3, 4]


@SETTINGS
@given(losses_of, shares)
def test_the_hardest_rows_are_the_largest_losses(losses, keep):
    rows = hardest_rows(losses, keep)
    count = len(losses)
    assert rows.dtype == np.int64 and len(rows) == (max(1, int(np.floor(keep * count + 0.5))) if count else 0)
    assert (np.diff(rows) > 0).all()
    left_out = np.setdiff1d(np.arange(count), rows)
    if len(left_out):
        last = losses[rows].min()
        assert last >= losses[left_out].max()
        tied_in, tied_out = rows[losses[rows] == last], left_out[losses[left_out] == last]
        assert not len(tied_out) or tied_in.max() < tied_out.min()  # of equal losses the earlier


@SETTINGS
@given(losses_of, st.integers(0, 30))
def test_the_hardest_are_the_first_of_a_stable_sort(losses, most):
    expected = sorted(sorted(range(len(losses)), key=lambda i: (-losses[i], i))[:most])
    assert hardest(losses, most).tolist() == expected


@SETTINGS
@given(losses_of, shares)
def test_memory_layout_and_list_do_not_matter(losses, keep):
    twice = np.repeat(losses, 2)[::2]
    backwards = losses[::-1].copy()[::-1]
    for view in (twice, backwards, losses.tolist()):
        np.testing.assert_array_equal(hardest_rows(np.asarray(view, losses.dtype), keep), hardest_rows(losses, keep))


def test_no_losses():
    for rows in (hardest_rows(np.zeros(0), 0.7), hardest(np.zeros(0), 5), hardest(np.ones(3), 0)):
        assert rows.shape == (0,) and rows.dtype == np.int64


def test_a_diverged_loss_is_not_hidden():
    """NaN is the hardest of all, infinity beside it: left out, a diverged network would look well."""
    losses = np.array([1.0, np.nan, 3.0, np.inf, 2.0])
    assert hardest(losses, 2).tolist() == [1, 3]
    assert hardest_rows(losses, 0.2).tolist() == [1]
    assert hardest(losses, 3).tolist() == [1, 2, 3]


@pytest.mark.parametrize("keep", [0, -0.1, 1.01, np.nan])
def test_a_senseless_share_is_refused(keep):
    with pytest.raises(ValueError, match="keep must be over 0 and at most 1"):
        hardest_rows(np.ones(3), keep)


@pytest.mark.parametrize("losses, most", [(np.ones((2, 2)), 1), (np.float64(3), 1), (np.ones(2), -1)])
def test_losses_of_the_wrong_shape_are_refused(losses, most):
    with pytest.raises(ValueError, match=r"losses must be \(N,\)"):
        hardest(losses, most)


# ------------------------------------------------------------------ the losses of each sample


def test_values_by_hand():
    """Even odds log 2; 3 to 1 for the wrong class log 4. Distances 0.5 and 3: 0.125 + 2.5, at beta 0.5 0.25 + 2.75."""
    logits = np.array([[0, 0], [np.log(3), 0]])
    np.testing.assert_allclose(cross_entropy_values(logits, np.array([0, 1])), np.log([2, 4]))
    pred, target = np.array([[0.5, 0.0], [0.0, 0.0]]), np.array([[0.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(smooth_l1_values(pred, target), [2.625, 0])
    np.testing.assert_allclose(smooth_l1_values(pred, target, beta=0.5), [0.25 + 2.75, 0])


@SETTINGS
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 6), dtypes, st.sampled_from([1.0, 1 / 9, 3.0]))
def test_values_are_the_terms_of_the_losses(seed, count, width, dtype, beta):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((count, width)) * 5).astype(dtype)
    labels = rng.integers(0, width, count)
    pred, target = ((rng.standard_normal((count, width)) * 2).astype(dtype) for _ in range(2))
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for values, loss in (
        (cross_entropy_values(logits, labels), cross_entropy(Tensor(logits), labels)),
        (smooth_l1_values(pred, target, beta), smooth_l1(Tensor(pred), target, beta=beta)),
    ):
        assert values.shape == (count,) and values.dtype == dtype and (values >= 0).all()
        assert values.mean() == pytest.approx(loss.item(), rel=tolerance, abs=tolerance)
    row = int(rng.integers(count))
    one = cross_entropy(Tensor(logits[[row]]), labels[[row]]).item()
    assert cross_entropy_values(logits, labels)[row] == pytest.approx(one, rel=tolerance, abs=tolerance)
    one = smooth_l1(Tensor(pred[[row]]), target[[row]], beta=beta).item()
    assert smooth_l1_values(pred, target, beta)[row] == pytest.approx(one, rel=tolerance, abs=tolerance)


def test_logits_of_a_thousand_do_not_overflow():
    logits = np.array([[1000, -1000], [-1000, 1000]], np.float32)
    np.testing.assert_array_equal(cross_entropy_values(logits, np.array([0, 0])), [0, 2000])


def test_no_samples_have_no_values():
    assert cross_entropy_values(np.zeros((0, 2)), np.zeros(0, np.int64)).shape == (0,)
    assert smooth_l1_values(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)


# ------------------------------------------------------------------ the paper's text: the N hardest, filled up


def candidates(types) -> TypedBatch:
    """Each patch is dark on its left, and has a tint that tells its row; deltas and points of its own."""
    types = np.array(types)
    count = len(types)
    patches = np.zeros((count, 12, 12, 3), np.float32)
    patches[:] = np.linspace(60, 190, 12, dtype=np.float32)[:, None]
    deltas = np.arange(1, count + 1, dtype=np.float32)[:, None] * np.array([1, 10, 100, 1000], np.float32)
    points = np.arange(10, dtype=np.float32) / 10 + np.arange(count, dtype=np.float32)[:, None]
    points[types != LANDMARK] = np.nan
    deltas[(types == NEGATIVE) | (types == LANDMARK)] = np.nan
    return TypedBatch(patches, types, deltas, points)


def test_the_hardest_of_each_type(rng):
    """Of the positives rows 4 and 0, of the negatives row 1; parts are not asked for."""
    types = [POSITIVE, NEGATIVE, PART, NEGATIVE, POSITIVE, POSITIVE]
    losses = np.array([3.0, 9.0, 99.0, 8.0, 5.0, 1.0])
    batch = candidates(types)
    chosen = top_n(batch, losses, {POSITIVE: 2, NEGATIVE: 1}, rng)
    for ours, theirs in zip(chosen, batch.rows(np.array([0, 4, 1])), strict=True):
        np.testing.assert_array_equal(ours, theirs)  # as they are: nothing was transformed


def test_too_few_are_filled_up_with_transforms_of_the_chosen():
    """Two positives for eight: both as they are, then six of them mirrored or not, targets with them."""
    batch = candidates([POSITIVE, NEGATIVE, POSITIVE, LANDMARK])
    chosen = top_n(batch, np.ones(4), {POSITIVE: 8, LANDMARK: 6, NEGATIVE: 1}, np.random.default_rng(0))
    assert chosen.types.tolist() == [POSITIVE] * 8 + [LANDMARK] * 6 + [NEGATIVE]
    np.testing.assert_array_equal(chosen.patches[:2], batch.patches[[0, 2]])
    np.testing.assert_array_equal(chosen.deltas[:2], batch.deltas[[0, 2]])
    np.testing.assert_array_equal(chosen.points[8], batch.points[3])
    mirrored = chosen.patches[:, :, 0].mean(axis=(1, 2)) > chosen.patches[:, :, -1].mean(axis=(1, 2))
    assert mirrored[2:8].any() and not mirrored[2:8].all() and mirrored[9:14].any() and not mirrored[9:14].all()
    for i in range(2, 8):
        row = 0 if chosen.deltas[i, 1] == batch.deltas[0, 1] else 2
        sign = np.array([-1 if mirrored[i] else 1, 1, 1, 1])
        np.testing.assert_array_equal(chosen.deltas[i], sign * batch.deltas[row])
        assert (chosen.patches[i] != batch.patches[row]).any()
    points = batch.points[3].reshape(5, 2)
    swapped = points[[1, 0, 2, 4, 3]] * [-1, 1] + [1, 0]  # x -> 1 - x, left and right exchanged
    for i in range(9, 14):
        np.testing.assert_allclose(chosen.points[i].reshape(5, 2), swapped if mirrored[i] else points, rtol=1e-6)


@SETTINGS
@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(1, 6), st.integers(0, 6))
def test_every_type_with_a_candidate_has_its_number(seed, count, positives, parts):
    rng = np.random.default_rng(seed)
    types = rng.choice([POSITIVE, NEGATIVE, PART], count)
    losses = rng.permutation(count).astype(np.float32)
    batch = candidates(types)
    counts = {POSITIVE: positives, PART: parts}
    if not any(counts[kind] for kind in counts if (types == kind).any()):
        return  # nothing to choose: see the next test
    chosen = top_n(batch, losses, counts, rng)
    for kind, asked in counts.items():
        there = np.flatnonzero(types == kind)
        rows = np.flatnonzero(chosen.types == kind)
        assert len(rows) == (asked if len(there) else 0)
        hard = there[np.argsort(-losses[there])][:asked]
        np.testing.assert_array_equal(np.sort(chosen.deltas[rows[: len(hard)], 1]), np.sort(batch.deltas[hard, 1]))
        assert set(chosen.deltas[rows, 1]) <= set(batch.deltas[hard, 1])  # fillers come from the chosen alone
    assert set(chosen.types) <= {POSITIVE, PART}


def test_no_candidates_are_an_empty_batch(rng):
    for batch, counts in ((candidates([NEGATIVE]), {POSITIVE: 3}), (candidates([]), {POSITIVE: 3}),
                          (candidates([POSITIVE]), {POSITIVE: 0})):  # fmt: skip
        chosen = top_n(batch, np.ones(len(batch.types)), counts, rng)
        assert [len(array) for array in chosen] == [0, 0, 0, 0] and chosen.patches.shape[1:] == (12, 12, 3)


# ------------------------------------------------------------------ proposals


def test_proposals_are_sorted_by_overlap_and_the_pipeline_is_left_alone(tmp_path, rng, monkeypatch):
    """Below 0.3 negatives, from 0.7 on positives, parts between, each measured with the face's square again."""
    scene = draw_scene("faces_easy", seed=11, size=(72, 84), num_faces=(2, 2), side=(24, 36))
    Image.fromarray(scene.image).save(tmp_path / "a.png")
    photo = Photo(tmp_path / "a.png", lambda size: scene.target())
    narrow = (((4, 3, 2), (4, 3, 0), (4, 3, 0)), ((4, 3, 3),), ((4, 3, 3),))
    cascade = MultiOutputCascade(rng, narrow, (4, 4), max_proposals=2000, stage_nms=(0.1, 0.1), second_look=0.99)
    pipeline = cascade.fuse()
    settings, used, mine = dict(vars(pipeline)), [], hard_examples.mine

    def recording(given, *arguments, **more):
        used.append(given)
        return mine(given, *arguments, **more)

    monkeypatch.setattr(hard_examples, "mine", recording)
    found = propose(pipeline, [photo], 2, (0.0, 0.0, 0.0), rng, per_photo=40)
    assert vars(pipeline) == settings
    assert used[0].thresholds == (0.0, 0.0, 0.0) and used[0].second_look is None and used[0].stage_nms == (0.7, 0.7)
    assert 0 < len(found.negatives.patches) <= 40 and 0 < len(found.parts.patches) <= 20
    assert (found.positives.iou >= 0.7).all() and ((found.parts.iou >= 0.3) & (found.parts.iou < 0.7)).all()
    assert found.parts.deltas.any() and not found.negatives.deltas.any()


def test_the_papers_overlaps():
    """Section 2.4: a negative below 0.3, a positive above 0.7."""
    assert (hard_examples.NEGATIVE_BELOW, hard_examples.POSITIVE_FROM) == (0.3, 0.7)
    assert slow.iou((0, 0, 10, 10), (0, 0, 10, 7)) == pytest.approx(hard_examples.POSITIVE_FROM)
