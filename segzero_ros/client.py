"""Ask a running node from a robot program, by its action ~/ask.

    with Segzero.standalone() as robot:
        answer = robot.ask("the mug", want_3d=True).result()
        if answer.status == "OK":
            print(answer.instances[0].centroid, answer.mask(0).sum())

In a program that has a node and an executor: `robot = Segzero(node)`. A `Question` is a `concurrent.futures.Future`:
wait for its `result` in a thread that does not spin the node, or add a callback.

Whatever the node answers is an `Answer` with a status. An exception means that there is no answer of the node.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from segzero_msgs.action import Segment
from segzero_msgs.msg import Box2D, Point2D
from segzero_msgs.msg import GraspHint as GraspHintMsg
from segzero_msgs.msg import Instance as InstanceMsg
from segzero_msgs.msg import Mask as MaskMsg
from segzero_msgs.msg import Prompt as PromptMsg
from segzero_msgs.msg import Segmentation as SegmentationMsg
from std_msgs.msg import Header

from segzero_ros.core.contract import Box, Mask, Prompt, SegzeroError, Status
from segzero_ros.core.geometry import rle_decode
from segzero_ros.core.pixels import check_size, decode_picture
from segzero_ros.core.space import Pose, Status3D
from segzero_ros.core.text import first_line
from segzero_ros.ros.convert import image_to_msg

PATIENCE = 10.0  # seconds to wait for the server, for its reply to a goal, and for a result that is overdue
LOSS = 2.0  # seconds without the server after which it is lost: DDS may see it late
LOOK = 0.1  # seconds between two looks at what is overdue
BURST = 200  # messages of a kind that are kept until they are taken
MAX_TIMEOUT = 86400.0  # seconds

OnFeedback = Callable[[Segment.Feedback], None]
Vector3 = NDArray[np.float64]

STAGES = {
    Segment.Feedback.WAITING_FRAME: "waiting for an image",
    Segment.Feedback.QUEUED: "queued",
    Segment.Feedback.REASONING: "reasoning",
    Segment.Feedback.SEGMENTING: "segmenting",
    Segment.Feedback.LIFTING_3D: "lifting to 3D",
}
_STATUS = {getattr(SegmentationMsg, f"STATUS_{s.value}"): s for s in Status}
_STATUS_3D = {getattr(InstanceMsg, f"STATUS_3D_{s.value}"): s for s in Status3D}


class AskError(RuntimeError):
    """There is no answer of the node; the sentence says why."""


class ServerMissing(AskError):
    """Nobody offers the action."""


class ServerLost(AskError):
    """Who had the goal went away before it was answered."""


class GoalRejected(AskError):
    """The server did not take the goal."""


class NoReply(AskError):
    """The server is there and does not answer in time; or nobody spins the node of this client."""


class BadAnswer(AskError):
    """What came cannot be read: a mask that is none, a status of another version."""


@dataclass(frozen=True)
class Grasp:
    """Where a gripper might go; never promised to be free of collisions. See segzero_msgs/GraspHint.

    position: (3,) metres. orientation: (4,) x, y, z, w. width: metres, 0 when unknown.
    """

    name: str
    position: Vector3
    orientation: NDArray[np.float64]
    width: float


@dataclass(frozen=True)
class Object:
    """One instance of an answer.

    box: x1, y1, x2, y2 of the mask, pixels of the source image, the maximum exclusive. What follows message_3d holds if
    status_3d is OK, in `frame_id` at the image's stamp, metres: centroid (3,), center and orientation (x, y, z, w) and
    size (3,) of the box.
    """

    index: int  # from 1 on
    label: str
    score: float
    box: Box
    area: int  # pixels
    status_3d: Status3D
    message_3d: str
    frame_id: str
    centroid: Vector3
    center: Vector3
    orientation: NDArray[np.float64]
    size: Vector3
    visible: float
    grasps: tuple[Grasp, ...]


@dataclass(frozen=True)
class Answer:
    """What the node answered. message: a sentence about the status. raw: all of it, as segzero_msgs/Segmentation."""

    status: Status
    message: str
    instances: tuple[Object, ...]
    raw: SegmentationMsg = field(repr=False)

    @property
    def stamp(self) -> Time:
        """Of the image."""
        return self.raw.header.stamp

    def mask(self, place: int) -> Mask:
        """(H, W) of the source image: the mask of `instances[place]`, so from 0 on. Raises BadAnswer, IndexError."""
        if not 0 <= place < len(self.instances):
            raise IndexError(f"there are {len(self.instances)} instances, so none at {place}")
        try:
            return _whole_mask(self.raw.instances[place].mask, int(self.raw.height), int(self.raw.width))
        except (SegzeroError, ValueError) as error:
            raise BadAnswer(f"the mask of instance {place + 1} cannot be read: {first_line(error)}") from error


class Question(Future[Answer]):
    """An `Answer` to come. Callbacks run in the thread that spins the node, or in the client's own."""

    def __init__(
        self, goal: Segment.Goal, on_feedback: OnFeedback | None, on_cancel: Callable[[Question], None]
    ) -> None:
        super().__init__()
        self.goal = goal
        self._on_feedback = on_feedback
        self._on_cancel = on_cancel
        self.handle: Any = None  # of the accepted goal
        self.sent = False
        self.cancelling = False
        self.due = time.monotonic() + PATIENCE
        self.servers: frozenset[bytes] = frozenset()  # endpoints of who took the goal
        self.missed: float | None = None  # time.monotonic() since which they are gone

    def cancel(self) -> bool:
        """Asks the node to stop. The answer comes all the same, with the status CANCELLED unless it was faster."""
        if self.done():
            return False
        self._on_cancel(self)
        return True

    def hear(self, message: Any) -> None:
        if self._on_feedback is not None and not self.done():
            self._on_feedback(message.feedback)

    def settle(self, end: Answer | AskError) -> None:
        """The first end counts."""
        try:
            self.set_exception(end) if isinstance(end, Exception) else self.set_result(end)
        except Exception:  # InvalidStateError: it has ended meanwhile
            if not self.done():
                raise


