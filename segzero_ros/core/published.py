"""Answers read as published scripts read them, each by its own name: for evaluation.

What raises there is PARSE_ERROR here. Scripts of one project differ: VisionReasoner's tables come from its library,
which keeps boxes whose points it cannot read, while the scripts beside it refuse the whole answer; StAR's evaluation
refuses what its inference script takes for no objects. The text is hostile: nothing raises, in bounded time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from segzero_ros.core.contract import Answer, Box, Candidate, Point, Status
from segzero_ros.core.geometry import to_source
from segzero_ros.core.profile import Profile

MAX_REPAIR = 20_000  # characters; StAR's repairs take quadratic time
_WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
_STAR_PROMPTS = ("star", "star-stage-1", "star-stage-2")


@dataclass(frozen=True)
class Script:
    """source: repository and file. read: a text's candidates, raising where the script raises or finds none readable.

    thought: what the script keeps as the thought, or None. needs_thought: an answer without one is refused.
    max_new_tokens: what the script generates at most. place: to source pixels (height, width), where that does not
    follow from the profile.
    """

    source: str
    read: Callable[[str], list[Candidate]]
    thought: Callable[[str], str | None]
    max_new_tokens: int
    needs_thought: bool = False
    place: Callable[[Sequence[Candidate], int, int], list[Candidate]] | None = None


def script_of(profile: Profile) -> str:
    """The name of the script that made the published figures of this kind of answer; "" where there is none."""
    if profile.reader != "json" or profile.order != "xy":
        return ""
    if profile.prompt in _STAR_PROMPTS:
        return "star-qwen3" if profile.coordinates == "bins" else "star"
    return "seg-zero" if profile.schema == "single" else "vision-reasoner"


def read_published(text: str, script: str) -> Answer:
    """An answer in the profile's own coordinates, as the script named of SCRIPTS reads it; "": refused.

    NO_OBJECT where it says that nothing matches. A candidate without points is a box that the script counts and does
    not segment.
    """
    if script not in SCRIPTS:
        said = "no published parser here reads answers of this form"
        return Answer(Status.PARSE_ERROR, reasons=(f"refused: {said}",))
    known = SCRIPTS[script]
    thought = known.thought(text)
    try:
        candidates = known.read(text)
        if thought is None and known.needs_thought:
            raise ValueError("no thinking")
    except _WRONG as error:
        return Answer(Status.PARSE_ERROR, (), thought or "", "", (f"refused: {error!r}"[:300],))
    return Answer(Status.OK if candidates else Status.NO_OBJECT, tuple(candidates), thought or "", "")


def place(candidates: Sequence[Candidate], script: str, profile: Profile, height: int, width: int) -> list[Candidate]:
    """What `read_published` found, in source pixels."""
    own = SCRIPTS[script].place
    return own(candidates, height, width) if own else [to_source(c, profile, height, width) for c in candidates]


# The published regular expressions take quadratic time on hostile text; these find the same in one pass.


def plain_thinking(text: str) -> str | None:
    """What `<think>([^<]+)</think>` finds."""
    start = text.find("<think>")
    while start >= 0:
        inside = start + len("<think>")
        end = text.find("<", inside)
        if end > inside and text.startswith("</think>", end):
            return text[inside:end]
        start = text.find("<think>", inside)
    return None


def first_braces(text: str) -> str | None:
    """What `{[^}]+}` finds."""
    start = text.find("{")
    while start >= 0:
        end = text.find("}", start)
        if end < 0:
            return None
        if end > start + 1:
            return text[start : end + 1]
        start = text.find("{", end)
    return None


def _between(text: str, start: str, end: str) -> str | None:
    i = text.find(start)
    j = text.find(end, i) if i >= 0 else -1
    return text[i + len(start) : j].strip() if j >= 0 else None


def tagged_answer(text: str) -> str | None:
    """What `<answer>\\s*(.*?)\\s*</answer>` finds, where "." is any character."""
    return _between(text, "<answer>", "</answer>")


def _tagged_thinking(text: str) -> str | None:
    """What `<think>\\s*(.*?)\\s*</think>` finds, where "." is any character."""
    return _between(text, "<think>", "</think>")


def _before_answer(text: str) -> str | None:
    before, tag, _ = text.partition("<answer>")
    return before.strip() if tag else None


def _body(text: str) -> str:
    body = tagged_answer(text)
    if body is None:
        raise ValueError("no answer")
    return body


def _read_single(text: str) -> list[Candidate]:
    braces = first_braces(text)
    if braces is None:
        raise ValueError("no object")
    data = json.loads(braces)
    box_key = next((key for key in data if "bbox" in key.lower()), None)
    if not box_key or len(data[box_key]) != 4:
        raise ValueError("no box")
    box = tuple(_scalable(int(v)) for v in data[box_key])
    keys = [key for key in data if "points" in key.lower()][:2]
    if len(keys) != 2:
        raise ValueError("no two points")
    points = tuple((_scalable(int(data[k][0])), _scalable(int(data[k][1]))) for k in keys)
    return [Candidate((box[0], box[1], box[2], box[3]), points)]


def _read_list(text: str) -> list[Candidate]:
    return _objects(json.loads(_body(text)))


def _read_library(text: str) -> list[Candidate]:
    """All boxes are read, then all points; what fails there leaves the boxes, of which nothing is segmented then."""
    data = json.loads(_body(text))
    boxes = [_box(item) for item in data]
    try:
        points: list[tuple[Point, ...]] = [(_point(item),) for item in data]
    except _WRONG:
        points = [()] * len(boxes)
    return [Candidate(box, point) for box, point in zip(boxes, points, strict=True)]


def _read_star(text: str) -> list[Candidate]:
    """No answer in tags is no objects; what its repairs do not make JSON, and an object without a label, are errors."""
    data = _star_data(text)
    if isinstance(data, list) and _is_nothing(data):
        return []
    found = _objects(data)
    _check_labels(data)
    return found


def _read_star_qwen3(text: str) -> list[Candidate]:
    """As `_read_star`, but lists that are none are passed over, boxes and points apart; numbers as they are written."""
    data = _star_data(text)
    if isinstance(data, list) and _is_nothing(data):
        return []
    boxes = [b for b in (item.get("bbox_2d") for item in data) if isinstance(b, list) and len(b) == 4]
    points = [p for p in (item.get("point_2d") for item in data) if isinstance(p, list) and len(p) == 2]
    _check_labels(data)
    out = []
    for n, box in enumerate(boxes):
        x1, y1, x2, y2 = (_scalable(float(v)) for v in box)
        point = tuple(_scalable(float(v)) for v in points[n]) if n < len(points) else (0.0, 0.0)
        out.append(Candidate((x1, y1, x2, y2), ((point[0], point[1]),)))
    return out


def _place_star_qwen3(candidates: Sequence[Candidate], height: int, width: int) -> list[Candidate]:
    """To source pixels, all inside. The script tells the unit from an answer's largest number: up to 1.2 a share of the
    sides, up to 1000.5 bins of 999, above it pixels; corners are put in order, and a box has a pixel at least. Points
    of no box do not count here, numbers in quotes are numbers in pixels too, and those of 300 digits are refused: 13 of
    100,000 hostile texts."""
    boxes = [c.box for c in candidates if c.box]
    largest = max((abs(v) for c in candidates for v in (*(c.box or ()), *c.points[0])), default=0.0)
    parts = 1.0 if largest <= 1.2 else 999.0 if largest <= 1000.5 else 0.0

    def moved(value: float, side: int) -> int:
        pixel = round(value * (side - 1) / parts) if parts else round(value)
        return max(0, min(side - 1, pixel))

    def ends(a: float, b: float, side: int) -> tuple[float, float]:
        low, high = sorted((moved(a, side), moved(b, side)))
        if high <= low:
            high = min(side - 1, low + 1)
            if high <= low and side >= 2:
                low, high = min(low, side - 2), side - 1
        return float(low), float(high)

    out = []
    for c, (x1, y1, x2, y2) in zip(candidates, boxes, strict=True):
        (left, right), (top, bottom) = ends(x1, x2, width), ends(y1, y2, height)
        x, y = c.points[0]
        point = float(moved(x, width)), float(moved(y, height))
        out.append(Candidate((left, top, right, bottom), (point,)))
    return out


def _read_star_inference(text: str) -> list[Candidate]:
    """No answer, nothing in it and what its repairs do not make JSON are all no objects."""
    try:
        data = _star_data(text)
    except json.JSONDecodeError:
        return []
    return _objects(data) if data else []


def _star_data(text: str) -> Any:
    body = tagged_answer(text)
    if body is None:
        return []
    try:
        return json.loads(body)
    except json.JSONDecodeError:
        if len(body) > MAX_REPAIR:
            raise
        return json.loads(_star_repair(body))


def _star_repair(body: str) -> str:
    """A brace where an array should end, one too many at the end of the list, and quotes in or behind an array."""
    point, array = r'("point_2d"\s*:\s*\[[^\]]*?)\}\s*', r'("{}"\s*:\s*\[)([^\]]*)(\])'
    body = re.sub(point + r"(\})", r"\1]\2", body)
    body = re.sub(point + r"(\])", r"\1]}\2", body)
    body = re.sub(r"\}\}(\s*\])", r"}\1", body)
    for key in ("bbox_2d", "point_2d"):
        body = re.sub(array.format(key), lambda m: m[1] + m[2].replace('"', "") + m[3], body)
    return re.sub(r'("(?:bbox|point)_2d"\s*:\s*\[[^\]]*\])"', r"\1", body)


def _is_nothing(data: list[Any]) -> bool:
    return not data or (len(data) == 1 and len(data[0]) == 0)


def _check_labels(data: Any) -> None:
    for item in data:
        item["label"]


def _objects(data: Any) -> list[Candidate]:
    boxes, points = [_box(item) for item in data], [_point(item) for item in data]
    return [Candidate(box, (point,)) for box, point in zip(boxes, points, strict=True)]


def _box(item: Any) -> Box:
    # The published code multiplies, so anything that a number multiplies to an int-able value passes.
    x1, y1, x2, y2 = (_scalable(item["bbox_2d"][i] * 1.0) for i in range(4))
    return x1, y1, x2, y2


def _point(item: Any) -> Point:
    x, y = (_scalable(item["point_2d"][i] * 1.0) for i in range(2))
    return x, y


def _scalable(value: float) -> float:
    """The published code fails where a coordinate times the image's scale is no finite number."""
    if not abs(value) < 1e300:
        raise OverflowError(f"{value:g} cannot be scaled")
    return float(value)


