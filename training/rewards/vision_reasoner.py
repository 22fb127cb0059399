"""VisionReasoner's rewards as its code has them; 7 at most: format 3, accuracy 3, no repetition 1.

dvlab-research/Seg-Zero (Apache-2.0), verl/utils/reward_score/vision_reasoner.py. Kept with its oddities: the paper's
format reward is 2; an empty answer is 0 also where nothing was to be found; an empty text wins the last point.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segzero_ros.core.published import tagged_answer
from training.rewards.texts import SQUARE, each, scaled, well_tagged

MAX_OBJECTS = 120


def items_of(text: str) -> Any:
    """The JSON between the answer's tags. Raises where there is none."""
    body = tagged_answer(text)
    if body is None:
        raise ValueError("no answer")
    return json.loads(body)


def mean_of_items(text: str, worth: Callable[[Any], float]) -> float:
    """The mean over an answer's objects; where one cannot be read, what was summed until then, over all of them."""
    total = 0.0
    try:
        items = items_of(text)
        count = len(items)
        for item in items:
            total += worth(item) / count
    except Exception:  # as published
        pass
    return total


def lists_in_form(item: Any) -> int:
    """0 to 2: a list of four under `bbox_2d`, a list of two under `point_2d`."""
    wanted = (("bbox_2d", 4), ("point_2d", 2))
    return sum(key in item and isinstance(item[key], list) and len(item[key]) == size for key, size in wanted)


def answer_format(text: str) -> float:
    """0 to 2: `lists_in_form`, averaged."""
    return mean_of_items(text, lists_in_form)


@each
def form(text: str, solution: str) -> float:
    """0 to 3: 1 for the tags (as Seg-Zero's thinking format), and `answer_format`."""
    return float(well_tagged(text)) + answer_format(text)


def boxes_and_points(items: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """(M, 4) and (M, 2) of at most 120 objects; one that lacks a key costs all (KeyError)."""
    boxes, points = [item["bbox_2d"] for item in items], [item["point_2d"] for item in items]
    return np.array(boxes[:MAX_OBJECTS]), np.array(points[:MAX_OBJECTS])


def _iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """(M, N), pixels inclusive."""
    ax1, ay1, ax2, ay2 = np.split(a, 4, axis=1)
    bx1, by1, bx2, by2 = (v.T for v in np.split(b, 4, axis=1))
    width = np.maximum(0, np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + 1)
    height = np.maximum(0, np.minimum(ay2, by2) - np.maximum(ay1, by1) + 1)
    inner = width * height
    return inner / ((ax2 - ax1 + 1) * (ay2 - ay1 + 1) + (bx2 - bx1 + 1) * (by2 - by1 + 1) - inner)


def hits(
    boxes: NDArray[Any], points: NDArray[Any], true_boxes: NDArray[Any], true_points: NDArray[Any], square: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Per pair (M, N), 0 or 1: IoU > 0.5; mean L1 < 10; the point within 30 and in its own box (pixels of 840)."""
    iou = _iou(boxes, true_boxes) > 0.5
    l1 = np.mean(np.abs(boxes[:, None] - true_boxes[None]), axis=2) < scaled(10, square)
    apart = np.sqrt(np.sum((points[:, None] - true_points[None]) ** 2, axis=2))
    x, y = points[:, 0], points[:, 1]
    inside = (x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])
    near = (apart < scaled(30, square)) & inside[:, None]
    return iou.astype(float), l1.astype(float), near.astype(float)


def read_hits(text: str, solution: str, square: int) -> tuple[NDArray[Any], NDArray[Any], int, NDArray[np.float64]]:
    """What a text says, boxes (M, 4) and points (M, 2); how many true objects; every pair's hits summed (M, N).

    Raises whatever the text makes it raise.
    """
    with np.errstate(all="ignore"):
        true_boxes, true_points = boxes_and_points(json.loads(solution))
        boxes, points = boxes_and_points(items_of(text))
        iou, l1, near = hits(boxes, points, true_boxes, true_points, square)
    return boxes, points, len(true_boxes), iou + l1 + near


@each
def accuracy(text: str, solution: str, square: int = SQUARE) -> float:
    """0 to 3: hits of the best assignment, summed, over the larger number of objects."""
    try:
        boxes, _, true, total = read_hits(text, solution, square)
        cost = 3.0 - total
        rows, columns = linear_sum_assignment(cost)
        return float((len(rows) * 3.0 - cost[rows, columns].sum()) / max(len(boxes), true))
    except Exception:
        return 0.0


@each
def non_repeat(text: str, solution: str) -> float:
    """0 or 1: 0 if, cut at full stops, two pieces are exact repetitions of earlier ones."""
    seen: set[str] = set()
    repeated = 0
    for piece in filter(None, map(str.strip, text.split("."))):
        repeated += piece in seen
        if repeated >= 2:
            return 0.0
        seen.add(piece)
    return 1.0


@each
def form_without_thought(text: str, solution: str) -> float:
    """0 to 2: `answer_format` alone, for the ablation without a thought, which the published code does not have."""
    return answer_format(text)


TERMS = {"format": form, "accuracy": accuracy, "non_repeat": non_repeat}
ANSWER_TERMS = {**TERMS, "format": form_without_thought}
