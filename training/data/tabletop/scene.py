"""Builds and renders one tabletop: RGB, depth, instance masks, camera. Deterministic by its generator.

PyBullet's TinyRenderer needs no GPU and no GL. Shapes are those of PyBullet's data folder, stripped of
their textures so that each can take any colour. Units: metres, pixels; the world's z axis points up.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pybullet as p
import pybullet_data
from numpy.typing import NDArray

SIZE = 224  # pixels; the embedded reasoner's square
MAX_OBJECTS = 8
CATEGORIES = ("mug", "duck", "bear", "bunny", "soccer ball", "ball", "brick", "cube", "cylinder")
COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
RGB = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.1, 0.62, 0.15),
    "blue": (0.1, 0.2, 0.85),
    "yellow": (0.95, 0.85, 0.1),
    "orange": (0.95, 0.45, 0.03),
    "purple": (0.5, 0.1, 0.65),
    "white": (0.95, 0.95, 0.95),
    "black": (0.07, 0.07, 0.07),
}
# Never together in train, val and test; every test-ood scene holds at least one.
HELD_OUT = frozenset(
    {
        ("mug", "purple"),
        ("duck", "blue"),
        ("bear", "green"),
        ("bunny", "orange"),
        ("soccer ball", "yellow"),
        ("ball", "black"),
        ("brick", "white"),
        ("cube", "purple"),
        ("cylinder", "red"),
    }
)
NEAR, FAR = 0.05, 6.0  # metres, clipping planes


@dataclass(frozen=True)
class Shape:
    mesh: str  # file in PyBullet's data folder
    upright: tuple[float, float, float]  # Euler angles that put it on its feet
    height: tuple[float, float]  # metres, range
    textured: bool = False  # keep its texture, which the colour tints


_UP = (np.pi / 2, 0.0, 0.0)
SHAPES = {
    "mug": Shape("objects/mug.obj", (0, 0, 0), (0.10, 0.15)),
    "duck": Shape("duck.obj", _UP, (0.10, 0.16)),
    "bear": Shape("teddy2_VHACD_CHs.obj", _UP, (0.13, 0.19)),
    "bunny": Shape("bunny.obj", (0, 0, 0), (0.12, 0.18)),
    "soccer ball": Shape("soccerball.obj", (0, 0, 0), (0.10, 0.15), textured=True),
    "ball": Shape("sphere_smooth.obj", (0, 0, 0), (0.07, 0.13)),
    "brick": Shape("lego/lego.obj", _UP, (0.06, 0.10)),
    "cube": Shape("cube.obj", (0, 0, 0), (0.06, 0.13)),
    "cylinder": Shape("", (0, 0, 0), (0.08, 0.15)),
}


@dataclass(frozen=True)
class Object:
    """id: its value in the instance mask. position: centre of its foot on the table (x, y, z), metres."""

    id: int
    category: str
    color: str
    height: float
    position: tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks at `target`; angles in degrees, field of view vertical."""

    target: tuple[float, float, float]
    distance: float
    yaw: float
    pitch: float
    roll: float
    fov: float

    def view(self) -> list[float]:
        return list(p.computeViewMatrixFromYawPitchRoll(self.target, self.distance, self.yaw, self.pitch, self.roll, 2))

    def matrix(self, size: int) -> NDArray[np.float64]:
        """Intrinsics K (3, 3) in pixels for a square image."""
        f = size / 2 / np.tan(np.radians(self.fov) / 2)
        return np.array([[f, 0, size / 2], [0, f, size / 2], [0, 0, 1]])

    def pose(self) -> NDArray[np.float64]:
        """World from camera optical frame (x right, y down, z forward), (4, 4)."""
        gl = np.array(self.view()).reshape(4, 4).T  # OpenGL camera from world
        return np.linalg.inv(np.diag([1.0, -1.0, -1.0, 1.0]) @ gl)


