"""load_image: every kind of picture becomes RGB uint8, every bad one a single clear line."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minidetect.data.images import ImageError, load_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def assert_promised(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.flags.c_contiguous


def picture(height: int = 2, width: int = 3) -> np.ndarray:
    """Every pixel different, so that a turn or a mirror shows."""
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3) * 5


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


# ----------------------------------------------------------------------------------- good pictures


def test_path_text_pillow_and_array_agree(tmp_path):
    pixels = picture(5, 7)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    for source in (path, str(path), Image.open(path), Image.fromarray(pixels), pixels):
        image = load_image(source)
        assert_promised(image)
        np.testing.assert_array_equal(image, pixels)


def test_a_single_pixel(tmp_path):
    path = saved(Image.new("RGB", (1, 1), RED), tmp_path / "one.png")
    np.testing.assert_array_equal(load_image(path), [[RED]])
    np.testing.assert_array_equal(load_image(np.zeros((1, 1, 3), np.uint8)), [[(0, 0, 0)]])


@pytest.mark.parametrize(
    "orientation, undone",
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_carried_out(tmp_path, orientation, undone):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(picture()), tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(path), undone(picture()))


def test_a_damaged_exif_note_does_not_refuse_the_picture(tmp_path):
    path = saved(Image.new("RGB", (8, 6), RED), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own remark about the note
        assert load_image(path).shape == (6, 8, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_opaque_modes(mode):
    image = load_image(Image.new("RGB", (3, 2), WHITE).convert(mode))
    assert_promised(image)
    np.testing.assert_array_equal(image, np.full((2, 3, 3), 255))


def test_grey_is_repeated():
    values = np.array([[0, 100, 255]], np.uint8)
    for source in (Image.fromarray(values), values, values[:, :, None]):
        np.testing.assert_array_equal(load_image(source), [[(0, 0, 0), (100, 100, 100), (255, 255, 255)]])


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "deep.png")
    np.testing.assert_array_equal(load_image(path)[0, :, 0], [0, 1, 128, 255])
    as_32_bit = Image.fromarray(values.astype(np.int32))  # how some of Pillow's readers deliver 16 bits
    np.testing.assert_array_equal(load_image(as_32_bit)[0, :, 2], [0, 1, 128, 255])
    assert load_image(saved(Image.fromarray(values), tmp_path / "deep.tif"))[0, 2, 0] == 128


def test_transparency_is_laid_on_white(tmp_path):
    half_red = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    expected = [255, 127, 127]
    np.testing.assert_allclose(load_image(half_red)[0, 0], expected, atol=1)
    np.testing.assert_allclose(load_image(np.array([[[255, 0, 0, 128]]], np.uint8))[0, 0], expected, atol=1)
    np.testing.assert_allclose(load_image(Image.new("LA", (1, 1), (0, 0)))[0, 0], WHITE)
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    path = saved(palette, tmp_path / "p.png", transparency=1)
    np.testing.assert_array_equal(load_image(path), [[RED, WHITE]])
    colour_key = saved(Image.new("RGB", (1, 1), RED), tmp_path / "key.png", transparency=RED)
    np.testing.assert_array_equal(load_image(colour_key), [[WHITE]])


def test_an_array_as_promised_is_not_copied_and_strides_are_straightened():
    pixels = picture()
    assert load_image(pixels) is pixels
    mirrored = load_image(pixels[:, ::-1])
    assert_promised(mirrored)
    np.testing.assert_array_equal(mirrored, pixels[:, ::-1])


def test_a_pillow_image_stays_open_and_unchanged(tmp_path):
    path = saved(Image.new("RGBA", (2, 2), (1, 2, 3, 4)), tmp_path / "a.png")
    with Image.open(path) as image:
        first, second = load_image(image), load_image(image)
        assert image.mode == "RGBA"
    np.testing.assert_array_equal(first, second)


# ------------------------------------------------------------------------------------ bad pictures


def refused(source: object, *reasons: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    for reason in reasons:
        assert reason in message, message


def test_missing_folder_empty_and_not_an_image(tmp_path):
    refused(tmp_path / "nowhere.jpg", "nowhere.jpg", "no such file")
    refused(tmp_path, tmp_path.name, "is a folder")
    empty = tmp_path / "empty.png"
    empty.touch()
    refused(empty, "empty.png", "0 bytes")
    text = tmp_path / "text.png"
    text.write_text("not a picture\n" * 20)
    refused(text, "text.png", "not an image")
    refused("a\0b.png", "a\\x00b.png")
    refused("two\nlines.png", "two\\nlines.png", "no such file")
    refused("x" * 5000 + ".png", "cannot be opened")
    refused("", "folder")  # Path("") is the current folder


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_truncated(tmp_path, format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"cut.{format.lower()}")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "cut.")


def test_every_prefix_of_a_file_is_refused_or_read(tmp_path):
    path = saved(Image.fromarray(picture(8, 8)), tmp_path / "a.png")
    whole = path.read_bytes()
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            assert_promised(load_image(path))
        except ImageError as error:
            assert "a.png" in str(error) and "\n" not in str(error)


def png_header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has almost no pixels: what a decompression bomb looks like."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 10_000])  # above twice Pillow's limit, and between once and twice
def test_a_bomb_is_refused_without_decoding(tmp_path, side, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header_only(side, side))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    refused(path, "bomb.png", "too large", str(side * side))


def test_an_open_bomb_is_refused_too(monkeypatch):
    image = Image.new("RGB", (20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    refused(image, "20 x 20", "399")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # the user's own decision
    assert load_image(image).shape == (20, 20, 3)


def test_pixels_without_an_agreed_range():
    refused(Image.new("F", (2, 2)), "mode F")
    refused(Image.fromarray(np.array([[70_000]], np.int32)), "70000")
    refused(Image.fromarray(np.array([[-1]], np.int32)), "-1")


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint16), "uint16"),
        (np.zeros((4, 4, 2), np.uint8), "(4, 4, 2)"),
        (np.zeros((3, 4, 4), np.uint8)[None], "(1, 3, 4, 4)"),
        (np.zeros(4, np.uint8), "(4,)"),
        (np.zeros((0, 4, 3), np.uint8), "(0, 4, 3)"),
        (np.zeros((4, 4, 3), bool), "bool"),
    ],
)
def test_bad_arrays(array, reason):
    refused(array, reason, "uint8")


@pytest.mark.parametrize("source", [None, 3, b"bytes", [[0]]])
def test_other_types_are_a_type_error(source):
    with pytest.raises(TypeError, match=type(source).__name__):
        load_image(source)


def test_real_photos(data_dir):
    paths = sorted((data_dir / "wider" / "val").rglob("*.webp"))[:5]
    paths += sorted((data_dir / "scenes").glob("*"))[:5]
    assert len(paths) == 10
    for path in paths:
        image = load_image(path)
        assert_promised(image)
        assert min(image.shape[:2]) > 50
