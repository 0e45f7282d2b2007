"""Drawn scenes: cluttered pictures with faces whose boxes, landmarks and visibility are known exactly.

A scene is a background (a smooth field of colours, with ellipses, polygons, lines and stripes over it),
objects from the sprite banks of `sprites.py` pasted from large to small, and a sensor's gain and noise.
Scene `index` of seed `seed` is the same on every call, in any order, in any process: its only randomness
is `np.random.default_rng([seed, index])`. (Clutter is drawn by Pillow, whose rasteriser may differ by a
pixel between versions: test geometry, not hashes of pixels.)

Letters: G faces, M ignore regions, K hard negatives. Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from minidetect.data.synthetic.camera import draw_background, sensor
from minidetect.data.synthetic.placing import head_box, head_matrix, move_points, paste_sprite, shared_area
from minidetect.data.synthetic.sprites import CLASSES, HARD_NEGATIVES, Sprite, sprite_bank
from minidetect.detection.structures import NO_BOXES, Target

NEGATIVES = (*CLASSES[1:], *HARD_NEGATIVES)  # where faces are the target, cats and clocks are negatives too
MAX_OVERLAP = 0.25  # of the smaller of two head boxes


@dataclass(frozen=True)
class SceneSettings:
    """What a scene is made of; `dataclasses.replace(FACES_EASY, size=(96, 96))` changes one thing.

    size: (height, width). num_faces: fewest and most, both included.
    side: smallest and largest height of a head in pixels; sizes are log-uniform, and `small_bias` above 0
        makes small ones more frequent (the uniform number is raised to 1 + small_bias).
    hard: mean number of face-like negatives, divided by 6. crowd: how often a scene has a row of 5 to 14
        small faces; two of five such rows are ignore regions, with some or none of their faces labelled.
    occlusion: share of faces behind a bar. clutter: mean number of shapes in the background.
    max_yaw: radians; slide: how far the features travel at 90 degrees, in half widths of the head.
    lighting: 0 for even light, 1 for lamps from the side. noise: smallest and largest standard deviation.
    gray: the three channels are equal. bank: which sprites; use another one for testing.
    """

    size: tuple[int, int] = (160, 160)
    num_faces: tuple[int, int] = (1, 6)
    side: tuple[float, float] = (12.0, 96.0)
    small_bias: float = 0.0
    hard: float = 0.0
    crowd: float = 0.0
    occlusion: float = 0.0
    clutter: float = 10.0
    max_yaw: float = 0.6
    slide: float = 0.35
    lighting: float = 1.0
    noise: tuple[float, float] = (2.0, 9.0)
    gray: bool = False
    bank: int = 0


FACES_EASY = SceneSettings(num_faces=(1, 3), side=(28.0, 96.0), clutter=5.0, max_yaw=0.4, noise=(1.0, 4.0))
FACES_SCALES = SceneSettings(num_faces=(1, 7), side=(7.0, 120.0), small_bias=0.5, crowd=0.15, occlusion=0.1)
FACES_HARD = SceneSettings(side=(10.0, 110.0), hard=1.0, crowd=0.15, occlusion=0.25)
FACES_PROFILE = SceneSettings(num_faces=(1, 4), side=(20.0, 110.0), max_yaw=1.4, slide=0.60)
PRESETS = {
    "faces_easy": FACES_EASY,
    "faces_scales": FACES_SCALES,
    "faces_hard": FACES_HARD,
    "faces_profile": FACES_PROFILE,
}


@dataclass
class Scene:
    """A picture and what is true of it.

    image: (H, W, 3) uint8. boxes: (G, 4) float32, head boxes clipped to the image; labels: (G,) int64, all 1.
    landmarks: (G, 5, 2) float32, eyes, nose, mouth corners. visible: (G,) float32, the share of the box that
    is inside the image and not behind a bar. yaw: (G,) float32, radians.
    nose_boxes: (G, 4) float32, the other convention: a square of the head box's area around the nose.
    ignore: (M, 4) float32. hard: (K, 4) float32, boxes of the face-like negatives.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    landmarks: np.ndarray
    visible: np.ndarray
    yaw: np.ndarray
    nose_boxes: np.ndarray
    ignore: np.ndarray
    hard: np.ndarray

    @property
    def difficult(self) -> np.ndarray:
        """(G,) bool: less than half visible, or below 8 pixels; an evaluator may ignore these."""
        shorter = np.minimum(self.boxes[:, 2] - self.boxes[:, 0], self.boxes[:, 3] - self.boxes[:, 1])
        return (self.visible < 0.5) | (shorter < 8)

    def target(self, ignore_difficult: bool = True) -> Target:
        """What a detector should learn from it; difficult faces become ignore regions unless told not to."""
        keep = ~self.difficult if ignore_difficult else np.ones(len(self.boxes), bool)
        ignore = np.concatenate([self.ignore, self.boxes[~keep]]).astype(np.float32)
        return Target(self.boxes[keep], self.labels[keep], ignore, self.landmarks[keep])


