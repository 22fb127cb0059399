"""From the topics of a depth camera to instances in space: what belongs to a frame, and in words what hinders."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from segzero_ros.core.contract import Cancel, Instance, PackedMask, Segmentation, Status
from segzero_ros.core.frames import Frame
from segzero_ros.core.space import Camera, Lifted, LiftError, Scene, Status3D
from segzero_ros.ros import parameters
from segzero_ros.ros.convert import bytes_array, image_to_msg
from segzero_ros.ros.inputs import Inputs, nanoseconds
from segzero_ros.ros.qos import RELIABLE, profile
from segzero_ros.ros.scenes import Gathered, Scenes

PATIENCE = 10.0  # seconds; only a failing test waits so long
NUMBERS = itertools.count(1)
HEIGHT, WIDTH = 12, 16
PIXELS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
MILLIMETRES = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 10
MS = 1_000_000
S = 1000 * MS
K = [100.0, 0.0, 7.5, 0.0, 100.0, 5.5, 0.0, 0.0, 1.0]


def header(stamp: int, frame: str = "optical") -> Header:
    return Header(stamp=Time(sec=stamp // S, nanosec=stamp % S), frame_id=frame)


def colour(stamp: int, frame: str = "optical") -> Image:
    return image_to_msg(PIXELS, "rgb8", header(stamp, frame))


def depth(stamp: int, frame: str = "optical", pixels: Any = MILLIMETRES, encoding: str = "16UC1") -> Image:
    return image_to_msg(pixels, encoding, header(stamp, frame))


def info(stamp: int = 5 * S, **more: Any) -> CameraInfo:
    size = {"width": WIDTH, "height": HEIGHT}
    return CameraInfo(header=header(stamp), **{"k": K, "distortion_model": "plumb_bob", **size, **more})


class Camera3D:
    """A node that listens with Inputs and Scenes, and the camera's publishers; each test has topics of its own."""

    def __init__(self, **values: Any) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.space = f"/depth_{next(NUMBERS)}"
        self.node = rclpy.create_node("scenes", context=self.context)
        parameters.declare(self.node)
        topic, transport = values.pop("image", "image"), values.get("depth_transport", "raw")
        given = {"depth_topic": f"{self.space}/depth", "depth_wait": PATIENCE, **values}
        self.set(**given)
        kind, name = (Image, "depth") if transport == "raw" else (CompressedImage, f"depth/{transport}")
        self.depth = self.node.create_publisher(kind, f"{self.space}/{name}", profile(10, RELIABLE))
        self.info = self.node.create_publisher(CameraInfo, f"{self.space}/camera_info", profile(10, RELIABLE))
        self.depth_info = self.node.create_publisher(CameraInfo, f"{self.space}/depth_info", profile(10, RELIABLE))
        self.inputs = Inputs(self.node)
        self.scenes = Scenes(self.node, self.inputs)
        self.inputs.open(f"{self.space}/{topic}", "raw", "", f"{self.space}/camera_info")
        self.scenes.open()
        self.numbers = itertools.count(1)

    def set(self, **values: Any) -> None:
        for result in self.node.set_parameters([Parameter(name, value=value) for name, value in values.items()]):
            assert result.successful, result.reason

    def sends_info(self, message: CameraInfo, of: str = "camera_info") -> None:
        before = self.inputs.frames.side_counts[of]
        (self.info if of == "camera_info" else self.depth_info).publish(message)
        end = time.monotonic() + PATIENCE
        while self.inputs.frames.side_counts[of] == before and time.monotonic() < end:
            self.inputs.pull()
            self.inputs.depth.find(1, 0.0, 0.0, Cancel())

    def sends_depth(self, message: Any) -> None:
        """Until it has arrived."""
        self.depth.publish(message)
        end, before = time.monotonic() + PATIENCE, self.inputs.depth.count
        while self.inputs.depth.count == before and time.monotonic() < end:
            self.inputs.depth.find(1, 0.0, 0.0, Cancel())

    def frame(self, image: Image, given: bool = False) -> Frame:
        stamp = nanoseconds(image.header.stamp)
        return Frame(image, stamp or 1, stamp or 1, 0 if given else next(self.numbers))

    def gather(self, image: Image, given: bool = False) -> Gathered:
        return self.scenes.gather(self.frame(image, given), Cancel(), math.inf)

    def lift(self, gathered: Gathered, result: Segmentation | None = None) -> Segmentation:
        return self.scenes.lift(gathered, PIXELS, result or answer(), Cancel(), math.inf)

    def close(self) -> None:
        self.scenes.close()
        self.inputs.close()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Camera3D] = []

    def one(**values: Any) -> Camera3D:
        made.append(Camera3D(**values))
        return made[-1]

    yield one
    for camera in made:
        camera.close()


