"""What is asked: instructions as in training, over what the camera sees, each with one object that is meant."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pick.camera import View
from pick.world import PickWorld
from training.data.tabletop.instructions import KINDS, Item, write
from training.data.tabletop.scene import SIZE
from training.data.tabletop.store import Thing, describe

ONE = tuple(kind for kind in KINDS if kind != "several")


def see_things(world: PickWorld, view: View) -> list[Thing]:
    """Objects as they lie in the square picture that the reasoning model looks at."""
    ids = np.zeros(view.bodies.shape, np.uint8)
    for number, body in world.bodies.items():
        ids[view.mask(body.id)] = number
    square = cv2.resize(ids, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    things = []
    for number, seen in describe(np.asarray(square, np.uint8)).items():
        thing = world.bodies[number].thing
        distance = float(np.linalg.norm(np.array(thing.position) - view.pose[:3, 3]))
        things.append(Thing(number, thing.category, thing.color, seen["box"], seen["area"], distance, seen["point"]))
    return things


def choose(rng: np.random.Generator, things: Sequence[Thing], tries: int = 60) -> Item | None:
    """An instruction that exactly one object answers; None where the scene has none."""
    for _ in range(tries):
        item = write(rng, things, ONE, 0.0)
        if item is not None and len(item.targets) == 1:
            return item
    return None
