"""A Segmentation as ROS messages and as JSON. Translation only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from segzero_msgs.msg import Box2D, Box3D, GraspHint, Instance, Mask, Point2D, Timing
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from segzero_ros.core import space
from segzero_ros.core.contract import Instance as Found
from segzero_ros.core.contract import Segmentation, Status
from segzero_ros.core.result_dict import NOT_ASKED, in_space, result_dict
from segzero_ros.core.space import Status3D
from segzero_ros.core.text import clean
from segzero_ros.ros.convert import bytes_array


def status_constant(status: Status) -> int:
    return int(getattr(SegmentationMsg, f"STATUS_{status.value}"))


def status_3d_constant(status: Status3D) -> int:
    return int(getattr(Instance, f"STATUS_3D_{status.value}"))


def region(found: Found) -> RegionOfInterest:
    """The mask's tight box; all zero when the mask is empty."""
    if not found.area:
        return RegionOfInterest()
    x1, y1, x2, y2 = (int(v) for v in found.box)
    return RegionOfInterest(x_offset=x1, y_offset=y1, width=x2 - x1, height=y2 - y1)


def mask_msg(found: Found) -> Mask:
    """The mask cropped to its box, as PNG."""
    roi = region(found)
    if not found.area:
        return Mask(encoding=Mask.NONE)
    _, png = cv2.imencode(".png", found.packed.crop().view(np.uint8) * np.uint8(255))
    return Mask(
        encoding=Mask.PNG,
        width=roi.width,
        height=roi.height,
        x_offset=roi.x_offset,
        y_offset=roi.y_offset,
        data=bytes_array(png.tobytes()),
    )


def vector(values: Iterable[float], kind: Any = Point) -> Any:
    x, y, z = (float(v) for v in values)
    return kind(x=x, y=y, z=z)


def pose_msg(pose: space.Pose) -> Pose:
    x, y, z, w = (float(v) for v in pose.orientation)
    return Pose(position=vector(pose.position), orientation=Quaternion(x=x, y=y, z=z, w=w))


def header_in_space(result: Segmentation, header: Any) -> Header:
    """The frame that the answer was lifted into, at the image's stamp; all zero where nothing was lifted."""
    return Header(stamp=header.stamp, frame_id=clean(result.scene.frame_id)) if result.scene else Header()


def instance_msg(found: Found, header_3d: Header) -> Instance:
    """header_3d: of what is in space, where the instance was lifted."""
    x1, y1, x2, y2 = found.prompt_box or (0.0, 0.0, 0.0, 0.0)
    lifted, known = found.lifted or NOT_ASKED, in_space(found)
    message = Instance(
        index=found.index,
        label=clean(found.label),
        score=float(found.score),
        confidence=-1.0 if found.confidence is None else float(found.confidence),
        roi=region(found),
        prompt_box=Box2D(x_min=float(x1), y_min=float(y1), x_max=float(x2), y_max=float(y2)),
        prompt_points=[Point2D(x=float(x), y=float(y)) for x, y in found.prompt_points],
        area=found.area,
        mask=mask_msg(found),
        status_3d=status_3d_constant(lifted.status),
        message_3d=clean(lifted.message),
    )
    if known:
        message.has_3d = True
        message.header_3d = header_3d
        message.centroid = vector(known.centroid)
        message.visible = float(known.visible)
        if known.box:
            message.box3d = Box3D(center=pose_msg(known.box.center), size=vector(known.box.size, Vector3))
    return message


def hint_msgs(result: Segmentation) -> list[GraspHint]:
    return [
        GraspHint(name=clean(hint.name), index=i.index, pose=pose_msg(hint.pose), width=float(hint.width))
        for i in result.instances
        for hint in (in_space(i) or NOT_ASKED).hints
    ]


def to_result_msg(result: Segmentation, header: Any, camera_info: Any | None, request_id: str) -> SegmentationMsg:
    """Everything in one message; header: of the source image, verbatim."""
    header_3d = header_in_space(result, header)
    return SegmentationMsg(
        header=header,
        request_id=request_id,
        instruction=clean(result.instruction),
        status=status_constant(result.status),
        message=clean(result.message),
        source=SegmentationMsg.SOURCE_REASONED,
        reasoned_stamp=header.stamp,
        reasoning=clean(result.reasoning),
        answer=clean(result.answer),
        height=result.height,
        width=result.width,
        instances=[instance_msg(i, header_3d) for i in result.instances],
        grasp_hints=hint_msgs(result),
        camera_info=camera_info or CameraInfo(),
        timing=Timing(**asdict(result.timing)),
        model=clean(result.model),
    )


def result_json(result: Segmentation, header: Any, request_id: str) -> str:
    """The same content without pixels, for those who have not built segzero_msgs."""
    return json.dumps(
        {
            "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec},
            "frame_id": header.frame_id,
            "request_id": request_id,
            **result_dict(result),
        }
    )
