"""A regular language as a tree of parts: its regular expression, and what a text that was begun still lacks.

The expression is of the plain kind that Python, Rust (llguidance) and xgrammar read alike. `Automaton` reads a text
character by character in time linear in its length, and knows the shortest end that invents no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """This text and no other."""

    text: str


@dataclass(frozen=True)
class Character:
    """One character of a set, as in an expression's brackets."""

    pattern: str


@dataclass(frozen=True)
class Chain:
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Choice:
    options: tuple[Part, ...]


@dataclass(frozen=True)
class Repeat:
    """most: None is without end."""

    part: Part
    least: int
    most: int | None


Part = Words | Character | Chain | Choice | Repeat


def chain(*parts: Part | str) -> Chain:
    return Chain(tuple(Words(p) if isinstance(p, str) else p for p in parts))


def choice(*options: Part | str) -> Choice:
    return Choice(tuple(Words(o) if isinstance(o, str) else o for o in options))


def optional(*parts: Part | str) -> Repeat:
    return Repeat(chain(*parts), 0, 1)


_ESCAPED = {c: f"\\{c}" for c in r"\.[]{}()*+?|^$/"} | {"\n": r"\n"}


def expression(part: Part) -> str:
    """As a regular expression, without anchors, look-around and named classes."""
    if isinstance(part, Words):
        return "".join(_ESCAPED.get(c, c) for c in part.text)
    if isinstance(part, Character):
        return part.pattern
    if isinstance(part, Chain):
        return "".join(f"({expression(p)})" if isinstance(p, Choice) else expression(p) for p in part.parts)
    if isinstance(part, Choice):
        return "|".join(expression(o) for o in part.options)
    inner = expression(part.part)
    inner = inner if isinstance(part.part, Character) else f"({inner})"
    counts = {(0, 1): "?", (0, None): "*"}
    return inner + counts.get((part.least, part.most), f"{{{part.least},{'' if part.most is None else part.most}}}")


@dataclass
class _State:
    """character: None leads on without one. counts: it is of a number."""

    character: Words | Character | None
    holds: re.Pattern[str] | None
    next: list[int]
    counts: bool = False


class Automaton:
    """Of one language, for one thread. States are numbers; a text that no word of the language begins with has none."""

    def __init__(self, language: Part) -> None:
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._states = [_State(None, None, [])]  # the first one is the end
        self._first = self._build(language, 0)
        self._rest = self._shortest()
        self._last: tuple[str, frozenset[int]] = "", self._led([self._first])

    def _add(self, character: Words | Character | None, following: Iterable[int]) -> int:
        holds, counts = None, isinstance(character, Words) and character.text in ".0123456789"
        if isinstance(character, Character):
            holds = self._patterns.setdefault(character.pattern, re.compile(character.pattern))
            counts = re.fullmatch(r"\[[0-9-]+\]", character.pattern) is not None
        self._states.append(_State(character, holds, list(following), counts))
        return len(self._states) - 1

    def _build(self, part: Part, after: int) -> int:
        """The state in which the part begins, if what follows it begins in `after`."""
        if isinstance(part, Words):
            for c in reversed(part.text):
                after = self._add(Words(c), [after])
            return after
        if isinstance(part, Character):
            return self._add(part, [after])
        if isinstance(part, Chain):
            for p in reversed(part.parts):
                after = self._build(p, after)
            return after
        if isinstance(part, Choice):
            return self._add(None, [self._build(o, after) for o in part.options])
        if part.most is None:
            begin = self._add(None, [after])
            self._states[begin].next.append(self._build(part.part, begin))
        else:
            begin = after
            for _ in range(part.most - part.least):
                begin = self._add(None, [after, self._build(part.part, begin)])
        for _ in range(part.least):
            begin = self._build(part.part, begin)
        return begin

    def _shortest(self) -> list[str | None]:
        """Of each state the shortest end; None where every end has a number."""
        rest: list[str | None] = [None] * len(self._states)
        rest[0] = ""
        changed = True
        while changed:
            changed = False
            for number, state in enumerate(self._states):
                said = state.character.text if isinstance(state.character, Words) else ""
                if state.counts or isinstance(state.character, Character):
                    continue
                for following in state.next:
                    after, before = rest[following], rest[number]
                    if after is not None and (before is None or len(said + after) < len(before)):
                        rest[number], changed = said + after, True
        return rest

    def read(self, text: str) -> frozenset[int]:
        """The states that the text may lead to. One that goes on from the text before is read from there."""
        before, states = self._last if text.startswith(self._last[0]) else ("", self._led([self._first]))
        for c in text[len(before) :]:
            found = (self._states[s] for s in states)
            states = self._led(n for s in found if self._takes(s, c) for n in s.next)
            if not states:
                break
        self._last = text, states
        return states

    @staticmethod
    def _takes(state: _State, c: str) -> bool:
        if isinstance(state.character, Words):
            return state.character.text == c
        return state.holds is not None and state.holds.fullmatch(c) is not None

    def _led(self, states: Iterable[int]) -> frozenset[int]:
        """With all that they lead to without a character."""
        found: set[int] = set()
        todo = list(states)
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                if self._states[number].character is None:
                    todo += self._states[number].next
        return frozenset(found)

    def accepts(self, text: str) -> bool:
        return 0 in self.read(text)

    def rest(self, text: str) -> str | None:
        """The shortest end of a text; None where that would invent a number, or the text is no beginning.

        A number that may have more digits is not ended either: nobody knows which it was to be.
        """
        states = self.read(text)
        if any(self._states[s].counts for s in states):
            return None
        ends = [e for s in states if (e := self._rest[s]) is not None]
        return min(ends, key=len, default=None)
