"""A Segmentation as plain data, for JSON: the node and the command line say the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from segzero_ros.core.contract import Segmentation
from segzero_ros.core.text import clean


def result_dict(result: Segmentation) -> dict[str, Any]:
    """Ready for JSON; boxes XYXY and points (x, y) in source pixels."""
    return {
        "instruction": clean(result.instruction),
        "status": result.status.value,
        "message": clean(result.message),
        "reasoning": clean(result.reasoning),
        "answer": clean(result.answer),
        "height": result.height,
        "width": result.width,
        "instances": [
            {
                "index": i.index,
                "label": clean(i.label),
                "score": round(float(i.score), 4),
                "box": [float(v) for v in i.box],
                "area": i.area,
                "prompt_box": None if i.prompt_box is None else [float(v) for v in i.prompt_box],
                "prompt_points": [[float(x), float(y)] for x, y in i.prompt_points],
            }
            for i in result.instances
        ],
        "timing": {k: round(v, 4) for k, v in asdict(result.timing).items()},
        "model": clean(result.model),
    }
