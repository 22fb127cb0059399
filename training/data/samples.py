"""What a reader hands on: samples, and by name whatever could not become one."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PIL

from training.data.objects import Mask, Point

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Target:
    """What is to be said of one object: whole pixels of the sample's image, the box's far edges inclusive."""

    box: Box
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Sample:
    """One instruction over one image.

    text: as annotated. masks: of the objects that match, bool (H, W) each; none where nothing matches. ignore: pixels
    that count neither way (LISA's protocol), or None. image: a file, or RGB uint8 (H, W, 3). targets: where boxes and
    points are annotated and masks are not (the published rows). source_size: (height, width) before somebody else's
    resize, or None. others: further texts that mean the same.
    """

    id: str
    text: str
    image: Path | NDArray[np.uint8]
    masks: tuple[Mask, ...] = field(repr=False)
    ignore: Mask | None = field(default=None, repr=False)
    others: tuple[str, ...] = ()
    targets: tuple[Target, ...] | None = None
    source_size: tuple[int, int] | None = None
    ann_ids: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()

    def pixels(self) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3). Raises ValueError for a file that is no image."""
        return read_image(self.image) if isinstance(self.image, Path) else self.image


@dataclass(frozen=True)
class Problem:
    """Why something annotated is no row. kind: "bad", or "left out" for what is right and was not wanted; "mended" for
    what is a row nevertheless."""

    file: str
    id: str
    reason: str
    kind: Literal["bad", "left out", "mended"] = "bad"


class BadRow(ValueError):
    """A sample that cannot be; one (id, reason) for each annotation that is at fault."""

    def __init__(self, *reasons: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{who}: {why}" for who, why in reasons))
        self.reasons = reasons


class LeftOut(BadRow):
    """A sample that is right and not wanted."""


@dataclass(frozen=True)
class Item:
    """A sample before its image and masks are read. image: equal for items over the same image."""

    id: str
    image: str
    read: Callable[[], Sample] = field(repr=False)


@dataclass(frozen=True)
class Source:
    """A data set in a fixed order, read lazily, so that a run continues where another ended.

    problems: what was wrong with rows that never became an item (no image of that id, an id given twice, ...). notes:
    what is to be said of the file as a whole, in sentences with their counts, such as a key that nothing reads.
    """

    name: str
    file: str
    items: Sequence[Item] = field(repr=False)
    problems: Sequence[Problem] = field(default=(), repr=False)
    notes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Sample | Problem]:
        """Every row once: as a sample, or as the problems that it has."""
        yield from self.problems
        for item in self.items:
            sample, problems = read(item, self.file)
            yield from problems
            if sample is not None:
                yield sample


def read(item: Item, file: str) -> tuple[Sample | None, list[Problem]]:
    """The sample, or why there is none. Whatever a row makes the reader raise is that row's problem, not the run's."""
    try:
        return item.read(), []
    except LeftOut as error:
        return None, [Problem(file, who, why, "left out") for who, why in error.reasons]
    except BadRow as error:
        return None, [Problem(file, who, why) for who, why in error.reasons]
    except ValueError as error:
        return None, [Problem(file, item.id, str(error))]
    except Exception as error:
        return None, [Problem(file, item.id, f"{type(error).__name__}: {error}")]


_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}  # how a JPEG and a PNG begin and end


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3), upright by its EXIF orientation. Raises ValueError for a file that is no whole image."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"the image {path} is missing") from None
    except OSError as error:
        raise ValueError(f"the image {path} cannot be read: {error.strerror}") from error
    if _ENDS.get(data[:2], b"") not in data[-4096:] and not _whole(data):  # the decoder may fill the rest with grey
        raise ValueError(f"the image {path} is cut short")
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as error:  # too many pixels
        raise ValueError(f"the image {path} cannot be read: {error.err}") from error
    if found is None:
        raise ValueError(f"the image {path} is no image")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def _whole(data: bytes) -> bool:
    """Of a file that ends otherwise than it should, such as a motion photo: a video stands behind the image."""
    try:
        with PIL.open(io.BytesIO(data)) as image:
            image.load()  # refuses what is cut off
    except (OSError, SyntaxError, ValueError, PIL.DecompressionBombError):
        return False
    return True


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as `read_image` gives it, from the file's head alone. Raises ValueError."""
    try:
        with PIL.open(path) as file:
            width, height = file.size
            # Of a PNG that has none, all of it would be read in search.
            has = file.format != "PNG" or "exif" in file.info
            turned = has and file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except FileNotFoundError:
        raise ValueError(f"the image {path} is missing") from None
    except (OSError, SyntaxError, PIL.DecompressionBombError) as error:
        raise ValueError(f"the image {path} is no image") from error
    return (width, height) if turned else (height, width)


# COCO's own numbers are the same in 2014 and 2017, whatever stands before them; any other name is taken as it is.
_OF_COCO = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12}\.\w+)")


def find_image(folder: Path, name: str) -> Path:
    """An image by its annotated name. COCO's images are found under the names of 2014 and of 2017.

    Raises ValueError if it is missing or the name leads out of the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the image name {name!r} leads out of {folder}")
    number = _OF_COCO.fullmatch(path.name)
    for candidate in (path, *((folder / path.name, folder / number[1]) if number else ())):
        if candidate.exists():
            return candidate
    raise ValueError(f"the image {path} is missing")
