"""Drawn scenes with objects of several classes, their boxes and their masks: what R-CNN and its successors learn here.

    OBJECTS4    one to four humans, cats, robots, clocks, of sizes and widths that several anchors are needed for
    SEGMENT     fewer and larger ones that cover each other in part, for regions with a mask

Scene `index` of seed `seed` is the same on every call. Unlike the faces of scenes.py nothing here is an ignore region,
a bar or a hard negative: the question is which object, and where exactly.

Letters: G objects of a scene, H W its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidetect.data.synthetic.camera import draw_background, sensor
from minidetect.data.synthetic.placing import head_box, head_matrix, paste_at, paste_sprite, shared_area
from minidetect.data.synthetic.sprites import CLASSES, LEFT, PIXELS_PER_HEAD, TOP, Sprite, sprite_bank
from minidetect.detection.structures import Target

TRIES = 20  # places that are tried for an object before it is given up


@dataclass(frozen=True)
class ObjectSettings:
    """What a scene is made of; `draw_objects(OBJECTS4, size=(96, 96))` changes one thing.

    size: (height, width). num_objects: fewest and most. side: smallest and largest height in pixels, log-uniform.
    stretch: smallest and largest factor by which an object is made wider, log-uniform. overlap: how much of the smaller
        of two boxes may be covered. clutter: mean number of shapes in the background. noise: of the sensor, smallest
        and largest standard deviation. classes: kinds of sprites; label k + 1 is classes[k].
    bank: which sprites; use another one for testing.
    """

    size: tuple[int, int] = (128, 128)
    num_objects: tuple[int, int] = (1, 4)
    side: tuple[float, float] = (24.0, 88.0)
    stretch: tuple[float, float] = (0.6, 1.8)
    overlap: float = 0.2
    clutter: float = 5.0
    noise: tuple[float, float] = (1.0, 6.0)
    classes: tuple[str, ...] = CLASSES
    bank: int = 0


OBJECTS4 = ObjectSettings()
SEGMENT = ObjectSettings(num_objects=(2, 3), side=(48.0, 96.0), stretch=(0.8, 1.3), overlap=0.35, clutter=3.0)


@dataclass
class ObjectScene:
    """A picture and what is true of it.

    image: (H, W, 3) uint8. boxes: (G, 4) float32, clipped to the image, around the whole object even where another
        covers it; hair, ears and an antenna may stand out of it. labels: (G,) int64 from 1.
    masks: (G, H, W) bool, the pixels that show the object: where one covers another, only the upper has them.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    def target(self) -> Target:
        """What a detector should learn from it."""
        return Target(self.boxes, self.labels)


class DrawnObjects(Sequence[ObjectScene]):
    """A dataset of `num` scenes that exists nowhere: scene i is drawn when asked for; changes: of the settings."""

    def __init__(self, settings: ObjectSettings, num: int, seed: int = 0, **changes: object) -> None:
        self.settings, self.num, self.seed = replace(settings, **changes), num, seed

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> ObjectScene:
        if not -self.num <= index < self.num:
            raise IndexError(f"scene {index} of {self.num}")
        return draw_objects(self.settings, self.seed, index % self.num)


def draw_objects(
    settings: ObjectSettings = OBJECTS4, seed: int = 0, index: int = 0, **changes: object
) -> ObjectScene:
    """Scene `index` of seed `seed`: equal arguments give equal pixels and boxes. changes: fields set differently."""
    settings, rng = replace(settings, **changes), np.random.default_rng([seed, index])
    height, width = settings.size
    scene = draw_background(settings.size, rng, settings.clutter)
    boxes, labels, masks = [], [], []
    num = int(rng.integers(settings.num_objects[0], settings.num_objects[1] + 1))
    for side in sorted(_log_uniform(settings.side, num, rng), reverse=True):  # small ones fit in what is left
        label = int(rng.integers(len(settings.classes)))
        bank = sprite_bank(settings.classes[label], settings.bank)
        sprite = bank[rng.integers(len(bank))]
        stretch = float(_log_uniform(settings.stretch, 1, rng)[0])
        place = _free_place(sprite.half * stretch, side, settings, boxes, rng)
        if place is None:
            continue
        matrix, box = place
        matrix[:, 0] *= stretch  # a sprite's x axis
        mask = _mask(sprite, matrix, side, settings.size)
        paste_sprite(scene, sprite, sprite.level_for(side), matrix, gain=rng.uniform(0.8, 1.15))
        masks = [lower & ~mask for lower in masks] + [mask]
        boxes.append(box)
        labels.append(label + 1)
    return ObjectScene(
        sensor(scene, rng, settings.noise),
        np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, [width, height, width, height]).astype(np.float32),
        np.array(labels, np.int64),
        np.array(masks, bool).reshape(-1, height, width),
    )


def _log_uniform(limits: tuple[float, float], num: int, rng: np.random.Generator) -> np.ndarray:
    return limits[0] * (limits[1] / limits[0]) ** rng.random(num)


def _free_place(
    half: float, side: float, settings: ObjectSettings, taken: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray] | None:
    """The matrix (2, 3) and box (4,) of an object of this half width (in heads) and height; None where none is free."""
    height, width = settings.size
    low = 0.9 * np.array([half * side, side / 2])  # up to 5 % may stick out
    for _ in range(TRIES):
        tilt = rng.normal(0, np.deg2rad(8))
        centre = low + (np.array([width, height]) - 2 * low) * rng.random(2)
        box = head_box(half, centre, side, tilt)
        if all(shared_area(box, other) <= settings.overlap for other in taken):
            return head_matrix(centre, side, tilt), box
    return None


def _mask(sprite: Sprite, matrix: np.ndarray, side: float, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: where the sprite covers at least half of a pixel."""
    level = sprite.level_for(side)
    black = sprite.levels[level].copy()
    black[..., :3] = 0  # pasted onto ones, what stays is 1 - alpha
    ones = np.ones((*size, 3), np.float32)
    paste_at(ones, black, matrix, (LEFT, TOP), PIXELS_PER_HEAD / 2**level, gain=1.0)
    return ones[..., 0] <= 0.5
