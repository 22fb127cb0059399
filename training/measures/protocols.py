"""The two ways in which reasoning segmentation is scored; one checkpoint differs by points between them.

| | `seg-zero` | `lisa` |
|---|---|---|
| ignore regions | painted as target (its copies of ReasonSeg cast 1 and 255 to bool) | count neither way |
| empty target, empty prediction | 0 | 1 |
| no readable answer | I = 0, U = area of the target | the same: an empty mask |
| the mask step fails | left out without a word, so the mean is over fewer items | does not happen |

Sources: dvlab-research/Seg-Zero, evaluation_scripts/{create_reasonseg_hf,evaluation,evaluation_visionreasoner,
calculate_iou}.py; dvlab-research/LISA, utils/data_processing.py, utils/utils.py intersectionAndUnionGPU, train_ds.py
validate. gIoU is the mean of the items' IoU, cIoU the sum of intersections over the sum of unions; LISA adds 1e-5 to an
item's union, which changes its IoU by less than 1e-5 and is left out here.

An item that the published code leaves out counts 0 here, with the target's area as its union; `dropped` marks it, and
`summary` gives the published mean over the others beside ours. Seg-Zero's own script also drops what has no union: its
function gives one number there where two are unpacked. Items without an answer that can be read are never right here,
also where nothing was to be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segzero_ros.core.contract import Mask
from training.measures.metrics import interval, ratio_interval


@dataclass(frozen=True)
class Overlap:
    """One item under one protocol. Areas in pixels; iou in [0, 1]; dropped: the published code leaves it out."""

    intersection: int
    union: int
    iou: float
    dropped: bool = False


def seg_zero(predicted: Mask | None, target: Mask, ignore: Mask | None = None, *, failed: bool = False) -> Overlap:
    """predicted: (H, W), None where there is no readable answer; failed: a model or the mask step raised."""
    _check(predicted, target, ignore)
    painted = target if ignore is None else target | ignore
    if predicted is None or failed:
        return Overlap(0, int(np.count_nonzero(painted)), 0.0, failed)
    above, below = int(np.count_nonzero(predicted & painted)), int(np.count_nonzero(predicted | painted))
    return Overlap(above, below, above / below if below else 0.0, below == 0)


def lisa(predicted: Mask | None, target: Mask, ignore: Mask | None = None, *, failed: bool = False) -> Overlap:
    """Arguments as `seg_zero`. target and ignore are apart: ignore wins where both are set, as the label 255 does."""
    _check(predicted, target, ignore)
    counted = np.ones_like(target) if ignore is None else ~ignore
    true = target & counted
    if predicted is None or failed:
        return Overlap(0, int(np.count_nonzero(true)), 0.0)
    said = predicted & counted
    above, below = int(np.count_nonzero(said & true)), int(np.count_nonzero(said | true))
    return Overlap(above, below, above / below if below else 1.0)


PROTOCOLS: dict[str, Callable[..., Overlap]] = {"seg-zero": seg_zero, "lisa": lisa}


def score(predicted: Mask | None, target: Mask, ignore: Mask | None, *, failed: bool) -> dict[str, dict[str, Any]]:
    """An item under every protocol, ready for JSON."""
    return {name: asdict(protocol(predicted, target, ignore, failed=failed)) for name, protocol in PROTOCOLS.items()}


def summary(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one protocol over `asdict(Overlap)`s, with 95 % bootstrap intervals over items.

    giou, ciou: every item counts. published_*: without the dropped ones. None where no item is left.
    """
    kept = [i for i in items if not i["dropped"]]
    out: dict[str, Any] = {"n": len(items), "dropped": len(items) - len(kept)}
    for prefix, some in (("", items), ("published_", kept)):
        values = [i["iou"] for i in some]
        above, below = [i["intersection"] for i in some], [i["union"] for i in some]
        out[f"{prefix}giou"] = round(float(np.mean(values)), 4) if some else None
        out[f"{prefix}giou_ci"] = interval(values) if some else None
        out[f"{prefix}ciou"] = round(sum(above) / sum(below), 4) if sum(below) else None
        out[f"{prefix}ciou_ci"] = ratio_interval(above, below) if sum(below) else None
    return out


def _check(predicted: Mask | None, target: Mask, ignore: Mask | None) -> None:
    for name, mask in (("predicted", predicted), ("ignore", ignore)):
        if mask is not None and mask.shape != target.shape:
            raise ValueError(f"the {name} mask is {mask.shape}, the target {target.shape}")
