"""What a run would take, from the real dimensions on the meta device: nothing is loaded, nothing trained.

Parameters, weights, gradients, optimiser, reference and KV cache are counted; activations, answers' lengths, the rest
of the memory and the hours are estimates and say so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.finetune import configuration
from training.finetune.checks import check_installed, check_out
from training.finetune.configuration import Configuration
from training.finetune.prepared import rows_in
from training.rewards import PROFILES

GB = 1e9
# Published counts (the checkpoints' index files); another one means that a dimension is wrong.
PARAMETERS = {
    "qwen2_vl_2b": 2_208_985_600,
    "qwen2_5_vl_3b": 3_754_622_976,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen3_vl_4b": 4_437_815_808,
}
# Of SAM 2.1 by its authors' table (facebookresearch/sam2): parameters, and frames a second on an A100, compiled.
SEGMENTERS = {
    "facebook/sam2.1-hiera-tiny": (38.9e6, 91.2),
    "facebook/sam2.1-hiera-small": (46.0e6, 84.8),
    "facebook/sam2.1-hiera-base-plus": (80.8e6, 64.1),
    "facebook/sam2.1-hiera-large": (224.4e6, 39.5),
}
# Assumed for the estimates.
ANSWER, PROMPT = 200, 250  # tokens: published thoughts have 62 to 71 words; words of a prompt, without the image
TAUGHT = 60  # tokens of a supervised answer without a thought: coordinates, a digit each
SAM_ANSWER = 0.2  # an answer's masks, in images
SAM_SHARE, SAM_SCRATCH = 0.5, 1.5  # of the authors' frames a second, not compiled; GB of one image's features and masks
TRAINING_SHARE, DECODING_SHARE = 0.2, 0.4  # of the peak arithmetic, of the peak bandwidth
FIXED = 2.0  # GB of CUDA context, buffers and fragments
NF4 = 0.516  # bytes per weight with doubly quantised scales (arXiv 2305.14314)
IMAGES = "images of an update, once per answer"  # TRL keeps them on the GPU until the next update's are there
VALIDATION = "validation, apart (estimate)"  # while nothing else is answered or learnt from
SAM = "SAM in the reward, bf16 (estimate)"
CHUNK = 256  # positions whose logits TRL holds at once


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model: all, of its vision tower, in its language model's linear layers; trained ones."""

    all: int
    vision: int
    linear: int
    trained: int


