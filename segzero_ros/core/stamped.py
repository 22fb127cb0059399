"""Messages of one topic by their stamps, as many as some bytes hold, and the one that belongs to an image. No ROS."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from segzero_ros.core.contract import Cancel

POLL = 0.005  # seconds between two looks for a message while somebody waits for it
BACK = 500_000_000  # nanoseconds that a stamp goes back where another run begins; less is a driver's disorder
MOST = 1000  # messages, for those that have no bytes


class StampedBuffer:
    """Thread-safe. Messages are opaque, stamps are nanoseconds. room: bytes; the newest message is kept in any case.

    pull() asks the source for what has come, which calls `put`; it is called without the buffer's lock.
    """

    def __init__(self, room: int, pull: Callable[[], None] = lambda: None) -> None:
        self._room = room
        self._pull = pull
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[Any, int]] = OrderedDict()  # in the order of the stamps
        self._bytes = 0
        self._unstamped = False  # the last message had a stamp of zero
        self.count = 0

    def put(self, message: Any, stamp: int, size: int) -> None:
        """size: bytes that the message takes."""
        with self._lock:
            self.count += 1
            self._unstamped = not stamp
            if not stamp:
                return
            newest = next(reversed(self._kept), stamp)
            if stamp < newest - BACK:  # a restarted camera, bag or simulation
                self._clear()
            self._bytes -= self._kept.pop(stamp, (None, 0))[1]
            self._kept[stamp] = (message, size)
            self._bytes += size
            if stamp < newest:
                self._kept = OrderedDict(sorted(self._kept.items(), key=lambda kept: kept[0]))
            while (self._bytes > self._room or len(self._kept) > MOST) and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            self._clear()

    def find(self, stamp: int, slop: float, timeout: float, cancel: Cancel) -> tuple[Any, str]:
        """The message of this stamp, else the nearest that is at most `slop` seconds away; or None and why.

        Waits up to `timeout` seconds for the message of this very stamp, unless a later one tells that it was lost.
        """
        if not stamp:
            return None, "the image's stamp is zero"
        end = time.monotonic() + timeout
        while True:
            self._pull()
            with self._lock:
                left = end - time.monotonic()
                if stamp in self._kept or self._passed(stamp) or left <= 0 or cancel.is_set():
                    return self._nearest(stamp, slop)
            cancel.wait(min(left, POLL))

    def passed(self, stamp: int) -> bool:
        """Whether the message of this stamp is not to be expected any more."""
        with self._lock:
            return stamp not in self._kept and self._passed(stamp)

    def _passed(self, stamp: int) -> bool:
        """Whether the stamps around it have come. Later ones alone may be from before a clock was set back."""
        return bool(self._kept) and next(iter(self._kept)) < stamp < next(reversed(self._kept))

    def _nearest(self, stamp: int, slop: float) -> tuple[Any, str]:
        if not self._kept:
            return None, "their stamps are zero" if self._unstamped else "none has come"
        nearest = min(self._kept, key=lambda s: abs(s - stamp))
        apart = abs(nearest - stamp) / 1e9
        if apart > slop:
            return None, f"the nearest is {apart:.3g} s away, more than {slop:g} s"
        return self._kept[nearest][0], ""

    def _clear(self) -> None:
        self._kept.clear()
        self._bytes = 0
