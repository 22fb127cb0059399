"""What is counted: boxes, errors, causes of failure, intervals. NumPy and OpenCV alone."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class UprightBox:
    """center: (3,), metres, z up. size: along its own x, y and z. yaw: of its x axis in the world, radians."""

    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: float


def upright_box(points: NDArray[np.float64]) -> UprightBox:
    """The smallest upright box around points (N, 3)."""
    (x, y), (width, length), angle = cv2.minAreaRect(points[:, :2].astype(np.float32))
    low, high = points[:, 2].min(), points[:, 2].max()
    return UprightBox(np.array([x, y, (low + high) / 2]), np.array([width, length, high - low]), float(np.radians(angle)))
