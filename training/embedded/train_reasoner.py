"""Trains the embedded reasoner from nothing: the vision tower alone, then all of it on instructions.

Next-token loss alone learns the format and does not ground, so the image tokens also predict what they show
(heads that are thrown away), and some attention heads are told where to look. Worker processes, one thread each,
average their gradients; a checkpoint holds everything, so a killed run continues where it was.

    reasoner_settings     what a run is given
    reasoner_worker       a worker process: batches, steps, log, checkpoints
    reasoner_learner      the model with its heads, and a step's loss
    reasoner_losses       the losses and the heads
    reasoner_optimisers   how the weights move
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from training.data.tabletop.instructions import KINDS
from training.embedded.processes import MALLOC
from training.embedded.reasoner_settings import Settings


def train(settings: Settings) -> Path:
    """Runs all workers to the end; returns the folder of the trained model."""
    port = 20000 + os.getpid() % 20000
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "training.embedded.train_reasoner",
                "--worker",
                str(rank),
                json.dumps(asdict(settings)),
            ],
            env=os.environ
            | MALLOC
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(settings.workers)
    ]
    try:
        codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            process.kill()
        raise
    if any(codes):
        raise RuntimeError(f"a training worker failed: exit codes {codes}")
    return Path(settings.out) / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded reasoner.")
    parser.add_argument("--worker", nargs=2, metavar=("RANK", "SETTINGS"), help=argparse.SUPPRESS)
    parser.add_argument("--data", default="build/tabletop")
    parser.add_argument("--out", default="build/reasoner")
    parser.add_argument("--course", choices=("instructions", "experiment"), default="instructions")
    parser.add_argument("--tower", default="", help="checkpoint whose vision tower is kept; with --vision-steps 0")
    parser.add_argument("--init", default="", help="checkpoint to go on from")
    for name in ("lr", "lr_vision", "lr_vision_joint", "reworded", "unheard", "understood"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Settings, name))
    parser.add_argument(
        "--kinds", nargs="+", default=KINDS, choices=KINDS, help="asked; one given twice twice as often"
    )
    for name in (
        "vision_steps",
        "joint_steps",
        "images",
        "workers",
        "seed",
        "length",
        "limit",
        "export_every",
        "save_every",
        "validate_every",
        "asked",
        "settle",
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Settings, name))
    parser.add_argument("--smoke", action="store_true")
    arguments = vars(parser.parse_args())
    worker = arguments.pop("worker")
    if worker:
        from training.embedded.reasoner_worker import run_worker

        run_worker(Settings(**json.loads(worker[1])), int(worker[0]))
    else:
        train(Settings(**arguments))


if __name__ == "__main__":
    main()
