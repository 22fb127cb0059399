"""The Python client of the action, against a server in a process of its own (tests/action_server.py)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus, GoalStatusArray
from builtin_interfaces.msg import Time
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import MultiThreadedExecutor
from segzero_msgs.msg import Box2D, Instance, Mask, Point2D, Segmentation
from segzero_msgs.msg import Prompt as PromptMsg
from sensor_msgs.msg import Image

from segzero_ros import asking
from segzero_ros.answers import read_answer
from segzero_ros.client import (
    AskError,
    BadAnswer,
    GoalRejected,
    NoReply,
    Segzero,
    ServerLost,
    ServerMissing,
)
from segzero_ros.core.contract import Prompt, Status
from segzero_ros.core.geometry import rle_encode
from segzero_ros.core.space import Status3D
from tests.robot import PATIENCE, Robot

STATUS = "/segzero/ask/_action/status"
SERVER = Path(__file__).with_name("action_server.py")


def serve(*names: str) -> subprocess.Popen:
    server = subprocess.Popen([sys.executable, SERVER, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"there\n"
    return server


def end(server: subprocess.Popen) -> None:
    """Orderly, so that clients are told."""
    assert server.stdin is not None
    server.stdin.close()
    server.wait(PATIENCE)


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    process = serve("segzero")
    yield
    end(process)


@pytest.fixture(scope="module")
def robot(server: None) -> Iterator[Segzero]:
    with Segzero.standalone() as robot:
        yield robot


def test_an_answer_has_a_status_a_sentence_and_instances_with_masks(robot: Segzero) -> None:
    answer = robot.ask("the mug").result(PATIENCE)
    assert (answer.status, answer.message) == (Status.OK, "one object")
    assert answer.status == "OK"
    (mug,) = answer.instances
    assert (mug.index, mug.box, mug.area, mug.status_3d) == (1, (10, 5, 30, 15), 200, Status3D.NOT_ASKED)
    wanted = np.zeros((40, 60), np.bool_)
    wanted[5:15, 10:30] = True
    np.testing.assert_array_equal(answer.mask(0), wanted)
    with pytest.raises(IndexError, match="1 instances, so none at 1"):
        answer.mask(1)
    with pytest.raises(IndexError):
        answer.mask(-1)


def test_an_answer_in_space_is_arrays_in_its_frame_with_the_hints_of_that_object(robot: Segzero) -> None:
    (mug,) = robot.ask("the mug", want_3d=True).result(PATIENCE).instances
    assert (mug.status_3d, mug.frame_id) == (Status3D.OK, "base")
    for value, wanted in (
        (mug.centroid, [0.5, 0, 0.1]),
        (mug.center, [0.51, 0, 0]),
        (mug.orientation, [0, 0, 0, 1]),
        (mug.size, [0.1, 0.2, 0.3]),
    ):
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, wanted)
    assert [(g.name, g.width) for g in mug.grasps] == [("centroid", pytest.approx(0.08))]


def test_all_that_is_thought_is_heard_before_the_answer(robot: Segzero) -> None:
    robot.ask("nothing").result(PATIENCE)  # who has just come is not known yet to who publishes
    for _ in range(20):
        heard: list[str] = []
        seen = robot.ask("the mug", on_feedback=lambda f: heard.append(f.text_delta))  # noqa: B023
        at_the_end: list[str] = []
        seen.add_done_callback(lambda _: at_the_end.extend(heard))  # noqa: B023
        seen.result(PATIENCE)
        assert "".join(heard) == "I look for it.\x1b[31m There it is."
        assert at_the_end == heard


def test_what_on_feedback_raises_ends_nothing(robot: Segzero) -> None:
    def fail(feedback: Any) -> None:
        raise KeyError("a user's mistake")

    assert robot.ask("the mug", on_feedback=fail).result(PATIENCE).status is Status.OK


@pytest.mark.parametrize(
    ("words", "status"), [("nothing", Status.NO_OBJECT), ("fail", Status.STALE_IMAGE), ("the mug", Status.OK)]
)
def test_however_the_goal_ended_its_answer_is_there(robot: Segzero, words: str, status: Status) -> None:
    assert robot.ask(words).result(PATIENCE).status is status


def test_a_callback_is_told_without_waiting(robot: Segzero) -> None:
    told = threading.Event()
    question = robot.ask("the mug")
    question.add_done_callback(lambda q: told.set())
    assert told.wait(PATIENCE) and question.result(0).status is Status.OK


def test_a_goal_that_is_cancelled_ends_with_the_nodes_last_word(robot: Segzero) -> None:
    thinking = threading.Event()
    question = robot.ask("for ever", on_feedback=lambda f: thinking.set())
    assert thinking.wait(PATIENCE)
    assert question.cancel()
    answer = question.result(PATIENCE)
    assert (answer.status, answer.message) == (Status.CANCELLED, "cancelled by its client")
    assert not question.cancel(), "it has ended"


def test_a_goal_that_is_cancelled_at_once_is_cancelled_too(robot: Segzero) -> None:
    for _ in range(20):  # before it is sent, before it is accepted, after it
        question = robot.ask("silent")
        question.cancel()
        assert question.result(PATIENCE).status is Status.CANCELLED


def test_many_questions_of_several_threads_are_all_answered(robot: Segzero, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", PATIENCE)
    questions: list[Any] = []

    def ask() -> None:
        questions.extend(robot.ask("nothing") for _ in range(15))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [q.result(PATIENCE).status for q in questions] == [Status.NO_OBJECT] * 60


def test_the_goal_carries_all_that_was_asked(robot: Segzero) -> None:
    prompt = Prompt((1, 2, 3, 4), ((5, 6), (7, 8)), (True, False), ("an id", 2))
    picture = np.zeros((4, 6, 3), np.uint8)
    answer = robot.ask("echo", prompts=[prompt], image=picture, not_before=Time(sec=9), timeout=2.5).result(PATIENCE)
    assert answer.message == "1,2,3,4 [(5.0, 6.0), (7.0, 8.0)] [True, False] an id 2 6x4 9 2.5"
    raw = PromptMsg(box=Box2D(x_max=3.0), points=[Point2D(x=1.0)], positive=[True])
    answer = robot.ask("echo", prompts=[raw], image=Image(width=2, height=1), not_before=robot.now()).result(PATIENCE)
    assert answer.message.startswith("0,0,3,0 [(1.0, 0.0)] [True]  0 2x1 ")


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"timeout": -1.0}, "timeout is -1.0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"image": np.zeros((4, 6), np.uint8)}, r"image is uint8 \(4, 6\)"),
        ({"image": np.zeros((4, 6, 3))}, "image is float64"),
        ({"not_before": Time()}, "not_before is zero"),
    ],
)
def test_what_is_no_question_is_refused_at_once(robot: Segzero, wish: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        robot.ask("the mug", **wish)


def test_a_goal_that_the_server_rejects_is_an_error_of_its_own(robot: Segzero) -> None:
    with pytest.raises(GoalRejected, match="/segzero/ask"):
        robot.ask("reject").result(PATIENCE)


def test_an_answer_that_cannot_be_read_is_an_error_and_no_wrong_answer(robot: Segzero) -> None:
    with pytest.raises(BadAnswer, match="status is 99"):
        robot.ask("a status of tomorrow").result(PATIENCE)
    answer = robot.ask("a mask that is none").result(PATIENCE)
    with pytest.raises(BadAnswer, match="mask of instance 1"):
        answer.mask(0)


def test_a_server_that_is_not_there_is_an_error_after_a_while(server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.5)
    with (
        Segzero.standalone("nobody") as robot,
        pytest.raises(ServerMissing, match=r"nobody has offered /nobody/ask within 0.5 s; ROS_DOMAIN_ID"),
    ):
        robot.ask("the mug").result(PATIENCE)


def test_a_server_that_comes_a_moment_later_is_asked_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", PATIENCE)  # its process may take long to start
    with Segzero.standalone("late") as robot:
        question = robot.ask("the mug")
        server = serve("late")
        try:
            assert question.result(PATIENCE).status is Status.OK
        finally:
            end(server)


def test_a_server_that_goes_in_the_middle_of_a_goal_ends_it_though_another_comes() -> None:
    server, thinking = serve("mortal"), threading.Event()
    with Segzero.standalone("mortal") as robot:
        question = robot.ask("for ever", on_feedback=lambda f: thinking.set())
        assert thinking.wait(PATIENCE)
        end(server)
        successor = serve("mortal")
        try:
            with pytest.raises(ServerLost, match="/mortal/ask went away"):
                question.result(PATIENCE)
            assert robot.ask("the mug").result(PATIENCE).status is Status.OK
        finally:
            end(successor)


@pytest.fixture
def watcher() -> Iterator[Robot]:
    watcher = Robot()
    watcher.listen(GoalStatusArray, STATUS)
    yield watcher
    watcher.close()


def test_a_client_that_is_closed_leaves_no_question_and_no_goal_open(server: None, watcher: Robot) -> None:
    thinking = threading.Event()
    with Segzero.standalone() as robot:
        question = robot.ask("for ever", on_feedback=lambda f: thinking.set())
        assert thinking.wait(PATIENCE)
    with pytest.raises(AskError, match="closed before the answer"):
        question.result(0)
    with pytest.raises(AskError, match="closed"):
        robot.ask("the mug")
    goal = bytes(question.handle.goal_id.uuid)
    ended = {goal: GoalStatus.STATUS_CANCELED}.items()
    watcher.wait(STATUS, lambda m: ended <= {bytes(s.goal_info.goal_id.uuid): s.status for s in m.status_list}.items())


@pytest.fixture
def own_node() -> Iterator[tuple[Any, Callable[[], None]]]:
    """A user's node, and what begins to spin it."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("user", namespace="/", context=context)
    executor = MultiThreadedExecutor(4, context=context)
    executor.add_node(node)
    left = threading.Event()

    def spin() -> None:
        while not left.is_set() and context.ok():
            with contextlib.suppress(RCLError):  # the context was shut down in the middle
                executor.spin_once(0.1)

    thread = threading.Thread(target=spin, daemon=True)
    yield node, thread.start
    left.set()
    if thread.is_alive():
        thread.join()
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()


