"""Rows on disk: shards as they come, then one data set, and the hashes by which two sets are compared.

While it grows, OUT/shards holds NNNNN.arrow (rows) and NNNNN.json (problems, hashes), each renamed into place and the
.json last: a shard is whole or absent, and a killed run continues behind the last whole one. When all are there, OUT is
what `datasets.load_from_disk` opens, beside problems.jsonl, hashes.jsonl, page.png and, last, summary.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.samples import Problem

LOOK = 16  # the difference hash compares this many neighbours in this many rows: 256 bits


@dataclass(frozen=True)
class Fingerprint:
    """An image's hashes. source, image: SHA-256 of the RGB pixels as annotated and as written; look: a difference hash
    (hexadecimal) that survives another size or compression."""

    id: str
    source: str
    image: str
    look: str


@dataclass(frozen=True)
class Shard:
    """What became of some items. rows: with all columns of their form, images as PNG."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    hashes: list[Fingerprint] = field(default_factory=list)


def fingerprint(name: str, source: NDArray[np.uint8], image: NDArray[np.uint8]) -> Fingerprint:
    """source, image: RGB uint8 (H, W, 3)."""
    grey = cv2.cvtColor(cv2.resize(image, (LOOK + 1, LOOK), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    look = np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()
    return Fingerprint(name, pixel_hash(source), pixel_hash(image), look)


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """SHA-256 of an image's size and pixels: the same for equal pixels in whatever file."""
    return hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def png(image: NDArray[np.uint8]) -> dict[str, Any]:
    """RGB uint8 (H, W, 3) as datasets.Image keeps it."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise ValueError("the image cannot be written as PNG")
    return {"bytes": data.tobytes(), "path": None}


def write_text(path: Path, text: str) -> None:
    """All of it or nothing."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def jsonl(records: Iterable[Any]) -> str:
    """Dataclasses, one a line. To be read line by line: `splitlines` would also cut at separators in their texts. Half
    a character, which UTF-8 cannot hold, is escaped."""
    lines = (json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in records)
    return "".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


class Shards:
    """The shards of one run, in order."""

    def __init__(self, out: Path, form: str) -> None:
        self.out, self.form, self.folder = out, form, out / "shards"
        self.folder.mkdir(parents=True, exist_ok=True)

    def done(self, number: int) -> bool:
        return (self.folder / f"{number:05d}.json").exists()

    def write(self, number: int, shard: Shard) -> None:
        from datasets.arrow_writer import ArrowWriter

        from training.data.rows import features

        if shard.rows:
            part = self.folder / f"{number:05d}.arrow.part"
            writer: Any = ArrowWriter(features=features(self.form, extra=True), path=str(part))
            for row in shard.rows:
                writer.write(row)
            writer.finalize()
            part.replace(self.folder / f"{number:05d}.arrow")
        about = {"problems": [asdict(p) for p in shard.problems], "hashes": [asdict(h) for h in shard.hashes]}
        write_text(self.folder / f"{number:05d}.json", json.dumps(about))

    def about(self, number: int) -> tuple[list[Problem], list[Fingerprint]]:
        data = json.loads((self.folder / f"{number:05d}.json").read_text())
        return [Problem(**p) for p in data["problems"]], [Fingerprint(**h) for h in data["hashes"]]

    def dataset(self) -> Any:
        """A datasets.Dataset of all rows with all columns, memory-mapped; None where there is no row."""
        from datasets import Dataset, concatenate_datasets

        parts = []
        for file in sorted(self.folder.glob("*.arrow")):
            try:
                parts.append(Dataset.from_file(str(file)))
            except ValueError as error:  # pyarrow's
                raise OSError(f"{file} is damaged ({error}): remove it and {file.stem}.json, and call again") from error
        return concatenate_datasets(parts) if parts else None

    def finish(self, data: Any, split: str, extra: bool) -> None:
        """Makes OUT a DatasetDict of one split. extra: keeps `masks` and `ignore`; the form "mask" has `ignore` always,
        since its rows are scored by their pixels."""
        from datasets import DatasetDict

        saving = self.out / "saving.part"
        shutil.rmtree(saving, ignore_errors=True)
        dropped = () if extra else ("masks",) if self.form == "mask" else ("masks", "ignore")
        DatasetDict({split: data.remove_columns(list(dropped))}).save_to_disk(str(saving))
        shutil.rmtree(self.out / split, ignore_errors=True)
        (saving / split).replace(self.out / split)
        (saving / "dataset_dict.json").replace(self.out / "dataset_dict.json")
        shutil.rmtree(saving)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def hashes_of(where: Path | str, split: str | None = None) -> list[Fingerprint]:
    """A prepared set's hashes; of a set without hashes.jsonl (a published one) the images', computed now."""
    listed = Path(where) / "hashes.jsonl"
    if listed.exists():
        with listed.open(encoding="utf-8") as file:
            return [Fingerprint(**json.loads(line)) for line in file]
    from training.data.readers.published import load_rows

    data = load_rows(where, split)
    name = "id" if "id" in data.column_names else "image_id"
    return [
        fingerprint(str(row[name]), pixels, pixels)
        for row in data
        for pixels in [np.asarray(row["image"].convert("RGB"))]
    ]


def overlap(
    a: Path | str | Sequence[Fingerprint], b: Path | str | Sequence[Fingerprint], bits: int = 0
) -> list[tuple[str, str]]:
    """Pairs (id in a, id in b) of rows over the same image: the first in b for each in a.

    a, b: prepared sets, or their hashes. Two images are the same if source's or row's pixels are equal; with bits > 0
    also if their difference hashes differ in at most so many of 256 (other sizes, other compression; look at what it
    finds: pictures of one still camera are alike too).
    """
    ours, theirs = (hashes_of(x) if isinstance(x, (str, Path)) else list(x) for x in (a, b))
    known = Known(theirs, bits)
    return [(h.id, found) for h in ours if (found := known.find(h)) is not None]


class Known:
    """A set's hashes, to ask for an image."""

    def __init__(self, hashes: Sequence[Fingerprint], bits: int = 0) -> None:
        self.bits, self.ids = bits, [h.id for h in hashes]
        self.exact: dict[str, str] = {}
        for h in hashes:
            self.exact.setdefault(h.source, h.id)
            self.exact.setdefault(h.image, h.id)
        looks = [np.frombuffer(bytes.fromhex(h.look), np.uint8) for h in hashes]
        self.looks = np.stack(looks) if looks and bits else np.zeros((0, LOOK * LOOK // 8), np.uint8)

    def find(self, one: Fingerprint) -> str | None:
        """The id of a row over the same image."""
        found = self.exact.get(one.source) or self.exact.get(one.image)
        if found is not None or not len(self.looks):
            return found
        apart = np.bitwise_count(self.looks ^ np.frombuffer(bytes.fromhex(one.look), np.uint8)).sum(1)
        nearest = int(apart.argmin())
        return self.ids[nearest] if apart[nearest] <= self.bits else None
