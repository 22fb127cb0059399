"""Seconds of a GRPO update, stock TRL's beside the shared prefix's.

    python -m training.experiments.benchmark --root SCENES

One process, one run, the same model, prompts, settings and number of threads, float32 without autocast and without
gradient checkpointing for both. The first update of each is not counted. The ratio is what carries over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any


def seconds(engine: str, rows: Path, start: Path, out: Path, prompts: int, generations: int, updates: int) -> Any:
    """Of every counted update: whole, and where the engine says so, its parts."""
    from training.finetune import configuration, grpo
    from training.finetune.logs import read_jsonl

    settings = {
        "model.path": start,
        "data.train": rows,
        "data.validation": '""',
        "batch.prompts": prompts,
        "batch.micro": prompts * generations,
        "grpo.num_generations": generations,
        "trl.max_steps": updates + 1,
        "watch.spread_prompts": 0,
        "save_every": 1000,
        "engine": engine,
        "out": out,
    }
    c = configuration.load("tabletop_grpo", [f"{k}={v}" for k, v in settings.items()])
    trainer = grpo.build(replace(c, pictures=False))
    moments = [time.perf_counter()]

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            moments.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    whole = [b - a for a, b in itertools.pairwise(moments[1:])]
    log = [r for r in read_jsonl(out / "log.jsonl") if "loss" in r][1:]
    parts = {k: statistics.mean(r[k] for r in log) for k in log[0] if k.startswith("seconds/")}
    tokens = statistics.mean(r["completions/mean_length"] for r in log)
    return {"engine": engine, "seconds": whole, "mean": statistics.mean(whole), "tokens": tokens, **parts}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("build/tabletop"), help="scenes")
    parser.add_argument("--start", type=Path, default=Path(__file__).parent / "start")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON")
    a = parser.parse_args(argv)
    import torch

    from training.data.tabletop import sets

    torch.set_num_threads(a.threads)
    scenes = sets.scenes_of(a.root, "tune")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        sets.write_rows(sets.tuning(scenes, a.prompts * (a.updates + 1), 0), scenes, rows, think=True)
        size = (a.prompts, a.generations, a.updates)
        runs = [seconds(engine, rows, a.start, Path(folder) / engine, *size) for engine in ("shared_prefix", "stock")]
    shared, stock = (r["mean"] for r in runs)
    found = {"threads": a.threads, "prompts": a.prompts, "generations": a.generations, "runs": runs}
    found |= {"shared_over_stock": round(shared / stock, 4), "times_faster": round(stock / shared, 2)}
    print(json.dumps(found, indent=1))
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
