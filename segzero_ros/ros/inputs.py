"""The camera's topics: the newest frame with its camera_info, the depth beside it, and whether the camera lives.

Frames are pulled, not pushed: nothing is taken from the middleware unless a request or a tracker wants a frame, but for
one look a second that notices a silent camera; depth is taken for a request alone. docs/frames.md has what that costs.
"""

from __future__ import annotations

import copy
import posixpath
import threading
import time
from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segzero_ros.core.frames import Frame, FrameStore, Side
from segzero_ros.core.stamped import StampedBuffer
from segzero_ros.core.text import clean, first_line
from segzero_ros.ros.convert import LAYOUTS
from segzero_ros.ros.listener import DEPTH, IMAGE, Listener
from segzero_ros.ros.qos import name_of

FRAMES = 5  # kept by the middleware until they are taken, so that a burst that was resent loses none
DEPTHS = 10  # kept likewise: the newest frame may be a few periods behind its depth, when colours come slower
DEPTH_ROOM = 64_000_000  # bytes of depth that was taken: for frames that are given, or asked about again
JUST_NOW = 0.5  # seconds
SILENT = 3.0  # seconds without a frame after which a topic that spoke is called silent
SLOWER = 2.5  # times the time between two frames, after which the next one is missed
INFO_MAX_AGE = 10.0  # seconds between the stamps of an image and of a camera_info that it may take


def nanoseconds(stamp: Any) -> int:
    """builtin_interfaces/Time as one number. A stamp may be negative, which rclpy's Time refuses."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def input_topics(image: str, compressed: str, camera_info: str) -> tuple[str, str]:
    """Names of the compressed topic and of camera_info by image_transport's convention, where they are not set."""
    return compressed or f"{image}/compressed", camera_info or posixpath.join(posixpath.dirname(image), "camera_info")


def size_of(info: CameraInfo) -> tuple[int, int]:
    """(width, height) of the images that a camera_info is for: it tells the sensor's size beside region and binning."""
    width, height = (info.roi.width, info.roi.height) if info.roi.width and info.roi.height else (0, 0)
    width, height = width or info.width, height or info.height
    return width // max(1, info.binning_x), height // max(1, info.binning_y)


def unfit_info(image: Any, info: CameraInfo, size: tuple[int, int] | None = None) -> str:
    """Why a camera_info is not of this image, or "". size: (width, height), which a compressed image does not tell."""
    if size is None and isinstance(image, Image):
        size = (image.width, image.height)
    if size is not None and size not in (size_of(info), (info.width, info.height)):
        return f"it is for {info.width} x {info.height} pixels and the image has {size[0]} x {size[1]}"
    if info.header.frame_id != image.header.frame_id:
        return f"its frame_id is {info.header.frame_id!r} and the image's is {image.header.frame_id!r}"
    return ""


