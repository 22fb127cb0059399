"""The server's key in what others say: hidden in sentences and in logs, however it is spelt."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache

SHORTEST_KEY = 6  # characters; what is shorter is no secret, and may be a part of any word


def hide(text: str, key: str) -> str:
    """The text with *** in place of the key."""
    return _spelt(key).sub("***", text) if len(key) >= SHORTEST_KEY else text


@cache
def _spelt(key: str) -> re.Pattern[str]:
    """The key, also as JSON may spell its characters: by a number, or with a backslash before."""
    plain = [(r"\\?" if c in '"\\/' else "") + re.escape(c) for c in key]
    return re.compile("".join(rf"(?:{p}|\\u(?i:{ord(c):04x}))" for p, c in zip(plain, key, strict=True)))


class _WithoutKey(logging.Filter):
    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = hide(record.getMessage(), self._key), ()
        return True


@cache
def hide_in_logs(key: str, loggers: Sequence[str]) -> None:
    """A library may log the headers of answers, in which a server may say the key again."""
    for name in loggers:
        logging.getLogger(name).addFilter(_WithoutKey(key))
