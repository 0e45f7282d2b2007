"""Layouts of anchors: how many there are, where each stands, how well they cover, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.anchor_layout import (
    COCO_FPN,
    FPN,
    FPN_FINEST,
    FPN_FINEST_STRIDE,
    LAYOUTS,
    RETINAFACE,
    RPN,
    SSD,
    AnchorLayout,
    AnchorRow,
    one_each,
    single,
)
from minidetect.detection.matcher import match
from minidetect.reference import boxes as slow

SETTINGS = settings(max_examples=40, deadline=None)
EVERY = LAYOUTS | {"coco": COCO_FPN, "shrunk": FPN.shrunk(4), "P3 / 16": single("P3", 16)}
every_layout = pytest.mark.parametrize("layout", EVERY.values(), ids=EVERY.keys())


def by_loops(layout: AnchorLayout, image_size: tuple[int, int]) -> tuple[list[list[float]], list[int]]:
    """Anchors and their groups, one after the other."""
    boxes, groups = [], []
    for row in layout.rows:
        for top in range(0, image_size[0], row.stride):
            for left in range(0, image_size[1], row.stride):
                for scale in row.scales:
                    for ratio in layout.ratios:
                        x, y = left + row.stride / 2, top + row.stride / 2
                        w, h = scale / ratio**0.5, scale * ratio**0.5
                        boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                        groups.append(layout.scales.index(scale))
    return boxes, groups


# ------------------------------------------------------------------ how many


@pytest.mark.parametrize(
    ("layout", "a_scale"),
    [
        (RPN, [40 * 40] * 4),
        (FPN, [160**2, 80**2, 40**2, 20**2]),
        (FPN_FINEST_STRIDE, [160**2, 80**2, 40**2, 20**2]),
        (FPN_FINEST, [160**2] * 4),
        (SSD, [160**2, 80**2, 40**2, 20**2]),
        (RETINAFACE, [160**2] * 3 + [80**2] * 3 + [40**2] * 3 + [20**2] * 3 + [10**2] * 3),
        (COCO_FPN, [3 * 160**2, 3 * 80**2, 3 * 40**2, 3 * 20**2, 3 * 10**2]),
        (single("P2", 8), [80**2] * 4),
        (single("P3"), [80**2] * 4),
    ],
    ids=str,
)
def test_anchors_of_each_scale_at_640(layout, a_scale):
    assert np.bincount(layout.groups((640, 640))).tolist() == a_scale
    anchors = layout.anchors((640, 640))
    assert anchors.shape == (sum(a_scale), 4) and anchors.dtype == np.float32


def test_totals_at_640():
    """FPN-finest has three times as many as FPN, RPN a fifth; RetinaFace's 102,300 are its published number."""
    totals = {name: len(layout.groups((640, 640))) for name, layout in LAYOUTS.items()}
    assert totals == {"rpn": 6400, "fpn": 34_000, "fpn-finest-stride": 34_000, "fpn-finest": 102_400, "ssd": 34_000,
                      "retinaface": 102_300}  # fmt: skip


def test_a_last_part_counts_as_a_whole_place():
    """33 x 17 pixels at strides of 4, 8, 16 and 32."""
    assert np.bincount(FPN.groups((33, 17))).tolist() == [9 * 5, 5 * 3, 3 * 2, 2 * 1]
    assert FPN.places(FPN.rows[0], (33, 17)) == (9, 5)
    assert np.bincount(RPN.groups((1, 1))).tolist() == [1, 1, 1, 1]


# ------------------------------------------------------------------ where, and of which group


def test_first_anchors_by_hand():
    anchors = FPN_FINEST.anchors((8, 12))
    np.testing.assert_array_equal(anchors[:2], [[-6, -6, 10, 10], [-14, -14, 18, 18]])  # 16 and 32 around (2, 2)
    np.testing.assert_array_equal(anchors[4], [-2, -6, 14, 10])  # the next column
    np.testing.assert_array_equal(anchors[12], [-6, -2, 10, 14])  # the next line, after three columns of four
    np.testing.assert_array_equal(RPN.anchors((16, 16))[0], [0, 0, 16, 16])
    np.testing.assert_array_equal(FPN.anchors((32, 32))[-1], [-48, -48, 80, 80])  # 128 around (16, 16)
    first = COCO_FPN.anchors((4, 4))[:3]  # ratios of height to width of 1/2, 1 and 2, all of the same area
    np.testing.assert_allclose((first[:, 3] - first[:, 1]) / (first[:, 2] - first[:, 0]), [0.5, 1, 2], rtol=1e-6)


@every_layout
@pytest.mark.parametrize("size", [(64, 64), (33, 70), (1, 5)])
def test_anchors_against_loops(layout, size):
    boxes, groups = by_loops(layout, size)
    np.testing.assert_allclose(layout.anchors(size), boxes, atol=1e-4)
    np.testing.assert_array_equal(layout.groups(size), groups)


