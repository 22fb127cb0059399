"""The start checkpoint: broad pre-training, stopped early, its two forms brought level, and what it can do.

    python -m training.experiments.start pretrain --root SCENES --out DIR     # train_reasoner, exported every 50 steps
    python -m training.experiments.start level --root SCENES --model DIR/model-00400 --out DIR2
    python -m training.experiments.start check --root SCENES --model DIR2/checkpoint-60

`level` is plain next-token training by the recipe `tabletop_sft` on the same broad mixture over the same scenes, three
quarters without a thought, since that form learns later.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.experiments import sets
from training.experiments.questions import ABSENT_SHARE, NAMING, QUESTION_SHARE, RETAINED, instruct, question

TOWER = Path("segzero_ros/weights/reasoner")


def pretrain(root: Path, out: Path, steps: int) -> None:
    from training.demo.train_reasoner import Settings, train

    sets.scenes_of(root, "train")
    sets.scenes_of(root, "val")
    train(
        Settings(
            data=str(root),
            out=str(out),
            vision_steps=0,
            joint_steps=steps,
            course="experiment",
            tower=str(TOWER),
            limit=sets.PRETRAIN,
            export_every=50,
        )
    )


def level_rows(root: Path, folder: Path, count: int, think_share: float, seed: int) -> None:
    """The pre-training mixture as rows, over the pre-training scenes."""
    import datasets

    scenes = sets.scenes_of(root, "train")
    rng = np.random.default_rng([seed, 77])
    parts = []
    for think in (True, False):
        wanted = round(count * (think_share if think else 1 - think_share))
        items: list[sets.Item] = []
        while len(items) < wanted:
            scene = int(rng.integers(sets.PRETRAIN))
            things = scenes.things(scene)
            if rng.random() < QUESTION_SHARE:
                ask = question(rng, things)
            else:
                ask = instruct(rng, things, NAMING + RETAINED, ABSENT_SHARE)
            if ask is not None:
                items.append(sets.Item(f"level-{think}-{len(items):05d}", scene, ask))
        part = folder.with_name(f"{folder.name}-{think}")
        sets.write_rows(sets.Set("level", "train", tuple(items)), scenes, part, think=think)
        parts.append(datasets.load_from_disk(str(part)))
    datasets.concatenate_datasets(parts).shuffle(seed=seed).save_to_disk(str(folder))


def level(root: Path, model: Path, out: Path, updates: int, think_share: float, rate: float, seed: int) -> None:
    from training import configuration, train

    rows = out / "rows"
    if not (rows / "state.json").exists():
        level_rows(root, rows, updates * 16, think_share, seed)
    data = configuration.read(configuration.find("tabletop_sft"))
    ours: dict[str, Any] = {
        "name": "level",
        "model": {"path": str(model)},
        "data": {"train": str(rows), "validation": ""},
        "batch": {"prompts": 16, "micro": 16},
        "watch": {"spread_prompts": 0},
        "seed": seed,
        "out": str(out / "run"),
        "pictures": False,
        "save_every": 20,
        "trl": {"max_steps": updates, "learning_rate": rate, "lr_scheduler_type": "cosine", "save_total_limit": 99},
    }
    c = configuration.build(configuration.merged(data, ours))
    train.run(c, resume=(Path(c.out) / "configuration.yaml").is_file())


def check(root: Path, model: Path, items: int = 600, samples: int = 200) -> dict[str, Any]:
    """Broad box_acc and question answering in both forms on `val`, and pass@1 and pass@8 of samples on naming."""
    from training.experiments.ask import Speaker, ask_all, mean

    speaker, scenes = Speaker(model), sets.scenes_of(root, "val")
    few = sets.Scenes(root / "val", limit=200)
    broad = sets.build(few, "val", "broad", sets.asked(NAMING + RETAINED), items, 0)
    asked = sets.build(few, "val", "questions", sets.TESTS["questions"][0], items // 2, 0)
    naming = sets.build(few, "val", "id", sets.asked(NAMING), samples, 0)
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
            command.add_argument("--updates", type=int, default=100)
            command.add_argument("--think-share", type=float, default=0.25)
            command.add_argument("--rate", type=float, default=1e-4)
            command.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    if a.command == "pretrain":
        pretrain(a.root, a.out, a.steps)
        return 0
    torch.set_num_threads(1)
    if a.command == "level":
        level(a.root, a.model, a.out, a.updates, a.think_share, a.rate, a.seed)
    else:
        print(json.dumps(check(a.root, a.model)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
