"""Which of a run's checkpoints are whole: marked when all of it was written, and still as it was written then.

The mark is a file of the checkpoint's files and their sizes. Everything here is read as what anybody may have written.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, create_model

from training.finetune.settings import ConfigurationError

WHOLE = "whole"  # the mark
STATE = "trainer_state.json"
# By the library's names: what of a file's keys is read when a run goes on.
PICKLED = {"optimizer.pt": ("state", "param_groups"), "scheduler.pt": ("last_epoch",)}
RANDOM = ("python", "numpy", "cpu")


def checkpoints(out: Path) -> list[Path]:
    """By their update, last one last."""
    found = [p for p in out.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The update that it was written after."""
    return int(checkpoint.name.rpartition("-")[2])


def whole_ones(out: Path) -> list[Path]:
    """Those that are marked, by their update, last one last."""
    return [p for p in checkpoints(out) if (p / WHOLE).is_file()]


def mark_whole(checkpoint: Path) -> None:
    """Once all of it is on the disk."""
    sizes = {p.relative_to(checkpoint).as_posix(): p.stat().st_size for p in checkpoint.rglob("*") if p.is_file()}
    (checkpoint / WHOLE).write_text(json.dumps({"files": dict(sorted(sizes.items()))}, indent=1), encoding="utf-8")


def damage_of(checkpoint: Path) -> str:
    """What of a marked checkpoint is not as it was written, "optimizer.pt: it is gone"; "" where all is right. Reads
    every byte of the optimiser's state, whose checksums tell."""
    import torch
    from transformers.trainer_pt_utils import safe_globals

    if wrong := _other_sizes(checkpoint) or damage_of_weights(checkpoint):
        return wrong
    try:
        read_state(checkpoint)
    except ConfigurationError as error:
        return str(error).removeprefix(f"{checkpoint}/")
    random = {file.name: RANDOM for file in checkpoint.glob("rng_state*.pth")}
    try:
        for name, needed in (PICKLED | random).items():
            file = checkpoint / name
            if not file.is_file():
                continue  # sharded ones have others
            with zipfile.ZipFile(file) as archive:
                if broken := archive.testzip():
                    return f"{name}: the checksum of {broken[:100]} is another one"
            with safe_globals():
                found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            if not isinstance(found, Mapping) or not set(needed) <= set(found):
                return f"{name}: it does not hold {', '.join(needed)}"
    except Exception as error:  # whatever bytes made the libraries raise
        return f"{file.name}: {first_words(error)}"
    return ""


def damage_of_weights(checkpoint: Path) -> str:
    """The same of the weights alone."""
    from safetensors import SafetensorError, safe_open

    if wrong := _other_sizes(checkpoint, ".safetensors"):
        return wrong
    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{file.name}: {first_words(error)}"
    return ""


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The trainer's state, its names and types as the library needs them. Raises ConfigurationError."""
    file = checkpoint / STATE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: {first_words(error)}") from error
    try:
        found: dict[str, Any] = json.loads(text)
        state = _state_model().model_validate(found)
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, wrong["loc"]))[:100] or "all of it"
        raise ConfigurationError(f"{file}: {key}: {wrong['msg'][:200]}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: {first_words(error)}") from error
    step: Any = state.global_step  # type: ignore[attr-defined]
    if step != step_of(checkpoint):
        raise ConfigurationError(f"{file}: its global_step is {step}")
    return found


def first_words(error: BaseException) -> str:
    """Of a library's error, for a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0][:200] if lines else "") or type(error).__name__


def _other_sizes(checkpoint: Path, ending: str = "") -> str:
    for name, size in _sizes(checkpoint).items():
        file = checkpoint / name
        if not name.endswith(ending):
            continue
        if not file.is_file():
            return f"{name[:100]}: it is gone"
        if file.stat().st_size != size:
            return f"{name[:100]}: it has {file.stat().st_size} bytes, and {size} were written"
    return ""


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Of the files that the mark names; none where an older version marked it."""
    try:
        found = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8"))["files"]
        return {str(name): int(size) for name, size in found.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


@cache
def _state_model() -> type[BaseModel]:
    """transformers' TrainerState as a model that checks."""
    from transformers import TrainerState

    hints = get_type_hints(TrainerState)
    hints |= {"epoch": FiniteFloat, "log_history": list[dict[str, Any]], "stateful_callbacks": dict[str, Any] | None}
    named: dict[str, Any] = {f.name: (hints[f.name], f.default) for f in fields(TrainerState)}
    named |= {"global_step": (int, ...), "max_steps": (int, ...), "log_history": (list[dict[str, Any]], ...)}
    return create_model("State", __config__=ConfigDict(extra="forbid", strict=True), **named)
