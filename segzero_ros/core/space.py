"""What a camera and an answer in space are: frozen dataclasses with frames and units. core/lifting.py makes them.

Conventions, once for the whole package:
* metres; a camera's optical frame has x to the right, y down, z forward (REP 103), other frames have z up.
* quaternion: (x, y, z, w), of unit length; it turns vectors of the named frame's child into that frame.
* depth: float32 (H, W), metres along the optical axis, NaN where nothing was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Points = NDArray[np.float32]  # (N, 3)


class Status3D(str, Enum):
    """How the lift of one instance ended. The names are the constants of segzero_msgs/Instance after STATUS_3D_."""

    NOT_ASKED = "NOT_ASKED"
    OK = "OK"
    NO_DEPTH = "NO_DEPTH"
    UNALIGNED = "UNALIGNED"
    TOO_FEW_POINTS = "TOO_FEW_POINTS"
    TOO_MANY_HOLES = "TOO_MANY_HOLES"
    BAD_CAMERA_INFO = "BAD_CAMERA_INFO"
    NO_TRANSFORM = "NO_TRANSFORM"


class LiftError(Exception):
    """Why a whole frame cannot be lifted; never OK nor NOT_ASKED."""

    def __init__(self, status: Status3D, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, undistorted where `d` is empty. Pixel centres lie at whole numbers, as in OpenCV and ROS.

    k: (fx, fy, cx, cy), pixels of images of this width and height. d: coefficients of plumb_bob (5) or
    rational_polynomial (8), in OpenCV's order.
    """

    width: int
    height: int
    k: tuple[float, float, float, float]
    d: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pose:
    position: Vector
    orientation: Quaternion


@dataclass(frozen=True)
class Box3D:
    """center: of the box. size: along the axes of `center`."""

    center: Pose
    size: Vector


@dataclass(frozen=True)
class Hint:
    """Where a gripper might go, from the visible surface alone.

    pose: of the point between the fingertips, or of the cup's rim; z is the approach into the object, x the direction
    in which the fingers close. width: the opening along x, metres; 0 when unknown.
    """

    name: str  # centroid, top_plane, long_axis
    pose: Pose
    width: float = 0.0


@dataclass(frozen=True)
class Lifted:
    """One instance in space; what follows `message` holds if status is OK.

    points: of the visible surface, (N, 3). colours: uint8 (N, 3), RGB. visible: share of the mask's outline that is
    neither cut by the image's edge nor hidden by something nearer.
    """

    status: Status3D
    message: str = ""
    points: Points = field(default_factory=lambda: np.zeros((0, 3), np.float32), repr=False)
    colours: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), np.uint8), repr=False)
    centroid: Vector = (0.0, 0.0, 0.0)
    box: Box3D | None = None
    visible: float = 0.0
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True)
class Transform:
    """point_of_target = rotation @ point_of_source + translation. rotation: (3, 3); translation: (3,), metres."""

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """The whole frame in space, which all instances of an answer share.

    depth: of the colour image's own pixels, so distorted where the camera is. frame_id: of what is lifted; `transform`
    leads there from the camera's optical frame, None when it is that frame.
    """

    depth: NDArray[np.float32] = field(repr=False)
    camera: Camera
    frame_id: str
    transform: Transform | None = None
