"""Where a head goes in a scene: the matrix, the box around it, and pasting a sprite by it.

Units are heads (y 0 the top of a skull, 1 its chin, x 0 its middle) and pixels of the scene.
"""

from __future__ import annotations

import numpy as np

from minidetect.data.synthetic.canvas import paste
from minidetect.data.synthetic.sprites import LEFT, PIXELS_PER_HEAD, TOP, Sprite


def head_matrix(centre: np.ndarray, height: float, tilt: float) -> np.ndarray:
    """(2, 3) heads -> pixels, for a head of `height` pixels, turned by `tilt`, its middle at `centre`."""
    c, s = height * np.cos(tilt), height * np.sin(tilt)
    return np.array([[c, -s, centre[0] + 0.5 * s], [s, c, centre[1] - 0.5 * c]])  # middle: (0, 0.5) heads


def head_box(half: float, centre: np.ndarray, height: float, tilt: float) -> np.ndarray:
    """(4,) the box around a tilted ellipse with the head's half width `half` (in heads) and height."""
    # half axes a, b reach sqrt((a cos)^2 + (b sin)^2) to the side
    c, s = height * np.cos(tilt), height * np.sin(tilt)
    reach = np.hypot([half * c, half * s], [0.5 * s, 0.5 * c])
    return np.concatenate([centre - reach, centre + reach])


def move_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def paste_at(
    scene: np.ndarray,
    picture: np.ndarray,
    matrix: np.ndarray,
    corner: tuple[float, float],
    pixels_per_head: float,
    gain: float,
) -> None:
    """Paste a premultiplied picture whose top left corner stands at `corner`, in heads, by a head matrix."""
    step = 1 / pixels_per_head
    from_pixels = np.array([[step, 0, corner[0]], [0, step, corner[1]], [0, 0, 1]])
    paste(scene, picture, matrix @ from_pixels, gain)


def paste_sprite(scene: np.ndarray, sprite: Sprite, level: int, matrix: np.ndarray, gain: float) -> None:
    """Paste one level of a sprite; level 0 is the finest."""
    paste_at(scene, sprite.levels[level], matrix, (LEFT, TOP), PIXELS_PER_HEAD / 2**level, gain)


def shared_area(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over the smaller of two boxes."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return float(w * h / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])))
