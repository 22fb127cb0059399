"""Between two blocks of a model: the only places where a forward pass of seconds can be stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from segzero_ros.core.contract import Cancel, Stopped

LONG = 64  # rows that make a block's time on a GPU worth waiting for


@contextmanager
def stoppable(blocks: Iterable[torch.nn.Module], cancel: Cancel | None) -> Iterator[None]:
    """Inside, every block looks at the flag before it runs, and raises Stopped once it is set."""
    if cancel is None:
        yield
        return
    look = _Look(cancel)
    handles = [block.register_forward_pre_hook(look) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Look:
    """A forward pre-hook.

    On a GPU the host queues kernels long before they run, and would see the flag when all is queued. So it queues one
    block while the one before runs, and no more: the GPU never waits, and at most these two run after the flag is set.
    """

    def __init__(self, cancel: Cancel) -> None:
        self._cancel = cancel
        self._before: torch.cuda.Event | None = None

    def __call__(self, block: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        hidden = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
        rows = hidden.numel() // max(1, hidden.shape[-1]) if hidden is not None else LONG
        if hidden is not None and hidden.ndim == 3 and hidden.shape[1] == 1:
            return  # a token of each text: the stopping criteria look after those, and keep what is written
        if hidden is not None and hidden.is_cuda and rows >= LONG:
            reached = torch.cuda.Event(blocking=True)
            reached.record(torch.cuda.current_stream(hidden.device))
            if self._before is not None:
                self._before.synchronize()
            self._before = reached
        if self._cancel.is_set():
            raise Stopped