class _Client(ActionClient):
    """rclpy's without two races. A reply that is taken before its own request is noted down, by another thread, would
    be dropped as unexpected: the goal runs, and nobody hears of it. And feedback that waits beside the result would be
    dropped after it: the end of the text.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        self._sending = threading.RLock()
        super().__init__(*args, **more)

    def take_data(self) -> Any:
        with self._sending:
            data = super().take_data()
            if "result" in data:
                data["before"] = [data.pop("feedback")] if "feedback" in data else []
                while (
                    message := self._client_handle.take_feedback(self._action_type.Impl.FeedbackMessage)
                ) is not None:
                    data["before"].append(message)
            return data

    async def execute(self, taken_data: Any) -> None:
        for message in taken_data.pop("before", ()):
            await super().execute({"feedback": message})
        await super().execute(taken_data)

    def send_goal_async(self, *args: Any, **more: Any) -> Any:
        with self._sending:
            return super().send_goal_async(*args, **more)

    def _cancel_goal_async(self, handle: Any) -> Any:
        with self._sending:
            return super()._cancel_goal_async(handle)

    def _get_result_async(self, handle: Any) -> Any:
        with self._sending:
            return super()._get_result_async(handle)


class Segzero:
    """The action of the node `name` (absolute, or in the namespace of `node`), for a node that somebody spins."""

    def __init__(self, node: Any, name: str = "segzero") -> None:
        self._node = node
        self.action = str(node.resolve_topic_name(f"{name}/ask"))
        self._client = _Client(
            node,
            Segment,
            self.action,
            callback_group=ReentrantCallbackGroup(),
            feedback_sub_qos_profile=QoSProfile(depth=BURST),
            goal_service_qos_profile=QoSProfile(depth=BURST),
            result_service_qos_profile=QoSProfile(depth=BURST),
        )
        self._changed = threading.Condition()
        self._open: list[Question] = []  # in the order in which they were asked
        self._closed = False
        self._watcher: threading.Thread | None = None

    @classmethod
    @contextmanager
    def standalone(cls, name: str = "segzero", args: Sequence[str] | None = None) -> Iterator[Segzero]:
        """With a node and a spinning thread of its own, for scripts. args: the command line; None: this process's."""
        context = rclpy.Context()
        rclpy.init(args=None if args is None else list(args), context=context)
        node = rclpy.create_node(f"segzero_client_{os.getpid()}", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        left = threading.Event()

        def spin() -> None:
            while not left.is_set():
                executor.spin_once()

        thread = threading.Thread(target=spin, name="segzero-client", daemon=True)
        thread.start()
        client = cls(node, name)
        try:
            yield client
        finally:
            client.close()
            executor.create_task(left.set)  # from within: shutdown frees what a spinning thread waits with
            thread.join(PATIENCE)
            executor.shutdown()
            node.destroy_node()
            context.try_shutdown()

    def ask(
        self,
        instruction: str = "",
        *,
        prompts: Sequence[Prompt | PromptMsg] = (),
        image: Any = None,
        not_before: Any = None,
        timeout: float = 0.0,
        want_3d: bool = False,
        on_feedback: OnFeedback | None = None,
    ) -> Question:
        """Sends a goal and returns at once. A newer goal, of anybody, ends an older one with CANCELLED.

        image: sensor_msgs/Image, or RGB uint8 (H, W, 3), which has no stamp; None: the camera's.
        not_before: the image's earliest stamp, as builtin_interfaces or rclpy Time. timeout: seconds for everything, 0:
        the node's parameter. on_feedback(feedback): called by the spinning thread, with Segment.Feedback.
        Raises ValueError for what is no question, AskError when this client is closed.
        """
        if not 0 <= timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout is {timeout!r}; it is a number of seconds from 0 to {MAX_TIMEOUT:g}")
        goal = Segment.Goal(
            instruction=instruction,
            prompts=[prompt_msg(p) if isinstance(p, Prompt) else p for p in prompts],
            timeout=float(timeout),
            want_3d=want_3d,
        )
        if image is not None:
            goal.image = image_to_msg(_checked(image), "rgb8", Header()) if isinstance(image, np.ndarray) else image
        if not_before is not None:
            goal.not_before = not_before.to_msg() if hasattr(not_before, "to_msg") else not_before
            if goal.not_before == Time():
                raise ValueError("not_before is zero, which any image satisfies; does the clock run?")
        question = Question(goal, on_feedback, self._cancel)
        with self._changed:
            if self._closed:
                raise AskError("this client is closed")
            self._open.append(question)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="segzero-questions", daemon=True)
                self._watcher.start()
            self._changed.notify_all()
        return question

    def now(self) -> Any:
        """The time of the client's node, for `not_before`. Raises AskError for simulated time that does not come."""
        end = time.monotonic() + PATIENCE
        while not (now := self._node.get_clock().now()).nanoseconds:
            if time.monotonic() > end:
                raise AskError(f"use_sim_time is set, and no /clock has come within {PATIENCE:g} s")
            time.sleep(LOOK)
        return now

    def close(self) -> None:
        """Ends what is open with AskError, and asks the node to stop it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            questions = list(self._open)
        for question in questions:
            question.cancel()
            question.settle(AskError("the client was closed before the answer came"))
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(PATIENCE)
        self._client.destroy()

    # -- the watching thread: sends when the server is there, and ends what is overdue

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._open = [q for q in self._open if not q.done()]
                if self._closed:
                    return
                if not self._open:
                    self._changed.wait()
                    continue
                questions = list(self._open)
            try:
                present = self._present()
                for question in questions:
                    self._look_at(question, present)
            except Exception as error:  # the node was destroyed, or its context shut down
                for question in questions:
                    question.settle(AskError(f"the client's node cannot be used: {first_line(error)}"))
            with self._changed:
                if len(self._open) == len(questions) and not self._closed:
                    self._changed.wait(LOOK)

    def _present(self) -> frozenset[bytes]:
        """Who offers the action now, by what cannot come again: a node that is started anew is another."""
        if not self._client.server_is_ready():
            return frozenset()
        found = self._node.get_publishers_info_by_topic(f"{self.action}/_action/status")
        return frozenset(bytes(p.endpoint_gid) for p in found)

    def _look_at(self, question: Question, present: frozenset[bytes]) -> None:
        now = time.monotonic()
        if question.done():
            return
        if not question.sent:
            if question.cancelling:
                question.settle(_cancelled(question.goal))
            elif present:
                self._send(question, present)
            elif now > question.due:
                where = f"ROS_DOMAIN_ID is {os.environ.get('ROS_DOMAIN_ID', '0')} here"
                question.settle(ServerMissing(f"nobody has offered {self.action} within {PATIENCE:g} s; {where}"))
            return
        if question.servers.isdisjoint(present):
            question.missed = question.missed or now
            if now - question.missed > LOSS:
                question.settle(ServerLost(f"who offered {self.action} went away before the goal was answered"))
        elif now > question.due:
            what = "accepted nor rejected" if question.handle is None else "answered"
            why = "" if question.handle else "; is the node of this client spun?"
            question.settle(NoReply(f"{self.action} is there and has not {what} the goal in time{why}"))
        else:
            question.missed = None

    def _send(self, question: Question, servers: frozenset[bytes]) -> None:
        question.servers = servers
        question.sent, question.due = True, time.monotonic() + PATIENCE
        future = self._client.send_goal_async(question.goal, feedback_callback=self._guarded(question.hear))
        future.add_done_callback(lambda f: self._on_reply(question, f))

    # -- the spinning thread

    def _on_reply(self, question: Question, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            question.settle(GoalRejected(f"{self.action} rejected the goal"))
            return
        timeout = question.goal.timeout
        with self._changed:
            question.handle = handle
            question.due = time.monotonic() + (timeout + PATIENCE if timeout else math.inf)
            cancelling = question.cancelling or question.done()
        handle.get_result_async().add_done_callback(lambda f: self._on_result(question, f))
        if cancelling:
            self._send_cancel(question)

    def _on_result(self, question: Question, future: Any) -> None:
        response = future.result()
        if response.status == GoalStatus.STATUS_UNKNOWN:
            question.settle(ServerLost(f"{self.action} does not know the goal any more"))
            return
        try:
            question.settle(read_answer(response.result.result))
        except BadAnswer as error:
            question.settle(error)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _cancel(self, question: Question) -> None:
        with self._changed:
            question.cancelling = True
            accepted = question.handle is not None
            self._changed.notify_all()
        if accepted:
            self._send_cancel(question)

    def _send_cancel(self, question: Question) -> None:
        question.due = min(question.due, time.monotonic() + PATIENCE)
        question.handle.cancel_goal_async()

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """What a user's callback raises is logged: it would end the executor."""

        def call(message: Any) -> None:
            try:
                callback(message)
            except Exception as error:
                self._node.get_logger().error(f"on_feedback raised {type(error).__name__}: {first_line(error)}")

        return call


