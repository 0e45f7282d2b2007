"""A drawn crowd for the demo: twelve people in three rows before a town, with every face's box.

Unlike the scenes for training, each person is painted at the size that is needed, with shoulders and a
shirt, in one light that falls on all of them; the picture is then softened and made grainy like a photo,
so that a detector trained on photos has something fair to find.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from minidetect.data.synthetic.camera import sensor
from minidetect.data.synthetic.canvas import Canvas
from minidetect.data.synthetic.heads import HeadPainter, draw_look
from minidetect.data.synthetic.placing import head_box, head_matrix, move_points, paste_at
from minidetect.data.synthetic.scenes import Scene, assemble_scene

ROWS = ((5, 0.12, 0.30), (4, 0.17, 0.47), (3, 0.23, 0.71))  # people; a head's height and place, in heights
LEFT, TOP, RIGHT = -1.0, -0.15, 1.0  # of one person's canvas, in heads; its bottom is that of the picture


def draw_crowd(seed: int = 0, size: tuple[int, int] = (480, 640)) -> Scene:
    """A crowd of 12 human faces, all in view; the same seed and size give the same picture.

    size: (height, width), at least (120, 160). At 480 x 640 heads are 53 to 119 pixels high.

    Raises ValueError for a smaller size.
    """
    height, width = size
    if height < 120 or width < 160:
        raise ValueError(f"a crowd needs at least 120 x 160 pixels (height x width), got {height} x {width}")
    rng = np.random.default_rng(seed)
    scene = _town(height, width, rng)
    lamp = draw_look(rng).light
    unit = min(height, 0.75 * width)
    people = []
    for count, head, middle in ROWS:
        for i in range(count):
            x = width * (i + 0.5 + rng.uniform(-0.13, 0.13)) / count
            centre = np.array([x, height * middle + rng.normal(0, 0.05) * unit * head])
            people.append(_paint_person(scene, centre, unit * head * rng.uniform(0.92, 1.08), lamp, rng))
    boxes, landmarks, yaw = (np.array(column) for column in zip(*people, strict=True))
    image = _photograph(scene, rng)
    return assemble_scene(image, boxes, hidden=np.zeros(len(people)), landmarks=landmarks, yaw=yaw)


def _paint_person(
    scene: np.ndarray, centre: np.ndarray, pixels: float, lamp: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Paint one person; returns the head's box (4,), its landmarks (5, 2) and yaw."""
    look = draw_look(rng, max_yaw=0.5)
    look.light, look.ambient = lamp, rng.uniform(0.52, 0.60)
    bottom = 1.0 + (scene.shape[0] - centre[1]) / pixels
    canvas = Canvas(LEFT, TOP, RIGHT, bottom, pixels_per_unit=1.25 * pixels)
    painter = HeadPainter(canvas, look)
    painter.paint(shirt=np.clip(rng.uniform(30, 190) + rng.normal(0, 35, 3), 15, 225))
    tilt = rng.normal(0, np.deg2rad(4))
    matrix = head_matrix(centre, pixels, tilt)
    paste_at(scene, canvas.premultiplied(), matrix, (LEFT, TOP), canvas.scale, gain=1.0)
    return head_box(look.half, centre, pixels, tilt), move_points(matrix, painter.landmarks()), look.yaw


def _town(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: sky, houses with windows, trees, a street; out of focus."""
    sky = np.array([168, 194, 222]) + np.linspace(0, 1, height)[:, None, None] * np.array([60, 36, 4])
    town = Image.fromarray(np.broadcast_to(np.clip(sky, 0, 255), (height, width, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(town)
    x = -0.05 * width
    while x < width:
        house_width = width * rng.uniform(0.12, 0.26)
        _draw_house(pen, x, height * rng.uniform(-0.05, 0.16), house_width, height, rng)
        x += house_width
    for _ in range(26):
        _draw_leaves(pen, rng.uniform(0, width), height * rng.uniform(0.34, 0.62), 0.09 * height, rng)
    pen.rectangle([0, 0.72 * height, width, height], fill=(124, 118, 112))
    return np.asarray(town.filter(ImageFilter.GaussianBlur(height / 320)), np.float32).copy()


def _draw_house(
    pen: ImageDraw.ImageDraw, left: float, top: float, width: float, bottom: float, rng: np.random.Generator
) -> None:
    wall = rng.uniform(110, 190) + np.array([18, 4, -14]) * rng.uniform(-0.5, 1.5)
    pen.rectangle([left, top, left + width, bottom], fill=_rgb(wall))
    columns, step = int(rng.integers(3, 6)), width * rng.uniform(0.30, 0.42)
    for y in np.arange(top + 0.3 * step, bottom, step):
        for column in range(columns):
            x = left + width * (column + 0.25) / columns
            glass = np.array([70, 84, 100]) * rng.uniform(0.6, 1.7)
            frame = [x, y, x + 0.5 * width / columns, y + 0.55 * step]
            pen.rectangle(frame, fill=_rgb(glass), outline=_rgb(wall * 1.25))


def _draw_leaves(
    pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, rng: np.random.Generator
) -> None:
    for _ in range(14):
        cx, cy = np.array([x, y]) + rng.normal(0, 0.7 * radius, 2)
        r = radius * rng.uniform(0.2, 0.5)
        green = np.array([74, 104, 52]) * rng.uniform(0.5, 1.4)
        pen.ellipse([cx - r, cy - r, cx + r, cy + r], fill=_rgb(green))


def _rgb(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(colour, 0, 255))


def _photograph(scene: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: a little blur, darker corners, a little grain."""
    height, width = scene.shape[:2]
    soft = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    corners = (1.03 - 0.10 * (x * x + y * y)).astype(np.float32)
    light = np.asarray(soft, np.float32) * corners[:, :, None]
    return sensor(light, rng, noise=(2.5, 2.5), gain=(1.0, 1.0))
