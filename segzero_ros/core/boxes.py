"""An object's box from the surface that one camera saw.

Where up is known the box is upright: its rectangle is the smallest one round the points seen from above. A camera that
looks down on a box, a cylinder or a mug sees the whole top, whose outline is the object's; of a ball it sees the near
side alone. Things that hands hold mostly look the same after half a turn about the vertical, so the visible points are
turned about an axis that moves away from the camera as long as (nearly) all of them stay where they may be: inside of
the mask and behind the visible surface, or hidden by something nearer. Beyond that the camera would have seen them. Of
a bare front, with neither top nor sides, nobody knows the depth: the lesser of its width and height is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.camera import project
from segzero_ros.core.contract import Mask
from segzero_ros.core.space import Camera, Transform
from segzero_ros.core.surfaces import mean_of

Coordinates = NDArray[np.float64]

MAX_SEEN = 0.14  # share of the turned points that may lie where the camera saw something else
MAX_DEPTH = 1.25  # of a completed footprint along the view, in visible widths or depths
_ALIKE = 0.01  # shares that differ by less are the same
_AXES = 32  # places that are tried
_SAMPLE = 300  # points that are turned
_LEAST, _LEAST_METRES = 0.04, 0.003  # of the width, and metres: a centre that moves by less is noise


@dataclass(frozen=True)
class Oriented:
    """A box. rotation: (3, 3), its axes in columns, right-handed; size: metres along them."""

    centre: Coordinates
    rotation: Coordinates
    size: Coordinates
    upright: bool

    def moved(self, move: Transform) -> Oriented:
        return replace(self, centre=move.points(self.centre), rotation=move.rotation @ self.rotation)


@dataclass(frozen=True)
class Seen:
    """For asking what the camera saw where.

    depth: the whole image's, float32 (H, W), metres. window: rows and columns around the object; of that window alone
    are `mask`, where the object may be, and `surface`, its depth, NaN elsewhere. tolerance: metres of depth.
    """

    camera: Camera
    depth: NDArray[np.float32]
    window: tuple[slice, slice]
    mask: Mask
    surface: NDArray[np.float32]
    tolerance: float

    def contradicts(self, points: Coordinates) -> Mask:
        """(N,) of points (N, 3): the camera saw something else where this would be."""
        pixels = project(self.camera, points)
        pixels = np.where(np.abs(pixels) < 1e6, pixels, -1)  # also what is behind the camera
        column, row = np.rint(pixels).astype(np.int64).T
        height, width = self.depth.shape
        known = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        depth = self.depth[row.clip(0, height - 1), column.clip(0, width - 1)]
        row, column = row - self.window[0].start, column - self.window[1].start
        height, width = self.mask.shape
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        row, column = row.clip(0, height - 1), column.clip(0, width - 1)
        inside &= self.mask[row, column]
        with np.errstate(invalid="ignore"):
            in_front = points[:, 2] < self.surface[row, column] - self.tolerance
            hidden = (points[:, 2] > depth + self.tolerance) & (depth > 0)
        return known & np.where(inside, in_front, ~hidden)


def upright_box(points: Coordinates, up: Coordinates, floor: float | None, seen: Seen, trim: float) -> Oriented:
    """points: (N, 3) of the visible surface in the camera's frame, N > 0. up: unit vector.

    floor: where it stands, in metres along up from the camera; None: nobody knows. trim: share of the points that
    are left outside on each side, as noise brought them there.
    """
    heights = points @ up
    low, high = np.quantile(heights, (trim, 1 - trim))
    if floor is not None:
        low, high = floor, max(high, floor)
    basis = _horizontal_axes(points, up)
    flat = points @ basis  # (N, 2): away from the camera, to its left or right
    behind = _hidden_side(points, flat, heights, basis, up, seen)
    centre, axis, sides = _rectangle(np.concatenate((flat, behind)), trim)
    x = basis @ axis
    rotation = np.stack((x, np.cross(up, x), up), 1)
    return Oriented(basis @ centre + up * (low + high) / 2, rotation, np.array([*sides, high - low]), True)


def principal_box(points: Coordinates) -> Oriented:
    """Along the principal axes of (N, 3) points, N > 0: x along the longest, z along the shortest and to the camera."""
    middle = mean_of(points)
    _, vectors = np.linalg.eigh((points - middle).T @ (points - middle))
    x, z = vectors[:, 2], vectors[:, 0]
    z = -z if z @ middle > 0 else z
    x = -x if x[0] < 0 else x
    rotation = np.stack((x, np.cross(z, x), z), 1)
    low, high = np.quantile((points - middle) @ rotation, (0.005, 0.995), axis=0)
    return Oriented(middle + rotation @ ((low + high) / 2), rotation, high - low, False)


def _horizontal_axes(points: Coordinates, up: Coordinates) -> Coordinates:
    """(3, 2): horizontally from the camera to the middle of the object's outline, and across."""
    away = mean_of(points)
    away = away - up * (away @ up)
    length = np.linalg.norm(away)
    if length < 1e-6:  # straight below
        away = np.eye(3)[int(np.abs(up).argmin())]
        away = away - up * (away @ up)
        length = np.linalg.norm(away)
    away = away / length
    left = np.cross(up, away)
    angles = np.arctan2(points @ left, points @ away)
    turn = float(np.quantile(angles, (0.002, 0.998)).mean())
    away = np.cos(turn) * away + np.sin(turn) * left
    return np.stack((away, np.cross(up, away)), 1)


