"""What is published about an answer in space: pure functions from a reply to a message.

An answer without 3D says so with an empty message, so that no older pose stays on anybody's screen or in a planner.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Point, PoseArray, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField

from segzero_ros.core.camera import ray_window, undistort_mask
from segzero_ros.core.contract import Instance, Mask
from segzero_ros.core.result_dict import in_space
from segzero_ros.core.space import Box3D, Lifted, Transform
from segzero_ros.core.text import one_line
from segzero_ros.overlay import color
from segzero_ros.ros.convert import bytes_array, image_to_msg
from segzero_ros.ros.messages import pose_msg, vector
from segzero_ros.ros.products import Reply

MAX_POINTS = 50_000  # of an instance
RIM = 5  # pixels that the background keeps away from an object: depth at its outline is of either
ARROW = 0.1  # metres, the length of a hint's arrow
HINTS = 16  # of an instance at most, so that a marker's id stays the same from answer to answer
MAX_LABEL = 40  # characters
# As sensor_msgs_py and depth_image_proc write it and as RViz and PCL (PointXYZRGBL) read it: the colour is the bits
# 0x00RRGGBB of a float.
POINT = np.dtype([("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u4"), ("label", "u4")])
FIELDS = [
    PointField(name=name, offset=POINT.fields[name][1], datatype=kind, count=1)  # type: ignore[index]
    for name, kind in (*((n, PointField.FLOAT32) for n in ("x", "y", "z", "rgb")), ("label", PointField.UINT32))
]


def known_in_space(r: Reply) -> list[tuple[Instance, Lifted]]:
    """The instances whose lift ended with OK."""
    return [(i, lifted) for i in r.segmentation.instances if (lifted := in_space(i))]


def points(r: Reply) -> PointCloud2:
    """The objects' clouds in one: x, y, z, rgb and, as label, the instance's number. At most MAX_POINTS each."""
    clouds = []
    for i, lifted in known_in_space(r):
        n = len(lifted.points)
        kept = np.arange(min(n, MAX_POINTS)) * n // max(1, min(n, MAX_POINTS))  # evenly, and always the same ones
        clouds.append(_cloud(lifted.points[kept].T, lifted.colours[kept], np.full(len(kept), i.index)))
    cloud = np.concatenate(clouds) if clouds else np.zeros(0, POINT)
    finite = np.isfinite(cloud["x"]) & np.isfinite(cloud["y"]) & np.isfinite(cloud["z"])
    return _cloud_msg(r, cloud[finite][None], dense=True)


def scene_points(r: Reply, stride: int = 2) -> PointCloud2:
    """The whole frame, organised: every `stride`-th pixel of every `stride`-th row, NaN where no depth was measured.

    label: the value of ~/label_mask there. Empty where nothing was lifted.
    """
    scene = r.segmentation.scene
    if scene is None or not r.answered:
        return _cloud_msg(r, np.zeros((1, 0), POINT), dense=False)
    height, width = scene.depth.shape
    rays = ray_window(scene.camera, (slice(0, height), slice(0, width)))[::stride, ::stride]
    depth = np.where(np.isfinite(rays[..., 0]), scene.depth[::stride, ::stride], np.float32(np.nan))
    xyz = [rays[..., 0] * depth, rays[..., 1] * depth, depth]
    if scene.transform:
        xyz = _moved(scene.transform, xyz)
    return _cloud_msg(r, _cloud(xyz, r.source[::stride, ::stride], r.labels[::stride, ::stride]), dense=False)


def object_depth(r: Reply) -> Image | None:
    """32FC1, metres, of the frame's size and undistorted: what belongs to an object, NaN elsewhere."""
    if not has_depth(r):
        return None
    depth, _ = r.rectified
    return image_to_msg(np.where(_undistorted(r, r.union), depth, np.float32(np.nan)), "32FC1", r.header)


def background_depth(r: Reply) -> Image | None:
    """32FC1, metres, of the frame's size and undistorted: all but the objects and RIM pixels around them.

    An octomap made of it does not swallow what is to be grasped, nor keep a shell of its outline.
    """
    if not has_depth(r):
        return None
    depth, _ = r.rectified
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RIM + 1, 2 * RIM + 1))
    near = cv2.dilate(_undistorted(r, r.union).view(np.uint8), disc).view(np.bool_)
    return image_to_msg(np.where(near, np.float32(np.nan), depth), "32FC1", r.header)


