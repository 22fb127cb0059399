"""What the experiment's runs say: read, paired with the start and with each other, held against the article's claims.

Everything is computed from the files that runs leave (training/experiments/arms.py) and rounded to DIGITS, so that the
same files give the same findings. Accuracies and IoU are shares from 0 to 1, KL is nats per answer.

Two intervals, both 95 %, that answer two questions. Over seeds: Student's t on the paired differences, one per seed:
would another training run say the same? Over items: percentile bootstrap of the mean over seeds, scenes drawn with
replacement, since items of one scene are no independent items: would another test set say the same of these runs?
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from training.experiments.arms import ABLATIONS, AFTERWARDS, ARMS, CONTROLS, MAIN, Plan
from training.experiments.reproduce import jobs
from training.finetune.logs import read_jsonl

SETS = ("id", "retained", "novel", "questions", "no_target")
BOXED = ("id", "retained", "novel")  # sets with boxes to find
SINGLE = ("id", "novel")  # sets with one box each
# How an answer can be wrong there: nothing said, IoU at most .2, above it and at most .5, several boxes, no form.
ERRORS = ("denied", "elsewhere", "rough", "several", "unreadable")
STARTS = ("start_think", "start_answer")
VOTES = ("start_majority_of_8", "start_best_of_8")
UNDENIED = "start_undenied"
# Pairs at one learning rate, 3e-5: in the planned ones it differs between arms.
ONE_RATE = tuple(
    ("grpo_thought_slow", b) for b in ("grpo_answer", "sft_answer", "sft_own", "sft_thought_slow", "grpo_random_slow")
)
UNTRAINED = (*STARTS, *VOTES, UNDENIED)
THOUGHTS = ("thought_kept", "thought_emptied", "thought_swapped", "thought_without_coordinates")
GROUPS: dict[str, tuple[str, ...]] = {
    "main": (*STARTS, *(a.name for a in MAIN)),
    "controls": (*VOTES, *(a.name for a in CONTROLS)),
    "ablations": tuple(a.name for a in ABLATIONS),
    "afterwards": (UNDENIED, *(a.name for a in AFTERWARDS)),
    "thought use": THOUGHTS,
}
KNOWN = tuple(name for names in GROUPS.values() for name in names)
DIGITS, RESAMPLES = 5, 5_000
ENOUGH = 3  # seeds, for a verdict
MARGIN = 0.02  # what counts as no gain, or no loss

# Of a log: what is told of its first and of its last updates.
LOGGED = (
    "reward",
    "eval_reward",
    "eval_rewards/accuracy",
    "frac_reward_zero_std",
    "completions/clipped_ratio",
    "completions/mean_length",
    "kl",
    "entropy",
    "grad_norm",
    "loss",
)
SECONDS = ("seconds/generation", "seconds/reference", "seconds/reward", "seconds/loss")
ENDS = 10  # logged values at each end
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


class ReportError(ValueError):
    """Runs that do not go together, or are not whole; the message names the file."""


@dataclass(frozen=True)
class Run:
    """values: measure ("right", "iou", "parsed") -> set -> (items,), in the order of the items' ids."""

    name: str
    seed: int
    file: Path
    summary: dict[str, Any]
    values: dict[str, dict[str, NDArray[np.float64]]]
    items: dict[str, tuple[tuple[str, int], ...]]  # of a set: id, scene
    errors: dict[str, dict[str, float]]  # of a set of SINGLE: share of its items, by what is wrong
    denied: dict[str, NDArray[np.bool_]]  # of a set of SINGLE: (items,), whether "there is none" was the answer
    records_sha256: str

    @property
    def title(self) -> str:
        return f"{self.name}-{self.seed}"

    def records(self) -> list[dict[str, Any]]:
        return read_records(records_file(self.file))

    def log(self) -> list[dict[str, Any]]:
        return read_jsonl(self.file.with_name(f"{self.title}.log.jsonl"))


Runs = Mapping[str, Mapping[int, Run]]  # name -> seed -> run


@dataclass(frozen=True)
class Contrast:
    """a - b on a set. net: each less its own start. t: over seeds, None with one; items: over items by scene."""

    a: str
    b: str
    on: str
    measure: str
    net: bool
    estimate: float
    t: tuple[float, float] | None
    items: tuple[float, float]
    seeds: tuple[int, ...]
    n: int
    scenes: int


@dataclass(frozen=True)
class Claim:
    """claim: what the article says; article: its figures. rule: "above", "no gain" or "no loss" (see `verdict`)."""

    claim: str
    article: str
    a: str
    b: str
    on: str
    net: bool = False
    rule: str = "above"


