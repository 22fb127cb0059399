"""GRPO on TRL, the whole recipe. What differs from TRL's defaults stands in a configuration's sections trl and grpo."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum
from importlib.util import find_spec
from itertools import accumulate, groupby
from typing import Any, get_args, get_origin, get_type_hints

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS
from trl import GRPOConfig, GRPOTrainer, SFTConfig
from trl.trainer.utils import RepeatSampler, split_pixel_values_by_grid, unsplit_pixel_values_by_grid

from training.finetune import conversations
from training.finetune import model as models
from training.finetune.checkpoint_io import Resumable
from training.finetune.configuration import Configuration, ConfigurationError, processes
from training.finetune.divergence import StopsDiverged
from training.finetune.logs import Journal, Samples
from training.finetune.schedule import check_schedule
from training.finetune.sharding import ReducesInFloat32
from training.finetune.validate import GreedyValidation, given, reward_terms, weights
from training.finetune.watch import Watch, check_inputs, describe_spread
from training.finetune.whole_checkpoints import first_words
from training.rewards import PROFILES

PARTS = ("generation", "reference", "reward", "loss")


def arguments(c: Configuration) -> GRPOConfig:
    """TRL's configuration. Raises ConfigurationError for a name that it does not have."""
    derived: dict[str, Any] = {
        # All samples of an update come from one policy and are used once: on-policy, as published.
        "gradient_accumulation_steps": c.accumulation(processes()),
        "num_generations_eval": 1,
        "reward_weights": weights(c),
    }
    if c.rollout != "transformers":
        derived |= {"use_vllm": True, "vllm_mode": c.rollout.removeprefix("vllm-")}
    found: GRPOConfig = configured(c, GRPOConfig, SFTConfig, derived)
    _check_answering(c, found)
    return found


def _check_answering(c: Configuration, args: GRPOConfig) -> None:
    """Names of how transformers answers, which it looks at when it does. Raises ConfigurationError."""
    if c.rollout != "transformers":
        return
    cache, given = args.cache_implementation, args.generation_kwargs or {}
    if cache is not None and cache not in ALL_CACHE_IMPLEMENTATIONS:
        names = ", ".join(sorted(ALL_CACHE_IMPLEMENTATIONS))
        raise ConfigurationError(f"{c.name}: cache_implementation is {cache[:80]!r}; known: {names}")
    if unknown := [str(key)[:80] for key in given if key not in vars(GenerationConfig())]:
        raise ConfigurationError(f"{c.name}: generation_kwargs: transformers has no {', '.join(unknown[:8])}")


def configured(c: Configuration, kind: Any, other: Any, derived: dict[str, Any]) -> Any:
    """A method's configuration of TRL. other: the other method's. Raises ConfigurationError for what TRL does not take,
    and for a schedule that the library cannot make."""
    given = {**known(c, kind), **shared(c), **derived}
    names = {f.name for f in fields(other)}
    if alone := sorted(set(c.trl) - names):
        raise ConfigurationError(
            f"{c.name}: trl holds what both methods have; {', '.join(alone)} belongs to {c.method}: "
            f"{c.method}.{alone[0]}"
        )
    try:
        found = kind(**given)
        check_schedule(found, c.updates(0))
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError, OSError, ImportError) as error:
        raise ConfigurationError(f"{c.name}: {first_words(error)}") from error  # whatever a value made them raise
    return found


def known(c: Configuration, kind: type) -> dict[str, Any]:
    """What is TRL's own; its names, switches and mappings are checked. Raises ConfigurationError."""
    names = {f.name for f in fields(kind)}
    if unknown := sorted(set(c.arguments) - names):
        hints = [difflib.get_close_matches(u, names, 1) for u in unknown]
        texts = [f"{u} (do you mean {h[0]}?)" if h else u for u, h in zip(unknown, hints, strict=True)]
        raise ConfigurationError(f"{c.name}: {kind.__name__} has no {', '.join(texts)}")
    kinds = get_type_hints(kind)
    if wrong := [said for key, value in c.arguments.items() if (said := _mistyped(key, value, kinds[key]))]:
        raise ConfigurationError(f"{c.name}: {'; '.join(wrong)}")
    return c.arguments


