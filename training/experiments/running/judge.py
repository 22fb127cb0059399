"""Whether a text is right: boxes by their IoU with the true ones, a word by being the same."""

from __future__ import annotations

from typing import Any

from segzero_ros.core.answer import parse_answer
from segzero_ros.core.contract import Box, Status
from segzero_ros.profiles import load_profile
from training.data.tabletop.questions import Ask
from training.measures.metrics import box_accuracy, matched

SQUARE = 224  # pixels
_PROFILE = load_profile("demo")


def boxes_of(text: str) -> list[Box] | None:
    """Of an answer, x_min, y_min, x_max, y_max in pixels of the square; None if it cannot be parsed."""
    answer = parse_answer(text, _PROFILE)
    if answer.status is Status.PARSE_ERROR:
        return None
    return [c.box for c in answer.candidates if c.box is not None]


def judge(ask: Ask, text: str) -> dict[str, Any]:
    """Whether a text is right. For an instruction box_acc (IoU > 0.5, by the best assignment), for a question exact."""
    if ask.answer:
        _, _, rest = text.rpartition("<answer>")
        said, closed, _ = rest.partition("</answer>")
        return {"right": float(bool(closed) and said.strip() == ask.answer), "parsed": bool(closed)}
    boxes = boxes_of(text)
    if boxes is None:
        return {"right": 0.0, "parsed": False, "boxes": []}
    true = [t.box for t in ask.targets]
    iou = [v for _, _, v in matched(boxes, true)]
    right = float(not boxes) if ask.absent else box_accuracy(boxes, true)
    mean_iou = sum(iou) / max(len(boxes), len(true), 1) if true else right
    return {
        "right": right,
        "parsed": True,
        "iou": round(mean_iou, 4),
        "boxes": [[round(v, 1) for v in b] for b in boxes],
    }
