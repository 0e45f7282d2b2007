"""Several sizes of an image, and what the anchors of each scale find alone: coordinates, parts, merging, reports."""

from __future__ import annotations

import numpy as np
import pytest
from test_layout_detector import TINY, named, shaken

from minidetect.autograd import Tensor, no_grad
from minidetect.detection.anchor_layout import FPN_FINEST
from minidetect.models.anchor_detector import Prediction
from minidetect.models.extd import EXTD
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_pyramid import FACTORS, LONGEST_SIDE, PyramidLooks, by_scale, usable_factors


class Finder(LayoutDetector):
    """Finds bright squares in what it sees, those of at least `smallest` pixels, by anchors that lie right on them.

    An anchor's scale is the one nearest to the square's side; scores are those of `said`, by the side.
    """

    def __init__(self, smallest: float = 0.0, largest: float = np.inf, said=lambda side: 0.9) -> None:
        super().__init__(np.random.default_rng(0), FPN_FINEST, **TINY)
        self.span, self.said, self.looks = (smallest, largest), said, []

    def predict(self, x: Tensor) -> Prediction:
        bright = x.data[0, 0] > 0
        self.looks.append(bright.shape)
        columns = np.flatnonzero(bright.any(axis=0))
        parts = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else []
        boxes = []
        for part in parts:
            rows = np.flatnonzero(bright[:, part].any(axis=1))
            boxes.append([part[0], rows[0], part[-1] + 1, rows[-1] + 1])
        anchors = np.array(boxes, np.float32).reshape(-1, 4)
        sides = anchors[:, 2] - anchors[:, 0]
        seen = (sides >= self.span[0]) & (sides < self.span[1])
        anchors, sides = anchors[seen], sides[seen]
        self.found = np.abs(np.log2(sides[:, None] / np.array(self.layout.scales))).argmin(axis=1)
        score = np.array([self.said(side) for side in sides.tolist()])
        logits = np.stack([0 * score, np.log(score / (1 - score))], axis=1)[None].astype(np.float32)
        return Prediction(Tensor(logits), Tensor(np.zeros((1, len(anchors), 4), np.float32)), anchors)

    def groups(self, image_size: tuple[int, int]) -> np.ndarray:
        return self.found


def picture(*squares: tuple[int, int, int], size=(160, 240)) -> np.ndarray:
    """Black, with white squares: left, top, side."""
    image = np.zeros((*size, 3), np.uint8)
    for left, top, side in squares:
        image[top : top + side, left : left + side] = 255
    return image


def assert_same(found, expected) -> None:
    for ours, truth in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(ours, truth)


def rows_of(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, np.column_stack([boxes, scores]).tolist()))


# ------------------------------------------------------------------ which sizes


@pytest.mark.parametrize(
    ("size", "count"), [((100, 200), 8), ((1500, 10), 8), ((10, 1501), 7), ((3000, 1), 4),
                        ((3001, 1), 3), ((12_000, 1), 1), ((20_000, 1), 1)]
)  # fmt: skip
def test_no_side_is_longer_than_the_limit(size, count):
    factors = usable_factors(FACTORS, size)
    assert FACTORS == (0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2) and factors == list(FACTORS[:count])
    assert max(factors) * max(size) <= LONGEST_SIDE or factors == [0.25]  # the smallest is always there


def test_sizes_with_too_many_pixels_are_one():
    """1000 x 1500 may have 1.36 times as many pixels: 1.25, 1.5, 1.75 and 2 are all the root of that."""
    assert usable_factors(FACTORS, (1000, 1500)) == [0.25, 0.5, 0.75, 1, pytest.approx(1.36**0.5)]
    assert usable_factors(FACTORS, (2000, 2000)) == [0.25, 0.5, pytest.approx(0.51**0.5)]


def test_the_order_of_the_factors_is_kept():
    assert usable_factors((2.0, 0.5, 1.0), (2000, 100)) == [0.5, 1.0]
    assert usable_factors((4.0, 3.0), (2000, 100)) == [3.0]


@pytest.mark.parametrize("factors", [(), (0.0, 1.0), (1.0, -0.5)])
def test_bad_factors(factors):
    with pytest.raises(ValueError, match="a pyramid needs factors above 0, got"):
        PyramidLooks(Finder(), factors)


# ------------------------------------------------------------------ coordinates