def _mistyped(key: str, value: Any, hint: Any) -> str:
    """What is wrong with the kind of a value, which TRL would take for true, or miss in training; ""."""
    kinds = get_args(hint) or (hint,)
    if value is None:
        return ""
    if names := [str(member.value) for k in kinds if isinstance(k, type) and issubclass(k, Enum) for member in k]:
        known = value in names or (bool in kinds and isinstance(value, bool)) or (str in kinds and value == "")
        return "" if known else f"{key} is {str(value)[:80]!r}; known: {', '.join(names)[:400]}"
    if isinstance(value, str) and str in kinds:
        return ""
    if bool in kinds and not isinstance(value, (bool, *(k for k in kinds if isinstance(k, type)))):
        return f"{key} is {str(value)[:80]!r}; expected true or false"
    if any((get_origin(k) or k) is dict for k in kinds) and not isinstance(value, dict):
        return f"{key} is {str(value)[:80]!r}; expected a mapping"
    plain = [k for k in kinds if k in (int, float, str, type(None))]
    if len(plain) < len(kinds):
        return ""  # a list or an enumeration may be written as a text
    if isinstance(value, str) and str not in kinds:
        return f"{key} is {value[:80]!r}; expected a number"
    if not isinstance(value, (int, float, str)) or (isinstance(value, (int, float)) and {*plain} <= {str, type(None)}):
        return f"{key} is {str(value)[:80]!r}; expected a {'text' if str in kinds else 'number'}"
    return ""


