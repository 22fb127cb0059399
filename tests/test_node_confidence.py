"""Asking again through a running node: its parameters, what its answers say, and a server that hangs meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from segzero_msgs.msg import Segmentation, State
from segzero_msgs.srv import SegmentImage
from std_msgs.msg import Header

from segzero_ros.ros.convert import image_to_msg
from tests.robot import PATIENCE, Robot
from tests.servers.process import served

pytestmark = pytest.mark.system

Start = Callable[..., subprocess.Popen]
PROFILE = """
description: a reasoner somewhere else
prompt: plain
reasoner: http://127.0.0.1:1/v1
segmenter: embedded
square: 280
system: null
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served("unsure") as found:
        yield found


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere.yaml"
    path.write_text(PROFILE)
    return path


def ask(robot: Robot) -> Segmentation:
    """Over a picture of a block where the server says that one is."""
    pixels = np.full((560, 560, 3), 90, np.uint8)
    pixels[80:160, 80:160] = (200, 30, 30)
    image = image_to_msg(pixels, "rgb8", Header(frame_id="camera"))
    reply = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="the block", image=image))
    return reply.result


def confidences(result: Segmentation) -> list[float]:
    return [round(i.confidence, 3) for i in result.instances]


def test_a_node_says_how_sure_it_is_and_what_is_wished_changes_while_it_runs(
    robot: Robot, start: Start, address: str, profile: Path
) -> None:
    models = {"profile": profile, "reasoner": f"{address}/answers/v1", "segmenter": "embedded"}
    start(**models, verify="vote", verify_samples=4)
    robot.ready()
    result = ask(robot)
    assert result.status == Segmentation.STATUS_OK and confidences(result) == [0.75]

    assert robot.parameter("min_confidence", 0.8).successful
    result = ask(robot)
    assert result.status == Segmentation.STATUS_NO_OBJECT and not result.instances
    assert result.message == "object 1 (the block) was found with confidence 0.75, below min_confidence 0.8"

    assert (
        robot.parameter("verify", "off").reason
        == "min_confidence 0.8 needs a confidence: verify must be vote, not off."
    )
    assert "verify must be one of" in robot.parameter("verify", "guess").reason
    assert robot.parameter("min_confidence", 0.0).successful and robot.parameter("verify", "off").successful
    assert confidences(ask(robot)) == [-1]


def test_a_server_that_hangs_when_it_is_asked_again_takes_nobody_the_answer(
    robot: Robot, start: Start, address: str, profile: Path
) -> None:
    models = {"profile": profile, "reasoner": f"{address}/hangs/v1", "segmenter": "embedded"}
    start(**models, verify="vote", timeout=20.0)
    robot.ready()
    result = ask(robot)
    assert result.status == Segmentation.STATUS_OK and confidences(result) == [-1]
    assert "the confidence is not known: there was no time left to ask again" in result.message
    robot.wait("/segzero/state", lambda m: m.state == State.REASONING and m.message == "verifying")
    assert robot.parameter("min_confidence", 0.5).successful
    result = ask(robot)
    assert result.status == Segmentation.STATUS_TIMEOUT and not result.instances
    assert "the confidence is not known, and min_confidence is 0.5" in result.message


def test_a_threshold_without_a_confidence_is_refused_at_the_start(start: Start) -> None:
    node = start(min_confidence=0.5)
    _, said = node.communicate(timeout=PATIENCE)
    assert node.returncode and "min_confidence 0.5 needs a confidence" in said and "Traceback" not in said
