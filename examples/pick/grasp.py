"""A top-down grasp from an upright box, and the motions that carry it out. Nothing here knows the simulator's truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pick.robot import FINGER, OPENING, PALM, SPEED, TRAVEL, Arm, Joints, Robot
from pick.score import UprightBox

CLEARANCE = 0.02  # between a finger and the box while it goes down
LOWEST = 0.008  # of the fingertips above the table
BELOW = 0.015  # the pads' middle is that much above the fingertips
IN_THE_WAY = 12  # points of other things where fingers or palm would be
LIFT = 0.15
HOLD = 1.0  # seconds


@dataclass(frozen=True)
class Grasp:
    """position: of the point between the fingertips. yaw: of the direction in which the fingers close. opening: before
    they do. blocked: measured points of other things where fingers or palm will be."""

    position: NDArray[np.float64]
    yaw: float
    opening: float
    blocked: int


def plan_grasp(box: UprightBox, others: NDArray[np.float64]) -> Grasp | None:
    """Across the box's shorter side that fits and is free, at the height of its middle; None if neither side fits.

    others: (N, 3), what the camera sees besides the object and the table.
    """
    top = box.center[2] + box.size[2] / 2
    z = max(LOWEST, box.center[2] - BELOW, top - FINGER[2] + 0.01)
    position = np.array([box.center[0], box.center[1], z])
    found = []
    for side in (0, 1):
        width = float(box.size[side])
        if width + 0.01 > OPENING:
            continue
        yaw, opening = box.yaw + side * np.pi / 2, min(width + 2 * CLEARANCE, OPENING)
        found.append(Grasp(position, yaw, opening, count_in_the_way(position, yaw, opening, others)))
    return min(found, key=lambda g: (g.blocked > IN_THE_WAY, g.opening), default=None)


def count_in_the_way(
    position: NDArray[np.float64], yaw: float, opening: float, others: NDArray[np.float64], margin: float = 0.003
) -> int:
    """How many points lie where the open gripper will be at a grasp."""
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    across, along = turn @ (others[:, :2] - position[:2]).T
    height = others[:, 2] - position[2]
    beside = np.abs(np.abs(across) - opening / 2 - FINGER[0] / 2) < FINGER[0] / 2 + margin
    fingers = beside & (np.abs(along) < FINGER[1] / 2 + margin) & (height > 0)
    inside = (np.abs(across) < PALM[0] / 2 + margin) & (np.abs(along) < PALM[1] / 2 + margin)
    return int(np.count_nonzero(fingers | (inside & (height > FINGER[2]))))


def tool_pose(position: NDArray[np.float64], yaw: float) -> NDArray[np.float64]:
    """World from tool, (4, 4): z down, x where the fingers close."""
    pose = np.eye(4)
    pose[:3, 0] = np.cos(yaw), np.sin(yaw), 0
    pose[:3, 1] = np.sin(yaw), -np.cos(yaw), 0
    pose[:3, 2] = 0, 0, -1
    pose[:3, 3] = position
    return pose


@dataclass(frozen=True)
class Path:
    """Joints above the object, down to it, and up with it."""

    above: Joints
    down: list[Joints]
    up: list[Joints]


def plan_path(arm: Arm, grasp: Grasp) -> Path | None:
    """None where the arm does not reach."""
    x, y, z = grasp.position
    over = max(TRAVEL, z + LIFT)
    above = arm.reach(tool_pose(np.array([x, y, TRAVEL]), grasp.yaw))
    if above is None:
        return None
    # The fingers may be changed over: what follows continues the posture that was found.
    turned = arm.frames(above)[-1][:3, :3]

    def line(start: Joints, first: float, last: float) -> list[Joints] | None:
        joints, path = start, []
        for height in np.linspace(first, last, max(2, round(abs(last - first) / 0.02) + 1))[1:]:
            goal = np.eye(4)
            goal[:3, :3], goal[:3, 3] = turned, (x, y, height)
            solved = arm.solve(goal, joints)
            if solved is None:
                return None
            joints = solved
            path.append(joints)
        return path

    down = line(above, TRAVEL, z)
    up = line(down[-1], z, over) if down else None
    return Path(above, down, up) if down and up else None


def pick(robot: Robot, path: Path, grasp: Grasp, held: Callable[[], bool]) -> bool:
    """Goes there, closes, lifts and holds. `held` judges after each step of the last second."""
    robot.open(OPENING)
    robot.move(path.above)
    robot.open(grasp.opening)
    robot.wait(0.3)
    robot.follow(path.down, 2 * (TRAVEL - grasp.position[2]) / SPEED + 0.3)
    robot.wait(0.1)
    robot.close()
    robot.follow(path.up, 1.2)
    robot.wait(0.3)
    good: list[bool] = []
    filming = robot.tick

    def judge() -> None:
        good.append(held())
        filming()

    robot.tick = judge
    robot.wait(HOLD)
    robot.tick = filming
    return all(good)
