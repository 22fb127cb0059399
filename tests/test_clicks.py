"""Clicks on a camera's pictures and on points in space become requests; real topics, real rules, real camera model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import Point, PointStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from segzero_ros.core.contract import Prompt, SegzeroError, Status
from segzero_ros.core.frames import Frame
from segzero_ros.core.space import LiftError, Status3D, Transform
from segzero_ros.core.tickets import Asker, Ticket
from segzero_ros.ros.clicks import PAUSE, Clicks
from segzero_ros.ros.executor import Executor
from segzero_ros.ros.space_points import pixel_of
from tests.request_bench import Bench

PATIENCE = 30.0  # seconds; only a failing test waits so long


def points(ticket: Ticket) -> tuple[tuple[float, float], ...]:
    """Where it was clicked, for a click whose pixel is known."""
    assert isinstance(ticket.wish.prompts, tuple)
    (prompt,) = ticket.wish.prompts
    return prompt.points


class Side:
    """A node in a context, so a DDS participant, of its own: those of one process can have one type of a topic only."""

    def __init__(self, name: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = Executor(2, context=self.context)
        self.executor.add_node(self.node)
        self.left = threading.Event()
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    def _spin(self) -> None:
        while not self.left.is_set():
            self.executor.spin_once()

    def close(self) -> None:
        self.executor.create_task(self.left.set)
        self.thread.join()
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


class Room:
    """The clicks of a node `segzero` at one side, who clicks at the other."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.near, self.far = Side("segzero"), Side("somebody")
        self.clicks = Clicks(self.near.node, self.bench.requests.ask, self.pixel_of)
        self.seen: list[PointStamped] = []

    def pixel_of(self, message: PointStamped, frame: Any, size: tuple[int, int]) -> tuple[float, float]:
        self.seen.append(message)
        return 7.0, 8.0

    def publisher(self, kind: type, topic: str) -> Any:
        """Known to the node's subscription."""
        publisher = self.far.node.create_publisher(kind, topic, 10)
        self.until(lambda: self.looks(publisher))
        return publisher

    def looks(self, publisher: Any) -> bool:
        """Whether somebody hears the publisher, once the node has looked, as it does once a second."""
        self.clicks.look()
        return bool(publisher.get_subscription_count())

    def click(self, publisher: Any, message: Any) -> Ticket:
        publisher.publish(message)
        return self.bench.take()

    def until(self, reached: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < end, "it was not reached"
            threading.Event().wait(0.01)


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.clicks.close()
    room.near.close()
    room.far.close()


def stamped(x: float, y: float, z: float = 0.0, frame: str = "", sec: int = 0, nanosec: int = 0) -> PointStamped:
    message = PointStamped(point=Point(x=x, y=y, z=z))
    message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec = frame, sec, nanosec
    return message


def test_a_point_asks_for_the_object_at_that_pixel_of_the_newest_frame(room: Room) -> None:
    room.clicks.open()
    ticket = room.click(room.publisher(PointStamped, "/segzero/point"), stamped(12.5, 30.0))
    assert ticket.by is Asker.CLICK and ticket.instruction == "" and ticket.wish.stamp == 0
    assert ticket.wish.prompts == (Prompt(points=((12.5, 30.0),), positive=(True,)),)


def test_a_point_with_a_stamp_means_that_very_frame(room: Room) -> None:
    room.clicks.open()
    ticket = room.click(room.publisher(PointStamped, "/segzero/point"), stamped(1.0, 2.0, sec=5, nanosec=7))
    assert ticket.wish.stamp == 5_000_000_007


@pytest.mark.parametrize("x", [float("nan"), float("inf"), -3.0, 1e300])
def test_a_click_on_nothing_is_a_request_that_its_frame_will_refuse_and_no_exception(room: Room, x: float) -> None:
    room.clicks.open()
    publisher = room.publisher(PointStamped, "/segzero/point")
    ticket = room.click(publisher, stamped(x, 2.0))
    np.testing.assert_equal(points(ticket)[0][0], x)
    assert points(room.click(publisher, stamped(4.0, 2.0))) == ((4.0, 2.0),)


def test_no_further_topic_is_listened_to_unless_it_is_named(room: Room) -> None:
    room.clicks.open()
    own = {s.topic_name for s in room.near.node.subscriptions if s.msg_type in (Point, PointStamped)}
    assert own == {"/segzero/point"}


@pytest.mark.parametrize("kind", [Point, PointStamped])
def test_click_topic_takes_what_rqt_image_view_publishes_and_stamped_points(room: Room, kind: type) -> None:
    room.clicks.open(click_topic="/camera/image_mouse_left")
    publisher = room.publisher(kind, "/camera/image_mouse_left")
    message = Point(x=3.0, y=4.0) if kind is Point else stamped(3.0, 4.0)
    assert points(room.click(publisher, message)) == ((3.0, 4.0),)


def test_click_topic_follows_a_publisher_of_the_other_type_that_comes_later(room: Room) -> None:
    room.clicks.open(click_topic="/clicks")
    first = room.publisher(Point, "/clicks")
    assert points(room.click(first, Point(x=1.0, y=1.0))) == ((1.0, 1.0),)
    room.far.node.destroy_publisher(first)
    later = Side("web")
    try:
        second = later.node.create_publisher(PointStamped, "/clicks", 10)
        room.until(lambda: room.looks(second))
        assert points(room.click(second, stamped(2.0, 2.0))) == ((2.0, 2.0),)
    finally:
        later.close()


def test_a_point_in_space_becomes_a_pixel_when_its_frame_is_known(room: Room) -> None:
    room.clicks.open(clicked_point_topic="/clicked_point")
    ticket = room.click(room.publisher(PointStamped, "/clicked_point"), stamped(1.0, 2.0, 3.0, "map", sec=9))
    assert ticket.wish.stamp == 0, "RViz's stamp is the time of the click, not that of a frame"
    assert room.seen == [], "TF must not be waited for where messages are taken"
    assert callable(ticket.wish.prompts)
    assert ticket.wish.prompts("a frame", (720, 1280))[0].points == ((7.0, 8.0),)
    assert room.seen[0].header.frame_id == "map"


def test_a_storm_of_clicks_piles_nothing_up_and_its_last_one_counts(room: Room) -> None:
    room.clicks.open()
    publisher = room.publisher(PointStamped, "/segzero/point")
    told, began = iter(range(100)), time.monotonic()

    def is_told() -> bool:
        x = next(told, None)
        if x is not None:
            publisher.publish(stamped(float(x), 1.0))
        return x is None

    room.until(is_told)  # a hundred a second
    room.until(lambda: [t for t in room.bench.requests._policy.line.waiting() if points(t)[0][0] == 99])
    most = (time.monotonic() - began) / PAUSE + 1
    assert len(room.bench.delivered) <= most, "each click that was replaced is an answer to publish"
    assert points(room.bench.take()) == ((99.0, 1.0),)


def test_a_click_while_the_node_refuses_is_a_refusal_on_the_topics(room: Room) -> None:
    room.bench.requests.close("the node is not active")
    room.clicks.open()
    publisher = room.publisher(PointStamped, "/segzero/point")
    publisher.publish(stamped(1.0, 1.0))
    room.until(lambda: room.bench.delivered)
    assert [t.result.status for t in room.bench.delivered if t.result] == [Status.NOT_READY]


def test_after_close_nothing_is_heard_and_it_opens_again(room: Room) -> None:
    room.clicks.open(click_topic="/clicks", clicked_point_topic="/clicked_point")
    room.clicks.close()
    assert [s.topic_name for s in room.near.node.subscriptions if s.msg_type in (Point, PointStamped)] == []
    room.clicks.open(click_topic="/clicks")
    assert room.click(room.publisher(Point, "/clicks"), Point(x=1.0)).by is Asker.CLICK


@pytest.mark.parametrize(
    "names",
    [
        {"click_topic": "no topic"},
        {"clicked_point_topic": "/a//b"},
        {"click_topic": "/segzero/point"},
        {"click_topic": "/both", "clicked_point_topic": "/both"},
    ],
)
def test_a_name_that_is_none_or_that_two_have_is_refused_by_the_parameters_name(room: Room, names: Any) -> None:
    with pytest.raises(ValueError, match=list(names)[-1]):
        room.clicks.open(**names)
    assert [s.topic_name for s in room.near.node.subscriptions if s.msg_type in (Point, PointStamped)] == []


def test_a_topic_of_another_type_altogether_is_not_listened_to(room: Room) -> None:
    room.clicks.open(click_topic="/words")
    words = room.far.node.create_publisher(String, "/words", 1)
    room.until(lambda: room.near.node.get_publishers_info_by_topic("/words"))
    room.clicks.look()
    assert words.get_subscription_count() == 0


# -- a point in space to a pixel

INFO = CameraInfo(width=640, height=480, k=[500.0, 0, 320, 0, 500, 240, 0, 0, 1], distortion_model="plumb_bob")
# The camera looks along x of the base, from 1 m above it: the optical axes are -y, -z, x.
TURNED = Transform(np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.array([0.0, 1.0, 0.0]))


def frame(info: CameraInfo | None = INFO) -> Frame:
    image = Image()
    image.header.frame_id = "camera"
    sides = {} if info is None else {"camera_info": info}
    return Frame(image, 55, 60, 1, sides, {} if info else {"camera_info": "none has come"})


def test_a_point_in_space_is_projected_by_the_transform_of_the_frames_time() -> None:
    asked = []

    def lookup(*what: Any) -> Transform:
        asked.append(what)
        return TURNED

    # 2 m ahead, 0.4 m to the left, 0.2 m below the camera
    pixel = pixel_of(stamped(2.0, 0.4, 0.8, "base", sec=99), frame(), (480, 640), lookup)
    assert pixel == pytest.approx((320 - 500 * 0.4 / 2, 240 + 500 * 0.2 / 2))
    assert asked == [("camera", "base", 55)]


def test_a_region_and_binning_of_the_sensor_move_the_pixel() -> None:
    info = CameraInfo(width=640, height=480, k=INFO.k, distortion_model="plumb_bob", binning_x=2, binning_y=2)
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 20, 40, 400, 400
    pixel = pixel_of(stamped(2.0, 0.4, 0.8, "base"), frame(info), (200, 200), lambda *_: TURNED)
    assert pixel == pytest.approx(((220 - 20) / 2, (290 - 40) / 2))


@pytest.mark.parametrize(
    ("point", "info", "words"),
    [
        (stamped(-2.0, 0.0, 1.0, "base"), INFO, "does not see"),
        (stamped(2.0, 9.0, 1.0, "base"), INFO, "does not see"),
        (stamped(float("nan"), 0.0, 1.0, "base"), INFO, "no point in space"),
        (stamped(2.0, 0.0, 1.0, ""), INFO, "no point in space"),
        (stamped(2.0, 0.0, 1.0, "base"), None, "none has come"),
        (stamped(2.0, 0.0, 1.0, "base"), CameraInfo(width=640, height=480), "cannot be brought to the image"),
    ],
    ids=["behind", "beside", "not a number", "no frame", "no camera_info", "no camera model"],
)
def test_a_point_that_the_frame_does_not_show_is_refused(point: PointStamped, info: Any, words: str) -> None:
    with pytest.raises(SegzeroError, match=words) as raised:
        pixel_of(point, frame(info), (480, 640), lambda *_: TURNED)
    assert raised.value.status is Status.BAD_REQUEST


def test_a_point_in_a_frame_that_tf_does_not_know_is_refused_with_its_reason() -> None:
    def lookup(*_: Any) -> Transform:
        raise LiftError(Status3D.NO_TRANSFORM, "there is no frame 'moon'")

    with pytest.raises(SegzeroError, match="there is no frame 'moon'") as raised:
        pixel_of(stamped(1.0, 2.0, 3.0, "moon"), frame(), (480, 640), lookup)
    assert raised.value.status is Status.BAD_REQUEST and len(raised.value.message) < 300
