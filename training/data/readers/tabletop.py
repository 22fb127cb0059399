"""The simulated tabletop (training/tabletop): scenes on disk, instructions written over them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from training.data.samples import Item, LeftOut, Sample, Source
from training.tabletop.instructions import KINDS, write
from training.tabletop.store import Scenes


def read_tabletop(
    folder: Path, *, count: int, absent: float = 0.2, seed: int = 0, kinds: tuple[str, ...] = KINDS
) -> Source:
    """count: samples, the kinds in turn. absent: share of instructions that nothing matches. folder: ROOT/SPLIT.

    Sample n depends on the seed and n alone. Raises ValueError where there are no scenes.
    """
    try:
        scenes = Scenes(folder)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    split = folder.name
    items = []
    for n in range(count):
        scene = int(np.random.default_rng([seed, n]).integers(len(scenes)))
        read = partial(_sample, scenes, scene, (seed, n, 1), kinds[n % len(kinds)], absent, split, n)
        items.append(Item(f"{split}_{n}", f"{split}_{scene}", read))
    return Source("tabletop", split, items)


def _sample(
    scenes: Scenes, scene: int, seed: tuple[int, ...], kind: str, absent: float, split: str, number: int
) -> Sample:
    things, rng = scenes.things(scene), np.random.default_rng(seed)
    for _ in range(30):
        item = write(rng, things, [kind], absent, ood=split == "test-ood")
        if item is not None:
            break
    else:
        raise LeftOut((f"{split}_{number}", f"scene {scene} decides no instruction of the kind {kind}"))
    ids = scenes.ids(scene)
    masks = tuple(np.asarray(ids == t.id) for t in item.targets)
    return Sample(f"{split}_{number}", item.text, np.array(scenes.rgb(scene)), masks, ann_ids=(f"{scene}_{kind}",))
