"""Any configuration, small enough for two updates on a CPU in seconds: the same recipe and rows, a tiny random model of
the same class, a small square; made-up rows where the configuration's are not there. It tells whether code and rows
run, and nothing about learning."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.finetune.configuration import Batch, Configuration, architecture_file, differences, plain
from training.rewards import PROFILES

ROWS, PROMPTS, GENERATIONS, TOKENS = 4, 2, 2, 6
THOUGHT = "It stands out from the dark."
SQUARE = 64  # the processor enlarges anything below 56 x 56
# Of the language model and the vision tower.
HIDDEN, LAYERS, HEADS = 32, 2, 2


def shrunk(c: Configuration, folder: Path) -> tuple[Configuration, list[str]]:
    """The small configuration, with its model and rows below folder, and a line for all that was replaced."""
    cell = make_model(c.model.architecture, folder / "model")
    square = -(-56 // cell) * cell
    own, validated = Path(c.data.train).is_dir(), Path(c.data.validation).is_dir()
    if not own or (c.data.validation and not validated):
        make_rows(c, folder / "rows", square)
    trl = {**c.trl, "bf16": False, "gradient_checkpointing": False, "use_cpu": True}
    trl |= {"max_steps": 2, "logging_steps": 1, "disable_tqdm": True}
    if c.arguments.get("warmup_steps", 0) > 2:
        trl["warmup_steps"] = 2
    for key in ("gradient_checkpointing_kwargs", "optim", "use_liger_kernel"):
        trl.pop(key, None)
    model = replace(c.model, path=str(folder / "model"), revision=None, dtype="float32", attention="sdpa")
    data = replace(
        c.data,
        train=c.data.train if own else str(folder / "rows"),
        validation=c.data.validation if validated or not c.data.validation else str(folder / "rows"),
        square=square,
        rows=c.data.rows if own else 0,
        validation_rows=2,
    )
    keep = min(GENERATIONS, c.batch.keep)  # then of twice as many
    needs_masks = PROFILES[c.reward.profile].needs_masks
    small = replace(
        c,
        model=replace(model, quantise="none"),
        reward=replace(c.reward, segmenter="embedded") if needs_masks else c.reward,
        data=data,
        batch=Batch(prompts=PROMPTS, micro=2, evaluation=2, rollout=min(2, c.batch.rollout), keep=keep),
        rollout="transformers",
        hardware=replace(c.hardware, sharding="none"),
        watch=replace(c.watch, spread_prompts=min(c.watch.spread_prompts, 1)),
        out=str(folder / "run"),
        save_every=1,
        samples_every=1,
        wandb=False,
        trl=trl,
        grpo={**c.grpo, "num_generations": GENERATIONS + keep, "max_completion_length": TOKENS},
    )
    return small, told(c, small)


def told(c: Configuration, small: Configuration) -> list[str]:
    """A line for the model and for the rows, and one for every setting that differs."""
    before, after = plain(c), plain(small)
    return [
        f"model of {c.model.architecture}: a random one of its class, {LAYERS} layers, {HIDDEN} wide, the embedded "
        "model's tokenizer",
        f"rows: {_rows(c.data.train, small.data.train)}"
        + (f"; to validate on: {_rows(c.data.validation, small.data.validation)}" if c.data.validation else ""),
        *(f"{key}: {_value(before, key)} -> {_value(after, key)}" for key in differences(before, after)),
    ]


def _rows(wanted: str, taken: str) -> str:
    return f"{wanted}, as they are there" if wanted == taken else f"{ROWS} made-up ones, since {wanted} is not there"


def _value(settings: dict[str, Any], key: str) -> str:
    """Of a dotted key, as YAML would have it; one that is not there is TRL's default."""
    found: Any = settings
    for part in key.split("."):
        if part not in found:
            return "(default)"
        found = found[part]
    return json.dumps(found)


def make_model(architecture: str, folder: Path) -> int:
    """A tiny random model of the architecture's class with the embedded model's tokenizer. Returns its cell, pixels."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    from segzero_ros.models import checkpoints

    embedded = checkpoints.EMBEDDED / "reasoner"
    file = embedded / "config.json" if architecture == "embedded" else architecture_file(architecture)
    tokenizer: Any = AutoTokenizer.from_pretrained(embedded, local_files_only=True)
    config = AutoConfig.for_model(**tiny(json.loads(file.read_text(encoding="utf-8")), tokenizer))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vision = config.vision_config
    return int(vision.patch_size * vision.spatial_merge_size)


def tiny(config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The configuration with few and narrow layers and the tokenizer's tokens; patches as they are."""
    ids = tokenizer.convert_tokens_to_ids
    rope = {**config["text_config"]["rope_parameters"], "mrope_section": [2, 3, 3]}
    text = {
        **config["text_config"],
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": min(HEADS, config["text_config"]["num_key_value_heads"]),
        "head_dim": HIDDEN // HEADS,
        "layer_types": ["full_attention"] * LAYERS,
        "vocab_size": len(tokenizer),
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if config["model_type"] != "qwen3_vl":
        text.pop("head_dim")
    vision = {**config["vision_config"], "depth": LAYERS, "num_heads": HEADS, "hidden_size": HIDDEN}
    if "embed_dim" in vision:  # Qwen2-VL: hidden_size is the language model's
        vision |= {"embed_dim": HIDDEN, "mlp_ratio": 2}
    else:
        vision |= {"intermediate_size": 2 * HIDDEN, "out_hidden_size": HIDDEN}
    if "fullatt_block_indexes" in vision:
        vision["fullatt_block_indexes"] = [LAYERS - 1]
    if "deepstack_visual_indexes" in vision:
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    return {
        **{k: v for k, v in config.items() if k in ("model_type", "tie_word_embeddings")},
        "text_config": text,
        "vision_config": vision,
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def make_rows(c: Configuration, folder: Path, square: int) -> None:
    """Squares with a rectangle each, by the code that makes rows of real images, and a thought beside each."""
    import datasets
    import numpy as np

    from training.data.rows import features, row
    from training.data.samples import Sample

    rng = np.random.default_rng(0)
    rows = []
    for n in range(ROWS):
        x, y = (int(v) for v in rng.integers(0, square // 2, 2))
        mask = np.zeros((square, square), bool)
        mask[y : y + square // 4, x : x + square // 3] = True
        pixels = np.where(mask[..., None], rng.integers(64, 256, 3), 0).astype(np.uint8)
        rows.append(row(Sample(f"made-up-{n}", "the rectangle", pixels, (mask,)), square, c.data.answer))
    datasets.disable_progress_bars()
    found = datasets.Dataset.from_list(rows, features=features(c.data.answer, extra=True))
    found.add_column("thought", [THOUGHT] * ROWS).save_to_disk(str(folder))
