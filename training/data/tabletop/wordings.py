"""Instructions of `instructions.py` in other words: many that training hears, and those of `test-wordings`, held out.

What is asked stays as it is, and so do the answer and its thought, which keeps to the plain words. Capitals and closing
punctuation, which the demo profile strips from any instruction, stand in `test-wordings` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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


_RELATIONS = {
    "left of": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right of", "on the right side of"),
    "in front of": ("in front of", "closer than", "nearer than"),
    "behind": ("behind", "farther away than", "in back of"),
}
_SUPERLATIVES = {
    "leftmost": ("leftmost",),
    "rightmost": ("rightmost",),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest", "tiniest"),
    "nearest": ("nearest", "closest"),
    "farthest": ("farthest", "furthest"),
}
_NAMES = {
    "mug": ("mug", "mug", "coffee mug", "cup"),
    "duck": ("duck", "duck", "rubber duck", "toy duck"),
    "bear": ("bear", "bear", "teddy bear", "teddy", "toy bear"),
    "bunny": ("bunny", "bunny", "toy bunny", "bunny rabbit"),
    "soccer ball": ("soccer ball", "soccer ball", "football"),
    "plain ball": ("plain ball", "plain ball", "smooth ball", "ball without a pattern"),
    "brick": ("brick", "brick", "toy brick", "lego brick"),
    "cylinder": ("cylinder", "cylinder", "tube"),
}

TRAINING = Wordings(
    frames=(
        *("{it}", "{it}", "{it}", "segment {it}", "pick up {it}", "pick {it} up", "find {it}", "where {be} {it}"),
        *("{it}, please", "please, {it}", "{it} please", "I need {it}", "grasp {it}", "point to {it}", "give me {it}"),
        *("show me {it}", "pass me {it}", "pass {it}", "hand me {it}", "hand over {it}", "grab {it}", "take {it}"),
        *("get {it}", "get me {it}", "fetch {it}", "fetch me {it}", "bring me {it}", "bring {it} to me", "lift {it}"),
        *("lift {it} up", "hold {it}", "touch {it}", "reach for {it}", "move to {it}", "go to {it}", "look at {it}"),
        *("look for {it}", "search for {it}", "locate {it}", "detect {it}", "mark {it}", "outline {it}", "select {it}"),
        *("highlight {it}", "draw a box around {it}", "give me a mask of {it}", "identify {it}", "spot {it}"),
        *("show {it}", "point at {it}", "point out {it}", "tell me where {it} {be}", "where can I find {it}"),
        *("where do you see {it}", "can you see {it}", "do you see {it}", "can you find {it}", "can you pass me {it}"),
        *("can I have {it}", "could you find {it}", "could you hand me {it}", "could you please pick up {it}"),
        *("could you tell me where {it} {be}", "would you get me {it}", "would you please show me {it}"),
        *(
            "will you grab {it}",
            "please find {it}",
            "please give me {it}",
            "please pick up {it}",
            "please segment {it}",
        ),
        *(
            "I want {it}",
            "I want you to grab {it}",
            "I would like {it}",
            "I'd like to have {it}",
            "I need you to take {it}",
        ),
        *("I am searching for {it}", "I have to find {it}", "help me find {it}", "let me have {it}", "let me see {it}"),
        *("give {it} to me", "put your gripper on {it}", "close the gripper on {it}", "now {it}", "now take {it}"),
        *("next, get {it}", "ok, {it}", "hey, where {be} {it}", "hello, can you lift {it}", "{it}, thanks", "{it} now"),
        *(
            "{it}, where {be} {them}",
            "{it}, can you get {them}",
            "{it}, pick {them} up",
            "look for {it} and take {them}",
        ),
        *("find {it} and give {them} to me", "look at the table and find {it}", "in this picture, find {it}"),
        *(
            "find {it} in the image",
            "what about {it}",
            "you have to pick up {it}",
            "we need {it}",
            "someone wants {it}",
        ),
    ),
    names=_NAMES,
    category=(
        "the {noun}",
        "the {noun}",
        "the {noun}",
        "a {noun}",
        "that {noun}",
        "this {noun}",
        "my {noun}",
        "{noun}",
    ),
    color=(
        *("the {color} object", "the {color} thing", "the {color} one", "the {color} item", "a {color} object"),
        *("the object that is {color}", "the thing that is {color}", "something {color}", "something that is {color}"),
        *("the thing in {color}", "whatever is {color}", "what is {color}", "that {color} thing", "{color} object"),
    ),
    color_category=(
        *("the {color} {noun}", "the {color} {noun}", "the {color} {noun}", "a {color} {noun}", "that {color} {noun}"),
        *("my {color} {noun}", "{color} {noun}", "the {noun} that is {color}", "the {noun} in {color}"),
        *(
            "the {noun} of {color} color",
            "the {noun} which is {color}",
            "a {noun} that is {color}",
            "the {noun}, the {color} one",
        ),
    ),
    superlative=(
        *("the {most} {noun}", "the {most} {noun}", "the {most} {noun}", "the {noun} that is {most}"),
        *("{most} {noun}", "the {noun} which is the {most}", "that {most} {noun}", "the {most} of the {nouns}"),
        *("the {noun}, the {most} one", "of the {nouns} the {most} one"),
    ),
    superlatives=_SUPERLATIVES,
    spatial=(
        *("the {noun} {where} {the}", "the {noun} {where} {the}", "the {noun} {where} {the}", "a {noun} {where} {the}"),
        *("the {noun} that is {where} {the}", "the {noun} which is {where} {the}", "{noun} {where} {the}"),
        *("the {noun} that you see {where} {the}", "{where} {the}, the {noun}", "that {noun} {where} {the}"),
    ),
    relations=_RELATIONS,
    several=(
        *(
            "all the {nouns}",
            "all the {nouns}",
            "all {nouns}",
            "all of the {nouns}",
            "every {noun}",
            "each {noun}",
            "{nouns}",
        ),
        *("every single {noun}", "all the {nouns} that you see", "all {nouns} in the image", "the {nouns}, all"),
    ),
    several_color=(
        *("all the {color} objects", "all the {color} objects", "all {color} things", "all the {color} things"),
        *("every {color} object", "each {color} thing", "everything {color}", "everything that is {color}"),
        *("all of the {color} items", "all that is {color}", "{color} things, all"),
    ),
    negation=(
        *("the {noun} that is not {color}", "the {noun} that is not {color}", "the {noun} which is not {color}"),
        *(
            "the {noun} that isn't {color}",
            "the not {color} {noun}",
            "the {noun}, not the {color} one",
            "a {noun} that is not {color}",
        ),
        *("the {noun} other than the {color} one", "the {noun} that has a color other than {color}"),
        *("any {noun} except the {color} one", "the {noun} of any color but {color}", "a {noun} but not a {color} one"),
    ),
    questions={
        "mug": (
            "what can hold coffee",
            "what can I drink from",
            "what do you drink tea from",
            "I want to drink coffee",
        ),
        "duck": ("what quacks", "which one quacks", "what floats in a bathtub", "what belongs in the bath"),
        "bear": ("what would a child hug at night", "what can I cuddle", "which animal likes honey", "who eats honey"),
        "bunny": ("what eats carrots", "which one eats carrots", "who has long ears", "which animal has long ears"),
        "soccer ball": ("what is used in a football match", "what can I kick", "what do you score a goal with"),
        "ball": ("what is round and smooth", "which one is a perfectly smooth sphere", "what is round and plain"),
        "brick": ("what clicks onto another of its kind", "what can I build with", "what has studs"),
        "cube": ("what has six square faces", "which solid is box-shaped", "which one is like a box"),
        "cylinder": ("what is can-shaped", "which solid is tube-like", "what looks like a can"),
    },
    things={
        "mug": (
            "something to drink from",
            "the thing to drink coffee from",
            "the thing that can hold tea",
            "something for coffee",
        ),
        "duck": (
            "the bath toy bird",
            "something that quacks",
            "the bird",
            "the toy that floats in the bath",
            "the animal that quacks",
        ),
        "bear": (
            "something to cuddle",
            "the stuffed animal that likes honey",
            "the toy to hug at night",
            "the animal that likes honey",
        ),
        "bunny": (
            "the animal with long ears",
            "the toy rabbit",
            "the one that eats carrots",
            "something with long ears",
        ),
        "soccer ball": (
            "something to kick",
            "the thing to score a goal with",
            "the thing for a football match",
            "the toy to kick",
        ),
        "ball": (
            "the plain round thing",
            "a perfectly smooth round object",
            "the sphere without a pattern",
            "the plain sphere",
        ),
        "brick": ("something to build with", "the studded toy block", "the block with studs", "the toy to build with"),
        "cube": ("the box-shaped object", "the solid with six square faces", "the plain square block", "the plain box"),
        "cylinder": ("the upright round column", "the can-shaped object", "the tube-like solid", "the upright tube"),
    },
)

# Never in training, word for word and in their structure; the names of objects and qualities are those that it teaches.
HELD_OUT = Wordings(
    frames=(
        *(
            "Could I get {it} from you?",
            "Would it be possible to reach {it}?",
            "Have you any idea where {it} might be?",
        ),
        *(
            "Move your arm towards {it}.",
            "Try to get hold of {it}.",
            "We are going to work with {it}.",
            "What I am after {be} {it}.",
        ),
        *("If you see {it}, grasp {them}.", "I can't see {it} myself, show me!", "My friend asked for {it}."),
        *(
            "Make {it} your target.",
            "Please be so kind as to pass me {it}.",
            "How do I get to {it}?",
            "Start with {it}.",
        ),
        *("Show everybody where {it} {be}.", "{it}: can you reach {them}?", "Among all this stuff, spot {it} for me."),
        *(
            "Do me a favour and take {it}.",
            "I wonder where {it} {be}.",
            "You should pick out {it}.",
            "Where did I leave {it}?",
        ),
        *("Let's go for {it}.", "Put a mask over {it}, would you?", "Are you able to grip {it}?"),
    ),
    names=_NAMES,
    category=("the {noun}", "the {noun}", "the {noun} over there", "the {noun} on the table", "one {noun}"),
    color=(
        "the {color} object",
        "the thing with the color {color}",
        "the object colored {color}",
        "an object which is {color}",
    ),
    color_category=(
        *(
            "the {color} {noun}",
            "the {color} {noun}",
            "the {color} {noun} over there",
            "the {noun} with the color {color}",
        ),
        *("the {noun} colored {color}", "one {noun} which is {color}", "the {color} one, a {noun}"),
    ),
    superlative=(
        *(
            "the {most} {noun}",
            "the {most} {noun} on the table",
            "the {most} one of all the {nouns}",
            "the very {most} {noun}",
        ),
        *("whichever {noun} is {most}", "the {noun} that is the {most} of all"),
    ),
    superlatives=_SUPERLATIVES,
    spatial=(
        *("the {noun} {where} {the}", "the {noun} which you can see {where} {the}", "the {noun} located {where} {the}"),
        *("the {noun} over there {where} {the}", "whichever {noun} is {where} {the}"),
    ),
    relations=_RELATIONS,
    several=(
        "all the {nouns}",
        "each one of the {nouns}",
        "the {nouns}, every one",
        "all the {nouns} on the table",
        "any and all {nouns}",
    ),
    several_color=(
        "all the {color} objects",
        "each one of the {color} things",
        "any and all {color} objects",
        "all objects which are {color}",
    ),
    negation=(
        *(
            "the {noun} that is not {color}",
            "the {noun} with a color that is not {color}",
            "some {noun}, just not the {color} one",
        ),
        *(
            "whichever {noun} is not {color}",
            "the {noun} that is anything but {color}",
            "the {noun}, but not if it is {color}",
        ),
    ),
    questions={
        "mug": ("What would I pour coffee into, to drink it?", "Which of these do people drink tea from?"),
        "duck": ("Which of these would quack?", "Which toy goes in the bath and floats?"),
        "bear": ("Which of these would you cuddle at night?", "Which stuffed animal is fond of honey?"),
        "bunny": ("Which of these likes to eat carrots?", "Whose ears are long?"),
        "soccer ball": ("Which of these would you kick?", "With what does one score a goal?"),
        "ball": ("Which of these is a sphere, plain and smooth?", "Which thing is smooth and perfectly round?"),
        "brick": ("With what could I build a tower?", "Which of these has studs on top?"),
        "cube": ("Which of these has faces that are all square?", "Which solid looks like a plain box?"),
        "cylinder": ("Which of these has the shape of a can?", "Which solid is like an upright tube?"),
    },
    things={
        "mug": ("the one to drink coffee from", "a thing you drink tea from"),
        "duck": ("the toy bird that floats", "an animal that quacks"),
        "bear": ("the stuffed animal to cuddle", "something to hug at night"),
        "bunny": ("the toy animal with long ears", "something that eats carrots"),
        "soccer ball": ("the one to kick in a match", "the toy to score a goal with"),
        "ball": ("the smooth plain sphere", "the thing that is plain and round"),
        "brick": ("the block to build with", "the studded thing that clicks onto others"),
        "cube": ("the block with six square faces", "the square solid like a box"),
        "cylinder": ("the round upright tube", "the solid that looks like a can"),
    },
)

SPLITS = {"test-wordings": "test"}  # asked in held-out words: the questions of which split
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
    many = kind == "several" and not it.startswith(("every", "each", "all that"))
    it = re.sub(r"\ba (?=[aeiou])", "an ", it)
    text = pick(wordings.frames).format(it=it, be="are" if many else "is", them="them" if kind == "several" else "it")
    return text[0].upper() + text[1:] if wordings is HELD_OUT else text


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
