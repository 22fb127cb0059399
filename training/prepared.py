"""Rows on disk, as `segzero-train prepare` leaves them. No image library here: verl's side reads them too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.configuration import ConfigurationError


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
