"""A Segmentation as plain data, for JSON: the node and the command line say the same."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from segzero_ros.core.contract import Instance, Segmentation
from segzero_ros.core.space import Lifted, Pose, Status3D
from segzero_ros.core.text import clean

NOT_ASKED = Lifted(Status3D.NOT_ASKED)


def in_space(instance: Instance) -> Lifted | None:
    """What is known of it in space: only a lift that ended with OK says anything."""
    return instance.lifted if instance.lifted is not None and instance.lifted.status is Status3D.OK else None


def result_dict(result: Segmentation) -> dict[str, Any]:
    """Ready for JSON; boxes XYXY and points (x, y) in source pixels.

    In space: metres and quaternions (x, y, z, w) in the frame `frame_id_3d`; null where nobody asked or nothing was
    found.
    """
    return {
        "instruction": clean(result.instruction),
        "status": result.status.value,
        "message": clean(result.message),
        "reasoning": clean(result.reasoning),
        "answer": clean(result.answer),
        "height": result.height,
        "width": result.width,
        "frame_id_3d": None if result.scene is None else clean(result.scene.frame_id),
        "instances": [
            {
                "index": i.index,
                "label": clean(i.label),
                "score": round(float(i.score), 4),
                "confidence": None if i.confidence is None else round(float(i.confidence), 4),
                "box": [float(v) for v in i.box],
                "area": i.area,
                "prompt_box": None if i.prompt_box is None else [float(v) for v in i.prompt_box],
                "prompt_points": [[float(x), float(y)] for x, y in i.prompt_points],
                **_space_dict(i),
            }
            for i in result.instances
        ],
        "grasp_hints": [
            {"name": clean(hint.name), "index": i.index, "pose": _pose(hint.pose), "width": _number(hint.width)}
            for i in result.instances
            for hint in (in_space(i) or NOT_ASKED).hints
        ],
        "timing": {k: round(v, 4) for k, v in asdict(result.timing).items()},
        "model": clean(result.model),
    }


def _space_dict(instance: Instance) -> dict[str, Any]:
    lifted, known = instance.lifted or NOT_ASKED, in_space(instance)
    box = known and known.box
    return {
        "status_3d": lifted.status.value,
        "message_3d": clean(lifted.message),
        "centroid": known and _numbers(known.centroid),
        "box_3d": box and {"center": _pose(box.center), "size": _numbers(box.size)},
        "visible": known and _number(known.visible),
    }


def _pose(pose: Pose) -> dict[str, Any]:
    return {"position": _numbers(pose.position), "orientation": _numbers(pose.orientation)}


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(v) for v in values]


def _number(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return round(float(value), 6) if math.isfinite(value) else None
