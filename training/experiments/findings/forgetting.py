"""What was forgotten, against what was gained and how far the policy went."""

from __future__ import annotations

from typing import Any

from scipy import stats

from training.experiments.findings.estimates import rounded
from training.experiments.findings.groups import SETS, start_of
from training.experiments.findings.runs import Runs
from training.experiments.plan import ARMS


def points(runs: Runs) -> list[dict[str, Any]]:
    """One per trained run: what it gained, what it lost and how far it went (RL's Razor, arXiv 2509.04259)."""
    found = []
    for name in ARMS:
        for seed, run in runs.get(name, {}).items():
            begin = runs.get(start_of(name), {}).get(0)
            if begin is None:
                continue
            change = {
                which: rounded((run.values["right"][which] - begin.values["right"][which]).mean())
                for which in SETS
                if which in run.items and which in begin.items
            }
            kl = run.summary.get("kl_per_answer")
            found.append({"arm": name, "seed": seed, "kl_per_answer": kl, "change": change})
    return found


def forgetting(runs: Runs) -> list[dict[str, Any]]:
    """Spearman's rank correlation over trained runs of what was forgotten with KL, and with the gain."""
    some = [p for p in points(runs) if p["kl_per_answer"] is not None]
    found = []
    for on in ("retained", "questions"):
        for against in ("kl_per_answer", "id"):
            pairs = [
                (p["kl_per_answer"] if against == "kl_per_answer" else p["change"][against], p["change"][on])
                for p in some
                if on in p["change"] and "id" in p["change"]
            ]
            x, y = ([pair[n] for pair in pairs] for n in (0, 1))
            varied = len(pairs) > 2 and len(set(x)) > 1 and len(set(y)) > 1
            rho = rounded(stats.spearmanr(x, y).statistic) if varied else None
            found.append({"change": on, "against": against, "spearman": rho, "runs": len(pairs)})
    return found
