#!/usr/bin/env python3
"""How a planner reads answers: mask, image and camera joined by exact time; each object's area and centre ray.

    python3 consumer.py --ros-args -r __ns:=/     (beside a running node `segzero`)

Needs message_filters and cv_bridge, which `rosdep install` brings.
"""

from __future__ import annotations

import contextlib
import sys

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

try:
    import message_filters
    from cv_bridge import CvBridge
except ImportError as error:
    sys.exit(
        f"consumer.py needs message_filters and cv_bridge ({error}); get them with: rosdep install --from-paths src"
    )


class Consumer(Node):
    def __init__(self) -> None:
        super().__init__("consumer")
        self.bridge = CvBridge()
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        self.subscribers = [
            message_filters.Subscriber(self, kind, f"segzero/{name}", qos_profile=latched)
            for name, kind in (
                ("source_image", Image),
                ("mask", Image),
                ("label_mask", Image),
                ("camera_info", CameraInfo),
            )
        ]
        self.joined = message_filters.TimeSynchronizer(self.subscribers, 5)
        self.joined.registerCallback(self.on_answer)

    def on_answer(self, image: Image, mask: Image, labels: Image, info: CameraInfo) -> None:
        picture = self.bridge.imgmsg_to_cv2(image, "rgb8")
        inside = self.bridge.imgmsg_to_cv2(mask) > 0
        print(
            f"{inside.sum()} px of all objects, mean colour {picture[inside].mean(0).round() if inside.any() else None}"
        )
        pixels = self.bridge.imgmsg_to_cv2(labels)
        fx, fy, cx, cy = info.k[0], info.k[4], info.k[2], info.k[5]
        for index in np.unique(pixels[pixels > 0]):
            ys, xs = np.nonzero(pixels == index)
            u, v = xs.mean() + 0.5, ys.mean() + 0.5
            ray = np.array([(u - cx) / fx, (v - cy) / fy, 1.0]) if fx and fy else np.full(3, np.nan)
            ray /= np.linalg.norm(ray)
            print(f"object {index} in {image.header.frame_id}: {len(xs)} px, ray {np.round(ray, 4).tolist()}")


def main() -> None:
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Consumer())


if __name__ == "__main__":
    main()
