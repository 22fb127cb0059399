"""What others tell the node to do: the instruction's topic and the services, each handed to `core.requests`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.qos_overriding_options import QoSOverridingOptions
from segzero_msgs.msg import Segmentation as SegmentationMsg
from segzero_msgs.srv import SegmentImage, SetInstruction
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from segzero_ros.core.requests import Requests
from segzero_ros.core.text import clean, one_line
from segzero_ros.core.tickets import Asked, Asker, Wish
from segzero_ros.ros.messages import status_constant, to_result_msg
from segzero_ros.ros.pace import BURST, Pace
from segzero_ros.ros.prompts import image_of_request, prompts_of_request, timeout_of_request
from segzero_ros.ros.qos import profile


class Commands:
    """Services of a node, from its start; the topic from `open` on."""

    def __init__(self, node: Any, requests: Requests, reply_of: Any, gate_changed: Callable[[], None]) -> None:
        self._node = node
        self._requests = requests
        self._reply_of = reply_of
        self._gate_changed = gate_changed
        self._topic: Any = None
        self._quick = MutuallyExclusiveCallbackGroup()
        self._pace = Pace()
        for kind, name, callback, group in (
            (SegmentImage, "~/segment", self._segment, ReentrantCallbackGroup()),
            (SetInstruction, "~/set_instruction", self._set, self._quick),
            (Trigger, "~/clear", self._clear, self._quick),
            (SetBool, "~/enable", self._enable, self._quick),
        ):
            node.create_service(kind, name, callback, qos_profile=profile(BURST), callback_group=group)

    def open(self) -> None:
        self._topic = self._topic or self._node.create_subscription(
            String,
            "~/instruction",
            lambda msg: self.instruct(msg.data, Asker.TOPIC),
            profile(5),
            callback_group=self._quick,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def close(self) -> None:
        if self._topic is not None:
            self._node.destroy_subscription(self._topic)
            self._topic = None

    def instruct(self, text: str, by: Asker, once: bool = False) -> Asked:
        """An instruction that is answered on the topics."""
        asked = self._requests.ask(text, by, once=once)
        ticket = asked.ticket
        if ticket is None:
            self._node.get_logger().debug(f'"{one_line(text, 80)}" by {by.value} repeats {asked.request_id[:8]}')
        elif asked.refusal is None:
            self._node.get_logger().info(f'instruction {asked.request_id[:8]} by {by.value}: "{one_line(text, 80)}"')
        else:
            self._node.get_logger().info(f"refused {by.value}: {one_line(asked.refusal.message)}")
        return asked

    def _segment(self, request: SegmentImage.Request, response: SegmentImage.Response) -> SegmentImage.Response:
        """Waits, in a thread of its own."""
        image, no_image = image_of_request(request.image)
        prompts, no_prompts = prompts_of_request(request.prompts)
        timeout, no_timeout = timeout_of_request(request.timeout)
        problem = no_image or no_prompts or no_timeout
        wish = Wish(image, prompts)
        ticket = self._requests.ask(
            request.instruction, Asker.SERVICE, wish=wish, timeout=timeout, problem=problem
        ).ticket
        assert ticket is not None, "a call is never a repetition"
        self._requests.wait(ticket)
        reply = self._reply_of(ticket)
        s = reply.segmentation
        self._pace.keep()
        said = f'"{one_line(s.instruction, 80)}": {s.status.value}: {one_line(s.message)}'
        self._node.get_logger().info(f"call {ticket.request_id[:8]} of ~/segment {said}")
        response.result = to_result_msg(s, reply.header, reply.camera_info, reply.request_id)
        return response

    def _set(self, request: SetInstruction.Request, response: SetInstruction.Response) -> SetInstruction.Response:
        asked = self.instruct(request.instruction, Asker.COMMAND, request.once)
        if asked.refusal is not None:
            response.success, response.status = False, status_constant(asked.refusal.status)
            response.message = clean(asked.refusal.message)
            return response
        response.success, response.status = True, SegmentationMsg.STATUS_OK
        response.request_id = asked.request_id
        response.message = "taken" if asked.ticket else "the same instruction waits, runs or was just answered"
        return response

    def _clear(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._requests.clear()
        response.success, response.message = True, "cleared"
        return response

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._requests.enable(request.data)
        self._gate_changed()
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response
