"""The report's tables: a row per arm, contrast, claim, run or trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.experiments.findings.claims import ENOUGH
from training.experiments.findings.groups import BOXED, ONE_RATE, SETS, SINGLE, UNTRAINED
from training.experiments.findings.logs import LOGGED, SECONDS
from training.experiments.findings.runs import ERRORS
from training.experiments.plan import ARMS
from training.experiments.report.labels import NAMES, PANELS, label
from training.experiments.report.markdown import (
    arrow,
    estimate_of,
    interval,
    interval_of,
    mean_kl,
    per_cent,
    points,
    table,
)


def arms_there(found: Mapping[str, Any]) -> list[str]:
    return [name for name, arm in found["arms"].items() if arm["seeds"]]


def by_arm(found: Mapping[str, Any], names: Sequence[str], measure: str, over: str = "t", kl: bool = False) -> str:
    """A row per arm: its runs, those of the plan that it lacks, a cell per set, and KL."""
    arms = {name: found["arms"][name] for name in names}
    columns = [which for which in SETS if measure != "iou" or which in BOXED]
    # What none of these arms was asked is no column; where none was run, all are.
    columns = [w for w in columns if any(w in arm["sets"] for arm in arms.values())] or columns
    kl = kl and any(arm["kl_per_answer"] or not arm["seeds"] for arm in arms.values())
    rows = []
    for name, arm in arms.items():
        lacking = ", ".join(map(str, arm["missing_seeds"]))
        runs = f"{len(arm['seeds'])}{f', not run: {lacking}' if lacking else ''}" if arm["seeds"] else "**not run**"
        row = [label(name), runs, *(_cell(arm["sets"].get(which, {}).get(measure), over) for which in columns)]
        rows.append(row + ([mean_kl(arm["kl_per_answer"])] if kl else []))
    return table(["arm", "runs", *(NAMES[which] for which in columns), *(["KL, nats per answer"] if kl else [])], rows)


def _cell(cell: Mapping[str, Any] | None, over: str) -> str:
    """Level and change with one of the intervals; a single run has no interval over seeds."""
    if cell is None:
        return "–"
    mean = per_cent(cell["mean"])
    if (change := cell.get("change")) is None:
        return f"{mean} {interval(cell['items'], per_cent)}" if over == "items" else mean
    return f"{mean} ({estimate_of(change, over).strip()})"


def errors(found: Mapping[str, Any]) -> str:
    """Shares of the items, by what is wrong."""
    rows = [
        [label(name), *(per_cent(arm["errors"][w][k]) if w in arm["errors"] else "–" for w in SINGLE for k in ERRORS)]
        for name, arm in found["arms"].items()
        if arm["errors"]
    ]
    return table(["arm", *(f"{NAMES[w]}: {k}" for w in SINGLE for k in ERRORS)], rows)


def denials(found: Mapping[str, Any]) -> str:
    rows = []
    for name, one in found["denials"].items():
        row = [label(name)]
        for which in SINGLE:
            for x in (one[which]["denied"], one[which]["others"]):
                row.append(points(x["mean"]) + (f" {interval(x['t'])}" if name in ARMS else ""))
            row.append(arrow(one[which]["answered"]))
        rows.append([*row, arrow(one["balanced"])])
    if not rows:
        return "Not run: this needs the start and a trained arm."
    kinds = ("start denied", "start answered", "right of the answered")
    head = [f"{NAMES[which]}: {kind}" for which in SINGLE for kind in kinds]
    return table(("arm", *head, "mean of NOVEL and no-target"), rows)


def sizes(found: Mapping[str, Any]) -> str:
    rows = [
        (label(name), f"{s['width']:.3f}", f"{s['height']:.3f}", str(s["boxes"]))
        for name, s in found["boxes"]["sizes"].items()
    ]
    return table(("arm", "width", "height", "boxes"), rows) if rows else "Not known: this needs `--root SCENES`."


def contrasts(found: Mapping[str, Any], one_rate: bool = False) -> str:
    """A row per pair of arms and set; one_rate: only those that are compared at one learning rate, or all others."""
    by_key = {(c["a"], c["b"], c["on"], c["net"]): c for c in found["contrasts"] if c["measure"] == "right"}
    rows = []
    for (a, b, on, is_net), c in by_key.items():
        if not is_net and ((a, b) in ONE_RATE) == one_rate:
            net = by_key.get((a, b, on, True))
            values = (points(c["estimate"]), interval_of(c), interval_of(c, "items"), estimate_of(net))
            rows.append((f"{label(a)} – {label(b)}", NAMES[on], str(len(c["seeds"])), *values))
    if not rows:
        return "Not run." if one_rate else "No two arms have a seed in common yet."
    return table(("contrast", "set", "n", "points", "over seeds", "over items", "net, over seeds"), rows)


def claims(found: Mapping[str, Any]) -> str:
    rows = []
    for claim in found["claims"]:
        c = claim["contrast"]
        what = f"{label(claim['a'])} – {label(claim['b'])}, {NAMES[claim['on']]}{', net' if claim['net'] else ''}"
        if c is None:
            rows.append((claim["claim"], claim["article"], what, "", "", "", "", "**not run**"))
            continue
        few = _provisional(found, claim)
        if claim["other_verdict"] not in (None, claim["verdict"]):
            few += f"; {'as it is' if claim['net'] else 'net of the starts'}: {claim['other_verdict']}"
        values = (estimate_of(c), interval(c["items"]), str(len(c["seeds"])), estimate_of(claim["other_form"]))
        rows.append((claim["claim"], claim["article"], what, *values, f"**{claim['verdict']}**{few}"))
    head = ("claim", "article", "contrast", "points, over seeds", "over items", "n", "the other way", "at this scale")
    return table(head, rows)


def _provisional(found: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """That there are too few seeds for a verdict, or fewer than planned, so that the rest may change it."""
    there = len(claim["contrast"]["seeds"])
    if there < ENOUGH:
        return f" ({there} of {ENOUGH} seeds)"
    arms = [found["arms"][claim[side]] for side in ("a", "b") if claim[side] not in UNTRAINED]
    planned = set.intersection(*({*arm["seeds"], *arm["missing_seeds"]} for arm in arms))
    return f" (provisional: {there} of {len(planned)} seeds)" if there < len(planned) else ""


def training(training: Mapping[str, Any]) -> str:
    """A row per arm, a column per quantity that any of them logged: first -> last."""
    names = {**dict(PANELS), "reward": "reward, training"}
    keys = [key for key in LOGGED if any(key in told for told in training.values())]
    if not keys:
        return "No run left a log."
    rows = [
        [label(name), *(f"{told[k]['first']:.3g} → {told[k]['last']:.3g}" if k in told else "–" for k in keys)]
        for name, told in training.items()
    ]
    return table(["arm", *(names[key] for key in keys)], rows)


def seconds(training: Mapping[str, Any]) -> str:
    rows = [(label(n), *(f"{t[k]:.2f}" for k in SECONDS)) for n, t in training.items() if all(k in t for k in SECONDS)]
    if not rows:
        return ""
    return "Seconds per update:\n\n" + table(("arm", "generation", "reference", "reward", "loss"), rows)


def runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for r in runs:
        shape = [str(r.get(k, "")) for k in ("learning_rate", "updates", "prompts_per_update", "generations", "rows")]
        times = [f"{r[k] / 60:.1f}" if k in r else "" for k in ("train_seconds", "ask_seconds")]
        hashes = [f"`{r[k][:12]}`" if k in r else "" for k in ("start_sha256", "records_sha256")]
        sets_ = ", ".join(f"`{s['sha256'][:6]}`" for s in r["sets"].values() if "sha256" in s)
        rows.append((r["run"], *shape, *times, *hashes, sets_))
    head = ("arm-seed", "learning rate", "updates", "prompts", "n", "rows", "train, min", "ask, min")
    return table((*head, "start", "records", "sets"), rows)


def trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """A row per arm, a column per rate."""
    if not trials:
        return "No trial was written down (`tabletop/trials.jsonl`)."
    rates = sorted({t["rate"] for t in trials})
    right = {(t["arm"], t["rate"]): per_cent(t["val_id"]) for t in trials}
    arms = [name for name in ARMS if any(t["arm"] == name for t in trials)]
    rows = [[label(name), *(right.get((name, rate), "–") for rate in rates)] for name in arms]
    seeds, updates = (", ".join(sorted({str(t[key]) for t in trials})) for key in ("seed", "updates"))
    said = f"ID-like accuracy on validation scenes after {updates} updates, seed {seeds}, which is in no figure above."
    return f"{said}\n\n{table(['arm', *(f'{rate:g}' for rate in rates)], rows)}"
