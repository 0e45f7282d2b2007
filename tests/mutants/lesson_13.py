"""Wrong answers to lesson 13 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_13 import bilinear, decode_in_graph, recall_curve, two_gradients

from minidetect.autograd import Tensor
from minidetect.kernels.iou import iou_matrix
from minidetect.ops.elementwise import exp
from minidetect.ops.shape import concat


def learns__shares_from_the_start(step):
    return max(step - 1, 0) if step <= 3 else 2, step <= 2, step in (1, 3), step in (2, 4)


def learns__trunk_learns_in_step_3(step):
    return 0 if step <= 2 else 2, step <= 3, step in (1, 3), step in (2, 4)


def learns__trunk_always_learns(step):
    return 0 if step <= 2 else 2, True, step in (1, 3), step in (2, 4)


def learns__trunk_of_step_1(step):
    return 0 if step <= 2 else 1, step <= 2, step in (1, 3), step in (2, 4)


def learns__everything_at_last(step):
    return 0 if step <= 2 else 2, step <= 2, step in (1, 3, 4), step in (2, 4)


def learns__step_4_from_step_3(step):
    return (0, 0, 2, 3)[step - 1], step <= 2, step in (1, 3), step in (2, 4)


def learns__head_first(step):
    return 0 if step <= 2 else 2, step <= 2, step in (2, 4), step in (1, 3)


def two_gradients__cuts_the_map_too(features, propose, head):
    x = Tensor(features, requires_grad=True)
    loss, boxes = propose(x)
    (loss + head(x.detach(), boxes.detach()) * 1.0).backward()
    approximate = x.grad
    return approximate, sum(two_gradients(features, propose, head)) - approximate


def two_gradients__cuts_the_map_instead(features, propose, head):
    x = Tensor(features, requires_grad=True)
    loss, boxes = propose(x)
    (loss + head(x.detach(), boxes)).backward()
    return x.grad, sum(two_gradients(features, propose, head)) - x.grad


def two_gradients__cuts_nothing(features, propose, head):
    full = sum(two_gradients(features, propose, head))
    return full, np.zeros_like(full)


def two_gradients__forgets_the_proposals_own_loss(features, propose, head):
    x = Tensor(features, requires_grad=True)
    propose(x)[0].backward()
    approximate, left_out = two_gradients(features, propose, head)
    return approximate - x.grad, left_out


def two_gradients__returns_the_whole_second(features, propose, head):
    approximate, left_out = two_gradients(features, propose, head)
    return approximate, approximate + left_out


def two_gradients__the_other_way_round(features, propose, head):
    approximate, left_out = two_gradients(features, propose, head)
    return left_out, approximate


def two_gradients__one_leaf_for_both(features, propose, head):
    x, found = Tensor(features, requires_grad=True), []
    for cut in (True, False):
        loss, boxes = propose(x)
        (loss + head(x, boxes.detach() if cut else boxes)).backward()
        found.append(x.grad)
    return found[0], found[1] - found[0]


def two_gradients__wrong_sign(features, propose, head):
    approximate, left_out = two_gradients(features, propose, head)
    return approximate, -left_out


def decode_in_graph__on_the_values(anchors, deltas):
    return Tensor(decode_in_graph(anchors, deltas.detach()).data)


def decode_in_graph__plain_array(anchors, deltas):
    return decode_in_graph(anchors, deltas).data


def decode_in_graph__sides_as_values(anchors, deltas):
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    moved = deltas[:, :2] * size + centre
    half = np.exp(deltas.data[:, 2:]) * size / 2
    return concat([moved - half, moved + half], axis=1)


def decode_in_graph__shift_as_a_value(anchors, deltas):
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    moved = Tensor(deltas.data[:, :2] * size + centre)
    half = exp(deltas[:, 2:]) * (size / 2)
    return concat([moved - half, moved + half], axis=1)


def decode_in_graph__shift_in_new_sizes(anchors, deltas):
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    sides = exp(deltas[:, 2:]) * size
    moved = deltas[:, :2] * sides + centre
    return concat([moved - sides * 0.5, moved + sides * 0.5], axis=1)


def decode_in_graph__moves_the_corner(anchors, deltas):
    size = anchors[:, 2:] - anchors[:, :2]
    corner = deltas[:, :2] * size + anchors[:, :2]
    return concat([corner, corner + exp(deltas[:, 2:]) * size], axis=1)


def decode_in_graph__whole_sides_for_halves(anchors, deltas):
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    moved, side = deltas[:, :2] * size + centre, exp(deltas[:, 2:]) * size
    return concat([moved - side, moved + side], axis=1)


def decode_in_graph__width_for_height(anchors, deltas):
    centre, size = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2])[:, ::-1]
    moved, half = deltas[:, :2] * size + centre, exp(deltas[:, 2:]) * (size / 2)
    return concat([moved - half, moved + half], axis=1)


def decode_in_graph__one_column_after_the_other(anchors, deltas):
    boxes = decode_in_graph(anchors, deltas)
    return boxes[:, [0, 2, 1, 3]]


def bilinear__centres_on_whole_numbers(plane, x, y):
    return bilinear(plane, x + 0.5, y + 0.5)


def bilinear__x_and_y_exchanged(plane, x, y):
    value, along_x, along_y = bilinear(plane.T, x, y)
    return value, along_x, along_y


def bilinear__slopes_exchanged(plane, x, y):
    value, along_x, along_y = bilinear(plane, x, y)
    return value, along_y, along_x


def bilinear__nearest_cell(plane, x, y):
    _, along_x, along_y = bilinear(plane, x, y)
    i, j = min(max(int(y), 0), len(plane) - 1), min(max(int(x), 0), plane.shape[1] - 1)
    return plane[i, j], along_x, along_y


def bilinear__slope_of_the_upper_row(plane, x, y):
    value, along_x, along_y = bilinear(plane, x, y)
    return value, bilinear(plane, x, np.floor(y - 0.5) + 0.5)[1], along_y


def bilinear__slopes_outside(plane, x, y):
    value, *_ = bilinear(plane, x, y)
    inside = [min(max(at, 0.51), cells - 0.51) for at, cells in ((x, plane.shape[1]), (y, plane.shape[0]))]
    return value, bilinear(plane, *inside)[1], bilinear(plane, *inside)[2]


def bilinear__asks_for_the_cell_after_the_last(plane, x, y):
    x, y = min(max(x - 0.5, 0), plane.shape[1] - 1), min(max(y - 0.5, 0), plane.shape[0] - 1)
    i, j = int(y), int(x)
    u, v = x - j, y - i
    a, b, c, d = plane[i, j], plane[i, j + 1], plane[i + 1, j], plane[i + 1, j + 1]
    value = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
    return value, (1 - v) * (b - a) + v * (d - c), (1 - u) * (c - a) + u * (d - b)


def bilinear__zero_outside(plane, x, y):
    value, along_x, along_y = bilinear(plane, x, y)
    return value if 0 <= x <= plane.shape[1] and 0 <= y <= len(plane) else 0.0, along_x, along_y


def corner_sum(plane, box, gy, follows, half=0.5):
    """The solution with another rule for how much a point follows the edges."""
    (x1, y1, x2, y2), gradient = box, np.zeros(4)
    for i, j in np.ndindex(gy.shape):
        down, across = (i + half) / gy.shape[0], (j + half) / gy.shape[1]
        _, along_x, along_y = bilinear(plane, x1 + across * (x2 - x1), y1 + down * (y2 - y1))
        gradient += gy[i, j] * np.array(follows(across, down)) * [along_x, along_y, along_x, along_y]
    return gradient


def corner_gradient__edges_exchanged(plane, box, gy):
    return corner_sum(plane, box, gy, lambda across, down: (across, down, 1 - across, 1 - down))


def corner_gradient__every_point_follows_every_edge(plane, box, gy):
    return corner_sum(plane, box, gy, lambda across, down: (1, 1, 1, 1))


def corner_gradient__half_for_every_edge(plane, box, gy):
    return corner_sum(plane, box, gy, lambda across, down: (0.5, 0.5, 0.5, 0.5))


def corner_gradient__across_for_down(plane, box, gy):
    return corner_sum(plane, box, gy, lambda across, down: (1 - down, 1 - across, down, across))


def corner_gradient__points_at_the_beginning(plane, box, gy):
    return corner_sum(plane, box, gy, lambda across, down: (1 - across, 1 - down, across, down), half=0.0)


def corner_gradient__forgets_gy(plane, box, gy):
    return corner_sum(plane, box, np.ones_like(gy), lambda across, down: (1 - across, 1 - down, across, down))


def corner_gradient__sorts_the_corners(plane, box, gy):
    x1, y1, x2, y2 = box
    ordered = np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])
    return corner_sum(plane, ordered, gy, lambda across, down: (1 - across, 1 - down, across, down))


def corner_gradient__points_from_edge_to_edge(plane, box, gy):
    (x1, y1, x2, y2), gradient = box, np.zeros(4)
    for i, j in np.ndindex(gy.shape):
        down, across = i / max(gy.shape[0] - 1, 1), j / max(gy.shape[1] - 1, 1)
        _, along_x, along_y = bilinear(plane, x1 + across * (x2 - x1), y1 + down * (y2 - y1))
        follows = np.array([1 - across, 1 - down, across, down])
        gradient += gy[i, j] * follows * [along_x, along_y, along_x, along_y]
    return gradient


def corner_gradient__mean_of_the_points(plane, box, gy):
    return corner_sum(plane, box, gy, lambda across, down: (1 - across, 1 - down, across, down)) / gy.size


def corner_gradient__last_point_only(plane, box, gy):
    last = np.zeros_like(gy)
    last[-1, -1] = gy[-1, -1]
    return corner_sum(plane, box, last, lambda across, down: (1 - across, 1 - down, across, down))


def recall_curve__more_than_the_threshold(proposals, gt_boxes, most, thresholds):
    best = [iou_matrix(gt, p[:most]).max(axis=1, initial=0) for p, gt in zip(proposals, gt_boxes, strict=True)]
    return (np.concatenate(best)[:, None] > thresholds).mean(axis=0)


def recall_curve__all_proposals(proposals, gt_boxes, most, thresholds):
    return recall_curve(proposals, gt_boxes, None, thresholds)


def recall_curve__the_last_proposals(proposals, gt_boxes, most, thresholds):
    return recall_curve([p[-most:] for p in proposals], gt_boxes, most, thresholds)


def recall_curve__share_of_proposals(proposals, gt_boxes, most, thresholds):
    best = [iou_matrix(gt, p[:most]).max(axis=0, initial=0) for p, gt in zip(proposals, gt_boxes, strict=True)]
    return (np.concatenate(best)[:, None] >= thresholds).mean(axis=0)


def recall_curve__mean_of_the_images(proposals, gt_boxes, most, thresholds):
    pairs = [(p, gt) for p, gt in zip(proposals, gt_boxes, strict=True) if len(gt)]
    return np.mean([recall_curve([p], [gt], most, thresholds) for p, gt in pairs], axis=0)


def recall_curve__images_without_proposals_left_out(proposals, gt_boxes, most, thresholds):
    pairs = [(p, gt) for p, gt in zip(proposals, gt_boxes, strict=True) if len(p)]
    return recall_curve([p for p, _ in pairs], [gt for _, gt in pairs], most, thresholds)


def recall_curve__proposals_of_all_images(proposals, gt_boxes, most, thresholds):
    together = np.concatenate([p[:most] for p in proposals])
    return recall_curve([together] * len(gt_boxes), gt_boxes, None, thresholds)


def recall_curve__overlaps_added_up(proposals, gt_boxes, most, thresholds):
    best = [iou_matrix(gt, p[:most]).sum(axis=1) for p, gt in zip(proposals, gt_boxes, strict=True)]
    return (np.concatenate(best)[:, None] >= thresholds).mean(axis=0)


def recall_curve__most_in_all(proposals, gt_boxes, most, thresholds):
    first = []
    for boxes in proposals:
        first.append(boxes[: max(most - sum(map(len, first)), 0)])
    return recall_curve(first, gt_boxes, None, thresholds)


def recall_curve__the_first_that_overlaps(proposals, gt_boxes, most, thresholds):
    best = [iou_matrix(gt, p[:1]).max(axis=1, initial=0) for p, gt in zip(proposals, gt_boxes, strict=True)]
    return (np.concatenate(best)[:, None] >= thresholds).mean(axis=0)
