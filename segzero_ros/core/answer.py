"""From the model's text to candidates. The text is hostile: nothing here raises on any string, in bounded time.

What can be understood is taken, object by object, and what could not be is said; `published.py` reads as the published
scripts do.
"""

from __future__ import annotations

import math
import re
from typing import Any

from segzero_ros.core.contract import Answer, Box, Candidate, Point, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import TEMPLATES
from segzero_ros.core.readers import read_objects

MAX_CHARS = 200_000  # of a text; no model of ours writes a tenth of it
MAX_OBJECTS = 254  # one byte in the label image: 0 is background, 255 is reserved
MAX_LABEL = 80

_THINK = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)
_NUMBER = re.compile(r"\s*[-+]?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})(?:[eE][-+]?\d{1,3})?\s*")


def parse_answer(text: str, profile: Profile, *, truncated: bool = False) -> Answer:
    """Candidates in the profile's own coordinates (x in [0, extent]), in the order of the text.

    OK with at least one object; NO_OBJECT for an empty list; PARSE_ERROR otherwise. reasons: one sentence per
    thing that was wrong, also beside objects that survived. truncated: the token limit ended the text.
    """
    reasons: list[str] = []
    if truncated:
        reasons.append("the token limit cut the text off")
    if len(text) > MAX_CHARS:
        reasons.append(f"only the first {MAX_CHARS} of {len(text)} characters were read")
        text = text[:MAX_CHARS]
    reasoning, text = _thought(text, profile, reasons, truncated)
    body, where = _answer_body(text, profile, reasons)
    objects, nothing, broken = read_objects(body, profile)
    if where != "tag" and "<think>" in body:  # a thought that has no end: what it holds may be a draft
        reasons.append("the thought did not end")
        objects, nothing = [] if truncated else objects, False
    elif not objects and not nothing and where != "text" and not truncated:
        objects, _, broken = read_objects(text, profile)  # a `[]` there may be any words
        if objects:
            reasons.append("the answer was found outside its tags")
    if broken:
        reasons.append(broken)
    candidates = []
    for number, item in enumerate(objects[:MAX_OBJECTS], 1):
        candidate, complaints = read_candidate(item, profile)
        reasons += [f"object {number}: {c}" for c in complaints]
        if candidate is not None:
            if truncated and not candidate.points and profile.sam_prompts != "box":
                reasons.append(f"object {number}: it has no point")  # as a stock model writes it, or for lack of room
            candidates.append(candidate)
    if len(objects) > MAX_OBJECTS:
        reasons.append(f"only the first {MAX_OBJECTS} of {len(objects)} objects were taken")
    if candidates:
        status = Status.OK
    elif nothing and not objects and not broken and not truncated:
        status = Status.NO_OBJECT
    else:
        status = Status.PARSE_ERROR
        if not objects:
            reasons.append("the text holds no answer")
    return Answer(status, tuple(candidates), reasoning, body.strip()[:MAX_CHARS], tuple(reasons))


def _thought(text: str, profile: Profile, reasons: list[str], truncated: bool) -> tuple[str, str]:
    """The thought, and the text to look for the answer in: behind the thought where the prompt opened it."""
    if profile.thinking != "opened" or text.lstrip().startswith("<think>"):
        return _between(text, "<think>", "</think>"), text
    for end in ("</think>", "<answer>"):
        if end in text:
            thought, _, rest = text.partition(end)
            return thought.strip(), rest if end == "</think>" else end + rest
    if truncated:
        reasons.append("the thought did not end")
        return text.strip(), ""
    reasons.append("</think> is missing")  # as where a server took the thought away
    return "", text


def _between(text: str, start: str, end: str) -> str:
    i = text.find(start)
    if i < 0:
        return ""
    j = text.find(end, i)
    stop = j if j >= 0 else text.find("<answer>", i)
    return text[i + len(start) : stop if stop >= 0 else len(text)].replace(start, "").strip()


