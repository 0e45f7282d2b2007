"""Wrong answers to lesson 15 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_15 import gate, gate_backward, joint_loss, recall_at, shared_gradient, top_k


def gate__lets_the_threshold_itself_pass(x, scores, threshold):
    rows = np.flatnonzero(scores >= threshold)
    return x[rows], rows


def gate__zeroes_instead_of_leaving_out(x, scores, threshold):
    passed = scores > threshold
    return x * passed.reshape(-1, *[1] * (x.ndim - 1)), np.flatnonzero(passed)


def gate__returns_the_mask(x, scores, threshold):
    return x[scores > threshold], scores > threshold


def gate__sorted_by_score(x, scores, threshold):
    order = np.argsort(-scores, kind="stable")
    rows = order[scores[order] > threshold]
    return x[rows], rows


def gate__multiplies_by_the_score(x, scores, threshold):
    passed, rows = gate(x, scores, threshold)
    return passed * scores[rows].reshape(-1, *[1] * (x.ndim - 1)), rows


def gate__upside_down(x, scores, threshold):
    return gate(x, -scores, -threshold)


def gate__first_rows_of_the_batch(x, scores, threshold):
    rows = np.flatnonzero(scores > threshold)
    return x[: len(rows)], rows


def gate__rows_of_a_matrix_only(x, scores, threshold):
    rows = np.flatnonzero(scores > threshold)
    return x[rows, ...] if x.ndim > 1 else x[rows, None], rows


def gate__places_that_are_no_whole_numbers(x, scores, threshold):
    passed, rows = gate(x, scores, threshold)
    return passed, rows.astype(float)


def gate_backward__leaves_the_others_out(gy, rows, num):
    return gy


def gate_backward__into_the_first_rows(gy, rows, num):
    gx = np.zeros((num, *gy.shape[1:]))
    gx[: len(gy)] = gy
    return gx


def gate_backward__into_the_other_rows(gy, rows, num):
    gx = np.zeros((num, *gy.shape[1:]))
    others = np.setdiff1d(np.arange(num), rows)
    gx[others[: len(gy)]] = gy[: len(others)]
    return gx


def gate_backward__spreads_over_the_batch(gy, rows, num):
    return gate_backward(gy, rows, num) * len(rows) / num


def gate_backward__others_get_the_mean(gy, rows, num):
    gx = np.tile(gy.mean(axis=0), (num, *[1] * (gy.ndim - 1))) if len(gy) else np.zeros((num, *gy.shape[1:]))
    gx[rows] = gy
    return gx


def gate_backward__two_sides_only(gy, rows, num):
    gx = np.zeros((num, gy.shape[1]))
    gx[rows] = gy
    return gx


def gate_backward__as_high_as_the_last_row(gy, rows, num):
    return gate_backward(gy, rows, rows.max() + 1)


def joint_loss__divides_by_the_batch(losses, weights):
    return sum(weight * loss.sum() / len(losses[0]) for loss, weight in zip(losses, weights, strict=True))


def joint_loss__zero_by_zero(losses, weights):
    with np.errstate(invalid="ignore", divide="ignore"):
        return sum(w * loss.sum() / np.float64(len(loss)) for loss, w in zip(losses, weights, strict=True))


def joint_loss__hides_what_is_no_number(losses, weights):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nansum([w * loss.sum() / np.float64(len(loss)) for loss, w in zip(losses, weights, strict=True)])


def joint_loss__no_weights(losses, weights):
    return joint_loss(losses, (1, 1, 1))


def joint_loss__sums(losses, weights):
    return sum(weight * loss.sum() for loss, weight in zip(losses, weights, strict=True))


def joint_loss__one_mean_of_all(losses, weights):
    weighted = np.concatenate([weight * loss for loss, weight in zip(losses, weights, strict=True)])
    return weighted.mean()


def joint_loss__divides_by_the_weights(losses, weights):
    return joint_loss(losses, weights) / sum(weights)


def joint_loss__stops_at_an_empty_branch(losses, weights):
    return joint_loss(losses, weights) if all(len(loss) for loss in losses) else 0.0


def shared_gradient__third_rows_of_the_batch(g12, g24, g48, rows24, rows48, weights):
    gx = weights[0] * g12
    gx[rows24] += weights[1] * g24
    gx[rows48] += weights[2] * g48
    return gx


def shared_gradient__assigns(g12, g24, g48, rows24, rows48, weights):
    gx = weights[0] * g12
    gx[rows24] = weights[1] * g24
    gx[rows24[rows48]] = weights[2] * g48
    return gx


def shared_gradient__no_weights(g12, g24, g48, rows24, rows48, weights):
    return shared_gradient(g12, g24, g48, rows24, rows48, (1, 1, 1))


def shared_gradient__third_branch_stops_at_the_second(g12, g24, g48, rows24, rows48, weights):
    return shared_gradient(g12, g24, 0 * g48, rows24, rows48, weights)


def shared_gradient__looked_up_the_wrong_way(g12, g24, g48, rows24, rows48, weights):
    gx = weights[0] * g12
    gx[rows24] += weights[1] * g24
    gx[rows48[np.minimum(np.arange(len(rows24)), len(rows48) - 1)][: len(g48)]] += weights[2] * g48
    return gx


def shared_gradient__third_weighted_twice(g12, g24, g48, rows24, rows48, weights):
    return shared_gradient(g12, g24, g48, rows24, rows48, (weights[0], weights[1], weights[1] * weights[2]))


def shared_gradient__gives_up_at_an_empty_branch(g12, g24, g48, rows24, rows48, weights):
    if len(rows24) == 0 or len(rows48) == 0:
        return weights[0] * g12
    return shared_gradient(g12, g24, g48, rows24, rows48, weights)


def shared_gradient__works_in_place(g12, g24, g48, rows24, rows48, weights):
    g12 *= weights[0]
    g12[rows24] += weights[1] * g24
    g12[rows24[rows48]] += weights[2] * g48
    return g12


def top_k__order_of_the_scores(scores, k):
    return np.argsort(-scores, kind="stable")[:k]


def top_k__reversed_sort_turns_ties(scores, k):
    return np.sort(np.argsort(scores, kind="stable")[::-1][:k])


def top_k__keeps_every_tie(scores, k):
    kth = np.sort(scores)[::-1][min(k, len(scores)) - 1]
    return np.flatnonzero(scores >= kth)


def top_k__minus_zero_is_everything(scores, k):
    return np.sort(np.lexsort((-np.arange(len(scores)), scores))[-k:])


def top_k__the_lowest(scores, k):
    return top_k(-scores, k)


def top_k__values(scores, k):
    return scores[top_k(scores, k)]


def recall_at__ties_count_as_found(scores, labels, rate):
    negatives = np.sort(scores[labels == 0])[::-1]
    budget = int(rate * len(negatives))
    threshold = negatives[budget] if budget < len(negatives) else 0
    return (scores[labels == 1] >= threshold).mean()


def recall_at__one_negative_too_few(scores, labels, rate):
    negatives = np.sort(scores[labels == 0])[::-1]
    return (scores[labels == 1] > negatives[max(int(rate * len(negatives)) - 1, 0)]).mean()


def recall_at__share_of_all_samples(scores, labels, rate):
    order = np.sort(scores)[::-1]
    index = int(rate * len(order))
    threshold = order[index] if index < len(order) else 0
    return (scores[labels == 1] > max(threshold, 0)).mean()


def recall_at__turned_away_faces_left_out(scores, labels, rate):
    return recall_at(scores[scores > 0], labels[scores > 0], rate)


def recall_at__all_may_pass_means_everybody_is_found(scores, labels, rate):
    negatives = np.sort(scores[labels == 0])[::-1]
    budget = int(rate * len(negatives))
    return (scores[labels == 1] > (negatives[budget] if budget < len(negatives) else -1)).mean()


def recall_at__share_of_what_passes(scores, labels, rate):
    negatives = np.sort(scores[labels == 0])[::-1]
    budget = int(rate * len(negatives))
    passed = scores > (negatives[budget] if budget < len(negatives) else 0)
    return labels[passed].sum() / max(passed.sum(), 1)


def recall_at__rounds_the_budget_up(scores, labels, rate):
    negatives = np.sort(scores[labels == 0])[::-1]
    budget = int(np.ceil(rate * len(negatives)))
    return (scores[labels == 1] > (negatives[budget] if budget < len(negatives) else 0)).mean()
