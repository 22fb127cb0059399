"""Instructions that nothing in an image matches, where that is known; and which names are never asked so, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.image_names import ImageFolder
from training.data.readers.groups import Names
from training.data.readers.instances import Instances, name_of
from training.data.readers.names import NO_OBJECT, category_text, clean_name, mentions, said_of, texts_of
from training.data.readers.records import Key
from training.data.samples import Item, Sample

# Classes that say of nothing what it is, as clean names.
BACKGROUND = NO_OBJECT | frozenset(
    ("n/a", "none", "nothing", "null", "object", "objects", "other", "others", "thing", "things", "unknown")
)


class Absent:
    """What may be asked though an image has none of it. verified: an image's record says what it has none of (LVIS),
    so that a name may be asked that is annotated nowhere."""

    def __init__(
        self, index: Instances, images: Path | ImageFolder, names: Names, *, seed: int, verified: bool = False
    ) -> None:
        self.index, self.images, self.names = index, images, names
        self.seed, self.verified = seed, verified
        known = index.categories.known
        self.key_of = {c: clean_name(category_text(record)) for c, record in known.items()}
        self.parents: dict[str, set[str]] = {}
        for c, record in known.items():
            above = record.get("supercategory")
            parent = clean_name(category_text({"name": above})) if isinstance(above, str) else ""
            if parent and parent != self.key_of[c]:
                self.parents.setdefault(self.key_of[c], set()).add(parent)
        used = {clean_name(n) for every in index.by_image.values() for a in every for n in names(a)}
        above_others = {parent for parents in self.parents.values() for parent in parents}
        self.ancestors = {key: self._above(key) for key in {*self.key_of.values()}}
        self.excluded: dict[str, list[str]] = {}
        self.askable: dict[str, Key] = {}  # the first category of each name
        for c, key in self.key_of.items():
            why = _excluded(key, above_others, used, verified)
            if why:
                self.excluded.setdefault(why, []).append(category_text(known[c]))
            elif key:
                self.askable.setdefault(key, c)

    def _above(self, key: str) -> set[str]:
        """The supercategories of a name, and theirs."""
        found, left = set[str](), [key]
        while left:
            new = self.parents.get(left.pop(), set()) - found
            found |= new
            left += new
        return found

    def _unsure(self, annotation: dict[str, Any]) -> bool:
        """Whether a text alone says what it is."""
        kinds = {clean_name(name) for name in self.index.category_names(annotation)}
        return kinds <= BACKGROUND and bool(texts_of(annotation))

    def notes(self) -> list[str]:
        """Which names are never asked, and why."""
        return [
            f"--no-target never asks {_listed(names)}: {why}" for why, names in sorted(self.excluded.items())
        ] + self._empty()

    def _empty(self) -> list[str]:
        if self.verified:
            return []
        bare = sum(not self.index.over(file) and file not in self.index.lost for file in self.index.by_file)
        if not bare:
            return []
        return [f"{bare} images have no annotation, and --no-target takes them for searched and empty"]

    def items(self, file: str, count: int, among: Iterable[Any] | None = None) -> list[Item]:
        """among: ids of categories that may be named; None for all. The choice depends on the seed and the image
        alone."""
        index = self.index
        if not count or file in index.lost or file in index.unnamed:
            return []  # it may be what is lost
        over = index.over(file)
        present = {clean_name(name) for a in over for name in self.names(a)}
        if any(not self.names(a) or self._unsure(a) for a in over):
            return []
        records = [index.images.known[i] for i in index.by_file[file]]
        said = {text for record in (*over, *records) for text in said_of(record)}
        free = self.askable
        if among is not None:
            ids = [key for value in among if (key := index.categories.find(value)) is not None]
            free = {self.key_of[c]: c for c in ids if self.key_of[c] in self.askable}
        left = [
            c
            for key, c in free.items()
            if not (kinds := {key, *self.ancestors[key]}) & present
            and not any(mentions(text, kind) for text in said for kind in kinds)
        ]
        image_id = index.by_file[file][0]
        rng = np.random.default_rng([self.seed, *str(image_id).encode("utf-8", "backslashreplace")])
        chosen = sorted(rng.permutation(len(left))[:count])
        return [self._item(file, image_id, left[n]) for n in chosen]

    def _item(self, file: str, image_id: Key, category: Key) -> Item:
        name, text = (
            f"{self.index.file.stem}_{image_id}_none_{category}",
            category_text(self.index.categories.known[category]),
        )
        return Item(name, name_of(self.index.image(file)), partial(_none, self.index, self.images, file, name, text))


def _none(index: Instances, images: Path | ImageFolder, file: str, name: str, text: str) -> Sample:
    ids = index.by_file[file]
    for image_id in ids:  # each must be of the annotated size
        index.picture(image_id, images)
    mended = dict.fromkeys(why for i in ids for why in index.mended.get(id(index.images.known[i]), ()))
    return Sample(name, text, index.agreed(file, images), (), mended=tuple(mended))


def _excluded(key: str, above: set[str], used: set[str], verified: bool) -> str:
    if key in BACKGROUND:
        return "it is no kind of object"
    if key in above:
        return "it is the supercategory of others, and what is of these is of it too"
    if key not in used and not verified:
        return "no annotation of the file is of it, so it may never have been looked for"
    return ""


def _listed(names: Sequence[str]) -> str:
    some = ", ".join(f'"{name[:40]}"' for name in names[:8])
    return f"{some} and {len(names) - 8} others" if len(names) > 8 else some
