"""The experiment's report from what its runs left: tabletop.md, its numbers in report.json, and pictures.

    python -m training.experiments.report                             # reads results/tabletop/runs, writes results
    python -m training.experiments.report ... --root build/tabletop   # also writes down what was asked, draws items
    python -m training.experiments.report ... --check                 # recomputes every number; 1 if one differs

Written are OUT/tabletop.md and OUT/tabletop/{report.json,*.png}. With --root also OUT/tabletop/asked.json.gz: every
test item's instruction and true boxes, taken from the scenes only if they give the sets' sha256 again, and how many
images the splits share. Where that file is, --check also judges every recorded text anew by the truth.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from tqdm import tqdm

from training.data.tabletop import sets
from training.data.tabletop.questions import Ask
from training.data.tabletop.store import Scenes, Thing
from training.experiments import boxes, pictures
from training.experiments import findings as f
from training.experiments.arms import ABLATIONS, AFTERWARDS, ARMS, MAIN, Plan
from training.experiments.ask import judge
from training.experiments.controls import of_eight
from training.experiments.pictures import NAMES, label
from training.experiments.reproduce import PLAN, RESULTS, plan_of

TEMPLATE = Path(__file__).with_name("report_template.md")
TOLERANCE = 1.5e-5  # figures are rounded to five digits, and another BLAS may round the last one otherwise
SHOWN = ("plane.png", "bars.png", "curves.png", "curves_ablations.png", "boxes.png", "items.png")
CAPTIONS = {
    "plane.png": "What was forgotten against the gain and against KL: one point per run, large the arm's mean.",
    "bars.png": "Right answers per set.",
    "curves.png": "Training, main arms and control.",
    "curves_ablations.png": "Training, ablations beside GRPO with thought.",
    "boxes.png": "Share of the boxes on ID with an IoU above .5, were they so many times as large; large: at its most.",
    "items.png": "Wins and failures: the same items before and after.",
}
WHY = """The one outcome that was asked for is not established. What the records say of it is under [Denials and
boxes](#denials-and-boxes).{rate} Other causes that the tables speak for or against: no signal (share of groups without
spread); a reward that rises while greedy validation does not; answers cut off or not parsed; an entropy that collapses
or grows; a policy that did not move (KL); nothing left to learn (the start's best of 8)."""


# What was asked


def write_asked(root: Path, runs: f.Runs, plan: Plan, path: Path) -> None:
    """Raises ReportError where the scenes are not those that the runs were asked over."""
    chosen = sets.tests(root, plan.share)
    for run in (r for seeds in runs.values() for r in seeds.values()):
        for which, items in run.items.items():
            sha256 = run.summary["sets"][which].get("sha256", chosen[which].digest)
            if items != tuple((i.id, i.scene) for i in chosen[which].items) or sha256 != chosen[which].digest:
                raise f.ReportError(f"{root} gives another set {which} than {run.file} was asked")
    whole = all((root / s).is_dir() and len(Scenes(root / s)) >= n for s, n in sets.SCENES.items())
    found = {
        "items": {i.id: _item(i.ask) for one in chosen.values() for i in one.items},
        "overlaps": sets.overlaps(root) if whole else None,
    }
    part = path.with_suffix(".part")
    with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write(json.dumps(found).encode())
    part.replace(path)


def _item(ask: Ask) -> dict[str, Any]:
    return {"text": ask.text, "boxes": [list(t.box) for t in ask.targets], "answer": ask.answer}


def read_asked(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"items": {}, "overlaps": None}
    return dict(json.loads(gzip.decompress(path.read_bytes())))


def judged_anew(runs: f.Runs, items: Mapping[str, Any]) -> list[str]:
    """Records whose text, judged by the truth again, is not what they say."""
    wrong = []
    asks = {
        i: Ask(
            "", x["text"], "", tuple(Thing(0, "", "", tuple(b), 0, 0.0, (0, 0)) for b in x["boxes"]), (), x["answer"]
        )
        for i, x in items.items()
    }
    every = [run for seeds in runs.values() for run in seeds.values()]
    wrong += _voted_anew(runs, asks)
    for run in tqdm(every, desc="judged anew", unit="run", leave=False):
        for record in run.records():
            if record["id"] not in asks:
                wrong.append(f"{run.title}: {record['id']} is no item that was asked")
                continue
            again = judge(asks[record["id"]], record["text"])
            for key in ("right", "parsed", "iou", "boxes"):
                if record.get(key) != again.get(key):
                    wrong.append(f"{run.title}: {record['id']}: {key} {record.get(key)}, judged anew {again.get(key)}")
    return wrong


def _voted_anew(runs: f.Runs, asks: dict[str, Ask]) -> list[str]:
    """Votes that the samples, chosen from again, do not give."""
    best, most = (runs.get(name, {}).get(0) for name in ("start_best_of_8", "start_majority_of_8"))
    if best is None or most is None:
        return []
    sampled = [r for r in best.records() if r["id"] in asks and "texts" in r]
    wrong = []
    for run, again in zip((best, most), of_eight(sampled, asks), strict=True):
        said = {r["id"]: r["text"] for r in run.records()}
        wrong += [f"{run.title}: {r['id']}: another of the samples" for r in again if said.get(r["id"]) != r["text"]]
    return wrong


# The text


def render(found: Mapping[str, Any]) -> str:
    """tabletop.md from the numbers alone; the words are in report_template.md."""
    n = found["intervals"]
    parts = {
        "state": _state(found),
        "asked_for": _asked_for(found),
        "other_grpo": _other_grpo(found),
        "resamples": n["resamples"],
        "enough": n["enough_seeds"],
        "margin": _share(n["margin"]),
        "ends": f.ENDS,
        "sets": _table(
            ("set", "items", "scenes", "sha256"),
            [
                (NAMES[k], str(s["n"]), str(s["scenes"]), f"`{s.get('sha256', '')[:16]}`")
                for k, s in found["sets"].items()
            ],
        ),
        "overlaps": _overlaps(found["overlaps"]),
        **{group.replace(" ", "_"): _arms(found, names, "right", kl=True) for group, names in f.GROUPS.items()},
        "over_items": _arms(found, _there(found), "right", over="items"),
        "box_iou": _arms(found, _there(found), "iou"),
        "parsed": _arms(found, _there(found), "parsed"),
        "errors": _errors(found),
        "denials": _denials(found),
        "sizes": _sizes(found),
        "scales": _picture(found, "boxes.png"),
        "denials_said": _denials_said(found),
        "contrasts": _contrasts(found),
        "one_rate": _contrasts(found, one_rate=True),
        "rates": _rates(found),
        "control": _control(found),
        "claims": _claims(found),
        "forgetting": _forgetting(found),
        "why": "" if found["claims"][0]["verdict"] == "held" else WHY.format(rate=_rate(found)),
        "training": _training(found["training"]),
        "seconds": _seconds(found["training"]),
        "samples": _samples(found["samples"]) + "\n\n" + _picture(found, "items.png"),
        "hours": _hours(found["runs"]),
        "runs": _runs(found["runs"]),
        "not_run": _not_run(found),
        "trials": _trials(found["trials"]),
        "abandoned": _abandoned(found["abandoned"]),
        "bars": _picture(found, "bars.png"),
        "plane": _picture(found, "plane.png"),
        "curves": _picture(found, "curves.png") + "\n\n" + _picture(found, "curves_ablations.png"),
    }
    text = Template(TEMPLATE.read_text()).substitute(parts)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *rest = ("| " + " | ".join(row) + " |" for row in (head, *rows))
    return "\n".join([first, "|" + " --- |" * len(head), *rest])


def _share(x: float) -> str:
    return f"{100 * x:.1f}"


def _points(x: float) -> str:
    return f"{100 * x:+.1f}"


def _range(pair: Sequence[float] | None, form: Callable[[float], str] = _points) -> str:
    return "one seed" if pair is None else f"[{form(pair[0])}, {form(pair[1])}]"


def _state(found: Mapping[str, Any]) -> str:
    ready = found["planned"] - len(found["not_run"])
    text = f"**{ready} of {found['planned']} planned runs have a result.**"
    if found["not_run"]:
        text += " The others are listed under [Not run](#not-run), and in every table where they are missing."
    single = [label(n) for n in ARMS if len(found["arms"][n]["seeds"]) == 1]
    if single:
        text += (
            f"\n\n**One seed only: {'; '.join(single)}.** These rows have no interval over seeds: how another seed "
            "would come out is not known. The interval over items says how these very runs would do on other items."
        )
    return text


def _asked_for(found: Mapping[str, Any]) -> str:
    first = found["claims"][0]
    c = first["contrast"]
    if c is None:
        return "The outcome asked for, that GRPO raises greedy ID accuracy over the start, was not measured."
    said = {
        "held": "rose over the start",
        "did not hold": "fell below the start",
        "undecided": "cannot be told from the start's"
        if len(c["seeds"]) >= f.ENOUGH
        else "is undecided for want of seeds",
    }[first["verdict"]]
    return (
        f"The outcome asked for: greedy ID accuracy after GRPO with thought {said}: {_points(c['estimate'])} points; "
        f"{'over seeds ' if c['t'] else ''}{_range(c['t'])} (n = {len(c['seeds'])}), over items {_range(c['items'])}."
    )


def _rate(found: Mapping[str, Any]) -> str:
    """What the arm at another learning rate says of the cause, thought of afterwards; "" without it."""
    rates = {r["run"].rpartition("-")[0]: r.get("learning_rate") for r in found["runs"]}

    def cells(name: str) -> tuple[Any, Any]:
        """ID's change, of all items and where the start had answered."""
        all_of_them = found["arms"][name]["sets"].get("id", {}).get("right") or {}
        return all_of_them.get("change"), found["denials"].get(name, {}).get("id", {}).get("others")

    (change, answered), (other, others) = cells("grpo_thought"), cells("grpo_thought_slow")
    if not (change and answered and other and others):
        return ""
    ours, all_of_them, some = rates["grpo_thought"], _points(change["estimate"]), _points(answered["mean"])
    return (
        " The learning rate, thought of when seeds had come out and not planned: at "
        f"{rates['grpo_thought_slow']:g} in place of {ours:g}, which short trials had chosen, ID changes by "
        f"{_points(other['estimate'])} points {_over(other)} instead of {all_of_them} {_over(change)}, and where the "
        f"start had answered by {_points(others['mean'])} {_range(others['t'])} instead of {some} "
        f"{_range(answered['t'])}."
    )


def _rates(found: Mapping[str, Any]) -> str:
    """Which of the main arms ran at which learning rate."""
    arms: dict[float, list[str]] = {}
    for name, rate in {r["run"].rpartition("-")[0]: r.get("learning_rate") for r in found["runs"]}.items():
        if rate is not None and name in f.GROUPS["main"]:
            arms.setdefault(rate, []).append(label(name))
    return "; ".join(f"{rate:g}: {' / '.join(sorted(names))}" for rate, names in sorted(arms.items()))


def _control(found: Mapping[str, Any]) -> str:
    """What random reward did, by seed: a control that fell apart shows little."""
    cell = found["arms"]["grpo_random"]["sets"].get("id", {}).get("right")
    start = found["arms"][f.STARTS[0]]["sets"].get("id", {}).get("right")
    if not (cell and start and cell.get("change")):
        return ""
    by_seed = ", ".join(map(_share, cell["by_seed"]))
    said = f"Random reward had ID at {by_seed} per cent by seed, the start at {_share(start['mean'])}."
    if cell["change"]["estimate"] > -0.1:
        return said
    return (
        f"{said} It did not stay where it was, it fell apart: whatever does not fall apart gains more than it, so that "
        f"the second claim of the control says little at this learning rate.{_slower(found)}"
    )


def _slower(found: Mapping[str, Any]) -> str:
    """The control at the lower rate, where it does not fall apart."""
    change = found["arms"]["grpo_random_slow"]["sets"].get("id", {}).get("right", {}).get("change")
    if not change:
        return ""
    return (
        f" At the lower rate ({label('grpo_random_slow')}), tried afterwards, it changes ID by "
        f"{_points(change['estimate'])} points {_over(change)}."
    )


def _other_grpo(found: Mapping[str, Any]) -> str:
    """ID of the arms that vary GRPO, so that one rate or form is not taken for all of it."""
    every = [a for a in (*MAIN, *ABLATIONS, *AFTERWARDS) if a.method == "grpo" and a.profile != "random"]
    varied = [a.name for a in every if a.name != "grpo_thought"]
    changes = {n: c.get("change") for n in varied if (c := found["arms"][n]["sets"].get("id", {}).get("right"))}
    parts = [
        f"{label(name)} {_points(c['estimate'])} {_over(c, 't')} (n = {len(found['arms'][name]['seeds'])})"
        for name, c in changes.items()
        if c
    ]
    return f"The same in the arms that vary it: {'; '.join(parts)}." if parts else ""


def _overlaps(counted: Mapping[str, int] | None) -> str:
    if counted is None:
        return "Whether splits share an image has not been counted: call the report with `--root SCENES`."
    what = ", ".join(f"{pair}: {n}" for pair, n in counted.items())
    return f"Images that two splits share, by sha256 of their pixels: {what}."


def _there(found: Mapping[str, Any]) -> list[str]:
    return [name for name, arm in found["arms"].items() if arm["seeds"]]


def _arms(found: Mapping[str, Any], names: Sequence[str], measure: str, over: str = "t", kl: bool = False) -> str:
    """A row per arm: its runs, those of the plan that it lacks, a cell per set, and KL."""
    arms = {name: found["arms"][name] for name in names}
    columns = [which for which in f.SETS if measure != "iou" or which in f.BOXED]
    # What none of these arms was asked is no column; where none was run, all are.
    columns = [w for w in columns if any(w in arm["sets"] for arm in arms.values())] or columns
    kl = kl and any(arm["kl_per_answer"] or not arm["seeds"] for arm in arms.values())
    rows = []
    for name, arm in arms.items():
        lacking = ", ".join(map(str, arm["missing_seeds"]))
        runs = f"{len(arm['seeds'])}{f', not run: {lacking}' if lacking else ''}" if arm["seeds"] else "**not run**"
        row = [label(name), runs, *(_cell(arm["sets"].get(which, {}).get(measure), over) for which in columns)]
        rows.append(row + ([_kl(arm["kl_per_answer"])] if kl else []))
    return _table(["arm", "runs", *(NAMES[which] for which in columns), *(["KL, nats per answer"] if kl else [])], rows)


def _cell(cell: Mapping[str, Any] | None, over: str) -> str:
    """Level and change with one of the intervals; a single run has no interval over seeds."""
    if cell is None:
        return "–"
    if (change := cell.get("change")) is None:
        return f"{_share(cell['mean'])} {_range(cell['items'], _share)}" if over == "items" else _share(cell["mean"])
    return f"{_share(cell['mean'])} ({' '.join([_points(change['estimate']), _over(change, over)]).strip()})"


def _errors(found: Mapping[str, Any]) -> str:
    """Shares of the items, by what is wrong."""
    rows = [
        [label(name), *(_share(arm["errors"][w][k]) if w in arm["errors"] else "–" for w in f.SINGLE for k in f.ERRORS)]
        for name, arm in found["arms"].items()
        if arm["errors"]
    ]
    return _table(["arm", *(f"{NAMES[w]}: {k}" for w in f.SINGLE for k in f.ERRORS)], rows)


def _denials(found: Mapping[str, Any]) -> str:
    rows = []
    for name, one in found["denials"].items():
        row = [label(name)]
        for which in f.SINGLE:
            for x in (one[which]["denied"], one[which]["others"]):
                row.append(_points(x["mean"]) + (f" {_range(x['t'])}" if name in ARMS else ""))
            row.append(_arrow(one[which]["answered"]))
        rows.append([*row, _arrow(one["balanced"])])
    if not rows:
        return "Not run: this needs the start and a trained arm."
    kinds = ("start denied", "start answered", "right of the answered")
    head = [f"{NAMES[which]}: {kind}" for which in f.SINGLE for kind in kinds]
    return _table(("arm", *head, "mean of NOVEL and no-target"), rows)


def _arrow(x: Mapping[str, float]) -> str:
    return f"{_share(x['start'])} → {_share(x['mean'])}"


def _sizes(found: Mapping[str, Any]) -> str:
    rows = [
        (label(name), f"{s['width']:.3f}", f"{s['height']:.3f}", str(s["boxes"]))
        for name, s in found["boxes"]["sizes"].items()
    ]
    return _table(("arm", "width", "height", "boxes"), rows) if rows else "Not known: this needs `--root SCENES`."


def _denials_said(found: Mapping[str, Any]) -> str:
    """In words, for GRPO with thought: what it gains by answering, and what it loses where the start answered."""
    one = found["denials"].get("grpo_thought")
    if one is None:
        return ""
    said = [
        f"On {NAMES[w]} GRPO with thought changes by {_points(one[w]['denied']['mean'])} points where the start had "
        f"denied, and by {_points(one[w]['others']['mean'])} where it had answered"
        for w in f.SINGLE
    ]
    for c in found["contrasts"]:
        if (c["a"], c["b"], c["measure"], c["net"]) == ("grpo_thought", f.UNDENIED, "right", False) and c[
            "on"
        ] in f.SINGLE:
            level = found["arms"][f.UNDENIED]["sets"][c["on"]]["right"]["mean"]
            said.append(
                f"The start that may not deny has {_share(level)} per cent on {NAMES[c['on']]}, untrained; "
                f"GRPO with thought less that: {_points(c['estimate'])} {_over(c)}"
            )
    errors = [found["arms"][name]["errors"].get("id", {}).get("rough") for name in (f.STARTS[0], "grpo_thought")]
    if None not in errors:
        said.append(f"Rough boxes on ID go from {_share(errors[0])} to {_share(errors[1])} per cent of the items")
    sizes = [found["boxes"]["sizes"].get(name) for name in (f.STARTS[0], "grpo_thought")]
    if None not in sizes:
        was, now = (f"{s['width']:.2f} x {s['height']:.2f}" for s in sizes if s)
        said.append(f"Its boxes are {now} of the true width and height, the start's {was}")
    scales = {name: found["boxes"]["scales"].get(name) for name in (f.STARTS[0], "sampled")}
    both = [found["boxes"]["scales"].get(name) for name in (f.STARTS[0], "grpo_thought")]
    if None not in both:
        was, now = (_share(max(s)) for s in both if s)
        said.append(
            f"Of boxes that meet the object {now} per cent would win after GRPO if all had the size that is best for "
            f"them, and {was} at the start: what is lost beyond that is places"
        )
    if all(scales.values()):
        at = [f"{boxes.SCALES[int(np.argmax(s))]:g}" for s in scales.values() if s]
        said.append(f"The start's greedy boxes win most at {at[0]} times their size, its sampled ones at {at[1]} times")
    return ". ".join(said) + "."


def _over(c: Mapping[str, Any], over: str = "t") -> str:
    """One of the intervals of a contrast; what was not trained has none over seeds."""
    trained = not {c["a"], c["b"]} <= set(f.UNTRAINED)
    return _range(c[over]) if trained or over == "items" else ""


def _kl(kl: Mapping[str, Any] | None) -> str:
    return "–" if kl is None else f"{kl['mean']:.3f} {_range(kl['t'], lambda x: f'{x:.3f}')}"


def _contrasts(found: Mapping[str, Any], one_rate: bool = False) -> str:
    """A row per pair of arms and set; one_rate: only those that are compared at one learning rate, or all others."""
    by_key = {(c["a"], c["b"], c["on"], c["net"]): c for c in found["contrasts"] if c["measure"] == "right"}
    rows = []
    for (a, b, on, net), c in by_key.items():
        if not net and ((a, b) in f.ONE_RATE) == one_rate:
            values = (_points(c["estimate"]), _over(c), _over(c, "items"), _beside(by_key.get((a, b, on, True))))
            rows.append((f"{label(a)} – {label(b)}", NAMES[on], str(_n(c)), *values))
    if not rows:
        return "Not run." if one_rate else "No two arms have a seed in common yet."
    return _table(("contrast", "set", "n", "points", "over seeds", "over items", "net, over seeds"), rows)


def _n(c: Mapping[str, Any]) -> int:
    return len(c["seeds"])


def _beside(c: Mapping[str, Any] | None) -> str:
    return "" if c is None else f"{_points(c['estimate'])} {_over(c)}"


def _claims(found: Mapping[str, Any]) -> str:
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
        values = (_beside(c), _range(c["items"]), str(_n(c)), _beside(claim["other_form"]))
        rows.append((claim["claim"], claim["article"], what, *values, f"**{claim['verdict']}**{few}"))
    head = ("claim", "article", "contrast", "points, over seeds", "over items", "n", "the other way", "at this scale")
    return _table(head, rows)


def _provisional(found: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """That there are too few seeds for a verdict, or fewer than planned, so that the rest may change it."""
    there = _n(claim["contrast"])
    if there < f.ENOUGH:
        return f" ({there} of {f.ENOUGH} seeds)"
    arms = [found["arms"][claim[side]] for side in ("a", "b") if claim[side] not in f.UNTRAINED]
    planned = set.intersection(*({*arm["seeds"], *arm["missing_seeds"]} for arm in arms))
    return f" (provisional: {there} of {len(planned)} seeds)" if there < len(planned) else ""


def _forgetting(found: Mapping[str, Any]) -> str:
    some = [r for r in found["forgetting"] if r["spearman"] is not None]
    if not some:
        return ""
    names = {"kl_per_answer": "KL", "id": "the gain on ID"}
    said = [f"{NAMES[r['change']]} with {names[r['against']]} {r['spearman']:+.2f}" for r in some]
    return (
        f"Rank correlation (Spearman) of the change, over {some[0]['runs']} trained runs: {'; '.join(said)}. Runs of "
        "an arm are no independent points. RL's Razor (arXiv 2509.04259) expects forgetting to grow with KL. KL is "
        "exact at every token of one sampled answer for each of the first 256 items of ID."
    )


def _picture(found: Mapping[str, Any], name: str) -> str:
    return f"![{name.partition('.')[0]}](tabletop/{name})\n\n*{CAPTIONS[name]}*" if name in found["pictures"] else ""


def _training(training: Mapping[str, Any]) -> str:
    """A row per arm, a column per quantity that any of them logged: first -> last."""
    names = {**dict(pictures.PANELS), "reward": "reward, training"}
    keys = [key for key in f.LOGGED if any(key in told for told in training.values())]
    if not keys:
        return "No run left a log."
    rows = [
        [label(name), *(f"{told[k]['first']:.3g} → {told[k]['last']:.3g}" if k in told else "–" for k in keys)]
        for name, told in training.items()
    ]
    return _table(["arm", *(names[key] for key in keys)], rows)


def _seconds(training: Mapping[str, Any]) -> str:
    rows = [
        (label(n), *(f"{t[k]:.2f}" for k in f.SECONDS)) for n, t in training.items() if all(k in t for k in f.SECONDS)
    ]
    if not rows:
        return ""
    return "Seconds per update:\n\n" + _table(("arm", "generation", "reference", "reward", "loss"), rows)


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return "Not run: this needs the start and GRPO with thought."
    parts = [
        f"The same items, greedily: the start, and GRPO with thought (seed {samples[0]['seed']}). Drawn by chance."
    ]
    for s in samples:
        asked = f", “{s['instruction']}”" if s["instruction"] else ""
        parts.append(
            f"**{NAMES[s['set']]}, {s['outcome']}** ({s['count']} of {s['of']}): {s['id']}, {s['kind']}{asked}; "
            f"IoU {s['iou_before']:.2f} → {s['iou_after']:.2f}\n\n"
            f"```text\nbefore  {_plain(s['before'])}\nafter   {_plain(s['after'])}\n```"
        )
    return "\n\n".join(parts)


def _plain(text: str) -> str:
    """On one line, and no end of the block in it."""
    return " ".join(text.replace("```", "'''").split())


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for r in runs:
        shape = [str(r.get(k, "")) for k in ("learning_rate", "updates", "prompts_per_update", "generations", "rows")]
        times = [f"{r[k] / 60:.1f}" if k in r else "" for k in ("train_seconds", "ask_seconds")]
        hashes = [f"`{r[k][:12]}`" if k in r else "" for k in ("start_sha256", "records_sha256")]
        sets_ = ", ".join(f"`{s['sha256'][:6]}`" for s in r["sets"].values() if "sha256" in s)
        rows.append((r["run"], *shape, *times, *hashes, sets_))
    head = ("arm-seed", "learning rate", "updates", "prompts", "n", "rows", "train, min", "ask, min")
    return _table((*head, "start", "records", "sets"), rows)


def _hours(runs: Sequence[Mapping[str, Any]]) -> str:
    """Of one process on one core; a run that took several sittings has no training time."""
    runs = [r for r in runs if not r["run"].startswith("start_majority_of_8")]  # of the same samples as the best of 8
    trained, asked = ([r[k] for r in runs if k in r] for k in ("train_seconds", "ask_seconds"))
    unknown = sum("learning_rate" in r and "train_seconds" not in r for r in runs)
    return (
        f"Hours of one process with one thread, mostly two at once: {sum(trained) / 3600:.1f} of training "
        f"({len(trained)} runs; {unknown} others went on after an interruption and are not timed), "
        f"{sum(asked) / 3600:.1f} of asking ({len(asked)} runs)."
    )


def _not_run(found: Mapping[str, Any]) -> str:
    parts = [", ".join(found["not_run"]) + "." if found["not_run"] else "Nothing that was planned."]
    if found["unplanned"]:
        parts.append(f"Beside the plan, and in no figure: {', '.join(r['run'] for r in found['unplanned'])}.")
    if found["other_files"]:
        parts.append(f"Files of no known arm, not read: {', '.join(found['other_files'])}.")
    return "\n\n".join(parts)


def _trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """A row per arm, a column per rate."""
    if not trials:
        return "No trial was written down (`tabletop/trials.jsonl`)."
    rates = sorted({t["rate"] for t in trials})
    right = {(t["arm"], t["rate"]): _share(t["val_id"]) for t in trials}
    arms = [name for name in ARMS if any(t["arm"] == name for t in trials)]
    rows = [[label(name), *(right.get((name, rate), "–") for rate in rates)] for name in arms]
    seeds, updates = (", ".join(sorted({str(t[key]) for t in trials})) for key in ("seed", "updates"))
    said = f"ID-like accuracy on validation scenes after {updates} updates, seed {seeds}, which is in no figure above."
    return f"{said}\n\n{_table(['arm', *(f'{rate:g}' for rate in rates)], rows)}"


def _abandoned(abandoned: Sequence[Mapping[str, Any]]) -> str:
    if not abandoned:
        return "No run was written down as abandoned (`tabletop/abandoned.jsonl`)."
    return "\n".join("* " + "; ".join(f"{key}: {value}" for key, value in r.items()) for r in abandoned)


# The way


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSONL; none where there is no file. Raises ReportError naming the line."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise f.ReportError(f"{path}, line {number}: no JSON object") from error
    return found


def compute(runs: f.Runs, others: Sequence[str], plan: Plan, folder: Path) -> dict[str, Any]:
    """All of report.json but which pictures there are."""
    asked = read_asked(folder / "asked.json.gz")
    texts = {i: x["text"] for i, x in asked["items"].items()}
    planned = f.planned(plan)
    used = {name: {s: r for s, r in seeds.items() if (name, s) in planned} for name, seeds in runs.items()}
    return {
        **f.findings(runs, plan, others),
        "boxes": boxes.found(used, {i: x["boxes"] for i, x in asked["items"].items()}),
        "samples": f.samples(runs, texts),
        "overlaps": asked["overlaps"],
        "trials": read_lines(folder / "trials.jsonl"),
        "abandoned": read_lines(folder / "abandoned.jsonl"),
    }


def write(results: Path, out: Path, plan: Plan, root: Path | None = None) -> Path:
    """Returns the report's file."""
    folder = out / "tabletop"
    folder.mkdir(parents=True, exist_ok=True)
    runs, others = f.load(results)
    asked = folder / "asked.json.gz"
    if root is not None:
        write_asked(root, runs, plan, asked)
    found = compute(runs, others, plan, folder)
    pictures.draw_all(found, runs, folder)
    if root is not None:
        true = {i: x["boxes"] for i, x in read_asked(asked)["items"].items()}
        many = f.samples(runs, {i: x["text"] for i, x in read_asked(asked)["items"].items()}, each=pictures.COLUMNS)
        seen = {n: sets.scenes_of(root, split, plan.share) for n, (split, _, _) in sets.TESTS.items()}
        pictures.page(many, true, seen, folder / "items.png")
    found["pictures"] = [name for name in SHOWN if (folder / name).exists()]
    whole = json.loads(json.dumps(found))
    for path, text in ((folder / "report.json", json.dumps(whole, indent=1)), (out / "tabletop.md", render(whole))):
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)
    return out / "tabletop.md"


def differences(written: Any, computed: Any, where: str = "") -> Iterator[str]:
    """Every place at which two JSON values differ, numbers by more than TOLERANCE."""
    numbers = (int, float)
    if isinstance(written, dict) and isinstance(computed, dict):
        for key in sorted(written.keys() | computed.keys()):
            if key not in written or key not in computed:
                yield f"{where}/{key}: only {'written' if key in written else 'computed'}"
            else:
                yield from differences(written[key], computed[key], f"{where}/{key}")
    elif isinstance(written, list) and isinstance(computed, list) and len(written) == len(computed):
        for n, (x, y) in enumerate(zip(written, computed, strict=True)):
            yield from differences(x, y, f"{where}/{n}")
    elif isinstance(written, numbers) and isinstance(computed, numbers):
        if abs(written - computed) > TOLERANCE:
            yield f"{where}: written {written}, computed {computed}"
    elif written != computed:
        yield f"{where}: written {written!r}, computed {computed!r}"


def check(results: Path, out: Path, plan: Plan) -> list[str]:
    """What of the written report is not what the records give; nothing if all is."""
    folder = out / "tabletop"
    try:
        written = json.loads((folder / "report.json").read_text())
        text = (out / "tabletop.md").read_text()
    except (OSError, ValueError) as error:
        raise f.ReportError(f"there is no whole report in {out}: {error}") from error
    runs, others = f.load(results)
    shown = written.pop("pictures", [])
    computed = json.loads(json.dumps(compute(runs, others, plan, folder)))
    wrong = list(differences(written, computed))
    wrong += [f"{folder / name} is not there" for name in shown if not (folder / name).exists()]
    if render({**computed, "pictures": shown}) != text:
        wrong.append(f"{out / 'tabletop.md'} is not the text of these numbers")
    items = read_asked(folder / "asked.json.gz")["items"]
    return wrong + (judged_anew(runs, items) if items else [])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="what the runs left")
    parser.add_argument("--out", type=Path, default=Path("training/experiments/results"))
    parser.add_argument("--plan", type=Path, default=PLAN, help="JSON; which runs there should be")
    parser.add_argument("--smoke", action="store_true", help="the runs are those of `reproduce --smoke`")
    parser.add_argument("--root", type=Path, help="scenes: for the items that were asked and their pictures")
    parser.add_argument("--check", action="store_true", help="write nothing; recompute every number")
    a = parser.parse_args(argv)
    try:
        plan = plan_of(a.plan, a.smoke)
        if not a.check:
            print(write(a.results, a.out, plan, a.root))
            return 0
        wrong = check(a.results, a.out, plan)
    except (ValueError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    for line in wrong[:50]:
        print(line, file=sys.stderr)
    again = "and every text judged anew" if (a.out / "tabletop" / "asked.json.gz").exists() else "texts not judged anew"
    print(f"{len(wrong)} differences" if wrong else f"every number is that of the records, {again}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
