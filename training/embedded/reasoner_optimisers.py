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


class Muon(torch.optim.Muon):
    """torch's, which multiplies in bfloat16, in float32: a CPU of AVX2 alone takes fifty times as long for the other.

    Nesterov's momentum and rates matched to AdamW's (https://arxiv.org/abs/2502.16982) are all there is.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                mean = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                update = _orthogonal(
                    weight.grad.lerp(mean, group["momentum"]), group["ns_coefficients"], group["ns_steps"]
                )
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """By Newton's and Schulz's iteration as Muon has it: all singular values near one."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _optimisers(group: Mapping[str, Tensor]) -> list[torch.optim.Optimizer]:
    matrices = [
        w for n, w in group.items() if w.ndim == 2 and not any(s in n for s in ("embed", "head", "see.", "know."))
    ]
    chosen = {id(w) for w in matrices}
    others = [w for w in group.values() if id(w) not in chosen]
    return [
        Muon(matrices, lr=1.0, weight_decay=0.02, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw"),
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
