"""Rows on disk, as `segzero-train prepare` leaves them. No image library here: verl's side reads them too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from training.finetune.configuration import ConfigurationError


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
    """SHA-256 of the texts of a folder's rows; images are taken by their rows' ids. Raises ConfigurationError."""
    rows = rows_in(folder)
    named = [n for n in ("id", "problem", "solution", "thought", "completion") if n in rows.column_names]
    whole = hashlib.sha256()
    for row in rows.select_columns(named):
        whole.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return whole.hexdigest()
