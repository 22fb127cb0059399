"""Instructions of `instructions.py` in other words: those that training hears, and those that are held out from it.

What is asked stays as it is, and so do the answer and its thought, which keeps to the plain words. Capitals and closing
punctuation, which the demo profile strips from any instruction, stand in held-out sentences alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from training.data.tabletop.instructions import Item, Meaning

Pick = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Wordings:
    """frames: sentences around what is meant, {it} the object or objects, {be} "is" or "are", {them} "it" or "them".
    The other fields say what is meant: a {noun} or {nouns} with {color}, {the} reference of a relation {where} it is.
    questions: by function, whole instructions; things: by function, to stand in a frame."""

    frames: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]  # of categories, where not their own alone
    category: tuple[str, ...]
    color: tuple[str, ...]
    color_category: tuple[str, ...]
    superlative: tuple[str, ...]
    superlatives: Mapping[str, tuple[str, ...]]
    spatial: tuple[str, ...]
    relations: Mapping[str, tuple[str, ...]]
    several: tuple[str, ...]  # of a category
    several_color: tuple[str, ...]
    negation: tuple[str, ...]
    questions: Mapping[str, tuple[str, ...]]
    things: Mapping[str, tuple[str, ...]]
    capital: bool = False  # whether a text begins with one; otherwise it is as it stands here

    def texts(self) -> set[str]:
        """All that is said with these, in parts, braces and all."""
        values = (getattr(self, field.name) for field in fields(self) if field.name != "capital")
        parts = (v.values() if isinstance(v, Mapping) else (v,) for v in values)
        return {text for some in parts for texts in some for text in texts}


def listed(text: str) -> tuple[str, ...]:
    """Wordings that stand on lines and between bars."""
    return tuple(one.strip() for line in text.strip().splitlines() for one in line.split("|"))


# What names an object or a quality is the same in all.
RELATIONS = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of"),
    "in front of": ("in front of", "closer than", "nearer than"),
    "behind": ("behind", "farther away than", "in back of"),
}
SUPERLATIVES = {
    "leftmost": ("leftmost",),
    "rightmost": ("rightmost",),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest", "tiniest"),
    "nearest": ("nearest", "closest"),
    "farthest": ("farthest", "furthest"),
}
NAMES = {
    "mug": ("mug", "mug", "coffee mug", "cup"),
    "duck": ("duck", "duck", "rubber duck", "toy duck"),
    "bear": ("bear", "bear", "teddy bear", "teddy", "toy bear"),
    "bunny": ("bunny", "bunny", "toy bunny", "bunny rabbit"),
    "soccer ball": ("soccer ball", "soccer ball", "football"),
    "plain ball": ("plain ball", "plain ball", "smooth ball", "ball without a pattern"),
    "brick": ("brick", "brick", "toy brick", "lego brick"),
    "cylinder": ("cylinder", "cylinder", "tube"),
}
_SINGULAR = ("every", "each", "all that")
_COUNTS = {2: ("both {nouns}", "the two {nouns}"), 3: ("the three {nouns}",), 4: ("the four {nouns}",)}


def reword(rng: np.random.Generator, item: Item, wordings: Wordings) -> Item:
    """The same instruction in other words."""
    return replace(item, text=_text(rng, item, wordings))


def _text(rng: np.random.Generator, item: Item, wordings: Wordings) -> str:
    def pick(choices: Sequence[str]) -> str:
        return choices[int(rng.integers(len(choices)))]

    said, kind = item.meaning, item.kind
    if kind == "function":
        category = "ball" if said.noun == "plain ball" else said.noun
        if rng.random() < 0.4:
            return pick(wordings.questions[category])
        it = pick(wordings.things[category])
    else:
        it = _phrase(pick, said, kind, wordings)
    many = kind == "several" and not it.startswith(_SINGULAR)
    it = re.sub(r"\ba (?=[aeiou])", "an ", it)
    text = pick(wordings.frames).format(it=it, be="are" if many else "is", them="them" if kind == "several" else "it")
    return text[0].upper() + text[1:] if wordings.capital else text


def _phrase(pick: Pick, said: Meaning, kind: str, wordings: Wordings) -> str:
    """What is meant, but for a function."""
    # "Ball" may be either kind, and in a plural no synonym is needed to tell one from the other.
    noun = pick(wordings.names.get(said.noun, (said.noun,))) if kind != "several" else said.noun
    forms: tuple[str, ...]
    if kind == "several":
        forms = wordings.several if said.noun else wordings.several_color
        if said.count in _COUNTS and pick(("all", "counted")) == "counted":
            forms = _COUNTS[said.count]
            if not said.noun:
                forms = tuple(form.replace("{nouns}", "{color} {nouns}") for form in forms)
    else:
        forms = {
            "category": wordings.category,
            "color": wordings.color,
            "color_category": wordings.color_category,
            "superlative": wordings.superlative,
            "spatial": wordings.spatial,
            "negation": wordings.negation,
        }[kind]
    color, category = said.reference
    reference = " ".join(("the", color, pick(wordings.names.get(category, (category,))))).replace("  ", " ")
    form = pick(forms)
    return form.format(
        noun=noun,
        nouns=_plural(noun or "object"),
        color=said.color,
        most=pick(wordings.superlatives.get(said.superlative, (said.superlative,))),
        where=pick(wordings.relations.get(said.relation, (said.relation,))),
        the=reference,
    )


def _plural(noun: str) -> str:
    return {"bunny": "bunnies", "ball without a pattern": "balls without a pattern"}.get(noun, f"{noun}s")
