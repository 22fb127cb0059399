"""What a reward can teach before a run starts: each term's mean, and how it differs within groups.

GRPO learns from differences within a group of answers to one prompt. A term that is always or never won, or won
alike by all of a group, teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.rewards import Profile


@dataclass(frozen=True)
class Spread:
    """Of one term: mean, mean of the groups' standard deviations, share of groups without any difference."""

    name: str
    mean: float
    within: float
    flat: float
    lowest: float
    highest: float

    @property
    def warning(self) -> str:
        """A sentence if nothing can be learnt from it, else an empty one."""
        if self.lowest < self.highest:
            return "no group differs in it" if self.flat == 1.0 else ""
        return f"always {self.lowest:g}: nothing is learnt from it"


def spreads(
    profile: Profile, groups: Sequence[Sequence[str]], solutions: Sequence[str], **columns: Any
) -> list[Spread]:
    """One per term and one for "sum". groups: several texts per solution; columns: per solution where lists."""
    sizes = [len(g) for g in groups]
    if not sizes or min(sizes) < 1 or len(solutions) != len(groups):
        raise ValueError("one solution per group of at least one text")
    texts = [t for g in groups for t in g]

    def spread_out(values: Any) -> Any:
        if not isinstance(values, (list, tuple)):
            return values
        return [v for v, n in zip(values, sizes, strict=True) for _ in range(n)]

    given = {k: spread_out(v) for k, v in columns.items()}
    repeated = spread_out(list(solutions))
    values = profile.parts(texts, repeated, **given)
    values["sum"] = profile.total(values)
    cuts = np.cumsum(sizes)[:-1]
    found = []
    for name, numbers in values.items():
        x = np.asarray(numbers, float)
        deviations = np.array([part.std() for part in np.split(x, cuts)])
        found.append(
            Spread(
                name,
                float(x.mean()),
                float(deviations.mean()),
                float((deviations < 1e-9).mean()),
                float(x.min()),
                float(x.max()),
            )
        )
    return found


def table(found: Sequence[Spread]) -> str:
    """For the terminal."""
    lines = [f"{'term':16} {'mean':>7} {'within':>7} {'flat groups':>12}"]
    lines += [f"{s.name:16} {s.mean:7.3f} {s.within:7.3f} {s.flat:11.0%}  {s.warning}".rstrip() for s in found]
    return "\n".join(lines)
