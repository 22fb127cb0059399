"""What a camera and an answer in space are: frozen dataclasses with frames and units. core/lifting.py makes them.

Conventions, once for the whole package:
* metres; a camera's optical frame has x to the right, y down, z forward (REP 103), other frames have z up.
* quaternion: (x, y, z, w), of unit length; it turns vectors of the named frame's child into that frame.
* depth: float32 (H, W), metres along the optical axis, NaN where nothing was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

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
    ERROR = "ERROR"  # a fault of this package


class LiftError(Exception):
    """Why a whole frame cannot be lifted; never OK nor NOT_ASKED."""

    def __init__(self, status: Status3D, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, undistorted where `d` is empty. Pixel centres lie at whole numbers, as in OpenCV and ROS.

    k: (fx, fy, cx, cy), pixels of images of this width and height. d: coefficients of plumb_bob (4 or 5) or
    rational_polynomial (8, 12 or 14), in OpenCV's order.
    """

    width: int
    height: int
    k: tuple[float, float, float, float]
    d: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pose:
    position: Vector
    orientation: Quaternion


def quaternion_of(rotation: NDArray[np.floating]) -> Quaternion:
    """(x, y, z, w) of a (3, 3) rotation matrix, w not negative. Raises ValueError unless it is a rotation."""
    matrix = np.asarray(rotation, np.float64)
    if not is_rotation(matrix):
        raise ValueError("the matrix is no rotation")
    x, y, z, w = (float(v) for v in _rotations().from_matrix(matrix).as_quat())
    return (-x, -y, -z, -w) if w < 0 else (x, y, z, w)


def rotation_of(quaternion: Sequence[float]) -> NDArray[np.float64]:
    """The (3, 3) rotation matrix of (x, y, z, w) of any length but 0. Raises ValueError where there is none."""
    values = np.asarray(quaternion, np.float64)
    length = np.linalg.norm(values)
    if values.shape != (4,) or not np.isfinite(length) or length < 1e-6:
        raise ValueError("the quaternion is no rotation")
    return np.asarray(_rotations().from_quat(values / length).as_matrix())


def is_rotation(matrix: NDArray[np.floating]) -> bool:
    """Whether a (3, 3) matrix turns: orthonormal to 1e-4 and right-handed."""
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return False
    return bool(np.abs(matrix @ matrix.T - np.eye(3)).max() < 1e-4 and np.linalg.det(matrix) > 0)


def _rotations() -> Any:
    from scipy.spatial.transform import Rotation  # takes 0.4 s, and all who import the contract would pay for it

    return Rotation


@dataclass(frozen=True)
class Plane:
    """Points p with normal . p = offset. The height of a point above it is normal . p - offset.

    normal: of unit length, up. offset: metres. residual: RMS distance of the inliers, metres. inliers: their share of
    the points that it was found in.
    """

    normal: Vector
    offset: float
    residual: float = 0.0
    inliers: float = 1.0

    def heights(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) of points (N, 3), metres."""
        return np.asarray(points, np.float64) @ np.array(self.normal) - self.offset


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

    points: of the visible surface, (N, 3). colours: uint8 (N, 3), RGB. visible: share of the mask's outline that
    neither the image's edge nor something nearer cuts. support: the plane that it stands on, where one was found.
    """

    status: Status3D
    message: str = ""
    points: Points = field(default_factory=lambda: np.zeros((0, 3), np.float32), repr=False)
    colours: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 3), np.uint8), repr=False)
    centroid: Vector = (0.0, 0.0, 0.0)
    box: Box3D | None = None
    visible: float = 0.0
    hints: tuple[Hint, ...] = ()
    support: Plane | None = None


@dataclass(frozen=True)
class Transform:
    """point_of_target = rotation @ point_of_source + translation. rotation: (3, 3); translation: (3,), metres."""

    rotation: NDArray[np.float64]
    translation: NDArray[np.float64]

    def points(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 3) of the source frame to (N, 3) of the target's."""
        return np.asarray(points, np.float64) @ self.rotation.T + self.translation

    def pose(self, pose: Pose) -> Pose:
        x, y, z = (float(v) for v in self.rotation @ np.array(pose.position) + self.translation)
        return Pose((x, y, z), quaternion_of(self.rotation @ rotation_of(pose.orientation)))


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
