"""tabletop.md from the numbers alone; the words that are always the same are in template.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from training.experiments.findings.groups import GROUPS
from training.experiments.findings.logs import ENDS
from training.experiments.report import sentences, tables
from training.experiments.report.labels import NAMES
from training.experiments.report.markdown import per_cent, table

TEMPLATE = Path(__file__).with_name("template.md")
CAPTIONS = {
    "plane.png": "What was forgotten against the gain and against KL: one point per run, large the arm's mean.",
    "bars.png": "Right answers per set.",
    "curves.png": "Training, main arms and control.",
    "curves_ablations.png": "Training, ablations beside GRPO with thought.",
    "boxes.png": "Share of the boxes on ID with an IoU above .5, were they so many times as large; large: at its most.",
    "items.png": "Wins and failures: the same items before and after.",
}


def render(found: Mapping[str, Any]) -> str:
    """found: what report.json holds."""
    n = found["intervals"]
    parts = {
        "state": sentences.state(found),
        "asked_for": sentences.asked_for(found),
        "other_grpo": sentences.other_grpo(found),
        "resamples": n["resamples"],
        "enough": n["enough_seeds"],
        "margin": per_cent(n["margin"]),
        "ends": ENDS,
        "sets": table(
            ("set", "items", "scenes", "sha256"),
            [
                (NAMES[k], str(s["n"]), str(s["scenes"]), f"`{s.get('sha256', '')[:16]}`")
                for k, s in found["sets"].items()
            ],
        ),
        "overlaps": sentences.overlaps(found["overlaps"]),
        **{group.replace(" ", "_"): tables.by_arm(found, names, "right", kl=True) for group, names in GROUPS.items()},
        "over_items": tables.by_arm(found, tables.arms_there(found), "right", over="items"),
        "box_iou": tables.by_arm(found, tables.arms_there(found), "iou"),
        "parsed": tables.by_arm(found, tables.arms_there(found), "parsed"),
        "errors": tables.errors(found),
        "denials": tables.denials(found),
        "sizes": tables.sizes(found),
        "scales": _picture(found, "boxes.png"),
        "denials_said": sentences.denials(found),
        "contrasts": tables.contrasts(found),
        "one_rate": tables.contrasts(found, one_rate=True),
        "rates": sentences.rates(found),
        "control": sentences.control(found),
        "claims": tables.claims(found),
        "forgetting": sentences.forgetting(found),
        "why": sentences.why(found),
        "training": tables.training(found["training"]),
        "seconds": tables.seconds(found["training"]),
        "samples": sentences.samples(found["samples"]) + "\n\n" + _picture(found, "items.png"),
        "hours": sentences.hours(found["runs"]),
        "runs": tables.runs(found["runs"]),
        "not_run": sentences.not_run(found),
        "trials": tables.trials(found["trials"]),
        "abandoned": sentences.abandoned(found["abandoned"]),
        "bars": _picture(found, "bars.png"),
        "plane": _picture(found, "plane.png"),
        "curves": _picture(found, "curves.png") + "\n\n" + _picture(found, "curves_ablations.png"),
    }
    text = Template(TEMPLATE.read_text()).substitute(parts)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _picture(found: Mapping[str, Any], name: str) -> str:
    return f"![{name.partition('.')[0]}](tabletop/{name})\n\n*{CAPTIONS[name]}*" if name in found["pictures"] else ""
