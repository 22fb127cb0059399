"""The action server alone: real DDS and rclpy's client, the real rules of requests, no models."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from segzero_msgs.action import Segment
from segzero_msgs.msg import Segmentation
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from segzero_ros.core.contract import Status
from segzero_ros.core.requests import Requests
from segzero_ros.core.tickets import Asker, Ticket
from segzero_ros.ros import parameters
from segzero_ros.ros.executor import Executor
from segzero_ros.ros.goals import Goals, _Goal
from segzero_ros.ros.products import Reply

PATIENCE = 30.0  # seconds; only a failing test waits so long


class Room:
    """A server whose node is not active, so that each goal ends at once, and who asks it."""

    def __init__(self, reply_of: Callable[[Ticket], Reply]) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("segzero", context=self.context)
        parameters.declare(self.node)
        self.requests = Requests()
        self.goals = Goals(self.node, self.requests, reply_of)
        self.near = Executor(4, context=self.context)
        self.robot = rclpy.create_node("robot", context=self.context)
        self.client = ActionClient(self.robot, Segment, "/segzero/ask")
        self.far = SingleThreadedExecutor(context=self.context)
        self.left = False
        self.near.add_node(self.node)
        self.far.add_node(self.robot)
        self.threads = [threading.Thread(target=self._spin, args=(e,)) for e in (self.near, self.far)]
        for thread in self.threads:
            thread.start()

    def _spin(self, executor: Any) -> None:
        while not self.left:
            executor.spin_once()

    def ask(self, goal: Segment.Goal) -> tuple[int, Segmentation]:
        assert self.client.wait_for_server(PATIENCE)
        done, ends = threading.Event(), []

        def ended(future: Any) -> None:
            ends.append(future.result())
            done.set()

        def send() -> None:
            accepted = self.client.send_goal_async(goal)
            accepted.add_done_callback(lambda f: f.result().get_result_async().add_done_callback(ended))

        self.far.create_task(send)  # by who takes the reply: rclpy drops one that comes before the goal is noted down
        assert done.wait(PATIENCE), "the goal has no end"
        return ends[0].status, ends[0].result.result

    def close(self) -> None:
        self.left = True
        for executor in (self.near, self.far):
            executor.create_task(lambda: None)
        for thread in self.threads:
            thread.join()
        for executor in (self.near, self.far):
            executor.shutdown()
        self.client.destroy()
        self.goals.close()
        self.robot.destroy_node()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def room() -> Iterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def make(reply_of: Callable[[Ticket], Reply]) -> Room:
        rooms.append(Room(reply_of))
        return rooms[-1]

    yield make
    for one in rooms:
        one.close()


def test_the_image_of_a_goal_is_not_kept_as_long_as_its_result(room: Callable[..., Room]) -> None:
    """rclpy keeps each goal for `result_timeout`: a thousand pictures of a camera would fill the memory."""
    looked_at: list[Any] = []

    def reply_of(ticket: Ticket) -> Reply:
        looked_at.append(ticket.wish.image)
        assert ticket.result is not None
        return Reply(Header(), None, None, ticket.result, ticket.request_id)

    here = room(reply_of)
    image = Image(width=4, height=2, step=12, encoding="rgb8", data=bytes(24))
    assert here.ask(Segment.Goal(instruction="mug", image=image))[1].status == Segmentation.STATUS_NOT_READY
    assert [len(i.data) for i in looked_at] == [24]
    kept = here.goals._server._goal_handles.values()
    assert [len(handle.request.image.data) for handle in kept] == [0]


def test_a_goal_whose_answer_cannot_be_sent_is_aborted_and_does_not_read_ok(room: Callable[..., Room]) -> None:
    def reply_of(ticket: Ticket) -> Reply:
        raise RuntimeError("no header")

    status, result = room(reply_of).ask(Segment.Goal(instruction="mug"))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.status == Segmentation.STATUS_BACKEND_ERROR and "no header" in result.message
    assert result.instruction == "mug" and result.request_id


def test_a_cancel_is_kept_however_long_rclpy_takes_to_mark_the_goal(
    room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It marks the goal after it has asked whether it may, in another thread, which may be held up for long."""

    class Handle:
        looks = 0

        @property
        def is_cancel_requested(self) -> bool:
            self.looks += 1
            return self.looks > 3

    here = room(lambda ticket: Reply(Header(), None, None, ticket.result, ticket.request_id))
    here.requests.open()
    ticket = here.requests.ask("mug", Asker.ACTION).ticket
    assert ticket
    hours = itertools.count(step=3600)
    monkeypatch.setattr("segzero_ros.ros.goals.time.monotonic", lambda: next(hours))
    here.goals._stop(_Goal(Handle(), ticket))
    assert ticket.result and ticket.result.status is Status.CANCELLED
