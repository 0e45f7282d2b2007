"""What is behind the objects of a drawn scene, and the camera in front of it.

Letters: H, W the scene's height and width. A scene is float32 light until `sensor` makes uint8 of it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def draw_background(size: tuple[int, int], rng: np.random.Generator, clutter: float) -> np.ndarray:
    """(H, W, 3) float32: a smooth field of colours with about `clutter` shapes on it."""
    height, width = size
    cells = rng.integers(3, 10, 2)
    base = rng.uniform(40, 210) + rng.normal(0, 28, 3)
    field = base + rng.normal(0, 34, (*cells, 1)) + rng.normal(0, 16, (*cells, 3))  # mostly light and shade
    field = np.clip(field, 0, 255).astype(np.uint8)
    image = Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.poisson(clutter)):
        _draw_shape(pen, rng, width, height)
    return np.asarray(image, np.float32).copy()


def _draw_shape(pen: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """An ellipse, polygon, line, arc, or a patch of stripes, at a log-uniform size."""
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    size = min(width, height) * 0.6 * 0.06 ** rng.random()
    w, h = size * rng.uniform(0.4, 1.0, 2)
    colour = tuple(int(v) for v in np.clip(rng.uniform(10, 245) + rng.normal(0, 45, 3), 0, 255))
    kind, thick = rng.integers(5), max(1, int(size * rng.uniform(0.02, 0.15)))
    corners = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    if kind == 0:
        pen.ellipse(corners, fill=colour)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        pen.polygon([(x + w / 2 * np.cos(t), y + h / 2 * np.sin(t)) for t in angles], fill=colour)
    elif kind == 2:
        pen.line([corners[0], corners[1], corners[2], corners[3]], fill=colour, width=thick)
    elif kind == 3:
        start = rng.uniform(0, 360)
        pen.arc(corners, start, start + rng.uniform(60, 300), fill=colour, width=thick)
    else:
        gap = max(2.0, h / rng.integers(2, 7))
        for top in np.arange(corners[1], corners[3], 2 * gap):
            pen.rectangle([corners[0], top, corners[2], top + gap], fill=colour)


def sensor(
    scene: np.ndarray,
    rng: np.random.Generator,
    noise: tuple[float, float],
    gray: bool = False,
    gain: tuple[float, float] = (0.7, 1.2),
) -> np.ndarray:
    """(H, W, 3) uint8: the light as a camera stores it; gain and noise are uniform in their ranges."""
    factor, sigma = np.float32(rng.uniform(*gain)), np.float32(rng.uniform(*noise))
    if gray:
        scene = np.repeat((scene @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None], 3, axis=2)
    grain = rng.standard_normal(scene[:, :, :1].shape if gray else scene.shape, np.float32)
    return np.clip(scene * factor + grain * sigma + 0.5, 0, 255).astype(np.uint8)
