"""One arm less another, paired by seed and by item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.experiments.findings.estimates import over_items, over_seeds, rounded
from training.experiments.findings.groups import BOXED, ONE_RATE, SETS, STARTS, UNDENIED, UNTRAINED, VOTES, start_of
from training.experiments.findings.runs import Run, Runs
from training.experiments.plan import ARMS


@dataclass(frozen=True)
class Contrast:
    """a - b on a set. net: each less its own start. t: over seeds, None with one; items: over items by scene."""

    a: str
    b: str
    on: str
    measure: str
    net: bool
    estimate: float
    t: tuple[float, float] | None
    items: tuple[float, float]
    seeds: tuple[int, ...]
    n: int
    scenes: int


def _pairs(a: Mapping[int, Run], b: Mapping[int, Run]) -> list[tuple[int, Run, Run]]:
    """By seed; what was not trained is the same for every seed."""
    fixed_a, fixed_b = (all(r.name in UNTRAINED for r in x.values()) for x in (a, b))
    if fixed_a and fixed_b:
        return [(0, a[0], b[0])] if 0 in a and 0 in b else []
    if fixed_b:
        return [(seed, run, b[0]) for seed, run in a.items()] if 0 in b else []
    if fixed_a:
        return [(seed, a[0], run) for seed, run in b.items()] if 0 in a else []
    return [(seed, a[seed], b[seed]) for seed in a if seed in b]


def contrast(runs: Runs, a: str, b: str, on: str, measure: str = "right", net: bool = False) -> Contrast | None:
    """None where a run that it needs is not there, or was not asked this set."""
    needed = [runs.get(name, {}) for name in ((a, b, start_of(a), start_of(b)) if net else (a, b))]
    has = [{seed: r for seed, r in some.items() if on in r.values[measure]} for some in needed]
    pairs = _pairs(has[0], has[1]) if all(has) else []
    if not pairs:
        return None
    by_seed = np.stack([x.values[measure][on] - y.values[measure][on] for _, x, y in pairs])
    if net:
        by_seed = by_seed - (has[2][0].values[measure][on] - has[3][0].values[measure][on])
    scenes = [scene for _, scene in pairs[0][1].items[on]]
    return Contrast(
        a,
        b,
        on,
        measure,
        net,
        rounded(by_seed.mean()),
        over_seeds(by_seed.mean(1).tolist()),
        over_items(by_seed.mean(0), scenes),
        tuple(seed for seed, _, _ in pairs),
        len(scenes),
        len(set(scenes)),
    )


def contrasts(runs: Runs) -> list[dict[str, Any]]:
    """grpo_thought against every other arm and vote, grpo_answer against SFT on answers, and ONE_RATE; as they are, and
    net."""
    others = [name for name in (*ARMS, *VOTES, UNDENIED) if name != "grpo_thought"]
    pairs = [*(("grpo_thought", name) for name in others), ("grpo_answer", "sft_answer"), STARTS, *ONE_RATE]
    found = []
    for a, b in pairs:
        for which in SETS:
            for measure in ("right", "iou") if which in BOXED else ("right",):
                for net in (False, True) if b in ARMS else (False,):
                    if (one := contrast(runs, a, b, which, measure, net)) is not None:
                        found.append(asdict(one))
    return found
