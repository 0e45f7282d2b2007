"""Drawn patches with one object each: the classification task that a backbone is pre-trained on.

R-CNN and its successors start from a network that was first taught to classify whole pictures. Here that
is "which of human, cat, robot, clock fills this patch, or none?".

Letters: N patches, S their side.
"""

from __future__ import annotations

import numpy as np

from minidetect.data.synthetic.camera import draw_background, sensor
from minidetect.data.synthetic.placing import head_matrix, paste_sprite
from minidetect.data.synthetic.sprites import CLASSES, sprite_bank


def draw_patches(
    num: int,
    size: int = 48,
    seed: int = 0,
    classes: tuple[str, ...] = CLASSES,
    background: float = 0.2,
    bank: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Patches and their classes; patch i depends on (seed, i) alone.

    classes: kinds of `sprites.KINDS`; the label of classes[k] is k + 1. background: share of patches that
    hold clutter only, label 0. bank: which sprites; use another one for testing.

    Returns images (N, S, S, 3) uint8, labels (N,) int64.
    """
    images = np.empty((num, size, size, 3), np.uint8)
    labels = np.zeros(num, np.int64)
    for i in range(num):
        rng = np.random.default_rng([seed, i])
        scene = draw_background((size, size), rng, clutter=4.0)
        if rng.random() >= background:
            labels[i] = 1 + rng.integers(len(classes))
            _paste_object(scene, classes[labels[i] - 1], bank, rng)
        images[i] = sensor(scene, rng, noise=(1.0, 6.0))
    return images, labels


def _paste_object(scene: np.ndarray, kind: str, bank: int, rng: np.random.Generator) -> None:
    """One sprite that fills 60 to 100 % of the patch, a little off its middle, tilted by about 12 degrees."""
    size = scene.shape[0]
    sprites = sprite_bank(kind, bank)
    sprite = sprites[rng.integers(len(sprites))]
    height = size * rng.uniform(0.6, 1.0)
    centre = size / 2 + rng.uniform(-0.08, 0.08, 2) * size
    matrix = head_matrix(centre, height, tilt=rng.normal(0, np.deg2rad(12)))
    paste_sprite(scene, sprite, sprite.level_for(height), matrix, gain=rng.uniform(0.8, 1.15))
