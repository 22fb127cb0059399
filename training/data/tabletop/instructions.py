"""Writes instructions over a scene, with the answer and the thought that leads to it.

Kinds: category, color, color_category, function, spatial, superlative, several, negation; each also with
nothing that matches ("absent"). An instruction is only kept when the scene decides it beyond doubt: who is
hardly in sight is never a target and never the thing that tells two others apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.data.tabletop.scene import CATEGORIES, COLORS, SIZE
from training.data.tabletop.store import MIN_AREA, Thing

KINDS = ("category", "color", "color_category", "function", "spatial", "superlative", "several", "negation")
BALLS = ("soccer ball", "ball")  # "the ball" may be either; "the plain ball" and "the soccer ball" tell them apart
MAX_TARGETS = 4

TEMPLATES = (
    "the {}",
    "{}",
    "segment the {}",
    "pick up the {}",
    "find the {}",
    "where is the {}?",
    "the {}, please",
    "I need the {}",
    "grasp the {}",
    "point to the {}",
    "give me the {}",
    "show me the {}",
)
MANY_TEMPLATES = ("{}", "segment {}", "pick up {}", "find {}", "{}, please", "show me {}", "point to {}")
FUNCTIONS = {
    "mug": ("something to drink from", "what can hold coffee?", "hand me something to drink tea from"),
    "duck": ("the bath toy bird", "something that quacks", "the toy that floats in a bathtub"),
    "bear": ("something to cuddle", "the stuffed animal that likes honey", "what would a child hug at night?"),
    "bunny": ("the animal with long ears", "the toy rabbit", "the one that eats carrots"),
    "soccer ball": ("something to kick", "what is used in a football match?", "the thing to score a goal with"),
    "ball": ("the plain round thing", "a perfectly smooth round object", "the sphere without a pattern"),
    "brick": ("something to build with", "the studded toy block", "what clicks onto another of its kind?"),
    "cube": ("the box-shaped object", "the solid with six square faces", "the plain square block"),
    "cylinder": ("the upright round column", "the can-shaped object", "the tube-like solid"),
}
# Phrasings of test-ood alone: none of these word orders is seen in training.
OOD_TEMPLATES = (
    "could you bring the {} over here",
    "please locate the {}",
    "would you mind handing over the {}",
    "robot, grab the {}",
    "I am looking for the {}",
)
OOD_MANY_TEMPLATES = ("could you bring {} over here", "please locate {}", "I am looking for {}")
OOD_FUNCTIONS = {
    "mug": ("I am thirsty, what do I use?", "something for hot coffee"),
    "duck": ("the yellow-billed bird toy", "something for the bathtub"),
    "bear": ("a toy animal to hug", "something a child would cuddle"),
    "bunny": ("the rabbit", "an animal that likes carrots"),
    "soccer ball": ("something for a football match", "a thing to kick and score with"),
    "ball": ("a smooth sphere", "the round object without any pattern"),
    "brick": ("a toy block with studs", "something to build a house with"),
    "cube": ("a solid with square faces", "the object shaped like a box"),
    "cylinder": ("an object shaped like a can", "the round column"),
}
SUPERLATIVES = ("leftmost", "rightmost", "biggest", "smallest", "nearest", "farthest")
RELATIONS = ("left of", "right of", "in front of", "behind")


@dataclass(frozen=True)
class Meaning:
    """What an instruction says, apart from its words; `wordings` says it in others.

    noun: a category, "plain ball", "object", or "" where a colour is all that is said. reference: colour ("" where its
    category is enough) and category. count: of several objects; 0 where nothing matches.
    """

    noun: str = ""
    color: str = ""
    superlative: str = ""
    relation: str = ""
    reference: tuple[str, str] = ("", "")
    count: int = 1


@dataclass(frozen=True)
class Item:
    """targets: as they stand in the answer, from left to right. seen: what the thought looks at first. candidates: what
    it goes through then, from left to right, each with whether `test` is true of it: what one look cannot decide is
    decided in words, one candidate at a time."""

    kind: str
    text: str
    spec: str  # the instruction in the words of the thought, without article
    targets: tuple[Thing, ...]
    seen: tuple[Thing, ...] = ()
    article: str = "the"
    candidates: tuple[tuple[Thing, bool], ...] = ()
    test: str = ""
    meaning: Meaning = Meaning()

    @property
    def absent(self) -> bool:
        return not self.targets


def mirror(things: Sequence[Thing]) -> list[Thing]:
    """The same things in the image flipped left to right."""
    return [
        replace(
            t, box=(SIZE - t.box[2], t.box[1], SIZE - t.box[0], t.box[3]), point=(SIZE - 1 - t.point[0], t.point[1])
        )
        for t in things
    ]


def write(
    rng: np.random.Generator, things: Sequence[Thing], kinds: Sequence[str], absent: float, *, ood: bool = False
) -> Item | None:
    """One instruction of a random kind, a share `absent` of them without a match; None if the scene has no such."""
    clear = [t for t in things if t.area >= MIN_AREA]
    if not clear:
        return None
    kind = kinds[int(rng.integers(len(kinds)))]
    want_absent = bool(rng.random() < absent)
    return _WRITERS[kind](_Scene(rng, list(things), clear, ood), want_absent)


def thought(item: Item) -> str:
    """The text inside <think>: what is meant, what is looked at on the way, what is found."""
    parts = [f"The target is {item.article} {item.spec}." if item.article else f"The target is {item.spec}."]
    parts += [f"The {name(t)} is at {at(t)}." for t in item.seen]
    parts += [f"The {t.color} {name(t)} at {at(t)} is {verdict(item.test, true)}." for t, true in item.candidates]
    parts += [sight(t) for t in item.targets]
    if item.absent:
        parts.append("There is none.")
    return " ".join(parts)


def answer(item: Item) -> str:
    """The whole text that the model is to write."""
    objects = [{"bbox_2d": t.box, "point_2d": t.point, "label": f"{t.color} {name(t)}"} for t in item.targets]
    return f"<think>{thought(item)}</think><answer>{json.dumps(objects)}</answer>"


def sight(t: Thing) -> str:
    return f"I see {'an' if t.color[0] in 'aeiou' else 'a'} {t.color} {name(t)} at {at(t)}."


def verdict(test: str, true: bool) -> str:
    return test if true else f"not {test}"


def at(t: Thing) -> str:
    return f"({t.point[0]}, {t.point[1]})"


def name(t: Thing) -> str:
    return t.category


def plural(category: str) -> str:
    return _PLURAL[category]


class _Scene:
    def __init__(self, rng: np.random.Generator, things: list[Thing], clear: list[Thing], ood: bool) -> None:
        self.rng, self.things, self.clear, self.ood = rng, things, clear, ood

    def pick(self, choices: Sequence):  # type: ignore[no-untyped-def, type-arg]
        return choices[int(self.rng.integers(len(choices)))]

    def say(self, noun: str) -> str:
        return self.pick(OOD_TEMPLATES if self.ood else TEMPLATES).format(noun)

    def say_many(self, nouns: str) -> str:
        return self.pick(OOD_MANY_TEMPLATES if self.ood else MANY_TEMPLATES).format(nouns)

    def noun(self, category: str) -> str:
        """A category's name in an instruction; "plain ball" where "ball" alone could be a soccer ball."""
        return "plain ball" if category == "ball" else category