def shared(c: Configuration) -> dict[str, Any]:
    """What both methods derive from the configuration's own fields."""
    found = {
        "output_dir": c.out,
        "run_name": c.name,
        "seed": c.seed,
        "per_device_train_batch_size": c.batch.micro * (c.generations // c.kept),  # of what is answered
        "per_device_eval_batch_size": c.batch.evaluation,
        "remove_unused_columns": False,
        "report_to": ["tensorboard", *(["wandb"] if c.wandb else [])],
        "save_strategy": "steps",
        "save_steps": c.save_every,
        "logging_nan_inf_filter": False,  # TRL: true, which logs the mean of earlier losses in place of one that is NaN
    }
    if c.data.validation:  # first validated, then saved; the best one is kept whatever save_total_limit says
        found |= {"eval_strategy": "steps", "eval_steps": c.save_every}
        found |= {"metric_for_best_model": "reward", "greater_is_better": True}
    return found


class EpochSampler(RepeatSampler):
    """An epoch's order follows from seed and epoch. TRL's goes on drawing from one generator, which a resumed run
    would start anew: after the first epoch it would see the rows in another order. In the first epoch they are equal.
    """

    def __init__(self, epoch: Callable[[], int], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + self.epoch())
        yield from super().__iter__()


class Timed:
    """Before a trainer class: where the seconds of an update go, logged as `seconds/` and the part's name.

    generation: sampling, and handing vLLM the weights; reference: the start model's log-probabilities, be it a model of
    its own or the policy without its adapters; reward: all terms; loss: the policy's forward and backward, and its
    earlier log-probabilities where TRL takes them apart. The rest of TRL's `step_time` is spent on prompts and images.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._preparing = 0.0

    def _now(self: Any) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()  # what was asked for before is done when it has been waited for
        return time.perf_counter()

    @contextmanager
    def _timed(self: Any, part: str) -> Iterator[None]:
        began = self._now()
        yield
        self._seconds[part] += self._now() - began

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("generation"):
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("reward"):
            return super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        compute = super()._get_per_token_logps_and_entropies  # type: ignore[misc]
        if torch.is_grad_enabled():
            return compute(model, *args, **kwargs)  # of the loss, whose time training_step takes
        with self._timed("reference" if self._refers(model) else "loss"):
            return compute(model, *args, **kwargs)

    def _refers(self: Any, model: Any) -> bool:
        """Whether a model, as it is now, is the reference."""
        if self.ref_model is not None:
            return model is self.ref_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        layer = next((m for m in model.modules() if isinstance(m, BaseTunerLayer)), None)  # all are turned off together
        return layer is not None and layer.disable_adapters

    def _prepare_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        began = self._now()
        found = super()._prepare_inputs(*args, **kwargs)  # type: ignore[misc]
        self._preparing += self._now() - began
        return found

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        began, before = self._now(), self._preparing
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self._seconds["loss"] += self._now() - began - (self._preparing - before)
        if self._step % self.current_gradient_accumulation_steps == 0:
            for part in PARTS:
                self._metrics["train"][f"seconds/{part}"].append(self._seconds[part])
            self._seconds = dict.fromkeys(PARTS, 0.0)
        return loss


class InParts:
    """Before TRL's trainer: transformers answers `samples_at_once` in one call; 0: all of an update, as TRL does.

    All of them means all images through the vision tower and all prompts through every layer at once: tens of GB for
    128 prompts of 840 x 840 pixels. Every process has as many rows, so under FSDP as many parts too.
    """

    samples_at_once = 0

    def _generate_single_turn(
        self: Any, prompt_ids: Any, images: Any, fields: Any, num_generations: int, *args: Any, **kwargs: Any
    ) -> Any:
        generate = super()._generate_single_turn  # type: ignore[misc]
        count = self.samples_at_once
        if self.use_vllm or not 0 < count < len(prompt_ids):
            return generate(prompt_ids, images, fields, num_generations, *args, **kwargs)
        # Row by row, but for the pixels, which stand patch by patch: one image per prompt.
        edges = [0, *accumulate(int(n) for n in torch.as_tensor(fields["image_grid_thw"]).prod(-1))]
        if len(edges) != len(prompt_ids) + 1:
            raise ValueError("batch.rollout takes one image per prompt")
        answers: list[Any] = []
        for start in range(0, len(prompt_ids), count):
            rows = slice(start, min(start + count, len(prompt_ids)))
            pixels = slice(edges[rows.start], edges[rows.stop])
            part = {key: value[pixels if key == "pixel_values" else rows] for key, value in fields.items()}
            answers += generate(prompt_ids[rows], images[rows], part, num_generations, *args, **kwargs)[0]
        return answers, None


class BestAndWorst:
    """Before TRL's trainer: of a prompt's answers the best and the worst are learnt from, `keep` in all, their
    advantages taken among themselves (StAR's second stage; verl/trainer/ray_trainer.py). 0: all.

    Where many won alike, StAR's code may take one answer for the best and the worst; here none is taken twice.
    """

    keep = 0

    def _calculate_rewards(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._won = super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]
        return self._won

    def _generate_and_score_completions(self: Any, inputs: Any) -> Any:
        scored = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        if not self.keep or not self.model.training:
            return scored
        rows, groups = len(inputs), self.num_generations
        first = self.accelerator.process_index * rows
        won = (self._won * self.reward_weights.to(self._won.device)).nansum(1)[first : first + rows]
        advantages, chosen = best_and_worst(won.view(-1, groups), self.keep, self.scale_rewards != "none")
        found: dict[str, Any] = dict(split_pixel_values_by_grid(scored))
        for key, value in found.items():
            if isinstance(value, torch.Tensor):
                found[key] = value[chosen.to(value.device)] if value.ndim else value
            elif value is not None:  # a list of the rows
                found[key] = [value[n] for n in chosen.tolist()]
        found["advantages"] = advantages.to(found["advantages"].dtype)
        found["num_items_in_batch"] = self.accelerator.gather(found["completion_mask"].sum()).sum()
        return unsplit_pixel_values_by_grid(found)


def best_and_worst(won: torch.Tensor, keep: int, scaled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Of rewards (G, n): the advantages (G * keep,) of those kept, and which rows of G * n they are."""
    order = won.sort(dim=1, descending=True, stable=True).indices
    chosen = torch.cat([order[:, : keep // 2], order[:, won.shape[1] - keep // 2 :]], 1)
    kept = won.gather(1, chosen)
    advantages = kept - kept.mean(1, keepdim=True)
    if scaled:
        advantages = advantages / (kept.std(1, keepdim=True) + 1e-4)
    rows = chosen + torch.arange(len(won), device=won.device)[:, None] * won.shape[1]
    return advantages.flatten(), rows.flatten()


def trainer_class(engine: str) -> Any:
    base: Any = GRPOTrainer
    if engine == "shared_prefix":
        from training.finetune.shared_prefix import SharedPrefixGRPOTrainer

        base = SharedPrefixGRPOTrainer

    class Trainer(GreedyValidation, StopsDiverged, Resumable, ReducesInFloat32, Timed, BestAndWorst, InParts, base):
        def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
            args = self.args
            return EpochSampler(
                lambda: int(self.state.epoch or 0),
                self.train_dataset if dataset is None else dataset,
                mini_repeat_count=args.num_generations,
                batch_size=args.generation_batch_size // args.num_generations,
                repeat_count=args.num_iterations * args.steps_per_generation,
                shuffle=args.shuffle_dataset,
                seed=args.seed,
            )

    return Trainer


def parts(c: Configuration) -> tuple[Any, Any, Any, Any]:
    """Of both methods: rows, rows to validate on or None, policy, processor. Rows first: they need no weights, which a
    hub's name may take hours to fetch."""
    rows = load_rows(c)
    validation = load_rows(c, validation=True) if c.data.validation else None
    folder = models.folder_of(c.model)
    policy = models.load_model(c.model, folder)
    return rows, validation, policy, models.load_processor(folder, policy.config)


def load_rows(c: Configuration, validation: bool = False) -> Any:
    """Rows to train or to validate on, with masks where a reward that is asked needs them. Raises ConfigurationError.

    TRL draws whole updates of different prompts, and nothing from fewer; supervised training takes any number.
    """
    masks = PROFILES[c.reward.profile].needs_masks
    if validation:
        return conversations.load(c.data, c.method, c.data.validation, c.data.validation_rows, masks)
    rows = conversations.load(c.data, c.method, c.data.train, c.data.rows, masks and c.method == "grpo")
    if c.method == "grpo" and len(rows) < c.batch.prompts:
        raise ConfigurationError(
            f"{c.name}: {c.data.train} has {len(rows)} rows, and an update takes {c.batch.prompts} (batch.prompts)"
        )
    return rows


def one_token_per_image(trainer: Any) -> None:
    """Mends TRL's colocate mode, which hands vLLM ids whose images are expanded, beside the images: vLLM expands the
    first of an image's tokens again, and answers over twice as many (docs/decisions/rollout-engines.md)."""
    generation, token = trainer.vllm_generation, trainer.processing_class.image_token_id
    generate = generation.generate

    def collapsed(prompts: list[list[int]], *args: Any, **more: Any) -> Any:
        runs = ([(t, len(list(run))) for t, run in groupby(ids)] for ids in prompts)
        return generate([[t for t, n in row for _ in range(1 if t == token else n)] for row in runs], *args, **more)

    generation.generate = collapsed


def build(c: Configuration) -> Any:
    """A trainer, ready for `train()`."""
    if c.rollout != "transformers" and find_spec("vllm") is None:
        raise ConfigurationError(
            f"{c.name}: rollout {c.rollout} needs vLLM, an environment of its own (requirements/vllm.txt); without it, "
            "--set rollout=transformers"
        )
    args = arguments(c)  # first: a name that TRL does not have is told before anything is loaded
    rows, validation, policy, processor = parts(c)
    check_inputs(c, processor, models.image_tokens(c, policy.config), rows)

    needs = given(c)
    terms = reward_terms(c, needs)
    kept = Samples(c)
    trainer = trainer_class(c.engine)(
        model=policy,  # the reference is read from its folder again, and stays what it was there
        args=args,
        reward_funcs=kept.around(terms),
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=processor,
        peft_config=models.adapters(c.model),
    )
    trainer.samples_at_once, trainer.keep = c.batch.rollout, c.batch.keep
    if c.rollout == "vllm-colocate":
        one_token_per_image(trainer)
    if c.model.quantise != "none":
        models.keep_adapters_float32(trainer.model)
    trainer.configuration, trainer.terms, trainer.on_answers = c, terms, kept.validation
    trainer.add_callback(Journal(c))
    measure = (lambda: describe_spread(trainer, c, rows, needs)) if c.watch.spread_prompts else None
    trainer.add_callback(Watch(c, measure))
    return trainer
