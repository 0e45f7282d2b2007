"""Landmark errors: numbers by hand, what must not change them, missed and unannotated, matching, real faces."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from minidetect.data.landmarks import COLUMNS
from minidetect.detection.structures import make_detections, make_target
from minidetect.evaluate.landmarks import (
    NORMALISERS,
    LandmarkErrors,
    cumulative_curve,
    evaluate_landmarks,
    face_errors,
    face_sizes,
    landmark_errors,
    landmark_table,
    match_landmarks,
    read_facepoint,
    run_facepoint,
    summarise_landmarks,
)
from minidetect.models.cascade_pipeline import StageReport
from minidetect.visualize import plot_error_curves

NAN, INF = math.nan, math.inf
# Eyes 10 apart, mouth corners 8 apart, nose 6 below the left eye; the box has sides 30 and 40: diagonal 50.
FACE = np.array([[10, 20], [20, 20], [10, 26], [11, 30], [19, 30]], np.float64)
BOX = np.array([0, 0, 30, 40], np.float64)
# Off by (3, 4), (0, 0), (0, -1), (6, 8), (-2, 0): 5, 0, 1, 10 and 2 pixels.
MOVES = np.array([[3, 4], [0, 0], [0, -1], [6, 8], [-2, 0]], np.float64)
PIXELS = np.array([5.0, 0, 1, 10, 2])
DIVISORS = {"inter_ocular": 10, "box": math.sqrt(1200), "diagonal": 50}


def face_at(corner, side, landmarks_at):
    """A detection: a square box, and five points all in one place."""
    x, y = corner
    return [x, y, x + side, y + side], np.full((5, 2), landmarks_at, np.float32)


def made(seed, faces=6):
    """Annotated and predicted points of some faces, and boxes around them."""
    rng = np.random.default_rng(seed)
    gt = FACE + rng.normal(0, 1, (faces, 5, 2)) + rng.uniform(0, 100, (faces, 1, 2))
    low, high = gt.min(axis=1), gt.max(axis=1)
    return gt + rng.normal(0, 2, gt.shape), gt, np.concatenate([low - 5, high + 5], axis=1), rng


# ------------------------------------------------------------------ errors by hand


def check_by_hand(errors_of):
    """Raises AssertionError unless `errors_of(pred, gt)` is `landmark_errors` by the distance of the eyes."""
    np.testing.assert_allclose(errors_of((FACE + MOVES)[None], FACE[None]), PIXELS[None] / 10)


def test_a_displacement_of_3_and_4_is_half_an_eye_distance_of_10():
    check_by_hand(landmark_errors)
    assert landmark_errors((FACE + MOVES)[None], FACE[None])[0, 0] == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pred, gt: landmark_errors(pred[:, [3, 4, 2, 0, 1]], gt[:, [3, 4, 2, 0, 1]])[:, [3, 4, 2, 0, 1]],
        lambda pred, gt: landmark_errors(pred, gt) * 10 / np.linalg.norm(gt[:, 0] - gt[:, 2]),
        lambda pred, gt: landmark_errors(gt, pred),
        lambda pred, gt: landmark_errors(pred[:, [1, 0, 2, 4, 3]], gt),
        lambda pred, gt: landmark_errors(pred[:, :, ::-1], gt),
        lambda pred, gt: np.abs(pred - gt).sum(axis=2) / 10,
        lambda pred, gt: ((pred - gt) ** 2).sum(axis=2) / 10,
        lambda pred, gt: np.linalg.norm(pred - gt, axis=2),
    ],
    ids=[
        "by the mouth corners", "by eye and nose", "by the predicted eyes", "left and right exchanged",
        "x and y exchanged", "city block", "squared", "not normalised",
    ],
)  # fmt: skip
def test_a_wrong_variant_is_seen(wrong):
    with pytest.raises(AssertionError):
        check_by_hand(wrong)


@pytest.mark.parametrize("by", NORMALISERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_normaliser_by_hand(by, dtype):
    gt, boxes = np.stack([FACE, 2 * FACE]).astype(dtype), np.stack([BOX, 2 * BOX]).astype(dtype)
    np.testing.assert_allclose(face_sizes(gt, by, boxes), np.array([1, 2]) * DIVISORS[by])
    errors = landmark_errors(gt + MOVES.astype(dtype), gt, by, boxes)
    np.testing.assert_allclose(errors, PIXELS / (DIVISORS[by] * np.array([[1], [2]])), rtol=1e-6)
    assert errors.dtype == np.float64


def test_arguments_in_any_memory_order_are_left_as_they_were():
    pred, gt, boxes, _ = made(0)
    expected = landmark_errors(pred, gt, "box", boxes)
    twisted = [np.asfortranarray(pred), np.repeat(gt, 2, axis=0)[::2], np.repeat(boxes, 3, axis=1)[:, ::3]]
    assert not any(array.flags.c_contiguous for array in twisted)
    copies = [array.copy() for array in twisted]
    np.testing.assert_array_equal(landmark_errors(twisted[0], twisted[1], "box", twisted[2]), expected)
    for array, copy in zip(twisted, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_all_figures_of_four_faces():
    """Errors of 2 %, 6 %, 9 % and a missed face."""
    gt = np.stack([FACE] * 4)
    pred = gt + np.array([0.2, 0.6, 0.9, NAN])[:, None, None] * [0, 1]  # in y, of an eye distance of 10
    result = evaluate_landmarks(pred, gt)
    np.testing.assert_allclose(result.per_face, [0.02, 0.06, 0.09, INF])
    assert (result.num_faces, result.num_missed, result.by) == (4, 1, "inter_ocular")
    assert result.mean == pytest.approx(0.17 / 3) and result.median == pytest.approx(0.06)
    np.testing.assert_allclose(result.per_point, np.full(5, 0.17 / 3))
    assert (result.failure_rate(), result.failure_rate(0.1), result.failure_rate(1e9)) == (0.5, 0.25, 0.25)
    assert result.area() == pytest.approx((0.06 + 0.02) / 0.08 / 4)
    assert result.area(0.1) == pytest.approx((0.08 + 0.04 + 0.01) / 0.1 / 4)
    thresholds = [0, 0.019, 0.03, 0.07, 0.1, INF]
    np.testing.assert_array_equal(cumulative_curve(result.per_face, thresholds), [0, 0, 0.25, 0.5, 0.75, 0.75])


def test_an_error_equal_to_the_threshold_is_reached_and_no_failure():
    errors = np.full((1, 5), 0.08)
    assert cumulative_curve(np.array([0.08, 0.5]), [0.08]).tolist() == [0.5]
    assert LandmarkErrors(errors, "box").failure_rate(float(face_errors(errors)[0])) == 0


def test_perfect_predictions():
    result = evaluate_landmarks(FACE[None], FACE[None])
    assert (result.mean, result.area(), result.failure_rate()) == (0, 1, 0)
    assert cumulative_curve(result.per_face, [0]).tolist() == [1]


# ------------------------------------------------------------------ missed, not annotated, nothing


def test_points_without_annotation_do_not_count():
    gt = np.stack([FACE, FACE, FACE])
    gt[0, 3, 0] = gt[1, 2, 1] = gt[2] = NAN  # the point that is worst; the nose of a missed face; a whole face
    pred = np.stack([FACE + MOVES, np.full((5, 2), NAN), FACE])
    errors = landmark_errors(pred, gt)
    expected = [[0.5, 0, 0.1, NAN, 0.2], [INF, INF, NAN, INF, INF], [NAN] * 5]
    np.testing.assert_allclose(errors, expected)
    np.testing.assert_allclose(face_errors(errors), [0.2, INF, NAN])
    result = LandmarkErrors(errors, "inter_ocular")
    assert (result.num_faces, result.num_missed, result.failure_rate()) == (2, 1, 1)
    assert result.mean == pytest.approx(0.2)
    np.testing.assert_allclose(result.per_point, [0.5, 0, 0.1, NAN, 0.2])
    assert cumulative_curve(result.per_face, [0.3]).tolist() == [0.5]


def test_a_face_counts_once_however_many_points_it_has():
    errors = np.array([[0.1, NAN, NAN, NAN, NAN], [0.3] * 5])
    assert LandmarkErrors(errors, "box").mean == pytest.approx(0.2)  # not 1.6 / 6, the mean over all points


@pytest.mark.parametrize("faces", [0, 2])
def test_without_a_found_face_there_is_no_mean(faces):
    """faces: none at all, or two that were missed."""
    gt = np.zeros((0, 5, 2)) if faces == 0 else np.stack([FACE] * 2)
    result = evaluate_landmarks(np.full_like(gt, NAN), gt)
    assert result.errors.shape == (faces, 5) and result.per_face.shape == (faces,)
    assert (result.num_faces, result.num_missed) == (faces, faces)
    assert np.isnan([result.mean, result.median, *result.per_point]).all()
    failure, area = (NAN, NAN) if faces == 0 else (1, 0)
    np.testing.assert_array_equal([result.failure_rate(), result.area()], [failure, area])
    np.testing.assert_array_equal(cumulative_curve(result.per_face, [0, 1]), [area, area])
    summary = json.loads(json.dumps(summarise_landmarks(result), allow_nan=False))
    assert summary["mean_error"] is None and summary["faces"] == faces
    assert f"{faces} faces, {faces} of them missed" in landmark_table(result)
    assert landmark_errors([], []).shape == (0, 5) and face_sizes([], "box", []).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pred=FACE), r"pred must have shape \(N, 5, 2\) as x, y, got \(5, 2\)"),
        (dict(gt=np.zeros((3, 4, 2))), r"gt must have shape \(N, 5, 2\) as x, y, got \(3, 4, 2\)"),
        (dict(pred=np.zeros((3, 5, 3))), r"pred must have shape"),
        (dict(pred=np.stack([FACE] * 2)), "pred has 2 faces and gt 3"),
        (dict(by="eyes"), "by must be one of inter_ocular, box, diagonal, got 'eyes'"),
        (dict(by="box", boxes=None), r"by='box' needs boxes of shape \(3, 4\)"),
        (dict(by="diagonal", boxes=BOX[None]), "3 faces need as many boxes, got 1"),
        (dict(by="box", boxes=np.zeros((3, 5))), r"boxes must have shape \(N, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = dict(pred=np.stack([FACE] * 3), gt=np.stack([FACE] * 3), by="inter_ocular", boxes=np.stack([BOX] * 3))
    landmark_errors(**arguments)
    with pytest.raises(ValueError, match=message):
        landmark_errors(**(arguments | change))


def test_the_face_that_cannot_be_measured_is_named():
    faces, boxes = np.stack([FACE] * 3), np.stack([BOX] * 3)
    with pytest.raises(ValueError, match="face 1 of 3 has no inter-ocular distance: both eyes are in the same place"):
        face_sizes(changed(faces, (1, 1), FACE[0]))
    with pytest.raises(ValueError, match="face 2 of 3 has no inter-ocular distance: an eye is not annotated"):
        face_sizes(changed(faces, (2, 0, 1), NAN))
    assert face_sizes(changed(faces, (2, 0, 1), NAN), "diagonal", boxes).tolist() == [50, 50, 50]
    for box in ([NAN] * 4, [5, 5, 5, 9], [30, 40, 0, 0]):  # missing; without width; turned inside out
        for by in ("box", "diagonal"):
            with pytest.raises(ValueError, match=r"face 1 of 3: box \[.*\] has no area"):
                face_sizes(faces, by, changed(boxes, 1, box))
    with pytest.raises(ValueError, match="face 2 of pred is NaN in part"):
        landmark_errors(changed(faces, (2, 4), NAN), faces)
    with pytest.raises(ValueError, match="face 0 of gt has an infinite coordinate"):
        landmark_errors(faces, changed(faces, (0, 3, 0), INF))


def changed(array, where, value):
    array = array.copy()
    array[where] = value
    return array


# ------------------------------------------------------------------ what must hold for any faces

SEEDS = st.integers(0, 10_000)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_agrees_with_the_definition_in_plain_python(seed):
    pred, gt, boxes, _ = made(seed)
    for by in NORMALISERS:
        errors = landmark_errors(pred, gt, by, boxes)
        for i in range(len(gt)):
            x1, y1, x2, y2 = boxes[i].tolist()
            size = {
                "inter_ocular": math.dist(gt[i, 0], gt[i, 1]),
                "box": ((x2 - x1) * (y2 - y1)) ** 0.5,
                "diagonal": math.dist((x1, y1), (x2, y2)),
            }[by]
            assert errors[i].tolist() == pytest.approx([math.dist(pred[i, j], gt[i, j]) / size for j in range(5)])


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.floats(0.1, 10), st.floats(-math.pi, math.pi), st.floats(-100, 100))
def test_moving_scaling_and_turning_everything_changes_nothing(seed, scale, angle, shift):
    pred, gt, boxes, _ = made(seed)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = landmark_errors(pred @ turn.T + shift, gt @ turn.T + shift)
    np.testing.assert_allclose(moved, landmark_errors(pred, gt), rtol=1e-7, atol=1e-9)
    for by in ("box", "diagonal"):  # a turned box is no box
        moved = landmark_errors(scale * pred + shift, scale * gt + shift, by, scale * boxes + shift)
        np.testing.assert_allclose(moved, landmark_errors(pred, gt, by, boxes), rtol=1e-7, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_the_order_of_the_faces_does_not_matter(seed):
    pred, gt, boxes, rng = made(seed)
    pred[rng.random(len(pred)) < 0.3] = NAN
    order = rng.permutation(len(gt))
    one = evaluate_landmarks(pred, gt, "box", boxes)
    other = evaluate_landmarks(pred[order], gt[order], "box", boxes[order])
    np.testing.assert_array_equal(other.errors, one.errors[order])
    assert summarise_landmarks(other) == pytest.approx(summarise_landmarks(one), abs=1e-5, nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 0.3) | st.just(INF) | st.just(NAN), min_size=1, max_size=30))
def test_the_cumulative_curve_rises_to_the_share_of_faces_found(per_face):
    per_face = np.array(per_face)
    known = per_face[~np.isnan(per_face)]
    thresholds = np.linspace(0, 0.3, 301)
    curve = cumulative_curve(per_face, thresholds)
    if len(known) == 0:
        assert np.isnan(curve).all()
        return
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == pytest.approx(1 - np.isinf(known).mean())
    assert curve.tolist() == [sum(e <= t for e in known) / len(known) for t in thresholds]
    result = LandmarkErrors(np.repeat(per_face[:, None], 5, axis=1), "box")
    assert result.failure_rate(0.1) == pytest.approx(1 - cumulative_curve(result.per_face, [0.1])[0])
    middles = (np.arange(4000) + 0.5) / 4000 * 0.08
    assert result.area() == pytest.approx(cumulative_curve(per_face, middles).mean(), abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_with_nothing_missing_the_mean_of_the_points_is_the_mean_of_the_faces(seed):
    pred, gt, _, _ = made(seed)
    result = evaluate_landmarks(pred, gt)
    assert result.mean == pytest.approx(result.per_point.mean())
    assert result.mean == pytest.approx(result.errors.mean())


# ------------------------------------------------------------------ figures as text, and the plot


def two_faces():
    """One found with errors of 50, 0, 10, 100 and 20 % of the eye distance, one missed."""
    return evaluate_landmarks(np.stack([FACE + MOVES, np.full((5, 2), NAN)]), np.stack([FACE] * 2))


def test_table():
    assert landmark_table(two_faces()).splitlines() == [
        "point        mean   median     90 %",
        "leye       50.00%   50.00%   50.00%",
        "reye        0.00%    0.00%    0.00%",
        "nose       10.00%   10.00%   10.00%",
        "lmouth    100.00%  100.00%  100.00%",
        "rmouth     20.00%   20.00%   20.00%",
        "all        36.00%   36.00%   36.00%",
        "errors of the faces found, divided by inter_ocular",
        "2 faces, 1 of them missed; missed or above 8%: 100.00%, above 10%: 100.00%",
    ]


def test_the_last_columns_are_the_median_and_the_90th_percentile():
    gt = np.stack([FACE] * 11)
    moved = gt + np.arange(11)[:, None, None] ** 2 * [0.01, 0]  # errors of 0, 0.1, 0.4, ... 10 %
    rows = landmark_table(evaluate_landmarks(moved, gt)).splitlines()[1:7]
    assert {tuple(row.split()[1:]) for row in rows} == {("3.50%", "2.50%", "8.10%")}


def test_summary_is_json():
    summary = json.loads(json.dumps(summarise_landmarks(two_faces()), allow_nan=False))
    assert summary == {
        "faces": 2, "missed": 1, "normaliser": "inter_ocular", "mean_error": 0.36, "median_error": 0.36,
        "mean_error_leye": 0.5, "mean_error_reye": 0.0, "mean_error_nose": 0.1, "mean_error_lmouth": 1.0,
        "mean_error_rmouth": 0.2, "failure_rate_0.08": 1.0, "failure_rate_0.10": 1.0, "area_to_0.08": 0.0,
    }  # fmt: skip


def test_plot_has_a_curve_for_each_name_and_tells_the_mean(tmp_path):
    curves = {"joint": np.array([0.05, 0.05, 0.15, INF]), "points": np.array([0.3, 0.1]), "none": np.full(1, INF)}
    figure = plot_error_curves(curves, tmp_path / "errors.png", title="test")
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["joint: 8.33%, 1 missed", "points: 20.00%, 0 missed", "none: -, 1 missed"]
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_allclose(x, [0, 5, 15, 20])
    assert y.tolist() == [0, 0.5, 0.75, 0.75]
    assert figure.axes[0].lines[1].get_data()[1].tolist() == [0, 0.5, 0.5]
    assert (tmp_path / "errors.png").stat().st_size > 1000
    alone = plot_error_curves(np.array([0.05]), limit=0.1).axes[0]
    assert alone.get_legend().get_texts()[0].get_text() == "5.00%, 0 missed" and alone.get_xlim() == (0, 10)
    assert len(plot_error_curves({}).axes) == 1


# ------------------------------------------------------------------ matching


def match(faces, scores, gt_boxes):
    """Where each annotated face's first point lies, of detections made by `face_at`."""
    boxes, landmarks = zip(*faces, strict=True)
    points = match_landmarks(make_detections(boxes, scores, landmarks=np.stack(landmarks)), make_target(gt_boxes))
    return points[:, 0, 0].tolist()


