"""Detectors with an AnchorLayout: every layout with every head, the order of anchors, odd sizes, fusing, files."""

from __future__ import annotations

import json
from math import ceil

import numpy as np
import pytest

from minidetect.autograd import Tensor, no_grad
from minidetect.detection.anchor_layout import COCO_FPN, FPN, FPN_FINEST, LAYOUTS, SSD, AnchorLayout, AnchorRow, single
from minidetect.models.layout_detector import LayoutDetector
from minidetect.models.layout_heads import HEADS, LayoutHeads, output_numbers
from minidetect.nn.checkpoint import load_arrays, save_arrays
from minidetect.ops.elementwise import add, mul
from minidetect.ops.reduce import sum as sum_over

TINY = {"width": 4, "features": 8, "widths": (4, 4, 4, 8), "stem": 4}
MIXED = AnchorLayout((AnchorRow("P3", 16, (32, 48)), AnchorRow("C4", 16, (64,)), AnchorRow("P2", 4, (16,))))
EVERY = LAYOUTS | {"coco": COCO_FPN, "shrunk": FPN.shrunk(2), "P3": single("P3"), "P4 alone": FPN.only([64])}
FITTING = [(name, head) for name in EVERY for head in HEADS if name != "ssd" or head in ("context", "own")]
every_fitting = pytest.mark.parametrize(("name", "head"), [*FITTING, ("mixed", "own"), ("mixed", "context")])


def tiny(layout: AnchorLayout = FPN_FINEST, head: str = "shared", seed: int = 0, **settings) -> LayoutDetector:
    return LayoutDetector(np.random.default_rng(seed), layout, head, **TINY | settings)


def named(name: str, head: str = "shared") -> LayoutDetector:
    return tiny((EVERY | {"mixed": MIXED})[name], head)


def pixels(rng, *size: int, num: int = 1, dtype=np.float32) -> Tensor:
    return Tensor(rng.normal(0, 60, (num, 3, *size)).astype(dtype))


def shaken(model: LayoutDetector, seed: int = 0) -> LayoutDetector:
    """Statistics, scales and biases that are not those of a new network, and outputs that are not near 0."""
    rng = np.random.default_rng(seed)
    model.backbone.stem.layers[0].weight.data /= 60  # of pixels
    for name, p in model.named_parameters():
        if p.ndim == 1:
            p.data[...] = rng.uniform(0.5, 1.5, p.shape) if name.endswith("weight") else rng.normal(0, 0.3, p.shape)
    for name, buffer in model.named_buffers():
        if "running" in name:
            var = name.endswith("var")
            buffer[...] = rng.uniform(0.5, 1.5, buffer.shape) if var else rng.normal(0, 0.2, buffer.shape)
    for conv in [*model.heads.logits, *model.heads.deltas]:
        conv.weight.data *= 50
    return model


# ------------------------------------------------------------------ every layout, every head


@every_fitting
def test_every_layout_and_head(name, head, rng):
    """It builds, says something of every anchor, and no parameter is without a gradient."""
    model = named(name, head)
    size = (model.layout.period, 2 * model.layout.period) if model.layout.period > 32 else (64, 96)
    model.train()
    said = model.predict(pixels(rng, *size, num=2))
    count = len(model.groups(size))
    assert said.logits.shape == (2, count, 2) and said.deltas.shape == (2, count, 4)
    assert said.anchors.shape == (count, 4)
    assert np.abs(said.logits.data).max() < 1 and np.abs(said.deltas.data).max() < 1  # nothing is certain yet
    gys = [Tensor(rng.standard_normal(y.shape).astype(np.float32)) for y in said[:2]]
    add(*(sum_over(mul(y, gy)) for y, gy in zip(said[:2], gys, strict=True))).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


# ------------------------------------------------------------------ the order of anchors


