"""Rows on disk to what TRL's trainers take: a conversation, an image, and for supervised training the right text.

Rows are those of training.data.rows, with `thought` (text), `completion` (text) and `masks` where a recipe wants them.
Solutions are checked before a run starts; images are read when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import Profile
from training.data.rows import LONGEST, masks_of, read_solution, scaled, square_mask, square_of, write_solution
from training.data.samples import Target
from training.finetune.configuration import ConfigurationError, Data
from training.finetune.prepared import rows_in

_NEEDED = ("id", "problem", "solution", "image", "img_height", "img_width")


class RowError(ConfigurationError):
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
    text = ("\n" if data.newline_after_image else "") + build_prompt(prompt_profile(data), problem, training=True)
    system = [{"role": "system", "content": data.system}] if data.system else []
    return [*system, {"role": "user", "content": text}]


def rescale(solution: str, form: str, factor: float) -> str:
    """The same solution with every coordinate times factor, half up. Raises ValueError for one not of its form."""

    def times(target: Target) -> Target:
        x1, y1, x2, y2 = scaled(target.box, factor, factor)
        points = (scaled(p, factor, factor) for p in target.points)
        return Target((x1, y1, x2, y2), tuple((x, y) for x, y in points))

    return write_solution([times(t) for t in read_solution(solution)], form)


def answer_text(solution: str, form: str, thought: str = "") -> str:
    """What supervised training teaches: an answer in Seg-Zero's or VisionReasoner's form, behind the thought."""
    targets = read_solution(solution)
    answer: Any = [{"bbox_2d": list(t.box), "point_2d": list(t.points[0])} for t in targets]
    if form == "single":
        (target,) = targets
        first, second = target.points
        answer = {"bbox": list(target.box), "points_1": list(first), "points_2": list(second)}
    return (f"<think>{thought}</think>" if thought else "") + f"<answer>{json.dumps(answer)}</answer>"


def convert(data: Data, method: str, masks: bool = False) -> Callable[[Mapping[str, list[Any]]], dict[str, list[Any]]]:
    """A transform for datasets.Dataset.with_transform: columns of rows to columns of TRL.

    Images become RGB squares by area interpolation, as the rows were made. Raises RowError.
    """

    def one(row: Mapping[str, Any]) -> dict[str, Any]:
        from PIL import Image

        try:
            width, height = row["image"].size
            if width != height:
                raise ValueError(f"the image is {width} x {height}; rows hold squares")
            solution = rescale(row["solution"], data.answer, data.extent / width)
            made = {
                "id": row["id"],
                "problem": row["problem"],
                "prompt": messages(data, row["problem"]),
                "image": Image.fromarray(square_of(np.asarray(row["image"].convert("RGB")), data.square)),
                "solution": solution,
            }
            if method == "sft":
                thought = (row.get("thought") or "") if data.thought else ""
                text = row.get("completion") or answer_text(solution, data.answer, thought)
                made["completion"] = [{"role": "assistant", "content": text}]
            if masks:
                found = [square_mask(mask, data.square) for mask in masks_of(row)]
                made["masks"] = np.stack(found) if found else np.zeros((0, data.square, data.square), bool)
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
    found = rows_in(folder)
    needed = [*_NEEDED, *(["masks"] if masks else [])]
    if method == "sft" and data.thought and "completion" not in found.column_names:
        needed.append("thought")
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
            if not row["problem"].strip():
                raise ValueError("the problem is empty")
            if "<|" in row["problem"]:
                raise ValueError("the problem holds a special token's beginning, <|")
            if len(row["problem"]) > LONGEST:
                raise ValueError(f"the problem has {len(row['problem'])} characters, more than {LONGEST}")
        except (ValueError, TypeError, AttributeError) as error:
            wrong.append(f"row {number} ({row['id']}): {error}")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RowError(f"{folder}: {len(wrong)} rows cannot be trained on: " + "; ".join(wrong[:5]) + more)