def _hidden_side(
    points: Coordinates, flat: Coordinates, heights: Coordinates, basis: Coordinates, up: Coordinates, seen: Seen
) -> Coordinates:
    """(M, 2): where the visible points come to lie on the far side; none where the near side shows it all."""
    none = np.zeros((0, 2))
    (near, left), (far, right) = np.quantile(flat, (0.001, 0.999), axis=0)
    width, length = float(right - left), float(far - near)
    if near <= width or width <= 0:
        return none  # from above all of the outline is visible
    sample = np.linspace(0, len(points) - 1, min(_SAMPLE, len(points))).astype(int)
    axes = np.linspace((near + far) / 2, near + MAX_DEPTH * max(width, length) / 2, _AXES)
    turned = np.empty((_AXES, len(sample), 3))
    turned[:] = np.outer(heights[sample], up) - np.outer(flat[sample, 1], basis[:, 1])
    turned += (2 * axes[:, None] - flat[sample, 0])[..., None] * basis[:, 0]
    wrong = seen.contradicts(turned.reshape(-1, 3)).reshape(_AXES, -1).mean(1)
    if wrong.min() > MAX_SEEN:
        return none  # it does not look the same after half a turn
    possible = np.flatnonzero(wrong <= wrong.min() + _ALIKE)
    first, last = int(possible[0]), int(possible[-1])
    axis = (axes[first] + axes[last]) / 2
    if last == _AXES - 1:  # hidden by itself however deep it is: as little as explains what is seen
        axis = axes[first]
        usual = min(width, float(np.ptp(heights)))
        if 2 * (axis - near) < usual / 3:  # a bare front explains itself
            axis = min(near + usual / 2, axes[last])
    if axis - axes[0] < max(_LEAST * width, _LEAST_METRES):
        return none
    return np.stack((2 * axis - flat[:, 0], -flat[:, 1]), 1)


def _rectangle(flat: Coordinates, trim: float) -> tuple[Coordinates, Coordinates, tuple[float, float]]:
    """The smallest rectangle round (N, 2) points: centre, the longer side's direction, sides."""
    middle = mean_of(flat)
    some = (flat[:: 1 + len(flat) // 4000] - middle) * 1000
    corners = cv2.boxPoints(cv2.minAreaRect(some.astype(np.float32))).astype(np.float64)
    edge = max(corners[1] - corners[0], corners[2] - corners[1], key=lambda e: float(np.linalg.norm(e)))
    length = float(np.linalg.norm(edge))
    x = edge / length if length > 1e-6 else np.array([0.0, 1.0])
    axes = np.array([x, [-x[1], x[0]]])
    low, high = np.quantile((flat - middle) @ axes.T, (trim, 1 - trim), axis=0)
    sides = high - low
    if sides[1] > sides[0]:  # without the outermost points the other one is
        axes, low, high, sides = axes[::-1], low[::-1], high[::-1], sides[::-1]
    centre = middle + (low + high) / 2 @ axes
    x = -axes[0] if axes[0, 1] < 0 else axes[0]
    return centre, x, (float(sides[0]), float(sides[1]))
