"""Our rewards: what the published ones reward by accident is not rewarded here. 4 at most, 5 with masks.

* The JSON may stand in the thoughts and tags may be missing: here one form, read to its last character, or nothing is
  won; else a policy drops its thoughts for one point of five. A thought has at least a word.
* An empty answer is never right: here full accuracy where nothing matches and none elsewhere; a robot must be told.
* Any box wins the points' reward: here a point counts in a box that hits (IoU > 0.5), near the true point.
* Pixels inclusive, inverted boxes: here continuous boxes with an area, inside the square, as in the package.
* Repeated sentences cost a point: here length costs, smoothly and beyond a budget, since repeating is one way of
  rambling, and an empty text won that point.
* Doubled keys, several entries for one object: refused; divided by the larger number of objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from segzero_ros.core.geometry import boxes_iou_matrix
from training.rewards.star import OneLook, Segmenter, mask_ious, predicted_masks
from training.rewards.texts import SQUARE, each, scaled

MAX_CHARS = 20_000  # of a completion; a longer one is not read
MAX_OBJECTS = 120
MAX_LABEL = 80  # characters; else the thought goes on in the labels, where it costs nothing
BUDGET = 120  # words of a thought that cost nothing; VisionReasoner's average 62 to 71
_WORD = re.compile(r"\w")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_KEYS = {"bbox_2d", "point_2d", "label"}


def read(text: str, square: int, thinks: bool = True) -> tuple[str, NDArray[np.float64], NDArray[np.float64]] | None:
    """The thought, boxes (M, 4) and points (M, 2) of a text in exactly our form; None for every other.

    thinks: False for the form of a policy that is not to think: the answer alone.
    """
    if len(text) > MAX_CHARS or any(text.count(tag) != (thinks or "answer" in tag) for tag in _TAGS):
        return None
    thought, rest = "", text.strip()
    if thinks:
        if not rest.startswith("<think>"):
            return None
        thought, _, rest = rest.removeprefix("<think>").partition("</think>")
        rest = rest.lstrip()
        if not _WORD.search(thought):
            return None
    if not (rest.startswith("<answer>") and rest.endswith("</answer>")):
        return None
    try:
        items = json.loads(
            rest.removeprefix("<answer>").removesuffix("</answer>"),
            object_pairs_hook=_without_doubles,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(items, list) or len(items) > MAX_OBJECTS:
        return None
    boxes, points = np.zeros((len(items), 4)), np.zeros((len(items), 2))
    for n, item in enumerate(items):
        if not isinstance(item, dict) or not {"bbox_2d", "point_2d"} <= item.keys() <= _KEYS:
            return None
        box, point = _numbers(item["bbox_2d"], 4, square), _numbers(item["point_2d"], 2, square)
        if box is None or point is None or not isinstance(item.get("label", ""), str):
            return None
        if len(item.get("label", "")) > MAX_LABEL:
            return None
        if not (box[0] < box[2] and box[1] < box[3]):
            return None
        boxes[n], points[n] = box, point
    return thought, boxes, points


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _numbers(value: Any, count: int, square: int) -> list[float] | None:
    if not isinstance(value, list) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v <= square for v in value):
        return None
    return [float(v) for v in value]


def true_objects(solution: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (N, 4) and points (N, 2) of a solution. Raises on one that is not right: that is the data's fault."""
    items = json.loads(solution)
    boxes = np.array([i["bbox_2d"] for i in items], np.float64).reshape(-1, 4)
    return boxes, np.array([i["point_2d"] for i in items], np.float64).reshape(-1, 2)


@each
def form(text: str, solution: str, square: int = SQUARE, thinks: bool = True) -> float:
    """0 or 1: a thought with a word and a list of objects, each in its tags once, and nothing else."""
    return float(read(text, square, thinks) is not None)


