"""`make train-demo`: scenes, segmenter and reasoner from nothing, by reward at the end, then the evaluation.

Every step leaves its result on disk and is skipped or continued when it is there: a killed run goes on. `--smoke`
does the same with few scenes and steps: it proves the way, not the accuracy. `--init WEIGHTS` is a further course of a
reasoner that is there, alone: weights of another vision rope base and unheard wordings are what it is for.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.tabletop.instructions import KINDS
from training.data.tabletop.store import render_split
from training.embedded import by_reward, segmenter, train_reasoner
from training.evaluation import evaluate


@dataclass(frozen=True)
class Size:
    train: int
    val: int
    test: int
    vision_steps: int
    joint_steps: int
    images: int
    segmenter_steps: int
    questions: int
    tune: int = by_reward.TUNE
    updates: int = 0  # by reward; 0 = as configured
    prompts: int = 0


FULL = Size(24000, 1000, 1000, vision_steps=500, joint_steps=1950, images=10, segmenter_steps=2000, questions=800)
SMOKE = Size(
    40, 12, 12, vision_steps=2, joint_steps=2, images=2, segmenter_steps=2, questions=16, tune=12, updates=2, prompts=2
)

# What a further course asks twice as often, and its steps: 50 minutes on two cores (docs/decisions/embedded-model.md).
# Negations three times as often went with "the black one" read as "not black".
FURTHER_KINDS = (*KINDS, "color", "color_category", "spatial", "several", "negation")
FURTHER: dict[str, Any] = {
    "vision_steps": 0,  # of a tower with another rope base: 400
    "settle": 100,
    "joint_steps": 480,
    "lr": 0.004,
    "lr_vision_joint": 0.0,  # the tower stays as it is
    "reworded": 0.7,
    "unheard": 0.4,
    "understood": 0.4,
}
FURTHER |= {"images": 10, "length": 448, "save_every": 40, "validate_every": 200}
FURTHER_SMOKE = {"vision_steps": 2, "joint_steps": 2, "images": 2, "save_every": 1, "validate_every": 2, "asked": 8}


def curves(log: Path, picture: Path) -> None:
    """Draws every figure of a JSONL log against its step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    trained = [r for r in rows if "validation" not in r]
    checked = [{"step": r["step"], **r["validation"]} for r in rows if "validation" in r]
    names = sorted({k for r in trained + checked for k in r} - {"step", "seconds"})
    columns = 4
    lines = -(-len(names) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(16, 3 * lines), squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.remove()
    for name, axis in zip(names, axes.flat, strict=False):
        for source, style, label in ((trained, "-", "train"), (checked, "o--", "val")):
            points = [(r["step"], r[name]) for r in source if name in r]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=label, markersize=3)
        axis.set_title(name)
        axis.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=70)
    pyplot.close(figure)


def go_on(arguments: argparse.Namespace) -> Path:
    """The further course; returns the folder of the model."""
    size = SMOKE if arguments.smoke else FULL
    out = arguments.out or Path("build/further-smoke" if arguments.smoke else "build/further")
    data = arguments.data or out / "tabletop"
    for split, scenes in (("val", size.val), ("train", size.train)):
        render_split(data, split, scenes)
    steps = FURTHER | (FURTHER_SMOKE if arguments.smoke else {})
    if arguments.joint_steps:
        steps["joint_steps"] = arguments.joint_steps
    settings = train_reasoner.Settings(
        data=str(data),
        out=str(out / "reasoner"),
        init=str(arguments.init),
        kinds=FURTHER_KINDS,
        workers=arguments.workers,
        seed=arguments.seed,
        compile=not arguments.smoke,
    )
    model = train_reasoner.train(replace(settings, **steps))
    curves(out / "reasoner" / "log.jsonl", out / "reasoner" / "curves.png")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model from nothing.")
    parser.add_argument("--out", type=Path, help="default: build/train-demo, or build/train-demo-smoke")
    parser.add_argument("--data", type=Path, help="where scenes are kept (default: OUT/tabletop)")
    parser.add_argument("--workers", type=int, default=2, help="training processes, one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--joint-steps", type=int, help="the shipped weights have had 3900, and further courses")
    parser.add_argument("--init", type=Path, help="a further course of this reasoner instead (default: build/further)")
    parser.add_argument("--smoke", action="store_true", help="two minutes: everything runs, nothing is learnt")
    arguments = parser.parse_args()
    if arguments.init:
        print(go_on(arguments))
        return
    size = SMOKE if arguments.smoke else FULL
    if arguments.joint_steps:
        size = replace(size, joint_steps=arguments.joint_steps)
    out = arguments.out or Path("build/train-demo-smoke" if arguments.smoke else "build/train-demo")
    data = arguments.data or out / "tabletop"
    for split, scenes in (
        *(("val", size.val), ("test", size.test), ("test-ood", size.test)),
        *(("tune", size.tune), ("train", size.train)),
    ):
        render_split(data, split, scenes)
    masks = segmenter.train(
        segmenter.Settings(data=str(data), out=str(out / "segmenter"), steps=size.segmenter_steps, seed=arguments.seed)
    )
    supervised = train_reasoner.train(
        train_reasoner.Settings(
            data=str(data),
            out=str(out / "reasoner"),
            vision_steps=size.vision_steps,
            joint_steps=size.joint_steps,
            images=size.images,
            workers=arguments.workers,
            seed=arguments.seed,
            smoke=arguments.smoke,
            compile=not arguments.smoke,
            asked=4 if arguments.smoke else train_reasoner.Settings.asked,
        )
    )
    for name in ("segmenter", "reasoner"):
        curves(out / name / "log.jsonl", out / name / "curves.png")
    reasoner = by_reward.train(
        data, supervised, out / "reward", seed=arguments.seed, updates=size.updates, prompts=size.prompts
    )
    for split in ("test", "test-ood"):
        ended = evaluate.main(
            [
                *("--data", f"tabletop:{split}", "--root", str(data), "--n", str(size.questions)),
                *("--scenes", str(size.test), "--reasoner", str(reasoner), "--segmenter", str(masks)),
                *("--summary", str(out / f"{split}.json"), "--records", str(out / f"{split}.jsonl")),
                *("--pictures", str(out / f"{split}.png"), "--restart"),
            ]
        )
        if ended == 2:
            raise SystemExit(f"{split} could not be evaluated")


if __name__ == "__main__":
    main()