def prompt_msg(prompt: Prompt) -> PromptMsg:
    x1, y1, x2, y2 = (float(v) for v in prompt.box or (0.0, 0.0, 0.0, 0.0))
    request_id, index = prompt.corrects or ("", 0)
    return PromptMsg(
        box=Box2D(x_min=x1, y_min=y1, x_max=x2, y_max=y2),
        points=[Point2D(x=float(x), y=float(y)) for x, y in prompt.points],
        positive=list(prompt.positive),
        request_id=request_id,
        index=index,
    )


def read_answer(message: SegmentationMsg) -> Answer:
    """Raises BadAnswer for a status that this version does not know."""
    if message.status not in _STATUS:
        raise BadAnswer(f"the answer's status is {message.status}, which this version does not know")
    objects = tuple(_object(i, message.grasp_hints) for i in message.instances)
    return Answer(_STATUS[message.status], message.message, objects, message)


def _object(found: InstanceMsg, hints: Sequence[GraspHintMsg]) -> Object:
    if found.status_3d not in _STATUS_3D:
        raise BadAnswer(f"status_3d of instance {found.index} is {found.status_3d}, which this version does not know")
    roi, center = found.roi, _pose(found.box3d.center)
    return Object(
        index=found.index,
        label=found.label,
        score=found.score,
        box=(roi.x_offset, roi.y_offset, roi.x_offset + roi.width, roi.y_offset + roi.height),
        area=found.area,
        status_3d=_STATUS_3D[found.status_3d],
        message_3d=found.message_3d,
        frame_id=found.header_3d.frame_id,
        centroid=_xyz(found.centroid),
        center=np.array(center.position),
        orientation=np.array(center.orientation),
        size=_xyz(found.box3d.size),
        visible=found.visible,
        grasps=tuple(_grasp(h) for h in hints if h.index == found.index),
    )


