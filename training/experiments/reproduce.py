"""`make reproduce`: every run of the plan that has no result yet, two at a time, as long as the sitting lasts.

A run is a process of its own with one thread; killed, it goes on at its last checkpoint. Results lie in
results/tabletop/runs and are what the report is made of, so that a later sitting, on another machine too, does only
what is missing. `--smoke` does all of it with a few updates and items: it proves the way, not the claims.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from training.data.tabletop import sets
from training.embedded.processes import MALLOC
from training.experiments.plan import PLAN, RESULTS, Plan, jobs, plan_of
from training.experiments.running.arms import digest

START = Path(__file__).with_name("start")


def command(name: str, seed: int, plan: Plan, a: argparse.Namespace) -> list[str]:
    module = "training.experiments.running." + ("controls" if name.startswith(("start_", "thought_")) else "arms")
    places = ["--root", str(a.root), "--start", str(a.start), "--work", str(a.work), "--results", str(a.results)]
    return [
        sys.executable,
        "-m",
        module,
        name,
        str(seed),
        "--plan",
        json.dumps(asdict(plan)),
        *places,
    ]


def environment() -> dict[str, str]:
    """Of a run: one thread."""
    return os.environ | MALLOC | {"TOKENIZERS_PARALLELISM": "false", "SEGZERO_TRACE": "1"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("build/tabletop"), help="where scenes are kept")
    parser.add_argument("--work", type=Path, default=Path("build/reproduce"), help="where runs keep their checkpoints")
    parser.add_argument("--start", type=Path, default=START)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plan", type=Path, default=PLAN)
    parser.add_argument("--hours", type=float, default=8.0, help="no run is begun after so many hours")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names of arms")
    parser.add_argument("--smoke", action="store_true")
    a = parser.parse_args(argv)
    try:
        plan = plan_of(a.plan, a.smoke)
        wanted = json.loads(a.plan.read_text())["start_sha256"]
        given = digest(a.start)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"reproduce: the plan {a.plan} or the start {a.start} cannot be read: {error!r}", file=sys.stderr)
        return 2
    known = dict.fromkeys(name for name, _ in jobs(plan))
    if wrong := [name for name in a.only or () if name not in known]:
        print(f"reproduce: there is no run {', '.join(wrong)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    if given != wanted:
        print(f"{a.start} is not the start checkpoint of the plan ({wanted[:12]}...)", file=sys.stderr)
        return 2
    for split in ("tune", "val", "test", "test-ood"):
        sets.scenes_of(a.root, split, plan.share)
    a.work.mkdir(parents=True, exist_ok=True)
    todo = [(n, s) for n, s in jobs(plan) if not (a.results / f"{n}-{s}.json").exists() and (not a.only or n in a.only)]
    every = len(jobs(plan)) if not a.only else len(todo)
    print(f"{every - len(todo)} of {every} runs have results; {len(todo)} to go")
    return schedule(todo, plan, a)


def schedule(todo: list[tuple[str, int]], plan: Plan, a: argparse.Namespace) -> int:
    """Starts runs in order, `workers` at once. A failed one is named and the rest goes on."""
    began, failed = time.monotonic(), []
    running: dict[subprocess.Popen[bytes], tuple[str, int]] = {}
    bar = tqdm(total=len(todo), desc="runs", unit="run")
    waiting = list(todo)
    try:
        while waiting or running:
            while waiting and len(running) < a.workers and time.monotonic() - began < a.hours * 3600:
                name, seed = waiting.pop(0)
                log = (a.work / f"{name}-{seed}.log").open("ab")
                process = subprocess.Popen(command(name, seed, plan, a), stdout=log, stderr=log, env=environment())
                log.close()
                running[process] = (name, seed)
                bar.set_postfix_str(", ".join(f"{n}-{s}" for n, s in running.values()))
            if not running:
                print(f"\nthe sitting is over; {len(waiting)} runs are left for the next one")
                break
            pid, status = os.wait()
            for process in [p for p in running if p.pid == pid]:
                name, seed = running.pop(process)
                process.returncode = os.waitstatus_to_exitcode(status)
                bar.update()
                if process.returncode:
                    failed.append(f"{name}-{seed}")
                    print(f"\n{name}-{seed} failed: see {a.work / f'{name}-{seed}.log'}", file=sys.stderr)
    finally:
        for process in running:
            process.terminate()
        bar.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
