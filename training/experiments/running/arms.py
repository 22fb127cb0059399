"""One arm of the experiment with one seed: prepare its rows, train by its recipe, ask everything, keep the records.

`python -m training.experiments.running.arms ARM SEED ...` is what `make reproduce` starts in a process of its own; a
killed one continues at its last checkpoint, and one that has its result is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from training.data.tabletop import sets
from training.experiments.plan import ARMS, Arm, Plan
from training.experiments.run_files import log_file, records_file, write_packed, write_records
from training.experiments.running.ask import Speaker, ask_all, batches, summary
from training.experiments.running.rows import prepare


def configuration_of(arm: Arm, plan: Plan, seed: int, start: Path, rows: Path, check: Path, out: Path) -> Any:
    """The recipe `tabletop_grpo` or `tabletop_sft` with what this arm changes."""
    from training.finetune import configuration

    prompts = arm.prompts or plan.prompts
    updates = round(plan.updates * arm.updates)
    data = configuration.read(configuration.find(f"tabletop_{arm.method}"))
    ours: dict[str, Any] = {
        "name": f"{arm.name}-{seed}",
        "model": {"path": str(start)},
        "data": {"train": str(rows), "validation": str(check)},
        "reward": {"profile": arm.profile},
        "batch": {"prompts": prompts},
        # No run is stopped early: one that falls apart is a result too.
        "watch": dict.fromkeys(("format_rate", "zero_spread", "kl", "truncated"))
        | {"spread_prompts": 0, "format_term": ""},
        "seed": seed,
        "out": str(out),
        "pictures": False,
        "save_every": max(1, updates // 3),
        "trl": {"max_steps": updates, "learning_rate": plan.rates[arm.name], "save_total_limit": 1},
        "grpo": {"num_generations": plan.generations},
    }
    if arm.method == "sft":
        # Validated by the reward of its form, whatever it was trained on; a constant rate, as the others have.
        ours["reward"] = {"profile": "segzero" if arm.think else "segzero-answer"}
        ours["trl"] |= {"lr_scheduler_type": "constant", "warmup_steps": 0}
    merged = configuration.merged(configuration.merged(data, ours), arm.changes)
    merged["batch"]["micro"] = prompts * (merged["grpo"]["num_generations"] if arm.method == "grpo" else 1)
    return configuration.build(merged)


@torch.no_grad()
def divergence(tuned: Speaker, start: Speaker, chosen: sets.Set, scenes: Any, think: bool) -> float:
    """KL(tuned || start) in nats per answer: at every token of one sampled answer of the tuned policy per item, the
    divergence of the two distributions, summed over the answer."""
    total = 0.0
    for number, (items, images, which) in enumerate(batches(chosen, scenes)):
        texts = [i.ask.prompt(think) for i in items]
        mine = tuned.listen(tuned.look(images), which, texts)
        ids = tuned.draw(mine, 1, 1.0, seed=number)
        longest = max(map(len, ids))
        rows = torch.tensor([r + [0] * (longest - len(r)) for r in ids])
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in ids])
        group = torch.arange(len(items))
        theirs = start.listen(start.look(images), which, texts)
        a = torch.log_softmax(tuned.forward.logits(mine, group, rows), -1)
        b = torch.log_softmax(start.forward.logits(theirs, group, rows), -1)
        total += float(((a.exp() * (a - b)).sum(-1) * mask).sum())
    return total / len(chosen.items)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def measure(speaker: Speaker, start: Speaker, plan: Plan, root: Path, think: bool) -> tuple[dict[str, Any], list[Any]]:
    """All five sets, greedily, and how far the policy went."""
    chosen = sets.tests(root, plan.share)
    scenes = {one.split: sets.scenes_of(root, one.split, plan.share) for one in chosen.values()}
    records = [r for one in chosen.values() for r in ask_all(speaker, one, scenes[one.split], think=think)]
    part = sets.Set("kl", "test", chosen["id"].items[: round(plan.kl_items * plan.share)])
    kl = divergence(speaker, start, part, scenes["test"], think)
    return {"sets": summary(records, chosen), "kl_per_answer": round(kl, 5)}, records


@dataclass(frozen=True)
class Trained:
    """seconds: of the training, or None where it took several sittings."""

    configuration: Any
    checkpoint: Path
    rows: int
    seconds: float | None


def trained(arm: Arm, seed: int, plan: Plan, root: Path, start: Path, work: Path) -> Trained:
    """Trains an arm, or goes on with it, or finds it trained."""
    import datasets

    from training.finetune import run as train

    folder = work / f"{arm.name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rows, check = prepare(arm, plan, seed, root, start, folder)
    c = configuration_of(arm, plan, seed, start, rows, check, folder / "run")
    begun = (Path(c.out) / "configuration.yaml").is_file()
    began = time.monotonic()
    if train.run(c, resume=begun):
        raise RuntimeError(f"{c.name} was stopped early: {(Path(c.out) / 'stopped.json').read_text()}")
    last = train.last_checkpoint(Path(c.out))
    if last is None or last.name != f"checkpoint-{c.arguments['max_steps']}":
        raise RuntimeError(f"{c.name}: the last checkpoint is {last}, which is not the end of the run")
    seconds = None if begun else round(time.monotonic() - began, 1)
    return Trained(c, last, len(datasets.load_from_disk(str(rows))), seconds)


def run(arm: Arm, seed: int, plan: Plan, root: Path, start: Path, work: Path, results: Path) -> Path:
    """Trains and asks; returns the file of the result."""
    from training.finetune.model import load_model

    done = results / f"{arm.name}-{seed}.json"
    if done.exists():
        return done
    results.mkdir(parents=True, exist_ok=True)
    ready = trained(arm, seed, plan, root, start, work)
    c, began = ready.configuration, time.monotonic()
    speaker = Speaker(start, load_model(replace(c.model, path=str(ready.checkpoint)), ready.checkpoint))
    found, records = measure(speaker, Speaker(start), plan, root, arm.think)
    write_records(records_file(done), records)
    write_packed(log_file(done), (Path(c.out) / "log.jsonl").read_bytes())
    result = {
        "arm": arm.name,
        "seed": seed,
        "think": arm.think,
        "method": arm.method,
        "learning_rate": c.arguments["learning_rate"],
        "updates": round(plan.updates * arm.updates),
        "prompts_per_update": c.batch.prompts,
        "generations": c.generations,
        "rows": ready.rows,
        "start_sha256": digest(start),
        **({} if ready.seconds is None else {"train_seconds": ready.seconds}),
        "ask_seconds": round(time.monotonic() - began, 1),
        **found,
    }
    part = done.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1))
    part.replace(done)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("seed", type=int)
    parser.add_argument("--plan", required=True, help="the plan, JSON")
    parser.add_argument("--root", type=Path, required=True, help="scenes")
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    plan = Plan(**json.loads(a.plan))
    print(run(ARMS[a.arm], a.seed, plan, a.root, a.start, a.work, a.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
