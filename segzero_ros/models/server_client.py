"""One server of OpenAI's chat completions: its list of models, and an answer as a stream of pieces.

Whatever goes wrong is a sentence of bounded length, and none of them shows the key.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import httpx2

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.core.text import one_line
from segzero_ros.models.cancellable import run_until_set
from segzero_ros.models.server_address import Address, read_key
from segzero_ros.models.server_events import EventLines, Piece, broken, read_error, read_event
from segzero_ros.models.server_failures import PAUSE, ServerError, explain_connection, explain_refusal
from segzero_ros.models.server_proxy import find_proxy
from segzero_ros.models.server_secrets import hide, hide_in_logs

CONNECT = 5.0  # seconds until a connection stands
SILENCE = 300.0  # seconds without a word of an answer; a request's own time limit is its flag's
MAX_BODY = 1 << 20  # bytes of what is no stream
MAX_HEAD, MAX_TOKEN = 1 << 20, 2048  # bytes of a stream, in all and for each token
MAX_CHARACTERS = 256  # of a token's text; the longest of Qwen's are 128 blanks
LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "httpcore2.socks")

Call = Callable[[httpx2.AsyncClient], Coroutine[Any, Any, None]]


class ServerClient:
    """Thread-safe: each call has connections of its own, which are closed when it ends, however it ends."""

    def __init__(self, address: Address, *, connect_timeout: float = CONNECT, silence: float = SILENCE) -> None:
        self.address = address
        self._silence, self._connect = silence, connect_timeout
        self._timeout = httpx2.Timeout(silence, connect=connect_timeout, pool=None)
        self._tls = _trusted() if address.base.startswith("https") else False
        self._key = read_key()
        self._headers = httpx2.Headers({"accept-encoding": "identity", "user-agent": "segzero_ros"})
        if self._key:
            hide_in_logs(self._key, LOGGERS)
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
            async with self._response(connections, "GET", url) as response:
                body = await self._read(response)
                if response.status_code != 200:
                    raise self._refusal(response, body)
        try:
            listed = [e for e in json.loads(body)["data"] if isinstance(e["id"], str)]
            found = {e["id"]: e.get("max_model_len") for e in listed}
            for e in listed:  # of an adapter vLLM names the model alone
                found[e["id"]] = found[e["id"]] or found.get(str(e.get("parent")))
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
        finish, counted = "", False
        waiting: list[Piece] = []  # told with the first word: another attempt would have others
        heard = time.monotonic()  # when the last word came; a server may keep a connection alive for ever
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        url = f"{self.address.base}/chat/completions"
        try:
            with self._explained():
                content = json.dumps(body).encode()
                given = {"content": content, "headers": headers}
                async with self._response(connections, "POST", url, **given) as response:
                    await self._refuse_no_stream(response)
                    async for data in response.aiter_raw():
                        self._refuse_silence(heard)
                        for line in lines.add(data):
                            is_known = '"error"' not in line and '"choices"' in line
                            piece = read_event(line if is_known else self._hide(line))
                            if text := len(piece.content) + len(piece.thought):
                                if finish:
                                    raise broken("the server writes on behind the end of its answer")
                                came += text
                                tokens += 1
                                if tokens > most or came > MAX_CHARACTERS * most:
                                    raise broken(f"the server writes on beyond the limit of {limit} tokens")
                                heard = time.monotonic()
                            counted = bool(finish and piece.prompt_tokens)
                            if piece.finish:  # is told where it is none that we know
                                piece = replace(piece, finish=self._hide(piece.finish))
                                finish = piece.finish
                            waiting.append(piece)
                            if tokens:
                                _tell(waiting, on_piece)
                        if lines.ended or counted:  # not every server sends [DONE] behind the counts
                            break
            if not finish:
                how = "without saying why" if lines.ended else "in the middle"
                raise ServerError.broken(f"{self.address.base} ended its stream {how}", again_after=PAUSE)
            _tell(waiting, on_piece)
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
        except httpx2.InvalidURL:  # its words may be a part of a password
            raise broken(
                "the proxy of this environment has no URL that can be read: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY"
            ) from None
        except (ImportError, ValueError) as error:
            raise broken(f"the proxy of this environment cannot be used: {one_line(error, 150)}") from None

    @asynccontextmanager
    async def _response(
        self, connections: httpx2.AsyncClient, method: str, url: str, **given: Any
    ) -> AsyncIterator[httpx2.Response]:
        """The library's stream, whose head has to come within the silence, however it drips."""
        sent = connections.send(connections.build_request(method, url, **given), stream=True)
        try:
            response = await asyncio.wait_for(sent, self._silence + self._connect)
        except asyncio.TimeoutError:
            raise self._silent() from None
        try:
            yield response
        finally:
            await response.aclose()

    def _silent(self) -> ServerError:
        return ServerError(
            Status.TIMEOUT, f"{self.address.base} keeps the connection, and has written nothing for {self._silence:g} s"
        )

    def _refuse_silence(self, heard: float) -> None:
        if time.monotonic() - heard > self._silence:
            raise self._silent()

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
            body = self._hide((await self._read(response)).decode("utf-8", "replace")).encode()
            said = read_error(body) if kind == "application/json" else ""
            what = f"{one_line(kind, 60) or 'no type'} and not with a stream of events"
            raise broken(f"{place} answers with {what}{': ' * bool(said)}{said}")

    async def _read(self, response: httpx2.Response) -> bytes:
        """The beginning of a body that is no stream, as it came: a compressed one could be of any size."""
        body, began = bytearray(), time.monotonic()
        async for data in response.aiter_raw():
            self._refuse_silence(began)
            body += data
            if len(body) > MAX_BODY:
                break
        return bytes(body[:MAX_BODY])

    def _refusal(self, response: httpx2.Response, body: bytes) -> ServerError:
        body = self._hide(body.decode("utf-8", "replace")).encode()
        headers = {name.lower(): self._hide(value) for name, value in response.headers.items()}
        place, proxy = self.address.base, find_proxy(self.address)
        return explain_refusal(place, response.status_code, headers, body, has_key=bool(self._key), proxy=proxy)

    def _hide(self, text: str) -> str:
        """A server may say the key again; no sentence of ours shall."""
        return hide(text, self._key)

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
            if (message := self._hide(error.message)) == error.message:
                raise
            if isinstance(error, ServerError):
                raise ServerError(error.status, message, code=error.code, again_after=error.again_after) from None
            raise SegzeroError(error.status, message) from None


def _tell(waiting: list[Piece], on_piece: Callable[[Piece], None]) -> None:
    for piece in waiting:
        on_piece(piece)
    waiting.clear()


def _trusted() -> ssl.SSLContext:
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        named = " and ".join(n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(n)) or "the system's"
        sentence = f"the certificates to trust cannot be read ({named}): {one_line(error, 100)}"
        raise SegzeroError(Status.NOT_READY, sentence) from None
