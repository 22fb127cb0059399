"""What the node takes from cameras: encodings, padding, compression, clocks, restarts, several cameras."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.qos import ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from segzero_msgs.msg import Segmentation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.ros.convert import bytes_array, image_to_msg
from tests.robot import Robot

pytestmark = pytest.mark.system

Start = Callable[..., subprocess.Popen]
ANSWERED = {Segmentation.STATUS_OK, Segmentation.STATUS_NO_OBJECT, Segmentation.STATUS_PARSE_ERROR}


def stamped(seconds: int) -> Header:
    return Header(stamp=Time(sec=seconds), frame_id="camera")


def test_a_camera_that_changes_size_and_encoding_and_goes_back_in_time(robot: Robot, start: Start) -> None:
    start(image_timeout=0.3)
    robot.ready()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    padded = image_to_msg(np.pad(pixels, ((0, 0), (0, 5), (0, 0))), "bgr8", stamped(20))
    padded.width = 64
    yuv = image_to_msg(pixels[:, :, :2], "yuv422", stamped(21))
    small = image_to_msg(pixels[:7, :9, 0], "mono8", stamped(5))
    deep = image_to_msg(pixels[:, :, 0].astype(np.uint16) * 200, "16UC1", stamped(6))
    frames = [(padded, (48, 64)), (yuv, (48, 64)), (small, (7, 9)), (deep, (48, 64))]
    for count, (image, size) in enumerate(frames):
        robot.send(image)
        robot.arrived(count + 1)
        robot.tell(f"mug {count}")
        result = robot.answer(f"mug {count}")
        assert result.status in ANSWERED, result.message
        assert (result.height, result.width) == size and result.header == image.header


def test_an_encoding_that_is_not_taken_is_refused_by_name_and_the_next_frame_answered(
    robot: Robot, start: Start
) -> None:
    start()
    robot.ready()
    image = image_to_msg(np.zeros((8, 8), np.float64), "64FC1", stamped(1))
    robot.send(image)
    robot.arrived(1)
    robot.tell("the red mug")
    refused = robot.result()
    assert refused.status == Segmentation.STATUS_UNSUPPORTED_ENCODING
    assert "64FC1" in refused.message and "bayer_rggb8" in refused.message and refused.header == image.header
    header = robot.show()
    robot.arrived(2)
    robot.tell("the blue mug")
    result = robot.answer("the blue mug")
    assert result.status in ANSWERED and result.header == header


def test_a_camera_that_stopped_is_a_stale_image(robot: Robot, start: Start) -> None:
    start(max_age=1.0, image_timeout=0.2)
    robot.ready()
    robot.send(image_to_msg(np.zeros((8, 8, 3), np.uint8), "rgb8", stamped(1)))
    robot.arrived(1)
    robot.tell("the red mug")
    result = robot.result()
    assert result.status == Segmentation.STATUS_STALE_IMAGE and "max_age" in result.message


def test_compressed_images_are_taken_and_come_back_raw(robot: Robot, start: Start) -> None:
    start(image_transport="compressed")
    robot.ready()
    camera = robot.node.create_publisher(CompressedImage, "/image/compressed", 5)
    pixels = np.full((48, 64, 3), (200, 60, 30), np.uint8)
    _, jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1])
    header = stamped(3)
    sent = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=bytes_array(jpeg.tobytes()))
    robot.stream(robot.matched(camera), sent)
    robot.listen(Image, "/segzero/source_image")
    robot.tell("the red mug")
    result = robot.result()
    assert result.status in ANSWERED and result.header == header
    source = robot.wait("/segzero/source_image", lambda m: True)
    assert source.header == header and source.encoding == "rgb8"
    assert np.abs(np.frombuffer(source.data, np.uint8).reshape(48, 64, 3).astype(int) - pixels).max() < 8


def test_with_simulated_time_ages_are_of_the_simulated_clock(robot: Robot, start: Start) -> None:
    start(use_sim_time=True, max_age=1.0, image_timeout=0.3)
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    robot.ready()

    def at(seconds: int) -> None:
        """The node hears its clock by best effort."""
        told = robot.seen["/diagnostics"]
        robot.repeat(
            lambda: any(m.header.stamp.sec == seconds for m in told), clock.publish, Clock(clock=Time(sec=seconds))
        )

    pixels = np.zeros((8, 8, 3), np.uint8)
    at(1000)
    image = image_to_msg(pixels, "rgb8", stamped(1000))
    robot.send(image)
    robot.arrived(1)
    robot.tell("fresh")
    assert robot.answer("fresh").status in ANSWERED
    at(1100)
    robot.tell("stale")
    assert robot.answer("stale").status == Segmentation.STATUS_STALE_IMAGE
    at(50)  # the bag began again
    image = image_to_msg(pixels, "rgb8", stamped(50))
    robot.send(image)
    robot.arrived(2)
    robot.tell("again")
    again = robot.answer("again")
    assert again.status in ANSWERED and again.header.stamp.sec == 50


@pytest.fixture
def sides() -> Iterator[dict[str, Robot]]:
    robots = {side: Robot(f"/{side}") for side in ("left", "right")}
    yield robots
    for robot in robots.values():
        robot.close()


def test_two_cameras_and_two_nodes_do_not_hear_each_other(sides: dict[str, Robot], start: Start) -> None:
    for side in sides:
        start(remap=("-r", f"__ns:=/{side}"))
    shown: dict[str, Any] = {}
    for side, robot in sides.items():
        robot.ready()
        shown[side] = robot.show(len(side))
        robot.tell(f"the {side} mug")
    for side, robot in sides.items():
        result = robot.result()
        assert result.instruction == f"the {side} mug" and result.header == shown[side]
        assert len(robot.results()) == 1
        assert isinstance(result.camera_info, CameraInfo) and result.camera_info.k[0] == 100.0


def test_camera_info_carries_the_images_header_also_when_it_came_with_another(robot: Robot, start: Start) -> None:
    robot.listen(CameraInfo, "/segzero/camera_info")
    start()
    robot.ready()
    early = CameraInfo(header=Header(stamp=Time(sec=7), frame_id="camera"), width=160, height=120)
    robot.calibrate(early)
    header = Header(stamp=Time(sec=-3, nanosec=5), frame_id="camera")  # before 1970: odd, and no reason to die
    robot.send(image_to_msg(np.zeros((120, 160, 3), np.uint8), "rgb8", header))
    robot.arrived(1)
    robot.arrived(1, "camera_infos")
    robot.tell("the red mug")
    assert robot.answer("the red mug").camera_info.header == header
    assert robot.wait("/segzero/camera_info", lambda m: True).header == header


def test_a_camera_that_stops_in_continuous_mode_is_said_once(robot: Robot, start: Start) -> None:
    start(mode="continuous", max_age=0.2, image_timeout=0.0)
    robot.ready()
    old = Header(stamp=Time(sec=1), frame_id="camera")
    robot.send(image_to_msg(np.zeros((120, 160, 3), np.uint8), "rgb8", old))
    robot.arrived(1)
    robot.tell("the red mug")
    robot.answer("the red mug")
    before = len(robot.seen["/diagnostics"])
    robot.wait("/diagnostics", lambda m: True, before + 1)  # two seconds of the node's own life
    assert [m.status for m in robot.results()] == [Segmentation.STATUS_STALE_IMAGE]


def test_a_remapped_image_brings_its_camera_info_and_qos_comes_from_a_file(
    robot: Robot, start: Start, tmp_path: Path
) -> None:
    overrides = tmp_path / "qos.yaml"
    overrides.write_text(
        "/**:\n  ros__parameters:\n    qos_overrides:\n      /left/color/image_raw:\n        subscription:\n"
        "          reliability: reliable\n          depth: 1\n"
    )
    start(remap=("-r", "image:=/left/color/image_raw", "--params-file", str(overrides)))
    robot.ready()
    image = robot.node.create_publisher(Image, "/left/color/image_raw", 1)
    info = robot.node.create_publisher(CameraInfo, "/left/color/camera_info", 1)
    robot.matched(info)
    robot.matched(image)
    (end,) = robot.node.get_subscriptions_info_by_topic("/left/color/image_raw")
    assert end.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    header = stamped(5)
    sent = CameraInfo(header=header, width=160, height=120, k=[100.0, 0, 80, 0, 100, 60, 0, 0, 1])
    robot.stream(info, sent, "camera_infos")
    robot.stream(image, image_to_msg(np.zeros((120, 160, 3), np.uint8), "rgb8", header))
    robot.tell("the red mug")
    found = robot.result().camera_info
    assert found.header == header and found.width == 160
