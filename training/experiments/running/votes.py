"""The best and the majority of an item's samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.experiments.running.judge import judge
from training.measures.metrics import matched

SAMPLES = 8


def alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two judged answers name the same objects (every IoU > 0.5, none left over), or the same word."""
    if "boxes" not in a or "boxes" not in b:
        return bool(a.get("said") == b.get("said"))
    if not (a["parsed"] and b["parsed"]) or len(a["boxes"]) != len(b["boxes"]):
        return False
    return all(iou > 0.5 for _, _, iou in matched(a["boxes"], b["boxes"]))


def of_eight(records: Sequence[dict[str, Any]], asks: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The best of the samples by the truth, which no robot knows, and the one that most others agree with.

    The best one's records hold all texts, so that both can be found again.
    """
    best: list[Any] = []
    most: list[Any] = []
    for record in records:
        judged = [judge(asks[record["id"]], t) for t in record["texts"]]
        for j, text in zip(judged, record["texts"], strict=True):
            j["said"] = text.rpartition("<answer>")[2]
            j["text"] = text
        plain = {k: record[k] for k in ("id", "set", "kind", "scene")}
        agreed = [sum(alike(a, b) for b in judged) for a in judged]
        chosen = [{k: v for k, v in j.items() if k != "said"} for j in judged]
        best.append(plain | chosen[int(np.argmax([j["right"] for j in judged]))] | {"texts": record["texts"]})
        most.append(plain | chosen[int(np.argmax(agreed))])
    return best, most