_SEG_ZERO, _STAR = "dvlab-research/Seg-Zero, ", "ysj9909/StAR, "
SCRIPTS: dict[str, Script] = {
    # Of Seg-Zero's tables; inference_scripts/infer.py reads alike.
    "seg-zero": Script(
        _SEG_ZERO + "evaluation_scripts/evaluation.py", _read_single, plain_thinking, 1024, needs_thought=True
    ),
    # What Seg-Zero's repository has for VisionReasoner; inference_scripts/infer_multi_object.py reads alike.
    "seg-zero-multi-object": Script(
        _SEG_ZERO + "evaluation_scripts/evaluation_visionreasoner.py", _read_list, plain_thinking, 1024
    ),
    # Of VisionReasoner's tables.
    "vision-reasoner": Script(
        "JIA-Lab-research/VisionReasoner, vision_reasoner/models/vision_reasoner_model.py",
        _read_library,
        _before_answer,
        2048,
    ),
    # Of StAR's tables.
    "star": Script(_STAR + "evaluation_scripts/evaluation_star.py", _read_star, _tagged_thinking, 1024),
    "star-qwen3": Script(
        _STAR + "evaluation_scripts/evaluation_star.py, --vl_model_version qwen3",
        _read_star_qwen3,
        _tagged_thinking,
        1024,
        place=_place_star_qwen3,
    ),
    "star-inference": Script(
        _STAR + "inference_scripts/infer_multi_object.py", _read_star_inference, _tagged_thinking, 1024
    ),
}
