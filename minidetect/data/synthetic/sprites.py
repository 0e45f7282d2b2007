"""The bank of sprites: things to put into a scene, rendered once, in several sizes, and shared.

Objects, each a class in lessons with several:  human, cat, robot, clock.
Face-like negatives, which a 12-pixel net takes for faces and a 48-pixel net need not:
    scrambled (the parts of a face at each other's places), inverted (upside down), eyeless, blob (skin and
    hair only), socket (a wall socket: two dark dots on a bright plate).

Train and test scenes draw from different banks (`bank` 0 and 777), so that knowing the sprites by heart
does not help.

Units are heads, as in canvas.py; every kind fills the same box, from y 0 to 1.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from minidetect.data.synthetic.canvas import EVERYWHERE, Canvas, Shape
from minidetect.data.synthetic.heads import BLACK, Features, HeadPainter, draw_look

CLASSES = ("human", "cat", "robot", "clock")  # label i + 1
HARD_NEGATIVES = ("scrambled", "inverted", "eyeless", "blob", "socket")
KINDS = CLASSES + HARD_NEGATIVES

LEFT, TOP, RIGHT, BOTTOM = -0.62, -0.28, 0.62, 1.28  # what a sprite's canvas shows, in heads
PIXELS_PER_HEAD = 96
NUM_LEVELS = 4  # 96, 48, 24 and 12 pixels a head
SPRITES_PER_KIND = 48


@dataclass(frozen=True)
class Sprite:
    """levels: premultiplied (H, W, 4) float32, each half the size of the one before.

    half: half the width of the head box, whose height is 1; landmarks: (5, 2) in heads, NaN for a kind
    that has none; yaw: radians, 0 for all but heads.
    """

    kind: str
    levels: tuple[np.ndarray, ...]
    half: float
    landmarks: np.ndarray
    yaw: float

    def level_for(self, pixels: float) -> int:
        """The smallest level that is not enlarged by more than a quarter to make a head of `pixels`."""
        level = 0
        while level + 1 < len(self.levels) and PIXELS_PER_HEAD / 2 ** (level + 1) >= 0.8 * pixels:
            level += 1
        return level


@lru_cache(maxsize=64)
def sprite_bank(
    kind: str, bank: int = 0, max_yaw: float = 0.6, slide: float = 0.35, lighting: float = 1.0
) -> tuple[Sprite, ...]:
    """The sprites of one kind; the same arguments give the same sprites, and they are drawn only once.

    max_yaw, slide, lighting: see `heads.draw_look`. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"no sprite of kind {kind!r}; there are {', '.join(KINDS)}")
    rng = np.random.default_rng([bank, zlib.crc32(kind.encode())])  # hash() differs between runs
    return tuple(_draw(kind, rng, max_yaw, slide, lighting) for _ in range(SPRITES_PER_KIND))


def _draw(kind: str, rng: np.random.Generator, max_yaw: float, slide: float, lighting: float) -> Sprite:
    canvas = Canvas(LEFT, TOP, RIGHT, BOTTOM, PIXELS_PER_HEAD)
    points, half, yaw = np.full((5, 2), np.nan), 0.45, 0.0
    if kind == "cat":
        _cat(canvas, rng)
    elif kind == "robot":
        _robot(canvas, rng)
    elif kind == "clock":
        _clock(canvas, rng)
    elif kind == "socket":
        _socket(canvas, rng)
    else:
        look = draw_look(rng, max_yaw, slide, lighting)
        painter = HeadPainter(canvas, look, _features(kind, rng))
        painter.paint()
        half, yaw = look.half, look.yaw
        if kind == "human":
            points = painter.landmarks()
    picture = canvas.premultiplied()
    if kind == "inverted":  # the canvas reaches as far above the head as below it
        picture = picture[::-1]
    return Sprite(kind, _mips(picture), half, points, yaw)