@pytest.fixture(autouse=True)
def lifting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Lifting and camera models have tests of their own: here they show what they were given."""
    seen: list[Any] = []

    def lift(instances: Any, image: Any, scene: Scene, **_: Any) -> tuple[Lifted, ...]:
        seen.append(scene)
        return tuple(Lifted(Status3D.OK, centroid=(0.0, 0.0, float(i.index))) for i in instances)

    def camera_of(width: int, height: int, k: Any, d: Any, model: str, **window: Any) -> Camera:
        if model == "fisheye":
            raise LiftError(Status3D.BAD_CAMERA_INFO, "the model fisheye is not taken")
        seen.append((width, height, window))
        return Camera(width, height, (k[0], k[4], k[2], k[5]), tuple(d))

    monkeypatch.setitem(sys.modules, "segzero_ros.core.lifting", SimpleNamespace(lift=lift))
    monkeypatch.setattr("segzero_ros.ros.camera_models.camera_of", camera_of)
    return seen


def answer(status: Status = Status.OK, instances: int = 2) -> Segmentation:
    mask = PackedMask((HEIGHT, WIDTH), (0, 0, 8, 1), 8, b"\xff")
    found = tuple(Instance(n, "mug", 0.9, mask, (0, 0, 8, 1), None, (), 8) for n in range(1, instances + 1))
    return Segmentation(status, "", "the mug", HEIGHT, WIDTH, found)


def failure(result: Segmentation, status: Status3D) -> str:
    """What every instance says, which is otherwise as it was."""
    lifted = [i.lifted for i in result.instances]
    assert result.status is Status.OK and result.scene is None and [i.area for i in result.instances] == [8, 8]
    assert lifted[0] and lifted[0] == lifted[1] and lifted[0].status is status
    assert lifted[0].message and lifted[0].message.isprintable() and len(lifted[0].message) <= 600
    return lifted[0].message


def test_the_depth_of_the_frame_s_own_stamp_is_lifted_in_metres(make: Any) -> None:
    camera = make()
    camera.sends_info(info())
    for stamp in (5 * S - 10 * MS, 5 * S, 5 * S + 10 * MS):
        camera.sends_depth(depth(stamp, pixels=MILLIMETRES + np.uint16(stamp // MS)))
    result = camera.lift(camera.gather(colour(5 * S)))
    assert [i.lifted and i.lifted.centroid[2] for i in result.instances] == [1.0, 2.0]
    assert np.allclose(result.scene.depth, (MILLIMETRES + 5000) / 1000)
    assert result.scene.camera.k == (100.0, 100.0, 7.5, 5.5)
    assert result.scene.frame_id == "optical" and result.scene.transform is None


def test_depth_that_comes_after_its_frame_is_waited_for(make: Any) -> None:
    camera = make()
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S - 15 * MS))
    camera.depth.publish(depth(5 * S))
    assert nanoseconds(camera.gather(colour(5 * S)).depth.header.stamp) == 5 * S


def test_depth_that_arrives_while_the_model_thinks_is_taken(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.sends_info(info())
    gathered = camera.gather(colour(5 * S))
    assert gathered.depth is None and gathered.waits
    camera.sends_depth(depth(5 * S))
    camera.scenes._sought = 0.0  # the next look is due
    gathered = camera.scenes.seek(gathered, Cancel())
    assert gathered.depth is not None and not gathered.waits and gathered.error is None
    assert camera.lift(gathered).instances[0].lifted.status is Status3D.OK


def test_depth_that_later_stamps_have_passed_is_not_looked_for_any_more(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.sends_info(info())
    camera.sends_depth(depth(4 * S))
    assert camera.gather(colour(5 * S)).waits
    camera.sends_depth(depth(6 * S))
    gathered = camera.gather(colour(5 * S))
    assert gathered.depth is None and not gathered.waits


def test_a_camera_info_that_comes_while_the_model_thinks_is_in_time(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(colour(5 * S))
    assert gathered.info is None
    camera.sends_info(info())
    [first, _] = camera.lift(gathered).instances
    assert first.lifted and first.lifted.status is Status3D.OK, first.lifted


def test_depth_between_whose_stamps_the_frame_lies_is_the_nearest_within_the_slop(make: Any) -> None:
    camera = make()
    camera.sends_info(info())
    for stamp in (5 * S - 10 * MS, 5 * S + 15 * MS):
        camera.sends_depth(depth(stamp))
    assert nanoseconds(camera.gather(colour(5 * S)).depth.header.stamp) == 5 * S - 10 * MS
    camera.set(depth_slop=0.005)
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_DEPTH)
    assert "the nearest is 0.01 s away, more than 0.005 s" in said


def test_without_a_depth_topic_it_is_said_that_3d_is_off(make: Any) -> None:
    camera = make(depth_topic="")
    assert not camera.scenes.on
    assert "depth_topic" in failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_DEPTH)


def test_depth_that_never_comes_is_told_with_its_topic_and_publishers(make: Any) -> None:
    camera = make(depth_wait=0.0)
    assert camera.scenes.on
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_DEPTH)
    assert "none has come" in said and f"{camera.space}/depth (sensor_msgs/msg/Image" in said
    assert "publishers: /scenes" in said


def test_depth_of_another_clock_is_told_by_how_far_it_is_away(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.sends_depth(depth(90 * S))
    assert "the nearest is 85 s away" in failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_DEPTH)


def test_an_image_without_a_stamp_has_no_depth(make: Any) -> None:
    camera = make()
    camera.sends_depth(depth(0))
    camera.sends_depth(depth(1 * MS))
    assert "the image's stamp is zero" in failure(camera.lift(camera.gather(colour(0))), Status3D.NO_DEPTH)


def test_a_given_image_takes_depth_of_its_own_stamp_alone(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    assert camera.lift(camera.gather(colour(5 * S), given=True)).scene
    near = camera.gather(colour(5 * S + 10 * MS), given=True)
    assert "more than 0 s" in failure(camera.lift(near), Status3D.NO_DEPTH)
    assert camera.gather(colour(5 * S + 10 * MS)).error is None


def test_a_cancel_and_a_deadline_end_the_waiting_for_depth(make: Any) -> None:
    camera, cancel = make(), Cancel()
    cancel.set()
    frame = camera.frame(colour(5 * S))
    for ended in (camera.scenes.gather(frame, cancel, math.inf), camera.scenes.gather(frame, Cancel(), 0.0)):
        assert ended.error and ended.error.status is Status3D.NO_DEPTH


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (depth(5 * S, pixels=MILLIMETRES[:6, :8]), "8 x 6 pixels and the colour image 16 x 12"),
        (depth(5 * S, frame="depth_optical"), "frame_id is 'depth_optical' and the colour image's is 'optical'"),
    ],
)
def test_depth_that_is_not_aligned_is_refused_with_what_aligns_it(make: Any, message: Image, words: str) -> None:
    camera = make()
    camera.sends_info(info())
    camera.sends_depth(message)
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.UNALIGNED)
    assert words in said and "align_depth.enable" in said and "aligned_depth_to_color/image_raw" in said


def test_depth_that_cannot_be_read_is_told_with_its_encoding(make: Any) -> None:
    camera = make()
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S, pixels=PIXELS, encoding="rgb8"))
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_DEPTH)
    assert "the depth image cannot be read: encoding 'rgb8' is no depth" in said


def test_compressed_depth_is_heard_beside_the_named_topic(make: Any) -> None:
    camera = make(depth_transport="compressedDepth")
    camera.sends_info(info())
    png = bytes(12) + cv2.imencode(".png", MILLIMETRES)[1].tobytes()
    form = "16UC1; compressedDepth png"
    camera.sends_depth(CompressedImage(header=header(5 * S), format=form, data=bytes_array(png)))
    scene = camera.lift(camera.gather(colour(5 * S))).scene
    assert np.allclose(scene.depth[1:], MILLIMETRES[1:] / 1000)
    assert "depth/compressedDepth" in camera.inputs.describe("depth")


def test_without_a_camera_info_that_fits_there_is_no_model(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.sends_depth(depth(5 * S))
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.BAD_CAMERA_INFO)
    assert said == f"no camera_info on {camera.space}/camera_info fits: none has come"
    camera.sends_info(info(width=640, height=480))
    assert "640 x 480" in failure(camera.lift(camera.gather(colour(5 * S))), Status3D.BAD_CAMERA_INFO)
    camera.sends_info(info(distortion_model="fisheye"))
    assert "fisheye" in failure(camera.lift(camera.gather(colour(5 * S))), Status3D.BAD_CAMERA_INFO)


def test_the_size_of_a_compressed_image_is_checked_once_it_is_decoded(make: Any) -> None:
    camera = make()
    camera.sends_info(info(width=640, height=480))
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(CompressedImage(header=header(5 * S)))
    assert gathered.error is None
    assert "640 x 480" in failure(camera.lift(gathered), Status3D.BAD_CAMERA_INFO)


def test_a_named_depth_info_is_the_model(make: Any) -> None:
    camera = make(depth_wait=0.0)
    camera.scenes.close()
    camera.inputs.close()
    camera.set(depth_info_topic=f"{camera.space}/depth_info")
    camera.inputs.open(f"{camera.space}/image", "raw", "", f"{camera.space}/camera_info")
    camera.scenes.open()
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.BAD_CAMERA_INFO)
    assert f"{camera.space}/depth_info" in said
    camera.sends_info(info(k=[90.0, *K[1:]]), "depth_info")
    assert camera.lift(camera.gather(colour(5 * S))).scene.camera.k[0] == 90.0


def test_binning_and_region_are_the_camera_model_s_unless_the_size_is_of_the_image_already(
    make: Any, lifting: list[Any]
) -> None:
    camera = make()
    camera.sends_depth(depth(5 * S))
    roi = RegionOfInterest(x_offset=4, y_offset=2, width=2 * WIDTH, height=2 * HEIGHT)
    camera.sends_info(info(width=100, height=80, binning_x=2, binning_y=2, roi=roi))
    camera.lift(camera.gather(colour(5 * S)))
    assert lifting[0] == (100, 80, {"binning": (2, 2), "roi": (4, 2, 2 * WIDTH, 2 * HEIGHT)})
    lifting.clear()
    camera.sends_info(info(binning_x=2, binning_y=2))
    camera.lift(camera.gather(colour(5 * S)))
    assert lifting[0] == (WIDTH, HEIGHT, {})


@pytest.mark.parametrize(("topic", "expected"), [("image_rect", (80.0, ())), ("image", (100.0, (0.1,) * 5))])
def test_an_image_that_image_proc_rectified_is_not_undistorted_again(make: Any, topic: str, expected: Any) -> None:
    camera = make(image=topic)
    camera.sends_info(info(d=[0.1] * 5, p=[80.0, 0.0, 7.0, 0.0, 0.0, 80.0, 5.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    camera.sends_depth(depth(5 * S))
    model = camera.lift(camera.gather(colour(5 * S))).scene.camera
    assert (model.k[0], model.d) == expected


def test_an_error_of_lifting_is_typed_and_the_answer_in_pixels_stands(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("on purpose\n")

    camera = make()
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(colour(5 * S))
    monkeypatch.setattr("segzero_ros.ros.camera_models.camera_of", broken)
    assert "ZeroDivisionError: on purpose" in failure(camera.lift(gathered), Status3D.ERROR)


def test_an_answer_without_objects_has_its_scene_and_one_that_failed_stays_as_it_is(make: Any) -> None:
    camera = make()
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(colour(5 * S))
    assert camera.lift(gathered, answer(Status.NO_OBJECT, 0)).scene
    failed = answer(Status.PARSE_ERROR, 0)
    assert camera.lift(gathered, failed) is failed


# -- with target_frame


class StandIn:
    """tf2_ros.Buffer, which knows "base" from the camera's frame once it was asked `after` times."""

    after = 0

    def __init__(self, cache_time: Any) -> None:
        self.looks, self.forgotten = 0, 0

    def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
        self.looks += 1
        if self.looks <= self.after or (target, source, time.nanoseconds) != ("base", "optical", 5 * S):
            raise LookupError(f"no {target}")
        return TransformStamped(transform=Transform(translation=Vector3(x=7.0), rotation=Quaternion(w=1.0)))

    def clear(self) -> None:
        self.forgotten += 1


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    listener = SimpleNamespace(unregister=lambda: None)
    module = SimpleNamespace(Buffer=StandIn, TransformListener=lambda buffer, node, spin_thread: listener)
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    monkeypatch.setattr(StandIn, "after", 0)
    return StandIn


