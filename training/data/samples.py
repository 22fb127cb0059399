"""What a reader hands on: samples, and by name whatever could not become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.images import Picture, read_image
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
    image: Picture | Path | NDArray[np.uint8]
    masks: tuple[Mask, ...] = field(repr=False)
    ignore: Mask | None = field(default=None, repr=False)
    others: tuple[str, ...] = ()
    targets: tuple[Target, ...] | None = None
    source_size: tuple[int, int] | None = None
    ann_ids: tuple[str, ...] = ()
    mended: tuple[str, ...] = ()

    def pixels(self) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3). Raises ValueError for a file that is no image."""
        if isinstance(self.image, Picture):
            return self.image.pixels()
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


def with_images_mended(sample: Sample) -> Sample:
    """The sample, which says too what was mended in finding and reading its image."""
    more = sample.image.mended if isinstance(sample.image, Picture) else ()
    return replace(sample, mended=(*sample.mended, *more)) if more else sample


def read(item: Item, file: str) -> tuple[Sample | None, list[Problem]]:
    """The sample, or why there is none. Whatever a row makes the reader raise is that row's problem, not the run's.

    What was mended in the image is said of the sample.
    """
    try:
        return with_images_mended(item.read()), []
    except LeftOut as error:
        return None, [Problem(file, who, why, "left out") for who, why in error.reasons]
    except BadRow as error:
        return None, [Problem(file, who, why) for who, why in error.reasons]
    except ValueError as error:
        return None, [Problem(file, item.id, str(error))]
    except Exception as error:
        return None, [Problem(file, item.id, f"{type(error).__name__}: {error}")]