def test_the_best_score_among_the_detections_of_a_face_speaks_for_it():
    better_box, better_score = face_at((0, 0), 10, 1), face_at((3, 0), 10, 2)  # IoU 1 and 7/13
    assert match([better_box, better_score], [0.5, 0.9], [[0, 0, 10, 10]]) == [2]
    assert match([better_box, better_score], [0.9, 0.5], [[0, 0, 10, 10]]) == [1]
    assert match([better_box, better_score], [0.5, 0.5], [[0, 0, 10, 10]]) == [1]  # of equal scores the first


def test_a_neighbour_does_not_speak_for_a_missed_face():
    """The detection overlaps both faces by more than 0.3, the first one completely; the second was missed."""
    gt_boxes = [[0, 0, 10, 10], [4, 0, 14, 10]]  # IoU 6/14
    points = match([face_at((0, 0), 10, 1)], [0.9], gt_boxes)
    assert points[0] == 1 and math.isnan(points[1])
    both = [face_at((0, 0), 10, 1), face_at((4, 0), 10, 2)]
    assert match(both, [0.9, 0.1], gt_boxes) == match(both, [0.1, 0.9], gt_boxes) == [1, 2]


def test_a_face_that_is_not_annotated_falls_away():
    """In a crop of one annotated face: another one in its corner, with the higher score."""
    faces = [face_at((0, 0), 20, 7), face_at((26, 28), 60, 1)]
    assert match(faces, [0.99, 0.5], [[28, 28, 84, 84]]) == [1]
    assert math.isnan(match(faces[:1], [0.99], [[28, 28, 84, 84]])[0])


