"""LVIS (lvisdataset.org, lvis-dataset/lvis-api): COCO's images, 1,203 categories, annotated as a federation.

An image is annotated with some of the categories only: `neg_category_ids` were looked for and are not there, and
`not_exhaustive_category_ids` are there more often than annotated. So "nothing matches" is only said of the former, and
the latter are left out.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from training.data.image_names import ImageFolder, image_folder
from training.data.readers.coco import absent, category_text, sample_of
from training.data.readers.instances import Instances, Record, name_of, read_instances
from training.data.samples import Item, LeftOut, Sample, Source


def read_lvis(
    path: Path, images: Path | ImageFolder, *, no_target: int = 0, seed: int = 0, encoding: str | None = None
) -> Source:
    """One sample per image and category, named by the category, synonyms in `others`.

    no_target: at most so many of an image's negative categories. images: holds train2017 and val2017, or the files.
    Raises ValueError for a file that is none.
    """
    index = read_instances(path, encoding)
    images = image_folder(images, map(name_of, index.images.values()))
    items = []
    for image_id, image in index.images.items():
        groups: dict[Any, list[Record]] = {}
        for annotation in index.by_image.get(image_id, []):
            groups.setdefault(annotation.get("category_id"), []).append(annotation)
        partly = set(image.get("not_exhaustive_category_ids") or ())
        for category_id, group in groups.items():
            name = f"{path.stem}_{'_'.join(str(a['id']) for a in group[:3])}"
            lost = [a.get("id") for a in index.lost.get(image_id, ()) if a.get("category_id") == category_id]
            read = partial(_sample, index, images, image_id, name, category_id, group, lost, category_id in partly)
            items.append(Item(name, name_of(image), read))
        items += absent(index, images, image_id, no_target, seed, list(image.get("neg_category_ids") or ()))
    return Source("lvis", path.name, items, index.problems)


def _sample(
    index: Instances,
    images: ImageFolder,
    image_id: Any,
    name: str,
    category_id: Any,
    group: list[Record],
    lost: list[Any],
    partly: bool,
) -> Sample:
    if category_id is None:
        return sample_of(index, images, image_id, name, "", (), group, lost)
    category = index.categories[category_id]
    text = category_text(category)
    if partly:
        why = f'"{text}" is annotated only in part here (not_exhaustive_category_ids)'
        raise LeftOut(*((f"annotation {a['id']}", why) for a in group))
    synonyms = [category_text({"name": s}) for s in category.get("synonyms") or ()]
    others = tuple(s for s in synonyms if s != text)
    return sample_of(index, images, image_id, name, text, others, group, lost)
