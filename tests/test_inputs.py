"""What the node hears of a camera, at its size: whoever starts first, whatever is offered; and in words why not."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.qos import ReliabilityPolicy
from rclpy.time import Time as RosTime
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from segzero_ros.core.contract import Cancel
from segzero_ros.ros.convert import image_to_msg
from segzero_ros.ros.executor import Executor
from segzero_ros.ros.inputs import Inputs, input_topics, unfit_info
from segzero_ros.ros.qos import BEST_EFFORT, RELIABLE, profile

PATIENCE = 30.0  # seconds; only a failing test waits so long
NUMBERS = itertools.count(1)
HD = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)


def header(seconds: int = 1, frame: str = "camera") -> Header:
    return Header(stamp=Time(sec=seconds), frame_id=frame)


class Bench:
    """Inputs on a node, and a camera as another process would be; each test has topics of its own."""

    def __init__(self) -> None:
        self.contexts = [rclpy.Context(), rclpy.Context()]
        for context in self.contexts:
            rclpy.init(context=context)
        self.space = f"/camera_{next(NUMBERS)}"
        self.node = rclpy.create_node(f"listener{self.space[1:]}", context=self.contexts[0])
        self.camera = rclpy.create_node("camera", context=self.contexts[1])
        self.inputs = Inputs(self.node)
        self.executors = [Executor(2, context=context) for context in self.contexts]
        self.threads = [threading.Thread(target=executor.spin) for executor in self.executors]
        for node, executor, thread in zip((self.node, self.camera), self.executors, self.threads, strict=True):
            executor.add_node(node)
            thread.start()
        self.number = 0

    def open(self, transport: str = "raw", image: str = "image") -> None:
        self.inputs.open(f"{self.space}/{image}", transport, "", "")

    def publish(self, reliability: ReliabilityPolicy, kind: type = Image, topic: str = "image") -> Any:
        return self.camera.create_publisher(kind, f"{self.space}/{topic}", profile(1, reliability))

    def hears(self, camera: Any, pixels: Any = HD) -> bool:
        """Sends as a camera does until a frame of it arrives, looking at the publishers as the node does."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.number += 1
            camera.publish(image_to_msg(pixels, "rgb8", header(self.number)))
            camera.wait_for_all_acked(Duration(seconds=1))
            self.inputs.look()
            threading.Event().wait(0.03)  # a camera's period
            self.inputs.pull()
            frame = self.inputs.frames.newest()
            if frame and frame.stamp == self.number * 10**9:
                return True
        return False

    def all_of(self, camera: Any, count: int, pixels: Any = HD) -> int:
        """How many of `count` frames arrive at a receiver that takes each as it comes."""
        store, before = self.inputs.frames, self.inputs.frames.count
        for _ in range(count):
            self.number += 1
            camera.publish(image_to_msg(pixels, "rgb8", header(self.number)))
            now = store.count
            try:
                store.take(lambda: 0, 0.0, PATIENCE, Cancel(), after=now)
            except Exception:
                continue
        return store.count - before

    def reader(self, topic: str) -> Any:
        """The one reader of a topic, once the camera knows that the one before it has gone."""
        end = time.monotonic() + PATIENCE
        found: list[Any] = []
        while len(found) != 1 and time.monotonic() < end:
            found = self.camera.get_subscriptions_info_by_topic(f"{self.space}/{topic}")
        (one,) = found
        return one

    def close(self) -> None:
        self.inputs.close()
        parts = zip((self.node, self.camera), self.executors, self.threads, self.contexts, strict=True)
        for node, executor, thread, context in parts:
            executor.shutdown()
            thread.join(PATIENCE)
            node.destroy_node()
            rclpy.shutdown(context=context)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_no_image_is_received_before_its_stamp_by_a_simulated_clock_that_stands_still(bench: Bench) -> None:
    clock: Any = bench.node.get_clock()
    clock._set_ros_time_is_active(True)
    clock.set_ros_time_override(RosTime(seconds=1000, clock_type=ClockType.ROS_TIME))
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera, HD[:8, :8])
    received = {}
    for stamp in (999, 1000, 2000):
        camera.publish(image_to_msg(HD[:8, :8], "rgb8", header(stamp)))
        assert camera.wait_for_all_acked(Duration(seconds=PATIENCE))
        threading.Event().wait(0.2)  # in the middleware, while nobody wants it
        bench.inputs.pull()
        frame = bench.inputs.frames.newest()
        assert frame is not None and frame.stamp == stamp * 10**9
        received[stamp] = frame.received / 1e9
    assert received[1000] == 1000 and received[999] < 999.9, "what waited is older by that, as far as it may be"
    assert received[2000] < 999.9, "a camera whose clock is ahead"