def test_the_least_overlap_that_counts():
    found = make_detections([[0, 0, 10, 10]], [0.5], landmarks=np.ones((1, 5, 2)))
    target = make_target([[0, 0, 10, 20]])  # IoU 1/2
    assert (match_landmarks(found, target, 0.5) == 1).all()
    assert np.isnan(match_landmarks(found, target, 0.51)).all()
    for bad in (0, 1.1, NAN):
        with pytest.raises(ValueError, match=r"min_iou must be in \(0, 1\]"):
            match_landmarks(found, target, bad)


def test_matching_nothing():
    nothing, face = make_detections([], []), make_target([[0, 0, 9, 9]])
    found = make_detections([[0, 0, 9, 9]], [0.5], landmarks=np.ones((1, 5, 2)))
    assert match_landmarks(nothing, face).shape == (1, 5, 2) and np.isnan(match_landmarks(nothing, face)).all()
    assert match_landmarks(found, make_target([])).shape == (0, 5, 2)
    with pytest.raises(ValueError, match="the detections have no landmarks"):
        match_landmarks(make_detections([[0, 0, 9, 9]], [0.5]), face)


# ------------------------------------------------------------------ real faces


class Knowing:
    """Stands for a detector: says what it was told, crop after crop, and notes what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked = iter(answers), []

    def detect_with_report(self, image, min_face, min_score):
        self.asked.append((image.shape, image.dtype, min_face, min_score))
        return next(self.answers), [StageReport("x12", 10, 1, 0.5)]


def write_crops(folder, faces):
    """A folder as `facepoint` is: one grey crop a face of (box, points)."""
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "crop.png")
    rows = [",".join(["crop.png", *map(str, np.concatenate([box, points.ravel()]))]) for box, points in faces]
    (folder / "test.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")


def test_runner_on_three_crops(tmp_path):
    """Found beside a higher score elsewhere; found with errors; not found."""
    write_crops(tmp_path / "facepoint", [(BOX, FACE)] * 3)
    away = [40, 0, 60, 20]
    answers = [
        make_detections([away, BOX], [0.9, 0.5], landmarks=np.stack([FACE + 40, FACE])),
        make_detections([BOX + 1], [0.9], landmarks=(FACE + MOVES)[None]),
        make_detections([away], [0.9], landmarks=(FACE + 40)[None]),
    ]
    model = Knowing(answers)
    result = run_facepoint(model, tmp_path, min_face=30, min_score=0.25)
    assert model.asked == [((48, 64, 3), np.uint8, 30, 0.25)] * 3
    np.testing.assert_allclose(result.errors.errors, [[0] * 5, PIXELS / 10, [INF] * 5], atol=1e-6)
    np.testing.assert_allclose(result.points[0], FACE)
    assert np.isnan(result.points[2]).all()
    assert result.stages == [StageReport("x12", 30, 3, 1.5)]
    of_box = run_facepoint(Knowing(answers), tmp_path / "facepoint", by="diagonal")  # the folder itself
    np.testing.assert_allclose(of_box.errors.errors[1], PIXELS / 50, atol=1e-6)


def test_runner_without_faces(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither it nor its folder facepoint holds val\.csv"):
        run_facepoint(Knowing([]), tmp_path, "val")
    write_crops(tmp_path / "facepoint", [])
    with pytest.raises(ValueError, match=r"test\.csv: no face in it"):
        run_facepoint(Knowing([]), tmp_path)


def test_real_faces_and_the_mean_shape(data_dir):
    """What an answer that never looks at the photo reaches: the mean of the training faces' points in their box."""
    if not (data_dir / "facepoint").is_dir():
        pytest.skip(f"no facepoint/ in {data_dir}")
    train, test = read_facepoint(data_dir, "train"), read_facepoint(data_dir)
    assert len(test) >= 1000 and len(train) >= 5000
    shape = np.mean([(r.points - r.box[:2]) / (r.box[2:] - r.box[:2]) for r in train], axis=0)
    gt, boxes = np.stack([r.points for r in test]), np.stack([r.box for r in test])
    guess = shape * (boxes[:, 2:] - boxes[:, :2])[:, None] + boxes[:, None, :2]
    means = {}
    for by in NORMALISERS:
        perfect, blind = (evaluate_landmarks(pred, gt, by, boxes) for pred in (gt, guess))
        assert (perfect.mean, perfect.failure_rate(), perfect.area()) == (0, 0, 1)
        means[by] = blind.mean
        assert blind.num_missed == 0 and blind.failure_rate(0.1) <= blind.failure_rate()
    assert 0.05 < means["inter_ocular"] < 0.4
    # the eyes are about half a box side apart, and a square's diagonal is sqrt(2) sides
    assert 1.8 < means["inter_ocular"] / means["box"] < 2.6
    assert means["box"] / means["diagonal"] == pytest.approx(math.sqrt(2), rel=1e-3)
    swapped = evaluate_landmarks(guess[:, [1, 0, 2, 4, 3]], gt)
    assert swapped.mean > 2 * means["inter_ocular"]  # the file's left is the viewer's left
