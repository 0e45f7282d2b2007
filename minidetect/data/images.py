"""One door for pictures: whatever the user has becomes an (H, W, 3) uint8 array, RGB, or an `ImageError`.

Letters: H, W the height and width in pixels.

What a picture is turned into:
    orientation     a camera's EXIF note "held sideways" is carried out, so boxes fit what people see
    transparency    laid on white paper, as a page would show it
    grey            repeated three times; 16-bit grey is divided by 257, so 65535 becomes 255
    palette, CMYK   converted by Pillow (colour profiles are not applied)
    animation       its first frame

Left out: floating-point pictures (nobody agrees on their range) and vector formats.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

WHITE = (255, 255, 255, 255)
EXIF_ORIENTATION = 0x0112
UNDO_ORIENTATION = {  # EXIF value -> what brings the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


ImageSource = str | Path | Image.Image | np.ndarray


class ImageError(ValueError):
    """A picture that cannot be used: one line that names it and says why."""


def load_image(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """The picture as a C-contiguous (H, W, 3) uint8 array, RGB, at least 1 x 1.

    source: a file's path; an open Pillow image; or a uint8 array, (H, W) grey or (H, W, C) with
        C = 1 (grey), 3 (RGB) or 4 (RGBA). An array that is already as promised is returned, not copied.

    Raises ImageError, one line with the file's name and the reason: missing, a folder, empty, not an
    image, truncated, more pixels than Pillow's `Image.MAX_IMAGE_PIXELS` allows (refused before it is
    decoded), or an array of another shape or dtype. TypeError for a source of any other type.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pillow(source, name=str(getattr(source, "filename", "") or "Pillow image"))
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source))
    raise TypeError(f"an image is a path, a Pillow image or a uint8 array, got {type(source).__name__}")


def check_is_list(images: object) -> None:
    """Raise TypeError for one image where a list of them is wanted: its rows would be taken for images."""
    if isinstance(images, (str, Path, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim < 4  # one image, not a stack (N, H, W, 3) of them
    ):
        raise TypeError("detect takes a list of images: detect([image])")


def _from_file(path: Path) -> np.ndarray:
    # a line break in a file's name must not break the line of the message
    name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
    _check_regular_file(path, name)
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its limit: for a library that is fed
            # other people's files, the limit is the limit
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: too large to open safely: {_one_line(error)}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a format that Pillow knows") from None
    except Exception as error:  # a damaged header: each of Pillow's formats fails in its own way
        raise ImageError(f"{name}: cannot be opened as an image: {_one_line(error)}") from None
    with image:
        return _from_pillow(image, name)


def _check_regular_file(path: Path, name: str) -> None:
    try:
        if not path.exists():
            raise ImageError(f"{name}: no such file")
        if path.is_dir():
            raise ImageError(f"{name}: is a folder, not an image")
        if not path.is_file():
            raise ImageError(f"{name}: is not a regular file")
        if path.stat().st_size == 0:
            raise ImageError(f"{name}: the file is empty (0 bytes)")
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # no permission, name too long, a NUL in the name
        raise ImageError(f"{name}: cannot be opened: {_one_line(error)}") from None


def _from_pillow(image: Image.Image, name: str) -> np.ndarray:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: the image has no pixels ({width} x {height})")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{name}: too large to open safely: {width} x {height} pixels, Pillow's limit is {limit} pixels"
        )
    try:
        image.load()
        turn = UNDO_ORIENTATION.get(_orientation(image))
        pixels = _to_rgb(image if turn is None else _transposed(image, turn), name)
    except ImageError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise ImageError(f"{name}: damaged or truncated image: {_one_line(error)}") from None
    return np.ascontiguousarray(pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the image that `load_image` gives, EXIF's rotation included; reads the file's head only.

    Raises ImageError that names the file.
    """
    try:
        with Image.open(path) as image:
            upright = _orientation(image) < 5  # 5 to 8 lie on their side
            return (image.height, image.width) if upright else (image.width, image.height)
    except Exception as error:
        raise ImageError(f"{path}: damaged or truncated image: {_one_line(error)}") from None


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) where there is none or the note itself is damaged."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except Exception:  # a damaged note is no reason to refuse good pixels
        return 1


def _transposed(image: Image.Image, turn: Image.Transpose) -> Image.Image:
    turned = image.transpose(turn)
    turned.info = image.info  # a palette's transparent entry must survive the turn
    return turned


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    """(H, W, 3) uint8 of a loaded Pillow image of any mode."""
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels (mode F) have no agreed range: save it as 8-bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_grey16(np.asarray(image), name)
    if image.mode in ("La", "RGBa"):  # colours already multiplied by alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, WHITE)
        image = Image.alpha_composite(paper, image)
    return np.array(image.convert("RGB"))


def _from_grey16(values: np.ndarray, name: str) -> np.ndarray:
    """(H, W) integers 0..65535 -> (H, W, 3) uint8, rounded to the nearest."""
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise ImageError(
            f"{name}: 32-bit grey with values {lowest}..{highest}, only 0..65535 is understood: "
            "save it as 8-bit"
        )
    grey = ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _from_array(array: np.ndarray) -> np.ndarray:
    wanted = "an image array is uint8 of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if array.dtype != np.uint8:
        raise ImageError(f"{wanted}, got dtype {array.dtype}, shape {array.shape}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ImageError(f"{wanted}, got shape {array.shape}")
    channels = array.shape[2]
    if channels == 1:
        array = np.repeat(array, 3, axis=2)
    elif channels == 4:
        return _from_pillow(Image.fromarray(np.ascontiguousarray(array)), "RGBA array")
    return np.ascontiguousarray(array)


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
