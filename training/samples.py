"""Rows on disk to what TRL's trainers take: a conversation, an image, and for supervised training the right text.

A row holds id, problem, solution, image (a square), img_height and img_width; thought (text), completion (text) and
masks (COCO run lengths of the square, a list per row) where a recipe wants them. Solutions are checked before a run starts; images
are read when they are needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segzero_ros.profiles import Profile
from segzero_ros.prompt import build_prompt
from training.configuration import ConfigurationError, Data

_SINGLE = re.compile(
    r"\s*<box>\((\d+),(\d+)\),\((\d+),(\d+)\)</box>\s*<points>\((\d+),(\d+)\),\((\d+),(\d+)\)</points>\s*"
)
_NEEDED = ("id", "problem", "solution", "image")


class RowError(ValueError):
    """A row that cannot be trained on; the message names it."""


def prompt_profile(data: Data) -> Profile:
    """The node's profile of this prompt, so that both build the same words."""
    return Profile(
        name="training",
        description="",
        prompt=data.prompt,
        reasoner="",
        segmenter="",
        square=data.square,
        system=data.system,
        coordinates=data.coordinates,
        schema=data.answer,
    )


def messages(data: Data, problem: str) -> list[dict[str, str]]:
    """The turns before the answer; TRL puts the image before the user's words."""
    text = ("\n" if data.newline_after_image else "") + build_prompt(prompt_profile(data), problem)
    system = [{"role": "system", "content": data.system}] if data.system else []
    return [*system, {"role": "user", "content": text}]


def rescale(solution: str, form: str, factor: float) -> str:
    """The same solution with every coordinate times factor, half up. Raises ValueError for one not of its form.

    form: "single" `<box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>`, or "list": JSON [{bbox_2d, point_2d}].
    """

    def scaled(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise ValueError(f"{value!r} is no coordinate")
        return int(value * factor + 0.5)

    if form == "single":
        match = _SINGLE.fullmatch(solution)
        if match is None:
            raise ValueError("expected <box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>")
        a, b, c, d, *points = (scaled(int(v)) for v in match.groups())
        p, q, r, s = points
        return f"<box>({a},{b}),({c},{d})</box><points>({p},{q}),({r},{s})</points>"
    items = json.loads(solution)
    if not isinstance(items, list):
        raise ValueError("expected a JSON list")
    found = []
    for item in items:
        if not isinstance(item, dict) or len(item.get("bbox_2d", ())) != 4 or len(item.get("point_2d", ())) != 2:
            raise ValueError("expected objects with bbox_2d (4 numbers) and point_2d (2 numbers)")
        numbers = {key: [scaled(v) for v in item[key]] for key in ("bbox_2d", "point_2d")}
        found.append({**item, **numbers})
    return json.dumps(found)


def answer_text(solution: str, form: str, thought: str = "") -> str:
    """The text that supervised training teaches: Seg-Zero's or VisionReasoner's answer, with a thought if there is one."""
    if form == "single":
        match = _SINGLE.fullmatch(solution)
        if match is None:
            raise ValueError("expected <box>(x1,y1),(x2,y2)</box><points>(x,y),(x,y)</points>")
        numbers = [int(v) for v in match.groups()]
        answer = json.dumps({"bbox": numbers[:4], "points_1": numbers[4:6], "points_2": numbers[6:]})
    else:
        answer = json.dumps(json.loads(solution))
    return (f"<think>{thought}</think>" if thought else "") + f"<answer>{answer}</answer>"


def square_image(image: Any, square: int) -> Any:
    """PIL RGB (square, square); by OpenCV's area interpolation, as the rows were made. Raises ValueError for others."""
    from PIL import Image

    width, height = image.size
    if width != height:
        raise ValueError(f"the image is {width} x {height}; rows hold squares")
    if width == square:
        return image.convert("RGB")
    resized = cv2.resize(np.asarray(image.convert("RGB")), (square, square), interpolation=cv2.INTER_AREA)
    return Image.fromarray(resized)


def decode_masks(masks: Any, square: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(N, square, square) bool from COCO run lengths, a list or its JSON."""
    from pycocotools import mask as coco

    items = json.loads(masks) if isinstance(masks, str) else masks
    if not len(items):
        return np.zeros((0, square, square), bool)
    found = coco.decode([{"size": list(m["size"]), "counts": m["counts"]} for m in items])
    planes = [cv2.resize(found[..., n], (square, square), interpolation=cv2.INTER_NEAREST) for n in range(len(items))]
    return np.stack(planes).astype(bool)


def convert(
    data: Data, method: str, masks: bool = False
) -> Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]:
    """A transform for datasets.Dataset.with_transform: columns of rows to columns of TRL."""

    def one(row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            factor = data.extent / row["image"].size[0]
            solution = rescale(row["solution"], data.answer, factor)
            made = {
                "id": row["id"],
                "problem": row["problem"],
                "prompt": messages(data, row["problem"]),
                "image": square_image(row["image"], data.square),
                "solution": solution,
            }
            if method == "sft":
                text = row.get("completion") or answer_text(
                    solution, data.answer, (row.get("thought") or "") if data.thought else ""
                )
                made["completion"] = [{"role": "assistant", "content": text}]
            if masks:
                made["masks"] = decode_masks(row["masks"], data.square)
            return made
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RowError(f"row {row.get('id')!r}: {error}") from error

    def many(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        count = len(next(iter(batch.values())))
        rows = [one({key: values[n] for key, values in batch.items()}) for n in range(count)]
        return {key: [row[key] for row in rows] for key in rows[0]}

    return many


def load(data: Data, method: str, folder: str, limit: int = 0, masks: bool = False) -> Any:
    """A datasets.Dataset in TRL's form. Every solution is read first. Raises ConfigurationError or RowError."""
    import datasets

    if not Path(folder).is_dir():
        raise ConfigurationError(f"data: there is no folder {folder!r}; `segzero-train prepare` makes one")
    try:
        found = datasets.load_from_disk(folder)
    except Exception as error:
        raise ConfigurationError(f"data: {folder} is not readable by datasets.load_from_disk: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) != 1:
            raise ConfigurationError(f"data: {folder} holds {', '.join(found)}; name one of its folders")
        found = next(iter(found.values()))
    needed = (*_NEEDED, *(("masks",) if masks else ()), *(("thought",) if method == "sft" and data.thought else ()))
    if "completion" in found.column_names:
        needed = tuple(n for n in needed if n != "thought")
    if missing := [n for n in needed if n not in found.column_names]:
        raise ConfigurationError(f"data: {folder} lacks the columns {', '.join(missing)}")
    if limit:
        found = found.select(range(min(limit, len(found))))
    if not len(found):
        raise ConfigurationError(f"data: {folder} is empty")
    _check(found.select_columns(["id", "problem", "solution"]), data, folder)
    return found.with_transform(convert(data, method, masks))


def _check(rows: Any, data: Data, folder: str) -> None:
    wrong = []
    for number, row in enumerate(rows):
        try:
            rescale(row["solution"], data.answer, 1.0)
            if not str(row["problem"]).strip():
                raise ValueError("the problem is empty")
            if "<|" in row["problem"]:
                raise ValueError("the problem holds a special token's beginning, <|")
        except (ValueError, TypeError) as error:
            wrong.append(f"row {number} ({row['id']}): {error}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RowError(f"{folder}: {len(wrong)} rows cannot be trained on: " + "; ".join(wrong[:5]) + more)
