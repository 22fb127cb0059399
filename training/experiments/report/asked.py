"""What was asked: every test item with its true boxes, kept beside the report, so that it needs no scenes again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.data.tabletop import sets
from training.data.tabletop.questions import Ask
from training.data.tabletop.store import Scenes
from training.experiments.findings.runs import Runs
from training.experiments.plan import Plan
from training.experiments.run_files import ResultsError, unpack, write_packed


def write_asked(root: Path, runs: Runs, plan: Plan, path: Path) -> None:
    """Raises ResultsError where the scenes are not those that the runs were asked over."""
    chosen = sets.tests(root, plan.share)
    for run in (r for seeds in runs.values() for r in seeds.values()):
        for which, items in run.items.items():
            sha256 = run.summary["sets"][which].get("sha256", chosen[which].digest)
            if items != tuple((i.id, i.scene) for i in chosen[which].items) or sha256 != chosen[which].digest:
                raise ResultsError(f"{root} gives another set {which} than {run.file} was asked")
    whole = all((root / s).is_dir() and len(Scenes(root / s)) >= n for s, n in sets.SCENES.items())
    found = {
        "items": {i.id: _item(i.ask) for one in chosen.values() for i in one.items},
        "overlaps": sets.overlaps(root) if whole else None,
    }
    write_packed(path, json.dumps(found).encode(), named=True)


def _item(ask: Ask) -> dict[str, Any]:
    return {"text": ask.text, "boxes": [list(t.box) for t in ask.targets], "answer": ask.answer}


def read_asked(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"items": {}, "overlaps": None}
    return dict(json.loads(unpack(path)))