def meta_model(c: Configuration) -> Any:
    """The real dimensions without weights. Raises ValueError if the count is not the published one."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from segzero_ros.models import checkpoints
    from training.finetune import model as models

    name = c.model.architecture
    file = (
        checkpoints.EMBEDDED / "reasoner" / "config.json"
        if name == "embedded"
        else configuration.architecture_file(name)
    )
    config = AutoConfig.for_model(**json.loads(file.read_text(encoding="utf-8")))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, c.model.dtype))
    model.tie_weights()
    count = sum(p.numel() for p in model.parameters())
    if name in PARAMETERS and count != PARAMETERS[name]:
        raise ValueError(f"{name} has {count:,} parameters and should have {PARAMETERS[name]:,}")
    models.freeze(model, c.model.freeze)
    if c.model.lora:
        from peft import get_peft_model

        model = get_peft_model(model, models.adapters(c.model))
    return model


def sizes(model: Any) -> Sizes:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    named = [(n, p) for n, p in base.named_parameters() if "lora_" not in n]
    linear = sum(p.numel() for n, p in named if "language_model" in n and "proj" in n and p.ndim == 2)
    return Sizes(
        all=sum(p.numel() for _, p in named),
        vision=sum(p.numel() for n, p in named if ".visual." in f".{n}"),
        linear=linear,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def memory(c: Configuration, s: Sizes, config: Any, tokens: int) -> tuple[dict[str, float], dict[str, float]]:
    """GB on one GPU and on the host of one node, by what takes them. tokens: of the image."""
    gpus = max(1, c.hardware.gpus)
    sharded = c.hardware.sharding not in ("none", "ddp")
    offload = c.hardware.sharding.endswith("offload")
    shards = gpus if sharded else 1
    each = 4.0 if c.model.dtype == "float32" else 2.0
    weights = s.all * each
    if c.model.quantise == "nf4":
        weights = s.linear * NF4 + (s.all - s.linear) * 2.0
    text = config.get_text_config()
    states = {
        "weights": weights + (4.0 * s.trained if c.model.lora else 0.0),
        "gradients": 4.0 * s.trained,
        "optimiser (AdamW)": (2.0 if "8bit" in str(c.arguments.get("optim")) else 8.0) * s.trained,
    }
    if c.method == "grpo" and float(c.grpo.get("beta", 0.0)) and not c.model.lora:
        states["reference"] = weights
    gpu: dict[str, float] = {}
    host: dict[str, float] = {}
    for name, size in states.items():
        (host if offload and name != "gradients" else gpu)[name] = size / shards / GB
    if offload:
        host = {name: size * gpus for name, size in host.items()}
    layer = (s.all - s.vision) / (text.num_hidden_layers + 1) * 2
    if sharded:
        gpu["layers gathered, bf16 (estimate)"] = 3 * layer / GB
    if c.hardware.sharding.startswith("fsdp"):
        if "reference" in states:  # TRL shards it as one unit
            gpu["reference gathered, bf16 (estimate)"] = s.all * 2 / GB
        # fsdp_cpu_ram_efficient_loading is off, so every process reads all of it.
        host["while loading"] = gpus * (weights + states.get("reference", 0.0)) / GB
    # With checkpointing a layer keeps its input; one layer at a time keeps some 16 of its width, and its scores' rows.
    length = tokens + PROMPT + (c.completion if c.method == "grpo" else answer_tokens(c))
    size = 2 if c.arguments.get("bf16", True) else 4
    kept = c.batch.micro * length * text.hidden_size * size
    inner = kept * (16 + 3 * text.intermediate_size / text.hidden_size)
    vision = config.vision_config
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    patches = c.batch.micro * tokens * vision.spatial_merge_size**2 * width * size
    many = text.num_hidden_layers if c.arguments.get("gradient_checkpointing", True) else text.num_hidden_layers * 16
    gpu["activations (estimate)"] = (kept * many + inner + patches * (vision.depth + 20)) / GB
    # Supervised too: TRL's fused head tiles the logits.
    gpu["logits, tiled (estimate)"] = 3 * CHUNK * text.vocab_size * 4 / GB
    if c.method == "grpo":
        gpu[IMAGES] = c.samples / gpus * pixel_bytes(config, tokens) / GB
        gpu |= rollout_memory(c, config, tokens)
    size = 2 if c.arguments.get("bf16", True) else 4
    if c.data.validation or (c.method == "grpo" and c.watch.spread_prompts):
        gpu[VALIDATION] = c.batch.evaluation * answering_bytes(c, config, tokens, size) / GB
    if c.hardware.gpus and (found := segmenter(c)):
        gpu[SAM] = found[0] * 2 / GB + SAM_SCRATCH  # bf16, beside the model, in every process
    gpu["fixed (estimate)"] = FIXED if c.hardware.gpus else 0.3
    return gpu, host


def disk(c: Configuration, s: Sizes) -> tuple[float, float]:
    """GB of a checkpoint and of all of them at their most: a new one is written before an old one goes, and the best
    one stays. Under FSDP the weights stand in it twice, as safetensors and in the optimiser's form."""
    weights = 4 * s.trained if c.model.lora else (4 if c.model.dtype == "float32" else 2) * s.all
    states = (2.0 if "8bit" in str(c.arguments.get("optim")) else 8.0) * s.trained
    each = (weights * (2 if c.hardware.sharding.startswith("fsdp") else 1) + states) / GB
    limit = c.arguments.get("save_total_limit")
    updates = updates_of(c) // c.save_every
    return each, each * max(1, min(updates, int(limit) + 2) if limit else updates)


