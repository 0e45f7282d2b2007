"""A small paint box: soft shapes on a float RGBA canvas, and the kernel that pastes a sprite into a scene.

Everything drawn here is the sum of three soft masks, so no line is jagged at any size and no drawing
library's version changes a pixel of a sprite: `ellipse` (a filled one with a soft rim), `glow` (a bell
curve, for shadows and blushes) and `stroke` (a curved line).

Letters: S canvas side in pixels; units are heads: y 0 is the top of a skull, y 1 its chin, x 0 its middle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minidetect.kernels.dispatch import kernel

Colour = tuple[float, float, float] | np.ndarray  # red, green, blue in 0..255
Window = tuple[slice, slice]
EVERYWHERE: Window = (slice(None), slice(None))


class Shape(NamedTuple):
    """How much of each pixel of a window is painted: mask (h, w) in 0..1, and the window's rows, columns."""

    mask: np.ndarray
    where: Window = EVERYWHERE

    def times(self, strength: float) -> Shape:
        return Shape(self.mask * strength, self.where)

    def within(self, other: np.ndarray) -> Shape:
        """Cut by a mask of the whole canvas."""
        return Shape(self.mask * other[self.where], self.where)


class Canvas:
    """rgb: (H, W, 3) float32 in 0..255, not premultiplied; alpha: (H, W) float32 in 0..1."""

    def __init__(self, left: float, top: float, right: float, bottom: float, pixels_per_unit: float) -> None:
        self.left, self.top, self.scale = left, top, pixels_per_unit
        height, width = round((bottom - top) * pixels_per_unit), round((right - left) * pixels_per_unit)
        self.rgb = np.zeros((height, width, 3), np.float32)
        self.alpha = np.zeros((height, width), np.float32)
        self.x = (left + (np.arange(width, dtype=np.float32) + 0.5) / pixels_per_unit)[None, :]  # (1, W)
        self.y = (top + (np.arange(height, dtype=np.float32) + 0.5) / pixels_per_unit)[:, None]  # (H, 1)

    def cover(self, shape: Shape, colour: Colour) -> None:
        """Lay paint over what is there; the canvas becomes opaque under it."""
        rgb, alpha, mask = self.rgb[shape.where], self.alpha[shape.where], shape.mask
        total = mask + alpha * (1 - mask)
        rgb += (mask / np.maximum(total, 1e-6))[..., None] * (np.asarray(colour, np.float32) - rgb)
        alpha[...] = total

    def tint(self, shape: Shape, colour: Colour) -> None:
        """Blend a colour into what is there; transparent places stay transparent."""
        rgb = self.rgb[shape.where]
        rgb += shape.mask[..., None] * (np.asarray(colour, np.float32) - rgb)

    def shade(self, shape: Shape, factor: float) -> None:
        """Multiply the light by `factor` where the mask is 1: below 1 a shadow, above 1 a highlight."""
        self.rgb[shape.where] *= (1 + shape.mask * (factor - 1))[..., None]

    def window(self, x0: float, y0: float, x1: float, y1: float) -> Window:
        """The rows and columns that a rectangle in units touches (possibly none)."""
        height, width = self.alpha.shape
        ys, xs = (np.array([y0, y1]) - self.top) * self.scale, (np.array([x0, x1]) - self.left) * self.scale
        rows = slice(*(int(min(max(v, 0), height)) for v in (np.floor(ys[0]), np.ceil(ys[1]))))
        return rows, slice(*(int(min(max(v, 0), width)) for v in (np.floor(xs[0]), np.ceil(xs[1]))))

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, soft: float = 0.0) -> Shape:
        """A filled ellipse; `soft` widens its rim (units; at least one pixel)."""
        soft = max(soft, 1 / self.scale)
        where = self.window(cx - rx - soft, cy - ry - soft, cx + rx + soft, cy + ry + soft)
        radius = np.hypot((self.x[:, where[1]] - cx) / rx, (self.y[where[0]] - cy) / ry)
        return Shape(np.clip((1 - radius) * min(rx, ry) / soft + 0.5, 0, 1), where)

    def glow(self, cx: float, cy: float, rx: float, ry: float) -> Shape:
        """A bell curve that has fallen to 1/e at the radii."""
        where = self.window(cx - 2.2 * rx, cy - 2.2 * ry, cx + 2.2 * rx, cy + 2.2 * ry)
        across = np.exp(-(((self.x[:, where[1]] - cx) / rx) ** 2))
        down = np.exp(-(((self.y[where[0]] - cy) / ry) ** 2))
        return Shape(across * down, where)

    def stroke(
        self, cx: float, cy: float, half: float, bend: float, thick: float, tilt: float = 0.0
    ) -> Shape:
        """An arc: y = cy + bend (1 - t^2) + tilt t for t = (x - cx) / half in -1..1.

        `thick` is half its thickness in the middle; the ends are thinner.
        """
        reach = abs(bend) + abs(tilt) + thick + 1 / self.scale
        where = self.window(cx - half, cy - reach, cx + half, cy + reach)
        t = (self.x[:, where[1]] - cx) / half
        line = cy + bend * (1 - t * t) + tilt * t
        width = thick * np.sqrt(np.clip(1.05 - t * t, 0.05, 1))
        return Shape(np.clip((width - np.abs(self.y[where[0]] - line)) * self.scale + 0.5, 0, 1), where)

    def premultiplied(self) -> np.ndarray:
        """(H, W, 4) float32: colours times alpha, then alpha in 0..1; averages of it stay right."""
        rgb = np.clip(self.rgb, 0, 255) * self.alpha[..., None]
        return np.concatenate([rgb, self.alpha[..., None]], axis=2)