class Inputs:
    """The subscriptions of a configured node, and the newest frame in `frames`. Thread-safe."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._lock = threading.Lock()  # one thread takes at a time, and nothing is destroyed meanwhile
        self._listeners: dict[str, Listener] = {}
        self._came: float | None = None  # time.monotonic() when the newest frame was received
        self._gap = 0.0  # seconds between the two newest frames that were seen
        self._warned = ""
        self.unreadable = ""  # why the last frame that was wanted could not be decoded
        info = Side(unfit_info, INFO_MAX_AGE)  # aligned depth has the colour camera's size and frame
        self.frames = FrameStore({"camera_info": info, "depth_info": info}, self.pull)
        self.depth = StampedBuffer(DEPTH_ROOM, self._pull_depth)

    def open(self, image: str, transport: str, compressed: str, camera_info: str) -> None:
        """Subscribes. Raises ValueError for a name that is no topic and for an override; nothing is subscribed then."""
        base = self._resolved(image, "image_topic")
        compressed, info = input_topics(base, compressed, camera_info)
        kind, topic = (Image, base) if transport == "raw" else (CompressedImage, compressed)
        self._listen("image", kind, topic, "compressed_topic", FRAMES, self._put_image)
        try:
            self._listen("camera_info", CameraInfo, info, "camera_info_topic", 10, self._put_info)
        except Exception:
            self.close()
            raise

    def open_depth(self, depth: str, transport: str, info: str) -> None:
        """Subscribes to depth beside what is open, by image_transport's convention, and to its camera_info if it is
        named. Raises ValueError as `open` does."""
        base = self._resolved(depth, "depth_topic")
        kind, topic = (Image, base) if transport == "raw" else (CompressedImage, f"{base}/{transport}")
        self._listen("depth", kind, topic, "depth_topic", DEPTHS, self._put_depth)
        if info:
            self._listen("depth_info", CameraInfo, info, "depth_info_topic", 10, self._put_depth_info)

    def _listen(
        self, name: str, kind: type, topic: str, parameter: str, depth: int, put: Callable[[Any, int], None]
    ) -> None:
        names = DEPTH if name == "depth" else IMAGE
        with self._lock:
            listener = Listener(self._node, kind, self._resolved(topic, parameter), depth, put, names)
            self._listeners[name] = listener
        self._node.get_logger().info(f"listening to {listener.topic} ({listener.type_name})")
        if listener.doubled:
            why = f"{names.topic} is the name of the raw topic; /{names.packed} is added to it"
            self._node.get_logger().warning(why)

    def close(self) -> None:
        with self._lock:
            listeners, self._listeners = self._listeners, {}
            for listener in listeners.values():
                listener.close()
            self._came, self._gap, self._warned, self.unreadable = None, 0.0, "", ""
        self.frames.clear()
        self.depth.clear()

    def pull(self) -> None:
        """Takes all that has come since the last time, for a request that wants the newest frame."""
        self._drain("image", "camera_info")

    def _pull_depth(self) -> None:
        self._drain("depth", "depth_info")

    def _drain(self, *names: str) -> None:
        with self._lock:
            for listener in self._named(*names):
                listener.drain()

    def _named(self, *names: str) -> list[Listener]:
        return [self._listeners[name] for name in names if name in self._listeners]

    def peek(self) -> None:
        """Takes the least that tells whether the camera lives: up to the first message that has come just now."""
        with self._lock:
            for listener in self._named("image", "camera_info"):
                for _ in range(listener.depth):
                    received = listener.take()
                    if received is None or time.time() - received / 1e9 < JUST_NOW:
                        break

    def look(self) -> None:
        """Follows the publishers' reliability: one that came or was restarted may offer another."""
        with self._lock:
            changed = [listener for listener in self._listeners.values() if listener.follow()]
        for c in changed:
            self._node.get_logger().info(f"{c.topic}: {name_of(c.reliability)} now, as its publishers offer")

    def silence(self) -> float | None:
        """Seconds since the last frame was received; None when none has ever come."""
        came = self._came
        return None if came is None else time.monotonic() - came

    def patience(self, wait: float) -> float:
        """Seconds to wait for the next frame before it is missed: `wait`, and longer for a camera that is slower."""
        return max(wait, SLOWER * self._gap)

    def complaint(self, max_age: float) -> str:
        """Why a request that came now would get no frame, or "". max_age: seconds, 0 for any."""
        frame, silence = self.frames.newest(), self.silence()
        if frame is None or silence is None:
            return "no image yet"
        if silence > self.patience(SILENT):
            return f"no image for {silence:.0f} s"
        late = (frame.received - frame.stamp) / 1e9
        if max_age > 0 and late > max_age:
            return f"images come {late:.1f} s old, and max_age is {max_age:g} s"
        if isinstance(frame.image, Image) and frame.image.encoding not in LAYOUTS:
            return f"images are {frame.image.encoding[:40]!r}, an encoding that is not taken"
        return self.unreadable

    def describe(self, name: str = "image") -> str:
        """In words: the image topic, who publishes it, and what does not fit. name: or "depth", "camera_info", ..."""
        listener = self._listeners.get(name)
        return listener.describe() if listener else "nothing is listened to"

    def topic(self, name: str) -> str:
        """The resolved name of what is listened to, or ""."""
        listener = self._listeners.get(name)
        return listener.topic if listener else ""

    def warn_missing(self, frame: Frame) -> None:
        """Says once why an answer has no camera_info."""
        why, topic = frame.missing.get("camera_info", ""), self.topic("camera_info")
        if why and why != self._warned and topic:
            self._node.get_logger().warning(clean(f"no camera_info on {topic} fits: {why}"))
        self._warned = why

    def _resolved(self, topic: str, parameter: str) -> str:
        try:
            return str(self._node.resolve_topic_name(topic))
        except Exception as error:
            raise ValueError(f"{parameter} is {topic!r}, which is no topic name: {first_line(error)}") from error

    @staticmethod
    def calibration(frame: Frame) -> CameraInfo | None:
        """The frame's camera_info under the frame's own header, so that both join by exact time."""
        info = frame.sides.get("camera_info")
        if info is None or info.header == frame.image.header:
            return info
        info = copy.deepcopy(info)
        info.header = frame.image.header
        return info

    def _put_image(self, message: Any, received: int) -> None:
        """received: of the computer's clock; a frame may have waited in the middleware for long."""
        waited = max(0.0, time.time() - received / 1e9) if received else 0.0
        before, self._came = self._came, time.monotonic() - waited
        self._gap = 0.0 if before is None else self._came - before
        now, stamp = self._node.get_clock().now().nanoseconds, nanoseconds(message.header.stamp)
        # A simulated clock may stand still meanwhile; no image is received before its stamp.
        self.frames.put(message, stamp, max(int(now - waited * 1e9), stamp if stamp <= now else 0))

    def _put_info(self, message: CameraInfo, received: int) -> None:
        self.frames.put_side("camera_info", message, nanoseconds(message.header.stamp))

    def _put_depth(self, message: Any, received: int) -> None:
        self.depth.put(message, nanoseconds(message.header.stamp), len(message.data))

    def _put_depth_info(self, message: CameraInfo, received: int) -> None:
        self.frames.put_side("depth_info", message, nanoseconds(message.header.stamp))
