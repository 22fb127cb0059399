"""A profile's form of answers over a server: what is sent, how much room it takes, and whether it was kept.

A server that does not know a constraint answers HTTP 200 without it, so every constrained text is read again here.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from segzero_ros.core.answer_schema import (
    answer_language,
    answer_tag,
    behind_thought,
    check_grammar,
    room_of_answer,
    structural_tag,
)
from segzero_ros.core.profile import Profile
from segzero_ros.core.regular import Automaton
from segzero_ros.models.server_events import OPEN, broken


class AnswerForm:
    """Of one profile. Thread-safe."""

    def __init__(self, profile: Profile, count: Callable[[str], int] | None) -> None:
        """count: a text's tokens; without it, a text has at most as many as bytes. Raises SegzeroError(NOT_READY)."""
        check_grammar(profile)
        self._profile = profile
        self._automaton = Automaton(answer_language(profile))
        self.room = room_of_answer(profile, count or (lambda text: len(text.encode())))
        self.turn = structural_tag(profile, profile.thinking == "opened")
        self.answer = answer_tag(profile)

    def check(self, text: str, *, finished: bool) -> None:
        """finished: the model ended the text; else the token limit cut it off.

        Raises SegzeroError(BACKEND_ERROR) for a text that the constraint rules out.
        """
        if not finished and OPEN.startswith(text):
            return
        automaton, answer = copy(self._automaton), behind_thought(text, self._profile)
        if not (automaton.accepts(answer) if finished else automaton.read(answer)):
            raise broken(
                f"the server dropped the constraint: its answer has not the form of profile {self._profile.name};"
                " leave constrain off, or start the server with a backend of structured outputs (xgrammar)"
            )

    def rest(self, text: str) -> str:
        """The end that a text lacks which the token limit cut off; "" where numbers are missing, or every object."""
        answer = behind_thought(text, self._profile)
        return (copy(self._automaton).rest(answer) or "") if "{" in answer else ""
