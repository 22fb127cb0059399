"""Image files as annotators see them: RGB, eight bits, upright; what has no such form is refused and never shown black.

* Sixteen bits, floating point and the like have no known white: they are refused unless a range is given.
* Transparent pixels are shown on white, as a browser shows them, whatever colour lies under them.
* EXIF's orientation is applied. Where the annotated size is that of the pixels as stored, and only that, the
  annotations are of these, and the image is read as stored; where sizes cannot tell (turned by half, mirrored, square,
  not annotated) it is read upright and said to be in doubt.

Pillow reads the head. JPEG, PNG and the like of eight bits are decoded by OpenCV, as in the published code.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PIL

from segzero_ros.core.pixels import _UPRIGHT, _orientation

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # (height, width)
Grey = tuple[float, float] | str | None  # what is shown as black and as white, "auto" for a file's own extremes

_BACK = {**{n: n for n in range(1, 9)}, 6: 8, 8: 6}  # the orientation that undoes another
_SWAPPED = (5, 6, 7, 8)
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_COLOURS = (*_ALPHA, "1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")  # modes that Pillow makes RGB without loss of range
_SEVERAL = ("GIF", "TIFF", "PNG", "WEBP")
MOST_LOST = 0.98  # of the pixels, that a range may show as black or white though their values are others
BLACK = 16  # the lightest of 255 that looks black: 12 bits shown as 16 reach it
IN_DOUBT = (
    "its EXIF orientation turns or mirrors it, and its size cannot tell whether the annotations do so too; it is read "
    "as turned: look at the page, and take the tag out of the file where that is wrong"
)
AS_STORED = "its annotations have the size of the pixels before EXIF's orientation: it is read as stored, not turned"
ON_WHITE = "its transparent pixels are shown on white"
OWN_EXTREMES = "its {} is shown between the file's own extremes"
FIRST_OF_SEVERAL = "its file holds several pictures, of which the first is read"


@dataclass(frozen=True)
class Head:
    """What an image file says of itself. size: as stored. deep: what its values are if eight bits do not hold them."""

    format: str
    mode: str
    size: Size
    orientation: int
    deep: str
    transparent: bool
    several: bool

    @property
    def upright(self) -> Size:
        return (self.size[1], self.size[0]) if self.orientation in _SWAPPED else self.size


@dataclass(frozen=True)
class Picture:
    """An image file and how it is read. size: (height, width) of its `pixels`. mended: as in a Sample."""

    path: Path
    size: Size
    upright: bool = True
    grey: Grey = None
    mended: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        return self.path.stem

    def pixels(self) -> Pixels:
        """RGB uint8 (H, W, 3). Raises ValueError for a file that is no whole image."""
        return read_image(self.path, self.grey, self.upright)


def open_picture(path: Path, annotated: tuple[Any, Any] | None = None, grey: Grey = None) -> Picture:
    """How an image is to be read, from its head (and its pixels where they may be transparent).

    annotated: (height, width) that the annotations give. Whether it is the picture's own is the caller's to say.
    Raises ValueError for what is no image, or has no form that can be shown.
    """
    head = _head(path)
    mended = []
    if head.deep and grey is None:
        raise ValueError(
            f"the image {path} has {head.deep}, and nothing says which value is white: give --grey-range LOW HIGH, "
            "shown as black and white, or --grey-range auto for each file's own extremes"
        )
    if head.deep and grey == "auto":
        mended.append(OWN_EXTREMES.format(head.deep))
    if head.mode not in _COLOURS and not head.deep:
        raise ValueError(f"the image {path} has pixels of the kind {head.mode}, which are not read")
    if head.several:
        mended.append(FIRST_OF_SEVERAL)
    if head.transparent and not head.deep and _shows_through(path):
        mended.append(ON_WHITE)
    upright = True
    if head.orientation != 1:
        if head.upright == head.size or (annotated is None and head.orientation in _SWAPPED):
            mended.append(IN_DOUBT)
        elif annotated is not None and tuple(annotated) == head.size:
            mended.append(AS_STORED)
            upright = False
    return Picture(path, head.upright if upright else head.size, upright, grey, tuple(mended))


def image_size(image: Path | Picture) -> Size:
    """(height, width) as its pixels are read, from the file's head alone. Raises ValueError."""
    return image.size if isinstance(image, Picture) else _head(image).upright


