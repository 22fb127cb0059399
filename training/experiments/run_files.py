"""The files that a run leaves beside its summary NAME-SEED.json: records and training log, as compressed JSON lines.

NAME-SEED.jsonl.gz has a record per item, NAME-SEED.log.jsonl.gz what training logged, where there was training.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ResultsError(ValueError):
    """Results that do not go together, or are not whole; the message names the file."""


def records_file(summary: Path) -> Path:
    return summary.with_suffix(".jsonl.gz")


def log_file(summary: Path) -> Path:
    return summary.with_suffix(".log.jsonl.gz")


def write_packed(path: Path, data: bytes, *, named: bool = False) -> None:
    """Compressed, the same bytes for the same data: the header has no time, and a file name only where asked for."""
    part = path.with_suffix(".part")
    with part.open("wb") as raw, gzip.GzipFile(part.name if named else "", "wb", fileobj=raw, mtime=0) as file:
        file.write(data)
    part.replace(path)


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Named, as those are whose hashes the report lists."""
    write_packed(path, "".join(json.dumps(record) + "\n" for record in records).encode(), named=True)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Raises ResultsError naming file and line."""
    if not path.exists():
        raise ResultsError(f"there is no {path}, which holds the records of that run")
    found = []
    for number, line in enumerate(unpack(path).splitlines(), 1):
        try:
            record = json.loads(line)
            found.append(
                {**record, "right": float(record["right"]), "id": str(record["id"]), "set": str(record["set"])}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{path}, line {number}: no record: {error!r}") from error
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """Nothing where there is none. Raises ResultsError naming file and line, also for a log that is not packed."""
    if path.exists():
        return parse_lines(path, unpack(path))
    if (plain := path.with_suffix("")).exists():
        raise ResultsError(f"{plain} is not packed: call gzip -n on it")
    return []


def parse_lines(path: Path, text: str) -> list[dict[str, Any]]:
    """JSON lines of a file. Raises ResultsError naming file and line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ResultsError(f"{path}, line {number}: no JSON object") from error
    return found


def unpack(path: Path) -> str:
    """Raises ResultsError naming the file."""
    try:
        return gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ResultsError(f"{path} is not whole: {error}") from error
