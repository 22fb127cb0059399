"""Who answers an instruction: the pipeline within this process, or a node over ROS (`pick/node.py`).

Both give a `Reply` in the camera's optical frame. `to_world` is where the arm's own knowledge comes in: where its
camera stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pick.camera import View
from pick.score import UprightBox, upright_box
from segzero_ros.core import space
from segzero_ros.core.contract import Instance, Mask
from segzero_ros.core.geometry import mask_box, pack
from segzero_ros.core.lifting import lift
from segzero_ros.pipeline import Pipeline
from segzero_ros.profiles import load_profile


@dataclass(frozen=True)
class Reply:
    """The first object of an answer. mask: (H, W), None where there is no object. box: if status_3d is OK."""

    status: str
    message: str
    seconds: float
    label: str = ""
    mask: Mask | None = field(default=None, repr=False)
    status_3d: str = space.Status3D.NOT_ASKED.value
    message_3d: str = ""
    box: space.Box3D | None = None


Ask = Callable[[View, str], Reply]


def lift_mask(mask: Mask, view: View, label: str = "") -> space.Lifted:
    """As the node lifts an answer's mask."""
    tight = mask_box(mask) or (0.0, 0.0, 0.0, 0.0)
    instance = Instance(1, label, 1.0, pack(mask), tight, None, (), int(np.count_nonzero(mask)))
    return lift([instance], view.rgb, scene_of(view))[0]


def scene_of(view: View) -> space.Scene:
    return space.Scene(view.depth, view.camera, "camera")


def ask_in_process() -> Ask:
    """The embedded models, loaded once."""
    pipeline = Pipeline.load(load_profile("demo"))

    def ask(view: View, instruction: str) -> Reply:
        began = time.monotonic()
        answer = pipeline.segment(view.rgb, instruction)
        reply = Reply(answer.status.value, answer.message, time.monotonic() - began)
        if not answer.instances:
            return reply
        first = answer.instances[0]
        lifted = lift(answer.instances, view.rgb, scene_of(view))[0]
        return replace(
            reply,
            seconds=time.monotonic() - began,
            label=first.label,
            mask=first.mask,
            status_3d=lifted.status.value,
            message_3d=lifted.message,
            box=lifted.box,
        )

    return ask


def to_world(box: space.Box3D, pose: NDArray[np.float64]) -> UprightBox:
    """The upright box in the world around a box in the frame that `pose` (4, 4) places there."""
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * box.size
    there = Rotation.from_quat(box.center.orientation).apply(corners) + box.center.position
    return upright_box(there @ pose[:3, :3].T + pose[:3, 3])
