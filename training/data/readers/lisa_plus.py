"""LISA++'s instance segmentation data (huggingface.co/datasets/Senqiao/LISA_Plus_Instance_Seg, data.json).

A list of {img_path: a file of COCO's train2017, "English Question", ID: COCO annotation ids as text, points: {id:
{"label name", points: polygon(s) as pairs}}}. The file itself (346 MB) could not be read here; the form is that of two
public readers of it, of which one takes the polygons in the file and the other looks the ids up in COCO's
instances_train2017.json. Both ways are here; COCO's masks are the better ones (holes, run lengths, crowds).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from training.data.image_names import ImageFolder, find_image
from training.data.images import image_size
from training.data.masks import read_shape
from training.data.objects import Mask
from training.data.readers.indexing import read_instances
from training.data.readers.instances import SAME_MASK, Instances, different, read_mask
from training.data.readers.records import Record
from training.data.readers.shapes import flat_points
from training.data.samples import BadRow, Item, Problem, Sample, Source
from training.data.text_files import load_json


def read_lisa_plus(
    path: Path, images: Path | ImageFolder, *, instances: Path | None = None, encoding: str | None = None
) -> Source:
    """instances: COCO's instances_train2017.json, whose masks are then taken. Raises ValueError for a file that is
    none."""
    rows = load_json(path, encoding)
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds no list")
    index = read_instances(instances, encoding=encoding) if instances else None
    items, problems = [], []
    for n, record in enumerate(rows):
        name = f"lisa++_{n}"
        if not isinstance(record, dict) or not isinstance(record.get("img_path"), str):
            problems.append(Problem(path.name, f"row {n}", "it has no img_path"))
            continue
        items.append(Item(name, record["img_path"], partial(_sample, record, images, index, name, n)))
    return Source("lisa++", path.name, items, [*problems, *(index.problems if index else ())])


def _sample(record: Record, images: Path | ImageFolder, index: Instances | None, name: str, number: int) -> Sample:
    who = f"row {number}"
    text = record.get("English Question")
    if not isinstance(text, str) or not text.strip():
        raise BadRow((who, "it has no English Question"))
    ids = [str(i) for i in record["ID"]] if isinstance(record.get("ID"), list) else []
    if not ids:
        raise BadRow((who, "it has no ID"))
    try:
        image = find_image(images, record["img_path"])
        height, width = image_size(image)
    except ValueError as error:
        raise BadRow((who, str(error))) from error
    masks: list[Mask] = []
    mended: list[str] = []
    wrong = []
    for i in ids:
        try:
            mask, borne = _inline(record, i, height, width) if index is None else _looked_up(index, i, height, width)
            masks.append(mask)
            mended += borne
        except ValueError as error:
            wrong.append((f"{who}, annotation {i}", str(error)))
    if wrong:
        raise BadRow(*wrong)
    kept = different(masks)
    if len(kept) < len(masks):
        mended.append(SAME_MASK)
    found, names = tuple(masks[n] for n in kept), tuple(ids[n] for n in kept)
    return Sample(name, text.strip(), image, found, ann_ids=names, mended=tuple(dict.fromkeys(mended)))


Read = tuple[Mask, tuple[str, ...]]  # a mask, and what was amiss with it and harmless


def _looked_up(index: Instances, ann_id: str, height: int, width: int) -> Read:
    try:
        record = index.annotation(ann_id)
    except ValueError as error:
        raise ValueError(f"{error} in {index.file.name}") from error
    image = index.images.known[record["image_id"]]
    if image["height"] is not None and (image["height"], image["width"]) != (height, width):
        raise ValueError(f"it is of an image of {image['width']} x {image['height']}, not {width} x {height}")
    mask, mended = read_mask(record, (height, width))
    return mask, (*index.amiss([record]), *mended)


def _inline(record: Record, ann_id: str, height: int, width: int) -> Read:
    points = record.get("points")
    entry: Any = points.get(ann_id) if isinstance(points, dict) else None
    shape = entry.get("points") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not shape:
        raise ValueError("it has no points")
    found = read_shape(_polygons(shape), height, width)
    if not found.mask.any():
        raise ValueError("the mask is empty")
    return found.mask, found.mended


def _polygons(shape: list[Any]) -> list[list[float]]:
    """One polygon as pairs, several as pairs, or COCO's flat ones."""
    first = shape[0]
    if isinstance(first, list) and first and isinstance(first[0], list):
        return [flat_points(part) for part in shape]
    if all(isinstance(p, list) and len(p) == 2 for p in shape):
        return [flat_points(shape)]
    return shape