def _features(kind: str, rng: np.random.Generator) -> Features:
    if kind == "eyeless":
        return Features(brows=None, eyes=None)
    if kind == "blob":
        return Features(brows=None, eyes=None, nose=None, mouth=None)
    if kind == "scrambled":  # every order but the right one
        orders = [(0.45, 0.78, 0.36), (0.62, 0.40, 0.80), (0.78, 0.62, 0.42), (0.80, 0.42, 0.62)]
        eyes, nose, mouth = orders[rng.integers(len(orders))]
        return Features(brows=eyes - 0.09, eyes=eyes, nose=nose, mouth=mouth)
    return Features()


def _mips(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    """The picture and its halves by 2 x 2 averages; odd edges are padded with nothing."""
    levels = [np.ascontiguousarray(picture, np.float32)]
    while len(levels) < NUM_LEVELS:
        fine = levels[-1]
        fine = np.pad(fine, ((0, fine.shape[0] % 2), (0, fine.shape[1] % 2), (0, 0)))
        h, w = fine.shape[0] // 2, fine.shape[1] // 2
        levels.append(fine.reshape(h, 2, w, 2, 4).mean(axis=(1, 3)))  # (2h, 2w, 4) -> (h, w, 4)
    return tuple(levels)


def _ball_light(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """(H, W) a soft light from a random side."""
    return 0.85 + rng.uniform(-0.35, 0.35) * canvas.x + rng.uniform(-0.3, 0.05) * (canvas.y - 0.5)


def _lit(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.rgb *= _ball_light(canvas, rng)[..., None]


def _box(canvas: Canvas, cx: float, cy: float, half_x: float, half_y: float, power: float = 6.0) -> Shape:
    """A rounded rectangle (a superellipse)."""
    radius = np.abs((canvas.x - cx) / half_x) ** power + np.abs((canvas.y - cy) / half_y) ** power
    return Shape(np.clip((1 - radius) * min(half_x, half_y) * canvas.scale / 3 + 0.5, 0, 1), EVERYWHERE)


def _cat(canvas: Canvas, rng: np.random.Generator) -> None:
    furs = np.array([[90, 84, 80], [196, 140, 82], [216, 206, 194], [52, 48, 48], [150, 120, 96]])
    fur = furs[rng.integers(len(furs))] + rng.normal(0, 8, 3)
    for side in (-1, 1):
        for size, colour in ((1.0, fur * 0.85), (0.6, np.array([206, 150, 146]))):
            down = (canvas.y - 0.42) / (0.40 * size) + 1  # 0 at the ear's tip, 1 at its root
            ear = 0.17 * size * down - np.abs(canvas.x - side * 0.30)
            mask = np.clip(ear * canvas.scale + 0.5, 0, 1) * (down > 0) * (canvas.y < 0.44)
            canvas.cover(Shape(mask), colour)
    canvas.cover(canvas.ellipse(0, 0.62, 0.45, 0.38), fur)
    stripes = canvas.ellipse(0, 0.62, 0.45, 0.38)
    wave = 0.5 + 0.5 * np.sin((canvas.x[:, stripes.where[1]] ** 2 * 14 + canvas.y[stripes.where[0]]) * 34)
    canvas.tint(Shape(stripes.mask * wave * rng.uniform(0, 0.45), stripes.where), fur * 0.55)
    canvas.cover(canvas.ellipse(0, 0.80, 0.20, 0.15, soft=0.06), fur * 0.5 + 120)
    iris = np.array([[176, 186, 70], [206, 160, 50], [110, 170, 190]])[rng.integers(3)]
    for side in (-1, 1):
        canvas.cover(canvas.ellipse(side * 0.19, 0.56, 0.10, 0.085), iris)
        canvas.cover(canvas.ellipse(side * 0.19, 0.56, 0.028, 0.082), BLACK)
        canvas.cover(canvas.stroke(side * 0.06, 0.80, 0.065, 0.045, 0.008), BLACK * 2)
        for k in (-1, 0, 1):
            whisker = canvas.stroke(side * 0.34, 0.77 + 0.04 * k, 0.22, 0.01, 0.005, tilt=side * 0.04 * k)
            canvas.cover(whisker, np.array([236, 236, 232]))
    canvas.cover(canvas.ellipse(0, 0.73, 0.05, 0.032), np.array([196, 108, 112]))
    _lit(canvas, rng)


def _robot(canvas: Canvas, rng: np.random.Generator) -> None:
    metal = rng.uniform(110, 200) + rng.normal(0, 14, 3)
    canvas.cover(_box(canvas, 0, 0.10, 0.02, 0.12, power=8), metal * 0.6)
    canvas.cover(canvas.ellipse(0, 0.03, 0.05, 0.05), np.array([220, 60, 50]))
    for side in (-1, 1):
        canvas.cover(_box(canvas, side * 0.42, 0.58, 0.06, 0.12), metal * 0.55)
    canvas.cover(_box(canvas, 0, 0.58, 0.40, 0.41, power=rng.uniform(5, 10)), metal)
    glow = np.array([[70, 220, 240], [250, 210, 60], [250, 80, 60]])[rng.integers(3)]
    for side in (-1, 1):
        canvas.cover(_box(canvas, side * 0.18, 0.46, 0.12, 0.10), metal * 0.35)
        canvas.cover(canvas.ellipse(side * 0.18, 0.46, 0.07, 0.065), glow)
        canvas.cover(canvas.ellipse(side * 0.34, 0.23, 0.02, 0.02), metal * 0.5)
        canvas.cover(canvas.ellipse(side * 0.34, 0.93, 0.02, 0.02), metal * 0.5)
    canvas.cover(_box(canvas, 0, 0.79, 0.25, 0.08), metal * 0.35)
    for k in range(-2, 3):
        canvas.cover(_box(canvas, 0.09 * k, 0.79, 0.025, 0.06), metal * 1.15)
    _lit(canvas, rng)


def _clock(canvas: Canvas, rng: np.random.Generator) -> None:
    rim, dial = rng.uniform(20, 190, 3), rng.uniform(205, 245) + rng.normal(0, 5, 3)
    canvas.cover(canvas.ellipse(0, 0.5, 0.46, 0.50), rim)
    canvas.cover(canvas.ellipse(0, 0.5, 0.39, 0.43), dial)
    for hour in range(12):
        angle = hour * np.pi / 6
        size = 0.028 if hour % 3 == 0 else 0.016
        canvas.cover(canvas.ellipse(0.33 * np.sin(angle), 0.5 - 0.36 * np.cos(angle), size, size), BLACK)
    for length, thick in ((0.30, 0.016), (0.20, 0.024)):
        angle = rng.uniform(0, 2 * np.pi)
        along = canvas.x * np.sin(angle) - (canvas.y - 0.5) * np.cos(angle)
        aside = np.abs(canvas.x * np.cos(angle) + (canvas.y - 0.5) * np.sin(angle))
        hand = np.clip((thick - aside) * canvas.scale + 0.5, 0, 1) * (along > -0.05) * (along < length)
        canvas.cover(Shape(hand), BLACK)
    canvas.cover(canvas.ellipse(0, 0.5, 0.03, 0.03), rim)
    _lit(canvas, rng)


def _socket(canvas: Canvas, rng: np.random.Generator) -> None:
    plate = np.array([236, 228, 214]) * rng.uniform(0.75, 1.0) + rng.normal(0, 6, 3)
    canvas.cover(_box(canvas, 0, 0.5, 0.45, 0.49, power=rng.uniform(4, 9)), plate)
    canvas.shade(canvas.ellipse(0, 0.5, 0.36, 0.38), 0.86)
    canvas.cover(canvas.ellipse(0, 0.51, 0.33, 0.35), plate * 0.95)
    height = rng.uniform(0.42, 0.52)
    for side in (-1, 1):
        canvas.cover(canvas.ellipse(side * 0.15, height, 0.05, 0.055), BLACK * 1.5)
    if rng.random() < 0.6:
        canvas.cover(canvas.ellipse(0, 0.72, 0.04, 0.05), BLACK * 2)
    _lit(canvas, rng)
