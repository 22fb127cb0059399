"""The index over a COCO-style instances file that COCO, LVIS, RefCOCO and gRefCOCO share.

https://cocodataset.org/#format-data. Structure is checked here once (ids, images, categories); a single annotation's
geometry when it is read, since a sample with one broken object out of three would teach a wrong answer. What is
ambiguous is refused; what is harmless is put right in the records themselves and kept in `mended`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.data.image_names import ImageFolder, find_image
from training.data.images import Picture, image_size
from training.data.masks import read_shape
from training.data.objects import Mask, ignored_beside
from training.data.readers.boxes import check_box
from training.data.readers.holes import check_holes
from training.data.readers.names import category_text
from training.data.readers.records import Key, Record, Table, key_of, shown
from training.data.samples import BadRow, Problem

SAME_MASK = "an object is annotated twice with equal masks; it is taken once"


@dataclass(frozen=True)
class Objects:
    """What some annotations show. annotations: of each mask, without those that repeat one. ignore: the union of those
    that are no objects where no object is, or None. mended: as in a Sample."""

    masks: tuple[Mask, ...]
    annotations: tuple[Record, ...]
    ignore: Mask | None
    mended: tuple[str, ...]


@dataclass(frozen=True)
class Instances:
    """An instances file by id. by_image: annotations in the file's order. problems: rows that are left away.

    Ids are those of `images` and `categories`, also in annotations. by_file: the ids of an image file's records.
    lost: annotations left away that may be of an image file, by it: what is said of that image may lack them. unnamed:
    files over which something is of an unknown category. twice: ids that several annotations have, over other images.
    mended: what was amiss with a record and harmless, by the record's identity. holes: whether a polygon within another
    may be one; published sets are read as pycocotools reads them, which knows none.
    """

    file: Path
    images: Table = field(repr=False)
    categories: Table = field(repr=False)
    by_file: dict[str, list[Key]] = field(repr=False)
    annotations: dict[Key, Record] = field(default_factory=dict, repr=False)
    by_image: dict[Key, list[Record]] = field(default_factory=dict, repr=False)
    problems: list[Problem] = field(default_factory=list, repr=False)
    lost: dict[str, list[Record]] = field(default_factory=dict, repr=False)
    unnamed: set[str] = field(default_factory=set, repr=False)
    twice: set[Key] = field(default_factory=set, repr=False)
    mended: dict[int, tuple[str, ...]] = field(default_factory=dict, repr=False)
    file_of: dict[Key, str] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)
    folder: ImageFolder | None = field(default=None, repr=False)  # that knows all names of the file
    holes: bool = False
    _names: dict[Any, tuple[str, ...]] = field(default_factory=dict, repr=False)  # by category

    def over(self, file: str) -> list[Record]:
        """The annotations over an image file."""
        return [a for image_id in self.by_file[file] for a in self.by_image.get(image_id, ())]

    def image(self, file: str) -> Record:
        """The first record of an image file."""
        return self.images.known[self.by_file[file][0]]

    def annotation(self, value: Any) -> Record:
        """By its id, as a number or as text. Raises ValueError where there is none, or more than one."""
        key = key_of(value)
        for known in (key, *((int(key),) if isinstance(key, str) and key.isdecimal() else (str(key),))):
            if known in self.twice:
                raise ValueError(f"there are several annotations {shown(value)}")
            if known in self.annotations:
                return self.annotations[known]  # type: ignore[index]
        raise ValueError(f"there is no annotation {shown(value)}")

    def category_names(self, annotation: Record) -> tuple[str, ...]:
        """The name of its category; all that it can be where the category's id is given twice."""
        value = annotation.get("category_id")
        if type(value) not in (int, str, float):
            return ()
        if value not in self._names:
            key = self.categories.find(value)
            records = self.categories.find_spoiled(value) if key is None else [self.categories.known[key]]
            every = [category_text(r) for r in records if isinstance(r.get("name"), str)]
            self._names[value] = tuple(dict.fromkeys(filter(None, every)))
        return self._names[value]

    def amiss(self, annotations: Sequence[Record]) -> Iterator[str]:
        """What was amiss with annotations and their images' records, and harmless."""
        if self.mended:
            for annotation in annotations:
                yield from self.mended.get(id(annotation), ())
                yield from self.mended.get(id(self.images.known[annotation["image_id"]]), ())

    def objects(self, annotations: Sequence[Record], size: tuple[int, int], aside: Sequence[Record] = ()) -> Objects:
        """Masks of (height, width). aside: annotations of the same instruction that are no objects.

        Raises BadRow that names each annotation at fault, and those that fall with it.
        """
        every = [*annotations, *aside]
        masks: list[Mask] = []
        wrong, mended = [], list(self.amiss(every))
        for annotation in every:
            try:
                mask, borne = read_mask(annotation, size, self.holes)
                masks.append(mask)
                mended += borne
            except ValueError as error:
                wrong.append((annotation, str(error)))
        if wrong:
            raise fallen(wrong, every)
        count = len(annotations)
        kept = different(masks[:count])
        if len(kept) < count:
            mended.append(SAME_MASK)
        found, whose = tuple(masks[n] for n in kept), tuple(annotations[n] for n in kept)
        ignore = ignored_beside(np.asarray(np.logical_or.reduce(masks[count:])), found) if aside else None
        return Objects(found, whose, ignore, tuple(dict.fromkeys(mended)))

    def picture(self, image_id: Any, folder: Path | ImageFolder) -> Picture:
        """The image's file. Raises ValueError if it is missing or not of the annotated size."""
        record = self.images.known[image_id]
        annotated = None if record["height"] is None else (record["height"], record["width"])
        path = find_image(folder, name_of(record), annotated)
        if record["height"] is None:
            return path
        height, width = image_size(path)
        if (height, width) != (record["height"], record["width"]):
            said = f"{record['width']} x {record['height']}"
            raise ValueError(f"the image {path.path} is {width} x {height}, the annotations say {said}")
        return path

    def pictures(self, annotations: Sequence[Record], folder: Path | ImageFolder) -> tuple[Picture, tuple[int, int]]:
        """The one file that annotations are of, and its (height, width). Raises BadRow as `objects` does."""
        found: dict[Key, Picture | str] = {}
        for image_id in dict.fromkeys(a["image_id"] for a in annotations):
            try:
                found[image_id] = self.picture(image_id, folder)
            except ValueError as error:
                found[image_id] = str(error)
        wrong = [(a, why) for a in annotations if isinstance(why := found[a["image_id"]], str)]
        if wrong:
            raise fallen(wrong, annotations)
        try:
            path = self.agreed(self.file_of[annotations[0]["image_id"]], folder)
        except ValueError as error:
            raise fallen([(a, str(error)) for a in annotations], annotations) from error
        return path, image_size(path)

    def agreed(self, file: str, folder: Path | ImageFolder) -> Picture:
        """An image file as all of its records that can be read say. Raises ValueError where they do not agree, or none
        can be read."""
        pictures, wrong = [], []
        for image_id in self.by_file[file]:
            try:
                pictures.append(self.picture(image_id, folder))
            except ValueError as error:
                wrong.append(error)
        if not pictures:
            raise wrong[0]
        first = pictures[0]
        if any((p.size, p.upright) != (first.size, first.upright) for p in pictures):
            raise ValueError(
                f"the records of the image {first.path} give it different sizes: some are of its pixels as stored, "
                "some as EXIF's orientation turns them"
            )
        mended = dict.fromkeys(why for picture in pictures for why in picture.mended)
        return replace(first, mended=tuple(mended))


