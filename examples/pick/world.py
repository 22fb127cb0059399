"""The tabletop that the embedded model was trained on, with mass, friction and contacts.

Looks, sizes and places come from `training/data/tabletop/scene.py` by the same draws of the same distribution; what is
new is that objects are bodies. Tables on which objects touch, fall over or roll away are laid anew. Metres, kilograms,
seconds; z is up, the table's top is z = 0.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pybullet as p
import pybullet_data
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from pick.score import UprightBox, upright_box
from training.data.tabletop.scene import RGB, SHAPES, Light, Object, World

STEP = 1 / 240  # PyBullet's own; with 100 iterations of the solver nothing here jitters
DENSITY = 250.0  # of the convex hull: toys of 60 g to 400 g
MASSES = (0.05, 0.5)
FRICTION = 0.7  # lateral, of objects and table; PyBullet multiplies: 0.49 between them, 0.84 at the pads
ROLLING = 0.002  # metres; a ball at rest stays there
TOUCH = 0.004  # nearer than that, two objects are laid anew
SETTLE = 0.5
MOVED, TILTED = 0.01, np.radians(5)  # more than that while settling, and the table is laid anew
FOOT = 0.1  # of the height
# Convex parts that PyBullet brings along; the others are one hull, or exact.
PARTS = {"bear": "teddy2_VHACD_CHs.obj", "duck": "duck_vhacd.obj", "mug": "objects/mug_col.obj"}


@dataclass(frozen=True)
class Body:
    """id: PyBullet's. vertices: (N, 3) of its surface, from its centre of mass."""

    id: int
    thing: Object
    mass: float
    vertices: NDArray[np.float64]


class PickWorld(World):
    """A `World` whose objects can be picked up. One at a time in a process: PyBullet's state is global."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[int, Body] = {}  # by the object's id
        self.laid = 0  # tables until one could be used
        self.table = -1
        bear = Path(pybullet_data.getDataPath()) / PARTS["bear"]
        bunny = _convex_parts(self._meshes["bunny"])
        self._footed = {
            name: _with_foot(file, SHAPES[name].upright) for name, file in (("bear", bear), ("bunny", bunny))
        }

    def lay(self, rng: np.random.Generator) -> None:
        """Tables until one rests by itself."""
        for laid in range(1, 200):
            self.bodies, self.table = {}, -1
            self.populate(rng)
            p.setGravity(0, 0, -9.81, physicsClientId=self.client)
            p.setPhysicsEngineParameter(
                fixedTimeStep=STEP, numSolverIterations=100, enableConeFriction=1, physicsClientId=self.client
            )
            self.laid = laid
            if not self._touching() and self._settle():
                return
        raise RuntimeError("no table of 200 rests by itself")

    def step(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP)):
            p.stepSimulation(physicsClientId=self.client)

    def pose(self, body: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre of mass (3,) and rotation (3, 3)."""
        position, turn = p.getBasePositionAndOrientation(body, physicsClientId=self.client)
        return np.array(position), np.array(p.getMatrixFromQuaternion(turn)).reshape(3, 3)

    def true_box(self, thing: int) -> UprightBox:
        """The smallest upright box around an object as it stands now, hidden parts too."""
        body = self.bodies[thing]
        position, rotation = self.pose(body.id)
        return upright_box(body.vertices @ rotation.T + position)

    def lowest(self, thing: int) -> float:
        """Height of an object's lowest point."""
        body = self.bodies[thing]
        position, rotation = self.pose(body.id)
        return float((body.vertices @ rotation[2]).min() + position[2])

    def _touching(self) -> bool:
        ids = [body.id for body in self.bodies.values()]
        return any(
            p.getClosestPoints(a, b, TOUCH, physicsClientId=self.client) for n, a in enumerate(ids) for b in ids[:n]
        )

    def _settle(self) -> bool:
        before = {body.id: self.pose(body.id) for body in self.bodies.values()}
        self.step(SETTLE)
        for body, (place, turn) in before.items():
            position, rotation = self.pose(body)
            tilt = np.arccos(np.clip((rotation.T @ [0, 0, 1]) @ (turn.T @ [0, 0, 1]), -1, 1))
            if np.linalg.norm(position - place) > MOVED or tilt > TILTED:
                return False
        return True

    def _box(self, half: tuple[float, ...], position: tuple[float, ...], color: NDArray[np.float64]) -> None:
        look = p.createVisualShape(p.GEOM_BOX, halfExtents=half, rgbaColor=[*color, 1], physicsClientId=self.client)
        shape = p.createCollisionShape(p.GEOM_BOX, halfExtents=half, physicsClientId=self.client)
        self.table = int(p.createMultiBody(0, shape, look, position, physicsClientId=self.client))  # the last one
        p.changeDynamics(self.table, -1, lateralFriction=FRICTION, physicsClientId=self.client)

    def _place(self, thing: Object, rng: np.random.Generator) -> int:
        """As the parent draws it, with mass: the draws from `rng` are the same, one by one."""
        rgba = [*np.clip(np.array(RGB[thing.color]) + rng.normal(0, 0.03, 3), 0, 1), 1]
        turn = p.getQuaternionFromEuler((0, 0, rng.uniform(0, 2 * np.pi)))
        height, client = thing.height, self.client
        if thing.category == "cylinder":
            radius = height * rng.uniform(0.25, 0.45)
            look = p.createVisualShape(
                p.GEOM_CYLINDER, radius=radius, length=height, rgbaColor=rgba, physicsClientId=client
            )
            shape = p.createCollisionShape(p.GEOM_CYLINDER, radius=radius, height=height, physicsClientId=client)
            vertices, volume, centre = _ring(radius, height), np.pi * radius**2 * height, np.array([0, 0, height / 2])
        else:
            upright = self._vertices[thing.category]
            scale = height / np.ptp(upright[:, 2])
            low, high = upright.min(0) * scale, upright.max(0) * scale
            hull = ConvexHull(upright * scale)
            origin = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])  # its foot
            middle = _centre_of_mass(hull)
            vertices, volume, centre = hull.points[hull.vertices] - middle, hull.volume, middle - origin
            frame = p.getQuaternionFromEuler(SHAPES[thing.category].upright)
            look = p.createVisualShape(
                p.GEOM_MESH,
                fileName=str(self._meshes[thing.category]),
                meshScale=[scale] * 3,
                rgbaColor=rgba,
                visualFramePosition=(-middle).tolist(),
                visualFrameOrientation=frame,
                physicsClientId=client,
            )
            shape = self._collision(thing, scale, middle, frame)
        mass = float(np.clip(DENSITY * volume, *MASSES))
        position, _ = p.multiplyTransforms([thing.position[0], thing.position[1], 0], turn, centre, [0, 0, 0, 1])
        body = int(p.createMultiBody(mass, shape, look, position, turn, physicsClientId=client))
        p.changeDynamics(
            body,
            -1,
            lateralFriction=FRICTION,
            rollingFriction=ROLLING if "ball" in thing.category else 0.0,
            spinningFriction=ROLLING,
            physicsClientId=client,
        )
        self.bodies[thing.id] = Body(body, thing, mass, vertices)
        return body

    def _collision(
        self, thing: Object, scale: float, middle: NDArray[np.float64], frame: tuple[float, float, float, float]
    ) -> int:
        client, height = self.client, thing.height
        if "ball" in thing.category:
            return int(p.createCollisionShape(p.GEOM_SPHERE, radius=height / 2, physicsClientId=client))
        if thing.category == "cube":
            return int(p.createCollisionShape(p.GEOM_BOX, halfExtents=[height / 2] * 3, physicsClientId=client))
        if thing.category in self._footed:
            mesh = self._footed[thing.category]
        else:
            mesh = Path(pybullet_data.getDataPath()) / PARTS.get(thing.category, SHAPES[thing.category].mesh)
        return int(
            p.createCollisionShape(
                p.GEOM_MESH,
                fileName=str(mesh),
                meshScale=[scale] * 3,
                collisionFramePosition=(-middle).tolist(),
                collisionFrameOrientation=frame,
                physicsClientId=client,
            )
        )