def test_a_users_own_node_and_executor_do(server: None, own_node: Any) -> None:
    node, spin = own_node
    robot = Segzero(node)
    spin()
    assert robot.ask("the mug").result(PATIENCE).status is Status.OK
    robot.close()


def test_a_client_can_be_made_while_the_node_is_spun(own_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spinning thread asks whatever is the node's at once. Kilted's has no lock then, so that this can fail there."""
    node, _ = own_node
    counted: list[int] = []
    adds = node.add_waitable

    def add(waitable: Any) -> None:
        adds(waitable)
        counted.append(waitable.get_num_entities().num_clients)

    monkeypatch.setattr(node, "add_waitable", add)
    Segzero(node).close()
    assert counted == [3]


def test_a_node_that_nobody_spins_is_said_and_not_waited_for_for_ever(
    server: None, own_node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 1.0)
    robot = Segzero(own_node[0])
    assert robot._desk._client.wait_for_server(PATIENCE)
    with pytest.raises(NoReply, match="is the node of this client spun"):
        robot.ask("the mug").result(PATIENCE)
    robot.close()


def test_a_node_that_is_destroyed_under_its_client_ends_what_is_open(server: None, own_node: Any) -> None:
    node, spin = own_node
    robot, thinking = Segzero(node), threading.Event()
    spin()
    question = robot.ask("for ever", on_feedback=lambda f: thinking.set())
    assert thinking.wait(PATIENCE)
    node.context.try_shutdown()
    with pytest.raises(AskError):
        question.result(PATIENCE)
    robot.close()


def mask_of(encoding: int, data: bytes, **more: int) -> Mask:
    place = {"width": 3, "height": 2, "x_offset": 1, "y_offset": 1} | more
    return Mask(encoding=encoding, data=data, **place)


CROP = np.array([[0, 1, 1], [1, 0, 0]], np.bool_)


@pytest.mark.parametrize(
    "mask",
    [
        mask_of(Mask.MONO8, (CROP.view(np.uint8) * np.uint8(255)).tobytes()),
        mask_of(Mask.RLE, np.array(rle_encode(CROP), "<u4").tobytes()),
    ],
    ids=["mono8", "run lengths"],
)
def test_masks_of_the_other_encodings_are_read_too(mask: Mask) -> None:
    answer = read_answer(Segmentation(height=4, width=5, instances=[Instance(mask=mask)]))
    wanted = np.zeros((4, 5), np.bool_)
    wanted[1:3, 1:4] = CROP
    np.testing.assert_array_equal(answer.mask(0), wanted)


@pytest.mark.parametrize(
    "mask",
    [
        mask_of(Mask.MONO8, b"12345"),
        mask_of(Mask.MONO8, bytes(6), x_offset=3),
        mask_of(Mask.MONO8, bytes(6), y_offset=2**32 - 1),
        mask_of(Mask.RLE, np.array([2, 2**32 - 1], "<u4").tobytes()),
        mask_of(Mask.RLE, b"123"),
        mask_of(77, b""),
    ],
    ids=["too short", "beside the image", "far below it", "too many", "half a number", "of tomorrow"],
)
def test_a_mask_that_does_not_fit_is_a_typed_error(mask: Mask) -> None:
    answer = read_answer(Segmentation(height=4, width=5, instances=[Instance(mask=mask)]))
    with pytest.raises(BadAnswer, match="mask of instance 1"):
        answer.mask(0)


def test_an_image_size_of_a_hostile_answer_takes_no_memory() -> None:
    answer = read_answer(Segmentation(height=2**31, width=2**31, instances=[Instance()]))
    with pytest.raises(BadAnswer, match="mask of instance 1"):
        answer.mask(0)
