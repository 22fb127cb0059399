"""An instances file read into its index: ids, images and categories are checked, annotations put under images.

What is ambiguous spoils what depends on it: an id of two different records all that points to it, an annotation that is
left away the instruction that it belongs to. What is harmless is put right in the records, and kept in `mended`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Container
from functools import partial
from pathlib import Path
from typing import Any

from training.data.image_names import ImageFolder, image_folder
from training.data.masks import is_number
from training.data.readers.files import names_in_doubt, one_name_per_file
from training.data.readers.instances import Instances, name_of
from training.data.readers.names import MISSING_AS_TEXT, category_text, clean_name, has_missing, texts_of
from training.data.readers.records import (
    NUMBER_OR_TEXT,
    SIZE_AS_TEXT,
    Key,
    Record,
    flag_of,
    key_of,
    read_table,
    shown,
    side_of,
)
from training.data.samples import Problem
from training.data.text_files import load_json

NO_ID = "an annotation has no id, and none is needed"
ID_TWICE = "an annotation's id is given twice, and nothing needs it"
AGAIN = "an annotation is there twice, word for word; it is taken once"
NO_CATEGORY = "its category is none of the file; its text is the instruction"
FLAG_AS_TEXT = "iscrowd is written as text"
PER_CENT = 100
NO_SIZE = "the size of its image is not annotated; that of the file is taken"


def read_instances(path: Path, images: Path | ImageFolder | None = None, encoding: str | None = None) -> Instances:
    """images: the folder of the files, where names that differ may mean one file.

    Raises ValueError for a file that is no instances file; single rows go to `problems`.
    """
    data = load_json(path, encoding)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise ValueError(f"{path} is no instances file: it needs the lists images and annotations")
    mended: dict[int, tuple[str, ...]] = {}
    problems: list[Problem] = []
    given = data.get("categories")
    pictured = [name_of(r) for r in data["images"] if isinstance(r, dict) and _has_name(r)]
    folder = None if images is None else image_folder(images, pictured)
    same = one_name_per_file(pictured, folder)
    tables = []
    for what, records in (("category", given if isinstance(given, list) else []), ("image", data["images"])):
        several, check, meaning = _KINDS[what]
        rows = []
        for record in records:
            key = key_of(record.get("id")) if isinstance(record, dict) else None
            if key is None:
                reason = "it has no id" if isinstance(record, dict) else f"it is {type(record).__name__}, no object"
                problems.append(Problem(path.name, f"{what} without id", reason))
                continue
            wrong, borne = check(record)
            if borne:
                mended[id(record)] = borne
            rows.append((key, record, wrong))
        if what == "image":
            _share_sizes(rows, same)
            meaning = partial(_meaning, same)
        tables.append(read_table(rows, meaning, several))
        problems += [Problem(path.name, f"{what} {key}", reason) for key, reason in tables[-1].bad]
    categories, pictures = tables
    file_of = {key: same[name_of(record)] for key, record in pictures.known.items()}
    by_file: dict[str, list[Key]] = {}
    for key, file in file_of.items():
        by_file.setdefault(file, []).append(key)
    found = Instances(
        path, pictures, categories, by_file, problems=problems, mended=mended, file_of=file_of, folder=folder
    )
    for what, table in (("category", categories), ("image", pictures)):
        if table.again:
            found.notes.append(f"{table.again} {what} records only repeat what others say, and are not needed")
    _Annotations(found, same, names_in_doubt(same, folder)).read(data["annotations"])
    found.notes.extend(_note_on_per_cent(found))
    return found


def _note_on_per_cent(index: Instances) -> list[str]:
    """A warning where all polygons lie within 0 to 100 and their images are much larger. That is no proof: what is
    looked for may be in the corner always."""
    count, largest = 0, 0
    for image_id, over in index.by_image.items():
        image = index.images.known[image_id]
        if image["width"] is None or min(image["width"], image["height"]) < 2 * PER_CENT:
            continue  # it may be pixels
        for annotation in over:
            if not (values := _numbers(annotation.get("segmentation"))) or max(values) > PER_CENT:
                return []
            count += any(value % 1 for value in values)
            largest = max(largest, image["width"], image["height"])
    if not count:
        return []
    return [
        f"all polygons lie within 0 to 100, {count} of them with fractions, in images of up to {largest} pixels "
        "a side: if that is per cent, as Label Studio's own files have it, they are read wrongly as pixels"
    ]


def _numbers(polygons: Any) -> list[float]:
    """All coordinates of polygons in COCO's form; none where they are not."""
    if not isinstance(polygons, list) or not all(isinstance(part, list) for part in polygons):
        return []
    values = [value for part in polygons for value in part]
    return values if all(map(is_number, values)) else []


