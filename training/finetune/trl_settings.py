"""Which of TRL's settings a configuration must not hold: values that TRL refuses late, does nothing by, or learns
nothing by. TRL itself is not asked, nor imported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.finetune.settings import Configuration

# What the recipes derive from the configuration's own fields; twice said is twice wrong.
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
        "num_generations_eval",
    }
)


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, or above and below where an end is `open` ("least", "most"). optional: null
    leaves it to TRL."""

    least: float = 0
    most: float = math.inf
    open: tuple[str, ...] = ()
    whole: bool = False
    optional: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.least if "least" in self.open else value >= self.least
        return low and (value < self.most if "most" in self.open else value <= self.most)

    def __str__(self) -> str:
        low = f"{'above' if 'least' in self.open else 'at least'} {self.least:g}"
        return low + (
            f", {'below' if 'most' in self.open else 'at most'} {self.most:g}" if self.most < math.inf else ""
        )


_ABOVE_0, _SHARE = Range(open=("least",)), Range(most=1)
_COUNT, _COUNT_OR_NULL = Range(1, whole=True), Range(1, whole=True, optional=True)
_PORT = Range(1, 65535, whole=True)
_NUMBERS = {
    "num_generations": Range(whole=True),
    "num_iterations": _COUNT,
    "max_completion_length": _COUNT,
    "max_steps": Range(-1, whole=True),
    "num_train_epochs": Range(-1, 1e6),  # times the rows, the updates are a whole number
    "learning_rate": _ABOVE_0,  # at 0 nothing is learnt
    "warmup_steps": Range(),  # below 1: a share of all updates
    "weight_decay": Range(),
    "adam_beta1": Range(0, 1, open=("most",)),
    "adam_beta2": Range(0, 1, open=("most",)),
    "adam_epsilon": _ABOVE_0,  # at 0 a weight without a gradient becomes 0 / 0
    "max_grad_norm": Range(),  # 0: not clipped
    "label_smoothing_factor": Range(0, 1, open=("most",)),
    "neftune_noise_alpha": Range(open=("least",), optional=True),
    "beta": Range(),
    "epsilon": Range(0, 1, open=("least",)),
    "epsilon_high": Range(open=("least",), optional=True),
    "delta": Range(1, open=("least",), optional=True),  # what is above it has no gradient, and a ratio begins at 1
    "off_policy_mask_threshold": Range(optional=True),
    "entropy_coef": _SHARE,  # TRL lets its own adaptation reach 1
    "entropy_coef_min": _SHARE,
    "entropy_coef_max": _SHARE,
    "entropy_coef_delta": Range(0, 1, open=("least",)),
    "entropy_target": Range(),
    "top_entropy_quantile": Range(0, 1, open=("least",)),
    "sapo_temperature_pos": _ABOVE_0,
    "sapo_temperature_neg": _ABOVE_0,
    "vespo_k_pos": _ABOVE_0,
    "vespo_k_neg": _ABOVE_0,
    "vespo_lambda_pos": _ABOVE_0,
    "vespo_lambda_neg": _ABOVE_0,
    "temperature": Range(1e-6),
    "top_p": Range(0, 1, open=("least",)),
    "top_k": Range(whole=True),
    "min_p": Range(0, 1, optional=True),
    "repetition_penalty": _ABOVE_0,
    "ref_model_mixup_alpha": _SHARE,
    "ref_model_sync_steps": _COUNT,
    "vllm_gpu_memory_utilization": Range(0, 1, open=("least",)),
    "vllm_tensor_parallel_size": _COUNT,
    "vllm_max_model_length": _COUNT_OR_NULL,
    "vllm_server_port": _PORT,
    "vllm_group_port": _PORT,
    "vllm_server_timeout": _ABOVE_0,
    "vllm_importance_sampling_clip_max": Range(open=("least",), optional=True),
    "vllm_importance_sampling_clip_min": Range(optional=True),
    "logging_steps": _ABOVE_0,  # below 1: a share of all updates
    "eval_delay": Range(),
    "save_total_limit": _COUNT_OR_NULL,
    "num_completions_to_print": _COUNT_OR_NULL,
    "dataloader_num_workers": Range(0, 1024, whole=True),
    "dataloader_prefetch_factor": _COUNT_OR_NULL,
    "torch_empty_cache_steps": _COUNT_OR_NULL,
    "ddp_timeout": _COUNT,
    "ddp_bucket_cap_mb": _COUNT_OR_NULL,
}

