"""Which keys a configuration sets that verl does not have: Hydra takes them silently, and the run ignores them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
PINNED = FOLDER / "verl_keys.txt"  # of verl 0.9.1; `python -m training.engines.verl.check --write-keys` makes it anew
# What verl hands on without a default of its own: the dataset's configuration, and the reward function's keywords.
OURS = ("data.segzero", "reward.custom_reward_function.reward_kwargs")


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """One file as written, without what it starts from. Raises ValueError for a name that is not there."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"there is no configuration {name!r}; known: {', '.join(names())}")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    found.pop("defaults", None)
    return found


def dotted(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every leaf by its dotted name; an empty mapping is a leaf."""
    found = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found += dotted(value, f"{name}.") if isinstance(value, Mapping) and value else [name]
    return found


def unknown(tree: Mapping[str, Any], known: Collection[str], ours: Collection[str] = OURS) -> list[str]:
    """The leaves that are neither known nor below a name of `ours`. Below a known leaf is unknown, too."""
    return [n for n in dotted(tree) if n not in known and not any(n == o or n.startswith(f"{o}.") for o in ours)]


def pinned() -> set[str]:
    return set(PINNED.read_text().split())
