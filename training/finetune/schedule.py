"""The rate over a run's updates, as the library would make it: asked for before anything is loaded."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, get_scheduler

from training.finetune.whole_checkpoints import first_words

_UNKNOWN = 1000  # updates of a run whose rows are not counted yet
_ASKED = 100  # updates whose rate is looked at


def check_schedule(args: Any, updates: int) -> None:
    """Raises ValueError for a rate that is negative, not finite or always 0, and for what the library does not take in
    lr_scheduler_kwargs or optim_args. args: TRL's; updates: 0 where not known."""
    steps, name = updates or _UNKNOWN, args.lr_scheduler_type.value
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    try:
        schedule = get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
        if isinstance(schedule, LambdaLR):  # others go by what is measured
            asked = sorted({*range(0, steps, max(1, steps // _ASKED)), steps - 1})
            rates = {step: float(schedule.lr_lambdas[0](step)) * args.learning_rate for step in asked}
            _check_rates(rates)
    except Exception as error:  # whatever the values made it raise
        raise ValueError(f"lr_scheduler_type {name} with lr_scheduler_kwargs: {first_words(error)}") from error
    if args.optim_args:
        try:
            Trainer.get_optimizer_cls_and_kwargs(args)
        except Exception as error:
            raise ValueError(
                f"optim_args is {args.optim_args[:80]!r}; expected name=value, ... ({first_words(error)})"
            ) from error


def _check_rates(rates: dict[int, float]) -> None:
    for step, rate in rates.items():
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(f"the rate is {rate:g} at update {step}; expected a number that is not negative")
    if not any(rates.values()):
        raise ValueError("the rate is 0 at every update")
