"""Files that are whole or as they were: written aside, then renamed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends without an exception. Raises OSError.

    A full disk or an interruption leaves what was there. A link keeps pointing where it does.
    """
    target = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=".segzero-", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, _mode_of(target))
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def why_not_writable(path: Path) -> str:
    """Why a file cannot be written there, found without touching it; "" if it can."""
    try:
        target = Path(os.path.realpath(path))
        parent = target.parent
        if not parent.is_dir():
            return f"there is no folder {parent}"
        if os.path.lexists(target):
            if target.is_dir():
                return "it is a folder"
            if not stat.S_ISREG(target.stat().st_mode):
                return "it is no ordinary file"
            if not os.access(target, os.W_OK):
                return "it may not be written"
        if len(os.fsencode(target.name)) > 255:
            return "its name is too long"
        with tempfile.TemporaryFile(dir=parent):
            pass
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        return getattr(error, "strerror", None) or str(error)
    return ""


def _mode_of(path: Path) -> int:
    """Of the file that is replaced, else as the shell would make a new one."""
    with suppress(OSError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
