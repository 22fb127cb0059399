"""How a trainer writes its checkpoints and reads them when a run goes on: whole, by the names of then."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_utils import rotate_checkpoints

from training.finetune.settings import ConfigurationError
from training.finetune.whole_checkpoints import first_words, mark_whole

# What an optimiser keeps for every number of a weight: AdamW's and SGD's in torch, and bitsandbytes'.
_OF_WEIGHTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "state1", "state2"}


class Resumable:
    """Before a trainer class: checkpoints that a killed run goes on at.

    The library saves Qwen-VL in the published layout, whose names are not the model's, and its Trainer reads it with
    strict=False: nothing fits, a warning is printed, and the run goes on with the start weights. Here a checkpoint is
    read by the names that it was saved under.
    """

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """Marks the checkpoint once all of it is on the disk, and only then removes older ones."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            mark_whole(folder)
            # By number: a run that was copied has its folders' times in any order.
            rotate_checkpoints(str(folder.parent), limit, self.state.best_model_checkpoint, use_mtime=False)

    def _finalize_training(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The library's would delete the last checkpoint where another was better and the limit is 1."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.args.save_total_limit = limit

    def _load_from_checkpoint(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or hasattr(model, "peft_config"):
            with _reading("the weights", resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        with _reading("the weights", resume_from_checkpoint):
            saved = type(model).from_pretrained(
                resume_from_checkpoint,
                dtype=model.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
            model.load_state_dict(saved.state_dict())  # strict: by the model's own names

    def _init_training_state(self: Any, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The library goes on with a checkpoint's intervals of logs, validations and checkpoints; here it takes those
        that are set now."""
        found = super()._init_training_state(max_steps, *args, **kwargs)  # type: ignore[misc]
        self.state.compute_steps(self.args, max_steps)
        return found

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        """The library goes on with a checkpoint's rate, decay and betas; here it takes those that are set now, which
        are the same ones unless a change was accepted."""
        if checkpoint is None or self.is_deepspeed_enabled or not isinstance(self.lr_scheduler, LambdaLR):
            with _reading("optimizer.pt or scheduler.pt", checkpoint):
                super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            if checkpoint is not None and not self.is_deepspeed_enabled:
                with _reading("optimizer.pt", checkpoint):
                    check_states(self.optimizer, self.model)
            return
        groups = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in self.optimizer.param_groups]
        rates = list(self.lr_scheduler.base_lrs)
        with _reading("optimizer.pt or scheduler.pt", checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            schedule = self.lr_scheduler
            schedule.base_lrs = rates
            schedule._last_lr = [r * f(schedule.last_epoch) for r, f in zip(rates, schedule.lr_lambdas, strict=True)]
            for group, now, rate in zip(self.optimizer.param_groups, groups, schedule._last_lr, strict=True):
                group.update(now, lr=rate)
        with _reading("optimizer.pt", checkpoint):
            check_states(self.optimizer, self.model)

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        with _reading("a file rng_state", checkpoint):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]


def check_states(optimizer: Any, model: torch.nn.Module) -> None:
    """Raises ValueError for a state that is not of its weight's shape, or is not there: torch takes any, and fails in
    the next update or begins anew."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = [(names.get(id(weight), "a weight"), weight, optimizer.state.get(weight) or {}) for weight in weights]
    if "betas" in optimizer.param_groups[0] and not any(state for _, _, state in states):
        raise ValueError("it holds no weight's state")
    usual = next((set(state) for _, _, state in states if state), set())
    for name, weight, state in states:
        if not state:
            continue  # had no gradient
        if set(state) != usual:
            raise ValueError(f"the state of {name} holds {_named(state)}, and that of others {_named(usual)}")
        for key in _OF_WEIGHTS & usual:
            shape = tuple(getattr(state[key], "shape", ()))
            if shape != tuple(weight.shape):
                raise ValueError(f"{key} of {name} has the shape {shape}, and the weight {tuple(weight.shape)}")


def _named(keys: Collection[Any]) -> str:
    return ", ".join(sorted(str(key)[:40] for key in keys)[:6]) or "nothing"


@contextmanager
def _reading(what: str, checkpoint: str | None) -> Iterator[None]:
    """Around files that may hold anything. Raises ConfigurationError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # the file is right
    except Exception as error:  # whatever they made the libraries raise
        raise ConfigurationError(
            f"{checkpoint} is damaged ({what}: {first_words(error)}); remove it, and --resume goes on at the one before"
        ) from error
