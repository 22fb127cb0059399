"""How figures are written: shares in per cent, differences in points, intervals in brackets, tables in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from training.experiments.findings.groups import UNTRAINED


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first, *rest = ("| " + " | ".join(row) + " |" for row in (head, *rows))
    return "\n".join([first, "|" + " --- |" * len(head), *rest])


def per_cent(x: float) -> str:
    return f"{100 * x:.1f}"


def points(x: float) -> str:
    return f"{100 * x:+.1f}"


def interval(pair: Sequence[float] | None, form: Callable[[float], str] = points) -> str:
    return "one seed" if pair is None else f"[{form(pair[0])}, {form(pair[1])}]"


def interval_of(c: Mapping[str, Any], over: str = "t") -> str:
    """One of the intervals of a contrast; what was not trained has none over seeds."""
    trained = not {c["a"], c["b"]} <= set(UNTRAINED)
    return interval(c[over]) if trained or over == "items" else ""


def estimate_of(c: Mapping[str, Any] | None, over: str = "t") -> str:
    return "" if c is None else f"{points(c['estimate'])} {interval_of(c, over)}"


def arrow(x: Mapping[str, float]) -> str:
    return f"{per_cent(x['start'])} → {per_cent(x['mean'])}"


def mean_kl(kl: Mapping[str, Any] | None) -> str:
    return "–" if kl is None else f"{kl['mean']:.3f} {interval(kl['t'], lambda x: f'{x:.3f}')}"
