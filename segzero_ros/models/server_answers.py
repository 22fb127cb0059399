"""One prompt's way to a text over a server: one request, or two where its thought has to be ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import httpx2

from segzero_ros.core.contract import Cancel, Stopped
from segzero_ros.core.text import one_line
from segzero_ros.models.prompt_tokens import PromptTokens, Split
from segzero_ros.models.server_client import ServerClient
from segzero_ros.models.server_constraint import AnswerForm
from segzero_ros.models.server_events import CLOSE, OPEN, AnswerText, Piece, broken
from segzero_ros.models.server_requests import Body, constrained, continued_turn
from segzero_ros.models.server_thoughts import BegunTurn, ThoughtLimit

# Reasons to end that are no answers.
_ENDS = {
    "content_filter": "its filter ended the answer",
    "tool_calls": "it wanted to call a tool; start it without a tool parser",
    "function_call": "it wanted to call a function; start it without a tool parser",
}


@dataclass
class _Response:
    """What one stream told of itself."""

    tokens: int = 0
    prompt_tokens: int = 0
    finish: str = ""

    def take(self, piece: Piece) -> None:
        if self.finish in ("", "stop"):  # what was cut or filtered stays so
            self.finish = piece.finish or self.finish
        self.prompt_tokens = piece.prompt_tokens or self.prompt_tokens
        self.tokens = piece.completion_tokens or self.tokens + bool(piece.content or piece.thought)


class _ThoughtEnds(Exception):
    """The stream is to be left."""


def _begins_anew(rest: str, before: str, thought_again: str) -> bool:
    """Whether what came behind a closed thought opens one, or is that thought once more (llama.cpp's `echo`).

    thought_again: what of it came as a thought; there it has no tags.
    """
    (thought, _, _), (again, closed, _) = before.partition(CLOSE), rest.partition(CLOSE)
    if rest.lstrip().startswith(OPEN) or (closed and thought.strip() and again.strip() == thought.strip()):
        return True
    words = thought.strip().removeprefix(OPEN).strip()
    return bool(words) and thought_again.lstrip().startswith(words)


class ServerAnswer:
    """expected, form: None where nothing is to be checked. thought: None where it may go on for ever.

    When it has run: text, prompt_tokens, tokens; first: when the first token came, on the clock, 0 for never; done: it
    was not cancelled; cut: by the token limit; ended: its thought was, and not by the model.
    """

    def __init__(
        self,
        words: str,
        body: Body,
        *,
        opened: bool = False,
        expected: PromptTokens | None = None,
        form: AnswerForm | None = None,
        thought: ThoughtLimit | None = None,
        begun: BegunTurn | None = None,
        split: Split | None = None,
        say: Callable[[str], None] = lambda text: None,
        cancel: Cancel | None = None,
    ) -> None:
        """body: of a new turn. begun: how the server takes one that it is to go on with. say: is told the text.

        split: a text in pieces of a token. A busy server sends several in one event, and a thought's end must not hang
        on that.
        """
        self.tokens = self.prompt_tokens = 0
        self.first = 0.0
        self.done = self.cut = self.ended = False
        self._words, self._limit = words, int(body["max_tokens"])
        self._body = constrained(body, form.turn if form else None)
        self._text = AnswerText(opened=opened)
        self._expected, self._form, self._thought = expected, form, thought
        self._begun = begun
        self._split = split if thought is not None else None
        self._tell, self._cancel = say, cancel

    @property
    def text(self) -> str:
        return self._text.text

    async def ask(self, client: ServerClient, connections: httpx2.AsyncClient) -> None:
        """Raises SegzeroError; the text so far was told by then."""
        try:
            response = _Response()
            if not self._ends_thought(0):
                try:
                    work = client.ask(connections, self._body, self._limit, lambda piece: self._take(piece, response))
                    await self._in_time(work, response)
                except _ThoughtEnds:
                    pass
                else:
                    self._refuse_other_ends(response, client.address.base)
                    if self._expected is not None:
                        self._expected.check(self._words, response.prompt_tokens)
                    return self._finish(response)
            await self._go_on(client, connections, response)
        except Stopped:
            return

    async def _in_time(self, work: Coroutine[Any, Any, None], response: _Response) -> None:
        """The work, ended by a thought's seconds also while the server says nothing."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=self._thought.due(self.first) if self._thought else None)
                if not task.done() and not response.finish and self._ends_thought(response.tokens, silent=True):
                    raise _ThoughtEnds
            task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _go_on(self, client: ServerClient, connections: httpx2.AsyncClient, first: _Response) -> None:
        """The second request. first: what is known of the one that was left."""
        assert self._thought is not None and self._begun is not None
        tokens = first.tokens
        if self._expected is not None and first.prompt_tokens:  # some servers count in every event
            self._expected.check(self._words, first.prompt_tokens)
        left = self._thought.left(self.text, tokens)
        end = self._thought.end(self.text)
        self.ended = CLOSE in end
        self._text.go_on(end)
        self._say(end)
        before = self.text
        message = self._begun.message(before)
        body = continued_turn(self._body, message, left)
        response = _Response()

        thought_again = ""

        def take(piece: Piece) -> None:
            nonlocal thought_again
            self._take(piece, response)
            self.tokens = tokens + response.tokens
            thought_again += piece.thought
            if _begins_anew(self.text[len(before) :], before, thought_again):
                raise broken("the server began the answer anew where it was to go on with the one that was sent")

        tag = self._form.answer if self._form else None
        await client.ask(connections, constrained(body, tag), left, take)
        self._refuse_other_ends(response, client.address.base)
        if self._form is not None and self.text == before:
            raise broken(f"{client.address.base} wrote nothing where it was to go on with a thought that was ended")
        if self._expected is not None:
            found = response.prompt_tokens
            self._expected.check_continued(self._words, found, message, self._begun.begin, tokens)
            least, most = self._expected.bounds(self._words)
            # With those that closed the thought.
            tokens = found - least if least == most else tokens + self._begun.count(end)
        self._finish(response, tokens)

    def _take(self, piece: Piece, response: _Response) -> None:
        for one in self._single_tokens(piece):
            self._take_one(one, response)

    def _single_tokens(self, piece: Piece) -> list[Piece]:
        """What else the piece tells comes with the last."""
        if self._split is None or bool(piece.content) == bool(piece.thought):
            return [piece]
        *before, last = self._split(piece.content or piece.thought)
        if piece.content:
            return [*(Piece(content=text) for text in before), replace(piece, content=last)]
        return [*(Piece(thought=text) for text in before), replace(piece, thought=last)]

    def _take_one(self, piece: Piece, response: _Response) -> None:
        response.take(piece)
        self.tokens, self.prompt_tokens = response.tokens, response.prompt_tokens
        if piece.content or piece.thought:
            self.first = self.first or time.perf_counter()
            self._say(self._text.add(piece))
        if self._cancel is not None and self._cancel.is_set():
            raise Stopped
        if not response.finish and self._ends_thought(response.tokens):
            raise _ThoughtEnds

    def _ends_thought(self, tokens: int, *, silent: bool = False) -> bool:
        """silent: nothing comes that could say what waits; it is left out where the thought ends."""
        if self._thought is None or (self._text.waits and not silent):
            return False
        return self._thought.ends(self.text, tokens, self.first)

    def _finish(self, response: _Response, tokens: int = 0) -> None:
        """tokens: of the text that were a part of the prompt."""
        self.tokens, self.prompt_tokens = response.tokens + tokens, response.prompt_tokens - tokens
        self.cut = response.finish == "length"
        self._say(self._text.end(finished=not self.cut))
        if self._form is not None:
            self._form.check(self.text, finished=not self.cut)
            if self.cut and (rest := self._form.rest(self.text)):
                self._text.go_on(rest)
                self._say(rest)
        self.done = True

    def _refuse_other_ends(self, response: _Response, base: str) -> None:
        if response.finish not in ("stop", "length"):
            why = _ENDS.get(response.finish, f"it ended with {one_line(response.finish, 40)}")
            raise broken(f"{base} gave no answer: {why}")
        if not response.prompt_tokens:
            raise broken(
                f"{base} does not count prompt tokens in its streams (stream_options.include_usage), so that a resized"
                " picture would go unnoticed"
            )

    def _say(self, text: str) -> None:
        if text:
            self._tell(text)
