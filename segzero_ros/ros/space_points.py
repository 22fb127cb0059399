"""A point in space to a pixel of a frame, by the frame's camera model and TF."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import PointStamped
from sensor_msgs.msg import CameraInfo

from segzero_ros.core.camera import project
from segzero_ros.core.contract import Point, SegzeroError, Status
from segzero_ros.core.frames import Frame
from segzero_ros.core.space import Camera, LiftError, Transform
from segzero_ros.ros.camera_models import camera_from_info

# target frame, source frame, nanoseconds -> transform. May wait for TF. Raises LiftError.
Lookup = Callable[[str, str, int], Transform]


def pixel_of(
    point: PointStamped,
    frame: Frame,
    size: tuple[int, int],
    lookup: Lookup,
    model: Callable[[CameraInfo, int, int], Camera] = camera_from_info,
) -> Point:
    """Where a frame of size (height, width) shows the point, pixels.

    The point stands still: TF is asked for the frame's time, whatever the point's stamp is, since RViz stamps a click
    with the time of the click. Raises SegzeroError(BAD_REQUEST) for a point that the frame does not show, and where
    there is no camera model or no transform.
    """
    where = np.array((point.point.x, point.point.y, point.point.z))
    name = f"({where[0]:.3g}, {where[1]:.3g}, {where[2]:.3g}) in {point.header.frame_id[:40]!r}"
    if not np.isfinite(where).all() or not point.header.frame_id:
        raise _refusal(f"the point {name} is no point in space")
    info = frame.sides.get("camera_info")
    if info is None:
        raise _refusal(f"a point in space needs the camera's camera_info: {frame.missing.get('camera_info', 'none')}")
    try:
        camera = model(info, size[1], size[0])
        transform = lookup(frame.image.header.frame_id, point.header.frame_id, frame.stamp)
    except LiftError as error:
        raise _refusal(f"the point {name} cannot be brought to the image: {error.message}") from error
    x, y = project(camera, (transform.rotation @ where + transform.translation)[None])[0]
    if not (np.isfinite((x, y)).all() and 0 <= x < size[1] and 0 <= y < size[0]):
        raise _refusal(f"the camera does not see the point {name}")
    return float(x), float(y)


def _refusal(sentence: str) -> SegzeroError:
    return SegzeroError(Status.BAD_REQUEST, sentence)
