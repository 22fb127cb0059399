"""Between two blocks of a model: the only places where a forward pass of seconds can be stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from segzero_ros.core.contract import Cancel, Stopped

TOKEN_ROWS = 8  # fewer rows than this are a token of each text, which the stopping criteria look after
AHEAD = 4  # blocks that the host may queue on a GPU before it waits for them


@contextmanager
def stoppable(blocks: Iterable[torch.nn.Module], cancel: Cancel | None) -> Iterator[None]:
    """Inside, every block looks at the flag before it runs, and raises Stopped once it is set.

    A GPU runs behind the host, which would have queued the whole pass before the flag is set: so it waits every few
    blocks while there are many rows.
    """
    if cancel is None:
        yield
        return
    passed = 0

    def look(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal passed
        rows = arguments[0] if arguments else None
        if isinstance(rows, torch.Tensor) and rows.numel() < TOKEN_ROWS * rows.shape[-1]:
            return
        passed += 1
        if isinstance(rows, torch.Tensor) and rows.is_cuda and passed % AHEAD == 0:
            torch.cuda.synchronize(rows.device)
        if cancel.is_set():
            raise Stopped

    handles = [block.register_forward_pre_hook(look) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