def read_mask(annotation: Record, size: tuple[int, int], holes: bool = False) -> tuple[Mask, tuple[str, ...]]:
    """bool (H, W), and what was amiss and harmless. holes: as in Instances. Raises ValueError for a shape or a box that
    cannot be."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        raise ValueError("it has no segmentation")
    shape = read_shape(segmentation, *size)
    if not shape.mask.any():
        raise ValueError("the mask is empty")
    borne = (*shape.mended, *check_box(annotation.get("bbox"), shape, segmentation))
    mask, nested = check_holes(shape, annotation.get("area")) if holes and shape.parts else (shape.mask, ())
    return mask, (*borne, *nested)


def different(masks: Sequence[Mask]) -> list[int]:
    """The numbers of those that do not repeat an earlier one."""
    if len(masks) < 2:
        return list(range(len(masks)))
    digests = (hashlib.blake2b(np.packbits(mask).tobytes(), digest_size=16).digest() for mask in masks)
    first: dict[bytes, int] = {}
    for n, digest in enumerate(digests):
        first.setdefault(digest, n)
    return list(first.values())


def fallen(wrong: Sequence[tuple[Record, str]], annotations: Sequence[Record]) -> BadRow:
    """wrong: annotations of one instruction and why. annotations: all of it; the others fall with these."""
    bad = {id(a) for a, _ in wrong}
    rest = [f"annotation {a['id']}" for a in annotations if id(a) not in bad]
    more = (
        f"; {', '.join(rest[:20])}{' and others' * (len(rest) > 20)} of the same instruction fall with it"
        if rest
        else ""
    )
    return BadRow(*((f"annotation {a['id']}", f"{why}{more}") for a, why in wrong))


def name_of(image: Record) -> str:
    """The file name; LVIS 1.0 gives only the address that ends in it, folder included (train2017/...)."""
    return str(image.get("file_name") or "/".join(str(image["coco_url"]).split("/")[-2:]))
