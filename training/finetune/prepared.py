"""Rows on disk, as `segzero-train prepare` leaves them. No image library here: verl's side reads them too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.finetune.settings import ConfigurationError

BLOCKS, BLOCK = 64, 1 << 16


def rows_in(folder: str) -> Any:
    """The datasets.Dataset in a folder, or of its only split. Raises ConfigurationError."""
    import datasets

    if not Path(folder).is_dir():
        raise ConfigurationError(f"data: there is no folder {folder!r}; `segzero-train prepare` makes one")
    try:
        found = datasets.load_from_disk(folder)
    except Exception as error:
        raise ConfigurationError(f"data: {folder} is not readable by datasets.load_from_disk: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) != 1:
            raise ConfigurationError(f"data: {folder} holds {', '.join(found)}; name one of its folders")
        found = next(iter(found.values()))
    return found


def digest(folder: str) -> str:
    """SHA-256 of the texts of a folder's rows; `images_digest` is of their images. Raises ConfigurationError."""
    return _columns_digest(folder, ("id", "problem", "solution", "thought", "completion"))


def masks_digest(folder: str) -> str:
    """SHA-256 of the masks of a folder's rows, which some rewards learn from. Raises ConfigurationError."""
    return _columns_digest(folder, ("masks", "ignore"))


def _columns_digest(folder: str, names: Sequence[str]) -> str:
    rows = rows_in(folder)
    named = [n for n in names if n in rows.column_names]
    whole = hashlib.sha256()
    if not named:
        return whole.hexdigest()
    for row in rows.select_columns(named):
        whole.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return whole.hexdigest()


def images_digest(folder: str) -> str:
    """SHA-256 of the images of a folder's rows, as they are encoded. Raises ConfigurationError, OSError."""
    import datasets

    rows = rows_in(folder)
    whole = hashlib.sha256()
    if "image" in rows.column_names and isinstance(rows.features["image"], datasets.Image):
        for row in rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)):
            image = row["image"] or {}
            data = image.get("bytes") or Path(image.get("path") or "").read_bytes()
            whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 over a checkpoint's weight files: their names and sizes, and BLOCKS pieces of each from its first byte to
    its last. Tens of GB are told apart in a moment; training changes every piece."""
    whole = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        whole.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for n in range(BLOCKS):
                stream.seek(max(0, size - BLOCK) * n // (BLOCKS - 1))
                whole.update(stream.read(BLOCK))
    return whole.hexdigest()
