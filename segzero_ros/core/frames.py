"""The newest camera frame, joined by stamp with what was sent beside it. Messages are opaque; no ROS.

Stamps are nanoseconds of a clock that the caller passes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from segzero_ros.core.contract import Cancel, SegzeroError, Status

POLL = 0.005  # seconds between two looks for a frame while a request waits for one


@dataclass(frozen=True)
class Frame:
    """image, sides: messages as received. stamp: of the header, or `received` where that is zero and `stamped` false.

    missing: why a side has no message for this image, by the side's name.
    """

    image: Any
    stamp: int
    received: int
    number: int  # counts the frames that were taken
    sides: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    stamped: bool = True


@dataclass(frozen=True)
class Side:
    """The rule for a message beside the image, such as its camera_info.

    unfit(image, message) says in words why the message does not belong to the image, or "". max_age: seconds
    between the two stamps. kept: how many are remembered, since one may come a little before or after its image.
    """

    unfit: Callable[[Any, Any], str] = lambda image, message: ""
    max_age: float = 10.0
    kept: int = 16


class FrameStore:
    """Keeps one frame. The newest is the one that came last: a camera may go back in time.

    pull() asks the source for what has come, which calls `put` and `put_side`; it is called without the store's lock.
    """

    def __init__(self, sides: Mapping[str, Side] | None = None, pull: Callable[[], None] = lambda: None) -> None:
        self._rules = dict(sides or {})
        self.pull = pull
        self._condition = threading.Condition()
        self._frame: Frame | None = None
        self._sides: dict[str, OrderedDict[int, Any]] = {name: OrderedDict() for name in self._rules}
        self.count = 0
        self.side_counts = dict.fromkeys(self._rules, 0)

    def put(self, image: Any, stamp: int, now: int) -> None:
        with self._condition:
            if self._frame and stamp and stamp < self._frame.stamp:
                # a restarted camera or bag: what lies ahead in time belongs to another run
                for sides in self._sides.values():
                    for later in [s for s in sides if s > stamp]:
                        del sides[later]
            self.count += 1
            self._frame = Frame(image, stamp or now, now, self.count, stamped=stamp != 0)
            self._condition.notify_all()

    def put_side(self, name: str, message: Any, stamp: int) -> None:
        with self._condition:
            sides = self._sides[name]
            self.side_counts[name] += 1
            sides.pop(stamp, None)
            sides[stamp] = message
            while len(sides) > self._rules[name].kept:
                sides.popitem(last=False)

    def clear(self) -> None:
        with self._condition:
            self._frame = None
            for sides in self._sides.values():
                sides.clear()

    def wake(self) -> None:
        """Look at the cancel flag of who waits now."""
        with self._condition:
            self._condition.notify_all()

    def newest(self) -> Frame | None:
        """The frame with its sides, or None."""
        with self._condition:
            return self._joined()

    def beside(self, name: str, frame: Frame) -> tuple[Any, str]:
        """What one side has for a frame now, also for one that did not come here: the message, or None and why."""
        with self._condition:
            return _beside(frame, self._sides[name], self._rules[name])

    def take(
        self,
        now: Callable[[], int],
        max_age: float,
        timeout: float,
        cancel: Cancel,
        after: int = 0,
        not_before: int = 0,
    ) -> Frame:
        """The newest frame not older than max_age seconds (0: any), or the next such frame within `timeout` seconds.

        now() is the clock of the stamps; `after` asks for a frame with a higher number; not_before, in place of
        max_age, for one whose own stamp is at least this.
        Raises SegzeroError NO_IMAGE, STALE_IMAGE or CANCELLED.
        """
        deadline = time.monotonic() + timeout
        while not cancel.is_set():
            self.pull()
            with self._condition:
                frame = self._frame
                old = age(frame, now(), max_age) if frame else 0.0
                fresh = max_age <= 0 or old <= max_age
                if frame and not_before:
                    fresh = frame.stamped and frame.stamp >= not_before
                if frame and frame.number > after and fresh:
                    return self._joined()  # type: ignore[return-value]
                left = deadline - time.monotonic()
                if left <= 0:
                    if frame and not_before:
                        raise too_early(frame.stamp if frame.stamped else 0, not_before)
                    raise _too_late(frame, old, max_age, timeout)
                self._condition.wait(min(left, POLL))
        raise SegzeroError(Status.CANCELLED, "cancelled while waiting for an image")

    def _joined(self) -> Frame | None:
        frame = self._frame
        if frame is None:
            return None
        sides, missing = {}, {}
        for name, rule in self._rules.items():
            message, why = _beside(frame, self._sides[name], rule)
            if message is None:
                missing[name] = why
            else:
                sides[name] = message
        return replace(frame, sides=sides, missing=missing)


def _beside(frame: Frame, came: OrderedDict[int, Any], rule: Side) -> tuple[Any, str]:
    """The message of the frame's own stamp, else the last one that fits; or None and why."""
    why = "none has come"
    order = list(reversed(came.items()))
    if frame.stamp in came:
        order.insert(0, (frame.stamp, came[frame.stamp]))
    for stamp, message in order:
        apart = abs(frame.stamp - (stamp or frame.stamp)) / 1e9
        problem = rule.unfit(frame.image, message)
        if not problem and apart > rule.max_age:
            problem = f"it is {apart:.1f} s from the image, more than {rule.max_age:g} s"
        if not problem:
            return message, ""
        why = problem if why == "none has come" else why
    return None, why


def too_early(stamp: int, not_before: int, name: str = "the newest image") -> SegzeroError:
    """stamp: of the image, nanoseconds; 0 where it has none."""
    long = f"is {(not_before - stamp) / 1e9:.3f} s older than not_before" if stamp else "has no stamp"
    return SegzeroError(Status.STALE_IMAGE, f"{name} {long}")


def _too_late(frame: Frame | None, old: float, max_age: float, timeout: float) -> SegzeroError:
    within = f"within {max(0.0, timeout):.3g} s"
    if frame is None:
        return SegzeroError(Status.NO_IMAGE, f"no image came {within}")
    if max_age > 0 and old > max_age:
        long = f"{old:.1f} s old" if old < float("inf") else "from before the clock went back"
        return SegzeroError(
            Status.STALE_IMAGE,
            f"the newest image is {long} (max_age is {max_age:g} s) and no newer one came {within}; "
            "clocks may differ, and a played bag needs --clock and use_sim_time",
        )
    return SegzeroError(Status.STALE_IMAGE, f"no newer image came {within}")


def age(frame: Frame, now: int, slack: float) -> float:
    """Seconds since the frame's stamp; infinite when the clock went back by more than `slack` since it came."""
    if now < frame.received - slack * 1e9:
        return float("inf")
    return (now - min(frame.stamp, frame.received)) / 1e9
