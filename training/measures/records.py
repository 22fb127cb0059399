"""Per-item records on disk: JSON lines, appended and flushed batch by batch, so that a killed run continues.

Beside F.jsonl stands F.settings.json, written first: what the records were made with. A run goes on only with equal
settings, and shards become one file only if theirs are equal but for the shard.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

NOT_ASKED = ("UNREAD", "LEFT_OUT")  # statuses of items that no model saw
Record = dict[str, Any]


class RecordsError(ValueError):
    """Records that do not go together, or are not whole; the message names the file and what differs."""


def settings_path(path: Path) -> Path:
    """Of F.jsonl F.settings.json, of another name all of it and .settings.json."""
    if path.suffix == ".jsonl":
        return path.with_suffix(".settings.json")
    return path.with_name(path.name + ".settings.json")


def shard_path(path: Path, shard: tuple[int, int]) -> Path:
    """out/test.jsonl -> out/test.0-of-4.jsonl for shard (0, 4); the path itself where there is one shard."""
    number, count = shard
    return path if count == 1 else path.with_suffix(f".{number}-of-{count}{path.suffix}")


class RecordFile:
    """Appends records. `done` are those found at the start, by "index".

    Raises RecordsError where the file was made with other settings; restart: it is set aside as F.old-1.jsonl then,
    with its settings, or with the next number that is free.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, restart: bool = False) -> None:
        self.path, self.done = path, dict[int, Record]()
        path.parent.mkdir(parents=True, exist_ok=True)
        if restart and path.exists():
            set_aside(path)
        if path.exists():
            before = _settings(path)
            differing = differences(before, json.loads(json.dumps(settings)))
            if differing:
                raise RecordsError(
                    f"{path} was made with other settings: {'; '.join(differing)}; "
                    "take another file, or --restart to set it aside"
                )
            whole = _drop_torn(path)
            self.done = {r["index"]: r for r in _parse(path, whole)}
        part = settings_path(path).with_suffix(".part")
        part.write_text(json.dumps(settings, indent=1))
        part.replace(settings_path(path))

    def append(self, records: Sequence[Record]) -> None:
        """All at once, and on the disk when this returns."""
        with self.path.open("a") as file:
            file.write("".join(json.dumps(r) + "\n" for r in records))
            file.flush()
            os.fsync(file.fileno())


def in_batches(
    count: int,
    batch: int,
    ask: Callable[[Sequence[int], Sequence[int]], dict[int, Record]],
    *,
    file: RecordFile | None = None,
    shard: tuple[int, int] = (0, 1),
    desc: str = "items",
) -> list[Record]:
    """The records of `count` items, in order; batches whose records `file` holds are not asked again.

    ask(indices, todo): records of a whole batch, of which those of `todo` are kept: a batch that a kill cut in two is
    asked whole. shard: (I, N), every N-th batch from the I-th.
    """
    done = dict(file.done) if file else {}
    starts = [s for n, s in enumerate(range(0, count, batch)) if n % shard[1] == shard[0]]
    for start in tqdm(starts, desc=desc, unit="batch"):
        indices = range(start, min(start + batch, count))
        todo = [i for i in indices if i not in done]
        if not todo:
            continue
        new = ask(indices, todo)
        if file:
            file.append([new[i] for i in todo])
        done |= {i: new[i] for i in todo}
    return [done[i] for i in sorted(done)]


def set_aside(path: Path) -> Path:
    """Renames records and settings, which stay readable together; the new path of the records."""
    aside = next(p for n in itertools.count(1) if not (p := path.with_stem(f"{path.stem}.old-{n}")).exists())
    if settings_path(path).exists():
        settings_path(path).replace(settings_path(aside))
    return path.replace(aside)


def load(paths: Sequence[Path], key: str = "") -> tuple[dict[str, Any], list[Record]]:
    """Settings and records in the order of the data, from one file or from all shards of a run, in any order.

    key: what every record must have whose item was read, since other commands leave other records.
    Raises RecordsError for shards of different runs, items twice, or items missing, and where there is no record.
    """
    found: dict[int, Record] = {}
    settings: dict[str, Any] = {}
    for path in paths:
        if not path.exists():
            raise RecordsError(f"there is no file {path}")
        mine = {k: v for k, v in _settings(path).items() if k != "shard"}
        if settings and (differing := differences(settings, mine)):
            raise RecordsError(f"{path} is of another run than {paths[0]}: {'; '.join(differing)}")
        settings = mine
        for record in _parse(path, path.read_text()):
            if record["index"] in found:
                raise RecordsError(f"{path}: item {record['index']} ({record['id']}) is there twice")
            if key and key not in record and record["status"] not in NOT_ASKED:
                raise RecordsError(f"{path}: item {record['index']} ({record['id']}) has no {key}: another command's")
            found[record["index"]] = record
    if not found:
        raise RecordsError(f"{', '.join(map(str, paths))}: there are no records")
    missing = [n for n in range(settings.get("items", 0)) if n not in found]
    if missing:
        some = ", ".join(map(str, missing[:5]))
        raise RecordsError(f"{len(missing)} of {settings['items']} items are missing, such as {some}: call it again")
    return settings, [found[n] for n in sorted(found)]


def write(path: Path, settings: dict[str, Any], records: Sequence[Record]) -> None:
    """A whole file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in (
        (settings_path(path), json.dumps(settings, indent=1)),
        (path, "".join(json.dumps(r) + "\n" for r in records)),
    ):
        part = target.with_name(target.name + ".part")
        part.write_text(text)
        part.replace(target)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One phrase per setting that is not equal."""
    keys = sorted(before.keys() | now.keys())
    return [f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in keys if before.get(k) != now.get(k)]


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(settings_path(path).read_text())
    except FileNotFoundError as error:
        raise RecordsError(f"{settings_path(path)} is missing: what {path} was made with is not known") from error
    except ValueError as error:
        raise RecordsError(f"{settings_path(path)} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise RecordsError(f"{settings_path(path)} holds no settings")
    return found


def _drop_torn(path: Path) -> str:
    """A kill can leave half a line at the end; it is cut off."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with path.open("r+") as file:
            file.truncate(len(whole.encode()))
    return whole


def _parse(path: Path, text: str) -> list[Record]:
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not (isinstance(record["index"], int) and all(isinstance(record[k], str) for k in ("id", "status"))):
                raise TypeError("index, id and status")
        except (ValueError, KeyError, TypeError) as error:
            torn = number == len(lines) and not text.endswith("\n")
            again = "; it was not written to its end: call what wrote it again" if torn else ""
            raise RecordsError(f"{path}, line {number} is no record ({error!r}){again}") from error
        found.append(record)
    return found
