"""Drawn pictures whose answers are known: balls and cubes on a table, lit from the left; for trying a reasoner.

So plain that every checkpoint which sees should answer them, the embedded one too.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.contract import Box, Image

_COLOURS = {
    "red": (200, 30, 30),
    "green": (40, 150, 50),
    "blue": (40, 70, 200),
    "yellow": (235, 200, 40),
    "orange": (240, 130, 30),
    "white": (235, 235, 235),
}
_TABLE, _FLOOR = (168, 136, 100), (96, 100, 110)
_HORIZON = 0.22  # of the side


@dataclass(frozen=True)
class KnownPicture:
    """image: (side, side, 3). box: of what the instruction asks for, in pixels, exclusive at its far edges."""

    instruction: str
    image: Image
    box: Box


@dataclass(frozen=True)
class _Solid:
    """x, y: its middle, size: its width, as shares of the picture's side."""

    colour: str
    kind: str
    x: float
    y: float
    size: float


# The first of each is asked for. They lie so that boxes which are swapped, mirrored, scaled or shifted miss them.
_SCENES: tuple[tuple[_Solid, ...], ...] = (
    (_Solid("red", "cube", 0.26, 0.68, 0.19), _Solid("blue", "ball", 0.70, 0.45, 0.18)),
    (_Solid("blue", "ball", 0.80, 0.58, 0.22), _Solid("red", "ball", 0.30, 0.42, 0.18)),
    (_Solid("yellow", "cube", 0.68, 0.40, 0.17), _Solid("green", "ball", 0.24, 0.62, 0.18)),
    (_Solid("green", "ball", 0.20, 0.40, 0.17), _Solid("orange", "cube", 0.58, 0.72, 0.20)),
    (_Solid("orange", "ball", 0.60, 0.80, 0.22), _Solid("blue", "cube", 0.26, 0.50, 0.18)),
    (_Solid("white", "ball", 0.62, 0.34, 0.16), _Solid("green", "cube", 0.30, 0.66, 0.20)),
)


def draw_known_pictures(side: int) -> list[KnownPicture]:
    """Six squares of side x side pixels, the same ones each time."""
    return [_draw(scene, side) for scene in _SCENES]


def _draw(solids: tuple[_Solid, ...], side: int) -> KnownPicture:
    image = np.empty((side, side, 3), np.uint8)
    edge = round(_HORIZON * side)
    image[:edge] = _FLOOR
    nearness = np.linspace(0.85, 1.08, side - edge)[:, None, None]
    image[edge:] = (np.array(_TABLE) * nearness).clip(0, 255)
    for solid in solids:
        _draw_shadow(image, solid)
    boxes = [_PAINTERS[solid.kind](image, solid) for solid in solids]
    return KnownPicture(f"the {solids[0].colour} {solids[0].kind}", image, boxes[0])


def _draw_shadow(image: Image, solid: _Solid) -> None:
    u, v = _offsets(image, solid)
    inside = ((u - 0.25) / 1.0) ** 2 + ((v - 0.8) / 0.3) ** 2 <= 1
    image[inside] = (image[inside] * 0.6).astype(np.uint8)


def _draw_ball(image: Image, solid: _Solid) -> Box:
    u, v = _offsets(image, solid)
    inside = u * u + v * v <= 1
    depth = np.sqrt((1 - u * u - v * v).clip(0))
    light = 0.45 + 0.6 * (-0.45 * u - 0.6 * v + 0.66 * depth).clip(0, 1)
    image[inside] = (np.array(_COLOURS[solid.colour]) * light[..., None]).clip(0, 255)[inside]
    return _box_of(inside)


def _draw_cube(image: Image, solid: _Solid) -> Box:
    """An edge towards the viewer: the top, the left side in the light, the right one in the dark."""
    back, front, left, right = (0.0, -1.0), (0.0, -0.1), (-1.0, -0.55), (1.0, -0.55)
    foot, left_foot, right_foot = (0.0, 1.0), (-1.0, 0.55), (1.0, 0.55)
    faces = (
        ((back, right, front, left), 1.05),
        ((left, front, foot, left_foot), 0.8),
        ((front, right, right_foot, foot), 0.55),
    )
    side = len(image)
    whole = np.zeros((side, side), bool)
    for corners, light in faces:
        mask = np.zeros((side, side), np.uint8)
        places = np.array((solid.x, solid.y)) * side + np.array(corners) * solid.size * side / 2
        cv2.fillConvexPoly(mask, places.round().astype(np.int32), 1)
        image[mask > 0] = (np.array(_COLOURS[solid.colour]) * light).clip(0, 255)
        whole |= mask > 0
    return _box_of(whole)


_PAINTERS = {"ball": _draw_ball, "cube": _draw_cube}


def _offsets(image: Image, solid: _Solid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each pixel from the solid's middle, in halves of its width."""
    side = len(image)
    y, x = np.mgrid[:side, :side] + 0.5
    half = solid.size * side / 2
    return (x - solid.x * side) / half, (y - solid.y * side) / half


def _box_of(inside: NDArray[np.bool_]) -> Box:
    ys, xs = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)