def _share_sizes(rows: list[tuple[Key, Record, str]], same: dict[str, str]) -> None:
    """Gives a record without a size that of another one of its id and file."""
    sizes: dict[tuple[Key, str], tuple[int, int]] = {}
    for key, record, wrong in rows:
        if not wrong and record["width"] is not None:
            sizes.setdefault((key, same[name_of(record)]), (record["width"], record["height"]))
    for key, record, wrong in rows:
        if not wrong and record["width"] is None:
            record["width"], record["height"] = sizes.get((key, same[name_of(record)]), (None, None))


def _meaning(same: dict[str, str], image: Record) -> tuple[Any, ...]:
    return same[name_of(image)], image["width"], image["height"]


def _has_name(image: Record) -> bool:
    return isinstance(image.get("file_name") or image.get("coco_url"), str)


def _category(record: Record) -> tuple[str, tuple[str, ...]]:
    """What is wrong with it, and what is harmless."""
    name = record.get("name")
    if isinstance(name, int) and not isinstance(name, bool):
        record["name"] = name = str(name)
    return ("" if isinstance(name, str) else f"name is {shown(name)}, no str"), ()


def _image(record: Record) -> tuple[str, tuple[str, ...]]:
    if not _has_name(record):
        return "it has no file_name", ()
    given = [record.get(side) for side in ("width", "height")]
    sides = []
    for side, value in zip(("width", "height"), given, strict=True):
        try:
            sides.append(side_of(value))
        except ValueError as error:
            return f"{side} is {error}", ()
    record["width"], record["height"] = sides if None not in sides else (None, None)
    if None in sides:
        return "", (NO_SIZE,)
    return "", (SIZE_AS_TEXT,) if any(type(v) is not int for v in given) else ()


_KINDS: dict[str, tuple[str, Callable[[Record], tuple[str, tuple[str, ...]]], Callable[[Record], Any]]] = {
    "category": ("categories", _category, lambda r: clean_name(category_text(r))),
    "image": ("images", _image, name_of),
}


