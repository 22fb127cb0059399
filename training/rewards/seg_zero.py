"""Seg-Zero's five rewards as its code has them, loopholes included; each 0 or 1, 5 at most.

dvlab-research/Seg-Zero (Apache-2.0), verl/utils/reward_score/seg_restrict.py (strict) and seg.py (soft format).
Known loopholes, kept: the JSON is the first pair of braces anywhere, also in the thoughts with an empty answer; four
of five are won without any tag; a box of any size wins the points' reward when the points are near.
Everything that raises in the published code is 0, whatever it was: hence the bare `except Exception`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from segzero_ros.core.published import first_braces
from training.rewards.texts import SQUARE, each, scaled, well_tagged

BOX = re.compile(r"<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>")
POINTS = re.compile(r"<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>")


def json_object(text: str) -> dict[str, Any]:
    """The first braces that hold something, read as JSON. Raises where there are none."""
    braces = first_braces(text)
    if braces is None:
        raise ValueError("no braces")
    found: dict[str, Any] = json.loads(braces)
    return found


def true_numbers(pattern: re.Pattern[str], solution: str) -> list[int]:
    match = pattern.search(solution)
    if match is None:
        raise ValueError("the solution lacks what is compared")
    return [int(v) for v in match.groups()]


def box_of(data: dict[str, Any], strict: bool) -> Any:
    key = "bbox" if strict else next(k for k in data if "bbox" in k.lower())
    if len(data[key]) != 4:
        raise ValueError("a box has four numbers")
    return data[key]


def _iou(a: Any, b: Any) -> float:
    """Pixels are inclusive: every side is one longer; boxes that share less than two pixels' width share nothing."""
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    inner = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0
    area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return float(inner) / (area_a + area_b - inner)


def _l1(a: Any, b: Any) -> Any:
    return (abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2]) + abs(a[3] - b[3])) / 4


@each
def thinking_format(text: str, solution: str) -> float:
    """1 if the whole text is a thought in its tags and then an answer in its tags; either may be empty."""
    return float(well_tagged(text))


@each
def answer_format_soft(text: str, solution: str) -> float:
    """1 for any key with "bbox" and four values, and two more with "point" and two values each (seg.py)."""
    try:
        data = json_object(text)
        box, points = None, []
        for key in data:
            if "bbox" in key.lower() and box is None:
                box = key
            elif "point" in key.lower():
                points.append(key)
        return float(
            box is not None and len(points) >= 2 and len(data[box]) == 4 and all(len(data[k]) == 2 for k in points[:2])
        )
    except Exception:
        return 0.0


@each
def answer_format_strict(text: str, solution: str) -> float:
    """1 for lists `bbox` of four, `points_1` and `points_2` of two values (seg_restrict.py)."""
    try:
        data = json_object(text)
        wanted = {"bbox": 4, "points_1": 2, "points_2": 2}
        return float(all(isinstance(data[k], list) and len(data[k]) == n for k, n in wanted.items()))
    except Exception:
        return 0.0


def _box_iou(text: str, solution: str, strict: bool) -> float:
    try:
        true = true_numbers(BOX, solution)
        return float(_iou(box_of(json_object(text), strict), true) > 0.5)
    except Exception:
        return 0.0


def _box_l1(text: str, solution: str, strict: bool, square: int) -> float:
    try:
        true = true_numbers(BOX, solution)
        return float(_l1(box_of(json_object(text), strict), true) < scaled(10, square))
    except Exception:
        return 0.0


def _points(text: str, solution: str, strict: bool, square: int) -> float:
    try:
        true = true_numbers(POINTS, solution)
        data = json_object(text)
        box = box_of(data, strict)
        keys = ["points_1", "points_2"] if strict else [k for k in data if "points" in k.lower()][:2]
        (x1, y1), (x2, y2) = ((int(data[k][0]), int(data[k][1])) for k in keys)
        if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in ((x1, y1), (x2, y2))):
            return 0.0
        ax, ay, bx, by = true

        def apart(x: int, y: int, u: int, v: int) -> float:
            return math.sqrt((x - u) ** 2 + (y - v) ** 2)

        straight = apart(x1, y1, ax, ay) + apart(x2, y2, bx, by)
        crossed = apart(x1, y1, bx, by) + apart(x2, y2, ax, ay)
        return float(min(straight, crossed) / 2 < scaled(100, square))
    except Exception:
        return 0.0


