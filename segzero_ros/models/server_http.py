"""HTTP to one server: a call's connections, the silence that is borne, and faults as sentences without the key."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2

from segzero_ros.core.contract import Cancel, SegzeroError, Status
from segzero_ros.core.text import one_line
from segzero_ros.models.cancellable import run_until_set
from segzero_ros.models.server_address import Address, read_key
from segzero_ros.models.server_events import broken
from segzero_ros.models.server_failures import ServerError, explain_connection, explain_refusal
from segzero_ros.models.server_proxy import find_proxy
from segzero_ros.models.server_secrets import hide, hide_in_logs

CONNECT = 5.0  # seconds until a connection stands
SILENCE = 300.0  # seconds without a word of an answer; a request's own time limit is its flag's
MAX_BODY = 1 << 20  # bytes of what is no stream
LOGGERS = ("httpx2", "httpcore2.connection", "httpcore2.http11", "httpcore2.proxy", "httpcore2.socks")

Call = Callable[[httpx2.AsyncClient], Coroutine[Any, Any, None]]


class ServerHttp:
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
    async def response(
        self, connections: httpx2.AsyncClient, method: str, url: str, **given: Any
    ) -> AsyncIterator[httpx2.Response]:
        """The library's stream, whose head has to come within the silence, however it drips."""
        request = connections.build_request(method, url, **given)
        sent = asyncio.ensure_future(connections.send(request, stream=True))
        try:
            await asyncio.wait({sent}, timeout=self._silence + self._connect)
            if not sent.done():
                raise self._silent()
            yield sent.result()
        finally:
            sent.cancel()
            for response in await asyncio.gather(sent, return_exceptions=True):
                if isinstance(response, httpx2.Response):
                    await response.aclose()

    def _silent(self) -> ServerError:
        return ServerError(
            Status.TIMEOUT, f"{self.address.base} keeps the connection, and has written nothing for {self._silence:g} s"
        )

    def refuse_silence(self, heard: float) -> None:
        if time.monotonic() - heard > self._silence:
            raise self._silent()

    async def read(self, response: httpx2.Response) -> bytes:
        """The beginning of a body that is no stream, as it came: a compressed one could be of any size."""
        body, began = bytearray(), time.monotonic()
        async for data in response.aiter_raw():
            self.refuse_silence(began)
            body += data
            if len(body) > MAX_BODY:
                break
        return bytes(body[:MAX_BODY])

    def refusal(self, response: httpx2.Response, body: bytes) -> ServerError:
        body = self.hide(body.decode("utf-8", "replace")).encode()
        headers = {name.lower(): self.hide(value) for name, value in response.headers.items()}
        place, proxy = self.address.base, find_proxy(self.address)
        return explain_refusal(place, response.status_code, headers, body, has_key=bool(self._key), proxy=proxy)

    def hide(self, text: str) -> str:
        """A server may say the key again; no sentence of ours shall."""
        return hide(text, self._key)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """The library's exceptions hold the request with its key, so none of them goes on as a cause."""
        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            found = explain_connection(self.address.base, error, self._silence, find_proxy(self.address))
            raise ServerError(
                found.status, self.hide(found.message), code=found.code, again_after=found.again_after
            ) from None
        except SegzeroError as error:
            if (message := self.hide(error.message)) == error.message:
                raise
            raise SegzeroError(error.status, message) from None


def _trusted() -> ssl.SSLContext:
    try:
        return httpx2.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        named = " and ".join(n for n in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(n)) or "the system's"
        sentence = f"the certificates to trust cannot be read ({named}): {one_line(error, 100)}"
        raise SegzeroError(Status.NOT_READY, sentence) from None
