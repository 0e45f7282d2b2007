"""The single-shot family: heads and anchors, detection with models whose output is known, many looks, the losses."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.autograd import Tensor
from minidetect.detection.boxes import clip_to_image
from minidetect.detection.matcher import overlaps_ignore
from minidetect.detection.scale_compensation import match_compensated
from minidetect.detection.structures import make_target
from minidetect.models.anchor_detector import MEAN_COLOUR, MOST_PIXELS, Prediction
from minidetect.models.extd import EXTD
from minidetect.models.single_shot import SIDES, Heads, SingleShot, max_out_background
from minidetect.models.single_shot_loss import LAMBDA, Sample, sample_image, sampled_losses, single_shot_losses
from minidetect.models.single_shot_scales import MOST_LOOKS, Look, ManyLooks, looks
from minidetect.reference import boxes as slow

SETTINGS = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def odds(score: float) -> list[float]:
    """Logits of background and face that give a score."""
    return [0.5, 0.5 + log(score / (1 - score))]


class Fixed(SingleShot):
    """Says the same of every image: anchors (A, 4) with scores and deltas of 0, unless others are given."""

    def __init__(self, anchors, scores, deltas=None, **settings) -> None:
        super().__init__(**settings)
        self.said = np.array(anchors, np.float32).reshape(-1, 4), [odds(s) for s in scores], deltas
        self.seen: list[tuple[int, ...]] = []

    def predict(self, x: Tensor) -> Prediction:
        self.seen.append(x.shape)
        anchors, logits, deltas = self.said
        deltas = np.zeros_like(anchors) if deltas is None else np.array(deltas, np.float32)
        logits = np.array(logits, np.float32).reshape(1, -1, 2)
        return Prediction(Tensor(logits), Tensor(deltas[None]), anchors)


class FindsRed(SingleShot):
    """Finds the one red rectangle, to the pixel that it sees; its score is 0.9."""

    def predict(self, x: Tensor) -> Prediction:
        planes = x.data[0] + np.array(MEAN_COLOUR, np.float32)[:, None, None]
        red = planes[0] - planes[1] > 100
        rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
        boxes = [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]] if len(rows) else []
        anchors = np.array(boxes, np.float32).reshape(-1, 4)
        logits = np.array([odds(0.9)] * len(anchors), np.float32).reshape(1, -1, 2)
        return Prediction(Tensor(logits), Tensor(np.zeros((1, *anchors.shape), np.float32)), anchors)


def with_red(size: tuple[int, int], box) -> np.ndarray:
    image = np.full((*size, 3), 60, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 240, 20, 20
    return image


BLACK = np.zeros((100, 200, 3), np.uint8)


# ------------------------------------------------------------------ heads and anchors


def test_max_out_by_hand():
    """Three places; in the second two backgrounds tie and share the gradient."""
    columns = [[1, 5, 2, 7], [3, 3, 0, 8], [-3, -2, -1, 9]]
    scores = Tensor(np.array(columns, np.float32).T.reshape(1, 4, 1, 3), requires_grad=True)
    y = max_out_background(scores)
    np.testing.assert_array_equal(y.data.reshape(2, 3), [[5, 3, -1], [7, 8, 9]])
    y.backward(np.array([[10, 20, 30], [1, 2, 3]], np.float32).reshape(1, 2, 1, 3))
    np.testing.assert_array_equal(scores.grad.reshape(4, 3).T, [[0, 10, 0, 1], [10, 10, 0, 2], [0, 0, 30, 3]])


def test_anchors_by_hand():
    anchors = SingleShot().anchors([(160 // 2**k, 160 // 2**k) for k in range(6)])
    assert anchors.shape == (34_125, 4) and anchors.dtype == np.float32
    assert 34_125 == 160**2 + 80**2 + 40**2 + 20**2 + 10**2 + 5**2
    np.testing.assert_array_equal(anchors[0], [-6, -6, 10, 10])  # 16 around the centre of the first cell, (2, 2)
    np.testing.assert_array_equal(anchors[1], [-2, -6, 14, 10])  # the next column
    np.testing.assert_array_equal(anchors[160], [-6, -2, 10, 14])  # the next row
    np.testing.assert_array_equal(anchors[160**2], [-12, -12, 20, 20])  # 32 around (4, 4)
    np.testing.assert_array_equal(anchors[-1], [320, 320, 832, 832])  # 512 around (576, 576)


def test_outputs_stand_beside_their_anchors(rng):
    """Maps that hold the centres of their cells, heads that hand them on: rows and columns are not swapped."""
    sizes, model = [(3, 5), (2, 3)], SingleShot(sides=(16, 32))
    heads = Heads([2, 2], rng)
    maps = []
    for k, (height, width) in enumerate(sizes):
        y, x = np.mgrid[:height, :width].astype(np.float32) * 4 * 2**k + 2 * 2**k
        maps.append(Tensor(np.stack([np.stack([x, y]), np.stack([x + 0.5, y + 0.5])])))
        heads.deltas[k].weight.data[...] = 0
        heads.deltas[k].weight.data[[0, 1], [0, 1], 1, 1] = 1
    logits, deltas = heads(maps)
    anchors = model.anchors(sizes)
    assert logits.shape == (2, 21, 2) and deltas.shape == (2, 21, 4)
    np.testing.assert_array_equal(deltas.data[0, :, :2], (anchors[:, :2] + anchors[:, 2:]) / 2)
    np.testing.assert_array_equal(deltas.data[1, :, :2], (anchors[:, :2] + anchors[:, 2:]) / 2 + 0.5)
    assert heads.logits[0].weight.shape[0] == 4 and heads.logits[1].weight.shape[0] == 2
    with pytest.raises(ValueError):
        heads(maps[:1])


def test_the_first_classifier_takes_the_best_of_three_backgrounds(rng):
    heads = Heads([1, 1], rng)
    for conv, biases in zip(heads.logits, ([1, 5, 2, 7], [3, 4]), strict=True):
        conv.weight.data[...], conv.bias.data[...] = 0, biases
    logits, _ = heads([Tensor(np.zeros((1, 1, 1, 2), np.float32)), Tensor(np.zeros((1, 1, 1, 1), np.float32))])
    assert logits.data.tolist() == [[[5, 7], [5, 7], [3, 4]]]


def test_pixels_are_minus_the_mean_colour():
    planes = SingleShot().planes(np.array([[[123, 117, 104], [255, 0, 4]]], np.uint8))
    assert planes.tolist() == [[[0, 132]], [[0, -117]], [[0, -100]]]


def test_nothing_is_certain_at_the_start(rng):
    model = EXTD(rng, "ssd", 4, stem=4, blocks=((1, 2),), sides=(16, 32))
    model.train()
    said = model.predict(Tensor(rng.normal(0, 60, (1, 3, 40, 30)).astype(np.float32)))
    assert np.abs(said.deltas.data).max() < 1 and np.abs(said.logits.data).max() < 1


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("threshold", (-0.1, 1.5, np.nan, "0.5", None, [0.5]), "threshold must be a number from 0 to 1"),
        ("nms_threshold", (-0.1, 2, np.inf, None), "nms_threshold must be a number from 0 to 1"),
        ("most_candidates", (0, -1, 2.5, "9", None), "most_candidates must be a whole number of at least 1"),
        ("most", (0, 7.0, None), "most must be a whole number of at least 1"),
        ("sides", ((), (16, 30), (0,), (16.0,), ("16",), (-16,)), "sides must be multiples of 4"),
    ],
)
def test_settings_that_cannot_be_used_are_named(name, values, complaint):
    for value in values:
        with pytest.raises(ValueError, match=f"^{complaint}"):
            SingleShot(**{name: value})


def test_settings_are_returned():
    given_ = {"threshold": 0.25, "nms_threshold": 1, "most_candidates": 7, "most": 3, "sides": (16, 32)}
    assert SingleShot(**given_).settings() == given_
    assert SingleShot().settings() == {
        "threshold": 0.5, "nms_threshold": 0.3, "most_candidates": 5000, "most": 750, "sides": SIDES,
    }  # fmt: skip


# ------------------------------------------------------------------ detection


def test_detections_by_hand():
    """Five boxes: the third is suppressed by the second, the fourth does not exceed the threshold, the last is cut."""
    boxes = [[10, 10, 30, 40], [50, 10, 90, 50], [52, 12, 92, 52], [5, 60, 25, 80], [180, 80, 220, 120]]
    model = Fixed(boxes, [0.6, 0.9, 0.8, 0.5, 0.7])
    (found,) = model.detect([BLACK])
    np.testing.assert_allclose(found.boxes, [boxes[1], [180, 80, 200, 100], boxes[0]])
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.6], rtol=1e-6)
    assert found.labels.tolist() == [1, 1, 1] and found.landmarks is None and model.seen == [(1, 3, 100, 200)]
    np.testing.assert_allclose(model.detect([BLACK], min_score=0.4)[0].scores, [0.9, 0.7, 0.6, 0.5], rtol=1e-6)
    assert len(model.detect([BLACK], min_score=0.65)[0].boxes) == 2
    assert len(model.detect([BLACK], min_score=0.9001)[0].boxes) == 0
    model.nms_threshold = 1.0
    assert len(model.detect([BLACK])[0].boxes) == 4


def test_deltas_move_anchors_by_tenths_and_fifths():
    """tx = 1 is a tenth of the width, tw = 1 the factor exp(0.2)."""
    model = Fixed([[0, 0, 100, 50]], [0.9], [[1, -1, log(1.21) / 0.2, 0]])
    (found,) = model.detect([np.zeros((300, 300, 3), np.uint8)])
    centre, width = 50 + 10, 121
    np.testing.assert_allclose(found.boxes, [[0, 0, centre + width / 2, 45]], atol=1e-3)
    (found,) = Fixed([[100, 100, 200, 150]], [0.9], [[1, -1, log(1.21) / 0.2, 0]]).detect([BLACK.repeat(3, 0)])
    np.testing.assert_allclose(found.boxes, [[160 - 60.5, 95, 200, 145]], atol=1e-3)


def test_min_face_is_of_the_longer_side_within_the_image():
    """30 x 10, 10 x 30, 20 x 20 and 60 x 20, of which 25 x 20 are inside."""
    boxes = [[10, 10, 40, 20], [50, 10, 60, 40], [70, 10, 90, 30], [175, 60, 235, 80]]
    model = Fixed(boxes, [0.9, 0.8, 0.7, 0.6])
    for smallest, kept in ((0, 4), (8, 4), (20, 4), (20.1, 3), (25, 3), (25.1, 2), (30, 2), (30.1, 0)):
        assert len(model.detect([BLACK], min_face=smallest)[0].boxes) == kept, smallest
    assert len(Fixed([[10, 10, 17, 17]], [0.9]).detect([BLACK])[0].boxes) == 0  # 8 where nobody says otherwise
    assert len(Fixed([[10, 10, 18, 17]], [0.9]).detect([BLACK])[0].boxes) == 1
    for smallest in (-1, np.inf, np.nan):
        with pytest.raises(ValueError, match="min_face must be a number of pixels, 0 or more"):
            model.detect([BLACK], min_face=smallest)


def test_the_most_that_is_kept():
    boxes = [[20 * k, 0, 20 * k + 18, 18] for k in range(8)]
    scores = [0.6, 0.9, 0.7, 0.8, 0.65, 0.75, 0.85, 0.55]
    (found,) = Fixed(boxes, scores, most=3).detect([BLACK])
    np.testing.assert_allclose(found.scores, [0.9, 0.85, 0.8], rtol=1e-6)
    twice = Fixed([boxes[0], boxes[0], *boxes[1:]], [0.99, 0.98, *scores[1:]], most_candidates=3)
    np.testing.assert_allclose(twice.detect([BLACK])[0].scores, [0.99, 0.9], rtol=1e-6)  # the best 3, then suppression


def test_boxes_outside_of_the_image_are_none():
    (found,) = Fixed([[210, 0, 240, 30], [-50, -50, 0, 0], [5, 5, 5, 30]], [0.9, 0.8, 0.7]).detect([BLACK], min_face=0)
    assert found.boxes.shape == (0, 4) and found.boxes.dtype == np.float32


def test_no_faces_no_anchors_no_images():
    model = Fixed([], [])
    (found,) = model.detect([BLACK])
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)
    assert model.detect([]) == [] and ManyLooks(model).detect([]) == []
    (found,) = ManyLooks(model).detect([BLACK])
    assert found.boxes.shape == (0, 4)


def test_reports_count():
    boxes = [[10, 10, 30, 40], [11, 11, 31, 41], [50, 10, 56, 16], [5, 60, 25, 80]]
    result, reports = Fixed(boxes, [0.9, 0.8, 0.7, 0.2]).detect_with_report(BLACK)
    assert [(r.stage, r.boxes_in, r.boxes_out) for r in reports] == [("network", 4, 3), ("nms", 3, 1)]
    assert len(result.boxes) == 1 and all(r.seconds >= 0 for r in reports)


@SETTINGS
@given(seeds, st.integers(0, 40))
def test_what_detections_always_are(seed, num):
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(-50, 200, (num, 2)), rng.uniform(0, 80, (num, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    scores = rng.permutation(np.linspace(0.05, 0.95, num)) if num else []
    (found,) = Fixed(boxes, scores, nms_threshold=0.4).detect([BLACK], min_face=5)
    assert (found.boxes >= 0).all() and (found.boxes <= [200, 100, 200, 100]).all()
    assert (np.diff(found.scores) <= 0).all() and (found.scores > 0.5).all()
    assert ((found.boxes[:, 2:] - found.boxes[:, :2]).max(axis=1, initial=5) >= 5).all()
    likely = [k for k in range(num) if scores[k] > 0.5]
    kept = [likely[k] for k in slow.nms(boxes[likely].tolist(), [scores[k] for k in likely], 0.4)]
    inside = clip_to_image(boxes[kept], (100, 200)) if kept else np.zeros((0, 4))
    fits = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    fits &= (inside[:, 2:] - inside[:, :2]).max(axis=1, initial=0) >= 5
    np.testing.assert_allclose(found.boxes, inside[fits], atol=1e-3)


def test_a_large_image_is_shrunk_and_its_boxes_are_not():
    """2000 x 1600 by sqrt(2.04 / 3.2) = 0.798: 1597 x 1277 pixels."""
    image, model = np.zeros((2000, 1600, 3), np.uint8), Fixed([[80, 160, 160, 240]], [0.9])
    (found,) = model.detect([image])
    height, width = model.seen[0][2:]
    assert (height, width) == (1597, 1277) and height * width <= 1.001 * MOST_PIXELS
    expected = np.array([80, 160, 160, 240]) * np.tile([1600 / width, 2000 / height], 2)
    np.testing.assert_allclose(found.boxes, [expected], rtol=1e-5)
    model.look(BLACK, factor=0.5)
    model.look(BLACK, factor=1000)
    model.look(BLACK[:1, :3], factor=0.1)
    assert model.seen[1:] == [(1, 3, 50, 100), (1, 3, 1010, 2020), (1, 3, 1, 1)]


# ------------------------------------------------------------------ many looks


@pytest.mark.parametrize(
    ("size", "factors"),
    [
        ((1200, 1700), [1, 1, 0.5, 0.75]),
        ((2400, 3400), [0.5, 0.5, 0.25, 0.375]),
        ((1500, 2125), [0.8, 0.8, 0.5, 0.65]),
        ((1200, 1600), [1, 1, 0.5, (1700 / 1600) ** 0.5]),
        ((600, 850), [1, 1, 0.5, 2]),
        ((300, 850), [1, 1, 0.5, 2, 8**0.5]),
        ((300, 425), [1, 1, 0.5, 2, 4]),
        ((150, 212.5), [1, 1, 0.5, 2, 4, 8]),
        ((1, 1), [1, 1, 0.5, 2, 4, 8]),
    ],
)
def test_looks_by_hand(size, factors):
    chosen = looks(size)
    np.testing.assert_allclose([look.factor for look in chosen], factors)
    assert [look.mirrored for look in chosen] == [False, True] + [False] * (len(chosen) - 2)
    grows = factors[3] > 1
    assert [look.smallest for look in chosen] == [0, 0, 30] + [0 if grows else 30] * (len(chosen) - 3)
    assert [look.largest for look in chosen] == [np.inf] * 3 + [100 if grows else np.inf] * (len(chosen) - 3)


@SETTINGS
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_no_look_is_too_large(height, width):
    chosen = looks((height, width))
    assert 3 <= len(chosen) <= MOST_LOOKS
    factors = [look.factor for look in chosen]
    assert max(factors) ** 2 * height * width <= MOST_PIXELS * (1 + 1e-9)
    if factors[0] == 1 and factors[3] > 1:
        assert factors[3:] == sorted(set(factors[3:]))
    else:  # too large to be enlarged
        assert len(factors) == 4 and factors[2] < factors[3] < factors[0]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("factor", [1, 0.5, 2])
def test_one_look_comes_back_to_the_images_pixels(mirrored, factor):
    box, image = [20, 10, 54, 32], with_red((60, 100), [20, 10, 54, 32])
    many = ManyLooks(FindsRed())
    boxes, scores, num_anchors = many.found_in(image, Look(factor, mirrored), None)
    np.testing.assert_allclose(boxes, [box], atol=0.01)
    assert scores == pytest.approx([0.9]) and num_anchors == 1
    assert len(many.found_in(image, Look(factor, mirrored), 0.95)[0]) == 0


def test_which_sizes_a_look_keeps():
    """40 x 30: its longer side is over 39 and not over 40; its shorter one below 31 and not below 30."""
    image, many = with_red((60, 100), [20, 10, 60, 40]), ManyLooks(FindsRed())
    for smallest, largest, kept in ((39, np.inf, 1), (40, np.inf, 0), (0, 31, 1), (0, 30, 0)):
        assert len(many.found_in(image, Look(1, False, smallest, largest), None)[0]) == kept


@pytest.mark.parametrize("box", [[20, 10, 60, 45], [3, 30, 20, 50]])
def test_many_looks_find_what_one_finds(box):
    image, one = with_red((120, 160), box), FindsRed()
    many = ManyLooks(one)
    (single,), (found,) = one.detect([image]), many.detect([image])
    np.testing.assert_array_equal(single.boxes, [box])
    np.testing.assert_allclose(found.boxes, [box], atol=0.6)
    assert found.scores == pytest.approx([0.9])
    result, reports = many.detect_with_report(image)
    np.testing.assert_array_equal(result.boxes, found.boxes)
    names = [r.stage for r in reports]
    assert names == ["x1", "x1 mirrored", "x0.5", "x2", "x4", "x8", "voting"]
    seen_half = int(box[2] - box[0] > 30)  # the half size keeps what is over 30
    assert [r.boxes_out for r in reports] == [1, 1, seen_half, 1, 1, 1, 1] and reports[-1].boxes_in == 5 + seen_half
    assert len(many.detect([image], min_face=50)[0].boxes) == 0
    assert len(many.detect([image], min_score=0.95)[0].boxes) == 0


def test_many_looks_keep_the_models_limits():
    boxes = [[20 * k, 0, 20 * k + 18, 18] for k in range(8)]
    model = Fixed(boxes, np.linspace(0.9, 0.6, 8), most=3, threshold=0.65)
    many = ManyLooks(model)
    assert many.threshold == 0.65 and many.smallest_face == model.smallest_face == 8
    assert len(many.detect([BLACK], min_face=0)[0].boxes) == 3


# ------------------------------------------------------------------ what is learned from


def row_anchors(*places: float) -> np.ndarray:
    """Squares of 10 in a row; d apart their IoU is (10 - d) / (10 + d)."""
    return np.array([[x, 0, x + 10, 10] for x in places], np.float32).reshape(-1, 4)


def test_a_sample_by_hand():
    """The face is at 0: anchors 0 (IoU 1) and 4 (6 / 14) are positive. Hard is a high score of a face."""
    anchors = row_anchors(0, 4, 50, 60, 70, 80, 90, 100, 110, 120)
    face_logits = [9, 9, 0.1, 0.9, 0.3, 0.8, -2, 0.7, 0.5, 5]
    logits = np.stack([np.zeros(10), face_logits], axis=1).astype(np.float32)
    target = make_target(row_anchors(0), ignore=np.float32([[114, 0, 300, 10]]))  # holds 0.6 of 110 and all of 120
    sample = sample_image(logits, anchors, target, ratio=2)
    assert sample.positives.tolist() == [0, 1] and sample.boxes.tolist() == [[0, 0, 10, 10]] * 2
    assert sample.negatives.tolist() == [3, 4, 5, 7]  # 0.9, 0.3, 0.8, 0.7
    assert sample_image(logits, anchors, target).negatives.tolist() == [2, 3, 4, 5, 6, 7]  # 3 : 1, all that there are
    assert sample_image(logits, anchors, target, ratio=0.5).negatives.tolist() == [3]
    assert sample_image(logits, anchors, target, ratio=0.5, least=2).negatives.tolist() == [3, 5]


def test_background_logits_count_as_well(rng):
    """What is hard depends on the difference: (5, 5) is harder than (0, -0.5), and that than (9, 8)."""
    logits = np.array([[0, 0], [9, 8], [5, 5], [0, -0.5]], np.float32)
    sample = sample_image(logits, row_anchors(0, 50, 70, 90), make_target(row_anchors(0)), ratio=2)
    assert sample.negatives.tolist() == [2, 3]


def test_an_image_without_a_face():
    anchors, logits = row_anchors(*range(0, 200, 20)), np.zeros((10, 2), np.float32)
    logits[[1, 4, 8], 1] = 3
    none = sample_image(logits, anchors, make_target([]))
    assert len(none.positives) == len(none.negatives) == 0 and none.boxes.shape == (0, 4)
    assert sample_image(logits, anchors, make_target([]), least=3).negatives.tolist() == [1, 4, 8]
    assert len(sample_image(logits, anchors, make_target([]), least=800).negatives) == 10


@pytest.mark.parametrize("reading", ["text", "six", "image"])
@SETTINGS
@given(seeds, st.integers(0, 4), st.integers(0, 2), st.integers(0, 8))
def test_any_sample(reading, seed, faces, regions, least):
    rng = np.random.default_rng(seed)
    model = SingleShot(sides=(16, 32))
    anchors = model.anchors([(16, 16), (8, 8)])
    logits = rng.normal(0, 2, (len(anchors), 2)).astype(np.float32)
    parts = []
    for count in (faces, regions):
        corners, sides = rng.uniform(-4, 56, (count, 2)), rng.uniform(6, 30, (count, 2))
        parts.append(np.concatenate([corners, corners + sides], axis=1).astype(np.float32))
    target = make_target(parts[0], ignore=parts[1])
    sample = sample_image(logits, anchors, target, reading, least=least)
    matched_idx, _ = match_compensated(anchors, target.boxes, reading)
    np.testing.assert_array_equal(sample.positives, np.flatnonzero(matched_idx >= 0))
    np.testing.assert_array_equal(sample.boxes, target.boxes[matched_idx[sample.positives]])
    usable = set(np.flatnonzero(matched_idx < 0)) - set(np.flatnonzero(overlaps_ignore(anchors, target.ignore)))
    chosen = set(sample.negatives.tolist())
    assert len(chosen) == len(sample.negatives) == min(len(usable), max(least, 3 * len(sample.positives)))
    assert chosen <= usable
    margin = logits[:, 1] - logits[:, 0]  # the loss as background grows with it
    if chosen and usable - chosen:
        assert min(margin[list(chosen)]) >= max(margin[list(usable - chosen)])


# ------------------------------------------------------------------ the losses


def three_anchors(num_images: int = 1, **grad) -> Prediction:
    """Outputs of 0 but for the deltas of the first anchor, tx = 2."""
    deltas = np.zeros((num_images, 5, 4))
    deltas[:, 0, 0] = 2
    anchors = row_anchors(0, 50, 70, 90, 110).astype(np.float64)
    return Prediction(Tensor(np.zeros((num_images, 5, 2)), **grad), Tensor(deltas, **grad), anchors)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_lambda_undoes_the_divisor():
    """With three negatives a positive lambda / N_cls is 1 / N_reg, as in the published code; with two it is not."""
    three = Sample(rows(0), rows(1, 2, 3), row_anchors(0))
    assert sampled_losses(three_anchors(), [three])["class"].item() == pytest.approx(4 * log(2) / 1)
    assert LAMBDA / (1 + 3) == 1 / 1
    two = Sample(rows(0), rows(1, 2), row_anchors(0))
    assert sampled_losses(three_anchors(), [two])["class"].item() == pytest.approx(4 / 3 * 3 * log(2))


def test_the_divisors_are_those_of_the_batch():
    """Image 1 has a positive and a negative, image 2 only three negatives: N_cls = 5, N_reg = 1."""
    prediction = three_anchors(2)
    prediction.logits.data[1, 4] = [0, log(3)]  # a false face: p = 3/4, loss ln 4
    samples = [Sample(rows(0), rows(2), row_anchors(0)), Sample(rows(), rows(1, 3, 4), row_anchors())]
    losses = sampled_losses(prediction, samples)
    assert losses["class"].item() == pytest.approx(4 / 5 * (4 * log(2) + log(4)))
    assert losses["box"].item() == pytest.approx(2 - 0.5)
    samples = samples[::-1]
    samples[1] = Sample(rows(0, 1), rows(2), row_anchors(0, 51))  # one box right but for tx = 2, one off by 1 of 10
    losses = sampled_losses(prediction, samples)
    assert losses["box"].item() == pytest.approx((1.5 + (1 - 0.5)) / 2)  # 0.1 of the width is tx = 1


def test_only_what_was_chosen_gets_a_gradient():
    prediction = three_anchors(2, requires_grad=True)
    samples = [Sample(rows(3), rows(0), row_anchors(91)), Sample(rows(0), rows(1, 4), row_anchors(0))]
    losses = sampled_losses(prediction, samples)
    (losses["class"] + losses["box"]).backward()
    touched = [(0, 0), (0, 3), (1, 0), (1, 1), (1, 4)]
    assert [tuple(at) for at in np.argwhere(prediction.logits.grad.any(axis=2))] == touched
    assert [tuple(at) for at in np.argwhere(prediction.deltas.grad.any(axis=2))] == [(0, 3), (1, 0)]
    np.testing.assert_allclose(prediction.logits.grad[1, 0], [4 / 5 / 2, -4 / 5 / 2])  # towards a face
    np.testing.assert_allclose(prediction.logits.grad[0, 0], [-4 / 5 / 2, 4 / 5 / 2])
    assert prediction.deltas.grad[1, 0].tolist() == [1 / 2, 0, 0, 0]


def test_without_any_positive_there_is_nothing_to_regress():
    prediction = three_anchors(requires_grad=True)
    for negatives, expected in ((rows(1, 2), 4 * log(2)), (rows(), 0)):
        losses = sampled_losses(prediction, [Sample(rows(), negatives, row_anchors())])
        assert losses["class"].item() == pytest.approx(expected) and losses["box"].item() == 0
        (losses["class"] + losses["box"]).backward()
    assert not prediction.deltas.grad.any()


def small_model(dtype=np.float32, **settings) -> EXTD:
    """Three maps, F of two blocks; all weights random enough that everything matters."""
    rng = np.random.default_rng(4)
    model = EXTD(rng, width=4, stem=4, blocks=((2, 1), (1, 2)), sides=(16, 32, 64), **settings)
    for name, p in model.named_parameters():
        p.data = (p.data + rng.normal(0, 0.2, p.shape)).astype(dtype)
        if name.startswith("heads"):
            p.data *= 3
    return model


def two_images(rng, dtype=np.float32):
    images = Tensor(rng.normal(0, 60, (2, 3, 64, 96)).astype(dtype))
    faces = np.float32([[8, 8, 30, 34], [50, 10, 82, 40], [30, 4, 84, 60]])  # for each of the three maps
    return images, [make_target(faces), make_target([], ignore=[[0, 0, 50, 64]])]


@pytest.mark.parametrize("reading", ["text", "six", "image"])
def test_the_losses_of_a_model(reading, rng):
    model = small_model()
    model.train()
    images, targets = two_images(rng)
    losses = single_shot_losses(model, images, targets, reading, least=8)
    assert list(losses) == ["class", "box"] and all(0 < loss.item() < 100 for loss in losses.values())
    (losses["class"] + losses["box"]).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and np.isfinite(p.grad).all(), name
        if not (".body." in name and name.endswith("bias")):  # a bias before a norm has no effect
            assert p.grad.any(), name
    with pytest.raises(ValueError):
        single_shot_losses(model, images, targets[:1])


def test_the_gradient_of_the_whole_loss(rng):
    """In float64, along random directions of all weights at once; the samples stand still. A lost term would show."""
    model = small_model(np.float64)
    model.train()
    images, targets = two_images(rng, np.float64)
    prediction = model.predict(images)
    samples = [
        sample_image(logits, prediction.anchors, target, least=8)
        for logits, target in zip(prediction.logits.data, targets, strict=True)
    ]
    parameters = dict(model.named_parameters())

    def loss_and_terms():
        losses = sampled_losses(model.predict(images), samples)
        return losses["class"] + losses["box"]

    loss_and_terms().backward()
    start = {name: p.data.copy() for name, p in parameters.items()}
    for part in ("start", "backbones", "up", "heads", ""):
        direction = {n: rng.standard_normal(p.shape) * n.startswith(part) for n, p in parameters.items()}
        analytic = sum(np.vdot(p.grad, direction[n]) for n, p in parameters.items())
        values = []
        for step in (1e-7, -1e-7):
            for name, p in parameters.items():
                p.data[...] = start[name] + step * direction[name]
            values.append(loss_and_terms().item())
        assert abs(analytic) > 1e-3 and analytic == pytest.approx((values[0] - values[1]) / 2e-7, rel=2e-4), part
