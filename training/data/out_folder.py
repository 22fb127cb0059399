"""The folder that `prepare` writes: one process at a time, one set of settings, nothing left by a run without a row.

settings.json is what a set was begun with. A set that has rows, finished or not, is protected from other settings;
where there is none yet, the next call begins anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from training.data import store
from training.data.folder_lock import Taken, locked
from training.data.sources import WrongUse

LOCK, PROBLEMS = ".prepare.lock", "problems.jsonl"
UNFINISHED = ("shards", "saving.part", "settings.json", "settings.json.part", "problems.jsonl.part")


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Makes the folder and keeps other processes from it, which would delete each other's rows. Raises WrongUse."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(out, LOCK))
        except Taken as error:
            raise WrongUse(f"another process is preparing rows in {out}: wait for it, or take another --out") from error
        yield


def begin(out: Path, settings: dict[str, str]) -> bool:
    """Whether the set is there already; if not, it is begun or goes on. Raises WrongUse where OUT holds something
    else."""
    path, finished = out / "settings.json", (out / "summary.json").exists()
    if path.exists() and (finished or any((out / "shards").glob("*.arrow"))):
        before = _settings(path)
        differ = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
        if differ:
            changes = ", ".join(
                "the annotations themselves" if k == "annotations" else f"{k} {before.get(k)} -> {settings.get(k)}"
                for k in differ
            )
            raise WrongUse(f"{out} was begun with other settings or data ({changes}): take another --out or remove it")
        return finished
    ours = {LOCK, PROBLEMS, *(UNFINISHED if path.exists() and "annotations" in _settings(path) else ())}
    if {file.name for file in out.iterdir()} - ours:
        raise WrongUse(f"{out} is not empty, and nothing that prepare began")
    abandon(out)
    store.write_text(path, json.dumps(settings, indent=1))
    return False


def abandon(out: Path) -> None:
    """Leaves nothing of a run without rows but what was wrong, so that the folder can be used again."""
    for name in UNFINISHED:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            with suppress(FileNotFoundError):
                path.unlink()


def _settings(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise WrongUse(f"{path} cannot be read ({error}): take another --out or remove it") from error


def digest(ids: Iterable[str]) -> str:
    """Of names in their order."""
    whole = hashlib.sha256()
    for name in ids:
        whole.update(name.encode("utf-8", "replace") + b"\0")
    return whole.hexdigest()[:16]


def contents(*roots: str) -> str:
    """A digest of what is annotated: of a file, or of the files of a folder that are no images. So annotations that
    were mended are not taken for done."""
    whole = hashlib.sha256()
    for root in map(Path, roots):
        files = sorted(f for f in root.rglob("*") if f.suffix.lower() in (".json", ".p")) if root.is_dir() else [root]
        for file in files:
            if file.is_file():
                with file.open("rb") as opened:
                    whole.update(file.name.encode("utf-8", "replace") + hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()[:16]
