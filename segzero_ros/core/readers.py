"""The forms in which published models write boxes and points; docs/profiles.md has an example of each.

A reader turns an answer's text into JSON-like objects {bbox_2d, point_2d, label}, coordinates as the model wrote them;
`answer.py` checks them, whatever form they came in. The text is hostile: no reader raises, each takes linear time.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

from segzero_ros.core.profile import Profile

MAX_DEPTH = 16
# To the end where no quote ends it: to look there again for every quote would take quadratic time.
_QUOTED = r'"[^"\\]*(?:\\[\s\S][^"\\]*)*"?'
MOLMO_TAG = re.compile(r"<points?\b([^<>]*)>([^<]{0,200})")


class Reading(NamedTuple):
    """objects: in the order of the text. nothing: the text says that there is none. complaint: what was wrong."""

    objects: list[dict[str, Any]]
    nothing: bool
    complaint: str = ""


def read_objects(body: str, profile: Profile) -> Reading:
    """The objects of an answer in the profile's form."""
    return _READERS[profile.reader](body, profile)


def _read_json(body: str, _: Profile) -> Reading:
    """Every JSON object in the text that holds no other object.

    Braces are matched by one scan, so the time is linear and a broken object costs only itself.
    """
    objects, broken = _scan(body, r"[{}]")
    if broken:  # a label may hold a brace: once more, past what stands in quotes
        again, still = _scan(body, _QUOTED + "|[{}]")
        if still < broken and len(again) >= len(objects):
            objects, broken = again, still
    empty = re.search(r"\[\s*\]", body) is not None and "{" not in body
    empty = empty or re.fullmatch(r"\s*\{\s*\"\w+\"\s*:\s*\[\s*\]\s*\}\s*", body) is not None
    if empty:
        return Reading([], True, "")
    return Reading(objects, empty, _unread(broken))


def _scan(body: str, marks: str) -> tuple[list[dict[str, Any]], int]:
    """The objects between innermost braces, and how many could not be read. marks: matches braces, and what to skip."""
    objects: list[dict[str, Any]] = []
    broken = 0
    start = -1
    for match in re.finditer(marks, body):
        if match.group() not in "{}":
            continue
        if match.group() == "{":
            if start >= 0 and body[start + 1 : match.start()].strip():
                broken += 1
            start = match.start()
        elif start >= 0:
            item = load_object(body[start : match.end()])
            if isinstance(item, dict):
                objects.append(item)
            else:
                broken += 1
            start = -1
    return objects, broken + (start >= 0)


def load_object(piece: str) -> Any:
    """JSON; or JSON written as a Python dict (single quotes, None, trailing comma); or with slips in its arrays."""
    if len(piece) > 20_000 or piece.count("[") > 4 * MAX_DEPTH:
        return None
    pythonic = re.sub(r",\s*([}\]])", r"\1", piece.replace("'", '"').replace("None", "null"))
    for attempt in (piece, pythonic, _mend_arrays(piece)):
        try:
            return json.loads(attempt)
        except (ValueError, RecursionError):
            continue
    try:  # a Python dict with an apostrophe in its words; literals alone are read
        return ast.literal_eval(piece)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _mend_arrays(piece: str) -> str:
    """Slips that StAR's authors saw: an array that the object's brace ends, and stray quotes in or behind an array."""
    if piece.rfind("[") > piece.rfind("]"):
        piece = piece[:-1] + "]}"
    return re.sub(r"\[([\d\s.,+\-\"]*)\]\"?", lambda array: f"[{array[1].replace(chr(34), '')}]", piece)


def _read_glm(body: str, profile: Profile) -> Reading:
    """GLM-4.xV: <|begin_of_box|>[[x1, y1, x2, y2], ...]<|end_of_box|>, in brackets of any kind, or JSON inside."""
    blocks = [piece.split("<|end_of_box|>")[0] for piece in body.split("<|begin_of_box|>")[1:]]
    inside = "\n".join(blocks) if blocks else body
    if "{" in inside:
        return _read_json(inside, profile)
    # Without the tags, which a server may have dropped, words in brackets are no answer: four numbers are.
    arrays = [a.split(",") for a in re.findall(r"[\[(<]([^\[\]()<>]{3,120})[\])>]", inside)]
    arrays = [a for a in arrays if blocks or len(a) == 4]
    objects = [{"bbox_2d": a} if len(a) == 4 else {"point_2d": a} for a in arrays if len(a) in (2, 4)]
    nothing = bool(blocks) and re.fullmatch(r"\s*(\[\s*\]|none)\s*", inside, re.IGNORECASE) is not None
    return Reading(objects, nothing, _unread(len(arrays) - len(objects)))


