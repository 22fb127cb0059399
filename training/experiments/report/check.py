"""Whether a written report is that of its records: every number recomputed, every text judged anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.data.tabletop.questions import Ask
from training.data.tabletop.store import Thing
from training.experiments.findings.runs import Runs, load
from training.experiments.plan import Plan
from training.experiments.report.asked import read_asked
from training.experiments.report.compute import compute
from training.experiments.report.text import render
from training.experiments.run_files import ResultsError
from training.experiments.running.judge import judge
from training.experiments.running.votes import of_eight

TOLERANCE = 1.5e-5  # figures are rounded to five digits, and another BLAS may round the last one otherwise


def check(results: Path, out: Path, plan: Plan) -> list[str]:
    """What of the written report is not what the records give; nothing if all is."""
    folder = out / "tabletop"
    try:
        written = json.loads((folder / "report.json").read_text())
        text = (out / "tabletop.md").read_text()
    except (OSError, ValueError) as error:
        raise ResultsError(f"there is no whole report in {out}: {error}") from error
    runs, others = load(results)
    shown = written.pop("pictures", [])
    computed = json.loads(json.dumps(compute(runs, others, plan, folder)))
    wrong = list(differences(written, computed))
    wrong += [f"{folder / name} is not there" for name in shown if not (folder / name).exists()]
    if render({**computed, "pictures": shown}) != text:
        wrong.append(f"{out / 'tabletop.md'} is not the text of these numbers")
    items = read_asked(folder / "asked.json.gz")["items"]
    return wrong + (judged_anew(runs, items) if items else [])


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


def judged_anew(runs: Runs, items: Mapping[str, Any]) -> list[str]:
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


def _voted_anew(runs: Runs, asks: dict[str, Ask]) -> list[str]:
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