@each
def box_iou(text: str, solution: str) -> float:
    """1 if IoU > 0.5 (pixels inclusive) with the box under `bbox`."""
    return _box_iou(text, solution, True)


@each
def box_iou_soft_keys(text: str, solution: str) -> float:
    """1 if IoU > 0.5 (pixels inclusive) with the box under the first key that holds "bbox"."""
    return _box_iou(text, solution, False)


@each
def box_l1(text: str, solution: str, square: int = SQUARE) -> float:
    """1 if the mean of the box's four absolute differences is below 10 pixels of an 840 square."""
    return _box_l1(text, solution, True, square)


@each
def box_l1_soft_keys(text: str, solution: str, square: int = SQUARE) -> float:
    """As `box_l1`, with the box under the first key that holds "bbox"."""
    return _box_l1(text, solution, False, square)


@each
def point_l1(text: str, solution: str, square: int = SQUARE) -> float:
    """1 if both points are in the predicted box and, better paired, on average within 100 pixels of 840 (Euclidean)."""
    return _points(text, solution, True, square)


@each
def point_l1_soft_keys(text: str, solution: str, square: int = SQUARE) -> float:
    """As `point_l1`, with the first keys that hold "bbox" and "points"; "point" alone is not enough here."""
    return _points(text, solution, False, square)


@each
def box_iou_soft(text: str, solution: str) -> float:
    """[0, 1]: the IoU itself (pixels inclusive), keys as in seg.py; paper, table 6."""
    try:
        true = true_numbers(BOX, solution)
        return _unit(_iou(box_of(json_object(text), False), true))
    except Exception:
        return 0.0


@each
def box_l1_soft(text: str, solution: str, square: int = SQUARE) -> float:
    """[0, 1]: 1 - mean L1 / side of the square; paper, table 6."""
    try:
        true = true_numbers(BOX, solution)
        return _unit(1 - _l1(box_of(json_object(text), False), true) / square)
    except Exception:
        return 0.0


@each
def point_l1_soft(text: str, solution: str, square: int = SQUARE) -> float:
    """[0, 1]: 1 - mean Euclidean distance of the better pairing / side of the square, for points in the box."""
    try:
        ax, ay, bx, by = true_numbers(POINTS, solution)
        data = json_object(text)
        box = box_of(data, False)
        keys = [k for k in data if "points" in k.lower()][:2]
        (x1, y1), (x2, y2) = ((float(data[k][0]), float(data[k][1])) for k in keys)
        if not all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in ((x1, y1), (x2, y2))):
            return 0.0
        straight = math.dist((x1, y1), (ax, ay)) + math.dist((x2, y2), (bx, by))
        crossed = math.dist((x1, y1), (bx, by)) + math.dist((x2, y2), (ax, ay))
        return _unit(1 - min(straight, crossed) / 2 / square)
    except Exception:
        return 0.0


def _unit(value: float) -> float:
    return min(max(float(value), 0.0), 1.0) if value == value else 0.0


# In the order in which the published code sums them.
STRICT = {
    "box_iou": box_iou,
    "thinking_format": thinking_format,
    "answer_format": answer_format_strict,
    "point_l1": point_l1,
    "box_l1": box_l1,
}
SOFT = {
    "box_iou": box_iou_soft_keys,
    "thinking_format": thinking_format,
    "answer_format": answer_format_soft,
    "point_l1": point_l1_soft_keys,
    "box_l1": box_l1_soft_keys,
}
# Tables 3 to 6 vary the row with the soft format.
SOFT_ACCURACY = {
    "box_iou": box_iou_soft,
    "thinking_format": thinking_format,
    "answer_format": answer_format_soft,
    "point_l1": point_l1_soft,
    "box_l1": box_l1_soft,
}
