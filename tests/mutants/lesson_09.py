"""Wrong answers to lesson 09 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_09 import error_kind, foreground, receptive_field, segmentation_accuracy, top_regions

from minidetect.kernels.iou import iou_matrix
from minidetect.kernels.nms import nms


def receptive_field__kernel_times_its_own_stride(layers):
    size, stride, start = 1, 1, 0
    for kernel, step, padding in layers:
        stride *= step
        size += (kernel - 1) * stride
        start -= padding * stride
    return size, stride, start


def receptive_field__adds_whole_kernels(layers):
    size, stride, start = 0, 1, 0
    for kernel, step, padding in layers:
        size += kernel * stride
        start -= padding * stride
        stride *= step
    return max(size, 1), stride, start


def receptive_field__forgets_the_strides(layers):
    _, stride, start = receptive_field(layers)
    return 1 + sum(kernel - 1 for kernel, _, _ in layers), stride, start


def receptive_field__padding_in_pixels(layers):
    size, stride, _ = receptive_field(layers)
    return size, stride, -sum(padding for _, _, padding in layers)


def receptive_field__padding_to_the_right(layers):
    size, stride, start = receptive_field(layers)
    return size, stride, -start


def receptive_field__padding_shrinks_it(layers):
    size, stride, start = receptive_field(layers)
    return size + 2 * start, stride, 0


def receptive_field__from_the_last_layer(layers):
    return receptive_field(layers[::-1])


def receptive_field__strides_add_up(layers):
    size, _, start = receptive_field(layers)
    return size, 1 + sum(step - 1 for _, step, _ in layers), start


def top_regions__across_images(activations, boxes, top, threshold):
    values, places = np.concatenate(activations), np.concatenate(boxes)
    names = [(i, row) for i, of_image in enumerate(activations) for row in range(len(of_image))]
    rows = np.flatnonzero(values > 0)
    return [names[rows[k]] for k in nms(places[rows], values[rows], threshold)[:top]]


def top_regions__without_suppression(activations, boxes, top, threshold):
    names = [(-v, i, row) for i, of_image in enumerate(activations) for row, v in enumerate(of_image) if v > 0]
    return [(i, row) for _, i, row in sorted(names)[:top]]


def top_regions__cut_first(activations, boxes, top, threshold):
    best = top_regions__without_suppression(activations, boxes, top, threshold)
    allowed = [np.zeros_like(of_image) for of_image in activations]
    for i, row in best:
        allowed[i][row] = activations[i][row]
    return top_regions(allowed, boxes, top, threshold)


def top_regions__so_many_of_each_image(activations, boxes, top, threshold):
    found = []
    for i, (values, of_image) in enumerate(zip(activations, boxes, strict=True)):
        found += [(i, row) for _, row in top_regions([values], [of_image], top, threshold)]
    return found


def top_regions__zeros_too(activations, boxes, top, threshold):
    return top_regions([of_image + 1 for of_image in activations], boxes, top, threshold)


def top_regions__the_weakest(activations, boxes, top, threshold):
    return top_regions([np.where(v > 0, 100 - v, 0) for v in activations], boxes, top, threshold)


def top_regions__rows_among_the_excited(activations, boxes, top, threshold):
    excited = [np.flatnonzero(of_image > 0) for of_image in activations]
    values = [of_image[rows] for of_image, rows in zip(activations, excited, strict=True)]
    return top_regions(values, [b[rows] for b, rows in zip(boxes, excited, strict=True)], top, threshold)


def top_regions__strikes_at_the_threshold(activations, boxes, top, threshold):
    return top_regions(activations, boxes, top, threshold - 1e-9)


def top_regions__struck_ones_strike(activations, boxes, top, threshold):
    left = []
    for i, (values, of_image) in enumerate(zip(activations, boxes, strict=True)):
        overlap = iou_matrix(of_image, of_image)
        for row in np.flatnonzero(values > 0):
            better = (values > values[row]) | ((values == values[row]) & (np.arange(len(values)) < row))
            if not (overlap[row][better] > threshold).any():
                left.append((-values[row], i, int(row)))
    return [(i, row) for _, i, row in sorted(left)[:top]]


def top_regions__skips_images_without_proposals(activations, boxes, top, threshold):
    full = [i for i, values in enumerate(activations) if len(values)]
    return top_regions([activations[i] for i in full], [boxes[i] for i in full], top, threshold)


def error_kind__more_than_a_half(overlaps, labels, taken, label, similar):
    return error_kind(np.where(overlaps == 0.5, 0.499, overlaps), labels, taken, label, similar)


def error_kind__more_than_a_tenth(overlaps, labels, taken, label, similar):
    return error_kind(np.where(overlaps == 0.1, 0.099, overlaps), labels, taken, label, similar)


def error_kind__doubles_are_correct(overlaps, labels, taken, label, similar):
    return error_kind(overlaps, labels, np.zeros_like(taken), label, similar)


def error_kind__doubles_are_background(overlaps, labels, taken, label, similar):
    best = np.where(labels == label, overlaps, -1)
    if len(best) and best.max() >= 0.5 and taken[best.argmax()]:
        return "background"
    return error_kind(overlaps, labels, taken, label, similar)


def error_kind__looks_at_the_best_object_only(overlaps, labels, taken, label, similar):
    if len(overlaps) == 0:
        return "background"
    best = [overlaps.argmax()]
    return error_kind(overlaps[best], labels[best], taken[best], label, similar)


def error_kind__any_free_object_will_do(overlaps, labels, taken, label, similar):
    if ((labels == label) & (overlaps >= 0.5) & ~taken).any():
        return "correct"
    return error_kind(overlaps, labels, taken, label, similar)


def error_kind__other_before_similar(overlaps, labels, taken, label, similar):
    found = error_kind(overlaps, labels, taken, label, similar)
    is_other = (overlaps >= 0.1) & (labels != label) & ~np.isin(labels, similar)
    return "other" if found == "similar" and is_other.any() else found


def error_kind__similar_is_other(overlaps, labels, taken, label, similar):
    return error_kind(overlaps, labels, taken, label, [])


def error_kind__any_overlap_counts(overlaps, labels, taken, label, similar):
    return error_kind(np.where((overlaps > 0) & (overlaps < 0.1), 0.1, overlaps), labels, taken, label, similar)


def error_kind__confusions_need_a_half(overlaps, labels, taken, label, similar):
    found = error_kind(overlaps, labels, taken, label, similar)
    return "background" if found in ("similar", "other") and overlaps.max() < 0.5 else found


def foreground__zeros(image, mask, mean):
    _, box = foreground(image, mask, mean)
    return image * mask, box


def foreground__keeps_the_background(image, mask, mean):
    return foreground(image, ~mask, mean)[0], foreground(image, mask, mean)[1]


def foreground__stays_in_bytes(image, mask, mean):
    changed = image.copy()
    for c in range(3):
        changed[c][~mask] = mean[c]
    return changed, foreground(image, mask, mean)[1]


def foreground__in_place(image, mask, mean):
    image[:, ~mask] = np.asarray(mean)[:, None]
    return image, foreground(image, mask, mean)[1]


def foreground__one_mean_for_all(image, mask, mean):
    changed, box = foreground(image, mask, mean)
    return np.where(mask, changed, np.mean(mean)), box


def foreground__mean_of_this_image(image, mask, mean):
    return foreground(image, mask, image.mean(axis=(1, 2)))


def foreground__last_pixel_missing(image, mask, mean):
    changed, box = foreground(image, mask, mean)
    return changed, box - [0, 0, 1, 1]


def foreground__rows_first(image, mask, mean):
    changed, box = foreground(image, mask, mean)
    return changed, box[[1, 0, 3, 2]]


def foreground__the_hole_as_well(image, mask, mean):
    x1, y1, x2, y2 = foreground(image, mask, mean)[1]
    filled = np.zeros_like(mask)
    filled[y1:y2, x1:x2] = True
    return foreground(image, filled, mean)


def foreground__cut_out(image, mask, mean):
    changed, box = foreground(image, mask, mean)
    return changed[:, box[1] : box[3], box[0] : box[2]], box


def foreground__black_is_background(image, mask, mean):
    masked = image * mask
    return np.where(masked == 0, np.asarray(mean)[:, None, None], masked), foreground(image, mask, mean)[1]


def foreground__box_of_what_differs_from_the_mean(image, mask, mean):
    changed, _ = foreground(image, mask, mean)
    rows, columns = np.nonzero((changed != np.asarray(mean)[:, None, None]).any(axis=0))
    return changed, np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def segmentation_accuracy__share_of_pixels(predicted, truth, num_classes):
    right = sum((p == t).sum() for p, t in zip(predicted, truth, strict=True))
    return right / sum(t.size for t in truth)


def segmentation_accuracy__image_by_image(predicted, truth, num_classes):
    pairs = zip(predicted, truth, strict=True)
    return np.mean([segmentation_accuracy([p], [t], num_classes) for p, t in pairs])


def segmentation_accuracy__without_background(predicted, truth, num_classes):
    shares = []
    for k in range(1, num_classes + 1):
        both = sum(((p == k) & (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        either = sum(((p == k) | (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        shares += [both / either] if either else []
    return np.mean(shares)


def segmentation_accuracy__absent_classes_count(predicted, truth, num_classes):
    present = len(np.unique(np.concatenate([x.ravel() for x in (*predicted, *truth)])))
    return segmentation_accuracy(predicted, truth, num_classes) * present / (num_classes + 1)


def segmentation_accuracy__absent_classes_are_right(predicted, truth, num_classes):
    present = len(np.unique(np.concatenate([x.ravel() for x in (*predicted, *truth)])))
    total = segmentation_accuracy(predicted, truth, num_classes) * present + num_classes + 1 - present
    return total / (num_classes + 1)


def segmentation_accuracy__only_classes_of_the_truth(predicted, truth, num_classes):
    shares = []
    for k in np.unique(np.concatenate([t.ravel() for t in truth])):
        both = sum(((p == k) & (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        either = sum(((p == k) | (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        shares.append(both / either)
    return np.mean(shares)


def segmentation_accuracy__recall(predicted, truth, num_classes):
    shares = []
    for k in range(num_classes + 1):
        both = sum(((p == k) & (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        there = sum((t == k).sum() for t in truth)
        shares += [both / there] if there else []
    return np.mean(shares)


def segmentation_accuracy__one_class_forgotten(predicted, truth, num_classes):
    return segmentation_accuracy(predicted, truth, num_classes - 1)


def segmentation_accuracy__twice_the_shared(predicted, truth, num_classes):
    shares = []
    for k in range(num_classes + 1):
        both = sum(((p == k) & (t == k)).sum() for p, t in zip(predicted, truth, strict=True))
        total = sum((p == k).sum() + (t == k).sum() for p, t in zip(predicted, truth, strict=True))
        shares += [both / total] if total else []
    return np.mean(shares)
