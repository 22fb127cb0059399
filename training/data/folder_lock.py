"""One process at a time in a folder that it writes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Taken(OSError):
    """Another process is in the folder."""


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Makes the folder and holds a lock on the file `name` in it, removed afterwards. Raises Taken, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it with the process
            mine = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        except BlockingIOError:
            mine = False
        if not mine:  # or another process has just ended and taken the file away
            raise Taken(f"another process is in {folder}")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
