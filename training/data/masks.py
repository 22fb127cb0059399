"""COCO's segmentations to masks and back: polygons, run lengths (RLE), compressed or not. By pycocotools, after checks:

given too few pixels it hands back whatever the memory holds, and takes a polygon of two points for a box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from training.data.objects import Mask

Rle = dict[str, Any]  # {"size": [height, width], "counts": str}
SLACK = 2.0  # pixels that a polygon may lie outside of the image: annotators' tools round


def decode(segmentation: Any, height: int, width: int) -> Mask:
    """bool (height, width), the union of the parts. Raises ValueError that says what is wrong.

    segmentation: polygons [[x1, y1, x2, y2, ...], ...] in pixels; {"size": [H, W], "counts": [...] or text}; or a list
    of such run lengths (RefCLEF).
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, height, width)
    if not isinstance(segmentation, list):
        raise ValueError(f"the segmentation is {type(segmentation).__name__}, neither polygons nor run lengths")
    if not segmentation:
        raise ValueError("the segmentation is empty")
    if all(isinstance(part, dict) for part in segmentation):
        return np.asarray(np.logical_or.reduce([_from_runs(part, height, width) for part in segmentation]))
    for part in segmentation:
        check_polygon(part, height, width)
    runs = coco.merge(coco.frPyObjects([[float(v) for v in part] for part in segmentation], height, width))
    return _from_runs(runs, height, width)


def check_polygon(polygon: Any, height: int, width: int) -> None:
    """polygon: [x1, y1, x2, y2, ...]. Raises ValueError."""
    if not isinstance(polygon, Sequence) or isinstance(polygon, str):
        raise ValueError(f"a polygon is {type(polygon).__name__}, not a list of numbers")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in polygon):
        raise ValueError("a polygon holds something that is no finite number")
    if len(polygon) % 2:
        raise ValueError(f"a polygon has {len(polygon)} numbers, which are no pairs")
    if len(polygon) < 6:
        raise ValueError(f"a polygon has {len(polygon) // 2} points; it needs 3")
    xs, ys = polygon[0::2], polygon[1::2]
    if min(xs) < -SLACK or max(xs) > width + SLACK or min(ys) < -SLACK or max(ys) > height + SLACK:
        raise ValueError(
            f"a polygon reaches from ({min(xs):g}, {min(ys):g}) to ({max(xs):g}, {max(ys):g}), "
            f"outside of the image of {width} x {height}"
        )


def _from_runs(rle: Rle, height: int, width: int) -> Mask:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"the run lengths are of an image of {size}, this one is {[height, width]} (height, width)")
    if isinstance(counts, (str, bytes)):
        counts = runs_of(counts)
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
