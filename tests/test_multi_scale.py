"""Fast R-CNN at several scales: each region where it belongs, the same as one scale where there is one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.detection.image_scale import ImageScale, assign_scales, box_factors, normalise
from minidetect.detection.structures import Detections
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.multi_scale import SCALES, detect_at_scales, score_at_scales
from minidetect.nn.fuse import fuse

TABLE = ((8, 2), (8, 2), (12, 2), (16, 2))
MEAN = np.float32([110, 117, 120])
PYRAMID = (ImageScale(48, 200), ImageScale(96, 400), ImageScale(192, 800))


@pytest.fixture
def model(rng) -> FastRCNN:
    """Untrained, with outputs large enough that boxes move and scores differ."""
    model = FastRCNN(3, rng, Backbone(rng, TABLE), features=32, min_score=0.2)
    model.head.logits.weight.data *= 40
    model.head.deltas.weight.data *= 100
    return model


def photo(rng, size=(96, 128)) -> np.ndarray:
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def random_proposals(rng, num: int, size=(96, 128)) -> np.ndarray:
    corner = rng.random((num, 2)) * (np.float32(size[::-1]) - 12)
    side = 8 + rng.random((num, 2)) * (np.float32(size[::-1]) - corner - 8)
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def test_one_scale_is_fast_rcnn(model, rng):
    """At the image's own size to the last bit; at another one but for the rounding of boxes on their way back."""
    image, proposals = photo(rng), random_proposals(rng, 60)
    (expected,) = model.detect([normalise(image, MEAN)], [proposals])
    found = detect_at_scales(model, image, proposals, MEAN, [ImageScale(96, 1000)])
    assert len(expected.boxes) > 5
    for a, b in zip(found[:3], expected[:3], strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    scale = ImageScale(150, 1000)
    resized = scale.resize(image)
    (expected,) = model.detect([normalise(resized, MEAN)], [proposals * box_factors(image.shape, resized.shape)])
    found = detect_at_scales(model, image, proposals, MEAN, [scale])
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_allclose(found.boxes, expected.boxes * box_factors(resized.shape, image.shape), atol=1e-3)


def test_assignment_by_hand(model, rng):
    """Factors 0.5, 1 and 2; for an area of 32 x 32 a box of 16 pixels belongs to the last, of 32 to the middle one, of
    64 to the first. Each is scored as if its scale were the only one."""
    image = photo(rng)
    proposals = np.float32([[10, 10, 26, 26], [10, 10, 42, 42], [10, 10, 74, 74], [60, 20, 76, 36]])
    factors = [scale.factor((96, 128)) for scale in PYRAMID]
    assert factors == [0.5, 1, 2]
    assert assign_scales(proposals, factors, 32**2).tolist() == [2, 1, 0, 2]
    assert assign_scales(proposals, factors).tolist() == [2, 2, 2, 2]  # 224 x 224: all are small
    assert assign_scales(proposals[1:2], [1, 1]).tolist() == [0]  # equally near: the first
    boxes, scores = score_at_scales(model, image, proposals, MEAN, PYRAMID, 32**2)
    for row, k in enumerate([2, 1, 0, 2]):
        alone = score_at_scales(model, image, proposals[row : row + 1], MEAN, PYRAMID[k : k + 1])
        np.testing.assert_allclose(boxes[row], alone[0][0], atol=1e-3)
        np.testing.assert_allclose(scores[row], alone[1][0], atol=1e-5)
    middle = score_at_scales(model, image, proposals, MEAN, PYRAMID[1:2])[1]
    assert np.abs(middle[0] - scores[0]).max() > 1e-3  # it matters where a region is looked at


def test_no_proposals_and_no_scales(model, rng):
    found = detect_at_scales(model, photo(rng), np.zeros((0, 4), np.float32), MEAN, PYRAMID)
    assert isinstance(found, Detections)
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)
    with pytest.raises(ValueError, match="at least one scale"):
        detect_at_scales(model, photo(rng), np.zeros((0, 4), np.float32), MEAN, [])
    with pytest.raises(ValueError, match="proposals"):
        detect_at_scales(model, photo(rng), np.zeros((3, 5), np.float32), MEAN, PYRAMID)


def test_the_paper_s_pyramid():
    assert [scale.short_side for scale in SCALES] == [480, 576, 688, 864, 1200]
    assert {scale.longest for scale in SCALES} == {2000}
    # A photo of 480 x 640; an object of 100 x 100 comes nearest to 224 x 224 at the largest scale, 2.5
    factors = [scale.factor((480, 640)) for scale in SCALES]
    assert assign_scales(np.float32([[0, 0, 100, 100], [0, 0, 224, 224]]), factors).tolist() == [4, 0]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), num=st.integers(0, 12), height=st.integers(40, 90), width=st.integers(40, 90))
def test_boxes_lie_in_the_image_and_order_does_not_matter(seed, num, height, width):
    rng = np.random.default_rng(seed)
    model = FastRCNN(2, rng, Backbone(rng, TABLE), features=8)
    model.head.deltas.weight.data *= 100
    image, proposals = photo(rng, (height, width)), random_proposals(rng, num, (height, width))
    boxes, scores = score_at_scales(model, image, proposals, MEAN, PYRAMID, 40**2)
    assert boxes.shape == (num, 2, 4) and scores.shape == (num, 2) and (scores.sum(axis=1) <= 1 + 1e-5).all()
    assert (boxes >= 0).all() and (boxes[:, :, 0::2] <= width).all() and (boxes[:, :, 1::2] <= height).all()
    order = rng.permutation(num)
    again = score_at_scales(model, image, proposals[order], MEAN, PYRAMID, 40**2)
    np.testing.assert_allclose(again[0], boxes[order], atol=1e-3)
    np.testing.assert_allclose(again[1], scores[order], atol=1e-5)


def test_a_fused_copy_says_the_same(model, rng):
    image, proposals = photo(rng), random_proposals(rng, 20)
    plain = score_at_scales(model, image, proposals, MEAN, PYRAMID, 32**2)
    quick = score_at_scales(fuse(model), image, proposals, MEAN, PYRAMID, 32**2)
    np.testing.assert_allclose(quick[0], plain[0], atol=1e-2)
    np.testing.assert_allclose(quick[1], plain[1], atol=1e-4)