def _read_rex_omni(body: str, profile: Profile) -> Reading:
    """Rex-Omni: <|object_ref_start|>mug<|object_ref_end|><|box_start|><10><20><300><400>, ...<|box_end|>, or None."""
    objects: list[dict[str, Any]] = []
    broken, nothing, label = 0, False, ""
    for before, piece in pairwise(body.split("<|box_start|>")):
        label = rex_omni_label(before, label)
        content, closed, _ = piece.partition("<|box_end|>")
        if content.strip().lower() == "none":
            nothing = True
            continue
        for part in content.split(","):
            item = rex_omni_object(part, label)
            if item is not None and (closed or "bbox_2d" in item):  # two numbers at the end may be half a box
                objects.append(item)
            else:
                broken += 1
    return Reading(objects, nothing, _unread(broken))


def rex_omni_label(before: str, label: str) -> str:
    """The label of the block behind this text: the last one in it, else that of the block before."""
    if "<|object_ref_start|>" not in before:
        return label
    return before.rpartition("<|object_ref_start|>")[2].split("<|object_ref_end|>")[0]


def rex_omni_object(part: str, label: str) -> dict[str, Any] | None:
    values = re.findall(r"<(\d{1,4})>", part)
    if len(values) not in (2, 4):
        return None
    return {"bbox_2d" if len(values) == 4 else "point_2d": values, "label": label}


def _read_molmo(body: str, profile: Profile) -> Reading:
    """Molmo 1, percent: <point x="10.1" y="20.2" alt="mug">mug</point>, <points x1= y1= x2= y2= alt=>.

    Molmo 2, thousandths: <points coords="1 1 990 800 2 911 800">mug</points>, image index, then number, x and y.
    Each point is an object. A text in the other form than the profile's is not read: nothing tells its scale.
    """
    objects: list[dict[str, Any]] = []
    broken = 0
    for tag in MOLMO_TAG.finditer(body):
        found, faults = molmo_objects(tag, profile)
        objects += found
        broken += faults
    return Reading(objects, "there are none" in body.lower() and not broken, _unread(broken))


def molmo_objects(tag: re.Match[str], profile: Profile) -> tuple[list[dict[str, Any]], int]:
    """The objects of a MOLMO_TAG, and how many things in it could not be read."""
    attributes, words = tag.groups()
    given = dict(re.findall(r"\b(\w+)\s*=\s*\"([^\"]*)\"", attributes))
    label = "" if attributes.endswith("/") else words.strip()
    label = label or given.get("label", given.get("alt", ""))
    if profile.coordinates == "percent":
        numbers = [key[1:] for key in given if re.fullmatch(r"x\d{0,4}", key)]
        points = [(given[f"x{n}"], given[f"y{n}"]) for n in numbers if f"y{n}" in given]
        faults = len(numbers) - len(points) or int(not numbers)
    else:
        points, faults = _molmo_2_points(given.get("coords", ""))
    return [{"point_2d": list(point), "label": label} for point in points], faults


def _molmo_2_points(coords: str) -> tuple[list[tuple[str, str]], int]:
    """(x, y) of the one image there is, and how many groups and points could not be read."""
    points: list[tuple[str, str]] = []
    faults = 0
    for group in re.split(r"[\t:;,]", coords.strip("\t:;, ")):
        index, *values = group.split() or [""]
        if index not in ("1", "1.0") or not values or len(values) % 3:
            faults += 1
            continue
        points += zip(values[1::3], values[2::3], strict=True)
    return points, faults


def _unread(count: int) -> str:
    return f"{count} object{'s' if count > 1 else ''} could not be read" if count else ""


_READERS: dict[str, Callable[[str, Profile], Reading]] = {
    "json": _read_json,
    "glm": _read_glm,
    "rex-omni": _read_rex_omni,
    "molmo": _read_molmo,
}
