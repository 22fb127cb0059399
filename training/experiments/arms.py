"""One arm of the experiment with one seed: prepare its rows, train by its recipe, ask everything, keep the records.

`python -m training.experiments.arms ARM SEED ...` is what `make reproduce` starts in a process of its own; a killed one
continues at its last checkpoint, and one that has its result is not run again.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.data.tabletop import sets
from training.experiments.ask import Speaker, ask_all, batches, summary
from training.rewards import PROFILES

SQUARE = 224


@dataclass(frozen=True)
class Arm:
    """rows: what a supervised arm learns: "answers", "thoughts" (template), "own" (the start's rewarded samples)."""

    name: str
    method: str  # "grpo" or "sft"
    think: bool
    question: str  # what it is there for
    rows: str = "answers"
    profile: str = "segzero"
    changes: dict[str, Any] = field(default_factory=dict)  # of the configuration
    prompts: int = 0  # per update; 0 = as all
    updates: float = 1.0  # times as many as all


@dataclass(frozen=True)
class Plan:
    """What is the same for all arms; committed before the first reported run."""

    updates: int = 100
    prompts: int = 8  # per update
    generations: int = 8
    rates: dict[str, float] = field(default_factory=dict)  # learning rate per arm, from trials on another seed
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    ablation_seeds: tuple[int, ...] = (1, 2, 3)
    share: float = 1.0  # of the test items
    kl_items: int = 256


MAIN = (
    Arm("sft_answer", "sft", False, "supervised, answers alone"),
    Arm("sft_thought", "sft", True, "supervised, with template thoughts", rows="thoughts"),
    Arm("sft_own", "sft", True, "supervised, on the start's own rewarded samples", rows="own"),
    Arm("grpo_answer", "grpo", False, "by reward, without a thought", profile="segzero-answer"),
    Arm("grpo_thought", "grpo", True, "by reward, with a thought"),
)
CONTROLS = (Arm("grpo_random", "grpo", True, "control: rewards by chance", profile="random"),)
ABLATIONS = (
    Arm("soft_accuracy", "grpo", True, "accuracy without thresholds (table 6)", profile="segzero-soft"),
    Arm("kl_x10", "grpo", True, "KL ten times (table 3)", changes={"grpo": {"beta": 5e-2}}),
    Arm(
        "n_4",
        "grpo",
        True,
        "n = 4 at equal completions (table 4)",
        changes={"grpo": {"num_generations": 4}},
        prompts=16,
    ),
    Arm("sft_answer_compute", "sft", False, "supervised, answers, at equal compute", updates=3.0),
    Arm("sft_thought_compute", "sft", True, "supervised, thoughts, at equal compute", rows="thoughts", updates=3.0),
)
# Thought of after the first results, to find out why ID stays where it is; no claim is decided by them. The slow ones
# have the learning rate of grpo_answer, sft_answer and sft_own, so that arms can be compared at one rate.
AFTERWARDS = (
    Arm("grpo_thought_slow", "grpo", True, "the learning rate of grpo_answer"),
    Arm("sft_thought_slow", "sft", True, "the learning rate of sft_answer", rows="thoughts"),
    Arm(
        "grpo_random_slow",
        "grpo",
        True,
        "control: rewards by chance, at the learning rate of grpo_answer",
        profile="random",
    ),
    Arm("grpo_thought_cool", "grpo", True, "sampled at temperature 0.5", changes={"grpo": {"temperature": 0.5}}),
)
ARMS = {a.name: a for a in (*MAIN, *CONTROLS, *ABLATIONS, *AFTERWARDS)}


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


def own_samples(start: Path, chosen: sets.Set, scenes: Any, seed: int, count: int = 8) -> tuple[sets.Set, list[str]]:
    """Prompts with a sample that wins everything, and one such sample each, drawn from `count`."""
    speaker, profile = Speaker(start), PROFILES["segzero"]
    rng = np.random.default_rng(seed)
    kept: list[tuple[sets.Item, str]] = []
    with torch.no_grad():
        for number, (items, images, which) in enumerate(batches(chosen, scenes)):
            prefix = speaker.listen(speaker.look(images), which, [i.ask.prompt(True) for i in items])
            for item, texts in zip(items, speaker.speak(prefix, count, 1.0, seed * 1000 + number), strict=True):
                won = profile.score(texts, [item.ask.solution()] * count, square=SQUARE)
                best = [t for t, w in zip(texts, won, strict=True) if w >= profile.maximum - 1e-6]
                if best:
                    kept.append((item, best[int(rng.integers(len(best)))]))
    kept.sort(key=lambda pair: pair[0].id)
    return sets.Set(chosen.name + "-own", chosen.split, tuple(i for i, _ in kept)), [t for _, t in kept]


def prepare(arm: Arm, plan: Plan, seed: int, root: Path, start: Path, folder: Path) -> tuple[Path, Path]:
    """Rows to train on and to validate on, written once."""
    train = folder / "rows"
    scenes = sets.scenes_of(root, "tune", plan.share)
    # The same prompts for every arm of a seed; more of them only where an arm sees more.
    count = round(plan.updates * (arm.prompts or plan.prompts) * max(1.0, arm.updates))
    chosen = sets.tuning(scenes, count, seed)
    if not (train / "state.json").exists():
        shutil.rmtree(train, ignore_errors=True)
        completions = None
        if arm.rows == "own":
            chosen, completions = own_samples(start, chosen, scenes, seed)
        sets.write_rows(chosen, scenes, train, think=arm.think, completions=completions)
    return train, check_rows(plan, root, arm.think, folder / "check")


def check_rows(plan: Plan, root: Path, think: bool, folder: Path) -> Path:
    """Rows to validate on, the same for all arms of a form."""
    if not (folder / "state.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        val = sets.scenes_of(root, "val", plan.share)
        few = sets.build(val, "val", "check", sets.asked(sets.NAMING), max(4, round(64 * plan.share)), 0)
        sets.write_rows(few, val, folder, think=think)
    return folder


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


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """JSONL, compressed, the same bytes for the same records."""
    part = path.with_suffix(".part")
    with part.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        for record in records:
            file.write((json.dumps(record) + "\n").encode())
    part.replace(path)


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
    write_records(results / f"{arm.name}-{seed}.jsonl.gz", records)
    shutil.copy(Path(c.out) / "log.jsonl", results / f"{arm.name}-{seed}.log.jsonl")
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
