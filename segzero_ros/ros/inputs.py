"""The camera's topics: what comes in, at which quality of service, and in words what is wrong when nothing comes.

Frames are pulled, not pushed: nothing is taken from the middleware unless a request or a tracker wants a frame, but for
one look a second that tells a silent camera. At 1080p and 30 Hz taking each frame costs 8 % of a core, this 1 %.
"""

from __future__ import annotations

import copy
import posixpath
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.qos import QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.core.frames import Frame, FrameStore, Side
from segzero_ros.core.text import clean
from segzero_ros.ros.qos import BEST_EFFORT, name_of, profile, reliability_for

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

FRAMES = 5  # kept by the middleware until they are taken, so that a burst that was resent loses none
JUST_NOW = 0.5  # seconds
SILENT = 3.0  # seconds without a frame after which a topic that spoke is called silent
INFO_MAX_AGE = 10.0  # seconds between the stamps of an image and of a camera_info that it may take


def nanoseconds(stamp: Any) -> int:
    """builtin_interfaces/Time as one number. A stamp may be negative, which rclpy's Time refuses."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def input_topics(image: str, compressed: str, camera_info: str) -> tuple[str, str]:
    """Names of the compressed topic and of camera_info by image_transport's convention, where they are not set."""
    return compressed or f"{image}/compressed", camera_info or posixpath.join(posixpath.dirname(image), "camera_info")


def unfit_info(image: Any, info: CameraInfo) -> str:
    """Why a camera_info is not of this image, or "". A compressed image does not tell its size."""
    size = (image.width, image.height) if isinstance(image, Image) else (info.width, info.height)
    if (info.width, info.height) != size:
        return f"it is for {info.width} x {info.height} pixels and the image has {size[0]} x {size[1]}"
    if info.header.frame_id != image.header.frame_id:
        return f"its frame_id is {info.header.frame_id!r} and the image's is {image.header.frame_id!r}"
    return ""


class Pulled(CallbackGroup):
    """Keeps the executor from taking messages; events of the subscription are executed."""

    def can_execute(self, entity: Any) -> bool:
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity: Any) -> bool:
        return self.can_execute(entity)

    def ending_execution(self, entity: Any) -> None:
        return


@dataclass
class _Listener:
    """One topic. put: what to do with a message."""

    kind: type
    topic: str
    depth: int
    put: Callable[[Any], None]
    subscription: Any = None
    reliability: ReliabilityPolicy = BEST_EFFORT
    fixed: bool = False  # qos_overrides says which

    @property
    def type_name(self) -> str:
        return f"sensor_msgs/msg/{self.kind.__name__}"


