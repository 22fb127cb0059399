"""What is published about an answer, on real DDS: all of it to who listens, early or late, and nothing for nobody."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMsg
from std_msgs.msg import Header, String
from visualization_msgs.msg import Marker, MarkerArray

from segzero_ros.core.contract import Image, Instance, Segmentation, Status
from segzero_ros.core.geometry import mask_box, pack
from segzero_ros.core.space import Box3D, Camera, Hint, Lifted, Pose, Scene, Status3D
from segzero_ros.overlay import captioned, draw_overlay
from segzero_ros.ros.convert import compressed_from_msg, compressed_to_msg, image_from_msg, image_to_msg
from segzero_ros.ros.executor import Executor
from segzero_ros.ros.outputs import _FORGET, Outputs
from segzero_ros.ros.products import Reply

VOLATILE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PATIENCE = 30.0  # seconds; only a failing test waits so long
HEAVY = {
    "source_image": ImageMsg,
    "mask": ImageMsg,
    "label_mask": ImageMsg,
    "overlay": ImageMsg,
    "overlay/compressed": CompressedImage,
    "answer_image": ImageMsg,
}
CLOUDS = {"points": PointCloud2, "grasp_hints": PoseArray, "markers": MarkerArray}
DEPTH = {
    "object/depth/image_rect": ImageMsg,
    "object/depth/camera_info": CameraInfo,
    "background/depth/image_rect": ImageMsg,
    "background/depth/camera_info": CameraInfo,
}
LIGHT = {"result": SegmentationMsg, "reasoning": String, "result_json": String, "camera_info": CameraInfo}
NUMBERS = itertools.count(1)
HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="camera")


class Bench:
    """Outputs on a node, and another node that listens."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.name = f"speaker_{next(NUMBERS)}"
        self.node = rclpy.create_node(self.name, context=self.context)
        self.ear = rclpy.create_node("ear", context=self.context)
        self.outputs = Outputs(self.node)
        self.done: list[Any] = []  # what the outputs have worked off
        self._do = self.outputs._do
        self.outputs._do = self._count  # type: ignore[method-assign]
        self.executor = Executor(2, context=self.context)
        for node in (self.node, self.ear):
            self.executor.add_node(node)
        self.heard: dict[str, list[Any]] = {}
        self.news = threading.Condition()
        self.thread = threading.Thread(target=self.executor.spin)
        self.thread.start()

    def listen(self, topics: dict[str, type], qos: QoSProfile = LATCHED) -> None:
        def hear(topic: str) -> Callable[[Any], None]:
            def take(message: Any) -> None:
                with self.news:
                    self.heard[topic].append(message)
                    self.news.notify_all()

            return take

        for topic, kind in topics.items():
            self.heard[topic] = []
            self.ear.create_subscription(kind, f"/{self.name}/{topic}", hear(topic), qos)

    def _count(self, item: Any) -> None:
        try:
            self._do(item)
        finally:
            self.done.append(item)

    def say(self, reply: Reply) -> None:
        """Put, and wait until it is published on all topics."""
        self.outputs.put(reply)
        until(lambda: any(item is reply for item in self.done))

    def forget(self) -> None:
        self.outputs.forget()
        until(lambda: any(item is _FORGET for item in self.done))

    def wait(self, right: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(right, PATIENCE), {topic: len(heard) for topic, heard in self.heard.items()}

    def all_of(self, topics: dict[str, type], count: int = 1) -> dict[str, Any]:
        """The newest message of each topic, when that many have come on each."""
        self.wait(lambda: all(len(self.heard[topic]) >= count for topic in topics))
        return {topic: self.heard[topic][-1] for topic in topics}

    def close(self) -> None:
        assert self.outputs.close(PATIENCE)
        self.executor.shutdown()
        self.thread.join(PATIENCE)
        for node in (self.node, self.ear):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def until(right: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not right():
        assert time.monotonic() < end
        time.sleep(0.01)


def picture() -> Image:
    return np.random.default_rng(4).integers(0, 256, (48, 64, 3), np.uint8)


def instance(index: int, x: int, score: float = 0.5, label: str = "mug") -> Instance:
    mask = np.zeros((48, 64), bool)
    mask[10:30, x : x + 20] = True
    box = mask_box(mask)
    assert box
    return Instance(index, label, score, pack(mask), box, box, (), 400)


def answer(*instances: Instance, reasoning: str = "It is red.") -> Segmentation:
    return Segmentation(Status.OK, "found", "the mug", 48, 64, instances, reasoning)


def reply(result: Segmentation, image: Any = None, request_id: str = "7", header: Header = HEADER) -> Reply:
    info = CameraInfo(header=header, width=64, height=48)
    return Reply(header, image or image_to_msg(picture(), "rgb8", header), info, result, request_id)


TWO = answer(instance(1, 5), instance(2, 15, score=0.9))


def check(heard: dict[str, Any], result: Segmentation, source: Image) -> None:
    for message in (m for m in heard.values() if not isinstance(m, String)):
        assert message.header == HEADER
    assert [i.index for i in heard["result"].instances] == [i.index for i in result.instances]
    assert heard["result"].camera_info == heard["camera_info"]
    assert heard["reasoning"].data == result.reasoning
    assert json.loads(heard["result_json"].data)["request_id"] == heard["result"].request_id
    assert np.array_equal(image_from_msg(heard["source_image"]), source)
    union = np.frombuffer(heard["mask"].data, np.uint8).reshape(48, 64)
    assert np.array_equal(union, 255 * np.any([i.mask for i in result.instances], 0).astype(np.uint8))
    labels = np.frombuffer(heard["label_mask"].data, np.uint8).reshape(48, 64)
    assert (labels[20, 6], labels[20, 20], labels[20, 30], labels[0, 0]) == (1, 2, 2, 0)
    drawn = draw_overlay(source, result)
    assert np.array_equal(image_from_msg(heard["overlay"]), drawn)
    assert drawn.shape == source.shape, "it fits ~/camera_info"
    assert compressed_from_msg(heard["overlay/compressed"]).shape == drawn.shape
    assert np.array_equal(image_from_msg(heard["answer_image"]), captioned(drawn, result))


def test_who_listens_gets_everything_with_the_header_of_the_frame(bench: Bench) -> None:
    bench.listen(HEAVY | LIGHT)
    bench.outputs.put(reply(TWO))
    check(bench.all_of(HEAVY | LIGHT), TWO, picture())


def test_who_comes_after_the_answer_gets_everything_too(bench: Bench) -> None:
    bench.say(reply(answer(reasoning="an older one")))
    bench.say(reply(TWO))
    bench.listen(HEAVY | LIGHT)
    check(bench.all_of(HEAVY | LIGHT), TWO, picture())
    assert {len(heard) for heard in bench.heard.values()} == {1}


def test_a_compressed_frame_is_published_as_it_looks(bench: Bench) -> None:
    bench.listen(HEAVY | LIGHT)
    frame = compressed_to_msg(picture(), HEADER)
    bench.outputs.put(reply(TWO, frame))
    check(bench.all_of(HEAVY | LIGHT), TWO, compressed_from_msg(frame))


def test_nothing_heavy_is_computed_while_nobody_listens(bench: Bench) -> None:
    made: list[str] = []

    def counted(topic: str, make: Callable[[Reply], Any]) -> Callable[[Reply], Any]:
        def count(k: Reply) -> Any:
            made.append(topic)
            return make(k)

        return count

    for output in bench.outputs._all:
        if output.heavy:
            output.make = counted(output.name, output.make)
    bench.listen({"result": SegmentationMsg})
    bench.outputs.put(reply(TWO))
    bench.all_of({"result": SegmentationMsg})
    assert not made
    bench.listen({"mask": ImageMsg})
    bench.all_of({"mask": ImageMsg})
    assert made == ["~/mask"]
    bench.outputs.put(reply(TWO))
    bench.all_of({"mask": ImageMsg}, 2)
    assert made == ["~/mask"] * 2


def test_who_comes_late_is_never_given_an_older_answer(bench: Bench) -> None:
    topics: dict[str, type] = {"mask": ImageMsg, "camera_info": CameraInfo}
    bench.listen(topics)
    bench.outputs.put(reply(TWO, header=Header(stamp=Time(sec=1))))
    bench.all_of(topics)
    for subscription in list(bench.ear.subscriptions):
        bench.ear.destroy_subscription(subscription)
    gone = threading.Event()
    mask = next(o for o in bench.outputs._all if o.name == "~/mask")

    def look() -> None:
        if not mask.publisher.get_subscription_count():
            gone.set()

    timer = bench.ear.create_timer(0.01, look)
    assert gone.wait(PATIENCE)
    timer.cancel()
    bench.say(reply(TWO, header=Header(stamp=Time(sec=2))))
    bench.listen(topics)
    bench.all_of(topics)
    assert [m.header.stamp.sec for m in bench.heard["mask"]] == [2]


def test_nobody_is_given_an_older_mask_whoever_else_listens(bench: Bench) -> None:
    """An answer without a frame has no mask: the one before must go, also where somebody still listens."""
    bench.listen({"mask": ImageMsg, "result": SegmentationMsg})
    bench.outputs.put(reply(TWO))
    bench.all_of({"mask": ImageMsg, "result": SegmentationMsg})
    failed = Segmentation(Status.NO_IMAGE, "no image came", "the mug", 0, 0)
    bench.say(Reply(HEADER, None, None, failed, "8"))
    bench.all_of({"result": SegmentationMsg}, 2)
    late: list[ImageMsg] = []
    bench.ear.create_subscription(ImageMsg, f"/{bench.name}/mask", late.append, LATCHED)
    bench.outputs.put(reply(TWO, header=Header(stamp=Time(sec=2))))
    bench.all_of({"mask": ImageMsg}, 2)
    until(lambda: bool(late))
    assert [m.header.stamp.sec for m in late] == [2]


def test_after_forget_no_topic_says_anything_until_the_next_answer(bench: Bench) -> None:
    bench.say(reply(TWO))
    bench.forget()
    assert not any(o.latched for o in bench.outputs._all)
    bench.listen(HEAVY | LIGHT)
    bench.outputs.put(reply(TWO, header=Header(stamp=Time(sec=2))))
    heard = bench.all_of(HEAVY | LIGHT)
    assert all(m.header.stamp.sec == 2 for m in heard.values() if hasattr(m, "header"))
    assert {len(messages) for messages in bench.heard.values()} == {1}


def test_a_text_that_is_no_text_is_published_all_the_same(bench: Bench) -> None:
    broken = Segmentation(Status.OK, "\udcff\0", "\udcff", 48, 64, (), "\udcff", "\udcff", model="/weights/\udcff")
    bench.listen(LIGHT)
    bench.outputs.put(reply(broken))
    heard = bench.all_of(LIGHT)
    assert heard["result"].model == "/weights/?" and heard["reasoning"].data == "?"


def test_the_overlay_is_drawn_once_for_both_its_topics(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def count(image: Image, result: Segmentation) -> Image:
        drawn.append(result.reasoning)
        return draw_overlay(image, result)

    monkeypatch.setattr("segzero_ros.ros.products.draw_overlay", count)
    both: dict[str, type] = {"overlay": ImageMsg, "overlay/compressed": CompressedImage}
    bench.listen(both)
    bench.outputs.put(reply(TWO))
    bench.all_of(both)
    assert drawn == [TWO.reasoning]


def test_words_do_not_wait_for_a_picture(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()

    def draw(image: Image, result: Segmentation) -> Image:
        assert heard.wait(PATIENCE)
        return draw_overlay(image, result)

    monkeypatch.setattr("segzero_ros.ros.products.draw_overlay", draw)
    bench.listen({"overlay": ImageMsg} | LIGHT)
    bench.outputs.put(reply(TWO))
    bench.all_of(LIGHT)
    assert not bench.heard["overlay"]
    heard.set()
    bench.all_of({"overlay": ImageMsg})


class Late:
    """A publisher whose message arrives at the n-th look, or whose middleware cannot tell."""

    def __init__(self, publisher: Any, looks: float) -> None:
        self.publisher, self.left = publisher, looks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.publisher, name)

    def wait_for_all_acked(self, timeout: Any) -> bool:
        if self.left < 0:
            raise RuntimeError("unsupported")
        self.left = max(0, self.left - 1)
        return not self.left


@pytest.mark.parametrize("looks", [-1, 5, float("inf")])
def test_a_picture_is_sent_when_words_have_arrived_or_do_not_arrive_at_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, looks: float
) -> None:
    """Behind a large message in shared memory a small one that was not read yet would be lost."""
    monkeypatch.setattr("segzero_ros.ros.outputs.ARRIVAL", 0.05 if looks == float("inf") else PATIENCE)
    result = next(o for o in bench.outputs._all if o.name == "~/result")
    real, result.publisher = result.publisher, Late(result.publisher, looks)
    bench.listen({"mask": ImageMsg, "result": SegmentationMsg})
    bench.outputs.put(reply(TWO))
    bench.all_of({"mask": ImageMsg, "result": SegmentationMsg})
    assert result.publisher.left in (-1, 0, float("inf"))
    result.publisher = real


def test_a_failure_without_a_frame_is_told_in_words_only(bench: Bench) -> None:
    bench.listen(HEAVY | LIGHT)
    failed = Segmentation(Status.NO_IMAGE, "no frame has come yet", "the mug", 0, 0, reasoning="")
    bench.outputs.put(Reply(HEADER, None, None, failed, "8"))
    words: dict[str, type] = {"result": SegmentationMsg, "reasoning": String, "result_json": String}
    heard = bench.all_of(words)
    assert heard["result"].status == SegmentationMsg.STATUS_NO_IMAGE
    assert json.loads(heard["result_json"].data)["message"] == "no frame has come yet"
    bench.outputs.put(reply(TWO))
    everything = bench.all_of(HEAVY | LIGHT)
    assert all(len(bench.heard[topic]) == 1 for topic in [*HEAVY, "camera_info"])
    assert everything["result"].status == SegmentationMsg.STATUS_OK


def test_an_answer_without_objects_has_an_empty_mask_and_a_picture(bench: Bench) -> None:
    bench.listen(HEAVY)
    bench.outputs.put(reply(Segmentation(Status.NO_OBJECT, "nothing matches", "the mug", 48, 64)))
    heard = bench.all_of(HEAVY)
    for topic in ("mask", "label_mask"):
        assert (heard[topic].height, heard[topic].width) == (48, 64) and not any(heard[topic].data)
    assert np.array_equal(image_from_msg(heard["overlay"]), picture())


def test_an_output_that_fails_is_logged_and_leaves_the_others(bench: Bench) -> None:
    bench.listen(HEAVY | LIGHT)
    broken = ImageMsg(header=HEADER, encoding="32FC1", height=48, width=64)
    bench.outputs.put(reply(TWO, broken))
    drawn = ("overlay", "overlay/compressed", "answer_image")
    rest = {t: k for t, k in (HEAVY | LIGHT).items() if t not in drawn}
    heard = bench.all_of(rest)
    assert heard["source_image"] == broken
    assert not bench.heard["overlay"] and not bench.heard["overlay/compressed"]


def test_answers_from_several_threads_arrive_whole_and_the_last_one_stays(bench: Bench) -> None:
    bench.listen({"mask": ImageMsg})
    names = [f"request {n}" for n in range(8)]
    threads = [threading.Thread(target=bench.outputs.put, args=(reply(TWO, request_id=n),)) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    bench.say(reply(TWO, request_id="the last"))
    bench.listen({"result": SegmentationMsg, "result_json": String})
    heard = bench.all_of({"result": SegmentationMsg, "result_json": String})
    assert heard["result"].request_id == "the last"
    assert json.loads(heard["result_json"].data)["request_id"] == "the last"


BOX = Box3D(Pose((0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0)), (0.1, 0.1, 0.1))
LIFTED = Lifted(
    Status3D.OK,
    points=np.ones((7, 3), np.float32),
    colours=np.zeros((7, 3), np.uint8),
    box=BOX,
    hints=(Hint("centroid", BOX.center),),
)
SCENE = Scene(np.ones((48, 64), np.float32), Camera(64, 48, (50.0, 50.0, 32.0, 24.0)), "base_link")
SOLID = replace(answer(replace(instance(1, 5), lifted=LIFTED)), scene=SCENE)
NO_IMAGE = Segmentation(Status.NO_IMAGE, "no image came", "the mug", 0, 0)


def check_space(heard: dict[str, Any]) -> None:
    for topic, message in heard.items():
        if topic != "markers":
            frame = "camera" if topic in DEPTH else "base_link"
            assert message.header == Header(stamp=HEADER.stamp, frame_id=frame), topic
    assert heard["points"].width == 7 and len(heard["grasp_hints"].poses) == 1
    assert {m.ns for m in heard["markers"].markers} == {"", "boxes", "labels", "grasp_hints"}
    for of in ("object", "background"):
        depth, info = heard[f"{of}/depth/image_rect"], heard[f"{of}/depth/camera_info"]
        assert (depth.width, depth.height) == (info.width, info.height) == (64, 48)


@pytest.mark.parametrize("late", [False, True])
def test_who_listens_early_or_late_gets_the_answer_in_space(bench: Bench, late: bool) -> None:
    if late:
        bench.say(reply(SOLID))
    bench.listen(CLOUDS | DEPTH)
    if not late:
        bench.outputs.put(reply(SOLID))
    check_space(bench.all_of(CLOUDS | DEPTH))
    assert {len(heard) for heard in bench.heard.values()} == {1}


@pytest.mark.parametrize(
    "after", [TWO, NO_IMAGE, Segmentation(Status.NO_OBJECT, "", "the mug", 48, 64)], ids=lambda s: s.status.value
)
def test_no_pose_of_an_older_answer_stays_for_who_listened_nor_for_who_comes_late(
    bench: Bench, after: Segmentation
) -> None:
    bench.listen(CLOUDS | DEPTH)
    bench.outputs.put(reply(SOLID))
    bench.all_of(CLOUDS | DEPTH)
    later = Header(stamp=Time(sec=99), frame_id="" if after is NO_IMAGE else "camera")
    bench.say(Reply(later, None, None, after, "8"))
    before = bench.heard
    for heard in (bench.all_of(CLOUDS, 2), None):
        if heard is None:  # the same for who comes now
            bench.heard = {}
            bench.listen(CLOUDS | DEPTH)
            heard = bench.all_of(CLOUDS)
            assert not any(bench.heard[topic] for topic in DEPTH), "depth of another frame"
        assert [m.action for m in heard["markers"].markers] == [Marker.DELETEALL]
        assert heard["points"].width == 0 and not heard["grasp_hints"].poses
        assert heard["points"].header == Header(stamp=later.stamp, frame_id="base_link"), "RViz wants a frame"
    assert all(len(before[topic]) == 1 for topic in DEPTH)


@pytest.mark.parametrize("status", [Status.BUSY, Status.BAD_INSTRUCTION, Status.NOT_READY])
def test_a_refusal_is_said_in_the_results_and_takes_the_answer_before_from_nobody(bench: Bench, status: Status) -> None:
    topics = CLOUDS | DEPTH | HEAVY | {"reasoning": String}
    bench.listen(topics | {"result": SegmentationMsg, "result_json": String})
    bench.outputs.put(reply(SOLID))
    bench.all_of(dict.fromkeys(bench.heard, object))
    refusal = Segmentation(status, "a goal runs", "the duck", 0, 0)
    bench.outputs.put(Reply(Header(stamp=Time(sec=99)), None, None, refusal, "8", refused=True))
    told = bench.all_of({"result": SegmentationMsg, "result_json": String}, 2)
    assert told["result"].instruction == "the duck"
    assert all(len(bench.heard[topic]) == 1 for topic in topics)
    bench.heard = {}
    bench.listen(topics)  # who comes late
    check_space({t: m for t, m in bench.all_of(topics).items() if t in CLOUDS | DEPTH})


def test_an_answer_in_space_that_cannot_be_made_leaves_no_older_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.listen(CLOUDS)
    bench.outputs.put(reply(SOLID))
    bench.all_of(CLOUDS)
    broken = replace(LIFTED, points=np.ones((7, 2), np.float32))
    bench.outputs.put(reply(replace(SOLID, instances=(replace(instance(1, 5), lifted=broken),)), request_id="8"))
    bench.wait(lambda: len(bench.heard["points"]) == 2)
    assert bench.heard["points"][-1].width == 0


def test_the_cloud_of_the_scene_is_made_for_who_listens_and_again_for_who_comes_later(bench: Bench) -> None:
    bench.say(reply(SOLID))
    bench.listen({"scene_points": PointCloud2}, VOLATILE)
    first = bench.all_of({"scene_points": PointCloud2})["scene_points"]
    assert (first.height, first.width) == (24, 32) and first.header.stamp == HEADER.stamp
    early, bench.heard = bench.heard, {}
    bench.listen({"scene_points": PointCloud2}, VOLATILE)
    assert bench.all_of({"scene_points": PointCloud2})["scene_points"] == first
    bench.heard = early
    bench.outputs.put(reply(TWO))
    assert bench.all_of({"scene_points": PointCloud2}, 3)["scene_points"].width == 0


def test_the_node_s_parameter_says_how_dense_the_cloud_of_the_scene_is(bench: Bench) -> None:
    bench.node.declare_parameter("cloud_stride", 4)
    bench.listen({"scene_points": PointCloud2}, VOLATILE)
    bench.outputs.put(reply(SOLID))
    cloud = bench.all_of({"scene_points": PointCloud2})["scene_points"]
    assert (cloud.height, cloud.width) == (12, 16)


def test_small_messages_go_before_any_cloud_or_picture(bench: Bench) -> None:
    names = [o.name for o in bench.outputs._all]
    last = max(names.index(o.name) for o in bench.outputs._all if not o.large)
    assert last < min(names.index(o.name) for o in bench.outputs._all if o.large)
    assert {o.name for o in bench.outputs._all if o.heavy and not o.large} >= {"~/grasp_hints", "~/markers"}


def test_a_package_that_is_not_installed_takes_its_own_topics_only(bench: Bench) -> None:
    names = {o.name for o in bench.outputs._all}
    assert {f"~/{topic}" for topic in (*HEAVY, *LIGHT, *CLOUDS, *DEPTH, "scene_points")} <= names
    assert "~/annotations" not in names, "foxglove_msgs is no wheel"
