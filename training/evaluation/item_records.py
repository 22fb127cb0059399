"""Everything about one item, ready for JSON; every figure is made from these records alone."""

from __future__ import annotations

import numpy as np

from segzero_ros.core.contract import Point, Segmentation, Status
from segzero_ros.core.geometry import rle_encode, union_mask
from training.data.samples import LeftOut
from training.evaluation.items import Asked, Case, Target, Unseen, reason_of
from training.measures import protocols
from training.measures.metrics import box_accuracy, intersection_union, lenient_box_hit, matched
from training.measures.records import Record

FORM = 2  # of records: the first had two protocols, and said nothing of scripts
ANSWERED = ("OK", "NO_OBJECT")
READABLE = (*ANSWERED, "PARSE_ERROR")


def record(index: int, case: Case, asked: Asked, result: Segmentation) -> Record:
    """Everything about one item, ready for JSON."""
    height, width = asked.image.shape[:2]
    true, ignore = asked.truth(), asked.ignore
    predicted = union_mask((i.packed for i in result.instances), height, width)
    boxes = [i.prompt_box or i.box for i in result.instances]
    true_boxes = [t.box for t in asked.targets]
    inside = 0
    for p, t, _ in matched(boxes, true_boxes):
        points = result.instances[p].prompt_points
        inside += bool(points) and _hit(points[0], asked.targets[t], height, width)
    answered, failed = result.status.value in ANSWERED, result.status.value not in READABLE
    intersection, union = intersection_union(predicted, true) if true is not None else (None, None)
    scored = None
    if true is not None:
        scored = protocols.score(predicted if answered else None, true, ignore, failed=failed, boxes=len(boxes))
    # As published: ignored pixels are target, and what failed has no boxes.
    painted = true if true is None or ignore is None else true | ignore
    lenient = None if painted is None else float(lenient_box_hit(boxes, painted) and not failed)
    return {
        "index": index,
        "id": case.id,
        **case.about,
        "kind": case.kind,
        "instruction": asked.text,
        "size": [height, width],
        "absent": not asked.targets,
        "status": result.status.value,
        "message": result.message,
        "text": result.text,
        "reasoning": result.reasoning,
        "answer": result.answer,
        "true_boxes": [list(b) for b in true_boxes],
        "boxes": [list(map(float, b)) for b in boxes],
        "points": [[list(p) for p in i.prompt_points] for i in result.instances],
        "labels": [i.label for i in result.instances],
        "scores": [i.score for i in result.instances],
        "masks": [rle_encode(i.mask) for i in result.instances],
        **({"mended": list(asked.mended)} if asked.mended else {}),
        "ignored": int(np.count_nonzero(ignore)) if ignore is not None else 0,
        "tokens": result.timing.completion_tokens,
        "box_acc": box_accuracy(boxes, true_boxes),
        "point_acc": inside / max(len(boxes), len(asked.targets), 1),
        "box_acc_lenient": lenient,
        "intersection": intersection,
        "union": union,
        "protocols": scored,
    }


def unread(index: int, case: Case, error: Exception) -> Record:
    """An item that no model was asked: what is known of it, its answer as wrong as one can be."""
    found = {"index": index, "id": case.id, "kind": case.kind, **case.about}
    if isinstance(error, LeftOut):
        return found | {"status": "LEFT_OUT", "message": str(error)}
    if isinstance(error, Unseen):
        height, width = error.asked.image.shape[:2]
        found = record(
            index, case, error.asked, Segmentation(Status.BACKEND_ERROR, "", error.asked.text, height, width)
        )
    return found | {"status": "UNREAD", "message": reason_of(error)}


def _hit(point: Point, target: Target, height: int, width: int) -> bool:
    """Inside the mask, or inside the box where there is none."""
    x, y = (int(min(max(v, 0), side - 1)) for v, side in zip(point, (width, height), strict=True))
    if target.mask is not None:
        return bool(target.mask[y, x])
    x1, y1, x2, y2 = target.box
    return x1 <= point[0] < x2 and y1 <= point[1] < y2
