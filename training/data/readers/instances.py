"""The index over a COCO-style instances file that COCO, LVIS, RefCOCO and gRefCOCO share.

https://cocodataset.org/#format-data. Structure is checked here once (ids, images, categories); a single annotation's
geometry when it is read, since a sample with one broken object out of three would teach a wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data import masks as runs
from training.data.image_names import ImageFolder, find_image
from training.data.images import Picture, image_size
from training.data.objects import Mask
from training.data.samples import BadRow, Problem
from training.data.text_files import load_json

Record = dict[str, Any]


@dataclass(frozen=True)
class Instances:
    """An instances file by id. by_image: annotations in the file's order. problems: rows that are left away.

    lost: annotations left away that are of a known image, by it: what is said of that image may lack them.
    """

    file: Path
    images: dict[Any, Record] = field(repr=False)
    annotations: dict[Any, Record] = field(repr=False)
    categories: dict[Any, Record] = field(repr=False)
    by_image: dict[Any, list[Record]] = field(repr=False)
    problems: list[Problem] = field(repr=False)
    lost: dict[Any, list[Record]] = field(repr=False)

    def mask(self, annotation: Record) -> Mask:
        """bool (H, W). Raises ValueError for a shape, a box or a size that cannot be."""
        image = self.images[annotation["image_id"]]
        height, width = image["height"], image["width"]
        if annotation.get("segmentation") is None:
            raise ValueError("it has no segmentation")
        if annotation.get("bbox") is not None:
            check_box(annotation["bbox"], height, width)
        mask = runs.decode(annotation["segmentation"], height, width)
        if not mask.any():
            raise ValueError("the mask is empty")
        return mask

    def masks(self, annotations: Sequence[Record]) -> tuple[Mask, ...]:
        """Every one's mask. Raises BadRow that names each annotation at fault, and those that fall with it."""
        found, wrong = [], []
        for annotation in annotations:
            try:
                found.append(self.mask(annotation))
            except ValueError as error:
                wrong.append((f"annotation {annotation['id']}", str(error)))
        if wrong and found:
            bad = {who for who, _ in wrong}
            rest = [name for a in annotations if (name := f"annotation {a['id']}") not in bad]
            wrong = [(who, f"{why}; {', '.join(rest)} of the same instruction fall with it") for who, why in wrong]
        if wrong:
            raise BadRow(*wrong)
        return tuple(found)

    def picture(self, image_id: Any, folder: Path | ImageFolder) -> Picture:
        """The image's file. Raises ValueError if it is missing or not of the annotated size."""
        record = self.images[image_id]
        picture = find_image(folder, name_of(record), (record["height"], record["width"]))
        height, width = image_size(picture)
        if (height, width) != (record["height"], record["width"]):
            said = f"{record['width']} x {record['height']}"
            raise ValueError(f"the image {picture.path} is {width} x {height}, the annotations say {said}")
        return picture


def name_of(image: Record) -> str:
    """The file name; LVIS 1.0 gives only the address that ends in it, folder included (train2017/...)."""
    return str(image.get("file_name") or "/".join(str(image["coco_url"]).split("/")[-2:]))


def check_box(box: Any, height: int, width: int) -> None:
    """box: x, y, width, height in pixels. Raises ValueError for one that is none or lies outside."""
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError(f"the box {box!r} has not four numbers")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in box):
        raise ValueError(f"the box {box!r} holds something that is no finite number")
    x, y, w, h = box
    if w <= 0 or h <= 0:
        raise ValueError(f"the box {box!r} has no area")
    if min(x, y) < -runs.SLACK or x + w > width + runs.SLACK or y + h > height + runs.SLACK:
        raise ValueError(f"the box {box!r} (x, y, width, height) is outside of the image of {width} x {height}")


def read_instances(path: Path, encoding: str | None = None) -> Instances:
    """Raises ValueError for a file that is no instances file; single rows go to `problems`."""
    data = load_json(path, encoding)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise ValueError(f"{path} is no instances file: it needs the lists images and annotations")
    found = Instances(path, {}, {}, {}, {}, [], {})

    def bad(what: str, record: Any, reason: str) -> None:
        who = record.get("id", "without id") if isinstance(record, dict) else "without id"
        found.problems.append(Problem(path.name, f"{what} {who}", reason))

    for record in data.get("categories") or []:
        if wrong := _wrong(record, found.categories, {"name": str}):
            bad("category", record, wrong)
        else:
            found.categories[record["id"]] = record
    for record in data["images"]:
        if wrong := _wrong(record, found.images, {"width": int, "height": int}):
            bad("image", record, wrong)
        elif min(record["width"], record["height"]) < 1:
            bad("image", record, f"its size is {record['width']} x {record['height']}")
        elif not isinstance(record.get("file_name") or record.get("coco_url"), str):
            bad("image", record, "it has no file_name")
        else:
            found.images[record["id"]] = record
    for record in data["annotations"]:
        wrong = _wrong(record, found.annotations, {})
        image_id = record.get("image_id") if isinstance(record, dict) else None
        if not wrong and not _known(image_id, found.images):
            wrong = f"there is no image {image_id!r}, or it is bad itself"
        elif (
            not wrong and record.get("category_id") is not None and not _known(record["category_id"], found.categories)
        ):
            wrong = f"there is no category {record['category_id']!r}"
        if wrong:
            bad("annotation", record, wrong)
            # Where it is the same once more nothing is lost.
            if (
                isinstance(record, dict)
                and _known(image_id, found.images)
                and record not in found.by_image.get(image_id, ())
            ):
                found.lost.setdefault(image_id, []).append(record)
        else:
            found.annotations[record["id"]] = record
            found.by_image.setdefault(record["image_id"], []).append(record)
    return found


def _known(key: Any, records: dict[Any, Record]) -> bool:
    return isinstance(key, (int, str)) and key in records


def _wrong(record: Any, known: dict[Any, Record], keys: dict[str, type]) -> str:
    if not isinstance(record, dict):
        return f"it is {type(record).__name__}, no object"
    if not isinstance(record.get("id"), (int, str)):
        return "it has no id"
    if record["id"] in known:
        return "its id is given twice; the first one is kept"
    for key, kind in keys.items():
        if type(record.get(key)) is not kind:
            return f"{key} is {record.get(key)!r}, no {kind.__name__}"
    return ""