def random_scene(seed: int, number: int) -> np.random.Generator:
    """Scene `number` of a seed; 6 is no split of `training/data/tabletop/store.py`, so no model has seen it."""
    return np.random.default_rng([6, seed, number])


def _ring(radius: float, height: float) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1) * radius
    return np.concatenate([np.c_[circle, np.full(72, z)] for z in (-height / 2, height / 2)])


def _centre_of_mass(hull: ConvexHull) -> NDArray[np.float64]:
    """Of a solid of one density: tetrahedra from an inner point to each facet."""
    inner = hull.points[hull.vertices].mean(0)
    corners = hull.points[hull.simplices] - inner
    volumes = np.abs(np.linalg.det(corners))
    return np.asarray(inner + (corners.sum(1) / 4 * volumes[:, None]).sum(0) / volumes.sum())


def _convex_parts(mesh: Path) -> Path:
    """A mesh as convex parts, made once: its hull would fill what is between ears and back."""
    target = mesh.with_name(f"{mesh.stem}_parts.obj")
    if not target.exists():
        part = Path(tempfile.mkdtemp()) / target.name
        with _Quiet():
            p.vhacd(str(mesh), str(part), str(part.with_suffix(".log")), resolution=100000, maxNumVerticesPerCH=32)
        part.replace(target)
    return target


def _with_foot(mesh: Path, upright: tuple[float, float, float]) -> Path:
    """Convex parts with one more, a flat foot under the lowest tenth: as they are, bear and bunny fall over."""
    lines = mesh.read_text().splitlines()
    vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float64)
    turn = np.array(p.getMatrixFromQuaternion(p.getQuaternionFromEuler(upright))).reshape(3, 3)
    standing = vertices @ turn.T
    low, height = standing[:, 2].min(), np.ptp(standing[:, 2])
    under = standing[standing[:, 2] < low + FOOT * height]
    outline = under[ConvexHull(under[:, :2]).vertices, :2]
    foot = np.concatenate([np.c_[outline, np.full(len(outline), z)] for z in (low, low + FOOT * height)]) @ turn
    hull = ConvexHull(foot)
    lines += ["o foot", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in foot)]
    lines += [f"f {a} {b} {c}" for a, b, c in hull.simplices + len(vertices) + 1]
    target = Path(tempfile.mkdtemp(prefix="pick_")) / f"{mesh.stem}.obj"
    target.write_text("\n".join(lines) + "\n")
    return target


class _Quiet:
    """VHACD writes to the process's standard output whatever it is told."""

    def __enter__(self) -> None:
        self.kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def __exit__(self, *_: object) -> None:
        os.dup2(self.kept, 1)
        os.close(self.kept)


__all__ = ["STEP", "Body", "Light", "PickWorld", "random_scene"]