@kernel
def paste(scene, sprite, matrix, gain):
    """Warp a premultiplied sprite into `scene` (H, W, 3) float32, in place, bilinearly.

    sprite: (S, T, 4) float32; matrix: (2, 3) float64, sprite position -> scene position, both in
    continuous pixel coordinates; gain multiplies the sprite's light.
    """
    height, width = scene.shape[0], scene.shape[1]
    rows, cols = sprite.shape[0], sprite.shape[1]
    a, b, c, d = matrix[0, 0], matrix[0, 1], matrix[1, 0], matrix[1, 1]
    det = a * d - b * c
    x_low, x_high, y_low, y_high = 1e9, -1e9, 1e9, -1e9
    for corner in range(4):
        u, v = cols * (corner % 2), rows * (corner // 2)
        x, y = a * u + b * v + matrix[0, 2], c * u + d * v + matrix[1, 2]
        x_low, x_high = min(x_low, x), max(x_high, x)
        y_low, y_high = min(y_low, y), max(y_high, y)
    for y in range(max(0, int(np.floor(y_low))), min(height, int(np.ceil(y_high)))):
        for x in range(max(0, int(np.floor(x_low))), min(width, int(np.ceil(x_high)))):
            dx, dy = x + 0.5 - matrix[0, 2], y + 0.5 - matrix[1, 2]
            u = (d * dx - b * dy) / det - 0.5
            v = (a * dy - c * dx) / det - 0.5
            u0, v0 = int(np.floor(u)), int(np.floor(v))
            if u0 < -1 or v0 < -1 or u0 >= cols or v0 >= rows:
                continue
            red = green = blue = alpha = 0.0
            for i in range(2):
                for j in range(2):
                    if 0 <= v0 + i < rows and 0 <= u0 + j < cols:
                        weight = (v - v0 if i else 1 - v + v0) * (u - u0 if j else 1 - u + u0)
                        pixel = sprite[v0 + i, u0 + j]
                        red += weight * pixel[0]
                        green += weight * pixel[1]
                        blue += weight * pixel[2]
                        alpha += weight * pixel[3]
            if alpha > 0:
                scene[y, x, 0] = scene[y, x, 0] * (1 - alpha) + gain * red
                scene[y, x, 1] = scene[y, x, 1] * (1 - alpha) + gain * green
                scene[y, x, 2] = scene[y, x, 2] * (1 - alpha) + gain * blue
