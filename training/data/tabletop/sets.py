"""The experiment's data: what is fine-tuned on, and test sets that are never pooled. The same for the same seed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.tabletop.questions import NAMING, QUESTIONS, RETAINED, Ask, instruct, question
from training.data.tabletop.scene import HELD_OUT
from training.data.tabletop.store import Scenes, Thing, render_split

# Scenes of the start checkpoint, of fine-tuning, of choosing and of the tests.
SCENES = {"train": 10_000, "tune": 2_000, "val": 200, "test": 500, "test-ood": 500}


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


def unseen(rng: np.random.Generator, things: list[Thing]) -> Ask | None:
    """Naming, of an object whose colour and kind no other split combines."""
    ask = instruct(rng, things, NAMING, 0.0)
    return ask if ask and all((t.category, t.color) in HELD_OUT for t in ask.targets) else None


# Split, what is asked, how many.
TESTS: dict[str, tuple[str, Draw, int]] = {
    "id": ("test", asked(NAMING), 1000),
    "retained": ("test", asked(RETAINED), 1000),
    "novel": ("test-ood", unseen, 1000),
    "questions": ("test", lambda rng, things: question(rng, things, QUESTIONS), 600),
    "no_target": ("test", asked(NAMING + RETAINED, 1.0), 400),
}


def build(scenes: Scenes, split: str, name: str, draw: Draw, count: int, seed: int) -> Set:
    """`count` items over the scenes, every kind as its draw gives it."""
    rng = np.random.default_rng([seed, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)])
    items: list[Item] = []
    misses = 0
    while len(items) < count:
        scene = int(rng.integers(len(scenes)))
        ask = draw(rng, scenes.things(scene))
        if ask is not None:
            items.append(Item(f"{name}-{len(items):05d}", scene, ask))
        misses = misses + 1 if ask is None else 0
        if misses == 5000:
            raise ValueError(f"the scenes of {split} hold nothing to ask for the set {name}")
    return Set(name, split, tuple(items))


def scenes_of(root: Path, split: str, share: float = 1.0) -> Scenes:
    """Renders what is missing; share: of the scenes, for a smoke run."""
    count = max(20, round(SCENES[split] * share))
    return Scenes(render_split(root, split, count), limit=count)


def tests(root: Path, share: float = 1.0, seed: int = 0) -> dict[str, Set]:
    """The five sets; share: of their scenes and items, for a smoke run."""
    return {
        name: build(scenes_of(root, split, share), split, name, draw, max(4, round(count * share)), seed)
        for name, (split, draw, count) in TESTS.items()
    }


def tuning(scenes: Scenes, count: int, seed: int) -> Set:
    """Naming with a target."""
    return build(scenes, "tune", f"tune-{seed}", asked(NAMING), count, seed)


def overlaps(root: Path) -> dict[str, int]:
    """Images that two splits share, by the hash of their pixels. Nothing but zeros is right."""

    def hashes(scenes: Scenes) -> set[bytes]:
        return {hashlib.sha256(scenes.rgb(n).tobytes()).digest() for n in range(len(scenes))}

    parts = {split: hashes(scenes_of(root, split)) for split in SCENES}
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
