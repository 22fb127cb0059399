"""ReasonSeg as its authors give it out (dvlab-research/LISA): NAME.jpg beside NAME.json, a folder per split.

JSON: `text` (instructions that mean the same, of which both evaluation protocols take the first), `is_sentence`, and
`shapes` [{label, points [[x, y], ...]}] with the labels "target", "ignore" and, obsolete, "flag". Painted as in LISA's
utils/data_processing.py: the largest polygon first, outlines included, so that a small one inside of a large one is
seen; what lies outside of the image is cut off, and lines are painted too, so that 200 and 779 items stay as many.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.objects import Mask
from training.data.readers.instances import load_json
from training.data.samples import BadRow, Item, Sample, Source, image_size


def read_reasonseg(folder: Path, *, sentences: str = "first") -> Source:
    """folder: of one split. sentences: "first", or "all" for a sample per text (the training split has up to five).

    A sample's mask is the union of its targets, one object, since the file does not tell parts from objects.
    Raises ValueError for a folder without annotations.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise ValueError(f"there are no annotations (*.json) in {folder}")
    items = []
    for path in paths:
        for n in range(_count(path) if sentences == "all" else 1):
            name = path.stem if sentences != "all" else f"{path.stem}_{n}"
            items.append(Item(name, path.stem, partial(_sample, path, name, n)))
    return Source("reasonseg", folder.name, items)


def _count(path: Path) -> int:
    try:
        return max(1, len(_texts(load_json(path))))
    except ValueError:
        return 1  # said when the sample is read


def _texts(data: Any) -> list[str]:
    given = data.get("text") if isinstance(data, dict) else None
    every = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    return [t.strip() for t in every if isinstance(t, str) and t.strip()]


def _sample(path: Path, name: str, number: int) -> Sample:
    try:
        data = load_json(path)
        texts = _texts(data)
        if not texts:
            raise ValueError("it has no text")
        image = path.with_suffix(".jpg")
        height, width = image_size(image)
        target, ignore = paint(data.get("shapes"), height, width)
    except ValueError as error:
        raise BadRow((path.name, str(error))) from error
    others = tuple(t for n, t in enumerate(texts) if n != number)
    masks = (target,) if target.any() else ()
    return Sample(name, texts[number], image, masks, ignore if ignore.any() else None, others, ann_ids=(path.stem,))


def paint(shapes: Any, height: int, width: int) -> tuple[Mask, Mask]:
    """(target, ignore), bool (height, width) each, disjoint. Raises ValueError for a shape that is none."""
    if not isinstance(shapes, list):
        raise ValueError("it has no shapes")
    painted: list[tuple[int, int, NDArray[np.int32]]] = []
    for n, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            raise ValueError(f"shape {n} has no label")
        if label.lower() == "flag":
            continue
        try:
            flat = np.array(flat_points(shape.get("points")), np.float64)
            if not flat.size or not np.isfinite(flat).all() or np.abs(flat).max() > 1e6:
                raise ValueError("its points are none, or no pixels")
        except (ValueError, TypeError) as error:
            raise ValueError(f"shape {n} ({label}): {error}") from error
        polygon = flat.reshape(-1, 2).astype(np.int32)
        alone = np.zeros((height, width), np.uint8)
        _draw(alone, polygon, 1)
        painted.append((int(alone.sum()), 2 if "ignore" in label.lower() else 1, polygon))
    canvas = np.zeros((height, width), np.uint8)
    # Equal areas in the order of LISA's reversed argsort: the last one is painted first.
    for n in np.argsort([area for area, _, _ in painted])[::-1]:
        _draw(canvas, painted[n][2], painted[n][1])
    return canvas == 1, canvas == 2


def _draw(canvas: NDArray[np.uint8], polygon: NDArray[np.int32], value: int) -> None:
    cv2.polylines(canvas, [polygon], True, value, 1)
    cv2.fillPoly(canvas, [polygon], value)


def flat_points(points: Any) -> list[float]:
    """[[x, y], ...] as [x, y, ...]. Raises ValueError."""
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise ValueError("its points are no list of pairs")
    return [v for pair in points for v in pair]
