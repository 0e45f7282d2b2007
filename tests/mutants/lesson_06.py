"""Wrong answers to lesson 06 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_06 import LARGEST, decode, encode, iou_slope, ridge, smooth_l1


def encode__corners_instead_of_centres(proposals, gt):
    size, gt_size = proposals[:, 2:] - proposals[:, :2], gt[:, 2:] - gt[:, :2]
    return np.concatenate([(gt[:, :2] - proposals[:, :2]) / size, np.log(gt_size / size)], axis=1)


def encode__in_pixels(proposals, gt):
    size = proposals[:, 2:] - proposals[:, :2]
    deltas = encode(proposals, gt)
    return np.concatenate([deltas[:, :2] * size, deltas[:, 2:]], axis=1)


def encode__over_the_size_of_the_truth(proposals, gt):
    deltas = encode(proposals, gt)
    return np.concatenate([deltas[:, :2] / np.exp(deltas[:, 2:]), deltas[:, 2:]], axis=1)


def encode__without_the_logarithm(proposals, gt):
    deltas = encode(proposals, gt)
    return np.concatenate([deltas[:, :2], np.exp(deltas[:, 2:])], axis=1)


def encode__width_for_the_height(proposals, gt):
    width = proposals[:, 2:3] - proposals[:, :1]
    height = proposals[:, 3:] - proposals[:, 1:2]
    deltas = encode(proposals, gt)
    deltas[:, 1:2] *= height / width
    return deltas


def encode__from_the_truth_to_the_proposal(proposals, gt):
    return encode(gt, proposals)


def encode__limits_the_deltas(proposals, gt):
    return np.clip(encode(proposals, gt), -LARGEST, LARGEST)


def decode__no_limit(proposals, deltas):
    size = proposals[:, 2:] - proposals[:, :2]
    centre = (proposals[:, :2] + proposals[:, 2:]) / 2 + deltas[:, :2] * size
    half = size * np.exp(deltas[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def decode__limits_shrinking_too(proposals, deltas):
    return decode(proposals, np.column_stack([deltas[:, :2], np.clip(deltas[:, 2:], -LARGEST, LARGEST)]))


def decode__limits_every_delta(proposals, deltas):
    return decode(proposals, np.minimum(deltas, LARGEST))


def decode__shift_in_grown_sizes(proposals, deltas):
    grown = np.exp(np.minimum(deltas[:, 2:], LARGEST))
    return decode(proposals, np.concatenate([deltas[:, :2] * grown, deltas[:, 2:]], axis=1))


def decode__whole_side_for_half(proposals, deltas):
    return decode(proposals, np.concatenate([deltas[:, :2], deltas[:, 2:] + np.log(2)], axis=1))


def decode__corner_and_size(proposals, deltas):
    boxes = decode(proposals, deltas)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def standardise__divides_by_zero(deltas):
    mean, std = deltas.mean(axis=0), deltas.std(axis=0)
    with np.errstate(invalid="ignore"):
        return (deltas - mean) / std, mean, std


def standardise__one_mean_for_all(deltas):
    mean, std = np.full(4, deltas.mean()), np.full(4, deltas.std())
    return (deltas - mean) / std, mean, std


def standardise__over_n_minus_one(deltas):
    mean = deltas.mean(axis=0)
    std = deltas.std(axis=0, ddof=1) if len(deltas) > 1 else np.ones(4)
    std = np.where(std > 1e-6, std, 1.0)
    return (deltas - mean) / std, mean, std


def standardise__over_the_variance(deltas):
    mean, std = deltas.mean(axis=0), deltas.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)
    return (deltas - mean) / std**2, mean, std


def standardise__along_the_row(deltas):
    mean, std = deltas.mean(axis=1, keepdims=True), deltas.std(axis=1, keepdims=True)
    return (deltas - mean) / np.where(std > 1e-6, std, 1.0), mean[:, 0], std[:, 0]


def standardise__divides_before_it_subtracts(deltas):
    mean, std = deltas.mean(axis=0), deltas.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)
    return deltas / std - mean, mean, std


def standardise__asks_for_a_deviation_of_exactly_zero(deltas):
    mean, std = deltas.mean(axis=0), deltas.std(axis=0)
    std = np.where(std == 0, 1.0, std)
    return (deltas - mean) / std, mean, std


def ridge__no_penalty(x, t, strength):
    return np.linalg.lstsq(x, t, rcond=None)[0]


def ridge__spares_the_last_column(x, t, strength):
    penalty = strength * np.eye(x.shape[1])
    penalty[-1, -1] = 1e-9
    return np.linalg.solve(x.T @ x + penalty, x.T @ t)


def ridge__penalty_times_the_samples(x, t, strength):
    return ridge(x, t, strength * len(x))


def ridge__penalty_everywhere(x, t, strength):
    return np.linalg.lstsq(x.T @ x + strength, x.T @ t, rcond=None)[0]


def ridge__squares_the_strength(x, t, strength):
    return ridge(x, t, strength**2)


def ridge__one_triangle_only(x, t, strength):
    lower = np.linalg.cholesky(x.T @ x + strength * np.eye(x.shape[1]))
    return np.linalg.solve(lower, x.T @ t)


def smooth_l1__plain_square(error, beta):
    return error**2 / (2 * beta), error / beta


def smooth_l1__plain_size(error, beta):
    return np.abs(error), np.sign(error)


def smooth_l1__line_not_lowered(error, beta):
    size = np.abs(error)
    return np.where(size < beta, error**2 / (2 * beta), size), np.clip(error / beta, -1, 1)


def smooth_l1__beta_is_one(error, beta):
    return smooth_l1(error, 1.0)


def smooth_l1__slope_without_sign(error, beta):
    loss, slope = smooth_l1(error, beta)
    return loss, np.abs(slope)


def smooth_l1__no_half(error, beta):
    size = np.abs(error)
    return np.where(size < beta, error**2 / beta, size - beta / 2), np.clip(error / beta, -1, 1)


def smooth_l1__sums_up(error, beta):
    loss, slope = smooth_l1(error, beta)
    return loss.sum(), slope


def parts(pred, gt):
    """Shared area, union, its inner edges' derivatives, the own area's; with a clamp on the product only."""
    x1, y1 = np.maximum(pred[:2], gt[:2])
    x2, y2 = np.minimum(pred[2:], gt[2:])
    width, height = pred[2:] - pred[:2]
    shared = max((x2 - x1) * (y2 - y1), 0)
    union = width * height + (gt[2] - gt[0]) * (gt[3] - gt[1]) - shared
    d_shared = np.array([y1 - y2, x1 - x2, y2 - y1, x2 - x1])
    return shared, union, d_shared, np.array([-height, -width, height, width])


def inner_edges(pred, gt):
    return np.append(pred[:2] >= gt[:2], pred[2:] <= gt[2:])


def iou_slope__clamps_the_product_only(pred, gt):
    shared, union, d_shared, d_area = parts(pred, gt)
    d_shared = d_shared * inner_edges(pred, gt) * (shared > 0)
    return (d_shared * union - shared * (d_area - d_shared)) / union**2


def iou_slope__no_clamp(pred, gt):
    shared, union, d_shared, d_area = parts(pred, gt)
    d_shared = d_shared * inner_edges(pred, gt)
    return (d_shared * union - shared * (d_area - d_shared)) / union**2


def iou_slope__every_edge_is_inner(pred, gt):
    shared, union, d_shared, d_area = parts(pred, gt)
    slope = (d_shared * union - shared * (d_area - d_shared)) / union**2
    return slope * iou_slope(pred, gt).any()


def iou_slope__the_union_stays(pred, gt):
    _, union, d_shared, _ = parts(pred, gt)
    return d_shared * inner_edges(pred, gt) / union * iou_slope(pred, gt).any()


def iou_slope__all_edges_alike(pred, gt):
    return iou_slope(pred, gt) * np.array([-1, -1, 1, 1])


def iou_slope__width_and_height_mixed_up(pred, gt):
    return iou_slope(pred, gt)[[1, 0, 3, 2]]


def iou_slope__by_the_other_box(pred, gt):
    return iou_slope(gt, pred)


def iou_slope__of_the_loss(pred, gt):
    return -iou_slope(pred, gt)


def iou_slope__zero_at_a_kink(pred, gt):
    return np.where(pred == gt, 0.0, iou_slope(pred, gt))


def iou_slope__mean_of_both_sides_at_a_kink(pred, gt):
    return (iou_slope(pred - 1e-7, gt) + iou_slope(pred + 1e-7, gt)) / 2 * iou_slope(pred, gt).any()