class _Annotations:
    """Puts annotations into an index, each under its image, or among those that are lost."""

    def __init__(self, index: Instances, same: dict[str, str], doubtful: dict[str, str]) -> None:
        """doubtful: as `names_in_doubt` gives it."""
        self.index, self.same, self.doubtful = index, same, doubtful
        self.first: dict[tuple[Key, str, str], Record] = {}  # of ids given twice: by id, image file and all they say
        self.stubs = self.deleted = 0
        self.used, self.unknown = set[Key](), list[Key | None]()  # ids of categories that are, and are not, of the file

    def read(self, records: list[Any]) -> None:
        index = self.index
        for number, record in enumerate(records):
            if not isinstance(record, dict):
                self.bad("without id", f"it is {type(record).__name__}, no object")
                continue
            if record.get("deleted") is True:  # COCO-annotator's, out of its database
                self.deleted += 1
                continue
            mended: list[str] = []
            who = key_of(record.get("id"))
            if who is None:
                who = f"#{number}"
                mended.append(NO_ID)
            record["id"] = who
            files, wrong = self.place(record, mended)
            wrong = wrong or self.name(record, files, mended)
            try:
                crowd = record.get("iscrowd", 0)
                record["iscrowd"] = flag_of(crowd)
                if isinstance(crowd, str):
                    mended.append(FLAG_AS_TEXT)
            except ValueError as error:
                wrong = wrong or f"iscrowd is {error}"
            if has_missing(record):
                mended.append(MISSING_AS_TEXT)
            if not wrong and _is_stub(record):
                self.stubs += 1
                index.unnamed.add(files[0])  # somebody may have begun to annotate what is there
                continue
            if not wrong and self.is_repeated(record, files[0], mended):
                continue
            if wrong:
                self.bad(who, wrong)
                for file in files:
                    index.lost.setdefault(file, []).append(record)
                continue
            if mended:
                index.mended[id(record)] = tuple(mended)
            index.by_image.setdefault(record["image_id"], []).append(record)
            if (other := self.doubtful.get(name_of(index.images.known[record["image_id"]]))) in index.by_file:
                index.lost.setdefault(other, []).append(record)
        if self.unknown and self.used and _shifted({*self.unknown, *self.used}, index.categories.known):
            index.notes.append(
                f"{len(self.unknown)} annotations are of no category of the file, and with all ids 1 less, or 1 more, "
                "none would be: if its categories are counted from another number, all other rows are of the wrong one"
            )
        if self.deleted:
            index.notes.append(f"{self.deleted} annotations are marked as deleted, and are left out")
        if self.stubs:
            index.notes.append(
                f"{self.stubs} annotations have neither a shape nor a box, and are left out as no objects"
            )

    def bad(self, who: Any, reason: str) -> None:
        self.index.problems.append(Problem(self.index.file.name, f"annotation {who}", reason))

    def place(self, record: Record, mended: list[str]) -> tuple[list[str], str]:
        """The image files that an annotation may be of, and what is wrong."""
        index, value = self.index, record.get("image_id")
        key = index.images.find(value)
        if key is not None:
            if type(key) is not type(value) and not isinstance(value, float):
                mended.append(NUMBER_OR_TEXT)
            record["image_id"] = key
            return [index.file_of[key]], ""
        spoiled = index.images.find_spoiled(value)
        named = {self.same[name_of(r)] for r in spoiled if _has_name(r)}
        files = [file for file in named if file in index.by_file]
        if len(spoiled) > 1:
            some = ", ".join(shown(n) for n in sorted(named)[:3])
            if len(named) == 1:
                some += " of " + " and ".join(f"{r.get('width')} x {r.get('height')}" for r in spoiled[:3])
            return files, f"image {shown(value)} is {len(spoiled)} different images ({some})"
        return files, f"there is no image {shown(value)}, or it is bad itself"

    def name(self, record: Record, files: list[str], mended: list[str]) -> str:
        """What is wrong with an annotation's category."""
        index, value = self.index, record.get("category_id")
        if value is None:
            return ""
        key = index.categories.find(value)
        if key is not None:
            if type(key) is not type(value) and not isinstance(value, float):
                mended.append(NUMBER_OR_TEXT)
            record["category_id"] = key
            self.used.add(key)
            return ""
        spoiled = index.categories.find_spoiled(value)
        if not spoiled:
            self.unknown.append(key_of(value))
        if len(spoiled) > 1:
            some = ", ".join(shown(r.get("name")) for r in spoiled[:3])
            return f"category {shown(value)} is {len(spoiled)} different categories ({some})"
        if spoiled or not texts_of(record):
            return f"there is no category {shown(value)}{', or it is bad itself' * bool(spoiled)}"
        mended.append(NO_CATEGORY)
        record["category_id"] = None
        index.unnamed.update(files)
        return ""

    def is_repeated(self, record: Record, file: str, mended: list[str]) -> bool:
        """Whether an annotation of the same id says the same over the same image file."""
        index, who = self.index, record["id"]
        first = index.annotations.setdefault(who, record)
        if first is record:
            return False
        if who not in index.twice:
            self.first[who, index.file_of[first["image_id"]], _said(first)] = first
        other = self.first.setdefault((who, file, _said(record)), record)
        if other is record:
            index.twice.add(who)
            mended.append(ID_TWICE)
            return False
        index.mended[id(other)] = tuple({*index.mended.get(id(other), ()), AGAIN})
        return True


def _shifted(ids: Collection[Key | None], known: Container[Key]) -> bool:
    """Whether all ids of categories are of the file once 1 is taken from each, or added to it."""
    return any(all(isinstance(key, int) and key + by in known for key in ids) for by in (-1, 1))


def _said(annotation: Record) -> str:
    """All that an annotation says, beside the record of its image."""
    return json.dumps({k: v for k, v in annotation.items() if k != "image_id"}, sort_keys=True)


def _is_stub(annotation: Record) -> bool:
    """Whether it was begun and nothing was drawn, as COCO-annotator writes it."""
    box = annotation.get("bbox")
    no_box = not box or box in ([0, 0, 0, 0], ["0", "0", "0", "0"])
    nothing = annotation.get("area") == 0 or (bool(box) and not annotation.get("area"))
    return annotation.get("segmentation") in (None, [], [[]]) and no_box and nothing and not annotation.get("keypoints")
