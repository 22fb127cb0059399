"""Which of a run's checkpoints are whole: marked when all of it was written, and still as it was written then.

The mark is a file of the checkpoint's files, their sizes, and the SHA-256 of those that hold no checksums of their own:
safetensors and FSDP's shards, about a second per GB, four files at once. optimizer.pt holds torch's, read
when a run goes on. Everything here is read as what anybody may have written.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
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
ANNOUNCED = 10**9  # bytes; whoever waits for more is told what for


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
    mark = checkpoint / WHOLE
    mark.unlink(missing_ok=True)
    sizes = {p.relative_to(checkpoint).as_posix(): p.stat().st_size for p in _files(checkpoint)}
    found = {"files": dict(sorted(sizes.items())), "sha256": digests_of(checkpoint, [n for n in sizes if _digested(n)])}
    part = checkpoint.with_name(f"{checkpoint.name}.{WHOLE}")  # beside it, that no mark is half written
    part.write_text(json.dumps(found, indent=1), encoding="utf-8")
    part.replace(mark)


def digests_of(checkpoint: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of these of its files, in their names' order. Raises OSError."""

    def digest(name: str) -> str:
        found, room = hashlib.sha256(), memoryview(bytearray(1 << 20))
        with (checkpoint / name).open("rb", buffering=0) as file:
            while count := file.readinto(room):
                found.update(room[:count])
        return found.hexdigest()

    ordered = sorted(names)
    with ThreadPoolExecutor(4) as pool:  # hashlib lets go of the interpreter's lock
        return dict(zip(ordered, pool.map(digest, ordered), strict=True))


def _files(checkpoint: Path) -> list[Path]:
    return [p for p in checkpoint.rglob("*") if p.is_file()]


def _digested(name: str) -> bool:
    """Whether a file's checksums are not read anyway."""
    return name not in PICKLED and not (name.startswith("rng_state") and name.endswith(".pth"))


def damage_of(checkpoint: Path) -> str:
    """What of a marked checkpoint is not as it was written, "optimizer.pt: it is gone"; "" where all is right. Reads
    every byte of it."""
    import torch
    from transformers.trainer_pt_utils import safe_globals

    if wrong := _other_sizes(checkpoint) or _unreadable_weights(checkpoint):
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
    return _other_bytes(checkpoint)


def damage_of_weights(checkpoint: Path) -> str:
    """The same of the weights alone."""
    ending = ".safetensors"
    return _other_sizes(checkpoint, ending) or _unreadable_weights(checkpoint) or _other_bytes(checkpoint, ending)


def _unreadable_weights(checkpoint: Path) -> str:
    from safetensors import SafetensorError, safe_open

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


def _other_bytes(checkpoint: Path, ending: str = "") -> str:
    noted = _noted(checkpoint, "sha256")
    # Of what is found there alone: the mark may name anything.
    files = {name: p for p in _files(checkpoint) if (name := p.relative_to(checkpoint).as_posix()) in noted}
    files = {name: p for name, p in files.items() if name.endswith(ending)}
    if (size := sum(p.stat().st_size for p in files.values())) > ANNOUNCED:
        print(f"segzero-train: reads {size / 1e9:.1f} GB of {checkpoint}, whether all is as written", file=sys.stderr)
    try:
        now = digests_of(checkpoint, files)
    except OSError as error:
        return first_words(error)
    other = next((name for name, digest in now.items() if digest != noted[name]), "")
    return f"{other[:100]}: its bytes are not those that were written" if other else ""


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Of the files that the mark names."""
    try:
        return {name: int(size) for name, size in _noted(checkpoint, "files").items()}
    except (ValueError, TypeError, OverflowError):
        return {}


def _noted(checkpoint: Path, what: str) -> dict[str, Any]:
    """What the mark holds for each of the files; nothing where an older version marked it."""
    try:
        found = json.loads((checkpoint / WHOLE).read_text(encoding="utf-8")).get(what, {})
        return {str(name): value for name, value in found.items()}
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
