"""From stored scenes to training batches: image, packed queries, and what every token is supervised by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.tabletop import heard_wordings, instructions, wordings
from training.data.tabletop.instructions import KINDS, Item, prompt_text
from training.data.tabletop.scene import CATEGORIES, COLORS, MAX_OBJECTS
from training.data.tabletop.store import MIN_AREA, Scenes, Thing
from training.embedded.reasoner import CELL, GRID, SIZE, Packed, normalise
from training.embedded.unheard import unheard

PREFIX = "<|im_start|>user\n<|vision_start|>"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
NOBODY, NONE = -1, 0  # whom a token is about, beside the ids of objects
WORD, DECISION = 4.0, 8.0  # weights: an object's words; the word that says found, none or one more
MEANT = 5.0  # weight of the words that say what is meant


Piece = tuple[str, int, float]  # text, about whom, weight of its first token


@dataclass(frozen=True)
class Query:
    """What is asked, as the user's turn has it, and the answer in pieces."""

    prompt: str
    pieces: list[Piece]


Draw = Callable[[np.random.Generator, list[Thing], bool], Query | None]  # the last: whether to augment


@dataclass(frozen=True)
class Batch:
    images: Tensor  # (B, 3, S, S) normalised
    packed: Packed
    label: Tensor  # (B, T) the next token, -100 where nothing is learnt
    weight: Tensor  # (B, T)
    about: Tensor  # (B, T) id of the object that the next token is about, NONE, or NOBODY
    owner: Tensor  # (B, GRID²) id of the object in a cell, 0 = none, -1 = do not care
    box: Tensor  # (B, 8, 4) by id - 1
    point: Tensor  # (B, 8, 2)
    category: Tensor  # (B, 8)
    color: Tensor  # (B, 8)


def meaning(item: Item) -> list[Piece]:
    """The thought's first sentence in pieces, word by word: what is meant."""
    words = f"{item.article} {item.spec}.".split(" ")
    return [("<think>The target is", NOBODY, 1.0), *((f" {word}", NOBODY, MEANT) for word in words)]


def segments(item: Item) -> list[Piece]:
    """The answer in pieces (text, about whom, weight of its first token); joined they are `instructions.answer`."""
    pieces = meaning(item)
    pieces += [(f" The {instructions.name(t)} is at {instructions.at(t)}.", t.id, DECISION) for t in item.seen]
    for t, true in item.candidates:
        pieces.append((f" The {t.color} {instructions.name(t)} at {instructions.at(t)} is", t.id, DECISION))
        pieces.append((f" {instructions.verdict(item.test, true)}.", NOBODY, DECISION))
    pieces += [(" " + instructions.sight(t), t.id, DECISION) for t in item.targets]
    if item.absent:
        pieces.append((" There is none.", NONE, DECISION))
    pieces.append(("</think>", NOBODY, DECISION if len(item.targets) else 1.0))
    pieces.append(("<answer>", NOBODY, 1.0))
    for i, t in enumerate(item.targets):
        start = '"}, {"bbox_2d": [' if i else '[{"bbox_2d": ['
        (x_min, y_min, x_max, y_max), (x, y) = t.box, t.point
        numbers = f'{x_min}, {y_min}, {x_max}, {y_max}], "point_2d": [{x}, {y}], "label": "'
        pieces.append((start + numbers + f"{t.color} {instructions.name(t)}", t.id, 3.0))
    pieces.append(('"}]' if item.targets else "[]", NOBODY, 3.0))
    pieces.append(("</answer><|im_end|>", NOBODY, 1.0))
    return pieces


