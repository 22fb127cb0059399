"""Annotation files as text: UTF-8 and nothing guessed, since a wrong guess teaches words that nobody wrote."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The longer marks first: UTF-32's begins like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_NULLS = re.compile(rb"(?:(\0\0\0[^\0])|([^\0]\0\0\0)|(\0[^\0])|([^\0]\0))")  # a text's first character
_WIDE = ("utf-32-be", "utf-32-le", "utf-16-be", "utf-16-le")
LATIN = "cp1252"


def check_encoding(name: str) -> str:
    """Raises ValueError for a name that is no encoding of texts."""
    try:
        known = codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError, TypeError, UnicodeError):
        known = False
    if not known:
        raise ValueError(
            f"--encoding {name[:40]!r}: there is no such encoding of texts; gbk, shift_jis, cp1251 are some"
        )
    return name


def read_text(path: Path, encoding: str | None = None, foreign: Callable[[str], str] | None = None) -> tuple[str, bool]:
    """The text of a file, and whether it is Windows-1252.

    encoding: what it is in where it is not UTF-8. foreign: a part of a text that shows that it is not Windows-1252, or
    "", where that is taken too. Raises ValueError that names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if packed := next((name for mark, name in _PACKED if data.startswith(mark)), ""):
        raise ValueError(f"{path} is packed ({packed}): unpack it first")
    if encoding is not None:
        return _decoded(data, path, check_encoding(encoding)), False
    for mark, name in _MARKS:
        if data.startswith(mark):
            raise ValueError(f"{path} is in {name.upper()} by its mark, and only UTF-8 is read: say --encoding {name}")
    if wide := _NULLS.match(data):
        name = _WIDE[(wide.lastindex or 1) - 1]
        raise ValueError(f"{path} seems to be in {name.upper()}, and only UTF-8 is read: say --encoding {name}")
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError as error:
        why = ""
        if foreign is not None:
            text = data.decode(LATIN, "replace")
            if not (words := foreign(text)):
                return text, True
            why = f", and no English in Windows-1252 ({words[:40]!r})"
        say = "say what it is in by --encoding NAME, such as gbk or cp1252"
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}){why}: {say}") from error


def _decoded(data: bytes, path: Path, encoding: str) -> str:
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig") and not data.isascii() and _is_utf_8(data):
        raise ValueError(f"{path} is UTF-8, and in {encoding} it would be other words: leave out --encoding")
    try:
        text = data.decode(encoding)
    except (UnicodeError, ValueError) as error:
        raise ValueError(f"{path} is not in {encoding}: {str(error)[:120]}") from error
    return text.removeprefix("\ufeff")


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def parse_json(text: str, path: Path) -> Any:
    """Raises ValueError that names the file, also where a key is given twice: of two lists only the last is kept."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except _Twice as error:
        raise ValueError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits too
        raise ValueError(f"{path} is no JSON: {error}") from error


class _Twice(ValueError):
    """A key has two values in one object."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                raise _Twice(f"the key {key[:80]!r} is given twice in one object, with different values")
    return found


def load_json(path: Path, encoding: str | None = None) -> Any:
    """A JSON file in UTF-8, or in `encoding`. Raises ValueError that names the file."""
    return parse_json(read_text(path, encoding)[0], path)
