"""The experiment's data: what is fine-tuned on, and test sets that are never pooled. The same for the same seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.experiments.questions import NAMING, NOVEL, QUESTIONS, RETAINED, Ask, instruct, question
from training.tabletop.store import Scenes, Thing, render_split

PRETRAIN = 10_000  # the first scenes of `train` are the start checkpoint's; fine-tuning takes those behind them
TUNE = 2_000
TEST = 1_000


@dataclass(frozen=True)
class Item:
    id: str
    scene: int
    ask: Ask


@dataclass(frozen=True)
class Set:
    """name: id, retained, novel, questions, no_target, or of a set for training or validation."""

    name: str
    split: str
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """sha256 over its scenes and prompts: what the report pins."""
        text = "\n".join(f"{self.split} {i.scene} {i.ask.text} {i.ask.solution()}" for i in self.items)
        return hashlib.sha256(text.encode()).hexdigest()


Draw = Callable[[np.random.Generator, list[Thing]], Ask | None]


def asked(kinds: Sequence[str], absent: float = 0.0) -> Draw:
    return lambda rng, things: instruct(rng, things, kinds, absent)


TESTS: dict[str, tuple[Draw, int]] = {
    "id": (asked(NAMING), 1000),
    "retained": (asked(RETAINED), 1000),
    "novel": (asked(NOVEL), 1000),
    "questions": (lambda rng, things: question(rng, things, QUESTIONS), 600),
    "no_target": (asked(NAMING + RETAINED, 1.0), 400),
}


def build(scenes: Scenes, split: str, name: str, draw: Draw, count: int, seed: int, *, first: int = 0) -> Set:
    """`count` items over the scenes from `first` on, every kind as its draw gives it."""
    rng = np.random.default_rng([seed, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)])
    items: list[Item] = []
    while len(items) < count:
        scene = first + int(rng.integers(len(scenes) - first))
        ask = draw(rng, scenes.things(scene))
        if ask is not None:
            items.append(Item(f"{name}-{len(items):05d}", scene, ask))
    return Set(name, split, tuple(items))


def scenes_of(root: Path, split: str) -> Scenes:
    """Renders what is missing."""
    count = PRETRAIN + TUNE if split == "train" else TEST
    return Scenes(render_split(root, split, count), limit=count)


def tests(root: Path, split: str = "test", share: float = 1.0, seed: int = 0) -> dict[str, Set]:
    """The five sets over a split; share: of their items, for a smoke run."""
    scenes = scenes_of(root, split)
    return {
        name: build(scenes, split, name, draw, max(4, round(count * share)), seed)
        for name, (draw, count) in TESTS.items()
    }


def tuning(root: Path, count: int, seed: int) -> Set:
    """Naming with a target, over scenes that no pre-training has seen."""
    return build(scenes_of(root, "train"), "train", f"tune-{seed}", asked(NAMING), count, seed, first=PRETRAIN)


def broad(root: Path, count: int, seed: int = 0) -> Set:
    """As pre-training draws instructions, over `val`: how the start checkpoint is chosen."""
    return build(scenes_of(root, "val"), "val", "broad", asked(NAMING + RETAINED), count, seed)


def overlaps(root: Path) -> dict[str, int]:
    """Images that two splits share, by the hash of their pixels. Nothing but zeros is right."""

    def hashes(scenes: Scenes, first: int, last: int) -> set[bytes]:
        return {hashlib.sha256(scenes.rgb(n).tobytes()).digest() for n in range(first, last)}

    parts = {
        "pretrain": hashes(scenes_of(root, "train"), 0, PRETRAIN),
        "tune": hashes(scenes_of(root, "train"), PRETRAIN, PRETRAIN + TUNE),
        "val": hashes(scenes_of(root, "val"), 0, TEST),
        "test": hashes(scenes_of(root, "test"), 0, TEST),
    }
    return {f"{a} and {b}": len(parts[a] & parts[b]) for a, b in itertools.combinations(parts, 2)}


def write_rows(
    chosen: Set, scenes: Scenes, folder: Path, *, think: bool, completions: Sequence[str] | None = None
) -> None:
    """Rows for `segzero-train train`: the whole prompt as problem, the right text as completion."""
    import datasets
    from PIL import Image

    rows: dict[str, list[Any]] = {
        "id": [i.id for i in chosen.items],
        "problem": [i.ask.prompt(think) for i in chosen.items],
        "solution": [i.ask.solution() for i in chosen.items],
        "completion": list(completions) if completions else [i.ask.completion(think) for i in chosen.items],
        "image": [Image.fromarray(np.ascontiguousarray(scenes.rgb(i.scene))) for i in chosen.items],
        "img_height": [scenes.rgb(0).shape[0]] * len(chosen.items),
        "img_width": [scenes.rgb(0).shape[1]] * len(chosen.items),
    }
    features = datasets.Features(
        {
            **{k: datasets.Value("string") for k in ("id", "problem", "solution", "completion")},
            "image": datasets.Image(),
            **{k: datasets.Value("int64") for k in ("img_height", "img_width")},
        }
    )
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(folder))
