"""How training went, from the logs: the first and the last values of each quantity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.experiments.findings.estimates import rounded
from training.experiments.findings.runs import Run

# Of a log: what is told of its first and of its last updates.
LOGGED = (
    "reward",
    "eval_reward",
    "eval_rewards/accuracy",
    "frac_reward_zero_std",
    "completions/clipped_ratio",
    "completions/mean_length",
    "kl",
    "entropy",
    "grad_norm",
    "loss",
)
SECONDS = ("seconds/generation", "seconds/reference", "seconds/reward", "seconds/loss")
ENDS = 10  # logged values at each end


def training(runs: Sequence[Run]) -> dict[str, Any]:
    """Of every logged quantity the mean of the first and of the last ENDS values (of few, one at each end), and seconds
    per update."""
    logs = [run.log() for run in runs]
    found: dict[str, Any] = {"logs": sum(bool(log) for log in logs)}
    for key in LOGGED:
        series = [_series(log, key) for log in logs]
        series = [s for s in series if s]
        if series:
            few = [min(ENDS, max(1, len(s) // 4)) for s in series]
            ends = [[np.mean(s[:n]), np.mean(s[-n:])] for s, n in zip(series, few, strict=True)]
            first, last = np.mean(ends, 0)
            found[key] = {"first": rounded(first), "last": rounded(last)}
    for key in SECONDS:
        if means := [np.mean(s) for log in logs if (s := _series(log, key))]:
            found[key] = rounded(np.mean(means))
    return found


def _series(log: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [float(r[key]) for r in log if isinstance(r.get(key), (int, float))]
