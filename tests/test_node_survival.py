"""Nothing ends the process but the operator, and whoever is wrong is told so in a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalInfo, GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    GetParameterTypes,
    ListParameters,
    SetParameters,
    SetParametersAtomically,
)
from segzero_msgs.action import Segment
from segzero_msgs.msg import Segmentation, State
from segzero_msgs.srv import SegmentImage, SetInstruction
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger
from unique_identifier_msgs.msg import UUID

from tests.robot import PATIENCE, Robot, shared_memory

pytestmark = pytest.mark.system

Start = Callable[..., subprocess.Popen]
UNKNOWN = ParameterValue(type=200)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The node with these arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "segzero_ros", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def is_one_sentence(done: subprocess.CompletedProcess, *words: str) -> bool:
    said = done.stderr.splitlines()
    assert done.returncode == 1 and len(said) == 1 and said[0].startswith("segzero: "), (done.returncode, done.stderr)
    assert all(word in said[0] for word in words), said
    return True


# -- before the node exists


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--profile", "demo"], "--ros-args -p"),
        (["--ros-args", "--bogus"], "unknown ROS arguments"),
        (["--ros-args", "-p"], "-p"),
        (["--ros-args", "-p", "profile"], "-p profile"),
        (["--ros-args", "-p", "profile:="], "profile:="),
        (["--ros-args", "-p", "profile:=[1,2"], "[1,2"),
        (["--ros-args", "-p", "timeout:=soon"], "timeout"),
        (["--ros-args", "-p", "profile:=/\udcff"], "UTF-8"),
        (["--ros-args", "-r", "image"], "-r image"),
        (["--ros-args", "-r", "__node:=1bad"], "__node:=1bad"),
        (["--ros-args", "-r", "__ns:=bad"], "__ns:=bad"),
        (["--ros-args", "--log-level", "loud"], "loud"),
        (["--ros-args", "--params-file"], "--params-file"),
        (["--ros-args", "--params-file", "/nonexistent.yaml"], "/nonexistent.yaml"),
    ],
    ids=lambda value: " ".join(value[-2:]).encode("ascii", "replace").decode() if isinstance(value, list) else "",
)
def test_a_malformed_argument_is_one_sentence(arguments: list[str], word: str) -> None:
    assert is_one_sentence(run(*arguments), word)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("segzero:\n\tros__parameters:\n    profile: demo\n", ("not valid YAML", "line 2")),
        ("profile: demo\n", ("/**", "ros__parameters")),
        ("/**:\n  profile: demo\n", ("/**", "ros__parameters")),
        ("/**:\n  ros__parameters:\n    image_topic:\n", ("image_topic", "no value")),
        ("- 1\n", ("/**",)),
        ("{", ("not valid YAML",)),
        ("[" * 3000, ("not valid YAML",)),
        (b"\xff\xfe\x00", ("not valid YAML",)),
    ],
)
def test_a_parameter_file_that_says_nothing_is_one_sentence(text: str | bytes, words: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert is_one_sentence(run("--ros-args", "--params-file", str(path)), "mine.yaml", *words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROS_DOMAIN_ID", "robot1"),
        ("ROS_DOMAIN_ID", "99999"),
        ("ROS_LOG_DIR", "/dev/null/log"),
        ("RMW_IMPLEMENTATION", "rmw_nothing"),
    ],
)
def test_a_setting_of_the_shell_that_ros_cannot_use_is_one_sentence(name: str, value: str) -> None:
    assert is_one_sentence(run(**{name: value}), value)


@pytest.mark.parametrize("module", ["rclpy", "segzero_msgs", "rosbags", "cv2", "yaml", "numpy"])
def test_a_missing_module_is_one_sentence_with_what_to_do(module: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None; import segzero_ros.ros.main as m; sys.exit(m.main(['segzero']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert is_one_sentence(done, module, {"rclpy": "setup.bash", "segzero_msgs": "colcon"}.get(module, "pip install"))


def test_debug_shows_the_trace() -> None:
    done = run("--ros-args", "-p", "mode:=sometimes", "--log-level", "debug")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_names_in_a_file_that_nobody_reads_are_warned_of(start: Start, robot: Robot, tmp_path: Path) -> None:
    misspelt, other = tmp_path / "misspelt.yaml", tmp_path / "other.yaml"
    misspelt.write_text("/**:\n  ros__parameters:\n    profil: seg-zero\n    use_sim_time: false\n")
    other.write_text("segzero_node:\n  ros__parameters:\n    profile: nope\n")
    process = start(remap=("--params-file", str(misspelt), "--params-file", str(other)), autostart=False)
    robot.wait("/segzero/state", lambda m: m.state == State.UNLOADED)
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    assert "'profil'; did you mean profile?" in said and "use_sim_time" not in said
    assert "nothing for /segzero; it is for /segzero_node" in said


# -- while it runs


Impl = Segment.Impl
ILLEGAL: tuple[tuple[type, str, Any, Callable[[Any], bool]], ...] = (
    (ChangeState, "change_state", ChangeState.Request(transition=Transition(id=99)), lambda r: not r.success),
    (ChangeState, "change_state", ChangeState.Request(transition=Transition(id=1)), lambda r: not r.success),
    (ChangeState, "change_state", ChangeState.Request(transition=Transition(label="fly")), lambda r: not r.success),
    (ChangeState, "change_state", ChangeState.Request(transition=Transition(id=2)), lambda r: not r.success),
    (GetState, "get_state", GetState.Request(), lambda r: r.current_state.label == "active"),
    (GetAvailableStates, "get_available_states", GetAvailableStates.Request(), lambda r: bool(r.available_states)),
    (
        GetAvailableTransitions,
        "get_available_transitions",
        GetAvailableTransitions.Request(),
        lambda r: bool(r.available_transitions),
    ),
    (
        SetParameters,
        "set_parameters",
        SetParameters.Request(
            parameters=[Parameter(name="timeout", value=UNKNOWN), Parameter(name="mode", value=UNKNOWN)]
        ),
        lambda r: len(r.results) == 2 and not any(x.successful for x in r.results) and bool(r.results[0].reason),
    ),
    (
        SetParameters,
        "set_parameters",
        SetParameters.Request(parameters=[Parameter(name="", value=ParameterValue(type=ParameterType.PARAMETER_BOOL))]),
        lambda r: not r.results[0].successful,
    ),
    (
        SetParametersAtomically,
        "set_parameters_atomically",
        SetParametersAtomically.Request(parameters=[Parameter(name="timeout", value=UNKNOWN)]),
        lambda r: not r.result.successful and bool(r.result.reason),
    ),
    (GetParameters, "get_parameters", GetParameters.Request(names=["", "no such"]), lambda r: not r.values),
    (
        GetParameterTypes,
        "get_parameter_types",
        GetParameterTypes.Request(names=["no such"]),
        lambda r: len(r.types) < 2,
    ),
    (DescribeParameters, "describe_parameters", DescribeParameters.Request(names=["\x01"]), lambda r: True),
    (ListParameters, "list_parameters", ListParameters.Request(prefixes=["", "x" * 5000], depth=2**63), lambda r: True),
    (
        GetAvailableTransitions,
        "get_transition_graph",
        GetAvailableTransitions.Request(),
        lambda r: bool(r.available_transitions),
    ),
    (SetBool, "enable", SetBool.Request(data=False), lambda r: r.success),
    (SetBool, "enable", SetBool.Request(data=True), lambda r: r.success),
    (Trigger, "clear", Trigger.Request(), lambda r: r.success),
    (
        SetInstruction,
        "set_instruction",
        SetInstruction.Request(instruction="\x00"),
        lambda r: not r.success and r.status == Segmentation.STATUS_BAD_INSTRUCTION,
    ),
    (
        SegmentImage,
        "segment",
        SegmentImage.Request(instruction="mug", image=Image(width=2**32 - 1, height=2**32 - 1, encoding="rgb8")),
        lambda r: r.result.status == Segmentation.STATUS_UNSUPPORTED_ENCODING,
    ),
    (
        Impl.SendGoalService,
        "ask/_action/send_goal",
        Impl.SendGoalService.Request(
            goal=Segment.Goal(image=Image(width=2**32 - 1, height=2**32 - 1), timeout=float("nan"), keep_tracking=True)
        ),
        lambda r: r.accepted,  # and aborted: tests/test_node_goals.py
    ),
    (
        Impl.GetResultService,
        "ask/_action/get_result",
        Impl.GetResultService.Request(goal_id=UUID(uuid=[9] * 16)),
        lambda r: r.status == GoalStatus.STATUS_UNKNOWN,
    ),
    (
        Impl.CancelGoalService,
        "ask/_action/cancel_goal",
        Impl.CancelGoalService.Request(goal_info=GoalInfo(goal_id=UUID(uuid=[9] * 16))),
        lambda r: r.return_code == Impl.CancelGoalService.Response.ERROR_UNKNOWN_GOAL_ID,
    ),
)


def test_every_service_answers_an_illegal_request_and_the_node_goes_on(robot: Robot, start: Start) -> None:
    process = start()
    robot.ready()
    robot.repeat(lambda: "segzero" in robot.node.get_node_names())  # which come by a way of their own
    offered = {
        name.removeprefix("/segzero/") for name, _ in robot.node.get_service_names_and_types_by_node("segzero", "/")
    }
    if "get_type_description" in offered:  # since Jazzy, where its package is there
        from type_description_interfaces.srv import GetTypeDescription

        request = GetTypeDescription.Request(type_name="no such/Type", type_hash="junk")
        answer = robot.call(GetTypeDescription, "/segzero/get_type_description", request)
        assert not answer.successful and answer.failure_reason
        offered.remove("get_type_description")
    assert offered <= {name for _, name, _, _ in ILLEGAL}, "each service has its illegal request"
    for kind, name, request, right in ILLEGAL:
        response = robot.call(kind, f"/segzero/{name}", request)
        assert right(response), (name, response)
    assert process.poll() is None and robot.state() == "active"
    robot.show()
    robot.tell("the red mug")
    assert robot.answer("the red mug").status == Segmentation.STATUS_PARSE_ERROR


def test_a_manager_that_leads_a_node_which_led_itself_is_refused_and_may_take_over(robot: Robot, start: Start) -> None:
    process = start()
    robot.ready()
    for _ in range(3):  # its retries
        assert not robot.change(Transition.TRANSITION_CONFIGURE)
        assert not robot.change(Transition.TRANSITION_ACTIVATE)
    assert robot.change(Transition.TRANSITION_DEACTIVATE) and not robot.change(Transition.TRANSITION_DEACTIVATE)
    assert robot.change(Transition.TRANSITION_CLEANUP) and not robot.change(Transition.TRANSITION_CLEANUP)
    before = len(robot.seen["/segzero/state"])
    assert robot.change(Transition.TRANSITION_CONFIGURE) and robot.change(Transition.TRANSITION_ACTIVATE)
    robot.wait("/segzero/state", lambda m: m.state == State.READY, before)
    assert process.poll() is None


def test_an_inactive_node_does_not_say_that_it_is_ready(robot: Robot, start: Start) -> None:
    start()
    robot.ready()
    before = len(robot.seen["/segzero/state"])
    assert robot.change(Transition.TRANSITION_DEACTIVATE)
    assert "not active" in robot.wait("/segzero/state", lambda m: m.state == State.INACTIVE, before).message
    assert robot.change(Transition.TRANSITION_ACTIVATE)
    robot.wait("/segzero/state", lambda m: m.state == State.READY, before)


def test_a_checkpoint_whose_name_is_no_text_is_named_all_the_same(
    robot: Robot, start: Start, models: tuple[Path, Path], tmp_path: Path
) -> None:
    """The profile of the file can be written in ASCII, and the folder's name cannot."""
    folder = tmp_path / "weights-\udcff"
    folder.mkdir()
    for file in models[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        f'description: d\nprompt: plain\nreasoner: "{tmp_path}/weights-\\uDCFF"\nsegmenter: embedded\nsquare: 224\n'
        "system: null\n"
    )
    process = start(profile=profile, reasoner="''")
    robot.wait("/segzero/state", lambda m: m.state in (State.READY, State.FAILED))
    assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_the_only_end(robot: Robot, start: Start, number: int) -> None:
    process = start(autostart=False)
    robot.wait("/segzero/state", lambda m: m.state == State.UNLOADED)
    own = shared_memory(process)
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in said
    assert own and not [path for path in own if path.exists()], "each start would leave some behind"


