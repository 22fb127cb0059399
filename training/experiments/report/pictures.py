"""The report's charts: the plane of gain and forgetting, bars with intervals, curves, and sizes of boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.experiments.findings.boxes import SCALES
from training.experiments.findings.groups import GROUPS, SETS, STARTS, VOTES, start_of
from training.experiments.findings.runs import Runs
from training.experiments.plan import ABLATIONS, AFTERWARDS, ARMS, CONTROLS, MAIN
from training.experiments.report.labels import NAMES, PANELS, color, label

VALIDATED = ("segzero", "segzero-answer")  # reward profiles by which the start was validated too
SMOOTH = 7  # updates of the running mean over the mean of seeds


def draw_all(found: Mapping[str, Any], runs: Runs, folder: Path) -> None:
    """Every picture that the runs give; one that they no longer give is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    first, ablated = (*MAIN, *CONTROLS), [a.name for a in (*ABLATIONS, *AFTERWARDS) if a.name in runs]
    made = {
        "plane.png": lambda path: plane(found["points"], path),
        "bars.png": lambda path: bars(found["arms"], path),
        "curves.png": lambda path: curves(runs, [a.name for a in first], path),
        "boxes.png": lambda path: box_scales(found["boxes"]["scales"], path),
        "curves_ablations.png": lambda path: curves(runs, ["grpo_thought", *ablated] if ablated else [], path),
    }
    for name, draw in made.items():
        if not draw(folder / name):
            (folder / name).unlink(missing_ok=True)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> bool:
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    part.replace(path)
    return True


