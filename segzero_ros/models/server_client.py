"""One server of OpenAI's chat completions: its list of models, and an answer as a stream of pieces.

Whatever goes wrong is a sentence of bounded length, and none of them shows the key.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2

from segzero_ros.core.contract import Cancel, SegzeroError
from segzero_ros.core.text import one_line
from segzero_ros.models.server_address import Address
from segzero_ros.models.server_events import EventLines, Piece, broken, read_error, read_event
from segzero_ros.models.server_failures import PAUSE, ServerError
from segzero_ros.models.server_http import CONNECT, SILENCE, Call, ServerHttp

MAX_HEAD, MAX_TOKEN = 1 << 20, 2048  # bytes of a stream, in all and for each token
LAST = 1.0  # seconds for [DONE] behind an answer that is whole: not every server sends it, nor closes then
MAX_CHARACTERS = 256  # of a token's text; the longest of Qwen's are 128 blanks


class ServerClient:
    """Thread-safe. Its calls are made within `run`."""

    def __init__(self, address: Address, *, connect_timeout: float = CONNECT, silence: float = SILENCE) -> None:
        self.address = address
        self._http = ServerHttp(address, connect_timeout=connect_timeout, silence=silence)

    def run(self, call: Call, cancel: Cancel | None) -> bool:
        """As that of `ServerHttp`."""
        return self._http.run(call, cancel)

    async def list_models(self, connections: httpx2.AsyncClient) -> dict[str, int]:
        """Names, with the tokens that prompt and answer may have together, 0 where the server does not say.

        Raises ServerError, of code 404 where there is no such list.
        """
        url = f"{self.address.base}/models"
        with self._http.explained():
            async with self._http.response(connections, "GET", url) as response:
                body = await self._http.read(response)
                if response.status_code != 200:
                    raise self._http.refusal(response, body)
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
            with self._http.explained():
                content = json.dumps(body).encode()
                given = {"content": content, "headers": headers}
                async with self._http.response(connections, "POST", url, **given) as response:
                    await self._refuse_no_stream(response)
                    stream = response.aiter_raw()
                    while not lines.ended:
                        try:
                            data = await (asyncio.wait_for(anext(stream), LAST) if counted else anext(stream))
                        except (StopAsyncIteration, asyncio.TimeoutError):
                            break
                        for line in lines.add(data):
                            piece = self._read_event(line)
                            if text := len(piece.content) + len(piece.thought):
                                if finish:
                                    raise broken("the server writes on behind the end of its answer")
                                came += text
                                tokens += 1
                                if tokens > most or came > MAX_CHARACTERS * most:
                                    raise broken(f"the server writes on beyond the limit of {limit} tokens")
                                heard = time.monotonic()
                            finish = piece.finish or finish
                            counted = counted or bool(finish and piece.prompt_tokens)
                            waiting.append(piece)
                            if tokens:
                                _tell(waiting, on_piece)
                        self._http.refuse_silence(heard)
            if not finish:
                how = "without saying why" if lines.ended else "in the middle"
                raise ServerError.broken(f"{self.address.base} ended its stream {how}", again_after=PAUSE)
            _tell(waiting, on_piece)
        except ServerError as error:
            if not tokens:
                raise
            raise broken(f"{error.message}, after {came} characters") from None

    def _read_event(self, line: str) -> Piece:
        """What a failure quotes, and an end that we do not know, may hold the key."""
        try:
            piece = read_event(line)
        except SegzeroError:
            read_event(self._http.hide(line))  # raises it as well, and cuts no key that is hidden
            raise
        return replace(piece, finish=self._http.hide(piece.finish)) if piece.finish else piece

    async def _refuse_no_stream(self, response: httpx2.Response) -> None:
        if response.status_code != 200:
            raise self._http.refusal(response, await self._http.read(response))
        place = self.address.base
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise broken(f"{place} compresses its answer, though it was asked not to")
        if kind == "text/html":
            raise broken(f"{place} answers with a page; is the URL right, or a sign-in between?")
        if kind != "text/event-stream":
            body = self._http.hide((await self._http.read(response)).decode("utf-8", "replace")).encode()
            said = read_error(body) if kind == "application/json" else ""
            what = f"{one_line(kind, 60) or 'no type'} and not with a stream of events"
            raise broken(f"{place} answers with {what}{': ' * bool(said)}{said}")


def _tell(waiting: list[Piece], on_piece: Callable[[Piece], None]) -> None:
    for piece in waiting:
        on_piece(piece)
    waiting.clear()