def _answer_body(text: str, profile: Profile, reasons: list[str]) -> tuple[str, str]:
    """What is inside the last <answer> that opens behind the thought; the text behind it, or all of it, where there is
    none."""
    whole, (_, thought_ends, behind) = text, text.partition("</think>")
    text = behind if thought_ends else text
    i = text.rfind("<answer>")
    if i >= 0:
        if text.count("<answer>") > 1:
            reasons.append("more than one <answer>; the last one that holds something was taken")
            for piece in reversed(text.split("<answer>")[1:]):
                body = piece.split("</answer>")[0]
                if "{" in body or "[" in body:
                    return body, "tag"
        body = text[i + len("<answer>") :]
        j = body.find("</answer>")
        if j < 0:
            reasons.append("</answer> is missing")
        return body[:j] if j >= 0 else body, "tag"
    if profile.prompt in TEMPLATES or "<answer>" in profile.prompt:
        reasons.append("<answer> is missing")
    return (behind, "rest") if thought_ends else (whole, "text")


def read_candidate(item: dict[str, Any], profile: Profile) -> tuple[Candidate | None, list[str]]:
    """An object of `readers.py` in the profile's coordinates, or None; and a sentence per thing that was wrong."""
    complaints: list[str] = []
    extent = float(profile.extent)
    box: Box | None = None
    has_box_key = outside = False
    points: list[Point] = []
    for key, value in item.items():
        name = str(key).lower()
        if ("bbox" in name or name.startswith("box")) and box is None:
            has_box_key = True
            if isinstance(value, list) and len(value) == 1:  # GLM's box_2d: [[x1, y1, x2, y2]]
                value = value[0]
            numbers = _numbers(value, 4)
            if numbers is None:
                complaints.append(f"{str(key)[:40]} is not four finite numbers")
                continue
            x1, y1, x2, y2 = numbers
            box = _clipped((y1, x1, y2, x2) if profile.order == "yx" else (x1, y1, x2, y2), extent, complaints)
            outside = outside or box is None
        elif "point" in name:
            pairs = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
            for item_pair in pairs[:8]:
                pair = _numbers(item_pair, 2)
                if pair is None:
                    complaints.append(f"{str(key)[:40]} is not two finite numbers")
                    continue
                x, y = (min(max(v, 0.0), extent) for v in pair)
                if [x, y] != pair:
                    complaints.append("a point outside the image was moved to its edge")
                points.append((y, x) if profile.order == "yx" else (x, y))
    if box is None and not points:
        return None, complaints or ["there is neither a box nor a point"]
    if box is None and profile.sam_prompts != "points" and not has_box_key:
        complaints.append("there is no box")
    if box is None and outside:
        return None, complaints
    label = item.get("label")
    clean = " ".join("".join(c if c.isprintable() else " " for c in label).split()) if isinstance(label, str) else ""
    return Candidate(box, tuple(points), clean[:MAX_LABEL]), complaints


def _numbers(value: Any, count: int) -> list[float] | None:
    if not isinstance(value, (list, tuple)) or len(value) != count:
        return None
    out = []
    for v in value:
        if isinstance(v, str) and _NUMBER.fullmatch(v):
            v = float(v)
        if isinstance(v, bool) or not isinstance(v, (int, float)):
            return None
        try:
            number = float(v)
        except OverflowError:
            return None
        if not math.isfinite(number):
            return None
        out.append(number)
    return out


def _clipped(box: Box, extent: float, complaints: list[str]) -> Box | None:
    """Corners in order, clipped to the image; None when nothing of it is inside."""
    x1, y1, x2, y2 = box
    if x1 > x2 or y1 > y2:
        complaints.append("the box's corners were in the wrong order")
        x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    inside = tuple(min(max(v, 0.0), extent) for v in (x1, y1, x2, y2))
    if inside != (x1, y1, x2, y2):
        complaints.append("the box was clipped to the image")
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        complaints.append("the box is empty or lies outside the image")
        return None
    return inside[0], inside[1], inside[2], inside[3]
