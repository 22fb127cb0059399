"""What an answer of a profile may look like, written once, for those who hold a model to it.

One language, `answer_language`. `answer.py` reads every word of it without a complaint, but for boxes whose corners are
in the wrong order or that are empty: no grammar of a sensible size can say that. Two writers: `structural_tag` for
servers (xgrammar), `lark_grammar` for llguidance in process. Before the answer the thought is free, and may be left
out. `continuation` ends a thought.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from segzero_ros.core.answer import MAX_LABEL
from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.profile import Profile
from segzero_ros.core.prompt import TEMPLATES
from segzero_ros.core.regular import Chain, Character, Choice, Part, Repeat, chain, choice, expression, optional

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_SPACE = Repeat(Character(r"[ \t\r\n]"), 0, 16)  # of pretty-printed JSON, too
_BREAK = Repeat(Character(r"[ \t\r\n]"), 0, 2)
_DIGIT = Character("[0-9]")
# Words, as checkpoints write them: what would need a backslash, or looks like an answer's own signs, is left out.
_LABEL = chain('"', Repeat(Character(r'[^"\\<>{}\[\]\x00-\x1f\x7f]'), 0, MAX_LABEL), '"')
# How an answer begins whose tags a stock model leaves out: with the text, or behind words.
_UNTAGGED = re.compile(r'\s*(?:[\[{]|```)|(?s:.*?)(?:\[\s*\{|\{\s*"|```json)')


def expects_tags(profile: Profile) -> bool:
    """Whether an answer stands between <answer> and </answer>."""
    return "<answer>" in TEMPLATES.get(profile.prompt, profile.prompt) or profile.prompt in TEMPLATES


def check_grammar(profile: Profile) -> None:
    """Raises SegzeroError(NOT_READY) for a form of which there is no grammar."""
    if profile.reader != "json":
        raise SegzeroError(
            Status.NOT_READY,
            f"profile {profile.name}: answers that reader {profile.reader} reads have no grammar; leave constrain off",
        )


def answer_language(profile: Profile) -> Part:
    """All that may stand behind the thought, tags included. Raises SegzeroError as `check_grammar`."""
    return chain(_BREAK, "<answer>" if expects_tags(profile) else "", _answer(profile))


def _answer(profile: Profile) -> Part:
    """What is left of it once `continuation` has begun it."""
    check_grammar(profile)
    if profile.schema == "single":
        points = [_entry(f"points_{n}", _numbers(profile, 2)) for n in (1, 2)]
        answer: Part = _object(_entry("bbox", _numbers(profile, 4)), *points)
    else:
        item = choice(*_objects(profile))
        answer = chain("[", _SPACE, optional(item, Repeat(chain(_comma(), item), 0, None), _SPACE), "]")
        if profile.prompt not in TEMPLATES:
            answer = choice(answer, item)
    if profile.prompt == "segzero" or profile.prompt not in TEMPLATES:  # what stock models write by themselves
        answer = choice(answer, chain("```json\n", answer, "\n```"))
    return chain(_BREAK, answer, _BREAK, "</answer>") if expects_tags(profile) else chain(_BREAK, answer)


def _objects(profile: Profile) -> list[Part]:
    """An object of a list: a box and a point, the label before, behind or left out."""
    own = profile.prompt not in TEMPLATES
    boxes, points = ["bbox_2d", *["box_2d"] * own], ["point_2d", *["point"] * own]
    label = _entry("label", _LABEL)
    found: list[Part] = []
    box = choice(*(_entry(name, _numbers(profile, 4)) for name in boxes))
    point = choice(*(_entry(name, _numbers(profile, 2)) for name in points))
    both = chain(box, _comma(), point)
    # Without a box, or without a point where the published parser wants one, there would be a complaint.
    strict = profile.prompt in TEMPLATES and profile.prompt not in ("segzero", "plain")
    bodies: list[Part] = [both] if strict else [chain(box, optional(_comma(), point))]
    if profile.sam_prompts == "points":
        bodies.append(point)
    for body in bodies:
        found += [_object(label, body), _object(chain(body, optional(_comma(), label)))]
    return found


def _object(*entries: Part) -> Part:
    parts: list[Part | str] = ["{", _SPACE, entries[0]]
    for entry in entries[1:]:
        parts += [_comma(), entry]
    return chain(*parts, _SPACE, "}")


def _comma() -> Chain:
    return chain(_SPACE, ",", _SPACE)


def _entry(name: str, value: Part) -> Chain:
    return chain(f'"{name}"', _SPACE, ":", _SPACE, value)


def _numbers(profile: Profile, count: int) -> Chain:
    number = _number(profile)
    return chain("[", _SPACE, number, *[part for _ in range(count - 1) for part in (_comma(), number)], _SPACE, "]")


def _number(profile: Profile) -> Part:
    """From 0 to the profile's extent; with decimals where the unit needs them."""
    whole = _up_to(profile.extent)
    places = {"percent": 2, "unit": 4}.get(profile.coordinates, 0)
    if not places:
        return whole
    below = _up_to(profile.extent - 1)
    return choice(
        chain(below, optional(".", Repeat(_DIGIT, 1, places))),
        chain(str(profile.extent), optional(".", Repeat(Character("[0]"), 1, places))),
    )


