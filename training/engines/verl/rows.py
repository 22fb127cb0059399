"""A prepared row as verl wants it. Pure: neither torch nor verl.

verl 0.9.1 hands `raw_prompt` to the model's own chat template and `reward_model["ground_truth"]`, `data_source` and
`extra_info` to the reward function (verl/utils/dataset/rl_dataset.py). The published datasets know neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzero_ros.core.prompt import build_prompt
from segzero_ros.profiles import Profile
from training.finetune.prepared import rows_in

COLUMNS = ("id", "problem", "solution", "image", "img_height", "img_width")


def prepared(folder: str) -> Any:
    """The datasets.Dataset in a folder, or of its only split, with the folder's name as `_source`.

    Raises ValueError that names a folder that is none, has several splits or lacks a column.
    """
    rows = rows_in(folder)
    check_columns(rows.column_names, folder)
    return rows.add_column("_source", [Path(folder).name] * len(rows))


def messages(row: Mapping[str, Any], profile: Profile, newline: bool = False) -> list[dict[str, Any]]:
    """The turns, image before text. newline: between the two, as VisionReasoner is trained and not used.

    Content is structured, and not a text with "<image>" in it that verl splits: an instruction may hold that word.
    """
    user = [
        {"type": "image", "image": square_image(row, profile.square)},
        {"type": "text", "text": "\n" * newline + build_prompt(profile, row["problem"], training=True)},
    ]
    system = [{"role": "system", "content": profile.system}] if profile.system else []
    return [*system, {"role": "user", "content": user}]


def verl_row(
    row: Mapping[str, Any], profile: Profile, source: str, index: int, newline: bool = False
) -> dict[str, Any]:
    """What verl's data loader collates, without tensors. source: of the data, for verl's logs."""
    return {
        "data_source": source,
        "raw_prompt": messages(row, profile, newline),
        "reward_model": {"style": "rule", "ground_truth": row["solution"]},
        "extra_info": {
            "index": index,
            "id": row["id"],
            "square": profile.square,
            "img_height": row["img_height"],
            "img_width": row["img_width"],
        },
        "index": index,
        # No tools and no second turn; verl reads both keys from every row.
        "tools_kwargs": {},
        "interaction_kwargs": {},
    }


def check_profile(profile: Profile) -> None:
    """Raises ValueError for a model whose coordinates are not those of prepared rows: every answer would score 0."""
    if profile.coordinates != "pixels":
        raise ValueError(f"profile {profile.name} writes {profile.coordinates}, and prepared rows hold pixels; use TRL")


def check_columns(names: list[str], folder: str) -> None:
    """Raises ValueError that names the folder and what is missing."""
    if missing := [name for name in COLUMNS if name not in names]:
        raise ValueError(f"{folder}: no column {', '.join(missing)}; prepared rows have {', '.join(COLUMNS)}")


def square_image(row: Mapping[str, Any], square: int) -> Image.Image:
    """RGB of (square, square). Raises ValueError that names the row for any other size."""
    image = row["image"]
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.asarray(image, np.uint8))
    if image.size != (square, square):
        raise ValueError(f"row {row['id']}: the image is {image.size[0]} x {image.size[1]}, not {square} x {square}")
    return image.convert("RGB")
