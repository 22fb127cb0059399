"""How a run ends before its end: a sentence, stopped.json and an exit code; what has diverged, and a full disk."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.finetune.settings import main_process

STOPPED = "stopped.json"
STOPPED_EARLY = 3  # the exit code

# Of torch.multinomial on the CPU, and of its assertion on a GPU.
_NOT_FINITE = ("probability tensor contains either", "device-side assert triggered")
# Of safetensors (Rust's words for ENOSPC and EDQUOT) and of torch.save, which does not say why it wrote less.
_NO_ROOM = (
    "os error 28",
    "os error 122",
    "No space left on device",
    "PytorchStreamWriter failed writing",
    ". unexpected pos ",
)


class Diverged(RuntimeError):
    """Weights that give no finite numbers any more; the message says where it was seen."""


def stop(out: Path, step: int, reason: str) -> None:
    """Says and writes down why a run ends after an update. Of several processes the first one does."""
    if main_process():
        print(f"stopped after update {step}: {reason}", flush=True)
        record = {"step": step, "reason": reason}
        (out / STOPPED).write_text(json.dumps(record) + "\n", encoding="utf-8")


@contextmanager
def sampling() -> Iterator[None]:
    """Around answers drawn by transformers, which fail where probabilities are not finite. Raises Diverged."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in _NOT_FINITE):
            raise Diverged("no answer can be drawn: the model's probabilities are not finite") from error
        raise


def full(error: BaseException) -> bool:
    """Whether it was raised because there is no room left on the disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in _NO_ROOM)