@pytest.mark.parametrize("reliability", [RELIABLE, BEST_EFFORT], ids=["reliable", "best effort"])
@pytest.mark.parametrize("first", ["camera", "node"])
def test_a_camera_is_heard_whoever_starts_first(bench: Bench, reliability: ReliabilityPolicy, first: str) -> None:
    if first == "camera":
        camera = bench.publish(reliability)
        bench.open()
    else:
        bench.open()
        camera = bench.publish(reliability)
    assert bench.hears(camera, HD if reliability == RELIABLE else HD[:120, :160])


def test_every_large_frame_of_a_reliable_camera_arrives(bench: Bench) -> None:
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera)
    assert bench.all_of(camera, 30) == 30


def test_a_camera_that_comes_back_with_another_offer_is_heard_again(bench: Bench) -> None:
    bench.open()
    for offer in (RELIABLE, BEST_EFFORT, RELIABLE):
        camera = bench.publish(offer)
        assert bench.hears(camera, HD[:120, :160]), offer
        bench.camera.destroy_publisher(camera)


def test_one_camera_of_each_kind_at_once_are_both_heard(bench: Bench) -> None:
    bench.open()
    small = HD[:120, :160]
    reliable, best_effort = bench.publish(RELIABLE), bench.publish(BEST_EFFORT)
    assert bench.hears(best_effort, small) and bench.hears(reliable, small)


def test_an_override_of_the_user_wins(bench: Bench) -> None:
    name = f"qos_overrides.{bench.space}/image.subscription.reliability"
    bench.node.declare_parameter(name, "best_effort")
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera, HD[:120, :160])
    assert bench.reader("image").qos_profile.reliability == BEST_EFFORT


def test_an_override_that_is_none_is_a_sentence(bench: Bench) -> None:
    bench.node.declare_parameter(f"qos_overrides.{bench.space}/image.subscription.reliability", "perhaps")
    with pytest.raises(ValueError, match="reliable or best_effort"):
        bench.open()


def test_a_camera_that_published_once_before_the_node_is_heard_when_it_keeps_its_image(bench: Bench) -> None:
    latched = bench.camera.create_publisher(Image, f"{bench.space}/image", profile(1, RELIABLE, latched=True))
    latched.publish(image_to_msg(HD, "rgb8", header(7)))
    bench.open()
    end = time.monotonic() + PATIENCE
    while bench.inputs.frames.newest() is None and time.monotonic() < end:
        bench.inputs.look()
        bench.inputs.pull()
        threading.Event().wait(0.03)
    frame = bench.inputs.frames.newest()
    assert frame and frame.stamp == 7 * 10**9


def test_a_publisher_of_another_type_does_not_decide_the_reliability(bench: Bench) -> None:
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera)
    other = rclpy.Context()
    rclpy.init(context=other)
    stranger = rclpy.create_node("stranger", context=other)
    stranger.create_publisher(CompressedImage, f"{bench.space}/image", profile(1, BEST_EFFORT))
    end = time.monotonic() + PATIENCE
    while "stranger" not in bench.inputs.describe() and time.monotonic() < end:
        threading.Event().wait(0.02)
    bench.inputs.look()
    assert "stranger" in bench.inputs.describe() and "sensor_msgs/msg/Image, reliable)" in bench.inputs.describe()
    stranger.destroy_node()
    rclpy.shutdown(context=other)


def test_a_name_that_is_no_topic_is_said_with_its_parameter(bench: Bench) -> None:
    with pytest.raises(ValueError, match="image_topic is 'no topic', which is no topic name") as error:
        bench.inputs.open("no topic", "raw", "", "")
    assert " at /" not in str(error.value)


def test_a_slow_camera_is_waited_for_by_its_own_pace(bench: Bench) -> None:
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera) and bench.hears(camera)
    bench.inputs._gap = 4.0
    assert bench.inputs.patience(1.0) == 10.0 and bench.inputs.patience(20.0) == 20.0


