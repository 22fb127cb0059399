"""An annotation's `bbox` as a witness of its mask: it is not needed, and where both are there they must agree.

So run lengths that are written row by row, and masks of another object or size, are seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from training.data.masks import Extent, Shape, is_number

LEAST_IOU = 0.5
EDGE = 1.0  # pixels by which painting may move an edge: the whole of a small object
NO_BOX = "its bbox has no area or is none; its mask is taken"
CORNERS = "its bbox fits its mask only as two corners (x1, y1, x2, y2)"


def check_box(given: Any, shape: Shape, segmentation: Any) -> tuple[str, ...]:
    """What was amiss with a `bbox` and harmless. shape: of the mask, which is not empty.

    Raises ValueError where box and mask are of different places, also when the box is read as corners.
    """
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) != 4 or not all(map(is_number, given)) or min(given[2:]) <= 0:
        return (NO_BOX,)
    x, y, w, h = given
    box, corners = (x, y, x + w, y + h), (x, y, w, h)
    owns = [extent_of(shape.mask), *([shape.extent] if shape.extent else [])]
    if any(_agreement(box, own) >= LEAST_IOU for own in owns):
        return ()
    if any(_agreement(corners, own) >= LEAST_IOU for own in owns):
        return (CORNERS,)
    why = ""
    if isinstance(segmentation, dict):
        turned = shape.mask.ravel(order="F").reshape(shape.mask.shape)
        if _agreement(box, extent_of(turned)) >= LEAST_IOU:
            why = ": the run lengths seem to be written row by row, not down the columns"
    x1, y1, x2, y2 = owns[0]
    raise ValueError(
        f"its bbox [{x:g}, {y:g}, {w:g}, {h:g}] and the box of its mask [{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] "
        f"(x, y, width, height) overlap with IoU {_agreement(box, owns[0]):.2f}, below {LEAST_IOU:g}{why}"
    )


def extent_of(mask: Any) -> Extent:
    """x1, y1, x2, y2 of a mask that is not empty, the far edges exclusive."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(xs[0]), float(ys[0]), float(xs[-1]) + 1, float(ys[-1]) + 1


def _agreement(box: Extent, own: Extent) -> float:
    """IoU of a box with a mask's, whose edges may lie a pixel nearer to it."""
    own = tuple(min(max(b, o - EDGE), o + EDGE) for b, o in zip(box, own, strict=True))  # type: ignore[assignment]
    width, height = min(box[2], own[2]) - max(box[0], own[0]), min(box[3], own[3]) - max(box[1], own[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, own)) - both
    return both / union if union > 0 else 0.0
