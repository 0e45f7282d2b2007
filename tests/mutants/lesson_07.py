"""Wrong answers to lesson 07 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_07 import average_precision, fddb_scores, judge, landmark_error, recall_at

from minidetect.kernels.iou import intersection_over_first, iou_matrix

NO_BOXES = np.zeros((0, 4))


def judge__does_not_sort(boxes, scores, gt, ignore, threshold):
    return judge(boxes, -np.arange(len(boxes)), gt, ignore, threshold)


def judge__answers_in_sorted_order(boxes, scores, gt, ignore, threshold):
    verdicts = judge(boxes, scores, gt, ignore, threshold)
    return [verdicts[i] for i in np.argsort(-scores, kind="stable")]


def judge__reversed_sort_turns_ties(boxes, scores, gt, ignore, threshold):
    order = np.argsort(scores, kind="stable")[::-1]
    verdicts = np.zeros(len(boxes), int)
    verdicts[order] = judge(boxes[order], -np.arange(len(boxes)), gt, ignore, threshold)
    return verdicts


def judge__a_truth_may_be_found_twice(boxes, scores, gt, ignore, threshold):
    if len(gt) == 0:
        return judge(boxes, scores, gt, ignore, threshold)
    hit = (iou_matrix(boxes, gt) >= threshold).any(axis=1)
    return np.where(hit, 1, judge(boxes, scores, gt, ignore, threshold))


def judge__more_than_the_threshold(boxes, scores, gt, ignore, threshold):
    return judge(boxes, scores, gt, ignore, threshold + 1e-9)


def judge__takes_any_free_truth(boxes, scores, gt, ignore, threshold):
    verdicts = np.array(judge(boxes, scores, NO_BOXES, ignore, threshold), int)
    free = np.ones(len(gt), bool)
    for i in np.argsort(-scores, kind="stable"):
        overlaps = np.where(free, iou_matrix(boxes[i : i + 1], gt)[0], 0)
        if len(gt) and overlaps.max() >= threshold:
            free[overlaps.argmax()] = False
            verdicts[i] = 1
    return verdicts


def judge__no_ignore_regions(boxes, scores, gt, ignore, threshold):
    return judge(boxes, scores, gt, NO_BOXES, threshold)


def judge__ignores_first(boxes, scores, gt, ignore, threshold):
    excused = np.array(judge(boxes, scores, NO_BOXES, ignore, threshold), int) == -1
    return np.where(excused, -1, judge(boxes, scores, gt, ignore, threshold))


def judge__ignore_by_iou(boxes, scores, gt, ignore, threshold):
    verdicts = np.array(judge(boxes, scores, gt, NO_BOXES, threshold), int)
    excused = (iou_matrix(boxes, ignore) >= threshold).any(axis=1)
    return np.where((verdicts == 0) & excused, -1, verdicts)


def judge__the_threshold_is_a_half(boxes, scores, gt, ignore, threshold):
    return judge(boxes, scores, gt, ignore, 0.5)


def judge__half_in_an_ignore_region_whatever_the_threshold(boxes, scores, gt, ignore, threshold):
    verdicts = np.array(judge(boxes, scores, gt, NO_BOXES, threshold), int)
    excused = np.array(judge(boxes, scores, NO_BOXES, ignore, 0.5), int) == -1
    return np.where((verdicts == 0) & excused, -1, verdicts)


def judge__adds_up_the_ignore_regions(boxes, scores, gt, ignore, threshold):
    verdicts = np.array(judge(boxes, scores, gt, NO_BOXES, threshold), int)
    excused = intersection_over_first(boxes, ignore).sum(axis=1) >= threshold
    return np.where((verdicts == 0) & excused, -1, verdicts)


def judge__a_poor_overlap_takes_the_truth(boxes, scores, gt, ignore, threshold):
    if len(gt) == 0:
        return judge(boxes, scores, gt, ignore, threshold)
    first_come = np.array(judge(boxes, scores, gt, NO_BOXES, 1e-9), int) == 1
    alone = judge(boxes, scores, gt[:0], ignore, threshold)
    return np.where(first_come, judge(boxes, scores, gt, ignore, threshold), alone)


def judge__a_second_detection_is_always_wrong(boxes, scores, gt, ignore, threshold):
    if len(gt) == 0:
        return judge(boxes, scores, gt, ignore, threshold)
    verdicts = np.array(judge(boxes, scores, gt, ignore, threshold), int)
    on_a_truth = (iou_matrix(boxes, gt) >= threshold).any(axis=1)
    return np.where(on_a_truth & (verdicts == -1), 0, verdicts)


def judge__last_of_equal_overlaps(boxes, scores, gt, ignore, threshold):
    return judge(boxes, scores, gt[::-1], ignore, threshold)


def judge__leaves_negative_scores_out(boxes, scores, gt, ignore, threshold):
    verdicts = np.zeros(len(boxes), int)
    said = scores > 0
    verdicts[said] = judge(boxes[said], scores[said], gt, ignore, threshold)
    return verdicts


def steps(scores, is_right, num_gt):
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_right[order])
    return right / num_gt, right / np.arange(1, len(scores) + 1)


def area(recall, precision):
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0) * best).sum())


def average_precision__ties_one_by_one(scores, is_right, num_gt):
    return area(*steps(scores, is_right, num_gt))


def average_precision__does_not_sort(scores, is_right, num_gt):
    return average_precision(-np.arange(len(scores)), is_right, num_gt)


def average_precision__saw_teeth(scores, is_right, num_gt):
    recall, precision = steps(scores, is_right, num_gt)
    return float((np.diff(recall, prepend=0) * precision).sum())


def average_precision__over_what_was_found(scores, is_right, num_gt):
    return average_precision(scores, is_right, max(int(is_right.sum()), 1))


def average_precision__eleven_points(scores, is_right, num_gt):
    recall, precision = steps(scores, is_right, num_gt)
    return float(np.mean([precision[recall >= r - 1e-9].max(initial=0) for r in np.linspace(0, 1, 11)]))


def average_precision__best_so_far(scores, is_right, num_gt):
    recall, precision = steps(scores, is_right, num_gt)
    return float((np.diff(recall, prepend=0) * np.maximum.accumulate(precision)).sum())


def average_precision__trapezoids(scores, is_right, num_gt):
    recall, precision = steps(scores, is_right, num_gt)
    before = np.append(1.0, precision[:-1])
    return float((np.diff(recall, prepend=0) * (before + precision) / 2).sum())


def average_precision__only_positive_scores(scores, is_right, num_gt):
    return average_precision(scores[scores > 0], is_right[scores > 0], num_gt)


def average_precision__thresholds_of_two_places(scores, is_right, num_gt):
    return average_precision(scores.round(2), is_right, num_gt)


def recall_at__only_positive_scores(scores, is_right, num_gt, num_wrong):
    return recall_at(scores[scores > 0], is_right[scores > 0], num_gt, num_wrong)


def recall_at__ties_one_by_one(scores, is_right, num_gt, num_wrong):
    order = np.argsort(-scores, kind="stable")
    right = is_right[order]
    allowed = np.cumsum(~right) <= num_wrong
    return right[allowed].sum() / num_gt


def recall_at__right_ones_first_in_a_tie(scores, is_right, num_gt, num_wrong):
    order = np.lexsort([~is_right, -scores])
    right = is_right[order]
    return right[np.cumsum(~right) <= num_wrong].sum() / num_gt


def recall_at__does_not_sort(scores, is_right, num_gt, num_wrong):
    return recall_at(-np.arange(len(scores)), is_right, num_gt, num_wrong)


def recall_at__fewer_than_allowed(scores, is_right, num_gt, num_wrong):
    return recall_at(scores, is_right, num_gt, num_wrong - 1)


def recall_at__over_what_was_found(scores, is_right, num_gt, num_wrong):
    return recall_at(scores, is_right, max(int(is_right.sum()), 1), num_wrong)


def recall_at__of_the_best_few(scores, is_right, num_gt, num_wrong):
    order = np.argsort(-scores, kind="stable")
    return is_right[order][:num_wrong].sum() / num_gt


def greedy(overlaps, rows):
    overlaps, found = overlaps.copy(), []
    for i in rows:
        best = overlaps[i].argmax()
        found.append(overlaps[i, best])
        overlaps[:, best] = 0
    return np.array(found)


def fddb_scores__first_come_first_served(overlaps):
    found = greedy(overlaps, range(len(overlaps)))
    return (found > 0.5).sum(), found.sum()


def fddb_scores__largest_overlap_first(overlaps):
    found = greedy(overlaps, np.argsort(-overlaps.max(axis=1)))
    return (found > 0.5).sum(), found.sum()


def fddb_scores__each_for_itself(overlaps):
    best = overlaps.max(axis=0)
    return (best > 0.5).sum(), best.sum()


def fddb_scores__at_the_threshold(overlaps):
    pairs, total = fddb_scores(overlaps + 1e-9)
    return pairs, total


def fddb_scores__sums_only_the_matched(overlaps):
    pairs, _ = fddb_scores(overlaps)
    return pairs, fddb_scores(np.where(overlaps > 0.5, overlaps, 0))[1]


def fddb_scores__most_pairs_first(overlaps):
    pairs, total = fddb_scores(overlaps + 10.0 * (overlaps > 0.5))
    return pairs, total % 10


def fddb_scores__mean_for_the_sum(overlaps):
    pairs, total = fddb_scores(overlaps)
    return pairs, total / overlaps.shape[1]


def landmark_error__missing_points_spoil_it(predicted, truth, size):
    return np.sqrt(((predicted - truth) ** 2).sum(axis=2)).mean(axis=1) / size


def landmark_error__missing_points_count_as_right(predicted, truth, size):
    return np.nan_to_num(np.sqrt(((predicted - truth) ** 2).sum(axis=2))).mean(axis=1) / size


def landmark_error__square_not_rooted(predicted, truth, size):
    return np.nanmean(((predicted - truth) ** 2).sum(axis=2), axis=1) / size


def landmark_error__root_of_the_mean_square(predicted, truth, size):
    return np.sqrt(np.nanmean(((predicted - truth) ** 2).sum(axis=2), axis=1)) / size


def landmark_error__one_size_for_all(predicted, truth, size):
    return landmark_error(predicted, truth, size) * size / size.mean()


def landmark_error__mean_over_all_faces(predicted, truth, size):
    return landmark_error(predicted, truth, size).mean()


def landmark_error__in_pixels(predicted, truth, size):
    return landmark_error(predicted, truth, np.ones_like(size))
