"""What published rewards find in a text, in linear time where their regular expressions take quadratic time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

SQUARE = 840  # pixels; what published thresholds are for

_TURN = re.compile(r"</think>\s*<answer>")


def each(one: Callable[..., float]) -> Callable[..., list[float]]:
    """A term over lists from a term over one text and its solution; keywords that it does not take are dropped."""
    names = one.__code__.co_varnames[: one.__code__.co_argcount + one.__code__.co_kwonlyargcount]

    @wraps(one)
    def many(texts: Sequence[str], solutions: Sequence[str], **given: Any) -> list[float]:
        known = {k: v for k, v in given.items() if k in names}
        return [one(t, s, **known) for t, s in zip(texts, solutions, strict=True)]

    return many


def well_tagged(text: str) -> bool:
    """Whether `<think>.*?</think>\\s*<answer>.*?</answer>` matches all of it, "." being any character."""
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return False
    turn = _TURN.search(text, len("<think>"))
    return turn is not None and turn.end() <= len(text) - len("</answer>")


def scaled(pixels: float, square: int) -> float:
    """A length of the published 840 square in pixels of another one."""
    return pixels if square == SQUARE else pixels * square / SQUARE
