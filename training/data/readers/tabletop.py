"""The simulated tabletop (training/data/tabletop): scenes on disk, instructions written over them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from training.data.samples import Item, LeftOut, Sample, Source
from training.data.tabletop.instructions import KINDS, write
from training.data.tabletop.store import Scenes

TRIES = 1000  # scenes that are looked at for one instruction


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
    names = [f"{folder.name}_{n}" for n in range(count)]
    reads = [partial(_sample, scenes, folder.name, n, seed, kinds[n % len(kinds)], absent) for n in range(count)]
    return Source("tabletop", folder.name, [Item(i, i, read) for i, read in zip(names, reads, strict=True)])


def _sample(scenes: Scenes, split: str, number: int, seed: int, kind: str, absent: float) -> Sample:
    rng = np.random.default_rng([seed, number])
    # Drawn once: drawn with every try, what is easier to write, "there is none", would be written more often.
    share = float(rng.random() < absent)
    for _ in range(TRIES):
        scene = int(rng.integers(len(scenes)))
        item = write(rng, scenes.things(scene), [kind], share, ood=split == "test-ood")
        if item is not None:
            break
    else:
        raise LeftOut((f"{split}_{number}", f"no scene decides an instruction of the kind {kind}"))
    ids = scenes.ids(scene)
    masks = tuple(np.asarray(ids == t.id) for t in item.targets)
    name = f"{split}_{number}"
    return Sample(name, item.text, np.array(scenes.rgb(scene)), masks, ann_ids=(f"{scene}_{kind}",))
