"""A proxy between here and a server: which variable leads there, and whether a refusal is the proxy's own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from segzero_ros.core.text import one_line
from segzero_ros.models.server_address import Address

_OWN = ("proxy-authenticate", "x-squid-error")
_PASSED_ON = (
    "via",
    "proxy-status",
    "proxy-agent",
)  # in the server's own answers, too, where a proxy gave them on


def find_proxy(address: Address) -> str:
    """The variable that leads to a proxy, with the proxy's place: `HTTP_PROXY (proxy:3128)`; "" where none does.

    A user and password in it are not shown.
    """
    if address.is_loopback:
        return ""
    proxies = getproxies()
    scheme = next((s for s in (urlsplit(address.base).scheme, "all") if proxies.get(s)), "")
    if not scheme or proxy_bypass(address.host):
        return ""
    name = f"{scheme}_proxy"
    place = proxies[scheme].rpartition("@")[2].rpartition("//")[2]
    return f"{name if os.environ.get(name) else name.upper()} ({one_line(place, 80)})"


def is_refused_by_proxy(code: int, headers: Mapping[str, str], body: bytes) -> bool:
    """headers: names in lower case. What was passed on and is no JSON is the proxy's: such servers refuse in JSON.

    A redirect is none.
    """
    if code < 400:
        return False
    if code == 407 or any(name in headers for name in _OWN):
        return True
    return any(name in headers for name in _PASSED_ON) and not _is_json(body)


def advise(proxy: str, host: str) -> str:
    """proxy: of find_proxy."""
    if not proxy:
        return "no proxy variable is set here, so it stands before the server"
    return f"{proxy} leads there; put {host} into NO_PROXY if the server is reached without it"


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), (dict, list))
    except (ValueError, RecursionError):
        return False
