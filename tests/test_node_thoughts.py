"""The node's parameters of thoughts and answers, through a running node."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from segzero_msgs.srv import SegmentImage

from tests.robot import Robot

pytestmark = pytest.mark.system

Start = Callable[..., subprocess.Popen]


def thought(robot: Robot) -> str:
    answer = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="the red mug"))
    return str(answer.result.reasoning)


def test_a_thought_s_budget_changes_while_the_node_runs(robot: Robot, start: Start) -> None:
    start(reasoner="embedded", segmenter="embedded", thought_budget=3)
    robot.ready()
    robot.show()
    assert thought(robot) == "The target"
    assert robot.parameter("thought_budget", 0).successful
    assert thought(robot) == ""
    assert robot.parameter("thought_budget", -1).successful
    assert thought(robot).startswith("The target is the red mug. ")
    assert robot.parameter("thought_seconds", 1e-6).successful
    assert thought(robot) in ("", "The")
