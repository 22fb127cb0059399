"""Where a reasoner by URL is, which of its models is meant, and the key that goes there. Imports no HTTP library."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import one_line

# No other variable is read: a key for a service in the internet must not reach whatever server a profile names.
KEY = "SEGZERO_API_KEY"
MAX_CHARS = 1000


@dataclass(frozen=True)
class Address:
    """base: http://host:port/v1, without a slash behind it. model: "" where the server has one only."""

    base: str
    host: str
    model: str = ""

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_address(name: str) -> bool:
    """Whether a reasoner's name is the URL of a server."""
    return name.strip().lower().startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, in any spelling that the system takes: 127.1 and ::ffff:127.0.0.1 are."""
    if host == "localhost":
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        try:
            found = ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, UnicodeEncodeError):
            return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def read_address(url: str) -> Address:
    """`http://host:port/v1`, or `http://host:port/v1#model`; without a path /v1 is meant.

    Raises SegzeroError(NOT_READY); no sentence shows what may be a password.
    """
    text = url.strip()
    if len(text) > MAX_CHARS or not text.isprintable() or " " in text:
        raise _refused("the reasoner's URL is too long, or holds spaces or characters that cannot be printed")
    address, _, model = text.partition("#")  # which may be in a password, as / and ? may: nothing is shown before
    if "@" in address or ("@" in model and address.count("/") < 3):
        raise _refused(f"the reasoner's URL names a user; a key belongs into the environment ({KEY}), not into a URL")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its words may be a part of a password
        raise _refused("the reasoner's URL cannot be read; give http://host:port/v1") from None
    if parts.query:
        raise _refused("the reasoner's URL has a question mark; give http://host:port/v1, or .../v1#model")
    if not host:
        raise _refused(f"the reasoner's URL {one_line(text, 100)} names no host")
    place = f"[{host}]" if ":" in host else host
    if port is not None:
        place += f":{port}"
    path = parts.path.rstrip("/") or "/v1"
    return Address(f"{parts.scheme}://{place}{path}", host, unquote(parts.fragment))


def shown_address(url: str) -> str:
    """For a line on a screen: the address, or why it is none."""
    try:
        address = read_address(url)
    except SegzeroError as error:
        return error.message
    return address.base + (f"#{one_line(address.model, 100)}" if address.model else "")


def read_key(environment: Mapping[str, str] = os.environ) -> str:
    """The key for the server; "" where there is none. Raises SegzeroError(NOT_READY), without showing it."""
    key = environment.get(KEY, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise _refused(f"{KEY} holds characters that no key has")
    return key


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
