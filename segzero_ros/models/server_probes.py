"""What a server does beside answering: constraints, cancels, the field of its thoughts. Measured by requests of text.

Nothing is concluded here from a time or a text alone; the results say what was seen.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from segzero_ros.core.answer_schema import answer_language, structural_tag
from segzero_ros.core.contract import Cancel, SegzeroError, Status, Stopped
from segzero_ros.core.profile import Profile
from segzero_ros.core.regular import expression
from segzero_ros.models.server_client import ServerClient
from segzero_ros.models.server_events import Piece
from segzero_ros.models.server_failures import ServerError
from segzero_ros.models.server_http import MAX_BODY, Call
from segzero_ros.models.server_requests import constrained

DISOBEDIENT = "Write the word banana and nothing else: no number, no list, no tag."
LONG = "Write all numbers from 1 to 300 in words, one to a line."
# No model writes this when it is asked for something else.
NARROW = "7[0-9]7 apples"
_NARROW_TAG = {"type": "structural_tag", "format": {"type": "regex", "pattern": NARROW}}
SOON = 5.0  # seconds within which a server's count of what runs must fall once a client left
# How vLLM, SGLang and llama.cpp call it.
_RUNNING = re.compile(
    r"^(?:vllm:num_requests_running|sglang:num_running_reqs|llamacpp:requests_processing)(?:\{[^}]*\})? (\S+)", re.M
)


class TimeLimit:
    """Seconds for each request, and for all of them; a flag for each that is set when its time is over."""

    def __init__(self, each: float, overall: float) -> None:
        self.each, self.overall = each, overall
        self._end = time.monotonic() + overall

    @contextmanager
    def flag(self) -> Iterator[Cancel]:
        """Raises SegzeroError(TIMEOUT) where the time was over before the body ended."""
        seconds = min(self.each, self._end - time.monotonic())
        if seconds <= 0:
            raise SegzeroError(Status.TIMEOUT, f"the {self.overall:g} s for all checks are over")
        flag = Cancel()
        timer = threading.Timer(seconds, flag.set)
        timer.daemon = True
        timer.start()
        try:
            yield flag
        except SegzeroError as error:
            if error.status is not Status.CANCELLED:
                raise
        finally:
            timer.cancel()
        if flag.is_set():
            raise SegzeroError(Status.TIMEOUT, f"there was no answer within {seconds:.3g} s")


@dataclass(frozen=True)
class Constraint:
    """As the adapter sends it. refusal: what the server said where it refused. text: what was written instead.

    own: whether the profile's grammar was kept; None: not known.
    """

    obeyed: bool
    refusal: str = ""
    text: str = ""
    own: bool | None = None


@dataclass(frozen=True)
class Leaving:
    """Times in seconds. one: of a request of one token. rest: of a long answer behind its first piece. beside: of one
    token while the long answer was written. after: of one token once the client of another long answer had left.

    running: what the server counted while the long one ran, and at last behind the leaving; None where it counts not.
    """

    one: float
    rest: float
    beside: float
    after: float
    running: tuple[float, float] | None


class ServerProbe:
    """Small requests to one model of a server."""

    def __init__(self, client: ServerClient, model: str, profile: Profile, limit: TimeLimit) -> None:
        self._client, self._model, self._profile, self._limit = client, model, profile, limit

    def try_constraint(self) -> Constraint:
        """Asks for what the grammar forbids. Raises SegzeroError where the server cannot be asked at all."""
        try:
            text = self._write(DISOBEDIENT, 24, constrained({}, _NARROW_TAG))
        except ServerError as error:
            if not 400 <= error.code < 500:
                raise
            return Constraint(False, error.message)
        if re.fullmatch(NARROW, text.strip()):
            return Constraint(True, own=self._keeps_the_profiles())
        return Constraint(False, text=text)

    def _keeps_the_profiles(self) -> bool | None:
        if self._profile.reader != "json":
            return None
        tag = structural_tag(self._profile, self._profile.thinking == "opened")
        try:
            text = self._write(DISOBEDIENT, min(self._profile.max_new_tokens, 400), constrained({}, tag), own=True)
        except ServerError as error:
            if not 400 <= error.code < 500:
                raise
            return False
        answer = text.rpartition("</think>")[2]
        if not answer:  # it thought until the limit
            return None
        return re.fullmatch(expression(answer_language(self._profile)), answer) is not None

    def try_leaving(self) -> Leaving:
        """Closes the connection of a long answer at its first piece. Raises SegzeroError."""
        before = self._still_running()
        one = self._time_of_one()
        rest, beside, during = self._long_with_one_beside()
        counts = before == 0 and bool(during)
        with self._limit.flag() as flag:
            self._client.run(self._ask(self._body(LONG, 300), 300, _leave), flag)
        after = self._time_of_one()
        last = self._still_running() if counts else during
        return Leaving(one, rest, beside, after, (during or 0.0, last or 0.0) if counts else None)

    def thought_field(self) -> str:
        """In which field a whole answer has its thought, by the server's own name; "" where that is not known."""
        body = self._body(DISOBEDIENT, 64)
        body.pop("stream_options")
        body["stream"] = False
        read = self._read("POST", f"{self._client.address.base}/chat/completions", body)
        try:
            message = json.loads(read)["choices"][0]["message"]
            return next((name for name in ("reasoning", "reasoning_content") if isinstance(message.get(name), str)), "")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return ""

    def _still_running(self) -> float | None:
        """What the server counts as running when that is nothing or SOON is over; None where it does not count."""
        end = time.monotonic() + SOON
        while (running := self._running()) and time.monotonic() < end:
            threading.Event().wait(0.2)
        return running

    def _time_of_one(self) -> float:
        began = time.monotonic()
        self._write(DISOBEDIENT, 1, {})
        return time.monotonic() - began

    def _long_with_one_beside(self) -> tuple[float, float, float | None]:
        """Seconds of the rest, seconds of the one, what the server counts as running."""
        first = last = beside = 0.0
        during: float | None = None

        def take(piece: Piece) -> None:
            nonlocal first, last
            last = time.monotonic()
            if piece.content or piece.thought:
                first = first or last

        async def both(connections: httpx2.AsyncClient) -> None:
            nonlocal beside, during
            long = asyncio.ensure_future(self._ask(self._body(LONG, 300), 300, take)(connections))
            try:
                while not first and not long.done():
                    await asyncio.sleep(0.005)
                during = await self._count_running(connections)
                began = time.monotonic()
                await self._ask(self._body(DISOBEDIENT, 1), 1, lambda piece: None)(connections)
                beside = time.monotonic() - began
                await long
            finally:
                long.cancel()

        with self._limit.flag() as flag:
            self._client.run(both, flag)
        return max(0.0, last - first), beside, during

    def _write(self, words: str, limit: int, more: dict[str, Any], *, own: bool = False) -> str:
        """A text with its thought between tags. own: with the profile's way to begin a turn, else without a thought."""
        thought, content = [], []

        def take(piece: Piece) -> None:
            thought.append(piece.thought)
            content.append(piece.content)

        with self._limit.flag() as flag:
            self._client.run(self._ask(self._body(words, limit, own=own) | more, limit, take), flag)
        inner = "".join(thought)
        return (f"{inner}</think>" if inner else "") + "".join(content)

    def _body(self, words: str, limit: int, *, own: bool = False) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": [{"type": "text", "text": words}]}],
            "max_tokens": limit,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._profile.thinking != "written":
            body["chat_template_kwargs"] = {"enable_thinking": own and self._profile.thinking == "opened"}
        return body

    def _ask(self, body: dict[str, Any], limit: int, take: Any) -> Call:
        async def ask(connections: httpx2.AsyncClient) -> None:
            try:
                await self._client.ask(connections, body, limit, take)
            except Stopped:
                return

        return ask

    def _running(self) -> float | None:
        found: list[float | None] = []

        async def ask(connections: httpx2.AsyncClient) -> None:
            found.append(await self._count_running(connections))

        with self._limit.flag() as flag:
            self._client.run(ask, flag)
        return found[0] if found else None

    async def _count_running(self, connections: httpx2.AsyncClient) -> float | None:
        """Requests that the server says it works on; None where it does not say."""
        place = self._client.address.base.removesuffix("/v1")
        try:
            text = await _read_body(connections, "GET", f"{place}/metrics", None)
            numbers = [float(found) for found in _RUNNING.findall(text)]
        except (httpx2.HTTPError, httpx2.StreamError, ValueError):
            return None
        return sum(numbers) if numbers else None

    def _read(self, method: str, url: str, body: dict[str, Any]) -> str:
        found: list[str] = []

        async def ask(connections: httpx2.AsyncClient) -> None:
            try:
                found.append(await _read_body(connections, method, url, body))
            except (httpx2.HTTPError, httpx2.StreamError):
                return

        with self._limit.flag() as flag:
            self._client.run(ask, flag)
        return found[0] if found else ""


async def _read_body(connections: httpx2.AsyncClient, method: str, url: str, body: dict[str, Any] | None) -> str:
    """The beginning of what a server says with code 200; "" with another."""
    data = bytearray()
    async with connections.stream(method, url, json=body) as response:
        if response.status_code != 200:
            return ""
        async for piece in response.aiter_raw():
            data += piece
            if len(data) > MAX_BODY:
                break
    return data[:MAX_BODY].decode("utf-8", "replace")


def _leave(piece: Piece) -> None:
    if piece.content or piece.thought:
        raise Stopped