def _unique(scene: _Scene, match: Callable[[Thing], bool]) -> Thing | None:
    found = [t for t in scene.things if match(t)]
    return found[0] if len(found) == 1 and found[0].area >= MIN_AREA else None


def _category(scene: _Scene, absent: bool) -> Item | None:
    if absent:
        missing = [c for c in CATEGORIES if all(t.category != c for t in scene.things)]
        c = scene.pick(missing)
        return Item("category", scene.say(scene.noun(c)), scene.noun(c), (), meaning=Meaning(scene.noun(c)))
    t = scene.pick(scene.clear)
    if t.category in BALLS and scene.rng.random() < 0.3:
        if _unique(scene, lambda o: o.category in BALLS) is None:
            return None
        return Item("category", scene.say("ball"), "ball", (t,), meaning=Meaning("ball"))
    if _unique(scene, lambda o: o.category == t.category) is None:
        return None
    noun = scene.noun(t.category)
    return Item("category", scene.say(noun), noun, (t,), meaning=Meaning(noun))


def _color(scene: _Scene, absent: bool) -> Item | None:
    if absent:
        missing = [c for c in COLORS if all(t.color != c for t in scene.things)]
        color, targets = scene.pick(missing), tuple[Thing, ...]()
    else:
        t = scene.pick(scene.clear)
        if _unique(scene, lambda o: o.color == t.color) is None:
            return None
        color, targets = t.color, (t,)
    thing = scene.pick(("object", "thing"))
    return Item("color", scene.say(f"{color} {thing}"), f"{color} object", targets, meaning=Meaning(color=color))


