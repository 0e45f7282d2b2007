"""Wrong answers to lesson 23 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_23 import amdahl, multiply_adds, same_detections


def timed(calls, rounds, clock):
    for call in calls:
        call()
    seconds = np.empty((rounds, len(calls)))
    for r in range(rounds):
        for i, call in enumerate(calls):
            start = clock()
            call()
            seconds[r, i] = clock() - start
    return seconds


def ratios_in_turns__one_after_the_other(calls, rounds, clock):
    seconds = np.empty((rounds, len(calls)))
    for i, call in enumerate(calls):
        call()
        for r in range(rounds):
            start = clock()
            call()
            seconds[r, i] = clock() - start
    return np.median(seconds / seconds[:, :1], axis=0)


def ratios_in_turns__no_warm_up(calls, rounds, clock):
    seconds = np.empty((rounds, len(calls)))
    for r in range(rounds):
        for i, call in enumerate(calls):
            start = clock()
            call()
            seconds[r, i] = clock() - start
    return np.median(seconds / seconds[:, :1], axis=0)


def ratios_in_turns__mean_of_the_ratios(calls, rounds, clock):
    seconds = timed(calls, rounds, clock)
    return (seconds / seconds[:, :1]).mean(axis=0)


def ratios_in_turns__ratio_of_the_medians(calls, rounds, clock):
    median = np.median(timed(calls, rounds, clock), axis=0)
    return median / median[0]


def ratios_in_turns__ratio_of_the_fastest(calls, rounds, clock):
    fastest = timed(calls, rounds, clock).min(axis=0)
    return fastest / fastest[0]


def ratios_in_turns__upside_down(calls, rounds, clock):
    seconds = timed(calls, rounds, clock)
    return np.median(seconds[:, :1] / seconds, axis=0)


def ratios_in_turns__seconds(calls, rounds, clock):
    return np.median(timed(calls, rounds, clock), axis=0)


def ratios_in_turns__upper_of_the_middle_two(calls, rounds, clock):
    seconds = timed(calls, rounds, clock)
    return np.sort(seconds / seconds[:, :1], axis=0)[rounds // 2]


def ratios_in_turns__warms_up_in_every_round(calls, rounds, clock):
    seconds = np.concatenate([timed(calls, 1, clock) for _ in range(rounds)])
    return np.median(seconds / seconds[:, :1], axis=0)


def amdahl__the_part_alone(seconds, part, factor):
    return factor


def amdahl__share_times_factor(seconds, part, factor):
    return factor * seconds[part] / seconds.sum()


def amdahl__time_left(seconds, part, factor):
    return (seconds.sum() - seconds[part] + seconds[part] / factor) / seconds.sum()


def amdahl__counts_the_part_twice(seconds, part, factor):
    return seconds.sum() / (seconds.sum() + seconds[part] / factor)


def amdahl__the_part_is_gone(seconds, part, factor):
    return seconds.sum() / max(seconds.sum() - seconds[part], 1e-9)


def next_step__largest_part(seconds, plans):
    return int(np.argmax([seconds[part] for part, _, _ in plans]))


def next_step__largest_factor(seconds, plans):
    return int(np.argmax([factor for _, factor, _ in plans]))


def next_step__ignores_the_chance(seconds, plans):
    return int(np.argmax([seconds[part] * (1 - 1 / factor) for part, factor, _ in plans]))


def next_step__what_is_left(seconds, plans):
    return int(np.argmax([chance * seconds[part] / factor for part, factor, chance in plans]))


def next_step__factor_times_part(seconds, plans):
    return int(np.argmax([chance * seconds[part] * factor for part, factor, chance in plans]))


def next_step__returns_the_part(seconds, plans):
    return plans[int(np.argmax([chance * seconds[part] * (1 - 1 / factor) for part, factor, chance in plans]))][0]


def next_step__chance_times_speed_up(seconds, plans):
    gains = [chance * amdahl(seconds, part, factor) for part, factor, chance in plans]
    return int(np.argmax(gains))


def next_step__expected_speed_up(seconds, plans):
    gains = [chance * amdahl(seconds, part, factor) + 1 - chance for part, factor, chance in plans]
    return int(np.argmax(gains))


def next_step__last_of_equal_ones(seconds, plans):
    gains = [chance * seconds[part] * (1 - 1 / factor) for part, factor, chance in plans]
    return len(gains) - 1 - int(np.argmax(gains[::-1]))


def same_detections__row_by_row(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    if len(boxes_a) != len(boxes_b):
        return False
    near = np.abs(boxes_a - boxes_b).max(initial=0) <= pixels
    return bool(near and np.abs(scores_a - scores_b).max(initial=0) <= score)


def same_detections__partners_may_be_shared(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    if len(boxes_a) != len(boxes_b):
        return False
    near = (np.abs(boxes_a[:, None] - boxes_b).max(axis=2) <= pixels) & (
        np.abs(scores_a[:, None] - scores_b) <= score
    )
    return bool(near.any(axis=1).all())


def same_detections__forgets_the_scores(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    return same_detections(boxes_a, np.zeros(len(boxes_a)), boxes_b, np.zeros(len(boxes_b)), pixels, score)


def same_detections__sorted_by_score_only(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    a, b = np.argsort(-scores_a), np.argsort(-scores_b)
    return same_detections__row_by_row(boxes_a[a], scores_a[a], boxes_b[b], scores_b[b], pixels, score)


def same_detections__sorted_by_the_boxes(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    a, b = np.lexsort(boxes_a.T[::-1]), np.lexsort(boxes_b.T[::-1])
    return same_detections__row_by_row(boxes_a[a], scores_a[a], boxes_b[b], scores_b[b], pixels, score)


def same_detections__nearest_box_then_its_score(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    free = list(range(len(boxes_b)))
    for box, value in zip(boxes_a, scores_a, strict=True):
        nearest = min(free, key=lambda n: np.abs(boxes_b[n] - box).max(), default=None)
        if nearest is None or np.abs(boxes_b[nearest] - box).max() > pixels or abs(scores_b[nearest] - value) > score:
            return False
        free.remove(nearest)
    return not free


def same_detections__the_first_may_find_less(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    num = min(len(boxes_a), len(boxes_b))
    return same_detections(boxes_a[:num], scores_a[:num], boxes_b[:num], scores_b[:num], pixels, score)


def same_detections__mean_difference(boxes_a, scores_a, boxes_b, scores_b, pixels, score):
    if len(boxes_a) != len(boxes_b):
        return False
    distance = np.abs(boxes_a[:, None] - boxes_b).mean(axis=2)
    partner = distance.argmin(axis=1) if len(boxes_b) else np.zeros(0, int)
    if len(set(partner.tolist())) < len(boxes_a):
        return False
    near = (distance.min(axis=1, initial=np.inf) <= pixels).all()
    return bool(near and (np.abs(scores_a - scores_b[partner]) <= score).all())


def multiply_adds__padded(table, height, width):
    inputs, total = 3, 0
    for channels, kernel, pool in table:
        total += height * width * channels * inputs * kernel**2
        inputs = channels
        if pool == 2:
            height, width = height // 2, width // 2
        elif pool == 3:
            height, width = height // 2, width // 2
    return total


def multiply_adds__forgets_the_inputs(table, height, width):
    total = 0
    for channels, kernel, pool in table:
        height, width = height - kernel + 1, width - kernel + 1
        total += height * width * channels * kernel**2
        if pool:
            height, width = (height - (pool == 3)) // 2, (width - (pool == 3)) // 2
    return total


def multiply_adds__three_inputs_everywhere(table, height, width):
    total = 0
    for channels, kernel, pool in table:
        height, width = height - kernel + 1, width - kernel + 1
        total += height * width * channels * 3 * kernel**2
        if pool:
            height, width = (height - (pool == 3)) // 2 + (pool == 3), (width - (pool == 3)) // 2 + (pool == 3)
    return total


def multiply_adds__pools_before_counting(table, height, width):
    inputs, total = 3, 0
    for channels, kernel, pool in table:
        height, width = height - kernel + 1, width - kernel + 1
        if pool:
            height, width = (height - pool + (pool == 3)) // 2 + 1, (width - pool + (pool == 3)) // 2 + 1
        total += height * width * channels * inputs * kernel**2
        inputs = channels
    return total


def multiply_adds__three_by_three_rounded_down(table, height, width):
    inputs, total = 3, 0
    for channels, kernel, pool in table:
        height, width = height - kernel + 1, width - kernel + 1
        total += height * width * channels * inputs * kernel**2
        inputs = channels
        if pool:
            height, width = (height - pool) // 2 + 1, (width - pool) // 2 + 1
    return total


def multiply_adds__square_inputs(table, height, width):
    return multiply_adds(table, height, height)


def multiply_adds__counts_both_operations(table, height, width):
    return 2 * multiply_adds(table, height, width)
