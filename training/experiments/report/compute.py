"""The report's numbers, from the runs and from what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.experiments.findings import boxes
from training.experiments.findings.figures import findings
from training.experiments.findings.groups import planned
from training.experiments.findings.runs import Runs
from training.experiments.findings.samples import samples
from training.experiments.plan import Plan
from training.experiments.report.asked import read_asked
from training.experiments.run_files import parse_lines


def compute(runs: Runs, others: Sequence[str], plan: Plan, folder: Path) -> dict[str, Any]:
    """All of report.json but which pictures there are."""
    asked = read_asked(folder / "asked.json.gz")
    texts = {i: x["text"] for i, x in asked["items"].items()}
    wanted = planned(plan)
    used = {name: {s: r for s, r in seeds.items() if (name, s) in wanted} for name, seeds in runs.items()}
    return {
        **findings(runs, plan, others),
        "boxes": boxes.found(used, {i: x["boxes"] for i, x in asked["items"].items()}),
        "samples": samples(runs, texts),
        "overlaps": asked["overlaps"],
        "trials": read_lines(folder / "trials.jsonl"),
        "abandoned": read_lines(folder / "abandoned.jsonl"),
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSONL; none where there is no file. Raises ResultsError naming the line."""
    return parse_lines(path, path.read_text()) if path.exists() else []
