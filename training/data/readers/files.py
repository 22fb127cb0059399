"""Which annotated names are of one image file, though they differ: `images\\1.png`, `./1.png` and `1.png`."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

from training.data.image_names import ImageFolder


def one_name_per_file(names: Iterable[str], folder: ImageFolder | None) -> dict[str, str]:
    """By annotated name the first one that is of the same file: of that which the folder finds for both, links
    resolved. Names for which it finds none are the same only where they differ in spelling alone."""
    first: dict[tuple[bool, str], str] = {}
    found = {}
    for name in dict.fromkeys(names):
        file = folder.file_of(name) if folder else None
        found[name] = first.setdefault((False, _plain(name)) if file is None else (True, file), name)
    return found


def names_in_doubt(same: dict[str, str], folder: ImageFolder | None) -> dict[str, str]:
    """By a name that has no file for certain the name whose file it may mean. same: as `one_name_per_file` gives it."""
    if folder is None:
        return {}
    files = {name: folder.file_of(name) for name in same}
    whose = {file: same[name] for name, file in reversed(files.items()) if file is not None}
    doubtful = {name: folder.file_in_doubt(name) for name, file in files.items() if file is None}
    return {name: whose[file] for name, file in doubtful.items() if file in whose}


def _plain(name: str) -> str:
    parts = unquote(name).replace("\\", "/").split("/")
    return unicodedata.normalize("NFC", "/".join(part for part in parts if part not in ("", ".")))
