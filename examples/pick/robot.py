"""KUKA's iiwa 7 above the table, with a parallel gripper that opens 200 mm: the objects are up to 150 mm wide.

The arm hangs head down over the table's middle, as in many a picking cell: from a base beside the table its elbow
could not fold for the near objects and not reach the far ones. The fingers are coupled and limited in force, and hold
by contact and friction alone. Metres, radians, newtons; the tool point lies between the fingertips, z the approach, x
the direction in which the fingers close.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pybullet as p
import pybullet_data
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pick.world import STEP

MOUNT = 1.33  # height of the base; its axis is the table's middle
OPENING = 0.20  # between the fingers
FINGER = (0.012, 0.03, 0.13)  # thick, wide, long
PALM = (OPENING + 2 * FINGER[0], 0.06, 0.05)
FLANGE = 0.045  # from the last joint
TOOL = FLANGE + PALM[2] + FINGER[2]
GRIP = 40.0  # at each finger
PAD_FRICTION = 1.2
SPEED = 0.5  # of the tool
JOINT_SPEED = 1.5
TRAVEL = 0.22  # height of the tool point while it moves over the table

Joints = NDArray[np.float64]


class Arm:
    """The chain of seven joints in NumPy: where the tool is, and which joints bring it somewhere."""

    def __init__(self, urdf: Path) -> None:
        joints = [j for j in ElementTree.parse(urdf).getroot().iter("joint") if j.get("type") == "revolute"]
        self.fixed = []
        for joint in joints:
            origin = joint.find("origin")
            assert origin is not None
            xyz = [float(v) for v in str(origin.get("xyz")).split()]
            rpy = [float(v) for v in str(origin.get("rpy")).split()]
            self.fixed.append(_transform(xyz, Rotation.from_euler("xyz", rpy).as_matrix()))
        limits = [joint.find("limit") for joint in joints]
        self.low = np.array([float(str(limit.get("lower"))) for limit in limits if limit is not None]) + 0.02
        self.high = np.array([float(str(limit.get("upper"))) for limit in limits if limit is not None]) - 0.02
        self.base = _transform([0, 0, MOUNT], np.diag([1.0, -1.0, -1.0]))

    def frames(self, joints: Joints) -> NDArray[np.float64]:
        """Each joint's frame in the world, and the tool's: (8, 4, 4)."""
        frames, at = [], self.base
        for fixed, angle in zip(self.fixed, joints, strict=True):
            turn = np.eye(4)
            turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            at = at @ fixed @ turn
            frames.append(at)
        return np.array([*frames, at @ _transform([0, 0, TOOL], np.eye(3))])

    def solve(self, goal: NDArray[np.float64], start: Joints, rounds: int = 200) -> Joints | None:
        """Joints within their limits that bring the tool to `goal` (4, 4) within 1 mm and 0.5 degrees, or None."""
        joints = start.copy()
        for _ in range(rounds):
            frames = self.frames(joints)
            tool = frames[-1]
            shift = goal[:3, 3] - tool[:3, 3]
            turn = Rotation.from_matrix(goal[:3, :3] @ tool[:3, :3].T).as_rotvec()
            if np.linalg.norm(shift) < 1e-3 and np.linalg.norm(turn) < np.radians(0.5):
                return joints
            axes = frames[:7, :3, 2]
            jacobian = np.concatenate([np.cross(axes, tool[:3, 3] - frames[:7, :3, 3]), axes], 1).T
            error = np.concatenate([np.clip(shift, -0.1, 0.1), np.clip(turn, -0.5, 0.5)])
            damped = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-4 * np.eye(6))
            # What the tool does not need keeps the joints near the middle of their range.
            spare = (np.eye(7) - damped @ jacobian) @ (-0.05 * joints)
            joints = np.clip(joints + damped @ error + spare, self.low, self.high)
        return None

    def reach(self, goal: NDArray[np.float64]) -> Joints | None:
        """As `solve`, from several postures; also with the fingers changed over, which is the same grasp."""
        around = np.arctan2(-goal[1, 3], goal[0, 3])  # the base hangs head down
        for fold in (1.4, 2.0):
            for wrist in (-1.5, 0.0, 1.5):
                start = np.array([around, fold / 3, 0, -fold, 0, -2 * fold / 3, wrist])
                for flip in (np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0])):
                    joints = self.solve(goal @ flip, start)
                    if joints is not None:
                        return joints
        return None


class Robot:
    """The arm's body in a physics client. `tick` is called after each step of the simulation."""

    def __init__(self, client: int, arm: Arm, urdf: Path) -> None:
        self.client, self.arm = client, arm
        self.tick: Callable[[], None] = lambda: None
        turn = p.getQuaternionFromEuler((np.pi, 0, 0))
        self.body = p.loadURDF(str(urdf), (0, 0, MOUNT), turn, useFixedBase=True, physicsClientId=client)
        count = p.getNumJoints(self.body, physicsClientId=client)
        info = [p.getJointInfo(self.body, n, physicsClientId=client) for n in range(count)]
        self.joints = [i[0] for i in info if i[2] == p.JOINT_REVOLUTE]
        self.fingers = [i[0] for i in info if i[2] == p.JOINT_PRISMATIC]
        for link in range(-1, count):
            grey = 0.3 if link > self.joints[-1] else 0.75
            p.changeVisualShape(self.body, link, rgbaColor=(grey, grey, grey, 1), physicsClientId=client)
        for finger in self.fingers:
            p.changeDynamics(
                self.body,
                finger,
                lateralFriction=PAD_FRICTION,
                spinningFriction=0.005,
                jointDamping=0,
                physicsClientId=client,
            )
        gear = p.createConstraint(
            self.body,
            self.fingers[0],
            self.body,
            self.fingers[1],
            p.JOINT_GEAR,
            (1, 0, 0),
            (0, 0, 0),
            (0, 0, 0),
            physicsClientId=client,
        )
        p.changeConstraint(gear, gearRatio=-1, erp=0.3, maxForce=200, physicsClientId=client)

    def place(self, joints: Joints, opening: float = OPENING) -> None:
        """Puts the robot there at once: before a trial, never within one."""
        for joint, angle in zip(self.joints, joints, strict=True):
            p.resetJointState(self.body, joint, angle, physicsClientId=self.client)
        for finger in self.fingers:
            p.resetJointState(self.body, finger, opening / 2, physicsClientId=self.client)
        self._hold(joints)
        self.open(opening)

    def read(self) -> Joints:
        return np.array([s[0] for s in p.getJointStates(self.body, self.joints, physicsClientId=self.client)])

    def opening(self) -> float:
        return sum(s[0] for s in p.getJointStates(self.body, self.fingers, physicsClientId=self.client))

    def move(self, joints: Joints, seconds: float = 0.0) -> None:
        """In a straight line in joint space, slow at both ends."""
        start = self.read()
        seconds = max(seconds, float(np.abs(joints - start).max()) / JOINT_SPEED, 0.1)
        steps = round(seconds / STEP)
        for n in range(1, steps + 1):
            share = n / steps
            self._hold(start + (joints - start) * share * share * (3 - 2 * share))
            self._step()

    def follow(self, path: Sequence[Joints], seconds: float) -> None:
        """Through joints close to one another, slow at both ends of the whole."""
        steps, places = round(seconds / STEP), np.array([self.read(), *path])
        for n in range(1, steps + 1):
            share = n / steps
            at = share * share * (3 - 2 * share) * (len(places) - 1)
            first = min(int(at), len(places) - 2)
            self._hold(places[first] + (places[first + 1] - places[first]) * (at - first))
            self._step()

    def open(self, opening: float) -> None:
        """Sets the fingers' goal; steps of the simulation bring them there."""
        for finger in self.fingers:
            p.setJointMotorControl2(
                self.body,
                finger,
                p.POSITION_CONTROL,
                targetPosition=opening / 2,
                force=GRIP,
                maxVelocity=0.2,
                physicsClientId=self.client,
            )

    def close(self, seconds: float = 1.0) -> None:
        """Until the fingers have pressed for a while, at most for `seconds` and the way."""
        for finger in self.fingers:
            p.setJointMotorControl2(
                self.body,
                finger,
                p.VELOCITY_CONTROL,
                targetVelocity=-0.08,
                force=GRIP,
                physicsClientId=self.client,
            )
        self.wait(seconds + self.opening() / 2 / 0.08)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            self._step()

    def touches(self, body: int) -> bool:
        """Whether both fingers touch a body."""
        return all(
            p.getContactPoints(self.body, body, finger, -1, physicsClientId=self.client) for finger in self.fingers
        )

    def _hold(self, joints: Joints) -> None:
        p.setJointMotorControlArray(
            self.body,
            self.joints,
            p.POSITION_CONTROL,
            targetPositions=joints.tolist(),
            forces=[300.0] * 7,
            physicsClientId=self.client,
        )

    def _step(self) -> None:
        p.stepSimulation(physicsClientId=self.client)
        self.tick()


