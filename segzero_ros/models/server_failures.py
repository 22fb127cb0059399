"""What goes wrong between here and a server, as a status and one sentence: refusals by number, and connections."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpx2

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import one_line
from segzero_ros.models.server_address import KEY
from segzero_ros.models.server_events import server_sentence
from segzero_ros.models.server_proxy import advise, is_refused_by_proxy

MAX_WAIT = 30.0  # seconds that a server may ask us to wait before we ask again
PAUSE = 0.3  # seconds before a connection that broke is tried again
_BUSY = (429, 503)


class ServerError(SegzeroError):
    """code: HTTP's, 0 for a connection. again_after: seconds after which it may be asked again, None for never."""

    def __init__(self, status: Status, message: str, *, code: int = 0, again_after: float | None = None) -> None:
        super().__init__(status, one_line(message, 500))
        self.code, self.again_after = code, again_after

    @classmethod
    def broken(cls, message: str, *, again_after: float) -> ServerError:
        return cls(Status.BACKEND_ERROR, message, again_after=again_after)


def explain_refusal(
    place: str, code: int, headers: Mapping[str, str], body: bytes, *, has_key: bool, proxy: str = ""
) -> ServerError:
    """place: the server's URL. body: the beginning of what it said. proxy: as of find_proxy."""
    said = _said(headers, body)
    why = f": {said}" if said else ""
    status, after = Status.BACKEND_ERROR, None
    if 200 < code < 300:
        sentence = f"{place} sends no answer, with a status of success ({code}); is the URL right?{why}"
    elif is_refused_by_proxy(code, headers, body):
        status, after = (Status.BUSY, _wait(headers)) if code in _BUSY else (status, after)
        sentence = f"a proxy on the way to {place} refuses the request ({code}): {advise(proxy, _host(place))}"
    elif 300 <= code < 400:
        where = one_line(headers.get("location", "nowhere"), 150)
        sentence = f"{place} sends to {where}, which is not followed; give that URL if it is the server"
    elif code in (401, 403):
        sentence = f"{place} refuses the key of {KEY}{why}" if has_key else f"{place} wants a key, set {KEY}{why}"
    elif code == 413:
        sentence = f"{place} takes no request as large as the picture; raise its limit{why}"
    elif code in _BUSY:
        status, after = Status.BUSY, _wait(headers)
        what = "has too many requests" if code == 429 else "is overloaded, or still loads its model"
        sentence = f"{place} {what} ({code}){why}"
    elif code == 404 and not said and not place.endswith("/v1"):
        sentence = f"{place} has no such page (404); the URL of such a server mostly ends in /v1"
    elif 400 <= code < 500:
        sentence = f"{place} refuses the request ({code}){why}"
    else:
        sentence = f"{place} has a fault of its own ({code}){why}"
    return ServerError(status, sentence, code=code, again_after=after)


def explain_connection(place: str, error: BaseException, silence: float, proxy: str = "") -> ServerError:
    """error: of the HTTP library. silence: seconds without a byte that were borne. proxy: as of find_proxy."""
    causes = list(_causes(error))
    again: float | None = None
    is_tls = any(isinstance(e, ssl.SSLError) for e in causes)
    if isinstance(error, httpx2.ProxyError):
        why = one_line(error, 100)
        sentence = f"a proxy on the way to {place} refuses the request ({why}): {advise(proxy, _host(place))}"
    elif proxy and isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)) and not is_tls:
        again = PAUSE
        sentence = f"the proxy on the way to {place} cannot be reached: {advise(proxy, _host(place))}"
    elif isinstance(error, httpx2.ConnectTimeout):
        sentence = f"{place} does not take the connection in time; is it switched on, is a firewall between?"
    elif isinstance(error, httpx2.TimeoutException):
        return ServerError(Status.TIMEOUT, f"{place} has sent and taken nothing for {silence:g} s")
    elif any(isinstance(e, socket.gaierror) for e in causes):
        sentence = f"{place} is not found: the name of its host is not known (DNS)"
    elif tls := next((e for e in causes if isinstance(e, ssl.SSLError)), None):
        reason = getattr(tls, "verify_message", "") or getattr(tls, "reason", "") or "the handshake failed"
        sentence = f"{place} cannot be trusted (TLS: {one_line(reason, 100)}); https where it speaks http?"
    elif isinstance(error, httpx2.ConnectError):
        again = PAUSE
        refused = any(isinstance(e, ConnectionRefusedError) for e in causes)
        what = "the connection was refused; does the server run there?" if refused else one_line(error, 100)
        sentence = f"{place} cannot be reached: {what}"
    elif isinstance(error, httpx2.RemoteProtocolError) and "disconnect" not in str(error):
        sentence = f"{place} does not keep to HTTP: {one_line(error, 100)}"
        again = PAUSE if "peer closed" in str(error) else None
    elif isinstance(error, httpx2.TransportError):
        again = PAUSE
        sentence = f"{place} broke the connection off"
    else:
        sentence = f"{place} cannot be asked: {type(error).__name__}: {one_line(error, 150)}"
    return ServerError(Status.BACKEND_ERROR, sentence, again_after=again)


def _host(place: str) -> str:
    return urlsplit(place).hostname or place


def _said(headers: Mapping[str, str], body: bytes) -> str:
    try:
        text = body.decode("utf-8", "replace").strip()
        if text.startswith("<") or "html" in headers.get("content-type", ""):
            return "a page, which no such server sends; is the URL right, or a sign-in between?"
        return server_sentence(json.loads(text))
    except (ValueError, RecursionError):
        return one_line(text, 200)


def _wait(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds, as a number or a date; None where there is none, or one that is too long to wait for."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = max(0.0, (parsedate_to_datetime(text) - datetime.now(timezone.utc)).total_seconds())
        except (TypeError, ValueError, OverflowError):
            return None
    return seconds if seconds <= MAX_WAIT else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it; the attempts at a host with several addresses come as a group."""
    for _ in range(10):
        if error is None:
            return
        yield error
        yield from getattr(error, "exceptions", ())
        error = error.__cause__ or error.__context__
