"""Supervised fine-tuning on TRL: the same rows, prompts, image and validation as GRPO, and the right answer's text."""

from __future__ import annotations

from typing import Any

from trl import GRPOConfig, SFTConfig, SFTTrainer

from training.finetune import model as models
from training.finetune.checkpoint_io import Resumable
from training.finetune.configuration import Configuration, ConfigurationError, processes
from training.finetune.divergence import StopsDiverged
from training.finetune.grpo import configured, parts
from training.finetune.logs import Journal, Samples
from training.finetune.sharding import ReducesInFloat32
from training.finetune.validate import GreedyValidation, given, profile_of, reward_terms
from training.finetune.watch import Watch, check_inputs


class Trainer(GreedyValidation, StopsDiverged, Resumable, ReducesInFloat32, SFTTrainer):  # type: ignore[misc]
    pass


def arguments(c: Configuration) -> SFTConfig:
    """TRL's configuration. Raises ConfigurationError for a name that it does not have."""
    derived = {"gradient_accumulation_steps": c.accumulation(processes())}
    found: SFTConfig = configured(c, SFTConfig, GRPOConfig, derived)
    return found


def check_taught(c: Configuration, rows: Any) -> None:
    """The reward by which checkpoints are chosen must be able to pay what is taught. Raises ConfigurationError."""
    profile = profile_of(c)
    if not c.data.validation or profile.needs_masks or not len(rows):
        return
    text = rows[0]["completion"][0]["content"]
    if profile.score([text], [rows[0]["solution"]], square=c.data.extent)[0] <= 0:
        raise ConfigurationError(
            f"{c.name}: the reward {profile.name}, by which checkpoints are chosen, pays nothing for the right answer "
            f"of row {rows[0]['id']}: {text[:200]!r}"
        )


def build(c: Configuration) -> Any:
    """A trainer, ready for `train()`."""
    args = arguments(c)  # first: a name that TRL does not have is told before anything is loaded
    rows, validation, policy, processor = parts(c)
    check_inputs(c, processor, models.image_tokens(c, policy.config), rows)

    check_taught(c, rows)

    kept = Samples(c)
    trainer = Trainer(
        model=policy,
        args=args,
        train_dataset=rows,
        eval_dataset=validation,
        processing_class=processor,
        peft_config=models.adapters(c.model),
    )
    if c.model.quantise != "none":
        models.keep_adapters_float32(trainer.model)
    trainer.configuration, trainer.on_answers = c, kept.validation
    trainer.terms = reward_terms(c, given(c)) if validation is not None else []
    trainer.add_callback(Journal(c))
    trainer.add_callback(Watch(c))
    return trainer
