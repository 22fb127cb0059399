"""What a server reads beside weights and tokenizer: how it is to cut images into patches, and the chat's format."""

from __future__ import annotations

import json
from pathlib import Path

from training.finetune.model import CHAT, MIN_PIXELS, NORMS

_CLASSES = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}


def write_processor_files(folder: Path, square: int) -> None:
    """preprocessor_config.json, video_preprocessor_config.json and chat_template.jinja beside a folder's config.json.

    A picture of square x square pixels is not resized: the limits are at or around its pixels. It is the upper one too,
    since the model knows no larger picture and servers set memory aside for the largest that they are told of.
    Raises ValueError for a square that is no multiple of the model's cell, which a server would resize.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision, kind = config["vision_config"], config["model_type"]
    merge = vision.get("spatial_merge_size", 2)
    if square % (vision["patch_size"] * merge):
        raise ValueError(f"a square of {square} pixels is no multiple of {vision['patch_size'] * merge}")
    mean, std = NORMS[kind]
    low, high = min(MIN_PIXELS, square**2), square**2
    image = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": _CLASSES[kind],
        "patch_size": vision["patch_size"],
        "merge_size": merge,
        "temporal_patch_size": vision.get("temporal_patch_size", 2),
        "min_pixels": low,
        "max_pixels": high,
        "size": {"shortest_edge": low, "longest_edge": high},
        "image_mean": mean,
        "image_std": std,
    }
    video = {k: v for k, v in image.items() if k != "image_processor_type"}
    video["video_processor_type"] = "Qwen3VLVideoProcessor" if kind == "qwen3_vl" else "Qwen2VLVideoProcessor"
    for name, content in (("preprocessor_config.json", image), ("video_preprocessor_config.json", video)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
