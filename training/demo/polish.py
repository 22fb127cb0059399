"""The embedded reasoner once more supervised, on what it gets wrong, and then the mean of both weights.

    python -m training.demo.polish --data SCENES --start segzero_ros/weights/reasoner --out DIR

What is asked more often is learnt and the rest forgotten a little; the mean of the weights before and after has most of
both (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). The vision tower stays as it is. Not a step of
`make train-demo`: no gain is shown yet (docs/decisions/embedded-model.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.demo import train_reasoner
from training.tabletop.instructions import KINDS
from training.tabletop.store import render_split

STEPS, IMAGES, RATE = 600, 20, 0.002
MORE = ("superlative", *("spatial", "several") * 2, *("negation",) * 3)  # beside one of every kind
SCENES = 8000


def mean(first: Path, second: Path, out: Path) -> Path:
    """Writes the mean of two checkpoints with the same names and shapes to a folder, and returns that."""
    import torch
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    models: list[Any] = [
        Qwen2_5_VLForConditionalGeneration.from_pretrained(str(folder), dtype=torch.float32)
        for folder in (first, second)
    ]
    theirs = models[1].state_dict()
    with torch.no_grad():
        for name, tensor in models[0].named_parameters():  # tied ones once
            tensor.lerp_(theirs[name], 0.5)
    models[0].to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(str(first)).save_pretrained(out)
    return out


def train(
    data: Path, start: Path, out: Path, *, seed: int = 0, steps: int = STEPS, workers: int = 1, smoke: bool = False
) -> Path:
    """Returns the folder of the mean. A killed run continues. workers: processes that share a step's images."""
    tuned = train_reasoner.train(
        train_reasoner.Settings(
            data=str(data),
            out=str(out / "run"),
            init=str(start),
            kinds=(*KINDS, *MORE),
            vision_steps=0,
            joint_steps=steps,
            images=2 if smoke else IMAGES // workers,
            lr=RATE,
            lr_vision_joint=0,
            workers=workers,
            seed=seed + 1,  # not the batches that it has seen
            smoke=smoke,
            compile=not smoke,
        )
    )
    return mean(start, tuned, out / "model")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="where scenes are kept; train and val are used")
    parser.add_argument("--start", type=Path, required=True, help="the supervised reasoner")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--workers", type=int, default=1, help="training processes, one thread each")
    a = parser.parse_args(argv)
    for split, scenes in (("train", SCENES), ("val", 1000)):
        render_split(a.data, split, scenes)
    print(train(a.data, a.start, a.out, seed=a.seed, steps=a.steps, workers=a.workers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
