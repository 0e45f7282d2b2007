"""Wrong answers to lesson 00 that people really give; `exercise__mistake`. Each must be rejected by its check."""

from __future__ import annotations

import numpy as np
from solutions.lesson_00 import face_square, flip, to_planes


def box_size__pixels_counted_with_plus_one(box):
    return box[2] - box[0] + 1, box[3] - box[1] + 1


def box_size__height_first(box):
    return box[3] - box[1], box[2] - box[0]


def box_size__reads_the_box_as_x_y_w_h(box):
    return box[2], box[3]


def box_size__reads_the_box_as_x1_x2_y1_y2(box):
    return box[1] - box[0], box[3] - box[2]


def box_size__whole_pixels(box):
    return int(box[2]) - int(box[0]), int(box[3]) - int(box[1])


def to_planes__reshapes(image, mean):
    return ((image - mean) / 128).reshape(3, *image.shape[:2])


def to_planes__swaps_height_and_width_too(image, mean):
    return ((image - mean) / 128).T


def to_planes__stays_in_uint8(image, mean):
    return ((image - mean.astype(np.uint8)) / 128).transpose(2, 0, 1)


def to_planes__forgets_the_mean(image, mean):
    return (image / 128).transpose(2, 0, 1)


def to_planes__divides_first(image, mean):
    return (image / 128 - mean).transpose(2, 0, 1)


def to_planes__divides_by_255(image, mean):
    return ((image - mean) / 255).transpose(2, 0, 1)


def to_planes__blue_first(image, mean):
    return to_planes(image, mean)[::-1]


def to_planes__cuts_the_mean_to_whole_numbers(image, mean):
    return ((image.astype(int) - mean.astype(int)) / 128).transpose(2, 0, 1)


def to_planes__mean_over_the_columns(image, mean):
    planes = image.transpose(2, 0, 1).astype(float)
    if image.shape[1] == 3:  # elsewhere NumPy says that the shapes do not agree
        return (planes - mean) / 128
    return (planes - mean[:, None, None]) / 128


def face_square__centre_of_all_points(points):
    square = face_square(points)
    return square + np.tile(np.nanmean(points, axis=0) - points[2], 2)


def face_square__mean_distance(points):
    distance = np.sqrt(((np.delete(points, 2, axis=0) - points[2]) ** 2).sum(axis=1))
    half = 2 * np.nanmean(distance)
    return np.concatenate([points[2] - half, points[2] + half])


def face_square__counts_the_nose(points):
    half = 2 * np.sqrt(np.nanmean(((points - points[2]) ** 2).sum(axis=1)))
    return np.concatenate([points[2] - half, points[2] + half])


def face_square__mean_over_coordinates(points):
    half = 2 * np.sqrt(np.nanmean((np.delete(points, 2, axis=0) - points[2]) ** 2))
    return np.concatenate([points[2] - half, points[2] + half])


def face_square__stays_in_the_picture(points):
    return np.maximum(face_square(points), 0)


def face_square__half_the_side(points):
    square = face_square(points)
    return (square + np.tile(points[2], 2)) / 2


def face_square__missing_points_spoil_it(points):
    half = 2 * np.sqrt(((np.delete(points, 2, axis=0) - points[2]) ** 2).sum(axis=1).mean())
    return np.concatenate([points[2] - half, points[2] + half])


def face_square__missing_points_count_as_zero(points):
    squared = np.nansum((np.delete(points, 2, axis=0) - points[2]) ** 2, axis=1)
    half = 2 * np.sqrt(squared.mean())
    return np.concatenate([points[2] - half, points[2] + half])


def face_square__width_and_height_on_their_own(points):
    half = 2 * np.sqrt(np.nanmean((np.delete(points, 2, axis=0) - points[2]) ** 2, axis=0) * 2)
    return np.concatenate([points[2] - half, points[2] + half])


def flip__forgets_that_left_becomes_right(image, boxes, landmarks):
    mirrored, flipped, points = flip(image, boxes, landmarks)
    return mirrored, flipped, points[:, [1, 0, 2, 4, 3]]


def flip__swaps_the_eyes_only(image, boxes, landmarks):
    mirrored, flipped, points = flip(image, boxes, landmarks)
    return mirrored, flipped, points[:, [0, 1, 2, 4, 3]]


def flip__boxes_inside_out(image, boxes, landmarks):
    mirrored, flipped, points = flip(image, boxes, landmarks)
    return mirrored, flipped[:, [2, 1, 0, 3]], points


def flip__width_less_one(image, boxes, landmarks):
    mirrored, flipped, points = flip(image, boxes, landmarks)
    return mirrored, flipped - [1, 0, 1, 0], points - [1, 0]


def flip__upside_down(image, boxes, landmarks):
    _, flipped, points = flip(image, boxes, landmarks)
    return image[::-1], flipped, points


def flip__uses_the_height(image, boxes, landmarks):
    _, flipped, points = flip(image.transpose(1, 0, 2), boxes, landmarks)
    return image[:, ::-1], flipped, points


def flip__forgets_the_image(image, boxes, landmarks):
    return image, *flip(image, boxes, landmarks)[1:]


def flip__works_in_place(image, boxes, landmarks):
    mirrored, flipped, points = flip(image, boxes, landmarks)
    boxes[:] = flipped
    return mirrored, boxes, points
