"""What goes wrong quietly: checked before a run and during it, so that a bad one stops early, with a reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.finetune.configuration import Configuration, ConfigurationError, main_process
from training.finetune.step_back import WATCHED
from training.finetune.stopping import sampling, stop
from training.finetune.validate import answer, answering, profile_of, with_image_part
from training.rewards import spread

SAMPLES = 16  # of a prompt before a run, at most


def check_inputs(c: Configuration, processor: Any, tokens: int, rows: Any) -> int:
    """What the model will be given, for the first rows: image tokens, padding, positions, length.

    tokens: of one image, as the square says. Returns the longest prompt in tokens. Raises ConfigurationError.
    """
    tokenizer = processor.tokenizer
    if tokenizer.padding_side != "left":
        raise ConfigurationError(f"{c.name}: prompts must be padded on the left; the tokenizer pads on the right")
    longest = 0
    for n in range(min(4, len(rows))):
        row = rows[n]
        text = processor.apply_chat_template(
            [with_image_part(row["prompt"])], add_generation_prompt=True, tokenize=False
        )
        given = processor(images=[[row["image"]]], text=text, return_tensors="pt")
        ids = given["input_ids"][0]
        found = int((ids == processor.image_token_id).sum())
        if found != tokens:
            raise ConfigurationError(
                f"{c.name}: row {row['id']} has {found} image tokens; a square of {c.data.square} has {tokens}"
            )
        if int((given["mm_token_type_ids"][0] == 1).sum()) != tokens:
            raise ConfigurationError(f"{c.name}: mm_token_type_ids do not mark the {tokens} image tokens")
        longest = max(longest, len(ids))
    return longest


def describe_spread(trainer: Any, c: Configuration, rows: Any, needs: dict[str, Any]) -> str:
    """The start model's rewards on groups of sampled answers, as a table with warnings."""
    part = [rows[n] for n in range(min(c.watch.spread_prompts, len(rows)))]
    with sampling(), answering(trainer) as model:
        said = answer(
            model,
            trainer.processing_class,
            part,
            tokens=c.completion,
            batch=c.batch.evaluation,
            sampled=min(SAMPLES, max(2, c.generations)),
        )
    columns: dict[str, Any] = dict(needs)
    if "masks" in part[0]:
        import numpy as np

        columns |= {"masks": [r["masks"] for r in part], "images": [np.asarray(r["image"]) for r in part]}
    groups = [[s.text for s in group] for group in said]
    found = spread.spreads(profile_of(c), groups, [row["solution"] for row in part], **columns)
    cut = sum(not s.finished for group in said for s in group) / sum(map(len, said))
    return f"rewards of the start model on {len(part)} prompts x {len(said[0])} samples, {cut:.0%} cut off\n" + (
        spread.table(found)
    )


class Watch(TrainerCallback):
    """Stops a run whose numbers have been beyond a limit for `patience` logs. Counts start anew when it is resumed."""

    def __init__(self, c: Configuration, before: Callable[[], str] | None = None) -> None:
        self.c, self.before = c, before
        self.beyond: dict[str, int] = {}
        self.reason = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.before is not None and state.global_step == 0:
            text = self.before()  # every process, since together they hold the model
            if main_process():
                print(text, flush=True)
                (Path(self.c.out) / "spread.txt").write_text(text + "\n", encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        reason = self.judge(logs or {})
        if reason and not self.reason:
            self.reason = reason
            control.should_training_stop = True
            stop(Path(self.c.out), state.global_step, reason)

    def judge(self, logs: dict[str, Any]) -> str:
        """A reason to stop now, or an empty text."""
        for key in WATCHED:
            if isinstance(logs.get(key), float) and not math.isfinite(logs[key]):
                return f"{key} is {logs[key]}"
        w = self.c.watch
        limits = [
            ("frac_reward_zero_std", w.zero_spread, 1, "of the groups have no spread of rewards: nothing is learnt"),
            ("kl", w.kl, 1, "nats per token from the start model: the policy has left it"),
            ("completions/clipped_ratio", w.truncated, 1, "of the answers are cut off"),
            ("completions/mean_length", w.length, -1, "tokens per answer: it has stopped writing"),
            (f"rewards/{w.format_term}/mean", w.format_rate, -1, "is the mean of the format's reward"),
        ]
        for key, limit, sign, what in limits:
            value = logs.get(key)
            if limit is None or not isinstance(value, (int, float)):
                continue
            self.beyond[key] = self.beyond.get(key, 0) + 1 if sign * (value - limit) > 0 else 0
            if self.beyond[key] >= w.patience:
                return f"{value:.3g} {what} ({key}; limit {limit:g}, for {w.patience} logs)"
        return ""
