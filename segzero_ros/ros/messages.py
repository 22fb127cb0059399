"""A Segmentation as ROS messages and as JSON. Translation only."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from segzero_msgs.msg import Box2D, Instance, Mask, Point2D, Timing
from segzero_msgs.msg import Segmentation as SegmentationMsg
from sensor_msgs.msg import CameraInfo, RegionOfInterest

from segzero_ros.core.contract import Instance as Found
from segzero_ros.core.contract import Segmentation, Status
from segzero_ros.core.result_dict import result_dict
from segzero_ros.core.text import clean
from segzero_ros.ros.convert import bytes_array


def status_constant(status: Status) -> int:
    return int(getattr(SegmentationMsg, f"STATUS_{status.value}"))


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


def instance_msg(found: Found) -> Instance:
    x1, y1, x2, y2 = found.prompt_box or (0.0, 0.0, 0.0, 0.0)
    return Instance(
        index=found.index,
        label=clean(found.label),
        score=float(found.score),
        roi=region(found),
        prompt_box=Box2D(x_min=float(x1), y_min=float(y1), x_max=float(x2), y_max=float(y2)),
        prompt_points=[Point2D(x=float(x), y=float(y)) for x, y in found.prompt_points],
        area=found.area,
        mask=mask_msg(found),
    )


def to_result_msg(result: Segmentation, header: Any, camera_info: Any | None, request_id: str) -> SegmentationMsg:
    """Everything in one message; header: of the source image, verbatim."""
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
        instances=[instance_msg(i) for i in result.instances],
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