def _grasp(hint: GraspHintMsg) -> Grasp:
    pose = _pose(hint.pose)
    return Grasp(hint.name, np.array(pose.position), np.array(pose.orientation), hint.width)


def _pose(pose: Any) -> Pose:
    p, q = pose.position, pose.orientation
    return Pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def _xyz(v: Any) -> Vector3:
    return np.array((v.x, v.y, v.z), np.float64)


def _cancelled(goal: Segment.Goal) -> Answer:
    message = "cancelled before it was sent"
    status = SegmentationMsg.STATUS_CANCELLED
    return read_answer(SegmentationMsg(instruction=goal.instruction, status=status, message=message))


def _checked(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; it is uint8 (H, W, 3), RGB")
    return image


def _whole_mask(mask: MaskMsg, height: int, width: int) -> Mask:
    """(height, width). Raises SegzeroError, ValueError for what is no mask of such an image."""
    if not (height and width):
        raise ValueError("the answer has no image size")
    check_size(height, width)
    whole = np.zeros((height, width), np.bool_)
    if mask.encoding == MaskMsg.NONE:
        return whole
    rows, columns = int(mask.height), int(mask.width)
    if mask.y_offset + rows > height or mask.x_offset + columns > width:
        raise ValueError(f"{columns} x {rows} pixels at ({mask.x_offset}, {mask.y_offset}) leave {width} x {height}")
    data = memoryview(mask.data)
    if mask.encoding == MaskMsg.PNG:
        crop = decode_picture(data.tobytes()) > 0
        if crop.shape != (rows, columns):
            raise ValueError(f"the PNG has the shape {crop.shape}, not {(rows, columns)}")
    elif mask.encoding == MaskMsg.MONO8:
        crop = np.frombuffer(data, np.uint8).reshape(rows, columns) > 0
    elif mask.encoding == MaskMsg.RLE:
        crop = rle_decode(np.frombuffer(data, "<u4").tolist(), rows, columns)
    else:
        raise ValueError(f"its encoding is {mask.encoding}, which this version does not know")
    whole[mask.y_offset : mask.y_offset + rows, mask.x_offset : mask.x_offset + columns] = crop
    return whole
