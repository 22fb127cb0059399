"""Clicks: a point of an image, or of space, asks for the object that is there. Its answer goes out on the topics.

* ~/point (PointStamped): a pixel of ~/source_image; stamp zero: of the newest frame, else of that very frame.
* click_topic: further pixels, of a PointStamped or of a Point, which rqt_image_view publishes on IMAGE_mouse_left, for
  the newest frame. A node can take one type of a topic; it is that of the publishers.
* clicked_point_topic (PointStamped): a point in space, as RViz's tool publishes it, in any frame that TF knows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from geometry_msgs.msg import Point, PointStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from segzero_ros.core.contract import Point as Pixel
from segzero_ros.core.contract import Prompt
from segzero_ros.core.text import first_line, one_line
from segzero_ros.core.tickets import Asked, Asker, Wish
from segzero_ros.ros.inputs import nanoseconds
from segzero_ros.ros.qos import RELIABLE, profile, reliability_for

PAUSE = 0.05  # seconds between two clicks that are handed over; of those between, the newest
TYPES = {f"geometry_msgs/msg/{kind.__name__}": kind for kind in (Point, PointStamped)}

# message, frame, (height, width) -> pixel. Called by the worker, so it may wait for TF. Raises SegzeroError.
PixelOf = Callable[[PointStamped, Any, tuple[int, int]], Pixel]


class Clicks:
    """The topics of a configured node. ask: that of `core.requests`. Thread-safe."""

    def __init__(self, node: Any, ask: Callable[..., Asked], pixel_of: PixelOf) -> None:
        self._node = node
        self._ask = ask
        self._pixel_of = pixel_of
        self._group = MutuallyExclusiveCallbackGroup()
        self._lock = threading.Lock()
        self._topics: list[_Topic] = []
        self._newest: Wish | None = None
        self._timer: threading.Timer | None = None
        self._last = 0.0

    def open(self, click_topic: str = "", clicked_point_topic: str = "") -> None:
        """Subscribes; an empty name is no topic. Raises ValueError for a name that is none or that two have."""
        wanted: list[tuple[str, str, Callable[[Any], Wish]]] = [("~/point", "~/point", _wish_of_pixel)]
        if click_topic:
            wanted.append(("click_topic", click_topic, _wish_of_pixel))
        if clicked_point_topic:
            wanted.append(("clicked_point_topic", clicked_point_topic, self._wish_of_space))
        with self._lock:
            try:
                for parameter, name, wish_of in wanted:
                    topic = self._resolved(parameter, name)
                    if any(t.name == topic for t in self._topics):
                        raise ValueError(f"{parameter} is {topic}, which is another topic of clicks already")
                    follows = parameter == "click_topic"
                    self._topics.append(_Topic(self._node, topic, follows, partial(self._hear, wish_of), self._group))
            except Exception:
                self._close()
                raise

    def close(self) -> None:
        with self._lock:
            self._close()

    def look(self) -> None:
        """Follows the publishers' type and reliability."""
        with self._lock:
            for topic in self._topics:
                if topic.follow():
                    self._node.get_logger().info(f"{topic.name}: {topic.kind.__name__} now, as its publishers offer")

    def _close(self) -> None:
        for topic in self._topics:
            topic.close()
        self._topics, self._newest = [], None

    def _resolved(self, parameter: str, name: str) -> str:
        try:
            return str(self._node.resolve_topic_name(name))
        except Exception as error:
            raise ValueError(f"{parameter} is {name!r}, which is no topic name: {first_line(error)}") from error

    def _wish_of_space(self, message: PointStamped) -> Wish:
        def prompts(frame: Any, size: tuple[int, int]) -> tuple[Prompt, ...]:
            return _prompts(*self._pixel_of(message, frame, size))

        return Wish(prompts=prompts)

    def _hear(self, wish_of: Callable[[Any], Wish], message: Any) -> None:
        with self._lock:
            if not self._topics or self._timer is not None:
                self._newest = wish_of(message) if self._topics else None
                return
            self._newest = wish_of(message)
            left = self._last + PAUSE - time.monotonic()
            if left > 0:
                self._timer = threading.Timer(left, self._hand_over)
                self._timer.daemon = True
                self._timer.start()
                return
        self._hand_over()

    def _hand_over(self) -> None:
        """A click replaces an earlier one, as an instruction does."""
        with self._lock:
            wish, self._newest, self._timer = self._newest, None, None
            self._last = time.monotonic()
        if wish is None:
            return
        asked = self._ask("", Asker.CLICK, wish=wish)
        what = wish.prompts[0].points[0] if isinstance(wish.prompts, tuple) else "in space"
        if asked.refusal is None:
            self._node.get_logger().info(f"click {asked.request_id[:8]} {what}")
        else:
            self._node.get_logger().info(f"refused a click {what}: {one_line(asked.refusal.message)}")


class _Topic:
    """One subscription, of the type that the publishers have. Not thread-safe."""

    def __init__(self, node: Any, name: str, follows: bool, hear: Callable[[Any], None], group: Any) -> None:
        self.name = name
        self.kind: type = Point if follows else PointStamped
        self._node = node
        self._follows = follows
        self._hear = hear
        self._group = group
        self._reliability = RELIABLE
        self._subscription: Any = None
        self.kind, self._reliability = self._wanted()
        self._subscribe()

    def follow(self) -> bool:
        """True where it was subscribed anew: at the call after the one that left, since DDS has one type of a topic in
        a process, and the executor lets go of a subscription a moment later.
        """
        wanted = self._wanted()
        if self._subscription is not None:
            if wanted != (self.kind, self._reliability):
                self.close()
            return False
        self.kind, self._reliability = wanted
        self._subscribe()
        return True

    def close(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _subscribe(self) -> None:
        self._subscription = self._node.create_subscription(
            self.kind,
            self.name,
            self._hear,
            profile(1, self._reliability),  # of clicks that nobody has taken yet, the newest
            callback_group=self._group,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _wanted(self) -> tuple[type, ReliabilityPolicy]:
        """As the publishers have it; with several types, the one that is heard now."""
        publishers = self._node.get_publishers_info_by_topic(self.name)
        kind = self.kind
        if self._follows:
            kinds = [TYPES[p.topic_type] for p in publishers if p.topic_type in TYPES]
            kind = kinds[0] if kinds and kind not in kinds else kind
        publishers = [p for p in publishers if TYPES.get(p.topic_type) is kind]
        return kind, reliability_for(publishers, self._reliability)


def _wish_of_pixel(message: Any) -> Wish:
    point, stamp = (message.point, message.header.stamp) if isinstance(message, PointStamped) else (message, None)
    return Wish(prompts=_prompts(point.x, point.y), stamp=0 if stamp is None else nanoseconds(stamp))


def _prompts(x: float, y: float) -> tuple[Prompt, ...]:
    return (Prompt(points=((x, y),), positive=(True,)),)
