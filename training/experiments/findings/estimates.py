"""Intervals over seeds and over items."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DIGITS, RESAMPLES = 5, 5_000


def rounded(value: float) -> float:
    return round(float(value), DIGITS) + 0.0  # no -0.0


def over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t-interval of the mean; None with fewer than two."""
    if len(values) < 2:
        return None
    x = np.asarray(values, float)
    half = float(stats.t.ppf(0.975, len(x) - 1)) * float(x.std(ddof=1)) / len(x) ** 0.5
    return rounded(x.mean() - half), rounded(x.mean() + half)


@lru_cache(maxsize=8)
def _draws(clusters: int) -> NDArray[np.float64]:
    """How often each cluster is drawn: (RESAMPLES, clusters)."""
    rng = np.random.default_rng([0, clusters])
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), RESAMPLES).astype(float)


def over_items(values: NDArray[np.float64], scenes: Sequence[int]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of values (items,), whole scenes drawn with replacement."""
    _, which = np.unique(np.asarray(scenes), return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which).astype(float)
    drawn = _draws(len(sums))
    low, high = np.percentile((drawn @ sums) / (drawn @ counts), [2.5, 97.5])
    return rounded(low), rounded(high)
