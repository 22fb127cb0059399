"""Where a gripper might go, from a box and the visible surface: by geometry alone, nothing asks what is in the way."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.boxes import Oriented
from segzero_ros.core.space import Hint, Pose, quaternion_of
from segzero_ros.core.surfaces import vector

Coordinates = NDArray[np.float64]

LONG = 1.3  # times the next side: below this no axis is the long one
MIN_TOP_SHARE = 0.4  # of what is seen from above
MIN_TOP_AREA = 1e-4  # square metres
_POINTS = 4000  # that are looked at
_CELL = 0.003  # metres, of the raster that areas are counted in
_LAYER = 0.002  # metres, half of the height in which a surface is flat


def grasp_hints(points: Coordinates, box: Oriented, eye: Coordinates, noise: float) -> tuple[Hint, ...]:
    """points: (N, 3) of the visible surface; eye: where the camera is; noise: of the depth, metres. All in one frame.

    Without an up only `long_axis` makes sense; without a flat top no `top_plane`; where no side is clearly the longest
    no `long_axis`.
    """
    hints = [_from_above(box), _on_top(points, box, noise)] if box.upright else []
    return tuple(h for h in (*hints, _across_long_axis(box, eye)) if h is not None)


def _from_above(box: Oriented) -> Hint:
    return _hint("centroid", box.centre, -box.rotation[:, 2], box.rotation[:, 1], box.size[1])


def _on_top(points: Coordinates, box: Oriented, noise: float) -> Hint | None:
    """The height at which the most of what is seen from above lies, and the rectangle of what lies there."""
    points = points[:: max(1, len(points) // _POINTS)]
    x, y, heights = ((points - box.centre) @ box.rotation).T
    if box.size[2] <= 0 or not len(points):
        return None
    layer = max(_LAYER, 0.5 * noise)
    level = np.floor((heights - heights.min()) / layer).astype(np.int64)
    cells = _cells(x, y)
    # Layers overlap by half, so that no surface is split between two.
    taken = np.unique((level << 42) | cells) >> 42
    both = np.bincount(taken)[:-1] + np.bincount(taken)[1:] if level.max() else np.bincount(taken)
    all_cells = len(np.unique(cells))
    # A wall seen from above is a line of cells in every layer; a surface fills one or two.
    lowest = int(both.argmax())
    there = (level == lowest) | (level == lowest + 1)
    cells_there = len(np.unique(cells[there]))
    if cells_there * _CELL**2 < MIN_TOP_AREA or cells_there < MIN_TOP_SHARE * all_cells:
        return None
    flat = np.stack((x[there], y[there]), 1)
    corners = cv2.boxPoints(cv2.minAreaRect((flat * 1000).astype(np.float32))).astype(np.float64) / 1000
    edges = corners[1] - corners[0], corners[2] - corners[1]
    shorter = min(edges, key=lambda e: float(np.linalg.norm(e)))
    width = float(np.linalg.norm(shorter))
    if width < 1e-6:
        return None
    middle = np.array([*corners.mean(0), np.median(heights[there])])
    closing = box.rotation[:, :2] @ (shorter / width)
    return _hint("top_plane", box.centre + box.rotation @ middle, -box.rotation[:, 2], closing, width)


def _across_long_axis(box: Oriented, eye: Coordinates) -> Hint | None:
    order = np.argsort(box.size)
    longest = int(order[2])
    if box.size[longest] <= 0 or box.size[longest] < LONG * box.size[order[1]]:
        return None
    others = [i for i in range(3) if i != longest]
    if box.upright and longest != 2:
        approach = -box.rotation[:, 2]
        closing = next(i for i in others if i != 2)
    else:
        along = (box.centre - eye) @ box.rotation
        into = max(others, key=lambda i: abs(float(along[i])))
        approach = box.rotation[:, into] * (1 if along[into] >= 0 else -1)
        closing = next(i for i in others if i != into)
    return _hint("long_axis", box.centre, approach, box.rotation[:, closing], box.size[closing])


def _cells(x: Coordinates, y: Coordinates) -> NDArray[np.int64]:
    column = np.floor((x - x.min()) / _CELL).astype(np.int64).clip(0, (1 << 20) - 1)
    row = np.floor((y - y.min()) / _CELL).astype(np.int64).clip(0, (1 << 20) - 1)
    return (row << 21) | column


def _hint(name: str, position: Coordinates, approach: Coordinates, closing: Coordinates, width: float) -> Hint:
    rotation = np.stack((closing, np.cross(approach, closing), approach), 1)
    return Hint(name, Pose(vector(position), quaternion_of(rotation)), float(width))
