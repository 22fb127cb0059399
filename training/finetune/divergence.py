"""A run whose numbers are no longer finite ends, and leaves no checkpoint of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from training.finetune.settings import Configuration
from training.finetune.step_back import first_not_finite
from training.finetune.stopping import sampling, stop


class StopsDiverged:
    """Before a trainer class. Looked at after every update, logged or not: loss, gradient and KL; before a checkpoint
    is written: the weights, and what the model makes of the last inputs. All processes come to the same end."""

    configuration: Configuration
    # Makes anew, of a model, what was last learnt from; an engine that learns past the model's forward sets its own.
    _again: Callable[[Any], Any] | None = None

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        watched = self.model.register_forward_pre_hook(self._remember, with_kwargs=True)
        try:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        finally:
            watched.remove()
            self._again = None

    def _remember(self, model: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and model.training:
            self._again = lambda asked: asked(*args, **kwargs)

    def _maybe_log_save_evaluate(self: Any, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        values = [tr_loss, 0.0 if grad_norm is None else grad_norm, *self._metrics["train"].get("kl", ())]
        if self._anywhere(not all(math.isfinite(float(value)) for value in values)):
            # The log says which, and the watch that reads it why the run ends.
            self.control.should_log = self.control.should_training_stop = True
            self.control.should_evaluate = self.control.should_save = False
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        name = first_not_finite(_shards(model))
        reason = f"the weight {name} is not finite" if name else "a weight is not finite"
        bad = self._anywhere(bool(name))
        if not bad:
            reason = "what the model makes of its last inputs is not finite"
            bad = self._anywhere(not self._probe(model))
        if not bad:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            return
        self.control.should_training_stop = True
        stop(Path(self.args.output_dir), self.state.global_step, f"{reason}; no checkpoint is written")

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        with sampling():
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]

    def _anywhere(self: Any, bad: bool) -> bool:
        """Whether one of the processes says so."""
        said = torch.tensor([float(bad)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(said, reduction="sum").item() > 0)

    def _probe(self: Any, model: Any) -> bool:
        """Whether what the model makes of its last inputs, image and all, is finite: weights may be finite and too
        large to compute with."""
        if self._again is None:
            return True  # nothing was learnt yet
        with torch.no_grad():
            found = self._again(model)
        # Logits, or what TRL's own forward makes of them: a loss, or the tokens' log-probabilities.
        named = found.items() if hasattr(found, "items") else vars(found).items()
        return not first_not_finite([(name, value) for name, value in named if isinstance(value, torch.Tensor)])


def _shards(model: Any) -> Iterator[tuple[str, Any]]:
    """Of every weight that is trained what this process holds."""
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            held = getattr(weights, "ds_tensor", weights.detach())  # ZeRO-3
            yield name, held.to_local() if hasattr(held, "to_local") else held  # FSDP 2