def scene_settings(preset: str | SceneSettings, **changes: object) -> SceneSettings:
    """A preset by name (or settings as they are) with some fields changed.

    Raises ValueError for an unknown name, TypeError for an unknown field.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    return replace(preset, **changes)


class DrawnScenes(Sequence[Scene]):
    """A dataset of `num` scenes that exists nowhere: scene i is drawn when it is asked for.

    preset: a name in `PRESETS` or settings; changes: fields to set differently.
    """

    def __init__(self, preset: str | SceneSettings, num: int, seed: int = 0, **changes: object) -> None:
        self.settings, self.num, self.seed = scene_settings(preset, **changes), num, seed

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Scene:
        if not -self.num <= index < self.num:
            raise IndexError(f"scene {index} of {self.num}")
        return draw_scene(self.settings, self.seed, index % self.num)


def draw_scene(preset: str | SceneSettings, seed: int = 0, index: int = 0, **changes: object) -> Scene:
    """Scene `index` of seed `seed`: equal arguments give equal pixels and boxes."""
    return _SceneDrawing(scene_settings(preset, **changes), np.random.default_rng([seed, index])).draw()


@dataclass
class _Placed:
    """An object in the scene: where its sprite goes, and what becomes of it."""

    sprite: Sprite
    matrix: np.ndarray  # (2, 3) heads -> scene pixels
    box: np.ndarray  # (4,) float64, not clipped
    height: float
    labelled: bool = True
    hidden: float = 0.0  # share behind a bar
    bar: tuple[np.ndarray, np.ndarray] | None = None  # (4,) box and (3,) colour


class _SceneDrawing:
    """One scene in the making."""

    def __init__(self, settings: SceneSettings, rng: np.random.Generator) -> None:
        self.settings, self.rng = settings, rng
        self.height, self.width = settings.size
        self.placed: list[_Placed] = []
        self.ignore: list[np.ndarray] = []

    def draw(self) -> Scene:
        settings, rng = self.settings, self.rng
        scene = draw_background(settings.size, rng, settings.clutter)
        if rng.random() < settings.crowd:
            self._place_row()
        self._place_objects()
        self.placed.sort(key=lambda thing: -thing.height)
        for thing in self.placed:
            self._paint(scene, thing)
        return self._annotated(sensor(scene, rng, settings.noise, settings.gray))

    def _bank(self, kind: str) -> tuple[Sprite, ...]:
        settings = self.settings
        return sprite_bank(kind, settings.bank, settings.max_yaw, settings.slide, settings.lighting)

    def _place_objects(self) -> None:
        """Faces and negatives of all sizes, large ones first, since small ones fit in what is left."""
        settings, rng = self.settings, self.rng
        low, high = settings.num_faces
        kinds = ["human"] * int(rng.integers(low, high + 1))
        kinds += [str(kind) for kind in rng.choice(NEGATIVES, rng.poisson(6 * settings.hard))]
        smallest, largest = settings.side
        t = rng.random(len(kinds)) ** (1 + settings.small_bias)
        heights = smallest * (largest / smallest) ** t
        for i in np.argsort(-heights):
            bank = self._bank(kinds[i])
            sprite = bank[rng.integers(len(bank))]
            for _ in range(20):
                thing = self._somewhere(sprite, float(heights[i]))
                if self._fits(thing.box):
                    self._maybe_hide(thing)
                    self.placed.append(thing)
                    break

    def _somewhere(self, sprite: Sprite, height: float) -> _Placed:
        """At a random place and tilt; up to 5 % of the box may stick out of the image."""
        tilt = self.rng.normal(0, np.deg2rad(12))
        half = np.array([sprite.half * height, height / 2])
        low, high = 0.9 * half, np.array([self.width, self.height]) - 0.9 * half
        centre = low + (high - low) * self.rng.random(2)
        return _at(sprite, centre, height, tilt)

    def _fits(self, box: np.ndarray) -> bool:
        return all(shared_area(box, other.box) <= MAX_OVERLAP for other in self.placed)

    def _maybe_hide(self, thing: _Placed) -> None:
        """Put a bar over 20 to 60 % of a face, from the left, the right or below."""
        if thing.sprite.kind != "human" or self.rng.random() >= self.settings.occlusion:
            return
        share, side = self.rng.uniform(0.2, 0.6), self.rng.integers(3)
        x1, y1, x2, y2 = thing.box
        bar = np.array([x1 - 0.1 * thing.height, y1 - 0.1 * thing.height, x2 + 0.1 * thing.height, y2])
        if side == 0:
            bar[2] = x1 + share * (x2 - x1)
        elif side == 1:
            bar[0] = x2 - share * (x2 - x1)
        else:
            bar[1] = y2 - share * (y2 - y1)
        thing.hidden, thing.bar = share, (bar, self.rng.uniform(20, 230, 3))

    def _place_row(self) -> None:
        """5 to 14 small faces side by side; two of five rows become an ignore region."""
        rng, bank = self.rng, self._bank("human")
        height = rng.uniform(0.045, 0.09) * self.height
        step = height * rng.uniform(0.95, 1.25)
        count = min(int(rng.integers(5, 15)), int((self.width - 2 * height) / step))
        if count < 2:
            return
        left = rng.uniform(height, self.width - height - step * (count - 1))
        middle = rng.uniform(height, self.height - height)
        labelled = np.ones(count, bool)
        is_ignored = rng.random() < 0.4
        if is_ignored:
            labelled = rng.random(count) < (0.5 if rng.random() < 0.5 else 0.0)
        row = []
        for i in range(count):
            centre = np.array([left + i * step, middle + rng.normal(0, 0.1 * height)])
            sprite = bank[rng.integers(len(bank))]
            thing = _at(sprite, centre, height * rng.uniform(0.9, 1.1), rng.normal(0, 0.1))
            thing.labelled = bool(labelled[i])
            row.append(thing)
        if is_ignored:
            boxes = np.array([thing.box for thing in row])
            region = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
            self.ignore.append(self._clip(region))
        self.placed += row

    def _paint(self, scene: np.ndarray, thing: _Placed) -> None:
        sprite = thing.sprite
        level = sprite.level_for(thing.height)
        if level + 1 < len(sprite.levels) and thing.height > 24 and self.rng.random() < 0.3:
            level += 1  # out of focus
        paste_sprite(scene, sprite, level, thing.matrix, gain=self.rng.uniform(0.8, 1.15))
        if thing.bar is not None:
            bar, colour = thing.bar
            x1, y1, x2, y2 = np.round(self._clip(bar)).astype(int)
            fade = np.linspace(0.8, 1.2, max(0, y2 - y1), dtype=np.float32)[:, None, None]
            scene[y1:y2, x1:x2] = colour.astype(np.float32) * fade

    def _clip(self, box: np.ndarray) -> np.ndarray:
        return np.clip(box, 0, [self.width, self.height, self.width, self.height])

    def _annotated(self, image: np.ndarray) -> Scene:
        faces = [thing for thing in self.placed if thing.sprite.kind == "human" and thing.labelled]
        hard = [self._clip(thing.box) for thing in self.placed if thing.sprite.kind != "human"]
        return assemble_scene(
            image,
            boxes=np.array([thing.box for thing in faces]).reshape(-1, 4),
            hidden=np.array([thing.hidden for thing in faces]),
            landmarks=np.array([move_points(thing.matrix, thing.sprite.landmarks) for thing in faces]),
            yaw=np.array([thing.sprite.yaw for thing in faces]),
            ignore=np.array(self.ignore),
            hard=np.array(hard),
        )


def assemble_scene(
    image: np.ndarray,
    boxes: np.ndarray,
    hidden: np.ndarray,
    landmarks: np.ndarray,
    yaw: np.ndarray,
    ignore: np.ndarray = NO_BOXES,
    hard: np.ndarray = NO_BOXES,
) -> Scene:
    """The Scene of G head boxes (G, 4), not clipped yet, of which a share `hidden` (G,) is covered."""
    height, width = image.shape[:2]
    points = landmarks.reshape(-1, 5, 2)
    clipped = np.clip(boxes, 0, [width, height, width, height])
    inside = _areas(clipped) / np.maximum(_areas(boxes), 1e-9)
    nose, half = points[:, 2], np.sqrt(_areas(boxes))[:, None] / 2
    return Scene(
        image=image,
        boxes=clipped.astype(np.float32),
        labels=np.ones(len(boxes), np.int64),
        landmarks=points.astype(np.float32),
        visible=(inside * (1 - hidden)).astype(np.float32),
        yaw=yaw.astype(np.float32),
        nose_boxes=np.concatenate([nose - half, nose + half], axis=1).astype(np.float32),
        ignore=ignore.reshape(-1, 4).astype(np.float32),
        hard=hard.reshape(-1, 4).astype(np.float32),
    )


def _at(sprite: Sprite, centre: np.ndarray, height: float, tilt: float) -> _Placed:
    box = head_box(sprite.half, centre, height, tilt)
    return _Placed(sprite, head_matrix(centre, height, tilt), box, height)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
