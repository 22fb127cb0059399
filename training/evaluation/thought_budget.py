r"""Accuracy against the thought's budget, as a file of results, a table and a picture: docs/thought-budget.md.

    python -m training.evaluation.thought_budget RECORDS...    # into training/experiments/results/thought_budget.json
    python -m training.evaluation.thought_budget --page docs/thought-budget.md \
        --picture docs/pictures/thought-budget.png

RECORDS are those of `segzero-train evaluate --records`, over the same items; budget and constraint stand in their
settings. Of each the first `--n` items are taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluation.figures import figures
from training.measures import markdown
from training.measures.records import load

RESULTS = Path(__file__).parents[1] / "experiments" / "results" / "thought_budget.json"
FIGURES = ("box_acc", "no_target_acc", "parse_ok")


def row(path: Path, n: int) -> dict[str, Any]:
    """The figures of one run."""
    settings, records = load([path], "absent")
    records = [r for r in records if r["index"] < n]
    found = figures(records)
    kept = {name: found[name] for f in FIGURES for name in (f, f"{f}_ci")}
    return {
        "budget": settings.get("thought_budget"),
        "constrain": bool(settings.get("constrain")),
        "reasoner": settings["reasoner"]["weights"],
        "data": settings["data"],
        "n": len(records),
        "tokens": round(float(np.mean([r["tokens"] for r in records])), 1),
        **kept,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| budget | constrained | box_acc | no_target_acc | parse_ok | tokens of a text |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        shown = [f"{r[f]:.3f} [{r[f + '_ci'][0]:.2f}, {r[f + '_ci'][1]:.2f}]" for f in FIGURES]
        budget = "none" if r["budget"] is None else r["budget"]
        lines.append(f"| {budget} | {'yes' if r['constrain'] else 'no'} | {' | '.join(shown)} | {r['tokens']} |")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Box accuracy with its interval; no budget stands at the right."""
    from matplotlib.figure import Figure

    budgets = sorted({r["budget"] for r in rows if r["budget"] is not None})
    places = {b: x for x, b in enumerate([*budgets, None])}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for constrain, name, colour in ((True, "constrained", "tab:blue"), (False, "not constrained", "tab:orange")):
        some = [r for r in rows if r["constrain"] == constrain]
        x = [places[r["budget"]] for r in some]
        y = np.array([r["box_acc"] for r in some])
        low, high = np.array([r["box_acc_ci"] for r in some]).T
        axes.errorbar(x, y, yerr=[y - low, high - y], marker="o", capsize=3, color=colour, label=name)
    axes.set_xticks(list(places.values()), ["none" if b is None else str(b) for b in places])
    axes.set(xlabel="tokens that the thought may take", ylabel="box accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    part = path.with_name(f".{path.name}")
    figure.savefig(part, dpi=100, format="png")
    part.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("records", type=Path, nargs="*")
    p.add_argument("--n", type=int, default=200)
    p.add_argument("--results", type=Path, default=RESULTS)
    p.add_argument("--page", type=Path)
    p.add_argument("--picture", type=Path)
    a = p.parse_args(argv)
    if a.records:
        rows = [row(path, a.n) for path in a.records]
        rows.sort(key=lambda r: (not r["constrain"], r["budget"] is None, r["budget"] or 0))
        a.results.write_text(json.dumps(rows, indent=1) + "\n")
    rows = json.loads(a.results.read_text())
    if a.page:
        markdown.write(a.page, "budget", table(rows))
    if a.picture:
        draw(rows, a.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
