"""A drawn human head: skin lit like an egg, and features placed by the painter's rule of thumb.

Eyes stand at 45 % of the head's height, the nose's tip at 65 %, the mouth at 78 %. A head that turns by
`yaw` keeps its outline while its features slide sideways and grow narrower, the nose farthest: this is
what moves the nose off the head's centre, and what makes a head box and a nose-centred box part ways.

`Features` says which parts are painted and where, so that the face-like negatives of `sprites.py` (parts
shuffled, no eyes, skin only) come from the same painter and differ from a face in nothing else.

Units are heads (see canvas.py); angles are radians; colours are 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minidetect.data.synthetic.canvas import Canvas, Shape

EYE_X, EYE_Y, BROW_Y, NOSE_Y, MOUTH_X, MOUTH_Y = 0.16, 0.45, 0.36, 0.65, 0.135, 0.78
SKINS = np.array(
    [(247, 217, 196), (240, 200, 170), (225, 178, 142), (198, 145, 106), (156, 105, 72), (108, 70, 48)],
    np.float32,
)
HAIRS = np.array(
    [(24, 20, 20), (34, 26, 22), (56, 40, 30), (84, 62, 44), (116, 88, 60), (150, 146, 142), (176, 148, 104)],
    np.float32,
)
IRISES = np.array([(62, 42, 28), (84, 62, 38), (70, 96, 110), (78, 96, 62)], np.float32)
LIPS = np.array([170, 70, 72], np.float32)
INSIDE = np.array([58, 22, 24], np.float32)  # of an open mouth
BLACK = np.array([14, 11, 12], np.float32)
REDDER = np.array([16, -2, -2], np.float32)


@dataclass
class Look:
    """One person under one light. half: half the head's width; jaw: how much narrower the chin is (0..1).

    hair: "short", "long", "bald" or "cap". slide: how far the features travel at a yaw of 90 degrees, in
    half widths. light: unit vector towards the lamp (x right, y down, z to the viewer).
    """

    skin: np.ndarray
    hair_colour: np.ndarray
    iris: np.ndarray
    half: float
    jaw: float
    hair: str
    fringe: float
    parting: float
    brow: float
    eye: float
    smile: float
    mouth_open: float
    beard: float
    glasses: bool
    yaw: float
    slide: float
    light: np.ndarray
    ambient: float


@dataclass
class Features:
    """Vertical places of the parts, None for a part that is left out."""

    brows: float | None = BROW_Y
    eyes: float | None = EYE_Y
    nose: float | None = NOSE_Y
    mouth: float | None = MOUTH_Y
    hair: bool = True


def draw_look(
    rng: np.random.Generator, max_yaw: float = 0.6, slide: float = 0.35, lighting: float = 1.0
) -> Look:
    """A random person. Yaw is normal with standard deviation max_yaw / 2, cut at max_yaw."""
    tone = rng.uniform(0, 1)
    skin = _between(SKINS, tone) + rng.normal(0, 4, 3)
    darkest = 1 + (tone < 0.6) * (len(HAIRS) - 1) + (tone >= 0.6)  # hair and eyes of dark skin are dark
    hair = str(rng.choice(["short", "long", "bald", "cap"], p=[0.55, 0.32, 0.07, 0.06]))
    lamp = np.array([rng.normal(0, 0.55 * lighting), -rng.uniform(0.1, 0.9), 1.0])
    return Look(
        skin=skin.astype(np.float32),
        hair_colour=HAIRS[rng.integers(darkest)] * np.float32(rng.uniform(0.8, 1.25)),
        iris=IRISES[rng.integers(min(darkest, len(IRISES)))],
        half=rng.uniform(0.36, 0.41),
        jaw=rng.uniform(0.08, 0.24),
        hair=hair,
        fringe=rng.uniform(0.13, 0.27),
        parting=rng.uniform(-0.25, 0.25),
        brow=rng.uniform(0.011, 0.022),
        eye=rng.uniform(0.85, 1.15),
        smile=rng.uniform(-0.2, 1.0),
        mouth_open=max(0.0, rng.uniform(-1.0, 1.0)),
        beard=max(0.0, rng.uniform(-1.6, 0.8)) * (hair != "long"),
        glasses=bool(rng.random() < 0.14),
        yaw=float(np.clip(rng.normal(0, max_yaw / 2), -max_yaw, max_yaw)),
        slide=slide,
        light=(lamp / np.linalg.norm(lamp)).astype(np.float32),
        ambient=rng.uniform(0.42, 0.62),
    )


def _between(palette: np.ndarray, t: float) -> np.ndarray:
    """The colour at t in 0..1 of the way along a palette."""
    place = t * (len(palette) - 1)
    i = int(place)
    return palette[i] + (place - i) * (palette[min(i + 1, len(palette) - 1)] - palette[i])


class HeadPainter:
    """Paints one `Look` on one `Canvas`; the methods go from the back to the front."""

    def __init__(self, canvas: Canvas, look: Look, features: Features | None = None) -> None:
        self.canvas, self.look = canvas, look
        self.features = features or Features()
        self.turn = float(np.cos(look.yaw))  # how much of a feature's width is left
        self.head = self._outline(0.0)

    def place(self, x: float, depth: float = 1.0) -> float:
        """Where a point at `x` of a frontal head stands once the head has turned; depth 1: on the skin."""
        look = self.look
        return x * self.turn + depth * look.slide * look.half * float(np.sin(look.yaw))

    def landmarks(self) -> np.ndarray:
        """(5, 2): eyes, nose, mouth corners, in heads."""
        points = [(-EYE_X, EYE_Y, 0.95), (EYE_X, EYE_Y, 0.95), (0.0, NOSE_Y, 1.3)]
        points += [(-MOUTH_X, MOUTH_Y, 1.0), (MOUTH_X, MOUTH_Y, 1.0)]
        return np.array([(self.place(x, depth), y) for x, y, depth in points])

    def paint(self, shirt: np.ndarray | None = None) -> None:
        """Paint it all; with neck and shoulders when `shirt` gives the colour of a shirt."""
        look, parts = self.look, self.features
        if parts.hair and look.hair == "long":
            self._back_hair()
        if shirt is not None:
            self._body(shirt)
        self._skin()
        if parts.eyes is not None:
            self._sockets(parts.eyes)
        if look.beard > 0 and parts.mouth is not None:
            self._beard(parts.mouth)
        if parts.nose is not None:
            self._nose(parts.nose)
        if parts.mouth is not None:
            self._mouth(parts.mouth)
        if parts.eyes is not None:
            self._eyes(parts.eyes)
        if parts.brows is not None:
            self._brows(parts.brows)
        if parts.hair:
            self._hair()
        if look.glasses and parts.eyes is not None:
            self._glasses(parts.eyes)

    def _outline(self, grow: float) -> np.ndarray:
        """(H, W) mask of the head: an ellipse whose lower half narrows to a jaw, wider by `grow`."""
        canvas, look = self.canvas, self.look
        v = (canvas.y - 0.5) / (0.5 + grow)
        narrow = 1 - look.jaw * np.clip(v, 0, 1) ** 2
        radius = (np.abs(canvas.x) / ((look.half + grow) * narrow)) ** 2.2 + np.abs(v) ** 2.2
        return np.clip((1 - radius) * 0.5 * look.half * canvas.scale + 0.5, 0, 1)

    def _radius(self) -> np.ndarray:
        """(H, W) 0 in the middle of the head, 1 at its outline."""
        v = (self.canvas.y - 0.5) / 0.5
        narrow = 1 - self.look.jaw * np.clip(v, 0, 1) ** 2
        return np.hypot(self.canvas.x / (self.look.half * narrow), v)

    def _lambert(self) -> np.ndarray:
        """(H, W) light on an egg: ambient, plus what falls straight on it."""
        canvas, look = self.canvas, self.look
        nx, ny = np.clip(canvas.x / (look.half * 1.04), -1, 1), np.clip((canvas.y - 0.5) / 0.54, -1, 1) * 0.8
        nz = np.sqrt(np.clip(1 - nx * nx - ny * ny, 0, 1))
        lit = nx * look.light[0] + ny * look.light[1] + nz * look.light[2]
        return look.ambient + (1.12 - look.ambient) * np.clip(lit, 0, 1) ** 0.8

    def _body(self, shirt: np.ndarray, neck: float = 0.19) -> None:
        canvas, look = self.canvas, self.look
        x, y = canvas.x, canvas.y
        torso = np.abs(x / 0.95) ** 2.4 + np.abs((np.minimum(y, 2.3) - 2.3) / 1.1) ** 2.4  # down to any depth
        mask = np.clip((1 - torso) * 0.35 * canvas.scale + 0.5, 0, 1)
        folds = 1 + 0.12 * np.sin(x * 9 + look.parting * 20) * np.clip(y - 1.25, 0, 0.5)
        light = 0.8 + 0.3 * look.light[0] * x + 0.15 * (1.5 - np.minimum(y, 2.6))
        self._cover_lit(mask, shirt, light * folds)
        width = neck + 0.10 * np.clip((y - 1.0) / 0.25, 0, 1) ** 3
        column = np.clip((width - np.abs(x)) * canvas.scale + 0.5, 0, 1)
        collar = np.clip((1.30 - 1.2 * x**2 - y) * canvas.scale, 0, 1) * (y > 0.6)
        canvas.cover(Shape(column * collar), look.skin * (0.62 + 0.3 * look.ambient))
        canvas.shade(canvas.glow(0, 0.99, 0.30, 0.13), 0.60)
        canvas.shade(canvas.glow(0, 1.31, 0.34, 0.05), 0.80)

    def _cover_lit(self, mask: np.ndarray, colour: np.ndarray, light: np.ndarray) -> None:
        """Opaque paint of a colour times a light that varies over the canvas."""
        self.canvas.cover(Shape(mask), np.asarray(colour, np.float32) * np.clip(light, 0, 2)[..., None])

    def _shade(self, shape: Shape, factor: float) -> None:
        self.canvas.shade(shape.within(self.head), factor)

    def _tint(self, shape: Shape, strength: float, colour: np.ndarray) -> None:
        self.canvas.tint(shape.within(self.head).times(strength), colour)

    def _narrow(self, width: float) -> float:
        """A feature's width on a turned head; never quite nothing."""
        return width * (0.25 + 0.75 * self.turn)

    def _back_hair(self) -> None:
        canvas, y = self.canvas, self.canvas.y
        spread = self.look.half + 0.10 + 0.03 * np.clip(y, 0, 1.2)
        shape = np.abs(canvas.x / spread) ** 2.4 + np.abs((y - 0.58) / 0.66) ** 3
        mask = np.clip((1 - shape) * 0.3 * canvas.scale + 0.5, 0, 1)
        canvas.cover(Shape(mask), self.look.hair_colour * 0.62)

    def _skin(self) -> None:
        canvas, look = self.canvas, self.look
        for side in (-1, 1):
            if look.hair != "long" and side * look.yaw < 0.35:  # the far ear is behind a turned head
                x = side * (look.half * 0.98 - 0.05 * max(0.0, -side * look.yaw))
                canvas.cover(canvas.ellipse(x, 0.53, 0.055, 0.095), look.skin * 0.72 + REDDER)
                canvas.shade(canvas.glow(x, 0.53, 0.025, 0.055), 0.72)
        light = self._lambert()
        light = light * (1 - 0.28 * np.clip(2 * self._radius() - 1, 0, 1) ** 2)
        warm = np.stack([light**0.8, light, light**1.12], axis=2)  # shadows on skin are reddish
        canvas.cover(Shape(self.head), look.skin * warm)
        for side in (-1, 1):
            cheek = canvas.glow(self.place(side * 0.19), 0.645, 0.10, 0.075)
            self._tint(cheek, 0.20, look.skin * 0.8 + 3 * REDDER)
            self._shade(cheek, 1.06)
        self._shade(canvas.glow(self.place(0), 0.26, 0.2, 0.10), 1.06)

    def _sockets(self, y: float) -> None:
        canvas = self.canvas
        for side in (-1, 1):
            x = self.place(side * EYE_X, 0.95)
            self._shade(canvas.glow(x, y - 0.015, 0.105 * self.turn + 0.01, 0.06), 0.68)
            self._shade(canvas.glow(x, y + 0.065, 0.08 * self.turn + 0.01, 0.025), 0.90)
        self._shade(canvas.glow(self.place(0, 1.1), y, 0.035, 0.05), 1.12)  # the nose's bridge

    def _eyes(self, y: float) -> None:
        canvas, look = self.canvas, self.look
        wide, high = self._narrow(0.080 * look.eye), 0.033 * look.eye
        for side in (-1, 1):
            x = self.place(side * EYE_X, 0.95)
            white = canvas.ellipse(x, y, wide, high)
            eyeball = np.zeros_like(self.head)
            eyeball[white.where] = white.mask
            self._tint(white, 0.92, np.array([228, 222, 214]) * (0.62 + 0.38 * look.ambient))
            gaze = x + 0.012 * np.sin(look.yaw) + 0.01 * look.parting
            for radius, colour in ((0.036, look.iris), (0.021, BLACK)):
                disc = canvas.ellipse(gaze, y - 0.002, self._narrow(radius), radius)
                self._tint(disc.within(eyeball), 1.0, colour)
            glint = canvas.ellipse(gaze + 0.010 * np.sign(look.light[0]), y - 0.012, 0.008, 0.008)
            self._tint(glint, 0.8, np.array([255, 255, 255]))
            self._tint(canvas.stroke(x, y - 0.004, wide * 1.12, -high * 0.98, 0.0085), 0.9, look.skin * 0.22)
            self._tint(canvas.stroke(x, y + 0.004, wide, high * 0.95, 0.004), 0.45, look.skin * 0.5)
            self._tint(canvas.stroke(x, y - 0.028, wide * 1.15, -high, 0.005), 0.35, look.skin * 0.5)

    def _brows(self, y: float) -> None:
        look = self.look
        for side in (-1, 1):
            x = self.place(side * (EYE_X + 0.005), 0.95)
            arc = self.canvas.stroke(x, y + 0.01, self._narrow(0.098), -0.026, look.brow, tilt=side * 0.008)
            self._tint(arc, 0.85, look.hair_colour * 0.75 + 0.06 * look.skin)

    def _nose(self, y: float) -> None:
        canvas, look = self.canvas, self.look
        tip, middle = self.place(0, 1.3), self.place(0, 1.17)
        dark = -1.0 if look.light[0] > 0 else 1.0  # the side away from the lamp
        self._shade(canvas.glow(middle + dark * 0.045, y - 0.10, 0.028, 0.10), 0.80)
        self._shade(canvas.glow(tip + dark * 0.065, y - 0.01, 0.03, 0.04), 0.80)
        self._shade(canvas.glow(middle, y - 0.10, 0.022, 0.11), 1.10)
        self._shade(canvas.glow(tip, y - 0.012, 0.032, 0.028), 1.13)
        self._shade(canvas.glow(tip, y + 0.038, 0.075 * self.turn + 0.015, 0.018), 0.66)
        for side in (-1, 1):
            x = tip + side * self._narrow(0.034)
            self._tint(canvas.ellipse(x, y + 0.026, 0.020, 0.011, soft=0.012), 0.8, look.skin * 0.2)
            wing = canvas.stroke(x + side * 0.03, y + 0.010, 0.016, -0.024, 0.007)
            self._tint(wing, 0.4, look.skin * 0.42)

    def _mouth(self, y: float) -> None:
        canvas, look = self.canvas, self.look
        x, half, bend = self.place(0), self._narrow(MOUTH_X), 0.035 * look.smile
        gap = 0.035 * look.mouth_open
        lip = (0.55 * look.skin + 0.45 * LIPS) * np.array([0.86, 0.66, 0.66])
        self._shade(canvas.glow(x, y + bend + 0.075 + gap, half * 0.75, 0.022), 0.78)  # under the lower lip
        self._tint(canvas.stroke(x, y - 0.010, half, bend * 0.8, 0.017), 0.8, lip * 0.82)
        self._tint(canvas.stroke(x, y + 0.018 + gap, half * 0.85, bend * 0.9, 0.021), 0.8, lip * 1.08)
        if gap > 0.006:
            inside = canvas.stroke(x, y + 0.004 + gap / 2, half * 0.86, bend, gap * 0.75 + 0.004)
            self._tint(inside, 1.0, INSIDE)
            teeth = canvas.stroke(x, y + gap * 0.15, half * 0.74, bend, gap * 0.42 + 0.002)
            self._tint(teeth, 0.9, np.array([226, 220, 208]) * (0.6 + 0.4 * look.ambient))
        else:
            self._tint(canvas.stroke(x, y + 0.002, half * 1.03, bend, 0.0065), 0.9, look.skin * 0.25 + REDDER)
        self._shade(canvas.glow(x, y - 0.055, 0.018, 0.025), 0.90)

    def _beard(self, mouth_y: float) -> None:
        canvas, look = self.canvas, self.look
        across = np.abs(canvas.x - self.place(0, 0.9))
        chin = np.clip((canvas.y - (mouth_y - 0.10) - 0.9 * across**2) / 0.10, 0, 1)
        jaws = np.clip((np.abs(canvas.x) - look.half * 0.72) / 0.08, 0, 1)
        sides = jaws * np.clip((canvas.y - 0.5) * 10, 0, 1)
        colour = look.hair_colour * 0.8 + look.skin * 0.08
        self._tint(Shape(np.maximum(chin, sides)), min(0.85, look.beard), colour)

    def _hair(self) -> None:
        look, y = self.look, self.canvas.y
        if look.hair == "bald":
            return
        if look.hair == "cap":
            self._cap()
            return
        x = self.canvas.x - self.place(look.parting * 0.3, 0.9)
        line = look.fringe + 0.05 * np.sin(8 * x + 20 * look.parting) - 0.25 * (x + look.parting * 0.4) ** 2
        front = np.clip((line - y) * self.canvas.scale * 0.5 + 0.5, 0, 1)
        temple, end = (0.84, 0.50) if look.hair == "short" else (0.76, 1.15)
        inner = temple * look.half + 0.10 * np.clip(y - 0.3, 0, 1)
        across = np.abs(self.canvas.x - 0.5 * self.place(0))
        sides = np.clip((across - inner) * self.canvas.scale * 0.5, 0, 1)
        sides = np.maximum(sides, 1 - self.head) * np.clip((end - y) * 9, 0, 1)
        self._shade(Shape(np.exp(-(((y - line - 0.03) / 0.03) ** 2)) * (1 - front)), 0.82)  # its shadow
        comb = x + 0.10 * np.sin(y * 7 + look.parting * 30)
        strands = 1 + 0.07 * np.sin(comb * 83) + 0.06 * np.sin(comb * 131 + 40 * y) + 0.05 * np.sin(comb * 47)
        shine = 0.25 * np.exp(-(((y - 0.09 - 0.6 * x * x) / 0.05) ** 2))
        light = 0.25 + 0.85 * self._lambert() * (strands + shine)
        self._cover_lit(self._outline(0.055) * np.maximum(front, sides), look.hair_colour, light)

    def _cap(self) -> None:
        canvas, look = self.canvas, self.look
        colour = np.array([60 + 1000 * (look.fringe - 0.13), 70, 150 - 400 * abs(look.parting)])
        dome = self._outline(0.045) * np.clip((0.27 - canvas.y) * canvas.scale + 0.5, 0, 1)
        self._cover_lit(dome, colour, self._lambert())
        canvas.cover(canvas.ellipse(self.place(0, 1.2), 0.285, look.half * 1.02, 0.05), colour * 0.6)
        self._shade(canvas.glow(self.place(0), 0.35, 0.3, 0.05), 0.7)

    def _glasses(self, y: float) -> None:
        canvas = self.canvas
        for side in (-1, 1):
            x, wide = self.place(side * EYE_X, 1.05), self._narrow(0.115)
            outer = canvas.ellipse(x, y + 0.01, wide, 0.085)
            inner = canvas.ellipse(x, y + 0.01, wide - 0.012, 0.073)
            rim = np.zeros_like(self.head)
            rim[outer.where] = outer.mask
            rim[inner.where] -= inner.mask
            canvas.cover(Shape(np.clip(rim, 0, 1) * 0.9), BLACK * 2)
            self._shade(inner, 0.95)
        bridge = canvas.stroke(self.place(0, 1.1), y - 0.01, 0.05 * self.turn, -0.012, 0.007)
        self._tint(bridge, 0.9, BLACK * 2)
