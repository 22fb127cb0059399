"""The action ~/ask: goals to requests, and back as feedback and results.

A goal's thread waits for its request and does all that changes the goal's state, so that no two threads race for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from segzero_msgs.action import Segment
from segzero_msgs.msg import Box2D
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from segzero_ros.core.contract import Candidate, Segmentation, SegzeroError, Status
from segzero_ros.core.requests import Requests
from segzero_ros.core.text import clean, one_line
from segzero_ros.core.tickets import Asker, Ticket, Wish
from segzero_ros.ros.messages import to_result_msg
from segzero_ros.ros.pace import BURST, Pace
from segzero_ros.ros.products import Reply
from segzero_ros.ros.prompts import earliest_of_request, image_of_request, prompts_of_request, timeout_of_request
from segzero_ros.ros.qos import profile

FEEDBACK_PERIOD = 0.1  # seconds
SIGN_OF_LIFE = 1.0  # seconds after which feedback comes though nothing has changed
TEXT = 2000  # characters of the text so far in feedback


class Goals:
    """The action server of a node, from its start."""

    def __init__(self, node: Any, requests: Requests, reply_of: Callable[[Ticket], Reply]) -> None:
        self._node = node
        self._requests = requests
        self._reply_of = reply_of
        self._goals: dict[bytes, _Goal] = {}  # accepted and not ended
        self._accepting, self._ending = Pace(), Pace()
        self._server = ActionServer(
            node,
            Segment,
            "~/ask",
            self._execute,
            callback_group=MutuallyExclusiveCallbackGroup(),  # goals begin in the order in which they came
            handle_accepted_callback=self._accept,
            cancel_callback=self._cancel,
            goal_service_qos_profile=profile(BURST),
            result_service_qos_profile=profile(BURST),
            cancel_service_qos_profile=profile(BURST),
            result_timeout=node.get_parameter("result_timeout").value,
        )

    def close(self) -> None:
        """Offers the action no longer. When nothing spins the node any more."""
        self._server.destroy()

    def _accept(self, handle: Any) -> None:
        """Every goal is accepted, so that one that cannot be answered has a result that says why."""
        request = handle.request
        prompts, no_prompts = prompts_of_request(request.prompts)
        timeout, no_timeout = timeout_of_request(request.timeout)
        image, no_image = image_of_request(request.image)
        not_before, no_time = earliest_of_request(request.not_before)
        problem = no_prompts or no_timeout or no_image or no_time
        if request.keep_tracking:
            problem = SegzeroError(Status.BAD_REQUEST, "keep_tracking: nothing tracks yet")
        request.image = Image()  # rclpy keeps the goal as long as its result
        wish = Wish(image, prompts, not_before=not_before, in_3d=request.want_3d)
        asked = self._requests.ask(request.instruction, Asker.ACTION, wish=wish, timeout=timeout, problem=problem)
        assert asked.ticket is not None, "a goal is never a repetition"
        self._node.get_logger().info(f'goal {asked.request_id[:8]} of ~/ask: "{one_line(request.instruction, 80)}"')
        self._goals[bytes(handle.goal_id.uuid)] = _Goal(handle, asked.ticket)
        handle.execute()
        self._accepting.keep()

    def _cancel(self, handle: Any) -> CancelResponse:
        goal = self._goals.get(bytes(handle.goal_id.uuid))
        if goal is None:
            return CancelResponse.REJECT
        self._node.executor.create_task(self._stop, goal)
        return CancelResponse.ACCEPT

    def _stop(self, goal: _Goal) -> None:
        """The request may end only when rclpy has marked the goal, which it does after it has asked whether it may."""
        while not goal.handle.is_cancel_requested:
            if goal.ticket.ended.is_set():  # it was faster
                return
            time.sleep(0.001)
        self._requests.cancel(goal.ticket, "cancelled by its client")

    def _execute(self, handle: Any) -> Segment.Result:
        goal = self._goals[bytes(handle.goal_id.uuid)]
        try:
            return self._answer(goal)
        except Exception as error:  # rclpy would send an empty result, whose status reads OK
            self._node.get_logger().error(f"a goal of ~/ask failed: {type(error).__name__}: {one_line(error)}")
            self._requests.cancel(goal.ticket, "its goal failed")
            return self._failure(goal, error)
        finally:
            self._goals.pop(bytes(handle.goal_id.uuid), None)

    def _answer(self, goal: _Goal) -> Segment.Result:
        handle, ticket = goal.handle, goal.ticket
        self._requests.wait(ticket, goal.tell, FEEDBACK_PERIOD)
        goal.tell(last=True)
        reply = self._reply_of(ticket)
        s = reply.segmentation
        result = Segment.Result()
        result.result = to_result_msg(s, reply.header, reply.camera_info, reply.request_id)
        self._ending.keep()
        if s.status in (Status.OK, Status.NO_OBJECT):
            handle.succeed()
        elif s.status is Status.CANCELLED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        said = f'"{one_line(s.instruction, 80)}": {s.status.value}: {one_line(s.message)}'
        self._node.get_logger().info(clean(f"goal {ticket.request_id[:8]} of ~/ask {said}"))
        return result

    def _failure(self, goal: _Goal, error: Exception) -> Segment.Result:
        if goal.handle.is_active:
            goal.handle.abort()
        why = f"the answer could not be sent: {type(error).__name__}: {one_line(error)}"
        said = Segmentation(Status.BACKEND_ERROR, why, goal.ticket.instruction, 0, 0)
        header = Header(stamp=self._node.get_clock().now().to_msg())
        return Segment.Result(result=to_result_msg(said, header, None, goal.ticket.request_id))


class _Goal:
    """What is kept of a goal until it has ended. `tell` is called by its thread alone."""

    def __init__(self, handle: Any, ticket: Ticket) -> None:
        self.handle = handle
        self.ticket = ticket
        self._began = time.monotonic()
        self._told: tuple[Any, ...] = ()
        self._when = 0.0

    def tell(self, last: bool = False) -> None:
        """Publishes what is new since the last time, or a sign of life; last: all that is left."""
        watch, now = self.ticket.watch, time.monotonic()
        text, boxes = watch.text, watch.boxes
        news = (watch.stage, len(text), boxes)
        quiet = SIGN_OF_LIFE if news == self._told else FEEDBACK_PERIOD
        if not last and now - self._when < quiet * 0.9:  # it was called a little early
            return
        before = self._told[1] if self._told else 0
        self._told, self._when = news, now
        feedback = Segment.Feedback(stage=getattr(Segment.Feedback, watch.stage.value), elapsed=now - self._began)
        feedback.text_delta, feedback.text = clean(text[before:]), clean(text[-TEXT:])
        feedback.boxes = [_box_msg(c) for c in boxes if c.box is not None]
        self.handle.publish_feedback(feedback)


def _box_msg(candidate: Candidate) -> Box2D:
    assert candidate.box is not None
    return Box2D(**dict(zip(("x_min", "y_min", "x_max", "y_max"), map(float, candidate.box), strict=True)))
