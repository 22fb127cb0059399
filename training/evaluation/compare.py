"""Two runs on the same items, paired: `segzero-train compare A.jsonl B.jsonl`.

An interval of the difference from the paired bootstrap is narrower than two intervals side by side suggest, since hard
items are hard for both. Per figure: A, B, B - A with its 95 % percentile bootstrap interval over items; how many items
are better in B, better in A, and equal; and the two-sided exact test on those that are not equal, which for yes-or-no
figures is McNemar's and for others the sign test. Items are matched by id; runs over different items are refused. Only
an interval or a p-value for the one figure named beforehand means what it says: there are many here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.measures.metrics import resampled
from training.measures.records import NOT_ASKED, Record, RecordsError, load

Value = Callable[[Record], float | None]


@dataclass(frozen=True)
class Comparison:
    """One figure. difference: b - a, ci: its 95 % interval. test: "mcnemar", "sign", or "" where there is none."""

    name: str
    n: int
    a: float
    b: float
    difference: float
    ci: tuple[float, float]
    better: int
    worse: int
    equal: int
    test: str
    p: float | None


def _present(value: Value) -> Value:
    return lambda r: value(r) if not r["absent"] else None


def _protocol(name: str) -> Value:
    def iou(r: Record) -> float | None:
        scored = (r.get("protocols") or {}).get(name)  # records of the first form know two protocols
        return None if scored is None else float(scored["iou"])

    return iou


# What is averaged over items; None: the item is not in this figure.
FIGURES: dict[str, Value] = {
    "parse_ok": lambda r: float(r["status"] in ("OK", "NO_OBJECT")),
    "box_acc": _present(lambda r: r["box_acc"]),
    "point_acc": _present(lambda r: r["point_acc"]),
    "box_acc_lenient": lambda r: r["box_acc_lenient"],
    "giou seg-zero": _protocol("seg-zero"),
    "giou lisa": _protocol("lisa"),
    "giou grefcoco": _protocol("grefcoco"),
    "giou star": _protocol("star"),
    "no_target_acc": lambda r: float(r["status"] == "NO_OBJECT") if r["absent"] else None,
    "t_acc": _present(lambda r: float(r["status"] == "OK")),
}


def paired(a: Sequence[Record], b: Sequence[Record], reworded: bool = False) -> list[tuple[Record, Record]]:
    """Records of the same item. Raises RecordsError that says which items are not in both, or not the same.

    reworded: the same items asked in other words.
    """
    first, second = {r["id"]: r for r in a}, {r["id"]: r for r in b}
    for name, only in (("first", first.keys() - second.keys()), ("second", second.keys() - first.keys())):
        if only:
            some = ", ".join(sorted(only)[:5])
            raise RecordsError(f"{len(only)} items are in the {name} run alone, such as {some}")
    for key in (*(() if reworded else ("instruction", "question")), "true_boxes", "answers"):
        other = [i for i in first if first[i].get(key) != second[i].get(key) and _read(first[i], second[i])]
        if other:
            raise RecordsError(f"{len(other)} items have the same id and another {key}, such as {other[0]}")
    return [(first[i], second[i]) for i in first]


def _read(*records: Record) -> bool:
    return all(r["status"] not in NOT_ASKED for r in records)


def compare(
    a: Sequence[Record], b: Sequence[Record], seed: int = 0, resamples: int = 10_000, reworded: bool = False
) -> list[Comparison]:
    """Every figure that both runs have. Items whose data could not be read in one of them are in none."""
    pairs = [(x, y) for x, y in paired(a, b, reworded) if _read(x, y)]
    if not pairs:
        raise RecordsError("there is no item to compare")
    if "score" in pairs[0][0]:
        return [_mean("score", [x["score"] for x, _ in pairs], [y["score"] for _, y in pairs], seed, resamples)]
    found = []
    for name, value in FIGURES.items():
        both = [(value(x), value(y)) for x, y in pairs]
        known = [(u, v) for u, v in both if u is not None and v is not None]
        if known:
            found.append(_mean(name, [u for u, _ in known], [v for _, v in known], seed, resamples))
    masked = [(x["protocols"], y["protocols"]) for x, y in pairs if x["protocols"] and y["protocols"]]
    for protocol in ("seg-zero", "lisa"):
        areas = np.array(
            [[[p["intersection"], p["union"]] for p in (x[protocol], y[protocol])] for x, y in masked], float
        )
        if len(areas) and areas[:, :, 1].sum(0).all():
            found.append(_ratio(f"ciou {protocol}", areas, seed, resamples))
    return found


def _mean(name: str, a: Sequence[float], b: Sequence[float], seed: int, resamples: int) -> Comparison:
    x, y = np.asarray(a, float), np.asarray(b, float)
    drawn = np.concatenate([(y - x)[chosen].mean(1) for chosen in resampled(len(x), seed, resamples)])
    binary = set(np.unique([x, y]).tolist()) <= {0.0, 1.0}
    better, worse = int((y > x).sum()), int((y < x).sum())
    return Comparison(
        name,
        len(x),
        round(float(x.mean()), 4),
        round(float(y.mean()), 4),
        round(float((y - x).mean()), 4),
        _percentiles(drawn),
        better,
        worse,
        len(x) - better - worse,
        "mcnemar" if binary else "sign",
        exact_test(better, worse),
    )


def _ratio(name: str, areas: NDArray[np.float64], seed: int, resamples: int) -> Comparison:
    """areas: (items, run, intersection and union). Sums have no test of their own: items weigh by their area."""
    sums = areas.sum(0)
    a, b = sums[:, 0] / sums[:, 1]
    drawn = []
    for chosen in resampled(len(areas), seed, resamples):
        some = np.stack([areas[:, run, part][chosen].sum(1) for run in (0, 1) for part in (0, 1)])
        drawn.append(some[2] / np.maximum(some[3], 1) - some[0] / np.maximum(some[1], 1))
    item = areas[:, :, 0] / np.maximum(areas[:, :, 1], 1)
    better, worse = int((item[:, 1] > item[:, 0]).sum()), int((item[:, 1] < item[:, 0]).sum())
    equal = len(areas) - better - worse
    values = round(float(a), 4), round(float(b), 4), round(float(b - a), 4)
    return Comparison(name, len(areas), *values, _percentiles(np.concatenate(drawn)), better, worse, equal, "", None)


def _percentiles(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def exact_test(better: int, worse: int) -> float:
    """Two-sided binomial test that better and worse are equally likely; 1 where no item differs."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def table(found: Sequence[Comparison], names: tuple[str, str]) -> str:
    rows = [("figure", "n", "A", "B", "B - A", "95 % interval", "better", "worse", "equal", "test", "p")]
    for c in found:
        p = "" if c.p is None else f"{c.p:.2g}"
        low, high = c.ci
        values = f"{c.n}", f"{c.a:.4f}", f"{c.b:.4f}", f"{c.difference:+.4f}", f"{low:+.4f} {high:+.4f}"
        rows.append((c.name, *values, f"{c.better}", f"{c.worse}", f"{c.equal}", c.test, p))
    widths = [max(len(r[n]) for r in rows) for n in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([f"A {names[0]}", f"B {names[1]}", *lines])


def plot(
    found: Sequence[Comparison], pairs: Sequence[tuple[Record, Record]], path: Path, names: tuple[str, str]
) -> None:
    """Left the differences with their intervals, right each item's own difference, sorted."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 0.42 * len(found) + 2.4), layout="constrained")
    for n, c in enumerate(reversed(found)):
        low, high = c.ci
        color = "#2a7d4f" if low > 0 else "#b5392f" if high < 0 else "#555555"
        left.plot([low, high], [n, n], color=color, lw=2.5)
        left.plot([c.difference], [n], "o", color=color)
        left.annotate(f"{c.a:.3f} → {c.b:.3f}", (1.02, n), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    left.axvline(0, color="black", lw=0.8)
    left.set_yticks(range(len(found)), [f"{c.name} ({c.n})" for c in reversed(found)])
    left.set_ylim(-0.6, len(found) - 0.4)
    left.locator_params(axis="x", nbins=6)
    left.set_xlabel("B - A, with 95 % paired bootstrap interval")
    left.grid(axis="x", alpha=0.3)

    def value(r: Record) -> float:
        return float(r["score"] if "score" in r else r["protocols"]["lisa"]["iou"] if r["protocols"] else r["box_acc"])

    items = np.sort([value(y) - value(x) for x, y in pairs if _read(x, y)])
    where = np.arange(len(items))
    right.fill_between(where, items, where=items <= 0, step="mid", color="#b5392f", alpha=0.8)
    right.fill_between(where, items, where=items >= 0, step="mid", color="#2a7d4f", alpha=0.8)
    right.axhline(0, color="black", lw=0.8)
    right.set_ylim(-1.05, 1.05)
    right.set_xlabel(f"{len(items)} items, sorted")
    what = "score" if pairs and "score" in pairs[0][0] else "IoU by LISA's protocol, or boxes"
    right.set_ylabel(f"B - A in {what}")
    right.grid(axis="y", alpha=0.3)
    figure.suptitle(f"A {names[0]}\nB {names[1]}", fontsize=10, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="segzero-train compare", description=(__doc__ or "").split("\n")[0])
    p.add_argument("a", type=Path, metavar="A.jsonl")
    p.add_argument("b", type=Path, metavar="B.jsonl")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--resamples", type=int, default=10_000)
    p.add_argument("--reworded", action="store_true", help="B asks the same items in other words")
    p.add_argument("--json", action="store_true", help="one JSON object on standard output")
    p.add_argument("--summary", type=Path, help="the same object into a file")
    p.add_argument("--plot", type=Path, help="PNG")
    arguments = p.parse_args(argv)
    if arguments.seed < 0 or arguments.resamples < 1:
        p.error("--seed must be at least 0, --resamples at least 1")
    if arguments.plot and arguments.plot.suffix != ".png":
        p.error(f"--plot {arguments.plot}: expected the name of a PNG")
    try:
        return _run(arguments)
    except (ValueError, OSError) as error:
        print(f"segzero-train compare: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    (of_a, a), (of_b, b) = load([arguments.a]), load([arguments.b])
    found = compare(a, b, arguments.seed, arguments.resamples, arguments.reworded)
    if of_a.get("batch") != of_b.get("batch"):
        print(
            f"note: batches of {of_a.get('batch')} and of {of_b.get('batch')}, which can change texts", file=sys.stderr
        )
    names = _name(arguments.a, of_a), _name(arguments.b, of_b)
    pairs = paired(a, b, arguments.reworded)
    unread = sum(not _read(x, y) for x, y in pairs)
    object_: dict[str, Any] = {"a": names[0], "b": names[1], "items": len(pairs), "unread": unread}
    object_["figures"] = {c.name: asdict(c) for c in found}
    if arguments.summary:
        arguments.summary.parent.mkdir(parents=True, exist_ok=True)
        arguments.summary.write_text(json.dumps(object_, indent=1))
    if arguments.plot:
        plot(found, pairs, arguments.plot, names)
    if arguments.json:
        print(json.dumps(object_))
    else:
        print(table(found, names))
        others = f"; the other {unread} are in no figure" if unread else ""
        print(f"read in both runs: {len(pairs) - unread} of {len(pairs)} items{others}")
    return 0


def _name(path: Path, settings: dict[str, Any]) -> str:
    return f"{path.name} ({settings.get('profile', '?')} on {settings.get('data', '?')})"


if __name__ == "__main__":
    sys.exit(main())
