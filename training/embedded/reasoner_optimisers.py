"""How the weights of the reasoner in training move: Muon for matrices, AdamW for the rest, and their rates by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from training.embedded.reasoner_settings import Settings

ADAM_LR = 2e-3  # where Muon's is the one in the settings


class Optimisers:
    """Two groups, "tower" and "rest", each with its own two optimisers. learns: whether the tower does."""

    def __init__(self, settings: Settings, groups: Mapping[str, Mapping[str, Tensor]], learns: bool) -> None:
        self.settings, self.learns = settings, learns
        self._weights = {name: list(weights.values()) for name, weights in groups.items()}
        self._optimisers = {name: _optimisers(weights) for name, weights in groups.items()}

    def step(self, step: int) -> None:
        """Takes the gradients of all workers, moves the weights and clears the gradients."""
        groups = self._groups(step)
        if self.settings.workers > 1:
            _average_gradients([w for name in groups for w in self._weights[name]], self.settings.workers)
        rates = self._rates(step)
        for name in groups:
            muon, adam = self._optimisers[name]
            base = self.settings.lr_vision if name == "tower" else self.settings.lr
            for one, value in ((muon, rates[name]), (adam, ADAM_LR * rates[name] / base)):
                for parameters in one.param_groups:
                    parameters["lr"] = value
                one.step()
                one.zero_grad(set_to_none=True)

    def _groups(self, step: int) -> list[str]:
        if step < self.settings.vision_steps:
            return ["tower"]
        return ["tower", "rest"] if self.learns else ["rest"]

    def _rates(self, step: int) -> dict[str, float]:
        """Muon's rate per group: one cosine for the vision tower alone, then one over everything."""
        settings = self.settings
        if step < settings.vision_steps:
            done, first = step / settings.vision_steps, step
            # Not to zero: the tower goes on learning.
            shape = min(1.0, (first + 1) / settings.warmup) * (0.3 + 0.35 * (1 + math.cos(math.pi * done)))
            return {"tower": settings.lr_vision * shape, "rest": 0.0}
        first = step - settings.vision_steps
        done = first / max(1, settings.joint_steps)
        shape = min(1.0, (first + 1) / settings.warmup) * (0.01 + 0.495 * (1 + math.cos(math.pi * done)))
        return {"tower": settings.lr_vision_joint * shape, "rest": settings.lr * shape}

    def state_dict(self) -> dict[str, list[Any]]:
        return {name: [o.state_dict() for o in many] for name, many in self._optimisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, many in self._optimisers.items():
            for one, saved in zip(many, state[name], strict=True):
                one.load_state_dict(saved)


def _optimisers(group: Mapping[str, Tensor]) -> list[torch.optim.Optimizer]:
    matrices = [
        w for n, w in group.items() if w.ndim == 2 and not any(s in n for s in ("embed", "head", "see.", "know."))
    ]
    chosen = {id(w) for w in matrices}
    others = [w for w in group.values() if id(w) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=1.0, weight_decay=0.02, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def _average_gradients(weights: list[Tensor], workers: int) -> None:
    flat = torch.cat([(w.grad if w.grad is not None else torch.zeros_like(w)).reshape(-1) for w in weights])
    dist.all_reduce(flat)
    flat /= workers
    at = 0
    for w in weights:
        w.grad = flat[at : at + w.numel()].view_as(w)
        at += w.numel()
