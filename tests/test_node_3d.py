"""Prompts, corrections, clicks and answers in space on a real node: a board before a wall, seen by an RGB-D camera."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Point, PointStamped
from segzero_msgs.action import Segment
from segzero_msgs.msg import Box2D, Instance, Point2D, Prompt, Segmentation
from segzero_msgs.srv import SegmentImage
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from segzero_ros.ros.convert import image_to_msg
from tests.robot import HEIGHT, PATIENCE, WIDTH, Robot

pytestmark = pytest.mark.system

FOCAL, WALL, BOARD = 900.0, 1.2, 0.8  # pixels, metres, metres
LEFT, TOP, RIGHT, BOTTOM = 500, 260, 780, 440  # of the board, pixels
DEPTH = "/depth/image"


class Camera:
    """Colour, depth and camera_info of one stamp, as an RGB-D camera publishes them."""

    def __init__(self, robot: Robot) -> None:
        self.robot = robot
        self.depth = robot.node.create_publisher(Image, DEPTH, 5)
        self.pixels = np.full((HEIGHT, WIDTH, 3), (90, 90, 90), np.uint8)
        self.pixels[TOP:BOTTOM, LEFT:RIGHT] = (210, 40, 40)
        self.metres = np.full((HEIGHT, WIDTH), WALL, np.float32)
        self.metres[TOP:BOTTOM, LEFT:RIGHT] = BOARD

    def show(self, with_depth: bool = True) -> Header:
        robot = self.robot
        header = Header(frame_id="camera", stamp=robot.node.get_clock().now().to_msg())
        k = [FOCAL, 0.0, WIDTH / 2, 0.0, FOCAL, HEIGHT / 2, 0.0, 0.0, 1.0]
        robot.calibrate(CameraInfo(header=header, width=WIDTH, height=HEIGHT, k=k))
        if with_depth:
            robot.deliver(self.depth, image_to_msg(self.metres, "32FC1", header))
        robot.send(image_to_msg(self.pixels, "rgb8", header))  # last: a request that waits begins with it
        return header


@pytest.fixture
def camera(robot: Robot) -> Camera:
    return Camera(robot)


@pytest.fixture
def ask(robot: Robot) -> Callable[..., tuple[int, Segmentation]]:
    client = robot.goals()

    def send(show: Callable[[], Any] = lambda: None, **goal: Any) -> tuple[int, Segmentation]:
        import threading

        robot.served(client)
        robot.known()
        done = threading.Event()
        ends: list[Any] = []

        def ended(future: Any) -> None:
            ends.append(future.result())
            done.set()

        accepted = robot.within(client.send_goal_async, Segment.Goal(**goal))
        accepted.add_done_callback(lambda f: f.result().get_result_async().add_done_callback(ended))
        show()
        assert done.wait(PATIENCE), "the goal has no end"
        return ends[0].status, ends[0].result.result

    return send


Ask = Callable[..., tuple[int, Segmentation]]
BOX = Prompt(box=Box2D(x_min=float(LEFT), y_min=float(TOP), x_max=float(RIGHT), y_max=float(BOTTOM)))


def node(start: Callable[..., Any], robot: Robot, **parameters: Any) -> None:
    start(reasoner="embedded", segmenter="embedded", image_timeout=PATIENCE, depth_wait=10.0, **parameters)
    robot.ready()


def test_a_box_is_segmented_without_the_reasoner_and_lifted_to_where_the_board_is(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    node(start, robot, depth_topic=DEPTH)
    robot.listen(PointCloud2, "/segzero/points")
    status, result = ask(camera.show, prompts=[BOX], instruction="board", want_3d=True)
    assert status == GoalStatus.STATUS_SUCCEEDED, result.message
    [board] = result.instances
    assert board.status_3d == Instance.STATUS_3D_OK and board.has_3d, board.message_3d
    assert (board.label, board.header_3d, result.reasoning) == ("board", result.header, "")
    middle = ((LEFT + RIGHT) / 2 - WIDTH / 2) * BOARD / FOCAL, ((TOP + BOTTOM) / 2 - HEIGHT / 2) * BOARD / FOCAL
    assert np.allclose((board.centroid.x, board.centroid.y, board.centroid.z), (*middle, BOARD), atol=0.01)
    sides = [(RIGHT - LEFT) * BOARD / FOCAL, (BOTTOM - TOP) * BOARD / FOCAL]
    sizes = [board.box3d.size.x, board.box3d.size.y, board.box3d.size.z]
    assert all(np.isclose(sizes, side, atol=0.02).any() for side in sides), sizes
    cloud = robot.wait("/segzero/points", lambda m: m.width > 100)
    assert cloud.header == result.header


def test_without_a_depth_topic_a_wish_for_3d_has_a_typed_failure_and_the_answer_in_pixels_stands(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    node(start, robot)
    status, result = ask(lambda: camera.show(False), prompts=[BOX], want_3d=True)
    assert status == GoalStatus.STATUS_SUCCEEDED
    [board] = result.instances
    assert board.status_3d == Instance.STATUS_3D_NO_DEPTH and "depth_topic" in board.message_3d
    assert board.area > 1000 and not board.has_3d


def test_depth_of_another_size_is_unaligned(start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask) -> None:
    node(start, robot, depth_topic=DEPTH)
    camera.metres = camera.metres[::2, ::2]
    [board] = ask(camera.show, prompts=[BOX], want_3d=True)[1].instances
    assert board.status_3d == Instance.STATUS_3D_UNALIGNED and "640 x 360" in board.message_3d


def test_a_goal_that_does_not_want_3d_is_not_lifted(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    node(start, robot, depth_topic=DEPTH)
    [board] = ask(camera.show, prompts=[BOX])[1].instances
    assert board.status_3d == Instance.STATUS_3D_NOT_ASKED


def test_an_earlier_answer_is_corrected_on_its_own_frame_and_an_older_one_refused(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    node(start, robot, depth_topic=DEPTH)
    first = ask(camera.show, prompts=[BOX, BOX], want_3d=True)[1]
    camera.show()
    robot.arrived(2)
    better = Prompt(request_id=first.request_id, index=2, points=[Point2D(x=640.0, y=350.0)], positive=[True])
    status, second = ask(prompts=[better], want_3d=True)
    assert status == GoalStatus.STATUS_SUCCEEDED, second.message
    assert second.header == first.header and second.request_id != first.request_id
    assert [i.index for i in second.instances] == [1, 2] and second.instances[1].has_3d
    status, third = ask(prompts=[better])
    assert status == GoalStatus.STATUS_ABORTED and third.status == Segmentation.STATUS_BAD_REQUEST
    assert second.request_id in third.message


def test_a_refused_correction_leaves_the_answer_to_be_corrected(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    node(start, robot)
    first = ask(lambda: camera.show(False), prompts=[BOX])[1]
    better = {"request_id": first.request_id, "points": [Point2D(x=640.0, y=350.0)]}
    refused = ask(prompts=[Prompt(index=7, **better)])[1]
    assert refused.status == Segmentation.STATUS_BAD_REQUEST and "object 7" in refused.message
    status, second = ask(prompts=[Prompt(index=1, **better)])
    assert status == GoalStatus.STATUS_SUCCEEDED, second.message
    assert second.header == first.header


def test_a_call_takes_prompts_and_refuses_those_that_do_not_fit(
    start: Callable[..., Any], robot: Robot, camera: Camera
) -> None:
    node(start, robot)
    camera.show(False)
    robot.arrived(1)
    reply = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(prompts=[BOX], instruction="board"))
    assert reply.result.status == Segmentation.STATUS_OK and reply.result.instances[0].label == "board"
    for bad in (
        Prompt(points=[Point2D(x=5000.0, y=1.0)]),
        Prompt(points=[Point2D(x=float("nan"), y=1.0)]),
        Prompt(),
        Prompt(points=[Point2D(x=1.0, y=1.0)], positive=[False, True]),
        Prompt(points=[Point2D(x=1.0, y=1.0)], positive=[False]),
        Prompt(points=[Point2D(x=1.0, y=1.0)], index=1),
    ):
        reply = robot.call(SegmentImage, "/segzero/segment", SegmentImage.Request(prompts=[bad]))
        assert reply.result.status == Segmentation.STATUS_BAD_REQUEST and "prompt 1" in reply.result.message


def test_a_click_on_the_picture_of_the_answer_asks_about_that_frame_and_one_on_an_older_frame_is_refused(
    start: Callable[..., Any], robot: Robot, camera: Camera
) -> None:
    node(start, robot)
    click = robot.matched(robot.node.create_publisher(PointStamped, "/segzero/point", 5))
    middle = Point(x=(LEFT + RIGHT) / 2, y=(TOP + BOTTOM) / 2)
    old = camera.show(False)
    robot.arrived(1)
    click.publish(PointStamped(point=middle))  # the newest frame
    first = robot.result()
    assert first.status == Segmentation.STATUS_OK and first.header == old
    camera.show(False)
    robot.arrived(2)
    click.publish(PointStamped(header=old, point=middle))
    second = robot.result(lambda m: m.request_id != first.request_id)
    assert second.header == old and second.status == Segmentation.STATUS_OK
    click.publish(PointStamped(header=Header(stamp=second.header.stamp.__class__(sec=5)), point=middle))
    third = robot.result(lambda m: m.request_id not in (first.request_id, second.request_id))
    assert third.status == Segmentation.STATUS_STALE_IMAGE


def test_a_click_outside_the_picture_is_a_bad_request(start: Callable[..., Any], robot: Robot, camera: Camera) -> None:
    node(start, robot)
    click = robot.matched(robot.node.create_publisher(PointStamped, "/segzero/point", 5))
    camera.show(False)
    robot.arrived(1)
    click.publish(PointStamped(point=Point(x=5000.0, y=3.0)))
    assert robot.result().status == Segmentation.STATUS_BAD_REQUEST


def test_a_correction_of_an_answer_that_stands_is_refused_since_its_rounds_share_an_id(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    start(mode="continuous", image_timeout=PATIENCE, reasoner="embedded", segmenter="embedded")
    robot.ready()
    robot.tell("all the balls")
    for count in (1, 2):
        camera.show(False)
        robot.result(lambda m: m.instruction == "all the balls", count - 1)
    again = Prompt(request_id=robot.results()[0].request_id, index=1, points=[Point2D(x=640.0, y=350.0)])
    status, refused = ask(prompts=[again])
    assert status == GoalStatus.STATUS_ABORTED and refused.status == Segmentation.STATUS_BAD_REQUEST
    assert "stands" in refused.message


def test_an_image_without_a_width_and_a_negative_time_are_bad_requests(
    start: Callable[..., Any], robot: Robot, camera: Camera, ask: Ask
) -> None:
    node(start, robot)
    camera.show(False)
    robot.arrived(1)
    for goal in (
        {"image": Image(height=480, encoding="rgb8")},
        {"not_before": Header().stamp.__class__(sec=-5)},
    ):
        status, refused = ask(instruction="the red mug", **goal)
        assert status == GoalStatus.STATUS_ABORTED and refused.status == Segmentation.STATUS_BAD_REQUEST
