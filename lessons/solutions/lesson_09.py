"""Solutions of lesson 09: receptive fields, a unit's best regions, kinds of mistakes, masked regions, accuracy."""

import numpy as np

from minidetect.kernels.nms import nms


def receptive_field(layers):
    """Walk from the input to the output; `stride` is how far apart two neighbours of the present layer are."""
    size, stride, start = 1, 1, 0
    for kernel, step, padding in layers:
        size += (kernel - 1) * stride
        start -= padding * stride
        stride *= step
    return size, stride, start


def top_regions(activations, boxes, top, threshold):
    """Suppression image by image, then one ranking of all that is left."""
    left = []
    for image, (values, of_image) in enumerate(zip(activations, boxes, strict=True)):
        excited = np.flatnonzero(values > 0)
        kept = excited[nms(of_image[excited], values[excited], threshold)]
        left += [(values[row], image, row) for row in sorted(kept)]
    left.sort(key=lambda region: -region[0])  # stable: equal ones stay in the order of images and rows
    return [(image, int(row)) for _, image, row in left[:top]]


def error_kind(overlaps, labels, taken, label, similar):
    """Its own class first; of that, only the object that it overlaps most can make it correct."""
    own = labels == label
    if own.any():
        best = np.where(own, overlaps, -1).argmax()
        if overlaps[best] >= 0.5 and not taken[best]:
            return "correct"
    touched = labels[overlaps >= 0.1]
    if label in touched:
        return "localisation"
    if np.isin(touched, similar).any():
        return "similar"
    return "other" if len(touched) else "background"


def foreground(image, mask, mean):
    """A new picture by `where`: the mean may be a fraction, the image may be whole numbers."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return np.where(mask, image, np.asarray(mean)[:, None, None]), box


def segmentation_accuracy(predicted, truth, num_classes):
    """The sums go over all images before anything is divided."""
    shares = []
    for k in range(num_classes + 1):
        both = sum(((p == k) & (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        either = sum(((p == k) | (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        if either:
            shares.append(both / either)
    return np.mean(shares)
