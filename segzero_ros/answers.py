"""What a node answered: arrays and typed states, of segzero_msgs/Segmentation; and why there may be no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from segzero_msgs.msg import GraspHint as GraspHintMsg
from segzero_msgs.msg import Instance as InstanceMsg
from segzero_msgs.msg import Mask as MaskMsg
from segzero_msgs.msg import Segmentation as SegmentationMsg

from segzero_ros.core.contract import Box, Mask, SegzeroError, Status
from segzero_ros.core.geometry import rle_decode
from segzero_ros.core.pixels import check_size, decode_picture
from segzero_ros.core.space import Status3D
from segzero_ros.core.text import first_line

Vector3 = NDArray[np.float64]

_STATUS = {getattr(SegmentationMsg, f"STATUS_{s.value}"): s for s in Status}
_STATUS_3D = {getattr(InstanceMsg, f"STATUS_3D_{s.value}"): s for s in Status3D}


class AskError(RuntimeError):
    """There is no answer of the node; the sentence says why."""


class ServerMissing(AskError):
    """Nobody offers the action."""


class ServerLost(AskError):
    """Who had the goal went away before it was answered."""


class GoalRejected(AskError):
    """The server did not take the goal."""


class NoReply(AskError):
    """The server is there and does not answer in time; or nobody spins the node of this client."""


class BadAnswer(AskError):
    """What came cannot be read: a mask that is none, a status of another version."""


@dataclass(frozen=True)
class Grasp:
    """Where a gripper might go; never promised to be free of collisions. See segzero_msgs/GraspHint.

    position: (3,) metres. orientation: (4,) x, y, z, w. width: metres, 0 when unknown.
    """

    name: str
    position: Vector3
    orientation: NDArray[np.float64]
    width: float


@dataclass(frozen=True)
class Object:
    """One instance of an answer.

    confidence: 0 to 1, how well the reasoning model, asked again, agrees; None: it was not asked, or nobody knows.
    box: x1, y1, x2, y2 of the mask, pixels of the source image, the maximum exclusive. What follows message_3d holds if
    status_3d is OK, in `frame_id` at the image's stamp, metres: centroid (3,), center and orientation (x, y, z, w) and
    size (3,) of the box.
    """

    index: int  # from 1 on
    label: str
    score: float
    confidence: float | None
    box: Box
    area: int  # pixels
    status_3d: Status3D
    message_3d: str
    frame_id: str
    centroid: Vector3
    center: Vector3
    orientation: NDArray[np.float64]
    size: Vector3
    visible: float
    grasps: tuple[Grasp, ...]


@dataclass(frozen=True)
class Answer:
    """What the node answered. message: a sentence about the status. raw: all of it, as segzero_msgs/Segmentation."""

    status: Status
    message: str
    instances: tuple[Object, ...]
    raw: SegmentationMsg = field(repr=False)

    @property
    def request_id(self) -> str:
        """By which the topics know the answer, and a `Prompt` that corrects one of its instances."""
        return str(self.raw.request_id)

    @property
    def stamp(self) -> Time:
        """Of the image."""
        return self.raw.header.stamp

    def mask(self, place: int) -> Mask:
        """(H, W) of the source image: the mask of `instances[place]`, so from 0 on. Raises BadAnswer, IndexError."""
        if not 0 <= place < len(self.instances):
            raise IndexError(f"there are {len(self.instances)} instances, so none at {place}")
        try:
            return _whole_mask(self.raw.instances[place].mask, int(self.raw.height), int(self.raw.width))
        except (SegzeroError, ValueError) as error:
            raise BadAnswer(f"the mask of instance {place + 1} cannot be read: {first_line(error)}") from error


def read_answer(message: SegmentationMsg) -> Answer:
    """Raises BadAnswer for a status that this version does not know."""
    if message.status not in _STATUS:
        raise BadAnswer(f"the answer's status is {message.status}, which this version does not know")
    objects = tuple(_object(i, message.grasp_hints) for i in message.instances)
    return Answer(_STATUS[message.status], message.message, objects, message)


def _object(found: InstanceMsg, hints: Sequence[GraspHintMsg]) -> Object:
    if found.status_3d not in _STATUS_3D:
        raise BadAnswer(f"status_3d of instance {found.index} is {found.status_3d}, which this version does not know")
    roi, box = found.roi, found.box3d
    return Object(
        index=found.index,
        label=found.label,
        score=found.score,
        confidence=None if found.confidence < 0 else found.confidence,
        box=(roi.x_offset, roi.y_offset, roi.x_offset + roi.width, roi.y_offset + roi.height),
        area=found.area,
        status_3d=_STATUS_3D[found.status_3d],
        message_3d=found.message_3d,
        frame_id=found.header_3d.frame_id,
        centroid=_xyz(found.centroid),
        center=_xyz(box.center.position),
        orientation=_xyzw(box.center.orientation),
        size=_xyz(box.size),
        visible=found.visible,
        grasps=tuple(_grasp(h) for h in hints if h.index == found.index),
    )


def _grasp(hint: GraspHintMsg) -> Grasp:
    return Grasp(hint.name, _xyz(hint.pose.position), _xyzw(hint.pose.orientation), hint.width)


def _xyzw(q: Any) -> NDArray[np.float64]:
    return np.array((q.x, q.y, q.z, q.w), np.float64)


def _xyz(v: Any) -> Vector3:
    return np.array((v.x, v.y, v.z), np.float64)


def _whole_mask(mask: MaskMsg, height: int, width: int) -> Mask:
    """(height, width). Raises SegzeroError, ValueError for what is no mask of such an image."""
    if not (height and width):
        raise ValueError("the answer has no image size")
    check_size(height, width)
    whole = np.zeros((height, width), np.bool_)
    if mask.encoding == MaskMsg.NONE:
        return whole
    rows, columns = int(mask.height), int(mask.width)
    if mask.y_offset + rows > height or mask.x_offset + columns > width:
        raise ValueError(f"{columns} x {rows} pixels at ({mask.x_offset}, {mask.y_offset}) leave {width} x {height}")
    data = memoryview(mask.data)
    if mask.encoding == MaskMsg.PNG:
        crop = decode_picture(data.tobytes()) > 0
        if crop.shape != (rows, columns):
            raise ValueError(f"the PNG has the shape {crop.shape}, not {(rows, columns)}")
    elif mask.encoding == MaskMsg.MONO8:
        crop = np.frombuffer(data, np.uint8).reshape(rows, columns) > 0
    elif mask.encoding == MaskMsg.RLE:
        crop = rle_decode(np.frombuffer(data, "<u4").tolist(), rows, columns)
    else:
        raise ValueError(f"its encoding is {mask.encoding}, which this version does not know")
    whole[mask.y_offset : mask.y_offset + rows, mask.x_offset : mask.x_offset + columns] = crop
    return whole
