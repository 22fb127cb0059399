"""From a name to a folder of weights: embedded, a local path, or the hub. safetensors only.

Everything that can be known without a model library is checked first, so that a missing, truncated or corrupt file
is a sentence and not a stack trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.core.text import first_line

EMBEDDED = Path(__file__).parents[1] / "weights"
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]


def resolve(
    name: str,
    role: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Path:
    """The folder of a checkpoint. role: "reasoner" or "segmenter". Raises SegzeroError(NOT_READY).

    on_progress: told the share of the files (0 to 1) while they come from the hub.
    """
    if name == "embedded":
        folder = EMBEDDED / role
    elif Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise SegzeroError(Status.NOT_READY, f"there is no folder {name} with a {role}'s weights")
    else:
        folder = _from_hub(name, revision, offline, on_progress)
    check(folder, role)
    return folder


def revision_of(folder: Path, requested: str | None) -> str:
    """The commit that the hub's cache holds in this folder, else what was asked for."""
    return folder.name if folder.parent.name == "snapshots" else requested or ""


def _from_hub(name: str, revision: str | None, offline: bool, on_progress: Callable[[float], None] | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    furthest = 0.0

    class Bar(tqdm):  # type: ignore[type-arg]
        received = 0.0  # tqdm.n is not updated when the bar is disabled

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal furthest
            self.received += n or 0
            if on_progress and self.total:
                furthest = max(furthest, min(1.0, self.received / self.total))
                on_progress(furthest)
            return super().update(n)

    try:
        return Path(
            snapshot_download(
                name, revision=revision, local_files_only=offline, allow_patterns=HUB_FILES, tqdm_class=Bar
            )
        )
    except Exception as error:
        hint = "it is not on this disk and offline is set" if offline else "is the name right, and the network there?"
        raise SegzeroError(
            Status.NOT_READY, f"could not get {name} from the hub ({hint}): {first_line(error)}"
        ) from error


def check(folder: Path, role: str) -> None:
    """Raises SegzeroError(NOT_READY) unless the folder holds a readable configuration and whole safetensors files."""
    config = folder / "config.json"
    if not config.is_file():
        raise SegzeroError(Status.NOT_READY, f"{folder} holds no {role}: config.json is missing")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SegzeroError(Status.NOT_READY, f"{config} is not valid JSON: {error}") from error
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise SegzeroError(
            Status.NOT_READY, f"{folder} holds no {role}: there is no .safetensors file (others are not loaded)"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SegzeroError(Status.NOT_READY, f"{index} is corrupt: {error!r}; fetch it again") from error
        if missing := sorted(wanted - {w.name for w in weights}):
            raise SegzeroError(Status.NOT_READY, f"{folder} lacks {', '.join(missing[:3])}")
    for path in weights:
        _check_weights(path)


def _check_weights(path: Path) -> None:
    """The header of a safetensors file says how long the file is."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, 100_000_000):
                raise ValueError("the header is damaged")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        if 8 + length + max(ends, default=0) != size:
            raise ValueError(f"it has {size} bytes and should have {8 + length + max(ends, default=0)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise SegzeroError(Status.NOT_READY, f"{path} is truncated or corrupt: {error}; fetch it again") from error


def refuse_missing(name: str, keys: Collection[str]) -> None:
    """The library fills weights that a checkpoint lacks with random numbers."""
    if keys:
        some = ", ".join(sorted(keys)[:3])
        raise SegzeroError(Status.NOT_READY, f"{name} lacks {len(keys)} weights of its model, such as {some}")
