"""Easy, medium and hard: numbers to follow by hand, a slow twin after the official tool, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.data.wider_detections import read_wider_detections, write_wider_detections
from minidetect.data.wider_face import read_wider
from minidetect.data.wider_ground_truth import SETTINGS, WiderTruth, read_wider_truth, with_settings
from minidetect.detection.structures import Detections, make_detections
from minidetect.evaluate.wider import evaluate_wider, summarise_wider, wider_truth_folder

CASES = settings(max_examples=40, deadline=None)
FAR = [5000, 5000, 5020, 5020]  # where nothing is detected unless a test puts it there


def photo(name, faces, counted, pixel=1.0) -> WiderTruth:
    """counted: rows of the faces that count, the same in every setting."""
    faces = np.array(faces, np.float32).reshape(-1, 4)
    mask = np.isin(np.arange(len(faces)), counted)
    return WiderTruth(name, faces, {setting: mask.copy() for setting in SETTINGS}, pixel)


def found(*rows) -> Detections:
    """Rows x1 y1 x2 y2 score, in this order."""
    rows = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(rows[:, :4], rows[:, 4], np.ones(len(rows), np.int64))


def hard(detections, truth, **options):
    return evaluate_wider(detections, truth, **options)["hard"]


def numbers(curve):
    """What a curve counts, apart from its thresholds."""
    columns = [curve.recall, curve.precision, curve.false_positives]
    return np.column_stack([*columns, np.full(len(curve.recall), curve.num_gt)])


# ------------------------------------------------------------------ the slow twin


def slow_overlap(a, b, pixel):
    width = min(a[2], b[2]) - max(a[0], b[0]) + pixel
    height = min(a[3], b[3]) - max(a[1], b[1]) + pixel
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = ((c[2] - c[0] + pixel) * (c[3] - c[1] + pixel) for c in (a, b))
    return width * height / (area_a + area_b - width * height)


def slow_photo(rows, image, setting, plus_one, mistake):
    """After each detection of a photo, in the order in which they are taken: score, faces found, detections kept."""
    if mistake != "unsorted":
        rows = sorted(rows, key=lambda row: -row[4])
    faces, counts = image.boxes.tolist(), image.counted[setting].tolist()
    taken, num_found, kept, history = set(), 0, 0, []
    for row in rows:
        overlaps = [slow_overlap(row, face, image.pixel if plus_one else 0.0) for face in faces]
        if mistake == "sees only what counts":
            overlaps = [overlap if counted else 0.0 for overlap, counted in zip(overlaps, counts, strict=True)]
        best = overlaps.index(max(overlaps)) if faces else None
        belongs = best is not None and overlaps[best] >= 0.5
        if belongs and counts[best]:
            kept += 1
            if best not in taken or mistake == "duplicates find":
                num_found += 1
            taken.add(best)
        elif not belongs or mistake == "ignored are wrong":
            kept += 1
        history.append((row[4], num_found, kept))
    return history


def slow_curve(detections, truth, setting="hard", cuts=1000, plus_one=True, mistake=""):
    """(found, kept) at every threshold, and AP: each threshold counted anew over all photos."""
    rows = {name: np.column_stack([f.boxes, f.scores]).tolist() for name, f in detections.items()}
    scores = {row[4] for of_photo in rows.values() for row in of_photo}
    if not scores:
        return [], 0.0
    low, high = min(scores), max(scores)
    if cuts is None:
        thresholds, mapped = sorted(scores, reverse=True), {score: score for score in scores}
    else:
        thresholds = [1 - t / cuts for t in range(1, cuts + 1)]
        mapped = {score: (score - low) / (high - low) if high > low else 1.0 for score in scores}
    histories = [slow_photo(rows[i.name], i, setting, plus_one, mistake) for i in truth if i.name in rows]
    counts = []
    for threshold in thresholds:
        num_found = kept = 0
        for history in histories:
            reaching = [entry for entry in history if mapped[entry[0]] >= threshold]
            if reaching:  # the state after the last detection that reaches it
                num_found, kept = num_found + reaching[-1][1], kept + reaching[-1][2]
        counts.append((num_found, kept))
    num_faces = sum(image.counted[setting].tolist().count(True) for image in truth)
    levels = sorted({n for n, _ in counts} - {0})
    steps = [b - a for a, b in zip([0, *levels], levels, strict=False)]
    best = [max(n / k for n, k in counts if n >= level) for level in levels]
    return counts, sum(step / num_faces * p for step, p in zip(steps, best, strict=True))


def agrees(detections, truth, mistake="", **options) -> bool:
    """Whether the slow twin, which may make a mistake, counts what `evaluate_wider` counts."""
    curves = evaluate_wider(detections, truth, thresholds=options.get("cuts", 1000),
                            plus_one=options.get("plus_one", True))  # fmt: skip
    for setting, curve in curves.items():
        counts, ap = slow_curve(detections, truth, setting, mistake=mistake, **options)
        if curve.num_gt == 0:
            assert np.isnan(curve.ap)
            continue
        hits = np.rint(curve.recall * curve.num_gt)
        same = np.array_equal(np.column_stack([hits, hits + curve.false_positives]), np.reshape(counts, (-1, 2)))
        if not same or curve.ap != pytest.approx(ap, abs=1e-12):
            return False
    return True


corner = st.integers(0, 12)
side = st.integers(0, 8)
score = st.integers(0, 16).map(lambda k: k / 16)  # few, so that ties are common; sums of them are exact


def box_of(x, y, w, h):
    return [x, y, x + w, y + h]


boxes = st.builds(box_of, corner, corner, side, side)
step = st.integers(-1, 1)


def near(faces):
    """A box anywhere, or a face with its corners moved by a pixel at most."""
    moved = [st.builds(lambda x, y, face=face: [face[0] + x, face[1] + y, *face[2:]], step, step) for face in faces]
    return st.one_of(boxes, *moved)


def rows_near(faces):
    return st.lists(st.tuples(near(faces), score).map(lambda pair: [*pair[0], pair[1]]), max_size=8)


@st.composite
def scenes(draw):
    """One to three photos: detections by name (a photo may have none), and their truth, a mask for each setting."""
    detections, truth = {}, []
    for k in range(draw(st.integers(1, 3))):
        faces = draw(st.lists(boxes, max_size=4))
        masks = {s: np.array(draw(st.lists(st.booleans(), min_size=len(faces), max_size=len(faces))), bool)
                 for s in SETTINGS}  # fmt: skip
        truth.append(WiderTruth(f"e/{k}", np.array(faces, np.float32).reshape(-1, 4), masks))
        if draw(st.booleans()):
            detections[f"e/{k}"] = found(*draw(rows_near(faces)))
    return detections, truth


@given(scenes(), st.sampled_from([100, 7, None]), st.booleans())
@CASES
def test_the_slow_twin_agrees(scene, cuts, plus_one):
    assert agrees(*scene, cuts=cuts, plus_one=plus_one)


def street():
    """Two faces that count, a and b, one that does not, c, and detections that meet every rule."""
    a, b, c = [0, 0, 19, 19], [100, 0, 119, 19], [118, 0, 147, 19]
    rows = [[100, 0, 119, 19, 0.3], [0, 0, 19, 19, 0.9], [0, 1, 19, 20, 0.8], [119, 0, 147, 19, 0.7],
            [0, 0, 8, 19, 0.6], [60, 60, 70, 70, 0.5], [0, 0, 19, 9, 0.4], [108, 0, 133, 19, 0.35]]  # fmt: skip
    return {"e/street": found(*rows)}, [photo("e/street", [a, b, c], [0, 1])]


@pytest.mark.parametrize("mistake", ["duplicates find", "unsorted", "ignored are wrong", "sees only what counts"])
def test_the_comparison_would_find_a_wrong_evaluator(mistake):
    detections, truth = street()
    if mistake == "sees only what counts":  # a detection that reaches both faces, the other one more
        truth = [photo("e/street", [[0, 0, 19, 19], [0, 4, 19, 23]], [0])]
        detections = {"e/street": found([0, 3, 19, 22, 0.9])}
    assert agrees(detections, truth)
    assert not agrees(detections, truth, mistake=mistake)


def test_the_comparison_would_find_the_other_overlap():
    ten = {"e/a": found([0, 0, 9, 4, 1])}  # 10 * 5 of 10 * 10 whole pixels, 9 * 4 of 9 * 9 continuous
    truth = [photo("e/a", [[0, 0, 9, 9]], [0])]
    assert hard(ten, truth).ap == 1
    assert hard(ten, truth, plus_one=False).ap == 0
    assert slow_curve(ten, truth)[1] == 1 and slow_curve(ten, truth, plus_one=False)[1] == 0


# ------------------------------------------------------------------ by hand


def test_found_left_out_and_false():
    """0.9 finds a; 0.8 is a second of it, 0.7 of the face that does not count; 0.6 is nowhere; 0.5 finds b."""
    truth = [photo("e/a", [[0, 0, 19, 19], [40, 0, 59, 19], [80, 0, 99, 19]], [0, 2])]
    detections = {"e/a": found([0, 0, 19, 19, 0.9], [0, 1, 19, 20, 0.8], [40, 0, 59, 19, 0.7],
                               [0, 60, 19, 79, 0.6], [80, 0, 99, 19, 0.5])}  # fmt: skip
    curve = hard(detections, truth, thresholds=None)
    assert curve.recall.tolist() == [0.5, 0.5, 0.5, 0.5, 1]
    assert curve.false_positives.tolist() == [0, 1, 1, 2, 2]
    assert curve.precision.tolist() == [1, 0.5, 0.5, 1 / 3, 0.5]
    np.testing.assert_array_equal(curve.scores, np.float32([0.9, 0.8, 0.7, 0.6, 0.5]))
    assert curve.num_gt == 2 and curve.ap == 0.75  # half of the faces at precision 1, half at 1/2


def test_the_highest_score_finds_the_face_wherever_it_stands():
    twice = {"e/a": found([0, 0, 19, 19, 0.3], [0, 0, 19, 18, 0.9])}
    curve = hard(twice, [photo("e/a", [[0, 0, 19, 19]], [0])], thresholds=None)
    assert (curve.recall.tolist(), curve.false_positives.tolist()) == ([1, 1], [0, 1])


def test_every_detection_of_a_face_that_does_not_count_is_left_out():
    truth = [photo("e/a", [[0, 0, 19, 19], FAR], [1])]
    curve = hard({"e/a": found(*[[0, k, 19, 19, 0.5 + k / 8] for k in range(4)])}, truth)
    assert not curve.false_positives.any() and not curve.recall.any() and not curve.precision.any()
    assert curve.ap == 0  # 0 / 0 does not become NaN


def test_a_detection_belongs_to_the_face_it_overlaps_most_even_if_that_is_taken():
    truth = [photo("e/a", [[0, 0, 9, 9], [0, 3, 9, 12]], [0, 1])]
    detections = {"e/a": found([0, 0, 9, 9, 0.9], [0, 1, 9, 10, 0.8])}  # the second: 9/11 with face 0, 8/12 with 1
    curve = hard(detections, truth, thresholds=None)
    assert (curve.recall.tolist(), curve.false_positives.tolist()) == ([0.5, 0.5], [0, 1])


def test_settings_have_masks_of_their_own():
    image = photo("e/a", [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [])
    for count, setting in enumerate(SETTINGS, start=1):
        image.counted[setting][:count] = True
    curves = evaluate_wider({"e/a": found([0, 0, 9, 9, 0.9], [60, 60, 69, 69, 0.8], [20, 0, 29, 9, 0.7])}, [image])
    assert summarise_wider(curves) == {
        "ap_easy": 1.0, "faces_easy": 1, "ap_medium": round((1 + 2 / 3) / 2, 4), "faces_medium": 2,
        "ap_hard": round((1 + 2 / 3) / 3, 4), "faces_hard": 3,
    }  # fmt: skip


def test_a_thousand_thresholds_do_not_see_the_last_thousandth():
    truth = [photo("e/a", [[0, 0, 9, 9]], [0])]
    detections = {"e/a": found([0, 0, 9, 9, 1.0], [50, 50, 59, 59, 0.9995], [80, 80, 89, 89, 0.0])}
    assert hard(detections, truth, thresholds=None).ap == 1
    curve = hard(detections, truth)
    assert curve.ap == 0.5 and len(curve.recall) == 1000  # at 0.999 both are there
    assert curve.scores[0] == pytest.approx(0.999) and curve.scores[-1] == 0


def test_thresholds_are_in_the_scale_of_the_detector():
    detections = {"e/a": found([0, 0, 9, 9, 10], [50, 50, 59, 59, -10])}
    curve = hard(detections, [photo("e/a", [[0, 0, 9, 9]], [0])], thresholds=4)
    assert curve.scores.tolist() == [5, 0, -5, -10]
    assert curve.false_positives.tolist() == [0, 0, 0, 1]


def test_equal_scores_are_one_threshold():
    detections = {"e/a": found([0, 0, 9, 9, 0.5], [50, 50, 59, 59, 0.5])}
    curve = hard(detections, [photo("e/a", [[0, 0, 9, 9]], [0])])
    assert set(curve.precision) == {0.5} and set(curve.recall) == {1.0}


def test_photos_without_detections_and_without_faces():
    truth = [photo("e/a", [[0, 0, 9, 9]], [0]), photo("e/b", [[0, 0, 9, 9]], [0]), photo("e/c", [], [])]
    detections = {"e/a": found([0, 0, 9, 9, 0.5]), "e/c": found([0, 0, 9, 9, 0.9])}
    curve = hard(detections, truth, thresholds=None)
    assert curve.num_gt == 2  # the faces of b are missed
    assert curve.false_positives.tolist() == [1, 1]  # c has no face
    assert curve.recall.tolist() == [0, 0.5]


@pytest.mark.parametrize("thresholds", [1000, None])
def test_nothing_at_all(thresholds):
    for detections in ({}, {"e/a": found()}):
        curve = hard(detections, [photo("e/a", [[0, 0, 9, 9]], [0])], thresholds=thresholds)
        assert (curve.num_gt, curve.ap, len(curve.recall)) == (1, 0, 0)
    no_faces = hard({"e/a": found([0, 0, 9, 9, 0.5])}, [photo("e/a", [], [])], thresholds=thresholds)
    assert no_faces.num_gt == 0 and np.isnan(no_faces.ap)
    assert np.isnan(hard({}, [], thresholds=thresholds).ap)


def test_bad_input_is_named():
    truth = [photo("e/a", [[0, 0, 9, 9]], [0])]
    with pytest.raises(ValueError, match=r"1 images have detections but no annotation, one is 'e/b'"):
        evaluate_wider({"e/b": found()}, truth)
    with pytest.raises(ValueError, match=r"image 'e/a': the photo 'e/a' is there twice"):
        evaluate_wider({"e/a.jpg": found(), "e/a": found()}, truth)
    with pytest.raises(ValueError, match="e/a: a number of its detections is not finite"):
        evaluate_wider({"e/a": found([0, 0, 1, 1, np.nan])}, truth)
    with pytest.raises(ValueError, match=r"e/a: 1 boxes with scores of shape \(2,\)"):
        evaluate_wider({"e/a": Detections(np.ones((1, 4)), np.ones(2), np.ones(2))}, truth)
    with pytest.raises(ValueError, match=r"e/a: boxes must have shape"):
        evaluate_wider({"e/a": Detections(np.ones((1, 5)), np.ones(1), np.ones(1))}, truth)
    with pytest.raises(ValueError, match="iou_threshold"):
        evaluate_wider({}, truth, iou_threshold=50)
    with pytest.raises(ValueError, match="thresholds"):
        evaluate_wider({}, truth, thresholds=0)
    with pytest.raises(ValueError, match="2 photos, but only 1 names"):
        evaluate_wider({}, truth * 2)
    with pytest.raises(ValueError, match=r"e/a: counted\['medium'\] must be \(1,\)"):
        evaluate_wider({}, [truth[0]._replace(counted={"easy": np.ones(1, bool)})])


# ------------------------------------------------------------------ what must not matter


@given(scenes(), st.randoms(use_true_random=False))
@CASES
def test_the_order_of_detections_and_photos_does_not_matter(scene, random):
    detections, truth = scene
    names = random.sample(sorted(detections), len(detections))
    shuffled = {}
    for name in names:
        order = random.sample(range(len(detections[name].scores)), len(detections[name].scores))
        shuffled[name] = Detections(*(field[order] for field in detections[name][:3]))
    before, after = (evaluate_wider(d, t) for d, t in ((detections, truth), (shuffled, truth[::-1])))
    for setting in SETTINGS:
        np.testing.assert_array_equal(numbers(after[setting]), numbers(before[setting]))


def mapped(detections, change):
    return {name: f._replace(scores=change(f.scores.astype(np.float64))) for name, f in detections.items()}


@given(scenes(), st.sampled_from([0.125, 3.0, 40.0]), st.integers(-4, 4))
@CASES
def test_maps_of_the_scores(scene, factor, shift):
    """Affine ones change nothing; any strictly rising one leaves the exact curve as it is."""
    detections, truth = scene
    affine = mapped(detections, lambda s: factor * s + shift)
    cubed = mapped(detections, lambda s: s**3 - 7)
    for thresholds, others in ((1000, [affine]), (None, [affine, cubed])):
        before = evaluate_wider(detections, truth, thresholds=thresholds)
        for other in others:
            after = evaluate_wider(other, truth, thresholds=thresholds)
            for setting in SETTINGS:
                np.testing.assert_array_equal(numbers(after[setting]), numbers(before[setting]))


@given(scenes(), st.data())
@CASES
def test_detections_of_ignored_faces_change_nothing(scene, data):
    detections, truth = scene
    truth = [photo_with(image, FAR) for image in truth]
    before = evaluate_wider(detections, truth)
    scores = sorted({float(s) for f in detections.values() for s in f.scores})
    if not scores:  # one alone would set the scale, but finds nothing either
        assert evaluate_wider({truth[0].name: found([*FAR, 0.5])}, truth)["hard"].false_positives.max() == 0
        return
    name = data.draw(st.sampled_from(sorted(detections)))
    extra = data.draw(st.lists(st.sampled_from(scores), min_size=1, max_size=3))
    rows = np.column_stack([detections[name].boxes, detections[name].scores]).tolist()
    after = evaluate_wider({**detections, name: found(*rows, *([*FAR, s] for s in extra))}, truth)
    for setting in SETTINGS:
        np.testing.assert_array_equal(numbers(after[setting]), numbers(before[setting]))


def photo_with(image: WiderTruth, face) -> WiderTruth:
    """The photo with one more face, which counts in no setting."""
    return image._replace(
        boxes=np.concatenate([image.boxes, np.float32([face])]),
        counted={setting: np.append(mask, False) for setting, mask in image.counted.items()},
    )


@given(scenes(), st.sampled_from([1000, None]))
@CASES
def test_ignored_faces_where_nothing_is_detected_change_nothing(scene, thresholds):
    detections, truth = scene
    before = evaluate_wider(detections, truth, thresholds=thresholds)
    after = evaluate_wider(detections, [photo_with(image, FAR) for image in truth], thresholds=thresholds)
    for setting in SETTINGS:
        np.testing.assert_array_equal(numbers(after[setting]), numbers(before[setting]))


@given(scenes(), st.data())
@CASES
def test_a_face_that_counts_no_more(scene, data):
    """What was right or wrong on it is left out: never more false positives, at most one face found less."""
    detections, truth = scene
    candidates = [(i, j) for i, image in enumerate(truth) for j in np.flatnonzero(image.counted["hard"])]
    if not candidates:
        return
    i, j = data.draw(st.sampled_from(candidates))
    before = hard(detections, truth)
    fewer = truth[i].counted["hard"].copy()
    fewer[j] = False
    changed = [*truth[:i], truth[i]._replace(counted={**truth[i].counted, "hard": fewer}), *truth[i + 1 :]]
    after = hard(detections, changed)
    assert after.num_gt == before.num_gt - 1
    assert (after.false_positives <= before.false_positives).all()
    if after.num_gt:
        lost = np.rint(before.recall * before.num_gt) - np.rint(after.recall * after.num_gt)
        assert set(lost) <= {0, 1}


@given(scenes(), st.sampled_from([1000, 3, None]))
@CASES
def test_ap_is_a_share(scene, thresholds):
    for curve in evaluate_wider(*scene, thresholds=thresholds).values():
        assert np.isnan(curve.ap) if curve.num_gt == 0 else 0 <= curve.ap <= 1 + 1e-12
        assert np.isfinite(curve.precision).all()


@given(st.lists(st.tuples(side, side, score), min_size=1, max_size=6), st.data())
@CASES
def test_perfect_detections_have_an_ap_of_1(faces, data):
    rows = [[100 * k, 0, 100 * k + w, h] for k, (w, h, _) in enumerate(faces)]
    counted = data.draw(st.sets(st.integers(0, len(faces) - 1), min_size=1))
    truth = [photo("e/a", rows, sorted(counted))]
    detections = {"e/a": found(*([*row, s] for row, (_, _, s) in zip(rows, faces, strict=True)))}
    for thresholds in (1000, None):
        assert hard(detections, truth, thresholds=thresholds).ap == pytest.approx(1)


@given(scenes(), st.sampled_from([0.25, 0.5, 8.0]))
@CASES
def test_a_resized_copy_is_judged_as_the_photo(scene, factor):
    detections, truth = scene
    smaller = {name: f._replace(boxes=f.boxes * np.float32(factor)) for name, f in detections.items()}
    copies = [image._replace(boxes=image.boxes * np.float32(factor), pixel=factor) for image in truth]
    before, after = evaluate_wider(detections, truth), evaluate_wider(smaller, copies)
    for setting in SETTINGS:
        np.testing.assert_array_equal(numbers(after[setting]), numbers(before[setting]))


# ------------------------------------------------------------------ the real lists


@pytest.fixture(scope="module")
def real(data_dir) -> list[WiderTruth]:
    pytest.importorskip("scipy.io", reason="MATLAB's files need scipy")
    return read_wider_truth(wider_truth_folder(data_dir))


def jittered(truth, rng) -> dict[str, Detections]:
    """Five detections about each face, many of them too far off, of any score."""
    detections = {}
    for image in truth:
        about = np.repeat(image.boxes, 5, axis=0)
        size = np.maximum(1, about[:, 2:] - about[:, :2])
        xy = about[:, :2] + rng.normal(0, 0.15, (len(about), 2)) * size
        wh = size * np.exp(rng.normal(0, 0.2, (len(about), 2)))
        detections[image.name] = make_detections(np.concatenate([xy, xy + wh], axis=1), rng.random(len(about)))
    return detections


def test_real_faces_as_detections(real):
    """One face is listed twice, so its second detection is wrong; nothing can find the one of width -2."""
    perfect = {image.name: make_detections(image.boxes, np.linspace(1, 0.5, len(image.boxes))) for image in real}
    curves = evaluate_wider(perfect, real)
    assert {s: (c.num_gt, round(c.recall[-1] * c.num_gt), int(c.false_positives[-1])) for s, c in curves.items()} == {
        "easy": (7211, 7211, 1), "medium": (13319, 13319, 1), "hard": (31958, 31956, 2),
    }  # fmt: skip
    assert all(curve.ap > 0.9998 for curve in curves.values())


def test_the_slow_twin_agrees_on_real_photos(real, rng):
    some = [real[i] for i in rng.choice(len(real), 40, replace=False)]
    assert agrees(jittered(some, rng), some, cuts=100)


def test_the_photos_at_hand_have_the_figures_of_the_published_ones(real, data_dir, rng, tmp_path):
    """Resized photos, with detections resized and through texts: 0.0005 for a box that falls on the other side."""
    folder = data_dir / "wider"
    copies = with_settings(read_wider(folder / "wider_val_bbx_gt.txt", folder / "val"), real)
    published = {image.name: image for image in real}
    detections = jittered([published[copy.name] for copy in copies], rng)
    smaller = {c.name: detections[c.name]._replace(boxes=detections[c.name].boxes * c.pixel) for c in copies}
    write_wider_detections(tmp_path, smaller)
    before = evaluate_wider(detections, [published[copy.name] for copy in copies])
    after = evaluate_wider(read_wider_detections(tmp_path), copies)
    for setting, num_faces in zip(SETTINGS, (430, 739, 1432), strict=True):
        assert after[setting].num_gt == num_faces
        assert after[setting].ap == pytest.approx(before[setting].ap, abs=5e-4)


def test_where_the_lists_are_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="no wider_face_val.mat in it"):
        wider_truth_folder(tmp_path)
    for folder in (tmp_path / "wider" / "ground_truth", tmp_path / "ground_truth", tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "wider_face_val.mat").touch()
        assert wider_truth_folder(tmp_path) == folder
