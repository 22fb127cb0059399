"""What the evaluation asks over stored scenes: every kind of instruction alike, a fifth of each without a match."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.data.tabletop import wordings
from training.data.tabletop.instructions import KINDS, Item, write
from training.data.tabletop.store import Scenes

ABSENT = 0.2
SCENES = 1000  # rendered per evaluation split
QUESTIONS = 800


@dataclass(frozen=True)
class Question:
    scene: int
    item: Item


def questions(
    scenes: Scenes, count: int, seed: int, *, ood: bool, words: wordings.Wordings | None = None
) -> list[Question]:
    """`count` questions with every kind equally often, a fifth of each without a target; the same for the same seed.

    words: the same questions are asked in these.
    """
    rng = np.random.default_rng(seed)
    found: list[Question] = []
    for number in range(count):
        kind, absent = KINDS[number % len(KINDS)], (number // len(KINDS)) % round(1 / ABSENT) == 0
        while True:
            scene = int(rng.integers(len(scenes)))
            item = write(rng, scenes.things(scene), [kind], float(absent), ood=ood)
            if item is not None:
                found.append(Question(scene, item))
                break
    if words is not None:  # each by a generator of its own, so that what is asked is not drawn otherwise
        seeds = (np.random.default_rng([seed, n]) for n in range(count))
        found = [replace(q, item=wordings.reword(r, q.item, words)) for r, q in zip(seeds, found, strict=True)]
    return found
