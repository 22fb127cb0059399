"""A rendered RGB-D camera over the tabletop, and the noise of a real one. Metres, pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core import space
from training.data.tabletop.scene import FAR, NEAR, Camera, Light, take_picture

# Degrees across the picture: at 1:1 as in training; at 16:9 so that objects fill as much of the square that the model
# looks at (1.5 % each), and few are cut.
FOV, WIDE_FOV = (45.0, 55.0), (55.0, 65.0)


@dataclass(frozen=True)
class View:
    """rgb: uint8 (H, W, 3). depth: float32 (H, W), metres along the optical axis, NaN is a hole. bodies: int32 (H, W),
    PyBullet's id at each pixel, -1 for none. camera: as ROS has it. pose: world from optical frame, (4, 4)."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    bodies: NDArray[np.int32]
    camera: space.Camera
    pose: NDArray[np.float64]

    def mask(self, body: int) -> NDArray[np.bool_]:
        return np.asarray(self.bodies == body)


def random_camera(rng: np.random.Generator, width: int, height: int) -> Camera:
    """As in training: all around the table, from 35 to 65 degrees above it."""
    pitch = float(rng.uniform(-65, -35))
    distance, across = float(rng.uniform(0.85, 1.12)), float(rng.uniform(*(WIDE_FOV if width > height else FOV)))
    x, y = rng.uniform(-0.06, 0.06, 2)
    yaw, roll = float(rng.uniform(0, 360)), float(rng.uniform(-4, 4))
    fov = float(np.degrees(2 * np.arctan(np.tan(np.radians(across) / 2) * height / width)))
    return Camera((float(x), float(y), 0.03), distance, yaw, pitch, roll, fov)


def intrinsics(fov: float, width: int, height: int) -> space.Camera:
    """fov: vertical, degrees. OpenGL's image ends at pixels' edges, ROS counts from the first pixel's centre."""
    f = height / 2 / np.tan(np.radians(fov) / 2)
    return space.Camera(width, height, (float(f), float(f), width / 2 - 0.5, height / 2 - 0.5))


def render(camera: Camera, light: Light, width: int, height: int, client: int) -> View:
    rgb, buffer, bodies = take_picture(camera, light, width, height, client)
    z = buffer.astype(np.float64)
    depth = (FAR * NEAR / (FAR - (FAR - NEAR) * z)).astype(np.float32)
    depth[z >= 1] = np.nan  # nothing there
    seen = bodies.astype(np.int32)
    return View(rgb, depth, seen, intrinsics(camera.fov, width, height), camera.pose())


def with_noise(depth: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """As a poor camera measures: 1 % noise at each pixel, steps of 1 mm, holes where depth jumps."""
    noisy = np.round(depth * (1 + rng.normal(0, 0.01, depth.shape)), 3)
    known = np.nan_to_num(depth, nan=FAR)
    jump = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(known, axis=axis)) > 0.02
        before = [(0, 1) if a == axis else (0, 0) for a in (0, 1)]
        jump |= np.pad(step, before) | np.pad(step, [pair[::-1] for pair in before])
    for _ in range(3):  # holes of about 4 pixels on either side
        grown = np.pad(jump, 1)
        jump = grown[:-2, 1:-1] | grown[2:, 1:-1] | grown[1:-1, :-2] | grown[1:-1, 2:] | jump
    noisy[jump & (rng.random(depth.shape) < 0.9)] = np.nan
    return noisy.astype(np.float32)