@dataclass(frozen=True)
class Frame:
    """rgb uint8 (S, S, 3); depth float32 (S, S) metres along the optical axis; ids uint8 (S, S), 0 = no object."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    ids: NDArray[np.uint8]


@dataclass(frozen=True)
class Light:
    direction: tuple[float, float, float]
    ambient: float
    diffuse: float
    specular: float
    shadow: bool


class World:
    """One physics client that is filled and looked at again and again."""

    def __init__(self) -> None:
        self.client = p.connect(p.DIRECT)
        self.objects: tuple[Object, ...] = ()
        self._bodies: list[int] = []
        self._meshes = _plain_meshes()
        self._vertices = {name: _vertices(path, SHAPES[name].upright) for name, path in self._meshes.items()}

    def close(self) -> None:
        p.disconnect(self.client)

    def populate(self, rng: np.random.Generator, *, ood: bool = False, count: tuple[int, int] = (2, 7)) -> None:
        """Lays a new table with `count` (from, below) objects.

        40 % of those after the first share a colour or kind with another.
        """
        p.resetSimulation(physicsClientId=self.client)
        table, floor = _surface_color(rng), _surface_color(rng)
        half = rng.uniform(0.45, 0.8)
        self._box((3, 3, 0.01), (0, 0, -0.5), floor)
        self._box((half, half * rng.uniform(0.8, 1.2), 0.02), (0, 0, -0.02), table)
        objects: list[Object] = []
        self._bodies = []
        wanted = int(rng.integers(*count))
        for _ in range(wanted * 6):
            if len(objects) == wanted:
                break
            x, y = rng.uniform(-0.29, 0.29, 2)
            if any(np.hypot(x - o.position[0], y - o.position[1]) < 0.15 for o in objects):
                continue
            category, color = _pick(rng, objects, must_be_held_out=ood and not objects, ood=ood)
            low, high = SHAPES[category].height
            thing = Object(len(objects) + 1, category, color, float(rng.uniform(low, high)), (float(x), float(y), 0.0))
            self._bodies.append(self._place(thing, rng))
            objects.append(thing)
        self.objects = tuple(objects)

    def render(self, camera: Camera, light: Light, size: int = SIZE) -> Frame:
        rgb, z, seen = take_picture(camera, light, size, size, self.client)
        depth = (FAR * NEAR / (FAR - (FAR - NEAR) * z)).astype(np.float32)
        ids = np.zeros((size, size), np.uint8)
        for thing, body in zip(self.objects, self._bodies, strict=True):
            ids[seen == body] = thing.id
        return Frame(rgb, depth, ids)

    def _box(self, half: tuple[float, ...], position: tuple[float, ...], color: NDArray[np.float64]) -> None:
        shape = p.createVisualShape(p.GEOM_BOX, halfExtents=half, rgbaColor=[*color, 1], physicsClientId=self.client)
        p.createMultiBody(0, -1, shape, position, physicsClientId=self.client)

    def _place(self, thing: Object, rng: np.random.Generator) -> int:
        rgba = [*np.clip(np.array(RGB[thing.color]) + rng.normal(0, 0.03, 3), 0, 1), 1]
        yaw = rng.uniform(0, 2 * np.pi)
        turn = p.getQuaternionFromEuler((0, 0, yaw))
        x, y, _ = thing.position
        if thing.category == "cylinder":
            shape = p.createVisualShape(
                p.GEOM_CYLINDER,
                radius=thing.height * rng.uniform(0.25, 0.45),
                length=thing.height,
                rgbaColor=rgba,
                physicsClientId=self.client,
            )
            return int(p.createMultiBody(0, -1, shape, [x, y, thing.height / 2], turn, physicsClientId=self.client))
        vertices = self._vertices[thing.category]
        low, high = vertices.min(0), vertices.max(0)
        scale = thing.height / (high[2] - low[2])
        shape = p.createVisualShape(
            p.GEOM_MESH,
            fileName=str(self._meshes[thing.category]),
            meshScale=[scale] * 3,
            rgbaColor=rgba,
            physicsClientId=self.client,
        )
        foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]) * scale
        position = np.array([x, y, 0]) - _rotation((0, 0, yaw)) @ foot
        upright = p.getQuaternionFromEuler(SHAPES[thing.category].upright)
        orientation = p.multiplyTransforms([0, 0, 0], turn, [0, 0, 0], upright)[1]
        return int(p.createMultiBody(0, -1, shape, position.tolist(), orientation, physicsClientId=self.client))


def take_picture(
    camera: Camera, light: Light, width: int, height: int, client: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int_]]:
    """What the camera sees in a PyBullet world: RGB (H, W, 3), OpenGL's depth buffer and the bodies' numbers (H, W)."""
    _, _, rgba, buffer, bodies = p.getCameraImage(
        width,
        height,
        camera.view(),
        p.computeProjectionMatrixFOV(camera.fov, width / height, NEAR, FAR),
        lightDirection=light.direction,
        lightColor=[1, 1, 1],
        lightDistance=3,
        shadow=int(light.shadow),
        lightAmbientCoeff=light.ambient,
        lightDiffuseCoeff=light.diffuse,
        lightSpecularCoeff=light.specular,
        renderer=p.ER_TINY_RENDERER,
        physicsClientId=client,
    )
    rgb = np.asarray(rgba, np.uint8).reshape(height, width, 4)[:, :, :3].copy()
    z = np.asarray(buffer, np.float32).reshape(height, width)
    return rgb, z, np.asarray(bodies).reshape(height, width)


def random_camera(rng: np.random.Generator, *, ood: bool = False) -> Camera:
    """ood: steeper or flatter, nearer or farther, wider than any training camera."""
    pitch = rng.uniform(-70, -32)
    distance = rng.uniform(0.72, 1.12)
    fov = rng.uniform(45, 55)
    if ood:
        pitch = rng.choice([rng.uniform(-80, -70), rng.uniform(-32, -26)])
        distance = rng.uniform(0.80, 1.2)
        fov = rng.uniform(55, 62)
    x, y = rng.uniform(-0.06, 0.06, 2)
    return Camera(
        (float(x), float(y), 0.03),
        float(distance),
        float(rng.uniform(0, 360)),
        float(pitch),
        float(rng.uniform(-4, 4)),
        float(fov),
    )


def random_light(rng: np.random.Generator) -> Light:
    x, y, z = rng.normal(0, 1, 3)
    return Light(
        (float(x), float(y), float(abs(z) + 1)),
        float(rng.uniform(0.45, 0.7)),
        float(rng.uniform(0.3, 0.5)),
        float(rng.uniform(0, 0.15)),
        bool(rng.random() < 0.5),
    )


def _pick(rng: np.random.Generator, others: list[Object], *, must_be_held_out: bool, ood: bool) -> tuple[str, str]:
    if must_be_held_out:
        return tuple(sorted(HELD_OUT)[rng.integers(len(HELD_OUT))])  # type: ignore[return-value]
    while True:
        category, color = CATEGORIES[rng.integers(len(CATEGORIES))], COLORS[rng.integers(len(COLORS))]
        if others and rng.random() < 0.4:
            other = others[rng.integers(len(others))]
            if rng.random() < 0.5:
                category = other.category
            else:
                color = other.color
        # TinyRenderer shows no pattern on a black soccer ball.
        if (category, color) == ("soccer ball", "black"):
            continue
        if ood or (category, color) not in HELD_OUT:
            return category, color


def _surface_color(rng: np.random.Generator) -> NDArray[np.float64]:
    return np.clip(rng.normal([0.55, 0.5, 0.45], 0.2, 3) + rng.normal(0, 0.08), 0.05, 1)


def _rotation(euler: tuple[float, float, float]) -> NDArray[np.float64]:
    return np.array(p.getMatrixFromQuaternion(p.getQuaternionFromEuler(euler))).reshape(3, 3)


def _vertices(path: Path, upright: tuple[float, float, float]) -> NDArray[np.float64]:
    lines = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    return np.array(lines, np.float64) @ _rotation(upright).T


def _plain_meshes() -> dict[str, Path]:
    """Copies of the untextured meshes without their material, whose texture would hide the colour."""
    folder = Path(tempfile.gettempdir()) / "segzero_tabletop_meshes"
    folder.mkdir(exist_ok=True)
    meshes = {}
    for name, shape in SHAPES.items():
        if not shape.mesh:
            continue
        source = Path(pybullet_data.getDataPath()) / shape.mesh
        if shape.textured:
            meshes[name] = source
            continue
        target = folder / source.name
        if not target.exists():
            lines = source.read_text().splitlines(keepends=True)
            part = target.with_name(f"{target.name}.{np.random.default_rng().integers(1 << 30)}")
            part.write_text("".join(line for line in lines if not line.startswith(("mtllib", "usemtl"))))
            part.replace(target)
        meshes[name] = target
    return meshes
