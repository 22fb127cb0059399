"""Runs as their files tell them, values in the order of the items; what does not go together is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.experiments.findings.groups import BOXED, KNOWN, SINGLE
from training.experiments.run_files import ResultsError, log_file, read_log, read_records, records_file

# How an answer can be wrong there: nothing said, IoU at most .2, above it and at most .5, several boxes, no form.
ERRORS = ("denied", "elsewhere", "rough", "several", "unreadable")


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
        return read_log(log_file(self.file))


Runs = Mapping[str, Mapping[int, Run]]  # name -> seed -> run


def load(folder: Path) -> tuple[dict[str, dict[int, Run]], list[str]]:
    """All runs by name and seed, and the names of results that are of no known arm.

    Raises ResultsError where a summary is not that of its records, two runs were asked other items or had two starts.
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
        raise ResultsError(f"there is no run in {folder}")
    _same(runs)
    return {name: dict(sorted(runs[name].items())) for name in KNOWN if name in runs}, others


def _run(path: Path, name: str, seed: int) -> Run:
    try:
        summary = json.loads(path.read_text())
        said = {which: (s["n"], s["right"], s["parsed"]) for which, s in summary["sets"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is no summary of a run: {error!r}") from error
    by_set: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(records_file(path)):
        by_set.setdefault(record["set"], []).append(record)
    if by_set.keys() != said.keys():
        raise ResultsError(f"{path} has the sets {sorted(said)}, its records {sorted(by_set)}")
    values: dict[str, dict[str, NDArray[np.float64]]] = {"right": {}, "parsed": {}, "iou": {}}
    items = {}
    for which, some in by_set.items():
        some.sort(key=lambda r: r["id"])
        items[which] = tuple((r["id"], int(r["scene"])) for r in some)
        if len(set(items[which])) < len(some):
            raise ResultsError(f"{records_file(path)} has an item of {which} twice")
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
                raise ResultsError(f"{path} says {what} {its} of {which}, its records {true:.5f}")
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
                raise ResultsError(f"the seeds of {name} differ in {key}: {sorted(map(str, values))}")
    for run in (r for seeds in runs.values() for r in seeds.values()):
        seen: dict[str, Any] = {f"items of {which}": items for which, items in run.items.items()}
        seen |= {f"sha256 of {which}": s["sha256"] for which, s in run.summary["sets"].items() if "sha256" in s}
        if "start_sha256" in run.summary:
            seen["start_sha256"] = run.summary["start_sha256"]
        for what, value in seen.items():
            known, where = first.setdefault(what, (value, run.file))
            if known != value:
                raise ResultsError(f"{run.file} and {where} differ in {what}: they cannot be paired")