def _claims() -> list[Claim]:
    """Fixed before the first reported run. The first is the outcome that the experiment asks for."""
    found = [
        Claim("Reward raises ID over the start", "RefCOCOg 70.4 → 73.6", "grpo_thought", "start_think", "id"),
        Claim("Reward raises ID without a thought too", "70.4 → 73.2", "grpo_answer", "start_answer", "id"),
    ]
    pairs = [("grpo_thought", a.name) for a in (*MAIN, *ABLATIONS) if a.method == "sft"]
    pairs.append(("grpo_answer", "sft_answer"))
    for a, b in pairs:
        found.append(Claim("Reward generalises better than SFT", "ReasonSeg 53.8 against 44.9", a, b, "novel"))
    for on, figures in (("retained", "–"), ("questions", "VQA 83.8, 93.1 against 75.2, 81.9")):
        found += [Claim("Reward forgets less than SFT", figures, a, b, on, net=True) for a, b in pairs]
        found.append(
            Claim(
                "Reward does not forget",
                "VQA 83.6, 92.8 → 83.8, 93.1",
                "grpo_thought",
                "start_think",
                on,
                rule="no loss",
            )
        )
    for claim, b, both in (
        ("The thought helps", "grpo_answer", ("73.6 against 73.2", "53.8 against 51.3")),
        ("Hard accuracy beats soft", "soft_accuracy", ("73.6 against 70.2", "53.8 against 54.1")),
        ("A small KL weight beats ten times as much", "kl_x10", ("73.6 against 66.6", "53.8 against 50.8")),
        ("n = 8 beats n = 4", "n_4", ("73.6 against 66.8", "53.8 against 52.0")),
    ):
        found += [Claim(claim, f, "grpo_thought", b, on) for on, f in zip(("id", "novel"), both, strict=True)]
    found += [
        Claim("Control: random reward does not gain", "–", "grpo_random", "start_think", "id", rule="no gain"),
        Claim("Control: reward gains more than random reward", "–", "grpo_thought", "grpo_random", "id"),
    ]
    for b in THOUGHTS[1:]:
        found.append(Claim("The answer makes use of the thought", "–", "thought_kept", b, "id"))
    return found


CLAIMS = tuple(_claims())


def start_of(name: str) -> str:
    """The start in the form that an arm speaks."""
    return STARTS[0] if name not in ARMS or ARMS[name].think else STARTS[1]


def reference(name: str) -> str:
    """What an arm's change is told from: a changed thought from the kept one, everything else from its start."""
    return THOUGHTS[0] if name in THOUGHTS[1:] else start_of(name)


def planned(plan: Plan) -> list[tuple[str, int]]:
    """Every run that leaves a result: some jobs leave several."""
    several = {"start_best_of_8": VOTES, "thought_use": THOUGHTS}
    return [(name, seed) for job, seed in jobs(plan) for name in several.get(job, (job,))]


# Reading


def records_file(summary: Path) -> Path:
    return summary.with_name(summary.stem + ".jsonl.gz")


