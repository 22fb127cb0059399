"""One scene from the laying of its table to the judged lifts: by the answer, and by the true mask as the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pybullet as p
from numpy.typing import NDArray

from pick.answers import Ask, Reply, lift_mask, to_world
from pick.camera import View, random_camera, render, with_noise
from pick.grasp import pick, plan_grasp, plan_path
from pick.questions import choose, see_things
from pick.robot import Arm, Robot, parked, write_urdf
from pick.score import Attempt, Record, UprightBox, box_errors
from pick.world import PickWorld, random_scene
from training.data.tabletop.instructions import Item
from training.data.tabletop.scene import Camera, Light, random_light

LIFTED = 0.10  # metres between the target's lowest point and the table
NOISES = ("exact", "noisy")


@dataclass(frozen=True)
class Scene:
    """A laid table, seen before the arm moves. target: the object's number in the world."""

    seed: int
    number: int
    camera: Camera
    light: Light
    view: View
    item: Item
    target: int


@dataclass(frozen=True)
class Outcome:
    """view: what the answer saw. box: the answer's, in the world; None where there is none."""

    record: Record
    view: View
    reply: Reply
    box: UprightBox | None


class Cell:
    """Table, arm and camera. `film` is called after each step of the answer's pick."""

    def __init__(self) -> None:
        self.urdf = write_urdf()
        self.arm = Arm(self.urdf)
        self.world = PickWorld()
        self.robot: Robot | None = None
        self.film: Callable[[], None] = lambda: None

    def lay(self, seed: int, number: int, width: int, height: int) -> Scene:
        """The scene of this number; laid anew until it has an object that can be asked for."""
        rng = random_scene(seed, number)
        while True:
            self.world.lay(rng)
            camera, light = random_camera(rng, width, height), random_light(rng)
            self.robot = Robot(self.world.client, self.arm, self.urdf)
            stands = camera.pose()[:3, 3]
            self.robot.place(parked(float(np.arctan2(stands[1], stands[0]))))
            view = render(camera, light, width, height, self.world.client)
            item = choose(rng, see_things(self.world, view))
            if item is not None:
                return Scene(seed, number, camera, light, view, item, item.targets[0].id)

    def run(
        self, scene: Scene, ask: Ask, noises: tuple[str, ...] = NOISES, asked: str = "process"
    ) -> Iterator[Outcome]:
        """Asks under each kind of depth, and picks twice from the same state each time."""
        start = p.saveState(physicsClientId=self.world.client)
        true = self.world.true_box(scene.target)
        thing = self.world.bodies[scene.target]
        free = np.zeros((0, 3))
        reachable = (best := plan_grasp(true, free)) is not None and plan_path(self.arm, best) is not None
        for number, noise in enumerate(noises):
            view, name = scene.view, f"{scene.view.camera.width}x{scene.view.camera.height}"
            if noise == "noisy":
                view = replace(
                    view, depth=with_noise(view.depth, np.random.default_rng([scene.seed, scene.number, number]))
                )
            reply = ask(view, scene.item.text)
            target = view.mask(thing.id)
            box = to_world(reply.box, view.pose) if reply.box else None
            answer = self._attempt(reply.status_3d, reply.message_3d, box, reply.mask, view, scene.target, self.film)
            p.restoreState(start, physicsClientId=self.world.client)
            lifted = lift_mask(target, view)
            best_box = to_world(lifted.box, view.pose) if lifted.box else None
            bound = self._attempt(lifted.status.value, lifted.message, best_box, target, view, scene.target)
            p.restoreState(start, physicsClientId=self.world.client)
            yield Outcome(
                Record(
                    asked=asked,
                    size=name,
                    noise=noise,
                    seed=scene.seed,
                    scene=scene.number,
                    kind=scene.item.kind,
                    instruction=scene.item.text,
                    target=f"{thing.thing.color} {thing.thing.category}",
                    objects=len(self.world.bodies),
                    reachable=reachable,
                    status=reply.status,
                    message=reply.message,
                    label=reply.label,
                    iou=overlap(reply.mask, target),
                    answer=answer,
                    bound=bound,
                    seconds=round(reply.seconds, 3),
                ),
                view,
                reply,
                box,
            )
        p.removeState(start, physicsClientId=self.world.client)

    def _attempt(
        self,
        status: str,
        message: str,
        box: UprightBox | None,
        mask: NDArray[np.bool_] | None,
        view: View,
        target: int,
        film: Callable[[], None] = lambda: None,
    ) -> Attempt:
        """Plans from box, mask and depth; what is true is only used to judge."""
        if box is None or mask is None:
            return Attempt(status, message)
        error, extent = box_errors(box, self.world.true_box(target))
        attempt = Attempt(status, message, round(error, 5), round(extent, 4))
        robot, body = self.robot, self.world.bodies[target].id
        assert robot is not None
        grasp = plan_grasp(box, other_points(view, mask, float(box.center[2] - box.size[2] / 2)))
        path = plan_path(self.arm, grasp) if grasp else None
        if grasp is None or path is None:
            return attempt
        robot.tick = film
        lifted = pick(robot, path, grasp, lambda: robot.touches(body) and self.world.lowest(target) > LIFTED)
        robot.tick = lambda: None
        return replace(attempt, planned=True, lifted=lifted)


def other_points(view: View, mask: NDArray[np.bool_], floor: float, stride: int = 3) -> NDArray[np.float64]:
    """What stands on the table beside the object, as the camera measures it: (N, 3) in the world."""
    fx, fy, cx, cy = view.camera.k
    near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)[::stride, ::stride]
    z = view.depth[::stride, ::stride].astype(np.float64)
    v, u = np.mgrid[: view.camera.height : stride, : view.camera.width : stride]
    keep = np.isfinite(z) & ~near
    points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1)[keep]
    points = points @ view.pose[:3, :3].T + view.pose[:3, 3]
    return np.asarray(points[(points[:, 2] > floor + 0.03)])


def overlap(mask: NDArray[np.bool_] | None, target: NDArray[np.bool_]) -> float:
    if mask is None:
        return 0.0
    union = np.count_nonzero(mask | target)
    return round(float(np.count_nonzero(mask & target) / union), 4) if union else 0.0
