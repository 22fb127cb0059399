"""The published quality filter: an object is kept if a segmenter finds its mask from its own box and first point.

dvlab-research/Seg-Zero, prepare_dataset/training_data_prepare_toturial.ipynb: SAM 2.1 large, IoU >= 0.6, on the image
at its own size. There SAM gives its single mask; `Segmenter.segment` gives the one of three that it thinks best, as the
published inference does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Segmenter
from training.data.objects import Mask, inclusive_box, two_points

MIN_IOU = 0.6


def load(profile: str) -> Segmenter:
    """The segmenter of a profile (a name, or the path of its YAML). Raises ProfileError or SegzeroError."""
    from segzero_ros.models.segmenter_transformers import load_segmenter
    from segzero_ros.profiles import load_profile

    return load_segmenter(load_profile(profile))


def agreement(
    segmenter: Segmenter, image: NDArray[np.uint8], masks: Sequence[Mask], points: str = "published"
) -> list[float]:
    """IoU of each mask (H, W) with what the segmenter finds in the image (H, W, 3) from its box and first point."""
    if not masks:
        return []
    features = segmenter.encode(np.ascontiguousarray(image))
    boxes = [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in map(inclusive_box, masks)]
    first = [((float(x), float(y)),) for (x, y), _ in (two_points(m, points) for m in masks)]
    return [
        iou(found, mask)
        for (found, _), mask in zip(segmenter.segment(features, [*boxes], [*first]), masks, strict=True)
    ]


def iou(a: Mask, b: Mask) -> float:
    """0 where both are empty, as published."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0
