"""Tables in Markdown, and the places of a page that a program writes: `<!-- NAME -->` to `<!-- /NAME -->`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _place(page: Path, name: str) -> tuple[str, str, str]:
    before, start, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    inside, end, after = rest.partition(f"\n<!-- /{name} -->")
    if not start or not end:
        raise ValueError(f"{page} has no place <!-- {name} --> ... <!-- /{name} -->")
    return before + start, inside, end + after


def read(page: Path, name: str) -> str:
    """What stands in that place. Raises ValueError where there is none."""
    return _place(page, name)[1]


def write(page: Path, name: str, text: str) -> None:
    """Raises ValueError where there is no such place."""
    before, _, after = _place(page, name)
    part = page.with_suffix(".part")
    part.write_text(before + text + after, encoding="utf-8")
    part.replace(page)
