#!/usr/bin/env python3
r"""Tells MoveIt what was found: each object of an answer with 3D becomes a box, those of the answer before go.

    python3 to_planning_scene.py --ros-args -r result:=/segzero/result     (beside move_group and a node `segzero`)

Objects are named segzero_1, segzero_2, ... as they are numbered in the answer. An answer without 3D, a failure too,
leaves none. MoveIt places a box by the newest transform of its frame, not by its stamp: set the node's `target_frame`
to a frame that does not move, such as base_link. Stop this while the gripper holds one of them, since the next answer
would put it back. Needs moveit_msgs (ros-$ROS_DISTRO-moveit-msgs) and segzero_msgs.

**The octomap.** A camera's whole depth makes voxels of the thing that is to be grasped, and no plan reaches it.
~/background/depth/image_rect is the depth of the answer's frame without the objects and a rim around them. It comes
once for each answer, and the octomap stands as it was then. MoveIt's PointCloudOctomapUpdater leaves out NaN:

    ros2 run depth_image_proc point_cloud_xyz_node --ros-args -r image_rect:=/segzero/background/depth/image_rect \
        -r camera_info:=/segzero/background/depth/camera_info -r points:=/segzero/background/points

    # sensors_3d.yaml
    sensors: [background]
    background:
      sensor_plugin: occupancy_map_monitor/PointCloudOctomapUpdater
      point_cloud_topic: /segzero/background/points
      max_range: 2.0
      point_subsample: 1
      padding_offset: 0.02
      padding_scale: 1.0
      max_update_rate: 10.0
      filtered_cloud_topic: background_filtered

DepthImageOctomapUpdater takes the image itself (image_topic: /segzero/background/depth/image_rect); its filter runs on
a display's OpenGL, and what it makes of NaN was not tried. Nothing looks through a hole, so voxels of an earlier look
stay where the object is now: call /clear_octomap before a new question.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from segzero_msgs.msg import Segmentation

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
THIN = 0.001  # metres: a box without a thickness is no shape


def name_of(instance: Any) -> str:
    return f"segzero_{instance.index}"


def boxes(answer: Segmentation, collision_object: type, primitive: type) -> list[Any]:
    """moveit_msgs/CollisionObject to add, one for each object that is known in space."""
    out = []
    for instance in answer.instances:
        if not instance.has_3d:
            continue
        size = instance.box3d.size
        box = primitive(type=primitive.BOX, dimensions=[max(float(v), THIN) for v in (size.x, size.y, size.z)])  # type: ignore[attr-defined]
        thing = collision_object(header=instance.header_3d, id=name_of(instance), pose=instance.box3d.center)
        thing.primitives = [box]
        thing.primitive_poses = [type(thing.pose)()]  # where the object is
        thing.primitive_poses[0].orientation.w = 1.0
        thing.operation = collision_object.ADD  # type: ignore[attr-defined]
        out.append(thing)
    return out


REFUSALS = (
    Segmentation.STATUS_BUSY,
    Segmentation.STATUS_NOT_READY,
    Segmentation.STATUS_BAD_INSTRUCTION,
    Segmentation.STATUS_BAD_REQUEST,
)


def changes(answer: Segmentation, before: set[str], collision_object: type, primitive: type) -> list[Any]:
    """Those to remove, of the names that were added `before`, and those to add."""
    added = boxes(answer, collision_object, primitive)
    gone = sorted(before - {thing.id for thing in added})
    remove = collision_object.REMOVE  # type: ignore[attr-defined]
    return [collision_object(id=name, operation=remove) for name in gone] + added


class Scene(Node):
    def __init__(self) -> None:
        super().__init__("to_planning_scene")
        from moveit_msgs.msg import CollisionObject, PlanningScene
        from moveit_msgs.srv import ApplyPlanningScene
        from shape_msgs.msg import SolidPrimitive

        self.kinds, self.scene, self.request = (
            (CollisionObject, SolidPrimitive),
            PlanningScene,
            ApplyPlanningScene.Request,
        )
        self.names: set[str] = set()
        self.apply = self.create_client(ApplyPlanningScene, "apply_planning_scene")
        self.tell = self.create_publisher(PlanningScene, "planning_scene", 10)
        self.create_subscription(Segmentation, "result", self.on_answer, LATCHED)

    def on_answer(self, answer: Segmentation) -> None:
        if answer.status in REFUSALS:  # nothing was looked at: what is in the scene stays
            return
        things = changes(answer, self.names, *self.kinds)
        self.names = {thing.id for thing in things if thing.operation == self.kinds[0].ADD}
        scene = self.scene(is_diff=True)
        scene.robot_state.is_diff = True
        scene.world.collision_objects = things
        if self.apply.service_is_ready():  # it says whether it worked; the topic does not
            self.apply.call_async(self.request(scene=scene)).add_done_callback(self.on_applied)
        else:
            self.tell.publish(scene)
        self.get_logger().info(f"{answer.instruction!r}: {sorted(self.names) or 'nothing with 3D'}")

    def on_applied(self, done: Any) -> None:
        if not done.result().success:
            self.get_logger().error("MoveIt did not take the objects; its own log says why")


def main() -> None:
    rclpy.init()
    try:
        node = Scene()
    except ImportError as error:
        sys.exit(f"to_planning_scene.py needs moveit_msgs ({error}): sudo apt install ros-$ROS_DISTRO-moveit-msgs")
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main()