class Writer:
    """Tokenises instructions and answers, piece by piece, and remembers the pieces."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        token = tokenizer.convert_tokens_to_ids
        self._words = {token(form) for word in (*_last_words(),) for form in (word, " " + word)}

    def encode(self, text: str) -> list[int]:
        if text not in self._known:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if any(c.isdigit() for c in text):
                return ids
            self._known[text] = ids
        return self._known[text]

    def write(self, query: Query) -> tuple[list[int], list[int], list[float], list[int]]:
        """ids of question and answer; per id: label of the next token or -100, its weight, about whom it is."""
        question = self.encode(query.prompt) + self.encode(SUFFIX)
        ids, labels, weights, about = (
            list(question),
            [-100] * len(question),
            [1.0] * len(question),
            [NOBODY] * len(question),
        )
        for text, who, first in query.pieces:
            for n, token in enumerate(self.encode(text)):
                # The token before predicts this one.
                labels[-1], about[-1] = token, who
                weights[-1] = first if n == 0 else WORD if who > 0 and token in self._words else 1.0
                ids.append(token)
                labels.append(-100)
                weights.append(1.0)
                about.append(NOBODY)
        return ids, labels, weights, about


def _last_words() -> set[str]:
    return {word for text in (*CATEGORIES, *COLORS) for word in text.split()}


def cells(ids: np.ndarray) -> np.ndarray:
    """Whose each cell is (GRID²).

    The object's with at least 16 % of it; -1 with 3 to 16 %; each object's best cell is its own.
    """
    onehot = ids[None] == np.arange(1, MAX_OBJECTS + 1, dtype=np.uint8)[:, None, None]
    count = onehot.reshape(MAX_OBJECTS, GRID, CELL, GRID, CELL).sum((2, 4))
    total = count.sum((1, 2))
    count[total < MIN_AREA] = 0
    most = count.max(0)
    owner = np.where(most >= 0.16 * CELL**2, count.argmax(0) + 1, np.where(most > 0.03 * CELL**2, -1, 0)).reshape(-1)
    for i in np.flatnonzero(total >= MIN_AREA):
        owner[count[i].argmax()] = i + 1
    return owner


@dataclass(frozen=True)
class Instructions:
    """Draws instructions of all kinds alike: the shares of them that nothing matches; that are in other words; that are
    among words that mean nothing; and of which only the thought's first sentence is learnt, what is meant. That takes a
    third of the tokens, and it is what an unheard wording is mistaken in."""

    absent: float
    kinds: tuple[str, ...] = KINDS
    reworded: float = 0.0
    unheard: float = 0.25
    understood: float = 0.0

    def __call__(self, rng: np.random.Generator, things: list[Thing], augment: bool) -> Query | None:
        # Whether there is a match is drawn once: redrawn with every try it would mostly end as "there is none",
        # since that is written more easily. Few scenes decide a spatial question, hence the tries.
        kind, none = [self.kinds[int(rng.integers(len(self.kinds)))]], float(rng.random() < self.absent)
        tries = (instructions.write(rng, things, kind, none) for _ in range(12))
        item = next((i for i in tries if i is not None), None)
        if item is None:
            return None
        only_understood = augment and rng.random() < self.understood
        if only_understood or (augment and rng.random() < self.reworded):
            item = wordings.reword(rng, item, heard_wordings.TRAINING)
        if augment and rng.random() < self.unheard:
            item = replace(item, text=unheard(rng, item))
        return Query(prompt_text(item.text), meaning(item) if only_understood else segments(item))


def make_batch(
    scenes: Scenes,
    indices: np.ndarray,
    rng: np.random.Generator,
    writer: Writer,
    draw: Draw,
    *,
    length: int,
    augment: bool = True,
) -> Batch:
    """As many queries per image as fit into `length` tokens; half of the images are mirrored."""
    n = len(indices)
    ids = np.zeros((n, length), np.int64)
    label = np.full((n, length), -100, np.int64)
    weight = np.ones((n, length), np.float32)
    about = np.full((n, length), NOBODY, np.int64)
    query = np.full((n, length), -1, np.int64)
    step = np.zeros((n, length), np.int64)
    images = np.zeros((n, SIZE, SIZE, 3), np.uint8)
    owner = np.zeros((n, GRID * GRID), np.int64)
    box = np.zeros((n, MAX_OBJECTS, 4), np.float32)
    point = np.zeros((n, MAX_OBJECTS, 2), np.float32)
    category = np.zeros((n, MAX_OBJECTS), np.int64)
    color = np.zeros((n, MAX_OBJECTS), np.int64)
    for b, index in enumerate(indices):
        things: list[Thing] = scenes.things(int(index))
        rgb, mask = scenes.rgb(int(index)), scenes.ids(int(index))
        if augment and rng.random() < 0.5:
            rgb, mask, things = rgb[:, ::-1], mask[:, ::-1], instructions.mirror(things)
        images[b], owner[b] = rgb, cells(mask)
        for t in things:
            box[b, t.id - 1], point[b, t.id - 1] = t.box, t.point
            category[b, t.id - 1], color[b, t.id - 1] = CATEGORIES.index(t.category), COLORS.index(t.color)
        at = number = 0
        for _ in range(40):
            asked = draw(rng, things, augment)
            if asked is None:
                continue
            tokens, labels, weights, who = writer.write(asked)
            if at + len(tokens) > length:
                break
            span = slice(at, at + len(tokens))
            ids[b, span], label[b, span], weight[b, span], about[b, span] = tokens, labels, weights, who
            query[b, span], step[b, span] = number, np.arange(len(tokens))
            at, number = at + len(tokens), number + 1
    x = normalise(torch.from_numpy(images))
    if augment:
        contrast = torch.from_numpy(rng.uniform(0.85, 1.15, (n, 1, 1, 1)).astype(np.float32))
        brightness = torch.from_numpy(rng.normal(0, 0.15, (n, 1, 1, 1)).astype(np.float32))
        noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
        x = x * contrast + brightness + 0.03 * noise
    tensors = [
        torch.from_numpy(a) for a in (ids, query, step, label, weight, about, owner, box, point, category, color)
    ]
    return Batch(x, Packed(*tensors[:3]), *tensors[3:])
