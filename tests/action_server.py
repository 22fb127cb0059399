"""A small server of the action ~/ask in a process of its own: what its goal's instruction says happens.

    python tests/action_server.py NAME

Ends when its standard input does.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import cv2
import numpy as np
import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.qos import QoSProfile
from segzero_msgs.action import Segment
from segzero_msgs.msg import Box2D, GraspHint, Instance, Mask, Segmentation
from sensor_msgs.msg import RegionOfInterest

HEIGHT, WIDTH = 40, 60
WORDS = ("I look ", "for it.\x1b[31m ", "There ", "it is.")  # a model may write anything


def png(rows: int, columns: int) -> Mask:
    _, data = cv2.imencode(".png", np.full((rows, columns), 255, np.uint8))
    return Mask(encoding=Mask.PNG, width=columns, height=rows, x_offset=10, y_offset=5, data=data.tobytes())


def found(goal: Segment.Goal) -> Segmentation:
    instance = Instance(index=1, label="the\x1b[2J mug", score=0.9, area=200, mask=png(10, 20))
    instance.roi = RegionOfInterest(x_offset=10, y_offset=5, width=20, height=10)
    answer = Segmentation(status=Segmentation.STATUS_OK, message="one object", height=HEIGHT, width=WIDTH)
    if goal.want_3d:
        instance.status_3d, instance.has_3d = Instance.STATUS_3D_OK, True
        instance.header_3d.frame_id = "base"
        instance.centroid.x, instance.centroid.z = 0.5, 0.1
        instance.box3d.center.position.x = 0.51
        instance.box3d.center.orientation.w = 1.0
        instance.box3d.size.x, instance.box3d.size.y, instance.box3d.size.z = 0.1, 0.2, 0.3
        answer.grasp_hints = [GraspHint(name="centroid", index=1, width=0.08), GraspHint(name="centroid", index=2)]
    answer.instances = [instance]
    return answer


class Server:
    def __init__(self, name: str) -> None:
        self.node = rclpy.create_node(name)
        self.server = ActionServer(
            self.node,
            Segment,
            "~/ask",
            self.answer,
            callback_group=ReentrantCallbackGroup(),
            goal_callback=lambda goal: GoalResponse.REJECT if goal.instruction == "reject" else GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            **{f"{kind}_service_qos_profile": QoSProfile(depth=200) for kind in ("goal", "result", "cancel")},
        )

    def answer(self, handle: object) -> Segment.Result:
        goal = handle.request  # type: ignore[attr-defined]
        result = self.result(goal, handle)
        result.instruction = goal.instruction
        return Segment.Result(result=result)

    def result(self, goal: Segment.Goal, handle: object) -> Segmentation:
        said, gone = Segment.Feedback(stage=Segment.Feedback.REASONING), threading.Event()
        while not self.node.count_subscribers("~/ask/_action/feedback"):
            gone.wait(0.01)  # the goal may be here before its client is known whole
        for number, words in enumerate(WORDS if goal.instruction != "silent" else ()):
            said.text_delta, said.text, said.elapsed = words, said.text + words, 0.1 * number
            said.boxes = [Box2D(x_min=10.0, y_min=5.0, x_max=30.0, y_max=15.0)] if number > 1 else []
            handle.publish_feedback(said)  # type: ignore[attr-defined]
        if goal.instruction in ("for ever", "silent"):
            while not handle.is_cancel_requested:  # type: ignore[attr-defined]
                gone.wait(0.01)
            handle.canceled()  # type: ignore[attr-defined]
            return Segmentation(status=Segmentation.STATUS_CANCELLED, message="cancelled by its client")
        if goal.instruction == "nothing":
            handle.succeed()  # type: ignore[attr-defined]
            return Segmentation(status=Segmentation.STATUS_NO_OBJECT, message="nothing matches", height=40, width=60)
        if goal.instruction == "fail":
            handle.abort()  # type: ignore[attr-defined]
            return Segmentation(status=Segmentation.STATUS_STALE_IMAGE, message="the newest image is 9 s old")
        handle.succeed()  # type: ignore[attr-defined]
        answer = found(goal)
        if goal.instruction == "a mask that is none":
            answer.instances[0].mask.data = b"no PNG"
        elif goal.instruction == "a status of tomorrow":
            answer.status = 99
        elif goal.instruction == "echo":
            p = goal.prompts[0]
            edges = ",".join(f"{v:g}" for v in (p.box.x_min, p.box.y_min, p.box.x_max, p.box.y_max))
            points = [(q.x, q.y) for q in p.points]
            answer.message = f"{edges} {points} {list(p.positive)} {p.request_id} {p.index}"
            answer.message += f" {goal.image.width}x{goal.image.height} {goal.not_before.sec} {goal.timeout:g}"
        return answer


def main() -> None:
    rclpy.init()
    executor = MultiThreadedExecutor(4)
    servers = [Server(name) for name in sys.argv[1:]]
    for server in servers:
        executor.add_node(server.node)
    threading.Thread(target=executor.spin, daemon=True).start()
    print("there", flush=True)
    sys.stdin.read()
    for server in servers:  # said to all, so that clients need not wait for the lease to run out
        server.server.destroy()
        server.node.destroy_node()
    time.sleep(0.3)
    os._exit(0)  # a goal may still run


if __name__ == "__main__":
    main()
