"""What a configuration must not say: refused before anything is loaded, with every wrong key named."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segzero_ros.core.prompt import TEMPLATES
from training.finetune.settings import ARCHITECTURES, Configuration, ConfigurationError, Model, architecture_file
from training.rewards import PROFILES

# What the recipes derive from the fields below; twice said is twice wrong.
DERIVED = frozenset(
    {
        "output_dir",
        "run_name",
        "seed",
        "data_seed",
        "use_vllm",
        "vllm_mode",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "generation_batch_size",
        "steps_per_generation",
        "reward_weights",
        "report_to",
        "logging_nan_inf_filter",
        "remove_unused_columns",
        "eval_strategy",
        "eval_steps",
        "save_strategy",
        "save_steps",
        "metric_for_best_model",
        "greater_is_better",
        "load_best_model_at_end",
        "save_only_model",
        "model_init_kwargs",
        "push_to_hub",
        "trust_remote_code",
    }
)

# Of TRL's settings: the kind of number, and what it may be. TRL would refuse most of them only in training.
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "num_generations": (int, 0, math.inf),
    "num_iterations": (int, 1, math.inf),
    "max_completion_length": (int, 1, math.inf),
    "max_steps": (int, -1, math.inf),
    "num_train_epochs": (float, -1, math.inf),
    "learning_rate": (float, 0, math.inf),
    "warmup_steps": (float, 0, math.inf),  # below 1: a share of all updates
    "weight_decay": (float, 0, math.inf),
    "adam_beta1": (float, 0, 1),
    "adam_beta2": (float, 0, 1),
    "adam_epsilon": (float, 0, math.inf),
    "max_grad_norm": (float, 0, math.inf),
    "beta": (float, 0, math.inf),
    "epsilon": (float, 0, math.inf),
    "entropy_coef": (float, 0, math.inf),
    "top_entropy_quantile": (float, 1e-6, 1),
    "temperature": (float, 1e-6, math.inf),
    "top_p": (float, 1e-6, 1),
    "top_k": (int, 0, math.inf),
    "repetition_penalty": (float, 1e-6, math.inf),
    "vllm_gpu_memory_utilization": (float, 1e-6, 1),
    "vllm_tensor_parallel_size": (int, 1, math.inf),
    "ref_model_mixup_alpha": (float, 0, 1),
    "ref_model_sync_steps": (int, 1, math.inf),
    "logging_steps": (float, 1e-6, math.inf),
    "dataloader_num_workers": (int, 0, math.inf),
}
# Likewise, where null leaves it to TRL.
_OPTIONAL: dict[str, tuple[type, float, float]] = {
    "epsilon_high": (float, 0, math.inf),
    "delta": (float, 0, math.inf),
    "min_p": (float, 0, 1),
    "save_total_limit": (int, 1, math.inf),
    "vllm_max_model_length": (int, 1, math.inf),
}

# What batch.keep takes advantages by; the first one is TRL's default.
_KEEP = {"scale_rewards": ("group", "none", True, False), "multi_objective_aggregation": ("sum_then_normalize",)}

# Names that TRL looks at in training only.
_NAMES: dict[str, tuple[Any, ...]] = {
    "loss_type": ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "luspo", "sapo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
}
_SWITCHES = ("bf16", "fp16", "gradient_checkpointing", "use_cpu")


def check(c: Configuration) -> None:
    """Raises ConfigurationError for values that contradict each other, do nothing, or would fail hours later."""
    profile = PROFILES.get(c.reward.profile)
    if told := [*(t for key, value in c.arguments.items() if (t := _no_number(key, value))), *_not_numbers(asdict(c))]:
        raise ConfigurationError(f"{c.name}: {'; '.join(dict.fromkeys(told))}")
    wrong = []
    if profile is None:
        raise ConfigurationError(f"{c.name}: reward.profile {c.reward.profile!r}; known: {', '.join(PROFILES)}")
    if unknown := sorted(set(c.reward.weights) - set(profile.terms)):
        wrong.append(f"reward.weights: {profile.name} has no {', '.join(unknown)}; it has {', '.join(profile.terms)}")
    if profile.needs_masks and not c.reward.segmenter:
        wrong.append(f"reward.segmenter: {profile.name} needs one")
    if c.data.answer != profile.solution:
        wrong.append(f"data.answer is {c.data.answer!r} and {profile.name} reads {profile.solution!r}")
    if not architecture_file(c.model.architecture).is_file() and c.model.architecture != "embedded":
        known = [p.stem for p in sorted(ARCHITECTURES.glob("*.json"))]
        wrong.append(f"model.architecture {c.model.architecture!r}; known: embedded, {', '.join(known)}")
    if c.data.prompt not in TEMPLATES and "{question}" not in c.data.prompt:
        wrong.append(f"data.prompt {c.data.prompt!r} has no {{question}}; templates: {', '.join(TEMPLATES)}")
    if c.method == "grpo" and c.generations < 2:
        wrong.append(f"num_generations is {c.generations}; a group has at least 2")
    if c.method == "grpo":
        for key, names in _NAMES.items():
            if (value := c.arguments.get(key, names[0])) not in names:
                wrong.append(f"{key} {str(value)[:80]!r}; known: {', '.join(map(str, names))}")
    if 1 < (warm := c.arguments.get("warmup_steps", 0)) != int(warm):
        wrong.append(f"warmup_steps is {warm}; expected a whole number, or a share of all updates, below 1")
    if not any({**dict.fromkeys(profile.terms, 1.0), **profile.weights, **c.reward.weights}.values()):
        wrong.append("reward.weights: all are 0, so every answer wins alike and nothing is learnt")
    if (keep := c.batch.keep) and c.method == "grpo":
        if keep < 2 or keep % 2 or c.generations % keep:
            wrong.append(f"batch.keep is {keep}; expected an even number that divides num_generations {c.generations}")
        if c.engine == "shared_prefix":
            wrong.append("batch.keep is for `engine: stock`")
        if unknown := [k for k, known in _KEEP.items() if c.grpo.get(k, known[0]) not in known]:
            wrong.append(f"batch.keep knows no other {', '.join(unknown)}")
    if c.arguments.get("max_steps", -1) == 0:
        wrong.append("max_steps is 0, which trains num_train_epochs; -1 says so")
    if int(c.arguments.get("max_steps", -1)) <= 0 and not float(c.arguments.get("num_train_epochs", 3)) > 0:
        wrong.append("neither max_steps nor num_train_epochs is above 0")
    if texts := [k for k in _SWITCHES if not isinstance(c.arguments.get(k, False), bool)]:
        wrong.append(f"{', '.join(texts)}: expected true or false")
    if other := _other_architecture(c.model):
        wrong.append(f"model.path is {c.model.path} and model.architecture {c.model.architecture}; set {other}")
    if c.watch.format_term and c.watch.format_term not in profile.terms:
        wrong.append(f"watch.format_term: {profile.name} has no {c.watch.format_term}")
    if c.model.quantise != "none" and c.model.lora is None:
        wrong.append("model.quantise: only the frozen base below LoRA can be quantised")
    if c.model.lora and c.model.freeze:
        wrong.append("model.freeze: with LoRA everything else is frozen")
    if c.model.dtype == "bfloat16" and c.model.lora is None:
        wrong.append("model.dtype: a learning rate of 1e-6 is mostly rounded away in bfloat16 weights; take float32")
    if c.model.lora and float(c.arguments.get("learning_rate", 1e-6)) < 5e-6:
        wrong.append("learning_rate: LoRA needs 1e-5 or more, and 5e-6 to go on (StAR)")
    if derived := sorted(DERIVED & {*c.trl, *c.grpo, *c.sft}):
        wrong.append(f"{', '.join(derived)} come from other settings")
    if c.engine == "shared_prefix" and c.rollout != "transformers":
        wrong.append("engine: shared_prefix answers by itself; rollout must be transformers")
    if c.engine == "shared_prefix" and c.batch.rollout:
        wrong.append("batch.rollout is for `engine: stock`; a shared prefix takes little memory")
    if wrong:
        raise ConfigurationError(f"{c.name}: " + "; ".join(wrong))


def _no_number(key: str, value: Any) -> str:
    """What is wrong with a setting that is a number; ""."""
    if key not in _NUMBERS and (key not in _OPTIONAL or value is None):
        return ""
    kind, least, most = (_NUMBERS | _OPTIONAL)[key]
    whole = " whole" if kind is int else ""
    if (
        isinstance(value, bool)
        or not isinstance(value, int if kind is int else (int, float))
        or not math.isfinite(value)
    ):
        return f"{key} is {value!r}; expected a{whole} number"
    if not least <= value <= most:
        return f"{key} is {value!r}; expected at least {least:g}" + (f", at most {most:g}" if most < math.inf else "")
    return ""


def _not_numbers(settings: Mapping[str, Any], at: str = "") -> list[str]:
    """Every setting that is no finite number and would be compared or multiplied with as if it were one."""
    found = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found += _not_numbers(value, f"{at}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{at}{key} is {value}; expected a finite number")
    return found


def check_installed(c: Configuration) -> None:
    """Raises ConfigurationError for a library that the run asks for, and that the trainer would miss late."""
    asked = {
        "wandb": ("wandb: true", c.wandb),
        "deepspeed": (
            "DeepSpeed (trl.deepspeed, hardware.sharding or the accelerate file)",
            bool(c.trl.get("deepspeed"))
            or c.hardware.sharding.startswith("zero")
            or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true",
        ),
    }
    for package, (name, wanted) in asked.items():
        if wanted and find_spec(package) is None:
            raise ConfigurationError(f"{c.name}: {name} needs {package}, which is not installed: pip install {package}")


def _other_architecture(model: Model) -> str:
    """The known architecture that a hub's name tells, where it is not the one that is set; else ""."""
    said = re.sub(r"[^a-z0-9]+", "_", model.path.rpartition("/")[2].lower())
    known = [p.stem for p in ARCHITECTURES.glob("*.json") if p.stem in said]
    return known[0] if known and model.architecture not in known and not Path(model.path).is_dir() else ""
