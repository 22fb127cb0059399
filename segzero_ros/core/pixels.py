"""Pictures to pixels, by one rule for raw topics, compressed topics and files: docs/images.md.

Pillow reads a picture's head and so tells its format and size before anything is decoded. What cameras send, JPEG and
PNG, is decoded by OpenCV, which is faster and keeps 16 bits of colour; all else by Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PIL
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from segzero_ros.core.contract import Image, SegzeroError, Status
from segzero_ros.core.failures import is_out_of_memory
from segzero_ros.core.text import first_line

Array = NDArray[Any]

# More than any camera of a robot has, and below the limit at which Pillow refuses by itself, so that all ways into the
# program have this one. docs/images.md has what a picture of this size takes.
MAX_PIXELS = 100_000_000
MAX_BYTES = 10 * MAX_PIXELS  # of a file; the largest picture has 8 bytes a pixel, and what its format adds
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # none that needs another program
_COLOURS = {"P", "PA", "LA", "RGBA", "RGBX", "CMYK", "YCbCr"}  # Pillow's modes that it makes RGB
# EXIF's orientation: how to turn the stored pixels upright.
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


def read_image(path: Path) -> Image:
    """A picture file as RGB uint8 (H, W, 3), turned upright by its EXIF orientation.

    Raises OSError if the file cannot be opened, and SegzeroError(UNSUPPORTED_ENCODING) if it is no whole picture.
    """
    with path.open("rb") as file:
        stream: BinaryIO = file if file.seekable() else BytesIO(file.read(MAX_BYTES))
        with _refusals():
            picture = _open(stream)
            pixels = _decode(picture, stream)
            turn = _UPRIGHT.get(_orientation(picture))  # type: ignore[call-overload]
            return np.ascontiguousarray(rgb_from_pixels(turn(pixels) if turn else pixels))


def decode_picture(data: bytes | memoryview) -> Array:
    """The bytes of a picture as stored, not turned: grey (H, W) or RGB (H, W, 3); uint8, uint16 or float32.

    Alpha is dropped; of several pictures the first is taken. Raises SegzeroError(UNSUPPORTED_ENCODING).
    """
    stream = BytesIO(data)
    with _refusals():
        return _decode(_open(stream), stream)


def rgb_from_pixels(pixels: Array, depth: bool = False) -> Image:
    """Grey (H, W) or RGB (H, W, 3) of uint8, uint16 or float32 to RGB uint8 (H, W, 3).

    Sixteen bits are scaled by 255 / 65535; depth, and float32 always, by the largest finite value. What is not finite
    or negative becomes 0.
    """
    if pixels.dtype == np.float32:
        pixels = np.where(np.isfinite(pixels) & (pixels > 0), pixels, np.float32(0))
    if depth or pixels.dtype == np.float32:
        white = pixels.max() or pixels.dtype.type(1)
        if pixels.dtype == np.float32:  # 255 / white may not be a float32
            pixels /= white
            white = np.float32(1)
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / float(white))
    elif pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels, np.uint8)


def check_size(height: int, width: int) -> None:
    """Raises SegzeroError(UNSUPPORTED_ENCODING) for a size that is not taken."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise unsupported(f"an image of {width} x {height} pixels is not taken; it may have up to {MAX_PIXELS:,}")


def unsupported(sentence: str) -> SegzeroError:
    return SegzeroError(Status.UNSUPPORTED_ENCODING, sentence)


def _open(stream: BinaryIO) -> PIL.Image:
    """Reads the head alone, and decodes nothing."""
    try:
        picture = PIL.open(stream, formats=FORMATS)
    except PIL.DecompressionBombError as error:
        raise unsupported(f"it has more than {MAX_PIXELS:,} pixels") from error
    except PIL.UnidentifiedImageError as error:
        raise unsupported(f"it is no picture of the formats {', '.join(FORMATS)}") from error
    check_size(picture.height, picture.width)
    if isinstance(picture, TiffImageFile):  # a tile may be larger than the picture, and is decoded whole
        check_size(picture.tag_v2.get(TILELENGTH, 1), picture.tag_v2.get(TILEWIDTH, 1))
    return picture


def _decode(picture: PIL.Image, stream: BinaryIO) -> Array:
    mode = picture.mode
    if picture.format in ("JPEG", "MPO", "PNG"):
        if stream.seek(0, SEEK_END) > MAX_BYTES:
            raise unsupported(f"it has more than {MAX_BYTES:,} bytes")
        stream.seek(0)
        data = stream.read()
        if picture.format == "PNG":
            _check_chunks(data)
        flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if pixels is None or pixels.shape[:2] != (picture.height, picture.width):
            raise unsupported("it is damaged or cut short")
        return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if mode in ("L", "RGB"):
        return np.asarray(picture)
    if mode == "1":
        return np.asarray(picture.convert("L"))
    if mode.startswith("I;16") or (mode == "I" and picture.format == "PPM"):
        return np.asarray(picture).astype(np.uint16)
    if mode == "F":
        return np.asarray(picture, np.float32)
    if mode == "RGBa":  # premultiplied
        return np.asarray(picture.convert("RGBA").convert("RGB"))
    if mode in _COLOURS:
        return np.asarray(picture.convert("RGB"))
    raise unsupported(f"pixels of the kind {mode} are not taken")


def _check_chunks(data: bytes) -> None:
    """OpenCV makes room for as much as a chunk of a PNG says that it holds, up to 4 GB, before it reads on."""
    start = 8
    while start + 8 <= len(data) and data[start + 4 : start + 8] != b"IEND":
        start += 12 + int.from_bytes(data[start : start + 4], "big")
        if start > len(data):
            raise unsupported("it is damaged or cut short")


def _orientation(picture: PIL.Image) -> int:
    """EXIF's orientation, 1 to 8 if it is legal. A broken EXIF tells none, as in every viewer."""
    try:
        # Of a PNG that has none in its head, Pillow would decode the whole in search.
        if picture.format == "PNG" and "exif" not in picture.info:
            return 1
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever a hostile picture makes the libraries raise becomes one sentence."""
    try:
        yield
    except SegzeroError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise SegzeroError(Status.OUT_OF_MEMORY, "there is too little memory to decode it") from error
        raise unsupported(f"it is damaged or cut short: {first_line(error, 120)}") from error
