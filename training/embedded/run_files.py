"""The files of a training run: its state, replaced as a whole, and its log, a line at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def save_state(path: Path, state: dict[str, Any]) -> None:
    """A kill while it is written leaves the state before it."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def read_state(path: Path) -> dict[str, Any] | None:
    """None where a run begins."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def note(log: Path, record: dict[str, Any]) -> None:
    """Adds a line of JSON."""
    with log.open("a") as file:
        file.write(json.dumps(record) + "\n")