def test_a_hang_up_is_ignored_by_who_was_started_with_nohup(robot: Robot, start: Start) -> None:
    process = start(before=("nohup",), autostart=False)
    robot.wait("/segzero/state", lambda m: m.state == State.UNLOADED)
    process.send_signal(signal.SIGHUP)
    assert robot.state() == "unconfigured" and process.poll() is None


LOSES_ITS_GPU = """
import signal
import sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # as main does, before torch has threads
from segzero_ros.models.reasoner_transformers import TransformersReasoner
from segzero_ros.ros.main import main

def lost(*_, **__):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

TransformersReasoner.generate = lost
main(sys.argv[3:])  # behind the interpreter and its -m
"""


def test_a_lost_gpu_ends_the_process_with_a_code_of_its_own_so_that_respawn_helps(robot: Robot, start: Start) -> None:
    process = start(before=(sys.executable, "-c", LOSES_ITS_GPU), trial=False)
    robot.ready()
    robot.show()
    robot.tell("the red mug")
    result = robot.answer("the red mug")
    assert result.status == Segmentation.STATUS_BACKEND_ERROR and "context is lost" in result.message
    assert "context is lost" in robot.wait("/segzero/state", lambda m: m.state == State.FAILED).message
    assert process.wait(PATIENCE) == 3
