"""When and to whom answers are published, on a thread of their own. topics.py has what each topic says.

All reliable, transient local, depth 1, so that a late subscriber still gets the answer. Heavy outputs are computed when
somebody listens: at once, or from the current answer for a subscriber that comes late. Nobody ever gets an older one.
A volatile output keeps nothing: when one more listens, it is computed and sent again, to all of them.

Words and numbers go first and wait for no picture. In Fast DDS's shared memory a large sample evicts a small one that
has not been read yet and is resent seconds later or never, so a large one is sent when the small ones have arrived.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.qos_overriding_options import QoSOverridingOptions

from segzero_ros.core.text import clean, one_line
from segzero_ros.ros.products import Reply
from segzero_ros.ros.qos import has_arrived, profile
from segzero_ros.ros.topics import OPTIONAL, Output, all_outputs

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

LATE_PERIOD = 0.25  # seconds between looks for late subscribers
CLOUD_STRIDE = 2  # of ~/scene_points, where the node has no parameter for it
ARRIVAL = 1.0  # seconds that pictures, and the end of a publisher, wait at most for small messages to arrive
LAST_ARRIVAL = 0.5  # seconds that the end of the node waits for them
_FORGET, _END = object(), object()


class Outputs:
    """The publishers of a node. `put`, `forget` and `close` may be called from any thread and return at once."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reply: Reply | None = None
        self._latest = 0.0  # when pictures have waited enough, on the monotonic clock
        self._frame_3d = ""  # of the newest answer in space
        self._all = self._open(all_outputs(self._cloud_stride))
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
            behind = self._reply and any(o.heavy and (o.volatile or not o.current) for o in self._all)
            try:
                item = self._queue.get(timeout=LATE_PERIOD if behind else None)
            except queue.Empty:
                item = None
            if item is _END:
                self._latest = time.monotonic() + LAST_ARRIVAL
                self._let_small_arrive()
                return
            try:
                self._do(item)
            except Exception as error:  # of the middleware: the next answer may go out
                self._error("publishing", error)

    def _do(self, item: Any) -> None:
        if item is None:
            self._serve_heavy()
        elif item is _FORGET:
            self._clear_space()
            self._let_small_arrive()  # a reader that has not taken the last words loses them with their publisher
            self._reply = None
            for output in self._all:
                output.current = True
                self._empty(output)
        else:
            reply = item() if callable(item) else item
            (self._refuse if reply.refused else self._publish)(reply)
            s = reply.segmentation
            said = f'"{one_line(s.instruction, 80)}": {s.status.value}: {one_line(s.message)}'
            self._node.get_logger().info(f"answer {reply.request_id[:8]} to {said}")

    def _clear_space(self) -> None:
        """Who listens must not keep poses of a node that is not configured any more."""
        self._latest = time.monotonic() + ARRIVAL
        said = [o for o in self._all if o.in_space and o.latched]
        for output in said:
            if self._reply:
                self._say(output, self._reply.without_objects())
        while said and not all(has_arrived(o.publisher) for o in said) and time.monotonic() < self._latest:
            time.sleep(0.001)

    def _refuse(self, reply: Reply) -> None:
        """Nothing was looked at: a planner that works with the answer before must not lose it."""
        for output in self._all:
            if output.of_refusals:
                self._say(output, reply)

    def _publish(self, reply: Reply) -> None:
        self._reply = reply
        reply.frame_3d = self._frame_3d
        self._frame_3d = reply.header_3d.frame_id
        for output in self._all:
            output.current = not output.known(reply)
        for output in self._all:  # before anything is said: who comes now must not be given the answer before
            if output.heavy and (output.current or not output.publisher.get_subscription_count()):
                self._empty(output)
        for output in self._all:
            if not output.heavy:
                self._say(output, reply)
        self._serve_heavy()
        for output in self._all:
            if not output.current:
                self._empty(output)

    def _serve_heavy(self) -> None:
        """Computes each heavy output that somebody listens to who does not have the current answer yet."""
        self._latest = time.monotonic() + ARRIVAL
        for output in self._all:
            if output.heavy and self._reply and self._wanted(output):
                self._say(output, self._reply)

    def _wanted(self, output: Output) -> bool:
        listening = output.publisher.get_subscription_count()
        if output.volatile:
            output.current &= listening <= output.served
            output.served = listening
        return listening > 0 and not output.current

    def _let_small_arrive(self) -> None:
        """Until every reliable reader has what is small. One that stands still delays the pictures by ARRIVAL only."""
        small = [o.publisher for o in self._all if not o.large]
        while small := [p for p in small if not has_arrived(p)]:
            if time.monotonic() > self._latest:
                return
            time.sleep(0.001)  # seconds; to wait in the middleware would hold the interpreter

    def _say(self, output: Output, reply: Reply) -> None:
        """Publishes; an output with nothing to say about this answer must not keep the answer before."""
        output.current = True
        try:
            message = self._made(output, reply)
            if message is not None:
                if output.large:
                    self._let_small_arrive()
                output.latched = not output.volatile
                output.publisher.publish(message)
                return
        except Exception as error:
            self._error(output.name, error)
        self._empty(output)

    def _made(self, output: Output, reply: Reply) -> Any:
        try:
            return output.make(reply)
        except Exception as error:
            if not output.in_space:
                raise
            self._error(output.name, error)
            return output.make(reply.in_pixels())  # an old pose must not stay on anybody's screen

    def _empty(self, output: Output) -> None:
        """Re-creates the publisher: the only way to clear its history."""
        if output.latched:
            old, output.publisher, output.latched = output.publisher, self._publisher(output), False
            self._node.destroy_publisher(old)

    def _error(self, what: str, error: Exception) -> None:
        self._node.get_logger().error(clean(f"{what}: {type(error).__name__}: {error}"))

    def _open(self, outputs: list[Output]) -> list[Output]:
        """Those whose messages are installed, with publishers; says in words which are not."""
        lacking: dict[str, list[str]] = {}
        why: dict[str, Exception] = {}
        for output in outputs:
            try:
                output.publisher = self._publisher(output)
            except Exception as error:
                if output.package not in OPTIONAL:
                    raise
                lacking.setdefault(output.package, []).append(output.name)
                why[output.package] = error
        for package, names in lacking.items():
            without = f"no {', no '.join(names)}"
            if isinstance(why[package], ImportError):
                self._node.get_logger().info(f"{package} is not installed: {without}")
            else:  # rclpy has its own for a package whose libraries are not found
                self._node.get_logger().warning(clean(f"{package} does not work here: {without}: {why[package]}"))
        return [output for output in outputs if output.publisher]

    def _publisher(self, output: Output) -> Any:
        return self._node.create_publisher(
            output.message_class(),
            output.name,
            profile(latched=not output.volatile),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # Default event handlers delay destruction, and with it the latched message.
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )

    def _cloud_stride(self) -> int:
        name = "cloud_stride"
        return int(self._node.get_parameter(name).value) if self._node.has_parameter(name) else CLOUD_STRIDE
