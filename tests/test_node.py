"""The node as a process of its own on real DDS, with small random models of the real classes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(20 + os.getpid() % 80)

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from segzero_msgs.msg import Segmentation, State
from segzero_msgs.srv import SegmentImage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from segzero_ros.convert import image_to_msg
from tests import tiny_models

LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PATIENCE = 60.0  # seconds; only a failing test waits so long


class Robot:
    """The other side: publishes images and instructions, and waits for what comes back."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.seen: dict[str, list[Any]] = {}
        self.news = threading.Condition()
        self.image = self.node.create_publisher(Image, "/image", 5)
        self.info = self.node.create_publisher(CameraInfo, "/camera_info", 5)
        self.instruction = self.node.create_publisher(String, "/segzero/instruction", 5)
        self.listen(State, "/segzero/state")
        self.listen(Segmentation, "/segzero/result")
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def listen(self, kind: type, topic: str) -> None:
        self.seen[topic] = []

        def hear(message: Any) -> None:
            with self.news:
                self.seen[topic].append(message)
                self.news.notify_all()

        self.node.create_subscription(kind, topic, hear, LATCHED)

    def wait(self, topic: str, right: Callable[[Any], bool], start: int = 0) -> Any:
        def found() -> Any:
            return next((m for m in self.seen[topic][start:] if right(m)), None)

        with self.news:
            assert self.news.wait_for(found, PATIENCE), f"{topic}: {self.seen[topic][start:][-3:]}"
            return found()

    def show(self, stamp: int = 1) -> Header:
        header = Header(frame_id="camera")
        header.stamp = self.node.get_clock().now().to_msg()
        pixels = np.random.default_rng(stamp).integers(0, 255, (120, 160, 3), np.uint8)
        self.info.publish(CameraInfo(header=header, width=160, height=120, k=[100.0, 0, 80, 0, 100, 60, 0, 0, 1]))
        self.image.publish(image_to_msg(pixels, "rgb8", header))
        return header

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(PATIENCE)
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        assert done.wait(PATIENCE), f"{name} did not answer"
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join()
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return tiny_models.save_reasoner(root / "reasoner"), tiny_models.save_segmenter(root / "segmenter")


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture
def start(robot: Robot, models: tuple[Path, Path]) -> Iterator[Callable[..., subprocess.Popen]]:
    running: list[subprocess.Popen] = []

    def run(**parameters: object) -> subprocess.Popen:
        settings = {"reasoner": str(models[0]), "segmenter": str(models[1]), "max_age": 0.0} | parameters
        arguments = [x for name, value in settings.items() for x in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", "segzero_ros.node", "--ros-args", *arguments]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True))
        return running[-1]

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ready(robot: Robot) -> None:
    robot.wait("/segzero/state", lambda m: m.state == State.READY)


def test_an_instruction_is_answered_with_the_frames_own_header(robot: Robot, start: Callable) -> None:
    process = start()
    ready(robot)
    header = robot.show()
    robot.instruction.publish(String(data="the red mug"))
    result = robot.wait("/segzero/result", lambda m: m.instruction == "the red mug")
    # Random weights write no answer; that is a typed status, and the frame is the one that was shown.
    assert result.status == Segmentation.STATUS_PARSE_ERROR and result.message
    assert result.header == header and (result.height, result.width) == (120, 160)
    assert result.camera_info.k[0] == 100.0

    # Who subscribes after the answer still gets what is computed only for listeners.
    for topic in ("mask", "label_mask", "overlay", "source_image"):
        robot.listen(Image, f"/segzero/{topic}")
        assert robot.wait(f"/segzero/{topic}", lambda m: True).header == header

    before = len(robot.seen["/segzero/result"])
    robot.instruction.publish(String(data=" \n "))
    refused = robot.wait("/segzero/result", lambda m: m.status == Segmentation.STATUS_BAD_INSTRUCTION, before)
    assert refused.message

    image = image_to_msg(np.zeros((8, 8), np.uint8), "mono8", header)
    image.encoding = "jfif"
    response = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="mug", image=image))
    assert response.result.status == Segmentation.STATUS_UNSUPPORTED_ENCODING and "rgb8" in response.result.message
    assert robot.call(Trigger, "/segzero/clear", Trigger.Request()).success

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in said


def test_without_a_frame_there_is_a_typed_answer(robot: Robot, start: Callable) -> None:
    start(image_timeout=0.2)
    ready(robot)
    robot.instruction.publish(String(data="the red mug"))
    assert robot.wait("/segzero/result", lambda m: m.status == Segmentation.STATUS_NO_IMAGE).message


def test_a_failed_load_says_why_and_leaves_the_node_unconfigured(
    robot: Robot, start: Callable, tmp_path: Path, models: tuple[Path, Path]
) -> None:
    for file in models[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    process = start(reasoner=tmp_path)
    failed = robot.wait("/segzero/state", lambda m: m.state == State.FAILED)
    assert "truncated" in failed.message
    for _ in range(50):
        state = robot.call(GetState, "/segzero/get_state", GetState.Request()).current_state.label
        if state == "unconfigured":
            break
    assert state == "unconfigured" and process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_loading_ends_the_node_cleanly(robot: Robot, start: Callable, number: int) -> None:
    process = start()
    robot.wait("/segzero/state", lambda m: m.state == State.LOADING)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in said
