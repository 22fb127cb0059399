"""Writes the report: its numbers, its text and its pictures."""

from __future__ import annotations

import json
from pathlib import Path

from training.data.tabletop import sets
from training.experiments.findings.runs import load
from training.experiments.findings.samples import samples
from training.experiments.plan import Plan
from training.experiments.report import items_page, pictures
from training.experiments.report.asked import read_asked, write_asked
from training.experiments.report.compute import compute
from training.experiments.report.text import CAPTIONS, render


def write(results: Path, out: Path, plan: Plan, root: Path | None = None) -> Path:
    """Returns the report's file."""
    folder = out / "tabletop"
    folder.mkdir(parents=True, exist_ok=True)
    runs, others = load(results)
    asked = folder / "asked.json.gz"
    if root is not None:
        write_asked(root, runs, plan, asked)
    found = compute(runs, others, plan, folder)
    pictures.draw_all(found, runs, folder)
    if root is not None:
        items = read_asked(asked)["items"]
        true = {i: x["boxes"] for i, x in items.items()}
        many = samples(runs, {i: x["text"] for i, x in items.items()}, each=items_page.COLUMNS)
        seen = {n: sets.scenes_of(root, split, plan.share) for n, (split, _, _) in sets.TESTS.items()}
        items_page.draw(many, true, seen, folder / "items.png")
    found["pictures"] = [name for name in CAPTIONS if (folder / name).exists()]
    whole = json.loads(json.dumps(found))
    for path, text in ((folder / "report.json", json.dumps(whole, indent=1)), (out / "tabletop.md", render(whole))):
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)
    return out / "tabletop.md"
