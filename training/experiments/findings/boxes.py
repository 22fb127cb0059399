"""How large boxes are, and how large they had best be: greedy ones, and sampled ones, by which reward judges.

A box wins with an IoU above .5. Where places scatter, one that is somewhat larger than the object wins more often: it
may lie off a little and the object is still inside. So samples may teach boxes that are too large for greedy answers.
Nothing is decided by this; it is to find out why ID stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.experiments.findings.estimates import rounded
from training.experiments.findings.groups import SINGLE, STARTS
from training.experiments.findings.runs import Run, Runs
from training.experiments.plan import ARMS
from training.experiments.running.judge import SQUARE, boxes_of

MEETS, WINS = 0.2, 0.5  # IoU from which a box is about the object, and above which it wins
SCALES = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4)
SAMPLES = "start_best_of_8"  # its records hold all eight texts of an item
SHOWN = ("start_think", "grpo_thought", "sft_thought")
Boxes = NDArray[np.float64]  # (n, 4)
Truth = Mapping[str, Sequence[Sequence[float]]]  # boxes by item


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Pair by pair: (n, 4), (n, 4) -> (n,)."""
    inner = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
    return inner / ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner)


def scaled(boxes: Boxes, by: float) -> Boxes:
    """About their centres, within the square."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * by
    return np.concatenate([middle - half, middle + half], 1).clip(0, SQUARE)


def meeting(
    runs: Sequence[Run], true: Truth, sets: Sequence[str] = SINGLE, *, sampled: bool = False
) -> tuple[Boxes, Boxes]:
    """Answers of one box that is about the object, and the object's boxes."""

    def pairs() -> Iterator[tuple[Sequence[float], Sequence[float]]]:
        for record in (r for run in runs for r in run.records() if r["set"] in sets):
            for boxes in map(boxes_of, record.get("texts", ())) if sampled else [record.get("boxes")]:
                if boxes and len(boxes) == 1:
                    yield boxes[0], true[record["id"]][0]

    found = np.array(list(pairs()), float).reshape(-1, 2, 4)
    found = found[((found[:, :, 2:] - found[:, :, :2]) > 0).all((1, 2))]
    kept = found[iou(found[:, 0], found[:, 1]) >= MEETS]
    return kept[:, 0], kept[:, 1]


def sizes(runs: Runs, true: Truth) -> dict[str, dict[str, float]]:
    """Mean width and height over those of the true box, on ID and NOVEL, per arm."""
    found = {}
    for name in (*STARTS, *ARMS):
        boxes, objects = meeting(list(runs.get(name, {}).values()), true)
        if len(boxes):
            width, height = ((boxes[:, 2:] - boxes[:, :2]) / (objects[:, 2:] - objects[:, :2])).mean(0)
            found[name] = {"width": rounded(width), "height": rounded(height), "boxes": len(boxes)}
    return found


def scales(runs: Runs, true: Truth) -> dict[str, list[float]]:
    """Share of the boxes that win, on ID, were they so many times as large (SCALES), per arm; and of the samples."""
    some = {name: meeting(list(runs.get(name, {}).values()), true, ("id",)) for name in SHOWN}
    some["sampled"] = meeting(list(runs.get(SAMPLES, {}).values()), true, ("id",), sampled=True)
    return {
        name: [rounded((iou(scaled(boxes, by), objects) > WINS).mean()) for by in SCALES]
        for name, (boxes, objects) in some.items()
        if len(boxes)
    }


def found(runs: Runs, true: Truth) -> dict[str, Any]:
    """Both; nothing without the true boxes."""
    return {"sizes": sizes(runs, true), "scales": scales(runs, true)} if true else {"sizes": {}, "scales": {}}