def test_frames_that_nobody_takes_do_not_keep_the_executor_turning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QoS event of the subscription would: beside an untaken message rmw_fastrtps wakes for it without a pause."""
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera)
    executor, turns = bench.executors[0], itertools.count()
    get_nodes = executor.get_nodes

    def counted() -> list[Any]:
        """rclpy asks for the nodes each time before it waits."""
        next(turns)
        return get_nodes()

    monkeypatch.setattr(executor, "get_nodes", counted)
    for n in range(10):
        camera.publish(image_to_msg(HD, "rgb8", header(n + 100)))
        assert camera.wait_for_all_acked(Duration(seconds=PATIENCE))
    assert next(turns) < 100


def test_nothing_is_taken_until_somebody_asks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segzero_ros.ros.inputs.JUST_NOW", 10 * PATIENCE)  # however late the node looks
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera)
    count = bench.inputs.frames.count
    taken = threading.Event()
    bench.camera.create_subscription(Image, f"{bench.space}/image", lambda _: taken.set(), profile(1))
    while not taken.wait(0.03):
        camera.publish(image_to_msg(HD, "rgb8", header(99)))
    assert camera.wait_for_all_acked(Duration(seconds=PATIENCE))
    assert bench.inputs.frames.count == count
    bench.inputs.peek()
    assert bench.inputs.frames.count == count + 1, "once a second one frame tells that the camera lives"
    camera.publish(image_to_msg(HD, "rgb8", header(100)))
    assert camera.wait_for_all_acked(Duration(seconds=PATIENCE))
    bench.inputs.pull()
    frame = bench.inputs.frames.newest()
    assert frame and frame.stamp == 100 * 10**9, "and then it is the newest"


def test_the_newest_calibration_that_fits_is_joined_and_another_camera_s_is_not(bench: Bench) -> None:
    bench.open()
    camera, info = bench.publish(RELIABLE), bench.publish(RELIABLE, CameraInfo, "camera_info")
    assert bench.hears(camera)

    def shows(stamp: int, **more: Any) -> Any:
        """The calibration of a frame after this camera_info came."""
        before = bench.inputs.frames.side_counts["camera_info"]
        end = time.monotonic() + PATIENCE
        while bench.inputs.frames.side_counts["camera_info"] == before and time.monotonic() < end:
            info.publish(CameraInfo(header=header(stamp, more.get("frame", "camera")), **more.get("size", {})))
            bench.inputs.pull()
        assert bench.hears(camera)
        frame = bench.inputs.frames.newest()
        assert frame
        return bench.inputs.calibration(frame), frame

    right = {"width": 1280, "height": 720}
    joined, frame = shows(bench.number, size=right)
    assert joined.header == frame.image.header and joined.width == 1280
    for wrong in ({"size": {"width": 640, "height": 480}}, {"size": right, "frame": "other"}):
        bench.inputs.close()
        bench.open()
        missing, frame = shows(bench.number, **wrong)
        assert missing is None and frame.missing["camera_info"]


def test_a_silent_topic_is_described_with_its_publishers(bench: Bench) -> None:
    bench.open()
    assert "publishers: none" in bench.inputs.describe() and "sensor_msgs/msg/Image" in bench.inputs.describe()
    assert bench.inputs.silence() is None
    bench.publish(BEST_EFFORT, CompressedImage)
    end = time.monotonic() + PATIENCE
    while "/camera (" not in bench.inputs.describe() and time.monotonic() < end:
        threading.Event().wait(0.02)
    said = bench.inputs.describe()
    assert "/camera (sensor_msgs/msg/CompressedImage, best effort)" in said
    assert "set image_transport: compressed" in said


def test_images_elsewhere_are_pointed_to(bench: Bench) -> None:
    bench.open(image="nowhere")
    bench.publish(RELIABLE, Image, "color/image_raw")
    end = time.monotonic() + PATIENCE
    while f"{bench.space}/color/image_raw" not in bench.inputs.describe() and time.monotonic() < end:
        threading.Event().wait(0.02)
    assert f"there are images on {bench.space}/color/image_raw" in bench.inputs.describe()


def test_raw_images_are_pointed_to_where_compressed_ones_are_wanted(bench: Bench) -> None:
    bench.open("compressed")
    bench.publish(RELIABLE)
    end = time.monotonic() + PATIENCE
    while "raw images" not in bench.inputs.describe() and time.monotonic() < end:
        threading.Event().wait(0.02)
    assert f"there are raw images on {bench.space}/image: image_transport: raw" in bench.inputs.describe()


def test_a_doubled_compressed_is_said(bench: Bench) -> None:
    bench.open("compressed", "image/compressed")
    assert "/compressed is added to it" in bench.inputs.describe()


def test_a_message_that_cannot_be_read_is_said_and_the_next_one_is_taken(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.open()
    camera = bench.publish(RELIABLE)
    assert bench.hears(camera)
    put, broken = bench.inputs.frames.put, threading.Event()

    def once(*arguments: Any) -> None:
        if not broken.is_set():
            broken.set()
            raise ValueError("on purpose")
        put(*arguments)

    monkeypatch.setattr(bench.inputs.frames, "put", once)
    assert bench.hears(camera) and broken.is_set()


def test_depth_is_described_by_its_own_parameters(bench: Bench) -> None:
    bench.open()
    bench.inputs.open_depth(f"{bench.space}/depth", "raw", "")
    bench.publish(RELIABLE)
    bench.publish(RELIABLE, CompressedImage, "depth/compressedDepth")
    end = time.monotonic() + PATIENCE
    while "compressedDepth" not in bench.inputs.describe("depth") and time.monotonic() < end:
        threading.Event().wait(0.02)
    said = bench.inputs.describe("depth")
    assert f"there are compressedDepth images on {bench.space}/depth/compressedDepth" in said
    assert "depth_transport: compressedDepth" in said and f"{bench.space}/image" not in said
    assert bench.inputs.topic("depth") == f"{bench.space}/depth" and bench.inputs.topic("depth_info") == ""


def test_a_depth_topic_that_names_its_transport_already_is_said(bench: Bench) -> None:
    bench.open()
    bench.inputs.open_depth(f"{bench.space}/depth/compressedDepth", "compressedDepth", "")
    assert "depth_topic is the name of the raw topic, /compressedDepth is added" in bench.inputs.describe("depth")


def test_names_that_are_no_topics_are_said_with_the_parameters_of_depth(bench: Bench) -> None:
    bench.open()
    with pytest.raises(ValueError, match="depth_topic is 'no topic'"):
        bench.inputs.open_depth("no topic", "raw", "")
    with pytest.raises(ValueError, match="depth_info_topic is 'no topic'"):
        bench.inputs.open_depth("depth", "raw", "no topic")


@pytest.mark.parametrize("offer", [RELIABLE, BEST_EFFORT], ids=["reliable", "best effort"])
def test_depth_is_heard_as_its_camera_offers_it(bench: Bench, offer: ReliabilityPolicy) -> None:
    bench.open()
    bench.inputs.open_depth(f"{bench.space}/depth", "raw", "")
    camera = bench.publish(offer, topic="depth")
    end, found, number = time.monotonic() + PATIENCE, None, 0
    while found is None and time.monotonic() < end:
        number += 1
        camera.publish(image_to_msg(HD[:120, :160, 0], "8UC1", header(number)))
        bench.inputs.look()
        found, _ = bench.inputs.depth.find(number * 10**9, 0.0, 0.05, Cancel())
    assert found
    assert bench.reader("depth").qos_profile.reliability == offer
    bench.inputs.close()
    assert bench.inputs.depth.find(number * 10**9, 0.0, 0.0, Cancel()) == (None, "none has come")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("/cam/image_raw", "", ""), ("/cam/image_raw/compressed", "/cam/camera_info")),
        (("/image", "", ""), ("/image/compressed", "/camera_info")),
        (("/image", "/jpeg", "/info"), ("/jpeg", "/info")),
    ],
)
def test_names_follow_image_transport(given: tuple[str, str, str], expected: tuple[str, str]) -> None:
    assert input_topics(*given) == expected


def test_a_calibration_fits_by_size_and_frame() -> None:
    image = Image(header=header(), width=64, height=48)
    assert unfit_info(image, CameraInfo(header=header(), width=64, height=48)) == ""
    assert "640 x 480" in unfit_info(image, CameraInfo(header=header(), width=640, height=480))
    assert "'other'" in unfit_info(image, CameraInfo(header=header(frame="other"), width=64, height=48))
    assert unfit_info(CompressedImage(header=header()), CameraInfo(header=header(), width=64, height=48)) == ""
