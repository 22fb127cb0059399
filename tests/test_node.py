"""The node as a process of its own on real DDS, with small random models of the real classes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from segzero_msgs.msg import Segmentation, State
from segzero_msgs.srv import SegmentImage
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from segzero_ros.ros.convert import image_to_msg
from tests.robot import HEIGHT, PATIENCE, WIDTH, Robot, shared_memory


def test_an_instruction_is_answered_with_the_frames_own_header(robot: Robot, start: Callable) -> None:
    process = start()
    robot.ready()
    header = robot.show()
    robot.tell("the red mug")
    result = robot.wait("/segzero/result", lambda m: m.instruction == "the red mug")
    # Random weights write no answer; that is a typed status, and the frame is the one that was shown.
    assert result.status == Segmentation.STATUS_PARSE_ERROR and result.message
    assert result.header == header and (result.height, result.width) == (HEIGHT, WIDTH)
    assert result.camera_info.k[0] == 100.0

    # Who subscribes after the answer still gets what is computed only for listeners.
    for topic in ("overlay", "answer_image", "source_image"):
        robot.listen(Image, f"/segzero/{topic}")
        assert robot.wait(f"/segzero/{topic}", lambda m: True).header == header

    before = len(robot.seen["/segzero/result"])
    robot.tell(" \n ")
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
    robot.ready()
    robot.tell("the red mug")
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
    robot.until_state("unconfigured")
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_loading_ends_the_node_cleanly(robot: Robot, start: Callable, number: int) -> None:
    process = start(autostart=False)
    assert robot.change(Transition.TRANSITION_CONFIGURE)  # its reader is known before, so that no state is missed
    robot.wait("/segzero/state", lambda m: m.state == State.LOADING)
    own = shared_memory(process)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in said
    assert own and not [path for path in own if path.exists()]
