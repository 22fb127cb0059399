"""Goals of ~/ask on a real node over real DDS: rclpy's own client, and everybody else who asks meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSProfile
from segzero_msgs.action import Segment
from segzero_msgs.msg import Segmentation
from segzero_msgs.srv import SegmentImage
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from tests.robot import HEIGHT, PATIENCE, WIDTH, Robot

pytestmark = pytest.mark.system

SUCCEEDED, CANCELED, ABORTED = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_ABORTED
FEEDBACK = Segment.Feedback


class Asked:
    """A goal that a client sent: its feedback, and its end."""

    def __init__(self) -> None:
        self.feedback: list[Any] = []
        self.news = threading.Condition()
        self.handle: Any = None
        self.done = threading.Event()
        self.status = 0
        self.result = Segmentation()

    def heard(self, message: Any) -> None:
        with self.news:
            self.feedback.append(message.feedback)
            self.news.notify_all()

    def accepted(self, future: Any) -> None:
        self.handle = future.result()
        with self.news:
            self.news.notify_all()
        self.handle.get_result_async().add_done_callback(self.ended)

    def ended(self, future: Any) -> None:
        self.status, self.result = future.result().status, future.result().result.result
        self.done.set()

    def until(self, right: Callable[[Any], bool]) -> None:
        with self.news:
            assert self.news.wait_for(lambda: any(map(right, self.feedback)), PATIENCE), self.feedback[-3:]

    def reasons(self) -> None:
        self.until(lambda f: f.stage == FEEDBACK.REASONING and f.text)

    def end(self) -> tuple[int, Segmentation]:
        assert self.done.wait(PATIENCE), "the goal has no end"
        return self.status, self.result

    def taken(self) -> None:
        with self.news:
            assert self.news.wait_for(lambda: self.handle is not None, PATIENCE)

    def cancel(self) -> Any:
        self.taken()
        self.handle.cancel_goal_async()


@pytest.fixture
def client(robot: Robot) -> Any:
    burst = QoSProfile(depth=200)
    return robot.goals(
        goal_service_qos_profile=burst,
        result_service_qos_profile=burst,
        cancel_service_qos_profile=burst,
        feedback_sub_qos_profile=burst,
    )


@pytest.fixture
def ask(client: Any, robot: Robot) -> Callable[..., Asked]:
    def send(instruction: str = "the red mug", **goal: Any) -> Asked:
        robot.served(client)
        robot.known()
        asked = Asked()
        sent = Segment.Goal(instruction=instruction, **goal)
        future = robot.within(client.send_goal_async, sent, feedback_callback=asked.heard)
        future.add_done_callback(asked.accepted)
        return asked

    return send


@pytest.fixture
def slow(start: Callable[..., Any], robot: Robot, long_profile: Path) -> Robot:
    """A robot whose node writes for longer than any test takes, and whose camera has shown a frame."""
    start(profile=long_profile, image_timeout=PATIENCE)
    robot.ready()
    robot.show()
    robot.arrived(1)
    return robot


@pytest.fixture
def quick(start: Callable[..., Any], robot: Robot) -> Robot:
    start(image_timeout=PATIENCE)
    robot.ready()
    return robot


def test_a_goal_ends_with_an_answer_that_the_topics_have_too(quick: Robot, ask: Callable[..., Asked]) -> None:
    goal = ask()
    header = quick.show()
    status, result = goal.end()
    assert (status, result.status) == (ABORTED, Segmentation.STATUS_PARSE_ERROR), "random weights write no answer"
    assert result.header == header
    assert (result.width, result.height, result.instruction) == (WIDTH, HEIGHT, "the red mug")
    published = quick.answer("the red mug")
    assert published.request_id == result.request_id and published.status == result.status


def test_feedback_has_the_stages_and_all_of_the_text_in_pieces(slow: Robot, ask: Callable[..., Asked]) -> None:
    goal = ask()
    goal.until(lambda f: len(f.text) > 50)
    goal.cancel()
    goal.end()
    whole = "".join(f.text_delta for f in goal.feedback)
    last = goal.feedback[-1]
    assert whole.endswith(last.text) and len(last.text) <= 2000
    assert [f.elapsed for f in goal.feedback] == sorted(f.elapsed for f in goal.feedback)
    assert {f.stage for f in goal.feedback} <= {FEEDBACK.QUEUED, FEEDBACK.WAITING_FRAME, FEEDBACK.REASONING}


def test_a_client_that_cancels_gets_canceled_and_how_long_it_took(slow: Robot, ask: Callable[..., Asked]) -> None:
    goal = ask()
    goal.reasons()
    goal.cancel()
    status, result = goal.end()
    assert status == CANCELED and result.status == Segmentation.STATUS_CANCELLED
    assert "cancelled by its client; it stopped after" in result.message and result.instruction == "the red mug"
    slow.ready()


def test_a_goal_that_waits_for_an_image_is_cancelled_too(quick: Robot, ask: Callable[..., Asked]) -> None:
    goal = ask()
    goal.until(lambda f: f.stage == FEEDBACK.WAITING_FRAME)
    goal.cancel()
    assert goal.end()[0] == CANCELED


def test_a_newer_goal_aborts_the_older_one(slow: Robot, ask: Callable[..., Asked]) -> None:
    first = ask("the red mug")
    first.reasons()
    second = ask("the blue mug")
    status, result = first.end()
    assert status == ABORTED and result.status == Segmentation.STATUS_CANCELLED and "newer goal" in result.message
    second.reasons()
    second.cancel()
    assert second.end()[0] == CANCELED


def test_of_forty_goals_at_once_each_has_its_end_and_the_last_one_is_answered(
    quick: Robot, ask: Callable[..., Asked]
) -> None:
    goals = [ask(f"mug {n}") for n in range(40)]
    stop = threading.Event()
    camera = threading.Thread(target=lambda: [quick.show(n) for n in range(10_000) if not stop.wait(0.2)])
    camera.start()
    ends = [goal.end() for goal in goals]
    stop.set()
    camera.join()
    assert all(result.instruction == f"mug {n}" for n, (_, result) in enumerate(ends))
    assert all(status == ABORTED for status, result in ends if result.status == Segmentation.STATUS_CANCELLED)
    assert ends[-1][1].status != Segmentation.STATUS_CANCELLED


def test_while_a_goal_runs_topic_and_service_are_busy(slow: Robot, ask: Callable[..., Asked]) -> None:
    goal = ask()
    goal.reasons()
    slow.tell("a duck")
    busy = slow.answer("a duck")
    assert busy.status == Segmentation.STATUS_BUSY and "the red mug" in busy.message
    reply = slow.call(SegmentImage, "/segzero/segment", SegmentImage.Request(instruction="a ball"))
    assert reply.result.status == Segmentation.STATUS_BUSY
    assert not goal.done.is_set()


@pytest.mark.parametrize("what", ["clear", "disable", "deactivate"])
def test_clear_disable_and_deactivate_abort_a_goal(slow: Robot, ask: Callable[..., Asked], what: str) -> None:
    goal = ask()
    goal.reasons()
    if what == "clear":
        slow.call(Trigger, "/segzero/clear", Trigger.Request())
    elif what == "disable":
        slow.call(SetBool, "/segzero/enable", SetBool.Request(data=False))
    else:
        assert slow.change(Transition.TRANSITION_DEACTIVATE)
    status, result = goal.end()
    assert status == ABORTED and result.status == Segmentation.STATUS_CANCELLED


def test_a_goal_of_an_inactive_node_is_aborted_with_the_reason(
    start: Callable[..., Any], robot: Robot, ask: Callable[..., Asked]
) -> None:
    start(autostart=False)
    status, result = ask().end()
    assert status == ABORTED and result.status == Segmentation.STATUS_NOT_READY and "not active" in result.message


def test_goals_while_loading_are_refused_where_the_parameter_says_so(
    start: Callable[..., Any], robot: Robot, ask: Callable[..., Asked], held: Any
) -> None:
    start(before=held.before, goals_while_loading="refuse")
    robot.loading()
    status, result = ask().end()
    assert status == ABORTED and result.status == Segmentation.STATUS_NOT_READY and "loading" in result.message


@pytest.mark.parametrize(
    ("goal", "word"),
    [
        ({"keep_tracking": True}, "keep_tracking"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
    ],
)
def test_a_wish_that_nothing_here_can_do_is_a_bad_request(
    quick: Robot, ask: Callable[..., Asked], goal: dict[str, Any], word: str
) -> None:
    status, result = ask(**goal).end()
    assert status == ABORTED and result.status == Segmentation.STATUS_BAD_REQUEST and word in result.message


def test_an_empty_instruction_is_a_bad_one(quick: Robot, ask: Callable[..., Asked]) -> None:
    assert ask(" ").end()[1].status == Segmentation.STATUS_BAD_INSTRUCTION


def test_a_goal_waits_for_a_frame_that_is_not_before_its_time(quick: Robot, ask: Callable[..., Asked]) -> None:
    quick.show()
    quick.arrived(1)
    goal = ask(not_before=quick.node.get_clock().now().to_msg())
    goal.until(lambda f: f.stage == FEEDBACK.WAITING_FRAME)
    assert not goal.done.is_set()
    new = quick.show(2)
    assert goal.end()[1].header == new


def test_not_before_in_the_future_ends_at_the_goals_own_timeout(quick: Robot, ask: Callable[..., Asked]) -> None:
    header = quick.show()
    quick.arrived(1)
    status, result = ask(not_before=Time(sec=header.stamp.sec + 1000), timeout=1.0).end()
    assert status == ABORTED
    if result.status != Segmentation.STATUS_TIMEOUT:  # of a node that was held up when its time was over
        assert result.status == Segmentation.STATUS_STALE_IMAGE and "not_before" in result.message


def test_a_given_image_that_is_older_or_has_no_stamp_is_stale(quick: Robot, ask: Callable[..., Asked]) -> None:
    image = _image(Header(stamp=Time(sec=10)))
    assert ask(image=image, not_before=Time(sec=11)).end()[1].status == Segmentation.STATUS_STALE_IMAGE
    assert ask(image=_image(Header()), not_before=Time(sec=1)).end()[1].status == Segmentation.STATUS_STALE_IMAGE
    result = ask(image=image, not_before=Time(sec=10)).end()[1]
    assert result.status != Segmentation.STATUS_STALE_IMAGE and result.header.stamp.sec == 10


def test_a_client_that_dies_leaves_a_goal_that_ends_by_its_timeout(
    slow: Robot, ask: Callable[..., Asked], client: Any
) -> None:
    goal = ask(timeout=3.0)
    goal.taken()
    slow.lose(client)
    assert slow.answer("the red mug").status == Segmentation.STATUS_TIMEOUT
    slow.ready()


def _image(header: Header) -> Any:
    import numpy as np

    from segzero_ros.ros.convert import image_to_msg

    return image_to_msg(np.zeros((HEIGHT, WIDTH, 3), np.uint8), "rgb8", header)
