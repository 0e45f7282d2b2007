"""Post-hoc SVMs on Fast R-CNN's features: by hand, and beside the softmax on drawn scenes."""

from __future__ import annotations

import numpy as np
import pytest

from minidetect.autograd.tensor import Tensor
from minidetect.detection.proposals import random_boxes
from minidetect.detection.structures import make_target
from minidetect.detection.svm import LinearSVM
from minidetect.kernels.iou import iou_matrix
from minidetect.models.backbones import Backbone
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.fast_rcnn_svm import FastRCNNSVM, fit_fast_svms
from minidetect.models.rcnn import NEVER, CropNet
from minidetect.models.rcnn_fit import mine_svms
from minidetect.train.drawn import TEST_BANK, drawn_images, mean_ap, pretrain, train_steps

TABLE = ((8, 2), (16, 2), (24, 2))


def rng_of(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def near_and_away(target, rng, size=(96, 96)) -> np.ndarray:
    """Six boxes around each object, and forty anywhere."""
    around = np.repeat(target.boxes, 6, axis=0)
    side = around[:, 2:] - around[:, :2]
    around = around + np.tile(side, 2) * rng.normal(0, 0.1, (len(around), 4))
    found = np.concatenate([around, random_boxes(size, 40, rng)])
    return np.clip(found, 0, np.tile(size[::-1], 2)).astype(np.float32)


def test_svms_do_not_learn_from_ignore_regions():
    """Three boxes of background, of which the ignore region covers one: it must not be among the negatives."""
    target = make_target(np.array([[0, 0, 10, 10]], np.float32), ignore=np.array([[50, 50, 70, 70]], np.float32))
    found = np.array([[30, 0, 40, 10], [52, 52, 68, 68], [0, 40, 10, 50]], np.float32)
    fitted = mine_svms(lambda i, boxes: boxes, [target], [found], 1, rng_of(0), evict_below=-np.inf)
    negatives = fitted.miners[0].negatives / fitted.scale
    np.testing.assert_allclose(negatives, found[[0, 2]], rtol=1e-5)


class Miniature:
    """A Fast R-CNN of a few seconds on drawn scenes, its trunk prepared on patches, and SVMs on its features."""

    def __init__(self) -> None:
        rng, drawn = rng_of(3), dict(size=(96, 96), side=(30.0, 60.0), num_objects=(1, 2), clutter=3.0)
        self.data = drawn_images(80, 5, **drawn)
        self.test = drawn_images(30, 6, bank=TEST_BANK, **drawn)
        self.proposals = [near_and_away(target, rng) for target in self.data.targets]
        self.test_proposals = [near_and_away(target, rng) for target in self.test.targets]
        net = CropNet(4, rng, side=32, table=TABLE)
        pretrain(net, 150, rng, patches=600)
        self.fast = FastRCNN(4, rng, net.backbone, features=48)
        train_steps(
            self.fast, lambda rng: self.fast.losses(*self.data.batch_with(self.proposals, rng), rng), 150, rng
        )
        self.model = FastRCNNSVM(self.fast)
        self.miners = fit_fast_svms(
            self.model, self.data.images, self.data.targets, self.proposals, rng, svm=LinearSVM(c=0.05),
            retrain_after=300,
        )  # fmt: skip

    def ap(self, model) -> float:
        return mean_ap(model.detect(self.test.images, self.test_proposals), self.test.targets)


@pytest.fixture(scope="module")
def miniature() -> Miniature:
    return Miniature()


def test_svms_say_about_what_the_softmax_says(miniature):
    """Fast R-CNN, section 5.4: a difference within a point in the paper; here there are 45 objects to measure on."""
    softmax, svm = miniature.ap(miniature.fast), miniature.ap(miniature.model)
    assert softmax > 45 and svm > 45 and abs(softmax - svm) < 20, (softmax, svm)


def test_svms_know_objects_from_background(miniature):
    """Scores of training objects: their own class above the others and above the negatives that mining kept."""
    margins = []
    for k, miner in enumerate(miniature.miners):
        assert miner.num_trainings >= 2 and len(miner.negatives)
        margins.append(miner.svm.score(miner.positives).mean() - miner.svm.score(miner.negatives).mean())
        np.testing.assert_array_equal(miniature.model.svm_weight[k], miner.svm.weight)
    assert min(margins) > 0 and np.mean(margins) > 0.5
    own, others = [], []
    for image, target in zip(miniature.data.images, miniature.data.targets, strict=True):
        scores = miniature.model.score(image, target.boxes).scores
        mine = np.arange(4) == target.labels[:, None] - 1
        own.append(scores[mine])
        others.append(scores[~mine])
    assert np.concatenate(own).mean() > np.concatenate(others).mean() + 0.5


def test_scores_and_boxes_by_hand(miniature):
    """The score is scale * fc7 . w + b, the box that of the network's own regression."""
    model, image, boxes = miniature.model, miniature.test.images[0], miniature.test_proposals[0]
    features = model.features(image, boxes)
    logits, deltas = miniature.fast.head(miniature.fast.backbone(Tensor(image[None])), boxes)
    np.testing.assert_allclose(miniature.fast.head.logits(Tensor(features)).data, logits.data, atol=1e-5)
    scored = model.score(image, boxes)
    expected = [(model.scale[0] * features[7]) @ model.svm_weight[k] + model.svm_bias[k] for k in range(4)]
    np.testing.assert_allclose(scored.scores[7], expected, rtol=1e-4, atol=1e-4)
    by_class = deltas.data[7].reshape(4, 4)
    moved = np.clip(miniature.fast.head.coder.decode(boxes[[7] * 4], by_class), 0, 96)
    np.testing.assert_allclose(scored.boxes[7], moved, atol=1e-3)


def test_random_svms_would_be_found_out(miniature):
    model = FastRCNNSVM(miniature.fast)
    model.svm_weight[...] = rng_of(1).normal(0, miniature.model.svm_weight.std(), model.svm_weight.shape)
    model.svm_bias[...] = miniature.model.svm_bias
    assert miniature.ap(model) < miniature.ap(miniature.model) / 2


def test_state_dict_carries_the_svms(miniature):
    again = FastRCNNSVM(FastRCNN(4, rng_of(9), Backbone(rng_of(9), TABLE), features=48))
    again.load_state_dict(miniature.model.state_dict())
    image, boxes = miniature.test.images[1], miniature.test_proposals[1]
    np.testing.assert_array_equal(again.score(image, boxes).scores, miniature.model.score(image, boxes).scores)


def test_nothing_to_look_at_and_nothing_learned(miniature):
    flat = np.float32([[5, 5, 5, 20], [np.nan, 0, 1, 1]])
    images = miniature.test.images[:2]
    for found in miniature.model.detect(images, [np.zeros((0, 4), np.float32), flat]):
        assert found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)
    with pytest.raises(ValueError, match="call fit_fast_svms first"):
        FastRCNNSVM(miniature.fast).detect(images[:1], [flat])
    with pytest.raises(ValueError, match="at least one image"):
        fit_fast_svms(FastRCNNSVM(miniature.fast), [], [], [], rng_of(0))


