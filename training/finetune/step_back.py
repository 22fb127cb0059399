"""How a run steps back: to the last whole checkpoint whose weights and log hold finite numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.finetune.settings import ConfigurationError
from training.finetune.whole_checkpoints import WHOLE, read_state, whole_ones

WATCHED = ("loss", "grad_norm", "kl")  # of a log; where one is not finite, the weights after it are not either


def last_checkpoint(out: Path) -> Path | None:
    """The last one that is whole and holds finite numbers."""
    return last_finite(out)[0]


def last_finite(out: Path) -> tuple[Path | None, list[str]]:
    """The last whole checkpoint whose weights and log are finite, and a line for each later one that is passed over."""
    passed: list[str] = []
    for checkpoint in reversed(whole_ones(out)):
        flaw = flaw_of(checkpoint)
        if not (checkpoint / WHOLE).is_file():
            continue  # another process of the run has just removed it, for a flaw
        if not flaw:
            return checkpoint, passed
        passed.append(f"{checkpoint.name} has diverged: {flaw}")
    return None, passed


def flaw_of(checkpoint: Path) -> str:
    """What in a checkpoint is not a finite number; "" where all is. What is damaged `damage_of` says."""
    try:
        records = read_state(checkpoint)["log_history"]
    except ConfigurationError:
        records = []
    for record in records:
        for key in WATCHED:
            if isinstance(value := record.get(key), float) and not math.isfinite(value):
                return f"{key} was {value} at update {record.get('step')}"
    for file in sorted(checkpoint.glob("*.safetensors")):
        if name := _first_in(file):
            return f"the weight {name} is not finite"
    return ""


def first_not_finite(named: Iterable[tuple[str, Any]]) -> str:
    """The name of the first of these tensors that holds NaN or an infinity; ""."""
    import torch

    for name, tensor in named:
        # No copy of the tensor is made, and NaN goes through.
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            return name
    return ""


def _first_in(file: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return first_not_finite((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return ""