@pytest.mark.parametrize("factor", FACTORS)
def test_boxes_are_in_the_pixels_of_the_image(factor):
    """A square of 64 pixels, found where it is in every size; the anchors that find it are of another scale in each."""
    model, image = Finder(), picture((48, 80, 64))
    (found,) = PyramidLooks(model, (factor,)).detect([image])
    assert model.looks == [(160 * factor, 240 * factor)]
    np.testing.assert_allclose(found.boxes, [[48, 80, 112, 144]], atol=1e-3)
    parts = by_scale(model, image, (factor,))
    owner = {0.25: 16, 0.5: 32, 0.75: 64, 1.0: 64, 1.25: 64}.get(factor, 128)
    assert list(parts) == ["all", 16, 32, 64, 128]
    for name, part in parts.items():
        assert len(part.boxes) == (name in ("all", owner))
        np.testing.assert_allclose(part.boxes, found.boxes[: len(part.boxes)])


@pytest.mark.parametrize("size", [(50, 71), (33, 97)])
def test_sides_that_no_factor_divides(size):
    """The seen size is rounded, so both axes have a factor of their own."""
    model, image = Finder(), picture(size=size)
    image[: size[0] // 2, size[1] // 2 :] = 255  # the right upper quarter, up to the border
    for factor in (0.75, 1.5):
        (found,) = PyramidLooks(model, (factor,)).detect([image])
        expected = np.array([[size[1] // 2, 0, size[1], size[0] // 2]])
        np.testing.assert_allclose(found.boxes, expected, atol=1 / factor)
        assert found.boxes[0, 2] == pytest.approx(size[1], abs=1e-4)  # and not 71 * 0.75 / round(71 * 0.75) of it
    assert model.looks[0] == (round(size[0] * 0.75), round(size[1] * 0.75))


# ------------------------------------------------------------------ several sizes together


def test_two_looks_are_merged_by_suppression():
    """Both see the square: one box is left, with the better score, whichever look had it."""
    image = picture((48, 80, 64))
    for better in (32, 128):
        model = Finder(said=lambda side, better=better: 0.9 if side == better else 0.7)
        result, reports = PyramidLooks(model, (0.5, 2.0)).detect_with_report(image)
        assert len(result.boxes) == 1 and result.scores[0] == pytest.approx(0.9)
        assert [(r.stage, r.boxes_in, r.boxes_out) for r in reports][-1] == ("nms", 2, 1)
        model.nms_threshold = 1.0
        assert PyramidLooks(model, (0.5, 2.0)).detect([image])[0].scores == pytest.approx([0.9, 0.7])


def test_each_look_adds_what_the_others_do_not_see():
    """A finder of 30 to 70 pixels sees the square of 128 in half the size, that of 16 only twice as large."""
    image = picture((10, 10, 16), (90, 20, 128), (40, 100, 40))
    model = Finder(30, 70)
    found = {factors: PyramidLooks(model, factors).detect([image])[0].boxes for factors in ((1.0,), (0.5, 1.0, 2.0))}
    assert found[(1.0,)][:, 0].tolist() == [40]
    assert sorted(found[(0.5, 1.0, 2.0)][:, 0].round(3).tolist()) == [10, 40, 90]
    parts = by_scale(model, image, (0.5, 1.0, 2.0))
    assert sorted(parts[32].boxes[:, 0].round(3).tolist()) == [10, 40] and len(parts[64].boxes) == 1


@pytest.mark.parametrize("limit", ["most", "most_candidates"])
def test_the_best_are_kept_over_all_looks(limit):
    """One look sees the large square alone, the other the small one, with a lower score."""
    image, model = picture((10, 10, 16), (90, 20, 128)), Finder(30, 70, said=lambda side: 0.5 + side / 1000)
    looks = PyramidLooks(model, (2.0, 0.5))
    assert looks.detect([image])[0].scores == pytest.approx([0.564, 0.532])
    setattr(model, limit, 1)
    (found,) = looks.detect([image])
    assert found.scores == pytest.approx([0.564]) and found.boxes[0, 0] == pytest.approx(90)


def test_a_report_for_every_look(rng):
    model, image = shaken(named("fpn-finest")), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    result, reports = PyramidLooks(model, (0.5, 1.0, 2.0)).detect_with_report(image)
    assert [report.stage for report in reports] == ["x0.5", "x1", "x2", "nms"]
    anchors = [len(model.groups((round(40 * f), round(50 * f)))) for f in (0.5, 1, 2)]
    assert [report.boxes_in for report in reports[:3]] == anchors
    assert reports[3].boxes_in == sum(report.boxes_out for report in reports[:3])
    assert reports[3].boxes_out == len(result.boxes) > 0


def small_extd() -> EXTD:
    return EXTD(np.random.default_rng(0), width=4, stem=8, blocks=((1, 1), (2, 2)), sides=(16, 32))


@pytest.mark.parametrize(
    "make", [lambda: shaken(named("fpn")), lambda: shaken(named("ssd", "own")).fuse(), small_extd]
)
def test_one_look_is_a_plain_detection(make, rng):
    model, image = make(), rng.integers(0, 256, (70, 50, 3), dtype=np.uint8)
    looks = PyramidLooks(model, (1.0,))
    for settings in ({}, {"min_score": 0.2, "min_face": 30}):
        assert_same(looks.detect([image], **settings)[0], model.detect([image], **settings)[0])
    assert len(looks.detect([image], min_score=0.2)[0].boxes) > 0 and looks.threshold == model.threshold
    with pytest.raises(ValueError, match="min_score must be a number from 0 to 1"):
        looks.detect([image], min_score=1.5)


# ------------------------------------------------------------------ one scale alone


@pytest.mark.parametrize(("name", "head"), [("fpn-finest", "dilated"), ("fpn", "shared"), ("ssd", "own"),
                                            ("retinaface", "context"), ("fpn-finest-stride", "shared")])  # fmt: skip
def test_all_is_what_the_detector_finds(name, head, rng):
    model, image = shaken(named(name, head)), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for settings in ({}, {"min_score": 0.3, "min_face": 20.0}):
        found = by_scale(model, image, **settings)
        assert list(found) == ["all", *model.layout.scales]
        assert_same(found["all"], model.detect([image], **{"min_face": 0} | settings)[0])
        assert len(found["all"].boxes) > 0


@pytest.mark.parametrize(("name", "head"), [("fpn-finest", "dilated"), ("fpn", "shared"), ("retinaface", "own")])
def test_parts_are_the_anchors_of_a_scale(name, head, rng):
    """Without suppression the parts together are the whole; each is what anchors with such sides say."""
    model, image = shaken(named(name, head)), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    model.nms_threshold, model.most = 1.0, 100_000
    found = by_scale(model, image, min_score=0.4)
    parts = [found[scale] for scale in model.layout.scales]
    joined = [np.concatenate([part[k] for part in parts]) for k in (0, 1)]
    assert rows_of(*joined) == rows_of(*found["all"][:2]) and len(joined[0]) > 50
    with no_grad():
        said = model.predict(Tensor(model.planes(image)[None]))
    for scale, part in zip(model.layout.scales, parts, strict=True):
        own = (said.anchors[:, 2] - said.anchors[:, 0]).round() == scale
        score = 1 / (1 + np.exp(-np.diff(said.logits.data[0, own].astype(np.float64), axis=1)[:, 0]))
        boxes = model.coder.decode(said.anchors[own], said.deltas.data[0, own])[score > 0.4].clip(0, [70, 50] * 2)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        assert len(part.boxes) == has_area.sum()
        np.testing.assert_allclose(np.sort(part.boxes[:, 0]), np.sort(boxes[has_area, 0]), atol=1e-3)
    first = rows_of(*parts[0][:2])
    assert first != rows_of(*parts[1][:2]) and len(first) < len(joined[0])  # it is not all of them, again and again


def test_a_scale_alone_is_suppressed_alone(rng):
    """A box that a better one of another scale suppresses is in its own scale's part."""
    model, image = shaken(named("fpn-finest")), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    model.nms_threshold = 0.1
    found = by_scale(model, image)
    assert sum(len(found[scale].boxes) for scale in model.layout.scales) > len(found["all"].boxes) > 0


def test_nothing_found(rng):
    model, image = shaken(named("fpn")), rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    nothing = [*by_scale(model, image, (0.5, 1.0), min_score=1.0).values()]
    nothing += PyramidLooks(model, (0.25, 0.5)).detect([image], min_score=1.0)
    nothing += by_scale(Finder(), picture(), FACTORS).values()
    assert len(nothing) == 5 + 1 + 5
    for found in nothing:
        assert found.boxes.shape == (0, 4) and found.boxes.dtype == np.float32 and found.scores.shape == (0,)
    assert PyramidLooks(model).detect([]) == []
