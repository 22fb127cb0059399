"""labelme's files: a folder of NAME.json, each with one image's shapes (`training.data.readers.shapes`).

The instruction is a shape's label; all shapes of a label are its objects, and those of one `group_id` are one object.
`__ignore__` is ignored pixels of every instruction of its image, and `_background_` nothing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.image_names import ImageFolder
from training.data.images import Grey
from training.data.objects import Mask
from training.data.readers.shapes import drawing_of, picture_of
from training.data.samples import BadRow, Item, Problem, Sample, Source
from training.data.text_files import load_json

IGNORE, BACKGROUND = "__ignore__", "_background_"
Shape = dict[str, Any]


def read_labelme(
    folder: Path, images: ImageFolder | None = None, *, encoding: str | None = None, grey: Grey = None
) -> Source:
    """images: where they are, if not beside the files. Raises ValueError for a folder without annotations."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"there are no annotations (*.json) in {folder}")
    where = images or ImageFolder(folder, grey)
    items, problems = [], []
    for path in paths:
        try:
            labels = _groups(_shapes(load_json(path, encoding)))
        except ValueError as error:
            problems.append(Problem(folder.name, path.name, str(error)))
            continue
        for label in labels:
            name = f"{path.stem}_{label}".replace(" ", "-")
            items.append(Item(name, path.stem, partial(_sample, path, where, name, label, encoding)))
    return Source("labelme", folder.name, items, problems)


def _shapes(data: Any) -> list[Shape]:
    shapes = data.get("shapes") if isinstance(data, dict) else None
    if not isinstance(shapes, list):
        raise ValueError("it has no shapes")
    for n, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"shape {n} has no label")
    return shapes


def _name(shape: Shape) -> str:
    """A label as one would say it."""
    return str(shape["label"]).replace("_", " ").strip()


def _groups(shapes: list[Shape]) -> dict[str, list[Shape]]:
    """Shapes by label, upper and lower case being one, in the order of the file."""
    groups: dict[str, tuple[str, list[Shape]]] = {}
    for shape in shapes:
        if shape["label"].strip() not in (IGNORE, BACKGROUND):
            groups.setdefault(_name(shape).casefold(), (_name(shape), []))[1].append(shape)
    return dict(groups.values())


def _sample(path: Path, images: ImageFolder, name: str, label: str, encoding: str | None) -> Sample:
    try:
        data = load_json(path, encoding)
        shapes = _shapes(data)
        group = _groups(shapes)[label]
        picture = picture_of(path, data, images)
        ignored = [s for s in shapes if s["label"].strip() == IGNORE]
        objects: dict[Any, list[Shape]] = {}
        for n, shape in enumerate(group):
            known = shape.get("group_id")
            objects.setdefault(("group", str(known)) if known is not None else n, []).append(shape)
        masks = tuple(_mask(parts, picture.size) for parts in objects.values())
        ignore = _mask(ignored, picture.size) if ignored else None
    except (ValueError, KeyError) as error:
        raise BadRow((path.name, str(error))) from error
    return Sample(name, label, picture, masks, ignore, ann_ids=(path.stem,))


def _mask(shapes: list[Shape], size: tuple[int, int]) -> Mask:
    """bool (H, W): the union. Raises ValueError for a shape that is none, or lies outside."""
    canvas = np.zeros(size, np.uint8)
    for shape in shapes:
        try:
            if shape.get("shape_type") in (None, "polygon") and len(shape.get("points") or ()) < 3:
                raise ValueError("a polygon of fewer than 3 points has no area")
            drawing_of(shape)(canvas, 1)
        except (ValueError, TypeError) as error:
            raise ValueError(f"a shape of {shape['label'][:80]!r}: {error}") from error
    if not canvas.any():
        raise ValueError(f"a shape of {shapes[0]['label'][:80]!r} lies outside of the image")
    return canvas > 0
