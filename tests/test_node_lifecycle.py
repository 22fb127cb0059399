"""The node's lifecycle: by itself, by a manager, after failures; parameters right and wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from segzero_msgs.msg import Segmentation, State

from segzero_ros.ros.parameters import TABLE
from tests.robot import PATIENCE, Robot

pytestmark = pytest.mark.system

Start = Callable[..., subprocess.Popen]


def test_a_manager_leads_it_through_all_states_and_back(robot: Robot, start: Start) -> None:
    process = start(autostart=False)
    robot.wait("/segzero/state", lambda m: m.state == State.UNLOADED)
    assert robot.state() == "unconfigured"
    for turn in range(2):
        seen = len(robot.seen["/segzero/state"])
        assert robot.change(Transition.TRANSITION_CONFIGURE) and robot.state() == "inactive"
        assert robot.change(Transition.TRANSITION_ACTIVATE) and robot.state() == "active"
        robot.wait("/segzero/state", lambda m: m.state == State.READY, seen)
        robot.show()
        robot.tell(f"mug {turn}")
        assert robot.answer(f"mug {turn}").status == Segmentation.STATUS_PARSE_ERROR
        assert robot.change(Transition.TRANSITION_DEACTIVATE) and robot.state() == "inactive"
        robot.tell("while inactive")
        refused = robot.answer("while inactive", len(robot.results()) - 1)
        assert refused.status == Segmentation.STATUS_NOT_READY
        assert robot.change(Transition.TRANSITION_CLEANUP) and robot.state() == "unconfigured"
        robot.wait("/segzero/state", lambda m: m.state == State.UNLOADED, seen)
    assert robot.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert process.poll() is None


def test_cleaning_up_and_configuring_again_in_the_middle_of_a_load(robot: Robot, start: Start) -> None:
    start(autostart=False)
    assert robot.change(Transition.TRANSITION_CONFIGURE)
    loading = robot.wait("/segzero/state", lambda m: m.state == State.LOADING)
    assert "the node is not active" in loading.message, "what would be refused is said"
    assert robot.change(Transition.TRANSITION_CLEANUP)
    assert robot.change(Transition.TRANSITION_CONFIGURE) and robot.change(Transition.TRANSITION_ACTIVATE)
    robot.ready()
    robot.show()
    robot.tell("the red mug")
    assert robot.result().status == Segmentation.STATUS_PARSE_ERROR


def test_after_a_failed_load_another_checkpoint_can_be_configured(
    robot: Robot, start: Start, models: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    start(reasoner=tmp_path)
    failed = robot.wait("/segzero/state", lambda m: m.state == State.FAILED)
    assert "model.safetensors" in failed.message
    robot.until_state("unconfigured")
    assert robot.parameter("reasoner", str(models[0])).successful
    assert robot.change(Transition.TRANSITION_CONFIGURE) and robot.change(Transition.TRANSITION_ACTIVATE)
    robot.ready()
    robot.show()
    robot.tell("the red mug")
    assert robot.answer("the red mug").status == Segmentation.STATUS_PARSE_ERROR


def test_after_a_topic_name_that_is_none_it_can_be_configured(robot: Robot, start: Start) -> None:
    start(autostart=False, image_topic="no topic")
    assert not robot.change(Transition.TRANSITION_CONFIGURE)
    assert robot.state() == "unconfigured"
    assert robot.parameter("image_topic", "image").successful
    assert robot.change(Transition.TRANSITION_CONFIGURE) and robot.change(Transition.TRANSITION_ACTIVATE)
    robot.ready()
    robot.show()
    robot.tell("the red mug")
    robot.answer("the red mug")
    assert len(robot.results()) == 1  # one subscription, not two


def test_a_failed_load_answers_the_instruction_that_waited(
    robot: Robot, start: Start, tmp_path: Path, held: Any
) -> None:
    start(before=held.before, reasoner=tmp_path / "nothing", instruction="the red mug")
    robot.loading()
    robot.known()  # the answer is forgotten when the node is unconfigured
    held.go_on()
    result = robot.answer("the red mug")
    assert result.status == Segmentation.STATUS_NOT_READY and "nothing" in result.message


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [("timeout", -1.0, "timeout"), ("mode", "sometimes", "mode must be one of"), ("profile", "nobody", "nobody")],
)
def test_a_bad_parameter_is_a_sentence(robot: Robot, start: Start, name: str, value: object, sentence: str) -> None:
    process = start(**{name: value})
    if name == "profile":  # known only when it is read
        assert sentence in robot.wait("/segzero/state", lambda m: m.state == State.FAILED).message
        assert robot.state() == "unconfigured"
        return
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and sentence in said and "Traceback" not in said


def test_help_lists_the_parameters_and_starts_nothing() -> None:
    command = [sys.executable, "-m", "segzero_ros", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert all(f"  {p.name} (" in told and p.sentence in told for p in TABLE)


def test_parameters_are_checked_while_it_runs(robot: Robot, start: Start) -> None:
    start(autostart=False)
    robot.wait("/segzero/state", lambda m: True)
    for name, value in (
        ("timeout", -1.0),
        ("mode", "sometimes"),
        ("max_age", "old"),
        ("repeat_gap", float("nan")),
        ("autostart", True),
    ):
        refused = robot.parameter(name, value)
        assert not refused.successful and refused.reason
    assert robot.parameter("timeout", 3.0).successful