def read_image(path: Path, grey: Grey = None, upright: bool = True) -> Pixels:
    """RGB uint8 (H, W, 3), upright by its EXIF orientation, or as stored. Raises ValueError for a file that is no whole
    image, or of more than eight bits where no range is given."""
    head = _head(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the image {path} cannot be read: {error.strerror}") from error
    if _ENDS.get(data[:2], b"") not in data[-4096:] and not _whole(data):  # the decoder may fill the rest with grey
        raise ValueError(f"the image {path} is cut short")
    try:
        pixels = _shown(_deep_pixels(data, head), grey) if head.deep else _colours(data, head)
    except cv2.error as error:  # too many pixels
        raise ValueError(f"the image {path} cannot be read: {error.err}") from error
    except PIL.DecompressionBombError as error:
        raise ValueError(f"the image {path} {_too_large(error)}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error
    if pixels.shape[:2] != head.size:
        raise ValueError(f"the image {path} is damaged: its head and its pixels differ in size")
    turn = _UPRIGHT.get(head.orientation) if upright else None
    return np.ascontiguousarray(turn(pixels) if turn else pixels)


_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}  # how a JPEG and a PNG begin and end


def _whole(data: bytes) -> bool:
    """Of a file that ends otherwise than it should, such as a motion photo: a video stands behind the image."""
    try:
        with PIL.open(io.BytesIO(data)) as image:
            image.load()  # refuses what is cut off
    except (OSError, SyntaxError, ValueError, PIL.DecompressionBombError):
        return False
    return True


def _head(path: Path) -> Head:
    try:
        with path.open("rb") as file, PIL.open(file) as image:
            width, height = image.size
            orientation = _orientation(image)
            orientation = orientation if orientation in _UPRIGHT else 1
            if image.format == "TIFF" and orientation in _SWAPPED:  # Pillow gives the size after turning
                width, height = height, width
            deep = _deep(image, file)
            transparent = image.mode in _ALPHA or "transparency" in image.info
            several = image.format in _SEVERAL and getattr(image, "n_frames", 1) > 1
            return Head(image.format or "", image.mode, (height, width), orientation, deep, transparent, several)
    except FileNotFoundError:
        link = ": it is a link to a file that is not there" if path.is_symlink() else ""
        raise ValueError(f"the image {path} is missing{link}") from None
    except PIL.DecompressionBombError as error:
        raise ValueError(f"the image {path} {_too_large(error)}") from error
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"the image {path} is no image of a known format") from error
    except OSError as error:
        why = f"cannot be read: {error.strerror}" if error.strerror else f"is no image: {error}"
        raise ValueError(f"the image {path} {why}") from error
    except (SyntaxError, EOFError) as error:
        raise ValueError(f"the image {path} is no image: {error}") from error


def _too_large(error: Exception) -> str:
    numbers = [f"{int(n):,}" for n in re.findall(r"\d+", str(error))]
    return f"has {numbers[0]} pixels, more than the {numbers[1]} that the library takes" if numbers[1:] else str(error)


def _deep(image: PIL.Image, file: BinaryIO) -> str:
    """What the values are where eight bits do not hold them."""
    if image.mode == "F":
        return "floating-point grey"
    if image.mode.startswith("I"):
        return "16-bit grey" if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else "32-bit grey"
    bits = 8
    if image.format == "PNG":
        file.seek(24)
        bits = file.read(1)[0]
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(258, (8,)))  # type: ignore[attr-defined]
    if bits <= 8:
        return ""
    return f"{bits}-bit {'grey' if image.mode.startswith('L') else 'colours'}"


def _shows_through(path: Path) -> bool:
    try:
        with PIL.open(path) as image:
            low, _ = image.convert("RGBA").getchannel("A").getextrema()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"the image {path} cannot be read: {error}") from error
    return bool(low < 255)  # type: ignore[operator]


def _colours(data: bytes, head: Head) -> Pixels:
    """RGB uint8 (H, W, 3) of an image of eight bits, as stored."""
    plain = head.mode in ("L", "RGB") or (head.format == "PNG" and head.mode in ("1", "P"))
    if plain and not head.transparent and head.format != "TIFF":
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if found is None:
            raise ValueError("it is damaged")
        return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)
    with PIL.open(io.BytesIO(data)) as image:
        if not head.transparent:
            return _stored(np.asarray(image.convert("RGB")), head)
        over = image.convert("RGBA")
    white = PIL.new("RGBA", over.size, (255, 255, 255, 255))
    return _stored(np.asarray(PIL.alpha_composite(white, over).convert("RGB")), head)


def _deep_pixels(data: bytes, head: Head) -> NDArray[Any]:
    """(H, W) or (H, W, 3) of whatever type, as stored."""
    if head.mode.startswith(("I", "F")):
        with PIL.open(io.BytesIO(data)) as image:
            return _stored(np.asarray(image), head)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise ValueError("it is damaged")
    return np.asarray(found[..., 2::-1] if found.ndim == 3 else found)


def _stored(pixels: NDArray[Any], head: Head) -> NDArray[Any]:
    """Pillow turns a TIFF while it decodes: back again."""
    turn = _UPRIGHT.get(_BACK[head.orientation]) if head.format == "TIFF" else None
    return turn(pixels) if turn else pixels


def _shown(values: NDArray[Any], grey: Grey) -> Pixels:
    """Values between the range's ends as RGB uint8 (H, W, 3). Raises ValueError where there is no range."""
    if grey is None:
        raise ValueError("nothing says which value is white: --grey-range LOW HIGH, or --grey-range auto")
    real = values.astype(np.float64)
    finite = real[np.isfinite(real)]
    if isinstance(grey, str):
        if not finite.size or finite.min() == finite.max():
            raise ValueError("all of its pixels have the same value, which is no range")
        low, high = float(finite.min()), float(finite.max())
    else:
        low, high = grey
    shown = np.nan_to_num(np.clip((real - low) / (high - low), 0, 1))
    pixels = np.rint(shown * 255).astype(np.uint8)
    # Neither darkness nor glare if it is another value than the range's end: of another unit, or another camera.
    lost = ((pixels <= BLACK) & (real != low)) | ((pixels == 255) & (real != high))
    if finite.size and lost[np.isfinite(real)].mean() > MOST_LOST:
        raise ValueError(
            f"nearly all of its values, {finite.min():g} to {finite.max():g}, would be shown black or white "
            f"between {low:g} and {high:g}: give the range that most of them have, --grey-range LOW HIGH"
        )
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels)
