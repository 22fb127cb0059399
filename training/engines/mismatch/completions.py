"""What an engine samples and scores, and the JSON lines that carry it from one environment to the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.engines.mismatch.prompts import Prompts


@dataclass(frozen=True)
class Completion:
    """Of prompt `item`. logprobs: natural, per token, by the engine that sampled it; the end token is one of them."""

    item: int
    ids: list[int]
    logprobs: list[float]


class Engine(Protocol):
    name: str

    def sample(self, prompts: Prompts, samples: int, seed: int) -> Iterator[Completion]: ...

    def score(self, prompts: Prompts, completions: Sequence[Completion]) -> Iterator[list[float]]: ...


def write_lines(path: Path, lines: Iterator[dict[str, Any]], total: int) -> None:
    """Appears whole or not at all. total: how many lines there will be, for the progress bar."""
    from tqdm import tqdm

    part = path.with_suffix(path.suffix + ".part")
    with part.open("w") as file:
        for line in tqdm(lines, total=total, desc=path.name, unit="completion"):
            file.write(json.dumps(line) + "\n")
            file.flush()
    part.replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Raises ValueError that names file and line."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return found
