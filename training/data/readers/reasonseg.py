"""ReasonSeg as its authors give it out (dvlab-research/LISA): NAME.jpg beside NAME.json, a folder per split; and files
of one's own in that form, which labelme writes (`training.data.readers.shapes`), with an image of another kind.

JSON: `text` (instructions that mean the same, of which both evaluation protocols take the first), `is_sentence`, and
`shapes` [{label, points [[x, y], ...]}] with the labels "target", "ignore" and, obsolete, "flag". Painted as in LISA's
utils/data_processing.py: the largest polygon first, outlines included, so that a small one inside of a large one is
seen; what lies outside of the image is cut off, and lines are painted too, so that 200 and 779 items stay as many.
Some of the published files are in Windows-1252, which is read here alone and counted, and only where it gives English.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.image_names import ImageFolder, image_folder
from training.data.objects import Mask
from training.data.readers.english import foreign_text
from training.data.readers.names import decoded_wrongly, is_missing
from training.data.readers.shapes import Draw, annotation_files, drawing_of, picture_of
from training.data.samples import BadRow, Item, Sample, Source
from training.data.text_files import parse_json, read_text

DECODED_WRONGLY = "a part of its text was decoded wrongly before it was written"
NO_SHAPE = "it has no shape, and is taken to say that nothing matches"
OTHER_LABEL = "a label is neither target nor ignore, and is painted as target, as its authors do"
NO_UTF_8 = "its file is not UTF-8 and is read as Windows-1252"


def read_reasonseg(
    folder: Path,
    images: Path | ImageFolder | None = None,
    *,
    sentences: str = "first",
    encoding: str | None = None,
) -> Source:
    """folder: of one split. images: where they are, if not beside the files. sentences: "first", or "all" for a sample
    per text (the training split has up to five).

    A sample's mask is the union of its targets, one object, since the file does not tell parts from objects.
    Raises ValueError for a folder without annotations.
    """
    paths, notes = annotation_files(folder)
    where = image_folder(images or folder, ())
    items = []
    for path in paths:
        for n in range(_count(path, encoding) if sentences == "all" else 1):
            name = path.stem if sentences != "all" else f"{path.stem}_{n}"
            items.append(Item(name, path.stem, partial(_sample, path, where, name, n, encoding)))
    return Source("reasonseg", folder.name, items, notes=notes)


def _load(path: Path, encoding: str | None) -> tuple[Any, bool]:
    """The file's content, and whether it is Windows-1252."""
    text, latin = read_text(path, encoding, foreign_text)
    return parse_json(text, path), latin


def _count(path: Path, encoding: str | None) -> int:
    try:
        return max(1, len(_texts(_load(path, encoding)[0])))
    except ValueError:
        return 1  # said when the sample is read


def _texts(data: Any) -> list[str]:
    given = data.get("text") if isinstance(data, dict) else None
    every = given if isinstance(given, list) else [given]
    return [t.strip() for t in every if isinstance(t, str) and t.strip() and not is_missing(t)]


def _sample(path: Path, images: ImageFolder, name: str, number: int, encoding: str | None) -> Sample:
    try:
        data, latin = _load(path, encoding)
        texts = _texts(data)
        if not texts:
            raise ValueError("it has no text")
        picture = picture_of(path, data, images)
        shapes = data.get("shapes")
        target, ignore = paint(shapes, *picture.size)
        mended = [NO_UTF_8] * latin + [*_borne(texts[number], shapes, target, ignore)]
    except ValueError as error:
        raise BadRow((path.name, str(error))) from error
    others = tuple(t for n, t in enumerate(texts) if n != number)
    masks = (target,) if target.any() else ()
    seen = ignore if ignore.any() else None
    return Sample(name, texts[number], picture, masks, seen, others, ann_ids=(path.stem,), mended=tuple(mended))


def _borne(text: str, shapes: list[dict[str, Any]], target: Mask, ignore: Mask) -> Iterator[str]:
    """What is amiss with a file and harmless, or read as its authors do. Raises ValueError where no target is seen of
    those that are drawn."""
    if decoded_wrongly(text):
        yield DECODED_WRONGLY
    if not shapes:
        yield NO_SHAPE
    labels = [shape["label"].lower() for shape in shapes if shape["label"].lower() != "flag"]
    targets = [label for label in labels if "ignore" not in label]
    if targets and not target.any():
        hidden = "is all ignored" if ignore.any() else "lies outside of the image"
        raise ValueError(f"what it marks as its target {hidden}")
    if any("target" not in label for label in targets):
        yield OTHER_LABEL


def paint(shapes: Any, height: int, width: int) -> tuple[Mask, Mask]:
    """(target, ignore), bool (height, width) each, disjoint. Raises ValueError for a shape that is none."""
    if not isinstance(shapes, list):
        raise ValueError("it has no shapes")
    painted: list[tuple[int, int, Draw]] = []
    for n, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            raise ValueError(f"shape {n} has no label")
        if label.lower() == "flag":
            continue
        try:
            draw = drawing_of(shape)
        except (ValueError, TypeError) as error:
            raise ValueError(f"shape {n} ({label[:80]}): {error}") from error
        alone = np.zeros((height, width), np.uint8)
        draw(alone, 1)
        painted.append((int(alone.sum()), 2 if "ignore" in label.lower() else 1, draw))
    canvas = np.zeros((height, width), np.uint8)
    # Equal areas in the order of LISA's reversed argsort: the last one is painted first.
    for n in np.argsort([area for area, _, _ in painted])[::-1]:
        painted[n][2](canvas, painted[n][1])
    return canvas == 1, canvas == 2
