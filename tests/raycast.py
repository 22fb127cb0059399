"""Things on a table as a depth camera sees them, ray by ray, with their true boxes. NumPy only.

World: metres, z up, the table's top at z = 0. Shapes are signed distance functions in their own frame, foot at the
origin; rays are followed step by step to the surface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from segzero_ros.core.camera import rays as camera_rays
from segzero_ros.core.contract import Instance
from segzero_ros.core.geometry import pack
from segzero_ros.core.space import Camera, Scene, Transform

Array = np.ndarray
Distance = Callable[[Array], Array]  # (N, 3) -> (N,)
CAMERA = Camera(1280, 720, (910.0, 910.0, 640.0, 360.0))


def block(size: Sequence[float], centre: Sequence[float] | None = None) -> Distance:
    half = np.array(size) / 2
    middle = np.array(centre) if centre is not None else np.array([0, 0, half[2]])

    def distance(p: Array) -> Array:
        q = np.abs(p - middle) - half
        return np.linalg.norm(q.clip(0), axis=1) + q.max(1).clip(max=0)

    return distance


def column(radius: float, low: float, high: float) -> Distance:
    def distance(p: Array) -> Array:
        q = np.stack((np.hypot(p[:, 0], p[:, 1]) - radius, np.abs(p[:, 2] - (low + high) / 2) - (high - low) / 2), 1)
        return np.linalg.norm(q.clip(0), axis=1) + q.max(1).clip(max=0)

    return distance


def ball(radius: float) -> Distance:
    return lambda p: np.linalg.norm(p - (0, 0, radius), axis=1) - radius


def lying(radius: float, length: float) -> Distance:
    """A cylinder along x."""
    standing = column(radius, -length / 2, length / 2)
    return lambda p: standing(np.stack((p[:, 1], p[:, 2] - radius, p[:, 0]), 1))


def cone(radius: float, height: float) -> Distance:
    slope = np.hypot(radius, height)

    def distance(p: Array) -> Array:
        side = (np.hypot(p[:, 0], p[:, 1]) * height + (p[:, 2] - height) * radius) / slope
        return np.maximum(side, -p[:, 2])

    return distance


def mug(radius: float, height: float) -> Distance:
    outer, inner = column(radius, 0, height), column(radius - 0.004, 0.005, height + 1)
    ring, thick = 0.3 * height, 0.005

    def distance(p: Array) -> Array:
        across = np.hypot(np.hypot(p[:, 0] - radius, p[:, 2] - height / 2) - ring, p[:, 1]) - thick
        handle = np.maximum(across, -(p[:, 0] - radius + 0.003))
        return np.minimum(np.maximum(outer(p), -inner(p)), handle)

    return distance


@dataclass(frozen=True)
class Thing:
    """size: of the true upright box along its own x, y, z. middle: of that box in the shape's own frame."""

    name: str
    distance: Distance
    size: tuple[float, float, float]
    at: tuple[float, float] = (0.0, 0.0)
    yaw: float = 0.0
    middle: tuple[float, float] = (0.0, 0.0)
    lift: float = 0.0  # of its foot above the table

    @property
    def turn(self) -> Array:
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])

    @property
    def centre(self) -> Array:
        foot = np.array([*self.at, self.lift])
        return self.turn @ np.array([*self.middle, self.size[2] / 2]) + foot


@dataclass(frozen=True)
class View:
    """depth: metres, exact. labels: 0 table, 1, 2, ... the things in their order; -1 nothing."""

    scene: Scene
    labels: Array = field(repr=False)
    image: Array = field(repr=False)

    def instance(self, label: int) -> Instance:
        return instance_of(self.labels == label, label)


def instance_of(mask: Array, index: int = 1) -> Instance:
    packed = pack(mask)
    x1, y1, x2, y2 = map(float, packed.box)
    return Instance(index, "", 1.0, packed, (x1, y1, x2, y2), None, (), packed.area)


def camera_pose(elevation: float, azimuth: float, distance: float, target: Sequence[float] = (0, 0, 0)) -> Transform:
    """Degrees; from the camera's optical frame to the world, looking at the target."""
    e, a = np.radians(elevation), np.radians(azimuth)
    forward = -np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    rotation = np.stack((right, np.cross(forward, right), forward), 1)
    return Transform(rotation, np.array(target) - distance * forward)


def look(things: Sequence[Thing], pose: Transform, camera: Camera = CAMERA, *, table: bool = True) -> View:
    xs, ys = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = camera_rays(camera, np.stack((xs, ys), -1).reshape(-1, 2)) @ pose.rotation.T
    origin = pose.translation
    with np.errstate(divide="ignore"):
        depth = np.where(rays[:, 2] < 0, -origin[2] / rays[:, 2], np.inf) if table else np.full(len(rays), np.inf)
    depth[depth > 5] = np.inf
    labels = np.where(np.isfinite(depth), 0, -1)
    for label, thing in enumerate(things, 1):
        own, start = rays @ thing.turn, (origin - (*thing.at, thing.lift)) @ thing.turn
        middle = np.array([*thing.middle, thing.size[2] / 2])
        reach = np.linalg.norm(thing.size) / 2 + 0.01
        along = (own @ (middle - start)) / (own * own).sum(1)
        near = np.flatnonzero(np.linalg.norm(start + along[:, None] * own - middle, axis=1) < reach)
        directions = own[near]
        lengths = np.linalg.norm(directions, axis=1)
        z, end = along[near] - reach / lengths, along[near] + reach / lengths
        alive = np.arange(len(near))
        for _ in range(200):
            step = thing.distance(start + z[alive, None] * directions[alive])
            z[alive] += step / lengths[alive]
            alive = alive[(step > 1e-5) & (z[alive] < end[alive])]
            if not len(alive):
                break
        z[alive] = np.inf
        hit = (z < end) & (z < depth[near])
        depth[near[hit]], labels[near[hit]] = z[hit], label
    shape = (camera.height, camera.width)
    depth[~np.isfinite(depth)] = np.nan
    image = np.zeros((*shape, 3), np.uint8)
    image[..., 0] = labels.reshape(shape).clip(0) * 20 + 50
    return View(Scene(depth.reshape(shape).astype(np.float32), camera, "world", pose), labels.reshape(shape), image)


def spoil(depth: Array, rng: np.random.Generator, *, noise: float = 0.01) -> Array:
    """Relative noise, millimetre steps, holes where depth jumps and one in fifty elsewhere."""
    filled = np.nan_to_num(depth, nan=10.0)
    jump = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(filled, axis=axis)) > 0.02
        first = [slice(None)] * 2
        first[axis] = slice(0, -1)
        second = [slice(None)] * 2
        second[axis] = slice(1, None)
        jump[tuple(first)] |= step
        jump[tuple(second)] |= step
    spoilt = np.round(depth * (1 + noise * rng.standard_normal(depth.shape)), 3)
    spoilt[jump | (rng.random(depth.shape) < 0.02)] = np.nan
    return spoilt.astype(np.float32)
