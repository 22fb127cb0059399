"""Holes as exporters write them: a polygon within another one of the same object.

COCO's polygons add up, and so do labelme's of a group: neither has holes, and a part within others adds nothing. Who
writes one means a hole, or has drawn twice. `area` is the witness: where it is the ring's, the part is a hole. This is
for data of one's own; RefCOCO's, LVIS's and LISA++'s masks are unions, as those who evaluate on them have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from training.data.masks import Shape, decode, is_number
from training.data.objects import Mask

HOLE = "a polygon within another of its object is a hole, as its area says"
WITHIN = "a polygon lies within another of its object and is taken for a part of it: COCO's have no holes"


def check_holes(shape: Shape, area: Any) -> tuple[Mask, tuple[str, ...]]:
    """The mask, without its holes where `area`, in pixels, says so; and what is to be said of them."""
    polygons = list({tuple(part): part for part in shape.parts}.values())
    if not _may_be_nested(polygons):
        return shape.mask, ()
    height, width = shape.mask.shape
    counts = _nested(lambda: (decode([part], height, width) for part in polygons))
    if counts is None:
        return shape.mask, ()
    ring = counts % 2 == 1
    whole, left = int(shape.mask.sum()), int(ring.sum())
    near = (whole - left) / 4  # farther from one than this, it is no witness of it
    if is_number(area) and abs(area - whole) <= near:
        return shape.mask, ()
    return (ring, (HOLE,)) if is_number(area) and left and abs(area - left) <= near else (shape.mask, (WITHIN,))


def is_nested(parts: Sequence[Mask]) -> bool:
    """Whether a part lies within the others; one that is there twice counts once."""
    different = {np.packbits(part).tobytes(): part for part in parts}
    return len(different) > 1 and _nested(different.values) is not None


def _nested(parts: Callable[[], Iterable[Mask]]) -> Any:
    """How many parts hold each pixel, int (H, W); None where no part lies within the others. parts: gives them anew."""
    counts: Any = sum(part.astype(np.int32) for part in parts())
    return counts if any(part.any() and (counts[part] > 1).all() for part in parts()) else None


def _may_be_nested(polygons: Sequence[Sequence[float]]) -> bool:
    """Whether a polygon's box lies within another's: the others are told apart without painting them."""
    low = np.array([(min(p[0::2]), min(p[1::2])) for p in polygons])
    high = np.array([(max(p[0::2]), max(p[1::2])) for p in polygons])
    return any(
        ((low <= low[n]).all(1) & (high >= high[n]).all(1)).sum() > 1  # itself is one
        for n in range(len(polygons))
    )
