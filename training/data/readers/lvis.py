"""LVIS (lvisdataset.org, lvis-dataset/lvis-api): COCO's images, 1,203 categories, annotated as a federation.

An image is annotated with some of the categories only: `neg_category_ids` were looked for and are not there, and
`not_exhaustive_category_ids` are there more often than annotated. So "nothing matches" is only said of the former, and
the latter are left out.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from training.data.image_names import ImageFolder
from training.data.readers.absent import Absent
from training.data.readers.coco import note_on_crowds
from training.data.readers.groups import Group, groups_of, item_of, name_group
from training.data.readers.indexing import read_instances
from training.data.readers.instances import Instances, name_of
from training.data.readers.names import category_text, clean_name
from training.data.samples import Item, LeftOut, Sample, Source


def read_lvis(
    path: Path,
    images: Path | ImageFolder,
    *,
    no_target: int = 0,
    seed: int = 0,
    crowds: str = "ignore",
    encoding: str | None = None,
) -> Source:
    """One sample per image and category, named by the category, synonyms in `others`.

    no_target: at most so many of an image's negative categories. images: holds train2017 and val2017, or the files.
    crowds: as for COCO. Raises ValueError for a file that is none.
    """
    index = read_instances(path, images, encoding)
    images = index.folder or images
    absent = Absent(index, images, index.category_names, seed=seed, verified=True) if no_target else None
    items, taken = [], set[str]()
    for file, ids in index.by_file.items():
        records = [index.images.known[i] for i in ids]
        partly = {name for r in records for name in _names(index, r.get("not_exhaustive_category_ids"))}
        for group in groups_of(index, file, index.category_names):
            name = name_group(index, group, taken)
            whole = replace(group, others=_synonyms(index, group))
            if group.key in partly:
                items.append(Item(name, name_of(index.image(file)), partial(_leave_out, whole)))
            else:
                items.append(item_of(index, images, file, whole, crowds, name))
        if absent:
            items += absent.items(file, no_target, [c for r in records for c in _list(r.get("neg_category_ids"))])
    every = [a for annotations in index.by_image.values() for a in annotations]
    notes = [*index.notes, *note_on_crowds(every, crowds), *(absent.notes() if absent else ())]
    return Source("lvis", path.name, items, index.problems, notes)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(index: Instances, ids: Any) -> set[str]:
    return {clean_name(name) for i in _list(ids) for name in index.category_names({"category_id": i})}


def _synonyms(index: Instances, group: Group) -> tuple[str, ...]:
    key = group.annotations[0].get("category_id")
    category = {} if key is None else index.categories.known[key]
    synonyms = [category_text({"name": s}) for s in _list(category.get("synonyms"))]
    return tuple(s for s in synonyms if s != group.text)


def _leave_out(group: Group) -> Sample:
    why = f'"{group.text}" is annotated only in part here (not_exhaustive_category_ids)'
    raise LeftOut(*((f"annotation {a['id']}", why) for a in group.annotations))
