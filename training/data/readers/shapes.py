"""What labelme writes and ReasonSeg took over: NAME.json beside an image, with `shapes` [{label, points, shape_type}].

https://github.com/wkentaro/labelme: a polygon is its corners, a rectangle two opposite corners, a circle its centre and
a point on its edge. All other types have no area, or one that this file does not tell; they are refused. `imagePath` is
relative to the JSON file; ReasonSeg has none, and its image has the JSON's name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.image_names import ImageFolder
from training.data.images import Picture
from training.data.masks import CUT, check_pixels, reaches_out
from training.data.readers.records import SIZE_AS_TEXT, side_of

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
FAR = 1e6  # no pixel of an image
Draw = Callable[[NDArray[np.uint8], int], None]  # paints a shape with a value
CUT_CIRCLE = "a circle reaches outside of the image, and is cut off there"
OTHER_NAME = "its imagePath is not there, and the image beside it of its own name is read"


def annotation_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The JSON files of a folder, in order, and what is to be said of those that are not read.

    Raises ValueError where there is none.
    """
    try:
        paths = sorted(p for p in folder.iterdir() if _is_json(p.name) and p.is_file())
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read: {error.strerror}") from error
    below = [Path(where) / n for where, _, names in os.walk(folder) for n in names if _is_json(n)]
    below = sorted(p for p in below if p.parent != folder and not _hidden(p.relative_to(folder)))
    some = f"such as {below[0].relative_to(folder)}" if below else ""
    if not paths:
        more = f"; there are {len(below)} in folders below, {some}: say --root {below[0].parent}" if below else ""
        raise ValueError(f"there are no annotations (*.json) in {folder}{more}")
    return paths, [f"{len(below)} *.json in folders below are not read, {some}"] if below else []


def _is_json(name: str) -> bool:
    return name.casefold().endswith(".json") and not name.startswith(".")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def drawing_of(shape: dict[str, Any]) -> Draw:
    """How a shape is painted, its outline included. Raises ValueError for a shape without an area that is known."""
    kind = shape.get("shape_type")
    kind = "polygon" if kind is None else kind  # ReasonSeg's may have none
    if kind not in ("polygon", "rectangle", "circle"):
        raise ValueError(f"its shape_type is {str(kind)[:40]!r}; polygon, rectangle and circle are read")
    flat = np.array(flat_points(shape.get("points")), np.float64)
    if not flat.size or not np.isfinite(flat).all() or np.abs(flat).max() > FAR:
        raise ValueError("its points are none, or no pixels")
    check_pixels(flat.tolist())
    points = flat.reshape(-1, 2)
    if kind == "polygon":
        return partial(_polygon, points.astype(np.int32))
    if kind == "rectangle" and len(points) == 4:  # all corners, as some versions write them
        return partial(_polygon, points.astype(np.int32))
    if len(points) != 2:
        raise ValueError(f"a {kind} has {len(points)} points; it needs 2")
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points
        return partial(_polygon, np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]).astype(np.int32))
    (x, y), (ex, ey) = points
    return partial(_circle, x, y, math.hypot(ex - x, ey - y))


def _polygon(corners: NDArray[np.int32], canvas: NDArray[np.uint8], value: int) -> None:
    cv2.polylines(canvas, [corners], True, value, 1)
    cv2.fillPoly(canvas, [corners], value)


def _circle(x: float, y: float, radius: float, canvas: NDArray[np.uint8], value: int) -> None:
    height, width = canvas.shape
    top, bottom = (int(np.clip(v, 0, height)) for v in (y - radius, y + radius + 2))
    left, right = (int(np.clip(v, 0, width)) for v in (x - radius, x + radius + 2))
    ys, xs = np.ogrid[top:bottom, left:right]
    canvas[top:bottom, left:right][(xs - x) ** 2 + (ys - y) ** 2 <= radius**2] = value


def flat_points(points: Any) -> list[float]:
    """[[x, y], ...] as [x, y, ...]. Raises ValueError."""
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise ValueError("its points are no list of pairs")
    flat = [v for pair in points for v in pair]
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in flat):
        raise ValueError("its points are no numbers")
    return flat


def is_speck(shape: dict[str, Any]) -> bool:
    """Whether it is a polygon of one or two points, as a stray click leaves."""
    points = shape.get("points")
    return shape.get("shape_type") in (None, "polygon") and isinstance(points, list) and 0 < len(points) < 3


def cut_at_border(shape: dict[str, Any], height: int, width: int) -> tuple[str, ...]:
    """What is to be said of a shape that `drawing_of` takes and that reaches outside of the image.

    Raises ValueError where its points lie too far outside, as those of another image do.
    """
    flat = flat_points(shape["points"])
    if reaches_out(flat, height, width):
        return (CUT,)
    if shape.get("shape_type") != "circle":
        return ()
    x, y, ex, ey = flat  # the circle may leave an image in which its points lie
    radius = math.hypot(ex - x, ey - y)
    inside = min(x, y) >= radius and x + radius <= width and y + radius <= height
    return () if inside else (CUT_CIRCLE,)


def names_of(path: Path, data: dict[str, Any], images: ImageFolder) -> list[str]:
    """The names under which the image of a JSON file is looked for."""
    name = data.get("imagePath")
    return [name] if isinstance(name, str) and name.strip() else _namesakes(path.stem, images.path)


def picture_of(path: Path, data: dict[str, Any], images: ImageFolder) -> Picture:
    """The image of a JSON file. images: the folder that its images are in.

    Raises ValueError if there is none or more than one, or if it is not of the size that the file says.
    """
    size, mended = _size_of(data)
    name = data.get("imagePath")
    if isinstance(name, str) and name.strip():
        try:
            picture = images.find(name, size)
        except ValueError as error:
            beside = _namesakes(path.stem, images.path)
            if len(beside) != 1:
                raise ValueError(f"{error}{_hint(path, name, images)}") from error
            picture = images.find(beside[0], size)
            picture = replace(picture, mended=(OTHER_NAME, *picture.mended))
    else:
        beside = _namesakes(path.stem, images.path)
        if len(beside) > 1:
            raise ValueError(
                f"there are {len(beside)} images of its name, {beside[0]} and {beside[1]}, and no imagePath"
            )
        picture = images.find(beside[0] if beside else f"{path.stem}.jpg", size)
    if size is not None and size != picture.size:
        height, width = picture.size
        raise ValueError(f"the image {picture.path} is {width} x {height}, the annotations say {size[1]} x {size[0]}")
    return replace(picture, mended=(*mended, *picture.mended))


def _size_of(data: dict[str, Any]) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    """(height, width) that a file says of its image, or None; and what was amiss with it and harmless."""
    given = [data.get("imageHeight"), data.get("imageWidth")]
    height, width = (side_of(value) for value in given)
    if height is None or width is None:
        return None, ()
    return (height, width), () if all(type(value) is int for value in given) else (SIZE_AS_TEXT,)


def _hint(path: Path, name: str, images: ImageFolder) -> str:
    """Which folder to give where `imagePath`, which is relative to the JSON file, leads to another one."""
    there = os.path.join(path.parent, name.replace("\\", "/"))
    folder = os.path.normpath(os.path.dirname(there))
    if not os.path.isfile(there) or os.path.realpath(folder) == os.path.realpath(images.path):
        return ""
    return f"; if {there} is meant, say --images {folder}"


def _namesakes(stem: str, folder: Path) -> list[str]:
    names = {stem + e for ending in ENDINGS for e in (ending, ending.upper())}
    return sorted(name for name in names if os.path.exists(folder / name))
