"""The start checkpoint: broad pre-training, stopped early, its two forms brought level, and what it can do.

    python -m training.experiments.start pretrain --root SCENES --out DIR     # train_reasoner, exported every 50 steps
    python -m training.experiments.start level --root SCENES --model DIR/model-00350 --out DIR2
    python -m training.experiments.start check --root SCENES --model DIR2/model-00060

`level` goes on with the same mixture over the same scenes, nine tenths without a thought, since that form learns later.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.data.tabletop import sets
from training.data.tabletop.questions import NAMING, RETAINED

TOWER = Path("training/experiments/start")  # it was kept: that of the shipped weights at commit e82a59f


def pretrain(root: Path, out: Path, steps: int) -> None:
    sets.scenes_of(root, "train")
    sets.scenes_of(root, "val")
    _train(root, out, steps, tower=str(TOWER), export_every=50)


def level(root: Path, model: Path, out: Path, steps: int, think: float) -> None:
    _train(root, out, steps, init=str(model), think=think, lr=0.004, warmup=10, seed=1, export_every=20)


def _train(root: Path, out: Path, steps: int, **more: Any) -> None:
    from training.embedded.train_reasoner import Settings, train

    limit = sets.SCENES["train"]
    train(Settings(str(root), str(out), vision_steps=0, joint_steps=steps, course="experiment", limit=limit, **more))


def check(root: Path, model: Path, items: int = 600, samples: int = 200) -> dict[str, Any]:
    """Broad box_acc and question answering in both forms on `val`, and pass@1 and pass@8 of samples on naming."""
    from training.experiments.running.ask import Speaker, ask_all, mean

    speaker, scenes = Speaker(model), sets.scenes_of(root, "val")
    broad = sets.build(scenes, "val", "broad", sets.asked(NAMING + RETAINED), items, 0)
    asked = sets.build(scenes, "val", "questions", sets.TESTS["questions"][1], items // 2, 0)
    naming = sets.build(scenes, "val", "id", sets.asked(NAMING), samples, 0)
    found: dict[str, Any] = {"model": str(model), "items": items}
    for think in (True, False):
        form = "think" if think else "answer"
        found[f"box_acc_{form}"] = round(mean(ask_all(speaker, broad, scenes, think=think)), 4)
        found[f"questions_{form}"] = round(mean(ask_all(speaker, asked, scenes, think=think)), 4)
        rights = np.array(
            [r["rights"] for r in ask_all(speaker, naming, scenes, think=think, count=8, temperature=1.0)]
        )
        found[f"naming_pass_1_{form}"] = round(float(rights.mean()), 4)
        found[f"naming_pass_8_{form}"] = round(float((rights > 0.5).any(1).mean()), 4)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pretrain", "level", "check"):
        command = commands.add_parser(name)
        command.add_argument("--root", type=Path, required=True, help="scenes")
        if name != "pretrain":
            command.add_argument("--model", type=Path, required=True)
        if name != "check":
            command.add_argument("--out", type=Path, required=True)
        if name == "pretrain":
            command.add_argument("--steps", type=int, default=700, help="of the schedule")
        if name == "level":
            command.add_argument("--steps", type=int, default=80, help="of the schedule")
            command.add_argument("--think", type=float, default=0.1, help="share with a thought")
    a = parser.parse_args(argv)
    if a.command == "pretrain":
        pretrain(a.root, a.out, a.steps)
        return 0
    torch.set_num_threads(1)
    if a.command == "level":
        level(a.root, a.model, a.out, a.steps, a.think)
    else:
        print(json.dumps(check(a.root, a.model)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
