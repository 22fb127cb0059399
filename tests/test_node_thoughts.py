"""The node's parameters of thoughts and answers, through a running node."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from segzero_msgs.srv import SegmentImage

from tests.robot import Robot

Start = Callable[..., subprocess.Popen]


def thought(robot: Robot) -> str:
    answer = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="the red mug"))
    return str(answer.result.reasoning)


def set_parameter(robot: Robot, name: str, value: Any) -> None:
    given = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
    if isinstance(value, float):
        given = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request = SetParameters.Request(parameters=[Parameter(name=name, value=given)])
    (done,) = robot.call(SetParameters, "/segzero/set_parameters", request).results
    assert done.successful, done.reason


def test_a_thought_s_budget_changes_while_the_node_runs(robot: Robot, start: Start) -> None:
    start(reasoner="embedded", segmenter="embedded", thought_budget=3)
    robot.ready()
    robot.show()
    assert thought(robot) == "The target"
    set_parameter(robot, "thought_budget", 0)
    assert thought(robot).startswith("The target is the red mug. ")
    set_parameter(robot, "thought_seconds", 1e-6)
    assert thought(robot) in ("", "The")
