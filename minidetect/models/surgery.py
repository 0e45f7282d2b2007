"""From a classifier of crops to Fast R-CNN: what a network that was trained on another task keeps.

Girshick, "Fast R-CNN", ICCV 2015, section 2.2: a pre-trained network undergoes three changes.

    1   the last max pooling becomes RoI pooling, with as many bins as the first fully connected layer expects
    2   the last fully connected layer and its softmax become two siblings: K + 1 logits, 4 K deltas
    3   it takes an image and a list of regions

All other weights stay: a region that is a whole crop has the features that the classifier gave it, if the
classifier's pooling divides its map without a rest (crops of 48, 60 or 64 pixels do, of 56 or 72 not).

Letters: K classes without background, P bins a side.
"""

from __future__ import annotations

import numpy as np

from minidetect.models.fast_rcnn import BoxHead, FastRCNN
from minidetect.models.rcnn import CropNet


def fast_rcnn_from(net: CropNet, num_classes: int, rng: np.random.Generator, **settings: float) -> FastRCNN:
    """A Fast R-CNN for `num_classes` classes that starts from a trained classifier of crops; the layers are shared.

    settings: of `FastRCNN` (frozen, min_score, nms_threshold, most). Only the two siblings are new and random.
    """
    model = FastRCNN(num_classes, rng, net.backbone, **settings)
    _, bins, _ = net.pool5_shape
    model.head = BoxHead(net.backbone.channels, net.backbone.stride, num_classes, rng, bins, net.sizes["fc7"])
    model.head.fc6, model.head.fc7 = net.fc6, net.fc7
    return model
