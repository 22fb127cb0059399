"""The reasoner in training with its heads, and what a step loses with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from training.embedded.batch import PREFIX, Batch
from training.embedded.reasoner import (
    PATCHES,
    SMOKE,
    Dimensions,
    FastLanguage,
    build,
    go_on_from,
    keep,
    read_model,
    rope_base,
)
from training.embedded.reasoner_losses import (
    TAP,
    Found,
    LanguageHeads,
    VisionHeads,
    knowledge_losses,
    look_loss,
    text_loss,
    vision_loss,
)
from training.embedded.reasoner_settings import Settings
from training.finetune.fast_vision import FastVision


def dimensions(settings: Settings) -> Dimensions:
    """A tower that is kept keeps its rope base; one that is gone on with takes ours."""
    dims = SMOKE if settings.smoke else Dimensions()
    return replace(dims, vision_rope_base=rope_base(settings.tower)) if settings.tower else dims


class Learner:
    def __init__(self, settings: Settings, tokenizer: Any) -> None:
        self.settings = settings
        dims = dimensions(settings)
        self.model = build(tokenizer, dims, settings.seed)
        if settings.init:
            go_on_from(self.model, settings.init, tokenizer)
        elif settings.tower:
            keep(self.model.model.visual, settings.tower, "model.visual.")
        end = tokenizer.convert_tokens_to_ids("<|vision_end|>")
        self._language = FastLanguage(self.model, tokenizer.encode(PREFIX), end)
        self._see_image: Any = FastVision(self.model, PATCHES).__call__
        self._read: Any = self._language.__call__
        self._teacher: Callable[[Tensor], Tensor] | None = None  # the tower as it was, while it is recalled
        if settings.init and settings.vision_steps:
            self._teacher = FastVision(read_model(settings.init).requires_grad_(False), PATCHES).__call__
        if settings.compile:
            self._see_image, self._read = (torch.compile(f, dynamic=False) for f in (self._see_image, self._read))
            self._teacher = self._teacher and torch.compile(self._teacher, dynamic=False)
        # Layer -> heads that are told where to look.
        self._supervised = {dims.layers // 2: dims.heads // 2, dims.layers // 2 + 1: dims.heads}
        torch.manual_seed(settings.seed + 1)
        self.see, self.know = VisionHeads(dims.hidden), LanguageHeads(dims.hidden)
        self.tower_learns = not settings.tower and settings.lr_vision_joint > 0  # beside the language
        self._half = _chosen_together(_half_is_faster())

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """All weights by name, of the tower and of the rest; the order is the optimisers' in a checkpoint."""
        named = dict(self.model.named_parameters())
        see = {f"see.{n}": w for n, w in self.see.named_parameters()}
        know = {f"know.{n}": w for n, w in self.know.named_parameters()}
        tower = {n: w for n, w in named.items() if "visual" in n} | see
        rest = {n: w for n, w in named.items() if "visual" not in n} | know
        return {"tower": tower, "rest": rest}

    def state_dict(self) -> dict[str, Any]:
        weights = {"model": self.model.state_dict(), "see": self.see.state_dict(), "know": self.know.state_dict()}
        return weights | {"half": self._half}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.see.load_state_dict(state["see"])
        self.know.load_state_dict(state["know"])
        self._half = state.get("half", self._half)  # another format would come to other weights

    def loss(self, step: int, b: Batch) -> tuple[Tensor, Found]:
        settings = self.settings
        with self._autocast(), torch.set_grad_enabled(self.tower_learns):
            tokens = self._see_image(b.images)
        if step < settings.vision_steps:
            return self._recall_loss(tokens, b) if self._teacher else vision_loss(self.see, tokens, b)
        with self._autocast():
            text, hidden, scores = self._read(tokens, b.packed, tuple({0, 1, TAP}), self._supervised)
        # Positions first: the attention's supervision competes with them.
        grown = 1.0 if settings.init else min(1.0, (step - settings.vision_steps) / max(1, 0.1 * settings.joint_steps))
        more, found = self._language_loss(text, hidden, scores, b, look=0.1 + 0.9 * grown)
        if not self.tower_learns:
            return more, found
        loss, seen = vision_loss(self.see, tokens.detach() if step < settings.settle else tokens, b)
        return more + 0.5 * loss, seen | found

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._half)

    def _recall_loss(self, tokens: Tensor, b: Batch) -> tuple[Tensor, Found]:
        """The tower is to say what it said by its former rope base, which the language model understands; the heads
        learn to read it meanwhile."""
        assert self._teacher is not None
        with self._autocast(), torch.no_grad():
            wanted = self._teacher(b.images).float()
        missed = F.mse_loss(tokens.float(), wanted) / wanted.var()
        loss, seen = vision_loss(self.see, tokens.detach(), b)
        return missed + loss, seen | {"recall": missed}

    def _language_loss(self, text: Tensor, hidden: Any, scores: Any, b: Batch, look: float) -> tuple[Tensor, Found]:
        embedding = self.model.model.language_model.embed_tokens.weight
        loss, found = text_loss(text, embedding, b)
        missed, looked = look_loss(scores, self._language, b)
        loss = loss + look * missed
        if self.settings.init:
            return loss, found | looked
        losses, known = knowledge_losses(self.know, hidden, embedding, b)
        for one in losses:
            loss = loss + one
        return loss, found | looked | known


def _chosen_together(mine: bool) -> bool:
    """What the first process has chosen: on a busy machine a clock says this to one and that to another."""
    if not dist.is_initialized():
        return mine
    choice = torch.tensor([mine], dtype=torch.uint8)
    dist.broadcast(choice, 0)
    return bool(choice.item())


def _half_is_faster() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32: up to eight times with AMX, slower without."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(4096, 256, dtype=dtype), torch.ones(256, 768, dtype=dtype)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.bfloat16) < 0.8 * seconds(torch.float32)
