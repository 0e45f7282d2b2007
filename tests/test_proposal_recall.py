"""Recall of proposals: by hand, its curve and average, real cells, and the file that proposals are kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.data.images import load_image
from minidetect.data.objects import ObjectDataset, ObjectRecord
from minidetect.data.proposals import load_proposals, save_proposals
from minidetect.data.voc import read_voc
from minidetect.detection.proposals import random_boxes
from minidetect.detection.selective_search import selective_search
from minidetect.evaluate.proposals import (
    ProposalRecall,
    mean_average_best_overlap,
    proposal_recall,
    recall_by_class,
    recall_by_size,
)
from minidetect.nn.checkpoint import save_arrays

EMPTY = np.zeros((0, 4), np.float32)
# Of four objects of 10 x 10 one is met exactly, one by 8 of its 10 columns, one by half, one not at all.
OBJECTS = list(np.array([[[0, 0, 10, 10], [20, 0, 30, 10]], [[0, 0, 10, 10], [50, 50, 60, 60]]], np.float32))
PROPOSALS = list(np.array([[[22, 0, 30, 10], [0, 0, 10, 10]], [[0, 0, 5, 10], [0, 0, 3, 3]]], np.float32))


def test_by_hand():
    row = proposal_recall(PROPOSALS, OBJECTS)
    np.testing.assert_allclose(row.overlaps, [1, 0.8, 0.5, 0])
    assert (row.recall(0.5), row.recall(0.7), row.recall(0.9), row.num_boxes) == (0.75, 0.5, 0.25, 2)
    assert row.average_recall == pytest.approx(2 * (0.5 + 0.3 + 0 + 0) / 4)
    assert row.average_best_overlap == pytest.approx(2.3 / 4)


def test_only_the_first_proposals_count():
    row = proposal_recall(PROPOSALS, OBJECTS, most=1)
    np.testing.assert_allclose(row.overlaps, [0, 0.8, 0.5, 0])
    assert row.num_boxes == 1
    assert proposal_recall(PROPOSALS, OBJECTS, most=0).recall(0.5) == 0


def test_average_recall_is_not_the_mean_overlap():
    """Overlaps below 0.5 count for nothing: without the cut at 0.5 the last object would take away what others gave."""
    row = ProposalRecall(np.array([1.0, 0.5, 0.0]), 1.0)
    assert row.average_recall == pytest.approx(1 / 3)
    assert 2 * (row.overlaps - 0.5).mean() == pytest.approx(0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_average_recall_is_twice_the_area_under_the_curve(overlaps):
    row = ProposalRecall(np.array(overlaps), 1.0)
    middles = 0.5 + (np.arange(2000) + 0.5) / 4000
    assert row.average_recall == pytest.approx(2 * 0.5 * row.curve(middles).mean(), abs=1e-3)
    assert (np.diff(row.curve()) <= 0).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 40), st.integers(0, 40))
def test_more_proposals_never_reach_less(seed, few, more):
    rng = np.random.default_rng(seed)
    boxes, objects = random_boxes((100, 100), 40, rng), random_boxes((100, 100), 5, rng)
    less, all_of_them = (proposal_recall([boxes], [objects], most) for most in sorted((few, more)))
    assert (less.overlaps <= all_of_them.overlaps).all()


def test_nothing_to_find_and_nothing_proposed():
    row = proposal_recall([EMPTY, EMPTY], [EMPTY, np.array([[0, 0, 5, 5]])])
    assert row.recall(0.5) == row.average_recall == row.num_boxes == 0
    for row in (proposal_recall([], []), proposal_recall([PROPOSALS[0]], [EMPTY])):
        assert np.isnan([row.recall(0.5), row.average_recall, row.average_best_overlap]).all()
        assert np.isnan(row.curve()).all()
    with pytest.raises(ValueError, match="1 lists of proposals for 2 images"):
        proposal_recall([EMPTY], [EMPTY, EMPTY])
    with pytest.raises(ValueError, match="proposals must have shape"):
        proposal_recall([np.zeros((3, 5))], [EMPTY])


# ------------------------------------------------------------------ Group Sampling's measures


def test_the_mean_recall_by_hand():
    """At 0.5, 0.55, ... 0.95: an overlap of 1 counts at all ten, 0.82 at seven, 0.51 at one, 0.49 at none."""
    row = ProposalRecall(np.array([1.0, 0.82, 0.51, 0.49]), 1.0)
    assert row.mean_recall == pytest.approx((10 + 7 + 1 + 0) / 40)
    assert row.mean_recall != pytest.approx(row.average_recall, abs=0.01)  # the area: 2 (0.5 + 0.32 + 0.01) / 4
    assert ProposalRecall(np.array([0.95, 0.951, 0.949]), 1.0).mean_recall == pytest.approx(29 / 30)
    assert np.isnan(ProposalRecall(np.zeros(0), 0.0).mean_recall)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_the_mean_recall_is_a_mean_of_recalls(overlaps):
    row = ProposalRecall(np.array(overlaps), 1.0)
    by_loops = [sum(v >= (50 + 5 * k) / 100 for v in overlaps) / len(overlaps) for k in range(10)]
    near = min(abs(v - (50 + 5 * k) / 100) for v in overlaps for k in range(10))
    assert near < 1e-9 or row.mean_recall == pytest.approx(np.mean(by_loops))


# Sides of 31, exactly 32, 95 and exactly 96 pixels, and one of 16 x 100, whose area is medium.
SIZES = np.array(
    [[0, 0, 31, 31], [100, 0, 132, 32], [200, 0, 295, 95], [0, 200, 96, 296], [300, 0, 316, 100]], np.float32
)


def test_sizes_by_hand():
    """The proposals are exact but for the first, which has an overlap of 0.5, and none reaches the last."""
    exact, half = SIZES[1:4], np.array([[0, 0, 31, 15.5]], np.float32)
    rows = recall_by_size([exact, half, EMPTY], [SIZES[1:], SIZES[:1], EMPTY])
    assert list(rows) == ["all", "small", "medium", "large"]
    assert {name: row.overlaps.tolist() for name, row in rows.items()} == {
        "all": [1, 1, 1, 0, 0.5], "small": [0.5], "medium": [1, 1, 0], "large": [1]
    }  # fmt: skip
    found = {name: row.mean_recall for name, row in rows.items()}
    assert found == pytest.approx({"all": 3.1 / 5, "small": 0.1, "medium": 2 / 3, "large": 1})
    assert all(row.num_boxes == pytest.approx(4 / 3) for row in rows.values())


def test_the_first_hundred_count_unless_told():
    """The one that fits comes as the 101st."""
    far = np.tile(np.array([[500, 500, 510, 510]], np.float32), (100, 1))
    proposals = [np.concatenate([far, SIZES[:1]])]
    for given_, recall in (({}, 0), ({"most": 101}, 1), ({"most": None}, 1)):
        assert recall_by_size(proposals, [SIZES[:1]], **given_)["all"].recall(0.5) == recall
    rows = recall_by_size(proposals, [SIZES[:1]])
    assert np.isnan(rows["large"].mean_recall) and np.isnan(rows["medium"].recall(0.5)) and rows["all"].num_boxes == 100


def test_sizes_without_images():
    assert all(np.isnan(row.mean_recall) for row in recall_by_size([], []).values())
    with pytest.raises(ValueError, match="1 lists of proposals for 2 images"):
        recall_by_size([EMPTY], [EMPTY, EMPTY])
    with pytest.raises(ValueError, match="gt_boxes must have shape|boxes must have shape"):
        recall_by_size([EMPTY], [np.zeros((2, 5))])


# ------------------------------------------------------------------ classes, real cells


def record(boxes: np.ndarray, labels: list[int], ignored: list[bool]) -> ObjectRecord:
    areas = np.full(len(boxes), 100.0)
    return ObjectRecord(Path("a.jpg"), (60, 60), boxes, np.array(labels, np.int64), np.array(ignored, bool), areas)


def test_classes_and_ignored_objects():
    records = [record(OBJECTS[0], [1, 2], [False, False]), record(OBJECTS[1], [2, 1], [False, True])]
    rows = recall_by_class(PROPOSALS, ObjectDataset(records, ("cat", "dog", "emu")))
    assert list(rows) == ["cat", "dog", "emu", "all"]
    np.testing.assert_allclose(rows["cat"].overlaps, [1])  # the one in nowhere's reach is ignored
    np.testing.assert_allclose(rows["dog"].overlaps, [0.8, 0.5])
    np.testing.assert_allclose(rows["all"].overlaps, [1, 0.8, 0.5])
    assert mean_average_best_overlap(rows) == pytest.approx((1 + 0.65) / 2)  # nobody has an emu
    assert np.isnan(mean_average_best_overlap({"all": rows["all"]}))


def test_real_cells(data_dir):
    """All 87 have 0.97 (benchmarks/proposals.py); these three are to notice when the search breaks."""
    dataset = read_voc(data_dir / "bccd", "val", on_problem=lambda message: None)
    dataset = ObjectDataset(dataset.records[:3], dataset.classes)
    images, rng = [load_image(r.path) for r in dataset.records], np.random.default_rng(0)
    searched = recall_by_class([selective_search(image, rng) for image in images], dataset, 2000)["all"]
    drawn = recall_by_class([random_boxes(image.shape[:2], 2000, rng) for image in images], dataset)["all"]
    assert searched.recall(0.5) > 0.85 and searched.average_recall > drawn.average_recall


# ------------------------------------------------------------------ files


def test_a_file_of_proposals(tmp_path):
    proposals = {"b.jpg": PROPOSALS[0], "file": EMPTY, "dir/a.jpg": PROPOSALS[1].astype(np.float64)}
    save_proposals(tmp_path / "p.npz", proposals, {"ks": [50, 100]})
    loaded, meta = load_proposals(tmp_path / "p.npz")
    assert list(loaded) == list(proposals) and meta == {"ks": [50, 100]}
    for name, boxes in proposals.items():
        np.testing.assert_array_equal(loaded[name], boxes)
        assert loaded[name].dtype == np.float32 and loaded[name].shape == boxes.shape
    save_proposals(tmp_path / "none.npz", {})
    assert load_proposals(tmp_path / "none.npz") == ({}, {})


def test_files_that_hold_no_proposals(tmp_path):
    with pytest.raises(ValueError, match=r"proposals of 'a.jpg' must have shape"):
        save_proposals(tmp_path / "p.npz", {"a.jpg": np.zeros((2, 5))})
    with pytest.raises(FileNotFoundError, match=r"p\.npz"):
        load_proposals(tmp_path / "p.npz")
    boxes, counts = np.zeros((3, 4), np.float32), np.array([1, 1])
    for arrays, meta in (
        ({"weight": boxes}, None),
        ({"boxes": boxes, "counts": counts}, {"names": ["a", "b"]}),  # a box belongs to nobody
        ({"boxes": boxes, "counts": counts + 1}, {"names": ["a"]}),
    ):
        save_arrays(tmp_path / "other.npz", arrays, meta)
        with pytest.raises(ValueError, match=r"other\.npz: not a file of proposals"):
            load_proposals(tmp_path / "other.npz")
