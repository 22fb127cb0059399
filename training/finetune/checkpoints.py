"""A run's checkpoints on disk: which there are, and which of them are whole."""

from __future__ import annotations

from pathlib import Path

WHOLE = "whole"  # a file in a checkpoint that says that all of it was written


def checkpoints(out: Path) -> list[Path]:
    """By their update, last one last."""
    found = [p for p in out.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")))


def last_checkpoint(out: Path) -> Path | None:
    """The last one that is whole."""
    return next((p for p in reversed(checkpoints(out)) if (p / WHOLE).is_file()), None)