def _color_category(scene: _Scene, absent: bool) -> Item | None:
    if absent:
        # Mostly near misses: the colour or the category is there, but not on the same object.
        t, chance = scene.pick(scene.things), scene.rng.random()
        category = t.category if chance < 0.5 else scene.pick(CATEGORIES)
        color = t.color if 0.5 <= chance < 0.85 else scene.pick(COLORS)
        if any((o.category, o.color) == (category, color) for o in scene.things):
            return None
        spec = f"{color} {category}"
        if category == "ball" and any(o.category in BALLS and o.color == color for o in scene.things):
            return None
        return Item("color_category", scene.say(spec), spec, (), meaning=Meaning(category, color))
    t = scene.pick(scene.clear)
    same = BALLS if t.category == "ball" else (t.category,)
    if _unique(scene, lambda o: o.category in same and o.color == t.color) is None:
        return None
    spec = f"{t.color} {t.category}"
    return Item("color_category", scene.say(spec), spec, (t,), meaning=Meaning(t.category, t.color))


def _function(scene: _Scene, absent: bool) -> Item | None:
    if absent:
        category = scene.pick([c for c in CATEGORIES if all(t.category != c for t in scene.things)])
        targets: tuple[Thing, ...] = ()
    else:
        t = scene.pick(scene.clear)
        if _unique(scene, lambda o: o.category == t.category) is None:
            return None
        category, targets = t.category, (t,)
    text = scene.pick((OOD_FUNCTIONS if scene.ood else FUNCTIONS)[category])
    return Item("function", text, scene.noun(category), targets, meaning=Meaning(category))


def _related(relation: str, t: Thing, ref: Thing) -> float:
    """How far beyond doubt t stands in the relation to ref: > 1 surely, < -1 surely not."""
    if relation in ("left of", "right of"):
        dx = (t.box[0] + t.box[2] - ref.box[0] - ref.box[2]) / 2
        return (-dx if relation == "left of" else dx) / 12
    d = (ref.distance - t.distance) / 0.06
    return d if relation == "in front of" else -d


def _tried(things: Sequence[Thing], passed: Sequence[Thing]) -> tuple[tuple[Thing, bool], ...]:
    return tuple((t, t in passed) for t in sorted(things, key=lambda t: t.point))


def _spatial(scene: _Scene, absent: bool) -> Item | None:
    if len(scene.clear) < 2 or len(scene.clear) < len(scene.things):
        return None
    ref = scene.pick(scene.clear)
    if _unique(scene, lambda o: o.category == ref.category) is not None and ref.category != "ball":
        reference = ("", ref.category)
    elif _unique(scene, lambda o: o.category == ref.category and o.color == ref.color) is not None:
        reference = (ref.color, ref.category)
    else:
        return None
    relation = scene.pick(RELATIONS)
    others = [t for t in scene.clear if t is not ref]
    if scene.rng.random() < 0.5:
        noun, pool = "object", others
    else:
        category = scene.pick(others).category
        noun, pool = category, [t for t in others if t.category in (BALLS if category == "ball" else (category,))]
    degrees = [_related(relation, t, ref) for t in pool]
    if any(abs(d) < 1 for d in degrees):
        return None
    found = [t for t, d in zip(pool, degrees, strict=True) if d > 1]
    if absent != (not found) or len(found) > 1:
        return None
    test = f"{relation} the {' '.join(reference).strip()}"
    spec = f"{noun} {test}"
    # Of all objects there would be too many to go through.
    candidates = _tried(pool, found) if noun != "object" else ()
    meaning = Meaning(noun, relation=relation, reference=reference)
    return Item("spatial", scene.say(spec), spec, tuple(found), (ref,), "the", candidates, test, meaning)


