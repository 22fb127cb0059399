"""Goals of the action ~/ask on their way: sent when the server is there, answered, cancelled, or ended when overdue."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import QoSProfile
from segzero_msgs.action import Segment
from segzero_msgs.msg import Segmentation

from segzero_ros.answers import (
    Answer,
    AskError,
    BadAnswer,
    GoalRejected,
    NoReply,
    ServerLost,
    ServerMissing,
    read_answer,
)
from segzero_ros.core.text import first_line

PATIENCE = 10.0  # seconds to wait for the server, for its reply to a goal, and for a result that is overdue
LOSS = 2.0  # seconds without the server after which it is lost: DDS may see it late
SETTLE = 0.3  # seconds after which a server that was found knows the client, too: DDS loses replies to strangers
SILENCE = 30.0  # seconds without feedback, which a node gives every second, after which the result is lost
LOOK = 0.1  # seconds between two looks at what is overdue
FAREWELL = 1.0  # seconds in which what was cancelled at the end is told so, and the client leaves its node
BURST = 200  # messages of a kind that are kept until they are taken

OnFeedback = Callable[[Segment.Feedback], None]


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
        self.told: Any = None  # the future of the cancel's reply
        self.due = time.monotonic() + PATIENCE
        self.servers: frozenset[bytes] = frozenset()  # endpoints of who took the goal
        self.heard = math.inf  # time.monotonic() of the last sign of life of the accepted goal
        self.missed: float | None = None  # time.monotonic() since which they are gone

    def cancel(self) -> bool:
        """Asks the node to stop. The answer comes all the same, with the status CANCELLED unless it was faster."""
        if self.done():
            return False
        self._on_cancel(self)
        return True

    def hear(self, message: Any) -> None:
        self.heard = time.monotonic()
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
    """rclpy's without three races. A reply that is taken before its own request is noted down, by another thread, would
    be dropped as unexpected: the goal runs, and nobody hears of it. Feedback that waits beside the result would be
    dropped after it: the end of the text. And Kilted's is the node's before it has a lock: a thread that spins the node
    meanwhile would end with AttributeError.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        self._sending = threading.RLock()
        self._lock = threading.Lock()  # until rclpy has made its own
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


class Desk:
    """Takes questions, and sees to it that each ends. For a node that somebody spins. Thread-safe."""

    def __init__(self, node: Any, action: str) -> None:
        self._node = node
        self._action = action
        self._client = _Client(
            node,
            Segment,
            action,
            callback_group=ReentrantCallbackGroup(),
            feedback_sub_qos_profile=QoSProfile(depth=BURST),
            goal_service_qos_profile=QoSProfile(depth=BURST),
            result_service_qos_profile=QoSProfile(depth=BURST),
        )
        self._changed = threading.Condition()
        self._open: list[Question] = []  # in the order in which they were asked
        self._closed = False
        self._found: dict[bytes, float] = {}  # time.monotonic() since which each of its endpoints is there
        self._watcher: threading.Thread | None = None

    def ask(self, goal: Segment.Goal, on_feedback: OnFeedback | None) -> Question:
        """Returns at once. Raises AskError when this desk is closed."""
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

    def close(self) -> None:
        """Ends what is open with AskError, and asks the node to stop it; waits a second at most until that is heard."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            questions = [question for question in self._open if not question.done()]
        for question in questions:
            with contextlib.suppress(Exception):  # the node may be gone already
                question.cancel()
            question.settle(AskError("the client was closed before the answer came"))
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(PATIENCE)
        end = time.monotonic() + FAREWELL
        # The end of who sent it may overtake a cancel.
        while any(q.sent and not (q.told and q.told.done()) for q in questions) and time.monotonic() < end:
            time.sleep(0.01)
        self._leave(end)

    def _leave(self, end: float) -> None:
        """By the thread that spins, which may be about to wait with the client; at the end of its time by this one."""
        once, left = threading.Lock(), threading.Event()

        def leave() -> None:
            if once.acquire(blocking=False):
                self._client.destroy()
                left.set()

        executor = self._node.executor
        if executor is not None and self._node.context.ok():
            with contextlib.suppress(Exception):  # it was shut down
                executor.create_task(leave)
                left.wait(max(0.0, end - time.monotonic()))
        leave()

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
                now = time.monotonic()
                self._found = {endpoint: self._found.get(endpoint, now) for endpoint in present}
                for question in questions:
                    self._look_at_one(question, present)
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
        found = self._node.get_publishers_info_by_topic(f"{self._action}/_action/status")
        return frozenset(bytes(p.endpoint_gid) for p in found)

    def _look_at_one(self, question: Question, present: frozenset[bytes]) -> None:
        """A question that cannot be sent takes no other with it."""
        try:
            self._look_at(question, present)
        except Exception as error:
            if not self._node.context.ok():
                raise
            with contextlib.suppress(Exception):
                self._cancel(question)
            question.settle(AskError(f"the question cannot be asked: {first_line(error)}"))

    def _look_at(self, question: Question, present: frozenset[bytes]) -> None:
        now = time.monotonic()
        if question.done():
            return
        if not question.sent:
            if question.cancelling:
                question.settle(_cancelled(question.goal))
            elif present and now - max(self._found[endpoint] for endpoint in present) >= SETTLE:
                self._send(question, present)
            elif not present and now > question.due:
                where = f"ROS_DOMAIN_ID is {os.environ.get('ROS_DOMAIN_ID', '0')} here"
                question.settle(ServerMissing(f"nobody has offered {self._action} within {PATIENCE:g} s; {where}"))
            return
        if question.servers.isdisjoint(present):
            question.missed = question.missed or now
            if now - question.missed > LOSS:
                question.settle(ServerLost(f"who offered {self._action} went away before the goal was answered"))
        elif now > question.due or now - question.heard > SILENCE:
            what = "accepted nor rejected" if question.handle is None else "answered"
            why = "" if question.handle else "; is the node of this client spun?"
            question.settle(NoReply(f"{self._action} is there and has not {what} the goal in time{why}"))
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
            question.settle(GoalRejected(f"{self._action} rejected the goal"))
            return
        timeout = question.goal.timeout
        with self._changed:
            question.handle, question.heard = handle, time.monotonic()
            question.due = time.monotonic() + (timeout + PATIENCE if timeout else math.inf)
            cancelling = question.cancelling or question.done()
        handle.get_result_async().add_done_callback(lambda f: self._on_result(question, f))
        if cancelling:
            self._send_cancel(question)

    def _on_result(self, question: Question, future: Any) -> None:
        response = future.result()
        if response.status == GoalStatus.STATUS_UNKNOWN:
            question.settle(ServerLost(f"{self._action} does not know the goal any more"))
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
        question.told = question.handle.cancel_goal_async()

    def _guarded(self, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """What a user's callback raises is logged: it would end the executor."""

        def call(message: Any) -> None:
            try:
                callback(message)
            except Exception as error:
                self._node.get_logger().error(f"on_feedback raised {type(error).__name__}: {first_line(error)}")

        return call


def _cancelled(goal: Segment.Goal) -> Answer:
    message = "cancelled before it was sent"
    status = Segmentation.STATUS_CANCELLED
    return read_answer(Segmentation(instruction=goal.instruction, status=status, message=message))
