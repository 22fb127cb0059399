"""The process that a command runs in: a standard error that may fail, and an interruption that ends it at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

INTERRUPTED = 130  # exit code, as shells have it


class ForgivingStream:
    """Standard error on a full disk, or read by nobody: what is said there is lost, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """What is still in the buffer goes nowhere, or the interpreter would fail over it at its end."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def end_at_once(wanted: bool = True) -> Iterator[None]:
    """Inside, Ctrl-C ends the process with a line: of an interrupted import, libraries make errors and tracebacks.

    For what writes nothing. Leaves alone whoever has a handler, or ignores interruptions, and threads but the main one.
    """
    import signal
    import threading

    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not (wanted and main and before is signal.default_int_handler):
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"\nsegzero: interrupted\n" if os.isatty(2) else b"segzero: interrupted\n")  # a bar's line
    os._exit(INTERRUPTED)
