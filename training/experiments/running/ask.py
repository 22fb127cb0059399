"""A checkpoint answers the experiment's sets: greedily or sampled, one record per item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from training.data.tabletop.sets import Item, Set
from training.data.tabletop.store import Scenes
from training.embedded.reasoner import GRID, library_inputs, normalise
from training.experiments.running.judge import judge
from training.finetune.group_forward import GroupForward, Prefix, Prompts

MAX_NEW_TOKENS = 128
BATCH = 64  # prompts at once; recorded


class Speaker:
    """A reasoner of the embedded architecture with its tokenizer."""

    def __init__(self, folder: Path | str, model: Any = None) -> None:
        from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.tokenizer = tokenizer
        self.model = model or Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self.model.eval()
        self.forward = GroupForward(self.model)
        self.image: int = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.end: int = tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.never = [self.image]  # tokens
        self._before = self.tokenizer.encode("<|im_start|>user\n<|vision_start|>") + [self.image] * GRID**2
        self._middle = self.tokenizer.encode("<|vision_end|>")
        self._after = self.tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n")

    def look(self, images: Sequence[np.ndarray]) -> Prefix:
        """What all prompts over an image share; one row per image (uint8 RGB of the square)."""
        ids = torch.tensor([self._before + self._middle] * len(images))
        pixels, grid = library_inputs(normalise(torch.from_numpy(np.stack(images))))
        return self.forward.encode(Prompts(ids, torch.ones_like(ids), torch.eq(ids, self.image).int(), pixels, grid))

    def listen(self, seen: Prefix, which: Sequence[int], texts: Sequence[str], begun: Sequence[str] = ()) -> Prefix:
        """Prompts over images `which` of `seen`; begun: the beginnings of the answers, if they are given."""
        rows = [self.tokenizer.encode(t) + self._after for t in texts]
        if begun:
            rows = [r + self.tokenizer.encode(t) for r, t in zip(rows, begun, strict=True)]
        longest = max(map(len, rows))
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
        return self.forward.extend(seen, torch.tensor(list(which)), ids, mask)

    def speak(self, prefix: Prefix, count: int = 1, temperature: float = 0.0, seed: int = 0) -> list[list[str]]:
        """`count` texts per prompt."""
        said = self.tokenizer.batch_decode(self.draw(prefix, count, temperature, seed), skip_special_tokens=True)
        return [said[n : n + count] for n in range(0, len(said), count)]

    def draw(self, prefix: Prefix, count: int = 1, temperature: float = 0.0, seed: int = 0) -> list[list[int]]:
        return self.forward.sample(
            prefix,
            count,
            max_new_tokens=MAX_NEW_TOKENS,
            stop=[self.end],
            temperature=temperature,
            never=self.never,
            generator=torch.Generator().manual_seed(seed),
        )


def batches(chosen: Set, scenes: Scenes) -> Iterator[tuple[list[Item], list[np.ndarray], list[int]]]:
    """Items of a set, BATCH at once, with the images that they are over and which is whose. Fixed by the set alone."""
    order = sorted(chosen.items, key=lambda i: (i.scene, i.id))
    for at in range(0, len(order), BATCH):
        items = order[at : at + BATCH]
        numbers = sorted({i.scene for i in items})
        images = [np.ascontiguousarray(scenes.rgb(n)) for n in numbers]
        yield items, images, [numbers.index(i.scene) for i in items]


@torch.no_grad()
def ask_all(
    speaker: Speaker,
    chosen: Set,
    scenes: Scenes,
    *,
    think: bool,
    count: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    silent: bool = False,
) -> list[dict[str, Any]]:
    """One record per item: id, kind, text and `judge` of it; with count > 1 of every text."""
    records = []
    name = f"{chosen.name} {'think' if think else 'answer'}"
    bar = tqdm(total=len(chosen.items), desc=name, leave=False, disable=silent)
    for number, (items, images, which) in enumerate(batches(chosen, scenes)):
        prefix = speaker.listen(speaker.look(images), which, [i.ask.prompt(think) for i in items])
        for item, texts in zip(items, speaker.speak(prefix, count, temperature, seed + number), strict=True):
            judged = [judge(item.ask, t) for t in texts]
            record = {"id": item.id, "set": chosen.name, "kind": item.ask.kind, "scene": item.scene, "text": texts[0]}
            record |= judged[0]
            if count > 1:
                record |= {"rights": [j["right"] for j in judged], "texts": texts}
            records.append(record)
        bar.update(len(items))
    bar.close()
    return sorted(records, key=lambda r: str(r["id"]))


def summary(records: Sequence[dict[str, Any]], chosen: Mapping[str, Set]) -> dict[str, dict[str, Any]]:
    """Per set the shares of right and of readable answers, how many, and the hash of what was asked."""
    by_set: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_set.setdefault(record["set"], []).append(record)
    return {
        name: {
            "right": round(mean(some), 5),
            "parsed": round(float(np.mean([r["parsed"] for r in some])), 5),
            "n": len(some),
            "sha256": chosen[name].digest,
        }
        for name, some in by_set.items()
    }


def mean(records: Sequence[dict[str, Any]]) -> float:
    return float(np.mean([r["right"] for r in records]))
