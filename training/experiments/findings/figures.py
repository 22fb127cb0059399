"""Every figure of the runs, in one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training.experiments.findings.claims import CLAIMS, ENOUGH, MARGIN, judged
from training.experiments.findings.contrasts import contrast, contrasts
from training.experiments.findings.denials import denials
from training.experiments.findings.estimates import RESAMPLES, over_items, over_seeds, rounded
from training.experiments.findings.forgetting import forgetting, points
from training.experiments.findings.groups import GROUPS, KNOWN, SETS, SINGLE, STARTS, UNDENIED, planned, reference
from training.experiments.findings.logs import training
from training.experiments.findings.runs import ERRORS, Run, Runs
from training.experiments.plan import ARMS, Plan
from training.experiments.run_files import ResultsError

LISTED = (
    "learning_rate",
    "updates",
    "prompts_per_update",
    "generations",
    "rows",
    "train_seconds",
    "ask_seconds",
    "kl_per_answer",
    "start_sha256",
)


def findings(runs: Runs, plan: Plan, others: Sequence[str] = ()) -> dict[str, Any]:
    """The report in numbers, JSON. Runs that the plan does not have are named and are in no figure."""
    wanted = planned(plan)
    used = {n: {s: r for s, r in seeds.items() if (n, s) in wanted} for n, seeds in runs.items()}
    used = {name: seeds for name, seeds in used.items() if seeds}
    if not used:
        raise ResultsError("no run that is there is one of the plan")
    every = [run for seeds in runs.values() for run in seeds.values()]
    return {
        "intervals": {"level": 0.95, "resamples": RESAMPLES, "enough_seeds": ENOUGH, "margin": MARGIN},
        "sets": _sets(used),
        "arms": {name: _arm(used, name, wanted) for name in KNOWN},
        "contrasts": contrasts(used),
        "claims": [judged(used, claim) for claim in CLAIMS],
        "forgetting": forgetting(used),
        "denials": {name: one for name in (*ARMS, UNDENIED) if (one := denials(used, name))},
        "points": points(used),
        "training": {name: training(list(seeds.values())) for name, seeds in used.items() if name in ARMS},
        "runs": [_listed(run) for run in every if (run.name, run.seed) in wanted],
        "unplanned": [_listed(run) for run in every if (run.name, run.seed) not in wanted],
        "not_run": [f"{n}-{s}" for n, s in wanted if s not in runs.get(n, {})],
        "planned": len(wanted),
        "other_files": list(others),
    }


def _sets(runs: Runs) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for run in (r for seeds in runs.values() for r in seeds.values()):
        for which, items in run.items.items():
            known = found.setdefault(which, {"n": len(items), "scenes": len({scene for _, scene in items})})
            if sha256 := run.summary["sets"][which].get("sha256"):
                known["sha256"] = sha256
    return {which: found[which] for which in SETS if which in found}


def _arm(runs: Runs, name: str, wanted: Sequence[tuple[str, int]]) -> dict[str, Any]:
    seeds = runs.get(name, {})
    missing = [s for n, s in wanted if n == name and s not in seeds]
    kl = [r.summary["kl_per_answer"] for r in seeds.values() if r.summary.get("kl_per_answer") is not None]
    return {
        "group": next(group for group, names in GROUPS.items() if name in names),
        "question": ARMS[name].question if name in ARMS else "",
        "reference": reference(name),
        "seeds": list(seeds),
        "missing_seeds": missing,
        "sets": {which: _cell(runs, name, which) for which in SETS if any(which in r.items for r in seeds.values())},
        "errors": _mean_errors(list(seeds.values())),
        "kl_per_answer": {"mean": rounded(np.mean(kl)), "t": over_seeds(kl)} if kl else None,
    }


def _mean_errors(seeds: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Per set and kind of error, over seeds."""
    some = {which: [r.errors[which] for r in seeds if which in r.errors] for which in SINGLE}
    return {w: {k: rounded(float(np.mean([e[k] for e in each]))) for k in ERRORS} for w, each in some.items() if each}


def _cell(runs: Runs, name: str, which: str) -> dict[str, Any]:
    """Mean over seeds, its intervals, and the paired difference to the start."""
    some = [r for r in runs[name].values() if which in r.items]
    scenes = [scene for _, scene in some[0].items[which]]
    cell: dict[str, Any] = {}
    for measure in ("right", "iou", "parsed"):
        if which not in some[0].values[measure]:
            continue
        by_seed = np.stack([r.values[measure][which] for r in some])
        cell[measure] = {
            "mean": rounded(by_seed.mean()),
            "by_seed": [rounded(v) for v in by_seed.mean(1)],
            "t": over_seeds(by_seed.mean(1).tolist()),
            "items": over_items(by_seed.mean(0), scenes),
        }
        if name not in STARTS and measure != "parsed":
            found = contrast(runs, name, reference(name), which, measure)
            cell[measure]["change"] = found and asdict(found)
    return cell


def _listed(run: Run) -> dict[str, Any]:
    """What a reader needs to find and to judge a run."""
    return {
        "run": run.title,
        **{key: run.summary[key] for key in LISTED if key in run.summary},
        "updates_logged": max((r.get("step", 0) for r in run.log()), default=0),
        "sets": {which: {k: v for k, v in s.items() if k != "parsed"} for which, s in run.summary["sets"].items()},
        "records_sha256": run.records_sha256,
    }
