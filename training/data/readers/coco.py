"""COCO-format data of one's own: `instances.json` with polygons or run lengths, and a folder of images.

The instruction is an annotation's `text` or `caption` (a string, or a list of which the first is taken and the rest
mean the same), else its category's name. All annotations over one image file that an instruction's name means are its
objects: those with this text, whatever its case and final stop, and those of a category of this name. `iscrowd` regions
are ignored pixels of their instruction and no objects, unless they are kept as such.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from training.data.image_names import ImageFolder
from training.data.readers.absent import Absent
from training.data.readers.groups import groups_of, item_of, name_group
from training.data.readers.indexing import read_instances
from training.data.readers.instances import Instances
from training.data.readers.names import notes_on_texts, texts_of
from training.data.readers.records import Record
from training.data.samples import Source


def read_coco(
    path: Path,
    images: Path | ImageFolder,
    *,
    no_target: int = 0,
    seed: int = 0,
    crowds: str = "ignore",
    encoding: str | None = None,
) -> Source:
    """no_target: instructions per image that name a category which the image has none of (COCO annotates its
    categories exhaustively; a file that does not should not ask for it). crowds: "ignore" or "keep".

    Raises ValueError for a file that is none.
    """
    index = replace(read_instances(path, images, encoding), holes=True)
    if any("not_exhaustive_category_ids" in record for record in index.images.known.values()):
        raise ValueError(f"{path} is LVIS's, which annotates some categories in part only: say --source lvis")
    images = index.folder or images
    names = partial(_names, index)
    absent = Absent(index, images, names, seed=seed) if no_target else None
    items, taken = [], set[str]()
    for file in index.by_file:
        for group in groups_of(index, file, names):
            items.append(item_of(index, images, file, group, crowds, name_group(index, group, taken, of_category=True)))
        if absent:
            items += absent.items(file, no_target)
    every = [a for annotations in index.by_image.values() for a in annotations]
    notes = [*index.notes, *note_on_crowds(every, crowds), *notes_on_texts(every, index.images.known.values())]
    return Source("coco", path.name, items, index.problems, (*notes, *(absent.notes() if absent else ())))


def _names(index: Instances, annotation: Record) -> tuple[str, ...]:
    """What an annotation can be called, its own text first."""
    return (*texts_of(annotation), *index.category_names(annotation))


def note_on_crowds(annotations: list[Record], crowds: str) -> list[str]:
    """Hints where nothing is an object, what was taken for one, and on `ignore`, which is not read."""
    marked = sum(a.get("ignore") in (1, "1", True) and not a["iscrowd"] for a in annotations)
    more = [f"{marked} annotations have ignore 1, which is not read: they are objects, as iscrowd says"] * bool(marked)
    if boxes := sum(a.get("isbbox") is True for a in annotations):  # COCO-annotator's
        more.append(f"{boxes} annotations have isbbox 1: their mask is but their box")
    return more + _note_on_crowds(annotations, crowds)


def _note_on_crowds(annotations: list[Record], crowds: str) -> list[str]:
    count = sum(a["iscrowd"] for a in annotations)
    if count and crowds == "keep":
        return [f"{count} annotations have iscrowd 1 and are objects by --crowds keep"]
    if count and count == len(annotations):
        return [
            f"all {count} annotations have iscrowd 1, as CVAT writes its masks: --crowds keep makes objects of them"
        ]
    if count:  # as V7 writes objects of several parts, and datumaro masks
        return [f"{count} annotations have iscrowd 1 and are ignored pixels: --crowds keep makes objects of them"]
    return []
