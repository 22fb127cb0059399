"""What became of the start's denials where there is something to find."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.experiments.findings.estimates import over_seeds, rounded
from training.experiments.findings.groups import SINGLE, start_of
from training.experiments.findings.runs import Run, Runs


def denials(runs: Runs, name: str) -> dict[str, Any] | None:
    """Of the start's own denials on sets where there always is something, and of all else, what became.

    denied, others: points of the whole set gained among the items that the start denied, and among the others, over
    seeds. answered: share right of the answers with a box. balanced: mean of NOVEL and no-target, so that answering
    always, and denying always, win nothing.
    """
    begin, seeds = runs.get(start_of(name), {}).get(0), runs.get(name, {})
    some = [r for r in seeds.values() if all(which in r.items for which in (*SINGLE, "no_target"))]
    if begin is None or not some:
        return None
    found: dict[str, Any] = {}
    for which in SINGLE:
        before = begin.denied[which]
        changes = [r.values["right"][which] - begin.values["right"][which] for r in some]
        parts = {"denied": [c[before].sum() / len(c) for c in changes]}
        parts["others"] = [c[~before].sum() / len(c) for c in changes]
        found[which] = {k: {"mean": rounded(float(np.mean(v))), "t": over_seeds(v)} for k, v in parts.items()}
        answered = [_answered(r, which) for r in (begin, *some)]
        found[which]["answered"] = {"start": rounded(answered[0]), "mean": rounded(float(np.mean(answered[1:])))}
    levels = [(r.values["right"]["novel"].mean() + r.values["right"]["no_target"].mean()) / 2 for r in (begin, *some)]
    found["balanced"] = {"start": rounded(levels[0]), "mean": rounded(float(np.mean(levels[1:])))}
    return found


def _answered(run: Run, which: str) -> float:
    kept = run.values["right"][which][~run.denied[which] & (run.values["parsed"][which] > 0)]
    return float(kept.mean()) if len(kept) else 0.0
