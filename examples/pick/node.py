"""The real node in a process of its own, a camera that streams to it, and a client that asks by the action ~/ask."""

from __future__ import annotations

import array
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from pick.answers import Ask, Reply
from pick.camera import View
from segzero_ros.client import Answer, AskError, Segzero
from segzero_ros.core.space import Box3D, Pose, Status3D

ROOT = Path(__file__).resolve().parents[2]
RATE = 5.0  # frames a second
LOADING, ANSWERING = 180.0, 60.0  # seconds
FRAME = "camera_color_optical_frame"
COLOR, DEPTH = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw"
QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)  # lost pieces can be sent again for two seconds


class Camera:
    """Streams one view with fresh stamps, until it is told of another. It stands still while the arm moves, and so
    does what it would see of it: nothing is sent then."""

    def __init__(self, context: Any) -> None:
        self.node = rclpy.create_node("camera", context=context)
        self.color = self.node.create_publisher(Image, COLOR, QOS)
        self.info = self.node.create_publisher(CameraInfo, COLOR.replace("image_raw", "camera_info"), QOS)
        self.depth = self.node.create_publisher(Image, DEPTH, QOS)
        self.messages: tuple[Image, Image, CameraInfo] | None = None
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._stream, name="camera", daemon=True)
        self.thread.start()

    @contextlib.contextmanager
    def showing(self, view: View) -> Iterator[Any]:
        """Streams this view; gives a time before its first frame."""
        height, width = view.depth.shape
        color = Image(height=height, width=width, step=3 * width, encoding="rgb8")
        color.data = array.array("B", np.ascontiguousarray(view.rgb).tobytes())
        depth = Image(height=height, width=width, step=4 * width, encoding="32FC1")
        depth.data = array.array("B", view.depth.astype("<f4").tobytes())
        with self.changed:
            self.messages = color, depth, camera_info(view)
            first = self.node.get_clock().now()
            self.changed.notify()
        try:
            yield first
        finally:
            with self.changed:
                self.messages = None

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join(5)
        self.node.destroy_node()

    def _stream(self) -> None:
        while True:
            with self.changed:
                while self.messages is None and not self.closed:
                    self.changed.wait()
                if self.closed or self.messages is None:
                    return
                color, depth, info = self.messages
                header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id=FRAME)
                color.header = depth.header = info.header = header
                self.info.publish(info)
                self.depth.publish(depth)
                self.color.publish(color)
            time.sleep(1 / RATE)


def camera_info(view: View) -> CameraInfo:
    fx, fy, cx, cy = view.camera.k
    return CameraInfo(
        height=view.camera.height,
        width=view.camera.width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


@contextlib.contextmanager
def asking_node(log: Path) -> Iterator[Ask]:
    """Starts node and camera; what it gives asks on a frame that is younger than the question."""
    settings = {"profile": "demo", "image_topic": COLOR, "depth_topic": DEPTH, "timeout": ANSWERING}
    words = [word for name, value in settings.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "segzero_ros", "--ros-args", *words]
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, stderr=said)
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    camera = Camera(context)
    try:
        with Segzero.standalone(args=[]) as robot:
            waited = [True]  # the first question waits for the models

            def ask(view: View, instruction: str) -> Reply:
                began = time.monotonic()
                timeout = LOADING if waited and waited.pop() else ANSWERING
                with camera.showing(view) as first:
                    question = robot.ask(instruction, want_3d=True, not_before=first, timeout=timeout)
                    while not question.done():
                        if process.poll() is not None:
                            raise SystemExit(f"the node ended with code {process.returncode}: see {log}")
                        time.sleep(0.005)
                    try:
                        return read_reply(question.result(), time.monotonic() - began)
                    except AskError as error:
                        raise SystemExit(f"no answer of the node: {error}; see {log}") from error

            yield ask
    finally:
        camera.close()
        context.try_shutdown()
        process.terminate()
        process.wait(20)


def read_reply(answer: Answer, seconds: float) -> Reply:
    status = answer.status.value
    if not answer.instances:
        return Reply(status, answer.message, seconds)
    first = answer.instances[0]
    box = None
    if first.status_3d is Status3D.OK:
        center = Pose(_three(first.center), tuple(first.orientation.tolist()))
        box = Box3D(center, _three(first.size))
    return Reply(
        status, answer.message, seconds, first.label, answer.mask(0), first.status_3d.value, first.message_3d, box
    )


def _three(vector: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z
