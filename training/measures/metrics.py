"""Figures over items: matching of several boxes, accuracies, and bootstrap intervals; IoU is in protocols.py."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segzero_ros.core.contract import Box
from segzero_ros.core.geometry import boxes_iou_matrix


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
    means = np.concatenate([x[chosen].mean(1) for chosen in resampled(len(x), seed, resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return (round(float(low), 4), round(float(high), 4))


def ratio_interval(
    above: Sequence[float], below: Sequence[float], seed: int = 0, resamples: int = 2000
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of sum(above) / sum(below), over items."""
    x, y = np.asarray(above, float), np.asarray(below, float)
    if len(x) == 0:
        return (float("nan"), float("nan"))
    drawn = [x[chosen].sum(1) / np.maximum(y[chosen].sum(1), 1) for chosen in resampled(len(x), seed, resamples)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return (round(float(low), 4), round(float(high), 4))


def resampled(count: int, seed: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Indices (rows, count) of bootstrap samples, `resamples` rows in all, in pieces of at most about 2 million."""
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // count)
    for start in range(0, resamples, rows):
        yield rng.integers(0, count, (min(rows, resamples - start), count))


def intersection_union(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[int, int]:
    return int(np.count_nonzero(predicted & true)), int(np.count_nonzero(predicted | true))


def lenient_box_hit(predicted: Sequence[Box], target: NDArray[np.bool_]) -> bool:
    """Box accuracy as VisionReasoner publishes it ("bbox_AP"), evaluation/evaluation_segmentation.py: a hit where any
    predicted box, or the hull of all of them, has IoU > 0.5 with the hull of the target. One right box of several is
    enough and wrong ones cost nothing. target: (H, W); empty with no box predicted is a hit.

    The hull's far edges are its last pixels, as published, and widths are differences. Published sets with a column
    `bbox` are compared with that box there, not with the hull.
    """
    ys, xs = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    if not len(ys):
        return not predicted
    if not predicted:
        return False
    boxes = np.array(predicted, float)
    boxes = np.vstack([boxes, [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]])
    hull = np.array([[xs[0], ys[0], xs[-1], ys[-1]]], float)
    return bool((boxes_iou_matrix(boxes, hull) > 0.5).any())


def counting(predicted: Sequence[int], true: Sequence[int]) -> dict[str, Any]:
    """Numbers of objects: exact match, mean absolute error, root of the mean squared error. Raises ValueError if empty.

    VisionReasoner, evaluation/calculate_counting.py.
    """
    if not true:
        raise ValueError("there is nothing to count")
    off = np.asarray(predicted, float) - np.asarray(true, float)
    hits = [float(v) for v in off == 0]
    return {
        "exact": round(float(np.mean(hits)), 4),
        "exact_ci": interval(hits),
        "mae": round(float(np.abs(off).mean()), 4),
        "mae_ci": interval(np.abs(off).tolist()),
        "rmse": round(float(np.sqrt((off**2).mean())), 4),
    }


def detection_ap(items: Sequence[dict[str, Any]], *, zero_without_target: bool = False) -> dict[str, float]:
    """Average precision by pycocotools' COCOeval; "AP" is over IoU .50 to .95.

    items: {"size": (height, width), "category": text, "true_boxes", "boxes": XYXY, exclusive edges}; each is an image
    of its own, so "AP" is the mean over categories of how well boxes are ranked over all items.

    A reasoner gives no confidence. The published one is used, a box's area over the image's (VisionReasoner,
    evaluation/evaluation_coco.py), which is arbitrary: AP then says little of a detector's worth. zero_without_target:
    as published, boxes over an item without true boxes rank last, which takes the truth for a ranking. The published
    truth is COCO's whole file, with its crowds, over which a box is neither right nor wrong; items here have none.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = sorted({i["category"] for i in items})
    true: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, item in enumerate(items, 1):
        area = item["size"][0] * item["size"][1]
        category = names.index(item["category"]) + 1
        common = {"image_id": image, "category_id": category}
        for x1, y1, x2, y2 in item["true_boxes"]:
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            true.append({"id": len(true) + 1, "iscrowd": 0, **common, **size})
        for x1, y1, x2, y2 in item["boxes"]:
            ranked = (x2 - x1) * (y2 - y1) / area if item["true_boxes"] or not zero_without_target else 0.0
            found.append({**common, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": ranked})
    if not true:
        raise ValueError("no item has a true box")
    keys = ("AP", "AP50", "AP75")
    if not found:
        return dict.fromkeys(keys, 0.0)
    truth = COCO()
    truth.dataset = {
        "images": [{"id": n, "height": i["size"][0], "width": i["size"][1]} for n, i in enumerate(items, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
        "annotations": true,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {key: round(float(v), 4) for key, v in zip(keys, run.stats[:3], strict=True)}
