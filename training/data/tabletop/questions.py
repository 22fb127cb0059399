"""What the experiment asks over a scene: instructions and questions, each to be answered with a thought or without.

The end of the prompt says which: " think" or " answer". NAMING is fine-tuned on, RETAINED is seen in pre-training only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.data.tabletop import instructions
from training.data.tabletop.instructions import BALLS, Item, prompt_text
from training.data.tabletop.scene import CATEGORIES, COLORS
from training.data.tabletop.store import MIN_AREA, Thing

NAMING = ("category", "color", "color_category")
RETAINED = ("function", "superlative", "several")
UNTAUGHT = ("spatial", "negation")  # nowhere taught; the start finds 4 % of them, so nothing is measured on them
QUESTIONS = ("exists", "what_color", "what_kind", "count")
SUFFIX = {True: " think", False: " answer"}
COUNTS = ("zero", "one", "two", "three", "four")
# Words beyond the embedded tokenizer's; `training.embedded.tokenizer.build_tokenizer` takes them.
WORDS = "think answer yes no is there a an what color how many are in the image " + " ".join(COUNTS)


@dataclass(frozen=True)
class Ask:
    """One prompt with its right answer. head: how its thought begins. answer: the word that is right, of a question."""

    kind: str
    text: str
    head: str
    targets: tuple[Thing, ...]
    seen: tuple[Thing, ...] = ()
    answer: str = ""  # empty for an instruction

    @property
    def absent(self) -> bool:
        return not self.answer and not self.targets

    def prompt(self, think: bool) -> str:
        return prompt_text(self.text) + SUFFIX[think]

    def thought(self) -> str:
        """The template thought: what is meant, what is looked at, what is found."""
        parts = [self.head, *(seen_at(t) for t in self.seen), *(instructions.sight(t) for t in self.targets)]
        return " ".join(parts if self.targets else [*parts, "There is none."])

    def objects(self) -> list[dict[str, object]]:
        return [
            {
                "bbox_2d": list(t.box),
                "point_2d": list(t.point),
                "label": f"{t.color} {instructions.name(t)}",
            }
            for t in self.targets
        ]

    def completion(self, think: bool) -> str:
        """The right text."""
        answer = self.answer or json.dumps(self.objects())
        return (f"<think>{self.thought()}</think>" if think else "") + f"<answer>{answer}</answer>"

    def solution(self) -> str:
        """For the rewards: a JSON list of {bbox_2d, point_2d}."""
        return json.dumps([{"bbox_2d": list(t.box), "point_2d": list(t.point)} for t in self.targets])


def seen_at(t: Thing) -> str:
    return f"The {instructions.name(t)} is at {instructions.at(t)}."


def instruct(rng: np.random.Generator, things: list[Thing], kinds: Sequence[str], absent: float) -> Ask | None:
    """An instruction of a random kind; None where the scene has none after some tries.

    Whether there is a match is drawn once: redrawn with every try it would mostly end as "there is none", which is
    written more easily.
    """
    kind, none = [kinds[int(rng.integers(len(kinds)))]], float(rng.random() < absent)
    tries = (instructions.write(rng, things, kind, none) for _ in range(12))
    item: Item | None = next((i for i in tries if i is not None), None)
    if item is None:
        return None
    return Ask(item.kind, item.text, f"The target is {item.article} {item.spec}.", item.targets, item.seen)


def question(rng: np.random.Generator, things: list[Thing], kinds: Sequence[str] = QUESTIONS) -> Ask | None:
    """A question of a random kind; None where the scene decides none after some tries."""
    clear = [t for t in things if t.area >= MIN_AREA]
    if len(clear) < len(things) or not clear:
        return None
    kind = kinds[int(rng.integers(len(kinds)))]
    for _ in range(12):
        found = _ASKED[kind](rng, clear)
        if found is not None:
            return found
    return None


def _pick(rng: np.random.Generator, choices: Sequence):  # type: ignore[no-untyped-def, type-arg]
    return choices[int(rng.integers(len(choices)))]


def _same(category: str) -> tuple[str, ...]:
    return BALLS if category == "ball" else (category,)


def _exists(rng: np.random.Generator, things: list[Thing]) -> Ask | None:
    """Yes about as often as no; what is not there mostly shares its colour or kind with something that is."""
    t = _pick(rng, things)
    if rng.random() < 0.5:
        category, color = t.category, t.color
    else:
        near = rng.random() < 0.5
        category = t.category if near else _pick(rng, CATEGORIES)
        color = _pick(rng, COLORS) if near else t.color
    found = [o for o in things if o.category in _same(category) and o.color == color]
    if len(found) > 1:
        return None
    spec = f"{color} {category}"
    article = "an" if color[0] in "aeiou" else "a"
    return Ask(
        "exists",
        f"is there {article} {spec}?",
        f"The target is the {spec}.",
        tuple(found),
        answer="yes" if found else "no",
    )


def _what_color(rng: np.random.Generator, things: list[Thing]) -> Ask | None:
    t = _pick(rng, things)
    if sum(o.category in _same(t.category) for o in things) != 1:
        return None
    return Ask(
        "what_color", f"what color is the {t.category}?", f"The target is the {t.category}.", (t,), answer=t.color
    )


def _what_kind(rng: np.random.Generator, things: list[Thing]) -> Ask | None:
    t = _pick(rng, things)
    if sum(o.color == t.color for o in things) != 1:
        return None
    return Ask(
        "what_kind",
        f"what is the {t.color} object?",
        f"The target is the {t.color} object.",
        (t,),
        answer=instructions.name(t),
    )


def _count(rng: np.random.Generator, things: list[Thing]) -> Ask | None:
    """None to three, as evenly as scenes allow: the number is drawn first."""
    wanted = int(rng.integers(0, 4))
    names: list[tuple[str, list[Thing]]] = [(f"{c} objects", [o for o in things if o.color == c]) for c in COLORS] + [
        (f"{instructions.plural(c)}", [o for o in things if o.category in _same(c)]) for c in CATEGORIES
    ]
    fitting = [(nouns, found) for nouns, found in names if len(found) == wanted]
    if not fitting:
        return None
    nouns, found = _pick(rng, fitting)
    found = sorted(found, key=lambda t: (t.point[0], t.point[1]))
    return Ask(
        "count", f"how many {nouns} are there?", f"The target is all the {nouns}.", tuple(found), answer=COUNTS[wanted]
    )


_ASKED: dict[str, Callable[[np.random.Generator, list[Thing]], Ask | None]] = {
    "exists": _exists,
    "what_color": _what_color,
    "what_kind": _what_kind,
    "count": _count,
}
