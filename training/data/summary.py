"""What came of a `prepare` run: counted, and printed."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data.rows import read_solution
from training.data.samples import Item, Problem, Source

SHOWN = 10  # problems on the terminal; all are in problems.jsonl
# Not those of names, such as UTF-8, Windows-1252 and 16-bit.
_NUMBER = re.compile(r"(?<![A-Za-z\d.])(?<![A-Za-z]-)-?[0-9](?![0-9.]*-bit)[0-9.]*")


def summarise(
    source: Source,
    groups: Sequence[tuple[Item, ...]],
    data: Any,
    problems: Sequence[Problem],
    settings: dict[str, str],
) -> dict[str, Any]:
    """Counts. notes: of the file as a whole. reasons: how often each, numbers and names taken out.
    ignored_pixels_left_out: rows that have some, which their form holds with --masks alone."""
    kinds = Counter(p.kind for p in problems)
    counts, ignored = list[int](), 0
    for one in [] if data is None else data.select_columns([*_counted(data), "ignore"]):
        counts.append(_objects(one))
        ignored += bool(one["ignore"] and one["ignore"]["counts"] is not None)
    written = settings["form"] == "mask" or settings["masks"] == "True"
    return {
        "source": source.name,
        "file": source.file,
        "items": sum(len(group) for group in groups),
        "rows": len(counts),
        "objects": sum(counts),
        "no_target": counts.count(0),
        "bad": kinds["bad"],
        "left_out": kinds["left out"],
        "mended": kinds["mended"],
        "notes": list(source.notes),
        "with_ignored_pixels": ignored,
        "ignored_pixels_left_out": 0 if written else ignored,
        "reasons": dict(Counter(_kind(p) for p in problems).most_common()),
        "settings": settings,
    }


def _counted(data: Any) -> list[str]:
    return ["solution"] if "solution" in data.column_names else ["masks"]


def _objects(one: dict[str, Any]) -> int:
    if "masks" in one:
        return len(one["masks"])
    return len(read_solution(one["solution"]))


def _kind(problem: Problem) -> str:
    """A reason without what differs from row to row."""
    reason = re.sub(r"^[^'\"]*\.json(?=:? )", "the file", problem.reason.split("; ")[0], flags=re.IGNORECASE)
    reason = re.sub(r"the image (?=\S*[/.])(?!\()\S+", "the image", reason)
    reason = re.sub(r"\bannotation [^\s,]*\d[^\s,]*", "annotation N", reason)
    reason = re.sub(r"(?<!\w)'[^']*'|\"[^\"]*\"|\([^)]*\)|\[[^\]]*\]", "..", reason)
    return f"{problem.kind}: {_NUMBER.sub('N', reason)}"


def title(summary: dict[str, Any]) -> str:
    return (
        f"{summary['source']} ({summary['file']}): {summary['rows']} rows, {summary['objects']} objects, "
        f"{summary['no_target']} without a match; {summary['bad']} bad, {summary['left_out']} left out, "
        f"{summary['mended']} mended"
    )


def say(text: str) -> None:
    """Prints a line; what standard output's encoding lacks (and half characters, of file names) is escaped, since a
    run's rows are there whatever the terminal can show."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def report(summary: dict[str, Any], out: Path, as_json: bool) -> int:
    """Prints what came of it; the exit code."""
    if as_json:
        say(json.dumps(summary))
    else:
        say(title(summary))
        for note in summary["notes"]:
            say(f"  {note}")
        for reason, count in list(summary["reasons"].items())[:SHOWN]:
            say(f"  {count:6}  {reason}")
        if summary["reasons"]:
            with (out / "problems.jsonl").open(encoding="utf-8") as file:
                lines = list(file)
            for line in lines[:SHOWN]:
                one = json.loads(line)
                say(f"  {one['file']}, {one['id']}: {one['reason']}")
            more = f" ({len(lines) - SHOWN} more)" if len(lines) > SHOWN else ""
            say(f"  all of them: {out / 'problems.jsonl'}{more}")
        if lost := summary.get("ignored_pixels_left_out"):
            say(f"  {lost} rows lose their ignored pixels: --masks writes them, and --form mask always does")
        if (out / "page.png").exists():
            say(f"  look at {out / 'page.png'}")
    if not summary["rows"]:
        why = "no row is good" if summary["bad"] or summary["left_out"] else "nothing is annotated"
        print(f"segzero-train prepare: {why}", file=sys.stderr)
        return 1
    return 0
