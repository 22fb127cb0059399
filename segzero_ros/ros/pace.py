"""Replies leave one after another: a client keeps ten of them by default, and a burst overwrites the first."""

from __future__ import annotations

import threading
import time

PAUSE = 0.02  # seconds between two replies
BURST = 200  # requests that the middleware holds until they are taken; its own default of 10 loses the eleventh


class Pace:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0.0

    def keep(self) -> None:
        """Returns when the next reply may leave."""
        with self._lock:
            time.sleep(max(0.0, self._last + PAUSE - time.monotonic()))
            self._last = time.monotonic()
