"""A LoRA adapter merged into its base: PEFT's own merge, refused unless every weight of the adapter was taken."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from segzero_ros.core.contract import SegzeroError, Status
from segzero_ros.models import checkpoints

MAX_RANK = 4096
MAX_ALPHA = 1e6
PLAIN_STARTS = ("gaussian", "eva", "orthogonal")  # ways to begin a training that leave the base as it is
PREFIX = "base_model.model."  # PEFT's, before the name in the base


def merge_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter's update added to its weights. Raises SegzeroError(NOT_READY).

    folder: adapter_config.json and adapter_model.safetensors as PEFT writes them. Names of before transformers 4.52
    (`model.layers` for `model.language_model.layers`, `visual` for `model.visual`) are taken, too.
    """
    try:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise _refused(f"{folder} is a LoRA adapter, and the library peft is missing (pip install peft)") from error
    settings = checkpoints.read_json(folder / "adapter_config.json", "a LoRA adapter")
    stored = {_renamed(model, key): tensor for key, tensor in load_file(folder / "adapter_model.safetensors").items()}
    config = _config(LoraConfig, folder, settings, stored)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # target modules that the base does not have
        raise _refused(f"{folder} does not fit its base: {str(error).splitlines()[0][:200]}") from error
    wanted = {key.replace(".default.", ".") for key in adapted.state_dict() if ".lora_" in key}
    if wanted != set(stored):
        odd = sorted(wanted ^ set(stored))
        raise _refused(
            f"{folder} does not fit its base: {len(odd)} of its weights or of the base's places have no partner, such"
            f" as {odd[0][:120]}"
        )
    try:
        set_peft_model_state_dict(adapted, stored)
    except RuntimeError as error:  # shapes
        raise _refused(f"{folder} does not fit its base: {str(error).splitlines()[-1].strip()[:200]}") from error
    merged = adapted.merge_and_unload()
    merged.requires_grad_(False)
    return merged


def _config(kind: Any, folder: Path, settings: dict[str, Any], stored: Collection[str]) -> Any:
    """Only what a merge depends on is read. Which modules are meant, the weights say themselves: target_modules may be
    a regular expression, and a stranger's can take for ever."""
    if settings.get("peft_type") != "LORA":
        raise _refused(f"{folder} is a {str(settings.get('peft_type'))[:40]} adapter; LoRA is merged")
    more = (
        *("modules_to_save", "trainable_token_indices", "layer_replication", "rank_pattern", "alpha_pattern"),
        *("alora_invocation_tokens", "lora_bias", "megatron_config", "use_dora", "use_qalora"),
    )
    for key in more:
        if settings.get(key):
            raise _refused(f"{folder} uses {key}, which is not read here; merge it where it was trained")
    if settings.get("init_lora_weights", True) not in (*PLAIN_STARTS, True, False, None):
        raise _refused(f"{folder} was begun by {str(settings['init_lora_weights'])[:40]}, which changes its base, too")
    if settings.get("bias", "none") != "none":
        raise _refused(f"{folder} trains biases, too; merge it where it was trained")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if (
        type(rank) is not int
        or not 0 < rank <= MAX_RANK
        or not isinstance(alpha, (int, float))
        or not 0 < alpha < MAX_ALPHA
    ):
        raise _refused(f"{folder}/adapter_config.json: r and lora_alpha must be positive numbers, r up to {MAX_RANK}")
    targets = sorted({key.removeprefix(PREFIX).partition(".lora_")[0] for key in stored if ".lora_" in key})
    if not targets:
        raise _refused(f"{folder} holds no LoRA weights")
    return kind(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        lora_dropout=0.0,
        use_rslora=settings.get("use_rslora") is True,
        inference_mode=True,
    )


def _renamed(model: Any, key: str) -> str:
    """A key as the model of today has it."""
    if not key.startswith(PREFIX):
        return key
    inner = key.removeprefix(PREFIX)
    if not hasattr(getattr(model, "model", None), "language_model"):
        return key
    for old, new in (("visual.", "model.visual."), ("model.layers.", "model.language_model.layers.")):
        if inner.startswith(old):
            return f"{PREFIX}{new}{inner.removeprefix(old)}"
    return key


def _refused(sentence: str) -> SegzeroError:
    return SegzeroError(Status.NOT_READY, sentence)
