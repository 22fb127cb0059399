"""What may be written next: a grammar's tokens, and an end of the thought that comes in time.

One processor of the scores inside one call of the library's `generate`: what is forced is a token like any other, so
that streaming, cancel, counts and the cache of keys and values need nothing of their own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from copy import copy

import torch
from transformers import LogitsProcessor

from segzero_ros.core.answer_schema import behind_thought, continuation
from segzero_ros.core.contract import ThoughtBudget
from segzero_ros.core.profile import Profile
from segzero_ros.models.grammar import Grammar, Reading

_LONGEST_CHARACTER = 3  # tokens that may follow the first one of a character that is written in bytes


class Steering(LogitsProcessor):
    """Of one batch; each of its texts goes its own way."""

    def __init__(
        self,
        texts: int,
        begin: int,
        limit: int,
        ends: set[int],
        profile: Profile,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        grammar: Grammar | None,
        budget: ThoughtBudget | None,
    ) -> None:
        """begin: where the prompt ends. limit: tokens of an answer with its thought. ends: tokens that end a turn."""
        self._begin, self._ends = begin, ends
        self._clock = _Clock()
        made = (profile, encode, decode, limit, grammar, budget, self._clock)
        self.texts = [_Text(*made) for _ in range(texts)]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._clock.start()
        scores = scores.clone()
        for text, ids, row in zip(self.texts, input_ids[:, self._begin :].tolist(), scores, strict=True):
            if self._ends.isdisjoint(ids):
                text.steer(ids, row)
        return scores


class _Clock:
    """Seconds since the first token could be chosen: reading the prompt is no thought."""

    def __init__(self) -> None:
        self._began: float | None = None

    def start(self) -> None:
        self._began = time.monotonic() if self._began is None else self._began

    def seconds(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began


class _Text:
    """cut: the token limit ended the answer, whole as it may look. ended: its thought was, and not by the model."""

    def __init__(
        self,
        profile: Profile,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        limit: int,
        grammar: Grammar | None,
        budget: ThoughtBudget | None,
        clock: _Clock,
    ) -> None:
        self.cut = self.ended = False
        self._profile, self._encode, self._decode = profile, encode, decode
        self._limit, self._grammar, self._budget, self._clock = limit, grammar, budget, clock
        self._reading: Reading | None = grammar.reading() if grammar else None
        self._automaton = copy(grammar.automaton) if grammar else None  # it knows where its text goes on
        self._read = 0  # tokens
        self._forced: deque[int] = deque()
        self._thinking = True  # as far as was looked
        self._waited = 0

    def steer(self, ids: list[int], scores: torch.Tensor) -> None:
        """Rules out, in place, what may not follow the ids."""
        if self._reading:
            self._reading.read(ids[self._read :])
            self._read = len(ids)
        if not self._forced and self._thinking and self._is_over(len(ids)):
            self._end_thought(self._decode(ids))
        allowed = self._reading.allowed() if self._reading and not self._forced else None
        if allowed is not None:
            allowed = self._ending(ids, scores, allowed)
        if self._forced:
            forced = self._forced.popleft()
            scores[torch.arange(len(scores), device=scores.device) != forced] = -torch.inf
        elif allowed is not None:
            scores[~allowed.to(scores.device)] = -torch.inf

    def _is_over(self, count: int) -> bool:
        """Whether the thought has to end: by the budget, or to leave the answer its tokens."""
        if self._grammar and count >= self._limit - self._grammar.room:
            return True
        tokens, seconds = (self._budget.tokens, self._budget.seconds) if self._budget else (None, None)
        late = seconds is not None and self._clock.seconds() >= seconds
        return late or (tokens is not None and count >= tokens)

    def _end_thought(self, text: str) -> None:
        """Unless it has ended: the rest of its tag, once the character that is being written is whole."""
        if text.endswith("\ufffd") and self._waited < _LONGEST_CHARACTER:
            self._waited += 1
            return
        self._thinking = False
        end = continuation(text, self._profile)[len(text) :]
        self.ended = "</think>" in end
        self._forced.extend(self._encode(end))

    def _ending(self, ids: list[int], scores: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """What is allowed where the token limit is near: what can still be ended. Where the model wants more, its end.

        Nothing is made up: where numbers are missing, or a list has no object yet, the limit cuts the text off. An
        object that was begun gets its point as long as there is room for one; a further object needs room for all of
        it.
        """
        assert self._grammar is not None and self._automaton is not None
        left = self._limit - len(ids)
        if left > 2 * self._grammar.room:
            return allowed
        answer = behind_thought(self._decode(ids), self._profile)
        rest = self._automaton.rest(answer)
        if not rest or "{" not in answer:
            return allowed
        closing = self._encode(rest)
        left -= len(closing)
        if left > self._grammar.room:
            return allowed
        is_inside = answer.count("{") > answer.count("}")  # no label holds a brace
        may_have_point = is_inside and left > self._grammar.point_room
        fitting = allowed & ~(self._grammar.further_objects if may_have_point else self._grammar.further_entries)
        wanted = scores.masked_fill(~allowed.to(scores.device), -torch.inf).argmax()
        if left <= 1 or not fitting[wanted]:  # one for the token that ends the turn
            self.cut = True
            self._forced.extend(closing)
        return fitting
