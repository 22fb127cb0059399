"""A thought that is ended over a server: the stream is left, and the turn sent again with its thought closed.

The second request goes on where the first one was left, and writes the answer alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from segzero_ros.core.answer_schema import continuation
from segzero_ros.core.contract import ThoughtBudget
from segzero_ros.core.profile import Profile
from segzero_ros.models.prompt_tokens import spell_out
from segzero_ros.models.server_events import CLOSE

# How the template of a model that thinks begins its turn: what it does not write where the turn is sent begun.
BEGINS = {"written": "", "opened": "<think>\n", "closed": "<think>\n\n</think>\n\n"}

TICK = 0.05  # seconds between two looks at the clock
BREAKS = 4  # tokens by which a message may be longer than its text


@dataclass(frozen=True)
class BegunTurn:
    """How a server takes a turn that it is to go on with.

    begin: one of BEGINS where it takes the turn whole (vLLM); nothing where its template begins the turn all the same
    and the message is set behind that (SGLang, llama.cpp). ends: what ends a thought, with its tokens as the server
    counts them; empty where a tokenizer is here.
    """

    profile: Profile
    begin: str
    ends: Mapping[str, int] = field(default_factory=dict)

    def count(self, end: str) -> int:
        """Tokens of what ended a thought; of a tag's rest those of the whole tag."""
        return min((tokens for known, tokens in self.ends.items() if known.endswith(end)), default=0)

    def message(self, text: str) -> str:
        """text: what the model wrote, its thought closed.

        Templates that open the thought write line breaks around its end, whatever the message has, and a server that
        looks for the message in the conversation (vLLM) must find it.
        """
        if self.profile.thinking == "opened":
            thought, _, behind = text.partition(CLOSE)
            text = thought.strip("\n") + f"\n{CLOSE}\n\n" + behind.lstrip("\n")
        return spell_out(self.begin + text)


class ThoughtLimit:
    """Of one text: when its thought has to end. By the budget, or to leave a constrained answer its room."""

    def __init__(
        self,
        profile: Profile,
        limit: int,
        room: int | None,
        budget: ThoughtBudget | None,
        count: Callable[[str], int] | None,
    ) -> None:
        """limit: tokens of thought and answer. room: tokens that the answer must be left; None: not asked for."""
        self._profile, self._limit, self._count = profile, limit, count
        self._seconds = budget.seconds if budget else None
        limits = [budget.tokens] if budget and budget.tokens is not None else []
        limits += [0] if self._seconds == 0 else []
        limits += [max(0, limit - room)] if room is not None else []
        self._tokens = min(limits, default=None)

    def due(self, first: float) -> float | None:
        """Seconds until the thought has to be looked at though nothing comes; None for never. first: as of `ends`."""
        if not self._seconds:
            return None
        left = first + self._seconds - time.perf_counter() if first else self._seconds
        return max(left, TICK)

    def ends(self, text: str, tokens: int, first: float) -> bool:
        """Whether the thought must be ended now. tokens: of the text. first: when the first one came; 0: none did."""
        late = self._seconds is not None and first > 0 and time.perf_counter() - first >= self._seconds
        if not late and (self._tokens is None or tokens < self._tokens):
            return False
        return self.end(text) != "" and self.left(text, tokens) > 0

    def end(self, text: str) -> str:
        """What closes the thought and begins the answer; "" where the thought has ended."""
        return continuation(text, self._profile)[len(text) :]

    def left(self, text: str, tokens: int) -> int:
        """Tokens that the answer may have behind that."""
        end = self.end(text)
        breaks = BREAKS if self._profile.thinking == "opened" else 0
        return self._limit - tokens - breaks - (self._count(end) if self._count else len(end.encode()))
