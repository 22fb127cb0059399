"""Prepared data sets: the published ones on the Hugging Face hub, or rows that `prepare` wrote.

Training rows (huggingface.co/Ricky06662: refCOCOg_2k_840, refCOCOg_9k_840, VisionReasoner_multi_object_7k_840) hold
boxes and points; evaluation rows (ReasonSeg_val, ReasonSeg_test, refcoco_testA, refcocoplus_val, grefcoco_val_all, ...)
hold masks, and an all-false mask where nothing matches. Which it is, the columns tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data.rows import COLUMNS, MASK_COLUMNS, STAR_MASKS, ignore_of, mask_array, masks_of, read_solution
from training.data.samples import Item, Sample, Source


def load_rows(where: Path | str, split: str | None = None) -> Any:
    """A datasets.Dataset from a folder of `save_to_disk` (what `prepare` writes), a Parquet file or a folder of such,
    or a hub name. split: needed where there are several. Raises ValueError."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    path = Path(where)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        found: Any = load_from_disk(str(path))
    elif path.exists():
        files = (
            [path]
            if path.is_file()
            else sorted(p for p in path.rglob("*.parquet") if not p.parent.name.startswith("."))
        )
        named = [p for p in files if split and p.name.startswith(f"{split}-")]
        if not files:
            raise ValueError(f"{path} holds no data set: no dataset_dict.json, state.json or *.parquet")
        found = load_dataset("parquet", data_files=[str(p) for p in named or files], split="train")
    elif len(path.parts) == 2 and not path.is_absolute():
        found = load_dataset(str(where))
    else:
        raise ValueError(f"{path} is not there")
    if not isinstance(found, DatasetDict):
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split not in found:
        raise ValueError(f"{where} has no split {split!r}; there are {', '.join(found)}")
    return found[split]


def read_rows(where: Path | str, split: str | None = None) -> Source:
    """Samples of training or evaluation rows. Raises ValueError for other columns."""
    data = load_rows(where, split)
    columns = set(data.column_names)
    if set(COLUMNS) <= columns:
        kind, ids, image, read = "rows", list(data["id"]), "id", _training
    elif {"problem", "image", STAR_MASKS} <= columns:
        kind, ids, image, read = "rows", [f"{Path(where).name}_{n}" for n in range(len(data))], "", _training
    elif set(MASK_COLUMNS) <= columns:
        kind, ids, image, read = "mask rows", list(data["ann_id"]), "image_id", _evaluation
    else:
        raise ValueError(f"{where} has the columns {sorted(columns)}; needed are {COLUMNS} or {MASK_COLUMNS}")
    names = [str(v) for v in data[image]] if image else list(ids)
    items = []
    for n, i in enumerate(ids):
        items.append(Item(f"row {n} ({i})", names[n], partial(_at, read, data, n, str(i))))
    return Source(kind, Path(where).name, items)


def join_rows(where: Sequence[Path | str], split: str | None = None) -> Source:
    """Several sets as one, one behind the other; an item's id begins with its set. Raises ValueError."""
    parts = [read_rows(one, split) for one in where]
    items = [replace(item, id=f"{part.file}, {item.id}") for part in parts for item in part.items]
    return Source("joined rows", " + ".join(part.file for part in parts), items)


def _at(read: Any, data: Any, number: int, name: str) -> Sample:
    sample: Sample = read(data[number], name)
    return sample


def _pixels(row: dict[str, Any]) -> np.ndarray:
    if row["image"] is None:
        raise ValueError("it has no image")
    return np.asarray(row["image"].convert("RGB"))


def _training(row: dict[str, Any], name: str) -> Sample:
    pixels = _pixels(row)
    if not row["problem"]:
        raise ValueError("it has no problem")
    height, width = pixels.shape[:2]
    targets = read_solution(row["solution"] or "") if "solution" in row else None  # None: made of the masks
    for target in targets or ():
        x1, y1, x2, y2 = target.box
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
            raise ValueError(f"the box {list(target.box)} is outside of the image of {width} x {height}")
        for x, y in target.points:
            if not (x1 <= x <= x2 and y1 <= y <= y2):
                raise ValueError(f"the point {[x, y]} is outside of its box {list(target.box)}")
    masks = tuple(masks_of(row)) if any(row.get(k) is not None for k in ("masks", STAR_MASKS)) else ()
    if masks and targets is not None and len(masks) != len(targets):
        raise ValueError(f"it has {len(masks)} masks and {len(targets)} boxes")
    size = (row.get("img_height") or height, row.get("img_width") or width)
    return Sample(name, row["problem"], pixels, masks, ignore_of(row), targets=targets, source_size=size)


def _evaluation(row: dict[str, Any], name: str) -> Sample:
    pixels = _pixels(row)
    if not row["text"]:
        raise ValueError("it has no text")
    whole = mask_array(row["mask"])
    size = (row["img_height"], row["img_width"])
    if not pixels.shape[:2] == whole.shape == size:
        raise ValueError(f"image {pixels.shape[:2]}, mask {whole.shape} and img_height, img_width {size} differ")
    masks = tuple(masks_of(row))
    return Sample(name, row["text"], pixels, masks, ignore_of(row), ann_ids=(name,), source_size=size)
