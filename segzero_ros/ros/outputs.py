"""When and to whom answers are published, on a thread of their own. What each topic says is in products.py.

All reliable, transient local, depth 1, so that a late subscriber still gets the answer. Heavy outputs are computed when
somebody listens: at once, or from the current answer for a subscriber that comes late. Nobody ever gets an older one.

Words and numbers go first and wait for no picture. In Fast DDS's shared memory a large sample evicts a small one that
has not been read yet and is resent seconds later or never, so a large one is sent when the small ones have arrived.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.duration import Duration
from rclpy.qos_overriding_options import QoSOverridingOptions
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String

from segzero_ros.core.text import clean, one_line
from segzero_ros.ros import products
from segzero_ros.ros.products import Reply
from segzero_ros.ros.qos import profile

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

LATE_PERIOD = 0.25  # seconds between looks for late subscribers
ARRIVAL = 1.0  # seconds that pictures wait at most for small messages to arrive
_FORGET, _END = object(), object()


def _has_frame(reply: Reply) -> bool:
    return reply.image is not None


def _has_masks(reply: Reply) -> bool:
    return reply.answered


def _arrived(publisher: Any) -> bool:
    """Whether every reliable reader has all that was published; also where the middleware cannot tell."""
    try:
        return bool(publisher.wait_for_all_acked(Duration()))
    except Exception:
        return True


@dataclass
class _Output:
    """One topic. make: its message about an answer, or None. known: whether there can be one, before it is made.

    latched: its publisher's history holds a message. current: the topic needs nothing more about the current answer.
    """

    name: str
    kind: type
    make: Callable[[Reply], Any]
    heavy: bool = False
    known: Callable[[Reply], bool] = lambda reply: True
    publisher: Any = None
    latched: bool = False
    current: bool = True


class Outputs:
    """The publishers of a node. `put`, `forget` and `close` may be called from any thread and return at once."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reply: Reply | None = None
        self._latest = 0.0  # when pictures have waited enough, on the monotonic clock
        self._all = [
            _Output("~/result", SegmentationMsg, products.result),
            _Output("~/reasoning", String, products.reasoning),
            _Output("~/result_json", String, products.result_text),
            _Output("~/camera_info", CameraInfo, products.camera_info),
            _Output("~/source_image", Image, products.source_image, heavy=True, known=_has_frame),
            _Output("~/mask", Image, products.mask, heavy=True, known=_has_masks),
            _Output("~/label_mask", Image, products.label_mask, heavy=True, known=_has_masks),
            _Output("~/overlay", Image, products.overlay, heavy=True, known=_has_frame),
            _Output("~/overlay/compressed", CompressedImage, products.overlay_compressed, heavy=True, known=_has_frame),
            _Output("~/answer_image", Image, products.answer_image, heavy=True, known=_has_frame),
        ]
        for output in self._all:
            output.publisher = self._publisher(output)
        self._add_vision_msgs()
        self._thread = threading.Thread(target=self._run, name="segzero-outputs", daemon=True)
        self._thread.start()

    def put(self, reply: Reply | Callable[[], Reply]) -> None:
        """Publish this answer, or the one that this makes, after those that were put before."""
        self._queue.put(reply)

    def forget(self) -> None:
        """Let no topic say anything to a late subscriber until the next answer."""
        self._queue.put(_FORGET)

    def close(self, deadline: float) -> bool:
        """Publish what was put and end the thread. False when it did not end within `deadline` seconds."""
        self._queue.put(_END)
        self._thread.join(deadline)
        return not self._thread.is_alive()

    # -- the thread

    def _run(self) -> None:
        while True:
            behind = any(o.heavy and not o.current for o in self._all)
            try:
                item = self._queue.get(timeout=LATE_PERIOD if behind else None)
            except queue.Empty:
                item = None
            if item is _END:
                return
            try:
                self._do(item)
            except Exception as error:  # of the middleware: the next answer may go out
                self._error("publishing", error)

    def _do(self, item: Any) -> None:
        if item is None:
            self._serve_heavy()
        elif item is _FORGET:
            self._reply = None
            for output in self._all:
                output.current = True
                self._empty(output)
        else:
            self._publish(item() if callable(item) else item)

    def _publish(self, reply: Reply) -> None:
        self._reply = reply
        for output in self._all:
            output.current = not output.known(reply)
        for output in self._all:  # before anything is said: who comes now must not be given the answer before
            if output.heavy and (output.current or not output.publisher.get_subscription_count()):
                self._empty(output)
        for output in self._all:
            if not output.heavy:
                self._say(output)
        self._serve_heavy()
        for output in self._all:
            if not output.current:
                self._empty(output)
        s = reply.segmentation
        said = f'"{one_line(s.instruction, 80)}": {s.status.value}: {one_line(s.message)}'
        self._node.get_logger().info(f"answer {reply.request_id[:8]} to {said}")

    def _serve_heavy(self) -> None:
        """Computes each heavy output that somebody listens to and that does not carry the current answer yet."""
        self._latest = time.monotonic() + ARRIVAL
        for output in self._all:
            if output.heavy and not output.current and output.publisher.get_subscription_count():
                self._say(output)

    def _let_small_arrive(self) -> None:
        """Until every reliable reader has what is small. One that stands still delays the pictures by ARRIVAL only."""
        small = [o.publisher for o in self._all if not o.heavy]
        while small := [p for p in small if not _arrived(p)]:
            if time.monotonic() > self._latest:
                return
            time.sleep(0.001)  # seconds; to wait in the middleware would hold the interpreter

    def _say(self, output: _Output) -> None:
        """Publishes; an output with nothing to say about this answer must not keep the answer before."""
        assert self._reply is not None
        output.current = True
        try:
            message = output.make(self._reply)
            if message is not None:
                if output.heavy:
                    self._let_small_arrive()
                output.latched = True
                output.publisher.publish(message)
                return
        except Exception as error:
            self._error(output.name, error)
        self._empty(output)

    def _empty(self, output: _Output) -> None:
        """Re-creates the publisher: the only way to clear its history."""
        if output.latched:
            old, output.publisher, output.latched = output.publisher, self._publisher(output), False
            self._node.destroy_publisher(old)

    def _error(self, what: str, error: Exception) -> None:
        self._node.get_logger().error(clean(f"{what}: {type(error).__name__}: {error}"))

    def _publisher(self, output: _Output) -> Any:
        return self._node.create_publisher(
            output.kind,
            output.name,
            profile(latched=True),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # Default event handlers delay destruction, and with it the latched message.
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )

    def _add_vision_msgs(self) -> None:
        """~/detections and ~/label_info, where vision_msgs is installed."""
        try:
            from vision_msgs.msg import Detection2DArray, LabelInfo

            more = [
                _Output("~/detections", Detection2DArray, products.detections),
                _Output("~/label_info", LabelInfo, products.label_info),
            ]
            for output in more:
                output.publisher = self._publisher(output)
        except ImportError:
            self._node.get_logger().info("vision_msgs is not installed: no ~/detections, no ~/label_info")
            return
        except Exception as error:  # rclpy has its own for a package whose libraries are not found
            self._node.get_logger().warning(
                clean(f"vision_msgs does not work here: no ~/detections, no ~/label_info: {error}")
            )
            return
        self._all += more
