"""Asked without training: the start alone, its best and its majority of eight, and whether a thought is used."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from training.data.tabletop import sets
from training.experiments.plan import ARMS, Plan
from training.experiments.run_files import log_file, records_file, write_packed, write_records
from training.experiments.running.arms import configuration_of, digest, trained
from training.experiments.running.ask import Speaker, ask_all, batches, summary
from training.experiments.running.judge import judge
from training.experiments.running.rows import check_rows
from training.experiments.running.votes import SAMPLES, of_eight

DENIALS = (" There", "[]")  # the tokens by which a thought, and an answer, say that nothing matches
_PLACE = re.compile(r" at \(\d+, \d+\)")


def keep(
    results: Path, name: str, seed: int, records: Sequence[dict[str, Any]], chosen: Mapping[str, sets.Set], **more: Any
) -> None:
    """A result in the form of a run's."""
    results.mkdir(parents=True, exist_ok=True)
    done = results / f"{name}-{seed}.json"
    write_records(records_file(done), records)
    part = done.with_suffix(".part")
    part.write_text(json.dumps({"arm": name, "seed": seed, **more, "sets": summary(records, chosen)}, indent=1))
    part.replace(done)


def validated(name: str, plan: Plan, root: Path, start: Path, results: Path) -> None:
    """The start on the rows by which runs are validated: where their curves begin, update 0."""
    from training.finetune import run as train

    arm = ARMS["grpo_answer" if name == "start_answer" else "grpo_thought"]
    with tempfile.TemporaryDirectory() as folder:
        rows, out = check_rows(plan, root, arm.think, Path(folder) / "check"), Path(folder) / "run"
        trainer, _ = train.ready(configuration_of(arm, plan, 0, start, rows, rows, out), resume=False)
        trainer.evaluate()
        write_packed(log_file(results / f"{name}-0.json"), (out / "log.jsonl").read_bytes())


def starts(name: str, plan: Plan, root: Path, start: Path, results: Path) -> None:
    """start_think and start_answer greedily, start_undenied greedily without a denial's tokens; start_best_of_8 and
    start_majority_of_8 of the same samples."""
    speaker, chosen = Speaker(start), sets.tests(root, plan.share)
    scenes = {split: sets.scenes_of(root, split, plan.share) for split in ("test", "test-ood")}
    began = time.monotonic()
    more: dict[str, Any] = {"think": name != "start_answer", "start_sha256": digest(start)}
    if name == "start_undenied":
        speaker.never += speaker.tokenizer.convert_tokens_to_ids(list(DENIALS))
    if name in ("start_think", "start_answer", "start_undenied"):
        records = [r for one in chosen.values() for r in ask_all(speaker, one, scenes[one.split], think=more["think"])]
        seconds = round(time.monotonic() - began, 1)
        if name != "start_undenied":
            results.mkdir(parents=True, exist_ok=True)
            validated(name, plan, root, start, results)
        keep(results, name, 0, records, chosen, **more, ask_seconds=seconds)  # last: a job with a result is done
        return
    best: list[Any] = []
    most: list[Any] = []
    for one in chosen.values():
        sampled = ask_all(speaker, one, scenes[one.split], think=True, count=SAMPLES, temperature=1.0)
        a, b = of_eight(sampled, {i.id: i.ask for i in one.items})
        best += a
        most += b
    more["ask_seconds"] = round(time.monotonic() - began, 1)
    keep(results, "start_majority_of_8", 0, most, chosen, **more)
    keep(results, "start_best_of_8", 0, best, chosen, **more)


def swap(thoughts: Sequence[str]) -> list[str]:
    """Every item gets another's: the one half of the list away."""
    half = len(thoughts) // 2
    return [*thoughts[half:], *thoughts[:half]]


CHANGES: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "thought_kept": list,
    "thought_emptied": lambda thoughts: ["" for _ in thoughts],
    "thought_swapped": swap,
    "thought_without_coordinates": lambda thoughts: [_PLACE.sub("", t) for t in thoughts],
}


@torch.no_grad()
def thought_use(seed: int, plan: Plan, root: Path, model: Path, tokenizer: Path, results: Path) -> None:
    """The policy's own thoughts, changed, are put before its answers on the set `id`."""
    from training.finetune.configuration import Model
    from training.finetune.model import load_model

    speaker = Speaker(tokenizer, load_model(Model(str(model), "embedded"), model))
    scenes, chosen = sets.scenes_of(root, "test", plan.share), sets.tests(root, plan.share)["id"]
    own = {r["id"]: r["text"] for r in ask_all(speaker, chosen, scenes, think=True)}
    order = [i.id for i in chosen.items]
    thoughts = [own[i].partition("<think>")[2].partition("</think>")[0] for i in order]
    for name, change in CHANGES.items():
        given = dict(zip(order, change(thoughts), strict=True))
        records = []
        for items, images, which in tqdm(list(batches(chosen, scenes)), desc=name, leave=False):
            begun = [f"<think>{given[i.id]}</think>" for i in items]
            prefix = speaker.listen(speaker.look(images), which, [i.ask.prompt(True) for i in items], begun)
            for item, (text,), first in zip(items, speaker.speak(prefix), begun, strict=True):
                plain = {"id": item.id, "set": "id", "kind": item.ask.kind, "scene": item.scene}
                records.append({**plain, "text": first + text, **judge(item.ask, first + text)})
        keep(results, name, seed, sorted(records, key=lambda r: r["id"]), {"id": chosen}, think=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "name", choices=("start_think", "start_answer", "start_best_of_8", "start_undenied", "thought_use")
    )
    parser.add_argument("seed", type=int)
    parser.add_argument("--plan", required=True)
    for place in ("root", "start", "work", "results"):
        parser.add_argument(f"--{place}", type=Path, required=True)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    plan = Plan(**json.loads(a.plan))
    if a.name != "thought_use":
        starts(a.name, plan, a.root, a.start, a.results)
        return 0
    # Its result may be another machine's, and the checkpoint not here: then it is trained again, to the same weights.
    tuned = trained(ARMS["grpo_thought"], a.seed, plan, a.root, a.start, a.work).checkpoint
    thought_use(a.seed, plan, a.root, tuned, a.start, a.results)
    keep_marker(a.results, a.seed, plan)
    return 0


def keep_marker(results: Path, seed: int, plan: Plan) -> None:
    """That all changes of a seed's thoughts were asked."""
    done = {name: json.loads((results / f"{name}-{seed}.json").read_text())["sets"] for name in CHANGES}
    part = results / f"thought_use-{seed}.part"
    part.write_text(json.dumps({"arm": "thought_use", "seed": seed, "changes": done, "plan": asdict(plan)}, indent=1))
    part.replace(results / f"thought_use-{seed}.json")


if __name__ == "__main__":
    sys.exit(main())
