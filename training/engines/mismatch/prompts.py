"""What both engines are asked: token ids, with the image token once, and images as PNG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import Profile, load_profile


@dataclass(frozen=True)
class Prompt:
    """ids: of the whole prompt, the image token once. image: RGB uint8 (square, square, 3)."""

    ids: list[int]
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Prompts:
    """What both engines are asked. image_token is `image_tokens` tokens long once expanded."""

    profile: str
    checkpoint: str
    image_token: int
    image_tokens: int
    items: list[Prompt]

    def expanded(self, item: int) -> list[int]:
        ids = self.items[item].ids
        at = ids.index(self.image_token)
        return [*ids[:at], *[self.image_token] * self.image_tokens, *ids[at + 1 :]]


def write_prompts(
    folder: Path, profile: Profile, checkpoint: str, asked: Sequence[tuple[NDArray[np.uint8], str]]
) -> None:
    """asked: squares and instructions."""
    from PIL import Image

    from segzero_ros.models.reasoner_transformers import load_reasoner

    # By its name, as the engines will find it.
    reasoner = load_reasoner(load_profile(profile.name), checkpoint, dtype="float32", offline=True)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, (square, instruction) in enumerate(asked):
        if square.shape != (profile.square, profile.square, 3):
            raise ValueError(f"item {number}: the image is {square.shape}, and {profile.name} takes {profile.square}")
        name = f"{number:04d}.png"
        Image.fromarray(np.ascontiguousarray(square)).save(folder / name)
        ids = reasoner.prompt_ids(build_prompt(profile, instruction))
        first = ids.index(reasoner._image_id)
        ids[first : first + reasoner.image_tokens] = [reasoner._image_id]
        items.append({"image": name, "instruction": instruction, "ids": ids})
    whole = {
        "profile": profile.name,
        "checkpoint": checkpoint,
        "image_token": reasoner._image_id,
        "image_tokens": reasoner.image_tokens,
        "items": items,
    }
    part = folder / "prompts.json.part"
    part.write_text(json.dumps(whole, indent=1))
    part.replace(folder / "prompts.json")


def read_prompts(folder: Path) -> Prompts:
    from PIL import Image

    path = folder / "prompts.json"
    if not path.is_file():
        raise ValueError(f"{path} is not there: `python -m training.engines.mismatch prompts` writes it")
    found = json.loads(path.read_text())
    items = [
        Prompt(i["ids"], np.asarray(Image.open(folder / i["image"]).convert("RGB"), np.uint8)) for i in found["items"]
    ]
    return Prompts(found["profile"], found["checkpoint"], found["image_token"], found["image_tokens"], items)


def tabletop(folder: Path, count: int) -> list[tuple[NDArray[np.uint8], str]]:
    """Every kind of instruction equally often, a fifth without a match."""
    from training.data.tabletop.evaluation import questions
    from training.data.tabletop.store import Scenes

    scenes = Scenes(folder)
    return [(scenes.rgb(q.scene), q.item.text) for q in questions(scenes, count, 0, ood=False)]


def prepared(folder: Path, count: int) -> list[tuple[NDArray[np.uint8], str]]:
    """The first rows that `segzero-train prepare` wrote."""
    from datasets import load_from_disk

    rows = load_from_disk(str(folder))
    return [(np.asarray(r["image"].convert("RGB"), np.uint8), r["problem"]) for r in rows.select(range(count))]
