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

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.executors import SingleThreadedExecutor
from segzero_msgs.action import Segment
from segzero_msgs.msg import Box2D, Point2D
from segzero_msgs.msg import Prompt as PromptMsg
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from segzero_ros.answers import (
    Answer,
    AskError,
    BadAnswer,
    GoalRejected,
    Grasp,
    NoReply,
    Object,
    ServerLost,
    ServerMissing,
)
from segzero_ros.asking import LOOK, PATIENCE, Desk, OnFeedback, Question
from segzero_ros.core.contract import Prompt
from segzero_ros.core.text import clean
from segzero_ros.ros.convert import image_to_msg

__all__ = [
    "STAGES",
    "Answer",
    "AskError",
    "BadAnswer",
    "GoalRejected",
    "Grasp",
    "NoReply",
    "Object",
    "Prompt",
    "Question",
    "Segzero",
    "ServerLost",
    "ServerMissing",
]

MAX_TIMEOUT = 86400.0  # seconds

STAGES = {
    Segment.Feedback.WAITING_FRAME: "waiting for an image",
    Segment.Feedback.QUEUED: "queued",
    Segment.Feedback.REASONING: "reasoning",
    Segment.Feedback.SEGMENTING: "segmenting",
    Segment.Feedback.LIFTING_3D: "lifting to 3D",
}


class Segzero:
    """The action of the node `name` (absolute, or in the namespace of `node`), for a node that somebody spins."""

    def __init__(self, node: Any, name: str = "segzero") -> None:
        self._node = node
        self.action = str(node.resolve_topic_name(f"{name}/ask"))
        self._desk = Desk(node, self.action)

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
        asked = [_prompt_msg(p) if isinstance(p, Prompt) else p for p in prompts]
        if not isinstance(instruction, str) or not all(isinstance(p, PromptMsg) for p in asked):
            raise ValueError("an instruction is a str, and prompts are Prompt")
        goal = Segment.Goal(
            instruction=clean(instruction),
            prompts=asked,
            timeout=float(timeout),
            want_3d=want_3d,
        )
        if image is not None:
            goal.image = image_to_msg(_checked(image), "rgb8", Header()) if isinstance(image, np.ndarray) else image
            if not isinstance(goal.image, Image) or not goal.image.width:
                raise ValueError("image is RGB uint8 (H, W, 3) with pixels, or sensor_msgs/Image")
        if not_before is not None:
            goal.not_before = not_before.to_msg() if hasattr(not_before, "to_msg") else not_before
            if not isinstance(goal.not_before, Time):
                raise ValueError("not_before is a time of builtin_interfaces or rclpy")
            if goal.not_before == Time():
                raise ValueError("not_before is zero, which any image satisfies; does the clock run?")
        return self._desk.ask(goal, on_feedback)

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
        self._desk.close()


def _prompt_msg(prompt: Prompt) -> PromptMsg:
    x1, y1, x2, y2 = (float(v) for v in prompt.box or (0.0, 0.0, 0.0, 0.0))
    request_id, index = prompt.corrects or ("", 0)
    return PromptMsg(
        box=Box2D(x_min=x1, y_min=y1, x_max=x2, y_max=y2),
        points=[Point2D(x=float(x), y=float(y)) for x, y in prompt.points],
        positive=list(prompt.positive),
        request_id=request_id,
        index=index,
    )


def _checked(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image is {image.dtype} {image.shape}; it is uint8 (H, W, 3), RGB")
    return image
