"""What a configuration must not say: refused before anything is loaded, with every wrong key named."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segzero_ros.core.prompt import TEMPLATES
from training.finetune.settings import ARCHITECTURES, Configuration, ConfigurationError, Model, architecture_file
from training.finetune.trl_settings import wrong_numbers, wrong_settings
from training.rewards import PROFILES

# What batch.keep takes advantages by; the first one is TRL's default.
_KEEP = {"scale_rewards": ("group", "none", True, False), "multi_objective_aggregation": ("sum_then_normalize",)}

# What an `optim` whose name begins so is of, beside torch and bitsandbytes, which requirements/cuda.txt has.
_OPTIMISERS = {
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "schedule_free": "schedulefree",
    "grokadamw": "grokadamw",
    "stable_adamw": "optimi",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu": "torch_npu",
    "adamw_anyprecision": "torchdistx",
}
_PIP = {"optimi": "torch-optimi"}  # where another name is installed than is imported


def check(c: Configuration) -> None:
    """Raises ConfigurationError for values that contradict each other, do nothing, or would fail hours later."""
    _check_places(c)
    profile = PROFILES.get(c.reward.profile)
    if told := [*wrong_numbers(c), *_not_numbers(asdict(c))]:
        raise ConfigurationError(f"{c.name}: {'; '.join(dict.fromkeys(told))}")
    if profile is None:
        raise ConfigurationError(f"{c.name}: reward.profile {c.reward.profile!r}; known: {', '.join(PROFILES)}")
    wrong = wrong_settings(c)
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
    if not any({**dict.fromkeys(profile.terms, 1.0), **profile.weights, **c.reward.weights}.values()):
        wrong.append("reward.weights: all are 0, so every answer wins alike and nothing is learnt")
    if (keep := c.batch.keep) and c.method == "grpo":
        if keep < 2 or keep % 2 or c.generations % keep:
            wrong.append(f"batch.keep is {keep}; expected an even number that divides num_generations {c.generations}")
        if c.engine == "shared_prefix":
            wrong.append("batch.keep is for `engine: stock`")
        if unknown := [k for k, known in _KEEP.items() if c.grpo.get(k, known[0]) not in known]:
            wrong.append(f"batch.keep knows no other {', '.join(unknown)}")
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
    if c.engine == "shared_prefix" and c.rollout != "transformers":
        wrong.append("engine: shared_prefix answers by itself; rollout must be transformers")
    if c.engine == "shared_prefix" and c.batch.rollout:
        wrong.append("batch.rollout is for `engine: stock`; a shared prefix takes little memory")
    if wrong:
        raise ConfigurationError(f"{c.name}: " + "; ".join(wrong))


def _check_places(c: Configuration) -> None:
    """The run's name is that of its folder below runs/. Raises ConfigurationError."""
    if not re.fullmatch(r"[^\W_][^/\\]{0,99}", c.name) or not c.name.isprintable():
        raise ConfigurationError(
            f"name is {c.name[:100]!r}; expected a folder's name: at most 100 characters, no slash, first a letter "
            "or a number"
        )
    if not c.out.isprintable():
        raise ConfigurationError(f"{c.name}: out is {c.out[:100]!r}; expected a folder")


def check_out(c: Configuration) -> None:
    """Raises ConfigurationError for a folder that the run could not write. Leaves nothing behind."""
    out = Path(c.out)
    try:
        with suppress(FileNotFoundError):
            out.lstat()  # a name too long, or below a file
        there = next(place for place in (out, *out.absolute().parents) if os.path.lexists(place))
        with tempfile.TemporaryDirectory(dir=there):  # only the system knows: root may write all but some file systems
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{c.name}: out is {c.out[:300]}; expected a folder that can be written ({error.strerror or error})"
        ) from error


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
        "liger_kernel": ("use_liger_kernel: true", c.arguments.get("use_liger_kernel") is True),
        "deepspeed": (
            "DeepSpeed (hardware.sharding or the accelerate file)",
            c.hardware.sharding.startswith("zero")
            or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true",
        ),
    }
    optim = str(c.arguments.get("optim", ""))
    asked |= {package: (f"optim: {optim}", True) for name, package in _OPTIMISERS.items() if optim.startswith(name)}
    for package, (name, wanted) in asked.items():
        if wanted and find_spec(package) is None:
            pip = _PIP.get(package, package)
            raise ConfigurationError(f"{c.name}: {name} needs {package}, which is not installed: pip install {pip}")


def _other_architecture(model: Model) -> str:
    """The known architecture that a hub's name tells, where it is not the one that is set; else ""."""
    said = re.sub(r"[^a-z0-9]+", "_", model.path.rpartition("/")[2].lower())
    known = [p.stem for p in ARCHITECTURES.glob("*.json") if p.stem in said]
    return known[0] if known and model.architecture not in known and not Path(model.path).is_dir() else ""
