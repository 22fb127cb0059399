"""Sets of questions, each in its authors' format, and the experiment's over the simulated tabletop.

Every reader raises ValueError that names the file for what is not in the set's format.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Image
from training.data.images import read_image
from training.data.tabletop import questions, sets
from training.data.tabletop.store import Scenes, render_split
from training.evaluation.answer_scores import Score, anls, relaxed_accuracy, textvqa_accuracy, vqa_accuracy

QUESTIONS = 600  # over the tabletop, as in the experiment


@dataclass(frozen=True)
class Question:
    """answers: of all annotators, or all that are right. image: a file, or RGB uint8 (H, W, 3). kind: to group by."""

    id: str
    image: Path | NDArray[np.uint8] = field(repr=False)
    question: str
    answers: tuple[str, ...]
    kind: str = ""

    def pixels(self) -> Image:
        """Raises ValueError for a file that is no image."""
        return read_image(self.image) if isinstance(self.image, Path) else self.image


def read_vqav2(questions: Path, annotations: Path, images: Path) -> list[Question]:
    """v2_OpenEnded_mscoco_SPLIT_questions.json, v2_mscoco_SPLIT_annotations.json, and the folder of COCO images."""
    asked, answered = _json(questions), _json(annotations)
    rows = _list(asked, "questions", questions)
    given = {a.get("question_id"): a for a in _list(answered, "annotations", annotations) if isinstance(a, dict)}
    kind = asked.get("data_subtype", "val2014")

    def one(q: dict[str, Any]) -> Question:
        if q["question_id"] not in given:
            raise ValueError(f"{annotations} has no answers to question {q['question_id']}")
        found = given[q["question_id"]]
        image = images / f"COCO_{kind}_{int(q['image_id']):012d}.jpg"
        texts = tuple(a["answer"] for a in found["answers"])
        return Question(str(q["question_id"]), image, q["question"], texts, found.get("answer_type", ""))

    return [_one(questions, n, q, one) for n, q in enumerate(rows)]


def read_textvqa(questions: Path, images: Path) -> list[Question]:
    """TextVQA_0.5.1_SPLIT.json, and its folder of images."""

    def one(q: dict[str, Any]) -> Question:
        return Question(str(q["question_id"]), images / f"{q['image_id']}.jpg", q["question"], _several(q["answers"]))

    return _data(questions, one)


def read_docvqa(questions: Path, images: Path) -> list[Question]:
    """SPLIT_v1.0_withQT.json, and the folder that holds `documents`."""

    def one(q: dict[str, Any]) -> Question:
        return Question(str(q["questionId"]), images / q["image"], q["question"], _several(q["answers"]))

    return _data(questions, one)


def read_chartqa(questions: Path, images: Path) -> list[Question]:
    """test_human.json or test_augmented.json, and the folder `png`."""

    def one(n: int, q: dict[str, Any]) -> Question:
        return Question(f"{questions.stem}-{n:05d}", images / q["imgname"], q["query"], (str(q["label"]),))

    rows = _list({"data": _json(questions)}, "data", questions)
    return [_one(questions, n, q, partial(one, n)) for n, q in enumerate(rows)]


SETS: dict[str, tuple[Callable[..., list[Question]], Score]] = {
    "vqav2": (read_vqav2, vqa_accuracy),
    "textvqa": (read_textvqa, textvqa_accuracy),
    "docvqa": (read_docvqa, anls),
    "chartqa": (read_chartqa, relaxed_accuracy),
}


def read_tabletop(root: Path, split: str, *, scenes: int | None, count: int, seed: int) -> tuple[list[Question], str]:
    """Questions over the simulated tabletop, and the SHA-256 over their scenes and texts.

    root: where scenes are kept; what is missing is rendered. Split test with the experiment's number of scenes, 600
    questions and seed 0 is the experiment's own set. Raises ValueError for an unknown split and for scenes that hold
    nothing to ask for.
    """
    if split not in sets.SCENES:
        raise ValueError(f"the tabletop has no split {split!r}; there are {', '.join(sets.SCENES)}")
    number = scenes or sets.SCENES[split]
    seen = Scenes(render_split(root, split, number), limit=number)
    chosen = sets.build(seen, split, "questions", lambda rng, things: questions.question(rng, things), count, seed)
    return [
        Question(i.id, np.ascontiguousarray(seen.rgb(i.scene)), i.ask.text, (i.ask.answer,), i.ask.kind)
        for i in chosen.items
    ], chosen.digest


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _list(data: Any, key: str, path: Path) -> list[Any]:
    if not isinstance(data, dict) or not isinstance(data.get(key), list):
        raise ValueError(f"{path} holds no list {key!r}")
    return list(data[key])


def _several(answers: Any) -> tuple[str, ...]:
    if not isinstance(answers, list):
        raise TypeError("its answers are no list")
    return tuple(answers)


def _data(path: Path, make: Callable[[dict[str, Any]], Question]) -> list[Question]:
    return [_one(path, n, q, make) for n, q in enumerate(_list(_json(path), "data", path))]


def _one(path: Path, number: int, row: Any, make: Callable[[dict[str, Any]], Question]) -> Question:
    try:
        question = make(row)
        if not question.answers or not all(isinstance(a, str) for a in (question.question, *question.answers)):
            raise ValueError("no question or no answers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}, row {number} is no question: {error!r}") from error
    return question
