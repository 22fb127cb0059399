"""COCO's segmentations to masks and back: polygons, run lengths (RLE), compressed or not. By pycocotools, after checks:

given too few pixels it hands back whatever the memory holds, and takes a polygon of two points for a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from training.data.objects import Mask

Rle = dict[str, Any]  # {"size": [height, width], "counts": str}
Extent = tuple[float, float, float, float]  # x1, y1, x2, y2
SLACK = 2.0  # pixels that a polygon may lie outside of the image: annotators' tools round
OUTSIDE = 0.02  # of a side that it may lie outside beyond that, and is cut off
DEEPEST = 6  # lists in lists of one polygon
WANTED = 'polygons nor run lengths: COCO has [[x1, y1, x2, y2, ...], ...] in pixels, or {"size": [H, W], "counts": ...}'
SPECK = "a polygon part of one or two points is dropped"
UNNESTED = "its polygon is written in another nesting of lists than COCO's"
CUT = "a polygon reaches outside of the image by up to 2 % of its side, and is cut off there"


@dataclass(frozen=True)
class Shape:
    """What a segmentation shows. mask: bool (H, W). extent: of all its points, in pixels; None for run lengths.

    parts: its polygons [x1, y1, ...] where there are several. mended: what was amiss and harmless, in sentences.
    """

    mask: Mask
    extent: Extent | None = None
    parts: tuple[list[float], ...] = ()
    mended: tuple[str, ...] = ()


def decode(segmentation: Any, height: int, width: int) -> Mask:
    """The mask alone that `read_shape` gives."""
    return read_shape(segmentation, height, width).mask


def read_shape(segmentation: Any, height: int, width: int) -> Shape:
    """The union of the parts. Raises ValueError that says what is wrong.

    segmentation: polygons [[x1, y1, x2, y2, ...], ...] in pixels; {"size": [H, W], "counts": [...] or text}; or a list
    of such run lengths (RefCLEF). Polygons that are nested otherwise, or as pairs of coordinates, are taken too.
    """
    _refuse_foreign(segmentation)
    if isinstance(segmentation, dict):
        return Shape(_from_runs(segmentation, height, width))
    if not segmentation:
        raise ValueError("the segmentation is empty")
    if all(isinstance(part, dict) for part in segmentation):
        return Shape(np.asarray(np.logical_or.reduce([_from_runs(part, height, width) for part in segmentation])))
    mended = []
    parts = segmentation
    if not all(isinstance(part, list) and not any(isinstance(v, list) for v in part) for part in parts) or (
        len(parts) > 2 and all(len(part) == 2 for part in parts)
    ):
        parts = _polygons(segmentation)
        mended.append(UNNESTED)
    for part in parts:
        check_numbers(part)
    whole = [part for part in parts if len(part) >= 6]
    if not whole:
        raise ValueError(f"a polygon has {len(max(parts, key=len)) // 2} points; it needs 3")
    if len(whole) < len(parts):
        mended.append(SPECK)
    xs, ys = [v for part in parts for v in part[0::2]], [v for part in parts for v in part[1::2]]
    check_pixels([*xs, *ys])
    outside = [reaches_out(part, height, width) for part in whole]  # of each, since it may be too far
    if any(outside):
        mended.append(CUT)
    several = tuple(whole) if len(whole) > 1 else ()
    runs = coco.merge(coco.frPyObjects([[float(v) for v in part] for part in whole], height, width))
    painted = _from_runs(runs, height, width)
    return Shape(painted, (min(xs), min(ys), max(xs), max(ys)), several, tuple(mended))


def _refuse_foreign(segmentation: Any) -> None:
    """Raises ValueError for what is no list and no run lengths, such as points written as {"x": 1, "y": 2}."""
    if not isinstance(segmentation, (list, dict)):
        raise ValueError(f"the segmentation is {type(segmentation).__name__}, neither {WANTED}")
    keys = _foreign_keys(segmentation)
    if keys is not None:
        some = ", ".join(str(key)[:20] for key in keys[:4]) or "nothing"
        raise ValueError(f"the segmentation is of objects that hold {some}, neither {WANTED}")


def _foreign_keys(nested: Any, depth: int = 0) -> list[Any] | None:
    """Of the first object in it that is no run lengths."""
    if isinstance(nested, dict):
        return None if nested.keys() & {"size", "counts"} else list(nested)
    if not isinstance(nested, list) or depth > DEEPEST:
        return None
    return next((keys for part in nested if (keys := _foreign_keys(part, depth + 1)) is not None), None)


def _polygons(nested: Any, depth: int = 0) -> list[list[Any]]:
    """Flat polygons out of whatever nesting: [x, y, ...] itself, pairs [[x, y], ...], or one or more lists too many."""
    if depth > DEEPEST:
        raise ValueError("the segmentation is nested too deep")
    if not isinstance(nested, list):
        raise ValueError(f"a polygon is {type(nested).__name__}, not a list of numbers")
    if not any(isinstance(v, list) for v in nested):
        return [nested]
    parts = [part for inner in nested for part in _polygons(inner, depth + 1)]
    if len(parts) > 2 and all(len(part) == 2 for part in parts):
        return [[v for pair in parts for v in pair]]
    return parts


def is_number(value: Any) -> bool:
    """A finite one that can be a place in an image."""
    return type(value) in (int, float) and -1e9 < value < 1e9


def check_numbers(polygon: Any) -> None:
    """polygon: [x1, y1, x2, y2, ...]. Raises ValueError."""
    if not isinstance(polygon, Sequence) or isinstance(polygon, str):
        raise ValueError(f"a polygon is {type(polygon).__name__}, not a list of numbers")
    if not all(map(is_number, polygon)):
        raise ValueError("a polygon holds something that is no finite number")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, which are no pairs")


def check_pixels(values: Sequence[float]) -> None:
    """values: all coordinates of an object. Raises ValueError where they seem to be shares of the image."""
    if min(values) >= 0 and max(values) <= 1 and any(v % 1 for v in values):
        raise ValueError(
            "a polygon lies within the first pixel, as shares of the image (0 to 1) do: coordinates are pixels"
        )


def reaches_out(polygon: Sequence[float], height: int, width: int) -> bool:
    """Whether it is to be cut off at the image's border. Raises ValueError where that would take too much."""
    xs, ys = polygon[0::2], polygon[1::2]
    out = max(-min(xs), max(xs) - width) - SLACK, max(-min(ys), max(ys) - height) - SLACK
    if out[0] > OUTSIDE * width or out[1] > OUTSIDE * height:
        raise ValueError(
            f"a polygon reaches from ({min(xs):g}, {min(ys):g}) to ({max(xs):g}, {max(ys):g}), "
            f"outside of the image of {width} x {height}"
        )
    return max(out) > 0


def _from_runs(rle: Rle, height: int, width: int) -> Mask:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"the run lengths are of an image of {size}, this one is {[height, width]} (height, width)")
    if isinstance(counts, (str, bytes)):
        counts = runs_of(counts)
    if isinstance(counts, list):
        counts = [int(v) if type(v) is float and v.is_integer() else v for v in counts]
    if not isinstance(counts, list) or not all(type(v) is int and v >= 0 for v in counts):
        raise ValueError("the run lengths are no counts")
    if sum(counts) != height * width:
        raise ValueError(f"the run lengths cover {sum(counts)} pixels, the image has {height * width}")
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, counts).reshape((height, width), order="F"))


def runs_of(text: str | bytes) -> list[int]:
    """The counts of a compressed string: five bits a character from 48 on, the sixth says that more follow, and from
    the fourth count on the difference to the one before the last (cocoapi, maskApi.c). Raises ValueError."""
    data = text.encode("latin-1", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value, shift = 0, 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the compressed run lengths are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the compressed run lengths end early")
    return counts


def encode(mask: Mask) -> Rle:
    """Compressed run lengths that JSON and Arrow hold."""
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}
