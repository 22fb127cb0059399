"""COCO-format data of one's own: `instances.json` with polygons or run lengths, and a folder of images.

The instruction is an annotation's `text` or `caption` (a string, or a list of which the first is taken and the rest
mean the same); annotations over one image with the same text are one sample with several objects. Where an annotation
has no text, its category's name is the instruction, and all annotations of that category over the image are its
objects, those with a text of their own too. `iscrowd` regions are ignored pixels of their instruction, no objects.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.image_names import ImageFolder, image_folder
from training.data.objects import Mask
from training.data.readers.instances import Instances, Record, name_of, read_instances
from training.data.samples import BadRow, Item, LeftOut, Sample, Source


def read_coco(
    path: Path, images: Path | ImageFolder, *, no_target: int = 0, seed: int = 0, encoding: str | None = None
) -> Source:
    """no_target: instructions per image that name a category which the image has none of (COCO annotates its
    categories exhaustively; a file that does not should not ask for it). Raises ValueError for a file that is none."""
    index = read_instances(path, encoding)
    images = image_folder(images, map(name_of, index.images.values()))
    items = []
    for image_id in index.images:
        annotations = index.by_image.get(image_id, [])
        for key, group in _groups(index, annotations).items():
            items.append(_item(index, images, image_id, key, group))
        if no_target:
            items += absent(index, images, image_id, no_target, seed)
    return Source("coco", path.name, items, index.problems)


def texts_of(index: Instances, annotation: Record) -> tuple[str, ...]:
    """The texts of an annotation: `text`, else `caption`; none where neither says more than its category's name."""
    given = annotation.get("text") or annotation.get("caption") or ()
    given = str(given) if isinstance(given, (int, float)) else given  # "7" may be a name
    every = [given] if isinstance(given, str) else list(given) if isinstance(given, (list, tuple)) else []
    category = annotation.get("category_id")
    known = index.categories.get(category) if isinstance(category, (int, str)) else None
    name = category_text(known).casefold() if known else ""
    texts = [t.strip() for t in every if isinstance(t, str)]
    return tuple(t for t in texts if t and t.casefold() != name)


Key = tuple[str, Any]  # ("text", words) or ("category", id)


def _groups(index: Instances, annotations: list[Record]) -> dict[Key, list[Record]]:
    """Annotations by what names them, in the order in which it is first named."""
    groups: dict[Key, list[Record]] = {key: [] for a in annotations for key in _keys(index, a)[:1]}
    for annotation in annotations:
        for key in _keys(index, annotation):
            if key in groups:
                groups[key].append(annotation)
    return groups


def _keys(index: Instances, annotation: Record) -> list[Key]:
    """What an annotation can be called, its own text first."""
    category: list[Key] = [("category", annotation.get("category_id"))]
    texts = texts_of(index, annotation)
    return [("text", texts[0]), *category] if texts else category


def _item(index: Instances, images: ImageFolder, image_id: Any, key: Key, group: list[Record]) -> Item:
    name = f"{index.file.stem}_{'_'.join(str(a['id']) for a in group[:3])}"
    kind, value = key
    if kind == "category":
        text = category_text(index.categories[value]) if value is not None else ""
        name += f"_{text}".replace(" ", "-")
        others: tuple[str, ...] = ()
    else:
        text, others = value, next(t for a in group if (t := texts_of(index, a))[:1] == (value,))[1:]
    lost = [a.get("id") for a in index.lost.get(image_id, ()) if key in _keys(index, a)]
    read = partial(sample_of, index, images, image_id, name, text, others, group, lost)
    return Item(name, name_of(index.images[image_id]), read)


def sample_of(
    index: Instances,
    images: ImageFolder,
    image_id: Any,
    name: str,
    text: str,
    others: tuple[str, ...],
    group: list[Record],
    lost: list[Any],
) -> Sample:
    """The sample of some annotations that one text means. lost: ids of bad ones that it means too. Raises BadRow."""
    if not text.strip():
        raise BadRow(*((f"annotation {a['id']}", "it has neither text nor category") for a in group))
    if lost:
        why = f'annotation {lost[0]}, bad itself, is of the same instruction, "{text}"'
        raise BadRow(*((f"annotation {a['id']}", why) for a in group))
    objects = [a for a in group if not a.get("iscrowd")]
    crowds = [a for a in group if a.get("iscrowd")]
    if not objects:
        raise LeftOut(*((f"annotation {a['id']}", f'"{text}" is but a crowd here, no object') for a in crowds))
    try:
        path = index.picture(image_id, images)
    except ValueError as error:
        raise BadRow(*((f"annotation {a['id']}", str(error)) for a in group)) from error
    everything = index.masks([*objects, *crowds])
    masks, crowd = everything[: len(objects)], everything[len(objects) :]
    ignore: Mask | None = np.logical_or.reduce(crowd) if crowd else None
    return Sample(name, text, path, masks, ignore, others, ann_ids=tuple(str(a["id"]) for a in objects))


def absent(
    index: Instances, images: ImageFolder, image_id: Any, count: int, seed: int, among: list[Any] | None = None
) -> list[Item]:
    """Items of instructions that nothing matches. among: categories that may be named, by id; all that the image has
    no annotation of where it is None. The choice depends on the seed and the image alone."""
    if image_id in index.lost:
        return []  # it may be what is lost
    present = {a.get("category_id") for a in index.by_image.get(image_id, [])}
    free = [c for c in (index.categories if among is None else among) if c in index.categories and c not in present]
    rng = np.random.default_rng([seed, *str(image_id).encode()])
    items = []
    for n in sorted(rng.permutation(len(free))[:count]):
        name, text = f"{index.file.stem}_{image_id}_none_{free[n]}", category_text(index.categories[free[n]])
        items.append(Item(name, name_of(index.images[image_id]), partial(_none, index, images, image_id, name, text)))
    return items


def _none(index: Instances, images: ImageFolder, image_id: Any, name: str, text: str) -> Sample:
    return Sample(name, text, index.picture(image_id, images), ())


def category_text(category: Record) -> str:
    """A category's name as one would say it: LVIS writes `bat_(animal)`."""
    return str(category["name"]).replace("_", " ").strip()