_LARGEST = 10**15  # what is larger is no count, and no float either

_LEVELS = ("passive", "debug", "info", "warning", "error", "critical", "detail")
# Names that TRL and the library look at in training only; the first one is the default.
_NAMES: dict[str, tuple[Any, ...]] = {
    "logging_strategy": ("steps",),  # the watch counts logs
    "include_num_input_tokens_seen": ("no", "all", "non_padding", True, False),
    "debug": ("", "underflow_overflow"),
    "torch_compile_backend": (None, "inductor", "cudagraphs", "eager", "aot_eager"),  # those of torch alone
    "torch_compile_mode": (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
    "ddp_backend": (None, "nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl"),
    "log_level": _LEVELS,
    "log_level_replica": ("warning", *_LEVELS),
    "dataloader_multiprocessing_context": (None, "fork", "spawn", "forkserver"),
}
_NAMES_OF: dict[str, dict[str, tuple[Any, ...]]] = {
    "grpo": {
        "loss_type": ("grpo", "dapo", "dr_grpo", "bnpo", "cispo", "luspo", "sapo", "vespo"),
        "importance_sampling_level": ("token", "sequence"),
        "scale_rewards": ("group", "batch", "none", True, False),
        "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
        "vllm_importance_sampling_mode": ("sequence_mask", "sequence_truncate", "token_mask", "token_truncate"),
        "vllm_model_impl": ("vllm", "transformers", "auto"),
    },
    "sft": {
        "loss_type": ("nll", "dft", "chunked_nll"),
        "train_sampling_strategy": ("random", "sequential"),
        "pad_to_multiple_of": ("auto", None),  # TRL has no other for rows with images
    },
}
# Of torch.utils.checkpoint, and TRL's own; another one would fail in the first update.
_CHECKPOINTING = ("use_reentrant", "preserve_rng_state", "determinism_check", "early_stop", "selective")
_SWITCHES = ("bf16", "fp16", "gradient_checkpointing", "use_cpu")

_SHARDING = "how a model is sharded says hardware.sharding, with its accelerate file"
_GREEDY = "it does nothing: validation is by greedy answers, batch.evaluation at once"
_SENT = "it does nothing: a run is sent nowhere but by wandb: true"
_TEXTS = "it is for texts without images"
_TOKENIZER = "tokenizer and chat template are the model's"
# Set to anything they do nothing here, or the wrong thing; and what there is in their place.
_ELSEWHERE = {
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "accelerator_config"), _SHARDING),
    "activation_checkpointing": "its name here is gradient_checkpointing",
    "activation_checkpointing_kwargs": "its name here is gradient_checkpointing_kwargs",
    "resume_from_checkpoint": "it does nothing: --resume goes on with a run",
    "ignore_data_skip": "a run that goes on would see its first rows again",
    "auto_find_batch_size": "what a GPU takes at once is batch.micro",
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "local_rank", "label_names"), "it does nothing"),
    **dict.fromkeys(("batch_eval_metrics", "eval_accumulation_steps", "eval_use_gather_object"), _GREEDY),
    **dict.fromkeys(("prediction_loss_only", "include_for_metrics", "bf16_full_eval", "fp16_full_eval"), _GREEDY),
    **dict.fromkeys(("hub_model_id", "hub_private_repo", "hub_revision", "hub_token", "hub_always_push"), _SENT),
    **dict.fromkeys(("trackio_bucket_id", "trackio_space_id", "trackio_static_space_id"), _SENT),
    "log_completions_hub_repo": "answers stay in the run's folder",
    "router_aux_loss_coef": "the models have no experts",
}
_ELSEWHERE_OF = {
    "grpo": {
        "label_smoothing_factor": "it does nothing: GRPO has no labels",
        "train_sampling_strategy": "it does nothing: GRPO draws by shuffle_dataset",
        "max_tool_calling_iterations": "it does nothing: there are no tools",
        **dict.fromkeys(
            ("use_transformers_paged", "use_transformers_continuous_batching"), "TRL answers so without images only"
        ),
    },
    "sft": {
        **dict.fromkeys(("packing", "eval_packing", "packing_strategy", "padding_free", "truncation_mode"), _TEXTS),
        **dict.fromkeys(("dataset_text_field", "dataset_num_proc", "dataset_kwargs"), _TEXTS),
        **dict.fromkeys(("chat_template_path", "eos_token", "pad_token"), _TOKENIZER),
        "assistant_only_loss": "completion_only_loss is what teaches the answer alone",
    },
}

