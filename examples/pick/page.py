"""results.json and the page around it, from the records alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pick.score import CAUSES, RIGHT_MASK, RIGHT_OBJECT, RIGHT_PLACE, Record, summarise

BEGIN, END = "<!-- figures: from results.json -->", "<!-- end of figures -->"
MAIN = ("1280x720", "exact")
ROWS = (
    ("n", "scenes whose target the arm reaches"),
    ("n_unreachable", "not reached, counted apart"),
    ("success", "**picked from the node's answer**"),
    ("bound", "picked from the true mask (the bound)"),
    ("2d_right", "right object in 2D"),
    ("success_where_2d_right", "picked, where that is right"),
    ("bound_where_2d_right", "bound in the same scenes"),
    ("ratio", "**share of the bound that is reached**"),
    ("centroid_p50_mm", "centre of the upright box, median error, mm"),
    ("centroid_p90_mm", "its 90th percentile, mm"),
    ("centroid_true_mask_p50_mm", "median with the true mask, mm"),
    ("extent_p50_percent", "sides of the upright box, median error, %"),
    ("extent_true_mask_p50_percent", "the same with the true mask, %"),
)
SHARE, CENTRE_MM, FACTOR = 0.9, 5.0, 1.5
GOALS = (
    f"goal: share of the bound at least {SHARE}",
    f"goal: median error of the centre at most {CENTRE_MM:g} mm, or {FACTOR} times the true mask's",
)


def summarise_all(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of 1280 x 720 with exact depth at the top; `noisy` and other sizes below, each under its name."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.size, record.noise), []).append(record)
    result = summarise(groups.get(MAIN, []))
    for (size, noise), those in sorted(groups.items()):
        if (size, noise) == MAIN:
            continue
        place = result if size == MAIN[0] else result.setdefault(size, {})
        if noise == "exact":
            place.update(summarise(those))
        else:
            place[noise] = summarise(those)
    result["seeds"] = sorted({r.seed for r in records})
    result["thresholds"] = {"iou": RIGHT_OBJECT, "good_mask_iou": RIGHT_MASK, "place_m": RIGHT_PLACE}
    return result


def columns(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each group of scenes by its heading."""
    found = {"1280 x 720": results, "1280 x 720, noisy depth": results.get("noisy")}
    square = results.get("960x960", {})
    found |= {"960 x 960": square, "960 x 960, noisy depth": square.get("noisy")}
    return {name: group for name, group in found.items() if group and group.get("n")}


def table(results: dict[str, Any]) -> list[str]:
    """Markdown lines."""
    groups = columns(results)
    lines = ["| | " + " | ".join(groups) + " |", "|---|" + "---|" * len(groups)]
    for key, words in ROWS:
        lines.append(_row(words, [_cell(group, key) for group in groups.values()]))
    for cause in CAUSES:
        counts = [f"{g['failures'][cause]}" for g in groups.values()]
        lines.append(_row(f"failures: {_CAUSE[cause]}", counts))
    for cause in CAUSES[2:]:
        counts = [f"{g['bound_failures'][cause]}" for g in groups.values()]
        lines.append(_row(f"the bound's failures: {cause.replace('3d', '3D')}", counts))
    return [*lines, *(_row(words, [reached(g)[n] for g in groups.values()]) for n, words in enumerate(GOALS))]


def reached(group: dict[str, Any]) -> tuple[str, str]:
    """For each of the goals whether the group reaches it."""
    share, error, best = (group.get(k) for k in ("ratio", "centroid_p50_mm", "centroid_true_mask_p50_mm"))
    first = "-" if share is None else "reached" if share >= SHARE else "**missed**"
    if error is None or best is None:
        return first, "-"
    most = max(CENTRE_MM, FACTOR * best)
    return first, f"reached ({most:.1f})" if error <= most else f"**missed** ({most:.1f})"


def _row(words: str, cells: Sequence[str]) -> str:
    return f"| {words} | " + " | ".join(cells) + " |"


_CAUSE = {
    "reasoning": "reasoning (another object or none)",
    "mask": f"mask (IoU below {RIGHT_MASK})",
    "3d": f"3D (refused, or centre more than {RIGHT_PLACE * 1000:.0f} mm off)",
    "grasp": "grasp (all right, and not lifted)",
}


def _cell(group: dict[str, Any], key: str) -> str:
    value = group.get(key)
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    digits = 1 if key.endswith(("_mm", "_percent")) else 3
    low, high = group.get(f"{key}_ci") or (None, None)
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {high:.{digits}f})" if low is not None else "")


def print_table(results: dict[str, Any]) -> None:
    for line in table(results):
        print(line.replace("**", ""))


def write_page(folder: Path, records: Sequence[Record], pictures: Path) -> None:
    """results.json, a picture of each end, and README.md: the table between its two marks, the rest is written."""
    folder.mkdir(parents=True, exist_ok=True)
    results = summarise_all(records)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    for end, record in shown(records).items():
        source = pictures / picture_name(record)
        if source.exists():
            shutil.copyfile(source, folder / f"{end}.jpg")
    page = folder / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text("\n".join([before + BEGIN, *table(results), END]) + after)


def shown(records: Sequence[Record]) -> dict[str, Record]:
    """For each end the first record that shows it: exact depth at 16:9 before others, full tables before empty."""

    def rank(record: Record) -> tuple[bool, bool, bool, int]:
        named = record.label == record.target or not record.answer.lifted
        return ((record.size, record.noise) != MAIN, record.objects < 4, not named, record.scene)

    found: dict[str, Record] = {}
    for record in sorted((r for r in records if r.reachable), key=rank):
        found.setdefault(record.cause or "lifted", record)
    return found


def picture_name(record: Record) -> str:
    end = record.cause or "lifted"
    return f"{record.size}_{record.noise}_{record.seed}_{record.scene:04d}_{end}.jpg"