class Inputs:
    """The subscriptions of a configured node, and the newest frame in `frames`. Thread-safe."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._group = Pulled()
        self._lock = threading.Lock()  # one thread takes at a time, and nothing is destroyed meanwhile
        self._listeners: list[_Listener] = []
        self._came: float | None = None  # time.monotonic() of the newest frame
        self._warned = ""
        self._broken = ""
        self.frames = FrameStore({"camera_info": Side(unfit_info, INFO_MAX_AGE)}, self.pull)

    def open(self, image: str, transport: str, compressed: str, camera_info: str) -> None:
        """Subscribes. Raises what rclpy raises for a name that is no topic; then nothing is subscribed."""
        base = self._node.resolve_topic_name(image)
        compressed, info = input_topics(base, compressed, camera_info)
        kind, topic = (Image, base) if transport == "raw" else (CompressedImage, compressed)
        if topic.endswith("/compressed/compressed"):
            self._node.get_logger().warning(
                f"{topic}: image_topic is the name of the raw topic; /compressed is added to it"
            )
        self._listeners = [
            _Listener(kind, self._node.resolve_topic_name(topic), FRAMES, self._put_image),
            _Listener(CameraInfo, self._node.resolve_topic_name(info), 10, self._put_info),
        ]
        try:
            for listener in self._listeners:
                self._fix(listener)
                self._subscribe(listener, self._wanted(listener))
        except Exception:
            self.close()
            raise
        for listener in self._listeners:
            self._node.get_logger().info(f"listening to {listener.topic} ({listener.type_name})")

    def close(self) -> None:
        with self._lock:
            for listener in self._listeners:
                if listener.subscription is not None:
                    self._node.destroy_subscription(listener.subscription)
            self._listeners = []
            self._came = None
            self._warned = ""
        self.frames.clear()

    def pull(self) -> None:
        """Takes all that has come since the last time, for a request that wants the newest frame."""
        with self._lock:
            for listener in self._listeners:
                for _ in range(listener.depth):
                    if self._take(listener) is None:
                        break

    def peek(self) -> None:
        """Takes the least that tells whether the camera lives: up to the first message that has come just now."""
        with self._lock:
            for listener in self._listeners:
                for _ in range(listener.depth):
                    received = self._take(listener)
                    if received is None or time.time() - received / 1e9 < JUST_NOW:
                        break

    def look(self) -> None:
        """Follows the publishers' reliability: one that came or was restarted may offer another."""
        for listener in list(self._listeners):
            wanted = self._wanted(listener)
            if wanted != listener.reliability and not listener.fixed:
                with self._lock:
                    if listener not in self._listeners:
                        return
                    for _ in range(listener.depth):  # what waits would go with the old subscription
                        self._take(listener)
                    self._subscribe(listener, wanted)
                self._node.get_logger().info(f"{listener.topic}: {name_of(wanted)} now, as its publishers offer")

    def silence(self) -> float | None:
        """Seconds since the last frame; None when none has ever come."""
        return None if self._came is None else time.monotonic() - self._came

    def describe(self) -> str:
        """In words: the image topic, who publishes it, and what does not fit."""
        if not self._listeners:
            return "nothing is listened to"
        listener = self._listeners[0]
        mine = f"{listener.topic} ({listener.type_name}, {name_of(listener.reliability)})"
        publishers = self._node.get_publishers_info_by_topic(listener.topic)
        ends = ", ".join(_end_in_words(p) for p in publishers[:4]) or "none"
        return "; ".join([f"topic {mine}", f"publishers: {ends}", *self._hints(listener, publishers)])

    def warn_missing(self, frame: Frame) -> None:
        """Says once why an answer has no camera_info."""
        why = frame.missing.get("camera_info", "")
        if why and why != self._warned and len(self._listeners) > 1:
            self._node.get_logger().warning(clean(f"no camera_info on {self._listeners[1].topic} fits: {why}"))
        self._warned = why

    @staticmethod
    def calibration(frame: Frame) -> CameraInfo | None:
        """The frame's camera_info under the frame's own header, so that both join by exact time."""
        info = frame.sides.get("camera_info")
        if info is None or info.header == frame.image.header:
            return info
        info = copy.deepcopy(info)
        info.header = frame.image.header
        return info

    def _hints(self, listener: _Listener, publishers: list[Any]) -> list[str]:
        kinds = {p.topic_type for p in publishers}
        hints = []
        if self._broken:
            hints.append(self._broken)
        if publishers and listener.type_name not in kinds:
            compressed = "sensor_msgs/msg/CompressedImage" in kinds
            hints.append(f"nobody there publishes {listener.type_name}")
            if compressed or "sensor_msgs/msg/Image" in kinds:
                hints.append(f"set image_transport: {'compressed' if compressed else 'raw'}")
        if listener.topic.endswith("/compressed/compressed"):
            hints.append("image_topic is the name of the raw topic, /compressed is added to it")
        if listener.fixed and any(p.qos_profile.reliability != listener.reliability for p in publishers):
            hints.append(f"qos_overrides asks for {name_of(listener.reliability)}, which not all offer")
        if not publishers:
            others = [t for t, types in self._node.get_topic_names_and_types() if listener.type_name in types]
            own = self._node.get_fully_qualified_name() + "/"
            others = [t for t in others if not t.startswith(own) and self._node.count_publishers(t)]
            if others:
                hints.append(f"there are images on {', '.join(sorted(others)[:4])}")
        return hints

    def _wanted(self, listener: _Listener) -> ReliabilityPolicy:
        if listener.fixed:
            return listener.reliability
        return reliability_for(self._node.get_publishers_info_by_topic(listener.topic), listener.reliability)

    def _fix(self, listener: _Listener) -> None:
        """Reads qos_overrides: rclpy's own would fix the reliability of the first subscription for all later ones."""
        name = f"qos_overrides.{listener.topic}.subscription.reliability"
        if not self._node.has_parameter(name):
            self._node.declare_parameter(name, "")
        value = str(self._node.get_parameter(name).value or "")
        if value:
            try:
                listener.reliability, listener.fixed = ReliabilityPolicy[value.upper()], True
            except KeyError:
                raise ValueError(f"{name} is {value!r}; it is reliable or best_effort") from None

    def _subscribe(self, listener: _Listener, reliability: ReliabilityPolicy) -> None:
        """The old subscription goes when the new one is there."""
        old, quality = listener.subscription, profile(listener.depth, reliability)
        listener.subscription = self._node.create_subscription(
            listener.kind,
            listener.topic,
            listener.put,
            quality,
            callback_group=self._group,
            event_callbacks=self._events(),
            qos_overriding_options=QoSOverridingOptions([QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH]),
        )
        listener.reliability, listener.depth = reliability, max(1, quality.depth)
        if old is not None:
            self._node.destroy_subscription(old)

    def _events(self) -> Any:
        """Looks again when publishers come and go; Humble tells of those alone that do not fit."""

        def look(event: Any) -> None:
            self._look_soon()

        try:
            return SubscriptionEventCallbacks(incompatible_qos=look, matched=look)
        except TypeError:
            return SubscriptionEventCallbacks(incompatible_qos=look)

    def _look_soon(self) -> None:
        """Not at once: the event belongs to the subscription that may have to go."""
        if self._node.executor is not None:
            self._node.executor.create_task(self.look)

    def _take(self, listener: _Listener) -> int | None:
        """One message: when it was received (nanoseconds since 1970, 0 when unknown), or None when none is there.

        One that cannot be read is said and left out.
        """
        subscription = listener.subscription
        try:
            with subscription.handle:
                taken = subscription.handle.take_message(listener.kind, False)
            if taken is None:
                return None
            listener.put(taken[0])
            return int(taken[1].get("received_timestamp", 0))
        except Exception as error:
            self._broken = clean(f"a message could not be read: {type(error).__name__}: {error}")
            self._node.get_logger().warning(f"{listener.topic}: {self._broken}", throttle_duration_sec=10.0)
            return 0

    def _put_image(self, message: Any) -> None:
        self._came, self._broken = time.monotonic(), ""
        self.frames.put(message, nanoseconds(message.header.stamp), int(self._node.get_clock().now().nanoseconds))

    def _put_info(self, message: CameraInfo) -> None:
        self.frames.put_side("camera_info", message, nanoseconds(message.header.stamp))


def _end_in_words(publisher: Any) -> str:
    name = f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}"
    name = "a node" if "_UNKNOWN_" in name else name  # its name comes a moment after its publisher
    return f"{name} ({publisher.topic_type}, {name_of(publisher.qos_profile.reliability)})"
