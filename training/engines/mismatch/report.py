"""Figures of two engines' log-probabilities, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLIP = 0.2  # of PPO, as published
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)


def figures(sampled: Sequence[Sequence[float]], scored: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of the completions' tokens: log-probabilities by the engine that sampled, and by the one that scored.

    d is scored minus sampled. kl_k1 = mean(-d) and kl_k3 = mean(exp(d) - 1 - d) estimate KL(sampler || scorer) per
    token (Schulman's estimators; the tokens are the sampler's). ratio: exp(d) by token; ratio_sequence: exp(sum d).
    outside_clip: share of tokens that PPO's clip of 0.2 would call off-policy before any update.
    """
    pairs = [np.asarray(b, float) - np.asarray(a, float) for a, b in zip(sampled, scored, strict=True)]
    if not pairs or any(len(p) == 0 for p in pairs):
        raise ValueError("no completions, or one without tokens")
    d = np.concatenate(pairs)
    if not np.isfinite(d).all():
        raise ValueError("a log-probability is not finite")
    sums = np.array([p.sum() for p in pairs])
    ratio = np.exp(d)
    return {
        "completions": len(pairs),
        "tokens": len(d),
        "mean_abs": float(np.abs(d).mean()),
        "p99_abs": float(np.quantile(np.abs(d), 0.99)),
        "max_abs": float(np.abs(d).max()),
        "kl_k1": float(-d.mean()),
        "kl_k3": float((ratio - 1 - d).mean()),
        "ratio": dict(zip(map(str, QUANTILES), np.quantile(ratio, QUANTILES).tolist(), strict=True)),
        "ratio_sequence": dict(zip(map(str, QUANTILES), np.quantile(np.exp(sums), QUANTILES).tolist(), strict=True)),
        "outside_clip": float((np.abs(ratio - 1) > CLIP).mean()),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown, one row per pair of engines."""
    lines = [
        "| sampled by | scored by | tokens | mean abs | p99 abs | max abs | KL (k3) | ratio, 1 % to 99 % "
        "| ratio of sequences, all | outside clip |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, f in found.items():
        a, b = name.split(" -> ")
        r, s = f["ratio"], f["ratio_sequence"]
        lines.append(
            f"| {a} | {b} | {f['tokens']} | {f['mean_abs']:.2g} | {f['p99_abs']:.2g} | {f['max_abs']:.2g} "
            f"| {f['kl_k3']:.2g} | {_span(r, '0.01', '0.99')} | {_span(s, '0.0', '1.0')} "
            f"| {f['outside_clip']:.2%} |"
        )
    return "\n".join(lines)


def _span(quantiles: dict[str, float], low: str, high: str) -> str:
    return f"{quantiles[low]:.5g} to {quantiles[high]:.5g}"


def picture(differences: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Share of tokens whose log-probabilities differ by more than x."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 5.5), layout="constrained")
    for name, d in differences.items():
        x = np.sort(np.abs(d))
        axes.plot(np.maximum(x, 1e-8), 1 - np.arange(len(x)) / len(x), label=name)
    axes.axvline(CLIP, color="grey", ls=":", label="PPO's clip")
    axes.set(
        xscale="log", yscale="log", xlabel="|difference of log-probabilities|, nats", ylabel="share of tokens above"
    )
    axes.grid(alpha=0.3)
    axes.set_xlim(left=1e-7)  # about a unit in float32's last place
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
