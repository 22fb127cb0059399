#!/usr/bin/env python3
"""Saves an answer as the arrays that grasp networks take, and prints their shapes.

    python3 to_anygrasp.py --out grasp.npz --ros-args -r __ns:=/segzero     (beside a running node `segzero`)

Somebody else asks, with `want_3d` (`ros2 action send_goal /segzero/ask ...`). These networks think in the camera's
optical frame (z away from it): leave the node's `target_frame` empty. None of them is needed here; what they are called
with, as far as public copies of their code show; none was run here:

    AnyGrasp           get_grasp(d["xyz"], d["colors"], lims=d["lims"].tolist(), apply_object_mask=True)
    Contact-GraspNet   predict_scene_grasps(session, d["xyz"], pc_segments={1: d["object_xyz"]}, local_regions=True)
                       or --np_path=grasp.npz (its loader reads xyz and xyz_color)
    GraspGen           the object's cloud d["object_xyz"] alone

    xyz         float32 (N, 3)  the scene, metres; pixels without depth are left out
    colors      float32 (N, 3)  RGB, 0 to 1
    xyz_color   uint8 (N, 3)    RGB
    object_mask bool (N,)       which of these points are the object; a mask of the image's pixels does not fit xyz
    lims        float32 (6,)    x_min, x_max, y_min, y_max, z_min, z_max of the object and MARGIN around it
    object_xyz  float32 (M, 3)  the object's own cloud: denser than the scene, without outliers
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2, PointField

MARGIN = 0.05  # metres
RELIABLE = ReliabilityPolicy.RELIABLE
KINDS = {PointField.FLOAT32: "f4", PointField.UINT32: "u4"}


def read(cloud: PointCloud2) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint32]]:
    """Points (N, 3), RGB (N, 3) and labels (N,) of a cloud of the node, without those that have no depth."""
    order = ">" if cloud.is_bigendian else "<"
    layout: Any = {
        "names": [field.name for field in cloud.fields],
        "formats": [order + KINDS[field.datatype] for field in cloud.fields],
        "offsets": [field.offset for field in cloud.fields],
        "itemsize": cloud.point_step,
    }
    points: Any = np.frombuffer(cloud.data, np.dtype(layout))
    xyz = np.stack([points[name] for name in "xyz"], 1).astype(np.float32)
    seen = np.isfinite(xyz).all(1)
    packed = np.ascontiguousarray(points["rgb"][seen]).view(order + "u4")
    colours = (packed[:, None] >> np.array([16, 8, 0], np.uint32) & 255).astype(np.uint8)
    return xyz[seen], colours, points["label"][seen].astype(np.uint32)


def arrays(scene: PointCloud2, objects: PointCloud2, index: int = 1) -> dict[str, NDArray[Any]]:
    """What the networks take of the object `index`. Raises ValueError where there is no such object in space."""
    xyz, colours, labels = read(scene)
    points, _, numbers = read(objects)
    thing = points[numbers == index]
    if not len(thing):
        raise ValueError(f"object {index} has no points; those that have are {np.unique(numbers).tolist()}")
    low, high = thing.min(0) - MARGIN, thing.max(0) + MARGIN
    return {
        "xyz": xyz,
        "colors": colours.astype(np.float32) / 255,
        "xyz_color": colours,
        "object_mask": labels == index,
        "lims": np.stack((low, high), 1).ravel(),
        "object_xyz": thing,
    }


class Saver(Node):
    def __init__(self, out: Path, index: int) -> None:
        super().__init__("to_anygrasp")
        self.out, self.index = out, index
        self.clouds: dict[str, PointCloud2] = {}
        latched = QoSProfile(depth=1, reliability=RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for name, qos in (("points", latched), ("scene_points", QoSProfile(depth=1, reliability=RELIABLE))):
            self.create_subscription(PointCloud2, name, partial(self.on_cloud, name), qos)

    def on_cloud(self, name: str, cloud: PointCloud2) -> None:
        self.clouds[name] = cloud
        if (
            len(self.clouds) < 2
            or len({(c.header.stamp.sec, c.header.stamp.nanosec) for c in self.clouds.values()}) > 1
        ):
            return  # not of one frame yet
        try:
            made = arrays(self.clouds["scene_points"], self.clouds["points"], self.index)
        except ValueError as error:
            print(error)
            return
        np.savez(self.out, **made)  # type: ignore[arg-type]
        print(f"{self.out}, in {cloud.header.frame_id}:")
        for key, value in made.items():
            print(f"  {key:12s}{value.dtype} {value.shape}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("grasp.npz"))
    parser.add_argument("--index", type=int, default=1, help="of the object in the answer")
    arguments = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv)[1:])
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Saver(arguments.out, arguments.index))


if __name__ == "__main__":
    main()
