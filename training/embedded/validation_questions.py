"""What a reasoner in training answers to the same few questions of `val` every time, greedily."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import LoadedModel, Status
from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import load_profile
from training.data.tabletop import heard_wordings, instructions, wordings
from training.data.tabletop.instructions import KINDS, Item
from training.data.tabletop.store import Scenes
from training.measures.metrics import box_accuracy

BATCH = 32


@dataclass(frozen=True)
class Question:
    image: NDArray[np.uint8]
    item: Item


def draw(scenes: Scenes, count: int) -> list[Question]:
    """`count` questions, every kind equally often, a fifth without a match, every second one in training's other words.
    Fewer where few scenes decide anything."""
    rng = np.random.default_rng(0)
    found: list[Question] = []
    for number in range(count):
        kind, absent = [KINDS[number // 2 % len(KINDS)]], float(rng.random() < 0.2)
        places = (int(rng.integers(len(scenes))) for _ in range(1000))
        written = ((n, instructions.write(rng, scenes.things(n), kind, absent)) for n in places)
        scene, item = next(((n, i) for n, i in written if i is not None), (0, None))
        if item is not None:
            item = wordings.reword(rng, item, heard_wordings.TRAINING) if number % 2 else item
            found.append(Question(np.ascontiguousarray(scenes.rgb(scene)), item))
    return found


def accuracies(model: Any, tokenizer: Any, questions: Sequence[Question]) -> dict[str, float]:
    """box_acc and box_acc_reworded, of those that have an answer, and no_target_acc."""
    from segzero_ros.models.reasoner_transformers import TransformersReasoner

    profile = load_profile("demo")
    info = LoadedModel("in training", "", 0, "float32", "cpu", 0)
    reasoner = TransformersReasoner(copy.deepcopy(model).eval(), tokenizer, profile, info)
    found: dict[str, list[float]] = {}
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        said = reasoner.generate([q.image for q in part], [build_prompt(profile, q.item.text) for q in part])
        for number, (q, generation) in enumerate(zip(part, said, strict=True), start):
            answer = parse_answer(generation.text, profile, truncated=generation.truncated)
            if q.item.absent:
                found.setdefault("no_target_acc", []).append(float(answer.status is Status.NO_OBJECT))
                continue
            boxes = [c.box for c in answer.candidates if c.box is not None]
            name = "box_acc_reworded" if number % 2 else "box_acc"
            found.setdefault(name, []).append(box_accuracy(boxes, [t.box for t in q.item.targets]))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}