def test_svms_of_any_features_by_hand():
    """Features that are the box itself (x1 / 10, 1): objects at 8, background at 0; a class without objects: never."""
    targets = [make_target([[80, 0, 90, 10]], [1]), make_target([[80, 20, 90, 30]], [1])]
    proposals = [np.float32([[0, 0, 10, 10], [80, 0, 90, 9], [0, 30, 10, 40]])] * 2

    def features(i: int, boxes: np.ndarray) -> np.ndarray:
        return np.stack([boxes[:, 0] / 10, np.ones(len(boxes))], axis=1).astype(np.float32)

    fitted = mine_svms(features, targets, proposals, 2, rng_of(0), svm=LinearSVM(c=1))
    assert fitted.weight.shape == (2, 2) and fitted.bias[1] == NEVER and (fitted.weight[1] == 0).all()
    # of image 0 the second proposal is nearly the object (IoU 0.9) and not learned from, of image 1 it is background
    mean_norm = np.mean([1, np.hypot(8, 1), 1] * 2)
    assert fitted.scale == pytest.approx(20 / mean_norm, rel=1e-5)
    keys = fitted.miners[0].keys.tolist()  # image, and which of its negatives
    assert sorted(keys) == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
    assert iou_matrix(proposals[0], targets[0].boxes)[1, 0] == pytest.approx(0.9)