def _up_to(highest: int) -> Choice:
    """Whole numbers from 0, without leading zeros."""
    digits = str(highest)
    options: list[Part | str] = ["0"]
    for length in range(1, len(digits)):
        options.append(chain(Character("[1-9]"), *[_DIGIT] * (length - 1)))
    for at, digit in enumerate(digits):  # equal up to there, and smaller at it
        lowest = 0 if at else 1
        if int(digit) > lowest:
            below = Character(f"[{lowest}-{int(digit) - 1}]")
            options.append(chain(*([digits[:at]] if at else []), below, *[_DIGIT] * (len(digits) - at - 1)))
    return choice(*options, *([digits] if highest else []))


def structural_tag(profile: Profile, thinking_open: bool) -> dict[str, Any]:
    """A whole turn for xgrammar, as vLLM and SGLang take it in `structured_outputs` and `response_format`.

    thinking_open: the chat template has opened <think> already, so that the turn begins inside the thought. Raises
    SegzeroError as `check_grammar`.
    """
    thought = {
        "type": "tag",
        "begin": "" if thinking_open else "<think>",
        "content": {"type": "any_text", "excludes": [t for t in TAGS if t != "</think>"]},
        "end": "</think>",
    }
    first = thought if thinking_open else {"type": "optional", "content": thought}
    elements = [first, _regex(answer_language(profile))]
    return {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}


def answer_tag(profile: Profile) -> dict[str, Any]:
    """The answer's part alone, for a turn that goes on behind `continuation`."""
    return {"type": "structural_tag", "format": _regex(_answer(profile))}


def _regex(language: Part) -> dict[str, Any]:
    return {"type": "regex", "pattern": expression(language)}


def lark_grammar(profile: Profile, thinking_open: bool) -> str:
    """As `structural_tag`, for llguidance."""
    thought = "THOUGHT" if thinking_open else "THOUGHT?"
    begin = "" if thinking_open else "<think>"
    return f"start: {thought} ANSWER\n{_lark_thought(begin)}\n{_lark_answer(answer_language(profile))}"


def answer_lark(profile: Profile) -> str:
    """As `answer_tag`, for llguidance."""
    return f"start: ANSWER\n{_lark_answer(_answer(profile))}"


def _lark_answer(language: Part) -> str:
    return f"ANSWER: /{expression(language)}/"


def _lark_thought(begin: str) -> str:
    """Ends with the first </think>, and holds no other tag. One terminal: llguidance ends none before it has to."""
    text = "(?s:.*)"
    within = "(<think>|<answer>|<\\/answer>)"
    return f"THOUGHT: /{begin}{text}<\\/think>/ & ~/{begin}{text}({within}{text}|<\\/think>(?s:.+))/"


def begin_of_answer(profile: Profile) -> str:
    """What stands between the thought and the answer, as the published checkpoints write it."""
    return "<answer>" if expects_tags(profile) else "\n\n"


def behind_thought(text: str, profile: Profile) -> str:
    """What stands behind the thought of a turn; nothing where it goes on."""
    _, closed, behind = text.partition("</think>")
    if closed:
        return behind
    return "" if profile.thinking == "opened" or text.startswith("<think>") else text


def continuation(text_so_far: str, profile: Profile) -> str:
    """The turn with its thought closed and its answer begun: what was written, and more.

    As it was where the thought has ended already, and where an answer stands without its tags. What is left to write
    is the language of `answer_tag` and `answer_lark`.
    """
    if "<answer>" in text_so_far or "</think>" in text_so_far:
        return text_so_far
    text = text_so_far
    opened = profile.thinking == "opened" or "<think>" in text
    if not opened and profile.thinking == "written" and "<think>".startswith(text):  # nothing else yet
        text, opened = "<think>", True
    if opened:
        return text + _missing(text, "</think>") + begin_of_answer(profile)
    if _UNTAGGED.match(text):  # a tag would stand in the middle of it
        return text
    return text + _missing(text, "<answer>") if expects_tags(profile) else text


def _missing(text: str, tag: str) -> str:
    """What the text lacks to end in the tag."""
    return next(tag[n:] for n in range(len(tag) - 1, -1, -1) if text.endswith(tag[:n]))


def warn_of_room(room: int, limit: int) -> str:
    """A sentence where so little is left beside a constrained answer that thoughts are cut short; "" elsewhere.

    room: tokens that the answer is left. limit: tokens of thought and answer, max_new_tokens.
    """
    if 2 * room <= limit:
        return ""
    left = max(0, limit - room)
    return (
        f"constrain keeps {room} tokens for the answer, so that of max_new_tokens {limit} a thought has {left}: "
        f"it wants {2 * room} or more"
    )


def sample_answer(profile: Profile) -> str:
    """An answer of one object, as long as most are; from where `continuation` ends."""
    number = _longest_number(profile)
    point = f"[{number}, {number}]"
    box = f"[{number}, {number}, {number}, {number}]"
    if profile.schema == "single":
        answer = f'{{"bbox": {box}, "points_1": {point}, "points_2": {point}}}'
    else:
        answer = f'[{{"bbox_2d": {box}{sample_point(profile)}, "label": "a short name"}}]'
    return answer + "</answer>" * expects_tags(profile)


def room_of_answer(profile: Profile, count: Callable[[str], int]) -> int:
    """Tokens that an answer of one object takes, with what closes the thought before it, and a few for blanks.

    count: a text's tokens.
    """
    return count("</think>" + begin_of_answer(profile) + sample_answer(profile)) + 10


def sample_point(profile: Profile) -> str:
    """What a point adds to an object of a list that has a box."""
    number = _longest_number(profile)
    return f', "point_2d": [{number}, {number}]'


def _longest_number(profile: Profile) -> str:
    return {"percent": "100.00", "unit": "0.1234"}.get(profile.coordinates, str(profile.extent))