def depth_info(r: Reply) -> CameraInfo | None:
    """The camera of both depth images: without distortion."""
    if not has_depth(r):
        return None
    _, camera = r.rectified
    fx, fy, cx, cy = (float(v) for v in camera.k)
    return CameraInfo(
        header=r.header,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def has_depth(r: Reply) -> bool:
    return r.answered and r.segmentation.scene is not None


def grasp_hints(r: Reply) -> PoseArray:
    """Their poses in the order of ~/result's grasp_hints, which has their names and numbers."""
    return PoseArray(
        header=r.header_3d, poses=[pose_msg(hint.pose) for _, lifted in known_in_space(r) for hint in lifted.hints]
    )


def detections_3d(r: Reply) -> Any:
    """vision_msgs/Detection3DArray: the boxes in space. ~/label_info names the class ids."""
    from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

    out = Detection3DArray(header=r.header_3d)
    for i, lifted in known_in_space(r):
        if lifted.box is None:
            continue
        detection, hypothesis = Detection3D(header=r.header_3d), ObjectHypothesisWithPose()
        detection.bbox.center = pose_msg(lifted.box.center)
        detection.bbox.size = vector(lifted.box.size, Vector3)
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = str(i.index), float(i.score)
        hypothesis.pose.pose = pose_msg(lifted.box.center)
        detection.results = [hypothesis]  # no id: nothing tracks
        out.detections.append(detection)
    return out


def markers(r: Reply) -> Any:
    """visualization_msgs/MarkerArray for RViz without plugins: boxes, numbers with labels, arrows of the hints.

    The first marker removes those of the answer before.
    """
    from std_msgs.msg import ColorRGBA
    from visualization_msgs.msg import Marker, MarkerArray

    out = MarkerArray(markers=[Marker(header=r.header_3d, action=Marker.DELETEALL)])

    def add(namespace: str, number: int, kind: int, index: int, alpha: float, **more: Any) -> None:
        red, green, blue = (v / 255 for v in color(index))
        shade = ColorRGBA(r=red, g=green, b=blue, a=alpha)
        out.markers.append(Marker(header=r.header_3d, ns=namespace, id=number, type=kind, color=shade, **more))

    for i, lifted in known_in_space(r):
        if lifted.box:
            size = vector([max(v, 1e-3) for v in lifted.box.size], Vector3)  # RViz refuses what is flat
            add("boxes", i.index, Marker.CUBE, i.index, 0.4, pose=pose_msg(lifted.box.center), scale=size)
            text = one_line(f"{i.index} {i.label}", MAX_LABEL)
            top, height = pose_msg(lifted.box.center), Vector3(z=0.03)  # metres
            top.position = _above(lifted.box)
            add("labels", i.index, Marker.TEXT_VIEW_FACING, i.index, 1.0, pose=top, scale=height, text=text)
        for n, hint in enumerate(lifted.hints[:HINTS]):
            tip = np.array(hint.pose.position, float)
            tail = tip - ARROW * _axis(hint.pose.orientation)
            thick = Vector3(x=0.005, y=0.01, z=0.02)  # metres: shaft, head, head's length
            ends = [vector(tail), vector(tip)]
            add("grasp_hints", i.index * HINTS + n, Marker.ARROW, i.index, 1.0, points=ends, scale=thick)
    return out


def image_annotations(r: Reply) -> Any:
    """foxglove_msgs/ImageAnnotations over ~/source_image: the masks' boxes, the points of the prompts, the labels."""
    from foxglove_msgs import msg

    def fill(kind: str, **values: Any) -> Any:
        """Its releases differ in their fields: what one of them lacks is left out."""
        out = getattr(msg, kind)()
        for name, value in values.items():
            if hasattr(out, name):
                setattr(out, name, value)
        return out

    def shade(index: int) -> Any:
        red, green, blue = (v / 255 for v in color(index))
        return fill("Color", r=red, g=green, b=blue, a=1.0)

    def point(x: float, y: float) -> Any:
        return fill("Point2", x=float(x), y=float(y))

    stamp = r.header.stamp
    out = fill("ImageAnnotations", timestamp=stamp)
    for i in r.segmentation.instances if r.answered else ():
        x1, y1, x2, y2 = i.box
        outline = {"timestamp": stamp, "outline_color": shade(i.index), "thickness": 2.0}
        corners = [point(x1, y1), point(x2, y1), point(x2, y2), point(x1, y2)]
        out.points.append(fill("PointsAnnotation", type=msg.PointsAnnotation.LINE_LOOP, points=corners, **outline))
        circle = outline | {"diameter": 8.0, "fill_color": shade(i.index)}
        out.circles += [fill("CircleAnnotation", position=point(x, y), **circle) for x, y in i.prompt_points]
        text = one_line(f"{i.index} {i.label} {i.score:.2f}", MAX_LABEL)
        colours = {"text_color": fill("Color", a=1.0), "background_color": shade(i.index)}
        place = {"timestamp": stamp, "position": point(x1, y1), "font_size": 14.0}
        out.texts.append(fill("TextAnnotation", text=text, **place, **colours))
    return out


def _undistorted(r: Reply, mask: Mask) -> Mask:
    assert r.segmentation.scene is not None
    return undistort_mask(mask, r.segmentation.scene.camera)


def _moved(transform: Transform, xyz: Iterable[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    x, y, z = xyz
    rotation, translation = (np.asarray(a, np.float32) for a in (transform.rotation, transform.translation))
    return [row[0] * x + row[1] * y + row[2] * z + shift for row, shift in zip(rotation, translation, strict=True)]


def _cloud(xyz: Iterable[NDArray[Any]], colours: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[Any]:
    """Records of POINT in the shape of `labels`; xyz: three arrays of that shape; colours: RGB in the last axis."""
    cloud = np.empty(labels.shape, POINT)
    cloud["x"], cloud["y"], cloud["z"] = xyz
    red, green, blue = (colours[..., n].astype(np.uint32) for n in range(3))
    cloud["rgb"] = red << 16 | green << 8 | blue
    cloud["label"] = labels
    return cloud


def _cloud_msg(r: Reply, cloud: NDArray[Any], dense: bool) -> PointCloud2:
    """(H, W) records of POINT."""
    height, width = cloud.shape
    return PointCloud2(
        header=r.header_3d,
        height=height,
        width=width,
        fields=FIELDS,
        is_bigendian=sys.byteorder == "big",
        point_step=POINT.itemsize,
        row_step=width * POINT.itemsize,
        data=bytes_array(cloud.tobytes()),
        is_dense=dense,
    )


def _axis(orientation: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """z of the frame that the quaternion (x, y, z, w) turns into."""
    x, y, z, w = orientation
    return np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])


def _above(box: Box3D) -> Point:
    """Three centimetres over the box along its own z."""
    return vector(np.array(box.center.position) + (box.size[2] / 2 + 0.03) * _axis(box.center.orientation))
