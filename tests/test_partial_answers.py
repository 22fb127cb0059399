"""Boxes while the model still writes: each object once it is complete, and never one that the whole answer lacks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzero_ros.core import partial
from segzero_ros.core.answer import MAX_CHARS, MAX_OBJECTS, parse_answer
from segzero_ros.core.contract import Boxes, Candidate, Event, Generation, LoadedModel, Reasoning
from segzero_ros.core.partial import PartialAnswer
from segzero_ros.core.profile import Profile
from segzero_ros.core.steps import Deadline, Progress, ReasoningStep

PLAIN = Profile("test", "", "{question}", "r", "s", coordinates="thousandths")
TAGGED = replace(PLAIN, prompt="vision-reasoner")
OPENED = replace(TAGGED, thinking="opened")
GLM = replace(PLAIN, reader="glm")
REX_OMNI = replace(PLAIN, reader="rex-omni", coordinates="bins")
MOLMO = replace(PLAIN, reader="molmo", coordinates="percent")
MOLMO_2 = replace(PLAIN, reader="molmo")
SPACE = replace(PLAIN, order="yx")
PROFILES = [PLAIN, TAGGED, OPENED, GLM, REX_OMNI, MOLMO, MOLMO_2, SPACE]


def told(profile: Profile, text: str, cuts: list[int] | None = None) -> list[tuple[Candidate, ...]]:
    """What is told of a text that comes in pieces; by default character by character."""
    reading = PartialAnswer(profile)
    ends = range(len(text) + 1) if cuts is None else [*sorted(cuts), len(text)]
    return [found for end in ends if (found := reading.read(text[:end])) is not None]


def assert_prefixes(found: list[tuple[Candidate, ...]], whole: tuple[Candidate, ...]) -> None:
    for before, after in zip([(), *found], found, strict=False):
        assert len(before) < len(after) and after == whole[: len(after)]


numbers = st.integers(1, 900)
labels = st.text(st.characters(exclude_characters='{}"\\<>[](),', exclude_categories=["Cs"]), max_size=12)
objects = st.lists(st.tuples(numbers, numbers, st.integers(1, 99), st.integers(1, 99), labels), max_size=6)
thoughts = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=30)


def as_list(things: Any) -> str:
    made = [{"bbox_2d": [x, y, x + w, y + h], "point_2d": [x, y], "label": label} for x, y, w, h, label in things]
    return json.dumps(made)


def as_python(things: Any) -> str:
    made = [f"{{'bbox_2d': [{x}, {y}, {x + w}, {y + h}], 'point_2d': [{x}, {y}],}}" for x, y, w, h, _ in things]
    return f"[{', '.join(made)}]"


def as_single(things: Any) -> str:
    return "".join(
        json.dumps({"bbox": [x, y, x + w, y + h], "points_1": [x, y], "points_2": [x + 1, y]})
        for x, y, w, h, _ in things[:1]
    )


def as_nested(things: Any) -> str:
    return f'{{"count": {len(things)}, "objects": {as_list(things)}}}'


def in_thought(answer: str) -> str:
    return f"<answer>{answer}</answer>"


def as_glm(things: Any) -> str:
    arrays = [f"[{x}, {y}, {x + w}, {y + h}]" for x, y, w, h, _ in things]
    return f"They are at <|begin_of_box|>[{', '.join(arrays)}]<|end_of_box|>."


def as_glm_json(things: Any) -> str:
    return f"<|begin_of_box|>{as_list(things)}<|end_of_box|>"


def as_rex_omni(things: Any) -> str:
    def block(x: int, y: int, w: int, h: int, label: str) -> str:
        box = f"<{x}><{y}><{x + w}><{y + h}>"
        return f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>{box},<{x}><{y}>,{box}<|box_end|>, "

    return "".join(block(*thing) for thing in things) or "<|box_start|>None<|box_end|>"


def as_molmo(things: Any) -> str:
    return "".join(f' <point x="{x / 10}" y="{y / 10}" alt="it">{label}</point>' for x, y, _, _, label in things)


def as_molmo_2(things: Any) -> str:
    coords = " ".join(f"{n} {x} {y}" for n, (x, y, *_) in enumerate(things, 1))
    return f'<points coords="1 {coords}">mugs</points>' if things else "There are none."


FORMS: dict[str, tuple[Profile, Any]] = {
    "a list in tags": (TAGGED, lambda things: in_thought(as_list(things))),
    "a list behind a thought that the prompt opened": (OPENED, lambda things: in_thought(as_list(things))),
    "a list without tags": (PLAIN, as_list),
    "a list, y first": (SPACE, as_list),
    "Python's quotes": (TAGGED, lambda things: in_thought(as_python(things))),
    "Seg-Zero's one object": (TAGGED, lambda things: in_thought(as_single(things))),
    "a list in an object": (TAGGED, lambda things: in_thought(as_nested(things))),
    "GLM's arrays": (GLM, as_glm),
    "GLM's JSON": (GLM, as_glm_json),
    "Rex-Omni": (REX_OMNI, as_rex_omni),
    "Molmo": (MOLMO, as_molmo),
    "Molmo 2": (MOLMO_2, as_molmo_2),
}


@pytest.mark.parametrize("form", FORMS)
@given(things=objects, thought=thoughts, data=st.data())
def test_of_a_well_formed_answer_every_object_is_told_in_its_order(
    form: str, things: Any, thought: str, data: st.DataObject
) -> None:
    profile, write = FORMS[form]
    begins = "" if profile.thinking == "opened" else "<think>"
    text = f"{begins}{thought}</think>{write(things)}"
    whole = parse_answer(text, profile).candidates
    cuts = data.draw(st.none() | st.lists(st.integers(0, len(text)), max_size=8))
    found = told(profile, text, cuts)
    assert_prefixes(found, whole)
    assert (found[-1] if found else ()) == whole


@pytest.mark.parametrize("form", FORMS)
def test_each_object_is_told_before_the_next_one_begins(form: str) -> None:
    profile, write = FORMS[form]
    things = [(100 * n, 20, 30, 40, "a mug") for n in range(1, 4)]
    counts = [len(found) for found in told(profile, "</think>" * (profile is OPENED) + write(things))]
    wanted = {"Molmo 2": [3], "Seg-Zero's one object": [1], "Rex-Omni": [1, 3, 4, 6, 7, 9]}
    assert counts == wanted.get(form, [1, 2, 3])


def test_an_object_is_told_at_its_closing_brace() -> None:
    text = '<answer>[{"bbox_2d": [1, 2, 30, 40]}'
    assert told(TAGGED, text[:-1]) == []
    assert told(TAGGED, text) == [(Candidate((1, 2, 30, 40), ()),)]


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        (TAGGED, 'first {"bbox_2d": [1, 2, 3, 4]} then'),
        (PLAIN, '<think>{"bbox_2d": [1, 2, 3, 4]}'),
        (PLAIN, '\n<think>{"bbox_2d": [1, 2, 3, 4]}'),
        (OPENED, '{"bbox_2d": [1, 2, 3, 4]}'),
        (GLM, "at [1, 2, 3, 4]"),
        (REX_OMNI, "<|box_start|><1><2><3><4>"),
        (REX_OMNI, "<|box_start|><1><2>,<1><2><30><40>,"),
        (MOLMO, '<point x="1" y="2">mug'),
        (TAGGED, '<answer>[{"bbox_2d": [1, 2, 30, 40], "label": "a {small} mug"}]</answer>'),
        (TAGGED, '<answer>[{"bbox_2d": [1, 2, 30, 40], "label": "a {} mug"}, {"bbox_2d": [5, 6, 7, 8]}]</answer>'),
        (TAGGED, '<answer>[{"bbox_2d": [NaN, 2, 3, 4]}]</answer>'),
        (REX_OMNI, "<|box_start|><1><2><|box_start|>"),
    ],
)
def test_nothing_is_told_of_a_thought_or_of_what_may_become_another_thing(profile: Profile, text: str) -> None:
    assert told(profile, text) == []


def test_an_answer_that_is_begun_anew_takes_the_place_of_the_first() -> None:
    first, second = '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8]}]', '[{"bbox_2d": [9, 9, 20, 20]}]'
    text = f"<answer>{first}</answer> no: <answer>{second}</answer>"
    found = told(TAGGED, text)
    assert [len(f) for f in found] == [1, 2, 1] and found[-1] == parse_answer(text, TAGGED).candidates


SECTIONS = ("<think>", "</think>", "<answer>", "</answer>")
hostile_pieces = st.sampled_from(
    [
        *(*SECTIONS, "<|begin_of_box|>", "<|end_of_box|>", "<|box_start|>"),
        *("<|box_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<point ", "<points ", "</point>", ">", "<"),
        *('x="1"', 'y="20"', 'coords="1 1 20 30"', '{"bbox_2d": [1, 2, 30, 40]}', "{'point_2d': [1, 2]}", "None"),
        *("{", "}", "[", "]", '"', "'", "\\", "\n", ",", ":", "[1,2,30,40]", "<1>", "<2>", "<30><40>", "label"),
        *('"bbox": [1, 2, 30', "1e999", "NaN", "\0", "\ud800", "é"),
    ]
) | st.text(max_size=5)
hostile = st.lists(hostile_pieces, max_size=30).map("".join)


@given(hostile, st.sampled_from(PROFILES), st.lists(st.integers(0, 200), max_size=5))
def test_no_text_raises_however_it_is_cut(text: str, profile: Profile, cuts: list[int]) -> None:
    found = told(profile, text, [min(c, len(text)) for c in cuts])
    assert (found[-1:] or [()])[0] == (told(profile, text)[-1:] or [()])[0]


BLOCK = "<|box_start|><1><2><30><40>"
GOOD = {
    TAGGED: [as_list([(1, 2, 3, 4, "mug")]), as_python([(1, 2, 3, 4, "mug")]), '{"point_2d": [1, 2], "label": "'],
    REX_OMNI: [f"{BLOCK}<|box_end|>", BLOCK, ",<1><2>", ",<7><8><30><40>", "<|object_ref_start|>mug"],
    MOLMO: [as_molmo([(1, 2, 3, 4, "mug")]), '<point x="1" y="2" alt="mug"/>', '<points x1="1" y1="2" x2="3" y2='],
    MOLMO_2: [as_molmo_2([(1, 2, 3, 4, "mug")] * 2), '<points coords="1 1 20 30"/>'],
}


@pytest.mark.parametrize("profile", GOOD, ids=["json", "rex-omni", "molmo", "molmo-2"])
@given(data=st.data())
def test_of_the_worst_answer_too_nothing_is_told_that_it_lacks_in_the_end(
    profile: Profile, data: st.DataObject
) -> None:
    pieces = st.sampled_from(GOOD[profile]) | hostile_pieces
    body = "".join(p for p in data.draw(st.lists(pieces, max_size=12)) if p not in SECTIONS)
    text = f"<think>so</think><answer>{body}"
    assert_prefixes(told(profile, text), parse_answer(text, profile).candidates)


@pytest.mark.parametrize("piece", ['{"a": 1}', "{", "{}}}}}", '{"', "}", '\\"', "{'point_2d': [1, 2]}"])
def test_no_part_of_a_text_is_loaded_twice(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = partial.load_object

    def counted(text: str) -> Any:
        loaded.append(text)
        return load(text)

    monkeypatch.setattr(partial, "load_object", counted)
    text = "<answer>[" + piece * 2000
    told(TAGGED, text, list(range(0, len(text), 5)))
    assert sum(map(len, loaded)) <= len(text)


def test_of_endless_text_as_much_is_told_as_the_answer_takes() -> None:
    one = '{"bbox_2d": [1, 2, 3, 4]}'
    assert len(told(PLAIN, one * (MAX_OBJECTS + 9))[-1]) == MAX_OBJECTS
    far = " " * MAX_CHARS + one
    assert told(PLAIN, far, [5]) == [] and parse_answer(far, PLAIN).candidates == ()


class Writing:
    """A reasoner that writes a given text in pieces."""

    info = LoadedModel("writing", "", 0, "none", "none", 0)

    def __init__(self, text: str) -> None:
        self.text = text

    def generate(self, squares: Any, prompts: Any, *, on_text: Any = None, **_: Any) -> list[Generation]:
        for at in range(0, len(self.text), 5):
            on_text(0, self.text[at : at + 5])
        return [Generation(self.text, 1, 1, False, False, 0.0)]


IMAGE = np.zeros((500, 2000, 3), np.uint8)
TEXT = in_thought('[{"bbox_2d": [0, 0, 100, 200]}, {"bbox_2d": [500, 500, 1000, 1000], "label": "mug"}]')


def events(text: str, script: str = "") -> list[Event]:
    step = ReasoningStep(Writing(text), TAGGED)
    step.script = script
    seen: list[Event] = []
    step.run(IMAGE, "it", stop=Deadline(None, None), progress=Progress(), on_event=seen.append)
    return seen


def test_boxes_come_between_the_words_in_source_pixels_and_then_all_at_once() -> None:
    seen = events(TEXT)
    first, second = Candidate((0, 0, 200, 100), ()), Candidate((1000, 250, 2000, 500), (), "mug")
    boxes = [e for e in seen if isinstance(e, Boxes)]
    assert boxes == [Boxes((first,), whole=False), Boxes((first, second), whole=False), Boxes((first, second))]
    last_words = max(n for n, e in enumerate(seen) if isinstance(e, Reasoning))
    assert seen.index(boxes[0]) < last_words < seen.index(boxes[2])


def test_the_published_readers_see_whole_answers_alone() -> None:
    assert all(e.whole for e in events(TEXT, script="vision-reasoner") if isinstance(e, Boxes))


def test_an_answer_without_objects_has_no_boxes() -> None:
    assert not [e for e in events(in_thought("[]")) if isinstance(e, Boxes)]
