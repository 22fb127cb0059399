"""The published quality filter: an object is kept if a segmenter finds its mask from its own box and first point.

dvlab-research/Seg-Zero, prepare_dataset/training_data_prepare_toturial.ipynb: SAM 2.1 large, IoU >= 0.6, on the image
at its own size. There SAM gives its single mask; `Segmenter.segment` gives the one of three that it thinks best, as the
published inference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.data.objects import Mask, inclusive_box, two_points

MIN_IOU = 0.6


class Segmenter(Protocol):
    """As segzero_ros.types.Segmenter."""

    def encode(self, image: Any) -> Any: ...

    def segment(self, features: Any, boxes: Any, points: Any) -> list[tuple[NDArray[np.bool_], float]]: ...


def load(profile: str) -> Segmenter:
    """The segmenter of a profile (a name, or the path of its YAML). Raises ProfileError or SegzeroError."""
    from segzero_ros.profiles import load_profile
    from segzero_ros.segmenter_transformers import load_segmenter

    return load_segmenter(load_profile(profile))


def agreement(
    segmenter: Segmenter, image: NDArray[np.uint8], masks: Sequence[Mask], points: str = "published"
) -> list[float]:
    """IoU of each mask (H, W) with what the segmenter finds in the image (H, W, 3) from its box and first point."""
    if not masks:
        return []
    features = segmenter.encode(np.ascontiguousarray(image))
    boxes = [tuple(map(float, inclusive_box(m))) for m in masks]
    first = [(tuple(map(float, two_points(m, points)[0])),) for m in masks]
    return [iou(found, mask) for (found, _), mask in zip(segmenter.segment(features, boxes, first), masks, strict=True)]


def iou(a: Mask, b: Mask) -> float:
    """0 where both are empty, as published."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0
