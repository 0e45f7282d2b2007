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
from minidetect.kernels.patches import LANES, PADDING, cut_patches, image_planes
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
        self._level_sizes: dict[int, tuple[int, int]] = {}
        self._levels = {0: image}
        # Levels 0 to the last share one array, so that patches of one batch may come from many levels.
        self._sizes = np.array([self.level_size(k) for k in range(max(0, self.last_level(2)) + 1)])
        self._starts = np.append(0, np.cumsum(self._sizes.prod(1) * 3))
        self._pixels = np.empty(self._starts[-1] + 3 * image.shape[1] + PADDING, np.uint8)
        self._copied = False  # level 0: only patches need the copy

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self._levels[0].shape[:2]

    def level_size(self, k: int) -> tuple[int, int]:
        if k not in self._level_sizes:
            scale = 2.0 ** (-k / self.levels_per_octave)
            self._level_sizes[k] = tuple(max(1, int(n * scale + 0.5)) for n in self.size)
        return self._level_sizes[k]

    def level(self, k: int) -> np.ndarray:
        """The image at scale 2 ** (-k / L), uint8 (h, w, 3)."""
        if k not in self._levels:
            # Halving the level an octave above costs a fraction of shrinking the whole image at once.
            source = self.level(k - self.levels_per_octave) if k > self.levels_per_octave else self._levels[0]
            shared = self._slot(k) if 0 < k < len(self._sizes) else None
            self._levels[k] = resize_image(source, self.level_size(k), out=shared)
        return self._levels[k]

    def _slot(self, k: int) -> np.ndarray:
        """The place of level k >= 0 among the shared pixels, (h, w, 3)."""
        return self._pixels[self._starts[k] : self._starts[k + 1]].reshape(*self._sizes[k], 3)

    def level_planes(self, k: int, mean: np.ndarray, scale: float) -> np.ndarray:
        """Level k as a network wants it: (level - mean) * scale, float32 (3, h, w). mean: a colour (3,)."""
        return image_planes(self.level(k), mean, scale)

    def level_for(self, object_size: float, pixels: int) -> int:
        """The last level on which an object of `object_size` image pixels still covers `pixels` pixels."""
        return int(np.floor(self.levels_per_octave * np.log2(object_size / pixels) + 1e-6))

    def last_level(self, pixels: int) -> int:
        """The last level whose shorter side has at least `pixels` pixels (may be negative: an enlargement)."""
        k = self.level_for(min(self.size), pixels) + 1
        while min(self.level_size(k)) < pixels:
            k -= 1
        return k

    def to_image(self, boxes: np.ndarray, k: int | np.ndarray) -> np.ndarray:
        """Boxes (N, 4) on level k, or each on its own level k (N,), in coordinates of the image."""
        levels, row = np.unique(k, return_inverse=True)
        scales = np.array([np.divide(self.size, self.level_size(int(level)))[::-1] for level in levels]).reshape(-1, 2)
        return (boxes * np.tile(scales[row], 2)).astype(np.float32)  # (levels, 2) -> (N, 2) -> (N, 4)

    def crop(self, boxes: np.ndarray, pixels: int) -> np.ndarray:
        """Cut square boxes (N, 4) of the image to patches: (N, pixels, pixels, 3) float32, 0 to 255.

        Each box is read from the level on which its side is nearest to `pixels`, but never from an
        enlarged one: interpolating the image itself gives the same values. Outside the image is black.
        """
        ks, on_level = self._levels_of(boxes, pixels)
        patches = np.empty((len(ks), pixels, pixels, 3), np.float32)
        for k in np.unique(ks):
            rows = np.flatnonzero(ks == k)
            patches[rows] = crop_resize(self.level(k), on_level[rows], pixels)
        return patches

    def crop_lanes(
        self, boxes: np.ndarray, pixels: int, mean: np.ndarray, scale: float, lanes: int = LANES
    ) -> np.ndarray:
        """The patches of `crop` as (patch - mean) * scale, L = `lanes` side by side, as fast networks want them.

        Returns (ceil(N / L), 3, pixels, pixels, L) float32, see `cut_patches`.
        """
        ks, on_level = self._levels_of(boxes, pixels)
        for k in np.unique(ks):
            self.level(k)
        if not self._copied and (ks == 0).any():
            self._slot(0)[...] = self._levels[0]
            self._copied = True
        return cut_patches(self._pixels, self._starts[ks], self._sizes[ks], on_level, pixels, mean, scale, lanes)

    def _levels_of(self, boxes: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
        """From which level each box (N, 4) is cut, and the box in coordinates of that level."""
        boxes = as_boxes(boxes).astype(np.float32, copy=False)
        if not np.isfinite(boxes).all():
            n = int(np.flatnonzero(~np.isfinite(boxes).all(axis=1))[0])
            raise ValueError(f"boxes[{n}] = {boxes[n].tolist()} is not finite")
        sides = np.maximum(boxes[:, 2] - boxes[:, 0], 1e-3)
        ks = np.floor(self.levels_per_octave * np.log2(sides / pixels) + 0.5).astype(int)
        ks = np.clip(ks, 0, len(self._sizes) - 1)
        scales = np.tile(self._sizes[:, ::-1] / self._sizes[0, ::-1], 2).astype(np.float32)  # (K, 4)
        return ks, boxes * scales[ks]
