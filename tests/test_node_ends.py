"""Every request has an end, in time, seen from outside: while models load, by the dozen, with and without a camera."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from segzero_msgs.msg import Segmentation, State
from segzero_msgs.srv import SegmentImage, SetInstruction
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from segzero_ros.ros.convert import image_to_msg
from segzero_ros.ros.pace import PAUSE
from tests.robot import PATIENCE, Robot

pytestmark = pytest.mark.system

Start = Callable[..., subprocess.Popen]


def test_the_time_of_an_instruction_runs_while_the_models_load(robot: Robot, start: Start, held: Any) -> None:
    start(before=held.before, timeout=0.2)
    robot.loading()
    robot.tell("the red mug")
    result = robot.answer("the red mug")
    assert result.status == Segmentation.STATUS_TIMEOUT and "load" in result.message, "told before they are there"


def test_an_instruction_at_start_is_asked_when_the_models_are_there(robot: Robot, start: Start, held: Any) -> None:
    start(before=held.before, instruction="the red mug", image_timeout=0.1)
    robot.loading()
    held.go_on()
    result = robot.answer("the red mug")
    assert result.status == Segmentation.STATUS_NO_IMAGE
    assert "/image (sensor_msgs/msg/Image" in result.message and "publishers:" in result.message


def test_a_call_while_models_load_is_refused_with_the_progress(robot: Robot, start: Start, held: Any) -> None:
    start(before=held.before)
    robot.loading()
    answer = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="mug")).result
    assert answer.status == Segmentation.STATUS_NOT_READY and "loading" in answer.message


def test_thirty_calls_at_once_are_all_answered_or_refused(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    robot.show()
    # Deep: with its own default of ten replies a client that is not run for a moment loses the first ones itself.
    client = robot.node.create_client(SegmentImage, "/segzero/segment", qos_profile=QoSProfile(depth=200))
    assert client.wait_for_service(PATIENCE)
    robot.known()
    left = threading.Semaphore(0)
    client.call_async(SegmentImage.Request()).add_done_callback(lambda _: left.release())
    assert left.acquire(timeout=PATIENCE), "from here on the node knows the client"
    futures = [client.call_async(SegmentImage.Request(instruction=f"mug {n}")) for n in range(30)]
    for future in futures:
        future.add_done_callback(lambda _: left.release())
    for _ in futures:
        assert left.acquire(timeout=PATIENCE)
    results = [future.result().result for future in futures]
    assert [r.instruction for r in results] == [f"mug {n}" for n in range(30)]
    ends = {r.status for r in results}
    assert ends <= {Segmentation.STATUS_PARSE_ERROR, Segmentation.STATUS_BUSY}
    assert sum(r.status == Segmentation.STATUS_PARSE_ERROR for r in results) >= 10


def test_replies_do_not_overwrite_each_other_at_a_client_that_is_slow_to_take_them(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    # Nobody runs this client: it is the times of sending that count, however late they are looked at.
    slow = rclpy.create_node("slow", context=robot.context)
    client = slow.create_client(SegmentImage, "/segzero/segment", qos_profile=QoSProfile(depth=200))
    assert client.wait_for_service(PATIENCE)
    robot.known()
    began = time.time_ns()
    for _ in range(40):
        client.call_async(SegmentImage.Request(instruction=" "))
    sent: list[int] = []

    def take() -> bool:
        while (reply := client.handle.take_response(SegmentImage.Response))[0] is not None:
            sent.append(reply[0].source_timestamp)
        return len(sent) == 40

    robot.repeat(take)
    assert max(sent) >= began + 39 * PAUSE * 1e9
    slow.destroy_node()


def test_a_burst_of_any_service_of_ours_is_answered_to_the_last(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    services: tuple[tuple[type, str, Any], ...] = (
        (SetInstruction, "set_instruction", SetInstruction.Request(instruction="mug")),
        (Trigger, "clear", Trigger.Request()),
        (SetBool, "enable", SetBool.Request(data=True)),
    )
    for kind, name, request in services:
        # A client's own default keeps ten replies, and each client of a service receives those of all.
        deep = QoSProfile(depth=200)
        clients = [robot.node.create_client(kind, f"/segzero/{name}", qos_profile=deep) for _ in range(5)]
        assert all(client.wait_for_service(PATIENCE) for client in clients)
        for client in clients:  # a reply to a client that the node does not know yet is lost
            known = threading.Event()
            while not known.is_set():
                client.call_async(request).add_done_callback(lambda _, known=known: known.set())
                known.wait(1.0)
        left = threading.Semaphore(0)
        futures = [client.call_async(request) for client in clients for _ in range(10)]
        for future in futures:
            future.add_done_callback(lambda _, left=left: left.release())
        for _ in futures:
            assert left.acquire(timeout=PATIENCE), f"{name}: {sum(f.done() for f in futures)} of {len(futures)}"


@pytest.mark.parametrize("ending", ["deactivate", "enable"])
def test_a_standing_instruction_ends_with_the_node_s_activity(
    robot: Robot, start: Start, long_profile: Path, ending: str
) -> None:
    start(mode="continuous", profile=long_profile)
    robot.ready()
    robot.show()
    robot.tell("the red mug")
    robot.reasoning("the red mug")
    if ending == "deactivate":
        assert robot.change(Transition.TRANSITION_DEACTIVATE)
    else:
        assert robot.call(SetBool, "/segzero/enable", SetBool.Request(data=False)).success
    assert robot.answer("the red mug").status == Segmentation.STATUS_CANCELLED
    robot.show(2)
    refused = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="mug")).result
    assert refused.status == Segmentation.STATUS_NOT_READY
    assert len(robot.results()) == 1, "one end"


def test_a_failure_with_a_frame_carries_its_header_and_one_without_carries_none(robot: Robot, start: Start) -> None:
    start(image_timeout=0.2, max_age=1.0)
    robot.ready()
    robot.tell("without")
    without = robot.answer("without")
    assert without.status == Segmentation.STATUS_NO_IMAGE
    assert without.header.frame_id == "" and without.header.stamp.sec > 0 and without.height == 0
    header = robot.show()
    stale = header.stamp.sec - 100
    old = image_to_msg(np.zeros((8, 8, 3), np.uint8), "rgb8", header)
    old.header.stamp.sec = stale
    robot.send(old)
    robot.tell("stale")
    result = robot.answer("stale")
    assert result.status == Segmentation.STATUS_STALE_IMAGE
    assert result.header.stamp.sec == stale and "s old" in result.message


def test_after_cleanup_nothing_old_is_latched(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    robot.show()
    robot.tell("the red mug")
    robot.answer("the red mug")
    assert robot.change(Transition.TRANSITION_DEACTIVATE) and robot.change(Transition.TRANSITION_CLEANUP)
    before = len(robot.seen["/segzero/state"])
    assert robot.change(Transition.TRANSITION_CONFIGURE) and robot.change(Transition.TRANSITION_ACTIVATE)
    late = Robot()
    try:
        late.listen(Image, "/segzero/source_image")
        robot.wait("/segzero/state", lambda m: m.state == State.READY, before)
        late.ready()
        header = robot.show(2)
        late.tell("the blue mug")
        late.answer("the blue mug")
        late.wait("/segzero/source_image", lambda m: m.header == header)
        assert [m.instruction for m in late.results()] == ["the blue mug"]
        assert len(late.seen["/segzero/source_image"]) == 1
    finally:
        late.close()


def level(message: DiagnosticArray) -> bytes:
    return message.status[0].level


def test_diagnostics_are_never_ok_when_it_could_not_answer(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    seen = robot.seen["/diagnostics"]
    robot.wait("/diagnostics", lambda m: "no image yet" in m.status[0].message)
    assert not any(level(m) == DiagnosticStatus.OK for m in seen), "neither while loading nor without a camera"
    robot.repeat(lambda: any(level(m) == DiagnosticStatus.OK for m in seen), robot.show)
    silent = robot.wait("/diagnostics", lambda m: "no image for" in m.status[0].message)
    assert level(silent) == DiagnosticStatus.WARN and "/image" in silent.status[0].message
    assert robot.call(SetBool, "/segzero/enable", SetBool.Request(data=False)).success
    disabled = robot.wait("/diagnostics", lambda m: "enable" in m.status[0].message)
    assert level(disabled) == DiagnosticStatus.WARN


def test_the_state_follows_enable(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    for on, state in ((False, State.INACTIVE), (True, State.READY)):
        before = len(robot.seen["/segzero/state"])
        assert robot.call(SetBool, "/segzero/enable", SetBool.Request(data=on)).success
        robot.wait("/segzero/state", lambda m: m.state == state, before)  # noqa: B023


def test_images_that_nobody_could_answer_are_a_warning(robot: Robot, start: Start) -> None:
    start(max_age=1.0)
    robot.ready()

    def told(right: bytes, words: str = "") -> bool:
        return any(level(m) == right and words in m.status[0].message for m in robot.seen["/diagnostics"])

    def send(pixels: np.ndarray, encoding: str, age: int = 0) -> None:
        """As a camera does, again and again: one that is silent for long is told in other words."""
        header = Header(frame_id="camera", stamp=robot.node.get_clock().now().to_msg())
        header.stamp.sec -= age
        robot.send(image_to_msg(pixels, encoding, header))

    small = np.zeros((8, 8, 3), np.uint8)
    robot.repeat(lambda: told(DiagnosticStatus.OK), send, small, "rgb8")
    robot.repeat(lambda: told(DiagnosticStatus.WARN, "s old"), send, small, "rgb8", 100)
    robot.repeat(lambda: told(DiagnosticStatus.WARN, "64FC1"), send, np.zeros((8, 8), np.float64), "64FC1")


def test_set_instruction_tells_the_id_of_the_answer(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    robot.show()
    asked = robot.call(SetInstruction, "/segzero/set_instruction", SetInstruction.Request(instruction="the red mug"))
    assert robot.answer("the red mug").request_id == asked.request_id
    assert robot.call(Trigger, "/segzero/clear", Trigger.Request()).success


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """In this process; its models load until it ends."""
    from segzero_ros.ros.node import SegzeroNode

    def load(*_: Any, cancel: Any, **__: Any) -> None:
        cancel.wait(PATIENCE)
        raise RuntimeError("nobody waits any more")

    monkeypatch.setattr("segzero_ros.pipeline.Pipeline.load", load)
    rclpy.init(args=["--ros-args", "-p", "autostart:=false"])
    node = SegzeroNode()
    yield node
    ended = node.close(PATIENCE)
    node.destroy_node()
    rclpy.shutdown()
    assert ended


def test_a_failed_activation_leaves_the_node_inactive(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("on purpose")

    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    node.set_parameters([Parameter("instruction", value="the red mug")])
    monkeypatch.setattr(node.commands, "instruct", fail)
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    assert node._state_machine.current_state[1] == "inactive" and "not active" in node.requests.refusing()


def test_a_configuration_that_fails_leaves_nothing_behind(node: Any) -> None:
    before = len(list(node.subscriptions))
    node.set_parameters([Parameter("image_topic", value="no topic")])
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert node._state_machine.current_state[1] == "unconfigured" and len(list(node.subscriptions)) == before
    assert node.board.snapshot.message