@pytest.mark.parametrize("after", [0, 1, 3])
def test_the_scene_is_in_the_target_frame_also_where_the_transform_came_late(
    make: Any, tf2: type[StandIn], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(StandIn, "after", after)
    camera = make(target_frame="base", tf_wait=PATIENCE)
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(colour(5 * S))
    assert (gathered.transform is None) == bool(after) and gathered.error is None
    scene = camera.lift(gathered).scene
    assert scene.frame_id == "base" and scene.transform.translation.tolist() == [7.0, 0.0, 0.0]


def test_what_was_gathered_keeps_its_target_when_the_node_is_configured_anew(make: Any, tf2: type[StandIn]) -> None:
    camera = make(target_frame="base")
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(colour(5 * S))
    late = replace(gathered, transform=None)
    camera.scenes.close()
    assert "nothing listens to TF" in failure(camera.lift(late), Status3D.NO_TRANSFORM)
    camera.inputs.close()
    camera.set(target_frame="")
    camera.inputs.open(f"{camera.space}/image", "raw", "", f"{camera.space}/camera_info")
    camera.scenes.open()
    assert camera.lift(gathered).scene.frame_id == "base" and camera.lift(gathered).scene.transform
    assert "nothing listens to TF" in failure(camera.lift(late), Status3D.NO_TRANSFORM)


def test_a_transform_that_never_comes_is_told(make: Any, tf2: type[StandIn]) -> None:
    camera = make(target_frame="map", tf_wait=0.0)
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    said = failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_TRANSFORM)
    assert said.startswith("there is no transform from 'optical' to 'map'") and "no map" in said


