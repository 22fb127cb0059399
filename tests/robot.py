"""The other side of the node in tests: a robot that shows images, gives instructions and waits for what comes back."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from segzero_msgs.action import Segment
from segzero_msgs.msg import Segmentation, State
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String

from segzero_ros.ros.convert import image_to_msg

LATCHED = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HEIGHT, WIDTH = 720, 1280  # of the frames that are shown: a camera's
PATIENCE = 60.0  # seconds; only a failing test waits so long


def shared_memory(process: subprocess.Popen) -> set[Path]:
    """What DDS keeps in shared memory for a process, by the locks that it holds. Not its mailboxes: who writes to a
    process that has ended makes them anew."""
    files: set[Path] = set()
    for handle in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            files.add(handle.readlink())
    return {file for file in files if file.parent == Path("/dev/shm") and "_port" not in file.name}


class Robot:
    """The other side: publishes images and instructions, and waits for what comes back."""

    def __init__(self, namespace: str = "") -> None:
        self.space = namespace
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.left = False
        self.gone: set[bytes] = set()  # readers that a node has ended, whether that is known here yet or not
        self.relied: set[Any] = set()  # publishers whose readers ask for all that is sent
        self.clients: dict[str, Any] = {}
        self.askers: list[ActionClient] = []
        self.executor.add_node(self.node)
        self.seen: dict[str, list[Any]] = {}
        self.news = threading.Condition()
        self.image = self.node.create_publisher(Image, f"{namespace}/image", 5)
        self.info = self.node.create_publisher(CameraInfo, f"{namespace}/camera_info", 5)
        self.instruction = self.node.create_publisher(String, f"{namespace}/segzero/instruction", 5)
        self.listen(State, f"{namespace}/segzero/state")
        self.listen(Segmentation, f"{namespace}/segzero/result")
        self.listen(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    def _spin(self) -> None:
        while not self.left:
            self.executor.spin_once()

    def _leave(self) -> None:
        self.left = True

    def listen(self, kind: type, topic: str, qos: QoSProfile = LATCHED) -> None:
        self.seen[topic] = []

        def hear(message: Any) -> None:
            with self.news:
                self.seen[topic].append(message)
                self.news.notify_all()

        self.node.create_subscription(kind, topic, hear, qos)

    def wait(self, topic: str, right: Callable[[Any], bool], start: int = 0) -> Any:
        def found() -> Any:
            return next((m for m in self.seen[topic][start:] if right(m)), None)

        with self.news:
            assert self.news.wait_for(found, PATIENCE), f"{topic}: {self.seen[topic][start:][-3:]}"
            return found()

    def show(self, stamp: int = 1) -> Header:
        """Sends a frame and its camera_info; both have arrived then."""
        header = Header(frame_id="camera")
        header.stamp = self.node.get_clock().now().to_msg()
        pixels = np.random.default_rng(stamp).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.calibrate(CameraInfo(header=header, width=WIDTH, height=HEIGHT, k=[100.0, 0, 640, 0, 100, 360, 0, 0, 1]))
        self.send(image_to_msg(pixels, "rgb8", header))
        return header

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.clients.get(name) or self.clients.setdefault(name, self.node.create_client(kind, name))
        assert client.wait_for_service(PATIENCE)
        if name.startswith(f"{self.space}/segzero/"):
            self.known()
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE), f"{name} did not answer"
        return future.result()

    def known(self) -> None:
        """Waits until the node knows every reader that was made here before: a reply to a stranger is lost.

        A new reader may hear what is said just now beside readers that are known; what was said before it was made is
        sent again to one that is known.
        """
        said, made = 0, 0
        while said >= made:
            made = self.node.get_clock().now().nanoseconds
            heard: queue.SimpleQueue[State] = queue.SimpleQueue()
            last = self.node.create_subscription(State, f"{self.space}/segzero/state", heard.put, LATCHED)
            stamp = heard.get(timeout=PATIENCE).header.stamp
            said = stamp.sec * 10**9 + stamp.nanosec
            # Never while the executor waits with it.
            self.executor.create_task(self.node.destroy_subscription, last)

    def goals(self, **qos: QoSProfile) -> ActionClient:
        """A client of the action. Kilted's rclpy adds it to the node before it has its lock, so that a thread which
        waits with the node meanwhile ends with an error: made within, like the goals."""
        self.askers.append(self.within(ActionClient, self.node, Segment, f"{self.space}/segzero/ask", **qos))
        return self.askers[-1]

    def served(self, client: ActionClient) -> None:
        """Waits until a client of the action has found the node; what is known of the node is told where it has not."""
        found = client.wait_for_server(PATIENCE)
        assert found, self.node.get_service_names_and_types_by_node("segzero", self.space or "/")

    def lose(self, client: ActionClient) -> None:
        """A client of the action dies."""
        self.askers.remove(client)
        self.within(client.destroy)

    def within(self, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """What a call returns that is made by the thread which takes messages: rclpy drops the reply to a goal that
        another thread has sent and not noted down yet."""
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.executor.create_task(lambda: made.put(call(*arguments, **more)))
        return made.get(timeout=PATIENCE)

    def close(self) -> None:
        # Told from within: rclpy's shutdown frees what a spinning thread waits with.
        self.executor.create_task(self._leave)
        self.thread.join()
        self.executor.shutdown()
        for client in self.askers:
            client.destroy()  # a node leaves DDS with the last of what it has, and rclpy leaves these to the collector
        self.node.destroy_node()
        self.context.try_shutdown()

    # -- what tests say most

    def arrived(self, count: int, what: str = "frames") -> None:
        """Waits until the node says by /diagnostics that so many frames, or "camera_infos", have come."""
        self.wait("/diagnostics", lambda m: self._came(m, what) >= count)

    @staticmethod
    def _came(message: DiagnosticArray, what: str) -> int:
        return int(next(v.value for v in message.status[0].values if v.key == what))

    def stream(self, publisher: Any, message: Any, what: str = "frames") -> None:
        """Sends a message again and again until the node says that one has come, as a camera does: the node may know a
        new publisher later than it is known itself, and best effort loses what comes before."""
        self.repeat(lambda: any(self._came(m, what) for m in self.seen["/diagnostics"]), publisher.publish, message)

    def repeat(self, reached: Callable[[], Any], call: Callable[..., Any] | None = None, *arguments: Any) -> None:
        """Calls again and again until something is reached; without a call, looks for what nobody tells."""
        end = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < end, "it was not reached"
            if call:
                call(*arguments)
            with self.news:
                self.news.wait(0.1 if call else 0.02)

    def loading(self) -> None:
        """Waits until the node loads and is active, so that it takes instructions."""
        self.wait(f"{self.space}/segzero/state", lambda m: m.state == State.LOADING and "not active" not in m.message)

    def ready(self) -> None:
        self.wait(f"{self.space}/segzero/state", lambda m: m.state == State.READY)

    def matched(self, publisher: Any) -> Any:
        """The publisher once the node has found it."""

        def found() -> bool:
            readers = self.node.get_subscriptions_info_by_topic(publisher.topic_name)
            return bool(self._living(publisher)) and publisher.get_subscription_count() >= len(readers)

        self.repeat(found)
        return publisher

    def relied_on(self, publisher: Any) -> Any:
        """The publisher once the node has seen what it offers: before, the node asks for best effort, which loses large
        frames, and then subscribes anew, which loses what was sent to the reader before."""

        def reliable() -> bool:
            readers = self._living(publisher)
            return bool(readers) and all(r.qos_profile.reliability == ReliabilityPolicy.RELIABLE for r in readers)

        if publisher not in self.relied:
            self.repeat(reliable)
            self.relied.add(publisher)
        return self.matched(publisher)

    def _living(self, publisher: Any) -> list[Any]:
        readers = self.node.get_subscriptions_info_by_topic(publisher.topic_name)
        return [r for r in readers if bytes(r.endpoint_gid) not in self.gone]

    def _forget_readers(self) -> None:
        """The node has ended its readers."""
        self.gone |= {bytes(r.endpoint_gid) for p in self.node.publishers for r in self._living(p)}
        self.relied.clear()

    def tell(self, text: str) -> None:
        self.matched(self.instruction).publish(String(data=text))

    def send(self, message: Image) -> None:
        self.deliver(self.image, message)

    def calibrate(self, message: CameraInfo) -> None:
        self.deliver(self.info, message)

    def deliver(self, publisher: Any, message: Any) -> None:
        """Publishes, and waits until it has arrived: in shared memory a large image evicts a small message that has not
        been read yet."""
        self.relied_on(publisher).publish(message)
        self.repeat(lambda: publisher.wait_for_all_acked(Duration()))

    def results(self) -> list[Segmentation]:
        return self.seen[f"{self.space}/segzero/result"]

    def result(self, right: Callable[[Segmentation], bool] = lambda m: True, start: int = 0) -> Segmentation:
        return self.wait(f"{self.space}/segzero/result", right, start)

    def answer(self, text: str, start: int = 0) -> Segmentation:
        return self.result(lambda m: m.instruction == text, start)

    def reasoning(self, text: str) -> None:
        """Waits until the node reasons about `text`."""
        self.wait(f"{self.space}/segzero/state", lambda m: m.state == State.REASONING and m.instruction == text)

    def parameter(self, name: str, value: Any) -> Any:
        """Sets a parameter of the node: the result, with the reason of a refusal."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"{self.space}/segzero/set_parameters", request).results[0]

    def state(self) -> str:
        return self.call(GetState, f"{self.space}/segzero/get_state", GetState.Request()).current_state.label

    def until_state(self, label: str) -> None:
        """Waits for a transition that the node makes by itself."""
        end = time.monotonic() + PATIENCE
        while self.state() != label:
            assert time.monotonic() < end, label
        if label == "unconfigured":
            self._forget_readers()

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        changed = self.call(ChangeState, f"{self.space}/segzero/change_state", request).success
        if changed and transition == Transition.TRANSITION_CLEANUP:
            self._forget_readers()
        return changed
