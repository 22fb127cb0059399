"""Learning-rate trials: three rates for each main arm, fewer updates than a run, on a seed that is not reported.

`python -m training.experiments.trials ...` runs what is missing and prints the best rate per arm, by greedy accuracy on
naming over `val`; the test sets are not looked at.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

from training.data.tabletop import sets
from training.experiments import reproduce
from training.experiments.plan import MAIN, Arm, Plan
from training.experiments.running.arms import configuration_of
from training.experiments.running.rows import prepare

RATES = (3e-5, 1e-4, 3e-4)
SEED = 99
UPDATES = 30
ITEMS = 400
LOG = Path("training/experiments/results/tabletop/trials.jsonl")


def trial(arm: Arm, rate: float, plan: Plan, root: Path, start: Path, work: Path) -> dict[str, object]:
    import torch

    from training.experiments.running.ask import Speaker, ask_all, mean
    from training.finetune import run as train
    from training.finetune.model import load_model

    torch.set_num_threads(1)
    plan = replace(plan, updates=UPDATES, rates={arm.name: rate})
    folder = work / f"{arm.name}-{rate:g}"
    folder.mkdir(parents=True, exist_ok=True)
    rows, check = prepare(arm, plan, SEED, root, start, folder)
    c = configuration_of(arm, plan, SEED, start, rows, check, folder / "run")
    c = replace(c, data=replace(c.data, validation=""))
    train.run(c, resume=(Path(c.out) / "configuration.yaml").is_file())
    last = train.last_checkpoint(Path(c.out))
    assert last is not None
    scenes = sets.scenes_of(root, "val")
    few = sets.build(scenes, "val", "id", sets.asked(sets.NAMING), ITEMS, 1)
    speaker = Speaker(start, load_model(replace(c.model, path=str(last)), last))
    right = mean(ask_all(speaker, few, scenes, think=arm.think))
    return {"arm": arm.name, "rate": rate, "updates": plan.updates, "seed": SEED, "val_id": round(right, 4)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--one", nargs=2, metavar=("ARM", "RATE"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, default=Path("build/tabletop"))
    parser.add_argument("--start", type=Path, default=reproduce.START)
    parser.add_argument("--work", type=Path, default=Path("build/trials"))
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--workers", type=int, default=2)
    a = parser.parse_args(argv)
    arms = {m.name: m for m in MAIN}
    if a.one:
        name, rate = a.one
        print(json.dumps(trial(arms[name], float(rate), Plan(), a.root, a.start, a.work)))
        return 0
    for split in ("tune", "val"):
        sets.scenes_of(a.root, split)
    a.log.parent.mkdir(parents=True, exist_ok=True)
    a.work.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in a.log.read_text().splitlines()] if a.log.exists() else []
    done = {(k["arm"], k["rate"]) for k in known}

    def run(job: tuple[str, float]) -> str:
        name, rate = job
        places = ["--root", str(a.root), "--start", str(a.start), "--work", str(a.work)]
        with (a.work / f"{name}-{rate:g}.log").open("ab") as errors:
            line = subprocess.run(
                [sys.executable, "-m", "training.experiments.trials", "--one", name, str(rate), *places],
                stdout=subprocess.PIPE,
                stderr=errors,
                env=reproduce.environment(),
                check=True,
                text=True,
            ).stdout
        return line.strip().splitlines()[-1]

    jobs = [(m.name, r) for m in reversed(MAIN) for r in RATES if (m.name, r) not in done]
    failed = []
    with ThreadPoolExecutor(a.workers) as pool:
        waiting = {pool.submit(run, job): job for job in jobs}
        for ended in as_completed(waiting):
            if ended.exception():
                failed.append("{}-{:g}".format(*waiting[ended]))
                continue
            print(ended.result(), flush=True)
            with a.log.open("a") as file:
                file.write(ended.result() + "\n")
            known.append(json.loads(ended.result()))
    if failed:
        print(f"failed: {', '.join(failed)}; see the logs in {a.work}", file=sys.stderr)
        return 1
    best = {name: max((k for k in known if k["arm"] == name), key=lambda k: k["val_id"])["rate"] for name in arms}
    print(json.dumps({"best": best, "plan": asdict(Plan())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