@each
def accuracy(text: str, solution: str, square: int = SQUARE, thinks: bool = True) -> float:
    """0 to 3: IoU > 0.5, mean L1 < 10, and beside such an IoU the point in its box and within 30 of the true one.

    Pixels of an 840 square. Summed over the best assignment, over the larger number of objects; 3 for an empty list
    where nothing matches.
    """

    def won(iou: _Pairs, l1: _Pairs, apart: _Pairs, inside: NDArray[np.bool_]) -> _Pairs:
        hit = iou > 0.5
        return hit.astype(float) + (l1 < scaled(10, square)) + ((apart < scaled(30, square)) & inside & hit)

    return _assigned(text, solution, square, thinks, won)


@each
def soft_accuracy(text: str, solution: str, square: int = SQUARE, thinks: bool = True) -> float:
    """0 to 3, without thresholds, for the ablation (Seg-Zero, table 6).

    The IoU, 1 - L1 / square and, for a point in its box, the IoU times 1 - distance / square; assigned and averaged as
    in `accuracy`.
    """

    def won(iou: _Pairs, l1: _Pairs, apart: _Pairs, inside: NDArray[np.bool_]) -> _Pairs:
        return iou + (1 - l1 / square) + iou * inside * np.clip(1 - apart / square, 0, 1)

    return _assigned(text, solution, square, thinks, won)


_Pairs = NDArray[np.float64]  # (M, N): every object said with every true one


def _assigned(text: str, solution: str, square: int, thinks: bool, won: Callable[..., _Pairs]) -> float:
    """What `won` gives for pairs, by IoU, L1, the points' distance and whether the point is in its own box (M, 1)."""
    found = read(text, square, thinks)
    if found is None:
        return 0.0
    _, boxes, points = found
    true_boxes, true_points = true_objects(solution)
    if not len(boxes) or not len(true_boxes):
        return 3.0 * (len(boxes) == len(true_boxes))
    inside = ((points >= boxes[:, :2]) & (points <= boxes[:, 2:])).min(axis=1, keepdims=True)
    apart = np.sqrt(((points[:, None] - true_points[None]) ** 2).sum(2))
    l1 = np.abs(boxes[:, None] - true_boxes[None]).mean(2)
    worth = won(boxes_iou_matrix(boxes, true_boxes), l1, apart, inside)
    rows, columns = linear_sum_assignment(-worth)
    return float(worth[rows, columns].sum() / max(len(boxes), len(true_boxes)))


@each
def length(text: str, solution: str, square: int = SQUARE) -> float:
    """-0.5 to 0: nothing for a thought within the budget, -0.5 from twice the budget on.

    Counted in words, or in twelves of characters where that is more: one endless word is long, too.
    """
    found = read(text, square)
    if found is None:
        return 0.0
    words = max(len(found[0].split()), len(found[0]) / 12)
    return -0.5 * min(1.0, max(0.0, words / BUDGET - 1.0))


def masks(
    texts: Sequence[str],
    solutions: Sequence[str],
    *,
    masks: Sequence[Any] | None = None,
    images: Sequence[Any] | None = None,
    segmenter: Segmenter | None = None,
    square: int = SQUARE,
) -> list[float]:
    """0 to 1: mean mask IoU of the best assignment over the larger number of objects, by the segmenter.

    masks: per text (N, S, S) bool; images: per text (S, S, 3) uint8; S: of the image, whatever coordinates count to.
    """
    if masks is None or images is None or segmenter is None:
        raise ValueError("the mask reward needs masks, images and a segmenter")
    values, look = [], cast(Segmenter, OneLook(segmenter))
    for text, solution, true, image in zip(texts, solutions, masks, images, strict=True):
        found = read(text, square)
        count = len(json.loads(solution))
        if found is None or (bool(len(found[1])) != bool(count)):
            values.append(0.0)
        elif not count:
            values.append(1.0)
        else:
            ious = mask_ious(predicted_masks(look, image, found[1], found[2], square), np.asarray(true, bool))
            rows, columns = linear_sum_assignment(-ious)
            values.append(float(ious[rows, columns].sum() / max(len(found[1]), count)))
    return values


TERMS = {"format": form, "accuracy": accuracy, "length": length}
SOFT_TERMS = {**TERMS, "accuracy": soft_accuracy}
ANSWER_TERMS = {"format": partial(form, thinks=False), "accuracy": partial(accuracy, thinks=False)}
MASK_TERMS = {**TERMS, "masks": masks}
