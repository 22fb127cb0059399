"""What a topic says about an answer in space: pure functions. Neither vision_msgs nor foxglove_msgs is a wheel, so
their messages are stood in for here; visualization_msgs and sensor_msgs are the real ones."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from segzero_ros.core.contract import Instance, Segmentation, Status
from segzero_ros.core.geometry import pack
from segzero_ros.core.space import Box3D, Camera, Hint, Lifted, Pose, Scene, Status3D, Transform
from segzero_ros.ros import products, products_3d
from segzero_ros.ros.convert import image_to_msg
from segzero_ros.ros.products import Reply

HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="camera")
IN_SPACE = Header(stamp=HEADER.stamp, frame_id="base_link")
HEIGHT, WIDTH = 48, 64
CAMERA = Camera(WIDTH, HEIGHT, (50.0, 52.0, 31.0, 23.0))
BENT = replace(CAMERA, d=(0.2, -0.1, 0.001, 0.002, 0.0))
TURNED = Transform(np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]]), np.array([0.1, 0.2, 0.3]))
LEVEL = (0.0, 0.0, 0.0, 1.0)
FLAT = (1.0, 0.0, 0.0, 0.0)  # half a turn about x: z points down
BOX = Box3D(Pose((0.5, 0.1, 0.2), LEVEL), (0.06, 0.08, 0.1))
HINTS = (Hint("centroid", Pose((0.5, 0.1, 0.25), FLAT)), Hint("long_axis", Pose((0.5, 0.1, 0.2), FLAT), 0.06))


def lifted(count: int = 5) -> Lifted:
    points = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    colours = (np.arange(3 * count) % 251).astype(np.uint8).reshape(count, 3)
    return Lifted(Status3D.OK, "", points, colours, (0.5, 0.1, 0.25), BOX, 0.75, HINTS)


def instance(index: int, x: int, found: Lifted | None) -> Instance:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, x : x + 12] = True
    return Instance(index, f"mug {index}", 0.5, pack(mask), (x, 10, x + 12, 30), None, ((x + 3.0, 12.0),), 240, found)


def depth() -> NDArray[np.float32]:
    out = np.linspace(0.5, 1.5, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    out[20:24, 30:34] = np.nan
    return out


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def reply(*instances: Instance, camera: Camera | None = CAMERA, transform: Transform | None = TURNED) -> Reply:
    """An answer in space; camera None: one without."""
    scene = None if camera is None else Scene(depth(), camera, "base_link" if transform else "camera", transform)
    status = Status.OK if instances else Status.NO_OBJECT
    found = Segmentation(status, "", "mugs", HEIGHT, WIDTH, instances, scene=scene)
    return Reply(HEADER, image_to_msg(picture(), "rgb8", HEADER), None, found, "7")


def refused(index: int, x: int) -> Instance:
    return instance(index, x, replace(lifted(), status=Status3D.TOO_MANY_HOLES, message="it shines"))


def failed() -> Reply:
    return Reply(HEADER, None, None, Segmentation(Status.NO_IMAGE, "none", "mug", 0, 0), "7")


WITHOUT = [reply(instance(1, 5, None), camera=None), reply(refused(1, 5)), reply(), reply(camera=None), failed()]


def records(message: PointCloud2) -> dict[str, NDArray[Any]]:
    """The cloud as a reader that knows the fields alone takes it, after the wire; colours as (..., 3) RGB."""
    message = deserialize_message(serialize_message(message), PointCloud2)
    kinds = {PointField.FLOAT32: "f4", PointField.UINT32: "u4"}
    layout: Any = {
        "names": [f.name for f in message.fields],
        "formats": [kinds[f.datatype] for f in message.fields],
        "offsets": [f.offset for f in message.fields],
        "itemsize": message.point_step,
    }
    assert message.row_step == message.width * message.point_step
    assert len(message.data) == message.height * message.row_step
    cloud: Any = np.frombuffer(message.data, np.dtype(layout)).reshape(message.height, message.width)
    colours = np.ascontiguousarray(cloud["rgb"]).view(np.uint32)[..., None] >> np.array([16, 8, 0]) & 255
    xyz = np.stack([cloud[name] for name in "xyz"], -1)
    return {"xyz": xyz, "colours": colours, "labels": cloud["label"]}


def floats(image: Image) -> NDArray[np.float32]:
    assert image.encoding == "32FC1"
    return np.frombuffer(image.data, np.float32).reshape(image.height, image.width)


def test_points_have_the_place_the_colour_and_the_number_of_their_object() -> None:
    message = products_3d.points(reply(instance(1, 5, lifted(5)), refused(2, 20), instance(3, 40, lifted(4))))
    assert (message.header, message.height, message.width, message.is_dense) == (IN_SPACE, 1, 9, True)
    assert [f.datatype for f in message.fields if f.name == "rgb"] == [PointField.FLOAT32], "as PCL and RViz read it"
    cloud = records(message)
    assert np.array_equal(cloud["xyz"][0], np.concatenate((lifted(5).points, lifted(4).points)))
    assert np.array_equal(cloud["colours"][0], np.concatenate((lifted(5).colours, lifted(4).colours)))
    assert cloud["labels"].tolist() == [[1] * 5 + [3] * 4]


def test_a_large_object_is_thinned_evenly_and_each_time_the_same() -> None:
    n = 120_001
    large = reply(instance(1, 5, lifted(n)), instance(2, 20, lifted(10)))
    first = products_3d.points(large)
    assert first == products_3d.points(large)
    cloud = records(first)
    kept = cloud["xyz"][cloud["labels"] == 1][:, 0] / 3
    assert len(kept) == products_3d.MAX_POINTS and (cloud["labels"] == 2).sum() == 10
    assert kept[0] == 0 and kept[-1] > n - 4 and set(np.diff(kept)) == {2, 3}


def test_a_cloud_that_is_called_dense_holds_no_hole() -> None:
    holed = lifted(5)
    holed.points[1, 2] = np.nan
    holed.points[3, 0] = np.inf
    cloud = records(products_3d.points(reply(instance(1, 5, holed))))
    assert np.array_equal(cloud["xyz"][0], lifted(5).points[[0, 2, 4]])


def test_the_scene_is_the_frame_s_own_pixels_seen_by_its_camera() -> None:
    r = reply(instance(1, 5, None), instance(2, 40, lifted()), transform=None)
    message = products_3d.scene_points(r, 1)
    assert (message.height, message.width, message.is_dense) == (HEIGHT, WIDTH, False)
    assert message.header == HEADER
    cloud = records(message)
    assert np.array_equal(cloud["colours"], picture()) and np.array_equal(cloud["labels"], r.labels)
    assert np.array_equal(np.isnan(cloud["xyz"]).any(2), np.isnan(depth())), "a hole is one in all three"
    assert np.array_equal(np.isnan(cloud["xyz"]).all(2), np.isnan(depth()))
    x, y, z = cloud["xyz"][40, 10]
    assert (x, y, z) == pytest.approx(((10 - 31) / 50 * z, (40 - 23) / 52 * z, depth()[40, 10]))


@pytest.mark.parametrize("stride", [2, 3, 7])
def test_a_stride_takes_every_so_manieth_pixel_of_both_directions(stride: int) -> None:
    r = reply(instance(1, 5, None), instance(2, 40, lifted()))
    every, some = (records(products_3d.scene_points(r, n)) for n in (1, stride))
    for name in every:
        assert np.array_equal(some[name], every[name][::stride, ::stride], equal_nan=True)


def test_the_scene_is_in_the_frame_that_was_asked_for() -> None:
    here = records(products_3d.scene_points(reply(transform=None), 2))["xyz"]
    message = products_3d.scene_points(reply(), 2)
    assert message.header == IN_SPACE
    moved = here @ TURNED.rotation.T + TURNED.translation
    np.testing.assert_allclose(records(message)["xyz"], moved, atol=1e-6)


def test_the_scene_of_a_distorted_camera_lies_where_its_lens_saw_it() -> None:
    xyz = records(products_3d.scene_points(reply(camera=BENT, transform=None), 2))["xyz"]
    fx, fy, cx, cy = BENT.k
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    there = np.isfinite(xyz).all(2)
    seen, _ = cv2.projectPoints(xyz[there].astype(float), np.zeros(3), np.zeros(3), matrix, np.array(BENT.d))
    ys, xs = np.nonzero(there)
    assert there.mean() > 0.9
    np.testing.assert_allclose(seen[:, 0], 2 * np.stack((xs, ys), 1), atol=0.05)
    assert (np.isnan(xyz).any(2) == np.isnan(xyz).all(2)).all()


def test_the_depth_of_objects_and_of_the_background_share_no_pixel() -> None:
    r = reply(instance(1, 5, lifted()), refused(2, 40))
    objects, background = products_3d.object_depth(r), products_3d.background_depth(r)
    assert objects and background
    assert objects.header == background.header == HEADER, "of the camera, whatever the target frame"
    mask = np.frombuffer(products.mask(r).data, np.uint8).reshape(HEIGHT, WIDTH) > 0
    assert np.array_equal(floats(objects), np.where(mask, depth(), np.nan), equal_nan=True)
    left = np.isfinite(floats(background))
    assert np.array_equal(floats(background)[left], depth()[left])
    ys, xs = np.nonzero(left)
    oys, oxs = np.nonzero(mask)
    nearest = np.hypot(ys[:, None] - oys, xs[:, None] - oxs).min(1)
    assert nearest.min() > products_3d.RIM, "no rim of an object stands in the planner's way"
    far = np.isfinite(depth()) & (cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5) > products_3d.RIM + 2)
    assert left[far].all()


def test_depth_without_an_object_is_all_background() -> None:
    r = reply()
    objects, background = products_3d.object_depth(r), products_3d.background_depth(r)
    assert objects and background and np.isnan(floats(objects)).all()
    assert np.array_equal(floats(background), depth(), equal_nan=True)


def test_depth_of_a_distorted_camera_is_that_of_the_plain_one_which_its_info_names() -> None:
    r = reply(instance(1, 5, lifted()), camera=BENT)
    objects, info = products_3d.object_depth(r), products_3d.depth_info(r)
    assert objects and info
    assert (info.header, info.width, info.height) == (HEADER, WIDTH, HEIGHT) and not any(info.d)
    assert info.distortion_model == "plumb_bob" and info.r.tolist() == np.eye(3).ravel().tolist()
    assert info.p.reshape(3, 4)[:, :3].tolist() == info.k.reshape(3, 3).tolist()
    assert info.k.reshape(3, 3).tolist() == [[50, 0, 31], [0, 52, 23], [0, 0, 1]]
    mask = np.frombuffer(products.mask(r).data, np.uint8).reshape(HEIGHT, WIDTH)
    straight = cv2.undistort(mask, info.k.reshape(3, 3), np.array(BENT.d)) > 127
    inside = np.isfinite(floats(objects))
    assert (inside != straight).sum() <= 4 < 20 <= (inside != (mask > 0)).sum(), "~/mask itself would not fit"


@pytest.mark.parametrize("r", [reply(instance(1, 5, None), camera=None), failed()])
def test_without_a_scene_there_is_no_depth(r: Reply) -> None:
    assert products_3d.object_depth(r) is products_3d.background_depth(r) is products_3d.depth_info(r) is None


def test_hints_are_in_the_order_of_the_result() -> None:
    r = reply(instance(1, 5, lifted()), refused(2, 20), instance(3, 40, lifted()))
    poses = products_3d.grasp_hints(r)
    told = products.result(r).grasp_hints
    assert poses.header == IN_SPACE and len(poses.poses) == 4
    assert list(poses.poses) == [hint.pose for hint in told]
    assert [(h.index, h.name) for h in told] == [(n, h.name) for n in (1, 3) for h in HINTS]


def test_markers_begin_with_the_end_of_those_before() -> None:
    r = reply(instance(1, 5, lifted()), refused(2, 20), instance(3, 40, lifted()))
    first, *rest = products_3d.markers(r).markers
    assert first.action == Marker.DELETEALL
    assert all(m.action == Marker.ADD and m.header == IN_SPACE for m in rest)
    names = [(m.ns, m.id) for m in rest]
    assert len(set(names)) == len(names) == 8, "RViz refuses two of one name"
    assert {m.ns for m in rest} == {"boxes", "labels", "grasp_hints"}


def test_a_marker_of_a_box_is_the_box_and_its_label_stands_over_it() -> None:
    rest = products_3d.markers(reply(instance(7, 5, lifted()))).markers[1:]
    cube, label, *arrows = rest
    assert (cube.ns, cube.id, cube.type) == ("boxes", 7, Marker.CUBE) and 0 < cube.color.a < 1
    assert (cube.pose.position.x, cube.pose.position.y, cube.pose.position.z) == BOX.center.position
    assert (cube.scale.x, cube.scale.y, cube.scale.z) == BOX.size
    assert label.text == "7 mug 7" and label.scale.z > 0 and label.color.a == 1
    assert label.pose.position.z > 0.2 + 0.1 / 2
    for arrow, hint in zip(arrows, HINTS, strict=True):
        tail, tip = arrow.points
        assert arrow.type == Marker.ARROW and (tip.x, tip.y, tip.z) == hint.pose.position
        assert (tail.x, tail.y) == (tip.x, tip.y) and tail.z > tip.z, "the approach is downwards here"


def test_a_flat_box_is_still_drawn_and_a_hostile_label_is_one_short_line() -> None:
    flat = replace(lifted(), box=replace(BOX, size=(0.1, 0.1, 0.0)))
    named = replace(instance(1, 5, flat), label="mug\n\x1b[31m" + "\udcff" * 5000)
    _, cube, label, *_ = products_3d.markers(reply(named)).markers
    assert cube.scale.z > 0 and len(label.text) <= products_3d.MAX_LABEL and label.text.isprintable()


@pytest.mark.parametrize("r", WITHOUT)
def test_an_answer_without_3d_empties_what_the_one_before_has_left(r: Reply) -> None:
    assert not products_3d.grasp_hints(r).poses
    (marker,) = products_3d.markers(r).markers
    assert marker.action == Marker.DELETEALL
    points = records(products_3d.points(r))
    assert points["xyz"].shape == (1, 0, 3)
    if r.segmentation.scene is None:
        assert records(products_3d.scene_points(r))["xyz"].shape == (1, 0, 3)


def test_what_is_empty_names_the_frame_of_the_answer_before() -> None:
    """RViz ignores a cloud without a frame, and would show the old one for ever."""
    r = Reply(Header(stamp=Time(sec=3)), None, None, Segmentation(Status.NO_IMAGE, "none", "mug", 0, 0), "7")
    r.frame_3d = "base_link"
    for message in (products_3d.points(r), products_3d.scene_points(r), products_3d.grasp_hints(r)):
        assert message.header == Header(stamp=Time(sec=3), frame_id="base_link")


class Message(types.SimpleNamespace):
    """A message with whatever fields it is given."""


@pytest.fixture
def vision_msgs(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("vision_msgs.msg")
    module.Detection3D = lambda header: Message(header=header, bbox=Message(), results=[], id="")
    module.Detection3DArray = lambda header: Message(header=header, detections=[])
    module.ObjectHypothesisWithPose = lambda: Message(hypothesis=Message(), pose=Message())
    monkeypatch.setitem(sys.modules, "vision_msgs", types.ModuleType("vision_msgs"))
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", module)


def test_detections_are_the_boxes_in_the_frame_that_was_asked_for(vision_msgs: None) -> None:
    r = reply(instance(1, 5, lifted()), refused(2, 20), instance(3, 40, lifted()))
    message = products_3d.detections_3d(r)
    assert message.header == IN_SPACE and [d.header for d in message.detections] == [IN_SPACE] * 2
    assert [d.results[0].hypothesis.class_id for d in message.detections] == ["1", "3"]
    box = products.result(r).instances[0].box3d
    assert all((d.bbox.center, d.bbox.size) == (box.center, box.size) for d in message.detections)
    for without in WITHOUT:
        assert products_3d.detections_3d(without).detections == []


FOXGLOVE = {
    "ImageAnnotations": {"circles", "points", "texts"},
    "PointsAnnotation": {"timestamp", "type", "points", "outline_color", "outline_colors", "fill_color", "thickness"},
    "CircleAnnotation": {"timestamp", "position", "diameter", "thickness", "fill_color", "outline_color"},
    "TextAnnotation": {"timestamp", "position", "text", "font_size", "text_color", "background_color"},
    "Color": {"r", "g", "b", "a"},
    "Point2": {"x", "y"},
}


@pytest.fixture(params=[False, True], ids=["2.x", "3.4"])
def foxglove_msgs(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """As far as its fields go. Later releases have a stamp for all annotations together."""
    module: Any = types.ModuleType("foxglove_msgs.msg")

    def kind(names: set[str]) -> type:
        def set_known(self: Any, name: str, value: Any) -> None:
            assert name in names, f"no field {name}"
            object.__setattr__(self, name, value)

        def make(self: Any) -> None:
            for name in names:
                object.__setattr__(self, name, [])

        return type("Known", (), {"__init__": make, "__setattr__": set_known, "LINE_LOOP": 2})

    for name, names in FOXGLOVE.items():
        later = {"timestamp"} if request.param and name == "ImageAnnotations" else set()
        setattr(module, name, kind(names | later))
    package = types.ModuleType("foxglove_msgs")
    package.msg = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "foxglove_msgs", package)
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", module)
    return bool(request.param)


def test_annotations_draw_boxes_prompts_and_labels_at_the_frame_s_stamp(foxglove_msgs: bool) -> None:
    message = products_3d.image_annotations(reply(instance(1, 5, None), instance(2, 40, None), camera=None))
    assert [[(p.x, p.y) for p in a.points] for a in message.points] == [
        [(5, 10), (17, 10), (17, 30), (5, 30)],
        [(40, 10), (52, 10), (52, 30), (40, 30)],
    ]
    assert [(c.position.x, c.position.y) for c in message.circles] == [(8, 12), (43, 12)]
    assert [t.text for t in message.texts] == ["1 mug 1 0.50", "2 mug 2 0.50"]
    assert all(a.timestamp == HEADER.stamp for a in (*message.points, *message.circles, *message.texts))
    assert not foxglove_msgs or message.timestamp == HEADER.stamp


def test_annotations_of_a_failure_are_none(foxglove_msgs: bool) -> None:
    message = products_3d.image_annotations(failed())
    assert not (message.points or message.circles or message.texts)
