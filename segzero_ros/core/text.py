"""Text for the wire: every string that leaves the process passes here."""

from __future__ import annotations


def clean(text: object) -> str:
    """A string that DDS, JSON and loggers can carry: no lone surrogates, no zero bytes.

    Names of files that are not UTF-8 reach Python with lone surrogates, and a model may write anything.
    """
    return str(text).encode("utf-8", "replace").decode("utf-8").replace("\0", " ")


def one_line(text: object, limit: int = 300) -> str:
    """For a log: no line break and no escape sequence of a hostile instruction, at most `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in clean(text)).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def first_line(error: BaseException, limit: int = 300) -> str:
    """An error in one line. rcl adds the place in its own source, and sometimes a second error."""
    text = clean(str(error).split(", at /")[0]).strip()
    return (text.splitlines() or [type(error).__name__])[0][:limit]