# Settings that do nothing, or fail in training, unless another one is set.
_NEEDS: dict[tuple[str, ...], tuple[str, Callable[[Mapping[str, Any]], Any]]] = {
    ("entropy_target", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta"): (
        "use_adaptive_entropy: true",
        lambda a: a.get("use_adaptive_entropy"),
    ),
    ("ref_model_mixup_alpha", "ref_model_sync_steps"): ("sync_ref_model: true", lambda a: a.get("sync_ref_model")),
    ("num_completions_to_print", "log_unique_prompts"): ("log_completions: true", lambda a: a.get("log_completions")),
    ("dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"): (
        "dataloader_num_workers above 0",
        lambda a: a.get("dataloader_num_workers"),
    ),
    ("liger_kernel_config",): ("use_liger_kernel: true", lambda a: a.get("use_liger_kernel")),
    ("optim_target_modules",): ("an optim of GaLore or APOLLO", lambda a: _low_rank(a)),
    ("sapo_temperature_pos", "sapo_temperature_neg"): ("loss_type: sapo", lambda a: a.get("loss_type") == "sapo"),
    ("vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg"): (
        "loss_type: vespo",
        lambda a: a.get("loss_type") == "vespo",
    ),
}


def _low_rank(given: Mapping[str, Any]) -> bool:
    """Whether the optimiser works on a few modules, which it must be told."""
    return str(given.get("optim", "")).startswith(("galore", "apollo"))


def wrong_numbers(c: Configuration) -> list[str]:
    """A line for every setting that is not the number it has to be."""
    return [text for key, value in c.arguments.items() if (text := _no_number(key, value))]


def wrong_settings(c: Configuration) -> list[str]:
    """The same for all else; the numbers must be right already."""
    given, grpo = c.arguments, c.method == "grpo"
    wrong = [f"{at}.{key} comes from other settings" for at, key in _places(c) if key in DERIVED]
    elsewhere = _ELSEWHERE | _ELSEWHERE_OF[c.method]
    for key in elsewhere:
        off = (None,) if key.startswith("activation_") else (None, False, "")  # whose false would win over ours
        if (value := given.get(key)) not in off:
            wrong.append(f"{key} is {_short(value)}; {elsewhere[key]}")
    if twice := sorted(set(c.trl) & set(c.grpo if grpo else c.sft)):
        wrong += [f"trl.{key} does nothing beside {c.method}.{key}; set that one" for key in twice]
    for key, names in (_NAMES | _NAMES_OF[c.method]).items():
        if (value := given.get(key, names[0])) not in names:
            wrong.append(f"{key} {_short(value)}; known: {', '.join(dict.fromkeys(map(str, names)))}")
    for keys, (needed, there) in _NEEDS.items():
        if not there(given) and (idle := [key for key in keys if given.get(key)]):
            wrong.append(f"{', '.join(idle)}: nothing comes of it without {needed}")
    if _low_rank(given) and not given.get("optim_target_modules"):
        wrong.append(f"optim {_short(given['optim'])} needs optim_target_modules")
    if texts := [k for k in _SWITCHES if not isinstance(given.get(k, False), bool)]:
        wrong.append(f"{', '.join(texts)}: expected true or false")
    kwargs = given.get("gradient_checkpointing_kwargs")
    if isinstance(kwargs, Mapping) and (unknown := [str(k)[:80] for k in kwargs if k not in _CHECKPOINTING]):
        wrong.append(f"gradient_checkpointing_kwargs has {', '.join(unknown)}; known: {', '.join(_CHECKPOINTING)}")
    if given.get("fp16") is True and given.get("bf16", False) is True:
        wrong.append("fp16 and bf16 are both true; expected one of them")
    wrong += _wrong_steps(c) + (_wrong_losses(c) if grpo else [])
    if not grpo and (length := given.get("max_length", 1024)) is not None:
        wrong.append(
            f"max_length is {_short(length)}{'' if 'max_length' in given else ' by default'}; expected "
            "null: of a longer row the answer would be cut off"
        )
    return wrong


