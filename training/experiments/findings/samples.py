"""Items before and after training, drawn by chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from training.experiments.findings.groups import STARTS
from training.experiments.findings.runs import Runs


def samples(
    runs: Runs, instructions: Mapping[str, str], each: int = 2, arm: str = "grpo_thought"
) -> list[dict[str, Any]]:
    """The same items before and after, of the first seed: gained, lost, wrong and right both times, drawn by chance."""
    if STARTS[0] not in runs or arm not in runs:
        return []
    seed = min(runs[arm])
    before, after = ({r["id"]: r for r in run.records()} for run in (runs[STARTS[0]][0], runs[arm][seed]))
    outcomes = {
        "gained": (False, True),
        "lost": (True, False),
        "wrong both times": (False, False),
        "kept": (True, True),
    }
    found = []
    for which in ("id", "novel"):
        shared = [i for i in sorted(before) if i in after and before[i]["set"] == which]
        for outcome, wanted in outcomes.items():
            some = [i for i in shared if (before[i]["right"] > 0.5, after[i]["right"] > 0.5) == wanted]
            order = np.random.default_rng(0).permutation(len(some))[:each]
            for i in (some[n] for n in order):
                x, y = before[i], after[i]
                found.append(
                    {
                        **{"set": which, "outcome": outcome, "count": len(some), "of": len(shared)},
                        **{"id": i, "seed": seed, "scene": x["scene"], "kind": x["kind"]},
                        "instruction": instructions.get(i, ""),
                        **{"before": x["text"], "after": y["text"]},
                        **{"boxes_before": x.get("boxes", []), "boxes_after": y.get("boxes", [])},
                        **{"iou_before": x.get("iou", 0.0), "iou_after": y.get("iou", 0.0)},
                    }
                )
    return found
