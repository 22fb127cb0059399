"""Transforms by TF2, where tf2_ros is installed; without it, or without the transform, a LiftError says so."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.time import Time

from segzero_ros.core.contract import Cancel
from segzero_ros.core.space import LiftError, Status3D, Transform
from segzero_ros.core.text import one_line

KEPT = 30.0  # seconds of transforms: an answer comes long after its image
POLL = 0.01  # seconds between two looks for a transform that may still come
UNIT = 0.01  # how far from 1 the length of a quaternion may be, as in tf2


class Transforms:
    """Listens to /tf and /tf_static on the node, whose executor fills the buffer. Thread-safe."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._buffer: Any = None
        self._handles: tuple[Any, ...] = ()
        self.missing = ""  # why there are none at all
        try:
            tf2_ros = importlib.import_module("tf2_ros")
        except Exception as error:
            self.missing = (
                f"tf2_ros cannot be imported ({one_line(error, 100)}): apt install ros-$ROS_DISTRO-tf2-ros-py"
            )
            return
        # Without the node, to which the buffer would add a service; so a clock that is set back is followed here.
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=KEPT))
        back = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True)
        jumps = node.get_clock().create_jump_callback(back, post_callback=lambda _: self.forget())
        self._handles = (tf2_ros.TransformListener(self._buffer, node, spin_thread=False), jumps)

    def close(self) -> None:
        handles, self._handles = self._handles, ()
        if handles:
            listener, jumps = handles
            listener.unregister()
            jumps.unregister()

    def forget(self) -> None:
        """Drops what moves: after a clock was set back tf2 takes nothing that is older than what it has."""
        if self._buffer is not None:
            self._buffer.clear()

    def find(self, target: str, source: str, stamp: int, wait: float, cancel: Cancel) -> Transform | None:
        """From one frame to another at a time (nanoseconds), None where they are one. Waits up to `wait` seconds.

        Not for the executor's thread, which fills the buffer. Raises LiftError(NO_TRANSFORM).
        """
        if source == target:
            return None
        way = f"from {source!r} to {target!r}"
        if not source or not target:
            raise _none(f"{way}: a frame_id is empty")
        if not stamp:
            raise _none(f"{way}: the stamp is zero, which TF2 takes for the newest")
        if self.missing:
            raise _none(f"{way}: {self.missing}")
        end = time.monotonic() + wait
        while True:
            try:  # without a timeout: tf2_ros would wait by itself, and hear no cancel
                found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp))
                break
            except Exception as error:
                left = end - time.monotonic()
                if left <= 0 or cancel.is_set():
                    raise _none(f"{way} within {max(0.0, wait):.2g} s: {one_line(error)}") from error
            cancel.wait(min(left, POLL))
        transform = transform_of(found.transform)
        if transform is None:
            raise _none(f"{way}: TF2 has {one_line(found.transform, 200)}, which is no rigid motion")
        return transform


def transform_of(message: Any) -> Transform | None:
    """geometry_msgs/Transform as a matrix; None where a number is not finite or the quaternion is no rotation."""
    t, q = message.translation, message.rotation
    translation, rotation = np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w])
    length = np.linalg.norm(rotation)
    if not np.isfinite(translation).all() or not abs(length - 1) <= UNIT:
        return None
    x, y, z, w = rotation / length
    matrix = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    return Transform(matrix, translation)


def _none(sentence: str) -> LiftError:
    return LiftError(Status3D.NO_TRANSFORM, f"there is no transform {sentence}")
