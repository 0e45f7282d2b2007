"""FDDB's evaluator: painted pixels, the assignment, both curves by hand, and the official figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from minidetect.data.fddb import FddbDetections, read_detections, read_ellipses
from minidetect.detection.structures import make_detections
from minidetect.evaluate.assignment import best_assignments
from minidetect.evaluate.fddb import evaluate_fddb, pair_image
from minidetect.evaluate.fddb_mapping import (
    WIDER_TO_FDDB,
    BoxMapping,
    fit_box_mapping,
    reference_outside_test_folds,
)
from minidetect.evaluate.scanlines import ellipse_spans, overlaps, rectangle_spans
from minidetect.reference import evaluation as slow

SETTINGS = settings(max_examples=50, deadline=None)
UPRIGHT = math.pi / 2
NUM_FACES = 5171


def mask_of(spans, n, size):
    columns = np.arange(size[1])
    return (columns >= spans.left[n][:, None]) & (columns <= spans.right[n][:, None])


# ---------------------------------------------------------------- painted pixels


def test_a_rectangle_includes_both_its_ends():
    spans = rectangle_spans(np.array([[2, 1, 3, 2]]), (10, 10))  # columns 2 to 5, rows 1 to 3
    assert spans.area.tolist() == [4 * 3]
    assert mask_of(spans, 0, (10, 10))[1:4, 2:6].all()


def test_regions_are_clipped_to_the_image():
    rectangles = np.array([[-5, -5, 7, 7], [8, 8, 50, 50], [-9, 0, 3, 3], [12, 0, 3, 3], [0, 10, 3, 3]])
    assert rectangle_spans(rectangles, (10, 10)).area.tolist() == [9, 4, 0, 0, 0]
    outside = ellipse_spans(np.array([[3, 3, 0, -20, 5], [3, 3, 0, 5, 20]]), (10, 10))
    assert outside.area.tolist() == [0, 0]
    corner = ellipse_spans(np.array([[20, 20, 0, 0, 0]]), (10, 10))  # covers the whole image
    assert corner.area.tolist() == [100]


@pytest.mark.parametrize("angle", [0.0, 0.4, UPRIGHT, -1.3, 3.0])
def test_a_painted_ellipse_is_the_ellipse_with_half_a_pixel_around_it(angle):
    ellipse = np.array([40, 25, angle, 60, 50])
    painted = mask_of(ellipse_spans(ellipse[None], (100, 120)), 0, (100, 120))
    exact = math.pi * 40.5 * 25.5
    assert painted.sum() == pytest.approx(exact, rel=0.01)
    for grow, inside in ((-1.2, True), (1.2, False)):  # all within, none beyond, apart from the outline
        grown = ellipse + np.array([grow, grow, 0, 0, 0])
        for y in range(100):
            for x in range(120):
                if slow.in_ellipse(x, y, grown) == inside:
                    assert painted[y, x] == inside, (x, y)


@pytest.mark.parametrize("axes", [(1, 1), (2, 1), (7, 4), (12, 9), (33, 20), (90, 61)])
def test_an_ellipse_is_its_own_mirror_image(axes):
    angles = (0.6, -0.6, 0.0, UPRIGHT)
    spans = ellipse_spans(np.array([[*axes, angle, 100, 100] for angle in angles]), (201, 201))
    tilted, mirrored, flat, upright = (mask_of(spans, n, (201, 201)) for n in range(4))
    # only a corner that falls on half a pixel may be rounded to another side in the mirror
    for one, other in ((tilted, mirrored[::-1]), (tilted, mirrored[:, ::-1]), (flat, flat[::-1, ::-1])):
        assert (one != other).sum() <= 4
    assert (flat != upright.T).sum() <= 3 + 0.5 * axes[0]  # corners go to whole rows, not to whole columns


def test_the_evaluator_rounds_centre_and_angle_and_cuts_the_half_axes():
    rough = ellipse_spans(np.array([[40.9, 25.9, math.radians(30.4), 60.4, 49.6]]), (100, 120))
    whole = ellipse_spans(np.array([[40, 25, math.radians(30), 60, 50]]), (100, 120))
    np.testing.assert_array_equal(rough.left, whole.left)
    np.testing.assert_array_equal(rough.right, whole.right)


def test_painted_overlap_is_near_the_exact_one():
    size = (90, 100)
    ellipse = np.array([35, 25, 1.2, 50, 45])
    for x, y, w, h in ([30, 15, 42, 58], [45, 30, 40, 40], [10, 60, 90, 60]):
        rectangle = rectangle_spans(np.array([[x, y, w, h]]), size)
        painted = overlaps(rectangle, ellipse_spans(ellipse[None], size))
        # pixel c is a point for the painter and reaches from c to c + 1 for the exact geometry
        exact = slow.ellipse_box_iou(
            ellipse + [0.5, 0.5, 0, 0.5, 0.5], [x, y, x + w + 1, y + h + 1], size, samples=3
        )
        assert painted[0, 0] == pytest.approx(exact, abs=0.01)


def test_overlap_of_rectangles_by_hand():
    a = rectangle_spans(np.array([[0, 0, 9, 9]]), (50, 50))  # 10 x 10 pixels
    b = rectangle_spans(np.array([[5, 0, 9, 9], [0, 0, 9, 9], [30, 30, 2, 2]]), (50, 50))
    np.testing.assert_allclose(overlaps(a, b), [[50 / 150, 1, 0]])
    none = rectangle_spans(np.zeros((0, 4)), (50, 50))
    assert overlaps(none, b).shape == (0, 3) and overlaps(b, none).shape == (3, 0)


@pytest.mark.parametrize("axes", [(2, 1), (8, 5), (13, 9), (30, 20), (101, 77)])
def test_opencv_paints_the_same(axes):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is a peer, not a dependency")
    for degrees in (0, 20, 45, 80, 90, 130):
        mask = np.zeros((200, 220), np.uint8)
        cv2.ellipse(mask, (100, 90), axes, degrees, 0, 360, 1, -1)
        spans = ellipse_spans(np.array([[*axes, math.radians(degrees), 100, 90]]), (200, 220))
        wrong = (mask.astype(bool) != mask_of(spans, 0, (200, 220))).sum()
        assert wrong <= 2 + 0.1 * 2 * math.pi * axes[0]  # about a tenth of the outline at most


# ---------------------------------------------------------------- assignment


def totals_of(owner, overlap):
    taken = owner[owner >= 0]
    assert len(set(taken.tolist())) == len(taken), "a detection owns two ground truths"
    return sum(overlap[d, g] for g, d in enumerate(owner) if d >= 0)


@SETTINGS
@given(st.integers(1, 6), st.integers(1, 5), st.data())
def test_every_prefix_is_assigned_as_well_as_by_trying_all(num_det, num_gt, data):
    steps = data.draw(arrays(np.int64, (num_det, num_gt), elements=st.integers(0, 8)))
    overlap = steps / 8  # coarse: ties and zeros are common
    owners = best_assignments(overlap)
    for i in range(num_det):
        assert totals_of(owners[i], overlap) == pytest.approx(slow.best_assignment_total(overlap[: i + 1]))
        assert owners[i].max() <= i


def test_taking_the_best_pair_first_is_not_good_enough():
    overlap = np.array([[0.9, 0.8], [0.8, 0.1]])  # greedy: 0.9 + 0.1
    assert best_assignments(overlap)[-1].tolist() == [1, 0]


def test_a_newcomer_can_push_others_along_a_chain():
    overlap = np.array([[0.6, 0.5, 0.0], [0.0, 0.6, 0.5], [0.7, 0.0, 0.0]])
    owners = best_assignments(overlap)
    assert owners.tolist() == [[0, -1, -1], [0, 1, -1], [2, 0, 1]]


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (25, 25)])
def test_scipy_agrees_on_larger_ones(shape):
    optimize = pytest.importorskip("scipy.optimize")
    overlap = np.random.default_rng(3).uniform(0, 1, shape) ** 3
    owners = best_assignments(overlap)
    for i in range(shape[0]):
        rows, columns = optimize.linear_sum_assignment(overlap[: i + 1], maximize=True)
        assert totals_of(owners[i], overlap) == pytest.approx(overlap[rows, columns].sum())


def test_nothing_to_assign():
    assert best_assignments(np.zeros((0, 3))).shape == (0, 3)
    assert best_assignments(np.zeros((3, 0))).shape == (3, 0)
    assert (best_assignments(np.zeros((2, 2))) == -1).all()


# ---------------------------------------------------------------- the curves by hand


def face(cx, cy, major=40, minor=30):
    return [major, minor, UPRIGHT, cx, cy]


def test_both_curves_by_hand():
    ellipses = {"a": np.array([face(100, 100), face(300, 100)]), "b": np.array([face(100, 100)])}
    spot_on = [*face(100, 100), 0.9]
    elsewhere = [*face(100, 300), 0.8]
    shifted = [*face(330, 100), 0.7]  # half of its width to the right of the second face
    detections = {"a": np.array([shifted, elsewhere, spot_on])}
    curves = evaluate_fddb(detections, ellipses)
    iou = pair_image(np.array([shifted]), ellipses["a"])[1][1]
    assert 0.2 < iou < 0.5
    assert curves.num_images == 2 and curves.discrete.num_gt == 3
    np.testing.assert_allclose(curves.discrete.scores, [0.9, 0.8, 0.7])
    np.testing.assert_allclose(curves.discrete.recall, [1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(curves.discrete.false_positives, [0, 1, 2])
    np.testing.assert_allclose(curves.continuous.recall, [1 / 3, 1 / 3, (1 + iou) / 3])
    np.testing.assert_allclose(curves.continuous.false_positives, [0, 1, 2])


def test_a_second_detection_of_a_face_is_a_false_positive():
    ellipses = {"a": np.array([face(100, 100)])}
    curves = evaluate_fddb({"a": np.array([[*face(101, 100), 0.9], [*face(100, 100), 0.8]])}, ellipses)
    assert curves.discrete.recall.tolist() == [1, 1]
    assert curves.discrete.false_positives.tolist() == [0, 1]
    # the assignment of the lower threshold gives the face to the better of the two
    assert curves.continuous.recall[0] < curves.continuous.recall[1] == 1


def test_every_form_of_detections_is_the_same():
    ellipses = {"a": np.array([face(100, 100)]), "b": np.array([face(80, 80)])}
    boxes = np.array([[70.0, 65.0, 130.0, 135.0], [200.0, 200.0, 260.0, 280.0]])
    scores = np.array([0.75, 0.5])
    rows = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores])
    forms = [rows, FddbDetections(boxes, scores), make_detections(boxes, scores)]
    curves = [evaluate_fddb({"a": form}, ellipses) for form in forms]
    assert curves[0].discrete.recall.tolist() == [0.5, 0.5]
    for other in curves[1:]:
        np.testing.assert_array_equal(curves[0].continuous.recall, other.continuous.recall)
        np.testing.assert_array_equal(curves[0].continuous.scores, other.continuous.scores)


def test_the_border_of_the_image_counts():
    ellipses = {"a": np.array([face(0, 100)])}  # half of it outside
    box = {"a": np.array([[0, 60, 30, 80, 0.9]])}
    whole_box = {"a": np.array([[-30, 60, 60, 80, 0.9]])}
    inside = evaluate_fddb(box, ellipses, sizes={"a": (200, 300)}).continuous.recall
    np.testing.assert_array_equal(inside, evaluate_fddb(whole_box, ellipses).continuous.recall)
    at_right = {"a": np.array([face(300, 100)])}
    too_far = {"a": np.array([[270, 60, 60, 80, 0.9]])}
    clipped = evaluate_fddb(too_far, at_right, sizes={"a": (200, 300)}).continuous.recall[0]
    assert clipped == pytest.approx(0.78, abs=0.05)


def test_nothing_found_and_nothing_there():
    nothing_found = evaluate_fddb({"a": np.zeros((0, 5))}, {"a": np.array([face(50, 50)])})
    assert nothing_found.discrete.num_gt == 1 and nothing_found.discrete.recall_at(100) == 0
    assert evaluate_fddb({}, {"a": np.array([face(50, 50)])}).discrete.recall_at(100) == 0
    nothing_there = evaluate_fddb({"a": np.array([[0, 0, 9, 9, 0.5]])}, {"a": np.zeros((0, 5))})
    assert nothing_there.discrete.false_positives.tolist() == [1]
    assert np.isnan(nothing_there.discrete.recall_at(100))


def test_bad_detections_are_named():
    ellipses = {"a": np.array([face(50, 50)])}
    with pytest.raises(ValueError, match="no annotation, one is 'z'"):
        evaluate_fddb({"z": np.zeros((0, 5))}, ellipses)
    with pytest.raises(ValueError, match=r"a: detections must be .* got shape \(1, 4\)"):
        evaluate_fddb({"a": np.zeros((1, 4))}, ellipses)
    with pytest.raises(ValueError, match="a: detection 0 is not finite"):
        evaluate_fddb({"a": np.array([[0, 0, np.nan, 9, 0.5]])}, ellipses)
    with pytest.raises(ValueError, match="a: ellipses must be"):
        evaluate_fddb({"a": np.zeros((0, 5))}, {"a": np.zeros((2, 4))})


# ---------------------------------------------------------------- the official figures


@pytest.fixture(scope="module")
def reference(data_dir):
    folder = data_dir / "fddb_reference"
    ellipses = read_ellipses(folder / "ellipseList.txt")
    sizes = {}
    for name in ellipses:
        file = data_dir / "fddb" / "images" / f"{name}.jpg"
        if file.is_file():
            with Image.open(file) as photo:
                sizes[name] = photo.size[::-1]
    curves = evaluate_fddb(read_detections(folder / "detections.txt"), ellipses, sizes)
    # recall, false positives (, threshold); the lowest threshold first, at the end a line without any
    discrete = np.loadtxt(folder / "official_discROC.txt")[-2::-1]
    continuous = np.loadtxt(folder / "official_contROC.txt")[-2::-1]
    return curves, discrete, continuous


def test_the_official_figures(reference):
    curves, _, _ = reference
    assert (curves.num_images, curves.discrete.num_gt) == (2845, NUM_FACES)
    for num_fp, official in ((10, 0.7188), (100, 0.9018), (1000, 0.9217)):
        assert curves.discrete.recall_at(num_fp) == pytest.approx(official, abs=0.0003)
    assert curves.continuous.recall.max() == pytest.approx(0.6895, abs=0.0007)


def test_the_whole_official_curves(reference):
    curves, discrete, continuous = reference
    np.testing.assert_allclose(curves.discrete.scores, discrete[:, 2], rtol=1e-5)
    assert np.abs(curves.discrete.recall - discrete[:, 0]).max() < 1.5 / NUM_FACES
    assert np.abs(curves.discrete.false_positives - discrete[:, 1]).max() <= 1
    assert np.abs(curves.continuous.recall - continuous[:, 0]).max() < 0.0008


# ---------------------------------------------------------------- from WIDER's boxes to FDDB's regions


def test_a_mapped_box_by_hand():
    mapping = BoxMapping(dx=0.1, dy=-0.2, width=1.5, height=2.0)
    boxes = np.array([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 40.0, 20.0]])
    scores = np.array([0.5, 0.25])
    ellipses = mapping.apply(boxes, scores)
    np.testing.assert_allclose(ellipses[0], [40, 15, UPRIGHT, 22, 32, 0.5])
    np.testing.assert_allclose(ellipses[1], [30, 20, 0, 24, 6, 0.25])  # wider than high: lies flat
    x, y, w, h, score = mapping._replace(shape="rectangle").apply(boxes, scores)[0]
    assert (x + w / 2, y + h / 2, score) == pytest.approx((22, 32, 0.5))
    assert w * h == pytest.approx(math.pi * 40 * 15) and h / w == pytest.approx(80 / 30)
    assert mapping.apply(np.zeros((0, 4)), np.zeros(0)).shape == (0, 6)
    with pytest.raises(ValueError, match="shape must be"):
        mapping._replace(shape="circle").apply(boxes, scores)


def test_the_fit_finds_the_mapping_that_made_the_data(rng):
    truth = BoxMapping(dx=0.0, dy=-0.1, width=1.1, height=1.2)
    detections, ellipses = {}, {}
    for i in range(30):
        x, y, w = rng.uniform(60, 200), rng.uniform(60, 200), rng.uniform(60, 120)
        boxes = np.array([[x, y, x + w, y + 1.25 * w]])
        ellipses[str(i)] = truth.apply(boxes, np.ones(1))[:, :5]
        jitter = np.array([[0, 0, 300, 300]]) if i == 0 else boxes + rng.normal(0, 1, 4)  # one bad match
        detections[str(i)] = FddbDetections(jitter, np.ones(1))
    fit = fit_box_mapping(detections, ellipses)
    assert fit.num_pairs >= 29
    assert fit.mapping[:4] == pytest.approx(truth[:4], abs=0.01)
    assert (fit.quartiles[0] <= fit.mapping[:4]).all() and (fit.mapping[:4] <= fit.quartiles[1]).all()
    with pytest.raises(ValueError, match="no detection with score"):
        fit_box_mapping(detections, ellipses, min_score=2.0)


def test_the_mapping_that_ships_is_the_one_that_the_other_folds_give(data_dir):
    detections, ellipses = reference_outside_test_folds(data_dir)
    assert len(ellipses) == 2845 - 849
    fitted = fit_box_mapping(detections, ellipses).mapping
    assert WIDER_TO_FDDB[1:4] == pytest.approx(fitted[1:4], abs=0.001)
    plain = evaluate_fddb(detections, ellipses)
    mapped = evaluate_fddb({n: WIDER_TO_FDDB.apply(*found) for n, found in detections.items()}, ellipses)
    assert mapped.discrete.recall_at(1000) > plain.discrete.recall_at(1000)
    assert mapped.continuous.recall.max() > plain.continuous.recall.max() + 0.05
