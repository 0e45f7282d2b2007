"""Fast R-CNN scored by support vector machines: does the softmax of a network trained at once need them?

Girshick, "Fast R-CNN", ICCV 2015, section 5.4. R-CNN trains one SVM a class on the features of a finished network,
with hard negative mining. Here the same is done on fc7 of a trained Fast R-CNN, by the same function
(`rcnn_fit.mine_svms`); boxes stay those of the network's own regression. In the paper the softmax is better by 0.1 to
0.8 points of mAP, so that the extra stage can be left out.

    image -> backbone -> map -> RoI pooling -> fc6 -> fc7 -+-> K linear SVMs, the scores
                                                           +-> deltas (4 K), the boxes

Left out: nothing of the section. Letters: R regions of interest (RoIs), K classes without background, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minidetect.autograd.tensor import Tensor, no_grad
from minidetect.detection.boxes import valid_boxes
from minidetect.detection.per_class import detections_by_class
from minidetect.detection.structures import Detections, Target
from minidetect.detection.svm import HardNegativeMiner, LinearSVM
from minidetect.models.fast_rcnn import FastRCNN
from minidetect.models.rcnn import NEVER, Scored
from minidetect.models.rcnn_fit import mine_svms
from minidetect.nn.module import Module


class FastRCNNSVM(Module):
    """A trained Fast R-CNN whose classes are judged by SVMs; `fit_fast_svms` trains them.

    model: its network with final weights, and `train(False)`; it is shared, not copied. min_score: of a detection; an
    SVM gives background -1 or less. Suppression and `most` are the model's.
    """

    def __init__(self, model: FastRCNN, min_score: float = -1.5) -> None:
        self.model, self.min_score = model, min_score
        num_classes, features = model.head.num_classes, model.head.logits.weight.shape[1]
        self.num_classes = num_classes
        self.scale = np.ones(1, np.float32)  # of the features, for a mean norm of 20
        self.svm_weight = np.zeros((num_classes, features), np.float32)
        self.svm_bias = np.full(num_classes, NEVER, np.float32)

    def features(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """fc7 of each box: image (3, H, W) normalised, boxes (R, 4) -> (R, D) float32."""
        with no_grad():
            return self.model.head.hidden(self.model.backbone(Tensor(image[None])), boxes).data

    def score(self, image: np.ndarray, proposals: np.ndarray) -> Scored:
        """Every proposal's box (R, K, 4) and score (R, K) for every class. image (3, H, W), proposals (R, 4).

        Raises ValueError where no SVM has been trained.
        """
        if (self.svm_bias == NEVER).all():
            raise ValueError("FastRCNNSVM: no SVM has been trained: call fit_fast_svms first")
        head, features = self.model.head, self.features(image, proposals)
        with no_grad():
            deltas = head.deltas(Tensor(features)).data
        scores = features * self.scale @ self.svm_weight.T + self.svm_bias
        return Scored(head.class_boxes(proposals, deltas, image.shape[1:]), scores)

    def detect(self, images: Sequence[np.ndarray], proposals: Sequence[np.ndarray]) -> list[Detections]:
        """What is in each image, in its own pixels, as `FastRCNN.detect`; scores are of SVMs, not from 0 to 1.

        Proposals without area are left out.
        """
        found = []
        for image, boxes in zip(images, proposals, strict=True):
            scored = self.score(image, boxes[valid_boxes(boxes)])
            found.append(detections_by_class(*scored, self.min_score, self.model.nms_threshold, self.model.most))
        return found


def fit_fast_svms(
    model: FastRCNNSVM, images: Sequence[np.ndarray], targets: Sequence[Target], proposals: Sequence[np.ndarray],
    rng: np.random.Generator, negative_iou: float = 0.3, svm: LinearSVM | None = None, **mining: float,
) -> list[HardNegativeMiner]:
    """One SVM a class, "the same training algorithm and hyper-parameters as in R-CNN": see `rcnn_fit.mine_svms`.

    images: (3, H, W) normalised. Returns each class's miner, which knows its hard negatives.
    """
    fitted = mine_svms(
        lambda i, boxes: model.features(images[i], boxes), targets, proposals, model.num_classes, rng, negative_iou,
        svm, **mining,
    )  # fmt: skip
    model.scale[0], model.svm_weight[...], model.svm_bias[...] = fitted.scale, fitted.weight, fitted.bias
    return fitted.miners
