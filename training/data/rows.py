"""A sample and the row that it becomes: the published datasets' columns, in pixels of the square."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.objects import Mask, inclusive_box, two_points

COLUMNS = ("id", "problem", "solution", "image", "img_height", "img_width")


@dataclass(frozen=True)
class Sample:
    """One instruction over one image.

    text: as annotated. masks: of the objects that match, bool (H, W) each; none where nothing matches. ignore: pixels
    that count neither way (LISA's protocol), or None. image: a file, or RGB uint8 (H, W, 3).
    """

    id: str
    text: str
    image: Path | NDArray[np.uint8]
    masks: tuple[Mask, ...] = field(repr=False)
    ignore: Mask | None = field(default=None, repr=False)
    others: tuple[str, ...] = ()  # further texts that mean the same

    def pixels(self) -> NDArray[np.uint8]:
        """RGB uint8 (H, W, 3). Raises ValueError for a file that is no image."""
        if not isinstance(self.image, Path):
            return self.image
        found = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        if found is None:
            raise ValueError(f"{self.image} is not there or no image")
        return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)


def clean_text(text: str) -> str:
    """As published: without white space and ".?!" at the ends, in lower case."""
    return text.strip().strip(".?!").lower()


def square_of(image: NDArray[np.uint8], square: int) -> NDArray[np.uint8]:
    """(square, square, 3) by OpenCV's area interpolation, as published; the aspect ratio is not kept."""
    return np.asarray(cv2.resize(image, (square, square), interpolation=cv2.INTER_AREA), np.uint8)


def _scale(values: Sequence[int], fx: float, fy: float) -> list[int]:
    """Half up, as published."""
    return [int(v * (fy if n % 2 else fx) + 0.5) for n, v in enumerate(values)]


def row(sample: Sample, square: int = 840, form: str = "list", points: str = "published") -> dict[str, Any]:
    """The columns, image as RGB (square, square, 3).

    form: "list" (VisionReasoner: any number of objects, one point each) or "single" (Seg-Zero: one object, two points).
    Raises ValueError for a sample that cannot be such a row.
    """
    pixels = sample.pixels()
    height, width = pixels.shape[:2]
    if any(mask.shape != (height, width) for mask in sample.masks):
        raise ValueError(f"a mask is not of the image's size, {width} x {height}")
    fx, fy = square / width, square / height
    objects = []
    for mask in sample.masks:
        first, second = two_points(mask, points)
        objects.append((_scale(inclusive_box(mask), fx, fy), _scale(first, fx, fy), _scale(second, fx, fy)))
    if form == "single":
        if len(objects) != 1:
            raise ValueError(f"{len(objects)} objects, and this form holds one")
        (x1, y1, x2, y2), (px, py), (qx, qy) = objects[0]
        solution = f"<box>({x1},{y1}),({x2},{y2})</box><points>({px},{py}),({qx},{qy})</points>"
    elif form == "list":
        solution = json.dumps([{"bbox_2d": box, "point_2d": first} for box, first, _ in objects])
    else:
        raise ValueError(f'form {form!r}: "list" or "single"')
    return {
        "id": sample.id,
        "problem": sample.text,
        "solution": solution,
        "image": square_of(pixels, square),
        "img_height": height,
        "img_width": width,
    }