def read_records(path: Path) -> list[dict[str, Any]]:
    """Raises ReportError naming file and line."""
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except FileNotFoundError as error:
        raise ReportError(f"there is no {path}, which holds the records of that run") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ReportError(f"{path} is not whole: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            found.append(
                {**record, "right": float(record["right"]), "id": str(record["id"]), "set": str(record["set"])}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ReportError(f"{path}, line {number}: no record: {error!r}") from error
    return found


def load(folder: Path) -> tuple[dict[str, dict[int, Run]], list[str]]:
    """All runs by name and seed, and the names of results that are of no known arm.

    Raises ReportError where a summary is not that of its records, or two runs were asked other items or had two starts.
    """
    runs: dict[str, dict[int, Run]] = {}
    others = []
    for path in sorted(folder.glob("*.json")):
        name, _, seed = path.stem.rpartition("-")
        if name == "thought_use":  # says only that its four are there
            continue
        if name not in KNOWN or not seed.isdigit():
            others.append(path.name)
            continue
        runs.setdefault(name, {})[int(seed)] = _run(path, name, int(seed))
    if not runs:
        raise ReportError(f"there is no run in {folder}")
    _same(runs)
    return {name: dict(sorted(runs[name].items())) for name in KNOWN if name in runs}, others


def _run(path: Path, name: str, seed: int) -> Run:
    try:
        summary = json.loads(path.read_text())
        said = {which: (s["n"], s["right"], s["parsed"]) for which, s in summary["sets"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ReportError(f"{path} is no summary of a run: {error!r}") from error
    by_set: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(records_file(path)):
        by_set.setdefault(record["set"], []).append(record)
    if by_set.keys() != said.keys():
        raise ReportError(f"{path} has the sets {sorted(said)}, its records {sorted(by_set)}")
    values: dict[str, dict[str, NDArray[np.float64]]] = {"right": {}, "parsed": {}, "iou": {}}
    items = {}
    for which, some in by_set.items():
        some.sort(key=lambda r: r["id"])
        items[which] = tuple((r["id"], int(r["scene"])) for r in some)
        if len(set(items[which])) < len(some):
            raise ReportError(f"{records_file(path)} has an item of {which} twice")
        values["right"][which] = np.array([r["right"] for r in some])
        values["parsed"][which] = np.array([float(r["parsed"]) for r in some])
        if which in BOXED:  # what cannot be parsed has no box
            values["iou"][which] = np.array([float(r.get("iou", 0.0)) for r in some])
        n, right, parsed = said[which]
        for what, its, true in (
            ("n", n, len(some)),
            ("right", right, values["right"][which].mean()),
            ("parsed", parsed, values["parsed"][which].mean()),
        ):
            if abs(its - true) > 1.1e-5:
                raise ReportError(f"{path} says {what} {its} of {which}, its records {true:.5f}")
    digest = hashlib.sha256(records_file(path).read_bytes()).hexdigest()
    errors = {which: _errors(by_set[which]) for which in SINGLE if which in by_set}
    denied = {
        which: np.array([bool(r["parsed"]) and not r.get("boxes") for r in by_set[which]])
        for which in SINGLE
        if which in by_set
    }
    return Run(name, seed, path, summary, values, items, errors, denied, digest)


def _errors(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    counts = dict.fromkeys(ERRORS, 0)
    for r in records:
        boxes = r.get("boxes", [])
        if not r["parsed"]:
            counts["unreadable"] += 1
        elif r["right"] < 1:
            one = "rough" if r.get("iou", 0.0) > 0.2 else "elsewhere"
            counts["denied" if not boxes else "several" if len(boxes) > 1 else one] += 1
    return {kind: count / len(records) for kind, count in counts.items()}


def _same(runs: Runs) -> None:
    """Pairing is by item: every run must have been asked the same, from the same start."""
    first: dict[str, tuple[Any, Path]] = {}
    for name, seeds in runs.items():
        for key in ("learning_rate", "updates", "prompts_per_update", "generations"):
            if len(values := {run.summary.get(key) for run in seeds.values()}) > 1:
                raise ReportError(f"the seeds of {name} differ in {key}: {sorted(map(str, values))}")
    for run in (r for seeds in runs.values() for r in seeds.values()):
        seen: dict[str, Any] = {f"items of {which}": items for which, items in run.items.items()}
        seen |= {f"sha256 of {which}": s["sha256"] for which, s in run.summary["sets"].items() if "sha256" in s}
        if "start_sha256" in run.summary:
            seen["start_sha256"] = run.summary["start_sha256"]
        for what, value in seen.items():
            known, where = first.setdefault(what, (value, run.file))
            if known != value:
                raise ReportError(f"{run.file} and {where} differ in {what}: they cannot be paired")


# Estimates


def rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # no -0.0


def over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean; None with fewer than two."""
    if len(values) < 2:
        return None
    x = np.asarray(values, float)
    half = float(stats.t.ppf(0.975, len(x) - 1)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return rounded(x.mean() - half), rounded(x.mean() + half)


@lru_cache(maxsize=8)
def _draws(clusters: int) -> NDArray[np.float64]:
    """How often each cluster is drawn: (RESAMPLES, clusters)."""
    rng = np.random.default_rng([0, clusters])
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES).astype(float)


def over_items(values: NDArray[np.float64], scenes: Sequence[int]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of values (items,), whole scenes drawn with replacement."""
    _, which = np.unique(np.asarray(scenes), return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which).astype(float)
    drawn = _draws(len(sums))
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])
    return rounded(low), rounded(high)


def _pairs(a: Mapping[int, Run], b: Mapping[int, Run]) -> list[tuple[int, Run, Run]]:
    """By seed; what was not trained is the same for every seed."""
    fixed_a, fixed_b = (all(r.name in UNTRAINED for r in x.values()) for x in (a, b))
    if fixed_a and fixed_b:
        return [(0, a[0], b[0])] if 0 in a and 0 in b else []
    if fixed_b:
        return [(seed, run, b[0]) for seed, run in a.items()] if 0 in b else []
    if fixed_a:
        return [(seed, a[0], run) for seed, run in b.items()] if 0 in a else []
    return [(seed, a[seed], b[seed]) for seed in a if seed in b]


def contrast(runs: Runs, a: str, b: str, on: str, measure: str = "right", net: bool = False) -> Contrast | None:
    """None where a run that it needs is not there, or was not asked this set."""
    needed = [runs.get(name, {}) for name in ((a, b, start_of(a), start_of(b)) if net else (a, b))]
    has = [{seed: r for seed, r in some.items() if on in r.values[measure]} for some in needed]
    pairs = _pairs(has[0], has[1]) if all(has) else []
    if not pairs:
        return None
    by_seed = np.stack([x.values[measure][on] - y.values[measure][on] for _, x, y in pairs])
    if net:
        by_seed = by_seed - (has[2][0].values[measure][on] - has[3][0].values[measure][on])
    scenes = [scene for _, scene in pairs[0][1].items[on]]
    return Contrast(
        a,
        b,
        on,
        measure,
        net,
        rounded(by_seed.mean()),
        over_seeds(by_seed.mean(1).tolist()),
        over_items(by_seed.mean(0), scenes),
        tuple(seed for seed, _, _ in pairs),
        len(scenes),
        len(set(scenes)),
    )


def verdict(found: Contrast | None, rule: str = "above") -> str:
    """By the interval over seeds, with at least ENOUGH of them; otherwise undecided.

    above: held where it is above 0, did not hold where below. no gain: held where its upper end is below MARGIN, did
    not hold where the interval is above 0; no loss: the mirror of it. Undecided is everything else.
    """
    if found is None:
        return "not run"
    if found.t is None or len(found.seeds) < ENOUGH:
        return "undecided"
    low, high = found.t
    if rule == "no loss":
        low, high = -high, -low
    if rule == "above":
        return "held" if low > 0 else "did not hold" if high < 0 else "undecided"
    return "did not hold" if low > 0 else "held" if high < MARGIN else "undecided"


# Findings


def findings(runs: Runs, plan: Plan, others: Sequence[str] = ()) -> dict[str, Any]:
    """The report in numbers, JSON. Runs that the plan does not have are named and are in no figure."""
    wanted = planned(plan)
    used = {n: {s: r for s, r in seeds.items() if (n, s) in wanted} for n, seeds in runs.items()}
    used = {name: seeds for name, seeds in used.items() if seeds}
    if not used:
        raise ReportError("no run that is there is one of the plan")
    every = [run for seeds in runs.values() for run in seeds.values()]
    return {
        "intervals": {"level": 0.95, "resamples": RESAMPLES, "enough_seeds": ENOUGH, "margin": MARGIN},
        "sets": _sets(used),
        "arms": {name: _arm(used, name, wanted) for name in KNOWN},
        "contrasts": _contrasts(used),
        "claims": [_claim(used, claim) for claim in CLAIMS],
        "forgetting": _forgetting(used),
        "denials": {name: one for name in (*ARMS, UNDENIED) if (one := _denials(used, name))},
        "points": points(used),
        "training": {name: _training(list(seeds.values())) for name, seeds in used.items() if name in ARMS},
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


def _contrasts(runs: Runs) -> list[dict[str, Any]]:
    """grpo_thought against every other arm and vote, grpo_answer against SFT on answers, and ONE_RATE; as they are, and
    net."""
    others = [name for name in (*ARMS, *VOTES, UNDENIED) if name != "grpo_thought"]
    pairs = [*(("grpo_thought", name) for name in others), ("grpo_answer", "sft_answer"), STARTS, *ONE_RATE]
    found = []
    for a, b in pairs:
        for which in SETS:
            for measure in ("right", "iou") if which in BOXED else ("right",):
                for net in (False, True) if b in ARMS else (False,):
                    if (one := contrast(runs, a, b, which, measure, net)) is not None:
                        found.append(asdict(one))
    return found


def _claim(runs: Runs, claim: Claim) -> dict[str, Any]:
    found = contrast(runs, claim.a, claim.b, claim.on, net=claim.net)
    other = None if claim.b not in ARMS else contrast(runs, claim.a, claim.b, claim.on, net=not claim.net)
    return {
        **asdict(claim),
        "verdict": verdict(found, claim.rule),
        # Where both speak in one form the start is one, and net is the same.
        "other_verdict": verdict(other, claim.rule) if other and start_of(claim.a) != start_of(claim.b) else None,
        "contrast": found and asdict(found),
        "other_form": other and asdict(other),
    }


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


def _forgetting(runs: Runs) -> list[dict[str, Any]]:
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


def _denials(runs: Runs, name: str) -> dict[str, Any] | None:
    """Of the start's own denials on sets where there always is something, and of all else, what became.

    denied, others: points of the whole set gained among the items that the start denied, and among the others, over
    seeds. answered: share right of the answers with a box. balanced: mean of NOVEL and no-target, so that answering
    always, and denying always, win nothing.
    """
    begin, seeds = runs.get(start_of(name), {}).get(0), runs.get(name, {})
    some = [r for r in seeds.values() if all(which in r.items for which in (*SINGLE, "no_target"))]
    if begin is None or not some:
        return None
    found: dict[str, Any] = {}
    for which in SINGLE:
        before = begin.denied[which]
        changes = [r.values["right"][which] - begin.values["right"][which] for r in some]
        parts = {"denied": [c[before].sum() / len(c) for c in changes]}
        parts["others"] = [c[~before].sum() / len(c) for c in changes]
        found[which] = {k: {"mean": rounded(float(np.mean(v))), "t": over_seeds(v)} for k, v in parts.items()}
        answered = [_answered(r, which) for r in (begin, *some)]
        found[which]["answered"] = {"start": rounded(answered[0]), "mean": rounded(float(np.mean(answered[1:])))}
    levels = [(r.values["right"]["novel"].mean() + r.values["right"]["no_target"].mean()) / 2 for r in (begin, *some)]
    found["balanced"] = {"start": rounded(levels[0]), "mean": rounded(float(np.mean(levels[1:])))}
    return found


def _answered(run: Run, which: str) -> float:
    kept = run.values["right"][which][~run.denied[which] & (run.values["parsed"][which] > 0)]
    return float(kept.mean()) if len(kept) else 0.0


def _training(runs: Sequence[Run]) -> dict[str, Any]:
    """Of every logged quantity the mean of the first and of the last ENDS values (of few, one at each end), and seconds
    per update."""
    logs = [run.log() for run in runs]
    found: dict[str, Any] = {"logs": sum(bool(log) for log in logs)}
    for key in LOGGED:
        series = [_series(log, key) for log in logs]
        series = [s for s in series if s]
        if series:
            few = [min(ENDS, max(1, len(s) // 4)) for s in series]
            ends = [[np.mean(s[:n]), np.mean(s[-n:])] for s, n in zip(series, few, strict=True)]
            first, last = np.mean(ends, 0)
            found[key] = {"first": rounded(first), "last": rounded(last)}
    for key in SECONDS:
        if means := [np.mean(s) for log in logs if (s := _series(log, key))]:
            found[key] = rounded(np.mean(means))
    return found


def _series(log: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(r[key]) for r in log if isinstance(r.get(key), (int, float))]


def _listed(run: Run) -> dict[str, Any]:
    """What a reader needs to find and to judge a run."""
    return {
        "run": run.title,
        **{key: run.summary[key] for key in LISTED if key in run.summary},
        "updates_logged": max((r.get("step", 0) for r in run.log()), default=0),
        "sets": {which: {k: v for k, v in s.items() if k != "parsed"} for which, s in run.summary["sets"].items()},
        "records_sha256": run.records_sha256,
    }


def samples(
    runs: Runs, instructions: Mapping[str, str], each: int = 2, arm: str = "grpo_thought"
) -> list[dict[str, Any]]:
    """The same items before and after, of the first seed: gained, lost, wrong and right both times, drawn by chance."""
    if STARTS[0] not in runs or arm not in runs:
        return []
    seed = min(runs[arm])
    before, after = ({r["id"]: r for r in run.records()} for run in (runs[STARTS[0]][0], runs[arm][seed]))
    outcomes = {
        "gained": (False, True),
        "lost": (True, False),
        "wrong both times": (False, False),
        "kept": (True, True),
    }
    found = []
    for which in ("id", "novel"):
        shared = [i for i in sorted(before) if i in after and before[i]["set"] == which]
        for outcome, wanted in outcomes.items():
            some = [i for i in shared if (before[i]["right"] > 0.5, after[i]["right"] > 0.5) == wanted]
            order = np.random.default_rng(0).permutation(len(some))[:each]
            for i in (some[n] for n in order):
                x, y = before[i], after[i]
                found.append(
                    {
                        **{"set": which, "outcome": outcome, "count": len(some), "of": len(shared)},
                        **{"id": i, "seed": seed, "scene": x["scene"], "kind": x["kind"]},
                        "instruction": instructions.get(i, ""),
                        **{"before": x["text"], "after": y["text"]},
                        **{"boxes_before": x.get("boxes", []), "boxes_after": y.get("boxes", [])},
                        **{"iou_before": x.get("iou", 0.0), "iou_after": y.get("iou", 0.0)},
                    }
                )
    return found