def test_a_transform_is_not_waited_for_beyond_the_deadline(make: Any, tf2: type[StandIn]) -> None:
    camera = make(target_frame="map", tf_wait=PATIENCE)
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    gathered = camera.gather(colour(5 * S))
    failure(camera.scenes.lift(gathered, PIXELS, answer(), Cancel(), time.monotonic()), Status3D.NO_TRANSFORM)
    assert camera.scenes.transforms._buffer.looks == 2, "once when it was gathered, once when it was needed"


def test_without_tf2_a_target_frame_is_refused_in_words(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    camera = make(target_frame="base")
    camera.sends_info(info())
    camera.sends_depth(depth(5 * S))
    assert "tf2-ros-py" in failure(camera.lift(camera.gather(colour(5 * S))), Status3D.NO_TRANSFORM)


def test_tf_is_listened_to_only_where_a_transform_may_be_asked_for(make: Any, tf2: type[StandIn]) -> None:
    assert make().scenes.transforms is None
    assert make(depth_topic="", target_frame="base").scenes.transforms is None
    assert make(depth_topic="", clicked_point_topic="/clicked_point").scenes.transforms is not None


def test_transforms_are_forgotten_where_the_camera_s_stamps_go_back(make: Any, tf2: type[StandIn]) -> None:
    camera = make(target_frame="base", depth_wait=0.0)
    buffer = camera.scenes.transforms._buffer
    first = camera.frame(colour(90 * S))
    for frame in (first, camera.frame(colour(90 * S - 20 * MS)), camera.frame(colour(80 * S), given=True)):
        camera.scenes.gather(frame, Cancel(), math.inf)
    assert not buffer.forgotten
    camera.scenes.gather(camera.frame(colour(3 * S)), Cancel(), math.inf)
    camera.scenes.gather(first, Cancel(), math.inf)  # an older answer's frame is asked about again
    camera.scenes.gather(camera.frame(colour(4 * S)), Cancel(), math.inf)
    assert buffer.forgotten == 1


def test_depth_is_not_taken_until_a_request_wants_it(make: Any) -> None:
    camera = make()
    camera.sends_info(info())
    camera.sends_depth(depth(4 * S))
    before = camera.inputs.depth.count
    camera.depth.publish(depth(5 * S))
    for _ in range(20):
        camera.inputs.pull()
        camera.inputs.peek()
        camera.inputs.look()
    assert camera.inputs.depth.count == before
    assert camera.gather(colour(5 * S)).depth
