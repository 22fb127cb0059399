"""What the report says of its numbers in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.experiments.findings.boxes import SCALES
from training.experiments.findings.claims import ENOUGH
from training.experiments.findings.groups import GROUPS, SINGLE, STARTS, UNDENIED
from training.experiments.plan import ABLATIONS, AFTERWARDS, ARMS, MAIN
from training.experiments.report.labels import NAMES, label
from training.experiments.report.markdown import interval, interval_of, per_cent, points

WHY = """The one outcome that was asked for is not established. What the records say of it is under [Denials and
boxes](#denials-and-boxes).{rate} Other causes that the tables speak for or against: no signal (share of groups without
spread); a reward that rises while greedy validation does not; answers cut off or not parsed; an entropy that collapses
or grows; a policy that did not move (KL); nothing left to learn (the start's best of 8)."""


def state(found: Mapping[str, Any]) -> str:
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


def asked_for(found: Mapping[str, Any]) -> str:
    first = found["claims"][0]
    c = first["contrast"]
    if c is None:
        return "The outcome asked for, that GRPO raises greedy ID accuracy over the start, was not measured."
    said = {
        "held": "rose over the start",
        "did not hold": "fell below the start",
        "undecided": "cannot be told from the start's"
        if len(c["seeds"]) >= ENOUGH
        else "is undecided for want of seeds",
    }[first["verdict"]]
    return (
        f"The outcome asked for: greedy ID accuracy after GRPO with thought {said}: {points(c['estimate'])} points; "
        f"{'over seeds ' if c['t'] else ''}{interval(c['t'])} (n = {len(c['seeds'])}), "
        f"over items {interval(c['items'])}."
    )


def other_grpo(found: Mapping[str, Any]) -> str:
    """ID of the arms that vary GRPO, so that one rate or form is not taken for all of it."""
    every = [a for a in (*MAIN, *ABLATIONS, *AFTERWARDS) if a.method == "grpo" and a.profile != "random"]
    varied = [a.name for a in every if a.name != "grpo_thought"]
    changes = {n: c.get("change") for n in varied if (c := found["arms"][n]["sets"].get("id", {}).get("right"))}
    parts = [
        f"{label(name)} {points(c['estimate'])} {interval_of(c, 't')} (n = {len(found['arms'][name]['seeds'])})"
        for name, c in changes.items()
        if c
    ]
    return f"The same in the arms that vary it: {'; '.join(parts)}." if parts else ""


def why(found: Mapping[str, Any]) -> str:
    """Of an outcome that is not established; "" where the first claim held."""
    return "" if found["claims"][0]["verdict"] == "held" else WHY.format(rate=slower_policy(found))


def slower_policy(found: Mapping[str, Any]) -> str:
    """What the arm at another learning rate says of the cause, thought of afterwards; "" without it."""
    rates = {r["run"].rpartition("-")[0]: r.get("learning_rate") for r in found["runs"]}

    def cells(name: str) -> tuple[Any, Any]:
        """ID's change, of all items and where the start had answered."""
        all_of_them = found["arms"][name]["sets"].get("id", {}).get("right") or {}
        return all_of_them.get("change"), found["denials"].get(name, {}).get("id", {}).get("others")

    (change, answered), (other, others) = cells("grpo_thought"), cells("grpo_thought_slow")
    if not (change and answered and other and others):
        return ""
    ours, all_of_them, some = rates["grpo_thought"], points(change["estimate"]), points(answered["mean"])
    return (
        " The learning rate, thought of when seeds had come out and not planned: at "
        f"{rates['grpo_thought_slow']:g} in place of {ours:g}, which short trials had chosen, ID changes by "
        f"{points(other['estimate'])} points {interval_of(other)} instead of {all_of_them} {interval_of(change)}, and "
        f"where the start had answered by {points(others['mean'])} {interval(others['t'])} instead of {some} "
        f"{interval(answered['t'])}."
    )


def rates(found: Mapping[str, Any]) -> str:
    """Which of the main arms ran at which learning rate."""
    arms: dict[float, list[str]] = {}
    for name, rate in {r["run"].rpartition("-")[0]: r.get("learning_rate") for r in found["runs"]}.items():
        if rate is not None and name in GROUPS["main"]:
            arms.setdefault(rate, []).append(label(name))
    return "; ".join(f"{rate:g}: {' / '.join(sorted(names))}" for rate, names in sorted(arms.items()))


def control(found: Mapping[str, Any]) -> str:
    """What random reward did, by seed: a control that fell apart shows little."""
    cell = found["arms"]["grpo_random"]["sets"].get("id", {}).get("right")
    start = found["arms"][STARTS[0]]["sets"].get("id", {}).get("right")
    if not (cell and start and cell.get("change")):
        return ""
    by_seed = ", ".join(map(per_cent, cell["by_seed"]))
    said = f"Random reward had ID at {by_seed} per cent by seed, the start at {per_cent(start['mean'])}."
    if cell["change"]["estimate"] > -0.1:
        return said
    return (
        f"{said} It did not stay where it was, it fell apart: whatever does not fall apart gains more than it, so that "
        f"the second claim of the control says little at this learning rate.{_slower_control(found)}"
    )


def _slower_control(found: Mapping[str, Any]) -> str:
    """The control at the lower rate, where it does not fall apart."""
    change = found["arms"]["grpo_random_slow"]["sets"].get("id", {}).get("right", {}).get("change")
    if not change:
        return ""
    return (
        f" At the lower rate ({label('grpo_random_slow')}), tried afterwards, it changes ID by "
        f"{points(change['estimate'])} points {interval_of(change)}."
    )


def overlaps(counted: Mapping[str, int] | None) -> str:
    if counted is None:
        return "Whether splits share an image has not been counted: call the report with `--root SCENES`."
    what = ", ".join(f"{pair}: {n}" for pair, n in counted.items())
    return f"Images that two splits share, by sha256 of their pixels: {what}."


def denials(found: Mapping[str, Any]) -> str:
    """In words, for GRPO with thought: what it gains by answering, and what it loses where the start answered."""
    one = found["denials"].get("grpo_thought")
    if one is None:
        return ""
    said = [
        f"On {NAMES[w]} GRPO with thought changes by {points(one[w]['denied']['mean'])} points where the start had "
        f"denied, and by {points(one[w]['others']['mean'])} where it had answered"
        for w in SINGLE
    ]
    for c in found["contrasts"]:
        asked = (c["a"], c["b"], c["measure"], c["net"]) == ("grpo_thought", UNDENIED, "right", False)
        if asked and c["on"] in SINGLE:
            level = found["arms"][UNDENIED]["sets"][c["on"]]["right"]["mean"]
            said.append(
                f"The start that may not deny has {per_cent(level)} per cent on {NAMES[c['on']]}, untrained; "
                f"GRPO with thought less that: {points(c['estimate'])} {interval_of(c)}"
            )
    errors = [found["arms"][name]["errors"].get("id", {}).get("rough") for name in (STARTS[0], "grpo_thought")]
    if None not in errors:
        said.append(f"Rough boxes on ID go from {per_cent(errors[0])} to {per_cent(errors[1])} per cent of the items")
    sizes = [found["boxes"]["sizes"].get(name) for name in (STARTS[0], "grpo_thought")]
    if None not in sizes:
        was, now = (f"{s['width']:.2f} x {s['height']:.2f}" for s in sizes if s)
        said.append(f"Its boxes are {now} of the true width and height, the start's {was}")
    scales = {name: found["boxes"]["scales"].get(name) for name in (STARTS[0], "sampled")}
    both = [found["boxes"]["scales"].get(name) for name in (STARTS[0], "grpo_thought")]
    if None not in both:
        was, now = (per_cent(max(s)) for s in both if s)
        said.append(
            f"Of boxes that meet the object {now} per cent would win after GRPO if all had the size that is best for "
            f"them, and {was} at the start: what is lost beyond that is places"
        )
    if all(scales.values()):
        at = [f"{SCALES[int(np.argmax(s))]:g}" for s in scales.values() if s]
        said.append(f"The start's greedy boxes win most at {at[0]} times their size, its sampled ones at {at[1]} times")
    return ". ".join(said) + "."


def forgetting(found: Mapping[str, Any]) -> str:
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


def samples(samples: Sequence[Mapping[str, Any]]) -> str:
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


def hours(runs: Sequence[Mapping[str, Any]]) -> str:
    """Of one process on one core; a run that took several sittings has no training time."""
    runs = [r for r in runs if not r["run"].startswith("start_majority_of_8")]  # of the same samples as the best of 8
    trained, asked = ([r[k] for r in runs if k in r] for k in ("train_seconds", "ask_seconds"))
    unknown = sum("learning_rate" in r and "train_seconds" not in r for r in runs)
    return (
        f"Hours of one process with one thread, mostly two at once: {sum(trained) / 3600:.1f} of training "
        f"({len(trained)} runs; {unknown} others went on after an interruption and are not timed), "
        f"{sum(asked) / 3600:.1f} of asking ({len(asked)} runs)."
    )


def not_run(found: Mapping[str, Any]) -> str:
    parts = [", ".join(found["not_run"]) + "." if found["not_run"] else "Nothing that was planned."]
    if found["unplanned"]:
        parts.append(f"Beside the plan, and in no figure: {', '.join(r['run'] for r in found['unplanned'])}.")
    if found["other_files"]:
        parts.append(f"Files of no known arm, not read: {', '.join(found['other_files'])}.")
    return "\n\n".join(parts)


def abandoned(abandoned: Sequence[Mapping[str, Any]]) -> str:
    if not abandoned:
        return "No run was written down as abandoned (`tabletop/abandoned.jsonl`)."
    return "\n".join("* " + "; ".join(f"{key}: {value}" for key, value in r.items()) for r in abandoned)
