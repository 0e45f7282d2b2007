"""The image pyramid: one image at many scales, and patches cut from the scale that suits them.

Level k shows the image at scale 2 ** (-k / L), L levels an octave: level 0 is the image itself, level L is
half as large, negative levels are enlarged. FaceCraft, section 4.2, uses L = 5.

A cascade looks at a face first as 12, then as 24, then as 48 pixels. The face that fills a 12-pixel window
of level k fills a 24-pixel window of level k - L, so the second look is a copy, not a resize: the patch
lookup of FaceCraft, section 6.5. Boxes that regression has moved no longer fall on whole pixels; those are
interpolated from the level in which they are nearest to the asked size.
"""

from __future__ import annotations

import numpy as np

from minidetect.kernels.iou import as_boxes
from minidetect.kernels.resize import crop_resize, resize_image


class ImagePyramid:
    """The levels of one image, made when first asked for.

    image: (H, W, 3) uint8. levels_per_octave: L.
    """

    def __init__(self, image: np.ndarray, levels_per_octave: int = 5) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(
                f"a pyramid needs an image (H, W, 3) of uint8, got shape {image.shape} of {image.dtype}"
            )
        self.levels_per_octave = levels_per_octave
        self._levels = {0: image}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self._levels[0].shape[:2]

    def level_size(self, k: int) -> tuple[int, int]:
        scale = 2.0 ** (-k / self.levels_per_octave)
        return tuple(max(1, int(n * scale + 0.5)) for n in self.size)

    def level(self, k: int) -> np.ndarray:
        """The image at scale 2 ** (-k / L), uint8 (h, w, 3)."""
        if k not in self._levels:
            # Halving the level an octave above costs a fraction of shrinking the whole image at once.
            source = self.level(k - self.levels_per_octave) if k > self.levels_per_octave else self._levels[0]
            self._levels[k] = resize_image(source, self.level_size(k))
        return self._levels[k]

    def level_for(self, object_size: float, pixels: int) -> int:
        """The last level on which an object of `object_size` image pixels still covers `pixels` pixels."""
        return int(np.floor(self.levels_per_octave * np.log2(object_size / pixels) + 1e-6))

    def last_level(self, pixels: int) -> int:
        """The last level whose shorter side has at least `pixels` pixels (may be negative: an enlargement)."""
        k = self.level_for(min(self.size), pixels) + 1
        while min(self.level_size(k)) < pixels:
            k -= 1
        return k

    def to_image(self, boxes: np.ndarray, k: int) -> np.ndarray:
        """Boxes (N, 4) on level k in coordinates of the image."""
        return (boxes * (np.tile(self.size[::-1], 2) / np.tile(self.level_size(k)[::-1], 2))).astype(np.float32)

    def crop(self, boxes: np.ndarray, pixels: int) -> np.ndarray:
        """Cut square boxes (N, 4) of the image to patches: (N, pixels, pixels, 3) float32, 0 to 255.

        Each box is read from the level on which its side is nearest to `pixels`, but never from an
        enlarged one: interpolating the image itself gives the same values. Outside the image is black.
        """
        boxes = as_boxes(boxes).astype(np.float32, copy=False)
        patches = np.empty((len(boxes), pixels, pixels, 3), np.float32)
        sides = np.maximum(boxes[:, 2] - boxes[:, 0], 1e-3)
        ks = np.floor(self.levels_per_octave * np.log2(sides / pixels) + 0.5).astype(int)
        ks = np.clip(ks, 0, max(0, self.last_level(2)))
        for k in np.unique(ks):
            rows = np.flatnonzero(ks == k)
            scale = np.tile(self.level_size(k)[::-1], 2) / np.tile(self.size[::-1], 2)
            patches[rows] = crop_resize(self.level(k), boxes[rows] * scale.astype(np.float32), pixels)
        return patches