def plane(points: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """What was forgotten against what was gained and against KL; a point is a run, a large one an arm's mean.

    The panels hold all arms but controls, which may be far off: of one whose mean is outside it is said where."""
    if not points:
        return False
    figure = _figure(12.5, 8.4)
    rows = [which for which in ("retained", "questions") if any(which in p["change"] for p in points)]
    grid = figure.subplots(len(rows), 2, squeeze=False, sharex="col")
    arms = [name for name in ARMS if any(p["arm"] == name for p in points)]
    for line, on in zip(grid, rows, strict=True):
        for axes, against in zip(line, ("id", "kl_per_answer"), strict=True):
            axes.axhline(0, color="#999999", lw=0.8, zorder=0)
            axes.axvline(0, color="#999999", lw=0.8, zorder=0)
            for name in arms:
                xy = np.array([_place(p, against, on) for p in points if p["arm"] == name], float)
                xy = xy[~np.isnan(xy).any(1)]
                if not len(xy):
                    continue
                other = name in GROUPS["ablations"] + GROUPS["afterwards"]
                shape = "^" if other else "s" if name in GROUPS["controls"] else "o"
                style = {"color": color(name), "marker": shape, "linestyle": ""}
                axes.plot(*xy.T, markersize=5, alpha=0.55, markeredgewidth=0, **style)
                axes.plot(*xy.mean(0), markersize=10, markeredgecolor="black", label=label(name), **style)
            axes.plot([0], [0], marker="*", color="black", markersize=15, linestyle="", label="start", zorder=5)
            _close_in(axes, points, against, on)
            axes.set_ylabel(f"{NAMES[on]}: change from the start, points")
            axes.grid(alpha=0.25)
    grid[-1][0].set_xlabel("ID: gain over the start, points")
    grid[-1][1].set_xlabel("KL(tuned || start), nats per answer")
    handles, names = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle("What was forgotten against what was gained, and against how far the policy went", fontsize=11)
    return _save(figure, path)


def _close_in(axes: Any, points: Sequence[Mapping[str, Any]], against: str, on: str) -> None:
    """Limits from what is no control."""
    places = {p["arm"]: [_place(q, against, on) for q in points if q["arm"] == p["arm"]] for p in points}
    inside = np.array([(0.0, 0.0), *(xy for n, many in places.items() if n not in GROUPS["controls"] for xy in many)])
    inside = inside[~np.isnan(inside).any(1)]
    if len(inside) < 2:
        return
    low, high = inside.min(0), inside.max(0)
    margin = 0.08 * np.maximum(high - low, 1e-3)
    low, high = low - margin, high + margin
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    far = [(n, np.nanmean(np.array(places[n], float), 0)) for n in GROUPS["controls"] if n in places]
    said = [
        f"{label(n)}: outside, at ({x:.3g}, {y:.3g})"
        for n, (x, y) in far
        if ((x, y) < low).any() or ((x, y) > high).any()
    ]
    axes.text(0.02, 0.02, "\n".join(said), transform=axes.transAxes, fontsize=8, color="#666666")


def _place(point: Mapping[str, Any], against: str, on: str) -> tuple[float, float]:
    """In points of per cent, KL as it is; NaN where it was not measured."""
    change = point["change"]
    x = point["kl_per_answer"] if against == "kl_per_answer" else change.get(against)
    y = change.get(on)
    scale = 1 if against == "kl_per_answer" else 100
    return (np.nan if x is None else scale * x, np.nan if y is None else 100 * y)


def bars(arms: Mapping[str, Mapping[str, Any]], path: Path) -> bool:
    """Accuracy per set and arm. Black: 95 % over seeds; grey, where there is one run: 95 % over items."""
    groups = [[n for n in GROUPS[g] if arms[n]["sets"]] for g in ("main", "controls", "ablations", "afterwards")]
    places: dict[str, float] = {}
    at = 0.0
    for group in groups:
        for name in group:
            places[name], at = at, at + 1
        at += 0.6 if group else 0
    sets = [which for which in SETS if any(which in arms[n]["sets"] for n in places)]
    if not places or not sets:
        return False
    figure = _figure(3.0 * len(sets) + 2.6, 0.33 * at + 1.6)
    for axes, which in zip(np.atleast_1d(figure.subplots(1, len(sets), sharey=True)), sets, strict=True):
        for name, y in places.items():
            cell = arms[name]["sets"].get(which)
            if cell is None:
                continue
            mean, over = cell["right"]["mean"], cell["right"]["t"]
            low, high = (min(max(v, 0.0), 1.0) for v in over or cell["right"]["items"])  # t knows no bounds
            shade = "#aaaaaa" if name in STARTS + VOTES else color(name)
            axes.barh(y, 100 * mean, color=shade, alpha=0.85, height=0.8)
            axes.plot([100 * low, 100 * high], [y, y], color="black" if over else "#666666", lw=2 if over else 1.2)
            axes.text(119, y, f"{100 * mean:.1f}", va="center", ha="right", fontsize=8)
        for start, dashes in zip(STARTS, ("--", ":"), strict=True):
            if which in arms[start]["sets"]:
                level = 100 * arms[start]["sets"][which]["right"]["mean"]
                axes.axvline(level, color="black", lw=0.9, linestyle=dashes)
        axes.set_title(NAMES[which], fontsize=10)
        axes.set_xlim(0, 121)
        axes.set_xticks(range(0, 101, 20))
        axes.set_ylim(at - 0.9, -0.7)
        axes.set_yticks(list(places.values()), [f"{label(n)} ({len(arms[n]['seeds'])})" for n in places], fontsize=8.5)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(
        "Right answers, per cent; runs in brackets. Black: 95 % over seeds; thin grey: over items, of one run."
        "\nLines: the start, dashed with thought, dotted without.",
        fontsize=9,
    )
    return _save(figure, path)


def curves(runs: Runs, names: Sequence[str], path: Path) -> bool:
    """Over updates: every seed thin, the running mean of the mean over seeds thick."""
    logs = {name: [[*_before(runs, name), *run.log()] for run in runs[name].values()] for name in names if name in runs}
    panels = []
    for key, title in PANELS:
        lines = {name: [s for log in some if (s := _steps(log, key))] for name, some in logs.items()}
        if lines := {name: series for name, series in lines.items() if series}:
            panels.append((title, lines))
    if not panels:
        return False
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(4.7 * columns, 2.9 * rows + 0.5)
    shown: dict[str, Any] = {}
    for n, (title, lines) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, n + 1)
        for name, series in lines.items():
            if len(series) > 1 or len(series[0]) > SMOOTH:
                for one in series:
                    axes.plot(list(one), list(one.values()), color=color(name), lw=0.5, alpha=0.3)
            steps = sorted(set.intersection(*(set(one) for one in series)))
            if not steps:
                continue
            mean = np.array([np.mean([one[step] for one in series]) for step in steps])
            mean = running(mean) if len(mean) > 3 * SMOOTH else mean
            (shown[name],) = axes.plot(steps, mean, color=color(name), lw=1.8, marker="o" if len(steps) < 3 else "")
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if n >= len(panels) - columns:
            axes.set_xlabel("updates", fontsize=8)
    handles = [shown[name] for name in logs if name in shown]
    texts = [f"{label(name)} ({len(logs[name])})" for name in logs if name in shown]
    figure.legend(handles, texts, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(
        f"Thin: every seed. Thick: mean over seeds, running mean of {SMOOTH} values where there are many.", fontsize=9
    )
    return _save(figure, path)


def box_scales(shares: Mapping[str, Sequence[float]], path: Path) -> bool:
    """Over the factor that boxes are made larger by: the share that wins, its highest point marked."""
    if not shares:
        return False
    figure = _figure(6.4, 3.8)
    axes = figure.add_subplot()
    for name, values in shares.items():
        sampled = name == "sampled"
        look = {"color": color("start_think" if sampled else name), "ls": "--" if sampled else "-"}
        axes.plot(SCALES, values, lw=1.6, label="start, sampled" if sampled else label(name), **look)
        top = int(np.argmax(values))
        axes.plot(SCALES[top], values[top], marker="o", ms=8, **look)
    axes.axvline(1.0, color="#999999", lw=0.8)
    axes.set_xlabel("size of the box, times what was answered")
    axes.set_ylabel("share with an IoU above .5")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _save(figure, path)


def _before(runs: Runs, name: str) -> list[dict[str, Any]]:
    """What validation says of an arm's start, where the arm is validated by the reward that its start was."""
    if ARMS[name].profile not in VALIDATED:
        return []
    return [record for run in runs.get(start_of(name), {}).values() for record in run.log()]


def _steps(log: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    return {int(r["step"]): float(r[key]) for r in log if isinstance(r.get(key), (int, float))}


def running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of SMOOTH neighbours, of fewer at the ends; (n,) -> (n,)."""
    ones = np.ones(min(SMOOTH, len(values)))
    return np.asarray(np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same"))