def answer_tokens(c: Configuration) -> int:
    """Of an answer as a rule, not at most: sampled, or taught with or without a thought."""
    return min(ANSWER if c.method == "grpo" or c.data.thought else TAUGHT, c.completion)


def segmenter(c: Configuration) -> tuple[float, float] | None:
    """Parameters and frames a second of the segmenter in the reward, if there is one whose size is known."""
    scored = c.method == "grpo" or bool(c.data.validation)
    return SEGMENTERS.get(c.reward.segmenter or "") if scored and PROFILES[c.reward.profile].needs_masks else None


def kv_bytes(config: Any, size: int = 2) -> int:
    """Of one token's keys and values in all layers."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head * size)


def vllm_share(c: Configuration) -> float:
    """GB of one GPU that vLLM beside the trainer takes: weights and KV cache."""
    return float(c.grpo.get("vllm_gpu_memory_utilization", 0.3)) * c.hardware.memory


def rollout_memory(c: Configuration, config: Any, tokens: int) -> dict[str, float]:
    if c.rollout == "vllm-server":
        return {}
    if c.rollout == "vllm-colocate":
        asleep = c.grpo.get("vllm_enable_sleep_mode", False)
        return {} if asleep else {"vLLM's share": vllm_share(c)}
    at_once = answers_at_once(c)
    size = 2 if c.arguments.get("bf16", True) else 4
    found = {
        f"KV cache, {at_once:.0f} answers at once": at_once
        * (tokens + PROMPT + c.completion)
        * kv_bytes(config, size)
        / GB
    }
    if c.engine == "stock":
        found["their images and prompts, going in (estimate)"] = at_once * prompt_bytes(c, config, tokens, size) / GB
    return found


def answers_at_once(c: Configuration) -> float:
    """Of one GPU, where transformers answers: all of an update, as TRL does, or fewer."""
    all_of_them = c.samples / max(1, c.hardware.gpus)
    return min(all_of_them, c.batch.rollout) if c.batch.rollout else all_of_them


def answering_bytes(c: Configuration, config: Any, tokens: int, size: int) -> float:
    """Of one answer by transformers: its image and prompt going in, and its keys and values."""
    return prompt_bytes(c, config, tokens, size) + (tokens + PROMPT + c.completion) * kv_bytes(config, size)


def prompt_bytes(c: Configuration, config: Any, tokens: int, size: int) -> float:
    """Of one image and prompt when they go in: pixels, and the greater of what a layer holds in the tower or in the
    language model. Outside of autocast float32 adapters compute in float32."""
    text, vision = config.get_text_config(), config.vision_config
    patches = tokens * vision.spatial_merge_size**2
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    tower = patches * size * (6 * width + 3 * inner)
    layer = (tokens + PROMPT) * size * (6 * text.hidden_size + 3 * text.intermediate_size)
    if c.model.lora:
        layer += (tokens + PROMPT) * 8 * text.intermediate_size  # an adapter's output, and its sum with the layer's
    return float(pixel_bytes(config, tokens) + max(tower, layer))


def pixel_bytes(config: Any, tokens: int) -> int:
    """Of one image as the model takes it, float32."""
    vision = config.vision_config
    return int(tokens * vision.spatial_merge_size**2 * 3 * vision.temporal_patch_size * vision.patch_size**2 * 4)


def hours(c: Configuration, s: Sizes, config: Any, tokens: int, updates: int) -> dict[str, float]:
    """Estimates by part, from the peak arithmetic and bandwidth and assumed shares of them."""
    gpus = max(1, c.hardware.gpus)
    speed = gpus * c.hardware.tflops * 1e12 * TRAINING_SHARE
    text = s.all - s.vision
    vision_tokens = tokens * config.vision_config.spatial_merge_size**2
    answer = answer_tokens(c)
    forward = 2 * (text * (tokens + PROMPT + answer) + s.vision * vision_tokens)
    checkpointed = bool(c.arguments.get("gradient_checkpointing", True))
    # Weights' gradients only where they are trained; the error still goes back through all.
    backward = (2 if not c.model.lora else 1) + (1 if checkpointed else 0)
    parts = {"forward and backward": c.learnt * forward * (1 + backward) / speed * updates}
    if c.method == "grpo":
        if float(c.grpo.get("beta", 0.0)):
            parts["reference"] = c.samples * forward / speed * updates
        size = 2.0 if c.model.quantise == "none" else 1.3  # 4 bits are read and unpacked
        reading = size * text * answer  # every token reads all weights once for all answers of a GPU
        cache = c.samples / gpus * (tokens + PROMPT + answer / 2) * kv_bytes(config) * answer
        bandwidth = c.hardware.bandwidth * 1e9 * DECODING_SHARE
        slow = 1.0 if c.rollout != "transformers" else 2.5  # the library's loop
        calls = 1.0
        if c.rollout == "transformers":  # each reads all weights again
            calls = -(-c.samples // gpus // answers_at_once(c))
        parts["answers"] = ((calls * reading + cache) / bandwidth * slow + c.samples * forward / speed / 3) * updates
        if found := segmenter(c):
            images = c.batch.prompts + SAM_ANSWER * c.samples  # read once per prompt, asked for every answer
            parts["reward"] = images / gpus / (found[1] * SAM_SHARE * c.hardware.tflops / 312) * updates
    if rows := validated(c):
        # By the library's loop, whatever answers in training; sharded weights are gathered for every token.
        calls = -(-rows // (gpus * c.batch.evaluation)) * (updates // c.save_every)
        size = 2.0 if c.model.quantise == "none" else 1.3
        slow = 2.5 if c.hardware.sharding in ("none", "ddp") else 5.0
        parts["validation"] = calls * size * text * answer / (c.hardware.bandwidth * 1e9 * DECODING_SHARE) * slow
    return {name: seconds / 3600 for name, seconds in parts.items()}


def check(c: Configuration) -> None:
    """What training would refuse that needs no GPU and no weights: TRL's names and values, and rows that are there.
    Raises ValueError."""
    from training.finetune import grpo, sft

    there = {k: v for k, v in c.trl.items() if k not in ("bf16", "tf32", "ddp_backend")}
    here = replace(c, rollout="transformers", trl={**there, "use_cpu": True, "bf16": False})
    (grpo.arguments if c.method == "grpo" else sft.arguments)(here)
    if Path(c.data.train).is_dir():
        rows = grpo.load_rows(c)
        if c.method == "sft":
            sft.check_taught(c, rows)
    if c.data.validation and Path(c.data.validation).is_dir():
        grpo.load_rows(c, validation=True)


def rows_of(c: Configuration) -> int:
    """Rows of the data: counted where they are, else by the number in the folder's name (2k, 9k, 7k), else by
    data.rows, else 0."""
    folder = Path(c.data.train)
    numbers = [1000 * int(p[:-1]) for p in folder.name.split("_") if p.endswith("k") and p[:-1].isdigit()]
    count = len(rows_in(str(folder))) if folder.is_dir() else (numbers or [c.data.rows])[0]
    return min(count, c.data.rows) if c.data.rows else count


def validated(c: Configuration) -> int:
    """Rows of every validation: 0 of data.validation_rows means all, where they are there to be counted."""
    folder, rows = Path(c.data.validation), c.data.validation_rows
    count = len(rows_in(str(folder))) if c.data.validation and folder.is_dir() else rows
    return (min(rows, count) if rows else count) if c.data.validation else 0


def together(c: Configuration, gpu: dict[str, float]) -> dict[str, float]:
    """GB of one GPU, by phase: all of it and, where vLLM sleeps in the meantime, what is there while it answers."""
    validation = gpu.get(VALIDATION, 0.0)
    learning = sum(gpu.values()) - validation
    found = {"together (estimate)": learning}
    if validation:
        learning_alone = ("activations (estimate)", "logits, tiled (estimate)", "gradients")
        answers = sum(size for name, size in gpu.items() if name.startswith(("KV cache", "their images")))
        found["together while it validates (estimate)"] = (
            learning + validation - answers - sum(gpu[k] for k in learning_alone)
        )
    if c.method == "grpo" and c.rollout == "vllm-colocate" and c.grpo.get("vllm_enable_sleep_mode"):
        there = ("weights", "optimiser (AdamW)", IMAGES, SAM, "fixed (estimate)")
        awake = sum(gpu[k] for k in there if k in gpu) + vllm_share(c)
        found["together while vLLM is awake (estimate)"] = awake
    return found


def _verdict(size: float, c: Configuration) -> str:
    return f"{'fits' if size <= c.hardware.memory else 'does NOT fit'} in {c.hardware.memory:g}"


def updates_of(c: Configuration) -> int:
    """Of the whole run; 0 where the number of rows is not known."""
    return c.updates(rows_of(c))


def report(c: Configuration) -> str:
    """For the terminal. Raises ValueError where the numbers do not fit together, or training would refuse."""
    from training.finetune import model as models

    check_installed(c)
    check_out(c)
    check(c)
    model = meta_model(c)
    s = sizes(model)
    config = model.config
    tokens = models.image_tokens(c, config)
    accumulation = c.accumulation(max(1, c.hardware.gpus))
    rows = rows_of(c)
    updates = updates_of(c)
    length = tokens + PROMPT + (c.completion if c.method == "grpo" else answer_tokens(c))
    there = "" if Path(c.data.train).is_dir() else " (not there yet)"
    many = f"{updates * c.samples * length / 1e6:,.0f} M tokens"
    answers = f"{c.samples} sequences" + (f" ({c.kept} of each learnt from)" if c.kept < c.generations else "")
    lines = [
        f"{c.name}: {c.method.upper()}, for {c.answers}",
        f"model       {c.model.path}: {s.all:,} parameters ({s.vision:,} vision), {s.trained:,} trained"
        + (", count as published" if c.model.architecture in PARAMETERS else ""),
        f"image       {c.data.square} pixels: {tokens} tokens",
        f"update      {c.batch.prompts} prompts x {c.generations} = {answers} = {max(1, c.hardware.gpus)} "
        f"process{'es' * (c.hardware.gpus > 1)} x micro {c.batch.micro} x accumulation {accumulation}",
        f"data        {rows or 'unknown number of'} rows{there}, {updates} updates, "
        + (f"at most {many}" if c.method == "grpo" else f"some {many} (estimate)"),
    ]
    gpu, host = memory(c, s, config, tokens)
    rollout = f", rollout {c.rollout}" if c.method == "grpo" else ""
    lines.append(f"memory      of one GPU, sharding {c.hardware.sharding}{rollout}, GB")
    lines += [f"  {name:46} {size:8.2f}" for name, size in gpu.items()]
    lines += [f"  {name:46} {size:8.2f}   {_verdict(size, c)}" for name, size in together(c, gpu).items()]
    if PROFILES[c.reward.profile].needs_masks and segmenter(c) is None:
        lines.append(f"segmenter   {c.reward.segmenter} is not counted: its size is not known here")
    if host:
        lines.append("host        of one node, GB")
        lines += [f"  {name:46} {size:8.2f}" for name, size in host.items()]
    if updates:
        each, most = disk(c, s)
        lines.append(f"disk        {each:.1f} GB a checkpoint, at most {most:.1f} at once (estimate)")
        parts = hours(c, s, config, tokens, updates)
        lines.append(
            f"hours       estimate: {sum(parts.values()):.1f} = "
            + " + ".join(f"{value:.1f} {name}" for name, value in parts.items())
            + f" (answers of {answer_tokens(c)} tokens, {TRAINING_SHARE:.0%} of {c.hardware.tflops:g} Tflop/s)"
        )
    return "\n".join(lines)
