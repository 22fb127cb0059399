"""The grammar of answers: both writers accept and refuse the same texts, which are then read without a complaint."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import llguidance
import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.answer_schema import (
    TAGS,
    answer_language,
    answer_lark,
    answer_tag,
    continuation,
    expects_tags,
    lark_grammar,
    sample_answer,
    structural_tag,
    warn_of_room,
)
from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import STAR, VISION_REASONER
from segzero_ros.core.regular import Automaton, Chain, Character, Choice, Part, Words
from segzero_ros.profiles import load_profile

SHIPPED = {
    name: load_profile(name)
    for name in ("demo", "seg-zero", "vision-reasoner", "star", "star-8b", "cosmos-reason2", "qwen3-vl", "qwen3.5")
}
OWN = replace(SHIPPED["vision-reasoner"], prompt="Where is {question}?", coordinates="thousandths")
PROFILES = SHIPPED | {
    "Gemini": replace(OWN, order="yx"),
    "percent": replace(OWN, coordinates="percent"),
    "unit": replace(OWN, coordinates="unit"),
    "points alone": replace(OWN, sam_prompts="points"),
    "thought opened by the template": replace(SHIPPED["star"], thinking="opened"),
}
OUT_OF_ORDER = ("the box's corners were in the wrong order", "the box is empty or lies outside the image")
ONE = '{"bbox_2d": [10,100,200,210], "point_2d": [30,110]}'
NAMED = '{"label": "chair", "bbox_2d": [10,100,200,210], "point_2d": [30,110]}'
PRINTED = '[\n\t{"bbox_2d": [\n\t\t10,\n\t\t20, 200, 210], "label": "mug, red"}\n]'
# As checkpoints are published to write; of each profile.
PUBLISHED: tuple[tuple[str, str], ...] = (
    ("seg-zero", '<answer>{"bbox": [10,100,200,210], "points_1": [30,110], "points_2": [35,180]}</answer>'),
    ("vision-reasoner", "<answer>" + VISION_REASONER.split("<answer>")[2].split("</answer>")[0] + "</answer>"),
    ("vision-reasoner", f"<answer>\n[{ONE}]\n</answer>"),
    ("star", "<answer>" + STAR.split("<answer>")[3].split("</answer>")[0] + "</answer>"),
    ("star", "<answer>[]</answer>"),
    ("star-8b", f"\n<answer>[{NAMED}]</answer>"),
    ("demo", '<answer>[{"bbox_2d": [126, 90, 160, 135], "point_2d": [143, 112], "label": "mug"}]</answer>'),
    ("demo", "<answer>[]</answer>"),
    ("cosmos-reason2", '\n\n{"bbox_2d": [100, 200, 300, 400], "label": "mug"}'),
    ("cosmos-reason2", f"\n\n```json\n{PRINTED}\n```"),
    ("qwen3-vl", f"\n<answer>```json\n{PRINTED}\n```</answer>"),
    ("qwen3.5", '<answer>[{"bbox_2d": [1, 2, 30, 40], "point_2d": [3, 4], "label": "mug"}]</answer>'),
    ("Gemini", '[{"point": [110, 30], "box_2d": [100, 10, 210, 200]}]'.replace('"point": [110, 30], ', "")),
    ("percent", '{"bbox_2d": [1.5, 20.25, 100, 99.9]}'),
    ("unit", '[{"bbox_2d": [0.125, 0, 1, 0.9999], "label": "mug"}]'),
    ("points alone", '{"point_2d": [30, 110], "label": "mug"}'),
)


class _Bytes:
    """A vocabulary of single bytes, so that a text has one spelling."""

    eos_token_id, bos_token_id = 256, None
    tokens = (*(bytes([n]) for n in range(256)), b"")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


BYTES = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))
VOCABULARY = xgrammar.TokenizerInfo([*(bytes([n]) for n in range(256)), b"</s>"], stop_token_ids=[256])


def by_llguidance(grammar: str) -> Callable[[str], bool]:
    assert llguidance.LLMatcher.validate_grammar(grammar, BYTES) == ""

    def accepts(text: str) -> bool:
        matcher = llguidance.LLMatcher(BYTES, grammar, log_level=0)
        ids = list(text.encode())
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    return accepts


def by_xgrammar(tag: dict[str, object]) -> Callable[[str], bool]:
    compiled = xgrammar.GrammarCompiler(VOCABULARY).compile_structural_tag(tag)

    def accepts(text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=False)
        return bool((not text or matcher.accept_string(text)) and matcher.accept_token(256))

    return accepts


@cache
def engines(name: str) -> tuple[Callable[[str], bool], Callable[[str], bool]]:
    profile = PROFILES[name]
    opened = profile.thinking == "opened"
    return by_llguidance(lark_grammar(profile, opened)), by_xgrammar(structural_tag(profile, opened))


@cache
def automaton(name: str) -> Automaton:
    return Automaton(answer_language(PROFILES[name]))


def accepted(name: str, text: str) -> bool:
    """By both, or by neither."""
    lark, tag = engines(name)
    found = lark(text), tag(text)
    assert found[0] == found[1], (name, text, found)
    return found[0]


def word(part: Part, dice: random.Random) -> str:
    """A text of a language."""
    if isinstance(part, Words):
        return part.text
    if isinstance(part, Character):
        return dice.choice([c for c in LETTERS if re.fullmatch(part.pattern, c)])
    if isinstance(part, Chain):
        return "".join(word(p, dice) for p in part.parts)
    if isinstance(part, Choice):
        return word(dice.choice(part.options), dice)
    most = part.least + 3 if part.most is None else min(part.most, part.least + dice.choice([0, 0, 1, 2]))
    return "".join(word(part.part, dice) for _ in range(dice.randint(part.least, most)))


LETTERS = " \n\t0123456789ab,:'/é猫"
PIECES = ("a", "<", "/think>", "\n", "é", "</", "{", '"bbox_2d": [1, 2]')
CHANGES = ("", " ", "0", "9", "]", "}", ",", '"', "\n", "-", *PIECES, *TAGS)


def turn(profile: Profile, dice: random.Random) -> str:
    """A thought and an answer, mostly right, with at most a few characters or words changed."""
    thought = "".join(dice.choices(PIECES, k=dice.randint(0, 6)))
    if dice.random() < 0.1:
        thought += dice.choice(TAGS) + dice.choice(PIECES)
    begin = "" if profile.thinking == "opened" else "<think>"
    text = dice.choice([f"{begin}{thought}</think>"] * 3 + [""]) + word(answer_language(profile), dice)
    for _ in range(dice.randint(0, 2)):
        i = dice.randint(0, len(text))
        j = dice.choice([i, i + 1, dice.randint(i, len(text))])
        text = text[:i] + dice.choice(CHANGES) + text[j:]
    return text


@pytest.mark.parametrize("name", PROFILES)
def test_both_writers_agree_and_what_they_accept_is_read_without_a_complaint(name: str) -> None:
    profile = PROFILES[name]
    taken = 0

    @settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        nonlocal taken
        text = turn(profile, random.Random(seed))
        if not accepted(name, text):
            return
        taken += 1
        answer = parse_answer(text, profile)
        reasons = [r for r in answer.reasons if not r.endswith(OUT_OF_ORDER)]
        if answer.reasons == tuple(reasons):
            assert answer.status in (Status.OK, Status.NO_OBJECT) and not reasons, text
        assert reasons in ([], ["the text holds no answer"]), text
        assert automaton(name).accepts(text.partition("</think>")[2] if "</think>" in text else text)

    check()
    assert taken > 30, "the texts were no test of what is accepted"


@pytest.mark.parametrize(("name", "answer"), PUBLISHED)
def test_an_answer_as_it_is_published_is_accepted_with_and_without_a_thought(name: str, answer: str) -> None:
    profile = PROFILES[name]
    for thought in ("", "<think>a < b, [1, 2] and {so}.\n\n</think>"):
        assert accepted(name, thought + answer)
        read = parse_answer(thought + answer, profile)
        assert (read.status, read.reasons) == (Status.OK if "[]" not in answer else Status.NO_OBJECT, ())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("demo", '<answer>[{"bbox_2d": [0, 0, 225, 10]}]</answer>'),  # beyond the square
        ("demo", '<answer>[{"bbox_2d": [0, 0, -1, 10]}]</answer>'),
        ("demo", '<answer>[{"bbox_2d": [0, 0, 01, 10]}]</answer>'),
        ("demo", '<answer>[{"point_2d": [3, 4]}]</answer>'),  # no box
        ("demo", f'<answer>[{{"bbox_2d": [0, 0, 9, 10], "label": "{"a" * 81}"}}]</answer>'),
        ("demo", '<answer>[{"bbox_2d": [0, 0, 9, 10], "label": "</answer>"}]</answer>'),
        ("demo", "<think>one</think><think>two</think><answer>[]</answer>"),
        ("demo", "<think>a <answer> in a thought</think><answer>[]</answer>"),
        ("demo", "<answer>[]</answer>."),
        ("demo", "Certainly! <answer>[]</answer>"),
        ("demo", ""),
        ("star-8b", f"<answer>[{ONE.replace('200', '1000')}]</answer>"),
        ("seg-zero", "<answer>[]</answer>"),  # it was never taught to say that
        ("unit", '{"bbox_2d": [0.1, 0.2, 1.1, 0.4]}'),
        ("thought opened by the template", "<answer>[]</answer>"),
    ],
)
def test_what_the_profile_does_not_write_is_refused(name: str, text: str) -> None:
    assert not accepted(name, text)


@pytest.mark.parametrize("reader", ["glm", "rex-omni", "molmo"])
def test_a_form_without_a_grammar_is_refused_in_words(reader: str) -> None:
    profile = replace(OWN, reader=reader)  # type: ignore[arg-type]
    for write in (lark_grammar, structural_tag):
        with pytest.raises(SegzeroError, match=f"reader {reader} reads have no grammar; leave constrain off"):
            write(profile, False)


@pytest.mark.parametrize("name", PROFILES)
def test_a_thought_that_is_closed_for_the_model_leaves_the_answer_s_part_alone(name: str) -> None:
    profile = PROFILES[name]
    thought = "a mug, I thi" if profile.thinking == "opened" else "<think>a mug, I thi"
    turn = continuation(thought, profile)
    assert turn == f"{thought}</think>" + ("<answer>" if expects_tags(profile) else "\n\n")
    sample = sample_answer(profile)
    assert by_llguidance(answer_lark(profile))(sample) and by_xgrammar(answer_tag(profile))(sample)
    assert accepted(name, turn + sample) or "[]" in sample


@pytest.mark.parametrize(
    ("name", "text", "more"),
    [
        ("demo", "", "<think></think><answer>"),
        ("demo", "<thi", "nk></think><answer>"),
        ("demo", "<think>it is</th", "ink><answer>"),
        ("demo", "<think>3 <", "/think><answer>"),
        ("demo", "<think>it is</think>", ""),
        ("qwen3-vl", '[{"bbox_2d": [96, 94, 129', ""),
        ("qwen3-vl", "```json\n", ""),
        ("qwen3-vl", 'Here it is: [{"bbox', ""),
        ("qwen3-vl", "The mug [the red one] is", "<answer>"),
        ("demo", "<think>it is</think><answer>[{", ""),
        ("demo", "<answer>[", ""),
        ("demo", "It is on the left", "<answer>"),
        ("demo", "\n", "<answer>"),
        ("demo", "\n<ans", "wer>"),
        ("qwen3.5", "", "<answer>"),  # the prompt has closed a thought already
        ("cosmos-reason2", "<think>\nit is", "</think>\n\n"),
        ("cosmos-reason2", '{"bbox_2d": [1', ""),
        ("thought opened by the template", "", "</think><answer>"),
        ("thought opened by the template", "it is", "</think><answer>"),
        ("thought opened by the template", "it is</think>", ""),
    ],
)
def test_a_turn_goes_on_where_it_was(name: str, text: str, more: str) -> None:
    assert continuation(text, PROFILES[name]) == text + more


@given(st.text(), st.sampled_from(sorted(PROFILES)), st.sampled_from(["", *TAGS]))
@settings(deadline=None)
def test_a_turn_only_grows_and_is_then_closed(text: str, name: str, tag: str) -> None:
    once = continuation(tag + text, PROFILES[name])
    assert once.startswith(tag + text)
    assert continuation(once, PROFILES[name]) == once or not expects_tags(PROFILES[name])


@pytest.mark.parametrize(("name", "answer"), PUBLISHED)
def test_the_shortest_end_of_an_answer_invents_no_number(name: str, answer: str) -> None:
    own = automaton(name)
    for cut in range(len(answer) + 1):
        rest = own.rest(answer[:cut])
        if rest is None:
            continue
        assert own.accepts(answer[:cut] + rest)
        assert not any(c.isdigit() for c in rest)
        if '"b' in answer[:cut]:
            boxes = [list(c.box or ()) for c in parse_answer(answer, PROFILES[name]).candidates]
            early = [list(c.box or ()) for c in parse_answer(answer[:cut] + rest, PROFILES[name]).candidates]
            assert early == boxes[: len(early)] and early, answer[:cut] + rest
    assert own.rest(answer) == "" and own.rest(answer + "x") is None


def test_a_number_that_may_have_more_digits_is_not_ended() -> None:
    own = automaton("qwen3-vl")
    assert own.rest('<answer>[{"bbox_2d": [1, 2, 3, 4') is None
    assert own.rest('<answer>[{"bbox_2d": [1, 2, 3, 4]') == "}]</answer>"
    assert own.rest('<answer>[{"bbox_2d": [1, 2, 3, 4], "label": "a m') == '"}]</answer>'
    assert own.rest('<answer>[{"bbox_2d": [1, 2, 3, 4]}, ') is None


def test_a_limit_that_leaves_a_thought_nothing_is_told_of() -> None:
    assert warn_of_room(60, 120) == ""
    said = warn_of_room(60, 100)
    assert "40" in said and "120 or more" in said
    assert "a thought has 0" in warn_of_room(60, 40)
