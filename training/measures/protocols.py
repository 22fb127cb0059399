"""How reasoning segmentation is scored, each way named by the published script; one checkpoint differs by points.

| | ignored pixels | no union | unreadable answer | the mask step fails |
|---|---|---|---|---|
| `seg-zero` | target | left out | I = 0, U = target | the same: I = 0, U = target |
| `seg-zero-multi-object` | target | left out | I = 0, U = target | left out |
| `vision-reasoner` | target | 0 | empty mask | empty mask |
| `grefcoco` | target | 1 without a box, else 0 | empty mask, no box: 1 where nothing is | 0 |
| `star` | target | 1 | I = 0, U = target: 1 where nothing is | left out |
| `lisa` | count neither way | 1 | I = 0, U = target; 0 where nothing is | does not happen; the same |

* `seg-zero`, `seg-zero-multi-object`: dvlab-research/Seg-Zero, evaluation_scripts/evaluation.py and
  evaluation_visionreasoner.py, with calculate_iou.py. Ignored pixels of ReasonSeg are painted as target by
  create_reasonseg_hf.py (1 and 255 become bool), in the copies of the data that all of these read.
* `vision-reasoner`: JIA-Lab-research/VisionReasoner, evaluation/evaluation_segmentation.py, calculate_iou_with_bbox.py;
  its masks are those until one fails, here none. `grefcoco`: the same with calculate_iou_with_bbox_nonobj.py, whose
  batch that fails as a whole is 1 where nothing is to be found, here 0.
* `star`: ysj9909/StAR, evaluation_scripts/evaluation_star.py, calculate_iou.py.
* `lisa`: dvlab-research/LISA, utils/data_processing.py, utils/utils.py intersectionAndUnionGPU, train_ds.py validate;
  it adds 1e-5 to an item's union, which changes its IoU by less than 1e-5 and is left out here.

gIoU is the mean of the items' IoU, cIoU the sum of intersections over the sum of unions. An item that the script leaves
out counts 0 here (where the union is 0 as well), with the target's area as its union; `dropped` marks it, and `summary`
gives the published mean over the others beside ours. Where nothing is said to match, the scripts encode the image all
the same and fail where they cannot; here that is an answer.
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


def _painted(predicted: Mask | None, target: Mask, ignore: Mask | None, failed: bool, empty: float) -> Overlap:
    """Ignored pixels are target. empty: the IoU where the union is 0."""
    _check(predicted, target, ignore)
    painted = target if ignore is None else target | ignore
    said = np.zeros_like(painted) if predicted is None or failed else predicted
    above, below = int(np.count_nonzero(said & painted)), int(np.count_nonzero(said | painted))
    return Overlap(above, below, above / below if below else empty)


def _dropped(found: Overlap, dropped: bool) -> Overlap:
    return Overlap(found.intersection, found.union, 0.0, True) if dropped else found


def seg_zero(predicted: Mask | None, target: Mask, ignore: Mask | None = None, *, failed: bool = False) -> Overlap:
    """predicted: (H, W), None where there is no readable answer; failed: a model or the mask step raised.

    An empty union makes the script's own function give one number where two are unpacked, which leaves the item out; an
    answer that it cannot read is never unpacked.
    """
    found = _painted(predicted, target, ignore, failed, 0.0)
    return _dropped(found, found.union == 0 and predicted is not None and not failed)


def seg_zero_multi_object(
    predicted: Mask | None, target: Mask, ignore: Mask | None = None, *, failed: bool = False
) -> Overlap:
    """Arguments as `seg_zero`."""
    found = seg_zero(predicted, target, ignore, failed=failed)
    return _dropped(found, found.dropped or failed)


def vision_reasoner(
    predicted: Mask | None, target: Mask, ignore: Mask | None = None, *, failed: bool = False
) -> Overlap:
    """Arguments as `seg_zero`."""
    return _painted(predicted, target, ignore, failed, 0.0)


def grefcoco(
    predicted: Mask | None,
    target: Mask,
    ignore: Mask | None = None,
    *,
    failed: bool = False,
    boxes: int | None = None,
) -> Overlap:
    """1 where nothing is to be found and no box is said, whatever the answer's form.

    Arguments as `seg_zero`. boxes: how many were said; None: one if anything is predicted.
    """
    found = _painted(predicted, target, ignore, failed, 0.0)
    count = int(predicted is not None and bool(predicted.any())) if boxes is None else boxes
    right = not count and not failed and not target.any() and (ignore is None or not ignore.any())
    return Overlap(found.intersection, found.union, 1.0) if right else found


def star(predicted: Mask | None, target: Mask, ignore: Mask | None = None, *, failed: bool = False) -> Overlap:
    """Arguments as `seg_zero`."""
    return _dropped(_painted(predicted, target, ignore, failed, 1.0), failed)


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


PROTOCOLS: dict[str, Callable[..., Overlap]] = {
    "seg-zero": seg_zero,
    "seg-zero-multi-object": seg_zero_multi_object,
    "vision-reasoner": vision_reasoner,
    "grefcoco": grefcoco,
    "star": star,
    "lisa": lisa,
}


def score(
    predicted: Mask | None, target: Mask, ignore: Mask | None, *, failed: bool, boxes: int | None = None
) -> dict[str, dict[str, Any]]:
    """An item under every protocol, ready for JSON."""
    found = {name: protocol(predicted, target, ignore, failed=failed) for name, protocol in PROTOCOLS.items()}
    found["grefcoco"] = grefcoco(predicted, target, ignore, failed=failed, boxes=boxes)
    return {name: asdict(overlap) for name, overlap in found.items()}


def of_script(script: str) -> str:
    """The protocol by which a script of published.SCRIPTS scores its own answers; "" where it has none."""
    name = "star" if script == "star-qwen3" else script
    return name if name in PROTOCOLS else ""


def known_to(items: Sequence[dict[str, Any]]) -> list[str]:
    """The protocols by which all of some items' `score`s count; those of the first form of records where there is no
    item."""
    if not items:
        return ["seg-zero", "lisa"]
    return [name for name in PROTOCOLS if all(name in item for item in items)]


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