_KEYS: dict[str, tuple[Callable[[Thing], float], float]] = {
    # key, and by how much the best must win
    "leftmost": (lambda t: (t.box[0] + t.box[2]) / 2, 12),
    "rightmost": (lambda t: -(t.box[0] + t.box[2]) / 2, 12),
    "biggest": (lambda t: -float(np.log(t.area)), 0.35),
    "smallest": (lambda t: float(np.log(t.area)), 0.35),
    "nearest": (lambda t: t.distance, 0.06),
    "farthest": (lambda t: -t.distance, 0.06),
}


def _superlative(scene: _Scene, absent: bool) -> Item | None:
    if len(scene.clear) < 2 or len(scene.clear) < len(scene.things):
        return None
    word = scene.pick(SUPERLATIVES)
    if absent:
        category = scene.pick([c for c in CATEGORIES if all(t.category != c for t in scene.things)])
        if category == "ball" and any(t.category in BALLS for t in scene.things):
            return None
        spec = f"{word} {category}"
        return Item("superlative", scene.say(spec), spec, (), meaning=Meaning(category, superlative=word))
    key, margin = _KEYS[word]
    category = scene.pick(scene.clear).category
    group = [t for t in scene.clear if t.category in (BALLS if category == "ball" else (category,))]
    noun = category
    if len(group) < 2:
        group, noun = scene.clear, "object"
    group = sorted(group, key=key)
    if key(group[1]) - key(group[0]) < margin:
        return None
    spec = f"{word} {noun}"
    return Item("superlative", scene.say(spec), spec, (group[0],), meaning=Meaning(noun, superlative=word))


_PLURAL = {c: f"{c}s" for c in CATEGORIES} | {"bunny": "bunnies"}
_NUMBERS = {2: "two", 3: "three", 4: "four"}


def _several(scene: _Scene, absent: bool) -> Item | None:
    if len(scene.clear) < len(scene.things):
        return None
    by_color = scene.rng.random() < 0.5
    found: list[Thing]
    if absent:
        if by_color:
            color = scene.pick([c for c in COLORS if all(t.color != c for t in scene.things)])
            nouns, found, meaning = f"{color} objects", [], Meaning(color=color)
        else:
            category = scene.pick([c for c in CATEGORIES if all(t.category != c for t in scene.things)])
            if category == "ball" and any(t.category in BALLS for t in scene.things):
                return None
            nouns, found, meaning = _PLURAL[category], [], Meaning(category)
    else:
        t = scene.pick(scene.clear)
        if by_color:
            nouns, found = f"{t.color} objects", [o for o in scene.clear if o.color == t.color]
            meaning = Meaning(color=t.color)
        else:
            same = BALLS if t.category == "ball" else (t.category,)
            nouns, found = _PLURAL[t.category], [o for o in scene.clear if o.category in same]
            meaning = Meaning(t.category)
        if len(found) > MAX_TARGETS or (len(found) == 1 and scene.rng.random() < 0.8):
            return None
    found = sorted(found, key=lambda t: (t.point[0], t.point[1]))
    words = ["all the"]
    if len(found) >= 2:
        words += [f"the {_NUMBERS[len(found)]}"] + (["both"] if len(found) == 2 else [])
    text, meaning = scene.say_many(f"{scene.pick(words)} {nouns}"), replace(meaning, count=len(found))
    return Item("several", text, nouns, tuple(found), article="all the", meaning=meaning)


def _negation(scene: _Scene, absent: bool) -> Item | None:
    t = scene.pick(scene.clear)
    same = BALLS if t.category == "ball" else (t.category,)
    group = [o for o in scene.things if o.category in same]
    color = scene.pick(group).color
    found = [o for o in group if o.color != color]
    if absent != (not found) or len(found) > 1 or any(o.area < MIN_AREA for o in group):
        return None
    spec = f"{t.category} that is not {color}"
    candidates = _tried(group, [o for o in group if o.color == color])
    meaning = Meaning(t.category, color)
    return Item("negation", scene.say(spec), spec, tuple(found), (), "the", candidates, color, meaning)


_WRITERS: dict[str, Callable[[_Scene, bool], Item | None]] = {
    "category": _category,
    "color": _color,
    "color_category": _color_category,
    "function": _function,
    "spatial": _spatial,
    "superlative": _superlative,
    "several": _several,
    "negation": _negation,
}


def prompt_text(instruction: str) -> str:
    """The demo profile's way with an instruction: lower case, without closing punctuation."""
    return instruction.strip().strip('."?!').lower().strip()
