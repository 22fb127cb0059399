"""One server of OpenAI's chat completions: its list of models, and an answer as a stream of pieces.

Whatever goes wrong is a sentence of bounded length, and none of them shows the key.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import httpx2

from segzero_ros.core.contract import Cancel, SegzeroError
from segzero_ros.core.text import one_line
from segzero_ros.models.cancellable import run_until_set
from segzero_ros.models.server_address import Address, read_key
from segzero_ros.models.server_events import EventLines, Piece, broken, read_error, read_event
from segzero_ros.models.server_failures import PAUSE, ServerError, explain_connection, explain_refusal
from segzero_ros.models.server_proxy import find_proxy

CONNECT = 5.0  # seconds until a connection stands
SILENCE = 300.0  # seconds without a byte; a request's own time limit is its flag's
MAX_BODY = 1 << 20  # bytes of what is no stream
MAX_HEAD, MAX_TOKEN = 1 << 20, 2048  # bytes of a stream, in all and for each token
MAX_CHARACTERS = 256  # of a token's text; the longest of Qwen's are 128 blanks
SHORTEST_KEY = 6  # characters; what is shorter is no secret, and may be a part of any word
LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "httpcore2.socks")

Call = Callable[[httpx2.AsyncClient], Coroutine[Any, Any, None]]


class ServerClient:
    """Thread-safe: each call has connections of its own, which are closed when it ends, however it ends."""

    def __init__(self, address: Address, *, connect_timeout: float = CONNECT, silence: float = SILENCE) -> None:
        self.address = address
        self._silence = silence
        self._timeout = httpx2.Timeout(silence, connect=connect_timeout, pool=None)
        self._tls = httpx2.create_ssl_context() if address.base.startswith("https") else False
        self._key = read_key()
        self._headers = httpx2.Headers({"accept-encoding": "identity", "user-agent": "segzero_ros"})
        if self._key:
            _hide_in_logs(self._key)
            self._headers["authorization"] = f"Bearer {self._key}"

    def run(self, call: Call, cancel: Cancel | None) -> bool:
        """call(connections), from this thread; False where the flag ended it. Raises what it raises."""

        async def work() -> None:
            async with self._connections() as connections:
                await call(connections)

        return run_until_set(work(), cancel)

    async def list_models(self, connections: httpx2.AsyncClient) -> dict[str, int]:
        """Names, with the tokens that prompt and answer may have together, 0 where the server does not say.

        Raises ServerError, of code 404 where there is no such list.
        """
        url = f"{self.address.base}/models"
        with self._explained():
            async with connections.stream("GET", url) as response:
                body = await self._read(response)
                if response.status_code != 200:
                    raise self._refusal(response, body)
        try:
            found = {e["id"]: e.get("max_model_len") for e in json.loads(body)["data"] if isinstance(e["id"], str)}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise broken(f"{url} answers with something else than a list of models; does the URL end in /v1?") from None
        return {name: n if type(n) is int and 0 < n < 1 << 31 else 0 for name, n in found.items()}

    async def ask(
        self, connections: httpx2.AsyncClient, body: dict[str, Any], limit: int, on_piece: Callable[[Piece], None]
    ) -> None:
        """As `_stream`, and once more where nothing was generated yet and the failure may pass."""
        try:
            await self._stream(connections, body, limit, on_piece)
        except ServerError as error:
            if error.again_after is None:
                raise
            await asyncio.sleep(error.again_after)
            await self._stream(connections, body, limit, on_piece)

    async def _stream(
        self, connections: httpx2.AsyncClient, body: dict[str, Any], limit: int, on_piece: Callable[[Piece], None]
    ) -> None:
        """Asks for an answer of at most `limit` tokens and tells its pieces, the last of which has the counts.

        Raises SegzeroError, and what on_piece raises. A ServerError's again_after is None once a token came.
        """
        lines = EventLines(MAX_HEAD + MAX_TOKEN * limit)
        most = 2 * limit + 64  # pieces: a proxy may cut tokens
        came = tokens = 0  # characters; pieces with some
        finish, done = "", False
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        url = f"{self.address.base}/chat/completions"
        try:
            with self._explained():
                content = json.dumps(body).encode()
                async with connections.stream("POST", url, content=content, headers=headers) as response:
                    await self._refuse_no_stream(response)
                    async for data in response.aiter_raw():
                        for line in lines.add(data):
                            if done := line == "[DONE]":
                                break
                            piece = read_event(
                                self._hide(line) if '"error"' in line or '"choices"' not in line else line
                            )
                            if piece.finish:  # is told where it is none that we know
                                piece = replace(piece, finish=self._hide(piece.finish))
                                finish = piece.finish
                            if text := len(piece.content) + len(piece.thought):
                                came += text
                                tokens += 1
                                if tokens > most or came > MAX_CHARACTERS * most:
                                    raise broken(f"the server writes on beyond the limit of {limit} tokens")
                            on_piece(piece)
                        if done:
                            break
            if not finish:
                how = "without saying why" if done else "in the middle"
                raise ServerError.broken(f"{self.address.base} ended its stream {how}", again_after=PAUSE)
        except ServerError as error:
            if not tokens:
                raise
            raise broken(f"{error.message}, after {came} characters") from None

    def _connections(self) -> httpx2.AsyncClient:
        try:
            return httpx2.AsyncClient(
                headers=self._headers,
                timeout=self._timeout,
                verify=self._tls,
                trust_env=not self.address.is_loopback,  # no proxy leads to this machine
                follow_redirects=False,
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            )
        except (ImportError, ValueError) as error:
            raise broken(f"the proxy of this environment cannot be used: {one_line(error, 150)}") from None

    async def _refuse_no_stream(self, response: httpx2.Response) -> None:
        if response.status_code != 200:
            raise self._refusal(response, await self._read(response))
        place = self.address.base
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise broken(f"{place} compresses its answer, though it was asked not to")
        if kind == "text/html":
            raise broken(f"{place} answers with a page; is the URL right, or a sign-in between?")
        if kind != "text/event-stream":
            said = read_error(await self._read(response)) if kind == "application/json" else ""
            what = f"{one_line(kind, 60) or 'no type'} and not with a stream of events"
            raise broken(f"{place} answers with {what}{': ' * bool(said)}{said}")

    async def _read(self, response: httpx2.Response) -> bytes:
        """The beginning of a body that is no stream, as it came: a compressed one could be of any size."""
        body = bytearray()
        async for data in response.aiter_raw():
            body += data
            if len(body) > MAX_BODY:
                break
        return self._hide(body[:MAX_BODY].decode("utf-8", "replace")).encode()

    def _refusal(self, response: httpx2.Response, body: bytes) -> ServerError:
        headers = {name.lower(): self._hide(value) for name, value in response.headers.items()}
        place, proxy = self.address.base, find_proxy(self.address)
        return explain_refusal(place, response.status_code, headers, body, has_key=bool(self._key), proxy=proxy)

    def _hide(self, text: str) -> str:
        """A server may say the key again; no sentence of ours shall."""
        return _hide(text, self._key)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """The library's exceptions hold the request with its key, so none of them goes on as a cause."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            found = explain_connection(self.address.base, error, self._silence, find_proxy(self.address))
            raise ServerError(
                found.status, self._hide(found.message), code=found.code, again_after=found.again_after
            ) from None
        except SegzeroError as error:
            if (message := self._hide(error.message)) != error.message:
                raise type(error)(error.status, message) from None
            raise


def _hide(text: str, key: str) -> str:
    return text.replace(key, "***") if len(key) >= SHORTEST_KEY else text


class _WithoutKey(logging.Filter):
    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _hide(record.getMessage(), self._key), ()
        return True


@cache
def _hide_in_logs(key: str) -> None:
    """The library logs the headers of answers, in which a server may say the key again."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_WithoutKey(key))
