"""The newest camera frame, and when an instruction is a new one. No ROS; times are nanoseconds of a passed clock."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from segzero_ros.core.contract import Cancel, SegzeroError, Status


@dataclass(frozen=True)
class Frame:
    """image, camera_info: messages as received. stamp: of the header, or `received` where that is zero."""

    image: Any
    camera_info: Any
    stamp: int
    received: int
    number: int  # counts the frames that came


class FrameStore:
    """Keeps one frame. The newest is the one that came last: a camera may go back in time."""

    INFOS = 8  # camera_info may come a little before or after its image

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._infos: OrderedDict[int, Any] = OrderedDict()
        self.count = 0
        self.info_count = 0  # that came

    def put(self, image: Any, stamp: int, now: int) -> None:
        with self._condition:
            if self._frame and stamp and stamp < self._frame.stamp:
                # a restarted camera or bag: calibrations of the time ahead belong to another run
                for later in [s for s in self._infos if s > stamp]:
                    del self._infos[later]
            self.count += 1
            self._frame = Frame(image, None, stamp or now, now, self.count)
            self._condition.notify_all()

    def put_info(self, info: Any, stamp: int) -> None:
        with self._condition:
            self.info_count += 1
            self._infos.pop(stamp, None)
            self._infos[stamp] = info
            while len(self._infos) > self.INFOS:
                self._infos.popitem(last=False)

    def clear(self) -> None:
        with self._condition:
            self._frame = None
            self._infos.clear()

    def wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def newest(self) -> Frame | None:
        """The frame with its camera_info: of the same stamp, else the last that came."""
        with self._condition:
            return self._joined()

    def take(self, now: Any, max_age: float, timeout: float, cancel: Cancel, after: int = 0) -> Frame:
        """The newest frame not older than max_age seconds (0: any), or the next such frame within `timeout` seconds.

        now() is the clock of the stamps; `after` asks for a frame with a higher number.
        Raises SegzeroError NO_IMAGE, STALE_IMAGE or CANCELLED.
        """
        deadline = time.monotonic() + timeout
        with self._condition:
            while not cancel.is_set():
                frame = self._frame
                if frame and frame.number > after and (max_age <= 0 or age(frame, now(), max_age) <= max_age):
                    return self._joined()  # type: ignore[return-value]
                left = deadline - time.monotonic()
                if left <= 0:
                    if frame is None:
                        raise SegzeroError(Status.NO_IMAGE, f"no image came within {timeout:g} s")
                    raise SegzeroError(
                        Status.STALE_IMAGE,
                        f"the newest image is older than max_age ({max_age:g} s) and no newer one came within "
                        f"{timeout:g} s; a played bag needs --clock and use_sim_time",
                    )
                self._condition.wait(left)
        raise SegzeroError(Status.CANCELLED, "cancelled while waiting for an image")

    def _joined(self) -> Frame | None:
        frame = self._frame
        if frame is None:
            return None
        info = self._infos.get(frame.stamp)
        if info is None and self._infos:
            info = next(reversed(self._infos.values()))
        return Frame(frame.image, info, frame.stamp, frame.received, frame.number)


def age(frame: Frame, now: int, slack: float) -> float:
    """Seconds since the frame's stamp; infinite when the clock went back by more than `slack` since it came."""
    if now < frame.received - slack * 1e9:
        return float("inf")
    return (now - min(frame.stamp, frame.received)) / 1e9


class Instructions:
    """Tells a new instruction from a repeated one."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None

    def accept(self, text: str, now: int, repeat_gap: float, active: tuple[str, ...]) -> bool:
        """False when `text` is in `active` (queued or running), or came before within repeat_gap seconds."""
        last, self._last = self._last, (text, now)
        if text in active:
            return False
        return not (last and last[0] == text and 0 <= now - last[1] < repeat_gap * 1e9)

    def forget(self) -> None:
        self._last = None
