"""Wrong answers to lesson 04 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_04 import batch_norm, batch_norm_backward, cross_entropy, cross_entropy_gradient


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy__overflows(logits, labels):
    with np.errstate(all="ignore"):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return -np.log(p[np.arange(len(labels)), labels]).mean()


def cross_entropy__logarithm_of_the_softmax(logits, labels):
    with np.errstate(all="ignore"):
        return -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()


def cross_entropy__a_small_number_in_the_logarithm(logits, labels):
    return -np.log(softmax(logits)[np.arange(len(labels)), labels] + 1e-12).mean()


def cross_entropy__one_maximum_for_all_rows(logits, labels):
    with np.errstate(all="ignore"):
        shifted = logits - logits.max()
        return (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean()


def cross_entropy__sum_for_mean(logits, labels):
    return cross_entropy(logits, labels) * len(labels)


def cross_entropy__sign(logits, labels):
    return -cross_entropy(logits, labels)


def cross_entropy__every_label_for_every_row(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted[:, labels]).mean()


def cross_entropy__base_2(logits, labels):
    return cross_entropy(logits, labels) / np.log(2)


def cross_entropy__forgets_to_give_the_maximum_back(logits, labels):
    top = logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(logits - top).sum(axis=1)) - logits[np.arange(len(labels)), labels]).mean()


def cross_entropy_gradient__not_divided_by_n(logits, labels):
    return cross_entropy_gradient(logits, labels) * len(labels)


def cross_entropy_gradient__sign(logits, labels):
    return -cross_entropy_gradient(logits, labels)


def cross_entropy_gradient__every_label_in_every_row(logits, labels):
    p = softmax(logits)
    p[:, labels] -= 1
    return p / len(labels)


def cross_entropy_gradient__label_columns_only(logits, labels):
    out = np.zeros_like(logits)
    rows = np.arange(len(labels))
    out[rows, labels] = cross_entropy_gradient(logits, labels)[rows, labels]
    return out


def cross_entropy_gradient__overflows(logits, labels):
    with np.errstate(all="ignore"):
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)


def cross_entropy_gradient__softmax_over_the_rows(logits, labels):
    p = softmax(logits.T).T
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)


def cross_entropy_gradient__one_maximum_for_all_rows(logits, labels):
    with np.errstate(all="ignore"):
        p = np.exp(logits - logits.max())
        p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)


def cross_entropy_gradient__writes_into_the_logits(logits, labels):
    logits[...] = softmax(logits)
    logits[np.arange(len(labels)), labels] -= 1
    return logits / len(labels)


def sgd_step__rate_inside_the_velocity(p, g, v, lr, momentum, weight_decay):
    v = momentum * v + lr * (g + weight_decay * p)
    return p - v, v


def sgd_step__averages_the_gradient(p, g, v, lr, momentum, weight_decay):
    v = momentum * v + (1 - momentum) * (g + weight_decay * p)
    return p - lr * v, v


def sgd_step__moves_by_the_old_velocity(p, g, v, lr, momentum, weight_decay):
    return p - lr * v, momentum * v + g + weight_decay * p


def sgd_step__looks_ahead(p, g, v, lr, momentum, weight_decay):
    g = g + weight_decay * p
    v = momentum * v + g
    return p - lr * (g + momentum * v), v


def sgd_step__decay_beside_the_velocity(p, g, v, lr, momentum, weight_decay):
    v = momentum * v + g
    return p - lr * v - lr * weight_decay * p, v


def sgd_step__grows_the_weights(p, g, v, lr, momentum, weight_decay):
    v = momentum * v + g - weight_decay * p
    return p - lr * v, v


def sgd_step__climbs(p, g, v, lr, momentum, weight_decay):
    v = momentum * v + g + weight_decay * p
    return p + lr * v, v


def sgd_step__in_place(p, g, v, lr, momentum, weight_decay):
    v *= momentum
    v += g + weight_decay * p
    p -= lr * v
    return p, v


def batch_norm__stores_the_biased_variance(x, gamma, beta, running_mean, running_var):
    y, mean, _ = batch_norm(x, gamma, beta, running_mean, running_var)
    return y, mean, 0.9 * running_var + 0.1 * x.var(axis=(0, 2, 3))


def batch_norm__divides_by_the_unbiased_deviation(x, gamma, beta, running_mean, running_var):
    _, mean, var = batch_norm(x, gamma, beta, running_mean, running_var)
    std = np.sqrt(x.var(axis=(0, 2, 3), ddof=1, keepdims=True) + 1e-5)
    xhat = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / std
    return gamma[:, None, None] * xhat + beta[:, None, None], mean, var


def batch_norm__eps_beside_the_root(x, gamma, beta, running_mean, running_var):
    _, mean, var = batch_norm(x, gamma, beta, running_mean, running_var)
    xhat = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / (x.std(axis=(0, 2, 3), keepdims=True) + 1e-5)
    return gamma[:, None, None] * xhat + beta[:, None, None], mean, var


def batch_norm__momentum_the_other_way(x, gamma, beta, running_mean, running_var):
    return batch_norm(x, gamma, beta, running_mean, running_var, momentum=0.9)


def batch_norm__each_pixel_by_itself(x, gamma, beta, running_mean, running_var):
    _, mean, var = batch_norm(x, gamma, beta, running_mean, running_var)
    xhat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    return gamma[:, None, None] * xhat + beta[:, None, None], mean, var


def batch_norm__all_channels_together(x, gamma, beta, running_mean, running_var):
    _, mean, var = batch_norm(x, gamma, beta, running_mean, running_var)
    xhat = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return gamma[:, None, None] * xhat + beta[:, None, None], mean, var


def batch_norm__by_the_running_averages(x, gamma, beta, running_mean, running_var):
    _, mean, var = batch_norm(x, gamma, beta, running_mean, running_var)
    xhat = (x - running_mean[:, None, None]) / np.sqrt(running_var + 1e-5)[:, None, None]
    return gamma[:, None, None] * xhat + beta[:, None, None], mean, var


def batch_norm__divides_by_the_variance(x, gamma, beta, running_mean, running_var):
    _, mean, var = batch_norm(x, gamma, beta, running_mean, running_var)
    xhat = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / (x.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
    return gamma[:, None, None] * xhat + beta[:, None, None], mean, var


def batch_norm_backward__statistics_as_constants(gy, x, gamma):
    _, ggamma, gbeta = batch_norm_backward(gy, x, gamma)
    return gamma[:, None, None] / np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + 1e-5) * gy, ggamma, gbeta


def batch_norm_backward__the_variance_as_a_constant(gy, x, gamma):
    _, ggamma, gbeta = batch_norm_backward(gy, x, gamma)
    std = np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
    return gamma[:, None, None] / std * (gy - gy.mean(axis=(0, 2, 3), keepdims=True)), ggamma, gbeta


def batch_norm_backward__forgets_gamma(gy, x, gamma):
    _, ggamma, gbeta = batch_norm_backward(gy, x, gamma)
    return batch_norm_backward(gy, x, np.ones_like(gamma))[0], ggamma, gbeta


def batch_norm_backward__x_for_xhat(gy, x, gamma):
    gx, _, gbeta = batch_norm_backward(gy, x, gamma)
    return gx, (gy * x).sum(axis=(0, 2, 3)), gbeta


def batch_norm_backward__means_for_sums(gy, x, gamma):
    gx, ggamma, gbeta = batch_norm_backward(gy, x, gamma)
    count = x.size // x.shape[1]
    return gx, ggamma / count, gbeta / count


def batch_norm_backward__sums_over_samples_only(gy, x, gamma):
    gx, ggamma, _ = batch_norm_backward(gy, x, gamma)
    return gx, ggamma, gy.sum(axis=0)


def prior_shift__only_the_faces(p, trained, real):
    return p * real / trained


def prior_shift__odds_without_the_others(p, trained, real):
    odds = p / np.maximum(1 - p, 1e-12) * real / trained
    return odds / (1 + odds)


def prior_shift__the_other_way_round(p, trained, real):
    face, other = p * trained / real, (1 - p) * (1 - trained) / (1 - real)
    return face / (face + other)


def prior_shift__adds_the_difference(p, trained, real):
    return np.clip(p + real - trained, 0, 1)


def prior_shift__forgets_what_it_was_trained_on(p, trained, real):
    return p * real / (p * real + (1 - p) * (1 - real))
