"""What a run learns from and is validated on: rows, and the start's own samples where an arm learns from these."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.data.tabletop import sets
from training.experiments.plan import Arm, Plan
from training.experiments.running.ask import Speaker, batches
from training.experiments.running.judge import SQUARE
from training.rewards import PROFILES


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
