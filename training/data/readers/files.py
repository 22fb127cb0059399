"""Which annotated names are of one image file, though they differ: `images\\1.png`, `./1.png` and `1.png`."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote


def one_name_per_file(names: Iterable[str], folder: Path | None) -> dict[str, str]:
    """By annotated name the first one that is of the same file.

    A name that ends like another is of the same file, unless it is itself in the folder as it is written.
    """
    plain = {name: _plain(name) for name in names}
    folded: dict[str, list[str]] = {}
    for name in dict.fromkeys(plain.values()):
        folded.setdefault(name.casefold(), []).append(name)
    first: dict[str, str] = {}
    found = {}
    for name, form in plain.items():
        same = form if folder is None else _shortest(form, folded, folder)
        found[name] = first.setdefault(same, name)
    return found


def _shortest(name: str, folded: Mapping[str, list[str]], folder: Path) -> str:
    """The shortest known name of the file; files are looked for only where there is a choice."""
    parts = name.casefold().split("/")
    others = [o for n in range(len(parts) - 1, -1, -1) for o in folded.get("/".join(parts[n:]), ())]
    if others == [name] or _there(name, folder):
        return name
    return next((other for other in others if _there(other, folder)), min(others, key=lambda o: (len(o), o)))


def _plain(name: str) -> str:
    parts = unquote(name).replace("\\", "/").split("/")
    return unicodedata.normalize("NFC", "/".join(part for part in parts if part not in ("", ".")))


def _there(name: str, folder: Path) -> bool:
    return "\0" not in name and len(name) < 1000 and os.path.exists(os.path.join(folder, name))
