"""What the experiment's start is pre-trained on: instructions and questions in pieces, with a thought or without."""

from __future__ import annotations

import numpy as np

from training.data.tabletop import instructions
from training.data.tabletop.questions import NAMING, RETAINED, Ask, instruct, question, seen_at
from training.data.tabletop.store import Thing
from training.embedded.batch import DECISION, NOBODY, NONE, Draw, Piece, Query

QUESTION_SHARE, ABSENT_SHARE = 0.3, 0.25  # of what is asked in pre-training; of its instructions


def pieces(ask: Ask, think: bool) -> list[Piece]:
    """The completion in pieces, with whom each is about; joined they are `ask.completion(think)`."""
    found: list[Piece] = []
    if think:
        found.append(("<think>" + ask.head, NOBODY, 1.0))
        found += [(" " + seen_at(t), t.id, DECISION) for t in ask.seen]
        found += [(" " + instructions.sight(t), t.id, DECISION) for t in ask.targets]
        if not ask.targets:
            found.append((" There is none.", NONE, DECISION))
        found.append(("</think>", NOBODY, DECISION if ask.targets else 1.0))
    found.append(("<answer>", NOBODY, 1.0))
    first = 3.0 if think else DECISION
    if ask.answer:
        who = ask.targets[0].id if ask.targets else NONE
        found.append((ask.answer, who if len(ask.targets) < 2 else NOBODY, DECISION))
    else:
        for i, t in enumerate(ask.targets):
            start = '"}, {"bbox_2d": [' if i else '[{"bbox_2d": ['
            (x_min, y_min, x_max, y_max), (x, y) = t.box, t.point
            numbers = f'{x_min}, {y_min}, {x_max}, {y_max}], "point_2d": [{x}, {y}], "label": "'
            found.append((start + numbers + f"{t.color} {instructions.name(t)}", t.id, first))
        found.append(('"}]', NOBODY, first) if ask.targets else ("[]", NONE if not think else NOBODY, first))
    found.append(("</answer><|im_end|>", NOBODY, 1.0))
    return found


def pretraining(share: float = 0.5) -> Draw:
    """Broad: naming and the retained kinds, questions, some with nothing that matches; a share with a thought."""

    def draw(rng: np.random.Generator, things: list[Thing], augment: bool) -> Query | None:
        think = bool(rng.random() < share)
        if rng.random() < QUESTION_SHARE:
            ask = question(rng, things)
        else:
            ask = instruct(rng, things, NAMING + RETAINED, ABSENT_SHARE)
        return None if ask is None else Query(ask.prompt(think), pieces(ask, think))

    return draw
