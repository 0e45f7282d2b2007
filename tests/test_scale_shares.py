"""How samples are spread over scales: counts against loops, shares, and what samplers with and without groups take."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.detection.anchor_layout import FPN, FPN_FINEST, RPN, AnchorLayout, single
from minidetect.detection.group_sampler import at_random, everything, hardest, hardest_of_all, in_groups, weighted
from minidetect.detection.structures import Target, make_target
from minidetect.evaluate.scale_shares import ScaleShares, scale_shares
from minidetect.reference import boxes as slow

# A face right on an anchor of 16, one of 33 x 30, one of 26 that only the second pass gives an anchor, and a region
# that nobody knows; then two large ones; then nobody.
SCENES = [
    ((96, 128), make_target([[6, 6, 22, 22], [30, 40, 63, 70], [90, 10, 116, 36]], ignore=[[64, 60, 128, 96]])),
    ((64, 160), make_target([[0, 0, 64, 60], [40, -20, 150, 64]])),
    ((64, 64), make_target([])),
]


def by_loops(layout: AnchorLayout, size: tuple[int, int], target: Target) -> np.ndarray:
    """(2, S): objects and background of each scale, anchor by anchor, face by face."""
    anchors, faces = layout.anchors(size).tolist(), target.boxes.tolist()
    overlaps = [[slow.iou(anchor, face) for face in faces] for anchor in anchors]
    best = [max(row, default=0.0) for row in overlaps]
    is_object = [value >= 0.6 for value in best]
    served = {row.index(max(row)) for row, value in zip(overlaps, best, strict=True) if value >= 0.6}
    for j in set(range(len(faces))) - served:
        own = [k for k, row in enumerate(overlaps) if row[j] == best[k] and 0.4 <= best[k] < 0.6]
        if own:
            is_object[max(own, key=lambda k: best[k])] = True
    counts = np.zeros((2, len(layout.scales)), np.int64)
    for k, anchor in enumerate(anchors):
        scale = layout.scales.index(round(anchor[2] - anchor[0]))
        if is_object[k]:
            counts[0, scale] += 1
        elif best[k] < 0.4:
            hidden = any(slow.intersection_over_first(anchor, region) > 0.5 for region in target.ignore.tolist())
            counts[1, scale] += not hidden
    return counts


@pytest.mark.parametrize("layout", [FPN, RPN, FPN_FINEST.only([16, 64]), single("P3")], ids=["fpn", "rpn", "two", "P3"])
def test_counts_against_loops(layout, rng):
    found = scale_shares(layout, SCENES, everything(), rng)
    expected = sum(by_loops(layout, *scene) for scene in SCENES)
    np.testing.assert_array_equal(found.objects, expected[0])
    np.testing.assert_array_equal(found.background, expected[1])
    np.testing.assert_array_equal(found.sampled_objects, expected[0])  # all of them, by this sampler
    np.testing.assert_array_equal(found.sampled_background, expected[1])
    assert found.scales == layout.scales and expected[0].sum() > 0
    np.testing.assert_allclose(found.shares(), found.shares(sampled=False))
    np.testing.assert_allclose(found.shares(), expected / expected.sum())


def test_the_regions_and_the_second_pass_had_something_to_do(rng):
    plain = [(size, make_target(target.boxes)) for size, target in SCENES]
    found, without = (scale_shares(FPN_FINEST, scenes, everything(), rng) for scenes in (SCENES, plain))
    assert (without.background[:3] > found.background[:3]).all()  # too small to hide an anchor of 128
    np.testing.assert_array_equal(without.objects, found.objects)
    last = scale_shares(FPN, [((96, 128), make_target([[90, 10, 116, 36]]))], everything(), rng)
    assert last.objects.tolist() == [0, 1, 0, 0]


def test_faces_are_counted_where_they_are_nearest(rng):
    """In octaves: 22 is nearer to 16, 23 to 32; it is the root of the area that counts; none is lost."""
    sides = [(3, 3), (22, 22), (23, 23), (8, 32), (45, 45), (46, 46), (100, 100), (900, 900)]
    boxes = [[0, 0, w, h] for w, h in sides]
    found = scale_shares(FPN, [((128, 128), make_target(boxes)), *SCENES], everything(), rng)
    assert (found.object_counts - scale_shares(FPN, SCENES, everything(), rng).object_counts).tolist() == [3, 2, 1, 2]
    assert found.object_counts.dtype == np.int64 and found.object_counts.sum() == len(sides) + 5


@pytest.mark.parametrize("sampler", [at_random(64), in_groups(at_random(16)), hardest_of_all(32), weighted(64),
                                     in_groups(hardest(16)), everything()])  # fmt: skip
def test_shares_are_shares(sampler, rng):
    found = scale_shares(FPN, SCENES, sampler, rng)
    for sampled in (True, False):
        shares = found.shares(sampled)
        assert shares.shape == (2, 4) and shares.sum() == pytest.approx(1) and (shares >= 0).all()
    assert (found.sampled_objects <= found.objects).all() and (found.sampled_background <= found.background).all()
    assert found.sampled_objects.sum() + found.sampled_background.sum() > 0


def test_only_groups_make_scales_equal(rng):
    """N = 24 of each of 4 scales of each of 2 images; drawn from all together, the shares are those of all anchors."""
    images = [((128, 128), target) for _, target in SCENES[:2]]
    grouped = scale_shares(FPN, images, in_groups(at_random(24)), rng).shares()
    # 128 x 128 pixels have 16 anchors of 128, which is not enough: three scales get 24, that one what there is.
    assert grouped[:, :3].sum(axis=0) == pytest.approx(np.full(3, grouped[:, 0].sum()))
    assert grouped[:, 3].sum() < grouped[:, 2].sum()
    finest = scale_shares(FPN_FINEST, images, in_groups(at_random(24)), rng)
    assert finest.shares().sum(axis=0) == pytest.approx(np.full(4, 0.25))
    assert (finest.sampled_objects + finest.sampled_background).tolist() == [48] * 4
    plain = scale_shares(FPN, images, at_random(96), rng).shares()
    assert plain[:, 0].sum() > 2 * plain[:, 1].sum() > 0
    whole = scale_shares(FPN, images, at_random(96), rng).shares(sampled=False)
    np.testing.assert_allclose(plain.sum(axis=0), whole.sum(axis=0), atol=0.12)


def test_samplers_choose_as_if_nothing_had_been_learned():
    """Every anchor has nearly the same loss, no two the same, and labels, groups and losses are of one image alone."""
    calls = []

    def spy(labels, groups, losses, rng):
        calls.append((len(labels), len(groups), len(np.unique(losses)), rng))
        assert losses.min() >= 1 and losses.max() <= 1.001
        return everything()(labels, groups, losses, rng)

    rng = np.random.default_rng(3)
    scale_shares(FPN, iter(SCENES), spy, rng)
    counts = [len(FPN.anchors(size)) for size, _ in SCENES]
    assert calls == [(count, count, count, rng) for count in counts]


def test_without_faces_and_without_images(rng):
    nobody = scale_shares(FPN, [((64, 64), make_target([]))] * 2, in_groups(at_random(8)), rng)
    assert nobody.objects.tolist() == nobody.sampled_objects.tolist() == nobody.object_counts.tolist() == [0] * 4
    assert nobody.background.tolist() == [2 * 256, 2 * 64, 2 * 16, 2 * 4]
    assert nobody.sampled_background.tolist() == [16, 16, 16, 8] and nobody.shares()[1].sum() == pytest.approx(1)
    nothing = scale_shares(FPN, [], everything(), rng)
    assert isinstance(nothing, ScaleShares) and not nothing.background.any()
    assert nothing.shares().tolist() == nothing.shares(sampled=False).tolist() == [[0] * 4] * 2