def _wrong_steps(c: Configuration) -> list[str]:
    """Of updates, and of the rate over them."""
    given, wrong = c.arguments, []
    steps, warm, kind = given.get("max_steps", -1), given.get("warmup_steps", 0), given.get("lr_scheduler_type")
    if 1 < warm != int(warm):
        wrong.append(f"warmup_steps is {warm}; expected a whole number, or a share of all updates, below 1")
    if warm and kind == "constant":
        wrong.append(
            f"warmup_steps is {warm} and lr_scheduler_type constant, which has none; take constant_with_warmup"
        )
    if (
        isinstance(given.get("lr_scheduler_kwargs"), Mapping)
        and given["lr_scheduler_kwargs"]
        and kind in ("constant", "constant_with_warmup")
    ):
        wrong.append(f"lr_scheduler_kwargs: lr_scheduler_type {kind} has none")
    if steps == 0:
        wrong.append("max_steps is 0, which trains num_train_epochs; -1 says so")
    if steps <= 0 and not given.get("num_train_epochs", 3) > 0:
        wrong.append("neither max_steps nor num_train_epochs is above 0")
    if steps > 0:
        wrong += [text] if (text := long_warm_up(c, steps)) else []
        if (every := given.get("logging_steps", 10)) > steps:
            wrong.append(f"logging_steps is {every}; expected at most max_steps, {steps}, or nothing is logged")
    return wrong


def long_warm_up(c: Configuration, updates: int) -> str:
    """What is wrong with a warm-up in a run of so many updates; ""."""
    warm = c.arguments.get("warmup_steps", 0)
    if warm <= updates:
        return ""
    return f"warmup_steps is {warm}; expected at most the {updates} updates of the run, or its rate is never reached"


def _wrong_losses(c: Configuration) -> list[str]:
    """Of GRPO's loss."""
    given, wrong = c.arguments, []
    high = given.get("epsilon_high") or given.get("epsilon", 0.2)
    if (delta := given.get("delta")) is not None and delta <= 1 + high:
        wrong.append(f"delta is {delta}; expected above 1 + epsilon, {1 + high:g}, which cuts a ratio off before")
    if given.get("sync_ref_model") and not given.get("beta", 0.0):
        wrong.append("sync_ref_model is true and beta 0, so there is no reference")
    if given.get("sync_ref_model") and c.model.lora:
        wrong.append("sync_ref_model is true, and with LoRA the reference is the model without its adapters")
    least, most = given.get("entropy_coef_min", 0.0), given.get("entropy_coef_max", 1.0)
    if least > most:
        wrong.append(f"entropy_coef_min is {least}; expected at most entropy_coef_max, {most}")
    return wrong


def _places(c: Configuration) -> list[tuple[str, str]]:
    return [(at, key) for at in ("trl", "grpo", "sft") for key in getattr(c, at)]


def _short(value: Any) -> str:
    return repr(value)[:80]


def _no_number(key: str, value: Any) -> str:
    """What is wrong with a setting that is a number; ""."""
    known = _NUMBERS.get(key)
    if known is None or (known.optional and value is None):
        return ""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{key} is {_short(value)}; expected a number of at most 15 digits"
    if (
        isinstance(value, bool)
        or not isinstance(value, int if known.whole else (int, float))
        or not math.isfinite(value)
    ):
        return f"{key} is {_short(value)}; expected a{' whole' if known.whole else ''} number"
    return "" if value in known else f"{key} is {_short(value)}; expected {known}"