@every_layout
@SETTINGS
@given(st.integers(1, 150), st.integers(1, 150))
def test_a_group_is_the_side_of_its_anchors(layout, height, width):
    """sqrt(w h) of each, which for squares is exactly both sides; Group Sampling's "scale"."""
    anchors, groups = layout.anchors((height, width)), layout.groups((height, width))
    assert groups.shape == (len(anchors),) and groups.dtype == np.int64
    scales, sides = np.array(layout.scales)[groups], anchors[:, 2:] - anchors[:, :2]
    if layout.ratios == (1.0,):
        np.testing.assert_array_equal(sides, np.stack([scales, scales], axis=1))
    np.testing.assert_allclose(np.sqrt(sides.prod(axis=1)), scales, rtol=1e-4)
    np.testing.assert_array_equal(np.unique(groups), np.arange(len(layout.scales)))


@pytest.mark.parametrize("size", [(96, 160), (37, 50)])
def test_fpn_and_finest_stride_have_the_same_anchors(size):
    """They differ in the map that is looked at; one on the used cell's own centre would be off by half a cell."""
    for other in (FPN_FINEST_STRIDE, SSD):
        np.testing.assert_array_equal(FPN.anchors(size), other.anchors(size))
        np.testing.assert_array_equal(FPN.groups(size), other.groups(size))
    on_the_cell = np.concatenate(
        [row.stride // 4 // 2 * 4 + 2 + np.arange(0, size[1], row.stride) for row in FPN_FINEST_STRIDE.rows]
    )
    at_stride = np.concatenate([np.arange(0, size[1], row.stride) + row.stride / 2 for row in FPN.rows])
    assert np.unique(on_the_cell - at_stride).tolist() == [0, 2]


@every_layout
def test_an_image_of_whole_periods_is_covered_evenly(layout):
    """The anchors' centres lie in the image, as many left and above of its middle as right and below."""
    size = (layout.period, 2 * layout.period)
    anchors, groups = layout.anchors(size), layout.groups(size)
    for group in np.unique(groups):
        x, y = ((anchors[groups == group][:, k] + anchors[groups == group][:, k + 2]) / 2 for k in (0, 1))
        assert x.mean() == size[1] / 2 and y.mean() == size[0] / 2
        assert x.min() > 0 and y.min() > 0 and x.max() < size[1] and y.max() < size[0]


def test_periods_by_hand():
    assert {name: layout.period for name, layout in LAYOUTS.items()} == {
        "rpn": 16, "fpn": 32, "fpn-finest-stride": 32, "fpn-finest": 4, "ssd": 32, "retinaface": 64,
    }  # fmt: skip
    assert single("P3", 16).period == 16 and COCO_FPN.period == 64 and FPN.shrunk(2).period == 16


# ------------------------------------------------------------------ how well they cover


def worst_best_iou(layout: AnchorLayout, scale: int) -> float:
    """Of a square as large as the scale, at each place of a grid of half pixels, the IoU with its best anchor."""
    anchors = layout.only([scale]).anchors((160, 160))
    places = [64 + step / 2 for step in range(2 * 16 + 1)]  # one stride of 16 and less; no border is near
    squares = [[x, y, x + scale, y + scale] for x in places for y in places]
    near = [box for box in anchors.tolist() if max(abs(box[0] - 72), abs(box[1] - 72)) <= 24]
    return min(max(slow.iou(square, box) for box in near) for square in squares)


@pytest.mark.parametrize(
    ("layout", "scale", "ratio", "worst"),
    [(RPN, 16, 1, 0.14), (RPN, 32, 2, 0.39), (RPN, 64, 4, 0.62), (RPN, 128, 8, 0.78), (FPN, 16, 4, 0.62)],
)
def test_worst_overlap_of_a_square_as_large_as_an_anchor(layout, scale, ratio, worst):
    """Half a stride off in both directions: (1 - 1/2q)**2 of the area is shared, q the scale over the stride."""
    (row,) = layout.only([scale]).rows
    assert row.scales[0] / row.stride == ratio
    found, shared = worst_best_iou(layout, scale), (1 - 1 / (2 * ratio)) ** 2
    assert round(found, 2) == worst and found == pytest.approx(shared / (2 - shared))


def test_only_a_ratio_of_four_is_sure_to_match():
    """At 0.6, Group Sampling's lambda 1: the worst places of RPN's scales, and all of FPN's."""
    for scale, is_sure in ((16, False), (32, False), (64, True), (128, True)):
        corner = 80 - scale / 2  # around a corner of four cells of 16 pixels
        square = np.array([[corner, corner, corner + scale, corner + scale]])
        assert (match(RPN.anchors((160, 160)), square, 0.6, 0.4)[0] >= 0).any() == is_sure
        assert (match(FPN.anchors((160, 160)), square, 0.6, 0.4)[0] >= 0).any()


# ------------------------------------------------------------------ other layouts


@every_layout
def test_only_some_scales(layout):
    for kept in (layout.scales[:1], layout.scales[1:3], layout.scales[::-1]):
        part = layout.only(kept)
        assert part.scales == tuple(sorted(kept)) and part.ratios == layout.ratios and part.unit == layout.unit
        scale_of = np.array(layout.scales)[layout.groups((70, 50))]
        np.testing.assert_array_equal(part.anchors((70, 50)), layout.anchors((70, 50))[np.isin(scale_of, kept)])
    assert layout.only(layout.scales) == layout


def test_rows_without_a_scale_are_left_out():
    assert FPN.only((32, 128)).features == ("P3", "P5") and FPN.only((32,)).period == 8
    assert RETINAFACE.only((16, 25)).rows == (AnchorRow("P2", 4, (16, 25)),)


@pytest.mark.parametrize("layout", [RPN, FPN, FPN_FINEST_STRIDE, FPN_FINEST, SSD, COCO_FPN], ids=str)
def test_a_shrunk_layout_is_the_same_in_a_smaller_world(layout):
    for factor in (1, 2, 4):
        small = layout.shrunk(factor)
        np.testing.assert_allclose(
            small.anchors((64 // factor, 128 // factor)), layout.anchors((64, 128)) / factor, rtol=1e-6
        )
        assert small.unit == 4 // factor and small.period == layout.period // factor
        assert [small.map_stride(row.feature) for row in small.rows] == [
            layout.map_stride(row.feature) // factor for row in layout.rows
        ]


def test_what_layouts_are_made_of():
    assert RETINAFACE.scales == (16, 20, 25, 32, 40, 51, 64, 81, 102, 128, 161, 203, 256, 323, 406)
    assert RETINAFACE.features == ("P2", "P3", "P4", "P5", "P6") and SSD.features == ("C2", "C3", "C4", "C5")
    assert FPN_FINEST_STRIDE.features == ("P2",) and len(FPN_FINEST_STRIDE.rows) == 4
    assert FPN == one_each("P") and FPN_FINEST == single("P2") and RPN == single("C4", 16)
    assert FPN_FINEST.per_cell(FPN_FINEST.rows[0]) == 4 and COCO_FPN.per_cell(COCO_FPN.rows[0]) == 3
    assert FPN.map_stride("C5") == FPN.map_stride("P5") == 32


# ------------------------------------------------------------------ what is refused

ROW = AnchorRow("P3", 8, (16,))


@pytest.mark.parametrize(
    ("rows", "settings", "complaint"),
    [
        ((), {}, "needs rows"),
        ((ROW,), {"ratios": ()}, "ratios above 0"),
        ((ROW,), {"ratios": (1.0, -2.0)}, "ratios above 0"),
        ((ROW,), {"unit": 0}, "a unit of at least 1 pixel"),
        ((AnchorRow("Q2", 4, (16,)),), {}, "maps are C2, C3, ... and P2, P3, ..., got 'Q2'"),
        ((AnchorRow("P1", 2, (16,)),), {}, "got 'P1'"),
        ((AnchorRow("P", 4, (16,)),), {}, "got 'P'"),
        ((AnchorRow("", 4, (16,)),), {}, "got ''"),
        ((ROW, AnchorRow("P2", 4, ())), {}, "P2 needs scales above 0, got ()"),
        ((AnchorRow("P2", 4, (16, 0)),), {}, "P2 needs scales above 0, got (16, 0)"),
        ((AnchorRow("P3", 4, (16,)),), {}, "cells, which are 8 pixels wide; that does not go with a stride of 4"),
        ((AnchorRow("P3", 12, (16,)),), {}, "a stride of 12"),
        ((AnchorRow("C2", 0, (16,)),), {}, "a stride of 0"),
        ((AnchorRow("P2", 12, (16,)),), {}, "1st, 2nd, 4th, ... of its cells"),
    ],
)
def test_layouts_that_there_are_not(rows, settings, complaint):
    with pytest.raises(ValueError) as error:
        AnchorLayout(rows, **settings)
    assert complaint in str(error.value)


def test_scales_and_factors_that_do_not_fit():
    with pytest.raises(ValueError, match=r"there are anchors of \(16, 32, 64, 128\), not of \[20, 30\]"):
        FPN.only((30, 16, 20))
    with pytest.raises(ValueError, match="needs rows"):
        FPN.only(())
    for factor in (3, 8, 0):
        with pytest.raises(ValueError, match=f"{factor} must divide every stride and scale"):
            FPN.shrunk(factor)
    with pytest.raises(ValueError, match="2 must divide every stride and scale"):
        RETINAFACE.shrunk(2)  # it has scales of 25 and 51
    with pytest.raises(ValueError, match="2 must divide"):
        replace(FPN, unit=1, rows=(AnchorRow("P2", 1, (16,)),)).shrunk(2)
