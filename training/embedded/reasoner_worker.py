"""One process of a training run of the embedded reasoner: its batches, its steps, and what it leaves on disk."""

from __future__ import annotations

import json
import math
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import AutoTokenizer

from training.data.tabletop import heard_wordings
from training.data.tabletop.questions import WORDS
from training.data.tabletop.store import Scenes
from training.embedded import validation_questions
from training.embedded.batch import Batch, Draw, Instructions, Writer, make_batch
from training.embedded.prefetch import made_ahead
from training.embedded.pretraining import pretraining
from training.embedded.reasoner import export, rope_base
from training.embedded.reasoner_learner import Learner, dimensions
from training.embedded.reasoner_optimisers import Optimisers
from training.embedded.reasoner_settings import Settings
from training.embedded.run_files import note, read_state, save_state
from training.embedded.tokenizer import save_tokenizer
from training.embedded.unheard import IDLE

LOG_EVERY = 20  # steps
VALIDATED = 120  # images of `val`, at most


def run_worker(settings: Settings, rank: int) -> None:
    """To the last step, or to `stop_after`. Rank 0 writes the log, the state and the model."""
    torch.set_num_threads(1)
    if settings.workers > 1:
        dist.init_process_group("gloo", rank=rank, world_size=settings.workers)
    draw, more_words = _course(settings)
    out = Path(settings.out)
    tokenizer = _tokenizer(settings, rank, more_words)
    if rank == 0:
        _tell_other_rope_base(settings)
    learner = Learner(settings, tokenizer)
    optimisers = Optimisers(settings, learner.groups(), learner.tower_learns)
    scenes = Scenes(Path(settings.data) / "train", limit=settings.limit or None)
    writer = Writer(tokenizer)
    validation = _Validation(settings, tokenizer, writer, draw)
    start, total = 0, settings.vision_steps + settings.joint_steps
    if state := read_state(out / "state.pt"):
        learner.load_state_dict(state)
        optimisers.load_state_dict(state)
        start = int(state["step"])

    def batch_at(step: int) -> Batch:
        """A step's batch depends on seed, step and rank alone, so a continued run sees what it would have seen."""
        rng = np.random.default_rng([settings.seed, step, rank])
        indices = rng.choice(len(scenes), settings.images, replace=False)
        length = settings.length if step >= settings.vision_steps else 1
        return make_batch(scenes, np.sort(indices), rng, writer, draw, length=length)

    bar = tqdm(total=total, initial=start, desc="reasoner", unit="step", disable=rank != 0, mininterval=5)
    smooth: dict[str, float] = {}
    began = last = time.monotonic()
    with bar, closing(made_ahead(batch_at, range(start, total))) as batches:
        for step, b in enumerate(batches, start):
            if step == settings.vision_steps:
                smooth.clear()  # other losses begin
            loss, seen = learner.loss(step, b)
            loss.backward()
            optimisers.step(step)
            for name, x in (seen | {"loss": loss}).items():
                x = x.detach()
                if not math.isnan(float(x)):
                    smooth[name] = 0.95 * smooth.get(name, float(x)) + 0.05 * float(x)
            bar.update()
            done = step + 1
            if rank == 0:
                if done % LOG_EVERY == 0:
                    shown = {k: round(v, 3) for k, v in smooth.items()}
                    now = time.monotonic()
                    times = {"seconds": round(now - began, 1), "step_seconds": round((now - last) / LOG_EVERY, 2)}
                    note(out / "log.jsonl", {"step": done, **times, **shown})
                    last = now
                    bar.set_postfix_str(" ".join(f"{k}={v}" for k, v in list(shown.items())[-7:]))
                if done % settings.validate_every == 0 or done == total:
                    note(out / "log.jsonl", {"step": done, "validation": validation.figures(learner, step)})
                    last = time.monotonic()
                if settings.export_every and done % settings.export_every == 0:
                    export(learner.model, tokenizer, out / f"model-{done:05d}")
                if done % settings.save_every == 0 or done == total:
                    state = learner.state_dict() | {"step": done} | optimisers.state_dict()
                    save_state(out / "state.pt", state)
                    if done > settings.vision_steps:
                        export(learner.model, tokenizer, out / "model")
            if done == settings.stop_after:
                break
    if rank == 0:
        (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    if settings.workers > 1:
        dist.destroy_process_group()


def _course(settings: Settings) -> tuple[Draw, str]:
    """What is asked, and the words that the tokenizer needs for it beside its own."""
    if settings.course == "experiment":
        return pretraining(settings.think), WORDS
    draw = Instructions(
        settings.absent, tuple(settings.kinds), settings.reworded, settings.unheard, settings.understood
    )
    return draw, " ".join(sorted(heard_wordings.TRAINING.texts() | {IDLE}))


def _tokenizer(settings: Settings, rank: int, more_words: str) -> Any:
    folder = Path(settings.out) / "tokenizer"
    if rank == 0:
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_tokenizer(folder, more_words)
    if settings.workers > 1:
        dist.barrier()
    return AutoTokenizer.from_pretrained(folder)


def _tell_other_rope_base(settings: Settings) -> None:
    if settings.init and (other := rope_base(settings.init)) != (ours := dimensions(settings).vision_rope_base):
        print(f"{settings.init}: vision rope base {other:g}; it goes on with {ours:g}", flush=True)


class _Validation:
    """The same images and questions of `val` every time."""

    def __init__(self, settings: Settings, tokenizer: Any, writer: Writer, draw: Draw) -> None:
        self.settings, self.tokenizer, self.writer, self.draw = settings, tokenizer, writer, draw
        self.scenes = Scenes(Path(settings.data) / "val", limit=512)
        # The experiment's course has prompts of its own.
        self.questions = validation_questions.draw(
            self.scenes, settings.asked if settings.course == "instructions" else 0
        )

    @torch.no_grad()
    def figures(self, learner: Learner, step: int) -> dict[str, float]:
        """Mean losses, and how many of the whole answers are right."""
        rng = np.random.default_rng(self.settings.seed)
        sums: dict[str, float] = {}
        count, length = self.settings.images, self.settings.length
        last = min(VALIDATED, len(self.scenes)) - count
        parts = [np.arange(i, i + count) for i in range(0, last + 1, count)]
        for part in parts:
            b = make_batch(self.scenes, part, rng, self.writer, self.draw, length=length, augment=False)
            loss, seen = learner.loss(step, b)
            for name, x in (seen | {"loss": loss}).items():
                sums[name] = sums.get(name, 0.0) + float(x) / len(parts)
        means = {n: round(x, 4) for n, x in sums.items()}
        return means | validation_questions.accuracies(learner.model, self.tokenizer, self.questions)