@pytest.mark.parametrize(
    ("layout", "kind"),
    [(EVERY[name], head) for name, head in FITTING if head in ("shared", "own") and name not in ("coco", "retinaface")]
    + [(COCO_FPN, "shared"), (LAYOUTS["retinaface"], "own"), (MIXED, "own")],
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{r.feature}/{r.stride}" for r in value.rows),
)
def test_a_lit_cell_lights_its_anchor(layout, kind, rng):
    """One cell of one map is 1, one output of each classifier looks at it: the best anchor is the one by hand."""
    heads = LayoutHeads(layout, dict.fromkeys(layout.features, 3), 4, rng, kind)
    for p in heads.parameters():
        p.data[...] = 0
    for hidden in heads.hidden:
        hidden.layers[0].weight.data[0, 0, 1, 1] = 1
    size = (layout.period, 3 * layout.period)
    anchors, maps = layout.anchors(size), []
    for feature in layout.features:
        maps.append(np.zeros((1, 3, *(n // layout.map_stride(feature) for n in size)), np.float32))
    for row, number in zip(layout.rows, output_numbers(layout, kind == "own"), strict=True):
        step = row.stride // layout.map_stride(row.feature)
        places = layout.places(row, size)
        for slot in range(layout.per_cell(row)):
            heads.logits[number].weight.data[...] = 0
            heads.logits[number].weight.data[2 * slot + 1, 0] = 1  # the face's logit
            py, px = int(rng.integers(places[0])), int(rng.integers(places[1]))
            cell = maps[layout.features.index(row.feature)][0, 0]
            cell[py * step + step // 2, px * step + step // 2] = 1
            logits, deltas = heads([Tensor(x) for x in maps])
            cell[...] = 0
            lit = np.flatnonzero(logits.data[0, :, 1])
            assert len(lit) == 1 and not logits.data[0, :, 0].any() and not deltas.data.any()
            scale, ratio = row.scales[slot // len(layout.ratios)], layout.ratios[slot % len(layout.ratios)]
            half = np.array([scale / ratio**0.5, scale * ratio**0.5]) / 2
            centre = np.array([px + 0.5, py + 0.5]) * row.stride
            np.testing.assert_allclose(anchors[lit[0]], np.concatenate([centre - half, centre + half]), rtol=1e-5)
            assert layout.scales[layout.groups(size)[lit[0]]] == scale
        heads.logits[number].weight.data[...] = 0


def test_which_classifiers_are_shared(rng):
    """Rows of different maps share one, rows of one map do not; "own" and "context" share nothing."""
    convs = {name: (len(m.heads.hidden), len(m.heads.logits)) for name in LAYOUTS if name != "ssd"
             for m in [named(name)]}  # fmt: skip
    assert convs == {"rpn": (1, 1), "fpn": (1, 1), "fpn-finest-stride": (1, 4), "fpn-finest": (1, 1),
                     "retinaface": (1, 1)}  # fmt: skip
    assert {(len(m.heads.hidden), len(m.heads.logits)) for m in (named("fpn", "own"), named("ssd", "context"))} == {
        (4, 4)
    }
    assert len(tiny(SSD, "shared", widths=(4, 4, 4, 4)).heads.hidden) == 1  # maps of equal width can share a head


# ------------------------------------------------------------------ whole detectors


@pytest.mark.parametrize(
    ("name", "head"),
    [("fpn-finest", "shared"), ("fpn", "dilated"), ("fpn-finest-stride", "shared"), ("retinaface", "context"),
     ("ssd", "own"), ("rpn", "shared")],
)  # fmt: skip
@pytest.mark.parametrize("size", [(1, 1), (33, 50), (64, 64)])
def test_the_fused_copy_says_the_same(name, head, size, rng):
    model = shaken(named(name, head))
    images = pixels(rng, *size, num=2)
    with no_grad():
        fused, plain = model.fuse().predict(images), model.predict(images)
    for ours, truth in ((fused.logits.data, plain.logits.data), (fused.deltas.data, plain.deltas.data)):
        assert np.abs(truth).max() > 0.1
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4 * np.abs(truth).max())
    np.testing.assert_array_equal(fused.anchors, plain.anchors)


@every_fitting
def test_files_restore_a_detector(name, head, rng, tmp_path):
    """Through JSON and .npz: its layout, its sizes, its settings and its weights."""
    model = shaken(named(name, head))
    model.threshold, model.most = 0.25, 33
    save_arrays(tmp_path / "weights.npz", model.state_dict(), model.arguments())
    state, arguments = load_arrays(tmp_path / "weights.npz")
    assert arguments == json.loads(json.dumps(model.arguments()))
    twin = LayoutDetector(np.random.default_rng(9), **arguments)
    twin.load_state_dict(state)
    assert twin.layout == model.layout and twin.arguments() == model.arguments()
    assert (twin.threshold, twin.most, twin.head) == (0.25, 33, head)
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for found, expected in zip(twin.detect([image])[0][:3], model.detect([image])[0][:3], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", [*LAYOUTS, "mixed"])
@pytest.mark.parametrize("size", [(37, 50), (64, 65), (5, 1)])
def test_images_that_are_no_multiples_of_the_period(name, size, rng):
    """Filled up with zeros, right and below, which is the mean colour; anchors and groups are those of the whole."""
    model = shaken(named(name, "own" if name in ("ssd", "mixed") else "shared"))
    whole = tuple(ceil(n / model.layout.period) * model.layout.period for n in size)
    images = pixels(rng, *size, num=2)
    by_hand = np.zeros((2, 3, *whole), np.float32)
    by_hand[:, :, : size[0], : size[1]] = images.data
    with no_grad():
        said, expected = model.predict(images), model.predict(Tensor(by_hand))
    for ours, truth in zip(said[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(ours.data, truth.data)
    np.testing.assert_array_equal(said.anchors, model.layout.anchors(whole))
    np.testing.assert_array_equal(model.groups(size), model.layout.groups(whole))
    (found,) = model.detect([rng.integers(0, 256, (*size, 3), dtype=np.uint8)], min_face=0, min_score=0)
    assert len(found.boxes) > 0 and (found.boxes >= 0).all() and (found.boxes <= [*size[::-1]] * 2).all()


def test_a_new_detector_depends_on_the_generator_alone():
    states = [tiny(seed=seed).state_dict() for seed in (3, 3, 4)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not np.array_equal(states[0][name], states[2][name]) for name in states[0])


UNEVEN = AnchorLayout((AnchorRow("P2", 4, (16, 24)), AnchorRow("P3", 8, (32,))))


@pytest.mark.parametrize(
    ("layout", "settings", "complaint"),
    [
        (FPN, {"head": "deep"}, "a head must be one of shared, dilated, context, own, got 'deep'"),
        (FPN, {"head": "dilated", "features": 6}, "shares its features among 4 branches, got 6"),
        (FPN, {"head": "context", "features": 6}, "needs a multiple of 4 features, got 6"),
        (SSD, {"head": "shared"}, 'cannot share a head: take "own" or "context", not \'shared\''),
        (SSD, {"head": "dilated"}, "cannot share a head"),
        (UNEVEN, {"head": "shared"}, "share a classifier, but have different numbers of scales"),
        (UNEVEN, {"head": "dilated"}, "share a classifier"),
        (single("C6"), {}, "this backbone has no C6, only C2, C3, C4, C5"),
        (single("P7"), {}, "maps P2 to P6 can be had, got [7]"),
        (FPN, {"blocks": (1, 1, 1)}, "as many widths as blocks"),
        (FPN, {"blocks": (1, 1, 0, 1)}, "all at least 1"),
        (FPN.shrunk(4), {}, "a unit of 2 or 4"),
        (FPN, {"threshold": 2}, "threshold must be a number from 0 to 1, got 2"),
        (FPN, {"most": 0}, "most must be a whole number of at least 1"),
    ],
    ids=lambda value: "" if isinstance(value, AnchorLayout) else str(value)[:30],
)
def test_detectors_that_there_are_not(layout, settings, complaint):
    with pytest.raises(ValueError) as error:
        tiny(layout, **settings)
    assert complaint in str(error.value)
    assert tiny(UNEVEN, "own").layout == UNEVEN  # which has a classifier for each row
