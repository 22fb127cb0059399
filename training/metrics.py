"""Figures over items: matching of several boxes, accuracies, IoU means, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segzero_ros.geometry import boxes_iou_matrix
from segzero_ros.types import Box


def matched(predicted: Sequence[Box], true: Sequence[Box]) -> list[tuple[int, int, float]]:
    """Pairs (predicted, true, IoU) of the assignment with the greatest sum of IoU."""
    if not predicted or not true:
        return []
    iou = boxes_iou_matrix(np.array(predicted, float), np.array(true, float))
    rows, columns = linear_sum_assignment(-iou)
    return [(int(r), int(c), float(iou[r, c])) for r, c in zip(rows, columns, strict=True)]


def box_accuracy(predicted: Sequence[Box], true: Sequence[Box]) -> float:
    """Share of objects found with IoU > 0.5; too many and too few both cost: hits / max(predicted, true)."""
    hits = sum(iou > 0.5 for _, _, iou in matched(predicted, true))
    return hits / max(len(predicted), len(true), 1)


def interval(values: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, over items."""
    x = np.asarray(values, float)
    if len(x) == 0:
        return (float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = x[rng.integers(0, len(x), (resamples, len(x)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return (round(float(low), 4), round(float(high), 4))


def ratio_interval(
    above: Sequence[float], below: Sequence[float], seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of sum(above) / sum(below), over items."""
    x, y = np.asarray(above, float), np.asarray(below, float)
    chosen = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    low, high = np.percentile(x[chosen].sum(1) / np.maximum(y[chosen].sum(1), 1), [2.5, 97.5])
    return (round(float(low), 4), round(float(high), 4))


def intersection_union(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[int, int]:
    return int(np.count_nonzero(predicted & true)), int(np.count_nonzero(predicted | true))