def parked(away_from: float) -> Joints:
    """Folded up above the table, on the side away from a camera that stands at this angle around z."""
    return np.array([_wrap(-(away_from + np.pi)), 1.7, 0.0, -1.2, 0.0, -0.6, 0.0])


def write_urdf() -> Path:
    """PyBullet's iiwa with the gripper at its flange."""
    source = Path(pybullet_data.getDataPath()) / "kuka_iiwa" / "model.urdf"
    text = source.read_text().replace('filename="meshes/', f'filename="{source.parent}/meshes/')
    boxes = _link("palm", PALM, PALM[2] / 2, 0.8)
    boxes += _joint("palm_joint", "fixed", "lbr_iiwa_link_7", "palm", (0, 0, FLANGE))
    for name, side in (("left", 1), ("right", -1)):
        boxes += _link(name, FINGER, FINGER[2] / 2, 0.1, side * FINGER[0] / 2)
        boxes += _joint(f"{name}_joint", "prismatic", "palm", name, (0, 0, PALM[2]), (side, 0, 0), OPENING / 2)
    folder = Path(tempfile.mkdtemp(prefix="pick_"))
    target = folder / "iiwa_with_gripper.urdf"
    target.write_text(text.replace("</robot>", boxes + "</robot>"))
    return target


def _link(name: str, size: Sequence[float], z: float, mass: float, x: float = 0.0) -> str:
    shape = f'<origin xyz="{x} 0 {z}"/><geometry><box size="{size[0]} {size[1]} {size[2]}"/></geometry>'
    inertia = 'ixx="0.001" ixy="0" ixz="0" iyy="0.001" iyz="0" izz="0.001"'
    inertial = f'<inertial><origin xyz="{x} 0 {z}"/><mass value="{mass}"/><inertia {inertia}/></inertial>'
    return f'<link name="{name}">{inertial}<visual>{shape}</visual><collision>{shape}</collision></link>\n'


def _joint(
    name: str,
    kind: str,
    parent: str,
    child: str,
    xyz: Sequence[float],
    axis: Sequence[float] = (1, 0, 0),
    upper: float = 0.0,
) -> str:
    where = f'<origin xyz="{xyz[0]} {xyz[1]} {xyz[2]}"/><axis xyz="{axis[0]} {axis[1]} {axis[2]}"/>'
    limit = f'<limit lower="0" upper="{upper}" effort="200" velocity="1"/>'
    ends = f'<parent link="{parent}"/><child link="{child}"/>'
    return f'<joint name="{name}" type="{kind}">{ends}{where}{limit}</joint>\n'


def _transform(xyz: Sequence[float], rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, xyz
    return matrix


def _wrap(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
